//! A GitHub App: a token of one of its installations, for a token that the app signs about itself.
//!
//! The signed token begins a minute ago, for GitHub's clock may be behind ours, and ends in nine: GitHub takes none
//! that ends later than in ten. An installation's token is good for an hour, and says so.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rsa::KeyPair;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::web::{Ask, Hidden, field};
use super::{Fault, Given, World, lies};
use crate::jws;
use crate::limits;
use crate::policy::source::GithubAppSpec;

#[derive(Serialize)]
struct Wanted<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    repositories: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    permissions: BTreeMap<&'a str, &'a str>,
}

#[derive(Deserialize)]
struct Issued {
    token: Hidden,
    expires_at: String,
}

/// Asks for a token.
pub(super) async fn read<W: World>(spec: &GithubAppSpec, world: &W) -> Result<Given, Fault> {
    let GithubAppSpec { api, app_id, installation_id, private_key, repositories, permissions, ca } = spec;
    let key = lies("the app's key", private_key, world)?.expose(key).ok_or(Fault::Unfit("the app's key"))?;
    let signed = signed(app_id, &key, world.now()).ok_or(Fault::Unfit("the app's key"))?;
    let permissions = permissions.iter().map(|(name, level)| (name.as_str(), level.as_str())).collect();
    let path = format!("/app/installations/{installation_id}/access_tokens");
    let ask = Ask::new(Method::POST, api.beneath(&path), ca.as_ref())?
        .with(header::AUTHORIZATION, field("Bearer ", signed.as_bytes())?)
        .with(header::ACCEPT, HeaderValue::from_static("application/vnd.github+json"))
        .with(HeaderName::from_static("x-github-api-version"), HeaderValue::from_static("2022-11-28"))
        .saying(&Wanted { repositories, permissions })?;
    let reply = world.fetch(ask).await.map_err(Fault::Unreachable)?;
    match reply.status {
        StatusCode::CREATED => {}
        status @ (StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY) => {
            return Err(Fault::Refused("the app", status));
        }
        // 403 may be a bound on how often it is asked.
        status => return Err(Fault::Answered(status)),
    }
    let Issued { token, expires_at } = reply.read()?;
    let until = OffsetDateTime::parse(&expires_at, &Rfc3339).map_err(|_| Fault::Expired)?;
    let good_for = SystemTime::from(until).duration_since(world.now()).map_err(|_| Fault::Expired)?;
    Ok(Given { secret: token.into_secret(), good_for: Some(good_for), again: None })
}

fn signed(app_id: &str, key: &KeyPair, now: SystemTime) -> Option<Zeroizing<String>> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (from, to) = limits::GITHUB_TOKEN_TIMES;
    let claims = json!({ "iat": now.saturating_sub(from.as_secs()), "exp": now + to.as_secs(), "iss": app_id });
    jws::rs256(key, &json!({ "alg": "RS256", "typ": "JWT" }), &claims)
}

/// An RSA key in PEM, in the form that GitHub gives it (PKCS #1), or in PKCS #8.
fn key(pem: &[u8]) -> Option<KeyPair> {
    let der = Zeroizing::new(PrivateKeyDer::from_pem_slice(pem).ok()?);
    match &*der {
        PrivateKeyDer::Pkcs1(key) => KeyPair::from_der(key.secret_pkcs1_der()).ok(),
        PrivateKeyDer::Pkcs8(key) => KeyPair::from_pkcs8(key.secret_pkcs8_der()).ok(),
        _ => None,
    }
}
