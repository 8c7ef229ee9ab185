//! What a rule's `match` asks of a request: method, path, query, headers (POLICY §3 "Rules of an entry").
//!
//! A path has two readings, as sent and fully decoded ([`super::path`]); a matcher sees one at a time, and
//! [`crate::policy`] refuses the request if they lead to different rules.
//!
//! `INVARIANT`: every matcher takes time linear in the request; regular expressions have no backtracking, and their
//! compiled size is bounded ([`limits::REGEX_BYTES`]).

use std::borrow::Cow;
use std::fmt;

use http::HeaderMap;
use regex::bytes::{Regex, RegexBuilder};

use super::path::hex_pair;
use crate::limits;

/// One text matcher: `{exact}`, `{startsWith}`, `{regex}` or, for paths, `{glob}`.
#[derive(Debug, Clone)]
pub enum TextMatch {
    /// Equal.
    Exact(String),
    /// Begins so.
    StartsWith(String),
    /// Found anywhere (linear-time, unanchored).
    Regex(Regex),
}

impl TextMatch {
    /// Compiles a regular expression, without regard to case if `any_case`.
    ///
    /// # Errors
    /// The expression is wrong, or larger than [`limits::REGEX_BYTES`] when compiled.
    pub fn regex(text: &str, any_case: bool) -> Result<Self, RegexError> {
        build(text, any_case).map(Self::Regex)
    }

    /// A path pattern: `*` stays in one segment, `**` crosses, all else stands for itself; the whole path is matched.
    ///
    /// # Errors
    /// Too large when compiled.
    pub fn glob(text: &str) -> Result<Self, RegexError> {
        let mut regex = String::from("(?-u)\\A");
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('*') {
            regex.push_str(&regex::escape(literal));
            rest = match after.strip_prefix('*') {
                Some(after) => {
                    regex.push_str("(?s:.*)");
                    after
                }
                None => {
                    regex.push_str("[^/]*");
                    after
                }
            };
        }
        regex.push_str(&regex::escape(rest));
        regex.push_str("\\z");
        build(&regex, false).map(Self::Regex)
    }

    /// Whether `text` satisfies it.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == text,
            Self::StartsWith(start) => text.starts_with(start.as_bytes()),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

fn build(regex: &str, any_case: bool) -> Result<Regex, RegexError> {
    RegexBuilder::new(regex)
        .case_insensitive(any_case)
        .size_limit(limits::REGEX_BYTES)
        .dfa_size_limit(limits::REGEX_BYTES)
        .build()
        .map_err(|fault| match fault {
            regex::Error::CompiledTooBig(_) => RegexError::TooLarge,
            _ => RegexError::Syntax,
        })
}

/// Why a text is no regular expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegexError {
    /// Not an expression; look-around and back-references, which are not linear, are none.
    Syntax,
    /// Larger than [`limits::REGEX_BYTES`] when compiled.
    TooLarge,
}

impl fmt::Display for RegexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "this is not a regular expression (look-around and back-references are not supported)",
            Self::TooLarge => "the regular expression is too large when compiled",
        })
    }
}

impl std::error::Error for RegexError {}

/// A query or header matcher: any pair whose key and value satisfy both parts; a part that is absent is satisfied.
#[derive(Debug, Clone)]
pub struct PairMatch {
    /// Of the name; for headers against its lower-case form.
    pub key: Option<TextMatch>,
    /// Of the value.
    pub value: Option<TextMatch>,
}

impl PairMatch {
    fn matches(&self, key: &[u8], value: &[u8]) -> bool {
        self.key.as_ref().is_none_or(|matcher| matcher.matches(key))
            && self.value.as_ref().is_none_or(|matcher| matcher.matches(value))
    }
}

/// A rule's `match`: every dimension that is present must hold. The default matches every request.
#[derive(Debug, Clone, Default)]
pub struct RequestMatch {
    /// One of these, case-sensitive; empty for any.
    pub methods: Vec<String>,
    /// Of the path without its query.
    pub path: Option<TextMatch>,
    /// Each must be satisfied by some pair of the query.
    pub query: Vec<PairMatch>,
    /// Each must be satisfied by some header field.
    pub headers: Vec<PairMatch>,
}

impl RequestMatch {
    /// Whether a request satisfies it, with `path` the reading to look at.
    #[must_use]
    pub fn matches(&self, method: &str, path: &[u8], query: Option<&str>, headers: &HeaderMap) -> bool {
        let Self { methods, path: path_match, query: query_match, headers: headers_match } = self;
        (methods.is_empty() || methods.iter().any(|other| other == method))
            && path_match.as_ref().is_none_or(|matcher| matcher.matches(path))
            && query_match
                .iter()
                .all(|matcher| query_pairs(query.unwrap_or_default()).any(|(key, value)| matcher.matches(&key, &value)))
            && headers_match.iter().all(|matcher| {
                headers.iter().any(|(name, value)| matcher.matches(name.as_str().as_bytes(), value.as_bytes()))
            })
    }
}

