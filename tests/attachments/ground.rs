//! Where attachments are tried: a host of the test's own, sandboxes beside it, and a service that answers by name.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use exeat::attach::{
    AttachError, Attached, Attachment, AttachmentEvent, AttachmentId, Datagrams, Events, Host, Listener, Packets,
    Refusal, Replies, SandboxDatagrams, SandboxListener, SandboxPackets, SandboxReplies, Sockets, Spec,
};
use nix::mount::{MsFlags, mount};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use crate::support::exeat::is_root;
use crate::support::place::Place;
use crate::support::{PATIENCE, skipped};

/// A client inside a sandbox: each line of its input is `tcp ADDRESS PORT`, `udp ADDRESS PORT TEXT` or `echo ADDRESS`,
/// with `from PORT` or `through DEVICE` at its end where that matters; each line of its output is what came back, or
/// the error's name.
const CLIENT: &str = r#"
import errno, os, signal, socket, struct, sys
kept = []
def attempt(words):
    kind, address, *rest = words
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    options = dict(zip(rest, rest[1:]))
    s = socket.socket(family, {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "echo": socket.SOCK_RAW}[kind],
        (socket.IPPROTO_ICMPV6 if ":" in address else socket.IPPROTO_ICMP) if kind == "echo" else 0)
    kept.append(s)
    s.settimeout(float(options.get("for", 2)))
    if "through" in options:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, options["through"].encode())
    if "as" in options or "from" in options:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((options.get("as", ""), int(options.get("from", 0))))
    if kind == "echo":
        s.sendto(struct.pack("!BBHHH", 8, 0, 0xf7ff, 0, 0) if family == socket.AF_INET else b"\x80\0\0\0\0\0\0\0",
            (address, 0))
        return s.recv(99)[:0] or b"an answer"
    s.connect(socket.getaddrinfo(address, int(rest[0]), type=s.type)[0][4])
    if kind == "udp":
        s.send(rest[1].encode())
    return s.recv(999) or b"closed"
for line in sys.stdin.read().splitlines():
    try:
        print(attempt(line.split()).decode().strip())
    except TimeoutError:
        print("silence")
    except OSError as error:
        print(errno.errorcode.get(error.errno, error))
    sys.stdout.flush()
if "KEEP" in os.environ:
    signal.pause()
"#;

/// A guest of few words: finds its gateway, asks one question, and says what was answered, by whom, to whom.
pub(crate) const TAP_GUEST: &str = r#"
import fcntl, os, socket, struct
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack("16sH", b"exwt", 0x1002))
print("ready", flush=True)
input()
own, ip, gateway = b"\2\0\0\0\0\7", socket.inet_aton("10.0.0.2"), socket.inet_aton("10.0.0.77")
def answer(wanted):
    while True:
        frame = os.read(tap, 2000)
        if wanted(frame):
            return frame
os.write(tap, b"\xff" * 6 + own + b"\x08\x06" + bytes.fromhex("0001080006040001") + own + ip + b"\0" * 6 + gateway)
hardware = answer(lambda f: f[12:14] == b"\x08\x06" and f[20:22] == b"\0\2" and f[28:32] == gateway)[22:28]
question = struct.pack("!HHHH", 40000, 53, 8 + 8, 0) + b"question"
head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(question), 1, 0, 64, 17, 0, ip, socket.inet_aton("9.9.9.9"))
total = sum(struct.unpack("!10H", head))
head = head[:10] + struct.pack("!H", ~((total & 0xffff) + (total >> 16)) & 0xffff) + head[12:]
os.write(tap, hardware + own + b"\x08\x00" + head + question)
frame = answer(lambda f: f[12:14] == b"\x08\x00" and f[23] == 17)
print(frame[42:].decode(), socket.inet_ntoa(frame[26:30]), *struct.unpack("!HH", frame[34:38]), flush=True)
input()
"#;

/// A host in namespaces of its own, with a runtime that lives there.
pub(crate) struct Ground {
    pub(crate) place: Place,
    host: Arc<Host>,
    runtime: Runtime,
}

impl Ground {
    /// The fixture, where there is root.
    pub(crate) fn new() -> Option<Self> {
        if !is_root() {
            skipped("attachments: they take root");
            return None;
        }
        Some(Self::made())
    }

    fn made() -> Self {
        let place = Place::fresh();
        place.enter(|| {
            fs::create_dir_all("/run/netns").expect("root may make it");
            mount(Some("none"), "/run/netns", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a file system");
        });
        Self::at(place)
    }

    /// Where this process is.
    pub(crate) fn in_place() -> Self {
        Self::at(Place::here())
    }

    fn at(place: Place) -> Self {
        let (runtime, host) = place.enter(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("a runtime");
            let host = runtime.block_on(async { Host::open() }).expect("a host");
            (runtime, Arc::new(host))
        });
        Self { place, host, runtime }
    }

