//! Every policy in `policies/` compiles without advice, has test cases, and passes them; and is built in.

use std::collections::BTreeSet;
use std::path::Path;

use exeat::policy::{self, Flags, Policy, Protected, Source, Terms, cases};

#[test]
fn every_preset_passes_its_cases_and_has_some() {
    for name in policy::presets() {
        let source = policy::preset(name).expect("a preset that is listed");
        let compiled = Policy::compile(Some(source), &Flags::default(), &Terms::default())
            .unwrap_or_else(|faults| panic!("{faults}"));
        assert!(compiled.advice.is_empty(), "{}", compiled.advice);
        assert!(compiled.cases.len() >= 5, "{name} has {} cases", compiled.cases.len());
        let outcomes = cases::run(&compiled.policy, &compiled.cases, &Protected::new([]));
        let failed: Vec<String> =
            outcomes.iter().filter(|outcome| !outcome.passed()).map(ToString::to_string).collect();
        assert!(failed.is_empty(), "{name}\n{}", failed.join("\n"));
    }
}

#[test]
fn every_file_in_policies_is_built_in_under_its_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .expect("the folder of policies")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    let built_in: BTreeSet<String> = policy::presets().map(|name| format!("{name}.yaml")).collect();
    assert_eq!(files, built_in);
}

#[test]
fn a_case_that_does_not_hold_says_what_was_expected_and_what_came() {
    let text = "allow: [a.test]\ntests:\n  - { request: GET https://b.test/, verdict: allow, route: splice }\n";
    let compiled =
        Policy::compile(Some(Source { path: "p.yaml", text }), &Flags::default(), &Terms::default()).expect("a policy");
    let outcomes = cases::run(&compiled.policy, &compiled.cases, &Protected::new([]));
    let [outcome] = outcomes.as_slice() else { panic!("one case, {} outcomes", outcomes.len()) };
    let shown = outcome.to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(
        lines,
        [
            "FAILED GET https://b.test/ (p.yaml:3)",
            "  verdict: expected allow, got deny",
            "  route: expected splice, got nothing"
        ]
    );
}
