//! A daemon that takes over from another while sandboxes are at work: nothing is refused, nothing is judged by another
//! policy, and whoever is killed at whichever moment, one daemon serves. And one that begins after a crash, or a
//! reboot, with what was stored; and the unit under which all of it runs. The tests need root, and say so where they
//! are skipped.

#![expect(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

mod attachments {
    #[allow(dead_code, reason = "made for the tests of attachments, which use all of it")]
    pub(crate) mod ground;
}
mod take_over {
    pub(crate) mod rig;
}

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::eventually;
use take_over::rig::{ALLOWED, BOTH, OTHER, Rig};

#[test]
fn under_load_nothing_is_refused_and_nothing_is_lost() {
    let Some(rig) = Rig::new() else { return };
    let mut daemons = vec![rig.serve(&[])];
    rig.create("exd-a", "203.0.113.9/32");
    rig.create_behind("exd-b", "exd0", "203.0.113.9/32");
    let mut held = rig.hold("exd-a", ALLOWED);
    let mut clients = ["exd-a", "exd-a", "exd-b"].map(|name| rig.connect_on_and_on(name, ALLOWED));
    let (asked, over) = (std::sync::Mutex::new(0_u32), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                rig.push("exd-b", BOTH);
                rig.done("GET", "/v2/sandboxes/exd-a", &Value::Null);
                *asked.lock().expect("no panic") += 1;
            }
        });
        for _ in 0..3 {
            let before = *asked.lock().expect("no panic");
            daemons.push(rig.serve(&["--take-over"]));
            assert!(eventually(|| *asked.lock().expect("no panic") > before + 3), "{}", rig.words());
        }
        over.store(true, Ordering::Relaxed);
    });
    let mut served = 0;
    for client in &mut clients {
        client.say("enough");
        let outcome = client.line();
        let count = outcome.strip_prefix("served=").and_then(|count| count.parse::<u64>().ok());
        served += count.unwrap_or_else(|| panic!("{outcome}: {}", rig.words()));
    }
    assert!(served > 50, "there was load: {served}");

    // The first process still has the flow that it had, and it counts as the session's. A client may be done before the
    // daemon has seen the end of its last connection.
    assert!(eventually(|| rig.flows("exd-a") == [1]), "{:?}", rig.flows("exd-a"));
    let transfer = |name: &str| {
        rig.done("POST", &format!("/v2/sandboxes/{name}/stop"), &Value::Null)["session"]["networkTransfer"].clone()
    };
    let (a, b) = (transfer("exd-a"), transfer("exd-b"));
    assert_eq!(held.line(), "ECONNRESET");
    let bytes = |key: &str| a[key].as_u64().expect("a number") + b[key].as_u64().expect("a number");
    assert_eq!((bytes("ingress"), bytes("egress")), (12 * served + 6, 5 * served));
    assert!(eventually(|| rig.audit().iter().filter(|event| event["event"] == "close").count() as u64 > served));
    let mut numbers = BTreeMap::new();
    for event in rig.audit().iter().filter(|event| event["event"] == "close") {
        *numbers.entry((event["sandbox"].to_string(), event["flow"].as_u64())).or_insert(0) += 1;
    }
    assert!(numbers.values().all(|count| *count == 1), "each flow has a number of its own, and one close");
}

#[test]
fn the_one_before_follows_every_change_until_it_is_finished() {
    let Some(rig) = Rig::new() else { return };
    let first = rig.serve(&[]);
    rig.create("exd-a", BOTH);
    rig.create("exd-b", BOTH);
    let [mut cut, mut kept] = [OTHER, ALLOWED].map(|address| rig.hold("exd-a", address));
    let mut stopped = rig.hold("exd-b", ALLOWED);
    let mut second = rig.serve(&["--take-over"]);
    let mut new = rig.hold("exd-a", OTHER);
    assert_eq!(rig.flows("exd-a"), [1, 2, 3]);
    // Over two processes that finish, one behind the other.
    let _third = rig.serve(&["--take-over"]);
    assert_eq!(rig.flows("exd-a"), [1, 2, 3]);
    rig.push("exd-a", "203.0.113.9/32");
    assert_eq!(rig.flows("exd-a"), [2], "when the push has returned, it is in force");
    assert_eq!((cut.line(), new.line()), ("ECONNRESET".to_owned(), "ECONNRESET".to_owned()));
    assert!(second.runs(), "it waits for the first");
    rig.done("POST", "/v2/sandboxes/exd-b/stop", &Value::Null);
    assert_eq!(stopped.line(), "ECONNRESET");
    rig.done("POST", "/v2/sandboxes/exd-a/detach", &Value::Null);
    assert_eq!(kept.line(), "ECONNRESET");
    assert_eq!((first.end(), second.end()), (Some(0), Some(0)));
}

