//! The words of a change's sentence.
//!
//! `INVARIANT`: of a header that is set, asked for or answered, the name alone is shown; of a query, the names; of a
//! secret, its name.

use std::collections::BTreeSet;

use super::requests::Deed;

use crate::flow::SecretName;
use crate::matcher::request::{PairMatch, RequestMatch, TextMatch};
use crate::policy::Then;
use crate::policy::diagnostic::discreet;
use crate::policy::verdict::{Injection, RuleId};

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list<S: AsRef<str>>(items: &[S]) -> String {
    match items {
        [] => String::new(),
        [only] => only.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

/// ` (FILE:LINE)`.
pub(super) fn at(rule: Option<&RuleId>) -> String {
    rule.map_or_else(String::new, |rule| format!(" ({rule})"))
}

/// The line of the new policy, or, for want of one, that of the old: ` (was FILE:LINE)`.
pub(super) fn at_either(old: Option<&RuleId>, new: Option<&RuleId>) -> String {
    match (old, new) {
        (_, Some(rule)) => format!(" ({rule})"),
        (Some(rule), None) => format!(" (was {rule})"),
        (None, None) => String::new(),
    }
}

/// Whose requests: by their methods.
#[derive(Debug, Clone)]
pub(super) enum Methods<'a> {
    /// All.
    All,
    /// These.
    Of(Vec<&'a str>),
    /// All but these.
    But(Vec<&'a str>),
}

/// `GET and HEAD requests under '/v1/'`.
pub(super) fn requests(methods: &Methods<'_>, matches: &[&RequestMatch]) -> String {
    let mut conditions: Vec<String> = Vec::new();
    let mut add = |condition: String| {
        if !conditions.contains(&condition) {
            conditions.push(condition);
        }
    };
    for RequestMatch { methods: _, path, query, headers } in matches {
        path.iter().for_each(|path| add(path_words(path)));
        query.iter().for_each(|pair| add(format!("with {} in the query", pair_words(pair))));
        headers.iter().for_each(|pair| add(format!("with {} in the headers", pair_words(pair))));
    }
    let mut text = match methods {
        Methods::All => "requests".to_owned(),
        Methods::Of(methods) => format!("{} requests", list(methods)),
        Methods::But(methods) => format!("requests other than {}", list(methods)),
    };
    for condition in conditions {
        text.push(' ');
        text.push_str(&condition);
    }
    text
}

fn path_words(path: &TextMatch) -> String {
    match path {
        TextMatch::Exact(text) | TextMatch::Glob { text, regex: _ } => format!("for `{}`", discreet(text)),
        TextMatch::StartsWith(text) => format!("under `{}`", discreet(text)),
        TextMatch::Regex(regex) => format!("whose path matches `{}`", discreet(regex.as_str())),
    }
}

fn pair_words(pair: &PairMatch) -> String {
    match &pair.key {
        None => "a certain value".to_owned(),
        Some(TextMatch::Exact(key) | TextMatch::Glob { text: key, regex: _ }) => format!("`{}`", discreet(key)),
        Some(TextMatch::StartsWith(start)) => format!("`{}…`", discreet(start)),
        Some(TextMatch::Regex(regex)) => format!("what matches `{}`", discreet(regex.as_str())),
    }
}

/// What a rule, or none, does with a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tense {
    /// `went on unchanged`
    Past,
    /// `go on unchanged`
    Present,
    /// `now go on unchanged`
    Now,
}

/// What is done with requests.
pub(super) fn done(deed: Deed<'_>, tense: Tense) -> String {
    let forms = |past: &str, present: &str, now: &str| match tense {
        Tense::Past => past.to_owned(),
        Tense::Present => present.to_owned(),
        Tense::Now => now.to_owned(),
    };
    let go_on = || forms("went on", "go on", "now go on");
    let are = || forms("were", "are", "are now");
    match deed.rule.map(|rule| &rule.then) {
        None | Some(Then::Pass) => format!("{} unchanged", go_on()),
        Some(Then::Transform(injections)) => {
            let set: Vec<String> = injections.iter().map(injected).collect();
            format!("{} with {}", go_on(), list(&set))
        }
        Some(Then::Respond(response)) => format!("{} answered here with {}", are(), response.status.as_u16()),
        Some(Then::Sign(signing)) => {
            let secrets: Vec<&str> = signing.secrets().map(SecretName::as_str).collect();
            let s = if secrets.len() == 1 { "" } else { "s" };
            format!("{} signed (`{}`) with the secret{s} {}", are(), signing.kind(), list(&secrets))
        }
        Some(Then::Replace(places)) => {
            let places: Vec<String> = places.iter().map(|place| format!("the {}", place.word())).collect();
            format!("{} with placeholders replaced in {}, too", go_on(), list(&places))
        }
        Some(Then::Divert(url)) if deed.is_refused => {
            let comma = forms(",", "", "");
            format!("{} refused, as `{}` is denied{comma}", are(), url.host)
        }
        Some(Then::Divert(url)) => format!("{} sent to {}", are(), discreet(&url.text)),
    }
}

/// `` `authorization` from the secret GITHUB ``, or, without a secret, `` the header `x-mode` ``.
pub(super) fn injected(injection: &Injection) -> String {
    let secrets: Vec<&str> = secrets(injection).into_iter().map(SecretName::as_str).collect();
    match secrets.len() {
        0 => format!("the header `{}`", injection.header),
        1 => format!("`{}` from the secret {}", injection.header, list(&secrets)),
        _ => format!("`{}` from the secrets {}", injection.header, list(&secrets)),
    }
}

/// Whether two of one header come to the same.
pub(super) fn does_as(one: &Injection, other: &Injection) -> bool {
    (&one.value, one.yields) == (&other.value, other.yields)
}

/// The secrets that a header holds.
pub(super) fn secrets(injection: &Injection) -> BTreeSet<&SecretName> {
    injection.value.secrets().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_as_one() {
        for (items, text) in [(&[][..], ""), (&["a"], "a"), (&["a", "b"], "a and b"), (&["a", "b", "c"], "a, b and c")]
        {
            assert_eq!(list(items), text);
        }
    }
}
