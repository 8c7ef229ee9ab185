//! A: one connection, several names. The address, the SNI, the `Host`: whoever is judged is whoever is dialled.

use super::client::{assert_answer, attack};
use crate::support::world::{NEIGHBOUR, World};

/// `allowed.rig` is terminated and gets a header; nothing else is allowed.
const INJECTED: &str = "
version: 1
allow:
  allowed.rig:
    - transform: [{ headers: { authorization: \"Bearer ${secrets.KEY}\" } }]
secrets:
  KEY: { env: RIG_KEY }
";

const KEY: &str = "canary-rue5eiquaequ";

/// A1: a plaintext `Host` that is allowed, sent to an address that is not.
#[test]
fn a01_plaintext_host_spoofed_to_an_attackers_address() {
    World::each(|world| {
        let outcome =
            attack(world, world.run().allow("allowed.rig"), "tcp('spoof', EVIL, 80, request('allowed.rig', '/a01'))");
        world.evil.assert_untouched();
        assert_answer(&outcome, "spoof", &["HTTP/1.1 200"]);
        assert_eq!(world.allowed.http.requests()[0].uri, "/a01", "the name's own address was dialled");

        let run = world.run().policy(INJECTED).env("RIG_KEY", KEY);
        let outcome = attack(world, run, "tcp('spoof', EVIL, 80, request('allowed.rig'))");
        world.evil.assert_untouched();
        assert_answer(&outcome, "spoof", &["HTTP/1.1 403"]);
        outcome.assert_denied("plaintext-injection", &[("name", "allowed.rig")]);
        assert!(!world.allowed.http.inner().contains(KEY), "a credential in clear");
    });
}

/// A2: an SNI that is allowed, sent to an address that is not; spliced and terminated.
#[test]
fn a02_allowed_server_name_at_an_attackers_address() {
    World::each(|world| {
        let hijack = format!("allowed.rig:443:{}", world.evil.address);
        let (spliced, terminated) =
            (world.run().allow("allowed.rig"), world.run().policy(INJECTED).env("RIG_KEY", KEY));
        // A spliced site shows its own certificate, which the sandbox need not trust.
        spliced.curl(["--insecure", "--resolve", &hijack, "https://allowed.rig/a02"]).succeeded();
        terminated.curl(["--resolve", &hijack, "https://allowed.rig/a02"]).succeeded();
        world.evil.assert_untouched();
        assert_eq!(world.allowed.https.requests().len(), 2, "the name's own address was dialled, twice");
        assert_eq!(world.allowed.https.requests()[1].header("authorization"), [format!("Bearer {KEY}")]);
    });
}

/// A3: one name in the SNI, another in the request (domain fronting), inside TLS that is terminated.
#[test]
fn a03_fronting_inside_terminated_tls() {
    World::each(|world| {
        let run = world.run().policy(INJECTED).env("RIG_KEY", KEY);
        let outcome = attack(
            world,
            run,
            "tls('evil', ALLOWED, 443, 'allowed.rig', request('evil.rig'))
tls('neighbour', ALLOWED, 443, 'allowed.rig', request('neighbour.rig'))
tls('port', ALLOWED, 443, 'allowed.rig', request('allowed.rig:8443'))
tls('none', ALLOWED, 443, 'allowed.rig', b'GET / HTTP/1.1\\r\\n\\r\\n')",
        );
        for what in ["evil", "neighbour", "port"] {
            assert_answer(&outcome, what, &["HTTP/1.1 421"]);
        }
        assert_answer(&outcome, "none", &["HTTP/1.1 400"]);
        outcome.assert_denied("authority-mismatch", &[("port", "443")]);
        world.evil.assert_untouched();
        assert_eq!(world.allowed.https.requests().len(), 0);
    });
}

/// A4: HTTP/2 whose `:authority` is not the SNI; a good stream first, the bad one third (coalescing).
#[test]
fn a04_another_authority_on_a_later_stream() {
    World::each(|world| {
        let script = format!(
            "
const http2 = require('http2');
const session = http2.connect('https://allowed.rig', {{
    createConnection: () => require('tls').connect({{
        host: '{}', port: 443, servername: 'allowed.rig', ALPNProtocols: ['h2'], rejectUnauthorized: false }}) }});
session.on('error', (error) => {{ console.log('session: ' + error.code); }});
const ask = (what, headers) => new Promise((done) => {{
    const stream = session.request(headers);
    stream.on('response', (answer) => console.log(what + ': ' + answer[':status']));
    stream.on('error', () => console.log(what + ': refused'));
    stream.on('close', done);
    stream.resume();
    stream.end();
}});
(async () => {{
    await ask('good', {{ ':path': '/1', ':authority': 'allowed.rig' }});
    await ask('evil', {{ ':path': '/2', ':authority': 'evil.rig' }});
    await ask('neighbour', {{ ':path': '/3', ':authority': '{NEIGHBOUR}' }});
    await ask('host', {{ ':path': '/4', ':authority': 'allowed.rig', 'host': 'evil.rig' }});
    await ask('again', {{ ':path': '/5', ':authority': 'allowed.rig' }});
    session.close();
}})();",
            world.allowed.address
        );
        let outcome = world.run().policy(INJECTED).env("RIG_KEY", KEY).command(["node", "-e", &script]).succeeded();
        assert_answer(&outcome, "good", &["200"]);
        for what in ["evil", "neighbour", "host"] {
            assert_answer(&outcome, what, &["421", "400"]);
        }
        assert_answer(&outcome, "again", &["200"]);
        outcome.assert_denied("authority-mismatch", &[]);
        world.evil.assert_untouched();
        let paths: Vec<_> =
            world.allowed.https.requests().iter().map(|r| r.uri.rsplit('/').next().map(str::to_owned)).collect();
        assert_eq!(paths, [Some("1".to_owned()), Some("5".to_owned())]);
    });
}

/// A5: `CONNECT`, as to a proxy, in every combination of names.
#[test]
fn a05_connect_is_no_way_through() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "
connect = 'CONNECT {} HTTP/1.1\\r\\nHost: {}\\r\\n\\r\\n'
for port in (80, 3128):
    tcp(f'evil {port}', EVIL, port, connect.format('evil.rig:443', 'allowed.rig').encode())
    tcp(f'host {port}', ALLOWED, port, connect.format('allowed.rig:443', 'evil.rig').encode())
    tcp(f'both {port}', EVIL, port, connect.format('evil.rig:443', 'evil.rig:443').encode())
",
        );
        for line in outcome.stdout.lines() {
            assert!(line.contains(" 4") || line.ends_with("refused"), "{line}: {outcome:#?}");
        }
        world.evil.assert_untouched();
        assert!(!world.allowed.http.inner().contains("CONNECT"), "a tunnel was asked for upstream");
    });
}

