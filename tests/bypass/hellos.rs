//! A11 and D41 to D43: ClientHellos that are meant to be read differently, or not at all.

use super::client::{assert_answer, attack};
use crate::support::world::World;

/// A11: a server name that is an address, holds a NUL or a port, is too long, stands twice, or is none.
#[test]
fn a11_doubtful_server_names() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().policy("version: 1\nallow: [\"*\", \"*.rig\"]\n"),
            "
bad = {
    'address': hello(b'203.0.113.66'),
    'address6': hello(b'[2a0e:5ca1:ab1e::66]'),
    'nul': hello(b'allowed.rig\\x00.evil.rig'),
    'port': hello(b'allowed.rig:443'),
    'space': hello(b'allowed.rig evil.rig'),
    'long': hello(b'a.' * 130 + b'rig'),
    'long label': hello(b'a' * 64 + b'.rig'),
    'empty': hello(b''),
    'two': hello(b'allowed.rig', b'evil.rig'),
    'two extensions': hello(b'allowed.rig', extensions=b'\\x00\\x00\\x00\\x0d\\x00\\x0b\\x00\\x00\\x08evil.rig'),
    'other kind': hello(b'allowed.rig', name_type=7),
    'longer': hello(b'allowed.rig') + b'x',
}
for what, data in bad.items():
    greet(what, ALLOWED, 443, records(data))
",
        );
        assert_eq!(outcome.stdout.lines().count(), 12, "{outcome:#?}");
        for line in outcome.stdout.lines() {
            assert!(line.ends_with(": refused"), "{line}: {outcome:#?}");
        }
        outcome.assert_denied("unreadable-hello", &[]);
        world.allowed.assert_untouched();
    });
}

/// D41: ECH. The outer name is judged and dialled, whatever is hidden inside.
#[test]
fn d41_encrypted_client_hello() {
    World::each(|world| {
        let ech = "extensions=struct.pack('!HH', 0xfe0d, 64) + os.urandom(64)";
        let script = format!(
            "greet('outer allowed', EVIL, 443, records(hello(b'allowed.rig', {ech})))
greet('outer evil', EVIL, 443, records(hello(b'evil.rig', {ech})))"
        );
        let outcome = attack(world, world.run().allow("allowed.rig"), &script);
        assert_answer(&outcome, "outer evil", &["refused", "handshake"]);
        outcome.assert_denied("no-rule", &[("name", "evil.rig")]);
        assert!(world.allowed.https.connections() <= 1);
        world.evil.assert_untouched();
    });
}

/// D42: one hello in single bytes, over many records, with its name far behind; read whole or refused.
#[test]
fn d42_fragmented_hellos() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "
padding = struct.pack('!HH', 21, 3000) + bytes(3000)
for name, address in ((b'allowed.rig', EVIL), (b'evil.rig', EVIL)):
    label = name.decode()
    plain = records(hello(name))
    greet(f'{label} bytes', address, 443, None, [plain[i:i + 1] for i in range(len(plain))])
    greet(f'{label} records', address, 443, records(hello(name), 7))
    padded = hello(name, extensions=padding)
    greet(f'{label} padded', address, 443, records(padded, 100))
huge = hello(b'allowed.rig', extensions=struct.pack('!HH', 21, 20000) + bytes(20000))
greet('huge', ALLOWED, 443, records(huge))
",
        );
        for how in ["bytes", "records", "padded"] {
            assert_answer(&outcome, &format!("allowed.rig {how}"), &["handshake"]);
            assert_answer(&outcome, &format!("evil.rig {how}"), &["refused", "handshake"]);
        }
        assert_answer(&outcome, "huge", &["refused"]);
        assert_eq!(outcome.verdicts(&[("reason", "no-rule"), ("name", "evil.rig")]).len(), 3, "{outcome:#?}");
        outcome.assert_denied("unreadable-hello", &[]);
        world.evil.assert_untouched();
        assert_eq!(world.allowed.https.connections(), 3);
    });
}

/// D43: a hello that never ends holds up nobody, and is given up.
#[test]
fn d43_a_stalled_hello() {
    let world = World::best();
    let outcome = attack(
        &world,
        world.run().allow("allowed.rig"),
        "
stalled = [dial(ALLOWED, 443) for _ in range(50)]
for i, s in enumerate(stalled):
    s.sendall(b'\\x16\\x03\\x01' if i % 2 else records(hello(b'allowed.rig')[:-1]))
greet('meanwhile', ALLOWED, 443, records(hello(b'allowed.rig')))
ends = set()
for s in stalled:
    s.settimeout(40)
    try:
        ends.add('closed' if s.recv(100)[:1] in (b'', b'\\x15') else 'answered')
    except ConnectionError:
        ends.add('closed')
    except socket.timeout:
        ends.add('open')
print('stalled:', ','.join(sorted(ends)))
",
    );
    assert_answer(&outcome, "meanwhile", &["handshake"]);
    assert_answer(&outcome, "stalled", &["closed"]);
    assert!(!outcome.stdout.contains("open"), "{outcome:#?}");
    assert_eq!(outcome.verdicts(&[("reason", "unreadable-hello")]).len(), 50, "{outcome:#?}");
    assert_eq!(world.allowed.https.connections(), 1);
}
