//! The authority: what its certificates say, how long they last, how many there are, and who can use its tickets.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A clock that a test sets.
#[derive(Clone)]
struct Hands(Arc<AtomicU64>);

impl Hands {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_800_000_000)))
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::Relaxed))
    }

    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::Relaxed);
    }

    fn go_back(&self, by: Duration) {
        self.0.fetch_sub(by.as_secs(), Ordering::Relaxed);
    }

    fn authority(&self) -> Authority {
        let hands = self.clone();
        Authority::generate(&SandboxId::new("run-7f3a").unwrap(), move || hands.now()).unwrap()
    }
}

fn name(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate_der().clone()).unwrap();
    Arc::new(roots)
}

/// Whether a client at `time` accepts the leaf for `name`.
fn accepts(authority: &Authority, leaf: &CertifiedKey, name: &str, time: SystemTime) -> bool {
    let provider = tls::provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(authority), provider).build().unwrap();
    let time = UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let name = ServerName::try_from(name).unwrap();
    verifier.verify_server_cert(leaf.end_entity_cert().unwrap(), &[], &name, &[], time).is_ok()
}

fn leaf_bytes(authority: &Authority, text: &str) -> Vec<u8> {
    authority.leaf(&name(text)).unwrap().cert[0].to_vec()
}

/// What `openssl x509` says of a certificate.
fn described(der: &[u8]) -> Option<String> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-inform", "DER", "-noout", "-text"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = openssl.spawn() else {
        eprintln!("skipped: no openssl here");
        return None;
    };
    child.stdin.take().unwrap().write_all(der).unwrap();
    Some(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap())
}

#[test]
fn a_leaf_is_for_one_name_and_no_other() {
    let hands = Hands::new();
    let authority = hands.authority();
    let leaf = authority.leaf(&name("api.allowed.test")).unwrap();
    assert!(accepts(&authority, &leaf, "api.allowed.test", hands.now()));
    for other in ["allowed.test", "x.api.allowed.test", "other.allowed.test"] {
        assert!(!accepts(&authority, &leaf, other, hands.now()), "{other}");
    }
    assert!(!accepts(&hands.authority(), &leaf, "api.allowed.test", hands.now()), "of another root");
    let odd = format!("_under.{}test", "abcdefghi.".repeat(24));
    assert!(accepts(&authority, &authority.leaf(&name(&odd)).unwrap(), &odd, hands.now()));
}

#[test]
fn certificates_say_what_they_are() {
    let authority = Hands::new().authority();
    let leaf = leaf_bytes(&authority, "allowed.test");
    let (Some(root), Some(leaf)) = (described(authority.certificate_der()), described(&leaf)) else { return };
    for part in ["Issuer: CN = exeat run-7f3a root", "CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "P-256"] {
        assert!(root.contains(part), "no `{part}` in {root}");
    }
    for part in [
        "Issuer: CN = exeat run-7f3a root",
        "CA:FALSE",
        "DNS:allowed.test\n",
        "Digital Signature",
        "TLS Web Server Authentication",
        "Authority Key Identifier",
    ] {
        assert!(leaf.contains(part), "no `{part}` in {leaf}");
    }
}

#[test]
fn no_two_certificates_have_the_same_serial_number() {
    let authority = Hands::new().authority();
    let serials: HashSet<_> = (0..20)
        .map(|number| {
            let leaf = leaf_bytes(&authority, &format!("n{number}.allowed.test"));
            // [0] version, then INTEGER: the first 16 bytes after its tag and length.
            let at = leaf.windows(3).position(|window| window == [2, 1, 2]).unwrap() + 5;
            leaf[at..at + 16].to_vec()
        })
        .collect();
    assert_eq!(serials.len(), 20);
}

#[test]
fn certificates_are_valid_from_two_days_ago_and_leaves_for_a_week() {
    let hands = Hands::new();
    let authority = hands.authority();
    let leaf = authority.leaf(&name("allowed.test")).unwrap();
    let valid = |time| accepts(&authority, &leaf, "allowed.test", time);
    assert!(valid(hands.now() - 47 * HOUR));
    assert!(!valid(hands.now() - 49 * HOUR));
    assert!(valid(hands.now() + 6 * DAY));
    assert!(!valid(hands.now() + 8 * DAY));
}

#[test]
fn a_leaf_is_kept_and_renewed_before_its_end() {
    let hands = Hands::new();
    let authority = hands.authority();
    let first = leaf_bytes(&authority, "allowed.test");
    hands.advance(6 * DAY - HOUR);
    assert_eq!(leaf_bytes(&authority, "allowed.test"), first);
    hands.advance(2 * HOUR);
    let renewed = authority.leaf(&name("allowed.test")).unwrap();
    assert_ne!(renewed.cert[0].to_vec(), first);
    assert!(accepts(&authority, &renewed, "allowed.test", hands.now() + 5 * DAY));
}

