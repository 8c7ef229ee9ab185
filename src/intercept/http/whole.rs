//! Bodies that are read before their head is sent: to be signed over, or to have their length told.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};

use super::payload::{Payload, PayloadError};

/// A body that is there as a whole. What it was read from is kept until it has been sent.
pub(super) struct Whole {
    frames: VecDeque<Frame<Bytes>>,
    _source: Payload,
}

/// Why a body cannot be had as a whole.
pub(super) enum Unread {
    /// It is longer than may wait.
    TooLong,
    /// It broke off.
    Broken(PayloadError),
}

impl Whole {
    /// Reads so many bytes at most.
    pub(super) async fn read(mut source: Payload, most: usize) -> Result<Self, Unread> {
        let (mut frames, mut length) = (VecDeque::new(), 0);
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut source).poll_frame(cx)).await {
            let frame = frame.map_err(Unread::Broken)?;
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > most || frames.len() > most / 64 {
                return Err(Unread::TooLong);
            }
            if frame.data_ref().is_none_or(|data| !data.is_empty()) {
                frames.push_back(frame);
            }
        }
        Ok(Self { frames, _source: source })
    }

    /// How long it is.
    pub(super) fn len(&self) -> usize {
        self.frames.iter().filter_map(Frame::data_ref).map(Bytes::len).sum()
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> Bytes {
        let mut data = self.frames.iter().filter_map(Frame::data_ref);
        match (data.next(), data.next()) {
            (None, _) => Bytes::new(),
            (Some(only), None) => only.clone(),
            _ => self.frames.iter().filter_map(Frame::data_ref).flatten().copied().collect(),
        }
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        Poll::Ready(self.frames.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}

/// The length that a head tells of its body.
pub(super) fn told_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
}
