//! What one sandbox has to do on one thread, and its share of the thread's time.
//!
//! A runtime by itself goes round its tasks: a sandbox has as many turns as it has flows, and long ones for bulk. Here
//! the flows of a sandbox and its upstream connections are one lane (dials, which mostly wait, run beside it), which
//! does their steps one by one. Whoever has had [`ROUND`] of the thread's time lets the others have theirs, and the
//! runtime look for what has come meanwhile, before it goes on; a step that took longer is paid for with as many
//! rounds, up to [`MOST_DEBT`].
//!
//! So what a lane waits for another is a round of it, whatever it does and however much of that, and one step: no step
//! is broken off. Where nobody else has anything to do, a round is over at once. It is over after sixty-one polls in
//! any case, for then the runtime looks: where more lanes than that have something to do all the time, one of long
//! steps has more than its share, and the others wait no longer for it.
//!
//! It owns the order in which tasks are polled, and the tasks, until they end; what they do is their own affair.
//!
//! - `INVARIANT`: in one turn one task is polled, once; those that wait for a turn have it in the order in which they
//!   were woken.
//! - `INVARIANT`: a task that is woken while it is polled is polled again.
//! - `INVARIANT`: a task that panics ends alone.
//! - `INVARIANT`: nothing of a lane outlives its [`Turns`]: whatever is left is dropped with them, and what comes later
//!   at once, unpolled.
//! - `INVARIANT`: no lock of a lane is held while a task is polled or dropped.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use slab::Slab;
use tokio::task::yield_now;
use tokio::time::Instant;

/// The thread's time that a lane has before it is the others' turn. Looking for what has come, which ends each round,
/// is a two-hundredth of it.
const ROUND: Duration = Duration::from_micros(200);
/// What is not paid for beyond this is forgiven: the clock runs on while the machine does something else.
const MOST_DEBT: Duration = ROUND.saturating_mul(32);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes tasks; copies of it are the same lane.
#[derive(Clone)]
pub(in crate::intercept) struct Lane(Arc<Shared>);

/// A lane's turns: to be polled by the runtime of its thread. Never ready.
pub(super) struct Turns {
    lane: Arc<Shared>,
    /// The thread's time that was had, less the rounds that were sat out for it, and less the time that was not wanted.
    debt: Duration,
    /// Since when nothing is to be done, where there is a debt.
    idle: Option<Instant>,
}

/// A task of a lane, which ends when this is dropped: if it is not being polled, on this thread, before that returns.
#[must_use = "dropping it ends the task"]
pub(in crate::intercept) struct Task(Option<Arc<Ticket>>);

struct Shared {
    state: Mutex<State>,
    /// Who polls the turns, while nothing is to be done.
    thread: AtomicWaker,
}

#[derive(Default)]
struct State {
    tasks: Slab<Entry>,
    waiting: VecDeque<Arc<Ticket>>,
    over: bool,
}

struct Entry {
    /// Not here while it is being polled.
    work: Option<Work>,
    ticket: Arc<Ticket>,
}

/// Wakes one task.
struct Ticket {
    key: usize,
    /// Whether it waits for a turn.
    waits: AtomicBool,
    lane: Arc<Shared>,
}

/// A lane, and its turns.
#[must_use]
pub(super) fn lane() -> (Lane, Turns) {
    let shared = Arc::new(Shared { state: Mutex::default(), thread: AtomicWaker::new() });
    (Lane(Arc::clone(&shared)), Turns { lane: shared, debt: Duration::ZERO, idle: None })
}

impl Lane {
    /// Has it run, from a turn to come on.
    pub(in crate::intercept) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> Task {
        let work = Box::pin(work);
        let mut state = self.0.state();
        if state.over {
            // Not under the lock: what is dropped may end, or wake, other tasks.
            drop(state);
            return Task(None);
        }
        let entry = state.tasks.vacant_entry();
        let ticket = Arc::new(Ticket { key: entry.key(), waits: AtomicBool::new(true), lane: Arc::clone(&self.0) });
        entry.insert(Entry { work: Some(work), ticket: Arc::clone(&ticket) });
        state.waiting.push_back(Arc::clone(&ticket));
        drop(state);
        self.0.thread.wake();
        Task(Some(ticket))
    }
}

