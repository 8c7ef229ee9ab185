//! Address ranges: the narrowest that holds an address, and every IPv4 address that an IPv6 one may stand for
//! (POLICY §3 "Embedded IPv4").
//!
//! A translator on the path may turn an IPv6 address into the IPv4 address inside it, so what denies looks at all
//! readings ([`CidrMap::get_any_reading`]). What allows looks at the address itself and at the two forms that name
//! an IPv4 address and nothing else ([`CidrMap::get_unwrapped`]).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use prefix_trie::joint::map::JointPrefixMap;

/// Values by range, both families.
#[derive(Debug, Clone)]
pub struct CidrMap<T> {
    ranges: JointPrefixMap<IpNet, T>,
}

impl<T> Default for CidrMap<T> {
    fn default() -> Self {
        Self { ranges: JointPrefixMap::new() }
    }
}

impl<T> CidrMap<T> {
    /// Adds a range.
    ///
    /// # Errors
    /// The value that the very same range has already; it stays.
    pub fn insert(&mut self, range: IpNet, value: T) -> Result<(), &T> {
        if self.ranges.contains_key(&range) {
            return self.ranges.get(&range).map_or(Ok(()), Err);
        }
        self.ranges.insert(range, value);
        Ok(())
    }

    /// The value of the narrowest range that holds `address` as it is written.
    #[must_use]
    pub fn get(&self, address: IpAddr) -> Option<&T> {
        self.ranges.get_lpm(&IpNet::from(address)).map(|(_, value)| value)
    }

    /// As [`Self::get`], with a mapped or compatible IPv4 address unwrapped: for what allows.
    #[must_use]
    pub fn get_unwrapped(&self, address: IpAddr) -> Option<&T> {
        let unwrapped = unwrap(address);
        self.get(unwrapped).or_else(|| if unwrapped == address { None } else { self.get(address) })
    }

    /// The value for the first reading of `address` that a range holds: for what denies.
    #[must_use]
    pub fn get_any_reading(&self, address: IpAddr) -> Option<&T> {
        readings(address).find_map(|reading| self.get(reading))
    }

    /// The narrowest range that holds all of `range`, and its value.
    #[must_use]
    pub fn covering(&self, range: IpNet) -> Option<(IpNet, &T)> {
        self.ranges.get_lpm(&range)
    }

    /// Whether it holds no range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ranges it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Ranges and values, in order of address.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        self.ranges.iter()
    }
}

/// Parses a CIDR as a policy spells it. A range within `::ffff:0:0/96` is the IPv4 range that it names.
///
/// # Errors
/// Says what is wrong, and its `Display` what to write instead where that is known.
pub fn parse(text: &str) -> Result<IpNet, CidrError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Err(CidrError::NoLength(address));
    }
    // By std's rules for addresses: `010.0.0.0` is octal to some and decimal to others, so it is neither here.
    let (address, length) = text.split_once('/').ok_or(CidrError::Syntax)?;
    let address: IpAddr = address.parse().map_err(|_| CidrError::Syntax)?;
    if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return Err(CidrError::Syntax);
    }
    let length: u8 = length.parse().map_err(|_| CidrError::Syntax)?;
    let range = IpNet::new(address, length).map_err(|_| CidrError::Syntax)?;
    if range != range.trunc() {
        return Err(CidrError::HostBits(range.trunc()));
    }
    let unmapped = match range {
        IpNet::V6(six) => six.addr().to_ipv4_mapped().and_then(|address| {
            let length = six.prefix_len().checked_sub(96)?;
            Ipv4Net::new(address, length).ok()
        }),
        IpNet::V4(_) => None,
    };
    Ok(unmapped.map_or(range, IpNet::V4))
}

/// Why a text is no CIDR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CidrError {
    /// Neither `ADDRESS/LENGTH` nor an address.
    Syntax,
    /// An address alone.
    NoLength(IpAddr),
    /// Bits are set beyond the length; the range that was perhaps meant.
    HostBits(IpNet),
}

impl CidrError {
    /// What to write instead.
    #[must_use]
    pub fn help(self) -> Option<String> {
        match self {
            Self::Syntax => Some("write an address and a length, such as `10.0.0.0/8` or `fd00::/8`".into()),
            Self::NoLength(address) => Some(format!("for this address alone write `{}`", IpNet::from(address))),
            Self::HostBits(range) => Some(format!("for the whole range write `{range}`")),
        }
    }
}

