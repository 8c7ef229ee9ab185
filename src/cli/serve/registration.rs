//! One sandbox as the daemon has it: what is said of it, what is kept of it over a restart, and what runs for it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::meter::{Meter, milliseconds};
use super::shelf::Document;
use crate::attach::Attachment;
use crate::ca::Authority;
use crate::cli::data_path::Serving;
use crate::control::action::{AttachmentSpec, AttachmentState, AttachmentView, Bytes, SandboxView, SessionId, Status};
use crate::flow::SandboxId;
use crate::sandbox::Sandbox;
use crate::sandbox::quota::Limits;

/// A sandbox that the daemon knows.
pub(super) struct Registration {
    /// In order of creation.
    pub(super) number: u64,
    pub(super) name: SandboxId,
    pub(super) session: SessionId,
    pub(super) authority: Arc<Authority>,
    pub(super) meter: Arc<Meter>,
    facts: Mutex<Facts>,
    /// Held by whoever changes the sandbox: one change at a time.
    pub(super) turn: tokio::sync::Mutex<Turn>,
}

/// What runs for a sandbox.
#[derive(Default)]
pub(super) struct Turn {
    pub(super) held: Option<Held>,
    /// It was deleted: whoever waited for a turn finds nothing.
    pub(super) is_gone: bool,
}

/// An attachment, and what serves it.
pub(super) struct Held {
    pub(super) attachment: Attachment,
    pub(super) sandbox: Arc<Sandbox>,
    /// `None` once it is quarantined.
    pub(super) serving: Option<Serving>,
    /// Whoever watches the attachment learns by its end that there is nothing to be watched any more.
    pub(super) _watched: oneshot::Sender<Infallible>,
}

/// What is said of a sandbox. Changed by whoever has the [`Turn`].
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) created_at: u64,
    pub(super) updated_at: u64,
    pub(super) stopped_at: Option<u64>,
    pub(super) document: Arc<Document>,
    pub(super) generation: u64,
    pub(super) attachment: Option<AttachmentView>,
    /// As its control plane says.
    pub(super) limits: Limits,
    pub(super) details: Map<String, Value>,
}

impl Registration {
    pub(super) fn new(
        number: u64,
        name: SandboxId,
        session: SessionId,
        authority: Arc<Authority>,
        meter: Arc<Meter>,
        facts: Facts,
    ) -> Self {
        Self { number, name, session, authority, meter, facts: Mutex::new(facts), turn: tokio::sync::Mutex::default() }
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the API shows it, with the limits of all sandboxes where it has none of its own.
    pub(super) fn view(&self, usual: Limits) -> SandboxView {
        let facts = self.facts().clone();
        let bytes = self.meter.bytes();
        SandboxView {
            name: self.name.clone(),
            session: self.session.clone(),
            created_at: facts.created_at,
            updated_at: facts.updated_at,
            stopped_at: facts.stopped_at,
            status: if facts.stopped_at.is_some() { Status::Stopped } else { Status::Running },
            policy: facts.document.policy.response_form(),
            revision: facts.document.policy.revision().in_full(),
            generation: facts.generation,
            attachment: facts.attachment,
            limits: facts.limits.or(usual),
            details: facts.details,
            session_bytes: bytes,
            total_bytes: bytes,
        }
    }
}

/// What is kept of a sandbox over a restart.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) number: u64,
    pub(super) session: SessionId,
    pub(super) created_at: u64,
    pub(super) updated_at: u64,
    pub(super) stopped_at: Option<u64>,
    pub(super) policy: String,
    pub(super) generation: u64,
    pub(super) attachment: Option<(AttachmentSpec, String)>,
    #[serde(default)]
    pub(super) limits: Limits,
    pub(super) details: Map<String, Value>,
    pub(super) bytes: Bytes,
    /// Of its root: the key, and when it was made, in milliseconds since 1970.
    pub(super) root: (Vec<u8>, u64),
}

impl Kept {
    /// What is kept of a registration whose facts become these.
    pub(super) fn of(registration: &Registration, facts: &Facts) -> Self {
        let Facts { created_at, updated_at, stopped_at, document, generation, attachment, limits, details } = facts;
        let (root, made_at) = registration.authority.root();
        Self {
            number: registration.number,
            session: registration.session.clone(),
            created_at: *created_at,
            updated_at: *updated_at,
            stopped_at: *stopped_at,
            policy: document.text.to_string(),
            generation: *generation,
            attachment: attachment.as_ref().map(|view| (view.spec.clone(), view.id.clone())),
            limits: *limits,
            details: details.clone(),
            bytes: registration.meter.bytes(),
            root: (root.to_vec(), milliseconds(made_at)),
        }
    }

    /// As bytes, to be sealed.
    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // It holds text for keys and no numbers but whole ones, so it can be written.
        Zeroizing::new(serde_json::to_vec(self).unwrap_or_default())
    }

    /// The facts of it; an attachment counts as detached until it is taken up again.
    pub(super) fn facts(&self, document: Arc<Document>, detached: &str) -> Facts {
        let attachment = self.attachment.as_ref().map(|(spec, id)| AttachmentView {
            spec: spec.clone(),
            id: id.clone(),
            state: AttachmentState::Detached(detached.to_owned()),
        });
        Facts {
            created_at: self.created_at,
            updated_at: self.updated_at,
            stopped_at: self.stopped_at,
            document,
            generation: self.generation,
            attachment,
            limits: self.limits,
            details: self.details.clone(),
        }
    }
}
