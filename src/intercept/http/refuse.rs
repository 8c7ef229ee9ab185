//! How a refusal, or a failure upstream, is put into HTTP (POLICY §7).
//!
//! It words what was judged elsewhere; it never shows another rule. Text from the sandbox is bounded, and escaped by
//! the JSON form.

use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::flow::Domain;
use crate::limits;
use crate::policy::Denials;
use crate::policy::verdict::{Denial, RuleId};
use crate::sandbox::quota::Spent;
use crate::secret::sign::SignFault;

use super::guard::Fault;
use super::payload::{Payload, whole};

/// Says that exeat refused, and why.
pub(super) const EXEAT_DENIED: HeaderName = HeaderName::from_static("exeat-denied");
/// Says that exeat failed upstream, and how.
pub(super) const EXEAT_ERROR: HeaderName = HeaderName::from_static("exeat-error");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// A whole answer.
pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// The answer to a request that was denied. `host` is what it named, `address` where it was going.
pub(super) fn denied(denial: &Denial, host: Option<&str>, address: IpAddr, style: Denials) -> Answer {
    let status = denial.reason.status().unwrap_or(StatusCode::FORBIDDEN);
    let name = host.and_then(|host| Domain::parse(host).ok());
    explain(status, denial, host, &denial.hint(name.as_ref(), Some(address)), style)
}

/// The answer to a request that is not signed as its rule asks.
pub(super) fn unsigned(fault: &SignFault, denial: &Denial, host: Option<&str>, style: Denials) -> Answer {
    let status = denial.reason.status().unwrap_or(StatusCode::FORBIDDEN);
    explain(status, denial, host, &fault.to_string(), style)
}

/// The answer to a request whose body a rule has read, and which is compressed or of no type that can be told.
pub(super) fn doubtful(denial: &Denial, host: Option<&str>, style: Denials) -> Answer {
    let status = denial.reason.status().unwrap_or(StatusCode::FORBIDDEN);
    let hint = "placeholders are replaced in the body of this request: send it uncompressed, and with one type at most";
    explain(status, denial, host, hint, style)
}

/// The answer to bytes that the guard stopped.
pub(super) fn faulty(fault: Fault, denial: &Denial, style: Denials) -> Answer {
    let status = match fault {
        Fault::Malformed => StatusCode::BAD_REQUEST,
        Fault::NotHttp => StatusCode::FORBIDDEN,
        Fault::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Fault::TooSlow => StatusCode::TOO_MANY_REQUESTS,
    };
    let hint = match fault {
        Fault::Malformed | Fault::NotHttp => denial.hint(None, None),
        Fault::TooLarge => format!(
            "the head of the request is larger than {} KiB or has more than {} fields",
            limits::HEAD_BYTES / 1024,
            limits::HEAD_FIELDS
        ),
        Fault::TooSlow => "the head of the request took longer than 30 s".to_owned(),
    };
    let mut answer = explain(status, denial, None, &hint, style);
    answer.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// The answer to a request over the sandbox's own bound on requests.
pub(super) fn too_many(spent: &Spent, denial: &Denial, host: Option<&str>, style: Denials) -> Answer {
    let Spent { rate, wait } = spent;
    // Whole seconds (RFC 9110 §10.2.3), and not so few that it would come too early.
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let hint =
        format!("this sandbox may make {} requests a second; this one may come again in {seconds} s", rate.count);
    let mut answer = explain(StatusCode::TOO_MANY_REQUESTS, denial, host, &hint, style);
    answer.headers.insert(RETRY_AFTER, seconds.into());
    answer
}

/// The answer to a request that was permitted and failed upstream: no denial. The sentence says whose fault it is.
pub(super) fn failed(status: StatusCode, sentence: &str) -> Answer {
    let plain: String = sentence.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect();
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(CONTENT_TYPE, JSON);
    if let Ok(value) = HeaderValue::from_str(&plain) {
        headers.insert(EXEAT_ERROR, value);
    }
    Answer { status, headers, body: json(&Failure { error: &plain }) }
}

impl Answer {
    /// For the HTTP library.
    pub(super) fn into_response(self) -> Response<Payload> {
        let mut response = Response::new(whole(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }

    /// As HTTP/1.1, for where the library has been told that nothing more comes.
    pub(super) fn into_bytes(self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_slice(b"HTTP/1.1 ");
        bytes.put_slice(self.status.as_str().as_bytes());
        bytes.put_slice(b" ");
        bytes.put_slice(self.status.canonical_reason().unwrap_or_default().as_bytes());
        bytes.put_slice(b"\r\n");
        for (name, value) in &self.headers {
            bytes.put_slice(name.as_str().as_bytes());
            bytes.put_slice(b": ");
            bytes.put_slice(value.as_bytes());
            bytes.put_slice(b"\r\n");
        }
        bytes.put_slice(format!("content-length: {}\r\n\r\n", self.body.len()).as_bytes());
        bytes.put_slice(&self.body);
        bytes.freeze()
    }

    /// The status, for the record.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }
}

/// POLICY §7, in its order.
#[derive(Serialize)]
struct Explanation<'a> {
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a RuleId>,
    revision: String,
    hint: &'a str,
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
}

/// Bytes of a name that an answer repeats.
const HOST_BYTES: usize = 256;

fn explain(status: StatusCode, denial: &Denial, host: Option<&str>, hint: &str, style: Denials) -> Answer {
    let mut headers = HeaderMap::new();
    if style == Denials::Terse {
        return Answer { status, headers, body: Bytes::new() };
    }
    headers.insert(EXEAT_DENIED, HeaderValue::from_static(denial.reason.as_str()));
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(CONTENT_TYPE, JSON);
    let body = json(&Explanation {
        reason: denial.reason.as_str(),
        host: host.map(|host| host.get(..HOST_BYTES).unwrap_or(host)).filter(|host| host.len() <= HOST_BYTES),
        rule: denial.basis.rule.as_ref(),
        revision: denial.basis.revision.to_string(),
        hint,
    });
    Answer { status, headers, body }
}

fn json(value: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::policy::verdict::{Basis, DenyReason};

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));

    fn denial() -> Denial {
        let revision = Policy::deny_all().revision();
        Denial { reason: DenyReason::NoRule, basis: Basis { rule: None, revision } }
    }

    #[test]
    fn text_from_the_sandbox_is_escaped_and_bounded() {
        let answer = denied(&denial(), Some("a\"\r\n\u{7f}<b>"), ADDRESS, Denials::Explain);
        let body = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(body.contains(r#""host":"a\"\r\n"#), "{body}");
        assert_eq!(body.lines().count(), 1, "{body}");
        let long = "a".repeat(10_000);
        assert!(denied(&denial(), Some(&long), ADDRESS, Denials::Explain).body.len() < 1000);
    }

    #[test]
    fn terse_is_a_status_alone() {
        let answer = denied(&denial(), Some("a.test"), ADDRESS, Denials::Terse);
        assert_eq!((answer.status, answer.headers.len(), answer.body.len()), (StatusCode::FORBIDDEN, 0, 0));
    }

    #[test]
    fn a_failure_cannot_break_a_header() {
        let answer = failed(StatusCode::BAD_GATEWAY, "a\r\nset-cookie: x");
        assert_eq!(answer.headers.get("exeat-error").unwrap(), "a??set-cookie: x");
    }
}
