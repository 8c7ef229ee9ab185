//! An older API's spelling of a policy (POLICY §1 "legacy custom", "older legacy").

use std::collections::HashMap;

use super::Compiler;
use crate::matcher::domain::{DomainMap, DomainPattern};
use crate::policy::diagnostic::{Code, Fault};
use crate::policy::wire::{InjectionRuleWire, Mode, Pattern, PolicyWire, Span, Text};
use crate::policy::{Author, Handling};

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
        self.ranges(false, denied_cidrs, "`deniedCIDRs`");
        self.ranges(true, allowed_cidrs, "`allowedCIDRs`");
        self.older_names(wire, mode == Some(Mode::DefaultAllow));
        let older_mode = matches!(mode, Some(Mode::DefaultAllow | Mode::DefaultDeny));
        // Programs speak to a control plane in whichever spelling they know.
        if self.terms.author == Author::Operator && (older_mode || keys.iter().any(|(_, span)| span.is_some())) {
            let fault = Fault::new(Code::OlderSpelling, "this is an older API's spelling of a policy");
            let help = "write `allow` and `subnets`; a mode is `allow-all`, `deny-all` or none";
            self.advice.push(fault.place(wire.mode.key()).help(help));
        }
    }

    /// `allowedDomains` and `injectionRules`, whose domains are allowed if those of the former hold them, or `all` are.
    fn older_names(&mut self, wire: &PolicyWire<'_>, all: bool) {
        let PolicyWire { allowed_domains, injection_rules, .. } = wire;
        let rules = injection_rules.get().map(|list| list.items.as_slice()).unwrap_or_default();
        let mut injections = self.injections(rules);
        let mut allowed = DomainMap::default();
        for text in allowed_domains.get().map(|list| list.items.as_slice()).unwrap_or_default() {
            let Some(pattern) = self.pattern(text) else { continue };
            let own = injections.at.get(&pattern).and_then(|at| injections.list.get_mut(*at)).and_then(Option::take);
            let (handling, places) = own.map(|own| (own.handling, own.places)).unwrap_or_default();
            // Whatever is wrong with it is told where it is added to the policy.
            let _ = allowed.insert(pattern.clone(), ());
            self.entry(text, Some(pattern), handling, places);
        }
        for Injection { pattern, text, handling, places } in injections.list.into_iter().flatten() {
            if all || allowed.covering(&pattern).is_some() {
                self.entry(text, Some(pattern), handling, places);
            } else {
                let message =
                    format!("an injection rule is for `{}`, which `allowedDomains` does not allow", text.text);
                let fault = Fault::new(Code::Conflict, message).place(text.span);
                self.faults.push(fault.help("add it to `allowedDomains`"));
            }
        }
    }

    fn injections<'w, 'n>(&mut self, rules: &'w [InjectionRuleWire<'n>]) -> Injections<'w, 'n> {
        let mut injections = Injections::default();
        for wire in rules {
            let InjectionRuleWire { span, domain, headers, when } = wire;
            let Some(text) = domain.get() else { continue };
            let rule = self.injection_rule(*span, headers.get(), when);
            let pattern = self.pattern(text);
            self.check_sent(pattern.as_ref());
            let (Some(pattern), Some(rule)) = (pattern, rule) else { continue };
            let next = injections.list.len();
            let at = *injections.at.entry(pattern.clone()).or_insert(next);
            if at == next {
                let (handling, places) = (Handling::default(), Vec::new());
                injections.list.push(Some(Injection { pattern, text, handling, places }));
            }
            if let Some(Some(own)) = injections.list.get_mut(at) {
                own.handling.add(rule);
                own.places.push(*span);
            }
        }
        injections
    }
}

/// The rules of each domain that has some, in the order of their first.
#[derive(Default)]
struct Injections<'w, 'n> {
    list: Vec<Option<Injection<'w, 'n>>>,
    at: HashMap<DomainPattern, usize>,
}

/// The rules of a domain.
struct Injection<'w, 'n> {
    pattern: DomainPattern,
    text: &'w Text<'n, Pattern>,
    handling: Handling,
    places: Vec<Span>,
}
