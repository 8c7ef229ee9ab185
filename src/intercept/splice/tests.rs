//! The relay: order, half-close, resets, cuts, and what it holds.

use std::future::{pending, ready};
use std::pin::pin;

use futures_util::task::noop_waker_ref;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

impl Reset for DuplexStream {
    fn reset_on_drop(&mut self) {}
}

/// A connection over loopback: who dialled, and who accepted.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// A sandbox's end and an origin's, with a relay between them.
struct Relaying {
    sandbox: TcpStream,
    origin: TcpStream,
    relay: JoinHandle<Relayed>,
    cut: oneshot::Sender<()>,
}

impl Relaying {
    async fn start() -> Self {
        let ((sandbox, down), (up, origin)) = (connection().await, connection().await);
        let (cut, told) = oneshot::channel();
        let cutting = async {
            if told.await.is_err() {
                pending::<()>().await;
            }
        };
        Self { sandbox, origin, relay: tokio::spawn(relay(down, up, cutting)), cut }
    }

    /// Both ends, after one byte has gone each way.
    async fn in_flow() -> Self {
        let mut relaying = Self::start().await;
        relaying.sandbox.write_all(b"?").await.unwrap();
        assert_eq!(relaying.origin.read_u8().await.unwrap(), b'?');
        relaying.origin.write_all(b"!").await.unwrap();
        assert_eq!(relaying.sandbox.read_u8().await.unwrap(), b'!');
        relaying
    }
}