impl fmt::Display for CidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "this is not a CIDR",
            Self::NoLength(_) => "the range has no length",
            Self::HostBits(_) => "the address has bits set beyond the length",
        })
    }
}

impl std::error::Error for CidrError {}

/// The IPv4 address that a mapped (`::ffff:a.b.c.d`) or compatible (`::a.b.c.d`) address names; any other as it is.
#[must_use]
pub fn unwrap(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    six.to_ipv4_mapped().or_else(|| compatible(six)).map_or(address, IpAddr::V4)
}

/// Every address that `address` may stand for: itself, then each IPv4 address inside it.
pub fn readings(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let embedded = match address {
        IpAddr::V4(_) => [None; 4],
        IpAddr::V6(six) => embedded(six),
    };
    std::iter::once(address).chain(embedded.into_iter().flatten().map(IpAddr::V4))
}

/// Whether some address of the range carries an IPv4 one, so that it has several [`readings`].
#[must_use]
pub fn carries(range: IpNet) -> bool {
    let IpNet::V6(range) = range else { return false };
    let unspecified = Ipv6Addr::UNSPECIFIED;
    let mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    let prefixes = [
        (unspecified, 96),
        (mapped, 96),
        (TRANSLATED, 96),
        (NAT64, 96),
        (NAT64_LOCAL, 48),
        (SIX_TO_FOUR, 16),
        (TEREDO, 32),
    ];
    prefixes.into_iter().any(|(prefix, length)| {
        let shorter = u32::from(range.prefix_len().min(length));
        let top = |address: Ipv6Addr| u128::from(address).checked_shr(128_u32.saturating_sub(shorter)).unwrap_or(0);
        top(range.addr()) == top(prefix)
    })
}

/// `::a.b.c.d` (RFC 4291 §2.5.5.1), which `::` and `::1` are not.
fn compatible(six: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = u128::from(six);
    (bits >> 32 == 0 && bits > 1).then(|| low(bits))
}

/// The prefixes under which an IPv6 address carries an IPv4 one.
fn embedded(six: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let bits = u128::from(six);
    let under = |prefix: Ipv6Addr, length: u32| bits >> (128 - length) == u128::from(prefix) >> (128 - length);
    let mut found = [None; 4];
    if let Some(address) = six.to_ipv4_mapped().or_else(|| compatible(six)) {
        found[0] = Some(address);
    } else if under(TRANSLATED, 96) || under(NAT64, 96) {
        found[0] = Some(low(bits));
    } else if under(NAT64_LOCAL, 48) {
        found = local_forms(bits);
    } else if under(SIX_TO_FOUR, 16) {
        found[0] = Some(low(bits >> 80));
    } else if under(TEREDO, 32) {
        found[0] = Some(low(bits >> 64));
        found[1] = Some(low(!bits));
    }
    found
}

/// The forms that RFC 6052 §2.2 gives an address under a prefix of 48, 56, 64 or 96 bits, of which the operator chose
/// one; bits 64 to 71 are skipped. The zeros that fill one form would be read as 0.0.0.0/8 by another, so that range
/// counts only if no form says more.
fn local_forms(bits: u128) -> [Option<Ipv4Addr>; 4] {
    let squeezed = (bits >> 64 << 64) | (bits << 72 >> 64);
    let at = |length: u32| low(squeezed << length >> 96);
    let mut found = [at(48), at(56), at(64), low(bits)].map(|address| (address.octets()[0] != 0).then_some(address));
    if found == [None; 4] {
        found[3] = Some(low(bits));
    }
    found
}

/// `::ffff:0:a.b.c.d` (RFC 2765 §2.1).
const TRANSLATED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0);
/// RFC 6052 §2.1.
const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
/// RFC 8215.
const NAT64_LOCAL: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0);
/// RFC 3056 §2.
const SIX_TO_FOUR: Ipv6Addr = Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0);
/// RFC 4380 §2.6; server in bits 32 to 63, client inverted in the last 32.
const TEREDO: Ipv6Addr = Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0);

