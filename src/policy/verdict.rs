//! Judgements as values: [`Verdict`], [`Permit`], [`Denial`], and the reasons behind them.
//!
//! The security argument is carried by types (HOUSE §3): only [`crate::policy`] makes a [`Permit`], only
//! [`crate::policy::Policy::vet`] makes a [`DialAddr`], and `intercept::upstream` dials nothing else.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use http::HeaderName;

use super::diagnostic::{carries_credentials, looks_like_credential};
use super::placeholder::{Places, StandIn};
use super::signing::Signing;
use crate::flow::{Domain, SecretName};
use crate::matcher::path::fully_decoded;

/// A policy's answer. There is no third arm and no default (HOUSE habit 4).
#[derive(Debug, Clone)]
#[must_use]
pub enum Verdict<T> {
    /// Allowed; the value is what allows the next step.
    Allow(T),
    /// Refused, and why.
    Deny(Denial),
}

impl<T> Verdict<T> {
    /// Applies `f` to what an allowing verdict carries.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Verdict<U> {
        match self {
            Self::Allow(value) => Verdict::Allow(f(value)),
            Self::Deny(denial) => Verdict::Deny(denial),
        }
    }
}

/// A refusal: why, and by which rule of which revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// One of the closed set.
    pub reason: DenyReason,
    /// What decided.
    pub basis: Basis,
}

/// The closed set of reasons (POLICY §7): one variant, one stable string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DenyReason {
    /// The address lies in `subnets.deny` (row 1).
    DeniedCidr,
    /// The address lies in a protected range (row 2).
    ProtectedRange,
    /// The policy allows nothing (row 3).
    DenyAll,
    /// The name matches `deny` (row 5).
    DeniedDomain,
    /// The name matches nothing (row 9).
    NoRule,
    /// No name, and nothing allows the address (row 9).
    NoName,
    /// SNI, `:authority`, `Host` and absolute form disagree.
    AuthorityMismatch,
    /// The path's readings would be claimed by different rules.
    AmbiguousPath,
    /// A credential would have gone out in clear.
    PlaintextInjection,
    /// Terminated, or on port 80 or 443, and not HTTP.
    NotHttp,
    /// A placeholder where it may not go.
    PlaceholderMisdirected,
    /// The request cannot be framed without doubt.
    MalformedRequest,
    /// The ClientHello is broken, doubtful or too large.
    UnreadableHello,
    /// The flow was going to our own listener.
    Loop,
    /// Not signed with the placeholder, where a rule signs again what is.
    SignatureRefused,
    /// A secret's value cannot be had.
    SecretUnavailable,
    /// Too many leaves asked for.
    MintBudget,
    /// One of [`crate::limits`] was met.
    Limit,
    /// A change of policy ended it.
    Revoked,
}

impl DenyReason {
    /// Every reason.
    pub const ALL: [Self; 19] = [
        Self::DeniedCidr,
        Self::ProtectedRange,
        Self::DenyAll,
        Self::DeniedDomain,
        Self::NoRule,
        Self::NoName,
        Self::AuthorityMismatch,
        Self::AmbiguousPath,
        Self::PlaintextInjection,
        Self::NotHttp,
        Self::PlaceholderMisdirected,
        Self::MalformedRequest,
        Self::UnreadableHello,
        Self::Loop,
        Self::SignatureRefused,
        Self::SecretUnavailable,
        Self::MintBudget,
        Self::Limit,
        Self::Revoked,
    ];

