//! Vault and OpenBao: a field of a secret of the KV store, version 2, over the documented HTTP API.
//!
//! What lets us in is a token. One that was given is looked up once, one that a login gave comes with its lease; either
//! is renewed when two thirds of its time are over, and where it cannot be, there is another login.
//!
//! It follows no redirection: a standby that does not forward requests is not the address to give.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::web::{Ask, Hidden, Reply, field};
use super::{Fault, Given, Secret, World, lies};
use crate::policy::source::{CredentialSpec, VaultAuth, VaultSpec};

const READING: &str = "the reading";
const LOGIN: &str = "the login";
const LOOKUP: &str = "the token";

/// What lets us in, for as long as it does.
pub(super) struct Session {
    token: Secret,
    until: Option<Instant>,
    renew_at: Option<Instant>,
    is_renewable: bool,
}

/// Reads the field.
pub(super) async fn read<W: World>(spec: &VaultSpec, session: &mut Option<Session>, world: &W) -> Result<Given, Fault> {
    let is_new = admit(spec, session, world).await?;
    let mut read = value(spec, session, world).await;
    // A token that was good may have been revoked: there is another, once.
    if !is_new && matches!(read, Err(Fault::Refused(READING, StatusCode::FORBIDDEN))) {
        *session = None;
        admit(spec, session, world).await?;
        read = value(spec, session, world).await;
    }
    if matches!(read, Err(Fault::Refused(..))) {
        *session = None;
    }
    let again = session.as_ref().and_then(|session| session.renew_at);
    read.map(|given| Given { again: again.map(|at| at.saturating_duration_since(Instant::now())), ..given })
}

/// Sees to a token that is good. Whether it is another than before.
async fn admit<W: World>(spec: &VaultSpec, session: &mut Option<Session>, world: &W) -> Result<bool, Fault> {
    let now = Instant::now();
    let given = match &spec.auth {
        VaultAuth::Token(token) => Some(lies("its token", token, world)?),
        VaultAuth::AppRole { .. } | VaultAuth::Kubernetes { .. } => None,
    };
    if let Some(held) = session {
        let is_same = given.as_ref().is_none_or(|given| given.expose(|one| held.token.expose(|other| one == other)));
        let is_good = is_same && held.until.is_none_or(|until| now < until);
        let is_due = held.renew_at.is_some_and(|at| at <= now);
        if is_good && !is_due {
            return Ok(false);
        }
        if is_good && held.is_renewable {
            match renewed(spec, held, world).await {
                // It can be renewed no more, or was revoked.
                Err(Fault::Refused(..)) => {}
                done => return done.map(|()| false),
            }
        } else if is_good && given.is_some() {
            // Nobody but who gave it can give another.
            held.renew_at = None;
            return Ok(false);
        }
    }
    *session = None;
    *session = Some(match given {
        Some(token) => looked_up(spec, token, world).await?,
        None => logged_in(spec, world).await?,
    });
    Ok(true)
}

