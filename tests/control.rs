//! The control API of the real daemon, over its socket, with curl: what clients of the reference product send and read.
//! A daemon watches the host's interfaces, which takes root; without it the tests say so and are skipped. Only one
//! attaches anything, for there to be flows; `tests/daemon.rs` does more of it. `control/clients.rs` has the reference
//! product's own clients, `control/description.rs` the OpenAPI document.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

mod control {
    mod clients;
    mod description;
    pub(crate) mod rig;
}

use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command};

use control::rig::{Rig, text};
use exeat::limits;
use serde_json::{Value, json};

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
    assert_eq!(names, ["copy", "demo"], "the latest first");
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
    let (_, trust) = rig.get("/trust-bundle?sandbox=demo");
    assert!(trust["certificate"].as_str().is_some_and(|pem| pem.starts_with("-----BEGIN CERTIFICATE-----")), "{trust}");
    assert!(trust["bundle"].as_str().is_some_and(|pem| pem.contains(trust["certificate"].as_str().expect("a text"))));
    assert_eq!(trust["variables"]["SSL_CERT_FILE"], trust["path"]);
    assert_eq!(rig.get("/trust-bundle?sandbox=none").0, 404);
    assert_eq!(rig.get("/healthz").1, "ok\n");
    assert_eq!(rig.get("/readyz"), (200, json!("ready\n")));
    assert_eq!(rig.get("/metrics").0, 200);
    assert_eq!(rig.get("/v2/user").1["user"]["username"], "local");
}

