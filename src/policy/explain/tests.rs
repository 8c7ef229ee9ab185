//! Of every question: that the steps lead where the engine does, and that what is said to allow it does.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::flow::{Domain, Hello, HttpVersion, Scheme, Seen};
use crate::policy::judge::Asked;
use crate::policy::judge::tests::question;
use crate::policy::tests::{flow, policy};
use crate::policy::verdict::{Action, Denial, Permit, Route, Verdict};
use crate::policy::{Compiled, Flags, Source, Terms};

/// A document that can be edited.
#[derive(Debug, Clone)]
struct Draft {
    mode: Option<&'static str>,
    /// Patterns and their rules, one a line.
    allow: Vec<(String, Vec<String>)>,
    deny: Vec<String>,
    opened: Vec<String>,
    closed: Vec<String>,
    /// `strict`, `observe`, `dns`.
    rest: Vec<(&'static str, &'static str)>,
}

impl Draft {
    fn text(&self) -> String {
        let Self { mode, allow, deny, opened, closed, rest } = self;
        let mut text = String::new();
        let mut line = |words: String| text.push_str(&format!("{words}\n"));
        if let Some(mode) = mode {
            line(format!("mode: {mode}"));
        }
        line(if allow.is_empty() { "allow: {}".into() } else { "allow:".into() });
        for (pattern, rules) in allow {
            line(if rules.is_empty() { format!("  '{pattern}': []") } else { format!("  '{pattern}':") });
            rules.iter().for_each(|rule| line(format!("    - {rule}")));
        }
        let mut list = |key: &str, items: &[String]| {
            line(if items.is_empty() { format!("{key}: []") } else { format!("{key}:") });
            let indent = key.len() - key.trim_start().len();
            items.iter().for_each(|item| line(format!("{}- '{item}'", " ".repeat(indent + 2))));
        };
        list("deny", deny);
        list("subnets:\n  allow", opened);
        list("  deny", closed);
        for (key, value) in rest {
            line(format!("{key}: {value}"));
        }
        // A mode of deny-all stands alone.
        if *mode == Some("deny-all") {
            text = "mode: deny-all\n".to_owned();
            text.extend(
                rest.iter().filter(|(key, _)| *key == "observe").map(|(key, value)| format!("{key}: {value}\n")),
            );
        } else if text.contains("secrets.") || text.contains("key: KEY") {
            text.push_str("secrets: {KEY: {env: KEY}}\n");
        }
        text
    }

    fn compile(&self) -> Policy {
        let text = self.text();
        let source = Source { path: "p.yaml", text: &text };
        let compiled = Policy::compile(Some(source), &Flags::default(), &Terms::default());
        let Compiled { policy, .. } = compiled.unwrap_or_else(|faults| panic!("{faults}\n{text}"));
        policy
    }

    /// Follows a remedy, as an editor of the file would.
    fn follow(&mut self, remedy: &Remedy, host: Protected) -> Protected {
        let place = |list: &mut Vec<String>, text: String| {
            let before = list.len();
            list.retain(|item| *item != text);
            assert_eq!(list.len(), before - 1, "`{text}` stands there once");
        };
        match remedy {
            Remedy::AllowName { name, keyed } => {
                assert!(*keyed || self.allow.iter().all(|(_, rules)| rules.is_empty()));
                self.allow.push((name.to_string(), Vec::new()));
            }
            Remedy::AllowRange(range) => self.opened.push(range.to_string()),
            Remedy::AllowOpaque { name, port, entry } => {
                let rule = format!("opaque: {{ports: [{port}]}}");
                match entry {
                    None => self.allow.push((name.to_string(), vec![rule])),
                    Some((pattern, _)) => {
                        let found = self.allow.iter_mut().find(|(other, _)| *other == pattern.to_string());
                        found.expect("an entry that is there").1.push(rule);
                    }
                }
            }
            Remedy::TakeName { pattern, .. } => place(&mut self.deny, pattern.as_ref().unwrap().to_string()),
            Remedy::TakeRange { range, .. } => place(&mut self.closed, range.unwrap().to_string()),
            Remedy::TakeMode(_) => {
                // What stood beside it was not written.
                let rest = self.rest.iter().copied().filter(|(key, _)| *key == "observe").collect();
                *self = Self { mode: None, allow: vec![], deny: vec![], opened: vec![], closed: vec![], rest };
            }
            Remedy::ResolveNames => self.rest.retain(|(key, _)| *key != "dns"),
            Remedy::Enforce => self.rest.retain(|(key, _)| *key != "observe"),
            Remedy::AllowProtected(range) => return host.without(*range),
            Remedy::OpenAddressOf(_) | Remedy::Client(_) => panic!("{remedy:?} is no edit"),
        }
        host
    }
}

