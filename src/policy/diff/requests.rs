//! What becomes of the requests to one name, by the rules of its old and its new entry.
//!
//! The rules are compared method by method, for most rules ask for one. For each method, rules that can never claim a
//! request are left out; where what is left is alike, nothing differs. Else, for each pair of an old and a new rule
//! that do different things, requests are made that both would take ([`super::witness`]), and both policies are asked.
//!
//! `INVARIANT`: where no request is found that tells the rules apart, and it cannot be shown that there is none, a
//! sentence says so: nothing is passed over in silence.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ptr;

use super::Direction;
use super::witness::{self, Witness};
use super::words::{self, Methods, Tense};
use crate::flow::{Domain, OriginalDst, RequestHead, Scheme};
use crate::matcher::domain::DomainMap;
use crate::matcher::request::{RequestMatch, TextMatch};
use crate::policy::diagnostic::discreet;
use crate::policy::verdict::{Injection, RuleId};
use crate::policy::{Claim, Entry, Rule, Then};

/// One difference, to be told of a name.
#[derive(Debug)]
pub(super) struct Facet {
    pub(super) direction: Direction,
    pub(super) sentence: String,
    pub(super) example: Option<String>,
    pub(super) old: Option<RuleId>,
    pub(super) new: Option<RuleId>,
}

/// The names that are asked about: one of them, and how all of them are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) witness: &'a Domain,
    pub(super) shown: &'a str,
}

/// Where requests are judged to go: what a name resolves to does not matter here (TEST-NET-2, RFC 5737).
const SOMEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 443);

/// Methods to take for one that no rule mentions.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];

/// Rules of an entry that a sentence tells.
const CLAUSES: usize = 4;

/// A policy's entry for the names that are asked about, and what the policy refuses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side<'p> {
    pub(super) entry: Option<&'p Entry>,
    pub(super) deny: &'p DomainMap<RuleId>,
}

/// What a policy does with the requests that a rule claims.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deed<'p> {
    /// `None`: no rule claims them.
    pub(super) rule: Option<&'p Rule>,
    /// Whether it sends them where `deny` lets nothing go (POLICY §6), so that they are refused.
    pub(super) is_refused: bool,
}

impl<'p> Side<'p> {
    fn rules(self) -> &'p [Rule] {
        rules(self.entry)
    }

    fn deed(self, rule: Option<&'p Rule>) -> Deed<'p> {
        let is_refused = match rule.map(|rule| &rule.then) {
            Some(Then::Divert(url)) => self.deny.get(&url.host).is_some(),
            _ => false,
        };
        Deed { rule, is_refused }
    }

    fn place(self, at: Option<usize>) -> Option<&'p Rule> {
        self.rules().get(at?)
    }
}

/// A rule of the old entry and one of the new, by their places; `None` is that none claims the request.
type Pair = (Option<usize>, Option<usize>);

/// Whether two entries have the same rules in the same order, and relay other protocols on the same ports.
pub(super) fn alike(one: Side<'_>, other: Side<'_>) -> bool {
    let same = |(ours, theirs): (&Rule, &Rule)| {
        ours.when.covers(&theirs.when)
            && theirs.when.covers(&ours.when)
            && same_action(one.deed(Some(ours)), other.deed(Some(theirs)))
    };
    match (one.entry, other.entry) {
        // Of one policy, so what it denies is the same, too.
        (Some(one), Some(other)) if ptr::eq(one, other) => true,
        _ => {
            one.rules().len() == other.rules().len()
                && one.rules().iter().zip(other.rules()).all(same)
                && reads_path(one.entry) == reads_path(other.entry)
                && ports(one.entry) == ports(other.entry)
        }
    }
}

/// The rules about requests.
pub(super) fn rules(entry: Option<&Entry>) -> &[Rule] {
    entry.map(Entry::rules).unwrap_or_default()
}

/// Ports on which another protocol is relayed, in order.
pub(super) fn ports(entry: Option<&Entry>) -> Vec<u16> {
    let opaque = entry.and_then(|entry| entry.handling.as_ref()).map(|handling| handling.opaque.as_slice());
    let mut ports: Vec<u16> = opaque.unwrap_or_default().iter().map(|(port, _)| *port).collect();
    ports.sort_unstable();
    ports
}

fn reads_path(entry: Option<&Entry>) -> bool {
    entry.and_then(|entry| entry.handling.as_ref()).is_some_and(|handling| handling.reads_path)
}

