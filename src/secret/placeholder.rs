//! Placeholders: random texts that a sandbox holds instead of secrets. They look like the values that they stand for,
//! and are worth nothing elsewhere.
//!
//! Each is minted once for a sandbox and a secret, and stays for the life of the sandbox, whatever becomes of the value
//! and of the policy. Where one is replaced is for the policy to say ([`crate::policy::placeholder`]).
//!
//! - `INVARIANT`: of the value a placeholder has no more than its length, which kinds of characters stand in it, and a
//!   beginning that marks a known kind of key; where a shape is given, the value is not looked at.
//! - `INVARIANT`: what was minted once is searched for to the end, also under a policy that no longer names it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand;
use bytes::Bytes;
use zeroize::Zeroizing;

use super::replace::{self, Piece, Replacer};
use super::scrub::{Passage, Scrubber};
use super::{Secret, Secrets};
use crate::flow::SecretName;
use crate::limits;
use crate::policy::placeholder::Known;
use crate::policy::verdict::Part;
use crate::policy::{Policy, key_prefix};

/// No random numbers are to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRandom;

impl fmt::Display for NoRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no random numbers are to be had")
    }
}

impl std::error::Error for NoRandom {}

/// The placeholders of one sandbox.
pub struct Placeholders {
    texts: BTreeMap<SecretName, String>,
    search: Arc<Scrubber>,
}

impl Default for Placeholders {
    fn default() -> Self {
        Self::of(BTreeMap::new())
    }
}

impl Placeholders {
    /// Those that were minted before.
    #[must_use]
    pub fn of(texts: BTreeMap<SecretName, String>) -> Self {
        let wanted: Vec<Secret> =
            texts.values().map(|text| Secret::new(Zeroizing::new(text.as_bytes().to_vec()))).collect();
        Self { search: Arc::new(Scrubber::new(&wanted)), texts }
    }

    /// These, and one for each secret of a policy that has none yet.
    ///
    /// # Errors
    /// No random numbers are to be had.
    pub fn with(&self, policy: &Policy, secrets: &Secrets) -> Result<Self, NoRandom> {
        let mut texts = self.texts.clone();
        for stand_in in policy.stand_ins() {
            if !texts.contains_key(stand_in.secret()) {
                let minted = match (&stand_in.grant().shape, secrets.value(stand_in.secret())) {
                    (Some(shape), _) => mint(shape.prefix(), shape.length(), LETTERS)?,
                    (None, Some(value)) => value.expose(like)?,
                    (None, None) => mint("", limits::PLACEHOLDER_USUAL, LETTERS)?,
                };
                texts.insert(stand_in.secret().clone(), minted);
            }
        }
        Ok(Self::of(texts))
    }

    /// All of them, by secret.
    #[must_use]
    pub fn texts(&self) -> &BTreeMap<SecretName, String> {
        &self.texts
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// The variables that a policy gives to the sandbox's environment.
    pub fn variables<'a>(&'a self, policy: &'a Policy) -> impl Iterator<Item = (&'a str, &'a str)> {
        policy.placeholders().filter_map(|(variable, secret)| Some((variable, self.texts.get(secret)?.as_str())))
    }

    /// Replaces those of these secrets in a body of this type; `None` if there is none.
    pub fn replacer<'a>(
        &'a self,
        names: impl Iterator<Item = &'a SecretName>,
        media_type: Option<&str>,
        secrets: &Secrets,
    ) -> Option<Replacer> {
        let mut texts = names.filter_map(|name| Some((name, self.texts.get(name)?.as_str()))).peekable();
        texts.peek().is_some().then(|| Replacer::new(media_type, texts, secrets))
    }

    /// Searches a text that arrives in pieces, and replaces what this one does.
    #[must_use]
    pub fn outgoing(self: &Arc<Self>, replacer: Option<Box<Replacer>>) -> Outgoing {
        Outgoing { passage: self.search.passage(), known: Arc::clone(self), replacer }
    }
}

/// A text of the sandbox on its way out, in pieces. Once it is stopped, nothing more of it may be sent.
pub struct Outgoing {
    known: Arc<Placeholders>,
    replacer: Option<Box<Replacer>>,
    passage: Passage,
}

/// Why a text may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// There is a placeholder in it that may not be.
    Misdirected,
    /// There is one whose value cannot be had.
    Lacking,
}

impl Outgoing {
    /// Takes the next piece, and adds what may go.
    ///
    /// # Errors
    /// It may not go on.
    pub fn feed(&mut self, piece: Bytes, out: &mut impl Extend<Bytes>) -> Result<(), Stop> {
        let Some(replacer) = &mut self.replacer else { return self.text(piece, out) };
        for piece in replacer.feed(piece) {
            match piece {
                Piece::Text(text) => self.text(text, out)?,
                Piece::Value(value) => {
                    // What the sandbox wrote before and behind a value stands not together.
                    let rest = self.passage.finish();
                    self.judged(rest, out)?;
                    self.passage = self.known.search.passage();
                    out.extend([value]);
                }
                Piece::Missing => return Err(Stop::Lacking),
            }
        }
        Ok(())
    }

