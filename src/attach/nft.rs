//! The words of nftables that our rules are written in: tables, chains, sets, and the expressions of a rule.
//!
//! It knows netlink's attributes and no rule of ours. A batch takes effect as a whole or not at all; a packet sees the
//! rules from before it or from after it.

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NetlinkMessage};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, ChecksumType, Cmp, DataAttribute, DevHookNumber, ExpressionAttribute,
    Expressions, Hook, HookNumber, Immediate, InetHookNumber, ListAttribute, Lookup, Meta, MetaKey, NfTablesMessage,
    Operator, Payload, Register, RuleAttribute, RuleMessage, SetAttribute, SetDescription, SetElementAttribute,
    SetElementList, SetElementMessage, SetFlags, SetMessage, TableAttribute, TableMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};

use super::netlink::Netlink;

pub(super) use netlink_packet_netfilter::nftables::MetaKey as Key;

/// One request of a batch.
pub(super) type Message = NetlinkMessage<NetfilterMessage>;
/// What a rule does, in order.
pub(super) type Rule = Vec<Expressions>;

/// Where in a packet a field lies: bases of `enum nft_payload_bases`.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum Header {
    /// The frame's, as it was on the wire.
    Link = 0,
    /// IPv4's, IPv6's or ARP's.
    Network = 1,
    /// TCP's, UDP's or ICMP's.
    Transport = 2,
}

/// When a chain sees packets; earlier ones see them first.
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub(super) enum Priority {
    /// Before everything else that may stand at a device.
    First = -500,
    /// `NF_IP_PRI_RAW`: before connection tracking.
    Raw = -300,
    /// `NF_IP_PRI_MANGLE`: before any translation.
    Mangle = -150,
}

/// The hooks that our chains stand at.
#[derive(Debug, Clone, Copy)]
pub(super) enum At<'a> {
    /// What arrives at the host, before it is routed.
    Prerouting,
    /// What the host delivers to itself.
    Input,
    /// What the host passes on.
    Forward,
    /// What the host sends.
    Output,
    /// What arrives at one device, before anything else sees it.
    Ingress(&'a str),
}

/// Where a packet goes that no rule of a base chain decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// `NF_DROP`
    Drop = 0,
    /// `NF_ACCEPT`
    Accept = 1,
}

/// A table of one family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    family: NetfilterProtoFamily,
    name: &'a str,
}

impl<'a> Table<'a> {
    /// For IPv4 and IPv6.
    pub(super) fn inet(name: &'a str) -> Self {
        Self { family: NetfilterProtoFamily::Inet, name }
    }

    /// For the frames of a device.
    pub(super) fn netdev(name: &'a str) -> Self {
        Self { family: NetfilterProtoFamily::NetDev, name }
    }

    /// Makes it, in place of the one that is `there`, empty, with a comment that people and
    /// [`comment`](Self::comment) can read. (What is taken away costs a wait of milliseconds when the socket is
    /// closed.)
    pub(super) fn make(&self, comment: &str, there: bool) -> Vec<Message> {
        let attributes = vec![self.named(), TableAttribute::UserData(comment_bytes(comment))];
        let new = self.create(NfTablesMessage::NewTable(TableMessage { attributes }));
        there.then(|| self.delete()).into_iter().chain([new]).collect()
    }

    /// Takes it away, with all that is in it.
    pub(super) fn delete(&self) -> Message {
        self.change(NfTablesMessage::DeleteTable(TableMessage { attributes: vec![self.named()] }))
    }

    /// A chain that packets come to by themselves.
    pub(super) fn base_chain(&self, name: &str, at: At<'_>, priority: Priority, policy: Policy) -> Message {
        let number = match at {
            At::Prerouting => HookNumber::Inet(InetHookNumber::PreRouting),
            At::Input => HookNumber::Inet(InetHookNumber::LocalIn),
            At::Forward => HookNumber::Inet(InetHookNumber::Forward),
            At::Output => HookNumber::Inet(InetHookNumber::LocalOut),
            At::Ingress(_) => HookNumber::Dev(DevHookNumber::Ingress),
        };
        let mut hook = vec![Hook::Number(number), Hook::Priority((priority as i32).cast_unsigned())];
        if let At::Ingress(device) = at {
            hook.push(Hook::NetDeviceName(device.to_owned()));
        }
        self.create(NfTablesMessage::NewChain(ChainMessage {
            attributes: vec![
                ChainAttribute::Table(self.name.to_owned()),
                ChainAttribute::Name(name.to_owned()),
                ChainAttribute::Hook(hook),
                ChainAttribute::Policy(policy as u32),
                ChainAttribute::Type("filter".to_owned()),
            ],
        }))
    }