/// What an entry's first rules do, a clause each: `POST requests go on unchanged`, `all others are answered here with
/// 403`.
pub(super) fn clauses(side: Side<'_>) -> Vec<String> {
    let mut kept: Vec<&Rule> = Vec::new();
    let mut clauses = Vec::new();
    for rule in side.rules() {
        if kept.len() == CLAUSES {
            clauses.push("more rules follow".to_owned());
            break;
        }
        if kept.iter().any(|earlier| earlier.when.covers(&rule.when)) {
            continue;
        }
        let all = rule.when.methods.is_empty() && is_any(&rule.when);
        let whose = match (all, kept.is_empty()) {
            (true, true) => "requests".to_owned(),
            (true, false) => "all others".to_owned(),
            (false, _) => words::requests(&methods_of(&rule.when), &[&rule.when]),
        };
        clauses.push(format!("{whose} {}", words::done(side.deed(Some(rule)), Tense::Present)));
        kept.push(rule);
    }
    clauses
}

/// What all requests to a name are answered with here, if nobody is ever contacted.
pub(super) fn answered(entry: Option<&Entry>) -> Option<String> {
    let first = rules(entry).first()?;
    let all = first.when.methods.is_empty() && is_any(&first.when);
    match &first.then {
        Then::Respond(response) if all => Some(response.status.as_u16().to_string()),
        _ => None,
    }
}

fn methods_of(when: &RequestMatch) -> Methods<'_> {
    let methods: Vec<&str> = when.methods.iter().map(String::as_str).collect();
    if methods.is_empty() { Methods::All } else { Methods::Of(methods) }
}

/// Every difference in what becomes of requests. `budget` is how many more may be judged.
pub(super) fn compare(old: Side<'_>, new: Side<'_>, names: Names<'_>, budget: &mut usize) -> Vec<Facet> {
    let mut comparison = Comparison::new(old, new, names);
    for method in 0..comparison.methods.len() {
        comparison.method(method, budget);
    }
    let mut facets: Vec<Facet> = comparison.found.iter().flat_map(|found| comparison.facets(found)).collect();
    for direction in Direction::ALL {
        if !facets.iter().any(|facet| facet.direction == direction) {
            facets.extend(comparison.doubt(direction));
        }
    }
    if facets.is_empty() {
        facets.extend(comparison.paths());
    }
    facets
}

/// Two entries, side by side.
struct Comparison<'p> {
    old: Side<'p>,
    new: Side<'p>,
    names: Names<'p>,
    /// All that any rule mentions, and at the end one that stands for all others.
    methods: Vec<&'p str>,
    found: Vec<Found>,
    /// Pairs that no request was found for, and that some request might meet.
    unproved: Vec<Pair>,
    /// Whether the rules differ at all.
    differs: bool,
    /// Whether there was more to judge than the budget allows.
    spent: bool,
}

/// A pair of rules that does claim some request.
struct Found {
    pair: Pair,
    /// Places in [`Comparison::methods`].
    methods: Vec<usize>,
    example: String,
}

impl<'p> Comparison<'p> {
    fn new(old: Side<'p>, new: Side<'p>, names: Names<'p>) -> Self {
        let mut methods: Vec<&str> = Vec::new();
        for method in old.rules().iter().chain(new.rules()).flat_map(|rule| &rule.when.methods) {
            if !methods.contains(&method.as_str()) {
                methods.push(method);
            }
        }
        let other = METHODS.into_iter().find(|method| !methods.contains(method)).unwrap_or("OTHER");
        methods.push(other);
        Self { old, new, names, methods, found: Vec::new(), unproved: Vec::new(), differs: false, spent: false }
    }