/// A6: fronting inside TLS that is only spliced cannot be seen: `strict` closes it, and the README says so.
#[test]
fn a06_fronting_on_a_spliced_flow_is_closed_by_strict() {
    World::each(|world| {
        let strict = world.run().policy("version: 1\nstrict: true\nallow: [allowed.rig]\n");
        let outcome = attack(world, strict, "tls('front', ALLOWED, 443, 'allowed.rig', request('evil.rig'))");
        assert_answer(&outcome, "front", &["HTTP/1.1 421"]);
        outcome.assert_denied("authority-mismatch", &[]);
        assert_eq!(world.allowed.https.requests().len(), 0);
    });
    let readme = include_str!("../../README.md");
    assert!(readme.contains("Fronting on spliced flows") && readme.contains("`strict`"), "the residual risk is told");
}

/// A7: an absolute-form target that is not the `Host`.
#[test]
fn a07_absolute_form_against_host() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "
tcp('evil inside', ALLOWED, 80, request('allowed.rig', 'http://evil.rig/'))
tcp('evil outside', EVIL, 80, request('evil.rig', 'http://allowed.rig/'))
tcp('https', ALLOWED, 80, request('allowed.rig', 'https://allowed.rig/'))
tcp('user', ALLOWED, 80, request('allowed.rig', 'http://allowed.rig@evil.rig/'))
",
        );
        for what in ["evil inside", "evil outside", "https", "user"] {
            assert_answer(&outcome, what, &["HTTP/1.1 4"]);
        }
        world.evil.assert_untouched();
        assert_eq!(world.allowed.http.requests().len(), 0);
    });
}