    /// A chain that rules send packets to.
    pub(super) fn chain(&self, name: &str) -> Message {
        let attributes = vec![ChainAttribute::Table(self.name.to_owned()), ChainAttribute::Name(name.to_owned())];
        self.create(NfTablesMessage::NewChain(ChainMessage { attributes }))
    }

    /// Rules at the end of a chain.
    pub(super) fn rules(&self, chain: &str, rules: Vec<Rule>) -> impl Iterator<Item = Message> {
        rules.into_iter().map(move |expressions| {
            let list = expressions.into_iter().map(ListAttribute::<ExpressionAttribute>::from).collect();
            let attributes = vec![
                RuleAttribute::Table(self.name.to_owned()),
                RuleAttribute::Chain(chain.to_owned()),
                RuleAttribute::Expressions(list),
            ];
            self.create(NfTablesMessage::NewRule(RuleMessage { attributes }))
        })
    }

    /// A set of keys. `number` tells the sets of one batch apart.
    pub(super) fn set(&self, name: &str, number: u32, keys: Keys) -> Message {
        let (kind, length) = match keys {
            Keys::InterfaceIndex => (40, 4),
            Keys::InterfaceName => (41, INTERFACE_NAME_BYTES),
            Keys::RecentIpv6 { .. } => (8, 16),
        };
        let mut attributes = vec![
            SetAttribute::Table(self.name.to_owned()),
            SetAttribute::Name(name.to_owned()),
            SetAttribute::KeyType(kind),
            SetAttribute::KeyLen(length),
            SetAttribute::Id(number),
        ];
        if let Keys::RecentIpv6 { most, milliseconds } = keys {
            attributes.push(SetAttribute::Flags(SetFlags::Timeout | SetFlags::Eval));
            attributes.push(SetAttribute::Timeout(milliseconds));
            attributes.push(SetAttribute::Description(vec![SetDescription::Size(most)]));
        }
        self.create(NfTablesMessage::NewSet(SetMessage { attributes }))
    }

    /// Puts a key into a set, if it is not in it.
    pub(super) fn add(&self, set: &str, key: &[u8]) -> Message {
        self.create(NfTablesMessage::NewSetElement(self.element(set, key)))
    }

    /// Takes a key out of a set.
    pub(super) fn remove(&self, set: &str, key: &[u8]) -> Message {
        self.change(NfTablesMessage::DeleteSetElement(self.element(set, key)))
    }

    /// Its comment; `None` where there is no such table.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn comment(&self, netfilter: &Netlink) -> io::Result<Option<String>> {
        let request = self.message(NfTablesMessage::GetTable(TableMessage { attributes: vec![self.named()] }));
        match netfilter.ask(request, 0) {
            Ok(answers) => Ok(answers.iter().find_map(described).map(|(_, comment)| comment)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn named(&self) -> TableAttribute {
        TableAttribute::Name(self.name.to_owned())
    }

    fn element(&self, set: &str, key: &[u8]) -> SetElementMessage {
        let key = SetElementAttribute::Key(DataAttribute::Value(key.to_vec()));
        SetElementMessage {
            attributes: vec![
                SetElementList::Table(self.name.to_owned()),
                SetElementList::Set(set.to_owned()),
                SetElementList::Elements(vec![ListAttribute::Element(vec![key])]),
            ],
        }
    }

    fn create(&self, message: NfTablesMessage) -> Message {
        let mut request = NetlinkMessage::from(self.message(message));
        request.header.flags = NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK;
        request
    }

    fn change(&self, message: NfTablesMessage) -> Message {
        let mut request = NetlinkMessage::from(self.message(message));
        request.header.flags = NLM_F_ACK;
        request
    }

    fn message(&self, message: NfTablesMessage) -> NetfilterMessage {
        NetfilterMessage::new(NetfilterHeader::new(self.family, 0, 0), message)
    }
}

/// What a set holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keys {
    /// Names of interfaces, as [`interface_name`] gives them.
    InterfaceName,
    /// Numbers of interfaces.
    InterfaceIndex,
    /// IPv6 addresses that packets put in ([`remembers`]): so many at most, each for so long after it was last seen.
    RecentIpv6 { most: u32, milliseconds: u64 },
}

/// `IFNAMSIZ`
const INTERFACE_NAME_BYTES: u32 = 16;

/// An interface's name as the kernel compares it.
pub(super) fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(INTERFACE_NAME_BYTES as usize, 0);
    bytes
}

/// Every table of the netdev family: name and comment.
///
/// # Errors
/// The kernel's.
pub(super) fn netdev_tables(netfilter: &Netlink) -> io::Result<Vec<(String, String)>> {
    let all = Table::netdev("").message(NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() }));
    Ok(netfilter.ask(all, NLM_F_DUMP)?.iter().filter_map(described).collect())
}

