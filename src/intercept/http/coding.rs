//! Content codings of answers that must be read (RFC 9110 §8.4): asked for, and undone, piece by piece.
//!
//! What cannot be undone here is not asked for; an origin that uses it all the same is not understood, and its answer
//! does not reach the sandbox. gzip and brotli are undone in Rust; Zstandard is undone by its authors' own library,
//! which is C (through `zstd-safe`), since no decoder in Rust gives back at once what an encoder flushed. What it reads
//! is an origin's, so it is kept small: no old formats, no dictionaries, no threads, no window beyond RFC 9659's.
//!
//! - `INVARIANT`: one step gives two or three times [`limits::DECODED_BYTES`] at most, however far its input swells.
//! - `INVARIANT`: what an encoder flushed is given back before more of the input is waited for.

use std::fmt;
use std::io::Write;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderMap, HeaderValue};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use crate::limits;

use super::headers::tokens;

/// Undoes one coding.
pub(super) enum Decoder {
    /// RFC 1952.
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// RFC 7932.
    Brotli(Box<Brotli>),
    /// RFC 8878.
    Zstd(Zstd),
}

pub(super) struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    is_over: bool,
}

/// Frames of Zstandard, one after another; what is in a skippable frame is left out.
pub(super) struct Zstd {
    context: DCtx<'static>,
    /// Whether a frame ended where the input did.
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
        ["gzip", "br", "zstd", "identity"].iter().any(|known| coding.eq_ignore_ascii_case(known))
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
            Some("zstd") => Zstd::new().map(|zstd| Some(Self::Zstd(zstd))),
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
            Self::Zstd(zstd) => zstd.step(input),
        }
    }

    /// Whether the text may end here. Nothing may follow that question.
    pub(super) fn is_over(&mut self) -> bool {
        match self {
            Self::Gzip(decoder) => decoder.try_finish().is_ok(),
            Self::Brotli(brotli) => brotli.is_over,
            Self::Zstd(zstd) => zstd.is_over,
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

impl Zstd {
    fn new() -> Result<Self, CodingError> {
        let mut context = DCtx::try_create().ok_or(CodingError)?;
        context.set_parameter(DParameter::WindowLogMax(limits::ZSTD_WINDOW_LOG)).map_err(|_| CodingError)?;
        Ok(Self { context, is_over: false })
    }

    fn step(&mut self, input: &[u8]) -> Result<Step, CodingError> {
        let mut decoded = vec![0; limits::DECODED_BYTES];
        let mut source = InBuffer::around(input);
        let mut target = OutBuffer::around(&mut decoded[..]);
        // Nothing more is wanted where a frame has ended and all of it was given; the next begins with the next input.
        let wanted = self.context.decompress_stream(&mut target, &mut source).map_err(|_| CodingError)?;
        let (taken, given) = (source.pos(), target.pos());
        self.is_over = wanted == 0;
        decoded.truncate(given);
        Ok(Step { taken, decoded: decoded.into(), is_full: !self.is_over && given == limits::DECODED_BYTES })
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use zstd_safe::{CCtx, CParameter};

    use super::*;

    const TEXT: &[u8] = b"event: done\ndata: {\"secret\": \"c4n4ry\"}\n\n";
    const CODINGS: [&str; 3] = ["gzip", "br", "zstd"];

    fn decoder(coding: &'static str) -> Decoder {
        let headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(coding))]);
        Decoder::of(&headers).unwrap().unwrap()
    }

    /// The coded text as it stands after each piece's flush; what the end adds is the last.
    fn coded(coding: &str, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        match coding {
            "gzip" => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                let mut flushed = flushes(&mut encoder, pieces, |encoder| std::mem::take(encoder.get_mut()));
                flushed.push(encoder.finish().unwrap());
                flushed
            }
            "br" => {
                let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
                let mut flushed = flushes(&mut encoder, pieces, |encoder| std::mem::take(encoder.get_mut()));
                flushed.push(encoder.into_inner());
                flushed
            }
            _ => zstd(&mut CCtx::create(), pieces),
        }
    }

    fn flushes<W: Write>(encoder: &mut W, pieces: &[&[u8]], mut take: impl FnMut(&mut W) -> Vec<u8>) -> Vec<Vec<u8>> {
        let mut flush = |piece: &&[u8]| {
            encoder.write_all(piece).unwrap();
            encoder.flush().unwrap();
            take(encoder)
        };
        pieces.iter().map(&mut flush).collect()
    }

    fn zstd(encoder: &mut CCtx<'_>, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let room = || Vec::with_capacity(1024 * 1024);
        let mut flush = |piece: &&[u8]| {
            let mut out = room();
            let mut target = OutBuffer::around(&mut out);
            let mut source = InBuffer::around(piece);
            while source.pos() < piece.len() {
                encoder.compress_stream(&mut target, &mut source).unwrap();
            }
            assert_eq!(encoder.flush_stream(&mut target), Ok(0));
            out
        };
        let mut flushed: Vec<Vec<u8>> = pieces.iter().map(&mut flush).collect();
        let mut end = room();
        assert_eq!(encoder.end_stream(&mut OutBuffer::around(&mut end)), Ok(0));
        flushed.push(end);
        flushed
    }

    /// All that comes of an input, and the most that one step gave.
    fn decode(decoder: &mut Decoder, mut input: &[u8]) -> Result<(Vec<u8>, usize), CodingError> {
        let (mut all, mut most, mut is_full) = (Vec::new(), 0, false);
        while is_full || !input.is_empty() {
            let step = decoder.step(input)?;
            input = &input[step.taken..];
            is_full = step.is_full;
            most = most.max(step.decoded.len());
            all.extend_from_slice(&step.decoded);
        }
        Ok((all, most))
    }

    #[test]
    fn what_was_flushed_is_given_back_at_once() {
        for coding in CODINGS {
            let mut decoder = decoder(coding);
            let flushed = coded(coding, &[TEXT; 3]);
            let (end, flushed) = flushed.split_last().unwrap();
            for piece in flushed {
                assert_eq!(decode(&mut decoder, piece).map(|(all, _)| all).as_deref(), Ok(TEXT), "{coding}");
            }
            assert_eq!(decode(&mut decoder, end).map(|(all, _)| all).as_deref(), Ok(&b""[..]), "{coding}");
            assert!(decoder.is_over(), "{coding}");
        }
    }

    #[test]
    fn one_step_is_bounded_however_far_its_input_swells() {
        let bomb = vec![b'*'; 16 * 1024 * 1024];
        for coding in CODINGS {
            let coded = coded(coding, &[&bomb]).concat();
            assert!(coded.len() < bomb.len() / 500, "{coding}: {}", coded.len());
            let (all, most) = decode(&mut decoder(coding), &coded).unwrap();
            assert!(all == bomb, "{coding}");
            assert!(most <= 3 * limits::DECODED_BYTES, "{coding}: {most}");
        }
    }

    #[test]
    fn any_cut_is_seen_and_any_parting_is_read() {
        let text = TEXT.repeat(50);
        for coding in CODINGS {
            let coded = coded(coding, &[&text]).concat();
            for at in 1..coded.len() {
                let (begun, rest) = coded.split_at(at);
                let mut cut = decoder(coding);
                decode(&mut cut, begun).unwrap();
                assert!(!cut.is_over(), "{coding}: {at} of {}", coded.len());
                let mut whole = decoder(coding);
                let all = [decode(&mut whole, begun).unwrap().0, decode(&mut whole, rest).unwrap().0].concat();
                assert!(all == text && whole.is_over(), "{coding}: {at} of {}", coded.len());
            }
        }
    }

    /// RFC 8878 §3.1: frames follow one another, and a decoder leaves out those that are to be skipped.
    #[test]
    fn zstandard_is_read_in_frames() {
        let frame = coded("zstd", &[TEXT]).concat();
        let skipped = [&[0x5a, 0x2a, 0x4d, 0x18, 6, 0, 0, 0][..], b"c4n4ry"].concat();
        let mut decoder = decoder("zstd");
        let input = [&skipped[..], &frame, &skipped, &frame, &skipped].concat();
        assert_eq!(decode(&mut decoder, &input).unwrap().0, TEXT.repeat(2));
        assert!(decoder.is_over());
        assert_eq!(decode(&mut decoder, &skipped[..5]).unwrap().0, b"");
        assert!(!decoder.is_over(), "a frame has begun");
        assert_eq!(decode(&mut self::decoder("zstd"), b"no frame").err(), Some(CodingError));
        assert_eq!(decode(&mut self::decoder("zstd"), &[&frame[..], b"no frame"].concat()).err(), Some(CodingError));
        assert!(!self::decoder("zstd").is_over(), "nothing is no frame");
    }

    /// RFC 9659 §3: a window is of 8 MiB at most.
    #[test]
    fn zstandard_is_read_within_its_window() {
        for (log, is_read) in [(limits::ZSTD_WINDOW_LOG, true), (limits::ZSTD_WINDOW_LOG + 1, false)] {
            let mut encoder = CCtx::create();
            encoder.set_parameter(CParameter::WindowLog(log)).unwrap();
            let coded = zstd(&mut encoder, &[TEXT]).concat();
            assert_eq!(decode(&mut decoder("zstd"), &coded).is_ok(), is_read, "{log}");
        }
    }
}
