//! One question to a policy and what it comes to: what a case of `tests:` and `exeat explain` both ask.
//!
//! A [`Question`] is a connection that some program might open; [`Facts`] are the fields of the audit record that
//! would be written for it (POLICY §10). Nothing is resolved and nobody is contacted.
//!
//! `INVARIANT`: the target's bytes are judged as they are given; nothing normalises a path, a query or a header first.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::verdict::{Action, Basis, Denial, DenyReason, Permit, Route, RouteTaken, Verdict};
use super::{Policy, Protected};
use crate::flow::{
    Alpn, ClientAddr, Domain, DomainError, Flow, FlowId, Hello, HttpVersion, OriginalDst, RequestHead, SandboxId,
    Scheme, Seen,
};

/// A connection that a program in a sandbox might open, and the request it might send.
#[derive(Debug, Clone)]
pub struct Question {
    /// Without its headers and address.
    text: String,
    name: Option<Domain>,
    address: Option<IpAddr>,
    port: u16,
    /// `None` for a flow that is neither TLS nor HTTP.
    asked: Option<Asked>,
}

/// The request of a [`Question`].
#[derive(Debug, Clone)]
struct Asked {
    scheme: Scheme,
    method: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

impl Question {
    /// A request: a method, and an http or https URL whose path and query are kept as they are written.
    ///
    /// # Errors
    /// Says what no client would send.
    pub fn request(method: &str, url: &str) -> Result<Self, QuestionError> {
        Method::from_bytes(method.as_bytes()).map_err(|_| QuestionError::Method)?;
        let (scheme, rest, port) = match url.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest, 80),
            Some(("https", rest)) => (Scheme::Https, rest, 443),
            _ => return Err(QuestionError::Scheme),
        };
        if rest.contains('#') {
            return Err(QuestionError::Fragment);
        }
        if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(QuestionError::Space);
        }
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(QuestionError::UserInfo);
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let path = if path.is_empty() { "/" } else { path }.to_owned();
        let asked = Asked { scheme, method: method.to_owned(), path, query, headers: HeaderMap::new() };
        Self::to(authority, Some(port), format!("{method} {url}"), Some(asked))
    }

    /// `HOST:PORT`: a flow that is neither TLS nor HTTP. A name is resolved first; an address goes by no name.
    ///
    /// # Errors
    /// Says what is no host or no port.
    pub fn connect(text: &str) -> Result<Self, QuestionError> {
        if text.contains('/') {
            return Err(QuestionError::Url);
        }
        Self::to(text, None, text.to_owned(), None)
    }

    fn to(
        authority: &str,
        default_port: Option<u16>,
        text: String,
        asked: Option<Asked>,
    ) -> Result<Self, QuestionError> {
        let (host, port) = split_port(authority, default_port)?;
        let question = |name, address| Self { text, name, address, port, asked };
        if let Some(rest) = host.strip_prefix('[') {
            let literal = rest.strip_suffix(']').and_then(|inside| inside.parse().ok());
            return Ok(question(None, Some(IpAddr::V6(literal.ok_or(QuestionError::Brackets)?))));
        }
        if let Ok(literal) = host.parse::<Ipv4Addr>() {
            return Ok(question(None, Some(IpAddr::V4(literal))));
        }
        Domain::parse(host).map(|name| question(Some(name), None)).map_err(QuestionError::Host)
    }

    /// One more header of the request; a name may come more than once.
    ///
    /// # Errors
    /// Says what no request holds.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, QuestionError> {
        let asked = self.asked.as_mut().ok_or(QuestionError::HeaderWithoutRequest)?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| QuestionError::HeaderName)?;
        let value = HeaderValue::from_str(value).map_err(|_| QuestionError::HeaderValue)?;
        asked.headers.append(name, value);
        Ok(self)
    }

    /// What its name resolves to.
    ///
    /// # Errors
    /// It has no name: it goes to the address that it says.
    pub fn resolved_to(self, address: IpAddr) -> Result<Self, QuestionError> {
        if self.name.is_none() {
            return Err(QuestionError::TwoAddresses);
        }
        Ok(Self { address: Some(address), ..self })
    }

    fn dst(&self) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(SOMEWHERE), self.port)
    }

    fn flow(&self, seen: Seen) -> Flow {
        let dst = self.dst();
        Flow {
            id: FlowId(0),
            sandbox: SandboxId::of_cases(),
            client: ClientAddr(dst),
            dst: OriginalDst(dst),
            seen,
            pinned: self.name.iter().cloned().collect(),
        }
    }

    /// What its first bytes say.
    fn seen(&self) -> Seen {
        match self.asked.as_ref().map(|asked| asked.scheme) {
            None => Seen::Opaque,
            Some(Scheme::Http) => Seen::Http(HttpVersion::Http1),
            Some(Scheme::Https) => {
                Seen::Tls(Hello { sni: self.name.clone(), alpn: vec![Alpn::Http2, Alpn::Http1], ech: false })
            }
        }
    }

    fn head<'a>(&'a self, asked: &'a Asked) -> RequestHead<'a> {
        RequestHead {
            scheme: asked.scheme,
            authority: self.name.as_ref(),
            dst: OriginalDst(self.dst()),
            method: &asked.method,
            path: &asked.path,
            query: asked.query.as_deref(),
            headers: &asked.headers,
        }
    }
}

