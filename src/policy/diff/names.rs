//! What becomes of names.
//!
//! The patterns of both policies part all names into classes: two names that the same patterns match are treated alike
//! by both. A name of a class is the pattern that is the narrowest there, with a label that no pattern has in place of
//! each `*`; so the policies are asked about one name for each pattern, one that no pattern matches, and one for each
//! pattern that two patterns have in common where neither holds the other (`a.*.test` and `*.b.test`).
//!
//! Of the last kind there may be as many as pairs of patterns. Who decides can differ there only if one of the two is
//! new, is gone, or moved among its equals, so only those pairs are looked at, and [`limits::DIFF_STEPS`] bounds them.
//! More than two need not be looked at together: whoever decides for a name in the old policy, and whoever does in the
//! new one, decide also for the names that these two have in common.

use std::collections::{HashMap, HashSet};

use super::requests::{self, Names, Side};
use super::words;
use super::{About, Change, Direction, Telling};
use crate::flow::Domain;
use crate::limits;
use crate::matcher::domain::{DomainMap, DomainPattern};
use crate::policy::verdict::{Denial, DenyReason, RuleId, Verdict};
use crate::policy::{Entry, Permitted, Policy};

/// What the comparison of names leaves for the rest to know.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Whether the old policy lets some name be reached or resolved.
    pub(super) old: bool,
    /// Whether the new one does.
    pub(super) new: bool,
    /// A name that both let be reached.
    pub(super) both: Option<Domain>,
    /// Whether `strict` makes a difference for some name.
    pub(super) strict: bool,
    /// Whether `dns` makes a difference for some name.
    pub(super) dns: bool,
}

/// How a policy treats a name, at an address that is left to names.
#[derive(Debug)]
struct State<'p> {
    verdict: Result<Open<'p>, Denial>,
    resolves: bool,
}

/// A name is reached.
#[derive(Debug, Clone, Copy)]
struct Open<'p> {
    rule: &'p RuleId,
    entry: Option<&'p Entry>,
    deny: &'p DomainMap<RuleId>,
    strict: bool,
}

impl<'p> Open<'p> {
    fn side(&self) -> Side<'p> {
        Side { entry: self.entry, deny: self.deny }
    }

    fn has_rules(&self) -> bool {
        !requests::rules(self.entry).is_empty()
    }

    fn terminates(&self) -> bool {
        self.strict || self.has_rules()
    }
}

impl<'p> State<'p> {
    fn of(policy: &'p Policy, name: &Domain) -> Self {
        let judged = match policy.row_3() {
            Some(denial) => Verdict::Deny(denial),
            None => policy.rows_5_and_6(name),
        };
        let open = |rule, entry| Open { rule, entry, deny: &policy.deny, strict: policy.strict };
        let verdict = match judged {
            Verdict::Allow(Permitted::Entry(entry)) => Ok(open(&entry.id, Some(entry))),
            Verdict::Allow(Permitted::Mode(rule)) => Ok(open(rule, None)),
            Verdict::Deny(denial) => Err(denial),
        };
        Self { verdict, resolves: matches!(policy.row_dns(name), Verdict::Allow(_)) }
    }

    fn is_open(&self) -> bool {
        self.verdict.is_ok()
    }

    /// Why it is refused does not count.
    fn alike(&self, other: &State<'_>) -> bool {
        let same = match (&self.verdict, &other.verdict) {
            (Ok(one), Ok(other)) => one.terminates() == other.terminates() && requests::alike(one.side(), other.side()),
            (Err(_), Err(_)) => true,
            _ => false,
        };
        same && self.resolves == other.resolves
    }
}

/// The lists that a pattern stands in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lists {
    allow: bool,
    deny: bool,
}

/// A pattern of either policy.
#[derive(Debug)]
struct Known<'p> {
    pattern: DomainPattern<&'p str>,
    old: Lists,
    new: Lists,
}

impl Known<'_> {
    fn is_changed(&self) -> bool {
        self.old != self.new
    }

    /// Whether it may have names in common with a pattern that it neither holds nor is held by.
    fn may_cross(&self) -> bool {
        !self.pattern.is_exact()
    }

    /// Whether a `*` stands elsewhere than at the left end.
    fn is_arranged(&self) -> bool {
        self.pattern.as_str().trim_start_matches('*').contains('*')
    }
}

