//! For each warning documents that give it, and such as nearly would.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::limits;
use crate::policy::diagnostic::{Code, Diagnostic};
use crate::policy::{Author, Claim, Flags, Policy, Source, Terms};

fn advice(text: &str) -> Vec<Diagnostic> {
    advice_with(text, &Flags::default(), &Terms::default())
}

fn advice_with(text: &str, flags: &Flags, terms: &Terms<'_>) -> Vec<Diagnostic> {
    let compiled = Policy::compile(Some(Source { path: "p.yaml", text }), flags, terms);
    compiled.unwrap_or_else(|faults| panic!("{text}\n{faults}")).advice.into_iter().collect()
}

/// `LINE:COLUMN` of each warning of this code; all have a help.
fn places(code: Code, text: &str) -> Vec<String> {
    let found = advice(text).into_iter().filter(|advice| advice.code == code);
    let place = |advice: Diagnostic| {
        assert!(advice.help.is_some(), "{advice}");
        advice.place.map_or_else(String::new, |place| format!("{}:{}", place.line, place.column))
    };
    found.map(place).collect()
}

/// What gives a warning, and where; and what gives none of this code, and no other either.
#[track_caller]
fn gives(code: Code, given: &[(&str, &[&str])], not_given: &[&str]) {
    for (text, expected) in given {
        assert_eq!(places(code, text), *expected, "{}:\n{text}", code.as_str());
    }
    for text in not_given {
        assert_eq!(advice(text), [], "{text}");
    }
}

/// A document whose one entry has these rules.
fn rules(rules: &[&str]) -> String {
    let rules: String = rules.iter().map(|rule| format!("    - {{{rule}}}\n")).collect();
    format!("allow:\n  a.example.com:\n{rules}")
}

#[test]
fn a_rule_that_earlier_ones_leave_nothing_is_shadowed() {
    let shadowed = |list: &[&str]| places(Code::ShadowedRule, &rules(list));
    for list in [
        &["", ""][..],
        &["", "match: {method: [GET]}"],
        &["match: {method: [GET, POST]}", "match: {method: [POST]}"],
        &["match: {method: [GET]}", "match: {method: [GET], path: {exact: /a}}"],
        &["match: {path: {startsWith: /v1/}}", "match: {path: {exact: /v1/models}}"],
        &["match: {path: {startsWith: /v1/}}", "match: {path: {startsWith: /v1/models}, method: [GET]}"],
        &["match: {path: {glob: '/v1/**'}}", "match: {path: {glob: '/v1/*/x'}}"],
        &["match: {path: {startsWith: /v1/}}", "match: {path: {regex: '^/v1/[a-z]+$'}}"],
        &["match: {path: {regex: '^/v1/'}}", "match: {path: {startsWith: /v1/models}}"],
        &["match: {queryString: [{key: {exact: a}}]}", "match: {queryString: [{key: {exact: a}, value: {exact: b}}]}"],
        &["match: {headers: [{key: {exact: X-A}}]}", "match: {headers: [{key: {exact: x-a}}, {key: {exact: b}}]}"],
    ] {
        assert_eq!(shadowed(list), ["4:7"], "{list:?}");
    }
    let union = ["match: {method: [GET]}", "match: {method: [POST]}", "match: {method: [GET, POST]}"];
    assert_eq!(shadowed(&union), ["5:7"], "no single rule claims all of it");
    assert_eq!(shadowed(&["", "", ""]), ["4:7", "5:7"]);
    let after_opaque = ["opaque: {ports: [22]}", "", "match: {method: [GET]}"];
    assert_eq!(shadowed(&after_opaque), ["5:7"]);
    let [fault] = &advice(&rules(&["match: {method: [GET]}", "match: {method: [GET]}"]))[..] else { panic!() };
    assert_eq!(fault.message, "this rule never claims a request: p.yaml:3 claims all that it would");
}

