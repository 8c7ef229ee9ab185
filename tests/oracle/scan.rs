//! The oracle: POLICY §2, §3, §5 and §8 as a reader would apply them, row by row, with lists and loops.
//!
//! It shares no code with the engine and takes no care of speed. Where the page leaves something open, the engine's
//! documentation settles it, and a comment here says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::model::{Ask, By, Dns, Entry, Facts, Mode, Model, Request, Said, Seen, Then};
use super::ranges::{self, Range};
use super::{names, paths, requests};

/// A judgement, and the question of the page that gave it, such as `row 5`.
pub(crate) struct Judged {
    pub(crate) said: Said<By>,
    pub(crate) question: &'static str,
}

/// What the policy says to a question.
pub(crate) fn judge(model: &Model, ask: &Ask) -> Judged {
    match ask {
        Ask::Flow(facts) => model.dialled(model.flow(facts), facts.dial),
        Ask::Request(request) => model.dialled(model.request(request), request.dial),
        Ask::Name(name) => model.name(name),
        Ask::Answer(address) => model.refuses_address(*address).unwrap_or_else(|| allow("answer", "", None)),
    }
}

/// What rows 0 to 4 say before a byte is read; `None` where they leave it open.
pub(crate) fn judge_address(model: &Model, dst: SocketAddr) -> Option<Said<By>> {
    if is_block(dst.ip()) {
        return None;
    }
    let denial = model.row_1(dst.ip()).filter(|_| !model.observe).or_else(|| model.row_2(dst.ip()));
    if let Some(denial) = denial {
        return Some(denial.said);
    }
    // What `observe` lets through is recorded once it is known by what name it goes.
    if model.row_1(dst.ip()).is_some() {
        return None;
    }
    match model.row_3() {
        Some(denial) => Some(denial.said).filter(|_| !model.observe),
        None => model.row_4(dst).map(|permit| permit.said),
    }
}

/// The ranges of POLICY §3 that a policy opens by naming a part of them.
const OPENABLE: [(IpAddr, usize); 5] = [
    (four(10, 0, 0, 0), 8),
    (four(172, 16, 0, 0), 12),
    (four(192, 168, 0, 0), 16),
    (four(100, 64, 0, 0), 10),
    (six(0xfc00, 0, 0), 7),
];

/// Those that it does not.
const CLOSED: [(IpAddr, usize); 11] = [
    (four(0, 0, 0, 0), 8),
    (four(127, 0, 0, 0), 8),
    (four(169, 254, 0, 0), 16),
    (four(224, 0, 0, 0), 4),
    (four(240, 0, 0, 0), 4),
    (four(198, 18, 0, 0), 15),
    (six(0, 0, 0), 128),
    (six(0, 0, 1), 128),
    (six(0xfe80, 0, 0), 10),
    (six(0xff00, 0, 0), 8),
    (six(0xfd00, 0xec2, 0x254), 128),
];

const fn four(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn six(first: u16, second: u16, last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, last))
}

/// Row 0: the addresses of §5 that a refused name is answered with.
fn is_block(address: IpAddr) -> bool {
    let block = [four(192, 0, 2, 1), six(0x2001, 0xdb8, 1)];
    ranges::readings(address).iter().any(|reading| block.contains(reading))
}

fn deny(question: &'static str, reason: &str, rule: Option<By>) -> Judged {
    Judged { question, said: Said { verdict: "deny", reason: reason.to_owned(), rule, ..Said::default() } }
}

fn allow(question: &'static str, route: &'static str, rule: Option<By>) -> Judged {
    Judged { question, said: Said { verdict: "allow", route, rule, ..Said::default() } }
}

fn permit(question: &'static str, route: &'static str, rule: By, target: String) -> Judged {
    let mut judged = allow(question, route, Some(rule));
    judged.said.target = target;
    judged
}

/// `NAME:PORT`, or the address where there is no name.
fn target(name: Option<&String>, dst: SocketAddr) -> String {
    name.map_or_else(|| dst.to_string(), |name| format!("{name}:{}", dst.port()))
}

