//! Secrets on their way back: what an origin says is searched for the values that it was sent, and these are struck
//! out before the sandbox reads it.
//!
//! It finds a value as it stands, backwards, in hexadecimal and in base64 at any alignment (RFC 4648 §4 and §5, also
//! broken into lines), each also escaped byte by byte as URLs, JSON, source code and HTML do (`spelling`), wholly or
//! in part, once or a few times over. It reads a text in pieces, wherever they are cut, and passes on at once what
//! cannot be part of a value. It decodes no content coding: that is done before.
//!
//! What is found is struck out with `*`, byte for byte, so a text keeps its length: nothing that frames it must change.
//!
//! - `INVARIANT`: however a text is cut into pieces, no more than [`limits::SCRUB_UNHELD`] steps of a value pass: that
//!   many are passed on at once, for a text may well end in a secret's first letter and wait for an answer.
//! - `INVARIANT`: what is kept back is the beginning of a form, so it is bounded by the longest spelling of one.
//! - `INVARIANT`: nothing here prints, and forms of a value are locked and zeroised as the value is, but for their
//!   first steps, which the `sieve` knows.
//!
//! **Residual risk.** Whoever transforms what it echoes in a way that is not listed (encrypts, compresses within the
//! content, spells with look-alikes, codes what is base64 already, answers a few letters at a time over several
//! responses) defeats this. The wall is
//! the rule's scope: host, method, path. Values shorter than [`limits::SCRUB_SHORTEST`] are not searched for.

mod form;
mod sieve;
mod spelling;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroize;

use self::form::{Form, Walk};
use self::sieve::{Sieve, Which};
use super::Secret;
use crate::limits;

/// What stands in the place of each byte that was struck out.
const MARK: u8 = b'*';

/// The values that are searched for, in all their forms. Made once for a set of values and shared.
pub struct Scrubber {
    forms: Vec<Form>,
    /// How many bytes the shortest form has; escapes only lengthen it.
    shortest: usize,
    /// Where there are any.
    sieve: Option<Box<Sieve>>,
}

impl Scrubber {
    /// Searches for these values.
    #[must_use]
    pub fn new<'a>(values: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut forms = Vec::new();
        for value in values {
            value.expose(|bytes| {
                if bytes.len() >= limits::SCRUB_SHORTEST {
                    forms.extend(Form::all(bytes));
                }
            });
        }
        let shortest = forms.iter().map(Form::len).min().unwrap_or(usize::MAX);
        let sieve = (!forms.is_empty()).then(|| Sieve::new(&forms));
        Self { forms, shortest, sieve }
    }

    /// Whether there is nothing to search for.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.forms.is_empty()
    }

    /// A text that is there as a whole, with every value struck out; `None` where there is none.
    #[must_use]
    pub fn strike(&self, text: &[u8]) -> Option<Vec<u8>> {
        if text.len() < self.shortest {
            return None;
        }
        let found = self.search(text);
        if found.whole.is_empty() {
            return None;
        }
        let mut struck = text.to_vec();
        found.whole.into_iter().for_each(|range| mark(&mut struck, range));
        Some(struck)
    }

    /// A text that arrives in pieces.
    #[must_use]
    pub fn passage(self: &Arc<Self>) -> Passage {
        Passage { scrubber: Arc::clone(self), kept: Vec::new(), passed: 0, struck: 0, found: 0 }
    }

    /// Goes along every form from wherever it may begin.
    fn search(&self, text: &[u8]) -> Found {
        let mut found = Found::default();
        if let Some(sieve) = &self.sieve {
            sieve.each(text, |start, which| self.look(text, start, which, &mut found));
        }
        found.merge();
        found
    }

    /// Goes along these forms from one place of a text; that it is done twice changes nothing.
    fn look(&self, text: &[u8], start: usize, which: Which, found: &mut Found) {
        let rest = text.get(start..).unwrap_or_default();
        for form in which.pick(&self.forms) {
            match form.walk(rest) {
                Walk::Whole(length) => found.whole.push(start..start + length),
                Walk::Cut(steps) => found.cut(start, steps, form.len()),
                Walk::Nowhere => {}
            }
        }
    }
}

