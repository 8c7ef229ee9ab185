//! `exeat check`.

use std::process::Stdio;

use serde_json::{Value, json};

use super::desk::{Desk, Done};

const GOOD: &str = "version: 1\nallow: [a.test]\n";
const WARNED: &str = "allow: [\"*.test\"]\n";

/// `CODE FILE:LINE:COLUMN` of each finding.
#[track_caller]
fn places(desk: &Desk, operands: &[&str]) -> Vec<String> {
    let done = desk.run(&[&["check", "--format", "json"], operands].concat());
    let findings = done.json();
    let place = |finding: &Value| {
        let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}:{}:{}", text("code"), text("file"), finding["line"], finding["column"])
    };
    findings.as_array().expect("a list").iter().map(place).collect()
}

#[test]
fn what_is_clean_says_so_and_ends_with_0() {
    let desk = Desk::new(&[("a.yaml", GOOD), ("b.json", "{\"allow\": [\"b.test\"]}")]);
    assert_eq!(desk.run(&["check", "a.yaml"]).ended(0).stdout, "1 file: clean\n");
    assert_eq!(desk.run(&["check", "a.yaml", "b.json"]).ended(0).stdout, "2 files: clean\n");
    assert_eq!(desk.run(&["check", "--format", "json", "."]).ended(0).json(), json!([]));
    assert_eq!(desk.run(&["check", "preset:coding-agent", "preset:demo"]).ended(0).stdout, "2 files: clean\n");
    assert_eq!(desk.run(&["check", "/dev/stdin"]).ended(1).stdout.lines().last(), Some("1 file: 1 error"), "empty");
}

#[test]
fn every_fault_of_every_file_is_told_in_one_run() {
    let desk = Desk::new(&[
        ("p/a.yaml", "alow: [a.test]\nsubnets: {allow: [10.0.0.1/8]}\n"),
        ("p/b.yml", "allow: [a.test\n"),
        ("p/c.json", "{\"strict\": 1}"),
        ("p/d.yaml", WARNED),
        ("p/e.yaml", GOOD),
    ]);
    let done = desk.run(&["check", "p"]).ended(1);
    let expected = "\
error[unknown-key]: a policy has no key `alow`
  --> p/a.yaml:1:1
1 | alow: […]
  | ^^^^
  help: did you mean `allow`?

error[bad-value]: `10.0.0.1/8`: the address has bits set beyond the length
  --> p/a.yaml:2:19
2 | subnets: {allow: [10.0.0.1/8]}
  |                   ^^^^^^^^^^
  help: for the whole range write `10.0.0.0/8`

";
    assert!(done.stdout.starts_with(expected), "{}", done.stdout);
    assert!(done.stdout.ends_with("\n\n5 files: 4 errors, 1 warning\n"), "{}", done.stdout);
    let expected = [
        "unknown-key p/a.yaml:1:1",
        "bad-value p/a.yaml:2:19",
        "syntax p/b.yml:1:8",
        "wrong-type p/c.json:1:12",
        "top-level-wildcard p/d.yaml:1:9",
    ];
    assert_eq!(places(&desk, &["p"]), expected);
}

#[test]
fn a_json_finding_has_all_its_fields() {
    let desk = Desk::new(&[("a.yaml", "strict: 1\nalow: []\n"), ("b.yaml", WARNED)]);
    let findings = desk.run(&["check", "--format=json", "a.yaml", "b.yaml"]).ended(1).json();
    for finding in findings.as_array().expect("a list") {
        let keys: Vec<&String> = finding.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["code", "column", "file", "help", "line", "message", "severity"]);
    }
    let expected = json!({
        "severity": "error",
        "code": "unknown-key",
        "message": "a policy has no key `alow`",
        "help": "did you mean `allow`?",
        "file": "a.yaml",
        "line": 2,
        "column": 1,
    });
    assert_eq!(findings[1], expected);
    assert_eq!(findings[2]["severity"], "warning");
}