/// A UDP flow is not handed over: what its client says next is a new one, from another port. What is on its way back
/// still comes.
#[test]
fn datagrams_are_judged_anew_by_the_successor() {
    let Some(rig) = Rig::new() else { return };
    let first = rig.serve(&[]);
    rig.create("exd-a", BOTH);
    rig.create_behind("exd-b", "exd0", BOTH);
    let mut talks = [("exd-a", ALLOWED), ("exd-b", ALLOWED), ("exd-a", OTHER)].map(|(name, to)| rig.talk(name, to));
    for talk in &mut talks {
        talk.say("one\n");
        assert_eq!(talk.line(), "one");
    }
    let [kept, behind, cut] = &mut talks;
    kept.say("wait");
    assert!(eventually(|| rig.flows("exd-a").len() == 2));
    let _second = rig.serve(&["--take-over"]);
    assert_eq!(rig.flows("exd-a"), [1, 2], "they are the one before's");
    kept.say("two\n");
    kept.say("");
    let mut heard = [kept.line(), kept.line()];
    heard.sort();
    assert_eq!(heard, ["two", "waited"]);
    assert_eq!(rig.flows("exd-a"), [1, 2, 3]);
    behind.say("two\n");
    assert_eq!(behind.line(), "two");
    rig.push("exd-a", "203.0.113.9/32");
    cut.say("two\n");
    assert_eq!(cut.line(), "ECONNREFUSED");
    assert!(!rig.flows("exd-a").contains(&2), "it has ended at the one before");
    assert_eq!(first.end(), Some(0), "nothing more is said there");
    kept.say("three\n");
    assert_eq!(kept.line(), "three", "no answer was lost, and none came twice");
}

#[test]
fn names_that_were_answered_before_are_known_after() {
    let Some(rig) = Rig::new() else { return };
    rig.names.set("db.rig", &[ALLOWED.parse().expect("an address")]);
    let _first = rig.serve(&[]);
    rig.ground.sandbox("exd-a");
    let policy = json!({ "allow": { "db.rig": [{ "opaque": { "ports": [7] } }] } });
    rig.register("exd-a", &json!({ "netns": "/run/netns/exd-a" }), &policy);
    let asked = rig.ground.shell(
        "ip netns exec exd-a /usr/bin/python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(bytes.fromhex(\"0001010000010000000000000264620372696700\" + \"00010001\"), (\"198.18.0.1\", 53))
print(socket.inet_ntoa(s.recv(512)[-4:]))'",
    );
    assert_eq!(asked.trim(), ALLOWED);
    let _second = rig.serve(&["--take-over"]);
    assert_eq!(rig.try_to_reach("exd-a", ALLOWED), "hello");
    assert_eq!(rig.try_to_reach("exd-a", OTHER), "ECONNRESET", "no name was answered with it");
}

#[test]
fn what_is_quarantined_stays_so() {
    let Some(rig) = Rig::new() else { return };
    let _first = rig.serve(&[]);
    rig.create("exd-a", BOTH);
    rig.ground.place.ip("-n exd-a link add veth0 type veth peer name veth1");
    let state = || rig.done("GET", "/v2/sandboxes/exd-a", &Value::Null)["sandbox"]["attachment"].to_string();
    assert!(eventually(|| state().contains("quarantined")), "{}", state());
    rig.ground.place.ip("-n exd-a link delete veth0");
    let _second = rig.serve(&["--take-over"]);
    assert!(state().contains("quarantined"), "{}", state());
    assert_ne!(rig.try_to_reach("exd-a", ALLOWED), "hello");
}