#[test]
fn a_rule_that_may_claim_something_is_not_shadowed() {
    for list in [
        &["match: {method: [GET]}", ""][..],
        &["match: {method: [GET]}", "match: {method: [GET, POST]}"],
        &["match: {method: [GET]}", "match: {method: [POST]}", "match: {method: [GET, POST, PUT]}"],
        &["match: {method: [GET], path: {exact: /a}}", "match: {method: [POST]}", "match: {method: [GET, POST]}"],
        &["match: {path: {exact: /a}}", "match: {path: {exact: /a/}}"],
        &["match: {path: {startsWith: /v1/models}}", "match: {path: {startsWith: /v1/}}"],
        &["match: {path: {glob: '/v1/*'}}", "match: {path: {startsWith: /v1/}}"],
        &["match: {path: {regex: '^/v1/[a-z]*$'}}", "match: {path: {startsWith: /v1/}}"],
        &["match: {queryString: [{key: {exact: a}}]}", "match: {headers: [{key: {exact: a}}]}"],
        &["match: {headers: [{key: {exact: a}}, {key: {exact: b}}]}", "match: {headers: [{key: {exact: a}}]}"],
        &["opaque: {ports: [22]}", ""],
        &["opaque: {ports: [22]}", "opaque: {ports: [22]}"],
    ] {
        assert_eq!(advice(&rules(list)), [], "{list:?}");
    }
}

#[test]
fn what_no_request_meets_never_matches() {
    let path = |path: &str| rules(&[&format!("match: {{path: {{{path}}}}}")]);
    for (matcher, told) in [
        ("exact: v1/models", "no path begins so"),
        ("startsWith: v1/", "no path begins so"),
        ("glob: 'v1/**'", "no path begins so"),
        ("regex: '^v1/'", "no path begins so"),
        ("exact: 'https://a.example.com/v1'", "no path begins so"),
        ("exact: '/search?q=x'", "no path holds a `?`: the query is no part of it"),
        ("regex: '^/search\\?q='", "no path holds a `?`: the query is no part of it"),
        ("exact: '/a b'", "no path holds a space"),
        ("startsWith: /projects/group%2Fproject", "no path holds this both as it is sent and fully decoded"),
        ("exact: //a", "no path holds this both as it is sent and fully decoded"),
        ("startsWith: /a/../b", "no path holds this both as it is sent and fully decoded"),
        ("exact: /a/.", "no path holds this both as it is sent and fully decoded"),
        ("glob: '/a;b/*'", "no path holds this both as it is sent and fully decoded"),
    ] {
        let found = advice(&path(matcher));
        assert_eq!(found.iter().map(|advice| advice.code).collect::<Vec<_>>(), [Code::NeverMatches], "{matcher}");
        assert!(found[0].message.starts_with(told), "{matcher}: {}", found[0].message);
        assert!(found[0].help.is_some());
        assert_eq!(found[0].place.as_ref().map(|place| place.line), Some(3));
    }
    for matcher in [
        "exact: '*'",
        "exact: /a%zz",
        "exact: /a.b/..c",
        "startsWith: /a/.",
        "startsWith: /",
        "glob: '/?'",
        "glob: '**/v1'",
        "glob: '/projects/{group%2Fproject,group/project}'",
        "regex: v1/",
        "regex: '^/v1(/x)?$'",
        "regex: 'q\\?'",
    ] {
        assert_eq!(advice(&path(matcher)), [], "{matcher}");
    }
    gives(
        Code::NeverMatches,
        &[("allow: {a.example.com: [{match: {method: [GET, post]}}]}", &["1:48"])],
        &["allow: {a.example.com: [{match: {method: [GET, PROPFIND, report]}}]}"],
    );
}

#[test]
fn an_entry_that_allows_nothing_is_told() {
    gives(
        Code::DeniedAllow,
        &[
            ("allow: [a.example.com]\ndeny: [a.example.com]", &["1:9"]),
            ("allow: [x.a.example.com, '*.a.example.com', b.example.com]\ndeny: ['*.a.example.com']", &["1:9", "1:26"]),
            ("allow: {a.b.example.com: [{}]}\ndeny: ['a.*.example.com']", &["1:9"]),
            ("subnets: {allow: [10.1.0.0/16, 10.2.0.0/16], deny: [10.1.0.0/16]}", &["1:19"]),
            ("subnets: {allow: ['fd00:1::/32'], deny: ['fd00::/8']}", &["1:19"]),
        ],
        &[
            "allow: ['*.a.example.com']\ndeny: [x.a.example.com]",
            "allow: [a.example.com]\ndeny: ['*.a.example.com']",
            "subnets: {allow: [10.0.0.0/8], deny: [10.1.0.0/16]}",
        ],
    );
    let [denied] = &advice("allow: [a.example.com]\ndeny: ['*.example.com']")[..] else { panic!() };
    assert_eq!(denied.message, "`a.example.com` is allowed here and denied in p.yaml:2, and what denies wins");
    assert_eq!(denied.help.as_deref(), Some("make `*.example.com` narrower in p.yaml:2, or take it out here"));
    let wider = "allow: [a.example.com, '*.example.com']";
    assert_eq!(advice(wider), [], "what is allowed twice is allowed");
}

