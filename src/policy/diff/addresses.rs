//! What becomes of addresses, whatever name they are reached under.
//!
//! The ends of all ranges of both policies, and of what is protected, part the addresses of a family into intervals, in
//! each of which all addresses are treated alike; so the policies are asked about the first of each. An IPv6 address is
//! judged as it is written: what becomes of one that carries an IPv4 address is told of the latter.
//!
//! What is told stands by the line that brought it: a range of either policy, less what fares otherwise in it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::names::Named;
use super::words;
use super::{About, Change, Direction, Telling};
use crate::matcher::cidr::{CidrMap, carries, readings};
use crate::policy::protected;
use crate::policy::verdict::RuleId;
use crate::policy::{BLOCK_V4, BLOCK_V6, Base, Policy};

/// How a policy treats an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Row 1.
    Denied,
    /// Row 1, and row 4 if `observe` lets it through.
    Observed,
    /// Row 2, and the block address.
    Protected,
    /// Row 4: whatever is spoken.
    Relayed,
    /// All other rows: by name.
    Named,
}

impl Reach {
    fn of(policy: &Policy, address: IpAddr) -> Self {
        let protected = protected::is_covered(address, &policy.opened) || address == BLOCK_V4 || address == BLOCK_V6;
        let relayed = !matches!(policy.base, Base::DenyAll(_)) && policy.subnets_allow.get(address).is_some();
        match (policy.subnets_deny.get(address).is_some(), protected, relayed) {
            // `observe` lets through what is denied, and not what is protected.
            (true, true, _) if policy.observe => Self::Protected,
            (true, false, true) if policy.observe => Self::Observed,
            (true, _, _) => Self::Denied,
            (false, true, _) => Self::Protected,
            (false, false, true) => Self::Relayed,
            (false, false, false) => Self::Named,
        }
    }

    /// As [`Self::of`], by all readings of the address.
    fn of_readings(policy: &Policy, address: IpAddr) -> Self {
        let refused = readings(address).map(|reading| Self::of(policy, reading)).find(|reach| reach.is_refused());
        let relayed = policy.subnets_allow.get_unwrapped(address).is_some();
        let own = Self::of(policy, address);
        refused.unwrap_or(if relayed && !matches!(policy.base, Base::DenyAll(_)) { Self::Relayed } else { own })
    }

    fn is_refused(self) -> bool {
        matches!(self, Self::Denied | Self::Observed | Self::Protected)
    }
}

/// What changes for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Relayed now, by `subnets.allow` of the new policy.
    Relayed,
    /// Relayed no longer, but for names.
    Left,
    /// Relayed no longer, but denied by `subnets.deny` of the new policy.
    Cut,
    /// Relayed no longer, but protected.
    Shut,
    /// Denied now, where names counted.
    Barred,
    /// Denied no longer, and names count.
    Unbarred,
    /// Under `observe`: denied, and in `subnets.allow` now.
    Bared,
    /// Under `observe`: denied, and no longer in `subnets.allow`.
    Covered,
}

impl Kind {
    fn of(old: Reach, new: Reach) -> Option<Self> {
        match (old, new) {
            (Reach::Relayed, Reach::Relayed) => None,
            (_, Reach::Relayed) => Some(Self::Relayed),
            (Reach::Relayed, Reach::Named) => Some(Self::Left),
            (Reach::Relayed, Reach::Denied | Reach::Observed) => Some(Self::Cut),
            (Reach::Relayed, Reach::Protected) => Some(Self::Shut),
            (Reach::Protected | Reach::Denied, Reach::Observed) => Some(Self::Bared),
            (Reach::Observed, Reach::Protected | Reach::Denied) => Some(Self::Covered),
            (Reach::Named, _) if new.is_refused() => Some(Self::Barred),
            (_, Reach::Named) if old.is_refused() => Some(Self::Unbarred),
            _ => None,
        }
    }

