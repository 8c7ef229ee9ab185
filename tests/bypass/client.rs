//! The hostile client: a few `python3` functions that put any bytes on the wire.
//!
//! Every function prints what came of it and never fails the program, so that one script tries many things:
//! `refused` (reset, alert, closed without a byte), `timeout`, or the first line of the answer.

/// Put before a script; see the comments within.
pub(crate) const CLIENT: &str = r#"
import errno, os, socket, ssl, struct, sys, threading, time

def show(what, answer):
    print(f"{what}: {answer}", flush=True)

def first_line(data):
    return data.split(b"\r\n")[0].decode("latin-1") if data else "refused"

def attempt(what, f):
    try:
        show(what, f())
    except socket.timeout:
        show(what, "timeout")
    except (ConnectionError, ssl.SSLError, EOFError):
        show(what, "refused")
    except OSError as error:
        show(what, errno.errorcode.get(error.errno, str(error)))

def drain(s):
    data = b""
    try:
        while chunk := s.recv(65536):
            data += chunk
    except (ConnectionError, ssl.SSLError):
        pass
    return data

def dial(address, port):
    s = socket.create_connection((address, port), timeout=30)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s

# Sends bytes as they are; the answer is whatever comes back.
def tcp(what, address, port, data):
    def f():
        with dial(address, port) as s:
            s.sendall(data)
            return first_line(drain(s))
    attempt(what, f)

# TLS with any server name (None for none), then bytes as they are. Certificates are not looked at: attackers do not.
def tls(what, address, port, name, data, alpn=("http/1.1",)):
    def f():
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(list(alpn))
        with dial(address, port) as plain, context.wrap_socket(plain, server_hostname=name) as s:
            s.sendall(data)
            return first_line(drain(s))
    attempt(what, f)

def request(host, path="/", method="GET", extra=""):
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{extra}Connection: close\r\n\r\n".encode("latin-1")

# A ClientHello made by hand, with these bytes as its server names.
def hello(*names, extensions=b"", name_type=0):
    def vector(width, body):
        return len(body).to_bytes(width, "big") + body
    def extension(kind, body):
        return struct.pack("!H", kind) + vector(2, body)
    entries = b"".join(bytes([name_type]) + vector(2, name) for name in names)
    body = b"\x03\x03" + os.urandom(32) + vector(1, os.urandom(32)) + vector(2, b"\x13\x01\xc0\x2b") + b"\x01\x00"
    body += vector(2, (extension(0, vector(2, entries)) if names else b"")
        + extension(10, vector(2, b"\x00\x17")) + extension(13, vector(2, b"\x04\x03"))
        + extension(43, b"\x02\x03\x04") + extension(51, vector(2, b"\x00\x1d" + vector(2, os.urandom(32))))
        + extensions)
    return b"\x01" + vector(3, body)

def records(handshake, size=16384):
    chunks = [handshake[i:i + size] for i in range(0, len(handshake), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack("!H", len(chunk)) + chunk for chunk in chunks)

# The first byte of what answers a hello: 22 is a handshake, 21 an alert.
def greet(what, address, port, data, pieces=None):
    def f():
        with dial(address, port) as s:
            for piece in pieces or [data]:
                s.sendall(piece)
            answer = s.recv(1)
            return {b"": "refused", b"\x15": "refused", b"\x16": "handshake"}.get(answer, answer)
    attempt(what, f)

# A DNS question over UDP or TCP; the answer's code, addresses and raw bytes.
def ask(name, kind=1, server="192.0.2.53", over="udp", port=53, patience=30):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    head = os.urandom(2) + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0)
    question = head + labels + b"\x00" + struct.pack("!HH", kind, 1)
    if over == "udp":
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.settimeout(patience)
            s.connect((server, port))
            s.send(question)
            answer = s.recv(4096)
    else:
        with dial(server, port) as s:
            s.sendall(struct.pack("!H", len(question)) + question)
            answer = drain_exactly(s, struct.unpack("!H", drain_exactly(s, 2))[0])
    at, addresses = 12 + len(labels) + 5, []
    for _ in range(struct.unpack_from("!H", answer, 6)[0]):
        while answer[at] and answer[at] < 192:
            at += 1 + answer[at]
        at += 2 if answer[at] >= 192 else 1
        found, _, _, length = struct.unpack_from("!HHIH", answer, at)
        at += 10
        if found in (1, 28):
            addresses.append(socket.inet_ntop({1: socket.AF_INET, 28: socket.AF_INET6}[found], answer[at:at + length]))
        at += length
    return answer[3] & 15, addresses, answer

def drain_exactly(s, length):
    data = b""
    while len(data) < length:
        chunk = s.recv(length - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data
"#;

use crate::support::exeat::{Outcome, Run};
use crate::support::world::World;

/// Runs a script of the hostile client; `ALLOWED`, `EVIL`, `ALLOWED6` and `EVIL6` are the sites' addresses.
#[track_caller]
pub(crate) fn attack(world: &World, run: Run<'_>, script: &str) -> Outcome {
    let addresses = format!(
        "ALLOWED, EVIL, ALLOWED6, EVIL6 = '{}', '{}', '{}', '{}'",
        world.allowed.address, world.evil.address, world.allowed.address6, world.evil.address6
    );
    run.python(&format!("{CLIENT}\n{addresses}\n{script}")).succeeded()
}

/// Fails the test unless the script said `count` things, each of them a refusal: nothing, a 4xx, or a handshake, which
/// is then our own, made to say why. Whether the origin was left alone, the origin knows.
#[track_caller]
pub(crate) fn assert_refusals(outcome: &Outcome, count: usize) {
    let refusal =
        |line: &str| line.ends_with(": refused") || line.ends_with(": handshake") || line.contains(": HTTP/1.1 4");
    let (refusals, others): (Vec<&str>, Vec<&str>) = outcome.stdout.lines().partition(|line| refusal(line));
    assert!(others.is_empty() && refusals.len() == count, "{others:?}: {outcome:#?}");
}

/// Fails the test unless the script said `what: answer` for one of `answers`.
#[track_caller]
pub(crate) fn assert_answer(outcome: &Outcome, what: &str, answers: &[&str]) {
    let prefix = format!("{what}: ");
    let said = outcome.stdout.lines().find_map(|line| line.strip_prefix(&prefix));
    let fits = said.is_some_and(|said| answers.iter().any(|answer| said.starts_with(answer)));
    assert!(fits, "`{what}` should have ended as one of {answers:?}: {outcome:#?}");
}
