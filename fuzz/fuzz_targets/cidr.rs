//! What is taken for a range is shown as it is read, and the map finds for each address, as it is written, unwrapped
//! and in every reading, what a scan bit by bit finds.
//!
//! Input: lines of text, each tried as a range and as an address; a zero byte; then ranges and addresses of eighteen
//! bytes: a kind, a length and sixteen octets.

#![no_main]
#![allow(dead_code)]

#[path = "../../tests/oracle/ranges.rs"]
mod ranges;

use std::net::IpAddr;

use exeat::matcher::cidr::{self, CidrError, CidrMap};
use libfuzzer_sys::fuzz_target;
use ranges::Range;

fuzz_target!(|bytes: &[u8]| {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut written: Vec<Range> = Vec::new();
    let mut addresses: Vec<IpAddr> = Vec::new();
    for line in String::from_utf8_lossy(text).lines() {
        written.extend(read(line));
        addresses.extend(line.parse::<IpAddr>().ok());
    }
    for chunk in bytes.get(text.len() + 1..).unwrap_or_default().chunks_exact(18) {
        let Ok([kind, length, octets @ ..]) = <[u8; 18]>::try_from(chunk) else { continue };
        let address = match octets {
            [a, b, c, d, ..] if kind & 1 == 0 => IpAddr::from([a, b, c, d]),
            octets => IpAddr::from(octets),
        };
        if kind & 2 == 0 {
            addresses.push(address);
        } else {
            written.extend(read(&format!("{address}/{length}")));
        }
    }
    let mut map = CidrMap::default();
    let mut kept: Vec<Range> = Vec::new();
    for range in written {
        let new = kept.iter().all(|other| ranges::meant(*other) != ranges::meant(range));
        let taken = map.insert(cidr::parse(&range.to_string()).expect("a range that was read"), kept.len());
        assert_eq!(taken.is_ok(), new, "{range}");
        kept.extend(new.then_some(range));
    }
    addresses.extend(kept.iter().map(|range| range.address).collect::<Vec<_>>());
    for address in addresses {
        let scan = |address| ranges::narrowest(&kept, address);
        let unwrapped = ranges::unwrapped(address);
        assert_eq!(cidr::unwrap(address), unwrapped);
        assert_eq!(cidr::readings(address).collect::<Vec<_>>(), ranges::readings(address), "{address}");
        assert_eq!(map.get(address).copied(), scan(address), "{address}");
        assert_eq!(map.get_unwrapped(address).copied(), scan(unwrapped).or_else(|| scan(address)), "{address}");
        let denied = ranges::readings(address).into_iter().find_map(scan);
        assert_eq!(map.get_any_reading(address).copied(), denied, "{address}");
    }
});

/// The range that a text spells, if it is one; checked against what it is shown as, and against its bits.
fn read(text: &str) -> Option<Range> {
    let (address, length) = text.split_once('/')?;
    let spelled = address.parse::<IpAddr>().ok().zip(length.parse::<u8>().ok());
    match (cidr::parse(text), spelled) {
        (Ok(range), Some((address, length))) => {
            let (range, spelled) = (range.to_string(), Range { address, length: length.into() });
            assert_eq!(range, ranges::meant(spelled).to_string(), "{text}");
            assert_eq!(cidr::parse(&range).map(|again| again.to_string()), Ok(range));
            Some(spelled)
        }
        (Ok(range), None) => panic!("{text} was read as {range}"),
        (Err(CidrError::HostBits(range)), Some((address, length))) => {
            let meant = Range { address: range.addr(), length: length.into() };
            assert!(ranges::holds(meant, address) && range.addr() != address, "{text} is not within {range}");
            None
        }
        (Err(_), Some((address, length))) => {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            assert!(length > bits || length_is_odd(text), "{text} was not read");
            None
        }
        (Err(_), None) => None,
    }
}

/// Lengths that std's parser takes and a policy does not: a sign, or more than three digits.
fn length_is_odd(text: &str) -> bool {
    text.rsplit('/').next().is_some_and(|length| length.starts_with('+') || length.len() > 3)
}
