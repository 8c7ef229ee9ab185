//! What arrives over either version of HTTP: bodies, and connections or streams that leave it.
//!
//! HTTP/1 is the HTTP library's, HTTP/2 that of `streams`. Whoever passes a body on need not know over which it comes.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::attach::Reset;

use super::guard::Watch;
use super::interim::Client;
use super::streams::{Streamed, Tunnel};

/// A body as it arrives.
pub(super) enum Arriving {
    /// Over HTTP/1.
    Message(Incoming),
    /// Over HTTP/1, and let through by nobody until it is first read.
    Withheld(Incoming, Option<Arc<Watch>>),
    /// Over HTTP/2.
    Stream(Streamed),
    /// None: the stream leaves HTTP, and is here itself.
    Leaves(Leaving),
    /// None.
    Nothing,
}

/// Why a message broke off.
#[derive(Debug)]
pub(super) enum Broken {
    /// Over HTTP/1.
    Message(hyper::Error),
    /// Over HTTP/2.
    Stream(h2::Error),
    /// A stream was to leave HTTP by a 101, which it cannot (RFC 9113 §8.6).
    Switched,
}

impl Broken {
    /// What whoever reads a message over HTTP/2 is told that breaks off for this.
    pub(super) fn reason(&self) -> Reason {
        match self {
            // Told that all is well, a reader may take the part for the whole.
            Self::Stream(error) => {
                error.reason().filter(|reason| *reason != Reason::NO_ERROR).unwrap_or(Reason::INTERNAL_ERROR)
            }
            Self::Message(_) | Self::Switched => Reason::INTERNAL_ERROR,
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message(_) => "the connection broke",
            Self::Stream(_) => "the stream broke",
            Self::Switched => "the stream cannot switch protocols",
        })
    }
}

impl Error for Broken {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Message(error) => Some(error),
            Self::Stream(error) => Some(error),
            Self::Switched => None,
        }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Message(body) => Pin::new(body).poll_frame(cx).map_err(Broken::Message),
            Self::Withheld(body, watch) => {
                // If its client waits, the library tells it now.
                watch.take().iter().for_each(|watch| watch.invite());
                Pin::new(body).poll_frame(cx).map_err(Broken::Message)
            }
            Self::Stream(body) => body.poll_frame(cx).map_err(Broken::Stream),
            Self::Leaves(_) | Self::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(body) | Self::Withheld(body, _) => body.is_end_stream(),
            Self::Stream(body) => body.is_end_stream(),
            Self::Leaves(_) | Self::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Message(body) | Self::Withheld(body, _) => body.size_hint(),
            Self::Stream(body) => body.size_hint(),
            Self::Leaves(_) | Self::Nothing => SizeHint::with_exact(0),
        }
    }
}

impl Arriving {
    /// The stream, if it leaves HTTP.
    pub(super) fn take(&mut self) -> Option<Leaving> {
        let Self::Leaves(_) = self else { return None };
        let Self::Leaves(stream) = std::mem::replace(self, Self::Nothing) else { return None };
        Some(stream)
    }

    /// Has its client told to send it, when it is first read, if it `awaits` that.
    pub(super) fn inviting(&mut self, awaits: bool, client: &Client) {
        match (&mut *self, client) {
            (Self::Stream(body), Client::Stream(ahead)) if awaits => body.inviting(ahead),
            (Self::Message(_), Client::Connection(watch)) if watch.withholds() => {
                if let Self::Message(body) = std::mem::replace(self, Self::Nothing) {
                    *self = Self::Withheld(body, Some(Arc::clone(watch)));
                }
            }
            _ => {}
        }
    }
}

/// One end of what leaves HTTP.
pub(super) enum Leaving {
    /// The library's, which has it when its last message is over.
    Connection(OnUpgrade),
    /// A stream that is not yet open: its answer comes first.
    Opening(oneshot::Receiver<Box<Tunnel>>),
    /// A stream.
    Stream(Box<Tunnel>),
}

impl Leaving {
    /// Its bytes, when it has left; `None` if it broke before.
    pub(super) async fn raw(self) -> Option<Raw> {
        match self {
            Self::Connection(connection) => connection.await.ok().map(TokioIo::new).map(Raw::Connection),
            Self::Opening(stream) => stream.await.ok().map(Raw::Stream),
            Self::Stream(stream) => Some(Raw::Stream(stream)),
        }
    }
}

/// The bytes of what has left HTTP.
pub(super) enum Raw {
    Connection(TokioIo<Upgraded>),
    Stream(Box<Tunnel>),
}

impl AsyncRead for Raw {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Connection(io) => Pin::new(io).poll_read(cx, buf),
            Self::Stream(io) => Pin::new(&mut **io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Raw {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Connection(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Stream(io) => Pin::new(&mut **io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Connection(io) => Pin::new(io).poll_flush(cx),
            Self::Stream(io) => Pin::new(&mut **io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Connection(io) => Pin::new(io).poll_shutdown(cx),
            Self::Stream(io) => Pin::new(&mut **io).poll_shutdown(cx),
        }
    }
}

/// What HTTP/1 has left cannot be reached below the library; the end of its connection is for the ledger to say, which
/// `Metered` asks.
impl Reset for Raw {
    fn reset_on_drop(&mut self) {
        if let Self::Stream(io) = self {
            io.reset_on_drop();
        }
    }
}
