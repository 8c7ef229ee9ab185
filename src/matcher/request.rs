//! What a rule's `match` asks of a request: method, path, query, headers (POLICY §3 "Rules of an entry").
//!
//! A path has two readings, as sent and fully decoded ([`super::path`]); a matcher sees one at a time, and
//! [`crate::policy`] refuses the request if they lead to different rules.
//!
//! `INVARIANT`: every matcher takes time linear in the request; regular expressions and globs have no backtracking, and
//! their compiled size is bounded ([`limits::REGEX_BYTES`]).

mod covers;

use std::borrow::Cow;
use std::fmt;

use globset::GlobBuilder;
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
    /// The whole of it, by a path pattern ([`Self::glob`]).
    Glob {
        /// As it was written.
        text: String,
        /// What it compiles to.
        regex: Regex,
    },
}

impl TextMatch {
    /// Compiles a regular expression, without regard to case if `any_case`.
    ///
    /// # Errors
    /// The expression is wrong, or larger than [`limits::REGEX_BYTES`] when compiled.
    pub fn regex(text: &str, any_case: bool) -> Result<Self, RegexError> {
        if text.len() > limits::REGEX_TEXT_BYTES {
            return Err(RegexError::TooLarge);
        }
        build(text, any_case).map(Self::Regex)
    }

    /// Compiles a path pattern, by the syntax of the `globset` crate; the whole path is matched, byte by byte.
    ///
    /// | in the pattern | stands for |
    /// |---|---|
    /// | `*` | any number of bytes other than `/` |
    /// | `?` | one byte other than `/` |
    /// | `/**/` | `/`, or any number of segments between two |
    /// | `/**` at the end | `/` and whatever follows it |
    /// | `**/` at the beginning | nothing, or whatever precedes a `/`, and the `/` |
    /// | `**` alone | everything |
    /// | `[a-z]`, `[!a-z]` | one byte that is, or is not, of these, and never `/` |
    /// | `{a,b}` | either pattern |
    /// | `\` and a character | that character |
    /// | anything else | itself, with regard to case |
    ///
    /// # Errors
    /// Not a glob, or too large.
    pub fn glob(text: &str) -> Result<Self, RegexError> {
        // The translation goes down into each group.
        if text.len() > limits::REGEX_TEXT_BYTES || text.matches('{').count() > limits::GLOB_GROUPS {
            return Err(RegexError::GlobTooLarge);
        }
        let mut glob = GlobBuilder::new(text);
        // The default of this one is the platform's.
        glob.literal_separator(true).backslash_escape(true);
        let glob = glob.build().map_err(|_| RegexError::Glob)?;
        // A `**` that is no whole segment is translated as two `*`, and does not cross: a rule that refuses would let
        // through what its author meant it to refuse.
        if glob.regex().contains("[^/]*[^/]*") {
            return Err(RegexError::GlobStars);
        }
        let regex = build(&without_separator(glob.regex()), false).map_err(|fault| match fault {
            RegexError::TooLarge => RegexError::GlobTooLarge,
            _ => RegexError::Glob,
        })?;
        Ok(Self::Glob { text: text.to_owned(), regex })
    }

    /// Whether `text` satisfies it.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == text,
            Self::StartsWith(start) => text.starts_with(start.as_bytes()),
            Self::Regex(regex) | Self::Glob { text: _, regex } => regex.is_match(text),
        }
    }
}

/// Equal if they are written alike.
impl PartialEq for TextMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(other)) | (Self::StartsWith(one), Self::StartsWith(other)) => one == other,
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            (Self::Glob { text: one, regex: _ }, Self::Glob { text: other, regex: _ }) => one == other,
            _ => false,
        }
    }
}

impl Eq for TextMatch {}

/// Takes `/` out of every class of a translated glob, for `[!a]` and `[+-9]` hold it, and a class stays in its segment
/// as `?` does: `[^a]` becomes `[[^a]&&[^/]]`. Brackets that are not escaped are those of classes. Where `/**` was, a
/// line feed counts as any other byte: what is decoded may hold one.
fn without_separator(regex: &str) -> String {
    let mut narrowed = String::from("(?s)");
    let mut escaped = false;
    for character in regex.chars() {
        match character {
            '[' if !escaped => narrowed.push_str("[["),
            ']' if !escaped => narrowed.push_str("]&&[^/]]"),
            _ => narrowed.push(character),
        }
        escaped = character == '\\' && !escaped;
    }
    narrowed
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

/// Why a text is no regular expression, or no glob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegexError {
    /// Not an expression; look-around and back-references, which are not linear, are none.
    Syntax,
    /// Not a glob.
    Glob,
    /// A glob with a `**` that is no whole segment.
    GlobStars,
    /// Larger than [`limits::REGEX_BYTES`] when compiled, or than [`limits::REGEX_TEXT_BYTES`] as written.
    TooLarge,
    /// A glob that is so, or has more than [`limits::GLOB_GROUPS`].
    GlobTooLarge,
}

