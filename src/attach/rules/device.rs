//! The rules at one device that a sandbox's frames come in by: what it may claim to be, and what may come at all.
//!
//! They see a frame before anything else of the host does. Only TCP, UDP, and what it takes to find the device's
//! neighbour pass, from the sandbox's own addresses; the device's namespace decides where they go.
//!
//! - `INVARIANT`: nothing is left that two sandboxes with the same addresses share: no fragment is put together, and
//!   refusals go back the way that the packet came, without a route.
//! - `INVARIANT`: a sandbox makes the host remember no more neighbours than it has addresses, and [`NEIGHBOURS`].
//!
//! ```text
//! table netdev exeat-NAME {
//!   comment "…"                                            # what detaching restores
//!   set neighbours { type ipv6_addr; size 8; timeout 10m; flags dynamic; }
//!   chain arrivals {
//!     type filter hook ingress device NAME priority -500; policy drop;
//!     ether type arp goto arp
//!     ether type ip goto ipv4
//!     ether type ip6 goto ipv6                             # as on the wire: no tagged frame is any of these
//!   }
//!   chain arp {
//!     @nh,0,48 != 0x000108000604 drop                      # IPv4 over Ethernet
//!     arp daddr ip ADDRESS drop                            # nobody else answers for it
//!     arp saddr ip ADDRESS meta mark set 0x65786561 accept # so every address is found behind the device
//!     drop
//!   }
//!   chain ipv4 {
//!     @nh,0,8 != 0x45 drop                                 # options
//!     ip frag-off & 0x3fff != 0 drop
//!     ip daddr >= 224.0.0.0 drop                           # multicast, broadcast
//!     ip saddr ADDRESS goto transport
//!     drop
//!   }
//!   chain ipv6 {
//!     icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } goto neighbours
//!     ip6 daddr >= ff00:: drop
//!     ip6 nexthdr { tcp, udp } ip6 saddr ADDRESS goto transport   # no extension header, so no fragment
//!     drop
//!   }
//!   chain neighbours {
//!     ip6 saddr ADDRESS accept
//!     ip6 saddr :: icmpv6 type nd-neighbor-solicit accept  # is the address free?
//!     ip6 saddr fe80::/64 update @neighbours { ip6 saddr } accept
//!     drop
//!   }
//!   chain transport {
//!     meta pkttype != host drop
//!     meta l4proto tcp accept
//!     meta l4proto udp accept
//!     drop
//!   }
//! }
//! ```

use std::net::{IpAddr, Ipv6Addr};

use super::{accept, drop_all, tcp, udp};
use crate::attach::nft::{
    At, Header, Key, Keys, Message, Policy, Priority, Rule, Table, goto, holds, holds_any_bit, holds_at_least,
    holds_not, is_not, mark, remembers,
};
use crate::attach::sockets::MARK;

/// What the name of each device's table begins with; its own name follows.
pub(in crate::attach) const PREFIX: &str = "exeat-";

/// Link-local addresses that one sandbox may have at a time, and for how long after each was last seen.
const NEIGHBOURS: Keys = Keys::RecentIpv6 { most: 8, milliseconds: 600_000 };

/// The name of a device's table.
pub(in crate::attach) fn table_name(device: &str) -> String {
    format!("{PREFIX}{device}")
}

/// The whole of it, in place of what an earlier attachment left `there`.
pub(in crate::attach) fn declare(device: &str, addresses: &[IpAddr], comment: &str, there: bool) -> Vec<Message> {
    let name = table_name(device);
    let table = Table::netdev(&name);
    let mut messages = table.make(comment, there);
    messages.push(table.set("neighbours", 3, NEIGHBOURS));
    let chains = [
        ("transport", transport()),
        ("neighbours", neighbours(addresses)),
        ("arp", arp(addresses)),
        ("ipv4", ipv4(addresses)),
        ("ipv6", ipv6(addresses)),
    ];
    messages.extend(chains.iter().map(|(name, _)| table.chain(name)));
    for (name, rules) in chains {
        messages.extend(table.rules(name, rules));
    }
    messages.push(table.base_chain("arrivals", At::Ingress(device), Priority::First, Policy::Drop));
    let kinds = [(libc::ETH_P_ARP, "arp"), (libc::ETH_P_IP, "ipv4"), (libc::ETH_P_IPV6, "ipv6")];
    let arrivals = kinds.map(|(kind, chain)| [ether_type(kind), goto(chain)].concat());
    messages.extend(table.rules("arrivals", arrivals.into()));
    messages
}

