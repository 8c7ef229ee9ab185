//! From documents and flags to a [`Policy`]: every fault is found in one run, and only a policy without one is made.
//!
//! Wire forms end here (HOUSE habit 1). What the language has and this host has not is refused by name, never ignored.
//!
//! A document counts with those that it `extends`, and their meaning is one: **lists add up; of what can stand once,
//! the nearest counts.** So `allow`, `deny` and `subnets` are those of all files together; but a mode, a setting, the
//! entry of one domain pattern (never merged), or a secret or placeholder of one name is that of the first file that
//! has it, in the order: the document, then each file of its `extends` followed by those that this one extends. A file
//! that is met twice counts once, after all that extend it. `tests` are the document's own.

pub(super) mod advice;
mod lists;
mod older;
mod rules;
mod signing;
mod sources;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ipnet::IpNet;

use super::cases::{self, Case};
use super::diagnostic::{Code, Diagnostics, Fault};
use super::placeholder::StandIn;
use super::verdict::{Revision, RuleId};
use super::wire::{
    DocumentWire, Documents, Faults, Field, Flag, Mode, PolicyWire, Source, SourceWire, Span, Text, Wire, Word,
};
use super::{
    Author, Base, Compiled, Denials, Dns, Entry, Feature, Flags, Grant, Handling, Policy, SourceSpec, Terms, protected,
};
use crate::flow::{Domain, SecretName};
use crate::matcher::cidr::{self, CidrMap};
use crate::matcher::domain::{DomainMap, DomainPattern, Refusal};
use crate::matcher::request::RequestMatch;

pub(super) use rules::belongs_to_connection;

/// Compiles; see [`Policy::compile`].
pub(super) fn compile(document: Option<Source<'_>>, flags: &Flags, terms: &Terms<'_>) -> Result<Compiled, Diagnostics> {
    let (documents, faults) = document.map(|source| Documents::load(source, terms.files)).unwrap_or_default();
    let mut faults = Faults(faults);
    let mut wires = Vec::new();
    for root in documents.iter().filter_map(|document| document.root.as_ref()) {
        wires.extend(DocumentWire::read(root, DocumentWire::NOUN, &mut faults).map(|wire| (root.span.file, wire)));
    }
    let mut compiler = Compiler::new(&documents, terms, faults);
    // Whichever file uses a secret, any of them may declare it.
    for (_, wire) in &wires {
        if let DocumentWire::Policy(policy) = wire {
            compiler.secrets(policy);
        }
    }
    for (file, wire) in &wires {
        match wire {
            DocumentWire::Bare(mode) => compiler.mode(mode),
            DocumentWire::Policy(policy) => compiler.policy(*file, policy),
        }
    }
    compiler.flags(flags, document.is_some());
    compiler.finish(flags)
}

/// A policy in the making.
struct Compiler<'a> {
    documents: &'a Documents<'a>,
    terms: &'a Terms<'a>,
    faults: Faults,
    advice: Faults,
    places: Places,
    mode: Option<Said<Mode>>,
    /// `--mode`, which stands alone.
    flag: Option<(Mode, RuleId)>,
    allow: DomainMap<Entry>,
    deny: DomainMap<RuleId>,
    subnets_allow: CidrMap<RuleId>,
    subnets_deny: CidrMap<RuleId>,
    strict: Option<Said<bool>>,
    denials: Option<Said<Denials>>,
    dns: Option<Said<Dns>>,
    observe: Option<Said<bool>>,
    sources: BTreeMap<SecretName, SourceSpec>,
    grants: BTreeMap<SecretName, Grant>,
    /// The secrets that rules of the entry at hand send, and where each is written.
    sent: Vec<(SecretName, Span)>,
    /// The secrets that sign, where each is named, and whether clients sign with its placeholder.
    keys: Vec<(SecretName, Span, bool)>,
    /// Where the entry at hand first has placeholders replaced elsewhere than in headers.
    replacing: Option<Span>,
    /// The patterns whose entries do, and where.
    replaced: Vec<(DomainPattern, Span)>,
    /// Every secret that is referred to.
    used: BTreeSet<SecretName>,
    placeholders: BTreeMap<String, Said<SecretName>>,
    /// Where each secret is declared.
    declared: HashMap<SecretName, Span>,
    /// `host` headers that rules set: legal only to names that `allow` matches, known at the end.
    hosts: Vec<(Domain, Span)>,
    cases: Vec<Case>,
    entries: usize,
    rules: usize,
    regexes: usize,
}

