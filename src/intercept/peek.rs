//! The bounded read before a flow is judged: at most [`limits::HELLO_BYTES`] and [`limits::HELLO_TIME`].
//!
//! The bytes are kept, and read again by whoever takes the flow on ([`Prefixed`]). What they mean is [`hello`]'s to
//! say; nothing is judged, and nothing is answered.
//!
//! - `INVARIANT`: while a client is silent its flow holds no buffer, and once the bytes are read again, none either.

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};

use crate::attach::Reset;
use crate::flow::{HelloFault, Seen};
use crate::intercept::hello::{self, Reading};
use crate::limits;

/// Reads until it is certain what a flow to `port` speaks. A client that says nothing for [`limits::SILENT_CLIENT`]
/// waits for the server to speak; on ports 80 and 443, where the client speaks first, it has [`limits::HELLO_TIME`].
///
/// # Errors
/// See [`PeekError`]. What is wrong with a hello is no error: it is [`Seen::Unreadable`], and judged.
pub async fn peek<Io: AsyncRead + Unpin>(mut io: Io, port: u16) -> Result<(Seen, Prefixed<Io>), PeekError> {
    let client_speaks_first = matches!(port, 80 | 443);
    let start = Instant::now();
    let deadline = start + limits::HELLO_TIME;
    let patience = if client_speaks_first { deadline } else { start + limits::SILENT_CLIENT };
    let mut bytes = Vec::new();
    let mut at_least = 1;
    let seen = loop {
        let until = if bytes.is_empty() { patience } else { deadline };
        match timeout_at(until, read_more(&mut io, &mut bytes)).await {
            Err(_) if bytes.is_empty() => break Seen::Opaque,
            Err(_) => match hello::read_cut(&bytes) {
                Seen::Unreadable(fault) => break Seen::Unreadable(fault),
                // It may still become HTTP: to take it for anything else would be a guess.
                _ => return Err(PeekError::TimedOut),
            },
            Ok(Err(error)) => return Err(PeekError::Io(error)),
            Ok(Ok(0)) if bytes.is_empty() && client_speaks_first => return Err(PeekError::Closed),
            Ok(Ok(0)) => break hello::read_cut(&bytes),
            Ok(Ok(_)) if bytes.len() < at_least => {}
            Ok(Ok(_)) => match hello::read(&bytes) {
                Reading::Certain(seen) => break seen,
                Reading::More { .. } if bytes.len() >= limits::HELLO_BYTES => break hello::read_cut(&bytes),
                Reading::More { at_least: more } => at_least = more.min(limits::HELLO_BYTES),
            },
        }
    };
    Ok((seen, Prefixed::new(bytes, io)))
}

/// Reads what comes after TLS was granted in a protocol of its own: the client speaks first, and what cannot be read
/// as a hello is what it is.
pub async fn peek_answer<Io: AsyncRead + Unpin>(mut io: Io) -> (Seen, Prefixed<Io>) {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            match read_more(&mut io, &mut bytes).await {
                Err(_) | Ok(0) => return hello::read_cut(&bytes),
                Ok(_) => match hello::read(&bytes) {
                    Reading::Certain(seen) => return seen,
                    Reading::More { .. } if bytes.len() >= limits::HELLO_BYTES => return hello::read_cut(&bytes),
                    Reading::More { .. } => {}
                },
            }
        }
    };
    let seen = timeout_at(Instant::now() + limits::HELLO_TIME, reading).await;
    let seen = seen.unwrap_or(Seen::Unreadable(HelloFault::Incomplete));
    (seen, Prefixed::new(bytes, io))
}

/// Appends what there is to read; 0 is the client's end. The buffer lives only while something is read into it.
async fn read_more<Io: AsyncRead + Unpin>(io: &mut Io, bytes: &mut Vec<u8>) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut chunk = [0; 4096];
        let mut buf = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut buf))?;
        bytes.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    })
    .await
}

/// Why a flow ends before it can be judged.
#[derive(Debug)]
#[non_exhaustive]
pub enum PeekError {
    /// The client went away without a byte.
    Closed,
    /// The client broke off.
    Io(io::Error),
    /// [`limits::HELLO_TIME`] was not enough for the client to begin a request line or anything else.
    TimedOut,
}

impl fmt::Display for PeekError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the client closed the connection without a byte",
            Self::Io(_) => "the client's connection broke before its first bytes were read",
            Self::TimedOut => "the client took too long to send its first bytes",
        })
    }
}

impl std::error::Error for PeekError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Closed | Self::TimedOut => None,
        }
    }
}

/// A connection of which the first bytes were read already, and are read again first.
#[derive(Debug)]
pub struct Prefixed<Io> {
    prefix: Vec<u8>,
    at: usize,
    io: Io,
}

impl<Io> Prefixed<Io> {
    /// `prefix` comes before what `io` still has.
    pub fn new(prefix: Vec<u8>, io: Io) -> Self {
        Self { prefix, at: 0, io }
    }

    /// What is still to be read again.
    pub fn prefix(&self) -> &[u8] {
        self.prefix.get(self.at..).unwrap_or_default()
    }

    /// What is still to be read again, and the connection.
    pub fn into_parts(mut self) -> (Vec<u8>, Io) {
        (self.prefix.split_off(self.at), self.io)
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Prefixed<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(kept) = self.prefix.get(self.at..).filter(|kept| !kept.is_empty()) else {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        };
        let some = kept.get(..buf.remaining()).unwrap_or(kept);
        buf.put_slice(some);
        self.at += some.len();
        if self.at == self.prefix.len() {
            (self.prefix, self.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Prefixed<Io> {
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

impl<Io: Reset> Reset for Prefixed<Io> {
    fn reset_on_drop(&mut self) {
        self.io.reset_on_drop();
    }
}
