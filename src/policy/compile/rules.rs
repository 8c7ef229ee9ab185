//! The rules of an entry: what they match and what they do (POLICY §3 "Rules of an entry").

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::Compiler;
use crate::flow::{Domain, SecretName};
use crate::limits;
use crate::matcher::request::{PairMatch, RegexError, RequestMatch, TextMatch};
use crate::policy::diagnostic::{Code, Fault};
use crate::policy::placeholder::Places;
use crate::policy::verdict::{ForwardUrl, Injection, LocalResponse, Part, Segment, Template};
use crate::policy::wire::{
    BasicWire, Existing, Field, ForwardTo, HeaderKey, HeaderTemplate, Kind, List, MatchWire, Matched, MatcherWire,
    MethodName, OpaqueWire, PairWire, PathMatcherWire, PathPattern, PlaceholdersWire, PortWire, ResponseWire, RuleWire,
    Span, Table, Text, TransformWire, Word,
};
use crate::policy::{Author, Feature, Handling, Rule, Then};

/// How a header or a response uses a header's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Transform,
    Response,
    Placeholder,
}

/// A matcher's one key.
type Written<'w, 'n> = (&'static str, &'w Field<'n, Text<'n, Matched>>);

impl Compiler<'_> {
    /// The rules of an entry, and where those stand that are about requests.
    pub(super) fn handling(&mut self, wires: &[RuleWire<'_>]) -> (Handling, Vec<Span>) {
        let mut handling = Handling::default();
        let mut places = Vec::new();
        for wire in wires {
            self.rule(wire, &mut handling);
            places.extend((handling.rules.len() > places.len()).then_some(wire.span));
        }
        (handling, places)
    }

    /// Compiles one rule and adds it, unless it has a fault.
    fn rule(&mut self, wire: &RuleWire<'_>, handling: &mut Handling) -> Option<()> {
        let RuleWire { span, when, transform, sign, placeholders, forward, response, opaque } = wire;
        self.count_rule(*span);
        let actions = [
            ("transform", transform.key()),
            ("sign", sign.key()),
            ("placeholders", placeholders.key()),
            ("forwardURL", forward.key()),
            ("response", response.key()),
            ("opaque", opaque.key()),
        ];
        let mut written = actions.iter().filter_map(|(key, span)| Some((key, (*span)?)));
        if let (Some((first, _)), Some((second, place))) = (written.next(), written.next())
            && !self.forward_wins(first, second)
        {
            let message = format!("a rule has one action, and this has `{first}` and `{second}`");
            let help = "write two rules, each with its `match`: the first that holds claims the request";
            self.faults.push(Fault::new(Code::Conflict, message).place(place).help(help));
            return None;
        }
        if opaque.is_written() {
            if let Some(key) = when.key() {
                let message = "`opaque` is not about requests, so no `match` stands beside it";
                self.faults.push(Fault::new(Code::Conflict, message).place(key));
            }
            let id = self.id(*span);
            handling.opaque.extend(self.ports(opaque.get()?)?.into_iter().map(|port| (port, id.clone())));
            return Some(());
        }
        let when = self.when(when)?;
        let before = self.sent.len();
        let then = if forward.is_written() {
            Then::Divert(Arc::new(self.forward_url(forward.get()?)?))
        } else if transform.is_written() {
            Then::Transform(self.transform(transform.get()?).into())
        } else if sign.is_written() {
            Then::Sign(Arc::new(self.signing(sign.get()?)?))
        } else if placeholders.is_written() {
            Then::Replace(self.places(placeholders.get()?)?)
        } else if response.is_written() {
            Then::Respond(Arc::new(self.response(response.get()?)?))
        } else {
            Then::Pass
        };
        self.check_scope(before, &when);
        handling.add(Rule { id: self.id(*span), when, then });
        Some(())
    }

    fn count_rule(&mut self, span: Span) {
        self.rules += 1;
        if self.rules == limits::POLICY_RULES + 1 {
            let message = format!("the policy has more than {} rules", limits::POLICY_RULES);
            self.faults.push(Fault::new(Code::Limit, message).place(span));
        }
    }

    /// The API takes `transform` beside `forwardURL`, and the latter wins (POLICY §3); in a file it is a mistake.
    fn forward_wins(&self, first: &str, second: &str) -> bool {
        self.terms.author != Author::Operator && (first, second) == ("transform", "forwardURL")
    }

    /// An older API's rule: it sets headers.
    pub(super) fn injection_rule(
        &mut self,
        span: Span,
        headers: Option<&Table<'_, HeaderKey, Text<'_, HeaderTemplate>>>,
        when: &Field<'_, MatchWire<'_>>,
    ) -> Option<Rule> {
        self.count_rule(span);
        let (mut injections, before) = (Vec::new(), self.sent.len());
        self.set_headers(headers?, false, &mut injections);
        let when = self.when(when)?;
        self.check_scope(before, &when);
        Some(Rule { id: self.id(span), when, then: Then::Transform(injections.into()) })
    }

    /// Where a rule has placeholders replaced.
    fn places(&mut self, wire: &PlaceholdersWire<'_>) -> Option<Places> {
        let PlaceholdersWire { places: list } = wire;
        let mut places = Places::default();
        for Word { value, span } in &list.get()?.items {
            if places.has(*value) {
                let message = format!("`{}` stands here twice", value.word());
                self.faults.push(Fault::new(Code::Duplicate, message).place(*span));
            }
            places.add(*value);
            self.replacing.get_or_insert(*span);
        }
        Some(places)
    }

    /// The ports of an `opaque` rule.
    fn ports(&mut self, wire: &OpaqueWire<'_>) -> Option<Vec<u16>> {
        let OpaqueWire { ports: list } = wire;
        let mut ports = Vec::new();
        for PortWire { value, span } in &list.get()?.items {
            if matches!(value, 80 | 443) {
                let fault = Fault::new(Code::BadValue, format!("port {value} is never opaque")).place(*span);
                self.faults.push(fault.help("HTTP and TLS are judged by name; an entry without rules is spliced"));
            } else if ports.contains(value) {
                let message = format!("the port {value} stands here twice");
                self.faults.push(Fault::new(Code::Duplicate, message).place(*span));
            } else {
                ports.push(*value);
            }
        }
        Some(ports)
    }

    /// The URL of a `forwardURL` rule (POLICY §6).
    fn forward_url(&mut self, text: &Text<'_, ForwardTo>) -> Option<ForwardUrl> {
        if self.lacks(Feature::Forward, "forwardURL", text.span) {
            return None;
        }
        let hosts = self.terms.forward_hosts.as_ref();
        let url = read_forward_url(text.text).and_then(|url| {
            let listed = hosts.is_none_or(|hosts| hosts.iter().any(|host| host.matches(&url.host)));
            listed.then_some(url).ok_or("the operator lists the hosts that a `forwardURL` may name, and this is none")
        });
        match url {
            Ok(url) => Some(url),
            Err(message) => {
                self.faults.push(Fault::new(Code::BadValue, message).place(text.span).hidden());
                None
            }
        }
    }

    /// What a `match` asks; `None` if it is there and has a fault.
    fn when(&mut self, field: &Field<'_, MatchWire<'_>>) -> Option<RequestMatch> {
        if !field.is_written() {
            return Some(RequestMatch::default());
        }
        let MatchWire { method, path, query, headers } = field.get()?;
        Some(RequestMatch {
            methods: method.get().map(|list| self.methods(list)).unwrap_or_default(),
            path: path.get().and_then(|path| self.path_match(path)),
            query: query.get().map(|list| self.pairs(list, false)).unwrap_or_default(),
            headers: headers.get().map(|list| self.pairs(list, true)).unwrap_or_default(),
        })
    }

    pub(super) fn methods<const MIN: usize>(&mut self, list: &List<Text<'_, MethodName>, MIN>) -> Vec<String> {
        let mut methods: Vec<String> = Vec::new();
        for Text { text, span, .. } in &list.items {
            if Method::from_bytes(text.as_bytes()).is_err() {
                self.faults.bad(*span, format!("`{text}` cannot be a method"));
            } else if methods.iter().any(|method| method == text) {
                let message = format!("the method `{text}` stands here twice");
                self.faults.push(Fault::new(Code::Duplicate, message).place(*span));
            } else {
                self.advise_on_method(text, *span);
                methods.push((*text).to_owned());
            }
        }
        methods
    }

    fn pairs<const MIN: usize>(&mut self, list: &List<PairWire<'_>, MIN>, header: bool) -> Vec<PairMatch> {
        let mut pairs = Vec::new();
        for PairWire { span, key, value } in &list.items {
            if !key.is_written() && !value.is_written() {
                let fault = Fault::new(Code::Missing, "the matcher needs `key`, `value` or both");
                self.faults.push(fault.place(*span));
            }
            let key = key.get().and_then(|matcher| self.text_match(matcher, header));
            let value = value.get().and_then(|matcher| self.text_match(matcher, false));
            pairs.push(PairMatch { key, value });
        }
        pairs
    }

    fn path_match(&mut self, wire: &PathMatcherWire<'_>) -> Option<TextMatch> {
        let PathMatcherWire { span, exact, starts_with, regex, glob } = wire;
        let keys = [("exact", exact), ("startsWith", starts_with), ("regex", regex), ("glob", glob)];
        self.matcher(*span, &keys, false)
    }

    /// A matcher; of a header's name if `any_case`.
    fn text_match(&mut self, wire: &MatcherWire<'_>, any_case: bool) -> Option<TextMatch> {
        let MatcherWire { span, exact, starts_with, regex } = wire;
        self.matcher(*span, &[("exact", exact), ("startsWith", starts_with), ("regex", regex)], any_case)
    }

    fn matcher(&mut self, span: Span, keys: &[Written<'_, '_>], any_case: bool) -> Option<TextMatch> {
        let mut written = keys.iter().filter(|(_, field)| field.is_written());
        let (Some((kind, field)), None) = (written.next(), written.next()) else {
            let names: Vec<String> = keys.iter().map(|(key, _)| format!("`{key}`")).collect();
            let message = format!("a matcher has exactly one of {}", names.join(", "));
            self.faults.push(Fault::new(Code::Missing, message).place(span));
            return None;
        };
        let value = field.get()?;
        if !self.without_secrets(value) {
            return None;
        }
        let text = value.text;
        let is_path = keys.iter().any(|(key, _)| *key == "glob");
        let cased = || if any_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let compiled = match *kind {
            "exact" => Ok(TextMatch::Exact(cased())),
            "startsWith" => Ok(TextMatch::StartsWith(cased())),
            "glob" => self.counted(value.span, || TextMatch::glob(text)),
            _ => self.counted(value.span, || TextMatch::regex(text, any_case)),
        };
        if let Err(fault) = &compiled {
            let fault = Fault::new(Code::BadValue, fault.to_string()).place(value.span);
            // What a header or a query should hold may be a credential.
            self.faults.push(if is_path { fault } else { fault.hidden() });
        }
        if !is_path {
            self.advise_on_credential(text, value.span, None);
        } else if let Ok(path) = &compiled {
            self.advise_on_path(path, value.span);
        }
        compiled.ok()
    }

    /// The paths that a secret's grant has.
    pub(super) fn granted_paths(&mut self, list: &List<Text<'_, PathPattern>, 1>) -> Vec<TextMatch> {
        let mut paths = Vec::new();
        for pattern in &list.items {
            match self.counted(pattern.span, || TextMatch::glob(pattern.text)) {
                Ok(path) => paths.push(path),
                Err(fault) => self.faults.bad(pattern.span, fault.to_string()),
            }
        }
        paths
    }

    /// Compiles an expression unless there are too many.
    fn counted(
        &mut self,
        span: Span,
        compile: impl FnOnce() -> Result<TextMatch, RegexError>,
    ) -> Result<TextMatch, RegexError> {
        self.regexes += 1;
        if self.regexes == limits::POLICY_REGEXES + 1 {
            let message = format!("the policy has more than {} expressions", limits::POLICY_REGEXES);
            self.faults.push(Fault::new(Code::Limit, message).place(span));
        }
        // The fault is recorded, so no policy comes of this; the others are not compiled, which takes memory.
        if self.regexes > limits::POLICY_REGEXES { Ok(TextMatch::Exact(String::new())) } else { compile() }
    }

    /// `${secrets.…}` is legal in `transform` values alone.
    fn without_secrets<K>(&mut self, text: &Text<'_, K>) -> bool {
        let clean = !text.text.contains("${secrets.");
        if !clean {
            let message = "a secret may be used in the header values of `transform` alone";
            self.faults.push(Fault::new(Code::BadValue, message).place(text.span).hidden());
        }
        clean
    }

    fn transform(&mut self, list: &List<TransformWire<'_>, 1>) -> Vec<Injection> {
        let mut injections: Vec<Injection> = Vec::new();
        for TransformWire { span, headers, basic, existing } in &list.items {
            if !headers.is_written() && !basic.is_written() {
                let fault = Fault::new(Code::Missing, "an element of `transform` needs `headers` or `basic`");
                self.faults.push(fault.place(*span));
            }
            let yields = existing.get().is_some_and(|word| word.value == Existing::Keep);
            if let Some(headers) = headers.get() {
                self.set_headers(headers, yields, &mut injections);
            }
            if let Some(value) = basic.get().and_then(|basic| self.basic(basic)) {
                let mut names = headers.get().into_iter().flat_map(|table| &table.entries);
                if names.any(|(name, _)| name.text.eq_ignore_ascii_case(AUTHORIZATION.as_str())) {
                    let message = "`basic` sets `authorization`, which `headers` sets, too";
                    self.faults.push(Fault::new(Code::Duplicate, message).place(*span));
                }
                injections.retain(|other| other.header != AUTHORIZATION);
                let spelled = AUTHORIZATION.as_str().into();
                injections.push(Injection { header: AUTHORIZATION, spelled, value, yields });
            }
        }
        injections
    }

    /// The credentials of `Basic` (RFC 7617).
    fn basic(&mut self, BasicWire { user, password }: &BasicWire<'_>) -> Option<Template> {
        let (user, password) = (user.get()?, password.get()?);
        let (before, behind) = (self.template(&AUTHORIZATION, user)?, self.template(&AUTHORIZATION, password)?);
        let (Some(mut parts), Some(behind)) = (before.into_plain(), behind.into_plain()) else {
            let fault = Fault::new(Code::BadValue, "`basic` is base64 as a whole").place(user.span).hidden();
            self.faults.push(fault.help("write `${secrets.NAME}` alone"));
            return None;
        };
        if parts.iter().any(|part| matches!(part, Part::Literal(text) if text.contains(':'))) {
            let fault = Fault::new(Code::BadValue, "a user's name holds no colon").place(user.span).hidden();
            self.faults.push(fault);
            return None;
        }
        parts.push(Part::Literal(":".to_owned()));
        parts.extend(behind);
        Some(Template(vec![Segment::Plain(Part::Literal("Basic ".to_owned())), Segment::Base64(parts)]))
    }

    /// Adds the headers of one element. Elements merge, and the later wins; within one, no name stands twice.
    fn set_headers(
        &mut self,
        table: &Table<'_, HeaderKey, Text<'_, HeaderTemplate>>,
        yields: bool,
        injections: &mut Vec<Injection>,
    ) {
        for (header, spelled, value) in self.headers(table, Use::Transform) {
            let Some(value) = self.template(&header, value) else { continue };
            injections.retain(|other| other.header != header);
            injections.push(Injection { header, spelled: spelled.into(), value, yields });
        }
    }

    /// Headers by canonical name, without those that may not be set and without repetition.
    fn headers<'w, 'n, K: Kind>(
        &mut self,
        table: &'w Table<'n, HeaderKey, Text<'n, K>>,
        purpose: Use,
    ) -> Vec<(HeaderName, &'n str, &'w Text<'n, K>)> {
        let mut headers: Vec<(HeaderName, &'n str, &Text<'n, K>)> = Vec::new();
        for (key, value) in &table.entries {
            let Some(name) = self.header_name(key, purpose) else { continue };
            if headers.iter().any(|(other, _, _)| *other == name) {
                let message = format!("the header `{name}` stands here twice");
                self.faults.push(Fault::new(Code::Duplicate, message).place(key.span));
            } else {
                headers.push((name, key.text, value));
            }
        }
        headers
    }

    pub(super) fn header_name(&mut self, key: &Text<'_, HeaderKey>, purpose: Use) -> Option<HeaderName> {
        let refuse = |message: String| Fault::new(Code::BadValue, message).place(key.span);
        let name = match HeaderName::from_bytes(key.text.as_bytes()) {
            Ok(name) => name,
            Err(_) => {
                // What follows a space may be the value, which nothing shows.
                let (name, rest) = key.text.split_once(' ').map_or((key.text, ""), |(name, _)| (name, " …"));
                let fault = refuse(format!("`{name}{rest}` cannot be the name of a header"));
                let line = name.len() > 1 && name.ends_with(':');
                self.faults.push(fault.perhaps(line.then_some("write `NAME: VALUE`, quotes around the value alone")));
                return None;
            }
        };
        if belongs_to_connection(&name) {
            self.faults.push(refuse(format!("`{name}` belongs to the connection and cannot be set")));
            return None;
        }
        if purpose == Use::Placeholder && name == http::header::HOST {
            self.faults.push(refuse("no placeholder stands in `host`".to_owned()));
            return None;
        }
        if purpose == Use::Response && name == "content-type" {
            self.faults.push(refuse("the type of a response is written `contentType`".to_owned()));
            return None;
        }
        Some(name)
    }

    /// A header's value. No fault shows its text, which may be a credential in the wrong place.
    fn template(&mut self, header: &HeaderName, value: &Text<'_, HeaderTemplate>) -> Option<Template> {
        let refuse = |message: String| Fault::new(Code::BadValue, message).place(value.span).hidden();
        let literal = |text: &str| (!text.is_empty()).then(|| Segment::Plain(Part::Literal(text.to_owned())));
        let mut segments = Vec::new();
        let mut rest = value.text;
        while let Some((before, after)) = rest.split_once("${") {
            let name = after.split_once('}').and_then(|(inside, after)| {
                rest = after;
                secret_reference(inside)
            });
            let Some((name, is_coded)) = name else {
                let fault = refuse("`${` must begin a secret's name".to_owned());
                self.faults.push(fault.help("a secret is written `${secrets.NAME}`, or `${secrets.NAME | base64}`"));
                return None;
            };
            self.refer_to_secret(&name, value.span);
            self.sent.push((name.clone(), value.span));
            segments.extend(literal(before));
            let secret = Part::Secret(name);
            segments.push(if is_coded { Segment::Base64(vec![secret]) } else { Segment::Plain(secret) });
        }
        segments.extend(literal(rest));
        for segment in &segments {
            if let Segment::Plain(Part::Literal(literal)) = segment
                && HeaderValue::from_str(literal).is_err()
            {
                self.faults.push(refuse("a header's value is visible ASCII and spaces".to_owned()));
                return None;
            }
        }
        self.advise_on_template(header, &segments, value.span);
        if header == http::header::HOST {
            match segments.as_slice() {
                [Segment::Plain(Part::Literal(literal))]
                    if Domain::parse(literal).is_ok_and(|name| name.as_str() == literal) =>
                {
                    let name = Domain::parse(literal).ok()?;
                    self.hosts.push((name, value.span));
                }
                _ => {
                    let fault = refuse("`host` can be set only to a name, in lower case and without a port".to_owned());
                    self.faults.push(fault);
                    return None;
                }
            }
        }
        Some(Template(segments))
    }

    fn response(&mut self, wire: &ResponseWire<'_>) -> Option<LocalResponse> {
        let ResponseWire { status, headers: table, body, content_type } = wire;
        let status = StatusCode::from_u16(status.get()?.value).ok()?;
        let mut headers = HeaderMap::new();
        for (name, _, value) in table.get().map(|table| self.headers(table, Use::Response)).unwrap_or_default() {
            if let Some(value) = self.plain_value(value, "a header's value") {
                headers.append(name, value);
            }
        }
        if let Some(value) = content_type.get().and_then(|text| self.plain_value(text, "`contentType`")) {
            headers.insert(http::header::CONTENT_TYPE, value);
        }
        let body = match body.get() {
            Some(text) => self.body(text, content_type.is_written(), status)?,
            None => bytes::Bytes::new(),
        };
        Some(LocalResponse { status, headers, body })
    }

    pub(super) fn plain_value<K>(&mut self, text: &Text<'_, K>, what: &str) -> Option<HeaderValue> {
        if !self.without_secrets(text) {
            return None;
        }
        self.advise_on_credential(text.text, text.span, None);
        let value = HeaderValue::from_str(text.text).ok();
        if value.is_none() {
            let message = format!("{what} is visible ASCII and spaces");
            self.faults.push(Fault::new(Code::BadValue, message).place(text.span).hidden());
        }
        value
    }

    fn body<K>(&mut self, text: &Text<'_, K>, typed: bool, status: StatusCode) -> Option<bytes::Bytes> {
        let refuse = |code, message: String| Fault::new(code, message).place(text.span).hidden();
        if !self.without_secrets(text) {
            return None;
        }
        self.advise_on_credential(text.text, text.span, None);
        if text.text.len() > limits::RESPONSE_BODY_BYTES {
            let message = format!("`body` is larger than {} bytes", limits::RESPONSE_BODY_BYTES);
            self.faults.push(refuse(Code::Limit, message));
        }
        if !typed {
            self.faults.push(refuse(Code::Missing, "a response with a `body` needs `contentType`".to_owned()));
        }
        if matches!(status.as_u16(), 204 | 205 | 304) {
            self.faults.push(refuse(Code::Conflict, format!("a response with status {} has no body", status.as_u16())));
        }
        Some(bytes::Bytes::copy_from_slice(text.text.as_bytes()))
    }
}

