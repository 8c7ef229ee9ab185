//! AWS's Signature Version 4: what a client signed with a placeholder is verified, and signed again with the key.
//!
//! A client's signature is verified because it costs little and tells much: that the request is whole as the client
//! meant it, and how the client spells path and query in what it signs. Services differ in that (S3 encodes once and
//! removes nothing; others encode again, and remove dot segments), so a request is signed again in the spelling in
//! which it was signed.
//!
//! It is our own and not AWS's crate (`aws-sigv4`), which signs and does not verify, keeps keys in strings that are not
//! zeroised, knows no pieces of bodies (those are in other crates of theirs), and has no spelling to choose from. What
//! is left of it, a text and five HMACs, is here.
//!
//! The signature is over those headers that the client signed, as they are when the request goes out, and the token.
//! Time, region and service are the client's own: nothing makes an old signature a new one.

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

use super::chunks::{Chain, Chunks};
use super::{Head, SignFault, hex, sha256, sole};
use crate::flow::SecretName;
use crate::policy::signing::{AWS_ALGORITHM, AwsKeys, AwsSigning, SECURITY_TOKEN};
use crate::secret::Secrets;
use crate::secret::placeholder::Placeholders;

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const UNSIGNED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
const CHUNKS: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
const CHUNKS_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";
/// Parameters of a URL that is signed.
const QUERY: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
];

/// A request that is signed with a placeholder, and the key for it.
pub struct Claim {
    form: Form,
    scope: Scope,
    time: String,
    /// The headers that the client signed, `host` among them.
    names: Vec<HeaderName>,
    signature: String,
    payload: String,
    body: Body,
    client: Key,
    key: RealKey,
}

/// What the head must say of the body, and what becomes of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// The head says all; it goes on as it is.
    Told,
    /// Its hash is signed, and not told: it must be there as a whole.
    Whole,
    /// Its pieces are signed one by one; whether fields follow.
    Chunked(bool),
}

/// Where the signature stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Header,
    Query,
}

/// `DATE/REGION/SERVICE/aws4_request`.
struct Scope {
    text: String,
    date: String,
    region: String,
    service: String,
}

/// The key that signs.
struct RealKey {
    id: Zeroizing<String>,
    token: Option<Zeroizing<String>>,
    key: Key,
}

/// How a client spells path and query in what it signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spelling {
    path: PathSpelling,
    /// Whether parameters are decoded and encoded again.
    recoded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathSpelling {
    /// As it is sent.
    AsSent,
    /// Decoded, and encoded again.
    Recoded,
    /// Encoded once more.
    Encoded,
    /// The same, without dot segments and doubled slashes.
    Normalised,
}

/// What is to be set on a request.
pub struct Signed {
    /// Header fields, and those to remove.
    pub fields: Vec<(HeaderName, Option<HeaderValue>)>,
    /// The query, where the signature stands in it.
    pub query: Option<Zeroizing<String>>,
    /// The signature.
    signature: String,
}

impl Claim {
    /// Reads the signature of a request; `None` for one that the rule lets pass.
    ///
    /// # Errors
    /// It is not signed with the placeholder, or for what the rule does not sign, or a key cannot be had.
    pub fn read(
        head: &Head<'_>,
        rule: &AwsSigning,
        placeholders: &Placeholders,
        secrets: &Secrets,
    ) -> Result<Option<Self>, SignFault> {
        match Self::signed(head, rule, placeholders) {
            Ok(written) => written.claim(head, rule, placeholders, secrets).map(Some),
            Err(SignFault::Unsigned | SignFault::OtherKey) if rule.passes_others => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// What a request's signature says, which is one with the placeholder.
    fn signed(head: &Head<'_>, rule: &AwsSigning, placeholders: &Placeholders) -> Result<Written, SignFault> {
        let query = head.query.unwrap_or_default();
        let in_query = parameters(query).any(|(name, _)| QUERY.contains(&&*name));
        let in_header = sole(head.headers, &AUTHORIZATION)?.filter(|text| text.starts_with(AWS_ALGORITHM));
        let written = match (in_header, in_query) {
            (Some(_), true) => return Err(SignFault::Doubled),
            (None, true) if head.headers.contains_key(SECURITY_TOKEN) => return Err(SignFault::Token),
            (Some(text), false) => Written::of_header(text, head.headers)?,
            (None, true) => Written::of_query(query)?,
            (None, false) => return Err(SignFault::Unsigned),
        };
        let placeholder = placeholders.texts().get(rule.keys.access_key());
        if placeholder.is_none_or(|text| *text != written.id) {
            return Err(SignFault::OtherKey);
        }
        Ok(written)
    }

    /// What becomes of the body.
    #[must_use]
    pub fn body(&self) -> Body {
        self.body
    }

    /// The headers that are set, for the record.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        match (self.form, &self.key.token) {
            (Form::Header, None) => vec![AUTHORIZATION.to_string()],
            (Form::Header, Some(_)) => vec![AUTHORIZATION.to_string(), SECURITY_TOKEN.to_string()],
            (Form::Query, _) => vec!["x-amz-signature".to_owned()],
        }
    }

