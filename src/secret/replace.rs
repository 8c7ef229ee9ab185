//! Placeholders on their way out, elsewhere than in headers: found in a text as it streams, and the value written in
//! their place as such a text writes it.
//!
//! A placeholder is found as it stands, or escaped once as the text escapes: by `%` in queries and forms, by `\` in
//! JSON. Every other spelling is left as it is, for the search that follows ([`super::scrub`]) to find. Whether one may
//! be replaced is for the policy to say ([`crate::policy::placeholder`]).
//!
//! | text | a value in it |
//! |---|---|
//! | a query, `application/x-www-form-urlencoded` | every byte escaped but letters, digits, `-`, `.`, `_` and `~` |
//! | JSON, also one a line | `"`, `\` and control characters escaped; one that is not UTF-8 cannot be written |
//! | `multipart/…` | as it is, in what plain parts hold; in their heads, such as a file's name, nothing is replaced |
//! | any other | as it is |
//!
//! Nothing is replaced where what the sandbox wrote would be read together with the value's first letters: behind the
//! beginning of an escape (`%` before `4a…` would be read as `J…`) or of a character of several bytes, in a body that
//! is said to be in another charset than UTF-8, or behind a byte that tells of one: a NUL, which may be half a letter
//! of UTF-16, the two bytes of its mark, or an ESC, by which others change their letters. An origin that shows what it
//! read so would not show the value, and its answer would not be struck out.
//!
//! Of a multipart body those places are left out that one reader takes for a part's text, and another for a head: two
//! dashes and the boundary are a delimiter wherever they stand, and a part that has parts, or is coded, is no text.
//!
//! - `INVARIANT`: in a query or a form a value adds no parameter, in JSON it ends no string.
//! - `INVARIANT`: what waits is what may be the beginning of a placeholder, so it is bounded by the longest spelling.
//! - `INVARIANT`: of one text no more than [`limits::PLACEHOLDER_TIMES`] are replaced; more are left, and so refused.

use bytes::Bytes;
use zeroize::Zeroizing;

use super::Secrets;
use super::inject::InjectError;
use super::scrub::ends_in_escape;
use crate::flow::SecretName;
use crate::limits;
use crate::policy::verdict::{Part, Text};

/// Characters of a multipart boundary (RFC 2046 §5.1.1).
const BOUNDARY: usize = 70;
/// Bytes of a multipart body that are looked back on: twice a delimiter and more.
const LOOK_BACK: usize = 256;
/// Bytes of a part's head that is read; in a part with a longer one nothing is replaced.
const PART_HEAD: usize = 4096;
/// Bytes of the longest escape, which may begin before a placeholder.
const ESCAPE: usize = 16;

/// How a text writes what stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it is.
    Plain,
    /// RFC 8259 §7.
    Json,
    /// RFC 3986 §2.1.
    Form,
}

/// What a text says at one place.
enum Read {
    /// This byte, written in so many.
    Byte(u8, usize),
    /// The text ends where that may not be over.
    Cut,
}

/// How far a placeholder goes from one place of a text.
enum Walk {
    Whole(usize),
    Cut,
    Nowhere,
}

impl Manner {
    /// The first byte that a text says, as it stands or escaped once.
    fn read(self, text: &[u8]) -> Read {
        let Some((first, rest)) = text.split_first() else { return Read::Cut };
        let plain = Read::Byte(*first, 1);
        match (self, first) {
            (Self::Form, b'%') => coded(rest, 2).map_or(plain, |read| longer(read, 1)),
            (Self::Json, b'\\') => match rest.split_first() {
                None => Read::Cut,
                Some((b'u', digits)) => coded(digits, 4).map_or(plain, |read| longer(read, 2)),
                Some((escaped @ (b'"' | b'\\' | b'/'), _)) => Read::Byte(*escaped, 2),
                Some(_) => plain,
            },
            _ => plain,
        }
    }

