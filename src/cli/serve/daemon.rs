//! The daemon's sandboxes, and every change to them: what carries out what the control API asks.
//!
//! A change takes the sandbox's turn, so that no two mix; it is stored before it is in force, and in force, also for
//! what was open before, when [`Act::act`] returns. It is carried out to its end even if whoever asked goes away.
//!
//! - `INVARIANT`: a sandbox that has no attachment has no listener, so it reaches nothing; one without a policy has
//!   the policy that allows nothing.
//! - `INVARIANT`: an identity (HOUSE §2) is one sandbox's at most.
//! - `INVARIANT`: with each attachment the data path of a sandbox begins anew: no pin, pool or ticket is inherited.
//!   (One that a successor takes over goes on, and so do its pins.)

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use serde_json::{Map, Value};
use tokio::sync::{OwnedRwLockWriteGuard, broadcast, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::broker::{Broker, Inline, certificates, proxy, record_of, secret_of};
use super::meter::{Meter, News, milliseconds};
use super::registration::{Facts, Held, Kept, Registration, Session, Turn};
use super::shelf::{Document, NOTHING, Offer, Shelf};
use super::take_over::Say;
use super::take_over::before::Before;
use super::take_over::handing::Outlived;
use super::take_over::receiving::{Estate, Heir, Heirs, Left};
use super::take_over::wire::{Judging, Told, Yours};
use super::vault::Vault;
use super::{ServeError, issuer, report};
use crate::attach::{
    self, AttachError, AttachStep, Attached, AttachmentEvent, AttachmentId, Device, Events, Host, Sockets, Spec,
};
use crate::audit::{Fanout, Record};
use crate::ca::{Authority, bundle};
use crate::cli::data_path::{LAST_FLOWS, Outside, Serving, Settings};
use crate::cli::host::system_bundle;
use crate::cli::{chain, tell};
use crate::config::Config;
use crate::confine::{BUNDLE, environment};
use crate::control::action::{
    Act, Action, AttachmentSpec, AttachmentState, AttachmentView, Bytes, Draft, FlowView, PolicyPush, Refusal,
    SandboxView, SecretChange, SecretView, SessionId, Status, TrustView, USUAL_TIMEOUT, Which,
};
use crate::flow::{SandboxId, SecretName};
use crate::intercept::Stop;
use crate::intercept::workers::Workers;
use crate::issuer::{Issuer, Tokens};
use crate::limits;
use crate::metrics::Metrics;
use crate::policy::explain::Explanation;
use crate::policy::judge::Question;
use crate::sandbox::Sandbox;
use crate::sandbox::quota::Limits;
use crate::secret;
use crate::secret::placeholder::Placeholders;
use crate::state::Store;

/// See the module's doc. Clones are the same daemon.
#[derive(Clone)]
pub struct Daemon(Arc<Inner>);

struct Inner {
    host: Host,
    outside: Outside,
    shelf: Shelf,
    broker: Broker,
    vault: Arc<Vault>,
    before: Before,
    issuer: Option<Arc<Issuer>>,
    record: Arc<dyn Record>,
    lines: Arc<report::Lines>,
    metrics: Arc<Metrics>,
    roll: RwLock<Roll>,
    /// What a sandbox may use of which its control plane says nothing.
    usual: ArcSwap<Limits>,
    /// Every change of a sandbox has a part in it; a change of the settings, and handing over, have all of it.
    settings: Arc<tokio::sync::RwLock<()>>,
    /// What flows are judged by beside policies.
    judging: Mutex<Judging>,
}

/// Who is there.
#[derive(Default)]
struct Roll {
    by_name: HashMap<SandboxId, Arc<Registration>>,
    by_session: HashMap<SessionId, Arc<Registration>>,
    attached: HashMap<AttachmentId, SandboxId>,
    created: u64,
}

impl Daemon {
    /// The daemon of a host, for the runtime that this is called in, with all that its state directory holds: every
    /// registration, and every attachment that is provably the same, with its policy before its first byte. The rest
    /// is detached, and told. Audit events go to `record`.
    ///
    /// # Errors
    /// What of the host or of the state directory cannot be used; another daemon may have it.
    pub async fn open(config: &Config, record: Arc<dyn Record>) -> Result<Self, ServeError> {
        let daemon = Self::open_after(config, record, &mut Estate::default()).await?;
        daemon.begin().await;
        Ok(daemon)
    }

    /// The same with what the daemon before has left, of which the sandboxes are taken; nothing arrives before
    /// [`Self::begin`].
    pub(super) async fn open_after(
        config: &Config,
        record: Arc<dyn Record>,
        estate: &mut Estate,
    ) -> Result<Self, ServeError> {
        let vault = Arc::new(Vault::open(config, estate).await?);
        let store = vault.store().await.map_err(ServeError::Store)?;
        let (kept, records): (Vec<_>, Vec<_>) =
            store.all().map_err(ServeError::Store)?.into_iter().partition(|(name, _)| name == issuer::RECORD);
        drop(store);
        let (secrets, records): (Vec<_>, Vec<_>) = records.into_iter().partition(|(name, _)| secret_of(name).is_some());
        tokio::spawn(report::unlocked());
        let broker = Broker::open(config).await;
        restore_secrets(&broker, &secrets)?;
        let issuer = match &config.issuer {
            Some(url) => Some(issuer::open(url, kept.first().map(|(_, keys)| keys.as_slice()), &vault).await?),
            None => None,
        };
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let outside = Outside::open(Settings {
            allow_protected: config.allow_protected.clone(),
            resolvers: config.resolvers.clone(),
            proxy: proxy(config).await?,
            certificates: certificates(config),
            workers: Workers::start(cores).map_err(ServeError::own("start the threads that carry flows"))?,
            ..Settings::default()
        });
        let (lines, metrics) = (Arc::new(report::Lines::default()), Arc::new(Metrics::default()));
        let sinks: Vec<Arc<dyn Record>> = vec![record, Arc::clone(&metrics) as _, Arc::clone(&lines) as _];
        let daemon = Self(Arc::new(Inner {
            host: Host::open().map_err(ServeError::Host)?,
            outside: outside.map_err(ServeError::own("list the host's addresses"))?,
            shelf: Shelf::new(
                config.openable.clone(),
                broker.grants(),
                Offer { has_issuer: issuer.is_some(), forward_hosts: config.forward_hosts.clone() },
            ),
            broker,
            vault,
            before: Before::default(),
            issuer,
            record: Arc::new(Fanout(sinks)),
            lines,
            metrics,
            roll: RwLock::default(),
            usual: ArcSwap::from_pointee(config.limits),
            settings: Arc::default(),
            judging: Mutex::new(Judging::of(config)),
        }));
        for (name, record) in records {
            let restored = daemon.restore(&name, &record, estate).await;
            restored.map_err(|error| ServeError::Record(name, error))?;
        }
        match daemon.0.host.sweep().await {
            Ok(closed) => closed.iter().filter(|id| !daemon.roll().attached.contains_key(id)).for_each(report::closed),
            Err(error) => {
                tell(&format!("exeat: interfaces of earlier sandboxes are not looked for: {}\n", chain(&error)))
            }
        }
        Ok(daemon)
    }

    /// Registers a sandbox again as it was.
    async fn restore(
        &self,
        name: &str,
        record: &[u8],
        estate: &mut Estate,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let kept: Kept = serde_json::from_slice(record)?;
        let id = SandboxId::new(name).ok_or("this is no sandbox's name")?;
        let document = self.0.shelf.take(kept.policy.clone()).map_err(|faults| faults.to_string())?;
        let (key, made_at) = &kept.root;
        let made_at = UNIX_EPOCH + Duration::from_millis(*made_at);
        let authority = Arc::new(Authority::restore(&id, key, made_at, SystemTime::now)?);
        let meter = Arc::new(Meter::new(Arc::clone(&self.0.record), kept.bytes));
        let facts = kept.facts(document, "it was not taken up again");
        let registration = Registration::new(kept.number, id, authority, meter, facts);
        let registration = Arc::new(registration);
        self.enroll(&registration).map_err(|refusal| sentence(&refusal))?;
        let left = estate.sandboxes.remove(&registration.session());
        if let Some((spec, id)) = kept.attachment {
            self.take_up(&registration, spec, &id, left.unwrap_or_default()).await;
        } else if let Some(tally) = left.and_then(|left| left.tally) {
            registration.meter.take(tally);
        }
        Ok(())
    }

    async fn take_up(&self, registration: &Arc<Registration>, spec: AttachmentSpec, id: &str, left: Left) {
        let Left { sockets, quarantined, tally, pins } = left;
        if let Some(tally) = tally {
            registration.meter.take(tally);
        }
        let mut turn = registration.turn.lock().await;
        let taken = async {
            let id: AttachmentId = id.parse().map_err(|_| Refusal::Failed("its identity cannot be read".into()))?;
            let attached = self.take_up_when_closed(&named(&spec)?, &id, sockets).await.map_err(refusal)?;
            let facts = registration.facts().clone();
            self.admit(registration, &mut turn, spec, &facts, attached).await
        };
        match taken.await {
            Ok(mut view) => {
                if let Some(held) = &mut turn.held {
                    pins.iter().for_each(|(address, name)| held.sandbox.pins().pin(*address, name));
                    if let Some(reason) = quarantined {
                        // It stays so until it is attached anew; nothing of it was taken.
                        if let Some(serving) = held.serving.take() {
                            serving.end(LAST_FLOWS).await;
                        }
                        view.state = AttachmentState::Quarantined(reason);
                    }
                }
                registration.facts().attachment = Some(view);
            }
            Err(refusal) => {
                let reason = sentence(&refusal);
                let state = AttachmentState::Detached(reason);
                report::attachment(&registration.name, &state);
                if let Some(view) = &mut registration.facts().attachment {
                    view.state = state;
                }
            }
        }
    }

    /// Whether a sandbox is attached under this identity.
    pub(super) fn has_attached(&self, id: &AttachmentId) -> bool {
        self.roll().attached.contains_key(id)
    }

    /// What of these settings can change while it runs counts from now on, also for what is open: it has been judged
    /// again, and what is refused has ended, when this returns; if some did not heed it in time, that is told.
    ///
    /// # Errors
    /// The addresses of the host cannot be listed. Nothing has changed.
    pub async fn change(&self, config: &Config) -> Result<(), ServeError> {
        let _all = self.0.settings.write().await;
        let judging = Judging::of(config);
        let heeded = self.judge_by(&judging).await?;
        if !self.0.before.judge_by(&judging).await || !heeded {
            tell("exeat: some flow that was open did not heed the settings in time: have them read again\n");
        }
        Ok(())
    }

    /// The same for the flows of this process; whether all heeded it in time.
    pub(super) async fn judge_by(&self, judging: &Judging) -> Result<bool, ServeError> {
        let Judging { allow_protected, openable, resolvers, limits } = judging;
        let listed = self.0.outside.change(allow_protected, resolvers);
        listed.map_err(ServeError::own("list the host's addresses"))?;
        judging.clone_into(&mut self.0.judging.lock().unwrap_or_else(PoisonError::into_inner));
        if !self.0.shelf.opens(openable) {
            self.0.shelf.change(openable);
        }
        self.0.usual.store(Arc::new(*limits));
        let mut told = Vec::new();
        for registration in self.registrations() {
            let turn = registration.turn.lock().await;
            let text = registration.facts().document.text.to_string();
            // It compiled before, and what may be opened is no question of form.
            let Ok(document) = self.compile(text).await else { continue };
            registration.facts().document = Arc::clone(&document);
            if let Some(held) = &turn.held {
                held.sandbox.quota().set(&registration.facts().limits.or(*limits));
                let generation = held.sandbox.replace(Arc::clone(&document.policy));
                told.push((Arc::clone(&held.sandbox), generation));
            }
        }
        let all = async {
            for (sandbox, generation) in told {
                sandbox.settled(generation).await;
            }
        };
        Ok(timeout(limits::SETTLE_TIME, all).await.is_ok())
    }

    /// What flows are judged by now, beside policies.
    pub(super) fn judging(&self) -> Judging {
        self.0.judging.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes an attachment up; where its sockets are still open in a process that is ending, once they are closed.
    async fn take_up_when_closed(
        &self,
        spec: &Spec,
        id: &AttachmentId,
        mut sockets: Option<Sockets>,
    ) -> Result<Attached, AttachError> {
        let given_up = Instant::now() + limits::LEFT_OPEN_TIME;
        loop {
            match self.0.host.take_up(spec, id, sockets.take()).await {
                Err(AttachError::Failed { step: AttachStep::Listen, source })
                    if source.kind() == ErrorKind::AddrInUse && Instant::now() < given_up =>
                {
                    sleep(limits::LEFT_OPEN_REST).await;
                }
                taken => return taken,
            }
        }
    }

    /// Takes what arrives.
    pub(super) async fn begin(&self) {
        for registration in self.registrations() {
            if let Some(held) = &mut registration.turn.lock().await.held {
                held.rest = None;
            }
        }
    }

    fn registrations(&self) -> Vec<Arc<Registration>> {
        self.roll().by_name.values().cloned().collect()
    }

    /// Takes no more flows and lets those that are open finish, and leaves every sandbox confined and registered as it
    /// is.
    pub(super) async fn drain(&self, within: Duration) {
        let mut ending = tokio::task::JoinSet::new();
        let daemon = self.clone();
        ending.spawn(async move { daemon.before().drain(within).await });
        for registration in self.registrations() {
            ending.spawn(async move {
                let serving = registration.turn.lock().await.held.as_mut().and_then(|held| held.serving.take());
                if let Some(serving) = serving {
                    serving.drain(within).await;
                }
            });
        }
        while ending.join_next().await.is_some() {}
    }

    fn roll(&self) -> RwLockReadGuard<'_, Roll> {
        self.0.roll.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn roll_mut(&self) -> RwLockWriteGuard<'_, Roll> {
        self.0.roll.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn registration(&self, which: &Which) -> Option<Arc<Registration>> {
        match which {
            Which::Name(name) => self.roll().by_name.get(name).cloned(),
            Which::Session(session) => self.roll().by_session.get(session).cloned(),
        }
    }

    fn view(&self, registration: &Registration) -> SandboxView {
        registration.view(**self.0.usual.load())
    }

    /// As the API shows it to who asked by this name: a former session shows itself.
    fn view_of(&self, registration: &Registration, which: &Which) -> SandboxView {
        let view = self.view(registration);
        let Which::Session(id) = which else { return view };
        match view.former.iter().find(|former| former.id == *id).cloned() {
            Some(session) => SandboxView { session, ..view },
            None => view,
        }
    }

    fn known(&self, which: &Which) -> Result<Arc<Registration>, Refusal> {
        self.registration(which).ok_or(Refusal::Unknown)
    }

    fn enroll(&self, registration: &Arc<Registration>) -> Result<(), Refusal> {
        let mut roll = self.roll_mut();
        if roll.by_name.contains_key(&registration.name) {
            return Err(Refusal::Conflict(format!("there is a sandbox `{}` already", registration.name.as_str())));
        }
        if roll.by_name.len() >= limits::SANDBOXES {
            return Err(Refusal::Limit(format!("a daemon has {} sandboxes at most", limits::SANDBOXES)));
        }
        roll.created = roll.created.max(registration.number);
        for session in registration.facts().sessions() {
            roll.by_session.insert(session.clone(), Arc::clone(registration));
        }
        roll.by_name.insert(registration.name.clone(), Arc::clone(registration));
        Ok(())
    }

    fn strike(&self, registration: &Registration) {
        let mut roll = self.roll_mut();
        roll.by_name.remove(&registration.name);
        for session in registration.facts().sessions() {
            roll.by_session.remove(session);
        }
    }
}

/// The changes, one by one.
impl Daemon {
    async fn carry_out(&self, action: Action) -> Result<SandboxView, Refusal> {
        // Before anything is changed: what cannot be stored is not done.
        self.store().await?;
        match action {
            Action::Create(draft) => self.create(draft).await,
            Action::Fork(from, draft) => self.fork(&from, draft).await,
            Action::Patch(name, draft) => self.patch(&Which::Name(name), draft, Wants::Any).await,
            Action::Replace(which, push) => {
                self.patch(&which, Draft { policy: Some(push), ..Draft::default() }, Wants::Running).await
            }
            Action::Extend(which, more) => self.extend(&which, more).await,
            Action::Attach(name, spec) => {
                let draft = Draft { attachment: Some(spec), ..Draft::default() };
                self.patch(&Which::Name(name), draft, Wants::Running).await
            }
            Action::Detach(name) => self.detach(&Which::Name(name)).await,
            Action::Stop(which) => self.stop(&which).await,
            Action::Resume(name) => self.resume(&Which::Name(name)).await,
            Action::Delete(name) => self.delete(&Which::Name(name)).await,
        }
    }

    async fn fork(&self, from: &SandboxId, draft: Draft) -> Result<SandboxView, Refusal> {
        let Facts { document, limits, details, .. } = self.known(&Which::Name(from.clone()))?.facts().clone();
        let policy = draft.policy.unwrap_or_else(|| PolicyPush { text: document.text.to_string(), replaces: None });
        let limits = draft.limits.or(Some(limits));
        let details = merged(details, draft.details);
        self.create(Draft { policy: Some(policy), limits, details, ..draft }).await
    }

    async fn create(&self, draft: Draft) -> Result<SandboxView, Refusal> {
        let Draft { name, policy, attachment, limits, details } = draft;
        let document = self.compile(policy.map_or_else(|| NOTHING.to_owned(), |push| push.text)).await?;
        let name = match name {
            Some(name) => name,
            None => SandboxId::new(&format!("sandbox-{}", letters(8)?)).ok_or_else(random_failed)?,
        };
        let authority = Authority::generate(&name, SystemTime::now);
        let authority = Arc::new(authority.map_err(|error| Refusal::Failed(chain(&error)))?);
        let meter = Arc::new(Meter::new(Arc::clone(&self.0.record), Bytes::default()));
        let now = milliseconds(SystemTime::now());
        let details = merged(Map::new(), details);
        let facts = Facts {
            created_at: now,
            updated_at: now,
            session: Session::begin(session_id()?, now, timeout_of(&details), Bytes::default()),
            former: Vec::new(),
            placeholders: self.minted(&Placeholders::default(), &document)?,
            document,
            generation: 1,
            attachment: None,
            limits: limits.unwrap_or_default(),
            details,
        };
        let number = self.roll().created + 1;
        let registration = Arc::new(Registration::new(number, name, authority, meter, facts));
        let mut turn = registration.turn.lock().await;
        self.enroll(&registration)?;
        let mut facts = registration.facts().clone();
        let made = async {
            if let Some(spec) = attachment {
                facts.attachment = Some(self.attach(&registration, &mut turn, spec, &facts).await?);
            }
            self.keep(&registration, facts).await
        };
        if let Err(refusal) = made.await {
            // What it was refused for is what the caller needs to know.
            let _ = self.release(&registration, &mut turn).await;
            turn.is_gone = true;
            self.strike(&registration);
            return Err(refusal);
        }
        Ok(self.view(&registration))
    }

    async fn patch(&self, which: &Which, draft: Draft, wants: Wants) -> Result<SandboxView, Refusal> {
        let Draft { name, policy, attachment, limits, details } = draft;
        let registration = self.known(which)?;
        if name.is_some_and(|name| name != registration.name) {
            return Err(Refusal::Bad("a sandbox keeps its name".to_owned()));
        }
        let (document, replaces) = match policy {
            Some(PolicyPush { text, replaces }) => (Some(self.compile(text).await?), replaces),
            None => (None, None),
        };
        let mut turn = alive(&registration).await?;
        let mut facts = registration.facts().clone();
        if wants == Wants::Running || attachment.is_some() {
            running(&registration, which)?;
        }
        let revision = facts.document.policy.revision().in_full();
        // Who repeats a push, for its answer was lost, is told that it is in force.
        let repeated = document.as_ref().is_some_and(|document| Arc::ptr_eq(document, &facts.document));
        if !repeated && replaces.is_some_and(|replaces| !replaces.contains(&revision)) {
            return Err(Refusal::Conflict(format!("the revision in force is {revision}")));
        }
        facts.details = merged(facts.details, details);
        facts.limits = limits.unwrap_or(facts.limits);
        facts.updated_at = milliseconds(SystemTime::now());
        if let Some(document) = &document {
            facts.document = Arc::clone(document);
            facts.placeholders = self.minted(&facts.placeholders, document)?;
            facts.generation += 1;
        }
        let mut attached_now = false;
        if let Some(spec) = attachment {
            // A quarantined sandbox, or one whose namespace is gone, is detached first, and by name.
            if turn.held.is_some() {
                return Err(Refusal::Conflict("it is attached; detach it first".to_owned()));
            }
            // The policy of this very call, and not the one before, judges its first byte.
            facts.attachment = Some(self.attach(&registration, &mut turn, spec, &facts).await?);
            attached_now = true;
        }
        if let Err(refusal) = self.keep(&registration, facts).await {
            if attached_now {
                let _ = self.release(&registration, &mut turn).await;
            }
            return Err(refusal);
        }
        if let (Some(limits), Some(held)) = (limits, &turn.held) {
            held.sandbox.quota().set(&limits.or(**self.0.usual.load()));
            self.0.before.limit(&registration.session(), limits).await;
        }
        if let Some(held) = &turn.held {
            held.sandbox.hold(Arc::clone(&registration.facts().placeholders));
        }
        if let (Some(document), Some(held), false) = (document, &turn.held, attached_now)
            && !self.enforce(&registration.session(), &held.sandbox, &document).await
        {
            return Err(Refusal::Failed(
                "the policy is stored, and judges all that begins now; but some flow that was open did not heed it in \
                 time: push it again"
                    .to_owned(),
            ));
        }
        Ok(self.view(&registration))
    }

    async fn detach(&self, which: &Which) -> Result<SandboxView, Refusal> {
        let registration = self.known(which)?;
        let mut turn = alive(&registration).await?;
        let released = self.release(&registration, &mut turn).await;
        let facts = Facts { attachment: None, ..touched(&registration) };
        self.keep(&registration, facts).await?;
        released.map(|()| self.view(&registration))
    }

    async fn extend(&self, which: &Which, more: u64) -> Result<SandboxView, Refusal> {
        let registration = self.known(which)?;
        let _turn = alive(&registration).await?;
        running(&registration, which)?;
        let mut facts = touched(&registration);
        facts.session.timeout = facts.session.timeout.saturating_add(more).min(limits::JSON_INTEGER);
        self.keep(&registration, facts).await?;
        Ok(self.view(&registration))
    }

    async fn stop(&self, which: &Which) -> Result<SandboxView, Refusal> {
        let registration = self.known(which)?;
        let mut turn = alive(&registration).await?;
        let view = self.view_of(&registration, which);
        if view.session.status() == Status::Stopped {
            return Ok(view);
        }
        let released = self.release(&registration, &mut turn).await;
        let mut facts = touched(&registration);
        (facts.attachment, facts.session.stopped_at) = (None, Some(facts.updated_at));
        self.keep(&registration, facts).await?;
        released.map(|()| self.view(&registration))
    }

    async fn resume(&self, which: &Which) -> Result<SandboxView, Refusal> {
        let registration = self.known(which)?;
        let _turn = alive(&registration).await?;
        let mut facts = touched(&registration);
        if facts.session.stopped_at.is_none() {
            return Ok(self.view(&registration));
        }
        let next =
            Session::begin(session_id()?, facts.updated_at, timeout_of(&facts.details), registration.meter.bytes());
        let id = next.id.clone();
        let forgotten = facts.succeed(next, registration.meter.bytes());
        self.keep(&registration, facts).await?;
        let mut roll = self.roll_mut();
        roll.by_session.insert(id, Arc::clone(&registration));
        forgotten.map(|session| roll.by_session.remove(&session));
        Ok(self.view(&registration))
    }

    async fn delete(&self, which: &Which) -> Result<SandboxView, Refusal> {
        let registration = self.known(which)?;
        let mut turn = alive(&registration).await?;
        let released = self.release(&registration, &mut turn).await;
        let (store, name) = (self.store().await?, registration.name.clone());
        stored(tokio::task::spawn_blocking(move || store.remove(name.as_str())).await)?;
        turn.is_gone = true;
        self.strike(&registration);
        let now = milliseconds(SystemTime::now());
        let mut view = self.view(&registration);
        view.session.stopped_at.get_or_insert(now);
        (view.attachment, view.status) = (None, Status::Stopped);
        released.map(|()| view)
    }
}

/// Secrets whose values are set over the API.
impl Daemon {
    async fn change_secret_now(&self, name: SecretName, change: SecretChange) -> Result<SecretView, Refusal> {
        let store = self.store().await?;
        let (broker, shown) = (&self.0.broker, name.as_str());
        if broker.has_configured(&name) {
            return Err(Refusal::Conflict(format!("where `{shown}` comes from is what the daemon's settings say")));
        }
        let is_used = || {
            let uses = |registration: &Arc<Registration>| {
                registration.facts().document.policy.secrets().any(|used| *used == name)
            };
            self.registrations().iter().find(|registration| uses(registration)).map(|one| one.name.clone())
        };
        let used_by = |user: &SandboxId, what: &str| {
            Refusal::Conflict(format!("the policy of sandbox `{}` uses `{shown}`, so {what}", user.as_str()))
        };
        let record = record_of(&name);
        match change {
            SecretChange::Set(draft) => {
                let inline = Inline::new(draft).map_err(Refusal::Bad)?;
                let grant = inline.grant().map_err(Refusal::Bad)?;
                let before = broker.inline(&name);
                if let (true, Some(user)) = (before.as_ref() != Some(&grant), is_used()) {
                    return Err(used_by(&user, "its value can be set, but not where it may go"));
                }
                if before.is_none() && broker.inline_count() >= limits::INLINE_SECRETS {
                    let most = limits::INLINE_SECRETS;
                    return Err(Refusal::Limit(format!("{most} secrets at most are set over the API")));
                }
                let bytes = inline.to_bytes();
                stored(tokio::task::spawn_blocking(move || store.put(&record, &bytes)).await)?;
                broker.set(&name, inline, grant);
            }
            SecretChange::Delete => {
                if broker.inline(&name).is_none() {
                    let kept = "`exeat ctl secrets` lists those that are kept";
                    return Err(Refusal::Absent(format!("no secret `{shown}` was set over the API; {kept}")));
                }
                if let Some(user) = is_used() {
                    return Err(used_by(&user, "it is not deleted"));
                }
                let view = broker.view(&name);
                stored(tokio::task::spawn_blocking(move || store.remove(&record)).await)?;
                broker.forget(&name);
                self.0.shelf.grant(broker.grants());
                return view.ok_or(Refusal::Unknown);
            }
        }
        self.0.shelf.grant(broker.grants());
        broker.view(&name).ok_or(Refusal::Unknown)
    }
}

/// Takes the values up that were set over the API. One whose name the settings define now is told of, and not used.
fn restore_secrets(broker: &Broker, records: &[crate::state::Record]) -> Result<(), ServeError> {
    for (record, bytes) in records {
        let Some(name) = secret_of(record) else { continue };
        let inline = Inline::of_bytes(bytes).and_then(|inline| Some((inline.grant().ok()?, inline)));
        let Some((grant, inline)) = inline else {
            return Err(ServeError::Record(record.clone(), "this is no secret as exeat keeps one".into()));
        };
        if broker.has_configured(&name) {
            let name = name.as_str();
            tell(&format!("exeat: the secret {name} was set over the API, too; what the settings say counts\n"));
            continue;
        }
        broker.set(&name, inline, grant);
    }
    Ok(())
}

/// What changes are made of.
impl Daemon {
    async fn compile(&self, text: String) -> Result<Arc<Document>, Refusal> {
        let daemon = self.clone();
        let compiled = tokio::task::spawn_blocking(move || daemon.0.shelf.take(text)).await;
        match compiled {
            Ok(document) => document.map_err(|faults| Refusal::Policy(Box::new(faults))),
            Err(_) => Err(Refusal::Failed("the policy could not be compiled".to_owned())),
        }
    }

    /// What a sandbox holds instead of secrets under a policy: what it held before, and what is new.
    fn minted(&self, before: &Placeholders, document: &Document) -> Result<Arc<Placeholders>, Refusal> {
        let minted = before.with(&document.policy, &self.0.broker.secrets());
        minted.map(Arc::new).map_err(|error| Refusal::Failed(error.to_string()))
    }

    /// Stores what becomes of a sandbox, and only then makes it so.
    async fn keep(&self, registration: &Arc<Registration>, facts: Facts) -> Result<(), Refusal> {
        let (store, name) = (self.store().await?, registration.name.clone());
        let record = Kept::of(registration, &facts).to_bytes();
        stored(tokio::task::spawn_blocking(move || store.put(name.as_str(), &record)).await)?;
        *registration.facts() = facts;
        Ok(())
    }

    async fn store(&self) -> Result<Arc<Store>, Refusal> {
        self.0.vault.store().await.map_err(|error| Refusal::Failed(chain(&error)))
    }

    /// Judges all that is open by a policy, here and in the process before. Whether it is in force for all of it.
    async fn enforce(&self, session: &SessionId, sandbox: &Sandbox, document: &Document) -> bool {
        let generation = sandbox.replace(Arc::clone(&document.policy));
        let here = timeout(limits::SETTLE_TIME, sandbox.settled(generation));
        let (here, before) = tokio::join!(here, self.0.before.replace(session, &document.text));
        here.is_ok() && before
    }

    async fn attach(
        &self,
        registration: &Arc<Registration>,
        turn: &mut Turn,
        spec: AttachmentSpec,
        facts: &Facts,
    ) -> Result<AttachmentView, Refusal> {
        let attached = self.0.host.attach(&named(&spec)?).await.map_err(refusal)?;
        let view = self.admit(registration, turn, spec, facts, attached).await?;
        if let Some(held) = &mut turn.held {
            held.rest = None;
        }
        Ok(view)
    }

    /// Serves what was attached, from its first packet under the policy and the limits of these facts; what arrives
    /// waits for the end of the rest.
    async fn admit(
        &self,
        registration: &Arc<Registration>,
        turn: &mut Turn,
        spec: AttachmentSpec,
        facts: &Facts,
        attached: Attached,
    ) -> Result<AttachmentView, Refusal> {
        let Attached { attachment, sockets, events } = attached;
        let id = attachment.id().clone();
        if let Some(owner) = self.claim(&id, &registration.name) {
            // What stands there is the other's: it stays.
            return Err(Refusal::Conflict(format!("it is the attachment of sandbox `{}`", owner.as_str())));
        }
        let sandbox =
            Sandbox::new(registration.name.clone(), Arc::clone(&facts.document.policy), self.0.broker.secrets());
        sandbox.quota().set(&facts.limits.or(**self.0.usual.load()));
        sandbox.hold(Arc::clone(&facts.placeholders));
        let sandbox = Arc::new(sandbox);
        let (authority, meter) = (Arc::clone(&registration.authority), Arc::clone(&registration.meter));
        let tokens = self.0.issuer.as_ref().map(|issuer| Tokens::new(Arc::clone(issuer), registration.subject()));
        let (serving, rest) = match self.0.outside.serve_after_rest(&sandbox, authority, meter, tokens, sockets) {
            Ok(served) => served,
            Err(error) => {
                let detached = attachment.detach().await;
                self.roll_mut().attached.remove(&id);
                return Err(Refusal::Failed(detached.err().map_or_else(|| chain(&error), |error| chain(&error))));
            }
        };
        let (watched, released) = oneshot::channel();
        let watch = self.clone().watch(Arc::downgrade(registration), id.clone(), events, released, serving.stop());
        tokio::spawn(watch);
        turn.held = Some(Held { attachment, sandbox, serving: Some(serving), _watched: watched, rest });
        Ok(AttachmentView { spec, id: id.to_string(), state: AttachmentState::Attached })
    }

    /// Makes an identity one sandbox's; whose it is, if it is another's.
    fn claim(&self, id: &AttachmentId, name: &SandboxId) -> Option<SandboxId> {
        let mut roll = self.roll_mut();
        if let Some(owner) = roll.attached.get(id) {
            return Some(owner.clone());
        }
        roll.attached.insert(id.clone(), name.clone());
        None
    }

    /// Takes every trace of an attachment away.
    async fn release(&self, registration: &Registration, turn: &mut Turn) -> Result<(), Refusal> {
        let Some(Held { attachment, serving, .. }) = turn.held.take() else { return Ok(()) };
        let here = async {
            if let Some(serving) = serving {
                serving.end(LAST_FLOWS).await;
            }
        };
        let session = registration.session();
        tokio::join!(here, self.0.before.end(&session));
        let id = attachment.id().clone();
        let detached = match self.0.vault.has_let_go() {
            // It is another process's.
            true => {
                attachment.leave();
                Ok(())
            }
            false => attachment.detach().await,
        };
        self.roll_mut().attached.remove(&id);
        detached.map_err(|error| Refusal::Failed(format!("something of it may be left on the host: {}", chain(&error))))
    }

    /// Heeds what happens to an attachment, until that is over or it is released.
    async fn watch(
        self,
        registration: std::sync::Weak<Registration>,
        id: AttachmentId,
        mut events: Events,
        mut released: oneshot::Receiver<Infallible>,
        stop: Arc<Stop>,
    ) {
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                _ = &mut released => return,
            };
            if event == AttachmentEvent::Mended {
                report::mended(&id);
                continue;
            }
            // At once: whoever has the turn may take a while.
            stop.stop();
            let Some(registration) = registration.upgrade() else { return };
            let mut turn = registration.turn.lock().await;
            let Some(held) = turn.held.as_mut().filter(|held| *held.attachment.id() == id) else { return };
            if let Some(serving) = held.serving.take() {
                let session = registration.session();
                tokio::join!(serving.end(LAST_FLOWS), self.0.before.end(&session));
            }
            let (state, over) = match event {
                AttachmentEvent::Quarantined(reason) => (AttachmentState::Quarantined(reason), false),
                AttachmentEvent::Gone => (AttachmentState::Gone, true),
                AttachmentEvent::Mended => continue,
            };
            report::attachment(&registration.name, &state);
            if let Some(view) = &mut registration.facts().attachment {
                view.state = state;
            }
            if over {
                // What is gone has nothing left to take away that its going did not.
                let _ = self.release(&registration, &mut turn).await;
                return;
            }
        }
    }
}