    /// Compares what becomes of the requests of one method.
    fn method(&mut self, method: usize, budget: &mut usize) {
        let (ours, theirs) = (self.old.rules().len(), self.new.rules().len());
        if !self.spend(ours.saturating_add(theirs).saturating_pow(2), budget) {
            return;
        }
        // The last stands for all that no rule mentions.
        let named = (method + 1 < self.methods.len()).then(|| self.methods.get(method).copied()).flatten();
        let (old, new) = (effective(self.old.rules(), named), effective(self.new.rules(), named));
        let (before, after) = (self.old, self.new);
        let same = |((_, one), (_, other)): (&(usize, &'p Rule), &(usize, &'p Rule))| {
            one.when.covers_but_for_methods(&other.when)
                && other.when.covers_but_for_methods(&one.when)
                && same_action(before.deed(Some(one)), after.deed(Some(other)))
        };
        if old.len() == new.len() && old.iter().zip(&new).all(same) {
            return;
        }
        self.differs = true;
        // What the first rules claim is the same for as long as the rules are.
        let common = old.iter().zip(&new).take_while(|pair| same(*pair)).count();
        let both = |list: &[(usize, &'p Rule)]| {
            list.iter().skip(common).copied().map(Some).chain([None]).collect::<Vec<Option<(usize, &'p Rule)>>>()
        };
        for one in both(&old) {
            for other in both(&new) {
                let (our_rule, their_rule) = (one.map(|(_, rule)| rule), other.map(|(_, rule)| rule));
                if same_action(self.old.deed(our_rule), self.new.deed(their_rule))
                    || nothing_meets(&old, one, other)
                    || nothing_meets(&new, other, one)
                {
                    continue;
                }
                let pair = (one.map(|(at, _)| at), other.map(|(at, _)| at));
                if self.is_found(pair, method) {
                    continue;
                }
                let matches: Vec<&RequestMatch> =
                    [our_rule, their_rule].into_iter().flatten().map(|rule| &rule.when).collect();
                for witness in witness::requests(&matches) {
                    if !self.spend(ours.saturating_add(theirs), budget) {
                        return;
                    }
                    self.try_out(&witness, method);
                }
                if !self.is_found(pair, method) && !self.unproved.contains(&pair) {
                    self.unproved.push(pair);
                }
            }
        }
    }

    /// Takes from the budget; `false` if it is spent.
    fn spend(&mut self, cost: usize, budget: &mut usize) -> bool {
        match budget.checked_sub(cost) {
            Some(left) => *budget = left,
            None => self.spent = true,
        }
        !self.spent
    }

    fn is_found(&self, pair: Pair, method: usize) -> bool {
        self.found.iter().any(|found| found.pair == pair && found.methods.contains(&method))
    }

    /// Asks both entries about a request, and keeps what differs.
    fn try_out(&mut self, witness: &Witness, at: usize) {
        let method = self.methods.get(at).copied().unwrap_or_default();
        let Witness { path, query, headers } = witness;
        let head = RequestHead {
            scheme: Scheme::Https,
            authority: Some(self.names.witness),
            dst: OriginalDst(SOMEWHERE),
            method,
            path,
            query: query.as_deref(),
            headers,
        };
        let (Some(old), Some(new)) = (claimed(self.old.entry, &head), claimed(self.new.entry, &head)) else { return };
        let pair = (old, new);
        if same_action(self.old.deed(self.old.place(old)), self.new.deed(self.new.place(new)))
            || self.is_found(pair, at)
        {
            return;
        }
        match self.found.iter_mut().find(|found| found.pair == pair) {
            Some(found) => found.methods.push(at),
            None => {
                // The names of a query are shown, its values not.
                let names = query.iter().flat_map(|query| query.split('&')).map(|pair| pair.split('=').next());
                let names: Vec<String> = names.flatten().map(|name| format!("{name}=…")).collect();
                let query = if names.is_empty() { String::new() } else { format!("?{}", names.join("&")) };
                let target = discreet(&format!("{path}{query}"));
                let example = format!("{method} https://{}{target}", self.names.witness);
                self.found.push(Found { pair, methods: vec![at], example });
            }
        }
    }

    /// What is told of a pair of rules.
    fn facets(&self, found: &Found) -> Vec<Facet> {
        let (old, new) = (self.old.place(found.pair.0), self.new.place(found.pair.1));
        let (before, after) = (self.old.deed(old), self.new.deed(new));
        let matches: Vec<&RequestMatch> = [old, new].into_iter().flatten().map(|rule| &rule.when).collect();
        let requests = words::requests(&self.methods_at(&found.methods), &matches);
        let shown = self.names.shown;
        let facet = |direction, sentence: String| {
            let sentence =
                format!("{sentence}{}", words::at_either(old.map(|rule| &rule.id), new.map(|rule| &rule.id)));
            let (old, new) = (old.map(|rule| rule.id.clone()), new.map(|rule| rule.id.clone()));
            Facet { direction, sentence, example: Some(found.example.clone()), old, new }
        };
        let (Some(ours), Some(theirs)) = (to_origin(before), to_origin(after)) else {
            let (was, now) = (words::done(before, Tense::Past), words::done(after, Tense::Now));
            let sentence = match (old.map(|rule| &rule.then), new.map(|rule| &rule.then)) {
                (Some(Then::Respond(ours)), Some(Then::Respond(theirs))) if ours.status == theirs.status => {
                    format!("the answer with {} that {requests} to {shown} get here changes", ours.status.as_u16())
                }
                _ => format!("{requests} to {shown} that {was} {now}"),
            };
            return vec![facet(direction(before, after), sentence)];
        };
        let mut facets = Vec::new();
        for injection in ours {
            let kept = theirs.iter().find(|other| other.header == injection.header);
            if kept.is_none_or(|other| words::secrets(other) != words::secrets(injection)) {
                let secret = !words::secrets(injection).is_empty();
                let direction = if secret { Direction::Closes } else { Direction::Changes };
                let what = words::injected(injection);
                facets.push(facet(direction, format!("{what} is no longer sent to {shown} with {requests}")));
            }
        }
        for injection in theirs {
            let before = ours.iter().find(|other| other.header == injection.header);
            if before.is_none_or(|other| words::secrets(other) != words::secrets(injection)) {
                let secret = !words::secrets(injection).is_empty();
                let direction = if secret { Direction::Opens } else { Direction::Changes };
                let what = words::injected(injection);
                facets.push(facet(direction, format!("{what} is now sent to {shown} with {requests}")));
            } else if before.is_some_and(|other| !words::does_as(other, injection)) {
                let sentence = format!("what `{}` holds changes in {requests} to {shown}", injection.header);
                facets.push(facet(Direction::Changes, sentence));
            }
        }
        facets
    }

    /// Those at these places.
    fn methods_at(&self, places: &[usize]) -> Methods<'p> {
        let shown = |wanted: bool| {
            let places = (0..self.methods.len().saturating_sub(1)).filter(|at| places.contains(at) == wanted);
            places.filter_map(|at| self.methods.get(at).copied()).collect::<Vec<&str>>()
        };
        if !places.contains(&self.methods.len().saturating_sub(1)) {
            return Methods::Of(shown(true));
        }
        let but = shown(false);
        if but.is_empty() { Methods::All } else { Methods::But(but) }
    }

    /// What is told where the rules do the same with every request whose path has one meaning. If it has two, they
    /// count as different rules.
    fn paths(&self) -> Option<Facet> {
        let shown = self.names.shown;
        let (direction, sentence) = match (reads_path(self.old.entry), reads_path(self.new.entry)) {
            (false, true) => (
                Direction::Closes,
                format!("requests to {shown} may now be refused because their path has two meanings"),
            ),
            (true, false) => {
                let sentence = format!("requests to {shown} are no longer refused because their path has two meanings");
                (Direction::Opens, sentence)
            }
            (true, true) if self.differs => {
                (Direction::Changes, format!("which paths of {shown} count as having two meanings may change"))
            }
            _ => return None,
        };
        Some(Facet { direction, sentence, example: None, old: None, new: None })
    }

    /// What is told where it is not known whether requests are claimed otherwise.
    fn doubt(&self, towards: Direction) -> Option<Facet> {
        let shown = self.names.shown;
        if self.spent {
            let sentence = format!(
                "what becomes of requests to {shown} may change: there are more rules than can be compared one by one"
            );
            let example = None;
            return (towards == Direction::Opens).then_some(Facet {
                direction: towards,
                sentence,
                example,
                old: None,
                new: None,
            });
        }
        let deeds = |pair: &Pair| (self.old.deed(self.old.place(pair.0)), self.new.deed(self.new.place(pair.1)));
        let mut doubtful = self.unproved.iter().map(deeds).filter(|(old, new)| direction(*old, *new) == towards);
        let (before, after) = doubtful.next()?;
        let (old, new) = (before.rule, after.rule);
        let requests = words::requests(
            &Methods::All,
            &[old, new].into_iter().flatten().map(|rule| &rule.when).collect::<Vec<_>>(),
        );
        let (was, now) = (words::done(before, Tense::Past), words::done(after, Tense::Now));
        let (old, new) = (old.map(|rule| &rule.id), new.map(|rule| &rule.id));
        let at = words::at_either(old, new);
        let sentence = format!("it may be that {requests} to {shown} that {was} {now}{at}; no example was found");
        Some(Facet { direction: towards, sentence, example: None, old: old.cloned(), new: new.cloned() })
    }
}

/// The place of the rule that claims a request, or that none does; `None` where its path has two meanings.
fn claimed(entry: Option<&Entry>, head: &RequestHead<'_>) -> Option<Option<usize>> {
    let Some(entry) = entry else { return Some(None) };
    match entry.claim(head) {
        Claim::Ambiguous => None,
        Claim::Nobody => Some(None),
        Claim::Rule(rule) => Some(entry.rules().iter().position(|other| ptr::eq(other, rule))),
    }
}

/// The rules that can claim a request of this method, or of one that no rule mentions. What lets go on unchanged at
/// the end is left out where it does not look at the path (if it does, a path with two meanings is refused).
fn effective<'p>(rules: &'p [Rule], method: Option<&str>) -> Vec<(usize, &'p Rule)> {
    let mut kept: Vec<(usize, &Rule)> = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let methods = &rule.when.methods;
        let asked = methods.is_empty() || method.is_some_and(|method| methods.iter().any(|other| other == method));
        if asked && !kept.iter().any(|(_, earlier)| earlier.when.covers_but_for_methods(&rule.when)) {
            kept.push((at, rule));
        }
    }
    while let Some((_, Rule { id: _, when, then: Then::Pass })) = kept.last()
        && when.path.is_none()
    {
        kept.pop();
    }
    kept
}

