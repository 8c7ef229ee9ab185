//! The operator's secrets: kept current by tasks of the daemon's, shared by its sandboxes, and how each stands.
//!
//! It never shows a value, and decides nothing: where a secret may go is its grant's to say, which policies are
//! compiled with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::meter::milliseconds;
use super::{ServeError, report};
use crate::cli;
use crate::cli::certificates::CertificateKeeper;
use crate::cli::world::Host;
use crate::config::Config;
use crate::control::action::{SecretState, SecretView};
use crate::flow::SecretName;
use crate::intercept::upstream::certificates::ClientCertificates;
use crate::intercept::upstream::proxy::Proxy;
use crate::policy::{Grant, SourceSpec};
use crate::secret::keep::{Keeper, News};
use crate::secret::{Secrets, Standing};

/// See the module's doc.
pub(super) struct Broker {
    secrets: Secrets,
    kinds: BTreeMap<SecretName, &'static str>,
}

/// Where the operator's secrets may go.
pub(super) fn grants(config: &Config) -> BTreeMap<SecretName, Grant> {
    config.secrets.iter().map(|(name, brokered)| (name.clone(), brokered.grant.clone())).collect()
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
        let (mut secrets, world) = (Secrets::default(), Arc::new(Host::default()));
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
        let kinds = config.secrets.iter().map(|(name, brokered)| (name.clone(), brokered.source.kind())).collect();
        Self { secrets, kinds }
    }

    /// The values, as sandboxes share them.
    pub(super) fn secrets(&self) -> Secrets {
        self.secrets.clone()
    }

    /// How the keeping of each stands.
    pub(super) fn views(&self) -> Vec<SecretView> {
        let now = (Instant::now(), SystemTime::now());
        let view = |(name, standing)| {
            let source = self.kinds.get(&name).copied().unwrap_or_default();
            view(&name, source, standing, now)
        };
        self.secrets.standings().into_iter().map(view).collect()
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
