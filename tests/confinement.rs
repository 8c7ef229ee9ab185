//! What a network namespace does not confine, tried from inside: Unix sockets, the terminal, the kernel's side doors,
//! other processes, and the way back into the host. Each test asks, as every identity that this machine allows, for
//! one thing that would lead past the firewall, and is refused.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::exeat::{Identity, Outcome, Run, is_root};
use support::place::Place;
use support::{numbers_hold, skipped};

/// What the probes share: `tried(name, f)` prints `name: ok`, or the name of the error.
const PROBE: &str = r#"
import ctypes, errno, fcntl, os, socket, stat, sys
libc = ctypes.CDLL(None, use_errno=True)

def tried(name, f):
    try:
        f()
        print(f"{name}: ok")
    except OSError as error:
        print(f"{name}: {errno.errorcode.get(error.errno, error.errno)}")

def call(*arguments):
    if libc.syscall(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")

def unix(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(path)
    client.sendall(b"let me out")
"#;

/// Runs `test` with a maker of runs, once for each identity.
fn each(test: impl Fn(&dyn Fn() -> Run<'static>, Identity)) {
    static HERE: std::sync::LazyLock<Place> = std::sync::LazyLock::new(Place::here);
    for identity in Identity::all() {
        eprintln!("as {identity:?}");
        test(&|| Run::new(&HERE, identity), identity);
    }
}

/// Runs a probe and gives its lines as `name: answer`.
#[track_caller]
fn probe(run: Run<'_>, program: &str) -> Vec<(String, String)> {
    answers(&run.python(&format!("{PROBE}\n{program}")).succeeded())
}

fn answers(outcome: &Outcome) -> Vec<(String, String)> {
    let line = |line: &str| line.split_once(": ").map(|(name, answer)| (name.to_owned(), answer.to_owned()));
    outcome.stdout.lines().filter_map(line).collect()
}

#[track_caller]
fn assert_all(answers: &[(String, String)], count: usize, expected: &[&str]) {
    assert_eq!(answers.len(), count, "{answers:?}");
    for (name, answer) in answers {
        assert!(expected.contains(&answer.as_str()), "{name}: {answer}, expected one of {expected:?}");
    }
}

/// A listening socket that anybody may connect to, and what it was sent.
struct Door(mpsc::Receiver<Vec<u8>>);

impl Door {
    fn at(path: &Path) -> Self {
        let door = Self::of(UnixListener::bind(path).expect("a socket in a fresh folder"));
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("permissions");
        door
    }

    fn of(listener: UnixListener) -> Self {
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let mut said = Vec::new();
                // A client that breaks off has knocked all the same.
                let _ = client.read_to_end(&mut said);
                if send.send(said).is_err() {
                    return;
                }
            }
        });
        Self(receive)
    }

    #[track_caller]
    fn assert_shut(&self) {
        assert!(self.0.try_recv().is_err(), "somebody came through the socket");
    }
}

/// A folder that everybody may enter.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("exeat-door-").tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).expect("permissions");
    folder
}

#[test]
fn unix_sockets_bound_at_start_are_masked() {
    each(|run, _| {
        let folder = open_folder();
        for name in ["docker.sock", "bus", "agent.1234", "a name with spaces"] {
            let path = folder.path().join(name);
            let door = Door::at(&path);
            let knock = format!("tried('door', lambda: unix({path:?}))");
            assert_all(&probe(run(), &knock), 1, &["ECONNREFUSED", "ENOENT", "EACCES", "ENOTSOCK"]);
            door.assert_shut();
            let shared = probe(run().options(["--share".as_ref(), path.as_os_str()]), &knock);
            assert_all(&shared, 1, &["ok"]);
            assert_eq!(door.0.recv_timeout(support::PATIENCE).expect("the shared door opens"), b"let me out");
        }
    });
}

