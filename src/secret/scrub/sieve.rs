//! Where in a text a form may begin: a sieve that lets through every such place and few others, for nearly all of what
//! is searched holds no value, and every byte of it pays.
//!
//! The first steps of a form are looked at. Where nothing is escaped, these are bytes, and one look at a table of
//! hashes says of two places that no form begins there. Where something is escaped, or a line is broken, the first such
//! place is one of few bytes: from there it is asked who may have begun up to three steps before, sixty-four forms at
//! once. What kind of escape comes next nobody foresees, so that branches as little as it can.
//!
//! - `INVARIANT`: a place where a form begins, however it is spelled there, is let through for that form.
//!
//! It knows the first steps of forms, in no order; that copy is neither locked nor zeroised.

use super::form::Form;
use super::spelling::{self, Mark};

/// How many steps of a form are looked at.
const BEGINNING: usize = 4;
/// How many bytes are hashed, at every other place: the first or the last of a beginning.
const HASHED: usize = BEGINNING - 1;
/// How many places are looked at in one go.
const BLOCK: usize = 64;
/// As few as keep false hits rare among some dozens of secrets: a small answer finds the table out of the cache.
const HASH_BITS: u32 = 12;
const HASHES: usize = 1 << HASH_BITS;

/// The places of a block and what follows the last of them.
type Block = [u8; BLOCK + HASHED];

/// Forms, by number: those whose number has one of these remainders by 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Which(u64);

/// Who goes on at each of the first steps.
type Steps = [Which; BEGINNING];

/// The beginnings of forms.
pub(super) struct Sieve {
    /// Whether a beginning holds three bytes of this hash: 1 or 0.
    hashes: [u8; HASHES],
    /// By byte: who takes it.
    takes: [Steps; 256],
    /// Who takes what [`Mark::Name`] may mean.
    named: Steps,
    /// Who takes the break of a line, or may be broken there.
    broken: Steps,
}

impl Which {
    const NONE: Self = Self(0);
    const ALL: Self = Self(!0);

    fn of(number: usize) -> Self {
        Self(1 << (number % 64))
    }

    fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Those of all forms.
    pub(super) fn pick(self, forms: &[Form]) -> impl Iterator<Item = &Form> {
        bits(self.0).flat_map(|number| forms.iter().skip(number).step_by(64))
    }
}

impl Sieve {
    pub(super) fn new(forms: &[Form]) -> Box<Self> {
        const NOBODY: Steps = [Which::NONE; BEGINNING];
        let mut sieve = Box::new(Self { hashes: [0; HASHES], takes: [NOBODY; 256], named: NOBODY, broken: NOBODY });
        for (number, form) in forms.iter().enumerate() {
            let which = Which::of(number);
            for beginning in form.beginnings::<BEGINNING>() {
                sieve.add(beginning, which);
            }
            if form.is_wrapped() {
                sieve.broken.iter_mut().skip(1).for_each(|broken| *broken = broken.or(which));
            }
        }
        let [cr, lf] = [b'\r', b'\n'].map(|byte| sieve.takes(byte));
        sieve.broken = either(sieve.broken, either(cr, lf));
        sieve.named = spelling::NAMED.iter().fold(NOBODY, |named, byte| either(named, sieve.takes(*byte)));
        sieve
    }

    fn add(&mut self, beginning: [u8; BEGINNING], which: Which) {
        let [one, two, three, four] = beginning;
        for hashed in [[one, two, three, 0], [two, three, four, 0]] {
            self.hashes.iter_mut().skip(hash(hashed)).take(1).for_each(|flag| *flag = 1);
        }
        for (step, byte) in beginning.into_iter().enumerate() {
            let takes = self.takes.iter_mut().skip(usize::from(byte)).take(1).flatten();
            takes.skip(step).take(1).for_each(|takes| *takes = takes.or(which));
        }
    }

    /// Calls `act` with every place of a text where a form may begin, and with those that may. A place may come twice.
    pub(super) fn each(&self, text: &[u8], mut act: impl FnMut(usize, Which)) {
        let mut act = |place, which: Which| {
            if !which.is_none() {
                act(place, which);
            }
        };
        for start in (0..text.len()).step_by(BLOCK) {
            let rest = text.get(start..).unwrap_or_default();
            let mut padded = [0; BLOCK + HASHED];
            let block = rest.first_chunk().unwrap_or_else(|| {
                padded.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                &padded
            });
            bits(self.plain(block)).for_each(|place| self.unescaped(text, start + place, &mut act));
            bits(escapes(block)).for_each(|place| self.escaped(text, start + place, &mut act));
        }
        // The text may cut a beginning.
        for place in text.len().saturating_sub(BEGINNING - 1)..text.len() {
            let [which, ..] = self.reads(text.get(place..).unwrap_or_default());
            act(place, which);
        }
    }

