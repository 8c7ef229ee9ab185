//! What the daemon answers, as people read it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::table::aligned;
use crate::cli::policy::plural;

/// All sandboxes, one a row.
pub(super) fn list(sandboxes: &[Value]) -> String {
    let mut rows = vec![["NAME", "STATUS", "ATTACHMENT", "POLICY", "AGE"].map(str::to_owned)];
    rows.extend(sandboxes.iter().map(|sandbox| {
        let state = attachment(sandbox);
        [text(sandbox, "/name"), text(sandbox, "/status"), state, summary(sandbox), age(sandbox, "/createdAt")]
    }));
    aligned(&rows)
}

/// One sandbox, one thing a row.
pub(super) fn sandbox(sandbox: &Value) -> String {
    let list = |key: &str| {
        let items = sandbox.pointer(&format!("/networkPolicy/{key}")).and_then(Value::as_array);
        let items: Vec<&str> = items.into_iter().flatten().filter_map(Value::as_str).collect();
        items.join(", ")
    };
    let bytes = |key: &str| sandbox.pointer(key).and_then(Value::as_u64).unwrap_or_default();
    let (in_, out) = (bytes("/totalIngressBytes"), bytes("/totalEgressBytes"));
    let rows = [
        ("name", text(sandbox, "/name")),
        ("status", text(sandbox, "/status")),
        ("session", text(sandbox, "/currentSessionId")),
        ("created", moment(sandbox, "/createdAt")),
        ("updated", moment(sandbox, "/updatedAt")),
        ("stopped", moment(sandbox, "/stoppedAt")),
        ("attachment", attachment(sandbox)),
        ("identity", text(sandbox, "/attachment/id")),
        ("policy", summary(sandbox)),
        ("revision", text(sandbox, "/revision")),
        ("generation", text(sandbox, "/generation")),
        ("allowed names", list("allowedDomains")),
        ("allowed ranges", list("allowedCIDRs")),
        ("denied ranges", list("deniedCIDRs")),
        ("limits", limits(sandbox)),
        ("bytes", format!("{in_} in, {out} out")),
    ];
    let known = rows.into_iter().filter(|(_, value)| !value.is_empty() && value != "-");
    aligned(&known.map(|(name, value)| [name.to_owned(), value]).collect::<Vec<_>>())
}

/// How a sandbox's packets arrive, and what became of that.
pub(super) fn attachment(sandbox: &Value) -> String {
    let Some(attachment) = sandbox.get("attachment") else { return "-".to_owned() };
    let netns = attachment.pointer("/spec/netns").and_then(Value::as_str).map(|path| format!("netns {path}"));
    let device = attachment.pointer("/spec/interface/name").and_then(Value::as_str);
    let spec = netns.or_else(|| Some(format!("interface {}", device?))).unwrap_or_default();
    let state = text(attachment, "/state");
    match attachment.get("reason").and_then(Value::as_str) {
        _ if state == "attached" => spec,
        Some(reason) => format!("{spec} ({state}: {reason})"),
        None => format!("{spec} ({state})"),
    }
}

/// What a sandbox may use, as `ctl limit` takes it.
pub(super) fn limits(sandbox: &Value) -> String {
    let limits = sandbox.get("limits").and_then(Value::as_object).into_iter().flatten();
    let limits: Vec<String> = limits.map(|(key, most)| format!("{key}={most}")).collect();
    if limits.is_empty() { "-".to_owned() } else { limits.join(" ") }
}

/// A policy in a few words.
fn summary(sandbox: &Value) -> String {
    let count = |key: &str| {
        let list = sandbox.pointer(&format!("/networkPolicy/{key}")).and_then(Value::as_array);
        list.map_or(0, Vec::len)
    };
    let parts = [
        (count("allowedDomains"), "name"),
        (count("allowedCIDRs"), "range"),
        (count("injectionRules"), "injection"),
        (count("deniedDomains") + count("deny"), "denied name"),
        (count("deniedCIDRs"), "denied range"),
    ];
    let parts: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| plural(*n, what)).collect();
    match (text(sandbox, "/networkPolicy/mode").as_str(), parts.is_empty()) {
        ("custom", true) => "nothing".to_owned(),
        ("custom", false) => parts.join(", "),
        (mode, true) => mode.to_owned(),
        (mode, false) => format!("{mode}, {}", parts.join(", ")),
    }
}

/// Open flows, one a row.
pub(super) fn flows(flows: &Value) -> String {
    let mut rows = vec![["FLOW", "NAME", "ADDRESS", "PORT", "AGE"].map(str::to_owned)];
    rows.extend(flows.as_array().into_iter().flatten().map(|flow| {
        [text(flow, "/flow"), text(flow, "/name"), text(flow, "/address"), text(flow, "/port"), age(flow, "/since")]
    }));
    aligned(&rows)
}

/// Secrets, one a row.
pub(super) fn secrets(secrets: &Value) -> String {
    let mut rows =
        vec![["NAME", "SOURCE", "STATE", "EXPIRES", "NEXT REFRESH", "FAILING SINCE", "WHY"].map(str::to_owned)];
    rows.extend(secrets.as_array().into_iter().flatten().map(|secret| {
        let [name, source, state, why] = ["/name", "/source", "/state", "/reason"].map(|key| text(secret, key));
        let [expires, next, since] = ["/expiresAt", "/nextRefresh", "/failingSince"].map(|key| moment(secret, key));
        [name, source, state, expires, next, since, why]
    }));
    aligned(&rows)
}

