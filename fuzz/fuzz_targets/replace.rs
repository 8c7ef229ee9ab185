//! Whatever a sandbox sends in a body or a query, and however it is cut: what it wrote itself goes out as it was, each
//! placeholder that stands in a lawful place is replaced, what goes out in its place is read back as the value, and no
//! placeholder goes out. Whoever reads what goes out reads the value as it is, so that an echo of it is struck out.
//!
//! Input: the type of the body (one byte), the length of the value (one byte), the lengths of the first pieces (four
//! bytes), the value, and the text, in which each of the bytes 0x80 to 0x8f stands for one of [`token`].

#![no_main]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use exeat::flow::SecretName;
use exeat::limits;
use exeat::policy::placeholder::Known as _;
use exeat::policy::verdict::{Part, Text};
use exeat::secret::placeholder::{Placeholders, Stop};
use exeat::secret::replace::{self, Piece};
use exeat::secret::scrub::{Scrubber, ends_in_escape};
use exeat::secret::{Secret, Secrets};
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

/// No end of either is a beginning of one.
const HELD: &str = "ph-One_0123456789/x";
const OTHER: &str = "sk-Two_9876543210+y";

const TYPES: [&str; 8] = [
    "text/plain",
    "application/x-www-form-urlencoded; charset=utf-8",
    "application/json",
    "multipart/form-data; boundary=b",
    "application/octet-stream",
    "application/vnd.api+json",
    "multipart/mixed; boundary=\"-b\"",
    "text/plain; charset=utf-16",
];

/// How a reader reads a text, by the type of its body.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Plain,
    Json,
    Form,
}

/// What stands in a text for one of its bytes.
fn token(byte: u8) -> Option<String> {
    let each = |text: &str, spelled: fn(u8) -> String| text.bytes().map(spelled).collect::<String>();
    let half = |text: &str, spelled: fn(u8) -> String| {
        text.bytes()
            .enumerate()
            .map(|(at, byte)| if at % 2 == 0 { spelled(byte) } else { char::from(byte).into() })
            .collect()
    };
    let percent = |byte| format!("%{byte:02x}");
    let json = |byte| format!("\\u{byte:04X}");
    Some(match byte {
        0x80 => HELD.to_owned(),
        0x81 => each(HELD, percent),
        0x82 => each(HELD, json),
        0x83 => half(HELD, percent),
        0x84 => half(HELD, json),
        0x85 => HELD.replace('/', "\\/"),
        0x86 => OTHER.to_owned(),
        0x87 => each(OTHER, percent),
        0x88 => BASE64_STANDARD.encode(HELD),
        0x89 => HELD.split_at(9).0.to_owned(),
        0x8a => HELD.split_at(9).1.to_owned(),
        0x8b => "\r\n--b\r\n".to_owned(),
        0x8c => "\r\n\r\n".to_owned(),
        0x8d => HELD.repeat(limits::PLACEHOLDER_TIMES),
        0x8e => HELD.replace('_', "%255f"),
        0x8f => "\r\n---b".to_owned(),
        _ => return None,
    })
}

fuzz_target!(|input: &[u8]| {
    let Some(([kind, length, cuts @ ..], rest)) = input.split_first_chunk::<6>() else { return };
    let length = (limits::SCRUB_SHORTEST + usize::from(*length) % 64).min(rest.len());
    let (value, coded) = rest.split_at(length);
    // What a source gives has no newline at its end; what ends like an escape is not replaced. Marks may make up a
    // value that holds some, which tells nothing.
    if length < limits::SCRUB_SHORTEST || value.ends_with(b"\n") || value.contains(&b'*') || ends_in_escape(value) {
        return;
    }
    let text: Vec<u8> = coded.iter().flat_map(|byte| token(*byte).map_or(vec![*byte], String::into_bytes)).collect();
    let key = SecretName::new("KEY").expect("a name");
    let texts = [("KEY", HELD), ("OTHER", OTHER)];
    let texts = texts.map(|(name, text)| (SecretName::new(name).expect("a name"), text.to_owned()));
    let known = Arc::new(Placeholders::of(BTreeMap::from(texts)));
    let secrets = Secrets::default();
    secrets.insert(key.clone(), Secret::new(Zeroizing::new(value.to_vec())));
    let case = Case { media_type: TYPES[usize::from(*kind) % TYPES.len()], value, known, key, secrets };

    let pieces = case.replaced(&text, &[]);
    let lengths = cuts.map(usize::from);
    assert_eq!(pieces, case.replaced(&text, &lengths), "what is replaced depends on how it is cut");
    let is_there = case.check(&text, &pieces);
    let sent = case.sent(&text, &[]);
    assert_eq!(sent, case.sent(&text, &lengths), "what is sent depends on how it is cut");
    match sent {
        Ok(sent) => {
            assert_eq!(sent, joined(&pieces));
            case.check_sent(&pieces);
        }
        Err(Stop::Lacking) => assert!(is_there && case.manner() == Manner::Json && std::str::from_utf8(value).is_err()),
        Err(Stop::Misdirected) => {}
    }
    if let Ok(query) = std::str::from_utf8(&text) {
        case.query(query);
    }
});

