//! Datagrams: who may be written to, for how long, how much, and what a change of policy does.

use std::net::SocketAddr;
use std::time::Duration;

use exeat::audit::{Protocol, RouteTaken};
use exeat::limits;
use exeat::policy::verdict::DenyReason;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::UdpSocket;

use super::rig::{Heard, Rig};

const ALLOWING: &str = "subnets: { allow: [127.0.0.0/8], deny: [127.0.0.66/32] }";

/// Sends every datagram back.
async fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = socket.local_addr().expect("a bound socket");
    tokio::spawn(async move {
        let mut room = vec![0; limits::UDP_BYTES];
        while let Ok((length, client)) = socket.recv_from(&mut room).await {
            socket.send_to(room.get(..length).unwrap_or_default(), client).await.expect("room");
        }
    });
    address
}

fn datagram(text: &[u8]) -> Heard {
    Heard::Datagram(text.to_vec())
}

/// Waits for as many ends of flows.
async fn closes(rig: &Rig, count: usize) {
    while rig.closes().len() < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn udp_is_relayed_to_an_allowed_address_and_no_other() {
    let rig = Rig::new(ALLOWING).await;
    let (mut wire, echo) = (rig.udp(), echo().await);
    wire.say(1, echo, b"one");
    assert_eq!(wire.hear().await, (1, datagram(b"one")));
    let large = vec![7; 9000];
    for text in [&b"two"[..], &large] {
        wire.say(1, echo, text);
        assert_eq!(wire.hear().await, (1, datagram(text)));
    }
    wire.say(2, echo, b"another port is another flow");
    assert_eq!(wire.hear().await.0, 2);
    for (to, reason) in [
        ("127.0.0.66:99", DenyReason::DeniedCidr),
        ("169.254.169.254:80", DenyReason::ProtectedRange),
        ("192.0.2.9:443", DenyReason::NoName),
        ("[::ffff:127.0.0.66]:99", DenyReason::DeniedCidr),
        ("192.0.2.1:443", DenyReason::NoName),
    ] {
        let before = rig.denied().len();
        for _ in 0..3 {
            wire.say(3, to.parse().expect("an address"), b"hello");
            assert_eq!(wire.hear().await, (3, Heard::Refusal), "{to}");
        }
        assert_eq!(rig.denied()[before..], [reason], "{to}: recorded once");
    }
    let looped = SocketAddr::new([127, 0, 0, 1].into(), rig.listener.port());
    wire.say(4, looped, b"hello");
    assert_eq!((wire.hear().await.1, rig.denied().last()), (Heard::Refusal, Some(&DenyReason::Loop)));
    rig.stop().await;
    closes(&rig, 8).await;
    assert_eq!(rig.allowed(), [RouteTaken::Relay; 2]);
    let moved: Vec<_> = rig.closes().iter().map(|close| (close.bytes_out, close.bytes_in)).collect();
    assert!(moved.contains(&(9006, 9006)), "{moved:?}");
    let protocol = |event: &exeat::audit::Event| match &event.kind {
        exeat::audit::Kind::Verdict(judged) => Some(judged.protocol),
        exeat::audit::Kind::Close(_) => None,
    };
    assert!(rig.events().iter().filter_map(protocol).all(|protocol| protocol == Protocol::Udp));
}

#[tokio::test]
async fn allow_all_relays_udp_where_no_name_is_denied() {
    let echo = echo().await;
    for (policy, expected) in [
        ("mode: allow-all", datagram(b"hello")),
        ("mode: allow-all\ndeny: [evil.test]", Heard::Refusal),
        ("mode: allow-all\nstrict: true", Heard::Refusal),
        ("allow: { '*': [] }", Heard::Refusal),
    ] {
        let rig = Rig::new(policy).await;
        let mut wire = rig.udp();
        wire.say(1, echo, b"hello");
        assert_eq!(wire.hear().await, (1, expected), "{policy}");
    }
}

#[tokio::test]
async fn who_does_not_listen_is_told_of() {
    let rig = Rig::new(ALLOWING).await;
    let mut wire = rig.udp();
    let gone = UdpSocket::bind("127.0.0.1:0").await.expect("a socket").local_addr().expect("a bound socket");
    wire.say(1, gone, b"hello");
    assert_eq!(wire.hear().await, (1, Heard::Refusal));
    assert_eq!(rig.denied(), []);
}

/// G70 for datagrams.
#[tokio::test]
async fn g70_revocation_ends_a_udp_flow() {
    let rig = Rig::new(ALLOWING).await;
    let (mut wire, kept) = (rig.udp(), echo().await);
    let cut = UdpSocket::bind("127.0.0.2:0").await.expect("a socket");
    let cut_at = cut.local_addr().expect("a bound socket");
    wire.say(1, kept, b"one");
    assert_eq!(wire.hear().await, (1, datagram(b"one")));
    wire.say(2, cut_at, b"one");
    let mut room = [0; 9];
    let (_, ours) = cut.recv_from(&mut room).await.expect("a datagram");
    rig.push("subnets: { allow: [127.0.0.1/32] }").await;
    assert_eq!(rig.denied(), [DenyReason::Revoked]);
    // The one that is refused hears nothing more, and says nothing more; the other does.
    let _ = cut.send_to(b"late", ours).await;
    wire.say(2, cut_at, b"late");
    assert_eq!(wire.hear().await, (2, Heard::Refusal));
    wire.say(1, kept, b"two");
    assert_eq!(wire.hear().await, (1, datagram(b"two")));
    assert!(cut.try_recv_from(&mut room).is_err(), "nothing came after the change");
}

#[tokio::test]
async fn a_sandbox_has_so_many_udp_flows_and_no_more() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("a limit may be raised to its ceiling");
    let rig = Rig::new(ALLOWING).await;
    let (mut wire, echo) = (rig.udp(), echo().await);
    let flows = u16::try_from(limits::UDP_FLOWS).expect("a small number");
    for port in 1..=flows {
        wire.say(port, echo, b"hello");
        assert_eq!(wire.hear().await, (port, datagram(b"hello")));
    }
    wire.say(flows + 1, echo, b"hello");
    assert_eq!(wire.hear().await, (flows + 1, Heard::Refusal));
    assert_eq!(rig.denied(), [DenyReason::Limit]);
}

