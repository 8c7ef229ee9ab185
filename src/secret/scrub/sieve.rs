//! Where in a text a form may begin: a sieve that lets through every such place and few others, for nearly all of what
//! is searched holds no value, and every byte of it pays.
//!
//! The first steps of a form are looked at. Where nothing is escaped, these are bytes: vector instructions say of
//! sixty-four places at once whether a form may begin there ([`sift()`]), or, where the processor has none or forms are
//! many, one look at a table of hashes says it of two. Where something is escaped, or a line is broken, the first such
//! place is one of few bytes: from there it is asked who may have begun up to three steps before, sixty-four forms at
//! once. What kind of escape comes next nobody foresees, so that branches as little as it can.
//!
//! - `INVARIANT`: a place where a form begins, however it is spelled there, is let through for that form.
//!
//! It knows the first steps of forms, in no order; that copy is zeroised, but not locked.

use zeroize::{DefaultIsZeroes, Zeroize};

use super::form::Form;
use super::spelling::{self, Mark};
use crate::sys::sift::{self, Found, RUN, Run, Sought, sift};

/// How many steps of a form are looked at.
const BEGINNING: usize = sift::WIDTH;
/// How many bytes are hashed, at every other place: the first or the last of a beginning.
const HASHED: usize = BEGINNING - 1;
/// Of how many forms vectors look at once, and of how many at most: of more they would name too many places, or too
/// slowly.
const AT_ONCE: usize = 32;
const BY_VECTORS: usize = 4 * AT_ONCE;
/// As few as keep false hits rare among some dozens of secrets: a small answer finds the table out of the cache.
const HASH_BITS: u32 = 12;
const HASHES: usize = 1 << HASH_BITS;

/// Forms, by number: those whose number has one of these remainders by 64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Which(u64);

impl DefaultIsZeroes for Which {}

/// Who goes on at each of the first steps.
type Steps = [Which; BEGINNING];

/// The beginnings of forms.
pub(super) struct Sieve {
    /// What vectors look for; nothing where there is too much.
    sought: Option<Sought>,
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
        let beginnings: Vec<_> = forms.iter().map(Form::beginnings::<BEGINNING>).collect();
        let sought = (forms.len() <= BY_VECTORS).then(|| sought(&beginnings));
        let mut sieve =
            Box::new(Self { sought, hashes: [0; HASHES], takes: [NOBODY; 256], named: NOBODY, broken: NOBODY });
        for (number, (form, beginnings)) in forms.iter().zip(beginnings).enumerate() {
            let which = Which::of(number);
            beginnings.into_iter().for_each(|beginning| sieve.add(beginning, which));
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
        for start in (0..text.len()).step_by(RUN) {
            let rest = text.get(start..).unwrap_or_default();
            let mut padded = [0; RUN + HASHED];
            let run = rest.first_chunk().unwrap_or_else(|| {
                padded.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
                &padded
            });
            let found = self.sift(run, rest.len().min(RUN));
            for (start, (begun, escapes)) in (start..).step_by(64).zip(found.beginnings.into_iter().zip(found.class)) {
                bits(begun).for_each(|place| self.unescaped(text, start + place, &mut act));
                bits(escapes).for_each(|place| self.escaped(text, start + place, &mut act));
            }
        }
        // The text may cut a beginning.
        for place in text.len().saturating_sub(BEGINNING - 1)..text.len() {
            let [which, ..] = self.reads(text.get(place..).unwrap_or_default());
            act(place, which);
        }
    }

    /// Where a beginning may be in so many places of a run, and where an escape or the break of a line may begin.
    fn sift(&self, run: &Run, places: usize) -> Found {
        self.sought.as_ref().and_then(|sought| sift(sought, run, places)).unwrap_or_else(|| self.look_up(run, places))
    }

    /// The same without vectors.
    fn look_up(&self, run: &Run, places: usize) -> Found {
        let mut found = Found::default();
        let rests = (0..places).step_by(64).map(|start| run.get(start..).unwrap_or_default());
        for ((begun, escaped), rest) in found.beginnings.iter_mut().zip(&mut found.class).zip(rests) {
            let places = self.hashed(rest);
            let after = match rest.get(64..) {
                Some([one, two, three, ..]) => self.flag([*one, *two, *three, 0]),
                _ => 0,
            };
            *begun = places | places >> 1 | u64::from(after) << 63;
            *escaped = rest.first_chunk().map_or(0, escapes);
        }
        found
    }