/// What can stand once, and where it stands that counts.
#[derive(Debug, Clone, Copy)]
struct Said<T> {
    value: T,
    span: Span,
}

/// Where things stand that advice may be about.
#[derive(Debug, Default)]
struct Places {
    /// Of each entry of `allow`, in their order; `None` for a flag's.
    entries: Vec<Option<Span>>,
    /// Of the rules about requests, by the number of an entry that has some.
    rules: Vec<(usize, Vec<Span>)>,
    /// Of each range of `subnets.allow`, as they came.
    ranges: Vec<(IpNet, Option<Span>)>,
    /// The first key that denies names.
    deny: Option<Span>,
    /// The first key that denies addresses.
    deny_ranges: Option<Span>,
}

impl<'a> Compiler<'a> {
    fn new(documents: &'a Documents<'a>, terms: &'a Terms<'a>, faults: Faults) -> Self {
        Self {
            documents,
            terms,
            faults,
            advice: Faults::default(),
            places: Places::default(),
            mode: None,
            flag: None,
            allow: DomainMap::default(),
            deny: DomainMap::default(),
            subnets_allow: CidrMap::default(),
            subnets_deny: CidrMap::default(),
            strict: None,
            denials: None,
            dns: None,
            observe: None,
            sources: BTreeMap::new(),
            grants: BTreeMap::new(),
            sent: Vec::new(),
            keys: Vec::new(),
            replacing: None,
            replaced: Vec::new(),
            used: BTreeSet::new(),
            placeholders: BTreeMap::new(),
            declared: HashMap::new(),
            hosts: Vec::new(),
            cases: Vec::new(),
            entries: 0,
            rules: 0,
            regexes: 0,
        }
    }

    fn id(&self, span: Span) -> RuleId {
        self.documents.rule_id(span)
    }

    /// What only the operator may say is refused to a control plane.
    fn operators_own(&mut self, key: &str, span: Option<Span>, help: &str) -> bool {
        let refused = span.is_some() && self.terms.author != Author::Operator;
        if refused {
            let message = format!("`{key}` is the operator's, and stands in a policy from the control plane");
            self.faults.push(Fault::new(Code::Unsupported, message).place(span).help(help));
        }
        !refused
    }

    fn lacks(&mut self, feature: Feature, key: &str, span: Span) -> bool {
        let lack = self.terms.lacks.iter().find(|(lacking, _)| *lacking == feature);
        if let Some((_, why)) = lack {
            let message = format!("`{key}` cannot be had here: {why}");
            self.faults.push(Fault::new(Code::Unsupported, message).place(span));
        }
        lack.is_some()
    }