#[tokio::test]
async fn an_idle_udp_flow_ends() {
    tokio::time::pause();
    let rig = Rig::new(ALLOWING).await;
    let wire = rig.udp();
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let begun = tokio::time::Instant::now();
    wire.say(1, silent.local_addr().expect("a bound socket"), b"hello");
    rig.closed().await;
    let took = begun.elapsed();
    assert!(took >= limits::UDP_UNANSWERED && took < limits::UDP_IDLE, "{took:?}");
}

#[tokio::test]
async fn refusing_is_bounded() {
    tokio::time::pause();
    let rig = Rig::new("mode: deny-all").await;
    let mut wire = rig.udp();
    let begun = tokio::time::Instant::now();
    let count = 2 * limits::UDP_REFUSALS;
    for _ in 0..=count {
        wire.say(1, "192.0.2.9:443".parse().expect("an address"), b"hello");
    }
    for _ in 0..=count {
        assert_eq!(wire.hear().await, (1, Heard::Refusal));
    }
    assert!(begun.elapsed() >= Duration::from_secs(2), "a second's rest for each full measure");
    assert_eq!(rig.denied(), [DenyReason::DenyAll]);
}

/// I89 for datagrams.
#[tokio::test]
async fn i89_udp_over_the_bounds_of_a_sandbox_is_refused_or_lost() {
    let rig = Rig::new(ALLOWING).await;
    rig.limit(r#"{"flows": 1, "egressBytesPerSecond": 1024}"#);
    let (mut wire, echo) = (rig.udp(), echo().await);
    let large = vec![7; 9000];
    wire.say(1, echo, &large);
    assert_eq!(wire.hear().await, (1, datagram(&large)));
    // It has cost more than a second gives: the next is lost. Another flow is one too many.
    wire.say(1, echo, b"lost");
    wire.say(2, echo, b"refused");
    assert_eq!(wire.hear().await, (2, Heard::Refusal));
    assert_eq!(rig.denied(), [DenyReason::Limit]);
    rig.limit("{}");
    wire.say(1, echo, b"heard");
    assert_eq!(wire.hear().await, (1, datagram(b"heard")), "and not what was lost");
}
