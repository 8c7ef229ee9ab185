//! Bodies that are signed piece by piece (`STREAMING-AWS4-HMAC-SHA256-PAYLOAD`): each piece's signature is verified
//! with the placeholder and made again with the key, as it streams.
//!
//! A signature depends on the one before it and stands before its piece, so one piece waits until it is whole, and no
//! more than that. All signatures have one length, so nothing that frames the body changes.
//!
//! `INVARIANT`: what is given out is signed by the client, byte for byte, and ends where the client's last piece ends.

use aws_lc_rs::hmac::{self, Key};
use bytes::{Buf, Bytes, BytesMut};

use super::{SignFault, hex, sha256};
use crate::limits;

/// Bytes of the line before a piece, at most: a size, and a signature.
const LINE: usize = 128;
/// Bytes of all that follows the last piece.
const TRAILER: usize = 16 * 1024;
const SIGNATURE: &str = ";chunk-signature=";
const TRAILER_SIGNATURE: &[u8] = b"x-amz-trailer-signature:";

/// Signatures of one key, each over the one before.
pub struct Chain {
    key: Key,
    /// When, and for what: the lines that all texts to sign have in common.
    scope: String,
    last: String,
}

impl Chain {
    /// Begins with the signature of the head.
    #[must_use]
    pub fn new(key: Key, time: &str, scope: &str, seed: String) -> Self {
        Self { key, scope: format!("{time}\n{scope}\n"), last: seed }
    }

    fn piece(&mut self, hash: &str) -> &str {
        let empty = sha256(b"");
        self.sign("AWS4-HMAC-SHA256-PAYLOAD", &format!("{empty}\n{hash}"))
    }

    fn trailer(&mut self, hash: &str) -> &str {
        self.sign("AWS4-HMAC-SHA256-TRAILER", hash)
    }

    fn sign(&mut self, what: &str, hashes: &str) -> &str {
        let text = format!("{what}\n{}{}\n{hashes}", self.scope, self.last);
        self.last = hex(hmac::sign(&self.key, text.as_bytes()).as_ref());
        &self.last
    }
}

/// The line before a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    size: usize,
    /// The size as it is written, which stays as it is.
    written: String,
    signature: String,
}

/// A body on its way.
pub struct Chunks {
    theirs: Chain,
    ours: Chain,
    has_trailer: bool,
    at: At,
    /// What waits.
    kept: BytesMut,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    /// Before the line of a piece.
    Line,
    /// Within a piece.
    Piece(Line),
    /// Behind the last piece.
    Trailer(Line),
    Over,
}

impl Chunks {
    /// A body whose head was signed so by the client, and is signed so by us.
    #[must_use]
    pub fn new(theirs: Chain, ours: Chain, has_trailer: bool) -> Self {
        Self { theirs, ours, has_trailer, at: At::Line, kept: BytesMut::new() }
    }

    /// How many bytes were fed and not given out.
    #[must_use]
    pub fn waiting(&self) -> usize {
        // A line that was read is held as its size and its signature; it is given out with its piece.
        let line = match &self.at {
            At::Line | At::Over => 0,
            At::Piece(line) | At::Trailer(line) => line.with(&line.signature).len(),
        };
        line + self.kept.len()
    }

    /// Takes the next bytes, and gives what may go.
    ///
    /// # Errors
    /// Something is not signed as it should be, or too much would wait.
    pub fn feed(&mut self, bytes: &Bytes) -> Result<Bytes, SignFault> {
        self.kept.extend_from_slice(bytes);
        let mut out = BytesMut::new();
        while self.step(&mut out)? {}
        Ok(out.freeze())
    }

    /// The body is at its end.
    ///
    /// # Errors
    /// It is not whole.
    pub fn finish(&self) -> Result<(), SignFault> {
        if self.at == At::Over && self.kept.is_empty() { Ok(()) } else { Err(SignFault::Chunk) }
    }

