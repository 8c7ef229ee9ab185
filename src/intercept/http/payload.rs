//! Bodies as they pass: streamed, cut when their request is revoked, trailers held to what may trail.
//!
//! Nothing is buffered here.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use crate::secret::inject::is_alike;

use super::guard::may_trail;

/// A body of a request or a response, in either direction.
pub(super) type Payload = UnsyncBoxBody<Bytes, PayloadError>;

/// Why a body ended early.
#[derive(Debug)]
pub(super) enum PayloadError {
    /// The side that sent it broke off.
    Broken(hyper::Error),
    /// The policy changed and no longer permits the request.
    Revoked,
    /// It cannot be searched for secrets, and must be.
    Unreadable,
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broken(_) => "the message broke off",
            Self::Revoked => "a change of policy ended the request",
            Self::Unreadable => "the answer cannot be searched for secrets",
        })
    }
}

impl Error for PayloadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Broken(error) => Some(error),
            Self::Revoked | Self::Unreadable => None,
        }
    }
}

/// A body that is there as a whole.
pub(super) fn whole(bytes: Bytes) -> Payload {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Whoever awaits this learns that the request is revoked.
pub(super) type Cut = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body that passes through, ends with an error when `cut` is ready, and keeps `held` until its end. What a rule
/// `injected` into the head does not come a second time in the trailers, which some servers join to it.
pub(super) fn passing<T>(body: Incoming, cut: Cut, injected: Vec<HeaderName>, held: T) -> Payload
where
    T: Send + Unpin + 'static,
{
    Passing { body, cut, injected, _held: held }.boxed_unsync()
}

/// A body that keeps `held` until its end.
pub(super) fn holding<T: Send + Unpin + 'static>(body: Payload, held: T) -> Payload {
    Holding { body, _held: held }.boxed_unsync()
}

struct Holding<T> {
    body: Payload,
    _held: T,
}

impl<T: Unpin> Body for Holding<T> {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Passing<T> {
    body: Incoming,
    cut: Cut,
    injected: Vec<HeaderName>,
    _held: T,
}

impl<T: Unpin> Body for Passing<T> {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(PayloadError::Revoked)));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(
            frame.map(|frame| frame.map(|frame| permitted(frame, &self.injected)).map_err(PayloadError::Broken)),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The frame without trailer fields that may not trail (RFC 9110 §6.5.1), or that a server may take for an injected
/// one.
fn permitted(frame: Frame<Bytes>, injected: &[HeaderName]) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(trailers) => {
            let ours = |name: &HeaderName| injected.iter().any(|injected| is_alike(name, injected));
            let kept = trailers.iter().filter(|(name, _)| may_trail(name) && !ours(name));
            Frame::trailers(kept.map(|(name, value)| (name.clone(), value.clone())).collect::<HeaderMap>())
        }
        Err(data) => data,
    }
}
