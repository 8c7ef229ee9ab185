//! Secrets whose values are set over the API: used, changed, expired, forgotten, kept over a crash, and shown nowhere.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::sources::Rig;
use crate::support::eventually;

impl Rig {
    /// What the API answers to a value that is set, or to what is none.
    fn sets(&self, name: &str, said: &Value) -> String {
        let told = self.control("PUT", &format!("/secrets/{name}"), &said.to_string());
        assert!(!told.contains("canary"), "{told}");
        told
    }

    fn pushes(&self, policy: &Value) -> String {
        let sandbox: Value = serde_json::from_str(&self.control("GET", "/v2/sandboxes/exd-a", "")).expect("JSON");
        let id = sandbox.pointer("/session/id").and_then(Value::as_str).expect("a session");
        self.control("POST", &format!("/v2/sandboxes/sessions/{id}/network-policy"), &policy.to_string())
    }

    fn last_seen(&self) -> String {
        self.holds("seen").lines().last().unwrap_or_default().to_owned()
    }
}

fn value(value: &str) -> Value {
    json!({ "value": value, "to": ["api.rig"], "methods": ["GET"] })
}

#[test]
fn a_secret_that_is_set_over_the_api_is_used_changed_and_forgotten_and_never_shown() {
    let Some(mut rig) = Rig::new("  FILE: { file: {}/value, to: [api.rig] }\n") else { return };
    let policy = json!({ "allow": { "api.rig": [
        { "match": { "method": ["GET"] }, "transform": [{ "headers": { "authorization": "Bearer ${secrets.KEY}" } }] },
    ] } });
    rig.ground.sandbox("exd-a");
    let body = json!({ "name": "exd-a", "attachment": { "netns": "/run/netns/exd-a" } });
    assert!(rig.control("POST", "/v2/sandboxes", &body.to_string()).contains("exd-a"));
    assert!(rig.pushes(&policy).contains("KEY"), "nobody knows it");

    let told = rig.sets("KEY", &value("canary-one"));
    assert_eq!(told, r#"{"name":"KEY","source":"api","state":"ready"}"#);
    assert!(!rig.pushes(&policy).contains("error"));
    assert_eq!((rig.asks("/1").as_str(), rig.last_seen().as_str()), ("200", "/1 Bearer canary-one"));
    // It is changed, and nothing is pushed.
    rig.sets("KEY", &value("canary-two\n"));
    assert_eq!((rig.asks("/2").as_str(), rig.last_seen().as_str()), ("200", "/2 Bearer canary-two"));

    // Where it may go is what the policy was compiled with; and what the settings define is theirs.
    let elsewhere = json!({ "value": "canary-three", "to": ["api.rig", "other.rig"], "methods": ["GET"] });
    assert!(rig.sets("KEY", &elsewhere).contains("sandbox `exd-a` uses `KEY`"));
    assert!(rig.control("DELETE", "/secrets/KEY", "").contains("sandbox `exd-a` uses `KEY`"));
    for name in ["FILE", "VAULT"] {
        assert!(rig.sets(name, &value("canary-four")).contains("settings"), "{name}");
        assert!(rig.control("DELETE", &format!("/secrets/{name}"), "").contains("settings"), "{name}");
    }
    // What cannot be is not told again: it may hold the value.
    for (name, said) in [
        ("KEY", json!("canary-five")),
        ("KEY", json!({ "value": ["canary-five"], "to": ["api.rig"] })),
        ("KEY", json!({ "value": "x", "to": ["api.rig"], "canary-five": 1 })),
        ("KEY", json!({ "value": "x", "to": ["canary five"] })),
        ("KEY", json!({ "value": "x", "to": [] })),
        ("KEY", json!({ "value": "\n", "to": ["api.rig"] })),
        ("KEY", json!({ "value": "x", "to": ["api.rig"], "expiresIn": 0 })),
        ("KEY", json!({ "value": "x".repeat(100_000), "to": ["api.rig"] })),
        ("1KEY", value("canary-five")),
    ] {
        assert!(rig.sets(name, &said).contains("error"), "{said}");
    }
    assert_eq!((rig.asks("/3").as_str(), rig.last_seen().as_str()), ("200", "/3 Bearer canary-two"));

    // It survives a crash; what has expired is not sent.
    rig.ends(Some(Signal::SIGKILL));
    assert!(rig.is_in("KEY", "ready"));
    assert_eq!((rig.asks("/4").as_str(), rig.last_seen().as_str()), ("200", "/4 Bearer canary-two"));
    let mut short = value("canary-six");
    short.as_object_mut().expect("an object").insert("expiresIn".to_owned(), json!(2));
    assert!(rig.sets("KEY", &short).contains("expiresAt"));
    assert!(eventually(|| rig.is_in("KEY", "unavailable")), "{}", rig.secret("KEY"));
    assert_eq!(rig.asks("/5"), "503 secret-unavailable");
    rig.ends(Some(Signal::SIGKILL));
    assert!(rig.is_in("KEY", "unavailable"), "{}", rig.secret("KEY"));
    assert!(rig.control("GET", "/readyz", "").contains("secret KEY (api): unavailable"));
    assert_eq!(rig.asks("/6"), "503 secret-unavailable");
    rig.sets("KEY", &value("canary-seven"));
    assert_eq!((rig.asks("/7").as_str(), rig.last_seen().as_str()), ("200", "/7 Bearer canary-seven"));

    // Once no policy uses it, it can be forgotten.
    assert!(!rig.pushes(&json!("deny-all")).contains("error"));
    assert!(rig.control("DELETE", "/secrets/KEY", "").contains(r#""name":"KEY""#));
    assert!(rig.control("DELETE", "/secrets/KEY", "").contains("not_found"));
    assert!(!rig.control("GET", "/secrets", "").contains("KEY"));
    assert!(rig.pushes(&policy).contains("error"));
    rig.ends(Some(Signal::SIGKILL));
    assert!(!rig.control("GET", "/secrets", "").contains("KEY"));
    for name in ["told", "audit", "said", "state/sandboxes.redb"] {
        assert!(!rig.holds(name).contains("canary"), "{name}");
    }
}

#[test]
fn a_secret_that_was_set_over_the_api_survives_a_take_over() {
    let Some(mut rig) = Rig::new("") else { return };
    let policy = json!({ "allow": { "api.rig": [
        { "match": { "method": ["GET"] }, "transform": [{ "headers": { "authorization": "Bearer ${secrets.KEY}" } }] },
    ] } });
    let mut good = value("canary-one");
    good.as_object_mut().expect("an object").insert("expiresIn".to_owned(), json!(3600));
    rig.sets("KEY", &good);
    rig.sets("SPARE", &value("canary-spare"));
    rig.ground.sandbox("exd-a");
    let body = json!({ "name": "exd-a", "attachment": { "netns": "/run/netns/exd-a" }, "networkPolicy": policy });
    assert!(rig.control("POST", "/v2/sandboxes", &body.to_string()).contains("exd-a"));
    assert_eq!((rig.asks("/1").as_str(), rig.last_seen().as_str()), ("200", "/1 Bearer canary-one"));
    let before = rig.secret("KEY");
    rig.hands_over();
    let after = rig.secret("KEY");
    // Told by the wall's clock, kept by one that never goes back: a few milliseconds lie between.
    let [before, after] =
        [before, after].map(|told| told.get("expiresAt").and_then(serde_json::Value::as_u64).expect("a time"));
    assert!(before.abs_diff(after) < 1000, "{before} {after}");
    assert_eq!((rig.asks("/2").as_str(), rig.last_seen().as_str()), ("200", "/2 Bearer canary-one"));
    // The successor sets and forgets like the one before it, and hands on what it has.
    rig.sets("KEY", &value("canary-two"));
    assert!(rig.control("DELETE", "/secrets/KEY", "").contains("sandbox `exd-a` uses `KEY`"));
    assert!(rig.control("DELETE", "/secrets/SPARE", "").contains(r#""name":"SPARE""#));
    rig.hands_over();
    assert_eq!((rig.asks("/3").as_str(), rig.last_seen().as_str()), ("200", "/3 Bearer canary-two"));
    assert!(rig.is_in("KEY", "ready") && !rig.control("GET", "/secrets", "").contains("SPARE"));
    assert!(!rig.pushes(&policy).contains("error"));
    for name in ["told", "audit", "said", "state/sandboxes.redb"] {
        assert!(!rig.holds(name).contains("canary"), "{name}");
    }
}
