//! What comes back from the API (POLICY §9): a policy in the older custom form, always with a `mode`, never with a
//! value.
//!
//! Clients of the reference product read `mode`, `allowedDomains`, `allowedCIDRs`, `deniedCIDRs`, `injectionRules`
//! (header names alone) and `forwardRules`, and pass over the rest. Our own keys stand beside those, spelled as in a
//! document, and only where they are used; what rules do beside injecting and forwarding is told in `responseRules`,
//! `opaqueRules` and `passRules`, by domain and with its `match`.
//!
//! `INVARIANT`: no text of a header's value, of a body or of a secret's source stands in it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::verdict::RuleId;
use super::{Base, Denials, Dns, Entry, Handling, Policy, Rule, Then};
use crate::matcher::cidr::CidrMap;
use crate::matcher::domain::DomainPattern;
use crate::matcher::request::{PairMatch, RequestMatch, TextMatch};

impl Policy {
    /// The policy as the API gives it back.
    #[must_use]
    pub fn response_form(&self) -> Value {
        let Self {
            revision: _,
            base,
            allow,
            deny,
            subnets_allow,
            subnets_deny,
            opened: _,
            strict,
            denials,
            dns,
            observe,
            sources: _,
            grants: _,
            placeholders,
        } = self;
        let mut form = Form::default();
        for (pattern, entry) in allow.iter() {
            form.domains.push(pattern.to_string());
            form.entry(pattern, entry);
        }
        let Form { domains, rules } = form;
        let denied: Vec<String> = deny.iter().map(|(pattern, _)| pattern.to_string()).collect();
        let secrets: BTreeMap<&str, &str> =
            placeholders.iter().map(|(variable, name)| (variable.as_str(), name.as_str())).collect();
        let default_dns = if matches!(base, Base::AllowAll(_)) { Dns::Any } else { Dns::Names };
        let mut object = Map::new();
        object.insert("mode".into(), json!(self.mode_word()));
        let mut add = |key: &str, used: bool, value: Value| {
            if used {
                object.insert(key.to_owned(), value);
            }
        };
        add("allowedDomains", !domains.is_empty(), json!(domains));
        add("allowedCIDRs", !subnets_allow.is_empty(), ranges(subnets_allow));
        add("deniedCIDRs", !subnets_deny.is_empty(), ranges(subnets_deny));
        add("deny", !denied.is_empty(), json!(denied));
        add("strict", *strict, json!(true));
        add("observe", *observe, json!(true));
        add("denials", *denials == Denials::Terse, json!("terse"));
        add("dns", *dns != default_dns, json!(dns.word()));
        add("placeholders", !secrets.is_empty(), json!(secrets));
        for (key, list) in rules {
            add(key, true, Value::Array(list));
        }
        Value::Object(object)
    }

    /// `{}` reads back as custom (POLICY §9), and so does whatever has lists.
    fn mode_word(&self) -> &'static str {
        match &self.base {
            Base::AllowAll(_) => "allow-all",
            Base::DenyAll(Some(_)) => "deny-all",
            Base::DenyAll(None) | Base::Lists => "custom",
        }
    }
}

fn ranges(map: &CidrMap<RuleId>) -> Value {
    map.iter().map(|(range, _)| range.to_string()).collect()
}

/// The lists of domains and their rules.
#[derive(Default)]
struct Form {
    domains: Vec<String>,
    rules: BTreeMap<&'static str, Vec<Value>>,
}

impl Form {
    fn entry(&mut self, pattern: DomainPattern<&str>, entry: &Entry) {
        let Some(Handling { rules, reads_path: _, brokers: _, opaque }) = entry.handling.as_deref() else { return };
        for Rule { id: _, when, then } in rules {
            let (list, mut told) = match then {
                Then::Pass => ("passRules", json!({})),
                Then::Transform(injections) => {
                    let names: Vec<&str> = injections.iter().map(|injection| &*injection.spelled).collect();
                    ("injectionRules", json!({ "headerNames": names }))
                }
                Then::Divert(url) => ("forwardRules", json!({ "forwardURL": url.text })),
                Then::Respond(answer) => ("responseRules", json!({ "statusCode": answer.status.as_u16() })),
            };
            if let Value::Object(told) = &mut told {
                told.insert("domain".into(), json!(pattern.as_str()));
                told.extend(request_match(when).map(|when| ("match".to_owned(), when)));
            }
            self.rules.entry(list).or_default().push(told);
        }
        if !opaque.is_empty() {
            let ports: Vec<u16> = opaque.iter().map(|(port, _)| *port).collect();
            self.rules.entry("opaqueRules").or_default().push(json!({ "domain": pattern.as_str(), "ports": ports }));
        }
    }
}