/// The pairs of a query, decoded once as forms are: `+` is a space, a pair without `=` has an empty value.
fn query_pairs(query: &str) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decode(key), form_decode(value))
    })
}

fn form_decode(text: &str) -> Cow<'_, [u8]> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return Cow::Owned(decoded),
            [b'%', high, low, after @ ..] if hex_pair(*high, *low).is_some() => {
                decoded.extend(hex_pair(*high, *low));
                after
            }
            [b'+', after @ ..] => {
                decoded.push(b' ');
                after
            }
            [other, after @ ..] => {
                decoded.push(*other);
                after
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn exact(text: &str) -> TextMatch {
        TextMatch::Exact(text.to_owned())
    }

    fn pair(key: &str, value: Option<&str>) -> PairMatch {
        PairMatch { key: Some(exact(key)), value: value.map(exact) }
    }

    #[test]
    fn dimensions_are_anded_and_methods_ored() {
        let rule = RequestMatch {
            methods: vec!["GET".into(), "HEAD".into()],
            path: Some(TextMatch::StartsWith("/repos/".into())),
            query: vec![pair("a", Some("1")), pair("b", None)],
            headers: vec![pair("x-kind", Some("read"))],
        };
        let read = headers(&[("x-kind", "write"), ("X-Kind", "read")]);
        assert!(rule.matches("GET", b"/repos/x", Some("b=&a=0&a=1"), &read));
        assert!(rule.matches("HEAD", b"/repos/x", Some("a=1&b"), &read));
        assert!(!rule.matches("get", b"/repos/x", Some("a=1&b"), &read), "methods mind case");
        assert!(!rule.matches("GET", b"/Repos/x", Some("a=1&b"), &read), "paths mind case");
        assert!(!rule.matches("GET", b"/repos/x", Some("a=1"), &read), "every query matcher must hold");
        assert!(!rule.matches("GET", b"/repos/x", None, &read));
        assert!(!rule.matches("GET", b"/repos/x", Some("A=1&b"), &read), "query names mind case");
        assert!(!rule.matches("GET", b"/repos/x", Some("a=1&b"), &headers(&[("x-kind", "Read")])));
        assert!(RequestMatch::default().matches("ANY", b"*", None, &HeaderMap::new()));
    }

    #[test]
    fn one_pair_must_satisfy_key_and_value_together() {
        let rule = RequestMatch { query: vec![pair("a", Some("1"))], ..RequestMatch::default() };
        assert!(!rule.matches("GET", b"/", Some("a=2&b=1"), &HeaderMap::new()));
    }

    #[test]
    fn a_query_is_decoded_once_as_forms_are() {
        let rule = RequestMatch { query: vec![pair("q x", Some("a&b%"))], ..RequestMatch::default() };
        assert!(rule.matches("GET", b"/", Some("q+x=a%26b%25"), &HeaderMap::new()));
        assert!(rule.matches("GET", b"/", Some("%71%20x=a%26b%"), &HeaderMap::new()));
        assert!(!rule.matches("GET", b"/", Some("q+x=a%2526b%25"), &HeaderMap::new()));
    }

    #[test]
    fn expressions_are_unanchored_linear_and_bounded() {
        assert!(TextMatch::regex("b+", false).unwrap().matches(b"abc"));
        assert!(!TextMatch::regex("B", false).unwrap().matches(b"abc"));
        assert!(TextMatch::regex("B", true).unwrap().matches(b"abc"));
        assert_eq!(TextMatch::regex("(a)\\1", false).unwrap_err(), RegexError::Syntax);
        assert_eq!(TextMatch::regex("(?:x{1000}){1000}", false).unwrap_err(), RegexError::TooLarge);
        let hostile = TextMatch::regex("(a+)+$", false).unwrap();
        assert!(!hostile.matches(&[&b"a".repeat(50_000)[..], b"!"].concat()));
    }

    #[test]
    fn a_glob_star_stays_in_its_segment_and_two_cross() {
        for (glob, hits, misses) in [
            (
                "/repos/*/issues",
                &["/repos/x/issues", "/repos//issues"][..],
                &["/repos/x/y/issues", "/repos/x/issues/1"][..],
            ),
            ("/repos/**", &["/repos/", "/repos/x/y"], &["/repos", "/x/repos/y"]),
            ("/**/raw", &["/a/b/raw", "//raw"], &["/raw/x"]),
            ("/a.b", &["/a.b"], &["/axb"]),
        ] {
            let matcher = TextMatch::glob(glob).unwrap();
            for hit in hits {
                assert!(matcher.matches(hit.as_bytes()), "{glob} should match {hit}");
            }
            for miss in misses {
                assert!(!matcher.matches(miss.as_bytes()), "{glob} should not match {miss}");
            }
        }
        assert!(TextMatch::glob("/*").unwrap().matches(b"/\xff\xfe"));
    }
}
