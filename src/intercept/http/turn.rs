//! How much of an HTTP/2 connection runs in one turn of its task: so many steps of what is on its streams.
//!
//! It counts, and nothing else; who polls what is the connection's affair.
//!
//! - `INVARIANT`: in one turn at most [`limits::STREAM_STEPS`] are polled, so that a connection with many streams takes
//!   no longer than others (`workers::lane`). The rest wakes the task for another turn.
//! - `INVARIANT`: in the last turn, at a connection's end, all that can go on does.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use crate::limits;

/// How many steps are left of a turn.
#[derive(Debug, Clone, Default)]
pub(super) struct Turn(Arc<AtomicUsize>);

impl Turn {
    /// Begins a turn.
    pub(super) fn begin(&self) {
        self.0.store(limits::STREAM_STEPS, Ordering::Relaxed);
    }

    /// Begins one after which there is none.
    pub(super) fn begin_last(&self) {
        self.0.store(usize::MAX, Ordering::Relaxed);
    }

    /// The same future, which is polled only while steps are left.
    pub(super) async fn bound<F: Future>(self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let left = self.0.load(Ordering::Relaxed);
            let Some(fewer) = left.checked_sub(1) else {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            };
            self.0.store(fewer, Ordering::Relaxed);
            future.as_mut().poll(cx)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Context;

    use futures_util::stream::{FuturesUnordered, StreamExt};
    use futures_util::task::noop_waker_ref;

    use super::*;

    const ALL: usize = 3 * limits::STREAM_STEPS;

    /// Streams that all have something to do, once.
    fn streams(turn: &Turn) -> FuturesUnordered<Pin<Box<impl Future<Output = ()>>>> {
        (0..ALL).map(|_| Box::pin(turn.clone().bound(async {}))).collect()
    }

    /// How many end in a turn.
    fn ended(streams: &mut FuturesUnordered<Pin<Box<impl Future<Output = ()>>>>) -> usize {
        let cx = &mut Context::from_waker(noop_waker_ref());
        let next = || matches!(streams.poll_next_unpin(cx), Poll::Ready(Some(()))).then_some(());
        std::iter::from_fn(next).count()
    }

    #[test]
    fn a_turn_has_so_many_steps_and_the_rest_comes_in_the_next_ones() {
        let turn = Turn::default();
        let mut streams = streams(&turn);
        for done in 1..=3 {
            turn.begin();
            assert_eq!(ended(&mut streams), limits::STREAM_STEPS);
            assert_eq!(streams.len(), ALL - done * limits::STREAM_STEPS);
        }
    }

    #[test]
    fn the_last_turn_has_as_many_as_there_are() {
        let turn = Turn::default();
        let mut streams = streams(&turn);
        turn.begin_last();
        assert_eq!(ended(&mut streams), ALL);
    }
}
