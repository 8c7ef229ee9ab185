//! Dialling: only what is vetted, in good order, and TLS only with whom the name says.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::ca::Authority;
use crate::flow::{ClientAddr, Flow, FlowId, Hello, OriginalDst, SandboxId, Seen};
use crate::policy::verdict::{DenyReason, Route};
use crate::policy::{Flags, Policy, Terms};
use crate::resolve::{Answer, Resolving};

/// Answers in turn, the last for ever; nothing at all where there is none.
#[derive(Default)]
struct Script {
    answers: Mutex<Vec<Vec<SocketAddr>>>,
    overrides: bool,
}

impl Script {
    fn new(mut answers: Vec<Vec<SocketAddr>>) -> Self {
        answers.reverse();
        Self { answers: Mutex::new(answers), overrides: false }
    }
}

impl Resolve for Script {
    fn dial_addrs<'a>(&'a self, _: &'a Domain, _: u16) -> Resolving<'a, Vec<SocketAddr>> {
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop() } else { answers.last().cloned() };
        match answer {
            Some(addrs) => Box::pin(async { Ok(addrs) }),
            None => Box::pin(std::future::pending()),
        }
    }

    fn lookup<'a>(&'a self, _: &'a Domain, _: RecordType) -> Resolving<'a, Answer> {
        Box::pin(async { Err(ResolveError::NotFound) })
    }

    fn overrides(&self, _: &Domain) -> bool {
        self.overrides
    }
}

fn upstream(answers: Vec<Vec<SocketAddr>>) -> Upstream {
    Upstream::new(Arc::new(Script::new(answers)), RootCertStore::empty(), RootCertStore::empty())
}

fn name() -> Domain {
    Domain::parse("allowed.test").unwrap()
}

fn snapshot(flags: Flags) -> Snapshot {
    Snapshot { policy: Policy::compile(None, &flags, &Terms::default()).unwrap().policy.into(), generation: 1 }
}

fn allowing() -> Snapshot {
    snapshot(Flags { allow: vec!["allowed.test".to_owned()], ..Flags::default() })
}

fn flow(dst: SocketAddr, seen: Seen) -> Flow {
    let sandbox = SandboxId::new("run-7f3a").unwrap();
    Flow { id: FlowId(1), sandbox, client: ClientAddr(dst), dst: OriginalDst(dst), seen, pinned: Vec::new() }
}

/// A permit for the name, at port 443.
fn permit(snapshot: &Snapshot) -> Permit {
    let hello = Hello { sni: Some(name()), alpn: Vec::new(), ech: false };
    let flow = flow("203.0.113.9:443".parse().unwrap(), Seen::Tls(hello));
    match snapshot.policy.decide(&flow, &Protected::new([])) {
        Verdict::Allow(Route::Splice(permit)) => permit,
        other => panic!("{other:?}"),
    }
}

/// A host on which 127.0.0.2 and no other loopback address may be dialled.
fn host() -> Protected {
    Protected::new([]).without("127.0.0.2/32".parse().unwrap())
}