struct Case<'a> {
    media_type: &'a str,
    value: &'a [u8],
    known: Arc<Placeholders>,
    key: SecretName,
    secrets: Secrets,
}

impl Case<'_> {
    fn manner(&self) -> Manner {
        match self.media_type {
            kind if kind.contains("json") => Manner::Json,
            kind if kind.contains("form-urlencoded") => Manner::Form,
            _ => Manner::Plain,
        }
    }

    /// What becomes of a text, cut into pieces of these lengths and a rest.
    fn replaced(&self, text: &[u8], lengths: &[usize]) -> Vec<Piece> {
        let replacer = self.known.replacer([&self.key].into_iter(), Some(self.media_type), &self.secrets);
        let mut replacer = replacer.expect("it has a placeholder");
        let mut out = Vec::new();
        for piece in cut(text, lengths) {
            out.extend(replacer.feed(piece));
        }
        out.push(Piece::Text(replacer.finish()));
        // Where a text is cut tells nothing.
        let mut merged: Vec<Piece> = Vec::new();
        for piece in out {
            match (merged.last_mut(), piece) {
                (_, Piece::Text(text)) if text.is_empty() => {}
                (Some(Piece::Text(last)), Piece::Text(text)) => *last = [last.as_ref(), &text].concat().into(),
                (_, piece) => merged.push(piece),
            }
        }
        merged
    }

    /// What goes out of it.
    fn sent(&self, text: &[u8], lengths: &[usize]) -> Result<Vec<u8>, Stop> {
        let replacer = self.known.replacer([&self.key].into_iter(), Some(self.media_type), &self.secrets);
        let mut outgoing = self.known.outgoing(replacer.map(Box::new));
        let mut out: Vec<Bytes> = Vec::new();
        for piece in cut(text, lengths) {
            outgoing.feed(piece, &mut out)?;
        }
        outgoing.finish(&mut out)?;
        Ok(out.concat())
    }

    /// That all else is as it was, and that what was to be replaced is; whether anything was.
    fn check(&self, text: &[u8], pieces: &[Piece]) -> bool {
        let mut at = 0;
        let mut times = 0;
        let mut written = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Text(piece) => {
                    let until = at + piece.len();
                    assert!(text.get(at..until).is_some_and(|was| was == &**piece), "what was written is changed");
                    for place in at..until {
                        let missed = spelled(&text[place..], HELD, self.manner()).is_some()
                            && self.is_lawful(text, place)
                            && times < limits::PLACEHOLDER_TIMES;
                        assert!(!missed, "a placeholder is left at {place}");
                    }
                    written.extend_from_slice(piece);
                    at = until;
                }
                Piece::Value(_) | Piece::Missing => {
                    at += spelled(&text[at..], HELD, self.manner()).expect("a placeholder stood there");
                    times += 1;
                    if let Piece::Value(piece) = piece {
                        self.check_value(&written, piece);
                        written.extend_from_slice(piece);
                    }
                }
            }
        }
        assert_eq!(at, text.len(), "the end is lost");
        assert!(times <= limits::PLACEHOLDER_TIMES && (times == 0 || !self.media_type.contains("utf-16")));
        times > 0
    }

    /// Whether a placeholder must be replaced at this place; it may be at others.
    fn is_lawful(&self, text: &[u8], place: usize) -> bool {
        let before = &text[..place];
        let near = &before[before.len().saturating_sub(16)..];
        let is_plain = near.iter().all(|byte| byte.is_ascii_alphanumeric() || b" \"'{}[]:;,.-_/\r\n".contains(byte));
        if self.media_type.contains("utf-16") || !is_plain {
            return false;
        }
        if !self.media_type.starts_with("multipart") {
            return !is_foreign(before);
        }
        let delimiter: &[u8] = if self.media_type.ends_with("-b\"") { b"---b" } else { b"--b" };
        let mut at = 0;
        while let Some(head) = find(text, delimiter, at).map(|found| found + delimiter.len()) {
            let Some(within) = find(text, b"\r\n\r\n", head).map(|found| found + 4) else { return false };
            let end = find(text, delimiter, within).map_or(text.len(), |found| found + delimiter.len() - 1);
            if (within..end).contains(&place) {
                let head = String::from_utf8_lossy(&text[head..within]).to_ascii_lowercase();
                let is_plain = ["multipart", "message", "encoding", "charset"].iter().all(|word| !head.contains(word));
                return is_plain && head.len() < 1024 && !is_foreign(&text[within..place]);
            }
            at = within;
        }
        false
    }

    /// That the value is read back from what stands there, whatever reads it, and in an echo of it is struck out.
    fn check_value(&self, before: &[u8], piece: &[u8]) {
        let read = match self.manner() {
            Manner::Plain => piece.to_vec(),
            Manner::Form => {
                assert!(piece.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(byte)));
                unescaped(piece, b'%', "", 2)
            }
            Manner::Json => {
                let text = format!("\"{}\"", std::str::from_utf8(piece).expect("UTF-8"));
                serde_json::from_str::<String>(&text).expect("JSON").into_bytes()
            }
        };
        assert_eq!(read, self.value);
        let near = &before[before.len().saturating_sub(32)..];
        for reader in READERS {
            let (apart, joint) = ([reader(near), reader(piece)].concat(), reader(&[near, piece].concat()));
            assert_eq!(apart, joint, "it is read together with what stands before it: {}", near.escape_ascii());
        }
    }

    /// That of what goes out, nothing that the sandbox wrote is a placeholder, and every value is found in an echo.
    fn check_sent(&self, pieces: &[Piece]) {
        for piece in pieces {
            let Piece::Text(text) = piece else { continue };
            for held in [HELD, OTHER] {
                let backwards: Vec<u8> = held.bytes().rev().collect();
                let coded = BASE64_STANDARD.encode(held);
                for form in [held.as_bytes(), &backwards, coded.trim_end_matches('=').as_bytes()] {
                    assert!(!text.windows(form.len()).any(|part| part == form), "a placeholder goes out");
                }
                for manner in [Manner::Form, Manner::Json] {
                    assert!(
                        (0..text.len()).all(|at| spelled(&text[at..], held, manner).is_none()),
                        "it goes out escaped"
                    );
                }
            }
        }
        let scrubber = Scrubber::new([&Secret::new(Zeroizing::new(self.value.to_vec()))]);
        for piece in pieces {
            let Piece::Value(value) = piece else { continue };
            assert!(scrubber.strike(value).is_some_and(|struck| struck.iter().all(|byte| *byte == b'*')));
        }
    }

    /// The same of a query.
    fn query(&self, query: &str) {
        let Some(parts) = self.known.query_parts(query) else { return };
        let mut rest = query.as_bytes();
        for part in &parts {
            let length = match part {
                Part::Literal(text) => rest.starts_with(text.as_bytes()).then_some(text.len()),
                Part::Secret(name) => {
                    let held = if *name == self.key { HELD } else { OTHER };
                    spelled(rest, held, Manner::Form)
                }
            };
            rest = &rest[length.expect("it is as it was")..];
        }
        assert!(rest.is_empty());
        if parts.iter().any(|part| matches!(part, Part::Secret(name) if *name != self.key)) {
            return;
        }
        let Ok(sent) = replace::query(&Text(parts.clone()), &self.secrets) else {
            assert!(query.len() + 3 * self.value.len() * parts.len() > limits::HEAD_BYTES);
            return;
        };
        let escaped: String = self.value.iter().fold(String::new(), |mut text, byte| {
            write!(text, "%{byte:02x}").expect("a string");
            text
        });
        let each: Vec<u8> = parts.iter().fold(Vec::new(), |mut all, part| {
            match part {
                Part::Literal(text) => all.extend_from_slice(text.as_bytes()),
                Part::Secret(_) => all.extend_from_slice(escaped.as_bytes()),
            }
            all
        });
        assert_eq!(unescaped(&sent, b'%', "", 2), unescaped(&each, b'%', "", 2));
    }
}

