//! Netlink: requests with the kernel's answers, and the interfaces of a network namespace with what happens to them.
//!
//! A socket belongs to the namespace of the thread that opened it, whichever thread uses it later. What a process of
//! the namespace sends to it is not the kernel's, and is not read.
//!
//! - `INVARIANT`: a message about an interface that cannot be read is told as such, never left out: whoever watches
//!   for interfaces fails closed on it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::RouteAddress;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};

/// Bytes for one read: the kernel's answers to a request of ours are far smaller.
const ANSWER_BYTES: usize = 32 * 1024;

/// Bytes that one batch may have: rules of thousands of interfaces.
const BATCH_BYTES: usize = 16 * 1024 * 1024;

/// A netlink socket that asks and waits for each answer.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    /// What the kernel knows it by.
    port: u32,
    /// The number of the next request: so late answers to one that failed are told from those to the next.
    next: AtomicU32,
}

impl Netlink {
    /// For links, addresses, routes and rules, in the network namespace of the calling thread.
    pub(super) fn route() -> io::Result<Self> {
        Self::open(NETLINK_ROUTE)
    }

    /// For nftables, in the network namespace of the calling thread.
    pub(super) fn netfilter() -> io::Result<Self> {
        let netlink = Self::open(NETLINK_NETFILTER)?;
        // Where it is not allowed, as to root of a user namespace, there is one sandbox, and its batch is small.
        let _ = setsockopt(&netlink.socket, sockopt::SndBufForce, &BATCH_BYTES);
        Ok(netlink)
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        Ok(Self { socket, port, next: AtomicU32::new(1) })
    }

    /// What the kernel knows it by.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Takes numbers for so many requests; the first of them.
    fn number(&self, requests: usize) -> u32 {
        self.next.fetch_add(u32::try_from(requests).unwrap_or(u32::MAX), Ordering::Relaxed)
    }

    /// Every interface of the namespace; for a socket of [`Netlink::route`].
    pub(super) fn links(&self) -> io::Result<Vec<Link>> {
        let number = self.number(1);
        self.socket.send_to(&link_request(LinkMessage::default(), NLM_F_DUMP, number), &SocketAddr::new(0, 0), 0)?;
        let mut found = Vec::new();
        loop {
            let mut news = VecDeque::new();
            if let Some(received) = receive(&self.socket)? {
                read_news(&received, Some(number), &mut news)?;
            }
            for news in news {
                match news {
                    News::Link(link) => found.push(link),
                    News::All => return Ok(found),
                    News::Gone(_) | News::Lost | News::Unreadable => return Err(unreadable()),
                }
            }
        }
    }

    /// The interface of this name, if there is one; for a socket of [`Netlink::route`].
    pub(super) fn link(&self, name: &str) -> io::Result<Option<Link>> {
        let number = self.number(1);
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.socket.send_to(&link_request(link, 0, number), &SocketAddr::new(0, 0), 0)?;
        loop {
            let mut news = VecDeque::new();
            let Some(received) = receive(&self.socket)? else { continue };
            match read_news(&received, Some(number), &mut news) {
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
                read => read?,
            }
            match news.pop_front() {
                Some(News::Link(link)) => return Ok(Some(link)),
                Some(_) => return Err(unreadable()),
                None => {}
            }
        }
    }

    /// Sends one request with these flags, and waits for its acknowledgement; what was answered besides.
    pub(super) fn ask<I>(&self, request: I, flags: u16) -> io::Result<Vec<I>>
    where
        I: NetlinkSerializable + NetlinkDeserializable + std::fmt::Debug + Into<NetlinkPayload<I>>,
    {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags | NLM_F_ACK;
        self.transact(vec![message])
    }

