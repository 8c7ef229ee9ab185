//! What a sandbox trusts, for Java: a key store of format 2 ("JKS") with certificates alone.
//!
//! The format is Java's own (`sun.security.provider.JavaKeyStore`). Its digest is keyed with a password that everyone
//! knows: it finds damage and keeps nothing secret.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

/// The password that Java's own trust store has, and that clients give unasked.
const PASSWORD: &str = "changeit";
/// What the format mixes into its digest.
const WHITENER: &[u8] = b"Mighty Aphrodite";

const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
/// The tag of an entry that is a trusted certificate.
const TRUSTED: u32 = 2;

/// A trust store with these certificates, in DER.
#[must_use]
pub fn trust_store(certificates: &[&[u8]]) -> Vec<u8> {
    // Lengths are signed in Java; what does not fit there cannot be a certificate.
    let fitting: Vec<_> = certificates.iter().filter_map(|der| Some((i32::try_from(der.len()).ok()?, *der))).collect();
    let mut store = Vec::new();
    for number in [MAGIC, VERSION, fitting.len() as u32] {
        store.extend(number.to_be_bytes());
    }
    for (at, (length, der)) in fitting.into_iter().enumerate() {
        store.extend(TRUSTED.to_be_bytes());
        put_text(&mut store, &format!("exeat-{at}"));
        // When it was added, in milliseconds: nobody asks.
        store.extend(0_u64.to_be_bytes());
        put_text(&mut store, "X.509");
        store.extend(length.to_be_bytes());
        store.extend(der);
    }
    let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    PASSWORD.encode_utf16().for_each(|unit| digest.update(&unit.to_be_bytes()));
    digest.update(WHITENER);
    digest.update(&store);
    store.extend(digest.finish().as_ref());
    store
}

/// A short ASCII text, as Java writes it (`DataOutput.writeUTF`).
fn put_text(store: &mut Vec<u8>, text: &str) {
    store.extend((text.len() as u16).to_be_bytes());
    store.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::SystemTime;

    use super::*;
    use crate::ca::Authority;
    use crate::flow::SandboxId;

    #[test]
    fn an_empty_store_is_header_and_digest() {
        let store = trust_store(&[]);
        assert_eq!(store[..12], [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(store.len(), 12 + 20);
    }

    #[test]
    fn java_reads_every_certificate() {
        let authority = || Authority::generate(&SandboxId::new("run-7f3a").unwrap(), SystemTime::now).unwrap();
        let (one, other) = (authority(), authority());
        let file = tempfile::NamedTempFile::new().unwrap();
        let store = trust_store(&[one.certificate_der().as_ref(), other.certificate_der().as_ref()]);
        std::fs::write(file.path(), store).unwrap();
        let arguments = ["-list", "-v", "-storepass", PASSWORD, "-keystore"];
        let Ok(listed) = Command::new("keytool").args(arguments).arg(file.path()).output() else {
            eprintln!("skipped: no keytool here");
            return;
        };
        let text = String::from_utf8_lossy(&listed.stdout);
        assert!(listed.status.success(), "{text}");
        assert!(text.contains("Your keystore contains 2 entries"), "{text}");
        assert_eq!(text.matches("Entry type: trustedCertEntry").count(), 2, "{text}");
        assert_eq!(text.matches("Owner: CN=exeat run-7f3a root").count(), 2, "{text}");
    }
}
