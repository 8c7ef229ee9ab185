//! Signed tokens in compact form (RFC 7515 §3.1), RS256 of RFC 7518 §3.3 alone: what the issuer signs about a sandbox,
//! and what a GitHub App shows of itself.
//!
//! It keeps no key, and knows no time: what a token claims is its caller's.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use zeroize::Zeroizing;

/// A token with these claims; `None` if a library failed.
#[must_use]
pub fn rs256(key: &KeyPair, header: &Value, claims: &Value) -> Option<Zeroizing<String>> {
    let mut token = Zeroizing::new(format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string())));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature).ok()?;
    token.push('.');
    token.push_str(&encoded(signature));
    Some(token)
}

/// Bytes as tokens and keys have them (RFC 7515 §2).
#[must_use]
pub fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
