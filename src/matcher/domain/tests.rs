//! The table of POLICY §2, pattern by pattern.

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn pattern(text: &str) -> DomainPattern {
    DomainPattern::parse(text).unwrap()
}

#[test]
fn a_pattern_matches_as_the_table_of_the_policy_page_says() {
    for (text, hits, misses) in [
        ("github.com", &["github.com"][..], &["api.github.com", "evilgithub.com", "github.com.evil.test"][..]),
        ("*.github.com", &["api.github.com", "a.b.github.com"], &["github.com", "evilgithub.com"]),
        ("www.*.com", &["www.a.com"], &["www.a.b.com", "www.com", "a.com"]),
        ("api.*", &["api.test"], &["api.a.test", "api"]),
        ("*.a.*.test", &["x.a.b.test", "y.x.a.b.test"], &["a.b.test", "x.a.test"]),
        ("*", &["github.com", "localhost"], &[]),
    ] {
        for hit in hits {
            assert!(pattern(text).matches(&name(hit)), "{text} should match {hit}");
        }
        for miss in misses {
            assert!(!pattern(text).matches(&name(miss)), "{text} should not match {miss}");
        }
    }
}

#[test]
fn a_pattern_is_canonical() {
    assert_eq!(pattern("*.GitHub.COM."), pattern("*.github.com"));
    assert_eq!(pattern("*.bücher.example").to_string(), "*.xn--bcher-kva.example");
    assert_eq!(pattern("WWW.*.example.").as_str(), "www.*.example");
}

#[test]
fn a_pattern_knows_its_kind() {
    for (text, any, exact) in [
        ("*", true, false),
        ("github.com", false, true),
        ("localhost", false, true),
        ("*.com", false, false),
        ("www.*", false, false),
        ("www.*.com", false, false),
    ] {
        let pattern = pattern(text);
        assert_eq!((pattern.is_any(), pattern.is_exact()), (any, exact), "{text}");
    }
}

#[test]
fn what_is_no_pattern_says_what_to_write_instead() {
    for (text, fault) in [
        ("api-*.github.com", PatternError::PartialStar),
        ("**.github.com", PatternError::PartialStar),
        ("*.*", PatternError::OnlyStars),
        ("*.", PatternError::OnlyStars),
        ("https://github.com", PatternError::Url),
        ("github.com/login", PatternError::Url),
        ("github.com:443", PatternError::Port),
        ("*:443", PatternError::Port),
        ("10.0.0.1", PatternError::Address),
        ("10.0.0.0/8", PatternError::Address),
        ("::1", PatternError::Address),
        ("[::1]", PatternError::Address),
        ("[::1", PatternError::Address),
        ("0x7f.1", PatternError::Address),
        ("*.0.0.1", PatternError::Address),
        ("", PatternError::Domain(DomainError::Empty)),
        ("a..b", PatternError::Domain(DomainError::EmptyLabel)),
        ("*.a..", PatternError::Domain(DomainError::BadCharacter)),
        ("a b.test", PatternError::Domain(DomainError::BadCharacter)),
        ("*.a。b", PatternError::Domain(DomainError::BadCharacter)),
        ("a。b", PatternError::Domain(DomainError::BadCharacter)),
    ] {
        assert_eq!(DomainPattern::parse(text), Err(fault), "{text}");
    }
    assert_eq!(PatternError::Address.help("10.0.0.1").map(|help| help.contains("subnets")), Some(true));
}

