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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::flow::SandboxId;

    fn authority() -> Authority {
        Authority::generate(&SandboxId::new("run-7f3a").unwrap(), SystemTime::now).unwrap()
    }

    #[test]
    fn the_root_stands_after_what_the_system_trusts() {
        let (system, authority) = (authority(), authority());
        for ending in ["", "\n"] {
            let pem = format!("# a comment\n{}{ending}", system.certificate_pem().trim_end());
            let bundle = trust_bundle(pem.as_bytes(), &authority);
            let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bundle).map(Result::unwrap).collect();
            assert_eq!(certificates, [system.certificate_der().clone(), authority.certificate_der().clone()]);
        }
    }

    #[test]
    fn without_a_system_bundle_the_root_stands_alone() {
        let authority = authority();
        assert_eq!(trust_bundle(b"", &authority), authority.certificate_pem().as_bytes());
    }
}
