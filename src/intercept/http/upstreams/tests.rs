//! The stock, over connections to nobody: what is kept, how much, and for how long.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::task::JoinSet;

use super::*;
use crate::intercept::workers::Workers;

fn key(generation: u64, n: u16) -> Key {
    let target = Target::Address(SocketAddr::from(([203, 0, 113, 9], n)));
    let kind = Kind { scheme: Scheme::Http, version: Version::HTTP_2 };
    Key { generation, kind, target, credentials: Arc::new([]), lent: Vec::new(), signing: None, shown: None }
}

fn lane() -> Lane {
    let mut turns = JoinSet::new();
    let [lane] = Workers::default().lanes(&mut turns).try_into().ok().unwrap();
    turns.detach_all();
    lane
}

/// A connection that has done nothing, and its other end.
async fn opened(http2: bool) -> (Link, DuplexStream) {
    let (near, far) = duplex(64 * 1024);
    let peer = SocketAddr::from(([203, 0, 113, 9], 80));
    (Link::handshake(&lane(), near, peer, http2).await.unwrap(), far)
}

async fn exclusive() -> (Exclusive, DuplexStream) {
    match opened(false).await {
        (Link::Exclusive(connection), far) => (connection, far),
        _ => panic!("that is HTTP/1"),
    }
}

/// Waits until a connection that is not kept any more has ended.
async fn ends(mut far: DuplexStream) {
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn of_unused_connections_the_last_are_kept_for_an_origin() {
    let mut stock = Stock::default();
    let mut far = Vec::new();
    for _ in 0..=limits::UPSTREAM_KEPT_EACH {
        let (connection, end) = exclusive().await;
        assert!(stock.keep(key(1, 1), connection));
        far.push(end);
    }
    assert_eq!((stock.kept, stock.shelves[&key(1, 1)].kept.len()), (limits::UPSTREAM_KEPT_EACH, stock.kept));
    ends(far.swap_remove(0)).await;
}

#[tokio::test]
async fn of_unused_connections_the_last_are_kept_in_all() {
    let mut stock = Stock::default();
    let mut far = Vec::new();
    for n in 0..=limits::UPSTREAM_KEPT {
        let (connection, end) = exclusive().await;
        assert!(stock.keep(key(1, n as u16), connection));
        far.push(end);
    }
    assert_eq!(stock.kept, limits::UPSTREAM_KEPT);
    ends(far.swap_remove(0)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_unused_is_closed_and_forgotten_in_time() {
    let mut stock = Stock::default();
    let (connection, kept_end) = exclusive().await;
    assert!(stock.keep(key(1, 1), connection));
    let (link, shared_end) = opened(true).await;
    stock.note(&key(1, 2), &link);
    tokio::time::advance(limits::UPSTREAM_IDLE - Duration::from_millis(1)).await;
    stock.sweep(Instant::now());
    assert_eq!((stock.kept, stock.shelves.len()), (1, 2));
    tokio::time::advance(Duration::from_millis(1)).await;
    stock.sweep(Instant::now());
    ends(kept_end).await;
    assert_eq!((stock.kept, stock.shelves.len()), (0, 1), "a stream is open");
    drop(link);
    tokio::time::advance(limits::UPSTREAM_IDLE).await;
    stock.sweep(Instant::now());
    ends(shared_end).await;
    assert!(stock.shelves.is_empty());
}

#[tokio::test]
async fn nothing_of_an_earlier_generation_is_kept() {
    let mut stock = Stock::default();
    let (connection, end) = exclusive().await;
    assert!(stock.keep(key(1, 1), connection));
    stock.retire(2);
    ends(end).await;
    let (connection, end) = exclusive().await;
    assert!(!stock.keep(key(1, 1), connection));
    ends(end).await;
    let (link, _end) = opened(true).await;
    stock.note(&key(1, 1), &link);
    assert!(stock.share(&key(1, 1), |_| true).is_none());
    assert!(stock.take(&key(1, 1)).is_none() && stock.shelves.is_empty());
}

#[tokio::test]
async fn an_http2_connection_takes_so_many_streams() {
    let mut stock = Stock::default();
    let (link, _end) = opened(true).await;
    stock.note(&key(1, 1), &link);
    let mut streams = vec![link];
    while let Some(stream) = stock.share(&key(1, 1), |_| true) {
        streams.push(stream);
    }
    assert_eq!(streams.len(), limits::UPSTREAM_STREAMS);
    streams.pop();
    assert!(stock.share(&key(1, 1), |_| true).is_some());
    assert!(stock.share(&key(1, 1), |_| false).is_none(), "its address is no longer permitted");
    assert!(stock.share(&key(1, 1), |_| true).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_says_nothing_of_websockets_is_asked_for_none() {
    let (link, far) = opened(true).await;
    let lease = Lease { link, pool: Arc::new(Upstreams::new(lane())), key: key(1, 1) };
    let said = lease.takes_websockets().await;
    assert!(said.is_err_and(|error| error.is_timeout()));
    drop(far);
    let said = lease.takes_websockets().await;
    assert!(said.is_err_and(|error| !error.is_timeout()));
}
