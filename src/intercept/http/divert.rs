//! A request on its way to a `forwardURL` (POLICY §6): whom it names now, and the headers that say where it was going.
//!
//! It never judges and never signs: the permit and the token come in.
//!
//! - `INVARIANT`: no request leaves with one of these headers from the sandbox, whatever becomes of it; nor does a
//!   trailer.

use std::sync::Arc;

use http::header::HeaderName;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

use super::authority::Authority;
use crate::issuer::Tokens;
use crate::policy::verdict::is_alike;
use crate::policy::verdict::{DenyReason, ForwardUrl};
use crate::secret::Secret;
use crate::secret::scrub::Scrubber;

const HOST: HeaderName = HeaderName::from_static("vercel-forwarded-host");
const SCHEME: HeaderName = HeaderName::from_static("vercel-forwarded-scheme");
const PORT: HeaderName = HeaderName::from_static("vercel-forwarded-port");
const PATH: HeaderName = HeaderName::from_static("vercel-forwarded-path");
const TOKEN: HeaderName = HeaderName::from_static("vercel-sandbox-oidc-token");
const OURS: [HeaderName; 5] = [HOST, SCHEME, PORT, PATH, TOKEN];
/// What all of them begin with.
const COMMON: &str = "vercel";

/// Whether a header is one of these, or one that a server may take for it.
pub(super) fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with(COMMON) && OURS.iter().any(|ours| is_alike(name, ours))
}

/// Takes away what only we may say.
pub(super) fn remove_forged(headers: &mut HeaderMap) {
    let forged: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
}

/// What is different about a request that goes elsewhere.
pub(super) struct Diverted {
    /// Whom it names on the way out.
    pub(super) authority: Authority,
    headers: [(HeaderName, HeaderValue); 5],
}

impl Diverted {
    /// Readies a request that named `asked` over TLS, at `port`.
    ///
    /// # Errors
    /// [`DenyReason::SecretUnavailable`] without a token, [`DenyReason::Limit`] where the path would be too long.
    pub(super) fn ready(
        url: &Arc<ForwardUrl>,
        asked: &Authority,
        port: u16,
        tokens: Option<&Tokens>,
    ) -> Result<Self, DenyReason> {
        let token = tokens.and_then(|tokens| tokens.token(url.audience()).ok()).ok_or(DenyReason::SecretUnavailable)?;
        let name = asked.name.as_ref().ok_or(DenyReason::NoName)?;
        let host = match url.port {
            443 => url.host.to_string(),
            port => format!("{}:{port}", url.host),
        };
        let target = asked.target.as_str();
        let target = PathAndQuery::try_from(format!("{}{target}", url.prefix)).map_err(|_| DenyReason::Limit)?;
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| DenyReason::MalformedRequest);
        Ok(Self {
            headers: [
                (HOST, value(name.as_str())?),
                (SCHEME, HeaderValue::from_static("https")),
                (PORT, HeaderValue::from(port)),
                (PATH, value(asked.target.as_str())?),
                (TOKEN, token),
            ],
            authority: Authority { name: Some(url.host.clone()), host: Some(value(&host)?), target },
        })
    }

    /// What reads the answer, for it may hold the token (POLICY §6).
    pub(super) fn scrubber(&self) -> Arc<Scrubber> {
        let [.., (_, token)] = &self.headers;
        Arc::new(Scrubber::new([&Secret::new(Zeroizing::new(token.as_bytes().to_vec()))]))
    }

    /// Sets the headers; the sandbox's own were [removed](remove_forged).
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
    }
}