    /// The string that response, DNS text, audit, metric and tests share.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeniedCidr => "denied-cidr",
            Self::ProtectedRange => "protected-range",
            Self::DenyAll => "deny-all",
            Self::DeniedDomain => "denied-domain",
            Self::NoRule => "no-rule",
            Self::NoName => "no-name",
            Self::AuthorityMismatch => "authority-mismatch",
            Self::AmbiguousPath => "ambiguous-path",
            Self::PlaintextInjection => "plaintext-injection",
            Self::NotHttp => "not-http",
            Self::PlaceholderMisdirected => "placeholder-misdirected",
            Self::MalformedRequest => "malformed-request",
            Self::UnreadableHello => "unreadable-hello",
            Self::Loop => "loop",
            Self::SignatureRefused => "signature-refused",
            Self::SecretUnavailable => "secret-unavailable",
            Self::MintBudget => "mint-budget",
            Self::Limit => "limit",
            Self::Revoked => "revoked",
        }
    }

    /// The HTTP status of POLICY §7; `None` where no HTTP answer is possible.
    #[must_use]
    pub fn status(self) -> Option<http::StatusCode> {
        use http::StatusCode as S;
        match self {
            Self::DeniedCidr
            | Self::ProtectedRange
            | Self::DenyAll
            | Self::DeniedDomain
            | Self::NoRule
            | Self::NoName
            | Self::AmbiguousPath
            | Self::PlaintextInjection
            | Self::NotHttp
            | Self::PlaceholderMisdirected
            | Self::SignatureRefused => Some(S::FORBIDDEN),
            Self::AuthorityMismatch => Some(S::MISDIRECTED_REQUEST),
            Self::MalformedRequest => Some(S::BAD_REQUEST),
            Self::SecretUnavailable | Self::MintBudget => Some(S::SERVICE_UNAVAILABLE),
            Self::Limit => Some(S::TOO_MANY_REQUESTS),
            Self::UnreadableHello | Self::Loop | Self::Revoked => None,
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Rule and revision behind a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    /// The line that decided; `None` where the absence of a rule did.
    pub rule: Option<RuleId>,
    /// Of which compiled policy.
    pub revision: Revision,
}

/// Where a rule stands: `FILE:LINE`, or `--allow example.com` for a flag. Its `Display` is what users read.
///
/// One of each pattern and range is kept, so it is small: the file's name is shared.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RuleId {
    source: Arc<str>,
    line: Option<NonZeroU32>,
}

impl RuleId {
    /// A line of a file, from 1.
    pub(crate) fn in_file(source: &Arc<str>, line: usize) -> Self {
        let line = u32::try_from(line).ok().and_then(NonZeroU32::new);
        Self { source: Arc::clone(source), line }
    }

    /// A place that has no lines, such as a flag.
    pub(crate) fn of_flag(text: &str) -> Self {
        Self { source: Arc::from(text), line: None }
    }

    /// The file, or the flag.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The line of the file, from 1; `None` for a flag.
    #[must_use]
    pub fn line(&self) -> Option<u32> {
        self.line.map(NonZeroU32::get)
    }
}

impl fmt::Debug for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

impl serde::Serialize for RuleId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A hash of a policy's compiled content (POLICY §1): equal policies, equal revisions. Its `Display` is the first
/// eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Revision(pub(crate) [u8; 32]);

impl Revision {
    /// All of it, in hexadecimal.
    #[must_use]
    pub fn in_full(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What an allowed flow may do next.
#[derive(Debug, Clone)]
pub enum Route {
    /// Relay unread: to the very address that the sandbox dialled (rows 4 and 8), or to a vetted address of the name
    /// that it is pinned to (row 7).
    Relay(Permit),
    /// Relay unread TLS to a vetted address of the name (row 6).
    Splice(Permit),
    /// Judge each request: end TLS here, or read the cleartext HTTP (row 6).
    Terminate(Basis),
}

/// `route` of POLICY §10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteTaken {
    /// TLS relayed unread.
    Splice,
    /// A request sent upstream.
    Terminate,
    /// Bytes relayed to the original destination.
    Relay,
    /// A request answered here.
    Respond,
    /// A request sent to a `forwardURL`.
    Forward,
}

impl RouteTaken {
    /// The stable string.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Splice => "splice",
            Self::Terminate => "terminate",
            Self::Relay => "relay",
            Self::Respond => "respond",
            Self::Forward => "forward",
        }
    }
}