const RULES: [&[&str]; 10] = [
    &[],
    &[],
    &[],
    &["{}"],
    &["match: {method: [GET]}\n      transform: [{headers: {x-a: y}}]", "response: {statusCode: 403}"],
    &[
        "match: {path: {startsWith: /pub/}}\n      transform: [{headers: {x-a: '${secrets.KEY}'}}]",
        "match: {path: {startsWith: /sec/}}\n      response: {statusCode: 404}",
        "match: {headers: [{key: {exact: host}}]}",
    ],
    &["opaque: {ports: [22]}"],
    &["opaque: {ports: [22]}", "match: {queryString: [{key: {exact: q}}]}\n      response: {statusCode: 200}"],
    &["forwardURL: 'https://far.example/'"],
    &["sign: {hmac: {key: KEY, header: x-sign, over: '${path}'}}"],
];

fn any_draft() -> impl Strategy<Value = Draft> {
    let mode = prop_oneof![6 => Just(None), 2 => Just(Some("allow-all")), 1 => Just(Some("deny-all"))];
    let patterns = subsequence(vec!["a.test", "*.a.test", "b.*.test", "*", "y.b.test"], 0..=5);
    let rules = proptest::collection::vec(select(RULES.to_vec()), 5);
    let deny = subsequence(vec!["a.test", "*.b.test", "x.a.test", "*.a.test"], 0..=2);
    let opened = subsequence(
        vec!["10.0.0.0/8", "0.0.0.0/0", "fd00::/8", "127.0.0.0/8", "192.0.2.0/24", "10.9.0.0/16", "64:ff9b::/96"],
        0..=3,
    );
    let closed = subsequence(vec!["10.9.0.0/16", "1.1.1.0/24", "1.1.0.0/16"], 0..=2);
    let flags = (select(vec!["true", "false"]), prop_oneof![3 => Just("false"), 1 => Just("true")]);
    let dns = select(vec!["names", "names", "any", "none"]);
    (mode, patterns, rules, deny, opened, closed, flags, dns).prop_map(
        |(mode, patterns, rules, deny, opened, closed, (strict, observe), dns)| {
            let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
            let rules = rules.into_iter().map(|rules| owned(rules.to_vec()));
            Draft {
                mode,
                allow: patterns.into_iter().map(str::to_owned).zip(rules).collect(),
                deny: owned(deny),
                opened: owned(opened),
                closed: owned(closed),
                rest: vec![("strict", strict), ("observe", observe), ("dns", dns)],
            }
        },
    )
}

const ADDRESSES: [&str; 14] = [
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
    "64:ff9b::a00:1",
    "2001:0:a00:1:0:0:f5ff:fffe",
];

