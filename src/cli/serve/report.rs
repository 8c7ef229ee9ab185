//! What the daemon tells while it runs: audit events to whoever follows them, and the operator what becomes of
//! attachments and of secrets.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::broadcast;

use super::CredentialError;
use crate::attach::AttachmentId;
use crate::audit::{Event, Record, line};
use crate::cli::{UNLOCKED, chain, tell};
use crate::control::action::AttachmentState;
use crate::flow::SandboxId;
use crate::limits;
use crate::secret;
use crate::secret::keep::News;

/// Audit events as they are recorded, for as many as follow them. One that is too slow misses some, and is told so by
/// its channel.
pub(super) struct Lines(ArcSwap<broadcast::Sender<Arc<str>>>);

impl Default for Lines {
    fn default() -> Self {
        Self(ArcSwap::from_pointee(broadcast::Sender::new(limits::AUDIT_QUEUE)))
    }
}

impl Lines {
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<str>> {
        self.0.load().subscribe()
    }

    /// Passes a line on that another process has recorded.
    pub(super) fn pass(&self, line: Arc<str>) {
        // It fails if nobody follows.
        let _ = self.0.load().send(line);
    }

    /// Whoever follows now follows no more.
    pub(super) fn dismiss(&self) {
        self.0.store(Arc::new(broadcast::Sender::new(limits::AUDIT_QUEUE)));
    }
}

impl Record for Lines {
    fn record(&self, event: &Event) {
        if self.0.load().receiver_count() > 0 {
            self.pass(line(event).into());
        }
    }
}

/// Tells the operator of an interface that lets nothing through, and is no sandbox's.
pub(super) fn closed(id: &AttachmentId) {
    tell(&format!("exeat: the interface {id} was a sandbox's; it stays closed until it is attached or gone\n"));
}

/// Tells the operator that somebody has interfered.
pub(super) fn mended(id: &AttachmentId) {
    let what = "somebody took away nftables rules of the attachment";
    tell(&format!("exeat: {what} {id}; they stand again, but packets may have passed\n"));
}

/// Tells the operator that a secret cannot be had, or can be had again.
pub(super) fn secret(news: &News) {
    match news {
        News::Failed(error) => tell(&format!("exeat: {}\n", chain(error))),
        News::Back(name) => tell(&format!("exeat: the secret {} can be had again\n", name.as_str())),
    }
}

/// Tells the operator, once, that memory for secrets could not be locked.
pub(super) async fn unlocked() {
    secret::refused().await;
    tell(UNLOCKED);
}

/// Tells the operator of a file that cannot be used any more.
pub(super) fn credential(error: &CredentialError) {
    tell(&format!("exeat: {}\n", chain(error)));
}

/// Tells the operator that a sandbox no longer reaches anything.
pub(super) fn attachment(name: &SandboxId, state: &AttachmentState) {
    let name = name.as_str();
    match state {
        AttachmentState::Attached => {}
        AttachmentState::Quarantined(why) => tell(&format!("exeat: sandbox {name} is quarantined: {why}\n")),
        AttachmentState::Gone => tell(&format!("exeat: what sandbox {name} was attached to is gone\n")),
        AttachmentState::Detached(why) => tell(&format!("exeat: sandbox {name} is detached: {why}\n")),
    }
}
