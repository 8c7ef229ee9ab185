//! Placeholders that are replaced in the query and the body: what arrives, and how long it says it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use exeat::flow::SecretName;
use exeat::policy::verdict::DenyReason;
use exeat::secret::placeholder::Placeholders;
use http_body_util::{BodyExt, Full};
use tokio::io::AsyncWriteExt;

use super::super::support::origin::{Handler, Origin, Request, Speaks, echo};
use super::rig::{Rig, exchange, read_answer, read_head};

/// It would add a parameter, end a string, and end a line, if it were written as it is.
const SECRET: &str = "c4n4ry \"S3cret&admin=true#/+\\\r\n0123456789";
const FORM: &str = "c4n4ry%20%22S3cret%26admin%3Dtrue%23%2F%2B%5C%0D%0A0123456789";
const HELD: &str = "held-0123456789abcdefghij";
const POLICY: &str = "
version: 1
allow:
  allowed.test:
    - match: { path: { startsWith: /plain } }
    - match: { path: { startsWith: /moved } }
      forwardURL: https://other.test
    - placeholders: { in: [query, body] }
  other.test: [{}]
secrets: { KEY: { env: KEY, to: [allowed.test], headers: [x-token] } }
placeholders: { TOKEN: KEY }
";

async fn rig_with(value: &str, handler: Handler) -> (Rig, Origin) {
    let rig = Rig::with_secret(POLICY, value).await;
    hold(&rig);
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), handler));
    (rig, origin)
}

fn hold(rig: &Rig) {
    let texts = BTreeMap::from([(SecretName::new("KEY").expect("a name"), HELD.to_owned())]);
    rig.hold(Placeholders::of(texts));
}

fn post(path: &str, fields: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: allowed.test\r\n{fields}Connection: close\r\n\r\n{body}")
}

fn told(body: &str, media_type: &str) -> String {
    format!("Content-Type: {media_type}\r\nContent-Length: {}\r\n", body.len())
}

#[tokio::test]
async fn a_query_gets_the_value_escaped_and_neither_the_answer_nor_the_record_has_it() {
    let handler: Handler = Arc::new(|request: &Request| {
        let response = http::Response::builder().status(302).header("location", request.uri.clone());
        response.body(Full::from(format!("no such page: {}", request.uri))).expect("a response")
    });
    let (rig, origin) = rig_with(SECRET, handler).await;
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let request = format!("GET /a?x=1&token={HELD}&y=%68eld-0123456789abcdefghij HTTP/1.1\r\nHost: allowed.test\r\n");
    let answer = exchange(&mut tls, &(request + "Connection: close\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 302"), "{answer}");
    assert!(!answer.contains("c4n4ry") && answer.contains("location: /a?x=1&token=***"), "{answer}");
    assert_eq!(origin.requests()[0].uri, format!("/a?x=1&token={FORM}&y={FORM}"));
    assert!(!format!("{:?}", rig.events()).contains("c4n4ry"));
    assert_eq!(rig.requests()[0].injected, [":query"]);
    // Over HTTP/2, and in a header besides.
    let mut client = rig.http2("allowed.test").await;
    let request = http::Request::get(format!("https://allowed.test/b?{HELD}")).header("x-token", "mine");
    client.send_request(request.body(Full::default()).expect("a request")).await.expect("an answer");
    assert_eq!(origin.requests()[1].uri, format!("https://allowed.test/b?{FORM}"));
    assert_eq!(origin.requests()[1].version, "HTTP/2.0");
}

