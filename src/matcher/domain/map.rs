//! Values by domain pattern: one hash table from the texts of patterns to values.
//!
//! Many patterns may match a name, but of one arrangement (how many labels, which of them `*`) a single one can: the
//! name itself with those labels put as `*`. So a look-up asks the table for the name, for `*` before each of its
//! suffixes that is as long as some pattern's, and for the name in each arrangement with a `*` elsewhere. One pass over
//! the name from the right gives the hashes of all but the last kind.
//!
//! - `INVARIANT`: [`DomainMap::get`] answers exactly what a scan over all patterns in order of [`Specificity`] and then
//!   of declaration would (tested against one). A hash only says where to look; what is found there is compared byte
//!   by byte.
//! - `INVARIANT`: a look-up allocates nothing, and takes one probe a label and one for each of at most
//!   [`limits::POLICY_ARRANGEMENTS`] arrangements, whatever the name and the patterns are.
//! - `INVARIANT`: whoever chooses names or patterns cannot make them collide: the hash has a key of the map's own
//!   ([`Key`]).

use std::cmp::Reverse;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::{DomainPattern, Specificity};
use crate::flow::Domain;
use crate::limits;

/// Values by pattern; look-up finds the most specific pattern for a name.
#[derive(Debug)]
pub struct DomainMap<T> {
    key: Key,
    /// In declaration order.
    entries: Vec<(DomainPattern, T)>,
    /// The entries by the hash of their patterns' text.
    table: HashTable<Slot>,
    /// Bit `n`: some pattern is a `*` before `n` literal labels.
    leading: u128,
    /// Those of the patterns with a `*` elsewhere, most specific first.
    arrangements: Vec<Arrangement>,
}

/// Where an entry is. A part of the hash beside it keeps most strangers' entries out of the processor's cache.
#[derive(Debug, Clone, Copy)]
struct Slot {
    tag: u32,
    at: u32,
}

/// Why a pattern was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal<'a, T> {
    /// The very same pattern stands there already, with this value.
    Duplicate(&'a T),
    /// It would be one more than [`limits::POLICY_ARRANGEMENTS`].
    Arrangements,
}

impl<T> Default for DomainMap<T> {
    fn default() -> Self {
        Self { key: Key::random(), entries: Vec::new(), table: HashTable::new(), leading: 0, arrangements: Vec::new() }
    }
}

impl<T> DomainMap<T> {
    /// Adds a pattern after all others.
    ///
    /// # Errors
    /// The pattern is there already, or one too many of its kind; the map is as before.
    pub fn insert(&mut self, pattern: DomainPattern, value: T) -> Result<(), Refusal<'_, T>> {
        let Self { key, entries, table, leading, arrangements } = self;
        let hash = key.hash(pattern.text.rsplit('.'));
        if let Some(at) = find(table, entries, hash, |text| text == &*pattern.text) {
            return entries.get(at).map_or(Ok(()), |(_, value)| Err(Refusal::Duplicate(value)));
        }
        let arrangement = Arrangement::of(&pattern);
        if arrangement.stars != 0 {
            let at = arrangements.partition_point(|other| *other < arrangement);
            if arrangements.get(at) != Some(&arrangement) {
                if arrangements.len() == limits::POLICY_ARRANGEMENTS {
                    return Err(Refusal::Arrangements);
                }
                arrangements.insert(at, arrangement);
            }
        } else if arrangement.rank.leading {
            *leading |= 1 << arrangement.labels;
        }
        // Four thousand million patterns do not fit into memory, let alone into `limits::POLICY_ENTRIES`.
        let slot = Slot { tag: tag(hash), at: u32::try_from(entries.len()).unwrap_or(u32::MAX) };
        entries.push((pattern, value));
        table.insert_unique(hash, slot, |slot| {
            entries.get(slot.at as usize).map_or(0, |(pattern, _)| key.hash(pattern.text.rsplit('.')))
        });
        Ok(())
    }

    /// The value of the most specific pattern that matches `name`.
    #[must_use]
    pub fn get(&self, name: &Domain) -> Option<&T> {
        self.lookup(name.as_str()).map(|(_, value)| value)
    }

    /// A pattern that matches every name that `other` matches, and its value; `other` itself if it is there.
    #[must_use]
    pub fn covering(&self, other: &DomainPattern) -> Option<(&DomainPattern, &T)> {
        // A `*` is a label like any other here: what covers it has a `*` in its place or a leading one further right.
        self.lookup(&other.text)
    }

    /// Looks up a text: of a name, whose most specific pattern is found, or of a pattern.
    fn lookup(&self, name: &str) -> Option<(&DomainPattern, &T)> {
        if self.entries.is_empty() {
            return None;
        }
        let mut best = None;
        let (mut sum, mut labels, mut start) = (Sum::default(), 0, name.len());
        for label in name.rsplit('.') {
            if self.leading >> labels & 1 == 1 {
                let hash = self.key.add(sum, "*").hash();
                let found = self.find(hash, |text| text.strip_prefix('*') == name.get(start..));
                best = found.map(|at| (Specificity::leading(labels), at)).or(best);
            }
            sum = self.key.add(sum, label);
            labels += 1;
            start = start.saturating_sub(label.len() + 1);
        }
        let exact = self.find(sum.hash(), |text| text == name);
        let at = exact.or_else(|| self.arranged(name, labels, best).map(|(_, at)| at))?;
        self.entries.get(at).map(|(pattern, value)| (pattern, value))
    }

    /// The best of `best` and the patterns with a `*` elsewhere than at the left end, by rank and then by declaration.
    fn arranged(
        &self,
        name: &str,
        labels: usize,
        mut best: Option<(Specificity, usize)>,
    ) -> Option<(Specificity, usize)> {
        for arrangement in self.arrangements.iter().filter(|arrangement| arrangement.fits(labels)) {
            if best.is_some_and(|(rank, _)| rank < arrangement.rank) {
                break;
            }
            let hash = self.key.hash(arrangement.put(name));
            if let Some(at) = self.find(hash, |text| text.rsplit('.').eq(arrangement.put(name))) {
                let found = (arrangement.rank, at);
                best = Some(best.map_or(found, |best| best.min(found)));
            }
        }
        best
    }

    /// The value of the pattern `*`, which stands for a flow without a name.
    #[must_use]
    pub fn any(&self) -> Option<&T> {
        let at = self.find(self.key.hash(["*"].into_iter()), |text| text == "*")?;
        self.entries.get(at).map(|(_, value)| value)
    }

    /// Whether it holds no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many patterns it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Patterns and values in declaration order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&DomainPattern, &T)> {
        self.entries.iter().map(|(pattern, value)| (pattern, value))
    }

    /// Gives back the memory that was kept for more patterns.
    pub fn shrink_to_fit(&mut self) {
        let Self { key, entries, table, leading: _, arrangements: _ } = self;
        entries.shrink_to_fit();
        table.shrink_to_fit(|slot| {
            entries.get(slot.at as usize).map_or(0, |(pattern, _)| key.hash(pattern.text.rsplit('.')))
        });
    }

    fn find(&self, hash: u64, is: impl Fn(&str) -> bool) -> Option<usize> {
        find(&self.table, &self.entries, hash, is)
    }
}

