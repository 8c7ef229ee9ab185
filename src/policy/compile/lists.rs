//! The lists of a document: names, ranges, placeholders.

use http::HeaderName;
use ipnet::IpNet;

use super::rules::Use;
use super::{Compiler, Said, is_variable};
use crate::flow::SecretName;
use crate::limits;
use crate::matcher::cidr;
use crate::matcher::domain::{DomainPattern, Refusal};
use crate::policy::diagnostic::{Code, Fault};
use crate::policy::verdict::RuleId;
use crate::policy::wire::{
    AllowWire, Field, HeaderKey, List, Pattern, Range, SecretKey, ShapeWire, Span, SubnetsWire, Table, Text, Variable,
};
use crate::policy::{Author, Entry, Handling, Shape};

impl Compiler<'_> {
    pub(super) fn deny(&mut self, list: &List<Text<'_, Pattern>>) {
        for text in &list.items {
            let Some(pattern) = self.pattern(text) else { continue };
            let rule = self.id(text.span);
            match self.deny.insert(pattern, rule) {
                Err(Refusal::Duplicate(first)) if self.documents.stands_in(first, text.span.file) => {
                    let message = format!("`{}` stands in `deny` already ({first})", text.text);
                    self.faults.push(Fault::new(Code::Duplicate, message).place(text.span));
                }
                // That another file denies it, too, changes nothing.
                Ok(()) | Err(Refusal::Duplicate(_)) => {}
                Err(Refusal::Arrangements) => self.faults.push(arrangements(text.text).place(text.span)),
            }
        }
    }

    pub(super) fn subnets(&mut self, wire: &SubnetsWire<'_>) {
        let SubnetsWire { allow, deny } = wire;
        self.ranges(true, allow, "`subnets.allow`");
        self.ranges(false, deny, "`subnets.deny`");
    }

    pub(super) fn ranges(&mut self, allow: bool, field: &Field<'_, List<Text<'_, Range>>>, what: &str) {
        let items = field.get().map(|list| list.items.as_slice()).unwrap_or_default();
        if !allow && !items.is_empty() {
            self.places.deny_ranges = self.places.deny_ranges.or(field.key());
        }
        for text in items {
            match cidr::parse(text.text) {
                Ok(range) => {
                    let rule = self.id(text.span);
                    self.range(allow, range, rule, what, Some(text.span));
                }
                Err(fault) => {
                    let place = Fault::new(Code::BadValue, format!("`{}`: {fault}", text.text)).place(text.span);
                    self.faults.push(place.perhaps(fault.help()));
                }
            }
        }
    }

    pub(super) fn range(&mut self, allow: bool, range: IpNet, rule: RuleId, what: &str, span: Option<Span>) {
        self.count_entry(span);
        let map = if allow { &mut self.subnets_allow } else { &mut self.subnets_deny };
        match map.insert(range, rule) {
            Err(first) if span.is_none_or(|span| self.documents.stands_in(first, span.file)) => {
                let message = format!("`{range}` stands in {what} already ({first})");
                self.faults.push(Fault::new(Code::Duplicate, message).place(span));
            }
            Ok(()) if allow => self.places.ranges.push((range, span)),
            // That another file has it, too, changes nothing.
            Ok(()) | Err(_) => {}
        }
    }

    pub(super) fn allow(&mut self, wire: &AllowWire<'_>) {
        match wire {
            AllowWire::Patterns(list) => {
                for text in &list.items {
                    let pattern = self.pattern(text);
                    self.entry(text, pattern, Handling::default(), Vec::new());
                }
            }
            AllowWire::Entries(entries) => {
                for (text, rules) in entries {
                    let rules = rules.as_ref().map(|rules| rules.items.as_slice()).unwrap_or_default();
                    let (handling, places) = self.handling(rules);
                    let pattern = self.pattern(text);
                    self.check_sent(pattern.as_ref());
                    let replacing = self.replacing.take().zip(pattern.clone());
                    self.replaced.extend(replacing.map(|(span, pattern)| (pattern, span)));
                    self.entry(text, pattern, handling, places);
                }
            }
        }
    }

    /// Adds an entry; `places` are those of its rules about requests.
    pub(super) fn entry(
        &mut self,
        text: &Text<'_, Pattern>,
        pattern: Option<DomainPattern>,
        handling: Handling,
        places: Vec<Span>,
    ) {
        let Some(pattern) = pattern else { return };
        let entry = Entry::new(self.id(text.span), handling);
        if text.span.file > 0
            && let Some((_, first)) =
                self.allow.covering(&pattern).filter(|(other, _)| other.as_str() == pattern.as_str())
            && !first.does_as(&entry)
        {
            let first = first.id.clone();
            self.overruled(&format!("`{}` has another entry", text.text), &first, text.span);
        }
        match self.allow.insert(pattern, entry) {
            Ok(()) => {
                if !places.is_empty() {
                    self.places.rules.push((self.places.entries.len(), places));
                }
                self.places.entries.push(Some(text.span));
            }
            Err(Refusal::Duplicate(first)) if self.documents.stands_in(&first.id, text.span.file) => {
                let message = format!("`{}` stands in `allow` already ({})", text.text, first.id);
                let fault = Fault::new(Code::Duplicate, message).place(text.span);
                self.faults.push(fault.help("entries are never merged; write one with all its rules"));
            }
            // A nearer file has an entry for it.
            Err(Refusal::Duplicate(_)) => {}
            Err(Refusal::Arrangements) => self.faults.push(arrangements(text.text).place(text.span)),
        }
    }

    pub(super) fn pattern(&mut self, text: &Text<'_, Pattern>) -> Option<DomainPattern> {
        self.count_entry(text.span.into());
        match DomainPattern::parse(text.text) {
            Ok(pattern) => Some(pattern),
            Err(fault) => {
                let place = Fault::new(Code::BadValue, format!("`{}`: {fault}", text.text)).place(text.span);
                self.faults.push(place.perhaps(fault.help(text.text)));
                None
            }
        }
    }

    pub(super) fn count_entry(&mut self, span: Option<Span>) {
        self.entries += 1;
        if self.entries == limits::POLICY_ENTRIES + 1 {
            let message = format!("the policy has more than {} patterns and ranges", limits::POLICY_ENTRIES);
            self.faults.push(Fault::new(Code::Limit, message).place(span));
        }
    }

    /// The headers in which a placeholder is replaced.
    pub(super) fn placeholder_headers(&mut self, list: &List<Text<'_, HeaderKey>, 1>) -> Vec<HeaderName> {
        let mut headers = Vec::new();
        for key in &list.items {
            match self.header_name(key, Use::Placeholder) {
                Some(name) if headers.contains(&name) => {
                    let message = format!("the header `{name}` stands here twice");
                    self.faults.push(Fault::new(Code::Duplicate, message).place(key.span));
                }
                name => headers.extend(name),
            }
        }
        headers
    }

    /// What a placeholder looks like.
    pub(super) fn shape(&mut self, wire: &ShapeWire<'_>) -> Option<Shape> {
        let ShapeWire { span, prefix, length } = wire;
        let prefix = prefix.get().map(|prefix| prefix.text).unwrap_or_default();
        let shape = Shape::new(prefix, length.get().map(|length| usize::from(length.value)));
        shape.map_err(|fault| self.faults.push(Fault::new(Code::BadValue, fault).place(*span).hidden())).ok()
    }

    pub(super) fn placeholders(&mut self, table: &Table<'_, Variable, Text<'_, SecretKey>>) {
        for (variable, secret) in &table.entries {
            if !is_variable(variable.text) {
                self.faults.bad(variable.span, "this is not the name of an environment variable");
            }
            let Some(name) = self.secret_name(secret) else { continue };
            self.refer_to_secret(&name, secret.span);
            if self.knows_secret(&name) && self.grant_of(&name).is_none_or(|grant| grant.to.is_empty()) {
                let message = format!("the secret `{}` has a placeholder, and no `to`", name.as_str());
                let fault = Fault::new(Code::Missing, message).place(secret.span);
                self.faults.push(fault.help("say to which names it may go: `to: [api.example.com]`"));
            }
            match self.placeholders.get(variable.text) {
                Some(first) if first.value != name => {
                    let first = self.id(first.span);
                    let what = format!("the variable `{}` stands for another secret", variable.text);
                    self.overruled(&what, &first, variable.span);
                }
                Some(_) => {}
                None => {
                    let said = Said { value: name, span: variable.span };
                    self.placeholders.insert(variable.text.to_owned(), said);
                }
            }
        }
    }
}

