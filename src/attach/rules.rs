//! The nftables rules of attachments: what they have in common, and one module for each place where they stand.
//!
//! Each is given as one batch, so that it stands whole or not at all. No table is bound to the process that made it:
//! rules outlive exeat, and what they drop stays dropped.

pub(super) mod device;
pub(super) mod host;
pub(super) mod namespace;

use super::nft::{Header, Key, Policy, Rule, carries, holds, is, verdict, write_udp};
use super::sockets::{DNS_PORT, LISTENER_PORT, MARK};

/// Families of `linux/netfilter.h`.
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

fn ipv4() -> Rule {
    is(Key::Nfproto, &[NFPROTO_IPV4])
}

fn ipv6() -> Rule {
    is(Key::Nfproto, &[NFPROTO_IPV6])
}

fn tcp() -> Rule {
    carries(libc::IPPROTO_TCP)
}

fn udp() -> Rule {
    carries(libc::IPPROTO_UDP)
}

/// `udp dport 53`
fn questions() -> Rule {
    [udp(), holds(Header::Transport, 2, &DNS_PORT.to_be_bytes())].concat()
}

fn icmp(protocol: i32, kind: u8) -> Rule {
    [carries(protocol), holds(Header::Transport, 0, &[kind])].concat()
}

/// Neighbour solicitation and advertisement (RFC 4861 §4.3, §4.4).
fn neighbours() -> [Rule; 2] {
    [135, 136].map(|kind| icmp(libc::IPPROTO_ICMPV6, kind))
}

/// What our own sockets send.
fn ours() -> Rule {
    is(Key::Mark, &MARK.to_ne_bytes())
}

fn accept(which: Rule) -> Rule {
    [which, verdict(Policy::Accept)].concat()
}

fn drop_all() -> Rule {
    verdict(Policy::Drop)
}

/// Our answers to questions bear the port that was asked: `udp sport LISTENER udp sport set 53`.
fn answers_come_from_dns() -> Rule {
    let answers = holds(Header::Transport, 0, &LISTENER_PORT.to_be_bytes());
    [ours(), udp(), answers, write_udp(0, &DNS_PORT.to_be_bytes())].concat()
}
