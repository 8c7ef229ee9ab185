//! Policies and questions out of bytes, so that a property test and a fuzzer share one generator: each byte is a
//! choice, what is missing is 0, and 0 is always the plainest choice, so that shorter and smaller bytes make simpler
//! counterexamples.
//!
//! The alphabets are small and questions are made of what the policy says, so that the two meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::model::{Ask, Dns, Entry, Facts, Host, Mode, Model, Pair, Pattern, Request, Rule, Seen, Text, Then, When};
use super::ranges::{self, Range};

/// Bytes as choices.
pub(crate) struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        *first
    }

    /// A number below `bound`, which is at most 256.
    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) * bound / 256
    }

    fn one_of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    /// Yes in so many of 256 cases.
    fn chance(&mut self, of_256: u16) -> bool {
        u16::from(self.byte()) >= 256 - of_256
    }

    fn some<T>(&mut self, of_256: u16, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.chance(of_256) { Some(make(self)) } else { None }
    }

    fn several<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn address(&mut self, items: &[&str]) -> IpAddr {
        items[self.below(items.len())].parse().expect("an address")
    }

    fn text(&mut self, items: &[&str]) -> String {
        self.one_of(items).to_owned()
    }
}

/// A policy.
pub(crate) fn model(from: &mut Choices<'_>) -> Model {
    let mode = from.one_of(&[Mode::Lists, Mode::Lists, Mode::Lists, Mode::Lists, Mode::AllowAll, Mode::AllowAll]);
    let mut model = Model { mode, strict: from.chance(48), observe: from.chance(64), ..Model::default() };
    model.dns = from.some(96, |from| from.one_of(&[Dns::Names, Dns::Any, Dns::None]));
    model.host = host(from);
    model.api = from.some(48, |from| ranges_of(from, 4));
    model.observe &= model.api.is_none();
    if mode == Mode::Lists && from.chance(8) {
        model.mode = Mode::DenyAll;
        return model;
    }
    for _ in 0..from.below(9) {
        let pattern = pattern(from);
        if model.allow.iter().all(|entry| entry.pattern.labels != pattern.labels) {
            let rules = if from.chance(144) { rules(from) } else { Vec::new() };
            model.allow.push(Entry { pattern, rules });
        }
    }
    for pattern in some_of(from, 3, pattern) {
        if model.deny.iter().all(|other| other.labels != pattern.labels) {
            model.deny.push(pattern);
        }
    }
    model.opened = ranges_of(from, 3);
    model.closed = ranges_of(from, 3);
    model
}

/// Often nothing at all.
fn some_of<T>(from: &mut Choices<'_>, most: usize, make: impl FnMut(&mut Choices<'_>) -> T) -> Vec<T> {
    if from.chance(128) { from.several(most, make) } else { Vec::new() }
}

fn host(from: &mut Choices<'_>) -> Host {
    let own = from.several(2, |from| from.address(OWN));
    let unprotected = if from.chance(64) { ranges_of(from, 2) } else { Vec::new() };
    Host { own, unprotected }
}

/// Addresses that a host may have.
const OWN: &[&str] = &["203.0.113.9", "10.20.0.9", "2001:db8:7::1", "::ffff:203.0.113.10", "192.0.2.1", "fd00::9"];

fn ranges_of(from: &mut Choices<'_>, most: usize) -> Vec<Range> {
    let mut found: Vec<Range> = Vec::new();
    for range in some_of(from, most, range) {
        if found.iter().all(|other| ranges::meant(*other) != ranges::meant(range)) {
            found.push(range);
        }
    }
    found
}

/// Ranges around the protected ones, wider and narrower; the block address; the forms that hold IPv4 addresses.
const RANGES: &[&str] = &[
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "8.0.0.0/6",
    "0.0.0.0/0",
    "1.1.1.0/24",
    "1.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "172.0.0.0/8",
    "192.168.0.0/16",
    "192.0.2.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "100.64.0.0/10",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/0",
    "fc00::/7",
    "fd00::/8",
    "fd00:ec2::/32",
    "fe80::/10",
    "2001:db8::/32",
    "2001::/32",
    "2002::/16",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "::ffff:0:0/96",
    "::ffff:10.0.0.0/104",
    "::ffff:1.1.1.1/128",
    "::/96",
    "::10.0.0.0/104",
];

