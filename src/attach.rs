//! How a sandbox's packets reach us: an attachment, and the listener that it gives.
//!
//! A sandbox **is** the listener that its connection came in on (HOUSE §2): never a source address, a header or a
//! token.

pub mod netns;

use std::future::Future;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::flow::{ClientAddr, OriginalDst};

/// Where connections of one sandbox arrive.
pub trait Listener: Send + 'static {
    /// A connection's bytes.
    type Io: AsyncRead + AsyncWrite + Reset + Send + Unpin + 'static;

    /// Waits for the next connection. Retries by itself and never fails: a listener that cannot go on closes its
    /// sandbox instead.
    fn accept(&mut self) -> impl Future<Output = Arrival<Self::Io>> + Send;
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
pub struct Arrival<Io> {
    /// Its bytes.
    pub io: Io,
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

/// Whence and whither a datagram went.
#[derive(Debug, Clone, Copy)]
pub struct Envelope {
    /// Who asked.
    pub client: ClientAddr,
    /// Whom they asked; the answer comes from there.
    pub dst: OriginalDst,
}