#[test]
fn what_is_no_pattern_is_told_how_to_be_one() {
    for (text, expected) in [
        ("*github.com", "`*` is a whole label; for every name below it write `*.github.com`"),
        ("api-*.github.com", "`*` is a whole label: `*.example.com`, `www.*.com`, or `*` alone"),
        ("https://a.test/x?y", "write `a.test`; methods and paths go into a rule's `match`"),
        ("https://a.test:8443", "write `a.test`; methods and paths go into a rule's `match`"),
        ("a.test/x", "write `a.test`; methods and paths go into a rule's `match`"),
        ("https://user:word@a.test/", "write `a.test`; methods and paths go into a rule's `match`"),
        ("https://10.0.0.1/", "write the host name alone; methods and paths go into a rule's `match`"),
        ("a.test:443", "write `a.test`; it is allowed on every port"),
        ("*.*", "write `*` for every name"),
    ] {
        let help = DomainPattern::parse(text).unwrap_err().help(text);
        assert_eq!(help.as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn specificity_orders_as_the_policy_page_says() {
    let ladder =
        ["a.test", "*.a.b.test", "a.*.test", "*.a.test", "*.test", "*"].map(|text| pattern(text).specificity());
    assert!(ladder.is_sorted_by(|higher, lower| higher < lower));
    for (one, other) in [("a.*.b.test", "a.b.*.test"), ("*.a.*.test", "*.a.test")] {
        assert_eq!(pattern(one).specificity(), pattern(other).specificity(), "{one} and {other}");
    }
}

/// What POLICY §2 says of a pattern and a name, by trying every reading of the leading `*`.
pub(super) fn meets(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        (["*", rest @ ..], [_, ..]) => (1..=name.len()).any(|taken| meets_below(rest, &name[taken..])),
        _ => meets_below(pattern, name),
    }
}

/// Below a leading `*`, each label stands for one.
fn meets_below(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([own, pattern @ ..], [other, name @ ..]) => (*own == "*" || own == other) && meets_below(pattern, name),
        _ => false,
    }
}

/// Every sequence of one to `most` of these labels.
fn sequences(labels: &[&str], most: usize) -> Vec<String> {
    let mut all: Vec<String> = labels.iter().map(ToString::to_string).collect();
    let mut from = 0;
    for _ in 1..most {
        let until = all.len();
        let longer = all[from..until].iter().flat_map(|tail| labels.iter().map(move |label| format!("{label}.{tail}")));
        let longer: Vec<String> = longer.collect();
        all.extend(longer);
        from = until;
    }
    all
}

#[test]
fn one_pattern_covers_another_if_it_matches_every_name_that_the_other_does() {
    let names = sequences(&["a", "b", "c"], 5);
    let texts = sequences(&["a", "b", "*"], 4);
    let matched_by = |pattern: &str| -> Vec<bool> {
        let pattern: Vec<&str> = pattern.split('.').collect();
        names.iter().map(|name| meets(&pattern, &name.split('.').collect::<Vec<_>>())).collect()
    };
    let patterns: Vec<(DomainPattern, Vec<bool>)> =
        texts.iter().filter_map(|text| Some((DomainPattern::parse(text).ok()?, matched_by(text)))).collect();
    assert!(patterns.len() > 100);
    for (one, matches_of_one) in &patterns {
        for (text, matched) in names.iter().zip(matches_of_one) {
            assert_eq!(one.matches(&name(text)), *matched, "{one} and {text}");
        }
        for (other, matches_of_other) in &patterns {
            let covers = matches_of_other.iter().zip(matches_of_one).all(|(other, one)| !other || *one);
            assert_eq!(one.covers(other), covers, "{one} over {other}");
        }
    }
}

proptest! {
    #[test]
    fn a_pattern_is_parsed_or_refused_and_shown_as_it_is_read(text in "\\PC{0,40}") {
        if let Ok(pattern) = DomainPattern::parse(&text) {
            prop_assert_eq!(DomainPattern::parse(&pattern.to_string()), Ok(pattern));
        }
    }

    #[test]
    fn what_looks_like_a_pattern_is_parsed_or_refused(text in "(\\*|a|xn--|bü|。|\\.|1|0x){0,12}") {
        if let Ok(pattern) = DomainPattern::parse(&text) {
            prop_assert!(pattern.covers(&pattern));
            prop_assert_eq!(DomainPattern::parse(pattern.as_str()), Ok(pattern));
        }
    }
}
