//! The host's side of every attachment: whoever attaches does it through this.
//!
//! It knows the network namespace that exeat is in, which is no sandbox's, and watches its interfaces.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::task::AbortHandle;

use super::error::{AttachError, AttachStep};
use super::identity::AttachmentId;
use super::interface::Interfaces;
use super::netlink::{LinkWatch, Netlink, RulesWatch};
use super::netns::{self, Request};
use super::sockets::Sockets;
use super::{Attached, Spec};

/// See the module's doc.
#[derive(Debug)]
pub struct Host {
    own: AttachmentId,
    interfaces: Arc<Interfaces>,
    watchers: [AbortHandle; 2],
}

impl Host {
    /// Opens it for the network namespace that the calling thread is in, and the runtime's are; call it inside one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<Self, AttachError> {
        let route = Netlink::route().map_err(AttachError::at(AttachStep::Watch))?;
        let own = AttachmentId::of_namespace(route.as_fd()).map_err(AttachError::at(AttachStep::Identify))?;
        let links = LinkWatch::open().map_err(AttachError::at(AttachStep::Watch))?;
        let rules = RulesWatch::open().map_err(AttachError::at(AttachStep::Watch))?;
        let interfaces = Interfaces::open(own.clone()).map_err(AttachError::at(AttachStep::Watch))?;
        let interfaces = Arc::new(interfaces);
        let (followed, mended) = (Arc::clone(&interfaces), Arc::clone(&interfaces));
        let follower = tokio::spawn(async move { followed.follow(links, route).await });
        let mender = tokio::spawn(mended.mend(rules));
        Ok(Self { own, interfaces, watchers: [follower.abort_handle(), mender.abort_handle()] })
    }

    /// Attaches what was not attached before.
    ///
    /// # Errors
    /// What refuses it, or the step that failed.
    pub async fn attach(&self, spec: &Spec) -> Result<Attached, AttachError> {
        self.begin(spec, None, None).await
    }

    /// Takes up again what was attached before a crash, if it is provably the same; or, with the sockets of the
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

    /// Takes away the rules of interfaces that are gone, and were never detached because nobody ran. Returns who is
    /// still there without being attached: closed, until it is attached or taken up.
    ///
    /// # Errors
    /// The step that failed.
    pub async fn sweep(&self) -> Result<Vec<AttachmentId>, AttachError> {
        let interfaces = Arc::clone(&self.interfaces);
        waiting(move || interfaces.sweep().map_err(AttachError::at(AttachStep::Rules))).await
    }

    async fn begin(
        &self,
        spec: &Spec,
        expected: Option<AttachmentId>,
        sockets: Option<Sockets>,
    ) -> Result<Attached, AttachError> {
        match spec {
            Spec::Netns { path, taps } => {
                let (path, taps, own) = (path.clone(), taps.clone(), self.own.clone());
                netns::attach(Request { path, taps, own, expected, sockets }).await
            }
            Spec::Interface(device) => {
                let (interfaces, device) = (Arc::clone(&self.interfaces), device.clone());
                waiting(move || interfaces.attach(&device, expected.as_ref(), sockets)).await
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.watchers.iter().for_each(AbortHandle::abort);
    }
}

/// Runs what waits for the kernel where it holds nobody up.
pub(super) async fn waiting<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, AttachError> + Send + 'static,
) -> Result<R, AttachError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(AttachError::at(AttachStep::Interfaces)(io::Error::other(error))))
}
