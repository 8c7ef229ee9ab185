//! The daemon against the real kernel: what a control plane asks of it holds when the answer is there, for what is
//! new and for what was open before; and after a crash, too. The tests need root, and say so where they are skipped.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

mod attachments {
    #[allow(dead_code, reason = "made for the tests of attachments, which use all of it")]
    pub(crate) mod ground;
}
mod serve {
    mod canaries;
    pub(crate) mod doors;
    mod forward;
    mod inline;
    pub(crate) mod pki;
    pub(crate) mod reload;
    mod sources;
    mod upstreams;
    pub(crate) mod verb;
}

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use exeat::attach::LISTENER_PORT;
use exeat::attach::netns::SANDBOX_IPV4;
use exeat::audit::Fanout;
use exeat::cli::serve::Daemon;
use exeat::config::{Config, Home};
use exeat::control::action::{
    Act, Action, AttachmentSpec, AttachmentState, Bytes, Draft, PolicyPush, Refusal, SandboxView, Status, Which,
};
use exeat::flow::SandboxId;
use exeat::policy::judge::Question;
use exeat::policy::verdict::DenyReason;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use attachments::ground::{Ground, Process, path};
use support::origin::greet;
use support::{PATIENCE, eventually};

/// Addresses of the host that a service answers at, with `hello`: two that policies may open, and one that is the
/// host's own alone.
const ALLOWED: &str = "203.0.113.9";
const OTHER: &str = "203.0.113.10";
const OWN: &str = "203.0.113.11";

const ALLOWING: &str = "subnets: { allow: [203.0.113.9/32] }";
const ALLOWING_BOTH: &str = "subnets: { allow: [203.0.113.9/32, 203.0.113.10/32] }";

/// A client that connects, tells what it was greeted with, and then how the connection ends.
const HOLDER: &str = r#"
import errno, socket, sys
s = socket.create_connection((sys.argv[1], 7))
greeting = s.recv(6)
s.sendall(b"12345")
s.recv(6)
print(greeting.decode().strip(), flush=True)
try:
    print(s.recv(99) or "closed", flush=True)
except OSError as error:
    print(errno.errorcode[error.errno], flush=True)
"#;

/// A daemon on a ground of its own.
struct Rig {
    daemon: Option<(Daemon, Runtime)>,
    state: TempDir,
    ground: Ground,
}

impl Rig {
    fn new() -> Option<Self> {
        let ground = Ground::new()?;
        for address in [ALLOWED, OTHER, OWN] {
            ground.place.ip(&format!("address add {address}/32 dev lo"));
            ground.run(async move {
                let listener = TcpListener::bind((address, 7)).await.expect("a listener");
                tokio::spawn(greet(listener));
            });
        }
        let mut rig = Self { daemon: None, state: tempfile::tempdir().expect("a folder"), ground };
        rig.start();
        Some(rig)
    }

    fn config(&self, more: &str) -> Config {
        let text = format!(
            "state: {}\nallowProtected: [{ALLOWED}/32, {OTHER}/32]\n{more}\n",
            self.state.path().join("state").display()
        );
        Config::read(Path::new("serve.yaml"), &text, &Home::System).expect("settings")
    }

    /// Changes the settings while it runs.
    fn change(&self, more: &str) {
        let (daemon, runtime) = self.daemon.as_ref().expect("it runs");
        runtime.block_on(daemon.change(&self.config(more))).expect("a change");
    }

    fn start(&mut self) {
        let config = self.config("");
        self.daemon = Some(self.ground.place.enter(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("a runtime");
            let daemon = runtime.block_on(Daemon::open(&config, Arc::new(Fanout(Vec::new()))));
            (daemon.expect("a daemon"), runtime)
        }));
    }

    /// Ends the daemon as a crash does: nothing is said, stored or detached.
    fn crash(&mut self) {
        let (daemon, runtime) = self.daemon.take().expect("it runs");
        drop(daemon);
        runtime.shutdown_timeout(PATIENCE);
    }

    fn daemon(&self) -> Daemon {
        self.daemon.as_ref().expect("it runs").0.clone()
    }

    fn act(&self, action: Action) -> Result<SandboxView, Refusal> {
        let (daemon, runtime) = self.daemon.as_ref().expect("it runs");
        runtime.block_on(async { tokio::time::timeout(PATIENCE, daemon.act(action)).await.expect("in time") })
    }

    /// Makes a namespace, and a sandbox of the same name.
    fn create(&self, name: &'static str, policy: &str) -> SandboxView {
        self.ground.sandbox(name);
        self.act(Action::Create(draft(name, Some(policy)))).expect("a sandbox")
    }

    fn push(&self, name: &str, policy: &str) -> Result<SandboxView, Refusal> {
        self.act(Action::Replace(which(name), document(policy)))
    }

    fn view(&self, name: &str) -> SandboxView {
        self.daemon().find(&which(name)).expect("it is registered")
    }

    fn state(&self, name: &str) -> AttachmentState {
        self.view(name).attachment.expect("it has an attachment").state
    }

    /// What a client in a sandbox is told by the services at these addresses.
    fn asks<const N: usize>(&self, name: &str, addresses: [&str; N]) -> Vec<String> {
        let script = addresses.map(|address| format!("tcp {address} 7\n")).concat();
        self.ground.client(name, &script)
    }

    /// A client that keeps its connection.
    fn hold(&self, name: &str, address: &str) -> Process {
        let arguments = ["netns", "exec", name, "/usr/bin/python3", "-c", HOLDER, address];
        let mut process = self.ground.start(Command::new("ip").args(arguments));
        assert_eq!(process.line(), "hello");
        process
    }
}

