//! B: one name, several spellings. Whatever the spelling, it is the canonical name that is judged, or nothing.

use super::client::{assert_answer, assert_refusals, attack};
use crate::support::world::World;

/// Everything below `rig` but `evil.rig`.
const DENIED: &str = "
version: 1
allow: [\"*.rig\"]
deny: [evil.rig]
";

/// Asks for `name` as SNI, as `Host` and over DNS, and expects that nobody but DNS with an answer of ours replies.
fn refused(names: &[&str], reason: &str) {
    World::each(|world| {
        let script = format!(
            "for name in {}:
    raw = name.encode('utf-8')
    greet('sni ' + ascii(name), EVIL, 443, records(hello(raw)))
    tcp('host ' + ascii(name), EVIL, 80, b'GET / HTTP/1.1\\r\\nHost: ' + raw + b'\\r\\nConnection: close\\r\\n\\r\\n')
    tcp('connect ' + ascii(name), EVIL, 80, b'CONNECT ' + raw + b':443 HTTP/1.1\\r\\nHost: allowed.rig\\r\\n\\r\\n')",
            // What is a list of strings in JSON is one in Python.
            serde_json::json!(names)
        );
        let outcome = attack(world, world.run().policy(DENIED), &script);
        assert_refusals(&outcome, 3 * names.len());
        assert!(outcome.audit.contains(&format!("\"reason\":\"{reason}\"")), "{outcome:#?}");
        world.evil.assert_untouched();
        world.allowed.assert_untouched();
    });
}

/// B16: a trailing dot.
#[test]
fn b16_trailing_dot() {
    refused(&["evil.rig.", "evil.rig..", ".evil.rig"], "denied-domain");
    World::each(|world| {
        let outcome =
            attack(world, world.run().allow("allowed.rig"), "tcp('dot', EVIL, 80, request('allowed.rig.', '/b16'))");
        assert_answer(&outcome, "dot", &["HTTP/1.1 200"]);
        world.evil.assert_untouched();
    });
}

/// B17: case.
#[test]
fn b17_case() {
    refused(&["EVIL.rig", "eViL.RiG"], "denied-domain");
    World::each(|world| {
        let run =
            world.run().policy("version: 1\nallow:\n  Allowed.RIG:\n    - transform: [{ headers: { x-rule: hit } }]\n");
        let outcome = attack(world, run, "tls('case', EVIL, 443, 'aLLoWeD.rIg', request('ALLOWED.rig'))");
        assert_answer(&outcome, "case", &["HTTP/1.1 200"]);
        assert_eq!(world.allowed.https.requests()[0].header("x-rule"), ["hit"]);
        world.evil.assert_untouched();
    });
}

/// B18: brackets around a name.
#[test]
fn b18_brackets() {
    refused(&["[evil.rig]", "[evil.rig]:443", "[allowed.rig]"], "malformed-request");
}

/// B19: a NUL or another control byte that ends a name for one reader and not for the other.
#[test]
fn b19_control_bytes_in_a_name() {
    refused(&["evil.rig\0.allowed.rig", "evil.rig\t.allowed.rig", "allowed.rig\u{7f}.evil.rig"], "malformed-request");
}

/// B20: letters that normalise to the denied name, or that look like it.
#[test]
fn b20_internationalised_spellings() {
    refused(&["ｅvil.rig", "evil。rig", "ev\u{ad}il.rig", "xn--evil-.rig", "evil\u{200b}.rig"], "unreadable-hello");
}

/// B21: an allowed name as the end or the beginning of another.
#[test]
fn b21_suffix_without_a_label_boundary() {
    World::each(|world| {
        let run = world.run().allow("allowed.rig").allow("*.allowed.rig");
        let outcome = attack(
            world,
            run,
            "for name in ('evilallowed.rig', 'allowed.rig.evil.rig', 'xallowed.rig', 'allowed.rigx', 'allowed-rig'):
    greet(name, EVIL, 443, records(hello(name.encode())))
    tcp(name + ' http', EVIL, 80, request(name))",
        );
        assert_refusals(&outcome, 10);
        outcome.assert_denied("no-rule", &[("name", "allowed.rig.evil.rig")]);
        world.evil.assert_untouched();
        world.allowed.assert_untouched();
    });
}

/// B22: a wildcard is one or more labels, never none.
#[test]
fn b22_wildcard_depth() {
    World::each(|world| {
        let run = world.run().allow("*.allowed.rig");
        let outcome = attack(world, run, "tls('apex', ALLOWED, 443, 'allowed.rig', request('allowed.rig'))");
        assert_answer(&outcome, "apex", &["refused", "HTTP/1.1 403"]);
        outcome.assert_denied("no-rule", &[("name", "allowed.rig")]);
        world.allowed.assert_untouched();
    });
}

/// B23: a port that nobody thought of, by name and without one.
#[test]
fn b23_other_ports() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "for port in (22, 25, 853, 2375, 8080, 8443, 65535):
    greet(f'tls {port}', EVIL, port, records(hello(b'evil.rig')))
    tcp(f'http {port}', EVIL, port, request(f'evil.rig:{port}'))
    tcp(f'raw {port}', EVIL, port, b'\\x00\\x01\\x02 opaque')",
        );
        assert_refusals(&outcome, 21);
        for port in ["22", "25", "853", "2375", "8080", "8443", "65535"] {
            outcome.assert_denied("no-rule", &[("port", port), ("name", "evil.rig")]);
            outcome.assert_denied("no-name", &[("port", port)]);
        }
        world.evil.assert_untouched();
    });
}
