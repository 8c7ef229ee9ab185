//! A body as it arrives on a stream. Room for more is given as it is read.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Frame, SizeHint};
use tokio::sync::oneshot;

use crate::intercept::http::interim::Ahead;

/// What arrives on a stream after a head.
pub(in crate::intercept::http) struct Streamed {
    stream: RecvStream,
    /// What is still to come, where its head tells.
    left: Option<u64>,
    /// Whether only trailers may follow.
    is_trailing: bool,
    /// Told at the end, where the other half of the stream is still being sent; dropped before it, that ends, too.
    other_half: Option<oneshot::Sender<()>>,
    /// Where its client is told to send it.
    invites: Option<Arc<Ahead>>,
}

impl Streamed {
    /// What follows a head with these fields. The library sees to it that no more and no less comes than it tells.
    pub(in crate::intercept::http) fn new(
        stream: RecvStream,
        headers: &HeaderMap,
        other_half: Option<oneshot::Sender<()>>,
    ) -> Self {
        let told = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let left = told.or(stream.is_end_stream().then_some(0));
        Self { stream, left, is_trailing: false, other_half, invites: None }
    }

    /// Has its client told to send it, if nothing has come when it is first read (RFC 9110 §10.1.1).
    pub(in crate::intercept::http) fn inviting(&mut self, client: &Arc<Ahead>) {
        self.invites = Some(Arc::clone(client));
    }

    pub(in crate::intercept::http) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.is_trailing {
            let data = self.stream.poll_data(cx);
            if let Some(client) = self.invites.take()
                && data.is_pending()
            {
                client.go_on();
            }
            match ready!(data) {
                Some(Ok(data)) => {
                    self.stream.flow_control().release_capacity(data.len())?;
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.is_trailing = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    pub(in crate::intercept::http) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(in crate::intercept::http) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if self.stream.is_end_stream() {
            self.other_half.take().map(|other_half| other_half.send(()));
        }
    }
}
