//! Wire forms: what a control plane sends, and what it is told, as the reference product spells it (POLICY §9).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::action::{
    AttachmentSpec, AttachmentState, AttachmentView, Bytes, Draft, FlowView, GrantText, PolicyPush, Refusal,
    SandboxView, SecretDraft, SecretView, SessionId, Status, USUAL_TIMEOUT,
};
use super::answer::Refused;
use super::describe::SCHEMAS;
use super::pages::{OldPagination, Pagination};
use crate::flow::SandboxId;
use crate::limits;
use crate::policy::{self, PolicyForm};
use crate::sandbox::quota::Limits;

/// What an attachment looks like, for whoever spelled one otherwise.
pub(super) const ATTACHMENT: &str = "an attachment is {\"netns\": \"/run/netns/NAME\"} or \
                          {\"interface\": {\"name\": \"tap0\", \"addresses\": [\"10.0.0.2\"]}}";

/// What the reference product has beneath `/v2/sandboxes/`, and what no sandbox can therefore be called.
const RESERVED: [&str; 3] = ["drives", "sessions", "snapshots"];

/// What this host is called where a name is due.
const LOCAL: &str = "local";

/// Memory for each of the reference product's processors, in MB.
const MEMORY_EACH: u64 = 2048;

/// Fields of the reference product that mean nothing to a firewall, and are kept and given back.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Details {
    /// The snapshot that the next session begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    current_snapshot_id: Option<String>,
    /// The working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    /// Where it may run instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    failover_regions: Option<Vec<String>>,
    /// The image that it was made of.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// Which snapshots are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_last_snapshots: Option<Retention>,
    /// Drives by the paths that they are mounted at.
    #[serde(skip_serializing_if = "Option::is_none")]
    mounts: Option<BTreeMap<String, Mount>>,
    /// A network of the reference product.
    #[serde(skip_serializing_if = "Option::is_none")]
    network_id: Option<String>,
    /// Whether its disk outlives a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    persistent: Option<bool>,
    /// Ports that are to be reached from outside; no route leads to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<u16>>,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    project_id: Option<String>,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    /// What it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Resources>,
    /// What it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<String>,
    /// How long snapshots are kept, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot_expiration: Option<Whole>,
    /// For its control plane to find it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<BTreeMap<String, String>>,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    team_id: Option<String>,
    /// How long a session is to last, in milliseconds. Nobody here ends it then.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<Whole>,
}

/// The fields of [`Details`], which a test holds to it.
const KEPT: [&str; 17] = [
    "currentSnapshotId",
    "cwd",
    "failoverRegions",
    "image",
    "keepLastSnapshots",
    "mounts",
    "networkId",
    "persistent",
    "ports",
    "projectId",
    "region",
    "resources",
    "runtime",
    "snapshotExpiration",
    "tags",
    "teamId",
    "timeout",
];

/// Fields of the reference product that mean nothing here, and may hold what nobody should keep.
const PASSED_OVER: [&str; 4] = ["__interactive", "credentials", "env", "source"];

/// A whole number that every reader of JSON takes as it is; `1.0` is one, too.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Number")]
pub(super) struct Whole(pub(super) u64);

impl TryFrom<serde_json::Number> for Whole {
    type Error = &'static str;

    fn try_from(number: serde_json::Number) -> Result<Self, Self::Error> {
        // A number that is whole and has a fraction of naught is shown without it.
        let whole =
            number.as_u64().or_else(|| format!("{:.0}", number.as_f64().filter(|n| n.fract() == 0.0)?).parse().ok());
        let whole = whole.filter(|whole| *whole <= limits::JSON_INTEGER);
        whole.map(Self).ok_or("a whole number up to 2^53 - 1 is due")
    }
}

impl JsonSchema for Whole {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Whole".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "integer", "minimum": 0, "maximum": limits::JSON_INTEGER })
    }
}

/// What a sandbox may use.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Resources {
    /// Processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpus: Option<u16>,
    /// MB.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u32>,
}

/// A drive where it is mounted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Mount {
    /// Its name.
    drive: String,
    /// How it may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<MountMode>,
}

/// How a drive may be used.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum MountMode {
    Snapshot,
    ReadWrite,
    ReadOnly,
}

/// Which snapshots are kept.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Retention {
    /// How many.
    count: u32,
    /// How long, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expiration: Option<Whole>,
    /// Whether the others are deleted at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delete_evicted: Option<bool>,
}

