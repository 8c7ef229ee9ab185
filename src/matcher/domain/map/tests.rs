//! The map against a scan, its bounds, and its hash.

use proptest::prelude::*;

use super::super::tests::meets;
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
    for (patterns, host, wins) in [
        (["*.api.test", "www.*.test"], "www.api.test", 1),
        (["a.*.b.test", "a.c.*.test"], "a.c.b.test", 0),
        (["a.c.*.test", "a.*.b.test"], "a.c.b.test", 0),
        (["*.a.*.test", "*.b.test"], "x.a.b.test", 0),
        (["*.b.test", "*.a.*.test"], "x.a.b.test", 0),
        (["*.b.test", "*.a.*.test"], "x.a.c.test", 1),
        (["*.a.*.*.test", "*.c.test"], "x.a.b.c.test", 0),
        (["*.*.test", "*.test"], "a.b.test", 0),
        (["*.test", "*.*.test"], "a.test", 0),
    ] {
        assert_eq!(map(&patterns).get(&name(host)).unwrap(), patterns[wins], "{patterns:?} and {host}");
    }
}

#[test]
fn the_star_alone_stands_for_no_name() {
    assert_eq!(map(&[]).any(), None);
    assert_eq!(map(&["*.test"]).any(), None);
    assert_eq!(map(&["*.test", "*"]).any().unwrap(), "*");
}

#[test]
fn the_same_pattern_twice_is_refused_and_the_first_stays() {
    let mut map = map(&["*.github.com"]);
    let first = "*.github.com".to_owned();
    assert_eq!(map.insert(pattern("*.GITHUB.com"), "second".into()), Err(Refusal::Duplicate(&first)));
    assert_eq!(map.get(&name("a.github.com")), Some(&first));
    assert_eq!(map.len(), 1);
}

#[test]
fn patterns_come_back_in_the_order_in_which_they_were_declared() {
    let order = ["z.test", "*.test", "a.test", "*", "b.*.test"];
    let mut map = map(&order);
    assert!(!map.is_empty() && DomainMap::<()>::default().is_empty());
    assert_eq!((map.len(), map.iter().count()), (5, 5));
    map.shrink_to_fit();
    assert!(map.iter().map(|(pattern, _)| pattern.to_string()).eq(order));
    assert!(map.iter().all(|(pattern, text)| pattern.as_str() == text));
    assert_eq!(map.get(&name("b.c.test")).unwrap(), "b.*.test");
}

