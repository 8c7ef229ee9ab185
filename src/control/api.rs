//! The routes: requests in, one [`Action`] or question out, answers as clients of the reference product read them.
//!
//! Every route also stands beneath `/api`. Query parameters that only that product needs (`teamId`, `projectId`,
//! `slug`) are passed over.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::stream;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::action::{Act, Action, Refusal, SandboxView, SecretChange, SecretView, Status, TrustView, Which};
use super::answer::{Answer, Refused, Tagged};
use super::ask::{Asked, Attach, Change, Creation, Inline, Key, Name, Push, Said, Session, Whatever};
use super::describe::{Api, Operation, Output};
use super::forms::{
    Extension, FlowList, OldSandbox, OldSandboxList, OnlySandbox, OnlySession, PatchedForm, Project, RoutedOldSandbox,
    RoutedSession, SandboxForm, SandboxList, SecretList, SessionForm, SessionList, StoppedForm, Team, UserForm,
    WholeForm,
};
use super::pages::{Between, Listing, SessionListing};
use crate::flow::SandboxId;
use crate::limits;
use crate::policy::explain::Explanation;
use crate::policy::judge::Question;

/// Every route, over whoever carries them out.
pub fn router<A: Act>(act: Arc<A>) -> Router {
    let (routes, document) = api::<A>().finish();
    let routes = routes
        .route("/.well-known/jwks", get(jwks::<A>))
        .route("/openapi.json", get(move || std::future::ready(Json(document.clone()))))
        .method_not_allowed_fallback(|| async { Refused::method() });
    Router::new()
        .nest("/api", routes.clone())
        .merge(routes)
        .fallback(|| async { Refused::from(Refusal::Unknown) })
        .layer(DefaultBodyLimit::max(limits::BODY_BYTES))
        .with_state(act)
}

/// The OpenAPI document of the API, as `GET /openapi.json` gives it and `src/control/openapi.json` has it.
#[must_use]
pub fn openapi<A: Act>() -> Value {
    api::<A>().finish().1
}

fn api<A: Act>() -> Api<A> {
    let api = Api::new()
        .post("/v1/sandboxes", "Register a sandbox", create_v1::<A>)
        .get("/v1/sandboxes", "List sandboxes", list_v1::<A>)
        .get("/v1/sandboxes/{id}", "Show a sandbox", get_v1::<A>)
        .post("/v1/sandboxes/{id}/network-policy", "Replace a sandbox's policy whole", push_v1::<A>)
        .post("/v1/sandboxes/{id}/extend-timeout", "Let a session last longer", extend_v1::<A>)
        .post("/v1/sandboxes/{id}/stop", "Stop a sandbox", stop_v1::<A>)
        .post("/v2/sandboxes", "Register a sandbox", create::<A>)
        .get("/v2/sandboxes", "List sandboxes", list::<A>)
        .post("/v3/sandboxes", "Register a sandbox", create::<A>)
        .get("/v2/sandboxes/{name}", "Show a sandbox; with `resume`, begin a session if none runs", get_v2::<A>)
        .patch("/v2/sandboxes/{name}", "Change what is said of a sandbox", patch::<A>)
        .delete("/v2/sandboxes/{name}", "Stop a sandbox and forget it", delete::<A>)
        .post("/v2/sandboxes/{name}/fork", "Register a sandbox that begins as a copy of another", fork::<A>)
        .post("/v2/sandboxes/{name}/stop", "Stop a sandbox", stop::<A>)
        .get("/v2/sandboxes/sessions", "List sessions", sessions::<A>)
        .get("/v2/sandboxes/sessions/{id}", "Show a session", get_session::<A>)
        .post("/v2/sandboxes/sessions/{id}/network-policy", "Replace a sandbox's policy whole", push::<A>)
        .post("/v2/sandboxes/sessions/{id}/extend-timeout", "Let a session last longer", extend::<A>)
        .post("/v2/sandboxes/sessions/{id}/stop", "Stop a session", stop_session::<A>);
    let api = api
        .post("/v2/sandboxes/{name}/attach", "Attach a sandbox", attach::<A>)
        .post("/v2/sandboxes/{name}/detach", "Detach a sandbox: it reaches nothing", detach::<A>)
        .get("/v2/sandboxes/{name}/explain", "Say how a target is judged now", explain::<A>)
        .get("/v2/sandboxes/{name}/flows", "List the flows that are open", flows::<A>)
        .get("/secrets", "List the secrets that policies may name, and how each is kept; never a value", secrets::<A>)
        .put("/secrets/{name}", "Set a secret's value, and where it may go; it is never shown again", set_secret::<A>)
        .delete("/secrets/{name}", "Forget a secret whose value was set here", delete_secret::<A>)
        .get("/trust-bundle", "Say what a sandbox must trust, and how its programs are told", trust::<A>)
        .get("/events", "Follow the audit record", events::<A>)
        .get("/metrics", "Show counters, in the format of OpenMetrics", metrics::<A>)
        .get("/healthz", "Say that the daemon answers", healthy)
        .get("/readyz", "Say whether sandboxes can be registered, and how secrets are kept", ready::<A>);
    // What clients of the reference product ask before anything else.
    api.get("/v2/user", "Show the one user", user).get("/v2/teams/{id}", "Show the one team", team).get(
        "/v2/projects/{id}",
        "Show the one project",
        project,
    )
}

