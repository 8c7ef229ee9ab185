//! The registry: a sandbox, its policy handle, its secrets, its name pins, its live flows, what it may use.
//!
//! - `INVARIANT`: a [`Snapshot`] is replaced whole; whoever judges takes one and uses it to the end of the judgement.
//! - `INVARIANT`: pins belong to one sandbox; nothing here is shared between two.
//! - `INVARIANT`: when [`Sandbox::settled`] is ready, nothing that an earlier policy permitted is still under way.

pub mod quota;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::flow::{Domain, FlowId, SandboxId, SecretName};
use crate::limits;
use crate::policy::Policy;
use crate::secret::placeholder::Placeholders;
use crate::secret::scrub::Scrubber;
use crate::secret::{Secret, Secrets, Value};
use quota::{Limits, Quota};

/// A policy in force, and which push put it there (POLICY §1 `generation`).
#[derive(Debug)]
pub struct Snapshot {
    /// What judges. Many sandboxes may share it.
    pub policy: Arc<Policy>,
    /// Counts the pushes to this sandbox.
    pub generation: u64,
}

/// One confined workload, as the data path sees it.
pub struct Sandbox {
    id: SandboxId,
    snapshot: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
    standing: Standing,
    secrets: Secrets,
    placeholders: ArcSwap<Placeholders>,
    scrubber: ArcSwapOption<Searched>,
    pins: Pins,
    next_flow: AtomicU64,
    quota: Quota,
}

impl Sandbox {
    /// A sandbox with its first policy.
    #[must_use]
    pub fn new(id: SandboxId, policy: impl Into<Arc<Policy>>, secrets: Secrets) -> Self {
        Self {
            id,
            snapshot: ArcSwap::from_pointee(Snapshot { policy: policy.into(), generation: 1 }),
            generation: watch::Sender::new(1),
            standing: Standing::default(),
            secrets,
            placeholders: ArcSwap::default(),
            scrubber: ArcSwapOption::empty(),
            pins: Pins::default(),
            next_flow: AtomicU64::new(1),
            quota: Quota::new(&Limits::default()),
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        &self.id
    }

    /// The policy in force now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Replaces the policy whole; every later judgement uses the new one (POLICY §8). What is under way is told, and
    /// has heeded it when [`Self::settled`] is ready. Its generation is returned.
    pub fn replace(&self, policy: impl Into<Arc<Policy>>) -> u64 {
        let policy = policy.into();
        let mut pushed = 0;
        self.generation.send_modify(|generation| {
            *generation += 1;
            pushed = *generation;
            self.snapshot.store(Arc::new(Snapshot { policy, generation: pushed }));
        });
        pushed
    }

    /// Ready when all that is under way was judged by this generation or a later one, and what is refused has ended.
    pub async fn settled(&self, generation: u64) {
        let mut oldest = self.standing.oldest.subscribe();
        // It fails only when the sandbox is gone, which is borrowed here.
        let _ = oldest.wait_for(|oldest| *oldest >= generation).await;
    }

    /// How one flow, or one request, keeps up with changes of policy (HOUSE habit 11).
    #[must_use]
    pub fn changes(self: &Arc<Self>) -> Changes {
        let news = self.generation.subscribe();
        Changes { sandbox: Arc::clone(self), news, settled_at: AtomicU64::new(UNJUDGED) }
    }

    /// What its rules may inject.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// What it holds instead of secrets.
    #[must_use]
    pub fn placeholders(&self) -> Arc<Placeholders> {
        self.placeholders.load_full()
    }

    /// From now on it holds these.
    pub fn hold(&self, placeholders: impl Into<Arc<Placeholders>>) {
        self.placeholders.store(placeholders.into());
    }

    /// Searches what comes back for all that its rules may send under this policy: its secrets, as they are and as they
    /// were before they last changed, and what stands in the document itself and is a credential. Made when it is first
    /// needed.
    #[must_use]
    pub fn scrubber(&self, snapshot: &Snapshot) -> Arc<Scrubber> {
        if let Some(searched) = &*self.scrubber.load()
            && (searched.generation, searched.changes) == (snapshot.generation, self.secrets.changes())
        {
            return Arc::clone(&searched.scrubber);
        }
        let written = |text: &str| Secret::new(Zeroizing::new(text.as_bytes().to_vec()));
        let written: Vec<Secret> = snapshot.policy.credentials().map(written).collect();
        // Counted first: a value that changes meanwhile is searched for the next time at the latest.
        let changes = self.secrets.changes();
        let names: BTreeSet<&SecretName> = snapshot.policy.secrets().collect();
        let values: Vec<Arc<Value>> = names.into_iter().flat_map(|name| self.secrets.recent(name)).collect();
        let scrubber = Arc::new(Scrubber::new(values.iter().map(|value| &***value).chain(&written)));
        let searched = Searched { generation: snapshot.generation, changes, scrubber: Arc::clone(&scrubber) };
        self.scrubber.store(Some(Arc::new(searched)));
        scrubber
    }

    /// Which names its addresses were answered for.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// A number for a new flow.
    pub fn next_flow(&self) -> FlowId {
        FlowId(self.next_flow.fetch_add(1, Ordering::Relaxed))
    }

    /// The number that the next flow gets.
    #[must_use]
    pub fn flows_begun(&self) -> FlowId {
        FlowId(self.next_flow.load(Ordering::Relaxed))
    }

    /// Flows are numbered from here on: the numbers before are those of another process.
    pub fn begin_flows_at(&self, next: FlowId) {
        self.next_flow.fetch_max(next.0, Ordering::Relaxed);
    }

    /// What it may use, and has used.
    #[must_use]
    pub fn quota(&self) -> &Quota {
        &self.quota
    }
}

/// What is searched for under one policy.
struct Searched {
    generation: u64,
    /// Of the secrets' values.
    changes: u64,
    scrubber: Arc<Scrubber>,
}

/// The generation of what was not judged yet, and so permits nothing.
const UNJUDGED: u64 = 0;

/// How many flows and requests were last judged by which generation.
struct Standing {
    counts: Mutex<Counts>,
    /// The earliest of them; the greatest number where there is none. Changed under the lock of the counts.
    oldest: watch::Sender<u64>,
}

struct Counts {
    by_generation: BTreeMap<u64, usize>,
    /// The earliest that was told: to tell it again would cost every request more than to count it.
    told: u64,
}

impl Default for Standing {
    fn default() -> Self {
        let counts = Mutex::new(Counts { by_generation: BTreeMap::new(), told: u64::MAX });
        Self { counts, oldest: watch::Sender::new(u64::MAX) }
    }
}

impl Standing {
    fn step(&self, from: u64, to: u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Counts { by_generation, told } = &mut *counts;
        if to != UNJUDGED {
            *by_generation.entry(to).or_default() += 1;
        }
        if let Some(count) = by_generation.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                by_generation.remove(&from);
            }
        }
        let now = by_generation.keys().next().copied().unwrap_or(u64::MAX);
        if std::mem::replace(told, now) != now {
            self.oldest.send_replace(now);
        }
    }
}

