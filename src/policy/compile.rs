//! From a document and flags to a [`Policy`]: every fault is found in one run, and only a policy without one is made.
//!
//! Wire forms end here (HOUSE habit 1). What the language has and this version has not is refused by name, never
//! ignored.

pub(super) mod fields;
mod rules;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use super::cases::{self, Case};
use super::diagnostic::{Code, Diagnostics, Fault};
use super::verdict::{Revision, RuleId};
use super::wire::{self, Document, Key, Node, Source, Span, Value};
use super::{Base, Compiled, Denials, Dns, Entry, Flags, Handling, Policy, SourceSpec, Terms, protected};
use crate::flow::{Domain, SecretName};
use crate::limits;
use crate::matcher::cidr::{self, CidrMap};
use crate::matcher::domain::{DomainMap, DomainPattern, Refusal};
use fields::{Faults, Fields, Later};

/// Keys of a document (POLICY §1).
const KEYS: &[&str] = &[
    "version",
    "name",
    "description",
    "mode",
    "allow",
    "subnets",
    "deny",
    "strict",
    "denials",
    "dns",
    "observe",
    "secrets",
    "tests",
];

/// Keys that POLICY §1 has beyond these.
const LATER: Later = &[
    ("extends", "write what it would bring into this file"),
    ("placeholders", "secrets are set by `transform` rules alone"),
    ("allowedDomains", "this is an older API's spelling; write `allow`"),
    ("allowedCIDRs", "this is an older API's spelling; write `subnets: {allow: […]}`"),
    ("deniedCIDRs", "this is an older API's spelling; write `subnets: {deny: […]}`"),
    ("injectionRules", "this is an older API's spelling; write `allow: {DOMAIN: [{transform: […]}]}`"),
    ("forwardRules", "requests cannot be sent elsewhere yet"),
];

/// Compiles; see [`Policy::compile`].
pub(super) fn compile(file: Option<Source<'_>>, flags: &Flags, _terms: &Terms<'_>) -> Result<Compiled, Diagnostics> {
    let document = match file {
        Some(source) => Some(wire::parse(source).map_err(|fault| Diagnostics::unparsed(fault, source))?),
        None => None,
    };
    let mut compiler = Compiler::new(document.as_ref());
    if let Some(document) = &document {
        compiler.document(&document.root);
    }
    compiler.flags(flags, file.is_some());
    compiler.finish()
}

/// A policy in the making.
struct Compiler<'a> {
    source: Option<&'a Document<'a>>,
    faults: Faults,
    advice: Faults,
    base: Option<Base>,
    allow: DomainMap<Entry>,
    deny: DomainMap<RuleId>,
    subnets_allow: CidrMap<RuleId>,
    subnets_deny: CidrMap<RuleId>,
    strict: bool,
    denials: Denials,
    dns: Option<Dns>,
    observe: bool,
    sources: BTreeMap<SecretName, SourceSpec>,
    /// Where each secret is declared.
    declared: HashMap<SecretName, Span>,
    /// Secrets that some template asks for.
    used: HashSet<SecretName>,
    /// `host` headers that rules set: legal only to names that `allow` matches, known at the end.
    hosts: Vec<(Domain, Span)>,
    cases: Vec<Case>,
    entries: usize,
    rules: usize,
    regexes: usize,
}

impl<'a> Compiler<'a> {
    fn new(source: Option<&'a Document<'a>>) -> Self {
        Self {
            source,
            faults: Faults::default(),
            advice: Faults::default(),
            base: None,
            allow: DomainMap::default(),
            deny: DomainMap::default(),
            subnets_allow: CidrMap::default(),
            subnets_deny: CidrMap::default(),
            strict: false,
            denials: Denials::default(),
            dns: None,
            observe: false,
            sources: BTreeMap::new(),
            declared: HashMap::new(),
            used: HashSet::new(),
            hosts: Vec::new(),
            cases: Vec::new(),
            entries: 0,
            rules: 0,
            regexes: 0,
        }
    }

