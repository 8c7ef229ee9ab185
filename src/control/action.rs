//! What can be asked of a daemon, as values: one enum of changes, and views of what is.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::broadcast;
use zeroize::Zeroizing;

use crate::flow::{SandboxId, SecretName};
use crate::policy::diagnostic::{Diagnostics, harmless};
use crate::policy::explain::Explanation;
use crate::policy::judge::Question;
use crate::policy::{Grant, Policy};
use crate::sandbox::quota::Limits;

/// Carries out what the API asks. Implemented by the daemon.
pub trait Act: Send + Sync + 'static {
    /// Changes something, whole or not at all; the view is of the sandbox afterwards.
    fn act(&self, action: Action) -> impl Future<Output = Result<SandboxView, Refusal>> + Send;

    /// One sandbox, if there is such a one; one that was stopped is still there, one that was deleted is not. Asked for
    /// by a former session, it shows that one.
    fn find(&self, which: &Which) -> Option<SandboxView>;

    /// Every sandbox, in order of creation.
    fn list(&self) -> Vec<SandboxView>;

    /// How the sandbox's policy judges a question now, on this host; `None` if there is no such sandbox.
    fn explain(&self, which: &Which, question: &Question) -> Option<Explanation>;

    /// The flows that are open in a sandbox now.
    fn flows(&self, which: &Which) -> Option<Vec<FlowView>>;

    /// What a sandbox must trust.
    fn trust(&self, which: &Which) -> Option<TrustView>;

    /// Every secret that policies may name, by name.
    fn secrets(&self) -> Vec<SecretView>;

    /// Changes a secret whose value is set over the API; the view is of the secret afterwards.
    fn change_secret(
        &self,
        name: SecretName,
        change: SecretChange,
    ) -> impl Future<Output = Result<SecretView, Refusal>> + Send;

    /// Audit records as they are written: lines of JSON (POLICY §10).
    fn events(&self) -> broadcast::Receiver<Arc<str>>;

    /// Counters, in Prometheus' text format.
    fn metrics(&self) -> String;

    /// The public keys of the issuer, as a JWK Set; `None` where there is no issuer.
    fn jwks(&self) -> Option<Value>;

    /// Whether it is ready to take sandboxes; if not, why.
    ///
    /// # Errors
    /// One sentence for the operator.
    fn ready(&self) -> Result<(), String>;
}

/// A sandbox, by one of its names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Which {
    /// By the name that the control plane gave it.
    Name(SandboxId),
    /// By its present session, or by a former one that is still known.
    Session(SessionId),
}

/// A session: a sandbox from one start to its stop. `sbx_` and random letters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct SessionId(pub String);

/// How long a session is to last where nobody says, in milliseconds: as in the reference product.
pub const USUAL_TIMEOUT: u64 = 300_000;

/// A change.
#[derive(Debug)]
pub enum Action {
    /// Registers a sandbox. Without an attachment it exists and reaches nothing.
    Create(Draft),
    /// As [`Self::Create`], with everything that the draft leaves out copied from another sandbox.
    Fork(SandboxId, Draft),
    /// Changes what the draft says and leaves the rest. A stopped sandbox takes it for its next session; only an
    /// attachment wants one that runs.
    Patch(SandboxId, Draft),
    /// Replaces the policy of a running sandbox whole.
    Replace(Which, PolicyPush),
    /// Lets the present session last longer, by milliseconds.
    Extend(Which, u64),
    /// Attaches a sandbox that is detached.
    Attach(SandboxId, AttachmentSpec),
    /// Detaches: nothing of the sandbox is left on the host but its registration.
    Detach(SandboxId),
    /// Ends the session: detached, its flows closed and counted. One that has ended stays as it is.
    Stop(Which),
    /// Begins another session of a sandbox that was stopped. It has no attachment yet.
    Resume(SandboxId),
    /// Stops it, and forgets it.
    Delete(SandboxId),
}

/// What a control plane says of a sandbox; `None` is what it does not say.
#[derive(Debug, Default)]
pub struct Draft {
    /// Chosen by the daemon where none is given.
    pub name: Option<SandboxId>,
    /// Its policy; deny-all where none is given.
    pub policy: Option<PolicyPush>,
    /// How its packets arrive.
    pub attachment: Option<AttachmentSpec>,
    /// What it may use: all of it, so that what is left out is as the operator says for all sandboxes.
    pub limits: Option<Limits>,
    /// Fields that mean nothing to a firewall, kept and given back: see `Details` of the forms. `null` takes one back.
    pub details: Map<String, Value>,
}