/// Keeps one flow, or one request, up with changes of policy. A push waits for all of them: each is to be dropped only
/// once what it stands for has ended.
pub struct Changes {
    sandbox: Arc<Sandbox>,
    news: watch::Receiver<u64>,
    settled_at: AtomicU64,
}

impl Changes {
    /// The policy to judge by; whoever calls this uses nothing any more that an earlier one permitted.
    #[must_use]
    pub fn catch_up(&self) -> Arc<Snapshot> {
        loop {
            let snapshot = self.sandbox.snapshot();
            self.settle(&snapshot);
            // Counted first: a policy that came before the count did not wait for this; one that comes after it does.
            if !self.is_behind() {
                return snapshot;
            }
        }
    }

    /// What it stands for was judged by this policy, and is permitted.
    pub fn settle(&self, snapshot: &Snapshot) {
        let before = self.settled_at.swap(snapshot.generation, Ordering::AcqRel);
        self.sandbox.standing.step(before, snapshot.generation);
    }

    /// Whether there is a later policy than the one it was judged by.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.sandbox.snapshot.load().generation != self.settled_at.load(Ordering::Acquire)
    }

    /// Ready when there is a later policy than the one it was judged by.
    pub async fn changed(&mut self) {
        let settled_at = *self.settled_at.get_mut();
        // It fails only when the sandbox is gone, which is kept here.
        let _ = self.news.wait_for(|generation| *generation > settled_at).await;
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.sandbox.standing.step(*self.settled_at.get_mut(), UNJUDGED);
    }
}

/// Which names an address was answered for, in one sandbox (POLICY §5).
#[derive(Default)]
pub struct Pins(Mutex<Pinned>);

#[derive(Default)]
struct Pinned {
    names: HashMap<IpAddr, Vec<Domain>>,
    follower: Option<Follower>,
}

type Follower = Box<dyn Fn(IpAddr, &Domain) + Send>;

impl Pins {
    /// Notes that `name` was answered with `address`. When [`limits::PINS`] are held, nothing more is noted: a
    /// pin only ever allows, so a full table fails closed.
    pub fn pin(&self, address: IpAddr, name: &Domain) {
        let mut pinned = self.pinned();
        let Pinned { names, follower } = &mut *pinned;
        if names.len() >= limits::PINS && !names.contains_key(&address) {
            return;
        }
        let names = names.entry(address).or_default();
        if !names.contains(name) && names.len() < limits::PINS {
            names.push(name.clone());
            follower.iter().for_each(|follower| follower(address, name));
        }
    }

