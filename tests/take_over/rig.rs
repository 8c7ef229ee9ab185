//! Daemons of one state directory, one after another, on a host of the test's own.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, UdpSocket};

use crate::attachments::ground::{Ground, Process};
use crate::support::names::Names;
use crate::support::origin::greet;
use crate::support::{PATIENCE, eventually};

/// Addresses of the host that a service answers at, with `hello`, and with `taken` to whoever answers it.
pub(crate) const ALLOWED: &str = "203.0.113.9";
/// See [`ALLOWED`].
pub(crate) const OTHER: &str = "203.0.113.10";

/// What a sandbox may reach that may reach both.
pub(crate) const BOTH: &str = "203.0.113.9/32, 203.0.113.10/32";

/// A client that connects, tells what it was greeted with, and then how the connection ends.
const HOLDER: &str = r#"
import errno, socket, sys
s = socket.create_connection((sys.argv[1], 7))
print(s.recv(6).decode().strip(), flush=True)
try:
    print(s.recv(99) or "closed", flush=True)
except OSError as error:
    print(errno.errorcode[error.errno], flush=True)
"#;

/// A client that connects over and over, until it is told to end: how often it was served, and what went wrong.
const LOOP: &str = r#"
import collections, errno, select, socket, sys
outcomes = collections.Counter()
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        s = socket.create_connection((sys.argv[1], 7), timeout=20)
        greeting = s.recv(6, socket.MSG_WAITALL)
        s.sendall(b"12345")
        taken = s.recv(6, socket.MSG_WAITALL)
        s.close()
        outcomes["served" if (greeting, taken) == (b"hello\n", b"taken\n") else repr((greeting, taken))] += 1
    except TimeoutError:
        outcomes["silence"] += 1
    except OSError as error:
        outcomes[errno.errorcode.get(error.errno, repr(error))] += 1
print(" ".join(f"{what}={count}" for what, count in sorted(outcomes.items())), flush=True)
"#;

