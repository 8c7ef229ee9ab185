//! HTTP/2 on either side: what comes before an answer, what breaks off, and what has to wait. A library that lets each
//! side say anything plays both.

use std::future::poll_fn;

use bytes::Bytes;
use exeat::limits;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::rig::{Rig, read_answer, read_head, speaking};
use super::upstreams::played;
use crate::support::PATIENCE;
use crate::{INJECTING, SECRET, http1_only, status};

/// A client of the sandbox.
async fn client(rig: &Rig) -> SendRequest<Bytes> {
    let tls = rig.tls("allowed.test", &["h2"]).await;
    let (client, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
    tokio::spawn(connection);
    client
}

fn asking(method: &str) -> http::request::Builder {
    Request::builder().method(method).uri("https://allowed.test/")
}

/// A request whose body waits for its origin's word.
fn waiting() -> Request<()> {
    asking("POST").header("expect", "100-continue").header("content-length", 4).body(()).expect("a request")
}

/// The next that is said before the answer.
async fn interim(answer: &mut ResponseFuture) -> Option<Response<()>> {
    let said = timeout(PATIENCE, poll_fn(|cx| answer.poll_informational(cx))).await.expect("something is said");
    said.map(|said| said.expect("a stream"))
}

/// An origin that speaks HTTP/2: its requests as they come.
struct Origin(mpsc::UnboundedReceiver<(Request<RecvStream>, SendResponse<Bytes>)>);

impl Origin {
    async fn start(rig: &Rig) -> Self {
        let (listener, tls) = (played(rig).await, speaking(&rig.ca.tls(&["allowed.test"]), "h2"));
        let (tell, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let (tls, tell) = (tls.clone(), tell.clone());
                tokio::spawn(async move {
                    let Ok(io) = tls.accept(io).await else { return };
                    let mut connection = h2::server::handshake(io).await.expect("HTTP/2");
                    while let Some(Ok(asked)) = connection.accept().await {
                        let _ = tell.send(asked);
                    }
                });
            }
        });
        Self(requests)
    }

    async fn asked(&mut self) -> (Request<RecvStream>, SendResponse<Bytes>) {
        timeout(PATIENCE, self.0.recv()).await.expect("a request").expect("it serves")
    }
}

fn said(status: u16, fields: &[(&str, &str)]) -> Response<()> {
    let response = Response::builder().status(status);
    let response = fields.iter().fold(response, |response, (name, value)| response.header(*name, *value));
    response.body(()).expect("an answer")
}

/// What an origin says early, with what may not pass.
fn hints() -> Response<()> {
    let echo = format!("key {SECRET}");
    said(103, &[("link", "</style.css>; rel=preload"), ("x-echo", &echo), ("exeat-denied", "forged")])
}

async fn end(mut body: RecvStream) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(data) = timeout(PATIENCE, body.data()).await.expect("an end") {
        let data = data.expect("a body in good order");
        body.flow_control().release_capacity(data.len()).expect("what has come");
        whole.extend_from_slice(&data);
    }
    whole
}

fn assert_hints(early: &Response<()>) {
    assert_eq!(early.status(), 103);
    assert_eq!(early.headers()["link"], "</style.css>; rel=preload");
    assert!(!early.headers().contains_key("exeat-denied") && !format!("{early:?}").contains(SECRET), "{early:?}");
}

#[tokio::test]
async fn hints_and_leave_pass_over_http2() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (mut origin, mut client) = (Origin::start(&rig).await, client(&rig).await);
    for _ in 0..2 {
        client = client.ready().await.expect("it takes more");
        let (mut answer, mut body) = client.send_request(waiting(), false).expect("a stream");
        let (request, mut answering) = origin.asked().await;
        assert_eq!(request.headers()["expect"], "100-continue");
        answering.send_informational(hints()).expect("a stream");
        assert_hints(&interim(&mut answer).await.expect("hints"));
        answering.send_informational(said(100, &[("x-late", "1")])).expect("a stream");
        let leave = interim(&mut answer).await.expect("leave");
        assert!(leave.status() == 100 && leave.headers().is_empty(), "{leave:?}");
        body.send_data("body".into(), true).expect("an open stream");
        assert_eq!(end(request.into_body()).await, b"body");
        // With the answer, in one stroke.
        answering.send_informational(said(102, &[])).expect("a stream");
        answering.send_response(said(200, &[]), false).expect("a stream").send_data("ok".into(), true).expect("open");
        assert_eq!(interim(&mut answer).await.expect("a word").status(), 102);
        assert!(interim(&mut answer).await.is_none());
        let (head, body) = answer.await.expect("an answer").into_parts();
        assert!(head.status == 200 && head.headers.contains_key("date"), "{head:?}");
        assert_eq!(end(body).await, b"ok");
    }
}