    /// Whether an address that has come to this is an exception of what this kind tells.
    fn excepts(self, new: Reach) -> bool {
        match self {
            Self::Relayed => new != Reach::Relayed,
            Self::Left | Self::Cut | Self::Shut => new == Reach::Relayed,
            Self::Barred => !new.is_refused(),
            Self::Unbarred => new.is_refused(),
            Self::Bared => matches!(new, Reach::Protected | Reach::Denied),
            Self::Covered => new == Reach::Observed,
        }
    }

    fn direction(self) -> Direction {
        match self {
            Self::Relayed | Self::Unbarred | Self::Bared => Direction::Opens,
            Self::Left | Self::Cut | Self::Shut | Self::Barred | Self::Covered => Direction::Closes,
        }
    }
}

/// Whether names decide about the address.
pub(super) fn is_left_to_names(policy: &Policy, address: IpAddr) -> bool {
    Reach::of(policy, address) == Reach::Named
}

/// Compares what becomes of addresses.
pub(super) fn compare(old: &Policy, new: &Policy, named: &Named, telling: &mut Telling) {
    let sides = Sides { old, new, named, leaves: [Leaves::of(old, named.old), Leaves::of(new, named.new)] };
    for family in [Family::V4, Family::V6] {
        let line = Line::new(family, &sides);
        for (kind, groups) in line.groups(&sides) {
            for (range, (rule, intervals)) in outermost(groups) {
                telling.tell(kind.direction(), || sides.change(&line, kind, range, &rule, &intervals));
            }
        }
    }
}

struct Sides<'p> {
    old: &'p Policy,
    new: &'p Policy,
    named: &'p Named,
    leaves: [Leaves; 2],
}

/// What may still come of an address that `subnets.allow` does not hold.
#[derive(Debug, Clone, Copy)]
struct Leaves {
    /// Something is reached or resolved by name.
    names: bool,
    /// An IPv6 address that carries it is relayed.
    carriers: bool,
    /// If it is mapped or compatible, the IPv4 address that it carries is relayed.
    carried: bool,
}

impl Leaves {
    fn of(policy: &Policy, names: bool) -> Self {
        let mut leaves = Self { names, carriers: false, carried: false };
        for (range, _) in policy.subnets_allow.iter() {
            leaves.carriers |= carries(range);
            leaves.carried |= matches!(range, IpNet::V4(_));
        }
        leaves
    }
}

/// From the first address to the last.
type Interval = (u128, u128);
/// By the range of a policy that brought the change.
type Groups = BTreeMap<IpNet, (RuleId, Vec<Interval>)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn number(self, address: IpAddr) -> Option<u128> {
        match (self, address) {
            (Self::V4, IpAddr::V4(four)) => Some(u128::from(u32::from(four))),
            (Self::V6, IpAddr::V6(six)) => Some(u128::from(six)),
            _ => None,
        }
    }

    fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
            Self::V6 => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }

    fn last(self) -> u128 {
        match self {
            Self::V4 => u128::from(u32::MAX),
            Self::V6 => u128::MAX,
        }
    }

    fn ranges(self, (first, last): Interval) -> Vec<IpNet> {
        match (self.address(first), self.address(last)) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect(),
            (IpAddr::V6(first), IpAddr::V6(last)) => Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect(),
            _ => Vec::new(),
        }
    }
}

/// All addresses of a family, in intervals.
struct Line {
    family: Family,
    /// Where each interval begins; the first is 0.
    starts: Vec<u128>,
}

impl Line {
    fn new(family: Family, sides: &Sides<'_>) -> Self {
        let maps =
            [&sides.old.subnets_allow, &sides.old.subnets_deny, &sides.new.subnets_allow, &sides.new.subnets_deny];
        let of_policies = maps.into_iter().flat_map(|map| map.iter().map(|(range, _)| range));
        let block = [IpNet::from(IpAddr::from(BLOCK_V4)), IpNet::from(IpAddr::from(BLOCK_V6))];
        let mut starts = vec![0];
        for range in of_policies.chain(protected::ranges()).chain(block) {
            if let (Some(first), Some(last)) = (family.number(range.network()), family.number(range.broadcast())) {
                starts.push(first);
                starts.extend(last.checked_add(1).filter(|next| *next <= family.last()));
            }
        }
        starts.sort_unstable();
        starts.dedup();
        Self { family, starts }
    }