    /// One document of several: see the module for what its keys mean beside those of the others.
    fn policy(&mut self, file: usize, wire: &PolicyWire<'_>) {
        let PolicyWire {
            version: _,
            name: _,
            description: _,
            extends,
            mode,
            allow,
            deny,
            subnets,
            strict,
            denials,
            dns,
            observe,
            secrets: _,
            placeholders,
            tests,
            allowed_domains: _,
            allowed_cidrs: _,
            denied_cidrs: _,
            injection_rules: _,
        } = wire;
        if let Some(key) = extends.key()
            && self.operators_own("extends", Some(key), "write what it would bring into the policy")
            && self.terms.files.is_none()
        {
            let message = "no further file can be read here";
            self.faults.push(Fault::new(Code::Unsupported, message).place(key));
        }
        if let Some(mode) = mode.get() {
            self.mode(mode);
        }
        let flag = |field: &Field<'_, Flag>| Some(Said { value: field.get()?.value, span: field.key()? });
        self.once("strict", |compiler| &mut compiler.strict, flag(strict));
        self.once("denials", |compiler| &mut compiler.denials, denials.get().map(Said::word));
        self.once("dns", |compiler| &mut compiler.dns, dns.get().map(Said::word));
        if self.operators_own("observe", observe.key(), "the operator sets it for a sandbox") {
            self.once("observe", |compiler| &mut compiler.observe, flag(observe));
        }
        if let Some(list) = deny.get() {
            self.places.deny = self.places.deny.or(deny.key().filter(|_| !list.items.is_empty()));
            self.deny(list);
        }
        if let Some(subnets) = subnets.get() {
            self.subnets(subnets);
        }
        if let Some(allow) = allow.get() {
            self.allow(allow);
        }
        self.older(wire);
        if let Some(table) = placeholders.get() {
            self.placeholders(table);
        }
        if let (0, Some(list)) = (file, tests.get())
            && self.operators_own("tests", tests.key(), "keep them in a file, and run `exeat test` on it")
        {
            self.cases = cases::compile(list, self.documents, &mut self.faults);
        }
        self.check_deny_all(wire);
    }

    fn mode(&mut self, word: &Word<Mode>) {
        self.once("mode", |compiler| &mut compiler.mode, Some(Said::word(word)));
    }

    /// Takes what can stand once, unless a nearer file has said it.
    fn once<T: Copy + PartialEq>(
        &mut self,
        key: &str,
        slot: impl Fn(&mut Self) -> &mut Option<Said<T>>,
        said: Option<Said<T>>,
    ) {
        match (*slot(self), said) {
            (_, None) => {}
            (None, said) => *slot(self) = said,
            (Some(first), Some(other)) if first.value != other.value => {
                let first = self.id(first.span);
                self.overruled(&format!("`{key}` says otherwise"), &first, other.span);
            }
            (Some(_), Some(_)) => {}
        }
    }

    /// Advises where `first` counts and not `other`, unless the file of the former extends that of the latter, and so
    /// means it.
    fn overruled(&mut self, what: &str, first: &RuleId, other: Span) {
        if !self.documents.extends(first, other.file) {
            let message = format!("{what} in {first}, which counts: neither file extends the other");
            let root = self.documents.get(0).map_or("", |document| &*document.path);
            let fault = Fault::new(Code::SiblingConflict, message).place(other);
            self.advice.push(fault.help(format!("say which is meant in {root}, or in a file that extends both")));
        }
    }

    fn check_deny_all(&mut self, wire: &PolicyWire<'_>) {
        let Some(Word { value: Mode::DenyAll, span }) = wire.mode.get() else { return };
        let lists = [
            ("allow", wire.allow.is_written()),
            ("deny", wire.deny.is_written()),
            ("subnets", wire.subnets.is_written()),
            ("allowedDomains", wire.allowed_domains.is_written()),
            ("allowedCIDRs", wire.allowed_cidrs.is_written()),
            ("deniedCIDRs", wire.denied_cidrs.is_written()),
            ("injectionRules", wire.injection_rules.is_written()),
        ];
        for (other, _) in lists.iter().filter(|(_, written)| *written) {
            let message = format!("`mode: deny-all` stands alone, and `{other}` stands beside it");
            let fault = Fault::new(Code::Conflict, message).place(*span);
            self.faults.push(fault.help("without `mode`, what no list allows is denied"));
        }
    }

    fn secrets(&mut self, wire: &PolicyWire<'_>) {
        let help = "register the secret with the control plane, and refer to it by name";
        if !self.operators_own("secrets", wire.secrets.key(), help) {
            return;
        }
        for (key, source) in wire.secrets.get().map(|table| table.entries.as_slice()).unwrap_or_default() {
            let Some(name) = self.secret_name(key) else { continue };
            let (source, grant) = (self.secret_source(source), self.grant(source));
            if let Some(first) = self.declared.get(&name).copied() {
                if (source.as_ref(), &grant) != (self.sources.get(&name), self.grants.get(&name).unwrap_or(&grant)) {
                    let first = self.id(first);
                    let what = format!("the secret `{}` has another source or grant", name.as_str());
                    self.overruled(&what, &first, key.span);
                }
                continue;
            }
            self.declared.insert(name.clone(), key.span);
            if grant != Grant::default() {
                self.grants.insert(name.clone(), grant);
            }
            self.sources.extend(source.map(|source| (name, source)));
        }
    }

