//! The operator's secrets: kept current by tasks of the daemon's, shared by its sandboxes, and how each stands.
//!
//! It never shows a value, and decides nothing: where a secret may go is its grant's to say, which policies are
//! compiled with. Those whose values are set over the API are kept in the store, each a record of its own.
//!
//! - `INVARIANT`: a name that the settings define is theirs: no value for it comes over the API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::meter::milliseconds;
use super::{ServeError, report};
use crate::cli;
use crate::cli::certificates::CertificateKeeper;
use crate::cli::world::Host;
use crate::config::{Brokered, Config};
use crate::control::action::{GrantText, SecretDraft, SecretState, SecretView};
use crate::flow::SecretName;
use crate::intercept::upstream::certificates::ClientCertificates;
use crate::intercept::upstream::proxy::Proxy;
use crate::limits;
use crate::policy::{Grant, SourceSpec};
use crate::secret::keep::{Keeper, News};
use crate::secret::{Secret, Secrets, Slot, Standing};

/// See the module's doc.
pub(super) struct Broker {
    secrets: Secrets,
    configured: BTreeMap<SecretName, (&'static str, Grant)>,
    /// Those whose values are set over the API.
    inline: Mutex<BTreeMap<SecretName, Grant>>,
}

/// Under which name such a one is kept: no sandbox is called so.
const RECORD: &str = "/secret/";

/// What kind of source it has.
const KIND: &str = "api";

/// The name of the record of a secret.
pub(super) fn record_of(name: &SecretName) -> String {
    format!("{RECORD}{}", name.as_str())
}

/// Whose record it is, if it is one of a secret.
pub(super) fn secret_of(record: &str) -> Option<SecretName> {
    record.strip_prefix(RECORD).and_then(SecretName::new)
}

/// A value that was set over the API, as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Inline {
    value: Zeroizing<String>,
    grant: GrantText,
    /// Milliseconds since 1970.
    expires_at: Option<u64>,
}

impl Inline {
    /// What is set now.
    ///
    /// # Errors
    /// What of it cannot be.
    pub(super) fn new(draft: SecretDraft) -> Result<Self, String> {
        let SecretDraft { value, good_for, grant } = draft;
        let length = value.trim_end_matches(['\r', '\n']).len();
        if length == 0 || value.len() > limits::SECRET_BYTES {
            return Err(format!("`value`: a text, {} bytes at most", limits::SECRET_BYTES));
        }
        let expires = good_for.map(|time| SystemTime::now() + time.min(limits::SECRET_LIFE));
        let inline = Self { value, grant, expires_at: expires.map(milliseconds) };
        inline.grant().map(|_| inline)
    }

    /// What is kept in a record; `None` if it cannot be read.
    pub(super) fn of_bytes(record: &[u8]) -> Option<Self> {
        let inline: Self = serde_json::from_slice(record).ok()?;
        inline.grant().is_ok().then_some(inline)
    }

    /// As bytes, to be sealed.
    pub(super) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Room for all from the start: a vector that grows leaves copies behind. Each byte is six at most, escaped.
        let mut bytes = Zeroizing::new(Vec::with_capacity(6 * self.value.len() + limits::DRAFT_BYTES));
        // It holds text for keys and no numbers but whole ones, so it can be written.
        let _ = serde_json::to_writer(&mut *bytes, self);
        bytes
    }

    /// Where it may go.
    pub(super) fn grant(&self) -> Result<Grant, String> {
        self.grant.read().map_err(|(key, due)| format!("`{key}`: {due}"))
    }
}

/// The operator's proxy, if there is one, its credentials kept current in the same way.
///
/// # Errors
/// Its name has no address.
pub(super) async fn proxy(config: &Config) -> Result<Option<Proxy>, ServeError> {
    let Some(said) = &config.upstream_proxy else { return Ok(None) };
    let (proxy, keeper) = cli::proxy::open(said).map_err(ServeError::own("find the upstream proxy"))?;
    if let Some(mut keeper) = keeper {
        let world = Arc::new(Host::default());
        if let Err(error) = keeper.ask(&*world).await {
            report::secret(&News::Failed(error));
        }
        tokio::spawn(keeper.keep(world, |news| report::secret(&news)));
    }
    Ok(Some(proxy))
}