/// The rows.
impl Model {
    fn row_1(&self, address: IpAddr) -> Option<Judged> {
        // Of several ranges the narrowest is named; of several readings the first that a range holds.
        let narrowest = |reading: &IpAddr| ranges::narrowest(&self.closed, *reading);
        let place = ranges::readings(address).iter().find_map(narrowest)?;
        Some(deny("row 1", "denied-cidr", Some(By::Closed(place))))
    }

    fn row_2(&self, address: IpAddr) -> Option<Judged> {
        let protected = ranges::readings(address).into_iter().any(|reading| self.protects(reading));
        protected.then(|| deny("row 2", "protected-range", None))
    }

    fn protects(&self, reading: IpAddr) -> bool {
        let holds = |range: Range| ranges::holds(ranges::meant(range), reading);
        let listed = |list: &[(IpAddr, usize)]| {
            list.iter().map(|&(address, length)| Range { address, length }).find(|range| holds(*range))
        };
        let own = self.host.own.iter().any(|own| ranges::unwrapped(*own) == reading);
        if self.host.unprotected.iter().any(|range| holds(*range)) {
            return false;
        }
        if own || listed(&CLOSED).is_some() {
            return true;
        }
        let Some(openable) = listed(&OPENABLE) else { return false };
        let inside = |entry: Range, range: Range| ranges::within(ranges::meant(entry), ranges::meant(range));
        let may_open = |entry: Range| match &self.api {
            None => true,
            Some(listed) => listed.iter().any(|range| inside(entry, *range)),
        };
        !self.opened.iter().any(|entry| inside(*entry, openable) && may_open(*entry) && holds(*entry))
    }

    fn row_3(&self) -> Option<Judged> {
        let empty = self.allow.is_empty() && self.opened.is_empty();
        match self.mode {
            Mode::DenyAll => Some(deny("row 3", "deny-all", Some(By::Mode))),
            Mode::Lists if empty => Some(deny("row 3", "deny-all", None)),
            Mode::Lists | Mode::AllowAll => None,
        }
    }

    fn row_4(&self, dst: SocketAddr) -> Option<Judged> {
        let place = ranges::narrowest(&self.opened, ranges::unwrapped(dst.ip()));
        let place = place.or_else(|| ranges::narrowest(&self.opened, dst.ip()))?;
        Some(permit("row 4", "relay", By::Opened(place), dst.to_string()))
    }

    fn row_5(&self, name: &str) -> Option<Judged> {
        let patterns: Vec<&[String]> = self.deny.iter().map(|pattern| pattern.labels.as_slice()).collect();
        let place = names::most_specific(&patterns, name)?;
        Some(deny("row 5", "denied-domain", Some(By::Deny(place))))
    }

    /// The entry of `allow` that applies to a name, whether or not `deny` matches it.
    fn entry(&self, name: &str) -> Option<(usize, &Entry)> {
        let patterns: Vec<&[String]> = self.allow.iter().map(|entry| entry.pattern.labels.as_slice()).collect();
        let place = names::most_specific(&patterns, name)?;
        Some((place, &self.allow[place]))
    }

    /// What row 6 permits a name by.
    fn row_6(&self, name: &str) -> Option<By> {
        let mode = (self.mode == Mode::AllowAll).then_some(By::Mode);
        self.entry(name).map(|(place, _)| By::Entry(place)).or(mode)
    }

    fn row_7(&self, facts: &Facts) -> Option<Judged> {
        let mut last = None;
        for name in &facts.pinned {
            if self.row_5(name).is_some() {
                return None;
            }
            let (place, entry) = self.entry(name)?;
            let opaque = |then: &Then| matches!(then, Then::Opaque(ports) if ports.contains(&facts.dst.port()));
            let rule = entry.rules.iter().position(|rule| opaque(&rule.then))?;
            last = Some(permit("row 7", "relay", By::Rule(place, rule), target(Some(name), facts.dst)));
        }
        last
    }