#[test]
fn flows_that_were_judged_by_other_settings_are_ended() {
    let Some(rig) = Rig::new() else { return };
    let first = rig.serve(&[]);
    rig.create("exd-a", BOTH);
    let mut held = rig.hold("exd-a", OTHER);
    rig.set(&format!("[{ALLOWED}/32]"));
    let _second = rig.serve(&["--take-over"]);
    assert_eq!(held.line(), "ECONNRESET");
    assert_eq!(first.end(), Some(0));
    assert_eq!(rig.try_to_reach("exd-a", OTHER), "ECONNRESET");
    assert_eq!(rig.try_to_reach("exd-a", ALLOWED), "hello");
}

/// A library that kills the process that has it loaded just before its `DIE_BEFORE`th message to another process.
const DEATH: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    static atomic_int count;
    int domain = 0;
    socklen_t length = sizeof domain;
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length);
    if (domain == AF_UNIX && atomic_fetch_add(&count, 1) + 1 == atoi(getenv("DIE_BEFORE")))
        kill(getpid(), SIGKILL);
    return ((ssize_t (*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg"))(fd, message, flags);
}
"#;

/// A daemon that is killed just before its `nth` word to another.
fn killed_before(rig: &Rig, nth: u32) -> Command {
    let (source, library) = (rig.at("death.c"), rig.at("death.so"));
    if !library.exists() {
        std::fs::write(&source, DEATH).expect("a file");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        assert!(compiled.expect("a C compiler").success());
    }
    let mut exeat = Command::new(env!("CARGO_BIN_EXE_exeat"));
    exeat.env("LD_PRELOAD", library).env("DIE_BEFORE", nth.to_string());
    exeat
}

#[test]
fn a_successor_that_is_killed_at_any_step_leaves_one_daemon() {
    let Some(rig) = Rig::new() else { return };
    let mut first = rig.serve(&[]);
    rig.create("exd-a", BOTH);
    rig.create_behind("exd-b", "exd0", BOTH);
    let mut held = rig.hold("exd-a", ALLOWED);
    // Its words: Hello, Ready, Serving.
    for step in 1..=3 {
        let case = format!("killed before its word {step}");
        let successor = rig.start_under(killed_before(&rig, step), &["--take-over"]);
        assert_eq!(successor.end(), None, "{case}: {}", rig.words());
        for name in ["exd-a", "exd-b"] {
            rig.assert_one_serves(name, &case);
        }
        assert!(first.runs(), "{case}");
    }
    assert!(!rig.flows("exd-a").is_empty(), "what was open before goes on");
    // One that is killed when it has taken over ends what the one before still had, and is followed as after any crash.
    let second = rig.serve(&["--take-over"]);
    second.kill();
    assert_eq!(held.line(), "ECONNRESET");
    assert_eq!(first.end(), Some(0));
    let _third = rig.serve(&[]);
    for name in ["exd-a", "exd-b"] {
        rig.assert_one_serves(name, "after a crash");
    }
}

#[test]
fn a_daemon_that_is_killed_at_any_step_of_handing_over_leaves_its_successor() {
    let Some(rig) = Rig::new() else { return };
    // Its words: Welcome, Lock, Control, two sandboxes, Whole, Yours, Retired.
    for step in 1..=8 {
        let case = format!("killed before its word {step}");
        let first = rig.start_under(killed_before(&rig, step), &[]);
        rig.hear("READY=1");
        if step == 1 {
            rig.create("exd-a", BOTH);
            rig.create_behind("exd-b", "exd0", BOTH);
        }
        let second = rig.start(&["--take-over"]);
        assert_eq!(first.end(), None, "{case}: {}", rig.words());
        rig.hear("READY=1");
        for name in ["exd-a", "exd-b"] {
            rig.assert_one_serves(name, &case);
        }
        second.kill();
    }
}

#[test]
fn a_successor_that_does_nothing_is_ended_or_ends_and_the_daemon_goes_on() {
    let Some(rig) = Rig::new() else { return };
    let _first = rig.serve(&[]);
    rig.create("exd-a", BOTH);
    let raw = |script: &str| {
        let script = format!(
            "import json, os, socket, struct, sys
s = socket.socket(socket.AF_UNIX)
s.connect('{}')
def say(what):
    text = json.dumps(what).encode(); s.sendall(struct.pack('<I', len(text)) + text)
def hear():
    return json.loads(s.recv(struct.unpack('<I', s.recv(4, socket.MSG_WAITALL))[0], socket.MSG_WAITALL) or b'null')
{script}",
            rig.at("state/take-over.sock").display()
        );
        let output = Command::new("/usr/bin/python3").arg("-c").arg(script).output().expect("python");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (_, refused) = raw("say({'protocol': 99, 'version': '9.9.9', 'new': 1}); print(hear())");
    assert!(refused.contains("cannot hand over to exeat 9.9.9 (protocol"), "{refused}");
    rig.assert_one_serves("exd-a", "another protocol");
    for (case, script) in [
        ("no message", "s.sendall(b'\\xff' * 8); print(s.recv(9))"),
        ("it goes away", "say({'protocol': 3, 'version': ''}); hear()"),
        ("what should not be said", "say({'protocol': 3, 'version': ''}); say({'Serving': 7})\nwhile True: s.recv(9)"),
    ] {
        let (code, _) = raw(script);
        assert_eq!(code.is_none(), case == "what should not be said", "{case}: {code:?}");
        rig.assert_one_serves("exd-a", case);
    }
}

#[test]
fn only_the_same_user_is_talked_to() {
    let Some(rig) = Rig::new() else { return };
    let _first = rig.serve(&[]);
    rig.create("exd-a", BOTH);
    let socket = rig.at("state/take-over.sock");
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!((mode(&socket), mode(&rig.at("state"))), (0o600, 0o700));
    // Even if somebody opened it to all.
    for path in [rig.folder.path(), &rig.at("state"), &socket] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("root may");
    }
    let script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(9))";
    let mut other = Command::new("setpriv");
    other.args(["--reuid=61234", "--regid=61234", "--clear-groups", "/usr/bin/python3", "-c", script]).arg(&socket);
    let heard = other.output().expect("setpriv is installed");
    assert_eq!(String::from_utf8_lossy(&heard.stdout).trim(), "b''", "{}", String::from_utf8_lossy(&heard.stderr));
    assert!(rig.words().contains("is of user 61234, and not of this one"), "{}", rig.words());
    rig.assert_one_serves("exd-a", "another user");
}

#[test]
fn a_daemon_starts_its_successor_and_tells_its_manager() {
    let Some(rig) = Rig::new() else { return };
    let first = rig.serve(&[]);
    rig.create("exd-a", BOTH);
    // One that cannot begin changes nothing.
    let settings = std::fs::read(rig.at("serve.yaml")).expect("settings");
    std::fs::write(rig.at("serve.yaml"), "staet: /x\n").expect("a file");
    first.signal(Signal::SIGUSR2);
    rig.hear("RELOADING=1\nMONOTONIC_USEC=");
    rig.hear("READY=1");
    assert!(rig.words().contains("this daemon goes on"), "{}", rig.words());
    std::fs::write(rig.at("serve.yaml"), settings).expect("a file");
    rig.assert_one_serves("exd-a", "a successor that cannot begin");
    first.signal(Signal::SIGUSR2);
    rig.hear("RELOADING=1\nMONOTONIC_USEC=");
    let successor = rig.hear("MAINPID=");
    rig.hear("READY=1");
    rig.assert_one_serves("exd-a", "a successor");
    assert_eq!(first.end(), Some(0));
    let pid = nix::unistd::Pid::from_raw(successor.parse().expect("a number"));
    nix::sys::signal::kill(pid, Signal::SIGTERM).expect("it runs");
    rig.hear("STOPPING=1");
    assert!(eventually(|| nix::sys::signal::kill(pid, None).is_err()), "it ends");
}

#[test]
fn where_nobody_serves_there_is_nothing_to_take_over() {
    let Some(rig) = Rig::new() else { return };
    let first = rig.serve(&["--take-over"]);
    rig.create("exd-a", BOTH);
    assert!(rig.words().contains("there is nothing to take over"), "{}", rig.words());
    first.kill();
    let _second = rig.serve(&["--take-over"]);
    rig.assert_one_serves("exd-a", "after a crash");
}

#[test]
fn killed_at_any_moment_every_acknowledged_policy_is_in_force() {
    let Some(rig) = Rig::new() else { return };
    let mut daemon = Some(rig.serve(&[]));
    rig.create("exd-a", "203.0.113.9/32");
    // What no policy ever allowed is never reached, whether a daemon runs or not.
    let mut never = rig.connect_on_and_on("exd-a", OTHER);
    for round in 0_u64..4 {
        let over = AtomicBool::new(false);
        let acknowledged = std::thread::scope(|scope| {
            let pushing = scope.spawn(|| {
                let mut generation = 0;
                while !over.load(Ordering::Relaxed) {
                    let patch = json!({ "networkPolicy": take_over::rig::ranges_allowed("203.0.113.9/32") });
                    if let Ok((200, answer)) = rig.ask("PATCH", "/v2/sandboxes/exd-a", &patch) {
                        generation = answer["sandbox"]["generation"].as_u64().expect("a number");
                    }
                }
                generation
            });
            let pushed = || {
                rig.ask("GET", "/v2/sandboxes/exd-a", &Value::Null)
                    .map_or(0, |(_, answer)| answer["sandbox"]["generation"].as_u64().expect("a number"))
            };
            let first = pushed();
            assert!(eventually(|| pushed() > first + round));
            daemon.take().expect("it runs").kill();
            over.store(true, Ordering::Relaxed);
            pushing.join().expect("no panic")
        });
        daemon = Some(rig.serve(&[]));
        let sandbox = rig.done("GET", "/v2/sandboxes/exd-a", &Value::Null)["sandbox"].clone();
        let generation = sandbox["generation"].as_u64().expect("a number");
        assert!(generation == acknowledged || generation == acknowledged + 1, "{generation}, {acknowledged}");
        assert_eq!(rig.try_to_reach("exd-a", ALLOWED), "hello");
    }
    never.say("enough");
    let outcome = never.line();
    assert!(!outcome.contains("served") && outcome.contains("ECONNRESET"), "{outcome}");
}

#[test]
fn after_a_reboot_policies_are_there_and_nothing_is_attached() {
    let Some(rig) = Rig::new() else { return };
    let daemon = rig.serve(&[]);
    rig.create("exd-a", "203.0.113.9/32");
    rig.create_behind("exd-b", "exd0", "203.0.113.9/32");
    daemon.kill();
    // All is the same but the boot: a namespace's cookie and an interface's number are given again after it.
    let boot = rig.at("boot_id");
    std::fs::write(&boot, "01234567-89ab-4def-8123-456789abcdef\n").expect("a file");
    rig.ground.place.bind(&boot, "/proc/sys/kernel/random/boot_id");
    let daemon = rig.serve(&[]);
    for name in ["exd-a", "exd-b"] {
        let sandbox = rig.done("GET", &format!("/v2/sandboxes/{name}"), &Value::Null)["sandbox"].clone();
        assert_eq!(sandbox["networkPolicy"]["allowedCIDRs"], json!(["203.0.113.9/32"]));
        assert_eq!(sandbox["attachment"]["state"], "detached", "{sandbox}");
        assert_ne!(rig.try_to_reach(name, ALLOWED), "hello");
        assert!(rig.words().contains(&format!("sandbox {name} is detached")), "{}", rig.words());
    }
    let attach = json!({ "netns": "/run/netns/exd-a" });
    rig.done("POST", "/v2/sandboxes/exd-a/attach", &attach);
    assert_eq!(rig.try_to_reach("exd-a", ALLOWED), "hello");
    assert_eq!(rig.try_to_reach("exd-a", OTHER), "ECONNRESET");
    // What the control plane has attached is taken up again from here on.
    daemon.kill();
    let _daemon = rig.serve(&[]);
    assert_eq!(rig.try_to_reach("exd-a", ALLOWED), "hello");
}

#[test]
fn a_store_that_cannot_be_used_is_left_as_it_is() {
    let Some(rig) = Rig::new() else { return };
    let daemon = rig.serve(&[]);
    rig.ground.sandbox("exd-a");
    let policy = json!({ "allow": { "a.rig": [{ "transform": [{ "headers": { "x-key": "canary-of-a-secret" } }] }] } });
    rig.register("exd-a", &json!({ "netns": "/run/netns/exd-a" }), &policy);
    daemon.kill();
    let (store, key) = (rig.at("state/sandboxes.redb"), rig.at("state/key"));
    let (whole, sealed_by) = (std::fs::read(&store).expect("a store"), std::fs::read(&key).expect("a key"));
    assert!(!whole.windows(6).any(|window| window == b"canary"), "what is stored is sealed");
    let later = || {
        let database = redb::Database::open(&store).expect("a store");
        let transaction = database.begin_write().expect("a transaction");
        let meta: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("exeat");
        let version = 2_u64.to_be_bytes();
        transaction.open_table(meta).expect("a table").insert("version", version.as_slice()).expect("an entry");
        transaction.commit().expect("a commit");
    };
    let spoil: [(&dyn Fn(), &str); 4] = [
        (&|| std::fs::write(&store, &whole[..whole.len() / 2]).expect("a file"), "it is left as it is"),
        (&|| std::fs::write(&store, "something else").expect("a file"), "it is left as it is"),
        (&|| std::fs::write(&key, [7; 32]).expect("a file"), "was sealed with another key"),
        (&later, "is of another version of exeat"),
    ];
    for (spoil, told) in spoil {
        std::fs::write(&store, &whole).expect("a file");
        std::fs::write(&key, &sealed_by).expect("a file");
        spoil();
        let (before, words) = (std::fs::read(&store).expect("a store"), rig.words().len());
        assert_eq!(rig.start(&[]).end(), Some(125));
        assert!(rig.words()[words..].contains(told), "{told}: {}", rig.words());
        assert!(std::fs::read(&store).expect("a store") == before, "{told}: it was changed");
    }
    // The key as a credential, and none beside what it seals.
    std::fs::write(&store, &whole).expect("a file");
    let credentials = rig.at("credentials");
    std::fs::create_dir(&credentials).expect("a folder");
    std::fs::write(credentials.join("exeat.key"), &sealed_by).expect("a file");
    std::fs::remove_file(&key).expect("a key");
    let mut exeat = Command::new(env!("CARGO_BIN_EXE_exeat"));
    exeat.env("CREDENTIALS_DIRECTORY", &credentials);
    let _daemon = rig.start_under(exeat, &[]);
    rig.hear("READY=1");
    assert_eq!(rig.done("GET", "/v2/sandboxes/exd-a", &Value::Null)["sandbox"]["attachment"]["state"], "attached");
    assert!(!key.exists());
}

/// The unit file, as it is printed.
fn unit() -> String {
    let printed = Command::new(env!("CARGO_BIN_EXE_exeat")).args(["serve", "--unit"]).output().expect("exeat");
    String::from_utf8(printed.stdout).expect("text")
}

#[test]
fn the_unit_is_one_that_systemd_accepts() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return support::skipped("the unit file: it takes systemd-analyze");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("exeat.service");
    std::fs::write(&path, unit().replace("/usr/bin/exeat", env!("CARGO_BIN_EXE_exeat"))).expect("a file");
    let analyze = |arguments: &[&str]| {
        let done = Command::new("systemd-analyze").args(arguments).arg(&path).output().expect("it is there");
        let told = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8_lossy(&told).into_owned())
    };
    let (verified, told) = analyze(&["verify"]);
    assert!(verified && !told.contains("exeat.service"), "{told}");
    // Of 100, for the whole of it; a unit without any of its restrictions has 96.
    let (accepted, told) = analyze(&["security", "--offline=true", "--threshold=25"]);
    assert!(accepted, "{told}");
}