/// What origins are shown, kept current in the same way.
pub(super) fn certificates(config: &Config) -> ClientCertificates {
    let mut shown = ClientCertificates::default();
    for said in &config.client_certificates {
        let mut keeper = CertificateKeeper::new(said.clone());
        keeper.show(&mut shown);
        if let Err(error) = keeper.read() {
            report::credential(&error);
        }
        tokio::spawn(keeper.keep(report::credential));
    }
    shown
}

impl Broker {
    /// The operator's secrets, kept current by tasks of the runtime that this is called in. What cannot be had is told,
    /// and nothing is sent that needs it.
    pub(super) async fn open(config: &Config) -> Self {
        let (secrets, world) = (Secrets::default(), Arc::new(Host::default()));
        let variables = || config.secrets.values().flat_map(|brokered| brokered.source.variables());
        for (name, brokered) in &config.secrets {
            let keeper = Keeper::new(name.clone(), brokered.source.clone());
            let mut keeper = keeper.withholding(variables().map(str::to_owned));
            secrets.share(name.clone(), keeper.slot());
            // The others may take a while, and the sandboxes that do not need them do not wait for them.
            if matches!(brokered.source, SourceSpec::Env(_) | SourceSpec::File(_))
                && let Err(error) = keeper.ask(&*world).await
            {
                report::secret(&News::Failed(error));
            }
            tokio::spawn(keeper.keep(Arc::clone(&world), |news| report::secret(&news)));
        }
        let known = |(name, brokered): (&SecretName, &Brokered)| {
            (name.clone(), (brokered.source.kind(), brokered.grant.clone()))
        };
        Self { secrets, configured: config.secrets.iter().map(known).collect(), inline: Mutex::default() }
    }

    /// Whether the settings say where it comes from.
    pub(super) fn has_configured(&self, name: &SecretName) -> bool {
        self.configured.contains_key(name)
    }

    /// Where one may go whose value was set over the API.
    pub(super) fn inline(&self, name: &SecretName) -> Option<Grant> {
        self.inlines().get(name).cloned()
    }

    /// How many those are.
    pub(super) fn inline_count(&self) -> usize {
        self.inlines().len()
    }

    /// From now on this is its value, and there it may go.
    pub(super) fn set(&self, name: &SecretName, inline: Inline, grant: Grant) {
        let Inline { mut value, grant: _, expires_at } = inline;
        let secret = Secret::new(Zeroizing::new(std::mem::take(&mut *value).into_bytes()));
        let until = expires_at.map(|at| {
            let at = UNIX_EPOCH + Duration::from_millis(at);
            // What has expired stays known: it is still searched for in answers.
            Instant::now() + at.duration_since(SystemTime::now()).unwrap_or_default()
        });
        let slot = self.secrets.slot(name).unwrap_or_else(|| {
            let slot = Arc::<Slot>::default();
            self.secrets.share(name.clone(), Arc::clone(&slot));
            slot
        });
        slot.fill(secret, until);
        self.inlines().insert(name.clone(), grant);
    }

    /// From now on there is no such secret.
    pub(super) fn forget(&self, name: &SecretName) {
        self.secrets.slot(name).iter().for_each(|slot| slot.clear());
        self.inlines().remove(name);
    }

    /// Where every secret may go.
    pub(super) fn grants(&self) -> BTreeMap<SecretName, Grant> {
        let configured = self.configured.iter().map(|(name, (_, grant))| (name.clone(), grant.clone()));
        configured.chain(self.inlines().clone()).collect()
    }

    fn inlines(&self) -> MutexGuard<'_, BTreeMap<SecretName, Grant>> {
        self.inline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The values, as sandboxes share them.
    pub(super) fn secrets(&self) -> Secrets {
        self.secrets.clone()
    }

