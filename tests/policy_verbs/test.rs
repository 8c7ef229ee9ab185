//! `exeat test`.

use serde_json::json;

use super::desk::Desk;

const PASSES: &str = "\
allow: [a.test]
tests:
  - { request: GET https://a.test/, verdict: allow, route: splice }
  - { request: GET https://b.test/, verdict: deny, reason: no-rule }
";
const FAILS: &str = "\
allow: [a.test]
tests:
  - { request: GET https://a.test/, verdict: allow }
  - { request: GET https://b.test/, verdict: allow, route: splice, status: 200 }
";
const UNTESTED: &str = "allow: [a.test]\n";

#[test]
fn what_passes_says_so_and_ends_with_0() {
    let desk = Desk::new(&[("a.yaml", PASSES), ("b.yaml", UNTESTED)]);
    assert_eq!(desk.run(&["test", "a.yaml"]).ended(0).stdout, "a.yaml: 2 passed\n2 passed, 0 failed\n");
    let both = "a.yaml: 2 passed\nb.yaml: no tests\n2 passed, 0 failed\n";
    assert_eq!(desk.run(&["test", "a.yaml", "b.yaml"]).ended(0).stdout, both);
    assert_eq!(desk.run(&["test", "b.yaml"]).ended(0).stdout, "b.yaml: no tests\n0 passed, 0 failed\n");
    desk.run(&["test", "preset:coding-agent"]).ended(0);
}

#[test]
fn what_fails_shows_expected_beside_got_and_ends_with_1() {
    let desk = Desk::new(&[("a.yaml", FAILS), ("b.yaml", PASSES), ("c.yaml", "alow: []\n")]);
    let expected = "\
a.yaml: 1 passed, 1 failed
FAILED GET https://b.test/ (a.yaml:4)
  verdict: expected allow, got deny
  route: expected splice, got nothing
  status: expected 200, got 403
b.yaml: 2 passed
c.yaml: does not compile
error[unknown-key]: a policy has no key `alow`
  --> c.yaml:1:1
1 | alow: []
  | ^^^^
  help: did you mean `allow`?

3 passed, 2 failed
";
    assert_eq!(desk.run(&["test", "a.yaml", "b.yaml", "c.yaml"]).ended(1).stdout, expected);
    assert_eq!(desk.run(&["test"]).ended(1).stdout, expected);
}

#[test]
fn outcomes_are_data_if_asked_for() {
    let desk = Desk::new(&[("a.yaml", FAILS), ("b.yaml", "alow: []\n"), ("c.yaml", UNTESTED)]);
    let report = desk.run(&["test", "--format", "json"]).ended(1).json();
    assert_eq!((&report["passed"], &report["failed"]), (&json!(1), &json!(2)));
    let files = report["files"].as_array().expect("a list");
    assert_eq!(files.len(), 3);
    let expected = json!({
        "file": "a.yaml",
        "faults": [],
        "cases": [
            { "place": "a.yaml:3", "input": "GET https://a.test/", "failures": [] },
            { "place": "a.yaml:4", "input": "GET https://b.test/", "failures": [
                { "field": "verdict", "expected": "allow", "got": "deny" },
                { "field": "route", "expected": "splice", "got": "" },
                { "field": "status", "expected": "200", "got": "403" },
            ]},
        ],
    });
    assert_eq!(files[0], expected);
    assert_eq!(files[1]["faults"][0]["code"], "unknown-key");
    assert_eq!(files[2], json!({ "file": "c.yaml", "faults": [], "cases": [] }));
}

#[test]
fn without_operands_the_folder_policies_is_taken_or_this_one() {
    let desk = Desk::new(&[("policies/deep/a.yaml", PASSES), ("elsewhere.yaml", FAILS)]);
    assert_eq!(desk.run(&["test"]).ended(0).stdout, "policies/deep/a.yaml: 2 passed\n2 passed, 0 failed\n");
    let desk = Desk::new(&[("a.yaml", PASSES)]);
    assert_eq!(desk.run(&["test"]).ended(0).stdout, "a.yaml: 2 passed\n2 passed, 0 failed\n");
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let desk = Desk::new(&[("readme.md", "")]);
    desk.run(&["test"]).refused(&[".: no policy in this folder"]);
    desk.run(&["test", "absent.yaml"]).refused(&["absent.yaml: there is no such file or folder"]);
    desk.run(&["test", "--format", "sarif"]).refused(&["sarif"]);
    desk.run(&["test", "--frobnicate"]).refused(&["--frobnicate"]);
}

#[test]
fn what_cannot_be_read_has_failed() {
    let desk = Desk::new(&[("a.yaml", PASSES)]);
    desk.write("b.yaml", [0xff, 0xff]);
    let done = desk.run(&["test"]).ended(1);
    assert!(done.stdout.contains("b.yaml: does not compile\nerror[syntax]: this is not text in UTF-8"), "{done:?}");
    assert!(done.stdout.ends_with("\n2 passed, 1 failed\n"), "{done:?}");
}

#[test]
fn a_rule_is_found_from_any_folder() {
    let text = |rule: &str| {
        format!("allow: [a.test]\ntests:\n  - {{ request: GET https://a.test/, verdict: allow, rule: \"{rule}\" }}\n")
    };
    for (rule, passes) in [("a.yaml:1", true), ("policies/a.yaml:1", true), ("a.yaml:2", false), ("b.yaml:1", false)] {
        let desk = Desk::new(&[("policies/a.yaml", &text(rule)), ("policies/below/readme", "")]);
        let absolute = desk.path("policies/a.yaml");
        let code = if passes { 0 } else { 1 };
        for (folder, path) in [
            (".", "policies/a.yaml"),
            (".", "./policies/a.yaml"),
            (".", absolute.to_str().expect("UTF-8")),
            (".", "policies"),
            ("policies", "a.yaml"),
            ("policies", "."),
            ("policies/below", "../a.yaml"),
        ] {
            let output = desk.command(&["test", path]).current_dir(desk.path(folder)).output();
            let done = super::desk::Done::of(output.expect("exeat was built"));
            assert_eq!(done.code, Some(code), "{rule} in {folder} as {path}: {done:?}");
        }
    }
}

#[test]
fn the_summary_is_the_last_line_in_color_too() {
    let desk = Desk::new(&[("a.yaml", FAILS)]);
    let done = desk.run(&["test", "--color", "always"]).ended(1);
    assert!(done.stdout.contains("\u{1b}[1;31mFAILED\u{1b}[0m GET https://b.test/"), "{done:?}");
    assert!(desk.run(&["test"]).stdout.ends_with("\n1 passed, 1 failed\n"));
}
