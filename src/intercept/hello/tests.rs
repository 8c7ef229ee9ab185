//! The reading of first bytes: hellos of real clients, hellos made wrong, request lines of every shape.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// The hello of a rustls client, in one record. `large`: with a post-quantum key share.
pub(crate) fn rustls_hello(name: &str, large: bool) -> Vec<u8> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| large || !format!("{:?}", group.name()).contains("MLKEM"));
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut bytes = Vec::new();
    ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

/// The first bytes that a program sends to a port of ours; `None` where there is no such program.
fn first_bytes_of(program: &str, arguments: impl Fn(u16) -> Vec<String>) -> Option<Vec<u8>> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let quiet = || Stdio::null();
    let started = Command::new(program).args(arguments(port)).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
    let Ok(mut child) = started else {
        eprintln!("skipped: no {program} here");
        return None;
    };
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while matches!(read(&bytes), Reading::More { .. }) {
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "{program} ended its hello early");
        bytes.extend_from_slice(&chunk[..count]);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    Some(bytes)
}

fn openssl_hello(protocol: &str) -> Option<Vec<u8>> {
    first_bytes_of("openssl", |port| {
        let port = format!("127.0.0.1:{port}");
        ["s_client", protocol, "-alpn", "h2,http/1.1", "-servername", "allowed.test", "-connect", &port]
            .map(str::to_owned)
            .to_vec()
    })
}

fn curl_hello() -> Option<Vec<u8>> {
    first_bytes_of("curl", |port| {
        let resolve = format!("allowed.test:{port}:127.0.0.1");
        let url = format!("https://allowed.test:{port}/");
        ["-s", "--noproxy", "*", "--resolve", &resolve, &url].map(str::to_owned).to_vec()
    })
}

/// The handshake message of `hello`, cut into records of these lengths, the last of them for all that is left.
fn in_records(hello: &[u8], lengths: &[usize]) -> Vec<u8> {
    let mut rest = &hello[RECORD_HEADER..];
    let mut records = Vec::new();
    let mut lengths = lengths.iter().copied().chain(std::iter::repeat(lengths.last().copied().unwrap_or(FRAGMENT)));
    while !rest.is_empty() {
        let (fragment, after) = rest.split_at(lengths.next().unwrap().clamp(1, rest.len()));
        records.extend([HANDSHAKE, 3, 1]);
        records.extend((fragment.len() as u16).to_be_bytes());
        records.extend(fragment);
        rest = after;
    }
    records
}

/// A hello with these extensions.
fn hello_with(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    let mut all = Vec::new();
    for (kind, data) in extensions {
        all.extend(kind.to_be_bytes());
        all.extend((data.len() as u16).to_be_bytes());
        all.extend(data);
    }
    body.extend((all.len() as u16).to_be_bytes());
    body.extend(all);
    message(CLIENT_HELLO, &body)
}

/// A handshake message in one record.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![HANDSHAKE, 3, 1];
    bytes.extend(((body.len() + MESSAGE_HEADER) as u16).to_be_bytes());
    bytes.push(kind);
    bytes.extend(&(body.len() as u32).to_be_bytes()[1..]);
    bytes.extend(body);
    bytes
}

/// A `server_name` extension with these entries.
fn names(entries: &[(u8, &[u8])]) -> (u16, Vec<u8>) {
    let mut list = Vec::new();
    for (kind, name) in entries {
        list.push(*kind);
        list.extend((name.len() as u16).to_be_bytes());
        list.extend(*name);
    }
    let mut data = (list.len() as u16).to_be_bytes().to_vec();
    data.extend(list);
    (0, data)
}

fn with_name(name: &[u8]) -> Vec<u8> {
    hello_with(&[names(&[(0, name)])])
}

fn fault(bytes: &[u8]) -> Option<HelloFault> {
    match read(bytes) {
        Reading::Certain(Seen::Unreadable(fault)) => Some(fault),
        _ => None,
    }
}

fn sni(bytes: &[u8]) -> Option<String> {
    match read(bytes) {
        Reading::Certain(Seen::Tls(hello)) => hello.sni.map(|name| name.as_str().to_owned()),
        other => panic!("no hello: {other:?}"),
    }
}

