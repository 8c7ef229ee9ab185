//! However an origin's answer is cut, and whatever stands in it: it keeps its length, nothing is changed but to marks,
//! and no value passes, as it stands or in one of its forms.
//!
//! Input: the length of the value (one byte), how it comes back (one byte), the lengths of the first pieces (four
//! bytes), the value, and what stands around it.

#![no_main]

use std::fmt::Write;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use exeat::limits;
use exeat::secret::Secret;
use exeat::secret::scrub::Scrubber;
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

fuzz_target!(|input: &[u8]| {
    let Some(([length, form, cuts @ ..], rest)) = input.split_first_chunk::<6>() else { return };
    let length = (limits::SCRUB_SHORTEST + usize::from(*length) % 64).min(rest.len());
    let (value, around) = rest.split_at(length);
    // What a source gives has no newline at its end. Marks may make up a value that holds some, which tells nothing.
    if length < limits::SCRUB_SHORTEST || value.ends_with(b"\n") || value.contains(&b'*') {
        return;
    }
    let echo = echoed(value, *form);
    let (before, after) = around.split_at(around.len() / 2);
    let text = [before, &echo, after].concat();
    let scrubber = Arc::new(Scrubber::new([&Secret::new(Zeroizing::new(value.to_vec()))]));

    let struck = scrubber.strike(&text).expect("the echo stands in it");
    check(&text, &struck, &echo);

    let mut passage = scrubber.passage();
    let (mut passed, mut rest) = (Vec::new(), text.as_slice());
    for length in cuts.iter().map(|cut| usize::from(*cut)).chain([usize::MAX]) {
        let (piece, after) = rest.split_at(rest.len().min(length));
        passed.extend_from_slice(&passage.feed(Bytes::copy_from_slice(piece)));
        rest = after;
    }
    passed.extend_from_slice(&passage.finish());
    check(&text, &passed, &echo);
    assert!(passage.found() > 0);
    assert_eq!(passage.waiting(), 0);
});

/// One of the forms in which a value comes back.
fn echoed(value: &[u8], form: u8) -> Vec<u8> {
    let escaped = |before: &str, after: &str| {
        let mut text = String::new();
        value.iter().for_each(|byte| write!(text, "{before}{byte:02x}{after}").expect("a string"));
        text.into_bytes()
    };
    match form % 6 {
        0 => value.to_vec(),
        1 => value.iter().rev().copied().collect(),
        2 => escaped("", ""),
        3 if value.is_ascii() => escaped("%", ""),
        4 => BASE64_STANDARD.encode(value).trim_end_matches('=').as_bytes().to_vec(),
        5 => BASE64_URL_SAFE_NO_PAD.encode(value).into_bytes(),
        _ => value.to_vec(),
    }
}

fn check(text: &[u8], passed: &[u8], echo: &[u8]) {
    assert_eq!(text.len(), passed.len());
    assert!(text.iter().zip(passed).all(|(was, is)| was == is || *is == b'*'));
    assert!(!passed.windows(echo.len()).any(|part| part == echo), "it passes");
}