/// A client that sends each line as a datagram, and on an empty one tells what it hears next.
const TALKER: &str = r#"
import errno, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 7))
s.settimeout(20)
print("ready", flush=True)
for line in sys.stdin:
    try:
        s.send(line.strip().encode()) if line.strip() else print(s.recv(99).decode(), flush=True)
    except TimeoutError:
        print("silence", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"#;

pub(crate) struct Rig {
    pub(crate) ground: Ground,
    pub(crate) folder: TempDir,
    pub(crate) names: Names,
    pub(crate) manager: UnixDatagram,
}

impl Rig {
    pub(crate) fn new() -> Option<Self> {
        let ground = Ground::new()?;
        for address in [ALLOWED, OTHER] {
            ground.place.ip(&format!("address add {address}/32 dev lo"));
            ground.run(async move {
                let listener = TcpListener::bind((address, 7)).await.expect("a listener");
                tokio::spawn(greet(listener));
                tokio::spawn(echo(UdpSocket::bind((address, 7)).await.expect("a socket")));
            });
        }
        let folder = tempfile::tempdir().expect("a folder");
        let names = Names::serve(&ground.place, "127.0.0.1:5353".parse().expect("an address"), &ground.handle());
        let manager = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        manager.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let rig = Self { ground, folder, names, manager };
        rig.set(&format!("[{ALLOWED}/32, {OTHER}/32]"));
        Some(rig)
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the settings of daemons that start from here on, with these ranges not protected.
    pub(crate) fn set(&self, allow_protected: &str) {
        let at = |name| self.at(name).display().to_string();
        let text = format!(
            "state: {}\ncontrol: {{ socket: {} }}\naudit: {}\nallowProtected: {allow_protected}\n\
             resolvers: ['127.0.0.1:5353']\n",
            at("state"),
            at("control.sock"),
            at("audit")
        );
        fs::write(self.at("serve.yaml"), text).expect("settings");
    }

    /// Starts a daemon; it may not serve yet.
    pub(crate) fn start(&self, arguments: &[&str]) -> Daemon {
        self.start_under(Command::new(env!("CARGO_BIN_EXE_exeat")), arguments)
    }

    /// The same, by a command that runs what it is given.
    pub(crate) fn start_under(&self, mut command: Command, arguments: &[&str]) -> Daemon {
        command.args(["serve", "--config"]).arg(self.at("serve.yaml")).args(arguments);
        let words = File::options().create(true).append(true).open(self.at("words")).expect("a file");
        command.env("NOTIFY_SOCKET", self.at("notify")).env_remove("WATCHDOG_USEC").stderr(words);
        Daemon(self.ground.place.enter(move || command.spawn().expect("exeat")))
    }

    /// Starts a daemon, and waits until it is ready.
    pub(crate) fn serve(&self, arguments: &[&str]) -> Daemon {
        let daemon = self.start(arguments);
        self.hear("READY=1");
        daemon
    }

    /// Waits until the manager is told this; what else is in that word.
    pub(crate) fn hear(&self, expected: &str) -> String {
        let mut word = [0; 128];
        loop {
            let length = self.manager.recv(&mut word).unwrap_or_else(|error| panic!("{error}: {}", self.words()));
            let word = String::from_utf8_lossy(&word[..length]);
            if let Some(rest) = word.strip_prefix(expected) {
                return rest.to_owned();
            }
        }
    }

    /// What daemons have told people.
    pub(crate) fn words(&self) -> String {
        fs::read_to_string(self.at("words")).unwrap_or_default()
    }

    /// One request of the control API.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value), std::io::Error> {
        let mut socket = UnixStream::connect(self.at("control.sock"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let body = body.to_string();
        let length = body.len();
        let head = "host: exeat\r\nconnection: close\r\ncontent-type: application/json";
        // At one stroke: whoever answers at once closes the connection, too.
        let request = format!("{method} {path} HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}");
        socket.write_all(request.as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Ok((status, serde_json::from_str(body).unwrap_or(Value::String(body.to_owned()))))
    }

    /// The same, for what must be done.
    #[track_caller]
    pub(crate) fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(method, path, body).unwrap_or_else(|error| panic!("{error}: {}", self.words()));
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Makes a namespace, and a sandbox of the same name that reaches these ranges.
    pub(crate) fn create(&self, name: &'static str, ranges: &str) {
        self.ground.sandbox(name);
        let attachment = json!({ "netns": format!("/run/netns/{name}") });
        self.register(name, &attachment, &ranges_allowed(ranges));
    }

    /// Makes a sandbox behind an interface of the host.
    pub(crate) fn create_behind(&self, name: &str, device: &str, ranges: &str) {
        self.ground.place.ip(&format!(
            "netns add {name}
             link add {device} type veth peer name eth0 netns {name}
             -n {name} link set lo up
             -n {name} address add 10.0.0.2/24 dev eth0
             -n {name} link set eth0 up
             -n {name} route add default via 10.0.0.77"
        ));
        let attachment = json!({ "interface": { "name": device, "addresses": ["10.0.0.2"] } });
        self.register(name, &attachment, &ranges_allowed(ranges));
    }

    pub(crate) fn register(&self, name: &str, attachment: &Value, policy: &Value) {
        let sandbox = json!({ "name": name, "attachment": attachment, "networkPolicy": policy });
        self.done("POST", "/v2/sandboxes", &sandbox);
    }

    /// Replaces the policy of a sandbox by one that reaches these ranges.
    #[track_caller]
    pub(crate) fn push(&self, name: &str, ranges: &str) {
        let patch = json!({ "networkPolicy": ranges_allowed(ranges) });
        self.done("PATCH", &format!("/v2/sandboxes/{name}"), &patch);
    }

    /// Which flows are open in a sandbox.
    pub(crate) fn flows(&self, name: &str) -> Vec<u64> {
        let answer = self.done("GET", &format!("/v2/sandboxes/{name}/flows"), &Value::Null);
        let flows = answer["flows"].as_array().expect("a list");
        flows.iter().map(|flow| flow["flow"].as_u64().expect("a number")).collect()
    }

    /// What a client in a sandbox is told at an address.
    pub(crate) fn try_to_reach(&self, name: &str, address: &str) -> String {
        self.ground.client(name, &format!("tcp {address} 7")).remove(0)
    }

    /// A client that keeps its connection.
    pub(crate) fn hold(&self, name: &str, address: &str) -> Process {
        let mut process = self.python(name, HOLDER, address);
        assert_eq!(process.line(), "hello");
        process
    }

    /// A client that sends what it is told as datagrams, and tells what it hears when it is told nothing.
    pub(crate) fn talk(&self, name: &str, address: &str) -> Process {
        let mut process = self.python(name, TALKER, address);
        assert_eq!(process.line(), "ready");
        process
    }

    /// A client that connects over and over.
    pub(crate) fn connect_on_and_on(&self, name: &str, address: &str) -> Process {
        let mut process = self.python(name, LOOP, address);
        assert_eq!(process.line(), "ready");
        process
    }

    fn python(&self, name: &str, script: &str, address: &str) -> Process {
        let arguments = ["netns", "exec", name, "/usr/bin/python3", "-c", script, address];
        self.ground.start(Command::new("ip").args(arguments).stdin(std::process::Stdio::piped()))
    }

    /// Whether one daemon serves, and one alone: it judges as the last policy says, takes changes, and nobody else can
    /// begin.
    #[track_caller]
    pub(crate) fn assert_one_serves(&self, name: &str, case: &str) {
        self.push(name, BOTH);
        assert_eq!(self.try_to_reach(name, OTHER), "hello", "{case}: {}", self.words());
        self.push(name, "203.0.113.9/32");
        assert_eq!(self.try_to_reach(name, ALLOWED), "hello", "{case}: {}", self.words());
        assert_eq!(self.try_to_reach(name, OTHER), "ECONNRESET", "{case}: {}", self.words());
        let before = self.words().len();
        assert_eq!(self.start(&[]).end(), Some(125), "{case}: a third begins");
        assert!(self.words()[before..].contains("in use by another process"), "{case}: {}", self.words());
    }

    /// Records of the audit file.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.at("audit")).expect("the audit record");
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }
}

/// A policy.
pub(crate) fn ranges_allowed(ranges: &str) -> Value {
    let ranges: Vec<_> = ranges.split(", ").collect();
    json!({ "subnets": { "allow": ranges } })
}

/// Sends every datagram back; one that says to wait, when the next one comes.
async fn echo(socket: UdpSocket) {
    let (mut room, mut waits) = ([0; 99], None);
    while let Ok((length, client)) = socket.recv_from(&mut room).await {
        let said = &room[..length];
        if said == b"wait" {
            waits = Some(client);
            continue;
        }
        // Who is gone hears nothing.
        let _ = socket.send_to(said, client).await;
        if let Some(waiting) = waits.take() {
            let _ = socket.send_to(b"waited", waiting).await;
        }
    }
}

/// A daemon, or what runs one; it ends with the test.
pub(crate) struct Daemon(Child);

impl Daemon {
    pub(crate) fn id(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.id(), signal).expect("it runs");
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_none()
    }

    /// Waits for its end; its code, unless it was killed.
    pub(crate) fn end(mut self) -> Option<i32> {
        assert!(eventually(|| !self.runs()), "it does not end");
        self.0.wait().expect("a child").code()
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().expect("a child");
        self.0.wait().expect("a child");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
