//! The host's side of every attachment: whoever attaches does it through this.
//!
//! It knows the network namespace that exeat is in, which is no sandbox's.

use std::os::fd::AsFd;

use super::error::{AttachError, AttachStep};
use super::identity::AttachmentId;
use super::netlink::Netlink;
use super::netns::{self, Request};
use super::sockets::Sockets;
use super::{Attached, Spec};

/// See the module's doc.
#[derive(Debug)]
pub struct Host {
    own: AttachmentId,
}

impl Host {
    /// Opens it for the network namespace that the calling thread, and the runtime, are in.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<Self, AttachError> {
        let identified = Netlink::route().and_then(|socket| AttachmentId::of_namespace(socket.as_fd()));
        let own = identified.map_err(AttachError::at(AttachStep::Identify))?;
        Ok(Self { own })
    }

    /// Attaches what was not attached before.
    ///
    /// # Errors
    /// What refuses it, or the step that failed.
    pub async fn attach(&self, spec: &Spec) -> Result<Attached, AttachError> {
        self.begin(spec, None, None).await
    }

    /// Takes up again what was attached before a crash, if it is provably the same, or, with the sockets of the
    /// process that served it until now, without a gap. What was left of the rules is replaced at one stroke, so that
    /// no packet passes in between.
    ///
    /// # Errors
    /// [`Refusal::Another`](super::Refusal::Another) where it is not the same; what refuses it, or the step that
    /// failed.
    pub async fn take_up(
        &self,
        spec: &Spec,
        id: &AttachmentId,
        sockets: Option<Sockets>,
    ) -> Result<Attached, AttachError> {
        self.begin(spec, Some(id.clone()), sockets).await
    }

    async fn begin(
        &self,
        spec: &Spec,
        expected: Option<AttachmentId>,
        sockets: Option<Sockets>,
    ) -> Result<Attached, AttachError> {
        match spec {
            Spec::Netns(path) => {
                let own = self.own.clone();
                netns::attach(Request { path: path.clone(), own, expected, sockets }).await
            }
        }
    }
}
