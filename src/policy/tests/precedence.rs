//! Which row, pattern or rule answers where two would (POLICY §2, §3): every pair of them that can meet.

use super::*;

/// The block address, and one that says nothing by itself.
const ADDRESSES: [&str; 2] = ["192.0.2.1", "198.51.100.1"];

/// A policy, a host and a connection for which each of some rows would answer.
struct Scene<'a> {
    rows: &'a [u8],
    /// Whether the connection names `n.test`, or nobody.
    named: bool,
    /// Whether the mode permits what rows 6 and 8 permit, and not an entry.
    open: bool,
}

impl Scene<'_> {
    fn has(&self, row: u8) -> bool {
        self.rows.contains(&row)
    }

    fn policy(&self) -> String {
        let both = ADDRESSES.map(|address| format!("{address}/32")).join(", ");
        let by_mode = self.open && (self.has(6) || self.has(8));
        let nothing_else = ![3, 4, 6, 7, 8].iter().any(|row| self.has(*row));
        [
            (by_mode, "mode: allow-all".to_owned()),
            (true, "allow: {".to_owned()),
            (nothing_else, "  unrelated.test: [],".to_owned()),
            (self.has(6) && !self.open, "  n.test: [],".to_owned()),
            (self.has(7), "  p.test: [{opaque: {ports: [22]}}],".to_owned()),
            (self.has(8) && !self.open, "  '*': [],".to_owned()),
            (true, "}".to_owned()),
            (self.has(5), "deny: [n.test]".to_owned()),
            (true, "subnets: {".to_owned()),
            (self.has(1), format!("  deny: [{both}],")),
            (self.has(4), format!("  allow: [{both}],")),
            (true, "}".to_owned()),
        ]
        .into_iter()
        .filter_map(|(present, line)| present.then_some(line + "\n"))
        .collect()
    }

    fn host(&self) -> Protected {
        Protected::new(ADDRESSES.iter().filter(|_| self.has(2)).map(|address| address.parse().unwrap()))
    }

    fn dst(&self, port: u16) -> SocketAddr {
        SocketAddr::new(ADDRESSES[usize::from(!self.has(0))].parse().unwrap(), port)
    }

    fn flow(&self) -> Flow {
        let dst = self.dst(if self.named { 443 } else { 22 });
        let pinned = if self.has(7) { vec![name("p.test")] } else { Vec::new() };
        Flow { pinned, ..flow(&dst.to_string(), if self.named { tls("n.test") } else { Seen::Opaque }) }
    }

    /// What is said, with lines in place of their numbers.
    fn shown(&self, said: &str) -> String {
        let text = self.policy();
        let Some((said, number)) = said.split_once(" by p.yaml:") else { return said.to_owned() };
        let line = text.lines().nth(number.parse::<usize>().unwrap() - 1).unwrap();
        format!("{said} by {}", line.trim().trim_end_matches(','))
    }

    fn decided(&self) -> String {
        self.shown(&said(policy(&self.policy()).decide(&self.flow(), &self.host())))
    }

    fn settled(&self) -> Option<String> {
        let verdict = policy(&self.policy()).decide_address(&self.flow(), &self.host());
        verdict.map(|verdict| self.shown(&said(verdict)))
    }

    fn requested(&self, scheme: Scheme) -> String {
        let (authority, headers) = (name("n.test"), HeaderMap::new());
        let head = RequestHead {
            scheme,
            authority: self.named.then_some(&authority),
            dst: OriginalDst(self.dst(if scheme == Scheme::Http { 80 } else { 443 })),
            method: "GET",
            path: "/",
            query: None,
            headers: &headers,
        };
        let said = match policy(&self.policy()).decide_request(&head, &self.host()) {
            Verdict::Deny(denial) => denied(&denial),
            Verdict::Allow(Action::Forward(permit)) => format!("forward {}", shown(&permit)),
            Verdict::Allow(other) => panic!("{other:?}"),
        };
        self.shown(&said)
    }

    /// What a row says, as the page has it.
    fn answer(&self, row: u8, verb: &str, port: u16) -> String {
        let dst = self.dst(port);
        let nothing = if self.named { "deny no-rule" } else { "deny no-name" };
        match row {
            // Refused by the reason that the name has, or for want of one.
            0 if self.has(3) => "deny deny-all".into(),
            0 if self.has(5) => "deny denied-domain by deny: [n.test]".into(),
            0 | 9 => nothing.into(),
            1 => "deny denied-cidr by deny: [192.0.2.1/32, 198.51.100.1/32]".into(),
            2 => "deny protected-range".into(),
            3 => "deny deny-all".into(),
            4 => format!("{verb} {dst} by allow: [192.0.2.1/32, 198.51.100.1/32]"),
            5 => "deny denied-domain by deny: [n.test]".into(),
            6 if self.open => format!("{verb} n.test:{port} by mode: allow-all"),
            6 => format!("{verb} n.test:{port} by n.test: []"),
            7 => "relay p.test:22 by p.test: [{opaque: {ports: [22]}}]".into(),
            8 if self.open => format!("{verb} {dst} by mode: allow-all"),
            8 => format!("{verb} {dst} by '*': []"),
            other => panic!("there is no row {other}"),
        }
    }
}