/// A class of names that is not treated as it was.
#[derive(Debug)]
struct Region<'p> {
    /// `None`: what no pattern matches.
    pattern: Option<DomainPattern>,
    witness: Domain,
    old: State<'p>,
    new: State<'p>,
}

impl Region<'_> {
    fn alike(&self, other: &Region<'_>) -> bool {
        self.old.alike(&other.old) && self.new.alike(&other.new)
    }
}

/// Compares what becomes of names.
pub(super) fn compare(old: &Policy, new: &Policy, steps: usize, telling: &mut Telling) -> Named {
    let universe = Universe::new(old, new);
    let mut survey = Survey { old, new, named: Named::default(), places: Vec::new(), regions: Vec::new() };
    for known in &universe.patterns {
        let place =
            universe.witness(known.pattern.as_str()).map(|witness| survey.visit(Some(known.pattern.as_str()), witness));
        survey.places.push(place.unwrap_or_default());
    }
    let rest = match universe.index.get("*") {
        Some(at) => survey.places.get(*at).copied(),
        None => universe.elsewhere().map(|witness| survey.visit(None, witness)),
    };
    let crossing = universe.crossing(old, new, &mut survey, steps);
    if crossing.is_none() {
        let sentence = "the policies may differ where patterns with `*` in several places match the same names: there \
                        are more such patterns than can be compared one by one"
            .to_owned();
        telling.tell(Direction::Opens, || Change::of(About::Names(None), Direction::Opens, sentence));
    }
    let tree = Tree::new(&universe, &survey, rest.unwrap_or_default(), &crossing.unwrap_or_default());
    let Survey { named, regions, .. } = survey;
    let mut teller =
        Teller { regions: &regions, universe: &universe, tree: &tree, named, old, new, budget: steps, telling };
    for at in 0..regions.len() {
        teller.region(at);
    }
    teller.named
}

/// How one pattern's names fare.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    open: bool,
    /// Its place among the regions, if it is one.
    region: Option<usize>,
}

/// Both policies asked about names.
struct Survey<'p> {
    old: &'p Policy,
    new: &'p Policy,
    named: Named,
    /// By place in [`Universe::patterns`].
    places: Vec<Place>,
    regions: Vec<Region<'p>>,
}

impl<'p> Survey<'p> {
    fn visit(&mut self, pattern: Option<&str>, witness: Domain) -> Place {
        let (old, new) = (State::of(self.old, &witness), State::of(self.new, &witness));
        self.named.old |= old.is_open() || old.resolves;
        self.named.new |= new.is_open() || new.resolves;
        if old.is_open() && new.is_open() && self.named.both.is_none() {
            self.named.both = Some(witness.clone());
        }
        let open = new.is_open();
        if old.alike(&new) {
            return Place { open, region: None };
        }
        let pattern = pattern.and_then(|pattern| DomainPattern::parse(pattern).ok());
        self.regions.push(Region { pattern, witness, old, new });
        Place { open, region: self.regions.len().checked_sub(1) }
    }
}

/// The patterns of both policies.
struct Universe<'p> {
    patterns: Vec<Known<'p>>,
    /// Places in `patterns`.
    index: HashMap<&'p str, usize>,
    /// A label that stands in none of them, and the shortest such.
    fresh: [String; 2],
}