fn range(from: &mut Choices<'_>) -> Range {
    if from.chance(192) {
        let text = from.text(RANGES);
        let (address, length) = text.split_once('/').expect("a range");
        return Range { address: address.parse().expect("an address"), length: length.parse().expect("a length") };
    }
    let address = from.address(ADDRESSES);
    let most = if address.is_ipv4() { 33 } else { 129 };
    let length = from.below(most);
    Range { address: cut(address, length), length }
}

/// The address without its bits beyond a length.
fn cut(address: IpAddr, length: usize) -> IpAddr {
    let mut octets = octets(address);
    for place in length..octets.len() * 8 {
        octets[place / 8] &= !(0x80 >> (place % 8));
    }
    address_of(&octets)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => six.octets().to_vec(),
    }
}

fn address_of(octets: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(octets) {
        Ok(four) => IpAddr::from(four),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(octets).expect("four or sixteen octets")),
    }
}

/// What nothing protects.
const PUBLIC: &[&str] = &["1.1.1.1", "8.8.8.8", "198.51.100.7", "2606:4700::1"];

/// Protected ones and their neighbours.
const ADDRESSES: &[&str] = &[
    "10.1.2.3",
    "203.0.113.9",
    "192.0.2.1",
    "192.0.2.2",
    "9.255.255.255",
    "11.0.0.0",
    "127.0.0.1",
    "128.0.0.0",
    "0.0.0.0",
    "0.255.255.255",
    "169.254.169.254",
    "169.253.255.255",
    "172.15.255.255",
    "172.16.0.0",
    "172.32.0.0",
    "192.168.255.255",
    "192.169.0.0",
    "100.63.255.255",
    "100.64.0.0",
    "100.128.0.0",
    "198.17.255.255",
    "198.18.0.0",
    "198.20.0.0",
    "223.255.255.255",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.0",
    "255.255.255.255",
    "::",
    "::1",
    "::2",
    "fc00::1",
    "fbff:ffff::1",
    "fd00:ec2::254",
    "fd00:ec2::253",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "2001:db8:7::1",
    "fd00::9",
    "64:ff9b:1::",
    "2001:0:1:2::",
];

/// An address that the policy has something to say of, or one of [`ADDRESSES`]; perhaps inside an IPv6 address.
fn address(from: &mut Choices<'_>, model: &Model) -> IpAddr {
    let mentioned: Vec<Range> =
        [&model.opened, &model.closed, &model.host.unprotected].into_iter().flatten().copied().collect();
    let own = &model.host.own;
    let plain = match from.below(16) {
        0..7 => from.address(PUBLIC),
        7..9 => from.address(ADDRESSES),
        9 if !own.is_empty() => from.one_of(own),
        _ if !mentioned.is_empty() => near(from, &mentioned),
        _ => from.address(PUBLIC),
    };
    match plain {
        IpAddr::V4(four) if from.chance(64) => embedded(from, four),
        address => address,
    }
}

/// In a range, at one of its ends, or just outside.
fn near(from: &mut Choices<'_>, ranges: &[Range]) -> IpAddr {
    let range = from.one_of(ranges);
    let first = octets(range.address);
    let mut last = first.clone();
    for place in range.length..last.len() * 8 {
        last[place / 8] |= 0x80 >> (place % 8);
    }
    match from.below(5) {
        0 => address_of(&first),
        1 => address_of(&last),
        2 => address_of(&step(first, false)),
        3 => address_of(&step(last, true)),
        _ => {
            let mut inside = first;
            for (place, octet) in inside.iter_mut().enumerate() {
                let free = range.length.saturating_sub(place * 8).min(8);
                *octet |= u8::try_from(0xff_u32 >> free).expect("one octet") & from.byte();
            }
            address_of(&inside)
        }
    }
}

/// The next address, or the one before; it wraps around.
fn step(mut octets: Vec<u8>, up: bool) -> Vec<u8> {
    for octet in octets.iter_mut().rev() {
        *octet = if up { octet.wrapping_add(1) } else { octet.wrapping_sub(1) };
        if *octet != if up { 0 } else { 0xff } {
            break;
        }
    }
    octets
}

