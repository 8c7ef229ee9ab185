//! Threads that carry flows: each flow stays on one of them, from its first byte to its last.
//!
//! A scheduler that hands tasks to whichever thread is free pays for it with every request: what one core has at hand
//! the other must fetch, and memory is freed where it was not allocated. Here each thread has a runtime of its own, and
//! what a flow needs beside itself, its upstream connections, is opened, kept and used on the same thread.
//!
//! It owns where a flow goes: where the fewest are. Each sandbox has a lane (`workers::lane`) on each thread, and the
//! lanes share the thread's time, whichever has more flows or moves more.
//!
//! - `INVARIANT`: a step of a flow moves a bounded number of bytes, and waits for nothing: no other can be done
//!   meanwhile. A relay has [`limits::RELAY_TURN`](crate::limits::RELAY_TURN), TLS
//!   [`limits::TLS_TURN`](crate::limits::TLS_TURN), HTTP/2 [`limits::STREAMS_TURN`](crate::limits::STREAMS_TURN) and
//!   [`limits::STREAM_STEPS`](crate::limits::STREAM_STEPS), an answer that is unpacked
//!   [`limits::UNPACK_TURN`](crate::limits::UNPACK_TURN); HTTP in clear has what the runtime gives a task, 128 reads.

mod lane;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tokio::task::JoinSet;

use lane::lane;
pub(super) use lane::{Lane, Task};

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

    /// The lanes of one sandbox, in the threads' order. They end with `turns`.
    pub(super) fn lanes(&self, turns: &mut JoinSet<()>) -> Vec<Lane> {
        let mut begin = |thread: Option<&Thread>| {
            let (lane, its_turns) = lane();
            match thread {
                Some(thread) => turns.spawn_on(its_turns, &thread.handle),
                None => turns.spawn(its_turns),
            };
            lane
        };
        match &self.0 {
            Some(threads) => threads.threads.iter().map(|thread| begin(Some(thread))).collect(),
            None => vec![begin(None)],
        }
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
}

impl Drop for Seat {
    fn drop(&mut self) {
        let threads = self.workers.0.as_ref().map(|threads| &threads.threads);
        if let Some(thread) = threads.and_then(|threads| threads.get(self.number)) {
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
        let mut turns = JoinSet::new();
        let lanes = workers.lanes(&mut turns);
        let carry = || {
            let (seat, (told, name), (end, ended)) = (workers.seat(), oneshot::channel(), oneshot::channel::<()>());
            let number = seat.number();
            let (tell_end, over) = oneshot::channel();
            let flow = lanes[number].spawn(async move {
                let begun = thread::current().id();
                told.send(thread::current().name().map(str::to_owned)).unwrap();
                ended.await.unwrap();
                drop(seat);
                tell_end.send(thread::current().id() == begun).unwrap();
            });
            flow.detach();
            (number, name, end, over)
        };
        let all: Vec<_> = (0..4).map(|_| carry()).collect();
        assert_eq!(all.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), [0, 1, 0, 1]);
        for (number, name, end, over) in all {
            assert_eq!(name.await.unwrap(), Some(format!("flows-{number}")));
            end.send(()).unwrap();
            assert!(over.await.unwrap(), "it has moved to another thread");
        }
        assert_eq!(workers.seat().number(), 0, "all seats are free again");
    }

    #[tokio::test]
    async fn without_threads_whoever_takes_flows_carries_them() {
        let (workers, mut turns) = (Workers::default(), JoinSet::new());
        let (tell, thread) = oneshot::channel();
        let [lane] = workers.lanes(&mut turns).try_into().ok().unwrap();
        lane.spawn(async move { tell.send(thread::current().id()).unwrap() }).detach();
        assert_eq!(thread.await.unwrap(), thread::current().id());
        assert_eq!(workers.seat().number(), 0);
    }
}
