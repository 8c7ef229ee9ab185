//! The vocabulary of the data path: facts about one connection, no judgement.
//!
//! Everything here is a value that was checked when it was made, so that the layers above compare bytes and
//! never normalise again. This module never reads a socket, a clock or a file.
//!
//! - `INVARIANT`: a [`Domain`] is canonical (POLICY §2): lower-case ASCII A-labels, no trailing dot, no empty
//!   label, at most 253 bytes, never an IP literal in any notation.
//! - `INVARIANT`: a [`SandboxId`] is `[a-zA-Z0-9_-]{1,128}`, so it can stand unescaped in a record.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// A canonical DNS name (POLICY §2). Cheap to clone; equality is byte equality.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Arc<str>);

impl Domain {
    /// Parses a name as a client or a policy spells it, and makes it canonical: case, U-labels, one trailing dot.
    ///
    /// # Errors
    /// Says which clause of POLICY §2 the text breaks.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        // A name of 253 bytes cannot take more than four bytes a character to spell; beyond, IDNA is not even tried.
        if text.len() > 4 * NAME_BYTES {
            return Err(DomainError::TooLong);
        }
        let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if inside.parse::<Ipv6Addr>().is_ok() {
            return Err(DomainError::IpLiteral);
        }
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY)
            .map_err(|_| DomainError::BadCharacter)?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        check_labels(name)?;
        if ends_in_number(name) {
            return Err(DomainError::IpLiteral);
        }
        Ok(Self(Arc::from(name)))
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether DNS does not serve it, whatever a policy says (POLICY §5): a single label, a special-use name (RFC 6761,
    /// 6762, 7686, 9476; `arpa` wholly, so reverse look-ups and RFC 7050 and 9462 discovery, too), or the canary of
    /// application DNS.
    #[must_use]
    pub fn is_special_use(&self) -> bool {
        let Some((rest, top)) = self.0.rsplit_once('.') else { return true };
        let canary = top == "net" && (rest == "use-application-dns" || rest.ends_with(".use-application-dns"));
        canary || matches!(top, "alt" | "arpa" | "invalid" | "local" | "localhost" | "onion" | "test")
    }

    /// The labels from left to right.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

/// Bytes of a name without its trailing dot (RFC 1035 §2.3.4).
const NAME_BYTES: usize = 253;
/// Bytes of a label (RFC 1035 §2.3.4).
const LABEL_BYTES: usize = 63;

/// Lengths and characters. Letters, digits, `-` and `_` anywhere in a label: names in use begin and end with
/// either, and equality of bytes is all that judging needs.
fn check_labels(name: &str) -> Result<(), DomainError> {
    if name.is_empty() {
        return Err(DomainError::Empty);
    }
    if name.len() > NAME_BYTES {
        return Err(DomainError::TooLong);
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(DomainError::EmptyLabel);
        }
        if label.len() > LABEL_BYTES {
            return Err(DomainError::TooLong);
        }
        if !label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')) {
            return Err(DomainError::BadCharacter);
        }
    }
    Ok(())
}

/// Whether some resolver would take the name for an IPv4 address: its last label is a number, in decimal, octal or
/// hexadecimal (`127.1`, `0177.0.0.1`, `0x7f.1`, `2130706433`; WHATWG URL, "ends in a number"). No top-level domain
/// is one.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    hexadecimal || last.bytes().all(|b| b.is_ascii_digit())
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
    /// No text at all, or the root alone.
    Empty,
    /// Two dots in a row, or a leading one.
    EmptyLabel,
    /// More than 253 bytes, or a label over 63.
    TooLong,
    /// A character that IDNA (UTS 46) or host names do not know.
    BadCharacter,
    /// An IP address in some notation.
    IpLiteral,
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the name is empty",
            Self::EmptyLabel => "the name has an empty label (two dots in a row, or a leading one)",
            Self::TooLong => "the name is longer than 253 bytes, or one of its labels than 63",
            Self::BadCharacter => "the name holds a character that no host name may hold",
            Self::IpLiteral => "this is an IP address, not a name",
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

    /// The one that a policy's test cases are judged in.
    pub(crate) fn of_cases() -> Self {
        Self(Arc::from("cases"))
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// The names that its original destination was answered for in this sandbox, oldest first (row 7 of POLICY §3);
    /// looked up for an opaque flow alone.
    pub pinned: Vec<Domain>,
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

impl Alpn {
    /// As it stands on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
            Self::Other(name) => name,
        }
    }
}