    /// Verifies the client's signature over what it sent; `hash` is that of the whole body, where it is needed.
    ///
    /// # Errors
    /// It is another.
    pub fn verify(&self, head: &Head<'_>, hash: Option<&str>) -> Result<Spelling, SignFault> {
        let payload = hash.unwrap_or(&self.payload);
        for spelling in Spelling::all(&self.scope.service) {
            let text = canonical(head, &self.names, payload, spelling, head.query.unwrap_or_default())?;
            if self.signature_of(&self.client, &text) == self.signature {
                return Ok(spelling);
            }
        }
        Err(SignFault::Wrong)
    }

    /// Signs what goes out.
    ///
    /// # Errors
    /// A header is signed that does not go out, or several times.
    pub fn sign(&self, head: &Head<'_>, hash: Option<&str>, spelling: Spelling) -> Result<Signed, SignFault> {
        let payload = hash.unwrap_or(&self.payload);
        match self.form {
            Form::Header => self.sign_header(head, payload, spelling),
            Form::Query => self.sign_query(head, payload, spelling),
        }
    }

    fn sign_header(&self, head: &Head<'_>, payload: &str, spelling: Spelling) -> Result<Signed, SignFault> {
        let mut headers = head.headers.clone();
        let token = self.key.token.as_ref().map(|token| sensitive(token)).transpose()?;
        headers.remove(SECURITY_TOKEN);
        let mut names: Vec<HeaderName> =
            self.names.iter().filter(|name| **name == HOST || headers.contains_key(*name)).cloned().collect();
        if let Some(token) = &token {
            headers.insert(SECURITY_TOKEN, token.clone());
            names.push(SECURITY_TOKEN);
        }
        names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        let head = Head { headers: &headers, ..*head };
        let text = canonical(&head, &names, payload, spelling, head.query.unwrap_or_default())?;
        let signature = self.signature_of(&self.key.key, &text);
        let (id, scope, names) = (&*self.key.id, &self.scope.text, listed(&names));
        let value = Zeroizing::new(format!(
            "{AWS_ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
        ));
        let fields = vec![(AUTHORIZATION, Some(sensitive(&value)?)), (SECURITY_TOKEN, token)];
        Ok(Signed { fields, query: None, signature })
    }

    /// Parameters stay where they are; a token is added where the client had none.
    fn sign_query(&self, head: &Head<'_>, payload: &str, spelling: Spelling) -> Result<Signed, SignFault> {
        let mut pairs: Vec<Zeroizing<String>> = Vec::new();
        let mut token = self.key.token.as_ref().map(|token| format!("X-Amz-Security-Token={}", encoded(token, false)));
        for pair in head.query.unwrap_or_default().split('&') {
            let name = pair.split('=').next().unwrap_or_default();
            pairs.extend(match name {
                "X-Amz-Credential" => {
                    let credential = Zeroizing::new(format!("{}/{}", *self.key.id, self.scope.text));
                    Some(format!("X-Amz-Credential={}", encoded(&credential, false)).into())
                }
                "X-Amz-Security-Token" => token.take().map(Into::into),
                _ => Some(pair.to_owned().into()),
            });
        }
        pairs.extend(token.take().map(Into::into));
        let query = Zeroizing::new(pairs.iter().map(|pair| pair.as_str()).collect::<Vec<_>>().join("&"));
        let text = canonical(head, &self.names, payload, spelling, &query)?;
        let signature = self.signature_of(&self.key.key, &text);
        let signed = |pair: &Zeroizing<String>| match pair.starts_with("X-Amz-Signature=") {
            true => Zeroizing::new(format!("X-Amz-Signature={signature}")),
            false => pair.clone(),
        };
        let pairs: Vec<Zeroizing<String>> = pairs.iter().map(signed).collect();
        let query = Zeroizing::new(pairs.iter().map(|pair| pair.as_str()).collect::<Vec<_>>().join("&"));
        Ok(Signed { fields: Vec::new(), query: Some(query), signature })
    }

