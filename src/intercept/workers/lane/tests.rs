//! Lanes, turned by hand and by a runtime, on a clock that stands still unless a step says how long it takes.

use std::future::{pending, poll_fn};
use std::io::Write;
use std::sync::atomic::AtomicUsize;

use futures_util::task::noop_waker_ref;
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tokio::time::advance;

use super::*;

/// What was done, in its order.
type Log = Arc<Mutex<Vec<&'static str>>>;

/// Writes its name at every step, and is woken for another at once.
fn busy(log: &Log, name: &'static str) -> impl Future<Output = ()> + Send + 'static {
    let log = Arc::clone(log);
    poll_fn(move |cx| {
        log.lock().unwrap().push(name);
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// One turn.
fn turn(turns: &mut Turns) {
    assert!(Pin::new(turns).poll(&mut Context::from_waker(noop_waker_ref())).is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_turn_is_one_step_and_tasks_have_theirs_in_the_order_in_which_they_were_woken() {
    let (lane, mut turns) = lane();
    let log = Log::default();
    for name in ["a", "b", "c"] {
        lane.spawn(busy(&log, name)).detach();
    }
    for done in 1..=7 {
        turn(&mut turns);
        assert_eq!(log.lock().unwrap().len(), done);
    }
    assert_eq!(*log.lock().unwrap(), ["a", "b", "c", "a", "b", "c", "a"]);
}

/// The same, where each step takes so long.
fn slow(log: &Log, name: &'static str, step: Duration) -> impl Future<Output = ()> + Send + 'static {
    let mut busy = Box::pin(busy(log, name));
    poll_fn(move |cx| {
        // It does so at once.
        let _ = pin!(advance(step)).poll(cx);
        busy.as_mut().poll(cx)
    })
}

/// Has both lanes run on one thread until so much was done.
async fn share(lanes: [Turns; 2], log: &Log, done: usize) -> Vec<&'static str> {
    for lane in lanes {
        tokio::spawn(lane);
    }
    while log.lock().unwrap().len() < done {
        yield_now().await;
    }
    log.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_with_many_busy_tasks_has_no_more_turns_than_one_with_few() {
    let log = Log::default();
    let (greedy, quiet) = (lane(), lane());
    for _ in 0..100 {
        greedy.0.spawn(slow(&log, "greedy", ROUND)).detach();
    }
    quiet.0.spawn(slow(&log, "quiet", ROUND)).detach();
    let done = share([greedy.1, quiet.1], &log, 100).await;
    // Who is first in a round is left to the runtime.
    assert!(done.chunks_exact(2).all(|round| round[0] != round[1]), "{done:?}");
}

#[tokio::test(start_paused = true)]
async fn a_long_step_is_paid_for_with_as_many_rounds_as_it_took() {
    let log = Log::default();
    let (greedy, quiet) = (lane(), lane());
    greedy.0.spawn(slow(&log, "greedy", 8 * ROUND)).detach();
    quiet.0.spawn(busy(&log, "quiet")).detach();
    let done = share([greedy.1, quiet.1], &log, 1000).await;
    // In each round at least one step of whoever else has something to do is done.
    let steps: Vec<usize> = (0..done.len()).filter(|at| done[*at] == "greedy").collect();
    assert!(steps.len() > 2, "{done:?}");
    assert!(steps.windows(2).all(|pair| pair[1] - pair[0] > 7), "{steps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_busy_sandbox_does_not_keep_a_thread_from_noticing_what_comes_for_another() {
    let log = Log::default();
    let (greedy, quiet) = (lane(), lane());
    let (mut far, near) = std::os::unix::net::UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let (steps, begun) = (Arc::clone(&log), Arc::clone(&log));
    let mut slow = Box::pin(slow(&log, "step", ROUND));
    greedy
        .0
        .spawn(poll_fn(move |cx| {
            if steps.lock().unwrap().len() == 10 {
                far.write_all(b"!").unwrap();
            }
            slow.as_mut().poll(cx)
        }))
        .detach();
    quiet
        .0
        .spawn(async move {
            let mut near = tokio::net::UnixStream::from_std(near).unwrap();
            near.read_u8().await.unwrap();
            begun.lock().unwrap().push("noticed");
        })
        .detach();
    let log = share([greedy.1, quiet.1], &log, 100).await;
    let noticed = log.iter().position(|name| *name == "noticed");
    assert!(noticed.is_some_and(|at| at <= 12), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_woken_while_it_is_polled_is_polled_again_and_one_that_is_not_waits() {
    let (lane, mut turns) = lane();
    let steps = Arc::new(AtomicUsize::new(0));
    let (counted, (wake, mut woken)) = (Arc::clone(&steps), oneshot::channel::<()>());
    lane.spawn(poll_fn(move |cx| {
        if counted.fetch_add(1, Ordering::Relaxed) == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut woken).poll(cx).map(drop)
    }))
    .detach();
    (0..5).for_each(|_| turn(&mut turns));
    assert_eq!(steps.load(Ordering::Relaxed), 2);
    wake.send(()).unwrap();
    (0..5).for_each(|_| turn(&mut turns));
    assert_eq!(steps.load(Ordering::Relaxed), 3, "it is polled once for a wake, and never after its end");
}

/// Tells, when it is dropped, how often that happened.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A task that waits for ever, and how often such were dropped.
fn lasting(lane: &Lane, drops: &Arc<AtomicUsize>) -> Task {
    let held = Dropped(Arc::clone(drops));
    lane.spawn(async move {
        pending::<()>().await;
        drop(held);
    })
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_ends_alone() {
    let (lane, mut turns) = lane();
    let (log, drops) = (Log::default(), Arc::default());
    let held = Dropped(Arc::clone(&drops));
    let panics = lane.spawn(async move {
        let _held = held;
        panic!("this panic is part of a test");
    });
    lane.spawn(busy(&log, "other")).detach();
    (0..4).for_each(|_| turn(&mut turns));
    assert!(panics.is_over());
    assert_eq!((drops.load(Ordering::Relaxed), log.lock().unwrap().len()), (1, 3));
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("this panic is part of a test, too");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_when_it_is_dropped_ends_alone() {
    let (lane, mut turns) = lane();
    let log = Log::default();
    let bomb = Bomb;
    lane.spawn(poll_fn(move |_| {
        let _held = &bomb;
        Poll::Ready(())
    }))
    .detach();
    lane.spawn(busy(&log, "other")).detach();
    (0..3).for_each(|_| turn(&mut turns));
    assert_eq!(log.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_lane_owes_is_forgiven_while_it_has_nothing_to_do() {
    let log = Log::default();
    let (greedy, quiet) = (lane(), lane());
    let (wake, woken) = oneshot::channel::<()>();
    let told = Arc::clone(&log);
    quiet
        .0
        .spawn(async move {
            let _ = pin!(advance(16 * ROUND)).poll(&mut Context::from_waker(noop_waker_ref()));
            woken.await.unwrap();
            told.lock().unwrap().push("quiet");
        })
        .detach();
    tokio::spawn(quiet.1);
    yield_now().await;
    advance(16 * ROUND).await;
    greedy.0.spawn(slow(&log, "greedy", ROUND)).detach();
    tokio::spawn(greedy.1);
    while log.lock().unwrap().is_empty() {
        yield_now().await;
    }
    wake.send(()).unwrap();
    while log.lock().unwrap().len() < 20 {
        yield_now().await;
    }
    let log = log.lock().unwrap();
    assert!(log.iter().position(|name| *name == "quiet").is_some_and(|at| at <= 3), "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_task_ends_when_its_handle_is_dropped_also_by_itself() {
    let (lane, mut turns) = lane();
    let drops = Arc::default();
    let (begun, unbegun) = (lasting(&lane, &drops), lasting(&lane, &drops));
    turn(&mut turns);
    assert!(!begun.is_over() && !unbegun.is_over());
    drop((begun, unbegun));
    assert_eq!(drops.load(Ordering::Relaxed), 2);
    lasting(&lane, &drops).end();
    assert_eq!(drops.load(Ordering::Relaxed), 2);
    (0..3).for_each(|_| turn(&mut turns));
    assert_eq!(drops.load(Ordering::Relaxed), 3, "in a turn of the lane");

    let own = Arc::new(Mutex::new(None));
    let (handle, held) = (Arc::clone(&own), Dropped(Arc::clone(&drops)));
    *own.lock().unwrap() = Some(lane.spawn(poll_fn(move |_| {
        let _held = &held;
        drop(handle.lock().unwrap().take());
        Poll::Pending
    })));
    assert_eq!(drops.load(Ordering::Relaxed), 3);
    turn(&mut turns);
    assert_eq!(drops.load(Ordering::Relaxed), 4, "as soon as it is no longer polled");
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_outlives_its_task_wakes_nobody_else() {
    let (lane, mut turns) = lane();
    let kept = Arc::new(Mutex::new(None));
    let keeps = Arc::clone(&kept);
    let first = lane.spawn(poll_fn(move |cx| {
        *keeps.lock().unwrap() = Some(cx.waker().clone());
        Poll::Pending
    }));
    turn(&mut turns);
    drop(first);
    let steps = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&steps);
    // It has the place that the first one had.
    lane.spawn(poll_fn(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Poll::Pending
    }))
    .detach();
    turn(&mut turns);
    kept.lock().unwrap().take().unwrap().wake();
    turn(&mut turns);
    assert_eq!(steps.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_when_the_turns_end_is_dropped_and_what_comes_later_too() {
    let (lane, mut turns) = lane();
    let drops = Arc::default();
    lasting(&lane, &drops).detach();
    turn(&mut turns);
    lasting(&lane, &drops).detach();
    drop(turns);
    assert_eq!(drops.load(Ordering::Relaxed), 2);
    let late = lasting(&lane, &drops);
    assert!(late.is_over());
    assert_eq!(drops.load(Ordering::Relaxed), 3);
}