/// The place of the entry whose text has this hash, and is the one looked for.
fn find<T>(
    table: &HashTable<Slot>,
    entries: &[(DomainPattern, T)],
    hash: u64,
    is: impl Fn(&str) -> bool,
) -> Option<usize> {
    let is_entry = |slot: &Slot| entries.get(slot.at as usize).is_some_and(|(pattern, _)| is(&pattern.text));
    table.find(hash, |slot| slot.tag == tag(hash) && is_entry(slot)).map(|slot| slot.at as usize)
}

/// Bits that the table itself does not look at.
fn tag(hash: u64) -> u32 {
    (hash >> 25) as u32
}

/// How many labels a pattern has, a leading `*` not counted, and which of them are `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Arrangement {
    rank: Specificity,
    labels: usize,
    /// Bit `n`: label `n` from the right is `*`.
    stars: u128,
}

impl Arrangement {
    fn of(pattern: &DomainPattern) -> Self {
        let rank = pattern.specificity();
        let all = pattern.text.split('.').count();
        let labels = if rank.leading { all.saturating_sub(1) } else { all };
        let places = pattern.text.rsplit('.').take(labels).enumerate();
        let stars = places.filter(|(_, label)| *label == "*").fold(0, |stars, (place, _)| stars | 1 << place);
        Self { rank, labels, stars }
    }

    /// Whether it may match names of so many labels.
    fn fits(&self, labels: usize) -> bool {
        if self.rank.leading { labels > self.labels } else { labels == self.labels }
    }

    /// The labels, from the right, of the one pattern so arranged that matches `name`, whose labels it fits.
    fn put<'n>(&self, name: &'n str) -> impl Iterator<Item = &'n str> {
        let stars = self.stars;
        let labels = name.rsplit('.').take(self.labels).enumerate();
        let labels = labels.map(move |(place, label)| if stars >> place & 1 == 1 { "*" } else { label });
        labels.chain(self.rank.leading.then_some("*"))
    }
}

impl Specificity {
    /// Of a `*` before so many literal labels.
    fn leading(labels: usize) -> Self {
        Self { inexact: true, literals: Reverse(labels), leading: true }
    }
}

/// The secret multiplier of a polynomial hash modulo 2^61 − 1.
///
/// A text is a sequence of numbers: its labels from the right, seven bytes at a time, an end mark in the last of each.
/// The hash is the polynomial with these coefficients at a random point, and two different polynomials of degree 164 at
/// most (253 bytes, 127 labels) have the same value at 164 points at most: two texts chosen by somebody who does not
/// know the point collide with a probability below 2^-53.
#[derive(Clone, Copy)]
struct Key(u64);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// A hash of some labels, to which more may be added on the left.
#[derive(Debug, Clone, Copy, Default)]
struct Sum(u64);

const PRIME: u64 = (1 << 61) - 1;
/// Above the seven bytes of a number.
const LABEL_END: u64 = 1 << 56;

impl Key {
    fn random() -> Self {
        // Neither 0 nor 1, where order would not count.
        Self((RandomState::new().hash_one(()) % (PRIME - 2)) + 2)
    }

    fn add(self, sum: Sum, label: &str) -> Sum {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let chunks = label.as_bytes().chunks_exact(7);
        let last = LABEL_END | number(chunks.remainder());
        let sum = chunks.fold(sum, |sum, chunk| self.step(sum, number(chunk)));
        self.step(sum, last)
    }

    fn step(self, sum: Sum, number: u64) -> Sum {
        // Both factors are below 2^62, so the parts of the product add up to less than 2^63, and after a second time to
        // less than 2^61 + 2.
        let product = u128::from(sum.0 + number) * u128::from(self.0);
        let once = (product as u64 & PRIME) + (product >> 61) as u64;
        Sum((once & PRIME) + (once >> 61))
    }

    /// Of all the labels of a text, from the right.
    fn hash<'a>(self, labels: impl Iterator<Item = &'a str>) -> u64 {
        labels.fold(Sum::default(), |sum, label| self.add(sum, label)).hash()
    }
}

impl Sum {
    /// Spread over all bits, for a table that looks at the lowest and at the highest ones.
    fn hash(self) -> u64 {
        let spread = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        spread ^ spread >> 32
    }
}

#[cfg(test)]
mod tests;
