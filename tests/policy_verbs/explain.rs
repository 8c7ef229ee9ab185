//! `exeat explain`.

use serde_json::json;

use super::desk::{Desk, Done};

const POLICY: &str = "\
allow:
  api.example.com:
    - match: { method: [GET] }
      transform: [{ headers: { Authorization: 'Bearer ${secrets.KEY}', x-team: literal-canary } }]
    - response: { statusCode: 403, contentType: text/plain, body: body-canary }
  files.example.com: []
deny: ['*.evil.example']
subnets:
  allow: [10.20.0.0/16]
secrets: { KEY: { env: KEY } }
";

fn desk() -> Desk {
    Desk::new(&[("p.yaml", POLICY)])
}

/// Explains by `p.yaml`.
fn explain(desk: &Desk, arguments: &[&str]) -> Done {
    desk.run(&[&["explain", "--policy", "p.yaml"], arguments].concat())
}

#[test]
fn what_is_allowed_is_explained_row_by_row_and_ends_with_0() {
    let expected = "\
GET https://api.example.com/user

 dns  yes        May `api.example.com` be resolved?
                 p.yaml:2  `api.example.com`
   0  no         Is it to port 53, or to the block address?
   1  no         Does 198.51.100.7 lie in `subnets.deny`?
   2  no         Is 198.51.100.7 in a protected range that this policy may not open?
   3  no         Is the mode deny-all, or the policy empty?
   4  no         Does 198.51.100.7 lie in `subnets.allow`?
   5  no         Does `deny` match `api.example.com`?
   6  yes        Does `allow` match `api.example.com`, or is the mode allow-all?
                 p.yaml:2  `api.example.com`, with rules: TLS ends here, and each request is judged
 6.1  yes        Does the request meet this rule's `match`?
                 p.yaml:3  it sets `authorization`, `x-team`
dial  yes        May 198.51.100.7 be dialled (rows 1 and 2 again)?

allow: terminate, by p.yaml:3
  injected: authorization, x-team
  revision: REVISION
";
    let done = explain(&desk(), &["--address", "198.51.100.7", "https://api.example.com/user"]).ended(0);
    let revision = done.stdout.rsplit_once("revision: ").expect("a revision").1.trim();
    assert_eq!(done.stdout, expected.replace("REVISION", revision));
    assert!(revision.len() == 16 && revision.bytes().all(|byte| byte.is_ascii_hexdigit()), "{revision}");
}

#[test]
fn where_placeholders_are_replaced_is_said_of_those_that_may_go_along() {
    let rules = "\
allow:
  api.test:
    - { match: { path: { startsWith: /login } }, placeholders: { in: [body] } }
    - { match: { path: { startsWith: /plain } } }
    - placeholders: { in: [query, body] }
secrets:
  KEY: { env: KEY, to: [api.test], methods: [GET, POST] }
  LOGIN: { env: LOGIN, to: [api.test], paths: [/login], headers: [x-login] }
placeholders: { ONE: KEY, TWO: LOGIN }
";
    let desk = Desk::new(&[("p.yaml", rules)]);
    let notes = |step: &str, method: &str, url: &str| {
        let explained = explain(&desk, &["--format", "json", "--method", method, url]).ended(0).json();
        assert!(explained.get("injected").is_none(), "what a sandbox sends is not known: {explained}");
        let steps = explained["steps"].as_array().expect("a list").clone();
        let note = |step: &str| {
            let found = steps.iter().find(|other| other["step"] == *step).expect("that step");
            found["note"].as_str().expect("a note").to_owned()
        };
        (note("6"), note(step))
    };
    let headers = "the placeholder of KEY is replaced in `authorization` and `x-api-key`";
    for (step, method, url, entry, rule) in [
        (
            "6.3",
            "GET",
            "https://api.test/?t=x",
            headers,
            "the placeholder of KEY is replaced in the query and the body, too",
        ),
        ("6.2", "GET", "https://api.test/plain", headers, "it goes on unchanged"),
        (
            "6.1",
            "POST",
            "https://api.test/login",
            "; the placeholder of LOGIN is replaced in `x-login`",
            "the placeholder of KEY and that of LOGIN is replaced in the body, too",
        ),
        (
            "6.1",
            "PUT",
            "https://api.test/login",
            "each request is judged; the placeholder of LOGIN is replaced in `x-login`",
            "the placeholder of LOGIN is replaced in the body, too",
        ),
        (
            "6.3",
            "PUT",
            "https://api.test/",
            "with rules: TLS ends here, and each request is judged",
            "in the query and the body nothing is replaced: no secret that has a placeholder may go along",
        ),
    ] {
        let (said, done) = notes(step, method, url);
        assert!(said.contains(entry), "{method} {url}: {said}");
        assert_eq!(done, rule, "{method} {url}");
    }
    let shown = explain(&desk, &["https://api.test/?t=canary"]).ended(0).stdout;
    assert!(shown.contains("the placeholder of KEY is replaced in the query and the body, too"), "{shown}");
}

