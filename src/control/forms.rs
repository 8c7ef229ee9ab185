//! Wire forms: what a control plane sends, and what it is told, as the reference product spells it (POLICY §9).

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::action::{AttachmentState, Draft, PolicyPush, Refusal, SandboxView, Status};
use crate::flow::SandboxId;

/// What an attachment looks like, for whoever spelled one otherwise.
pub(super) const ATTACHMENT: &str = "an attachment is {\"netns\": \"/run/netns/NAME\"} or \
                                     {\"interface\": {\"name\": \"tap0\", \"addresses\": [\"10.0.0.2\"]}}";

/// Fields of the reference product that are kept and given back.
const KEPT: [&str; 12] = [
    "cwd",
    "memory",
    "persistent",
    "ports",
    "projectId",
    "region",
    "resources",
    "runtime",
    "tags",
    "teamId",
    "timeout",
    "vcpus",
];
/// Fields of the reference product that mean nothing here, and may hold what nobody should keep.
const PASSED_OVER: [&str; 8] =
    ["__interactive", "credentials", "env", "image", "keepLastSnapshots", "resume", "snapshotExpiration", "source"];

/// Reads what is said of a sandbox. Nothing said is an empty draft.
pub(super) fn draft(body: &[u8], push: impl FnOnce(String) -> PolicyPush) -> Result<Draft, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(Draft::default());
    }
    // Values stay as they are written: a policy's own reader tells doubled keys and their order.
    let fields: BTreeMap<String, Box<RawValue>> =
        serde_json::from_slice(body).map_err(|_| Refusal::Bad("the body is not a JSON object".into()))?;
    let (mut draft, mut push) = (Draft::default(), Some(push));
    for (key, raw) in fields {
        match key.as_str() {
            "name" => {
                let name: Option<String> = serde_json::from_str(raw.get()).ok();
                let id = name.as_deref().and_then(SandboxId::new);
                draft.name =
                    Some(id.ok_or_else(|| Refusal::Bad("`name` is 1 to 128 of a-z, A-Z, 0-9, _ and -".into()))?);
            }
            "networkPolicy" => draft.policy = push.take().map(|push| push(raw.get().to_owned())),
            "attachment" => {
                let spec = serde_json::from_str(raw.get()).map_err(|_| Refusal::Bad(ATTACHMENT.into()))?;
                draft.attachment = Some(spec);
            }
            "limits" => {
                let limits = serde_json::from_str(raw.get());
                draft.limits = Some(limits.map_err(|error| Refusal::Bad(format!("`limits`: {error}")))?);
            }
            kept if KEPT.contains(&kept) => {
                let value = serde_json::from_str(raw.get()).unwrap_or_default();
                draft.details.insert(key, value);
            }
            over if PASSED_OVER.contains(&over) => {}
            _ => return Err(Refusal::Bad(format!("a sandbox has no field `{}`", key.escape_default()))),
        }
    }
    Ok(draft)
}

/// A sandbox, its session and its routes, of which there are none.
pub(super) fn whole(view: &SandboxView) -> Value {
    json!({ "sandbox": sandbox(view), "session": session(view), "routes": [] })
}

/// A sandbox by name.
pub(super) fn sandbox(view: &SandboxView) -> Value {
    let mut object = common(view);
    object.insert("name".into(), json!(view.name.as_str()));
    object.entry("persistent").or_insert(json!(true));
    object.insert("currentSessionId".into(), json!(view.session.0));
    object.insert("totalIngressBytes".into(), json!(view.total_bytes.ingress));
    object.insert("totalEgressBytes".into(), json!(view.total_bytes.egress));
    object.insert("revision".into(), json!(view.revision));
    object.insert("generation".into(), json!(view.generation));
    object.insert("limits".into(), json!(view.limits));
    if let Some(attachment) = &view.attachment {
        let (state, reason) = match &attachment.state {
            AttachmentState::Attached => ("attached", None),
            AttachmentState::Quarantined(why) => ("quarantined", Some(why)),
            AttachmentState::Gone => ("gone", None),
            AttachmentState::Detached(why) => ("detached", Some(why)),
        };
        let mut told = json!({ "spec": attachment.spec, "id": attachment.id, "state": state });
        if let (Some(reason), Value::Object(told)) = (reason, &mut told) {
            told.insert("reason".into(), json!(reason));
        }
        object.insert("attachment".into(), told);
    }
    Value::Object(object)
}

/// A session, with the fields that clients insist on.
pub(super) fn session(view: &SandboxView) -> Value {
    let mut object = common(view);
    let resource = |key: &str| view.details.get("resources").and_then(|resources| resources.get(key)).cloned();
    object.insert("id".into(), json!(view.session.0));
    object.insert("requestedAt".into(), json!(view.created_at));
    for (key, usual) in [
        ("memory", resource("memory").unwrap_or(json!(2048))),
        ("vcpus", resource("vcpus").unwrap_or(json!(1))),
        ("region", json!("local")),
        ("timeout", json!(300_000)),
        ("cwd", json!("/")),
        ("runtime", json!("local")),
        // Clients insist that there is one; nothing listens there.
        ("interactivePort", json!(1)),
    ] {
        object.entry(key).or_insert(usual);
    }
    if view.status == Status::Stopped {
        let bytes = view.session_bytes;
        object.insert("networkTransfer".into(), json!({ "ingress": bytes.ingress, "egress": bytes.egress }));
    }
    Value::Object(object)
}

/// What both have.
fn common(view: &SandboxView) -> Map<String, Value> {
    let mut object = view.details.clone();
    object.insert("status".into(), json!(view.status));
    object.insert("createdAt".into(), json!(view.created_at));
    object.insert("updatedAt".into(), json!(view.updated_at));
    object.insert("networkPolicy".into(), view.policy.clone());
    object.extend(view.stopped_at.map(|at| ("stoppedAt".to_owned(), json!(at))));
    object
}

/// The one user.
pub(super) fn user() -> Value {
    json!({ "id": "local", "username": "local", "email": "local@localhost", "name": "local", "defaultTeamId": "local" })
}

/// The one team.
pub(super) fn team() -> Value {
    json!({ "id": "local", "slug": "local", "name": "local" })
}

/// The one project.
pub(super) fn project() -> Value {
    json!({ "id": "local", "name": "local", "accountId": "local" })
}
