//! Whatever compiles can be read back, and what is read back can be written again, in every spelling.

#![no_main]

#[path = "../../tests/policies/roundtrip.rs"]
mod roundtrip;

use exeat::policy::{Flags, Policy, Source, Terms};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let source = Source { path: "fuzz.yaml", text };
    if let Ok(compiled) = Policy::compile(Some(source), &Flags::default(), &Terms::default()) {
        roundtrip::hold(&compiled.policy);
    }
});
