//! Placeholders: what a sandbox holds instead of a secret, and where in a request the secret takes its place.
//!
//! Pure: which texts are placeholders is for the sandbox to know, and comes in as [`Known`]. A placeholder is replaced
//! in a header that its secret names, on the way to a name, a port and by https as the secret's grant has them, also in
//! the credentials of `Basic` (RFC 7617). What it becomes is a header to set like those of a rule, so all that holds
//! for those holds for it. Where the rule that claims the request says so, and there alone, it is replaced in the query
//! and in the body, too: what a service stores and shows again would be handed back. Anywhere else it is worth
//! nothing, and that it is sent there tells of a mistake or of worse: the request is refused (POLICY §7:
//! `placeholder-misdirected`).
//!
//! - `INVARIANT`: of a request's head every placeholder that is found is replaced, or nothing of the request is sent.
//! - `INVARIANT`: what the sandbox wrote around a placeholder holds no other.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{AUTHORIZATION, GetAll, HOST, HeaderName, HeaderValue};

use super::Grant;
use super::compile::belongs_to_connection;
use super::verdict::{Denial, DenyReason, Injection, Part, Permit, Segment, Template, Text, Verdict};
use crate::flow::{Domain, RequestHead, Scheme, SecretName};
use crate::limits;

/// The headers in which a placeholder is replaced whose secret names none.
pub static HEADERS: [HeaderName; 2] = [AUTHORIZATION, HeaderName::from_static("x-api-key")];

/// As clients write it, and as careless ones do.
const BASIC: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const BASIC_SCHEME: &[u8] = b"Basic ";

/// A secret that has a placeholder, and where that is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandIn {
    secret: SecretName,
    grant: Grant,
    /// Whether it is a key that signs: such a one never goes out.
    signs: bool,
}

impl StandIn {
    /// Of every secret that a variable stands for, and whose grant says where it may go; `keys` are those that sign.
    pub(super) fn all(
        placeholders: &BTreeMap<String, SecretName>,
        grants: &BTreeMap<SecretName, Grant>,
        keys: &BTreeSet<SecretName>,
    ) -> Vec<Arc<Self>> {
        let names: BTreeSet<&SecretName> = placeholders.values().collect();
        let granted = |name: &SecretName| {
            Some(Self { secret: name.clone(), grant: grants.get(name)?.clone(), signs: keys.contains(name) })
        };
        names.into_iter().filter_map(granted).map(Arc::new).collect()
    }

    /// The secret.
    #[must_use]
    pub fn secret(&self) -> &SecretName {
        &self.secret
    }

    /// Where it may go, and what the placeholder looks like.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The headers in which it is replaced.
    #[must_use]
    pub fn headers(&self) -> &[HeaderName] {
        if self.signs {
            return &[];
        }
        if self.grant.headers.is_empty() { &HEADERS } else { &self.grant.headers }
    }

    /// Whether requests to this name may have it replaced.
    pub(super) fn is_for(&self, name: &Domain) -> bool {
        !self.signs && self.grant.names(name)
    }

    /// Whether this request to a name may.
    pub(super) fn may_join(&self, name: &Domain, head: &RequestHead<'_>) -> bool {
        head.scheme == Scheme::Https && self.is_for(name) && self.grant.permits(head)
    }
}

/// What a placeholder looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    prefix: String,
    length: usize,
}

impl Shape {
    /// Beginning with this, and so long in all; without a length, as long as is usual.
    ///
    /// # Errors
    /// What it cannot be, in one sentence.
    pub fn new(prefix: &str, length: Option<usize>) -> Result<Self, String> {
        if prefix.len() > limits::PLACEHOLDER_PREFIX || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("`prefix` is ASCII without blanks, {} bytes at most", limits::PLACEHOLDER_PREFIX));
        }
        let (least, most) = (prefix.len() + limits::PLACEHOLDER_RANDOM, limits::PLACEHOLDER_BYTES);
        let length = length.unwrap_or(prefix.len() + limits::PLACEHOLDER_USUAL);
        if !(least..=most).contains(&length) {
            return Err(format!("`length` is from {least}, the prefix and what nobody guesses, to {most}"));
        }
        Ok(Self { prefix: prefix.to_owned(), length })
    }

    /// What it begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How many bytes it has, those included.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }
}

