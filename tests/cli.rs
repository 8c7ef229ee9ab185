//! `exeat` as a command: exit codes, signals, streams and terminal; errors before anything is made; the summary, the
//! audit file; and what is left when it is gone.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::sync::LazyLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::eventually;
use support::exeat::{Identity, Outcome, Run};
use support::place::Place;
use support::world::World;

/// Runs `test` with a maker of runs, once for each identity.
fn each(test: impl Fn(&dyn Fn() -> Run<'static>)) {
    static HERE: LazyLock<Place> = LazyLock::new(Place::here);
    for identity in Identity::all() {
        eprintln!("as {identity:?}");
        test(&|| Run::new(&HERE, identity));
    }
}

#[test]
fn the_commands_exit_code_is_ours() {
    each(|run| {
        for code in [0, 1, 3, 124, 255] {
            run().bash(&format!("exit {code}")).exited(code);
        }
        run().bash("kill -TERM $$").exited(128 + 15);
        run().bash("kill -KILL $$").exited(128 + 9);
    });
}

#[test]
fn a_command_that_cannot_run_is_126_or_127() {
    each(|run| {
        let missing = run().command(["no-such-command-anywhere"]).exited(127);
        assert!(missing.stderr.contains("no-such-command-anywhere"), "{missing:#?}");
        let plain = run().file("plain", "text").command(["./plain"]).exited(126);
        assert!(plain.stderr.contains("./plain"), "{plain:#?}");
        run().command(["/"]).exited(126);
        run().command(["./absent"]).exited(127);
    });
}

#[test]
fn what_ended_a_sandbox_that_says_no_more_is_told() {
    each(|run| {
        let running = run().start(["bash", "-c", "echo up; sleep 1000"]);
        running.says("up");
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.pid()));
        let first: i32 = children.expect("its children").trim().parse().expect("the first process alone");
        kill(Pid::from_raw(first), Signal::SIGKILL).expect("it runs");
        let outcome = running.wait().exited(125);
        assert!(outcome.stderr.contains("the sandbox is gone"), "{outcome:#?}");
        assert!(outcome.stderr.contains("(its first process was killed by SIGKILL)"), "{outcome:#?}");
    });
}

/// Undoes what a background job of a shell inherits, and no program of the tests could: an ignored SIGINT.
const UNIGNORED: [&str; 2] = ["env", "--default-signal"];

#[test]
fn signals_reach_the_command() {
    each(|run| {
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGUSR1] {
            let name = signal.as_str().trim_start_matches("SIG");
            let script = format!("trap 'echo caught; exit 7' {name}; echo up; while :; do sleep 0.1; done");
            let running = run().under(UNIGNORED).start(["bash", "-c", &script]);
            running.says("up");
            running.signal(signal);
            let outcome = running.wait().exited(7);
            assert_eq!(outcome.stdout, "up\ncaught\n");
        }
    });
}

#[test]
fn streams_pass_unchanged_and_apart() {
    each(|run| {
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 94 + 33) as u8).collect();
        let script = "data=$(cat); printf %s \"$data\"; printf %s \"$data\" >&2";
        let outcome = run().options(["--quiet"]).stdin(bytes.clone()).bash(script).succeeded();
        assert!(outcome.stdout.as_bytes() == bytes, "{} bytes of {}", outcome.stdout.len(), bytes.len());
        assert!(outcome.stderr.as_bytes() == bytes, "{} bytes of {}", outcome.stderr.len(), bytes.len());
        assert_eq!(run().bash("cat; echo end").succeeded().stdout, "end\n");
    });
}

#[test]
fn place_and_identity_are_kept() {
    each(|run| {
        let run = run();
        let folder = run.folder().to_owned();
        let outside = std::process::Command::new("hostname").output().expect("hostname");
        let outcome = run.bash("pwd; test -w home && echo writable; hostname; echo $$").succeeded();
        let lines: Vec<&str> = outcome.stdout.lines().collect();
        assert_eq!(lines[0], folder.to_str().expect("UTF-8"));
        assert_eq!(lines[lines.len() - 2], String::from_utf8_lossy(&outside.stdout).trim(), "the host's name");
    });
}

/// One bad thing, and what the error must say.
#[track_caller]
fn rejected(run: Run<'static>, says: &[&str]) {
    let temporary = run.folder().join("tmp");
    std::fs::create_dir(&temporary).expect("a folder");
    let run = run.env("TMPDIR", temporary.to_str().expect("UTF-8"));
    let outcome = run.start(["touch", "home/started"]);
    let started = outcome.folder().join("home/started");
    let left = || std::fs::read_dir(&temporary).map_or(0, Iterator::count);
    let outcome_left = outcome.wait().exited(125);
    assert!(!started.exists() && left() == 0, "something was begun: {outcome_left:#?}");
    for text in says {
        assert!(outcome_left.stderr.contains(text), "no `{text}` in {outcome_left:#?}");
    }
    assert!(outcome_left.stdout.is_empty() && !outcome_left.stderr.contains("panicked"), "{outcome_left:#?}");
}

