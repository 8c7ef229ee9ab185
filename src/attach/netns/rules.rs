//! The nftables rules inside a sandbox's network namespace, as one atomic batch.
//!
//! Every address is local there (HOUSE §2), so these rules confine nothing by themselves: no interface leads out.
//! They bring every connection to our one listener, every DNS question to our resolver, and refuse the rest quickly.
//!
//! ```text
//! table inet exeat {
//!   chain arrivals {
//!     type filter hook prerouting priority mangle; policy drop;
//!     meta mark 0x65786561 accept                          # what our own sockets send
//!     ip daddr 127.0.0.0/8 accept                          # true loopback is the sandbox's own
//!     ip6 daddr ::1 accept
//!     meta l4proto tcp tproxy to :LISTENER accept
//!     meta l4proto tcp accept                              # resets towards the sandbox's own sockets
//!     udp dport 53 tproxy to :53 accept
//!     meta l4proto udp reject                              # port unreachable: QUIC clients fall back at once
//!     icmp type { dest-unreachable, time-exceeded, parameter-problem } accept
//!     icmpv6 type { dest-unreachable, packet-too-big, time-exceeded, parameter-problem } accept
//!   }
//! }
//! ```

use std::net::Ipv6Addr;

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NetlinkMessage};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook, HookNumber, Immediate,
    InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register, RuleAttribute,
    RuleMessage, TableAttribute, TableMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};

use super::{DNS_PORT, LISTENER_PORT, MARK};

const TABLE: &str = "exeat";
const CHAIN: &str = "arrivals";

/// `NF_IP_PRI_MANGLE`: before any translation.
const PRIORITY_MANGLE: i32 = -150;
/// `NF_DROP` and `NF_ACCEPT` of `linux/netfilter.h`.
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// Families of `linux/netfilter.h`.
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// `NFT_PAYLOAD_NETWORK_HEADER` and `NFT_PAYLOAD_TRANSPORT_HEADER`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// The subsystem that a batch is for, in the header of its begin and end.
const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// The whole batch.
pub(super) fn batch() -> Vec<NetlinkMessage<NetfilterMessage>> {
    let mut messages = vec![control(ControlMessage::BatchBegin), table(), chain()];
    messages.extend(rules().into_iter().map(rule));
    messages.push(control(ControlMessage::BatchEnd));
    messages
}

fn rules() -> Vec<Vec<Expressions>> {
    let ipv4 = || loads_and_equals(meta(MetaKey::Nfproto), &[NFPROTO_IPV4]);
    let ipv6 = || loads_and_equals(meta(MetaKey::Nfproto), &[NFPROTO_IPV6]);
    let tcp = || transport(libc::IPPROTO_TCP);
    let udp = || transport(libc::IPPROTO_UDP);
    let loopback4 = loads_and_equals(field(NETWORK_HEADER, 16, 1), &[127]);
    let loopback6 = loads_and_equals(field(NETWORK_HEADER, 24, 16), &Ipv6Addr::LOCALHOST.octets());
    let to_dns = loads_and_equals(field(TRANSPORT_HEADER, 2, 2), &DNS_PORT.to_be_bytes());
    let mut rules = vec![
        [loads_and_equals(meta(MetaKey::Mark), &MARK.to_ne_bytes()), verdict(ACCEPT)].concat(),
        [ipv4(), loopback4, verdict(ACCEPT)].concat(),
        [ipv6(), loopback6, verdict(ACCEPT)].concat(),
        [tcp(), tproxy(LISTENER_PORT), verdict(ACCEPT)].concat(),
        [tcp(), verdict(ACCEPT)].concat(),
        [udp(), to_dns, tproxy(DNS_PORT), verdict(ACCEPT)].concat(),
        [udp(), reject()].concat(),
    ];
    rules.extend([3, 11, 12].map(|kind| icmp(libc::IPPROTO_ICMP, kind)));
    rules.extend([1, 2, 3, 4].map(|kind| icmp(libc::IPPROTO_ICMPV6, kind)));
    rules
}

