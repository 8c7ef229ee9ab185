//! A document's `tests:`: cases that say what the policy should decide, and running them (POLICY §1).
//!
//! A case names its input, `request: "METHOD URL"` (with `headers`) or `connect: "HOST:PORT"`, with the `address` that
//! its name resolves to, and the fields of the audit record that must hold. Running asks what a connection would
//! ([`Policy::judge`]).

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;

use super::diagnostic::{Code, Fault};
use super::judge::{Question, QuestionError};
use super::verdict::RuleId;
use super::wire::{
    Address, Documents, Faults, Field, HeaderKey, HeaderText, HostPort, List, RequestLine, Span, Table, TestWire, Text,
};
use super::{Policy, Protected};

/// One case of `tests:`.
#[derive(Debug, Clone)]
pub struct Case {
    /// `FILE:LINE`.
    pub place: RuleId,
    question: Question,
    expected: Expected,
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

/// Fields of the audit record that must hold (POLICY §10); absent ones say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Expected {
    verdict: Option<String>,
    route: Option<String>,
    reason: Option<String>,
    rule: Option<String>,
    injected: Option<Vec<String>>,
    status: Option<u64>,
}

impl Case {
    fn run(&self, policy: &Policy, host: &Protected) -> Outcome {
        let got = policy.judge(&self.question, host);
        let list = |names: &[String]| format!("[{}]", names.join(", "));
        let Expected { verdict, route, reason, rule, injected, status } = &self.expected;
        let pairs = [
            ("verdict", verdict.clone(), Some(got.verdict().to_owned())),
            ("route", route.clone(), got.outcome.ok().map(|route| route.as_str().to_owned())),
            ("reason", reason.clone(), got.reason().map(|reason| reason.as_str().to_owned())),
            ("rule", rule.clone(), got.basis.rule.as_ref().map(ToString::to_string)),
            ("injected", injected.as_deref().map(list), Some(list(&got.injected))),
            ("status", status.map(|code| code.to_string()), got.status.map(|code| code.as_str().to_owned())),
        ];
        let failures = pairs.into_iter().filter_map(|(field, expected, got)| {
            let (expected, got) = (expected?, got.unwrap_or_default());
            let holds = if field == "rule" { same_rule(&expected, &got) } else { expected == got };
            (!holds).then_some(Failure { field, expected, got })
        });
        Outcome { place: self.place.clone(), input: self.question.to_string(), failures: failures.collect() }
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
    let expected = Expected {
        verdict: verdict.get().map(|word| word.value.0.to_owned()),
        route: route.get().map(|word| word.value.0.to_owned()),
        reason: reason.get().map(|word| word.value.as_str().to_owned()),
        rule: rule.get().map(|text| text.text.to_owned()),
        injected: injected.get().map(|list| list.items.iter().map(|name| name.text.to_ascii_lowercase()).collect()),
        status: status.get().map(|number| u64::from(number.value)),
    };
    let question = compile_target(*span, request, connect, faults)?;
    let question = with_address(question, address, faults)?;
    let question = with_headers(question, headers, faults)?;
    Some(Case { place, question, expected })
}

fn compile_target(
    span: Span,
    request: &Field<'_, Text<'_, RequestLine>>,
    connect: &Field<'_, Text<'_, HostPort>>,
    faults: &mut Faults,
) -> Option<Question> {
    match (request.is_written(), connect.is_written()) {
        (true, false) => {
            let text = request.get()?;
            let Some((method, url)) = text.text.split_once(' ') else {
                faults.bad(text.span, "`request` is a method, a space and an http or https URL");
                return None;
            };
            taken(Question::request(method, url), text.span, faults)
        }
        (false, true) => {
            let text = connect.get()?;
            taken(Question::connect(text.text), text.span, faults)
        }
        (true, true) => {
            faults.push(Fault::new(Code::Conflict, "a test has one of `request` and `connect`").place(span));
            None
        }
        (false, false) => {
            faults.push(Fault::new(Code::Missing, "a test needs `request` or `connect`").place(span));
            None
        }
    }
}

fn with_address(question: Question, address: &Field<'_, Text<'_, Address>>, faults: &mut Faults) -> Option<Question> {
    let Some(Text { text, span, .. }) = address.get() else { return Some(question) };
    let Ok(address) = text.parse() else {
        faults.bad(*span, format!("`{text}` is not an address"));
        return None;
    };
    taken(question.resolved_to(address), *span, faults)
}

fn with_headers(
    mut question: Question,
    headers: &Field<'_, Table<'_, HeaderKey, Text<'_, HeaderText>>>,
    faults: &mut Faults,
) -> Option<Question> {
    let mut names = HashSet::new();
    for (key, value) in headers.get().map(|table| table.entries.as_slice()).unwrap_or_default() {
        let name = key.text.to_ascii_lowercase();
        question = taken(question.header(&name, value.text), key.span, faults)?;
        if names.contains(&name) {
            let message = format!("the header `{name}` stands here twice");
            faults.push(Fault::new(Code::Duplicate, message).place(key.span));
        }
        names.insert(name);
    }
    Some(question)
}

fn taken(question: Result<Question, QuestionError>, span: Span, faults: &mut Faults) -> Option<Question> {
    let refuse = |fault: QuestionError| {
        let code = match fault {
            QuestionError::HeaderWithoutRequest | QuestionError::TwoAddresses => Code::Conflict,
            _ => Code::BadValue,
        };
        faults.push(Fault::new(code, fault.to_string()).place(span).perhaps(fault.help()));
    };
    question.map_err(refuse).ok()
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
