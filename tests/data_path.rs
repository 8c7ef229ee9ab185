//! The data path over real sockets: what arrives, what is judged, what goes out, byte for byte.
//!
//! A listener whose original destinations the test claims stands for a namespace; a table of names stands for DNS; the
//! origins are on loopback and record every byte. Attacks are named as in the list of attacks (A1, E46, …); the pass
//! criterion is that the evil origin gets nothing, and that the record says why.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod data_path {
    mod chance;
    mod differential;
    mod floods;
    mod http2_alone;
    mod interim;
    mod replacing;
    pub(crate) mod rig;
    mod scrubbing;
    mod streams;
    mod tricks;
    mod udp;
    mod upstreams;
    mod websocket;
}

use std::process::Stdio;

use bytes::Bytes;
use exeat::audit::{Protocol, RouteTaken};
use exeat::limits;
use exeat::policy::verdict::DenyReason;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use data_path::rig::{Rig, Scripted, exchange, http1_only, read_answer, read_head, speaking};
use support::origin::{Speaks, echo};

const INJECTING: &str = "
version: 1
allow:
  allowed.test:
    - match: { path: { startsWith: /denied } }
      response: { statusCode: 418, contentType: text/plain, body: answered here }
    - transform: [ { headers: { x-api-key: 'key ${secrets.KEY}' } } ]
secrets: { KEY: { env: KEY } }
";
const SECRET: &str = "c4n4ry-s3cret";
const GET: &str = "GET / HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n";

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"))
}

// ---- what is permitted

#[tokio::test]
async fn a_splice_is_untouched() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    // The client trusts the origin's root and not ours: that it connects shows whose handshake it was.
    let mut tls = rig.tls_trusting(rig.ca.pem(), "allowed.test", 443, &["http/1.1"]).await;
    let answer = exchange(&mut tls, GET).await;
    assert_eq!(status(&answer), 200);
    drop(tls);
    let close = rig.closed().await;
    assert_eq!((rig.allowed(), rig.denied()), (vec![RouteTaken::Splice], vec![]));
    assert_eq!(close.name.map(|name| name.to_string()).as_deref(), Some("allowed.test"));
    assert_eq!(close.bytes_out as usize, origin.wire().len());
    assert_eq!(origin.names(), ["allowed.test"]);
}

#[tokio::test]
async fn a_secret_is_injected_over_http1() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    assert_eq!(status(&exchange(&mut tls, GET).await), 200);
    let requests = origin.requests();
    assert_eq!(requests[0].header("x-api-key"), ["key c4n4ry-s3cret"]);
    assert_eq!((requests[0].header("host"), requests[0].version.as_str()), (vec!["allowed.test"], "HTTP/1.1"));
    let judged = rig.requests();
    assert_eq!((judged[0].injected.as_slice(), judged[0].protocol), (&["x-api-key".to_owned()][..], Protocol::Http));
    assert!(!format!("{:?}", rig.events()).contains(SECRET));
}

#[tokio::test]
async fn a_secret_is_injected_over_http2() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut client = rig.http2("allowed.test").await;
    for path in ["/one", "/two"] {
        let request = Request::post(format!("https://allowed.test{path}")).body(Full::new(Bytes::from("a body")));
        let response = client.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.unwrap();
    }
    let requests = origin.requests();
    assert_eq!(requests[1].header("x-api-key"), ["key c4n4ry-s3cret"]);
    assert_eq!((requests[1].version.as_str(), &requests[1].body[..]), ("HTTP/2.0", &b"a body"[..]));
    assert_eq!(origin.connections(), 1, "both streams go over one connection");
    assert!(rig.requests().iter().all(|judged| judged.protocol == Protocol::H2));
}

#[tokio::test]
async fn http2_is_translated_for_an_origin_without_it() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let tls = http1_only(&rig.ca.tls(&["allowed.test"]));
    let origin = rig.origin("allowed.test", Speaks::Https(tls, echo()));
    let client = rig.http2("allowed.test").await;
    let ask = |path: &'static str| {
        let mut client = client.clone();
        async move {
            let request = Request::get(format!("https://allowed.test{path}"))
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .body(Full::default())
                .unwrap();
            client.send_request(request).await.unwrap().into_body().collect().await.unwrap()
        }
    };
    tokio::join!(ask("/a?x"), ask("/b"), ask("/c"));
    let requests = origin.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert_eq!((request.version.as_str(), request.header("host")), ("HTTP/1.1", vec!["allowed.test"]));
        assert_eq!(request.header("cookie"), ["a=1; b=2"]);
        assert_eq!(request.header("x-api-key"), ["key c4n4ry-s3cret"]);
    }
}

#[tokio::test]
async fn http1_is_translated_for_an_origin_without_it() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(speaking(&rig.ca.tls(&["allowed.test"]), "h2"), echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let fields = "Host: allowed.test\r\nConnection: x-hop\r\nX-Hop: 1\r\nTE: trailers\r\n";
    tls.write_all(format!("GET /a?x HTTP/1.1\r\n{fields}\r\n").as_bytes()).await.unwrap();
    let answer = read_answer(&mut tls).await;
    assert_eq!(status(&answer), 200, "{answer}");
    let framed = "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    tls.write_all(format!("POST /b HTTP/1.1\r\n{fields}{framed}").as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut tls).await, "HTTP/1.1 100 Continue\r\n\r\n");
    tls.write_all(b"4\r\nbody\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_answer(&mut tls).await), 200);
    let mut old = rig.tls("allowed.test", &["http/1.1"]).await;
    let answer = exchange(&mut old, "HEAD /c HTTP/1.0\r\nHost: allowed.test\r\n\r\n").await;
    assert!(status(&answer) == 200 && answer.ends_with("\r\n\r\n"), "{answer}");
    let requests = origin.requests();
    let asked = |request: &support::origin::Request| (request.method.clone(), request.uri.clone());
    let uri = |path: &str| format!("https://allowed.test{path}");
    let expected = [("GET", "/a?x"), ("POST", "/b"), ("HEAD", "/c")];
    assert_eq!(requests.iter().map(asked).collect::<Vec<_>>(), expected.map(|(it, path)| (it.to_owned(), uri(path))));
    for request in &requests {
        assert_eq!((request.version.as_str(), request.header("x-api-key")), ("HTTP/2.0", vec!["key c4n4ry-s3cret"]));
        for name in ["host", "connection", "x-hop", "transfer-encoding"] {
            assert!(request.header(name).is_empty(), "{request:?}");
        }
    }
    assert_eq!((&*requests[1].body, requests[1].header("expect")), (&b"body"[..], vec!["100-continue"]));
    // HTTP/1.1 was asked for first, and that is remembered.
    assert_eq!(origin.connections(), 2);
    assert_eq!(rig.requests()[0].protocol, Protocol::Http);
}

#[tokio::test]
async fn a_response_rule_contacts_nobody() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let answer = exchange(&mut tls, &GET.replace("GET /", "GET /denied/x")).await;
    assert_eq!(status(&answer), 418);
    assert!(answer.ends_with("answered here"), "{answer}");
    origin.assert_untouched();
    let judged = &rig.requests()[0];
    assert_eq!((judged.outcome, judged.status), (Ok(RouteTaken::Respond), Some(418)));
}

