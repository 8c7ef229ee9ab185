//! What is taken for a name is canonical, what is taken for a pattern is shown as it is read, and the map finds for
//! each name what a scan that splits strings finds.
//!
//! Input: lines, each tried as a name and as a pattern.

#![no_main]

#[path = "../../tests/oracle/names.rs"]
mod names;

use std::net::IpAddr;

use exeat::flow::Domain;
use exeat::matcher::domain::{DomainMap, DomainPattern};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let parsed: Vec<Domain> = text.lines().filter_map(|line| Domain::parse(line).ok()).collect();
    parsed.iter().for_each(canonical);
    let mut patterns: Vec<(DomainPattern, Vec<String>)> = Vec::new();
    let mut map = DomainMap::default();
    for pattern in text.lines().filter_map(|line| DomainPattern::parse(line).ok()) {
        let shown = pattern.to_string();
        assert_eq!(DomainPattern::parse(&shown).as_ref(), Ok(&pattern), "{shown} is read as something else");
        let labels: Vec<String> = shown.split('.').map(str::to_owned).collect();
        assert_eq!(pattern.is_any(), shown == "*");
        assert_eq!(pattern.is_exact(), Domain::parse(&shown).is_ok(), "{shown}");
        for name in &parsed {
            assert_eq!(pattern.matches(name), names::matches(&labels, name.as_str()), "{shown} and {name}");
        }
        let known = patterns.iter().any(|(other, _)| *other == pattern);
        // Past a limit of the map, even a new one is refused; then it is not looked for, either.
        if map.insert(pattern.clone(), patterns.len()).is_ok() {
            assert!(!known, "{shown} was taken twice");
            patterns.push((pattern, labels));
        }
    }
    let labels: Vec<&[String]> = patterns.iter().map(|(_, labels)| labels.as_slice()).collect();
    for name in &parsed {
        assert_eq!(map.get(name).copied(), names::most_specific(&labels, name.as_str()), "{name}");
    }
    assert_eq!(map.any().copied(), labels.iter().position(|labels| **labels == ["*"]));
});

/// POLICY §2.
fn canonical(name: &Domain) {
    let text = name.as_str();
    assert_eq!(Domain::parse(text).as_ref(), Ok(name), "{text} is read as something else");
    assert_eq!(name.to_string(), text);
    assert_eq!(name.labels().collect::<Vec<_>>().join("."), text);
    assert!(!text.is_empty() && text.len() <= 253, "{text}");
    for label in text.split('.') {
        assert!(!label.is_empty() && label.len() <= 63, "{text}");
        assert!(label.chars().all(|c| "abcdefghijklmnopqrstuvwxyz0123456789-_".contains(c)), "{text}");
    }
    let last = text.rsplit('.').next().unwrap_or_default();
    let number = last
        .strip_prefix("0x")
        .map_or(last.parse::<u128>().is_ok(), |hex| hex.is_empty() || u128::from_str_radix(hex, 16).is_ok());
    assert!(text.parse::<IpAddr>().is_err() && !number, "{text} may be taken for an address");
}
