//! Documents and flags, the faults that they have, and how those are shown.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::limits;
use crate::policy::source::AwsSpec;
use crate::policy::wire::tests::fits_schema;
use crate::policy::{preset, presets};

fn compiled(text: &str, flags: &Flags) -> Result<Compiled, Diagnostics> {
    let compiled = compile(Some(Source { path: "p.yaml", text }), flags, &Terms::default());
    if compiled.is_ok() {
        assert_eq!(fits_schema(text), Ok(()), "{text}");
    }
    compiled
}

fn report(text: &str) -> String {
    match compiled(text, &Flags::default()) {
        Ok(_) => panic!("compiled: {text}"),
        Err(faults) => faults.to_string(),
    }
}

/// Code and message of each fault.
fn faults(text: &str) -> Vec<String> {
    let Err(faults) = compiled(text, &Flags::default()) else { panic!("compiled: {text}") };
    faults.iter().map(|fault| format!("{}: {}", fault.code.as_str(), fault.message)).collect()
}

#[test]
fn every_fault_is_shown_with_its_place_and_help() {
    let text = "\
versoin: 1
allow:
  a.test:
    - match: { methods: [GET] }
  \"*x.test\": []
subnets: { allow: [10.0.0.1/8], deny: 5 }
strict: yes
";
    let expected = "\
error[unknown-key]: a policy has no key `versoin`
  --> p.yaml:1:1
1 | versoin: …
  | ^^^^^^^
  help: did you mean `version`?

error[unknown-key]: `match` has no key `methods`
  --> p.yaml:4:16
4 |     - match: { methods: […] }
  |                ^^^^^^^
  help: did you mean `method`?

error[bad-value]: `*x.test`: a `*` stands beside other characters of its label
  --> p.yaml:5:3
5 |   \"*x.test\": []
  |   ^^^^^^^^^
  help: `*` is a whole label; for every name below it write `*.x.test`

error[bad-value]: `10.0.0.1/8`: the address has bits set beyond the length
  --> p.yaml:6:20
6 | subnets: { allow: [10.0.0.1/8], deny: … }
  |                    ^^^^^^^^^^
  help: for the whole range write `10.0.0.0/8`

error[wrong-type]: `deny` must be a list, and this is a number
  --> p.yaml:6:39
6 | subnets: { allow: […], deny: … }
  |                              ^
  help: a list is written `[…]`, also of one element

error[wrong-type]: `strict` must be `true` or `false`, and this is text
  --> p.yaml:7:9
7 | strict: yes
  |         ^^^
  help: write `true`
";
    assert_eq!(report(text), expected);
}

#[test]
fn places_are_counted_in_characters() {
    let text = "name: ü\r\nallow: { bücher.test: [], ü*.test: [] }\r\n";
    let expected = "\
error[bad-value]: `ü*.test`: a `*` stands beside other characters of its label
  --> p.yaml:2:27
2 | allow: { bücher.test: [], ü*.test: [] }\x20
  |                           ^^^^^^^
  help: `*` is a whole label: `*.example.com`, `www.*.com`, or `*` alone
";
    assert_eq!(report(text), expected);
}

#[test]
fn what_is_not_yaml_says_where() {
    for (text, shown) in [
        ("a: [", "error[syntax]: not valid YAML: "),
        ("a: *x", "error[syntax]: not valid YAML: "),
        ("a: &x 1", "error[syntax]: anchors and tags are not part of the policy language\n  --> p.yaml:1:"),
        ("!!map {}", "error[syntax]: anchors and tags are not part of the policy language\n  --> p.yaml:1:"),
        ("a: &x [1]\nb: *x", "error[syntax]: anchors and tags are not part of the policy language\n  --> p.yaml:1:"),
        ("{}\n---\n{}", "error[syntax]: the file holds a second document\n  --> p.yaml:2:1"),
        ("{[a]: b}", "error[syntax]: a key must be text\n  --> p.yaml:1:2"),
        (
            "",
            "error[wrong-type]: the document is empty\n  --> p.yaml:1:1\n  help: a policy that allows nothing is `{}`",
        ),
        ("# nothing", "error[wrong-type]: the document is empty"),
        ("5", "error[wrong-type]: a policy must be a map, and this is a number"),
        ("[a.test]", "error[wrong-type]: a policy must be a map, and this is a list"),
        ("null", "error[wrong-type]: a policy must be a map, and this is nothing"),
    ] {
        let report = report(text);
        assert!(report.starts_with(shown), "{text}\n{report}");
    }
}

#[test]
fn common_mistakes_of_form_are_told_what_to_do() {
    for (text, help) in [
        ("allow: [*.a.test]", "a pattern that begins with `*` stands in quotes, such as `\"*.example.com\"`"),
        ("allow:\n  *.a.test: []", "a pattern that begins with `*` stands in quotes, such as `\"*.example.com\"`"),
        ("name: @x", "text that begins with this character stands in quotes"),
        ("name: !x y", "text that begins with `&`, `!` or `*` stands in quotes"),
        ("name: a: b", "text that holds a colon and a space stands in quotes"),
        ("allow:\n\t- a.test", "indent with spaces"),
        ("allow:\n  a.test: []\n b.test: []", "see how far this line is indented"),
        ("name: \"x\nallow: []", "whether a quote is not closed above it"),
        ("deny: - a.test", "a list is written `[…]`, or each of its elements on a line of its own"),
        ("allow:[a.test]", "a key is followed by a colon and a space"),
        ("allow: a.test", "a list is written `[…]`, also of one element"),
        ("deny: a.test", "a list is written `[…]`, also of one element"),
        ("strict: no", "write `false`"),
        ("version: '1'", "write `1`, without quotes"),
        ("denials: Terse", "did you mean `terse`?"),
        ("secrets: {KEY: GITHUB_TOKEN}", "its keys are `env`, `file`"),
        (
            "allow: {a.test: [GET]}",
            "its keys are `match`, `transform`, `sign`, `placeholders`, `forwardURL`, `response`, `opaque`",
        ),
    ] {
        let report = report(text);
        assert!(report.contains("  help: ") && report.contains(help), "{text}\n{report}");
    }
}

#[test]
fn each_fault_of_a_document_is_found() {
    for (text, expected) in [
        ("version: 2", "bad-value: `version` can only be 1"),
        ("version: '1'", "wrong-type: `version` must be a number, and this is text"),
        ("name: 5", "wrong-type: `name` must be text, and this is a number"),
        ("nope", "bad-value: `mode` cannot be `nope`"),
        ("mode: open", "bad-value: `mode` cannot be `open`"),
        ("mode: deny-all\nallow: [a.test]", "conflict: `mode: deny-all` stands alone, and `allow` stands beside it"),
        ("extends: []", "unsupported: no further file can be read here"),
        (
            "placeholders: {A=B: KEY}\nsecrets: {KEY: {env: X, to: [a.test]}}",
            "bad-value: this is not the name of an environment variable",
        ),
        ("placeholders: {A: KEY}", "bad-value: the secret `KEY` is not declared"),
        ("forwardRules: []", "unsupported: `forwardRules` is not supported by this version of exeat"),
        ("allowedDomains: []", "conflict: `allowedDomains` is an older spelling, which goes with `mode: custom`"),
        (
            "{mode: allow-all, deniedCIDRs: []}",
            "conflict: `deniedCIDRs` is an older spelling, which goes with `mode: custom`",
        ),
        (
            "{mode: custom, allowedCIDRs: [], allow: []}",
            "conflict: `allowedCIDRs` is an older spelling, which does not mix with `allow` and `subnets`",
        ),
        (
            "{mode: custom, injectionRules: [{domain: a.test, headers: {a: b}}]}",
            "conflict: an injection rule is for `a.test`, which `allowedDomains` does not allow",
        ),
        (
            "{mode: custom, allowedDomains: [a.test, A.test], injectionRules: [{domain: a.test, headers: {a: b}}]}",
            "duplicate: `A.test` stands in `allow` already (p.yaml:1)",
        ),
        ("allow: null", "wrong-type: `allow` must be a map or a list, and this is nothing"),
        ("allow: {a.test: null}", "wrong-type: the rules of `a.test` must be a list, and this is nothing"),
        ("allow: {a.test: {}}", "wrong-type: the rules of `a.test` must be a list, and this is a map"),
        ("allow: [a.test, A.test.]", "duplicate: `A.test.` stands in `allow` already (p.yaml:1)"),
        ("allow: {a.test: [], A.TEST: []}", "duplicate: `A.TEST` stands in `allow` already (p.yaml:1)"),
        ("allow: {a.test: [], a.test: []}", "duplicate: the key `a.test` stands here twice"),
        ("allow: [10.0.0.0/8]", "bad-value: `10.0.0.0/8`: this is an address, not a domain"),
        ("deny: [a.test, a.test]", "duplicate: `a.test` stands in `deny` already (p.yaml:1)"),
        ("deny: {a.test: []}", "wrong-type: `deny` must be a list, and this is a map"),
        (
            "subnets: {deny: [10.0.0.0/8, '::ffff:10.0.0.0/104']}",
            "duplicate: `10.0.0.0/8` stands in `subnets.deny` already (p.yaml:1)",
        ),
        ("subnets: {allow: [a.test]}", "bad-value: `a.test`: this is not a CIDR"),
        ("strict: 'true'", "wrong-type: `strict` must be `true` or `false`, and this is text"),
        ("dns: all", "bad-value: `dns` cannot be `all`"),
        ("<<: {}", "unknown-key: a policy has no key `<<`"),
    ] {
        assert_eq!(faults(text), [expected], "{text}");
    }
}