#[test]
fn a_map_finds_each_of_many_patterns() {
    let texts: Vec<String> = (0..5_000).map(|n| format!("{}n{n}.test", if n % 2 == 0 { "" } else { "*." })).collect();
    let mut map = map(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    for _ in 0..2 {
        for (n, text) in texts.iter().enumerate() {
            let found = |host: &str| map.get(&name(&format!("{host}n{n}.test")));
            let (apex, below) = if n % 2 == 0 { (Some(text), None) } else { (None, Some(text)) };
            assert_eq!((found(""), found("a."), found("x.a.")), (apex, below, below), "{text}");
        }
        map.shrink_to_fit();
    }
}

/// Patterns `*` in label `n` from the right, `a` in all others.
fn starred(labels: usize, stars: &[usize]) -> String {
    let label = |place: usize| if stars.contains(&place) { "*" } else { "a" };
    (0..labels).rev().map(label).collect::<Vec<_>>().join(".")
}

#[test]
fn patterns_of_one_arrangement_take_one_place() {
    let mut map = DomainMap::default();
    for label in 0..=limits::POLICY_ARRANGEMENTS {
        map.insert(pattern(&format!("{label}.*.test")), label).unwrap();
    }
    map.insert(pattern("a.*.*.test"), 1000).unwrap();
    assert_eq!(map.get(&name("a.b.c.test")), Some(&1000));
}

#[test]
fn texts_of_one_hash_and_length_are_told_apart() {
    let key = Key { start: 0, factors: [0; 32] };
    let mut map = DomainMap { key, ..DomainMap::default() };
    for text in ["a.test", "b.test", "*.c.test", "*.d.test"] {
        map.insert(pattern(text), text).unwrap();
    }
    for (host, value) in
        [("a.test", Some("a.test")), ("b.test", Some("b.test")), ("x.d.test", Some("*.d.test")), ("e.test", None)]
    {
        assert_eq!(map.get(&name(host)).copied(), value, "{host}");
    }
}

/// `limits::POLICY_ARRANGEMENTS`
#[test]
fn arrangements_of_stars_are_limited_and_what_arranges_none_is_not() {
    let mut map = DomainMap::default();
    for place in 0..limits::POLICY_ARRANGEMENTS {
        map.insert(pattern(&starred(100, &[place])), place).unwrap();
    }
    for labels in 1..=120 {
        map.insert(pattern(&starred(labels, &[])), 1000).unwrap();
        map.insert(pattern(&format!("*.{}", starred(labels, &[]))), 2000 + labels).unwrap();
    }
    let before = map.len();
    for other in [starred(100, &[98]), starred(99, &[0]), starred(100, &[0, 1]), starred(100, &[0, 99])] {
        assert_eq!(map.insert(pattern(&other), 0), Err(Refusal::Arrangements), "{other}");
    }
    assert_eq!(map.len(), before);
    let third = starred(100, &[3]).replacen('a', "b", 1);
    map.insert(pattern(&third), 3000).unwrap();
    assert_eq!(map.get(&name(&third.replace('*', "c"))), Some(&3000));
    assert_eq!(map.get(&name(&starred(100, &[63]).replace('*', "c"))), Some(&63));
    assert_eq!(map.get(&name(&starred(101, &[101]))), Some(&1000));
    assert_eq!(map.get(&name(&starred(100, &[98]).replace('*', "c"))), Some(&2098));
}

/// A walk that tried both the literal and the `*` of each label would visit 2^60 nodes for this name.
#[test]
fn a_name_that_meets_many_stars_is_found_in_few_steps() {
    let mut map = DomainMap::default();
    for place in 0..60 {
        map.insert(pattern(&starred(127, &[place])), place).unwrap();
    }
    map.insert(pattern(&starred(127, &(0..60).collect::<Vec<_>>())), 60).unwrap();
    let all = name(&starred(127, &[]));
    assert_eq!(all.as_str().len(), 253);
    assert_eq!(map.get(&all), Some(&0), "all have as many literal labels, but for the last, and this one is first");
    assert_eq!(map.get(&name(&starred(127, &[5, 50]).replace('*', "b"))), Some(&60));
    assert_eq!(map.get(&name(&starred(127, &[5, 70]).replace('*', "b"))), None);
}

/// What [`DomainMap::get`] promises (POLICY §2), by looking at every pattern.
fn scan<'a>(patterns: &'a [String], name: &str) -> Option<&'a String> {
    let name: Vec<&str> = name.split('.').collect();
    let rank = |pattern: &&String| {
        let literals = pattern.split('.').filter(|label| *label != "*").count();
        (pattern.contains('*'), usize::MAX - literals, pattern.starts_with('*'))
    };
    let matching = |pattern: &&String| meets(&pattern.split('.').collect::<Vec<_>>(), &name);
    patterns.iter().filter(matching).min_by_key(rank)
}

/// What [`DomainMap::covering`] promises.
fn covers_as_a_scan_does(patterns: &[String], others: &[String]) {
    let mut map = DomainMap::default();
    for text in patterns {
        if let Ok(pattern) = DomainPattern::parse(text) {
            let _ = map.insert(pattern, ());
        }
    }
    for other in others.iter().chain(patterns).filter_map(|text| DomainPattern::parse(text).ok()) {
        let found = map.covering(&other).map(|(pattern, ())| pattern);
        let scan = map.iter().any(|(pattern, ())| pattern.covers(&other));
        assert_eq!(found.is_some(), scan, "{other} in {patterns:?}");
        assert!(found.is_none_or(|found| found.covers(&other)), "{other} in {patterns:?}");
        if map.iter().any(|(pattern, ())| pattern.as_str() == other.as_str()) {
            assert_eq!(found.map(|found| found.to_string()), Some(other.to_string()), "{patterns:?}");
        }
    }
}

fn agrees_with_a_scan(patterns: &[String], names: &[String]) {
    let mut unique: Vec<String> = Vec::new();
    for text in patterns.iter().filter(|text| DomainPattern::parse(text).is_ok()) {
        if !unique.contains(text) {
            unique.push(text.clone());
        }
    }
    let map = map(&unique.iter().map(String::as_str).collect::<Vec<_>>());
    for text in names {
        assert_eq!(map.get(&name(text)), scan(&unique, text), "{text} in {unique:?}");
    }
    assert_eq!(map.any(), unique.iter().find(|text| *text == "*"));
}