/// What is held against all files together.
impl Compiler<'_> {
    /// A rule that has placeholders replaced is for names that a secret with one may go to.
    pub(super) fn check_replaced(&mut self) {
        if !self.documents.are_whole() {
            return;
        }
        for (pattern, span) in std::mem::take(&mut self.replaced) {
            let mut secrets = self.placeholders.values().map(|said| &said.value);
            let may_go = |name: &SecretName| {
                let is_key = self.keys.iter().any(|(key, _, _)| key == name);
                !is_key && self.grant_of(name).is_some_and(|grant| grant.to.iter().any(|to| to.meets(&pattern)))
            };
            if secrets.any(may_go) {
                continue;
            }
            let name = pattern.as_str();
            let message = format!("no placeholder is ever replaced here: no secret that has one may go to `{name}`");
            let help = match self.terms.author {
                Author::Operator => format!(
                    "grant one: `secrets: {{NAME: {{env: VARIABLE, to: [\"{name}\"]}}}}`, and name a variable for it: \
                     `placeholders: {{VARIABLE: NAME}}`"
                ),
                Author::ControlPlane { .. } => {
                    format!("name a variable for a secret whose `to` has `{name}`: `placeholders: {{VARIABLE: NAME}}`")
                }
            };
            self.faults.push(Fault::new(Code::Missing, message).place(span).help(help));
        }
    }
}

/// One arrangement of `*` too many.
pub(super) fn arrangements(text: &str) -> Fault {
    let most = limits::POLICY_ARRANGEMENTS;
    let message = format!("`{text}`: the list's patterns have `*` in more than {most} different places");
    Fault::new(Code::Limit, message).help("a `*` at the left end alone is not counted")
}
