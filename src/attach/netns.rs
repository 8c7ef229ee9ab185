//! An attachment by network namespace: our listeners stand inside the sandbox's own (HOUSE §2).
//!
//! [`prepare`] runs where the sandbox's network namespace is the caller's, and makes every address local, brings all
//! TCP to one listener and all DNS to one socket. The sockets then go to whoever serves the sandbox; its outbound
//! sockets are made elsewhere, in the host's namespace.
//!
//! - `INVARIANT`: no interface leads out of the namespace: [`prepare`] refuses one that has any but `lo` up. When
//!   the daemon is gone, or the rules are flushed, nothing leaves, for there is no way out.
//! - `INVARIANT`: the original destination is the accepted socket's own address, so it needs no lookup that could
//!   be raced.

mod netlink;
mod rules;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NetlinkMessage};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, recvmsg,
    sendmsg, setsockopt, sockopt,
};
use socket2::{Domain as Family, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{Arrival, Datagrams, Envelope, Listener};
use crate::flow::{ClientAddr, OriginalDst};
use crate::limits;
use netlink::Netlink;

/// The port of our TCP listener inside each namespace: above what kernels hand out as ephemeral ports. A flow whose
/// original destination has this port is refused as a loop, for it cannot be told from one to the listener itself.
pub const LISTENER_PORT: u16 = 65_533;
/// The sandbox's own non-loopback addresses, one of each family; the first is also its name server.
pub const SANDBOX_IPV4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// See [`SANDBOX_IPV4`].
pub const SANDBOX_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd65, 0x7865, 0x6174, 0, 0, 0, 0, 1);

/// Where DNS is asked.
const DNS_PORT: u16 = 53;
/// The mark of what our own sockets send inside the namespace ("exea"). The sandbox cannot set one: that takes
/// `CAP_NET_ADMIN` over the namespace.
const MARK: u32 = 0x6578_6561;
/// `lo` has this index in every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// `RT_TABLE_LOCAL`.
const TABLE_LOCAL: u8 = 255;
/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 1024;
/// How long an accept that failed for want of descriptors or memory rests before it tries again.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What [`prepare`] made: sockets of one sandbox, to be served.
#[derive(Debug)]
pub struct Sockets {
    /// TCP, IPv4 and IPv6.
    pub tcp: [OwnedFd; 2],
    /// DNS over UDP, IPv4 and IPv6.
    pub udp: [OwnedFd; 2],
}

/// Which step of attaching failed, and why.
#[derive(Debug)]
pub struct AttachError {
    /// What was being done.
    pub step: AttachStep,
    /// The kernel's answer.
    pub source: io::Error,
}

/// The steps of [`prepare`], in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachStep {
    /// Bringing `lo` up, with its addresses and the routes that make every address local.
    Loopback,
    /// Looking for interfaces that lead out.
    Interfaces,
    /// The nftables batch, with its TPROXY rules.
    Rules,
    /// The listening sockets.
    Listen,
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.step {
            AttachStep::Loopback => "cannot set up the loopback interface of the sandbox",
            AttachStep::Interfaces => "cannot make sure that no interface leads out of the sandbox",
            AttachStep::Rules => "cannot load the nftables rules (TPROXY) of the sandbox",
            AttachStep::Listen => "cannot listen inside the sandbox",
        })
    }
}

impl std::error::Error for AttachError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Makes the calling thread's network namespace a sandbox's: see the module's doc. Needs `CAP_NET_ADMIN` over it.
///
/// # Errors
/// The step that failed. What was done before it stays until the namespace goes.
pub fn prepare() -> Result<Sockets, AttachError> {
    let at = |step| move |source| AttachError { step, source };
    loopback().map_err(at(AttachStep::Loopback))?;
    refuse_ways_out().map_err(at(AttachStep::Interfaces))?;
    load_rules().map_err(at(AttachStep::Rules))?;
    listen().map_err(at(AttachStep::Listen))
}

fn loopback() -> io::Result<()> {
    let route = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE)?;
    let mut link = LinkMessage::default();
    link.header.index = LOOPBACK_INDEX;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    let requests = vec![
        RouteNetlinkMessage::SetLink(link),
        RouteNetlinkMessage::NewAddress(address(SANDBOX_IPV4.into())),
        RouteNetlinkMessage::NewAddress(address(SANDBOX_IPV6.into())),
        RouteNetlinkMessage::NewRoute(everything_is_local(SANDBOX_IPV4.into())),
        RouteNetlinkMessage::NewRoute(everything_is_local(SANDBOX_IPV6.into())),
    ];
    for request in requests {
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        route.transact(vec![request])?;
    }
    Ok(())
}