    /// `FILE:LINE`. Spans come from the document, so there is one.
    fn id(&self, span: Span) -> RuleId {
        self.source.map_or_else(|| RuleId::of_flag("the policy"), |document| document.rule_id(span))
    }

    fn document(&mut self, root: &Node) {
        if root.text().is_some() {
            self.mode(root);
            return;
        }
        let Some(fields) = self.faults.fields(root, "a policy", KEYS, LATER) else { return };
        self.head(&fields);
        if let Some(node) = fields.get("secrets") {
            self.secrets(node);
        }
        if let Some(node) = fields.get("deny") {
            self.deny(node);
        }
        if let Some(node) = fields.get("subnets") {
            self.subnets(node);
        }
        if let Some(node) = fields.get("allow") {
            self.allow(node);
        }
        if let (Some(node), Some(document)) = (fields.get("tests"), self.source) {
            self.cases = cases::read(node, document, &mut self.faults);
        }
        if let (Some(Base::DenyAll(_)), Some(mode)) = (&self.base, fields.key("mode")) {
            for other in ["allow", "deny", "subnets"] {
                if fields.get(other).is_some() {
                    let message = format!("`mode: deny-all` stands alone, and `{other}` stands beside it");
                    let fault = Fault::new(Code::Conflict, message).place(mode);
                    self.faults.push(fault.help("without `mode`, what no list allows is denied"));
                }
            }
        }
    }

    /// The keys whose value is one word.
    fn head(&mut self, fields: &Fields<'_>) {
        if let Some(node) = fields.get("version")
            && let Some(version) = self.faults.number(node, "`version`")
            && version != 1
        {
            self.faults.bad(node, format!("there is no version {version} of the policy language; this is version 1"));
        }
        for key in ["name", "description"] {
            if let Some(node) = fields.get(key) {
                self.faults.text(node, &format!("`{key}`"));
            }
        }
        if let Some(node) = fields.get("mode") {
            self.mode(node);
        }
        if let Some(node) = fields.get("strict") {
            self.strict = self.faults.boolean(node, "`strict`").unwrap_or_default();
        }
        if let Some(node) = fields.get("observe") {
            self.observe = self.faults.boolean(node, "`observe`").unwrap_or_default();
        }
        if let Some(node) = fields.get("denials") {
            let words = [("explain", Denials::Explain), ("terse", Denials::Terse)];
            self.denials = self.faults.word(node, "`denials`", &words).unwrap_or_default();
        }
        if let Some(node) = fields.get("dns") {
            let words = [("any", Dns::Any), ("names", Dns::Names), ("none", Dns::None)];
            self.dns = self.faults.word(node, "`dns`", &words);
        }
    }

    fn mode(&mut self, node: &Node) {
        if let Some(word @ ("custom" | "default-allow" | "default-deny")) = node.text() {
            let message = format!("the mode `{word}` is not supported by this version of exeat");
            let fault = Fault::new(Code::Unsupported, message).place(node.span);
            self.faults.push(fault.help("this is an older API's spelling; write `allow-all`, `deny-all` or no mode"));
            return;
        }
        let rule = self.id(node.span);
        match self.faults.word(node, "`mode`", &[("allow-all", true), ("deny-all", false)]) {
            Some(true) => self.base = Some(Base::AllowAll(rule)),
            Some(false) => self.base = Some(Base::DenyAll(Some(rule))),
            None => {}
        }
    }

    fn secrets(&mut self, node: &Node) {
        for (key, value) in self.faults.map(node, "`secrets`").unwrap_or_default() {
            let Some(name) = SecretName::new(&key.text) else {
                let fault =
                    Fault::new(Code::BadValue, "a secret's name is letters, digits and `_`, and no digit first");
                self.faults.push(fault.place(key.span));
                continue;
            };
            if let Some(source) = self.secret_source(value) {
                self.sources.insert(name.clone(), source);
            }
            self.declared.insert(name, key.span);
        }
    }

