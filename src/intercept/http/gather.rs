//! Gathers what the HTTP/2 library writes, so that all that one step of a connection has to say goes out at once.
//!
//! The library writes each frame that carries data by itself, and flushes before the next: a TLS record and a system
//! call for each. Here such writes wait in a buffer until whoever runs the connection says that the step is over
//! ([`Gate::poll_send`]), or the buffer is full. What is large anyway passes without being copied.
//!
//! - `INVARIANT`: in one step at most [`limits::STREAMS_TURN`] are read, and as many written, and one read or write
//!   more: however much has come, and whatever the streams hold, the connection's task has an end.
//! - `INVARIANT`: bytes go out in the order in which they were written, and all of them before the connection is shut
//!   down.
//! - `INVARIANT`: it holds no buffer while nothing waits, and one otherwise: a writer that is faster has to wait.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::intercept::buffer::Buffer;
use crate::limits;

/// From so many bytes on a write goes out by itself, if nothing waits.
const LARGE: usize = 8 * 1024;

/// A connection as the library has it.
pub(super) struct Gathered<Io>(Arc<Mutex<Shared<Io>>>);

/// The same as whoever runs it has it.
pub(super) struct Gate<Io>(Arc<Mutex<Shared<Io>>>);

struct Shared<Io> {
    io: Io,
    waiting: Option<Waiting>,
    /// Whether the connection may itself hold what was written to it.
    unflushed: bool,
    /// Bytes that were read in this step, and written.
    read: usize,
    written: usize,
    /// Why what was gathered could not be sent.
    failed: Option<io::Error>,
}

/// What was written and has not gone out.
struct Waiting {
    buffer: Buffer,
    start: usize,
    end: usize,
}

/// Gathers what is written to a connection.
pub(super) fn gather<Io>(io: Io) -> (Gathered<Io>, Gate<Io>) {
    let shared = Shared { io, waiting: None, unflushed: false, read: 0, written: 0, failed: None };
    let shared = Arc::new(Mutex::new(shared));
    (Gathered(Arc::clone(&shared)), Gate(shared))
}

impl<Io: AsyncWrite + Unpin> Gate<Io> {
    /// Ends a step, and sends what has been gathered. Pending while the connection does not take it, or what it broke
    /// with is kept for the library's next write.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = lock(&self.0);
        (shared.read, shared.written) = (0, 0);
        if let Err(error) = ready!(shared.poll_send(cx)) {
            shared.failed = Some(error);
        }
        Poll::Ready(())
    }
}

