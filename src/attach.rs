//! How a sandbox's packets reach us: an attachment, and the listener that it gives.
//!
//! A sandbox **is** the listener that its connection came in on (HOUSE §2): never a source address, a header or a
//! token.
//!
//! | | [`netns`] | `interface` |
//! |---|---|---|
//! | its packets arrive | in a network namespace of its own | at a TAP or veth of the host |
//! | with us gone | there is no way out | every hook drops them |
//! | who it is | boot, namespace | boot, namespace, interface |
//!
//! [`Host`] attaches either, and gives what each needs: sockets to serve, events to watch, and the attachment, which
//! is detached at the end. The rules are in `rules`, one page for each place where they stand.

mod device;
mod error;
mod host;
mod identity;
mod interface;
mod netlink;
pub mod netns;
mod nft;
mod packets;
mod routing;
mod rules;
mod sockets;

use std::future::Future;
use std::path::PathBuf;

use tokio::net::TcpStream;

use crate::flow::{ClientAddr, OriginalDst};
pub use device::Device;
pub use error::{AttachError, AttachStep, Refusal};
pub use host::Host;
pub use identity::{AttachmentId, NotAnId};
pub use packets::{SandboxPackets, SandboxReplies};
pub use sockets::{LISTENER_PORT, SandboxDatagrams, SandboxListener, Served, Sockets};

/// What is to be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// A network namespace of the sandbox's own.
    Netns {
        /// Where it is found, such as `/run/netns/x` or `/proc/PID/ns/net`.
        path: PathBuf,
        /// The TAPs in it that lead to the sandbox, where that is a virtual machine; no other interface may be there.
        taps: Vec<Device>,
    },
    /// A TAP or veth on the host, which is down.
    Interface(Device),
}

/// A sandbox's packets arrive. Dropping it changes nothing: what confines them stays until [`detach`](Self::detach).
#[derive(Debug)]
#[must_use]
pub enum Attachment {
    /// Through listeners inside its own network namespace.
    Netns(netns::Netns),
    /// Through listeners that are bound to an interface on the host.
    Interface(interface::Interface),
}

impl Attachment {
    /// Who it is: equal only where it is the very same namespace or interface.
    #[must_use]
    pub fn id(&self) -> &AttachmentId {
        match self {
            Self::Netns(netns) => netns.id(),
            Self::Interface(interface) => interface.id(),
        }
    }

    /// Leaves it to another process, which has taken it up: nothing of it is changed, watched or mended any more.
    pub fn leave(self) {
        match self {
            Self::Netns(_) => {}
            Self::Interface(interface) => interface.leave(),
        }
    }

    /// Takes away every trace of it. Its sockets are whoever's they were given to, and should be closed before.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn detach(self) -> Result<(), AttachError> {
        match self {
            Self::Netns(netns) => netns.detach().await,
            Self::Interface(interface) => host::waiting(move || interface.detach()).await,
        }
    }
}

/// What attaching gives.
#[derive(Debug)]
pub struct Attached {
    /// To be kept, and detached when the sandbox ends.
    pub attachment: Attachment,
    /// To be served.
    pub sockets: Sockets,
    /// To be watched from the beginning: what happens while nobody asks is told late.
    pub events: Events,
}

/// What happens to an attachment.
#[derive(Debug)]
pub enum Events {
    /// To a network namespace.
    Netns(netns::NetnsEvents),
    /// To an interface on the host.
    Interface(interface::InterfaceEvents),
}

impl Events {
    /// Waits for the next event. A call that is dropped loses none.
    pub async fn next(&mut self) -> AttachmentEvent {
        match self {
            Self::Netns(events) => events.next().await,
            Self::Interface(events) => events.next().await,
        }
    }
}

/// What can happen to an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachmentEvent {
    /// It may no longer be what confines the sandbox, for this reason: whoever serves it cuts every flow, and takes
    /// none. Told once.
    Quarantined(String),
    /// Somebody else had taken rules of it away, and they stand again; packets may have passed in between. It is served
    /// as before.
    Mended,
    /// The namespace or interface is no longer where it was. Told again whenever it is asked for.
    Gone,
}

/// Where connections of one sandbox arrive.
pub trait Listener: Send + 'static {
    /// Waits for the next connection. Retries by itself and never fails: a listener that cannot go on closes its
    /// sandbox instead.
    fn accept(&mut self) -> impl Future<Output = Arrival> + Send;
}

/// A connection that can end with a reset: what is unsent is discarded, and the peer sees an error and no orderly end
/// (POLICY §7, §8).
pub trait Reset {
    /// Makes the end of this connection a reset. It takes effect when the connection is dropped.
    fn reset_on_drop(&mut self);
}

impl Reset for TcpStream {
    fn reset_on_drop(&mut self) {
        // It fails only for a socket that is no longer connected, which has nothing to reset.
        let _ = self.set_zero_linger();
    }
}

impl<Io: Reset + ?Sized> Reset for Box<Io> {
    fn reset_on_drop(&mut self) {
        (**self).reset_on_drop();
    }
}

/// One connection as it arrived.
#[derive(Debug)]
pub struct Arrival {
    /// Its bytes: a socket that does not block, and that no runtime watches yet.
    pub io: std::net::TcpStream,
    /// Where it came from, for records.
    pub client: ClientAddr,
    /// Where it was going.
    pub dst: OriginalDst,
}

/// DNS questions that arrive as datagrams, whichever resolver they were sent to.
pub trait Datagrams: Send + Sync + 'static {
    /// Waits for the next datagram; its bytes are put into `buffer`, from the start. Retries by itself; a call that
    /// is dropped loses no datagram.
    fn receive(&self, buffer: &mut Vec<u8>) -> impl Future<Output = Envelope> + Send;

    /// Answers one, from the address that it was sent to. What cannot be sent is dropped, as UDP may be.
    fn reply(&self, to: Envelope, message: &[u8]) -> impl Future<Output = ()> + Send;
}

/// Datagrams that are no DNS questions, wherever they were going.
pub trait Packets: Send + Sync + 'static {
    /// Waits for the next datagram; its bytes are put into `room`, from the start, and counted. Room is made where
    /// there is none, and given up while nothing comes. Retries by itself; a call that is dropped loses no datagram.
    fn receive(&self, room: &mut Vec<u8>) -> impl Future<Output = (Envelope, usize)> + Send;
}

/// What goes back to whoever sent them.
pub trait Replies: Send + Sync + 'static {
    /// Sends one to the client, from where it wrote to. What cannot be sent at once is lost, as UDP may.
    fn reply(&self, to: Envelope, payload: &[u8]);

    /// Tells the client that nobody is where it wrote to (port unreachable).
    fn refuse(&self, to: Envelope);
}

/// Whence and whither a datagram went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Envelope {
    /// Who asked.
    pub client: ClientAddr,
    /// Whom they asked; the answer comes from there.
    pub dst: OriginalDst,
}