    fn row_8(&self, dst: SocketAddr) -> Option<Judged> {
        let star = self.allow.iter().position(|entry| entry.pattern.labels == ["*"] && entry.rules.is_empty());
        let rule = match self.mode {
            Mode::AllowAll => By::Mode,
            Mode::Lists => By::Entry(star?),
            Mode::DenyAll => return None,
        };
        let relayed = self.deny.is_empty() && !self.strict;
        relayed.then(|| permit("row 8", "relay", rule, dst.to_string()))
    }

    fn rows_8_and_9(&self, dst: SocketAddr) -> Judged {
        self.row_8(dst).unwrap_or_else(|| deny("row 9", "no-name", None))
    }
}

/// Flows.
impl Model {
    fn flow(&self, facts: &Facts) -> Judged {
        let address = facts.dst.ip();
        if is_block(address) {
            return self.blocked(self.seen(facts), facts);
        }
        let first = self.row_1(address);
        let stands = first.filter(|denial| self.stands(denial)).or_else(|| self.row_2(address));
        if let Some(denial) = stands.or_else(|| self.row_3().filter(|denial| self.stands(denial))) {
            return denial;
        }
        // What is left of rows 1 and 3 is observed.
        let withheld = self.row_1(address).or_else(|| self.row_3());
        if let (None, Some(permit)) = (&withheld, self.row_4(facts.dst)) {
            return permit;
        }
        let rest = self.seen(facts);
        if self.stands(&rest) {
            return rest;
        }
        match withheld {
            Some(denial) => self.let_flow_through(denial, facts),
            None if rest.said.verdict == "deny" => self.let_flow_through(rest, facts),
            None => rest,
        }
    }

    /// Rows 5 to 9, and what §4 says of what cannot be judged by them.
    fn seen(&self, facts: &Facts) -> Judged {
        let web = facts.dst.port() == 80 || facts.dst.port() == 443;
        match &facts.seen {
            Seen::Tls(Some(name)) => self.tls(name, facts.dst),
            Seen::Tls(None) => self.rows_8_and_9(facts.dst),
            Seen::Http => allow("http", "terminate", None),
            Seen::Opaque if web => deny("not http", "not-http", None),
            Seen::Opaque => self.row_7(facts).unwrap_or_else(|| self.rows_8_and_9(facts.dst)),
            Seen::Unreadable => deny("unreadable", "unreadable-hello", None),
            // Nothing was read, so nothing but the address can permit it.
            Seen::Unread => deny("unread", "no-name", None),
        }
    }

    fn tls(&self, name: &String, dst: SocketAddr) -> Judged {
        if let Some(denial) = self.row_5(name) {
            return denial;
        }
        let Some(by) = self.row_6(name) else { return deny("row 9", "no-rule", None) };
        let has_request_rules = self
            .entry(name)
            .is_some_and(|(_, entry)| entry.rules.iter().any(|rule| !matches!(rule.then, Then::Opaque(_))));
        if has_request_rules || self.strict {
            return allow("row 6, terminate", "terminate", Some(by));
        }
        permit("row 6, splice", "splice", by, target(Some(name), dst))
    }

    /// Row 0: refused by the reason that would refuse it elsewhere, or for want of a rule or a name. A request in clear
    /// names itself, and is refused then.
    fn blocked(&self, rest: Judged, facts: &Facts) -> Judged {
        if facts.seen == Seen::Http {
            return rest;
        }
        let denial = self.row_3().unwrap_or(rest);
        let reason = match (denial.said.verdict, &facts.seen) {
            ("deny", _) => return Judged { question: "row 0", ..denial },
            (_, Seen::Tls(Some(_))) => "no-rule",
            _ => "no-name",
        };
        deny("row 0", reason, None)
    }

    /// Whether it denies for a reason that `observe` does not relax.
    fn stands(&self, judged: &Judged) -> bool {
        let relaxed = ["denied-cidr", "deny-all", "denied-domain", "no-rule", "no-name"];
        judged.said.verdict == "deny" && !(self.observe && relaxed.contains(&judged.said.reason.as_str()))
    }

