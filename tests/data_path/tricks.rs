//! Requests and answers that say one thing and lead to another: paths of two readings, methods in disguise, what is
//! said before or after a refusal, redirects, names without end. And what has to pass at once.

use std::sync::Arc;

use bytes::Bytes;
use exeat::limits;
use exeat::policy::verdict::DenyReason;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::rig::{ANYWHERE, Rig, exchange, http1_only, read_head};
use super::upstreams::played;
use crate::support::PATIENCE;
use crate::support::origin::{Speaks, echo};
use crate::{GET, INJECTING, SECRET, status};

/// A credential for one folder, and nothing else.
const FOLDER: &str = "
version: 1
allow:
  allowed.test:
    - match: { path: { startsWith: /public/ } }
      transform: [ { headers: { x-api-key: 'key ${secrets.KEY}' } } ]
secrets: { KEY: { env: KEY } }
";

/// A credential for reading, and nothing else passes.
const READING: &str = "
version: 1
allow:
  allowed.test:
    - match: { method: [GET] }
      transform: [ { headers: { x-api-key: 'key ${secrets.KEY}' } } ]
    - response: { statusCode: 403 }
secrets: { KEY: { env: KEY } }
";

/// Tells, over HTTP/1.1 and over HTTP/2, with which status and which word such a request is refused.
async fn refused(rig: &Rig, method: &str, path: &str, fields: &[(&str, &str)]) -> [(u16, String); 2] {
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut io = rig.tls("allowed.test", &["http/1.1"]).await;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n{lines}\r\n");
    let old = exchange(&mut io, &request).await;
    let word = |answer: &str| {
        let word = answer.lines().find_map(|line| line.strip_prefix("exeat-denied: "));
        word.unwrap_or_default().to_owned()
    };
    let mut client = rig.http2("allowed.test").await;
    let request = Request::builder().method(method).uri(format!("https://allowed.test{path}"));
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let new = client.send_request(request.body(Full::default()).expect("a request")).await.expect("an answer");
    let denied = new.headers().get("exeat-denied").map(|word| word.to_str().expect("a word").to_owned());
    [(status(&old), word(&old)), (new.status().as_u16(), denied.unwrap_or_default())]
}

#[tokio::test]
async fn e53_a_path_of_two_readings_is_refused_and_one_of_one_passes_as_it_is() {
    let rig = Rig::with_secret(FOLDER, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    for path in [
        "/public/../secret",
        "/public/%2e%2e/secret",
        "/public/.%2e/secret",
        "/public/%2E./secret",
        "/public/%252e%252e/secret",
        "/public/..%2fsecret",
        "/public/..%5csecret",
        "/public/a/../../secret",
        "/x/..%2fpublic/secret",
    ] {
        let told = refused(&rig, "GET", path, &[]).await;
        assert_eq!(told, [(403, "ambiguous-path".to_owned()), (403, "ambiguous-path".to_owned())], "{path}");
    }
    origin.assert_untouched();
    for path in ["/public/a%2fb", "/public/a%20b?c=%2e%2e", "/public//a", "/public/a;b=c"] {
        assert_eq!(refused(&rig, "GET", path, &[]).await, [(200, String::new()), (200, String::new())], "{path}");
        for request in origin.requests().iter().rev().take(2) {
            assert!(request.uri.ends_with(path), "{} for {path}", request.uri);
            assert_eq!(request.header("x-api-key"), [format!("key {SECRET}")]);
        }
    }
}

#[tokio::test]
async fn e54_a_method_is_the_one_that_is_said() {
    let rig = Rig::with_secret(READING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let overrides = [("x-http-method-override", "GET"), ("x-method-override", "GET"), ("x-http-method", "GET")];
    for (method, path) in [("get", "/"), ("Get", "/"), ("POST", "/?_method=GET"), ("GETX", "/")] {
        assert_eq!(refused(&rig, method, path, &overrides).await.map(|(status, _)| status), [403, 403], "{method}");
    }
    origin.assert_untouched();
    assert_eq!(refused(&rig, "GET", "/", &[]).await.map(|(status, _)| status), [200, 200]);
}

#[tokio::test]
async fn e49_what_follows_a_refused_switch_is_a_request_like_any_other() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(http1_only(&rig.ca.tls(&["allowed.test"])), echo()));
    let evil = rig.origin("evil.test", Speaks::Http(echo()));
    let mut io = rig.tls("allowed.test", &["http/1.1"]).await;
    let connect = "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n";
    let answer = exchange(&mut io, &format!("{connect}{GET}")).await;
    assert!(status(&answer) == 400 && answer.matches("HTTP/1.1 ").count() == 1, "{answer}");
    origin.assert_untouched();
    // Its origin does not switch.
    let switch = "GET /chat HTTP/1.1\r\nHost: allowed.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for (then, expected) in
        [(GET.replace("allowed.test", "evil.test"), "421"), (GET.replace("GET /", "GET /denied"), "418")]
    {
        let mut io = rig.tls("allowed.test", &["http/1.1"]).await;
        let answer = exchange(&mut io, &format!("{switch}{then}")).await;
        let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
        assert!(statuses == ["200", expected] || statuses == ["400"], "{answer}");
    }
    assert!(origin.requests().iter().all(|request| request.uri == "/chat"), "{:?}", origin.requests());
    evil.assert_untouched();
}