    /// The runtime.
    #[allow(dead_code, reason = "only some of the test binaries that have a ground serve names on it")]
    pub(crate) fn handle(&self) -> tokio::runtime::Handle {
        self.runtime.handle().clone()
    }

    /// Runs `work` on the runtime, where the host is.
    pub(crate) fn run<R: Send + 'static>(&self, work: impl Future<Output = R> + Send + 'static) -> R {
        let work = self.runtime.spawn(async { tokio::time::timeout(PATIENCE, work).await.expect("in time") });
        self.runtime.block_on(work).expect("no panic")
    }

    pub(crate) fn attach(&self, spec: &Spec) -> Result<Attached, AttachError> {
        let (host, spec) = (Arc::clone(&self.host), spec.clone());
        self.run(async move { host.attach(&spec).await })
    }

    pub(crate) fn take_up(
        &self,
        spec: &Spec,
        id: &AttachmentId,
        sockets: Option<Sockets>,
    ) -> Result<Attached, AttachError> {
        let (host, spec, id) = (Arc::clone(&self.host), spec.clone(), id.clone());
        self.run(async move { host.take_up(&spec, &id, sockets).await })
    }

    pub(crate) fn sweep(&self) -> Vec<AttachmentId> {
        let host = Arc::clone(&self.host);
        self.run(async move { host.sweep().await.expect("a sweep") })
    }

    /// Attaches, and serves as `name`.
    pub(crate) fn serve(&self, name: &'static str, spec: &Spec) -> Served {
        self.serve_attached(name, self.attach(spec).expect("an attachment"))
    }

    pub(crate) fn serve_attached(&self, name: &'static str, attached: Attached) -> Served {
        let Attached { attachment, sockets, events } = attached;
        let asked = Asked::default();
        let heard = asked.clone();
        let tasks = self.run(async move { answer(name, sockets, heard) });
        Served { attachment, events, asked, tasks }
    }

    /// The next event of an attachment.
    pub(crate) fn event(&self, served: Served) -> (AttachmentEvent, Served) {
        self.run(async move {
            let mut served = served;
            (served.events.next().await, served)
        })
    }

    pub(crate) fn detach(&self, served: Served) {
        let Served { attachment, tasks, .. } = served;
        tasks.iter().for_each(AbortHandle::abort);
        self.run(async move { attachment.detach().await.expect("detaching") });
    }

    /// A network namespace with a name, and so a path.
    pub(crate) fn sandbox(&self, name: &'static str) -> Spec {
        self.place.ip(&format!("netns add {name}"));
        spec(name)
    }

    /// Runs a client in a named namespace; what it answers to each line of `script`.
    pub(crate) fn client(&self, sandbox: &str, script: &str) -> Vec<String> {
        let mut command = client(sandbox, script);
        let done = self.place.enter(move || command.output().expect("bash is installed"));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text").lines().map(str::to_owned).collect()
    }

    /// The same, with a client that keeps its connections until it is dropped.
    pub(crate) fn keeping_client(&self, sandbox: &str, script: &str) -> (Vec<String>, Process) {
        let mut command = client(sandbox, script);
        let mut process = self.start(command.env("KEEP", "1"));
        (script.trim().lines().map(|_| process.line()).collect(), process)
    }

    /// Starts a command on the host.
    pub(crate) fn start(&self, command: &mut Command) -> Process {
        let mut command = std::mem::replace(command, Command::new("false"));
        command.stdout(Stdio::piped());
        let mut child = self.place.enter(move || command.spawn().expect("the command is installed"));
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        Process { child, stdout }
    }

    /// Runs a command of the shell on the host, or in a sandbox with `ip netns exec`.
    pub(crate) fn shell(&self, command: &str) -> String {
        let text = command.to_owned();
        let done: Output = self.place.enter(move || Command::new("bash").args(["-ec", &text]).output().expect("bash"));
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text")
    }

    /// Everything of the network that attaching may change: of the host with `""`, of a sandbox by its name.
    pub(crate) fn traces(&self, sandbox: &str) -> Traces {
        let all = "nft list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all
            ip -o address; ip -o link
            grep -rH . /proc/sys/net/ipv4/conf/*/{rp_filter,src_valid_mark,forwarding,accept_redirects} \
                /proc/sys/net/ipv6/conf/*/{accept_ra,disable_ipv6,forwarding,autoconf,accept_redirects}";
        let found = match sandbox {
            "" => self.shell(all),
            sandbox => self.shell(&format!("ip netns exec {sandbox} bash -ec '{all}'")),
        };
        // A device that was up once keeps its queue.
        let queue = |line: &str| line.replace(" qdisc noqueue ", " qdisc noop ").replace(" pfifo_fast ", " noop ");
        // Counters of the tests' own count.
        let still = |line: String| line.split(" packets ").next().unwrap_or_default().to_owned();
        Traces(found.lines().map(queue).map(still).collect())
    }
}

/// What a network looked like; two of them are compared with [`Traces::assert_same`].
pub(crate) struct Traces(Vec<String>);

