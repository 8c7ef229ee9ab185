//! One question to a policy and what it comes to: what a case of `tests:` and `exeat explain` both ask.
//!
//! A [`Question`] is a connection that some program might open; [`Facts`] are the fields of the audit record that
//! would be written for it (POLICY §10). It is judged in the order in which the data path judges a connection: its name
//! is resolved first, if it has one; then the address that it dials, the flow, the request, and the dial. Nothing is
//! resolved here and nobody is contacted: what a name resolves to is known if the question says so, and what is asked
//! of addresses alone is not asked if it does not.
//!
//! `INVARIANT`: the target's bytes are judged as they are given; nothing normalises a path, a query or a header first.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::verdict::{Action, Basis, Denial, DenyReason, Permit, Route, RouteTaken, Verdict};
use super::{Denials, Policy, Protected};
use crate::flow::{
    Alpn, ClientAddr, Domain, DomainError, Flow, FlowId, Hello, HttpVersion, OriginalDst, RequestHead, SandboxId,
    Scheme, Seen,
};

/// A connection that a program in a sandbox might open, and the request it might send.
#[derive(Debug, Clone)]
pub struct Question {
    /// Without its headers and address.
    text: String,
    /// What is resolved, and stands in a hello.
    pub(super) name: Option<Domain>,
    /// What is dialled, if it is known.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    /// `None` for a flow that is neither TLS nor HTTP.
    pub(super) asked: Option<Asked>,
}

/// The request of a [`Question`].
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) scheme: Scheme,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) headers: HeaderMap,
}

impl Question {
    /// What a target asks, as a person names it: a URL, or `HOST:PORT` if no method comes with it.
    ///
    /// # Errors
    /// As [`Self::request`] and [`Self::connect`].
    pub fn target(method: Option<&str>, target: &str) -> Result<Self, QuestionError> {
        match method {
            Some(method) => Self::request(method, target),
            None if target.contains("://") => Self::request("GET", target),
            None => Self::connect(target),
        }
    }

    /// A request: a method, and an http or https URL whose path and query are kept as they are written.
    ///
    /// # Errors
    /// Says what no client would send.
    pub fn request(method: &str, url: &str) -> Result<Self, QuestionError> {
        if Method::from_bytes(method.as_bytes()).map_err(|_| QuestionError::Method)? == Method::CONNECT {
            return Err(QuestionError::Connect);
        }
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

    /// Where it goes. Without an address it holds one that nothing looks at: [`Policy::judge`] then asks no row that
    /// would.
    pub(super) fn dst(&self) -> OriginalDst {
        OriginalDst(SocketAddr::new(self.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), self.port))
    }

    fn flow(&self, seen: Seen) -> Flow {
        let dst = self.dst();
        Flow {
            id: FlowId(0),
            sandbox: SandboxId::of_cases(),
            client: ClientAddr(dst.0),
            dst,
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

    /// The origin that its request names, by POLICY §3 "Authority": `None` if it is an IP literal, or nothing.
    pub(super) fn authority(&self, asked: &Asked) -> Result<Option<Domain>, DenyReason> {
        let mut hosts = asked.headers.get_all(HOST).iter();
        let Some(value) = hosts.next() else { return Ok(self.name.clone()) };
        let text = value.to_str().map_err(|_| DenyReason::MalformedRequest)?;
        if hosts.next().is_some() {
            return Err(DenyReason::MalformedRequest);
        }
        let named = if text.is_empty() { None } else { Some(read_host(text, self.port)?) };
        match (asked.scheme, named) {
            (_, Some((_, port))) if port != self.port => Err(DenyReason::AuthorityMismatch),
            (Scheme::Http, named) => Ok(named.and_then(|(name, _)| name)),
            (Scheme::Https, Some((name, _))) if name.is_some() && name == self.name => Ok(name),
            (Scheme::Https, _) => Err(DenyReason::AuthorityMismatch),
        }
    }

    pub(super) fn head<'a>(&'a self, asked: &'a Asked, authority: Option<&'a Domain>) -> RequestHead<'a> {
        RequestHead {
            scheme: asked.scheme,
            authority,
            dst: self.dst(),
            method: &asked.method,
            path: &asked.path,
            query: asked.query.as_deref(),
            headers: &asked.headers,
        }
    }
}

/// The name in a `Host`, if it is no IP literal, and the port.
fn read_host(text: &str, port: u16) -> Result<(Option<Domain>, u16), DenyReason> {
    let (host, port) = split_port(text, Some(port)).map_err(|_| DenyReason::MalformedRequest)?;
    match Domain::parse(host) {
        Ok(name) => Ok((Some(name), port)),
        Err(DomainError::IpLiteral) => Ok((None, port)),
        Err(_) => Err(DenyReason::MalformedRequest),
    }
}

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
    /// `CONNECT`.
    Connect,
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
            Self::Connect => Some("write `example.com:22` for what is not HTTP"),
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
            Self::Connect => "`CONNECT` is for proxies, and a sandbox has none",
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

    fn new(question: &Question, outcome: Result<RouteTaken, DenyReason>, basis: Basis) -> Self {
        Self {
            outcome,
            observed: None,
            basis,
            injected: Vec::new(),
            status: None,
            name: question.name.clone(),
            address: question.address,
            port: question.port,
            request: question.asked.as_ref().map(|asked| (asked.method.clone(), asked.path.clone())),
        }
    }
}