async fn listen(ip: &str, port: u16) -> (TcpListener, SocketAddr) {
    let ip: IpAddr = ip.parse().unwrap();
    let listener = TcpListener::bind((ip, port)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A port of 127.0.0.2 at which nobody listens.
async fn closed() -> SocketAddr {
    listen("127.0.0.2", 0).await.1
}

#[track_caller]
fn assert_denied<T>(dialled: Result<T, DialError>, reason: DenyReason) {
    match dialled {
        Err(DialError::Denied(denial)) => assert_eq!(denial.reason, reason),
        Err(other) => panic!("not denied: {other}"),
        Ok(_) => panic!("dialled"),
    }
}

#[tokio::test]
async fn a_name_is_dialled_where_it_resolves_to_and_not_where_the_sandbox_dialled() {
    let (listener, addr) = listen("127.0.0.2", 0).await;
    let snapshot = allowing();
    let stream = upstream(vec![vec![addr]]).dial(&permit(&snapshot), &snapshot, &host()).await.unwrap();
    assert_eq!(stream.io.peer_addr().unwrap(), addr, "with the port that the operator gave");
    assert!(stream.io.nodelay().unwrap());
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn attack_c31_a_mixed_answer_loses_what_is_protected() {
    let (allowed, good) = listen("127.0.0.2", 0).await;
    let (forbidden, bad) = listen("127.0.0.1", good.port()).await;
    let snapshot = allowing();
    let upstream = upstream(vec![vec![bad, good]]);
    let stream = upstream.dial(&permit(&snapshot), &snapshot, &host()).await.unwrap();
    assert_eq!(stream.io.peer_addr().unwrap(), good);
    allowed.accept().await.unwrap();
    let untouched = std::future::poll_fn(|cx| std::task::Poll::Ready(forbidden.poll_accept(cx).is_pending()));
    assert!(untouched.await, "a protected address was dialled");
}

#[tokio::test]
async fn attack_c32_a_name_that_is_rebound_is_denied_at_the_next_dial() {
    let (_allowed, good) = listen("127.0.0.2", 0).await;
    let (_forbidden, bad) = listen("127.0.0.1", good.port()).await;
    let snapshot = allowing();
    let upstream = upstream(vec![vec![good], vec![bad]]);
    upstream.dial(&permit(&snapshot), &snapshot, &host()).await.unwrap();
    assert_denied(upstream.dial(&permit(&snapshot), &snapshot, &host()).await, DenyReason::ProtectedRange);
}

#[tokio::test]
async fn attacks_c24_c25_c28_no_spelling_of_a_protected_address_is_dialled() {
    let snapshot = allowing();
    for address in [
        "127.0.0.1",
        "::1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "2001:0:1::5601:5601",
        "fd00:ec2::254",
        "0.0.0.0",
        "::",
        "255.255.255.255",
        "100.64.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "ff02::1",
        "10.0.0.1",
        "192.168.1.1",
        "fe80::1",
    ] {
        let addr = SocketAddr::new(address.parse().unwrap(), 443);
        let dialled = upstream(vec![vec![addr]]).dial(&permit(&snapshot), &snapshot, &host()).await;
        match dialled {
            Err(DialError::Denied(denial)) => assert_eq!(denial.reason, DenyReason::ProtectedRange, "{address}"),
            other => panic!("{address}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn attack_c29_the_hosts_own_addresses_are_not_dialled() {
    let own: IpAddr = "203.0.113.77".parse().unwrap();
    let snapshot = allowing();
    let upstream = upstream(vec![vec![SocketAddr::new(own, 443)]]);
    let dialled = upstream.dial(&permit(&snapshot), &snapshot, &Protected::new([own])).await;
    assert_denied(dialled, DenyReason::ProtectedRange);
}

#[tokio::test]
async fn a_denied_range_holds_at_the_moment_of_dialling() {
    let (_listener, addr) = listen("127.0.0.2", 0).await;
    let before = allowing();
    let permit = permit(&before);
    let deny_cidr = vec!["127.0.0.2/32".to_owned()];
    let now = snapshot(Flags { allow: vec!["allowed.test".to_owned()], deny_cidr, ..Flags::default() });
    assert_denied(upstream(vec![vec![addr]]).dial(&permit, &now, &host()).await, DenyReason::DeniedCidr);
}

#[tokio::test]
async fn a_permit_for_an_address_dials_that_address_and_asks_no_resolver() {
    let (_listener, addr) = listen("127.0.0.2", 0).await;
    let open = snapshot(Flags { allow_cidr: vec!["127.0.0.2/32".to_owned()], ..Flags::default() });
    let Some(Verdict::Allow(Route::Relay(permit))) = open.policy.decide_address(&flow(addr, Seen::Unread), &host())
    else {
        panic!("not permitted")
    };
    let stream = upstream(Vec::new()).dial(&permit, &open, &host()).await.unwrap();
    assert_eq!(stream.io.peer_addr().unwrap(), addr);
}

#[tokio::test]
async fn an_address_that_refuses_gives_way_to_the_next() {
    let (_listener, open) = listen("127.0.0.2", 0).await;
    let snapshot = allowing();
    let refusing = closed().await;
    let stream = upstream(vec![vec![refusing, open]]).dial(&permit(&snapshot), &snapshot, &host()).await.unwrap();
    assert_eq!(stream.io.peer_addr().unwrap(), open);
    let error = upstream(vec![vec![refusing]]).dial(&permit(&snapshot), &snapshot, &host()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("the upstream at {refusing} could not be reached: connection refused"));
    assert!(!error.is_timeout());
}

#[tokio::test(start_paused = true)]
async fn a_dial_ends_with_its_time() {
    let snapshot = allowing();
    let start = Instant::now();
    let error = upstream(Vec::new()).dial(&permit(&snapshot), &snapshot, &host()).await.unwrap_err();
    assert!(matches!(error, DialError::TimedOut) && error.is_timeout());
    assert_eq!(start.elapsed().as_secs(), limits::DIAL_TIME.as_secs());
}

/// An attempt that ends so after that many milliseconds.
async fn attempt(millis: u64, outcome: Result<u8, u8>) -> Result<u8, u8> {
    sleep(Duration::from_millis(millis)).await;
    outcome
}

#[tokio::test(start_paused = true)]
async fn attempts_overlap_and_the_first_success_wins() {
    const NEVER: u64 = 1_000_000;
    for (attempts, expected, millis) in [
        (vec![(NEVER, Ok(1)), (10, Ok(2))], Some(Ok(2)), 260),
        (vec![(300, Ok(1)), (100, Ok(2))], Some(Ok(1)), 300),
        (vec![(20, Err(1)), (30, Ok(2))], Some(Ok(2)), 50),
        (vec![(NEVER, Ok(1)), (20, Err(2)), (5, Ok(3))], Some(Ok(3)), 275),
        (vec![(20, Err(1)), (30, Err(2))], Some(Err(2)), 50),
        (vec![(1000, Ok(1))], Some(Ok(1)), 1000),
        (vec![], None, 0),
    ] {
        let start = Instant::now();
        let won = race(attempts.into_iter().map(|(millis, outcome)| attempt(millis, outcome))).await;
        assert_eq!(won, expected);
        let took = start.elapsed();
        assert!(took.abs_diff(Duration::from_millis(millis)) < Duration::from_millis(5), "{took:?}, not {millis} ms");
    }
}

#[test]
fn families_take_turns() {
    let addrs = |texts: &[&str]| -> Vec<SocketAddr> {
        texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 443)).collect()
    };
    let given = addrs(&["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2"]);
    let turns = addrs(&["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3"]);
    assert_eq!(by_turns(given), turns);
    assert_eq!(by_turns(addrs(&["192.0.2.1", "2001:db8::1"])), addrs(&["192.0.2.1", "2001:db8::1"]));
}

/// An origin that answers TLS for a name, and one who issues its certificate.
struct Origin {
    issuer: Authority,
    addr: SocketAddr,
}

impl Origin {
    async fn named(name: &str) -> Self {
        let issuer = Authority::generate(&SandboxId::new("rig").unwrap(), SystemTime::now).unwrap();
        let acceptor = TlsAcceptor::from(issuer.server_config(&Domain::parse(name).unwrap()).unwrap());
        let (listener, addr) = listen("127.0.0.2", 0).await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let _ = stream.write_all(b"hello").await;
                let _ = stream.shutdown().await;
            }
        });
        Self { issuer, addr }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.certificate_der().clone()).unwrap();
        roots
    }

    /// Dials it as the name's upstream; the name may be one that `--resolve` gave.
    fn upstream(&self, overrides: bool, system: RootCertStore, overridden: RootCertStore) -> Upstream {
        let script = Script { overrides, ..Script::new(vec![vec![self.addr]]) };
        Upstream::new(Arc::new(script), system, overridden)
    }
}

