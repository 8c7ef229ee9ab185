//! One HTTP/1 request head: where it ends, whether it is beyond doubt, and how its body is framed.
//!
//! Pure functions over bytes, stricter than the HTTP library behind them: what passes here, the library accepts and
//! reads in the same way. What a head *means* is judged elsewhere.

use http::{HeaderName, Method, Uri};

use crate::limits;

/// A head that passed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// How its body is framed.
    pub(super) body: Body,
    /// Whether its client expects something before it sends that (RFC 9110 §10.1.1).
    pub(super) expects: bool,
}

/// The framing of a request body (RFC 9112 §6.3).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// There is none.
    None,
    /// `Content-Length`, not zero.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Why a head does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadFault {
    /// Its first line is no request line of HTTP/1.
    NoRequestLine,
    /// It can be read in more than one way, or in none.
    Malformed,
    /// Over [`limits::HEAD_BYTES`] or [`limits::HEAD_FIELDS`].
    TooLarge,
}

/// Looks for the end of a head that comes in pieces; sees each byte once.
#[derive(Debug, Default)]
pub(super) struct Scan {
    at: usize,
    line_start: usize,
    lines: usize,
}

impl Scan {
    /// The length of the head that `bytes` begins with, once all of it is there. `bytes` may only grow between calls.
    ///
    /// # Errors
    /// At the first byte that no head may hold: a control byte, a bare CR or LF (RFC 9112 §2.2), or one too many.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, HeadFault> {
        while let Some(&byte) = bytes.get(self.at) {
            let after_cr = self.at > self.line_start && bytes.get(self.at - 1) == Some(&b'\r');
            match byte {
                b'\n' if after_cr => {
                    let line = bytes.get(self.line_start..self.at - 1).unwrap_or_default();
                    if self.lines == 0 {
                        RequestLine::read(line)?;
                    }
                    self.at += 1;
                    self.line_start = self.at;
                    self.lines += 1;
                    if line.is_empty() {
                        return Ok(Some(self.at));
                    }
                    if self.lines > limits::HEAD_FIELDS + 1 {
                        return Err(HeadFault::TooLarge);
                    }
                    continue;
                }
                _ if after_cr => return Err(self.fault(bytes)),
                b'\r' | b'\t' | b' '..=b'~' | 0x80.. => self.at += 1,
                _ => return Err(self.fault(bytes)),
            }
            if self.at >= limits::HEAD_BYTES {
                return Err(HeadFault::TooLarge);
            }
        }
        Ok(None)
    }

    /// What a forbidden byte means here: in a first line that does not even begin like one, this is another protocol.
    fn fault(&self, bytes: &[u8]) -> HeadFault {
        let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
        let begun = method > 0 && bytes.get(method) == Some(&b' ');
        if self.lines == 0 && !begun { HeadFault::NoRequestLine } else { HeadFault::Malformed }
    }
}

/// Checks a whole head, its final empty line included.
///
/// # Errors
/// Where it is not exactly what RFC 9112 §3 to §6 describe, or can be framed in two ways.
pub(super) fn check(head: &[u8]) -> Result<Head, HeadFault> {
    let text = head.strip_suffix(b"\r\n\r\n").ok_or(HeadFault::Malformed)?;
    let mut lines = split_lines(text);
    let request = RequestLine::read(lines.next().unwrap_or_default())?;
    let mut framing = Framing::default();
    for line in lines {
        let (name, value) = field(line).ok_or(HeadFault::Malformed)?;
        framing.note(&name, value).ok_or(HeadFault::Malformed)?;
    }
    let body = framing.body(&request).ok_or(HeadFault::Malformed)?;
    Ok(Head { body, expects: framing.expects })
}

/// One field line: a token, a colon at once, a value without control bytes (RFC 9112 §5). `None` where it is not.
pub(super) fn field(line: &[u8]) -> Option<(HeaderName, &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let name = HeaderName::from_bytes(line.get(..colon)?).ok()?;
    let value = line.get(colon + 1..)?.trim_ascii();
    value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)).then_some((name, value))
}

/// A number of ASCII digits alone (RFC 9110 §8.6): no sign, no list, no space.
fn decimal(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    (text.len() <= 19 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn split_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    // A bare CR or LF was refused before, so every LF ends a line and every CR stands before one.
    text.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

struct RequestLine {
    /// HTTP/1.1, not HTTP/1.0.
    current: bool,
}

impl RequestLine {
    /// `METHOD SP target SP HTTP/1.x`, single spaces, nothing else.
    fn read(line: &[u8]) -> Result<Self, HeadFault> {
        let mut parts = line.rsplitn(2, |&byte| byte == b' ');
        let version = parts.next().unwrap_or_default();
        if !version.starts_with(b"HTTP/") {
            return Err(HeadFault::NoRequestLine);
        }
        let rest = parts.next().ok_or(HeadFault::NoRequestLine)?;
        let space = rest.iter().position(|&byte| byte == b' ').ok_or(HeadFault::Malformed)?;
        let (method, target) = rest.split_at(space);
        let target = target.get(1..).unwrap_or_default();
        let current = match version {
            b"HTTP/1.1" => true,
            b"HTTP/1.0" => false,
            _ => return Err(HeadFault::Malformed),
        };
        // The library drops a fragment in silence; here it is what it is, no part of a target (RFC 9112 §3.2).
        let plain = target.iter().all(|&byte| byte > b' ' && byte != 0x7f && byte != b'#');
        if !plain || Method::from_bytes(method).is_err() || Uri::try_from(target).is_err() {
            return Err(HeadFault::Malformed);
        }
        Ok(Self { current })
    }
}

/// The fields that framing and routing depend on.
#[derive(Default)]
struct Framing {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    expects: bool,
}

impl Framing {
    /// Notes one field; `None` where it is a second one, or not in its only form.
    fn note(&mut self, name: &HeaderName, value: &[u8]) -> Option<()> {
        if *name == http::header::HOST {
            self.hosts += 1;
            return (self.hosts == 1 && !value.iter().any(|byte| b", \t".contains(byte))).then_some(());
        }
        if *name == http::header::CONTENT_LENGTH {
            return self.length.replace(decimal(value)?).is_none().then_some(());
        }
        if *name == http::header::TRANSFER_ENCODING {
            let first = !std::mem::replace(&mut self.chunked, true);
            return (first && value.eq_ignore_ascii_case(b"chunked")).then_some(());
        }
        self.expects |= *name == http::header::EXPECT;
        Some(())
    }

    fn body(&self, request: &RequestLine) -> Option<Body> {
        if request.current && self.hosts != 1 {
            return None;
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => None,
            (true, None) => request.current.then_some(Body::Chunked),
            (false, None | Some(0)) => Some(Body::None),
            (false, Some(length)) => Some(Body::Length(length)),
        }
    }
}
