//! Origins that speak HTTP/2 alone, and WebSockets to them (RFC 8441). A library that lets them answer anything plays
//! them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use exeat::limits;
use exeat::policy::verdict::DenyReason;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::rig::{Rig, exchange, read_answer, read_head, speaking};
use super::upstreams::{asked, played};
use super::websocket::{CHAT, accept, client, connect, granting};
use crate::support::PATIENCE;
use crate::{GET, INJECTING, SECRET, SWITCHING, WEBSOCKET, status};

/// A request as it came, and its answer.
type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// An origin that speaks HTTP/2 alone.
struct Alone {
    connections: Arc<AtomicUsize>,
    requests: mpsc::UnboundedReceiver<Asked>,
}

impl Alone {
    /// Inside TLS or in clear; whether it `takes` WebSockets its settings say.
    async fn start(rig: &Rig, takes: bool, in_clear: bool) -> Self {
        let (listener, tls) = (played(rig).await, speaking(&rig.ca.tls(&["allowed.test"]), "h2"));
        let (connections, (tell, requests)) = (Arc::<AtomicUsize>::default(), mpsc::unbounded_channel());
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (tls, tell) = (tls.clone(), tell.clone());
                tokio::spawn(async move {
                    if in_clear {
                        serve(io, takes, tell).await;
                    } else if let Ok(io) = tls.accept(io).await {
                        serve(io, takes, tell).await;
                    }
                });
            }
        });
        Self { connections, requests }
    }

    /// The next request.
    async fn asked(&mut self) -> Asked {
        timeout(PATIENCE, self.requests.recv()).await.expect("a request").expect("it serves")
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, takes: bool, tell: mpsc::UnboundedSender<Asked>) {
    let mut builder = h2::server::Builder::new();
    if takes {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake(io).await else { return };
    while let Some(Ok(asked)) = connection.accept().await {
        let _ = tell.send(asked);
    }
}

/// A connection of the sandbox that has asked over HTTP/1.1.
async fn asking(rig: &Rig, request: &str) -> TlsStream<TcpStream> {
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    tls.write_all(request.as_bytes()).await.expect("it reads");
    tls
}

/// Grants it with these fields.
fn grant(answer: &mut SendResponse<Bytes>, fields: &[(&str, &str)]) -> SendStream<Bytes> {
    let response = fields.iter().fold(Response::builder(), |response, (name, value)| response.header(*name, *value));
    answer.send_response(response.body(()).expect("an answer"), false).expect("an open stream")
}

/// Both ends of a WebSocket say something, a secret among it; then its client ends it, and so does its origin.
async fn speak(down: &mut (impl AsyncRead + AsyncWrite + Unpin), mut up: SendStream<Bytes>, mut from: RecvStream) {
    down.write_all(b"\x81\x85mask?????").await.expect("it reads");
    let frame = from.data().await.expect("a frame").expect("a frame");
    assert_eq!(&*frame, b"\x81\x85mask?????");
    up.send_data(format!("\x01\x19here: {SECRET}.").into(), false).expect("an open stream");
    let mut frame = [0; 22];
    down.read_exact(&mut frame).await.expect("a frame");
    assert!(frame.starts_with(b"\x01\x19here: ") && !String::from_utf8_lossy(&frame).contains(SECRET), "{frame:?}");
    down.shutdown().await.expect("it reads");
    assert!(from.data().await.is_none_or(|end| end.expect("an end in good order").is_empty()));
    up.send_data(Bytes::new(), true).expect("an open stream");
    assert_eq!(down.read(&mut [0; 9]).await.expect("an end"), 0);
}

#[track_caller]
fn assert_asked_by_connect(request: &Request<RecvStream>, uri: &str) {
    let (headers, protocol) = (request.headers(), request.extensions().get::<Protocol>());
    assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("CONNECT", uri));
    assert_eq!(protocol.map(Protocol::as_str), Some("websocket"));
    assert_eq!(headers["sec-websocket-version"], "13");
    assert_eq!(headers["x-api-key"], "key c4n4ry-s3cret");
    for name in ["connection", "upgrade", "sec-websocket-key", "content-length", "host"] {
        assert!(!headers.contains_key(name), "{headers:?}");
    }
}

