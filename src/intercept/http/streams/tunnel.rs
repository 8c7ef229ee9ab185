//! A stream that has left HTTP, as the bytes it carries (RFC 8441 §5).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::attach::Reset;

/// Both halves of a stream. Dropped before both have ended, it is reset.
pub(in crate::intercept::http) struct Tunnel {
    to: SendStream<Bytes>,
    from: RecvStream,
    /// Of the last frame, what has not been read.
    unread: Bytes,
    is_ended: bool,
}

impl Tunnel {
    pub(super) fn new(to: SendStream<Bytes>, from: RecvStream) -> Self {
        Self { to, from, unread: Bytes::new(), is_ended: false }
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() { error.into_io().unwrap_or_else(closed) } else { io::Error::other(error) }
}

fn closed() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            match ready!(this.from.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => this.unread = data.map_err(broken)?,
            }
        }
        let count = this.unread.len().min(buf.remaining());
        buf.put_slice(this.unread.get(..count).unwrap_or_default());
        this.unread.advance(count);
        Poll::Ready(this.from.flow_control().release_capacity(count).map_err(broken))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.to.reserve_capacity(bytes.len());
        while self.to.capacity() == 0 {
            ready!(self.to.poll_capacity(cx)).ok_or_else(closed)?.map_err(broken)?;
        }
        let count = self.to.capacity().min(bytes.len());
        let data = Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default());
        self.to.send_data(data, false).map_err(broken)?;
        Poll::Ready(Ok(count))
    }

    /// What was written is with the connection, which sends it as soon as it can.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_ended {
            self.to.send_data(Bytes::new(), true).map_err(broken)?;
            self.is_ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Reset for Tunnel {
    fn reset_on_drop(&mut self) {
        self.to.send_reset(Reason::CANCEL);
    }
}
