//! The bounded read: what it waits for and how long, and what it gives back.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::flow::{HelloFault, HttpVersion};
use crate::intercept::hello::tests::rustls_hello;

/// A client that sends bytes and then waits.
async fn client(bytes: &[u8]) -> (DuplexStream, DuplexStream) {
    let (mut client, server) = duplex(64 * 1024);
    client.write_all(bytes).await.unwrap();
    (client, server)
}

/// What is seen, and how long that took.
async fn seen_after(bytes: &[u8], port: u16) -> (Result<Seen, String>, Duration) {
    let (_client, server) = client(bytes).await;
    let start = Instant::now();
    let seen = peek(server, port).await.map(|(seen, _)| seen).map_err(|error| error.to_string());
    (seen, start.elapsed())
}

/// What is seen of a client that ends after `bytes`.
async fn seen_at_end(bytes: &[u8], port: u16) -> Result<Seen, PeekError> {
    let (mut client, server) = client(bytes).await;
    client.shutdown().await.unwrap();
    peek(server, port).await.map(|(seen, _)| seen)
}

#[tokio::test]
async fn attack_d42_a_hello_in_single_bytes_is_read_and_kept() {
    let hello = rustls_hello("allowed.test", true);
    // Room for one byte: each read sees one.
    let (mut client, server) = duplex(1);
    let sent = [&hello[..], b"after"].concat();
    let expected = sent.clone();
    tokio::spawn(async move { client.write_all(&sent).await });
    let (seen, mut io) = peek(server, 443).await.unwrap();
    let Seen::Tls(seen) = seen else { panic!("{seen:?}") };
    assert_eq!(seen.sni.unwrap().as_str(), "allowed.test");
    let mut all = Vec::new();
    io.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, expected);
}

#[tokio::test]
async fn what_follows_in_the_same_segment_is_kept() {
    let request = b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\nGET /second HTTP/1.1\r\n";
    let (_client, server) = client(request).await;
    let (seen, io) = peek(server, 80).await.unwrap();
    assert_eq!(seen, Seen::Http(HttpVersion::Http1));
    assert_eq!(io.into_parts().0, request);
}

#[tokio::test(start_paused = true)]
async fn attack_d43_a_silent_client_waits_for_the_server() {
    let (seen, took) = seen_after(b"", 22).await;
    assert_eq!(seen, Ok(Seen::Opaque));
    assert!(took >= limits::SILENT_CLIENT && took < limits::SILENT_CLIENT * 2, "{took:?}");
    for port in [80, 443] {
        let (seen, took) = seen_after(b"", port).await;
        assert_eq!(seen, Ok(Seen::Opaque));
        assert!(took >= limits::HELLO_TIME, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn attack_d43_a_stalled_hello_is_unreadable_after_its_time() {
    for stalled in [&b"\x16\x03\x01"[..], &rustls_hello("allowed.test", true)[..1400]] {
        let (seen, took) = seen_after(stalled, 8443).await;
        assert_eq!(seen, Ok(Seen::Unreadable(HelloFault::Incomplete)));
        assert!(took >= limits::HELLO_TIME && took < limits::HELLO_TIME * 2, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_request_line_becomes_nothing_else() {
    for stalled in [&b"\r\n"[..], b"GE", b"GET / HT"] {
        let (seen, took) = seen_after(stalled, 8080).await;
        assert_eq!(seen, Err(PeekError::TimedOut.to_string()));
        assert!(took >= limits::HELLO_TIME, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trickle_does_not_prolong_the_time() {
    let (mut client, server) = duplex(64);
    tokio::spawn(async move {
        while client.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let start = Instant::now();
    assert!(matches!(peek(server, 80).await, Err(PeekError::TimedOut)));
    assert_eq!(start.elapsed().as_secs(), limits::HELLO_TIME.as_secs());
}

#[tokio::test]
async fn a_client_that_ends_is_read_for_what_it_said() {
    assert_eq!(seen_at_end(b"", 22).await.unwrap(), Seen::Opaque);
    assert!(matches!(seen_at_end(b"", 443).await, Err(PeekError::Closed)));
    assert_eq!(seen_at_end(b"HELLO", 22).await.unwrap(), Seen::Opaque);
    let cut = &rustls_hello("allowed.test", false)[..100];
    assert_eq!(seen_at_end(cut, 443).await.unwrap(), Seen::Unreadable(HelloFault::Incomplete));
}

#[tokio::test]
async fn reading_is_bounded() {
    let (mut client, server) = duplex(1024);
    let endless = tokio::spawn(async move {
        let mut sent = client.write_all(&[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0]).await;
        // One-byte records, so that the hello itself stays small.
        while sent.is_ok() {
            sent = client.write_all(&[0]).await;
        }
    });
    let (seen, io) = peek(server, 443).await.unwrap();
    assert_eq!(seen, Seen::Unreadable(HelloFault::Malformed));
    assert!(io.into_parts().0.len() < 2 * limits::HELLO_BYTES);
    endless.await.unwrap();
    let line = format!("GET /{}", "a".repeat(2 * limits::HELLO_BYTES));
    let (_client, server) = self::client(line.as_bytes()).await;
    let (seen, io) = peek(server, 80).await.unwrap();
    assert_eq!(seen, Seen::Http(HttpVersion::Http1));
    assert!(io.into_parts().0.len() <= limits::HELLO_BYTES + 4096);
}

#[tokio::test]
async fn an_empty_prefix_holds_no_buffer() {
    let (_client, server) = client(b"GET / HTTP/1.1\r\n").await;
    let (_, mut io) = peek(server, 80).await.unwrap();
    let mut few = [0; 5];
    io.read_exact(&mut few).await.unwrap();
    assert_eq!(&few, b"GET /");
    assert!(io.prefix.capacity() > 0);
    let mut rest = [0; 11];
    io.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b" HTTP/1.1\r\n");
    assert_eq!(io.prefix.capacity(), 0);
}
