//! What would allow what was denied: one value, worded for the command line or for the policy's file (POLICY §7).
//!
//! A [`Denial`] knows a [`Remedy`] by itself, as far as a reason, a name and an address tell. With a policy at hand,
//! `Policy::remedies` finds all that it takes: each is tried on a copy of the policy, until that allows the question.
//!
//! - `INVARIANT`: a remedy shows no rule but the one that denied.
//! - `INVARIANT`: remedies that end without words for the client allow the question, if all of them are followed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::judge::{Facts, Question};
use super::protected::{self, Guard, Protected, is_closed, is_openable};
use super::verdict::{Denial, DenyReason, Revision, RuleId, Verdict};
use super::{Base, Dns, Entry, Handling, Permitted, Policy, is_block};
use crate::flow::Domain;
use crate::matcher::cidr::{CidrMap, readings, unwrap};
use crate::matcher::domain::{DomainMap, DomainPattern};

/// What would allow it, or a part of what would.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Allow the name.
    AllowName {
        /// The name.
        name: Domain,
        /// Whether `allow` is known to be a map, not a list.
        keyed: bool,
    },
    /// Allow the range, and whatever is there.
    AllowRange(IpNet),
    /// Another protocol, by name.
    AllowOpaque {
        /// The name.
        name: Domain,
        /// The port.
        port: u16,
        /// The entry of `allow` that the name has, and its place.
        entry: Option<(DomainPattern, RuleId)>,
    },
    /// What the operator alone opens.
    AllowProtected(IpNet),
    /// What the name resolves to is protected, and not known.
    OpenAddressOf(Domain),
    /// Deny the name no longer.
    TakeName {
        /// The pattern that denies it, if more than its place is known.
        pattern: Option<DomainPattern>,
        /// Where it stands.
        rule: Option<RuleId>,
    },
    /// Deny the range no longer.
    TakeRange {
        /// The range, if more than its place is known.
        range: Option<IpNet>,
        /// Where it stands.
        rule: Option<RuleId>,
    },
    /// Have another mode than deny-all.
    TakeMode(RuleId),
    /// Have names resolved.
    ResolveNames,
    /// Enforce what is only observed.
    Enforce,
    /// It is for the client to do something else.
    Client(&'static str),
}

impl Remedy {
    /// As a flag of `exeat run`, where one does it.
    #[must_use]
    pub fn on_command_line(&self) -> String {
        let place = |rule: &Option<RuleId>| rule.as_ref().map_or_else(|| "its entry".to_owned(), RuleId::to_string);
        match self {
            Self::AllowName { name, .. } => format!("--allow {name}"),
            Self::AllowRange(range) => format!("--allow-cidr {range}"),
            Self::AllowProtected(range) => format!("--allow-protected {range}"),
            Self::OpenAddressOf(name) => {
                format!("open the address of {name}: --allow-cidr if it is private, --allow-protected if not")
            }
            Self::TakeName { rule, .. } => format!("take {} out of `deny`", place(rule)),
            Self::TakeRange { rule, .. } => format!("take {} out of the denied ranges", place(rule)),
            Self::TakeMode(rule) => format!("take `deny-all` ({rule}) out"),
            Self::AllowOpaque { .. } | Self::ResolveNames | Self::Enforce | Self::Client(_) => self.in_file(),
        }
    }

    /// As an edit of the policy's file, where one does it.
    #[must_use]
    pub fn in_file(&self) -> String {
        match self {
            Self::AllowName { name, keyed: true } => format!("add `{name}: []` to `allow`"),
            Self::AllowName { name, keyed: false } => format!("add `{name}` to `allow`"),
            Self::AllowRange(range) => format!("add `{range}` to `subnets.allow`"),
            Self::AllowOpaque { name, port, entry: None } => {
                format!("add `{name}: [{{opaque: {{ports: [{port}]}}}}]` to `allow`")
            }
            Self::AllowOpaque { port, entry: Some((pattern, rule)), .. } => {
                format!("add `{{opaque: {{ports: [{port}]}}}}` to the rules of `{pattern}` ({rule})")
            }
            Self::AllowProtected(range) => format!("run with `--allow-protected {range}`, as no policy opens it"),
            Self::OpenAddressOf(name) => {
                format!("add the address of {name} to `subnets.allow`, if it is private; if not, no policy opens it")
            }
            Self::TakeName { pattern: Some(pattern), rule: Some(rule) } => {
                format!("take `{pattern}` ({rule}) out of `deny`")
            }
            Self::TakeRange { range: Some(range), rule: Some(rule) } => {
                format!("take `{range}` ({rule}) out of `subnets.deny`")
            }
            Self::ResolveNames => "write `dns: names`".to_owned(),
            Self::Enforce => "take `observe` out, which withholds the rule's answer".to_owned(),
            Self::Client(words) => (*words).to_owned(),
            Self::TakeName { .. } | Self::TakeRange { .. } | Self::TakeMode(_) => self.on_command_line(),
        }
    }

