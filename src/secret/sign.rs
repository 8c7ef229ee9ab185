//! Signatures over requests, made as they go out with keys that the sandbox does not hold.
//!
//! [`aws`] replaces a signature that a client made with a placeholder, [`chunks`] those within a body that is signed
//! piece by piece, [`hmac`] makes one of a rule's own. It never decides whether a request may be signed (the permit
//! says so) and never sends anything: it is told what goes out, and gives what is to be set.
//!
//! Over what goes out, and not over what came in: whatever changes a request on its way must come before.
//!
//! - `INVARIANT`: a key is never in what is given out; a key's id and token only in fields that are marked sensitive,
//!   or in the target of a URL that was signed.
//! - `INVARIANT`: nothing is signed that its client has not signed with the placeholder of the same key, byte for byte
//!   (but for [`hmac`], where the client signs nothing).

pub mod aws;
pub mod chunks;
pub mod hmac;

use std::fmt;

use http::{HeaderMap, HeaderName};

use aws_lc_rs::digest::{SHA256, digest};

use crate::flow::SecretName;
use crate::limits;

/// A request as it is signed.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a str,
    /// The path as it is sent.
    pub path: &'a str,
    /// The query as it is sent, without its `?`.
    pub query: Option<&'a str>,
    /// What `Host` or `:authority` says.
    pub host: &'a str,
    /// The fields. One of `Host` is not looked at.
    pub headers: &'a HeaderMap,
}

/// Why a request is not signed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignFault {
    /// It has no signature.
    Unsigned,
    /// It has several.
    Doubled,
    /// Its signature cannot be read: what of it.
    Malformed(&'static str),
    /// It is signed with another key than the placeholder.
    OtherKey,
    /// It is signed for a region that the rule does not name.
    Region(String),
    /// It is signed for a service that the rule does not name.
    Service(String),
    /// A header is signed, or to be signed, that is not sent on, or several times.
    Header(HeaderName),
    /// It has a session token that is not the placeholder.
    Token,
    /// Its body is signed in a way that is not known.
    Payload,
    /// The signature is another than that of this request.
    Wrong,
    /// A piece of its body is not signed, or wrongly.
    Chunk,
    /// A body that is signed as a whole, or a piece of one, is longer than may wait.
    TooLong,
    /// A key cannot be had.
    Missing(SecretName),
    /// What a secret holds is no key.
    NoKey(SecretName),
}

impl SignFault {
    /// Whether it is the operator's, and no fault of the request.
    #[must_use]
    pub fn is_of_the_key(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::NoKey(_))
    }
}

impl fmt::Display for SignFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned => f.write_str("the request is not signed, and the rule signs again what is"),
            Self::Doubled => f.write_str("the request is signed more than once"),
            Self::Malformed(what) => write!(f, "the request's signature cannot be read: {what}"),
            Self::OtherKey => f.write_str("the request is signed with another key than the placeholder"),
            Self::Region(region) => write!(f, "the rule signs for no region `{region}`"),
            Self::Service(service) => write!(f, "the rule signs for no service `{service}`"),
            Self::Header(name) => {
                write!(f, "the header `{name}` is to be signed, and is not sent on, or several times")
            }
            Self::Token => f.write_str("the request has a session token that is not the placeholder"),
            Self::Payload => f.write_str("the body is signed in a way that is not known here"),
            Self::Wrong => f.write_str("the signature is not that of this request by the placeholder"),
            Self::Chunk => f.write_str("a piece of the body is not signed with the placeholder"),
            Self::TooLong => {
                write!(
                    f,
                    "what is signed as a whole, a body or a piece of one, has {} bytes at most",
                    limits::SIGNED_BYTES
                )
            }
            Self::Missing(name) => write!(f, "the secret {} has no value", name.as_str()),
            Self::NoKey(name) => write!(f, "the value of the secret {} is no key", name.as_str()),
        }
    }
}

impl std::error::Error for SignFault {}

/// The SHA-256 of some bytes, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The one value of a header; `None` if there is none, or it is no text.
fn sole<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, SignFault> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(SignFault::Doubled);
    }
    first.map(|value| value.to_str().map_err(|_| SignFault::Malformed("it holds more than ASCII"))).transpose()
}
