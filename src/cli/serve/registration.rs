//! One sandbox as the daemon has it: what is said of it, what is kept of it over a restart, and what runs for it.

use std::collections::BTreeMap;
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
use crate::control::action::{
    AttachmentSpec, AttachmentState, AttachmentView, Bytes, SandboxView, SessionId, SessionView,
};
use crate::flow::{SandboxId, SecretName};
use crate::intercept::Rest;
use crate::issuer::Subject;
use crate::limits;
use crate::sandbox::Sandbox;
use crate::sandbox::quota::Limits;
use crate::secret::placeholder::Placeholders;

/// Team and project of a sandbox whose control plane names none.
const LOCAL: &str = "local";

/// A sandbox that the daemon knows.
pub(super) struct Registration {
    /// In order of creation.
    pub(super) number: u64,
    pub(super) name: SandboxId,
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
    /// While nothing that arrives is taken.
    pub(super) rest: Option<Rest>,
}

/// What is said of a sandbox. Changed by whoever has the [`Turn`].
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) created_at: u64,
    pub(super) updated_at: u64,
    pub(super) session: Session,
    /// Sessions before this one, oldest first.
    pub(super) former: Vec<SessionView>,
    pub(super) document: Arc<Document>,
    /// What it holds instead of secrets.
    pub(super) placeholders: Arc<Placeholders>,
    pub(super) generation: u64,
    pub(super) attachment: Option<AttachmentView>,
    /// As its control plane says.
    pub(super) limits: Limits,
    pub(super) details: Map<String, Value>,
}

/// A session, from its start.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) started_at: u64,
    pub(super) stopped_at: Option<u64>,
    /// Milliseconds.
    pub(super) timeout: u64,
    /// What the sandbox had moved when it began.
    began_with: Bytes,
}

impl Session {
    pub(super) fn begin(id: SessionId, started_at: u64, timeout: u64, began_with: Bytes) -> Self {
        Self { id, started_at, stopped_at: None, timeout, began_with }
    }

    /// As the API shows it, where the sandbox has moved `total` bytes since it was created.
    fn view(&self, total: Bytes) -> SessionView {
        let Self { id, started_at, stopped_at, timeout, began_with } = self.clone();
        SessionView { id, started_at, stopped_at, timeout, bytes: total.since(began_with) }
    }
}

impl Facts {
    /// Puts a session in place of the present one, which has ended. The one that is forgotten for it, if any.
    pub(super) fn succeed(&mut self, next: Session, total: Bytes) -> Option<SessionId> {
        let ended = std::mem::replace(&mut self.session, next);
        self.former.push(ended.view(total));
        (self.former.len() > limits::FORMER_SESSIONS).then(|| self.former.remove(0).id)
    }

    /// The names of all its sessions that are known.
    pub(super) fn sessions(&self) -> impl Iterator<Item = &SessionId> {
        self.former.iter().map(|session| &session.id).chain([&self.session.id])
    }
}

impl Registration {
    pub(super) fn new(
        number: u64,
        name: SandboxId,
        authority: Arc<Authority>,
        meter: Arc<Meter>,
        facts: Facts,
    ) -> Self {
        Self { number, name, authority, meter, facts: Mutex::new(facts), turn: tokio::sync::Mutex::default() }
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its present session.
    pub(super) fn session(&self) -> SessionId {
        self.facts().session.id.clone()
    }

    /// As tokens name it.
    pub(super) fn subject(&self) -> Subject {
        let facts = self.facts();
        let detail = |key: &str| facts.details.get(key).and_then(Value::as_str).unwrap_or(LOCAL).to_owned();
        Subject {
            sandbox_id: facts.session.id.0.clone(),
            sandbox_name: self.name.as_str().to_owned(),
            team_id: detail("teamId"),
            project_id: detail("projectId"),
        }
    }

    /// As the API shows it, with the limits of all sandboxes where it has none of its own.
    pub(super) fn view(&self, usual: Limits) -> SandboxView {
        let facts = self.facts().clone();
        let total_bytes = self.meter.bytes();
        let session = facts.session.view(total_bytes);
        SandboxView {
            name: self.name.clone(),
            status: session.status(),
            session,
            former: facts.former,
            created_at: facts.created_at,
            updated_at: facts.updated_at,
            policy: Arc::clone(&facts.document.policy),
            revision: facts.document.policy.revision().in_full(),
            generation: facts.generation,
            attachment: facts.attachment,
            limits: facts.limits.or(usual),
            details: facts.details,
            total_bytes,
        }
    }
}

/// What is kept of a sandbox over a restart.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) number: u64,
    pub(super) session: Session,
    pub(super) former: Vec<SessionView>,
    pub(super) created_at: u64,
    pub(super) updated_at: u64,
    pub(super) policy: String,
    /// By the name of their secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) placeholders: BTreeMap<String, String>,
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
        let Facts {
            created_at,
            updated_at,
            session,
            former,
            document,
            placeholders,
            generation,
            attachment,
            limits,
            details,
        } = facts;
        let texts = placeholders.texts().iter();
        let (root, made_at) = registration.authority.root();
        Self {
            number: registration.number,
            session: session.clone(),
            former: former.clone(),
            created_at: *created_at,
            updated_at: *updated_at,
            policy: document.text.to_string(),
            placeholders: texts.map(|(name, text)| (name.as_str().to_owned(), text.clone())).collect(),
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
        let texts = self.placeholders.iter().filter_map(|(name, text)| Some((SecretName::new(name)?, text.clone())));
        Facts {
            created_at: self.created_at,
            updated_at: self.updated_at,
            session: self.session.clone(),
            former: self.former.clone(),
            document,
            placeholders: Arc::new(Placeholders::of(texts.collect())),
            generation: self.generation,
            attachment,
            limits: self.limits,
            details: self.details.clone(),
        }
    }
}
