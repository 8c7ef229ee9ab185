//! The sockets that a sandbox's connections and DNS questions arrive at.
//!
//! TPROXY brings them packets for any address; the accepted socket's own address is the original destination, so it
//! needs no lookup that could be raced. They are made where the packets arrive, and served from anywhere.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, recvmsg,
    sendmsg, setsockopt, sockopt,
};
use socket2::{Domain as Family, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, UdpSocket};

use super::packets::{SandboxPackets, SandboxReplies};
use super::{Arrival, Datagrams, Envelope, Listener};
use crate::flow::{ClientAddr, OriginalDst};
use crate::limits;

/// The port that our sockets have wherever a sandbox's packets arrive: above what kernels hand out as ephemeral ports.
/// A flow whose original destination has this port is refused as a loop, for it cannot be told from one to the
/// listener itself.
pub const LISTENER_PORT: u16 = 65_533;
/// Where DNS is asked. No socket of ours has this port, so that a resolver of the sandbox's own can: the rules bring
/// questions to [`LISTENER_PORT`], and give the answers this port as their source.
pub(super) const DNS_PORT: u16 = 53;
/// The port of the sockets that take all other datagrams.
pub(super) const RELAY_PORT: u16 = 65_532;
/// The mark of what our sockets send ("exea"). A sandbox cannot set one: that takes `CAP_NET_ADMIN`.
pub(super) const MARK: u32 = 0x6578_6561;

/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 1024;
/// How long an accept that failed for want of descriptors or memory rests before it tries again.
pub(super) const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Sockets of one sandbox, to be served.
#[derive(Debug)]
pub struct Sockets {
    /// TCP, IPv4 and IPv6.
    pub tcp: [OwnedFd; 2],
    /// DNS over UDP, IPv4 and IPv6.
    pub udp: [OwnedFd; 2],
    /// All other UDP, IPv4 and IPv6.
    pub relay: [OwnedFd; 2],
    /// What sends packets with headers of our own making, IPv4 and IPv6. Nothing is received by them.
    pub raw: [OwnedFd; 2],
}

impl Sockets {
    /// Makes them in the network namespace of the calling thread; for the packets of one device, or of all.
    ///
    /// # Errors
    /// The kernel's; `EADDRINUSE` where they are there already.
    pub(super) fn listen(device: Option<&str>) -> io::Result<Self> {
        let [any4, any6] = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
        Ok(Self {
            tcp: [listen_tcp(any4, device)?, listen_tcp(any6, device)?],
            udp: [listen_udp(any4, LISTENER_PORT, device)?, listen_udp(any6, LISTENER_PORT, device)?],
            relay: [listen_udp(any4, RELAY_PORT, device)?, listen_udp(any6, RELAY_PORT, device)?],
            raw: [raw(any4, device)?, raw(any6, device)?],
        })
    }

    /// All of them, in an order that [`Self::of_descriptors`] knows.
    pub fn iter(&self) -> impl Iterator<Item = &OwnedFd> {
        let Self { tcp, udp, relay, raw } = self;
        [tcp, udp, relay, raw].into_iter().flatten()
    }

    /// The same, given away.
    pub fn into_descriptors(self) -> impl Iterator<Item = OwnedFd> {
        let Self { tcp, udp, relay, raw } = self;
        [tcp, udp, relay, raw].into_iter().flatten()
    }

    /// The sockets again, from as many descriptors as there are; further ones stay where they are.
    pub fn of_descriptors(descriptors: &mut impl Iterator<Item = OwnedFd>) -> Option<Self> {
        let mut pair = || Some([descriptors.next()?, descriptors.next()?]);
        Some(Self { tcp: pair()?, udp: pair()?, relay: pair()?, raw: pair()? })
    }
}