/// A policy as it was pushed.
pub struct PolicyPush {
    /// The document (POLICY §1). It may hold credentials, so it is never shown.
    pub text: String,
    /// The revisions of which it replaces one; if another is in force, nothing changes. A push that is in force
    /// already may be repeated.
    pub replaces: Option<Vec<String>>,
}

impl fmt::Debug for PolicyPush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyPush").field("replaces", &self.replaces).finish_non_exhaustive()
    }
}

/// How a sandbox's packets arrive, as a control plane says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum AttachmentSpec {
    /// `{"netns": "/run/netns/x"}`, or `/proc/PID/ns/net`.
    Netns(PathBuf),
    /// `{"interface": {"name": "tap0", "addresses": ["10.0.0.2"]}}`: a device of the host, and the addresses that the
    /// sandbox may use.
    Interface {
        /// Of the device.
        name: String,
        /// The sandbox's.
        addresses: Vec<IpAddr>,
    },
}

/// A sandbox as it is.
#[derive(Debug, Clone)]
pub struct SandboxView {
    /// Its name.
    pub name: SandboxId,
    /// The session that was asked for: its present or last one, unless a former one was named.
    pub session: SessionView,
    /// Its sessions before the present one, oldest first, as far as they are known.
    pub former: Vec<SessionView>,
    /// Milliseconds since 1970.
    pub created_at: u64,
    /// Milliseconds since 1970.
    pub updated_at: u64,
    /// Where it is in its life.
    pub status: Status,
    /// The policy in force.
    pub policy: Arc<Policy>,
    /// The revision of that policy, in full.
    pub revision: String,
    /// How many policies it has had: each push counts, also one of the policy that was in force.
    pub generation: u64,
    /// How its packets arrive, and what became of that.
    pub attachment: Option<AttachmentView>,
    /// What it may use, with what the operator says for all sandboxes.
    pub limits: Limits,
    /// See [`Draft::details`].
    pub details: Map<String, Value>,
    /// Bytes of all its sessions.
    pub total_bytes: Bytes,
}

/// A session as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// Its name.
    pub id: SessionId,
    /// When it began, in milliseconds since 1970.
    pub started_at: u64,
    /// When it was stopped, in milliseconds since 1970.
    pub stopped_at: Option<u64>,
    /// How long it is to last, in milliseconds, as its control plane said; nobody here ends it then.
    pub timeout: u64,
    /// Bytes of its flows that have ended.
    pub bytes: Bytes,
}

impl SessionView {
    /// Whether it still runs.
    #[must_use]
    pub fn status(&self) -> Status {
        if self.stopped_at.is_some() { Status::Stopped } else { Status::Running }
    }
}

/// Bytes that flows of a sandbox moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bytes {
    /// Into the sandbox.
    pub ingress: u64,
    /// Out of it.
    pub egress: u64,
}

impl Bytes {
    /// What came after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            ingress: self.ingress.saturating_sub(earlier.ingress),
            egress: self.egress.saturating_sub(earlier.egress),
        }
    }
}

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It may reach what its policy allows, if it is attached.
    Running,
    /// It was stopped.
    Stopped,
}

/// How an attachment is.
#[derive(Debug, Clone)]
pub struct AttachmentView {
    /// As it was asked for.
    pub spec: AttachmentSpec,
    /// The identity that it was attached under (HOUSE §2).
    pub id: String,
    /// What became of it.
    pub state: AttachmentState,
}

/// What became of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachmentState {
    /// Packets arrive and are judged.
    Attached,
    /// Nothing passes, for this reason: it may no longer be what confines the sandbox.
    Quarantined(String),
    /// The namespace or interface is gone.
    Gone,
    /// Known from before a restart, and not provably the same: to be attached again.
    Detached(String),
}

/// An open flow.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FlowView {
    /// Its number.
    pub flow: u64,
    /// Where it was going.
    pub address: IpAddr,
    /// At which port.
    pub port: u16,
    /// By which name, if one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Milliseconds since 1970.
    pub since: u64,
}