/// Variables, as a shell sets them.
pub(super) fn variables(trust: &Value) -> String {
    let pairs = trust.get("variables").and_then(Value::as_object).into_iter().flatten();
    pairs.filter_map(|(name, value)| Some(format!("{name}={}\n", value.as_str()?))).collect()
}

/// A judgement, question by question, as `exeat explain` shows it.
pub(super) fn explained(asked: &str, judged: &Value) -> String {
    let mut rows = Vec::new();
    for step in judged.get("steps").and_then(Value::as_array).into_iter().flatten() {
        let why: Vec<String> =
            ["/rule", "/note"].iter().map(|key| text(step, key)).filter(|text| text != "-").collect();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("  ")) };
        rows.push([text(step, "/step"), text(step, "/answer"), format!("{}{why}", text(step, "/question"))]);
    }
    let reason = match (text(judged, "/reason").as_str(), text(judged, "/route").as_str()) {
        ("-", route) => format!("allow: {route}"),
        (reason, "-") => format!("deny: {reason}"),
        (reason, route) => format!("deny: {reason}, only observed: {route}"),
    };
    let rule = judged.get("rule").and_then(Value::as_str).map(|rule| format!(", by {rule}")).unwrap_or_default();
    let injected = judged.get("injected").and_then(Value::as_array).into_iter().flatten();
    let injected: Vec<&str> = injected.filter_map(Value::as_str).collect();
    let mut fields = Vec::new();
    for (name, value) in [
        ("  injected:", injected.join(", ")),
        ("  status:", text(judged, "/status")),
        ("  revision:", text(judged, "/revision")),
        ("  to allow it:", text(judged, "/hint")),
    ] {
        if !value.is_empty() && value != "-" {
            fields.push([name.to_owned(), value]);
        }
    }
    let verdict = aligned(&[[format!("{reason}{rule}")]]);
    format!("{}\n{}\n{verdict}{}", aligned(&[[asked.to_owned()]]), aligned(&rows), aligned(&fields))
}

/// A text or a number, or `-`.
pub(super) fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "-".to_owned(),
    }
}

fn at(value: &Value, pointer: &str) -> Option<SystemTime> {
    let milliseconds = value.pointer(pointer).and_then(Value::as_u64)?;
    UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds))
}

fn moment(value: &Value, pointer: &str) -> String {
    let moment = at(value, pointer).map(|at| OffsetDateTime::from(at).truncate_to_second());
    moment.and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_else(|| "-".to_owned())
}

/// How long ago, in the largest whole unit.
fn age(value: &Value, pointer: &str) -> String {
    let Some(since) = at(value, pointer) else { return "-".to_owned() };
    let seconds = SystemTime::now().duration_since(since).unwrap_or_default().as_secs();
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
        if seconds >= length {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{seconds}s")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_says_of_each_what_matters() {
        let policy = json!({ "mode": "custom", "allowedDomains": ["a.test", "b.test"], "deniedCIDRs": ["10.0.0.0/8"] });
        let attachment = json!({ "spec": { "netns": "/run/netns/a" }, "id": "7", "state": "attached" });
        let gone = json!({ "spec": { "interface": { "name": "tap0" } }, "state": "quarantined", "reason": "eth1" });
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let sandboxes = [
            json!({ "name": "a", "status": "running", "createdAt": now - 7_300_000, "networkPolicy": policy,
                "attachment": attachment }),
            json!({ "name": "longer", "status": "stopped", "createdAt": now - 61_000,
                "networkPolicy": { "mode": "deny-all" } }),
            json!({ "name": "c", "status": "running", "createdAt": 0, "networkPolicy": { "mode": "custom" },
                "attachment": gone }),
        ];
        let days = now / 86_400_000;
        let expected = format!(
            "NAME    STATUS   ATTACHMENT                          POLICY                   AGE\n\
             a       running  netns /run/netns/a                  2 names, 1 denied range  2h\n\
             longer  stopped  -                                   deny-all                 1m\n\
             c       running  interface tap0 (quarantined: eth1)  nothing                  {days}d\n"
        );
        assert_eq!(list(&sandboxes), expected);
        assert_eq!(list(&[]), "NAME  STATUS  ATTACHMENT  POLICY  AGE\n");
    }

    #[test]
    fn a_list_of_secrets_says_how_each_is_kept() {
        let listed = json!([
            { "name": "A", "source": "env", "state": "ready" },
            { "name": "B", "source": "vault", "state": "failing", "expiresAt": 86_400_000, "nextRefresh": 1_000,
                "failingSince": 0, "reason": "it is sealed" },
        ]);
        let expected = "\
            NAME  SOURCE  STATE    EXPIRES               NEXT REFRESH          FAILING SINCE         WHY\n\
            A     env     ready    -                     -                     -                     -\n\
            B     vault   failing  1970-01-02T00:00:00Z  1970-01-01T00:00:01Z  1970-01-01T00:00:00Z  it is sealed\n";
        assert_eq!(secrets(&listed), expected);
    }
}
