//! Values by domain pattern: one hash table from the texts of patterns to values.
//!
//! Many patterns may match a name, but of one arrangement (how many labels, which of them `*`) a single one can: the
//! name itself with those labels put as `*`. So a look-up asks the table for the name, for `*` before each of its
//! suffixes that has as many labels as some pattern's, and for the name in each arrangement with a `*` elsewhere. One
//! pass over the name from the right gives the hashes of all but the last kind.
//!
//! - `INVARIANT`: [`DomainMap::get`] answers exactly what a scan over all patterns in order of [`Specificity`] and then
//!   of declaration would (tested against one). A hash only says where to look; what is found there is compared byte
//!   by byte.
//! - `INVARIANT`: a look-up allocates nothing, and asks the table at most once a label and once for each of
//!   [`limits::POLICY_ARRANGEMENTS`] arrangements, whatever the name and the patterns are.
//! - `INVARIANT`: whoever chooses names or patterns cannot make them collide more often than chance would: the hash is
//!   strongly universal, and its key is the map's own ([`Key`]).

use std::cmp::Reverse;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;

use hashbrown::HashTable;

use super::{DomainPattern, Specificity};
use crate::flow::Domain;
use crate::limits;

/// Values by pattern; look-up finds the most specific pattern for a name.
#[derive(Debug)]
pub struct DomainMap<T> {
    key: Key,
    /// Of all patterns, one after the other in declaration order: fewer pages of memory than a text each.
    texts: String,
    /// Where each pattern's text ends.
    ends: Vec<u32>,
    /// In declaration order.
    values: Vec<T>,
    /// By the hash of the pattern's text.
    table: HashTable<Slot>,
    /// The pattern `*`.
    any: Option<u32>,
    /// Bit `n`: some pattern is a `*` before `n` literal labels, one or more.
    leading: u128,
    /// Those of the patterns with a `*` elsewhere, most specific first.
    arrangements: Vec<Arrangement>,
}

/// Where a pattern is.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Of all values.
    at: u32,
    /// Of its text.
    start: u32,
    /// A part of the hash, so that few other texts are looked at, and the length of its text.
    tag: u32,
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
        Self {
            key: Key::random(),
            texts: String::new(),
            ends: Vec::new(),
            values: Vec::new(),
            table: HashTable::new(),
            any: None,
            leading: 0,
            arrangements: Vec::new(),
        }
    }
}