impl<'p> Universe<'p> {
    fn new(old: &'p Policy, new: &'p Policy) -> Self {
        let mut patterns: Vec<Known<'p>> = Vec::new();
        let mut index = HashMap::new();
        let mut add = |pattern: DomainPattern<&'p str>, mark: fn(&mut Known<'p>)| {
            let at = *index.entry(pattern.text()).or_insert(patterns.len());
            if at == patterns.len() {
                patterns.push(Known { pattern, old: Lists::default(), new: Lists::default() });
            }
            if let Some(known) = patterns.get_mut(at) {
                mark(known);
            }
        };
        new.allow.iter().for_each(|(pattern, _)| add(pattern, |known| known.new.allow = true));
        new.deny.iter().for_each(|(pattern, _)| add(pattern, |known| known.new.deny = true));
        old.allow.iter().for_each(|(pattern, _)| add(pattern, |known| known.old.allow = true));
        old.deny.iter().for_each(|(pattern, _)| add(pattern, |known| known.old.deny = true));
        let labels = patterns.iter().flat_map(|known| known.pattern.as_str().split('.'));
        let used: HashSet<&str> = labels.filter(|label| *label == "any" || label.starts_with('x')).collect();
        let numbered = (0..).map(|number: usize| if number == 0 { "x".to_owned() } else { format!("x{number}") });
        let short = numbered.into_iter().find(|label| !used.contains(label.as_str())).unwrap_or_default();
        let plain = if used.contains("any") { short.clone() } else { "any".to_owned() };
        Self { patterns, index, fresh: [plain, short] }
    }

    /// A name that matches what holds all of the pattern, and nothing else; `None` if that would be too long.
    fn witness(&self, pattern: &str) -> Option<Domain> {
        if pattern == "*" {
            return self.elsewhere();
        }
        self.fresh.iter().find_map(|label| Domain::parse(&pattern.replace('*', label)).ok())
    }

    /// A name that no pattern but `*` matches.
    fn elsewhere(&self) -> Option<Domain> {
        let [_, short] = &self.fresh;
        let plain = ["elsewhere.example", "elsewhere.test", "elsewhere.net"].map(str::to_owned);
        let known = |text: &str| self.index.contains_key(text);
        let alone = |name: &String| {
            let (left, right) = name.split_once('.').unwrap_or_default();
            !known(name) && !known(&format!("{left}.*")) && !known(&format!("*.{right}"))
        };
        let name = plain.into_iter().find(alone).unwrap_or_else(|| format!("{short}.{short}"));
        Domain::parse(&name).ok()
    }

    /// The nearest pattern that holds all of this one; of several, the most specific.
    fn parent(&self, pattern: DomainPattern<&str>, arranged: &[usize]) -> Option<usize> {
        let leading = || {
            let mut rest = pattern.as_str().strip_prefix("*.").unwrap_or(pattern.as_str());
            while let Some((_, after)) = rest.split_once('.') {
                if let Some(at) = self.index.get(format!("*.{after}").as_str()) {
                    return Some(*at);
                }
                rest = after;
            }
            self.index.get("*").copied().filter(|_| !pattern.is_any())
        };
        let rank =
            |at: &usize| self.patterns.get(*at).map(|known| (known.pattern.specificity(), known.pattern.as_str()));
        let holds = |at: &&usize| {
            let other = self.patterns.get(**at).map(|known| known.pattern);
            other.is_some_and(|other| other != pattern && other.covers(&pattern))
        };
        leading().into_iter().chain(arranged.iter().filter(holds).copied()).min_by_key(rank)
    }

    /// Places of the patterns with a `*` elsewhere than at the left end.
    fn arranged(&self) -> Vec<usize> {
        let places = self.patterns.iter().enumerate();
        places.filter(|(_, known)| known.is_arranged()).map(|(at, _)| at).collect()
    }

    /// Visits what patterns have in common, where who decides may have changed: which pattern's exception each is.
    /// `None` if there are too many.
    fn crossing(
        &self,
        old: &'p Policy,
        new: &'p Policy,
        survey: &mut Survey<'p>,
        mut budget: usize,
    ) -> Option<Vec<Crossing>> {
        let arranged = self.arranged();
        let moved = self.moved(old, new);
        let starred: Vec<usize> =
            self.patterns.iter().enumerate().filter(|(_, known)| known.may_cross()).map(|(at, _)| at).collect();
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for (at, known) in self.patterns.iter().enumerate() {
            if !known.may_cross() || !(known.is_changed() || moved.contains(&at)) {
                continue;
            }
            // Two patterns with a `*` at the left end alone hold one another, or have nothing in common.
            let others = if known.is_arranged() { &starred } else { &arranged };
            budget = budget.checked_sub(others.len().saturating_mul(PAIR_STEPS))?;
            for beside in others {
                let Some(other) = self.patterns.get(*beside) else { continue };
                let Some(common) = common(known.pattern.as_str(), other.pattern.as_str()) else { continue };
                let new = common != known.pattern.as_str() && common != other.pattern.as_str();
                if !new || self.index.contains_key(common.as_str()) || !seen.insert(common.clone()) {
                    continue;
                }
                budget = budget.checked_sub(CROSSING_STEPS)?;
                if let Some(witness) = self.witness(&common) {
                    let place = survey.visit(Some(&common), witness);
                    found.push(Crossing { of: [at, *beside], place, pattern: common });
                }
            }
        }
        Some(found)
    }

    /// Patterns of `allow` that may have moved before or behind one that is as specific.
    fn moved(&self, old: &Policy, new: &Policy) -> HashSet<usize> {
        let order = |policy: &Policy| {
            let places = policy.allow.iter().filter_map(|(pattern, _)| self.index.get(pattern.as_str()).copied());
            let stays = |at: &usize| {
                let known = self.patterns.get(*at);
                known.is_some_and(|known| known.may_cross() && known.old.allow && known.new.allow)
            };
            places.filter(stays).collect::<Vec<usize>>()
        };
        let (old, new) = (order(old), order(new));
        let start = old.iter().zip(&new).take_while(|(one, other)| one == other).count();
        let end = old.iter().rev().zip(new.iter().rev()).take_while(|(one, other)| one == other).count();
        old.iter().skip(start).take(old.len().saturating_sub(start).saturating_sub(end)).copied().collect()
    }
}

