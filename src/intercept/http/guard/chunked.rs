//! The chunked coding (RFC 9112 §7.1), followed byte by byte with the strict grammar and nothing else.
//!
//! It changes no byte; it finds the end of the body, or the first byte that is out of order. Chunk extensions are
//! permitted within bounds (the HTTP library drops them), trailer fields are held to the rules of head fields.

use http::header;

use crate::limits;

use super::head;

/// Bytes of one chunk-size line, its extensions included.
const SIZE_LINE: usize = 1024;
/// Digits of a chunk size.
const SIZE_DIGITS: usize = 15;

/// Where in a chunked body we are.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    step: Step,
    /// Bytes of the line that is being read.
    line: usize,
    /// The trailer section as far as it has come.
    trailers: Vec<u8>,
    fields: usize,
}

/// What a scan found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The body goes on.
    More,
    /// The last byte of the body was among those scanned.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Size { value: u64, digits: usize },
    Extension { value: u64 },
    SizeLf { value: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailer,
    TrailerLf,
}

impl Default for Step {
    fn default() -> Self {
        Self::Size { value: 0, digits: 0 }
    }
}

impl Chunked {
    /// Follows `bytes`. The number says how many are in order; with `Err`, the next one is not; with
    /// [`State::Done`], the next one is no part of the body.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> (usize, Result<State, ()>) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if let Step::Data { left } = self.step {
                let rest = bytes.len() - at;
                let count = usize::try_from(left).map_or(rest, |left| left.min(rest));
                at += count;
                let left = left - count as u64;
                self.step = if left == 0 { Step::DataCr } else { Step::Data { left } };
                continue;
            }
            match self.step(byte) {
                None => return (at, Err(())),
                Some(State::Done) => return (at + 1, Ok(State::Done)),
                Some(State::More) => at += 1,
            }
        }
        (at, Ok(State::More))
    }

    /// One byte that is not chunk data; `None` where the grammar has no place for it.
    fn step(&mut self, byte: u8) -> Option<State> {
        self.line += 1;
        self.step = match self.step {
            Step::Size { value, digits } => self.size(byte, value, digits)?,
            Step::Extension { value } => match byte {
                b'\r' => Step::SizeLf { value },
                b'\t' | b' '..=b'~' if self.line < SIZE_LINE => Step::Extension { value },
                _ => return None,
            },
            Step::SizeLf { value } => {
                self.expect(byte, b'\n')?;
                if value == 0 { Step::Trailer } else { Step::Data { left: value } }
            }
            // Chunk data is taken whole by `scan`.
            Step::Data { .. } => return None,
            Step::DataCr => self.expect(byte, b'\r').map(|()| Step::DataLf)?,
            Step::DataLf => self.expect(byte, b'\n').map(|()| Step::default())?,
            Step::Trailer => self.trailer(byte)?,
            Step::TrailerLf => {
                self.expect(byte, b'\n')?;
                if self.trailers.is_empty() {
                    return Some(State::Done);
                }
                self.end_trailer()?;
                Step::Trailer
            }
        };
        Some(State::More)
    }

    fn size(&mut self, byte: u8, value: u64, digits: usize) -> Option<Step> {
        match byte {
            b'\r' if digits > 0 => Some(Step::SizeLf { value }),
            b';' if digits > 0 => Some(Step::Extension { value }),
            _ if digits < SIZE_DIGITS => {
                let digit = char::from(byte).to_digit(16)?;
                Some(Step::Size { value: value * 16 + u64::from(digit), digits: digits + 1 })
            }
            _ => None,
        }
    }

    fn trailer(&mut self, byte: u8) -> Option<Step> {
        match byte {
            b'\r' => Some(Step::TrailerLf),
            b'\t' | b' '..=b'~' | 0x80.. if self.trailers.len() < limits::HEAD_BYTES => {
                self.trailers.push(byte);
                Some(Step::Trailer)
            }
            _ => None,
        }
    }

    /// Checks the trailer field that just ended.
    fn end_trailer(&mut self) -> Option<()> {
        self.fields += 1;
        let line = std::mem::take(&mut self.trailers);
        let (name, _) = head::field(&line)?;
        (self.fields <= limits::HEAD_FIELDS && may_trail(&name)).then_some(())
    }

    /// Takes the byte that must come next; a line ends with LF.
    fn expect(&mut self, byte: u8, expected: u8) -> Option<()> {
        if byte == b'\n' {
            self.line = 0;
        }
        (byte == expected).then_some(())
    }
}

/// Whether a field may stand in a trailer section: nothing that frames, routes or authenticates (RFC 9110 §6.5.1).
pub(in crate::intercept::http) fn may_trail(name: &http::HeaderName) -> bool {
    const NEVER: [http::HeaderName; 14] = [
        header::AUTHORIZATION,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::EXPECT,
        header::HOST,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    !NEVER.contains(name)
}