    /// What signs the pieces of a body behind a head that was signed so.
    #[must_use]
    pub fn chunks(self, signed: &Signed, has_trailer: bool) -> Chunks {
        let theirs = Chain::new(self.client, &self.time, &self.scope.text, self.signature);
        let ours = Chain::new(self.key.key, &self.time, &self.scope.text, signed.signature.clone());
        Chunks::new(theirs, ours, has_trailer)
    }

    fn signature_of(&self, key: &Key, canonical: &str) -> String {
        let text = format!("{AWS_ALGORITHM}\n{}\n{}\n{}", self.time, self.scope.text, sha256(canonical.as_bytes()));
        hex(hmac::sign(key, text.as_bytes()).as_ref())
    }
}

/// A signature as a client wrote it.
struct Written {
    form: Form,
    id: String,
    scope: Scope,
    time: String,
    names: Vec<HeaderName>,
    signature: String,
    token: Option<String>,
}

impl Written {
    fn of_header(text: &str, headers: &HeaderMap) -> Result<Self, SignFault> {
        let rest = text.strip_prefix(AWS_ALGORITHM).and_then(|rest| rest.strip_prefix(' '));
        let rest = rest.ok_or(SignFault::Malformed("it is of another algorithm"))?;
        let (mut credential, mut names, mut signature) = (None, None, None);
        for part in rest.split(',').map(str::trim) {
            let (name, value) = part.split_once('=').ok_or(SignFault::Malformed("a part has no value"))?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut names,
                "Signature" => &mut signature,
                _ => return Err(SignFault::Malformed("a part is not known")),
            };
            if slot.replace(value).is_some() {
                return Err(SignFault::Doubled);
            }
        }
        let (Some(credential), Some(names), Some(signature)) = (credential, names, signature) else {
            return Err(SignFault::Malformed("a part is missing"));
        };
        let time = sole(headers, &DATE)?.ok_or(SignFault::Malformed("there is no `x-amz-date`"))?;
        let token = sole(headers, &SECURITY_TOKEN)?.map(str::to_owned);
        Self::of(Form::Header, credential, names, signature, time, token)
    }

    fn of_query(query: &str) -> Result<Self, SignFault> {
        let mut found: [Option<String>; QUERY.len()] = Default::default();
        for (name, value) in parameters(query) {
            let Some(slot) = QUERY.iter().position(|known| *known == name).and_then(|at| found.get_mut(at)) else {
                continue;
            };
            if slot.replace(value).is_some() {
                return Err(SignFault::Doubled);
            }
        }
        // It is put back where it stands, so it stands there as it is written.
        let is_plain = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        let [Some(algorithm), Some(credential), Some(time), Some(_), Some(names), Some(signature), token] = found
        else {
            return Err(SignFault::Malformed("a parameter is missing"));
        };
        if algorithm != AWS_ALGORITHM {
            return Err(SignFault::Malformed("it is of another algorithm"));
        }
        if !is_plain("X-Amz-Credential") || !is_plain("X-Amz-Signature") {
            return Err(SignFault::Malformed("the name of a parameter is escaped"));
        }
        if token.is_some() && !is_plain("X-Amz-Security-Token") {
            return Err(SignFault::Malformed("the name of a parameter is escaped"));
        }
        Self::of(Form::Query, &credential, &names, &signature, &time, token)
    }

    fn of(
        form: Form,
        credential: &str,
        names: &str,
        signature: &str,
        time: &str,
        token: Option<String>,
    ) -> Result<Self, SignFault> {
        let mut parts = credential.rsplitn(5, '/');
        let parts = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
        let [Some("aws4_request"), Some(service), Some(region), Some(date), Some(id)] = parts else {
            return Err(SignFault::Malformed("its scope is none"));
        };
        let is_word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let is_time = time.len() == 16
            && time.bytes().enumerate().all(|(at, byte)| match at {
                8 => byte == b'T',
                15 => byte == b'Z',
                _ => byte.is_ascii_digit(),
            });
        if !is_time || time.get(..8) != Some(date) || !is_word(region) || !is_word(service) {
            return Err(SignFault::Malformed("its scope or its time is none"));
        }
        let names: Option<Vec<HeaderName>> =
            names.split(';').map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect();
        let names = names.ok_or(SignFault::Malformed("it is over no headers"))?;
        let is_ordered = names.windows(2).all(|pair| matches!(pair, [one, other] if one.as_str() < other.as_str()));
        if !is_ordered || !names.contains(&HOST) || names.contains(&AUTHORIZATION) {
            return Err(SignFault::Malformed("the headers that it is over are not in order, or not with `host`"));
        }
        let text = format!("{date}/{region}/{service}/aws4_request");
        let [date, region, service, id] = [date, region, service, id].map(str::to_owned);
        let scope = Scope { text, date, region, service };
        Ok(Self { form, id, scope, time: time.to_owned(), names, signature: signature.to_owned(), token })
    }

    fn claim(
        self,
        head: &Head<'_>,
        rule: &AwsSigning,
        placeholders: &Placeholders,
        secrets: &Secrets,
    ) -> Result<Claim, SignFault> {
        let Self { form, id: _, scope, time, names, signature, token } = self;
        let serves = |list: &[String], word: &str| list.is_empty() || list.iter().any(|other| other == word);
        if !serves(&rule.regions, &scope.region) {
            return Err(SignFault::Region(scope.region));
        }
        if !serves(&rule.services, &scope.service) {
            return Err(SignFault::Service(scope.service));
        }
        let placeholder = |name: &SecretName| placeholders.texts().get(name);
        if let Some(token) = token
            && rule.keys.session_token().and_then(placeholder) != Some(&token)
        {
            return Err(SignFault::Token);
        }
        // What `Connection` named, or what was never there.
        if let Some(name) = names.iter().find(|name| **name != HOST && !head.headers.contains_key(*name)) {
            return Err(SignFault::Header(name.clone()));
        }
        let (payload, body) = payload(head, form, &scope.service)?;
        let held = placeholder(rule.keys.secret_key()).ok_or(SignFault::OtherKey)?;
        let client = signing_key(held, &scope);
        let key = RealKey::of(&rule.keys, secrets, &scope)?;
        Ok(Claim { form, scope, time, names, signature, payload, body, client, key })
    }
}