    /// Sends requests in one datagram, and waits until each one that asks for it was acknowledged. Returns what
    /// was answered besides.
    pub(super) fn transact<I>(&self, requests: Vec<NetlinkMessage<I>>) -> io::Result<Vec<I>>
    where
        I: NetlinkSerializable + NetlinkDeserializable + std::fmt::Debug,
    {
        let mut datagram = Vec::new();
        let mut pending = 0_usize;
        let first = self.number(requests.len());
        for (sequence, mut request) in (0_u32..).zip(requests) {
            request.header.sequence_number = first.wrapping_add(sequence);
            pending += usize::from(request.header.flags & NLM_F_ACK != 0);
            append(&mut datagram, request);
        }
        self.socket.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
        let mut answers = Vec::new();
        while pending > 0 {
            let Some(received) = receive(&self.socket)? else { continue };
            pending = pending.saturating_sub(read_answers(&received, first, &mut answers)?);
        }
        Ok(answers)
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn append<I: NetlinkSerializable>(datagram: &mut Vec<u8>, mut request: NetlinkMessage<I>) {
    request.header.flags |= NLM_F_REQUEST;
    request.finalize();
    let start = datagram.len();
    datagram.resize(start + request.buffer_len(), 0);
    if let Some(room) = datagram.get_mut(start..) {
        request.serialize(room);
    }
}

/// One datagram, if the kernel sent it.
fn receive(socket: &Socket) -> io::Result<Option<Vec<u8>>> {
    let (received, from) = socket.recv_from_full()?;
    Ok((from.port_number() == 0).then_some(received))
}

/// Reads the messages of one datagram that answer requests from `first` on; returns how many it settles.
fn read_answers<I>(mut datagram: &[u8], first: u32, answers: &mut Vec<I>) -> io::Result<usize>
where
    I: NetlinkSerializable + NetlinkDeserializable + std::fmt::Debug,
{
    let mut settled = 0;
    while !datagram.is_empty() {
        let message = NetlinkMessage::<I>::deserialize(datagram).map_err(io::Error::other)?;
        let length = (message.header.length as usize).next_multiple_of(4).clamp(4, ANSWER_BYTES);
        datagram = datagram.get(length..).unwrap_or_default();
        if is_earlier(message.header.sequence_number, first) {
            continue;
        }
        match message.payload {
            NetlinkPayload::Error(error) => match error.code {
                None => settled += 1,
                Some(_) => return Err(error.to_io()),
            },
            NetlinkPayload::Done(_) => settled += 1,
            NetlinkPayload::InnerMessage(inner) => answers.push(inner),
            _ => {}
        }
    }
    Ok(settled)
}

/// Whether a number was taken before another; they wrap around.
fn is_earlier(number: u32, first: u32) -> bool {
    number.wrapping_sub(first) > u32::MAX / 2
}

/// An interface, as far as attaching asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// Its number in its namespace.
    pub(super) index: u32,
    /// Its name now.
    pub(super) name: String,
    /// Whether it is administratively up.
    pub(super) up: bool,
    /// Whether its frames are Ethernet's.
    pub(super) ethernet: bool,
    /// The driver's name for its kind (`veth`, `tun`, `sit`); hardware has none.
    pub(super) kind: String,
    /// Whether it belongs to a bridge or another device.
    pub(super) enslaved: bool,
}

/// What a watch of interfaces tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// An interface is there, or has changed.
    Link(Link),
    /// The interface of this index is no longer in the namespace.
    Gone(u32),
    /// Some messages were lost; each interface that is there is told again, then [`News::All`].
    Lost,
    /// Each interface that is there has been told.
    All,
    /// A message that cannot be read.
    Unreadable,
}

/// Changes to the interfaces of a namespace, as they happen, from the moment it was opened.
pub(super) struct LinkWatch {
    socket: TokioSocket,
    read: VecDeque<News>,
}

impl LinkWatch {
    /// Begins to listen, in the network namespace of the calling thread; call it inside a runtime.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_ref().add_membership(libc::RTNLGRP_LINK)?;
        Ok(Self { socket, read: VecDeque::new() })
    }

    /// Waits for the next one. A call that is dropped loses nothing.
    ///
    /// # Errors
    /// The kernel's, when it tells nothing any more.
    pub(super) async fn next(&mut self) -> io::Result<News> {
        loop {
            if let Some(news) = self.read.pop_front() {
                return Ok(news);
            }
            match self.socket.recv_from_full().await {
                Ok((received, from)) if from.port_number() == 0 => read_news(&received, None, &mut self.read)?,
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.read.push_back(News::Lost);
                    let every = link_request(LinkMessage::default(), NLM_F_DUMP, 0);
                    self.socket.socket_ref().send_to(&every, &SocketAddr::new(0, 0), 0)?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl fmt::Debug for LinkWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkWatch").field("read", &self.read).finish_non_exhaustive()
    }
}

fn link_request(link: LinkMessage, flags: u16, number: u32) -> Vec<u8> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
    request.header.flags = flags;
    request.header.sequence_number = number;
    let mut datagram = Vec::new();
    append(&mut datagram, request);
    datagram
}

