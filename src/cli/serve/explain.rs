//! How a policy judges a target, as data.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::policy::judge::{Facts, Question};
use crate::policy::{Policy, Protected};

/// The fields of the audit record that a connection to the target would come to (POLICY §10). The target is a URL, or
/// `HOST:PORT`.
///
/// # Errors
/// Says what no client would send.
pub(super) fn explain(
    policy: &Policy,
    host: &Protected,
    method: &str,
    target: &str,
    address: Option<IpAddr>,
) -> Result<Value, String> {
    let question = if target.contains("://") { Question::request(method, target) } else { Question::connect(target) };
    let question = question.and_then(|question| match address {
        Some(address) => question.resolved_to(address),
        None => Ok(question),
    });
    Ok(fields(policy.judge(&question.map_err(|fault| fault.to_string())?, host)))
}

fn fields(facts: Facts) -> Value {
    let verdict = facts.verdict();
    let reason = facts.reason();
    let Facts { outcome, observed, basis, injected, status, name, address, port, request } = facts;
    let mut object = Map::new();
    let mut add = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            object.insert(key.to_owned(), value);
        }
    };
    add("verdict", Some(json!(verdict)));
    add("route", outcome.ok().map(|route| json!(route.as_str())));
    add("reason", reason.map(|reason| json!(reason.as_str())));
    add("observed", observed.map(|_| json!(true)));
    add("rule", basis.rule.map(|rule| json!(rule)));
    add("revision", Some(json!(basis.revision.to_string())));
    add("name", name.map(|name| json!(name.as_str())));
    add("address", address.map(|address| json!(address)));
    add("port", Some(json!(port)));
    let (method, path) = request.unzip();
    add("method", method.map(Value::String));
    add("path", path.map(Value::String));
    add("injected", Some(json!(injected)).filter(|_| !injected.is_empty()));
    add("status", status.map(|status| json!(status.as_u16())));
    Value::Object(object)
}
