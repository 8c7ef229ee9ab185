//! What is legal and surely not meant: the warnings of `exeat check`, which `exeat run` tells, too.
//!
//! What each of them means is said by its [`Code`]. None of them changes what is judged. A warning is about what
//! counts: of several files, the entry of the nearest.
//!
//! - `INVARIANT`: a rule is called shadowed only if it is proved that it never claims a request.
//! - `INVARIANT`: what looks like a credential is not shown.
//! - `INVARIANT`: the time that advice takes grows with the policy and not with its square ([`limits::ADVICE_STEPS`]).

mod credentials;
mod hosts;

pub(in crate::policy) use credentials::prefix as key_prefix;

use std::collections::HashSet;

use http::HeaderName;
use ipnet::IpNet;

use super::{Compiler, Said};
use crate::flow::SecretName;
use crate::limits;
use crate::matcher::path::fully_decoded;
use crate::matcher::request::{RequestMatch, TextMatch};
use crate::policy::diagnostic::{Code, Fault};
use crate::policy::protected::{self, Unopened};
use crate::policy::verdict::{Part, RuleId, Segment};
use crate::policy::wire::{Faults, Span};
use crate::policy::{Author, Base, Dns, Entry, Rule, Then};

/// What shows itself only when all is known.
impl Compiler<'_> {
    pub(super) fn advise(&mut self, base: &Base) {
        let mut advice = std::mem::take(&mut self.advice);
        self.advise_on_entries(base, &mut advice);
        self.advise_on_secrets(&mut advice);
        self.advise_on_ranges(&mut advice);
        self.advise_on_denying(base, &mut advice);
        if let (Some(Said { value: Dns::None, span }), false) = (self.dns, self.allow.is_empty()) {
            let fault = Fault::new(Code::UnresolvableNames, "no name can be resolved, and `allow` has names");
            advice.push(fault.place(span).help("leave `dns` out: what `allow` matches is resolved, and nothing else"));
        }
        self.advice = advice;
    }

    fn is_strict(&self) -> bool {
        self.strict.is_some_and(|said| said.value)
    }

    /// Whether names are permitted that no entry but `*` matches.
    fn is_open(&self, base: &Base) -> bool {
        matches!(base, Base::AllowAll(_)) || self.allow.any().is_some()
    }

    fn advise_on_entries(&self, base: &Base, advice: &mut Faults) {
        let splices = !self.is_strict() && !self.is_open(base);
        let mut budget = limits::ADVICE_STEPS;
        let mut ruled = self.places.rules.iter().peekable();
        for (at, ((pattern, entry), place)) in self.allow.iter().zip(&self.places.entries).enumerate() {
            let places = ruled.next_if(|(of, _)| *of == at).map(|(_, places)| places.as_slice()).unwrap_or_default();
            let denied = if self.deny.is_empty() { None } else { self.deny.covering(&pattern) };
            let pattern = pattern.as_str();
            if let Some((by, rule)) = denied {
                advice.push(denied_allow(pattern, by.as_str(), rule).place(*place));
                continue;
            }
            match hosts::public_suffix(pattern) {
                Some(suffix) => {
                    advice.0.extend(open_to_anybody(pattern, entry, suffix).map(|fault| fault.place(*place)))
                }
                None => unscoped(pattern, entry, places, advice),
            }
            if splices && entry.rules().is_empty() {
                advice.0.extend(shared_host(pattern).map(|fault| fault.place(*place)));
            }
            shadowed(entry.rules(), places, &mut budget, advice);
        }
    }

    fn advise_on_secrets(&self, advice: &mut Faults) {
        let rules = self.allow.iter().flat_map(|(_, entry)| entry.rules());
        let used: HashSet<&SecretName> =
            rules.flat_map(secrets).chain(self.placeholders.values().map(|said| &said.value)).collect();
        for (name, span) in self.declared.iter().filter(|(name, _)| !used.contains(name)) {
            let message = format!("no rule uses the secret `{}`", name.as_str());
            let help = format!("take it out, or use it: `authorization: \"Bearer ${{secrets.{}}}\"`", name.as_str());
            advice.push(Fault::new(Code::UnusedSecret, message).place(*span).help(help));
        }
    }

    fn advise_on_ranges(&self, advice: &mut Faults) {
        for (range, place) in &self.places.ranges {
            let denied = if self.subnets_deny.is_empty() { None } else { self.subnets_deny.covering(*range) };
            let fault = match (denied, protected::unopened(range)) {
                (Some((by, rule)), _) => Some(denied_allow(&range.to_string(), &by.to_string(), rule)),
                (None, Some(Unopened::Closed)) => Some(closed(range)),
                (None, Some(Unopened::Private(private))) if !hosts::is_wide(range) => {
                    let named = self.places.ranges.iter().any(|(other, _)| private.contains(other));
                    (!named).then(|| not_private(range, &private))
                }
                (None, _) => None,
            };
            advice.0.extend(fault.map(|fault| fault.place(*place)));
        }
        self.advise_on_wide_ranges(advice);
        let acts = |rule: &Rule| !matches!(rule.then, Then::Pass);
        let injects = self.allow.iter().any(|(_, entry)| entry.rules().iter().any(acts));
        let narrow = self.places.ranges.iter().find(|(range, _)| !hosts::is_wide(range));
        if let (Some((range, place)), true) = (narrow, injects || !self.deny.is_empty()) {
            let more = match self.places.ranges.len() {
                1 => String::new(),
                ranges => format!(", or to another of the {ranges} ranges,"),
            };
            let lost = match (self.deny.is_empty(), injects) {
                (false, false) => "`deny` does not hold there",
                (true, _) => "no rule of `allow` holds there",
                (false, true) => "neither `deny` nor a rule of `allow` holds there",
            };
            let message = format!("what goes to `{range}`{more} is judged by its address alone: {lost}");
            let fault = Fault::new(Code::BypassedByAddress, message).place(*place);
            advice.push(fault.help("allow by name what has a name, and keep ranges for what has none"));
        }
    }

    /// Ranges that open half of a family's Internet or more, one by one or together.
    fn advise_on_wide_ranges(&self, advice: &mut Faults) {
        let help = "if every address is meant, say `mode: allow-all`, where `deny` and rules hold for names; \
                    else name what is meant";
        for four in [true, false] {
            let family = if four { "IPv4" } else { "IPv6" };
            let of_family = |range: &IpNet| matches!(range, IpNet::V4(_)) == four;
            let mut ranges = self.places.ranges.iter().filter(|(range, _)| of_family(range)).peekable();
            let Some((_, first)) = ranges.peek().copied() else { continue };
            let wide: Vec<_> = ranges.clone().filter(|(range, _)| hosts::is_wide(range)).collect();
            for (range, place) in &wide {
                let message = format!("`{range}` opens the {family} Internet by address: names are not judged there");
                advice.push(Fault::new(Code::OpenSubnets, message).place(*place).help(help));
            }
            // Ranges within one another count more than once here, which only costs a closer look.
            let opens_half = |share: f64| share >= 0.5;
            if wide.is_empty() && opens_half(ranges.map(|(range, _)| hosts::share(range)).sum()) {
                let mut outer: Option<IpNet> = None;
                let apart = self.subnets_allow.iter().map(|(range, _)| range).filter(|range| of_family(range));
                let apart = apart.filter(|range| {
                    let inside = outer.is_some_and(|outer| outer.contains(range));
                    outer = if inside { outer } else { Some(*range) };
                    !inside
                });
                if opens_half(apart.map(|range| hosts::share(&range)).sum()) {
                    let message = format!(
                        "the {family} ranges of `subnets.allow` together open half of the Internet, or more, by \
                         address: names are not judged there"
                    );
                    advice.push(Fault::new(Code::OpenSubnets, message).place(*first).help(help));
                }
            }
        }
    }

    fn advise_on_denying(&self, base: &Base, advice: &mut Faults) {
        if self.is_open(base) && !self.deny.is_empty() && !self.is_strict() {
            let message = "a `deny` beneath `*` or allow-all does not hold against encrypted names and fronting";
            let fault = Fault::new(Code::AdvisoryDeny, message).place(self.places.deny);
            advice.push(fault.help("`strict: true` makes it hold: every flow is read, and held to its name"));
        }
        let denies = !(self.deny.is_empty() && self.subnets_deny.is_empty());
        if let (Base::DenyAll(None), None, true) = (base, self.mode, denies) {
            let message = "this denies all: what is not allowed is denied, and nothing is allowed";
            let fault = Fault::new(Code::AllowsNothing, message).place(self.places.deny.or(self.places.deny_ranges));
            advice.push(fault.help(
                "add `mode: allow-all` if all but this is to be reached, or `allow`; `mode: custom` says that it is \
                 meant, as in a file for others to extend",
            ));
        }
    }
}