/// What an allowed request may do next.
#[derive(Debug, Clone)]
pub enum Action {
    /// Send it upstream under this permit.
    Forward(Permit),
    /// Answer it here; nobody is contacted.
    Respond(Arc<LocalResponse>, Basis),
    /// Send it to this URL instead, under a permit for the URL's host (POLICY §6).
    Divert(Arc<ForwardUrl>, Permit),
}

/// Leave to contact one target. Made only by [`crate::policy`].
#[derive(Debug, Clone)]
pub struct Permit {
    pub(super) target: Target,
    pub(super) basis: Basis,
    /// `None` for most, so that they share nothing that is counted.
    pub(super) injections: Option<Arc<[Injection]>>,
    pub(super) observed: Option<DenyReason>,
    pub(super) is_brokered: bool,
    /// The secrets whose placeholders may be replaced in what is sent.
    pub(super) stand_ins: Vec<Arc<StandIn>>,
    /// Where, beside headers.
    pub(super) places: Places,
    /// The query with its secrets by name, where it has placeholders.
    pub(super) query: Option<Text>,
    /// How it is signed at last.
    pub(super) signing: Option<Arc<Signing>>,
}

impl Permit {
    /// Whom it lets us contact.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What decided.
    #[must_use]
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// Headers to set on the way out; empty for what is relayed unread.
    #[must_use]
    pub fn injections(&self) -> &[Injection] {
        self.injections.as_deref().unwrap_or_default()
    }

    /// The same, to be kept: requests with different ones share no upstream connection (POLICY §8).
    #[must_use]
    pub fn credentials(&self) -> Arc<[Injection]> {
        self.injections.clone().unwrap_or_default()
    }

    /// How it is signed when nothing of it changes any more; `None` if it is not.
    #[must_use]
    pub fn signing(&self) -> Option<&Arc<Signing>> {
        self.signing.as_ref()
    }

    /// Whether the origin is one that rules send headers to: what it answers may hold them, whether or not this very
    /// request was sent any.
    #[must_use]
    pub fn is_brokered(&self) -> bool {
        self.is_brokered
    }

    /// The secrets whose placeholders may be replaced in what is sent.
    pub fn stand_ins(&self) -> impl Iterator<Item = &StandIn> {
        self.stand_ins.iter().map(|stand_in| &**stand_in)
    }

    /// The query that is sent instead of the request's, secrets still by name; `None` if it goes as it is.
    #[must_use]
    pub fn query(&self) -> Option<&Text> {
        self.query.as_ref()
    }

    /// The secrets whose placeholders are replaced in the body.
    pub fn in_body(&self) -> impl Iterator<Item = &SecretName> {
        self.stand_ins().filter(|_| self.places.body).map(StandIn::secret)
    }

    /// The secrets that may be sent elsewhere than in headers: requests with different ones share no upstream
    /// connection (POLICY §8).
    #[must_use]
    pub fn lent(&self) -> Vec<SecretName> {
        let in_query = self.query.iter().flat_map(Text::secrets);
        let lent: BTreeSet<&SecretName> = in_query.chain(self.in_body()).collect();
        lent.into_iter().cloned().collect()
    }

    /// Under `observe`: the reason for which this would have been denied (POLICY §8).
    #[must_use]
    pub fn observed(&self) -> Option<DenyReason> {
        self.observed
    }
}

/// Whom a [`Permit`] lets us contact.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// Any vetted address of this name, at this port.
    Name(Domain, u16),
    /// This address and no other.
    Address(SocketAddr),
}

/// An address that was judged at the moment of dialling. Made only by [`crate::policy::Policy::vet`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialAddr {
    pub(super) addr: SocketAddr,
}