#[test]
fn each_fault_of_a_secret_that_has_a_placeholder_is_found() {
    for (text, expected) in [
        (
            "placeholders: {A: KEY}\nsecrets: {KEY: {env: X}}",
            "missing: the secret `KEY` has a placeholder, and no `to`",
        ),
        ("secrets: {KEY: {env: X, to: [a.test], headers: [host]}}", "bad-value: no placeholder stands in `host`"),
        (
            "secrets: {KEY: {env: X, to: [a.test], headers: [TE]}}",
            "bad-value: `te` belongs to the connection and cannot be set",
        ),
        ("secrets: {KEY: {env: X, to: [a.test], headers: [a, A]}}", "duplicate: the header `a` stands here twice"),
        (
            "secrets: {KEY: {env: X, shape: {prefix: 'a b'}}}",
            "bad-value: `prefix` is ASCII without blanks, 64 bytes at most",
        ),
        (
            "secrets: {KEY: {env: X, shape: {prefix: ghp_, length: 19}}}",
            "bad-value: `length` is from 20, the prefix and what nobody guesses, to 1024",
        ),
        ("placeholders: {A: 'K Y'}", "bad-value: a secret's name is letters, digits and `_`, and no digit first"),
    ] {
        assert_eq!(faults(text), [expected], "{text}");
    }
}

/// Each on its own, whether or not this program was built for them.
#[test]
fn each_fault_of_a_key_of_awss_is_found() {
    for (text, expected) in [
        ("{}", None),
        ("{profile: a, file: b}", None),
        ("{webIdentity: {roleArn: a, tokenFile: b}, region: c}", None),
        ("{assumeRole: {roleArn: a}, region: b, sts: 'https://sts.test', ca: c}", None),
        ("{profile: a, webIdentity: {roleArn: a, tokenFile: b}, region: c}", Some("a key of AWS's is in one place")),
        ("{file: a}", Some("missing: `file` needs `profile`")),
        ("{assumeRole: {roleArn: a}}", Some("missing: `webIdentity` and `assumeRole` need `region`")),
        ("{webIdentity: {roleArn: a, tokenFile: b}}", Some("missing: `webIdentity` and `assumeRole` need `region`")),
        ("{sts: 'http://sts.test'}", Some("bad-value: this is no URL that a secret is asked of")),
    ] {
        let text = format!("secrets: {{A: {{aws: {text}}}}}");
        let found = if compiled(&text, &Flags::default()).is_ok() { Vec::new() } else { faults(&text) };
        let lacks = (!AwsSpec::IS_BUILT).then_some(AwsSpec::NOT_BUILT);
        let expected: Vec<&str> = lacks.into_iter().chain(expected).collect();
        assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
        assert!(expected.iter().all(|due| found.iter().any(|fault| fault.contains(due))), "{text}: {found:?}");
    }
}

#[test]
fn each_fault_of_a_source_is_found() {
    for (text, expected) in [
        ("secrets: {A B: {env: X}}", "bad-value: a secret's name is letters, digits and `_`, and no digit first"),
        ("secrets: {A: {env: X, file: Y}}", "conflict: a secret has one source, and this has two"),
        ("secrets: {A: {env: X, command: [y]}}", "conflict: a secret has one source, and this has two"),
        (
            "secrets: {A: {to: [a.test]}}",
            "missing: a secret needs `env`, `file`, `command`, `vault`, `oauth2`, `githubApp` or `aws`",
        ),
        ("secrets: {A: {command: ['']}}", "bad-value: a command begins with its program"),
        ("secrets: {A: {command: [\"x\\0\"]}}", "bad-value: a command's words hold no NUL"),
        (
            "secrets: {A: {}}",
            "missing: a secret needs `env`, `file`, `command`, `vault`, `oauth2`, `githubApp` or `aws`",
        ),
        ("secrets: {A: {vault: X}}", "wrong-type: `vault` must be a map, and this is text"),
        ("secrets: {A: {valt: {}}}", "unknown-key: a secret's source has no key `valt`"),
        (
            "secrets: {A: {vault: {address: 'https://v.test', path: a}}}",
            "missing: `vault` needs `token`, `appRole` or `kubernetes`",
        ),
        (
            "secrets: {A: {vault: {address: 'http://v.test', path: a, token: {env: X}}}}",
            "bad-value: this is no URL that a secret is asked of",
        ),
        (
            "secrets: {A: {vault: {address: 'https://v.test', path: ../a, token: {env: X}}}}",
            "bad-value: this is no path in Vault",
        ),
        (
            "secrets: {A: {vault: {address: 'https://v.test', path: a, token: {env: X, file: Y}}}}",
            "conflict: a credential lies in one place, and here are two",
        ),
        (
            "secrets: {A: {vault: {address: 'https://v.test', path: a, token: {value: X}}}}",
            "unsupported: `value` is not supported by this version of exeat",
        ),
        (
            "secrets: {A: {oauth2: {tokenUrl: 'https://o.test/t', clientId: a}}}",
            "missing: `oauth2` needs `clientSecret`, `refreshToken` or both",
        ),
        (
            "secrets: {A: {githubApp: {appId: a, installationId: b, privateKey: {file: k}}}}",
            "bad-value: an installation's id is a number",
        ),
        ("secrets: {A: {value: X}}", "unsupported: `value` is not supported by this version of exeat"),
        ("secrets: {A: {env: 'X=Y'}}", "bad-value: this is not the name of an environment variable"),
        ("secrets: {A: X}", "wrong-type: a secret's source must be a map, and this is text"),
    ] {
        assert_eq!(faults(text), [expected], "{text}");
    }
    for (text, help) in [
        ("secrets: {A: {valt: {}}}", "did you mean `vault`?"),
        ("secrets: {A: {github_app: {}}}", "did you mean `githubApp`?"),
        ("secrets: {A: {oauth: {}}}", "did you mean `oauth2`?"),
        ("secrets: {A: {vault: {adress: X}}}", "did you mean `address`?"),
        ("secrets: {A: {vault: {address: 'https://v.test', path: a, approle: {}}}}", "did you mean `appRole`?"),
        ("secrets: {A: {githubApp: {installationId: 7}}}", "put it in quotes if the text is meant"),
    ] {
        let report = report(text);
        assert!(report.contains(help), "{text}\n{report}");
    }
}

/// A document whose one rule this is.
fn with_rule(rule: &str) -> String {
    format!("secrets: {{KEY: {{env: KEY}}}}\nallow: {{a.test: [{rule}]}}\n")
}

#[test]
fn each_fault_of_basic_and_of_an_encoding_is_found() {
    for (element, expected) in [
        ("{basic: {user: u}}", "missing: `password` is missing"),
        ("{basic: {user: 'a:b', password: p}}", "bad-value: a user's name holds no colon"),
        ("{basic: {user: u, password: '${secrets.KEY | base64}'}}", "bad-value: `basic` is base64 as a whole"),
        (
            "{headers: {Authorization: x}, basic: {user: u, password: p}}",
            "duplicate: `basic` sets `authorization`, which `headers` sets, too",
        ),
        ("{headers: {a: '${secrets.KEY | hex}'}}", "bad-value: `${` must begin a secret's name"),
        ("{headers: {a: '${secrets.KEY | }'}}", "bad-value: `${` must begin a secret's name"),
        ("{existing: keep}", "missing: an element of `transform` needs `headers` or `basic`"),
        ("{headers: {a: b}, existing: drop}", "bad-value: `existing` cannot be `drop`"),
    ] {
        assert_eq!(faults(&with_rule(&format!("{{transform: [{element}]}}"))), [expected], "{element}");
    }
}