#[test]
fn run_and_shared_memory_are_private() {
    each(|run, _| {
        let shared = tempfile::Builder::new().prefix("exeat-rig-").tempfile_in("/dev/shm").expect("shared memory");
        let seen = probe(run(), &format!("tried('shm', lambda: open({:?}))", shared.path()));
        assert_all(&seen, 1, &["ENOENT"]);
        if !is_root() {
            skipped("a socket in /run: only root can put one there");
            return;
        }
        let path = format!("/run/exeat-rig-{}.sock", std::process::id());
        let door = Door::at(Path::new(&path));
        let seen = probe(run(), &format!("tried('bus', lambda: unix({path:?}))"));
        std::fs::remove_file(&path).expect("the socket is ours");
        assert_all(&seen, 1, &["ENOENT"]);
        door.assert_shut();
    });
}

#[test]
fn an_abstract_socket_is_out_of_reach() {
    each(|run, identity| {
        let name = format!("exeat-rig-{}-{identity:?}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let door = Door::of(UnixListener::bind_addr(&address).expect("a free abstract name"));
        let seen = probe(run(), &format!("tried('abstract', lambda: unix('\\0{name}'))"));
        assert_all(&seen, 1, &["ECONNREFUSED"]);
        door.assert_shut();
    });
}

#[test]
fn shared_memory_and_queues_outside_are_not_seen() {
    each(|run, identity| {
        // System V objects have numbers, not paths: whoever knows the key opens them.
        let key =
            format!("0x{:x}", 0x6578_0000 + (std::process::id() & 0x7fff) * 2 + u32::from(identity == Identity::Root));
        let program = format!(
            "libc.shmget.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
def get(f, *arguments):
    if f(*arguments) == -1:
        raise OSError(ctypes.get_errno(), '')
tried('memory', lambda: get(libc.shmget, {key}, 64, 0o666))
tried('queue', lambda: get(libc.msgget, {key}, 0o666))
tried('semaphore', lambda: get(libc.semget, {key}, 1, 0o666))"
        );
        let make = program.replace("0o666", "0o1666");
        let outside = |program: &str| {
            let done = Command::new("/usr/bin/python3").args(["-c", &format!("{PROBE}\n{program}")]).output();
            String::from_utf8(done.expect("python3 is installed").stdout).expect("text")
        };
        let made = outside(&make);
        let seen = probe(run(), &program);
        for (option, _) in [("-M", "memory"), ("-Q", "queue"), ("-S", "semaphore")] {
            Command::new("ipcrm").args([option, &key]).output().expect("util-linux is installed");
        }
        assert_eq!(made, "memory: ok\nqueue: ok\nsemaphore: ok\n", "the objects are there");
        assert_all(&seen, 3, &["ENOENT"]);
    });
}

#[test]
fn a_terminal_multiplexer_outside_takes_no_orders() {
    each(|run, identity| {
        let folder = open_folder();
        let (socket, proof) = (folder.path().join("tmux"), folder.path().join("proof"));
        let tmux = |arguments: &[&str]| {
            let mut command = Command::new("tmux");
            command.args(["-f", "/dev/null", "-S"]).arg(&socket).args(arguments).uid(identity.uid()).current_dir("/");
            command.output().expect("tmux is installed")
        };
        let started = tmux(&["new-session", "-d", "sleep 1000"]);
        assert!(started.status.success(), "{started:?}");
        let order = format!("tmux -S {} run-shell 'touch {}'", socket.display(), proof.display());
        let refused = run().bash(&order);
        let still_there = tmux(&["has-session"]);
        tmux(&["kill-server"]);
        assert_ne!(refused.code(), 0, "{refused:#?}");
        assert!(still_there.status.success(), "the server ran all the time");
        assert!(!proof.exists(), "the server obeyed");
    });
}

#[test]
fn the_environment_names_no_agent_bus_or_proxy() {
    each(|run, _| {
        let names =
            ["SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "DBUS_ANYTHING", "http_proxy", "HTTPS_PROXY", "no_proxy"];
        let outside = names.iter().fold(run(), |run, name| run.env(name, "/somewhere")).env("KEPT", "yes");
        let inside = outside.command(["env"]).succeeded().stdout;
        assert!(inside.contains("KEPT=yes\n"), "{inside}");
        for name in names {
            assert!(!inside.contains(&format!("{name}=")), "{name} in {inside}");
        }
    });
}

#[test]
fn the_resolver_configuration_is_ours() {
    each(|run, _| {
        let seen = run().bash("cat /etc/resolv.conf; echo ---; grep ^hosts: /etc/nsswitch.conf").succeeded().stdout;
        assert!(!seen.contains("search") && !seen.contains("domain"), "{seen}");
        assert_eq!(seen.matches("nameserver").count(), 1, "{seen}");
        let hosts = seen.lines().last().expect("a line for hosts");
        assert_eq!(hosts.split_whitespace().collect::<Vec<_>>(), ["hosts:", "files", "dns"]);
    });
}

#[test]
fn socket_families_past_ip_are_refused() {
    if !numbers_hold() {
        return;
    }
    each(|run, _| {
        let program = "
kept = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
for family in set(range(1, 64)) - kept:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        tried(f'{family}/{kind}', lambda: socket.socket(family, kind))
# The kernel reads 32 bits of the argument.
tried('high bits', lambda: call(41, ctypes.c_ulong(0x1_0000_0028), 1, 0))
";
        let seen = probe(run(), program);
        assert_all(&seen, 59 * 3 + 1, &["EAFNOSUPPORT"]);
    });
}

#[test]
fn raw_sockets_are_refused() {
    each(|run, _| {
        let program = "
for family in (socket.AF_INET, socket.AF_INET6):
    for protocol in (socket.IPPROTO_ICMP, socket.IPPROTO_TCP, socket.IPPROTO_UDP, 47, socket.IPPROTO_RAW):
        tried(f'{family}/{protocol}', lambda: socket.socket(family, socket.SOCK_RAW, protocol))
tried('ping', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP))
";
        assert_all(&probe(run(), program), 11, &["EPERM", "EACCES"]);
    });
}

#[test]
fn typing_for_the_user_is_refused() {
    if !numbers_hold() {
        return;
    }
    each(|run, _| {
        let program = "
import pty
_, slave = pty.openpty()
letter = ctypes.create_string_buffer(b'x')
for name, request in (('TIOCSTI', 0x5412), ('TIOCLINUX', 0x541c)):
    tried(name, lambda: fcntl.ioctl(slave, request, b'x'))
    tried(f'{name} with high bits', lambda: call(16, slave, ctypes.c_ulong(1 << 32 | request), letter))
";
        assert_all(&probe(run(), program), 4, &["EPERM"]);
    });
}

#[test]
fn io_uring_and_keyrings_are_refused() {
    if !numbers_hold() {
        return;
    }
    each(|run, _| {
        let program = "
parameters = ctypes.create_string_buffer(256)
tried('io_uring_setup', lambda: call(425, 8, parameters))
tried('keyctl', lambda: call(250, 0, -3, 1))
tried('add_key', lambda: call(248, b'user', b'exeat', b'x', 1, -3))
tried('request_key', lambda: call(249, b'user', b'exeat', None, -3))
for number in (41, 425, 250):
    tried(f'x32 {number}', lambda: call(number | 0x40000000, 40, 1, 0))
";
        assert_all(&probe(run(), program), 7, &["ENOSYS"]);
    });
}

#[test]
fn kernel_settings_cannot_be_written() {
    if !numbers_hold() {
        return;
    }
    each(|run, _| {
        let program = "
for path in ('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname', '/proc/sys/net/ipv4/ip_forward',
             '/proc/sys/net/ipv4/ping_group_range', '/proc/sysrq-trigger', '/sys/kernel/profiling',
             '/sys/kernel/uevent_helper', '/sys/power/state'):
    tried(path, lambda: open(path, 'w').close())
tried('remount', lambda: call(165, b'none', b'/proc/sys', b'', 0x20, None))
tried('unmount', lambda: call(166, b'/proc/sys', 2))
";
        let seen = probe(run(), program);
        assert_all(&seen, 10, &["EROFS", "EACCES", "EPERM", "ENOENT", "EINVAL"]);
    });
}

#[test]
fn processes_outside_are_neither_seen_nor_traced() {
    if !numbers_hold() {
        return;
    }
    each(|run, identity| {
        let mut outside = Command::new("sleep").arg("1000").uid(identity.uid()).spawn().expect("a process");
        let pids = [outside.id(), std::process::id()];
        let program = format!(
            "
import struct
room = ctypes.create_string_buffer(8)
for pid in {pids:?}:
    tried('kill', lambda: os.kill(pid, 0))
    tried('attach', lambda: call(101, 16, pid, 0, 0))
    tried('seize', lambda: call(101, 0x4206, pid, 0, 0))
    tried('read', lambda: open(f'/proc/{{pid}}/environ').read())
    span = struct.pack('=QQ', ctypes.addressof(room), 8)
    tried('copy', lambda: call(310, pid, span, 1, span, 1, 0))
    tried('descriptor', lambda: call(434, pid, 0))
seen = [pid for pid in os.listdir('/proc') if pid.isdigit()]
print(f'count: {{len(seen)}}')
"
        );
        let mut seen = probe(run(), &program);
        outside.kill().expect("the process is ours");
        outside.wait().expect("the process is ours");
        let (_, count) = seen.pop().expect("a count");
        assert!(count.parse::<usize>().expect("a number") <= 3, "{count} processes are seen inside");
        // A small number may name a process inside, and then nothing is proven: these are large.
        assert_all(&seen, 12, &["ESRCH", "ENOENT"]);
    });
}

#[test]
fn no_descriptor_is_inherited() {
    each(|run, _| {
        let (leak, _other) = UnixStream::pair().expect("a pair of sockets");
        let folder = File::open("/").expect("the root");
        for descriptor in [leak.as_fd(), folder.as_fd()] {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).expect("a descriptor option");
        }
        let list = "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd')))";
        let seen = run().python(&format!("{PROBE}\n{list}")).succeeded().stdout;
        for descriptor in [leak.as_fd(), folder.as_fd()] {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a descriptor option");
        }
        assert_eq!(seen.trim(), "[0, 1, 2, 3]", "3 is the listing itself");
    });
}