#[derive(Deserialize)]
struct Authenticated {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: Hidden,
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct LookedUp {
    data: Lookup,
}

#[derive(Deserialize)]
struct Lookup {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

impl Session {
    /// Of a token that is good for so many seconds, or for ever, which is told as none.
    fn new(token: Secret, seconds: u64, is_renewable: bool) -> Self {
        let lease = (seconds > 0).then(|| Duration::from_secs(seconds));
        let now = Instant::now();
        let at = |time: Duration| now.checked_add(time);
        Self { token, until: lease.and_then(at), renew_at: lease.and_then(|lease| at(lease / 3 * 2)), is_renewable }
    }
}

async fn looked_up<W: World>(spec: &VaultSpec, token: Secret, world: &W) -> Result<Session, Fault> {
    let ask = ask(spec, Method::GET, "/v1/auth/token/lookup-self", Some(&token))?;
    let reply = told(LOOKUP, world.fetch(ask).await.map_err(Fault::Unreachable)?)?;
    let LookedUp { data: Lookup { ttl, renewable } } = reply.read()?;
    Ok(Session::new(token, ttl, renewable))
}

async fn renewed<W: World>(spec: &VaultSpec, session: &mut Session, world: &W) -> Result<(), Fault> {
    #[derive(Serialize)]
    struct Nothing {}
    let ask = ask(spec, Method::POST, "/v1/auth/token/renew-self", Some(&session.token))?.saying(&Nothing {})?;
    let reply = told(LOOKUP, world.fetch(ask).await.map_err(Fault::Unreachable)?)?;
    let Authenticated { auth: Auth { client_token, lease_duration, renewable } } = reply.read()?;
    *session = Session::new(client_token.into_secret(), lease_duration, renewable);
    Ok(())
}

async fn logged_in<W: World>(spec: &VaultSpec, world: &W) -> Result<Session, Fault> {
    #[derive(Serialize)]
    struct AppRole<'a> {
        role_id: &'a str,
        secret_id: &'a str,
    }
    #[derive(Serialize)]
    struct Kubernetes<'a> {
        role: &'a str,
        jwt: &'a str,
    }
    let login = |mount: String| ask(spec, Method::POST, &format!("/v1/auth/{mount}/login"), None);
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).map(zeroize::Zeroizing::new);
    let ask = match &spec.auth {
        VaultAuth::AppRole { mount, role_id, secret_id } => {
            let secret = lies("its secret id", secret_id, world)?.expose(text);
            let secret_id = secret.map_err(|_| Fault::Unfit("the secret id"))?;
            login(mount.encoded())?.saying(&AppRole { role_id, secret_id: &secret_id })?
        }
        VaultAuth::Kubernetes { mount, role, token } => {
            let token = CredentialSpec::File(token.clone());
            let jwt = lies("its service account's token", &token, world)?.expose(text);
            let jwt = jwt.map_err(|_| Fault::Unfit("the service account's token"))?;
            login(mount.encoded())?.saying(&Kubernetes { role, jwt: &jwt })?
        }
        // There is no login for it.
        VaultAuth::Token(_) => return Err(Fault::Garbled),
    };
    let reply = told(LOGIN, world.fetch(ask).await.map_err(Fault::Unreachable)?)?;
    let Authenticated { auth: Auth { client_token, lease_duration, renewable } } = reply.read()?;
    Ok(Session::new(client_token.into_secret(), lease_duration, renewable))
}

#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    data: Version<'a>,
}

#[derive(Deserialize)]
struct Version<'a> {
    /// Values as they are spelled, which copies none.
    #[serde(borrow)]
    data: HashMap<Cow<'a, str>, &'a RawValue>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    /// When this version goes, if it is to; else empty.
    #[serde(default)]
    deletion_time: String,
}

async fn value<W: World>(spec: &VaultSpec, session: &Option<Session>, world: &W) -> Result<Given, Fault> {
    let path = format!("/v1/{}/data/{}", spec.mount.encoded(), spec.path.encoded());
    let ask = ask(spec, Method::GET, &path, session.as_ref().map(|session| &session.token))?;
    let reply = told(READING, world.fetch(ask).await.map_err(Fault::Unreachable)?)?;
    let Stored { data: Version { data, metadata: Metadata { deletion_time } } } = reply.read()?;
    let field = data.get(spec.field.as_str()).ok_or(Fault::NoField)?;
    let text: Hidden = serde_json::from_str(field.get()).map_err(|_| Fault::NoField)?;
    let good_for = match deletion_time.as_str() {
        "" => None,
        // When it goes cannot be told, so it is gone.
        at => {
            let at = OffsetDateTime::parse(at, &Rfc3339).map_err(|_| Fault::Expired)?;
            let left = std::time::SystemTime::from(at).duration_since(world.now());
            Some(left.map_err(|_| Fault::Expired)?)
        }
    };
    Ok(Given { secret: text.into_secret(), good_for, again: None })
}

fn ask(spec: &VaultSpec, method: Method, path: &str, token: Option<&Secret>) -> Result<Ask, Fault> {
    let mut ask = Ask::new(method, spec.address.beneath(path), spec.ca.as_ref())?
        .with(HeaderName::from_static("x-vault-request"), HeaderValue::from_static("true"));
    if let Some(namespace) = &spec.namespace {
        let value = HeaderValue::from_str(namespace.as_str()).map_err(|_| Fault::Unfit("the namespace"))?;
        ask = ask.with(HeaderName::from_static("x-vault-namespace"), value);
    }
    if let Some(token) = token {
        ask = ask.with(HeaderName::from_static("x-vault-token"), token.expose(|token| field("", token))?);
    }
    Ok(ask)
}

/// What an answer is, if it is no refusal (the API's "HTTP status codes").
fn told(what: &'static str, reply: Reply) -> Result<Reply, Fault> {
    match reply.status {
        StatusCode::OK => Ok(reply),
        StatusCode::NOT_FOUND if what == READING => Err(Fault::Nothing),
        StatusCode::SERVICE_UNAVAILABLE => Err(Fault::Sealed),
        StatusCode::TOO_MANY_REQUESTS => Err(Fault::Answered(reply.status)),
        status if status.is_client_error() => Err(Fault::Refused(what, status)),
        status => Err(Fault::Answered(status)),
    }
}