    fn walk(self, text: &[u8], wanted: &[u8]) -> Walk {
        let mut at = 0;
        for byte in wanted {
            match self.read(text.get(at..).unwrap_or_default()) {
                Read::Byte(said, length) if said == *byte => at += length,
                Read::Byte(..) => return Walk::Nowhere,
                Read::Cut => return Walk::Cut,
            }
        }
        Walk::Whole(at)
    }

    /// The byte that begins every escape.
    fn escape(self) -> Option<u8> {
        match self {
            Self::Plain => None,
            Self::Json => Some(b'\\'),
            Self::Form => Some(b'%'),
        }
    }

    /// A value as such a text writes it; `None` if it cannot.
    fn write(self, value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let can_write = self != Self::Json || std::str::from_utf8(value).is_ok();
        (can_write && !is_unfinished(value)).then(|| self.escape_all(value))
    }

    /// Every byte as such a text writes it.
    fn escape_all(self, value: &[u8]) -> Zeroizing<Vec<u8>> {
        // Room for all from the start: a vector that grows leaves copies behind.
        let mut written = Zeroizing::new(Vec::with_capacity(6 * value.len()));
        for byte in value {
            match (self, byte) {
                (Self::Form, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~') => {
                    written.push(*byte);
                }
                (Self::Form, _) => written.extend([b'%', digit(byte >> 4), digit(byte & 15)]),
                (Self::Json, b'"' | b'\\') => written.extend([b'\\', *byte]),
                (Self::Json, 0..0x20) => {
                    written.extend(*b"\\u00");
                    written.extend([digit(byte >> 4), digit(byte & 15)]);
                }
                (Self::Plain | Self::Json, _) => written.push(*byte),
            }
        }
        written
    }
}

/// What so many hexadecimal digits say; `None` if they are none, or say no single byte.
fn coded(text: &[u8], count: usize) -> Option<Read> {
    let digits = text.get(..count).unwrap_or(text);
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let number = digits.iter().try_fold(0, |number, byte| Some(16 * number + digit(byte)?))?;
    if digits.len() < count {
        return Some(Read::Cut);
    }
    u8::try_from(number).ok().map(|byte| Read::Byte(byte, count))
}

fn longer(read: Read, by: usize) -> Read {
    match read {
        Read::Byte(byte, length) => Read::Byte(byte, length + by),
        Read::Cut => Read::Cut,
    }
}

fn digit(value: u8) -> u8 {
    b"0123456789ABCDEF".get(usize::from(value)).copied().unwrap_or_default()
}

/// A query with its values in their places.
///
/// # Errors
/// A value cannot be had or stand before what the sandbox wrote, or the query would be longer than any head.
pub fn query(Text(parts): &Text, secrets: &Secrets) -> Result<Zeroizing<Vec<u8>>, InjectError> {
    // Room for all from the start: a vector that grows leaves copies behind.
    let mut query = Zeroizing::new(Vec::with_capacity(limits::HEAD_BYTES));
    for part in parts {
        let value;
        let written = match part {
            Part::Literal(text) => text.as_bytes(),
            Part::Secret(name) => {
                let found = secrets.value(name).ok_or_else(|| InjectError::Missing(name.clone()))?;
                if found.expose(is_unfinished) {
                    return Err(InjectError::Unfinished(name.clone()));
                }
                value = found.expose(|value| Manner::Form.escape_all(value));
                &value
            }
        };
        if query.len() + written.len() > limits::HEAD_BYTES {
            return Err(InjectError::TooLong);
        }
        query.extend_from_slice(written);
    }
    Ok(query)
}