/// Tells when somebody else has taken away tables of nftables, in the namespace where it was opened.
pub(super) struct RulesWatch(TokioSocket);

impl RulesWatch {
    /// Begins to listen, in the network namespace of the calling thread; call it inside a runtime.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind_auto()?;
        socket.socket_ref().add_membership(libc::NFNLGRP_NFTABLES.cast_unsigned())?;
        Ok(Self(socket))
    }

    /// Waits until a table that is `ours` by its name was taken away, by another socket than that of this `port`. It
    /// may also be told when messages were lost.
    ///
    /// # Errors
    /// The kernel's, when it tells nothing any more.
    pub(super) async fn taken(&self, port: u32, ours: impl Fn(&str) -> bool) -> io::Result<()> {
        loop {
            match self.0.recv_from_full().await {
                Ok((received, from)) if from.port_number() == 0 => {
                    if tables_taken(&received, port)?.iter().any(|table| ours(table)) {
                        return Ok(());
                    }
                }
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl fmt::Debug for RulesWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RulesWatch").finish_non_exhaustive()
    }
}

/// The names of the tables that were taken away by another socket than that of this port.
fn tables_taken(mut datagram: &[u8], port: u32) -> io::Result<Vec<String>> {
    const HEADER_BYTES: usize = 4;
    const NAME: u16 = 1;
    let mut tables = Vec::new();
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram).map_err(io::Error::other)?;
        let [kind, subsystem] = message.message_type().to_le_bytes();
        let is_deletion =
            i32::from(subsystem) == libc::NFNL_SUBSYS_NFTABLES && i32::from(kind) == libc::NFT_MSG_DELTABLE;
        if is_deletion && message.port_number() != port {
            let attributes = message.payload().get(HEADER_BYTES..).unwrap_or_default();
            let attributes: Vec<NlaBuffer<&[u8]>> =
                NlasIterator::new(attributes).collect::<Result<_, _>>().map_err(io::Error::other)?;
            tables.extend(attributes.iter().find(|part| part.kind() == NAME).map(|name| text(name.value())));
        }
        let length = (message.length() as usize).next_multiple_of(4).max(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(tables)
}

/// What should be there, and is already, is as it should be.
pub(super) fn present<T>(answer: io::Result<T>) -> io::Result<()> {
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        answer => answer.map(drop),
    }
}

/// What should be taken away, and is not there, is as it should be.
pub(super) fn absent<T>(answer: io::Result<T>) -> io::Result<()> {
    match answer {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENODEV)
            ) =>
        {
            Ok(())
        }
        answer => answer.map(drop),
    }
}

/// Puts an interface up or down.
pub(super) fn set_up(index: u32, up: bool) -> RouteNetlinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    link.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(link)
}

/// An address of an interface.
pub(super) fn address(index: u32, ip: IpAddr, prefix: u8, scope: AddressScope) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.header.scope = scope;
    // Without it an IPv6 address is tentative for a moment, and cannot yet be the source of a route.
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

/// Which family an address is of.
pub(super) fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The length of a prefix that is one address.
pub(super) fn full(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// An address as routes have it.
pub(super) fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

fn unreadable() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel describes an interface in a way that is not understood")
}