    /// Every other place of a block, one bit each, if a beginning holds the three bytes there.
    fn plain(&self, block: &Block) -> u64 {
        let mut flags = [0; BLOCK / 2];
        for (flag, window) in flags.iter_mut().zip(block.windows(HASHED + 1).step_by(2)) {
            let hash = window.first_chunk().map_or(0, |bytes| hash(*bytes));
            *flag = self.hashes.get(hash).copied().unwrap_or_default();
        }
        let mut places = 0;
        for (number, eight) in flags.as_chunks().0.iter().enumerate() {
            // Most are none.
            bits(u64::from_le_bytes(*eight)).for_each(|bit| places |= 1 << (16 * number + bit / 4));
        }
        places
    }

    /// A beginning from here on or from one place before, as it stands.
    fn unescaped(&self, text: &[u8], place: usize, act: &mut impl FnMut(usize, Which)) {
        for start in [place.saturating_sub(1), place] {
            if let Some(beginning) = text.get(start..).and_then(|rest| rest.first_chunk()) {
                let [[one, ..], [_, two, ..], [_, _, three, _], [.., four]] = beginning.map(|byte| self.takes(byte));
                act(start, one.and(two).and(three).and(four));
            }
        }
    }

    /// A beginning of which a step is escaped here, or broken off before it, and none before.
    fn escaped(&self, text: &[u8], place: usize, act: &mut impl FnMut(usize, Which)) {
        let Some((before, rest)) = text.split_at_checked(place) else { return };
        let (first, second, third) = match before {
            [.., a, b, c] => {
                let ([a1, ..], [b1, b2, ..], [c1, c2, c3, _]) = (self.takes(*a), self.takes(*b), self.takes(*c));
                (c1, b1.and(c2), a1.and(b2).and(c3))
            }
            [b, c] => {
                let ([b1, ..], [c1, c2, ..]) = (self.takes(*b), self.takes(*c));
                (c1, b1.and(c2), Which::NONE)
            }
            [c] => {
                let [c1, ..] = self.takes(*c);
                (c1, Which::NONE, Which::NONE)
            }
            [] => (Which::NONE, Which::NONE, Which::NONE),
        };
        let [one, two, three, four] = match spelling::mark(rest) {
            Mark::Name => self.named,
            Mark::Break => self.broken,
            Mark::Code => self.reads(rest),
        };
        let (two, three, four) = (first.and(two), second.and(three), third.and(four));
        if !one.or(two).or(three).or(four).is_none() {
            (0..).zip([one, two, three, four]).for_each(|(steps, which)| act(place.saturating_sub(steps), which));
        }
    }

    fn takes(&self, byte: u8) -> Steps {
        self.takes.get(usize::from(byte)).copied().unwrap_or([Which::ALL; BEGINNING])
    }

    /// Who takes what a text begins with, or may be broken there.
    fn reads(&self, text: &[u8]) -> Steps {
        let readings = spelling::readings(text);
        if readings.is_cut {
            return [Which::ALL; BEGINNING];
        }
        readings.iter().fold([Which::NONE; BEGINNING], |steps, reading| {
            let takes = if matches!(reading.byte, b'\r' | b'\n') { self.broken } else { self.takes(reading.byte) };
            either(steps, takes)
        })
    }
}

fn either(these: Steps, those: Steps) -> Steps {
    let ([a, b, c, d], [e, f, g, h]) = (these, those);
    [a.or(e), b.or(f), c.or(g), d.or(h)]
}

/// Of three bytes; the fourth does not count.
fn hash(bytes: [u8; HASHED + 1]) -> usize {
    const MIX: u32 = 0x9E37_79B1 << 8;
    (u32::from_le_bytes(bytes).wrapping_mul(MIX) >> (u32::BITS - HASH_BITS)) as usize & (HASHES - 1)
}

/// The places of a block, one bit each, where an escape or the break of a line may begin.
fn escapes(block: &Block) -> u64 {
    /// Puts the lowest bit of each of eight bytes into the highest byte.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let mut flags = [0; BLOCK];
    flags.iter_mut().zip(block).for_each(|(flag, byte)| *flag = u8::from(is_escape(*byte)));
    flags
        .as_chunks()
        .0
        .iter()
        .fold(0, |places, eight| places >> 8 | u64::from_le_bytes(*eight).wrapping_mul(GATHER) & 0xff << 56)
}

/// Not lazily, so that many bytes are looked at at once.
fn is_escape(byte: u8) -> bool {
    (byte == b'%') | (byte == b'\\') | (byte == b'&') | (byte == b'+') | (byte == b'\r') | (byte == b'\n')
}

/// The numbers of the bits that are set.
fn bits(all: u64) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(all), |left| Some(left & left.wrapping_sub(1)))
        .take_while(|left| *left != 0)
        .map(|left| left.trailing_zeros() as usize)
}