/// All of it.
pub(in crate::attach) fn remove(device: &str) -> Message {
    Table::netdev(&table_name(device)).delete()
}

fn ether_type(kind: i32) -> Rule {
    let [_, _, high, low] = kind.to_be_bytes();
    holds(Header::Link, 12, &[high, low])
}

/// The octets of the addresses of one family.
fn octets(addresses: &[IpAddr], ipv6: bool) -> impl Iterator<Item = Vec<u8>> {
    addresses.iter().filter(move |ip| ip.is_ipv6() == ipv6).map(|ip| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    })
}

fn arp(addresses: &[IpAddr]) -> Vec<Rule> {
    const IPV4_OVER_ETHERNET: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let sender = |ip: Vec<u8>| accept([holds(Header::Network, 14, &ip), mark(MARK)].concat());
    let target = |ip: Vec<u8>| [holds(Header::Network, 24, &ip), drop_all()].concat();
    let mut rules = vec![[holds_not(Header::Network, 0, &IPV4_OVER_ETHERNET), drop_all()].concat()];
    rules.extend(octets(addresses, false).map(target));
    rules.extend(octets(addresses, false).map(sender));
    rules.push(drop_all());
    rules
}

fn ipv4(addresses: &[IpAddr]) -> Vec<Rule> {
    let mut rules = vec![
        [holds_not(Header::Network, 0, &[0x45]), drop_all()].concat(),
        [holds_any_bit(Header::Network, 6, &[0x3f, 0xff]), drop_all()].concat(),
        [holds_at_least(Header::Network, 16, &[224]), drop_all()].concat(),
    ];
    rules.extend(octets(addresses, false).map(|ip| [holds(Header::Network, 12, &ip), goto("transport")].concat()));
    rules.push(drop_all());
    rules
}

fn ipv6(addresses: &[IpAddr]) -> Vec<Rule> {
    let carries = |protocol: i32| holds(Header::Network, 6, &protocol.to_le_bytes()[..1]);
    let neighbour = |kind| [carries(libc::IPPROTO_ICMPV6), icmpv6_type(kind), goto("neighbours")].concat();
    let mut rules = vec![
        neighbour(SOLICITATION),
        neighbour(ADVERTISEMENT),
        [holds_at_least(Header::Network, 24, &[0xff]), drop_all()].concat(),
    ];
    rules.extend(octets(addresses, true).flat_map(|ip| {
        [libc::IPPROTO_TCP, libc::IPPROTO_UDP]
            .map(|protocol| [carries(protocol), holds(Header::Network, 8, &ip), goto("transport")].concat())
    }));
    rules.push(drop_all());
    rules
}

/// RFC 4861 §4.3, §4.4.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

fn icmpv6_type(kind: u8) -> Rule {
    const HEADER_BYTES: u32 = 40;
    holds(Header::Network, HEADER_BYTES, &[kind])
}

fn neighbours(addresses: &[IpAddr]) -> Vec<Rule> {
    const LINK_LOCAL: [u8; 8] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0];
    let source = |octets: &[u8]| holds(Header::Network, 8, octets);
    let mut rules: Vec<Rule> = octets(addresses, true).map(|ip| accept(source(&ip))).collect();
    // With no address of the family, nobody is asked for.
    if !rules.is_empty() {
        rules.push(accept([source(&Ipv6Addr::UNSPECIFIED.octets()), icmpv6_type(SOLICITATION)].concat()));
        rules.push(accept([source(&LINK_LOCAL), remembers(Header::Network, 8, 16, "neighbours")].concat()));
    }
    rules.push(drop_all());
    rules
}

fn transport() -> Vec<Rule> {
    const PACKET_HOST: u8 = 0;
    vec![[is_not(Key::PacketType, &[PACKET_HOST]), drop_all()].concat(), accept(tcp()), accept(udp()), drop_all()]
}