fn id(name: &str) -> SandboxId {
    SandboxId::new(name).expect("a name")
}

fn which(name: &str) -> Which {
    Which::Name(id(name))
}

fn document(policy: &str) -> PolicyPush {
    PolicyPush { text: policy.to_owned(), replaces: None }
}

fn netns(name: &str) -> AttachmentSpec {
    AttachmentSpec::Netns(path(name))
}

fn draft(name: &str, policy: Option<&str>) -> Draft {
    let policy = policy.map(document);
    Draft { name: Some(id(name)), policy, attachment: Some(netns(name)), ..Draft::default() }
}

#[test]
fn a_sandbox_reaches_what_its_policy_allows_and_nothing_of_the_host() {
    let Some(rig) = Rig::new() else { return };
    rig.ground.sandbox("exd-a");
    rig.act(Action::Create(draft("exd-a", None))).expect("a sandbox");
    assert_eq!(rig.asks("exd-a", [ALLOWED]), ["ECONNRESET"], "without a policy");
    rig.push("exd-a", ALLOWING).expect("a policy");
    assert_eq!(rig.asks("exd-a", [ALLOWED, OTHER, OWN]), ["hello", "ECONNRESET", "ECONNRESET"]);
    // Even a policy that allows everything opens no address of the host.
    rig.push("exd-a", "allow-all").expect("a policy");
    assert_eq!(rig.asks("exd-a", [ALLOWED, OWN]), ["hello", "ECONNRESET"]);
    let question = Question::connect(&format!("{OWN}:7")).expect("a target");
    let explained = rig.daemon().explain(&which("exd-a"), &question).expect("a sandbox");
    assert_eq!(explained.facts.reason(), Some(DenyReason::ProtectedRange));
    let metrics = rig.daemon().metrics();
    assert!(metrics.contains("by=\"protected-range\""), "{metrics}");
}

#[test]
fn a_push_is_in_force_when_it_returns_also_for_what_was_open() {
    let Some(rig) = Rig::new() else { return };
    let first = rig.create("exd-a", ALLOWING_BOTH);
    let (mut cut, mut kept) = (rig.hold("exd-a", OTHER), rig.hold("exd-a", ALLOWED));
    assert_eq!(rig.daemon().flows(&which("exd-a")).expect("it is there").len(), 2);
    let second = rig.push("exd-a", ALLOWING).expect("a policy");
    assert_eq!(cut.line(), "ECONNRESET");
    assert!(eventually(|| rig.daemon().flows(&which("exd-a")).expect("it is there").len() == 1));
    assert_eq!((first.generation, second.generation), (1, 2));
    assert_ne!(first.revision, second.revision);

    // What does not compile, or replaces what is not there, changes nothing.
    assert!(matches!(rig.push("exd-a", "subnets: { alow: [] }"), Err(Refusal::Policy(_))));
    let stale = PolicyPush { text: "deny-all".to_owned(), replaces: Some(vec![first.revision]) };
    assert!(matches!(rig.act(Action::Replace(which("exd-a"), stale)), Err(Refusal::Conflict(_))));
    assert_eq!(rig.view("exd-a").revision, second.revision);

    let stopped = rig.act(Action::Stop(which("exd-a"))).expect("a stop");
    assert_ne!(kept.line(), "closed", "it was cut, not ended");
    assert_eq!((stopped.status, stopped.session.bytes), (Status::Stopped, Bytes { ingress: 24, egress: 10 }));
    assert!(matches!(rig.push("exd-a", ALLOWING), Err(Refusal::Stopped)));
    rig.act(Action::Delete(id("exd-a"))).expect("an end");
    assert!(rig.daemon().find(&which("exd-a")).is_none());
}

