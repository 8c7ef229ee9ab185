//! F65: canaries in every place that secrets come from, and in what lets callers in; then all that the daemon and its
//! children can emit is searched for them, in every spelling: after requests that succeed, that fail, and that are
//! refused, and after the daemon has run out of memory and was killed by signals that leave a core.
//!
//! It has no log beside what it tells: the variables that make Rust programs say more are set all the same. Nothing
//! from outside makes it panic; that it has no memory left is the failure nearest to it that can be caused.

#![allow(clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::sources::{Rig, TOKEN};
use super::verb::write_private;
use crate::support::eventually;

/// Beside the services of the rig: the other sources, and a token of the control API. The command leaves what it was
/// given.
const MORE: &str = "  \
  FILE: { file: {}/value, to: [api.rig, shut.rig] }
  VARIABLE: { env: CLIENT_SECRET, to: [api.rig] }
  COMMAND: { command: [/bin/bash, '-c', 'cat /proc/self/environ /proc/self/cmdline > {}/child; cat {}/value'], \
   to: [api.rig] }
";

/// The beginning of every canary, in every spelling; of base64 what stands in each alignment.
fn spellings() -> Vec<Vec<u8>> {
    const MARK: &[u8] = b"canary-";
    let hex = |letters: &str| MARK.iter().map(|byte| letters.replace("..", &format!("{byte:02x}"))).collect::<String>();
    let mut all = vec![MARK.to_vec(), MARK.iter().rev().copied().collect(), hex("..").into_bytes()];
    all.extend([hex("%..").into_bytes(), hex("..").to_uppercase().into_bytes(), hex("\\x..").into_bytes()]);
    // As Rust prints bytes.
    all.push(format!("{MARK:?}").trim_matches(['[', ']']).as_bytes().to_vec());
    for before in 0..3 {
        let coded = STANDARD.encode([&b"xxx"[..before], MARK].concat());
        all.push(coded.as_bytes()[if before == 0 { 0 } else { 4 }..coded.len() - 4].to_vec());
    }
    all
}

/// What of files holds no text: the key of the store, as it is and coded, and the middle of each key in PEM.
fn keys(folder: &Path) -> Vec<Vec<u8>> {
    let key = std::fs::read(folder.join("state/key")).expect("a key");
    let pem = std::fs::read_to_string(folder.join("app.pem")).expect("a key");
    let middle = pem.lines().nth(5).expect("a long key").as_bytes().to_vec();
    let hex = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes();
    vec![STANDARD.encode(&key).into_bytes(), hex, key, middle]
}

/// Where the canaries were put, which is no finding.
const SOURCES: [&str; 8] = ["value", "token", "secret-id", "app.pem", "server.py", "key.pem", "state/key", "seen"];

/// Every file below a folder but the sources, by its path from there.
fn files(folder: &Path, below: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder.join(below)).expect("a folder") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("a kind");
        let path = Path::new(below).join(entry.file_name()).to_str().expect("text").to_owned();
        if kind.is_dir() {
            files(folder, &path, found);
        } else if kind.is_file() && !SOURCES.contains(&path.as_str()) {
            found.insert(path.clone(), std::fs::read(folder.join(&path)).expect("a file"));
        }
    }
}

/// What every `GET` of the API answers, by its path; the stream of events for a second.
fn answers(rig: &Rig) -> BTreeMap<String, Vec<u8>> {
    let document: Value = serde_json::from_str(&rig.control("GET", "/openapi.json", "")).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let gets = paths.iter().filter(|(_, operations)| operations.get("get").is_some());
    let session: Value = serde_json::from_str(&rig.control("GET", "/v2/sandboxes/exd-a", "")).expect("JSON");
    let id = session["session"]["id"].as_str().expect("a session");
    let asked = gets.map(|(path, _)| {
        let query = match path.as_str() {
            "/trust-bundle" => "?sandbox=exd-a",
            path if path.ends_with("/explain") => "?url=https://api.rig/vault",
            _ => "",
        };
        let path = path.replace("{name}", "exd-a").replace("{id}", id) + query;
        let answer = if path == "/events" { rig.follows() } else { rig.control("GET", &path, "") };
        (path, answer.into_bytes())
    });
    asked.collect()
}

