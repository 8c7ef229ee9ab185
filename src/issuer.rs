//! Who vouches for a sandbox to the host that a `forwardURL` names (POLICY §6): RS256 keys, the tokens that they sign,
//! and the public keys as an issuer publishes them.
//!
//! It never decides that a request is forwarded, sends nothing and stores nothing: whoever keeps its keys says when
//! they are kept.
//!
//! - `INVARIANT`: a key signs only after [`Issuer::adopt`], so after it was kept, and [`limits::ISSUER_KEY_LIFE`] after
//!   it was first published (the very first key excepted).
//! - `INVARIANT`: a public key is published until every token that it signed has expired, whatever a verifier's clock.
//! - `INVARIANT`: a token is valid for [`limits::TOKEN_LIFE`] from when it was signed, and used for half of that.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::jws::{self, encoded};
use crate::limits;

/// How far a verifier's clock may be off.
const SKEW: Duration = Duration::from_secs(60);

/// The issuer of one daemon.
pub struct Issuer {
    url: String,
    keys: ArcSwap<Keys>,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

/// Keys in the order in which they sign; the last may not sign yet.
#[derive(Clone, Default)]
pub struct Keys(Vec<Arc<Key>>);

struct Key {
    pair: KeyPair,
    /// Its thumbprint (RFC 7638).
    id: String,
    modulus: String,
    /// From when on it signs, in seconds since 1970.
    from: u64,
}

/// A key as it is kept.
#[derive(Serialize, Deserialize)]
struct KeptKey {
    pkcs8: Vec<u8>,
    from: u64,
}

impl Issuer {
    /// The issuer whose URL this is, with the keys that [`Keys::to_bytes`] gave, if there are any. `clock` tells the
    /// time, now and whenever a token is signed. Before the first [`Self::adopt`] of a new issuer there is no token.
    ///
    /// # Errors
    /// What was kept are no keys.
    pub fn open(
        url: &str,
        kept: Option<&[u8]>,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Result<Self, IssuerError> {
        let keys = kept.map_or(Ok(Keys::default()), Keys::of_bytes)?;
        Ok(Self { url: url.to_owned(), keys: ArcSwap::from_pointee(keys), clock: Box::new(clock) })
    }

    /// The keys that there should be by now, if they are not those that there are: to be kept, and then adopted. It
    /// takes a processor's time: not for a thread that serves flows.
    ///
    /// # Errors
    /// A library failed.
    pub fn due(&self) -> Result<Option<Keys>, IssuerError> {
        let now = seconds((self.clock)());
        let Keys(before) = &**self.keys.load();
        let mut keys = before.clone();
        if keys.is_empty() {
            keys.push(Arc::new(Key::generate(now)?));
        }
        if keys.last().is_some_and(|last| last.from <= now) {
            keys.push(Arc::new(Key::generate(now + limits::ISSUER_KEY_LIFE.as_secs())?));
        }
        // What a key signed has expired some time after its successor began.
        let last_use = limits::TOKEN_LIFE + SKEW;
        while keys.get(1).is_some_and(|successor| successor.from + last_use.as_secs() < now) {
            keys.remove(0);
        }
        let same = keys.len() == before.len() && keys.iter().zip(before).all(|(one, other)| Arc::ptr_eq(one, other));
        Ok((!same).then_some(Keys(keys)))
    }

    /// Publishes keys, and signs with them.
    pub fn adopt(&self, keys: Keys) {
        self.keys.store(Arc::new(keys));
    }

    /// The public keys: a JWK Set (RFC 7517 §5).
    #[must_use]
    pub fn jwks(&self) -> Value {
        let Keys(keys) = &**self.keys.load();
        json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() })
    }