/// Reads the messages of one datagram; those that answer one request, where its number is given.
fn read_news(mut datagram: &[u8], number: Option<u32>, news: &mut VecDeque<News>) -> io::Result<()> {
    const ERROR: u16 = libc::NLMSG_ERROR as u16;
    const DONE: u16 = libc::NLMSG_DONE as u16;
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram).map_err(io::Error::other)?;
        let length = (message.length() as usize).next_multiple_of(4).max(4);
        datagram = datagram.get(length..).unwrap_or_default();
        if number.is_some_and(|number| message.sequence_number() != number) {
            continue;
        }
        match message.message_type() {
            DONE => news.push_back(News::All),
            ERROR => match message.payload().first_chunk().map_or(0, |code| i32::from_ne_bytes(*code)) {
                0 => {}
                code => return Err(io::Error::from_raw_os_error(code.saturating_neg())),
            },
            libc::RTM_NEWLINK | libc::RTM_DELLINK => {
                let gone = message.message_type() == libc::RTM_DELLINK;
                news.extend(read_link(message.payload(), gone).unwrap_or(Some(News::Unreadable)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// `struct ifinfomsg` and its attributes (`linux/if_link.h`). `Ok(None)` where the message is not about the interface
/// itself: a bridge's ports are told of with the same types.
fn read_link(payload: &[u8], gone: bool) -> Result<Option<News>, ()> {
    const HEADER_BYTES: usize = 16;
    let (header, attributes) = payload.split_at_checked(HEADER_BYTES).ok_or(())?;
    let [family, _, hardware0, hardware1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header else { return Err(()) };
    if libc::c_int::from(family) != libc::AF_UNSPEC {
        return Ok(None);
    }
    let index = u32::from_ne_bytes([i0, i1, i2, i3]);
    if gone {
        return Ok(Some(News::Gone(index)));
    }
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let mut link = Link {
        index,
        name: String::new(),
        up: flags & libc::IFF_UP.cast_unsigned() != 0,
        ethernet: u16::from_ne_bytes([hardware0, hardware1]) == libc::ARPHRD_ETHER,
        kind: String::new(),
        enslaved: false,
    };
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.map_err(drop)?;
        match attribute.kind() {
            libc::IFLA_IFNAME => link.name = text(attribute.value()),
            libc::IFLA_MASTER => link.enslaved = attribute.value().iter().any(|&byte| byte != 0),
            libc::IFLA_LINKINFO => link.kind = kind(attribute.value())?,
            _ => {}
        }
    }
    if link.name.is_empty() { Err(()) } else { Ok(Some(News::Link(link))) }
}

fn kind(info: &[u8]) -> Result<String, ()> {
    let parts: Vec<NlaBuffer<&[u8]>> = NlasIterator::new(info).collect::<Result<_, _>>().map_err(drop)?;
    let kind = parts.iter().find(|part| part.kind() == libc::IFLA_INFO_KIND);
    Ok(kind.map(|kind| text(kind.value())).unwrap_or_default())
}

/// A name as netlink has it: with a NUL at its end. What is no text is like no name of ours.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as the kernel sends it: header, `struct ifinfomsg`, attributes.
    fn message(kind: u16, family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![family, 0];
        body.extend(libc::ARPHRD_ETHER.to_ne_bytes());
        body.extend(7_u32.to_ne_bytes());
        body.extend(libc::IFF_UP.to_ne_bytes());
        body.extend([0; 4]);
        body.extend(attributes.iter().flat_map(|(kind, value)| attribute(*kind, value)));
        let length = u32::try_from(16 + body.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &body].concat()
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn read(datagram: &[u8]) -> Vec<News> {
        let mut news = VecDeque::new();
        read_news(datagram, None, &mut news).unwrap();
        news.into()
    }

    #[test]
    fn an_interface_is_read_as_the_kernel_tells_it() {
        let info = attribute(libc::IFLA_INFO_KIND, b"veth\0");
        let attributes =
            [(libc::IFLA_IFNAME, &b"eth0\0"[..]), (libc::IFLA_MASTER, &[9, 0, 0, 0]), (libc::IFLA_LINKINFO, &info)];
        let link = Link {
            index: 7,
            name: "eth0".to_owned(),
            up: true,
            ethernet: true,
            kind: "veth".to_owned(),
            enslaved: true,
        };
        let told = message(libc::RTM_NEWLINK, 0, &attributes);
        assert_eq!(read(&told), [News::Link(link.clone())]);
        let gone = message(libc::RTM_DELLINK, 0, &attributes);
        assert_eq!(read(&[told.clone(), gone].concat()), [News::Link(link), News::Gone(7)]);
        let bridge = u8::try_from(libc::AF_BRIDGE).unwrap();
        let port = message(libc::RTM_DELLINK, bridge, &attributes);
        assert_eq!(read(&port), [], "it left a bridge, not the namespace");
    }

    #[test]
    fn a_late_answer_is_told_from_a_new_one() {
        assert!(is_earlier(6, 7) && is_earlier(u32::MAX, 3));
        assert!(!is_earlier(7, 7) && !is_earlier(9, 7) && !is_earlier(2, u32::MAX));
    }

    #[test]
    fn an_interface_that_cannot_be_read_is_not_left_out() {
        let nameless = message(libc::RTM_NEWLINK, 0, &[]);
        let mut short = message(libc::RTM_NEWLINK, 0, &[(libc::IFLA_IFNAME, b"eth0\0")]);
        short.truncate(24);
        short[0] = 24;
        for broken in [nameless, short] {
            assert_eq!(read(&broken), [News::Unreadable]);
        }
        assert!(read_news(&[99, 0, 0, 0, 16, 0], None, &mut VecDeque::new()).is_err(), "no message at all");
    }
}
