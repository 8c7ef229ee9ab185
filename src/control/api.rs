//! The routes: requests in, one [`Action`] or question out, answers as clients of the reference product read them.
//!
//! Every route also stands beneath `/api`. Query parameters that only that product needs (`teamId`, `projectId`,
//! `slug`, `resume`) are passed over.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::action::{Act, Action, PolicyPush, Refusal, SandboxView, SessionId, Which};
use super::forms;
use crate::flow::SandboxId;
use crate::limits;
use crate::policy::judge::Question;

/// An answer, or why there is none.
type Answer = Result<Response, Refused>;

/// Every route, over whoever carries them out.
pub fn router<A: Act>(act: Arc<A>) -> Router {
    let routes = Router::new()
        .route("/v1/sandboxes", post(create_v1::<A>).get(list::<A>))
        .route("/v1/sandboxes/{id}", get(get_v1::<A>))
        .route("/v1/sandboxes/{id}/network-policy", post(push_v1::<A>))
        .route("/v1/sandboxes/{id}/stop", post(stop_v1::<A>))
        .route("/v2/sandboxes", post(create::<A>).get(list::<A>))
        .route("/v3/sandboxes", post(create::<A>))
        .route("/v2/sandboxes/{name}", get(get_v2::<A>).patch(patch::<A>).delete(delete::<A>))
        .route("/v2/sandboxes/{name}/fork", post(fork::<A>))
        .route("/v2/sandboxes/{name}/stop", post(stop::<A>))
        .route("/v2/sandboxes/{name}/attach", post(attach::<A>))
        .route("/v2/sandboxes/{name}/detach", post(detach::<A>))
        .route("/v2/sandboxes/{name}/explain", get(explain::<A>))
        .route("/v2/sandboxes/{name}/flows", get(flows::<A>))
        .route("/v2/sandboxes/{name}/trust-bundle", get(trust::<A>))
        .route("/v2/sandboxes/sessions/{id}", get(get_session::<A>))
        .route("/v2/sandboxes/sessions/{id}/network-policy", post(push_v2::<A>))
        .route("/v2/sandboxes/sessions/{id}/stop", post(stop_session::<A>))
        .route("/events", get(events::<A>))
        .route("/metrics", get(metrics::<A>))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready::<A>))
        .route("/v2/user", get(|| async { Json(json!({ "user": forms::user() })) }))
        .route("/v2/teams/{id}", get(|| async { Json(forms::team()) }))
        .route("/v2/projects/{id}", get(|| async { Json(forms::project()) }));
    Router::new()
        .nest("/api", routes.clone())
        .merge(routes)
        .fallback(|| async { Refused(Refusal::Unknown) })
        .layer(DefaultBodyLimit::max(limits::POLICY_BYTES + limits::DRAFT_BYTES))
        .with_state(act)
}

/// A refusal as an answer.
struct Refused(Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, code, message) = match self.0 {
            Refusal::Unknown => (StatusCode::NOT_FOUND, "not_found", "there is no such thing here".to_owned()),
            Refusal::Stopped => (StatusCode::GONE, "sandbox_stopped", "the sandbox was stopped".to_owned()),
            Refusal::Conflict(why) => (StatusCode::CONFLICT, "conflict", why),
            Refusal::Bad(why) => (StatusCode::BAD_REQUEST, "bad_request", why),
            Refusal::Policy(faults) => (StatusCode::BAD_REQUEST, "invalid_policy", faults.to_string()),
            Refusal::Attach(why) => (StatusCode::UNPROCESSABLE_ENTITY, "attachment_failed", why),
            Refusal::Limit(why) => (StatusCode::TOO_MANY_REQUESTS, "limit", why),
            Refusal::Failed(why) => (StatusCode::INTERNAL_SERVER_ERROR, "internal", why),
        };
        (status, Json(json!({ "error": { "code": code, "message": message } }))).into_response()
    }
}

/// A sandbox's name, or that there is no such sandbox.
fn named(text: &str) -> Result<SandboxId, Refused> {
    SandboxId::new(text).ok_or(Refused(Refusal::Unknown))
}

fn session(text: String) -> Which {
    Which::Session(SessionId(text))
}

