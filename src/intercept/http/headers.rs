//! Fields that belong to one connection and not to the message: removed on the way through, in both directions.
//!
//! It runs before a request is judged and so before injection, never after: `Connection: authorization` takes away what
//! the sandbox sent and never what a rule set, nor what a rule has looked at.

use http::header::{
    ALT_SVC, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};

use super::divert;
use super::refuse::{EXEAT_DENIED, EXEAT_ERROR};

/// Hop-by-hop fields (RFC 9110 §7.6.1, RFC 9113 §8.2.2), those of a proxy, and the settings of an h2c upgrade.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Takes from a request what ends here. `Expect` too, which is put back where the origin can be asked. What stays of
/// `TE` is the readiness for trailers, which says nothing about a connection.
pub(super) fn sanitise_request(headers: &mut HeaderMap) {
    let trailers = tokens(headers, &TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    remove_hop_by_hop(headers);
    divert::remove_forged(headers);
    headers.remove(EXPECT);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // HTTP/2 may split cookies over fields; HTTP/1 servers read one (RFC 9113 §8.2.3).
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(mut joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            joined.set_sensitive(true);
            headers.insert(COOKIE, joined);
        }
    }
}

/// Whether every field says over HTTP/1 what it says over HTTP/2. No blank stands around a value (RFC 9113 §8.2.1),
/// for an HTTP/1 upstream would drop it after a rule has looked at it. There is one `Content-Length` at most, and it is
/// a number: HTTP/2 frames by itself, but an HTTP/1 upstream believes what stands here (§8.1.1).
pub(super) fn are_plain(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let plain = |length: &HeaderValue| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    let trimmed = |value: &HeaderValue| value.as_bytes().trim_ascii().len() == value.len();
    lengths.next().is_none_or(plain) && lengths.next().is_none() && headers.values().all(trimmed)
}

/// Takes from a response what ends here, `Alt-Svc`, which would steer the client to where nothing is read, and the
/// headers by which exeat alone speaks: an origin cannot forge a refusal.
pub(super) fn sanitise_response(headers: &mut HeaderMap) {
    // Framed by chunks, a length beside it says nothing (RFC 9112 §6.3), and must not frame what we send on.
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    remove_hop_by_hop(headers);
    for name in [&ALT_SVC, &EXEAT_DENIED, &EXEAT_ERROR] {
        headers.remove(name);
    }
}

/// The elements of a comma-separated field, over all its lines.
pub(super) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // `Host` is named by who wants to be read as another origin; it is set anew before a request goes out.
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| *name != HOST)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |&(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn what_connection_names_ends_here() {
        let mut headers = map(&[
            ("connection", "keep-alive, x-one"),
            ("connection", "X-Two, te"),
            ("keep-alive", "5"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("te", "gzip, Trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("expect", "100-continue"),
            ("proxy-authorization", "Basic x"),
        ]);
        sanitise_request(&mut headers);
        assert_eq!(headers, map(&[("x-three", "3"), ("te", "trailers")]));
    }

    #[test]
    fn cookies_become_one_field() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2")]);
        sanitise_request(&mut headers);
        assert_eq!(headers, map(&[("cookie", "a=1; b=2")]));
    }

    #[test]
    fn a_response_neither_steers_elsewhere_nor_speaks_for_us() {
        let mut headers = map(&[
            ("alt-svc", "h3=\":443\""),
            ("connection", "close"),
            ("exeat-denied", "no-rule"),
            ("exeat-error", "x"),
            ("server", "s"),
        ]);
        sanitise_response(&mut headers);
        assert_eq!(headers, map(&[("server", "s")]));
    }
}
