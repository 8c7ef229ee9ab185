//! Answers of origins that are granted a secret: what they echo of it is struck out before the sandbox reads it.
//!
//! It sees to it that such an answer can be read (a coding that is undone here, no part of a part), reads its fields,
//! its body and its trailers, and changes nothing else. What a value looks like is for [`crate::secret::scrub`].
//!
//! - `INVARIANT`: of such an answer nothing passes unread: one that cannot be read ends.
//! - `INVARIANT`: a body is read as it streams; what waits is bounded by one frame and one value.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, IF_RANGE, RANGE, SEC_WEBSOCKET_EXTENSIONS};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::attach::Reset;
use crate::intercept::ledger::Ledger;
use crate::limits;
use crate::secret::scrub::{Passage, Scrubber};

use super::coding::{CodingError, Decoder, restrict};
use super::payload::{Left, Payload, PayloadError, read};

/// Reads the answers to one request.
#[derive(Clone)]
pub(super) struct Scrub {
    scrubber: Arc<Scrubber>,
    ledger: Arc<Ledger>,
}

impl Scrub {
    /// With what is searched for, and where it is told how much was found.
    pub(super) fn new(scrubber: Arc<Scrubber>, ledger: Arc<Ledger>) -> Self {
        Self { scrubber, ledger }
    }

    /// Makes a request one whose answer can be read. A value is not read in a part that ends in its middle, so no part
    /// is asked for (RFC 9110 §14.2: whoever is asked may send the whole), nor are the frames of a WebSocket to be
    /// compressed (RFC 7692).
    pub(super) fn prepare(headers: &mut HeaderMap) {
        headers.remove(RANGE);
        headers.remove(IF_RANGE);
        headers.remove(SEC_WEBSOCKET_EXTENSIONS);
        restrict(headers);
    }

    /// Reads the fields of an answer, or its trailers.
    pub(super) fn head(&self, headers: &mut HeaderMap) {
        self.ledger.scrubbed(self.fields(headers));
    }

    /// Reads a body and its trailers as they pass; `headers` are those of its answer, which are made to fit.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn body(self, headers: &mut HeaderMap, body: Payload) -> Result<Payload, CodingError> {
        if body.is_end_stream() {
            return Ok(body);
        }
        let decoder = Decoder::of(headers)?;
        if decoder.is_some() {
            headers.remove(CONTENT_ENCODING);
            headers.remove(CONTENT_LENGTH);
        }
        let passage = self.scrubber.passage();
        let (source, left) = (Left::Open(body), Bytes::new());
        Ok(read(Scrubbed { scrub: self, source, decoder, left, is_full: false, unpacked: 0, passage }))
    }

    /// Strikes values out of fields; how many fields had one.
    fn fields(&self, headers: &mut HeaderMap) -> usize {
        let struck = headers.values_mut().filter_map(|value| {
            let clean = self.scrubber.strike(value.as_bytes())?;
            // A mark is a letter that any field may hold; what would not fit is left empty.
            *value = HeaderValue::from_bytes(&clean).unwrap_or(HeaderValue::from_static(""));
            Some(())
        });
        struck.count()
    }
}

/// A connection that has left HTTP, and of what comes out of it values are struck out. Frames are not told from what is
/// in them: a value that a frame's head parts is not found.
pub(super) struct Scrubbing<Io> {
    io: Io,
    scrub: Scrub,
    passage: Passage,
    ready: Bytes,
    is_over: bool,
}

impl Scrub {
    /// Reads what comes out of a connection that has left HTTP.
    pub(super) fn stream<Io>(self, io: Io) -> Scrubbing<Io> {
        let passage = self.scrubber.passage();
        Scrubbing { io, scrub: self, passage, ready: Bytes::new(), is_over: false }
    }
}