    /// How the keeping of each stands.
    pub(super) fn views(&self) -> Vec<SecretView> {
        let now = (Instant::now(), SystemTime::now());
        let inlines = self.inlines().clone();
        let view = |(name, standing)| {
            let configured = self.configured.get(&name).map(|(kind, _)| *kind);
            let source = configured.or_else(|| inlines.contains_key(&name).then_some(KIND))?;
            Some(view(&name, source, standing, now))
        };
        self.secrets.standings().into_iter().filter_map(view).collect()
    }

    /// How the keeping of one stands.
    pub(super) fn view(&self, name: &SecretName) -> Option<SecretView> {
        self.views().into_iter().find(|view| view.name == name.as_str())
    }
}

/// How the keeping of a secret stands, at this time as both clocks tell it.
fn view(name: &SecretName, source: &'static str, standing: Standing, now: (Instant, SystemTime)) -> SecretView {
    let Standing { is_there, until, due, trouble } = standing;
    let at = |moment: Instant| {
        let (then, time) = now;
        let later = moment.checked_duration_since(then);
        milliseconds(later.map_or_else(|| time - then.duration_since(moment), |later| time + later))
    };
    let state = match (is_there, &trouble) {
        (true, None) => SecretState::Ready,
        (true, Some(_)) => SecretState::Failing,
        (false, None) if until.is_none() => SecretState::Pending,
        (false, _) => SecretState::Unavailable,
    };
    let lapsed = || (state == SecretState::Unavailable).then(|| "what its source gave last has expired".to_owned());
    SecretView {
        name: name.as_str().to_owned(),
        source,
        state,
        expires_at: until.map(at),
        next_refresh: due.map(at),
        failing_since: trouble.as_ref().map(|trouble| at(trouble.since)),
        reason: trouble.map(|trouble| trouble.why.clone()).or_else(lapsed),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::secret::Trouble;

    #[test]
    fn each_way_that_a_secret_is_kept_has_a_state_and_its_times() {
        let now = Instant::now() + Duration::from_secs(1_000);
        let time = UNIX_EPOCH + Duration::from_secs(2_000);
        let (before, after) = (now - Duration::from_secs(10), now + Duration::from_secs(10));
        let trouble = || Some(Arc::new(Trouble { since: before, why: "it cannot be had".to_owned() }));
        for (is_there, until, trouble, state, reason) in [
            (true, None, None, SecretState::Ready, None),
            (true, Some(after), None, SecretState::Ready, None),
            (true, Some(after), trouble(), SecretState::Failing, Some("it cannot be had")),
            (false, Some(before), trouble(), SecretState::Unavailable, Some("it cannot be had")),
            (false, Some(before), None, SecretState::Unavailable, Some("what its source gave last has expired")),
            (false, None, trouble(), SecretState::Unavailable, Some("it cannot be had")),
            (false, None, None, SecretState::Pending, None),
        ] {
            let standing = Standing { is_there, until, due: Some(after), trouble: trouble.clone() };
            let told = view(&SecretName::new("KEY").unwrap(), "file", standing, (now, time));
            assert_eq!((told.state, told.reason.as_deref()), (state, reason));
            assert_eq!(told.failing_since, trouble.is_some().then_some(1_990_000));
            assert_eq!(told.expires_at, until.map(|at| if at == after { 2_010_000 } else { 1_990_000 }));
            assert_eq!(told.next_refresh, Some(2_010_000));
        }
    }

    #[test]
    fn a_secret_is_told_in_one_line() {
        let trouble = Some(Arc::new(Trouble { since: Instant::now(), why: "the file /k\nis empty".to_owned() }));
        let standing = Standing { is_there: false, until: None, due: None, trouble };
        let told = view(&SecretName::new("KEY").unwrap(), "file", standing, (Instant::now(), UNIX_EPOCH)).to_string();
        let line = "secret KEY (file): unavailable; since 1970-01-01T00:00:00Z: the file /k\u{fffd}is empty";
        assert_eq!(told, line);
    }
}
