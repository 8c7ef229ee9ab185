//! How a rule signs requests on their way out (`sign`): what is written, and nothing that is secret.
//!
//! Pure: keys are names of secrets here, and the signing itself is [`crate::secret::sign`]. A key that signs never goes
//! out: a placeholder of one is replaced nowhere, and what a request gets is worth nothing without it.

use http::HeaderName;
use http::header::AUTHORIZATION;

use crate::flow::{RequestHead, SecretName};

/// Carries the token of AWS's temporary credentials.
pub const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
/// What AWS's `Authorization` begins with.
pub const AWS_ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// How requests are signed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Signing {
    /// As AWS has it (Signature Version 4), in the place of the client's own signature.
    Aws(AwsSigning),
    /// With an HMAC over a text that is made of the request.
    Hmac(HmacSigning),
}

/// What a client signed with a placeholder is signed again with the key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AwsSigning {
    /// With what.
    pub keys: AwsKeys,
    /// Regions that may stand in the client's scope. Empty: all.
    pub regions: Vec<String>,
    /// Services that may. Empty: all.
    pub services: Vec<String>,
    /// Whether a request that is not signed with the placeholder goes on as it is.
    pub passes_others: bool,
}

/// The secrets that hold an AWS key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AwsKeys {
    /// One holds all of it, in the form that `credential_process` prints, so that its parts change at once.
    Whole(SecretName),
    /// One for each part.
    Parts {
        /// The key's id.
        access_key: SecretName,
        /// The key.
        secret_key: SecretName,
        /// The token of temporary credentials.
        session_token: Option<SecretName>,
    },
}

impl AwsKeys {
    /// The secret that holds the key's id.
    #[must_use]
    pub fn access_key(&self) -> &SecretName {
        match self {
            Self::Whole(name) | Self::Parts { access_key: name, .. } => name,
        }
    }

    /// The secret that holds the key.
    #[must_use]
    pub fn secret_key(&self) -> &SecretName {
        match self {
            Self::Whole(name) | Self::Parts { secret_key: name, .. } => name,
        }
    }

    /// The secret that holds the token, if there may be one.
    #[must_use]
    pub fn session_token(&self) -> Option<&SecretName> {
        match self {
            Self::Whole(name) => Some(name),
            Self::Parts { session_token, .. } => session_token.as_ref(),
        }
    }
}

/// A header that holds the HMAC of a text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HmacSigning {
    /// The secret that is the key.
    pub key: SecretName,
    /// Over what hash.
    pub hash: HmacHash,
    /// The text.
    pub over: Vec<HmacPart>,
    /// The header: every copy that the sandbox sent goes.
    pub header: HeaderName,
    /// What stands before the code in it.
    pub prefix: String,
    /// How the code is written.
    pub encoding: HmacEncoding,
}

impl HmacSigning {
    /// Whether the body must be there as a whole before the head can go.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        self.over.iter().any(|part| matches!(part, HmacPart::Body | HmacPart::BodySha256))
    }
}

/// The hash of an HMAC (RFC 2104).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HmacHash {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// How an HMAC is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HmacEncoding {
    /// Lower-case hexadecimal.
    Hex,
    /// Base64 (RFC 4648 §4).
    Base64,
}

/// A part of the text that an HMAC is made over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HmacPart {
    /// As it stands.
    Literal(String),
    /// The method.
    Method,
    /// The path.
    Path,
    /// The query, without its `?`; empty if there is none.
    Query,
    /// Path and query as they are sent.
    Target,
    /// The name, and the port if the client gave one.
    Host,
    /// The one value of a header.
    Header(HeaderName),
    /// The body.
    Body,
    /// The SHA-256 of the body, in hexadecimal.
    BodySha256,
}

impl Signing {
    /// The key that it is written under.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Aws(_) => "aws",
            Self::Hmac(_) => "hmac",
        }
    }

    /// The secrets that sign.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        let names = match self {
            Self::Aws(AwsSigning { keys: AwsKeys::Whole(name), .. }) => [Some(name), None, None],
            Self::Aws(AwsSigning { keys: AwsKeys::Parts { access_key, secret_key, session_token }, .. }) => {
                [Some(access_key), Some(secret_key), session_token.as_ref()]
            }
            Self::Hmac(HmacSigning { key, .. }) => [Some(key), None, None],
        };
        names.into_iter().flatten()
    }

    /// The headers that it sets.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        static AWS: [HeaderName; 2] = [AUTHORIZATION, SECURITY_TOKEN];
        let names = match self {
            Self::Aws(AwsSigning { keys, .. }) if keys.session_token().is_some() => AWS.as_slice(),
            Self::Aws(_) => std::slice::from_ref(&AWS[0]),
            Self::Hmac(HmacSigning { header, .. }) => std::slice::from_ref(header),
        };
        names.iter()
    }

    /// Whether a placeholder in this header is for the signing to judge.
    pub(super) fn reads(&self, name: &HeaderName, head: &RequestHead<'_>) -> bool {
        match self {
            Self::Aws(_) => (*name == AUTHORIZATION && is_signed(head)) || *name == SECURITY_TOKEN,
            Self::Hmac(HmacSigning { header, .. }) => header == name,
        }
    }

    /// What of a query is not for the signing to judge.
    pub(super) fn rest_of_query<'a>(&self, query: &'a str) -> impl Iterator<Item = &'a str> {
        let presigns = matches!(self, Self::Aws(_)) && query_names(query).any(|name| name == "X-Amz-Signature");
        let ours = move |pair: &&str| {
            presigns && matches!(pair.split('=').next(), Some("X-Amz-Credential" | "X-Amz-Security-Token"))
        };
        query.split('&').filter(move |pair| !ours(pair))
    }
}

fn query_names(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter_map(|pair| pair.split('=').next())
}

/// Whether a request is signed as AWS has it, in its head.
fn is_signed(head: &RequestHead<'_>) -> bool {
    let mut values = head.headers.get_all(AUTHORIZATION).iter();
    values.all(|value| value.as_bytes().starts_with(AWS_ALGORITHM.as_bytes()))
}