/// What a search has found.
#[derive(Default)]
struct Found {
    /// Values: after [`Found::merge`] in order, none touching another.
    whole: Vec<Range<usize>>,
    /// Where the first begins that the text may cut.
    cut: Option<usize>,
    /// Where the first of them begins of which more is there than may pass.
    held: Option<usize>,
    /// Where the first of them begins of which the better part is there.
    nearly_whole: Option<usize>,
}

impl Found {
    /// Puts values in order, and makes one of those that touch.
    fn merge(&mut self) {
        self.whole.sort_unstable_by_key(|range| range.start);
        self.whole.dedup_by(|next, last| {
            let touches = next.start <= last.end;
            if touches {
                last.end = last.end.max(next.end);
            }
            touches
        });
    }

    fn cut(&mut self, start: usize, steps: usize, of: usize) {
        let first = |place: &mut Option<usize>| *place = Some(place.map_or(start, |other| other.min(start)));
        first(&mut self.cut);
        if steps > limits::SCRUB_UNHELD {
            first(&mut self.held);
        }
        if 2 * steps > of {
            first(&mut self.nearly_whole);
        }
    }
}

/// A text on its way through, in pieces.
pub struct Passage {
    scrubber: Arc<Scrubber>,
    /// The end of what was fed, from where a value may have begun.
    kept: Vec<u8>,
    /// How many bytes of that were passed on.
    passed: usize,
    /// How many bytes of that belong to a value that was found before.
    struck: usize,
    found: usize,
}

impl Passage {
    /// Takes the next piece, and gives what may pass now: less, the same, or more than the piece.
    #[must_use]
    pub fn feed(&mut self, piece: Bytes) -> Bytes {
        let mut text = std::mem::take(&mut self.kept);
        let before = text.len();
        let found = if before == 0 {
            self.scrubber.search(&piece)
        } else {
            text.extend_from_slice(&piece);
            self.scrubber.search(&text)
        };
        let end = before + piece.len();
        let (keep, hold) = (found.cut.unwrap_or(end), found.held.unwrap_or(end));
        let whole = before == 0;
        let text: &[u8] = if whole { &piece } else { &text };
        let out = if found.whole.is_empty() && self.struck <= self.passed && self.passed == before && hold == end {
            piece.clone()
        } else {
            self.release(text, hold, &found)
        };
        self.found += found.whole.iter().filter(|range| range.start < keep).count();
        let struck = found.whole.iter().rfind(|range| range.start < keep).map_or(0, |range| range.end).max(self.struck);
        self.kept = text.get(keep..).unwrap_or_default().to_vec();
        (self.passed, self.struck) = (hold.max(self.passed).saturating_sub(keep), struck.saturating_sub(keep));
        out
    }

    /// The text is at its end: what was kept back. What is the better part of a value is struck out, too.
    #[must_use]
    pub fn finish(&mut self) -> Bytes {
        let text = std::mem::take(&mut self.kept);
        let mut found = self.scrubber.search(&text);
        self.found += found.whole.len();
        if let Some(start) = found.nearly_whole {
            found.whole.push(start..text.len());
            self.found += 1;
        }
        let out = self.release(&text, text.len(), &found);
        (self.passed, self.struck) = (0, 0);
        out
    }

    /// How many bytes were fed and not passed on.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.kept.len().saturating_sub(self.passed)
    }

    /// How many values were struck out.
    #[must_use]
    pub fn found(&self) -> usize {
        self.found
    }

    /// What of the text has not been passed on, up to `end`, with what was found struck out.
    fn release(&self, text: &[u8], end: usize, found: &Found) -> Bytes {
        let mut out = text.get(self.passed..end).unwrap_or_default().to_vec();
        let here = |place: usize| place.saturating_sub(self.passed);
        mark(&mut out, 0..here(self.struck));
        found.whole.iter().for_each(|range| mark(&mut out, here(range.start)..here(range.end)));
        out.into()
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.kept.zeroize();
    }
}

/// Whether a text ends where an escape, of any kind that is read, is not over yet: what follows would be part of it.
#[must_use]
pub fn ends_in_escape(text: &[u8]) -> bool {
    (0..text.len()).any(|start| spelling::readings(text.get(start..).unwrap_or_default()).is_cut)
}

fn mark(text: &mut [u8], range: Range<usize>) {
    let end = range.end.min(text.len());
    text.get_mut(range.start..end).unwrap_or_default().fill(MARK);
}