#[test]
fn standard_input_is_no_socket_and_no_directory() {
    each(|run, _| {
        let kinds = "
mode = os.fstat(0).st_mode
print('kind:', 'socket' if stat.S_ISSOCK(mode) else 'directory' if stat.S_ISDIR(mode) else 'other')
tried('walk', lambda: os.stat('etc', dir_fd=0))
";
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let directory = File::open("/").expect("the root");
        for stdin in [OwnedFd::from(theirs), OwnedFd::from(directory)] {
            let outcome = run().stdin_is(stdin).python(&format!("{PROBE}\n{kinds}"));
            // To refuse such a standard input is as good as to replace it.
            if outcome.code() == 125 {
                assert!(outcome.stderr.contains("standard input"), "{outcome:#?}");
                continue;
            }
            let seen = answers(&outcome.succeeded());
            assert_eq!(seen[0], ("kind".to_owned(), "other".to_owned()));
            assert_ne!(seen[1].1, "ok");
        }
        drop(ours);
    });
}

#[test]
fn a_nested_user_namespace_gains_no_power_over_the_network() {
    each(|run, _| {
        let script = "
ip -o link | wc -l
unshare --map-root-user ip link add probe type veth peer name other 2>&1 | tail -1
unshare --map-root-user ip link set lo down 2>&1 | tail -1
unshare --map-root-user ip route flush table local 2>&1 | tail -1
unshare --map-root-user --net bash -c 'echo > /dev/tcp/203.0.113.66/80 && echo connected' 2> /dev/null
nsenter --net=/proc/1/ns/net true 2>&1 | grep -oE 'not permitted|denied'
";
        let seen = run().bash(script).stdout;
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines[0], "1", "loopback is the only interface: {seen}");
        assert!(lines[1..4].iter().all(|line| line.ends_with("Operation not permitted")), "{seen}");
        assert!(!lines.contains(&"connected"), "{seen}");
        assert!(lines.last().is_some_and(|last| ["not permitted", "denied"].contains(last)), "{seen}");
    });
}

