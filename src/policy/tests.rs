//! The rows of POLICY §3, one by one and where they meet; §5's names; §8's `observe`; what holds of every policy.

mod precedence;

use std::collections::BTreeSet;

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::verdict::{Part, Template};
use super::wire::tests::fits_schema;
use super::*;
use crate::flow::{ClientAddr, FlowId, Hello, HelloFault, HttpVersion, OriginalDst, SandboxId};

pub(super) fn policy(text: &str) -> Policy {
    compiled(text, &Flags::default())
}

fn compiled(text: &str, flags: &Flags) -> Policy {
    let source = Source { path: "p.yaml", text };
    assert_eq!(fits_schema(text), Ok(()), "{text}");
    Policy::compile(Some(source), flags, &Terms::default()).unwrap_or_else(|faults| panic!("{faults}")).policy
}

fn name(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn host() -> Protected {
    Protected::new(["203.0.113.9".parse().unwrap()])
}

pub(super) fn flow(dst: &str, seen: Seen) -> Flow {
    let dst = dst.parse().unwrap();
    let sandbox = SandboxId::new("test").unwrap();
    Flow { id: FlowId(1), sandbox, client: ClientAddr(dst), dst: OriginalDst(dst), seen, pinned: Vec::new() }
}

fn tls(sni: &str) -> Seen {
    Seen::Tls(Hello { sni: (!sni.is_empty()).then(|| name(sni)), alpn: Vec::new(), ech: false })
}

/// A verdict in one line: `deny no-rule`, `splice a.test:443 by p.yaml:1`, `observed`.
fn said(verdict: Verdict<Route>) -> String {
    match verdict {
        Verdict::Deny(denial) => denied(&denial),
        Verdict::Allow(Route::Relay(permit)) => format!("relay {}", shown(&permit)),
        Verdict::Allow(Route::Splice(permit)) => format!("splice {}", shown(&permit)),
        Verdict::Allow(Route::Terminate(basis)) => format!("terminate{}", by(&basis)),
    }
}

fn denied(denial: &Denial) -> String {
    format!("deny {}{}", denial.reason, by(&denial.basis))
}

fn by(basis: &Basis) -> String {
    basis.rule.as_ref().map_or_else(String::new, |rule| format!(" by {rule}"))
}

fn shown(permit: &Permit) -> String {
    let target = match permit.target() {
        Target::Name(name, port) => format!("{name}:{port}"),
        Target::Address(address) => address.to_string(),
    };
    let observed = permit.observed().map_or_else(String::new, |reason| format!(" despite {reason}"));
    let injected: Vec<&str> = permit.injections().iter().map(|injection| injection.header.as_str()).collect();
    let injected = if injected.is_empty() { String::new() } else { format!(" with {}", injected.join(",")) };
    let keys: Vec<&str> = permit.signing().into_iter().flat_map(|it| it.secrets()).map(SecretName::as_str).collect();
    let signed = if keys.is_empty() { String::new() } else { format!(" signed with {}", keys.join(",")) };
    format!("{target}{injected}{signed}{observed}{}", by(permit.basis()))
}

fn decided(policy: &Policy, dst: &str, seen: Seen) -> String {
    said(policy.decide(&flow(dst, seen), &host()))
}

/// One request, `METHOD URL` with a path kept as written, to an address that says nothing.
fn asked(policy: &Policy, request: &str) -> String {
    asked_at(policy, request, None)
}

fn asked_at(policy: &Policy, request: &str, dst: Option<&str>) -> String {
    let (method, url) = request.split_once(' ').unwrap();
    let (scheme, rest) = url.split_once("://").unwrap();
    let (authority, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let (scheme, port) = if scheme == "https" { (Scheme::Https, 443) } else { (Scheme::Http, 80) };
    let authority = Domain::parse(authority).ok();
    let dst = dst.map_or_else(|| SocketAddr::from(([198, 51, 100, 7], port)), |dst| dst.parse().unwrap());
    let headers = HeaderMap::new();
    let head = RequestHead {
        scheme,
        authority: authority.as_ref(),
        dst: OriginalDst(dst),
        method,
        path,
        query,
        headers: &headers,
    };
    match policy.decide_request(&head, &host()) {
        Verdict::Deny(denial) => denied(&denial),
        Verdict::Allow(Action::Forward(permit)) => format!("forward {}", shown(&permit)),
        Verdict::Allow(Action::Respond(response, basis)) => format!("respond {}{}", response.status, by(&basis)),
        Verdict::Allow(Action::Divert(url, permit)) => format!("divert to {} as {}", url.text, shown(&permit)),
    }
}

const EVERYTHING: &str = "\
allow:
  allowed.test: []
  terminated.test: [{}]
  both.test: []
deny: [both.test, denied.test]
subnets:
  allow: [10.0.0.0/8, 198.51.100.0/24]
  deny: [10.9.0.0/16, 1.9.0.0/16, 192.168.9.0/24]
";

#[test]
fn rows_are_asked_in_order() {
    let policy = policy(EVERYTHING);
    for (dst, seen, verdict) in [
        // Row 1 beats the protected range it lies in, row 4 and an allowed name.
        ("10.9.0.1:443", tls("allowed.test"), "deny denied-cidr by p.yaml:8"),
        ("192.168.9.1:443", tls("allowed.test"), "deny denied-cidr by p.yaml:8"),
        ("1.9.0.1:443", tls("allowed.test"), "deny denied-cidr by p.yaml:8"),
        ("[64:ff9b::109:1]:443", tls("allowed.test"), "deny denied-cidr by p.yaml:8"),
        // Row 2 beats an allowed name.
        ("192.168.0.1:443", tls("allowed.test"), "deny protected-range"),
        ("127.0.0.1:443", tls("allowed.test"), "deny protected-range"),
        ("203.0.113.9:443", tls("allowed.test"), "deny protected-range"),
        ("[::ffff:169.254.169.254]:80", Seen::Opaque, "deny protected-range"),
        // Row 4 beats `deny`, and asks for no name; it unwraps mapped addresses.
        ("198.51.100.5:443", tls("denied.test"), "relay 198.51.100.5:443 by p.yaml:7"),
        ("198.51.100.5:443", tls("terminated.test"), "relay 198.51.100.5:443 by p.yaml:7"),
        ("198.51.100.5:22", Seen::Opaque, "relay 198.51.100.5:22 by p.yaml:7"),
        ("10.1.0.5:443", Seen::Unreadable(HelloFault::Malformed), "relay 10.1.0.5:443 by p.yaml:7"),
        ("[::ffff:10.1.0.5]:443", Seen::Unread, "relay [::ffff:10.1.0.5]:443 by p.yaml:7"),
        // It does not unwrap NAT64, which then goes by name like any other address.
        ("[64:ff9b::a01:5]:443", tls("other.test"), "deny no-rule"),
        // Row 5 beats row 6.
        ("1.1.1.1:443", tls("both.test"), "deny denied-domain by p.yaml:5"),
        ("1.1.1.1:443", tls("denied.test"), "deny denied-domain by p.yaml:5"),
        // Row 6, on every port; never the original destination.
        ("1.1.1.1:443", tls("allowed.test"), "splice allowed.test:443 by p.yaml:2"),
        ("1.1.1.1:8443", tls("allowed.test"), "splice allowed.test:8443 by p.yaml:2"),
        ("1.1.1.1:443", tls("terminated.test"), "terminate by p.yaml:3"),
        // Row 9.
        ("1.1.1.1:443", tls("other.test"), "deny no-rule"),
        ("1.1.1.1:443", tls("sub.allowed.test"), "deny no-rule"),
        ("1.1.1.1:443", tls(""), "deny no-name"),
        ("1.1.1.1:22", Seen::Opaque, "deny no-name"),
        ("1.1.1.1:443", Seen::Unread, "deny no-name"),
        ("1.1.1.1:443", Seen::Opaque, "deny not-http"),
        ("1.1.1.1:80", Seen::Opaque, "deny not-http"),
        ("1.1.1.1:443", Seen::Unreadable(HelloFault::BadName), "deny unreadable-hello"),
        // Cleartext names itself request by request.
        ("1.1.1.1:8080", Seen::Http(HttpVersion::Http1), "terminate"),
    ] {
        let shown = format!("{dst} {seen:?}");
        assert_eq!(decided(&policy, dst, seen), verdict, "{shown}");
    }
}

/// As POLICY §3 has it: "zone ids are dropped".
#[test]
fn a_zone_id_changes_no_judgement() {
    let policy = policy("allow: ['*']\nsubnets: {allow: ['fd00::/8'], deny: ['fd09::/16']}");
    for (address, verdict) in [
        ("fe80::1", "deny protected-range"),
        ("fd09::1", "deny denied-cidr by p.yaml:2"),
        ("::ffff:127.0.0.1", "deny protected-range"),
        ("fd00::1", "relay [fd00::1%3]:22 by p.yaml:2"),
        ("2606:4700::1", "relay [2606:4700::1%3]:22 by p.yaml:1"),
    ] {
        let dst = SocketAddr::V6(std::net::SocketAddrV6::new(address.parse().unwrap(), 22, 0, 3));
        let zoned = Flow { dst: OriginalDst(dst), ..flow("1.1.1.1:22", Seen::Opaque) };
        assert_eq!(said(policy.decide(&zoned, &host())), verdict, "{address}");
        let plain = decided(&policy, &format!("[{address}]:22"), Seen::Opaque);
        assert_eq!(plain, verdict.replace("%3", ""), "{address}");
    }
}

#[test]
fn an_address_settles_rows_one_to_four_before_a_byte_is_read() {
    let policy = policy(EVERYTHING);
    let settled = |policy: &Policy, dst| policy.decide_address(&flow(dst, Seen::Unread), &host()).map(said);
    assert_eq!(settled(&policy, "10.9.0.1:1").as_deref(), Some("deny denied-cidr by p.yaml:8"));
    assert_eq!(settled(&policy, "127.0.0.1:1").as_deref(), Some("deny protected-range"));
    assert_eq!(settled(&policy, "10.1.0.1:1").as_deref(), Some("relay 10.1.0.1:1 by p.yaml:7"));
    assert_eq!(settled(&policy, "1.1.1.1:1"), None);
    assert_eq!(settled(&policy, "192.0.2.1:443"), None, "the block address is refused by its name's reason");
    assert_eq!(settled(&Policy::deny_all(), "1.1.1.1:1").as_deref(), Some("deny deny-all"));
    assert_eq!(settled(&Policy::deny_all(), "127.0.0.1:1").as_deref(), Some("deny protected-range"));
}

#[test]
fn the_block_address_is_never_allowed() {
    let everything = policy("mode: allow-all\nsubnets: {allow: [192.0.2.0/24, '::/0']}\n");
    let lists = policy("allow: [allowed.test]\ndeny: [denied.test]\n");
    let observed = policy("mode: allow-all\nobserve: true\n");
    for dst in ["192.0.2.1:443", "[2001:db8::1]:443", "[::ffff:192.0.2.1]:443"] {
        for policy in [&everything, &lists, &observed] {
            for seen in [tls("allowed.test"), tls(""), Seen::Opaque, Seen::Unread] {
                assert!(decided(policy, dst, seen).starts_with("deny"), "{dst}");
            }
            assert!(asked_at(policy, "GET http://allowed.test/", Some(dst)).starts_with("deny"));
            assert!(matches!(policy.vet_answer(dst.parse::<SocketAddr>().unwrap().ip(), &host()), Verdict::Deny(_)));
        }
        assert_eq!(decided(&lists, dst, tls("denied.test")), "deny denied-domain by p.yaml:2");
        assert_eq!(decided(&lists, dst, tls("other.test")), "deny no-rule");
        assert_eq!(decided(&Policy::deny_all(), dst, tls("other.test")), "deny deny-all");
        assert_eq!(decided(&lists, dst, Seen::Http(HttpVersion::Http1)), "terminate");
        assert_eq!(asked_at(&lists, "GET http://denied.test/", Some(dst)), "deny denied-domain by p.yaml:2");
        assert_eq!(asked_at(&lists, "GET http://other.test/", Some(dst)), "deny no-rule");
        assert_eq!(asked_at(&Policy::deny_all(), "GET http://other.test/", Some(dst)), "deny deny-all");
    }
}

#[test]
fn nothing_said_is_deny_all() {
    let nothing = Policy::compile(None, &Flags::default(), &Terms::default()).unwrap().policy;
    assert_eq!(nothing.revision(), Policy::deny_all().revision());
    for text in [
        "{}",
        "{allow: {}}",
        "{allow: []}",
        "deny: [a.test]",
        "subnets: {deny: [10.0.0.0/8]}",
        "deny-all",
        "mode: deny-all",
        "version: 1",
    ] {
        assert_eq!(
            decided(&policy(text), "1.1.1.1:443", tls("a.test")).split(" by").next(),
            Some("deny deny-all"),
            "{text}"
        );
        assert!(matches!(policy(text).decide_name(&name("a.test")), Verdict::Deny(_)), "{text}");
    }
    assert_eq!(decided(&policy("mode: deny-all"), "1.1.1.1:443", tls("a.test")), "deny deny-all by p.yaml:1");
}

#[test]
fn allow_all_lets_every_name_and_no_name_out() {
    let open = policy("allow-all");
    assert_eq!(decided(&open, "1.1.1.1:443", tls("a.test")), "splice a.test:443 by p.yaml:1");
    assert_eq!(decided(&open, "1.1.1.1:443", tls("")), "relay 1.1.1.1:443 by p.yaml:1");
    assert_eq!(decided(&open, "1.1.1.1:22", Seen::Opaque), "relay 1.1.1.1:22 by p.yaml:1");
    assert_eq!(decided(&open, "1.1.1.1:443", Seen::Opaque), "deny not-http");
    assert_eq!(decided(&open, "10.0.0.1:22", Seen::Opaque), "deny protected-range");
    assert_eq!(asked(&open, "GET http://a.test/"), "forward a.test:80 by p.yaml:1");
    assert_eq!(asked(&open, "GET http://1.2.3.4/"), "forward 198.51.100.7:80 by p.yaml:1");
}

#[test]
fn no_name_goes_out_only_where_nothing_narrower_is_said() {
    for (text, verdict) in [
        ("allow: ['*']", "relay 1.1.1.1:22 by p.yaml:1"),
        ("allow: {'*': []}", "relay 1.1.1.1:22 by p.yaml:1"),
        ("allow: {'*': [{}]}", "deny no-name"),
        ("allow: {'*': [{opaque: {ports: [22]}}]}", "deny no-name"),
        ("allow: ['*.test']", "deny no-name"),
        ("allow: ['*']\ndeny: [a.test]", "deny no-name"),
        ("mode: allow-all\ndeny: [a.test]", "deny no-name"),
        ("allow: ['*']\nstrict: true", "deny no-name"),
        ("mode: allow-all\nstrict: true", "deny no-name"),
    ] {
        assert_eq!(decided(&policy(text), "1.1.1.1:22", Seen::Opaque), verdict, "{text}");
    }
}

#[test]
fn strict_terminates_whatever_goes_by_name() {
    let strict = policy("allow: [a.test]\nstrict: true");
    assert_eq!(decided(&strict, "1.1.1.1:443", tls("a.test")), "terminate by p.yaml:1");
    let open = policy("mode: allow-all\nstrict: true");
    assert_eq!(decided(&open, "1.1.1.1:443", tls("b.test")), "terminate by p.yaml:1");
    assert_eq!(asked(&open, "GET https://b.test/"), "forward b.test:443 by p.yaml:1");
}

#[test]
fn the_most_specific_entry_alone_applies() {
    let policy = policy("mode: allow-all\nallow: {'*': [{}], '*.a.test': [], x.a.test: [{}]}");
    assert_eq!(decided(&policy, "1.1.1.1:443", tls("x.a.test")), "terminate by p.yaml:2");
    assert_eq!(decided(&policy, "1.1.1.1:443", tls("y.a.test")), "splice y.a.test:443 by p.yaml:2");
    assert_eq!(decided(&policy, "1.1.1.1:443", tls("b.test")), "terminate by p.yaml:2");
}

const RULES: &str = "\
allow:
  api.test:
    - match: { method: [GET], path: { startsWith: /public/ } }
      transform: [{ headers: { Authorization: 'Bearer ${secrets.KEY}', X-Plain: a } }, { headers: { x-plain: b } }]
    - match: { path: { startsWith: /public/ } }
    - match: { path: { startsWith: /secret/ } }
      response: { statusCode: 403 }
  plain.test:
    - transform: [{ headers: { x-plain: a } }]
secrets: { KEY: { env: KEY } }
";

#[test]
fn the_first_rule_that_matches_claims_the_request() {
    let policy = policy(RULES);
    for (request, verdict) in [
        ("GET https://api.test/public/x", "forward api.test:443 with authorization,x-plain by p.yaml:3"),
        ("POST https://api.test/public/x", "forward api.test:443 by p.yaml:5"),
        ("GET https://api.test/secret/x", "respond 403 Forbidden by p.yaml:6"),
        ("GET https://api.test/other", "forward api.test:443 by p.yaml:2"),
        ("GET https://other.test/", "deny no-rule"),
    ] {
        assert_eq!(asked(&policy, request), verdict, "{request}");
    }
}

#[test]
fn of_transforms_the_later_element_wins() {
    let policy = policy(RULES);
    let headers = HeaderMap::new();
    let head = RequestHead {
        scheme: Scheme::Https,
        authority: Some(&name("api.test")),
        dst: OriginalDst("1.1.1.1:443".parse().unwrap()),
        method: "GET",
        path: "/public/",
        query: None,
        headers: &headers,
    };
    let Verdict::Allow(Action::Forward(permit)) = policy.decide_request(&head, &host()) else { panic!("denied") };
    let [authorization, plain] = permit.injections() else { panic!("{permit:?}") };
    let key = SecretName::new("KEY").unwrap();
    let bearer = Template::plain(vec![Part::Literal("Bearer ".into()), Part::Secret(key.clone())]);
    assert_eq!(authorization.value, bearer);
    assert_eq!(plain.value, Template::plain(vec![Part::Literal("b".into())]));
    assert_eq!(policy.secrets().collect::<Vec<_>>(), [&key]);
    assert_eq!(policy.sources().collect::<Vec<_>>(), [(&key, &SourceSpec::Env("KEY".into()))]);
}

#[test]
fn an_origin_that_rules_send_headers_to_is_brokered_whatever_this_request_is_sent() {
    let policy = policy(
        "allow:\n  sends.test: [{match: {method: [PUT]}, transform: [{headers: {x: y}}]}, {match: {method: [GET]}}]\n  \
         diverts.test: [{match: {method: [PUT]}, forwardURL: 'https://b.test/'}, {}]\n  \
         stands-in.test: [{}]\n  plain.test: [{match: {path: {exact: /}}}, {}]\n\
         secrets: {KEY: {env: KEY, to: [stands-in.test]}}\nplaceholders: {VARIABLE: KEY}\n",
    );
    let headers = HeaderMap::new();
    for (host_name, brokered) in
        [("sends.test", true), ("diverts.test", true), ("stands-in.test", true), ("plain.test", false)]
    {
        let name = name(host_name);
        let head = RequestHead {
            scheme: Scheme::Https,
            authority: Some(&name),
            dst: OriginalDst("1.1.1.1:443".parse().unwrap()),
            method: "GET",
            path: "/",
            query: None,
            headers: &headers,
        };
        let Verdict::Allow(Action::Forward(permit)) = policy.decide_request(&head, &host()) else { panic!("{name}") };
        assert_eq!(permit.is_brokered(), brokered, "{name}");
        assert_eq!(permit.injections(), []);
    }
}

#[test]
fn a_datagram_is_judged_by_its_address_alone() {
    let said = |text: &str, dst: &str| match policy(text).decide_datagram(&flow(dst, Seen::Opaque), &host()) {
        Verdict::Deny(denial) => denied(&denial),
        Verdict::Allow(permit) => format!("relay {}", shown(&permit)),
    };
    const OPEN: &str = "mode: allow-all\nsubnets: {deny: [9.9.9.9/32]}";
    const OBSERVED: &str = "allow: [a.test]\nsubnets: {deny: [9.9.9.9/32]}\nobserve: true";
    for (text, dst, verdict) in [
        (EVERYTHING, "10.1.0.1:443", "relay 10.1.0.1:443 by p.yaml:7"),
        (EVERYTHING, "10.9.0.1:443", "deny denied-cidr by p.yaml:8"),
        (EVERYTHING, "1.1.1.1:443", "deny no-name"),
        (EVERYTHING, "192.168.1.1:53", "deny protected-range"),
        (OPEN, "1.1.1.1:443", "relay 1.1.1.1:443 by p.yaml:1"),
        (OPEN, "9.9.9.9:443", "deny denied-cidr by p.yaml:2"),
        (OPEN, "203.0.113.9:443", "deny protected-range"),
        (OPEN, "192.0.2.1:443", "deny no-name"),
        ("mode: deny-all", "1.1.1.1:443", "deny deny-all by p.yaml:1"),
        (OBSERVED, "9.9.9.9:443", "relay 9.9.9.9:443 despite denied-cidr by p.yaml:2"),
        (OBSERVED, "1.1.1.1:443", "relay 1.1.1.1:443 despite no-name"),
        (OBSERVED, "203.0.113.9:443", "deny protected-range"),
    ] {
        assert_eq!(said(text, dst), verdict, "{text} and {dst}");
    }
}

#[test]
fn a_policy_says_whether_it_only_observes() {
    assert!(policy("allow: [a.test]\nobserve: true").observe() && !policy("allow: [a.test]").observe());
}

#[test]
fn a_key_is_known_by_how_it_begins() {
    assert_eq!((key_prefix("ghp_0123456789abcdef"), key_prefix("hunter2")), ("ghp_", ""));
}

/// The headers that are set on `METHOD https://a.test/path` with these of its own, or why it is refused.
fn set(text: &str, method: &str, path: &str, own: &[&'static str]) -> Result<Vec<String>, DenyReason> {
    let headers: HeaderMap =
        own.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("own"))).collect();
    let name = name("a.test");
    let head = RequestHead {
        scheme: Scheme::Https,
        authority: Some(&name),
        dst: OriginalDst("1.1.1.1:443".parse().unwrap()),
        method,
        path,
        query: None,
        headers: &headers,
    };
    match policy(text).decide_request(&head, &host()) {
        Verdict::Allow(Action::Forward(permit)) => {
            Ok(permit.injections().iter().map(|injection| injection.header.to_string()).collect())
        }
        Verdict::Allow(_) => panic!("{path}"),
        Verdict::Deny(denial) => Err(denial.reason),
    }
}

#[test]
fn a_header_gives_way_to_the_sandboxes_own_only_where_the_rule_says_so() {
    const POLICY: &str = "
allow:
  a.test:
    - transform:
        - {basic: {user: u, password: '${secrets.KEY}'}, existing: keep}
        - {headers: {x-set: '${secrets.KEY}'}, existing: replace}
secrets: {KEY: {env: KEY}}
";
    for (own, expected) in [
        (&[][..], &["authorization", "x-set"][..]),
        (&["authorization"], &["x-set"]),
        (&["x-set"], &["authorization", "x-set"]),
        (&["x-set", "authorization"], &["x-set"]),
    ] {
        assert_eq!(set(POLICY, "GET", "/", own).unwrap(), expected, "{own:?}");
    }
}

#[test]
fn a_secret_goes_along_with_the_requests_of_its_grant_alone() {
    let with = |rule: &str| {
        format!(
            "allow: {{a.test: [{{{rule}, transform: [{{headers: {{x: '${{secrets.KEY}}'}}}}]}}]}}\n\
             secrets: {{KEY: {{env: KEY, methods: [GET, PUT], paths: [/a/**, /b]}}}}"
        )
    };
    for rule in ["match: {method: [GET], path: {startsWith: /a/}}", "match: {method: [PUT], path: {exact: /b}}"] {
        assert_eq!(set(&with(rule), "POST", "/a/x", &[]), Ok(vec![]), "{rule}");
    }
    let first = with("match: {method: [GET], path: {startsWith: /a/}}");
    assert_eq!(set(&first, "GET", "/a/x", &[]), Ok(vec!["x".to_owned()]));
    assert_eq!(set(&first, "GET", "/a/%2e%2e/c", &[]), Err(DenyReason::AmbiguousPath));
    for rule in [
        "match: {method: [GET]}",
        "match: {method: [GET, POST], path: {exact: /b}}",
        "match: {path: {exact: /b}}",
        "match: {method: [GET], path: {startsWith: /}}",
        "match: {method: [GET], path: {exact: /bc}}",
    ] {
        let text = with(rule);
        let compiled =
            Policy::compile(Some(Source { path: "p.yaml", text: &text }), &Flags::default(), &Terms::default());
        let report = compiled.unwrap_err().to_string();
        assert!(report.contains("the secret `KEY` may not go along with every request"), "{rule}: {report}");
    }
}

#[test]
fn a_rule_signs_where_its_secrets_may_go_and_sends_none() {
    const POLICY: &str = "
allow:
  a.test: [{sign: {aws: {accessKey: ID, secretKey: KEY}}}]
  b.test: [{}]
secrets:
  ID: {env: I, to: [a.test, b.test]}
  KEY: {env: K, to: [a.test, b.test]}
placeholders: {AWS_ACCESS_KEY_ID: ID, AWS_SECRET_ACCESS_KEY: KEY}
";
    let policy = policy(POLICY);
    for (request, verdict) in [
        ("GET https://a.test/", "forward a.test:443 signed with ID,KEY by p.yaml:3"),
        ("GET http://a.test/", "deny plaintext-injection by p.yaml:3"),
        ("GET https://b.test/", "forward b.test:443 by p.yaml:4"),
    ] {
        assert_eq!(asked(&policy, request), verdict, "{request}");
    }
    assert_eq!(policy.stand_ins().filter(|stand_in| !stand_in.headers().is_empty()).count(), 0);
    let names: Vec<&str> = policy.secrets().map(SecretName::as_str).collect();
    assert!(names.contains(&"ID") && names.contains(&"KEY"), "{names:?}");
}

#[test]
fn a_path_whose_readings_meet_different_rules_is_refused() {
    let policy = policy(RULES);
    for path in [
        "/public/../secret/x",
        "/public/%2e%2e/secret/x",
        "/other/../public/x",
        "/public%2fx",
        "//public/x",
        "/public;a/x",
        "/public/..\\secret/",
        "/secret/x/../../other",
        "/public/x%00",
    ] {
        let verdict = asked(&policy, &format!("GET https://api.test{path}"));
        assert_eq!(verdict, "deny ambiguous-path by p.yaml:2", "{path}");
    }
    for path in ["/public/a%2fb", "/public/./x", "/other%20x", "/public/caf%C3%A9"] {
        assert!(asked(&policy, &format!("GET https://api.test{path}")).starts_with("forward"), "{path}");
    }
    assert!(asked(&policy, "GET https://plain.test/a/../b").starts_with("forward"), "no rule reads the path");
}

#[test]
fn a_transform_in_clear_is_refused_and_nothing_else_is() {
    let policy = policy(RULES);
    for (request, verdict) in [
        ("GET http://api.test/public/x", "deny plaintext-injection by p.yaml:3"),
        ("GET http://plain.test/", "deny plaintext-injection by p.yaml:9"),
        ("POST http://api.test/public/x", "forward api.test:80 by p.yaml:5"),
        ("GET http://api.test/secret/x", "respond 403 Forbidden by p.yaml:6"),
    ] {
        assert_eq!(asked(&policy, request), verdict, "{request}");
    }
}

#[test]
fn a_secret_goes_to_port_443_alone() {
    let policy = policy(RULES);
    let at = Some("198.51.100.7:8443");
    assert_eq!(asked_at(&policy, "GET https://api.test/public/x", at), "deny secret-unavailable by p.yaml:3");
    assert_eq!(asked_at(&policy, "POST https://api.test/public/x", at), "forward api.test:8443 by p.yaml:5");
    assert_eq!(asked_at(&policy, "GET https://plain.test/", at), "forward plain.test:8443 with x-plain by p.yaml:9");
}

#[test]
fn a_secret_goes_to_the_ports_of_its_grant_alone() {
    let policy = policy(
        "secrets: { KEY: { env: KEY, ports: [8443, 9443] } }\n\
         allow: { api.test: [{ transform: [{ headers: { x-key: '${secrets.KEY}' } }] }] }\n",
    );
    let asked = |dst| asked_at(&policy, "GET https://api.test/", Some(dst));
    for dst in ["198.51.100.7:8443", "198.51.100.7:9443"] {
        assert!(asked(dst).starts_with("forward api.test:"), "{dst}: {}", asked(dst));
    }
    assert!(asked("198.51.100.7:443").starts_with("deny secret-unavailable"), "443 is not among them");
}

#[test]
fn a_request_is_judged_by_its_address_too() {
    let policy = policy(EVERYTHING);
    let asked = |request, dst| asked_at(&policy, request, Some(dst));
    assert_eq!(asked("GET https://allowed.test/", "1.9.0.1:443"), "deny denied-cidr by p.yaml:8");
    assert_eq!(asked("GET https://other.test/", "1.9.0.1:443"), "deny denied-cidr by p.yaml:8");
    assert_eq!(asked("GET https://other.test/", "192.168.9.1:443"), "deny denied-cidr by p.yaml:8");
    assert_eq!(asked("GET https://allowed.test/", "127.0.0.1:443"), "deny protected-range");
    assert_eq!(asked("GET http://denied.test/", "198.51.100.1:80"), "forward 198.51.100.1:80 by p.yaml:7");
    assert_eq!(asked("GET https://denied.test/", "198.51.100.1:443"), "deny denied-domain by p.yaml:5");
    assert_eq!(asked("GET http://1.1.1.1/", "1.1.1.1:80"), "deny no-name");
}

fn permit_for(policy: &Policy, dst: &str, seen: Seen) -> Permit {
    match policy.decide(&flow(dst, seen), &host()) {
        Verdict::Allow(Route::Splice(permit) | Route::Relay(permit)) => permit,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_address_is_vetted_before_it_is_dialled() {
    let policy = policy(EVERYTHING);
    let by_name = permit_for(&policy, "1.1.1.1:8443", tls("allowed.test"));
    let vetted = |answer: &str, permit: &Permit| match policy.vet(answer.parse().unwrap(), permit, &host()) {
        Verdict::Allow(dial) => dial.addr().to_string(),
        Verdict::Deny(denial) => denied(&denial),
    };
    for (answer, verdict) in [
        ("93.184.216.34:8443", "93.184.216.34:8443"),
        ("93.184.216.34:9", "93.184.216.34:9"), // as `--resolve` says
        ("10.0.0.1:8443", "10.0.0.1:8443"),     // the policy opened it
        ("10.9.0.1:8443", "deny denied-cidr by p.yaml:8"),
        ("[64:ff9b::109:1]:8443", "deny denied-cidr by p.yaml:8"),
        ("192.168.0.1:8443", "deny protected-range"),
        ("203.0.113.9:8443", "deny protected-range"),
        ("[::ffff:127.0.0.1]:8443", "deny protected-range"),
    ] {
        assert_eq!(vetted(answer, &by_name), verdict, "{answer}");
    }
    let by_address = permit_for(&policy, "10.1.0.1:5432", Seen::Unread);
    assert_eq!(vetted("10.1.0.1:5432", &by_address), "10.1.0.1:5432");
    for other in ["10.1.0.2:5432", "10.1.0.1:5433"] {
        assert_eq!(vetted(other, &by_address), "deny no-rule by p.yaml:7", "a permit by address is for that one");
    }
}

#[test]
fn names_are_resolved_as_dns_says() {
    let said = |text: &str, asked: &str| match policy(text).decide_name(&name(asked)) {
        Verdict::Allow(basis) => format!("allow{}", by(&basis)),
        Verdict::Deny(denial) => denied(&denial),
    };
    let lists = "allow: ['*.a.test']\ndeny: [x.a.test]\n";
    for (extra, asked, verdict) in [
        ("", "y.a.test", "allow by p.yaml:1"),
        ("", "x.a.test", "deny denied-domain by p.yaml:2"),
        ("", "b.test", "deny no-rule"),
        ("dns: any", "b.test", "allow"),
        ("dns: any", "x.a.test", "deny denied-domain by p.yaml:2"),
        ("dns: none", "y.a.test", "deny no-rule"),
        ("observe: true", "b.test", "allow"),
        ("observe: true", "x.a.test", "allow by p.yaml:2"),
    ] {
        assert_eq!(said(&format!("{lists}{extra}"), asked), verdict, "{extra} {asked}");
    }
    assert_eq!(said("mode: allow-all\ndeny: [x.test]", "b.test"), "allow");
    assert_eq!(said("mode: allow-all\ndeny: [x.test]", "x.test"), "deny denied-domain by p.yaml:2");
    assert_eq!(said("subnets: {allow: [10.0.0.0/8]}", "b.test"), "deny no-rule");
    assert_eq!(said("dns: any", "b.test"), "deny deny-all");
}

#[test]
fn observe_relaxes_six_reasons_and_injects_nothing() {
    let lists = policy(&format!("{EVERYTHING}observe: true\n"));
    for (dst, seen, verdict) in [
        ("1.9.0.1:443", tls("terminated.test"), "splice terminated.test:443 despite denied-cidr by p.yaml:8"),
        ("1.9.0.1:22", Seen::Opaque, "relay 1.9.0.1:22 despite denied-cidr by p.yaml:8"),
        ("1.1.1.1:443", tls("denied.test"), "splice denied.test:443 despite denied-domain by p.yaml:5"),
        ("1.1.1.1:443", tls("other.test"), "splice other.test:443 despite no-rule"),
        ("1.1.1.1:22", Seen::Opaque, "relay 1.1.1.1:22 despite no-name"),
        ("1.1.1.1:443", tls("allowed.test"), "splice allowed.test:443 by p.yaml:2"),
        ("1.1.1.1:80", Seen::Http(HttpVersion::Http1), "terminate"),
        ("10.1.0.1:22", Seen::Opaque, "relay 10.1.0.1:22 by p.yaml:7"),
        ("192.168.0.1:22", Seen::Opaque, "deny protected-range"),
        ("1.1.1.1:443", Seen::Opaque, "deny not-http"),
        ("1.9.0.1:443", Seen::Opaque, "deny not-http"),
        ("1.1.1.1:443", Seen::Unreadable(HelloFault::Malformed), "deny unreadable-hello"),
    ] {
        let shown = format!("{dst} {seen:?}");
        assert_eq!(decided(&lists, dst, seen), verdict, "{shown}");
    }
    assert_eq!(
        asked(&policy(&format!("{RULES}observe: true\n")), "GET https://api.test/secret/x"),
        "forward api.test:443 despite no-rule by p.yaml:6"
    );
    let rules = policy(&format!("{RULES}deny: [plain.test]\nobserve: true\n"));
    for (request, verdict) in [
        ("GET https://plain.test/", "forward plain.test:443 despite denied-domain by p.yaml:11"),
        ("GET https://api.test/public/x", "forward api.test:443 with authorization,x-plain by p.yaml:3"),
        ("GET http://api.test/public/x", "deny plaintext-injection by p.yaml:3"),
        ("GET https://api.test/public/../secret", "deny ambiguous-path by p.yaml:2"),
        ("GET http://1.2.3.4/", "forward 198.51.100.7:80 despite no-name"),
    ] {
        assert_eq!(asked(&rules, request), verdict, "{request}");
    }
    let nothing = policy("observe: true");
    assert_eq!(decided(&nothing, "1.1.1.1:443", tls("a.test")), "splice a.test:443 despite deny-all");
    assert_eq!(asked(&nothing, "GET http://a.test/"), "forward a.test:80 despite deny-all");
    let permit = permit_for(&lists, "1.1.1.1:443", tls("other.test"));
    assert!(matches!(lists.vet("1.9.0.1:443".parse().unwrap(), &permit, &host()), Verdict::Allow(_)));
    assert!(matches!(lists.vet("127.0.0.1:443".parse().unwrap(), &permit, &host()), Verdict::Deny(_)));
}

#[test]
fn flags_add_to_the_file_and_are_named_as_typed() {
    let flags = Flags {
        allow: vec!["*.flag.test".into()],
        allow_cidr: vec!["10.0.0.0/8".into()],
        deny_cidr: vec!["10.9.0.0/16".into()],
        ..Flags::default()
    };
    let policy = compiled("allow: [file.test]", &flags);
    assert_eq!(decided(&policy, "1.1.1.1:443", tls("file.test")), "splice file.test:443 by p.yaml:1");
    assert_eq!(decided(&policy, "1.1.1.1:443", tls("a.flag.test")), "splice a.flag.test:443 by --allow *.flag.test");
    assert_eq!(decided(&policy, "10.1.1.1:22", Seen::Opaque), "relay 10.1.1.1:22 by --allow-cidr 10.0.0.0/8");
    assert_eq!(decided(&policy, "10.9.1.1:22", Seen::Opaque), "deny denied-cidr by --deny-cidr 10.9.0.0/16");
    let mode = Flags { mode: Some("allow-all".into()), ..Flags::default() };
    let policy = Policy::compile(None, &mode, &Terms::default()).unwrap().policy;
    assert_eq!(decided(&policy, "1.1.1.1:443", tls("a.test")), "splice a.test:443 by --mode allow-all");
}

#[test]
fn equal_documents_have_equal_revisions_and_others_do_not() {
    let revision = |text: &str| policy(text).revision();
    assert_eq!(revision("allow: [a.test]"), revision("# comment\n{\"allow\": {\"A.test.\": []}, \"name\": \"x\"}"));
    let different = [
        "{}",
        "allow-all",
        "allow: [a.test]",
        "allow: [b.test]",
        "allow: {a.test: [{}]}",
        "deny: [a.test]\nallow: [b.test]",
        "allow: [a.test]\nstrict: true",
        "allow: [a.test]\nobserve: true",
        "allow: [a.test]\ndns: any",
        "allow: [a.test]\ndenials: terse",
        "subnets: {allow: [10.0.0.0/8]}",
        "allow: [a.test]\nsubnets: {deny: [10.0.0.0/8]}",
        "allow: {a.test: [{match: {path: {glob: /a*}}}]}",
        "allow: {a.test: [{match: {path: {regex: /a*}}}]}",
        "allow: {a.test: [{match: {path: {exact: /a*}}}]}",
        "allow: {a.test: [{response: {statusCode: 403}}]}",
        "allow: {a.test: [{response: {statusCode: 404}}]}",
        "allow: {a.test: [{transform: [{headers: {x: y}}]}]}",
    ];
    let revisions: std::collections::HashSet<_> = different.iter().map(|text| revision(text)).collect();
    assert_eq!(revisions.len(), different.len());
}

#[test]
fn the_same_document_of_an_author_who_may_open_less_is_another_policy() {
    let revision = |author: Author| {
        let source = Source { path: "p.yaml", text: "subnets: {allow: [10.0.0.0/8]}\ndns: names" };
        Policy::compile(Some(source), &Flags::default(), &Terms { author, ..Terms::default() })
            .unwrap()
            .policy
            .revision()
    };
    let control_plane = |ranges: &[&str]| Author::ControlPlane {
        openable: ranges.iter().map(|text| text.parse().unwrap()).collect(),
        secrets: BTreeMap::new(),
    };
    assert_eq!(revision(control_plane(&["10.0.0.0/8"])), revision(Author::Operator));
    assert_ne!(revision(control_plane(&[])), revision(Author::Operator));
}

/// The table of POLICY §7.
#[test]
fn every_reason_has_the_status_of_the_policy_page() {
    let table = [
        (
            "denied-cidr, protected-range, deny-all, denied-domain, no-rule, no-name, \
             ambiguous-path, plaintext-injection, not-http, placeholder-misdirected, signature-refused",
            Some(403),
        ),
        ("authority-mismatch", Some(421)),
        ("malformed-request", Some(400)),
        ("secret-unavailable, mint-budget", Some(503)),
        // Too large a head is 431, which the one who reads it says.
        ("limit", Some(429)),
        ("unreadable-hello, loop, revoked", None),
    ];
    let page: BTreeSet<(&str, Option<u16>)> =
        table.iter().flat_map(|(reasons, status)| reasons.split(", ").map(|reason| (reason, *status))).collect();
    let ours = DenyReason::ALL.map(|reason| (reason.as_str(), reason.status().map(|status| status.as_u16())));
    assert_eq!(page, BTreeSet::from(ours));
}

#[test]
fn a_hint_is_the_line_that_would_allow_it() {
    let denied = |reason| Denial { reason, basis: Basis { rule: None, revision: Revision([0; 32]) } };
    let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    for (reason, name_known, to, hint) in [
        (DenyReason::NoRule, true, address("1.1.1.1"), "--allow a.test"),
        (DenyReason::DenyAll, false, address("1.1.1.1"), "--allow-cidr 1.1.1.1/32"),
        (DenyReason::NoName, false, address("::ffff:1.1.1.1"), "--allow-cidr 1.1.1.1/32"),
        (DenyReason::ProtectedRange, true, address("10.0.0.5"), "--allow-cidr 10.0.0.5/32"),
        (DenyReason::ProtectedRange, false, address("169.254.169.254"), "--allow-protected 169.254.169.254/32"),
        (
            DenyReason::ProtectedRange,
            true,
            address("203.0.113.9"),
            "open the address of a.test: --allow-cidr if it is private, --allow-protected if not",
        ),
        (DenyReason::NotHttp, false, address("2001:db8::5"), "--allow-cidr 2001:db8::5/128"),
    ] {
        let known = name("a.test");
        assert_eq!(denied(reason).hint(name_known.then_some(&known), to), hint, "{reason}");
    }
    assert!(DenyReason::ALL.iter().all(|reason| !denied(*reason).hint(None, address("1.1.1.1")).is_empty()));
}

/// Documents made of these lines, and whether each observes.
fn any_policy() -> impl Strategy<Value = (Policy, bool)> {
    let heads = select(vec!["", "mode: allow-all\n"]);
    let allow = subsequence(vec!["a.test: []", "'*.a.test': [{}]", "b.*.test: []", "'*': []", "'*.test': []"], 0..=5);
    let deny = subsequence(vec!["a.test", "'*.b.test'", "x.a.test"], 0..=3);
    let opened = subsequence(vec!["10.0.0.0/8", "0.0.0.0/0", "'fd00::/8'", "127.0.0.0/8", "192.0.2.0/24"], 0..=5);
    let closed = subsequence(vec!["10.9.0.0/16", "1.1.1.0/24"], 0..=2);
    (heads, allow, deny, opened, closed, any::<(bool, bool)>()).prop_map(
        |(head, allow, deny, opened, closed, (strict, observe))| {
            let text = format!(
                "{head}allow: {{{}}}\ndeny: [{}]\nsubnets: {{allow: [{}], deny: [{}]}}\n\
                 strict: {strict}\nobserve: {observe}",
                allow.join(", "),
                deny.join(", "),
                opened.join(", "),
                closed.join(", "),
            );
            (policy(&text), observe)
        },
    )
}

const ADDRESSES: [&str; 12] = [
    "1.1.1.1",
    "8.8.8.8",
    "10.0.0.1",
    "10.9.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "192.0.2.1",
    "203.0.113.9",
    "fd00::1",
    "fd00:ec2::254",
    "::ffff:10.0.0.1",
    "64:ff9b::a9fe:a9fe",
];

fn any_flow() -> impl Strategy<Value = Flow> {
    let seen = select(vec![
        Seen::Unread,
        Seen::Opaque,
        Seen::Http(HttpVersion::Http1),
        Seen::Unreadable(HelloFault::Malformed),
        tls(""),
        tls("a.test"),
        tls("x.a.test"),
        tls("b.c.test"),
        tls("y.b.test"),
        tls("other.example"),
    ]);
    (select(ADDRESSES.to_vec()), select(vec![22, 80, 443, 8443]), seen).prop_map(|(address, port, seen)| {
        let dst = SocketAddr::new(address.parse().unwrap(), port);
        flow(&dst.to_string(), seen)
    })
}

proptest! {
    #[test]
    fn what_the_address_settles_stays_settled((policy, _) in any_policy(), flow in any_flow()) {
        if let Some(verdict) = policy.decide_address(&flow, &host()) {
            prop_assert_eq!(said(verdict), said(policy.decide(&flow, &host())));
        }
    }

    #[test]
    fn no_policy_lets_a_protected_or_block_address_be_dialled((policy, _) in any_policy(), flow in any_flow()) {
        let permit = match policy.decide(&flow, &host()) {
            Verdict::Allow(Route::Relay(permit) | Route::Splice(permit)) => permit,
            Verdict::Allow(Route::Terminate(_)) | Verdict::Deny(_) => return Ok(()),
        };
        if let (Target::Name(..), Seen::Tls(hello)) = (permit.target(), &flow.seen) {
            prop_assert_eq!(permit.target(), &Target::Name(hello.sni.clone().unwrap(), flow.dst.port()));
        }
        for address in ADDRESSES {
            let answer = SocketAddr::new(address.parse().unwrap(), flow.dst.port());
            if let Verdict::Allow(dial) = policy.vet(answer, &permit, &host()) {
                prop_assert!(!host().covers(dial.addr().ip(), &policy.opened));
                prop_assert!(!is_block(dial.addr().ip()));
                let covered = policy.subnets_deny.get_any_reading(dial.addr().ip()).is_some();
                prop_assert!(policy.observe() || !covered);
                if let Target::Address(only) = permit.target() {
                    prop_assert_eq!(unwrap(only.ip()), unwrap(answer.ip()));
                }
            }
        }
    }
}
