//! What a sandbox trusts, in PEM: what its host trusts, and its own root.

use super::Authority;

/// The system's bundle with the authority's certificate after it. An empty system bundle gives the root alone.
#[must_use]
pub fn trust_bundle(system: &[u8], authority: &Authority) -> Vec<u8> {
    let root = authority.certificate_pem();
    let mut bundle = Vec::with_capacity(system.len() + 1 + root.len());
    bundle.extend_from_slice(system);
    if !system.is_empty() && !system.ends_with(b"\n") {
        bundle.push(b'\n');
    }
    bundle.extend_from_slice(root.as_bytes());
    bundle
}