    /// The text is at its end: adds what was kept back.
    ///
    /// # Errors
    /// It may not go on.
    pub fn finish(&mut self, out: &mut impl Extend<Bytes>) -> Result<(), Stop> {
        if let Some(replacer) = &mut self.replacer {
            let rest = replacer.finish();
            self.text(rest, out)?;
        }
        let rest = self.passage.finish();
        self.judged(rest, out)
    }

    /// How many bytes wait, where nothing is replaced; `None` where that changes the length.
    #[must_use]
    pub fn waiting(&self) -> Option<usize> {
        self.replacer.is_none().then(|| self.passage.waiting())
    }

    fn text(&mut self, text: Bytes, out: &mut impl Extend<Bytes>) -> Result<(), Stop> {
        let text = self.passage.feed(text);
        self.judged(text, out)
    }

    /// What may go of it, unless a placeholder was found by now.
    fn judged(&self, text: Bytes, out: &mut impl Extend<Bytes>) -> Result<(), Stop> {
        if self.passage.found() > 0 {
            return Err(Stop::Misdirected);
        }
        out.extend((!text.is_empty()).then_some(text));
        Ok(())
    }
}

impl Known for Placeholders {
    fn is_in(&self, text: &[u8]) -> bool {
        self.search.strike(text).is_some()
    }

    fn parts(&self, text: &str) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        let mut rest = text;
        let first = |rest: &str| {
            let found =
                self.texts.iter().filter_map(|(name, text)| Some((rest.find(text.as_str())?, name, text.len())));
            found.min_by_key(|(at, _, _)| *at).map(|(at, name, length)| (at, name.clone(), length))
        };
        while let Some((at, name, length)) = first(rest) {
            let (before, found) = rest.split_at(at);
            parts.extend((!before.is_empty()).then(|| Part::Literal(before.to_owned())));
            parts.push(Part::Secret(name));
            rest = found.get(length..).unwrap_or_default();
        }
        let is_found = !parts.is_empty();
        parts.extend((!rest.is_empty()).then(|| Part::Literal(rest.to_owned())));
        is_found.then_some(parts)
    }

    fn query_parts(&self, query: &str) -> Option<Vec<Part>> {
        replace::parts(query, self.texts.iter().map(|(name, text)| (name, text.as_str())))
    }
}

impl fmt::Debug for Placeholders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.texts.keys().map(SecretName::as_str)).finish()
    }
}

/// What a placeholder is made of that is like no value.
const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A placeholder that looks like a value.
fn like(value: &[u8]) -> Result<String, NoRandom> {
    let prefix = std::str::from_utf8(value).map(key_prefix).unwrap_or_default();
    let behind = value.get(prefix.len()..).unwrap_or_default();
    let length = value.len().clamp(prefix.len() + limits::PLACEHOLDER_RANDOM, limits::PLACEHOLDER_BYTES);
    mint(prefix, length, &alphabet(behind))
}

/// The characters that a text may be made of, by those that it is made of.
fn alphabet(text: &[u8]) -> Vec<u8> {
    let has = |kind: fn(&u8) -> bool| text.iter().any(kind);
    let (upper, lower, digit) = (has(u8::is_ascii_uppercase), has(u8::is_ascii_lowercase), has(u8::is_ascii_digit));
    let is_hex = digit && upper != lower && text.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    let stands = |byte: &u8| match byte {
        _ if is_hex && !byte.is_ascii_hexdigit() => false,
        b'A'..=b'Z' => upper,
        b'a'..=b'z' => lower,
        _ => digit,
    };
    let letters: Vec<u8> = LETTERS.iter().copied().filter(stands).collect();
    // Of digits alone, or of nothing that a placeholder is made of, too many would be needed.
    let letters = if upper || lower { letters } else { LETTERS.to_vec() };
    let marks = b"-_".iter().copied().filter(|mark| !is_hex && text.contains(mark));
    letters.into_iter().chain(marks).collect()
}

