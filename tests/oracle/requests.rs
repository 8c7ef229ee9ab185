//! What a rule's `match` asks of a request (POLICY §3 "Rules of an entry").

use std::cell::RefCell;
use std::collections::HashMap;

use regex::bytes::{Regex, RegexBuilder};

use super::model::{Pair, Request, Text, When};
use super::paths;

thread_local! {
    /// The expressions of the generator are few, and building one takes longer than all else.
    static BUILT: RefCell<HashMap<(String, bool), Regex>> = RefCell::default();
}

/// Whether a rule's match holds for a request whose path is read so.
pub(crate) fn claims(when: Option<&When>, request: &Request, path: &[u8]) -> bool {
    let Some(when) = when else { return true };
    let method = when.methods.is_empty() || when.methods.contains(&request.method);
    let path = when.path.as_ref().is_none_or(|matcher| satisfied(matcher, path, false));
    let query = pairs_of_query(request.query.as_deref().unwrap_or(""));
    let query = when.query.iter().all(|matcher| query.iter().any(|(key, value)| both(matcher, key, value, false)));
    let headers = when.headers.iter().all(|matcher| {
        request.headers.iter().any(|(name, value)| both(matcher, name.as_bytes(), value.as_bytes(), true))
    });
    method && path && query && headers
}

fn both(matcher: &Pair, key: &[u8], value: &[u8], header: bool) -> bool {
    matcher.key.as_ref().is_none_or(|matcher| satisfied(matcher, key, header))
        && matcher.value.as_ref().is_none_or(|matcher| satisfied(matcher, value, false))
}

fn satisfied(matcher: &Text, text: &[u8], any_case: bool) -> bool {
    let cased = |text: &[u8]| if any_case { text.to_ascii_lowercase() } else { text.to_vec() };
    match matcher {
        Text::Exact(exact) => cased(exact.as_bytes()) == cased(text),
        Text::StartsWith(start) => cased(text).starts_with(&cased(start.as_bytes())),
        Text::Regex(regex) => BUILT.with_borrow_mut(|built| {
            let build = || RegexBuilder::new(regex).case_insensitive(any_case).build().expect("an expression");
            built.entry((regex.clone(), any_case)).or_insert_with(build).is_match(text)
        }),
        Text::Glob(glob) => glob_holds(glob, text),
    }
}

/// Braces are written out, then each pattern is tried.
fn glob_holds(glob: &str, text: &[u8]) -> bool {
    if let Some((before, rest)) = glob.split_once('{') {
        let (choices, after) = rest.split_once('}').expect("braces that are closed");
        return choices.split(',').any(|choice| glob_holds(&format!("{before}{choice}{after}"), text));
    }
    match glob.strip_prefix("**") {
        Some("") => true,
        Some(rest) => {
            let after_slash = (0..text.len()).filter(|place| text[*place] == b'/').map(|place| &text[place + 1..]);
            let rest = rest.strip_prefix('/').expect("`**` is a whole segment").as_bytes();
            holds(rest, text) || after_slash.into_iter().any(|text| holds(rest, text))
        }
        None => holds(glob.as_bytes(), text),
    }
}

/// The table of the engine's documentation, one sign after the other.
fn holds(glob: &[u8], text: &[u8]) -> bool {
    let slashes = |text: &[u8]| -> Vec<usize> { (0..text.len()).filter(|place| text[*place] == b'/').collect() };
    match glob {
        [] => text.is_empty(),
        b"/**" => text.first() == Some(&b'/'),
        [b'/', b'*', b'*', b'/', rest @ ..] => {
            text.first() == Some(&b'/') && slashes(text).into_iter().any(|place| holds(rest, &text[place + 1..]))
        }
        [b'*', rest @ ..] => {
            let longest = slashes(text).first().copied().unwrap_or(text.len());
            (0..=longest).any(|taken| holds(rest, &text[taken..]))
        }
        [sign, rest @ ..] => {
            let Some((byte, text)) = text.split_first() else { return false };
            match (sign, rest) {
                (b'?', _) => *byte != b'/' && holds(rest, text),
                (b'\\', [sign, rest @ ..]) => byte == sign && holds(rest, text),
                (b'[', _) => {
                    let end = rest.iter().position(|sign| *sign == b']').expect("a class that is closed");
                    let (not, class) = match &rest[..end] {
                        [b'!', class @ ..] => (true, class),
                        class => (false, class),
                    };
                    *byte != b'/' && in_class(class, *byte) != not && holds(&rest[end + 1..], text)
                }
                _ => byte == sign && holds(rest, text),
            }
        }
    }
}

fn in_class(class: &[u8], byte: u8) -> bool {
    match class {
        [first, b'-', last, rest @ ..] => (*first..=*last).contains(&byte) || in_class(rest, byte),
        [one, rest @ ..] => *one == byte || in_class(rest, byte),
        [] => false,
    }
}

/// The pairs of a query, decoded once as forms are (the engine's documentation; the page says no more than "pairs").
fn pairs_of_query(query: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let decoded = |text: &str| paths::unescaped(text.replace('+', " ").as_bytes());
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let mut halves = pair.splitn(2, '=');
            (decoded(halves.next().unwrap_or("")), decoded(halves.next().unwrap_or("")))
        })
        .collect()
}
