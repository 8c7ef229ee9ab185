//! F58: what an origin echoes of a secret does not come back into the sandbox.

use std::io::Write as _;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::support::origin::{Handler, Origin, Request, Speaks, echo};
use super::super::{SWITCHING, WEBSOCKET};
use super::rig::{Rig, Scripted, exchange, read_head};

const SECRET: &str = "c4n4ry-S3cret/0123456789";
const POLICY: &str = "
version: 1
allow:
  allowed.test:
    - match: { path: { startsWith: /with } }
      transform: [ { headers: { x-api-key: '${secrets.KEY}' } } ]
  other.test: [{}]
secrets: { KEY: { env: KEY } }
";

fn get(path: &str, extra: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: allowed.test\r\n{extra}Connection: close\r\n\r\n")
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn brotli(text: &[u8]) -> Vec<u8> {
    let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
    encoder.write_all(text).unwrap();
    encoder.into_inner()
}

fn zstandard(text: &[u8]) -> Vec<u8> {
    let mut coded = Vec::with_capacity(zstd_safe::compress_bound(text.len()));
    zstd_safe::compress(&mut coded, text, 3).unwrap();
    coded
}

/// Answers with the secret, coded as the path's last letters say.
fn coded() -> Handler {
    Arc::new(|request: &Request| {
        let text = format!("{{\"key\": \"{SECRET}\"}}").repeat(1000);
        let (coding, body) = match request.uri.rsplit('/').next() {
            Some("gzip") => ("gzip", gzip(text.as_bytes())),
            Some("twice") => ("gzip", [gzip(text.as_bytes()), gzip(text.as_bytes())].concat()),
            Some("cut") => ("gzip", gzip(text.as_bytes()).into_iter().take(100).collect()),
            Some("br") => ("br", brotli(text.as_bytes())),
            Some("zstd") => ("zstd", zstandard(text.as_bytes())),
            Some("cut-zstd") => ("zstd", zstandard(text.as_bytes()).into_iter().rev().skip(1).rev().collect()),
            Some("deflate") => ("deflate", vec![0x78, 0x9c]),
            Some("lie") => ("gzip", text.clone().into_bytes()),
            Some("several") => ("gzip, br", brotli(&gzip(text.as_bytes()))),
            _ => ("identity", text.clone().into_bytes()),
        };
        let response = http::Response::builder().header("content-encoding", coding).header("x-echo", SECRET);
        response.body(Full::from(body)).unwrap()
    })
}

async fn rig(handler: Handler) -> (Rig, Origin) {
    let rig = Rig::with_secret(POLICY, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), handler));
    (rig, origin)
}

#[tokio::test]
async fn f58_an_echo_is_struck_out_of_fields_and_bodies_in_every_coding() {
    let (rig, origin) = rig(coded()).await;
    let codings = [("identity", 1000), ("gzip", 1000), ("twice", 2000), ("br", 1000), ("zstd", 1000)];
    for (path, times) in codings.map(|(coding, times)| (format!("/with/{coding}"), times)) {
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        let answer = exchange(&mut tls, &get(&path, "")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert!(!answer.contains(SECRET), "{path}");
        assert!(answer.contains(&format!("x-echo: {}\r\n", "*".repeat(SECRET.len()))), "{path}: {answer}");
        let marks = answer.bytes().filter(|byte| *byte == b'*').count();
        assert_eq!(marks, SECRET.len() * (times + 1), "{path}");
        assert_eq!(answer.contains("content-encoding: identity"), path.ends_with("identity"), "{path}");
        assert_eq!(rig.closed().await.scrubbed as usize, 1001, "the first flow's");
    }
    assert!(origin.requests().iter().all(|request| request.header("x-api-key") == [SECRET]));
}

#[tokio::test]
async fn f58_it_is_struck_out_over_http2_and_where_this_request_injected_nothing() {
    let (rig, _origin) = rig(coded()).await;
    let mut client = rig.http2("allowed.test").await;
    for path in ["/with/gzip", "/without/gzip", "/without/br", "/without/zstd", "/without/identity"] {
        let request = http::Request::get(format!("https://allowed.test{path}")).body(Full::default()).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert!(!response.headers().values().any(|value| value.as_bytes() == SECRET.as_bytes()), "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(!body.contains(SECRET) && body.contains("{\"key\": \"***"), "{path}: {body}");
    }
}

#[tokio::test]
async fn f58_what_cannot_be_read_does_not_pass() {
    let (rig, _origin) = rig(coded()).await;
    for path in ["/with/deflate", "/with/several"] {
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        let answer = exchange(&mut tls, &get(path, "")).await;
        assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("searched for secrets"), "{path}: {answer}");
    }
    for path in ["/with/lie", "/with/cut", "/with/cut-zstd"] {
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        let answer = exchange(&mut tls, &get(path, "")).await;
        // The answer had begun; it ends before its end, and says nothing of what could not be read.
        assert!(!answer.contains(SECRET) && !answer.ends_with("0\r\n\r\n"), "{path}: {answer}");
    }
}