/// A query in parts, the secret in the place of each of these placeholders; `None` if there is none.
pub(super) fn parts<'a>(
    query: &str,
    texts: impl Iterator<Item = (&'a SecretName, &'a str)> + Clone,
) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let (mut from, mut at) = (0, 0);
    while at < query.len() {
        let rest = query.as_bytes().get(at..).unwrap_or_default();
        let before = query.as_bytes().get(from..at).unwrap_or_default();
        let found = texts.clone().filter(|_| may_follow(before)).find_map(|(name, text)| {
            match Manner::Form.walk(rest, text.as_bytes()) {
                Walk::Whole(length) => Some((name, length)),
                Walk::Cut | Walk::Nowhere => None,
            }
        });
        match found {
            Some((name, length)) => {
                // Both ends of what is ASCII are ends of characters.
                let before = query.get(from..at)?;
                parts.extend((!before.is_empty()).then(|| Part::Literal(before.to_owned())));
                parts.push(Part::Secret(name.clone()));
                at += length;
                from = at;
            }
            None => at += 1,
        }
    }
    let rest = query.get(from..)?;
    let is_found = !parts.is_empty();
    parts.extend((!rest.is_empty()).then(|| Part::Literal(rest.to_owned())));
    is_found.then_some(parts)
}

/// Whether a value may stand behind this, and is read as it is.
fn may_follow(before: &[u8]) -> bool {
    let before = before.get(before.len().saturating_sub(ESCAPE)..).unwrap_or_default();
    let is_begun = match before {
        [.., b'%', high, low] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit() && !matches!(high, b'0'..=b'7'),
        _ => before.last().is_some_and(|byte| !byte.is_ascii()),
    };
    !is_begun && !ends_in_escape(before)
}

/// Whether a value ends where an escape may not be over yet: whoever reads it once more takes what the sandbox wrote
/// behind it for the rest, and shows all but its end under another name.
fn is_unfinished(value: &[u8]) -> bool {
    ends_in_escape(value.get(value.len().saturating_sub(ESCAPE)..).unwrap_or_default())
}

/// A placeholder, and what takes its place.
struct Wanted {
    text: Box<[u8]>,
    /// As the text writes it; `None` if it cannot be had.
    value: Option<Bytes>,
}

/// A piece of a text on its way.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// What the sandbox wrote.
    Text(Bytes),
    /// A value.
    Value(Bytes),
    /// A placeholder whose value cannot be had: nothing more may be sent.
    Missing,
}

/// Replaces placeholders in a body that arrives in pieces.
pub struct Replacer {
    manner: Manner,
    parts: Option<Parts>,
    wanted: Vec<Wanted>,
    /// The bytes that a placeholder may begin with.
    firsts: [bool; 256],
    /// What may be the beginning of a placeholder.
    kept: Bytes,
    /// What the sandbox wrote last, up to there.
    last: Vec<u8>,
    /// Whether a byte has passed that tells of another charset; in parts, they know.
    is_foreign: bool,
    left: usize,
}