/// A policy as a control plane pushes it. Its schema is the language's own (`policies/schema.json`).
pub(super) struct PolicyDocument;

/// Keys that the language has in files alone.
const IN_FILES: [&str; 3] = ["extends", "observe", "tests"];

impl JsonSchema for PolicyDocument {
    fn schema_name() -> Cow<'static, str> {
        "PolicyDocument".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = policy::schema();
        refer(&mut schema);
        if let Some(Value::Object(definitions)) = schema.get_mut("$defs").map(Value::take) {
            generator.definitions_mut().extend(definitions);
        }
        if let Some(keys) =
            generator.definitions_mut().get_mut("Policy").and_then(|policy| policy.get_mut("properties"))
            && let Value::Object(keys) = keys
        {
            keys.retain(|key, _| !IN_FILES.contains(&key.as_str()));
        }
        let spellings = schema.get_mut("anyOf").map(Value::take).unwrap_or_default();
        schemars::json_schema!({ "description": "What a sandbox may reach; it is replaced whole.", "anyOf": spellings })
    }
}

/// Lets references of a JSON Schema lead to where an OpenAPI document keeps what they refer to.
fn refer(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(to) if key == "$ref" => *to = to.replace("#/$defs/", &format!("#{SCHEMAS}/")),
                    value => refer(value),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(refer),
        _ => {}
    }
}

/// What is said of a sandbox when it is created, forked or patched.
pub(super) struct DraftForm;

impl JsonSchema for DraftForm {
    fn schema_name() -> Cow<'static, str> {
        "Draft".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Details::json_schema(generator);
        let policy = generator.subschema_for::<PolicyDocument>();
        let attachment = generator.subschema_for::<AttachmentSpec>();
        let limits = generator.subschema_for::<Limits>();
        let name = json!({
            "type": "string",
            "description": "Chosen by the daemon where none is given.",
            "pattern": "^[a-zA-Z0-9_-]+$",
            "maxLength": 128,
        });
        if let Some(Value::Object(fields)) = schema.get_mut("properties") {
            fields.insert("name".into(), name);
            fields.insert("networkPolicy".into(), policy.into());
            fields.insert("attachment".into(), attachment.into());
            fields.insert("limits".into(), limits.into());
            fields.extend(
                PASSED_OVER
                    .map(|field| (field.to_owned(), json!({ "description": "Taken, and neither read nor kept." }))),
            );
        }
        schema.insert("description".into(), json!("What is said of a sandbox; what is not said stays as it is."));
        schema
    }
}

/// The fields of an object as they are written: a policy's own reader tells doubled keys and their order.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// Reads what is said of a sandbox, and makes a push of the policy in it. Nothing said is an empty draft.
pub(super) fn draft(body: &[u8], push: impl FnOnce(String) -> PolicyPush) -> Result<Draft, Refused> {
    if body.trim_ascii().is_empty() {
        return Ok(Draft::default());
    }
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Refused::bad("the body is not a JSON object"));
    }
    let Fields(fields) = serde_json::from_slice(body).map_err(|error| Refused::bad(format!("the body: {error}")))?;
    let (mut draft, mut push, mut seen) = (Draft::default(), Some(push), Map::new());
    let mut beside = 0;
    for (key, raw) in fields {
        if seen.insert(key.clone(), Value::Null).is_some() {
            return Err(Refused::bad(format!("`{}` stands there twice", key.escape_default())));
        }
        if key == "networkPolicy" {
            if raw.get().len() > limits::POLICY_BYTES {
                return Err(Refused::too_large(format!("a policy has {} bytes at most", limits::POLICY_BYTES)));
            }
            draft.policy = push.take().map(|push| push(raw.get().to_owned()));
            continue;
        }
        beside += key.len() + raw.get().len();
        if beside > limits::DRAFT_BYTES {
            let message = format!("beside its policy, {} bytes may be said of a sandbox", limits::DRAFT_BYTES);
            return Err(Refused::too_large(message));
        }
        say(&mut draft, key, &raw)?;
    }
    Ok(draft)
}

