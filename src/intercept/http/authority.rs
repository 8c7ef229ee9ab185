//! Whom a request names: SNI, `:authority`, `Host` and absolute form are one origin, or it is refused (POLICY §3
//! "Authority").
//!
//! It never judges whether that origin is permitted, and never looks at an address beyond its port.

use std::fmt;

use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri, Version};

use crate::flow::{Domain, DomainError, Scheme};
use crate::policy::verdict::DenyReason;

/// What a request names, once all that it says agrees.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Authority {
    /// The name; `None` where cleartext HTTP names nobody, or an IP literal.
    pub(super) name: Option<Domain>,
    /// For `Host` or `:authority` upstream: the canonical name, with the port where the sandbox gave one.
    pub(super) host: Option<HeaderValue>,
    /// For the request line or `:path` upstream, byte for byte.
    pub(super) target: PathAndQuery,
}

impl fmt::Debug for Authority {
    /// Without the query: a placeholder in it may have been replaced by its secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, host, target } = self;
        let path = target.path();
        f.debug_struct("Authority").field("name", name).field("host", host).field("path", &path).finish_non_exhaustive()
    }
}

/// What the flow says before any request: the scheme, the port it was going to, the name in its hello.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    /// Whether the requests came inside TLS.
    pub(super) scheme: Scheme,
    /// Of the original destination.
    pub(super) port: u16,
    /// `None` for cleartext.
    pub(super) sni: Option<&'a Domain>,
}

/// Reads and compares everything that names an origin.
///
/// # Errors
/// [`DenyReason::AuthorityMismatch`] where two of them differ, [`DenyReason::MalformedRequest`] where one is no
/// authority, or the request is for a proxy.
pub(super) fn read(request: &Parts, expected: Expected<'_>) -> Result<Authority, DenyReason> {
    let target = target(request)?;
    check_scheme(&request.uri, expected.scheme)?;
    let mut named: Option<Named> = None;
    let in_target = request.uri.authority().map(|authority| authority.as_str().as_bytes());
    let in_headers = request.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    for (at, text) in in_target.into_iter().chain(in_headers).enumerate() {
        let next = Named::read(text)?;
        if next.port.is_some_and(|port| port != expected.port) {
            return Err(DenyReason::AuthorityMismatch);
        }
        match &mut named {
            // Two `Host` fields, or three statements in all, are one too many even if they agree.
            Some(_) if at > 1 || request.uri.authority().is_none() => return Err(DenyReason::MalformedRequest),
            Some(first) if first.host != next.host => return Err(DenyReason::AuthorityMismatch),
            Some(_) => {}
            empty => *empty = Some(next),
        }
    }
    let named = agree_with_sni(named, expected.sni)?;
    let host = named.as_ref().and_then(Named::value);
    let name = named.and_then(|named| if let Host::Name(name) = named.host { Some(name) } else { None });
    Ok(Authority { name, host, target })
}

/// The request target, as origin-form or `*` (RFC 9112 §3.2). `CONNECT` and authority-form are for proxies, which
/// the sandbox has none.
fn target(request: &Parts) -> Result<PathAndQuery, DenyReason> {
    let authority_form = request.uri.scheme().is_none() && request.uri.authority().is_some();
    if request.method == Method::CONNECT || authority_form {
        return Err(DenyReason::MalformedRequest);
    }
    let target = request.uri.path_and_query().ok_or(DenyReason::MalformedRequest)?;
    match target.path() {
        "*" if request.method != Method::OPTIONS => Err(DenyReason::MalformedRequest),
        path if path == "*" || path.starts_with('/') => Ok(target.clone()),
        _ => Err(DenyReason::MalformedRequest),
    }
}