    /// The names that `address` was answered for.
    #[must_use]
    pub fn names(&self, address: IpAddr) -> Vec<Domain> {
        self.pinned().names.get(&address).cloned().unwrap_or_default()
    }

    /// Tells of every pin there is, and then of each that is made, in place of whoever was told before. What is called
    /// must not wait.
    pub fn follow(&self, tell: impl Fn(IpAddr, &Domain) + Send + 'static) {
        let mut pinned = self.pinned();
        pinned.names.iter().for_each(|(address, names)| names.iter().for_each(|name| tell(*address, name)));
        pinned.follower = Some(Box::new(tell));
    }

    fn pinned(&self) -> MutexGuard<'_, Pinned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// What a future gives at once.
    pub(super) trait NowOrNever: Future + Sized {
        fn now_or_never(self) -> Option<Self::Output> {
            match pin!(self).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(output) => Some(output),
                Poll::Pending => None,
            }
        }
    }

    impl<F: Future> NowOrNever for F {}

    #[test]
    fn sandboxes_share_a_policy_without_copying_it() {
        let policy = Arc::new(Policy::deny_all());
        let sandbox = |id| Sandbox::new(SandboxId::new(id).unwrap(), Arc::clone(&policy), Secrets::default());
        let (one, other) = (sandbox("run-1"), sandbox("run-2"));
        assert!(Arc::ptr_eq(&one.snapshot().policy, &other.snapshot().policy));
        one.replace(Policy::deny_all());
        assert!(!Arc::ptr_eq(&one.snapshot().policy, &policy));
        assert!(Arc::ptr_eq(&other.snapshot().policy, &policy));
        assert_eq!((one.snapshot().generation, other.snapshot().generation), (2, 1));
    }

    #[test]
    fn a_push_waits_for_all_that_an_earlier_policy_permitted() {
        let sandbox = Arc::new(Sandbox::new(SandboxId::new("run-1").unwrap(), Policy::deny_all(), Secrets::default()));
        let settled = |generation| sandbox.settled(generation).now_or_never();
        let [unjudged, kept, cut] = [(); 3].map(|()| sandbox.changes());
        assert_eq!(kept.catch_up().generation, 1);
        assert_eq!(cut.catch_up().generation, 1);
        assert_eq!(settled(1), Some(()));
        assert_eq!(sandbox.replace(Policy::deny_all()), 2);
        assert!(kept.is_behind());
        assert_eq!(settled(2), None, "two were judged by the first policy");
        kept.settle(&sandbox.snapshot());
        assert_eq!(settled(2), None, "one was");
        assert_eq!(sandbox.replace(Policy::deny_all()), 3);
        drop(cut);
        assert_eq!((settled(2), settled(3)), (Some(()), None));
        assert_eq!(unjudged.catch_up().generation, 3, "what was not judged is not waited for");
        drop(kept);
        assert_eq!(settled(3), Some(()));
        assert!(sandbox.standing.counts.lock().unwrap().by_generation.values().eq(&[1]), "only what lives is counted");
    }

    #[test]
    fn who_follows_pins_is_told_each_once() {
        let pins = Pins::default();
        let [a, b] = ["a.test", "b.test"].map(|name| Domain::parse(name).unwrap());
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        pins.pin(address, &a);
        let (tell, told) = std::sync::mpsc::channel();
        pins.follow(move |address, name| drop(tell.send((address, name.clone()))));
        pins.pin(address, &a);
        pins.pin(address, &b);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(address, a), (address, b)]);
    }

    #[test]
    fn flows_are_numbered_after_those_of_another_process() {
        let sandbox = Sandbox::new(SandboxId::new("run-1").unwrap(), Policy::deny_all(), Secrets::default());
        sandbox.begin_flows_at(FlowId(7));
        assert_eq!(sandbox.next_flow(), FlowId(7));
        sandbox.begin_flows_at(FlowId(7));
        assert_eq!(sandbox.flows_begun(), FlowId(8));
    }

    #[tokio::test]
    async fn a_change_is_told_to_all_that_was_judged_before_it() {
        let sandbox = Arc::new(Sandbox::new(SandboxId::new("run-1").unwrap(), Policy::deny_all(), Secrets::default()));
        let mut changes = sandbox.changes();
        let _ = changes.catch_up();
        assert_eq!(changes.changed().now_or_never(), None);
        sandbox.replace(Policy::deny_all());
        assert_eq!(changes.changed().now_or_never(), Some(()));
        assert_eq!(changes.changed().now_or_never(), Some(()), "until it was heeded");
        let _ = changes.catch_up();
        assert_eq!(changes.changed().now_or_never(), None);
    }
}
