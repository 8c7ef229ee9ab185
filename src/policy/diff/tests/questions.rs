//! Pairs of policies at random, asked at random: what is judged differently is told, and what is told is so.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::flow::{
    ClientAddr, Domain, Flow, FlowId, Hello, HttpVersion, OriginalDst, RequestHead, SandboxId, Scheme, Seen,
};
use crate::matcher::cidr::readings;
use crate::policy::verdict::{Action, DenyReason, Permit, Route, Verdict};
use crate::policy::{Denials, Protected};

const PATTERNS: [&str; 14] = [
    "*",
    "a.test",
    "b.test",
    "a.b.test",
    "x.a.test",
    "*.test",
    "*.a.test",
    "*.b.test",
    "a.*.test",
    "x.*.test",
    "*.a.*.test",
    "a.*",
    "*.x.*.test",
    "c.b.*.test",
];
const RANGES: [&str; 12] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.20.0.0/16",
    "10.20.30.0/24",
    "8.8.8.0/24",
    "8.0.0.0/8",
    "192.0.2.0/24",
    "::/0",
    "fd00::/8",
    "fd20::/16",
    "64:ff9b::/96",
    "2001:db8::/32",
];
const RULES: [&str; 13] = [
    "{}",
    "{ match: { method: [GET] } }",
    "{ match: { method: [GET, HEAD] } }",
    "{ match: { path: { startsWith: /a/ } } }",
    "{ match: { path: { exact: /a/b } }, transform: [{ headers: { x-k: \"${secrets.K}\" } }] }",
    "{ match: { path: { regex: \"^/a\" } }, response: { statusCode: 404 } }",
    "{ match: { path: { glob: \"/*/b\" }, method: [POST] }, response: { statusCode: 403 } }",
    "{ match: { queryString: [{ key: { exact: q } }] }, transform: [{ headers: { x-k: \"${secrets.L}\" } }] }",
    "{ match: { method: [POST] }, transform: [{ headers: { x-k: \"${secrets.K}\", x-l: one } }] }",
    "{ transform: [{ headers: { x-l: two } }] }",
    "{ response: { statusCode: 403 } }",
    "{ match: { method: [GET] }, forwardURL: \"https://a.test/f\" }",
    "{ opaque: { ports: [22] } }",
];
const NAMES: [&str; 14] = [
    "a.test",
    "b.test",
    "c.test",
    "a.b.test",
    "x.a.test",
    "x.b.test",
    "a.a.test",
    "a.c.test",
    "x.a.b.test",
    "a.example",
    "y.example",
    "c.b.a.test",
    "x.x.test",
    "y.x.a.test",
];
const ADDRESSES: [&str; 16] = [
    "198.51.100.1",
    "10.1.1.1",
    "10.20.1.1",
    "10.20.30.1",
    "8.8.8.8",
    "8.1.1.1",
    "192.0.2.1",
    "192.0.2.9",
    "127.0.0.1",
    "2001:db8::9",
    "fd00::9",
    "fd20::1",
    "64:ff9b::808:808",
    "64:ff9b::a14:1e01",
    "::ffff:8.8.8.8",
    "2600::1",
];

/// A document in the making.
#[derive(Debug, Clone)]
struct Made {
    head: String,
    allow: Vec<(&'static str, Vec<&'static str>)>,
    deny: Vec<&'static str>,
    open: Vec<&'static str>,
    shut: Vec<&'static str>,
}

impl Made {
    fn text(&self) -> String {
        let Self { head, allow, deny, open, shut } = self;
        let mut seen: Vec<&str> = Vec::new();
        let mut text = format!(
            "{head}secrets: {{ K: {{ env: K }}, L: {{ env: L }} }}\ndeny: {deny:?}\n\
             subnets: {{ allow: {open:?}, deny: {shut:?} }}\nallow:{}\n",
            if allow.is_empty() { " {}" } else { "" }
        );
        for (pattern, rules) in allow {
            if !seen.contains(pattern) {
                seen.push(pattern);
                text.push_str(&format!("  {pattern:?}: [{}]\n", rules.join(", ")));
            }
        }
        text
    }
}

fn rules() -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![2 => Just(Vec::new()), 3 => prop::collection::vec(select(&RULES[..]), 0..4)]
}