#[test]
fn a_stopped_sandbox_takes_what_its_next_session_begins_with() {
    let Some(rig) = Rig::new() else { return };
    let (_, created) = rig.ask("POST", "/v2/sandboxes", r#"{"name": "demo", "timeout": 1000}"#);
    let first = text(&created["session"]["id"]);
    let of = |id: &str, what: &str| format!("/v2/sandboxes/sessions/{id}{what}");
    assert!(created["session"]["networkTransfer"].is_null(), "it has not ended: {created}");
    let (_, running) = rig.get("/v2/sandboxes/demo?resume=true");
    assert_eq!((&running["resumed"], &running["session"]["id"]), (&json!(false), &json!(first)));

    let (_, stopped) = rig.ask("POST", "/v2/sandboxes/demo/stop", "");
    assert_eq!((&stopped["session"]["status"], &stopped["sandbox"]["status"]), (&json!("stopped"), &json!("stopped")));
    assert_eq!(rig.ask("POST", &of(&first, "/stop"), "").1["session"], stopped["session"], "once is enough");
    for (path, body) in [
        (of(&first, "/network-policy"), r#""allow-all""#),
        (of(&first, "/extend-timeout"), r#"{"duration": 1}"#),
        ("/v2/sandboxes/demo/attach".to_owned(), r#"{"netns": "/run/netns/none"}"#),
    ] {
        assert_eq!(rig.ask("POST", &path, body).0, 410, "{path}");
    }
    assert_eq!(rig.ask("PATCH", "/v2/sandboxes/demo", r#"{"attachment": {"netns": "/run/netns/none"}}"#).0, 410);
    let (status, patched) =
        rig.ask("PATCH", "/v2/sandboxes/demo", r#"{"timeout": 2000, "networkPolicy": {"allow": ["a.test"]}}"#);
    assert_eq!((status, &patched["sandbox"]["status"]), (200, &json!("stopped")), "{patched}");

    let (status, resumed) = rig.get("/v2/sandboxes/demo?resume=true");
    assert_eq!((status, &resumed["resumed"]), (200, &json!(true)), "{resumed}");
    let second = text(&resumed["session"]["id"]);
    assert_ne!(second, first);
    assert_eq!((&resumed["session"]["timeout"], &resumed["session"]["status"]), (&json!(2000), &json!("running")));
    assert_eq!(resumed["session"]["networkPolicy"]["allowedDomains"], json!(["a.test"]));
    assert!(resumed["sandbox"]["attachment"].is_null(), "it is attached by name: {resumed}");
    assert_eq!(rig.ask("POST", &of(&second, "/network-policy"), r#""deny-all""#).0, 200);

    // The former session stays what it was, and no longer moves the sandbox.
    let (_, former) = rig.get(&of(&first, ""));
    assert_eq!(former["session"]["status"], "stopped");
    assert_eq!(rig.ask("POST", &of(&first, "/network-policy"), r#""allow-all""#).0, 410);
    assert_eq!(rig.ask("POST", &of(&first, "/stop"), "").1["sandbox"]["status"], "running");
    let (_, sessions) = rig.get("/v2/sandboxes/sessions?name=demo&sortOrder=asc");
    let ids: Vec<String> =
        sessions["sessions"].as_array().expect("a list").iter().map(|one| text(&one["id"])).collect();
    assert_eq!((ids, &sessions["pagination"]), (vec![first, second], &json!({ "count": 2, "next": null })));
}

/// `limits::FORMER_SESSIONS`
#[test]
fn of_many_sessions_the_last_are_known() {
    let Some(rig) = Rig::new() else { return };
    let (_, created) = rig.ask("POST", "/v2/sandboxes", r#"{"name": "demo"}"#);
    let mut ids = vec![text(&created["session"]["id"])];
    for _ in 0..=limits::FORMER_SESSIONS {
        rig.ask("POST", "/v2/sandboxes/demo/stop", "");
        ids.push(text(&rig.ask("PATCH", "/v2/sandboxes/demo?resume=true", "").1["session"]["id"]));
    }
    let known = |id: &String| rig.get(&format!("/v2/sandboxes/sessions/{id}")).0 == 200;
    let forgotten = ids.iter().take_while(|id| !known(id)).count();
    assert_eq!((forgotten, ids.len() - forgotten), (1, limits::FORMER_SESSIONS + 1));
    assert!(ids.iter().skip(1).all(known));
}

#[test]
fn a_longer_time_reaches_the_session_and_what_is_null_is_taken_back() {
    let Some(rig) = Rig::new() else { return };
    let body = r#"{"name": "demo", "networkId": "n", "image": "i", "tags": {"a": "b"}, "resources": {"vcpus": 2},
        "keepLastSnapshots": {"count": 1}, "snapshotExpiration": 0, "failoverRegions": ["x"], "currentSnapshotId": "s",
        "mounts": {"/d": {"drive": "d", "mode": "read-write"}}, "source": {"type": "git"}, "env": {"A": "b"}}"#;
    let (status, created) = rig.ask("POST", "/v2/sandboxes", body);
    assert_eq!((status, &created["sandbox"]["memory"]), (200, &json!(4096)), "{created}");
    for (field, value) in [
        ("image", json!("i")),
        ("networkId", json!("n")),
        ("mounts", json!({"/d": {"drive": "d", "mode": "read-write"}})),
    ] {
        assert_eq!(created["sandbox"][field], value);
    }
    let id = text(&created["session"]["id"]);
    let (_, extended) =
        rig.ask("POST", &format!("/v2/sandboxes/sessions/{id}/extend-timeout"), r#"{"duration": 60000}"#);
    assert_eq!(extended["session"]["timeout"], 360_000);
    let (_, old) = rig.ask("POST", &format!("/v1/sandboxes/{id}/extend-timeout"), r#"{"duration": 9007199254740991}"#);
    assert_eq!(old["sandbox"]["timeout"], 9_007_199_254_740_991_u64, "as long as numbers go");
    let (_, patched) =
        rig.ask("PATCH", "/v2/sandboxes/demo", r#"{"networkId": null, "keepLastSnapshots": null, "timeout": 5}"#);
    let sandbox = &patched["sandbox"];
    assert!(sandbox["networkId"].is_null() && sandbox["keepLastSnapshots"].is_null() && sandbox["image"] == "i");
    assert_eq!(sandbox["timeout"], 5, "{sandbox}");
    let (_, forked) = rig.ask("POST", "/v2/sandboxes/demo/fork", r#"{"image": null}"#);
    assert_eq!((&forked["sandbox"]["tags"], &forked["sandbox"]["image"]), (&json!({ "a": "b" }), &Value::Null));
}

#[test]
fn lists_come_in_pages() {
    let Some(rig) = Rig::new() else { return };
    for (name, tag) in [("b", "x"), ("a", "y"), ("ab", "x")] {
        let body = json!({ "name": name, "tags": { "kind": tag } });
        assert_eq!(rig.ask("POST", "/v2/sandboxes", &body.to_string()).0, 200);
    }
    let names = |query: &str| rig.page(query).0;
    assert_eq!(names("teamId=t&project=p"), ["ab", "a", "b"], "the latest first");
    assert_eq!(names("sortOrder=asc"), ["b", "a", "ab"]);
    assert_eq!(names("sortBy=name&sortOrder=asc"), ["a", "ab", "b"]);
    assert_eq!(names("namePrefix=a&sortBy=name"), ["ab", "a"]);
    assert_eq!(names("tags=kind:x"), ["ab", "b"]);
    rig.ask("POST", "/v2/sandboxes/b/stop", "");
    assert_eq!(names("sortBy=statusUpdatedAt&limit=1"), ["b"]);
    let (first, next) = rig.page("limit=2&sortBy=name&sortOrder=asc");
    // What goes and comes meanwhile moves nothing else.
    rig.ask("DELETE", "/v2/sandboxes/ab", "");
    rig.ask("POST", "/v2/sandboxes", r#"{"name": "aa"}"#);
    let (second, end) = rig.page(&format!("limit=2&sortBy=name&sortOrder=asc&cursor={}", text(&next)));
    assert_eq!((first, second, end), (vec!["a".into(), "ab".into()], vec!["b".into()], Value::Null));
    for query in ["limit=0", "limit=x", "sortBy=size", "sortOrder=up", "tags=x", "cursor=x", "limit=1&limit=2"] {
        let (status, refused) = rig.get(&format!("/v2/sandboxes?{query}"));
        assert_eq!((status, &refused["error"]["code"]), (400, &json!("bad_request")), "{query}: {refused}");
    }
    // The older family lists sessions, by time.
    let (status, old) = rig.get("/v1/sandboxes?limit=1&since=0&until=9007199254740991");
    assert_eq!((status, &old["pagination"]["count"], &old["pagination"]["prev"]), (200, &json!(1), &Value::Null));
    assert!(text(&old["sandboxes"][0]["id"]).starts_with("sbx_") && old["pagination"]["next"].is_u64(), "{old}");
    let mut seen = 0;
    let mut until = json!(u64::MAX);
    while !until.is_null() {
        let (_, page) = rig.get(&format!("/v1/sandboxes?limit=1&until={until}"));
        seen += page["pagination"]["count"].as_u64().expect("a number");
        until = page["pagination"]["next"].clone();
    }
    assert_eq!(seen, 3);
}

#[test]
fn a_push_may_name_the_revisions_that_it_replaces_and_be_repeated() {
    let Some(rig) = Rig::new() else { return };
    let (_, created) = rig.ask("POST", "/v2/sandboxes", r#"{"name": "demo"}"#);
    let path = format!("/v2/sandboxes/sessions/{}/network-policy", text(&created["session"]["id"]));
    let revision = text(&created["sandbox"]["revision"]);
    let (status, head, _) = rig.whole(&[], "/v2/sandboxes/demo");
    assert!(status == 200 && head.contains(&format!("etag: \"{revision}\"")), "{head}");
    let policy = r#"{"allow": ["a.test"]}"#;
    for (condition, expected) in [
        ("\"0\"".to_owned(), 409),
        (format!("W/\"{revision}\""), 409),
        (revision.clone(), 400),
        (format!("\"0\", \"{revision}\""), 200),
        // Whoever repeats it, for the answer was lost, is told that it is in force.
        (format!("\"{revision}\""), 200),
        ("*".to_owned(), 200),
    ] {
        let (status, _, body) = rig.whole(&["-H", &format!("If-Match: {condition}"), "-d", policy], &path);
        assert_eq!(status, expected, "{condition}: {body}");
    }
    let (_, shown) = rig.get("/v2/sandboxes/demo");
    assert_eq!(shown["sandbox"]["generation"], 4, "each push counts");
    let pushed = text(&shown["sandbox"]["revision"]);
    let (_, again) = rig.ask("POST", &path, "allow: [a.test]");
    assert_eq!(again["session"]["networkPolicy"]["allowedDomains"], json!(["a.test"]));
    let (_, shown) = rig.get("/v2/sandboxes/demo");
    assert_eq!((&shown["sandbox"]["revision"], &shown["sandbox"]["generation"]), (&json!(pushed), &json!(5)));
    let stale = ["-X", "PATCH", "-H", "If-Match: \"0\"", "-d"];
    let patch = |body| rig.whole(&[&stale, [body].as_slice()].concat(), "/v2/sandboxes/demo").0;
    assert_eq!((patch(r#"{"networkPolicy": "deny-all"}"#), patch(r#"{"timeout": 1}"#)), (409, 400));
    // Who comes last, counts.
    assert_eq!(rig.get("/v2/sandboxes/demo").1["sandbox"]["revision"], json!(pushed));
}

#[test]
fn g73_of_two_pushes_at_once_that_replace_one_revision_one_is_in_force() {
    let Some(rig) = Rig::new() else { return };
    let (_, created) = rig.ask("POST", "/v2/sandboxes", r#"{"name": "demo"}"#);
    let path = format!("/v2/sandboxes/sessions/{}/network-policy", text(&created["session"]["id"]));
    let sandbox = || rig.get("/v2/sandboxes/demo").1["sandbox"].clone();
    let both = |round: u64, condition: &str| {
        std::thread::scope(|scope| {
            let push = |domain: String| {
                let policy = format!("{{\"allow\": [\"{domain}\"]}}");
                let (status, _, body) = rig.whole(&["-H", condition, "-d", &policy], &path);
                (status, domain, body)
            };
            let [one, other] = ["one", "other"].map(|who| scope.spawn(move || push(format!("{who}{round}.test"))));
            [one, other].map(|push| push.join().expect("no panic"))
        })
    };
    for round in 0..10 {
        let before = sandbox();
        let mut pushes = both(round, &format!("If-Match: \"{}\"", text(&before["revision"])));
        pushes.sort_by_key(|(status, ..)| *status);
        let [(200, in_force, body), (409, ..)] = &pushes else { panic!("{pushes:?}") };
        assert!(body.to_string().contains(in_force), "{body}");
        let after = sandbox();
        assert_eq!(after["generation"].as_u64(), before["generation"].as_u64().map(|count| count + 1));
        assert!(after["networkPolicy"].to_string().contains(in_force), "{after}");
        // Who names no revision replaces whichever there is.
        let pushes = both(100 + round, "X-Nothing: at-all");
        assert!(pushes.iter().all(|(status, ..)| *status == 200), "{pushes:?}");
        let last = sandbox();
        assert_eq!(last["generation"].as_u64(), before["generation"].as_u64().map(|count| count + 3));
        let named = pushes.iter().filter(|(_, domain, _)| last["networkPolicy"].to_string().contains(domain));
        assert_eq!(named.count(), 1, "{last}");
    }
}

#[test]
fn every_refusal_has_the_form_of_one() {
    let Some(rig) = Rig::new() else { return };
    assert_eq!(rig.ask("POST", "/v2/sandboxes", r#"{"name": "demo"}"#).0, 200);
    let large = rig.folder().join("large");
    std::fs::write(&large, vec![b' '; limits::BODY_BYTES + 1]).expect("a file");
    let large = format!("@{}", large.display());
    let beside = format!("{{\"name\": \"x\", \"env\": \"{}\"}}", "x".repeat(limits::DRAFT_BYTES));
    for (method, path, body, status, code) in [
        ("GET", "/nothing", "", 404, "not_found"),
        ("GET", "/api/nothing", "", 404, "not_found"),
        ("GET", "/v2/sandboxes/%ff", "", 404, "not_found"),
        ("GET", "/v2/sandboxes/a%20b", "", 404, "not_found"),
        ("PUT", "/v2/sandboxes/demo", "", 405, "method_not_allowed"),
        ("DELETE", "/api/metrics", "", 405, "method_not_allowed"),
        ("GET", "/v2/sandboxes/demo?resume=perhaps", "", 400, "bad_request"),
        ("GET", "/v2/sandboxes/demo/explain", "", 400, "bad_request"),
        ("GET", "/v2/sandboxes/demo/explain?url=https://a.test&address=x", "", 400, "bad_request"),
        ("GET", "/v2/sandboxes/none/explain?url=https://a.test", "", 404, "not_found"),
        ("GET", "/v2/sandboxes/none/flows", "", 404, "not_found"),
        ("GET", "/trust-bundle", "", 400, "bad_request"),
        ("GET", "/events?verdict=perhaps", "", 400, "bad_request"),
        ("POST", "/v2/sandboxes/demo/attach", "{}", 400, "bad_request"),
        ("POST", "/v2/sandboxes/demo/attach", r#"{"netns": "/run/netns/exeat-none"}"#, 422, "attachment_failed"),
        ("POST", "/v2/sandboxes/demo/fork", r#"{"name": "demo"}"#, 409, "conflict"),
        ("POST", "/v2/sandboxes", r#"{"name": "sessions"}"#, 400, "bad_request"),
        ("POST", "/v2/sandboxes", r#"{"timeout": -1}"#, 400, "bad_request"),
        ("POST", "/v2/sandboxes", r#"{"env": {}, "env": {}}"#, 400, "bad_request"),
        ("POST", "/v2/sandboxes", &beside, 413, "payload_too_large"),
        ("POST", "/v2/sandboxes", &large, 413, "payload_too_large"),
    ] {
        let (got, head, refused) = rig.whole(&["-X", method, "--data-binary", body], path);
        assert_eq!((got, &refused["error"]["code"]), (status, &json!(code)), "{method} {path} {body:.40}: {refused}");
        assert!(refused["error"]["message"].is_string() && head.contains("content-type: application/json"), "{head}");
        assert_eq!(head.contains("\r\nallow: "), status == 405, "{head}");
    }
    // What type the body is said to have does not matter.
    let (status, _, _) = rig.whole(&["-H", "Content-Type: text/plain", "-d", "{}"], "/v2/sandboxes");
    assert_eq!(status, 200);
}

#[test]
fn who_asks_for_its_account_finds_one() {
    let Some(rig) = Rig::new() else { return };
    let user = rig.get("/v2/user").1["user"].clone();
    let team = text(&user["defaultTeamId"]);
    assert_eq!(rig.get(&format!("/api/v2/teams/{team}")).1["slug"], "local");
    assert_eq!(rig.get("/api/v2/projects/vercel-sandbox-default-project?slug=local").1["name"], "local");
}

/// A network namespace.
struct Netns(String);

impl Drop for Netns {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

#[test]
fn what_flows_come_to_is_followed_and_counted() {
    let Some(rig) = Rig::new() else { return };
    let netns = Netns(format!("exeat-control-{}", std::process::id()));
    let made = Command::new("ip").args(["netns", "add", &netns.0]).status().expect("ip");
    assert!(made.success());
    let body = json!({ "name": "demo", "attachment": { "netns": format!("/run/netns/{}", netns.0) } });
    let (status, created) = rig.ask("POST", "/v2/sandboxes", &body.to_string());
    assert_eq!((status, &created["sandbox"]["attachment"]["state"]), (200, &json!("attached")), "{created}");
    let mut all = Follower::new(&rig, "");
    let mut closes = Follower::new(&rig, "?sandbox=demo&event=close");
    let mut others = Follower::new(&rig, "?sandbox=other");
    let curl = ["netns", "exec", &netns.0, "curl", "--silent", "--write-out", "%{http_code}", "http://192.0.2.7/"];
    let answered = Command::new("ip").args(curl).output().expect("curl").stdout;
    assert!(answered.ends_with(b"403"), "{}", String::from_utf8_lossy(&answered));
    let verdict = all.next();
    assert_eq!(
        (&verdict["event"], &verdict["reason"], &verdict["sandbox"]),
        (&json!("verdict"), &json!("deny-all"), &json!("demo"))
    );
    let close = closes.next();
    assert_eq!((&close["event"], &close["flow"]), (&json!("close"), &verdict["flow"]), "{close}");
    let metrics = text(&rig.get("/metrics").1);
    for expected in ["exeat_sandboxes 1", "by=\"deny-all\"", "# EOF"] {
        assert!(metrics.contains(expected), "{expected}: {metrics}");
    }
    let (_, stopped) = rig.ask("POST", "/v2/sandboxes/demo/stop", "");
    let session = &stopped["session"]["networkTransfer"];
    let moved = |key: &str| session[key].as_u64().expect("a number");
    assert_eq!(moved("egress"), close["bytes_out"].as_u64().unwrap_or_default());
    let total = &stopped["sandbox"];
    assert_eq!((&total["totalIngressBytes"], &total["totalEgressBytes"]), (&session["ingress"], &session["egress"]));
    // The next session counts from nothing; the sandbox goes on.
    rig.get("/v2/sandboxes/demo?resume=true");
    let (_, again) = rig.ask("POST", "/v2/sandboxes/demo/stop", "");
    assert_eq!(again["session"]["networkTransfer"], json!({ "ingress": 0, "egress": 0 }));
    assert_eq!(again["sandbox"]["totalIngressBytes"], total["totalIngressBytes"]);
    // Of another sandbox nothing came, and this one's is the next.
    let body = json!({ "name": "other", "attachment": { "netns": format!("/run/netns/{}", netns.0) } });
    assert_eq!(rig.ask("POST", "/v2/sandboxes", &body.to_string()).0, 200);
    assert!(Command::new("ip").args(curl).output().expect("curl").status.success());
    assert_eq!(others.next()["sandbox"], "other");
}

/// Who follows `GET /events`.
struct Follower {
    curl: Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

impl Follower {
    /// It follows once it is there.
    fn new(rig: &Rig, query: &str) -> Self {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--no-buffer", "--include", "--max-time", "60", "--unix-socket"]).arg(rig.socket());
        curl.arg(format!("http://localhost/events{query}")).stdout(std::process::Stdio::piped());
        let mut curl = curl.spawn().expect("curl");
        let mut lines = std::io::BufReader::new(curl.stdout.take().expect("output")).lines();
        let head: Vec<String> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        assert!(head.iter().any(|line| line == "content-type: text/event-stream"), "{head:?}");
        Self { curl, lines }
    }

    /// The next record.
    fn next(&mut self) -> Value {
        let data =
            self.lines.by_ref().map_while(Result::ok).find_map(|line| Some(line.strip_prefix("data: ")?.to_owned()));
        serde_json::from_str(&data.expect("a record")).expect("JSON")
    }
}