    /// What opens an address that is protected in this reading of it.
    fn opening(reading: IpAddr) -> Self {
        let range = IpNet::from(unwrap(reading));
        if is_openable(reading) { Self::AllowRange(range) } else { Self::AllowProtected(range) }
    }
}

impl Denial {
    /// What would allow it, as far as this and no policy tells; `None` if nothing is known that would.
    ///
    /// `name` is the name judged, if one was known; `address` is where the flow was going, if it was a flow.
    #[must_use]
    pub fn remedy(&self, name: Option<&Domain>, address: Option<IpAddr>) -> Option<Remedy> {
        let rule = self.basis.rule.clone();
        let range = || address.map(|address| Remedy::AllowRange(IpNet::from(unwrap(address))));
        Some(match self.reason {
            DenyReason::DeniedCidr => Remedy::TakeRange { range: None, rule },
            DenyReason::DeniedDomain => Remedy::TakeName { pattern: None, rule },
            DenyReason::ProtectedRange => {
                let guarded = |address| readings(address).find(|reading| is_closed(*reading) || is_openable(*reading));
                match (name, address.and_then(guarded)) {
                    (_, Some(reading)) => Remedy::opening(reading),
                    // Not where the flow was going, but what the name resolves to, is protected.
                    (Some(name), None) => Remedy::OpenAddressOf(name.clone()),
                    (None, None) => Remedy::AllowProtected(IpNet::from(unwrap(address?))),
                }
            }
            DenyReason::DenyAll if rule.is_some() => Remedy::TakeMode(rule?),
            DenyReason::DenyAll | DenyReason::NoRule | DenyReason::NoName => match name {
                Some(name) => Remedy::AllowName { name: name.clone(), keyed: false },
                None => range()?,
            },
            DenyReason::NotHttp => range().unwrap_or(Remedy::Client("speak HTTP here")),
            DenyReason::AuthorityMismatch => {
                Remedy::Client("send requests to the name that the connection was made for")
            }
            DenyReason::AmbiguousPath => {
                Remedy::Client("send the path in its plain form, without encoded or dot segments")
            }
            DenyReason::PlaintextInjection => Remedy::Client("use https: a credential is never sent in clear"),
            DenyReason::SignatureRefused => {
                Remedy::Client("sign the request with the placeholders that the environment holds")
            }
            DenyReason::PlaceholderMisdirected => Remedy::Client("send the placeholder only where its secret may go"),
            DenyReason::MalformedRequest => Remedy::Client("send a request that can be framed without doubt"),
            DenyReason::UnreadableHello => Remedy::Client("send a TLS ClientHello with one host name"),
            DenyReason::Loop => Remedy::Client("dial the origin, not the listener"),
            DenyReason::SecretUnavailable => {
                Remedy::Client("make the secret available, and use port 443, or one of its `ports`")
            }
            DenyReason::MintBudget | DenyReason::Limit => Remedy::Client("try again later, with less at once"),
            DenyReason::Revoked => Remedy::Client("the policy changed; connect again"),
        })
    }

    /// [`Self::remedy`] on the command line: one line; empty if nothing is known.
    #[must_use]
    pub fn hint(&self, name: Option<&Domain>, address: Option<IpAddr>) -> String {
        self.remedy(name, address).map(|remedy| remedy.on_command_line()).unwrap_or_default()
    }
}

/// More than a question can need: each reading of an address, its name, and the mode.
const REMEDIES: usize = 16;