prop_compose! {
    fn made()(
        mode in prop_oneof![5 => Just(""), 1 => Just("mode: allow-all\n")],
        dns in select(&["", "", "dns: any\n", "dns: none\n"][..]),
        strict in prop_oneof![4 => Just(""), 1 => Just("strict: true\n")],
        observe in prop_oneof![6 => Just(""), 1 => Just("observe: true\n")],
        allow in prop::collection::vec((select(&PATTERNS[..]), rules()), 0..5),
        deny in prop_oneof![1 => Just(Vec::new()), 1 => subsequence(&PATTERNS[1..], 0..3)],
        open in prop_oneof![1 => Just(Vec::new()), 1 => subsequence(&RANGES[..], 0..3)],
        shut in prop_oneof![1 => Just(Vec::new()), 1 => subsequence(&RANGES[..], 0..3)],
    ) -> Made {
        Made { head: format!("{mode}{dns}{strict}{observe}"), allow, deny, open, shut }
    }
}

/// A policy and another: made of it by one edit, or apart from it.
fn pair() -> impl Strategy<Value = (String, String)> {
    let edit = (0..8, any::<prop::sample::Index>(), made());
    let edited = (made(), edit).prop_map(|(old, (edit, at, other))| {
        let mut new = old.clone();
        let at = |length: usize| at.index(length.max(1));
        match edit {
            0 => new.head = other.head,
            1 => new.deny = other.deny,
            2 => new.open = other.open,
            3 => new.shut = other.shut,
            4 => new.allow.extend(other.allow),
            5 => new.allow.reverse(),
            6 => drop(new.allow.drain(at(new.allow.len())..)),
            _ => {
                if let (Some(entry), Some(other)) = (new.allow.get_mut(at(old.allow.len())), other.allow.first()) {
                    entry.1 = other.1.clone();
                }
            }
        }
        (old.text(), new.text())
    });
    prop_oneof![3 => edited, 1 => (made(), made()).prop_map(|(old, new)| (old.text(), new.text()))]
}

/// Something to be judged.
#[derive(Debug, Clone)]
enum Question {
    Name(Domain),
    Tls(Option<Domain>, IpAddr),
    Opaque(Vec<Domain>, IpAddr, u16),
    Request(Scheme, Option<Domain>, IpAddr, &'static str, String, Option<&'static str>),
}

fn questions() -> impl Strategy<Value = Question> {
    let name = || select(&NAMES[..]).prop_map(|text| Domain::parse(text).unwrap());
    let address = || select(&ADDRESSES[..]).prop_map(|text| text.parse::<IpAddr>().unwrap());
    let request = (
        select(&[Scheme::Https, Scheme::Https, Scheme::Http][..]),
        prop::option::weighted(0.9, name()),
        address(),
        select(&["GET", "HEAD", "POST", "PUT"][..]),
        select(&["/", "/a", "/a/b", "/a/c", "/c/b", "/x/../a/b", "/a%00"][..]).prop_map(str::to_owned),
        prop::option::of(Just("q=1")),
    );
    prop_oneof![
        name().prop_map(Question::Name),
        (prop::option::weighted(0.9, name()), address()).prop_map(|(name, address)| Question::Tls(name, address)),
        (prop::collection::vec(name(), 0..3), address(), select(&[22, 443][..]))
            .prop_map(|(names, address, port)| Question::Opaque(names, address, port)),
        request.prop_map(|(scheme, name, address, method, path, query)| Question::Request(
            scheme, name, address, method, path, query
        )),
    ]
}

fn flow(address: IpAddr, port: u16, seen: Seen, pinned: Vec<Domain>) -> Flow {
    let dst = SocketAddr::new(address, port);
    let sandbox = SandboxId::new("questions").unwrap();
    Flow { id: FlowId(0), sandbox, client: ClientAddr(dst), dst: OriginalDst(dst), seen, pinned }
}

