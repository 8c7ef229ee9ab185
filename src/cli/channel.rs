//! How two processes of exeat's talk: over a Unix stream socket, in messages that are a length and JSON, and may bring
//! descriptors.
//!
//! What is said is the business of those who talk. A message that is too long, or no message, ends the talk: nothing of
//! it is used.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits;
use crate::sys;

/// Descriptors that one message may bring.
const DESCRIPTORS: usize = 16;

/// One side of the conversation.
#[derive(Debug)]
pub(in crate::cli) struct Channel(UnixStream);

impl Channel {
    /// Talks over a socket.
    pub(in crate::cli) fn new(socket: UnixStream) -> Self {
        Self(socket)
    }

    /// A second handle of the same side.
    pub(in crate::cli) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// The socket, for polling.
    pub(in crate::cli) fn socket(&self) -> &UnixStream {
        &self.0
    }

    /// Says one thing.
    pub(in crate::cli) fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let length = u32::try_from(text.len()).ok().filter(|_| text.len() <= limits::MESSAGE_BYTES);
        let length = length.ok_or(io::ErrorKind::InvalidData)?.to_le_bytes();
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &[][..] } else { &rights };
        let sent = sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&length)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
        (&self.0).write_all(length.get(sent..).unwrap_or_default())?;
        (&self.0).write_all(&text)
    }

    /// Hears one thing; `None` when the other side is gone.
    pub(in crate::cli) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut length = [0_u8; 4];
        let mut space = cmsg_space!([i32; DESCRIPTORS]);
        let (read, descriptors) = {
            let mut pieces = [IoSliceMut::new(&mut length)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let received = loop {
                match recvmsg::<()>(self.0.as_raw_fd(), &mut pieces, Some(&mut space), flags) {
                    Err(nix::Error::EINTR) => {}
                    received => break received?,
                }
            };
            let mut descriptors = Vec::new();
            for message in received.cmsgs()? {
                if let ControlMessageOwned::ScmRights(numbers) = message {
                    descriptors.extend(sys::adopt(&numbers));
                }
            }
            (received.bytes, descriptors)
        };
        if read == 0 {
            return Ok(None);
        }
        (&self.0).read_exact(length.get_mut(read..).unwrap_or_default())?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > limits::MESSAGE_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut text = vec![0; length];
        (&self.0).read_exact(&mut text)?;
        Ok(Some((serde_json::from_slice(&text)?, descriptors)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn pair() -> (Channel, Channel) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Channel::new(ours), Channel::new(theirs))
    }

    #[test]
    fn messages_bring_their_descriptors_in_order() {
        let (ours, theirs) = pair();
        let (mut reader, writer) = io::pipe().unwrap();
        ours.send(&"first", &[writer.as_fd(), io::stdin().as_fd()]).unwrap();
        ours.send(&2, &[]).unwrap();
        drop(writer);
        let (first, mut descriptors) = theirs.receive::<String>().unwrap().unwrap();
        assert_eq!((first.as_str(), descriptors.len()), ("first", 2));
        io::PipeWriter::from(descriptors.remove(0)).write_all(b"through").unwrap();
        let mut through = String::new();
        reader.read_to_string(&mut through).unwrap();
        assert_eq!(through, "through");
        let (second, none) = theirs.receive::<u32>().unwrap().unwrap();
        assert!(second == 2 && none.is_empty());
        drop(ours);
        assert!(theirs.receive::<u32>().unwrap().is_none());
    }

    #[test]
    fn a_message_that_is_too_long_or_cut_or_none_is_an_error() {
        let length = |length: usize| u32::try_from(length).unwrap().to_le_bytes().to_vec();
        let cut = [length(7), b"\"x".to_vec()].concat();
        let none = [length(2), b"{]".to_vec()].concat();
        for bytes in [length(limits::MESSAGE_BYTES + 1), length(7)[..3].to_vec(), cut, none] {
            let (ours, theirs) = pair();
            ours.socket().write_all(&bytes).unwrap();
            drop(ours);
            assert!(theirs.receive::<String>().is_err(), "{bytes:?}");
        }
        let (ours, _theirs) = pair();
        let refused = ours.send(&"x".repeat(limits::MESSAGE_BYTES), &[]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "nothing of it was sent");
    }
}