/// A part of an answer could be cut in the middle of a secret, and compressed WebSocket frames could not be read.
#[tokio::test]
async fn f58_no_part_and_no_coding_is_asked_for_that_could_not_be_read() {
    let (rig, origin) = rig(echo()).await;
    let extra = "Range: bytes=0-3\r\nIf-Range: \"x\"\r\nAccept-Encoding: deflate, gzip;q=0.5, *;q=0.1, BR, zstd\r\n";
    let cases = [(extra, "gzip;q=0.5, BR, zstd"), ("Accept-Encoding: deflate\r\n", "identity"), ("", "identity")];
    for (extra, accepted) in cases {
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        assert!(exchange(&mut tls, &get("/without", extra)).await.starts_with("HTTP/1.1 200"));
        let request = origin.requests().pop().unwrap();
        assert_eq!(request.header("accept-encoding"), [accepted]);
        assert!(request.header("range").is_empty() && request.header("if-range").is_empty(), "{request:?}");
    }
}

#[tokio::test]
async fn what_no_rule_sends_headers_to_passes_as_it_is() {
    let rig = Rig::with_secret(POLICY, SECRET).await;
    let origin = rig.origin("other.test", Speaks::Https(rig.ca.tls(&["other.test"]), coded()));
    let mut tls = rig.tls("other.test", &["http/1.1"]).await;
    let request =
        get("/gzip", "Range: bytes=0-3\r\nAccept-Encoding: deflate\r\n").replace("allowed.test", "other.test");
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer).await;
    let coded = gzip(format!("{{\"key\": \"{SECRET}\"}}").repeat(1000).as_bytes());
    assert!(answer.ends_with(&coded), "to the last byte");
    let request = origin.requests().pop().unwrap();
    assert_eq!((request.header("range"), request.header("accept-encoding")), (vec!["bytes=0-3"], vec!["deflate"]));
}

#[tokio::test]
async fn f58_it_is_struck_out_across_chunks_and_in_trailers_and_nothing_else_waits() {
    let rig = Rig::with_secret(POLICY, SECRET).await;
    let (begin, end) = SECRET.split_at(9);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let script = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n{}{}{}0\r\nx-sum: a {SECRET} b\r\n\r\n",
        chunk(&format!("data: {begin}")),
        chunk(end),
        chunk(" done\n\n"),
    );
    let _origin = Scripted::serve(&rig, "allowed.test", &script).await;
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let request = get("/with", "TE: trailers\r\n").replace("Connection: close", "Connection: close, TE");
    let answer = exchange(&mut tls, &request).await;
    let marks = "*".repeat(SECRET.len());
    assert!(!answer.contains(begin) && !answer.contains(end), "{answer}");
    assert!(answer.contains(&marks) && answer.contains("data: ") && answer.contains(" done\n\n"), "{answer}");
    assert!(answer.contains(&format!("x-sum: a {marks} b")), "{answer}");
    drop(tls);
    assert_eq!(rig.closed().await.scrubbed, 2);
}

#[tokio::test]
async fn f58_it_is_struck_out_of_what_a_websocket_brings() {
    let rig = Rig::with_secret(POLICY, SECRET).await;
    let origin = Scripted::serve(&rig, "allowed.test", SWITCHING).await;
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let request = WEBSOCKET.replace("GET / ", "GET /with ");
    let request = request.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    assert!(read_head(&mut tls).await.starts_with("HTTP/1.1 101"));
    // The origin sends every byte back.
    let frame = format!("\x01{}{SECRET}", char::from(u8::try_from(SECRET.len()).unwrap()));
    for piece in frame.as_bytes().chunks(11) {
        tls.write_all(piece).await.unwrap();
    }
    tls.write_all(b"end").await.unwrap();
    let mut back = vec![0; frame.len() + 3];
    tls.read_exact(&mut back).await.unwrap();
    let back = String::from_utf8(back).unwrap();
    // In pieces, the first three letters may have passed before they were known for anything.
    assert!(back.ends_with(&format!("{}end", "*".repeat(SECRET.len() - 3))), "{back:?}");
    assert!(!origin.received().to_ascii_lowercase().contains("sec-websocket-extensions"));
}

/// A credential that stands in the document itself, as control planes write it, is no less one.
#[tokio::test]
async fn f58_a_credential_in_the_document_is_struck_out_and_plain_words_are_not() {
    const POLICY: &str = "
allow:
  allowed.test:
    - transform: [ { headers: { authorization: 'Bearer aa1bb2cc3dd4ee5ff6gg7', x-team: 'platform-team' } } ]
";
    let rig = Rig::new(POLICY).await;
    let _origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let answer = exchange(&mut tls, &get("/", "")).await;
    assert!(answer.contains("Bearer *********************\""), "{answer}");
    assert!(answer.contains("platform-team"), "{answer}");
}
