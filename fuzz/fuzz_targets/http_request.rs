//! However a sandbox cuts its HTTP/1 bytes, the guard lets the same of them through; what it lets through are whole
//! heads that another parser reads as complete, each framed in one way only, and their bodies.
//!
//! Input: the lengths of the first pieces (four bytes), and what the sandbox sends.

#![no_main]

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use exeat::intercept::http::guard::{Fault, Guard, Watch};
use exeat::limits;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};

fuzz_target!(|input: &[u8]| {
    let (lengths, sent) = input.split_at(input.len().min(4));
    let (passed, fault) = through(&[sent], 4096);
    let pieces = pieces(lengths, sent);
    let reader = usize::from(lengths.first().copied().unwrap_or_default()) + 1;
    for reader in [4096, reader] {
        let (other, other_fault) = through(&pieces, reader);
        assert_eq!(other_fault, fault, "it matters how the bytes are cut, or read");
        // Of what is broken, less may pass.
        let alike =
            if fault.is_some() { passed.starts_with(&other) || other.starts_with(&passed) } else { passed == other };
        assert!(alike, "it matters how the bytes are cut, or read");
        messages(&other);
    }
    assert!(is_within(&passed, sent), "what passes is not what was sent");
    messages(&passed);
});

/// What a guard lets through of these pieces, and what ended it.
fn through(pieces: &[&[u8]], reader: usize) -> (Vec<u8>, Option<Fault>) {
    let watch = Arc::new(Watch::default());
    let io = Pieces(pieces.iter().map(|piece| piece.to_vec()).collect());
    let mut guard = Guard::new(io, Arc::clone(&watch), Box::new(|_| bytes::Bytes::new()));
    let mut cx = Context::from_waker(Waker::noop());
    let mut passed = Vec::new();
    let mut space = vec![0; reader];
    loop {
        let mut buf = ReadBuf::new(&mut space);
        match Pin::new(&mut guard).poll_read(&mut cx, &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => passed.extend(buf.filled()),
            Poll::Pending if watch.withholds() => watch.invite(),
            // No answer is ever given here, so a fault waits for the answers to earlier requests.
            Poll::Ready(_) | Poll::Pending => return (passed, watch.fault()),
        }
    }
}

/// Gives one piece at a time, and then the end.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(mut piece) = self.0.pop_front() {
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Of the lengths that the input says, and then the rest; none is empty.
fn pieces<'a>(lengths: &[u8], bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for length in lengths.iter().map(|length| usize::from(*length)).chain([usize::MAX]) {
        let (piece, after) = rest.split_at(rest.len().min(length));
        if !piece.is_empty() {
            pieces.push(piece);
        }
        rest = after;
    }
    pieces
}

/// Whether one is the other but for empty lines that were left out between requests (RFC 9112 §2.2).
fn is_within(passed: &[u8], sent: &[u8]) -> bool {
    let mut sent = sent.iter();
    passed.iter().all(|byte| sent.by_ref().any(|other| other == byte))
}

/// Reads what passed with another parser and the plain words of RFC 9112 §6: nothing is left that begins no message.
fn messages(mut rest: &[u8]) {
    while !rest.is_empty() {
        let mut fields = [httparse::EMPTY_HEADER; limits::HEAD_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let Ok(httparse::Status::Complete(length)) = request.parse(rest) else {
            panic!("no whole head: {:?}", String::from_utf8_lossy(rest));
        };
        let all = |name: &str| -> Vec<String> {
            let fields = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
            fields.map(|field| String::from_utf8_lossy(field.value).into_owned()).collect()
        };
        let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
        assert!(lengths.len() + codings.len() <= 1, "framed twice: {lengths:?} {codings:?}");
        assert!(request.version == Some(0) || all("host").len() == 1);
        let head = &rest[..length];
        assert!(head.iter().enumerate().all(|(at, byte)| *byte != b'\n' || at > 0 && head[at - 1] == b'\r'), "bare LF");
        assert!(!head.windows(3).any(|three| three.starts_with(b"\n") && (three[1] == b' ' || three[1] == b'\t')));
        rest = &rest[length..];
        if let Some(coding) = codings.first() {
            assert!(coding.eq_ignore_ascii_case("chunked") && request.version == Some(1));
            rest = after_chunks(rest);
        } else if let Some(number) = lengths.first() {
            assert!(number.bytes().all(|byte| byte.is_ascii_digit()));
            let length = number.parse::<u64>().expect("a length");
            rest = &rest[usize::try_from(length).unwrap_or(usize::MAX).min(rest.len())..];
        }
    }
}

/// What stands behind a chunked body; nothing, where it is not over.
fn after_chunks(mut rest: &[u8]) -> &[u8] {
    loop {
        let Some((size, after)) = line(rest) else { return &[] };
        let digits = size.split(|byte| *byte == b';').next().unwrap_or_default();
        let text = std::str::from_utf8(digits).expect("digits");
        assert!(!text.starts_with('+'));
        let size = u64::from_str_radix(text, 16).expect("a size in hexadecimal");
        if size == 0 {
            rest = after;
            break;
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let Some(end) = after.get(size..).filter(|end| !end.is_empty()) else { return &[] };
        if end.len() < 2 {
            assert_eq!(end, b"\r");
            return &[];
        }
        rest = end.strip_prefix(b"\r\n").expect("the end of a chunk");
    }
    loop {
        match line(rest) {
            None => return &[],
            Some((b"", after)) => return after,
            Some((_, after)) => rest = after,
        }
    }
}

/// A line that is over, without its end, and what follows.
fn line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.windows(2).position(|two| two == b"\r\n")?;
    Some((&text[..end], &text[end + 2..]))
}