impl Policy {
    /// All that it takes to have a question allowed, in order; empty if it is, or if nothing is known that would.
    #[must_use]
    pub(super) fn remedies(&self, question: &Question, host: &Protected) -> Vec<Remedy> {
        let mut remedies = Vec::new();
        let mut amended: Option<(Self, Protected)> = None;
        for _ in 0..REMEDIES {
            let (policy, host) = amended.as_ref().map_or((self, host), |(policy, host)| (policy, host));
            let facts = policy.judge(question, host);
            let Some(reason) = facts.reason() else { return remedies };
            let Some(remedy) = policy.remedy(question, reason, &facts, host) else { break };
            let for_client = matches!(remedy, Remedy::Client(_));
            let next = policy.amended(&remedy, host);
            remedies.push(remedy);
            match next {
                Some(next) => amended = Some(next),
                None if for_client => return remedies,
                None => break,
            }
        }
        Vec::new()
    }

    /// What would allow a question that was denied so, or bring it closer to that.
    fn remedy(&self, question: &Question, reason: DenyReason, facts: &Facts, host: &Protected) -> Option<Remedy> {
        let Question { name, address, port, asked, .. } = question;
        if address.is_some_and(is_block) {
            return Some(Remedy::Client("dial the origin's own address: this one stands for names that were refused"));
        }
        // It stands alone: nothing can be added beside it.
        if let Base::DenyAll(Some(rule)) = &self.base {
            return Some(Remedy::TakeMode(rule.clone()));
        }
        // Also where `observe` lets it through, and a later row does not.
        let denied = address.and_then(|address| readings(address).find_map(|reading| lpm(&self.subnets_deny, reading)));
        if let Some((range, rule)) = denied {
            return Some(Remedy::TakeRange { range: Some(range), rule: Some(rule.clone()) });
        }
        let denial = Denial { reason, basis: facts.basis.clone() };
        let keyed = self.allow.is_empty() || self.allow.iter().any(|(_, entry)| entry.handling.is_some());
        match (reason, &facts.name) {
            (DenyReason::ProtectedRange, _) => {
                let Guard { reading, range } = host.guard((*address)?, &self.opened)?;
                let range = range.map(|_| Remedy::opening(reading));
                Some(range.unwrap_or_else(|| Remedy::AllowProtected(IpNet::from(reading))))
            }
            (DenyReason::DeniedDomain | DenyReason::NoName, Some(name)) if self.deny.get(name).is_some() => {
                let (pattern, rule) = self.denying(name)?;
                Some(Remedy::TakeName { pattern: Some(owned(pattern)?), rule: Some(rule.clone()) })
            }
            (DenyReason::NoRule, _) if self.dns == Dns::None && name.is_some() && !self.observe => {
                Some(Remedy::ResolveNames)
            }
            (DenyReason::NoName | DenyReason::DenyAll | DenyReason::NoRule, Some(name))
                if asked.is_none() && !matches!(port, 80 | 443) =>
            {
                let entry = match self.rows_5_and_6(name) {
                    Verdict::Allow(Permitted::Entry(entry)) => self.pattern_of(entry),
                    Verdict::Allow(Permitted::Mode(_)) | Verdict::Deny(_) => None,
                };
                let entry = entry.and_then(|(pattern, entry)| Some((owned(pattern)?, entry.id.clone())));
                Some(Remedy::AllowOpaque { name: name.clone(), port: *port, entry })
            }
            // An answer that `observe` withheld.
            (DenyReason::NoRule, Some(name)) if matches!(self.rows_5_and_6(name), Verdict::Allow(_)) => {
                Some(Remedy::Enforce)
            }
            (DenyReason::NoName | DenyReason::DenyAll, None) if address.is_none() => {
                Some(Remedy::Client("name an origin in `Host`"))
            }
            (DenyReason::DenyAll | DenyReason::NoRule, Some(name)) => {
                Some(Remedy::AllowName { name: name.clone(), keyed })
            }
            (DenyReason::NotHttp, _) if address.is_none() => {
                Some(Remedy::Client("speak TLS or HTTP on ports 80 and 443: ask for an https or http URL"))
            }
            (_, name) => denial.remedy(name.as_ref(), *address),
        }
    }

    /// The pattern of `deny` that a name meets, and its place.
    pub(super) fn denying(&self, name: &Domain) -> Option<(DomainPattern<&str>, &RuleId)> {
        let rule = self.deny.get(name)?;
        self.deny.iter().find(|(_, other)| std::ptr::eq(*other, rule))
    }

    /// An entry of `allow`, with its pattern.
    pub(super) fn pattern_of(&self, entry: &Entry) -> Option<(DomainPattern<&str>, &Entry)> {
        self.allow.iter().find(|(_, other)| std::ptr::eq(*other, entry))
    }

