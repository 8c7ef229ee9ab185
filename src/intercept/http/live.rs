//! Requests that are in flight, so that a change of policy reaches them (POLICY §8).
//!
//! Each is kept by what it was judged by. It never judges; it holds what is judged again, and passes the word.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;

use crate::policy::verdict::Target;
use crate::sandbox::Changes;

use super::Asked;
use super::payload::Cut;

/// A request in flight: lives as long as its handler or one of its bodies.
pub(super) struct Live {
    /// What it was judged by.
    pub(super) asked: Arc<Asked>,
    /// Where it went.
    pub(super) target: Target,
    /// Who pushes a policy waits until this request is over, or was judged by it.
    pub(super) changes: Changes,
    cut: watch::Sender<bool>,
}

impl Live {
    /// Ends the request.
    pub(super) fn end(&self) {
        self.cut.send_replace(true);
    }

    /// Ready once the request has been ended.
    pub(super) fn cut(&self) -> Cut {
        let mut cut = self.cut.subscribe();
        Box::pin(async move {
            if cut.wait_for(|cut| *cut).await.is_err() {
                // Nobody is left who could end it.
                pending::<()>().await;
            }
        })
    }
}

/// The requests of one connection that are in flight.
#[derive(Default)]
pub(super) struct Register(Mutex<Vec<Weak<Live>>>);

impl Register {
    /// Takes a request in.
    pub(super) fn add(&self, asked: Arc<Asked>, target: Target, changes: Changes) -> Arc<Live> {
        let live = Arc::new(Live { asked, target, changes, cut: watch::Sender::new(false) });
        let mut register = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        register.retain(|other| other.strong_count() > 0);
        register.push(Arc::downgrade(&live));
        live
    }

    /// Those that are still in flight.
    pub(super) fn all(&self) -> Vec<Arc<Live>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }
}
