//! WebSocket, the only protocol that a connection may switch to (RFC 6455 §4), or a stream (RFC 8441).
//!
//! It recognises the request and the answer; frames afterwards pass unread. The upstream is always asked over HTTP/1.1,
//! by `GET`, and so is the policy: what a sandbox asks for on a stream is put so before it is judged, with a key of
//! ours, which HTTP/2 has no use for.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Body;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use super::headers::tokens;

/// A switch that was asked for.
pub(super) struct Switch {
    down: OnUpgrade,
    /// What the origin has to answer to a key of ours; `None` where the key is the client's, who sees to it.
    accept: Option<HeaderValue>,
}

/// A switch that was asked for, if it is to a WebSocket, in one of the two ways there are. Anything else that a request
/// may want to upgrade to is as if not asked for (RFC 9110 §7.8), and any other `CONNECT` stays one.
pub(super) fn take<B: Body>(request: &mut Request<B>) -> Option<Switch> {
    if is_asked(request) {
        return Some(Switch { down: hyper::upgrade::on(request), accept: None });
    }
    if !is_asked_of_a_stream(request) {
        return None;
    }
    let mut key = [0; 16];
    rand::fill(&mut key).ok()?;
    let key = STANDARD.encode(key);
    let accept = Some(HeaderValue::try_from(accept(&key)).ok()?);
    request.headers_mut().insert(SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).ok()?);
    *request.method_mut() = Method::GET;
    Some(Switch { down: hyper::upgrade::on(request), accept })
}

/// RFC 6455 §4.1.
fn is_asked<B: Body>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && request.body().is_end_stream()
        && request.headers().contains_key(SEC_WEBSOCKET_KEY)
        && is_websocket(request.headers())
}

/// RFC 8441 §5.
fn is_asked_of_a_stream<B>(request: &Request<B>) -> bool {
    let named = request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket");
    request.version() == Version::HTTP_2 && request.method() == Method::CONNECT && named
}

/// RFC 6455 §4.2.2.
fn accept(key: &str) -> String {
    const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes()))
}

/// Marks the answer to a `CONNECT` that opens its stream: no other may seem to.
#[derive(Clone)]
pub(super) struct Opened;

impl Switch {
    /// Whether a response grants it.
    pub(super) fn is_granted_by<B>(&self, response: &Response<B>) -> bool {
        let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT);
        response.status() == StatusCode::SWITCHING_PROTOCOLS
            && accepted.is_some_and(|accepted| self.accept.as_ref().is_none_or(|accept| accept == accepted))
            && is_websocket(response.headers())
    }

    /// Whether it is a stream that switches, and not its connection.
    pub(super) fn is_of_a_stream(&self) -> bool {
        self.accept.is_some()
    }

    /// Puts the answer as its client awaits it. What is hop-by-hop has been removed.
    pub(super) fn word<B>(&self, response: &mut Response<B>) {
        if self.is_of_a_stream() {
            *response.status_mut() = StatusCode::OK;
            response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
            response.extensions_mut().insert(Opened);
        } else {
            restore(response.headers_mut());
        }
    }

    /// The sandbox's end, once the answer is on its way.
    pub(super) fn down(self) -> OnUpgrade {
        self.down
    }
}

/// Puts back what was removed as hop-by-hop.
pub(super) fn restore(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = tokens(headers, &UPGRADE);
    let alone = protocols.next().is_some_and(|token| token.eq_ignore_ascii_case("websocket"));
    alone
        && protocols.next().is_none()
        && tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
}

#[cfg(test)]
mod tests {
    /// The example of RFC 6455 §1.3.
    #[test]
    fn a_key_is_accepted_as_the_standard_says() {
        assert_eq!(super::accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