fn check_scheme(uri: &Uri, expected: Scheme) -> Result<(), DenyReason> {
    let expected = match expected {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    match uri.scheme_str() {
        Some(scheme) if scheme != expected => Err(DenyReason::AuthorityMismatch),
        _ => Ok(()),
    }
}

fn agree_with_sni(named: Option<Named>, sni: Option<&Domain>) -> Result<Option<Named>, DenyReason> {
    match (named, sni) {
        (named, None) => Ok(named),
        // HTTP/1.0 needs no `Host`; the hello has said it.
        (None, Some(sni)) => Ok(Some(Named { host: Host::Name(sni.clone()), port: None })),
        (Some(named), Some(sni)) if named.host == Host::Name(sni.clone()) => Ok(Some(named)),
        (Some(_), Some(_)) => Err(DenyReason::AuthorityMismatch),
    }
}

struct Named {
    host: Host,
    port: Option<u16>,
}

#[derive(PartialEq, Eq)]
enum Host {
    Name(Domain),
    /// An IP literal in some notation, as it was written.
    Address(String),
    Empty,
}

impl Named {
    fn read(text: &[u8]) -> Result<Self, DenyReason> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii()).ok_or(DenyReason::MalformedRequest)?;
        let (host, port) = split_port(text)?;
        let host = match Domain::parse(host) {
            Ok(name) => Host::Name(name),
            Err(DomainError::IpLiteral) => Host::Address(host.to_ascii_lowercase()),
            Err(DomainError::Empty) if text.is_empty() => Host::Empty,
            Err(_) => return Err(DenyReason::MalformedRequest),
        };
        Ok(Self { host, port })
    }

    fn value(&self) -> Option<HeaderValue> {
        let host = match &self.host {
            Host::Name(name) => name.as_str(),
            Host::Address(text) => text.as_str(),
            Host::Empty => return None,
        };
        let text = self.port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        HeaderValue::from_str(&text).ok()
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`; the port in digits alone.
fn split_port(text: &str) -> Result<(&str, Option<u16>), DenyReason> {
    let after_bracket = text.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = text.get(after_bracket..).and_then(|rest| rest.find(':')).map(|at| at + after_bracket) else {
        return Ok((text, None));
    };
    let (host, port) = (text.get(..colon).unwrap_or_default(), text.get(colon + 1..).unwrap_or_default());
    if host.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(DenyReason::MalformedRequest);
    }
    port.parse().map(|port| (host, Some(port))).map_err(|_| DenyReason::MalformedRequest)
}

/// Sets what a request names, for a connection that speaks `version`.
pub(super) fn write(request: &mut Parts, authority: &Authority, scheme: Scheme, version: Version) -> Option<()> {
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(authority.target.clone());
    if version == Version::HTTP_2 {
        // HTTP/2 carries it in `:authority` alone (RFC 9113 §8.3.1); what a rule set as `Host` counts.
        let host = request.headers.remove(HOST).or_else(|| authority.host.clone())?;
        uri.authority = Some(http::uri::Authority::try_from(host.as_bytes()).ok()?);
        uri.scheme = Some(match scheme {
            Scheme::Http => http::uri::Scheme::HTTP,
            Scheme::Https => http::uri::Scheme::HTTPS,
        });
    }
    request.uri = Uri::from_parts(uri).ok()?;
    request.version = version;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(sni: Option<&str>, uri: &str, hosts: &[&str]) -> Result<Option<String>, DenyReason> {
        let mut request = http::Request::get(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let sni = sni.map(|name| Domain::parse(name).unwrap());
        let scheme = if sni.is_some() { Scheme::Https } else { Scheme::Http };
        let port = if sni.is_some() { 443 } else { 80 };
        read(&parts, Expected { scheme, port, sni: sni.as_ref() }).map(|it| it.name.map(|name| name.to_string()))
    }

    const MISMATCH: Result<Option<String>, DenyReason> = Err(DenyReason::AuthorityMismatch);
    const MALFORMED: Result<Option<String>, DenyReason> = Err(DenyReason::MalformedRequest);

    #[test]
    fn a_query_does_not_show() {
        let target = PathAndQuery::from_static("/path?key=canary");
        let shown = format!("{:?}", Authority { name: None, host: None, target });
        assert!(shown.contains("/path") && !shown.contains("canary"), "{shown}");
    }

    #[test]
    fn one_origin_in_any_spelling_is_one_origin() {
        for (uri, hosts) in [
            ("/", &["a.test"][..]),
            ("/", &["A.TEST."]),
            ("/", &["a.test:443"]),
            ("/", &[]),
            ("https://a.test/", &[]),
            ("https://A.test:443/", &["a.test"]),
        ] {
            assert_eq!(ask(Some("a.test"), uri, hosts), Ok(Some("a.test".to_owned())), "{uri} {hosts:?}");
        }
    }

    #[test]
    fn two_origins_are_a_mismatch() {
        for (uri, hosts) in [
            ("/", &["b.test"][..]),
            ("/", &["a.test:8443"]),
            ("/", &["10.0.0.1"]),
            ("/", &[""]),
            ("https://b.test/", &["a.test"]),
            ("https://a.test/", &["b.test"]),
            ("https://b.test/", &[]),
            ("http://a.test/", &["a.test"]),
            ("https://a.test:80/", &["a.test"]),
        ] {
            assert_eq!(ask(Some("a.test"), uri, hosts), MISMATCH, "{uri} {hosts:?}");
        }
    }

    #[test]
    fn what_is_no_authority_is_malformed() {
        for (uri, hosts) in [
            ("/", &["a.test", "a.test"][..]),
            ("/", &["a.test, b.test"]),
            ("/", &["user@a.test"]),
            ("/", &["a.test:"]),
            ("/", &["a.test:+80"]),
            ("/", &["a.test:80:80"]),
            ("/", &[":80"]),
            ("/", &["a..test"]),
            ("/", &["a.test/x"]),
            ("http://user@a.test/", &[]),
            ("a.test", &["a.test"]),
            ("*", &["a.test"]),
        ] {
            assert_eq!(ask(None, uri, hosts), MALFORMED, "{uri} {hosts:?}");
        }
    }

    #[test]
    fn an_address_or_nothing_names_nobody_in_clear() {
        for hosts in [&["10.0.0.1"][..], &["[::1]"], &["[::1]:80"], &["0x7f.1"], &[""], &[]] {
            assert_eq!(ask(None, "/", hosts), Ok(None), "{hosts:?}");
        }
    }

    #[test]
    fn connect_is_for_proxies() {
        let (parts, ()) = http::Request::connect("a.test:443").body(()).unwrap().into_parts();
        let expected = Expected { scheme: Scheme::Http, port: 80, sni: None };
        assert_eq!(read(&parts, expected), Err(DenyReason::MalformedRequest));
    }
}
