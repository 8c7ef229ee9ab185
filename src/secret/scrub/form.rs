//! The forms in which a value may come back: itself, backwards, in hexadecimal, in base64 at each of its three
//! alignments. Each may besides be escaped byte by byte ([`super::spelling`]).

use super::spelling::{Reading, readings};
use crate::sys::locked::Locked;

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const HEX: &[u8; 16] = b"0123456789abcdef";
/// In how many places at once a text may be read, where it can be read in several ways.
const PLACES: usize = 8;

/// What each byte of a form may be: one of two, often the same twice.
type Step = [u8; 2];

/// One form of one value. It holds what the value holds, so it is kept as that is and never shown.
pub(super) struct Form {
    /// [`Step`]s, one after another.
    steps: Locked,
    /// Whether encoders break it into lines.
    is_wrapped: bool,
}

/// How far a form goes from one place of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    /// It ends so many bytes on: all of it is there.
    Whole(usize),
    /// The text ends first, after so many steps.
    Cut(usize),
    /// It is not there.
    Nowhere,
}

impl Form {
    /// Every form of a value.
    pub(super) fn all(value: &[u8]) -> Vec<Self> {
        let same = |bytes: &mut dyn Iterator<Item = u8>| Self::new(bytes.map(|byte| [byte, byte]), value.len(), false);
        let digits =
            value.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| HEX.get(usize::from(digit)));
        let hex = Self::new(digits.map(|digit| [*digit, digit.to_ascii_uppercase()]), 2 * value.len(), false);
        let mut forms = vec![same(&mut value.iter().copied()), same(&mut value.iter().rev().copied()), hex];
        forms.extend((0..3).map(|before| Self::base64(value, before)));
        forms
    }

    /// The characters of base64 that `value` alone decides where `before` bytes, counted modulo three, stand before it.
    fn base64(value: &[u8], before: usize) -> Self {
        let bits = 8 * before..8 * (before + value.len());
        let sextets = bits.start.div_ceil(6)..bits.end / 6;
        let sextet = |at: usize| {
            let bit = |bit: usize| {
                let byte = value.get(bit / 8 - before).copied().unwrap_or_default();
                usize::from(byte >> (7 - bit % 8) & 1)
            };
            (6 * at..6 * at + 6).fold(0, |sum, place| 2 * sum + bit(place))
        };
        let steps = sextets.clone().filter_map(|at| BASE64.get(sextet(at))).map(|character| match character {
            b'+' => [b'+', b'-'],
            b'/' => [b'/', b'_'],
            other => [*other, *other],
        });
        Self::new(steps, sextets.len(), true)
    }

    fn new(steps: impl Iterator<Item = Step>, length: usize, is_wrapped: bool) -> Self {
        let mut all = Locked::zero(length * size_of::<Step>());
        all.as_chunks_mut().0.iter_mut().zip(steps).for_each(|(place, step)| *place = step);
        Self { steps: all, is_wrapped }
    }

    fn steps(&self) -> &[Step] {
        self.steps.as_chunks().0
    }

    /// How many steps it has.
    pub(super) fn len(&self) -> usize {
        self.steps().len()
    }

    /// Whether encoders break it into lines.
    pub(super) fn is_wrapped(&self) -> bool {
        self.is_wrapped
    }

    /// Every text of `N` bytes that it may begin with where nothing is escaped.
    pub(super) fn beginnings<const N: usize>(&self) -> Vec<[u8; N]> {
        let mut texts = vec![[0; N]];
        for at in 0..N {
            let [one, other] = self.steps().get(at).copied().unwrap_or_default();
            let put = |text: &[u8; N], byte| {
                let mut text = *text;
                text.iter_mut().skip(at).take(1).for_each(|place| *place = byte);
                text
            };
            let mut longer: Vec<[u8; N]> = texts.iter().map(|text| put(text, one)).collect();
            if other != one {
                longer.extend(texts.iter().map(|text| put(text, other)));
            }
            texts = longer;
        }
        texts
    }

    /// Goes along it from the beginning of `text`.
    pub(super) fn walk(&self, text: &[u8]) -> Walk {
        let mut places = Places::default();
        places.add(0);
        let mut cut = None;
        for (steps, step) in self.steps().iter().enumerate() {
            let mut next = Places::default();
            for place in places.iter() {
                if self.step(text, place, *step, steps > 0, &mut next) {
                    cut.get_or_insert(steps);
                }
            }
            if next.is_empty() {
                return cut.map_or(Walk::Nowhere, Walk::Cut);
            }
            places = next;
        }
        places.iter().max().map_or(Walk::Nowhere, Walk::Whole)
    }

    /// Where the text may go on after one step from `place`; whether it may end within it.
    fn step(&self, text: &[u8], place: usize, step: Step, may_break: bool, next: &mut Places) -> bool {
        let rest = |place: usize| text.get(place..).unwrap_or_default();
        let mut place = place;
        let mut here = readings(rest(place));
        let may_break = may_break && self.is_wrapped;
        let is_break = |reading: &Reading| may_break && matches!(reading.byte, b'\r' | b'\n');
        while let Some(reading) = here.iter().find(is_break) {
            place += reading.length();
            here = readings(rest(place));
        }
        for reading in here.iter().filter(|reading| step.contains(&reading.byte)) {
            next.add(place + reading.length());
        }
        here.is_cut
    }
}

/// A few different places of a text.
#[derive(Default)]
struct Places([Option<usize>; PLACES]);

impl Places {
    /// More than there is room for is passed over: nothing is written in so many ways.
    fn add(&mut self, place: usize) {
        if !self.0.contains(&Some(place))
            && let Some(free) = self.0.iter_mut().find(|other| other.is_none())
        {
            *free = Some(place);
        }
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().flatten().copied()
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}