#[test]
fn a_rule_that_replaces_placeholders_is_for_names_that_a_secret_with_one_may_go_to() {
    let text = |pattern: &str, rule: &str| {
        format!(
            "allow: {{'{pattern}': [{rule}],\n  \
             b.test: [{{sign: {{hmac: {{key: B, header: x, over: '${{path}}'}}}}}}]}}\n\
             secrets: {{A: {{env: A, to: [a.test, '*.a.test']}}, B: {{env: B, to: [b.test, d.test]}},\n  \
             C: {{env: C, to: [c.test]}}}}\n\
             placeholders: {{ONE: A, TWO: B}}"
        )
    };
    let rule = "{placeholders: {in: [query, body]}}";
    for pattern in ["a.test", "x.a.test", "*.test", "*", "*.x.a.test", "x.*.test"] {
        assert!(compiled(&text(pattern, rule), &Flags::default()).is_ok(), "{pattern}");
    }
    // One that has no placeholder, one that signs, and none.
    for pattern in ["c.test", "d.test", "e.test", "*.e.test", "*.b.test"] {
        let expected =
            format!("missing: no placeholder is ever replaced here: no secret that has one may go to `{pattern}`");
        assert_eq!(faults(&text(pattern, rule)), [expected], "{pattern}");
    }
    for (rule, expected) in [
        ("{placeholders: {}}", "missing: `in` is missing"),
        ("{placeholders: {in: []}}", "bad-value: `in` cannot be empty"),
        ("{placeholders: {in: [path]}}", "bad-value: a place where placeholders are replaced cannot be `path`"),
        ("{placeholders: {in: [body, body]}}", "duplicate: `body` stands here twice"),
        (
            "{placeholders: {in: [body]}, transform: [{headers: {a: b}}]}",
            "conflict: a rule has one action, and this has `transform` and `placeholders`",
        ),
    ] {
        assert_eq!(faults(&text("a.test", rule)), [expected], "{rule}");
    }
}

#[test]
fn each_fault_of_a_signing_is_found() {
    let text = |rule: &str, more: &str| {
        format!(
            "allow: {{a.test: [{{sign: {rule}}}]}}\n\
             secrets: {{ID: {{env: I, to: [a.test]}}, KEY: {{env: K, to: [a.test]}},\n  \
             FAR: {{env: F, to: [b.test]}}}}\n{more}"
        )
    };
    let both = "placeholders: {AWS_ACCESS_KEY_ID: ID, AWS_SECRET_ACCESS_KEY: KEY}";
    for (rule, expected) in [
        ("{}", "missing: `sign` needs `aws` or `hmac`"),
        ("{aws: {}}", "missing: `aws` needs `credentials`, or `accessKey` and `secretKey`"),
        ("{aws: {credentials: ID, accessKey: ID}}", "conflict: a key is one secret, or one for each part"),
        ("{aws: {accessKey: ID}}", "missing: an AWS key is `accessKey` and `secretKey`"),
        ("{aws: {sessionToken: ID}}", "missing: an AWS key is `accessKey` and `secretKey`"),
        ("{aws: {credentials: OTHER}}", "bad-value: the secret `OTHER` is not declared"),
        ("{aws: {credentials: a-b}}", "bad-value: a secret's name is letters, digits and `_`, and no digit first"),
        ("{aws: {credentials: ID, others: keep}}", "bad-value: `others` cannot be `keep`"),
        ("{aws: {credentials: ID, regions: []}}", "bad-value: `regions` cannot be empty"),
        ("{aws: {credentials: ID, services: ['']}}", "bad-value: this names nothing"),
        ("{hmac: {key: KEY, header: x, over: x}}", "bad-value: a signature is over something of the request"),
        ("{hmac: {key: KEY, header: x, over: '${time}'}}", "bad-value: `${` must begin a part of the request"),
        ("{hmac: {key: KEY, header: x, over: '${header.a b}'}}", "bad-value: `${` must begin a part of the request"),
        ("{hmac: {key: KEY, header: host, over: '${path}'}}", "bad-value: no placeholder stands in `host`"),
        (
            "{hmac: {key: KEY, header: te, over: '${path}'}}",
            "bad-value: `te` belongs to the connection and cannot be set",
        ),
        ("{hmac: {key: KEY, header: x, over: '${path}', hash: md5}}", "bad-value: `hash` cannot be this text"),
        (
            "{hmac: {key: KEY, header: x, over: '${path}', prefix: '${secrets.KEY}'}}",
            "bad-value: a secret may be used in the header values of `transform` alone",
        ),
        ("{hmac: {key: FAR, header: x, over: '${path}'}}", "bad-value: the secret `FAR` may not go to `a.test`"),
        ("{hmac: {header: x, over: '${path}'}}", "missing: `key` is missing"),
    ] {
        assert_eq!(faults(&text(rule, both)), [expected], "{rule}");
    }
    let without = "missing: the secret `KEY` signs again what clients sign, and has no placeholder";
    assert_eq!(
        faults(&text("{aws: {accessKey: ID, secretKey: KEY}}", "placeholders: {AWS_ACCESS_KEY_ID: ID}")),
        [without]
    );
    for rule in [
        "{aws: {credentials: ID, regions: [eu-west-1], services: [s3, sts], others: pass}}",
        "{aws: {accessKey: ID, secretKey: KEY}}",
        "{aws: {accessKey: ID, secretKey: KEY, sessionToken: KEY}}",
        "{hmac: {key: KEY, header: x, over: '${method}${path}${query}${target}${host}${header.x-a}'}}",
        "{hmac: {key: KEY, header: x, over: '${body}${bodySha256}${header.host}'}}",
        "{hmac: {key: KEY, header: x, over: '${path}', hash: sha512, encoding: base64, prefix: 'v1='}}",
    ] {
        assert!(compiled(&text(rule, both), &Flags::default()).is_ok(), "{rule}");
    }
    let conflict = "{transform: [{headers: {a: b}}], sign: {hmac: {key: KEY, header: x, over: '${path}'}}}";
    assert_eq!(faults(&with_rule(conflict)), ["conflict: a rule has one action, and this has `transform` and `sign`"]);
}

#[test]
fn each_fault_of_a_transform_is_found() {
    for (rule, expected) in [
        ("{forwardURL: 'http://x.test'}", "bad-value: `forwardURL` begins with `https://`"),
        ("{forwardURL: 'https://u:p@x.test/'}", "bad-value: `forwardURL` has no user info, query or fragment"),
        ("{forwardURL: 'https://x.test/?a'}", "bad-value: `forwardURL` has no user info, query or fragment"),
        ("{forwardURL: 'https://x.test/a b'}", "bad-value: `forwardURL` holds a character that no URL holds"),
        (
            "{forwardURL: 'https://10.0.0.1/'}",
            "bad-value: `forwardURL` names a host, not an address, and a port from 1 to 65535 if any",
        ),
        (
            "{transform: [{headers: {a: b}}], forwardURL: 'https://x.test'}",
            "conflict: a rule has one action, and this has `transform` and `forwardURL`",
        ),
        ("{opaque: {ports: []}}", "bad-value: `ports` cannot be empty"),
        ("{opaque: {}}", "missing: `ports` is missing"),
        ("{opaque: {ports: [443]}}", "bad-value: port 443 is never opaque"),
        ("{opaque: {ports: [80]}}", "bad-value: port 80 is never opaque"),
        ("{opaque: {ports: [0]}}", "bad-value: a number is from 1 to 65535"),
        ("{opaque: {ports: [65536]}}", "bad-value: a number is from 1 to 65535"),
        ("{opaque: {ports: [22, 22]}}", "duplicate: the port 22 stands here twice"),
        (
            "{match: {method: [GET]}, opaque: {ports: [22]}}",
            "conflict: `opaque` is not about requests, so no `match` stands beside it",
        ),
        ("{transforms: []}", "unknown-key: a rule has no key `transforms`"),
        ("{transform: []}", "bad-value: `transform` cannot be empty"),
        ("{transform: [{}]}", "missing: an element of `transform` needs `headers` or `basic`"),
        ("{transform: [{headers: {a: 1}}]}", "wrong-type: a header's value must be text, and this is a number"),
        ("{transform: [{headers: {a b: x}}]}", "bad-value: `a …` cannot be the name of a header"),
        ("{transform: [{headers: {':path': x}}]}", "bad-value: `:path` cannot be the name of a header"),
        (
            "{transform: [{headers: {Transfer-Encoding: x}}]}",
            "bad-value: `transfer-encoding` belongs to the connection and cannot be set",
        ),
        ("{transform: [{headers: {a: x, A: y}}]}", "duplicate: the header `a` stands here twice"),
        ("{transform: [{headers: {a: \"x\\ny\"}}]}", "bad-value: a header's value is visible ASCII and spaces"),
        ("{transform: [{headers: {a: '${secrets.NONE}'}}]}", "bad-value: the secret `NONE` is not declared"),
        ("{transform: [{headers: {a: '${KEY}'}}]}", "bad-value: `${` must begin a secret's name"),
        ("{transform: [{headers: {a: '${secrets.KEY'}}]}", "bad-value: `${` must begin a secret's name"),
        (
            "{transform: [{headers: {host: b.test}}]}",
            "bad-value: `host` cannot be set to `b.test`, which this policy does not allow",
        ),
        (
            "{transform: [{headers: {host: 'a.test:8443'}}]}",
            "bad-value: `host` can be set only to a name, in lower case and without a port",
        ),
        (
            "{transform: [{headers: {host: '${secrets.KEY}'}}]}",
            "bad-value: `host` can be set only to a name, in lower case and without a port",
        ),
        (
            "{transform: [{headers: {a: b}}], response: {statusCode: 200}}",
            "conflict: a rule has one action, and this has `transform` and `response`",
        ),
    ] {
        let found = faults(&with_rule(rule));
        assert!(found.contains(&expected.to_owned()), "{rule}\n{found:?}");
    }
}

