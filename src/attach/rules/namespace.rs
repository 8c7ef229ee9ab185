//! The rules inside a sandbox's network namespace.
//!
//! Every address is local there (HOUSE §2), so they confine nothing by themselves: no interface leads out. They bring
//! every connection to our one listener, every DNS question to our resolver, and refuse the rest quickly. Through an
//! interface that comes later nothing passes, before anybody has noticed it.
//!
//! ```text
//! table inet exeat {
//!   comment "…"                                            # what detaching restores
//!   chain arrivals {
//!     type filter hook prerouting priority mangle; policy drop;
//!     iif lo goto judged
//!     iifname TAP goto guest                               # for each TAP that was declared
//!   }
//!   chain guest {
//!     icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
//!     goto judged
//!   }
//!   chain judged {
//!     meta mark 0x65786561 accept                          # what our own sockets send
//!     ip daddr 127.0.0.0/8 accept                          # true loopback is the sandbox's own
//!     ip6 daddr ::1 accept
//!     meta l4proto tcp tproxy to :LISTENER accept
//!     meta l4proto tcp accept                              # resets towards the sandbox's own sockets
//!     udp dport 53 tproxy to :LISTENER accept
//!     meta l4proto udp tproxy to :RELAY accept
//!     meta l4proto udp reject                              # port unreachable, where nobody is there to say so
//!     icmp type { dest-unreachable, time-exceeded, parameter-problem } accept
//!     icmpv6 type { dest-unreachable, packet-too-big, time-exceeded, parameter-problem } accept
//!     drop
//!   }
//!   chain departures {
//!     type filter hook output priority raw; policy drop;
//!     meta mark 0x65786561 udp sport LISTENER udp sport set 53
//!     oif lo accept
//!     oifname TAP goto answers
//!   }
//!   chain answers {
//!     meta mark 0x65786561 accept
//!     icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
//!     drop
//!   }
//!   chain passages { type filter hook forward priority raw; policy drop; }
//! }
//! ```

use std::net::Ipv6Addr;

use super::{accept, answers_come_from_dns, drop_all, icmp, ipv4, ipv6, neighbours, ours, questions, tcp, udp};
use crate::attach::nft::{
    At, Header, Key, Message, Policy, Priority, Rule, Table, goto, holds, interface_name, is, reject, tproxy,
};
use crate::attach::sockets::{LISTENER_PORT, RELAY_PORT};

/// The table.
pub(in crate::attach) const TABLE: &str = "exeat";
/// `lo` has this index in every network namespace.
pub(in crate::attach) const LOOPBACK_INDEX: u32 = 1;

/// The whole of it, in place of what an earlier attachment left `there`; `taps` are names of interfaces.
pub(in crate::attach) fn declare(comment: &str, there: bool, taps: &[&str]) -> Vec<Message> {
    let table = Table::inet(TABLE);
    let lo = LOOPBACK_INDEX.to_ne_bytes();
    let mut arrivals = vec![[is(Key::Iif, &lo), goto("judged")].concat()];
    let mut departures = vec![answers_come_from_dns(), accept(is(Key::Oif, &lo))];
    for tap in taps.iter().map(|tap| interface_name(tap)) {
        arrivals.push([is(Key::Iifname, &tap), goto("guest")].concat());
        departures.push([is(Key::Oifname, &tap), goto("answers")].concat());
    }
    let [solicit, advertise] = neighbours().map(accept);
    let mut messages = table.make(comment, there);
    messages.extend([
        table.base_chain("arrivals", At::Prerouting, Priority::Mangle, Policy::Drop),
        table.base_chain("departures", At::Output, Priority::Raw, Policy::Drop),
        table.base_chain("passages", At::Forward, Priority::Raw, Policy::Drop),
        table.chain("judged"),
        table.chain("guest"),
        table.chain("answers"),
    ]);
    messages.extend(table.rules("judged", judged()));
    messages.extend(table.rules("guest", vec![solicit.clone(), advertise.clone(), goto("judged")]));
    messages.extend(table.rules("answers", vec![accept(ours()), solicit, advertise, drop_all()]));
    messages.extend(table.rules("arrivals", arrivals));
    messages.extend(table.rules("departures", departures));
    messages
}

fn judged() -> Vec<Rule> {
    let mut rules = vec![
        accept(ours()),
        accept([ipv4(), holds(Header::Network, 16, &[127])].concat()),
        accept([ipv6(), holds(Header::Network, 24, &Ipv6Addr::LOCALHOST.octets())].concat()),
        accept([tcp(), tproxy(LISTENER_PORT)].concat()),
        accept(tcp()),
        accept([questions(), tproxy(LISTENER_PORT)].concat()),
        accept([udp(), tproxy(RELAY_PORT)].concat()),
        [udp(), reject()].concat(),
    ];
    rules.extend([3, 11, 12].map(|kind| accept(icmp(libc::IPPROTO_ICMP, kind))));
    rules.extend([1, 2, 3, 4].map(|kind| accept(icmp(libc::IPPROTO_ICMPV6, kind))));
    rules.push(drop_all());
    rules
}