/// What is judged, without the reason and the line; and whether it is allowed.
fn answer(policy: &Policy, question: &Question) -> (String, bool, Option<DenyReason>) {
    let host = Protected::new([]);
    let permit = |permit: &Permit| {
        let mut set: Vec<String> =
            permit.injections().iter().map(|each| format!("{}={:?}", each.header, each.value)).collect();
        set.sort();
        format!("{:?} {set:?} {}", permit.target(), permit.observed().is_some())
    };
    let of_flow = |flow: Flow| {
        let verdict = policy.decide_address(&flow, &host).unwrap_or_else(|| policy.decide(&flow, &host));
        match verdict {
            Verdict::Allow(Route::Relay(leave)) => (format!("relay {}", permit(&leave)), true, None),
            Verdict::Allow(Route::Splice(leave)) => (format!("splice {}", permit(&leave)), true, None),
            Verdict::Allow(Route::Terminate(_)) => ("terminate".to_owned(), true, None),
            Verdict::Deny(denial) => (String::new(), false, Some(denial.reason)),
        }
    };
    match question {
        Question::Name(name) => match policy.decide_name(name) {
            Verdict::Allow(_) => ("resolve".to_owned(), true, None),
            Verdict::Deny(denial) => (String::new(), false, Some(denial.reason)),
        },
        Question::Tls(name, address) => {
            let hello = Hello { sni: name.clone(), alpn: Vec::new(), ech: false };
            of_flow(flow(*address, 443, Seen::Tls(hello), Vec::new()))
        }
        Question::Opaque(pinned, address, port) => of_flow(flow(*address, *port, Seen::Opaque, pinned.clone())),
        Question::Request(scheme, name, address, method, path, query) => {
            if *scheme == Scheme::Http {
                let early = of_flow(flow(*address, 80, Seen::Http(HttpVersion::Http1), Vec::new()));
                if early.0 != "terminate" {
                    return early;
                }
            }
            let port = if *scheme == Scheme::Https { 443 } else { 80 };
            let head = RequestHead {
                scheme: *scheme,
                authority: name.as_ref(),
                dst: OriginalDst(SocketAddr::new(*address, port)),
                method,
                path,
                query: *query,
                headers: &HeaderMap::new(),
            };
            match policy.decide_request(&head, &host) {
                Verdict::Allow(Action::Forward(leave)) => (format!("forward {}", permit(&leave)), true, None),
                Verdict::Allow(Action::Respond(response, _)) => (format!("{response:?}"), true, None),
                Verdict::Allow(Action::Divert(url, leave)) => (format!("{url:?} {}", permit(&leave)), true, None),
                Verdict::Deny(denial) => (String::new(), false, Some(denial.reason)),
            }
        }
    }
}

fn concerns(change: &Change, question: &Question) -> bool {
    let (names, address, named) = match question {
        Question::Name(name) => (vec![name.clone()], None, true),
        Question::Tls(name, address) => (name.iter().cloned().collect(), Some(*address), name.is_some()),
        Question::Opaque(names, address, _) => (names.clone(), Some(*address), false),
        Question::Request(_, name, address, ..) => (name.iter().cloned().collect(), Some(*address), name.is_some()),
    };
    match &change.about {
        About::Names(None) => !names.is_empty(),
        About::Names(Some(pattern)) => names.iter().any(|name| pattern.matches(name)),
        About::Addresses(ranges) => address.is_some_and(|address| {
            readings(address).any(|reading| ranges.iter().any(|range| range.contains(&reading)))
        }),
        About::Unnamed => !named,
        About::Setting("strict") => matches!(question, Question::Tls(..)),
        About::Setting("dns") => matches!(question, Question::Name(_)),
        About::Setting("observe") => true,
        About::Setting(_) => false,
    }
}

fn all(changes: &Changes) -> Vec<Change> {
    Direction::ALL.iter().flat_map(|direction| changes.towards(*direction)).cloned().collect()
}