/// What is signed of the body.
fn payload(head: &Head<'_>, form: Form, service: &str) -> Result<(String, Body), SignFault> {
    let told = sole(head.headers, &CONTENT_SHA256)?.map(str::to_owned);
    let told = match form {
        Form::Header => told,
        Form::Query => {
            let mut named = parameters(head.query.unwrap_or_default());
            let named = named.find(|(name, _)| name.eq_ignore_ascii_case(CONTENT_SHA256.as_str()));
            // S3 has no other for URLs.
            let usual = service.starts_with("s3").then(|| UNSIGNED.to_owned());
            told.or(named.map(|(_, value)| value)).or(usual)
        }
    };
    let body = match told.as_deref() {
        None => Body::Whole,
        Some(UNSIGNED | UNSIGNED_TRAILER) => Body::Told,
        Some(CHUNKS) if form == Form::Header => Body::Chunked(false),
        Some(CHUNKS_TRAILER) if form == Form::Header => Body::Chunked(true),
        Some(hash) if hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => Body::Told,
        Some(_) => return Err(SignFault::Payload),
    };
    Ok((told.unwrap_or_default(), body))
}

/// What `credential_process` prints, and `aws configure export-credentials`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeyWire {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

impl Drop for KeyWire {
    fn drop(&mut self) {
        let Self { access_key_id, secret_access_key, session_token } = self;
        access_key_id.zeroize();
        secret_access_key.zeroize();
        session_token.zeroize();
    }
}

impl RealKey {
    fn of(keys: &AwsKeys, secrets: &Secrets, scope: &Scope) -> Result<Self, SignFault> {
        let text = |name: &SecretName| {
            let value = secrets.value(name).ok_or_else(|| SignFault::Missing(name.clone()))?;
            let text = value.expose(|bytes| std::str::from_utf8(bytes).map(|text| Zeroizing::new(text.to_owned())));
            text.map_err(|_| SignFault::NoKey(name.clone()))
        };
        let none = || SignFault::NoKey(keys.access_key().clone());
        let (id, secret, token) = match keys {
            AwsKeys::Whole(name) => {
                let wire: KeyWire = serde_json::from_str(&text(name)?).map_err(|_| none())?;
                let [id, secret] =
                    [&wire.access_key_id, &wire.secret_access_key].map(|text| Zeroizing::new(text.clone()));
                (id, secret, wire.session_token.clone().map(Zeroizing::new))
            }
            AwsKeys::Parts { access_key, secret_key, session_token } => {
                (text(access_key)?, text(secret_key)?, session_token.as_ref().map(text).transpose()?)
            }
        };
        // It stands within a header and a URL, so it is a word there.
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return Err(none());
        }
        Ok(Self { key: signing_key(&secret, scope), id, token: token.filter(|token| !token.is_empty()) })
    }
}