#[test]
fn a_range_that_stays_closed_is_told() {
    gives(
        Code::ProtectedAllow,
        &[
            ("subnets: {allow: [127.0.0.0/8, 169.254.169.254/32, 'fe80::/10']}", &["1:19", "1:32", "1:52"]),
            ("subnets: {allow: [172.0.0.0/8]}", &["1:19"]),
            ("subnets: {allow: [192.168.0.0/15]}", &["1:19"]),
        ],
        &[
            "subnets: {allow: [10.0.0.0/8, 192.168.1.0/24, 100.64.0.0/10, 'fd00::/8', 8.8.8.8/32]}",
            "subnets: {allow: [172.0.0.0/8, 172.16.0.0/16]}",
        ],
    );
    let open = places(Code::ProtectedAllow, "subnets: {allow: [0.0.0.0/0]}");
    assert_eq!(open, [""; 0], "there is worse to tell of it");
}

#[test]
fn a_policy_that_only_denies_is_told() {
    gives(
        Code::AllowsNothing,
        &[
            ("name: x\ndeny: [a.example.com]", &["2:1"]),
            ("subnets: {deny: [10.0.0.0/8]}", &["1:11"]),
            ("allow: []\nsubnets: {deny: [10.0.0.0/8]}\ndeny: [a.example.com]", &["3:1"]),
        ],
        &[
            "{}",
            "mode: deny-all",
            "allow: []",
            "deny: []",
            "mode: custom\ndeny: [a.example.com]",
            "mode: allow-all\nsubnets: {deny: [10.0.0.0/8]}",
            "allow: [b.example.com]\ndeny: [a.example.com]",
        ],
    );
    let flags = Flags { deny_cidr: vec!["10.0.0.0/8".into()], ..Flags::default() };
    let compiled = Policy::compile(None, &flags, &Terms::default()).unwrap();
    assert_eq!(compiled.advice.iter().map(|advice| advice.code).collect::<Vec<_>>(), [Code::AllowsNothing]);
    let flags = Flags { allow: vec!["b.example.com".into()], ..Flags::default() };
    assert_eq!(advice_with("deny: [a.example.com]", &flags, &Terms::default()), []);
}

/// A document with the secret `KEY`, on its first line.
fn with_key(text: &str) -> String {
    format!("secrets: {{KEY: {{env: KEY}}}}\n{text}")
}

const INJECT: &str = "transform: [{headers: {authorization: 'Bearer ${secrets.KEY}'}}]";

#[test]
fn a_secret_is_told_that_nothing_uses() {
    gives(
        Code::UnusedSecret,
        &[("secrets: {KEY: {env: KEY}}", &["1:11"]), ("secrets: {A: {env: A},\n  B: {file: b}}", &["1:11", "2:3"])],
        &[
            &with_key(&rules(&[&format!("match: {{method: [GET]}}, {INJECT}")])),
            "secrets: {KEY: {env: KEY, to: [a.example.com]}}\nplaceholders: {TOKEN: KEY}\nallow: [a.example.com]",
        ],
    );
}