#[test]
fn bad_input_is_one_clear_error() {
    each(|run| {
        rejected(run().options(["--policy", "absent.yaml"]), &["absent.yaml"]);
        rejected(run().policy("version: 1\nalow: [a.rig]\n"), &["policy.yaml", "2", "alow"]);
        rejected(run().policy("subnets: { allow: [10.0.0.0/33] }\n"), &["policy.yaml", "10.0.0.0/33"]);
        rejected(run().policy("allow: [a.rig\n"), &["policy.yaml"]);
        rejected(run().policy("version: 2\n"), &["version"]);
        rejected(run().options(["--allow", "https://a.rig/"]), &["https://a.rig/"]);
        rejected(run().options(["--allow", "10.1.2.3"]), &["10.1.2.3"]);
        rejected(run().options(["--allow-cidr", "10.0.0.0/33"]), &["10.0.0.0/33"]);
        rejected(run().options(["--allow-cidr", "nonsense"]), &["nonsense"]);
        rejected(run().options(["--deny-cidr", "1.2.3"]), &["1.2.3"]);
        rejected(run().options(["--allow-protected", "x"]), &["x"]);
        rejected(run().options(["--resolve", "a.rig:443"]), &["a.rig:443"]);
        rejected(run().options(["--upstream-ca", "absent.pem"]), &["absent.pem"]);
        rejected(run().options(["--mode", "allow-all", "--allow", "a.rig"]), &["mode"]);
        rejected(run().options(["--mode", "some"]), &["some"]);
        rejected(run().unaudited().options(["--audit", "/nonexistent/folder/audit"]), &["/nonexistent/folder/audit"]);
        rejected(run().options(["--frobnicate"]), &["--frobnicate"]);
    });
}

#[test]
fn a_secret_that_cannot_be_had_is_an_error_before_the_start() {
    let policy = |source: &str| {
        format!(
            "version: 1\nallow:\n  a.rig:\n    - transform: [{{ headers: {{ x: \"${{secrets.KEY}}\" }} }}]\n\
             secrets: {{ KEY: {{ {source} }} }}\n"
        )
    };
    each(|run| {
        rejected(run().policy(&policy("env: RIG_ABSENT")), &["KEY", "RIG_ABSENT"]);
        rejected(run().policy(&policy("file: /absent/key")), &["KEY", "/absent/key"]);
    });
}

#[test]
fn every_fault_of_a_policy_is_told_at_once() {
    each(|run| {
        let policy = "version: 1\nallow: [\"a..b\", \"10.1.2.3\"]\nsubnets: { deny: [nonsense] }\n";
        rejected(run().policy(policy), &["a..b", "10.1.2.3", "nonsense", ":2", ":3"]);
    });
}

#[test]
fn the_readmes_policy_is_one() {
    let readme = include_str!("../README.md");
    let policy = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a policy");
    each(|run| {
        run().policy(policy).env("GITHUB_TOKEN", "token").command(["true"]).succeeded();
        rejected(run().policy(policy), &["GITHUB_TOKEN"]);
    });
}

#[test]
fn a_machine_without_user_namespaces_is_told_the_remedy() {
    const FORBID: &str = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let forbidden =
        |run: Run<'static>| run.under(["unshare", "--user", "--map-root-user", "bash", "-c", FORBID, "bash"]);
    each(|run| {
        rejected(forbidden(run()), &["namespace", "user.max_user_namespaces"]);
        let doctor = forbidden(run().verb("doctor")).start::<&str>([]).wait();
        assert_ne!(doctor.code(), 0, "{doctor:#?}");
        let said = format!("{}{}", doctor.stdout, doctor.stderr);
        assert!(said.contains("FAILS") && said.contains("user.max_user_namespaces"), "{doctor:#?}");
    });
}

#[test]
fn no_command_is_an_error() {
    each(|run| {
        let outcome = run().start::<&str>([]).wait().exited(125);
        assert!(outcome.stderr.contains("CMD") || outcome.stderr.contains("command"), "{outcome:#?}");
    });
}

#[test]
fn the_summary_tells_what_happened_and_what_would_allow_it() {
    World::each(|world| {
        let script = "curl --silent http://allowed.rig/ > /dev/null; curl --silent http://evil.rig/ > /dev/null";
        let outcome = world.run().allow("allowed.rig").bash(script).succeeded();
        for text in ["allowed.rig", "evil.rig", "no-rule", "--allow evil.rig"] {
            assert!(outcome.stderr.contains(text), "no `{text}` in {}", outcome.stderr);
        }
        let quiet = world.run().allow("allowed.rig").options(["--quiet"]).bash("curl --silent http://evil.rig/");
        assert_eq!(quiet.stderr, "");
    });
}