#[test]
fn two_sandboxes_do_not_see_each_other() {
    let Some(rig) = Rig::new() else { return };
    rig.create("exd-a", "allow-all");
    rig.create("exd-b", "allow-all");
    let service = "import socket
s = socket.create_server(('', 8000)); print(1, flush=True)
while True: s.accept()[0].sendall(b'seen')";
    let arguments = ["netns", "exec", "exd-b", "/usr/bin/python3", "-c", service];
    let mut process = rig.ground.start(Command::new("ip").args(arguments));
    process.line();
    let itself = rig.ground.client("exd-b", "tcp 127.0.0.1 8000");
    // By the address that every sandbox has, and by the port that every listener of ours has.
    let script = format!("tcp {SANDBOX_IPV4} 8000\ntcp {SANDBOX_IPV4} {LISTENER_PORT}\ntcp {OTHER} {LISTENER_PORT}");
    let other = rig.ground.client("exd-a", &script);
    assert_eq!((itself, other), (vec!["seen".to_owned()], vec!["ECONNRESET".to_owned(); 3]));
    assert_eq!(rig.asks("exd-b", [ALLOWED]), ["hello"]);
    rig.push("exd-a", "deny-all").expect("a policy");
    assert_eq!(rig.asks("exd-b", [ALLOWED]), ["hello"], "the other's policy is its own");
    let trust = |name: &str| rig.daemon().trust(&which(name)).expect("it is there").certificate;
    assert_ne!(trust("exd-a"), trust("exd-b"));
}

#[test]
fn equal_policies_are_one_and_a_fork_begins_with_a_copy() {
    let Some(rig) = Rig::new() else { return };
    let original = rig.create("exd-a", ALLOWING);
    rig.ground.sandbox("exd-b");
    let fork = rig.act(Action::Fork(id("exd-a"), draft("exd-b", None))).expect("a fork");
    assert_eq!(fork.revision, original.revision);
    assert_eq!(rig.asks("exd-b", [ALLOWED, OTHER]), ["hello", "ECONNRESET"]);
    rig.push("exd-b", ALLOWING_BOTH).expect("a policy");
    assert_eq!(rig.asks("exd-a", [OTHER]), ["ECONNRESET"], "the original keeps its own");
    let names: Vec<_> = rig.daemon().list().iter().map(|view| view.name.as_str().to_owned()).collect();
    assert_eq!(names, ["exd-a", "exd-b"]);
    let taken = rig.act(Action::Create(Draft { name: Some(id("exd-a")), ..Draft::default() }));
    assert!(matches!(taken, Err(Refusal::Conflict(_))), "{taken:?}");
}