    /// Where a secret may go.
    fn grant(&mut self, wire: &SourceWire<'_>) -> Grant {
        let SourceWire {
            span: _,
            env: _,
            file: _,
            command: _,
            vault: _,
            oauth2: _,
            github_app: _,
            aws: _,
            to,
            ports,
            methods,
            paths,
            headers,
            shape,
        } = wire;
        let names = to.get().map(|list| list.items.as_slice()).unwrap_or_default();
        let to = names.iter().filter_map(|text| self.pattern(text)).collect();
        let ports = ports.get().map(|list| list.items.as_slice()).unwrap_or_default();
        let ports = ports.iter().map(|port| port.value).collect();
        let headers = headers.get().map(|list| self.placeholder_headers(list)).unwrap_or_default();
        let methods = methods.get().map(|list| self.methods(list)).unwrap_or_default();
        let paths = paths.get().map(|list| self.granted_paths(list)).unwrap_or_default();
        Grant { to, ports, methods, paths, headers, shape: shape.get().and_then(|shape| self.shape(shape)) }
    }

    /// What is known of where a secret may go.
    fn grant_of(&self, name: &SecretName) -> Option<&Grant> {
        match &self.terms.author {
            Author::Operator => self.grants.get(name),
            Author::ControlPlane { secrets, .. } => secrets.get(name),
        }
    }

    /// What the rules of an entry send goes nowhere but where it may.
    fn check_sent(&mut self, pattern: Option<&DomainPattern>) {
        for (name, span) in std::mem::take(&mut self.sent) {
            let (Some(grant), Some(pattern)) = (self.grant_of(&name), pattern) else { continue };
            if !grant.covers(pattern) {
                let names: Vec<String> = grant.to.iter().map(|name| format!("`{}`", name.as_str())).collect();
                let (secret, names) = (name.as_str(), names.join(", "));
                let message = format!("the secret `{secret}` may not go to `{}`", pattern.as_str());
                let fault = Fault::new(Code::BadValue, message).place(span).hidden();
                self.faults.push(fault.help(format!("its `to` has {names}: give those an entry of their own")));
            }
        }
    }

    /// What a rule sends, from this place of `sent` on, goes along with no request but those it may.
    fn check_scope(&mut self, from: usize, when: &RequestMatch) {
        let sent = self.sent.get(from..).unwrap_or_default();
        let refused =
            |(name, _): &&(SecretName, Span)| self.grant_of(name).is_some_and(|grant| !grant.covers_requests(when));
        let refused: Vec<_> = sent.iter().filter(refused).cloned().collect();
        for (name, span) in refused {
            let name = name.as_str();
            let message = format!("the secret `{name}` may not go along with every request that this rule claims");
            let fault = Fault::new(Code::BadValue, message).place(span).hidden();
            self.faults.push(fault.help("give the rule a `match` within the `methods` and `paths` of the secret"));
        }
    }

    fn secret_name<K>(&mut self, text: &Text<'_, K>) -> Option<SecretName> {
        let name = SecretName::new(text.text);
        if name.is_none() {
            let message = "a secret's name is letters, digits and `_`, and no digit first";
            self.faults.push(Fault::new(Code::BadValue, message).place(text.span).help("such as `GITHUB_TOKEN`"));
        }
        name
    }

    /// Whether `${secrets.NAME}` may refer to it.
    fn knows_secret(&self, name: &SecretName) -> bool {
        match &self.terms.author {
            Author::Operator => self.declared.contains_key(name),
            Author::ControlPlane { secrets, .. } => secrets.contains_key(name),
        }
    }

