//! Bodies as they pass: streamed, cut when their request is revoked, trailers held to what may trail.
//!
//! Nothing is buffered here.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

use crate::policy::verdict::is_alike;

use super::arriving::{Arriving, Broken};
use super::divert;
use super::guard::{Busy, may_trail};
use super::interim::{Leave, Wait};
use super::live::Cut;
use super::upstreams::{Returning, Sending};

/// A body of a request or a response, in either direction.
pub(super) struct Payload {
    source: Source,
    /// Kept until its end.
    _busy: Option<Busy>,
    /// The same, where the request's body waits.
    _leave: Option<Leave>,
}

#[expect(clippy::large_enum_variant, reason = "most bodies pass")]
enum Source {
    Whole(Full<Bytes>),
    Passing(Passing),
    Read(UnsyncBoxBody<Bytes, PayloadError>),
}

/// Why a body ended early.
#[derive(Debug)]
pub(super) enum PayloadError {
    /// The side that sent it broke off.
    Broken(Broken),
    /// The policy changed and no longer permits the request.
    Revoked,
    /// It cannot be searched for secrets, and must be.
    Unreadable,
    /// The origin has answered, and does not want it.
    Unwanted,
    /// A placeholder is in it that may not be.
    Misdirected,
    /// A placeholder is in it whose value cannot be had.
    Lacking,
    /// A piece of it is not signed by its client.
    NotSigned,
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broken(_) => "the message broke off",
            Self::Revoked => "a change of policy ended the request",
            Self::Unreadable => "the answer cannot be searched for secrets",
            Self::Unwanted => "the origin answered without the body",
            Self::Misdirected => "a placeholder was found in the body",
            Self::Lacking => "a secret that the body needs has no value",
            Self::NotSigned => "a piece of the body is not signed",
        })
    }
}

impl PayloadError {
    /// What whoever reads the body over HTTP/2 is told.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Broken(error) => error.reason(),
            Self::Unwanted => Reason::CANCEL,
            Self::Revoked | Self::Unreadable | Self::Misdirected | Self::Lacking | Self::NotSigned => {
                Reason::INTERNAL_ERROR
            }
        }
    }
}

impl Error for PayloadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Broken(error) => Some(error),
            Self::Revoked | Self::Unreadable | Self::Unwanted | Self::Misdirected | Self::Lacking | Self::NotSigned => {
                None
            }
        }
    }
}

/// A body that is there as a whole.
pub(super) fn whole(bytes: Bytes) -> Payload {
    Payload { source: Source::Whole(Full::new(bytes)), _busy: None, _leave: None }
}

/// What a passing body keeps until its end, and what is told of it.
pub(super) enum Held {
    /// By the body that goes upstream, which may have to wait.
    Sending(Sending, Option<Box<Wait>>),
    /// By the body that comes back.
    Returning(Returning),
}

/// A body that passes through, ends with an error when `cut` is ready, and keeps `held` until its end. What a rule
/// `injected` into the head does not come a second time in the trailers, which some servers join to it.
pub(super) fn passing(body: Arriving, cut: Cut, injected: Vec<HeaderName>, held: Held) -> Payload {
    let injected = injected.into();
    Payload { source: Source::Passing(Passing { body, cut, injected, over: false, held }), _busy: None, _leave: None }
}

/// A body that is read, and changed, on its way.
pub(super) fn read(body: impl Body<Data = Bytes, Error = PayloadError> + Send + 'static) -> Payload {
    Payload { source: Source::Read(body.boxed_unsync()), _busy: None, _leave: None }
}

/// What is still to come of a body that is read on its way.
pub(super) enum Left {
    Open(Payload),
    /// It is over but for these trailers.
    Over(Option<HeaderMap>),
}

impl Payload {
    /// The same, which keeps a request unfinished until its end.
    pub(super) fn keeping(self, busy: Busy) -> Self {
        Self { _busy: Some(busy), ..self }
    }

    /// The same, for whose end the request's body may wait.
    pub(super) fn leaving(self, leave: Option<Leave>) -> Self {
        Self { _leave: leave, ..self }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        match &mut self.source {
            Source::Whole(whole) => Pin::new(whole).poll_frame(cx).map_err(|never| match never {}),
            Source::Passing(passing) => passing.poll_frame(cx),
            Source::Read(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(whole) => whole.is_end_stream(),
            Source::Passing(passing) => passing.body.is_end_stream(),
            Source::Read(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(whole) => whole.size_hint(),
            Source::Passing(passing) => passing.body.size_hint(),
            Source::Read(body) => body.size_hint(),
        }
    }
}

struct Passing {
    body: Arriving,
    cut: Cut,
    injected: Box<[HeaderName]>,
    /// Whether the end was read, where no length told it before.
    over: bool,
    held: Held,
}

impl Drop for Passing {
    fn drop(&mut self) {
        let whole = self.over || self.body.is_end_stream();
        match &mut self.held {
            Held::Sending(sending, _) => sending.ended(whole),
            Held::Returning(returning) => returning.ended(whole),
        }
    }
}

impl Passing {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        if Pin::new(&mut self.cut).poll(cx).is_ready() {
            return Poll::Ready(Some(Err(PayloadError::Revoked)));
        }
        if let Held::Sending(_, Some(wait)) = &mut self.held
            && !ready!(wait.poll(cx))
        {
            return Poll::Ready(Some(Err(PayloadError::Unwanted)));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        // Nothing comes after trailers.
        self.over = frame.as_ref().is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
        Poll::Ready(
            frame.map(|frame| frame.map(|frame| permitted(frame, &self.injected)).map_err(PayloadError::Broken)),
        )
    }
}

/// The frame without trailer fields that may not trail (RFC 9110 §6.5.1), or that a server may take for an injected
/// one.
fn permitted(frame: Frame<Bytes>, injected: &[HeaderName]) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(trailers) => {
            let ours = |name: &HeaderName| injected.iter().any(|injected| is_alike(name, injected));
            let may_pass = |name: &HeaderName| may_trail(name) && !ours(name) && !divert::is_ours(name);
            let kept = trailers.iter().filter(|(name, _)| may_pass(name));
            Frame::trailers(kept.map(|(name, value)| (name.clone(), value.clone())).collect::<HeaderMap>())
        }
        Err(data) => data,
    }
}