proptest! {
    #[test]
    fn the_map_agrees_with_a_scan(
        patterns in proptest::collection::vec("(\\*|a|b|c)(\\.(\\*|a|b|c)){0,4}", 0..24),
        names in proptest::collection::vec("(a|b|c|d)(\\.(a|b|c|d)){0,5}", 1..24),
    ) {
        agrees_with_a_scan(&patterns, &names);
    }

    #[test]
    fn the_map_finds_what_covers_a_pattern_as_a_scan_does(
        patterns in proptest::collection::vec("(\\*|a|b|c)(\\.(\\*|a|b|c)){0,4}", 0..24),
        others in proptest::collection::vec("(\\*|a|b|c)(\\.(\\*|a|b|c)){0,5}", 1..24),
    ) {
        covers_as_a_scan_does(&patterns, &others);
    }

    #[test]
    fn the_map_agrees_with_a_scan_on_deep_names(
        patterns in proptest::collection::vec("(\\*\\.)?(a\\.|a\\.a\\.a\\.a\\.|\\*\\.){0,25}a", 1..30),
        names in proptest::collection::vec("(a\\.|a\\.a\\.a\\.a\\.|b\\.){0,25}a", 1..10),
    ) {
        agrees_with_a_scan(&patterns, &names);
    }

    #[test]
    fn the_map_agrees_with_a_scan_on_labels_of_any_length(
        patterns in proptest::collection::vec("(\\*\\.)?([ab]{1,9}\\.){0,2}[ab]{6,15}", 1..30),
        labels in proptest::collection::vec("[ab]{1,15}", 1..4),
    ) {
        let names: Vec<String> = patterns.iter().map(|text| text.replace('*', &labels.join("."))).collect();
        agrees_with_a_scan(&patterns, &names);
    }

    /// The definition, number by number.
    #[test]
    fn the_hash_is_multilinear_and_begins_alike_for_texts_that_end_alike(
        text in "(\\*\\.)?[a-z]{1,20}(\\.[a-z0-9-]{1,20}){0,11}",
    ) {
        let key = Key::random();
        let reversed: Vec<u8> = text.bytes().rev().collect();
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u128::from(*byte));
        let terms = reversed.chunks(8).zip(key.factors).map(|(bytes, factor)| number(bytes).wrapping_mul(factor));
        let sum = terms.fold(key.start, u128::wrapping_add);
        prop_assert_eq!(u128::from(key.hash(text.as_bytes())), sum >> 64);
        let dots: Vec<Dot> = key.sums(text.as_bytes()).flat_map(|read| read.dots().collect::<Vec<_>>()).collect();
        let expected: Vec<usize> = text.rmatch_indices('.').map(|(at, _)| at).collect();
        prop_assert_eq!(dots.iter().map(|dot| text.len() - dot.below).collect::<Vec<_>>(), expected);
        for dot in dots {
            let starred = format!("*{}", &text[text.len() - dot.below..]);
            prop_assert_eq!(dot.starred, key.hash(starred.as_bytes()), "{}", starred);
        }
    }
}

#[test]
fn texts_that_differ_differ_in_hash() {
    let texts = [
        "",
        "a",
        "b",
        "aa",
        "a.a",
        "aa.a",
        "a.aa",
        "aaa",
        "*",
        "*.a",
        "a.*",
        "aaaaaa",
        "aaaaaaa",
        "aaaaaaaa",
        "aaaaaaa.a",
        "a.aaaaaaa",
        "aaaaaa.aa",
        "bb.aaaaaa",
        "aaaaaaaaaaaaaa",
        "aaaaaaa.aaaaaaa",
        "aaaaaaaaaaaaaaa",
    ];
    let key = Key::random();
    let mut hashes = texts.map(|text| key.hash(text.as_bytes())).to_vec();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), texts.len());
}

/// Who can foretell it can make names collide.
#[test]
fn every_map_has_a_key_of_its_own_and_shows_it_to_nobody() {
    let keys = [(); 2].map(|()| DomainMap::<()>::default().key);
    let mut halves: Vec<u64> = keys
        .iter()
        .flat_map(|key| key.factors.iter().chain([&key.start]))
        .flat_map(|number| [(number >> 64) as u64, *number as u64])
        .collect();
    halves.sort_unstable();
    halves.dedup();
    assert_eq!(halves.len(), 2 * 33 * 2);
    assert_eq!(format!("{:?}", keys[0]), "Key(…)");
}
