//! WebSockets on streams of HTTP/2 (RFC 8441), to origins that are played byte by byte over HTTP/1.1.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use exeat::policy::verdict::DenyReason;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::server::TlsStream;

use super::rig::{Rig, read_head};
use super::upstreams::played;
use crate::{INJECTING, SECRET, http1_only};

/// A client that has heard that it may ask.
pub(super) async fn client(rig: &Rig) -> SendRequest<Full<Bytes>> {
    let mut client = rig.http2("allowed.test").await;
    let first = Request::get("https://allowed.test/denied").body(Full::default()).expect("a request");
    client.send_request(first).await.expect("an answer");
    client
}

/// Asks for a protocol on a stream, or for a tunnel.
pub(super) fn connect(uri: &str, protocol: Option<&'static str>) -> Request<Full<Bytes>> {
    let mut request =
        Request::connect(uri).header("sec-websocket-version", "13").header("sec-websocket-protocol", "rig");
    if let Some(protocol) = protocol {
        request = request.extension(Protocol::from_static(protocol));
    }
    request.body(Full::default()).expect("a request")
}

pub(super) const CHAT: &str = "https://allowed.test/chat";

/// The next connection to a played origin, and the head of its first request.
async fn asked(rig: &Rig, origin: &TcpListener) -> (TlsStream<TcpStream>, String) {
    let tls = http1_only(&rig.ca.tls(&["allowed.test"]));
    let (up, _) = origin.accept().await.expect("a connection");
    let mut up = tls.accept(up).await.expect("a handshake");
    let head = read_head(&mut up).await;
    (up, head)
}

/// The answer that switches, with these fields.
pub(super) fn granting(fields: &str) -> String {
    format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n{fields}\r\n")
}

/// The field that accepts the key of a head.
pub(super) fn accept(head: &str) -> String {
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
    let accept = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes());
    format!("sec-websocket-accept: {}\r\n", STANDARD.encode(accept))
}

async fn say(up: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    up.write_all(bytes).await.expect("it reads");
    up.flush().await.expect("it reads");
}

/// A WebSocket that is open, from both its ends.
async fn open(
    rig: &Rig,
    client: &SendRequest<Full<Bytes>>,
    origin: &TcpListener,
) -> (TlsStream<TcpStream>, String, Response<Incoming>) {
    let answered = tokio::spawn(client.clone().send_request(connect(CHAT, Some("websocket"))));
    let (mut up, head) = asked(rig, origin).await;
    say(&mut up, granting(&(accept(&head) + "sec-websocket-protocol: rig\r\n")).as_bytes()).await;
    (up, head, answered.await.expect("no panic").expect("an answer"))
}

#[tokio::test]
async fn e52_a_websocket_on_a_stream_is_judged_and_passes_like_any_other() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (origin, mut client) = (played(&rig).await, client(&rig).await);
    let (mut up, head, answer) = open(&rig, &client, &origin).await;
    assert!(head.starts_with("GET /chat HTTP/1.1\r\n") && head.contains("\r\nupgrade: websocket\r\n"), "{head}");
    assert!(
        head.contains("\r\nconnection: upgrade\r\n") && head.contains("x-api-key: key c4n4ry-s3cret\r\n"),
        "{head}"
    );
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "rig");
    assert!(!answer.headers().contains_key("sec-websocket-accept") && !answer.headers().contains_key("upgrade"));
    let mut down = TokioIo::new(hyper::upgrade::on(answer).await.expect("a stream"));
    down.write_all(b"\x81\x85mask?????").await.expect("it reads");
    let mut frame = [0; 11];
    up.read_exact(&mut frame).await.expect("a frame");
    assert_eq!(&frame, b"\x81\x85mask?????");
    say(&mut up, format!("\x01\x19here: {SECRET}.").as_bytes()).await;
    let mut frame = [0; 22];
    down.read_exact(&mut frame).await.expect("a frame");
    assert!(frame.starts_with(b"\x01\x19here: ") && !String::from_utf8_lossy(&frame).contains(SECRET), "{frame:?}");
    // Other streams go on beside it.
    let here =
        client.send_request(Request::get("https://allowed.test/denied").body(Full::default()).expect("a request"));
    assert_eq!(here.await.expect("an answer").status(), 418);
    let judged = rig.requests();
    assert_eq!(judged[1].request.as_ref().map(|request| request.method.as_str()), Some("GET"));
    // The client ends it, and the origin hears of it.
    down.shutdown().await.expect("it reads");
    assert_eq!(up.read(&mut [0; 9]).await.expect("an end"), 0);
    drop(up);
    assert_eq!(down.read(&mut [0; 9]).await.expect("an end"), 0);
}

#[tokio::test]
async fn g70_revocation_ends_a_websocket_on_a_stream() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (origin, client) = (played(&rig).await, client(&rig).await);
    let (mut up, _, answer) = open(&rig, &client, &origin).await;
    let mut down = TokioIo::new(hyper::upgrade::on(answer).await.expect("a stream"));
    rig.push("allow: { allowed.test: [ { match: { path: { exact: /chat } }, response: { statusCode: 403 } } ] }").await;
    assert_eq!(rig.denied(), [DenyReason::Revoked]);
    assert!(!matches!(down.read(&mut [0; 9]).await, Ok(1..)));
    assert!(!matches!(up.read(&mut [0; 9]).await, Ok(1..)));
    let here = client.clone().send_request(connect(CHAT, Some("websocket"))).await.expect("an answer");
    assert_eq!(here.status(), 403, "the connection goes on");
}

#[tokio::test]
async fn e52_connect_with_another_protocol_or_none_is_refused() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (origin, mut client) = (rig.origin("allowed.test", crate::Speaks::Http(crate::echo())), client(&rig).await);
    for (uri, protocol, expected) in [
        (CHAT, Some("connect-udp"), 400),
        (CHAT, Some("WebSocket"), 400),
        ("allowed.test:443", None, 400),
        ("https://evil.test/chat", Some("websocket"), 421),
        ("http://allowed.test/chat", Some("websocket"), 421),
        ("https://allowed.test/denied", Some("websocket"), 418),
    ] {
        let answer = client.send_request(connect(uri, protocol)).await.expect("an answer");
        assert_eq!(answer.status(), expected, "{uri} {protocol:?}");
    }
    origin.assert_untouched();
}

#[tokio::test]
async fn e52_a_stream_opens_only_when_its_origin_switches() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let (origin, client) = (played(&rig).await, client(&rig).await);
    for (answer, expected) in [
        (granting("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), 502),
        (granting(""), 502),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(), 502),
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), 502),
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno".to_owned(), 403),
    ] {
        let answered = tokio::spawn(client.clone().send_request(connect(CHAT, Some("websocket"))));
        let (mut up, _) = asked(&rig, &origin).await;
        say(&mut up, answer.as_bytes()).await;
        let heard = answered.await.expect("no panic").expect("an answer");
        assert_eq!(heard.status(), expected, "{answer}");
        drop(up);
    }
    // What only begins like one is none.
    let rig = Rig::new("allow: { allowed.test: [ { response: { statusCode: 200 } } ] }").await;
    let answer = self::client(&rig).await.send_request(connect(CHAT, Some("websocket"))).await.expect("an answer");
    assert_eq!(answer.status(), 502);
}