/// Rows that cannot answer for the same flow, and why.
const APART: [(&[u8], &[u8], &str); 2] = [
    (&[3], &[4, 6, 7, 8], "a policy that permits something is not empty, and `mode: deny-all` stands alone"),
    (&[5, 6], &[7, 8], "a flow has a name, or it has none"),
];

/// Every pair of rows that can meet, by name and without one, with entries and with `mode: allow-all`.
fn each_pair(mut judge: impl FnMut(&Scene<'_>, u8, u8)) {
    for first in 0..=9 {
        for second in first + 1..=9 {
            if APART.iter().any(|(ones, others, _)| ones.contains(&first) && others.contains(&second)) {
                continue;
            }
            let rows = [first, second];
            let mut met = false;
            for (named, open) in [(true, false), (true, true), (false, false), (false, true)] {
                let wrong = if named { [7, 8] } else { [5, 6] };
                if !rows.iter().any(|row| wrong.contains(row)) {
                    judge(&Scene { rows: &rows, named, open }, first, second);
                    met = true;
                }
            }
            assert!(met, "rows {first} and {second} do not meet, and nothing says why");
        }
    }
}

#[test]
fn of_two_rows_the_earlier_answers() {
    each_pair(|scene, first, second| {
        let Scene { named, open, .. } = *scene;
        let verb = |row| if row == 6 { "splice" } else { "relay" };
        let port = if named { 443 } else { 22 };
        let context = format!("rows {first} and {second}\n{}{:?}", scene.policy(), scene.flow());
        assert_eq!(scene.decided(), scene.answer(first, verb(first), port), "{context}");
        let later = Scene { rows: &[second], named, open };
        assert_eq!(later.decided(), later.answer(second, verb(second), port), "the later of {context}");
        let settled = matches!(first, 1..=4).then(|| scene.decided());
        assert_eq!(scene.settled(), settled, "by address alone: {context}");
    });
}

#[test]
fn of_two_rows_the_earlier_answers_a_request() {
    each_pair(|scene, first, second| {
        let Scene { named, open, .. } = *scene;
        if first == 7 || second == 7 {
            return; // what is opaque has no requests
        }
        for (scheme, port) in [(Scheme::Http, 80), (Scheme::Https, 443)] {
            // Row 4 would have relayed what was terminated unread; row 8 knows no TLS that was.
            let asked = |row| match row {
                4 => scheme == Scheme::Http,
                _ => named || scheme == Scheme::Http,
            };
            if asked(first) && asked(second) {
                let context = format!("rows {first} and {second}, {scheme:?}\n{}", scene.policy());
                assert_eq!(scene.requested(scheme), scene.answer(first, "forward", port), "{context}");
                let later = Scene { rows: &[second], named, open };
                assert_eq!(later.requested(scheme), later.answer(second, "forward", port), "the later of {context}");
            }
        }
    });
}

#[test]
fn of_two_rows_the_earlier_answers_a_resolver() {
    for (rows, verdict) in [
        ([3, 5], "deny deny-all"),
        ([3, 9], "deny deny-all"),
        ([5, 6], "deny denied-domain by deny: [n.test]"),
        ([5, 9], "deny denied-domain by deny: [n.test]"),
        ([6, 9], "allow by n.test: []"),
    ] {
        let scene = Scene { rows: &rows, named: true, open: false };
        let said = match policy(&scene.policy()).decide_name(&name("n.test")) {
            Verdict::Allow(basis) => format!("allow{}", by(&basis)),
            Verdict::Deny(denial) => denied(&denial),
        };
        assert_eq!(scene.shown(&said), verdict, "{rows:?}");
    }
}

#[test]
fn what_denies_all_permits_nothing_beside_it() {
    for permits in ["allow: [a.test]", "allow: {a.test: [{opaque: {ports: [22]}}]}", "subnets: {allow: [10.0.0.0/8]}"] {
        let text = format!("mode: deny-all\n{permits}");
        let source = Source { path: "p.yaml", text: &text };
        assert!(Policy::compile(Some(source), &Flags::default(), &Terms::default()).is_err(), "{text}");
        assert!(!decided(&policy(permits), "1.1.1.1:443", tls("x.test")).contains("deny-all"), "{permits}");
    }
}

/// For `w.x.y.test`, the most specific first.
const LADDER: [&str; 7] = ["w.x.y.test", "w.*.y.test", "*.x.y.test", "w.*.*.test", "*.y.test", "*.test", "*"];

#[test]
fn of_two_patterns_the_more_specific_applies() {
    let applies = |first: &str, second: &str| {
        let permits = policy(&format!("allow:\n  '{first}': []\n  '{second}': []\n"));
        let refuses = policy(&format!("allow: ['*']\ndeny:\n  - '{first}'\n  - '{second}'\n"));
        let permitted = decided(&permits, "1.1.1.1:443", tls("w.x.y.test"));
        let refused = decided(&refuses, "1.1.1.1:443", tls("w.x.y.test"));
        let is_first = permitted == "splice w.x.y.test:443 by p.yaml:2";
        assert!(is_first || permitted == "splice w.x.y.test:443 by p.yaml:3", "{permitted}");
        assert_eq!(refused, format!("deny denied-domain by p.yaml:{}", if is_first { 3 } else { 4 }));
        is_first
    };
    for (place, wins) in LADDER.iter().enumerate() {
        for loses in &LADDER[place + 1..] {
            assert!(applies(wins, loses), "{wins} and then {loses}");
            assert!(!applies(loses, wins), "{loses} and then {wins}");
        }
    }
    for (one, other) in [("w.*.y.test", "w.x.*.test"), ("*.*.y.test", "*.y.test"), ("*.x.*.test", "*.y.test")] {
        assert!(applies(one, other) && applies(other, one), "of {one} and {other} the first declared applies");
    }
}

#[test]
fn of_two_rules_the_first_claims_whatever_they_do() {
    let actions = [
        ("", "forward api.test:443"),
        ("transform: [{headers: {x-a: v}}]", "forward api.test:443 with x-a"),
        ("forwardURL: https://else.test/x", "divert to https://else.test/x as else.test:443"),
        ("response: {statusCode: 403}", "respond 403 Forbidden"),
    ];
    for (first, does) in actions {
        for (second, would) in actions {
            let text = |when: &str| {
                let opaque = "{opaque: {ports: [22]}}";
                policy(&format!("allow:\n  api.test:\n  - {opaque}\n  - {{{when}{first}}}\n  - {{{second}}}\n"))
            };
            assert_eq!(asked(&text(""), "GET https://api.test/"), format!("{does} by p.yaml:4"));
            let elsewhere = "match: {method: [POST]}, ";
            assert_eq!(asked(&text(elsewhere), "GET https://api.test/"), format!("{would} by p.yaml:5"));
            assert_eq!(asked(&text(elsewhere), "POST https://api.test/"), format!("{does} by p.yaml:4"));
        }
    }
}

const CLAIMS: &str = "\
allow:
  api.test:
  - {match: {path: {startsWith: /secret/}}, transform: [{headers: {a: '${secrets.KEY}'}}]}
  - {match: {path: {startsWith: /else/}}, forwardURL: 'https://else.test:8443'}
  - {match: {path: {startsWith: /plain/}}, transform: [{headers: {a: b}}]}
  - {match: {path: {startsWith: /no/}}, response: {statusCode: 403}}
  denied.test: [{response: {statusCode: 403}}]
deny: [denied.test]
subnets: {allow: [203.0.113.0/25], deny: [203.0.113.0/26]}
secrets: {KEY: {env: KEY}}
";

#[test]
fn a_request_is_refused_by_the_first_that_refuses_it() {
    let policy = policy(CLAIMS);
    for (request, dst, verdict) in [
        // The address, then the name, then which rule claims, then what it may do.
        ("GET https://denied.test/", "203.0.113.1:443", "deny denied-cidr by p.yaml:9"),
        ("GET https://api.test/secret/../no/", "203.0.113.1:443", "deny denied-cidr by p.yaml:9"),
        ("GET https://denied.test/", "1.1.1.1:443", "deny denied-domain by p.yaml:8"),
        ("GET http://denied.test/", "1.1.1.1:80", "deny denied-domain by p.yaml:8"),
        ("GET https://api.test/secret/../no/", "1.1.1.1:8443", "deny ambiguous-path by p.yaml:2"),
        ("GET http://api.test/secret/../no/", "1.1.1.1:80", "deny ambiguous-path by p.yaml:2"),
        ("GET http://api.test/no/../secret/", "1.1.1.1:80", "deny ambiguous-path by p.yaml:2"),
        ("GET http://api.test/secret/", "1.1.1.1:80", "deny plaintext-injection by p.yaml:3"),
        ("GET http://api.test/secret/", "1.1.1.1:8443", "deny plaintext-injection by p.yaml:3"),
        ("GET http://api.test/else/", "1.1.1.1:80", "deny plaintext-injection by p.yaml:4"),
        ("GET http://api.test/plain/", "1.1.1.1:80", "deny plaintext-injection by p.yaml:5"),
        ("GET http://api.test/no/", "1.1.1.1:80", "respond 403 Forbidden by p.yaml:6"),
        ("GET http://api.test/", "1.1.1.1:80", "forward api.test:80 by p.yaml:2"),
        ("GET https://api.test/secret/", "1.1.1.1:8443", "deny secret-unavailable by p.yaml:3"),
        ("GET https://api.test/secret/", "1.1.1.1:443", "forward api.test:443 with a by p.yaml:3"),
        ("GET https://api.test/plain/", "1.1.1.1:8443", "forward api.test:8443 with a by p.yaml:5"),
        ("GET https://api.test/else/", "1.1.1.1:22", "divert to https://else.test:8443 as else.test:8443 by p.yaml:4"),
        // Row 4 asks for no name and so for no rule, but what was terminated stays judged by name.
        ("GET http://api.test/secret/", "203.0.113.100:80", "forward 203.0.113.100:80 by p.yaml:9"),
        ("GET http://api.test/secret/../no/", "203.0.113.100:80", "forward 203.0.113.100:80 by p.yaml:9"),
        ("GET https://api.test/secret/", "203.0.113.100:443", "forward api.test:443 with a by p.yaml:3"),
    ] {
        assert_eq!(asked_at(&policy, request, Some(dst)), verdict, "{request} at {dst}");
    }
}

const OPAQUE: &str = "\
allow:
  git.test: [{opaque: {ports: [22, 9418]}}]
  both.test:
  - {opaque: {ports: [22]}}
  - {match: {method: [POST]}, response: {statusCode: 403}}
  '*.db.test': [{opaque: {ports: [5432]}}, {opaque: {ports: [22]}}]
  web.test: []
deny: [denied.db.test]
";

#[test]
fn row_7_asks_every_name_that_the_address_is_pinned_to() {
    let policy = |more: &str| policy(&format!("{OPAQUE}{more}"));
    let lists = policy("");
    let decided = |policy: &Policy, pinned: &[&str], port: u16, seen: Seen| {
        let pinned = pinned.iter().map(|text| name(text)).collect();
        said(policy.decide(&Flow { pinned, ..flow(&format!("198.51.100.1:{port}"), seen) }, &host()))
    };
    for (pinned, port, verdict) in [
        (&["git.test"][..], 22, "relay git.test:22 by p.yaml:2"),
        (&["git.test"], 9418, "relay git.test:9418 by p.yaml:2"),
        (&["both.test"], 22, "relay both.test:22 by p.yaml:4"),
        (&["a.db.test"], 22, "relay a.db.test:22 by p.yaml:6"),
        // All of them, and then the one that was answered last.
        (&["git.test", "both.test"], 22, "relay both.test:22 by p.yaml:4"),
        (&["both.test", "git.test"], 22, "relay git.test:22 by p.yaml:2"),
        (&["git.test", "web.test"], 22, "deny no-name"),
        (&["web.test", "git.test"], 22, "deny no-name"),
        (&["git.test", "other.test"], 22, "deny no-name"),
        (&["git.test", "denied.db.test"], 22, "deny no-name"),
        (&["denied.db.test"], 22, "deny no-name"),
        // For this port.
        (&["git.test"], 23, "deny no-name"),
        (&["git.test", "both.test"], 9418, "deny no-name"),
        (&["a.db.test"], 5432, "relay a.db.test:5432 by p.yaml:6"),
        // Never without a pin, and never on the ports of the web.
        (&[], 22, "deny no-name"),
        (&["git.test"], 80, "deny not-http"),
        (&["git.test"], 443, "deny not-http"),
    ] {
        assert_eq!(decided(&lists, pinned, port, Seen::Opaque), verdict, "{pinned:?}:{port}");
        let strict = policy("strict: true\n");
        assert_eq!(decided(&strict, pinned, port, Seen::Opaque), verdict, "strict: {pinned:?}:{port}");
    }
    for port in [80, 443] {
        let text = format!("allow: {{a.test: [{{opaque: {{ports: [{port}]}}}}]}}");
        let source = Source { path: "p.yaml", text: &text };
        let refused = Policy::compile(Some(source), &Flags::default(), &Terms::default()).unwrap_err();
        assert!(refused.to_string().contains("never opaque"), "{refused}");
    }
    // `*` alone would relay what has no name; with an `opaque` rule it says for which port.
    let star = super::policy("allow: {'*': [{opaque: {ports: [22]}}]}");
    assert_eq!(decided(&star, &["a.test"], 22, Seen::Opaque), "relay a.test:22 by p.yaml:1");
    assert_eq!(decided(&star, &["a.test"], 23, Seen::Opaque), "deny no-name");
    // The mode permits names, and no port of theirs.
    let open = super::policy("mode: allow-all\nstrict: true");
    assert_eq!(decided(&open, &["a.test"], 22, Seen::Opaque), "deny no-name");
}

#[test]
fn what_an_opaque_rule_relays_is_what_is_opaque() {
    let lists = policy(OPAQUE);
    let strict = policy(&format!("{OPAQUE}strict: true\n"));
    let decided = |policy: &Policy, seen: Seen| {
        said(policy.decide(&Flow { pinned: vec![name("git.test")], ..flow("198.51.100.1:22", seen) }, &host()))
    };
    for (seen, verdict, strictly) in [
        // TLS and HTTP name themselves, on any port.
        (tls("git.test"), "splice git.test:22 by p.yaml:2", "terminate by p.yaml:2"),
        (tls("both.test"), "terminate by p.yaml:3", "terminate by p.yaml:3"),
        (tls("other.test"), "deny no-rule", "deny no-rule"),
        (tls("denied.db.test"), "deny denied-domain by p.yaml:8", "deny denied-domain by p.yaml:8"),
        (Seen::Http(HttpVersion::Http1), "terminate", "terminate"),
        (Seen::Http(HttpVersion::Http2), "terminate", "terminate"),
        (tls(""), "deny no-name", "deny no-name"),
        (Seen::Unread, "deny no-name", "deny no-name"),
        (Seen::Unreadable(HelloFault::TooLarge), "deny unreadable-hello", "deny unreadable-hello"),
    ] {
        assert_eq!(decided(&lists, seen.clone()), verdict, "{seen:?}");
        assert_eq!(decided(&strict, seen.clone()), strictly, "strict: {seen:?}");
    }
    assert_eq!(asked_at(&lists, "GET http://git.test/", Some("198.51.100.1:22")), "forward git.test:22 by p.yaml:2");
    assert_eq!(asked_at(&lists, "GET http://other.test/", Some("198.51.100.1:22")), "deny no-rule");
}