impl Replacer {
    /// For a body of this type (RFC 9110 §8.3) and these placeholders.
    pub(super) fn new<'a>(
        media_type: Option<&str>,
        texts: impl Iterator<Item = (&'a SecretName, &'a str)>,
        secrets: &Secrets,
    ) -> Self {
        let (manner, parts) = read_type(media_type.unwrap_or_default());
        let left = if is_utf8(media_type.unwrap_or_default()) { limits::PLACEHOLDER_TIMES } else { 0 };
        let wanted: Vec<Wanted> = texts
            .map(|(name, text)| {
                let value = secrets.value(name).and_then(|value| value.expose(|value| manner.write(value)));
                Wanted { text: text.as_bytes().into(), value: value.map(Bytes::from_owner) }
            })
            .collect();
        let begins = wanted.iter().filter_map(|wanted| wanted.text.first().copied()).chain(manner.escape());
        let mut firsts = [false; 256];
        for first in begins {
            firsts.iter_mut().skip(usize::from(first)).take(1).for_each(|is_first| *is_first = true);
        }
        Self { manner, parts, wanted, firsts, kept: Bytes::new(), last: Vec::new(), is_foreign: false, left }
    }

    /// Takes the next piece, and gives what may go.
    #[must_use]
    pub fn feed(&mut self, piece: Bytes) -> Vec<Piece> {
        let kept = std::mem::take(&mut self.kept);
        let text = if kept.is_empty() { piece } else { [kept, piece].concat().into() };
        let (mut from, mut at, mut out) = (0, 0, Vec::new());
        while let Some(next) = self.next(&text, at) {
            let rest = text.get(next..).unwrap_or_default();
            self.pass(text.get(at..next).unwrap_or_default());
            at = next;
            match self.look(rest) {
                (_, Walk::Cut) => {
                    self.kept = text.slice(at..);
                    out.extend((from < at).then(|| Piece::Text(text.slice(from..at))));
                    return out;
                }
                (Some(wanted), Walk::Whole(length)) if self.may_replace() => {
                    out.extend((from < at).then(|| Piece::Text(text.slice(from..at))));
                    out.push(wanted.map_or(Piece::Missing, Piece::Value));
                    self.left -= 1;
                    self.pass(rest.get(..length).unwrap_or_default());
                    self.last.clear();
                    at += length;
                    from = at;
                }
                _ => {
                    self.pass(rest.get(..1).unwrap_or_default());
                    at += 1;
                }
            }
        }
        self.pass(text.get(at..).unwrap_or_default());
        out.extend((from < text.len()).then(|| Piece::Text(text.slice(from..))));
        out
    }

    /// The body is at its end: what was kept is no placeholder.
    #[must_use]
    pub fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.kept)
    }

    /// Where a placeholder may begin next.
    fn next(&self, text: &[u8], from: usize) -> Option<usize> {
        let is_first = |byte: &u8| self.firsts.get(usize::from(*byte)).copied().unwrap_or_default();
        Some(from + text.get(from..)?.iter().position(is_first)?)
    }

    /// The placeholder that begins here, and how far it goes.
    fn look(&self, text: &[u8]) -> (Option<Option<Bytes>>, Walk) {
        let mut is_cut = false;
        for wanted in &self.wanted {
            match self.manner.walk(text, &wanted.text) {
                Walk::Whole(length) => return (Some(wanted.value.clone()), Walk::Whole(length)),
                Walk::Cut => is_cut = true,
                Walk::Nowhere => {}
            }
        }
        (None, if is_cut { Walk::Cut } else { Walk::Nowhere })
    }

    fn may_replace(&self) -> bool {
        let is_text = self.parts.as_ref().map_or(!self.is_foreign, Parts::is_within);
        self.left > 0 && is_text && may_follow(&self.last)
    }

    fn pass(&mut self, text: &[u8]) {
        match &mut self.parts {
            Some(parts) => parts.pass(text),
            None => self.is_foreign |= is_foreign(text),
        }
        let (surplus, fresh) =
            ((self.last.len() + text.len()).saturating_sub(ESCAPE), text.len().saturating_sub(ESCAPE));
        self.last.drain(..surplus.min(self.last.len()));
        self.last.extend_from_slice(text.get(fresh..).unwrap_or_default());
    }
}

/// How a text of this type writes what stands in it.
fn read_type(media_type: &str) -> (Manner, Option<Parts>) {
    let (essence, parameters) = media_type.split_once(';').unwrap_or((media_type, ""));
    let essence = essence.trim().to_ascii_lowercase();
    let is_json = essence.ends_with("/json")
        || essence.ends_with("+json")
        || ["application/jsonl", "application/x-ndjson", "application/json-seq"].contains(&&*essence);
    match &*essence {
        "application/x-www-form-urlencoded" => (Manner::Form, None),
        _ if is_json => (Manner::Json, None),
        _ if essence.starts_with("multipart/") => (Manner::Plain, Some(Parts::new(parameters))),
        _ => (Manner::Plain, None),
    }
}

/// Whether a text has bytes that tell of another charset: UTF-8 has two of them never, and texts have no other.
fn is_foreign(text: &[u8]) -> bool {
    const ESC: u8 = 0x1b;
    memchr::memchr2(0, ESC, text).or_else(|| memchr::memchr2(0xfe, 0xff, text)).is_some()
}

