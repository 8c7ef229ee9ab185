//! What a request says, part by part; whatever cannot be is refused in the form of POLICY §9.

use axum::RequestExt;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::action::{AttachmentSpec, Draft, PolicyPush, Refusal, SecretDraft, SessionId, Which};
use super::answer::Refused;
use super::describe::{Input, Operation};
use super::forms::{ATTACHMENT, DraftForm, InlineForm, PolicyDocument, draft, inline};
use crate::flow::{SandboxId, SecretName};
use crate::limits;

/// A sandbox's name, from the path.
pub(super) struct Name(pub(super) SandboxId);

/// A session's name, from the path.
pub(super) struct Session(pub(super) Which);

/// A secret's name, from the path.
pub(super) struct Key(pub(super) SecretName);

/// The body, as a secret's value and where it may go.
pub(super) struct Inline(pub(super) SecretDraft);

/// A part of the path that does not matter.
pub(super) struct Whatever;

/// The query.
pub(super) struct Asked<T>(pub(super) T);

/// The body, whatever type it is said to have. What is not sent is empty.
struct Body(Bytes);

/// The body, as JSON that is to have this form.
pub(super) struct Said<T>(pub(super) T);

/// What is said of a sandbox that is not there yet.
pub(super) struct Creation(pub(super) Draft);

/// What is said of a sandbox that is there, and which revisions of its policy it may replace (`If-Match`).
pub(super) struct Change(pub(super) Draft);

/// The body, as an attachment.
pub(super) struct Attach(pub(super) AttachmentSpec);

/// A policy: the body, and which revisions it may replace (`If-Match`).
pub(super) struct Push(pub(super) PolicyPush);

/// The revisions of which one must be in force (`If-Match`, RFC 9110 §13.1.1); `None` if any may be.
struct Condition(Option<Vec<String>>);

async fn segment(parts: &mut Parts) -> Result<String, Refused> {
    // What cannot be decoded names nothing.
    let Path(text) = Path::<String>::from_request_parts(parts, &()).await.map_err(|_| Refusal::Unknown)?;
    Ok(text)
}

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        Ok(Self(SandboxId::new(&segment(parts).await?).ok_or(Refusal::Unknown)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Session {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        Ok(Self(Which::Session(SessionId(segment(parts).await?))))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let due = || Refusal::Absent("a secret's name is letters, digits and `_`, and no digit first".to_owned());
        Ok(Self(SecretName::new(&segment(parts).await?).ok_or_else(due)?))
    }
}

impl<S: Send + Sync> FromRequest<S> for Inline {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let Body(bytes) = Body::from_request(request, state).await?;
        Ok(Self(inline(&bytes)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Whatever {
    type Rejection = Refused;

    async fn from_request_parts(_: &mut Parts, _: &S) -> Result<Self, Refused> {
        Ok(Self)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(rejection) => Err(Refused::bad(format!("the query: {}", rejection.body_text()))),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Condition {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let mut tags: Option<Vec<String>> = None;
        for value in parts.headers.get_all(header::IF_MATCH) {
            let text = value.to_str().ok().map(str::trim).filter(|text| !text.is_empty());
            match text {
                Some("*") => return Ok(Self(None)),
                Some(text) => tags.get_or_insert_default().extend(strong_tags(text).ok_or_else(no_tags)?),
                None => return Err(no_tags()),
            }
        }
        Ok(Self(tags))
    }
}

fn no_tags() -> Refused {
    Refused::bad("`If-Match` is `*`, or entity tags: `\"…\"`, as `ETag` gives them, between commas")
}

/// The strong ones of a list of entity tags (RFC 9110 §8.8.3), for weak ones match nothing; `None` if it is none.
fn strong_tags(mut text: &str) -> Option<Vec<String>> {
    let mut strong = Vec::new();
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        if text.is_empty() {
            return Some(strong);
        }
        let (is_weak, opaque) = match text.strip_prefix("W/") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (tag, rest) = opaque.strip_prefix('"')?.split_once('"')?;
        if !is_weak {
            strong.push(tag.to_owned());
        }
        text = rest.trim_start_matches([' ', '\t']);
        if !text.is_empty() && !text.starts_with(',') {
            return None;
        }
    }
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        match request.with_limited_body().extract::<Bytes, _>().await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Refused::too_large(format!("a body has {} bytes at most", limits::BODY_BYTES)))
            }
            Err(_) => Err(Refused::bad("the body did not arrive whole")),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Said<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let Body(bytes) = Body::from_request(request, state).await?;
        let said = serde_json::from_slice(&bytes).map_err(|error| Refused::bad(format!("the body: {error}")))?;
        Ok(Self(said))
    }
}

impl<S: Send + Sync> FromRequest<S> for Attach {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let Body(bytes) = Body::from_request(request, state).await?;
        Ok(Self(serde_json::from_slice(&bytes).map_err(|_| Refused::bad(ATTACHMENT))?))
    }
}