    /// One step, if there is enough for it.
    fn step(&mut self, out: &mut BytesMut) -> Result<bool, SignFault> {
        match std::mem::replace(&mut self.at, At::Line) {
            At::Line => self.line(),
            At::Piece(line) => self.piece(line, out),
            At::Trailer(line) => self.trailer(line, out),
            At::Over => {
                self.at = At::Over;
                if self.kept.is_empty() { Ok(false) } else { Err(SignFault::Chunk) }
            }
        }
    }

    fn line(&mut self) -> Result<bool, SignFault> {
        let Some(end) = find(&self.kept, b"\r\n") else {
            return if self.kept.len() > LINE { Err(SignFault::Chunk) } else { Ok(false) };
        };
        let text = self.kept.split_to(end);
        self.kept.advance(2);
        let line = Line::read(&text).ok_or(SignFault::Chunk)?;
        if line.size > limits::SIGNED_BYTES {
            return Err(SignFault::TooLong);
        }
        self.at = if line.size == 0 && self.has_trailer { At::Trailer(line) } else { At::Piece(line) };
        Ok(true)
    }

    fn piece(&mut self, line: Line, out: &mut BytesMut) -> Result<bool, SignFault> {
        if self.kept.len() < line.size + 2 {
            self.at = At::Piece(line);
            return Ok(false);
        }
        let piece = self.kept.split_to(line.size + 2);
        let data = piece.strip_suffix(b"\r\n").ok_or(SignFault::Chunk)?;
        self.sign_piece(&line, data, out)?;
        out.extend_from_slice(&piece);
        self.at = if line.size == 0 { At::Over } else { At::Line };
        Ok(true)
    }

    fn sign_piece(&mut self, line: &Line, data: &[u8], out: &mut BytesMut) -> Result<(), SignFault> {
        let hash = sha256(data);
        if self.theirs.piece(&hash) != line.signature {
            return Err(SignFault::Chunk);
        }
        out.extend_from_slice(line.with(self.ours.piece(&hash)).as_bytes());
        Ok(())
    }

    /// Fields, and the signature over them; then the end.
    fn trailer(&mut self, line: Line, out: &mut BytesMut) -> Result<bool, SignFault> {
        let Some(end) = find(&self.kept, b"\r\n\r\n") else {
            self.at = At::Trailer(line);
            return if self.kept.len() > TRAILER { Err(SignFault::TooLong) } else { Ok(false) };
        };
        let text = self.kept.split_to(end + 4);
        self.sign_piece(&line, b"", out)?;
        let at = find(&text, TRAILER_SIGNATURE).ok_or(SignFault::Chunk)?;
        let (fields, rest) = text.split_at(at);
        let signature = rest.get(TRAILER_SIGNATURE.len()..).and_then(|rest| rest.strip_suffix(b"\r\n\r\n"));
        let signature = signature.filter(|signature| is_signature(signature)).ok_or(SignFault::Chunk)?;
        // By line, without what may stand around each (the examples of AWS's pages end lines in three ways).
        let lines = fields.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        let canonical: Vec<u8> = lines.flat_map(|line| line.iter().chain(b"\n")).copied().collect();
        let hash = sha256(&canonical);
        if self.theirs.trailer(&hash).as_bytes() != signature {
            return Err(SignFault::Chunk);
        }
        out.extend_from_slice(fields);
        out.extend_from_slice(TRAILER_SIGNATURE);
        out.extend_from_slice(self.ours.trailer(&hash).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        self.at = At::Over;
        Ok(true)
    }
}

impl Line {
    fn read(text: &[u8]) -> Option<Self> {
        let (written, signature) = std::str::from_utf8(text).ok()?.split_once(SIGNATURE)?;
        let is_size = written.bytes().all(|byte| byte.is_ascii_hexdigit()) && is_signature(signature.as_bytes());
        let size = usize::from_str_radix(written, 16).ok().filter(|_| is_size)?;
        Some(Self { size, written: written.to_owned(), signature: signature.to_owned() })
    }

    /// It with a signature.
    fn with(&self, signature: &str) -> String {
        format!("{}{SIGNATURE}{signature}\r\n", self.written)
    }
}

fn is_signature(text: &[u8]) -> bool {
    text.len() == 64 && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, what)
}

#[cfg(test)]
mod tests;