/// What two patterns have in common, neither of which holds the other.
struct Crossing {
    /// Their places in [`Universe::patterns`].
    of: [usize; 2],
    place: Place,
    pattern: String,
}

/// What it costs to see what two patterns have in common, in steps of [`limits::DIFF_STEPS`].
const PAIR_STEPS: usize = 4;
/// What it costs to ask about a name.
const CROSSING_STEPS: usize = 20;

/// The pattern that matches what both of these match; `None` if no name does.
fn common(one: &str, other: &str) -> Option<String> {
    let [mut one_labels, mut other_labels] = [one, other].map(|text| text.rsplit('.').peekable());
    let mut labels: Vec<&str> = Vec::new();
    loop {
        let (ours, theirs) = (one_labels.next(), other_labels.next());
        let label = match (ours, theirs) {
            (None, None) => break,
            (None, Some(_)) | (Some(_), None) => return None,
            // At the left end, `*` stands for all that the other has left, of which there is one label at least.
            (Some("*"), Some(rest)) if one_labels.peek().is_none() => {
                labels.push(rest);
                labels.extend(other_labels);
                break;
            }
            (Some(rest), Some("*")) if other_labels.peek().is_none() => {
                labels.push(rest);
                labels.extend(one_labels);
                break;
            }
            (Some("*"), Some(label)) | (Some(label), Some("*")) => label,
            (Some(ours), Some(theirs)) if ours == theirs => ours,
            (Some(_), Some(_)) => return None,
        };
        labels.push(label);
    }
    labels.reverse();
    Some(labels.join("."))
}

/// Which pattern is the nearest that holds another, as far as regions need it.
struct Tree {
    /// Regions that a wider one tells.
    within: HashSet<usize>,
    /// By region: narrower patterns that fare otherwise, a few of them and how many there are.
    exceptions: HashMap<usize, (Vec<String>, usize)>,
}

/// Exceptions of a pattern that are named.
const EXCEPTIONS: usize = 3;

impl Tree {
    fn new(universe: &Universe<'_>, survey: &Survey<'_>, rest: Place, crossing: &[Crossing]) -> Self {
        let mut tree = Self { within: HashSet::new(), exceptions: HashMap::new() };
        let regions = &survey.regions;
        let is_wide = |region: &Region<'_>| region.pattern.as_ref().is_none_or(|pattern| !pattern.is_exact());
        if !regions.iter().any(is_wide) {
            return tree;
        }
        // Where there are many, the regions are told one by one.
        let arranged = universe.arranged();
        let arranged = if arranged.len() > limits::POLICY_ARRANGEMENTS { &[] } else { arranged.as_slice() };
        for (known, place) in universe.patterns.iter().zip(&survey.places) {
            let parent = match universe.parent(known.pattern, arranged) {
                Some(at) => survey.places.get(at).copied().unwrap_or_default(),
                None if known.pattern.is_any() => continue,
                None => rest,
            };
            tree.put(regions, parent, *place, known.pattern.as_str());
        }
        for Crossing { of, place, pattern } in crossing {
            for parent in of.iter().filter_map(|at| survey.places.get(*at)) {
                tree.put(regions, *parent, *place, pattern);
            }
        }
        tree
    }