async fn create_v1<A: Act>(State(act): State<Arc<A>>, Creation(said): Creation) -> Answer<Tagged<RoutedOldSandbox>> {
    let view = act.act(Action::Create(said)).await?;
    Ok(Tagged::new(&view, RoutedOldSandbox::new(&view)))
}

async fn create<A: Act>(State(act): State<Arc<A>>, Creation(said): Creation) -> Answer<Tagged<WholeForm>> {
    let view = act.act(Action::Create(said)).await?;
    Ok(Tagged::new(&view, WholeForm::new(&view, None)))
}

async fn fork<A: Act>(
    State(act): State<Arc<A>>,
    Name(name): Name,
    Creation(said): Creation,
) -> Answer<Tagged<WholeForm>> {
    let view = act.act(Action::Fork(name, said)).await?;
    Ok(Tagged::new(&view, WholeForm::new(&view, None)))
}

#[derive(Deserialize, JsonSchema)]
struct Resume {
    /// Whether a session is begun if none runs.
    #[serde(default)]
    resume: bool,
}

async fn patch<A: Act>(
    State(act): State<Arc<A>>,
    Name(name): Name,
    Asked(Resume { resume }): Asked<Resume>,
    Change(said): Change,
) -> Answer<Tagged<PatchedForm>> {
    let view = act.act(Action::Patch(name, said)).await?;
    if resume {
        let (view, resumed) = resumed(&act, view).await?;
        return Ok(Tagged::new(&view, PatchedForm::Whole(Box::new(WholeForm::new(&view, Some(resumed))))));
    }
    Ok(Tagged::new(&view, PatchedForm::Sandbox(Box::new(only(&view)))))
}

async fn get_v2<A: Act>(
    State(act): State<Arc<A>>,
    Name(name): Name,
    Asked(Resume { resume }): Asked<Resume>,
) -> Answer<Tagged<WholeForm>> {
    let view = found(&act, &Which::Name(name))?;
    if resume {
        let (view, resumed) = resumed(&act, view).await?;
        return Ok(Tagged::new(&view, WholeForm::new(&view, Some(resumed))));
    }
    Ok(Tagged::new(&view, WholeForm::new(&view, None)))
}

/// The sandbox with a session that runs, and whether it was begun for this.
async fn resumed<A: Act>(act: &Arc<A>, view: SandboxView) -> Result<(SandboxView, bool), Refusal> {
    match view.status {
        Status::Running => Ok((view, false)),
        Status::Stopped => Ok((act.act(Action::Resume(view.name)).await?, true)),
    }
}

fn found<A: Act>(act: &Arc<A>, which: &Which) -> Result<SandboxView, Refusal> {
    act.find(which).ok_or(Refusal::Unknown)
}