    /// §8: recorded and let through, with no injection.
    fn let_flow_through(&self, denial: Judged, facts: &Facts) -> Judged {
        let Said { reason, rule, .. } = denial.said;
        let name = match &facts.seen {
            Seen::Tls(name) => name.as_ref(),
            _ => None,
        };
        let mut through = match (&facts.seen, name) {
            // Its requests will say what they are let through despite.
            (Seen::Http, _) => return allow("observed", "terminate", rule),
            (_, Some(_)) => allow("observed", "splice", rule),
            (_, None) => allow("observed", "relay", rule),
        };
        through.said.reason = reason;
        through.said.target = target(name, facts.dst);
        through
    }
}

/// Requests.
impl Model {
    fn request(&self, request: &Request) -> Judged {
        let address = request.dst.ip();
        if is_block(address) {
            let rest = self.head(request);
            let reason = if request.authority.is_some() { "no-rule" } else { "no-name" };
            return match rest.said.verdict {
                "deny" => Judged { question: "row 0", ..rest },
                _ => deny("row 0", reason, None),
            };
        }
        let first = self.row_1(address);
        if let Some(denial) = first.filter(|denial| self.stands(denial)).or_else(|| self.row_2(address)) {
            return denial;
        }
        let withheld = self.row_1(address);
        let rest = self.head(request);
        if self.stands(&rest) {
            return rest;
        }
        let observed = match (withheld, rest.said.verdict, rest.said.route) {
            (Some(denial), ..) => denial,
            (None, "deny", _) => rest,
            // No reason of §7 says "answered here"; of those that are, the engine records this one.
            (None, _, "respond") if self.observe => deny("", "no-rule", rest.said.rule),
            _ => return rest,
        };
        let mut through = allow("observed", "forward", observed.said.rule);
        through.said.reason = observed.said.reason;
        through.said.target = target(request.authority.as_ref(), request.dst);
        through
    }

    /// Rows 3 to 9.
    fn head(&self, request: &Request) -> Judged {
        if let Some(denial) = self.row_3() {
            return denial;
        }
        // What was terminated stays judged by name: row 4 would have relayed it unread.
        if let (false, Some(mut permit)) = (request.secure, self.row_4(request.dst)) {
            permit.said.route = "forward";
            return permit;
        }
        let Some(name) = &request.authority else {
            if request.secure {
                return deny("row 9", "no-name", None);
            }
            let mut judged = self.rows_8_and_9(request.dst);
            if judged.said.verdict == "allow" {
                judged.said.route = "forward";
            }
            return judged;
        };
        if let Some(denial) = self.row_5(name) {
            return denial;
        }
        let Some(by) = self.row_6(name) else { return deny("row 9", "no-rule", None) };
        let unchanged = permit("row 6, forward", "forward", by, target(Some(name), request.dst));
        match self.entry(name) {
            Some((place, entry)) if !entry.rules.is_empty() => {
                let judged = entry_says(place, entry, request, unchanged);
                let elsewhere = origin(&judged.said.url);
                let host = elsewhere.split(':').next().unwrap_or_default();
                if judged.question == "forward elsewhere" { self.row_5(host).unwrap_or(judged) } else { judged }
            }
            _ => unchanged,
        }
    }
}

