//! A policy that was read back, written again: what comes back from the API (POLICY §9) says all that a policy does,
//! but for values. Shared by `tests/policies.rs` and the fuzz target `wire_roundtrip`.

use exeat::policy::{Flags, Policy, Source, Terms};
use serde_json::{Map, Value, json};

/// Reads a policy back, writes it again in every spelling that can say it, and holds the results to the first.
///
/// # Panics
/// If something is lost or added on the way.
pub(crate) fn hold(policy: &Policy) {
    let form = json!(policy.response_form());
    let Some(document) = newer(&form) else { return };
    assert_eq!(json!(compile(&document).response_form()), form, "{document}");
    let older_says_all = ["forwardRules", "responseRules", "passRules", "opaqueRules"];
    if form.get("mode") == Some(&json!("custom")) && older_says_all.iter().all(|key| form.get(key).is_none()) {
        let document = older(&form).to_string();
        assert_eq!(json!(compile(&document).response_form()), form, "{document}");
    }
}

fn compile(text: &str) -> Policy {
    let source = Source { path: "again.json", text };
    let compiled = Policy::compile(Some(source), &Flags::default(), &Terms::default());
    assert!(compiled.is_ok(), "{text}\n{}", compiled.err().map(|faults| faults.to_string()).unwrap_or_default());
    compiled.map(|compiled| compiled.policy).unwrap_or_else(|_| Policy::deny_all())
}

/// Keys that mean the same in a document.
const SAME: [&str; 6] = ["deny", "strict", "denials", "dns", "observe", "placeholders"];

/// As the reference SDK writes a policy; `None` if a header was set whose value matters for compiling.
fn newer(form: &Value) -> Option<String> {
    // Domains stay in their order, which a map would lose.
    let domains = list(form, "allowedDomains").iter().map(|domain| Some((domain.as_str()?, Vec::new())));
    let mut allow: Vec<(&str, Vec<Value>)> = domains.collect::<Option<_>>()?;
    for (kind, action) in [
        ("injectionRules", injection as fn(&Value) -> Option<Value>),
        ("forwardRules", |rule| Some(json!({ "forwardURL": rule.get("forwardURL")? }))),
        ("responseRules", |rule| Some(json!({ "response": { "statusCode": rule.get("statusCode")? } }))),
        ("passRules", |_| Some(json!({}))),
        ("opaqueRules", |rule| Some(json!({ "opaque": { "ports": rule.get("ports")? } }))),
    ] {
        for rule in list(form, kind) {
            let mut written = action(rule)?;
            if let (Some(when), Value::Object(written)) = (rule.get("match"), &mut written) {
                written.insert("match".to_owned(), when.clone());
            }
            allow
                .iter_mut()
                .find(|(domain, _)| rule.get("domain").and_then(Value::as_str) == Some(*domain))?
                .1
                .push(written);
        }
    }
    let mut document = Map::new();
    if let Some(mode) = form.get("mode").filter(|mode| **mode != "custom") {
        document.insert("mode".to_owned(), mode.clone());
    }
    own_keys(form, &mut document);
    if form.get("mode") == Some(&json!("deny-all")) {
        return Some(Value::Object(document).to_string());
    }
    let ranges = |key| Value::Array(list(form, key).to_vec());
    document.insert("subnets".to_owned(), json!({ "allow": ranges("allowedCIDRs"), "deny": ranges("deniedCIDRs") }));
    let entries: Vec<String> =
        allow.iter().map(|(domain, rules)| format!("{}:{}", json!(domain), json!(rules))).collect();
    let rest = Value::Object(document).to_string();
    Some(format!("{{\"allow\":{{{}}},{}", entries.join(","), rest.strip_prefix('{')?))
}

/// As the API spelled it before.
fn older(form: &Value) -> Value {
    let mut document = Map::new();
    for key in ["mode", "allowedDomains", "allowedCIDRs", "deniedCIDRs"] {
        document.extend(form.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    let rules: Vec<Value> = list(form, "injectionRules")
        .iter()
        .map(|rule| {
            let mut rule = rule.as_object().cloned().unwrap_or_default();
            let names = rule.remove("headerNames");
            rule.insert("headers".to_owned(), redacted(names.as_ref()));
            Value::Object(rule)
        })
        .collect();
    document.insert("injectionRules".to_owned(), json!(rules));
    own_keys(form, &mut document);
    Value::Object(document)
}

fn own_keys(form: &Value, document: &mut Map<String, Value>) {
    for key in SAME {
        document.extend(form.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    let names = form.get("placeholders").and_then(Value::as_object).into_iter().flat_map(Map::values);
    let secrets: Map<String, Value> = names
        .filter_map(Value::as_str)
        .map(|name| (name.to_owned(), json!({ "env": "X", "to": ["a.test"] })))
        .collect();
    document.insert("secrets".to_owned(), Value::Object(secrets));
}

fn injection(rule: &Value) -> Option<Value> {
    let names = rule.get("headerNames")?;
    // What `host` is set to must be a name that the policy allows.
    let host = names.as_array()?.iter().any(|name| name.as_str().is_some_and(|name| name.eq_ignore_ascii_case("host")));
    (!host).then(|| json!({ "transform": [{ "headers": redacted(Some(names)) }] }))
}

fn redacted(names: Option<&Value>) -> Value {
    let names = names.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    names.iter().filter_map(|name| Some((name.as_str()?.to_owned(), json!("redacted")))).collect::<Map<_, _>>().into()
}

fn list<'a>(form: &'a Value, key: &str) -> &'a [Value] {
    form.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}
