//! Values kept current: a source is read again when it changes, or before what it gave expires.
//!
//! One task keeps one slot, so a source is asked once at a time, however many sandboxes use it. It never sends a value
//! anywhere and decides nothing; whoever needs a value that is not there is refused (POLICY §7: `secret-unavailable`).
//!
//! Those that fail are asked again after a time that grows, and nothing is asked in step with anything else: chance
//! makes each time a little shorter.
//!
//! - `INVARIANT`: a value is in the slot no longer than its source said that it is good.
//! - `INVARIANT`: a file that is gone, empty or unreadable takes its value away, and so does a service that says that
//!   there is none, or none for us. A command that fails, or a service that cannot be asked, does not: what it gave
//!   before is good until it expires.
//! - `INVARIANT`: what is told of a source holds no value.

use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Slot;
use super::source::{Given, Source, SourceError, World};
use crate::flow::SecretName;
use crate::limits;
use crate::policy::SourceSpec;

/// Keeps one slot.
pub struct Keeper {
    source: Source,
    slot: Arc<Slot>,
    /// What of its file was seen last.
    stamp: Option<Stamp>,
    /// When it is to be asked; `None` if what it gave stays.
    due: Option<Instant>,
    retry: Duration,
}

/// What of a file tells that it is another, or holds something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// What is told of a source when it stops, or starts again, giving values.
#[derive(Debug)]
pub enum News {
    /// It cannot be had, and why.
    Failed(SourceError),
    /// It can be had again.
    Back(SecretName),
}

impl Keeper {
    /// A keeper of an empty slot.
    #[must_use]
    pub fn new(name: SecretName, source: SourceSpec) -> Self {
        let ((first, _), source) = (limits::SECRET_RETRY, Source::new(name, source));
        Self { source, slot: Arc::default(), stamp: None, due: Some(Instant::now()), retry: first }
    }

    /// The same, whose command does not get these variables: those that secrets come from.
    #[must_use]
    pub fn withholding(self, variables: impl IntoIterator<Item = String>) -> Self {
        Self { source: self.source.withholding(variables), ..self }
    }

    /// What it keeps.
    #[must_use]
    pub fn slot(&self) -> Arc<Slot> {
        Arc::clone(&self.slot)
    }

    /// Asks the source now.
    ///
    /// # Errors
    /// When there is no value.
    pub async fn ask<W: World>(&mut self, world: &W) -> Result<(), SourceError> {
        // Seen first: what changes meanwhile is read again.
        self.stamp = self.look();
        let read = self.source.read(world).await;
        let now = Instant::now();
        let next = match &read {
            Ok(given) => next(given),
            Err(_) => spread(self.retry, 2),
        };
        self.due = match self.source.spec() {
            // The one never changes, the other says so by itself.
            SourceSpec::Env(_) | SourceSpec::File(_) => None,
            SourceSpec::Command(_)
            | SourceSpec::Vault(_)
            | SourceSpec::OAuth2(_)
            | SourceSpec::GithubApp(_)
            | SourceSpec::Aws(_) => Some(now + next),
        };
        self.slot.due(self.due);
        match read {
            Ok(Given { secret, good_for, again: _ }) => {
                self.slot.fill(secret, good_for.map(|time| now + time));
                (self.retry, _) = limits::SECRET_RETRY;
                Ok(())
            }
            Err(error) => {
                if matches!(self.source.spec(), SourceSpec::File(_)) || error.is_final() {
                    self.slot.clear();
                }
                self.slot.trouble(sentence(&error));
                self.retry = (2 * self.retry).min(limits::SECRET_RETRY.1);
                Err(error)
            }
        }
    }

