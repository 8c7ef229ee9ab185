//! The table of POLICY §2, and the map against a scan.

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn pattern(text: &str) -> DomainPattern {
    DomainPattern::parse(text).unwrap()
}

fn map(patterns: &[&str]) -> DomainMap<String> {
    let mut map = DomainMap::default();
    for text in patterns {
        map.insert(pattern(text), (*text).to_owned()).unwrap();
    }
    map
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
}

#[test]
fn what_is_no_pattern_says_what_to_write_instead() {
    for (text, fault) in [
        ("api-*.github.com", PatternError::PartialStar),
        ("**.github.com", PatternError::PartialStar),
        ("*.*", PatternError::OnlyStars),
        ("https://github.com", PatternError::Url),
        ("github.com/login", PatternError::Url),
        ("github.com:443", PatternError::Port),
        ("*:443", PatternError::Port),
        ("10.0.0.1", PatternError::Address),
        ("10.0.0.0/8", PatternError::Address),
        ("::1", PatternError::Address),
        ("[::1]", PatternError::Address),
        ("0x7f.1", PatternError::Address),
        ("*.0.0.1", PatternError::Address),
        ("", PatternError::Domain(DomainError::Empty)),
        ("a..b", PatternError::Domain(DomainError::EmptyLabel)),
        ("a b.test", PatternError::Domain(DomainError::BadCharacter)),
        ("*.a。b", PatternError::Domain(DomainError::BadCharacter)),
    ] {
        assert_eq!(DomainPattern::parse(text), Err(fault), "{text}");
    }
    assert_eq!(PatternError::Address.help().map(|help| help.contains("subnets")), Some(true));
}

#[test]
fn the_most_specific_pattern_wins_whatever_the_order() {
    let ladder = ["www.api.test", "*.www.api.test", "www.*.test", "*.api.test", "*.test", "*"];
    for (host, wins) in [
        ("www.api.test", "www.api.test"),
        ("x.www.api.test", "*.www.api.test"),
        ("www.b.test", "www.*.test"),
        ("x.api.test", "*.api.test"),
        ("x.test", "*.test"),
        ("other.example", "*"),
    ] {
        let mut reversed = ladder;
        reversed.reverse();
        for order in [ladder, reversed] {
            assert_eq!(map(&order).get(&name(host)).map(String::as_str), Some(wins), "{host}");
        }
    }
}

#[test]
fn a_middle_star_beats_a_leading_one_and_then_order_decides() {
    assert_eq!(map(&["*.api.test", "www.*.test"]).get(&name("www.api.test")).unwrap(), "www.*.test");
    assert_eq!(map(&["a.*.b.test", "a.c.*.test"]).get(&name("a.c.b.test")).unwrap(), "a.*.b.test");
    assert_eq!(map(&["a.c.*.test", "a.*.b.test"]).get(&name("a.c.b.test")).unwrap(), "a.c.*.test");
}

#[test]
fn the_star_alone_stands_for_no_name() {
    assert_eq!(map(&["*.test"]).any(), None);
    assert_eq!(map(&["*.test", "*"]).any().unwrap(), "*");
}

#[test]
fn the_same_pattern_twice_is_refused_and_the_first_stays() {
    let mut map = map(&["*.github.com"]);
    assert_eq!(map.insert(pattern("*.GITHUB.com"), "second".into()), Err(&"*.github.com".to_owned()));
    assert_eq!(map.get(&name("a.github.com")).unwrap(), "*.github.com");
}

/// What [`DomainMap::get`] promises, by looking at every pattern.
fn scan<'a>(patterns: &'a [DomainPattern], name: &Domain) -> Option<&'a DomainPattern> {
    patterns.iter().filter(|pattern| pattern.matches(name)).min_by_key(|pattern| pattern.specificity())
}

proptest! {
    #[test]
    fn the_map_agrees_with_a_scan(
        patterns in proptest::collection::vec("(\\*|a|b|c)(\\.(\\*|a|b|c)){0,4}", 0..24),
        names in proptest::collection::vec("(a|b|c|d)(\\.(a|b|c|d)){0,5}", 1..24),
    ) {
        let mut unique: Vec<DomainPattern> = Vec::new();
        for pattern in patterns.iter().filter_map(|text| DomainPattern::parse(text).ok()) {
            if !unique.contains(&pattern) {
                unique.push(pattern);
            }
        }
        let mut map = DomainMap::default();
        for pattern in &unique {
            prop_assert!(map.insert(pattern.clone(), pattern.clone()).is_ok());
        }
        for name in names.iter().map(|text| name(text)) {
            prop_assert_eq!(map.get(&name), scan(&unique, &name), "{}", name);
        }
    }

    #[test]
    fn a_pattern_is_parsed_or_refused_and_shown_as_it_is_read(text in "\\PC{0,40}") {
        if let Ok(pattern) = DomainPattern::parse(&text) {
            prop_assert_eq!(DomainPattern::parse(&pattern.to_string()), Ok(pattern));
        }
    }
}