#[tokio::test]
async fn e52_a_websocket_reaches_an_origin_of_http2_alone_from_a_connection() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let mut origin = Alone::start(&rig, true, false).await;
    let mut down = asking(&rig, &WEBSOCKET.replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n")).await;
    let (request, mut answer) = origin.asked().await;
    assert_asked_by_connect(&request, "https://allowed.test/ws");
    // What only HTTP/1.1 says, we say; what an origin says of it, or for us, counts for nothing.
    let fields = [
        ("sec-websocket-protocol", "rig"),
        ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("alt-svc", "h3=\":443\""),
        ("exeat-denied", "no-rule"),
        ("x-echo", "key c4n4ry-s3cret"),
    ];
    let up = grant(&mut answer, &fields);
    let head = read_head(&mut down).await;
    let accept = SWITCHING.lines().find(|line| line.starts_with("Sec-WebSocket-Accept")).expect("an example");
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("sec-websocket-protocol: rig\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: upgrade\r\n") && head.contains("\r\nupgrade: websocket\r\n"), "{head}");
    assert_eq!(head.matches("sec-websocket-accept").count(), 1, "{head}");
    assert!(head.contains(&accept.replace("Sec-WebSocket-Accept", "sec-websocket-accept")), "{head}");
    for hostile in ["alt-svc", "exeat-denied", SECRET] {
        assert!(!head.contains(hostile), "{head}");
    }
    speak(&mut down, up, request.into_body()).await;
    let judged = rig.requests();
    assert_eq!(judged[0].request.as_ref().map(|request| request.method.as_str()), Some("GET"));
    // HTTP/1.1 was asked for first, and that is remembered.
    assert_eq!(origin.connections(), 2);
    let mut other = asking(&rig, WEBSOCKET).await;
    let (_request, mut answer) = origin.asked().await;
    let _up = grant(&mut answer, &[("content-length", "0")]);
    let head = read_head(&mut other).await;
    assert!(status(&head) == 101 && !head.contains("content-length"), "{head}");
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn e52_a_websocket_reaches_an_origin_of_http2_alone_from_a_stream() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (mut origin, client) = (Alone::start(&rig, true, false).await, client(&rig).await);
    let answered = tokio::spawn(client.clone().send_request(connect(CHAT, Some("websocket"))));
    let (request, mut answer) = origin.asked().await;
    assert_asked_by_connect(&request, CHAT);
    assert_eq!(request.headers()["sec-websocket-protocol"], "rig");
    let up = grant(&mut answer, &[("sec-websocket-protocol", "rig"), ("sec-websocket-accept", "x"), ("alt-svc", "x")]);
    let response = answered.await.expect("no panic").expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "rig");
    let hostile = |name: &str| response.headers().contains_key(name);
    assert!(!hostile("sec-websocket-accept") && !hostile("alt-svc"));
    let mut down = TokioIo::new(hyper::upgrade::on(response).await.expect("a stream"));
    speak(&mut down, up, request.into_body()).await;
}

/// A WebSocket asked for on a stream in clear, and its answer.
async fn asking_in_clear(rig: &Rig) -> JoinHandle<hyper::Result<Response<Incoming>>> {
    let io = rig.connect("203.0.113.9:80").await;
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let first = Request::get("http://denied.test/").body(Default::default()).expect("a request");
    assert_eq!(client.send_request(first).await.expect("an answer").status(), 403);
    tokio::spawn(client.send_request(connect("http://allowed.test/chat", Some("websocket"))))
}