fn any_question() -> impl Strategy<Value = Question> {
    let names = ["a.test", "x.a.test", "b.c.test", "y.b.test", "other.example"];
    let literals = ADDRESSES.map(|text| if text.contains(':') { format!("[{text}]") } else { text.to_owned() });
    let target = prop_oneof![select(names.map(str::to_owned).to_vec()), select(literals.to_vec())];
    let scheme = select(vec![None, Some("http"), Some("https")]);
    let port = select(vec![None, None, Some(22), Some(53), Some(80), Some(443), Some(8443)]);
    let path = select(vec!["/", "/pub/x", "/pub/../sec/x", "/sec/x?q=1", "/other%2fx", "//pub/x"]);
    let method = select(vec!["GET", "POST"]);
    let host = select(vec![None, None, None, Some("a.test"), Some("y.b.test:443"), Some("1.1.1.1"), Some("a b")]);
    let address = proptest::option::of(select(ADDRESSES.to_vec()));
    (target, scheme, port, path, method, host, address).prop_map(
        |(target, scheme, port, path, method, host, address)| {
            let question = match scheme {
                None => Question::connect(&format!("{target}:{}", port.unwrap_or(22))),
                Some(scheme) => {
                    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                    Question::request(method, &format!("{scheme}://{target}{port}{path}"))
                }
            };
            let mut question = question.unwrap();
            if let (Some(host), true) = (host, question.asked.is_some()) {
                question = question.header("host", host).unwrap();
            }
            match address.filter(|_| question.name.is_some()) {
                Some(address) => question.resolved_to(address.parse().unwrap()).unwrap(),
                None => question,
            }
        },
    )
}

fn host() -> Protected {
    Protected::new(["203.0.113.9".parse().unwrap()])
}

/// An address in no range that a draft lists.
const NEUTRAL: &str = "93.184.216.34";

/// What the engine's own answers come to, asked one by one.
fn engine(policy: &Policy, question: &Question, host: &Protected) -> Settled {
    let denied = |Denial { reason, basis }| Settled { outcome: Err(reason), observed: None, rule: basis.rule };
    let permitted = |route, permit: &Permit, dialled: SocketAddr| match policy.vet(dialled, permit, host) {
        Verdict::Deny(denial) => denied(denial),
        Verdict::Allow(_) => {
            Settled { outcome: Ok(route), observed: permit.observed(), rule: permit.basis().rule.clone() }
        }
    };
    if let Some(name) = &question.name
        && let Verdict::Deny(denial) = policy.decide_name(name)
    {
        return denied(denial);
    }
    if question.port == 53 {
        return Settled { outcome: Ok(RouteTaken::Respond), observed: None, rule: None };
    }
    let dst = SocketAddr::new(question.address.unwrap_or(NEUTRAL.parse::<IpAddr>().unwrap()), question.port);
    let scheme = question.asked.as_ref().map(|asked| asked.scheme);
    let seen = match scheme {
        None => Seen::Opaque,
        Some(Scheme::Http) => Seen::Http(HttpVersion::Http2),
        Some(Scheme::Https) => Seen::Tls(Hello { sni: question.name.clone(), alpn: Vec::new(), ech: true }),
    };
    let mut flow = flow(&dst.to_string(), Seen::Unread);
    flow.pinned = question.name.iter().cloned().collect();
    let early = policy.decide_address(&flow, host);
    flow.seen = seen;
    let asked = match (early.unwrap_or_else(|| policy.decide(&flow, host)), &question.asked) {
        (Verdict::Deny(denial), _) => return denied(denial),
        (Verdict::Allow(Route::Relay(permit)), _) => return permitted(RouteTaken::Relay, &permit, dst),
        (Verdict::Allow(Route::Splice(permit)), _) => return permitted(RouteTaken::Splice, &permit, dst),
        (Verdict::Allow(Route::Terminate(_)), asked) => asked.as_ref().expect("opaque flows are not terminated"),
    };
    let authority = match named(question, asked) {
        Ok(authority) => authority,
        Err(reason) => return Settled { outcome: Err(reason), observed: None, rule: None },
    };
    let head = crate::flow::RequestHead {
        scheme: asked.scheme,
        authority: authority.as_ref(),
        dst: flow.dst,
        method: &asked.method,
        path: &asked.path,
        query: asked.query.as_deref(),
        headers: &asked.headers,
    };
    match policy.decide_request(&head, host) {
        Verdict::Deny(denial) => denied(denial),
        Verdict::Allow(Action::Forward(permit)) => permitted(RouteTaken::Terminate, &permit, dst),
        Verdict::Allow(Action::Respond(_, basis)) => {
            Settled { outcome: Ok(RouteTaken::Respond), observed: None, rule: basis.rule }
        }
        Verdict::Allow(Action::Divert(_, permit)) => {
            Settled { outcome: Ok(RouteTaken::Forward), observed: None, rule: permit.basis().rule.clone() }
        }
    }
}

