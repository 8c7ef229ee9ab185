//! Interim answers (RFC 9110 §15.2): the word that a body may come, and hints that come before the answer.
//!
//! Over HTTP/1 alone: the HTTP library neither tells of an HTTP/2 upstream's, nor sends one to an HTTP/2 client, so
//! those end here, and an `Expect` for the one, or of the other, is as if not said. Whoever waits for a 100 that does
//! not come sends after a while (RFC 9110 §10.1.1).
//!
//! - `INVARIANT`: no byte of a body that waits goes upstream before its origin says so or is silent for
//!   [`limits::CONTINUE_WAIT`], and none at all once it has answered without it.
//! - `INVARIANT`: an interim answer passes between two messages of the library's, never inside one, and before the
//!   answer that it belongs to; at most [`limits::INTERIMS`] for one request, without what a final answer loses.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use hyper::body::Body;
use tokio::time::{Sleep, sleep};

use super::guard::Watch;
use super::headers::sanitise_response;
use super::scrub::Scrub;
use crate::limits;

/// Whether a request wants its origin's word before it sends its body. Any other expectation is as if not said.
pub(super) fn is_awaited<B: Body>(request: &Request<B>) -> bool {
    let mut expected = request.headers().get_all(EXPECT).iter();
    let named = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    request.version() == Version::HTTP_11
        && !request.body().is_end_stream()
        && expected.next().is_some_and(named)
        && expected.next().is_none()
}

/// Puts back what was removed.
pub(super) fn restore(headers: &mut HeaderMap) {
    headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
}

/// What of its origin's word is known to a body that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    None,
    Continue,
    /// The answer has come, and the body is not wanted.
    Answered,
    /// The exchange is over.
    Over,
}

#[derive(Debug)]
struct Shared(Mutex<(Word, Option<Waker>)>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (Word, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says it, where nothing else was said that rules it out.
    fn say(&self, word: Word) {
        let mut shared = self.lock();
        let (said, waker) = &mut *shared;
        let comes_later = match word {
            Word::None => false,
            Word::Continue | Word::Answered => *said == Word::None,
            Word::Over => *said != Word::Continue,
        };
        if comes_later {
            *said = word;
            waker.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// Held by whoever hears the origin. When it is dropped, the exchange is over.
#[derive(Debug)]
pub(super) struct Leave(Arc<Shared>);

/// Held by the body.
#[derive(Debug)]
pub(super) struct Wait {
    shared: Arc<Shared>,
    patience: Pin<Box<Sleep>>,
}

/// For a body that is to wait.
pub(super) fn wait() -> (Leave, Wait) {
    let shared = Arc::new(Shared(Mutex::new((Word::None, None))));
    (Leave(Arc::clone(&shared)), Wait { shared, patience: Box::pin(sleep(limits::CONTINUE_WAIT)) })
}

impl Leave {
    /// The origin has answered: what has not gone by now does not go any more.
    pub(super) fn answered(&self) {
        self.0.say(Word::Answered);
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.say(Word::Over);
    }
}

impl Wait {
    /// Ready with whether the body may go.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut shared = self.shared.lock();
        let (word, waker) = &mut *shared;
        if *word == Word::None && self.patience.as_mut().poll(cx).is_ready() {
            *word = Word::Continue;
        }
        match word {
            Word::Continue => Poll::Ready(true),
            Word::Over => Poll::Ready(false),
            Word::None | Word::Answered => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Hears what comes before the answer to a request.
pub(super) fn listen<B>(request: &mut Request<B>, leave: Option<&Leave>, scrub: Option<&Scrub>, watch: &Arc<Watch>) {
    let (leave, scrub, watch) = (leave.map(|leave| Arc::clone(&leave.0)), scrub.cloned(), Arc::clone(watch));
    hyper::ext::on_informational(request, move |interim| match interim.status() {
        StatusCode::CONTINUE => leave.iter().for_each(|shared| shared.say(Word::Continue)),
        status => {
            let mut headers = interim.headers().clone();
            sanitise_response(&mut headers);
            headers.remove(CONTENT_LENGTH);
            scrub.iter().for_each(|scrub| scrub.head(&mut headers));
            watch.interim(written(status, &headers));
        }
    });
}

/// As HTTP/1.1 writes it.
fn written(status: StatusCode, headers: &HeaderMap) -> Bytes {
    let mut head = BytesMut::new();
    head.put_slice(b"HTTP/1.1 ");
    head.put_slice(status.as_str().as_bytes());
    head.put_u8(b' ');
    head.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in headers {
        head.put_slice(b"\r\n");
        head.put_slice(name.as_str().as_bytes());
        head.put_slice(b": ");
        head.put_slice(value.as_bytes());
    }
    head.put_slice(b"\r\n\r\n");
    head.freeze()
}