#[test]
fn a_secret_is_told_that_goes_to_anybody() {
    let entry = |pattern: &str| with_key(&format!("allow:\n  '{pattern}': [{{match: {{method: [GET]}}, {INJECT}}}]"));
    let given: Vec<String> = ["*", "*.com", "www.*.com", "*.co.uk", "*.github.io", "api.*"].map(entry).into();
    let given: Vec<(&str, &[&str])> = given.iter().map(|text| (text.as_str(), &["3:3"][..])).collect();
    let fine: Vec<String> = ["a.example.com", "*.example.com", "*.example.co.uk", "x.github.io"].map(entry).into();
    gives(Code::SecretForAnyName, &given, &fine.iter().map(String::as_str).collect::<Vec<_>>());
    let [alone] = &advice(&entry("*.com"))[..] else { panic!("one warning is enough") };
    assert_eq!(
        alone.message,
        "`*.com` takes the secret `KEY` to every name below `com`, and anybody can have one there"
    );
    assert_eq!(advice("allow: {'*': [{transform: [{headers: {x-sandbox: agent}}]}]}"), [], "no secret");
}

#[test]
fn a_secret_is_told_that_goes_with_everything() {
    let scoped = |when: &str| with_key(&rules(&[&format!("match: {{{when}}}, {INJECT}")]));
    let open = |when: &str| (scoped(when), ["4:7"]);
    let given = [
        (with_key(&rules(&[INJECT])), ["4:7"]),
        open("path: {startsWith: /}"),
        open("path: {regex: '.*'}"),
        open("headers: [{key: {exact: x-a}}]"),
        open("queryString: [{key: {exact: a}}]"),
        (with_key(&rules(&[&format!("match: {{path: {{exact: /a}}}}, {INJECT}"), INJECT])), ["5:7"]),
    ];
    let answer = "match: {method: [POST, PUT, PATCH, DELETE]}, response: {statusCode: 403}";
    let given: Vec<(&str, &[&str])> = given.iter().map(|(text, places)| (text.as_str(), &places[..])).collect();
    gives(
        Code::SecretWithoutScope,
        &given,
        &[
            &scoped("method: [GET]"),
            &scoped("path: {startsWith: /v1/}"),
            &scoped("path: {regex: '^/v1/'}, headers: [{key: {exact: x-a}}]"),
            &with_key(&rules(&[answer, INJECT])),
            &rules(&["transform: [{headers: {x-sandbox: agent}}]"]),
        ],
    );
}

#[test]
fn a_pattern_is_told_below_which_anybody_can_have_a_name() {
    gives(
        Code::TopLevelWildcard,
        &[
            ("allow: ['*.com']", &["1:9"]),
            ("allow: {a.example.com: [], '*.dev': [{}]}", &["1:28"]),
            ("allow: ['*.co.uk', 'www.*.com', 'a.*', '*.vercel.app']", &["1:9", "1:20", "1:33", "1:40"]),
        ],
        &[
            "allow: ['*']",
            "allow: ['*.example.com', '*.example.co.uk', '*.internal', '*.githubusercontent.com']",
            "allow: [a.example.com]\ndeny: ['*.com.mx']",
        ],
    );
    let flags = Flags { allow: vec!["*.com".into()], ..Flags::default() };
    let [flagged] = &advice_with("{}", &flags, &Terms::default())[..] else { panic!() };
    assert_eq!(
        (flagged.code, flagged.message.as_str(), &flagged.place),
        (Code::TopLevelWildcard, "`*.com` allows every name below `com`, and anybody can have one there", &None)
    );
}

/// 32.0.0.0 to 63.255.255.255, in ranges of this length.
fn eighths(length: u8) -> Vec<String> {
    (0..1 << (length - 3)).map(|n| format!("{}.0.0.0/{length}", 32 + (n << (8 - length)))).collect()
}

#[test]
fn ranges_are_told_that_open_the_internet() {
    gives(
        Code::OpenSubnets,
        &[
            ("subnets: {allow: [0.0.0.0/0]}", &["1:19"]),
            ("subnets: {allow: [0.0.0.0/0, '::/0']}", &["1:19", "1:30"]),
            ("subnets: {allow: [0.0.0.0/1, 128.0.0.0/1]}", &["1:19", "1:30"]),
            ("subnets: {allow: ['2000::/3']}", &["1:19"]),
            ("subnets: {allow: [64.0.0.0/2, 128.0.0.0/2, 8.8.8.0/24]}", &["1:19"]),
        ],
        &[
            "subnets: {allow: [10.0.0.0/8, 'fc00::/7', 8.8.8.0/24, '2606:4700::/32']}",
            // Within one another, so an eighth and no half.
            &format!("subnets: {{allow: [{}]}}", (3..=6).flat_map(eighths).collect::<Vec<_>>().join(", ")),
            "allow: [a.example.com]\nsubnets: {deny: [0.0.0.0/0]}",
        ],
    );
}

