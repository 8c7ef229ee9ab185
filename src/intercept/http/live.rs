//! Requests that are in flight, so that a change of policy reaches them (POLICY §8).
//!
//! Each is kept by what it was judged by. It never judges; it holds what is judged again, and passes the word.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::flow::SecretName;
use crate::policy::verdict::{ForwardUrl, Permit, Target};
use crate::sandbox::Changes;

use super::Asked;

/// Where a request may go: to whom, whether as it is or by a `forwardURL`, and with what in its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    target: Target,
    url: Option<Arc<ForwardUrl>>,
    /// The secrets that may still be put into its body.
    in_body: Vec<SecretName>,
}

impl Way {
    /// Under a permit, by a URL if there is one.
    pub(super) fn of(permit: &Permit, url: Option<&Arc<ForwardUrl>>) -> Self {
        Self { target: permit.target().clone(), url: url.cloned(), in_body: permit.in_body().cloned().collect() }
    }
}

/// A request in flight: lives as long as its handler or one of its bodies.
pub(super) struct Live {
    /// What it was judged by.
    pub(super) asked: Arc<Asked>,
    /// Where it went.
    pub(super) way: Way,
    /// Who pushes a policy waits until this request is over, or was judged by it.
    pub(super) changes: Changes,
    cut: AtomicBool,
    /// Who waits for it, by [`Waiter`].
    waiters: [AtomicWaker; 3],
}

/// Who may wait for the end of a request; one of each.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waiter {
    /// Its handler, and what follows in its place.
    Handler,
    /// The body that goes upstream.
    Sent,
    /// The body that comes back.
    Answered,
}

impl Live {
    /// Ends the request.
    pub(super) fn end(&self) {
        self.cut.store(true, Ordering::Release);
        self.waiters.iter().for_each(AtomicWaker::wake);
    }

    /// Ready once the request has been ended. It keeps the request in flight.
    pub(super) fn cut(self: &Arc<Self>, waiter: Waiter) -> Cut {
        Cut { live: Arc::clone(self), waiter }
    }
}

/// Whoever awaits this learns that the request is revoked.
pub(super) struct Cut {
    live: Arc<Live>,
    waiter: Waiter,
}

impl Future for Cut {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Live { cut, waiters: [handler, sent, answered], .. } = &*self.live;
        let waker = match self.waiter {
            Waiter::Handler => handler,
            Waiter::Sent => sent,
            Waiter::Answered => answered,
        };
        waker.register(cx.waker());
        // Looked at after registering: whoever ends it from here on wakes this.
        if cut.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The requests of one connection that are in flight.
#[derive(Default)]
pub(super) struct Register(Mutex<Vec<Weak<Live>>>);

impl Register {
    /// Takes a request in.
    pub(super) fn add(&self, asked: Arc<Asked>, way: Way, changes: Changes) -> Arc<Live> {
        let (cut, waiters) = (AtomicBool::new(false), Default::default());
        let live = Arc::new(Live { asked, way, changes, cut, waiters });
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