fn address(ip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = if ip.is_ipv4() { 32 } else { 128 };
    message.header.index = LOOPBACK_INDEX;
    // Without it an IPv6 address is tentative for a moment, and cannot yet be the source of a route.
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

/// `ip route add local default dev lo src IP`: every address of the family is ours, and what the sandbox sends has
/// its own address as source.
fn everything_is_local(source: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(source);
    message.header.table = TABLE_LOCAL;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Host;
    message.header.kind = RouteType::Local;
    let source = match source {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    };
    message.attributes = vec![RouteAttribute::Oif(LOOPBACK_INDEX), RouteAttribute::PrefSource(source)];
    message
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Refuses a namespace in which any interface but `lo` is up. (Some kernels put idle tunnel devices into every new
/// namespace; they are down, and stay so: raising one takes `CAP_NET_ADMIN` over the namespace.)
fn refuse_ways_out() -> io::Result<()> {
    let route = Netlink::open(netlink_sys::protocols::NETLINK_ROUTE)?;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
    request.header.flags = NLM_F_ACK | NLM_F_DUMP;
    for answer in route.transact(vec![request])? {
        let RouteNetlinkMessage::NewLink(link) = answer else { continue };
        if link.header.index != LOOPBACK_INDEX && link.header.flags.contains(LinkFlags::Up) {
            let name = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.as_str()),
                _ => None,
            });
            return Err(io::Error::other(format!("interface {} is up", name.unwrap_or("without a name"))));
        }
    }
    Ok(())
}

fn load_rules() -> io::Result<()> {
    Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER)?.transact(rules::batch()).map(drop)
}

fn listen() -> io::Result<Sockets> {
    let any = [SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))];
    let tcp = any.map(|any| listen_tcp(SocketAddr::new(any.ip(), LISTENER_PORT)));
    let udp = any.map(|any| listen_dns(SocketAddr::new(any.ip(), DNS_PORT)));
    let [tcp4, tcp6] = tcp;
    let [udp4, udp6] = udp;
    Ok(Sockets { tcp: [tcp4?, tcp6?], udp: [udp4?, udp6?] })
}

