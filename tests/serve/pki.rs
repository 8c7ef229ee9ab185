//! Certificates for both ends of the control API.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::verb::{OURS, write_private};

/// Puts `NAME.pem` of a root into the folder, and `NAME-leaf.pem` with its key, for the daemon's address and for a
/// client.
pub(crate) fn certify(folder: &Path, name: &str) {
    let key = KeyPair::generate().expect("a key");
    let mut root = CertificateParams::new(Vec::new()).expect("parameters");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.distinguished_name.push(DnType::CommonName, name);
    let certificate = root.self_signed(&key).expect("a certificate");
    std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).expect("a file");
    let leaf = KeyPair::generate().expect("a key");
    let signed = CertificateParams::new(vec![OURS.to_owned()]).expect("parameters");
    let signed = signed.signed_by(&leaf, &Issuer::new(root, &key)).expect("a certificate");
    std::fs::write(folder.join(format!("{name}-leaf.pem")), signed.pem()).expect("a file");
    write_private(&folder.join(format!("{name}-leaf.key")), &leaf.serialize_pem());
}