/// Takes one field of a draft.
fn say(draft: &mut Draft, key: String, raw: &RawValue) -> Result<(), Refusal> {
    match key.as_str() {
        "name" => draft.name = Some(named(raw)?),
        "attachment" => {
            let spec = serde_json::from_str(raw.get()).map_err(|_| Refusal::Bad(ATTACHMENT.into()))?;
            draft.attachment = Some(spec);
        }
        "limits" => {
            let limits = serde_json::from_str(raw.get());
            draft.limits = Some(limits.map_err(|error| Refusal::Bad(format!("`limits`: {error}")))?);
        }
        kept if KEPT.contains(&kept) => {
            let form = format!("{{{}:{}}}", json!(kept), raw.get());
            let read: Details =
                serde_json::from_str(&form).map_err(|error| Refusal::Bad(format!("`{kept}`: {error}")))?;
            // What is null is not written again, and takes back what was said before.
            let value = json!(read).get_mut(kept).map(Value::take).unwrap_or_default();
            draft.details.insert(key, value);
        }
        over if PASSED_OVER.contains(&over) => {
            let IgnoredAny = serde_json::from_str(raw.get()).unwrap_or_default();
        }
        _ => return Err(Refusal::Bad(format!("a sandbox has no field `{}`", key.escape_default()))),
    }
    Ok(())
}

fn named(raw: &RawValue) -> Result<SandboxId, Refusal> {
    let name: Option<String> = serde_json::from_str(raw.get()).ok();
    let id = name.as_deref().and_then(SandboxId::new);
    let id = id.ok_or_else(|| Refusal::Bad("`name` is 1 to 128 of a-z, A-Z, 0-9, _ and -".into()))?;
    if RESERVED.contains(&id.as_str()) {
        return Err(Refusal::Bad(format!("no sandbox can be called `{}`: a path begins so", id.as_str())));
    }
    Ok(id)
}

/// A session's extension.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Extension {
    /// By milliseconds.
    pub(super) duration: Whole,
}

/// A sandbox by name.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Sandbox")]
pub(super) struct SandboxForm {
    name: String,
    current_session_id: SessionId,
    status: Status,
    /// Milliseconds since 1970.
    created_at: u64,
    /// Milliseconds since 1970.
    updated_at: u64,
    /// When its present or last session began or was stopped, in milliseconds since 1970.
    status_updated_at: u64,
    /// When its last session was stopped, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_at: Option<u64>,
    /// The policy in force.
    network_policy: PolicyForm,
    /// The revision of that policy; equal policies have equal ones.
    revision: String,
    /// How many policies it has had: each push counts, also one of the policy that was in force.
    generation: u64,
    /// Bytes into it, of all its flows that have ended.
    total_ingress_bytes: u64,
    /// Bytes out of it, of all its flows that have ended.
    total_egress_bytes: u64,
    /// How its packets arrive; without one it reaches nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    attachment: Option<AttachmentForm>,
    /// What it may use: its own bounds, and the operator's for all sandboxes where it has none.
    limits: Limits,
    /// Processors, as its control plane said.
    #[serde(skip_serializing_if = "Option::is_none")]
    vcpus: Option<u16>,
    /// MB, as its control plane said.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    #[serde(flatten)]
    details: Details,
}

/// An attachment as it is.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Attachment")]
struct AttachmentForm {
    /// As it was asked for.
    spec: AttachmentSpec,
    /// What it is known by: the host's start, its network namespace, its interface.
    id: String,
    state: AttachmentWord,
    /// Why it is in that state.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// What became of an attachment.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum AttachmentWord {
    /// Packets arrive and are judged.
    Attached,
    /// Nothing passes: it may no longer be what confines the sandbox.
    Quarantined,
    /// The namespace or interface is gone.
    Gone,
    /// Known from before a restart, and not provably the same: to be attached again.
    Detached,
}

/// A session; with the `v1` family, a sandbox.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Session")]
pub(super) struct SessionForm {
    id: SessionId,
    status: Status,
    /// MB, as its control plane said.
    memory: u64,
    /// Processors, as its control plane said.
    vcpus: u16,
    region: String,
    runtime: String,
    cwd: String,
    /// How long it is to last, in milliseconds. Nobody here ends it then.
    timeout: u64,
    /// Milliseconds since 1970.
    requested_at: u64,
    /// Milliseconds since 1970.
    started_at: u64,
    /// Milliseconds since 1970.
    created_at: u64,
    /// Milliseconds since 1970.
    updated_at: u64,
    /// Milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_at: Option<u64>,
    /// How long it lasted, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u64>,
    /// Clients insist that there is one; nothing listens there.
    interactive_port: u16,
    /// The policy in force.
    network_policy: PolicyForm,
    /// Bytes of a session that was stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    network_transfer: Option<Bytes>,
}