/// Reads until the end, which has to be a reset.
async fn assert_reset(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let error = stream.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn bytes_pass_in_order_and_are_counted() {
    let Relaying { sandbox, origin, relay, cut: _cut } = Relaying::start().await;
    let out: Vec<u8> = (0..1_000_003_u32).map(|at| at as u8).collect();
    let inward: Vec<u8> = out.iter().rev().copied().chain(*b"more").collect();
    async fn exchange(stream: TcpStream, send: &[u8]) -> Vec<u8> {
        let (mut read, mut write) = stream.into_split();
        let mut received = Vec::new();
        let sending = async {
            write.write_all(send).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(sending, read.read_to_end(&mut received));
        read.unwrap();
        received
    }
    let (at_sandbox, at_origin) = tokio::join!(exchange(sandbox, &out), exchange(origin, &inward));
    assert!(at_origin == out && at_sandbox == inward, "bytes were changed on their way");
    let relayed = relay.await.unwrap();
    assert_eq!((relayed.bytes_out, relayed.bytes_in), (out.len() as u64, inward.len() as u64));
    assert!(matches!(relayed.end, End::Closed), "{:?}", relayed.end);
}

#[tokio::test]
async fn a_turn_ends_also_where_there_is_always_more() {
    const TURN: u64 = limits::RELAY_TURN;
    let ((mut sandbox, down), (up, mut origin)) = (duplex(8 << 20), duplex(8 << 20));
    let sent = vec![7; 8 << 20];
    for side in [&mut sandbox, &mut origin] {
        side.write_all(&sent).await.unwrap();
    }
    let mut relay = pin!(Relay::new(down, up, pending()));
    let cx = &mut Context::from_waker(noop_waker_ref());
    for turn in 1..=4 {
        assert!(relay.as_mut().poll(cx).is_pending());
        for moved in [relay.out.moved, relay.inward.moved] {
            assert!((turn * TURN..=turn * (TURN + limits::RELAY_BYTES as u64)).contains(&moved), "{moved} in {turn}");
        }
    }
}

#[tokio::test]
async fn an_end_in_one_direction_leaves_the_other_open() {
    let Relaying { mut sandbox, mut origin, relay, cut: _cut } = Relaying::start().await;
    sandbox.write_all(b"question").await.unwrap();
    sandbox.shutdown().await.unwrap();
    let mut question = Vec::new();
    origin.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    origin.write_all(b"late answer").await.unwrap();
    drop(origin);
    let mut answer = Vec::new();
    sandbox.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"late answer");
    assert!(matches!(relay.await.unwrap().end, End::Closed));
}

#[tokio::test]
async fn a_reset_of_one_side_is_a_reset_of_the_other() {
    let Relaying { mut sandbox, origin, relay, cut: _cut } = Relaying::in_flow().await;
    origin.set_zero_linger().unwrap();
    drop(origin);
    assert_reset(&mut sandbox).await;
    assert!(matches!(relay.await.unwrap().end, End::UpstreamBroke(_)));

    let Relaying { sandbox, mut origin, relay, cut: _cut } = Relaying::in_flow().await;
    sandbox.set_zero_linger().unwrap();
    drop(sandbox);
    assert_reset(&mut origin).await;
    assert!(matches!(relay.await.unwrap().end, End::SandboxBroke(_)));
}

#[tokio::test]
async fn a_cut_resets_both_sides_and_reports_what_was_moved() {
    let Relaying { mut sandbox, mut origin, relay, cut } = Relaying::in_flow().await;
    cut.send(()).unwrap();
    let relayed = relay.await.unwrap();
    assert_eq!((relayed.bytes_out, relayed.bytes_in), (1, 1));
    assert!(matches!(relayed.end, End::Cut), "{:?}", relayed.end);
    assert_reset(&mut sandbox).await;
    assert_reset(&mut origin).await;
}

#[tokio::test]
async fn a_cut_discards_what_is_unsent() {
    let ((mut sandbox, down), (up, mut origin)) = (connection().await, duplex(4));
    sandbox.write_all(b"sent, and more that waits").await.unwrap();
    let (cut, told) = oneshot::channel::<()>();
    let relay = tokio::spawn(relay(down, up, async { drop(told.await) }));
    let mut few = [0; 4];
    origin.read_exact(&mut few).await.unwrap();
    cut.send(()).unwrap();
    assert!(matches!(relay.await.unwrap().end, End::Cut));
    let mut rest = Vec::new();
    origin.read_to_end(&mut rest).await.unwrap();
    // What had reached the origin's side before the cut, at most.
    assert!(rest.len() <= 4, "{}", rest.escape_ascii());
}

#[tokio::test]
async fn what_was_revoked_before_it_began_moves_nothing() {
    let ((mut sandbox, down), (up, mut origin)) = (connection().await, connection().await);
    sandbox.write_all(b"secret").await.unwrap();
    let relayed = relay(down, up, ready(())).await;
    assert_eq!((relayed.bytes_out, relayed.bytes_in), (0, 0));
    assert_reset(&mut origin).await;
}

#[tokio::test]
async fn a_relay_that_is_dropped_resets_both() {
    let Relaying { mut sandbox, mut origin, relay, cut: _cut } = Relaying::in_flow().await;
    relay.abort();
    assert_reset(&mut sandbox).await;
    assert_reset(&mut origin).await;
}

#[tokio::test]
async fn an_idle_relay_holds_no_buffer() {
    let ((mut sandbox, down), (up, mut origin)) = (duplex(1024), duplex(16));
    let mut relay = Relay::new(down, up, pending());
    let poll = async |relay: &mut Relay<_, _, _>| {
        let polled = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *relay).poll(cx).is_pending()));
        assert!(polled.await);
    };
    sandbox.write_all(&[7; 100]).await.unwrap();
    poll(&mut relay).await;
    let left = relay.out.left.as_ref().map(|left| left.end - left.start);
    assert_eq!(left, Some(84), "what the origin does not take yet is kept");
    let mut taken = [0; 100];
    for part in taken.chunks_mut(16) {
        origin.read_exact(part).await.unwrap();
        poll(&mut relay).await;
    }
    assert_eq!(taken, [7; 100]);
    assert!(relay.out.left.is_none() && relay.inward.left.is_none());
    let size = size_of_val(&relay) - size_of::<DuplexStream>() * 2;
    assert!(size <= 96, "{size} bytes of a relay's own");
}