#[test]
fn warnings_end_with_1_under_strict_alone() {
    let desk = Desk::new(&[("a.yaml", WARNED), ("b.yaml", GOOD)]);
    for format in ["human", "json", "sarif"] {
        desk.run(&["check", "--format", format, "a.yaml"]).ended(0);
        desk.run(&["check", "--format", format, "--strict", "a.yaml"]).ended(1);
        desk.run(&["check", "--format", format, "--strict", "b.yaml"]).ended(0);
    }
    assert!(desk.run(&["check", "a.yaml"]).stdout.ends_with("\n1 file: 1 warning\n"));
}

#[test]
fn a_wrong_command_line_ends_with_2() {
    let desk = Desk::new(&[("a.yaml", GOOD), ("empty/readme.md", "")]);
    desk.run(&["check"]).refused(&["Usage: exeat check"]);
    desk.run(&["check", "absent.yaml"]).refused(&["absent.yaml: there is no such file or folder"]);
    desk.run(&["check", "a.yaml", "absent.yaml"]).refused(&["absent.yaml"]);
    desk.run(&["check", "empty"]).refused(&["empty: no policy in this folder"]);
    desk.run(&["check", "preset:absent"]).refused(&["there is no preset `absent`", "coding-agent"]);
    desk.run(&["check", "--format", "xml", "a.yaml"]).refused(&["xml", "sarif"]);
    desk.run(&["check", "--color", "sometimes", "a.yaml"]).refused(&["sometimes"]);
    desk.run(&["check", "--frobnicate", "a.yaml"]).refused(&["--frobnicate"]);
    desk.run(&["check", "--explain", "nonsense"]).refused(&["there is no code `nonsense`", "unknown-key"]);
    desk.run(&["check", "--explain", "syntax", "a.yaml"]).refused(&["--explain"]);
}

#[test]
fn a_code_is_explained() {
    let desk = Desk::new(&[]);
    let done = desk.run(&["check", "--explain", "unknown-key"]).ended(0);
    assert!(done.stdout.starts_with("error[unknown-key]: A key that nothing knows."), "{done:?}");
    let done = desk.run(&["check", "--explain", "unused-secret"]).ended(0);
    assert!(done.stdout.starts_with("warning[unused-secret]: "), "{done:?}");
}

#[test]
fn a_folder_is_walked_in_order_without_what_is_hidden() {
    let bad = "x: 1\n";
    let desk = Desk::new(&[
        ("p/b.yaml", bad),
        ("p/a/z.yml", bad),
        ("p/a/a.json", bad),
        ("p/B.yaml", bad),
        ("p/.hidden.yaml", bad),
        ("p/.git/x.yaml", bad),
        ("p/readme.md", bad),
        ("p/yaml", bad),
        ("p/schema.json", bad),
        ("p/policy.schema.json", bad),
        ("p/c.yaml/d.yaml", bad),
    ]);
    let here: Vec<String> = ["p/B.yaml", "p/a/a.json", "p/a/z.yml", "p/b.yaml", "p/c.yaml/d.yaml"]
        .map(|path| format!("unknown-key {path}:1:1"))
        .into();
    assert_eq!(places(&desk, &["p"]), here);
    assert_eq!(places(&desk, &["p/"]), here);
    assert_eq!(places(&desk, &["."]), here, "not ./p");
    assert_eq!(places(&desk, &["p/b.yaml", "p/a"]), [&here[3..4], &here[1..3]].concat());
    // What is named is taken, whatever it is called.
    for named in ["p/.hidden.yaml", "p/readme.md", "p/schema.json"] {
        assert_eq!(places(&desk, &[named]), [format!("unknown-key {named}:1:1")]);
    }
    assert_eq!(places(&desk, &["p/b.yaml", "p/b.yaml"]), here[3..4], "each finding once");
}

