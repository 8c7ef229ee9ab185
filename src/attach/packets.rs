//! Datagrams of a sandbox that are no DNS questions: taken wherever they were going, answered as from there.
//!
//! They come by TPROXY to one socket of each family. No socket can be bound to every address that they were sent to, so
//! what goes back is made here, headers and all, and sent by a raw socket that was made where the packets arrive.
//! Nothing is judged: who is refused is told by `port unreachable`, which makes a QUIC client fall back at once.
//!
//! Why not a set of permitted addresses in the kernel's rules: that would be a second place that judges, to be kept in
//! step with every push, every address of the host, and every reading of an embedded address.
//!
//! - `INVARIANT`: nothing is sent but UDP and `port unreachable`, from an address and port that the sandbox wrote to.
//! - `INVARIANT`: while nothing arrives, no buffer is held.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, SockaddrIn, SockaddrIn6, sendto};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::sockets::{ACCEPT_REST, receive_one};
use super::{Envelope, Packets, Replies};
use crate::limits;

/// Where the datagrams of one attachment come in.
#[derive(Debug)]
pub struct SandboxPackets {
    pub(super) ipv4: UdpSocket,
    pub(super) ipv6: UdpSocket,
}

/// Where their answers go out.
#[derive(Debug)]
pub struct SandboxReplies(pub(super) [OwnedFd; 2]);

impl SandboxPackets {
    /// Takes the sockets over that receive; call it inside a runtime.
    ///
    /// # Errors
    /// The runtime's, when it cannot watch them.
    pub fn new(relay: [OwnedFd; 2]) -> io::Result<Self> {
        let [ipv4, ipv6] = relay.map(|fd| UdpSocket::from_std(std::net::UdpSocket::from(fd)));
        Ok(Self { ipv4: ipv4?, ipv6: ipv6? })
    }
}

impl SandboxReplies {
    /// Takes the sockets over that send.
    #[must_use]
    pub fn new(raw: [OwnedFd; 2]) -> Self {
        Self(raw)
    }

    /// Sends a packet to the client. What finds no room, or no way to a client that is gone, is lost, as UDP may.
    fn send(&self, to: Envelope, packet: &[u8]) {
        let [raw4, raw6] = &self.0;
        let sent = match to.client.0 {
            SocketAddr::V4(client) => {
                let client = SockaddrIn::from(std::net::SocketAddrV4::new(*client.ip(), 0));
                sendto(raw4.as_raw_fd(), packet, &client, MsgFlags::MSG_DONTWAIT)
            }
            SocketAddr::V6(mut client) => {
                client.set_port(0);
                sendto(raw6.as_raw_fd(), packet, &SockaddrIn6::from(client), MsgFlags::MSG_DONTWAIT)
            }
        };
        let _ = sent;
    }
}

impl Packets for SandboxPackets {
    async fn receive(&self, room: &mut Vec<u8>) -> (Envelope, usize) {
        loop {
            let (ready, socket) = tokio::select! {
                ready = self.ipv4.readable() => (ready, &self.ipv4),
                ready = self.ipv6.readable() => (ready, &self.ipv6),
            };
            // Once for all that come in a row.
            room.resize(limits::UDP_BYTES, 0);
            let received = ready.and_then(|()| socket.try_io(Interest::READABLE, || receive_one(socket, room)));
            match received {
                Ok((length, envelope)) => return (envelope, length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => *room = Vec::new(),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Err(_) => tokio::time::sleep(ACCEPT_REST).await,
            }
        }
    }
}

impl Replies for SandboxReplies {
    fn reply(&self, to: Envelope, payload: &[u8]) {
        if let Some(packet) = answer(to, payload) {
            self.send(to, &packet);
        }
    }

    fn refuse(&self, to: Envelope) {
        if let Some(packet) = unreachable(to) {
            self.send(to, &packet);
        }
    }
}

const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const UDP_HEADER: u16 = 8;

/// A datagram to the client, from where it wrote to. `None` for one that is too long for a packet.
fn answer(to: Envelope, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len()).ok()?.checked_add(UDP_HEADER)?;
    let mut datagram = udp_header(to.dst.0.port(), to.client.0.port(), length).to_vec();
    datagram.extend_from_slice(payload);
    let (from, client) = (to.dst.0.ip(), to.client.0.ip());
    let sum = checksum(&pseudo_header(from, client, UDP, length), &datagram);
    // Zero stands for "none" (RFC 768).
    write(&mut datagram, 6, if sum == 0 { u16::MAX } else { sum });
    ip_packet(from, client, UDP, &datagram)
}

/// `port unreachable` about what the client sent (RFC 792, RFC 4443 §3.1): it is known by its addresses and ports.
fn unreachable(to: Envelope) -> Option<Vec<u8>> {
    let (from, client) = (to.dst.0.ip(), to.client.0.ip());
    let refused = udp_header(to.client.0.port(), to.dst.0.port(), UDP_HEADER);
    let refused = ip_packet(client, from, UDP, &refused)?;
    let (protocol, kind, code) = if from.is_ipv4() { (ICMP, 3, 3) } else { (ICMPV6, 1, 4) };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&refused);
    let length = u16::try_from(message.len()).ok()?;
    let pseudo = if from.is_ipv4() { Vec::new() } else { pseudo_header(from, client, ICMPV6, length) };
    let sum = checksum(&pseudo, &message);
    write(&mut message, 2, sum);
    ip_packet(from, client, protocol, &message)
}

