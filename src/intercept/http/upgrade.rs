//! WebSocket over HTTP/1.1 (RFC 6455 §4): the only protocol that a connection may switch to.
//!
//! It recognises the request and the answer; frames afterwards pass unread.

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Body;

use super::headers::tokens;

/// Whether a request asks for a WebSocket in the one way there is (RFC 6455 §4.1). Anything else that it may want to
/// upgrade to is as if not asked for (RFC 9110 §7.8).
pub(super) fn is_asked<B: Body>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && request.body().is_end_stream()
        && request.headers().contains_key(SEC_WEBSOCKET_KEY)
        && is_websocket(request.headers())
}

/// Whether a response grants it.
pub(super) fn is_granted<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        && response.headers().contains_key(SEC_WEBSOCKET_ACCEPT)
        && is_websocket(response.headers())
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
