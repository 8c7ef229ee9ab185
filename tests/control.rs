//! The control API of the real daemon, over its socket, with curl: what clients of the reference product send and read.
//! A daemon watches the host's interfaces, which takes root; without it the tests say so and are skipped. Nothing is
//! attached here; `tests/daemon.rs` attaches.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use serde_json::{Value, json};
use support::eventually;
use tempfile::TempDir;

/// A daemon with a folder of its own.
struct Rig {
    daemon: Child,
    folder: TempDir,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Rig {
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: a daemon needs root");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("serve.yaml");
        let (state, socket) = (folder.path().join("state"), folder.path().join("run/control.sock"));
        let text = format!("state: {}\ncontrol: {{ socket: {} }}\n", state.display(), socket.display());
        std::fs::write(&config, text).expect("settings");
        let daemon = serve(&config);
        let rig = Self { daemon, folder };
        assert!(eventually(|| rig.socket().exists()), "the daemon listens");
        Some(rig)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/control.sock")
    }

    /// Status and body of one request.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, body) = self.curl(&["-X", method, "--data-binary", body], path);
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.curl(&[], path);
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    fn curl(&self, options: &[&str], path: &str) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "--write-out", "\n%{http_code}", "--unix-socket"]);
        let run = curl.arg(self.socket()).args(options).arg(format!("http://localhost{path}")).output();
        let text = String::from_utf8(run.expect("curl").stdout).expect("text");
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (status.parse().expect("a number"), body.to_owned())
    }
}

fn serve(config: &std::path::Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exeat"));
    command.arg("serve").arg("--config").arg(config).spawn().expect("the daemon")
}

/// What `exeat explain --format json` prints of the same policy in a file.
fn explained_by_the_verb(policy: &str, target: &str) -> Value {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), policy).expect("a policy");
    let mut command = Command::new(env!("CARGO_BIN_EXE_exeat"));
    let run = command.args(["explain", "--format", "json", "--policy"]).arg(file.path()).arg(target).output();
    serde_json::from_slice(&run.expect("exeat").stdout).expect("JSON")
}

