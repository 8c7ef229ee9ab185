//! What searching answers for secrets costs: bytes a second of CPU time, beside copying the same bytes.
//!
//! `cargo bench --bench scrub`. Bodies without a secret in them, in pieces as they come from a socket; one secret of a
//! usual length, and ten.

#![allow(clippy::expect_used, reason = "a measurement that fails says so")]

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use exeat::secret::Secret;
use exeat::secret::scrub::Scrubber;
use nix::time::{ClockId, clock_gettime};
use zeroize::Zeroizing;

/// Bytes of a piece, and of all.
const PIECE: usize = 16 * 1024;
const ALL: usize = 256 * 1024 * 1024;

fn main() {
    let bodies = [("JSON", json()), ("HTML", html()), ("random bytes", random())];
    println!("{:<14} {:>8} {:>14} {:>8}", "body", "secrets", "MB/s of CPU", "copying");
    for (what, piece) in &bodies {
        let copying = rate(|| drop(black_box(piece.to_vec())));
        for count in [1, 10] {
            let secrets: Vec<Secret> = (0..count).map(secret).collect();
            let mut passage = Arc::new(Scrubber::new(&secrets)).passage();
            let scrubbing = rate(|| drop(black_box(passage.feed(piece.clone()))));
            assert_eq!(passage.found(), 0, "there is none in it");
            println!("{what:<14} {count:>8} {scrubbing:>14.0} {copying:>8.0}");
        }
    }
}

/// Megabytes a second of this thread's CPU time, `act` taking one piece.
fn rate(mut act: impl FnMut()) -> f64 {
    let before = cpu();
    (0..ALL / PIECE).for_each(|_| act());
    ALL as f64 / 1e6 / (cpu() - before)
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock of this thread");
    time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9
}

/// A stream of numbers that is the same in each run (xorshift).
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(seed), |last| {
        let one = last ^ last << 13;
        let two = one ^ one >> 7;
        Some(two ^ two << 17)
    })
}

fn secret(number: usize) -> Secret {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let place = |n: u64| usize::try_from(n % LETTERS.len() as u64).unwrap_or_default();
    let letters = numbers(0x9e37_79b9_7f4a_7c15 + number as u64).skip(8).filter_map(|n| LETTERS.get(place(n)).copied());
    Secret::new(Zeroizing::new(b"ghp_".iter().copied().chain(letters.take(36)).collect()))
}

fn filled(parts: impl Iterator<Item = String>) -> Bytes {
    let mut text = String::new();
    for part in parts {
        text.push_str(&part);
        if text.len() >= PIECE {
            break;
        }
    }
    text.truncate(PIECE);
    text.into()
}

fn json() -> Bytes {
    filled(numbers(1).map(|n| {
        format!(
            "{{\"id\": {n}, \"title\": \"a \\\"title\\\"\\nof two lines\", \"sha\": \"{n:016x}\", \"ok\": true}},\n"
        )
    }))
}

fn html() -> Bytes {
    filled(numbers(2).map(|n| {
        format!(
            "<li class=\"row\"><a href=\"/item/{n}?a=1&amp;b=%20\">Item &#8211; number {n}</a> &quot;text&quot;</li>\n"
        )
    }))
}

fn random() -> Bytes {
    numbers(3).flat_map(u64::to_le_bytes).take(PIECE).collect()
}