fn control(message: ControlMessage) -> NetlinkMessage<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES);
    NetlinkMessage::from(NetfilterMessage::new(header, message))
}

fn create(message: impl Into<NetfilterMessageInner>) -> NetlinkMessage<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let mut request = NetlinkMessage::from(NetfilterMessage::new(header, message));
    request.header.flags = NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK;
    request
}

fn table() -> NetlinkMessage<NetfilterMessage> {
    create(NfTablesMessage::NewTable(TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] }))
}

fn chain() -> NetlinkMessage<NetfilterMessage> {
    let hook = vec![
        Hook::Number(HookNumber::Inet(InetHookNumber::PreRouting)),
        Hook::Priority(PRIORITY_MANGLE.cast_unsigned()),
    ];
    create(NfTablesMessage::NewChain(ChainMessage {
        attributes: vec![
            ChainAttribute::Table(TABLE.to_owned()),
            ChainAttribute::Name(CHAIN.to_owned()),
            ChainAttribute::Hook(hook),
            ChainAttribute::Policy(DROP),
            ChainAttribute::Type("filter".to_owned()),
        ],
    }))
}

fn rule(expressions: Vec<Expressions>) -> NetlinkMessage<NetfilterMessage> {
    let list = expressions.into_iter().map(ListAttribute::<ExpressionAttribute>::from).collect();
    create(NfTablesMessage::NewRule(RuleMessage {
        attributes: vec![
            RuleAttribute::Table(TABLE.to_owned()),
            RuleAttribute::Chain(CHAIN.to_owned()),
            RuleAttribute::Expressions(list),
        ],
    }))
}

/// Loads a value into register 1 and goes on only where it is `expected`.
fn loads_and_equals(load: Expressions, expected: &[u8]) -> Vec<Expressions> {
    let compare = Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(Operator::Equal),
        Cmp::Data(DataAttribute::Value(expected.to_vec())),
    ]);
    vec![load, compare]
}

fn meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)])
}

fn field(base: u32, offset: u32, length: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(length),
    ])
}

fn transport(protocol: i32) -> Vec<Expressions> {
    loads_and_equals(meta(MetaKey::L4Proto), &[protocol.to_le_bytes()[0]])
}

fn icmp(protocol: i32, kind: u8) -> Vec<Expressions> {
    [transport(protocol), loads_and_equals(field(TRANSPORT_HEADER, 0, 1), &[kind]), verdict(ACCEPT)].concat()
}

fn verdict(code: u32) -> Vec<Expressions> {
    vec![Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(code))])),
    ])]
}

/// Hands the packet to the socket that listens on `port`, its destination unchanged. The library has no type for
/// this expression: attributes as in `enum nft_tproxy_attributes`.
fn tproxy(port: u16) -> Vec<Expressions> {
    const FAMILY: u16 = 1;
    const PORT_REGISTER: u16 = 3;
    let load = Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Reg1),
        Immediate::Data(DataAttribute::Value(port.to_be_bytes().to_vec())),
    ]);
    let both_families = u32::from(NFPROTO_UNSPEC);
    let hand_over = Expressions::Other {
        expression_type: "tproxy".to_owned(),
        attributes: vec![number(FAMILY, both_families), number(PORT_REGISTER, Register::Reg1.into())],
    };
    vec![load, hand_over]
}

/// Answers with an ICMP error of either family: attributes as in `enum nft_reject_attributes`.
fn reject() -> Vec<Expressions> {
    const KIND: u16 = 1;
    const CODE: u16 = 2;
    const ICMPX_UNREACH: u32 = 2;
    const ICMPX_PORT_UNREACH: u8 = 1;
    vec![Expressions::Other {
        expression_type: "reject".to_owned(),
        attributes: vec![number(KIND, ICMPX_UNREACH), DefaultNla::new(CODE, vec![ICMPX_PORT_UNREACH])],
    }]
}

fn number(attribute: u16, value: u32) -> DefaultNla {
    DefaultNla::new(attribute, value.to_be_bytes().to_vec())
}