/// The name of a header in which a placeholder may be replaced: none that belongs to the connection.
#[must_use]
pub fn placeholder_header(text: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(text.as_bytes()).ok().filter(|name| *name != HOST && !belongs_to_connection(name))
}

/// A place, beside headers, where a rule may have placeholders replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The query of the URL.
    Query,
    /// The body.
    Body,
}

impl Place {
    /// As a policy spells it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Body => "body",
        }
    }
}

/// The places, beside headers, where a rule has placeholders replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Places {
    /// In the query.
    pub query: bool,
    /// In the body.
    pub body: bool,
}

impl Places {
    /// Whether a place is one of them.
    #[must_use]
    pub fn has(self, place: Place) -> bool {
        match place {
            Place::Query => self.query,
            Place::Body => self.body,
        }
    }

    /// Makes it one.
    pub fn add(&mut self, place: Place) {
        match place {
            Place::Query => self.query = true,
            Place::Body => self.body = true,
        }
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = Place> {
        [Place::Query, Place::Body].into_iter().filter(move |place| self.has(*place))
    }
}

/// Knows the placeholders of one sandbox.
pub trait Known {
    /// Whether one is in this text, in any spelling that is looked for.
    fn is_in(&self, text: &[u8]) -> bool;

    /// The text in parts, the secret in the place of each placeholder that is written as it is; `None` if none is.
    fn parts(&self, text: &str) -> Option<Vec<Part>>;

    /// The same of a query, where a placeholder may also be escaped as queries are (RFC 3986 §2.1), once.
    fn query_parts(&self, query: &str) -> Option<Vec<Part>>;
}

impl Permit {
    /// The same for a request whose placeholders are replaced; refused where one stands that may not.
    pub fn replacing(mut self, head: &RequestHead<'_>, known: &impl Known) -> Verdict<Self> {
        match self.replacements(head, known) {
            None => {
                let reason = DenyReason::PlaceholderMisdirected;
                return Verdict::Deny(Denial { reason, basis: self.basis });
            }
            Some((more, query)) => {
                if !more.is_empty() {
                    self.injections = Some(self.injections().iter().cloned().chain(more).collect());
                }
                self.query = query;
            }
        }
        Verdict::Allow(self)
    }

    /// The headers that are to be set anew, and the query if it is; `None` if a placeholder stands where it may not.
    fn replacements(&self, head: &RequestHead<'_>, known: &impl Known) -> Option<(Vec<Injection>, Option<Text>)> {
        let RequestHead { scheme: _, authority: _, dst: _, method, path, query, headers } = head;
        let signing = self.signing();
        let query = query.unwrap_or_default();
        let query: Cow<'_, str> = match signing {
            Some(signing) => signing.rest_of_query(query).collect::<Vec<_>>().join("&").into(),
            None => query.into(),
        };
        if [method, path].iter().any(|text| known.is_in(text.as_bytes())) {
            return None;
        }
        let query = if known.is_in(query.as_bytes()) { Some(self.replaced_query(&query, known)?) } else { None };
        let mut more = Vec::new();
        // Of a header that a rule sets, nothing is sent that the sandbox wrote.
        let is_set = |name: &HeaderName| {
            self.injections().iter().any(|set| set.replaces(name))
                || signing.is_some_and(|signing| signing.reads(name, head))
        };
        for name in headers.keys().filter(|name| !is_set(name)) {
            let values = headers.get_all(name);
            if known.is_in(name.as_str().as_bytes()) {
                return None;
            }
            if values.iter().any(|value| holds(value.as_bytes(), known)) {
                let value = self.replaced(name, &values, known)?;
                more.push(Injection { header: name.clone(), spelled: name.as_str().into(), value, yields: false });
            }
        }
        Some((more, query))
    }

    /// What becomes of a query in which there is a placeholder.
    fn replaced_query(&self, query: &str, known: &impl Known) -> Option<Text> {
        let text = known.query_parts(query).filter(|_| self.places.query).map(Text)?;
        let may_stand = |secret: &SecretName| self.stand_ins().any(|stand_in| stand_in.secret() == secret);
        let is_few = text.secrets().count() <= limits::PLACEHOLDER_TIMES;
        (is_few && text.secrets().all(may_stand) && !is_left(text.0.iter(), known)).then_some(text)
    }