/// Handing over, step by step (see `take_over`).
impl Daemon {
    /// The process before this one.
    pub(super) fn before(&self) -> &Before {
        &self.0.before
    }

    /// Waits for the changes under way, begins none, and closes the store.
    pub(super) async fn freeze(&self) -> Frozen {
        let frozen = Frozen(Arc::clone(&self.0.settings).write_owned().await);
        self.0.vault.close();
        frozen
    }

    /// The lock of the state directory once more.
    pub(super) fn lock(&self) -> io::Result<OwnedFd> {
        self.0.vault.lock()
    }

    /// Tells all that another process needs to serve the same sandboxes, and then what changes of it.
    pub(super) async fn tell_all(&self, say: &Say<Told>) -> io::Result<()> {
        for registration in self.registrations() {
            let turn = registration.turn.lock().await;
            let sockets = turn.held.as_ref().and_then(|held| held.serving.as_ref()).map(Serving::sockets);
            let sockets = sockets.transpose()?.flatten();
            let descriptors = sockets.map(|sockets| sockets.into_descriptors().collect());
            let quarantined = match registration.facts().attachment.as_ref().map(|view| &view.state) {
                Some(AttachmentState::Quarantined(reason)) => Some(reason.clone()),
                _ => None,
            };
            let session = || registration.session();
            let begin = |tally| {
                say.with(Told::Sandbox { session: session(), quarantined, tally }, descriptors.unwrap_or_default());
            };
            let (news, saying) = (session(), say.clone());
            registration.meter.follow(begin, move |item| saying.soon(Told::News { session: news.clone(), news: item }));
            if let Some(held) = &turn.held {
                let (pinned, saying) = (session(), say.clone());
                held.sandbox.pins().follow(move |address, name| {
                    saying.soon(Told::Pin { session: pinned.clone(), address, name: name.to_string() });
                });
            }
        }
        Ok(())
    }

