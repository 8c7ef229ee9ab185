//! The engine agrees with the oracle of `tests/oracle`, which reads the policy page row by row, on any policy and any
//! question.
//!
//! Input: 256 bytes that make the policy, and 64 for each question.

#![no_main]
#![allow(dead_code)]

#[path = "../../tests/oracle"]
mod oracle {
    pub(crate) mod compare;
    pub(crate) mod generate;
    pub(crate) mod model;
    pub(crate) mod names;
    pub(crate) mod paths;
    pub(crate) mod ranges;
    pub(crate) mod render;
    pub(crate) mod requests;
    pub(crate) mod scan;
}

use libfuzzer_sys::fuzz_target;
use oracle::compare::agree;
use oracle::generate::{self, Choices};
use oracle::model::Ask;

fuzz_target!(|bytes: &[u8]| {
    let (policy, questions) = bytes.split_at(bytes.len().min(256));
    let model = generate::model(&mut Choices::new(policy));
    let ask = |bytes| generate::ask(&mut Choices::new(bytes), &model);
    let asks: Vec<Ask> = questions.chunks(64).map(ask).collect();
    if let Err(disagreement) = agree(&model, &asks) {
        panic!("{disagreement}");
    }
});
