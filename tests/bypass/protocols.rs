//! Protocols that reach TLS by a way of their own: what is said on that way leads nowhere else.

use super::client::{assert_answer, assert_refusals, attack};
use crate::support::world::World;

/// UDP: to an address that is denied, protected, the host's or nobody's, from one to which it is allowed; by whatever
/// spelling, from a port that speaks with somebody else already, and under another's address. Port 0 is nobody, and a
/// datagram that no packet holds arrives whole or not at all.
#[test]
fn udp_goes_to_allowed_addresses_alone() {
    World::each_wide(|world| {
        let policy = "version: 1\nsubnets: { allow: [203.0.113.0/24, 10.20.0.0/16], deny: [203.0.113.66/32] }\n";
        let wide = world.wide.as_ref().expect("the wide world");
        let outcome = attack(
            world,
            world.run().policy(policy),
            "
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
def say(address, port=9000, s=s):
    s.sendto(b'hello', (address, port))
    answer, whence = s.recvfrom(99)
    return f'{answer.decode()} from {whence[0]}:{whence[1]}'
attempt('allowed', lambda: say('203.0.113.20'))
attempt('again', lambda: say('203.0.113.20'))
spoofed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
spoofed.settimeout(20)
spoofed.bind(('203.0.113.66', 9000))
attempt('spoofed', lambda: say('203.0.113.20', s=spoofed))
spoofed.sendto(b'x' * 60000, ('203.0.113.66', 9001))
def refused(address, port=9000):
    # From the port that is allowed to speak with another.
    s.connect((address, port))
    s.send(b'hello')
    return s.recv(9)
for address in ('203.0.113.66', '169.254.169.254', '203.0.113.2', '203.0.113.1', '198.51.100.9', '255.255.255.255'):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.settimeout(1 if address in ('203.0.113.1', '255.255.255.255') else 20)
    attempt(address, lambda: refused(address))
s.settimeout(20)
attempt('port 0', lambda: refused('203.0.113.20', 0))
def mapped(address):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
        six.settimeout(20)
        six.connect((address, 9000))
        six.send(b'hello')
        return six.recv(9)
for address in ('::ffff:203.0.113.66', '64:ff9b::203.0.113.66', '2a0e:5ca1:ab1e::66'):
    attempt(address, lambda: mapped(address))
",
        );
        assert_answer(&outcome, "allowed", &["hello from 203.0.113.20:9000"]);
        assert_answer(&outcome, "again", &["hello from 203.0.113.20:9000"]);
        assert_answer(&outcome, "spoofed", &["hello from 203.0.113.20:9000"]);
        assert_answer(&outcome, "port 0", &["refused"]);
        for line in outcome.stdout.lines().skip(3) {
            assert!(["refused", "timeout", "EACCES", "ENETUNREACH"].iter().any(|end| line.ends_with(end)), "{line}");
        }
        assert_eq!(wide.datagrams(), ["203.0.113.20"; 3], "{outcome:#?}");
        outcome.assert_denied("denied-cidr", &[("protocol", "udp"), ("address", "203.0.113.66")]);
        outcome.assert_denied("protected-range", &[("protocol", "udp"), ("address", "169.254.169.254")]);
        outcome.assert_denied("protected-range", &[("protocol", "udp"), ("address", "203.0.113.2")]);
        outcome.assert_denied("no-name", &[("protocol", "udp"), ("address", "198.51.100.9")]);
        outcome.assert_allowed(&[("protocol", "udp"), ("address", "203.0.113.20"), ("route", "relay")]);
    });
}

/// PostgreSQL: bytes behind the question for TLS, in clear; cleartext in place of the hello; a hello with another name.
#[test]
fn postgres_says_nothing_in_clear() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "
ASK, KERBEROS = b'\\0\\0\\0\\x08\\x04\\xd2\\x16\\x2f', b'\\0\\0\\0\\x08\\x04\\xd2\\x16\\x30'
STARTUP = b'\\0\\0\\0\\x11\\0\\3\\0\\0user\\0rig\\0\\0'
def asked(what, address, port, *after):
    def f():
        with dial(address, port) as s:
            s.sendall(ASK)
            assert s.recv(1) == b'S'
            for piece in after:
                s.sendall(piece)
            answer = s.recv(1)
            return {b'': 'refused', b'\\x15': 'refused', b'\\x16': 'handshake'}.get(answer, answer)
    attempt(what, f)
for address in (EVIL, ALLOWED):
    tcp('startup', address, 5432, STARTUP)
    greet('behind', address, 5432, ASK + STARTUP)
    greet('hello behind', address, 5432, ASK + records(hello(b'allowed.rig')))
    greet('request behind', address, 5432, ASK + request('allowed.rig'))
    asked('in place', address, 5432, STARTUP)
    asked('request in place', address, 5432, request('allowed.rig'))
    asked('again', address, 5432, ASK)
    asked('evil', address, 5432, records(hello(b'evil.rig')))
    asked('nobody', address, 5432, records(hello()))
    tcp('on the port of HTTPS', address, 443, ASK)
    tcp('on the port of HTTP', address, 80, ASK)
",
        );
        assert_refusals(&outcome, 22);
        world.evil.assert_untouched();
        world.allowed.assert_untouched();
        outcome.assert_denied("unreadable-hello", &[("port", "5432")]);
        outcome.assert_denied("no-rule", &[("name", "evil.rig"), ("port", "5432")]);
        outcome.assert_denied("no-name", &[("port", "5432")]);
    });
}

/// PostgreSQL: Kerberos in place of TLS is refused, once.
#[test]
fn postgres_is_not_led_to_another_encryption() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "
KERBEROS = b'\\0\\0\\0\\x08\\x04\\xd2\\x16\\x30'
def twice():
    with dial(EVIL, 5432) as s:
        s.sendall(KERBEROS)
        first = s.recv(1)
        s.sendall(KERBEROS)
        return first.decode() + drain(s).decode()
attempt('twice', twice)
",
        );
        assert_answer(&outcome, "twice", &["N", "refused"]);
        assert!(!outcome.stdout.contains("NN"), "{outcome:#?}");
        outcome.assert_denied("no-name", &[("port", "5432")]);
        world.evil.assert_untouched();
    });
}
