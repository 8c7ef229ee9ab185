//! The policy engine: an immutable [`Policy`] that judges every flow, name, request and address.
//!
//! Pure: no tokio, clock, file or socket. Deciding is total and closed (HOUSE habit 4).

pub mod verdict;

use std::net::IpAddr;

use crate::flow::{Domain, Flow, RequestHead, SecretName};
use verdict::{Action, Basis, Denial, DenyReason, DialAddr, Permit, Revision, Route, Verdict};

/// One compiled policy: immutable, cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Policy {
    revision: Revision,
}

/// Which address ranges of the host no policy may open by itself (POLICY §3 "Protected ranges").
#[derive(Debug, Clone)]
pub struct Protected {}

/// How refusals look (POLICY §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Denials {
    /// Say why, in a way that the client understands.
    #[default]
    Explain,
    /// Status or alert alone.
    Terse,
}

impl Policy {
    /// The policy that allows nothing: what a sandbox has before it has a policy.
    #[must_use]
    pub fn deny_all() -> Self {
        Self { revision: Revision([0; 8]) }
    }

    /// Hash of the compiled content.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How refusals look.
    #[must_use]
    pub fn denials(&self) -> Denials {
        Denials::Explain
    }

    /// Whether denials are recorded and not enforced (POLICY §8).
    #[must_use]
    pub fn observe(&self) -> bool {
        false
    }

    /// May this name be asked of a resolver (POLICY §5)? Matched before it is resolved.
    pub fn decide_name(&self, name: &Domain) -> Verdict<Basis> {
        let _ = name;
        self.refuse()
    }

    /// Rows 0–4 of POLICY §3, by address alone, before a byte is read: `Some` where they settle the verdict.
    #[must_use]
    pub fn decide_address(&self, flow: &Flow, host: &Protected) -> Option<Verdict<Route>> {
        let _ = (flow, host);
        Some(self.refuse())
    }

    /// All rows of POLICY §3, on everything that is known.
    pub fn decide(&self, flow: &Flow, host: &Protected) -> Verdict<Route> {
        let _ = (flow, host);
        self.refuse()
    }

    /// One request of a terminated or cleartext flow.
    pub fn decide_request(&self, head: &RequestHead<'_>, host: &Protected) -> Verdict<Action> {
        let _ = (head, host);
        self.refuse()
    }

    /// May this address be dialled under this permit? Rows 1–2 at the moment of dialling.
    pub fn vet(&self, answer: IpAddr, permit: &Permit, host: &Protected) -> Verdict<DialAddr> {
        let _ = (answer, permit, host);
        self.refuse()
    }

    /// May this address stand in a DNS answer? As [`Self::vet`], without a dial in view.
    pub fn vet_answer(&self, answer: IpAddr, host: &Protected) -> Verdict<()> {
        let _ = (answer, host);
        self.refuse()
    }

    /// Names of all secrets that any rule may inject.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        std::iter::empty()
    }

    fn refuse<T>(&self) -> Verdict<T> {
        Verdict::Deny(Denial { reason: DenyReason::DenyAll, basis: Basis { rule: None, revision: self.revision } })
    }
}