/// The record names the places of which something was set anew; a body has not been read by then, so of one that may
/// be replaced it has the place.
#[tokio::test]
async fn the_record_names_the_places_and_no_value() {
    let (rig, _origin) = rig_with("c4n4ry-0123456789", echo()).await;
    let header = format!("X-Token: {HELD}\r\n");
    let body = told(HELD, "text/plain");
    for (path, fields, body, injected) in [
        ("/".to_owned(), String::new(), "", &[][..]),
        (format!("/?a={HELD}"), String::new(), "", &[":query"]),
        ("/".to_owned(), body.clone(), HELD, &[":body"]),
        ("/".to_owned(), told("x", "text/plain"), "x", &[":body"]),
        (format!("/?{HELD}"), format!("{header}{body}"), HELD, &["x-token", ":query", ":body"]),
        ("/plain".to_owned(), header.clone(), "", &["x-token"]),
        ("/plain?a=b".to_owned(), told("x", "text/plain"), "x", &[]),
    ] {
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        let answer = exchange(&mut tls, &post(&path, &fields, body)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        let judged = rig.requests().pop().expect("a record");
        assert_eq!((judged.outcome.is_ok(), judged.injected.as_slice()), (true, &*strings(injected)), "{path}");
        let recorded = judged.request.expect("a request").path;
        assert_eq!(recorded, path.split('?').next().expect("a path"), "it has no query");
    }
    let told = format!("{:?}", rig.events());
    assert!(!told.contains("c4n4ry") && !told.contains(HELD), "{told}");
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test]
async fn a_body_that_waits_gets_the_value_as_its_type_writes_it_and_its_length() {
    let (rig, origin) = rig_with(SECRET, echo()).await;
    let json = serde_json::json!({ "token": HELD }).to_string();
    let form = format!("a=b&token={HELD}&c=d");
    let parts = format!("--b\r\nContent-Disposition: form-data; name=\"t\"\r\n\r\n{HELD}\r\n--b--\r\n");
    for (media_type, body) in [
        ("application/json", &json),
        ("application/x-www-form-urlencoded", &form),
        ("multipart/form-data; boundary=b", &parts),
        ("text/plain", &HELD.to_owned()),
        ("text/plain", &"nothing of the kind".to_owned()),
    ] {
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        let answer = exchange(&mut tls, &post("/", &told(body, media_type), body)).await;
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("c4n4ry"), "{answer}");
        let mut client = rig.http2("allowed.test").await;
        let request = http::Request::post("https://allowed.test/").header("content-type", media_type);
        let response = client.send_request(request.body(Full::from(body.clone())).expect("a request")).await;
        let answer = response.expect("an answer").into_body().collect().await.expect("a body").to_bytes();
        assert!(!String::from_utf8_lossy(&answer).contains("c4n4ry"), "{answer:?}");
    }
    let requests = origin.requests();
    assert_eq!(requests.len(), 10);
    for request in &requests {
        assert_eq!(request.header("content-length"), [request.body.len().to_string()], "{request:?}");
        assert!(request.header("transfer-encoding").is_empty(), "{request:?}");
    }
    let bodies: Vec<String> =
        requests.iter().step_by(2).map(|request| String::from_utf8_lossy(&request.body).into_owned()).collect();
    let read: serde_json::Value = serde_json::from_str(&bodies[0]).expect("JSON");
    assert_eq!(read, serde_json::json!({ "token": SECRET }));
    assert_eq!(bodies[1], format!("a=b&token={FORM}&c=d"));
    assert_eq!(bodies[2], parts.replace(HELD, SECRET));
    assert_eq!(bodies[3..], [SECRET, "nothing of the kind"]);
    for pair in requests.chunks(2) {
        assert_eq!((&pair[0].body, &*pair[1].version), (&pair[1].body, "HTTP/2.0"));
    }
}

