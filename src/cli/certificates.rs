//! Certificates that origins are shown, read from the operator's files, and again when these change.
//!
//! `INVARIANT`: what cannot be used is not in its slot, so that nobody is contacted without it.

use std::sync::Arc;

use tokio::time::sleep;

use super::serve::CredentialError;
use super::serve::credentials::of_client;
use crate::config::ClientCertificate;
use crate::intercept::upstream::certificates::{CertificateSlot, ClientCertificates};
use crate::limits;
use crate::secret::keep::Stamp;

/// Keeps one certificate current.
pub(super) struct CertificateKeeper {
    said: ClientCertificate,
    slot: Arc<CertificateSlot>,
    /// What was seen last of its file, and of that of its key.
    stamps: [Option<Stamp>; 2],
}

impl CertificateKeeper {
    /// Who keeps a certificate that was not read yet.
    pub(super) fn new(said: ClientCertificate) -> Self {
        Self { said, slot: Arc::default(), stamps: [None; 2] }
    }

    /// Has its names shown what it keeps.
    pub(super) fn show(&self, to: &mut ClientCertificates) {
        self.said.to.iter().for_each(|name| to.show(name.clone(), Arc::clone(&self.slot)));
    }

    /// Reads the files.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub(super) fn read(&mut self) -> Result<(), CredentialError> {
        // Seen first: what changes meanwhile is read again.
        self.stamps = self.look();
        let read = of_client(&self.said.certificate, &self.said.key);
        read.map(|certificate| self.slot.fill(certificate)).inspect_err(|_| self.slot.clear())
    }

    /// Reads them again whenever they change, for as long as it is polled; `tell` hears of what cannot be used.
    pub(super) async fn keep(mut self, tell: impl Fn(&CredentialError)) {
        loop {
            while self.look() == self.stamps {
                sleep(limits::SECRET_CHECK).await;
            }
            if let Err(error) = self.read() {
                tell(&error);
            }
        }
    }

    fn look(&self) -> [Option<Stamp>; 2] {
        [&self.said.certificate, &self.said.key].map(|path| Stamp::of(path))
    }
}
