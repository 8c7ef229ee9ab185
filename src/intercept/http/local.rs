//! What is left to be sent on the streams of an HTTP/2 connection, run by the task of that connection.
//!
//! On threads of the runtime, each would be woken, run and written by itself. Within one task, all that one read has
//! brought runs before the connection sends what it and they have written ([`Gate`]), so that what comes together goes
//! on together; and nothing of a connection outlives it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::task::AtomicWaker;
use tokio::io::AsyncWrite;

use super::gather::Gate;
use super::turn::Turn;

type Spawned = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes what is spawned, for the [`Local`] that it belongs to.
#[derive(Clone, Default)]
pub(super) struct Spawner(Arc<Yard>);

#[derive(Default)]
struct Yard {
    spawned: Mutex<Vec<Spawned>>,
    task: AtomicWaker,
    turn: Turn,
}

impl Spawner {
    /// Has it run by the connection's task, whoever asks.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let bound = Box::pin(self.0.turn.clone().bound(future));
        self.0.spawned.lock().unwrap_or_else(PoisonError::into_inner).push(bound);
        self.0.task.wake();
    }

    /// What was spawned since it was last asked.
    fn take(&self) -> Vec<Spawned> {
        std::mem::take(&mut *self.0.spawned.lock().unwrap_or_else(PoisonError::into_inner))
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
