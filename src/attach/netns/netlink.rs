//! One netlink request, or one batch of them, and the kernel's answers.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// Bytes for one read: the kernel's answers to a request of ours are far smaller.
const ANSWER_BYTES: usize = 32 * 1024;

/// A netlink socket that asks and waits for each answer.
pub(super) struct Netlink(Socket);

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        Ok(Self(socket))
    }

    /// Sends requests in one datagram, and waits until each one that asks for it was acknowledged. Returns what
    /// was answered besides.
    pub(super) fn transact<I>(&self, requests: Vec<NetlinkMessage<I>>) -> io::Result<Vec<I>>
    where
        I: NetlinkSerializable + NetlinkDeserializable + std::fmt::Debug,
    {
        let mut datagram = Vec::new();
        let mut pending = 0_usize;
        for (sequence, mut request) in (1_u32..).zip(requests) {
            request.header.sequence_number = sequence;
            request.header.flags |= NLM_F_REQUEST;
            pending += usize::from(request.header.flags & NLM_F_ACK != 0);
            request.finalize();
            let start = datagram.len();
            datagram.resize(start + request.buffer_len(), 0);
            if let Some(room) = datagram.get_mut(start..) {
                request.serialize(room);
            }
        }
        self.0.send_to(&datagram, &SocketAddr::new(0, 0), 0)?;
        let mut answers = Vec::new();
        while pending > 0 {
            let (received, _) = self.0.recv_from_full()?;
            pending = pending.saturating_sub(read_answers(&received, &mut answers)?);
        }
        Ok(answers)
    }
}

/// Reads the messages of one datagram; returns how many requests it settles.
fn read_answers<I>(mut datagram: &[u8], answers: &mut Vec<I>) -> io::Result<usize>
where
    I: NetlinkSerializable + NetlinkDeserializable + std::fmt::Debug,
{
    let mut settled = 0;
    while !datagram.is_empty() {
        let message = NetlinkMessage::<I>::deserialize(datagram).map_err(io::Error::other)?;
        let length = (message.header.length as usize).next_multiple_of(4).clamp(4, ANSWER_BYTES);
        datagram = datagram.get(length..).unwrap_or_default();
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
