//! Certificates of the operator's that we show to named origins, and to nobody else.
//!
//! It reads no file: whoever keeps a certificate current fills its [`CertificateSlot`].
//!
//! - `INVARIANT`: an origin that is to be shown a certificate is shown it, or not contacted.
//! - `INVARIANT`: what holds a key can be used and not printed.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::flow::Domain;

/// Where a certificate and its key stand, if they can be had.
#[derive(Default)]
pub struct CertificateSlot(ArcSwapOption<SingleCertAndKey>);

impl CertificateSlot {
    /// From now on this one is shown.
    pub fn fill(&self, certificate: CertifiedKey) {
        self.0.store(Some(Arc::new(certificate.into())));
    }

    /// From now on there is none, and whoever is to be shown one is not contacted.
    pub fn clear(&self) {
        self.0.store(None);
    }
}

/// A certificate as it is shown; equal to itself alone.
#[derive(Clone)]
pub struct Shown(Arc<SingleCertAndKey>);

impl Shown {
    pub(super) fn resolver(&self) -> Arc<dyn ResolvesClientCert> {
        Arc::<SingleCertAndKey>::clone(&self.0)
    }
}

impl PartialEq for Shown {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Shown {}

impl Hash for Shown {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// Which origin is shown which.
#[derive(Clone, Default)]
pub struct ClientCertificates(HashMap<Domain, Arc<CertificateSlot>>);

impl ClientCertificates {
    /// Has a name shown what stands in a slot.
    pub fn show(&mut self, name: Domain, slot: Arc<CertificateSlot>) {
        self.0.insert(name, slot);
    }

    /// What a name is shown, if anything.
    ///
    /// # Errors
    /// It is to be shown one that cannot be had.
    pub(super) fn of(&self, name: &Domain) -> Result<Option<Shown>, Missing> {
        let Some(slot) = self.0.get(name) else { return Ok(None) };
        slot.0.load_full().map(|certificate| Some(Shown(certificate))).ok_or(Missing)
    }
}

/// A certificate cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing;
