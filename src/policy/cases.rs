//! A document's `tests:`: cases that say what the policy should decide, and running them (POLICY §1).
//!
//! A case names its input, `request: "METHOD URL"` (with `headers` and the `address` dialled) or
//! `connect: "HOST:PORT"`, and the fields of the audit record that must hold. Running asks the policy exactly what a
//! connection would: [`Policy::decide_address`], [`Policy::decide`], [`Policy::decide_request`]. Nothing is resolved
//! and nobody is contacted.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Serialize;

use super::diagnostic::{Code, Fault};
use super::verdict::{Action, Basis, DenyReason, Permit, Route, RuleId, Verdict};
use super::wire::{Documents, Faults, HeaderKey, HeaderText, List, Table, TestWire, Text};
use super::{Policy, Protected};
use crate::flow::{
    Alpn, ClientAddr, Domain, Flow, FlowId, Hello, HttpVersion, OriginalDst, RequestHead, SandboxId, Scheme, Seen,
};

/// One case of `tests:`.
#[derive(Debug, Clone)]
pub struct Case {
    /// `FILE:LINE`.
    pub place: RuleId,
    input: Input,
    expected: Facts,
}

/// What one case came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// `FILE:LINE` of the case.
    pub place: RuleId,
    /// Its `request` or `connect`, as written.
    pub input: String,
    /// The expectations, as `field: expected, got`; empty if all hold.
    pub failures: Vec<Failure>,
}

/// An expectation that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The audit record's field.
    pub field: &'static str,
    /// What the case says.
    pub expected: String,
    /// What the policy decided; empty where the record would not have the field.
    pub got: String,
}

impl Outcome {
    /// Whether every expectation holds.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.passed() { "ok" } else { "FAILED" };
        write!(f, "{word} {} ({})", self.input, self.place)?;
        for Failure { field, expected, got } in &self.failures {
            let got = if got.is_empty() { "nothing" } else { got };
            write!(f, "\n  {field}: expected {expected}, got {got}")?;
        }
        Ok(())
    }
}

/// Runs cases against a policy, on a host whose protected ranges are these.
#[must_use]
pub fn run(policy: &Policy, cases: &[Case], host: &Protected) -> Vec<Outcome> {
    cases.iter().map(|case| case.run(policy, host)).collect()
}

/// What is judged.
#[derive(Debug, Clone)]
struct Input {
    /// As written.
    text: String,
    name: Option<Domain>,
    dst: SocketAddr,
    /// `None` for `connect`.
    request: Option<Request>,
}

#[derive(Debug, Clone)]
struct Request {
    scheme: Scheme,
    method: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

/// Fields of the audit record (POLICY §10); absent ones say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Facts {
    verdict: Option<String>,
    route: Option<String>,
    reason: Option<String>,
    rule: Option<String>,
    injected: Option<Vec<String>>,
    status: Option<u64>,
}

impl Case {
    fn run(&self, policy: &Policy, host: &Protected) -> Outcome {
        let got = self.input.judge(policy, host);
        let text = |list: &Option<Vec<String>>| list.as_ref().map(|names| format!("[{}]", names.join(", ")));
        let number = |number: &Option<u64>| number.map(|number| number.to_string());
        let Facts { verdict, route, reason, rule, injected, status } = &self.expected;
        let pairs = [
            ("verdict", verdict.clone(), got.verdict),
            ("route", route.clone(), got.route),
            ("reason", reason.clone(), got.reason),
            ("rule", rule.clone(), got.rule),
            ("injected", text(injected), text(&got.injected)),
            ("status", number(status), number(&got.status)),
        ];
        let failures = pairs.into_iter().filter_map(|(field, expected, got)| {
            let (expected, got) = (expected?, got.unwrap_or_default());
            let holds = if field == "rule" { same_rule(&expected, &got) } else { expected == got };
            (!holds).then_some(Failure { field, expected, got })
        });
        Outcome { place: self.place.clone(), input: self.input.text.clone(), failures: failures.collect() }
    }
}

impl Input {
    fn judge(&self, policy: &Policy, host: &Protected) -> Facts {
        let flow = |seen| Flow {
            id: FlowId(0),
            sandbox: SandboxId::of_cases(),
            client: ClientAddr(self.dst),
            dst: OriginalDst(self.dst),
            seen,
            pinned: self.name.iter().cloned().collect(),
        };
        if let Some(verdict) = policy.decide_address(&flow(Seen::Unread), host) {
            return Facts::of_route(verdict);
        }
        let Some(request) = &self.request else {
            if let Some(name) = &self.name
                && let Verdict::Deny(denial) = policy.decide_name(name)
            {
                return Facts::denied(denial.reason, &denial.basis);
            }
            return Facts::of_route(policy.decide(&flow(Seen::Opaque), host));
        };
        let seen = match request.scheme {
            Scheme::Http => Seen::Http(HttpVersion::Http1),
            Scheme::Https => {
                Seen::Tls(Hello { sni: self.name.clone(), alpn: vec![Alpn::Http2, Alpn::Http1], ech: false })
            }
        };
        match policy.decide(&flow(seen), host) {
            Verdict::Allow(Route::Terminate(_)) => Facts::of_action(policy.decide_request(&request.head(self), host)),
            verdict => Facts::of_route(verdict),
        }
    }
}