/// `secrets.NAME`, or `secrets.NAME | base64`: which secret, and whether its base64 is meant.
fn secret_reference(text: &str) -> Option<(SecretName, bool)> {
    let (name, coding) = text.split_once('|').map_or((text, None), |(name, coding)| (name.trim_end(), Some(coding)));
    let is_known = coding.is_none_or(|coding| coding.trim() == "base64");
    SecretName::new(name.strip_prefix("secrets.")?).filter(|_| is_known).map(|name| (name, coding.is_some()))
}

/// Framing and hop-by-hop (RFC 9110 §7.6.1, §8.6), which belong to each connection.
pub(in crate::policy) fn belongs_to_connection(name: &HeaderName) -> bool {
    const CONNECTION: [&str; 10] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    CONNECTION.contains(&name.as_str())
}

/// `https://HOST[:PORT][/PATH]`, without anything else.
fn read_forward_url(text: &str) -> Result<ForwardUrl, &'static str> {
    let Some(rest) = text.strip_prefix("https://") else { return Err("`forwardURL` begins with `https://`") };
    if rest.contains(['?', '#', '@']) {
        return Err("`forwardURL` has no user info, query or fragment");
    }
    if !rest.bytes().all(|b| b.is_ascii_graphic()) || rest.contains(['\\', '"', '<', '>', '`', '{', '}', '|', '^']) {
        return Err("`forwardURL` holds a character that no URL holds");
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)),
        None => (authority, Some(443)),
    };
    let (Ok(host), Some(port)) = (Domain::parse(host), port) else {
        return Err("`forwardURL` names a host, not an address, and a port from 1 to 65535 if any");
    };
    Ok(ForwardUrl { text: text.to_owned(), host, port, prefix: path.trim_end_matches('/').to_owned() })
}