#[test]
fn each_fault_of_a_response_or_match_is_found() {
    for (rule, expected) in [
        ("{response: {}}", "missing: `statusCode` is missing"),
        ("{response: {statusCode: 199}}", "bad-value: `statusCode` is from 200 to 599"),
        ("{response: {statusCode: 600}}", "bad-value: `statusCode` is from 200 to 599"),
        ("{response: {statusCode: 200, body: x}}", "missing: a response with a `body` needs `contentType`"),
        (
            "{response: {statusCode: 204, body: x, contentType: text/plain}}",
            "conflict: a response with status 204 has no body",
        ),
        (
            "{response: {statusCode: 200, headers: {Connection: x}}}",
            "bad-value: `connection` belongs to the connection and cannot be set",
        ),
        ("{response: {statusCode: 200, headers: {a: x, A: x}}}", "duplicate: the header `a` stands here twice"),
        (
            "{response: {statusCode: 200, headers: {content-type: x}}}",
            "bad-value: the type of a response is written `contentType`",
        ),
        (
            "{response: {statusCode: 200, body: '${secrets.KEY}', contentType: text/plain}}",
            "bad-value: a secret may be used in the header values of `transform` alone",
        ),
        ("{match: {method: []}}", "bad-value: `method` cannot be empty"),
        ("{match: {method: GET}}", "wrong-type: `method` must be a list, and this is text"),
        ("{match: {method: ['G T']}}", "bad-value: `G T` cannot be a method"),
        ("{match: {method: [GET, GET]}}", "duplicate: the method `GET` stands here twice"),
        ("{match: {path: /x}}", "wrong-type: `path` must be a map, and this is text"),
        ("{match: {path: {}}}", "missing: a matcher has exactly one of `exact`, `startsWith`, `regex`, `glob`"),
        (
            "{match: {path: {exact: /a, startsWith: /b}}}",
            "missing: a matcher has exactly one of `exact`, `startsWith`, `regex`, `glob`",
        ),
        ("{match: {queryString: [{}]}}", "missing: the matcher needs `key`, `value` or both"),
        ("{match: {headers: [{key: {glob: x}}]}}", "unknown-key: `key` has no key `glob`"),
        (
            "{match: {path: {regex: '('}}}",
            "bad-value: this is not a regular expression (look-around and back-references are not supported)",
        ),
        (
            "{match: {path: {regex: '(?:x{1000}){1000}'}}}",
            "bad-value: the regular expression is too large when compiled",
        ),
    ] {
        let found = faults(&with_rule(rule));
        assert!(found.contains(&expected.to_owned()), "{rule}\n{found:?}");
    }
}

#[test]
fn each_fault_of_a_test_is_found() {
    for (case, expected) in [
        ("{verdict: deny}", "missing: a test needs `request` or `connect`"),
        ("{request: GET https://a.test/}", "missing: the test expects nothing; say a `verdict`"),
        (
            "{request: https://a.test, verdict: deny}",
            "bad-value: `request` is a method, a space and an http or https URL",
        ),
        ("{request: GET a.test, verdict: deny}", "bad-value: this is not an http or https URL"),
        ("{connect: a.test, verdict: deny}", "bad-value: there is no port"),
        (
            "{connect: '10.0.0.1:1', verdict: deny, address: 10.0.0.2}",
            "conflict: the target is an address already, and resolves to no other",
        ),
        (
            "{request: GET http://a.test, verdict: deny, headers: {a: x, A: y}}",
            "duplicate: the header `a` stands here twice",
        ),
        ("{connect: 'a.test:1', verdict: maybe}", "bad-value: `verdict` cannot be `maybe`"),
        ("{connect: 'a.test:1', reason: never}", "bad-value: `reason` cannot be `never`"),
        ("{connect: 'a.test:1', verdict: deny, expect: x}", "unknown-key: a test has no key `expect`"),
        ("{connect: 'a.test:1', verdict: deny, headers: {a: b}}", "conflict: a header goes with a request"),
    ] {
        assert_eq!(faults(&format!("tests: [{case}]")), [expected], "{case}");
    }
}

#[test]
fn no_report_shows_a_credential() {
    for text in [
        "secrets: {KEY: ghp_canary}",
        "secrets: {KEY: {env: 'ghp_canary=x'}}",
        "secrets: {KEY: {value: ghp_canary}}",
        "# ghp_canary\nallow: {a.test: [{transfrom: [{headers: {authorization: 'Bearer ghp_canary'}}]}]} # ghp_canary",
        "allow: {a.test: [{transform: [{headers: {te: 'Bearer ghp_canary', x: \"ghp_canary\\n\"}}]}]}",
        "allow: {a.test: [{transform: [{headers: {x: 'ghp_canary${secrets.NONE}'}}]}]}",
        "allow: {a.test: [{transform: [{headers: {host: 'ghp_canary:1'}}]}]}",
        "allow: {a.test: [{transform: ghp_canary}]}",
        "allow: {a.test: [{response: {statusCode: 204, body: ghp_canary}}]}",
        "allow: {a.test: [{response: {statusCode: 200, headers: {x: \"ghp_canary\\n\"}}}]}",
        "allow: {a.test: ghp_canary}",
        "tests: [{request: GET https://a.test/, headers: {a: \"ghp_canary\\n\"}, verdict: deny, x: y}]",
        "token: ghp_canary\nversion: 1",
        "token: |\n  one\n  ghp_canary\nversion: 1",
        "token: 'ghp_canary",
        "token: ghp_canary\n: [",
        "token: \"ghp_canary\\q\"",
    ] {
        let Err(faults) = compiled(text, &Flags::default()) else { panic!("compiled: {text}") };
        for shown in [faults.to_string(), format!("{faults:?}")] {
            assert!(!shown.contains("canary"), "{text}\n{shown}");
        }
    }
}

#[test]
fn every_spelling_compiles_to_the_same_policy() {
    let policy = |text: &str| compiled(text, &Flags::default()).unwrap_or_else(|faults| panic!("{faults}")).policy;
    for (newer, older) in [
        ("mode: allow-all", "allow-all"),
        ("mode: allow-all", "mode: default-allow"),
        ("mode: deny-all", "deny-all"),
        ("mode: deny-all", "mode: default-deny"),
        ("{}", "{\"mode\": \"custom\"}"),
        ("allow: [a.test]", "{mode: custom, allowedDomains: [A.test.]}"),
        ("allow: [a.test]", "{mode: default-deny, allowedDomains: [a.test]}"),
        (
            "{mode: allow-all, subnets: {allow: [10.0.0.0/8], deny: [10.1.0.0/16]}}",
            "{mode: default-allow, deniedCIDRs: [10.1.0.0/16], allowedCIDRs: [10.0.0.0/8]}",
        ),
        ("subnets: {deny: [10.1.0.0/16]}", "{mode: custom, deniedCIDRs: [10.1.0.0/16]}"),
        (
            "allow: {a.test: [{transform: [{headers: {X-Key: v}}]}, \
             {match: {method: [GET]}, transform: [{headers: {a: b}}]}], b.test: []}",
            "{mode: custom, allowedDomains: [a.test, b.test], injectionRules: [{domain: a.test, headers: {X-Key: v}}, \
             {domain: a.test, headers: {a: b}, match: {method: [GET]}}]}",
        ),
        (
            "allow: {'*.test': [], a.test: [{transform: [{headers: {a: b}}]}]}",
            "{mode: custom, allowedDomains: ['*.test'], injectionRules: [{domain: a.test, headers: {a: b}}]}",
        ),
    ] {
        assert_eq!(policy(newer).revision(), policy(older).revision(), "{newer} | {older}");
    }
}

