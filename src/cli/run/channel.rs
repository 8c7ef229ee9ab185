//! What `exeat run` and the first process of its sandbox say to each other, and how.
//!
//! One Unix stream socket; each message is a length and JSON, and may bring descriptors. It is also the lifeline:
//! the first process ends its sandbox when the socket does, so that nothing survives a `kill -9` of exeat.
//! No secret ever goes over it.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::sys;

/// Descriptors that one message may bring.
const DESCRIPTORS: usize = 16;
/// Bytes of one message: an environment and a list of paths.
const MESSAGE_BYTES: u32 = 64 * 1024 * 1024;

/// From exeat to the first process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// What to make. Brings the content of each overlay, then the passed ones of standard input, output and error.
    Make(Box<Plan>),
    /// The user namespace has its identity.
    Mapped,
    /// All is served: start the command.
    Start,
    /// Pass a signal on to the command.
    Signal(Passed),
}

/// A signal to pass on.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Passed {
    /// Its number.
    pub signal: i32,
    /// To the command's whole process group, as a terminal would send it.
    pub group: bool,
}

/// From the first process to exeat.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The namespaces are made; the identity is wanted.
    Unshared,
    /// The first process of the new PID namespace has this id outside.
    First(i32),
    /// The sandbox stands. Brings the four sockets, and the pseudo-terminal's master if one was wanted.
    Ready,
    /// Something could not be made; the sandbox is gone.
    Failed(Fault),
    /// The command could not be executed.
    NotExecuted {
        /// The kernel's answer.
        errno: i32,
    },
    /// The command ended by itself.
    Exited(i32),
    /// The command was ended by a signal.
    Killed(i32),
}

/// What could not be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::cli) struct Fault {
    /// The part of the sandbox.
    pub part: Part,
    /// What was being done.
    pub what: String,
    /// The kernel's answer; 0 where the fault is not the kernel's.
    pub errno: i32,
}

/// The parts of a sandbox, as far as remedies differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) enum Part {
    /// The user namespace and those made with it.
    Namespaces,
    /// The user id inside.
    Identity,
    /// The view of the file system.
    Files,
    /// The loopback interface and the listeners.
    Network,
    /// The nftables rules.
    Rules,
    /// The pseudo-terminal.
    Terminal,
    /// The system-call filter.
    Seccomp,
    /// The working directory.
    Directory,
    /// exeat itself: the two sides do not understand each other.
    Talk,
}

/// Everything that the first process needs to know. Bytes, where the system promises no encoding.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The ids inside and outside.
    pub identity: Identity,
    /// The command and its arguments; none for a sandbox that is made only to see whether it can be.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=VALUE`, each.
    pub env: Vec<Vec<u8>>,
    /// Where the command starts.
    pub directory: PathBuf,
    /// What standard input, output and error become.
    pub stdio: [Stdio; 3],
    /// Files of ours and where they are seen.
    pub overlays: Vec<(String, Vec<PathBuf>)>,
    /// Paths to hide.
    pub masks: Vec<PathBuf>,
    /// Paths to keep.
    pub kept: Vec<PathBuf>,
}

/// The user inside, and who that is outside.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The user id that the command sees.
    pub uid: u32,
    /// The group id that the command sees.
    pub gid: u32,
    /// The user id that it has on the host.
    pub host_uid: u32,
    /// The group id that it has on the host.
    pub host_gid: u32,
}

/// What one of the standard descriptors becomes inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stdio {
    /// The descriptor that came with the plan.
    Passed,
    /// The new pseudo-terminal.
    Terminal,
}

/// One side of the conversation.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    /// Talks over a socket.
    pub(super) fn new(socket: UnixStream) -> Self {
        Self(socket)
    }

    /// A second handle of the same side.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// The socket, for polling.
    pub(super) fn socket(&self) -> &UnixStream {
        &self.0
    }

    /// Says one thing.
    pub(super) fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let length = u32::try_from(text.len()).map_err(io::Error::other)?.to_le_bytes();
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &[][..] } else { &rights };
        let sent = sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&length)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
        (&self.0).write_all(length.get(sent..).unwrap_or_default())?;
        (&self.0).write_all(&text)
    }

    /// Hears one thing; `None` when the other side is gone.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
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
        let length = u32::from_le_bytes(length);
        if length > MESSAGE_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut text = vec![0; length as usize];
        (&self.0).read_exact(&mut text)?;
        Ok(Some((serde_json::from_slice(&text)?, descriptors)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn messages_bring_their_descriptors_in_order() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (ours, theirs) = (Channel::new(ours), Channel::new(theirs));
        let (mut reader, writer) = io::pipe().unwrap();
        ours.send(&Report::Exited(7), &[writer.as_fd(), io::stdin().as_fd()]).unwrap();
        ours.send(&Report::Killed(9), &[]).unwrap();
        drop(writer);
        let (first, mut descriptors) = theirs.receive::<Report>().unwrap().unwrap();
        assert!(matches!(first, Report::Exited(7)));
        assert_eq!(descriptors.len(), 2);
        io::PipeWriter::from(descriptors.remove(0)).write_all(b"through").unwrap();
        let mut through = String::new();
        reader.read_to_string(&mut through).unwrap();
        assert_eq!(through, "through");
        let (second, none) = theirs.receive::<Report>().unwrap().unwrap();
        assert!(matches!(second, Report::Killed(9)) && none.is_empty());
        drop(ours);
        assert!(theirs.receive::<Report>().unwrap().is_none());
    }
}