#[test]
fn the_capabilities_of_the_unit_suffice_and_none_is_too_many() {
    let Some(rig) = Rig::new() else { return };
    let unit = unit();
    let named = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("capabilities");
    let all: Vec<String> = named.split(' ').map(|name| name.trim_start_matches("CAP_").to_lowercase()).collect();
    rig.ground.sandbox("exd-a");
    let mut sleeper = Command::new("unshare");
    sleeper.args(["--net", "/usr/bin/python3", "-c", "import signal; print('ready', flush=True); signal.pause()"]);
    let mut sleeper = rig.ground.start(&mut sleeper);
    assert_eq!(sleeper.line(), "ready");
    rig.ground.place.ip("netns add exd-b\nlink add exd0 type veth peer name eth0 netns exd-b");
    let kinds = [
        ("path", json!({ "netns": "/run/netns/exd-a" })),
        ("process", json!({ "netns": format!("/proc/{}/ns/net", sleeper.id()) })),
        ("interface", json!({ "interface": { "name": "exd0", "addresses": ["10.0.0.2"] } })),
    ];
    // As root may look into its folder, another user must be let.
    std::fs::set_permissions(rig.folder.path(), std::fs::Permissions::from_mode(0o777)).expect("root may");
    std::fs::set_permissions(rig.at("notify"), std::fs::Permissions::from_mode(0o777)).expect("root may");
    let attached = |capabilities: &[String]| -> Vec<&str> {
        let list = |sign: &str| capabilities.iter().map(|name| format!("{sign}{name}")).collect::<Vec<_>>().join(",");
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=61234", "--regid=61234", "--clear-groups", "--no-new-privs"]);
        setpriv.arg(format!("--inh-caps=-all,{}", list("+"))).arg(format!("--ambient-caps=-all,{}", list("+")));
        setpriv.arg(format!("--bounding-set=-all,{}", list("+"))).arg(env!("CARGO_BIN_EXE_exeat"));
        let mut daemon = rig.start_under(setpriv, &[]);
        if !eventually(|| !daemon.runs() || rig.ask("GET", "/healthz", &Value::Null).is_ok()) || !daemon.runs() {
            return Vec::new();
        }
        let attaches = |(kind, attachment): &(&'static str, Value)| {
            let sandbox = json!({ "name": kind, "attachment": attachment });
            let done = rig.ask("POST", "/v2/sandboxes", &sandbox).expect("an answer").0 == 200;
            rig.ask("DELETE", &format!("/v2/sandboxes/{kind}"), &Value::Null).expect("an answer");
            done.then_some(*kind)
        };
        let attached = kinds.iter().filter_map(attaches).collect();
        daemon.kill();
        attached
    };
    assert_eq!(attached(&all), ["path", "process", "interface"], "{}", rig.words());
    for left_out in &all {
        let rest: Vec<_> = all.iter().filter(|name| *name != left_out).cloned().collect();
        assert_ne!(attached(&rest).len(), kinds.len(), "{left_out} is not needed");
    }
}

