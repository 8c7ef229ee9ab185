//! What is a question, and what it comes to.

use super::*;
use crate::policy::tests::policy;

#[test]
fn a_target_is_kept_as_it_is_written() {
    for (method, url, path, query) in [
        ("GET", "https://a.test", "/", None),
        ("GET", "https://a.test?q", "/", Some("q")),
        ("post", "http://A.Test.:8080/x/../%2e;y//z?", "/x/../%2e;y//z", Some("")),
        ("GET", "https://a.test/caf\u{e9}?a=b?c", "/caf\u{e9}", Some("a=b?c")),
    ] {
        let question = Question::request(method, url).unwrap();
        let asked = question.asked.as_ref().unwrap();
        assert_eq!(
            (asked.method.as_str(), asked.path.as_str(), asked.query.as_deref()),
            (method, path, query),
            "{url}"
        );
        assert_eq!(question.name.as_ref().map(Domain::as_str), Some("a.test"));
        assert_eq!(question.to_string(), format!("{method} {url}"));
    }
}

#[test]
fn a_host_is_a_name_or_an_address_and_has_a_port() {
    for (target, name, address, port) in [
        ("a.test:22", Some("a.test"), None, 22),
        ("B\u{fc}cher.Test.:1", Some("xn--bcher-kva.test"), None, 1),
        ("10.1.2.3:65535", None, Some("10.1.2.3"), 65535),
        ("[2001:db8::2]:443", None, Some("2001:db8::2"), 443),
        ("[::ffff:10.0.0.1]:80", None, Some("::ffff:10.0.0.1"), 80),
    ] {
        let question = Question::connect(target).unwrap();
        assert_eq!(question.name.as_ref().map(Domain::as_str), name, "{target}");
        assert_eq!(question.address, address.map(|text| text.parse().unwrap()), "{target}");
        assert_eq!(question.port, port, "{target}");
    }
    let port = |url| Question::request("GET", url).unwrap().port;
    assert_eq!((port("http://[::1]/"), port("https://1.2.3.4/"), port("https://a.test:8443/")), (80, 443, 8443));
}

#[test]
fn what_no_client_sends_is_no_question() {
    use QuestionError as E;
    for (method, url, fault) in [
        ("G T", "https://a.test/", E::Method),
        ("", "https://a.test/", E::Method),
        ("CONNECT", "https://a.test/", E::Connect),
        ("GET", "a.test", E::Scheme),
        ("GET", "ftp://a.test/", E::Scheme),
        ("GET", "HTTPS://a.test/", E::Scheme),
        ("GET", "https://a.test/#top", E::Fragment),
        ("GET", "https://a.test/a b", E::Space),
        ("GET", "https://a.test/\r\nx: y", E::Space),
        ("GET", "https://me@a.test/", E::UserInfo),
        ("GET", "https:///x", E::Host(DomainError::Empty)),
        ("GET", "https://0x7f.1/", E::Host(DomainError::IpLiteral)),
        ("GET", "https://a.test:+443/", E::Port),
        ("GET", "https://a.test:/", E::Port),
        ("GET", "https://a.test:0/", E::Port),
        ("GET", "https://[a.test]/", E::Brackets),
        ("GET", "https://[::1/", E::Brackets),
        ("GET", "https://::1/", E::Brackets),
    ] {
        assert_eq!(Question::request(method, url).err(), Some(fault), "{method} {url}");
    }
    for (target, fault) in [
        ("a.test", E::NoPort),
        ("[::1]", E::NoPort),
        ("a.test:http", E::Port),
        ("a.test:65536", E::Port),
        ("::1:443", E::Brackets),
        ("https://a.test:443", E::Url),
    ] {
        assert_eq!(Question::connect(target).err(), Some(fault), "{target}");
    }
    let flow = Question::connect("a.test:22").unwrap();
    assert_eq!(flow.header("x", "y").err(), Some(E::HeaderWithoutRequest));
    let request = || Question::request("GET", "https://10.0.0.1/").unwrap();
    let target = |method, text| Question::target(method, text).map(|question| question.to_string());
    assert_eq!(target(None, "https://a.test/"), Ok("GET https://a.test/".to_owned()));
    assert_eq!(target(None, "a.test:22"), Ok("a.test:22".to_owned()));
    assert_eq!(target(Some("PUT"), "https://a.test/"), Ok("PUT https://a.test/".to_owned()));
    assert_eq!(target(Some("PUT"), "a.test:22"), Err(E::Scheme));
    assert_eq!(request().header("x y", "z").err(), Some(E::HeaderName));
    assert_eq!(request().header("x", "y\nz").err(), Some(E::HeaderValue));
    assert_eq!(request().resolved_to(IpAddr::V4(Ipv4Addr::LOCALHOST)).err(), Some(E::TwoAddresses));
}