fn only(view: &SandboxView) -> OnlySandbox {
    OnlySandbox { sandbox: SandboxForm::new(view) }
}

async fn list<A: Act>(State(act): State<Arc<A>>, Asked(listing): Asked<Listing>) -> Answer<Json<SandboxList>> {
    let (page, pagination) = listing.page(act.list())?;
    Ok(Json(SandboxList { sandboxes: page.iter().map(SandboxForm::new).collect(), pagination }))
}

async fn list_v1<A: Act>(State(act): State<Arc<A>>, Asked(between): Asked<Between>) -> Answer<Json<OldSandboxList>> {
    let (page, pagination) = between.page(act.list())?;
    Ok(Json(OldSandboxList { sandboxes: page.iter().map(SessionForm::new).collect(), pagination }))
}

async fn sessions<A: Act>(
    State(act): State<Arc<A>>,
    Asked(listing): Asked<SessionListing>,
) -> Answer<Json<SessionList>> {
    let views = match &listing.name {
        None => act.list(),
        Some(name) => SandboxId::new(name).and_then(|name| act.find(&Which::Name(name))).into_iter().collect(),
    };
    let (page, pagination) = listing.page(views)?;
    Ok(Json(SessionList { sessions: page.iter().map(SessionForm::new).collect(), pagination }))
}

async fn get_v1<A: Act>(State(act): State<Arc<A>>, Session(which): Session) -> Answer<Tagged<RoutedOldSandbox>> {
    let view = found(&act, &which)?;
    Ok(Tagged::new(&view, RoutedOldSandbox::new(&view)))
}

async fn get_session<A: Act>(State(act): State<Arc<A>>, Session(which): Session) -> Answer<Tagged<RoutedSession>> {
    let view = found(&act, &which)?;
    Ok(Tagged::new(&view, RoutedSession::new(&view)))
}

async fn push_v1<A: Act>(
    State(act): State<Arc<A>>,
    Session(which): Session,
    Push(push): Push,
) -> Answer<Tagged<OldSandbox>> {
    let view = act.act(Action::Replace(which, push)).await?;
    Ok(Tagged::new(&view, OldSandbox { sandbox: SessionForm::new(&view) }))
}

async fn push<A: Act>(
    State(act): State<Arc<A>>,
    Session(which): Session,
    Push(push): Push,
) -> Answer<Tagged<OnlySession>> {
    let view = act.act(Action::Replace(which, push)).await?;
    Ok(Tagged::new(&view, OnlySession { session: SessionForm::new(&view) }))
}

async fn extend_v1<A: Act>(
    State(act): State<Arc<A>>,
    Session(which): Session,
    Said(Extension { duration }): Said<Extension>,
) -> Answer<Tagged<OldSandbox>> {
    let view = act.act(Action::Extend(which, duration.0)).await?;
    Ok(Tagged::new(&view, OldSandbox { sandbox: SessionForm::new(&view) }))
}

async fn extend<A: Act>(
    State(act): State<Arc<A>>,
    Session(which): Session,
    Said(Extension { duration }): Said<Extension>,
) -> Answer<Tagged<OnlySession>> {
    let view = act.act(Action::Extend(which, duration.0)).await?;
    Ok(Tagged::new(&view, OnlySession { session: SessionForm::new(&view) }))
}

async fn stop_v1<A: Act>(State(act): State<Arc<A>>, Session(which): Session) -> Answer<Tagged<OldSandbox>> {
    let view = act.act(Action::Stop(which)).await?;
    Ok(Tagged::new(&view, OldSandbox { sandbox: SessionForm::new(&view) }))
}

async fn stop_session<A: Act>(State(act): State<Arc<A>>, Session(which): Session) -> Answer<Tagged<StoppedForm>> {
    let view = act.act(Action::Stop(which)).await?;
    let stopped = StoppedForm { session: SessionForm::new(&view), sandbox: SandboxForm::new(&view) };
    Ok(Tagged::new(&view, stopped))
}