impl fmt::Display for RegexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "this is not a regular expression (look-around and back-references are not supported)",
            Self::Glob => {
                "this is not a glob: `[…]` and `{…}` are closed, ranges run upwards, `\\` escapes a character"
            }
            Self::GlobStars => "a `**` stands beside other characters of its segment; it crosses segments only as one",
            Self::TooLarge => "the regular expression is too large when compiled",
            Self::GlobTooLarge => "the glob is too large when compiled",
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
        self.failing(method, path, query, headers).is_none()
    }

    /// The first dimension that a request does not satisfy, with `path` the reading to look at.
    #[must_use]
    pub fn failing(&self, method: &str, path: &[u8], query: Option<&str>, headers: &HeaderMap) -> Option<Dimension> {
        let Self { methods, path: path_match, query: query_match, headers: headers_match } = self;
        let query_holds = |matcher: &PairMatch| {
            query_pairs(query.unwrap_or_default()).any(|(key, value)| matcher.matches(&key, &value))
        };
        let header_holds = |matcher: &PairMatch| {
            headers.iter().any(|(name, value)| matcher.matches(name.as_str().as_bytes(), value.as_bytes()))
        };
        if !methods.is_empty() && !methods.iter().any(|other| other == method) {
            Some(Dimension::Method)
        } else if !path_match.as_ref().is_none_or(|matcher| matcher.matches(path)) {
            Some(Dimension::Path)
        } else if !query_match.iter().all(query_holds) {
            Some(Dimension::Query)
        } else if !headers_match.iter().all(header_holds) {
            Some(Dimension::Headers)
        } else {
            None
        }
    }
}

/// A dimension of a `match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dimension {
    /// One of the methods.
    Method,
    /// The path.
    Path,
    /// All of the query's pairs.
    Query,
    /// All of the headers.
    Headers,
}