/// A question in one line: `GET URL` or `HOST:PORT`, then `@ADDRESS` and headers as `name: value`.
pub(in crate::policy) fn question(text: &str) -> Question {
    let mut words = text.split(" | ");
    let target = words.next().unwrap();
    let question = match target.split_once(' ') {
        Some((method, url)) => Question::request(method, url).unwrap(),
        None => Question::connect(target).unwrap(),
    };
    words.fold(question, |question, word| match (word.strip_prefix('@'), word.split_once(": ")) {
        (Some(address), _) => question.resolved_to(address.parse().unwrap()).unwrap(),
        (None, Some((name, value))) => question.header(name, value).unwrap(),
        (None, None) => panic!("{word}"),
    })
}

/// What it comes to: `allow terminate by p.yaml:2 for a.test with x-a`, `deny no-rule, splice`.
fn said(policy: &Policy, text: &str) -> String {
    let facts = policy.judge(&question(text), &Protected::new(["203.0.113.9".parse().unwrap()]));
    let reason = facts.reason().map(|reason| format!(" {reason}")).unwrap_or_default();
    let route = facts.outcome.map(|route| format!(" {}", route.as_str())).unwrap_or_default();
    let rule = facts.basis.rule.as_ref().map(|rule| format!(" by {rule}")).unwrap_or_default();
    let injected = facts.injected.iter().map(|name| format!(" with {name}")).collect::<String>();
    let status = facts.status.map(|status| format!(" {}", status.as_u16())).unwrap_or_default();
    format!("{}{reason}{route}{status}{rule}{injected}", facts.verdict())
}

#[test]
fn a_question_goes_the_way_of_a_connection() {
    let lists = policy(
        "allow:\n  a.test: [{match: {headers: [{key: {exact: x-kind}}]}, response: {statusCode: 404}}, {}]\n  \
         b.test: []\n  ssh.test: [{opaque: {ports: [22]}}]\n  \
         key.test: [{transform: [{headers: {X-A: b}}]}]\n  \
         far.test: [{forwardURL: 'https://b.test/'}]\n\
         deny: [no.test]\nsubnets:\n  allow: [10.1.0.0/16]\n  deny: [10.1.9.0/24, 9.9.9.9/32]\n",
    );
    for (text, verdict) in [
        // The name, before anything else: what is never resolved is never dialled.
        ("GET https://no.test/", "deny denied-domain 403 by p.yaml:7"),
        ("GET https://no.test/ | @10.1.0.1", "deny denied-domain 403 by p.yaml:7"),
        ("GET https://c.test/ | @9.9.9.9", "deny no-rule 403"),
        ("c.test:22", "deny no-rule"),
        // What it resolves to, dialled.
        ("GET https://b.test/ | @9.9.9.9", "deny denied-cidr 403 by p.yaml:10"),
        ("GET https://b.test/ | @10.2.0.1", "deny protected-range 403"),
        ("GET https://b.test/ | @203.0.113.9", "deny protected-range 403"),
        ("GET https://a.test/ | @10.1.0.1", "allow relay by p.yaml:9"),
        ("GET https://b.test/ | @1.1.1.1", "allow splice by p.yaml:3"),
        // An address, named by nobody.
        ("GET https://9.9.9.9/", "deny denied-cidr by p.yaml:10"),
        ("GET https://1.1.1.1/", "deny no-name"),
        ("GET http://1.1.1.1/", "deny no-name 403"),
        ("GET https://10.1.0.1/", "allow relay by p.yaml:9"),
        ("10.1.0.1:22", "allow relay by p.yaml:9"),
        ("1.1.1.1:22", "deny no-name"),
        // Another protocol, by the name that its address was answered for.
        ("ssh.test:22", "allow relay by p.yaml:4"),
        ("ssh.test:22 | @1.1.1.1", "allow relay by p.yaml:4"),
        ("ssh.test:22 | @10.2.0.1", "deny protected-range"),
        ("ssh.test:23", "deny no-name"),
        ("b.test:443", "deny not-http"),
        // Our own resolver.
        ("b.test:53", "allow respond"),
        ("10.1.9.1:53", "allow respond"),
        ("c.test:53", "deny no-rule"),
        // The request.
        ("GET https://a.test/", "allow terminate by p.yaml:2"),
        ("GET https://a.test/ | x-kind: y", "allow respond 404 by p.yaml:2"),
        ("GET https://key.test/", "allow terminate by p.yaml:5 with x-a"),
        ("GET http://key.test/", "deny plaintext-injection 403 by p.yaml:5"),
        ("GET https://far.test/ | @1.1.1.1", "allow forward by p.yaml:6"),
        ("GET http://b.test/", "allow terminate by p.yaml:3"),
        // Whom the request names.
        ("GET https://a.test/ | host: A.test:443", "allow terminate by p.yaml:2"),
        ("GET https://a.test/ | host: b.test", "deny authority-mismatch 421"),
        ("GET https://a.test/ | host: a.test:80", "deny authority-mismatch 421"),
        ("GET https://a.test/ | host: a b", "deny malformed-request 400"),
        ("GET https://a.test/ | host: a.test | host: a.test", "deny malformed-request 400"),
        ("GET https://b.test/ | host: c.test", "allow splice by p.yaml:3"),
        ("GET http://b.test/ | host: c.test", "deny no-rule 403"),
        ("GET http://b.test/ | host: key.test", "deny plaintext-injection 403 by p.yaml:5"),
        ("GET http://b.test/ | host: 1.1.1.1", "deny no-name 403"),
        ("GET http://1.1.1.1/ | host: b.test", "allow terminate by p.yaml:3"),
        // The block address stands for what was refused.
        ("GET https://b.test/ | @192.0.2.1", "deny no-rule 403"),
        ("GET https://192.0.2.1/", "deny no-name"),
    ] {
        assert_eq!(said(&lists, text), verdict, "{text}");
    }
}