fn udp_header(from: u16, to: u16, length: u16) -> [u8; 8] {
    let ([a, b], [c, d], [e, f]) = (from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes());
    [a, b, c, d, e, f, 0, 0]
}

/// An IP header and what it carries. `None` for two families, or for what is too long.
fn ip_packet(from: IpAddr, to: IpAddr, protocol: u8, carried: &[u8]) -> Option<Vec<u8>> {
    const HOPS: u8 = 64;
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4_header(from, to, protocol, carried.len(), HOPS)?,
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_header(from, to, protocol, carried.len(), HOPS)?,
        _ => return None,
    };
    packet.extend_from_slice(carried);
    Some(packet)
}

fn ipv4_header(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, carried: usize, hops: u8) -> Option<Vec<u8>> {
    const LENGTH: usize = 20;
    let [high, low] = u16::try_from(LENGTH + carried).ok()?.to_be_bytes();
    // The identification is the kernel's to choose.
    let mut header = vec![0x45, 0, high, low, 0, 0, 0, 0, hops, protocol, 0, 0];
    header.extend_from_slice(&from.octets());
    header.extend_from_slice(&to.octets());
    let sum = checksum(&[], &header);
    write(&mut header, 10, sum);
    Some(header)
}

fn ipv6_header(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, carried: usize, hops: u8) -> Option<Vec<u8>> {
    let [high, low] = u16::try_from(carried).ok()?.to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, high, low, protocol, hops];
    header.extend_from_slice(&from.octets());
    header.extend_from_slice(&to.octets());
    Some(header)
}

/// RFC 768, RFC 8200 §8.1.
fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: u16) -> Vec<u8> {
    let mut header = Vec::with_capacity(40);
    for address in [from, to] {
        match address {
            IpAddr::V4(address) => header.extend_from_slice(&address.octets()),
            IpAddr::V6(address) => header.extend_from_slice(&address.octets()),
        }
    }
    let [high, low] = length.to_be_bytes();
    header.extend_from_slice(&[0, 0, high, low, 0, 0, 0, protocol]);
    header
}

/// The Internet checksum (RFC 1071) of both, the first of which is of even length.
fn checksum(pseudo: &[u8], bytes: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u64 {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let odd = rest.first().map_or(0, |byte| u64::from(u16::from_be_bytes([*byte, 0])));
        pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum::<u64>() + odd
    };
    let mut sum = words(pseudo) + words(bytes);
    while sum > u64::from(u16::MAX) {
        sum = (sum & u64::from(u16::MAX)) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

fn write(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{ClientAddr, OriginalDst};

    fn envelope(client: &str, dst: &str) -> Envelope {
        Envelope { client: ClientAddr(client.parse().unwrap()), dst: OriginalDst(dst.parse().unwrap()) }
    }

    /// Known good packets, as a packet library writes them.
    #[test]
    fn packets_are_what_others_make() {
        let four = envelope("198.18.0.1:40000", "9.9.9.9:443");
        let packet = answer(four, b"hello").unwrap();
        assert_eq!(packet[..12], [0x45, 0, 0, 33, 0, 0, 0, 0, 64, 17, 0xa2, 0xa7]);
        assert_eq!(packet[20..28], [1, 0xbb, 0x9c, 0x40, 0, 13, 0x45, 0xe1]);
        let six = envelope("[fd65:7865:6174::1]:40000", "[2001:db8::9]:443");
        let packet = answer(six, b"hello").unwrap();
        assert_eq!((packet.len(), &packet[..8]), (40 + 13, &[0x60, 0, 0, 0, 0, 13, 17, 64][..]));
        for (envelope, at) in [(four, 20), (six, 40)] {
            let packet = unreachable(envelope).unwrap();
            let (header, message) = packet.split_at(at);
            let quoted = &message[8..];
            assert_eq!(quoted.len(), at + 8, "an IP header, and one of UDP");
            assert_eq!(quoted[at..at + 4], [0x9c, 0x40, 1, 0xbb], "from the client's port to the one it wrote to");
            let pseudo = match envelope.dst.0.ip() {
                IpAddr::V4(_) => Vec::new(),
                from => pseudo_header(from, envelope.client.0.ip(), ICMPV6, message.len().try_into().unwrap()),
            };
            assert_eq!(checksum(&pseudo, message), 0, "a whole one sums up to nothing");
            assert!(at == 40 || checksum(&[], header) == 0);
        }
    }

    #[test]
    fn what_no_packet_holds_is_not_sent() {
        let four = envelope("198.18.0.1:40000", "9.9.9.9:443");
        assert!(answer(four, &vec![0; limits::UDP_BYTES]).is_some());
        assert!(answer(four, &vec![0; limits::UDP_BYTES + 1]).is_none());
        assert!(answer(envelope("198.18.0.1:40000", "[2001:db8::9]:443"), b"").is_none());
    }
}