impl<Io> Drop for Scrubbing<Io> {
    fn drop(&mut self) {
        self.scrub.ledger.scrubbed(self.passage.found());
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Scrubbing<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.ready.is_empty() && !this.is_over {
            let mut space = [0; limits::DECODED_BYTES];
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut read))?;
            this.is_over = read.filled().is_empty();
            this.ready = match this.is_over {
                true => this.passage.finish(),
                false => this.passage.feed(Bytes::copy_from_slice(read.filled())),
            };
        }
        let count = this.ready.len().min(buf.remaining());
        buf.put_slice(&this.ready.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Scrubbing<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<Io: Reset> Reset for Scrubbing<Io> {
    fn reset_on_drop(&mut self) {
        self.io.reset_on_drop();
    }
}

/// A body of which values are struck out.
struct Scrubbed {
    scrub: Scrub,
    source: Left,
    decoder: Option<Decoder>,
    /// Of the last frame, what was not decoded yet.
    left: Bytes,
    /// Whether the decoder may give more without more input.
    is_full: bool,
    /// Bytes that were decoded in this turn.
    unpacked: usize,
    passage: Passage,
}

impl Scrubbed {
    /// Takes the next piece out of what has arrived; `None` where nothing is left of that.
    fn piece(&mut self) -> Result<Option<Bytes>, CodingError> {
        if self.left.is_empty() && !self.is_full {
            return Ok(None);
        }
        let Some(decoder) = &mut self.decoder else { return Ok(Some(std::mem::take(&mut self.left))) };
        let step = decoder.step(&self.left)?;
        self.left.advance(step.taken);
        self.is_full = step.is_full;
        self.unpacked += step.decoded.len();
        Ok(Some(step.decoded))
    }

    /// What may pass of the next piece. With the last of a body goes what was kept back, so that no frame more is sent.
    fn feed(&mut self, piece: Bytes) -> Bytes {
        let out = self.passage.feed(piece);
        let Left::Open(source) = &self.source else { return out };
        if !(self.left.is_empty() && self.decoder.is_none() && source.is_end_stream()) {
            return out;
        }
        self.source = Left::Over(None);
        let rest = self.passage.finish();
        if rest.is_empty() { out } else { [out, rest].concat().into() }
    }

    /// The end of the body: what was kept back.
    fn end(&mut self, mut trailers: Option<HeaderMap>) -> Result<Bytes, CodingError> {
        if self.decoder.as_mut().is_some_and(|decoder| !decoder.is_over()) {
            return Err(CodingError);
        }
        let rest = self.passage.finish();
        trailers.iter_mut().for_each(|trailers| self.scrub.head(trailers));
        self.source = Left::Over(trailers);
        Ok(rest)
    }

    fn fail(&mut self, error: CodingError) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        self.scrub.ledger.error(error.to_string());
        self.source = Left::Over(None);
        (self.left, self.is_full) = (Bytes::new(), false);
        Poll::Ready(Some(Err(PayloadError::Unreadable)))
    }
}

impl Drop for Scrubbed {
    /// Whoever reads a body of a known length does not ask whether it is over, so this is where it surely is.
    fn drop(&mut self) {
        self.scrub.ledger.scrubbed(self.passage.found());
    }
}

impl Body for Scrubbed {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        loop {
            if self.unpacked >= limits::UNPACK_TURN {
                self.unpacked = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.piece() {
                Ok(None) => {}
                Ok(Some(piece)) => {
                    let out = self.feed(piece);
                    if !out.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(out))));
                    }
                    continue;
                }
                Err(error) => return self.fail(error),
            }
            let source = match &mut self.source {
                Left::Open(source) => source,
                Left::Over(trailers) => {
                    return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
                }
            };
            let Poll::Ready(frame) = Pin::new(source).poll_frame(cx) else {
                self.unpacked = 0;
                return Poll::Pending;
            };
            let trailers = match frame {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.left = data;
                        continue;
                    }
                    Err(frame) => frame.into_trailers().ok(),
                },
                None => None,
            };
            match self.end(trailers) {
                Ok(rest) if rest.is_empty() => {}
                Ok(rest) => return Poll::Ready(Some(Ok(Frame::data(rest)))),
                Err(error) => return self.fail(error),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.source, Left::Over(None)) && self.left.is_empty() && !self.is_full
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.source, &self.decoder) {
            // Nothing changes its length.
            (Left::Open(body), None) => {
                let waiting = (self.left.len() + self.passage.waiting()) as u64;
                body.size_hint().exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(rest + waiting))
            }
            _ => SizeHint::default(),
        }
    }
}