    /// The intervals that overlap this one.
    fn within(&self, (first, last): Interval) -> impl Iterator<Item = Interval> {
        let from = self.starts.partition_point(|start| *start <= first).saturating_sub(1);
        let starts = self.starts.get(from..).unwrap_or_default();
        let ends = starts.iter().skip(1).map(|next| next.saturating_sub(1)).chain([self.family.last()]);
        let overlap = move |(start, end): (&u128, u128)| ((*start).max(first), end.min(last));
        starts.iter().zip(ends).map(overlap).take_while(move |(start, _)| *start <= last)
    }

    /// All intervals for which something changes.
    fn groups(&self, sides: &Sides<'_>) -> BTreeMap<Kind, Groups> {
        let mut groups: BTreeMap<Kind, Groups> = BTreeMap::new();
        for interval in self.within((0, self.family.last())) {
            let address = self.family.address(interval.0);
            let Some(kind) = Kind::of(Reach::of(sides.old, address), Reach::of(sides.new, address)) else { continue };
            let Some((range, rule)) = sides.map(kind).covering(address.into()) else { continue };
            if !sides.counts(kind, range) {
                continue;
            }
            let of_kind = groups.entry(kind).or_default();
            of_kind.entry(range).or_insert_with(|| (rule.clone(), Vec::new())).1.push(interval);
        }
        groups
    }
}

/// The ranges that none of the others holds, with what changes in them.
fn outermost(groups: Groups) -> Vec<(IpNet, (RuleId, Vec<Interval>))> {
    let mut kept: Vec<(IpNet, (RuleId, Vec<Interval>))> = Vec::new();
    // In order of address, and what holds comes before what is held.
    for (range, (rule, intervals)) in groups {
        match kept.last_mut() {
            Some((outer, (_, all))) if outer.contains(&range) => all.extend(intervals),
            _ => kept.push((range, (rule, intervals))),
        }
    }
    kept
}