/// The forms of POLICY §3 "Embedded IPv4", and one that is none.
fn embedded(from: &mut Choices<'_>, four: Ipv4Addr) -> IpAddr {
    let [a, b, c, d] = four.octets();
    let local = [0, 0x64, 0xff, 0x9b, 0, 1];
    let octets: [u8; 16] = match from.below(12) {
        0 => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d],
        1 => [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d],
        2 => [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d],
        3 => [0x20, 0x02, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, from.byte()],
        4 => [0x20, 0x01, 0, 0, a, b, c, d, 0, 0, 0, 0, !1, !1, !1, !1],
        5 => [0x20, 0x01, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, !a, !b, !c, !d],
        6 => [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, a, b, c, d],
        7 => [local.as_slice(), &[a, b, 0, c, d, 0, 0, 0, 0, 0]].concat().try_into().expect("sixteen octets"),
        8 => [local.as_slice(), &[0, a, 0, b, c, d, 0, 0, 0, 0]].concat().try_into().expect("sixteen octets"),
        9 => [local.as_slice(), &[0, 0, 0, a, b, c, d, 0, 0, 0]].concat().try_into().expect("sixteen octets"),
        10 => [local.as_slice(), &[0, 0, 0, 0, 0, 0, a, b, c, d]].concat().try_into().expect("sixteen octets"),
        _ => [0x20, 0x03, a, b, c, d, 0, 0, 0, 0, 0, 0, a, b, c, d],
    };
    IpAddr::V6(Ipv6Addr::from(octets))
}

fn socket(from: &mut Choices<'_>, model: &Model) -> SocketAddr {
    let address = address(from, model);
    SocketAddr::new(address, from.one_of(PORTS))
}

const PORTS: &[u16] = &[443, 443, 443, 80, 80, 22, 22, 8443, 5432, 53, 65535];

/// Labels as they may be spelled, and what they come to.
const LABELS: &[(&str, &str)] = &[
    ("a", "a"),
    ("b", "b"),
    ("www", "www"),
    ("api", "api"),
    ("c", "c"),
    ("A", "a"),
    ("_x", "_x"),
    ("1a", "1a"),
    ("b\u{fc}cher", "xn--bcher-kva"),
    ("evila", "evila"),
];

fn pattern(from: &mut Choices<'_>) -> Pattern {
    if from.chance(40) {
        return Pattern { spelled: "*".to_owned(), labels: vec!["*".to_owned()] };
    }
    let mut spelled = Vec::new();
    let mut labels = Vec::new();
    for _ in 0..from.below(4) {
        let (text, label) = if from.chance(96) { ("*", "*") } else { from.one_of(LABELS) };
        spelled.push(text);
        labels.push(label.to_owned());
    }
    let top = from.one_of(&["test", "com", "a"]);
    let (dot, upper) = (from.chance(16), from.chance(16));
    labels.push(top.to_owned());
    spelled.push(top);
    let text = spelled.join(".");
    let text = if upper { text.to_ascii_uppercase() } else { text };
    Pattern { spelled: if dot { format!("{text}.") } else { text }, labels }
}

/// A name that some pattern of the policy may match, or almost.
fn name(from: &mut Choices<'_>, model: &Model) -> String {
    let label = |from: &mut Choices<'_>| from.one_of(LABELS).1.to_owned();
    let patterns: Vec<&Pattern> = model.allow.iter().map(|entry| &entry.pattern).chain(&model.deny).collect();
    let mut labels: Vec<String> = Vec::new();
    if patterns.is_empty() || from.chance(40) {
        labels = from.several(3, label);
        labels.push(from.text(&["test", "com", "a"]));
    } else {
        let pattern = from.one_of(&patterns);
        for (place, part) in pattern.labels.iter().enumerate() {
            match part.as_str() {
                "*" => {
                    let more = if place == 0 { from.below(3) } else { 0 };
                    labels.extend((0..=more).map(|_| label(from)));
                }
                literal => labels.push(literal.to_owned()),
            }
        }
    }
    match from.below(16) {
        15 => labels.insert(0, label(from)),
        14 if labels.len() > 1 => drop(labels.remove(0)),
        13 => labels[0].insert_str(0, "evil"),
        12 => labels.push("test".to_owned()),
        11 => {
            let place = from.below(labels.len());
            labels[place] = label(from);
        }
        _ => {}
    }
    labels.join(".")
}