fn listen_tcp(any: IpAddr, device: Option<&str>) -> io::Result<OwnedFd> {
    let addr = SocketAddr::new(any, LISTENER_PORT);
    let socket = transparent(addr, Type::STREAM, Protocol::TCP, device)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn listen_udp(any: IpAddr, port: u16, device: Option<&str>) -> io::Result<OwnedFd> {
    let addr = SocketAddr::new(any, port);
    let socket = transparent(addr, Type::DGRAM, Protocol::UDP, device)?;
    if addr.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// A socket that sends IP packets as they are. It takes `CAP_NET_RAW` to make, and none to use.
fn raw(any: IpAddr, device: Option<&str>) -> io::Result<OwnedFd> {
    let socket =
        Socket::new(Family::for_address(SocketAddr::new(any, 0)), Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    socket.set_nonblocking(true)?;
    socket.set_mark(MARK)?;
    Ok(socket.into())
}

/// A socket that TPROXY may hand packets for any address to, and whose own packets bear [`MARK`].
fn transparent(addr: SocketAddr, kind: Type, protocol: Protocol, device: Option<&str>) -> io::Result<Socket> {
    let socket = Socket::new(Family::for_address(addr), kind, Some(protocol))?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
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
pub struct SandboxListener(Arc<Pair<TcpListener>>);

/// One socket of each family.
#[derive(Debug)]
struct Pair<S> {
    ipv4: S,
    ipv6: S,
}

/// The sockets of an attachment for as long as somebody serves them.
#[derive(Debug)]
pub struct Served {
    tcp: Weak<Pair<TcpListener>>,
    udp: Weak<SandboxDatagrams>,
    relay: Weak<SandboxPackets>,
    raw: Weak<SandboxReplies>,
}

impl Served {
    /// Of these.
    #[must_use]
    pub fn of(
        listener: &SandboxListener,
        datagrams: &Arc<SandboxDatagrams>,
        packets: &Arc<SandboxPackets>,
        replies: &Arc<SandboxReplies>,
    ) -> Self {
        Self {
            tcp: Arc::downgrade(&listener.0),
            udp: Arc::downgrade(datagrams),
            relay: Arc::downgrade(packets),
            raw: Arc::downgrade(replies),
        }
    }

    /// The same sockets once more, for another process to serve; `None` where nobody serves them any more.
    ///
    /// # Errors
    /// No more descriptors are to be had.
    pub fn again(&self) -> io::Result<Option<Sockets>> {
        let (Some(tcp), Some(udp)) = (self.tcp.upgrade(), self.udp.upgrade()) else { return Ok(None) };
        let (Some(relay), Some(raw)) = (self.relay.upgrade(), self.raw.upgrade()) else { return Ok(None) };
        let SandboxReplies([raw4, raw6]) = &*raw;
        let again = |socket: BorrowedFd<'_>| socket.try_clone_to_owned();
        Ok(Some(Sockets {
            tcp: [again(tcp.ipv4.as_fd())?, again(tcp.ipv6.as_fd())?],
            udp: [again(udp.ipv4.as_fd())?, again(udp.ipv6.as_fd())?],
            relay: [again(relay.ipv4.as_fd())?, again(relay.ipv6.as_fd())?],
            raw: [raw4.try_clone()?, raw6.try_clone()?],
        }))
    }
}

impl SandboxListener {
    /// Takes the listening sockets over; call it inside a runtime.
    ///
    /// # Errors
    /// The runtime's, when it cannot watch them.
    pub fn new(tcp: [OwnedFd; 2]) -> io::Result<Self> {
        let [ipv4, ipv6] = tcp.map(|fd| TcpListener::from_std(std::net::TcpListener::from(fd)));
        Ok(Self(Arc::new(Pair { ipv4: ipv4?, ipv6: ipv6? })))
    }
}

impl Listener for SandboxListener {
    async fn accept(&mut self) -> Arrival {
        loop {
            let accepted = tokio::select! {
                accepted = self.0.ipv4.accept() => accepted,
                accepted = self.0.ipv6.accept() => accepted,
            };
            let arrival = accepted.and_then(|(io, client)| {
                let dst = io.local_addr()?;
                Ok(Arrival { io: io.into_std()?, client: ClientAddr(client), dst: OriginalDst(dst) })
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
pub struct SandboxDatagrams {
    ipv4: UdpSocket,
    ipv6: UdpSocket,
}

impl SandboxDatagrams {
    /// Takes the sockets over; call it inside a runtime.
    ///
    /// # Errors
    /// The runtime's, when it cannot watch them.
    pub fn new(udp: [OwnedFd; 2]) -> io::Result<Self> {
        let [ipv4, ipv6] = udp.map(|fd| UdpSocket::from_std(std::net::UdpSocket::from(fd)));
        Ok(Self { ipv4: ipv4?, ipv6: ipv6? })
    }
}

impl Datagrams for SandboxDatagrams {
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
pub(super) fn receive_one(socket: &UdpSocket, room: &mut [u8]) -> io::Result<(usize, Envelope)> {
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