impl SandboxForm {
    pub(super) fn new(view: &SandboxView) -> Self {
        let mut details = details(view);
        details.persistent.get_or_insert(true);
        details.region.get_or_insert_with(|| LOCAL.to_owned());
        let present = view.session.clone();
        Self {
            name: view.name.as_str().to_owned(),
            current_session_id: present.id,
            status: view.status,
            created_at: view.created_at,
            updated_at: view.updated_at,
            status_updated_at: present.stopped_at.unwrap_or(present.started_at),
            stopped_at: present.stopped_at,
            network_policy: view.policy.response_form(),
            revision: view.revision.clone(),
            generation: view.generation,
            total_ingress_bytes: view.total_bytes.ingress,
            total_egress_bytes: view.total_bytes.egress,
            attachment: view.attachment.clone().map(AttachmentForm::from),
            limits: view.limits,
            vcpus: details.vcpus(),
            memory: details.memory(),
            details,
        }
    }
}

impl SessionForm {
    pub(super) fn new(view: &SandboxView) -> Self {
        let details = details(view);
        let session = &view.session;
        Self {
            id: session.id.clone(),
            status: session.status(),
            memory: details.memory().unwrap_or(MEMORY_EACH),
            vcpus: details.vcpus().unwrap_or(1),
            region: details.region.unwrap_or_else(|| LOCAL.to_owned()),
            runtime: details.runtime.unwrap_or_else(|| LOCAL.to_owned()),
            cwd: details.cwd.unwrap_or_else(|| "/".to_owned()),
            timeout: session.timeout,
            requested_at: session.started_at,
            started_at: session.started_at,
            created_at: session.started_at,
            updated_at: session.stopped_at.unwrap_or(view.updated_at),
            stopped_at: session.stopped_at,
            duration: session.stopped_at.map(|stopped| stopped.saturating_sub(session.started_at)),
            interactive_port: 1,
            network_policy: view.policy.response_form(),
            network_transfer: (session.status() == Status::Stopped).then_some(session.bytes),
        }
    }
}

/// What was said of a sandbox. It was read before it was kept, so it can be read again.
fn details(view: &SandboxView) -> Details {
    let mut details: Details = serde_json::from_value(Value::Object(view.details.clone())).unwrap_or_default();
    details.timeout.get_or_insert(Whole(USUAL_TIMEOUT));
    details
}

impl Details {
    fn vcpus(&self) -> Option<u16> {
        self.resources.as_ref()?.vcpus
    }

    fn memory(&self) -> Option<u64> {
        let Resources { vcpus, memory } = self.resources.clone()?;
        memory.map(u64::from).or(vcpus.map(|vcpus| u64::from(vcpus) * MEMORY_EACH))
    }
}

impl From<AttachmentView> for AttachmentForm {
    fn from(AttachmentView { spec, id, state }: AttachmentView) -> Self {
        let (state, reason) = match state {
            AttachmentState::Attached => (AttachmentWord::Attached, None),
            AttachmentState::Quarantined(why) => (AttachmentWord::Quarantined, Some(why)),
            AttachmentState::Gone => (AttachmentWord::Gone, None),
            AttachmentState::Detached(why) => (AttachmentWord::Detached, Some(why)),
        };
        Self { spec, id, state, reason }
    }
}

/// A way from outside to a port of a sandbox. There is none: a list of them is empty.
#[derive(Serialize, JsonSchema)]
pub(super) enum Route {}

/// A sandbox, its session and its routes.
#[derive(Serialize, JsonSchema)]
pub(super) struct WholeForm {
    sandbox: SandboxForm,
    session: SessionForm,
    routes: [Route; 0],
    /// Whether a session was begun for this answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed: Option<bool>,
}

impl WholeForm {
    pub(super) fn new(view: &SandboxView, resumed: Option<bool>) -> Self {
        Self { sandbox: SandboxForm::new(view), session: SessionForm::new(view), routes: [], resumed }
    }
}

/// A sandbox alone, or with its session if that was to be resumed.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum PatchedForm {
    Whole(Box<WholeForm>),
    Sandbox(Box<OnlySandbox>),
}