#[test]
fn a_deny_is_told_that_fronting_gets_round() {
    gives(
        Code::AdvisoryDeny,
        &[("allow: ['*']\ndeny: [a.example.com]", &["2:1"]), ("mode: allow-all\ndeny: [a.example.com]", &["2:1"])],
        &[
            "mode: allow-all\ndeny: [a.example.com]\nstrict: true",
            "mode: allow-all\ndeny: []",
            "mode: allow-all",
            "allow: ['*.example.com']\ndeny: [a.example.com]",
        ],
    );
}

#[test]
fn what_an_address_bypasses_is_told() {
    let rule = "allow: {a.example.com: [{response: {statusCode: 403}}]}";
    gives(
        Code::BypassedByAddress,
        &[
            ("allow: [b.example.com]\ndeny: [a.example.com]\nsubnets:\n  allow: [10.0.0.0/8, 8.8.8.0/24]", &["4:11"]),
            (&format!("{rule}\nsubnets: {{allow: [10.0.0.0/8]}}"), &["2:19"]),
            (&with_key(&format!("{}subnets: {{allow: [10.0.0.0/8]}}", rules(&[INJECT]))), &["5:19"]),
        ],
        &[
            "subnets: {allow: [10.0.0.0/8]}",
            "allow: [a.example.com]\nsubnets: {allow: [10.0.0.0/8]}",
            "allow: {a.example.com: [{}]}\nsubnets: {allow: [10.0.0.0/8]}",
            "allow: [a.example.com]\nsubnets: {allow: [10.0.0.0/8], deny: [10.1.0.0/16]}",
        ],
    );
}

#[test]
fn a_name_is_told_that_is_relayed_unread_to_a_host_of_many() {
    gives(
        Code::SharedHostSpliced,
        &[
            ("allow: [x.github.io, '*.y.github.io']", &["1:9", "1:22"]),
            ("allow: {d1.cloudfront.net: [], a.example.com: []}", &["1:9"]),
            ("allow: {x.herokuapp.com: [{opaque: {ports: [5432]}}]}", &["1:9"]),
            ("allow: [storage.googleapis.com]", &["1:9"]),
        ],
        &[
            "allow: [x.github.io]\nstrict: true",
            "allow: {x.github.io: [{}]}",
            "allow: {storage.googleapis.com: [{match: {path: {startsWith: /bucket/}}}, {response: {statusCode: 403}}]}",
            "allow: ['*', x.github.io]",
            "mode: allow-all\nallow: [x.github.io]",
            "allow: [github.io, api.github.com, generativelanguage.googleapis.com]",
        ],
    );
}

#[test]
fn a_credential_is_told_and_never_shown() {
    let random = "Zq8sW2x7Rt5Lk9Vb3Nm6Pd1Sf4Hj0Gc";
    let token = format!("ghp_{random}");
    let scoped = |rest: &str| rules(&[&format!("match: {{method: [GET]}}, {rest}")]);
    for text in [
        scoped(&format!("transform: [{{headers: {{authorization: 'Bearer {token}'}}}}]")),
        scoped(&format!("transform: [{{headers: {{x-api-key: {random}}}}}]")),
        scoped(&format!("response: {{statusCode: 200, headers: {{x: {token}}}}}")),
        scoped(&format!("response: {{statusCode: 200, contentType: a/b, body: 'the token is {token}'}}")),
        rules(&[&format!("match: {{headers: [{{value: {{exact: 'Bearer {token}'}}}}]}}")]),
        rules(&[&format!("match: {{queryString: [{{value: {{exact: {token}}}}}]}}")]),
    ] {
        let found = advice(&text);
        let [told] = &found[..] else { panic!("{text}\n{found:?}") };
        assert_eq!(told.code, Code::PastedCredential, "{text}");
        assert_eq!(told.place.as_ref().map(|place| place.line), Some(3));
        assert!(!format!("{told} {told:?}").contains(&random[..8]), "{told}");
    }
    let source = with_key(&scoped(INJECT)).replace("env: KEY", &format!("env: {token}"));
    assert_eq!(places(Code::PastedCredential, &source), ["1:22"]);
    for fine in [
        with_key(&scoped(INJECT)),
        scoped("transform: [{headers: {authorization: 'Bearer anonymous', x-sandbox: agent-1}}]"),
        scoped("response: {statusCode: 403, contentType: text/plain, body: 'set GITHUB_TOKEN, such as ghp_…'}"),
    ] {
        assert_eq!(advice(&fine), [], "{fine}");
    }
    let terms = Terms { author: Author::ControlPlane { openable: Vec::new(), secrets: [].into() }, ..Terms::default() };
    let through_the_api = scoped(&format!("transform: [{{headers: {{authorization: 'Bearer {token}'}}}}]"));
    assert_eq!(advice_with(&through_the_api, &Flags::default(), &terms), [], "values come as they are");
}