/// What is judged when a verdict falls: it says how a refusal can be told (POLICY §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Name,
    Flow,
    Request,
}

/// The port that our own resolver answers, whoever is dialled there (row 0 of POLICY §3).
pub(super) const DNS_PORT: u16 = 53;

impl Policy {
    /// Judges a question as a connection is judged: [`Policy::decide_name`], [`Policy::decide_address`],
    /// [`Policy::decide`], [`Policy::decide_request`], [`Policy::vet`].
    #[must_use]
    pub fn judge(&self, question: &Question, host: &Protected) -> Facts {
        if let Some(name) = &question.name
            && let Verdict::Deny(denial) = self.decide_name(name)
        {
            return self.refused(question, denial, Stage::Name);
        }
        if question.port == DNS_PORT {
            return Facts::new(question, Ok(RouteTaken::Respond), self.basis(None));
        }
        match (self.judge_flow(question, host), &question.asked) {
            (Verdict::Deny(denial), _) => self.refused(question, denial, Stage::Flow),
            (Verdict::Allow(Route::Relay(permit)), _) => {
                self.permitted(question, RouteTaken::Relay, &permit, Stage::Flow, host)
            }
            (Verdict::Allow(Route::Splice(permit)), _) => {
                self.permitted(question, RouteTaken::Splice, &permit, Stage::Flow, host)
            }
            (Verdict::Allow(Route::Terminate(_)), Some(asked)) => self.judge_request(question, asked, host),
            (Verdict::Allow(Route::Terminate(basis)), None) => Facts::new(question, Ok(RouteTaken::Terminate), basis),
        }
    }

    fn judge_flow(&self, question: &Question, host: &Protected) -> Verdict<Route> {
        let flow = question.flow(question.seen());
        if question.address.is_some() {
            let settled = self.decide_address(&question.flow(Seen::Unread), host);
            return settled.unwrap_or_else(|| self.decide(&flow, host));
        }
        match self.row_3() {
            Some(denial) if !self.observe => Verdict::Deny(denial),
            relaxed => self.relax_flow(relaxed, self.decide_seen(&flow), &flow),
        }
    }

    fn judge_request(&self, question: &Question, asked: &Asked, host: &Protected) -> Facts {
        let name = match question.authority(asked) {
            Ok(name) => name,
            Err(reason) => return self.refused(question, self.denial(reason, None), Stage::Request),
        };
        let head = question.head(asked, name.as_ref());
        let verdict = match (question.address, self.row_3()) {
            (Some(_), _) => self.decide_request(&head, host),
            (None, Some(denial)) => self.relax_request(None, Verdict::Deny(denial), &head),
            (None, None) => self.relax_request(None, self.decide_origin(&head), &head),
        };
        let facts = match verdict {
            Verdict::Deny(denial) => self.refused(question, denial, Stage::Request),
            Verdict::Allow(Action::Forward(permit)) => {
                self.permitted(question, RouteTaken::Terminate, &permit, Stage::Request, host)
            }
            Verdict::Allow(Action::Respond(response, basis)) => {
                Facts { status: Some(response.status), ..Facts::new(question, Ok(RouteTaken::Respond), basis) }
            }
            // It goes to an address that the question says nothing of.
            Verdict::Allow(Action::Divert(_, permit)) => sent(question, RouteTaken::Forward, &permit),
        };
        Facts { name, ..facts }
    }

    /// What is permitted, if its address may be dialled.
    fn permitted(
        &self,
        question: &Question,
        route: RouteTaken,
        permit: &Permit,
        stage: Stage,
        host: &Protected,
    ) -> Facts {
        let dialled = question.address.map(|address| SocketAddr::new(address, question.port));
        match dialled.map(|address| self.vet(address, permit, host)) {
            Some(Verdict::Deny(denial)) => self.refused(question, denial, stage),
            Some(Verdict::Allow(_)) | None => sent(question, route, permit),
        }
    }

    fn refused(&self, question: &Question, denial: Denial, stage: Stage) -> Facts {
        let Denial { reason, basis } = denial;
        let status = if self.answers(question, stage) { reason.status() } else { None };
        Facts { status, ..Facts::new(question, Err(reason), basis) }
    }

    /// Whether a client is told of a refusal by HTTP.
    fn answers(&self, question: &Question, stage: Stage) -> bool {
        let explain = self.denials == Denials::Explain;
        match (question.asked.as_ref().map(|asked| asked.scheme), stage) {
            (None, _) => false,
            (Some(_), Stage::Request) | (Some(Scheme::Http), Stage::Flow) => true,
            (Some(Scheme::Http), Stage::Name) => explain,
            (Some(Scheme::Https), Stage::Name | Stage::Flow) => explain && question.name.is_some(),
        }
    }
}

fn sent(question: &Question, route: RouteTaken, permit: &Permit) -> Facts {
    let signed = permit.signing().into_iter().flat_map(|signing| signing.headers());
    let names = permit.injections().iter().map(|injection| &injection.header).chain(signed);
    let names = names.map(|name| name.as_str().to_owned());
    let facts = Facts::new(question, Ok(route), permit.basis().clone());
    Facts { observed: permit.observed(), injected: names.collect(), ..facts }
}

#[cfg(test)]
pub(super) mod tests;
