//! What the first bytes of a flow say: a TLS ClientHello, an HTTP request line, or neither (POLICY §4).
//!
//! Pure: bytes in, a [`Reading`] out; `peek` feeds it. It reads a hello more strictly than any TLS library needs to,
//! since a hello that two readers take differently is a way past a policy: what is doubtful is a [`HelloFault`],
//! never a guess.
//!
//! - `INVARIANT`: no beginning of a readable hello is anything but [`Reading::More`].
//! - `INVARIANT`: a reading stands; more bytes never change it.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashSet;

use crate::flow::{Alpn, Domain, Hello, HelloFault, HttpVersion, Seen};
use crate::limits;

/// What the bytes so far say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// Nothing that is certain; it can be so when there are `at_least` bytes, always more than there were.
    More {
        /// Bytes from the flow's first.
        at_least: usize,
    },
    /// This, whatever follows.
    Certain(Seen),
}

impl Reading {
    const OPAQUE: Self = Self::Certain(Seen::Opaque);

    fn more_than(bytes: &[u8]) -> Self {
        Self::More { at_least: bytes.len() + 1 }
    }
}

/// Reads the first bytes of a flow.
#[must_use]
pub fn read(bytes: &[u8]) -> Reading {
    match bytes {
        [] | [HANDSHAKE] => Reading::more_than(bytes),
        [HANDSHAKE, 3, ..] => read_tls(bytes),
        _ => read_text(bytes),
    }
}

/// What the bytes say when no more can come, where [`read`] asked for more: the client has ended its side, or
/// [`limits::HELLO_BYTES`] are read.
#[must_use]
pub fn read_cut(bytes: &[u8]) -> Seen {
    match bytes {
        [HANDSHAKE, 3, ..] if bytes.len() >= limits::HELLO_BYTES => Seen::Unreadable(HelloFault::TooLarge),
        [HANDSHAKE, 3, ..] => Seen::Unreadable(HelloFault::Incomplete),
        // A request line that has a target and no end: a long one, which HTTP's own limits refuse.
        _ if bytes.len() >= limits::HELLO_BYTES && has_target(bytes) => Seen::Http(HttpVersion::Http1),
        _ => Seen::Opaque,
    }
}

/// `ContentType.handshake` (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// `HandshakeType.client_hello` (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
/// Bytes before the fragment of a TLSPlaintext (RFC 8446 §5.1).
const RECORD_HEADER: usize = 5;
/// Bytes of a fragment at most (RFC 8446 §5.1).
const FRAGMENT: usize = 1 << 14;
/// Bytes before the body of a handshake message (RFC 8446 §4).
const MESSAGE_HEADER: usize = 4;
/// Bytes of a request's method, beyond which it is none. Those in use have 20 at most.
const METHOD: usize = 64;

/// `bytes` begin as TLS does.
fn read_tls(bytes: &[u8]) -> Reading {
    match join_records(bytes) {
        Ok(Joined::More { at_least }) => Reading::More { at_least },
        Ok(Joined::Message(body)) => Reading::Certain(parse(&body).map_or_else(Seen::Unreadable, Seen::Tls)),
        Err(fault) => Reading::Certain(Seen::Unreadable(fault)),
    }
}

enum Joined {
    More {
        at_least: usize,
    },
    /// The body of the ClientHello, without its header.
    Message(Vec<u8>),
}

/// Puts the fragments of the first handshake message together. It must be a ClientHello, and nothing else may stand in
/// its last record.
fn join_records(bytes: &[u8]) -> Result<Joined, HelloFault> {
    let mut message: Vec<u8> = Vec::new();
    let mut rest = bytes;
    loop {
        let at = bytes.len() - rest.len();
        let header = match rest {
            [kind, major, _, high, low, ..] if *kind == HANDSHAKE && *major == 3 => [*high, *low],
            [kind, ..] if *kind != HANDSHAKE => return Err(HelloFault::Malformed),
            [_, major, ..] if *major != 3 => return Err(HelloFault::Malformed),
            _ => return Ok(Joined::More { at_least: at + RECORD_HEADER }),
        };
        let length = usize::from(u16::from_be_bytes(header));
        // Zero-length fragments of handshake messages are forbidden (RFC 8446 §5.1).
        if length == 0 || length > FRAGMENT {
            return Err(HelloFault::Malformed);
        }
        let after = rest.get(RECORD_HEADER..).unwrap_or_default();
        let fragment = after.get(..length).unwrap_or(after);
        message.extend_from_slice(fragment);
        if let Some(whole) = message_length(&message)? {
            // How much of the message this record holds is known before its bytes are here.
            let held = message.len() - fragment.len() + length;
            if held > whole {
                return Err(HelloFault::Malformed);
            }
            if message.len() == whole {
                return Ok(Joined::Message(message.split_off(MESSAGE_HEADER)));
            }
        }
        match after.get(length..) {
            Some(next) => rest = next,
            None => return Ok(Joined::More { at_least: at + RECORD_HEADER + length }),
        }
    }
}

/// Bytes of the handshake message that begins so, with its header; `None` while the header is not whole.
fn message_length(message: &[u8]) -> Result<Option<usize>, HelloFault> {
    match message {
        [] => Ok(None),
        [kind, ..] if *kind != CLIENT_HELLO => Err(HelloFault::Malformed),
        [_, high, middle, low, ..] => {
            let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
            let whole = MESSAGE_HEADER + length;
            // It could never be read to its end.
            if RECORD_HEADER + whole > limits::HELLO_BYTES { Err(HelloFault::TooLarge) } else { Ok(Some(whole)) }
        }
        _ => Ok(None),
    }
}