/// What every hello has to be: incomplete at each of its beginnings, and itself at its end, whatever follows.
#[track_caller]
fn assert_incomplete_until_whole(bytes: &[u8]) {
    for length in 0..bytes.len() {
        match read(&bytes[..length]) {
            Reading::More { at_least } => assert!(at_least > length && at_least <= bytes.len(), "at {length}"),
            certain => panic!("{certain:?} after {length} of {} bytes", bytes.len()),
        }
    }
    let whole = read(bytes);
    assert!(matches!(whole, Reading::Certain(Seen::Tls(_))), "{whole:?}");
    assert_eq!(read(&[bytes, &[23, 3, 3, 0, 1, 0]].concat()), whole);
}

#[test]
fn hellos_of_real_clients_are_read() {
    let large = rustls_hello("allowed.test", true);
    assert!(large.len() > 1400, "{} bytes are no post-quantum hello", large.len());
    let others = [openssl_hello("-tls1_2"), openssl_hello("-tls1_3"), curl_hello()];
    for bytes in [large, rustls_hello("allowed.test", false)].into_iter().chain(others.into_iter().flatten()) {
        let Reading::Certain(Seen::Tls(hello)) = read(&bytes) else { panic!("unread") };
        assert_eq!(hello.sni, Domain::parse("allowed.test").ok());
        assert_eq!(hello.alpn, [Alpn::Http2, Alpn::Http1]);
        assert!(!hello.ech);
        assert_incomplete_until_whole(&bytes);
    }
}