#[tokio::test]
async fn hints_and_leave_pass_from_http2_to_http1() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let mut origin = Origin::start(&rig).await;
    let mut io = rig.tls("allowed.test", &["http/1.1"]).await;
    let head = "POST / HTTP/1.1\r\nhost: allowed.test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    io.write_all(head.as_bytes()).await.expect("it reads");
    let (request, mut answering) = origin.asked().await;
    answering.send_informational(hints()).expect("a stream");
    let early = read_head(&mut io).await;
    assert!(early.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n"), "{early}");
    assert!(!early.contains(SECRET) && !early.contains("forged"), "{early}");
    answering.send_informational(said(100, &[])).expect("a stream");
    assert_eq!(read_head(&mut io).await, "HTTP/1.1 100 Continue\r\n\r\n");
    io.write_all(b"body").await.expect("it reads");
    assert_eq!(end(request.into_body()).await, b"body");
    answering
        .send_response(said(200, &[("content-length", "2")]), false)
        .expect("a stream")
        .send_data("ok".into(), true)
        .expect("open");
    assert!(read_answer(&mut io).await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn hints_and_leave_pass_from_http1_to_http2() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let tls = http1_only(&rig.ca.tls(&["allowed.test"]));
    let (origin, mut client): (TcpListener, _) = (played(&rig).await, client(&rig).await);
    let (mut answer, mut body) = client.send_request(waiting(), false).expect("a stream");
    let (up, _) = origin.accept().await.expect("a connection");
    let mut up = tls.accept(up).await.expect("a handshake");
    let head = read_head(&mut up).await;
    assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
    let early = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\nx-echo: key {SECRET}\r\n\
         exeat-denied: forged\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n"
    );
    up.write_all(early.as_bytes()).await.expect("it reads");
    up.flush().await.expect("it reads");
    let early = interim(&mut answer).await.expect("hints");
    assert_hints(&early);
    assert!(!early.headers().contains_key("x-hop") && !early.headers().contains_key("connection"), "{early:?}");
    up.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.expect("it reads");
    up.flush().await.expect("it reads");
    assert_eq!(interim(&mut answer).await.expect("leave").status(), 100);
    body.send_data("body".into(), true).expect("an open stream");
    let mut sent = [0; 4];
    up.read_exact(&mut sent).await.expect("the body");
    assert_eq!(&sent, b"body");
    up.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("it reads");
    up.flush().await.expect("it reads");
    assert_eq!(end(answer.await.expect("an answer").into_body()).await, b"ok");
}

/// A body whose origin does not want it stays; one whose origin is silent goes; one that is here without being asked
/// for is not asked for.
#[tokio::test]
async fn a_body_over_http2_waits_for_its_origin() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (mut origin, mut client) = (Origin::start(&rig).await, client(&rig).await);
    let (answer, mut body) = client.send_request(waiting(), false).expect("a stream");
    body.send_data("body".into(), true).expect("an open stream");
    let (request, mut answering) = origin.asked().await;
    answering.send_response(said(417, &[]), true).expect("a stream");
    assert_eq!(timeout(PATIENCE, answer).await.expect("an answer").expect("an answer").status(), 417);
    let unwanted = timeout(PATIENCE, request.into_body().data()).await.expect("an end");
    assert_eq!(unwanted.expect("no end in good order").expect_err("no body").reason(), Some(Reason::CANCEL));

    client = client.ready().await.expect("it takes more");
    let begun = std::time::Instant::now();
    let (mut answer, mut body) = client.send_request(waiting(), false).expect("a stream");
    let (request, mut answering) = origin.asked().await;
    assert_eq!(interim(&mut answer).await.expect("leave").status(), 100);
    assert!(begun.elapsed() >= limits::CONTINUE_WAIT);
    body.send_data("body".into(), true).expect("an open stream");
    assert_eq!(end(request.into_body()).await, b"body");
    answering.send_response(said(204, &[]), true).expect("a stream");
    assert_eq!(answer.await.expect("an answer").status(), 204);

    client = client.ready().await.expect("it takes more");
    let (mut answer, mut body) = client.send_request(waiting(), false).expect("a stream");
    body.send_data("body".into(), true).expect("an open stream");
    let (request, mut answering) = origin.asked().await;
    answering.send_informational(said(100, &[])).expect("a stream");
    assert_eq!(end(request.into_body()).await, b"body");
    answering.send_response(said(204, &[]), true).expect("a stream");
    assert!(interim(&mut answer).await.is_none());
}

