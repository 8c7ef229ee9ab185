//! Threads that carry flows: each flow stays on one of them, from its first byte to its last.
//!
//! A scheduler that hands tasks to whichever thread is free pays for it with every request: what one core has at hand
//! the other must fetch, and memory is freed where it was not allocated. Here each thread has a runtime of its own, and
//! what a flow needs beside itself, its upstream connections, is opened, kept and used on the same thread.
//!
//! It chooses the thread and nothing else: where the fewest flows are. One that had much to do would not be helped by
//! its neighbour, so there is nothing in a flow that takes long without waiting.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Where flows are carried: on threads of their own, or, by default, by the runtime that takes them.
#[derive(Debug, Clone, Default)]
pub struct Workers(Option<Arc<Threads>>);

#[derive(Debug)]
struct Threads {
    threads: Vec<Thread>,
    /// Each thread ends when this is gone.
    _lasting: watch::Sender<()>,
}

#[derive(Debug)]
struct Thread {
    handle: Handle,
    /// How many are carried there.
    flows: AtomicUsize,
}

impl Workers {
    /// So many threads, which last as long as the value and its copies.
    ///
    /// # Errors
    /// The kernel gives no thread, or nothing to wait with.
    pub fn start(count: usize) -> io::Result<Self> {
        let lasting = watch::Sender::new(());
        let thread = |number| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (handle, mut ended) = (runtime.handle().clone(), lasting.subscribe());
            let carry = move || {
                // Nothing is ever said: it fails when all is over.
                let _ = runtime.block_on(ended.changed());
            };
            std::thread::Builder::new().name(format!("flows-{number}")).spawn(carry)?;
            Ok(Thread { handle, flows: AtomicUsize::new(0) })
        };
        let threads = (0..count).map(thread).collect::<io::Result<Vec<_>>>()?;
        Ok(Self(Some(Arc::new(Threads { threads, _lasting: lasting }))))
    }

    /// Between how many threads flows are told apart.
    pub(super) fn count(&self) -> usize {
        self.0.as_ref().map_or(1, |threads| threads.threads.len())
    }

    /// A place for one more flow.
    pub(super) fn seat(&self) -> Seat {
        let threads = self.0.iter().flat_map(|threads| &threads.threads).enumerate();
        let freest = threads.min_by_key(|(_, thread)| thread.flows.load(Ordering::Relaxed));
        if let Some((_, thread)) = freest {
            thread.flows.fetch_add(1, Ordering::Relaxed);
        }
        Seat { number: freest.map_or(0, |(number, _)| number), workers: self.clone() }
    }
}

/// A flow's place on one thread; free again when it is dropped.
pub(super) struct Seat {
    number: usize,
    workers: Workers,
}

impl Seat {
    /// Which thread it is.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Carries a flow there.
    pub(super) fn carry(self, flows: &mut JoinSet<()>, flow: impl Future<Output = ()> + Send + 'static) {
        let handle = self.thread().map(|thread| thread.handle.clone());
        let seated = async move {
            flow.await;
            drop(self);
        };
        match handle {
            Some(handle) => flows.spawn_on(seated, &handle),
            None => flows.spawn(seated),
        };
    }

    fn thread(&self) -> Option<&Thread> {
        self.workers.0.as_ref()?.threads.get(self.number)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(thread) = self.thread() {
            thread.flows.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn flows_are_spread_and_each_stays_where_it_is() {
        let workers = Workers::start(2).unwrap();
        let mut flows = JoinSet::new();
        let carry = |flows: &mut JoinSet<()>| {
            let (seat, (told, name), (end, ended)) = (workers.seat(), oneshot::channel(), oneshot::channel::<()>());
            let number = seat.number();
            seat.carry(flows, async move {
                let begun = thread::current().id();
                told.send(thread::current().name().map(str::to_owned)).unwrap();
                ended.await.unwrap();
                assert_eq!(thread::current().id(), begun);
            });
            (number, name, end)
        };
        let all: Vec<_> = (0..4).map(|_| carry(&mut flows)).collect();
        assert_eq!(all.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), [0, 1, 0, 1]);
        for (number, name, end) in all {
            assert_eq!(name.await.unwrap(), Some(format!("flows-{number}")));
            end.send(()).unwrap();
        }
        while let Some(ended) = flows.join_next().await {
            ended.unwrap();
        }
        assert_eq!(workers.seat().number(), 0, "all seats are free again");
        assert_eq!(workers.count(), 2);
    }

    #[tokio::test]
    async fn without_threads_whoever_takes_flows_carries_them() {
        let (workers, mut flows) = (Workers::default(), JoinSet::new());
        let here = thread::current().id();
        workers.seat().carry(&mut flows, async move { assert_eq!(thread::current().id(), here) });
        flows.join_next().await.unwrap().unwrap();
        assert_eq!((workers.count(), workers.seat().number()), (1, 0));
    }
}