impl From<&[u8]> for Alpn {
    fn from(name: &[u8]) -> Self {
        match name {
            b"http/1.1" => Self::Http1,
            b"h2" => Self::Http2,
            other => Self::Other(other.to_vec()),
        }
    }
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

/// One request's head, after its authority was checked to be one at most (POLICY §3 "Authority").
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// Cleartext or terminated.
    pub scheme: Scheme,
    /// The one origin that SNI, `:authority`, `Host` and absolute form agree on; `None` where cleartext names none
    /// (HTTP/1.0, an empty `Host`) or an IP literal: then rows 8 and 9 of POLICY §3 decide.
    pub authority: Option<&'a Domain>,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> Result<String, DomainError> {
        Domain::parse(text).map(|name| name.as_str().to_owned())
    }

    #[test]
    fn a_domain_is_canonical_at_birth() {
        for (spelled, name) in [
            ("GitHub.com", "github.com"),
            ("github.com.", "github.com"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("ｇｉｔｈｕｂ。com", "github.com"),
            ("git\u{ad}hub.com", "github.com"),
            ("r3---sn-5uaeznse.googlevideo.com", "r3---sn-5uaeznse.googlevideo.com"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(canonical(spelled).as_deref(), Ok(name), "{spelled}");
        }
    }

    #[test]
    fn an_ip_literal_in_any_notation_is_no_domain() {
        for text in [
            "127.0.0.1",
            "0177.0.0.1",
            "0x7f.1",
            "0x7F000001",
            "2130706433",
            "127.1",
            "1.2.3.4.",
            "[::1]",
            "::1",
            "fe80::1",
            "１２７.0.0.1",
            "0x",
            "example.1",
        ] {
            assert_eq!(canonical(text), Err(DomainError::IpLiteral), "{text}");
        }
        assert!(canonical("1.2.3.4.example").is_ok());
        assert!(canonical("1password.com").is_ok());
        assert!(canonical("fe80::1%eth0").is_err());
    }

    #[test]
    fn what_dns_cannot_hold_is_no_domain() {
        let long_label = format!("{}.com", "a".repeat(64));
        let long_name = format!("{}com", "abcdefghi.".repeat(26));
        let fits = format!("{}com", "abcdefghi.".repeat(25));
        assert_eq!(canonical(""), Err(DomainError::Empty));
        assert_eq!(canonical("."), Err(DomainError::Empty));
        for text in ["a..b", ".a", "a.."] {
            assert_eq!(canonical(text), Err(DomainError::EmptyLabel), "{text}");
        }
        assert_eq!(canonical(&long_label), Err(DomainError::TooLong));
        assert_eq!(canonical(&long_name), Err(DomainError::TooLong));
        assert_eq!(canonical(&"a".repeat(100_000)), Err(DomainError::TooLong));
        assert!(canonical(&fits).is_ok());
        for text in [
            "a b",
            "evil.test\0.allowed.test",
            "a/b",
            "a@b",
            "a:443",
            "*.a",
            "a%2eb",
            "a,b",
            "xn--a-ecp",
            "[evil.test]",
            "[127.0.0.1]",
        ] {
            assert_eq!(canonical(text), Err(DomainError::BadCharacter), "{text}");
        }
    }

    #[test]
    fn identifiers_stand_unescaped_in_a_record() {
        assert!(SandboxId::new("run-7f3a").is_some());
        assert!(SecretName::new("GITHUB_2").is_some());
        for text in ["", "a b", "a\"b", "é", &"a".repeat(129)] {
            assert!(SandboxId::new(text).is_none(), "{text}");
            assert!(SecretName::new(text).is_none(), "{text}");
        }
        assert!(SecretName::new("2FA").is_none());
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(text in "\\PC{0,80}") {
            if let Ok(name) = Domain::parse(&text) {
                prop_assert_eq!(Domain::parse(name.as_str()), Ok(name));
            }
        }
    }
}