/// The low 32 bits as an address.
fn low(bits: u128) -> Ipv4Addr {
    let [.., a, b, c, d] = bits.to_be_bytes();
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn map(ranges: &[&str]) -> CidrMap<String> {
        let mut map = CidrMap::default();
        for text in ranges {
            map.insert(parse(text).unwrap(), (*text).to_owned()).unwrap();
        }
        map
    }

    #[test]
    fn the_narrowest_range_answers() {
        let map = map(&["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "255.255.255.255/32", "::/0", "fd00::/8"]);
        for (address, range) in [
            ("10.1.2.3", "10.1.0.0/16"),
            ("10.2.2.3", "10.0.0.0/8"),
            ("8.8.8.8", "0.0.0.0/0"),
            ("255.255.255.255", "255.255.255.255/32"),
            ("fd00::1", "fd00::/8"),
            ("2001:db8::1", "::/0"),
        ] {
            assert_eq!(map.get(ip(address)).map(String::as_str), Some(range), "{address}");
        }
    }

    #[test]
    fn an_embedded_address_is_read_in_every_form() {
        let deny = map(&["169.254.0.0/16"]);
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:0:a9:fea9:fe00:0",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::1",
            "2001:0:102:304:0:0:5601:5601",
        ] {
            assert!(deny.get_any_reading(ip(address)).is_some(), "{address}");
        }
        for address in ["64:ff9b::808:808", "2001:db8::a9fe:a9fe", "2003:a9fe:a9fe::1", "64:ff9b:1::808:808"] {
            assert!(deny.get_any_reading(ip(address)).is_none(), "{address}");
        }
    }

    #[test]
    fn a_range_carries_addresses_of_the_other_family_if_one_in_it_does() {
        for (range, carried) in [
            ("::/0", true),
            ("2000::/3", true),
            ("2002::/16", true),
            ("64:ff9b::/120", true),
            ("64:ff9b:1:2::/64", true),
            ("::ffff:0:0:0/96", true),
            ("::/96", true),
            ("2001:0:1::/48", true),
            ("2001:db8::/32", false),
            ("fd00::/8", false),
            ("64:ff9b:2::/48", false),
            ("10.0.0.0/8", false),
        ] {
            assert_eq!(carries(range.parse().unwrap()), carried, "{range}");
        }
    }

    #[test]
    fn the_zeros_that_fill_a_nat64_form_are_not_read_as_an_address() {
        let deny = map(&["0.0.0.0/8"]);
        assert!(deny.get_any_reading(ip("64:ff9b:1::808:808")).is_none());
        assert!(deny.get_any_reading(ip("64:ff9b:1:808:8:800::")).is_none());
        assert!(deny.get_any_reading(ip("64:ff9b:1::")).is_some());
    }

    #[test]
    fn allowing_unwraps_mapped_and_compatible_alone() {
        let allow = map(&["10.0.0.0/8"]);
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "::10.1.2.3"] {
            assert!(allow.get_unwrapped(ip(address)).is_some(), "{address}");
        }
        for address in ["64:ff9b::a01:203", "2002:a01:203::", "::ffff:0:10.1.2.3"] {
            assert!(allow.get_unwrapped(ip(address)).is_none(), "{address}");
        }
        assert_eq!(unwrap(ip("::1")), ip("::1"));
        assert_eq!(unwrap(ip("::")), ip("::"));
    }

    #[test]
    fn a_cidr_is_parsed_strictly() {
        assert_eq!(parse("::ffff:10.0.0.0/104"), Ok("10.0.0.0/8".parse().unwrap()));
        assert_eq!(parse("10.0.0.1"), Err(CidrError::NoLength(ip("10.0.0.1"))));
        assert_eq!(parse("10.0.0.1/8"), Err(CidrError::HostBits("10.0.0.0/8".parse().unwrap())));
        for text in ["", "10/8", "010.0.0.0/8", "example.com/8", "fe80::%1/10"] {
            assert_eq!(parse(text), Err(CidrError::Syntax), "{text}");
        }
        for length in ["", "33", "-1", "+8", "0008", "08 ", "1000"] {
            assert_eq!(parse(&format!("10.0.0.0/{length}")), Err(CidrError::Syntax), "{length}");
        }
        assert_eq!(parse("fd00::1/128"), Ok("fd00::1/128".parse().unwrap()));
        let mut twice = map(&["10.0.0.0/8"]);
        assert_eq!(twice.insert("10.0.0.0/8".parse().unwrap(), "second".into()), Err(&"10.0.0.0/8".to_owned()));
    }

    #[test]
    fn a_range_is_covered_by_the_narrowest_that_holds_all_of_it() {
        let map = map(&["10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "::/0"]);
        for (range, covering) in [
            ("10.1.2.0/24", Some("10.1.0.0/16")),
            ("10.1.0.0/16", Some("10.1.0.0/16")),
            ("10.0.0.0/15", Some("10.0.0.0/8")),
            ("10.0.0.0/7", None),
            ("0.0.0.0/0", None),
            ("11.0.0.0/8", None),
            ("fd00:1::/32", Some("fd00::/8")),
            ("fc00::/7", Some("::/0")),
        ] {
            let found = map.covering(range.parse().unwrap());
            assert_eq!(found.map(|(range, _)| range.to_string()).as_deref(), covering, "{range}");
            assert_eq!(found.map(|(_, text)| text.as_str()), covering, "{range}");
        }
    }

    #[test]
    fn a_map_counts_its_ranges() {
        assert!(CidrMap::<()>::default().is_empty());
        let map = map(&["10.0.0.0/8", "fd00::/8"]);
        assert_eq!((map.is_empty(), map.len(), map.iter().count()), (false, 2, 2));
        assert!(map.iter().all(|(range, text)| range.to_string() == *text));
    }

    /// Addresses near one another, so that ranges meet: few different bytes, in both families.
    fn addresses() -> impl Strategy<Value = IpAddr> {
        let byte = prop_oneof![Just(0_u8), Just(10), Just(0x64), Just(0xff), Just(0x9b), any::<u8>()];
        let four = proptest::collection::vec(byte.clone(), 4)
            .prop_map(|bytes| IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap()));
        let six =
            proptest::collection::vec(byte, 16).prop_map(|bytes| IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()));
        let prefix = proptest::sample::select(vec!["::", "::ffff:0:0", "64:ff9b::", "64:ff9b:1::", "2002::", "2001::"]);
        let under = (prefix, any::<u64>()).prop_map(|(prefix, rest)| {
            IpAddr::from(Ipv6Addr::from(u128::from(prefix.parse::<Ipv6Addr>().unwrap()) | u128::from(rest)))
        });
        prop_oneof![four, six, under]
    }

    fn ranges() -> impl Strategy<Value = IpNet> {
        (addresses(), 0..=128_u8).prop_map(|(address, length)| {
            let length = if address.is_ipv4() { length / 4 } else { length };
            IpNet::new(address, length).unwrap().trunc()
        })
    }

    proptest! {
        #[test]
        fn the_map_agrees_with_a_scan(
            ranges in proptest::collection::btree_set(self::ranges(), 0..30),
            addresses in proptest::collection::vec(addresses(), 1..20),
            others in proptest::collection::vec(self::ranges(), 1..20),
        ) {
            let mut map = CidrMap::default();
            for range in &ranges {
                prop_assert!(map.insert(*range, *range).is_ok());
            }
            prop_assert_eq!(map.len(), ranges.len());
            let near = ranges.iter().flat_map(|range| [range.network(), range.broadcast()]);
            for address in addresses.into_iter().chain(near) {
                let scan = |address: IpAddr| {
                    ranges.iter().filter(|range| range.contains(&address)).max_by_key(|range| range.prefix_len())
                };
                prop_assert_eq!(map.get(address), scan(address));
                prop_assert_eq!(map.get_any_reading(address), readings(address).find_map(scan));
                prop_assert_eq!(map.get_unwrapped(address), scan(unwrap(address)).or_else(|| scan(address)));
                if let IpAddr::V4(four) = address {
                    let mapped = IpAddr::V6(four.to_ipv6_mapped());
                    prop_assert_eq!(map.get_unwrapped(mapped), scan(address).or_else(|| scan(mapped)));
                }
            }
            for other in others.iter().chain(&ranges) {
                let scan = ranges.iter().filter(|range| range.contains(other)).max_by_key(|range| range.prefix_len());
                prop_assert_eq!(map.covering(*other), scan.map(|range| (*range, range)));
            }
        }

        #[test]
        fn any_text_is_a_range_or_none(text in "[0-9a-f:./]{0,24}") {
            if let Ok(range) = parse(&text) {
                prop_assert_eq!(parse(&range.to_string()), Ok(range));
            }
        }
    }
}