    /// A secret that nothing declares is a fault, unless a file is missing that may declare it.
    fn refer_to_secret(&mut self, name: &SecretName, span: Span) {
        self.used.insert(name.clone());
        if self.knows_secret(name) || !self.documents.are_whole() {
            return;
        }
        let name = name.as_str();
        let fault = Fault::new(Code::BadValue, format!("the secret `{name}` is not declared")).place(span).hidden();
        self.faults.push(match self.terms.author {
            Author::Operator => fault.help(format!("declare it: `secrets: {{{name}: {{env: VARIABLE}}}}`")),
            Author::ControlPlane { .. } => fault.help("register it with the control plane first"),
        });
    }
}

impl<T: Copy> Said<T> {
    fn word(word: &Word<T>) -> Self {
        Self { value: word.value, span: word.span }
    }
}

/// Whether a text can be the name of an environment variable.
fn is_variable(text: &str) -> bool {
    !text.is_empty() && !text.contains(['=', '\0'])
}

/// The command line, and the end.
impl Compiler<'_> {
    fn flags(&mut self, flags: &Flags, with_file: bool) {
        let Flags { mode, allow, allow_cidr, deny_cidr, observe: _ } = flags;
        let lists = !(allow.is_empty() && allow_cidr.is_empty() && deny_cidr.is_empty());
        if let Some(word) = mode {
            if with_file || lists {
                let message =
                    "`--mode` stands alone: it excludes a policy file, `--allow`, `--allow-cidr` and `--deny-cidr`";
                self.faults.push(Fault::new(Code::Conflict, message));
            }
            let rule = RuleId::of_flag(&format!("--mode {word}"));
            match word.as_str() {
                "allow-all" => self.flag = Some((Mode::AllowAll, rule)),
                "deny-all" => self.flag = Some((Mode::DenyAll, rule)),
                _ => {
                    let fault = Fault::new(Code::BadValue, format!("--mode {word}: there is no such mode"));
                    self.faults.push(fault.help("it is one of `allow-all`, `deny-all`"));
                }
            }
        } else if let (Some(Said { value: Mode::DenyAll, .. }), true) = (&self.mode, lists) {
            let message = "the policy file says `deny-all`, which stands alone: flags cannot add to it";
            self.faults.push(Fault::new(Code::Conflict, message));
        }
        for text in allow {
            let rule = RuleId::of_flag(&format!("--allow {text}"));
            match DomainPattern::parse(text) {
                Ok(pattern) => {
                    self.count_entry(None);
                    match self.allow.insert(pattern, Entry::new(rule, Handling::default())) {
                        Ok(()) => self.places.entries.push(None),
                        Err(Refusal::Duplicate(first)) => {
                            let message = format!("--allow {text}: it is allowed already ({})", first.id);
                            self.faults.push(Fault::new(Code::Duplicate, message));
                        }
                        Err(Refusal::Arrangements) => self.faults.push(lists::arrangements(text)),
                    }
                }
                Err(fault) => self.bad_flag("--allow", text, &fault, fault.help(text)),
            }
        }
        for (flag, list, allow) in [("--allow-cidr", allow_cidr, true), ("--deny-cidr", deny_cidr, false)] {
            for text in list {
                match cidr::parse(text) {
                    Ok(range) => self.range(allow, range, RuleId::of_flag(&format!("{flag} {text}")), flag, None),
                    Err(fault) => self.bad_flag(flag, text, &fault, fault.help()),
                }
            }
        }
    }

    fn bad_flag(&mut self, flag: &str, text: &str, fault: &dyn std::fmt::Display, help: Option<String>) {
        self.faults.push(Fault::new(Code::BadValue, format!("{flag} {text}: {fault}")).perhaps(help));
    }

    /// What holds where no list says anything.
    fn base(&self) -> Base {
        let empty = self.allow.is_empty() && self.subnets_allow.is_empty();
        let said = self.mode.map(|said| (said.value, self.id(said.span)));
        match self.flag.clone().or(said) {
            Some((Mode::AllowAll | Mode::DefaultAllow, rule)) => Base::AllowAll(rule),
            Some((Mode::DenyAll, rule)) => Base::DenyAll(Some(rule)),
            Some((Mode::DefaultDeny, rule)) if empty => Base::DenyAll(Some(rule)),
            Some((Mode::Custom | Mode::DefaultDeny, _)) | None if empty => Base::DenyAll(None),
            Some((Mode::Custom | Mode::DefaultDeny, _)) | None => Base::Lists,
        }
    }

    fn finish(mut self, flags: &Flags) -> Result<Compiled, Diagnostics> {
        let base = self.base();
        self.check_merged(&base);
        self.check_hosts(&base);
        self.check_keys();
        self.check_replaced();
        if !self.faults.0.is_empty() {
            return Err(Diagnostics::new(self.faults.0, self.documents));
        }
        self.advise(&base);
        let mut opened = CidrMap::default();
        let openable = match &self.terms.author {
            Author::Operator => None,
            Author::ControlPlane { openable, .. } => Some(openable.as_slice()),
        };
        for (range, rule) in self.subnets_allow.iter().filter(|(range, _)| protected::opens(range, openable)) {
            // Ranges of one map are distinct, so none stands there already.
            let _ = opened.insert(range, rule.clone());
        }
        self.allow.shrink_to_fit();
        self.deny.shrink_to_fit();
        let by_address = self.allow.is_empty() && !self.subnets_allow.is_empty();
        let dns = match (self.dns, &base, &self.terms.author) {
            (Some(said), _, _) => said.value,
            (None, Base::AllowAll(_), _) => Dns::Any,
            (None, _, Author::ControlPlane { .. }) if by_address => Dns::Any,
            (None, _, _) => Dns::Names,
        };
        let grants = match &self.terms.author {
            Author::Operator => self.grants,
            // Of those that stand for every policy, what others may use says nothing of this one.
            Author::ControlPlane { secrets, .. } => {
                let used = |name: &SecretName| self.used.contains(name);
                secrets
                    .iter()
                    .filter(|(name, _)| used(name))
                    .map(|(name, grant)| (name.clone(), grant.clone()))
                    .collect()
            }
        };
        let placeholders: BTreeMap<_, _> =
            self.placeholders.into_iter().map(|(variable, said)| (variable, said.value)).collect();
        let keys: BTreeSet<SecretName> = self.keys.into_iter().map(|(name, _, _)| name).collect();
        let policy = Policy {
            revision: Revision([0; 32]),
            base,
            allow: self.allow,
            deny: self.deny,
            subnets_allow: self.subnets_allow,
            subnets_deny: self.subnets_deny,
            opened,
            strict: self.strict.is_some_and(|said| said.value),
            denials: self.denials.map(|said| said.value).unwrap_or_default(),
            dns,
            observe: flags.observe || self.observe.is_some_and(|said| said.value),
            sources: self.sources,
            stand_ins: StandIn::all(&placeholders, &grants, &keys),
            grants,
            placeholders,
        };
        let advice = Diagnostics::new(self.advice.0, self.documents);
        Ok(Compiled { policy: policy.sealed(), cases: self.cases, advice })
    }

    /// `deny-all` stands alone, also where another file brings the lists.
    fn check_merged(&mut self, base: &Base) {
        let lists = !(self.allow.is_empty() && self.subnets_allow.is_empty());
        if let (Base::DenyAll(Some(rule)), true, true) = (base, lists, self.faults.0.is_empty()) {
            let message = format!("the mode is deny-all ({rule}), which stands alone, and other files have lists");
            let fault = Fault::new(Code::Conflict, message);
            self.faults.push(fault.help("say `mode: custom` in the file that extends it"));
        }
    }

    /// `host` may be set only to a name that `allow` matches (POLICY §3).
    fn check_hosts(&mut self, base: &Base) {
        let all = matches!(base, Base::AllowAll(_)) || !self.documents.are_whole();
        for (name, span) in &self.hosts {
            if self.deny.get(name).is_some() || !(all || self.allow.get(name).is_some()) {
                let message = format!("`host` cannot be set to `{name}`, which this policy does not allow");
                self.faults.push(Fault::new(Code::BadValue, message).place(*span).hidden());
            }
        }
    }
}

#[cfg(test)]
mod tests;