fn described(answer: &NetfilterMessage) -> Option<(String, String)> {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = &answer.inner else { return None };
    let name = table.attributes.iter().find_map(|attribute| match attribute {
        TableAttribute::Name(name) => Some(name.clone()),
        _ => None,
    })?;
    let comment = table.attributes.iter().find_map(|attribute| match attribute {
        TableAttribute::UserData(bytes) => read_comment(bytes),
        _ => None,
    });
    Some((name, comment.unwrap_or_default()))
}

/// As `nft` keeps a comment: a list of type, length, value, of which type 0 is the comment, with a NUL at its end.
fn comment_bytes(comment: &str) -> Vec<u8> {
    let text: Vec<u8> = comment.bytes().take(COMMENT_BYTES).chain([0]).collect();
    [0, u8::try_from(text.len()).unwrap_or(u8::MAX)].into_iter().chain(text).collect()
}

/// Bytes of a comment that `nft` takes (`NFTNL_UDATA_COMMENT_MAXLEN`).
const COMMENT_BYTES: usize = 128;

fn read_comment(bytes: &[u8]) -> Option<String> {
    let [0, length, text @ ..] = bytes else { return None };
    let text = text.get(..usize::from(*length).checked_sub(1)?)?;
    String::from_utf8(text.to_vec()).ok()
}

/// Sends requests as one batch.
///
/// # Errors
/// The kernel's answer to the first that it refuses; then none has taken effect.
pub(super) fn commit(netfilter: &Netlink, mut messages: Vec<Message>) -> io::Result<()> {
    /// The subsystem that a batch is for, in the header of its begin and end.
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    let control = |message| {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES);
        NetlinkMessage::from(NetfilterMessage::new(header, message))
    };
    // A refusal is told in any case; that all has been done, with the last.
    if let Some((_, others)) = messages.split_last_mut() {
        others.iter_mut().for_each(|message| message.header.flags &= !NLM_F_ACK);
    }
    let mut batch = vec![control(ControlMessage::BatchBegin)];
    batch.extend(messages);
    batch.push(control(ControlMessage::BatchEnd));
    netfilter.transact(batch).map(drop)
}

/// Goes on only where a property of the packet is `expected`.
pub(super) fn is(key: MetaKey, expected: &[u8]) -> Rule {
    vec![meta(key), compare(Operator::Equal, expected)]
}

/// Goes on only where a property of the packet is not `unexpected`.
pub(super) fn is_not(key: MetaKey, unexpected: &[u8]) -> Rule {
    vec![meta(key), compare(Operator::NotEqual, unexpected)]
}

/// Goes on only where a property of the packet is in a set.
pub(super) fn is_in(key: MetaKey, set: &str) -> Rule {
    let look = Expressions::Lookup(vec![Lookup::Set(set.to_owned()), Lookup::SourceRegister(Register::Reg1)]);
    vec![meta(key), look]
}

/// Goes on only where a field holds `expected`; `offset` in bytes.
pub(super) fn holds(header: Header, offset: u32, expected: &[u8]) -> Rule {
    vec![field(header, offset, expected.len()), compare(Operator::Equal, expected)]
}

/// Goes on only where a field does not hold `unexpected`.
pub(super) fn holds_not(header: Header, offset: u32, unexpected: &[u8]) -> Rule {
    vec![field(header, offset, unexpected.len()), compare(Operator::NotEqual, unexpected)]
}

/// Goes on only where a field is at least `least`, in network order.
pub(super) fn holds_at_least(header: Header, offset: u32, least: &[u8]) -> Rule {
    vec![field(header, offset, least.len()), compare(Operator::GreatherThanEqual, least)]
}

/// Goes on only where some bit of `mask` is set in a field.
pub(super) fn holds_any_bit(header: Header, offset: u32, mask: &[u8]) -> Rule {
    let zeros = vec![0; mask.len()];
    let only = Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(length(mask)),
        Bitwise::Mask(DataAttribute::Value(mask.to_vec())),
        Bitwise::Xor(DataAttribute::Value(zeros.clone())),
    ]);
    vec![field(header, offset, mask.len()), only, compare(Operator::NotEqual, &zeros)]
}

/// Goes on only where the packet carries this protocol (`IPPROTO_…`).
pub(super) fn carries(protocol: i32) -> Rule {
    is(MetaKey::L4Proto, &protocol.to_le_bytes()[..1])
}

/// Ends the judgement of this base chain: the packet goes on, or not.
pub(super) fn verdict(policy: Policy) -> Rule {
    vec![decide(Verdict::Other(policy as u32), None)]
}