const FORWARDING: &str = "
version: 1
allow:
  allowed.test: [ { forwardURL: 'https://proxy.test/agents/' } ]
";

/// The claims of a token. Whether it is signed is for a verifier that we did not write; see `tests/daemon.rs`.
fn claims(token: &str) -> serde_json::Value {
    use base64::Engine;
    let payload = token.split('.').nth(1).expect("three parts");
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).expect("base64url");
    serde_json::from_slice(&json).expect("JSON")
}

#[tokio::test]
async fn a_forward_url_gets_the_request_and_a_token() {
    let rig = Rig::new(FORWARDING).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let proxy = rig.origin("proxy.test", Speaks::Https(rig.ca.tls(&["proxy.test"]), echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let post = "POST /x%2Fy?z=1&z=2 HTTP/1.1\r\nHost: allowed.test\r\nX-Own: 1\r\nContent-Length: 3\r\n\r\nabc";
    tls.write_all(post.as_bytes()).await.unwrap();
    assert_eq!(status(&data_path::rig::read_answer(&mut tls).await), 200);
    let mut client = rig.http2("allowed.test").await;
    let request = Request::post("https://allowed.test/x%2Fy?z=1&z=2").body(Full::new(Bytes::from("abc"))).unwrap();
    client.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    origin.assert_untouched();
    let requests = proxy.requests();
    assert_eq!((requests[0].version.as_str(), requests[1].version.as_str()), ("HTTP/1.1", "HTTP/2.0"));
    for request in &requests {
        assert_eq!((request.method.as_str(), &request.body[..]), ("POST", &b"abc"[..]));
        assert_eq!(request.uri.trim_start_matches("https://proxy.test"), "/agents/x%2Fy?z=1&z=2");
        for (name, value) in
            [("host", "allowed.test"), ("scheme", "https"), ("port", "443"), ("path", "/x%2Fy?z=1&z=2")]
        {
            assert_eq!(request.header(&format!("vercel-forwarded-{name}")), [value]);
        }
        let claims = claims(request.header("vercel-sandbox-oidc-token")[0]);
        assert_eq!((&claims["aud"], &claims["sandbox_id"]), (&"https://proxy.test/agents".into(), &"sbx_1".into()));
    }
    assert_eq!((requests[0].header("host"), requests[0].header("x-own")), (vec!["proxy.test"], vec!["1"]));
    let judged = rig.requests();
    assert!(judged.iter().all(|judged| judged.outcome == Ok(RouteTaken::Forward)), "{judged:?}");
    assert!(judged.iter().all(|judged| judged.name.as_ref().is_some_and(|name| name.as_str() == "allowed.test")));
    assert!(!format!("{:?}", rig.events()).contains("eyJ"), "no token in the record");
}

#[tokio::test]
async fn a_forward_url_is_bound_to_its_url_and_to_the_policy() {
    let rig = Rig::new(FORWARDING).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let proxy = rig.origin("proxy.test", Speaks::Https(rig.ca.tls(&["proxy.test"]), echo()));
    // A path that climbs out of the URL would be another's, under a token of ours.
    for path in ["/../other", "/%2e%2e/other", "/a/..%2f..%2fother", "/..\\other", "/a/%252e%252e/../x"] {
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        let answer = exchange(&mut tls, &GET.replace("GET /", &format!("GET {path}"))).await;
        assert!(status(&answer) == 403 && answer.contains("ambiguous-path"), "{path}: {answer}");
    }
    // In clear, no token goes along.
    let mut io = rig.connect("203.0.113.9:80").await;
    assert_eq!(status(&exchange(&mut io, GET).await), 403);
    assert_eq!(rig.denied().last(), Some(&DenyReason::PlaintextInjection));
    // What `deny` matches is not resolved, whoever asks.
    rig.replace(&format!("{FORWARDING}\ndeny: [proxy.test]"));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let answer = exchange(&mut tls, GET).await;
    assert!(status(&answer) == 403 && answer.contains("denied-domain"), "{answer}");
    proxy.assert_untouched();
    origin.assert_untouched();
}

/// F56, F57 for what is said of a forwarded request: nobody but us says it, to nobody.
#[tokio::test]
async fn f57_the_sandbox_cannot_forge_what_we_say_of_a_forwarded_request() {
    let policy = format!("{FORWARDING}  other.test: [ {{}} ]\n");
    let rig = Rig::new(&policy).await;
    let other = rig.origin("other.test", Speaks::Https(rig.ca.tls(&["other.test"]), echo()));
    let proxy = rig.origin("proxy.test", Speaks::Https(rig.ca.tls(&["proxy.test"]), echo()));
    let forged = "Vercel-Forwarded-Host: evil.test\r\nvercel_forwarded_host: evil.test\r\n\
                  VERCEL-forwarded_path: /evil\r\n\
                  vercel-sandbox-oidc-token: forged\r\nVercel_Sandbox_OIDC_Token: forged\r\n\
                  Connection: vercel-forwarded-host, vercel-sandbox-oidc-token, close\r\n\
                  Trailer: vercel-forwarded-host\r\nTransfer-Encoding: chunked\r\n\r\n\
                  3\r\nabc\r\n0\r\nvercel-forwarded-host: evil.test\r\nvercel_sandbox_oidc_token: forged\r\n\r\n";
    for name in ["allowed.test", "other.test"] {
        let mut tls = rig.tls(name, &["http/1.1"]).await;
        let answer = exchange(&mut tls, &format!("POST /x HTTP/1.1\r\nHost: {name}\r\n{forged}")).await;
        assert_eq!(status(&answer), 200, "{answer}");
    }
    let (forwarded, plain) = (&proxy.requests()[0], &other.requests()[0]);
    let said = |request: &support::origin::Request| -> Vec<(String, String)> {
        let ours = request.headers.iter().filter(|(name, _)| name.replace('_', "-").starts_with("vercel-"));
        ours.cloned().collect()
    };
    assert_eq!((said(forwarded).len(), said(plain)), (5, vec![]));
    assert_eq!(forwarded.header("vercel-forwarded-host"), ["allowed.test"]);
    assert_eq!(forwarded.header("vercel-forwarded-path"), ["/x"]);
    for origin in [&proxy, &other] {
        let wire = origin.inner().to_lowercase();
        assert!(!wire.contains("evil") && !wire.contains("forged"), "{wire}");
    }
}

#[tokio::test]
async fn cleartext_http_goes_to_the_name_it_names() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let origin = rig.origin("allowed.test", Speaks::Http(echo()));
    let mut io = rig.connect("203.0.113.9:80").await;
    let answer =
        exchange(&mut io, "POST /x?y=%2f HTTP/1.0\r\nHost: Allowed.TEST.\r\nContent-Length: 3\r\n\r\nabc").await;
    assert_eq!(status(&answer), 200);
    let request = &origin.requests()[0];
    assert_eq!((request.uri.as_str(), request.header("host")), ("/x?y=%2f", vec!["allowed.test"]));
    assert_eq!(&request.body[..], b"abc");
}

#[tokio::test]
async fn an_address_that_a_subnet_allows_is_relayed_unread() {
    let rig = Rig::new("subnets: { allow: [127.0.0.0/8] }").await;
    let origin = rig.origin("unnamed.test", Speaks::Opaque("220 hello\r\n"));
    let mut io = rig.connect(&origin.address.to_string()).await;
    let mut greeting = [0; 11];
    io.read_exact(&mut greeting).await.unwrap();
    io.write_all(b"GET / HTTP/1.1\nnot for us to read\n\n").await.unwrap();
    io.shutdown().await.unwrap();
    let mut echoed = String::new();
    io.read_to_string(&mut echoed).await.unwrap();
    assert!(echoed.contains("not for us to read"));
    let close = rig.closed().await;
    assert_eq!(rig.allowed(), [RouteTaken::Relay]);
    assert_eq!((close.bytes_out, close.bytes_in), (35, 46));
}

#[tokio::test]
async fn connections_are_kept_and_used_again() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let keep = "GET /1 HTTP/1.1\r\nHost: allowed.test\r\n\r\n";
    for _ in 0..3 {
        tls.write_all(keep.as_bytes()).await.unwrap();
        data_path::rig::read_answer(&mut tls).await;
    }
    assert_eq!((origin.requests().len(), origin.connections()), (3, 1));
    // Another generation of the policy is another connection, and its rules count at once.
    rig.replace(&INJECTING.replace("'key ", "'other "));
    tls.write_all(keep.as_bytes()).await.unwrap();
    data_path::rig::read_answer(&mut tls).await;
    assert_eq!(origin.connections(), 2);
    assert_eq!(origin.requests()[3].header("x-api-key"), ["other c4n4ry-s3cret"]);
}