    /// Takes nothing more that arrives, until it takes again or lets go.
    pub(super) async fn rest(&self) -> Vec<Yours> {
        let mut resting = tokio::task::JoinSet::new();
        for registration in self.registrations() {
            resting.spawn(async move {
                let mut turn = registration.turn.lock().await;
                let held = turn.held.as_mut()?;
                let serving = held.serving.as_ref()?;
                held.rest = Some(serving.stop().rest().await);
                let named = serving.dns().give_up_stand_ins().into_iter();
                Some(Yours {
                    session: registration.session(),
                    next_flow: held.sandbox.flows_begun().0,
                    stand_ins: named.map(|(name, number)| (name.to_string(), number)).collect(),
                })
            });
        }
        resting.join_all().await.into_iter().flatten().collect()
    }

    /// Takes what arrives again.
    pub(super) async fn take_again(&self) {
        for registration in self.registrations() {
            if let Some(held) = &mut registration.turn.lock().await.held {
                if let Some(serving) = &held.serving {
                    serving.dns().take_stand_ins(serving.dns().give_up_stand_ins());
                }
                held.rest = None;
            }
        }
    }

    /// Lets go of all but the flows that are open: changes, the store and its lock, and every attachment.
    pub(super) async fn let_go(&self, frozen: Frozen) -> HashMap<SessionId, Outlived> {
        self.0.vault.let_go();
        let mut outlived = HashMap::new();
        for registration in self.registrations() {
            let mut turn = registration.turn.lock().await;
            let Some(held) = &mut turn.held else { continue };
            let Some(serving) = held.serving.take() else {
                turn.held.take().into_iter().for_each(|held| held.attachment.leave());
                continue;
            };
            let (stop, (tell, ended)) = (serving.stop(), watch::channel(false));
            stop.drain();
            held.rest = None;
            outlived.insert(registration.session(), Outlived { sandbox: Arc::clone(&held.sandbox), stop, ended });
            let registration = Arc::clone(&registration);
            tokio::spawn(async move {
                serving.drain(limits::OUTLIVING_TIME).await;
                // Nobody here is told of it any more, and its rules are the other's.
                let held = registration.turn.lock().await.held.take();
                held.into_iter().for_each(|held| held.attachment.leave());
                tell.send_replace(true);
            });
        }
        drop(frozen);
        outlived
    }

