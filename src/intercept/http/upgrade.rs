//! WebSocket, the only protocol that a connection may switch to (RFC 6455 §4), or a stream (RFC 8441).
//!
//! It recognises the request and the answer; frames afterwards pass unread. The policy is always asked as over
//! HTTP/1.1, by `GET`: what a sandbox asks for on a stream is put so before it is judged, with a key of ours, which
//! HTTP/2 has no use for. So is the upstream, unless it speaks HTTP/2 alone: then it is asked by `CONNECT` on a stream,
//! and to a sandbox that has asked over HTTP/1.1 it is us who accept its key.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use h2::ext::Protocol;
use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body;

use super::arriving::{Arriving, Leaving};
use super::headers::tokens;

/// A switch that was asked for.
pub(super) struct Switch {
    down: Leaving,
    /// What accepts the key.
    accept: HeaderValue,
    /// Whether the key is ours, for a stream. Another is its client's, who sees to what accepts it.
    is_of_a_stream: bool,
}

/// A switch that was asked for, if it is to a WebSocket, in one of the two ways there are. Anything else that a request
/// may want to upgrade to is as if not asked for (RFC 9110 §7.8), and any other `CONNECT` stays one.
pub(super) fn take(request: &mut Request<Arriving>) -> Option<Switch> {
    let is_of_a_stream = is_asked_of_a_stream(request);
    if is_of_a_stream {
        let mut key = [0; 16];
        rand::fill(&mut key).ok()?;
        request.headers_mut().insert(SEC_WEBSOCKET_KEY, HeaderValue::try_from(STANDARD.encode(key)).ok()?);
        *request.method_mut() = Method::GET;
    } else if !is_asked(request) {
        return None;
    }
    let accept = HeaderValue::try_from(accept(request.headers().get(SEC_WEBSOCKET_KEY)?.as_bytes())).ok()?;
    let stream = request.body_mut().take();
    let down = stream.unwrap_or_else(|| Leaving::Connection(hyper::upgrade::on(request)));
    Some(Switch { down, accept, is_of_a_stream })
}

/// Puts a request for a switch, as it goes out, to an upstream of HTTP/2 (RFC 8441 §5). What says something of a body
/// would be said of the frames.
pub(super) fn put<B>(request: &mut Request<B>) {
    if request.version() != Version::HTTP_2 {
        return;
    }
    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_KEY, CONTENT_LENGTH] {
        request.headers_mut().remove(name);
    }
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
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
fn accept(key: &[u8]) -> String {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()))
}

/// Marks the answer to a `CONNECT` that opens its stream: no other may seem to.
#[derive(Clone)]
pub(super) struct Opened;

/// The switch, if one was asked for and a response grants it; `None` for an answer like any other.
///
/// # Errors
/// The upstream has left HTTP, and not for what was asked for. To a `CONNECT` every success is such an answer.
pub(super) fn granted<B>(switch: Option<Switch>, response: &Response<B>) -> Result<Option<Switch>, &'static str> {
    let is_on_a_stream = response.version() == Version::HTTP_2;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => switch
            .filter(|switch| !is_on_a_stream && switch.is_granted_by(response.headers()))
            .map(Some)
            .ok_or(NOT_ASKED_FOR),
        StatusCode::OK if is_on_a_stream => Ok(switch),
        status if is_on_a_stream && switch.is_some() && status.is_success() => Err(NOT_SWITCHED),
        _ => Ok(None),
    }
}

/// What is said of a switch to something else.
pub(super) const NOT_ASKED_FOR: &str = "the upstream switched to a protocol that was not asked for";

/// What is said of a success that opens nothing.
pub(super) const NOT_SWITCHED: &str = "the upstream did not switch protocols";

impl Switch {
    /// RFC 6455 §4.1.
    fn is_granted_by(&self, headers: &HeaderMap) -> bool {
        let accepted = headers.get(SEC_WEBSOCKET_ACCEPT);
        accepted.is_some_and(|accepted| !self.is_of_a_stream || self.accept == accepted) && is_websocket(headers)
    }

    /// Whether it is a stream that switches, and not its connection.
    pub(super) fn is_of_a_stream(&self) -> bool {
        self.is_of_a_stream
    }

    /// Puts the answer as its client awaits it. What is hop-by-hop has been removed.
    pub(super) fn word<B>(&self, response: &mut Response<B>) {
        response.headers_mut().remove(CONTENT_LENGTH);
        if self.is_of_a_stream {
            *response.status_mut() = StatusCode::OK;
            response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
            response.extensions_mut().insert(Opened);
            return;
        }
        restore(response.headers_mut());
        if response.version() == Version::HTTP_2 {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, self.accept.clone());
        }
    }

    /// The sandbox's end, once the answer is on its way.
    pub(super) fn down(self) -> Leaving {
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
        assert_eq!(super::accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