#[test]
fn no_leaf_outlives_its_root() {
    let hands = Hands::new();
    let authority = hands.authority();
    hands.advance(ROOT_LIFE - DAY);
    let last = authority.leaf(&name("allowed.test")).unwrap();
    assert!(accepts(&authority, &last, "allowed.test", hands.now() + 23 * HOUR));
    assert!(!accepts(&authority, &last, "allowed.test", hands.now() + 25 * HOUR));
    assert_eq!(leaf_bytes(&authority, "allowed.test"), last.cert[0].to_vec(), "a new one would last no longer");
    hands.advance(DAY);
    assert!(matches!(authority.leaf(&name("allowed.test")), Err(MintError::RootEnded)));
}

#[test]
fn attack_i88_minting_is_budgeted_and_kept_leaves_cost_nothing() {
    let hands = Hands::new();
    let authority = hands.authority();
    let mint = |number: u32| authority.leaf(&name(&format!("n{number}.allowed.test"))).map(drop);
    for number in 0..limits::MINT_BURST {
        mint(number).unwrap();
    }
    assert!(matches!(mint(9999), Err(MintError::Budget)));
    mint(0).unwrap();
    hands.advance(Duration::from_secs(1));
    for number in 0..limits::MINT_RATE {
        mint(1000 + number).unwrap();
    }
    assert!(matches!(mint(9999), Err(MintError::Budget)));
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_minting() {
    let hands = Hands::new();
    let authority = hands.authority();
    let mut number = 0;
    let mut mint = || {
        number += 1;
        authority.leaf(&name(&format!("n{number}.allowed.test"))).map(drop)
    };
    hands.advance(100 * DAY);
    mint().unwrap();
    hands.go_back(100 * DAY);
    assert!(matches!(mint(), Err(MintError::Budget)));
    hands.advance(Duration::from_secs(1));
    mint().unwrap();
}

#[test]
fn attack_i88_leaves_are_bounded() {
    let hands = Hands::new();
    let authority = hands.authority();
    for number in 0..limits::LEAVES * 2 {
        if number % 10 == 0 {
            hands.advance(Duration::from_secs(1));
        }
        authority.leaf(&name(&format!("n{number}.allowed.test"))).unwrap();
    }
    authority.leaves.run_pending_tasks();
    assert!(authority.leaves.entry_count() <= limits::LEAVES);
}

#[test]
fn who_asks_at_once_for_one_name_gets_one_leaf() {
    let authority = Hands::new().authority();
    let leaves = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| leaf_bytes(&authority, "allowed.test"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<HashSet<_>>()
    });
    assert_eq!(leaves.len(), 1);
}

/// A client of one authority's sandbox, with a memory for its tickets.
fn client(authority: &Authority) -> ClientConfig {
    let mut config = tls::client(roots(authority)).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::in_memory_sessions(8);
    config
}

/// Does a handshake in memory, and lets the client have its tickets.
fn shake(config: &ClientConfig, server: Arc<ServerConfig>, text: &str) -> (Option<HandshakeKind>, Option<Vec<u8>>) {
    let name = ServerName::try_from(text.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config.clone()), name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() || server.wants_write() {
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets().unwrap();
        bytes.clear();
    }
    (client.handshake_kind(), client.alpn_protocol().map(<[u8]>::to_vec))
}

#[test]
fn tls_is_ended_with_the_leaf_and_resumed_by_this_authority_alone() {
    // The client verifies at the real time.
    let authority = || Authority::generate(&SandboxId::new("run-7f3a").unwrap(), SystemTime::now).unwrap();
    let (own, other) = (authority(), authority());
    let (allowed, evil) = (name("allowed.test"), name("other.test"));
    let mut config = client(&own);
    let first = shake(&config, own.server_config(&allowed).unwrap(), "allowed.test");
    assert_eq!(first, (Some(HandshakeKind::Full), Some(b"h2".to_vec())));
    let again = shake(&config, own.server_config(&allowed).unwrap(), "allowed.test");
    assert_eq!(again.0, Some(HandshakeKind::Resumed));
    let elsewhere = shake(&config, own.server_config(&evil).unwrap(), "other.test");
    assert_eq!(elsewhere.0, Some(HandshakeKind::Full));
    // The same tickets, at another sandbox's authority.
    config.dangerous().set_certificate_verifier(
        WebPkiServerVerifier::builder_with_provider(roots(&other), tls::provider()).build().unwrap(),
    );
    let stranger = shake(&config, other.server_config(&allowed).unwrap(), "allowed.test");
    assert_eq!(stranger.0, Some(HandshakeKind::Full));
}

#[test]
fn nothing_printed_holds_a_key() {
    let authority = Hands::new().authority();
    assert_eq!(format!("{authority:?}"), "Authority(…)");
    assert!(authority.certificate_pem().starts_with("-----BEGIN CERTIFICATE-----"));
}