    /// Judges flows that have outlived their daemon by a document; ends them if it cannot be read here. Whether that is
    /// in force for all.
    pub(super) async fn judge_again(&self, session: &SessionId, flows: &Outlived, policy: String) -> bool {
        if let (Ok(document), Some(registration)) =
            (self.compile(policy).await, self.registration(&Which::Session(session.clone())))
        {
            registration.facts().document = Arc::clone(&document);
            return self.enforce(session, &flows.sandbox, &document).await;
        }
        tokio::join!(flows.end(), self.0.before.end(session));
        true
    }

    /// Bounds flows that have outlived their daemon.
    pub(super) fn limit(&self, session: &SessionId, flows: &Outlived, limits: Limits) {
        if let Some(registration) = self.registration(&Which::Session(session.clone())) {
            registration.facts().limits = limits;
        }
        flows.sandbox.quota().set(&limits.or(**self.0.usual.load()));
    }

    /// Those of its sandboxes that are served.
    pub(super) async fn heirs(&self) -> Heirs {
        let mut heirs = Vec::new();
        for registration in self.registrations() {
            let turn = registration.turn.lock().await;
            if let Some(Held { sandbox, serving: Some(serving), .. }) = &turn.held {
                heirs.push((registration.session(), Heir::new(Arc::clone(sandbox), Arc::clone(serving.dns()))));
            }
        }
        heirs.into_iter().collect()
    }