#[test]
fn a_reference_is_told_that_nothing_replaces() {
    let value = |value: &str| rules(&[&format!("transform: [{{headers: {{authorization: '{value}'}}}}]")]);
    let given = ["Bearer $GITHUB_TOKEN", "{{ secrets.GITHUB }}", "Bearer %TOKEN%"].map(value);
    let given: Vec<(&str, &[&str])> = given.iter().map(|text| (text.as_str(), &["3:46"][..])).collect();
    gives(Code::LiteralReference, &given, &[&value("Bearer anonymous"), &value("$5")]);
}

#[test]
fn names_are_told_that_nothing_resolves() {
    gives(
        Code::UnresolvableNames,
        &[("allow: [a.example.com]\ndns: none", &["2:6"])],
        &[
            "subnets: {allow: [10.0.0.0/8]}\ndns: none",
            "allow: [a.example.com]\ndns: any",
            "mode: allow-all\ndns: none",
        ],
    );
}

#[test]
fn an_older_spelling_is_told() {
    gives(
        Code::OlderSpelling,
        &[
            ("mode: custom\nallowedDomains: [a.example.com]", &["1:1"]),
            ("mode: default-deny", &["1:1"]),
            ("{\"mode\": \"default-allow\"}", &["1:2"]),
        ],
        &["mode: custom\nallow: [a.example.com]", "mode: allow-all"],
    );
    let terms = Terms { author: Author::ControlPlane { openable: Vec::new(), secrets: [].into() }, ..Terms::default() };
    assert_eq!(advice_with("{mode: custom, allowedDomains: [a.example.com]}", &Flags::default(), &terms), []);
}

/// `limits::ADVICE_STEPS`
#[test]
fn the_search_for_shadowed_rules_ends() {
    let entry = |others: usize| {
        let others: String = (0..others).map(|n| format!("    - match: {{path: {{exact: /{n}}}}}\n")).collect();
        format!("allow:\n  a.example.com:\n{others}    - match: {{path: {{exact: /0}}}}\n")
    };
    let few = 100;
    assert_eq!(places(Code::ShadowedRule, &entry(few)).len(), 1);
    let many = 2 * limits::ADVICE_STEPS.isqrt();
    assert_eq!(places(Code::ShadowedRule, &entry(many)).len(), 0);
}