#[tokio::test]
async fn a_body_that_streams_says_no_length_and_is_replaced_wherever_it_is_cut() {
    let (rig, origin) = rig_with(SECRET, echo()).await;
    let filler = "x".repeat(700_000);
    let long = format!("{filler}{HELD}{filler}");
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let head = post("/", &told(&long, "text/plain"), "");
    tls.write_all(head.as_bytes()).await.expect("a listener that reads");
    let (begin, end) = long.split_at(700_010);
    for piece in [begin, end] {
        tls.write_all(piece.as_bytes()).await.expect("a listener that reads");
        tls.flush().await.expect("a listener that reads");
    }
    assert!(read_head(&mut tls).await.starts_with("HTTP/1.1 200"));
    // GET with a body of no told length: it goes in chunks, too, and not by halves.
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let chunks: String = HELD.chars().map(|letter| format!("1\r\n{letter}\r\n")).collect();
    let body = format!("{chunks}0\r\n\r\n");
    let answer = exchange(&mut tls, &post("/", "Transfer-Encoding: chunked\r\n", &body).replace("POST", "GET")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut client = rig.http2("allowed.test").await;
    let request = http::Request::post("https://allowed.test/").body(Full::from(long.clone())).expect("a request");
    client.send_request(request).await.expect("an answer");
    let requests = origin.requests();
    let expected = long.replace(HELD, SECRET);
    for (request, expected) in requests.iter().zip([&*expected, SECRET, &*expected]) {
        assert!(request.body == Bytes::copy_from_slice(expected.as_bytes()), "{} bytes", request.body.len());
        assert!(request.header("content-length").is_empty(), "{:?}", request.headers);
    }
    assert_eq!(requests[0].header("transfer-encoding"), ["chunked"]);
    assert_eq!(requests[2].version, "HTTP/2.0");
}

#[tokio::test]
async fn a_client_that_awaits_leave_sends_what_waits_here_at_once() {
    let (rig, origin) = rig_with(SECRET, echo()).await;
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    let fields = format!("{}Expect: 100-continue\r\n", told(HELD, "text/plain"));
    tls.write_all(post("/", &fields, "").as_bytes()).await.expect("a listener that reads");
    assert!(read_head(&mut tls).await.starts_with("HTTP/1.1 100"));
    tls.write_all(HELD.as_bytes()).await.expect("a listener that reads");
    assert!(read_answer(&mut tls).await.starts_with("HTTP/1.1 200"));
    let request = &origin.requests()[0];
    assert_eq!((&request.body[..], request.header("expect").len()), (SECRET.as_bytes(), 0));
}

#[tokio::test]
async fn a_value_that_cannot_be_had_or_a_body_that_cannot_be_read_stops_the_request() {
    let rig = Rig::new(POLICY).await;
    hold(&rig);
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test", "other.test"]), echo()));
    rig.resolve("other.test", origin.address);
    let coded = format!("{}Content-Encoding: gzip\r\n", told("x", "text/plain"));
    for (request, status, says) in [
        (post(&format!("/?{HELD}"), "", ""), "503", "secret-unavailable"),
        (post("/", &told(HELD, "text/plain"), HELD), "503", "secret-unavailable"),
        (post("/", &coded, "x"), "403", "send it uncompressed"),
        (
            post("/", &format!("Content-Type: text/plain\r\n{}", told("x", "text/plain")), "x"),
            "403",
            "with one type at most",
        ),
        (post("/plain", &told(HELD, "text/plain"), HELD), "403", "placeholder-misdirected"),
        (post("/moved", &told(HELD, "text/plain"), HELD), "403", "placeholder-misdirected"),
        (post(&format!("/moved?{HELD}"), "", ""), "403", "placeholder-misdirected"),
        (post("/", &told("x", "text/plain"), "x"), "200", "\"x\""),
    ] {
        let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
        let answer = exchange(&mut tls, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(says), "{request}: {answer}");
    }
    assert_eq!(origin.requests().len(), 1);
    assert!(rig.denied().contains(&DenyReason::SecretUnavailable));
}

/// A rule that comes meanwhile, and has nothing replaced there, ends what is still being sent.
#[tokio::test]
async fn a_change_of_policy_ends_a_body_that_is_being_replaced() {
    let (rig, origin) = rig_with(SECRET, echo()).await;
    let mut tls = rig.tls("allowed.test", &["http/1.1"]).await;
    tls.write_all(post("/", "Transfer-Encoding: chunked\r\n", "1\r\nx\r\n").as_bytes()).await.expect("it reads");
    while origin.heads().is_empty() {
        tokio::task::yield_now().await;
    }
    rig.push(&POLICY.replace("[query, body]", "[query]")).await;
    assert!(rig.denied().contains(&DenyReason::Revoked), "{:?}", rig.denied());
    assert!(origin.requests().is_empty());
}