#[test]
fn links_are_followed_and_loops_are_not() {
    let desk = Desk::new(&[("p/a.yaml", "x: 1\n"), ("other/b.yaml", "x: 1\n")]);
    let link = |target: &str, path: &str| std::os::unix::fs::symlink(target, desk.path(path)).expect("a link");
    link("../p", "p/round");
    link("self", "p/self");
    link("../other", "p/others");
    link("../other/b.yaml", "p/b.yaml");
    let expected = ["unknown-key p/a.yaml:1:1", "unknown-key p/b.yaml:1:1", "unknown-key p/others/b.yaml:1:1"];
    assert_eq!(places(&desk, &["p"]), expected);
    assert_eq!(places(&desk, &["p/round"])[0], "unknown-key p/round/a.yaml:1:1");
}

#[test]
fn what_cannot_be_read_is_a_fault_and_the_run_goes_on() {
    let desk = Desk::new(&[("p/z.yaml", "x: 1\n")]);
    desk.write("p/binary.yaml", [0xff, 0xfe, 0x00, 0x80, 0x0a]);
    desk.write("p/utf16.yaml", "allow: [a.test]".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
    desk.write("p/nul.yaml", "allow: [\"a\0.test\"]\n");
    let huge = std::fs::File::create(desk.path("p/huge.yaml")).expect("a file");
    huge.set_len(16 * 1024 * 1024 + 1).expect("a sparse file");
    std::os::unix::fs::symlink("nowhere", desk.path("p/dangling.yaml")).expect("a link");
    nix::unistd::mkfifo(&desk.path("p/pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    std::fs::create_dir(desk.path("p/closed")).expect("a folder");
    std::fs::set_permissions(desk.path("p/closed"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).expect("mode");
    let mut expected = vec![
        "syntax p/binary.yaml:1:1",
        "unreadable p/closed:1:1",
        "unreadable p/dangling.yaml:1:1",
        "limit p/huge.yaml:1:1",
        "syntax p/nul.yaml:1:11",
        "unreadable p/pipe.yaml:1:1",
        "syntax p/utf16.yaml:1:2",
        "unknown-key p/z.yaml:1:1",
    ];
    if nix::unistd::geteuid().is_root() {
        expected.remove(1);
    }
    assert_eq!(places(&desk, &["p"]), expected);
    let done = desk.run(&["check", "p"]).ended(1);
    let says =
        ["this is not text in UTF-8", "save it in UTF-8", "No such file", "larger than 16777216 bytes", "regular"];
    for text in says {
        assert!(done.stdout.contains(text), "no `{text}`: {}", done.stdout);
    }
}

#[test]
fn ten_thousand_files_and_a_thousand_folders_are_walked() {
    let desk = Desk::new(&[]);
    for number in 0..10_000 {
        desk.write(format!("many/{number}.yaml"), "{}");
    }
    desk.write(format!("deep/{}bottom.yaml", "d/".repeat(1_000)), "x: 1\n");
    let done = desk.run(&["check", "many", "deep"]).ended(1);
    assert!(done.stdout.ends_with("\n10001 files: 1 error\n"), "{}", done.stdout);
    for number in 10_000..=16 * 1024 {
        desk.write(format!("many/{number}.yaml"), "{}");
    }
    assert_eq!(places(&desk, &["many"]), ["limit many:1:1"]);
}

#[test]
fn a_fault_of_a_file_that_others_extend_is_told_once() {
    let child = "extends: [../base.yaml]\n";
    let desk = Desk::new(&[("p/a/a.yaml", child), ("p/a/b.yaml", child), ("p/base.yaml", "x: 1\n")]);
    for operand in ["p", "./p", "p/", "."] {
        assert_eq!(places(&desk, &[operand]).len(), 1, "{:?}", places(&desk, &[operand]));
    }
}

#[test]
fn names_of_files_cannot_steer_a_terminal() {
    let desk = Desk::new(&[("p/\u{1b}[2J\n::error::x.yaml", "\"\\e[2J\": 1\n\"\\u202eab\": 1\n")]);
    for format in ["human", "json", "sarif"] {
        let done = desk.run(&["check", "--format", format, "p"]).ended(1);
        let steers = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!done.stdout.contains(steers) && !done.stdout.contains("\n::error"), "{format}: {:?}", done.stdout);
    }
}

#[test]
fn a_reader_that_goes_away_does_not_change_the_end() {
    let text: String = (0..90).map(|key| format!("key{key}: 1\n")).collect();
    let desk = Desk::new(&[("a.yaml", &text)]);
    for number in 0..50 {
        desk.write(format!("p/{number}.yaml"), &text);
    }
    for arguments in [&["check", "p"][..], &["check", "--format", "json", "p"], &["check", "--format", "sarif", "p"]] {
        let mut child =
            desk.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("exeat was built");
        drop(child.stdout.take());
        let done = Done::of(child.wait_with_output().expect("a child"));
        assert!(done.code == Some(1) && done.stderr.is_empty(), "{arguments:?} {done:?}");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_a_failure() {
    let desk = Desk::new(&[("a.yaml", GOOD)]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let output = desk.command(&["check", "a.yaml"]).stdout(full).output().expect("exeat was built");
    let done = Done::of(output);
    assert!(done.code == Some(125) && done.stderr.contains("cannot write to standard output"), "{done:?}");
}

#[test]
fn what_stands_on_one_long_line_is_shown_in_part() {
    let names: Vec<String> = (0..20_000).map(|number| format!("\"n{number}.test\"")).collect();
    let line = format!("{{\"allow\": [{}], \"alow\": [], \"deny\": []}}", names.join(", "));
    let desk = Desk::new(&[("a.json", &line)]);
    let done = desk.run(&["check", "a.json"]).ended(1);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() < 200), "{done:?}");
    let (at, underline) =
        (lines[2].find("\"alow\"").expect("what is at fault"), lines[3].find("^^^^").expect("an underline"));
    assert_eq!(lines[2][..at].chars().count(), underline, "{}", done.stdout);
    let column = line.find("\"alow\"").expect("the key") + 1;
    assert_eq!(lines[1], format!("  --> a.json:1:{column}"));
}

#[test]
fn color_is_asked_for() {
    let desk = Desk::new(&[("a.yaml", "alow: []\n"), ("b.yaml", WARNED)]);
    let plain = desk.run(&["check", "a.yaml", "b.yaml"]).stdout;
    assert!(!plain.contains('\u{1b}'), "no terminal, no color: {plain:?}");
    let colored = desk.run(&["check", "--color", "always", "a.yaml", "b.yaml"]).stdout;
    for text in ["\u{1b}[1;31merror[unknown-key]\u{1b}[0m", "\u{1b}[1;31m^^^^\u{1b}[0m", "\u{1b}[1;33mwarning["] {
        assert!(colored.contains(text), "{colored:?}");
    }
    let mut stripped = String::new();
    for piece in colored.split('\u{1b}') {
        stripped
            .push_str(piece.strip_prefix('[').and_then(|rest| rest.split_once('m')).map_or(piece, |(_, text)| text));
    }
    assert_eq!(stripped, plain, "the text is the same");
    let json = desk.run(&["check", "--color", "always", "--format", "json", "a.yaml"]).stdout;
    assert!(!json.contains("\\u001b"), "data has no color: {json}");
}

/// Documents with a credential where none belongs.
const INDISCREET: &[&str] = &[
    "secrets: {KEY: CANARY}",
    "secrets: [CANARY]",
    "secrets: CANARY",
    "secrets: {KEY: {value: CANARY}}",
    "secrets: {KEY: {env: 'KEY=CANARY'}}",
    "secrets: {KEY: {env: [CANARY]}}",
    "secrets: {KEY: {file: \"x\\0CANARY\"}}",
    "secrets: {KEY: {CANARY: x}}",
    "secrets: {CANARY: x}",
    "secrets: {'Bearer CANARY': {env: X}}",
    "secret: {KEY: CANARY}",
    "token: CANARY",
    "CANARY",
    "'Bearer CANARY'",
    "[CANARY]",
    "CANARY: x",
    "name: [CANARY]",
    "version: CANARY",
    "mode: CANARY",
    "strict: CANARY",
    "allow: CANARY",
    "allow: {a.test: CANARY}",
    "allow: {a.test: {authorization: CANARY}}",
    "allow: {a.test: [CANARY]}",
    "allow: {a.test: [{authorization: CANARY}]}",
    "allow: {a.test: [{transform: CANARY}]}",
    "allow: {a.test: [{transform: [CANARY]}]}",
    "allow: {a.test: [{transform: [{authorization: CANARY}]}]}",
    "allow: {a.test: [{transform: [{headers: CANARY}]}]}",
    "allow: {a.test: [{transform: [{headers: [CANARY]}]}]}",
    "allow: {a.test: [{transform: [{headers: ['authorization: CANARY']}]}]}",
    "allow: {a.test: [{transform: [{headers: {'authorization: Bearer CANARY'}}]}]}",
    "allow: {a.test: [{transform: [{headers: {'authorization: Bearer CANARY': x}}]}]}",
    "allow: {a.test: [{transform: [{headers: {authorization: [CANARY]}}]}]}",
    "allow: {a.test: [{transform: [{headers: {authorization: \"Bearer\\nCANARY\"}}]}]}",
    "allow: {a.test: [{transform: [{headers: {authorization: '${CANARY}'}}]}]}",
    "allow: {a.test: [{transform: [{headers: {authorization: '${secrets.CANARY}'}}]}]}",
    "allow: {a.test: [{transform: [{headers: {authorization: '${secrets.KEY CANARY'}}]}]}",
    "allow: {a.test: [{transform: [{headers: {authorization: 'Bearer CANARY'}}]}]}\nx: 1",
    "allow: {a.test: [{transform: [{headers: {host: CANARY}}]}]}",
    "allow: {a.test: [{transform: [{headers: {connection: CANARY}}]}]}",
    "allow: {a.test: [{forwardURL: 'https://user:CANARY@b.test/'}]}",
    "allow: {a.test: [{forwardURL: 'https://b.test/?token=CANARY'}]}",
    "allow: {a.test: [{response: {statusCode: CANARY}}]}",
    "allow: {a.test: [{response: {statusCode: 200, body: CANARY}}]}",
    "allow: {a.test: [{response: {statusCode: 200, headers: {x: \"CANARY\\n\"}}}]}",
    "allow: {a.test: [{match: {method: ['Bearer CANARY']}}]}",
    "allow: {a.test: [{match: {path: {regex: '(CANARY'}}}]}",
    "allow: {a.test: [{match: {headers: {authorization: CANARY}}}]}",
    "allow: {a.test: [{match: {headers: [{value: {exact: '${secrets.KEY}CANARY'}}]}}]}",
    "allow: {a.test: [{opaque: {ports: [CANARY]}}]}",
    "allow: ['https://user:CANARY@a.test/']",
    "deny: ['a.test/?token=CANARY']",
    "subnets: {allow: [CANARY]}",
    "tests: [CANARY]",
    "tests: [{request: 'GET https://user:CANARY@a.test/', verdict: allow}]",
    "tests: [{request: 'GET https://a.test/?token=CANARY', verdict: allow}]",
    "tests: [{request: GET https://a.test/, headers: {a: 'Bearer CANARY'}, verdict: allow}]",
    "tests: [{request: GET https://a.test/, headers: ['authorization: CANARY'], verdict: allow}]",
    "tests: [{request: GET https://a.test/, verdict: CANARY}]",
    "tests: [{request: GET https://a.test/, rule: CANARY}]",
    "extends: ['https://user:CANARY@a.test/p.yaml']",
    "placeholders: {X: CANARY}",
    "mode: custom\ninjectionRules: [{domain: a.test, headers: {authorization: [CANARY]}}]",
    "alow: [] # CANARY",
    "x: \"CANARY",
    "x: [CANARY",
    "x: *CANARY",
    "x: !CANARY y",
    "%CANARY x",
    "\"x\\CANARY\": 1",
    "x: {CANARY: y, CANARY: z}",
];

#[test]
fn no_format_shows_a_credential_at_any_mistake() {
    let canary = "ghp_Zq8canaryW2x7Rt5Lk9Vb3Nm6Pd1Sf4Hj0Gc";
    let desk = Desk::new(&[]);
    for (number, text) in INDISCREET.iter().enumerate() {
        desk.write(format!("p/{number:02}.yaml"), text.replace("CANARY", canary) + "\n");
    }
    for arguments in [
        ["check", "--color=always", "p"],
        ["check", "--format=json", "p"],
        ["check", "--format=sarif", "p"],
        ["test", "--color=never", "p"],
        ["test", "--format=json", "p"],
    ] {
        let done = desk.run(&arguments).ended(1);
        let shown = done.stdout.lines().find(|line| line.contains("canary"));
        assert_eq!(shown, None, "{arguments:?}");
    }
    let findings = desk.run(&["check", "--format=json", "p"]).json();
    let silent = |number: &usize| {
        let file = format!("p/{number:02}.yaml");
        !findings.as_array().expect("a list").iter().any(|finding| finding["file"] == file.as_str())
    };
    let silent: Vec<&str> = (0..INDISCREET.len()).filter(silent).map(|number| INDISCREET[number]).collect();
    // What is not wrong in form is a request or a rule that does not hold, which `test` tells.
    assert!(silent.iter().all(|text| text.starts_with("tests: ")), "nothing is said of {silent:?}");
}

/// An object that has no other properties than these.
fn object(properties: &Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

/// SARIF 2.1.0 as its schema has it: of each object that we write, the properties that it may have, in the types that
/// they have; and those that it must have, to which code hosts add.
fn sarif_schema() -> Value {
    let string = json!({ "type": "string" });
    let number = json!({ "type": "integer", "minimum": 1 });
    let level = json!({ "enum": ["none", "note", "warning", "error"] });
    let text = object(&json!({ "text": { "type": "string", "minLength": 1 }, "markdown": string }), &["text"]);
    let rule = json!({
        "id": string,
        "name": string,
        "shortDescription": text,
        "fullDescription": text,
        "help": text,
        "helpUri": { "type": "string", "format": "uri" },
        "defaultConfiguration": object(&json!({ "level": level }), &[]),
    });
    let rules = object(&rule, &["id", "shortDescription", "fullDescription", "help"]);
    let file = object(&json!({ "uri": { "type": "string", "format": "uri-reference" } }), &["uri"]);
    let region = object(&json!({ "startLine": number, "startColumn": number }), &["startLine"]);
    let place = object(&json!({ "artifactLocation": file, "region": region }), &["artifactLocation"]);
    let location = object(&json!({ "physicalLocation": place }), &["physicalLocation"]);
    let result = json!({
        "ruleId": string,
        "ruleIndex": { "type": "integer", "minimum": -1 },
        "level": level,
        "message": text,
        "locations": { "type": "array", "items": location, "minItems": 1, "maxItems": 1 },
    });
    let driver = json!({
        "name": string,
        "version": string,
        "semanticVersion": { "type": "string", "pattern": "^[0-9]+\\.[0-9]+\\.[0-9]+" },
        "rules": { "type": "array", "items": rules, "uniqueItems": true },
    });
    let run = json!({
        "tool": object(&json!({ "driver": object(&driver, &["name"]) }), &["driver"]),
        "columnKind": { "enum": ["utf16CodeUnits", "unicodeCodePoints"] },
        // A run without results means that nothing was looked at.
        "results": { "type": "array", "items": object(&result, &["ruleId", "message", "locations"]) },
    });
    let log = json!({
        "$schema": { "type": "string", "format": "uri" },
        "version": { "const": "2.1.0" },
        "runs": { "type": "array", "items": object(&run, &["tool", "results"]), "minItems": 1 },
    });
    object(&log, &["version", "runs"])
}

#[test]
fn sarif_is_what_its_standard_says() {
    let text = "alow: []\nallow: [\"*.test\"]\nsecrets: {ü: 1}\n";
    let desk = Desk::new(&[("policies/a b.yaml", text), ("c.yaml", GOOD), ("policies/w.yaml", WARNED)]);
    let schema = jsonschema::options().should_validate_formats(true).build(&sarif_schema()).expect("a schema");
    let absolute = desk.path("policies/a b.yaml");
    let absolute = absolute.to_str().expect("UTF-8");
    for operands in [&["c.yaml"][..], &["policies"], &[absolute]] {
        let log = desk.run(&[&["check", "--format", "sarif"], operands].concat()).json();
        let wrong: Vec<String> =
            schema.iter_errors(&log).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(wrong.is_empty(), "{operands:?} {wrong:?}");
        let run = &log["runs"][0];
        let rules = run["tool"]["driver"]["rules"].as_array().expect("rules");
        let results = run["results"].as_array().expect("results");
        assert_eq!(results.is_empty(), operands == ["c.yaml"]);
        for result in results {
            let index = usize::try_from(result["ruleIndex"].as_u64().expect("an index")).expect("small");
            assert_eq!(rules[index]["id"], result["ruleId"]);
            assert_eq!(rules[index]["defaultConfiguration"]["level"], result["level"]);
        }
        if operands != ["c.yaml"] {
            let expected = json!({ "physicalLocation": {
                "artifactLocation": { "uri": "policies/a%20b.yaml" },
                "region": { "startLine": 1, "startColumn": 1 },
            }});
            assert_eq!(results[0]["locations"], json!([expected]));
            assert_eq!(results[0]["message"]["text"], "a policy has no key `alow`\nhelp: did you mean `allow`?");
        }
    }
}

/// What a finding's help says to write: the last text in backquotes, or nothing.
fn quoted(help: &str) -> Option<&str> {
    help.rsplit('`').nth(1)
}

/// Mends the first finding by its help alone: at its place stands a token, and the help says what to write instead.
fn mend(text: &str, finding: &Value) -> String {
    let help = finding["help"].as_str().unwrap_or_else(|| panic!("no help: {finding}"));
    let write = quoted(help).unwrap_or_else(|| panic!("nothing to write: {finding}"));
    if help.starts_with("declare it") {
        return format!("{text}{write}\n");
    }
    let number = |key: &str| usize::try_from(finding[key].as_u64().expect("a number")).expect("small");
    let (line, column) = (number("line"), number("column"));
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let (before, token) = lines[line - 1].split_at(column - 1);
    let end = if let Some(inside) = token.strip_prefix('"') {
        inside.find('"').expect("a quote") + 2
    } else {
        token.find([':', ',', ']', '}']).unwrap_or(token.len())
    };
    lines[line - 1] = format!("{before}{write}{}", &token[end..]);
    lines.join("\n") + "\n"
}

#[test]
fn six_mistakes_are_mended_by_what_is_said_alone() {
    let mistakes = "\
version: 1
nmae: agent
allow:
  api.example.com:
    - match: { methods: [GET] }
      transform:
        - headers: { authorization: \"Bearer ${secrets.API}\" }
  raw.example.com: null
subnets:
  allow: [10.20.0.1/16]
denials: explian
";
    let desk = Desk::new(&[]);
    let mut text = mistakes.to_owned();
    let mut left = Vec::new();
    loop {
        desk.write("p.yaml", &text);
        let done = desk.run(&["check", "--format", "json", "p.yaml"]);
        let findings = done.json();
        let errors: Vec<&Value> =
            findings.as_array().expect("a list").iter().filter(|finding| finding["severity"] == "error").collect();
        left.push(errors.len());
        let Some(first) = errors.first() else {
            done.ended(0);
            break;
        };
        text = mend(&text, first);
    }
    assert_eq!(left, [6, 5, 4, 3, 2, 1, 0], "each help mends one fault and makes none: {text}");
}
