//! What comes back from the API (POLICY §9): a policy in the older custom form, always with a `mode`, never with a
//! value.
//!
//! Clients of the reference product read `mode`, `allowedDomains`, `allowedCIDRs`, `deniedCIDRs`, `injectionRules`
//! (header names alone) and `forwardRules`, and pass over the rest. Our own keys stand beside those, spelled as in a
//! document, and only where they are used; what rules do beside injecting and forwarding is told in `responseRules`,
//! `opaqueRules`, `placeholderRules` and `passRules`, by domain and with its `match`.
//!
//! `INVARIANT`: no text of a header's value, of a body or of a secret's source stands in it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::placeholder::Place;
use super::verdict::RuleId;
use super::{Base, Denials, Dns, Entry, Handling, Policy, Rule, Then};
use crate::matcher::cidr::CidrMap;
use crate::matcher::domain::DomainPattern;
use crate::matcher::request::{PairMatch, RequestMatch, TextMatch};

/// A policy as the API gives it back.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyForm {
    mode: ModeForm,
    /// Domains that may be reached, in the order in which they were written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_domains: Vec<String>,
    /// Ranges that may be reached, whatever is spoken.
    #[serde(rename = "allowedCIDRs", skip_serializing_if = "Vec::is_empty")]
    allowed_cidrs: Vec<String>,
    /// Ranges that may not be reached.
    #[serde(rename = "deniedCIDRs", skip_serializing_if = "Vec::is_empty")]
    denied_cidrs: Vec<String>,
    /// Domains that may not be reached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny: Vec<String>,
    /// Every flow that is permitted by name is terminated.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    strict: bool,
    /// What would be denied is let through, and told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    observe: bool,
    /// How denials look, if not as usual: `terse`.
    #[serde(skip_serializing_if = "Option::is_none")]
    denials: Option<&'static str>,
    /// Which names are resolved, if not as usual: `any`, `names` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<&'static str>,
    /// Variables of the sandbox, and the secrets that they stand for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    placeholders: BTreeMap<String, String>,
    /// Rules that set headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    injection_rules: Vec<InjectionForm>,
    /// Rules that send a request elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    forward_rules: Vec<ForwardForm>,
    /// Rules that answer a request here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    response_rules: Vec<ResponseForm>,
    /// Rules that let a request go on unchanged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pass_rules: Vec<PassForm>,
    /// Rules that sign a request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sign_rules: Vec<SignForm>,
    /// Rules that have placeholders replaced elsewhere than in headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    placeholder_rules: Vec<ReplaceForm>,
    /// Rules that relay another protocol.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    opaque_rules: Vec<OpaqueForm>,
}

/// What holds where no list says anything; `{}` reads back as custom (POLICY §9), and so does whatever has lists.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum ModeForm {
    AllowAll,
    DenyAll,
    Custom,
}

/// A rule that sets headers: their names, never their values.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct InjectionForm {
    domain: String,
    header_names: Vec<String>,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    when: Option<MatchForm>,
}

/// A rule that sends a request elsewhere.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct ForwardForm {
    domain: String,
    #[serde(rename = "forwardURL")]
    url: String,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    when: Option<MatchForm>,
}

/// A rule that answers a request here: its status, never its body.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ResponseForm {
    domain: String,
    status_code: u16,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    when: Option<MatchForm>,
}

/// A rule that lets a request go on unchanged.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct PassForm {
    domain: String,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    when: Option<MatchForm>,
}

/// A rule that signs a request: how, and which headers it sets, never a key.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SignForm {
    domain: String,
    kind: &'static str,
    header_names: Vec<String>,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    when: Option<MatchForm>,
}

/// A rule that has placeholders replaced elsewhere than in headers: in the `query`, in the `body`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct ReplaceForm {
    domain: String,
    #[serde(rename = "in")]
    places: Vec<&'static str>,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    when: Option<MatchForm>,
}

/// A rule that relays another protocol.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct OpaqueForm {
    domain: String,
    ports: Vec<u16>,
}

/// A `match` as it is written.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct MatchForm {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    method: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<TextForm>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    query_string: Vec<PairForm>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<PairForm>,
}

/// A name and a value, one of which at least is told.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct PairForm {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<TextForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<TextForm>,
}

/// What a text must be.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum TextForm {
    Exact(String),
    StartsWith(String),
    Regex(String),
    Glob(String),
}

impl Policy {
    /// The policy as the API gives it back.
    #[must_use]
    pub fn response_form(&self) -> PolicyForm {
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
            stand_ins: _,
        } = self;
        let default_dns = if matches!(base, Base::AllowAll(_)) { Dns::Any } else { Dns::Names };
        let mut form = PolicyForm {
            mode: ModeForm::of(base),
            allowed_domains: allow.iter().map(|(pattern, _)| pattern.to_string()).collect(),
            allowed_cidrs: ranges(subnets_allow),
            denied_cidrs: ranges(subnets_deny),
            deny: deny.iter().map(|(pattern, _)| pattern.to_string()).collect(),
            strict: *strict,
            observe: *observe,
            denials: (*denials == Denials::Terse).then_some("terse"),
            dns: (*dns != default_dns).then(|| dns.word()),
            placeholders: placeholders
                .iter()
                .map(|(variable, name)| (variable.as_str().to_owned(), name.as_str().to_owned()))
                .collect(),
            injection_rules: Vec::new(),
            forward_rules: Vec::new(),
            response_rules: Vec::new(),
            pass_rules: Vec::new(),
            sign_rules: Vec::new(),
            placeholder_rules: Vec::new(),
            opaque_rules: Vec::new(),
        };
        for (pattern, entry) in allow.iter() {
            form.add(pattern, entry);
        }
        form
    }
}

