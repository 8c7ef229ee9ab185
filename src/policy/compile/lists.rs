//! The lists of a document: names, ranges, placeholders, and an older API's spelling of them.

use ipnet::IpNet;

use super::{Compiler, is_variable};
use crate::limits;
use crate::matcher::cidr;
use crate::matcher::domain::{DomainPattern, Refusal};
use crate::policy::diagnostic::{Code, Fault};
use crate::policy::verdict::RuleId;
use crate::policy::wire::{
    AllowWire, InjectionRuleWire, List, Mode, Pattern, PolicyWire, Range, SecretKey, Span, SubnetsWire, Table, Text,
    Variable,
};
use crate::policy::{Entry, Feature, Handling};

impl Compiler<'_> {
    pub(super) fn deny(&mut self, list: &List<Text<'_, Pattern>>) {
        for text in &list.items {
            let Some(pattern) = self.pattern(text) else { continue };
            let rule = self.id(text.span);
            match self.deny.insert(pattern, rule.clone()) {
                Err(Refusal::Duplicate(first)) if first.source() == rule.source() => {
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
        for (allowed, list, what) in [(true, allow, "`subnets.allow`"), (false, deny, "`subnets.deny`")] {
            if let Some(list) = list.get() {
                self.ranges(allowed, list, what);
            }
        }
    }

    fn ranges(&mut self, allow: bool, list: &List<Text<'_, Range>>, what: &str) {
        for text in &list.items {
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
        let source = rule.source().to_owned();
        if let Err(first) = map.insert(range, rule)
            && (first.source() == source || span.is_none())
        {
            let message = format!("`{range}` stands in {what} already ({first})");
            self.faults.push(Fault::new(Code::Duplicate, message).place(span));
        }
    }

    pub(super) fn allow(&mut self, wire: &AllowWire<'_>) {
        match wire {
            AllowWire::Patterns(list) => {
                for text in &list.items {
                    self.entry(text, Handling::default());
                }
            }
            AllowWire::Entries(entries) => {
                for (text, rules) in entries {
                    let handling = rules.as_ref().map(|rules| self.handling(&rules.items)).unwrap_or_default();
                    self.entry(text, handling);
                }
            }
        }
    }

    fn entry(&mut self, text: &Text<'_, Pattern>, handling: Handling) {
        let Some(pattern) = self.pattern(text) else { return };
        if pattern.is_top_level() {
            let message = format!("`{}` allows every name below a top-level domain", text.text);
            self.advice.push(Fault::new(Code::TopLevelWildcard, message).place(text.span));
        }
        let rule = self.id(text.span);
        match self.allow.insert(pattern, Entry::new(rule.clone(), handling)) {
            Err(Refusal::Duplicate(first)) if first.id.source() == rule.source() => {
                let message = format!("`{}` stands in `allow` already ({})", text.text, first.id);
                let fault = Fault::new(Code::Duplicate, message).place(text.span);
                self.faults.push(fault.help("entries are never merged; write one with all its rules"));
            }
            // A nearer file has an entry for it.
            Ok(()) | Err(Refusal::Duplicate(_)) => {}
            Err(Refusal::Arrangements) => self.faults.push(arrangements(text.text).place(text.span)),
        }
    }

    fn pattern(&mut self, text: &Text<'_, Pattern>) -> Option<DomainPattern> {
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

    pub(super) fn placeholders(&mut self, span: Span, table: &Table<'_, Variable, Text<'_, SecretKey>>) {
        if self.lacks(Feature::Placeholders, "placeholders", span) {
            return;
        }
        for (variable, secret) in &table.entries {
            if !is_variable(variable.text) {
                self.faults.bad(variable.span, "this is not the name of an environment variable");
            }
            let Some(name) = self.secret_name(secret) else { continue };
            if !self.knows_secret(&name) {
                let fault = self.undeclared(&name).place(secret.span);
                self.faults.push(fault);
            }
            self.used.insert(name.clone());
            self.placeholders.entry(variable.text.to_owned()).or_insert(name);
        }
    }
}

/// One arrangement of `*` too many.
pub(super) fn arrangements(text: &str) -> Fault {
    let most = limits::POLICY_ARRANGEMENTS;
    let message = format!("`{text}`: the list's patterns have `*` in more than {most} different places");
    Fault::new(Code::Limit, message).help("a `*` at the left end alone is not counted")
}

/// An older API's spelling (POLICY §1 "legacy custom", "older legacy").
impl Compiler<'_> {
    pub(super) fn older(&mut self, wire: &PolicyWire<'_>) {
        let PolicyWire { allowed_domains, allowed_cidrs, denied_cidrs, injection_rules, .. } = wire;
        let keys = [
            ("allowedDomains", allowed_domains.key()),
            ("allowedCIDRs", allowed_cidrs.key()),
            ("deniedCIDRs", denied_cidrs.key()),
            ("injectionRules", injection_rules.key()),
        ];
        let mode = wire.mode.get().map(|word| word.value);
        for (key, span) in keys.into_iter().filter_map(|(key, span)| Some((key, span?))) {
            let refuse = |message: String| Fault::new(Code::Conflict, message).place(span);
            if wire.allow.is_written() || wire.subnets.is_written() {
                let message = format!("`{key}` is an older spelling, which does not mix with `allow` and `subnets`");
                self.faults.push(refuse(message).help("write the newer one alone"));
            } else if !wire.mode.is_written() || mode == Some(Mode::AllowAll) {
                let message = format!("`{key}` is an older spelling, which goes with `mode: custom`");
                self.faults.push(refuse(message).help("add `mode: custom`, or write `allow` and `subnets`"));
            }
        }
        if let Some(list) = denied_cidrs.get() {
            self.ranges(false, list, "`deniedCIDRs`");
        }
        if let Some(list) = allowed_cidrs.get() {
            self.ranges(true, list, "`allowedCIDRs`");
        }
        let rules = injection_rules.get().map(|list| list.items.as_slice()).unwrap_or_default();
        let mut handlings = self.injections(rules);
        let domains = allowed_domains.get().map(|list| list.items.as_slice()).unwrap_or_default();
        let allowed: Vec<DomainPattern> =
            domains.iter().filter_map(|text| DomainPattern::parse(text.text).ok()).collect();
        for text in domains {
            let pattern = DomainPattern::parse(text.text).ok();
            let own = handlings.iter().position(|(other, _, _)| Some(other) == pattern.as_ref());
            let handling = own.map(|index| handlings.remove(index).2).unwrap_or_default();
            self.entry(text, handling);
        }
        let all = matches!(mode, Some(Mode::DefaultAllow));
        for (pattern, text, handling) in handlings {
            if all || allowed.iter().any(|wider| wider.covers(&pattern)) {
                self.entry(text, handling);
            } else {
                let message =
                    format!("an injection rule is for `{}`, which `allowedDomains` does not allow", text.text);
                let fault = Fault::new(Code::Conflict, message).place(text.span);
                self.faults.push(fault.help("add it to `allowedDomains`"));
            }
        }
        if keys.iter().any(|(_, span)| span.is_some()) || matches!(mode, Some(Mode::DefaultAllow | Mode::DefaultDeny)) {
            let fault =
                Fault::new(Code::OlderSpelling, "this is an older API's spelling of a policy").place(wire.mode.key());
            self.advice.push(fault.help("write `allow` and `subnets`; a mode is `allow-all`, `deny-all` or none"));
        }
    }

    /// The rules of each domain that has some, in the order of their first.
    fn injections<'w, 'n>(
        &mut self,
        rules: &'w [InjectionRuleWire<'n>],
    ) -> Vec<(DomainPattern, &'w Text<'n, Pattern>, Handling)> {
        let mut handlings: Vec<(DomainPattern, &Text<'n, Pattern>, Handling)> = Vec::new();
        for wire in rules {
            let InjectionRuleWire { span, domain, headers, when } = wire;
            let Some(domain) = domain.get() else { continue };
            let rule = self.injection_rule(*span, headers.get(), when);
            let (Some(pattern), Some(rule)) = (self.pattern(domain), rule) else { continue };
            match handlings.iter_mut().find(|(other, _, _)| *other == pattern) {
                Some((_, _, handling)) => handling.add(rule),
                None => {
                    let mut handling = Handling::default();
                    handling.add(rule);
                    handlings.push((pattern, domain, handling));
                }
            }
        }
        handlings
    }
}