#[tokio::test]
async fn a_kept_connection_that_its_origin_closed_is_replaced() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = Scripted::serve(&rig, "allowed.test", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    for answered in 1..4 {
        tls.write_all(b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.unwrap();
        assert_eq!(status(&data_path::rig::read_answer(&mut tls).await), 200);
        origin.hang_up();
        assert_eq!(origin.received().matches("GET /").count(), answered);
    }
}

#[tokio::test]
async fn an_upstream_connection_that_nobody_uses_is_closed() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = Scripted::serve(&rig, "allowed.test", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    for _ in 0..2 {
        tls.write_all(b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.unwrap();
        assert_eq!(status(&data_path::rig::read_answer(&mut tls).await), 200);
        tokio::time::pause();
        // One time to see the connection used, one to see it unused, and one because nobody says when it was opened.
        for _ in 0..3 {
            tokio::time::advance(limits::UPSTREAM_IDLE).await;
            tokio::task::yield_now().await;
        }
        tokio::time::resume();
        origin.gone.notified().await;
    }
}

#[tokio::test]
async fn bodies_stream_with_trailers_and_expectations() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let head = "PUT / HTTP/1.1\r\nHost: allowed.test\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\
                Trailer: x-sum\r\nConnection: close\r\n\r\n";
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    tls.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    let answer = exchange(&mut tls, "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Sum: 7\r\n\r\n").await;
    assert_eq!(status(&answer), 200);
    assert_eq!(&origin.requests()[0].body[..], b"abcde");
    assert!(origin.inner().to_ascii_lowercase().contains("x-sum: 7\r\n"), "{}", origin.inner());
    assert_eq!(origin.requests()[0].header("expect"), ["100-continue"], "it is the origin that grants it");
}

#[tokio::test]
async fn a_real_client_is_served_without_knowing() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let body = "x".repeat(300_000);
    rig.claim("203.0.113.9:443");
    let mut curl = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "30", "--data-binary", "@-"])
        .arg("--connect-to")
        .arg(format!("::{}", rig.listener))
        .arg("--cacert")
        .arg(rig.root_file())
        .arg("https://allowed.test/upload")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl is installed");
    curl.stdin.take().unwrap().write_all(body.as_bytes()).await.unwrap();
    let done = curl.wait_with_output().await.unwrap();
    assert!(done.status.success(), "{done:?}");
    let echoed: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(echoed["body"].as_str().unwrap().len(), body.len());
    assert_eq!(origin.requests()[0].version, "HTTP/2.0");
}

// ---- A: whom a flow and a request name

#[tokio::test]
async fn a1_a_plaintext_host_spoof_does_not_reach_the_address_it_dialled() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let allowed = rig.origin("allowed.test", Speaks::Http(echo()));
    let evil = rig.origin("evil.test", Speaks::Http(echo()));
    let mut io = rig.connect(&evil.address.to_string()).await;
    assert_eq!(status(&exchange(&mut io, GET).await), 200);
    evil.assert_untouched();
    assert_eq!(allowed.requests().len(), 1);
}

#[tokio::test]
async fn a1_a_credential_is_not_sent_in_clear() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let allowed = rig.origin("allowed.test", Speaks::Http(echo()));
    let mut io = rig.connect("203.0.113.9:80").await;
    let answer = exchange(&mut io, GET).await;
    assert_eq!(status(&answer), 403);
    assert!(answer.contains("exeat-denied: plaintext-injection"), "{answer}");
    allowed.assert_untouched();
}