    /// Keeps the slot current for as long as it is polled; `tell` hears when that fails and when it works again.
    pub async fn keep<W: World>(mut self, world: Arc<W>, tell: impl Fn(News)) {
        loop {
            self.changed().await;
            let was_well = self.slot.why().is_none();
            match self.ask(&*world).await {
                Ok(()) if !was_well => tell(News::Back(self.source.name().clone())),
                Err(error) if was_well => tell(News::Failed(error)),
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// Ready when the source is to be asked again.
    async fn changed(&self) {
        match (self.source.spec(), self.due) {
            // Whatever its last reading came to, a file says by itself when there is something new.
            (SourceSpec::File(_), _) => {
                while self.look() == self.stamp {
                    sleep(limits::SECRET_CHECK).await;
                }
            }
            (_, Some(due)) => sleep_until(due).await,
            // A process's own environment does not change.
            (_, None) => std::future::pending().await,
        }
    }

    fn look(&self) -> Option<Stamp> {
        let SourceSpec::File(path) = self.source.spec() else { return None };
        Stamp::of(path)
    }
}

impl Stamp {
    /// As the file is now; `None` if it cannot be seen.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let seen = std::fs::metadata(path).ok()?;
        let changed = (seen.ctime(), seen.ctime_nsec());
        Some(Self { device: seen.dev(), inode: seen.ino(), size: seen.size(), changed })
    }
}

/// When to ask again for what was given.
fn next(given: &Given) -> Duration {
    let next = given.good_for.map_or(limits::SECRET_REFRESH, ahead);
    spread(given.again.map_or(next, |again| again.min(next)), 10).max(limits::SECRET_RETRY.0)
}

/// When to ask again for what is good for so long: in time for a few failures.
fn ahead(good_for: Duration) -> Duration {
    good_for.saturating_sub((good_for / 5).min(limits::SECRET_REFRESH))
}

/// A time that chance makes shorter, by a part of this share at most.
fn spread(time: Duration, share: u32) -> Duration {
    let mut chance = [0; 2];
    // Without it they come together, which does them no harm.
    let _ = aws_lc_rs::rand::fill(&mut chance);
    time - (time / share).mul_f64(f64::from(u16::from_be_bytes(chance)) / f64::from(u16::MAX))
}

/// An error and what is behind it, in one sentence.
fn sentence(error: &SourceError) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::Mutex;
    use tokio::sync::Notify;

    use crate::secret::source::tests::Nowhere;

    fn name() -> SecretName {
        SecretName::new("KEY").unwrap()
    }

    fn held(slot: &Slot) -> Option<String> {
        slot.value().map(|value| value.expose(|value| String::from_utf8(value.to_vec()).unwrap()))
    }

    /// Waits, in paused time, until the slot holds this.
    async fn holds(slot: &Slot, expected: Option<&str>) {
        let waited = tokio::time::timeout(Duration::from_secs(3600), async {
            while held(slot).as_deref() != expected {
                sleep(Duration::from_millis(100)).await;
            }
        });
        assert!(waited.await.is_ok(), "{:?} is not {expected:?}", held(slot));
    }

    fn command(script: String) -> SourceSpec {
        SourceSpec::Command(["/bin/sh".to_owned(), "-c".to_owned(), script].into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_again_when_it_changes_and_takes_its_value_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "one").unwrap();
        let mut keeper = Keeper::new(name(), SourceSpec::File(path.clone()));
        let slot = keeper.slot();
        keeper.ask(&Nowhere).await.unwrap();
        assert_eq!(held(&slot).as_deref(), Some("one"));
        let told = Arc::new(Mutex::new(Vec::new()));
        let news = Arc::clone(&told);
        let keeping = tokio::spawn(keeper.keep(Arc::new(Nowhere), move |heard| {
            news.lock().unwrap().push(matches!(heard, News::Back(_)));
        }));
        // As those do that must not be read half written: another file takes its name.
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        holds(&slot, Some("two")).await;
        fs::remove_file(&path).unwrap();
        holds(&slot, None).await;
        assert!(slot.why().unwrap().why.contains("cannot be read"));
        fs::write(&path, "three").unwrap();
        holds(&slot, Some("three")).await;
        assert_eq!((slot.why(), told.lock().unwrap().as_slice()), (None, &[false, true][..]));
        keeping.abort();
    }

    /// The command counts how often it was run; its process lives in real time, so time is not paused.
    #[tokio::test]
    async fn a_command_is_asked_again_before_its_value_expires() {
        let folder = tempfile::tempdir().unwrap();
        let runs = folder.path().join("runs");
        let runs = runs.display();
        let script = format!("echo run >> {runs}; printf '{{\"value\": \"v%s\", \"expiresIn\": 2}}' $(wc -l < {runs})");
        let mut keeper = Keeper::new(name(), command(script));
        let slot = keeper.slot();
        keeper.ask(&Nowhere).await.unwrap();
        assert_eq!(held(&slot).as_deref(), Some("v1"));
        let keeping = tokio::spawn(keeper.keep(Arc::new(Nowhere), |_| {}));
        let mut seen = Vec::new();
        while seen.last().map(String::as_str) != Some("v3") {
            let now = held(&slot).expect("there is one all the time");
            if seen.last() != Some(&now) {
                seen.push(now);
            }
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(seen, ["v1", "v2", "v3"]);
        keeping.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_expired_is_not_used_whatever_becomes_of_its_source() {
        let slot = Slot::default();
        let secret = super::super::Secret::new(zeroize::Zeroizing::new(b"canary".to_vec()));
        slot.fill(secret, Some(Instant::now() + Duration::from_secs(10)));
        slot.trouble("its source fails".to_owned());
        assert_eq!(held(&slot).as_deref(), Some("canary"));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(held(&slot), None);
    }

    #[tokio::test]
    async fn one_that_fails_is_asked_again_after_a_time_that_grows_and_is_left_to_chance() {
        let mut keeper = Keeper::new(name(), command("exit 1".to_owned()));
        let (mut expected, most) = limits::SECRET_RETRY;
        let mut parts = Vec::new();
        for _ in 0..12 {
            // It is due so long after the answer, which came between these two.
            let before = Instant::now();
            keeper.ask(&Nowhere).await.unwrap_err();
            let (due, after) = (keeper.due.unwrap(), Instant::now());
            let wait = due.saturating_duration_since(after);
            assert!(wait <= expected && due.duration_since(before) >= expected / 2, "{wait:?} of {expected:?}");
            assert!(keeper.slot.standing().due == keeper.due);
            parts.push(wait.as_micros() * 1_000 / expected.as_micros());
            expected = (2 * expected).min(most);
        }
        parts.dedup();
        assert!(parts.len() > 2, "{parts:?}");
        // What was given is asked for again in the last fifth of its time, or in the last five minutes.
        for (good_for, again, least, most) in [
            (Some(100), None, 72, 80),
            (Some(36_000), None, 32_130, 35_700),
            (None, None, 270, 300),
            (None, Some(60), 54, 60),
            (Some(1), None, 1, 1),
        ] {
            let secret = crate::secret::Secret::new(zeroize::Zeroizing::new(vec![1]));
            let given =
                Given { secret, good_for: good_for.map(Duration::from_secs), again: again.map(Duration::from_secs) };
            let next = next(&given).as_secs_f64();
            assert!((f64::from(least)..=f64::from(most)).contains(&next), "{good_for:?}: {next}");
        }
    }

    #[tokio::test]
    async fn a_command_that_fails_is_told_once_and_takes_nothing_away() {
        let folder = tempfile::tempdir().unwrap();
        let flag = folder.path().join("flag");
        fs::write(&flag, "").unwrap();
        let script = format!("test -e {} && printf '{{\"value\": \"canary\", \"expiresIn\": 60}}'", flag.display());
        let mut keeper = Keeper::new(name(), command(script));
        let slot = keeper.slot();
        keeper.ask(&Nowhere).await.unwrap();
        fs::remove_file(&flag).unwrap();
        keeper.ask(&Nowhere).await.unwrap_err();
        assert_eq!(held(&slot).as_deref(), Some("canary"), "it is good for a minute");
        assert!(slot.why().is_some_and(|why| !why.why.contains("canary")));
        let heard = Arc::new(Notify::new());
        let hear = Arc::clone(&heard);
        fs::write(&flag, "").unwrap();
        let keeping = tokio::spawn(keeper.keep(Arc::new(Nowhere), move |news| {
            assert!(matches!(news, News::Back(_)));
            hear.notify_one();
        }));
        heard.notified().await;
        assert_eq!(slot.why(), None);
        keeping.abort();
    }
}