/// What shows itself where it stands.
impl Compiler<'_> {
    pub(super) fn advise_on_method(&mut self, method: &str, span: Span) {
        const USUAL: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
        if let Some(usual) = USUAL.iter().find(|usual| **usual != method && usual.eq_ignore_ascii_case(method)) {
            let message = format!("no request has the method `{method}`: methods mind case");
            self.advice.push(Fault::new(Code::NeverMatches, message).place(span).help(format!("write `{usual}`")));
        }
    }

    /// A path is matched as it is sent and fully decoded, and both must meet the same rule.
    pub(super) fn advise_on_path(&mut self, path: &TextMatch, span: Span) {
        let head = String::from_utf8_lossy(&path.head(false)).into_owned();
        let (message, help) = if head.contains("://") {
            ("no path begins so", "write the path alone; the host is the entry's")
        } else if !head.is_empty() && !head.starts_with(['/', '*']) {
            ("no path begins so", "a path begins with `/`")
        } else if head.contains('?') {
            ("no path holds a `?`: the query is no part of it", "ask for the query by `queryString`")
        } else if head.contains(|c: char| c <= ' ') {
            ("no path holds a space", "as it is sent, a space is `%20`; match around it: `glob: \"/a*b\"`")
        } else if changes_when_decoded(path, &head) {
            (
                "no path holds this both as it is sent and fully decoded, and it is matched as both",
                "match both forms: `glob: \"/a/{b%2Fc,b/c}\"`",
            )
        } else {
            return;
        };
        self.advice.push(Fault::new(Code::NeverMatches, message).place(span).help(help));
    }

    /// A header's value in a `transform`.
    pub(super) fn advise_on_template(&mut self, header: &HeaderName, value: &[Segment], span: Span) {
        for segment in value {
            let Segment::Plain(Part::Literal(literal)) = segment else { continue };
            let whole = (value.len() == 1).then_some(header);
            if self.advise_on_credential(literal, span, whole) {
                return;
            }
            if self.terms.author == Author::Operator && credentials::is_reference(literal) {
                let message = "this looks like a variable, and is sent as it stands";
                let fault = Fault::new(Code::LiteralReference, message).place(span).hidden();
                self.advice.push(fault.help("write `${secrets.NAME}`, and declare `secrets: {NAME: {env: VARIABLE}}`"));
                return;
            }
        }
    }

    /// Whether a text looks like a credential; `header` has it for its value. Through an API, values come as they are.
    pub(super) fn advise_on_credential(&mut self, text: &str, span: Span, header: Option<&HeaderName>) -> bool {
        if self.terms.author != Author::Operator {
            return false;
        }
        let Some(what) = credentials::recognised(text, header) else { return false };
        let message = format!("this looks like {what}, and a policy holds no credentials");
        let fault = Fault::new(Code::PastedCredential, message).place(span).hidden();
        let help = "declare it, `secrets: {NAME: {env: VARIABLE}}`, and write `${secrets.NAME}`; \
                    if it is real, take it for known and renew it";
        self.advice.push(fault.help(help));
        true
    }
}