    /// What the process before tells of a sandbox's flows.
    pub(super) fn heed(&self, session: &SessionId, news: News) {
        if let Some(registration) = self.registration(&Which::Session(session.clone())) {
            registration.meter.heed(news);
        }
    }

    /// A line of the record of the process before, for those who follow it.
    pub(super) fn pass(&self, line: &str) {
        self.0.lines.pass(line.into());
    }

    /// Ends the following of the audit record for all who follow it.
    pub(super) fn dismiss_followers(&self) {
        self.0.lines.dismiss();
    }
}

/// While it is held, no change is under way, and none begins.
pub(super) struct Frozen(#[expect(dead_code, reason = "it is held")] OwnedRwLockWriteGuard<()>);

impl Act for Daemon {
    async fn act(&self, action: Action) -> Result<SandboxView, Refusal> {
        let daemon = self.clone();
        // A task of its own: whoever asked may go away in the middle.
        let done = tokio::spawn(async move {
            let _settings = daemon.0.settings.read().await;
            daemon.carry_out(action).await
        });
        let done = done.await;
        done.unwrap_or_else(|_| Err(Refusal::Failed("it could not be carried out".to_owned())))
    }

    fn find(&self, which: &Which) -> Option<SandboxView> {
        self.registration(which).map(|registration| self.view_of(&registration, which))
    }

    fn list(&self) -> Vec<SandboxView> {
        let mut all: Vec<_> = self.roll().by_name.values().cloned().collect();
        all.sort_by_key(|registration| registration.number);
        all.iter().map(|registration| self.view(registration)).collect()
    }

    fn explain(&self, which: &Which, question: &Question) -> Option<Explanation> {
        let document = Arc::clone(&self.registration(which)?.facts().document);
        Some(document.policy.explain(question, &self.0.outside.protected()))
    }

    fn flows(&self, which: &Which) -> Option<Vec<FlowView>> {
        self.registration(which).map(|registration| registration.meter.open())
    }

    fn trust(&self, which: &Which) -> Option<TrustView> {
        let registration = self.registration(which)?;
        let authority = Arc::clone(&registration.authority);
        let Facts { placeholders, document, .. } = registration.facts().clone();
        let bundle = bundle::trust_bundle(&system_bundle(), &authority);
        Some(TrustView {
            certificate: authority.certificate_pem(),
            bundle: String::from_utf8_lossy(&bundle).into_owned(),
            variables: environment::trust()
                .map(owned)
                .chain(placeholders.variables(&document.policy).map(owned))
                .collect(),
            path: BUNDLE.to_owned(),
        })
    }

    fn secrets(&self) -> Vec<SecretView> {
        self.0.broker.views()
    }

    async fn change_secret(&self, name: SecretName, change: SecretChange) -> Result<SecretView, Refusal> {
        let daemon = self.clone();
        let done = tokio::spawn(async move {
            // Nothing is compiled meanwhile.
            let _all = daemon.0.settings.write().await;
            daemon.change_secret_now(name, change).await
        });
        done.await.unwrap_or_else(|_| Err(Refusal::Failed("it could not be carried out".to_owned())))
    }

    fn events(&self) -> broadcast::Receiver<Arc<str>> {
        self.0.lines.subscribe()
    }

    fn metrics(&self) -> String {
        let all: Vec<_> = self.roll().by_name.values().cloned().collect();
        let open = all.iter().map(|registration| registration.meter.open_count()).sum();
        // Asked for from outside the runtime, it has none.
        let tasks = tokio::runtime::Handle::try_current().map_or(0, |runtime| runtime.metrics().num_alive_tasks());
        self.0.metrics.render(all.len(), open, tasks, secret::unlocked())
    }

    fn jwks(&self) -> Option<serde_json::Value> {
        self.0.issuer.as_ref().map(|issuer| issuer.jwks())
    }

    fn ready(&self) -> Result<(), String> {
        // It listens only once it has taken up all that it had.
        Ok(())
    }
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// A sandbox's turn, unless it was deleted meanwhile.
async fn alive(registration: &Registration) -> Result<tokio::sync::MutexGuard<'_, Turn>, Refusal> {
    let turn = registration.turn.lock().await;
    if turn.is_gone { Err(Refusal::Unknown) } else { Ok(turn) }
}

/// What a change wants of the sandbox.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    /// A session that runs: the one that is named.
    Running,
    /// Nothing.
    Any,
}

