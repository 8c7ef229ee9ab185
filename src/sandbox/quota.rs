//! What one sandbox may use: flows, and how many requests, questions and bytes in a time.
//!
//! It counts and says when; who refuses or waits does that itself: a flow or a request over its bound is refused, bytes
//! over theirs wait.
//!
//! - `INVARIANT`: where nothing is set, asking costs one load.
//! - `INVARIANT`: what is set holds at once, also for what waits by the bound before.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::limits;
use crate::limits::bucket::{Bucket, Rate};

/// The bounds of a sandbox, as its control plane, or the operator for all of them, says them. What is not said is not
/// bounded further than `exeat` bounds every sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", try_from = "LimitsWire")]
#[schemars(!try_from, deny_unknown_fields)]
pub struct Limits {
    /// Flows that are open at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    flows: Option<NonZeroU32>,
    /// Requests of terminated flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_second: Option<NonZeroU32>,
    /// Bytes out of the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    egress_bytes_per_second: Option<NonZeroU64>,
    /// Bytes into the sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress_bytes_per_second: Option<NonZeroU64>,
    /// DNS questions that are not answered from what is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    dns_per_minute: Option<NonZeroU32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
struct LimitsWire {
    flows: Option<u64>,
    requests_per_second: Option<u64>,
    egress_bytes_per_second: Option<u64>,
    ingress_bytes_per_second: Option<u64>,
    dns_per_minute: Option<u64>,
}

impl TryFrom<LimitsWire> for Limits {
    type Error = LimitsError;

    fn try_from(wire: LimitsWire) -> Result<Self, LimitsError> {
        let LimitsWire {
            flows,
            requests_per_second,
            egress_bytes_per_second,
            ingress_bytes_per_second,
            dns_per_minute,
        } = wire;
        let most = u64::from(u32::MAX);
        Ok(Self {
            flows: whole("flows", flows, 1, u64::try_from(limits::FLOWS).unwrap_or(most))?,
            requests_per_second: whole("requestsPerSecond", requests_per_second, 1, most)?,
            egress_bytes_per_second: bytes("egressBytesPerSecond", egress_bytes_per_second)?,
            ingress_bytes_per_second: bytes("ingressBytesPerSecond", ingress_bytes_per_second)?,
            dns_per_minute: whole("dnsPerMinute", dns_per_minute, 1, most)?,
        })
    }
}

fn within(key: &'static str, value: Option<u64>, least: u64, most: u64) -> Result<Option<u64>, LimitsError> {
    match value {
        Some(value) if !(least..=most).contains(&value) => Err(LimitsError { key, least, most }),
        value => Ok(value),
    }
}

fn whole(key: &'static str, value: Option<u64>, least: u64, most: u64) -> Result<Option<NonZeroU32>, LimitsError> {
    let value = within(key, value, least, most)?;
    Ok(value.and_then(|value| u32::try_from(value).ok()).and_then(NonZeroU32::new))
}

fn bytes(key: &'static str, value: Option<u64>) -> Result<Option<NonZeroU64>, LimitsError> {
    // What an `i64` holds, and JSON's readers with it.
    Ok(within(key, value, limits::PACE_LEAST, i64::MAX.unsigned_abs())?.and_then(NonZeroU64::new))
}

/// Why a bound is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsError {
    key: &'static str,
    least: u64,
    most: u64,
}

impl fmt::Display for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, least, most } = self;
        write!(f, "`{key}` is a whole number from {least} to {most}; leave it out for no bound of its own")
    }
}

impl std::error::Error for LimitsError {}

impl Limits {
    /// These, and the others where these say nothing.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            flows: self.flows.or(others.flows),
            requests_per_second: self.requests_per_second.or(others.requests_per_second),
            egress_bytes_per_second: self.egress_bytes_per_second.or(others.egress_bytes_per_second),
            ingress_bytes_per_second: self.ingress_bytes_per_second.or(others.ingress_bytes_per_second),
            dns_per_minute: self.dns_per_minute.or(others.dns_per_minute),
        }
    }
}

/// What one sandbox has used of its [`Limits`].
pub struct Quota {
    /// Flows that are open.
    pub flows: Arc<Slots>,
    /// HTTP requests.
    pub requests: Budget,
    /// Names asked of the host's resolvers (POLICY §5).
    pub questions: Arc<Budget>,
    /// Bytes out of the sandbox.
    pub egress: Arc<Budget>,
    /// Bytes into it.
    pub ingress: Arc<Budget>,
}

impl Quota {
    /// Nothing used yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let quota = Self {
            flows: Arc::new(Slots { most: AtomicUsize::new(0), open: AtomicUsize::new(0) }),
            requests: Budget::default(),
            questions: Arc::default(),
            egress: Arc::default(),
            ingress: Arc::default(),
        };
        quota.set(limits);
        quota
    }

    /// Bounds by these from now on. What is open stays open; what a budget had left, or owed, is forgotten where its
    /// bound changes.
    pub fn set(&self, limits: &Limits) {
        let Limits { flows, requests_per_second, egress_bytes_per_second, ingress_bytes_per_second, dns_per_minute } =
            limits;
        let flows = flows.and_then(|flows| usize::try_from(flows.get()).ok()).unwrap_or(limits::FLOWS);
        self.flows.most.store(flows, Ordering::Relaxed);
        self.requests.set(requests_per_second.map(|count| a_second(count.get().into(), count.get().into())));
        self.questions.set(Some(questions(*dns_per_minute)));
        for (budget, bound) in [(&self.egress, egress_bytes_per_second), (&self.ingress, ingress_bytes_per_second)] {
            budget.set(bound.map(|count| a_second(count.get(), step_of(count.get()))));
        }
    }
}

