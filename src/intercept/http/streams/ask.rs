//! One request to an HTTP/2 upstream, and what it answers.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use tokio::sync::oneshot;

use crate::intercept::http::arriving::{Arriving, Broken, Leaving};
use crate::intercept::http::interim::Hearing;
use crate::intercept::http::local::Spawner;
use crate::intercept::http::payload::{self, Payload};

use super::pipe::Pipe;
use super::{Streamed, Tunnel};

/// Why a request was not answered by its origin, over either version.
pub(in crate::intercept::http) enum SendError {
    /// No origin has begun with it: the connection was gone before the request was on it, or the upstream says that it
    /// left it aside. The request comes back.
    Unsent(Box<Request<Payload>>),
    /// It broke.
    Broken(Broken),
}

impl SendError {
    fn broken(error: h2::Error, spare: Option<Request<Payload>>) -> Self {
        match spare.filter(|_| is_left_aside(&error)) {
            Some(request) => Self::Unsent(Box::new(request)),
            None => Self::Broken(Broken::Stream(error)),
        }
    }
}

/// Sends a request on a new stream of the connection that `sender` is of, whose task runs what is left to `spawner`;
/// `hearing` gets what comes before the answer. Dropped before its end, it resets the stream.
///
/// # Errors
/// See [`SendError`].
pub(in crate::intercept::http) async fn ask(
    mut sender: SendRequest<Bytes>,
    request: Request<Payload>,
    spawner: &Spawner,
    hearing: Option<&Hearing>,
) -> Result<Response<Arriving>, SendError> {
    if poll_fn(|cx| sender.poll_ready(cx)).await.is_err() {
        return Err(SendError::Unsent(Box::new(request)));
    }
    let spare = spare(&request);
    let (mut head, body) = request.into_parts();
    let connects = head.method == Method::CONNECT;
    let is_whole = body.is_end_stream() && !connects;
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0 || has_payload(&head.method)) {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let sent = sender.send_request(Request::from_parts(head, ()), is_whole);
    let (mut answer, stream) = match sent {
        Ok(sent) => sent,
        Err(error) => return Err(SendError::broken(error, spare)),
    };
    // The upstream takes so many streams at once: this one may have to wait.
    if let Err(error) = poll_fn(|cx| sender.poll_ready(cx)).await {
        return Err(SendError::broken(error, spare));
    }
    drop(sender);
    let (mut stream, other_half) = match (connects, is_whole) {
        (true, _) | (_, true) => (Some(stream), None),
        (false, false) => (None, send(Pipe::new(body, stream), spawner).await),
    };
    let answered = poll_fn(|cx| poll_answer(&mut answer, hearing, cx)).await;
    let response = match answered {
        Ok(response) => response,
        Err(Broken::Stream(error)) => return Err(SendError::broken(error, spare)),
        Err(broken) => {
            stream.iter_mut().for_each(|stream| stream.send_reset(Reason::PROTOCOL_ERROR));
            return Err(SendError::Broken(broken));
        }
    };
    let (head, body) = response.into_parts();
    let body = match stream.filter(|_| connects && head.status == StatusCode::OK) {
        Some(stream) => {
            let tunnel = open(stream, body, &head.headers).map_err(SendError::Broken)?;
            Arriving::Leaves(Leaving::Stream(Box::new(tunnel)))
        }
        None => Arriving::Stream(Streamed::new(body, &head.headers, other_half)),
    };
    Ok(Response::from_parts(head, body))
}

/// Begins to send a body. What cannot go at once is left to the connection's task, and ends, too, if what is returned
/// is dropped before it is told that the other half has ended.
async fn send(mut pipe: Pipe, spawner: &Spawner) -> Option<oneshot::Sender<()>> {
    if poll_fn(|cx| Poll::Ready(Pin::new(&mut pipe).poll(cx))).await.is_ready() {
        return None;
    }
    let (tell, other_half) = oneshot::channel();
    spawner.spawn(async move {
        tokio::select! {
            biased;
            ended = other_half => {
                if ended.is_err() {
                    return pipe.cancel();
                }
            }
            () = &mut pipe => return,
        }
        pipe.await;
    });
    Some(tell)
}

/// Hears what comes before the answer, and the answer. All of the former is taken away as it comes: the library keeps
/// what nobody asks for.
fn poll_answer(
    answer: &mut ResponseFuture,
    hearing: Option<&Hearing>,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<RecvStream>, Broken>> {
    while let Poll::Ready(interim) = answer.poll_informational(cx) {
        let Some(interim) = interim else {
            return Pin::new(answer).poll(cx).map_err(Broken::Stream);
        };
        let (head, ()) = interim.map_err(Broken::Stream)?.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Poll::Ready(Err(Broken::Switched));
        }
        if let Some(hearing) = hearing {
            hearing.hear(head.status, head.headers);
        }
    }
    Poll::Pending
}

/// The stream that a `CONNECT` has opened. Bytes of an answer's body are none of it.
fn open(mut to: SendStream<Bytes>, from: RecvStream, headers: &HeaderMap) -> Result<Tunnel, Broken> {
    if headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
        to.send_reset(Reason::INTERNAL_ERROR);
        return Err(Broken::Stream(Reason::INTERNAL_ERROR.into()));
    }
    Ok(Tunnel::new(to, from))
}

/// The same request once more, if it has no body.
fn spare(request: &Request<Payload>) -> Option<Request<Payload>> {
    if !request.body().is_end_stream() {
        return None;
    }
    let mut spare = Request::new(payload::whole(Bytes::new()));
    *spare.method_mut() = request.method().clone();
    *spare.uri_mut() = request.uri().clone();
    *spare.version_mut() = request.version();
    *spare.headers_mut() = request.headers().clone();
    *spare.extensions_mut() = request.extensions().clone();
    Some(spare)
}

/// Whether the upstream says that it did nothing with the request, as one does that ends a connection after so many:
/// it was above the last stream that counts (RFC 9113 §6.8), or refused by itself (§8.7).
fn is_left_aside(error: &h2::Error) -> bool {
    let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (error.is_go_away() || is_refused)
}

/// Whether a body of no bytes says something with this method (RFC 9110 §8.6).
fn has_payload(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT)
}
