//! OAuth 2.0: an access token for a client's own secret (RFC 6749 §4.4), or for a refresh token (§6).
//!
//! A server may give another refresh token with each answer; it is kept in memory alone, so that after a start the one
//! that the settings name must be good still. One that the server refuses is forgotten, and the one of the settings is
//! tried again.

use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, header};
use serde::Deserialize;

use super::web::{Ask, Hidden, Reply, basic, form};
use super::{Fault, Given, Secret, World, lies};
use crate::policy::source::{OAuth2Grant, OAuth2Spec};

/// Why a server gives no token (RFC 6749 §5.2). Anything else that it says is not repeated.
const REASONS: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

#[derive(Deserialize)]
struct Issued {
    access_token: Hidden,
    token_type: String,
    expires_in: Option<u64>,
    refresh_token: Option<Hidden>,
}

#[derive(Deserialize)]
struct Denied {
    error: String,
}

/// Asks for a token. `rotated` is the last refresh token that the server gave.
pub(super) async fn read<W: World>(spec: &OAuth2Spec, rotated: &mut Option<Secret>, world: &W) -> Result<Given, Fault> {
    let reply = world.fetch(ask(spec, rotated.as_ref(), world)?).await.map_err(Fault::Unreachable)?;
    if reply.status != StatusCode::OK {
        let fault = denied(&reply);
        if matches!(fault, Fault::Denied("invalid_grant")) {
            *rotated = None;
        }
        return Err(fault);
    }
    let Issued { access_token, token_type, expires_in, refresh_token } = reply.read()?;
    if !token_type.eq_ignore_ascii_case("bearer") {
        return Err(Fault::Garbled);
    }
    if let Some(token) = refresh_token {
        *rotated = Some(token.into_secret());
    }
    let good_for = expires_in.map(Duration::from_secs);
    Ok(Given { secret: access_token.into_secret(), good_for, again: None })
}

fn ask<W: World>(spec: &OAuth2Spec, rotated: Option<&Secret>, world: &W) -> Result<Ask, Fault> {
    let OAuth2Spec { token_url, client_id, grant, by_body, scopes, audience, ca } = spec;
    let secret = grant.secret().map(|secret| lies("the client's secret", secret, world)).transpose()?;
    let first = match grant {
        OAuth2Grant::Refresh { token, .. } if rotated.is_none() => Some(lies("its refresh token", token, world)?),
        OAuth2Grant::Refresh { .. } | OAuth2Grant::Client { .. } => None,
    };
    let scope = scopes.join(" ");
    let mut pairs: Vec<(&str, &[u8])> = Vec::new();
    let refresh = match grant {
        OAuth2Grant::Client { .. } => None,
        OAuth2Grant::Refresh { .. } => rotated.or(first.as_ref()),
    };
    pairs.push(("grant_type", if refresh.is_some() { b"refresh_token" } else { b"client_credentials" }));
    if !scope.is_empty() {
        pairs.push(("scope", scope.as_bytes()));
    }
    if let Some(audience) = audience {
        pairs.push(("audience", audience.as_bytes()));
    }
    let mut ask = Ask::new(Method::POST, Some(token_url.uri().clone()), ca.as_ref())?;
    // A client without a secret says who it is in the body (RFC 6749 §3.2.1).
    if *by_body || secret.is_none() {
        pairs.push(("client_id", client_id.as_bytes()));
    } else if let Some(secret) = &secret {
        ask = ask.with(header::AUTHORIZATION, secret.expose(|secret| basic(client_id, secret))?);
    }
    ask.body = exposed(refresh, |refresh| {
        exposed(secret.as_ref().filter(|_| *by_body), |secret| {
            let mut all: Vec<(&str, &[u8])> = pairs.clone();
            all.extend(refresh.map(|token| ("refresh_token", token)));
            all.extend(secret.map(|secret| ("client_secret", secret)));
            form(&all)
        })
    });
    Ok(ask.with(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")))
}

fn exposed<R>(secret: Option<&Secret>, f: impl FnOnce(Option<&[u8]>) -> R) -> R {
    match secret {
        Some(secret) => secret.expose(|bytes| f(Some(bytes))),
        None => f(None),
    }
}

fn denied(reply: &Reply) -> Fault {
    let said = reply.read::<Denied>().ok();
    let reason = said.and_then(|Denied { error }| REASONS.iter().find(|reason| **reason == error));
    match reason {
        Some(reason) if reply.status.is_client_error() => Fault::Denied(reason),
        _ => Fault::Answered(reply.status),
    }
}