impl Dimension {
    /// Its key in a policy.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Path => "path",
            Self::Query => "queryString",
            Self::Headers => "headers",
        }
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
    use proptest::prelude::*;

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
    fn the_first_dimension_that_fails_is_named() {
        let rule = RequestMatch {
            methods: vec!["GET".into()],
            path: Some(exact("/x")),
            query: vec![pair("a", None)],
            headers: vec![pair("h", None)],
        };
        let read = headers(&[("h", "")]);
        let failing = |method, path: &str, query, headers: &HeaderMap| {
            rule.failing(method, path.as_bytes(), query, headers).map(Dimension::as_str)
        };
        assert_eq!(failing("PUT", "/y", None, &HeaderMap::new()), Some("method"));
        assert_eq!(failing("GET", "/y", None, &HeaderMap::new()), Some("path"));
        assert_eq!(failing("GET", "/x", None, &HeaderMap::new()), Some("queryString"));
        assert_eq!(failing("GET", "/x", Some("a"), &HeaderMap::new()), Some("headers"));
        assert_eq!(failing("GET", "/x", Some("a"), &read), None);
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
        let rule = RequestMatch { query: vec![pair("q", Some("%zz%4"))], ..RequestMatch::default() };
        assert!(rule.matches("GET", b"/", Some("q=%zz%4"), &HeaderMap::new()));
    }

    #[test]
    fn matchers_are_equal_if_they_are_written_alike() {
        let regex = |text: &str| TextMatch::regex(text, false).unwrap();
        let glob = |text: &str| TextMatch::glob(text).unwrap();
        let starts = |text: &str| TextMatch::StartsWith(text.to_owned());
        for (one, other) in [
            (exact("/a"), exact("/b")),
            (exact("/a"), starts("/a")),
            (starts("/a"), starts("/b")),
            (regex("/a"), regex("/b")),
            (glob("/a"), glob("/b")),
            (glob("/a"), exact("/a")),
        ] {
            assert!(one == one.clone() && other == other.clone() && one != other, "{one:?} and {other:?}");
        }
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
    fn a_glob_is_read_as_its_table_says() {
        for (glob, hits, misses) in [
            (
                "/repos/*/issues",
                &["/repos/x/issues", "/repos//issues"][..],
                &["/repos/x/y/issues", "/repos/x/issues/1", "/repos/issues", "/Repos/x/issues"][..],
            ),
            ("/repos/**", &["/repos/", "/repos/x/y", "/repos/x\ny"], &["/repos", "/x/repos/y"]),
            ("/**/raw", &["/raw", "/a/raw", "/a/b/raw", "//raw"], &["/raw/x", "/straw", "/a/straw"]),
            ("/a/**/b", &["/a/b", "/a/x/b", "/a/x/y/b"], &["/ab", "/a/xb"]),
            ("**", &["/", "/a/b", "*"], &[]),
            ("**/b", &["/b", "/a/b", "b"], &["/ab", "/b/c"]),
            ("/**/**/b", &["/b", "/a/b"], &["/ab"]),
            ("/{a,b/**}", &["/a", "/b/", "/b/x/y"], &["/a/x", "/b"]),
            ("/x/{**/a,b}", &["/x/a", "/x/y/z/a", "/x/b"], &["/x/y/b", "/x/ya"]),
            ("/[**]\\**", &["/**", "/**x"], &["/*/*", "/x*"]),
            ("/a.b+(c)", &["/a.b+(c)"], &["/axb+(c)", "/a.bb(c)"]),
            ("/v?", &["/v1"], &["/v", "/v12", "/v/"]),
            ("/v[0-9]", &["/v1"], &["/vx", "/v", "/v10"]),
            ("/a[!x]b", &["/ayb"], &["/axb", "/a/b"]),
            ("/a[^x]b", &["/ayb"], &["/axb", "/a/b"]),
            ("/a[+-9]b", &["/a+b", "/a.b", "/a0b"], &["/a/b"]),
            ("/a[/]b", &[], &["/a/b", "/ab"]),
            ("/[]]", &["/]"], &["/x"]),
            ("/[[]", &["/["], &["/x"]),
            ("/[\\]", &["/\\"], &["/x"]),
            ("/{a,b*}/c", &["/a/c", "/b/c", "/bx/c"], &["/c", "/x/c", "/b/x/c", "/a,b/c"]),
            ("/\\*\\?\\[\\{", &["/*?[{"], &["/a?[{"]),
            ("/\\\\", &["/\\"], &["/"]),
            ("/\\a", &["/a"], &["/\\a"]),
            ("", &[""], &["/"]),
        ] {
            let matcher = TextMatch::glob(glob).unwrap();
            for hit in hits {
                assert!(matcher.matches(hit.as_bytes()), "{glob} should match {hit:?}");
            }
            for miss in misses {
                assert!(!matcher.matches(miss.as_bytes()), "{glob} should not match {miss:?}");
            }
        }
    }

    #[test]
    fn a_glob_matches_bytes_and_keeps_its_text() {
        let matcher = TextMatch::glob("/*/**").unwrap();
        assert!(matcher.matches(b"/\xff\xfe/\n\xff"));
        assert!(!matcher.matches(b"/\xff\xfe"));
        assert!(TextMatch::glob("/caf\u{e9}").unwrap().matches("/caf\u{e9}".as_bytes()));
        assert!(matches!(matcher, TextMatch::Glob { text, .. } if text == "/*/**"));
    }

    /// `limits::REGEX_BYTES`, `limits::REGEX_TEXT_BYTES`, `limits::GLOB_GROUPS`
    #[test]
    fn globs_are_bounded() {
        for glob in ["/[a", "/{a", "/a}", "/[z-a]", "/a\\"] {
            assert_eq!(TextMatch::glob(glob).unwrap_err(), RegexError::Glob, "{glob}");
        }
        let groups = |count: usize| format!("{}a{}", "{".repeat(count), "}".repeat(count));
        assert!(TextMatch::glob(&groups(limits::GLOB_GROUPS)).unwrap().matches(b"a"));
        for glob in [
            groups(limits::GLOB_GROUPS + 1),
            groups(1_000_000),
            "a".repeat(limits::REGEX_TEXT_BYTES + 1),
            "?".repeat(limits::REGEX_TEXT_BYTES),
        ] {
            assert_eq!(TextMatch::glob(&glob).unwrap_err(), RegexError::GlobTooLarge, "{} bytes", glob.len());
        }
        assert!(TextMatch::glob(&r"\a".repeat(limits::REGEX_TEXT_BYTES / 2)).is_ok());
        let longest = "a".repeat(limits::REGEX_TEXT_BYTES);
        assert!(TextMatch::regex(&longest, false).is_ok());
        assert_eq!(TextMatch::regex(&(longest + "a"), false).unwrap_err(), RegexError::TooLarge);
        let hostile = TextMatch::glob(&"*a".repeat(1000)).unwrap();
        assert!(!hostile.matches(&[&b"a".repeat(50_000)[..], b"!"].concat()));
    }

    #[test]
    fn two_stars_that_would_not_cross_are_refused() {
        for glob in [
            "/a**b",
            "/a**",
            "**a",
            "/**b",
            "/a**/b",
            "/***",
            "***",
            "/a,**/b",
            "/{**}",
            "/{**,a}",
            "/x/{a,**}",
            "/\\{**/a",
            "/[a]**",
            "/[]**]**",
        ] {
            assert_eq!(TextMatch::glob(glob).unwrap_err(), RegexError::GlobStars, "{glob}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_glob_or_none(
            glob in "(\\PC|[*?\\[\\]{},!^/\\\\a-]){0,24}",
            path in proptest::collection::vec(any::<u8>(), 0..24),
        ) {
            if let Ok(matcher) = TextMatch::glob(&glob) {
                let _ = matcher.matches(&path);
            }
        }

        #[test]
        fn only_two_stars_cross_a_segment(glob in "(\\*|\\?|\\[!a\\]|\\[+-a\\]|a|/){0,8}", path in "(a|b|/){0,8}") {
            prop_assume!(!glob.contains("**"));
            let matched = TextMatch::glob(&glob).unwrap().matches(path.as_bytes());
            prop_assert!(!matched || glob.matches('/').count() == path.matches('/').count());
        }
    }
}