#[tokio::test]
async fn a2_a_forged_sni_reaches_the_owner_of_the_name_or_nobody() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let allowed = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let evil = rig.origin("evil.test", Speaks::Https(rig.ca.tls(&["evil.test"]), echo()));
    let mut tls = rig.tls_to(&evil.address.to_string(), rig.ca.pem(), "allowed.test", &["http/1.1"]).await.unwrap();
    assert_eq!(status(&exchange(&mut tls, GET).await), 200);
    evil.assert_untouched();
    assert_eq!(allowed.connections(), 1);
}

#[tokio::test]
async fn a3_a7_a_terminated_request_names_what_its_hello_named() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let allowed = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let evil = rig.origin("evil.test", Speaks::Https(rig.ca.tls(&["evil.test"]), echo()));
    for head in [
        "GET / HTTP/1.1\r\nHost: evil.test\r\n",
        "GET / HTTP/1.1\r\nHost: allowed.test:8443\r\n",
        "GET / HTTP/1.1\r\nHost: 203.0.113.9\r\n",
        "GET https://evil.test/ HTTP/1.1\r\nHost: allowed.test\r\n",
        "GET https://allowed.test/ HTTP/1.1\r\nHost: evil.test\r\n",
        "GET https://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n",
        "GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n",
    ] {
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        let answer = exchange(&mut tls, &format!("{head}Connection: close\r\n\r\n")).await;
        assert_eq!(status(&answer), 421, "{head}");
        assert!(answer.contains("exeat-denied: authority-mismatch"), "{answer}");
        assert_eq!(rig.requests().last().unwrap().outcome, Err(DenyReason::AuthorityMismatch));
    }
    allowed.assert_untouched();
    evil.assert_untouched();
}

#[tokio::test]
async fn a4_every_http2_stream_is_judged_alone() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let allowed = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let evil = rig.origin("evil.test", Speaks::Https(rig.ca.tls(&["evil.test"]), echo()));
    let mut client = rig.http2("allowed.test").await;
    let mut ask = async |uri: &str, host: Option<&str>| {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        client.send_request(request.body(Full::default()).unwrap()).await.unwrap().status().as_u16()
    };
    assert_eq!(ask("https://allowed.test/", None).await, 200);
    assert_eq!(ask("https://evil.test/", None).await, 421);
    assert_eq!(ask("https://allowed.test/", Some("evil.test")).await, 421);
    assert_eq!(ask("https://evil.test/", Some("allowed.test")).await, 421);
    assert_eq!(ask("https://allowed.test:8443/", None).await, 421);
    assert_eq!(ask("http://allowed.test/", None).await, 421);
    assert_eq!(ask("https://ALLOWED.test/", Some("allowed.test")).await, 200);
    assert_eq!(allowed.requests().len(), 2);
    evil.assert_untouched();
}

#[tokio::test]
async fn a5_connect_is_refused() {
    let rig = Rig::new("mode: allow-all").await;
    let evil = rig.origin("evil.test", Speaks::Http(echo()));
    let mut io = rig.connect("203.0.113.9:80").await;
    let port = evil.address.port();
    let early = "CONNECT evil.test:80 HTTP/1.1\r\nHost: evil.test:80\r\n\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n";
    let answer = exchange(&mut io, &early.replace(":80", &format!(":{port}"))).await;
    assert_eq!(status(&answer), 400);
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "what came with it is not answered: {answer}");
    evil.assert_untouched();
}

#[tokio::test]
async fn a8_a_doubtful_host_is_refused() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let allowed = rig.origin("allowed.test", Speaks::Http(echo()));
    for fields in [
        "Host: allowed.test\r\nHost: evil.test",
        "Host: allowed.test\r\nHost: allowed.test",
        "Host: allowed.test, evil.test",
        "Host: allowed.test\r\n evil.test",
        "Host : allowed.test",
        "Host: allowed.test@evil.test",
        "Host: allowed.test:",
        "X: y",
    ] {
        let mut io = rig.connect("203.0.113.9:80").await;
        let answer = exchange(&mut io, &format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n")).await;
        assert_eq!(status(&answer), 400, "{fields}");
        assert_eq!(rig.denied().last(), Some(&DenyReason::MalformedRequest), "{fields}");
    }
    allowed.assert_untouched();
}

// ---- E: framing

#[tokio::test]
async fn e46_e47_what_can_be_framed_in_two_ways_goes_nowhere() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: +5",
        "Content-Length: 5,5",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: gzip, chunked",
        "X: a\nTransfer-Encoding: chunked",
        "X: a\r b",
        "X: a\r\n folded",
        "X : a",
        "X: a\0b",
    ] {
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        let request = format!("POST / HTTP/1.1\r\nHost: allowed.test\r\n{fields}\r\n\r\n0\r\n\r\n");
        let answer = exchange(&mut tls, &request).await;
        assert_eq!(status(&answer), 400, "{fields:?}");
        assert!(answer.contains("exeat-denied: malformed-request"), "{answer}");
        assert_eq!(rig.denied().last(), Some(&DenyReason::MalformedRequest), "{fields:?}");
    }
    origin.assert_untouched();
}

#[tokio::test]
async fn e47_a_chunk_outside_the_grammar_ends_the_request() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    for body in ["5\nhello\r\n0\r\n\r\n", "0\r\nAuthorization: x\r\n\r\n", "5;a\nb\r\nhello\r\n0\r\n\r\n"] {
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        let head = "POST / HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = exchange(&mut tls, &format!("{head}{body}GET /evil HTTP/1.1\r\nHost: allowed.test\r\n\r\n")).await;
        assert_eq!(status(&answer), 400, "{body:?}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
    assert!(!origin.inner().contains("/evil"));
}

#[tokio::test]
async fn e48_pipelined_requests_are_judged_one_by_one() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let pipelined = "POST /1 HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 3\r\n\r\nabc\
                     GET /denied HTTP/1.1\r\nHost: allowed.test\r\n\r\n\
                     GET /2 HTTP/1.1\r\nHost: evil.test\r\n\r\n\
                     GET /3 HTTP/1.1\r\nHost: allowed.test\r\n\r\n\
                     GET /4 HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n\
                     GET /5 HTTP/1.1\r\nHost: allowed.test\r\n\r\n";
    let answer = exchange(&mut tls, pipelined).await;
    let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
    assert_eq!(statuses, ["200", "418", "421", "200", "400"], "{answer}");
    let paths: Vec<String> = origin.requests().into_iter().map(|request| request.uri).collect();
    assert_eq!(paths, ["/1", "/3"]);
}

