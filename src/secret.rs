//! Secrets: values that go out and are never shown.
//!
//! A [`Secret`] has no `Display`, `Debug` of its value, `Clone` or `Serialize`. Its memory is locked, so it is in no
//! swap, left out of core dumps, wiped in children, and zeroised ([`crate::sys::locked`]); so are the forms of it that
//! answers are searched for ([`scrub`]).
//!
//! **Copies.** Elsewhere a value is only in passing, in memory that is not locked (nor dumped: [`crate::cli`] sees to
//! that for the whole process):
//!
//! | Where | For how long | Zeroised |
//! |---|---|---|
//! | what a source is read into, a header before it is one, what is signed: our own buffers | the reading, a request | yes |
//! | bodies and answers of a source's requests ([`source`]): hyper's buffers, and rustls's before it encrypts and after it decrypts | the request | ours yes; theirs no |
//! | a request's header values (`http`), each marked sensitive: not printed, and in no table of HPACK ([`inject`]) | the request | no |
//! | the request as it is written: hyper's and `h2`'s buffers, rustls's before it encrypts | until it is sent, and until the buffer is used again | no |
//! | an answer that echoes a value: rustls's and hyper's buffers, decoders of content codings, until it is struck out | the answer | what is kept back, yes; theirs no |
//! | the first four steps of each form, in no order: the tables of what searches for them ([`scrub`]) | as long as the value | no |
//! | private keys that sign: AWS-LC's memory | the signature | yes, by AWS-LC |
//! | a variable of the environment that a value comes from | as long as the process, whose memory and `/proc` nobody else may read | no |
//!
//! Values change while sandboxes run: each stands in a [`Slot`], which whoever keeps it current fills ([`keep`]) and
//! every sandbox that may use it shares.

pub mod inject;
pub mod keep;
pub mod placeholder;
pub mod replace;
pub mod scrub;
pub mod sign;
pub mod source;

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::flow::SecretName;
use crate::sys::locked::Locked;
pub use crate::sys::locked::{refused, unlocked};

/// A value that can be used and not printed.
pub struct Secret(Locked);

impl Secret {
    /// Moves the bytes to where they stay; a trailing newline is trimmed (POLICY §3).
    #[must_use]
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        let trimmed = bytes.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        Self(Locked::copy(trimmed.unwrap_or(&bytes)))
    }

    /// Lends the bytes for as long as `f` runs.
    pub fn expose<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        f(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A value, for as long as it is good.
pub struct Value {
    secret: Secret,
    until: Option<Instant>,
}

impl Deref for Value {
    type Target = Secret;

    fn deref(&self) -> &Secret {
        &self.secret
    }
}

/// Where one secret's value stands, and the one before it.
#[derive(Default)]
pub struct Slot {
    now: ArcSwapOption<Value>,
    before: ArcSwapOption<Value>,
    changes: AtomicU64,
    trouble: ArcSwapOption<Trouble>,
    due: ArcSwapOption<Instant>,
}

/// Why a value cannot be kept current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Since when.
    pub since: Instant,
    /// In one sentence without a value.
    pub why: String,
}

/// How the keeping of a value stands. It holds no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whether there is a value that may be sent.
    pub is_there: bool,
    /// Until when what was given last is good, if that ends.
    pub until: Option<Instant>,
    /// When its source is asked again, if that is known.
    pub due: Option<Instant>,
    /// Why it cannot be kept current, if so.
    pub trouble: Option<Arc<Trouble>>,
}

impl Slot {
    /// A value that stays.
    #[must_use]
    pub fn of(secret: Secret) -> Self {
        let slot = Self::default();
        slot.fill(secret, None);
        slot
    }

    /// From now on this is the value, until it expires.
    pub fn fill(&self, secret: Secret, until: Option<Instant>) {
        self.replace(Some(Arc::new(Value { secret, until })));
        self.trouble.store(None);
    }

    /// From now on there is none.
    pub fn clear(&self) {
        self.replace(None);
    }

    /// Notes why it cannot be kept current, in one sentence without a value.
    pub fn trouble(&self, why: String) {
        let since = self.trouble.load().as_ref().map_or_else(Instant::now, |before| before.since);
        self.trouble.store(Some(Arc::new(Trouble { since, why })));
    }

    /// Notes when its source is asked again.
    pub fn due(&self, at: Option<Instant>) {
        self.due.store(at.map(Arc::new));
    }

    /// How its keeping stands now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            is_there: self.value().is_some(),
            until: self.now.load().as_ref().and_then(|value| value.until),
            due: self.due.load().as_deref().copied(),
            trouble: self.trouble.load_full(),
        }
    }

    /// Why it cannot be kept current, if so.
    #[must_use]
    pub fn why(&self) -> Option<Arc<Trouble>> {
        self.trouble.load_full()
    }

    /// The value, if there is one that has not expired.
    #[must_use]
    pub fn value(&self) -> Option<Arc<Value>> {
        self.now.load_full().filter(|value| value.until.is_none_or(|until| Instant::now() < until))
    }

    fn replace(&self, value: Option<Arc<Value>>) {
        if let Some(before) = self.now.swap(value) {
            self.before.store(Some(before));
        }
        self.changes.fetch_add(1, Ordering::Release);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot(…)")
    }
}

/// The values that one sandbox's rules may send out, by name. Clones share them, also those that are added later; none
/// is taken out again.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Arc<ArcSwap<HashMap<SecretName, Arc<Slot>>>>);

impl Secrets {
    /// Adds or replaces a value that stays.
    pub fn insert(&self, name: SecretName, value: Secret) {
        self.share(name, Arc::new(Slot::of(value)));
    }

    /// Adds or replaces a slot that others may share.
    pub fn share(&self, name: SecretName, slot: Arc<Slot>) {
        self.0.rcu(|slots| {
            let mut slots = HashMap::clone(slots);
            slots.insert(name.clone(), Arc::clone(&slot));
            slots
        });
    }

    /// The slot of a name, if it has one.
    #[must_use]
    pub fn slot(&self, name: &SecretName) -> Option<Arc<Slot>> {
        self.0.load().get(name).cloned()
    }

    /// The value of a name; `None` means that nothing may be sent (POLICY §7: `secret-unavailable`).
    #[must_use]
    pub fn value(&self, name: &SecretName) -> Option<Arc<Value>> {
        self.0.load().get(name).and_then(|slot| slot.value())
    }

    /// Every value.
    pub fn all(&self) -> impl Iterator<Item = Arc<Value>> {
        let values: Vec<_> = self.0.load().values().filter_map(|slot| slot.value()).collect();
        values.into_iter()
    }

    /// The value of a name, expired or not, and the one before it: what may have been sent.
    pub fn recent(&self, name: &SecretName) -> impl Iterator<Item = Arc<Value>> {
        self.slot(name).into_iter().flat_map(|slot| [slot.now.load_full(), slot.before.load_full()]).flatten()
    }

    /// A number that grows whenever a value changes.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.0.load().values().map(|slot| slot.changes.load(Ordering::Acquire)).sum()
    }

    /// How the keeping of every value stands, by name.
    #[must_use]
    pub fn standings(&self) -> Vec<(SecretName, Standing)> {
        let slots = self.0.load();
        let mut all: Vec<_> = slots.iter().map(|(name, slot)| (name.clone(), slot.standing())).collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }
}