    /// Every other of sixty-four places, if a beginning holds the three bytes there.
    fn hashed(&self, text: &[u8]) -> u64 {
        let mut flags = [0; 32];
        for (flag, window) in flags.iter_mut().zip(text.windows(HASHED + 1).step_by(2)) {
            *flag = window.first_chunk().map_or(0, |bytes| self.flag(*bytes));
        }
        let mut places = 0;
        for (number, eight) in flags.as_chunks().0.iter().enumerate() {
            // Most are none.
            bits(u64::from_le_bytes(*eight)).for_each(|bit| places |= 1 << (16 * number + bit / 4));
        }
        places
    }

    /// Whether a beginning holds the first three of these bytes, or others of their hash: 1 or 0.
    fn flag(&self, bytes: [u8; HASHED + 1]) -> u8 {
        self.hashes.get(hash(bytes)).copied().unwrap_or_default()
    }

    /// A beginning from here on, as it stands.
    fn unescaped(&self, text: &[u8], start: usize, act: &mut impl FnMut(usize, Which)) {
        if let Some(beginning) = text.get(start..).and_then(|rest| rest.first_chunk()) {
            let [[one, ..], [_, two, ..], [_, _, three, _], [.., four]] = beginning.map(|byte| self.takes(byte));
            act(start, one.and(two).and(three).and(four));
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

    /// Looks from now on as on a processor that has no vectors.
    #[cfg(test)]
    pub(super) fn forget_vectors(&mut self) {
        self.sought = None;
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

impl Drop for Sieve {
    fn drop(&mut self) {
        let Self { sought, hashes, takes, named, broken } = self;
        sought.iter_mut().for_each(Zeroize::zeroize);
        hashes.zeroize();
        takes.zeroize();
        named.zeroize();
        broken.zeroize();
    }
}

fn either(these: Steps, those: Steps) -> Steps {
    let ([a, b, c, d], [e, f, g, h]) = (these, those);
    [a.or(e), b.or(f), c.or(g), d.or(h)]
}

/// Of three bytes; the fourth does not count, but four are sooner loaded.
fn hash(bytes: [u8; HASHED + 1]) -> usize {
    const MIX: u32 = 0x9E37_79B1 << 8;
    (u32::from_le_bytes(bytes).wrapping_mul(MIX) >> (u32::BITS - HASH_BITS)) as usize & (HASHES - 1)
}

/// What an escape, or the break of a line, begins with.
const ESCAPES: [u8; 6] = *b"%\\&+\r\n";

/// What vectors look for: these forms, each given by all of its beginnings, and escapes. Forms that begin alike stand
/// in one group, which then names fewer places for what is in none.
fn sought(forms: &[Vec<[u8; BEGINNING]>]) -> Sought {
    let mut sought = Sought::default();
    ESCAPES.iter().enumerate().for_each(|(group, byte)| sought.class.add(*byte, group));
    let mut forms: Vec<_> = forms.iter().collect();
    forms.sort_unstable();
    let groups = 8 * forms.len().div_ceil(AT_ONCE);
    let groups: Vec<_> = forms.chunks(forms.len().div_ceil(groups)).collect();
    for eight in groups.chunks(8) {
        let mut all = sift::Beginnings::default();
        for (group, forms) in eight.iter().enumerate() {
            for beginning in forms.iter().copied().flatten() {
                all.iter_mut().zip(beginning).for_each(|(halves, byte)| halves.add(*byte, group));
            }
        }
        sought.beginnings.push(all);
    }
    sought
}

/// Of sixty-four places those, one bit each, where an escape or the break of a line may begin.
fn escapes(block: &[u8; 64]) -> u64 {
    /// Puts the lowest bit of each of eight bytes into the highest byte.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    // Not lazily, so that many bytes are looked at at once.
    let is_escape = |byte: u8| ESCAPES.iter().fold(false, |is_one, escape| is_one | (byte == *escape));
    let flags = block.map(|byte| u8::from(is_escape(byte)));
    flags
        .as_chunks()
        .0
        .iter()
        .fold(0, |places, eight| places >> 8 | u64::from_le_bytes(*eight).wrapping_mul(GATHER) & 0xff << 56)
}

/// The numbers of the bits that are set.
fn bits(all: u64) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(all), |left| Some(left & left.wrapping_sub(1)))
        .take_while(|left| *left != 0)
        .map(|left| left.trailing_zeros() as usize)
}
