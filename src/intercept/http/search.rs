//! Bodies of requests on their way out, searched for the sandbox's placeholders: one that has any is cut short, unless
//! the rule that claimed the request has them replaced.
//!
//! A body is read as it streams and, where nothing is replaced, nothing of it is changed. When a placeholder is found,
//! its end has not been sent; what came before it may have been, so the request is broken off, and no server takes it
//! for a whole one. What a placeholder looks like is for [`crate::secret::scrub`]: as it is, escaped, in hexadecimal,
//! in base64. A body that is compressed is not read, nor is what follows a switch of protocols: a placeholder that goes
//! out so is not replaced either, and is worth nothing.
//!
//! What is replaced, and how a value is written there, is for [`crate::secret::replace`]; all else of such a body is
//! searched as any. A value may be longer than its placeholder, so the length of such a body is told anew: of one that
//! says it has [`limits::REPLACED_BYTES`] at most, by waiting for the whole of it, for there are servers that take no
//! body without a length; of a longer one, or one without a length, not at all (HTTP/1.1 sends it in chunks). Where it
//! is compressed, or its type is not one text, the request is refused: the rule means that it be read.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Version};
use http_body::{Body, Frame, SizeHint};

use crate::limits;
use crate::policy::placeholder::Known;
use crate::policy::verdict::{DenyReason, Permit};
use crate::secret::Secrets;
use crate::secret::placeholder::{Outgoing, Placeholders, Stop};
use crate::secret::replace::Replacer;

use super::breach::Breach;
use super::headers::tokens;
use super::payload::{Left, Payload, PayloadError, read};
use super::whole::{Unread, Whole, told_length};

/// What replaces placeholders in a body; `None` where the permit has none replaced there.
///
/// # Errors
/// The body cannot be read, or what it is cannot be told.
pub(super) fn replacer(
    permit: &Permit,
    headers: &HeaderMap,
    known: &Placeholders,
    secrets: &Secrets,
) -> Result<Option<Box<Replacer>>, Doubtful> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (media_type, other) = (types.next(), types.next());
    let is_known = other.is_none() && media_type.is_none_or(|value| value.to_str().is_ok());
    let media_type = media_type.and_then(|value| value.to_str().ok());
    let Some(replacer) = known.replacer(permit.in_body(), media_type, secrets) else { return Ok(None) };
    let is_plain = tokens(headers, &CONTENT_ENCODING).all(|coding| coding.eq_ignore_ascii_case("identity"))
        && headers.get_all(CONTENT_ENCODING).iter().all(|value| value.to_str().is_ok());
    if is_known && is_plain { Ok(Some(Box::new(replacer))) } else { Err(Doubtful) }
}

/// A body that a rule has read, and that is compressed or of no type that can be told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doubtful;

/// Whether a body in which something is replaced waits as a whole, so that its length can be told.
pub(super) fn waits(headers: &HeaderMap) -> bool {
    told_length(headers).is_some_and(|length| length <= limits::REPLACED_BYTES)
}

/// Reads a body, if there is one, and its trailers as they pass; `breach` is told of what is found.
pub(super) fn search<'b>(
    body: Payload,
    breach: impl FnOnce() -> &'b Arc<Breach>,
    known: Arc<Placeholders>,
    replacer: Option<Box<Replacer>>,
) -> Payload {
    if body.is_end_stream() {
        return body;
    }
    let (breach, outgoing) = (Arc::clone(breach()), known.outgoing(replacer));
    read(Searched { breach, known, source: Left::Open(body), outgoing, ready: VecDeque::new() })
}

/// A request whose body has its placeholders replaced as it is read, with its length as it then is.
pub(super) async fn measure(request: Request<Payload>) -> Result<Request<Payload>, Unread> {
    let (mut parts, mut body) = request.into_parts();
    if waits(&parts.headers) {
        // What is replaced may make it longer, and not without bounds.
        let whole = Whole::read(body, 2 * limits::REPLACED_BYTES).await?;
        parts.headers.insert(CONTENT_LENGTH, whole.len().into());
        body = read(whole);
    } else {
        parts.headers.remove(CONTENT_LENGTH);
        if parts.version == Version::HTTP_11 {
            // Said, for of some methods the HTTP library would not expect a body.
            parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    Ok(Request::from_parts(parts, body))
}

struct Searched {
    breach: Arc<Breach>,
    known: Arc<Placeholders>,
    source: Left,
    outgoing: Outgoing,
    /// What may go.
    ready: VecDeque<Bytes>,
}

impl Searched {
    /// The body is at its end.
    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Stop> {
        self.outgoing.finish(&mut self.ready)?;
        let known = &self.known;
        let mut fields = trailers.iter().flatten();
        if fields.any(|(name, value)| known.is_in(name.as_str().as_bytes()) || known.is_in(value.as_bytes())) {
            return Err(Stop::Misdirected);
        }
        self.source = Left::Over(trailers);
        Ok(())
    }

    /// Nothing more may go.
    fn stop(&mut self, stop: Stop) -> PayloadError {
        self.source = Left::Over(None);
        self.ready.clear();
        let (reason, error) = match stop {
            Stop::Misdirected => (DenyReason::PlaceholderMisdirected, PayloadError::Misdirected),
            Stop::Lacking => (DenyReason::SecretUnavailable, PayloadError::Lacking),
        };
        self.breach.found(reason);
        error
    }
}

impl Body for Searched {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        let this = &mut *self;
        loop {
            if let Some(out) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(out))));
            }
            let source = match &mut this.source {
                Left::Open(source) => source,
                Left::Over(trailers) => {
                    return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
                }
            };
            let read = match ready!(Pin::new(source).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.outgoing.feed(data, &mut this.ready),
                    Err(frame) => this.end(frame.into_trailers().ok()),
                },
                None => this.end(None),
            };
            if let Err(stop) = read {
                return Poll::Ready(Some(Err(this.stop(stop))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.source, Left::Over(None)) && self.ready.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.source, self.outgoing.waiting()) {
            (Left::Open(body), Some(waiting)) => {
                let waiting = (waiting + self.ready.iter().map(Bytes::len).sum::<usize>()) as u64;
                body.size_hint().exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(rest + waiting))
            }
            (Left::Open(_) | Left::Over(_), _) => SizeHint::default(),
        }
    }
}
