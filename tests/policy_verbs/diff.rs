//! `exeat diff`.

use serde_json::json;

use super::desk::Desk;

const OLD: &str = "\
allow:
  api.test:
    - match: { method: [GET] }
    - response: { statusCode: 403 }
  gone.test: []
secrets: { KEY: { env: KEY } }
";
const NEW: &str = "\
allow:
  api.test:
    - match: { method: [GET] }
      transform: [{ headers: { authorization: \"Bearer-canary ${secrets.KEY}\" } }]
    - response: { statusCode: 403 }
  \"*.new.test\": []
subnets: { allow: [10.20.0.0/16], deny: [10.20.30.0/24] }
secrets: { KEY: { file: key } }
";

#[test]
fn differences_are_told_in_sentences_with_their_lines_and_examples() {
    let desk = Desk::new(&[("old.yaml", OLD), ("new.yaml", NEW)]);
    let expected = "\
opens
  + `authorization` from the secret KEY is now sent to `api.test` with GET requests (new.yaml:3)
      GET https://api.test/
  + `*.new.test` becomes reachable (new.yaml:6); TLS to it goes through unread
      GET https://any.new.test/
  + 10.20.0.0/16 but 10.20.30.0/24 becomes reachable by address, whatever is spoken (new.yaml:7)
      10.20.0.1:443
closes
  - `gone.test` is no longer reachable: old.yaml:5 allowed it, and nothing does now
      GET https://gone.test/
changes
  ~ the secret KEY now comes from the file `key`, no longer from the variable `KEY`
5 differences: 3 opens, 1 closes, 1 changes
";
    assert_eq!(desk.run(&["diff", "old.yaml", "new.yaml"]).ended(0).stdout, expected);
    let colored = desk.run(&["diff", "--color", "always", "old.yaml", "new.yaml"]).ended(0).stdout;
    assert!(colored.contains("\u{1b}[") && !colored.contains("canary"), "{colored}");
}

#[test]
fn policies_that_do_the_same_do_not_differ() {
    let desk = Desk::new(&[
        ("a.yaml", "allow: [a.test, '*.b.test']\ndeny: [c.test]\n"),
        ("b.json", "{\"deny\": [\"C.test\"], \"allow\": {\"*.b.test\": [], \"x.b.test\": [], \"a.test.\": []}}"),
    ]);
    for new in ["a.yaml", "b.json"] {
        assert_eq!(desk.run(&["diff", "--exit-code", "a.yaml", new]).ended(0).stdout, "no difference\n");
    }
    assert_eq!(desk.run(&["diff", "preset:demo", "preset:demo"]).ended(0).stdout, "no difference\n");
}

#[test]
fn the_exit_code_says_whether_something_opens_if_it_is_asked_for() {
    let desk = Desk::new(&[("old.yaml", "allow: [a.test, b.test]\n"), ("new.yaml", "allow: [b.test, c.test]\n")]);
    desk.write("less.yaml", "allow: [b.test]\n");
    for (old, new, code) in [
        ("old.yaml", "new.yaml", 4),
        ("old.yaml", "less.yaml", 0),
        ("less.yaml", "old.yaml", 4),
        ("old.yaml", "old.yaml", 0),
    ] {
        desk.run(&["diff", old, new]).ended(0);
        desk.run(&["diff", "--exit-code", old, new]).ended(code);
    }
}

#[test]
fn differences_are_data_if_asked_for() {
    let desk = Desk::new(&[("old.yaml", OLD), ("new.yaml", NEW)]);
    let done = desk.run(&["diff", "--format", "json", "old.yaml", "new.yaml"]).ended(0);
    assert!(!done.stdout.contains("canary"), "{}", done.stdout);
    let report = done.json();
    assert_eq!((&report["opens"], &report["closes"], &report["changes"]), (&json!(3), &json!(1), &json!(1)));
    let list = report["list"].as_array().expect("a list");
    assert_eq!(list.len(), 5);
    assert_eq!(
        list[1],
        json!({
            "direction": "opens",
            "about": "names",
            "pattern": "*.new.test",
            "sentence": "`*.new.test` becomes reachable (new.yaml:6); TLS to it goes through unread",
            "example": "GET https://any.new.test/",
            "new": "new.yaml:6",
        })
    );
    assert_eq!((&list[2]["about"], &list[2]["ranges"][0]), (&json!("addresses"), &json!("10.20.0.0/20")));
    assert_eq!((&list[4]["about"], &list[4]["setting"]), (&json!("setting"), &json!("secrets")));
    assert_eq!(
        desk.run(&["diff", "--format", "json", "old.yaml", "old.yaml"]).ended(0).json(),
        json!({ "opens": 0, "closes": 0, "changes": 0, "list": [] })
    );
}

#[test]
fn faults_of_either_are_told_and_end_with_1() {
    let desk = Desk::new(&[("good.yaml", "{}\n"), ("one.yaml", "alow: []\n"), ("two.yaml", "dney: []\n")]);
    for (old, new, says) in [
        ("good.yaml", "one.yaml", &["one.yaml:1:1"][..]),
        ("one.yaml", "good.yaml", &["one.yaml:1:1"]),
        ("one.yaml", "two.yaml", &["one.yaml:1:1", "two.yaml:1:1"]),
    ] {
        let done = desk.run(&["diff", "--exit-code", old, new]);
        assert!(done.code == Some(1) && done.stdout.is_empty(), "{done:#?}");
        assert!(says.iter().all(|text| done.stderr.contains(text)), "{done:#?}");
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    let desk = Desk::new(&[("a.yaml", "{}\n"), ("bad.yaml", "alow: []\n")]);
    desk.run(&["diff"]).refused(&["OLD", "NEW"]);
    desk.run(&["diff", "a.yaml"]).refused(&["NEW"]);
    desk.run(&["diff", "a.yaml", "absent.yaml"]).refused(&["absent.yaml"]);
    desk.run(&["diff", "absent.yaml", "bad.yaml"]).refused(&["absent.yaml"]);
    desk.run(&["diff", "a.yaml", "preset:absent"]).refused(&["absent", "coding-agent"]);
    desk.run(&["diff", "--format", "xml", "a.yaml", "a.yaml"]).refused(&["xml"]);
}