/// Whom a `Host` of [`any_question`] names.
fn named(question: &Question, asked: &Asked) -> Result<Option<Domain>, DenyReason> {
    let Some(host) = asked.headers.get("host") else { return Ok(question.name.clone()) };
    let name = match host.to_str().unwrap() {
        "a b" => return Err(DenyReason::MalformedRequest),
        "y.b.test:443" if question.port != 443 => return Err(DenyReason::AuthorityMismatch),
        "1.1.1.1" => None,
        text => Some(Domain::parse(text.split(':').next().unwrap()).unwrap()),
    };
    let agrees = asked.scheme == Scheme::Http || (name.is_some() && name == question.name);
    if agrees { Ok(name) } else { Err(DenyReason::AuthorityMismatch) }
}

const POLICY: &str = "\
allow:
  api.example:
    - match: { method: [GET], path: { startsWith: /public/ } }
      transform: [{ headers: { Authorization: 'Bearer ${secrets.KEY}' } }]
    - match: { headers: [{ key: { exact: x-kind } }] }
      response: { statusCode: 404 }
  spliced.example: []
  ssh.example:
    - opaque: { ports: [22] }
deny: ['*.no.example', no.example]
subnets:
  allow: [10.1.0.0/16, 0.0.0.0/0]
  deny: [10.1.9.0/24]
secrets: { KEY: { env: KEY } }
";

/// The question, the steps that were asked, each with its line, its note and what it settles, and what would allow it.
/// The question is `GET URL` or `HOST:PORT`, then `@ADDRESS` and headers as `name: value`.
fn told(policy: &Policy, text: &str) -> Vec<String> {
    let explanation = policy.explain(&question(text), &host());
    let mut lines = vec![text.to_owned()];
    for Step { row, question: _, answer, rule, note, settles } in &explanation.steps {
        if *answer != Answer::NotAsked {
            let rule = rule.as_ref().map(|rule| format!(" {rule}")).unwrap_or_default();
            lines.push(format!("{row} {}{rule}", answer.as_str()));
            lines.extend(note.clone());
            lines.extend(settles.as_ref().map(|settles| format!("-> {settles}")));
        }
    }
    lines.extend(explanation.remedies.iter().map(|remedy| format!("=> {}", remedy.in_file())));
    lines
}

/// Compares with paragraphs of [`told`], however they are indented.
#[track_caller]
fn assert_told(policy: &Policy, paragraphs: &str) {
    for paragraph in paragraphs.trim().split("\n\n") {
        let lines: Vec<&str> = paragraph.lines().map(str::trim).collect();
        assert_eq!(told(policy, lines[0]), lines);
    }
}

