//! A TLS connection whose bytes move many records at a time.
//!
//! The TLS library asks its connection for 4 KiB at a time, and gives out one record of what has come, 16 KiB at most.
//! In bulk that is five system calls for each record, and every record is a step of its own for whoever reads.
//! [`Ahead`], below it, reads what there is at once; [`Tls`], above it, gives out all records of which the bytes have
//! come, as far as its reader has room.
//!
//! It judges nothing, and does no handshake.
//!
//! - `INVARIANT`: what the library sees is what came, in its order; an end or an error comes after all before it.
//! - `INVARIANT`: a connection holds a buffer only while the library has not taken all that was read.
//! - `INVARIANT`: in one turn of its task [`limits::TLS_TURN`] are taken, and at most one read more, though the peer
//!   may never pause; then whoever reads a [`Tls`] has to wait. Of records that hold nothing to be given out, such as
//!   tickets, twice as much.

#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::CommonState;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use crate::attach::Reset;
use crate::intercept::buffer::Buffer;
use crate::limits;

/// A connection that is read in large steps, however small those are in which its bytes are taken.
#[derive(Debug)]
pub struct Ahead<Io> {
    io: Io,
    held: Option<Held>,
    /// Bytes that were taken in this turn, which ends where [`Tls`] says so, or the library never comes back to it.
    taken: usize,
}

/// What was read and is not yet taken.
#[derive(Debug)]
struct Held {
    buffer: Buffer,
    start: usize,
    end: usize,
}

impl<Io> Ahead<Io> {
    /// Reads `io` ahead.
    pub fn new(io: Io) -> Self {
        Self { io, held: None, taken: 0 }
    }

    /// Whether something was read and is not yet taken.
    fn holds(&self) -> bool {
        self.held.is_some()
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Ahead<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken >= 2 * limits::TLS_TURN {
            this.taken = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut held = match this.held.take() {
            Some(held) => held,
            None => {
                let mut buffer = Buffer::borrow();
                let mut space = ReadBuf::new(&mut buffer);
                ready!(Pin::new(&mut this.io).poll_read(cx, &mut space))?;
                let end = space.filled().len();
                Held { buffer, start: 0, end }
            }
        };
        let left = held.buffer.get(held.start..held.end).unwrap_or_default();
        let (now, later) = left.split_at(left.len().min(buf.remaining()));
        buf.put_slice(now);
        this.taken += now.len();
        if !later.is_empty() {
            held.start += now.len();
            this.held = Some(held);
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Ahead<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<Io: Reset> Reset for Ahead<Io> {
    fn reset_on_drop(&mut self) {
        self.io.reset_on_drop();
    }
}

/// A TLS connection after its handshake. Boxed within, so that its state is not held once more by every future that it
/// passes through.
#[derive(Debug)]
pub struct Tls<Io> {
    stream: Box<TlsStream<Ahead<Io>>>,
    /// What the connection broke with, after bytes that were given out first.
    failed: Option<io::Error>,
}

impl<Io> Tls<Io> {
    fn ahead(&mut self) -> &mut Ahead<Io> {
        match &mut *self.stream {
            TlsStream::Client(stream) => stream.get_mut().0,
            TlsStream::Server(stream) => stream.get_mut().0,
        }
    }

    /// The connection that a handshake led to.
    pub fn new(stream: impl Into<TlsStream<Ahead<Io>>>) -> Self {
        Self { stream: Box::new(stream.into()), failed: None }
    }

    /// What was agreed on.
    #[must_use]
    pub fn session(&self) -> &CommonState {
        self.stream.get_ref().1
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tls<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Err(error));
        }
        let mut before = buf.filled().len();
        // Here and not below the library, which would take it for the end of what has come, and go on.
        if this.ahead().taken >= limits::TLS_TURN {
            this.ahead().taken = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Poll::Ready(read) = Pin::new(&mut *this.stream).poll_read(cx, buf) else {
            this.ahead().taken = 0;
            return Poll::Pending;
        };
        read?;
        while buf.filled().len() > before && buf.remaining() > 0 && this.stream.get_ref().0.holds() {
            before = buf.filled().len();
            if let Poll::Ready(Err(error)) = Pin::new(&mut *this.stream).poll_read(cx, buf) {
                this.failed = Some(error);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tls<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

impl<Io: Reset> Reset for Tls<Io> {
    fn reset_on_drop(&mut self) {
        self.ahead().reset_on_drop();
    }
}
