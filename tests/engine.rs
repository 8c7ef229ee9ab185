//! Judging allocates nothing: counted, in a test binary of its own, for the counting allocator is the whole program's.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};

use allocation_counter::measure;
use exeat::flow::{ClientAddr, Domain, Flow, FlowId, Hello, OriginalDst, RequestHead, SandboxId, Scheme, Seen};
use exeat::matcher::cidr::{self, CidrMap};
use exeat::matcher::domain::{DomainMap, DomainPattern};
use exeat::policy::verdict::{Action, Route, Verdict};
use exeat::policy::{Flags, Policy, Protected, Source, Terms};
use http::HeaderMap;

#[track_caller]
fn allocates_nothing<T>(what: &str, act: impl Fn() -> T) {
    assert_eq!(measure(|| drop(black_box(act()))).count_total, 0, "{what}");
}

#[test]
fn an_allocation_would_be_counted() {
    assert_eq!(measure(|| drop(black_box(Box::new(1)))).count_total, 1);
}

#[test]
fn finding_a_name_allocates_nothing() {
    let mut map = DomainMap::default();
    for n in 0..1000 {
        for text in [format!("n{n}.test"), format!("*.w{n}.test"), format!("a{n}.*.test"), format!("*.b{n}.*.test")] {
            map.insert(DomainPattern::parse(&text).expect("a pattern"), n).expect("room");
        }
    }
    map.insert(DomainPattern::parse("*").expect("a pattern"), 1000).expect("room");
    let deep = format!("{}test", "a.".repeat(120));
    for (text, value) in [
        ("n7.test", 7),
        ("x.w8.test", 8),
        ("a9.x.test", 9),
        ("x.b10.x.test", 10),
        ("other.example", 1000),
        (&deep, 1000),
    ] {
        let name = Domain::parse(text).expect("a name");
        assert_eq!(map.get(&name), Some(&value), "{text}");
        allocates_nothing(text, || map.get(&name));
    }
    allocates_nothing("any", || map.any());
}

#[test]
fn finding_an_address_allocates_nothing() {
    let mut map = CidrMap::default();
    for text in ["10.0.0.0/8", "10.1.0.0/16", "fd00::/8", "::/0", "192.0.2.0/24"] {
        map.insert(cidr::parse(text).expect("a range"), ()).expect("room");
    }
    let range = cidr::parse("10.1.2.0/24").expect("a range");
    for text in ["10.1.2.3", "8.8.8.8", "fd00::1", "::ffff:10.1.2.3", "64:ff9b:1::a01:203", "2001:0:102:304::1"] {
        let address: IpAddr = text.parse().expect("an address");
        allocates_nothing(text, || (map.get(address), map.get_unwrapped(address), map.get_any_reading(address)));
    }
    allocates_nothing("covering", || map.covering(range));
}

const POLICY: &str = r#"
allow:
  spliced.test: []
  "*.below.test": []
  terminated.test:
    - match: { method: [GET], path: { startsWith: /a/ }, queryString: [{ key: { exact: q } }] }
    - match: { method: [GET], headers: [{ key: { exact: x-kind }, value: { startsWith: read } }] }
      transform: [{ headers: { authorization: "Bearer ${secrets.TOKEN}" } }]
    - response: { statusCode: 403 }
deny: ["denied.below.test"]
subnets: { allow: [10.1.0.0/16], deny: [10.1.2.0/24] }
secrets: { TOKEN: { env: TOKEN } }
"#;

fn flow(dst: &str, seen: Seen) -> Flow {
    let client = ClientAddr(SocketAddr::from(([127, 0, 0, 1], 1)));
    let sandbox = SandboxId::new("engine").expect("an id");
    Flow {
        id: FlowId(1),
        sandbox,
        client,
        dst: OriginalDst(dst.parse().expect("an address")),
        seen,
        pinned: Vec::new(),
    }
}

#[test]
fn judging_allocates_nothing() {
    let source = Source { path: "engine.yaml", text: POLICY };
    let policy = Policy::compile(Some(source), &Flags::default(), &Terms::default()).expect("a policy").policy;
    let host = Protected::new(["203.0.113.1".parse().expect("an address")]);
    for (dst, name, allowed) in [
        ("198.51.100.1:443", Some("spliced.test"), true),
        ("198.51.100.1:443", Some("a.below.test"), true),
        ("198.51.100.1:443", Some("terminated.test"), true),
        ("198.51.100.1:443", Some("denied.below.test"), false),
        ("198.51.100.1:443", Some("other.test"), false),
        ("198.51.100.1:443", None, false),
        ("10.1.1.1:443", None, true),
        ("10.1.2.1:443", None, false),
        ("203.0.113.1:443", Some("spliced.test"), false),
        ("[64:ff9b::a01:201]:443", None, false),
    ] {
        let name = name.map(|name| Domain::parse(name).expect("a name"));
        let flow = flow(dst, Seen::Tls(Hello { sni: name.clone(), alpn: Vec::new(), ech: false }));
        let judged = policy.decide(&flow, &host);
        assert_eq!(matches!(judged, Verdict::Allow(_)), allowed, "{dst} {name:?}: {judged:?}");
        allocates_nothing(dst, || policy.decide(&flow, &host));
        allocates_nothing(dst, || policy.decide_address(&flow, &host));
        if let Some(name) = name {
            allocates_nothing(dst, || policy.decide_name(&name));
        }
        if let Verdict::Allow(Route::Splice(permit) | Route::Relay(permit)) = judged {
            allocates_nothing(dst, || policy.vet(flow.dst.0, &permit, &host));
        }
    }
}

#[test]
fn judging_a_request_allocates_nothing() {
    let source = Source { path: "engine.yaml", text: POLICY };
    let policy = Policy::compile(Some(source), &Flags::default(), &Terms::default()).expect("a policy").policy;
    let host = Protected::new([]);
    let name = Domain::parse("terminated.test").expect("a name");
    let mut read = HeaderMap::new();
    read.insert("x-kind", http::HeaderValue::from_static("read-only"));
    for (method, query, headers, injected) in [
        ("GET", Some("p=1&q=2"), &HeaderMap::new(), Some(0)),
        ("GET", Some("p=1"), &read, Some(1)),
        ("POST", None, &read, None),
    ] {
        let head = RequestHead {
            scheme: Scheme::Https,
            authority: Some(&name),
            dst: OriginalDst("198.51.100.1:443".parse().expect("an address")),
            method,
            path: "/a/b",
            query,
            headers,
        };
        let action = match policy.decide_request(&head, &host) {
            Verdict::Allow(action) => action,
            Verdict::Deny(denial) => panic!("{method} {query:?}: {denial:?}"),
        };
        let injections = match action {
            Action::Forward(permit) => Some(permit.injections().len()),
            Action::Respond(..) | Action::Divert(..) => None,
        };
        assert_eq!(injections, injected, "{method} {query:?}");
        allocates_nothing(method, || policy.decide_request(&head, &host));
    }
}
