//! One sandbox's certificate authority: its root key, its leaves, and TLS made ready to be terminated with them.
//!
//! Keys are made here and never printed; only a root's is given out, to whoever keeps it sealed. It never decides that
//! a name is terminated, and never speaks TLS itself.
//!
//! - `INVARIANT`: a leaf is for one name, never a wildcard, and ends before its root does.
//! - `INVARIANT`: at most [`limits::LEAVES`] leaves are kept, and minting more is budgeted.
//! - `INVARIANT`: session tickets are sealed with a key of this authority alone; no other sandbox can use them.

pub mod bundle;
pub mod jks;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moka::ops::compute::{CompResult, Op};
use moka::sync::Cache;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::{Ticketer, sign};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ResolvesServerCertUsingSni};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use zeroize::Zeroizing;

use crate::flow::{Alpn, Domain, SandboxId};
use crate::limits;
use crate::limits::bucket::{Bucket, Rate};
use crate::tls;

/// How far back certificates are valid: a sandbox's clock may be wrong, and images are made with old ones.
const BACKDATED: Duration = Duration::from_secs(48 * 3600);
/// How long a root is valid from now on.
const ROOT_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long a leaf is valid from now on.
const LEAF_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long before its end a leaf is replaced.
const RENEWED_BEFORE: Duration = Duration::from_secs(24 * 3600);

/// How many leaves one sandbox may have minted.
const MINTING: Rate =
    Rate { count: limits::MINT_RATE as u64, per: Duration::from_secs(1), burst: limits::MINT_BURST as u64 };

/// One sandbox's root, and the leaves minted with it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
    made_at: SystemTime,
    ends: SystemTime,
    /// One key for all leaves: making keys costs as much as signing, and they end together.
    leaf_key: KeyPair,
    signing_key: Arc<dyn SigningKey>,
    /// What the TLS of every name has in common.
    template: ServerConfig,
    leaves: Cache<Domain, Leaf>,
    budget: Mutex<Bucket>,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

/// A leaf, ready for use.
#[derive(Clone)]
struct Leaf {
    key: Arc<CertifiedKey>,
    config: Arc<ServerConfig>,
    renew_at: SystemTime,
}

impl Authority {
    /// Makes the root of one sandbox: ECDSA over P-256, no further authority below it. `clock` tells the time, now and
    /// whenever a leaf is minted.
    ///
    /// # Errors
    /// [`MintError::Certificate`] or [`MintError::Tls`], if a library fails.
    pub fn generate(
        sandbox: &SandboxId,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Result<Self, MintError> {
        let now = clock();
        Self::with_root(sandbox, KeyPair::generate()?, now, clock)
    }

    /// The root of one sandbox again, from its key and the time it was made, as [`Self::root`] gave them: whoever
    /// trusts its first certificate trusts its leaves.
    ///
    /// # Errors
    /// As [`Self::generate`]; and where the key is none.
    pub fn restore(
        sandbox: &SandboxId,
        key: &[u8],
        made_at: SystemTime,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Result<Self, MintError> {
        Self::with_root(sandbox, KeyPair::try_from(key)?, made_at, clock)
    }

    fn with_root(
        sandbox: &SandboxId,
        root_key: KeyPair,
        made_at: SystemTime,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Result<Self, MintError> {
        let ends = made_at + ROOT_LIFE;
        let leaf_key = KeyPair::generate()?;
        let params = root_params(sandbox, made_at, ends)?;
        let certificate = params.self_signed(&root_key)?;
        let signing_key = sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(leaf_key.serialized_der().into()))?;
        Ok(Self {
            issuer: Issuer::new(params, root_key),
            certificate,
            made_at,
            ends,
            leaf_key,
            signing_key,
            template: template()?,
            leaves: Cache::new(limits::LEAVES),
            budget: Mutex::default(),
            clock: Box::new(clock),
        })
    }

    /// The root's key (PKCS #8), to be kept sealed, and when it was made.
    #[must_use]
    pub fn root(&self) -> (Zeroizing<Vec<u8>>, SystemTime) {
        (Zeroizing::new(self.issuer.key().serialize_der()), self.made_at)
    }

    /// The root's certificate, in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The root's certificate, in DER.
    #[must_use]
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        self.certificate.der()
    }

    /// The leaf for `name`: kept, or minted now.
    ///
    /// # Errors
    /// See [`MintError`].
    pub fn leaf(&self, name: &Domain) -> Result<Arc<CertifiedKey>, MintError> {
        self.kept_or_minted(name).map(|leaf| leaf.key)
    }

    /// How to end TLS for `name`, with its leaf: HTTP/2 and HTTP/1.1 offered, tickets of this authority.
    ///
    /// # Errors
    /// See [`MintError`].
    pub fn server_config(&self, name: &Domain) -> Result<Arc<ServerConfig>, MintError> {
        self.kept_or_minted(name).map(|leaf| leaf.config)
    }

    fn kept_or_minted(&self, name: &Domain) -> Result<Leaf, MintError> {
        let now = (self.clock)();
        let is_fresh = |leaf: &Leaf| now < leaf.renew_at;
        if let Some(leaf) = self.leaves.get(name).filter(is_fresh) {
            return Ok(leaf);
        }
        // Whoever comes first mints; who asks for the same name meanwhile waits, and finds it.
        let minted = self.leaves.entry_by_ref(name).and_try_compute_with(|kept| match kept {
            Some(kept) if is_fresh(kept.value()) => Ok(Op::Nop),
            _ => self.mint(name, now).map(Op::Put),
        })?;
        match minted {
            CompResult::Inserted(entry) | CompResult::ReplacedWith(entry) | CompResult::Unchanged(entry) => {
                Ok(entry.into_value())
            }
            CompResult::Removed(_) | CompResult::StillNone(_) => Err(MintError::Budget),
        }
    }

    fn mint(&self, name: &Domain, now: SystemTime) -> Result<Leaf, MintError> {
        if now >= self.ends {
            return Err(MintError::RootEnded);
        }
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.budget.lock().unwrap_or_else(PoisonError::into_inner).take(MINTING, since_epoch).is_err() {
            return Err(MintError::Budget);
        }
        let ends = self.ends.min(now + LEAF_LIFE);
        let certificate = leaf_params(name, now, ends)?.signed_by(&self.leaf_key, &self.issuer)?;
        let key = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], Arc::clone(&self.signing_key)));
        let mut config = self.template.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&key)));
        // At the root's own end a new leaf would last no longer.
        let renew_at = if ends == self.ends { ends } else { ends - RENEWED_BEFORE };
        Ok(Leaf { key, config: Arc::new(config), renew_at })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(…)")
    }
}