/// Whether what claims by `ours`, one of `list`, can never be what `theirs` claims: a rule of the list that comes
/// before takes all that theirs takes, or no request can satisfy both.
fn nothing_meets(list: &[(usize, &Rule)], ours: Option<(usize, &Rule)>, theirs: Option<(usize, &Rule)>) -> bool {
    let Some((_, theirs)) = theirs else { return false };
    let mut before = list.iter().take_while(|(at, _)| ours.is_none_or(|(ours, _)| *at < ours));
    let taken = before.any(|(_, rule)| rule.when.covers_but_for_methods(&theirs.when));
    let apart = |(_, ours): (usize, &Rule)| match (&ours.when.path, &theirs.when.path) {
        (Some(ours), Some(theirs)) => disjoint(ours, theirs),
        _ => false,
    };
    taken || ours.is_some_and(apart)
}

/// Whether no text satisfies both.
fn disjoint(one: &TextMatch, other: &TextMatch) -> bool {
    match (one, other) {
        (TextMatch::Exact(text), matcher) | (matcher, TextMatch::Exact(text)) => !matcher.matches(text.as_bytes()),
        _ => {
            let (one, other) = (one.head(false), other.head(false));
            !one.starts_with(&other) && !other.starts_with(&one)
        }
    }
}

fn is_any(when: &RequestMatch) -> bool {
    let RequestMatch { methods: _, path, query, headers } = when;
    path.is_none() && query.is_empty() && headers.is_empty()
}

