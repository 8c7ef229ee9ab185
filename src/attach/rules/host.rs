//! The rules on the host for all interfaces that are attached: what comes in by one goes to its listener, or nowhere.
//!
//! TPROXY alone fails open: a packet that no listener takes goes on as if there were no rule. So each hook that such a
//! packet could pass has a drop of its own.
//!
//! - `INVARIANT`: no packet of a sandbox reaches a socket that is not its listener's, and none is passed on; also when
//!   no listener is there, and while nobody runs.
//! - `INVARIANT`: nothing is sent to a sandbox but what its own sockets send, so sandboxes do not reach one another.
//! - `INVARIANT`: an interface is known by name and by number: one that is renamed stays closed, and so does one that
//!   is made again under the name.
//!
//! ```text
//! table inet exeat {
//!   set names { type ifname; }
//!   set numbers { type iface_index; }
//!   chain arrivals   { type filter hook prerouting priority raw; iifname @names goto taken; iif @numbers goto taken; }
//!   chain deliveries { type filter hook input priority raw; iifname @names goto known; iif @numbers goto known; }
//!   chain passages   { type filter hook forward priority raw; DEVICE drop; }         # DEVICE: each of the four ways
//!   chain departures { type filter hook output priority raw; oifname @names goto answers; oif @numbers goto answers; }
//!   chain taken {
//!     notrack                                              # two sandboxes may use the same addresses and ports
//!     meta l4proto tcp tproxy to :LISTENER meta mark set 0x65786561 accept
//!     udp dport 53 tproxy to :LISTENER meta mark set 0x65786561 accept
//!     meta l4proto udp tproxy to :RELAY meta mark set 0x65786561 accept
//!     icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
//!     drop
//!   }
//!   chain known {
//!     meta mark 0x65786561 accept
//!     icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
//!     drop
//!   }
//!   chain answers {
//!     notrack
//!     meta mark 0x65786561 udp sport LISTENER udp sport set 53
//!     goto known
//!   }
//! }
//! ```

use super::{accept, answers_come_from_dns, drop_all, neighbours, ours, questions, tcp, udp};
use crate::attach::nft::{
    At, Key, Keys, Message, Policy, Priority, Rule, Table, goto, interface_name, is_in, mark, tproxy, untracked,
};
use crate::attach::sockets::{LISTENER_PORT, MARK, RELAY_PORT};

/// The table.
pub(in crate::attach) const TABLE: &str = "exeat";

/// Interfaces that are attached, and what all share: that is made where the table's comment is not the current one, in
/// place of the table that is there.
pub(in crate::attach) fn declare(comment: Option<&str>, attached: &[(String, u32)]) -> Vec<Message> {
    let table = Table::inet(TABLE);
    let mut messages = if is_current(comment) { Vec::new() } else { shared(&table, comment.is_some()) };
    for (name, index) in attached {
        messages.extend([table.add(NAMES, &interface_name(name)), table.add(NUMBERS, &index.to_ne_bytes())]);
    }
    messages
}

/// Whether the table that has this comment is as [`declare`] makes it.
pub(in crate::attach) fn is_current(comment: Option<&str>) -> bool {
    comment == Some(VERSION)
}

/// What the table's comment says where it is as [`shared`] makes it.
const VERSION: &str = "interfaces of sandboxes, 2";

fn shared(table: &Table<'_>, there: bool) -> Vec<Message> {
    let incoming = |chain: &str| vec![on(Key::Iifname, NAMES, goto(chain)), on(Key::Iif, NUMBERS, goto(chain))];
    let outgoing = |chain: &str| vec![on(Key::Oifname, NAMES, goto(chain)), on(Key::Oif, NUMBERS, goto(chain))];
    let [solicit, advertise] = neighbours().map(accept);
    let passages = [(Key::Iifname, NAMES), (Key::Iif, NUMBERS), (Key::Oifname, NAMES), (Key::Oif, NUMBERS)];
    let passages = passages.into_iter().map(|(key, set)| on(key, set, drop_all())).collect();
    let known = vec![accept(ours()), solicit.clone(), advertise.clone(), drop_all()];
    let taken = vec![
        untracked(),
        to(LISTENER_PORT, tcp()),
        to(LISTENER_PORT, questions()),
        to(RELAY_PORT, udp()),
        solicit,
        advertise,
        drop_all(),
    ];
    let base = [
        ("arrivals", At::Prerouting, incoming("taken")),
        ("deliveries", At::Input, incoming("known")),
        ("passages", At::Forward, passages),
        ("departures", At::Output, outgoing("answers")),
    ];
    let others =
        [("known", known), ("taken", taken), ("answers", vec![untracked(), answers_come_from_dns(), goto("known")])];
    let mut messages = table.make(VERSION, there);
    messages.extend([table.set(NAMES, 1, Keys::InterfaceName), table.set(NUMBERS, 2, Keys::InterfaceIndex)]);
    messages.extend(others.iter().map(|(name, _)| table.chain(name)));
    for (name, rules) in others {
        messages.extend(table.rules(name, rules));
    }
    for (name, at, rules) in base {
        messages.push(table.base_chain(name, at, Priority::Raw, Policy::Accept));
        messages.extend(table.rules(name, rules));
    }
    messages
}

/// One interface less; with the last one, the table goes. Each request is for itself. The name is kept where another
/// interface has it by now.
pub(in crate::attach) fn remove(name: Option<&str>, index: u32, last: bool) -> Vec<Message> {
    let table = Table::inet(TABLE);
    if last {
        return vec![table.delete()];
    }
    let name = name.map(|name| table.remove(NAMES, &interface_name(name)));
    name.into_iter().chain([table.remove(NUMBERS, &index.to_ne_bytes())]).collect()
}

const NAMES: &str = "names";
const NUMBERS: &str = "numbers";

fn on(key: Key, set: &str, then: Rule) -> Rule {
    [is_in(key, set), then].concat()
}

fn to(port: u16, which: Rule) -> Rule {
    accept([which, tproxy(port), mark(MARK)].concat())
}