fn sandbox(rig: &Rig) {
    let names = ["VAULT", "OAUTH", "GITHUB", "FILE", "VARIABLE", "COMMAND"];
    let rule = |name: &str| {
        json!({ "match": { "path": { "exact": format!("/{}", name.to_lowercase()) } },
            "transform": [{ "headers": { "authorization": format!("Bearer ${{secrets.{name}}}") } }] })
    };
    let placed = json!({ "match": { "path": { "startsWith": "/placed" } },
        "placeholders": { "in": ["query", "body"] } });
    let rules: Vec<Value> = names.iter().map(|name| rule(name)).chain([placed.clone()]).collect();
    rig.ground.sandbox("exd-a");
    let body = json!({ "name": "exd-a", "attachment": { "netns": "/run/netns/exd-a" },
        "networkPolicy": { "allow": { "api.rig": rules, "shut.rig": [placed], "*.evil.rig": [] },
            "placeholders": { "TOKEN": "FILE" } } });
    let created = rig.control("POST", "/v2/sandboxes", &body.to_string());
    assert!(created.contains("exd-a") && !created.contains("error"), "{created}");
}

/// A request with a placeholder where a rule replaces it, and the status that the sandbox sees: `?` is for a query with
/// the placeholder, `+` for a body.
type Placed = (&'static str, &'static str);

/// They, by what the value is then.
const PLACED: [(&str, &str, &[Placed]); 3] = [
    ("empty", "", &[("api.rig/placed?", "503"), ("api.rig/placed+", "503"), ("api.rig/placed/streams+", "503")]),
    (
        "well",
        "canary-from-file",
        &[
            ("api.rig/placed?", "200"),
            ("api.rig/placed+", "200"),
            ("api.rig/placed/streams+", "200"),
            ("api.rig/placed/refused?+", "403"),
            ("api.rig/placed/dies+", "502"),
            ("api.rig/placed/breaks?+", "200"),
            ("shut.rig/placed?", "502"),
            ("shut.rig/placed+", "502"),
            ("api.rig/placed/often+", "403"),
        ],
    ),
    ("long", "LONG", &[("api.rig/placed/twice?", "429"), ("api.rig/placed/many+", "429")]),
];

/// Makes those requests; adds what the sandbox is told, to the last byte.
fn placed(rig: &Rig, emitted: &mut BTreeMap<String, Vec<u8>>) {
    let trust: Value = serde_json::from_str(&rig.control("GET", "/trust-bundle?sandbox=exd-a", "")).expect("JSON");
    let held = trust["variables"]["TOKEN"].as_str().expect("a placeholder");
    for (what, value, requests) in PLACED {
        let value = value.replace("LONG", &"canary-".repeat(9_300));
        write_private(&rig.folder.path().join("value"), &value);
        let is_told = |told: &str, status: &str| {
            ["1.1", "2"].iter().any(|version| told.contains(&format!("HTTP/{version} {status} ")))
        };
        // A source is read again some time after it has changed.
        let (first, status) = requests[0];
        assert!(eventually(|| is_told(&sent(rig, first, held), status)), "{what}: {}", rig.secret("FILE"));
        for (request, status) in requests {
            let told = sent(rig, request, held);
            assert!(is_told(&told, status), "{what} {request}: {told}");
            emitted.insert(format!("{what} {request}"), told.into_bytes());
        }
    }
    let seen = rig.holds("seen");
    for sent in ["/placed?t=canary-from-file ", "/placed t=canary-from-file\n", "/placed/dies t=canary-from-filexxx"] {
        assert!(seen.contains(sent), "{sent}: {seen}");
    }
}