/// Rules over so few methods, paths, queries and headers that they meet.
fn rule() -> impl Strategy<Value = String> {
    let paths = vec![
        "",
        "exact: /a",
        "exact: /a/b",
        "startsWith: /",
        "startsWith: /a",
        "startsWith: /a/",
        "regex: '^/a'",
        "regex: '^/a(/b)?$'",
        "regex: 'b'",
        "regex: '(?i)^/A'",
        "regex: '.*'",
        "regex: '^/a|b$'",
        "glob: '/a/**'",
        "glob: '/*'",
        "glob: '/*/b'",
        "glob: '**'",
        "glob: '/{a,b}/**'",
    ];
    let pairs = vec![
        "{key: {exact: a}}",
        "{value: {startsWith: b}}",
        "{key: {regex: '^a'}, value: {exact: b}}",
        "{key: {startsWith: A}}",
        "{key: {regex: A}}",
        "{value: {regex: ''}}",
    ];
    let methods = subsequence(vec!["GET", "POST", "PUT"], 0..=3);
    let queries = subsequence(pairs.clone(), 0..=2);
    let headers = subsequence(pairs, 0..=2);
    (methods, select(paths), queries, headers).prop_map(|(methods, path, query, headers)| {
        let list = |key: &str, items: &[&str]| {
            if items.is_empty() { String::new() } else { format!("{key}: [{}], ", items.join(", ")) }
        };
        let path = if path.is_empty() { String::new() } else { format!("path: {{{path}}}, ") };
        let lists = [list("method", &methods), path, list("queryString", &query), list("headers", &headers)];
        format!("match: {{{}}}", lists.concat())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_shadowed_rule_claims_no_request(
        list in proptest::collection::vec(rule(), 2..6),
        requests in proptest::collection::vec(request(), 100),
    ) {
        let text = rules(&list.iter().map(String::as_str).collect::<Vec<_>>());
        let source = Source { path: "p.yaml", text: &text };
        let compiled = Policy::compile(Some(source), &Flags::default(), &Terms::default()).unwrap();
        let told = compiled.advice.iter().filter(|advice| advice.code == Code::ShadowedRule);
        let shadowed: Vec<u32> =
            told.map(|advice| u32::try_from(advice.place.as_ref().unwrap().line).unwrap()).collect();
        let (_, entry) = compiled.policy.allow.iter().next().unwrap();
        for request in &requests {
            if let Claim::Rule(rule) = entry.claim(&request.head()) {
                prop_assert!(!rule.id.line().is_some_and(|line| shadowed.contains(&line)), "{text}\n{request:?}");
            }
        }
    }

    #[test]
    fn a_rule_whose_path_never_matches_claims_no_request(
        head in "[/?%2;a. b\\\\]{1,6}",
        kind in select(vec!["exact", "startsWith", "glob"]),
        paths in proptest::collection::vec(path(), 60),
    ) {
        let text = rules(&[&format!("match: {{path: {{{kind}: '{head}'}}}}")]);
        let source = Source { path: "p.yaml", text: &text };
        let Ok(compiled) = Policy::compile(Some(source), &Flags::default(), &Terms::default()) else { return Ok(()) };
        prop_assume!(compiled.advice.iter().any(|advice| advice.code == Code::NeverMatches));
        let (_, entry) = compiled.policy.allow.iter().next().unwrap();
        let near = paths.iter().map(|path| format!("{head}{path}")).filter(|path| is_sent(path));
        for path in paths.iter().cloned().chain(near).chain(is_sent(&head).then(|| head.clone())) {
            let request = Request { path, ..Request::default() };
            prop_assert!(!matches!(entry.claim(&request.head()), Claim::Rule(_)), "{text}\n{request:?}");
        }
    }
}

/// What a request line may have for a path.
fn is_sent(path: &str) -> bool {
    path.starts_with('/') && !path.contains(['?', ' '])
}

#[derive(Debug, Clone, Default)]
struct Request {
    method: String,
    path: String,
    query: Option<String>,
    headers: http::HeaderMap,
}

impl Request {
    fn head(&self) -> crate::flow::RequestHead<'_> {
        crate::flow::RequestHead {
            scheme: crate::flow::Scheme::Https,
            authority: None,
            dst: crate::flow::OriginalDst(([198, 51, 100, 1], 443).into()),
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
        }
    }
}

fn path() -> impl Strategy<Value = String> {
    "(/(a|b|A|\\.|\\.\\.|%2e|%61|%2f|%252f|;|\\\\|2){0,3}){1,4}"
}

fn request() -> impl Strategy<Value = Request> {
    let method = select(vec!["GET", "POST", "PUT", "HEAD"]).prop_map(str::to_owned);
    let query = proptest::option::of("(a|b|ab)=(a|b|bc)(&(a|b)=(a|b))?");
    let headers = proptest::collection::vec((select(vec!["a", "ab", "b"]), select(vec!["a", "b", "bc"])), 0..3);
    (method, path(), query, headers).prop_map(|(method, path, query, pairs)| {
        let mut headers = http::HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        Request { method, path, query, headers }
    })
}