fn a_second(count: u64, burst: u64) -> Rate {
    Rate { count, per: Duration::from_secs(1), burst }
}

/// Unless something else is said, [`limits::DNS_BURST`] at once and [`limits::DNS_PER_MINUTE`] beyond; and in that
/// proportion.
fn questions(per_minute: Option<NonZeroU32>) -> Rate {
    let count = u64::from(per_minute.map_or(limits::DNS_PER_MINUTE, NonZeroU32::get));
    let burst = count * u64::from(limits::DNS_BURST) / u64::from(limits::DNS_PER_MINUTE);
    Rate { count, per: Duration::from_secs(60), burst }
}

/// Bytes that pass at once at a rate: small beside a second's, so that flows take turns.
fn step_of(bytes_a_second: u64) -> u64 {
    (bytes_a_second / 16).clamp(*limits::PACE_STEP.start(), *limits::PACE_STEP.end())
}

/// So many at once, and no more.
pub struct Slots {
    most: AtomicUsize,
    open: AtomicUsize,
}

impl Slots {
    /// A place, held until it is dropped; `None` where all are taken.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let most = self.most.load(Ordering::Relaxed);
        let taken =
            self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < most).then_some(open + 1));
        taken.is_ok().then(|| Slot(Arc::clone(self)))
    }

    /// How many there are.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }
}

/// One place of [`Slots`].
pub struct Slot(Arc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What may be used in a time. Unbounded until it is set.
pub struct Budget {
    is_bounded: AtomicBool,
    account: Mutex<Account>,
    /// Told whenever the rate changes.
    changes: watch::Sender<()>,
    epoch: Instant,
}

#[derive(Default)]
struct Account {
    rate: Option<Rate>,
    bucket: Bucket,
}

/// A budget that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// What the budget gives.
    pub rate: Rate,
    /// How long it takes until it gives something again.
    pub wait: Duration,
}

/// Ready when what was paid for may be used.
pub type Paying = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Default for Budget {
    fn default() -> Self {
        Self {
            is_bounded: AtomicBool::new(false),
            account: Mutex::default(),
            changes: watch::Sender::new(()),
            epoch: Instant::now(),
        }
    }
}

impl Budget {
    /// A budget of this rate.
    #[must_use]
    pub fn of(rate: Rate) -> Self {
        let budget = Self::default();
        budget.set(Some(rate));
        budget
    }