/// A8: two `Host` lines, a list of them, a folded one, a space before the colon, none.
#[test]
fn a08_doubtful_host_lines() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "
heads = {
    'twice': 'Host: allowed.rig\\r\\nHost: evil.rig',
    'twice the same': 'Host: allowed.rig\\r\\nHost: allowed.rig',
    'list': 'Host: allowed.rig, evil.rig',
    'folded': 'Host: allowed.rig\\r\\n evil.rig',
    'folded empty': 'Host:\\r\\n allowed.rig',
    'space': 'Host : allowed.rig',
    'bare line feed': 'Host: allowed.rig\\nHost: evil.rig',
    'bare return': 'X: a\\rHost: evil.rig\\r\\nHost: allowed.rig',
    'path': 'Host: allowed.rig/evil.rig',
    'user': 'Host: allowed.rig@evil.rig',
}
for what, head in heads.items():
    tcp(what, ALLOWED, 80, f'GET / HTTP/1.1\\r\\n{head}\\r\\nConnection: close\\r\\n\\r\\n'.encode())
",
        );
        assert_eq!(outcome.stdout.lines().count(), 10, "{outcome:#?}");
        for line in outcome.stdout.lines() {
            assert!(line.contains("HTTP/1.1 4"), "{line}: {outcome:#?}");
        }
        outcome.assert_denied("malformed-request", &[]);
        world.evil.assert_untouched();
        assert_eq!(world.allowed.http.requests().len(), 0);
    });
}

/// A10: TLS to an address, without a server name: CIDRs judge it, names never.
#[test]
fn a10_tls_without_a_server_name() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "
tls('evil', EVIL, 443, None, request('allowed.rig'))
tls('allowed', ALLOWED, 443, None, request('allowed.rig'))",
        );
        assert_answer(&outcome, "evil", &["refused"]);
        assert_answer(&outcome, "allowed", &["refused"]);
        outcome.assert_denied("no-name", &[("port", "443")]);
        world.evil.assert_untouched();
        world.allowed.assert_untouched();
    });
}

/// A12: two names on one address, one of them allowed.
#[test]
fn a12_a_neighbour_on_the_same_address() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "greet('good', ALLOWED, 443, records(hello(b'allowed.rig')))
tls('tls', ALLOWED, 443, 'neighbour.rig', request('neighbour.rig'))
tcp('http', ALLOWED, 80, request('neighbour.rig'))",
        );
        assert_answer(&outcome, "good", &["handshake"]);
        assert_answer(&outcome, "tls", &["refused", "HTTP/1.1 403"]);
        assert_answer(&outcome, "http", &["HTTP/1.1 403"]);
        outcome.assert_denied("no-rule", &[("name", NEIGHBOUR), ("port", "443")]);
        outcome.assert_denied("no-rule", &[("name", NEIGHBOUR), ("port", "80")]);
        assert_eq!(world.allowed.https.requests().len() + world.allowed.http.requests().len(), 0);
    });
}

/// A14: a name that the allow-list covers and the injection rule does not gets no credential.
#[test]
fn a14_an_alias_gets_no_credential() {
    World::each(|world| {
        let policy = INJECTED.replace("allow:\n", "allow:\n  \"*.rig\": [{}]\n");
        let outcome = attack(
            world,
            world.run().policy(&policy).env("RIG_KEY", KEY),
            "tls('alias', ALLOWED, 443, 'neighbour.rig', request('neighbour.rig', '/alias'))
tls('own', ALLOWED, 443, 'allowed.rig', request('allowed.rig', '/own'))",
        );
        assert_answer(&outcome, "alias", &["HTTP/1.1 200"]);
        assert_answer(&outcome, "own", &["HTTP/1.1 200"]);
        let requests = world.allowed.https.requests();
        assert_eq!(requests[0].header("authorization"), [""; 0], "the alias");
        assert_eq!(requests[1].header("authorization"), [format!("Bearer {KEY}")]);
    });
}

/// A15: a broad rule does not shadow a narrow one, in whichever order they stand.
#[test]
fn a15_order_of_broad_and_narrow_rules() {
    World::each(|world| {
        let narrow = "  allowed.rig:\n    - transform: [{ headers: { x-from: narrow } }]\n";
        let broad = "  \"*.rig\":\n    - transform: [{ headers: { x-from: broad } }]\n";
        for rules in [[narrow, broad], [broad, narrow]] {
            let run = world.run().policy(&format!("version: 1\nallow:\n{}", rules.concat()));
            attack(world, run, "tls('ask', ALLOWED, 443, 'allowed.rig', request('allowed.rig'))");
        }
        let from: Vec<_> = world.allowed.https.requests().iter().map(|r| r.header("x-from").join(",")).collect();
        assert_eq!(from, ["narrow", "narrow"]);
    });
}