    fn put(&mut self, regions: &[Region<'_>], parent: Place, place: Place, pattern: &str) {
        let Some(within) = parent.region else { return };
        if let Some(at) = place.region
            && let (Some(region), Some(parent)) = (regions.get(at), regions.get(within))
            && region.alike(parent)
        {
            self.within.insert(at);
        }
        if place.open != parent.open {
            let (named, count) = self.exceptions.entry(within).or_default();
            *count += 1;
            if named.len() < EXCEPTIONS {
                named.push(format!("`{pattern}`"));
            }
        }
    }
}

/// Puts regions into words.
struct Teller<'p, 't> {
    regions: &'t [Region<'p>],
    universe: &'t Universe<'p>,
    tree: &'t Tree,
    named: Named,
    old: &'p Policy,
    new: &'p Policy,
    budget: usize,
    telling: &'t mut Telling,
}

impl Teller<'_, '_> {
    fn region(&mut self, at: usize) {
        let Some(region) = self.regions.get(at) else { return };
        let same_dns = self.old.dns == self.new.dns;
        // Not where a name is resolved because it is reachable now, or no longer is because it is not.
        let of_dns = region.old.resolves != region.new.resolves
            && (region.old.is_open() == region.new.is_open() || region.old.resolves != region.old.is_open());
        self.named.dns |= !same_dns && of_dns;
        match (&region.old.verdict, &region.new.verdict) {
            (Ok(ours), Ok(theirs)) => {
                let rules = ours.has_rules() == theirs.has_rules();
                self.named.strict |= rules && ours.terminates() != theirs.terminates();
                if !self.is_told(at) {
                    self.handling(at, region, *ours, *theirs);
                }
            }
            (Err(ours), Err(theirs)) if same_dns && !self.is_told(at) => self.resolution(at, region, ours, theirs),
            (Err(denial), Ok(open)) if !self.is_told(at) => {
                let denied = denial.basis.rule.as_ref().filter(|_| denial.reason == DenyReason::DeniedDomain);
                let sentence = opened(&self.whose(at, region), open, denied);
                self.tell(region, Direction::Opens, sentence, denied, Some(open.rule));
            }
            (Ok(open), Err(denial)) if !self.is_told(at) => self.closed(at, region, open, denial),
            _ => {}
        }
    }

    /// Whether a wider region tells it.
    fn is_told(&self, at: usize) -> bool {
        self.tree.within.contains(&at)
    }

    fn closed(&mut self, at: usize, region: &Region<'_>, open: &Open<'_>, denial: &Denial) {
        let rule = denial.basis.rule.as_ref();
        let why = match (denial.reason, rule) {
            (DenyReason::DeniedDomain, Some(rule)) => format!("denied by {rule}"),
            (DenyReason::DenyAll, _) => format!("the new policy allows nothing{}", words::at(rule)),
            _ => format!("{} allowed it, and nothing does now", open.rule),
        };
        let whose = self.whose(at, region);
        let sentence = match requests::answered(open.entry) {
            Some(status) => {
                format!("requests to {whose} are no longer answered here with {status}, but refused: {why}")
            }
            None => format!("{whose} is no longer reachable: {why}"),
        };
        self.tell(region, Direction::Closes, sentence, Some(open.rule), rule);
    }

    /// A name that is reached as before, and treated otherwise.
    fn handling(&mut self, at: usize, region: &Region<'_>, old: Open<'_>, new: Open<'_>) {
        let whose = self.whose(at, region);
        if old.has_rules() != new.has_rules() && old.terminates() != new.terminates() {
            let rule = new.rule;
            let (direction, sentence) = if new.terminates() {
                (Direction::Closes, format!("TLS to {whose} is now read, and each request judged ({rule})"))
            } else {
                (Direction::Opens, format!("TLS to {whose} now goes through unread, its requests not judged ({rule})"))
            };
            self.tell(region, direction, sentence, Some(old.rule), Some(rule));
        }
        self.ports(region, &whose, old, new);
        let names = Names { witness: &region.witness, shown: &whose };
        for facet in requests::compare(old.side(), new.side(), names, &mut self.budget) {
            let requests::Facet { direction, sentence, example, old, new } = facet;
            let about = About::Names(region.pattern.clone());
            self.telling.tell(direction, || Change { about, direction, sentence, example, old, new });
        }
    }

