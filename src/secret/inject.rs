//! Secrets on their way out: templates become header values, and header values replace what the sandbox sent.
//!
//! It never decides whether a header may be set (the permit says so) and never sends anything. Two steps, because a
//! value that cannot be had must be known before anybody is contacted (POLICY §3 "Secrets"), while the values enter
//! the request only after the permit was found to be still in force (POLICY §8).
//!
//! - `INVARIANT`: all or nothing; a request is never sent with part of its injections.
//! - `INVARIANT`: afterwards exactly one field of each injected name is there, and it is ours.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use super::{Secrets, Value};
use crate::flow::SecretName;
use crate::policy::verdict::{Injection, Part, Segment, Template, is_alike};

/// Header values, ready to be set.
pub struct Injections(Vec<(HeaderName, HeaderValue)>);

impl Injections {
    /// Turns every template into a value.
    ///
    /// # Errors
    /// Names the first secret that cannot be had, or the header whose value no header may hold.
    pub fn prepare(injections: &[Injection], secrets: &Secrets) -> Result<Self, InjectError> {
        injections
            .iter()
            .map(|injection| Ok((injection.header.clone(), value(injection, secrets)?)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Sets the headers, and says which. Every copy that is there goes, also one that is merely [alike](is_alike).
    pub fn apply(self, headers: &mut HeaderMap) -> Vec<HeaderName> {
        let names = self.0.iter().map(|(name, _)| name.clone()).collect();
        for (name, value) in self.0 {
            let alike: Vec<HeaderName> = headers.keys().filter(|other| is_alike(other, &name)).cloned().collect();
            for other in alike {
                headers.remove(other);
            }
            headers.insert(name, value);
        }
        names
    }

    /// The lower-case names, for the audit record.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.as_str().to_owned()).collect()
    }
}

impl fmt::Debug for Injections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Why a request cannot have its headers (POLICY §7: `secret-unavailable`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InjectError {
    /// The secret has no value.
    Missing(SecretName),
    /// The value that results holds a control byte.
    Unprintable(HeaderName),
    /// The secret's value ends in the beginning of an escape, so that it is not its own what it is read as.
    Unfinished(SecretName),
    /// The query that results is longer than any head.
    TooLong,
}

impl fmt::Display for InjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "the secret {} has no value", name.as_str()),
            Self::Unfinished(name) => {
                write!(
                    f,
                    "the secret {} ends like the beginning of an escape; what follows would change it",
                    name.as_str()
                )
            }
            Self::TooLong => f.write_str("the query with its values is longer than any head"),
            Self::Unprintable(header) => write!(f, "the value for the header {header} holds a control byte"),
        }
    }
}

impl std::error::Error for InjectError {}

fn value(injection: &Injection, secrets: &Secrets) -> Result<HeaderValue, InjectError> {
    let Template(segments) = &injection.value;
    let pieces: Vec<Piece<'_>> = segments.iter().map(|segment| coded(segment, secrets)).collect::<Result<_, _>>()?;
    let bytes = joined(&pieces);
    let unprintable = || InjectError::Unprintable(injection.header.clone());
    if bytes.iter().any(u8::is_ascii_control) {
        return Err(unprintable());
    }
    let mut value = HeaderValue::from_bytes(&bytes).map_err(|_| unprintable())?;
    value.set_sensitive(true);
    Ok(value)
}

fn coded<'a>(segment: &'a Segment, secrets: &Secrets) -> Result<Piece<'a>, InjectError> {
    match segment {
        Segment::Plain(part) => plain(part, secrets),
        Segment::Base64(parts) => {
            let pieces: Vec<Piece<'_>> = parts.iter().map(|part| plain(part, secrets)).collect::<Result<_, _>>()?;
            let plain = joined(&pieces);
            let mut coded = Zeroizing::new(vec![0; plain.len().div_ceil(3) * 4]);
            // There is room for it: every three bytes begun are four characters.
            let length = STANDARD.encode_slice(&*plain, &mut coded).unwrap_or_default();
            coded.truncate(length);
            Ok(Piece::Coded(coded))
        }
    }
}

