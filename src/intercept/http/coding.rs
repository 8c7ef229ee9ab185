//! Content codings of answers that must be read (RFC 9110 §8.4): asked for, and undone, piece by piece.
//!
//! What cannot be undone here is not asked for; an origin that uses it all the same is not understood, and its answer
//! does not reach the sandbox. `zstd` is among these: no decoder in Rust gives back at once what an encoder flushed.
//!
//! - `INVARIANT`: one step gives [`limits::DECODED_BYTES`] or little more, however far its input swells.

use std::fmt;
use std::io::Write;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderMap, HeaderValue};

use crate::limits;

use super::headers::tokens;

/// Undoes one coding.
pub(super) enum Decoder {
    /// RFC 1952.
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// RFC 7932.
    Brotli(Box<Brotli>),
}

pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    is_over: bool,
}

/// What one step did.
pub(super) struct Step {
    /// How much of the input it took.
    pub(super) taken: usize,
    /// What that says.
    pub(super) decoded: Bytes,
    /// Whether there may be more without more input.
    pub(super) is_full: bool,
}

/// An answer in a coding that was not asked for, or that is not what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CodingError;

impl fmt::Display for CodingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the upstream's answer is in a content coding that cannot be undone, so it cannot be searched for secrets",
        )
    }
}

/// Leaves of the codings that a request would take only those that are undone here.
pub(super) fn restrict(headers: &mut HeaderMap) {
    let known = |token: &&str| {
        let coding = token.split(';').next().unwrap_or_default().trim();
        ["gzip", "br", "identity"].iter().any(|known| coding.eq_ignore_ascii_case(known))
    };
    let kept: Vec<&str> = tokens(headers, &ACCEPT_ENCODING).filter(known).collect();
    // Without the field, any coding would do (RFC 9110 §12.5.3).
    let list = HeaderValue::from_str(&kept.join(", ")).ok().filter(|list| !list.is_empty());
    headers.insert(ACCEPT_ENCODING, list.unwrap_or(HeaderValue::from_static("identity")));
}

impl Decoder {
    /// For an answer with these fields; `None` if it is as it stands.
    ///
    /// # Errors
    /// In a coding that was not asked for, or in several.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, CodingError> {
        let mut codings = tokens(headers, &CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity"));
        let readable = headers.get_all(CONTENT_ENCODING).iter().all(|value| value.to_str().is_ok());
        let coding = codings.next();
        if codings.next().is_some() || !readable {
            return Err(CodingError);
        }
        match coding.map(str::to_ascii_lowercase).as_deref() {
            None => Ok(None),
            Some("gzip" | "x-gzip") => Ok(Some(Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))))),
            Some("br") => Ok(Some(Self::Brotli(Box::new(Brotli::new())))),
            Some(_) => Err(CodingError),
        }
    }

    /// Decodes some of the input.
    ///
    /// # Errors
    /// It is not in this coding.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<Step, CodingError> {
        match self {
            Self::Gzip(decoder) => {
                // One `write` fills its own buffer of 32 KiB once at most; `flush` empties that.
                let taken = decoder.write(input).map_err(|_| CodingError)?;
                decoder.flush().map_err(|_| CodingError)?;
                let decoded = Bytes::from(std::mem::take(decoder.get_mut()));
                // Nothing taken and nothing given: there is something behind the end that is no further member.
                if taken == 0 && decoded.is_empty() && !input.is_empty() {
                    return Err(CodingError);
                }
                Ok(Step { taken, decoded, is_full: false })
            }
            Self::Brotli(brotli) => brotli.step(input),
        }
    }

    /// Whether the text may end here.
    pub(super) fn is_over(&mut self) -> bool {
        match self {
            Self::Gzip(decoder) => decoder.try_finish().is_ok(),
            Self::Brotli(brotli) => brotli.is_over,
        }
    }
}

impl Brotli {
    fn new() -> Self {
        let [first, second, third] = [(); 3].map(|()| StandardAlloc::default());
        Self { state: BrotliState::new_strict(first, second, third), is_over: false }
    }

    fn step(&mut self, input: &[u8]) -> Result<Step, CodingError> {
        if self.is_over {
            return if input.is_empty() {
                Ok(Step { taken: 0, decoded: Bytes::new(), is_full: false })
            } else {
                Err(CodingError)
            };
        }
        let mut out = vec![0; limits::DECODED_BYTES];
        let (mut left, mut taken) = (input.len(), 0);
        let (mut room, mut given, mut total) = (out.len(), 0, 0);
        let state = &mut self.state;
        let result =
            BrotliDecompressStream(&mut left, &mut taken, input, &mut room, &mut given, &mut out, &mut total, state);
        let is_full = match result {
            BrotliResult::ResultSuccess => {
                self.is_over = true;
                false
            }
            BrotliResult::NeedsMoreInput => false,
            BrotliResult::NeedsMoreOutput => true,
            BrotliResult::ResultFailure => return Err(CodingError),
        };
        out.truncate(given);
        Ok(Step { taken, decoded: out.into(), is_full })
    }
}