#[test]
fn what_a_sandbox_may_use_can_be_changed_while_it_runs_and_survives_a_crash() {
    let Some(mut rig) = Rig::new() else { return };
    let limited = |limits: &str| Draft { limits: serde_json::from_str(limits).expect("limits"), ..Draft::default() };
    let told = |view: &SandboxView| serde_json::to_string(&view.limits).expect("text");
    rig.ground.sandbox("exd-a");
    let one = Draft { limits: limited(r#"{"flows": 1}"#).limits, ..draft("exd-a", Some(ALLOWING)) };
    assert_eq!(told(&rig.act(Action::Create(one)).expect("a sandbox")), r#"{"flows":1}"#);
    let held = rig.hold("exd-a", ALLOWED);
    assert_eq!(rig.asks("exd-a", [ALLOWED]), ["ECONNRESET"], "there is one already");
    let two = limited(r#"{"flows": 2, "dnsPerMinute": 9}"#);
    let view = rig.act(Action::Patch(id("exd-a"), two)).expect("a change");
    assert_eq!(told(&view), r#"{"flows":2,"dnsPerMinute":9}"#);
    assert_eq!(rig.asks("exd-a", [ALLOWED]), ["hello"]);
    rig.push("exd-a", ALLOWING_BOTH).expect("a policy");
    drop(held);
    rig.crash();
    rig.start();
    assert_eq!(told(&rig.view("exd-a")), r#"{"flows":2,"dnsPerMinute":9}"#, "a push leaves it alone");
    let _held = [rig.hold("exd-a", ALLOWED), rig.hold("exd-a", ALLOWED)];
    assert_eq!(rig.asks("exd-a", [ALLOWED]), ["ECONNRESET"]);
    // What the operator says for all counts where nothing else is said.
    rig.ground.sandbox("exd-b");
    let fork = Draft { limits: limited(r#"{"dnsPerMinute": 7}"#).limits, ..draft("exd-b", None) };
    rig.act(Action::Fork(id("exd-a"), fork)).expect("a fork");
    assert_eq!(rig.asks("exd-b", [ALLOWED, ALLOWED]), ["hello", "hello"]);
    rig.change("limits: { flows: 1, dnsPerMinute: 5 }");
    let _other = rig.hold("exd-b", ALLOWED);
    assert_eq!(rig.asks("exd-b", [ALLOWED]), ["ECONNRESET"]);
    assert_eq!(told(&rig.view("exd-b")), r#"{"flows":1,"dnsPerMinute":7}"#);
}

#[test]
fn an_interface_that_comes_later_quarantines() {
    let Some(rig) = Rig::new() else { return };
    rig.create("exd-a", ALLOWING);
    let mut held = rig.hold("exd-a", ALLOWED);
    rig.ground.place.ip("-n exd-a link add veth0 type veth peer name veth1");
    assert_ne!(held.line(), "closed");
    assert!(eventually(|| matches!(rig.state("exd-a"), AttachmentState::Quarantined(_))), "{:?}", rig.state("exd-a"));
    assert_ne!(rig.asks("exd-a", [ALLOWED]), ["hello"]);
    // A push does not end it; only to be attached anew does.
    rig.push("exd-a", ALLOWING_BOTH).expect("a policy");
    assert_ne!(rig.asks("exd-a", [ALLOWED]), ["hello"]);
    rig.act(Action::Detach(id("exd-a"))).expect("it is detached");
    rig.ground.place.ip("-n exd-a link delete veth0");
    rig.act(Action::Attach(id("exd-a"), netns("exd-a"))).expect("it is as it was");
    assert_eq!(rig.asks("exd-a", [ALLOWED]), ["hello"]);
}

#[test]
fn what_is_detached_leaves_no_trace_and_what_is_gone_is_noticed() {
    let Some(rig) = Rig::new() else { return };
    rig.ground.sandbox("exd-a");
    let (host, sandbox) = (rig.ground.traces(""), rig.ground.traces("exd-a"));
    let refused = rig.act(Action::Create(Draft { attachment: Some(netns("exd-z")), ..draft("exd-a", None) }));
    assert!(matches!(refused, Err(Refusal::Attach(_))), "{refused:?}");
    assert!(rig.daemon().list().is_empty(), "whole or not at all");
    rig.act(Action::Create(draft("exd-a", Some(ALLOWING)))).expect("a sandbox");
    // One identity is one sandbox's.
    let second = rig.act(Action::Create(Draft { name: Some(id("exd-b")), ..draft("exd-a", None) }));
    assert!(matches!(second, Err(Refusal::Conflict(_))), "{second:?}");
    assert_eq!(rig.asks("exd-a", [ALLOWED]), ["hello"], "whose it is keeps it");
    let view = rig.act(Action::Detach(id("exd-a"))).expect("it is detached");
    assert!(view.attachment.is_none());
    rig.ground.traces("").assert_same(&host);
    rig.ground.traces("exd-a").assert_same(&sandbox);
    rig.act(Action::Attach(id("exd-a"), netns("exd-a"))).expect("it is free");
    rig.ground.place.ip("netns delete exd-a");
    assert!(eventually(|| rig.state("exd-a") == AttachmentState::Gone), "{:?}", rig.state("exd-a"));
}

#[test]
fn after_a_crash_what_is_the_same_has_its_last_policy_and_what_is_another_nothing() {
    let Some(mut rig) = Rig::new() else { return };
    rig.create("exd-a", ALLOWING_BOTH);
    rig.create("exd-b", ALLOWING);
    rig.create("exd-c", ALLOWING);
    let pushed = rig.push("exd-a", ALLOWING).expect("a policy");
    rig.act(Action::Stop(which("exd-c"))).expect("a stop");
    let root = rig.daemon().trust(&which("exd-a")).expect("it is there");
    let mut held = rig.hold("exd-a", ALLOWED);
    rig.crash();
    assert_ne!(held.line(), "closed");
    assert_ne!(rig.asks("exd-a", [ALLOWED]), ["hello"], "nobody is there");
    // A path that is given again is another sandbox.
    rig.ground.place.ip("netns delete exd-b\nnetns add exd-b");
    rig.start();
    assert_eq!(rig.asks("exd-a", [ALLOWED, OTHER]), ["hello", "ECONNRESET"]);
    let view = rig.view("exd-a");
    assert_eq!((view.revision, view.generation, view.session.id), (pushed.revision, 2, pushed.session.id));
    assert!(matches!(rig.state("exd-b"), AttachmentState::Detached(_)), "{:?}", rig.state("exd-b"));
    assert_eq!(rig.asks("exd-b", [ALLOWED]), ["ENETUNREACH"]);
    assert_eq!(rig.view("exd-c").status, Status::Stopped);
    // Who trusted the root before can still verify what it issues: the key is the same.
    let again = rig.daemon().trust(&which("exd-a")).expect("it is there");
    assert_eq!(key(&root.certificate), key(&again.certificate));
    rig.act(Action::Attach(id("exd-b"), netns("exd-b"))).expect("the control plane says that it is the one");
    assert_eq!(rig.asks("exd-b", [ALLOWED]), ["hello"]);
}

#[test]
fn two_daemons_have_no_state_directory_in_common() {
    let Some(rig) = Rig::new() else { return };
    let text = format!("state: {}\n", rig.state.path().join("state").display());
    let config = Config::read(Path::new("serve.yaml"), &text, &Home::System).expect("settings");
    let second = rig.ground.run(async move { Daemon::open(&config, Arc::new(Fanout(Vec::new()))).await.err() });
    let told = second.expect("it is taken").to_string();
    assert!(told.contains("in use by another process"), "{told}");
}

#[test]
fn the_verb_tells_its_manager_and_heeds_signals() {
    let Some(ground) = Ground::new() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let settings = format!("state: {}\naudit: {}\n", at("state").display(), at("audit").display());
    std::fs::write(at("serve.yaml"), &settings).expect("a file");
    let manager = UnixDatagram::bind(at("notify")).expect("a socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let told = || {
        let mut word = [0; 64];
        let length = manager.recv(&mut word).expect("a word in time");
        String::from_utf8_lossy(word.get(..length).unwrap_or_default()).into_owned()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_exeat"));
    command.arg("serve").arg("--config").arg(at("serve.yaml")).env("NOTIFY_SOCKET", at("notify"));
    command.env("WATCHDOG_USEC", "20000").env_remove("WATCHDOG_PID").stderr(Stdio::piped());
    let mut child = ground.place.enter(move || command.spawn().expect("exeat"));
    assert_eq!((told(), told()), ("READY=1".to_owned(), "WATCHDOG=1".to_owned()));
    let process = Pid::from_raw(child.id().cast_signed());
    let send = |signal| kill(process, signal).expect("it runs");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();

    // Rotated: what is recorded from now on is in a new file.
    std::fs::rename(at("audit"), at("audit.1")).expect("it was opened");
    std::fs::write(at("serve.yaml"), "state: /elsewhere\n").expect("a file");
    send(Signal::SIGHUP);
    let line = lines.next().expect("a line").expect("text");
    assert!(line.contains("when the daemon is started again"), "{line}");
    assert!(at("audit").exists());
    std::fs::write(at("serve.yaml"), "staet: /elsewhere\n").expect("a file");
    send(Signal::SIGHUP);
    let line = lines.next().expect("a line").expect("text");
    assert!(line.contains("nothing is changed") && line.contains("serve.yaml:1") && line.contains("staet"), "{line}");

    send(Signal::SIGTERM);
    let mut words = std::iter::repeat_with(told);
    assert!(words.find(|word| word != "WATCHDOG=1").is_some_and(|word| word == "STOPPING=1"));
    assert_eq!(child.wait().expect("a child").code(), Some(0));
}

#[test]
fn settings_are_checked_without_serving() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("serve.yaml");
    let run = |arguments: &[&std::ffi::OsStr]| {
        Command::new(env!("CARGO_BIN_EXE_exeat")).arg("serve").args(arguments).output().expect("exeat")
    };
    let sample = run(&["--sample-config".as_ref()]);
    assert!(sample.status.success());
    std::fs::write(&file, &sample.stdout).expect("a file");
    let check = || run(&["--check-config".as_ref(), "--config".as_ref(), file.as_os_str()]);
    assert!(check().status.success());
    std::fs::write(&file, "control: { sokcet: /x }\n").expect("a file");
    let refused = check();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(125));
    assert!(told.contains("serve.yaml:1") && told.contains("sokcet"), "{told}");
}

/// The public key of a certificate, as openssl tells it.
fn key(certificate: &str) -> String {
    use std::io::Write;
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-pubkey"]).stdin(Stdio::piped());
    let mut child = openssl.stdout(Stdio::piped()).spawn().expect("openssl is installed");
    child.stdin.take().expect("a pipe").write_all(certificate.as_bytes()).expect("it reads");
    let done = child.wait_with_output().expect("it ends");
    assert!(done.status.success());
    String::from_utf8(done.stdout).expect("text")
}