#[test]
fn a_name_is_told_with_the_pattern_that_matches_it() {
    let text = "
        GET https://x.no.example/
        dns no p.yaml:10
          `*.no.example` in `deny`
          -> deny denied-domain
        => take `*.no.example` (p.yaml:10) out of `deny`
        => add `x.no.example: []` to `allow`

        GET https://other.example/
        dns no
          `allow` does not match it
          -> deny no-rule
        => add `other.example: []` to `allow`

        GET https://spliced.example/
        dns yes p.yaml:7
          `spliced.example`
        0 no
        3 no
        5 no
        6 yes p.yaml:7
          `spliced.example`, without rules: relayed unread
          -> allow splice

        GET http://other.example/ | @10.1.0.1
        dns no
          `allow` does not match it
          -> deny no-rule
        => add `other.example: []` to `allow`

        GET http://spliced.example/ | host: other.example
        dns yes p.yaml:7
          `spliced.example`
        0 no
        3 no
        authority no
          it says `other.example`
        5 no
        6 no
        9 yes
          -> deny no-rule
        => add `other.example: []` to `allow`";
    assert_told(&policy(POLICY), text);
    let listed = policy("allow: [a.test]");
    assert_told(
        &listed,
        "GET https://b.test/\ndns no\n`allow` does not match it\n-> deny no-rule\n=> add `b.test` to `allow`",
    );
    let special = "`a.test`; being special-use, it has no address unless `run --resolve` says one";
    assert_eq!(told(&listed, "GET https://a.test/")[2], special);
}

#[test]
fn a_request_is_told_with_the_rule_that_claims_it() {
    let before = "dns yes p.yaml:2\n`api.example`\n0 no\n3 no\n5 no\n6 yes p.yaml:2\n`api.example`";
    let rules = format!("{before}, with rules: TLS ends here, and each request is judged");
    let text = format!(
        "
        GET https://api.example/public/x
        {rules}
        6.1 yes p.yaml:3
          it sets `authorization`
          -> allow terminate

        POST https://api.example/public/x
        {rules}
        6.1 no p.yaml:3
          not its `method`
        6.2 no p.yaml:5
          not its `headers`
        6.* yes p.yaml:2
          it goes on unchanged
          -> allow terminate

        GET https://api.example/ | x-kind: canary
        {rules}
        6.1 no p.yaml:3
          not its `path`
        6.2 yes p.yaml:5
          it is answered here, with 404
          -> allow respond

        GET https://api.example/public/%2e%2e/x
        {rules}
        path yes p.yaml:2
          -> deny ambiguous-path
        => send the path in its plain form, without encoded or dot segments

        GET https://api.example/public/%78
        {rules}
        path no
        6.1 yes p.yaml:3
          it sets `authorization`
          -> allow terminate

        GET https://api.example/ | host: spliced.example
        {rules}
        authority yes
          -> deny authority-mismatch
        => send requests to the name that the connection was made for

        GET https://api.example:8443/public/x
        {rules}
        6.1 yes p.yaml:3
          it sets `authorization`, with a secret that may not go along with this request
          -> deny secret-unavailable
        => make the secret available, and use port 443, or one of its `ports`

        GET http://api.example/public/x
        {before}
        6.1 yes p.yaml:3
          it sets `authorization`, which is never done in clear
          -> deny plaintext-injection
        => use https: a credential is never sent in clear"
    );
    assert_told(&policy(POLICY), &text);
    let strict = "GET https://a.example/\ndns yes\n`dns: any`, and `deny` does not match it\n0 no\n3 no\n5 no\n\
                  6 yes p.yaml:1\nthe mode, under `strict`: TLS ends here, and each request is judged\n\
                  -> allow terminate";
    assert_told(&policy("mode: allow-all\nstrict: true"), strict);
}

