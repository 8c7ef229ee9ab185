//! Protocols that reach TLS by a way of their own: what is said on that way leads nowhere else.

use super::client::{assert_answer, assert_refusals, attack};
use crate::support::world::World;

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