/// In clear nothing is refused: who asks over HTTP/2 finds an origin of either kind.
#[tokio::test]
async fn a_websocket_in_clear_goes_as_its_client_asks_if_its_origin_takes_it_so() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let mut origin = Alone::start(&rig, true, true).await;
    let answered = asking_in_clear(&rig).await;
    let (request, mut answer) = origin.asked().await;
    assert_eq!(request.uri(), "http://allowed.test/chat");
    let _up = grant(&mut answer, &[]);
    assert_eq!(answered.await.expect("no panic").expect("an answer").status(), 200);
    assert_eq!(origin.connections(), 1);
    // One that knows HTTP/1.1 alone does not know what it is asked first.
    rig.replace("allow: { allowed.test: [] }");
    let origin = played(&rig).await;
    let answered = asking_in_clear(&rig).await;
    let (mut up, head) = asked(&origin).await;
    assert!(head.starts_with("PRI * HTTP/2.0\r\n"), "{head}");
    up.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.expect("it reads");
    let (mut up, head) = asked(&origin).await;
    assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
    up.write_all(granting(&accept(&head)).as_bytes()).await.expect("it reads");
    assert_eq!(answered.await.expect("no panic").expect("an answer").status(), 200);
    // One that speaks HTTP/2, and takes no WebSocket over it, is asked over HTTP/1.1 as well.
    rig.replace("allow: { allowed.test: [] }");
    let mut origin = Alone::start(&rig, false, true).await;
    assert_eq!(asking_in_clear(&rig).await.await.expect("no panic").expect("an answer").status(), 502);
    assert!(origin.requests.try_recv().is_err());
    // Its settings come unasked: where they are there before the request is sent, that is tried on another connection.
    let connections = origin.connections();
    assert!((2..=1 + limits::UPSTREAM_TRIES).contains(&connections), "{connections}");
}

#[tokio::test]
async fn e52_an_origin_of_http2_alone_that_takes_no_websocket_is_asked_for_none() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (mut origin, mut client) = (Alone::start(&rig, false, false).await, client(&rig).await);
    let heard = read_answer(&mut asking(&rig, WEBSOCKET).await).await;
    let why = "the upstream speaks HTTP/2 alone, and takes no WebSocket over it";
    assert!(status(&heard) == 502 && heard.contains(why), "{heard}");
    let heard = client.send_request(connect(CHAT, Some("websocket"))).await.expect("an answer");
    assert_eq!(heard.status(), 502);
    let told = heard.into_body().collect().await.expect("a body").to_bytes();
    assert!(String::from_utf8_lossy(&told).contains(why), "{told:?}");
    assert!(origin.requests.try_recv().is_err());
}

#[tokio::test]
async fn e52_a_stream_upstream_opens_by_200_alone() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (mut origin, client) = (Alone::start(&rig, true, false).await, client(&rig).await);
    for (given, fields, heard) in [
        (200, &[("content-length", "5")][..], 502),
        (201, &[], 502),
        (204, &[], 502),
        (206, &[("upgrade-insecure", "1")], 502),
        (403, &[], 403),
    ] {
        for on_a_stream in [false, true] {
            let client = client.clone();
            let rig = &rig;
            let asking = async move {
                if on_a_stream {
                    let mut client = client;
                    client.send_request(connect(CHAT, Some("websocket"))).await.expect("an answer").status().as_u16()
                } else {
                    status(&read_head(&mut asking(rig, WEBSOCKET).await).await)
                }
            };
            let answering = async {
                let (_request, mut answer) = origin.asked().await;
                let mut response = Response::builder().status(given);
                for (name, value) in fields {
                    response = response.header(*name, *value);
                }
                let mut body = answer.send_response(response.body(()).expect("an answer"), false).expect("a stream");
                // Not all of them are still wanted by then.
                let _ = body.send_data("no".into(), true);
            };
            assert_eq!(tokio::join!(asking, answering).0, heard, "{given} {fields:?} {on_a_stream}");
        }
    }
    // One that breaks off is no answer, and not asked again.
    let broken = tokio::spawn(client.clone().send_request(connect(CHAT, Some("websocket"))));
    origin.asked().await.1.send_reset(Reason::INTERNAL_ERROR);
    assert_eq!(broken.await.expect("no panic").expect("an answer").status(), 502);
    assert!(origin.requests.try_recv().is_err());
}

