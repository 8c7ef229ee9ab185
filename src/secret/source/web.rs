//! What sources ask over HTTP, and what they are answered. Who carries it, and how, is the [`World`](super::World)'s.
//!
//! `INVARIANT`: what is asked, and what is answered, is zeroised, and shown nowhere.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

use super::{Fault, Secret};
use crate::limits;

/// A request of a source's.
pub struct Ask {
    /// Its method.
    pub method: Method,
    /// Where it goes, whole.
    pub uri: Uri,
    /// Certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Its fields, but for the host.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Zeroizing<Vec<u8>>,
}

impl Ask {
    pub(super) fn new(method: Method, uri: Option<Uri>, ca: Option<&PathBuf>) -> Result<Self, Fault> {
        let uri = uri.ok_or(Fault::Unfit("an address"))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("exeat"));
        Ok(Self { method, uri, ca: ca.cloned(), headers, body: Zeroizing::default() })
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// With a body of JSON.
    pub(super) fn saying(self, said: &impl Serialize) -> Result<Self, Fault> {
        // Room for all from the start: a vector that grows leaves copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(2 * limits::SECRET_BYTES));
        serde_json::to_writer(&mut *body, said).map_err(|_| Fault::Unfit("a credential"))?;
        let json = HeaderValue::from_static("application/json");
        Ok(Self { body, ..self.with(header::CONTENT_TYPE, json) })
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("method", &self.method).field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// What a source is answered.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The body, of which [`limits::SECRET_ANSWER_BYTES`] are read.
    pub body: Zeroizing<Vec<u8>>,
}

impl Reply {
    /// The body as JSON of this form.
    pub(super) fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Fault> {
        // What is wrong with it could quote it.
        serde_json::from_slice(&self.body).map_err(|_| Fault::Garbled)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why there is no answer. It holds nothing of what was asked.
#[derive(Debug)]
pub struct FetchError(pub Box<dyn Error + Send + Sync>);

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for FetchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// Text of an answer that is a secret.
pub(super) struct Hidden(Zeroizing<String>);

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl Hidden {
    pub(super) fn into_secret(self) -> Secret {
        Secret::new(Zeroizing::new(self.0.as_bytes().to_vec()))
    }
}

/// A header's value that is a secret, after a word if there is one.
pub(super) fn field(word: &str, secret: &[u8]) -> Result<HeaderValue, Fault> {
    let whole = Zeroizing::new([word.as_bytes(), secret].concat());
    let mut value = HeaderValue::from_bytes(&whole).map_err(|_| Fault::Unfit("a credential"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Basic authentication (RFC 7617), with both parts encoded as OAuth 2.0 has them (RFC 6749 §2.3.1).
pub(super) fn basic(id: &str, secret: &[u8]) -> Result<HeaderValue, Fault> {
    let mut pair = Zeroizing::new(String::with_capacity(3 * (id.len() + secret.len()) + 1));
    form_encoded(&mut pair, id.as_bytes());
    pair.push(':');
    form_encoded(&mut pair, secret);
    field("Basic ", Zeroizing::new(STANDARD.encode(pair.as_bytes())).as_bytes())
}

/// A form (WHATWG URL §5.2) of these pairs, in which a secret may be.
pub(super) fn form(pairs: &[(&str, &[u8])]) -> Zeroizing<Vec<u8>> {
    let most: usize = pairs.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let mut form = Zeroizing::new(String::with_capacity(most));
    for (name, value) in pairs {
        if !form.is_empty() {
            form.push('&');
        }
        form_encoded(&mut form, name.as_bytes());
        form.push('=');
        form_encoded(&mut form, value);
    }
    Zeroizing::new(form.as_bytes().to_vec())
}

fn form_encoded(form: &mut Zeroizing<String>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => form.push(char::from(*byte)),
            b' ' => form.push('+'),
            _ => {
                let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().map_or('0', char::from);
                form.extend(['%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
}
