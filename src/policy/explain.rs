//! Why a question comes to what it comes to: the questions of POLICY §3 in the order in which they are asked, which
//! line answered each, the verdict, and what would allow what is denied.
//!
//! The verdict is [`Policy::judge`]'s, by the engine itself. The steps go through the same rows (`walk`) and end at the
//! one that decided.
//!
//! - `INVARIANT`: the last step that was asked settles what the facts say, and no other step does (tested for policies
//!   and questions at random).
//! - `INVARIANT`: no step shows the value of a header, a body or a secret.

mod walk;

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::ser::Serializer;

use super::judge::{Facts, Question};
use super::remedy::Remedy;
use super::verdict::{DenyReason, RouteTaken, RuleId};
use super::{Policy, Protected};

/// A question's judgement, and how it came about.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// What the audit record would say.
    pub facts: Facts,
    /// What was asked, in order. The last that was answered settles it.
    pub steps: Vec<Step>,
    /// All that it takes to have it allowed; empty if it is, or if nothing is known that would.
    pub remedies: Vec<Remedy>,
}

impl Explanation {
    /// The edits that would allow it, in one sentence.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let edits: Vec<String> = self.remedies.iter().map(Remedy::in_file).collect();
        (!edits.is_empty()).then(|| edits.join(", and "))
    }
}

/// One question that was, or was not, asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Step {
    /// Which one.
    #[serde(rename = "step")]
    #[schemars(with = "String")]
    pub row: Row,
    /// In words.
    pub question: String,
    /// What came of it.
    #[schemars(with = "String")]
    pub answer: Answer,
    /// The line that answered, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub rule: Option<RuleId>,
    /// Why it was answered so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The judgement, if this step settles it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub settles: Option<Settled>,
}

/// Which question a [`Step`] asks: a row of POLICY §3, or what is asked around them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Row {
    /// May the name be resolved (POLICY §5)?
    Dns,
    /// A row of the table of POLICY §3.
    Table(u8),
    /// Is it a protocol that its port is not for (POLICY §4)?
    Protocol,
    /// Do all that name an origin agree (POLICY §3 "Authority")?
    Authority,
    /// Do all readings of the path meet the same rule (POLICY §3 "Path")?
    Path,
    /// Does this rule of the entry, from 1, claim the request?
    Rule(usize),
    /// Does no rule of the entry claim it?
    Unclaimed,
    /// Does the policy only observe (POLICY §8)?
    Observe,
    /// May the address be dialled (POLICY §3 "Vetting")?
    Dial,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "dns",
            Self::Table(number) => return write!(f, "{number}"),
            Self::Protocol => "protocol",
            Self::Authority => "authority",
            Self::Path => "path",
            Self::Rule(number) => return write!(f, "6.{number}"),
            Self::Unclaimed => "6.*",
            Self::Observe => "observe",
            Self::Dial => "dial",
        })
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    Yes,
    /// No.
    No,
    /// It was not asked: what it asks of is not there, or not known.
    NotAsked,
}

impl Answer {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::NotAsked => "not asked",
        }
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A judgement, as a step gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// `Ok`: the route; `Err`: why it is denied.
    pub outcome: Result<RouteTaken, DenyReason>,
    /// Under `observe`: the reason for which this would have been denied.
    pub observed: Option<DenyReason>,
    /// The line that decided.
    pub rule: Option<RuleId>,
}

impl fmt::Display for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.outcome, self.observed) {
            (Ok(route), Some(reason)) => write!(f, "deny {reason}, observed: {}", route.as_str()),
            (Ok(route), None) => write!(f, "allow {}", route.as_str()),
            (Err(reason), _) => write!(f, "deny {reason}"),
        }
    }
}

impl Serialize for Settled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Policy {
    /// Judges a question ([`Self::judge`]) and says how: on a host whose protected ranges are these.
    #[must_use]
    pub fn explain(&self, question: &Question, host: &Protected) -> Explanation {
        Explanation {
            facts: self.judge(question, host),
            steps: walk::steps(self, question, host),
            remedies: self.remedies(question, host),
        }
    }
}

/// The record of POLICY §10, as far as a question has its fields, and what explains it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Explanation")]
struct Record<'a> {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    observed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    rule: Option<&'a RuleId>,
    revision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    injected: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// What was asked, in order; the last that was answered settles it.
    steps: &'a [Step],
    /// What would allow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl JsonSchema for Explanation {
    fn schema_name() -> Cow<'static, str> {
        Record::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Record::json_schema(generator)
    }
}

impl Serialize for Explanation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { facts, steps, remedies: _ } = self;
        let Facts { outcome, observed, basis, injected, status, name, address, port, request } = facts;
        let record = Record {
            verdict: facts.verdict(),
            route: outcome.ok().map(RouteTaken::as_str),
            reason: facts.reason().map(DenyReason::as_str),
            observed: observed.is_some(),
            rule: basis.rule.as_ref(),
            revision: basis.revision.to_string(),
            name: name.as_ref().map(|name| name.as_str()),
            address: *address,
            port: *port,
            method: request.as_ref().map(|(method, _)| method.as_str()),
            path: request.as_ref().map(|(_, path)| path.as_str()),
            injected,
            status: status.map(|status| status.as_u16()),
            steps,
            hint: self.hint(),
        };
        record.serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