    /// Whether there is a bound at all.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.is_bounded.load(Ordering::Relaxed)
    }

    /// Takes one.
    ///
    /// # Errors
    /// There is none.
    pub fn take(&self) -> Result<(), Spent> {
        self.bounded(|rate, bucket, now| bucket.take(rate, now).map_err(|wait| Spent { rate, wait })).unwrap_or(Ok(()))
    }

    /// Whether there is none to take.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.bounded(|rate, bucket, now| bucket.is_empty(rate, now)).unwrap_or(false)
    }

    /// How many may be paid for at once, so that others get their turn; `None` where nothing is to be paid.
    #[must_use]
    pub fn step(&self) -> Option<u64> {
        self.bounded(|rate, _, _| rate.burst)
    }

    /// Pays for `count`; `None` where they may be used now.
    #[must_use]
    pub fn pay(self: &Arc<Self>, count: u64) -> Option<Paying> {
        if !self.is_bounded() {
            return None;
        }
        let mut changes = self.changes.subscribe();
        let mut until = self.book(count)?;
        let budget = Arc::clone(self);
        Some(Box::pin(async move {
            loop {
                tokio::select! {
                    () = sleep_until(until) => return,
                    // It does not fail: the sender is kept here.
                    _ = changes.changed() => match budget.book(count) {
                        Some(anew) => until = anew,
                        None => return,
                    },
                }
            }
        }))
    }

    /// When what is taken hereby may be used; `None`: now.
    fn book(&self, count: u64) -> Option<Instant> {
        let wait = self.bounded(|rate, bucket, now| bucket.book(rate, count, now))?;
        (wait > Duration::ZERO).then(|| Instant::now() + wait)
    }

    fn set(&self, rate: Option<Rate>) {
        let mut account = self.account();
        if account.rate == rate {
            return;
        }
        *account = Account { rate, bucket: Bucket::default() };
        self.is_bounded.store(rate.is_some(), Ordering::Relaxed);
        drop(account);
        self.changes.send_replace(());
    }

    fn bounded<T>(&self, use_it: impl FnOnce(Rate, &mut Bucket, Duration) -> T) -> Option<T> {
        if !self.is_bounded() {
            return None;
        }
        let mut account = self.account();
        let rate = account.rate?;
        Some(use_it(rate, &mut account.bucket, self.epoch.elapsed()))
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    use crate::sandbox::tests::NowOrNever;

    fn limits(json: &str) -> Result<Limits, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    fn quota(json: &str) -> Quota {
        Quota::new(&limits(json).unwrap())
    }

    #[test]
    fn what_is_said_is_said_back_and_nothing_else_is_taken() {
        for text in [
            "{}",
            r#"{"flows":16384,"requestsPerSecond":1,"egressBytesPerSecond":1024,"dnsPerMinute":4294967295}"#,
            r#"{"ingressBytesPerSecond":9223372036854775807}"#,
        ] {
            assert_eq!(serde_json::to_string(&limits(text).unwrap()).unwrap(), text);
        }
        for (text, told) in [
            (r#"{"flow": 1}"#, "unknown field `flow`"),
            (r#"{"flows": 0}"#, "`flows` is a whole number from 1 to 16384"),
            (r#"{"flows": 16385}"#, "from 1 to 16384"),
            (r#"{"requestsPerSecond": 0.5}"#, "invalid type"),
            (r#"{"requestsPerSecond": -1}"#, "invalid value"),
            (r#"{"ingressBytesPerSecond": 1023}"#, "`ingressBytesPerSecond` is a whole number from 1024"),
            (r#"{"dnsPerMinute": 4294967296}"#, "`dnsPerMinute`"),
            (r#"{"flows": 1, "flows": 2}"#, "duplicate field"),
            ("7", "invalid type"),
        ] {
            let error = limits(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        let (own, usual) = (limits(r#"{"flows": 3}"#).unwrap(), limits(r#"{"flows": 9, "dnsPerMinute": 5}"#).unwrap());
        assert_eq!(own.or(usual), limits(r#"{"flows": 3, "dnsPerMinute": 5}"#).unwrap());
    }

    #[test]
    fn flows_have_places_and_fewer_of_them_cut_nothing() {
        let quota = quota(r#"{"flows": 2}"#);
        let held = [quota.flows.take(), quota.flows.take()];
        assert!(held.iter().all(Option::is_some) && quota.flows.take().is_none());
        quota.set(&limits(r#"{"flows": 1}"#).unwrap());
        let [first, second] = held;
        drop(first);
        assert!(quota.flows.take().is_none(), "one is still open");
        drop(second);
        assert!(quota.flows.take().is_some());
        quota.set(&Limits::default());
        assert_eq!(quota.flows.most(), limits::FLOWS);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_counted_by_the_second() {
        let quota = quota(r#"{"requestsPerSecond": 4}"#);
        assert!((0..4).all(|_| quota.requests.take().is_ok()));
        let spent = quota.requests.take().unwrap_err();
        assert_eq!((spent.rate.count, spent.wait), (4, Duration::from_millis(250)));
        sleep(spent.wait).await;
        assert!(quota.requests.take().is_ok() && quota.requests.take().is_err());
        quota.set(&Limits::default());
        assert!((0..1000).all(|_| quota.requests.take().is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn questions_are_bounded_unless_something_else_is_said_as_the_policy_says() {
        let spend = |quota: &Quota| (0..1000).take_while(|_| quota.questions.take().is_ok()).count();
        let usual = quota("{}");
        assert_eq!(spend(&usual), limits::DNS_BURST as usize);
        assert!(usual.questions.is_spent());
        sleep(Duration::from_secs(60)).await;
        assert_eq!(spend(&usual), limits::DNS_PER_MINUTE as usize);
        sleep(Duration::from_secs(24 * 3600)).await;
        assert_eq!(spend(&usual), limits::DNS_BURST as usize, "a long silence earns one burst and no more");
        usual.set(&limits(r#"{"dnsPerMinute": 60}"#).unwrap());
        assert_eq!(spend(&usual), 300);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(spend(&usual), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_wait_for_their_turn_and_a_change_is_heeded_by_who_waits() {
        let quota = quota(r#"{"egressBytesPerSecond": 16384}"#);
        assert_eq!(quota.egress.step(), Some(1024));
        assert!(quota.egress.pay(1024).is_none(), "the burst");
        let begun = Instant::now();
        let (second, third) = (quota.egress.pay(16_384).unwrap(), quota.egress.pay(1024).unwrap());
        // The clock counts whole milliseconds.
        second.await;
        assert_eq!(begun.elapsed().as_millis(), 63, "a bucket that is full lets anything through");
        third.await;
        assert_eq!(begun.elapsed().as_millis(), 1063);
        let mut waiting = quota.egress.pay(16_384 * 3600).unwrap();
        assert!(waiting.as_mut().now_or_never().is_none());
        quota.set(&limits(r#"{"egressBytesPerSecond": 16777216}"#).unwrap());
        waiting.await;
        let waiting = quota.egress.pay(1 << 40).unwrap();
        quota.set(&Limits::default());
        waiting.await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(quota.ingress.pay(u64::MAX).is_none() && quota.ingress.step().is_none());
    }
}
