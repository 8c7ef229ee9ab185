//! Upstream connections that are kept and used again (POLICY §8): by whom, for what, and when no more.
//!
//! Most origins here are played by the test itself, over cleartext HTTP, byte by byte.

use std::sync::Arc;

use bytes::Bytes;
use exeat::intercept::workers::Workers;
use exeat::policy::verdict::DenyReason;
use exeat::secret::Secrets;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::rig::{Rig, exchange, read_answer, read_head};
use crate::support::origin::{Request as Received, Speaks, echo};
use crate::{GET, INJECTING, SECRET, status};

const ALLOWED: &str = "allow: { allowed.test: [] }";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An origin at loopback that owns `allowed.test`, to be played.
pub(super) async fn played(rig: &Rig) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    rig.resolve("allowed.test", listener.local_addr().expect("a bound listener"));
    listener
}

/// A connection of the sandbox that has asked for `path`.
async fn asking(rig: &Rig, path: &str) -> TcpStream {
    let mut io = rig.connect("203.0.113.9:80").await;
    io.write_all(request(path).as_bytes()).await.expect("a listener that reads");
    io
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: allowed.test\r\n\r\n")
}

/// The next connection to a played origin, and the head of its first request.
pub(super) async fn asked(origin: &TcpListener) -> (TcpStream, String) {
    let accepting = tokio::time::timeout(crate::support::PATIENCE, origin.accept());
    let (mut io, _) = accepting.await.expect("a new connection").expect("a listener");
    let head = read_head(&mut io).await;
    (io, head)
}

/// Waits until the other side has ended it.
pub(super) async fn ends(io: &mut TcpStream) {
    let mut rest = Vec::new();
    let ending = tokio::time::timeout(crate::support::PATIENCE, io.read_to_end(&mut rest));
    // A reset is an end, too.
    let _ = ending.await.expect("it ends");
    assert_eq!(rest.escape_ascii().to_string(), "");
}

#[tokio::test]
async fn the_flows_of_a_sandbox_share_upstream_connections() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    for asked in 1..4 {
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        tls.write_all(request("/").as_bytes()).await.unwrap();
        assert_eq!(status(&read_answer(&mut tls).await), 200);
        assert_eq!((origin.requests().len(), origin.connections()), (asked, 1));
    }
    // HTTP/2 on both sides is a connection of its own, and its streams are shared, too.
    for asked in 4..7 {
        let mut client = rig.http2("allowed.test").await;
        let request = Request::get("https://allowed.test/").body(Full::<Bytes>::default()).unwrap();
        let answer = client.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.into_body().collect().await.unwrap();
        assert_eq!((origin.requests().len(), origin.connections()), (asked, 2));
    }
}

