//! TLS in large steps: everything in its order, ends and errors last, and no buffer while it is idle.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Waker;
use std::time::SystemTime;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, repeat};
use tokio_rustls::client::TlsStream as Peer;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::ca::Authority;
use crate::flow::{Domain, SandboxId};

/// The most that one record holds (RFC 8446 §5.1).
const RECORD: usize = 16 * 1024;
/// Bytes that may be on their way.
const ROOM: usize = 1 << 20;

/// Ours, and a peer's of the library's own.
async fn connection() -> (Tls<DuplexStream>, Peer<DuplexStream>) {
    let issuer = Authority::generate(&SandboxId::new("rig").unwrap(), SystemTime::now).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(issuer.certificate_der().clone()).unwrap();
    let trusting = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let (near, far) = duplex(ROOM);
    let acceptor = TlsAcceptor::from(issuer.server_config(&Domain::parse("name.test").unwrap()).unwrap());
    let name = ServerName::try_from("name.test").unwrap();
    let connecting = TlsConnector::from(Arc::new(trusting)).connect(name, far);
    let (ours, peer) = tokio::join!(acceptor.accept(Ahead::new(near)), connecting);
    (Tls::new(ours.unwrap()), peer.unwrap())
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n % 251) as u8).collect()
}

#[tokio::test]
async fn one_read_takes_all_records_that_have_come_and_nothing_is_kept_behind() {
    let (mut ours, mut peer) = connection().await;
    peer.write_all(&bytes(3 * RECORD)).await.unwrap();
    peer.flush().await.unwrap();
    let mut space = vec![0; ROOM];
    assert_eq!(ours.read(&mut space).await.unwrap(), 3 * RECORD);
    assert!(space.starts_with(&bytes(3 * RECORD)));
    assert!(!ours.stream.get_ref().0.holds());
}

#[tokio::test]
async fn a_turn_ends_also_where_a_peer_never_pauses() {
    // Bytes of each record, on their way one byte of type and sixteen of seal and five of header more (RFC 8446 §5.2).
    for record in [RECORD, 1] {
        let (mut ours, mut peer) = connection().await;
        let count = 800 * 1024 / (record + 22);
        for _ in 0..count {
            peer.write_all(&bytes(record)).await.unwrap();
            peer.flush().await.unwrap();
        }
        let (mut turns, mut came) = (0, 0);
        while came < count * record {
            // What is read before somebody has to wait.
            let turn = poll_fn(|cx| {
                let (mut space, mut read) = ([0; 4096], 0);
                let mut step = ReadBuf::new(&mut space);
                while Pin::new(&mut ours).poll_read(cx, &mut step).is_ready() {
                    read += step.filled().len();
                    step.clear();
                }
                Poll::Ready(read)
            });
            let read = turn.await;
            assert!(read / record * (record + 22) <= limits::TLS_TURN + limits::RELAY_BYTES, "{read} of {record}");
            (turns, came) = (turns + 1, came + read);
        }
        assert!(turns > 3, "{turns} turns");
    }
}

/// Of tickets there may be any number, and the library does not come back before they are over.
#[test]
fn a_turn_ends_also_where_records_hold_nothing_to_be_given_out() {
    let mut ahead = Ahead::new(repeat(0));
    let cx = &mut Context::from_waker(Waker::noop());
    for _ in 0..2 {
        let (mut space, mut taken) = ([0; 4096], 0);
        let mut step = ReadBuf::new(&mut space);
        while Pin::new(&mut ahead).poll_read(cx, &mut step).is_ready() {
            taken += step.filled().len();
            step.clear();
        }
        assert_eq!(taken, 2 * limits::TLS_TURN);
    }
}

#[tokio::test]
async fn an_error_is_told_after_the_bytes_before_it_and_an_end_too() {
    let (mut ours, mut peer) = connection().await;
    peer.write_all(&bytes(2 * RECORD)).await.unwrap();
    peer.flush().await.unwrap();
    // A record that nobody has sealed (RFC 8446 §5.2). The library meets it in one step with the end of the second.
    peer.get_mut().0.write_all(&[&[23, 3, 3, 0, 32][..], &[0; 32]].concat()).await.unwrap();
    let mut space = vec![0; ROOM];
    assert_eq!(ours.read(&mut space).await.unwrap(), RECORD);
    assert_eq!(ours.read(&mut space).await.unwrap_err().kind(), io::ErrorKind::InvalidData);

    let (mut ours, mut peer) = connection().await;
    peer.write_all(b"whole").await.unwrap();
    peer.shutdown().await.unwrap();
    assert_eq!(ours.read(&mut space).await.unwrap(), 5);
    assert_eq!(ours.read(&mut space).await.unwrap(), 0);
    assert_eq!(ours.read(&mut space).await.unwrap(), 0, "and stays");

    let (mut ours, mut peer) = connection().await;
    peer.write_all(b"cut off").await.unwrap();
    peer.flush().await.unwrap();
    drop(peer);
    assert_eq!(ours.read(&mut space).await.unwrap(), 7);
    assert_eq!(ours.read(&mut space).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn bytes_keep_their_order_whatever_the_steps(
        writes in prop::collection::vec(1..40_000_usize, 1..12),
        reads in prop::collection::vec(1..70_000_usize, 1..8),
        room in prop::sample::select(vec![64, 4096, ROOM]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let sent = bytes(writes.iter().sum());
        let came = runtime.block_on(async {
            let (mut ours, mut peer) = connection().await;
            let writing = async {
                let mut rest = &sent[..];
                for count in writes {
                    let (now, later) = rest.split_at(count);
                    peer.write_all(now).await.unwrap();
                    peer.flush().await.unwrap();
                    rest = later;
                    if count % 2 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                peer.shutdown().await.unwrap();
            };
            let reading = async {
                let (mut came, mut space) = (Vec::new(), vec![0; 70_000]);
                for step in reads.iter().cycle() {
                    let count = ours.read(&mut space[..(*step).min(room)]).await.unwrap();
                    if count == 0 {
                        break;
                    }
                    came.extend_from_slice(&space[..count]);
                }
                came
            };
            tokio::join!(writing, reading).1
        });
        prop_assert!(came == sent);
    }
}