    /// What becomes of a header in which there is a placeholder. Of several fields, none can be meant.
    fn replaced(&self, name: &HeaderName, values: &GetAll<'_, HeaderValue>, known: &impl Known) -> Option<Template> {
        let mut values = values.iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let template = template(value.to_str().ok()?, known)?;
        let may_stand = |secret: &SecretName| {
            self.stand_ins().any(|stand_in| stand_in.secret() == secret && stand_in.headers().contains(name))
        };
        (template.secrets().all(may_stand) && !is_left(template.parts(), known)).then_some(template)
    }
}

/// Whether what the sandbox wrote around its placeholders holds another.
fn is_left<'a>(mut parts: impl Iterator<Item = &'a Part>, known: &impl Known) -> bool {
    parts.any(|part| matches!(part, Part::Literal(text) if known.is_in(text.as_bytes())))
}

/// Whether there is a placeholder in a header's value, or in the credentials of `Basic` that it is.
fn holds(value: &[u8], known: &impl Known) -> bool {
    known.is_in(value) || credentials(value).is_some_and(|decoded| known.is_in(&decoded))
}

/// A header's value with its secrets by name, also within the credentials of `Basic`.
fn template(value: &str, known: &impl Known) -> Option<Template> {
    let Some(decoded) = credentials(value.as_bytes()) else { return known.parts(value).map(Template::plain) };
    let parts = known.parts(std::str::from_utf8(&decoded).ok()?)?;
    Some(Template(vec![Segment::Plain(Part::Literal("Basic ".to_owned())), Segment::Base64(parts)]))
}

/// The name and the password, with a colon between, of a header's value that has them in base64.
fn credentials(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, coded) = value.split_at_checked(BASIC_SCHEME.len())?;
    let decoded = scheme.eq_ignore_ascii_case(BASIC_SCHEME).then(|| BASIC.decode(coded.trim_ascii()))?;
    decoded.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::OriginalDst;
    use crate::policy::verdict::{Action, DenyReason};
    use crate::policy::{Flags, Policy, Protected, Source, Terms};
    use base64::engine::general_purpose::STANDARD as CODE;
    use http::HeaderMap;

    /// `ONE`, `TWO` … are the placeholders of the secrets of those names, and found as they stand alone.
    struct Plain;

    const NAMES: [&str; 4] = ["ONE", "TWO", "SCOPED", "FOUR"];

    impl Known for Plain {
        fn is_in(&self, text: &[u8]) -> bool {
            let mut coded = text.split(|byte| *byte == b' ').filter_map(|word| BASIC.decode(word).ok());
            let has =
                |text: &[u8]| NAMES.iter().any(|name| text.windows(name.len()).any(|part| part == name.as_bytes()));
            has(text) || coded.any(|text| has(&text))
        }

        fn parts(&self, text: &str) -> Option<Vec<Part>> {
            let name = NAMES.into_iter().find(|name| text.contains(name))?;
            let (before, after) = text.split_once(name)?;
            let literal = |text: &str| Part::Literal(text.to_owned());
            Some(vec![literal(before), Part::Secret(SecretName::new(name)?), literal(after)])
        }

        fn query_parts(&self, query: &str) -> Option<Vec<Part>> {
            self.parts(query)
        }
    }

    const POLICY: &str = "
allow:
  a.test: [{match: {path: {exact: /set}}, transform: [{headers: {authorization: 'Bearer ${secrets.TWO}'}}]}]
  b.test: []
  c.test: []
  d.test: [{match: {path: {startsWith: /q}}, placeholders: {in: [query]}}, {placeholders: {in: [body]}}]
  other.test: [{}]
secrets:
  FOUR: {env: D, to: [d.test], methods: [GET], paths: ['/q*', '/b*']}
  ONE: {env: A, to: [a.test]}
  TWO: {env: B, to: [a.test, b.test], headers: [private-token], ports: [8443]}
  SCOPED: {env: C, to: [c.test], methods: [GET], paths: ['/v1/**']}