impl<T> DomainMap<T> {
    /// Adds a pattern after all others.
    ///
    /// # Errors
    /// The pattern is there already, or one too many of its kind; the map is as before.
    pub fn insert(&mut self, pattern: DomainPattern, value: T) -> Result<(), Refusal<'_, T>> {
        let text = pattern.as_str();
        let hash = self.key.hash(text.as_bytes());
        if let Some(at) = self.find(hash, text.len(), |other| other == text) {
            return self.value(at).map_or(Ok(()), |value| Err(Refusal::Duplicate(value)));
        }
        let arrangement = Arrangement::of(&pattern);
        // Four thousand million bytes do not fit into `limits::POLICY_BYTES`.
        let place = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        if arrangement.stars != 0 {
            if !self.arrange(arrangement) {
                return Err(Refusal::Arrangements);
            }
        } else if arrangement.labels > 0 && arrangement.rank.leading {
            self.leading |= 1 << arrangement.labels;
        } else if arrangement.rank.leading {
            self.any = Some(place(self.values.len()));
        }
        let slot = Slot { at: place(self.values.len()), start: place(self.texts.len()), tag: tag(hash, text.len()) };
        self.texts.push_str(text);
        self.ends.push(place(self.texts.len()));
        self.values.push(value);
        let Self { key, texts, table, .. } = self;
        table.insert_unique(hash, slot, |slot| key.hash(slot.text(texts).as_bytes()));
        Ok(())
    }

    /// Adds an arrangement if there is room.
    fn arrange(&mut self, arrangement: Arrangement) -> bool {
        let at = self.arrangements.partition_point(|other| *other < arrangement);
        let is_known = self.arrangements.get(at) == Some(&arrangement);
        let is_room = self.arrangements.len() < limits::POLICY_ARRANGEMENTS;
        if !is_known && is_room {
            self.arrangements.insert(at, arrangement);
        }
        is_known || is_room
    }

    /// The value of the most specific pattern that matches `name`.
    #[must_use]
    pub fn get(&self, name: &Domain) -> Option<&T> {
        self.value(self.lookup(name.as_str())?)
    }

    /// A pattern that matches every name that `other` matches, and its value; `other` itself if it is there.
    #[must_use]
    pub fn covering<O: AsRef<str>>(&self, other: &DomainPattern<O>) -> Option<(DomainPattern<&str>, &T)> {
        // A `*` is a label like any other here: what covers it has a `*` in its place or a leading one further right.
        let at = self.lookup(other.as_str())?;
        Some((self.pattern(at as usize)?, self.value(at)?))
    }

    /// Looks up a text: of a name, whose most specific pattern is found, or of a pattern.
    fn lookup(&self, name: &str) -> Option<u32> {
        if self.values.is_empty() {
            return None;
        }
        let mut sums = self.key.sums(name.as_bytes());
        let mut best = self.any.map(|at| (Specificity::leading(0), at));
        let mut labels = 0;
        for read in &mut sums {
            for dot in read.dots() {
                labels += 1;
                if self.leading >> labels & 1 == 1 {
                    let below = name.get(name.len().saturating_sub(dot.below)..).unwrap_or_default();
                    let is = |text: &str| text.strip_prefix('*') == Some(below);
                    let found = self.find(dot.starred, dot.below + 1, is);
                    best = found.map(|at| (Specificity::leading(labels), at)).or(best);
                }
            }
        }
        let exact = self.find(sums.hash(), name.len(), |text| text == name);
        exact.or_else(|| self.arranged(name, labels + 1, best))
    }

    /// The best of `best` and the patterns with a `*` elsewhere than at the left end, by rank and then by declaration.
    fn arranged(&self, name: &str, labels: usize, mut best: Option<(Specificity, u32)>) -> Option<u32> {
        for arrangement in self.arrangements.iter().filter(|arrangement| arrangement.fits(labels)) {
            if best.is_some_and(|(rank, _)| rank < arrangement.rank) {
                break;
            }
            let mut room = [0; 256];
            let put = arrangement.put(name, labels, &mut room);
            if let Some(at) = self.find(self.key.hash(put), put.len(), |text| text.as_bytes() == put) {
                let found = (arrangement.rank, at);
                best = Some(best.map_or(found, |best| best.min(found)));
            }
        }
        best.map(|(_, at)| at)
    }

    /// The value of the pattern `*`, which stands for a flow without a name.
    #[must_use]
    pub fn any(&self) -> Option<&T> {
        self.value(self.any?)
    }

    /// Whether it holds no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// How many patterns it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Patterns and values in declaration order.
    pub fn iter(&self) -> impl Iterator<Item = (DomainPattern<&str>, &T)> {
        self.values.iter().enumerate().filter_map(|(at, value)| Some((self.pattern(at)?, value)))
    }

    /// Gives back the memory that was kept for more patterns.
    pub fn shrink_to_fit(&mut self) {
        let Self { key, texts, ends, values, table, any: _, leading: _, arrangements } = self;
        texts.shrink_to_fit();
        ends.shrink_to_fit();
        values.shrink_to_fit();
        table.shrink_to_fit(|slot| key.hash(slot.text(texts).as_bytes()));
        arrangements.shrink_to_fit();
    }

    /// The place of the pattern whose text has this hash and length, and is the one looked for.
    fn find(&self, hash: u64, length: usize, is: impl Fn(&str) -> bool) -> Option<u32> {
        let tag = tag(hash, length);
        self.table.find(hash, |slot| slot.tag == tag && is(slot.text(&self.texts))).map(|slot| slot.at)
    }

    fn value(&self, at: u32) -> Option<&T> {
        self.values.get(at as usize)
    }

    fn pattern(&self, at: usize) -> Option<DomainPattern<&str>> {
        let start = at.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        let text = self.texts.get(start as usize..*self.ends.get(at)? as usize)?;
        Some(DomainPattern { text })
    }
}

impl Slot {
    fn text<'a>(&self, texts: &'a str) -> &'a str {
        let (start, length) = (self.start as usize, (self.tag & 0xff) as usize);
        texts.get(start..start + length).unwrap_or_default()
    }
}

/// Bits of the hash that the table itself does not look at, and the length of the text, which is 253 at most.
fn tag(hash: u64, length: usize) -> u32 {
    (hash >> 24) as u32 & !0xff | length as u32 & 0xff
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
        let all = pattern.as_str().split('.').count();
        let labels = if rank.leading { all.saturating_sub(1) } else { all };
        let places = pattern.as_str().rsplit('.').take(labels).enumerate();
        let stars = places.filter(|(_, label)| *label == "*").fold(0, |stars, (place, _)| stars | 1 << place);
        Self { rank, labels, stars }
    }

    /// Whether it may match names of so many labels.
    fn fits(&self, labels: usize) -> bool {
        if self.rank.leading { labels > self.labels } else { labels == self.labels }
    }

    /// The text of the one pattern so arranged that matches `name`, whose number of labels it fits.
    fn put<'r>(&self, name: &str, labels: usize, room: &'r mut [u8; 256]) -> &'r [u8] {
        let all = room.len();
        let mut free = room.as_mut_slice();
        // A `*` is no longer than the label in whose place it stands, so there is room.
        let mut write = |text: &str| _ = free.write_all(text.as_bytes());
        write(if self.rank.leading { "*." } else { "" });
        for (place, label) in (0..self.labels).rev().zip(name.split('.').skip(labels.saturating_sub(self.labels))) {
            write(if self.stars >> place & 1 == 1 { "*" } else { label });
            write(if place == 0 { "" } else { "." });
        }
        let written = all - free.len();
        room.get(..written).unwrap_or_default()
    }
}

