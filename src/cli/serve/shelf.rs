//! Policies as they were pushed, each compiled once and held once, however many sandboxes have it.
//!
//! Documents are told apart by their text and not by their revision: two spellings of one policy have one revision, but
//! the lines by which their rules are named differ.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::flow::SecretName;
use crate::matcher::domain::DomainPattern;
use crate::policy::diagnostic::Diagnostics;
use crate::policy::{Author, Feature, Flags, Grant, Policy, Source, Terms};

/// What a sandbox has before it has a policy.
pub(super) const NOTHING: &str = "deny-all";

/// What rules of a pushed document are named by.
const PATH: &str = "policy";

/// A document and what it compiles to.
pub(super) struct Document {
    /// As it was pushed. It may hold credentials.
    pub(super) text: Zeroizing<String>,
    pub(super) policy: Arc<Policy>,
}

type Digest = [u8; 32];

/// What this daemon can do for policies, from its start to its end.
#[derive(Default)]
pub(super) struct Offer {
    /// Whether the token of a `forwardURL` can be signed.
    pub(super) has_issuer: bool,
    /// Hosts that a `forwardURL` may name; `None` for any.
    pub(super) forward_hosts: Option<Vec<DomainPattern>>,
}

impl Offer {
    fn lacks(&self) -> Vec<(Feature, &'static str)> {
        if self.has_issuer {
            return Vec::new();
        }
        vec![(Feature::Forward, "this daemon has no `issuer` for the token that goes along")]
    }
}

/// The documents in use.
pub(super) struct Shelf {
    offer: Offer,
    openable: ArcSwap<Vec<IpNet>>,
    secrets: ArcSwap<BTreeMap<SecretName, Grant>>,
    documents: Mutex<HashMap<Digest, Weak<Document>>>,
}

impl Shelf {
    /// An empty shelf; its policies may open these protected ranges, and send these secrets.
    pub(super) fn new(openable: Vec<IpNet>, secrets: BTreeMap<SecretName, Grant>, offer: Offer) -> Self {
        let (openable, secrets) = (ArcSwap::from_pointee(openable), ArcSwap::from_pointee(secrets));
        Self { offer, openable, secrets, documents: Mutex::default() }
    }

    /// From now on policies may open these protected ranges: what is taken from here on says so, what was taken before
    /// does not. Nobody may be taking anything meanwhile.
    pub(super) fn change(&self, openable: &[IpNet]) {
        self.openable.store(Arc::new(openable.to_vec()));
        self.documents.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// From now on policies may send these secrets, as [`Self::change`] has it of ranges.
    pub(super) fn grant(&self, secrets: BTreeMap<SecretName, Grant>) {
        self.secrets.store(Arc::new(secrets));
        self.documents.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether policies may open these ranges, and no others.
    pub(super) fn opens(&self, openable: &[IpNet]) -> bool {
        self.openable.load().as_slice() == openable
    }

    /// The document with this text: the one that is held, or a new one. A long one takes a while.
    ///
    /// # Errors
    /// Every fault of the policy.
    pub(super) fn take(&self, text: String) -> Result<Arc<Document>, Diagnostics> {
        let text = Zeroizing::new(text);
        let mut key = Digest::default();
        key.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        if let Some(document) = self.held(&key) {
            return Ok(document);
        }
        let terms = Terms {
            author: Author::ControlPlane {
                openable: Vec::clone(&self.openable.load()),
                secrets: BTreeMap::clone(&self.secrets.load()),
            },
            lacks: self.offer.lacks(),
            forward_hosts: self.offer.forward_hosts.clone(),
            ..Terms::default()
        };
        let source = Source { path: PATH, text: &text };
        let policy = Arc::new(Policy::compile(Some(source), &Flags::default(), &terms)?.policy);
        let document = Arc::new(Document { text, policy });
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        if documents.len() == documents.capacity() {
            documents.retain(|_, document| document.strong_count() > 0);
        }
        // Whoever compiled the same text meanwhile was first.
        if let Some(first) = documents.get(&key).and_then(Weak::upgrade) {
            return Ok(first);
        }
        documents.insert(key, Arc::downgrade(&document));
        Ok(document)
    }

    fn held(&self, key: &Digest) -> Option<Arc<Document>> {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner).get(key).and_then(Weak::upgrade)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::verdict::Verdict;

    #[test]
    fn equal_documents_are_held_once_and_no_longer_than_they_are_used() {
        let shelf = Shelf::new(Vec::new(), BTreeMap::new(), Offer::default());
        let text = "{\"allow\": [\"a.test\"]}";
        let first = shelf.take(text.into()).unwrap();
        assert!(Arc::ptr_eq(&first, &shelf.take(text.into()).unwrap()));
        let other = shelf.take("allow: [a.test]".into()).unwrap();
        assert!(!Arc::ptr_eq(&first, &other));
        assert_eq!(first.policy.revision(), other.policy.revision());
        drop((first, other));
        for count in 0..1_000 {
            shelf.take(format!("allow: [a{count}.test]")).unwrap();
        }
        assert!(shelf.documents.lock().unwrap().len() < 100, "what nobody uses is forgotten");
    }

    #[test]
    fn a_control_plane_opens_what_the_operator_lists_and_nothing_else() {
        let open = |openable: &[&str]| {
            let openable = openable.iter().map(|range| range.parse().unwrap()).collect();
            let shelf = Shelf::new(openable, BTreeMap::new(), Offer::default());
            Arc::clone(&shelf.take("subnets: { allow: [10.1.0.0/16] }".into()).unwrap().policy)
        };
        let judged = |policy: &Policy| {
            let host = crate::policy::Protected::new([]);
            matches!(policy.vet_answer("10.1.2.3".parse().unwrap(), &host), Verdict::Allow(()))
        };
        assert!(!judged(&open(&[])));
        assert!(judged(&open(&["10.0.0.0/8"])));
        // The same text means what the list says now.
        let shelf = Shelf::new(Vec::new(), BTreeMap::new(), Offer::default());
        let text = "subnets: { allow: [10.1.0.0/16] }";
        let before = shelf.take(text.into()).unwrap();
        shelf.change(&["10.0.0.0/8".parse().unwrap()]);
        let after = shelf.take(text.into()).unwrap();
        assert_eq!((judged(&before.policy), judged(&after.policy)), (false, true));
    }

    #[test]
    fn a_forward_url_takes_an_issuer_and_a_host_that_is_listed() {
        let take = |has_issuer, hosts: Option<&[&str]>| {
            let pattern = |text: &&str| DomainPattern::parse(text).unwrap();
            let forward_hosts = hosts.map(|hosts| hosts.iter().map(pattern).collect());
            let shelf = Shelf::new(Vec::new(), BTreeMap::new(), Offer { has_issuer, forward_hosts });
            let text = "allow: { a.test: [{ forwardURL: 'https://proxy.test' }] }";
            shelf.take(text.into()).map(drop).map_err(|faults| faults.to_string())
        };
        assert!(take(false, None).unwrap_err().contains("no `issuer`"));
        assert_eq!(take(true, None), Ok(()));
        assert_eq!(take(true, Some(&["*.test"])), Ok(()));
        assert!(take(true, Some(&["proxy.example"])).unwrap_err().contains("the operator lists"));
        assert!(take(true, Some(&[])).is_err());
    }
}
