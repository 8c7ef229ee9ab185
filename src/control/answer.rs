//! Answers, and why there is none (POLICY §9).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::action::{Refusal, SandboxView};
use super::describe::{JSON, Operation, Output};

/// An answer, or a refusal.
pub(super) type Answer<T> = Result<T, Refused>;

/// What is said of a sandbox, with the revision of its policy as its `ETag`.
pub(super) struct Tagged<T> {
    revision: String,
    body: T,
}

impl<T> Tagged<T> {
    pub(super) fn new(view: &SandboxView, body: T) -> Self {
        Self { revision: view.revision.clone(), body }
    }
}

impl<T: Serialize> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.body).into_response();
        if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", self.revision)) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }
}

impl<T: JsonSchema> Output for Tagged<T> {
    fn describe(operation: &mut Operation<'_>) {
        let schema = operation.told::<T>();
        let tag = json!({
            "description": "The revision of the policy in force.",
            "required": true,
            "schema": { "type": "string" },
        });
        operation.answer(StatusCode::OK, JSON, schema, &[("ETag", tag)]);
    }
}

impl<T: JsonSchema> Output for Json<T> {
    fn describe(operation: &mut Operation<'_>) {
        let schema = operation.told::<T>();
        operation.answer(StatusCode::OK, JSON, schema, &[]);
    }
}

/// A refusal as an answer.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    code: &'static str,
    message: String,
}

/// What a refusal looks like.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(super) struct ErrorForm {
    error: FaultForm,
}

/// What went wrong.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Fault")]
struct FaultForm {
    /// For programs.
    code: &'static str,
    /// For people.
    message: String,
}

impl Refused {
    /// What a request is, and cannot be.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Refusal::Bad(message.into()).into()
    }

    /// More was sent than is taken.
    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, code: "payload_too_large", message: message.into() }
    }

    /// A path is there, and this method of it is not.
    pub(super) fn method() -> Self {
        let message = "there is such a path, but not this method of it".to_owned();
        Self { status: StatusCode::METHOD_NOT_ALLOWED, code: "method_not_allowed", message }
    }

    /// The statuses of refusals, with what each means.
    pub(super) const STATUSES: [(StatusCode, &'static str); 9] = [
        (StatusCode::BAD_REQUEST, "The request cannot be; of a policy, every fault."),
        (StatusCode::UNAUTHORIZED, "On TCP: there is no token, or not the right one."),
        (StatusCode::NOT_FOUND, "There is no such thing here."),
        (StatusCode::CONFLICT, "Something else has it: a name, an attachment, a revision that is in force."),
        (StatusCode::GONE, "The session was stopped."),
        (StatusCode::PAYLOAD_TOO_LARGE, "More was sent than is taken."),
        (StatusCode::UNPROCESSABLE_ENTITY, "It cannot be attached."),
        (StatusCode::TOO_MANY_REQUESTS, "A bound was met."),
        (StatusCode::INTERNAL_SERVER_ERROR, "The daemon failed; the message says what was done all the same."),
    ];
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let (status, code, message) = match refusal {
            Refusal::Unknown => (StatusCode::NOT_FOUND, "not_found", "there is no such thing here".to_owned()),
            Refusal::Absent(why) => (StatusCode::NOT_FOUND, "not_found", why),
            Refusal::Stopped => (StatusCode::GONE, "sandbox_stopped", "the session was stopped".to_owned()),
            Refusal::Conflict(why) => (StatusCode::CONFLICT, "conflict", why),
            Refusal::Bad(why) => (StatusCode::BAD_REQUEST, "bad_request", why),
            Refusal::Policy(faults) => (StatusCode::BAD_REQUEST, "invalid_policy", faults.to_string()),
            Refusal::Attach(why) => (StatusCode::UNPROCESSABLE_ENTITY, "attachment_failed", why),
            Refusal::Limit(why) => (StatusCode::TOO_MANY_REQUESTS, "limit", why),
            Refusal::Failed(why) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", why),
        };
        Self { status, code, message }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self { status, code, message } = self;
        (status, Json(ErrorForm { error: FaultForm { code, message } })).into_response()
    }
}

impl Output for Refused {
    fn describe(operation: &mut Operation<'_>) {
        Self::STATUSES.iter().for_each(|(status, _)| operation.refusal(*status));
    }
}

impl<T: Output, E: Output> Output for Result<T, E> {
    fn describe(operation: &mut Operation<'_>) {
        T::describe(operation);
        E::describe(operation);
    }
}