/// Why there is no leaf.
#[derive(Debug)]
#[non_exhaustive]
pub enum MintError {
    /// The sandbox has asked for more new names than [`limits::MINT_BURST`] and [`limits::MINT_RATE`] let it
    /// (POLICY §7: `mint-budget`).
    Budget,
    /// The root is no longer valid.
    RootEnded,
    /// The certificate could not be made.
    Certificate(rcgen::Error),
    /// TLS could not be set up.
    Tls(rustls::Error),
}

impl fmt::Display for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Budget => "the sandbox has asked for too many new names",
            Self::RootEnded => "the sandbox's root certificate is no longer valid",
            Self::Certificate(_) => "a certificate could not be made",
            Self::Tls(_) => "TLS could not be set up",
        })
    }
}

impl std::error::Error for MintError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Certificate(error) => Some(error),
            Self::Tls(error) => Some(error),
            Self::Budget | Self::RootEnded => None,
        }
    }
}

impl From<rcgen::Error> for MintError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(error)
    }
}

impl From<rustls::Error> for MintError {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}

fn root_params(sandbox: &SandboxId, now: SystemTime, ends: SystemTime) -> Result<CertificateParams, MintError> {
    let mut params = params(now, ends)?;
    // A common name has 64 characters at most (RFC 5280, `ub-common-name`).
    params.distinguished_name.push(DnType::CommonName, format!("exeat {:.52} root", sandbox.as_str()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf_params(name: &Domain, now: SystemTime, ends: SystemTime) -> Result<CertificateParams, MintError> {
    let mut params = params(now, ends)?;
    // Clients read the alternative name alone (RFC 9525 §2), and it has no bound of 64 characters.
    params.distinguished_name.push(DnType::CommonName, "exeat leaf");
    params.subject_alt_names = vec![SanType::DnsName(Ia5String::try_from(name.as_str())?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// What every certificate has: its time, and a serial number of its own. (The library would derive that from the key,
/// which all leaves share; some clients refuse the second certificate of one issuer and number.)
fn params(now: SystemTime, ends: SystemTime) -> Result<CertificateParams, MintError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = (now - BACKDATED).into();
    params.not_after = ends.into();
    Ok(params)
}

fn template() -> Result<ServerConfig, MintError> {
    let mut config =
        tls::server().with_no_client_auth().with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    config.alpn_protocols = [Alpn::Http2, Alpn::Http1].map(|protocol| protocol.as_bytes().to_vec()).into();
    // Tickets hold the whole session; a store beside them would be memory for each name.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = Ticketer::new()?;
    Ok(config)
}
