//! Ways out of the confinement that were tried by hand against it, kept as programs: each runs inside a real sandbox
//! under deny-all, as every user that this machine allows, and is refused.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use support::exeat::{Identity, Run, binary, is_root};
use support::place::Place;
use support::{numbers_hold, skipped};

fn each(test: impl Fn(Run<'_>, Identity)) {
    for identity in Identity::all() {
        test(Run::new(&Place::here(), identity).options(["--mode", "deny-all", "--quiet"]), identity);
    }
}

/// Every line that the program wrote, of which each must be `refused`.
#[track_caller]
fn assert_refused(stdout: &str, attempts: usize) {
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines.len(), attempts, "{stdout}");
    for line in lines {
        assert!(line.ends_with(" refused"), "{line}");
    }
}

/// Python for what every program needs: system calls by number, and a line for each attempt.
const PRELUDE: &str = "
import ctypes, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    return libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
def attempt(name, act):
    try: done = act()
    except OSError: done = -1
    print(name, 'refused' if done == -1 else 'DONE', flush=True)
";

/// A process outside that serves Unix sockets: one bound by its whole path, one relative to its working directory.
struct Outside(Child);

impl Outside {
    fn serve(folder: &Path, identity: Identity) -> Self {
        let program = "
import os, socket, sys, time
sockets = [socket.socket(socket.AF_UNIX) for _ in range(2)]
for listening, path in zip(sockets, (os.getcwd() + '/whole.sock', 'relative.sock')):
    listening.bind(path); listening.listen()
print('ready', flush=True)
sys.stdin.read()";
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", program]).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        if identity == Identity::User {
            command.uid(identity.uid()).gid(identity.uid());
        }
        let mut child = command.spawn().expect("python3 is installed");
        let mut ready = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut ready).expect("it says so");
        assert_eq!(ready, "ready\n");
        Self(child)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("a child to wait for");
    }
}

#[test]
fn a_host_socket_is_masked_whichever_way_its_path_was_bound() {
    each(|run, identity| {
        let _outside = Outside::serve(run.folder(), identity);
        let program = format!(
            "{PRELUDE}
for path in ('whole.sock', 'relative.sock', os.getcwd() + '/relative.sock'):
    attempt(path, lambda: socket.socket(socket.AF_UNIX).connect(path))"
        );
        assert_refused(&run.python(&program).succeeded().stdout, 3);
    });
}