/// A placeholder that begins with this and is so long in all, of these characters.
fn mint(prefix: &str, length: usize, alphabet: &[u8]) -> Result<String, NoRandom> {
    let mut text = prefix.to_owned();
    // Of those random numbers that are evenly spread over the alphabet; the rest is drawn again.
    let even = 256 - 256 % alphabet.len().max(1);
    while text.len() < length {
        let mut random = [0; 64];
        rand::fill(&mut random).map_err(|_| NoRandom)?;
        let drawn = random.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < even);
        let characters = drawn.filter_map(|byte| alphabet.get(byte % alphabet.len())).map(|byte| char::from(*byte));
        text.extend(characters.take(length - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Flags, Source, Terms};

    fn name(text: &str) -> SecretName {
        SecretName::new(text).unwrap()
    }

    fn holding(texts: &[(&str, &str)]) -> Placeholders {
        Placeholders::of(texts.iter().map(|(secret, text)| (name(secret), (*text).to_owned())).collect())
    }

    fn secrets(value: &str) -> Secrets {
        let secrets = Secrets::default();
        secrets.insert(name("KEY"), Secret::new(Zeroizing::new(value.as_bytes().to_vec())));
        secrets
    }

    fn policy(shape: &str) -> Policy {
        let text = format!("secrets: {{KEY: {{env: X, to: [a.test]{shape}}}}}\nplaceholders: {{ONE: KEY, TWO: KEY}}");
        let source = Source { path: "p.yaml", text: &text };
        Policy::compile(Some(source), &Flags::default(), &Terms::default()).unwrap().policy
    }

    fn minted(shape: &str, value: &str) -> String {
        let placeholders = Placeholders::default().with(&policy(shape), &secrets(value)).unwrap();
        placeholders.texts.get(&name("KEY")).unwrap().clone()
    }

    #[test]
    fn a_placeholder_has_the_shape_of_its_value_and_nothing_else_of_it() {
        // Put together here, so that nothing that looks like a credential stands in this file.
        let key = |begins: &str| format!("{begins}{}", "aZ9".repeat(12));
        for begins in ["ghp_", "sk-ant-api03-", "sk-proj-", "glpat-", "xoxb-", "AKIA"] {
            let (value, other) = (key(begins), minted("", &key(begins)));
            assert_eq!((other.len(), other.starts_with(begins)), (value.len(), true), "{other}");
            assert!(!other.contains("aZ9aZ9"), "{other}");
            assert_ne!(other, minted("", &value), "it is another each time");
        }
        let hex = minted("", &"0f".repeat(20));
        assert!(hex.len() == 40 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{hex}");
        let upper = minted("", &"0F".repeat(20));
        assert!(upper.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F')), "{upper}");
        assert!(minted("", "0123456789012345678901").bytes().any(|byte| byte.is_ascii_alphabetic()));
        assert_eq!(minted("", "short").len(), limits::PLACEHOLDER_RANDOM);
        assert_eq!(minted("", &"a1".repeat(4000)).len(), limits::PLACEHOLDER_BYTES);
        assert_eq!(minted("", "geheim-äöü-ÄÖÜ-geheim").len(), "geheim-äöü-ÄÖÜ-geheim".len());
    }

    #[test]
    fn where_a_shape_is_given_the_value_is_not_looked_at() {
        let shaped = minted(", shape: {prefix: my_, length: 24}", &"x".repeat(90));
        assert_eq!((shaped.len(), shaped.starts_with("my_")), (24, true));
        assert_eq!(minted(", shape: {prefix: my_}", "x").len(), 3 + limits::PLACEHOLDER_USUAL);
        assert_eq!(minted(", shape: {length: 16}", "x").len(), 16);
    }

    #[test]
    fn what_was_minted_stays_and_stands_in_every_variable_of_its_secret() {
        let first = Placeholders::default().with(&policy(""), &Secrets::default()).unwrap();
        let again = first.with(&policy(", shape: {prefix: my_}"), &secrets("another value")).unwrap();
        assert_eq!(first.texts, again.texts);
        let policy = policy("");
        let variables: Vec<_> = again.variables(&policy).collect();
        let text = first.texts.get(&name("KEY")).unwrap().as_str();
        assert_eq!(variables, [("ONE", text), ("TWO", text)]);
        assert_eq!(format!("{again:?}"), "[\"KEY\"]");
    }

    #[test]
    fn a_text_is_taken_apart_at_every_placeholder() {
        let known = holding(&[("ONE", "ph-one-0123456789"), ("TWO", "ph-two-0123456789")]);
        let literal = |text: &str| Part::Literal(text.to_owned());
        let secret = |text: &str| Part::Secret(name(text));
        for (text, parts) in [
            ("nothing", None),
            ("ph-one-0123456789", Some(vec![secret("ONE")])),
            ("Bearer ph-one-0123456789", Some(vec![literal("Bearer "), secret("ONE")])),
            (
                "ph-two-0123456789:ph-one-0123456789;",
                Some(vec![secret("TWO"), literal(":"), secret("ONE"), literal(";")]),
            ),
        ] {
            assert_eq!(known.parts(text), parts, "{text}");
            assert_eq!(known.is_in(text.as_bytes()), parts.is_some(), "{text}");
        }
        for text in ["/x?ph%2Done-0123456789", "{\"k\": \"ph\\u002done-0123456789\"}", "cGgtb25lLTAxMjM0NTY3ODk="] {
            assert!(known.is_in(text.as_bytes()) && known.parts(text).is_none(), "{text}");
        }
    }
}
