//! Any text is a policy or a report of its faults; and what compiles decides, and compiles to the same again.

#![no_main]

use exeat::policy::{Flags, Policy, Protected, Source, Terms, cases};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let source = Source { path: "fuzz.yaml", text };
    match Policy::compile(Some(source), &Flags::default(), &Terms::default()) {
        Ok(compiled) => {
            let host = Protected::new([]);
            let outcomes = cases::run(&compiled.policy, &compiled.cases, &host);
            assert_eq!(outcomes.len(), compiled.cases.len());
            let again = Policy::compile(Some(source), &Flags::default(), &Terms::default())
                .expect("compiled once, compiles twice");
            assert_eq!(compiled.policy.revision(), again.policy.revision());
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            assert!(!faults.to_string().is_empty());
        }
    }
});