/// Whether a text of this type is said to be in UTF-8, or in ASCII, or nothing is said.
fn is_utf8(media_type: &str) -> bool {
    let said = media_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let mut charsets =
        said.filter(|(name, _)| name.trim().to_ascii_lowercase().starts_with("charset")).map(|(_, value)| value);
    charsets.all(|charset| {
        let charset = charset.trim().trim_matches('"');
        ["utf-8", "utf8", "us-ascii", "ascii"].iter().any(|known| charset.eq_ignore_ascii_case(known))
    })
}

/// Whether one stands in what a part of a multipart body holds (RFC 2046 §5.1).
struct Parts {
    /// Two dashes and the boundary, which some find at the beginning of a line alone, and do not agree what a line is;
    /// `None` where it cannot be read: then there is no part.
    delimiter: Option<Box<[u8]>>,
    /// The last bytes that passed, as many as matter.
    last: Vec<u8>,
    /// The head of a part, as far as it is there.
    head: Vec<u8>,
    at: At,
}

/// Where in a multipart body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before the first delimiter.
    Before,
    /// Behind a delimiter, up to an empty line.
    Head,
    /// In what a part holds.
    Within,
    /// In what a part holds, which is no text that is read as it stands.
    Coded,
}

impl Parts {
    fn new(parameters: &str) -> Self {
        let said = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
        let said = said.map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()));
        // Where several are said, also as RFC 2231 has it, not all read the same.
        let mut said = said.filter(|(name, _)| name.starts_with("boundary"));
        let sole = match (said.next(), said.next()) {
            (Some((name, value)), None) if name == "boundary" => Some(value),
            _ => None,
        };
        let plain =
            |value: &str| value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte));
        let boundary =
            sole.map(|value| value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value));
        let boundary = boundary.filter(|value| (1..=BOUNDARY).contains(&value.len()) && plain(value));
        let delimiter = boundary.map(|boundary| format!("--{boundary}").into_bytes().into());
        Self { delimiter, last: Vec::new(), head: Vec::new(), at: At::Before }
    }

    fn is_within(&self) -> bool {
        self.at == At::Within
    }

    fn pass(&mut self, text: &[u8]) {
        let Some(delimiter) = &self.delimiter else { return };
        for byte in text {
            if self.last.len() == LOOK_BACK {
                self.last.drain(..LOOK_BACK / 2);
            }
            self.last.push(*byte);
            let is_delimiter = delimiter.last() == Some(byte) && self.last.ends_with(delimiter);
            match self.at {
                At::Head => {
                    self.head.extend((self.head.len() < PART_HEAD).then_some(*byte));
                    if !is_delimiter && self.last.ends_with(b"\r\n\r\n") {
                        let is_plain = self.head.len() < PART_HEAD && is_plain(&self.head);
                        self.at = if is_plain { At::Within } else { At::Coded };
                    }
                }
                At::Before | At::Within | At::Coded if is_delimiter => {
                    self.head.clear();
                    self.at = At::Head;
                }
                At::Within if is_foreign(std::slice::from_ref(byte)) => self.at = At::Coded,
                At::Before | At::Within | At::Coded => {}
            }
        }
    }
}

/// Whether what a part of this head holds is read as it stands, whatever makes a line of the head.
fn is_plain(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let has_parts = ["multipart/", "message/"].iter().any(|kind| head.contains(kind));
    let is_coded = head.split("transfer-encoding").skip(1).any(|said| {
        let said = said.trim_start_matches([':', ' ', '\t', '\r', '\n']);
        !["7bit", "8bit", "binary"].iter().any(|coding| said.starts_with(coding))
    });
    !has_parts && !is_coded && !head.contains("content-encoding") && is_utf8(&head.replace(['\r', '\n'], ";"))
}

#[cfg(test)]
mod tests;