    /// A token about `subject` for `audience`, signed now (RFC 7519; RS256 of RFC 7518 §3.3).
    fn sign(&self, subject: &Subject, audience: &str) -> Result<(HeaderValue, SystemTime), IssuerError> {
        let signed_at = (self.clock)();
        let now = seconds(signed_at);
        let Keys(keys) = &**self.keys.load();
        let key = keys.iter().rev().find(|key| key.from <= now).ok_or(IssuerError::NoKey)?;
        let header = json!({ "alg": "RS256", "kid": key.id, "typ": "JWT" });
        let Subject { sandbox_id, sandbox_name, team_id, project_id } = subject;
        let claims = json!({
            "iss": self.url,
            "aud": audience,
            "iat": now,
            "nbf": now,
            "exp": now + limits::TOKEN_LIFE.as_secs(),
            "team_id": team_id,
            "project_id": project_id,
            "sandbox_id": sandbox_id,
            "sandbox_name": sandbox_name,
        });
        let token = jws::rs256(&key.pair, &header, &claims).ok_or(IssuerError::Library)?;
        let mut value = HeaderValue::from_str(&token).map_err(|_| IssuerError::Library)?;
        value.set_sensitive(true);
        Ok((value, signed_at))
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Keys {
    fn of_bytes(bytes: &[u8]) -> Result<Self, IssuerError> {
        let kept: Vec<KeptKey> = serde_json::from_slice(bytes).map_err(|_| IssuerError::Kept)?;
        let key = |kept: KeptKey| Key::read(&Zeroizing::new(kept.pkcs8), kept.from).map(Arc::new);
        kept.into_iter().map(key).collect::<Result<_, _>>().map(Self)
    }

    /// What is to be kept, sealed, for [`Issuer::open`].
    ///
    /// # Errors
    /// A library failed.
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, IssuerError> {
        let kept = |key: &Arc<Key>| {
            let pkcs8 = key.pair.as_der().map_err(|_| IssuerError::Library)?;
            Ok(KeptKey { pkcs8: pkcs8.as_ref().to_vec(), from: key.from })
        };
        let kept = self.0.iter().map(kept).collect::<Result<Vec<_>, IssuerError>>()?;
        serde_json::to_vec(&kept).map(Zeroizing::new).map_err(|_| IssuerError::Library)
    }
}

impl Key {
    fn generate(from: u64) -> Result<Self, IssuerError> {
        Self::of_pair(KeyPair::generate(KeySize::Rsa2048).map_err(|_| IssuerError::Library)?, from)
    }

    fn read(pkcs8: &[u8], from: u64) -> Result<Self, IssuerError> {
        Self::of_pair(KeyPair::from_pkcs8(pkcs8).map_err(|_| IssuerError::Kept)?, from)
    }

    fn of_pair(pair: KeyPair, from: u64) -> Result<Self, IssuerError> {
        /// What stands before and after the modulus in every `RSAPublicKey` (RFC 8017 §A.1.1) of 2048 bits and the
        /// exponent 65537.
        const BEFORE: [u8; 9] = [0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00];
        const AFTER: [u8; 5] = [0x02, 0x03, 0x01, 0x00, 0x01];
        let der = pair.public_key().as_ref();
        let modulus = der.strip_prefix(&BEFORE).and_then(|rest| rest.strip_suffix(&AFTER)).ok_or(IssuerError::Kept)?;
        let modulus = encoded(modulus);
        let members = format!("{{\"e\":\"{EXPONENT}\",\"kty\":\"RSA\",\"n\":\"{modulus}\"}}");
        let id = encoded(digest(&SHA256, members.as_bytes()));
        Ok(Self { pair, id, modulus, from })
    }

    fn jwk(&self) -> Value {
        json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.id, "n": self.modulus, "e": EXPONENT })
    }
}

/// 65537, as a JWK has it.
const EXPONENT: &str = "AQAB";

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whom tokens are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The session.
    pub sandbox_id: String,
    /// The sandbox.
    pub sandbox_name: String,
    /// Whose it is.
    pub team_id: String,
    /// What it belongs to.
    pub project_id: String,
}

/// The tokens of one sandbox, each signed once for many requests.
pub struct Tokens {
    issuer: Arc<Issuer>,
    subject: Subject,
    signed: Mutex<HashMap<String, (HeaderValue, SystemTime)>>,
}

impl Tokens {
    /// None yet.
    #[must_use]
    pub fn new(issuer: Arc<Issuer>, subject: Subject) -> Self {
        Self { issuer, subject, signed: Mutex::default() }
    }

    /// A token for `audience` that is valid for half of [`limits::TOKEN_LIFE`] at least.
    ///
    /// # Errors
    /// There is no key, or a library failed; then nothing may be sent.
    pub fn token(&self, audience: &str) -> Result<HeaderValue, IssuerError> {
        let now = (self.issuer.clock)();
        // A clock that was set back makes a token look like one of the future: it is signed anew.
        let fresh = |at: &SystemTime| now.duration_since(*at).is_ok_and(|age| age < limits::TOKEN_LIFE / 2);
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((value, _)) = signed.get(audience).filter(|(_, at)| fresh(at)) {
            return Ok(value.clone());
        }
        signed.retain(|_, (_, at)| fresh(at));
        let made = self.issuer.sign(&self.subject, audience)?;
        signed.insert(audience.to_owned(), made.clone());
        Ok(made.0)
    }
}

/// Why there is no token, or no issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum IssuerError {
    /// No key was adopted, or none signs yet.
    NoKey,
    /// What was kept is no key of ours.
    Kept,
    /// A library failed.
    Library,
}

impl fmt::Display for IssuerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoKey => "there is no key to sign a token with",
            Self::Kept => "the keys of the issuer cannot be read",
            Self::Library => "a key or a token could not be made",
        })
    }
}

impl std::error::Error for IssuerError {}