fn rules(from: &mut Choices<'_>) -> Vec<Rule> {
    from.several(4, |from| {
        let then = then(from);
        let when = if matches!(then, Then::Opaque(_)) { None } else { from.some(160, when) };
        Rule { when, then }
    })
}

fn then(from: &mut Choices<'_>) -> Then {
    match from.below(8) {
        0 | 1 => Then::Pass,
        2 | 3 => {
            let elements = 1 + from.below(2);
            Then::Transform((0..elements).map(|_| set_headers(from)).collect())
        }
        4 => Then::Forward(from.text(&[
            "https://fwd.test",
            "https://fwd.test:8443/base/",
            "https://a.test/",
            "https://deep.fwd.test/x/y",
        ])),
        5 => Then::Respond(from.one_of(&[403, 200, 204, 404, 599])),
        _ => {
            let mut ports: Vec<u16> = Vec::new();
            for port in [22, 5432, 8443, 65535] {
                if ports.is_empty() || from.chance(96) {
                    ports.push(port);
                }
            }
            Then::Opaque(ports)
        }
    }
}

/// One element of a `transform`: no name twice.
fn set_headers(from: &mut Choices<'_>) -> Vec<(String, String)> {
    let values = ["v", "Bearer ${secrets.KEY}", "${secrets.OTHER}", "a ${secrets.KEY} b ${secrets.OTHER}", ""];
    let mut headers: Vec<(String, String)> = Vec::new();
    for header in from.several(3, |from| from.text(&["x-a", "Authorization", "X-A", "x-b"])) {
        if headers.iter().all(|(other, _)| !other.eq_ignore_ascii_case(&header)) {
            headers.push((header, from.text(&values)));
        }
    }
    headers
}

fn when(from: &mut Choices<'_>) -> When {
    let mut when = When::default();
    for method in some_of(from, 2, |from| from.text(METHODS)) {
        if !when.methods.contains(&method) {
            when.methods.push(method);
        }
    }
    when.path = from.some(176, path_matcher);
    if from.chance(32) {
        when.query = (0..=from.below(2)).map(|_| pair(from, &["a", "b", "a b", "A"], &["1", "2", ""])).collect();
    }
    if from.chance(32) {
        let (names, values) = (["x-kind", "X-Kind", "accept"], ["read", "write", "Read"]);
        when.headers = (0..=from.below(2)).map(|_| pair(from, &names, &values)).collect();
    }
    when
}

const METHODS: &[&str] = &["GET", "POST", "get", "HEAD", "M-SEARCH"];

fn pair(from: &mut Choices<'_>, keys: &[&str], values: &[&str]) -> Pair {
    let key = matcher(from, keys, &["^x", "(?-u)A", "."]);
    match from.below(3) {
        0 => Pair { key: Some(key), value: None },
        1 => Pair { key: Some(key), value: Some(matcher(from, values, &["^r", "1|2", "^$"])) },
        _ => Pair { key: None, value: Some(matcher(from, values, &["^R", "1", "."])) },
    }
}

fn matcher(from: &mut Choices<'_>, texts: &[&str], expressions: &[&str]) -> Text {
    match from.below(4) {
        0 | 1 => Text::Exact(from.text(texts)),
        2 => Text::StartsWith(from.text(texts)),
        _ => Text::Regex(from.text(expressions)),
    }
}

fn path_matcher(from: &mut Choices<'_>) -> Text {
    let plain = ["/", "/a", "/a/", "/a/b", "/b", "/a/secret", "/secret", "/b/", "/a.b", "*"];
    match from.below(4) {
        0 => Text::StartsWith(from.text(&plain)),
        1 => Text::Exact(from.text(&plain)),
        2 => Text::Regex(from.text(&[
            "^/a",
            "b$",
            "/secret",
            "^/[ab]+/",
            "(?i)SECRET",
            "\\.",
            "^/a/b$",
            "^/.$",
            "\u{e9}",
        ])),
        _ => Text::Glob(from.text(GLOBS)),
    }
}

const GLOBS: &[&str] = &[
    "/*",
    "/**",
    "/a/*",
    "/a/*/b",
    "/**/b",
    "/a*",
    "/a.b",
    "/*/*",
    "/?",
    "/a/**/b/*",
    "/[ab]/**",
    "/[!a-c]*",
    "/{a,b}/*",
    "/a/{b,secret/**}",
    "\\*",
    "*",
    "**",
    "**/b",
];