#[tokio::test]
async fn e48_a_head_over_the_limit_is_refused() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let origin = rig.origin("allowed.test", Speaks::Http(echo()));
    let mut io = rig.connect("203.0.113.9:80").await;
    let long = format!("GET / HTTP/1.1\r\nHost: allowed.test\r\n{}\r\n", "x: y\r\n".repeat(200));
    let answer = exchange(&mut io, &long).await;
    assert_eq!(status(&answer), 431);
    assert!(answer.contains("exeat-denied: limit"), "{answer}");
    origin.assert_untouched();
}

#[tokio::test]
async fn e48_a_head_of_too_many_fields_is_refused_over_http2_too() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut client = rig.http2("allowed.test").await;
    let mut request = Request::get("https://allowed.test/").body(Full::default()).unwrap();
    for field in 0..=limits::HEAD_FIELDS {
        let name = http::HeaderName::try_from(format!("x-{field}")).unwrap();
        request.headers_mut().insert(name, "1".parse().unwrap());
    }
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(rig.denied(), [DenyReason::Limit]);
    origin.assert_untouched();
}

#[tokio::test]
async fn e50_an_upgrade_to_h2c_is_as_if_not_asked_for() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let origin = rig.origin("allowed.test", Speaks::Http(echo()));
    let mut io = rig.connect("203.0.113.9:80").await;
    let request = "GET / HTTP/1.1\r\nHost: allowed.test\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\
                   Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    assert_eq!(status(&exchange(&mut io, request).await), 200);
    let request = &origin.requests()[0];
    assert!(request.header("upgrade").is_empty() && request.header("http2-settings").is_empty(), "{request:?}");
}

#[tokio::test]
async fn e51_http2_in_clear_is_judged_like_any_other() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let allowed = rig.origin("allowed.test", Speaks::Http(echo()));
    let evil = rig.origin("evil.test", Speaks::Http(echo()));
    let io = rig.connect("203.0.113.9:80").await;
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://evil.test/").body(Empty::<Bytes>::new()).unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["exeat-denied"]), (403, &"no-rule".parse().unwrap()));
    evil.assert_untouched();
    allowed.assert_untouched();
}

#[tokio::test]
async fn e51_what_http2_allows_and_http1_misreads_is_not_translated() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let tls = http1_only(&rig.ca.tls(&["allowed.test"]));
    let origin = rig.origin("allowed.test", Speaks::Https(tls, echo()));
    let mut client = rig.http2("allowed.test").await;
    for lengths in [&["0", "5"][..], &["0, 5"], &["+0"], &["0", "0"]] {
        let mut request = Request::get("https://allowed.test/").body(Full::default()).unwrap();
        for length in lengths {
            request.headers_mut().append("content-length", length.parse().unwrap());
        }
        // Some of it the library refuses by ending the stream.
        if let Ok(response) = client.send_request(request).await {
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{lengths:?}");
        }
    }
    for value in [" padded", "padded ", "\tpadded", "padded\t"] {
        let request = Request::get("https://allowed.test/").header("x-role", value).body(Full::default()).unwrap();
        assert_eq!(client.send_request(request).await.unwrap().status(), StatusCode::BAD_REQUEST, "{value:?}");
    }
    origin.assert_untouched();
}

#[tokio::test]
async fn the_block_address_tells_why_and_leads_nowhere() {
    let rig = Rig::new("mode: allow-all\ndeny: [evil.test]").await;
    let evil = rig.origin("evil.test", Speaks::Http(echo()));
    let mut io = rig.connect("192.0.2.1:80").await;
    let answer = exchange(&mut io, &GET.replace("allowed", "evil")).await;
    assert!(status(&answer) == 403 && answer.contains("exeat-denied: denied-domain"), "{answer}");
    evil.assert_untouched();
}

#[tokio::test]
async fn port_53_is_answered_here_whoever_is_dialled() {
    let rig = Rig::new("mode: allow-all").await;
    let mut io = rig.connect("203.0.113.9:53").await;
    let question = b"\0\x1b\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04evil\x04test\0\0\x01\0\x01";
    io.write_all(question).await.unwrap();
    let length = io.read_u16().await.unwrap();
    let mut answer = vec![0; length.into()];
    io.read_exact(&mut answer).await.unwrap();
    assert_eq!((&answer[..2], answer[3] & 0xf), (&b"\x12\x34"[..], 3), "the table of names has none: NXDOMAIN");
    drop(io);
    rig.closed().await;
    assert_eq!(rig.allowed(), [RouteTaken::Respond]);
}

const WEBSOCKET: &str = "GET /ws HTTP/1.1\r\nHost: allowed.test\r\nConnection: keep-alive, Upgrade\r\n\
                         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n";

#[tokio::test]
async fn e52_a_websocket_passes_with_its_credential() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = Scripted::serve(&rig, "allowed.test", SWITCHING).await;
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    tls.write_all(WEBSOCKET.as_bytes()).await.unwrap();
    let head = data_path::rig::read_head(&mut tls).await;
    assert_eq!(status(&head), 101, "{head}");
    tls.write_all(b"\x81\x05hello").await.unwrap();
    let mut frame = [0; 7];
    tls.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x81\x05hello", "the origin sends every byte back");
    let received = origin.received().to_ascii_lowercase();
    assert!(received.contains("x-api-key: key c4n4ry-s3cret\r\n") && received.contains("upgrade: websocket\r\n"));
}

#[tokio::test]
async fn e52_a_switch_that_was_not_asked_for_is_no_way_out() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let other = SWITCHING.replace("websocket", "other");
    let bare = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    let h2c = WEBSOCKET.replace("Upgrade: websocket", "Upgrade: websocket, h2c");
    for (request, answer) in [(GET, SWITCHING), (WEBSOCKET, bare), (WEBSOCKET, &other), (&h2c, SWITCHING)] {
        let origin = Scripted::serve(&rig, "allowed.test", answer).await;
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        tls.write_all(request.as_bytes()).await.unwrap();
        let head = data_path::rig::read_head(&mut tls).await;
        assert_eq!(status(&head), 502, "{request:?} {answer:?}: {head}");
        assert!(head.contains("exeat-error: "), "{head}");
        drop(origin);
    }
}

// ---- F: secrets

#[tokio::test]
async fn f56_connection_cannot_take_away_what_is_injected() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let request =
        "GET / HTTP/1.1\r\nHost: allowed.test\r\nConnection: close, x-api-key, host, x-mine\r\nX-Mine: 1\r\n\r\n";
    assert_eq!(status(&exchange(&mut tls, request).await), 200);
    let request = &origin.requests()[0];
    assert_eq!(
        (request.header("x-api-key"), request.header("host")),
        (vec!["key c4n4ry-s3cret"], vec!["allowed.test"])
    );
    assert!(request.header("x-mine").is_empty() && request.header("connection").is_empty(), "{request:?}");
}