#[tokio::test]
async fn flows_on_other_threads_have_upstream_connections_of_their_own_and_a_push_reaches_all() {
    let rig = Rig::carried_by(Workers::start(2).expect("threads"), ALLOWED, Secrets::default()).await;
    let origin = played(&rig).await;
    // Each has a thread to itself, and then leaves its connection to the next that comes there.
    let mut flows = vec![asking(&rig, "/1").await, asking(&rig, "/2").await];
    let mut ups = vec![asked(&origin).await.0, asked(&origin).await.0];
    for round in 0..3 {
        for up in &mut ups {
            up.write_all(OK).await.unwrap();
        }
        for flow in &mut flows {
            assert!(read_answer(flow).await.ends_with("ok"));
            flow.write_all(request(&format!("/again/{round}")).as_bytes()).await.unwrap();
        }
        for up in &mut ups {
            read_head(up).await;
        }
    }
    for up in &mut ups {
        up.write_all(OK).await.unwrap();
    }
    for flow in &mut flows {
        assert!(read_answer(flow).await.ends_with("ok"));
    }
    rig.push("mode: deny-all").await;
    for up in &mut ups {
        ends(up).await;
    }
    for mut flow in flows {
        assert_eq!(flow.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(rig.denied(), [DenyReason::Revoked; 2]);
}

#[tokio::test]
async fn g71_no_upstream_connection_is_shared_between_sandboxes() {
    let (one, other) = (Rig::new(ALLOWED).await, Rig::new(ALLOWED).await);
    let origin = one.origin("allowed.test", Speaks::Http(echo()));
    other.resolve("allowed.test", origin.address);
    for (rig, connections) in [(&one, 1), (&other, 2), (&one, 2), (&other, 2)] {
        let mut io = asking(rig, "/").await;
        assert_eq!(status(&read_answer(&mut io).await), 200);
        assert_eq!(origin.connections(), connections);
    }
}

#[tokio::test]
async fn g71_no_upstream_connection_is_shared_between_credentials() {
    let policy = "
version: 1
allow:
  allowed.test:
    - { match: { path: { startsWith: /key } }, transform: [ { headers: { x-api-key: '${secrets.KEY}' } } ] }
    - { match: { path: { startsWith: /literal } }, transform: [ { headers: { x-api-key: plain } } ] }
secrets: { KEY: { env: KEY } }
";
    let rig = Rig::with_secret(policy, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    for (path, connections) in
        [("/key", 1), ("/none", 2), ("/literal", 3), ("/key/2", 3), ("/none/2", 3), ("/literal/2", 3)]
    {
        tls.write_all(request(path).as_bytes()).await.unwrap();
        assert_eq!(status(&read_answer(&mut tls).await), 200);
        assert_eq!(origin.connections(), connections, "{path}");
    }
}

#[tokio::test]
async fn g71_an_answer_that_nobody_asked_for_reaches_nobody() {
    let rig = Rig::new(ALLOWED).await;
    let origin = played(&rig).await;
    // With the answer before it, in one piece.
    let mut first = asking(&rig, "/1").await;
    let (mut up, _) = asked(&origin).await;
    let poison = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    up.write_all(&[OK, poison].concat()).await.unwrap();
    assert!(read_answer(&mut first).await.ends_with("ok"));
    ends(&mut up).await;
    // Afterwards, on a connection that is kept.
    let mut second = asking(&rig, "/2").await;
    let (mut up, head) = asked(&origin).await;
    assert!(head.starts_with("GET /2 "), "{head}");
    up.write_all(OK).await.unwrap();
    assert!(read_answer(&mut second).await.ends_with("ok"));
    up.write_all(poison).await.unwrap();
    ends(&mut up).await;
    let mut third = asking(&rig, "/3").await;
    let (mut up, _) = asked(&origin).await;
    up.write_all(OK).await.unwrap();
    assert!(read_answer(&mut third).await.ends_with("ok"));
}

#[tokio::test]
async fn g71_what_is_not_a_whole_exchange_leaves_no_connection_behind() {
    let rig = Rig::new(ALLOWED).await;
    let origin = played(&rig).await;
    // Answered before the request's last byte.
    let mut early = rig.connect("203.0.113.9:80").await;
    early.write_all(b"POST /1 HTTP/1.1\r\nhost: allowed.test\r\ncontent-length: 5\r\n\r\nab").await.unwrap();
    let (mut up, _) = asked(&origin).await;
    up.write_all(OK).await.unwrap();
    assert!(read_answer(&mut early).await.ends_with("ok"));
    let mut next = asking(&rig, "/2").await;
    let (mut fresh, head) = asked(&origin).await;
    assert!(head.starts_with("GET /2 "), "{head}");
    // Given up by the client in the middle of the answer.
    fresh.write_all(&OK[..OK.len() - 1]).await.unwrap();
    read_head(&mut next).await;
    drop(next);
    ends(&mut fresh).await;
    let _third = asking(&rig, "/3").await;
    let (_, head) = asked(&origin).await;
    assert!(head.starts_with("GET /3 "), "{head}");
}

#[tokio::test]
async fn g70_a_push_closes_what_is_kept() {
    let rig = Rig::new(ALLOWED).await;
    let origin = played(&rig).await;
    let mut io = asking(&rig, "/1").await;
    let (mut up, _) = asked(&origin).await;
    up.write_all(OK).await.unwrap();
    read_answer(&mut io).await;
    // The flow is still permitted, and stays.
    rig.push("allow: { allowed.test: [], other.test: [] }").await;
    ends(&mut up).await;
    io.write_all(request("/2").as_bytes()).await.unwrap();
    let (mut up, head) = asked(&origin).await;
    assert!(head.starts_with("GET /2 "), "{head}");
    up.write_all(OK).await.unwrap();
    read_answer(&mut io).await;
    // What was in use when the policy changed is not kept after it.
    io.write_all(request("/3").as_bytes()).await.unwrap();
    read_head(&mut up).await;
    rig.push(ALLOWED).await;
    up.write_all(OK).await.unwrap();
    read_answer(&mut io).await;
    ends(&mut up).await;
}

#[tokio::test]
async fn c33_a_kept_connection_is_not_used_once_its_address_is_protected() {
    let rig = Rig::new(ALLOWED).await;
    let origin = played(&rig).await;
    let mut io = asking(&rig, "/1").await;
    let (mut up, _) = asked(&origin).await;
    up.write_all(OK).await.unwrap();
    read_answer(&mut io).await;
    rig.protect();
    io.write_all(request("/2").as_bytes()).await.unwrap();
    assert_eq!(status(&read_answer(&mut io).await), 403);
    ends(&mut up).await;
    assert_eq!(rig.denied(), [DenyReason::ProtectedRange]);
}

#[tokio::test]
async fn c33_an_http2_connection_gets_no_stream_once_its_address_is_protected() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut client = rig.http2("allowed.test").await;
    let mut ask = async || {
        let request = Request::get("https://allowed.test/").body(Full::<Bytes>::default()).unwrap();
        client.send_request(request).await.unwrap().status()
    };
    assert_eq!(ask().await, StatusCode::OK);
    rig.protect();
    assert_eq!(ask().await, StatusCode::FORBIDDEN);
    assert_eq!((origin.requests().len(), rig.denied()), (1, vec![DenyReason::ProtectedRange]));
}

#[tokio::test]
async fn g71_a_tls_session_is_resumed_under_the_same_policy_and_credentials_alone() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let close = |_: &Received| http::Response::builder().header("connection", "close").body(Full::default()).unwrap();
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), Arc::new(close)));
    let two_times = async || {
        for _ in 0..2 {
            let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
            assert_eq!(status(&exchange(&mut tls, GET).await), 200);
        }
    };
    two_times().await;
    assert_eq!(origin.resumed(), [false, true]);
    // The same rule with another value is another set of credentials, and a push another generation.
    rig.push(&INJECTING.replace("'key ", "'other ")).await;
    two_times().await;
    assert_eq!(origin.resumed(), [false, true, false, true]);
}