/// Where a name is taken to be if nothing says so (TEST-NET-2, RFC 5737).
const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

/// A host and its port, in digits alone.
fn split_port(authority: &str, default: Option<u16>) -> Result<(&str, u16), QuestionError> {
    let after_bracket = authority.rfind(']').unwrap_or_default();
    let colon = authority.rfind(':').filter(|colon| *colon >= after_bracket);
    let Some((host, port)) = colon.and_then(|colon| authority.split_at_checked(colon)) else {
        return default.map(|port| (authority, port)).ok_or(QuestionError::NoPort);
    };
    let digits = port.strip_prefix(':').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let port = digits.and_then(|digits| digits.parse().ok()).filter(|port| *port > 0);
    if host.contains(':') && !host.starts_with('[') {
        return Err(QuestionError::Brackets);
    }
    port.map(|port| (host, port)).ok_or(QuestionError::Port)
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no [`Question`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuestionError {
    /// Not a method of HTTP.
    Method,
    /// Neither `http://` nor `https://`.
    Scheme,
    /// A scheme or a path, where it takes a host and a port.
    Url,
    /// A `#`.
    Fragment,
    /// A space, a line break or another control character.
    Space,
    /// `user@`.
    UserInfo,
    /// No host, or one that no name can be.
    Host(DomainError),
    /// `HOST` alone, where it takes a port.
    NoPort,
    /// Not a number from 1 to 65535.
    Port,
    /// An IPv6 address without its brackets, or brackets around something else.
    Brackets,
    /// A header for what is no request.
    HeaderWithoutRequest,
    /// Not a header's name.
    HeaderName,
    /// Not a header's value.
    HeaderValue,
    /// An address for what is an address.
    TwoAddresses,
}

impl QuestionError {
    /// What to write instead.
    #[must_use]
    pub fn help(self) -> Option<&'static str> {
        match self {
            Self::Scheme => Some("write `https://example.com/path`, or `example.com:22` for what is not HTTP"),
            Self::Fragment => Some("leave it out"),
            Self::Space => Some("a space is written `%20`"),
            Self::UserInfo => Some("clients send it as an `authorization` header"),
            Self::Url => Some("write `example.com:22`; a URL goes with a method"),
            Self::NoPort => Some("write `example.com:22`, or `https://example.com/` for a request"),
            Self::Brackets => Some("write `[2001:db8::2]:443`"),
            Self::Method
            | Self::Host(_)
            | Self::Port
            | Self::HeaderWithoutRequest
            | Self::HeaderName
            | Self::HeaderValue
            | Self::TwoAddresses => None,
        }
    }
}

impl fmt::Display for QuestionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "this is not a method of HTTP",
            Self::Scheme => "this is not an http or https URL",
            Self::Url => "a host and a port have neither scheme nor path",
            Self::Fragment => "a fragment is never sent, so nothing can judge it",
            Self::Space => "a URL is sent without spaces and control characters",
            Self::UserInfo => "a URL is sent without user info",
            Self::Host(fault) => return fault.fmt(f),
            Self::NoPort => "there is no port",
            Self::Port => "a port is a number from 1 to 65535",
            Self::Brackets => "an IPv6 address, and nothing else, stands in brackets before a port",
            Self::HeaderWithoutRequest => "a header goes with a request",
            Self::HeaderName => "this cannot be a header's name",
            Self::HeaderValue => "this cannot be a header's value",
            Self::TwoAddresses => "the target is an address already, and resolves to no other",
        })
    }
}