#[test]
fn a_hello_over_many_records_is_incomplete_until_whole() {
    let hello = rustls_hello("allowed.test", true);
    for lengths in [&[1][..], &[2], &[3], &[4], &[5, 1, 700], &[1300, 20], &[9, 1000]] {
        let records = in_records(&hello, lengths);
        assert_incomplete_until_whole(&records);
        assert_eq!(read(&records), read(&hello));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_prefix_of_a_readable_hello_is_incomplete(
        extensions in prop::collection::btree_map(17_u16..60_000, prop::collection::vec(any::<u8>(), 0..40), 0..12),
        records in prop::collection::vec(1_usize..60, 1..12),
        at in 0_usize..12,
    ) {
        let mut extensions: Vec<_> = extensions.into_iter().collect();
        extensions.insert(at.min(extensions.len()), names(&[(0, b"allowed.test")]));
        let bytes = in_records(&hello_with(&extensions), &records);
        assert_incomplete_until_whole(&bytes);
        prop_assert_eq!(sni(&bytes), Some("allowed.test".to_owned()));
    }

    /// Waiting for `at_least` bytes skips no verdict.
    #[test]
    fn nothing_is_certain_before_at_least(bytes in prop::collection::vec(any::<u8>(), 0..64), tls in any::<bool>()) {
        let bytes = if tls { [&[HANDSHAKE, 3, 1][..], &bytes].concat() } else { bytes };
        let mut wanted = 0;
        for length in 0..=bytes.len() {
            match read(&bytes[..length]) {
                Reading::More { at_least } => wanted = at_least,
                Reading::Certain(seen) => {
                    prop_assert!(length >= wanted || matches!(seen, Seen::Unreadable(_)));
                    prop_assert_eq!(read(&bytes), Reading::Certain(seen));
                    break;
                }
            }
        }
    }

    /// Where the TLS library reads a name in a hello that we read, it is the name that we judge by.
    #[test]
    fn the_library_reads_no_other_name(at in 5_usize..400, byte in any::<u8>()) {
        let mut bytes = rustls_hello("allowed.test", false);
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        let mut acceptor = rustls::server::Acceptor::default();
        acceptor.read_tls(&mut bytes.as_slice()).unwrap();
        if let (Ok(Some(accepted)), Reading::Certain(seen)) = (acceptor.accept(), read(&bytes)) {
            let theirs = accepted.client_hello().server_name().and_then(|name| Domain::parse(name).ok());
            match seen {
                Seen::Tls(hello) => prop_assert_eq!(hello.sni, theirs),
                other => prop_assert!(matches!(other, Seen::Unreadable(_)), "{other:?}"),
            }
        }
    }
}

#[test]
fn attack_a11_a_doubtful_sni_is_unreadable() {
    let long = format!("{}.test", "abcdefghi.".repeat(25));
    for name in [
        &b"127.0.0.1"[..],
        b"0177.0.0.1",
        b"2130706433",
        b"::1",
        b"[::1]",
        b"evil.test\0.allowed.test",
        b"allowed.test:443",
        b"allowed test",
        b"",
        b".",
        b"a..b",
        b"\xff\xfe",
        "ａllowed.test".as_bytes(),
        "al\u{ad}lowed.test".as_bytes(),
        long.as_bytes(),
    ] {
        assert_eq!(fault(&with_name(name)), Some(HelloFault::BadName), "{}", name.escape_ascii());
    }
    let twice = hello_with(&[names(&[(0, b"allowed.test"), (0, b"evil.test")])]);
    assert_eq!(fault(&twice), Some(HelloFault::BadName));
    assert_eq!(fault(&hello_with(&[names(&[(1, b"allowed.test")])])), Some(HelloFault::BadName));
}

#[test]
fn a_name_is_canonical_however_it_is_spelled() {
    for spelled in ["allowed.test", "AlLoWeD.tEsT", "allowed.test.", "ALLOWED.TEST."] {
        assert_eq!(sni(&with_name(spelled.as_bytes())).as_deref(), Some("allowed.test"));
    }
    assert_eq!(sni(&with_name(b"_dmarc.allowed.test")).as_deref(), Some("_dmarc.allowed.test"));
    assert_eq!(sni(&hello_with(&[])), None);
}

#[test]
fn a_hello_that_breaks_its_grammar_is_unreadable() {
    let good = with_name(b"allowed.test");
    let (kind, data) = names(&[(0, b"allowed.test")]);
    let trailing_in_extension = hello_with(&[(kind, [&data[..], &[0]].concat())]);
    let same_extension_twice = hello_with(&[(kind, data.clone()), (kind, data)]);
    let another_twice = hello_with(&[(0x7777, vec![]), (0x7777, vec![])]);
    let empty_list = hello_with(&[(0, vec![0, 0])]);
    let empty_protocol = hello_with(&[(16, vec![0, 1, 0])]);
    let body = &good[RECORD_HEADER + MESSAGE_HEADER..];
    let trailing_in_body = message(CLIENT_HELLO, &[body, &[0]].concat());
    let short_body = message(CLIENT_HELLO, &body[..body.len() - 1]);
    let not_a_hello = message(2, body);
    let mut second_message = [&good[..], &[14, 0, 0, 0]].concat();
    second_message[4] += 4;
    let empty_record = [&[HANDSHAKE, 3, 1, 0, 0][..], &good].concat();
    let records = in_records(&good, &[20]);
    let mut alert_between = records.clone();
    alert_between[25] = 21;
    let mut other_version_between = records;
    other_version_between[26] = 2;
    let too_long_a_record = [HANDSHAKE, 3, 1, 0x40, 1].to_vec();
    for (what, bytes) in [
        ("trailing data in server_name", trailing_in_extension),
        ("server_name twice", same_extension_twice),
        ("any extension twice", another_twice),
        ("no name in server_name", empty_list),
        ("an empty ALPN protocol", empty_protocol),
        ("trailing data in the hello", trailing_in_body),
        ("a hello cut short", short_body),
        ("a ServerHello", not_a_hello),
        ("a second message in the record", second_message),
        ("an empty record", empty_record),
        ("an alert between records", alert_between),
        ("another version between records", other_version_between),
        ("a record over 2^14 bytes", too_long_a_record),
    ] {
        assert_eq!(fault(&bytes), Some(HelloFault::Malformed), "{what}");
    }
}

#[test]
fn a_hello_without_extensions_is_read() {
    let mut body = vec![3, 1];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0, 0x2f, 1, 0]);
    assert_incomplete_until_whole(&message(CLIENT_HELLO, &body));
}

