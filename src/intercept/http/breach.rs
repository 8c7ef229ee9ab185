//! What reading a request's body on its way out has come to: told once, and asked for by whoever answers the request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::intercept::ledger::Ledger;
use crate::policy::verdict::{Basis, Denial, DenyReason};

use super::Asked;

/// For one reason why a body is broken off.
pub(super) struct Breach {
    ledger: Arc<Ledger>,
    asked: Arc<Asked>,
    denial: Denial,
    is_found: AtomicBool,
}

impl Breach {
    /// Of the body of a request that was permitted on this basis.
    pub(super) fn new(ledger: &Arc<Ledger>, asked: &Arc<Asked>, basis: &Basis, reason: DenyReason) -> Arc<Self> {
        let (ledger, asked, basis) = (Arc::clone(ledger), Arc::clone(asked), basis.clone());
        Arc::new(Self { ledger, asked, denial: Denial { reason, basis }, is_found: AtomicBool::new(false) })
    }

    /// Why the request was broken off, if it was for this.
    pub(super) fn denial(&self) -> Option<Denial> {
        self.is_found.load(Ordering::Acquire).then(|| self.denial.clone())
    }

    /// It is so.
    pub(super) fn found(&self) {
        self.is_found.store(true, Ordering::Release);
        self.ledger.verdict(self.asked.judged(Err(self.denial.reason), &self.denial.basis));
    }
}
