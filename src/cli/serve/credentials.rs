//! What the doors of the control API let in with, read from the files that the settings name.
//!
//! - `INVARIANT`: a token or a key that others than its owner and group may read, or that anybody but its owner may
//!   write, is refused.
//! - `INVARIANT`: an error names a file and what is wrong with it, and quotes nothing of it.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use zeroize::Zeroizing;

use crate::config::{Callers, Cleartext, Tcp};
use crate::control::door::{Digest, Lock};
use crate::{limits, tls};

/// The lock of a TCP address.
///
/// # Errors
/// The first file that cannot be used.
pub(super) fn of_tcp(tcp: &Tcp) -> Result<Lock, CredentialError> {
    let Tcp { address: _, certificate, key, callers } = tcp;
    let (token, issuers) = match callers {
        Callers::Token(token) => (Some(token), None),
        Callers::Certificate(issuers) => (None, Some(issuers)),
        Callers::Both { token, issuers } => (Some(token), Some(issuers)),
    };
    let issuers = issuers.map(|path| Ok((path, read(path, Who::Anybody)?))).transpose()?;
    let tls = server(certificate, key, issuers.as_ref().map(|(path, pem)| (path.as_path(), pem.as_slice())))?;
    Ok(Lock {
        tls: Some(Arc::new(tls)),
        issuers: issuers.map(|(_, pem)| Digest::of(&pem)),
        token: token.map(|path| self::token(path)).transpose()?,
    })
}

/// A certificate of ours, with its key.
///
/// # Errors
/// The first file that cannot be used.
pub(in crate::cli) fn of_client(certificate: &Path, key: &Path) -> Result<CertifiedKey, CredentialError> {
    let chain = certificates(certificate, &read(certificate, Who::Anybody)?)?;
    let secret = PrivateKeyDer::from_pem_slice(&read(key, Who::Owner)?);
    let secret = secret.map_err(|_| CredentialError::new(key, Fault::NoKey))?;
    let pair = CertifiedKey::from_der(chain, secret, &tls::provider());
    pair.map_err(|error| CredentialError::new(certificate, Fault::Tls(error.into())))
}

/// The lock of an address in clear text.
///
/// # Errors
/// The token cannot be used.
pub(super) fn of_cleartext(cleartext: &Cleartext) -> Result<Lock, CredentialError> {
    Ok(Lock { token: Some(token(&cleartext.token)?), ..Lock::default() })
}

fn token(path: &Path) -> Result<Digest, CredentialError> {
    let text = read(path, Who::Owner)?;
    let token = text.trim_ascii_end();
    let line = token.iter().all(u8::is_ascii_graphic);
    if !line || token.len() < limits::TOKEN_LEAST {
        return Err(CredentialError::new(path, Fault::Token));
    }
    Ok(Digest::of(token))
}

