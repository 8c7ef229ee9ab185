//! The rules of an entry: what they match and what they do (POLICY §3 "Rules of an entry").

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::Compiler;
use super::fields::Fields;
use crate::flow::{Domain, SecretName};
use crate::limits;
use crate::matcher::request::{PairMatch, RegexError, RequestMatch, TextMatch};
use crate::policy::diagnostic::{Code, Fault};
use crate::policy::verdict::{ForwardUrl, Injection, LocalResponse, Part, Template};
use crate::policy::wire::{Key, Node};
use crate::policy::{Handling, Rule, Then};

/// How a header or a response uses a header's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Transform,
    Response,
}

impl Compiler<'_> {
    /// Reads the rules of an entry.
    pub(super) fn handling(&mut self, items: &[Node]) -> Handling {
        let mut handling = Handling::default();
        for item in items {
            self.rule(item, &mut handling);
        }
        handling.reads_path = handling.rules.iter().any(|rule| rule.when.path.is_some());
        handling
    }

    /// Reads one rule and adds it, unless it has a fault.
    fn rule(&mut self, node: &Node, handling: &mut Handling) -> Option<()> {
        const ACTIONS: [&str; 4] = ["transform", "forwardURL", "response", "opaque"];
        self.rules += 1;
        if self.rules == limits::POLICY_RULES + 1 {
            let message = format!("the policy has more than {} rules", limits::POLICY_RULES);
            self.faults.push(Fault::new(Code::Limit, message).place(node.span));
        }
        let fields =
            self.faults.fields(node, "a rule", &["match", "transform", "forwardURL", "response", "opaque"], &[])?;
        let actions: Vec<_> = ACTIONS.iter().filter(|key| fields.get(key).is_some()).collect();
        if let [first, second, ..] = actions.as_slice() {
            let message = format!("a rule has one action, and this has `{first}` and `{second}`");
            self.faults.push(Fault::new(Code::Conflict, message).place(fields.key(second)));
            return None;
        }
        if let Some(opaque) = fields.get("opaque") {
            if let Some(key) = fields.key("match") {
                let message = "`opaque` is not about requests, so no `match` stands beside it";
                self.faults.push(Fault::new(Code::Conflict, message).place(key));
            }
            let id = self.id(node.span);
            handling.opaque.extend(self.ports(opaque)?.into_iter().map(|port| (port, id.clone())));
            return Some(());
        }
        let when = match fields.get("match") {
            Some(node) => self.request_match(node)?,
            None => RequestMatch::default(),
        };
        let then = if let Some(node) = fields.get("transform") {
            Then::Transform(self.transform(node)?.into())
        } else if let Some(node) = fields.get("forwardURL") {
            Then::Divert(Arc::new(self.forward_url(node)?))
        } else if let Some(node) = fields.get("response") {
            Then::Respond(Arc::new(self.response(node)?))
        } else {
            Then::Pass
        };
        handling.rules.push(Rule { id: self.id(node.span), when, then });
        Some(())
    }

    /// The ports of an `opaque` rule.
    fn ports(&mut self, node: &Node) -> Option<Vec<u16>> {
        let fields = self.faults.fields(node, "`opaque`", &["ports"], &[])?;
        let Some(list) = fields.get("ports") else {
            self.faults.push(Fault::new(Code::Missing, "`ports` is missing").place(node.span));
            return None;
        };
        let mut ports = Vec::new();
        for item in self.nonempty(list, "`ports`") {
            let Some(number) = self.faults.number(item, "a port") else { continue };
            match u16::try_from(number) {
                Ok(80 | 443) => {
                    let fault = Fault::new(Code::BadValue, format!("port {number} is never opaque")).place(item.span);
                    self.faults.push(fault.help("HTTP and TLS are judged by name; an entry without rules is spliced"));
                }
                Ok(port) if port > 0 && !ports.contains(&port) => ports.push(port),
                Ok(port) if port > 0 => {
                    let message = format!("the port {port} stands here twice");
                    self.faults.push(Fault::new(Code::Duplicate, message).place(item.span));
                }
                Ok(_) | Err(_) => self.faults.bad(item, "a port is from 1 to 65535"),
            }
        }
        Some(ports)
    }

    /// The URL of a `forwardURL` rule (POLICY §6).
    fn forward_url(&mut self, node: &Node) -> Option<ForwardUrl> {
        let text = self.faults.text(node, "`forwardURL`")?;
        let url = read_forward_url(text);
        if let Err(message) = url {
            self.faults.push(Fault::new(Code::BadValue, message).place(node.span).hidden());
        }
        url.ok()
    }

    fn request_match(&mut self, node: &Node) -> Option<RequestMatch> {
        let fields = self.faults.fields(node, "`match`", &["method", "path", "queryString", "headers"], &[])?;
        let methods = match fields.get("method") {
            Some(node) => self.methods(node),
            None => Vec::new(),
        };
        let path = fields.get("path").and_then(|node| self.text_match(node, "`path`", true, false));
        let query = fields.get("queryString").map(|node| self.pairs(node, "`queryString`", false));
        let headers = fields.get("headers").map(|node| self.pairs(node, "`headers`", true));
        Some(RequestMatch { methods, path, query: query.unwrap_or_default(), headers: headers.unwrap_or_default() })
    }

    fn methods(&mut self, node: &Node) -> Vec<String> {
        let mut methods = Vec::new();
        for item in self.nonempty(node, "`method`") {
            let Some(text) = self.faults.text(item, "a method") else { continue };
            if Method::from_bytes(text.as_bytes()).is_err() {
                self.faults.bad(item, format!("`{text}` cannot be a method"));
            } else if methods.iter().any(|method| method == text) {
                let message = format!("the method `{text}` stands here twice");
                self.faults.push(Fault::new(Code::Duplicate, message).place(item.span));
            } else {
                methods.push(text.to_owned());
            }
        }
        methods
    }

    /// A list that, empty, would match everything where nothing was perhaps meant.
    fn nonempty<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Node] {
        let items = self.faults.list(node, what);
        if items.is_some_and(<[Node]>::is_empty) {
            let fault = Fault::new(Code::BadValue, format!("{what} cannot be empty")).place(node.span);
            self.faults.push(fault.help("leave it out to match every request"));
        }
        items.unwrap_or_default()
    }

    fn pairs(&mut self, node: &Node, what: &str, header: bool) -> Vec<PairMatch> {
        let mut pairs = Vec::new();
        for item in self.nonempty(node, what) {
            let Some(fields) = self.faults.fields(item, "a matcher of names and values", &["key", "value"], &[]) else {
                continue;
            };
            if fields.get("key").is_none() && fields.get("value").is_none() {
                let fault = Fault::new(Code::Missing, "the matcher needs `key`, `value` or both");
                self.faults.push(fault.place(item.span));
            }
            let key = fields.get("key").and_then(|node| self.text_match(node, "`key`", false, header));
            let value = fields.get("value").and_then(|node| self.text_match(node, "`value`", false, false));
            pairs.push(PairMatch { key, value });
        }
        pairs
    }

    /// A matcher; of a header's name if `any_case`.
    fn text_match(&mut self, node: &Node, what: &str, path: bool, any_case: bool) -> Option<TextMatch> {
        let kinds: &[&str] =
            if path { &["exact", "startsWith", "regex", "glob"] } else { &["exact", "startsWith", "regex"] };
        let fields = self.faults.fields(node, what, kinds, &[])?;
        let mut found = kinds.iter().filter_map(|kind| Some((*kind, fields.get(kind)?)));
        let (Some((kind, value)), None) = (found.next(), found.next()) else {
            let message = format!("{what} needs exactly one of {}", kinds.join(", "));
            self.faults.push(Fault::new(Code::Missing, message).place(node.span));
            return None;
        };
        let text = self.faults.text(value, &format!("`{kind}`"))?;
        if !self.without_secrets(text, value) {
            return None;
        }
        let cased = if any_case { text.to_ascii_lowercase() } else { text.to_owned() };
        let compiled = match kind {
            "exact" => Ok(TextMatch::Exact(cased)),
            "startsWith" => Ok(TextMatch::StartsWith(cased)),
            "glob" => self.counted(value, || TextMatch::glob(text)),
            _ => self.counted(value, || TextMatch::regex(text, any_case)),
        };
        compiled.map_err(|fault| self.faults.bad(value, fault.to_string())).ok()
    }

    /// Compiles an expression unless there are too many.
    fn counted(
        &mut self,
        node: &Node,
        compile: impl FnOnce() -> Result<TextMatch, RegexError>,
    ) -> Result<TextMatch, RegexError> {
        self.regexes += 1;
        if self.regexes == limits::POLICY_REGEXES + 1 {
            let message = format!("the policy has more than {} expressions", limits::POLICY_REGEXES);
            self.faults.push(Fault::new(Code::Limit, message).place(node.span));
        }
        // The fault is recorded, so no policy comes of this; the others are not compiled, which takes memory.
        if self.regexes > limits::POLICY_REGEXES { Ok(TextMatch::Exact(String::new())) } else { compile() }
    }

    /// `${secrets.…}` is legal in `transform` values alone.
    fn without_secrets(&mut self, text: &str, node: &Node) -> bool {
        let clean = !text.contains("${secrets.");
        if !clean {
            let fault = Fault::new(Code::BadValue, "a secret may be used in the header values of `transform` alone");
            self.faults.push(fault.place(node.span));
        }
        clean
    }

    fn transform(&mut self, node: &Node) -> Option<Vec<Injection>> {
        let elements = self.faults.list(node, "`transform`")?;
        if elements.is_empty() {
            let fault = Fault::new(Code::BadValue, "`transform` cannot be empty").place(node.span);
            self.faults.push(fault.help("a rule without it lets the request go on unchanged"));
        }
        let mut injections: Vec<Injection> = Vec::new();
        for element in elements {
            let Some(fields) = self.faults.fields(element, "an element of `transform`", &["headers"], &[]) else {
                continue;
            };
            let Some(headers) = fields.get("headers") else {
                self.faults.push(Fault::new(Code::Missing, "`headers` is missing").place(element.span));
                continue;
            };
            for (header, value) in self.headers(headers, Use::Transform) {
                let Some(value) = self.template(&header, value) else { continue };
                // Elements merge, and the later wins; within one, `headers` refuses the same name twice.
                injections.retain(|other| other.header != header);
                injections.push(Injection { spelled: header.as_str().into(), header, value });
            }
        }
        Some(injections)
    }

    /// Headers by canonical name, without those that may not be set and without repetition.
    fn headers<'n>(&mut self, node: &'n Node, purpose: Use) -> Vec<(HeaderName, &'n Node)> {
        let mut headers: Vec<(HeaderName, &Node)> = Vec::new();
        for (key, value) in self.faults.map(node, "`headers`").unwrap_or_default() {
            let Some(name) = self.header_name(key, purpose) else { continue };
            if headers.iter().any(|(other, _)| *other == name) {
                let message = format!("the header `{name}` stands here twice");
                self.faults.push(Fault::new(Code::Duplicate, message).place(key.span));
            } else {
                headers.push((name, value));
            }
        }
        headers
    }

    fn header_name(&mut self, key: &Key, purpose: Use) -> Option<HeaderName> {
        /// Framing and hop-by-hop (RFC 9110 §7.6.1, §8.6), which belong to each connection.
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
        let refuse = |message: String| Fault::new(Code::BadValue, message).place(key.span);
        let name = match HeaderName::from_bytes(key.text.as_bytes()) {
            Ok(name) => name,
            Err(_) => {
                self.faults.push(refuse(format!("`{}` cannot be the name of a header", key.text)));
                return None;
            }
        };
        if CONNECTION.contains(&name.as_str()) {
            self.faults.push(refuse(format!("`{name}` belongs to the connection and cannot be set")));
            return None;
        }
        if purpose == Use::Response && name == "content-type" {
            self.faults.push(refuse("the type of a response is written `contentType`".to_owned()));
            return None;
        }
        Some(name)
    }

    /// A header's value. No fault shows its text, which may be a credential in the wrong place.
    fn template(&mut self, header: &HeaderName, node: &Node) -> Option<Template> {
        let text = self.faults.text(node, "a header's value")?;
        let refuse = |message: String| Fault::new(Code::BadValue, message).place(node.span).hidden();
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once("${") {
            let name = after.split_once('}').and_then(|(inside, after)| {
                rest = after;
                SecretName::new(inside.strip_prefix("secrets.")?)
            });
            let Some(name) = name else {
                let fault = refuse("`${` must begin a secret's name".to_owned());
                self.faults.push(fault.help("a secret is written `${secrets.NAME}`"));
                return None;
            };
            if !self.declared.contains_key(&name) {
                let name = name.as_str();
                let fault = refuse(format!("the secret `{name}` is not declared"));
                self.faults.push(fault.help(format!("declare it: `secrets: {{{name}: {{env: VARIABLE}}}}`")));
            }
            self.used.insert(name.clone());
            parts.extend((!literal.is_empty()).then(|| Part::Literal(literal.to_owned())));
            parts.push(Part::Secret(name));
        }
        parts.extend((!rest.is_empty()).then(|| Part::Literal(rest.to_owned())));
        for part in &parts {
            if let Part::Literal(literal) = part
                && HeaderValue::from_str(literal).is_err()
            {
                self.faults.push(refuse("a header's value is visible ASCII and spaces".to_owned()));
                return None;
            }
        }
        if header == http::header::HOST {
            match parts.as_slice() {
                [Part::Literal(literal)] if Domain::parse(literal).is_ok_and(|name| name.as_str() == literal) => {
                    let name = Domain::parse(literal).ok()?;
                    self.hosts.push((name, node.span));
                }
                _ => {
                    let fault = refuse("`host` can be set only to a name, in lower case and without a port".to_owned());
                    self.faults.push(fault);
                    return None;
                }
            }
        }
        Some(Template(parts))
    }

    fn response(&mut self, node: &Node) -> Option<LocalResponse> {
        const KEYS: &[&str] = &["statusCode", "headers", "body", "contentType"];
        let fields = self.faults.fields(node, "`response`", KEYS, &[])?;
        let Some(code) = fields.get("statusCode") else {
            self.faults.push(Fault::new(Code::Missing, "`statusCode` is missing").place(node.span));
            return None;
        };
        let number = self.faults.number(code, "`statusCode`")?;
        let Some(status) = u16::try_from(number).ok().filter(|number| (200..=599).contains(number)) else {
            self.faults.bad(code, "`statusCode` is from 200 to 599");
            return None;
        };
        let status = StatusCode::from_u16(status).ok()?;
        let mut headers = HeaderMap::new();
        for (name, value) in fields.get("headers").map(|node| self.headers(node, Use::Response)).unwrap_or_default() {
            if let Some(value) = self.plain_value(value, "a header's value") {
                headers.append(name, value);
            }
        }
        if let Some(node) = fields.get("contentType")
            && let Some(value) = self.plain_value(node, "`contentType`")
        {
            headers.insert(http::header::CONTENT_TYPE, value);
        }
        let body = self.body(&fields, status)?;
        Some(LocalResponse { status, headers, body })
    }

    fn plain_value(&mut self, node: &Node, what: &str) -> Option<HeaderValue> {
        let text = self.faults.text(node, what)?;
        if !self.without_secrets(text, node) {
            return None;
        }
        let value = HeaderValue::from_str(text).ok();
        if value.is_none() {
            let message = format!("{what} is visible ASCII and spaces");
            self.faults.push(Fault::new(Code::BadValue, message).place(node.span).hidden());
        }
        value
    }

    fn body(&mut self, fields: &Fields<'_>, status: StatusCode) -> Option<bytes::Bytes> {
        let Some(node) = fields.get("body") else { return Some(bytes::Bytes::new()) };
        let text = self.faults.text(node, "`body`")?;
        let refuse = |code, message: String| Fault::new(code, message).place(node.span).hidden();
        if !self.without_secrets(text, node) {
            return None;
        }
        if text.len() > limits::RESPONSE_BODY_BYTES {
            let message = format!("`body` is larger than {} bytes", limits::RESPONSE_BODY_BYTES);
            self.faults.push(refuse(Code::Limit, message));
        }
        if fields.get("contentType").is_none() {
            self.faults.push(refuse(Code::Missing, "a response with a `body` needs `contentType`".to_owned()));
        }
        if matches!(status.as_u16(), 204 | 205 | 304) {
            self.faults.push(refuse(Code::Conflict, format!("a response with status {} has no body", status.as_u16())));
        }
        Some(bytes::Bytes::copy_from_slice(text.as_bytes()))
    }
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
