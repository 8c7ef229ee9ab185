//! The questions and their answers, and what comes in place of them.

use tokio::io::{DuplexStream, duplex};
use tokio::net::TcpListener;

use super::*;
use crate::intercept::hello::tests::rustls_hello;

/// What is seen of a client that sends all of this at once and waits, whether TLS was granted, and what it was told.
async fn told(begun: &[u8], rest: &[u8]) -> (Seen, bool, Vec<u8>) {
    let (mut client, server): (DuplexStream, DuplexStream) = duplex(64 * 1024);
    client.write_all(rest).await.unwrap();
    let (seen, io, granted) = answer(Prefixed::new(begun.to_vec(), server)).await.unwrap();
    drop(io);
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.unwrap();
    (seen, granted, said)
}

fn is_for(seen: &Seen, name: &str) -> bool {
    matches!(seen, Seen::Tls(hello) if hello.sni.as_ref().is_some_and(|sni| sni.as_str() == name))
}

#[test]
fn what_may_become_a_question_is_told_from_what_cannot() {
    assert!(may_begin(&[0]) && may_begin(&SSL_REQUEST) && may_begin(&GSSENC_REQUEST));
    assert!(!may_begin(&[]) && !may_begin(&[0, 0, 0, 9]) && !may_begin(b"\x16\x03\x01"));
}

#[tokio::test]
async fn tls_is_granted_once_it_is_asked_for_and_kerberos_is_not() {
    let hello = rustls_hello("db.test", true);
    let (seen, granted, said) = told(&SSL_REQUEST, &hello).await;
    assert!(is_for(&seen, "db.test") && granted, "{seen:?}");
    assert_eq!(said, b"S");
    let (seen, granted, said) = told(&SSL_REQUEST[..1], &[&SSL_REQUEST[1..], &hello].concat()[..7]).await;
    assert!(granted && matches!(seen, Seen::Unreadable(_)), "a client that says no more: {seen:?}");
    assert_eq!(said, b"S");
    let (seen, granted, said) = told(&GSSENC_REQUEST, &SSL_REQUEST).await;
    assert!(granted && matches!(seen, Seen::Unreadable(_)), "{seen:?}");
    assert_eq!(said, b"NS");
}

#[tokio::test(start_paused = true)]
async fn what_asks_for_no_tls_is_opaque_with_every_byte_of_it() {
    let startup = [0, 0, 0, 9, 0, 3, 0, 0, 0];
    for begun in [&startup[..], &[0, 0, 0], &[&GSSENC_REQUEST[..7], &[0xff]].concat()] {
        let (_client, server) = duplex(64);
        let (seen, io, granted) = answer(Prefixed::new(begun.to_vec(), server)).await.unwrap();
        assert_eq!((seen, granted, io.prefix()), (Seen::Opaque, false, begun));
    }
    // After Kerberos was refused, in clear.
    let (mut client, server) = duplex(64);
    let asking = Prefixed::new(GSSENC_REQUEST.to_vec(), server);
    client.write_all(&startup).await.unwrap();
    let (seen, io, granted) = answer(asking).await.unwrap();
    assert_eq!((seen, granted, io.prefix()), (Seen::Opaque, false, &startup[..]));
}

#[tokio::test]
async fn a_client_that_does_not_wait_for_the_answer_gets_none() {
    for more in [&b"x"[..], b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n", &rustls_hello("db.test", false)] {
        let (seen, granted, said) = told(&[&SSL_REQUEST[..], more].concat(), b"").await;
        assert_eq!((seen, granted, said), (doubtful(), true, Vec::new()));
    }
    // Nor is anything but a hello read after it.
    let (seen, granted, said) = told(&SSL_REQUEST, b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await;
    assert_eq!((seen, granted, said), (doubtful(), true, b"S".to_vec()));
}

#[tokio::test]
async fn an_upstream_has_to_grant_tls_and_to_say_no_more() {
    for (says, expected) in
        [(&b"S"[..], ""), (b"N", "refuses TLS"), (b"E", "refuses TLS"), (b"SN", "in clear"), (b"", "broke")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (up, down) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut up, mut down) = (up.unwrap(), down.unwrap().0);
        down.write_all(says).await.unwrap();
        if says.is_empty() {
            down.shutdown().await.unwrap();
        }
        up.readable().await.unwrap();
        let joined = join(&mut up).await.map_err(|error| error.to_string());
        match joined {
            Ok(()) => assert_eq!(expected, ""),
            Err(told) => assert!(told.contains(expected) && !expected.is_empty(), "{told}"),
        }
        let mut asked = [0; 8];
        down.read_exact(&mut asked).await.unwrap();
        assert_eq!(asked, SSL_REQUEST);
    }
}
