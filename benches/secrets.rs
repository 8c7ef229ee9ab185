//! What secrets cost: the CPU time that setting a header adds to a request, and the bytes a second of CPU time in which
//! answers are searched, beside copying the same bytes.
//!
//! `cargo bench --bench secrets`. A header as most are, `Bearer` and one secret, set on a request of a browser's size.
//! Bodies without a secret in them, in pieces as they come from a socket; one secret of a usual length, and ten of as
//! many services. Of the rounds the best counts: neighbours on the same core only ever slow one down.

#![allow(clippy::expect_used, reason = "a measurement that fails says so")]

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use exeat::flow::SecretName;
use exeat::policy::verdict::{Injection, Part, Template};
use exeat::secret::inject::Injections;
use exeat::secret::scrub::Scrubber;
use exeat::secret::{Secret, Secrets};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, ORIGIN, REFERER, USER_AGENT,
};
use http::{HeaderMap, HeaderValue};
use nix::time::{ClockId, clock_gettime};
use zeroize::Zeroizing;

/// Bytes of a piece, of all of a round, and how many rounds there are.
const PIECE: usize = 16 * 1024;
const ALL: usize = 16 * 1024 * 1024;
const ROUNDS: u32 = 25;

/// Requests that are given a header.
const REQUESTS: u32 = 1_000_000;
/// The promises: at most so many microseconds for a request, and at least so many megabytes a second.
const INJECTED: f64 = 2.0;
const SEARCHED: f64 = 1000.0;

fn main() {
    let took = injection();
    println!("a header set: {took:.2} µs of CPU; may be {INJECTED}: {}\n", verdict(took <= INJECTED));
    let bodies = [("JSON", json()), ("HTML", html()), ("random bytes", random())];
    println!("{:<14} {:>8} {:>14} {:>8}", "body", "secrets", "MB/s of CPU", "copying");
    for (what, piece) in &bodies {
        let copying = rate(|| drop(black_box(piece.to_vec())));
        for count in [1, 10] {
            let secrets: Vec<Secret> = (0..count).map(secret).collect();
            let mut passage = Arc::new(Scrubber::new(&secrets)).passage();
            let scrubbing = rate(|| drop(black_box(passage.feed(piece.clone()))));
            assert_eq!(passage.found(), 0, "there is none in it");
            let verdict = verdict(scrubbing >= SEARCHED);
            println!("{what:<14} {count:>8} {scrubbing:>14.0} {copying:>8.0}  may be {SEARCHED}: {verdict}");
        }
    }
}

fn verdict(kept: bool) -> &'static str {
    if kept { "kept" } else { "NOT KEPT" }
}

/// Microseconds of this thread's CPU time that one request takes more with the header than without.
fn injection() -> f64 {
    let secrets = Secrets::default();
    let name = SecretName::new("KEY").expect("a name");
    secrets.insert(name.clone(), secret(0));
    let injection = Injection {
        header: AUTHORIZATION,
        spelled: "authorization".into(),
        value: Template::plain(vec![Part::Literal("Bearer ".to_owned()), Part::Secret(name)]),
        yields: false,
    };
    let mut headers = HeaderMap::new();
    for name in [HOST, USER_AGENT, ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_TYPE, COOKIE, ORIGIN, REFERER] {
        headers.insert(name, HeaderValue::from_static("as long as what such a field usually says"));
    }
    let per_request = |act: &dyn Fn(&mut HeaderMap)| {
        let before = cpu();
        (0..REQUESTS).for_each(|_| act(black_box(&mut headers.clone())));
        (cpu() - before) * 1e6 / f64::from(REQUESTS)
    };
    let without = per_request(&|_| {});
    let with = per_request(&|headers| {
        let prepared = Injections::prepare(std::slice::from_ref(&injection), &secrets).expect("a value");
        black_box(prepared.apply(headers));
    });
    with - without
}

/// Megabytes a second of this thread's CPU time, `act` taking one piece: of the best round.
fn rate(mut act: impl FnMut()) -> f64 {
    let mut round = || {
        let before = cpu();
        (0..ALL / PIECE).for_each(|_| act());
        ALL as f64 / 1e6 / (cpu() - before)
    };
    (0..ROUNDS).map(|_| round()).fold(0.0, f64::max)
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
    const SERVICES: [&str; 10] =
        ["ghp_", "sk-ant-api03-", "AKIA", "xoxb-", "sk_live_", "glpat-", "npm_", "AIza", "eyJhbGciOi", "hf_"];
    let place = |n: u64| usize::try_from(n % LETTERS.len() as u64).unwrap_or_default();
    let letters = numbers(0x9e37_79b9_7f4a_7c15 + number as u64).skip(8).filter_map(|n| LETTERS.get(place(n)).copied());
    let service = SERVICES.iter().cycle().nth(number).copied();
    Secret::new(Zeroizing::new(service.unwrap_or_default().bytes().chain(letters.take(36)).collect()))
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