/// A change of a secret.
#[derive(Debug)]
pub enum SecretChange {
    /// Sets its value, and where it may go.
    Set(SecretDraft),
    /// Forgets it.
    Delete,
}

/// A value that a control plane sets.
pub struct SecretDraft {
    /// The value.
    pub value: Zeroizing<String>,
    /// How long it is good; for ever if nothing is said.
    pub good_for: Option<Duration>,
    /// Where it may go.
    pub grant: GrantText,
}

impl fmt::Debug for SecretDraft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretDraft").field("grant", &self.grant).finish_non_exhaustive()
    }
}

/// Where a secret may go, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantText {
    /// Patterns of names; one at least.
    pub to: Vec<String>,
    /// Ports, if not 443 alone.
    pub ports: Vec<NonZeroU16>,
    /// Methods, if not all.
    pub methods: Vec<String>,
    /// Patterns of paths, if not all.
    pub paths: Vec<String>,
    /// Headers in which its placeholder is replaced, if not the usual ones.
    pub headers: Vec<String>,
}

impl GrantText {
    /// What it says.
    ///
    /// # Errors
    /// The key that is wrong, and what is due there; nothing of what is written.
    pub fn read(&self) -> Result<Grant, (&'static str, String)> {
        let Self { to, ports, methods, paths, headers } = self;
        Grant::read(to, ports, methods, paths, headers)
    }
}

/// A secret that policies may name, and how the keeping of its value stands. Never the value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Secret")]
pub struct SecretView {
    /// As `${secrets.NAME}` names it.
    pub name: String,
    /// What kind of source its value comes from.
    pub source: &'static str,
    /// How its keeping stands.
    pub state: SecretState,
    /// Until when the value is good, if that ends, in milliseconds since 1970. It is sent no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// When its source is asked again, in milliseconds since 1970; a file is also read when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_refresh: Option<u64>,
    /// Since when its source fails, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<u64>,
    /// Why, in one sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// In one line for people.
impl fmt::Display for SecretView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, source, state, expires_at, next_refresh, failing_since, reason } = self;
        write!(f, "secret {name} ({source}): {}", state.word())?;
        let times = [("since", failing_since), ("good until", expires_at), ("asked again at", next_refresh)];
        for (what, at) in times {
            if let Some(at) = at.and_then(moment) {
                write!(f, "; {what} {at}")?;
            }
        }
        reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {}", harmless(reason)))
    }
}

/// A time, given in milliseconds since 1970 (RFC 3339).
fn moment(milliseconds: u64) -> Option<String> {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(milliseconds))?;
    OffsetDateTime::from(at).truncate_to_second().format(&Rfc3339).ok()
}

/// How the keeping of a secret stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretState {
    /// There is a value, and its source gave it when it was asked last.
    Ready,
    /// There is a value that is still good, and its source fails.
    Failing,
    /// There is none, and requests that need it get 503.
    Unavailable,
    /// There is none yet, for its source has not answered for the first time.
    Pending,
}

impl SecretState {
    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Failing => "failing",
            Self::Unavailable => "unavailable",
            Self::Pending => "pending",
        }
    }
}

/// What a sandbox must trust, and how its programs are told.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrustView {
    /// The sandbox's own root, in PEM.
    pub certificate: String,
    /// The host's roots and the sandbox's own, in PEM.
    pub bundle: String,
    /// Variables to set, and their values: those that name the bundle, and those that hold placeholders.
    pub variables: BTreeMap<String, String>,
    /// Where to put the bundle, so that those variables hold.
    pub path: String,
}

/// Why something was not done. Nothing of it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such sandbox.
    Unknown,
    /// There is nothing of this name: what, and what to do.
    Absent(String),
    /// It was stopped, and can be changed no more.
    Stopped,
    /// Something else has it: a name, an attachment, a revision that is in force.
    Conflict(String),
    /// It cannot be: one sentence for the caller.
    Bad(String),
    /// The policy does not compile: every fault.
    Policy(Box<Diagnostics>),
    /// Attaching failed: whose fault, in one sentence.
    Attach(String),
    /// A bound was met.
    Limit(String),
    /// The daemon's own failure; it says what was done all the same.
    Failed(String),
}