/// TLS with this certificate, for clients with a certificate from these issuers, if there are any.
fn server(certificate: &Path, key: &Path, issuers: Option<(&Path, &[u8])>) -> Result<ServerConfig, CredentialError> {
    let chain = certificates(certificate, &read(certificate, Who::Anybody)?)?;
    let secret = PrivateKeyDer::from_pem_slice(&read(key, Who::Owner)?);
    let secret = secret.map_err(|_| CredentialError::new(key, Fault::NoKey))?;
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |error: Box<dyn Error + Send + Sync>| CredentialError::new(&path, Fault::Tls(error))
    };
    let builder = match issuers {
        None => tls::server().with_no_client_auth(),
        Some((path, pem)) => {
            let mut roots = RootCertStore::empty();
            for issuer in certificates(path, pem)? {
                roots.add(issuer).map_err(|error| fault(path)(error.into()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider()).build();
            tls::server().with_client_cert_verifier(verifier.map_err(|error| fault(path)(error.into()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, secret).map_err(|error| fault(certificate)(error.into()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A session that is resumed is not verified anew: every connection says who it is.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| CredentialError::new(path, Fault::NoCertificate))
}

/// Who may know what stands in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Anybody,
    /// And the group, where the operator says so.
    Owner,
}

fn read(path: &Path, who: Who) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let failed = |error| CredentialError::new(path, Fault::Unreadable(error));
    let file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if who == Who::Owner && found.mode() & 0o027 != 0 {
        return Err(CredentialError::new(path, Fault::Open(found.mode() & 0o777)));
    }
    // Room for all from the start: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limits::CREDENTIAL_BYTES + 1));
    let most = u64::try_from(limits::CREDENTIAL_BYTES).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limits::CREDENTIAL_BYTES {
        return Err(CredentialError::new(path, Fault::TooLong));
    }
    Ok(bytes)
}

/// Why a file of the settings cannot be used.
#[derive(Debug)]
pub struct CredentialError {
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Unreadable(io::Error),
    Open(u32),
    TooLong,
    Token,
    NoCertificate,
    NoKey,
    Tls(Box<dyn Error + Send + Sync>),
}

impl CredentialError {
    fn new(path: &Path, fault: Fault) -> Self {
        Self { path: path.to_owned(), fault }
    }
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.fault {
            Fault::Unreadable(_) => write!(f, "{path} cannot be read"),
            Fault::Open(mode) => write!(
                f,
                "{path} is open to others (its permissions are {mode:04o}), so it is no secret: make a new one, and \
                 `chmod 0600` it"
            ),
            Fault::TooLong => write!(f, "{path} holds more than {} bytes", limits::CREDENTIAL_BYTES),
            Fault::Token => write!(
                f,
                "{path} holds no token: one line of {} letters, digits or signs at least, such as \
                 `openssl rand -hex 32` prints",
                limits::TOKEN_LEAST
            ),
            Fault::NoCertificate => write!(f, "{path} holds no certificate in PEM"),
            Fault::NoKey => write!(f, "{path} holds no private key in PEM"),
            Fault::Tls(_) => write!(f, "{path} cannot be used"),
        }
    }
}

impl Error for CredentialError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.fault {
            Fault::Unreadable(error) => Some(error),
            Fault::Tls(error) => Some(error.as_ref()),
            Fault::Open(_) | Fault::TooLong | Fault::Token | Fault::NoCertificate | Fault::NoKey => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::chain;

    fn file(folder: &Path, name: &str, mode: u32, content: impl AsRef<[u8]>) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_token_is_a_line_that_nobody_guesses_or_reads() {
        let folder = tempfile::tempdir().unwrap();
        let good = "0123456789abcdef";
        for (name, mode, content, expected) in [
            ("good", 0o600, format!("{good}\n"), ""),
            ("of-a-group", 0o640, good.to_owned(), ""),
            ("read-by-others", 0o604, good.to_owned(), "chmod 0600"),
            ("written-by-a-group", 0o660, good.to_owned(), "0660"),
            ("short", 0o600, "0123456789abcde".to_owned(), "openssl rand"),
            ("lines", 0o600, format!("{good}\n{good}\n"), "one line"),
            ("long", 0o600, "x".repeat(limits::CREDENTIAL_BYTES + 1), "more than"),
        ] {
            let path = file(folder.path(), name, mode, content);
            let told = token(&path).map_or_else(|error| error.to_string(), |_| String::new());
            assert!(told.contains(expected) && told.is_empty() == expected.is_empty(), "{name}: {told}");
            assert!(!told.contains(good));
        }
        assert_eq!(
            token(&file(folder.path(), "a", 0o600, format!("{good}\r\n"))).unwrap(),
            Digest::of(good.as_bytes())
        );
        let absent = token(&folder.path().join("absent")).unwrap_err();
        assert!(chain(&absent).contains("absent cannot be read: No such file"), "{}", chain(&absent));
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (one, other) = (made(), made());
        let certificate = file(folder.path(), "certificate", 0o644, one.cert.pem());
        let key = |name, mode, key: &rcgen::KeyPair| file(folder.path(), name, mode, key.serialize_pem());
        let lock = |certificate: &Path, key: PathBuf, issuers: Option<&Path>| {
            let issuers = issuers.map(Path::to_owned).unwrap_or_else(|| certificate.to_owned());
            let callers = Callers::Certificate(issuers);
            let certificate = certificate.to_owned();
            of_tcp(&Tcp { address: "192.0.2.1:1".parse().unwrap(), certificate, key, callers })
        };
        let good = lock(&certificate, key("good", 0o600, &one.signing_key), None).unwrap();
        assert!(good.tls.is_some() && good.issuers.is_some() && good.token.is_none());
        let nothing = file(folder.path(), "nothing", 0o600, "");
        for (told, expected) in [
            (lock(&certificate, key("open", 0o644, &one.signing_key), None), "open is open to others"),
            (lock(&certificate, key("other", 0o600, &other.signing_key), None), "certificate cannot be used"),
            (lock(&certificate, nothing.clone(), None), "holds no private key"),
            (lock(&nothing, key("key", 0o600, &one.signing_key), None), "holds no certificate"),
            (lock(&certificate, key("k", 0o600, &one.signing_key), Some(&nothing)), "holds no certificate"),
        ] {
            let told = chain(&told.unwrap_err());
            assert!(told.contains(expected), "{expected}: {told}");
        }
    }
}
