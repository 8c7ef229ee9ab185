//! What is left to be sent on the streams of an HTTP/2 connection, run by the task of that connection.
//!
//! On threads of the runtime, each would be woken, run and written by itself. Within one task, all that one read has
//! brought runs before the connection sends what it and they have written ([`Gate`]), so that what comes together goes
//! on together; and nothing of a connection outlives it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::task::AtomicWaker;
use tokio::io::AsyncWrite;

use super::gather::Gate;
use super::turn::Turn;

type Spawned = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes what is spawned, for the [`Local`] that it belongs to.
#[derive(Clone)]
pub(super) struct Spawner(Arc<Yard>);

struct Yard {
    /// What its connection has not taken over; `None` once that is gone, for what waits here may hold this.
    spawned: Mutex<Option<Vec<Spawned>>>,
    task: AtomicWaker,
    turn: Turn,
}

impl Default for Spawner {
    fn default() -> Self {
        let (spawned, task, turn) = (Mutex::new(Some(Vec::new())), AtomicWaker::new(), Turn::default());
        Self(Arc::new(Yard { spawned, task, turn }))
    }
}

impl Spawner {
    /// Has it run by the connection's task, whoever asks; drops it where there is none any more.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let bound = Box::pin(self.0.turn.clone().bound(future));
        // Not dropped under the lock: what it holds may spawn in turn.
        let refused = match &mut *self.spawned() {
            Some(spawned) => {
                spawned.push(bound);
                None
            }
            None => Some(bound),
        };
        drop(refused);
        self.0.task.wake();
    }

    /// What was spawned since it was last asked.
    fn take(&self) -> Vec<Spawned> {
        self.spawned().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The same, the last time.
    fn close(&self) -> Option<Vec<Spawned>> {
        self.spawned().take()
    }

    fn spawned(&self) -> MutexGuard<'_, Option<Vec<Spawned>>> {
        self.0.spawned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection and what it has spawned. It ends with the connection, and drops what then still runs.
pub(super) struct Local<C, Io> {
    connection: Pin<Box<C>>,
    gate: Gate<Io>,
    spawner: Spawner,
    running: FuturesUnordered<Spawned>,
}

impl<C: Future, Io: AsyncWrite + Unpin> Local<C, Io> {
    /// A connection that writes behind `gate`, and for which `spawner` takes what is spawned.
    pub(super) fn new(connection: C, gate: Gate<Io>, spawner: Spawner) -> Self {
        Self { connection: Box::pin(connection), gate, spawner, running: FuturesUnordered::new() }
    }
}

impl<C: Future, Io: AsyncWrite + Unpin> Future for Local<C, Io> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        this.spawner.0.task.register(cx.waker());
        if let Poll::Ready(ended) = this.connection.as_mut().poll(cx) {
            // What came whole before the end is still passed on.
            this.running.extend(this.spawner.take());
            this.spawner.0.turn.begin_last();
            while let Poll::Ready(Some(())) = this.running.poll_next_unpin(cx) {}
            // And sent, as far as the peer takes it at once.
            let _ = this.gate.poll_send(cx);
            return Poll::Ready(ended);
        }
        this.running.extend(this.spawner.take());
        this.spawner.0.turn.begin();
        while let Poll::Ready(Some(())) = this.running.poll_next_unpin(cx) {
            // What runs may spawn, too.
            this.running.extend(this.spawner.take());
        }
        // Where the peer does not take it, it wakes this.
        let _ = this.gate.poll_send(cx);
        Poll::Pending
    }
}

impl<C, Io> Drop for Local<C, Io> {
    fn drop(&mut self) {
        drop(self.spawner.close());
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::task::noop_waker_ref;
    use tokio::io::{Empty, empty};

    use super::super::gather::gather;
    use super::*;

    /// A connection that ends when it is first polled, or never.
    fn local(spawner: &Spawner, ends: bool) -> Local<Pin<Box<dyn Future<Output = ()>>>, Empty> {
        let connection: Pin<Box<dyn Future<Output = ()>>> =
            if ends { Box::pin(ready(())) } else { Box::pin(pending()) };
        Local::new(connection, gather(empty()).1, spawner.clone())
    }

    #[test]
    fn what_is_spawned_before_a_connection_ends_still_runs() {
        let (spawner, ran) = (Spawner::default(), Arc::new(Mutex::new(false)));
        let runs = Arc::clone(&ran);
        spawner.spawn(async move { *runs.lock().unwrap() = true });
        let mut local = local(&spawner, true);
        assert!(Pin::new(&mut local).poll(&mut Context::from_waker(noop_waker_ref())).is_ready());
        assert!(*ran.lock().unwrap());
    }

    #[test]
    fn what_is_spawned_holds_nothing_once_its_connection_is_gone() {
        let (spawner, held) = (Spawner::default(), Arc::new(()));
        let spawn = || {
            // As what sends on a stream does, which holds its connection.
            let holds = (spawner.clone(), Arc::clone(&held));
            spawner.spawn(async move {
                pending::<()>().await;
                drop(holds);
            });
        };
        let local = local(&spawner, false);
        spawn();
        drop(local);
        spawn();
        assert_eq!((Arc::strong_count(&held), Arc::strong_count(&spawner.0)), (1, 1));
    }
}