    fn secret_source(&mut self, node: &Node) -> Option<SourceSpec> {
        const OTHERS: Later = &[
            ("command", "sources are `env` and `file`"),
            ("vault", "sources are `env` and `file`"),
            ("aws", "sources are `env` and `file`"),
            ("literal", "a policy never holds a secret's value; sources are `env` and `file`"),
            ("value", "a policy never holds a secret's value; sources are `env` and `file`"),
        ];
        let fields = self.faults.fields(node, "a secret's source", &["env", "file"], OTHERS)?;
        match (fields.get("env"), fields.get("file")) {
            (Some(env), None) => {
                let name = self.faults.text(env, "`env`")?;
                if name.is_empty() || name.contains(['=', '\0']) {
                    let fault = Fault::new(Code::BadValue, "this is not the name of an environment variable");
                    self.faults.push(fault.place(env.span).hidden());
                    return None;
                }
                Some(SourceSpec::Env(name.to_owned()))
            }
            (None, Some(file)) => {
                let path = self.faults.text(file, "`file`")?;
                if path.is_empty() || path.contains('\0') {
                    self.faults.push(Fault::new(Code::BadValue, "this is not a path").place(file.span).hidden());
                    return None;
                }
                Some(SourceSpec::File(PathBuf::from(path)))
            }
            (Some(_), Some(_)) => {
                self.faults.push(Fault::new(Code::Conflict, "a secret has one source").place(node.span));
                None
            }
            (None, None) => {
                if matches!(&node.value, Value::Map(entries) if entries.is_empty()) {
                    self.faults.push(Fault::new(Code::Missing, "a secret needs `env` or `file`").place(node.span));
                }
                None
            }
        }
    }

    fn deny(&mut self, node: &Node) {
        for item in self.faults.list(node, "`deny`").unwrap_or_default() {
            let Some(text) = self.faults.text(item, "a pattern of `deny`") else { continue };
            let Some(pattern) = self.pattern(text, item.span) else { continue };
            let rule = self.id(item.span);
            match self.deny.insert(pattern, rule) {
                Ok(()) => {}
                Err(Refusal::Duplicate(first)) => {
                    let message = format!("`{text}` stands in `deny` already ({first})");
                    self.faults.push(Fault::new(Code::Duplicate, message).place(item.span));
                }
                Err(Refusal::Arrangements) => self.faults.push(arrangements(text).place(item.span)),
            }
        }
    }

    fn subnets(&mut self, node: &Node) {
        let Some(fields) = self.faults.fields(node, "`subnets`", &["allow", "deny"], &[]) else { return };
        for (key, what) in [("allow", "`subnets.allow`"), ("deny", "`subnets.deny`")] {
            let items = fields.get(key).and_then(|list| self.faults.list(list, what)).unwrap_or_default();
            for item in items {
                let Some(text) = self.faults.text(item, &format!("a range of {what}")) else { continue };
                match cidr::parse(text) {
                    Ok(range) => {
                        let rule = self.id(item.span);
                        self.range(key == "allow", range, rule, what, Some(item.span));
                    }
                    Err(fault) => {
                        let place = Fault::new(Code::BadValue, format!("`{text}`: {fault}")).place(item.span);
                        self.faults.push(place.perhaps(fault.help()));
                    }
                }
            }
        }
    }

    fn range(&mut self, allow: bool, range: IpNet, rule: RuleId, what: &str, span: Option<Span>) {
        self.count_entry(span);
        let map = if allow { &mut self.subnets_allow } else { &mut self.subnets_deny };
        if let Err(first) = map.insert(range, rule) {
            let message = format!("`{range}` stands in {what} already ({first})");
            self.faults.push(Fault::new(Code::Duplicate, message).place(span));
        }
    }

