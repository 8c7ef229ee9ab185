//! An HTTP/2 connection of the sandbox: its requests as they come, and their answers.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use crate::intercept::http::Conversation;
use crate::intercept::http::arriving::{Arriving, Leaving};
use crate::intercept::http::gather::gather;
use crate::intercept::http::interim::{Ahead, Client};
use crate::intercept::http::payload::{Payload, PayloadError};
use crate::intercept::http::turn::Turn;
use crate::limits;

use super::pipe::Pipe;
use super::{FRAME, Streamed, Tunnel, date};

/// What a sandbox may send on one stream, and on one connection, before we read it.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of answers that wait for the connection on one stream.
const SEND_BUFFER: usize = 64 * 1024;

/// Answers the requests of a connection until either side ends it.
pub(in crate::intercept::http) async fn serve<Io>(io: Io, conversation: &Arc<Conversation>)
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (io, gate) = gather(io);
    let mut handshake = settings().handshake(io);
    let handshake = poll_fn(|cx| {
        let connection = Pin::new(&mut handshake).poll(cx);
        let _ = gate.poll_send(cx);
        connection
    });
    let Ok(Ok(mut connection)) = timeout(limits::KEEP_ALIVE, handshake).await else { return };
    let (mut streams, turn) = (FuturesUnordered::new(), Turn::default());
    let mut idle = pin!(sleep_until(Instant::now() + limits::KEEP_ALIVE));
    let mut seen = 0;
    poll_fn(|cx| {
        while idle.as_mut().poll(cx).is_ready() {
            let answered = conversation.watch.begun();
            if !conversation.watch.is_busy() && answered == seen {
                connection.graceful_shutdown();
            }
            seen = answered;
            idle.as_mut().reset(Instant::now() + limits::KEEP_ALIVE);
        }
        let (ended, is_full) = loop {
            // What the sandbox has reset is over for the library before it is here. Further requests wait with the
            // library, which bounds how many of those may be reset.
            if streams.len() >= limits::STREAMS as usize {
                break (connection.poll_closed(cx).is_ready(), true);
            }
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, answer)))) => {
                    let exchange = exchange(Arc::clone(conversation), request, answer);
                    streams.push(turn.clone().bound(exchange));
                }
                // The library has told whom it concerns of an error.
                Poll::Ready(Some(Err(_)) | None) => break (true, false),
                Poll::Pending => break (false, false),
            }
        };
        // What came whole before the end is still passed on.
        if ended {
            turn.begin_last()
        } else {
            turn.begin()
        }
        while let Poll::Ready(Some(())) = streams.poll_next_unpin(cx) {}
        if is_full && streams.len() < limits::STREAMS as usize {
            cx.waker().wake_by_ref();
        }
        // Where the sandbox does not take it, it wakes this.
        let _ = gate.poll_send(cx);
        if ended { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// What we tell a sandbox, and what we take from it.
fn settings() -> Builder {
    let mut settings = Builder::new();
    settings
        .max_concurrent_streams(limits::STREAMS)
        .max_header_list_size(limits::HEAD_BYTES as u32)
        .max_frame_size(FRAME)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_connect_protocol();
    settings
}

/// One request and its answer.
async fn exchange(conversation: Arc<Conversation>, request: Request<RecvStream>, mut answer: SendResponse<Bytes>) {
    let (head, from) = request.into_parts();
    let (connects, asks_for_head) = (head.method == Method::CONNECT, head.method == Method::HEAD);
    if connects && head.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") {
        // What is said of a body would be believed of the bytes that follow.
        return answer.send_reset(Reason::PROTOCOL_ERROR);
    }
    let (body, opening) = if connects {
        let (tell, opening) = oneshot::channel();
        (Arriving::Leaves(Leaving::Opening(opening)), Some((from, tell)))
    } else {
        (Arriving::Stream(Streamed::new(from, &head.headers, None)), None)
    };
    let ahead = Arc::<Ahead>::default();
    let answering = conversation.answer(Request::from_parts(head, body), Client::Stream(Arc::clone(&ahead)));
    let Some(answered) = answered(Box::pin(answering), &ahead, &mut answer).await else { return };
    let (mut head, body) = match answered {
        Ok(response) => response.into_parts(),
        Err(error) => return answer.send_reset(error.reason()),
    };
    dress(&mut head.headers);
    if let Some((from, tell)) = opening.filter(|_| head.status.is_success()) {
        head.headers.remove(CONTENT_LENGTH);
        if let Ok(to) = answer.send_response(Response::from_parts(head, ()), false) {
            // If nobody is there any more, dropping it resets it.
            let _ = tell.send(Box::new(Tunnel::new(to, from)));
        }
        return;
    }
    let mut is_whole = body.is_end_stream();
    if !is_whole && let Some(length) = body.size_hint().exact() {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    is_whole |= asks_for_head;
    let sent = answer.send_response(Response::from_parts(head, ()), is_whole);
    match sent {
        Ok(stream) if !is_whole => {
            drop(answer);
            Pipe::new(body, stream).await;
        }
        Ok(_) => {}
        Err(_) => answer.send_reset(Reason::INTERNAL_ERROR),
    }
}

/// The answer, before which is said what comes ahead of it; `None` if the sandbox breaks off meanwhile.
async fn answered<F>(mut answering: Pin<Box<F>>, ahead: &Ahead, answer: &mut SendResponse<Bytes>) -> Option<F::Output>
where
    F: Future<Output = Result<Response<Payload>, PayloadError>>,
{
    poll_fn(|cx| {
        let answered = answering.as_mut().poll(cx);
        while let Poll::Ready(interim) = ahead.poll_next(cx) {
            if answer.poll_reset(cx).is_ready() || answer.send_informational(interim).is_err() {
                return Poll::Ready(None);
            }
        }
        if answered.is_pending() && answer.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        answered.map(Some)
    })
    .await
}

/// Makes a head one of HTTP/2's: without what is of a connection (RFC 9113 §8.2.2), which an answer of ours may say,
/// and with a date (RFC 9110 §6.6.1).
fn dress(headers: &mut HeaderMap) {
    const CONNECTIONS: [HeaderName; 6] = [
        CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in &CONNECTIONS {
        headers.remove(name);
    }
    headers.entry(DATE).or_insert_with(date::now);
}