fn joined(pieces: &[Piece]) -> Vec<u8> {
    let text = |piece: &Piece| match piece {
        Piece::Text(text) | Piece::Value(text) => text.clone(),
        Piece::Missing => Bytes::new(),
    };
    pieces.iter().map(text).collect::<Vec<_>>().concat()
}

fn cut(text: &[u8], lengths: &[usize]) -> Vec<Bytes> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    for length in lengths.iter().copied().chain([usize::MAX]) {
        let (piece, after) = rest.split_at(rest.len().min(length));
        pieces.push(Bytes::copy_from_slice(piece));
        rest = after;
    }
    pieces
}

fn find(text: &[u8], wanted: &[u8], from: usize) -> Option<usize> {
    (from..text.len()).find(|at| text[*at..].starts_with(wanted))
}

/// Whether a byte tells of another charset than UTF-8.
fn is_foreign(text: &[u8]) -> bool {
    text.iter().any(|byte| [0, 0x1b, 0xfe, 0xff].contains(byte))
}

/// How long a placeholder is that stands here, each of its letters as it is or escaped once.
fn spelled(text: &[u8], held: &str, manner: Manner) -> Option<usize> {
    let mut rest = text;
    for letter in held.bytes() {
        let spellings = match manner {
            Manner::Plain => vec![],
            Manner::Form => vec![format!("%{letter:02x}")],
            Manner::Json => vec![format!("\\u{letter:04x}"), format!("\\{}", char::from(letter))],
        };
        let is_short = |spelling: &String| spelling.len() > 2 || letter == b'/';
        let mut lengths = spellings.iter().filter(|spelling| is_short(spelling)).filter_map(|spelling| {
            let there = rest.get(..spelling.len())?;
            (there[..2] == spelling.as_bytes()[..2] && there.eq_ignore_ascii_case(spelling.as_bytes()))
                .then_some(spelling.len())
        });
        let plain = rest.first() == Some(&letter);
        let length = if plain { 1 } else { lengths.next()? };
        rest = &rest[length..];
    }
    Some(text.len() - rest.len())
}

/// Those who read a text, generously: as it is, as a URL, as JSON or a program, as HTML.
const READERS: [fn(&[u8]) -> Vec<u8>; 5] = [
    |text| text.to_vec(),
    |text| unescaped(text, b'%', "", 2),
    |text| unescaped(text, b'\\', "u00", 2),
    |text| unescaped(text, b'\\', "x", 2),
    |text| unescaped(text, b'&', "#x", 2),
];

/// A text with what is escaped by this byte, these letters and so many hexadecimal digits as the byte that it says.
fn unescaped(text: &[u8], escape: u8, letters: &str, digits: usize) -> Vec<u8> {
    let (mut read, mut rest) = (Vec::new(), text);
    while let Some((first, behind)) = rest.split_first() {
        let coded = || {
            let digits = behind.strip_prefix(letters.as_bytes())?.get(..digits)?;
            let digits =
                std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
            u8::from_str_radix(digits, 16).ok()
        };
        match coded().filter(|_| *first == escape) {
            Some(byte) => {
                read.push(byte);
                rest = &behind[letters.len() + digits..];
            }
            None => {
                read.push(*first);
                rest = behind;
            }
        }
    }
    read
}
