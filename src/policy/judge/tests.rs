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
    assert_eq!(request().header("x y", "z").err(), Some(E::HeaderName));
    assert_eq!(request().header("x", "y\nz").err(), Some(E::HeaderValue));
    assert_eq!(request().resolved_to(SOMEWHERE).err(), Some(E::TwoAddresses));
}

#[test]
fn facts_are_those_of_the_audit_record() {
    let policy = policy(
        "allow: {a.test: [{match: {headers: [{key: {exact: x-kind}}]}, response: {statusCode: 404}}, {}], b.test: []}\n\
         observe: true",
    );
    let facts = |question: Question| policy.judge(&question, &Protected::new([]));
    let asked = facts(Question::request("GET", "https://a.test/x?y").unwrap());
    assert_eq!((asked.verdict(), asked.outcome), ("allow", Ok(RouteTaken::Terminate)));
    assert_eq!(asked.request, Some(("GET".into(), "/x".into())));
    assert_eq!((asked.name.as_ref().map(Domain::as_str), asked.address, asked.port), (Some("a.test"), None, 443));
    let spliced = facts(Question::request("GET", "https://b.test/").unwrap());
    assert_eq!((spliced.verdict(), spliced.outcome), ("allow", Ok(RouteTaken::Splice)));
    let observed = facts(Question::request("GET", "https://c.test/").unwrap());
    assert_eq!((observed.verdict(), observed.reason()), ("deny", Some(DenyReason::NoRule)));
    assert_eq!(observed.outcome, Ok(RouteTaken::Splice));
}
