//! Ranges bit by bit, and the IPv4 addresses inside an IPv6 one octet by octet (POLICY §3 "Embedded IPv4").

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range whose address has no bit beyond its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) address: IpAddr,
    pub(crate) length: usize,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The bit at a place, the first being 0.
fn bit(address: IpAddr, place: usize) -> bool {
    let octet = match address {
        IpAddr::V4(four) => four.octets()[place / 8],
        IpAddr::V6(six) => six.octets()[place / 8],
    };
    octet & (0x80 >> (place % 8)) != 0
}

/// Whether the range holds the address as it is written.
pub(crate) fn holds(range: Range, address: IpAddr) -> bool {
    if range.address.is_ipv4() != address.is_ipv4() {
        return false;
    }
    for place in 0..range.length {
        if bit(address, place) != bit(range.address, place) {
            return false;
        }
    }
    true
}

/// Whether every address of `inner` lies in `outer`.
pub(crate) fn within(inner: Range, outer: Range) -> bool {
    inner.length >= outer.length && holds(outer, inner.address)
}

/// What a range as it is written comes to: one of mapped addresses is the IPv4 range that it names.
pub(crate) fn meant(range: Range) -> Range {
    match range.address {
        IpAddr::V6(six) if range.length >= 96 && six.octets()[..12] == MAPPED => {
            Range { address: last_four(six).into(), length: range.length - 96 }
        }
        _ => range,
    }
}

/// The place of the narrowest of `ranges` that holds the address.
pub(crate) fn narrowest(ranges: &[Range], address: IpAddr) -> Option<usize> {
    let mut best: Option<usize> = None;
    for (place, range) in ranges.iter().enumerate() {
        let better = match best {
            None => true,
            Some(other) => meant(*range).length > meant(ranges[other]).length,
        };
        if holds(meant(*range), address) && better {
            best = Some(place);
        }
    }
    best
}

/// What a mapped or compatible address names; any other as it is.
pub(crate) fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(six) = address else { return address };
    let octets = six.octets();
    let compatible = octets[..12] == [0; 12] && six != Ipv6Addr::UNSPECIFIED && six != Ipv6Addr::LOCALHOST;
    if octets[..12] == MAPPED || compatible { last_four(six).into() } else { address }
}

/// Every address that this may stand for: itself, then each IPv4 address inside it.
pub(crate) fn readings(address: IpAddr) -> Vec<IpAddr> {
    let mut all = vec![address];
    let IpAddr::V6(six) = address else { return all };
    let octets = six.octets();
    let at = |places: [usize; 4]| IpAddr::V4(Ipv4Addr::from(places.map(|place| octets[place])));
    if unwrapped(address) != address {
        all.push(unwrapped(address));
    } else if octets[..12] == TRANSLATED || octets[..12] == NAT64 {
        all.push(at([12, 13, 14, 15]));
    } else if octets[..6] == NAT64_LOCAL {
        // RFC 6052 §2.2; octet 8 is skipped. The engine passes over 0.0.0.0/8 if any form says more.
        let forms = [at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12]), at([12, 13, 14, 15])];
        let telling: Vec<IpAddr> = forms.into_iter().filter(|form| (0..8).any(|place| bit(*form, place))).collect();
        if telling.is_empty() {
            all.push(forms[3]);
        }
        all.extend(telling);
    } else if octets[..2] == [0x20, 0x02] {
        all.push(at([2, 3, 4, 5]));
    } else if octets[..4] == [0x20, 0x01, 0, 0] {
        all.push(at([4, 5, 6, 7]));
        let client = [12, 13, 14, 15].map(|place: usize| 255 - octets[place]);
        all.push(IpAddr::V4(Ipv4Addr::from(client)));
    }
    all
}

/// `::ffff:a.b.c.d`
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
/// `::ffff:0:a.b.c.d`, which the engine reads beyond what the page lists.
const TRANSLATED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
/// `64:ff9b::a.b.c.d`
const NAT64: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
/// `64:ff9b:1::/48`
const NAT64_LOCAL: [u8; 6] = [0, 0x64, 0xff, 0x9b, 0, 1];

fn last_four(six: Ipv6Addr) -> Ipv4Addr {
    let octets = six.octets();
    Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15])
}