async fn handshake(upstream: &Upstream) -> Result<Tls<TcpStream>, DialError> {
    let snapshot = allowing();
    upstream.dial_tls(&permit(&snapshot), &snapshot, &host(), &[Alpn::Http1]).await.map(|dialled| dialled.io)
}

#[tokio::test]
async fn extra_roots_count_only_for_names_given_by_the_operator() {
    let origin = Origin::named("allowed.test").await;
    let none = RootCertStore::empty;
    let mut stream = handshake(&origin.upstream(true, none(), origin.roots())).await.unwrap();
    assert_eq!(stream.session().alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
    let refused = handshake(&origin.upstream(false, none(), origin.roots())).await.unwrap_err();
    assert!(matches!(refused, DialError::Certificate(_)), "{refused}");
    handshake(&origin.upstream(false, origin.roots(), none())).await.unwrap();
}

#[tokio::test]
async fn attack_f64_a_certificate_for_another_name_is_refused() {
    let origin = Origin::named("evil.test").await;
    let refused = handshake(&origin.upstream(false, origin.roots(), origin.roots())).await.unwrap_err();
    assert!(matches!(refused, DialError::Certificate(_)), "{refused}");
    assert!(refused.to_string().starts_with("the upstream's certificate was refused: "), "{refused}");
    assert!(!refused.is_timeout());
}

#[tokio::test]
async fn sessions_are_resumed_within_one_sandbox_and_never_by_another() {
    use rustls::HandshakeKind::{Full, Resumed};
    let origin = Origin::named("allowed.test").await;
    let [one, other] = [(); 2].map(|()| origin.upstream(false, origin.roots(), RootCertStore::empty()));
    let kind = async |upstream: &Upstream| {
        let mut stream = handshake(upstream).await.unwrap();
        // Tickets come after the handshake.
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        stream.session().handshake_kind()
    };
    assert_eq!(kind(&one).await, Some(Full));
    assert_eq!(kind(&one).await, Some(Resumed));
    assert_eq!(kind(&other).await, Some(Full));
}

#[tokio::test]
async fn what_is_not_tls_fails_the_handshake() {
    let (listener, addr) = listen("127.0.0.2", 0).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = handshake(&upstream(vec![vec![addr]])).await.unwrap_err();
    assert!(matches!(error, DialError::Tls(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_never_ends_its_handshake_is_a_time_out() {
    let (_silent, addr) = listen("127.0.0.2", 0).await;
    let error = handshake(&upstream(vec![vec![addr]])).await.unwrap_err();
    assert!(matches!(error, DialError::HandshakeTimedOut) && error.is_timeout(), "{error:?}");
}