impl std::error::Error for QuestionError {}

/// The fields of the audit record that a question comes to (POLICY §10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `Ok`: the route of an allowed flow or request; `Err`: why it was denied.
    pub outcome: Result<RouteTaken, DenyReason>,
    /// Under `observe`: the reason for which this would have been denied.
    pub observed: Option<DenyReason>,
    /// What decided.
    pub basis: Basis,
    /// Lower-case names of headers injected.
    pub injected: Vec<String>,
    /// The status that exeat itself answers with, where it can answer.
    pub status: Option<StatusCode>,
    /// The name judged, if one is known.
    pub name: Option<Domain>,
    /// Where it goes, if that is known.
    pub address: Option<IpAddr>,
    /// As the sandbox dials it.
    pub port: u16,
    /// The request's method and path.
    pub request: Option<(String, String)>,
}

impl Facts {
    /// `allow` or `deny`. Under `observe` the verdict is to deny, and the route is the one taken all the same.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        if self.reason().is_some() { "deny" } else { "allow" }
    }

    /// Why it is denied, or would be.
    #[must_use]
    pub fn reason(&self) -> Option<DenyReason> {
        self.observed.or(self.outcome.err())
    }

    fn of(question: &Question, outcome: Result<RouteTaken, DenyReason>, basis: Basis) -> Self {
        Self {
            outcome,
            observed: None,
            basis,
            injected: Vec::new(),
            status: outcome.err().and_then(DenyReason::status),
            name: question.name.clone(),
            address: question.address,
            port: question.port,
            request: question.asked.as_ref().map(|asked| (asked.method.clone(), asked.path.clone())),
        }
    }

    fn denied(question: &Question, denial: Denial) -> Self {
        Self::of(question, Err(denial.reason), denial.basis)
    }

    fn permitted(question: &Question, route: RouteTaken, permit: &Permit) -> Self {
        let names = permit.injections().iter().map(|injection| injection.header.as_str().to_owned());
        let facts = Self::of(question, Ok(route), permit.basis().clone());
        Self { observed: permit.observed(), injected: names.collect(), ..facts }
    }

    fn of_route(question: &Question, verdict: Verdict<Route>) -> Self {
        match verdict {
            Verdict::Allow(Route::Relay(permit)) => Self::permitted(question, RouteTaken::Relay, &permit),
            Verdict::Allow(Route::Splice(permit)) => Self::permitted(question, RouteTaken::Splice, &permit),
            Verdict::Allow(Route::Terminate(basis)) => Self::of(question, Ok(RouteTaken::Terminate), basis),
            Verdict::Deny(denial) => Self::denied(question, denial),
        }
    }

    fn of_action(question: &Question, verdict: Verdict<Action>) -> Self {
        match verdict {
            Verdict::Allow(Action::Forward(permit)) => Self::permitted(question, RouteTaken::Terminate, &permit),
            Verdict::Allow(Action::Respond(response, basis)) => {
                Self { status: Some(response.status), ..Self::of(question, Ok(RouteTaken::Respond), basis) }
            }
            Verdict::Allow(Action::Divert(_, permit)) => Self::permitted(question, RouteTaken::Forward, &permit),
            Verdict::Deny(denial) => Self::denied(question, denial),
        }
    }
}

impl Policy {
    /// Judges a question as a connection is judged: [`Policy::decide_address`], [`Policy::decide`],
    /// [`Policy::decide_request`].
    #[must_use]
    pub fn judge(&self, question: &Question, host: &Protected) -> Facts {
        if let Some(verdict) = self.decide_address(&question.flow(Seen::Unread), host) {
            return Facts::of_route(question, verdict);
        }
        if question.asked.is_none()
            && let Some(name) = &question.name
            && let Verdict::Deny(denial) = self.decide_name(name)
        {
            return Facts::denied(question, denial);
        }
        match (self.decide(&question.flow(question.seen()), host), &question.asked) {
            (Verdict::Allow(Route::Terminate(_)), Some(asked)) => {
                Facts::of_action(question, self.decide_request(&question.head(asked), host))
            }
            (verdict, _) => Facts::of_route(question, verdict),
        }
    }
}

#[cfg(test)]
mod tests;