    fn allow(&mut self, node: &Node) {
        match &node.value {
            Value::List(items) => {
                for item in items {
                    if let Some(text) = self.faults.text(item, "a pattern of `allow`") {
                        self.entry(text, item.span, Handling::default());
                    }
                }
            }
            _ => {
                for (key, value) in self.faults.map(node, "`allow`").unwrap_or_default() {
                    self.keyed_entry(key, value);
                }
            }
        }
    }

    fn keyed_entry(&mut self, key: &Key, value: &Node) {
        let Value::List(items) = &value.value else {
            let message = format!("the rules of `{}` must be a list, and this is {}", key.text, value.kind());
            let fault = Fault::new(Code::WrongType, message).place(value.span).hidden();
            self.faults.push(fault.help("an entry without rules is written `[]`"));
            return;
        };
        let handling = self.handling(items);
        self.entry(&key.text, key.span, handling);
    }

    fn entry(&mut self, text: &str, span: Span, handling: Handling) {
        let Some(pattern) = self.pattern(text, span) else { return };
        if pattern.is_top_level() {
            let message = format!("`{text}` allows every name below a top-level domain");
            self.advice.push(Fault::new(Code::TopLevelWildcard, message).place(span));
        }
        let entry = Entry::new(self.id(span), handling);
        match self.allow.insert(pattern, entry) {
            Ok(()) => {}
            Err(Refusal::Duplicate(first)) => {
                let message = format!("`{text}` stands in `allow` already ({})", first.id);
                let fault = Fault::new(Code::Duplicate, message).place(span);
                self.faults.push(fault.help("entries are never merged; write one with all its rules"));
            }
            Err(Refusal::Arrangements) => self.faults.push(arrangements(text).place(span)),
        }
    }

    fn pattern(&mut self, text: &str, span: Span) -> Option<DomainPattern> {
        self.count_entry(span.into());
        match DomainPattern::parse(text) {
            Ok(pattern) => Some(pattern),
            Err(fault) => {
                let place = Fault::new(Code::BadValue, format!("`{text}`: {fault}")).place(span);
                self.faults.push(place.perhaps(fault.help()));
                None
            }
        }
    }

    fn count_entry(&mut self, span: Option<Span>) {
        self.entries += 1;
        if self.entries == limits::POLICY_ENTRIES + 1 {
            let message = format!("the policy has more than {} patterns and ranges", limits::POLICY_ENTRIES);
            self.faults.push(Fault::new(Code::Limit, message).place(span));
        }
    }
}