impl<Io: AsyncWrite + Unpin> Shared<Io> {
    /// Writes what waits.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(waiting) = &mut self.waiting {
            let bytes = waiting.buffer.get(waiting.start..waiting.end).unwrap_or_default();
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            waiting.start += written;
            self.waiting.take_if(|waiting| waiting.start == waiting.end);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes as much of these as there is room for.
    fn poll_take(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.waiting.as_ref().is_some_and(|waiting| waiting.end == waiting.buffer.len()) {
            ready!(self.poll_write_out(cx))?;
        }
        let fresh = || Waiting { buffer: Buffer::borrow(), start: 0, end: 0 };
        let waiting = self.waiting.get_or_insert_with(fresh);
        let mut taken = 0;
        for slice in slices {
            let room = waiting.buffer.get_mut(waiting.end..).unwrap_or_default();
            let count = slice.len().min(room.len());
            room.split_at_mut(count).0.copy_from_slice(slice.split_at(count).0);
            waiting.end += count;
            taken += count;
        }
        Poll::Ready(Ok(taken))
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Gathered<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        ready!(pause(cx, shared.read));
        let before = buf.filled().len();
        let polled = Pin::new(&mut shared.io).poll_read(cx, buf);
        shared.read += buf.filled().len() - before;
        polled
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Gathered<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = lock(&self.0);
        if let Some(error) = shared.failed.take() {
            return Poll::Ready(Err(error));
        }
        let count: usize = slices.iter().map(|slice| slice.len()).sum();
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        ready!(pause(cx, shared.written));
        if count >= LARGE && shared.waiting.is_none() {
            shared.unflushed = true;
            let written = ready!(Pin::new(&mut shared.io).poll_write_vectored(cx, slices))?;
            shared.written += written;
            return Poll::Ready(Ok(written));
        }
        let taken = ready!(shared.poll_take(cx, slices))?;
        shared.written += taken;
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Ready at once: the step is not over.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(lock(&self.0).failed.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        ready!(shared.poll_send(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}

/// Waits for another step, where in this one so many bytes were moved.
fn pause(cx: &mut Context<'_>, moved: usize) -> Poll<()> {
    if moved < limits::STREAMS_TURN {
        return Poll::Ready(());
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

fn lock<Io>(shared: &Mutex<Shared<Io>>) -> MutexGuard<'_, Shared<Io>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, join, repeat, sink};

    use super::*;

    #[tokio::test]
    async fn what_is_written_goes_out_when_the_step_is_over_and_in_its_order() {
        let (io, mut peer) = duplex(1 << 20);
        let (mut gathered, gate) = gather(io);
        gathered.write_all(b"one ").await.unwrap();
        gathered.flush().await.unwrap();
        gathered.write_all(b"two ").await.unwrap();
        let mut space = [0; 64];
        let mut space = ReadBuf::new(&mut space);
        assert!(poll_fn(|cx| Poll::Ready(Pin::new(&mut peer).poll_read(cx, &mut space))).await.is_pending());
        // It is large, and something waits.
        gathered.write_all(&[b'x'; LARGE]).await.unwrap();
        poll_fn(|cx| gate.poll_send(cx)).await;
        let mut came = vec![0; 8 + LARGE];
        assert_eq!(peer.read(&mut came).await.unwrap(), 8 + LARGE, "at once");
        assert!(came.starts_with(b"one two xx"));
        gathered.write_all(&[b'y'; LARGE]).await.unwrap();
        assert_eq!(peer.read(&mut came).await.unwrap(), LARGE, "what is large does not wait");
    }

    #[tokio::test]
    async fn a_writer_waits_for_a_slow_peer_and_nothing_is_lost() {
        let (io, mut peer) = duplex(1000);
        let (mut gathered, gate) = gather(io);
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let all = sent.clone();
        let writing = async move {
            for step in all.chunks(100_000) {
                for part in step.chunks(777) {
                    gathered.write_all(part).await.unwrap();
                    gathered.flush().await.unwrap();
                }
                poll_fn(|cx| gate.poll_send(cx)).await;
            }
            gathered.shutdown().await.unwrap();
        };
        let mut came = Vec::new();
        tokio::join!(writing, peer.read_to_end(&mut came)).1.unwrap();
        assert!(came == sent);
    }

    /// How much is read, or written, in a step of which nobody says that it is over.
    fn one_step(mut act: impl FnMut(&mut Context<'_>) -> Poll<io::Result<usize>>) -> usize {
        let mut moved = 0;
        while let Poll::Ready(count) = act(&mut Context::from_waker(Waker::noop())) {
            moved += count.unwrap();
        }
        moved
    }

    #[test]
    fn a_step_has_an_end_however_much_could_be_read_or_written() {
        const TURN: usize = limits::STREAMS_TURN;
        for size in [1000, 20_000] {
            let (mut gathered, gate) = gather(join(repeat(b'x'), sink()));
            let space = &mut vec![0; size];
            for _ in 0..2 {
                let read = one_step(|cx| {
                    let mut buf = ReadBuf::new(space);
                    Pin::new(&mut gathered).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
                });
                assert!((TURN..TURN + size).contains(&read), "{read}");
                let bytes = vec![b'y'; size];
                let written = one_step(|cx| Pin::new(&mut gathered).poll_write(cx, &bytes));
                assert!((TURN..TURN + size).contains(&written), "{written}");
                assert!(gate.poll_send(&mut Context::from_waker(Waker::noop())).is_ready());
            }
        }
    }

    #[tokio::test]
    async fn what_could_not_be_sent_is_told_to_the_next_writer() {
        let (io, peer) = duplex(1000);
        let (mut gathered, gate) = gather(io);
        gathered.write_all(b"for nobody").await.unwrap();
        drop(peer);
        poll_fn(|cx| gate.poll_send(cx)).await;
        assert_eq!(gathered.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