/// What the sandbox is told of one of them.
fn sent(rig: &Rig, request: &str, held: &str) -> String {
    let url = request.trim_end_matches(['?', '+']);
    let times = [("often", 65), ("many", 64), ("twice", 2)];
    let times = times.iter().find(|(what, _)| url.ends_with(what)).map_or(1, |(_, times)| *times);
    let text = vec![format!("t={held}"); times].join("&");
    let is_long = url.ends_with("dies");
    let body = rig.folder.path().join("body");
    std::fs::write(&body, if is_long { text.clone() + &"x".repeat(4 << 20) } else { text.clone() }).expect("a file");
    let query = if request.contains('?') { format!("?{text}") } else { String::new() };
    let data = if request.contains('+') { format!("--data-binary @{}", body.display()) } else { String::new() };
    let streams = if is_long || url.ends_with("streams") { "--http1.1 -H transfer-encoding:chunked" } else { "" };
    // An answer that breaks off is an answer.
    rig.ground.shell(&format!(
        "ip netns exec exd-a curl --silent --show-error --verbose --include --max-time 20 --insecure \
         --resolve api.rig:443:203.0.113.99 --resolve shut.rig:443:203.0.113.98 {data} {streams} \
         'https://{url}{query}' 2>&1 || true"
    ))
}

/// Of each part of a process's memory where a text stands, what the kernel says of that part.
fn memory_with(process: Pid, text: &[u8]) -> Vec<String> {
    let of = |name: &str| format!("/proc/{process}/{name}");
    let parts = std::fs::read_to_string(of("smaps")).expect("the memory of another");
    let memory = std::fs::File::open(of("mem")).expect("the memory of another");
    let (mut place, mut is_used, mut found) = (0..0, false, Vec::new());
    for line in parts.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["Rss:", size, _] => is_used = size != "0",
            ["VmFlags:", ..] if is_used && !line.contains(" io ") => {
                let mut bytes = vec![0; place.end - place.start];
                // What is gone by now, or is not the process's to read (vvar), holds nothing.
                let read = memory.read_at(&mut bytes, place.start as u64).unwrap_or(0);
                if memchr::memmem::find(&bytes[..read], text).is_some() {
                    found.push(line.to_owned());
                }
            }
            [range, _, _, _, _, ..] if range.contains('-') => {
                let ends: Vec<usize> = range.split('-').filter_map(|end| usize::from_str_radix(end, 16).ok()).collect();
                (place, is_used) = (ends[0]..ends[1], false);
            }
            _ => {}
        }
    }
    found
}

/// What is kept of a value is in memory that is in no swap, no core dump and no child: itself, and the forms of it that
/// answers are searched for.
#[test]
fn f65_a_value_that_is_kept_is_in_locked_memory_alone() {
    const VALUE: &str = "canary-ieYae4Ahzeiboh9c";
    let Some(mut rig) = Rig::new(MORE) else { return };
    sandbox(&rig);
    write_private(&rig.folder.path().join("value"), VALUE);
    // It finds the value there as it starts.
    rig.ends(Some(Signal::SIGTERM));
    let assert_kept = |text: &[u8], rig: &Rig| {
        let found = memory_with(rig.process(), text);
        let is_kept = |flags: &String| ["lo", "dd", "wf"].iter().all(|flag| flags.contains(&format!(" {flag} ")));
        assert!(!found.is_empty() && found.iter().all(is_kept), "{found:#?}");
    };
    assert_kept(VALUE.as_bytes(), &rig);
    assert!(eventually(|| rig.asks("/file") == "200"));
    // A form has two letters in the place of each.
    let form: Vec<u8> = VALUE.bytes().flat_map(|byte| [byte, byte]).collect();
    assert_kept(&form, &rig);
    assert!(rig.control("GET", "/metrics", "").contains("exeat_secrets_unlocked_bytes 0\n"));
    assert!(!rig.holds("told").contains("cannot be locked"));
}