/// The question that an example asks, if it holds all of it.
fn asked(example: &str) -> Option<Vec<Question>> {
    let somewhere: IpAddr = "198.51.100.77".parse().unwrap();
    if example.contains('…') {
        return None;
    }
    let Some((method, url)) = example.split_once(" https://") else {
        let Ok(address) = example.parse::<SocketAddr>() else {
            let (name, port) = example.split_once(':').unwrap();
            let name = Domain::parse(name).unwrap();
            return Some(vec![Question::Opaque(vec![name], somewhere, port.parse().unwrap())]);
        };
        let name = Domain::parse("nobody.nowhere").unwrap();
        let opaque = Question::Opaque(Vec::new(), address.ip(), 22);
        return Some(vec![opaque, Question::Tls(Some(name), address.ip())]);
    };
    let (url, address) = match url.split_once(" at ") {
        Some((url, address)) => (url, address.parse().unwrap()),
        None => (url, somewhere),
    };
    let (name, path) = url.split_once('/').unwrap();
    let name = Domain::parse(name).unwrap();
    let method = ["GET", "HEAD", "POST", "PUT", "DELETE"].into_iter().find(|known| *known == method).unwrap();
    let request = Question::Request(Scheme::Https, Some(name.clone()), address, method, format!("/{path}"), None);
    Some(vec![Question::Name(name.clone()), Question::Tls(Some(name), address), request])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn what_is_judged_differently_is_told((old, new) in pair(), questions in prop::collection::vec(questions(), 40)) {
        let (before, after) = (compile("old", &old), compile("new", &new));
        let changes = all(&diff(&before, &after));
        for question in questions {
            let (was, allowed, why) = answer(&before, &question);
            let (is, allows, why_not) = answer(&after, &question);
            if was == is {
                continue;
            }
            let about: Vec<&Change> = changes.iter().filter(|change| concerns(change, &question)).collect();
            prop_assert!(!about.is_empty(), "{question:?}\n{was}\n{is}\n{changes:#?}");
            // A path with two meanings, and clear text, are refused for what rules there are.
            let by_rules = [why, why_not].into_iter().flatten().any(|reason| {
                matches!(reason, DenyReason::AmbiguousPath | DenyReason::PlaintextInjection)
            });
            let towards = match (allowed, allows) {
                (false, true) => Direction::Opens,
                (true, false) => Direction::Closes,
                _ => continue,
            };
            let told = about.iter().any(|change| change.direction == towards);
            prop_assert!(by_rules || told, "{question:?} {towards}\n{changes:#?}");
        }
    }

    #[test]
    fn what_is_told_is_so((old, new) in pair()) {
        let (before, after) = (compile("old", &old), compile("new", &new));
        let lets_through = before.observe() || after.observe();
        // Where no address is left to names, what is told of names cannot be seen by asking.
        let by_name = [&before, &after].into_iter().all(|policy| {
            addresses::is_left_to_names(policy, "198.51.100.77".parse().unwrap())
        });
        for change in all(&diff(&before, &after)) {
            let Some(example) = &change.example else { continue };
            let about_names = matches!(change.about, About::Names(_) | About::Unnamed);
            if lets_through || (about_names && !by_name) || change.sentence.contains("in the query") {
                continue;
            }
            let Some(questions) = asked(example) else { continue };
            let differs = questions.iter().any(|question| answer(&before, question).0 != answer(&after, question).0);
            prop_assert!(differs, "{change:#?}\n{old}\n{new}");
        }
    }

    #[test]
    fn what_opens_one_way_closes_the_other((old, new) in pair()) {
        let (before, after) = (compile("old", &old), compile("new", &new));
        let (there, back) = (all(&diff(&before, &after)), all(&diff(&after, &before)));
        let turned = |direction| match direction {
            Direction::Opens => Direction::Closes,
            Direction::Closes => Direction::Opens,
            Direction::Changes => Direction::Changes,
        };
        let mirrored = |changes: &[Change], turn: fn(Direction) -> Direction| {
            let mut list: Vec<String> = Vec::new();
            let mut ranges: [Vec<IpNet>; 2] = Default::default();
            for Change { about, direction, .. } in changes {
                let direction = turn(*direction);
                match about {
                    About::Addresses(of_one) => ranges[direction as usize].extend(of_one),
                    about => list.push(format!("{about:?} {direction}")),
                }
            }
            list.sort();
            (list, ranges.map(|ranges| IpNet::aggregate(&ranges)))
        };
        prop_assert_eq!(mirrored(&there, |direction| direction), mirrored(&back, turned), "{}\n{}", old, new);
    }

    #[test]
    fn a_policy_does_not_differ_from_itself(made in made(), terse in any::<bool>()) {
        let text = made.text();
        let (one, other) = (compile("one", &text), compile("other", &text));
        prop_assert_eq!(diff(&one, &other), Changes::default());
        // Its revision is another, and nothing that is asked is.
        let mut other = other;
        other.denials = if terse { Denials::Terse } else { Denials::Explain };
        let other = other.sealed();
        let changes = all(&diff(&one, &other));
        prop_assert!(changes.iter().all(|change| change.about == About::Setting("denials")), "{changes:#?}");
    }
}