#[test]
fn what_is_denied_says_what_would_allow_it_and_ends_with_3() {
    for (arguments, verdict, hint) in [
        (&["https://new.example.com/"][..], "deny: no-rule\n", "add `new.example.com: []` to `allow`"),
        (
            &["https://x.evil.example/"],
            "deny: denied-domain, by p.yaml:7\n",
            "take `*.evil.example` (p.yaml:7) out of `deny`, and add `x.evil.example: []` to `allow`",
        ),
        (
            &["https://files.example.com/", "--address", "192.168.7.8"],
            "deny: protected-range\n",
            "add `192.168.7.8/32` to `subnets.allow`",
        ),
        (
            &["files.example.com:22"],
            "deny: no-name\n",
            "add `{opaque: {ports: [22]}}` to the rules of `files.example.com` (p.yaml:6)",
        ),
        (&["new.example.com:22"], "deny: no-rule\n", "add `new.example.com: [{opaque: {ports: [22]}}]` to `allow`"),
        (&["192.168.7.8:5432"], "deny: protected-range\n", "add `192.168.7.8/32` to `subnets.allow`"),
        (
            &["169.254.169.254:80"],
            "deny: protected-range\n",
            "run with `--allow-protected 169.254.169.254/32`, as no policy opens it, and add `169.254.169.254/32` to \
             `subnets.allow`",
        ),
        (
            &["http://api.example.com/"],
            "deny: plaintext-injection, by p.yaml:3\n",
            "use https: a credential is never sent in clear",
        ),
        (
            &["https://api.example.com/", "--header", "Host: files.example.com"],
            "deny: authority-mismatch\n",
            "send requests to the name that the connection was made for",
        ),
    ] {
        let shown = explain(&desk(), arguments).ended(3).stdout;
        assert!(shown.contains(&format!("\n\n{verdict}")), "{arguments:?}: {shown}");
        assert!(shown.ends_with(&format!("\n  to allow it: {hint}\n")), "{arguments:?}: {shown}");
    }
}

#[test]
fn method_headers_and_address_take_part() {
    let rules = "allow: {a.test: [{match: {headers: [{key: {exact: x-kind}, value: {exact: 'a: b'}}]}}, \
                 {match: {method: [PUT]}, response: {statusCode: 201}}, {response: {statusCode: 404}}]}";
    let desk = Desk::new(&[("p.yaml", rules)]);
    let status = |arguments: &[&str]| {
        let done = explain(&desk, &[&["--format", "json", "https://a.test/"], arguments].concat()).ended(0);
        done.json()["status"].clone()
    };
    assert_eq!(status(&[]), 404);
    assert_eq!(status(&["--method", "PUT"]), 201);
    assert_eq!(status(&["--method", "put"]), 404, "methods mind case");
    assert_eq!(status(&["--method", "PUT", "--header", "X-Kind: a: b"]), json!(null));
    assert_eq!(status(&["--address", "1.1.1.1"]), 404);
    explain(&desk, &["https://a.test/", "--header", "x-kind:a: b", "--address", "127.0.0.1"]).ended(3);
    explain(&desk, &["https://[::1]/"]).ended(3);
}

#[test]
fn a_judgement_is_data_if_asked_for() {
    let desk = desk();
    let told = |arguments: &[&str]| explain(&desk, &[&["--format", "json"], arguments].concat());
    let allowed = told(&["https://api.example.com/user?canary"]).ended(0).json();
    for (field, value) in [
        ("verdict", json!("allow")),
        ("route", json!("terminate")),
        ("rule", json!("p.yaml:3")),
        ("name", json!("api.example.com")),
        ("port", json!(443)),
        ("method", json!("GET")),
        ("path", json!("/user")),
        ("injected", json!(["authorization", "x-team"])),
    ] {
        assert_eq!(allowed[field], value, "{field}");
    }
    for absent in ["reason", "observed", "address", "status", "hint"] {
        assert!(allowed.get(absent).is_none(), "{absent} in {allowed}");
    }
    let steps = allowed["steps"].as_array().expect("a list");
    let settled: Vec<_> = steps.iter().filter(|step| step.get("settles").is_some()).collect();
    assert_eq!(settled.len(), 1);
    assert_eq!((&settled[0]["step"], &settled[0]["settles"]), (&json!("6.1"), &json!("allow terminate")));
    assert_eq!(settled[0]["rule"], "p.yaml:3");
    let denied = told(&["10.30.0.1:5432"]).ended(3).json();
    assert_eq!((&denied["verdict"], &denied["reason"]), (&json!("deny"), &json!("protected-range")));
    assert_eq!((&denied["address"], &denied["port"]), (&json!("10.30.0.1"), &json!(5432)));
    assert_eq!(denied["hint"], "add `10.30.0.1/32` to `subnets.allow`");
    assert!(denied.get("route").is_none() && denied.get("method").is_none(), "{denied}");
    desk.write("p.yaml", "allow: [a.example]\nobserve: true\n");
    let observed = told(&["https://b.example/"]).ended(3).json();
    assert_eq!((&observed["observed"], &observed["route"]), (&json!(true), &json!("splice")));
}

