//! Whether one `match` asks for no more than another: whether it holds for every request that the other holds for.
//!
//! Of a matcher's text two things are known: what every text begins with that it matches (its head), and whether it
//! goes on matching whatever is written after a text that it matches (it is open). An open matcher that matches the
//! head of another matches all that the other does. Of two expressions it is also known whether their syntax is the
//! same, groups aside, and whether one is a text written out. Automata would show more, at a price for each of the many
//! pairs of rules that are compared.
//!
//! `INVARIANT`: `true` is proved. Where nothing can be shown the answer is `false`, though the truth may be `true`.

use std::borrow::Cow;

use regex_syntax::ParserBuilder;
use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::{Class, Hir, HirKind, Look, Repetition};

use super::{PairMatch, RequestMatch, TextMatch};

impl RequestMatch {
    /// Whether it holds for every request that `other` holds for.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let methods = self.methods.is_empty()
            || (!other.methods.is_empty() && other.methods.iter().all(|method| self.methods.contains(method)));
        methods && self.covers_but_for_methods(other)
    }

    /// As [`Self::covers`], without regard to methods.
    #[must_use]
    pub fn covers_but_for_methods(&self, other: &Self) -> bool {
        let Self { methods: _, path, query, headers } = self;
        let pairs = |ours: &[PairMatch], theirs: &[PairMatch], any_case: bool| {
            ours.iter().all(|ours| theirs.iter().any(|theirs| ours.covers(theirs, any_case)))
        };
        part_covers(path.as_ref(), other.path.as_ref(), false)
            && pairs(query, &other.query, false)
            && pairs(headers, &other.headers, true)
    }

    /// Whether it asks for a method, or for a path narrower than all paths.
    #[must_use]
    pub fn is_scoped(&self) -> bool {
        let any = TextMatch::StartsWith("/".to_owned());
        !self.methods.is_empty() || self.path.as_ref().is_some_and(|path| !path.covers(&any, false))
    }
}

impl PairMatch {
    /// Whether every pair that satisfies `other` satisfies this. Keys are compared without regard to case if
    /// `any_case`.
    fn covers(&self, other: &Self, any_case: bool) -> bool {
        part_covers(self.key.as_ref(), other.key.as_ref(), any_case)
            && part_covers(self.value.as_ref(), other.value.as_ref(), false)
    }
}

/// Absent parts are satisfied by every text.
fn part_covers(ours: Option<&TextMatch>, theirs: Option<&TextMatch>, any_case: bool) -> bool {
    match (ours, theirs) {
        (None, _) => true,
        (Some(ours), None) => ours.is_open(any_case) && ours.matches(b""),
        (Some(ours), Some(theirs)) => ours.covers(theirs, any_case),
    }
}

impl TextMatch {
    /// Whether it matches every text that `other`, compiled with the same regard to case, matches.
    #[must_use]
    pub fn covers(&self, other: &Self, any_case: bool) -> bool {
        if let Some(text) = other.only(any_case) {
            return self.matches(&text);
        }
        if let (Some(ours), Some(theirs)) = (self.expression(), other.expression())
            && parse(ours, any_case).is_some_and(|ours| parse(theirs, any_case) == Some(ours))
        {
            return true;
        }
        self.matches(&other.head(any_case)) && self.is_open(any_case)
    }

    /// The expression that it compiles to, if it does.
    fn expression(&self) -> Option<&str> {
        match self {
            Self::Exact(_) | Self::StartsWith(_) => None,
            Self::Regex(regex) | Self::Glob { text: _, regex } => Some(regex.as_str()),
        }
    }

