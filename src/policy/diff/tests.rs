//! Tables of sentences: two documents, and all that is told of them.

use super::*;
use crate::policy::{Flags, Source, Terms};

mod questions;

fn compile(path: &'static str, text: &str) -> Policy {
    let compiled = Policy::compile(Some(Source { path, text }), &Flags::default(), &Terms::default());
    compiled.unwrap_or_else(|faults| panic!("{text}\n{faults}")).policy
}

/// Of every change `+`, `-` or `~`, the sentence, and the example after `e.g.`.
fn told(old: &str, new: &str) -> Vec<String> {
    let changes = diff(&compile("old", old), &compile("new", new));
    let mut told = Vec::new();
    for (direction, sign) in Direction::ALL.into_iter().zip(["+", "-", "~"]) {
        for Change { sentence, example, direction: own, .. } in changes.towards(direction) {
            assert_eq!(*own, direction);
            let example = example.as_ref().map_or_else(String::new, |example| format!(" e.g. {example}"));
            told.push(format!("{sign} {sentence}{example}"));
        }
    }
    told
}

/// Two documents, and what is told from the one to the other.
type Told<'a> = (&'a str, &'a str, &'a [&'a str]);

#[track_caller]
fn tells(table: &[Told<'_>]) {
    for (old, new, expected) in table {
        assert_eq!(told(old, new), *expected, "from\n{old}\nto\n{new}");
    }
}

#[test]
fn names_that_become_reachable_or_no_longer_are() {
    tells(&[
        (
            "{}",
            "allow: [a.test]",
            &["+ `a.test` becomes reachable (new:1); TLS to it goes through unread e.g. GET https://a.test/"],
        ),
        (
            "mode: deny-all",
            "{strict: true, allow: ['*.a.test']}",
            &["+ `*.a.test` becomes reachable (new:1); TLS to it is read e.g. GET https://any.a.test/"],
        ),
        (
            "allow: [a.test]",
            "{}",
            &["- `a.test` is no longer reachable: the new policy allows nothing e.g. GET https://a.test/"],
        ),
        (
            "allow: [a.test]",
            "mode: deny-all",
            &["- `a.test` is no longer reachable: the new policy allows nothing (new:1) e.g. GET https://a.test/"],
        ),
        (
            "allow: [a.test, b.test]",
            "allow: [b.test]",
            &["- `a.test` is no longer reachable: old:1 allowed it, and nothing does now e.g. GET https://a.test/"],
        ),
        (
            "allow: ['*.a.test']",
            "{allow: ['*.a.test'], deny: [x.a.test]}",
            &["- `x.a.test` is no longer reachable: denied by new:1 e.g. GET https://x.a.test/"],
        ),
        (
            "{allow: ['*.a.test'], deny: [x.a.test]}",
            "allow: ['*.a.test']",
            &["+ `x.a.test` becomes reachable (new:1; old:1 denied it); TLS to it goes through unread e.g. GET \
               https://x.a.test/"],
        ),
        (
            "{allow: [b.test], deny: [c.test]}",
            "{mode: allow-all, deny: [c.test]}",
            &["+ every name but `c.test` becomes reachable (new:1); TLS to it goes through unread e.g. GET \
               https://elsewhere.example/"],
        ),
        (
            "{allow: ['*'], deny: [c.test]}",
            "{allow: [a.test, b.test], deny: [c.test]}",
            &["- every name but `a.test` and `b.test` is no longer reachable: old:1 allowed it, and nothing does now \
               e.g. GET https://elsewhere.example/"],
        ),
        (
            "deny: [a.x.test, b.x.test, c.x.test, d.x.test]",
            "{allow: ['*.x.test'], deny: [a.x.test, b.x.test, c.x.test, d.x.test]}",
            &["+ `*.x.test` but what 4 narrower patterns match becomes reachable (new:1); TLS to it goes through \
                 unread e.g. GET https://any.x.test/"],
        ),
    ]);
}

#[test]
fn patterns_that_have_names_in_common_are_told_by_those_names() {
    tells(&[
        (
            "allow: ['www.*.test', '*.b.test']",
            "allow: ['www.*.test']",
            &["- `*.b.test` but `www.b.test` is no longer reachable: old:1 allowed it, and nothing does now e.g. GET \
               https://any.b.test/"],
        ),
        (
            "{allow: {'*.b.test': [], 'www.*.test': []}}",
            "{allow: {'*.b.test': [], 'www.*.test': []}, deny: ['*.b.test']}",
            &["- `*.b.test` is no longer reachable: denied by new:1 e.g. GET https://any.b.test/"],
        ),
        (
            "{allow: {'*.b.test': [], 'www.*.test': []}, deny: [x.test]}",
            "{allow: {'*.b.test': []}, deny: [x.test]}",
            &["- `www.*.test` but `www.b.test` is no longer reachable: old:1 allowed it, and nothing does now e.g. \
               GET https://www.any.test/"],
        ),
        // As specific as one another: the one that comes first decides.
        (
            "{allow: {'*.a.*.test': [], '*.b.test': [response: {statusCode: 403}]}}",
            "{allow: {'*.b.test': [response: {statusCode: 403}], '*.a.*.test': []}}",
            &[
                "- TLS to `*.a.b.test` is now read, and each request judged (new:1) e.g. GET https://any.a.b.test/",
                "- requests to `*.a.b.test` that went on unchanged are now answered here with 403 (new:1) e.g. GET \
                 https://any.a.b.test/",
            ],
        ),
    ]);
}

#[test]
fn addresses_that_become_reachable_or_no_longer_are() {
    tells(&[
        (
            "{}",
            "subnets: {allow: [10.20.0.0/16], deny: [10.20.30.0/24]}",
            &["+ 10.20.0.0/16 but 10.20.30.0/24 becomes reachable by address, whatever is spoken (new:1) e.g. \
               10.20.0.1:443"],
        ),
        (
            "subnets: {allow: [10.20.0.0/16]}",
            "subnets: {allow: [10.20.0.0/16], deny: [10.20.30.0/24]}",
            &["- 10.20.30.0/24 is no longer reachable: denied by new:1 e.g. 10.20.30.1:443"],
        ),
        (
            "subnets: {allow: [10.0.0.0/8, 8.8.8.0/24]}",
            "subnets: {allow: [8.8.8.0/24]}",
            &["- 10.0.0.0/8 is no longer reachable: it is protected, and was opened by old:1 e.g. 10.0.0.1:443"],
        ),
        (
            "{allow: [a.test], subnets: {allow: [8.8.8.8/32]}}",
            "{allow: [a.test]}",
            &["- 8.8.8.8/32 is no longer reachable by address, but under names that are allowed (was old:1) e.g. \
               8.8.8.8:443"],
        ),
        (
            "{}",
            "subnets: {allow: ['0.0.0.0/0', '2001:db8::/32', 'fd20::/64']}",
            &[
                "+ 0.0.0.0/0 but what is protected becomes reachable by address, whatever is spoken (new:1) e.g. \
                 1.0.0.1:443",
                "+ 2001:db8::/32 but what is protected becomes reachable by address, whatever is spoken (new:1) e.g. \
                 [2001:db8::]:443",
                "+ fd20::/64 becomes reachable by address, whatever is spoken (new:1) e.g. [fd20::1]:443",
            ],
        ),
        (
            "allow: [a.test]",
            "{allow: [a.test], subnets: {deny: [10.0.0.0/8, 8.8.8.0/24]}}",
            &["- 8.8.8.0/24 is no longer reachable under any name: denied by new:1 e.g. GET https://a.test/ at \
                 8.8.8.1"],
        ),
        (
            "{allow: [a.test], subnets: {deny: [8.8.8.0/24]}}",
            "allow: [a.test]",
            &["+ 8.8.8.0/24 becomes reachable under names that are allowed; it was denied by old:1 e.g. GET \
               https://a.test/ at 8.8.8.1"],
        ),
        (
            "{}",
            "subnets: {allow: [9.0.0.0/8], deny: [9.1.0.0/16, 9.3.0.0/16, 9.5.0.0/16, 9.7.0.0/16]}",
            &["+ 9.0.0.0/8 but 4 narrower ranges becomes reachable by address, whatever is spoken (new:1) e.g. \
               9.0.0.1:443"],
        ),
        (
            "{observe: true, subnets: {deny: [10.1.0.0/16]}}",
            "{observe: true, subnets: {deny: [10.1.0.0/16], allow: [10.1.2.0/24]}}",
            &["+ 10.1.2.0/24 is opened by new:1: denied, but let through and recorded (`observe`)"],
        ),
    ]);
}

#[test]
fn flows_that_name_nobody() {
    const WHAT: &str = "what names nobody (TLS without a server name, a protocol that is neither TLS nor HTTP)";
    for (old, new, expected) in [
        (
            "{allow: ['*'], deny: [a.test]}",
            "allow: ['*', a.test]",
            "+ WHAT becomes reachable at every address that is not denied or protected (new:1) e.g. 198.51.100.1:22",
        ),
        (
            "{allow: ['*'], strict: true, subnets: {deny: [198.51.100.0/24]}}",
            "{allow: ['*'], subnets: {deny: [198.51.100.0/24]}}",
            "+ WHAT becomes reachable at every address that is not denied or protected (new:1) e.g. 203.0.113.1:22",
        ),
        (
            "allow: ['*']",
            "{allow: ['*'], deny: [a.test]}",
            "- WHAT is no longer reachable: beside a denied name, only what is named is allowed e.g. 198.51.100.1:22",
        ),
        (
            "allow: ['*']",
            "{allow: ['*'], strict: true}",
            "- WHAT is no longer reachable: `strict` lets nothing through unread e.g. 198.51.100.1:22",
        ),
        (
            "mode: allow-all",
            "allow: ['*.test']",
            "- WHAT is no longer reachable: old:1 allowed it, and nothing does now e.g. 198.51.100.1:22",
        ),
    ] {
        let expected = expected.replace("WHAT", WHAT);
        let told = told(old, new);
        assert!(told.contains(&expected), "from\n{old}\nto\n{new}: {told:#?}");
    }
}

/// A policy whose one entry has these rules.
fn entry(rules: &str) -> String {
    format!("allow: {{a.test: [{rules}]}}\nsecrets: {{K: {{env: K}}, L: {{env: L}}}}")
}

const GET: &str = "{match: {method: [GET]}}";
const NO: &str = "{response: {statusCode: 403}}";
const V2: &str = "{match: {path: {regex: \"^/v2/[a-z]+$\"}}, response: {statusCode: 404}}";
const KEY: &str = "{match: {method: [GET]}, transform: [{headers: {authorization: \"Bearer ${secrets.K}\"}}]}";
const OTHER: &str = "{match: {method: [GET]}, transform: [{headers: {authorization: \"Bearer ${secrets.L}\"}}]}";
const AS_BASIC: &str = "{match: {method: [GET]}, transform: [{headers: {authorization: \"Basic ${secrets.K}\"}}]}";
const PLAIN: &str = "{match: {method: [GET]}, transform: [{headers: {x-mode: read}}]}";

fn and(rules: &[&str]) -> String {
    rules.join(", ")
}

#[track_caller]
fn requests_tell(table: &[(String, String, &[&str])]) {
    for (old, new, expected) in table {
        assert_eq!(told(&entry(old), &entry(new)), *expected, "from\n{old}\nto\n{new}");
    }
}

/// Where `deny` holds the host of a `forwardURL`, its requests are refused; that changes with `deny` alone.
#[test]
fn requests_that_are_sent_where_nothing_may_go() {
    const AWAY: &str = "{match: {method: [GET]}, forwardURL: \"https://f.test/x\"}";
    let denying = |rules: &str| format!("{}\ndeny: [f.test]", entry(rules));
    tells(&[
        (
            &denying(AWAY),
            &entry("{}"),
            &["+ GET requests to `a.test` that were refused, as `f.test` is denied, now go on unchanged (new:1) e.g. \
               GET https://a.test/"],
        ),
        (
            &denying(AWAY),
            &entry(AWAY),
            &["+ GET requests to `a.test` that were refused, as `f.test` is denied, are now sent to https://f.test/x \
               (new:1) e.g. GET https://a.test/"],
        ),
        (
            &entry(AWAY),
            &denying(AWAY),
            &["- GET requests to `a.test` that were sent to https://f.test/x are now refused, as `f.test` is denied \
               (new:1) e.g. GET https://a.test/"],
        ),
        (&denying(AWAY), &denying("{match: {method: [GET]}, forwardURL: \"https://f.test/y\"}"), &[]),
    ]);
}

#[test]
fn credentials_that_are_sent_and_no_longer_sent() {
    requests_tell(&[
        (
            and(&["{match: {method: [GET, HEAD]}}", NO]),
            and(&[GET, NO]),
            &["- HEAD requests to `a.test` that went on unchanged are now answered here with 403 (new:1) e.g. HEAD \
               https://a.test/"],
        ),
        (
            and(&[GET, NO]),
            and(&[GET]),
            &["+ requests other than GET to `a.test` that were answered here with 403 now go on unchanged (was \
                 old:1) e.g. POST https://a.test/"],
        ),
        (
            and(&[GET, NO]),
            and(&[KEY, NO]),
            &["+ `authorization` from the secret K is now sent to `a.test` with GET requests (new:1) e.g. GET \
               https://a.test/"],
        ),
        (
            and(&[KEY, NO]),
            and(&[OTHER, NO]),
            &[
                "+ `authorization` from the secret L is now sent to `a.test` with GET requests (new:1) e.g. GET \
                 https://a.test/",
                "- `authorization` from the secret K is no longer sent to `a.test` with GET requests (new:1) e.g. GET \
                 https://a.test/",
            ],
        ),
        (
            and(&[KEY, NO]),
            and(&[AS_BASIC, NO]),
            &["~ what `authorization` holds changes in GET requests to `a.test` (new:1) e.g. GET https://a.test/"],
        ),
        (
            and(&[GET, NO]),
            and(&[PLAIN, NO]),
            &["~ the header `x-mode` is now sent to `a.test` with GET requests (new:1) e.g. GET https://a.test/"],
        ),
    ]);
}

#[test]
fn requests_that_match_otherwise() {
    requests_tell(&[
        (
            and(&["{match: {path: {startsWith: /a/}}}", NO]),
            and(&["{match: {path: {startsWith: /b/}}}", NO]),
            &[
                "+ requests under `/b/` to `a.test` that were answered here with 403 now go on unchanged (new:1) e.g. \
                 GET https://a.test/b/",
                "- requests under `/a/` to `a.test` that went on unchanged are now answered here with 403 (new:1) \
                 e.g. GET https://a.test/a/",
            ],
        ),
        (
            and(&[NO]),
            and(&["{match: {queryString: [{key: {exact: q}, value: {exact: one}}]}}", NO]),
            &["+ requests with `q` in the query to `a.test` that were answered here with 403 now go on unchanged \
               (new:1) e.g. GET https://a.test/?q=…"],
        ),
        (
            and(&[NO]),
            and(&["{match: {headers: [{key: {exact: x-kind}, value: {exact: read}}]}}", NO]),
            &["+ requests with `x-kind` in the headers to `a.test` that were answered here with 403 now go on \
                 unchanged (new:1) e.g. GET https://a.test/"],
        ),
    ]);
}

#[test]
fn requests_that_are_answered_or_sent_elsewhere() {
    requests_tell(&[
        (
            and(&[NO]),
            and(&["{response: {statusCode: 404}}"]),
            &["~ requests to `a.test` that were answered here with 403 are now answered here with 404 (new:1) e.g. \
               GET https://a.test/"],
        ),
        (
            and(&["{response: {statusCode: 200, contentType: text/plain, body: one}}"]),
            and(&["{response: {statusCode: 200, contentType: text/plain, body: two}}"]),
            &["~ the answer with 200 that requests to `a.test` get here changes (new:1) e.g. GET https://a.test/"],
        ),
        (
            and(&[KEY, NO]),
            and(&["{match: {method: [GET]}, forwardURL: \"https://f.test/x\"}", NO]),
            &["- GET requests to `a.test` that went on with `authorization` from the secret K are now sent to \
               https://f.test/x (new:1) e.g. GET https://a.test/"],
        ),
        (
            and(&["{sign: {hmac: {key: K, header: x, over: \"${path}\"}}}"]),
            and(&["{}"]),
            &["- requests to `a.test` that were signed (`hmac`) with the secret K now go on unchanged (new:1) e.g. \
                 GET https://a.test/"],
        ),
        (
            and(&["{match: {path: {exact: /a}}}"]),
            and(&["{}"]),
            &["+ requests to `a.test` are no longer refused because their path has two meanings"],
        ),
        (
            and(&["{match: {path: {regex: \"^/(one|two)$\"}}, response: {statusCode: 403}}"]),
            and(&["{match: {path: {regex: \"^/(two|one)$\"}}, response: {statusCode: 403}}"]),
            &[
                "+ it may be that requests whose path matches `^/(one|two)$` to `a.test` that were answered here \
                 with 403 now go on unchanged (was old:1); no example was found",
                "- it may be that requests whose path matches `^/(two|one)$` to `a.test` that went on unchanged are \
                 now answered here with 403 (new:1); no example was found",
            ],
        ),
        (
            and(&["{match: {path: {regex: \"^/a(?:b){0,0}$\"}}, response: {statusCode: 403}}"]),
            and(&["{match: {path: {regex: \"^/(a)$\"}}, response: {statusCode: 403}}"]),
            &[],
        ),
        (
            and(&["{match: {path: {regex: \"^/v1/[a-z]+$\"}}, response: {statusCode: 403}}"]),
            and(&["{match: {path: {regex: \"^/v1/[a-z]+$\"}}, response: {statusCode: 403}}", V2]),
            &["- requests whose path matches `^/v2/[a-z]+$` to `a.test` that went on unchanged are now answered here \
               with 404 (new:1) e.g. GET https://a.test/v2/a"],
        ),
    ]);
}

#[test]
fn what_an_entry_does_with_requests_is_told_as_it_becomes_reachable() {
    tells(&[
        (
            "{}",
            "{allow: {a.test: [{match: {method: [GET, HEAD]}}, {match: {method: [GET]}}, {match: {path: {startsWith: \
             /x/}}, transform: [{headers: {x-mode: read}}]}, {response: {statusCode: 403}}, {match: {method: [PUT]}}, \
             {opaque: {ports: [22, 2222]}}]}}",
            &["+ `a.test` becomes reachable (new:1); GET and HEAD requests go on unchanged; requests under `/x/` go \
                 on with the header `x-mode`; all others are answered here with 403; another protocol is relayed on \
                 ports 22 and 2222 e.g. GET https://a.test/"],
        ),
        (
            "allow: [b.test]",
            "{allow: {b.test: [], a.test: [{response: {statusCode: 403}}, {match: {method: [GET]}}]}}",
            &["+ requests to `a.test` are no longer refused, but answered here with 403 (new:1) e.g. GET \
                 https://a.test/"],
        ),
        (
            "{allow: {b.test: [], a.test: [{response: {statusCode: 403}}, {match: {method: [GET]}}]}}",
            "allow: [b.test]",
            &["- requests to `a.test` are no longer answered here with 403, but refused: old:1 allowed it, and \
                 nothing does now e.g. GET https://a.test/"],
        ),
        (
            "{allow: {a.test: [{opaque: {ports: [22, 23]}}]}}",
            "{allow: {a.test: [{opaque: {ports: [23, 24]}}]}}",
            &[
                "+ a protocol that is neither TLS nor HTTP is now relayed to `a.test` on port 24 (new:1) e.g. \
                 a.test:24",
                "- a protocol that is neither TLS nor HTTP is no longer relayed to `a.test` on port 22 (was old:1) \
                 e.g. a.test:22",
            ],
        ),
    ]);
}

#[test]
fn settings_are_told_where_they_make_a_difference() {
    tells(&[
        (
            "{strict: true, allow: [a.test]}",
            "{allow: [a.test]}",
            &["+ TLS to names without rules now goes through unread (`strict` is gone)"],
        ),
        (
            "{allow: [a.test]}",
            "{strict: true, allow: [a.test]}",
            &["- TLS to names without rules is now read, and refused if it is not HTTP (`strict`)"],
        ),
        ("{strict: true, subnets: {allow: [8.8.8.8/32]}}", "{subnets: {allow: [8.8.8.8/32]}}", &[]),
        (
            "{dns: none, allow: [a.test]}",
            "{dns: any, allow: [a.test]}",
            &["+ every name that is not denied can now be resolved (`dns: any`)"],
        ),
        (
            "{dns: any, allow: [a.test]}",
            "{dns: names, allow: [a.test]}",
            &["- only names that are allowed can still be resolved (`dns: names`)"],
        ),
        (
            "{dns: none, allow: [a.test]}",
            "{allow: [a.test]}",
            &["+ names that are allowed can now be resolved (`dns: names`)"],
        ),
        ("{allow: [a.test]}", "{dns: none, allow: [a.test]}", &["- no name can be resolved any more (`dns: none`)"]),
        ("{dns: none}", "{dns: any}", &[]),
        (
            "{dns: any, allow: [a.test]}",
            "{dns: any, allow: [a.test], deny: [b.test]}",
            &["- `b.test` can no longer be resolved (new:1); it could not be reached e.g. GET https://b.test/"],
        ),
        (
            "{dns: any, allow: [a.test], deny: [b.test]}",
            "{dns: any, allow: [a.test]}",
            &["+ `b.test` can now be resolved, and not reached e.g. GET https://b.test/"],
        ),
    ]);
}

#[test]
fn observation_answers_and_secrets() {
    tells(&[
        (
            "{allow: [a.test]}",
            "{observe: true, denials: terse, allow: [a.test]}",
            &[
                "+ what the policy does not allow is now recorded and let through (`observe`)",
                "~ refusals no longer say why (`denials: terse`)",
            ],
        ),
        (
            "{observe: true, denials: terse, allow: [a.test]}",
            "{allow: [a.test]}",
            &[
                "- what the policy does not allow is now refused, and no longer only recorded (`observe`)",
                "~ refusals now say why (`denials: explain`)",
            ],
        ),
        (
            "secrets: {A: {env: ONE}, B: {env: TWO}}",
            "secrets: {A: {file: /run/one}, C: {env: TWO}}",
            &[
                "~ the secret A now comes from the file `/run/one`, no longer from the variable `ONE`",
                "~ the secret B is no longer taken from the variable `TWO`",
                "~ the secret C is now taken from the variable `TWO`",
            ],
        ),
        (
            "{secrets: {A: {env: ONE, to: [z.test]}}, placeholders: {V: A, W: A}}",
            "{secrets: {A: {env: ONE, to: [y.test], headers: [x-api-key]}}, placeholders: {V: A, X: A}}",
            &[
                "+ the placeholder of the secret A is now replaced in `x-api-key` to `y.test`",
                "- the placeholder of the secret A is no longer replaced in `authorization` to `z.test`",
                "- the placeholder of the secret A is no longer replaced in `x-api-key` to `z.test`",
                "~ the sandbox's variable `W` no longer holds a placeholder of the secret A",
                "~ the sandbox's variable `X` now holds a placeholder of the secret A",
            ],
        ),
        (
            "{allow: {z.test: [{}]}, secrets: {A: {env: ONE, to: [z.test]}}, placeholders: {V: A}}",
            "{allow: {z.test: [{placeholders: {in: [body, query]}}]}, secrets: {A: {env: ONE, to: [z.test]}}, \
             placeholders: {V: A}}",
            &["+ requests to `z.test` that went on unchanged now go on with placeholders replaced in the query \
                 and the body, too (new:1) e.g. GET https://z.test/"],
        ),
    ]);
}

#[test]
fn what_has_no_effect_is_not_told() {
    for (old, new) in [
        // Spellings.
        ("allow: [a.test, '*.b.test']", "{\"allow\": {\"*.B.test.\": [], \"A.test\": []}}"),
        ("mode: deny-all", "{}"),
        ("mode: allow-all", "allow: ['*']"),
        ("deny: [a.test]", "{}"),
        ("subnets: {allow: [10.0.0.0/9, 10.128.0.0/9]}", "subnets: {allow: [10.0.0.0/8]}"),
        ("subnets: {deny: [10.0.0.0/8]}", "{}"),
        // Shadows.
        ("{allow: [a.test], deny: ['*.a.test']}", "{allow: [a.test, b.a.test], deny: ['*.a.test']}"),
        ("allow: ['*.a.test']", "allow: ['*.a.test', b.a.test, '*.b.a.test']"),
        ("{allow: [a.test], deny: ['*.b.test']}", "{allow: [a.test], deny: ['*.b.test', x.b.test]}"),
        (
            "subnets: {allow: [10.0.0.0/8], deny: [10.1.0.0/16]}",
            "subnets: {allow: [10.0.0.0/8, 10.1.2.0/24], deny: [10.1.0.0/16, 10.1.3.0/24]}",
        ),
        ("{allow: [a.test], subnets: {deny: [10.0.0.0/8]}}", "allow: [a.test]"),
        // Rules.
        (
            "allow: {a.test: [{match: {method: [GET, HEAD]}}, {response: {statusCode: 403}}]}",
            "allow: {a.test: [{match: {method: [HEAD]}}, {match: {method: [GET]}}, {response: {statusCode: 403}}]}",
        ),
        (
            "allow: {a.test: [{response: {statusCode: 403}}]}",
            "allow: {a.test: [{response: {statusCode: 403}}, {match: {method: [GET]}}, {}]}",
        ),
        (
            "allow: {a.test: [{match: {method: [GET]}}, {match: {method: [PUT]}, response: {statusCode: 403}}]}",
            "allow: {a.test: [{match: {method: [PUT]}, response: {statusCode: 403}}, {}]}",
        ),
        (
            "allow: {a.test: [{match: {path: {startsWith: /a/}}}, {match: {path: {exact: /a/b}}, response: \
             {statusCode: 403}}, {response: {statusCode: 404}}]}",
            "allow: {a.test: [{match: {path: {startsWith: /a/}}}, {response: {statusCode: 404}}]}",
        ),
        (
            "allow: {a.test: [{transform: [{headers: {x-a: one, X-B: two}}]}]}",
            "allow: {a.test: [{transform: [{headers: {x-b: two}}, {headers: {X-A: one}}]}]}",
        ),
    ] {
        assert_eq!(told(old, new), [""; 0], "from\n{old}\nto\n{new}");
        assert_eq!(told(new, old), [""; 0], "from\n{new}\nto\n{old}");
    }
}

/// `limits::DIFF_CHANGES`
#[test]
fn what_is_beyond_the_limit_is_counted() {
    let list = |count: usize| (0..count).map(|n| format!("n{n}.test")).collect::<Vec<String>>().join(", ");
    let many = limits::DIFF_CHANGES + 7;
    let new = compile("new", &format!("{{mode: allow-all, deny: [{}]}}", list(many)));
    let changes = diff(&compile("old", "mode: allow-all"), &new);
    assert_eq!(changes.towards(Direction::Closes).len(), limits::DIFF_CHANGES);
    // And that flows without a name are no longer relayed.
    assert_eq!(changes.beyond(Direction::Closes), 8);
    assert!(changes.towards(Direction::Opens).is_empty() && changes.beyond(Direction::Opens) == 0);
}

/// `limits::DIFF_STEPS`
#[test]
fn what_cannot_be_compared_is_told_as_opening() {
    let old = (0..50).map(|n| format!("'*.b{n}.test'")).collect::<Vec<String>>().join(", ");
    let new = (0..50).map(|n| format!("'a{n}.*.test'")).collect::<Vec<String>>().join(", ");
    let (old, new) = (compile("old", &format!("allow: [{old}]")), compile("new", &format!("allow: [{old}, {new}]")));
    let doubts = |changes: Changes| {
        let opens = changes.towards(Direction::Opens).iter().map(|change| change.sentence.clone());
        opens.filter(|sentence| sentence.contains("than can be compared one by one")).count()
    };
    assert_eq!((doubts(within(10_000, &new, &old)), doubts(diff(&new, &old))), (1, 0));

    let rules = |word: &str| {
        let rule = |n| format!("{{match: {{path: {{startsWith: /{word}{n}/}}}}, response: {{statusCode: 403}}}}");
        compile("rules", &entry(&(0..50).map(rule).collect::<Vec<String>>().join(", ")))
    };
    let (old, new) = (rules("a"), rules("b"));
    assert_eq!((doubts(within(10_000, &old, &new)), doubts(diff(&old, &new))), (1, 0));
}

#[test]
fn no_value_is_told() {
    let canary = "canary-73f1";
    let document = |one: &str, status: u16| {
        format!(
            "allow:\n  a.test:\n    - match: {{ headers: [{{ key: {{ exact: x-key }}, value: {{ exact: {one} }} }}], \
             queryString: [{{ key: {{ exact: q }}, value: {{ startsWith: {one} }} }}] }}\n      transform: [{{ \
             headers: {{ x-set: \"{one} ${{secrets.K}}\", x-plain: {one} }} }}]\n    - response: {{ statusCode: \
             {status}, headers: {{ x-answer: {one} }}, contentType: text/plain, body: {one} }}\nsecrets: {{ K: {{ \
             env: K }} }}\n"
        )
    };
    let (with, without) = (document(canary, 403), document("other", 404));
    for (old, new) in
        [(with.as_str(), "{}"), ("{}", &with), (&with, &without), (&without, &with), ("allow: [a.test]", &with)]
    {
        let told = told(old, new).join("\n");
        assert!(!told.is_empty() && !told.contains(canary), "{told}");
        let changes = diff(&compile("old", old), &compile("new", new));
        assert!(!format!("{changes:?}").contains(canary), "{changes:?}");
    }
    assert!(told(&with, &without).len() >= 3, "{:#?}", told(&with, &without));
}