/// The key of a day, a region and a service.
fn signing_key(secret: &str, scope: &Scope) -> Key {
    let mut first = Zeroizing::new(Vec::with_capacity(secret.len() + 4));
    first.extend_from_slice(b"AWS4");
    first.extend_from_slice(secret.as_bytes());
    [&*scope.date, &scope.region, &scope.service, "aws4_request"]
        .iter()
        .fold(Key::new(HMAC_SHA256, &first), |key, text| {
            Key::new(HMAC_SHA256, hmac::sign(&key, text.as_bytes()).as_ref())
        })
}

impl Spelling {
    /// All that clients have; first what is usual for a service.
    fn all(service: &str) -> impl Iterator<Item = Self> {
        use PathSpelling::{AsSent, Encoded, Normalised, Recoded};
        let paths = match service.starts_with("s3") {
            true => [AsSent, Recoded, Normalised, Encoded],
            false => [Normalised, Encoded, AsSent, Recoded],
        };
        paths.into_iter().flat_map(|path| [true, false].map(|recoded| Self { path, recoded }))
    }
}

impl PathSpelling {
    fn spell(self, path: &str) -> String {
        let path = if path.is_empty() { "/" } else { path };
        match self {
            Self::AsSent => path.to_owned(),
            Self::Recoded => encoded_bytes(&decoded(path), true),
            Self::Encoded => encoded(path, true),
            Self::Normalised => encoded(&normalised(path), true),
        }
    }
}

/// Without dot segments and doubled slashes (RFC 3986 §5.2.4).
fn normalised(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    let end = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{end}", kept.join("/"))
}

/// The canonical request. Of headers that are there several times, values are joined.
fn canonical(
    head: &Head<'_>,
    names: &[HeaderName],
    payload: &str,
    spelling: Spelling,
    query: &str,
) -> Result<String, SignFault> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("X-Amz-Signature=")) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let spelled =
            |text: &str| if spelling.recoded { encoded_bytes(&decoded(text), false) } else { text.to_owned() };
        pairs.push((spelled(name), spelled(value)));
    }
    pairs.sort_unstable();
    let query: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut text = format!("{}\n{}\n{}\n", head.method, spelling.path.spell(head.path), query.join("&"));
    for name in names {
        let value = if *name == HOST { head.host.to_owned() } else { field(head.headers, name)? };
        text.push_str(&format!("{name}:{value}\n"));
    }
    text.push_str(&format!("\n{}\n{payload}", listed(names)));
    Ok(text)
}

fn listed(names: &[HeaderName]) -> String {
    names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(";")
}

/// A header's values, blanks made one.
fn field(headers: &HeaderMap, name: &HeaderName) -> Result<String, SignFault> {
    let plain = |value: &HeaderValue| {
        let text = std::str::from_utf8(value.as_bytes()).ok()?;
        Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let values: Option<Vec<String>> = headers.get_all(name).iter().map(plain).collect();
    values
        .filter(|values| !values.is_empty())
        .map(|values| values.join(","))
        .ok_or_else(|| SignFault::Header(name.clone()))
}

/// The parameters of a query, decoded.
fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        [name, value].map(|text| String::from_utf8_lossy(&decoded(text)).into_owned()).into()
    })
}

/// Percent-decoded once.
fn decoded(text: &str) -> Vec<u8> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.extend(u8::try_from(high * 16 + low));
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

fn encoded(text: &str, keeps_slash: bool) -> String {
    encoded_bytes(text.as_bytes(), keeps_slash)
}

/// Percent-encoded but for what is unreserved (RFC 3986 §2.3).
fn encoded_bytes(bytes: &[u8], keeps_slash: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(*byte)),
            b'/' if keeps_slash => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn sensitive(text: &str) -> Result<HeaderValue, SignFault> {
    let mut value = HeaderValue::from_str(text).map_err(|_| SignFault::Malformed("it holds a control byte"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