/// The command line, and the end.
impl Compiler<'_> {
    fn flags(&mut self, flags: &Flags, with_file: bool) {
        let Flags { mode, allow, allow_cidr, deny_cidr, observe } = flags;
        self.observe |= observe;
        let lists = !(allow.is_empty() && allow_cidr.is_empty() && deny_cidr.is_empty());
        if let Some(word) = mode {
            if with_file || lists {
                let message =
                    "`--mode` stands alone: it excludes a policy file, `--allow`, `--allow-cidr` and `--deny-cidr`";
                self.faults.push(Fault::new(Code::Conflict, message));
            }
            let rule = RuleId::of_flag(&format!("--mode {word}"));
            match word.as_str() {
                "allow-all" => self.base = Some(Base::AllowAll(rule)),
                "deny-all" => self.base = Some(Base::DenyAll(Some(rule))),
                _ => {
                    let fault = Fault::new(Code::BadValue, format!("--mode {word}: there is no such mode"));
                    self.faults.push(fault.help("it is one of `allow-all`, `deny-all`"));
                }
            }
        } else if let (Some(Base::DenyAll(_)), true) = (&self.base, lists) {
            let message = "the policy file says `deny-all`, which stands alone: flags cannot add to it";
            self.faults.push(Fault::new(Code::Conflict, message));
        }
        for text in allow {
            let rule = RuleId::of_flag(&format!("--allow {text}"));
            match DomainPattern::parse(text) {
                Ok(pattern) => {
                    self.count_entry(None);
                    let entry = Entry::new(rule, Handling::default());
                    match self.allow.insert(pattern, entry) {
                        Ok(()) => {}
                        Err(Refusal::Duplicate(first)) => {
                            let message = format!("--allow {text}: it is allowed already ({})", first.id);
                            self.faults.push(Fault::new(Code::Duplicate, message));
                        }
                        Err(Refusal::Arrangements) => self.faults.push(arrangements(text)),
                    }
                }
                Err(fault) => self.bad_flag("--allow", text, &fault, fault.help().map(str::to_owned)),
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

    fn finish(mut self) -> Result<Compiled, Diagnostics> {
        self.check_hosts();
        self.advise();
        if !self.faults.0.is_empty() {
            return Err(Diagnostics::new(self.faults.0, self.source));
        }
        let empty = self.allow.is_empty() && self.subnets_allow.is_empty();
        let base = self.base.unwrap_or(if empty { Base::DenyAll(None) } else { Base::Lists });
        let mut opened = CidrMap::default();
        for (range, rule) in self.subnets_allow.iter().filter(|(range, _)| protected::opens(range)) {
            // Ranges of one map are distinct, so none stands there already.
            let _ = opened.insert(range, rule.clone());
        }
        self.allow.shrink_to_fit();
        self.deny.shrink_to_fit();
        let dns = self.dns.unwrap_or(if matches!(base, Base::AllowAll(_)) { Dns::Any } else { Dns::Names });
        let policy = Policy {
            revision: Revision([0; 32]),
            base,
            allow: self.allow,
            deny: self.deny,
            subnets_allow: self.subnets_allow,
            subnets_deny: self.subnets_deny,
            opened,
            strict: self.strict,
            denials: self.denials,
            dns,
            observe: self.observe,
            sources: self.sources,
            placeholders: BTreeMap::new(),
            nothing: Arc::from([]),
        };
        let advice = Diagnostics::new(self.advice.0, self.source);
        Ok(Compiled { policy: policy.sealed(), cases: self.cases, advice })
    }

    /// `host` may be set only to a name that `allow` matches (POLICY §3).
    fn check_hosts(&mut self) {
        let all = matches!(self.base, Some(Base::AllowAll(_)));
        for (name, span) in &self.hosts {
            if self.deny.get(name).is_some() || !(all || self.allow.get(name).is_some()) {
                let message = format!("`host` cannot be set to `{name}`, which this policy does not allow");
                self.faults.push(Fault::new(Code::BadValue, message).place(*span).hidden());
            }
        }
    }

    fn advise(&mut self) {
        for (name, span) in &self.declared {
            if !self.used.contains(name) {
                let message = format!("no rule uses the secret `{}`", name.as_str());
                self.advice.push(Fault::new(Code::UnusedSecret, message).place(*span));
            }
        }
        let open = matches!(self.base, Some(Base::AllowAll(_))) || self.allow.any().is_some();
        if open && !self.deny.is_empty() && !self.strict {
            let message = "a `deny` beneath `*` or allow-all does not hold against encrypted names and fronting";
            self.advice.push(Fault::new(Code::AdvisoryDeny, message).help("`strict: true` makes it hold"));
        }
        if !self.subnets_allow.is_empty() && (!self.deny.is_empty() || !self.sources.is_empty()) {
            let message = "what goes to a range of `subnets.allow` is judged by address alone: no `deny`, no injection";
            self.advice.push(Fault::new(Code::BypassedByAddress, message));
        }
    }
}

/// One arrangement of `*` too many.
fn arrangements(text: &str) -> Fault {
    let most = limits::POLICY_ARRANGEMENTS;
    let message = format!("`{text}`: the list's patterns have `*` in more than {most} different places");
    Fault::new(Code::Limit, message).help("a `*` at the left end alone is not counted")
}

#[cfg(test)]
mod tests;