#[tokio::test]
async fn f56_connection_cannot_take_away_what_a_rule_looked_at() {
    let rig = Rig::with_secret(
        "
version: 1
allow:
  allowed.test:
    - match: { headers: [ { key: { exact: x-read-only }, value: { exact: 'yes' } } ] }
      transform: [ { headers: { x-api-key: 'key ${secrets.KEY}' } } ]
    - response: { statusCode: 418, contentType: text/plain, body: not without it }
secrets: { KEY: { env: KEY } }
",
        SECRET,
    )
    .await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let request = "GET / HTTP/1.1\r\nHost: allowed.test\r\nConnection: close, x-read-only\r\nX-Read-Only: yes\r\n\r\n";
    assert_eq!(status(&exchange(&mut tls, request).await), 418);
    origin.assert_untouched();
}

#[tokio::test]
async fn f57_no_trailer_repeats_what_is_injected() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let tls = http1_only(&rig.ca.tls(&["allowed.test"]));
    let origin = rig.origin("allowed.test", Speaks::Https(tls, echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let request = "POST / HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\
                   Trailer: x-api-key, x_api_key, x-sum\r\n\r\n1\r\na\r\n0\r\nX-Api-Key: theirs\r\n\
                   X_Api_Key: theirs\r\nX-Sum: 1\r\n\r\n";
    assert_eq!(status(&exchange(&mut tls, request).await), 200);
    let inner = origin.inner();
    assert!(inner.contains("x-sum: 1") && !inner.contains("theirs"), "{inner}");
}

#[tokio::test]
async fn f57_exactly_one_injected_header_goes_out() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let request = "GET / HTTP/1.1\r\nHost: allowed.test\r\nX-API-Key: a\r\nx-api-key: b\r\nX_Api_Key: c\r\n\
                   Connection: close\r\n\r\n";
    assert_eq!(status(&exchange(&mut tls, request).await), 200);
    let keys: Vec<String> =
        origin.inner().lines().filter(|line| line.to_ascii_lowercase().starts_with("x")).map(str::to_owned).collect();
    assert_eq!(keys, ["x-api-key: key c4n4ry-s3cret"]);
}

#[tokio::test]
async fn f63_a_missing_secret_stops_the_request_before_anybody_is_contacted() {
    for value in [None, Some("a\nb")] {
        let rig = match value {
            Some(value) => Rig::with_secret(INJECTING, value).await,
            None => Rig::new(INJECTING).await,
        };
        let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        let answer = exchange(&mut tls, GET).await;
        assert_eq!(status(&answer), 503);
        assert!(answer.contains("exeat-denied: secret-unavailable"), "{answer}");
        origin.assert_untouched();
        assert_eq!(rig.requests()[0].outcome, Err(DenyReason::SecretUnavailable));
    }
}

#[tokio::test]
async fn f64_an_upstream_that_cannot_be_verified_gets_no_credential() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["other.test"]), echo()));
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let answer = exchange(&mut tls, GET).await;
    assert_eq!(status(&answer), 502);
    assert!(answer.contains("exeat-error: the upstream's certificate was refused"), "{answer}");
    assert!(!answer.contains("exeat-denied"), "what fails upstream is no denial");
    assert_eq!(origin.requests().len(), 0);
}

// ---- refusals

#[tokio::test]
async fn a_refused_name_is_explained_inside_tls_and_in_clear() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let evil = rig.origin("evil.test", Speaks::Https(rig.ca.tls(&["evil.test"]), echo()));
    let mut tls = rig.tls("evil.test", &["http/1.1"]).await;
    // What it claims inside is not what was refused.
    let secure = exchange(&mut tls, GET).await;
    let mut io = rig.connect("203.0.113.9:80").await;
    let clear = exchange(&mut io, &GET.replace("allowed", "evil")).await;
    for answer in [secure, clear] {
        assert_eq!(status(&answer), 403);
        assert!(answer.contains("exeat-denied: no-rule\r\n") && answer.contains("cache-control: no-store\r\n"));
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((body["reason"].as_str(), body["host"].as_str()), (Some("no-rule"), Some("evil.test")));
        assert_eq!(body["revision"].as_str().unwrap().len(), 16);
    }
    evil.assert_untouched();
    assert_eq!(rig.denied(), [DenyReason::NoRule, DenyReason::NoRule]);
}

#[tokio::test]
async fn a_refused_address_is_explained_too() {
    let rig = Rig::new("allow: { allowed.test: [] }\nsubnets: { deny: [203.0.113.0/24] }").await;
    let mut io = rig.connect("203.0.113.9:80").await;
    let answer = exchange(&mut io, GET).await;
    assert!(status(&answer) == 403 && answer.contains("exeat-denied: denied-cidr"), "{answer}");
    // What is no HTTP is reset.
    let mut io = rig.connect("203.0.113.9:22").await;
    io.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    let error = io.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn terse_says_no_more_than_it_must() {
    let rig = Rig::new("allow: { allowed.test: [] }\ndenials: terse").await;
    let mut io = rig.connect("203.0.113.9:80").await;
    let answer = exchange(&mut io, &GET.replace("allowed", "evil")).await;
    assert!(status(&answer) == 403 && !answer.contains("exeat") && !answer.contains("no-rule"), "{answer}");
    let error = rig.tls_to("203.0.113.9:443", &rig.root_pem(), "evil.test", &[]).await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
}

#[tokio::test]
async fn tls_that_names_nobody_gets_an_alert() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let error = rig.tls_to("203.0.113.9:443", &rig.root_pem(), "203.0.113.9", &[]).await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    assert_eq!(rig.denied(), [DenyReason::NoName]);
}

#[tokio::test]
async fn what_is_no_http_inside_tls_is_refused() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut tls = rig.tls("allowed.test", &[]).await;
    let answer = exchange(&mut tls, "EHLO allowed.test\r\n").await;
    assert!(answer.contains("exeat-denied: not-http"), "{answer}");
    assert_eq!(rig.denied(), [DenyReason::NotHttp]);
    origin.assert_untouched();
}

