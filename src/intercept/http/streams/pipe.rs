//! A body on its way out on a stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body as _;

use crate::intercept::http::payload::Payload;

/// Sends a body. Of what it reads one piece waits for room, and the next is read when that has it; room is asked for
/// when there is a piece, for what one stream holds and does not use another cannot have. It ends with the body, which
/// resets the stream if it breaks off, or with the stream.
pub(super) struct Pipe {
    body: Payload,
    stream: SendStream<Bytes>,
    waiting: Option<Bytes>,
}

impl Pipe {
    pub(super) fn new(body: Payload, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, waiting: None }
    }

    /// Ends it before its end.
    pub(super) fn cancel(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }

    /// Ready when there is room, or the stream is closed, which whoever sends next finds.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.stream.capacity() == 0 {
            if !matches!(ready!(self.stream.poll_capacity(cx)), Some(Ok(_))) {
                break;
            }
        }
        Poll::Ready(())
    }

    /// Sends on, until the end: `Err` if the stream is closed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if self.waiting.is_some() {
                ready!(self.poll_room(cx));
            }
            if let Some(data) = self.waiting.take() {
                self.stream.send_data(data, false)?;
            }
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                // Whoever reads may break off meanwhile.
                return self.stream.poll_reset(cx).map(|reset| reset.map(drop));
            };
            let frame = match frame {
                None => return Poll::Ready(self.stream.send_data(Bytes::new(), true)),
                Some(Err(error)) => {
                    self.stream.send_reset(error.reason());
                    return Poll::Ready(Ok(()));
                }
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                // With the last piece it is over: nothing more is read that would have to wait.
                Ok(data) if self.body.is_end_stream() => return Poll::Ready(self.stream.send_data(data, true)),
                Ok(data) if data.is_empty() => {}
                Ok(data) => {
                    self.stream.reserve_capacity(1);
                    self.waiting = Some(data);
                }
                Err(frame) => {
                    self.stream.reserve_capacity(0);
                    return Poll::Ready(self.stream.send_trailers(frame.into_trailers().unwrap_or_default()));
                }
            }
        }
    }
}

impl Future for Pipe {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_send(cx).map(|sent| {
            if sent.is_err() {
                // A closed stream is left as it is; what could not be put into it ends it.
                self.stream.send_reset(Reason::INTERNAL_ERROR);
            }
        })
    }
}