#[tokio::test]
async fn f60_a_redirect_is_the_clients_to_follow_and_gets_no_credential_elsewhere() {
    let policy = INJECTING.replace("allow:\n", "allow:\n  other.test: []\n");
    let rig = Rig::with_secret(&policy, SECRET).await;
    let [evil, other] = ["evil.test", "other.test"]
        .map(|name| rig.origin(name, Speaks::Https(rig.ca.tls(&["evil.test", "other.test"]), echo())));
    let away = Arc::new(|request: &crate::support::origin::Request| {
        let name = request.uri.trim_start_matches('/');
        let answer = http::Response::builder().status(302).header("location", format!("https://{name}/"));
        answer.body(Full::default()).expect("an answer")
    });
    let origin = rig.origin("allowed.test", Speaks::Https(http1_only(&rig.ca.tls(&["allowed.test"])), away));
    for name in ["evil.test", "other.test"] {
        let mut io = rig.tls("allowed.test", &["http/1.1"]).await;
        let answer = exchange(&mut io, &GET.replace("GET /", &format!("GET /{name}"))).await;
        assert!(status(&answer) == 302 && answer.contains(&format!("location: https://{name}/")), "{answer}");
    }
    assert_eq!(origin.requests().len(), 2);
    evil.assert_untouched();
    other.assert_untouched();
    // It follows.
    assert!(rig.tls_to(ANYWHERE, rig.ca.pem(), "evil.test", &[]).await.is_err());
    assert_eq!(rig.denied(), [DenyReason::NoRule]);
    let mut io = rig.tls_to(ANYWHERE, rig.ca.pem(), "other.test", &["http/1.1"]).await.expect("a splice");
    assert_eq!(status(&exchange(&mut io, &GET.replace("allowed.test", "other.test")).await), 200);
    evil.assert_untouched();
    assert!(!other.inner().contains(SECRET) && other.requests().len() == 1);
}

#[tokio::test]
async fn i88_names_without_end_cost_one_sandbox_its_leaves_and_no_other() {
    let policy = INJECTING.replace("  allowed.test:", "  '*.allowed.test':");
    let (greedy, other) = (Rig::with_secret(&policy, SECRET).await, Rig::with_secret(&policy, SECRET).await);
    let mut refused = 0;
    // The rate that goes on beside the burst is far below this one's.
    for number in 0..10 * limits::MINT_BURST {
        let name = format!("n{number}.allowed.test");
        let is_refused = greedy.tls_to(ANYWHERE, &greedy.root_pem(), &name, &[]).await.is_err();
        assert!(!is_refused || number >= limits::MINT_BURST, "{number}");
        refused += usize::from(is_refused);
        if refused == 20 {
            break;
        }
    }
    assert_eq!(refused, 20, "it has a bound");
    assert!(greedy.denied().iter().all(|reason| *reason == DenyReason::MintBudget), "{:?}", greedy.denied());
    assert_eq!(greedy.denied().len(), refused);
    // A name that it had before costs nothing.
    greedy.tls_to(ANYWHERE, &greedy.root_pem(), "n0.allowed.test", &[]).await.expect("a leaf that is kept");
    other.tls_to(ANYWHERE, &other.root_pem(), "n0.allowed.test", &[]).await.expect("a leaf of its own");
}

const FIRST: &str = "data: first\n\n";

/// An origin that says more only when its first words have been read.
#[tokio::test]
async fn i92_an_event_passes_before_the_next_is_there() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let tls = http1_only(&rig.ca.tls(&["allowed.test"]));
    let listener = played(&rig).await;
    let chunk = |text: &str| format!("{:X}\r\n{text}\r\n", text.len());
    for version in ["http/1.1", "h2"] {
        let (read, go_on) = tokio::sync::oneshot::channel();
        let origin = async {
            let (io, _) = listener.accept().await.expect("a connection");
            let mut io = tls.accept(io).await.expect("a handshake");
            read_head(&mut io).await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\
                        connection: close\r\n\r\n";
            io.write_all(format!("{head}{}", chunk(FIRST)).as_bytes()).await.expect("it reads");
            io.flush().await.expect("it reads");
            go_on.await.expect("the first was read");
            io.write_all(format!("{}0\r\n\r\n", chunk("data: last\n\n")).as_bytes()).await.expect("it reads");
            io.shutdown().await.expect("it is open");
        };
        let client = async {
            if version == "h2" {
                let mut client = rig.http2("allowed.test").await;
                let request = Request::get("https://allowed.test/").body(Full::<Bytes>::default()).expect("a request");
                let mut answer = client.send_request(request).await.expect("an answer");
                let first = answer.frame().await.expect("a frame").expect("in order").into_data().expect("data");
                assert_eq!(first, FIRST);
                read.send(()).expect("it waits");
                return answer.collect().await.expect("an end").to_bytes().to_vec();
            }
            let mut io = rig.tls("allowed.test", &["http/1.1"]).await;
            io.write_all(GET.as_bytes()).await.expect("it reads");
            read_head(&mut io).await;
            let mut first = vec![0; chunk(FIRST).len()];
            io.read_exact(&mut first).await.expect("the first");
            assert_eq!(first, chunk(FIRST).as_bytes());
            read.send(()).expect("it waits");
            let mut rest = Vec::new();
            let _ = io.read_to_end(&mut rest).await;
            rest
        };
        let (rest, ()) = timeout(PATIENCE, async { tokio::join!(client, origin) }).await.expect("nothing waits");
        assert!(String::from_utf8_lossy(&rest).contains("data: last\n\n"));
    }
}