/// Reads the body of a ClientHello (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2).
fn parse(body: &[u8]) -> Result<Hello, HelloFault> {
    let mut fields = Fields(body);
    let [3, _] = fields.take(2)? else { return Err(HelloFault::Malformed) };
    let _random = fields.take(32)?;
    let session_id = fields.vector8()?;
    let suites = fields.vector16()?;
    let compressions = fields.vector8()?;
    if session_id.len() > 32 || suites.is_empty() || suites.len() % 2 != 0 || compressions.is_empty() {
        return Err(HelloFault::Malformed);
    }
    let mut hello = Hello { sni: None, alpn: Vec::new(), ech: false };
    if fields.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Fields(fields.vector16()?);
    fields.end()?;
    let mut kinds = HashSet::new();
    while !extensions.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector16()?;
        // No type may stand twice (RFC 8446 §4.2): which of two names counts would be anybody's guess.
        if !kinds.insert(kind) {
            return Err(HelloFault::Malformed);
        }
        match kind {
            // server_name (RFC 6066 §3)
            0 => hello.sni = Some(parse_server_name(data)?),
            // application_layer_protocol_negotiation (RFC 7301 §3.1)
            16 => hello.alpn = parse_alpn(data)?,
            // encrypted_client_hello (RFC 9849)
            0xfe0d => hello.ech = true,
            _ => {}
        }
    }
    Ok(hello)
}

fn parse_server_name(data: &[u8]) -> Result<Domain, HelloFault> {
    const HOST_NAME: u8 = 0;
    let mut outer = Fields(data);
    let mut list = Fields(outer.vector16()?);
    outer.end()?;
    let kind = list.u8()?;
    let name = list.vector16()?;
    if kind != HOST_NAME || !list.is_empty() {
        return Err(HelloFault::BadName);
    }
    // On the wire a name is ASCII (RFC 6066 §3), so nothing is left for IDNA to fold.
    let text = std::str::from_utf8(name).ok().filter(|text| text.is_ascii()).ok_or(HelloFault::BadName)?;
    Domain::parse(text).map_err(|_| HelloFault::BadName)
}

fn parse_alpn(data: &[u8]) -> Result<Vec<Alpn>, HelloFault> {
    let mut outer = Fields(data);
    let mut list = Fields(outer.vector16()?);
    outer.end()?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        protocols.push(match list.vector8()? {
            [] => return Err(HelloFault::Malformed),
            name => Alpn::from(name),
        });
    }
    if protocols.is_empty() { Err(HelloFault::Malformed) } else { Ok(protocols) }
}

/// A reader of the fields of a TLS structure; whatever is missing is [`HelloFault::Malformed`].
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], HelloFault> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(HelloFault::Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, HelloFault> {
        let (byte, rest) = self.0.split_first().ok_or(HelloFault::Malformed)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn u16(&mut self) -> Result<u16, HelloFault> {
        Ok(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    /// A vector with a length of one byte.
    fn vector8(&mut self) -> Result<&'a [u8], HelloFault> {
        let length = self.u8()?.into();
        self.take(length)
    }

    /// A vector with a length of two bytes.
    fn vector16(&mut self) -> Result<&'a [u8], HelloFault> {
        let length = self.u16()?.into();
        self.take(length)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may follow.
    fn end(&self) -> Result<(), HelloFault> {
        if self.is_empty() { Ok(()) } else { Err(HelloFault::Malformed) }
    }
}

/// Looks for an HTTP request line: a method, and `HTTP/` at the beginning of the line's last word. That is broader
/// than any server reads, so that nothing that some server takes for HTTP is taken for opaque here; whether it is
/// well-formed is for `intercept::http` to say.
fn read_text(bytes: &[u8]) -> Reading {
    let start = leading_breaks(bytes);
    let line = bytes.get(start..).unwrap_or_default();
    for (at, &byte) in line.iter().enumerate() {
        if byte == b'\n' {
            return Reading::Certain(line.get(..at).map_or(Seen::Opaque, |line| judge_line(line, start)));
        }
        if !matches!(byte, b'\t' | b'\r' | b' '..=b'~' | 0x80..) {
            return Reading::OPAQUE;
        }
    }
    let method = line.iter().position(|byte| is_blank(*byte)).unwrap_or(line.len());
    let possible =
        method <= METHOD && line.iter().take(method).copied().all(is_token) && (method > 0 || line.is_empty());
    if possible { Reading::more_than(bytes) } else { Reading::OPAQUE }
}

/// A whole first line, without its LF, that follows `start` bytes of line breaks.
fn judge_line(line: &[u8], start: usize) -> Seen {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line == b"PRI * HTTP/2.0" && start == 0 {
        return Seen::Http(HttpVersion::Http2);
    }
    let mut words = line.split(|byte| is_blank(*byte));
    let method = words.next().unwrap_or_default();
    let last = words.rfind(|word| !word.is_empty()).unwrap_or_default();
    let is_version = last.get(..5).is_some_and(|begin| begin.eq_ignore_ascii_case(b"HTTP/"));
    let is_method = !method.is_empty() && method.len() <= METHOD && method.iter().copied().all(is_token);
    if is_method && is_version { Seen::Http(HttpVersion::Http1) } else { Seen::Opaque }
}

/// Whether the first line, so far, is a method, a blank and something more.
fn has_target(bytes: &[u8]) -> bool {
    let line = bytes.get(leading_breaks(bytes)..).unwrap_or_default();
    line.iter().position(|byte| is_blank(*byte)).is_some_and(|at| at > 0 && at + 1 < line.len())
}

/// How many CR and LF come first; servers skip them (RFC 9112 §2.2).
fn leading_breaks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r')
}

/// A character of a token (RFC 9110 §5.6.2), which a method is.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