/// Whether no path that begins with `head`, as all do that it matches, is matched in both of its readings.
fn changes_when_decoded(path: &TextMatch, head: &str) -> bool {
    let whole = matches!(path, TextMatch::Exact(_)) && *fully_decoded(head) != *head.as_bytes();
    let triplet = head.as_bytes().windows(3).any(|three| match three {
        [b'%', high, low] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
        _ => false,
    });
    whole || triplet || head.contains([';', '\\']) || ["//", "/./", "/../"].iter().any(|part| head.contains(part))
}

fn denied_allow(text: &str, by: &str, rule: &RuleId) -> Fault {
    let message = format!("`{text}` is allowed here and denied in {rule}, and what denies wins");
    let help = if text == by { format!("take it out in {rule}") } else { format!("make `{by}` narrower in {rule}") };
    Fault::new(Code::DeniedAllow, message).help(format!("{help}, or take it out here"))
}

fn closed(range: &IpNet) -> Fault {
    let message = format!("`{range}` is protected, and stays closed unless the operator opens it");
    Fault::new(Code::ProtectedAllow, message).help(format!("the operator opens it with `--allow-protected {range}`"))
}

fn not_private(range: &IpNet, private: &IpNet) -> Fault {
    let message = format!("`{range}` does not open `{private}`, which is private: only a range inside that one does");
    Fault::new(Code::ProtectedAllow, message).help(format!("if it is meant, write `{private}` or a part of it"))
}

/// An entry below whose suffix anybody can have a name.
fn open_to_anybody(pattern: &str, entry: &Entry, suffix: &str) -> Option<Fault> {
    let whose = match suffix {
        "" if pattern == "*" => "every name".to_owned(),
        "" => "a name in every top-level domain, and anybody can have one".to_owned(),
        suffix => format!("every name below `{suffix}`, and anybody can have one there"),
    };
    if let Some(name) = entry.rules().iter().flat_map(secrets).next() {
        let message = format!("`{pattern}` takes the secret `{}` to {whose}", name.as_str());
        return Some(Fault::new(Code::SecretForAnyName, message).help("give the names that it is for an entry each"));
    }
    let message = format!("`{pattern}` allows {whose}");
    (pattern != "*").then(|| Fault::new(Code::TopLevelWildcard, message).help("name the hosts that are meant"))
}