#[test]
fn no_value_is_shown_whatever_is_asked() {
    let desk = desk();
    for arguments in [
        &["https://api.example.com/"][..],
        &["https://api.example.com/", "--header", "authorization: header-canary"],
        &["https://api.example.com/", "--header", "Host: header-canary"],
        &["https://api.example.com/", "--header", "x: header-canary\u{7f}"],
        &["https://api.example.com/", "--header", "header-canary"],
        &["api.example.com:22", "--header", "x: header-canary"],
        &["https://api.example.com/", "--method", "POST"],
        &["http://api.example.com/"],
    ] {
        for format in ["human", "json"] {
            let all = [&["explain", "--policy", "p.yaml", "--format", format], arguments].concat();
            let done = Done::of(desk.command(&all).env("KEY", "secret-canary").output().expect("exeat was built"));
            assert!(!format!("{}{}", done.stdout, done.stderr).contains("canary"), "{arguments:?}: {done:#?}");
        }
    }
}

#[test]
fn a_policy_is_named_as_elsewhere() {
    let desk = Desk::new(&[
        ("base.yaml", "deny: [a.test]\n"),
        ("p.yaml", "extends: [base.yaml]\nallow: ['*.test']\n"),
        ("bad.yaml", "alow: []\n"),
    ]);
    let denied = explain(&desk, &["https://a.test/"]).ended(3).stdout;
    assert!(denied.contains("deny: denied-domain, by base.yaml:1\n"), "{denied}");
    let preset = ["explain", "--policy", "preset:coding-agent", "https://api.github.com/user"];
    assert!(desk.run(&preset).ended(0).stdout.contains("injected: authorization\n"));
    let faulty = desk.run(&["explain", "--policy", "bad.yaml", "https://a.test/"]);
    assert!(faulty.code == Some(1) && faulty.stdout.is_empty(), "{faulty:#?}");
    assert!(faulty.stderr.contains("help: did you mean `allow`?"), "{faulty:#?}");
}

#[test]
fn what_asks_nothing_is_wrong_usage() {
    let desk = desk();
    for (arguments, says) in [
        (&["example.com"][..], "write `example.com:22`, or `https://example.com/` for a request"),
        (&["ftp://example.com/"], "not an http or https URL"),
        (&["https://example.com/#part"], "a fragment is never sent"),
        (&["https://me@example.com/"], "without user info"),
        (&["--method", "CONNECT", "https://example.com/"], "--method: `CONNECT` is for proxies"),
        (&["--method", "A B", "https://example.com/"], "--method: this is not a method"),
        (&["--method", "GET", "example.com:22"], "not an http or https URL"),
        (&["--header", "x", "https://example.com/"], "write it as `name: value`"),
        (&["--header", "x: y", "example.com:22"], "a header goes with a request"),
        (&["--address", "10.0.0.1", "10.0.0.2:22"], "an address already"),
        (&["--address", "example.com", "https://example.com/"], "--address"),
        (&[], "URL|HOST:PORT"),
    ] {
        explain(&desk, arguments).refused(&[says]);
    }
    desk.run(&["explain", "https://example.com/"]).refused(&["--policy"]);
    desk.run(&["explain", "--policy", "none.yaml", "https://example.com/"]).refused(&["none.yaml"]);
    desk.run(&["explain", "--policy", "preset:none", "https://example.com/"]).refused(&["there is no preset `none`"]);
}

#[test]
fn a_target_cannot_steer_the_terminal() {
    let shown = explain(&desk(), &["https://api.example.com/\u{202e}x"]).ended(0).stdout;
    assert!(!shown.contains('\u{202e}') && shown.contains("/\u{fffd}x"), "{shown}");
    let plain = explain(&desk(), &["https://new.example.com/"]).stdout;
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    let colored = explain(&desk(), &["--color", "always", "https://new.example.com/"]).stdout;
    assert!(colored.contains("\u{1b}[1;31mdeny: no-rule\u{1b}[0m"), "{colored:?}");
}
