//! A signature of a rule's own: an HMAC over a text that is made of the request (RFC 2104).

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, Context, HMAC_SHA256, HMAC_SHA512, Key};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::{Head, SignFault, hex};
use crate::policy::signing::{HmacEncoding, HmacHash, HmacPart, HmacSigning};
use crate::secret::Secrets;

/// The key of a rule, ready to sign.
pub struct HmacKey(Key);

impl HmacKey {
    /// The key of a rule.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn of(rule: &HmacSigning, secrets: &Secrets) -> Result<Self, SignFault> {
        let value = secrets.value(&rule.key).ok_or_else(|| SignFault::Missing(rule.key.clone()))?;
        let hash = match rule.hash {
            HmacHash::Sha256 => HMAC_SHA256,
            HmacHash::Sha512 => HMAC_SHA512,
        };
        Ok(Self(value.expose(|bytes| Key::new(hash, bytes))))
    }

    /// The value of the rule's header; `body` is there where the rule reads it.
    ///
    /// # Errors
    /// A header that the text holds is not there, or several times.
    pub fn sign(&self, head: &Head<'_>, rule: &HmacSigning, body: &[u8]) -> Result<HeaderValue, SignFault> {
        let mut text = Context::with_key(&self.0);
        for part in &rule.over {
            match part {
                HmacPart::Literal(literal) => text.update(literal.as_bytes()),
                HmacPart::Method => text.update(head.method.as_bytes()),
                HmacPart::Path => text.update(head.path.as_bytes()),
                HmacPart::Query => text.update(head.query.unwrap_or_default().as_bytes()),
                HmacPart::Target => {
                    text.update(head.path.as_bytes());
                    if let Some(query) = head.query {
                        text.update(b"?");
                        text.update(query.as_bytes());
                    }
                }
                HmacPart::Host => text.update(head.host.as_bytes()),
                HmacPart::Header(name) => {
                    let mut values = head.headers.get_all(name).iter();
                    let (Some(value), None) = (values.next(), values.next()) else {
                        return Err(SignFault::Header(name.clone()));
                    };
                    text.update(value.as_bytes());
                }
                HmacPart::Body => text.update(body),
                HmacPart::BodySha256 => text.update(hex(digest(&SHA256, body).as_ref()).as_bytes()),
            }
        }
        let code = written(&text.sign(), rule.encoding);
        let value = HeaderValue::from_str(&format!("{}{code}", rule.prefix));
        value.map_err(|_| SignFault::Header(rule.header.clone()))
    }
}

fn written(code: &hmac::Tag, encoding: HmacEncoding) -> String {
    match encoding {
        HmacEncoding::Hex => hex(code.as_ref()),
        HmacEncoding::Base64 => STANDARD.encode(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::SecretName;
    use crate::secret::Secret;
    use http::{HeaderMap, HeaderName};
    use zeroize::Zeroizing;

    fn rule(over: Vec<HmacPart>, hash: HmacHash, encoding: HmacEncoding) -> HmacSigning {
        let header = HeaderName::from_static("x-signature");
        HmacSigning { key: SecretName::new("KEY").unwrap(), hash, over, header, prefix: "v1=".to_owned(), encoding }
    }

    fn signed(rule: &HmacSigning, key: &str, headers: &HeaderMap, body: &[u8]) -> Result<String, SignFault> {
        let secrets = Secrets::default();
        secrets.insert(rule.key.clone(), Secret::new(Zeroizing::new(key.as_bytes().to_vec())));
        let head = Head { method: "POST", path: "/a%20b", query: Some("x=1"), host: "a.test", headers };
        let key = HmacKey::of(rule, &secrets)?;
        key.sign(&head, rule, body).map(|value| value.to_str().unwrap().to_owned())
    }

    /// RFC 4231 §4.3, test case 2.
    #[test]
    fn codes_are_those_of_the_standard() {
        let body = || vec![HmacPart::Body];
        let text = b"what do ya want for nothing?";
        let sha256 = "v1=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let hex = rule(body(), HmacHash::Sha256, HmacEncoding::Hex);
        assert_eq!(signed(&hex, "Jefe", &HeaderMap::new(), text).unwrap(), sha256);
        let sha512 =
            signed(&rule(body(), HmacHash::Sha512, HmacEncoding::Hex), "Jefe", &HeaderMap::new(), text).unwrap();
        assert!(sha512.starts_with("v1=164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"), "{sha512}");
        let base64 = rule(body(), HmacHash::Sha256, HmacEncoding::Base64);
        assert_eq!(
            signed(&base64, "Jefe", &HeaderMap::new(), text).unwrap(),
            "v1=W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM="
        );
    }

    #[test]
    fn the_text_is_made_of_the_parts_as_they_are_sent() {
        let time = HeaderName::from_static("x-time");
        let literal = |text: &str| HmacPart::Literal(text.to_owned());
        let parts = vec![
            HmacPart::Method,
            literal("\n"),
            HmacPart::Path,
            literal("\n"),
            HmacPart::Query,
            literal("\n"),
            HmacPart::Target,
            literal("\n"),
            HmacPart::Host,
            literal("\n"),
            HmacPart::Header(time.clone()),
            literal("\n"),
            HmacPart::BodySha256,
        ];
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let whole = format!("POST\n/a%20b\nx=1\n/a%20b?x=1\na.test\n17\n{empty}");
        let mut headers = HeaderMap::new();
        let by_parts = rule(parts, HmacHash::Sha256, HmacEncoding::Hex);
        assert_eq!(signed(&by_parts, "k", &headers, b""), Err(SignFault::Header(time.clone())));
        headers.append(&time, HeaderValue::from_static("17"));
        let by_text = rule(vec![literal(&whole)], HmacHash::Sha256, HmacEncoding::Hex);
        assert_eq!(signed(&by_parts, "k", &headers, b""), signed(&by_text, "k", &headers, b""));
        headers.append(&time, HeaderValue::from_static("18"));
        assert_eq!(signed(&by_parts, "k", &headers, b""), Err(SignFault::Header(time)));
    }

    #[test]
    fn without_its_key_nothing_is_signed() {
        let rule = rule(vec![HmacPart::Method], HmacHash::Sha256, HmacEncoding::Hex);
        assert_eq!(HmacKey::of(&rule, &Secrets::default()).err(), Some(SignFault::Missing(rule.key.clone())));
    }
}