#[test]
fn a_masked_path_is_masked_at_every_mount_of_its_tree() {
    if !is_root() {
        skipped("a tree mounted twice: it takes root");
        return;
    }
    for identity in Identity::all() {
        let place = Place::fresh();
        let run = Run::new(&place, identity).options(["--mode", "deny-all", "--quiet"]);
        let (tree, alias) = (run.folder().to_owned(), tempfile::tempdir().expect("a folder"));
        let over = alias.path().to_owned();
        std::fs::set_permissions(&over, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permissions");
        place.enter(move || {
            mount(Some(&tree), &over, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("a bind mount");
        });
        let run = run.file("home/.netrc", "a credential");
        let tree = run.folder().to_owned();
        // Where exeat is, for its table of sockets is its network namespace's.
        let _outside = place.enter(move || Outside::serve(&tree, identity));
        let program = format!(
            "{PRELUDE}
alias = {:?}
for path in ('whole.sock', alias + '/whole.sock', alias + '/relative.sock'):
    attempt(path, lambda: socket.socket(socket.AF_UNIX).connect(path))
for path in ('home/.netrc', alias + '/home/.netrc'):
    attempt(path, lambda: open(path).read() or -1)",
            alias.path()
        );
        assert_refused(&run.python(&program).succeeded().stdout, 5);
    }
}

#[test]
fn nested_namespaces_undo_no_mask() {
    if !numbers_hold() {
        return;
    }
    each(|run, identity| {
        let _outside = Outside::serve(run.folder(), identity);
        let program = format!(
            "{PRELUDE}
NEWNS, NEWUSER, OPEN_TREE, MOVE_MOUNT, SETATTR = 0x20000, 0x10000000, 428, 429, 442
folder, mask = os.getcwd().encode(), os.getcwd().encode() + b'/whole.sock'
assert call(272, NEWUSER | NEWNS) == 0, 'a nested namespace can be made'
other = b'/mnt'
def path(name): return ctypes.c_char_p(name)
def mounted(*arguments): return call(165, *arguments)
attempt('unmount a mask', lambda: call(166, path(mask), 2))
attempt('unmount /run', lambda: call(166, path(b'/run'), 2))
attempt('bind without what is mounted below', lambda: mounted(path(folder), path(other), 0, 4096, 0))
attempt('clone without what is mounted below', lambda: call(OPEN_TREE, -100, path(folder), 1))
attempt('move a mask away', lambda: call(MOVE_MOUNT, -100, path(mask), -100, path(other), 0))
lower = b'lowerdir=' + folder + b':/usr'
attempt('overlay', lambda: mounted(path(b'o'), path(other), path(b'overlay'), 0, path(lower)))
writable = struct.pack('4Q', 0, 1, 0, 0)
for place in (b'/sys', b'/proc/sys', b'/run/exeat', mask):
    attempt(f'make {{place}} writable', lambda: call(SETATTR, -100, path(place), 0, path(writable), 32))
attempt('rename a mask', lambda: os.rename(mask, mask + b'2'))
attempt('remove a mask', lambda: os.unlink(mask))
attempt('link a mask', lambda: os.link(mask, mask + b'3'))
attempt('mount devtmpfs', lambda: mounted(path(b'd'), path(other), path(b'devtmpfs'), 0, 0))
pid = os.fork() if call(272, 0x20000000) == 0 else 1
if pid == 0:
    attempt('mount a new proc', lambda: mounted(path(b'p'), path(other), path(b'proc'), 0, 0))
    os._exit(0)
os.waitpid(pid, 0)
attempt('connect', lambda: socket.socket(socket.AF_UNIX).connect(mask))"
        );
        assert_refused(&run.python(&program).succeeded().stdout, 16);
    });
}

#[test]
fn process_1_is_neither_read_nor_traced_nor_ended() {
    if !numbers_hold() {
        return;
    }
    each(|run, _| {
        let program = format!(
            "{PRELUDE}
import signal
for number in (*range(1, 32), 34, 64):
    try: os.kill(1, number)
    except OSError: pass
pidfd = call(434, 1, 0)
attempt('attach', lambda: call(101, 16, 1, 0, 0))
attempt('seize', lambda: call(101, 0x4206, 1, 0, 0))
for fd in range(8):
    attempt(f'take descriptor {{fd}}', lambda: call(438, pidfd, fd, 0))
attempt('enter by pidfd', lambda: call(308, pidfd, 0x40000000))
room = ctypes.create_string_buffer(8)
vector = ctypes.c_char_p(struct.pack('QQ', ctypes.addressof(room), 8))
attempt('read memory', lambda: call(310, 1, vector, 1, vector, 1, 0))
for name in ('environ', 'mem', 'maps', 'auxv', 'fd', 'fd/0', 'root', 'root/run', 'cwd', 'exe', 'ns/net', 'ns/user'):
    attempt(name, lambda: os.open('/proc/1/' + name, os.O_RDONLY))"
        );
        assert_refused(&run.python(&program).succeeded().stdout, 24);
    });
}

#[test]
fn no_other_numbering_of_system_calls_reaches_a_socket() {
    if !numbers_hold() {
        return;
    }
    each(|run, _| {
        let program = format!(
            "{PRELUDE}
attempt('a family with high bits', lambda: call(41, (1 << 32) | 40, 1, 0))
attempt('x32', lambda: call(0x40000000 + 41, 40, 1, 0))
attempt('x32, sign extended', lambda: call(0x40000000 + 41 - (1 << 32), 40, 1, 0))
import mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
# mov eax, 359 (socket); mov ebx, 40; mov ecx, 1; xor edx, edx; int 0x80; ret; rbx is kept.
code.write(bytes.fromhex('53b867010000bb28000000b90100000031d2cd805bc3'))
pid = os.fork()
if pid == 0:
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    os._exit(0)
ended = os.waitpid(pid, 0)[1]
attempt('32-bit call', lambda: -1 if os.WIFSIGNALED(ended) else 0)"
        );
        assert_refused(&run.python(&program).succeeded().stdout, 4);
    });
}

#[test]
fn a_real_time_signal_ends_its_process_and_nothing_else() {
    each(|run, _| {
        let script = "
            (setsid bash -c 'echo $$ >/dev/shm/orphan; kill -40 $$' &)
            until [ -s /dev/shm/orphan ] && ! [ -e /proc/$(cat /dev/shm/orphan) ]; do :; done
            echo alive";
        assert_eq!(run.bash(script).succeeded().stdout, "alive\n");
    });
    each(|run, _| drop(run.bash("kill -40 $$").exited(128 + 40)));
}

/// Runs a shell line on a terminal of its own, and returns what the terminal showed and the line's exit code.
fn on_a_terminal(line: &str) -> (String, i32) {
    let program = "
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0: os.execvp('bash', ['bash', '--norc', '-ic', sys.argv[1]])
shown = b''
while True:
    try: read = os.read(terminal, 4096)
    except OSError: break
    if not read: break
    shown += read
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))";
    let done = Command::new("timeout").args(["60", "/usr/bin/python3", "-c", program, line]).output();
    let done = done.expect("python3 is installed");
    (String::from_utf8_lossy(&done.stdout).into_owned(), done.status.code().expect("it ended"))
}

#[test]
fn a_terminal_that_nobody_holds_open_loses_nothing() {
    let exeat = binary().display();
    let inside = "exec </dev/null >/dev/null 2>&1; sleep 0.2; head -c 20000 /dev/zero | tr '\\0' x >/dev/tty; exit 5";
    let (shown, code) = on_a_terminal(&format!("{exeat} run --mode deny-all --quiet -- bash -c \"{inside}\""));
    assert_eq!((shown.matches('x').count(), code), (20_000, 5));
}

#[test]
fn in_the_background_of_a_terminal_the_command_runs_on() {
    let exeat = binary().display();
    let line =
        format!("{exeat} run --mode deny-all --quiet -- bash -c 'echo one; sleep 0.3; echo two; exit 4' & wait $!");
    let (shown, code) = on_a_terminal(&line);
    assert!(shown.contains("one") && shown.contains("two") && !shown.contains("Stopped"), "{shown}");
    assert_eq!(code, 4);
}