impl ModeForm {
    fn of(base: &Base) -> Self {
        match base {
            Base::AllowAll(_) => Self::AllowAll,
            Base::DenyAll(Some(_)) => Self::DenyAll,
            Base::DenyAll(None) | Base::Lists => Self::Custom,
        }
    }
}

fn ranges(map: &CidrMap<RuleId>) -> Vec<String> {
    map.iter().map(|(range, _)| range.to_string()).collect()
}

impl PolicyForm {
    /// Adds the rules of an entry.
    fn add(&mut self, pattern: DomainPattern<&str>, entry: &Entry) {
        let Some(Handling { rules, reads_path: _, brokers: _, opaque }) = entry.handling.as_deref() else { return };
        for Rule { id: _, when, then } in rules {
            let (domain, when) = (pattern.as_str().to_owned(), MatchForm::of(when));
            match then {
                Then::Pass => self.pass_rules.push(PassForm { domain, when }),
                Then::Transform(injections) => {
                    let header_names = injections.iter().map(|injection| injection.spelled.to_string()).collect();
                    self.injection_rules.push(InjectionForm { domain, header_names, when });
                }
                Then::Sign(signing) => {
                    let header_names = signing.headers().map(ToString::to_string).collect();
                    self.sign_rules.push(SignForm { domain, kind: signing.kind(), header_names, when });
                }
                Then::Replace(places) => {
                    let places = places.iter().map(Place::word).collect();
                    self.placeholder_rules.push(ReplaceForm { domain, places, when });
                }
                Then::Divert(url) => {
                    self.forward_rules.push(ForwardForm { domain, url: url.text.to_string(), when });
                }
                Then::Respond(answer) => {
                    self.response_rules.push(ResponseForm { domain, status_code: answer.status.as_u16(), when });
                }
            }
        }
        if !opaque.is_empty() {
            let ports = opaque.iter().map(|(port, _)| *port).collect();
            self.opaque_rules.push(OpaqueForm { domain: pattern.as_str().to_owned(), ports });
        }
    }
}

impl MatchForm {
    /// None where every request matches.
    fn of(when: &RequestMatch) -> Option<Self> {
        let RequestMatch { methods, path, query, headers } = when;
        let form = Self {
            method: methods.iter().map(ToString::to_string).collect(),
            path: path.as_ref().map(TextForm::of),
            query_string: query.iter().map(PairForm::of).collect(),
            headers: headers.iter().map(PairForm::of).collect(),
        };
        let any =
            !form.method.is_empty() || form.path.is_some() || !form.query_string.is_empty() || !form.headers.is_empty();
        any.then_some(form)
    }
}

impl PairForm {
    fn of(PairMatch { key, value }: &PairMatch) -> Self {
        Self { key: key.as_ref().map(TextForm::of), value: value.as_ref().map(TextForm::of) }
    }
}

impl TextForm {
    fn of(matcher: &TextMatch) -> Self {
        match matcher {
            TextMatch::Exact(text) => Self::Exact(text.to_string()),
            TextMatch::StartsWith(text) => Self::StartsWith(text.to_string()),
            TextMatch::Regex(regex) => Self::Regex(regex.as_str().to_owned()),
            TextMatch::Glob { text, regex: _ } => Self::Glob(text.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::{Flags, Source, Terms};

    fn form(text: &str) -> Value {
        let source = Source { path: "p.yaml", text };
        let compiled = Policy::compile(Some(source), &Flags::default(), &Terms::default());
        json!(compiled.unwrap_or_else(|faults| panic!("{faults}")).policy.response_form())
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
secrets: {KEY: {env: canary, to: [z.test, a.test]}, TOKEN: {env: canary, to: [a.test]}}
placeholders: {VAR: KEY, WORD: TOKEN}
allow:
  a.test:
    - transform: [{headers: {X-Api-Key: 'canary ${secrets.KEY}'}}, {headers: {Authorization: canary}}]
      match: {method: [GET], path: {glob: /a/*}, queryString: [{key: {exact: k}, value: {regex: v+}}]}
    - {match: {headers: [{key: {exact: X-Kind}}]}, forwardURL: 'https://x.test/p/'}
    - response: {statusCode: 403, contentType: text/plain, body: canary, headers: {x: canary}}
    - {placeholders: {in: [body, query]}, match: {path: {exact: /x}}}
    - {}
  b.test: [{opaque: {ports: [22, 5432]}}]
  z.test: [{sign: {hmac: {key: KEY, header: X-Sign, over: 'canary ${path}', prefix: canary}}}]
";
        let expected = json!({
            "mode": "custom",
            "allowedDomains": ["a.test", "b.test", "z.test"],
            "placeholders": { "VAR": "KEY", "WORD": "TOKEN" },
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
            "placeholderRules": [{
                "domain": "a.test",
                "in": ["query", "body"],
                "match": { "path": { "exact": "/x" } },
            }],
            "signRules": [{ "domain": "z.test", "kind": "hmac", "headerNames": ["x-sign"] }],
            "opaqueRules": [{ "domain": "b.test", "ports": [22, 5432] }],
        });
        assert_eq!(form(text), expected);
        assert!(!form(text).to_string().contains("canary"));
    }
}