#[test]
fn the_rules_cannot_be_flushed_from_inside() {
    if !numbers_hold() {
        return;
    }
    each(|run, _| {
        // NFT_MSG_DELTABLE in a batch, as `nft flush ruleset` sends it; needs no `nft` on this machine.
        let program = "
import struct
def flush():
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    s.settimeout(10)
    def message(kind, flags, sequence, body):
        return struct.pack('=IHHII', 16 + len(body), kind, flags, sequence, 0) + body
    nested = struct.pack('=BBH', 0, 0, socket.htons(10))
    every_table = message(10 << 8 | 2, 5, 1, struct.pack('=BBH', 0, 0, 0))
    batch = message(16, 1, 0, nested) + every_table + message(17, 1, 2, nested)
    s.send(batch)
    while True:
        answer = s.recv(8192)
        while answer:
            length, kind = struct.unpack_from('=IH', answer)
            if kind == 2:
                code, = struct.unpack_from('=i', answer, 16)
                if code:
                    raise OSError(-code, '')
                return
            answer = answer[(length + 3) // 4 * 4:]
tried('flush', flush)
pid = os.fork()
if pid == 0:
    tried('own user namespace', lambda: call(272, 0x10000000))
    tried('flush in it', flush)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
";
        let seen = probe(run(), program);
        let answer = |name: &str| seen.iter().find(|(other, _)| other == name).map(|(_, answer)| answer.as_str());
        assert_eq!((answer("flush"), answer("flush in it")), (Some("EPERM"), Some("EPERM")), "{seen:?}");
    });
}

#[test]
fn root_inside_is_nobody_outside() {
    if !is_root() {
        skipped("what root is inside: it takes root");
        return;
    }
    if !numbers_hold() {
        return;
    }
    each(|run, identity| {
        let secret = tempfile::NamedTempFile::new().expect("a file of root, for root alone");
        let program = format!(
            "print('uid:', os.getuid())\ntried('file of root', lambda: open({:?}).read())\n\
             tried('shadow', lambda: open('/etc/shadow').read())\ntried('reboot', lambda: call(169, 0, 0, 0))\n\
             tried('mount', lambda: call(165, b'none', b'/mnt', b'tmpfs', 0, None))\n\
             tried('setuid', lambda: os.setresuid(0, 1, 2))",
            secret.path()
        );
        let mut seen = probe(run(), &program);
        assert_eq!(seen.remove(0).1, identity.uid().to_string(), "the same uid as outside");
        assert_all(&seen, 5, &["EACCES", "EPERM", "EINVAL"]);
    });
}

#[test]
fn well_known_credentials_are_masked_unless_exposed() {
    each(|run, _| {
        let furnish = |run: Run<'static>| {
            for folder in ["home/.ssh", "home/.aws"] {
                let path = run.folder().join(folder);
                std::fs::create_dir(&path).expect("a folder in home");
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("permissions");
            }
            let files =
                ["home/.ssh/id_ed25519", "home/.aws/credentials", "home/.netrc", "home/.git-credentials", "home/plain"];
            let run = files.iter().fold(run, |run, name| run.file(name, "canary-in-a-file"));
            for name in files {
                let path = run.folder().join(name);
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("permissions");
            }
            run
        };
        let outcome = furnish(run()).bash("cd home; grep -rl canary . 2> /dev/null; true").succeeded();
        assert_eq!(outcome.stdout, "./plain\n");
        let run = furnish(run());
        let netrc = run.folder().join("home/.netrc");
        let outcome = run.options(["--expose".as_ref(), netrc.as_os_str()]).command(["cat", "home/.netrc"]).succeeded();
        assert_eq!(outcome.stdout, "canary-in-a-file");
    });
}