/// Leaves the rest to another chain of the table, for good.
pub(super) fn goto(chain: &str) -> Rule {
    vec![decide(Verdict::Goto, Some(chain))]
}

/// Gives the packet a mark.
pub(super) fn mark(value: u32) -> Rule {
    let set = Expressions::Meta(vec![Meta::Key(MetaKey::Mark), Meta::SourceRegister(Register::Reg1)]);
    vec![load(&value.to_ne_bytes()), set]
}

/// Writes `value` over a field of UDP's header.
pub(super) fn write_udp(offset: u32, value: &[u8]) -> Rule {
    const CHECKSUM_OFFSET: u32 = 6;
    let write = Expressions::Payload(vec![
        Payload::SourceRegister(Register::Reg1),
        Payload::Base(Header::Transport as u32),
        Payload::Offset(offset),
        Payload::Len(length(value)),
        Payload::CsumType(ChecksumType::Inet),
        Payload::CsumOffset(CHECKSUM_OFFSET),
    ]);
    vec![load(value), write]
}

/// Keeps the packet out of connection tracking.
pub(super) fn untracked() -> Rule {
    vec![Expressions::Other { expression_type: "notrack".to_owned(), attributes: Vec::new() }]
}

/// Goes on only where the field's value is in the set ([`Keys::RecentIpv6`]), or still finds room in it. Attributes
/// as in `enum nft_dynset_attributes`.
pub(super) fn remembers(header: Header, offset: u32, bytes: usize, set: &str) -> Rule {
    const SET_NAME: u16 = 1;
    const OPERATION: u16 = 3;
    const KEY_REGISTER: u16 = 4;
    const UPDATE: u32 = 1;
    let mut name = set.as_bytes().to_vec();
    name.push(0);
    let attributes =
        vec![DefaultNla::new(SET_NAME, name), number(OPERATION, UPDATE), number(KEY_REGISTER, Register::Reg1.into())];
    vec![field(header, offset, bytes), Expressions::Other { expression_type: "dynset".to_owned(), attributes }]
}

/// Hands the packet to the socket that listens on `port`, its destination unchanged; goes on only where there is one.
/// Attributes as in `enum nft_tproxy_attributes`.
pub(super) fn tproxy(port: u16) -> Rule {
    const FAMILY: u16 = 1;
    const PORT_REGISTER: u16 = 3;
    const NFPROTO_UNSPEC: u32 = 0;
    let attributes = vec![number(FAMILY, NFPROTO_UNSPEC), number(PORT_REGISTER, Register::Reg1.into())];
    vec![load(&port.to_be_bytes()), Expressions::Other { expression_type: "tproxy".to_owned(), attributes }]
}

/// Answers that the port cannot be reached, and drops. Attributes as in `enum nft_reject_attributes`.
pub(super) fn reject() -> Rule {
    const KIND: u16 = 1;
    const CODE: u16 = 2;
    const ICMPX_UNREACH: u32 = 2;
    const ICMPX_PORT_UNREACH: u8 = 1;
    vec![Expressions::Other {
        expression_type: "reject".to_owned(),
        attributes: vec![number(KIND, ICMPX_UNREACH), DefaultNla::new(CODE, vec![ICMPX_PORT_UNREACH])],
    }]
}

fn meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(Register::Reg1)])
}

fn field(header: Header, offset: u32, bytes: usize) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(header as u32),
        Payload::Offset(offset),
        Payload::Len(u32::try_from(bytes).unwrap_or(u32::MAX)),
    ])
}

fn compare(operator: Operator, value: &[u8]) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value.to_vec())),
    ])
}

fn load(value: &[u8]) -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Reg1),
        Immediate::Data(DataAttribute::Value(value.to_vec())),
    ])
}

fn decide(code: Verdict, chain: Option<&str>) -> Expressions {
    let mut attributes = vec![VerdictAttribute::Code(code)];
    attributes.extend(chain.map(|chain| VerdictAttribute::Chain(chain.to_owned())));
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])
}

fn length(value: &[u8]) -> u32 {
    u32::try_from(value.len()).unwrap_or(u32::MAX)
}

fn number(attribute: u16, value: u32) -> DefaultNla {
    DefaultNla::new(attribute, value.to_be_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_read_as_it_was_written() {
        for comment in ["", "lo was down", &"x".repeat(COMMENT_BYTES)] {
            assert_eq!(read_comment(&comment_bytes(comment)).as_deref(), Some(comment));
        }
        assert_eq!(read_comment(&comment_bytes(&"x".repeat(500))).unwrap().len(), COMMENT_BYTES);
        for broken in [&[][..], &[0], &[0, 0], &[0, 9, b'x'], &[1, 2, b'x', 0]] {
            assert_eq!(read_comment(broken), None, "{broken:?}");
        }
    }
}