impl Traces {
    #[track_caller]
    pub(crate) fn assert_same(&self, earlier: &Traces) {
        let only = |these: &Traces, others: &Traces| -> Vec<String> {
            these.0.iter().filter(|line| !others.0.contains(line)).cloned().collect()
        };
        let (new, lost) = (only(self, earlier), only(earlier, self));
        assert!(new.is_empty() && lost.is_empty(), "new: {new:#?}, lost: {lost:#?}");
        assert_eq!(self.0.len(), earlier.0.len(), "a line is there twice");
    }

    pub(crate) fn has(&self, text: &str) -> bool {
        self.0.iter().any(|line| line.contains(text))
    }
}

/// A named namespace without TAPs.
pub(crate) fn spec(name: &str) -> Spec {
    at(path(name))
}

/// A namespace without TAPs, wherever it is.
pub(crate) fn at(path: PathBuf) -> Spec {
    Spec::Netns { path, taps: Vec::new() }
}

fn client(sandbox: &str, script: &str) -> Command {
    let text = format!("exec ip netns exec {sandbox} /usr/bin/python3 -c \"$CLIENT\" <<< \"$SCRIPT\"");
    let mut bash = Command::new("bash");
    bash.args(["-c", &text]).env("CLIENT", CLIENT).env("SCRIPT", script.trim());
    bash
}

/// A process that ends with the test.
pub(crate) struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    /// The next line that it writes.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("text");
        assert!(line.ends_with('\n'), "it has ended, after {line:?}");
        line.trim().to_owned()
    }

    /// Writes a line to it.
    pub(crate) fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{line}").expect("it reads");
    }

    pub(crate) fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn end(mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `ip netns` keeps it.
pub(crate) fn path(name: &str) -> PathBuf {
    format!("/run/netns/{name}").into()
}

pub(crate) type Asked = Arc<Mutex<Vec<(IpAddr, SocketAddr)>>>;

/// A sandbox that is attached and served.
pub(crate) struct Served {
    pub(crate) attachment: Attachment,
    pub(crate) events: Events,
    /// Every datagram that came: who asked, and whom.
    pub(crate) asked: Asked,
    tasks: [AbortHandle; 3],
}

impl Served {
    pub(crate) fn id(&self) -> AttachmentId {
        self.attachment.id().clone()
    }

    /// Closes the listeners, as a daemon does that dies: nothing is detached.
    pub(crate) fn abandon(self, ground: &Ground) -> AttachmentId {
        let id = self.id();
        self.tasks.iter().for_each(AbortHandle::abort);
        ground.run(async move {
            for task in &self.tasks {
                while !task.is_finished() {
                    tokio::task::yield_now().await;
                }
            }
        });
        id
    }
}

/// Why something is not attached.
#[track_caller]
pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, AttachError>) -> Refusal {
    match answer {
        Err(AttachError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// Tells every client who answers it, and whom it asked.
fn answer(name: &'static str, sockets: Sockets, asked: Asked) -> [AbortHandle; 3] {
    let mut listener = SandboxListener::new(sockets.tcp).expect("a listener");
    let datagrams = SandboxDatagrams::new(sockets.udp).expect("sockets for datagrams");
    let packets = SandboxPackets::new(sockets.relay).expect("sockets for packets");
    let replies = SandboxReplies::new(sockets.raw);
    let connections = tokio::spawn(async move {
        loop {
            let arrival = listener.accept().await;
            let line = format!("{name} {}\n", plain(arrival.dst.0));
            tokio::spawn(async move {
                // A client that went away has its answer; one that stays keeps its connection.
                let mut io = TcpStream::from_std(arrival.io).expect("a socket to watch");
                let _ = io.write_all(line.as_bytes()).await;
                let _ = io.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    let relayed = Arc::clone(&asked);
    let questions = tokio::spawn(async move {
        let mut buffer = Vec::new();
        loop {
            let envelope = datagrams.receive(&mut buffer).await;
            asked.lock().expect("no panic").push((envelope.client.0.ip(), plain(envelope.dst.0)));
            let answer = format!("{name} {} {}", plain(envelope.dst.0), String::from_utf8_lossy(&buffer));
            datagrams.reply(envelope, answer.as_bytes()).await;
        }
    });
    let refusals = tokio::spawn(async move {
        let mut buffer = Vec::new();
        loop {
            let (envelope, length) = packets.receive(&mut buffer).await;
            relayed.lock().expect("no panic").push((envelope.client.0.ip(), plain(envelope.dst.0)));
            match buffer.get(..length) {
                Some(b"relay") => {
                    replies.reply(envelope, format!("{name} {} relayed", plain(envelope.dst.0)).as_bytes())
                }
                _ => replies.refuse(envelope),
            }
        }
    });
    [connections.abort_handle(), questions.abort_handle(), refusals.abort_handle()]
}

/// Without the number of the interface that a link-local address is on.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}