async fn stop<A: Act>(State(act): State<Arc<A>>, Name(name): Name) -> Answer<Tagged<WholeForm>> {
    let view = act.act(Action::Stop(Which::Name(name))).await?;
    Ok(Tagged::new(&view, WholeForm::new(&view, None)))
}

async fn delete<A: Act>(State(act): State<Arc<A>>, Name(name): Name) -> Answer<Tagged<OnlySandbox>> {
    let view = act.act(Action::Delete(name)).await?;
    Ok(Tagged::new(&view, only(&view)))
}

async fn attach<A: Act>(
    State(act): State<Arc<A>>,
    Name(name): Name,
    Attach(spec): Attach,
) -> Answer<Tagged<OnlySandbox>> {
    let view = act.act(Action::Attach(name, spec)).await?;
    Ok(Tagged::new(&view, only(&view)))
}

async fn detach<A: Act>(State(act): State<Arc<A>>, Name(name): Name) -> Answer<Tagged<OnlySandbox>> {
    let view = act.act(Action::Detach(name)).await?;
    Ok(Tagged::new(&view, only(&view)))
}

#[derive(Deserialize, JsonSchema)]
struct Target {
    /// A URL, or `HOST:PORT`.
    url: String,
    /// The request's, of a URL; `GET` where nothing is said.
    method: Option<String>,
    /// What the name resolves to.
    address: Option<IpAddr>,
}

/// The object that `exeat explain --format json` prints.
async fn explain<A: Act>(
    State(act): State<Arc<A>>,
    Name(name): Name,
    Asked(Target { url, method, address }): Asked<Target>,
) -> Answer<Json<Explanation>> {
    let question = Question::target(method.as_deref(), &url).and_then(|question| match address {
        Some(address) => question.resolved_to(address),
        None => Ok(question),
    });
    let question = question.map_err(|fault| {
        let help = fault.help().map(|help| format!(" ({help})")).unwrap_or_default();
        Refusal::Bad(format!("{fault}{help}"))
    })?;
    Ok(Json(act.explain(&Which::Name(name), &question).ok_or(Refusal::Unknown)?))
}

async fn flows<A: Act>(State(act): State<Arc<A>>, Name(name): Name) -> Answer<Json<FlowList>> {
    let flows = act.flows(&Which::Name(name)).ok_or(Refusal::Unknown)?;
    Ok(Json(FlowList { flows }))
}

async fn secrets<A: Act>(State(act): State<Arc<A>>) -> Json<SecretList> {
    Json(SecretList { secrets: act.secrets() })
}

async fn set_secret<A: Act>(
    State(act): State<Arc<A>>,
    Key(name): Key,
    Inline(draft): Inline,
) -> Answer<Json<SecretView>> {
    Ok(Json(act.change_secret(name, SecretChange::Set(draft)).await?))
}

async fn delete_secret<A: Act>(State(act): State<Arc<A>>, Key(name): Key) -> Answer<Json<SecretView>> {
    Ok(Json(act.change_secret(name, SecretChange::Delete).await?))
}

#[derive(Deserialize, JsonSchema)]
struct Of {
    /// A sandbox's name.
    sandbox: String,
}

async fn trust<A: Act>(State(act): State<Arc<A>>, Asked(Of { sandbox }): Asked<Of>) -> Answer<Json<TrustView>> {
    let name = SandboxId::new(&sandbox).ok_or(Refusal::Unknown)?;
    Ok(Json(act.trust(&Which::Name(name)).ok_or(Refusal::Unknown)?))
}

#[derive(Deserialize, JsonSchema)]
struct Filter {
    /// Of the sandbox that has this name, which need not be there yet.
    sandbox: Option<String>,
    /// Of this kind.
    event: Option<Kind>,
    /// That came out so.
    verdict: Option<Outcome>,
}

/// A kind of audit record (POLICY §10).
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Verdict,
    Close,
}

/// How a verdict came out.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Allow,
    Deny,
}

/// What of an audit record is filtered by.
#[derive(Deserialize)]
struct Recorded {
    sandbox: Option<String>,
    event: Option<Kind>,
    verdict: Option<Outcome>,
}