#[tokio::test]
async fn a_loop_is_refused() {
    let rig = Rig::new("mode: allow-all").await;
    let mut io = rig.connect(&format!("203.0.113.9:{}", rig.listener.port())).await;
    assert_eq!(io.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    rig.closed().await;
    assert_eq!(rig.denied(), [DenyReason::Loop]);
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_no_denial() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    rig.resolve("allowed.test", data_path::rig::nobody_listens().await);
    let mut io = rig.connect("203.0.113.9:80").await;
    let answer = exchange(&mut io, GET).await;
    assert_eq!(status(&answer), 502);
    assert!(answer.contains("exeat-error: the upstream at 127.0.0.1"), "{answer}");
    assert_eq!(rig.requests()[0].status, Some(502));
}

#[tokio::test]
async fn an_allowed_name_with_a_protected_address_is_denied() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    rig.resolve("allowed.test", "169.254.169.254:80".parse().unwrap());
    let mut io = rig.connect("203.0.113.9:80").await;
    let answer = exchange(&mut io, GET).await;
    assert!(status(&answer) == 403 && answer.contains("exeat-denied: protected-range"), "{answer}");
    assert_eq!(rig.requests()[0].outcome, Err(DenyReason::ProtectedRange));
}

// ---- G: change under live traffic

async fn ends_with_a_reset(mut io: impl AsyncRead + Unpin) {
    let mut rest = Vec::new();
    let error = io.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "after {rest:?}");
}

#[tokio::test]
async fn g70_revocation_cuts_a_splice() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut tls = rig.tls_trusting(rig.ca.pem(), "allowed.test", 443, &["http/1.1"]).await;
    tls.write_all(b"GET /1 HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.unwrap();
    data_path::rig::read_answer(&mut tls).await;
    // A change that still permits it leaves it alone.
    rig.replace("allow: { allowed.test: [], other.test: [] }");
    tls.write_all(b"GET /2 HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.unwrap();
    data_path::rig::read_answer(&mut tls).await;
    rig.replace("allow: { other.test: [] }");
    ends_with_a_reset(tls).await;
    rig.closed().await;
    assert_eq!((origin.connections(), rig.denied()), (1, vec![DenyReason::Revoked]));
}

#[tokio::test]
async fn g70_revocation_ends_a_request_in_flight() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf";
    let _origin = Scripted::serve(&rig, "allowed.test", half).await;
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    tls.write_all(GET.as_bytes()).await.unwrap();
    data_path::rig::read_head(&mut tls).await;
    rig.replace(&INJECTING.replace("- transform", "- response: { statusCode: 403 }\n    - transform"));
    ends_with_a_reset(tls).await;
    assert_eq!(rig.requests().last().unwrap().outcome, Err(DenyReason::Revoked));
}

#[tokio::test]
async fn g70_revocation_ends_an_idle_terminated_flow_and_a_websocket() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let _origin = Scripted::serve(&rig, "allowed.test", SWITCHING).await;
    let idle = rig.tls("allowed.test", &["http/1.1"]).await;
    let mut socket = rig.tls("allowed.test", &["http/1.1"]).await;
    socket.write_all(WEBSOCKET.as_bytes()).await.unwrap();
    data_path::rig::read_head(&mut socket).await;
    rig.replace("mode: deny-all");
    ends_with_a_reset(socket).await;
    ends_with_a_reset(idle).await;
}

