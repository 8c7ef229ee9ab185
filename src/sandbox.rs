//! The registry: a sandbox, its policy handle, its secrets, its name pins, its live flows.
//!
//! - `INVARIANT`: a [`Snapshot`] is replaced whole; whoever judges takes one and uses it to the end of the judgement.
//! - `INVARIANT`: pins belong to one sandbox; nothing here is shared between two.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};

use crate::flow::{Domain, FlowId, SandboxId};
use crate::limits;
use crate::policy::Policy;
use crate::secret::Secrets;

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
    secrets: Secrets,
    pins: Pins,
    next_flow: AtomicU64,
    flows: Arc<Semaphore>,
}

impl Sandbox {
    /// A sandbox with its first policy.
    #[must_use]
    pub fn new(id: SandboxId, policy: impl Into<Arc<Policy>>, secrets: Secrets) -> Self {
        Self {
            id,
            snapshot: ArcSwap::from_pointee(Snapshot { policy: policy.into(), generation: 1 }),
            generation: watch::Sender::new(1),
            secrets,
            pins: Pins::default(),
            next_flow: AtomicU64::new(1),
            flows: Arc::new(Semaphore::new(limits::FLOWS)),
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

    /// Replaces the policy whole; every later judgement uses the new one (POLICY §8).
    pub fn replace(&self, policy: impl Into<Arc<Policy>>) {
        let policy = policy.into();
        self.generation.send_modify(|generation| {
            *generation += 1;
            self.snapshot.store(Arc::new(Snapshot { policy, generation: *generation }));
        });
    }

    /// Wakes at every change of policy; a relay races it (HOUSE habit 11).
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// What its rules may inject.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
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

    /// Calls `act` whenever flows have begun since it last did, and none for [`limits::QUIET`]. Never ends.
    pub async fn when_quiet(&self, act: impl Fn()) {
        let (mut before, mut acted) = (1, 1);
        loop {
            tokio::time::sleep(limits::QUIET).await;
            let now = self.next_flow.load(Ordering::Relaxed);
            if now == before && now != acted {
                act();
                acted = now;
            }
            before = now;
        }
    }

    /// Room for [`limits::FLOWS`] flows; a permit of this semaphore is held for as long as a flow lives.
    #[must_use]
    pub fn flow_slots(&self) -> Arc<Semaphore> {
        Arc::clone(&self.flows)
    }
}

/// Which names an address was answered for, in one sandbox (POLICY §5).
#[derive(Debug, Default)]
pub struct Pins(Mutex<HashMap<IpAddr, Vec<Domain>>>);

impl Pins {
    /// Notes that `name` was answered with `address`. When [`limits::PINS`] are held, nothing more is noted: a
    /// pin only ever allows, so a full table fails closed.
    pub fn pin(&self, address: IpAddr, name: &Domain) {
        let mut pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pins.len() >= limits::PINS && !pins.contains_key(&address) {
            return;
        }
        let names = pins.entry(address).or_default();
        if !names.contains(name) && names.len() < limits::PINS {
            names.push(name.clone());
        }
    }

    /// The names that `address` was answered for.
    #[must_use]
    pub fn names(&self, address: IpAddr) -> Vec<Domain> {
        let pins = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pins.get(&address).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::time::Duration;

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

    #[tokio::test(start_paused = true)]
    async fn quiet_is_acted_on_once_after_each_burst() {
        let id = SandboxId::new("run-1").unwrap();
        let sandbox = Sandbox::new(id, Policy::deny_all(), Secrets::default());
        let acts = Cell::new(0);
        let watch = sandbox.when_quiet(|| acts.set(acts.get() + 1));
        let burst = async {
            let rest = |times: u32| tokio::time::sleep(times * limits::QUIET + Duration::from_millis(1));
            rest(3).await;
            assert_eq!(acts.get(), 0, "nothing has happened");
            sandbox.next_flow();
            rest(1).await;
            sandbox.next_flow();
            assert_eq!(acts.get(), 0, "flows are still coming");
            rest(5).await;
            assert_eq!(acts.get(), 1);
        };
        tokio::select! {
            () = watch => unreachable!("it never ends"),
            () = burst => {}
        }
    }
}
