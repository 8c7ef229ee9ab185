//! The policy routing on the host that TPROXY needs: one pair of rules and tables of each family, shared by all
//! interfaces that are attached.
//!
//! ```text
//! ip rule add priority 60 fwmark 0x65786561 iif lo lookup 25977    # what our sockets send, and return paths
//! ip rule add priority 61 fwmark 0x65786561 lookup 25976           # what TPROXY has taken, and ARP
//! ip route add local default dev lo table 25976                    # every address is ours
//! ip route add unreachable default metric 4294967295 table 25977   # no way but those to sandboxes
//! ```
//!
//! The kernel is where they are counted: they are made when an interface needs them, whether or not they are there,
//! and taken away with the last one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::netlink::{Netlink, absent, family, present};
use super::rules::namespace::LOOPBACK_INDEX;
use super::sockets::MARK;

/// The table with the ways to the sandboxes ("ex" + 1).
pub(super) const SANDBOXES: u32 = 0x6579;
/// The table in which every address is the host's ("ex").
const EVERYTHING: u32 = 0x6578;
/// Before whatever else routes by rules, after the host's own addresses.
const PRIORITY: u32 = 60;

const FAMILIES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// Makes what is not there.
pub(super) fn declare(route: &Netlink) -> io::Result<()> {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    for any in FAMILIES {
        for way in [unreachable(any), local(any)] {
            present(route.ask(RouteNetlinkMessage::NewRoute(way), flags))?;
        }
        for rule in [from_here(any), from_sandboxes(any)] {
            present(route.ask(RouteNetlinkMessage::NewRule(rule), flags))?;
        }
    }
    Ok(())
}

/// Takes all of it away.
pub(super) fn remove(route: &Netlink) -> io::Result<()> {
    for any in FAMILIES {
        for rule in [from_sandboxes(any), from_here(any)] {
            absent(route.ask(RouteNetlinkMessage::DelRule(rule), 0))?;
        }
        for way in [local(any), unreachable(any)] {
            absent(route.ask(RouteNetlinkMessage::DelRoute(way), 0))?;
        }
    }
    Ok(())
}

fn from_here(any: IpAddr) -> RuleMessage {
    let mut rule = rule(any, PRIORITY, SANDBOXES);
    rule.attributes.push(RuleAttribute::Iifname("lo".to_owned()));
    rule
}

fn from_sandboxes(any: IpAddr) -> RuleMessage {
    rule(any, PRIORITY + 1, EVERYTHING)
}

fn rule(any: IpAddr, priority: u32, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(any);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(priority),
        RuleAttribute::FwMark(MARK),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Table(table),
        RuleAttribute::Protocol(RouteProtocol::Static),
    ];
    message
}

fn local(any: IpAddr) -> RouteMessage {
    let mut message = default_route(any, RouteType::Local, EVERYTHING);
    message.header.scope = RouteScope::Host;
    message.attributes.push(RouteAttribute::Oif(LOOPBACK_INDEX));
    message
}

fn unreachable(any: IpAddr) -> RouteMessage {
    let mut message = default_route(any, RouteType::Unreachable, SANDBOXES);
    message.attributes.push(RouteAttribute::Priority(u32::MAX));
    message
}

fn default_route(any: IpAddr, kind: RouteType, table: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(any);
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = kind;
    message.attributes = vec![RouteAttribute::Table(table)];
    message
}