/// Files that are not on a disk.
struct Folder(&'static [(&'static str, &'static str)]);

impl crate::policy::Files for Folder {
    fn read(&self, path: &str) -> Result<String, String> {
        let found = self.0.iter().find(|(name, _)| *name == path);
        found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| "there is no such file".to_owned())
    }
}

fn extended(path: &str, text: &str, folder: &Folder) -> Result<Compiled, Diagnostics> {
    let terms = Terms { files: Some(folder), ..Terms::default() };
    compile(Some(Source { path, text }), &Flags::default(), &terms)
}

#[test]
fn what_a_file_extends_adds_to_it_and_the_nearest_counts() {
    let folder = Folder(&[
        (
            "lib/base.yaml",
            "extends: [../shared/deny.yaml, ./deep/../other.yaml]\nallow: {a.test: [], b.test: []}\nstrict: true\n\
             secrets: {KEY: {file: key}}\ntests: [{connect: 'a.test:1', verdict: deny}]\ndns: none",
        ),
        ("shared/deny.yaml", "deny: [gist.test]\nsubnets: {deny: [10.1.0.0/16]}\ndns: any"),
        ("lib/other.yaml", "allow: {b.test: [{}], '*.c.test': []}\ndeny: [gist.test]\nextends: [../shared/deny.yaml]"),
    ]);
    let text = "extends: [lib/base.yaml]\nallow: {a.test: [{transform: [{headers: {x: '${secrets.KEY}'}}]}]}\n\
                strict: false";
    let extended = extended("p.yaml", text, &folder).unwrap_or_else(|faults| panic!("{faults}"));
    let flat = "allow: {a.test: [{transform: [{headers: {x: '${secrets.KEY}'}}]}], b.test: [], '*.c.test': []}\n\
                deny: [gist.test]\nsubnets: {deny: [10.1.0.0/16]}\nstrict: false\ndns: none\n\
                secrets: {KEY: {file: lib/key}}";
    let flat = compiled(flat, &Flags::default()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(extended.policy.revision(), flat.policy.revision());
    assert!(extended.cases.is_empty(), "the tests of what is extended are its own");
    let ids: Vec<String> = extended.policy.allow.iter().map(|(_, entry)| entry.id.to_string()).collect();
    assert_eq!(ids, ["p.yaml:2", "lib/base.yaml:2", "lib/other.yaml:1"]);
}

#[test]
fn faults_of_what_a_file_extends_are_shown_in_their_own_file() {
    let folder = Folder(&[
        ("bad.yaml", "alow: []\n"),
        ("broken.yaml", "allow: [\n"),
        ("loop.yaml", "extends: [round.yaml]"),
        ("round.yaml", "name: x\nextends: [p.yaml]"),
        ("all.yaml", "mode: deny-all"),
    ]);
    let report = |text: &str| extended("p.yaml", text, &folder).unwrap_err().to_string();
    assert!(
        report("extends: [bad.yaml]").contains("--> bad.yaml:1:1\n1 | alow: []"),
        "{}",
        report("extends: [bad.yaml]")
    );
    assert!(report("extends: [broken.yaml]").contains("--> broken.yaml:1:8"), "{}", report("extends: [broken.yaml]"));
    let looped = report("extends: [loop.yaml]");
    assert!(looped.contains("`p.yaml` extends itself: p.yaml → loop.yaml → round.yaml → p.yaml"), "{looped}");
    assert!(looped.contains("--> round.yaml:2:11"), "{looped}");
    let missing = report("extends: [none.yaml, 'preset:none']");
    assert!(missing.contains("`none.yaml` cannot be read: there is no such file\n  --> p.yaml:1:11"), "{missing}");
    assert!(missing.contains("`preset:none` cannot be read: there is no such preset"), "{missing}");
    let merged = report("extends: [all.yaml]\nallow: [a.test]");
    assert!(
        merged.contains("the mode is deny-all (all.yaml:1), which stands alone, and other files have lists"),
        "{merged}"
    );
    assert!(extended("p.yaml", "extends: [all.yaml]\nallow: [a.test]\nmode: custom", &folder).is_ok());
    assert!(extended("p.yaml", "extends: ['preset:no-network']", &folder).is_ok());
}

/// The codes and places of what is advised, `CODE FILE:LINE`.
fn told(compiled: &Compiled) -> Vec<String> {
    let place = |place: &crate::policy::diagnostic::Place| format!(" {}:{}", place.path, place.line);
    let advice = compiled.advice.iter();
    advice
        .map(|advice| advice.code.as_str().to_owned() + &advice.place.as_ref().map_or_else(String::new, place))
        .collect()
}

#[test]
fn a_file_counts_before_all_that_it_extends_by_whatever_way() {
    let folder = Folder(&[
        ("left.yaml", "extends: [base.yaml]\nallow: {l.test: []}"),
        (
            "right.yaml",
            "extends: [base.yaml]\nallow: {a.test: [{}]}\nstrict: true\nsecrets: {KEY: {env: RIGHT, to: [z.test]}}",
        ),
        (
            "base.yaml",
            "allow: {a.test: [], b.test: []}\nstrict: false\nsecrets: {KEY: {env: BASE, to: [z.test]}}\n\
             placeholders: {V: KEY}",
        ),
    ]);
    // By the left way alone the base would come before what `right.yaml` says instead.
    let diamond =
        extended("p.yaml", "extends: [left.yaml, right.yaml]", &folder).unwrap_or_else(|faults| panic!("{faults}"));
    let flat = "allow: {l.test: [], a.test: [{}], b.test: []}\nstrict: true\n\
                secrets: {KEY: {env: RIGHT, to: [z.test]}}\nplaceholders: {V: KEY}";
    let flat = compiled(flat, &Flags::default()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(diamond.policy.revision(), flat.policy.revision());
    assert_eq!(told(&diamond), [""; 0], "each of them means it");
    let ids: Vec<String> = diamond.policy.allow.iter().map(|(_, entry)| entry.id.to_string()).collect();
    assert_eq!(ids, ["left.yaml:2", "right.yaml:2", "base.yaml:1"]);
    // What extends the base of another is no nearer for it.
    let twice = extended("p.yaml", "extends: [base.yaml, right.yaml, base.yaml]", &folder).unwrap().policy;
    assert!(twice.strict);
}

#[test]
fn what_two_files_say_that_do_not_extend_one_another_is_told() {
    let folder = Folder(&[
        (
            "one.yaml",
            "allow: {a.test: [{}], b.test: []}\nstrict: true\nmode: custom\ndns: any\n\
             secrets: {KEY: {env: ONE, to: [z.test]}, SAME: {file: f, to: [z.test]}}\nplaceholders: {V: KEY}\n\
             denials: terse\nobserve: true\n\
             deny: [d.test]\nsubnets: {allow: [10.0.0.0/8]}",
        ),
        (
            "two.yaml",
            "allow: {a.test: [],\n b.test: []}\nstrict: false\nmode: allow-all\ndns: none\n\
             secrets: {KEY: {env: TWO, to: [z.test]}, SAME: {file: f, to: [z.test]}}\nplaceholders: {V: SAME}\n\
             denials: explain\nobserve: false\n\
             deny: [d.test]\nsubnets: {allow: [10.0.0.0/8]}",
        ),
        ("over.yaml", "extends: [two.yaml]\nstrict: true\ndns: any"),
        ("both.yaml", "extends: [one.yaml, two.yaml]"),
    ]);
    let of = |text: &str| {
        let compiled = extended("p.yaml", text, &folder).unwrap_or_else(|faults| panic!("{faults}"));
        let told =
            told(&compiled).into_iter().filter_map(|told| Some(told.strip_prefix("sibling-conflict ")?.to_owned()));
        (told.collect::<Vec<_>>(), compiled.policy)
    };
    let (told, policy) = of("extends: [one.yaml, two.yaml]");
    let lines = ["1", "3", "4", "5", "6", "7", "8", "9"].map(|line| format!("two.yaml:{line}"));
    assert_eq!(told, lines, "neither what is the same nor what adds up");
    assert!(policy.strict, "the first counts");
    assert_eq!(of("extends: [both.yaml]").0, lines, "nor does a file in between say it");
    let (told, policy) = of("extends: [two.yaml, one.yaml]");
    assert_eq!((told.len(), policy.strict), (8, false));
    assert_eq!(of("extends: [two.yaml]\nallow: {a.test: [{}]}\nstrict: true").0, [""; 0], "what is nearer means it");
    assert_eq!(of("extends: [over.yaml]").0, [""; 0]);
    let (told, _) = of(
        "extends: [one.yaml, two.yaml]\nallow: {a.test: []}\nstrict: true\nmode: custom\ndns: any\ndenials: terse\n\
         observe: false\nsecrets: {KEY: {env: X, to: [z.test]}}\nplaceholders: {V: KEY}",
    );
    assert_eq!(told, [""; 0], "the file that extends both has settled it");
    let compiled = extended("q/p.yaml", "extends: [../one.yaml, ../two.yaml]", &folder).unwrap();
    let shown = compiled.advice.to_string();
    let expected = "\
warning[sibling-conflict]: `a.test` has another entry in one.yaml:1, which counts: neither file extends the other
  --> two.yaml:1:9
1 | allow: {a.test: [],
  |         ^^^^^^
  help: say which is meant in q/p.yaml, or in a file that extends both
";
    assert!(shown.contains(expected), "{shown}");
}

#[test]
fn a_path_is_one_however_it_is_spelled() {
    let folder = Folder(&[
        ("d/a.yaml", "extends: [./../d//b.yaml, ../d/./b.yaml, 'preset:no-network']\nmode: custom"),
        ("d/b.yaml", "allow: [b.test]"),
        ("d/loop.yaml", "extends: [../d/./loop.yaml]"),
        ("d/back.yaml", "extends: [../p.yaml]"),
        ("/top.yaml", "allow: [t.test]"),
        ("/e/f.yaml", "extends: [../../top.yaml, /../top.yaml, //e/../top.yaml]"),
        ("preset:no-network", "allow: [never.test]"),
    ]);
    let ids = |path: &str, text: &str| -> Vec<String> {
        let compiled = extended(path, text, &folder).unwrap_or_else(|faults| panic!("{faults}"));
        compiled.policy.allow.iter().map(|(_, entry)| entry.id.to_string()).collect()
    };
    assert_eq!(ids("p.yaml", "extends: [d/a.yaml]"), ["d/b.yaml:1"]);
    assert_eq!(ids("/x/y/p.yaml", "extends: [../../../../e/f.yaml, /top.yaml]"), ["/top.yaml:1"]);
    assert_eq!(ids("p.yaml", "extends: [./preset:no-network]"), ["preset:no-network:1"], "a file that is called so");
    for (path, text) in [
        ("p.yaml", "extends: [./d/../p.yaml]"),
        ("./p.yaml", "extends: [d/back.yaml]"),
        ("d/../p.yaml", "extends: [d/back.yaml]"),
    ] {
        let report = extended(path, text, &folder).unwrap_err().to_string();
        assert!(report.contains("extends itself: "), "{path}\n{report}");
        assert_eq!(report.matches("error[").count(), 1, "{path}\n{report}");
    }
    let report = extended("p.yaml", "extends: [d/loop.yaml]", &folder).unwrap_err().to_string();
    assert!(report.contains("`d/loop.yaml` extends itself: p.yaml → d/loop.yaml → d/loop.yaml"), "{report}");
    let above = extended("../p.yaml", "extends: [../b.yaml]", &folder).unwrap_err().to_string();
    assert!(above.contains("`../../b.yaml` cannot be read"), "{above}");
}

#[test]
fn a_secrets_file_is_found_from_the_file_that_names_it() {
    let folder = Folder(&[("/etc/lib/deep/k.yaml", "secrets: {A: {file: ../a}, B: {file: /run/b}}")]);
    let text = "extends: [lib/deep/k.yaml]\nsecrets: {C: {file: c}}";
    let policy = extended("/etc/p.yaml", text, &folder).unwrap_or_else(|faults| panic!("{faults}")).policy;
    let paths: Vec<_> = policy.sources().map(|(name, source)| format!("{} {source:?}", name.as_str())).collect();
    assert_eq!(paths, [r#"A File("/etc/lib/deep/../a")"#, r#"B File("/run/b")"#, r#"C File("/etc/c")"#]);
}

#[test]
fn what_follows_from_a_file_that_is_missing_is_no_fault_of_its_own() {
    let folder = Folder(&[("broken.yaml", "secrets: {KEY: [\n"), ("other.yaml", "allow: {b.test: [{transfrom: []}]}")]);
    let rule = "{transform: [{headers: {x: '${secrets.KEY}', host: b.test}}]}";
    let text =
        format!("extends: [none.yaml, broken.yaml, other.yaml]\nplaceholders: {{V: KEY}}\nallow: {{a.test: [{rule}]}}");
    let Err(faults) = extended("p.yaml", &text, &folder) else { panic!("compiled") };
    let found: Vec<String> = faults
        .iter()
        .map(|fault| {
            format!("{} {}", fault.code.as_str(), fault.place.as_ref().map_or("", |place| place.path.as_str()))
        })
        .collect();
    assert_eq!(found, ["missing p.yaml", "syntax broken.yaml", "unknown-key other.yaml"]);
    let text = format!("extends: [other.yaml]\nallow: {{a.test: [{rule}]}}");
    let Err(faults) = extended("p.yaml", &text, &folder) else { panic!("compiled") };
    assert_eq!(faults.iter().filter(|fault| fault.message == "the secret `KEY` is not declared").count(), 1);
}

/// Files that extend one another without end, each under another name.
struct Endless;

impl crate::policy::Files for Endless {
    fn read(&self, path: &str) -> Result<String, String> {
        match path.strip_prefix("none") {
            Some(_) => Err("there is no such file".to_owned()),
            None => Ok(format!("extends: [{path}x]")),
        }
    }
}

/// `limits::POLICY_FILES`
#[test]
fn files_are_limited_and_so_is_asking_for_them() {
    let report = |text: &str| {
        let terms = Terms { files: Some(&Endless), ..Terms::default() };
        let Err(faults) = compile(Some(Source { path: "p.yaml", text }), &Flags::default(), &terms) else { panic!() };
        faults.iter().map(|fault| fault.message.clone()).collect::<Vec<_>>()
    };
    assert_eq!(report("extends: [y]"), [format!("the policy extends more than {} files", limits::POLICY_FILES - 1)]);
    let many: String = (0..2 * limits::POLICY_FILES).map(|n| format!("none{n}, ")).collect();
    assert_eq!(report(&format!("extends: [{many}]")).len(), limits::POLICY_FILES);
    let chain: Vec<(String, String)> =
        (1..limits::POLICY_FILES).map(|n| (format!("{n}"), format!("extends: ['{}']", n + 1))).collect();
    struct Chain(Vec<(String, String)>);
    impl crate::policy::Files for Chain {
        fn read(&self, path: &str) -> Result<String, String> {
            let found = self.0.iter().find(|(name, _)| name == path);
            Ok(found.map_or_else(|| "allow: [a.test]".to_owned(), |(_, text)| text.clone()))
        }
    }
    let compiles = |chain: Vec<(String, String)>| {
        let files = Chain(chain);
        let terms = Terms { files: Some(&files), ..Terms::default() };
        compile(Some(Source { path: "p.yaml", text: "extends: ['1']" }), &Flags::default(), &terms).is_ok()
    };
    assert!(!compiles(chain.clone()));
    assert!(compiles(chain[..chain.len() - 1].to_vec()), "itself and the others are as many as may be");
}

#[test]
fn a_control_plane_says_less_and_opens_what_the_operator_lists() {
    let author = crate::policy::Author::ControlPlane {
        openable: vec!["10.1.0.0/16".parse().unwrap()],
        secrets: [(SecretName::new("KEY").unwrap(), Grant::default())].into(),
    };
    let terms =
        Terms { author, forward_hosts: Some(vec![DomainPattern::parse("*.proxy.test").unwrap()]), ..Terms::default() };
    let compiled = |text: &str| compile(Some(Source { path: "the policy", text }), &Flags::default(), &terms);
    let report = |text: &str| compiled(text).unwrap_err().to_string();
    for key in ["observe: true", "secrets: {}", "extends: []", "tests: []"] {
        let name = key.split(':').next().unwrap();
        let message = format!("`{name}` is the operator's, and stands in a policy from the control plane");
        assert!(report(key).contains(&message), "{}", report(key));
    }
    let with = |rule: &str| format!("allow: {{a.test: [{rule}]}}");
    assert!(compiled(&with("{transform: [{headers: {a: '${secrets.KEY}'}}]}")).is_ok());
    assert!(
        report(&with("{transform: [{headers: {a: '${secrets.NONE}'}}]}"))
            .contains("register it with the control plane")
    );
    assert!(compiled(&with("{forwardURL: 'https://x.proxy.test/a'}")).is_ok());
    assert!(report(&with("{forwardURL: 'https://x.test/a'}")).contains("the operator lists the hosts"));
    let both = compiled(&with("{transform: [{headers: {a: b}}], forwardURL: 'https://x.proxy.test'}")).unwrap().policy;
    assert_eq!(both.revision(), compiled(&with("{forwardURL: 'https://x.proxy.test'}")).unwrap().policy.revision());
    let host = crate::policy::Protected::new([]);
    let vets = |text: &str, address: &str| {
        matches!(
            compiled(text).unwrap().policy.vet_answer(address.parse().unwrap(), &host),
            crate::policy::Verdict::Allow(())
        )
    };
    let ranges = "subnets: {allow: [10.1.2.0/24, 10.2.0.0/16]}";
    assert!(vets(ranges, "10.1.2.3"));
    assert!(!vets(ranges, "10.2.0.1"), "the operator does not list it");
    assert!(matches!(compiled(ranges).unwrap().policy.dns, Dns::Any), "addresses and no names");
    assert!(matches!(compiled("allow: [a.test]").unwrap().policy.dns, Dns::Names));
}

#[test]
fn what_the_host_lacks_is_refused_with_its_reason() {
    let terms = Terms { lacks: vec![(Feature::Forward, "a run has no issuer")], ..Terms::default() };
    let text = "allow: {a.test: [{forwardURL: 'https://b.test'}]}";
    let report = compile(Some(Source { path: "p.yaml", text }), &Flags::default(), &terms).unwrap_err().to_string();
    assert!(report.contains("`forwardURL` cannot be had here: a run has no issuer"), "{report}");
}

#[test]
fn flags_have_faults_too() {
    let bad = Flags {
        allow: vec!["https://a.test".into(), "b.test".into(), "b.test".into()],
        allow_cidr: vec!["10.0.0.1".into()],
        deny_cidr: vec!["a.test".into()],
        ..Flags::default()
    };
    let report = compile(None, &bad, &Terms::default()).unwrap_err().to_string();
    for line in [
        "error[bad-value]: --allow https://a.test: this is a URL or a path, not a domain\n",
        "error[duplicate]: --allow b.test: it is allowed already (--allow b.test)\n",
        "error[bad-value]: --allow-cidr 10.0.0.1: the range has no length\n  help: for this address alone write \
         `10.0.0.1/32`\n",
        "error[bad-value]: --deny-cidr a.test: this is not a CIDR\n",
    ] {
        assert!(report.contains(line), "{line}\n{report}");
    }
}

#[test]
fn a_mode_on_the_command_line_excludes_the_rest() {
    let mode = |mode: &str| Flags { mode: Some(mode.into()), ..Flags::default() };
    assert!(compile(None, &mode("deny-all"), &Terms::default()).is_ok());
    assert!(compile(None, &Flags { observe: true, ..mode("allow-all") }, &Terms::default()).is_ok());
    assert!(compile(None, &mode("open"), &Terms::default()).is_err());
    assert!(compiled("{}", &mode("allow-all")).is_err());
    assert!(compile(None, &Flags { allow: vec!["a.test".into()], ..mode("allow-all") }, &Terms::default()).is_err());
    assert!(
        compile(None, &Flags { deny_cidr: vec!["10.0.0.0/8".into()], ..mode("allow-all") }, &Terms::default()).is_err()
    );
    assert!(compiled("mode: deny-all", &Flags { allow: vec!["a.test".into()], ..Flags::default() }).is_err());
    assert!(compiled("{}", &Flags { allow: vec!["a.test".into()], ..Flags::default() }).is_ok());
}

#[test]
fn json_is_yaml() {
    let text = "{\"version\": 1,\n\t\"allow\": {\"a.test\": [{\"match\": {\"path\": {\"exact\": \"\\/\\u0061\"}}}]}}";
    let compiled = compiled(text, &Flags::default()).unwrap_or_else(|faults| panic!("{faults}"));
    let (_, entry) = compiled.policy.allow.iter().next().unwrap();
    assert_eq!(entry.id.to_string(), "p.yaml:2");
    assert!(entry.rules()[0].when.path.as_ref().unwrap().matches(b"/a"));
}

/// Every spelling, in YAML and in JSON.
fn spellings() -> Vec<(&'static str, Json)> {
    let rule = json!({
        "match": {"method": ["GET"], "path": {"regex": "^/a\\.b\\$"}},
        "transform": [{"headers": {"X-A": "\"é\u{1f600}\" b/c"}}],
    });
    let inject = json!({"domain": "a.test", "headers": {"X-A": "b: c # d"}, "match": {"path": {"startsWith": "/a"}}});
    vec![
        ("allow-all", json!("allow-all")),
        ("deny-all", json!("deny-all")),
        ("mode: deny-all", json!({"mode": "deny-all"})),
        (
            "mode: allow-all\ndeny: [d.test]\nsubnets: {deny: [10.0.0.0/8]}",
            json!({"mode": "allow-all", "deny": ["d.test"], "subnets": {"deny": ["10.0.0.0/8"]}}),
        ),
        ("{}", json!({})),
        ("{allow: [a.test, '*.b.test', '*']}", json!({"allow": ["a.test", "*.b.test", "*"]})),
        (
            "allow:\n  '*': []\n  a.test:\n    - match: {method: [GET], path: {regex: '^/a\\.b\\$'}}\n      \
             transform:\n        - headers: {X-A: '\"é😀\" b/c'}\n",
            // In the order in which `Json` keeps them.
            json!({"allow": {"*": [], "a.test": [rule]}}),
        ),
        (
            "allow: [a.test]\nsubnets: {allow: [10.0.0.0/8, 'fd00::/8']}\nstrict: true\ndenials: terse\ndns: none\n\
             observe: true\nversion: 1\nname: x\nsecrets: {K: {env: V, to: [z.test]}, L: {file: /l}}\n\
             placeholders: {V: K}",
            json!({
                "version": 1, "name": "x", "allow": ["a.test"], "subnets": {"allow": ["10.0.0.0/8", "fd00::/8"]},
                "strict": true, "denials": "terse", "dns": "none", "observe": true,
                "secrets": {"K": {"env": "V", "to": ["z.test"]}, "L": {"file": "/l"}}, "placeholders": {"V": "K"},
            }),
        ),
        (
            "mode: custom\nallowedDomains: [a.test, b.test]\nallowedCIDRs: [10.0.0.0/8]\ndeniedCIDRs: [10.1.0.0/16]\n\
             injectionRules:\n  - domain: a.test\n    headers: {X-A: 'b: c # d'}\n    match: {path: {startsWith: /a}}",
            json!({
                "mode": "custom", "allowedDomains": ["a.test", "b.test"], "allowedCIDRs": ["10.0.0.0/8"],
                "deniedCIDRs": ["10.1.0.0/16"], "injectionRules": [inject],
            }),
        ),
        ("mode: default-allow", json!({"mode": "default-allow"})),
        ("mode: default-deny", json!({"mode": "default-deny"})),
        (
            "{mode: default-deny, allowedDomains: [a.test]}",
            json!({"mode": "default-deny", "allowedDomains": ["a.test"]}),
        ),
    ]
}

/// JSON whose every letter of every text is escaped, as `\u0061`.
fn escaped(value: &Json) -> String {
    let text = |text: &str| {
        let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        format!("\"{units}\"")
    };
    match value {
        Json::String(string) => text(string),
        Json::Array(items) => format!("[{}]", items.iter().map(escaped).collect::<Vec<_>>().join(",")),
        Json::Object(map) => {
            let pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{}:{}", text(key), escaped(value))).collect();
            format!("{{{}}}", pairs.join(","))
        }
        other => other.to_string(),
    }
}

#[test]
fn a_document_is_the_same_in_json_however_that_is_laid_out() {
    let revision = |text: &str| {
        compiled(text, &Flags::default()).unwrap_or_else(|faults| panic!("{text}\n{faults}")).policy.revision()
    };
    for (yaml, json) in spellings() {
        let pretty = serde_json::to_string_pretty(&json).unwrap();
        for text in [
            json.to_string(),
            format!("\u{feff}{json}\r\n"),
            escaped(&json),
            pretty.replace("  ", "\t"),
            pretty.replace('\n', "\r\n").replace("\": ", "\"\r\n:\r\n"),
        ] {
            assert_eq!(revision(&text), revision(yaml), "{yaml}\n{text}");
        }
    }
    let response = json!({"statusCode": 200, "contentType": "a/b", "body": "x\n".repeat(4000)});
    let long = json!({"description": "é".repeat(4000), "allow": {"a.test": [{"response": response}]}});
    assert_eq!(revision(&long.to_string()), revision(&escaped(&long)));
}

#[test]
fn a_number_is_whole() {
    for (text, message) in [
        ("version: 1.0", "`version` is a whole number, written in digits"),
        ("version: 1e0", "`version` is a whole number, written in digits"),
        ("version: -1", "`version` is a whole number, written in digits"),
        ("version: 0x1", "`version` is a whole number, written in digits"),
        ("version: 99999999999999999999", "`version` can only be 1"),
        ("version: one", "`version` must be a number, and this is text"),
    ] {
        let found = faults(text);
        assert_eq!(found.len(), 1, "{text}");
        assert!(found[0].ends_with(message), "{text}: {found:?}");
    }
}

#[test]
fn an_older_spelling_with_many_domains_and_rules_takes_no_longer_than_its_length() {
    let count = 20_000;
    let domains: String = (0..count).map(|n| format!("\"d{n}.test\",")).collect();
    let rules: String =
        (0..count).rev().map(|n| format!("{{\"domain\":\"d{n}.test\",\"headers\":{{\"a\":\"b\"}}}},")).collect();
    let text = format!("{{\"mode\":\"custom\",\"allowedDomains\":[{domains}],\"injectionRules\":[{rules}]}}");
    let policy = compiled(&text, &Flags::default()).unwrap_or_else(|faults| panic!("{faults}")).policy;
    assert_eq!(policy.allow.iter().filter(|(_, entry)| entry.rules().len() == 1).count(), count);
    // As rules whose domain a wildcard alone allows, they come after it.
    let text = format!("{{\"mode\":\"custom\",\"allowedDomains\":[\"*.test\"],\"injectionRules\":[{rules}]}}");
    let policy = compiled(&text, &Flags::default()).unwrap_or_else(|faults| panic!("{faults}")).policy;
    assert_eq!(policy.allow.len(), count + 1);
}

#[test]
fn a_document_has_bounds() {
    let within = |text: &str| compiled(text, &Flags::default()).is_ok();
    let nested = |depth| format!("name: x\ntests: {}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(report(&nested(limits::POLICY_DEPTH + 1)).contains("not valid YAML"));
    assert!(report(&" ".repeat(limits::POLICY_BYTES + 1)).starts_with("error[limit]"));
    let rules = |count| format!("allow: {{a.test: [{}]}}", "{},".repeat(count));
    assert!(within(&rules(limits::POLICY_RULES)));
    assert!(report(&rules(limits::POLICY_RULES + 1)).starts_with("error[limit]"));
    let regexes = |count| rules(0).replace("[]", &format!("[{}]", "{match: {path: {regex: a}}},".repeat(count)));
    assert!(within(&regexes(limits::POLICY_REGEXES)));
    assert!(report(&regexes(limits::POLICY_REGEXES + 1)).starts_with("error[limit]"));
    let body =
        |size| with_rule(&format!("{{response: {{statusCode: 200, contentType: a/b, body: {}}}}}", "x".repeat(size)));
    assert!(within(&body(limits::RESPONSE_BODY_BYTES)));
    assert!(report(&body(limits::RESPONSE_BODY_BYTES + 1)).starts_with("error[limit]"));
    let unknown: String = (0..=limits::POLICY_FAULTS).map(|index| format!("key{index}: x\n")).collect();
    assert!(report(&unknown).ends_with("\nand 1 more\n"));
}

#[test]
fn a_document_has_bounds_that_take_a_while_to_meet() {
    let entries = |count: usize| (0..count).map(|index| format!("a{index}.test,")).collect::<String>();
    assert!(report(&format!("deny: [{}]", entries(limits::POLICY_ENTRIES + 1))).starts_with("error[limit]"));
    assert!(report(&format!("tests: [{}]", "0,".repeat(limits::POLICY_NODES))).starts_with("error[limit]"));
}

/// A preset with a few characters taken out, doubled or replaced.
fn any_document() -> impl Strategy<Value = String> {
    let texts: Vec<&str> = presets().filter_map(preset).map(|source| source.text).collect();
    let edit =
        (any::<prop::sample::Index>(), 0usize..3, prop::sample::select(vec!["", "-", ": ", "\n", "ü", "{", "'"]));
    (prop::sample::select(texts), prop::collection::vec(edit, 0..6)).prop_map(|(text, edits)| {
        edits.iter().fold(text.to_owned(), |text, (at, cut, insert)| {
            let mut characters: Vec<char> = text.chars().collect();
            let at = at.index(characters.len());
            let end = (at + cut).min(characters.len());
            characters.splice(at..end, insert.chars());
            characters.into_iter().collect()
        })
    })
}

proptest! {
    #[test]
    fn any_document_compiles_or_says_why(text in any_document()) {
        if let Err(faults) = compiled(&text, &Flags::default()) {
            prop_assert!(!faults.is_empty());
            prop_assert!(faults.to_string().starts_with("error["));
        }
    }
}

#[test]
fn a_secret_goes_to_the_names_of_its_grant_alone() {
    let compiled = |to: &str, pattern: &str| {
        let text = format!(
            "secrets: {{KEY: {{env: KEY, to: {to}}}}}\n\
             allow: {{'{pattern}': [{{transform: [{{headers: {{x-key: '${{secrets.KEY}}'}}}}]}}]}}\n"
        );
        let source = Source { path: "policy.yaml", text: &text };
        Policy::compile(Some(source), &Flags::default(), &Terms::default())
            .map(drop)
            .map_err(|faults| faults.to_string())
    };
    for (to, pattern) in [
        ("[a.test]", "a.test"),
        ("['*.a.test']", "x.a.test"),
        ("['*.a.test']", "*.x.a.test"),
        ("['*.a.test', a.test]", "a.test"),
    ] {
        assert_eq!(compiled(to, pattern), Ok(()), "{to} {pattern}");
    }
    for (to, pattern) in
        [("[a.test]", "b.test"), ("[a.test]", "*.a.test"), ("['*.a.test']", "a.test"), ("[a.test]", "*")]
    {
        let told = compiled(to, pattern).unwrap_err();
        assert!(told.contains(&format!("the secret `KEY` may not go to `{pattern}`")), "{told}");
        assert!(told.contains("give those an entry of their own"), "{told}");
    }
}

/// Whoever pushes policies may use the operator's secrets, and not decide where they go.
#[test]
fn a_control_plane_sends_the_operators_secret_where_the_operator_says() {
    let grant = Grant { to: vec![DomainPattern::parse("a.test").unwrap()], ..Grant::default() };
    let author =
        Author::ControlPlane { openable: Vec::new(), secrets: [(SecretName::new("KEY").unwrap(), grant)].into() };
    let terms = Terms { author, ..Terms::default() };
    let compiled = |text: &str| {
        let source = Source { path: "policy", text };
        Policy::compile(Some(source), &Flags::default(), &terms).map(drop).map_err(|faults| faults.to_string())
    };
    let rule = "[{\"transform\": [{\"headers\": {\"x-key\": \"${secrets.KEY}\"}}]}]";
    assert_eq!(compiled(&format!("{{\"allow\": {{\"a.test\": {rule}}}}}")), Ok(()));
    for text in [
        format!("{{\"allow\": {{\"evil.test\": {rule}}}}}"),
        "{\"mode\": \"custom\", \"allowedDomains\": [\"evil.test\"], \"injectionRules\": \
         [{\"domain\": \"evil.test\", \"headers\": {\"x-key\": \"${secrets.KEY}\"}}]}"
            .to_owned(),
    ] {
        let told = compiled(&text).unwrap_err();
        assert!(told.contains("the secret `KEY` may not go to `evil.test`"), "{told}");
    }
}
