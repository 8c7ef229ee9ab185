//! Bodies of requests on their way out, searched for the sandbox's placeholders: one that has any is cut short.
//!
//! A body is read as it streams and nothing of it is changed. When a placeholder is found, its end has not been sent;
//! what came before it may have been, so the request is broken off, and no server takes it for a whole one. What a
//! placeholder looks like is for [`crate::secret::scrub`]: as it is, escaped, in hexadecimal, in base64. A body that is
//! compressed is not read, nor is what follows a switch of protocols: a placeholder that goes out so is not replaced
//! either, and is worth nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::policy::placeholder::Known;
use crate::secret::placeholder::Placeholders;
use crate::secret::scrub::Passage;

use super::breach::Breach;
use super::payload::{Left, Payload, PayloadError, read};

/// Reads a body and its trailers as they pass; `breach` is told of what is found.
pub(super) fn search(body: Payload, breach: &Arc<Breach>, known: Arc<Placeholders>) -> Payload {
    if body.is_end_stream() {
        return body;
    }
    let (breach, passage) = (Arc::clone(breach), known.passage());
    read(Searched { breach, known, source: Left::Open(body), passage })
}

struct Searched {
    breach: Arc<Breach>,
    known: Arc<Placeholders>,
    source: Left,
    passage: Passage,
}

impl Searched {
    /// The piece of a body, unless a placeholder was found by now.
    fn judged(&mut self, out: Bytes, trailers: Option<&HeaderMap>) -> Result<Bytes, PayloadError> {
        let known = &self.known;
        let mut fields = trailers.into_iter().flatten();
        let in_fields =
            fields.any(|(name, value)| known.is_in(name.as_str().as_bytes()) || known.is_in(value.as_bytes()));
        if self.passage.found() == 0 && !in_fields {
            return Ok(out);
        }
        self.breach.found();
        self.source = Left::Over(None);
        Err(PayloadError::Misdirected)
    }
}

impl Body for Searched {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        loop {
            let source = match &mut self.source {
                Left::Open(source) => source,
                Left::Over(trailers) => {
                    return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
                }
            };
            let (out, trailers) = match ready!(Pin::new(source).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => (self.passage.feed(data), None),
                    Err(frame) => (self.passage.finish(), Some(frame.into_trailers().ok())),
                },
                None => (self.passage.finish(), Some(None)),
            };
            let out = self.judged(out, trailers.as_ref().and_then(Option::as_ref));
            if let (Ok(_), Some(trailers)) = (&out, trailers) {
                self.source = Left::Over(trailers);
            }
            match out {
                Ok(out) if out.is_empty() => {}
                out => return Poll::Ready(Some(out.map(Frame::data))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.source, Left::Over(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            // Nothing changes its length.
            Left::Open(body) => {
                let waiting = self.passage.waiting() as u64;
                body.size_hint().exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(rest + waiting))
            }
            Left::Over(_) => SizeHint::default(),
        }
    }
}
