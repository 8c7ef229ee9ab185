//! Bodies that are signed in pieces, cut anywhere, and with anything else in them.

use aws_lc_rs::hmac::HMAC_SHA256;
use proptest::prelude::*;

use super::*;

fn chain(key: &str) -> Chain {
    Chain::new(Key::new(HMAC_SHA256, key.as_bytes()), "20260102T030405Z", "a/b/c/aws4_request", "seed".to_owned())
}

/// A body in pieces, signed by a key, perhaps with a trailer.
fn body(key: &str, pieces: &[Vec<u8>], trailer: Option<&str>) -> Vec<u8> {
    let (mut chain, mut body) = (chain(key), Vec::new());
    for piece in pieces.iter().map(Vec::as_slice).chain([&b""[..]]) {
        let signature = chain.piece(&sha256(piece)).to_owned();
        body.extend_from_slice(format!("{:x};chunk-signature={signature}\r\n", piece.len()).as_bytes());
        body.extend_from_slice(piece);
        if !piece.is_empty() {
            body.extend_from_slice(b"\r\n");
        }
    }
    if let Some(fields) = trailer {
        let signature = chain.trailer(&sha256(format!("{fields}\n").as_bytes())).to_owned();
        body.extend_from_slice(format!("{fields}\r\nx-amz-trailer-signature:{signature}\r\n").as_bytes());
    }
    body.extend_from_slice(b"\r\n");
    body
}

/// What becomes of a body that arrives in pieces of this size.
fn passed(sent: &[u8], step: usize, has_trailer: bool) -> Result<Vec<u8>, SignFault> {
    let mut chunks = Chunks::new(chain("theirs"), chain("ours"), has_trailer);
    let (mut out, mut fed) = (Vec::new(), 0);
    for piece in sent.chunks(step.max(1)) {
        out.extend_from_slice(&chunks.feed(&Bytes::copy_from_slice(piece))?);
        fed += piece.len();
        assert_eq!(out.len() + chunks.waiting(), fed, "a body keeps its length");
    }
    chunks.finish()?;
    Ok(out)
}

proptest! {
    #[test]
    fn a_body_is_signed_again_however_it_arrives(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 0..6),
        trailer in prop::option::of("x-amz-checksum-[a-z]{3}:[A-Za-z0-9+/]{4}=="),
        step in 1..300_usize,
    ) {
        let trailer = trailer.as_deref();
        let (theirs, ours) = (body("theirs", &pieces, trailer), body("ours", &pieces, trailer));
        prop_assert_eq!(passed(&theirs, step, trailer.is_some()).unwrap(), ours);
    }

    #[test]
    fn a_body_with_another_byte_anywhere_is_refused(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 1..4),
        at in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let mut sent = body("theirs", &pieces, Some("x-a:b"));
        *at.get_mut(&mut sent) ^= flip;
        let again = passed(&sent, 50, true);
        // A blank around a field is not signed, and neither is the case of a size.
        let ours = body("ours", &pieces, Some("x-a:b"));
        prop_assert!(again.is_err() || again.is_ok_and(|out| out.len() == ours.len() && out != ours));
    }
}

#[test]
fn a_body_that_is_cut_or_goes_on_is_refused() {
    let pieces = [vec![b'a'; 100], vec![b'b'; 50]];
    let whole = body("theirs", &pieces, None);
    for end in 0..whole.len() {
        assert_eq!(passed(&whole[..end], 64, false), Err(SignFault::Chunk), "{end}");
    }
    let more = [&whole[..], b"x"].concat();
    assert_eq!(passed(&more, 64, false), Err(SignFault::Chunk));
    assert_eq!(passed(&body("another", &pieces, None), 64, false), Err(SignFault::Chunk));
    assert_eq!(passed(&body("theirs", &pieces, Some("x-a:b")), 64, false), Err(SignFault::Chunk));
    assert_eq!(passed(&whole, 64, true), Err(SignFault::Chunk));
}

#[test]
fn no_more_than_a_piece_waits() {
    let line = |size: usize| format!("{size:x};chunk-signature={}\r\n", "0".repeat(64)).into_bytes();
    assert_eq!(passed(&line(limits::SIGNED_BYTES + 1), 64, false), Err(SignFault::TooLong));
    assert_eq!(passed(&[b'0'; 300], 64, false), Err(SignFault::Chunk));
    let mut endless = body("theirs", &[], Some("x-a:b"));
    endless.truncate(endless.len() - 4);
    endless.extend_from_slice(&[b'x'; TRAILER + 100]);
    assert_eq!(passed(&endless, 4096, true), Err(SignFault::TooLong));
    for strange in ["+1", "0x1", "", "-1", " 1"] {
        let text = format!("{strange};chunk-signature={}\r\n", "0".repeat(64));
        assert_eq!(passed(text.as_bytes(), 64, false), Err(SignFault::Chunk), "{strange}");
    }
}