#[test]
fn the_v2_family_answers_what_clients_read() {
    let Some(rig) = Rig::new() else { return };
    let body = json!({
        "name": "demo",
        "timeout": 600_000,
        "resources": { "vcpus": 4, "memory": 8192 },
        "env": { "TOKEN": "canary" },
        "__interactive": true,
        "networkPolicy": {
            "allow": { "b.test": [], "a.test": [{ "transform": [{ "headers": { "X-Key": "canary" } }] }] },
        },
    });
    let (status, created) = rig.ask("POST", "/v2/sandboxes?teamId=t", &body.to_string());
    assert_eq!(status, 200, "{created}");
    let (sandbox, session) = (&created["sandbox"], &created["session"]);
    for (object, keys) in [
        (
            sandbox,
            ["name", "persistent", "createdAt", "updatedAt", "currentSessionId", "status", "networkPolicy"].as_slice(),
        ),
        (
            session,
            &[
                "id",
                "memory",
                "vcpus",
                "region",
                "timeout",
                "status",
                "requestedAt",
                "createdAt",
                "updatedAt",
                "cwd",
                "interactivePort",
                "networkPolicy",
            ],
        ),
    ] {
        let missing: Vec<_> = keys.iter().filter(|key| object[**key].is_null()).collect();
        assert!(missing.is_empty(), "{missing:?} in {object}");
    }
    assert_eq!((&session["vcpus"], &session["timeout"]), (&json!(4), &json!(600_000)));
    assert_eq!(sandbox["networkPolicy"]["mode"], "custom");
    assert_eq!(sandbox["networkPolicy"]["injectionRules"], json!([{ "domain": "a.test", "headerNames": ["X-Key"] }]));
    assert!(!created.to_string().contains("canary"));
    assert_eq!(rig.get("/api/v2/sandboxes/demo").1, created);
    let id = session["id"].as_str().expect("an id").to_owned();
    for (policy, domains) in [
        (json!("deny-all"), Value::Null),
        (json!({ "allow": ["c.test"] }), json!(["c.test"])),
        (json!({ "mode": "custom", "allowedDomains": ["d.test"] }), json!(["d.test"])),
        (json!({ "mode": "allow-all" }), Value::Null),
    ] {
        let path = format!("/v2/sandboxes/sessions/{id}/network-policy");
        let (status, pushed) = rig.ask("POST", &path, &policy.to_string());
        assert_eq!((status, &pushed["session"]["networkPolicy"]["allowedDomains"]), (200, &domains), "{pushed}");
    }
    let (status, patched) =
        rig.ask("PATCH", "/v2/sandboxes/demo?resume=true", r#"{"networkPolicy": {"allow": ["e.test"]}}"#);
    assert_eq!(
        (status, &patched["sandbox"]["networkPolicy"]["allowedDomains"]),
        (200, &json!(["e.test"])),
        "{patched}"
    );
    assert_eq!(patched["routes"], json!([]));
}

#[test]
fn a_sandbox_is_forked_listed_stopped_and_forgotten() {
    let Some(rig) = Rig::new() else { return };
    let (_, created) = rig.ask("POST", "/v3/sandboxes", r#"{"name": "demo", "networkPolicy": {"allow": ["e.test"]}}"#);
    let id = created["session"]["id"].as_str().expect("an id").to_owned();
    let (status, forked) = rig.ask("POST", "/v2/sandboxes/demo/fork", r#"{"name": "copy"}"#);
    assert_eq!((status, &forked["sandbox"]["networkPolicy"]), (200, &created["sandbox"]["networkPolicy"]), "{forked}");
    let (_, listed) = rig.get("/v2/sandboxes");
    let names: Vec<&Value> = listed["sandboxes"].as_array().expect("a list").iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["demo", "copy"]);
    let (status, stopped) = rig.ask("POST", &format!("/v2/sandboxes/sessions/{id}/stop"), "");
    assert_eq!((status, &stopped["session"]["status"]), (200, &json!("stopped")), "{stopped}");
    assert_eq!(stopped["session"]["networkTransfer"], json!({ "ingress": 0, "egress": 0 }));
    let (status, gone) = rig.ask("POST", &format!("/v2/sandboxes/sessions/{id}/network-policy"), r#""deny-all""#);
    assert_eq!((status, &gone["error"]["code"]), (410, &json!("sandbox_stopped")), "{gone}");
    assert_eq!(rig.ask("DELETE", "/v2/sandboxes/copy", "").0, 200);
    assert_eq!(rig.get("/v2/sandboxes/copy").0, 404);
}

#[test]
fn the_v1_family_answers_with_the_session_as_the_sandbox() {
    let Some(rig) = Rig::new() else { return };
    let (status, created) = rig.ask("POST", "/v1/sandboxes", "{}");
    assert_eq!((status, &created["routes"]), (200, &json!([])), "{created}");
    assert_eq!(created["sandbox"]["networkPolicy"], json!({ "mode": "deny-all" }));
    assert!(created["sandbox"]["runtime"].is_string());
    let id = created["sandbox"]["id"].as_str().expect("an id").to_owned();
    let (status, pushed) = rig.ask(
        "POST",
        &format!("/v1/sandboxes/{id}/network-policy"),
        r#"{"mode": "default-deny", "allowedDomains": ["a.test"]}"#,
    );
    assert_eq!((status, &pushed["sandbox"]["networkPolicy"]["allowedDomains"]), (200, &json!(["a.test"])), "{pushed}");
    assert_eq!(rig.get(&format!("/v1/sandboxes/{id}")).1["sandbox"], pushed["sandbox"]);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let Some(rig) = Rig::new() else { return };
    let (_, created) = rig.ask("POST", "/v2/sandboxes", r#"{"name": "demo", "networkPolicy": {"allow": ["a.test"]}}"#);
    let id = created["session"]["id"].as_str().expect("an id");
    let push = format!("/v2/sandboxes/sessions/{id}/network-policy");
    let policy = r#"{"alow": [], "subnets": {"deny": ["10.0.0.1/8"]}, "allow": {"a.test": [], "a.test": []}}"#;
    let (status, refused) = rig.ask("POST", &push, policy);
    let message = refused["error"]["message"].as_str().expect("a message");
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("invalid_policy")));
    for fault in ["`alow`", "10.0.0.0/8", "stands here twice"] {
        assert!(message.contains(fault), "{fault}: {message}");
    }
    for (method, path, body, expected) in [
        ("POST", "/v2/sandboxes", r#"{"name": "demo"}"#, 409),
        ("POST", "/v2/sandboxes", r#"{"name": "a b"}"#, 400),
        ("POST", "/v2/sandboxes", r#"{"nme": "x"}"#, 400),
        ("POST", "/v2/sandboxes", "[", 400),
        ("POST", "/v2/sandboxes", r#"{"attachment": {"vlan": 7}}"#, 400),
        ("POST", "/v2/sandboxes", r#"{"name": "x", "networkPolicy": {"observe": true}}"#, 400),
        ("PATCH", "/v2/sandboxes/none", "{}", 404),
        ("POST", "/v2/sandboxes/sessions/none/network-policy", r#""deny-all""#, 404),
        ("GET", "/nothing", "", 404),
    ] {
        let (status, refused) = rig.ask(method, path, body);
        assert_eq!(status, expected, "{method} {path} {body}: {refused}");
        assert!(refused["error"]["message"].is_string(), "{refused}");
    }
    let (status, _) = rig.curl(&["-H", "If-Match: \"0\"", "-d", "\"deny-all\""], &push);
    assert_eq!(status, 409, "another revision is in force");
    assert_eq!(rig.get("/v2/sandboxes/demo").1, created, "nothing has changed");
    let revision = created["sandbox"]["revision"].as_str().expect("a revision");
    let (status, _) = rig.curl(&["-H", &format!("If-Match: \"{revision}\""), "-d", "\"deny-all\""], &push);
    assert_eq!(status, 200);
}

#[test]
fn what_a_sandbox_may_use_is_said_and_said_back() {
    let Some(rig) = Rig::new() else { return };
    let body = r#"{"name": "demo", "limits": {"flows": 7, "requestsPerSecond": 3}}"#;
    let (_, created) = rig.ask("POST", "/v2/sandboxes", body);
    assert_eq!(created["sandbox"]["limits"], json!({ "flows": 7, "requestsPerSecond": 3 }));
    let (_, patched) = rig.ask("PATCH", "/v2/sandboxes/demo", r#"{"limits": {"egressBytesPerSecond": 5000}}"#);
    assert_eq!(patched["sandbox"]["limits"], json!({ "egressBytesPerSecond": 5000 }), "one value, replaced whole");
    let (_, patched) = rig.ask("PATCH", "/v2/sandboxes/demo", r#"{"tags": {"a": "b"}}"#);
    assert_eq!(patched["sandbox"]["limits"], json!({ "egressBytesPerSecond": 5000 }));
    for (limits, told) in [
        (r#"{"flows": 0}"#, "`flows` is a whole number from 1 to 16384"),
        (r#"{"bytes": 1}"#, "unknown field `bytes`"),
        ("7", "`limits`: invalid type"),
    ] {
        let (status, refused) = rig.ask("PATCH", "/v2/sandboxes/demo", &format!(r#"{{"limits": {limits}}}"#));
        let message = refused["error"]["message"].as_str().expect("a message");
        assert!(status == 400 && message.contains(told), "{limits}: {refused}");
    }
    assert_eq!(rig.get("/v2/sandboxes/demo").1["sandbox"]["limits"], json!({ "egressBytesPerSecond": 5000 }));
}

#[test]
fn what_is_ours_beside_it() {
    let Some(rig) = Rig::new() else { return };
    let mode = std::fs::metadata(rig.socket()).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let policy = r#"{"name": "demo", "networkPolicy": {"allow": ["a.test"]}}"#;
    assert_eq!(rig.ask("POST", "/v2/sandboxes", policy).0, 200);
    let (status, explained) = rig.get("/v2/sandboxes/demo/explain?url=https://b.test/");
    assert_eq!((status, &explained["verdict"], &explained["reason"]), (200, &json!("deny"), &json!("no-rule")));
    assert_eq!(explained, explained_by_the_verb(r#"{"allow": ["a.test"]}"#, "https://b.test/"));
    let (_, explained) = rig.get("/v2/sandboxes/demo/explain?url=https://a.test/&address=169.254.169.254");
    assert_eq!(explained["reason"], "protected-range", "{explained}");
    let (_, explained) = rig.get("/v2/sandboxes/demo/explain?url=a.test:22");
    assert_eq!(explained["reason"], "no-name", "no method, so no request: {explained}");
    for refused in ["url=nonsense", "url=a.test:22&method=GET", "url=https://192.0.2.7/&address=192.0.2.8"] {
        let (status, answer) = rig.get(&format!("/v2/sandboxes/demo/explain?{refused}"));
        assert!(status == 400 && answer["error"]["message"].is_string(), "{refused}: {status} {answer}");
    }
    assert_eq!(rig.get("/v2/sandboxes/nobody/explain?url=https://b.test/").0, 404);
    assert_eq!(rig.get("/v2/sandboxes/demo/flows").1, json!({ "flows": [] }));
    let (_, trust) = rig.get("/v2/sandboxes/demo/trust-bundle");
    assert!(trust["certificate"].as_str().is_some_and(|pem| pem.starts_with("-----BEGIN CERTIFICATE-----")), "{trust}");
    assert_eq!(rig.get("/healthz").1, "ok\n");
    assert_eq!(rig.get("/readyz"), (200, json!("ready\n")));
    assert_eq!(rig.get("/metrics").0, 200);
    assert_eq!(rig.get("/v2/user").1["user"]["username"], "local");
}