#[test]
fn the_audit_file_has_one_record_a_line() {
    World::each(|world| {
        let policy = "
version: 1
allow:
  allowed.rig:
    - match: { path: { startsWith: /rule } }
      transform: [{ headers: { X-Rig: v } }]
deny: [evil.rig]
";
        let script = "curl --silent --fail 'https://allowed.rig/rule?secret=query' > /dev/null
            curl --silent --insecure https://evil.rig/ > /dev/null; true";
        let outcome = world.run().policy(policy).bash(script).succeeded();
        let allowed = outcome.verdicts(&[("verdict", "allow"), ("name", "allowed.rig"), ("path", "/rule")]);
        assert_eq!(allowed.len(), 1, "{outcome:#?}");
        let record = &allowed[0];
        assert_eq!(record["route"], "terminate");
        assert_eq!(record["injected"], serde_json::json!(["x-rig"]));
        assert_eq!((&record["method"], &record["port"]), (&"GET".into(), &443.into()));
        assert!(record["rule"].as_str().is_some_and(|rule| rule.contains("policy.yaml:")), "{record}");
        let time = record["time"].as_str().expect("a time");
        assert!(time.len() >= 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
        outcome.assert_denied("denied-domain", &[("name", "evil.rig")]);
        let flow = &record["flow"];
        let closes: Vec<_> =
            outcome.records().into_iter().filter(|r| r["event"] == "close" && r["flow"] == *flow).collect();
        assert_eq!(closes.len(), 1, "{outcome:#?}");
        assert!(!outcome.audit.contains("query"), "a query may hold secrets");
    });
}

#[test]
fn observing_lets_through_and_records() {
    World::each(|world| {
        let outcome =
            world.run().allow("allowed.rig").options(["--observe"]).curl(["http://evil.rig/observed"]).succeeded();
        assert_eq!(world.evil.http.requests().len(), 1);
        outcome.assert_denied("no-rule", &[("observed", "true"), ("name", "evil.rig"), ("path", "/observed")]);
    });
}

#[test]
fn the_audit_goes_to_standard_output_where_asked() {
    each(|run| {
        let run = run().unaudited().options(["--audit", "-", "--quiet"]);
        let outcome = run.bash("exec 3<> /dev/tcp/203.0.113.66/80; true").succeeded();
        let records: Vec<serde_json::Value> =
            outcome.stdout.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        assert!(records.iter().any(|record| record["reason"] == "deny-all"), "{outcome:#?}");
    });
}

/// Whether a process with this word among its arguments is there.
fn is_alive(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    processes.flatten().any(|process| {
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        arguments.split(|&byte| byte == 0).any(|argument| argument == word.as_bytes())
    })
}

/// The network namespaces that any process is in.
fn networks() -> Vec<std::path::PathBuf> {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    processes.flatten().filter_map(|process| std::fs::read_link(process.path().join("ns/net")).ok()).collect()
}

#[test]
fn nothing_is_left_behind_however_it_ends() {
    each(|run| {
        for (number, signal) in [None, Some(Signal::SIGKILL)].into_iter().enumerate() {
            let run = run();
            let temporary = run.folder().join("home");
            let mounts = || std::fs::read_to_string("/proc/self/mountinfo").expect("/proc").lines().count();
            let before = mounts();
            // A length of sleep that no other process has.
            let word = format!("{}.{number}", 1_000_000 + std::process::id());
            let script = format!("sleep {word} & setsid sleep {word} & readlink /proc/self/ns/net; echo up; read -r");
            let (reader, writer) = std::io::pipe().expect("a pipe");
            let running =
                run.env("TMPDIR", temporary.to_str().expect("UTF-8")).stdin_is(reader).start(["bash", "-c", &script]);
            running.says("up");
            assert!(is_alive(&word));
            let network = running.stdout().lines().next().expect("a namespace").to_owned();
            match signal {
                Some(signal) => running.signal(signal),
                None => drop(writer),
            }
            let folder = running.folder().to_owned();
            let left = std::fs::read_dir(folder.join("home")).expect("a folder").count();
            running.wait();
            assert!(eventually(|| !is_alive(&word)), "a process lives on after {signal:?}");
            assert!(eventually(|| !networks().contains(&network.clone().into())), "the namespace lives on");
            assert!(mounts() == before && left == 0, "mounts or files are left after {signal:?}");
        }
    });
}

#[test]
fn doctor_says_whether_this_machine_will_do() {
    each(|run| {
        let outcome = run().verb("doctor").start::<&str>([]).wait().succeeded();
        for text in ["user, network, mount", "TPROXY", "filter of system calls", ".ssh"] {
            assert!(outcome.stdout.contains(text), "no `{text}` in {outcome:#?}");
        }
    });
}

/// Drives a terminal: `send` types, `expect` waits for text on the screen.
const TERMINAL: &str = r#"
import fcntl, os, pty, select, signal, struct, sys, termios, time

child, screen = pty.fork()
if child == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
seen = b""

def resize(rows, columns):
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

def send(text):
    os.write(screen, text.encode())

def expect(text, patience=50):
    global seen
    limit = time.monotonic() + patience
    while text.encode() not in seen:
        if not select.select([screen], [], [], max(0, limit - time.monotonic()))[0]:
            print("no", repr(text), "in", seen)
            os.kill(child, signal.SIGKILL)
            sys.exit(1)
        try:
            seen += os.read(screen, 4096)
        except OSError:
            print("ended without", repr(text), "in", seen)
            sys.exit(1)
    seen = seen.split(text.encode(), 1)[1]

def ended():
    while True:
        try:
            if not os.read(screen, 4096):
                break
        except OSError:
            break
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"#;

fn on_a_terminal(run: Run<'static>, command: &[&str], script: &str) -> Outcome {
    let program = format!("{TERMINAL}\n{script}");
    run.under([&UNIGNORED[..], &["/usr/bin/python3", "-c", &program]].concat()).env("TERM", "xterm").command(command)
}

/// An interactive shell without anybody's configuration.
const SHELL: [&str; 4] = ["bash", "--noprofile", "--norc", "-i"];

#[test]
fn an_interactive_shell_has_job_control() {
    each(|run| {
        let script = r#"
PROMPT = '# ' if os.getuid() == 0 else '$ '
resize(40, 100)
expect(PROMPT)
send("echo size=$(stty size) tty=$(tty | cut -c1-5)\n")
expect("size=40 100 tty=/dev/")
send("bash -c 'trap \"echo conti''nued\" CONT; echo beg''un; while :; do sleep 0.1; done'\n")
expect("begun")
send("\x1a")
expect("Stopped")
send("jobs; echo lis''ted\n")
expect("Stopped")
expect("listed")
send("fg\n")
expect("continued")
send("\x03")
expect(PROMPT)
send("echo code=$?\n")
expect("code=130")
resize(50, 120)
send("while [ \"$(stty size)\" != '50 120' ]; do sleep 0.1; done; echo resi''zed\n")
expect("resized")
send("exit 5\n")
print("ended", ended())
"#;
        let outcome = on_a_terminal(run(), &SHELL, script).succeeded();
        assert!(outcome.stdout.contains("ended 5"), "{outcome:#?}");
    });
}

#[test]
fn the_terminal_inside_is_another() {
    each(|run| {
        // Its devices are the sandbox's own: the terminal outside has no name here.
        let script = "expect('terminals=0 ptmx tty=/dev/pts/0')\nprint('ended', ended())";
        let command = ["bash", "-c", "echo terminals=$(ls /dev/pts | sort) tty=$(tty)"];
        on_a_terminal(run(), &command, script).succeeded();
        // TIOCSTI on the controlling terminal is the classic.
        let typing = "import fcntl, termios\ntry:\n    fcntl.ioctl(0, termios.TIOCSTI, b'x')\n    print('typ' 'ed')\n\
                      except OSError as error:\n    print('err' 'no', error.errno)";
        let script = "expect('errno 1')\nprint('ended', ended())";
        on_a_terminal(run(), &["/usr/bin/python3", "-c", typing], script).succeeded();
    });
}

#[test]
fn the_terminal_is_given_back_as_it_was() {
    each(|run| {
        let script = "
before = termios.tcgetattr(screen)
expect('raw')
send('x')
print('ended', ended())
after = termios.tcgetattr(screen)
print('same' if before[:4] == after[:4] else f'{before} {after}')";
        let outcome =
            on_a_terminal(run(), &["bash", "-c", "stty raw -echo; echo raw; read -r -n1"], script).succeeded();
        assert!(outcome.stdout.contains("same"), "{outcome:#?}");
    });
}

#[test]
fn a_reader_that_has_gone_is_no_reason_to_panic() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let exeat = std::process::Command::new(env!("CARGO_BIN_EXE_exeat")).arg("doctor").stdout(writer).output().unwrap();
    let told = String::from_utf8_lossy(&exeat.stderr);
    assert!(exeat.status.success() && !told.contains("panicked"), "{:?}: {told}", exeat.status);
}
