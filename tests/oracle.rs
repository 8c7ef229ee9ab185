//! The engine against an oracle: a plain reading of the policy page (`oracle::scan`), which shares no code with it,
//! judges generated policies and questions beside it. The fuzz target `decide_oracle` is the same with no end.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

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

use std::cell::RefCell;

use oracle::compare::{Tally, agree};
use oracle::generate::{self, Choices};
use oracle::model::Ask;
use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

/// Pairs of a policy and a question that are judged at least.
const PAIRS: usize = 100_000;
/// Policies, which are asked a hundred questions each on average.
const POLICIES: u32 = 1_040;
/// How often each of [`QUESTIONS`] gives the judgement at least, so that the pairs are about something.
const MEETINGS: usize = 200;
/// What the oracle says that a judgement came of.
const QUESTIONS: [&str; 30] = [
    "ambiguous path",
    "answer",
    "dns any",
    "dns names",
    "dns none",
    "dns observed",
    "forward elsewhere",
    "http",
    "no rule claims",
    "not http",
    "observed",
    "pass",
    "plaintext",
    "respond",
    "row 0",
    "row 1",
    "row 2",
    "row 3",
    "row 4",
    "row 5",
    "row 6, forward",
    "row 6, splice",
    "row 6, terminate",
    "row 7",
    "row 8",
    "row 9",
    "secret off 443",
    "transform",
    "unread",
    "unreadable",
];

/// The same pairs every time, unless `PROPTEST_RNG_SEED` says otherwise.
#[test]
fn the_engine_agrees_with_the_oracle_on_100_000_pairs() {
    let mut config =
        Config { cases: POLICIES, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(1);
    }
    let seed = config.rng_seed;
    let total = RefCell::new(Tally::new());
    let bytes = (vec(any::<u8>(), 0..400), vec(vec(any::<u8>(), 0..64), 1..200));
    let outcome = TestRunner::new(config).run(&bytes, |(policy, questions)| {
        let model = generate::model(&mut Choices::new(&policy));
        let ask = |bytes: &Vec<u8>| generate::ask(&mut Choices::new(bytes), &model);
        let asks: Vec<Ask> = questions.iter().map(ask).collect();
        for (question, count) in agree(&model, &asks).map_err(TestCaseError::fail)? {
            *total.borrow_mut().entry(question).or_default() += count;
        }
        Ok(())
    });
    if let Err(fault) = outcome {
        panic!("PROPTEST_RNG_SEED={seed}: {fault}");
    }
    let total = total.into_inner();
    assert!(total.values().sum::<usize>() >= PAIRS, "too few pairs: {total:?}");
    for question in QUESTIONS {
        let met = total.get(question).copied().unwrap_or_default();
        assert!(met >= MEETINGS, "`{question}` gave only {met} judgements");
    }
}