/// The rules of an entry.
fn entry_says(place: usize, entry: &Entry, request: &Request, unchanged: Judged) -> Judged {
    let opaque = |then: &Then| matches!(then, Then::Opaque(_));
    let claimed = |path: &[u8]| {
        entry.rules.iter().position(|rule| !opaque(&rule.then) && requests::claims(rule.when.as_ref(), request, path))
    };
    let sent = claimed(request.path.as_bytes());
    let reads_path = entry.rules.iter().any(|rule| rule.when.as_ref().is_some_and(|when| when.path.is_some()));
    let decoded = paths::fully_decoded(&request.path);
    // Beyond the page, the engine takes a NUL for a path that has no certain reading.
    if reads_path && (claimed(&decoded) != sent || decoded.contains(&0)) {
        return deny("ambiguous path", "ambiguous-path", Some(By::Entry(place)));
    }
    let Some(rule) = sent else { return Judged { question: "no rule claims", ..unchanged } };
    let by = By::Rule(place, rule);
    let mut judged = Judged { question: "pass", ..unchanged };
    judged.said.rule = Some(by);
    match &entry.rules[rule].then {
        Then::Pass | Then::Opaque(_) => {}
        Then::Respond(status) => {
            judged = allow("respond", "respond", Some(by));
            judged.said.status = Some(*status);
        }
        Then::Transform(_) | Then::Forward(_) if !request.secure => {
            return deny("plaintext", "plaintext-injection", Some(by));
        }
        Then::Forward(url) if leaves(url, &request.path) => {
            return deny("forward out of the URL", "ambiguous-path", Some(by));
        }
        Then::Forward(url) => {
            judged.question = "forward elsewhere";
            judged.said.url.clone_from(url);
            judged.said.target = origin(url);
        }
        Then::Transform(elements) => {
            let mut merged: Vec<(String, String)> = Vec::new();
            for (header, value) in elements.iter().flatten() {
                merged.retain(|(other, _)| !other.eq_ignore_ascii_case(header));
                merged.push((header.to_ascii_lowercase(), value.clone()));
            }
            merged.sort();
            if request.dst.port() != 443 && merged.iter().any(|(_, value)| value.contains("${secrets.")) {
                return deny("secret off 443", "secret-unavailable", Some(by));
            }
            judged.question = "transform";
            judged.said.injected = merged;
        }
    }
    judged
}

/// Whether a path, appended to the URL, may be read as one that is not beneath it.
fn leaves(url: &str, path: &str) -> bool {
    let base = url.splitn(4, '/').nth(3).unwrap_or_default().trim_end_matches('/');
    let whole = paths::fully_decoded(&format!("/{base}{path}"));
    !base.is_empty() && !whole.starts_with(format!("/{base}/").as_bytes())
}

/// `HOST:PORT` of `https://HOST[:PORT][/…]`.
fn origin(url: &str) -> String {
    let authority = url.split('/').nth(2).unwrap_or("");
    if authority.contains(':') { authority.to_owned() } else { format!("{authority}:443") }
}

/// Names and addresses.
impl Model {
    /// §5.
    fn name(&self, name: &str) -> Judged {
        let any = || self.row_5(name).unwrap_or_else(|| allow("dns any", "", None));
        let listed = || match (self.row_5(name), self.row_6(name)) {
            (Some(denial), _) => denial,
            (None, Some(by)) => allow("dns names", "", Some(by)),
            (None, None) => deny("dns names", "no-rule", None),
        };
        let judged = match (self.row_3(), self.dns) {
            (Some(denial), _) => denial,
            (None, Some(Dns::None)) => deny("dns none", "no-rule", None),
            (None, Some(Dns::Any)) => any(),
            (None, Some(Dns::Names)) => listed(),
            (None, None) if self.mode == Mode::AllowAll => any(),
            (None, None) if self.api.is_some() && self.allow.is_empty() => any(),
            (None, None) => listed(),
        };
        if judged.said.verdict == "deny" && self.observe {
            return allow("dns observed", "", judged.said.rule);
        }
        judged
    }

    /// Rows 1 and 2 at the moment of dialling.
    fn refuses_address(&self, address: IpAddr) -> Option<Judged> {
        if is_block(address) {
            return Some(deny("answer", "protected-range", None));
        }
        self.row_1(address).filter(|_| !self.observe).or_else(|| self.row_2(address))
    }

    /// Adds what vetting says of an address to dial, where there is a permit.
    fn dialled(&self, mut judged: Judged, dial: SocketAddr) -> Judged {
        let Said { target, rule, .. } = &judged.said;
        if target.is_empty() {
            return judged;
        }
        // A permit for an address is for that one, in any spelling; a permit for a name leaves the port to resolving.
        let only: Option<SocketAddr> = target.parse().ok();
        let other = only.is_some_and(|only| {
            ranges::unwrapped(only.ip()) != ranges::unwrapped(dial.ip()) || only.port() != dial.port()
        });
        let refusal = if other {
            Some(("no-rule".to_owned(), *rule))
        } else {
            self.refuses_address(dial.ip()).map(|denial| (denial.said.reason, denial.said.rule))
        };
        judged.said.dial = Some(refusal.map_or(Ok(dial), Err));
        judged
    }
}