/// The canary's two values: one in a variable, one in a file.
const CANARIES: [&str; 2] = ["canary-kae7ohr0aiw4", "canary-oow3quie8tha"];

/// A run whose policy names two secrets.
fn with_canaries(run: Run<'static>) -> Run<'static> {
    let run = run.env("CANARY_TOKEN", CANARIES[0]).env("ALSO", &format!("https://user:{}@host/", CANARIES[0]));
    // The policy names the file by a link; what is masked is the file.
    let run = run.file("canary.txt", CANARIES[1]);
    let path = run.folder().join("link.txt");
    std::os::unix::fs::symlink("canary.txt", &path).expect("a link in the run's folder");
    run.policy(&format!(
        "
version: 1
allow:
  allowed.rig:
    - transform: [{{ headers: {{ x-one: \"${{secrets.ONE}}\", x-two: \"${{secrets.TWO}}\" }} }}]
secrets:
  ONE: {{ env: CANARY_TOKEN }}
  TWO: {{ file: {} }}
",
        path.display()
    ))
}

#[test]
fn no_secret_is_anywhere_inside() {
    each(|run, _| {
        // Assembled, so that the search does not find itself.
        let program = format!(
            "
import glob, re
needles = [('canary-' + tail).encode() for tail in {tails:?}]
own = str(os.getpid())

control = False

def look(where, data):
    global control
    control = control or b'what-may-be-found' in data
    for needle in needles:
        if needle in data:
            print(f'FOUND in {{where}}')

def memory(pid):
    with open(f'/proc/{{pid}}/maps') as maps, open(f'/proc/{{pid}}/mem', 'rb') as mem:
        for line in maps:
            span, rights = line.split()[:2]
            low, high = (int(end, 16) for end in span.split('-'))
            if rights[0] == 'r' and high - low < 1 << 28:
                try:
                    mem.seek(low)
                    look(f'memory of {{pid}}', mem.read(high - low))
                except (OSError, OverflowError, ValueError):
                    pass

for pid in [p for p in os.listdir('/proc') if p.isdigit()]:
    for name in ('environ', 'cmdline', 'comm', 'auxv'):
        try:
            look(f'{{name}} of {{pid}}', open(f'/proc/{{pid}}/{{name}}', 'rb').read())
        except OSError:
            pass
    if pid != own:
        try:
            memory(pid)
        except OSError:
            pass
for folder, _, names in os.walk(os.getcwd()):
    for name in names:
        try:
            look(os.path.join(folder, name), open(os.path.join(folder, name), 'rb').read())
        except OSError:
            pass
for value in os.environ.values():
    look('environment', value.encode())
print('searched', control)
",
            tails = CANARIES.map(|canary| canary.trim_start_matches("canary-"))
        );
        let run_with_control = with_canaries(run()).env("CONTROL", "what-may-be-found");
        let outcome = run_with_control.python(&format!("{PROBE}\n{program}")).succeeded();
        assert_eq!(outcome.stdout, "searched True\n");
        let outcome = with_canaries(run()).bash("cat policy.yaml canary.txt audit.jsonl; env; cat /proc/1/environ");
        for text in [&outcome.stdout, &outcome.stderr, &outcome.audit] {
            assert!(!text.contains("canary-"), "{outcome:#?}");
            assert!(!text.contains("secrets.ONE"), "the policy is masked: {outcome:#?}");
        }
    });
}

#[test]
fn no_secret_is_in_what_exeat_shows_of_itself() {
    each(|run, identity| {
        let (_, most) = getrlimit(Resource::RLIMIT_CORE).expect("a limit");
        setrlimit(Resource::RLIMIT_CORE, most, most).expect("a limit may be raised to its ceiling");
        let running = with_canaries(run()).start(["bash", "-c", "echo up; sleep 1000"]);
        running.says("up");
        if identity == Identity::Root {
            skipped("reading exeat's memory as root: no process can refuse it");
        } else {
            for name in ["environ", "mem", "maps", "fd"] {
                let path = format!("/proc/{}/{name}", running.pid());
                let look = format!("test -d {path} && ls {path} || head -c 1 {path}");
                let looked = Command::new("bash").args(["-c", &look]).uid(identity.uid()).output().expect("bash");
                assert!(looked.stdout.is_empty(), "{path} is open: {looked:?}");
                assert!(String::from_utf8_lossy(&looked.stderr).contains("denied"), "{looked:?}");
            }
        }
        running.signal(nix::sys::signal::Signal::SIGABRT);
        let outcome = running.wait();
        assert!(!outcome.status.core_dumped(), "{outcome:#?}");
        for text in [&outcome.stdout, &outcome.stderr, &outcome.audit] {
            assert!(!text.contains("canary-"), "{outcome:#?}");
        }
    });
}