impl DialAddr {
    /// The address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// A header to set on a request (POLICY §3, `transform`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Injection {
    /// Its name, canonical.
    pub header: HeaderName,
    /// Its name as the policy spells it, for reading back (POLICY §9).
    pub spelled: Box<str>,
    /// Its value, secrets still by name.
    pub value: Template,
    /// Whether it gives way to one that the sandbox sent.
    pub yields: bool,
}

impl Injection {
    /// Whether it takes the place of a field of this name.
    pub fn replaces(&self, name: &HeaderName) -> bool {
        is_alike(&self.header, name)
    }

    /// The secrets in its value.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        self.value.secrets()
    }

    /// The words of its value that stand in the document itself and are credentials.
    pub(super) fn credentials(&self) -> impl Iterator<Item = &str> {
        let sole = match self.value.0.as_slice() {
            [Segment::Plain(Part::Literal(text))] if carries_credentials(self.header.as_str()) => {
                text.split_whitespace().next_back()
            }
            _ => None,
        };
        let literals = self.value.parts().filter_map(|part| match part {
            Part::Literal(text) => Some(text.split_whitespace()),
            Part::Secret(_) => None,
        });
        let sole = sole.or_else(|| self.value.password());
        literals.flatten().filter(|word| looks_like_credential(word)).chain(sole)
    }
}

/// Whether the names are the same, or differ by `_` for `-`, which many servers read as the same.
#[must_use]
pub fn is_alike(one: &HeaderName, other: &HeaderName) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    one.as_str().bytes().map(plain).eq(other.as_str().bytes().map(plain))
}

/// A header value with secrets by name: `Bearer ${secrets.GITHUB}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Template(pub Vec<Segment>);

impl Template {
    /// One of which nothing is encoded.
    #[must_use]
    pub fn plain(parts: Vec<Part>) -> Self {
        Self(parts.into_iter().map(Segment::Plain).collect())
    }

    /// Its parts, if nothing of it is encoded.
    pub(super) fn into_plain(self) -> Option<Vec<Part>> {
        let plain = |segment| match segment {
            Segment::Plain(part) => Some(part),
            Segment::Base64(_) => None,
        };
        self.0.into_iter().map(plain).collect()
    }

    /// The secrets in it.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        self.parts().filter_map(Part::secret)
    }

    /// Its parts, those that are encoded one by one.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.0.iter().flat_map(|segment| match segment {
            Segment::Plain(part) => std::slice::from_ref(part),
            Segment::Base64(parts) => parts.as_slice(),
        })
    }

    /// The password of `Basic`, if it stands in the document.
    fn password(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Segment::Plain(Part::Literal(_)), Segment::Base64(parts)] => match parts.as_slice() {
                [.., Part::Literal(colon), Part::Literal(password)] if colon == ":" => Some(password),
                _ => None,
            },
            _ => None,
        }
    }
}

/// A stretch of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    /// A part as it is.
    Plain(Part),
    /// The base64 (RFC 4648 §4) of all these together.
    Base64(Vec<Part>),
}

/// A text with secrets by name, of which nothing is encoded: the query that is sent instead of a request's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Text(pub Vec<Part>);

impl Text {
    /// The secrets in it.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        self.0.iter().filter_map(Part::secret)
    }
}

/// A part of a [`Text`] or of a [`Segment`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// Text as it stands.
    Literal(String),
    /// The value of a secret.
    Secret(SecretName),
}

impl Part {
    fn secret(&self) -> Option<&SecretName> {
        match self {
            Self::Literal(_) => None,
            Self::Secret(name) => Some(name),
        }
    }
}

/// Where a `forwardURL` rule sends requests (POLICY §6): https, without user info, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardUrl {
    /// As it is written; without a trailing slash it is the token's audience.
    pub text: String,
    /// Whom it names.
    pub host: Domain,
    /// 443 unless it says otherwise.
    pub port: u16,
    /// What goes before a request's own path: empty, or begins with `/` and does not end with it.
    pub prefix: String,
}