    /// Other protocols, relayed by name.
    fn ports(&mut self, region: &Region<'_>, whose: &str, old: Open<'_>, new: Open<'_>) {
        for (direction, with, without, word) in
            [(Direction::Opens, new, old, "now"), (Direction::Closes, old, new, "no longer")]
        {
            let others = requests::ports(without.entry);
            let ports: Vec<u16> =
                requests::ports(with.entry).into_iter().filter(|port| !others.contains(port)).collect();
            let Some(first) = ports.first() else { continue };
            let rule = with.entry.and_then(|entry| entry.opaque(*first)).cloned();
            let (old, new) = if direction == Direction::Opens { (None, rule) } else { (rule, None) };
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            let sentence = format!(
                "a protocol that is neither TLS nor HTTP is {word} relayed to {whose} on {}{}",
                ports_words(&ports),
                words::at_either(old.as_ref(), new.as_ref())
            );
            let about = About::Names(region.pattern.clone());
            let example = Some(format!("{}:{first}", region.witness));
            self.telling.tell(direction, || Change { about, direction, sentence, example, old, new });
        }
    }

    /// A name that is not reached, and resolved or not.
    fn resolution(&mut self, at: usize, region: &Region<'_>, old: &Denial, new: &Denial) {
        let whose = self.whose(at, region);
        let (old, new) = (old.basis.rule.as_ref(), new.basis.rule.as_ref());
        let (direction, sentence) = if region.new.resolves {
            (Direction::Opens, format!("{whose} can now be resolved, and not reached"))
        } else {
            let at = words::at(new);
            (Direction::Closes, format!("{whose} can no longer be resolved{at}; it could not be reached"))
        };
        self.tell(region, direction, sentence, old, new);
    }

    fn tell(
        &mut self,
        region: &Region<'_>,
        direction: Direction,
        sentence: String,
        old: Option<&RuleId>,
        new: Option<&RuleId>,
    ) {
        self.telling.tell(direction, || Change {
            about: About::Names(region.pattern.clone()),
            direction,
            sentence,
            example: Some(format!("GET https://{}/", region.witness)),
            old: old.cloned(),
            new: new.cloned(),
        });
    }

    /// The names of a region, and which narrower patterns fare otherwise.
    fn whose(&self, at: usize, region: &Region<'_>) -> String {
        let exceptions = self.tree.exceptions.get(&at);
        let names = match &region.pattern {
            Some(pattern) if !pattern.is_any() => format!("`{pattern}`"),
            _ if exceptions.is_some() || self.universe.patterns.iter().all(|known| known.pattern.is_any()) => {
                "every name".to_owned()
            }
            _ => "every other name".to_owned(),
        };
        match exceptions {
            Some((named, count)) if *count <= EXCEPTIONS => format!("{names} but {}", words::list(named)),
            Some((_, count)) => format!("{names} but what {count} narrower patterns match"),
            None => names,
        }
    }
}

fn ports_words(ports: &[String]) -> String {
    let word = if ports.len() == 1 { "port" } else { "ports" };
    format!("{word} {}", words::list(ports))
}

/// What is told of a name that becomes reachable, and was denied by a line, if any.
fn opened(whose: &str, open: &Open<'_>, denied: Option<&RuleId>) -> String {
    let rule = open.rule;
    let at = denied.map_or_else(|| format!("({rule})"), |denied| format!("({rule}; {denied} denied it)"));
    if let Some(status) = requests::answered(open.entry) {
        return format!("requests to {whose} are no longer refused, but answered here with {status} {at}");
    }
    let how = match open.has_rules().then(|| requests::clauses(open.side())) {
        Some(clauses) => clauses.join("; "),
        None if open.strict => "TLS to it is read".to_owned(),
        None => "TLS to it goes through unread".to_owned(),
    };
    let mut sentence = format!("{whose} becomes reachable {at}; {how}");
    let ports: Vec<String> = requests::ports(open.entry).iter().map(ToString::to_string).collect();
    if !ports.is_empty() {
        sentence.push_str(&format!("; another protocol is relayed on {}", ports_words(&ports)));
    }
    sentence
}