/// An answer with the revision of the policy in force as its `ETag`.
fn tagged(status: StatusCode, view: &SandboxView, body: Value) -> Response {
    let mut response = (status, Json(body)).into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", view.revision)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// A policy, and which one it is to replace (`If-Match`, RFC 9110 §13.1.1).
fn pushed(text: String, headers: &HeaderMap) -> PolicyPush {
    let condition = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
    let replaces = condition.filter(|tag| *tag != "*").map(|tag| tag.trim_matches('"').to_owned());
    PolicyPush { text, replaces }
}

fn document(body: &Bytes, headers: &HeaderMap) -> Result<PolicyPush, Refused> {
    let text = std::str::from_utf8(body).map_err(|_| Refusal::Bad("the body is not text in UTF-8".into()))?;
    Ok(pushed(text.to_owned(), headers))
}

async fn create_v1<A: Act>(State(act): State<Arc<A>>, headers: HeaderMap, body: Bytes) -> Answer {
    let view = act.act(Action::Create(forms::draft(&body, |text| pushed(text, &headers))?)).await?;
    Ok(tagged(StatusCode::OK, &view, json!({ "sandbox": forms::session(&view), "routes": [] })))
}

async fn create<A: Act>(State(act): State<Arc<A>>, headers: HeaderMap, body: Bytes) -> Answer {
    let view = act.act(Action::Create(forms::draft(&body, |text| pushed(text, &headers))?)).await?;
    Ok(tagged(StatusCode::OK, &view, forms::whole(&view)))
}

async fn fork<A: Act>(State(act): State<Arc<A>>, Path(name): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let draft = forms::draft(&body, |text| pushed(text, &headers))?;
    let view = act.act(Action::Fork(named(&name)?, draft)).await?;
    Ok(tagged(StatusCode::OK, &view, forms::whole(&view)))
}

async fn patch<A: Act>(
    State(act): State<Arc<A>>,
    Path(name): Path<String>,
    Query(query): Query<Resume>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let draft = forms::draft(&body, |text| pushed(text, &headers))?;
    let view = act.act(Action::Patch(named(&name)?, draft)).await?;
    let answer = match query.resume.as_deref() {
        Some("true") => forms::whole(&view),
        _ => json!({ "sandbox": forms::sandbox(&view) }),
    };
    Ok(tagged(StatusCode::OK, &view, answer))
}

#[derive(Deserialize)]
struct Resume {
    resume: Option<String>,
}

async fn list<A: Act>(State(act): State<Arc<A>>) -> Json<Value> {
    let sandboxes: Vec<Value> = act.list().iter().map(forms::sandbox).collect();
    let count = sandboxes.len();
    Json(json!({ "sandboxes": sandboxes, "pagination": { "count": count, "next": null, "prev": null } }))
}

fn found<A: Act>(act: &Arc<A>, which: &Which) -> Result<SandboxView, Refused> {
    act.find(which).ok_or(Refused(Refusal::Unknown))
}

async fn get_v1<A: Act>(State(act): State<Arc<A>>, Path(id): Path<String>) -> Answer {
    let view = found(&act, &session(id))?;
    Ok(tagged(StatusCode::OK, &view, json!({ "sandbox": forms::session(&view), "routes": [] })))
}

async fn get_v2<A: Act>(State(act): State<Arc<A>>, Path(name): Path<String>) -> Answer {
    let view = found(&act, &Which::Name(named(&name)?))?;
    Ok(tagged(StatusCode::OK, &view, forms::whole(&view)))
}

async fn get_session<A: Act>(State(act): State<Arc<A>>, Path(id): Path<String>) -> Answer {
    let view = found(&act, &session(id))?;
    Ok(tagged(StatusCode::OK, &view, json!({ "session": forms::session(&view), "routes": [] })))
}

async fn push_v1<A: Act>(State(act): State<Arc<A>>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let view = act.act(Action::Replace(session(id), document(&body, &headers)?)).await?;
    Ok(tagged(StatusCode::OK, &view, json!({ "sandbox": forms::session(&view) })))
}

async fn push_v2<A: Act>(State(act): State<Arc<A>>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let view = act.act(Action::Replace(session(id), document(&body, &headers)?)).await?;
    Ok(tagged(StatusCode::OK, &view, json!({ "session": forms::session(&view) })))
}

async fn stop_v1<A: Act>(State(act): State<Arc<A>>, Path(id): Path<String>) -> Answer {
    let view = act.act(Action::Stop(session(id))).await?;
    Ok(tagged(StatusCode::OK, &view, json!({ "sandbox": forms::session(&view) })))
}

async fn stop_session<A: Act>(State(act): State<Arc<A>>, Path(id): Path<String>) -> Answer {
    let view = act.act(Action::Stop(session(id))).await?;
    let body = json!({ "sandbox": forms::sandbox(&view), "session": forms::session(&view) });
    Ok(tagged(StatusCode::OK, &view, body))
}

async fn stop<A: Act>(State(act): State<Arc<A>>, Path(name): Path<String>) -> Answer {
    let view = act.act(Action::Stop(Which::Name(named(&name)?))).await?;
    Ok(tagged(StatusCode::OK, &view, forms::whole(&view)))
}

async fn delete<A: Act>(State(act): State<Arc<A>>, Path(name): Path<String>) -> Answer {
    let view = act.act(Action::Delete(named(&name)?)).await?;
    Ok(tagged(StatusCode::OK, &view, json!({ "sandbox": forms::sandbox(&view) })))
}

async fn attach<A: Act>(State(act): State<Arc<A>>, Path(name): Path<String>, body: Bytes) -> Answer {
    let spec = serde_json::from_slice(&body).map_err(|_| Refusal::Bad(forms::ATTACHMENT.into()))?;
    let view = act.act(Action::Attach(named(&name)?, spec)).await?;
    Ok(tagged(StatusCode::OK, &view, json!({ "sandbox": forms::sandbox(&view) })))
}

async fn detach<A: Act>(State(act): State<Arc<A>>, Path(name): Path<String>) -> Answer {
    let view = act.act(Action::Detach(named(&name)?)).await?;
    Ok(tagged(StatusCode::OK, &view, json!({ "sandbox": forms::sandbox(&view) })))
}

#[derive(Deserialize)]
struct Asked {
    /// A URL, or `HOST:PORT`.
    url: String,
    method: Option<String>,
    address: Option<IpAddr>,
}

/// The object that `exeat explain --format json` prints.
async fn explain<A: Act>(
    State(act): State<Arc<A>>,
    Path(name): Path<String>,
    Query(Asked { url, method, address }): Query<Asked>,
) -> Answer {
    let question = Question::target(method.as_deref(), &url).and_then(|question| match address {
        Some(address) => question.resolved_to(address),
        None => Ok(question),
    });
    let question = question.map_err(|fault| {
        let help = fault.help().map(|help| format!(" ({help})")).unwrap_or_default();
        Refusal::Bad(format!("{fault}{help}"))
    })?;
    let explained = act.explain(&Which::Name(named(&name)?), &question).ok_or(Refusal::Unknown)?;
    Ok(Json(explained).into_response())
}

async fn flows<A: Act>(State(act): State<Arc<A>>, Path(name): Path<String>) -> Answer {
    let flows = act.flows(&Which::Name(named(&name)?)).ok_or(Refusal::Unknown)?;
    Ok(Json(json!({ "flows": flows })).into_response())
}

async fn trust<A: Act>(State(act): State<Arc<A>>, Path(name): Path<String>) -> Answer {
    let trust = act.trust(&Which::Name(named(&name)?)).ok_or(Refusal::Unknown)?;
    Ok(Json(trust).into_response())
}

#[derive(Deserialize)]
struct Of {
    /// A sandbox's name.
    sandbox: Option<String>,
}

/// Audit records as they are written. Who reads too slowly loses some, and is told how many.
async fn events<A: Act>(State(act): State<Arc<A>>, Query(Of { sandbox }): Query<Of>) -> impl IntoResponse {
    let source = (act.events(), sandbox);
    let lines = stream::unfold(source, |(mut lines, sandbox)| async move {
        loop {
            let event = match lines.recv().await {
                Ok(line) if !is_of(&line, sandbox.as_deref()) => continue,
                Ok(line) => Event::default().data(&*line),
                Err(RecvError::Lagged(missed)) => Event::default().event("missed").data(missed.to_string()),
                Err(RecvError::Closed) => return None,
            };
            return Some((Ok::<_, std::convert::Infallible>(event), (lines, sandbox)));
        }
    });
    Sse::new(lines).keep_alive(KeepAlive::default())
}

fn is_of(line: &str, sandbox: Option<&str>) -> bool {
    let Some(sandbox) = sandbox else { return true };
    let record: Value = serde_json::from_str(line).unwrap_or_default();
    record.get("sandbox").and_then(Value::as_str) == Some(sandbox)
}

async fn metrics<A: Act>(State(act): State<Arc<A>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], act.metrics())
}

async fn ready<A: Act>(State(act): State<Arc<A>>) -> Response {
    match act.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}