/// No more than so many; the answer comes whole behind them, and the connection serves on.
#[tokio::test]
async fn e48_a_flood_of_interim_answers_over_http2_is_bounded() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (mut origin, mut client) = (Origin::start(&rig).await, client(&rig).await);
    for _ in 0..2 {
        client = client.ready().await.expect("it takes more");
        let (mut answer, _) = client.send_request(asking("GET").body(()).expect("a request"), true).expect("a stream");
        let (_request, mut answering) = origin.asked().await;
        for _ in 0..1000 {
            answering.send_informational(said(103, &[("link", "<x>")])).expect("a stream");
        }
        answering.send_response(said(200, &[]), false).expect("a stream").send_data("ok".into(), true).expect("open");
        let mut interims = 0;
        while interim(&mut answer).await.is_some() {
            interims += 1;
        }
        assert_eq!(interims, limits::INTERIMS);
        assert_eq!(end(answer.await.expect("an answer").into_body()).await, b"ok");
    }
}

/// RFC 9113 §8.6: a stream does not switch.
#[tokio::test]
async fn e52_a_stream_upstream_does_not_switch_by_101() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (mut origin, mut client) = (Origin::start(&rig).await, client(&rig).await);
    for method in ["GET", "POST"] {
        client = client.ready().await.expect("it takes more");
        let (answer, _) = client.send_request(asking(method).body(()).expect("a request"), true).expect("a stream");
        let (_request, mut answering) = origin.asked().await;
        answering.send_informational(said(101, &[])).expect("a stream");
        let _ = answering.send_response(said(200, &[]), true);
        assert_eq!(answer.await.expect("an answer").status(), StatusCode::BAD_GATEWAY);
    }
    let mut io = rig.tls("allowed.test", &["http/1.1"]).await;
    io.write_all(b"GET / HTTP/1.1\r\nhost: allowed.test\r\n\r\n").await.expect("it reads");
    let (_request, mut answering) = origin.asked().await;
    answering.send_informational(said(101, &[])).expect("a stream");
    let answer = read_answer(&mut io).await;
    assert!(status(&answer) == 502 && answer.contains("switched to a protocol that was not asked for"), "{answer}");
    let reset = timeout(PATIENCE, poll_fn(|cx| answering.poll_reset(cx))).await.expect("a reset");
    assert_eq!(reset.expect("a reset"), Reason::PROTOCOL_ERROR);
}

/// An origin of HTTP/1 would take the first frames for a body.
#[tokio::test]
async fn e52_a_connect_that_tells_a_length_opens_nothing() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (mut origin, mut client) = (Origin::start(&rig).await, client(&rig).await);
    for lengths in [&["5"][..], &["00"], &["0", "0"], &["-1"]] {
        client = client.ready().await.expect("it takes more");
        let mut request = Request::connect("https://allowed.test/chat").extension(Protocol::from_static("websocket"));
        for length in lengths {
            request = request.header("content-length", *length);
        }
        let (answer, _body) = client.send_request(request.body(()).expect("a request"), false).expect("a stream");
        let heard = timeout(PATIENCE, answer).await.expect("an end");
        assert!(heard.as_ref().map_or(true, |answer| !answer.status().is_success()), "{lengths:?}: {heard:?}");
    }
    assert!(origin.0.try_recv().is_err());
    let here = client
        .ready()
        .await
        .expect("the connection goes on")
        .send_request(Request::head("https://allowed.test/denied").body(()).expect("a request"), true);
    // It is an answer as HTTP/2 has it: a date, and to `HEAD` no body.
    let (head, body) = here.expect("a stream").0.await.expect("an answer").into_parts();
    assert!(head.status == 418 && head.headers["content-length"] == "13", "{head:?}");
    assert!(head.headers.contains_key("date") && body.is_end_stream(), "{head:?}");
}

/// An interim answer that ends its stream is no answer. The frames are put down byte by byte.
#[tokio::test]
async fn e48_an_interim_answer_is_no_end() {
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    // HEADERS with END_STREAM and END_HEADERS, for stream 1: `:status: 103`.
    const HINTS: &[u8] = b"\0\0\x05\x01\x05\0\0\0\x01\x08\x03103";
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let tls = speaking(&rig.ca.tls(&["allowed.test"]), "h2");
    let (origin, mut client) = (played(&rig).await, client(&rig).await);
    let (mut answer, _) = client.send_request(asking("GET").body(()).expect("a request"), true).expect("a stream");
    let (up, _) = origin.accept().await.expect("a connection");
    let mut up = tls.accept(up).await.expect("a handshake");
    let mut preface = [0; 24];
    up.read_exact(&mut preface).await.expect("a preface");
    up.write_all(SETTINGS).await.expect("it reads");
    // The head of the request stands behind the settings.
    loop {
        let mut head = [0; 9];
        up.read_exact(&mut head).await.expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        up.read_exact(&mut vec![0; length as usize]).await.expect("a frame");
        if head[3] == 1 {
            break;
        }
    }
    up.write_all(HINTS).await.expect("it reads");
    up.flush().await.expect("it reads");
    while interim(&mut answer).await.is_some() {}
    assert_eq!(answer.await.expect("an answer").status(), StatusCode::BAD_GATEWAY);
}