/// Refuses a session that has ended, also a former one of a sandbox that runs.
fn running(registration: &Registration, which: &Which) -> Result<(), Refusal> {
    let Facts { session, .. } = &*registration.facts();
    let is_former = matches!(which, Which::Session(id) if *id != session.id);
    if is_former || session.stopped_at.is_some() { Err(Refusal::Stopped) } else { Ok(()) }
}

/// Details with others over them; `null` takes one away.
fn merged(mut details: Map<String, Value>, said: Map<String, Value>) -> Map<String, Value> {
    details.extend(said);
    details.retain(|_, value| !value.is_null());
    details
}

/// How long a session that begins now is to last, in milliseconds.
fn timeout_of(details: &Map<String, Value>) -> u64 {
    details.get("timeout").and_then(Value::as_u64).unwrap_or(USUAL_TIMEOUT)
}

fn session_id() -> Result<SessionId, Refusal> {
    Ok(SessionId(format!("sbx_{}", letters(24)?)))
}

/// What is said of a sandbox, changed now.
fn touched(registration: &Registration) -> Facts {
    let facts = registration.facts().clone();
    Facts { updated_at: milliseconds(SystemTime::now()), ..facts }
}

/// What is to be attached, as attaching names it.
fn named(spec: &AttachmentSpec) -> Result<Spec, Refusal> {
    match spec {
        AttachmentSpec::Netns(path) => Ok(Spec::Netns { path: path.clone(), taps: Vec::new() }),
        AttachmentSpec::Interface { name, addresses } => match Device::new(name, addresses.iter().copied()) {
            Ok(device) => Ok(Spec::Interface(device)),
            Err(fault) => Err(Refusal::Bad(fault.to_string())),
        },
    }
}