/// A part with its value, taken once, for that may change meanwhile.
fn plain<'a>(part: &'a Part, secrets: &Secrets) -> Result<Piece<'a>, InjectError> {
    match part {
        Part::Literal(text) => Ok(Piece::Text(text)),
        Part::Secret(name) => secrets.value(name).map(Piece::Value).ok_or_else(|| InjectError::Missing(name.clone())),
    }
}

/// The pieces as one text.
fn joined(pieces: &[Piece<'_>]) -> Zeroizing<Vec<u8>> {
    // Room for all from the start: a vector that grows leaves copies behind.
    let length = pieces.iter().map(|piece| piece.expose(<[u8]>::len)).sum();
    let mut bytes = Zeroizing::new(Vec::with_capacity(length));
    pieces.iter().for_each(|piece| piece.expose(|piece| bytes.extend_from_slice(piece)));
    bytes
}

/// A part of a header's value, the secret in its place.
enum Piece<'a> {
    Text(&'a str),
    Value(Arc<Value>),
    Coded(Zeroizing<Vec<u8>>),
}

impl Piece<'_> {
    fn expose<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Self::Text(text) => f(text.as_bytes()),
            Self::Value(value) => value.expose(f),
            Self::Coded(coded) => f(coded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Secret;
    use super::*;

    fn secrets(value: &[u8]) -> Secrets {
        let secrets = Secrets::default();
        secrets.insert(name("KEY"), Secret::new(Zeroizing::new(value.to_vec())));
        secrets
    }

    fn name(text: &str) -> SecretName {
        SecretName::new(text).unwrap()
    }

    fn bearer(secret: &str) -> Injection {
        let value = Template::plain(vec![Part::Literal("Bearer ".to_owned()), Part::Secret(name(secret))]);
        Injection { header: HeaderName::from_static("x-api-key"), spelled: "x-api-key".into(), value, yields: false }
    }

    #[test]
    fn every_copy_of_an_injected_header_is_replaced_by_one() {
        let mut headers = HeaderMap::new();
        headers.append("X-Api-Key", HeaderValue::from_static("theirs"));
        headers.append("x-api-key", HeaderValue::from_static("theirs too"));
        headers.append("x_api-key", HeaderValue::from_static("and theirs"));
        headers.append("x-other", HeaderValue::from_static("stays"));
        let prepared = Injections::prepare(&[bearer("KEY")], &secrets(b"s3cret\n")).unwrap();
        assert_eq!(prepared.names(), ["x-api-key"]);
        prepared.apply(&mut headers);
        assert_eq!(headers.len(), 2);
        assert_eq!(headers.get("x-api-key").unwrap(), "Bearer s3cret");
        assert!(headers.get("x-api-key").unwrap().is_sensitive());
    }

    #[test]
    fn a_value_that_cannot_be_had_stops_everything() {
        let missing = Injections::prepare(&[bearer("KEY"), bearer("OTHER")], &secrets(b"s3cret")).unwrap_err();
        assert_eq!(missing, InjectError::Missing(name("OTHER")));
        for value in [&b"a\nb"[..], b"a\rb", b"a\0b", b"a\tb", b"\x7f", b"a\n\n"] {
            let error = Injections::prepare(&[bearer("KEY")], &secrets(value)).unwrap_err();
            assert!(matches!(error, InjectError::Unprintable(_)), "{value:?}");
        }
    }

    #[test]
    fn what_is_to_be_encoded_is_encoded_with_its_secret_in_place() {
        let parts = vec![Part::Literal("user:".to_owned()), Part::Secret(name("KEY"))];
        let value = Template(vec![Segment::Plain(Part::Literal("Basic ".to_owned())), Segment::Base64(parts)]);
        let basic = Injection { value, ..bearer("KEY") };
        let mut headers = HeaderMap::new();
        Injections::prepare(std::slice::from_ref(&basic), &secrets(b"s3cret")).unwrap().apply(&mut headers);
        assert_eq!(headers.get("x-api-key").unwrap(), "Basic dXNlcjpzM2NyZXQ=");
        let missing = Injections::prepare(&[basic], &Secrets::default()).unwrap_err();
        assert_eq!(missing, InjectError::Missing(name("KEY")));
    }

    #[test]
    fn a_prepared_value_does_not_show() {
        let prepared = Injections::prepare(&[bearer("KEY")], &secrets(b"s3cret")).unwrap();
        assert_eq!(format!("{prepared:?}"), "[\"x-api-key\"]");
    }
}
