//! Interim answers: who lets a body come, and what comes before the answer. Origins are played byte by byte.

use exeat::limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::rig::{Rig, exchange, read_answer, read_head};
use super::upstreams::{asked, ends, played};
use crate::{INJECTING, SECRET, http1_only, status};

const ALLOWED: &str = "allow: { allowed.test: [] }";
const POST: &str = "POST / HTTP/1.1\r\nhost: allowed.test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";

/// A connection of the sandbox that has said this.
async fn saying(rig: &Rig, what: &str) -> TcpStream {
    let mut io = rig.connect("203.0.113.9:80").await;
    io.write_all(what.as_bytes()).await.expect("a listener that reads");
    io
}

#[tokio::test]
async fn a_body_comes_when_its_origin_says_so() {
    let rig = Rig::new(ALLOWED).await;
    let origin = played(&rig).await;
    for _ in 0..2 {
        let mut io = saying(&rig, POST).await;
        let (mut up, head) = asked(&origin).await;
        assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
        up.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.expect("it reads");
        assert_eq!(read_head(&mut io).await, "HTTP/1.1 100 Continue\r\n\r\n");
        io.write_all(b"body").await.expect("it reads");
        let mut body = [0; 4];
        up.read_exact(&mut body).await.expect("the body");
        up.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await.expect("it reads");
        let answer = read_answer(&mut io).await;
        assert!(answer.ends_with("\r\n\r\nok") && !answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_its_origin_does_not_want_stays() {
    let rig = Rig::new(ALLOWED).await;
    let origin = played(&rig).await;
    let mut io = saying(&rig, POST).await;
    let (mut up, _) = asked(&origin).await;
    up.write_all(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno").await.expect("it reads");
    let answer = read_answer(&mut io).await;
    assert!(status(&answer) == 417 && answer.ends_with("\r\n\r\nno"), "{answer}");
    // It sends it all the same, and a request behind it: none of this is taken for a request, and none goes on.
    let _ = io.write_all(b"bodyGET /smuggled HTTP/1.1\r\nhost: allowed.test\r\n\r\n").await;
    let mut rest = Vec::new();
    let _ = io.read_to_end(&mut rest).await;
    assert_eq!(rest, b"", "the connection ends");
    ends(&mut up).await;
    assert_eq!(rig.requests().len(), 1);
}

#[tokio::test]
async fn a_body_comes_when_its_origin_is_silent() {
    let rig = Rig::new(ALLOWED).await;
    let origin = played(&rig).await;
    let begun = std::time::Instant::now();
    let mut io = saying(&rig, POST).await;
    let (mut up, _) = asked(&origin).await;
    assert_eq!(read_head(&mut io).await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(begun.elapsed() >= limits::CONTINUE_WAIT);
    io.write_all(b"body").await.expect("it reads");
    let mut body = [0; 4];
    up.read_exact(&mut body).await.expect("the body");
    assert_eq!(&body, b"body");
}

/// Whoever is refused sends no body, and what follows one is no request; another expectation, or two, is none.
#[tokio::test]
async fn e48_no_expectation_makes_two_requests_of_one() {
    let rig = Rig::new("allow: { allowed.test: [ { response: { statusCode: 403 } } ] }").await;
    let smuggled = format!("{POST}bodyGET /smuggled HTTP/1.1\r\nhost: allowed.test\r\nconnection: close\r\n\r\n");
    let before = POST.replace("expect: 100-continue", "expect: 100-continue\r\nexpect: x");
    for request in [smuggled.clone(), POST.to_owned(), before, POST.replace("100-continue", "100-continue, x")] {
        let requests = rig.requests().len();
        let mut io = saying(&rig, &request).await;
        let answer = read_head(&mut io).await;
        assert_eq!(status(&answer), 403, "{request}: {answer}");
        if request == smuggled {
            let mut rest = Vec::new();
            let _ = io.read_to_end(&mut rest).await;
        }
        assert_eq!(rig.requests().len() - requests, 1, "{request}");
    }
    let rig = Rig::new(ALLOWED).await;
    let origin = played(&rig).await;
    for expectation in ["100-continue\r\nexpect: 100-continue", "200-ok", "100-continue, 100-continue", ""] {
        let request = POST.replace("100-continue", expectation) + "body";
        let mut io = saying(&rig, &request).await;
        let (mut up, head) = asked(&origin).await;
        assert!(!head.contains("expect"), "{head}");
        let mut body = [0; 4];
        up.read_exact(&mut body).await.expect("the body");
        up.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.expect("it reads");
        drop(up);
        let answer = read_head(&mut io).await;
        let last = if answer.contains(" 100 ") { read_head(&mut io).await } else { answer };
        assert_eq!(status(&last), 204, "{expectation:?}: {last}");
    }
}

#[tokio::test]
async fn hints_come_before_the_answer_and_hold_no_credential() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let tls = http1_only(&rig.ca.tls(&["allowed.test"]));
    let origin = played(&rig).await;
    let hints = format!(
        "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\nx-echo: key {SECRET}\r\n\
         exeat-denied: forged\r\ncontent-length: 9\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
    );
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
    // In one stroke, and with the answer long after.
    for apart in [false, true] {
        let mut io = rig.tls("allowed.test", &["http/1.1"]).await;
        io.write_all(b"GET / HTTP/1.1\r\nhost: allowed.test\r\nconnection: close\r\n\r\n").await.expect("it reads");
        let (up, _) = origin.accept().await.expect("a connection");
        let mut up = tls.accept(up).await.expect("a handshake");
        read_head(&mut up).await;
        up.write_all(if apart { hints.clone() } else { format!("{hints}{answer}") }.as_bytes())
            .await
            .expect("it reads");
        up.flush().await.expect("it reads");
        let (early, processing) = (read_head(&mut io).await, read_head(&mut io).await);
        assert!(early.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n"), "{early}");
        assert!(!early.contains(SECRET) && !early.contains("forged") && !early.contains("length"), "{early}");
        assert_eq!(processing, "HTTP/1.1 102 Processing\r\n\r\n");
        if apart {
            up.write_all(answer.as_bytes()).await.expect("it reads");
            up.flush().await.expect("it reads");
        }
        let answer = exchange(&mut io, "").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
    }
}

/// No more than so many; the answer comes whole behind them, and the connection serves on.
#[tokio::test]
async fn e48_a_flood_of_interim_answers_is_bounded() {
    let rig = Rig::new(ALLOWED).await;
    let origin = played(&rig).await;
    let mut io = saying(&rig, "GET / HTTP/1.1\r\nhost: allowed.test\r\n\r\n").await;
    let (mut up, _) = asked(&origin).await;
    for round in 0..2 {
        let flood = "HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n".repeat(1000);
        up.write_all(flood.as_bytes()).await.expect("it reads");
        up.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("it reads");
        let mut interims = 0;
        while status(&read_head(&mut io).await) == 103 {
            interims += 1;
        }
        assert_eq!(interims, limits::INTERIMS);
        let mut body = [0; 2];
        io.read_exact(&mut body).await.expect("the body");
        if round == 0 {
            io.write_all(b"GET /again HTTP/1.1\r\nhost: allowed.test\r\n\r\n").await.expect("it reads");
            assert!(read_head(&mut up).await.starts_with("GET /again "));
        }
    }
}

/// It gets its answer, and its body goes.
#[tokio::test]
async fn an_http_1_0_client_knows_no_interim_answer() {
    let rig = Rig::new(ALLOWED).await;
    let origin = played(&rig).await;
    let answers = b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n\
                    HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
    let mut io = saying(&rig, &POST.replace("HTTP/1.1", "HTTP/1.0")).await;
    io.write_all(b"body").await.expect("it reads");
    let (mut up, head) = asked(&origin).await;
    assert!(!head.contains("expect"), "{head}");
    up.write_all(answers).await.expect("it reads");
    assert_eq!(status(&read_head(&mut io).await), 200);
}