impl Filter {
    /// Whether a record is wanted.
    fn wants(&self, line: &str) -> bool {
        let Self { sandbox, event, verdict } = self;
        if sandbox.is_none() && event.is_none() && verdict.is_none() {
            return true;
        }
        serde_json::from_str(line).is_ok_and(|record: Recorded| {
            (sandbox.is_none() || *sandbox == record.sandbox)
                && (event.is_none() || *event == record.event)
                && (verdict.is_none() || *verdict == record.verdict)
        })
    }
}

/// Audit records as they are written, one an event.
struct Followed {
    lines: Receiver<Arc<str>>,
    filter: Filter,
}

impl Followed {
    /// The next record that is wanted. Who reads too slowly loses some, and is told how many.
    async fn next(&mut self) -> Option<Event> {
        loop {
            match self.lines.recv().await {
                Ok(line) if !self.filter.wants(&line) => {}
                Ok(line) => return Some(Event::default().data(&*line)),
                Err(RecvError::Lagged(missed)) => {
                    return Some(Event::default().event("missed").data(missed.to_string()));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl IntoResponse for Followed {
    fn into_response(self) -> Response {
        let events = stream::unfold(self, |mut followed| async {
            let event = followed.next().await?;
            Some((Ok::<_, Infallible>(event), followed))
        });
        Sse::new(events).keep_alive(KeepAlive::default()).into_response()
    }
}

impl Output for Followed {
    fn describe(operation: &mut Operation<'_>) {
        let about = "Audit records, one an event; `missed` tells how many were lost on who reads too slowly.";
        let schema = json!({ "type": "string", "description": about });
        operation.answer(StatusCode::OK, "text/event-stream", schema, &[]);
    }
}

async fn events<A: Act>(State(act): State<Arc<A>>, Asked(filter): Asked<Filter>) -> Followed {
    Followed { lines: act.events(), filter }
}

/// Counters as Prometheus reads them.
struct Counters(String);

impl Counters {
    const MEDIA: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
}

impl IntoResponse for Counters {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, Self::MEDIA)], self.0).into_response()
    }
}

impl Output for Counters {
    fn describe(operation: &mut Operation<'_>) {
        operation.answer(StatusCode::OK, Self::MEDIA, json!({ "type": "string" }), &[]);
    }
}

/// The public keys, for whoever verifies the tokens of a `forwardURL`: a form that is not ours to describe.
async fn jwks<A: Act>(State(act): State<Arc<A>>) -> Response {
    match act.jwks() {
        Some(keys) => ([(header::CACHE_CONTROL, "public, max-age=300")], Json(keys)).into_response(),
        None => Refused::from(Refusal::Unknown).into_response(),
    }
}

async fn metrics<A: Act>(State(act): State<Arc<A>>) -> Counters {
    Counters(act.metrics())
}

/// Text: that all is well, or why not.
struct Health(Result<String, String>);

impl IntoResponse for Health {
    fn into_response(self) -> Response {
        match self.0 {
            Ok(text) => format!("{text}\n").into_response(),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
        }
    }
}

impl Output for Health {
    fn describe(operation: &mut Operation<'_>) {
        for status in [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE] {
            operation.answer(status, "text/plain", json!({ "type": "string" }), &[]);
        }
    }
}

async fn healthy() -> Health {
    Health(Ok("ok".to_owned()))
}

/// A secret that cannot be had keeps no sandbox from being registered: it is told, a line each.
async fn ready<A: Act>(State(act): State<Arc<A>>) -> Health {
    Health(act.ready().map(|()| {
        let secrets = act.secrets();
        std::iter::once("ready".to_owned())
            .chain(secrets.iter().map(SecretView::to_string))
            .collect::<Vec<_>>()
            .join("\n")
    }))
}

async fn user() -> Json<UserForm> {
    Json(UserForm::LOCAL)
}

async fn team(_: Whatever) -> Json<Team> {
    Json(Team::LOCAL)
}

async fn project(_: Whatever) -> Json<Project> {
    Json(Project::LOCAL)
}