impl Request {
    fn head<'a>(&'a self, input: &'a Input) -> RequestHead<'a> {
        RequestHead {
            scheme: self.scheme,
            authority: input.name.as_ref(),
            dst: OriginalDst(input.dst),
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
        }
    }
}

impl Facts {
    fn allowed(route: &str, basis: &Basis) -> Self {
        let rule = basis.rule.as_ref().map(RuleId::to_string);
        Self { verdict: Some("allow".into()), route: Some(route.into()), rule, ..Self::default() }
    }

    fn denied(reason: DenyReason, basis: &Basis) -> Self {
        Self {
            verdict: Some("deny".into()),
            reason: Some(reason.as_str().into()),
            rule: basis.rule.as_ref().map(RuleId::to_string),
            status: reason.status().map(|status| u64::from(status.as_u16())),
            ..Self::default()
        }
    }

    fn permitted(route: &str, permit: &Permit) -> Self {
        let names = permit.injections().iter().map(|injection| injection.header.as_str().to_owned());
        Self { injected: Some(names.collect()), ..Self::allowed(route, permit.basis()) }
    }

    fn of_route(verdict: Verdict<Route>) -> Self {
        match verdict {
            Verdict::Allow(Route::Relay(permit)) => Self::permitted("relay", &permit),
            Verdict::Allow(Route::Splice(permit)) => Self::permitted("splice", &permit),
            Verdict::Allow(Route::Terminate(basis)) => Self::allowed("terminate", &basis),
            Verdict::Deny(denial) => Self::denied(denial.reason, &denial.basis),
        }
    }

    fn of_action(verdict: Verdict<Action>) -> Self {
        match verdict {
            Verdict::Allow(Action::Forward(permit)) => Self::permitted("terminate", &permit),
            Verdict::Allow(Action::Respond(response, basis)) => {
                Self { status: Some(u64::from(response.status.as_u16())), ..Self::allowed("respond", &basis) }
            }
            Verdict::Allow(Action::Divert(_, permit)) => Self::permitted("forward", &permit),
            Verdict::Deny(denial) => Self::denied(denial.reason, &denial.basis),
        }
    }
}

/// Whether two rules are the same, by `FILE:LINE`: whoever runs a case may stand in another folder than whoever wrote
/// it, so one path may have folders before the other.
fn same_rule(expected: &str, got: &str) -> bool {
    fn plain(mut rule: &str) -> &str {
        while let Some(rest) = rule.strip_prefix("./").or_else(|| rule.strip_prefix("../")) {
            rule = rest;
        }
        rule
    }
    let within = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|rest| rest.ends_with('/'));
    let (expected, got) = (plain(expected), plain(got));
    expected == got || (!expected.is_empty() && (within(expected, got) || within(got, expected)))
}

/// Where a name is taken to be if the case does not say (TEST-NET-2, RFC 5737).
const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

/// Compiles `tests:`.
pub(super) fn compile(list: &List<TestWire<'_>>, documents: &Documents<'_>, faults: &mut Faults) -> Vec<Case> {
    let case = |wire: &TestWire<'_>| compile_case(wire, faults, documents.rule_id(wire.span));
    list.items.iter().filter_map(case).collect()
}