/// Whether a request comes to the same by both.
fn same_action(one: Deed<'_>, other: Deed<'_>) -> bool {
    if one.is_refused || other.is_refused {
        return one.is_refused && other.is_refused;
    }
    match (one.rule.map(|rule| &rule.then), other.rule.map(|rule| &rule.then)) {
        (None | Some(Then::Pass), None | Some(Then::Pass)) => true,
        (Some(Then::Transform(one)), Some(Then::Transform(other))) => {
            let set = |ours: &Injection| {
                other.iter().any(|theirs| theirs.header == ours.header && words::does_as(theirs, ours))
            };
            one.len() == other.len() && one.iter().all(set)
        }
        (Some(Then::Respond(one)), Some(Then::Respond(other))) => one == other,
        (Some(Then::Divert(one)), Some(Then::Divert(other))) => one == other,
        (Some(Then::Sign(one)), Some(Then::Sign(other))) => one == other,
        (Some(Then::Replace(one)), Some(Then::Replace(other))) => one == other,
        _ => false,
    }
}

/// What is set on a request that goes on to the name it is for; `None` if it does not.
fn to_origin(deed: Deed<'_>) -> Option<&[Injection]> {
    match deed.rule.map(|rule| &rule.then) {
        None | Some(Then::Pass) => Some(&[]),
        Some(Then::Transform(injections)) => Some(injections),
        Some(Then::Respond(_) | Then::Divert(_) | Then::Sign(_) | Then::Replace(_)) => None,
    }
}

/// Whether more goes out by the new rule than by the old: nothing, something, something with a secret.
fn direction(old: Deed<'_>, new: Deed<'_>) -> Direction {
    let reach = |deed: Deed<'_>| match deed.rule.map(|rule| &rule.then) {
        _ if deed.is_refused => 0,
        Some(Then::Respond(_)) => 0,
        Some(Then::Transform(injections)) if injections.iter().any(|each| !words::secrets(each).is_empty()) => 2,
        Some(Then::Sign(_)) => 2,
        Some(Then::Replace(places)) => 1 + places.iter().count(),
        None | Some(Then::Pass | Then::Transform(_) | Then::Divert(_)) => 1,
    };
    match reach(new).cmp(&reach(old)) {
        std::cmp::Ordering::Greater => Direction::Opens,
        std::cmp::Ordering::Less => Direction::Closes,
        std::cmp::Ordering::Equal => Direction::Changes,
    }
}