#[tokio::test]
async fn g70_revocation_ends_one_http2_stream_and_leaves_the_others() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let _origin = Scripted::serve(&rig, "allowed.test", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf").await;
    let client = rig.http2("allowed.test").await;
    let ask = async |path: &str| {
        let request = Request::get(format!("https://allowed.test/{path}")).body(Full::default()).unwrap();
        client.clone().send_request(request).await.unwrap()
    };
    let (mut cut, mut kept) = (ask("cut").await.into_body(), ask("kept").await.into_body());
    let rule = "- { match: { path: { exact: /cut } }, response: { statusCode: 403 } }";
    rig.replace(&INJECTING.replace("- transform", &format!("{rule}\n    - transform")));
    assert_eq!(cut.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    assert!(cut.frame().await.unwrap().is_err());
    assert_eq!(kept.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
    assert_eq!(ask("cut").await.status(), 403);
    assert_eq!(rig.denied(), [DenyReason::Revoked]);
}

#[tokio::test]
async fn g73_a_change_while_dialling_is_judged_before_the_first_byte() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let gate = rig.gate();
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    tls.write_all(GET.as_bytes()).await.unwrap();
    gate.asked.notified().await;
    rig.replace(&INJECTING.replace("'key ", "'other "));
    gate.open.notify_one();
    assert_eq!(status(&exchange(&mut tls, "").await), 200);
    assert_eq!(origin.requests()[0].header("x-api-key"), ["other c4n4ry-s3cret"]);
    assert_eq!((origin.requests().len(), rig.requests().len()), (1, 1));

    // A splice, too: here the change refuses it, and the client is told why inside TLS.
    rig.replace("allow: { allowed.test: [] }");
    let gate = rig.gate();
    let refused = async {
        gate.asked.notified().await;
        rig.replace("allow: { other.test: [] }");
        gate.open.notify_one();
    };
    let (tls, ()) = tokio::join!(rig.tls("allowed.test", &["http/1.1"]), refused);
    let answer = exchange(&mut { tls }, GET).await;
    assert!(answer.contains("exeat-denied: no-rule"), "{answer}");
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_push_returns_when_every_flow_was_judged_again() {
    const FLOWS: usize = 50;
    let rig = Rig::new("allow: { allowed.test: [], other.test: [] }").await;
    let tls = rig.ca.tls(&["allowed.test", "other.test"]);
    let origins = ["allowed.test", "other.test"].map(|name| rig.origin(name, Speaks::Https(tls.clone(), echo())));
    let mut open = Vec::new();
    for _ in 0..FLOWS {
        open.push(rig.tls_trusting(rig.ca.pem(), "allowed.test", 443, &["http/1.1"]).await);
    }
    let mut kept = rig.tls_trusting(rig.ca.pem(), "other.test", 443, &["http/1.1"]).await;
    rig.push("allow: { other.test: [] }").await;
    assert_eq!(rig.denied(), [DenyReason::Revoked; FLOWS], "all of them, by the time it returned");
    for tls in open {
        ends_with_a_reset(tls).await;
    }
    kept.write_all(b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n").await.unwrap();
    data_path::rig::read_answer(&mut kept).await;
    assert_eq!(origins[1].requests().len(), 1);
}

#[tokio::test]
async fn a_push_waits_for_no_client_and_no_upstream() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let _origin = Scripted::serve(&rig, "allowed.test", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf").await;
    let mut answered = rig.tls("allowed.test", &["http/1.1"]).await;
    answered.write_all(GET.as_bytes()).await.unwrap();
    data_path::rig::read_head(&mut answered).await;
    // A client that says nothing, one that stops in the middle of its handshake, and one whose origin cannot be found.
    let silent = rig.connect("203.0.113.9:443").await;
    let mut shaking = rig.connect("203.0.113.9:443").await;
    shaking.write_all(&rig.hello("allowed.test")).await.unwrap();
    shaking.read_u8().await.unwrap();
    let gate = rig.gate();
    let mut waiting = rig.tls("allowed.test", &["http/1.1"]).await;
    waiting.write_all(GET.as_bytes()).await.unwrap();
    gate.asked.notified().await;
    // The same rules once more, and then none.
    rig.push(&INJECTING.replace("'key ", "'other ")).await;
    rig.push("mode: deny-all").await;
    ends_with_a_reset(answered).await;
    ends_with_a_reset(waiting).await;
    let mut rest = Vec::new();
    assert_ne!(shaking.read_to_end(&mut rest).await.ok(), None);
    drop(silent);
}

#[tokio::test]
async fn a_client_that_is_still_sending_gets_to_read_its_denial() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let mut io = rig.connect("203.0.113.9:80").await;
    let body = "x".repeat(2_000_000);
    let request = format!("POST / HTTP/1.1\r\nHost: evil.test\r\nContent-Length: 2000000\r\n\r\n{body}");
    let answer = exchange(&mut io, &request).await;
    assert!(status(&answer) == 403 && answer.contains("exeat-denied: no-rule"), "{answer}");
}

#[tokio::test]
async fn flows_have_a_limit() {
    let rig = Rig::new("mode: allow-all").await;
    let slots = rig.take_all_slots();
    let mut io = rig.connect("203.0.113.9:80").await;
    assert_eq!(io.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    rig.closed().await;
    assert_eq!(rig.denied(), [DenyReason::Limit]);
    drop(slots);
}

#[tokio::test]
async fn i89_flows_over_the_bound_of_a_sandbox_are_refused() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let _origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    rig.limit(r#"{"flows": 1}"#);
    let held = rig.tls_trusting(rig.ca.pem(), "allowed.test", 443, &["http/1.1"]).await;
    ends_with_a_reset(rig.connect("203.0.113.9:443").await).await;
    rig.limit(r#"{"flows": 2}"#);
    rig.tls_trusting(rig.ca.pem(), "allowed.test", 443, &["http/1.1"]).await;
    assert_eq!(rig.denied(), [DenyReason::Limit]);
    drop(held);
}

#[tokio::test]
async fn i89_requests_over_the_rate_are_told_when_to_come_again() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    rig.limit(r#"{"requestsPerSecond": 1}"#);
    let mut client = rig.http2("allowed.test").await;
    let mut ask = async || {
        let request = Request::get("https://allowed.test/").body(Full::default()).unwrap();
        let (head, body) = client.send_request(request).await.unwrap().into_parts();
        (head, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    };
    assert_eq!(ask().await.0.status, StatusCode::OK);
    // A second may pass before one of these is asked; before all of them, it does not.
    let refused = loop {
        let (head, body) = ask().await;
        if head.status != StatusCode::OK {
            break (head, body);
        }
    };
    let field = |name: &str| refused.0.headers.get(name).and_then(|value| value.to_str().ok());
    assert_eq!(refused.0.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!((field("exeat-denied"), field("retry-after")), (Some("limit"), Some("1")));
    assert!(refused.1.contains("1 requests a second"), "{}", refused.1);
    let asked = origin.requests().len();
    rig.limit("{}");
    for _ in 0..20 {
        assert_eq!(ask().await.0.status, StatusCode::OK);
    }
    assert_eq!((origin.requests().len(), rig.denied()), (asked + 20, vec![DenyReason::Limit]));
}

#[tokio::test]
async fn i89_bytes_over_the_rate_wait_and_nothing_is_cut() {
    const BODY: usize = 300_000;
    let rig = Rig::new("allow: { spliced.test: [], judged.test: [{ match: { method: [POST] } }] }").await;
    for (name, port) in [("spliced.test", 443), ("judged.test", 80)] {
        // At this rate it would take five minutes.
        rig.limit(r#"{"egressBytesPerSecond": 1024}"#);
        let https = Speaks::Https(rig.ca.tls(&[name]), echo());
        let origin = rig.origin(name, if port == 443 { https } else { Speaks::Http(echo()) });
        let head = format!("POST / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\nContent-Length: {BODY}");
        let request = format!("{head}\r\n\r\n{}", "x".repeat(BODY));
        let sending = async {
            if port == 443 {
                exchange(&mut rig.tls_trusting(rig.ca.pem(), name, port, &["http/1.1"]).await, &request).await
            } else {
                exchange(&mut rig.connect("203.0.113.9:80").await, &request).await
            }
        };
        let lifting = async {
            while origin.wire().len() < 500 {
                tokio::task::yield_now().await;
            }
            assert!(origin.wire().len() < BODY / 2, "{name}: {} bytes", origin.wire().len());
            rig.limit("{}");
        };
        let (answer, ()) = tokio::join!(sending, lifting);
        assert_eq!(status(&answer), 200, "{name}");
        assert_eq!(origin.requests()[0].body.len(), BODY, "{name}");
    }
    assert!(rig.denied().is_empty());
}

#[tokio::test]
async fn while_it_drains_no_flow_is_taken_and_those_that_are_open_go_on() {
    let rig = Rig::new("allow: { allowed.test: [] }").await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let mut tls = rig.tls_trusting(rig.ca.pem(), "allowed.test", 443, &["http/1.1"]).await;
    rig.drain();
    // The listener closes at its next turn.
    let refused = async {
        while tokio::net::TcpStream::connect(rig.listener).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(support::PATIENCE, refused).await.expect("nobody listens");
    tls.write_all(b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await.unwrap();
    data_path::rig::read_answer(&mut tls).await;
    assert_eq!((origin.requests().len(), rig.closes().len()), (1, 0));
    drop(tls);
    rig.ended().await;
    assert_eq!(rig.closes().len(), 1);
}

#[tokio::test]
async fn the_end_is_recorded_for_every_flow() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let _origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    let silent = rig.connect("203.0.113.9:443").await;
    let idle = rig.tls("allowed.test", &["http/1.1"]).await;
    rig.stop().await;
    assert_eq!(rig.closes().len(), 2);
    drop((idle, silent));
}