/// A sandbox alone.
#[derive(Serialize, JsonSchema)]
pub(super) struct OnlySandbox {
    pub(super) sandbox: SandboxForm,
}

/// A session alone.
#[derive(Serialize, JsonSchema)]
pub(super) struct OnlySession {
    pub(super) session: SessionForm,
}

/// A session and its routes.
#[derive(Serialize, JsonSchema)]
pub(super) struct RoutedSession {
    session: SessionForm,
    routes: [Route; 0],
}

/// A session that was stopped, and its sandbox.
#[derive(Serialize, JsonSchema)]
pub(super) struct StoppedForm {
    pub(super) session: SessionForm,
    pub(super) sandbox: SandboxForm,
}

/// A sandbox of the `v1` family.
#[derive(Serialize, JsonSchema)]
pub(super) struct OldSandbox {
    pub(super) sandbox: SessionForm,
}

/// A sandbox of the `v1` family and its routes.
#[derive(Serialize, JsonSchema)]
pub(super) struct RoutedOldSandbox {
    sandbox: SessionForm,
    routes: [Route; 0],
}

impl RoutedSession {
    pub(super) fn new(view: &SandboxView) -> Self {
        Self { session: SessionForm::new(view), routes: [] }
    }
}

impl RoutedOldSandbox {
    pub(super) fn new(view: &SandboxView) -> Self {
        Self { sandbox: SessionForm::new(view), routes: [] }
    }
}

/// A page of sandboxes.
#[derive(Serialize, JsonSchema)]
pub(super) struct SandboxList {
    pub(super) sandboxes: Vec<SandboxForm>,
    pub(super) pagination: Pagination<String>,
}

/// A page of sessions.
#[derive(Serialize, JsonSchema)]
pub(super) struct SessionList {
    pub(super) sessions: Vec<SessionForm>,
    pub(super) pagination: Pagination<String>,
}

/// A page of sandboxes of the `v1` family.
#[derive(Serialize, JsonSchema)]
pub(super) struct OldSandboxList {
    pub(super) sandboxes: Vec<SessionForm>,
    pub(super) pagination: OldPagination,
}

/// The flows that are open.
#[derive(Serialize, JsonSchema)]
pub(super) struct FlowList {
    pub(super) flows: Vec<FlowView>,
}

/// The secrets that policies may name.
#[derive(Serialize, JsonSchema)]
pub(super) struct SecretList {
    pub(super) secrets: Vec<SecretView>,
}

/// A secret's value, and where it may go.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "SecretValue")]
pub(super) struct InlineForm {
    /// The value; it is never shown again.
    #[schemars(length(min = 1))]
    value: String,
    /// How long it is good, in seconds; for ever if nothing is said.
    #[schemars(range(min = 1))]
    expires_in: Option<u64>,
    /// The names that it may go to, as patterns.
    #[schemars(length(min = 1))]
    to: Vec<String>,
    /// The ports that it may go to, if not 443 alone.
    #[serde(default)]
    ports: Vec<NonZeroU16>,
    /// The methods of requests that it may go along with, if not all.
    #[serde(default)]
    methods: Vec<String>,
    /// The paths of requests that it may go along with, as patterns, if not all.
    #[serde(default)]
    paths: Vec<String>,
    /// The headers in which its placeholder is replaced, if not `authorization` and `x-api-key`.
    #[serde(default)]
    headers: Vec<String>,
}

/// What a body is that sets a secret. What is written there instead may be the value in a wrong place, so nothing of it
/// is told.
const INLINE: &str = "the body is an object in JSON: `value`, `to` (a list of names), and perhaps `expiresIn` \
                      (seconds, one at least), `ports`, `methods`, `paths` and `headers` (lists)";

/// Reads the body of a request that sets a secret.
pub(super) fn inline(body: &[u8]) -> Result<SecretDraft, Refusal> {
    let form: InlineForm = serde_json::from_slice(body).map_err(|_| Refusal::Bad(INLINE.to_owned()))?;
    let InlineForm { value, expires_in, to, ports, methods, paths, headers } = form;
    let value = Zeroizing::new(value);
    if expires_in == Some(0) {
        return Err(Refusal::Bad(INLINE.to_owned()));
    }
    Ok(SecretDraft {
        value,
        good_for: expires_in.map(Duration::from_secs),
        grant: GrantText { to, ports, methods, paths, headers },
    })
}