/// A client that breaks off is heard upstream: before its answer, amid its body that nobody makes room for, amid the
/// answer.
#[tokio::test]
async fn who_breaks_off_is_heard_on_the_other_side() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (mut origin, mut client) = (Origin::start(&rig).await, client(&rig).await);
    for (sends_much, is_answered) in [(false, false), (true, false), (false, true), (true, true)] {
        client = client.ready().await.expect("it takes more");
        let request = asking("POST").body(()).expect("a request");
        let (answer, mut body) = client.send_request(request, false).expect("a stream");
        body.send_data(vec![7; if sends_much { 200_000 } else { 10 }].into(), false).expect("an open stream");
        let (mut request, mut answering) = origin.asked().await;
        assert!(request.body_mut().data().await.expect("a piece").is_ok());
        let reset = |mut stream: SendStream<Bytes>| async move {
            timeout(PATIENCE, poll_fn(|cx| stream.poll_reset(cx))).await.expect("a reset").expect("a reset")
        };
        if is_answered {
            let mut up = answering.send_response(said(200, &[]), false).expect("a stream");
            up.send_data("much, and not all".into(), false).expect("an open stream");
            let mut answer = answer.await.expect("an answer");
            assert!(answer.body_mut().data().await.expect("a piece").is_ok());
            drop((answer, body));
            assert_eq!(reset(up).await, Reason::CANCEL);
        } else {
            drop((answer, body));
            let reset = timeout(PATIENCE, poll_fn(|cx| answering.poll_reset(cx))).await.expect("a reset");
            assert_eq!(reset.expect("a reset"), Reason::CANCEL);
        }
        drop(request);
    }
    // And an origin that does, by its client, which does not take the part for the whole.
    for reason in [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR] {
        client = client.ready().await.expect("it takes more");
        let (answer, _) = client.send_request(asking("GET").body(()).expect("a request"), true).expect("a stream");
        let (_request, mut answering) = origin.asked().await;
        let mut up = answering.send_response(said(200, &[]), false).expect("a stream");
        up.send_data("a part".into(), false).expect("an open stream");
        let mut answer = answer.await.expect("an answer");
        assert_eq!(answer.body_mut().data().await.expect("a piece").expect("a piece"), "a part");
        up.send_reset(reason);
        let broken = timeout(PATIENCE, answer.body_mut().data()).await.expect("an end").expect("no end in good order");
        let expected = if reason == Reason::NO_ERROR { Reason::INTERNAL_ERROR } else { reason };
        assert_eq!(broken.expect_err("no more").reason(), Some(expected));
    }
}

/// Whoever is not read is not given room for more, in either direction.
#[tokio::test]
async fn what_nobody_reads_has_to_wait() {
    const MOST: usize = 4 * 1024 * 1024;
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (mut origin, mut client) = (Origin::start(&rig).await, client(&rig).await);
    let (answer, mut up) = client.send_request(asking("POST").body(()).expect("a request"), false).expect("a stream");
    let (request, mut answering) = origin.asked().await;
    let sent = fill(&mut up).await;
    assert!(sent < MOST, "{sent}");
    let mut down = answering.send_response(said(200, &[]), false).expect("a stream");
    let answer = answer.await.expect("an answer");
    let given = fill(&mut down).await;
    assert!(given < MOST, "{given}");
    // It is read, and comes whole.
    up.send_data(Bytes::new(), true).expect("an open stream");
    down.send_data(Bytes::new(), true).expect("an open stream");
    let (out, inward) = tokio::join!(end(request.into_body()), end(answer.into_body()));
    assert_eq!((out.len(), inward.len()), (sent, given));
}

/// Sends until there is no room for a while; how much that was.
async fn fill(stream: &mut SendStream<Bytes>) -> usize {
    let mut sent = 0;
    loop {
        stream.reserve_capacity(16 * 1024);
        let room = timeout(std::time::Duration::from_millis(500), poll_fn(|cx| stream.poll_capacity(cx))).await;
        let Ok(room) = room else { return sent };
        let room = room.expect("an open stream").expect("an open stream");
        sent += room;
        stream.send_data(vec![7; room].into(), false).expect("an open stream");
    }
}