/// Bytes that come before the answer are frames, or nothing: no part of another request.
#[tokio::test]
async fn e52_what_comes_before_the_answer_reaches_only_who_grants() {
    const EARLY: &str = "GET /denied/by/now HTTP/1.1\r\nHost: evil.test\r\n\r\n";
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let mut origin = Alone::start(&rig, true, false).await;
    let mut down = asking(&rig, &format!("{WEBSOCKET}{EARLY}")).await;
    let (request, mut answer) = origin.asked().await;
    let _up = grant(&mut answer, &[]);
    assert_eq!(status(&read_head(&mut down).await), 101);
    assert_eq!(request.into_body().data().await.expect("a frame").expect("a frame"), EARLY);
    // Refused, it is the next request of the connection, and judged.
    let mut down = asking(&rig, &format!("{WEBSOCKET}{EARLY}")).await;
    let (request, mut answer) = origin.asked().await;
    let refusal = Response::builder().status(403).body(()).expect("an answer");
    answer.send_response(refusal, true).expect("a stream");
    assert_eq!(status(&read_answer(&mut down).await), 403);
    assert_eq!(status(&read_answer(&mut down).await), 421);
    assert!(!matches!(request.into_body().data().await, Some(Ok(data)) if !data.is_empty()));
    // The same on a stream.
    let tls = rig.tls("allowed.test", &["h2"]).await;
    let (mut client, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
    tokio::spawn(connection);
    for granted in [true, false] {
        client = client.ready().await.expect("it takes more");
        let asked = Request::connect(CHAT).extension(Protocol::from_static("websocket")).body(()).expect("a request");
        let (answered, mut body) = client.send_request(asked, false).expect("a stream");
        body.send_data("early".into(), false).expect("an open stream");
        let (request, mut answer) = origin.asked().await;
        let mut response = Response::new(());
        if !granted {
            *response.status_mut() = http::StatusCode::FORBIDDEN;
        }
        let _up = answer.send_response(response, !granted).expect("a stream");
        assert_eq!(answered.await.expect("an answer").status(), if granted { 200 } else { 403 });
        let first = request.into_body().data().await;
        let early = matches!(&first, Some(Ok(data)) if !data.is_empty());
        assert_eq!(early, granted, "{first:?}");
    }
}

#[tokio::test]
async fn g70_revocation_ends_a_websocket_to_an_origin_of_http2_alone() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (mut origin, client) = (Alone::start(&rig, true, false).await, client(&rig).await);
    let mut on_a_connection = asking(&rig, WEBSOCKET).await;
    let (first, mut answer) = origin.asked().await;
    let _first = grant(&mut answer, &[]);
    assert_eq!(status(&read_head(&mut on_a_connection).await), 101);
    let answered = tokio::spawn(client.clone().send_request(connect(CHAT, Some("websocket"))));
    let (second, mut answer) = origin.asked().await;
    let _second = grant(&mut answer, &[]);
    let answered = answered.await.expect("no panic").expect("an answer");
    let mut on_a_stream = TokioIo::new(hyper::upgrade::on(answered).await.expect("a stream"));
    rig.push("allow: { allowed.test: [ { response: { statusCode: 403 } } ] }").await;
    assert_eq!(rig.denied(), [DenyReason::Revoked; 2]);
    assert!(!matches!(on_a_connection.read(&mut [0; 9]).await, Ok(1..)));
    assert!(!matches!(on_a_stream.read(&mut [0; 9]).await, Ok(1..)));
    for request in [first, second] {
        assert!(!matches!(request.into_body().data().await, Some(Ok(data)) if !data.is_empty()));
    }
}

/// To a client of HTTP/1.1 lengths frame, which they do not over HTTP/2.
#[tokio::test]
async fn e51_what_an_origin_of_http2_alone_answers_frames_no_second_answer() {
    const BODY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let mut origin = Alone::start(&rig, false, false).await;
    for lengths in [&["0"][..], &["5"], &["5", "44"], &["44", "5"], &["5, 44"], &["+44"], &["45"], &["44", "44"], &[]] {
        let asking = async { exchange(&mut rig.tls("allowed.test", &["http/1.1"]).await, GET).await };
        let answering = async {
            let (_request, mut answer) = origin.asked().await;
            let fields: Vec<_> = lengths.iter().map(|length| ("content-length", *length)).collect();
            // Not all of it is still wanted by then.
            let _ = grant(&mut answer, &fields).send_data(BODY.into(), true);
        };
        let (heard, ()) = tokio::join!(asking, answering);
        let Some((head, body)) = heard.split_once("\r\n\r\n") else {
            assert_eq!(heard, "", "{lengths:?}");
            continue;
        };
        let told: Vec<usize> =
            head.lines().filter_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).collect();
        let is_framed = match (status(head), &told[..]) {
            (502, _) => !body.contains("poison"),
            (_, []) => head.contains("\r\ntransfer-encoding: chunked") && body.starts_with("2C\r\n"),
            (_, [first, others @ ..]) => body.len() <= *first && others.iter().all(|other| other == first),
        };
        assert!(is_framed, "{lengths:?}: {heard}");
    }
}
