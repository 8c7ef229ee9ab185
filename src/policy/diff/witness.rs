//! Requests that satisfy matchers: what two policies are asked about, so that a difference shows.
//!
//! A witness of an expression is read off its syntax tree, and then tried: what the matcher itself does not take is no
//! witness. That none is found does not say that there is none.

use http::{HeaderMap, HeaderName, HeaderValue};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind};

use crate::matcher::path::fully_decoded;
use crate::matcher::request::{PairMatch, RequestMatch, TextMatch};

/// Bytes of a witness; what takes more has none.
const BYTES: usize = 1024;
/// Ways of choosing between alternatives, and of how often something is repeated.
const VARIANTS: usize = 6;

/// A request without its method.
#[derive(Debug, Clone)]
pub(super) struct Witness {
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) headers: HeaderMap,
}

/// Requests that probably satisfy all of these at once, their methods aside.
pub(super) fn requests(matches: &[&RequestMatch]) -> Vec<Witness> {
    let Some(query) = query(matches) else { return Vec::new() };
    let Some(headers) = headers(matches) else { return Vec::new() };
    let paths = paths(matches).into_iter();
    paths.map(|path| Witness { path, query: query.clone(), headers: headers.clone() }).collect()
}

/// Paths that mean one thing only, and that all the matchers take.
fn paths(matches: &[&RequestMatch]) -> Vec<String> {
    let matchers: Vec<&TextMatch> = matches.iter().filter_map(|each| each.path.as_ref()).collect();
    let mut found: Vec<Vec<u8>> = matchers.iter().flat_map(|matcher| texts(matcher)).collect();
    // Of a beginning and something else: the one and then the other.
    for matcher in &matchers {
        let TextMatch::StartsWith(start) = matcher else { continue };
        for other in matchers.iter().flat_map(|matcher| texts(matcher)) {
            found.push([start.trim_end_matches('/').as_bytes(), b"/", trimmed(&other)].concat());
        }
    }
    found.extend(["/", "/any", "/any/any"].map(|path| path.as_bytes().to_vec()));
    let mut paths: Vec<String> = Vec::new();
    for text in found {
        for path in [text.clone(), [b"/", trimmed(&text)].concat()] {
            let Ok(path) = String::from_utf8(path) else { continue };
            let sendable = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && !b"?#".contains(&b));
            let taken = matchers.iter().all(|matcher| matcher.matches(path.as_bytes()));
            if sendable && taken && *fully_decoded(&path) == *path.as_bytes() && !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    paths
}

fn trimmed(text: &[u8]) -> &[u8] {
    let slashes = text.iter().take_while(|b| **b == b'/').count();
    text.get(slashes..).unwrap_or_default()
}

/// A query that satisfies every matcher of queries; `None` if there is none to be had.
fn query(matches: &[&RequestMatch]) -> Option<Option<String>> {
    let mut pairs: Vec<String> = Vec::new();
    for pair in matches.iter().flat_map(|each| &each.query) {
        let (key, value) = pair_texts(pair)?;
        let mut text = String::new();
        form_encode(&key, &mut text);
        text.push('=');
        form_encode(&value, &mut text);
        if !pairs.contains(&text) {
            pairs.push(text);
        }
    }
    Some((!pairs.is_empty()).then(|| pairs.join("&")))
}

fn form_encode(text: &[u8], into: &mut String) {
    for byte in text {
        match byte {
            b'-' | b'.' | b'_' => into.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => into.push(char::from(*byte)),
            byte => into.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// Headers that satisfy every matcher of headers; `None` if there are none to be had.
fn headers(matches: &[&RequestMatch]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in matches.iter().flat_map(|each| &each.headers) {
        let (key, value) = pair_texts(pair)?;
        headers.append(HeaderName::from_bytes(&key).ok()?, HeaderValue::from_bytes(&value).ok()?);
    }
    Some(headers)
}

fn pair_texts(pair: &PairMatch) -> Option<(Vec<u8>, Vec<u8>)> {
    let one = |matcher: &Option<TextMatch>| match matcher {
        Some(matcher) => texts(matcher).into_iter().find(|text| matcher.matches(text)),
        None => Some(b"any".to_vec()),
    };
    Some((one(&pair.key)?, one(&pair.value)?))
}

/// Texts that the matcher may take.
fn texts(matcher: &TextMatch) -> Vec<Vec<u8>> {
    match matcher {
        TextMatch::Exact(text) => vec![text.clone().into_bytes()],
        TextMatch::StartsWith(start) => {
            let longer = format!("{start}any");
            vec![start.clone().into_bytes(), longer.into_bytes()]
        }
        TextMatch::Regex(regex) | TextMatch::Glob { text: _, regex } => {
            let parsed = ParserBuilder::new().utf8(false).build().parse(regex.as_str());
            let Ok(tree) = parsed else { return Vec::new() };
            let mut texts = Vec::new();
            for variant in 0..VARIANTS {
                let mut text = Vec::new();
                if spell(&tree, variant, &mut text).is_some() && !texts.contains(&text) {
                    texts.push(text);
                }
            }
            texts
        }
    }
}

/// Appends a text that the expression matches, its anchors aside; `None` if it would be too long, or if there is none.
fn spell(tree: &Hir, variant: usize, text: &mut Vec<u8>) -> Option<()> {
    match tree.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => text.extend_from_slice(&literal.0),
        HirKind::Class(class) => choose(class, text)?,
        HirKind::Capture(group) => spell(&group.sub, variant, text)?,
        HirKind::Concat(parts) => parts.iter().try_for_each(|part| spell(part, variant, text))?,
        HirKind::Alternation(parts) => spell(parts.get(variant.checked_rem(parts.len())?)?, variant, text)?,
        HirKind::Repetition(repetition) => {
            let most = repetition.max.unwrap_or(u32::MAX);
            // Once, as far as that is possible, and never; a variant later the other way about.
            let wanted = u32::from(variant.is_multiple_of(2));
            for _ in 0..wanted.max(repetition.min).min(most) {
                spell(&repetition.sub, variant, text)?;
                if text.len() > BYTES {
                    return None;
                }
            }
        }
    }
    (text.len() <= BYTES).then_some(())
}

/// Appends a character of a class: a plain one, if there is one.
fn choose(class: &Class, text: &mut Vec<u8>) -> Option<()> {
    let ranges: Vec<(u32, u32)> = match class {
        Class::Unicode(class) => class.iter().map(|range| (range.start().into(), range.end().into())).collect(),
        Class::Bytes(class) => class.iter().map(|range| (range.start().into(), range.end().into())).collect(),
    };
    let holds = |c: &u8| ranges.iter().any(|(from, to)| (*from..=*to).contains(&u32::from(*c)));
    let plain = (b'a'..=b'z').chain(b'A'..=b'Z').chain(b'0'..=b'9').chain(*b"-._~/");
    match plain.chain(b' '..=b'~').find(holds) {
        Some(byte) => text.push(byte),
        None => {
            let first = char::from_u32(ranges.first()?.0)?;
            text.extend_from_slice(first.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(matcher: TextMatch) -> RequestMatch {
        RequestMatch { path: Some(matcher), ..RequestMatch::default() }
    }

    fn regex(text: &str) -> TextMatch {
        TextMatch::regex(text, false).unwrap()
    }

    fn exact(text: &str) -> TextMatch {
        TextMatch::Exact(text.into())
    }

    fn start(text: &str) -> TextMatch {
        TextMatch::StartsWith(text.into())
    }

    #[test]
    fn what_satisfies_a_matcher_is_found_from_its_text() {
        for matcher in [
            exact("/a/b"),
            start("/repos/"),
            regex("^/[^/]+/[^/]+/git-upload-pack$"),
            regex("^/v1(beta)?/models/[^/]+:((streamG|g)enerateContent|countTokens|embedContent)$"),
            regex("(?i)ADMIN"),
            regex("x{3}"),
            regex("^/(?-u:[\\x61-\\x63])"),
            TextMatch::glob("/v1/{messages,messages/**}").unwrap(),
            TextMatch::glob("/**/raw/[!a]?").unwrap(),
        ] {
            let matched = path(matcher);
            let found = requests(&[&matched]);
            assert!(!found.is_empty(), "{matched:?}");
            for Witness { path, query, headers } in found {
                assert!(matched.matches("GET", path.as_bytes(), query.as_deref(), &headers), "{path}");
            }
        }
    }

    #[test]
    fn what_satisfies_two_at_once_is_found_where_one_leaves_room_for_the_other() {
        for (one, other, found) in [
            (start("/repos/"), regex("/pulls$"), true),
            (start("/repos/"), start("/repos/o/"), true),
            (regex("^/[a-z]+$"), exact("/user"), true),
            (exact("/a"), exact("/b"), false),
            (start("/a"), exact("/b"), false),
        ] {
            let (one, other) = (path(one), path(other));
            assert_eq!(!requests(&[&one, &other]).is_empty(), found, "{one:?} {other:?}");
        }
    }

    #[test]
    fn a_query_and_headers_are_made_to_match() {
        let pair = |key, value| PairMatch { key, value };
        let matched = RequestMatch {
            query: vec![pair(Some(exact("q x")), Some(exact("a&b%"))), pair(None, Some(start("z")))],
            headers: vec![pair(Some(TextMatch::regex("^X-K.nd$", true).unwrap()), Some(regex("read|write")))],
            ..RequestMatch::default()
        };
        let found = requests(&[&matched]);
        assert!(!found.is_empty());
        for Witness { path, query, headers } in found {
            assert!(
                matched.matches("GET", path.as_bytes(), query.as_deref(), &headers),
                "{path} {query:?} {headers:?}"
            );
        }
    }

    #[test]
    fn what_no_request_can_hold_has_no_witness() {
        for matched in [
            path(exact("no-slash")),
            path(exact("/a//b")),
            path(exact("/a b")),
            path(regex("a{1000}b{1000}")),
            path(regex("[a&&b]")),
            RequestMatch {
                headers: vec![PairMatch { key: Some(exact("a b")), value: None }],
                ..RequestMatch::default()
            },
        ] {
            assert!(requests(&[&matched]).is_empty(), "{matched:?}");
        }
    }
}
