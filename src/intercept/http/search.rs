//! Bodies of requests on their way out, searched for the sandbox's placeholders: one that has any is cut short.
//!
//! A body is read as it streams and nothing of it is changed. When a placeholder is found, its end has not been sent;
//! what came before it may have been, so the request is broken off, and no server takes it for a whole one. What a
//! placeholder looks like is for [`crate::secret::scrub`]: as it is, escaped, in hexadecimal, in base64. A body that is
//! compressed is not read, nor is what follows a switch of protocols: a placeholder that goes out so is not replaced
//! either, and is worth nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::intercept::ledger::Ledger;
use crate::policy::placeholder::Known;
use crate::policy::verdict::{Basis, Denial, DenyReason};
use crate::secret::placeholder::Placeholders;
use crate::secret::scrub::Passage;

use super::Asked;
use super::payload::{Left, Payload, PayloadError, read};

/// What the search of one body has come to.
pub(super) struct Search {
    ledger: Arc<Ledger>,
    asked: Arc<Asked>,
    basis: Basis,
    has_found: AtomicBool,
}

impl Search {
    /// Of the body of a request that was permitted on this basis.
    pub(super) fn new(ledger: &Arc<Ledger>, asked: &Arc<Asked>, basis: &Basis) -> Arc<Self> {
        let (ledger, asked) = (Arc::clone(ledger), Arc::clone(asked));
        Arc::new(Self { ledger, asked, basis: basis.clone(), has_found: AtomicBool::new(false) })
    }

    /// Why the request was broken off, if it was for what was found.
    pub(super) fn denial(&self) -> Option<Denial> {
        self.has_found.load(Ordering::Acquire).then(|| self.misdirected())
    }

    /// Reads a body and its trailers as they pass.
    pub(super) fn body(self: &Arc<Self>, body: Payload, known: Arc<Placeholders>) -> Payload {
        if body.is_end_stream() {
            return body;
        }
        let (search, passage) = (Arc::clone(self), known.passage());
        read(Searched { search, known, source: Left::Open(body), passage })
    }

    fn misdirected(&self) -> Denial {
        Denial { reason: DenyReason::PlaceholderMisdirected, basis: self.basis.clone() }
    }

    fn found(&self) {
        self.has_found.store(true, Ordering::Release);
        let Denial { reason, basis } = self.misdirected();
        self.ledger.verdict(self.asked.judged(Err(reason), &basis));
    }
}

struct Searched {
    search: Arc<Search>,
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
        self.search.found();
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