placeholders: {ONE: ONE, TWO: TWO, AGAIN: ONE, SCOPED: SCOPED, FOUR: FOUR}
";

    /// What `GET url` with these headers comes to: the headers that are set, and the query, or the reason.
    fn asked(url: &str, fields: &[(&'static str, &str)]) -> Result<Vec<String>, DenyReason> {
        asked_of(POLICY, url, fields)
    }

    fn asked_of(text: &str, url: &str, fields: &[(&'static str, &str)]) -> Result<Vec<String>, DenyReason> {
        let source = Source { path: "p.yaml", text };
        let policy = Policy::compile(Some(source), &Flags::default(), &Terms::default()).unwrap().policy;
        let (scheme, rest) = url.split_once("://").unwrap();
        let (host, path) = rest.split_at(rest.find('/').unwrap());
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let (host, port) = host.split_once(':').unwrap_or((host, if scheme == "http" { "80" } else { "443" }));
        let headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            });
        let name = Domain::parse(host).unwrap();
        let head = RequestHead {
            scheme: if scheme == "http" { Scheme::Http } else { Scheme::Https },
            authority: Some(&name),
            dst: OriginalDst(format!("198.51.100.1:{port}").parse().unwrap()),
            method: "GET",
            path,
            query,
            headers: &headers,
        };
        let Verdict::Allow(Action::Forward(permit)) = policy.decide_request(&head, &Protected::new([])) else {
            panic!("{url} is not permitted")
        };
        match permit.replacing(&head, &Plain) {
            Verdict::Deny(denial) => Err(denial.reason),
            Verdict::Allow(permit) => {
                let query = permit.query().map(|query| format!("?{}", written(&query.0)));
                Ok(permit.injections().iter().map(shown).chain(query).collect())
            }
        }
    }

    fn written(parts: &[Part]) -> String {
        let part = |part: &Part| match part {
            Part::Literal(text) => text.clone(),
            Part::Secret(name) => format!("<{}>", name.as_str()),
        };
        parts.iter().map(part).collect()
    }

    fn shown(injection: &Injection) -> String {
        let segment = |segment: &Segment| match segment {
            Segment::Plain(part) => written(std::slice::from_ref(part)),
            Segment::Base64(parts) => format!("[{}]", written(parts)),
        };
        format!("{}: {}", injection.header, injection.value.0.iter().map(segment).collect::<String>())
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", CODE.encode(text))
    }

    #[test]
    fn a_placeholder_is_replaced_where_its_secret_may_go() {
        for (url, header, value, set) in [
            ("https://a.test/", "authorization", "Bearer ONE", "authorization: Bearer <ONE>"),
            ("https://a.test/x?y", "x-api-key", "ONE", "x-api-key: <ONE>"),
            ("https://a.test/", "authorization", &*basic("user:ONE"), "authorization: Basic [user:<ONE>]"),
            ("https://a.test/", "authorization", &*basic("ONE:"), "authorization: Basic [<ONE>:]"),
            ("https://b.test:8443/", "private-token", "TWO", "private-token: <TWO>"),
            ("https://c.test/v1/x", "x-api-key", "SCOPED", "x-api-key: <SCOPED>"),
        ] {
            assert_eq!(asked(url, &[(header, value)]), Ok(vec![set.to_owned()]), "{url} {header}: {value}");
        }
        let unpadded = basic("u:ONE").trim_end_matches('=').to_owned();
        assert_eq!(
            asked("https://a.test/", &[("authorization", &unpadded)]).unwrap(),
            ["authorization: Basic [u:<ONE>]"]
        );
        assert_eq!(asked("https://a.test/", &[("authorization", "Bearer mine")]), Ok(vec![]), "what is none stays");
    }

    #[test]
    fn a_placeholder_that_signs_is_left_to_the_signature_and_replaced_nowhere() {
        const SIGNED: &str = "
allow: {a.test: [{sign: {aws: {accessKey: ONE, secretKey: TWO}}}], b.test: [{}]}
secrets: {ONE: {env: A, to: [a.test, b.test]}, TWO: {env: B, to: [a.test, b.test]}}
placeholders: {ONE: ONE, TWO: TWO}
";
        let header = "AWS4-HMAC-SHA256 Credential= ONE /x";
        let url = "X-Amz-Credential= ONE &X-Amz-Signature=1";
        for (target, fields, is_left) in [
            ("https://a.test/", &[("authorization", header)][..], true),
            ("https://a.test/?URL", &[], true),
            ("https://a.test/?URL&x= ONE ", &[], false),
            ("https://a.test/?X-Amz-Credential= ONE ", &[], false),
            ("https://a.test/", &[("authorization", "Bearer ONE")], false),
            ("https://a.test/", &[("authorization", header), ("authorization", "Bearer ONE")], false),
            ("https://a.test/", &[("authorization", header), ("x-api-key", "TWO")], false),
            ("https://a.test/ONE", &[("authorization", header)], false),
            ("https://b.test/", &[("authorization", header)], false),
            ("https://b.test/", &[("x-api-key", "TWO")], false),
            ("https://b.test/?URL", &[], false),
        ] {
            let target = target.replace("URL", url);
            let expected = if is_left { Ok(vec![]) } else { Err(DenyReason::PlaceholderMisdirected) };
            assert_eq!(asked_of(SIGNED, &target, fields), expected, "{target} {fields:?}");
        }
    }

    #[test]
    fn a_placeholder_anywhere_else_is_refused() {
        for (url, fields) in [
            ("https://other.test/", &[("authorization", "Bearer ONE")][..]),
            ("https://c.test/v2/x", &[("x-api-key", "SCOPED")]),
            ("https://c.test/v1/%2e%2e/v2", &[("x-api-key", "SCOPED")]),
            ("https://b.test/", &[("authorization", "Bearer ONE")]),
            ("http://a.test/", &[("authorization", "Bearer ONE")]),
            ("https://a.test:8443/", &[("authorization", "Bearer ONE")]),
            ("https://b.test/", &[("private-token", "TWO")]),
            ("https://b.test:8443/", &[("authorization", "Bearer TWO")]),
            ("https://a.test/", &[("user-agent", "ONE")]),
            ("https://a.test/", &[("x_api_key", "ONE")]),
            ("https://a.test/", &[("x-api-key", "ONE"), ("user-agent", "ONE")]),
            ("https://a.test/", &[("x-api-key", "ONE"), ("x-api-key", "ONE")]),
            ("https://a.test/", &[("x-api-key", "ONE"), ("x-api-key", "other")]),
            ("https://a.test/", &[("authorization", "Bearer ONE TWO")]),
            ("https://a.test/", &[("authorization", &basic("ONE:TWO"))]),
            ("https://a.test/", &[("x-api-key", &CODE.encode("ONE"))]),
            ("https://a.test/ONE", &[]),
            ("https://a.test/?token=ONE", &[]),
            ("https://a.test:8443/set", &[("user-agent", "ONE")]),
        ] {
            assert_eq!(asked(url, fields), Err(DenyReason::PlaceholderMisdirected), "{url} {fields:?}");
        }
    }

    #[test]
    fn where_a_rule_says_so_a_placeholder_is_replaced_in_the_query_of_what_its_secret_may_go_along_with() {
        let replaced = |url: &str| asked(url, &[]);
        assert_eq!(replaced("https://d.test/q?a=FOUR&b"), Ok(vec!["?a=<FOUR>&b".to_owned()]));
        assert_eq!(replaced("https://d.test/q?a=b"), Ok(vec![]));
        let both = asked("https://d.test/q?FOUR", &[("x-api-key", "FOUR")]);
        assert_eq!(both, Ok(vec!["x-api-key: <FOUR>".to_owned(), "?<FOUR>".to_owned()]));
        for url in [
            "https://d.test/b?a=FOUR",
            "https://d.test/q/x?a=FOUR",
            "https://d.test/q?a=ONE",
            "https://d.test/q?a=FOUR&b=FOUR",
            "https://d.test/q?a=FOUR&b=ONE",
            "https://d.test/qFOUR",
            "https://d.test:8443/q?a=FOUR",
            "http://d.test/q?a=FOUR",
        ] {
            assert_eq!(replaced(url), Err(DenyReason::PlaceholderMisdirected), "{url}");
        }
        let header = asked("https://d.test/q?a=FOUR", &[("user-agent", "FOUR")]);
        assert_eq!(header, Err(DenyReason::PlaceholderMisdirected));
    }

    #[test]
    fn of_a_header_that_a_rule_sets_nothing_is_sent_that_the_sandbox_wrote() {
        let set = asked("https://a.test:8443/set", &[("authorization", "Bearer ONE")]);
        assert_eq!(set, Ok(vec!["authorization: Bearer <TWO>".to_owned()]));
    }

    #[test]
    fn a_name_that_a_placeholder_may_go_to_is_terminated() {
        let source = Source { path: "p.yaml", text: POLICY };
        let policy = Policy::compile(Some(source), &Flags::default(), &Terms::default()).unwrap().policy;
        let route = |url: &str| {
            let question = crate::policy::judge::Question::request("GET", url).unwrap();
            policy.judge(&question, &Protected::new([])).outcome.unwrap().as_str()
        };
        assert_eq!(route("https://b.test/"), "terminate");
    }
}