/// A `match` as it is written; none where every request matches.
fn request_match(when: &RequestMatch) -> Option<Value> {
    let RequestMatch { methods, path, query, headers } = when;
    let mut object = Map::new();
    if !methods.is_empty() {
        object.insert("method".into(), json!(methods));
    }
    object.extend(path.as_ref().map(|path| ("path".to_owned(), text_match(path))));
    for (key, pairs) in [("queryString", query), ("headers", headers)] {
        if !pairs.is_empty() {
            object.insert(key.into(), pairs.iter().map(pair_match).collect());
        }
    }
    (!object.is_empty()).then_some(Value::Object(object))
}

fn pair_match(PairMatch { key, value }: &PairMatch) -> Value {
    let mut object = Map::new();
    object.extend(key.as_ref().map(|key| ("key".to_owned(), text_match(key))));
    object.extend(value.as_ref().map(|value| ("value".to_owned(), text_match(value))));
    Value::Object(object)
}

fn text_match(matcher: &TextMatch) -> Value {
    match matcher {
        TextMatch::Exact(text) => json!({ "exact": text }),
        TextMatch::StartsWith(text) => json!({ "startsWith": text }),
        TextMatch::Regex(regex) => json!({ "regex": regex.as_str() }),
        TextMatch::Glob { text, regex: _ } => json!({ "glob": text }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Flags, Source, Terms};

    fn form(text: &str) -> Value {
        let source = Source { path: "p.yaml", text };
        let compiled = Policy::compile(Some(source), &Flags::default(), &Terms::default());
        compiled.unwrap_or_else(|faults| panic!("{faults}")).policy.response_form()
    }

    /// POLICY §9.
    #[test]
    fn a_policy_comes_back_in_the_custom_form_without_values() {
        for (text, expected) in [
            ("{}", json!({ "mode": "custom" })),
            ("allow-all", json!({ "mode": "allow-all" })),
            ("mode: default-deny", json!({ "mode": "deny-all" })),
            ("deny: [a.test]", json!({ "mode": "custom", "deny": ["a.test"] })),
            (
                "{mode: allow-all, dns: names, strict: true, denials: terse, observe: true}",
                json!({ "mode": "allow-all", "dns": "names", "strict": true, "denials": "terse", "observe": true }),
            ),
            (
                "allow: [B.test, '*.a.test']\nsubnets: {allow: [10.0.0.0/8], deny: [10.1.0.0/16]}",
                json!({
                    "mode": "custom",
                    "allowedDomains": ["b.test", "*.a.test"],
                    "allowedCIDRs": ["10.0.0.0/8"],
                    "deniedCIDRs": ["10.1.0.0/16"],
                }),
            ),
        ] {
            assert_eq!(form(text), expected, "{text}");
        }
    }

    #[test]
    fn rules_come_back_by_domain_with_the_case_of_header_names() {
        let text = "\
secrets: {KEY: {env: canary}}
placeholders: {VAR: KEY}
allow:
  a.test:
    - transform: [{headers: {X-Api-Key: 'canary ${secrets.KEY}'}}, {headers: {Authorization: canary}}]
      match: {method: [GET], path: {glob: /a/*}, queryString: [{key: {exact: k}, value: {regex: v+}}]}
    - {match: {headers: [{key: {exact: X-Kind}}]}, forwardURL: 'https://x.test/p/'}
    - response: {statusCode: 403, contentType: text/plain, body: canary, headers: {x: canary}}
    - {}
  b.test: [{opaque: {ports: [22, 5432]}}]
";
        let expected = json!({
            "mode": "custom",
            "allowedDomains": ["a.test", "b.test"],
            "placeholders": { "VAR": "KEY" },
            "injectionRules": [{
                "domain": "a.test",
                "headerNames": ["X-Api-Key", "Authorization"],
                "match": {
                    "method": ["GET"],
                    "path": { "glob": "/a/*" },
                    "queryString": [{ "key": { "exact": "k" }, "value": { "regex": "v+" } }],
                },
            }],
            "forwardRules": [{
                "domain": "a.test",
                "forwardURL": "https://x.test/p/",
                "match": { "headers": [{ "key": { "exact": "x-kind" } }] },
            }],
            "responseRules": [{ "domain": "a.test", "statusCode": 403 }],
            "passRules": [{ "domain": "a.test" }],
            "opaqueRules": [{ "domain": "b.test", "ports": [22, 5432] }],
        });
        assert_eq!(form(text), expected);
        assert!(!form(text).to_string().contains("canary"));
    }
}
