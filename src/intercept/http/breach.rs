//! What reading a request's body on its way out has come to: told once, and asked for by whoever answers the request.

use std::sync::{Arc, OnceLock};

use crate::intercept::ledger::Ledger;
use crate::policy::verdict::{Basis, Denial, DenyReason};

use super::Asked;

/// Why one body is broken off, if it is.
pub(super) struct Breach {
    ledger: Arc<Ledger>,
    asked: Arc<Asked>,
    basis: Basis,
    found: OnceLock<DenyReason>,
}

impl Breach {
    /// Of the body of a request that was permitted on this basis.
    pub(super) fn new(ledger: &Arc<Ledger>, asked: &Arc<Asked>, basis: &Basis) -> Arc<Self> {
        let (ledger, asked, basis) = (Arc::clone(ledger), Arc::clone(asked), basis.clone());
        Arc::new(Self { ledger, asked, basis, found: OnceLock::new() })
    }

    /// Why the request was broken off, if it was.
    pub(super) fn denial(&self) -> Option<Denial> {
        self.found.get().map(|reason| Denial { reason: *reason, basis: self.basis.clone() })
    }

    /// It is, for this; what comes later is of no account.
    pub(super) fn found(&self, reason: DenyReason) {
        if self.found.set(reason).is_ok() {
            self.ledger.verdict(self.asked.judged(Err(reason), &self.basis));
        }
    }
}
