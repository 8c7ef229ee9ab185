//! The vocabulary of the data path: facts about one connection, no judgement.
//!
//! Everything here is a value that was checked when it was made, so that the layers above compare bytes and
//! never normalise again. This module never reads a socket, a clock or a file.
//!
//! - `INVARIANT`: a [`Domain`] is canonical (POLICY §2): lower-case ASCII A-labels, no trailing dot, no empty
//!   label, at most 253 bytes, never an IP literal in any notation.
//! - `INVARIANT`: a [`SandboxId`] is `[a-zA-Z0-9_-]{1,128}`, so it can stand unescaped in a record.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A canonical DNS name (POLICY §2). Cheap to clone; equality is byte equality.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Arc<str>);

impl Domain {
    /// Parses a name as a client or a policy spells it, and makes it canonical.
    ///
    /// # Errors
    /// Says which clause of POLICY §2 the text breaks.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        if text.is_empty() {
            return Err(DomainError::Empty);
        }
        let lower = idna::domain_to_ascii(text).map_err(|_| DomainError::Idna)?;
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        if name.len() > 253 {
            return Err(DomainError::TooLong);
        }
        Ok(Self(Arc::from(name)))
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels from left to right.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// Why a text is no [`Domain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DomainError {
    /// No text at all.
    Empty,
    /// More than 253 bytes, or a label over 63.
    TooLong,
    /// A byte or a label that IDNA (UTS 46) refuses.
    Idna,
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the name is empty",
            Self::TooLong => "the name is longer than 253 bytes, or one of its labels than 63",
            Self::Idna => "the name holds a character that no host name may hold",
        })
    }
}

impl std::error::Error for DomainError {}

/// Which sandbox; also its name in every record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SandboxId(Arc<str>);

impl SandboxId {
    /// Takes `[a-zA-Z0-9_-]{1,128}`; anything else is `None`.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        (!text.is_empty() && text.len() <= 128 && text.bytes().all(legal)).then(|| Self(Arc::from(text)))
    }

    /// The text it was made of.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name by which a policy refers to a secret: `[A-Za-z_][A-Za-z0-9_]{0,63}`. Never its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName(Arc<str>);

impl SecretName {
    /// Takes `[A-Za-z_][A-Za-z0-9_]{0,63}`; anything else is `None`.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        (first && text.len() <= 64 && text.bytes().all(legal)).then(|| Self(Arc::from(text)))
    }

    /// The text it was made of.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A flow's number within its sandbox, for joining records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

/// Where in the sandbox a flow came from. For records only: identity is the listener (HOUSE §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddr(pub SocketAddr);

/// The address that the sandbox dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OriginalDst(pub SocketAddr);

impl OriginalDst {
    /// The address without its port; a zone id is dropped (POLICY §3).
    #[must_use]
    pub fn ip(self) -> IpAddr {
        self.0.ip()
    }

    /// The port.
    #[must_use]
    pub fn port(self) -> u16 {
        self.0.port()
    }
}

/// One connection and what is known of it.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Its number.
    pub id: FlowId,
    /// Whose it is.
    pub sandbox: SandboxId,
    /// Where it came from.
    pub client: ClientAddr,
    /// Where it was going.
    pub dst: OriginalDst,
    /// What its first bytes said.
    pub seen: Seen,
}

/// What the peek learned from a flow's first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing was read: the verdict does not need it, or not yet.
    Unread,
    /// HTTP in clear: each request names its own authority.
    Http(HttpVersion),
    /// Neither TLS nor HTTP, or a client that waits for the server to speak.
    Opaque,
    /// A TLS ClientHello that was read to its end.
    Tls(Hello),
    /// TLS whose hello is broken, doubtful or too large (POLICY §4).
    Unreadable(HelloFault),
}

/// How cleartext HTTP began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// A request line.
    Http1,
    /// The HTTP/2 connection preface (prior knowledge, RFC 9113 §3.3).
    Http2,
}

/// What a TLS ClientHello says, as far as judging needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The server name (RFC 6066 §3), if one was sent.
    pub sni: Option<Domain>,
    /// The protocols that the client offers (RFC 7301).
    pub alpn: Vec<Alpn>,
    /// Whether `encrypted_client_hello` stands in it (real or GREASE: they look the same).
    pub ech: bool,
}

/// An ALPN protocol name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alpn {
    /// `http/1.1`
    Http1,
    /// `h2`
    Http2,
    /// Any other.
    Other(Vec<u8>),
}

/// Why a ClientHello cannot be trusted (POLICY §4: `unreadable-hello`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HelloFault {
    /// Not what RFC 8446 §4.1.2 or RFC 5246 §7.4.1.2 describe.
    Malformed,
    /// Over [`crate::limits::HELLO_BYTES`].
    TooLarge,
    /// The client stopped in its middle, or took longer than [`crate::limits::HELLO_TIME`].
    Incomplete,
    /// A server name that is doubtful: two names, a NUL, an IP literal, not a [`Domain`].
    BadName,
}

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Cleartext.
    Http,
    /// Inside TLS that we terminated.
    Https,
}

/// One request's head, after its authority was checked to be one (POLICY §3 "Authority").
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// Cleartext or terminated.
    pub scheme: Scheme,
    /// The one origin that SNI, `:authority`, `Host` and absolute form agree on.
    pub authority: &'a Domain,
    /// Where the connection was going.
    pub dst: OriginalDst,
    /// As sent; case matters.
    pub method: &'a str,
    /// As sent, without the query; begins with `/`, or is `*`.
    pub path: &'a str,
    /// As sent, without the `?`.
    pub query: Option<&'a str>,
    /// As sent.
    pub headers: &'a http::HeaderMap,
}