#[test]
fn without_an_address_no_range_decides() {
    let everywhere = policy("allow: [a.test]\nsubnets: {allow: [0.0.0.0/0, '::/0']}\ndns: any");
    assert_eq!(said(&everywhere, "GET https://a.test/"), "allow splice by p.yaml:1");
    assert_eq!(said(&everywhere, "GET http://b.test/"), "deny no-rule 403");
    assert_eq!(said(&everywhere, "GET http://b.test/ | @1.1.1.1"), "allow relay by p.yaml:2");
    let nowhere = policy("allow: [a.test]\nsubnets: {deny: [0.0.0.0/0, '::/0']}");
    assert_eq!(said(&nowhere, "GET https://a.test/"), "allow splice by p.yaml:1");
    assert_eq!(said(&nowhere, "GET https://a.test/ | @1.1.1.1"), "deny denied-cidr 403 by p.yaml:2");
}

#[test]
fn a_refusal_has_the_status_that_a_client_sees() {
    let terse = policy("allow: {a.test: [{}], b.test: []}\nsubnets: {deny: [9.9.9.9/32]}\ndenials: terse");
    for (text, verdict) in [
        ("GET https://c.test/", "deny no-rule"),
        ("GET http://c.test/", "deny no-rule"),
        ("GET https://b.test/ | @9.9.9.9", "deny denied-cidr by p.yaml:2"),
        ("GET http://b.test/ | @9.9.9.9", "deny denied-cidr 403 by p.yaml:2"),
        ("GET https://a.test/ | host: x.test", "deny authority-mismatch 421"),
    ] {
        assert_eq!(said(&terse, text), verdict, "{text}");
    }
}

#[test]
fn what_is_observed_is_denied_and_goes_its_way() {
    let observed = policy(
        "allow: {a.test: [{match: {method: [PUT]}, response: {statusCode: 404}}, {transform: [{headers: {x: y}}]}]}\n\
         deny: [d.test]\nsubnets: {deny: [9.9.9.9/32]}\nobserve: true",
    );
    for (text, verdict) in [
        ("GET https://c.test/", "deny no-rule splice"),
        ("GET http://d.test/", "deny denied-domain terminate by p.yaml:2"),
        ("GET https://a.test/ | @9.9.9.9", "deny denied-cidr splice by p.yaml:3"),
        ("GET https://a.test/ | @127.0.0.1", "deny protected-range 403"),
        ("GET https://a.test/", "allow terminate by p.yaml:1 with x"),
        ("GET http://a.test/", "deny plaintext-injection 403 by p.yaml:1"),
        ("PUT https://a.test/", "deny no-rule terminate by p.yaml:1"),
        ("1.1.1.1:22", "deny no-name relay"),
        ("c.test:22", "deny no-name relay"),
        ("c.test:443", "deny not-http"),
    ] {
        assert_eq!(said(&observed, text), verdict, "{text}");
    }
    let nothing = policy("observe: true");
    assert_eq!(said(&nothing, "GET http://d.test/"), "deny deny-all terminate");
    let nothing = policy("mode: deny-all");
    assert_eq!(said(&nothing, "GET http://d.test/"), "deny deny-all 403 by p.yaml:1");
    assert_eq!(said(&nothing, "d.test:22"), "deny deny-all by p.yaml:1");
}

#[test]
fn facts_say_what_was_asked() {
    let policy = policy("allow: [a.test, b.test]");
    let facts = |text| policy.judge(&question(text), &Protected::new([]));
    let asked = facts("GET http://a.test/x?y | host: b.test");
    assert_eq!(asked.request, Some(("GET".into(), "/x".into())));
    assert_eq!((asked.name.as_ref().map(Domain::as_str), asked.address, asked.port), (Some("b.test"), None, 80));
    let flow = facts("a.test:22 | @1.1.1.1");
    assert_eq!((flow.name.as_ref().map(Domain::as_str), flow.port, flow.request), (Some("a.test"), 22, None));
    assert_eq!(flow.address, Some("1.1.1.1".parse().unwrap()));
}