/// The one user, for clients that ask who they are.
#[derive(Serialize, JsonSchema)]
pub(super) struct UserForm {
    user: User,
}

/// Who is asking.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct User {
    id: &'static str,
    username: &'static str,
    email: &'static str,
    name: &'static str,
    default_team_id: &'static str,
}

/// The one team.
#[derive(Serialize, JsonSchema)]
pub(super) struct Team {
    id: &'static str,
    slug: &'static str,
    name: &'static str,
}

/// The one project.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Project {
    id: &'static str,
    name: &'static str,
    account_id: &'static str,
}

impl UserForm {
    pub(super) const LOCAL: Self = Self {
        user: User {
            id: "local",
            username: "local",
            email: "local@localhost",
            name: "local",
            default_team_id: "local",
        },
    };
}

impl Team {
    pub(super) const LOCAL: Self = Self { id: "local", slug: "local", name: "local" };
}

impl Project {
    pub(super) const LOCAL: Self = Self { id: "local", name: "local", account_id: "local" };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Draft, Refused> {
        draft(body.as_bytes(), |text| PolicyPush { text, replaces: None })
    }

    #[test]
    fn what_is_kept_is_what_details_have() {
        let schema = schemars::schema_for!(Details).to_value();
        let mut fields: Vec<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, KEPT);
    }

    #[test]
    fn a_field_that_is_misspelled_doubled_or_of_another_type_is_told_by_name() {
        for (body, expected) in [
            (r#"{"nme": 1}"#, "no field `nme`"),
            (r#"{"timeout": 1, "timeout": 2}"#, "`timeout` stands there twice"),
            (r#"{"networkPolicy": {}, "networkPolicy": {}}"#, "`networkPolicy` stands there twice"),
            (r#"{"timeout": "1"}"#, "`timeout`: invalid type"),
            (r#"{"timeout": 1.5}"#, "`timeout`: a whole number up to 2^53 - 1"),
            (r#"{"timeout": -1}"#, "`timeout`: a whole number up to 2^53 - 1"),
            (r#"{"timeout": 1e300}"#, "`timeout`: a whole number up to 2^53 - 1"),
            (r#"{"timeout": 9007199254740992}"#, "`timeout`: a whole number up to 2^53 - 1"),
            (r#"{"ports": [70000]}"#, "`ports`: invalid value"),
            (r#"{"resources": {"cpus": 1}}"#, "`resources`: unknown field `cpus`"),
            (r#"{"name": "sessions"}"#, "`sessions`"),
            (r#"{"attachment": {"netns": 1}}"#, "an attachment is"),
            ("[]", "not a JSON object"),
            ("{", "the body: EOF"),
        ] {
            let refused = format!("{:?}", read(body).unwrap_err());
            assert!(refused.contains(expected), "{body}: {refused}");
        }
    }

    /// JSON Schema 2020-12, "integer".
    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        for text in ["60000", "60000.0", "6e4"] {
            assert_eq!(serde_json::from_str::<Whole>(text).unwrap().0, 60_000, "{text}");
        }
    }

    #[test]
    fn what_may_hold_a_credential_is_not_kept() {
        let draft =
            read(r#"{"env": {"A": "canary"}, "source": "canary", "credentials": [1], "runtime": "x"}"#).unwrap();
        assert_eq!(draft.details, json!({ "runtime": "x" }).as_object().unwrap().clone());
        assert!(draft.policy.is_none());
    }

    /// `limits::DRAFT_BYTES`, `limits::POLICY_BYTES`
    #[test]
    fn what_is_said_of_a_sandbox_and_its_policy_has_a_bound_each() {
        let said = |field: &str, bytes: usize| read(&format!("{{\"{field}\": \"{}\"}}", "x".repeat(bytes)));
        assert!(said("runtime", limits::DRAFT_BYTES - 100).is_ok());
        for (field, bytes) in
            [("runtime", limits::DRAFT_BYTES), ("env", limits::DRAFT_BYTES), ("networkPolicy", limits::POLICY_BYTES)]
        {
            let refused = format!("{:?}", said(field, bytes).unwrap_err());
            assert!(refused.contains("payload_too_large"), "{field}: {refused}");
        }
        assert!(said("networkPolicy", limits::DRAFT_BYTES).is_ok());
    }
}