/// What programs inside are given instead of a secret; never a trace of that.
#[test]
fn placeholders_stay_over_pushes_crashes_and_successors() {
    let Some(rig) = Rig::new() else { return };
    let key = format!("ghp_{}", "Cn4ry".repeat(8));
    let settings = std::fs::read_to_string(rig.at("serve.yaml")).expect("settings");
    let secrets = format!("secrets: {{ KEY: {{ file: {}, to: [a.test] }} }}\n", rig.at("key").display());
    std::fs::write(rig.at("key"), &key).expect("a file");
    std::fs::write(rig.at("serve.yaml"), settings + &secrets).expect("settings");
    let policy = |variables: Value| json!({ "allow": ["a.test"], "placeholders": variables });
    let held = |name: &str| {
        let trust = rig.done("GET", &format!("/trust-bundle?sandbox={name}"), &Value::Null);
        assert!(!trust.to_string().contains(&key), "{trust}");
        trust["variables"]["TOKEN"].as_str().unwrap_or_else(|| panic!("{trust}")).to_owned()
    };
    let first = rig.serve(&[]);
    for name in ["exd-a", "exd-b"] {
        rig.ground.sandbox(name);
        let attachment = json!({ "netns": format!("/run/netns/{name}") });
        rig.register(name, &attachment, &policy(json!({ "TOKEN": "KEY" })));
    }
    let (a, b) = (held("exd-a"), held("exd-b"));
    assert!(a != b && [&a, &b].iter().all(|text| text.starts_with("ghp_") && text.len() == key.len()), "{a} {b}");
    std::fs::write(rig.at("key"), "another, and shorter").expect("a file");
    let more = json!({ "networkPolicy": policy(json!({ "TOKEN": "KEY", "OTHER": "KEY" })) });
    let answer = rig.done("PATCH", "/v2/sandboxes/exd-a", &more).to_string();
    assert!(!answer.contains(&key) && !answer.contains(&a), "the name of the secret alone: {answer}");
    assert_eq!(held("exd-a"), a, "after a push");
    first.kill();
    let _second = rig.serve(&[]);
    assert_eq!((held("exd-a"), held("exd-b")), (a.clone(), b.clone()), "after a crash");
    let _third = rig.serve(&["--take-over"]);
    assert_eq!((held("exd-a"), held("exd-b")), (a, b), "with a successor");
    assert!(!rig.words().contains(&key) && !rig.audit().iter().any(|event| event.to_string().contains(&key)));
}