#[test]
fn an_address_is_told_with_the_range_that_holds_it() {
    let text = "
        10.1.9.1:22
        0 no
        1 yes p.yaml:13
          in `10.1.9.0/24`
          -> deny denied-cidr
        => take `10.1.9.0/24` (p.yaml:13) out of `subnets.deny`

        [64:ff9b::a01:901]:22
        0 no
        1 yes p.yaml:13
          read as 10.1.9.1, in `10.1.9.0/24`
          -> deny denied-cidr
        => take `10.1.9.0/24` (p.yaml:13) out of `subnets.deny`
        => add `64:ff9b::a01:901/128` to `subnets.allow`

        10.9.0.1:22
        0 no
        1 no
        2 yes p.yaml:12
          `10.0.0.0/8` is private: ranges inside it open it; `0.0.0.0/0` is too wide to open it
          -> deny protected-range
        => add `10.9.0.1/32` to `subnets.allow`

        127.0.0.1:22
        0 no
        1 no
        2 yes
          `127.0.0.0/8` is opened by the operator alone
          -> deny protected-range
        => run with `--allow-protected 127.0.0.1/32`, as no policy opens it

        203.0.113.9:22
        0 no
        1 no
        2 yes
          it is this host's own
          -> deny protected-range
        => run with `--allow-protected 203.0.113.9/32`, as no policy opens it

        10.1.0.1:22
        0 no
        1 no
        2 no
        3 no
        4 yes p.yaml:12
          in `10.1.0.0/16`: no name is judged, and nothing injected
        dial yes
          -> allow relay

        GET https://spliced.example/ | @192.0.2.1
        dns yes p.yaml:7
          `spliced.example`
        0 yes
          it stands for names that were refused, and is refused by its name's reason
        3 no
        5 no
        6 yes p.yaml:7
          `spliced.example`, without rules: relayed unread
        9 yes
          the block address is never dialled
          -> deny no-rule
        => dial the origin's own address: this one stands for names that were refused";
    assert_told(&policy(POLICY), text);
}

#[test]
fn what_names_nobody_is_told_by_the_rows_that_are_left() {
    let text = "
        ssh.example:22
        dns yes p.yaml:8
          `ssh.example`
        0 no
        3 no
        7 yes p.yaml:9
          `ssh.example` has one
          -> allow relay

        ssh.example:80
        dns yes p.yaml:8
          `ssh.example`
        0 no
        3 no
        protocol yes
          -> deny not-http
        => speak TLS or HTTP on ports 80 and 443: ask for an https or http URL

        ssh.example:23
        dns yes p.yaml:8
          `ssh.example`
        0 no
        3 no
        7 no
          `ssh.example` has none
        8 no
          the mode is not allow-all, and `allow` has no `*`
        9 yes
          -> deny no-name
        => add `{opaque: {ports: [23]}}` to the rules of `ssh.example` (p.yaml:8)

        1.2.3.4:53
        0 yes
          exeat's own resolver answers, whichever is dialled
          -> allow respond

        GET http://spliced.example/ | host: 1.2.3.4
        dns yes p.yaml:7
          `spliced.example`
        0 no
        3 no
        authority no
          it names nobody
        8 no
          the mode is not allow-all, and `allow` has no `*`
        9 yes
          -> deny no-name
        => name an origin in `Host`";
    assert_told(&policy(POLICY), text);
    for (text, note) in [
        ("mode: allow-all\nstrict: true", "`strict` wants a name"),
        ("mode: allow-all\ndeny: [a.example]", "what `deny` denies might hide in it"),
        ("allow: {'*': [{}]}", "`*` has rules, which want a name"),
        ("allow: [a.example]", "the mode is not allow-all, and `allow` has no `*`"),
    ] {
        let told = told(&policy(text), "1.1.1.1:22");
        let last = ["8 no", note, "9 yes", "-> deny no-name", "=> add `1.1.1.1/32` to `subnets.allow`"];
        assert_eq!(told[told.len() - last.len()..], last, "{text}");
    }
}