#[test]
fn a_hello_over_the_limit_is_too_large_as_soon_as_it_says_so() {
    let length = (limits::HELLO_BYTES as u32).to_be_bytes();
    let begin = [&[HANDSHAKE, 3, 1, 0x40, 0, CLIENT_HELLO][..], &length[1..]].concat();
    assert_eq!(fault(&begin), Some(HelloFault::TooLarge));
    assert_eq!(
        read_cut(&[&[HANDSHAKE, 3][..], &[0; limits::HELLO_BYTES]].concat()),
        Seen::Unreadable(HelloFault::TooLarge)
    );
    assert_eq!(read_cut(&[HANDSHAKE, 3, 1]), Seen::Unreadable(HelloFault::Incomplete));
}

#[test]
fn attack_d41_ech_is_noticed() {
    let bytes = hello_with(&[names(&[(0, b"allowed.test")]), (0xfe0d, vec![0; 40])]);
    let Reading::Certain(Seen::Tls(hello)) = read(&bytes) else { panic!("unread") };
    assert!(hello.ech);
}

#[test]
fn a_request_line_is_http_however_odd() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.0\n",
        "\r\n\r\n\nGET / HTTP/1.1\r\n",
        "get /x http/1.1\r\n",
        "M-SEARCH * HTTP/1.1\r\n",
        "!#$%&'*+-.^_`|~ / HTTP/1.1\r\n",
        "CONNECT evil.test:443 HTTP/1.1\r\n",
        "GET http://evil.test/ HTTP/1.1\r\n",
        "GET  /two  HTTP/1.1\r\n",
        "GET\t/tab\tHTTP/1.1\r\n",
        "GET /a b c HTTP/1.1\r\n",
        "GET /\u{e9} HTTP/1.1 \r\n",
        "PRI * HTTP/1.1\r\n",
        "\r\nPRI * HTTP/2.0\r\n",
        "GET / HTTP/9.9\r\n",
    ] {
        assert_eq!(read(line.as_bytes()), Reading::Certain(Seen::Http(HttpVersion::Http1)), "{line:?}");
        for length in 0..line.len() {
            let reading = read(&line.as_bytes()[..length]);
            assert!(matches!(reading, Reading::More { .. }), "{line:?} at {length}: {reading:?}");
        }
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(read(preface), Reading::Certain(Seen::Http(HttpVersion::Http2)));
}

#[test]
fn other_protocols_are_opaque_as_soon_as_it_is_certain() {
    for (bytes, certain_at) in [
        (&b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"[..], 32),
        (b"0032git-upload-pack /a\0host=b\0", 23),
        (b"*1\r\n$4\r\nPING\r\n", 4),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", 1),
        (b"\x10\x20\0\x04MQTT", 1),
        (b"AMQP\0\0\x09\x01", 5),
        (b"{\"json\": 1}\n", 1),
        (b"\x16\x02", 2),
        (b"GET /nothing-more\r\n", 19),
        (b" GET / HTTP/1.1\r\n", 1),
        (b"EHLO client.test\r\n", 18),
    ] {
        assert_eq!(read(&bytes[..certain_at]), Reading::OPAQUE, "{}", bytes.escape_ascii());
        let before = read(&bytes[..certain_at - 1]);
        assert!(matches!(before, Reading::More { .. }), "{}: {before:?}", bytes.escape_ascii());
    }
    assert_eq!(read("a".repeat(METHOD + 1).as_bytes()), Reading::OPAQUE);
}

#[test]
fn an_endless_request_line_is_left_to_the_limits_of_http() {
    let line = format!("GET /{}", "a".repeat(limits::HELLO_BYTES));
    assert_eq!(read_cut(line.as_bytes()), Seen::Http(HttpVersion::Http1));
    assert_eq!(read_cut(&vec![b'\n'; limits::HELLO_BYTES]), Seen::Opaque);
    assert_eq!(read_cut(b"HELLO"), Seen::Opaque);
}