/// Rules that inject a secret whatever is asked. One is taken to be meant if an earlier rule keeps some requests from
/// it.
fn unscoped(pattern: &str, entry: &Entry, places: &[Span], advice: &mut Faults) {
    let mut kept = false;
    for (rule, place) in entry.rules().iter().zip(places) {
        let secret = secrets(rule).next();
        match secret {
            Some(name) if !kept && !rule.when.is_scoped() => {
                let message = format!("the secret `{}` goes along with every request to `{pattern}`", name.as_str());
                let fault = Fault::new(Code::SecretWithoutScope, message).place(*place);
                advice.push(fault.help("add what the program needs it for: `match: { method: [GET], path: { … } }`"));
            }
            None => kept |= rule.when.is_scoped(),
            Some(_) => {}
        }
    }
}

fn shared_host(pattern: &str) -> Option<Fault> {
    let shared = hosts::shared(pattern)?;
    let service = shared.service;
    let (message, help) = if shared.by_path {
        (
            format!("`{pattern}` serves all customers of {service}, and what is relayed unread may go to any of them"),
            "rules hold it to your own: `match: { path: { startsWith: /BUCKET/ } }`, and a `response` for all else",
        )
    } else {
        (
            format!(
                "`{pattern}` is on {service}, which serves many customers: inside, another's name may be asked for"
            ),
            "`strict: true`, or the rule `{}`, reads the requests and holds them to this name",
        )
    };
    Some(Fault::new(Code::SharedHostSpliced, message).help(help))
}

/// Rules that earlier ones leave nothing.
fn shadowed(rules: &[Rule], places: &[Span], budget: &mut usize, advice: &mut Faults) {
    let mut live: Vec<&Rule> = Vec::new();
    for (rule, place) in rules.iter().zip(places) {
        let cost: usize = live.iter().map(|earlier| cost(&earlier.when, &rule.when)).sum();
        let Some(left) = budget.checked_sub(cost) else { return };
        *budget = left;
        let Some(first) = claimant(&live, &rule.when) else {
            live.push(rule);
            continue;
        };
        let message = format!("this rule never claims a request: {} claims all that it would", first.id);
        let fault = Fault::new(Code::ShadowedRule, message).place(*place);
        advice
            .push(fault.help("the first rule that matches claims the request: put this one before it, or take it out"));
    }
}

/// The rule that claims what `when` asks for, or with its first method, if rules before it claim all of that.
fn claimant<'r>(earlier: &[&'r Rule], when: &RequestMatch) -> Option<&'r Rule> {
    let wider: Vec<&Rule> = earlier.iter().copied().filter(|rule| rule.when.covers_but_for_methods(when)).collect();
    let takes = |rule: &Rule, method: &String| rule.when.methods.is_empty() || rule.when.methods.contains(method);
    let any = wider.iter().copied().find(|rule| rule.when.methods.is_empty());
    let mut each = when.methods.iter().map(|method| wider.iter().copied().find(|rule| takes(rule, method)));
    match each.next() {
        None => any,
        Some(first) => each.all(|rule| rule.is_some()).then_some(first).flatten(),
    }
}

/// What it takes to compare two, roughly.
fn cost(one: &RequestMatch, other: &RequestMatch) -> usize {
    let length = |path: &Option<TextMatch>| match path {
        None => 0,
        Some(TextMatch::Exact(text) | TextMatch::StartsWith(text)) => text.len() / 64,
        Some(TextMatch::Regex(regex) | TextMatch::Glob { text: _, regex }) => 32 + regex.as_str().len() / 64,
    };
    let products = [
        (one.methods.len(), other.methods.len()),
        (one.query.len(), other.query.len()),
        (one.headers.len(), other.headers.len()),
    ];
    let products: usize = products.iter().map(|(one, other)| one.saturating_mul(*other)).sum();
    1 + length(&one.path) + length(&other.path) + products
}

/// The secrets that a rule injects, or signs with.
fn secrets(rule: &Rule) -> impl Iterator<Item = &SecretName> {
    let (injections, signing) = match &rule.then {
        Then::Transform(injections) => (&**injections, None),
        Then::Sign(signing) => (&[][..], Some(signing)),
        Then::Pass | Then::Replace(_) | Then::Respond(_) | Then::Divert(_) => (&[][..], None),
    };
    let signing = signing.into_iter().flat_map(|signing| signing.secrets());
    injections.iter().flat_map(|injection| injection.value.secrets()).chain(signing)
}

#[cfg(test)]
mod tests;
