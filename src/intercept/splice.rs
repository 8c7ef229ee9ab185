//! Relays bytes both ways, unread, until both sides have ended, one breaks, or the relay is cut.
//!
//! It judges nothing and opens nothing: both connections are made when it begins.
//!
//! - `INVARIANT`: an idle relay holds no buffer. One is borrowed from the thread's pool for each read, and kept only
//!   while the other side does not take what was read.
//! - `INVARIANT`: in one turn of its task it moves [`limits::RELAY_TURN`] each way, and at most one read more.
//! - `INVARIANT`: a side that ends is ended on the other (half-close); a side that breaks, or a cut, resets both, so
//!   that neither takes a broken stream for a whole one.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::attach::Reset;
use crate::intercept::buffer::Buffer;
use crate::limits;

/// What a relay moved, and how it ended.
#[derive(Debug)]
pub struct Relayed {
    /// Bytes that the upstream took from the sandbox.
    pub bytes_out: u64,
    /// Bytes that the sandbox took from the upstream.
    pub bytes_in: u64,
    /// How it ended.
    pub end: End,
}

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// Both sides ended in good order.
    Closed,
    /// The sandbox's side broke; both are reset.
    SandboxBroke(io::Error),
    /// The upstream's side broke; both are reset.
    UpstreamBroke(io::Error),
    /// It was cut; both are reset, unsent bytes discarded (POLICY §8).
    Cut,
}

/// Relays between the sandbox (`down`) and the upstream (`up`) until both have ended, one breaks, or `cut` is ready.
/// Both are dropped with the future, reset where [`End`] says so; a future dropped before its end resets both, too.
pub fn relay<A, B, C>(down: A, up: B, cut: C) -> impl Future<Output = Relayed>
where
    A: AsyncRead + AsyncWrite + Reset + Unpin,
    B: AsyncRead + AsyncWrite + Reset + Unpin,
    C: Future<Output = ()>,
{
    Relay::new(down, up, cut)
}

/// Both directions of a relay. One struct and no `async fn`, so that the task of an idle flow holds each connection
/// once.
struct Relay<A: Reset, B: Reset, C> {
    down: A,
    up: B,
    cut: Pin<Box<C>>,
    out: Direction,
    inward: Direction,
    over: bool,
}

impl<A: Reset, B: Reset, C> Relay<A, B, C> {
    fn new(down: A, up: B, cut: C) -> Self {
        Self { down, up, cut: Box::pin(cut), out: Direction::default(), inward: Direction::default(), over: false }
    }
}

impl<A, B, C> Future for Relay<A, B, C>
where
    A: AsyncRead + AsyncWrite + Reset + Unpin,
    B: AsyncRead + AsyncWrite + Reset + Unpin,
    C: Future<Output = ()>,
{
    type Output = Relayed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Relayed> {
        let this = &mut *self;
        // First: what was revoked moves no further byte.
        let cut = this.cut.as_mut().poll(cx).is_ready();
        let end = if cut { End::Cut } else { ready!(this.poll_both(cx)) };
        this.over = matches!(end, End::Closed);
        Poll::Ready(Relayed { bytes_out: this.out.moved, bytes_in: this.inward.moved, end })
    }
}

impl<A, B, C> Relay<A, B, C>
where
    A: AsyncRead + AsyncWrite + Reset + Unpin,
    B: AsyncRead + AsyncWrite + Reset + Unpin,
{
    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let out = match self.out.poll(cx, &mut self.down, &mut self.up) {
            Poll::Ready(Err(Broke::Reading(error))) => return Poll::Ready(End::SandboxBroke(error)),
            Poll::Ready(Err(Broke::Writing(error))) => return Poll::Ready(End::UpstreamBroke(error)),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        let inward = match self.inward.poll(cx, &mut self.up, &mut self.down) {
            Poll::Ready(Err(Broke::Reading(error))) => return Poll::Ready(End::UpstreamBroke(error)),
            Poll::Ready(Err(Broke::Writing(error))) => return Poll::Ready(End::SandboxBroke(error)),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        if out && inward { Poll::Ready(End::Closed) } else { Poll::Pending }
    }
}

impl<A: Reset, B: Reset, C> Drop for Relay<A, B, C> {
    fn drop(&mut self) {
        if !self.over {
            self.down.reset_on_drop();
            self.up.reset_on_drop();
        }
    }
}

/// Which side of a direction broke.
enum Broke {
    Reading(io::Error),
    Writing(io::Error),
}

/// One direction of a relay.
#[derive(Default)]
struct Direction {
    moved: u64,
    left: Option<Box<Left>>,
    unflushed: bool,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Moving,
    Ending,
    Ended,
}

/// What was read and is not yet written.
struct Left {
    buffer: Buffer,
    start: usize,
    end: usize,
}

impl Direction {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<Result<(), Broke>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.state {
                State::Moving => match self.poll_move(cx, from, to) {
                    Poll::Ready(Ok(())) => self.state = State::Ending,
                    Poll::Ready(Err(broke)) => return Poll::Ready(Err(broke)),
                    Poll::Pending => {
                        if self.unflushed {
                            ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broke::Writing)?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broke::Writing)?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Moves bytes until the reader ends (ready), one side has to be waited for, or its turn is over.
    fn poll_move<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<Result<(), Broke>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let turn_ends = self.moved + limits::RELAY_TURN;
        if let Some(mut left) = self.left.take()
            && self.write(cx, to, &mut left)?.is_pending()
        {
            self.left = Some(left);
            return Poll::Pending;
        }
        let mut left = Left { buffer: Buffer::borrow(), start: 0, end: 0 };
        loop {
            if self.moved >= turn_ends {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut space = ReadBuf::new(&mut left.buffer);
            match Pin::new(&mut *from).poll_read(cx, &mut space) {
                Poll::Ready(Ok(())) => (left.start, left.end) = (0, space.filled().len()),
                stopped => return stopped.map_err(Broke::Reading),
            }
            if left.end == 0 {
                return Poll::Ready(Ok(()));
            }
            if self.write(cx, to, &mut left)?.is_pending() {
                self.left = Some(Box::new(left));
                return Poll::Pending;
            }
        }
    }

    /// Writes all of `left`; pending while the writer takes no more.
    fn write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        left: &mut Left,
    ) -> Result<Poll<()>, Broke> {
        while let Some(bytes) = left.buffer.get(left.start..left.end).filter(|bytes| !bytes.is_empty()) {
            match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(Broke::Writing(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    left.start += written;
                    self.moved += written as u64;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Err(Broke::Writing(error)),
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        Ok(Poll::Ready(()))
    }
}
