//! The process before this one, for as long as it has flows: what changes here is ordered there, too.
//!
//! `INVARIANT`: an order returns only when it is carried out there, or that process has no flow any more. One that does
//! not answer in time is killed, and its flows end with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::talk::{Say, Talk};
use super::wire::{Judging, Order, Said, Told};
use crate::cli::data_path::LAST_FLOWS;
use crate::cli::tell;
use crate::control::action::SessionId;
use crate::limits;
use crate::sandbox::quota::Limits;
use crate::sys;

/// How long an answer may take beyond what is waited for there.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// See the module's doc. There may be none.
#[derive(Default)]
pub(in crate::cli::serve) struct Before(Mutex<Option<Arc<Link>>>);

/// A talk with it.
pub(in crate::cli::serve) struct Link {
    say: Say<Said>,
    process: sys::Process,
    orders: AtomicU64,
    /// Who waits for which order; `None` once the talk is over.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<bool>>>>,
    over: watch::Sender<bool>,
}

impl Before {
    /// There is one.
    pub(super) fn begin(&self, link: Arc<Link>) {
        *self.link() = Some(link);
    }

    /// There is none any more.
    pub(super) fn end_of_talk(&self) {
        if let Some(link) = self.link().take() {
            link.lose();
        }
    }

    /// Judges a sandbox's flows there by a document. Whether that is in force for all.
    pub(in crate::cli::serve) async fn replace(&self, session: &SessionId, policy: &str) -> bool {
        let order = || Order::Replace { session: session.clone(), policy: policy.to_owned() };
        self.order(order, limits::SETTLE_TIME + ANSWER_TIME).await
    }

    /// Bounds a sandbox's flows there by what its control plane says.
    pub(in crate::cli::serve) async fn limit(&self, session: &SessionId, limits: Limits) {
        self.order(|| Order::Limit { session: session.clone(), limits }, ANSWER_TIME).await;
    }

    /// Ends a sandbox's flows there.
    pub(in crate::cli::serve) async fn end(&self, session: &SessionId) {
        self.order(|| Order::End { session: session.clone() }, 2 * LAST_FLOWS + ANSWER_TIME).await;
    }

    /// Lets all flows there finish, and waits until that process is gone.
    pub(in crate::cli::serve) async fn drain(&self, within: Duration) {
        let Some(link) = self.link().clone() else { return };
        self.order(|| Order::Drain { seconds: within.as_secs() }, ANSWER_TIME).await;
        let mut over = link.over.subscribe();
        // Its sender is held here.
        let _ = timeout(within + 2 * LAST_FLOWS, over.wait_for(|over| *over)).await;
    }

    /// Ready when there is none any more.
    pub(super) async fn is_gone(&self) {
        let Some(link) = self.link().clone() else { return };
        // Its sender is held here.
        let _ = link.over.subscribe().wait_for(|over| *over).await;
    }

    /// Judges all flows there by other settings. Whether that is in force for all.
    pub(in crate::cli::serve) async fn judge_by(&self, judging: &Judging) -> bool {
        self.order(|| Order::Judge(judging.clone()), limits::SETTLE_TIME + ANSWER_TIME).await
    }

    /// Whether it is in force there for all that is open; where nothing is, it is.
    async fn order(&self, order: impl FnOnce() -> Order, within: Duration) -> bool {
        let Some(link) = self.link().clone() else { return true };
        let Some((number, answer)) = link.expect() else { return true };
        link.say.soon(Said::Order { number, order: order() });
        match timeout(within, answer).await {
            Ok(answer) => answer.unwrap_or(true),
            Err(_) => {
                tell("exeat: the process before this one does not answer, so it is ended, and its flows with it\n");
                // It fails only for one that has ended.
                let _ = link.process.kill();
                self.end_of_talk();
                true
            }
        }
    }

    fn link(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    pub(super) fn new(talk: &Talk<Said, Told>, process: sys::Process) -> Self {
        Self {
            say: talk.say.clone(),
            process,
            orders: AtomicU64::new(0),
            waiting: Mutex::new(Some(HashMap::new())),
            over: watch::Sender::new(false),
        }
    }

    /// An order was carried out.
    pub(super) fn done(&self, order: u64, in_force: bool) {
        let waiting = self.waiting().as_mut().and_then(|waiting| waiting.remove(&order));
        // Who asked may have gone.
        let _ = waiting.map(|waiting| waiting.send(in_force));
    }

    /// A number for an order, and its answer, unless the talk is over.
    fn expect(&self) -> Option<(u64, oneshot::Receiver<bool>)> {
        let (done, answer) = oneshot::channel();
        let number = self.orders.fetch_add(1, Ordering::Relaxed);
        self.waiting().as_mut()?.insert(number, done);
        Some((number, answer))
    }

    fn lose(&self) {
        *self.waiting() = None;
        self.over.send_replace(true);
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<bool>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
