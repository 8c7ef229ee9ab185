//! Protected ranges (POLICY §3): what no policy may open by itself, or only by naming it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::matcher::cidr::{CidrMap, readings, unwrap};

/// The ranges that are protected on this host, and the host's own addresses.
///
/// A snapshot: who watches the host's addresses makes a new one when they change.
#[derive(Debug, Clone)]
pub struct Protected {
    host: HashSet<IpAddr>,
    removed: Vec<IpNet>,
}

impl Protected {
    /// The default ranges and these addresses of the host.
    #[must_use]
    pub fn new(host_addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { host: host_addresses.into_iter().map(unwrap).collect(), removed: Vec::new() }
    }

    /// Takes a range out of protection, as the operator may (`--allow-protected`).
    #[must_use]
    pub fn without(mut self, range: IpNet) -> Self {
        self.removed.push(range);
        self
    }

    /// Whether some reading of `address` is protected, and not opened by the policy whose openings these are.
    #[must_use]
    pub(super) fn covers<T>(&self, address: IpAddr, opened: &CidrMap<T>) -> bool {
        self.guard(address, opened).is_some()
    }

    /// Which reading of `address` is protected, and not opened by the policy whose openings these are; and by what.
    #[must_use]
    pub(super) fn guard<T>(&self, address: IpAddr, opened: &CidrMap<T>) -> Option<Guard> {
        readings(address).find_map(|reading| {
            let holds = |range: &&IpNet| range.contains(&reading);
            let by = |range: Option<&IpNet>| Some(Guard { reading, range: range.copied() });
            if self.removed.iter().any(|range| range.contains(&reading)) {
                return None;
            }
            if self.host.contains(&reading) {
                return by(None);
            }
            let closed = CLOSED.iter().find(holds);
            let openable = || OPENABLE.iter().find(holds).filter(|_| opened.get(reading).is_none());
            by(Some(closed.or_else(openable)?))
        })
    }
}

/// What protects an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guard {
    /// The address, or what it may stand for.
    pub(super) reading: IpAddr,
    /// The range that it lies in; `None` if it is the host's own.
    pub(super) range: Option<IpNet>,
}

/// Whether `address` is protected as it is written, on a host without addresses of its own, and not opened by the
/// policy whose openings these are.
#[must_use]
pub(super) fn is_covered<T>(address: IpAddr, opened: &CidrMap<T>) -> bool {
    is_closed(address) || (is_openable(address) && opened.get(address).is_none())
}

/// All ranges that are protected by default.
pub(super) fn ranges() -> impl Iterator<Item = IpNet> {
    OPENABLE.into_iter().chain(CLOSED)
}

/// Whether a `subnets.allow` entry opens the protected range that it lies in: wholly inside an openable one, and, where
/// the operator lists what may be opened, wholly inside one of those (POLICY §3). A supernet never does.
#[must_use]
pub(super) fn opens(entry: &IpNet, listed: Option<&[IpNet]>) -> bool {
    let inside = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(entry));
    inside(&OPENABLE) && listed.is_none_or(inside)
}

/// What a `subnets.allow` entry of the operator's leaves protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unopened {
    /// All of it: it lies in a range that no policy opens.
    Closed,
    /// A private range inside it, which is not opened because the entry is wider.
    Private(IpNet),
}

/// What an entry leaves protected, if it is all of it or a private range (POLICY §3).
#[must_use]
pub(super) fn unopened(entry: &IpNet) -> Option<Unopened> {
    if CLOSED.iter().any(|range| range.contains(entry)) {
        return Some(Unopened::Closed);
    }
    OPENABLE.into_iter().find(|range| range != entry && entry.contains(range)).map(Unopened::Private)
}

/// Whether `address` lies in a range that a policy may open by naming it.
#[must_use]
pub(super) fn is_openable(address: IpAddr) -> bool {
    !is_closed(address) && OPENABLE.iter().any(|range| range.contains(&address))
}

/// Whether `address` lies in a range that the operator alone opens. (The host's own addresses are protected, too.)
#[must_use]
pub(super) fn is_closed(address: IpAddr) -> bool {
    CLOSED.iter().any(|range| range.contains(&address))
}