/// What stands in a path, plain first.
const SEGMENTS: &[&str] = &[
    "a",
    "b",
    "secret",
    "",
    "a.b",
    "..",
    ".",
    "%2e%2e",
    "%2E.",
    "..;x",
    "a;x=1",
    ";",
    "%61",
    "%252e%252e",
    "%c0%ae%c0%ae",
    "%c0%a52e%c0%a52e",
    "%e0%80%ae.",
    "%00",
    "a%00",
    "%zz",
    "%",
    "%2",
    "%25",
    "%C3%A9",
    "%ff",
    "~%20",
    "%%c0%b2e",
];

fn path(from: &mut Choices<'_>) -> String {
    if from.chance(6) {
        return "*".to_owned();
    }
    let mut path = String::from("/");
    let odd = from.chance(160);
    let segments = if odd { SEGMENTS } else { &SEGMENTS[..3] };
    let between = if odd { &["/", "/", "//", "%2f", "%2F", "\\", "%5c", "%252f", "%c0%af", ""][..] } else { &["/"] };
    for place in 0..from.below(5) {
        if place > 0 {
            path.push_str(from.one_of(between));
        }
        path.push_str(from.one_of(segments));
    }
    if from.chance(48) {
        path.push('/');
    }
    path
}

/// A question about a policy.
pub(crate) fn ask(from: &mut Choices<'_>, model: &Model) -> Ask {
    match from.below(16) {
        0..6 => Ask::Flow(facts(from, model)),
        6..13 => Ask::Request(request(from, model)),
        13 | 14 => Ask::Name(name(from, model)),
        _ => Ask::Answer(address(from, model)),
    }
}

fn facts(from: &mut Choices<'_>, model: &Model) -> Facts {
    let mut dst = socket(from, model);
    let seen = match from.below(16) {
        0..6 => Seen::Tls(Some(name(from, model))),
        6..12 => Seen::Opaque,
        12 => Seen::Tls(None),
        13 => Seen::Http,
        14 => Seen::Unreadable,
        _ => Seen::Unread,
    };
    let pinned = from.several(3, |from| pin(from, model));
    if seen == Seen::Opaque && !pinned.is_empty() {
        dst.set_port(from.one_of(&[22, 22, 5432, 8443, 443]));
    }
    Facts { dst, seen, pinned, dial: dial(from, model, dst) }
}

/// A name, more often than not one with an `opaque` rule.
fn pin(from: &mut Choices<'_>, model: &Model) -> String {
    let is_opaque = |entry: &&Entry| entry.rules.iter().any(|rule| matches!(rule.then, Then::Opaque(_)));
    let allow: Vec<Entry> = model.allow.iter().filter(is_opaque).cloned().collect();
    if allow.is_empty() || from.chance(48) {
        return name(from, model);
    }
    name(from, &Model { allow, ..Model::default() })
}

/// Often the address itself.
fn dial(from: &mut Choices<'_>, model: &Model, dst: SocketAddr) -> SocketAddr {
    let mapped = |four: Ipv4Addr| SocketAddr::new(IpAddr::V6(four.to_ipv6_mapped()), dst.port());
    match (from.below(4), dst.ip()) {
        (0, _) => dst,
        (1, IpAddr::V4(four)) => mapped(four),
        (1 | 2, _) => SocketAddr::new(address(from, model), dst.port()),
        _ => socket(from, model),
    }
}

fn request(from: &mut Choices<'_>, model: &Model) -> Request {
    let secure = !from.chance(80);
    let path = path(from);
    let authority = if from.chance(24) { None } else { Some(name(from, model)) };
    let dst = socket(from, model);
    let query =
        ["", "a=1", "a=2&b=1", "a=%31", "a+b=1", "=1", "a", "&&a=1", "a=1=2", "A=1", "%61=1", "a=1;b=2", "%=%zz"];
    let headers = [("x-kind", "read"), ("x-kind", "write"), ("x-kind", "Read"), ("accept", "read"), ("x-other", "")];
    Request {
        secure,
        authority,
        dst,
        method: from.text(METHODS),
        path,
        query: from.some(96, |from| from.text(&query)),
        headers: from.several(3, |from| from.one_of(&headers)).into_iter().map(|(k, v)| (k.into(), v.into())).collect(),
        dial: dial(from, model, dst),
    }
}