fn refusal(error: AttachError) -> Refusal {
    match &error {
        AttachError::Refused(attach::Refusal::Taken) => Refusal::Conflict(chain(&error)),
        _ => Refusal::Attach(chain(&error)),
    }
}

fn stored<E: Error>(done: Result<Result<(), E>, tokio::task::JoinError>) -> Result<(), Refusal> {
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Refusal::Failed(chain(&error))),
        Err(_) => Err(Refusal::Failed("the change could not be stored".to_owned())),
    }
}

fn sentence(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Absent(text)
        | Refusal::Conflict(text)
        | Refusal::Bad(text)
        | Refusal::Attach(text)
        | Refusal::Limit(text)
        | Refusal::Failed(text) => text.clone(),
        Refusal::Policy(faults) => faults.to_string(),
        Refusal::Unknown => "there is no such sandbox".to_owned(),
        Refusal::Stopped => "it was stopped".to_owned(),
    }
}

/// Random lower-case letters and digits that nobody guesses.
fn letters(count: usize) -> Result<String, Refusal> {
    const LETTERS: [char; 32] = [
        'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v',
        'w', 'x', 'y', 'z', '2', '3', '4', '5', '6', '7',
    ];
    let mut random = vec![0; count];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| random_failed())?;
    Ok(random.iter().filter_map(|byte| LETTERS.get(usize::from(byte % 32))).collect())
}

fn random_failed() -> Refusal {
    Refusal::Failed("no random numbers are to be had".to_owned())
}