impl ForwardUrl {
    /// The audience of the token that goes along: the URL without a slash at its end.
    #[must_use]
    pub fn audience(&self) -> &str {
        self.text.trim_end_matches('/')
    }

    /// Whether a request's path, appended, may be read as one that is not beneath the URL: `/../x`, in some spelling.
    #[must_use]
    pub fn is_left_by(&self, path: &str) -> bool {
        if self.prefix.is_empty() {
            return false;
        }
        let (whole, prefix) = (format!("{}{path}", self.prefix), fully_decoded(&self.prefix));
        let decoded = fully_decoded(&whole);
        !decoded.strip_prefix(&*prefix).is_some_and(|rest| rest.starts_with(b"/"))
    }
}

/// What a `response` rule answers (POLICY §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalResponse {
    /// 200–599.
    pub status: http::StatusCode,
    /// Without framing or hop-by-hop headers; `content-type` included.
    pub headers: http::HeaderMap,
    /// At most [`crate::limits::RESPONSE_BODY_BYTES`].
    pub body: bytes::Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_a_place_and_a_revision_a_long_form() {
        let rule = RuleId::in_file(&Arc::from("p.yaml"), 7);
        assert_eq!((rule.source(), rule.line(), rule.to_string()), ("p.yaml", Some(7), "p.yaml:7".to_owned()));
        assert_eq!(RuleId::of_flag("--allow").line(), None);
        let revision = Revision(std::array::from_fn(|place| place as u8));
        assert_eq!(revision.to_string(), "0001020304050607");
        assert!(revision.in_full().starts_with("000102030405060708") && revision.in_full().ends_with("1e1f"));
    }

    #[test]
    fn names_that_servers_read_as_one_are_alike() {
        let alike = |one: &str, other: &str| is_alike(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(alike("x-api-key", "x_api_key") && alike("x_api-key", "x-api_key") && alike("x", "x"));
        assert!(!alike("x-api-key", "xapikey") && !alike("x-a", "x-b") && !alike("a_b", "a.b"));
    }

    fn credentials(header: &str, value: Vec<Segment>) -> Vec<String> {
        let header: HeaderName = header.parse().unwrap();
        let injection = Injection { spelled: header.as_str().into(), header, value: Template(value), yields: false };
        injection.credentials().map(str::to_owned).collect()
    }

    #[test]
    fn words_of_a_value_are_credentials_by_their_header_their_place_or_their_looks() {
        let literal = |text: &str| Part::Literal(text.to_owned());
        let secret = || Part::Secret(SecretName::new("KEY").unwrap());
        let plain = |text: &str| Segment::Plain(literal(text));
        let nothing: [&str; 0] = [];
        assert_eq!(credentials("authorization", vec![plain("Bearer word")]), ["word"]);
        assert_eq!(credentials("x-team", vec![plain("Bearer word")]), nothing);
        assert_eq!(credentials("authorization", vec![plain("Bearer "), Segment::Plain(secret())]), nothing);
        let looks = "ghp_0123456789abcdefghijABCDEFGHIJ012345";
        assert_eq!(credentials("x-team", vec![plain(&format!("is {looks} here"))]), [looks]);
        let basic = |parts: Vec<Part>| vec![plain("Basic "), Segment::Base64(parts)];
        let password = |colon| basic(vec![secret(), literal(colon), literal("hush")]);
        assert_eq!(credentials("authorization", password(":")), ["hush"]);
        assert_eq!(credentials("authorization", password("-")), nothing);
        assert_eq!(credentials("authorization", basic(vec![literal("git"), literal(":"), secret()])), nothing);
    }

    #[test]
    fn an_audience_ends_without_a_slash() {
        let url = |text: &str| {
            let host = Domain::parse("b.test").unwrap();
            ForwardUrl { text: text.to_owned(), host, port: 443, prefix: String::new() }
        };
        assert_eq!(url("https://b.test/").audience(), "https://b.test");
        assert_eq!(url("https://b.test/x").audience(), "https://b.test/x");
    }
}