impl Specificity {
    /// Of a `*` before so many literal labels.
    fn leading(labels: usize) -> Self {
        Self { inexact: true, literals: Reverse(labels), leading: true }
    }
}

/// The secret key of a multilinear hash.
///
/// A text is a sequence of numbers of eight bytes, counted from its right end; the hash is the upper half of
/// `start + Σ numberᵢ · factorᵢ` modulo 2^128, and the key is drawn when the map is made. For any two texts, chosen
/// without knowing it, all pairs of hashes are then equally likely, and so are the pairs of places in a table (Lemire
/// and Kaser, "Strongly universal string hashing is fast", theorem 1). No byte of a text is zero, so no two texts are
/// the same sequence.
///
/// As it is counted from the right, the sum at a dot begins the hash of every text that ends so.
struct Key {
    start: u128,
    factors: [u128; 32],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    fn random() -> Self {
        let random = RandomState::new();
        let half = |place: usize| u128::from(random.hash_one(place));
        let whole = |place: usize| half(2 * place) << 64 | half(2 * place + 1);
        Self { start: whole(32), factors: std::array::from_fn(whole) }
    }

    /// The hash of a text of 256 bytes at most.
    fn hash(&self, text: &[u8]) -> u64 {
        let mut sums = self.sums(text);
        sums.by_ref().for_each(drop);
        sums.hash()
    }

    fn sums<'a>(&'a self, text: &'a [u8]) -> Sums<'a> {
        Sums { factors: &self.factors, rest: text, read: 0, sum: self.start }
    }
}

/// Reads a text from the right, eight bytes at a time.
struct Sums<'a> {
    /// Of what is not read.
    factors: &'a [u128],
    rest: &'a [u8],
    /// How many bytes are read.
    read: usize,
    /// Of what is read.
    sum: u128,
}

/// Eight bytes, or the last few.
struct Read {
    word: u64,
    factor: u128,
    /// That of the bytes to the left.
    next: u128,
    /// How many bytes, and their sum, are to the right.
    read: usize,
    sum: u128,
}

/// A dot in a text.
struct Dot {
    /// How many bytes there are from it to the end.
    below: usize,
    /// The hash of `*` before those.
    starred: u64,
}

impl Iterator for Sums<'_> {
    type Item = Read;

    #[inline]
    fn next(&mut self) -> Option<Read> {
        let (word, rest) = match self.rest.split_last_chunk::<8>() {
            _ if self.rest.is_empty() => return None,
            Some((rest, chunk)) => (u64::from_be_bytes(*chunk), rest),
            None => (self.rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), [].as_slice()),
        };
        let (factor, factors) = self.factors.split_first()?;
        let next = factors.first().copied().unwrap_or_default();
        let read = Read { word, factor: *factor, next, read: self.read, sum: self.sum };
        self.read += 8;
        self.sum = add(self.sum, *factor, word);
        (self.rest, self.factors) = (rest, factors);
        Some(read)
    }
}

impl Sums<'_> {
    /// Of all that is read.
    fn hash(&self) -> u64 {
        (self.sum >> 64) as u64
    }
}

impl Read {
    /// From the right.
    #[inline]
    fn dots(&self) -> impl Iterator<Item = Dot> {
        // The highest bit of each byte that is a dot; no other bit, as all bytes are ASCII.
        let differing = self.word ^ 0x2e2e_2e2e_2e2e_2e2e;
        let mut dots = !(differing + 0x7f7f_7f7f_7f7f_7f7f) & 0x8080_8080_8080_8080;
        std::iter::from_fn(move || {
            if dots == 0 {
                return None;
            }
            let bits = dots.trailing_zeros() + 1;
            dots &= dots - 1;
            let sum = match STAR.checked_shl(bits) {
                Some(star) => add(self.sum, self.factor, self.word & ((1 << bits) - 1) | star),
                None => add(add(self.sum, self.factor, self.word), self.next, STAR),
            };
            Some(Dot { below: self.read + bits as usize / 8, starred: (sum >> 64) as u64 })
        })
    }
}

const STAR: u64 = b'*' as u64;

fn add(sum: u128, factor: u128, number: u64) -> u128 {
    sum.wrapping_add(factor.wrapping_mul(u128::from(number)))
}

#[cfg(test)]
mod tests;