impl Sides<'_> {
    /// Whether a change of this kind, brought by this range, makes a difference. It makes none that an address is
    /// denied which nothing comes to anyway.
    fn counts(&self, kind: Kind, range: IpNet) -> bool {
        let comes = |leaves: &Leaves| leaves.names || leaves.carriers || (leaves.carried && carries(range));
        match kind {
            Kind::Relayed | Kind::Left | Kind::Cut | Kind::Shut => true,
            Kind::Barred | Kind::Unbarred => self.leaves.iter().all(comes),
            Kind::Bared | Kind::Covered => self.old.observe && self.new.observe,
        }
    }

    /// The ranges that bring a change of this kind.
    fn map(&self, kind: Kind) -> &CidrMap<RuleId> {
        match kind {
            Kind::Relayed | Kind::Bared => &self.new.subnets_allow,
            Kind::Left | Kind::Shut | Kind::Covered => &self.old.subnets_allow,
            Kind::Cut | Kind::Barred => &self.new.subnets_deny,
            Kind::Unbarred => &self.old.subnets_deny,
        }
    }

    fn change(&self, line: &Line, kind: Kind, range: IpNet, rule: &RuleId, intervals: &[Interval]) -> Change {
        let which = format!("{range}{}", self.exceptions(line, kind, range));
        let sentence = match kind {
            Kind::Relayed => format!("{which} becomes reachable by address, whatever is spoken ({rule})"),
            Kind::Left if self.named.new => {
                format!("{which} is no longer reachable by address, but under names that are allowed (was {rule})")
            }
            Kind::Left => format!("{which} is no longer reachable (was {rule})"),
            Kind::Cut => format!("{which} is no longer reachable: denied by {rule}"),
            Kind::Shut => format!("{which} is no longer reachable: it is protected, and was opened by {rule}"),
            Kind::Barred => format!("{which} is no longer reachable under any name: denied by {rule}"),
            Kind::Unbarred => {
                format!("{which} becomes reachable under names that are allowed; it was denied by {rule}")
            }
            Kind::Bared => format!("{which} is opened by {rule}: denied, but let through and recorded (`observe`)"),
            Kind::Covered => format!("{which} is no longer opened by {rule}, so that less is let through (`observe`)"),
        };
        let mut merged: Vec<Interval> = Vec::new();
        let mut sorted = intervals.to_vec();
        sorted.sort_unstable();
        for (first, last) in sorted {
            match merged.last_mut() {
                Some((_, end)) if end.checked_add(1) == Some(first) => *end = last,
                _ => merged.push((first, last)),
            }
        }
        let address = merged.iter().find_map(|interval| self.example(kind, line.family, *interval));
        let example = address.and_then(|address| match (kind, &self.named.both) {
            (Kind::Barred | Kind::Unbarred, Some(name)) => Some(format!("GET https://{name}/ at {address}")),
            (Kind::Barred | Kind::Unbarred | Kind::Bared | Kind::Covered, _) => None,
            _ => Some(SocketAddr::new(address, 443).to_string()),
        });
        let ranges = merged.into_iter().flat_map(|interval| line.family.ranges(interval)).collect();
        let (old, new) = match kind {
            Kind::Relayed | Kind::Cut | Kind::Barred | Kind::Bared => (None, Some(rule.clone())),
            Kind::Left | Kind::Shut | Kind::Unbarred | Kind::Covered => (Some(rule.clone()), None),
        };
        let about = About::Addresses(ranges);
        Change { about, direction: kind.direction(), sentence, example, old, new }
    }

    /// An address that is treated differently whatever IPv4 address it carries: it may be one that is refused.
    fn example(&self, kind: Kind, family: Family, (first, last): Interval) -> Option<IpAddr> {
        let harmless = u128::from(u32::from(Ipv4Addr::new(9, 9, 9, 9)));
        let numbers = [first.saturating_add(1), first, last, first | harmless, first | harmless << 80];
        let addresses = numbers.into_iter().filter(|number| (first..=last).contains(number));
        addresses.map(|number| family.address(number)).find(|address| {
            let (old, new) = (Reach::of_readings(self.old, *address), Reach::of_readings(self.new, *address));
            match kind {
                Kind::Barred | Kind::Unbarred => old.is_refused() != new.is_refused(),
                _ => (old == Reach::Relayed) != (new == Reach::Relayed),
            }
        })
    }

    /// ` but 10.20.30.0/24 and what is protected`.
    fn exceptions(&self, line: &Line, kind: Kind, range: IpNet) -> String {
        let family = line.family;
        let (Some(first), Some(last)) = (family.number(range.network()), family.number(range.broadcast())) else {
            return String::new();
        };
        let mut protected = false;
        let mut gaps: Vec<Interval> = Vec::new();
        for (first, last) in line.within((first, last)) {
            let reach = Reach::of(self.new, family.address(first));
            if !kind.excepts(reach) {
                continue;
            }
            match gaps.last_mut() {
                _ if reach == Reach::Protected => protected = true,
                Some((_, end)) if end.checked_add(1) == Some(first) => *end = last,
                _ => gaps.push((first, last)),
            }
        }
        let mut words: Vec<String> = Vec::new();
        let ranges: Vec<IpNet> =
            gaps.iter().take(EXCEPTIONS + 1).flat_map(|interval| family.ranges(*interval)).collect();
        if ranges.len() > EXCEPTIONS {
            words.push(format!("{} narrower ranges", gaps.len()));
        } else {
            words.extend(ranges.iter().map(ToString::to_string));
        }
        if protected {
            words.push("what is protected".to_owned());
        }
        if words.is_empty() { String::new() } else { format!(" but {}", words::list(&words)) }
    }
}

/// Exceptions of a range that are named.
const EXCEPTIONS: usize = 3;