fn compile_case(wire: &TestWire<'_>, faults: &mut Faults, place: RuleId) -> Option<Case> {
    let TestWire { span, request, connect, headers, address, verdict, route, reason, rule, injected, status } = wire;
    let expects = [
        verdict.is_written(),
        route.is_written(),
        reason.is_written(),
        rule.is_written(),
        injected.is_written(),
        status.is_written(),
    ];
    if !expects.contains(&true) {
        faults.push(Fault::new(Code::Missing, "the test expects nothing; say a `verdict`").place(*span));
    }
    let expected = Facts {
        verdict: verdict.get().map(|word| word.value.0.to_owned()),
        route: route.get().map(|word| word.value.0.to_owned()),
        reason: reason.get().map(|word| word.value.as_str().to_owned()),
        rule: rule.get().map(|text| text.text.to_owned()),
        injected: injected.get().map(|list| list.items.iter().map(|name| name.text.to_ascii_lowercase()).collect()),
        status: status.get().map(|number| u64::from(number.value)),
    };
    let to = match address.get() {
        Some(text) => {
            let parsed = text.text.parse::<IpAddr>();
            if parsed.is_err() {
                faults.bad(text.span, format!("`{}` is not an address", text.text));
            }
            Some(parsed.ok()?)
        }
        None => None,
    };
    let fields = headers.get().map(|table| compile_headers(table, faults)).unwrap_or_default();
    let input = match (request.is_written(), connect.is_written()) {
        (true, false) => {
            let text = request.get()?;
            let input = parse_request(text.text, to, fields);
            if input.is_none() {
                faults.bad(text.span, "`request` is a method, a space and an http or https URL");
            }
            input
        }
        (false, true) => {
            if let Some(key) = headers.key() {
                faults.push(Fault::new(Code::Conflict, "`headers` go with `request`").place(key));
            }
            let text = connect.get()?;
            let input = parse_connect(text.text, to);
            if input.is_none() {
                faults.bad(text.span, "`connect` is a host, a colon and a port; an IPv6 address stands in brackets");
            }
            input
        }
        (true, true) => {
            faults.push(Fault::new(Code::Conflict, "a test has one of `request` and `connect`").place(*span));
            None
        }
        (false, false) => {
            faults.push(Fault::new(Code::Missing, "a test needs `request` or `connect`").place(*span));
            None
        }
    };
    Some(Case { place, input: input?, expected })
}

fn compile_headers(table: &Table<'_, HeaderKey, Text<'_, HeaderText>>, faults: &mut Faults) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (key, value) in &table.entries {
        match (HeaderName::from_bytes(key.text.as_bytes()), HeaderValue::from_str(value.text)) {
            (Ok(name), Ok(_)) if headers.contains_key(&name) => {
                let message = format!("the header `{name}` stands here twice");
                faults.push(Fault::new(Code::Duplicate, message).place(key.span));
            }
            (Ok(name), Ok(value)) => drop(headers.insert(name, value)),
            _ => faults.bad(key.span, "this cannot be a header"),
        }
    }
    headers
}

/// `METHOD URL`, its path kept as it is written.
fn parse_request(text: &str, address: Option<IpAddr>, headers: HeaderMap) -> Option<Input> {
    let (method, url) = text.split_once(' ')?;
    Method::from_bytes(method.as_bytes()).ok()?;
    let (scheme, rest, port) = match url.split_once("://")? {
        ("http", rest) => (Scheme::Http, rest, 80),
        ("https", rest) => (Scheme::Https, rest, 443),
        _ => return None,
    };
    if rest.contains(['#', ' ']) {
        return None;
    }
    let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (name, address, port) = parse_authority(authority, Some(port), address)?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let path = if path.is_empty() { "/" } else { path }.to_owned();
    let request = Request { scheme, method: method.to_owned(), path, query, headers };
    Some(Input { text: text.to_owned(), name, dst: SocketAddr::new(address, port), request: Some(request) })
}

/// `HOST:PORT`.
fn parse_connect(text: &str, address: Option<IpAddr>) -> Option<Input> {
    let (name, address, port) = parse_authority(text, None, address)?;
    Some(Input { text: text.to_owned(), name, dst: SocketAddr::new(address, port), request: None })
}

/// A host that is a name or an address, and its port; the address is where the connection goes.
fn parse_authority(
    text: &str,
    default_port: Option<u16>,
    address: Option<IpAddr>,
) -> Option<(Option<Domain>, IpAddr, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (text, default_port?),
    };
    let literal = match host.strip_prefix('[') {
        Some(rest) => IpAddr::V6(rest.strip_suffix(']')?.parse().ok()?),
        None => match host.parse::<Ipv4Addr>() {
            Ok(literal) => IpAddr::V4(literal),
            Err(_) => return Some((Some(Domain::parse(host).ok()?), address.unwrap_or(SOMEWHERE), port)),
        },
    };
    Some((None, address.unwrap_or(literal), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_the_same_from_any_folder() {
        for (expected, got, same) in [
            ("p.yaml:6", "p.yaml:6", true),
            ("p.yaml:6", "policies/p.yaml:6", true),
            ("p.yaml:6", "/home/user/policies/p.yaml:6", true),
            ("policies/p.yaml:6", "/home/user/policies/p.yaml:6", true),
            ("policies/p.yaml:6", "p.yaml:6", true),
            ("policies/p.yaml:6", "./p.yaml:6", true),
            ("policies/p.yaml:6", "../policies/p.yaml:6", true),
            ("../base/p.yaml:6", "base/p.yaml:6", true),
            ("p.yaml:6", "p.yaml:7", false),
            ("p.yaml:6", "p.yaml:66", false),
            ("p.yaml:6", "other-p.yaml:6", false),
            ("policies/p.yaml:6", "base/p.yaml:6", false),
            ("p.yaml:6", "", false),
            ("", "p.yaml:6", false),
            ("6", "p.yaml:6", false),
        ] {
            assert_eq!(same_rule(expected, got), same, "{expected} {got}");
        }
    }
}