fn listen_tcp(addr: SocketAddr) -> io::Result<OwnedFd> {
    let socket = transparent(addr, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn listen_dns(addr: SocketAddr) -> io::Result<OwnedFd> {
    let socket = transparent(addr, Type::DGRAM, Protocol::UDP)?;
    if addr.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// A socket that TPROXY may hand packets for any address to, and whose own packets bear [`MARK`].
fn transparent(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Family::for_address(addr), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.set_mark(MARK)?;
    if addr.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_ip_transparent_v6(true)?;
    }
    Ok(socket)
}

/// The TCP side of an attachment.
#[derive(Debug)]
pub struct NetnsListener {
    ipv4: TcpListener,
    ipv6: TcpListener,
}

impl NetnsListener {
    /// Takes the listening sockets over; call it inside a runtime.
    ///
    /// # Errors
    /// The runtime's, when it cannot watch them.
    pub fn new(tcp: [OwnedFd; 2]) -> io::Result<Self> {
        let [ipv4, ipv6] = tcp.map(|fd| TcpListener::from_std(std::net::TcpListener::from(fd)));
        Ok(Self { ipv4: ipv4?, ipv6: ipv6? })
    }
}

impl Listener for NetnsListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> Arrival<TcpStream> {
        loop {
            let accepted = tokio::select! {
                accepted = self.ipv4.accept() => accepted,
                accepted = self.ipv6.accept() => accepted,
            };
            let arrival = accepted.and_then(|(io, client)| {
                let dst = io.local_addr()?;
                Ok(Arrival { io, client: ClientAddr(client), dst: OriginalDst(dst) })
            });
            match arrival {
                Ok(arrival) => return arrival,
                // A connection that died in the queue takes nothing from the next; anything else is want of
                // descriptors or memory, and a moment's rest keeps the loop from spinning on it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => tokio::time::sleep(ACCEPT_REST).await,
            }
        }
    }
}

/// The DNS side of an attachment.
#[derive(Debug)]
pub struct NetnsDatagrams {
    ipv4: UdpSocket,
    ipv6: UdpSocket,
}

impl NetnsDatagrams {
    /// Takes the sockets over; call it inside a runtime.
    ///
    /// # Errors
    /// The runtime's, when it cannot watch them.
    pub fn new(udp: [OwnedFd; 2]) -> io::Result<Self> {
        let [ipv4, ipv6] = udp.map(|fd| UdpSocket::from_std(std::net::UdpSocket::from(fd)));
        Ok(Self { ipv4: ipv4?, ipv6: ipv6? })
    }
}

impl Datagrams for NetnsDatagrams {
    async fn receive(&self, buffer: &mut Vec<u8>) -> Envelope {
        let mut room = vec![0_u8; limits::DNS_EDNS_BYTES];
        loop {
            let (ready, socket) = tokio::select! {
                ready = self.ipv4.readable() => (ready, &self.ipv4),
                ready = self.ipv6.readable() => (ready, &self.ipv6),
            };
            let received = ready.and_then(|()| socket.try_io(Interest::READABLE, || receive_one(socket, &mut room)));
            match received {
                Ok((length, envelope)) => {
                    buffer.clear();
                    buffer.extend_from_slice(room.get(..length).unwrap_or_default());
                    return envelope;
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::InvalidData) => {}
                Err(_) => tokio::time::sleep(ACCEPT_REST).await,
            }
        }
    }

    async fn reply(&self, to: Envelope, message: &[u8]) {
        let socket = if to.dst.0.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        // A datagram that finds no room is lost, as UDP may: the client asks again.
        drop(socket.async_io(Interest::WRITABLE, || reply_one(socket, to, message)).await);
    }
}

/// Reads one datagram whole, with the address that it was sent to. What is longer than `room`, or came without its
/// destination, is an error: it cannot be answered.
fn receive_one(socket: &UdpSocket, room: &mut [u8]) -> io::Result<(usize, Envelope)> {
    let mut space = cmsg_space!(libc::sockaddr_in6);
    let mut pieces = [io::IoSliceMut::new(room)];
    let received =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut pieces, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    let client = received.address.as_ref().and_then(socket_addr);
    let dst = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4OrigDstAddr(addr) => Some(SocketAddr::V4(SocketAddrV4::from(SockaddrIn::from(addr)))),
        ControlMessageOwned::Ipv6OrigDstAddr(addr) => Some(SocketAddr::V6(SocketAddrV6::from(SockaddrIn6::from(addr)))),
        _ => None,
    });
    match (client, dst) {
        (Some(client), Some(dst)) if !received.flags.contains(MsgFlags::MSG_TRUNC) => {
            Ok((received.bytes, Envelope { client: ClientAddr(client), dst: OriginalDst(dst) }))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn socket_addr(addr: &SockaddrStorage) -> Option<SocketAddr> {
    let ipv4 = addr.as_sockaddr_in().map(|addr| SocketAddr::V4((*addr).into()));
    ipv4.or_else(|| addr.as_sockaddr_in6().map(|addr| SocketAddr::V6((*addr).into())))
}

/// Sends one datagram from the address that the question was sent to.
fn reply_one(socket: &UdpSocket, to: Envelope, message: &[u8]) -> io::Result<()> {
    let pieces = [io::IoSlice::new(message)];
    match (to.client.0, to.dst.ip()) {
        (SocketAddr::V4(client), IpAddr::V4(from)) => {
            let source = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            send(socket, &pieces, &ControlMessage::Ipv4PacketInfo(&source), &SockaddrIn::from(client))
        }
        (SocketAddr::V6(client), IpAddr::V6(from)) => {
            let source = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
            send(socket, &pieces, &ControlMessage::Ipv6PacketInfo(&source), &SockaddrIn6::from(client))
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn send(
    socket: &UdpSocket,
    pieces: &[io::IoSlice<'_>],
    source: &ControlMessage<'_>,
    client: &impl SockaddrLike,
) -> io::Result<()> {
    sendmsg(socket.as_raw_fd(), pieces, std::slice::from_ref(source), MsgFlags::MSG_DONTWAIT, Some(client))?;
    Ok(())
}