impl Task {
    /// Lets it run until it ends by itself.
    pub(in crate::intercept) fn detach(mut self) {
        self.0 = None;
    }

    /// Ends it, on the lane's own thread.
    pub(in crate::intercept) fn end(self) {
        if let Some(ticket) = &self.0 {
            Lane(Arc::clone(&ticket.lane)).spawn(async { drop(self) }).detach();
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub(in crate::intercept) fn is_over(&self) -> bool {
        self.0.as_ref().is_none_or(|ticket| !ticket.lane.state().holds(ticket))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(ticket) = self.0.take() {
            let ended = ticket.lane.state().remove(&ticket);
            drop(ended);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the ticket is of a task that is there. Keys are given again, tickets are not.
    fn holds(&self, ticket: &Arc<Ticket>) -> bool {
        self.tasks.get(ticket.key).is_some_and(|entry| Arc::ptr_eq(&entry.ticket, ticket))
    }

    fn remove(&mut self, ticket: &Arc<Ticket>) -> Option<Entry> {
        self.holds(ticket).then(|| self.tasks.remove(ticket.key))
    }

    /// The next task that is to be polled.
    fn next(&mut self) -> Option<(Arc<Ticket>, Work)> {
        loop {
            let ticket = self.waiting.pop_front()?;
            if self.holds(&ticket)
                && let Some(work) = self.tasks.get_mut(ticket.key).and_then(|entry| entry.work.take())
            {
                return Some((ticket, work));
            }
        }
    }
}

impl Wake for Ticket {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.waits.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut state = self.lane.state();
        // A waker may be kept for longer than its task lives.
        if state.holds(self) {
            state.waiting.push_back(Arc::clone(self));
            drop(state);
            self.lane.thread.wake();
        }
    }
}

impl Turns {
    /// Sits out a round: the runtime comes back when it has polled whoever else was woken, and has looked for more.
    fn sit_out(&mut self, cx: &mut Context<'_>) {
        self.debt = self.debt.saturating_sub(ROUND);
        let _ = pin!(yield_now()).poll(cx);
    }

    /// Polls one task; whether there is one that waits.
    fn step(&mut self) -> bool {
        let Some((ticket, mut work)) = self.lane.state().next() else { return false };
        let begun = Instant::now();
        // From here on, to be woken is to have another turn; what was told before is seen in this one.
        ticket.waits.swap(false, Ordering::AcqRel);
        let waker = Waker::from(Arc::clone(&ticket));
        let poll = || work.as_mut().poll(&mut Context::from_waker(&waker));
        // The panic was reported as any is; its task is dropped with all that it holds.
        let goes_on = catch_unwind(AssertUnwindSafe(poll)).is_ok_and(|polled| polled.is_pending());
        let mut state = self.lane.state();
        let ended = if goes_on && state.holds(&ticket) {
            if let Some(entry) = state.tasks.get_mut(ticket.key) {
                entry.work = Some(work);
            }
            None
        } else {
            Some((state.remove(&ticket), work))
        };
        let waits = !state.waiting.is_empty();
        drop(state);
        // As above.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(ended)));
        self.debt = MOST_DEBT.min(self.debt + begun.elapsed());
        waits
    }
}

impl Future for Turns {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(since) = self.idle.take() {
            self.debt = self.debt.saturating_sub(since.elapsed());
        }
        if self.debt < ROUND && !self.step() {
            self.idle = (self.debt >= ROUND).then(Instant::now);
            // Only while nothing is to be done has whoever comes to wake the thread: it would cut a round short.
            self.lane.thread.register(cx.waker());
            if self.lane.state().waiting.is_empty() {
                return Poll::Pending;
            }
        }
        if self.debt < ROUND {
            cx.waker().wake_by_ref();
        } else {
            self.sit_out(cx);
        }
        Poll::Pending
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        let mut state = self.lane.state();
        state.over = true;
        let left = (std::mem::take(&mut state.tasks), std::mem::take(&mut state.waiting));
        drop(state);
        drop(left);
    }
}