    /// The one text that it matches, if its syntax shows that there is no other.
    fn only(&self, any_case: bool) -> Option<Cow<'_, [u8]>> {
        if let Self::Exact(text) = self {
            return Some(Cow::Borrowed(text.as_bytes()));
        }
        let hir = parse(self.expression()?, any_case)?;
        let HirKind::Concat(parts) = hir.kind() else { return None };
        let [start, middle @ .., end] = parts.as_slice() else { return None };
        let is_whole = *start.kind() == HirKind::Look(Look::Start) && *end.kind() == HirKind::Look(Look::End);
        match middle {
            _ if !is_whole => None,
            [] => Some(Cow::Borrowed(b"")),
            [text] => match text.kind() {
                HirKind::Literal(text) => Some(Cow::Owned(text.0.to_vec())),
                _ => None,
            },
            _ => None,
        }
    }

    /// What every text begins with that it matches; perhaps nothing. Compiled without regard to case if `any_case`, for
    /// texts in lower case.
    #[must_use]
    pub fn head(&self, any_case: bool) -> Cow<'_, [u8]> {
        let hir = match self {
            Self::Exact(text) | Self::StartsWith(text) => return Cow::Borrowed(text.as_bytes()),
            Self::Regex(regex) | Self::Glob { text: _, regex } => parse(regex.as_str(), any_case),
        };
        let anchored = hir.filter(|hir| hir.properties().look_set_prefix().contains(Look::Start));
        let literals = anchored.map(|hir| Extractor::new().extract(&hir));
        Cow::Owned(literals.and_then(|seq| Some(seq.longest_common_prefix()?.to_vec())).unwrap_or_default())
    }

    /// Whether, of a text that it matches, it matches every longer one that begins so.
    fn is_open(&self, any_case: bool) -> bool {
        match self {
            Self::Exact(_) => false,
            Self::StartsWith(_) => true,
            Self::Regex(regex) | Self::Glob { text: _, regex } => {
                parse(regex.as_str(), any_case).is_some_and(|hir| is_open(&hir))
            }
        }
    }
}

/// The syntax of an expression, as [`super::TextMatch`] compiles it, but for what does not matter to whether a text
/// matches.
fn parse(regex: &str, any_case: bool) -> Option<Hir> {
    let parsed = ParserBuilder::new().utf8(false).case_insensitive(any_case).build().parse(regex);
    parsed.ok().map(|hir| plain(&hir))
}

/// Without groups, and with every repetition greedy. As deep as the parser lets expressions be.
fn plain(hir: &Hir) -> Hir {
    match hir.kind() {
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => hir.clone(),
        HirKind::Capture(group) => plain(&group.sub),
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(plain).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.iter().map(plain).collect()),
        HirKind::Repetition(Repetition { min, max, greedy: _, sub }) => {
            Hir::repetition(Repetition { min: *min, max: *max, greedy: true, sub: Box::new(plain(sub)) })
        }
    }
}

/// A match stands whatever follows it, unless the expression looks at what that is. It may look for the end if before
/// the end anything may stand.
fn is_open(hir: &Hir) -> bool {
    let looks_back = |hir: &Hir| {
        hir.properties().look_set().iter().all(|look| matches!(look, Look::Start | Look::StartLF | Look::StartCRLF))
    };
    let [rest @ .., last, end] = (match hir.kind() {
        HirKind::Concat(parts) => parts.as_slice(),
        _ => &[],
    }) else {
        return looks_back(hir);
    };
    looks_back(hir)
        || (is_anything(last) && matches!(end.kind(), HirKind::Look(Look::End)) && rest.iter().all(looks_back))
}