#[test]
fn what_is_observed_goes_on_and_says_so() {
    let text = "
        GET https://x.no.example/
        dns yes p.yaml:10
          `*.no.example` in `deny`, and `observe` lets it be resolved all the same
        0 no
        3 no
        5 yes p.yaml:10
          `*.no.example` in `deny`; observed
        observe yes
          `denied-domain` is recorded, and it is let through with nothing injected
          -> deny denied-domain, observed: splice
        => take `*.no.example` (p.yaml:10) out of `deny`
        => add `x.no.example: []` to `allow`

        GET https://spliced.example/ | @10.1.9.1
        dns yes p.yaml:7
          `spliced.example`
        0 no
        1 yes p.yaml:13
          in `10.1.9.0/24`; observed
        2 no
        3 no
        5 no
        6 yes p.yaml:7
          `spliced.example`, without rules: relayed unread
        observe yes
          `denied-cidr` is recorded, and it is let through with nothing injected
        dial yes
          -> deny denied-cidr, observed: splice
        => take `10.1.9.0/24` (p.yaml:13) out of `subnets.deny`

        GET https://api.example/ | x-kind: y
        dns yes p.yaml:2
          `api.example`
        0 no
        3 no
        5 no
        6 yes p.yaml:2
          `api.example`, with rules: TLS ends here, and each request is judged
        6.1 no p.yaml:3
          not its `path`
        6.2 yes p.yaml:5
          it is answered here, with 404; observed
        observe yes
          `no-rule` is recorded, and it is let through with nothing injected
          -> deny no-rule, observed: terminate
        => take `observe` out, which withholds the rule's answer";
    assert_told(&policy(&format!("{POLICY}observe: true")), text);
}

#[test]
fn a_policy_that_allows_nothing_says_what_it_lacks() {
    let nothing = "
        GET https://a.example/
        dns no
          the policy allows nothing
          -> deny deny-all
        => add `a.example: []` to `allow`
        => write `dns: names`

        1.1.1.1:22
        0 no
        1 no
        2 no
        3 yes
          no list allows anything
          -> deny deny-all
        => add `1.1.1.1/32` to `subnets.allow`";
    assert_told(&policy("dns: none"), nothing);
    let mode = "
        GET https://a.example/
        dns no p.yaml:1
          the policy allows nothing
          -> deny deny-all
        => take `deny-all` (p.yaml:1) out
        => add `a.example: []` to `allow`

        a.example:22
        dns no p.yaml:1
          the policy allows nothing
          -> deny deny-all
        => take `deny-all` (p.yaml:1) out
        => add `a.example: [{opaque: {ports: [22]}}]` to `allow`";
    assert_told(&policy("mode: deny-all"), mode);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn the_last_step_that_was_asked_settles_what_the_engine_decides(draft in any_draft(), question in any_question()) {
        let policy = draft.compile();
        let neutral = NEUTRAL.parse().unwrap();
        prop_assume!(question.address.is_some() || policy.subnets_allow.get_unwrapped(neutral).is_none());
        let expected = engine(&policy, &question, &host());
        let Explanation { facts, steps, .. } = policy.explain(&question, &host());
        prop_assert_eq!((facts.outcome, facts.observed), (expected.outcome, expected.observed), "{}", question);
        prop_assert_eq!(&facts.basis.rule, &expected.rule);
        let last = steps.iter().rev().find(|step| step.answer != Answer::NotAsked);
        prop_assert_eq!(last.and_then(|step| step.settles.as_ref()), Some(&expected), "{} {:#?}", question, steps);
        prop_assert_eq!(steps.iter().filter(|step| step.settles.is_some()).count(), 1);
    }

    #[test]
    fn what_would_allow_it_does(draft in any_draft(), question in any_question()) {
        let policy = draft.compile();
        let Explanation { facts, remedies, .. } = policy.explain(&question, &host());
        prop_assert_eq!(remedies.is_empty(), facts.reason().is_none(), "{}\n{}", question, draft.text());
        let (mut edited, mut around) = (draft.clone(), host());
        for remedy in &remedies {
            if matches!(remedy, Remedy::Client(_)) {
                prop_assert_eq!(remedies.last(), Some(remedy), "what a client does comes last");
                prop_assert!(edited.compile().judge(&question, &around).reason().is_some());
                return Ok(());
            }
            prop_assert!(edited.compile().judge(&question, &around).reason().is_some(), "{:?} is needed", remedy);
            around = edited.follow(remedy, around);
        }
        if !remedies.is_empty() {
            let facts = edited.compile().judge(&question, &around);
            prop_assert_eq!(facts.reason(), None, "{} in\n{}", question, edited.text());
        }
    }
}
