//! Every policy in `policies/` compiles without advice, has test cases, and passes them; and is built in.

#[path = "policies/roundtrip.rs"]
mod roundtrip;

use std::collections::BTreeSet;
use std::path::Path;

use exeat::policy::{self, Flags, Policy, Protected, Source, Terms, cases};

#[test]
fn every_preset_passes_its_cases_and_has_some() {
    for name in policy::presets() {
        let source = policy::preset(name).expect("a preset that is listed");
        // Where editors look for it.
        assert!(source.text.starts_with("# yaml-language-server: $schema=schema.json\n"), "{name}");
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
    let mut expected: BTreeSet<String> = policy::presets().map(|name| format!("{name}.yaml")).collect();
    expected.insert("schema.json".to_owned());
    assert_eq!(files, expected);
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

/// Documents that together use every key, every action and every matcher.
const EVERYTHING: [&str; 5] = [
    "allow-all",
    "mode: deny-all",
    "{mode: allow-all, deny: [a.test], strict: true, denials: terse, dns: none, observe: true}",
    "{mode: custom, allowedDomains: ['*.a.test', b.test], allowedCIDRs: [10.0.0.0/8], deniedCIDRs: [10.1.0.0/16], \
     injectionRules: [{domain: x.a.test, headers: {X-Key: v}, match: {method: [GET]}}]}",
    "
secrets: {KEY: {env: KEY, to: [a.test], headers: [x-api-key], shape: {prefix: k_, length: 20}}, B: {env: B,
  methods: [GET], paths: [/e/**]}}
placeholders: {VAR: KEY}
deny: [gist.a.test]
subnets: {allow: [fd00::/8], deny: ['fd00:1::/32']}
allow:
  a.test:
    - {match: {method: [GET, PUT], path: {exact: /a}}, transform: [{headers: {A: b}}, {headers: {C: '${secrets.KEY}'}}]}
    - match: {method: [GET], path: {exact: /e/x}}
      transform: [{basic: {user: u, password: '${secrets.B}'}, existing: keep}]
    - {match: {path: {startsWith: /b}}, forwardURL: 'https://x.test:8443/p'}
    - {match: {path: {regex: '^/c$'}, queryString: [{key: {regex: k}}, {value: {startsWith: v}}]}}
    - {match: {path: {glob: /d/**}, headers: [{key: {exact: X-A}, value: {exact: B}}]}, response: {statusCode: 404}}
    - opaque: {ports: [22, 5432]}
    - {}
  'www.*.test': []
  '*': []
",
];

#[test]
fn what_comes_back_from_the_api_can_be_written_again() {
    let presets = policy::presets().filter_map(policy::preset).map(|source| source.text);
    for text in EVERYTHING.into_iter().chain(presets) {
        let source = Source { path: "p.yaml", text };
        let compiled = Policy::compile(Some(source), &Flags::default(), &Terms::default());
        roundtrip::hold(&compiled.unwrap_or_else(|faults| panic!("{faults}")).policy);
    }
}