/// Any number of any bytes.
fn is_anything(hir: &Hir) -> bool {
    let HirKind::Repetition(repetition) = hir.kind() else { return false };
    let any = |class: &Class| match class {
        Class::Bytes(bytes) => bytes.ranges().iter().any(|range| (range.start(), range.end()) == (0, u8::MAX)),
        Class::Unicode(_) => false,
    };
    repetition.min == 0
        && repetition.max.is_none()
        && matches!(repetition.sub.kind(), HirKind::Class(class) if any(class))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    /// `=text`, `^text`, `~regex`, `%glob`.
    fn text(spelled: &str) -> TextMatch {
        let (kind, text) = spelled.split_at(1);
        match kind {
            "=" => TextMatch::Exact(text.to_owned()),
            "^" => TextMatch::StartsWith(text.to_owned()),
            "~" => TextMatch::regex(text, false).unwrap(),
            _ => TextMatch::glob(text).unwrap(),
        }
    }

    #[test]
    fn what_matches_more_is_shown_to_cover() {
        for (wide, narrow) in [
            ("=/a", "=/a"),
            ("^/a", "=/a"),
            ("^/a", "=/ab"),
            ("^/a", "^/a/b"),
            ("^", "~x"),
            ("^/v1/", "%/v1/*/x"),
            ("^/v1/", "~^/v1/models/[0-9]+$"),
            ("^/v1", "~^/v1(beta|alpha)?/x"),
            ("^/v1.0/", r"~^/v1\.0/x"),
            ("~", "^/"),
            ("~.*", "~^/a$"),
            ("~^/a", "=/a"),
            ("~^/a", "^/a/"),
            ("~^/a", "%/a/**"),
            ("~^/[a-z]+/", "^/repos/x"),
            ("~/x", "^/a/x/"),
            ("~a|b", "~a|b"),
            ("~(?s-u)^/a.*$", "^/ab"),
            ("~^/a$", "=/a"),
            ("%/a/*", "%/a/*"),
            ("%/a/*", "=/a/b"),
            ("%/a/**", "^/a/"),
            ("%/a/**", "^/a/b/c"),
            ("%/a/**", "%/a/*/c"),
            ("%/*/x/**", "^/a/x/b"),
            ("%**", "^"),
            ("%**", "~x"),
            ("%/**", "^/"),
            ("=/a.b", r"~^/a\.b$"),
            ("=/a", "%/a"),
            ("=", "~^$"),
            ("~^/[0-9]$", "~^/(?:5)$"),
            ("~^/a(?:b){0,0}$", "~^/(a)$"),
            ("~^/(a|b)+x*?$", "~^/[ab]+x*$"),
            ("%/[a-b]", "%/[ab]"),
        ] {
            assert!(text(wide).covers(&text(narrow), false), "{wide} over {narrow}");
        }
    }

    #[test]
    fn what_may_match_less_is_not_taken_to_cover() {
        for (ours, theirs) in [
            ("=/a", "^/a"),
            ("=/a", "=/b"),
            ("=/a", "%/?"),
            ("=/a", "~^/a"),
            ("=/a", "~/a$"),
            ("=/a", "~(?m)^/a$"),
            ("~^/ab$", "~^/a$"),
            ("~^/[ab]+$", "~^/(a|b)*$"),
            ("^/ab", "^/a"),
            ("^/a", "~/a"),
            ("^/a", "~^/a|^/b"),
            ("^/a", "~(?m)^/a"),
            ("^/ab", "~^/ab*"),
            ("~^/a$", "^/a"),
            ("~^/a.*$", "^/a"),
            ("~(?s-u)^/a.{0,3}$", "^/a"),
            (r"~^/a\b", "^/a"),
            ("~(?m)/a$", "^/a"),
            ("~^/A", "^/a"),
            ("%/a/*", "^/a/"),
            ("%/a/**", "=/a"),
            ("%/a/{b,*}", "^/a/"),
            ("%**/x", "^/a"),
        ] {
            assert!(!text(ours).covers(&text(theirs), false), "{ours} over {theirs}");
        }
    }

    fn asks(methods: &[&str], path: Option<&str>, query: &[(&str, &str)]) -> RequestMatch {
        let part = |spelled: &str| (!spelled.is_empty()).then(|| text(spelled));
        RequestMatch {
            methods: methods.iter().map(ToString::to_string).collect(),
            path: path.map(text),
            query: query.iter().map(|(key, value)| PairMatch { key: part(key), value: part(value) }).collect(),
            headers: Vec::new(),
        }
    }

    #[test]
    fn every_dimension_must_be_covered() {
        let all = RequestMatch::default();
        let get = asks(&["GET"], Some("^/a"), &[("=x", "=1")]);
        assert!(all.covers(&get) && all.covers(&all) && get.covers(&get) && !get.covers(&all));
        for (wide, covers) in [
            (asks(&["GET", "HEAD"], None, &[]), true),
            (asks(&["HEAD"], None, &[]), false),
            (asks(&[], Some("^/"), &[]), true),
            (asks(&[], Some("^/b"), &[]), false),
            (asks(&[], None, &[("=x", "")]), true),
            (asks(&[], None, &[("", "=1")]), true),
            (asks(&[], None, &[("~x", "^")]), true),
            (asks(&[], None, &[("=x", ""), ("", "=1")]), true),
            (asks(&[], None, &[("=x", ""), ("=y", "")]), false),
            (asks(&[], None, &[("=x", "=2")]), false),
        ] {
            assert_eq!(wide.covers(&get), covers, "{wide:?}");
        }
        assert!(!get.covers(&asks(&[], Some("^/a"), &[("=x", "=1")])), "any method");
        assert!(get.covers_but_for_methods(&asks(&[], Some("^/a"), &[("=x", "=1")])));
    }

    #[test]
    fn a_match_is_scoped_by_a_method_or_a_path() {
        for (when, scoped) in [
            (asks(&["GET"], None, &[]), true),
            (asks(&[], Some("^/v1"), &[]), true),
            (asks(&[], Some("=/"), &[]), true),
            (asks(&[], Some("^/"), &[]), false),
            (asks(&[], Some("%/**"), &[]), false),
            (asks(&[], Some("~.*"), &[]), false),
            (asks(&[], None, &[("=x", "")]), false),
            (RequestMatch::default(), false),
        ] {
            assert_eq!(when.is_scoped(), scoped, "{when:?}");
        }
    }

    /// Matchers of few characters, so that they meet.
    fn matchers() -> impl Strategy<Value = TextMatch> {
        let regex =
            r"(\^|\(\?m\)\^|\(\?s-u\)|\(\?i\))?(a|b|/|\.|\(a\|b\)|\[ab\]|a\*|b\?|/\+|\.\*|\\b|\||x\{2\}){0,5}\$?";
        prop_oneof![
            "[ab/]{0,4}".prop_map(TextMatch::Exact),
            "[ab/]{0,4}".prop_map(TextMatch::StartsWith),
            regex.prop_filter_map("no expression", |text| TextMatch::regex(&text, false).ok()),
            r"(a|b|/|\*|\*\*|/\*\*|\?|\[ab\]|\{a,b\}){0,5}"
                .prop_filter_map("no glob", |text| TextMatch::glob(&text).ok()),
        ]
    }

    fn texts() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(proptest::sample::select(b"aab//xA\n\xff".as_slice()), 0..7)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn what_covers_matches_whatever_the_other_does(
            ours in matchers(),
            theirs in matchers(),
            texts in proptest::collection::vec(texts(), 40),
        ) {
            let covers = ours.covers(&theirs, false);
            let head = theirs.head(false).into_owned();
            for text in texts.iter().cloned().chain(texts.iter().map(|rest| [&head, rest.as_slice()].concat())) {
                if theirs.matches(&text) {
                    prop_assert!(text.starts_with(&head), "{theirs:?} begins with {head:?}, and matches {text:?}");
                    prop_assert!(!covers || ours.matches(&text), "{ours:?} over {theirs:?}, but for {text:?}");
                }
                if ours.is_open(false) && ours.matches(&text) {
                    prop_assert!(ours.matches(&[&text, b"a".as_slice()].concat()), "{ours:?} after {text:?}");
                    prop_assert!(ours.matches(&[&text, b"\n".as_slice()].concat()), "{ours:?} after {text:?}");
                }
            }
        }

        #[test]
        fn what_covers_a_header_does_so_whatever_its_case(
            ours in "\\^?[aAbk-]{0,3}\\$?",
            theirs in "\\^?[aAbk-]{0,3}\\$?",
            name in "[abk-]{1,5}",
        ) {
            let asks = |key: &str| RequestMatch {
                headers: vec![PairMatch { key: Some(TextMatch::regex(key, true).unwrap()), value: None }],
                ..RequestMatch::default()
            };
            let (ours, theirs) = (asks(&ours), asks(&theirs));
            let headers: HeaderMap = [(name.parse().unwrap(), HeaderValue::from_static("x"))].into_iter().collect();
            let holds = |when: &RequestMatch| when.matches("GET", b"/", None, &headers);
            prop_assert!(!ours.covers(&theirs) || !holds(&theirs) || holds(&ours));
        }
    }
}