impl<S: Send + Sync> FromRequest<S> for Creation {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let Body(bytes) = Body::from_request(request, state).await?;
        Ok(Self(draft(&bytes, |text| PolicyPush { text, replaces: None })?))
    }
}

impl<S: Send + Sync> FromRequest<S> for Change {
    type Rejection = Refused;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, Refused> {
        let Condition(mut replaces) = request.extract_parts::<Condition>().await?;
        let Body(bytes) = Body::from_request(request, state).await?;
        let said = draft(&bytes, |text| PolicyPush { text, replaces: replaces.take() })?;
        match replaces {
            Some(_) => Err(Refused::bad("`If-Match` is about the policy, and none is sent")),
            None => Ok(Self(said)),
        }
    }
}

impl<S: Send + Sync> FromRequest<S> for Push {
    type Rejection = Refused;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, Refused> {
        let Condition(replaces) = request.extract_parts::<Condition>().await?;
        let Body(bytes) = Body::from_request(request, state).await?;
        if bytes.len() > limits::POLICY_BYTES {
            return Err(Refused::too_large(format!("a policy has {} bytes at most", limits::POLICY_BYTES)));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| Refused::bad("the body is not text in UTF-8"))?;
        Ok(Self(PolicyPush { text: text.to_owned(), replaces }))
    }
}

impl<S> Input for State<S> {
    fn describe(_: &mut Operation<'_>) {}
}

impl Input for Name {
    fn describe(operation: &mut Operation<'_>) {
        operation.in_path("name", json!({ "type": "string", "pattern": "^[a-zA-Z0-9_-]+$", "maxLength": 128 }));
    }
}

impl Input for Key {
    fn describe(operation: &mut Operation<'_>) {
        operation.in_path("name", json!({ "type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$" }));
    }
}

impl Input for Inline {
    fn describe(operation: &mut Operation<'_>) {
        operation.body::<InlineForm>(true);
    }
}

impl Input for Session {
    fn describe(operation: &mut Operation<'_>) {
        operation.in_path("id", json!({ "type": "string" }));
    }
}

impl Input for Whatever {
    fn describe(operation: &mut Operation<'_>) {
        operation.in_path("id", json!({ "type": "string" }));
    }
}

impl<T: JsonSchema> Input for Asked<T> {
    fn describe(operation: &mut Operation<'_>) {
        operation.in_query::<T>();
    }
}

impl Input for Attach {
    fn describe(operation: &mut Operation<'_>) {
        operation.body::<AttachmentSpec>(true);
    }
}

impl Input for Creation {
    fn describe(operation: &mut Operation<'_>) {
        operation.body::<DraftForm>(false);
    }
}

impl Input for Change {
    fn describe(operation: &mut Operation<'_>) {
        operation.condition();
        operation.body::<DraftForm>(false);
    }
}

impl<T: JsonSchema> Input for Said<T> {
    fn describe(operation: &mut Operation<'_>) {
        operation.body::<T>(true);
    }
}

impl Input for Push {
    fn describe(operation: &mut Operation<'_>) {
        operation.condition();
        operation.body::<PolicyDocument>(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9110 §8.8.3 and §13.1.1.
    #[test]
    fn entity_tags_are_compared_strongly_and_nothing_else_is_taken_for_one() {
        for (text, expected) in [
            ("\"a\"", Some(vec!["a"])),
            ("\"a\", \"b,c\"", Some(vec!["a", "b,c"])),
            (",\"a\" ,\t\"b\",", Some(vec!["a", "b"])),
            ("W/\"a\"", Some(vec![])),
            ("W/\"a\", \"b\"", Some(vec!["b"])),
            ("a", None),
            ("\"a", None),
            ("\"a\" \"b\"", None),
            ("\"a\", *", None),
            ("w/\"a\"", None),
        ] {
            let strong = strong_tags(text);
            assert_eq!(strong, expected.map(|tags| tags.into_iter().map(str::to_owned).collect()), "{text}");
        }
    }
}