    /// This policy and host once a remedy is followed; `None` if it is not for them to follow, or changes nothing.
    fn amended(&self, remedy: &Remedy, host: &Protected) -> Option<(Self, Protected)> {
        let mut policy = self.copy();
        let mut host = host.clone();
        match remedy {
            Remedy::AllowName { name, .. } => {
                policy.add_entry(name, Handling::default())?;
            }
            Remedy::AllowRange(range) => {
                policy.subnets_allow.insert(*range, edit()).ok()?;
                if protected::opens(range, None) {
                    policy.opened.insert(*range, edit()).ok()?;
                }
                policy.allow_something();
            }
            Remedy::AllowOpaque { name, port, entry: None } => {
                policy.add_entry(name, Handling { opaque: vec![(*port, edit())], ..Handling::default() })?;
            }
            Remedy::AllowOpaque { port, entry: Some((pattern, _)), .. } => {
                policy.allow = rebuilt(&self.allow, |other, entry| {
                    let mut entry = entry.clone();
                    if other == pattern.as_str() {
                        entry.handling.get_or_insert_default().opaque.push((*port, edit()));
                    }
                    Some(entry)
                });
            }
            Remedy::AllowProtected(range) => host = host.without(*range),
            Remedy::TakeName { pattern, .. } => {
                let pattern = pattern.as_ref()?.as_str();
                policy.deny = rebuilt(&self.deny, |other, rule| (other != pattern).then(|| rule.clone()));
            }
            Remedy::TakeRange { range, .. } => {
                let mut denied = CidrMap::default();
                for (other, rule) in self.subnets_deny.iter().filter(|(other, _)| *range != Some(*other)) {
                    denied.insert(other, rule.clone()).ok()?;
                }
                policy.subnets_deny = denied;
            }
            Remedy::TakeMode(_) => policy.base = Base::DenyAll(None),
            Remedy::ResolveNames => policy.dns = Dns::Names,
            Remedy::Enforce => policy.observe = false,
            Remedy::OpenAddressOf(_) | Remedy::Client(_) => return None,
        }
        Some((policy, host))
    }

    fn add_entry(&mut self, name: &Domain, handling: Handling) -> Option<()> {
        self.allow.insert(DomainPattern::parse(name.as_str()).ok()?, Entry::new(edit(), handling)).ok()?;
        self.allow_something();
        Some(())
    }

    /// A policy that allowed nothing, and does.
    fn allow_something(&mut self) {
        if self.base == Base::DenyAll(None) {
            self.base = Base::Lists;
        }
    }

    /// For trying a remedy alone: policies are shared, not copied.
    fn copy(&self) -> Self {
        Self {
            revision: Revision([0; 32]),
            base: self.base.clone(),
            allow: rebuilt(&self.allow, |_, entry| Some(entry.clone())),
            deny: rebuilt(&self.deny, |_, rule| Some(rule.clone())),
            subnets_allow: self.subnets_allow.clone(),
            subnets_deny: self.subnets_deny.clone(),
            opened: self.opened.clone(),
            strict: self.strict,
            denials: self.denials,
            dns: self.dns,
            observe: self.observe,
            sources: BTreeMap::new(),
            grants: self.grants.clone(),
            placeholders: BTreeMap::new(),
            stand_ins: self.stand_ins.clone(),
        }
    }
}

/// A map with the patterns of another, in its order, as far as `keep` keeps them.
fn rebuilt<T>(map: &DomainMap<T>, keep: impl Fn(&str, &T) -> Option<T>) -> DomainMap<T> {
    let mut kept = DomainMap::default();
    for (pattern, value) in map.iter() {
        if let (Some(value), Some(pattern)) = (keep(pattern.as_str(), value), owned(pattern)) {
            // What stood in one map stands in another.
            let _ = kept.insert(pattern, value);
        }
    }
    kept
}

fn owned(pattern: DomainPattern<&str>) -> Option<DomainPattern> {
    DomainPattern::parse(pattern.as_str()).ok()
}

/// The place of what a remedy adds.
fn edit() -> RuleId {
    RuleId::of_flag("the edit")
}

/// The narrowest range that holds an address, and its place.
pub(super) fn lpm(map: &CidrMap<RuleId>, address: IpAddr) -> Option<(IpNet, &RuleId)> {
    map.covering(IpNet::from(address))
}
