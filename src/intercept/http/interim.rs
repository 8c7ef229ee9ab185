//! Interim answers (RFC 9110 §15.2): the word that a body may come, and hints that come before the answer.
//!
//! Over either version, on either side; a client of HTTP/1.0 knows none, and is told none. A client that waits for a
//! 100 is sent it when its body is first read: when the origin says so or is silent, or where the body is read before
//! anybody is asked.
//!
//! - `INVARIANT`: no byte of a body that waits goes upstream before its origin says so or is silent for
//!   [`limits::CONTINUE_WAIT`], and none at all once it has answered without it.
//! - `INVARIANT`: an interim answer passes between two messages of the library's, never inside one, and before the
//!   answer that it belongs to; at most [`limits::INTERIMS`] for one request, without what a final answer loses.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
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
    request.version() != Version::HTTP_10
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

/// Whom an interim answer is told: the client of one request.
#[derive(Clone)]
pub(super) enum Client {
    /// Over HTTP/1.
    Connection(Arc<Watch>),
    /// Over HTTP/2.
    Stream(Arc<Ahead>),
}

impl Client {
    fn tell(&self, status: StatusCode, headers: HeaderMap) {
        match self {
            Self::Connection(watch) => watch.interim(written(status, &headers)),
            Self::Stream(ahead) => ahead.say(status, headers),
        }
    }
}

/// What is to be said on a stream of HTTP/2 before its answer.
#[derive(Default)]
pub(super) struct Ahead(Mutex<Interims>);

#[derive(Default)]
struct Interims {
    waiting: VecDeque<Response<()>>,
    /// How many there were.
    count: usize,
    /// Who says it.
    stream: Option<Waker>,
}

impl Ahead {
    /// The body may come.
    pub(super) fn go_on(&self) {
        self.add(self.interims(), StatusCode::CONTINUE, HeaderMap::new());
    }

    fn say(&self, status: StatusCode, headers: HeaderMap) {
        let mut interims = self.interims();
        if interims.count < limits::INTERIMS {
            interims.count += 1;
            self.add(interims, status, headers);
        }
    }

    fn add(&self, mut interims: MutexGuard<'_, Interims>, status: StatusCode, headers: HeaderMap) {
        let mut interim = Response::new(());
        (*interim.status_mut(), *interim.headers_mut()) = (status, headers);
        interims.waiting.push_back(interim);
        interims.stream.take().into_iter().for_each(Waker::wake);
    }

    /// What is next to be said.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Response<()>> {
        let mut interims = self.interims();
        let Some(interim) = interims.waiting.pop_front() else {
            interims.stream.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
            return Poll::Pending;
        };
        Poll::Ready(interim)
    }

    fn interims(&self) -> MutexGuard<'_, Interims> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears what comes before the answer to a request, and passes it on.
#[derive(Clone)]
pub(super) struct Hearing {
    leave: Option<Arc<Shared>>,
    scrub: Option<Scrub>,
    client: Client,
}

impl Hearing {
    /// For the request of this client, whose body may wait for `leave`.
    pub(super) fn new(leave: Option<&Leave>, scrub: Option<&Scrub>, client: Client) -> Self {
        Self { leave: leave.map(|leave| Arc::clone(&leave.0)), scrub: scrub.cloned(), client }
    }

    /// Has the HTTP library tell what it hears over HTTP/1.
    pub(super) fn listen<B>(&self, request: &mut Request<B>) {
        let hearing = self.clone();
        hyper::ext::on_informational(request, move |interim| {
            hearing.hear(interim.status(), interim.headers().clone());
        });
    }

    /// The origin has said this.
    pub(super) fn hear(&self, status: StatusCode, mut headers: HeaderMap) {
        if status == StatusCode::CONTINUE {
            return self.leave.iter().for_each(|shared| shared.say(Word::Continue));
        }
        sanitise_response(&mut headers);
        headers.remove(CONTENT_LENGTH);
        self.scrub.iter().for_each(|scrub| scrub.head(&mut headers));
        self.client.tell(status, headers);
    }
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