#[test]
fn f65_no_secret_is_in_anything_that_the_daemon_or_its_children_emit() {
    let Some(mut rig) = Rig::new(MORE) else { return };
    sandbox(&rig);
    let mut emitted = BTreeMap::new();
    // Everything fails, then everything succeeds.
    for (mode, answer) in [("sealed", "503 secret-unavailable"), ("well", "200")] {
        rig.is(mode);
        write_private(&rig.folder.path().join("value"), if mode == "well" { "canary-from-file" } else { "" });
        for name in ["VAULT", "OAUTH", "GITHUB", "FILE"] {
            assert!(eventually(|| rig.asks(&format!("/{}", name.to_lowercase())) == answer), "{name}: {mode}");
        }
        assert_eq!(rig.asks("/variable"), "200");
        assert_eq!(rig.asks("/elsewhere?q=1"), "200");
        // What is refused: a body that is none, a policy with a credential where none may be, an unknown key.
        for body in ["canary-is-no-json", r#"{"name":"x","networkPolicy":{"canary-key":"canary-value"}}"#] {
            let refused = rig.control("POST", "/v2/sandboxes", body);
            assert!(refused.contains("error"), "{refused}");
        }
        for (token, status) in [(TOKEN, "200"), ("canary-of-somebody-else", "401")] {
            let curl =
                format!("curl --silent --include -H 'authorization: Bearer {token}' http://127.0.0.1:8420/secrets");
            let answer = rig.ground.shell(&curl);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
            emitted.insert(format!("{mode} {status} over TCP"), answer.into_bytes());
        }
        emitted.extend(answers(&rig).into_iter().map(|(path, answer)| (format!("{mode} {path}"), answer)));
    }
    placed(&rig, &mut emitted);
    assert!(eventually(|| rig.is_in("COMMAND", "ready")), "the command was asked again");
    assert!(rig.holds("seen").matches("canary-").count() >= 4, "they were used: {}", rig.holds("seen"));

    // The daemon ends in every way that could leave something.
    for signal in [Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGTERM] {
        let status = rig.ends(Some(signal));
        assert!(!status.core_dumped(), "{signal}: {status}");
    }
    let told = rig.holds("told").len();
    let limit = ["--data=1".to_owned(), format!("--pid={}", rig.process())];
    assert!(Command::new("prlimit").args(limit).status().expect("prlimit").success());
    // What is kept of each sandbox fills what it still has.
    let file = rig.folder.path().join("value");
    let refused = (0..200).find(|number| {
        let policy = json!({ "description": format!("{number}canary-").repeat(20_000) });
        let large = json!({ "name": format!("exd-{number}"), "networkPolicy": policy }).to_string();
        std::fs::write(&file, large).expect("a file");
        rig.control("POST", "/v2/sandboxes", &format!("@{}", file.display())).is_empty()
    });
    assert!(refused.is_some(), "it had memory for all of them");
    let status = rig.ends(None);
    assert!(status.signal().is_some() && !status.core_dumped(), "{status}");
    assert!(rig.holds("told").get(told..).is_some_and(|last| !last.is_empty()), "it says what it died of");

    files(rig.folder.path(), "", &mut emitted);
    for wanted in ["audit", "told", "said", "child", "state/sandboxes.redb", "well /secrets", "well /metrics"] {
        assert!(emitted.contains_key(wanted), "{wanted} of {:?}", emitted.keys());
    }
    assert!(!emitted["audit"].is_empty() && !emitted["child"].is_empty());
    let looked_for: Vec<Vec<u8>> = spellings().into_iter().chain(keys(rig.folder.path())).collect();
    let mut control = b"a ".to_vec();
    control.extend(STANDARD.encode("xcanary-from-file").bytes());
    assert!(looked_for.iter().any(|text| memchr::memmem::find(&control, text).is_some()), "the search finds");
    for (what, text) in &emitted {
        for form in &looked_for {
            assert!(memchr::memmem::find(text, form).is_none(), "{} is in {what}", form.escape_ascii());
        }
    }
}