/// RFC 1918, CGNAT (RFC 6598) and ULA (RFC 4193).
const OPENABLE: [IpNet; 5] = [
    four([10, 0, 0, 0], 8),
    four([172, 16, 0, 0], 12),
    four([192, 168, 0, 0], 16),
    four([100, 64, 0, 0], 10),
    six([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
];

/// This network, loopback, link-local (and with it the metadata services), multicast, broadcast, reserved,
/// benchmarking; EC2's metadata service inside ULA.
const CLOSED: [IpNet; 12] = [
    four([0, 0, 0, 0], 8),
    four([127, 0, 0, 0], 8),
    four([169, 254, 0, 0], 16),
    four([224, 0, 0, 0], 4),
    four([240, 0, 0, 0], 4),
    four([255, 255, 255, 255], 32),
    four([198, 18, 0, 0], 15),
    six([0, 0, 0, 0, 0, 0, 0, 0], 128),
    six([0, 0, 0, 0, 0, 0, 0, 1], 128),
    six([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    six([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
    six([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
];

const fn four([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn six([a, b, c, d, e, f, g, h]: [u16; 8], length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn opened(ranges: &[&str]) -> CidrMap<()> {
        let mut map = CidrMap::default();
        for range in ranges.iter().map(|text| net(text)).filter(|range| opens(range, None)) {
            map.insert(range, ()).unwrap();
        }
        map
    }

    #[test]
    fn the_default_ranges_are_those_of_the_policy_page() {
        let host = Protected::new([ip("203.0.113.7"), ip("2001:db8:7::1")]);
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.0.1",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "fc00::1",
            "fd00:ec2::254",
            "203.0.113.7",
            "2001:db8:7::1",
            "::ffff:203.0.113.7",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:a00:1::",
            "2001:0:102:304:0:0:80ff:fffe",
        ] {
            assert!(host.covers(ip(address), &opened(&[])), "{address}");
        }
        for address in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "203.0.113.8",
            "2606:4700::1",
            "64:ff9b::808:808",
            "198.51.100.1",
            "2001:db8:e::1",
        ] {
            assert!(!host.covers(ip(address), &opened(&[])), "{address}");
        }
    }

    #[test]
    fn a_policy_opens_a_range_only_by_an_entry_wholly_inside_an_openable_one() {
        let host = Protected::new([ip("10.20.0.9")]);
        let inside = opened(&["10.20.0.0/16", "fd00::/8"]);
        assert!(!host.covers(ip("10.20.0.1"), &inside));
        assert!(!host.covers(ip("fd00::1"), &inside));
        assert!(host.covers(ip("10.21.0.1"), &inside));
        assert!(host.covers(ip("10.20.0.9"), &inside), "the host's own address");
        assert!(host.covers(ip("fd00:ec2::254"), &inside), "metadata inside an opened range");
        let outside = opened(&["0.0.0.0/0", "8.0.0.0/6", "::/0", "127.0.0.0/8", "169.254.0.0/16", "fe80::/10"]);
        for address in ["10.20.0.1", "127.0.0.1", "169.254.169.254", "fd00::1", "fe80::1"] {
            assert!(host.covers(ip(address), &outside), "{address}");
        }
    }

    #[test]
    fn an_entry_may_leave_what_it_holds_protected() {
        for (range, left) in [
            ("127.0.0.0/8", Some(Unopened::Closed)),
            ("169.254.169.254/32", Some(Unopened::Closed)),
            ("fe80::/10", Some(Unopened::Closed)),
            ("172.0.0.0/8", Some(Unopened::Private(net("172.16.0.0/12")))),
            ("0.0.0.0/0", Some(Unopened::Private(net("10.0.0.0/8")))),
            ("fc00::/6", Some(Unopened::Private(net("fc00::/7")))),
            ("10.0.0.0/8", None),
            ("10.1.0.0/16", None),
            ("fd00::/8", None),
            ("8.8.8.0/24", None),
            ("2606:4700::/32", None),
        ] {
            assert_eq!(unopened(&net(range)), left, "{range}");
        }
    }

    #[test]
    fn the_operator_opens_anything() {
        let host = Protected::new([ip("10.0.0.9")])
            .without(net("127.0.0.0/8"))
            .without(net("10.0.0.9/32"))
            .without(net("::1/128"));
        for address in ["127.0.0.1", "10.0.0.9", "::1", "::ffff:127.0.0.1"] {
            assert!(!host.covers(ip(address), &opened(&[])), "{address}");
        }
        assert!(host.covers(ip("10.0.0.8"), &opened(&[])));
    }
}
