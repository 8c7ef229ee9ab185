//! The successor's side of a take-over.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::before::Link;
use super::talk::Talk;
use super::wire::{Answer, Hello, Place, Said, Told, Yours};
use crate::attach::Sockets;
use crate::cli::channel::Channel;
use crate::cli::serve::audit_log::AuditLog;
use crate::cli::serve::meter::{News, Tally};
use crate::cli::serve::{Daemon, ServeError};
use crate::cli::tell;
use crate::control::action::SessionId;
use crate::dns::Dns;
use crate::flow::{Domain, FlowId};
use crate::limits;
use crate::sandbox::Sandbox;
use crate::state::Lock;

/// What the one before has left, as far as it has come.
#[derive(Default)]
pub(in crate::cli::serve) struct Estate {
    /// Whether a daemon was asked to hand over.
    pub(in crate::cli::serve) is_asked_for: bool,
    pub(in crate::cli::serve) lock: Option<Lock>,
    pub(in crate::cli::serve) control: HashMap<Place, OwnedFd>,
    pub(in crate::cli::serve) sandboxes: HashMap<SessionId, Left>,
    /// Which sandboxes came with sockets.
    served: Vec<SessionId>,
    talk: Option<(Talk<Said, Told>, Arc<Link>)>,
}

/// What it has left of one sandbox.
#[derive(Default)]
pub(in crate::cli::serve) struct Left {
    pub(in crate::cli::serve) sockets: Option<Sockets>,
    pub(in crate::cli::serve) quarantined: Option<String>,
    pub(in crate::cli::serve) tally: Option<Tally>,
    pub(in crate::cli::serve) pins: Vec<(IpAddr, Domain)>,
}

/// Asks the daemon of this state directory to hand over, and collects what it leaves. Nothing is left where nobody
/// serves it, or whoever did has died.
///
/// # Errors
/// It goes on serving.
pub(in crate::cli::serve) async fn ask(state: &Path) -> Result<Estate, ServeError> {
    let own = |error: io::Error| ServeError::own("take over from the running daemon")(error);
    let nothing = || Estate { is_asked_for: true, ..Estate::default() };
    let Some(stream) = reach(&super::socket(state)).map_err(own)? else {
        tell(&format!("exeat: nobody serves {}, so there is nothing to take over\n", state.display()));
        return Ok(nothing());
    };
    let (process, _) = super::peer(&stream).map_err(own)?;
    let greeted = tokio::task::spawn_blocking(move || greet(stream)).await;
    let channel = match greeted.map_err(io::Error::other).and_then(|greeted| greeted).map_err(own)? {
        Some(Ok(channel)) => channel,
        Some(Err(why)) => return Err(ServeError::Refused(why)),
        None => return Ok(nothing()),
    };
    let talk = Talk::begin(channel).map_err(own)?;
    let link = Arc::new(Link::new(&talk, process));
    let mut estate = Estate { talk: Some((talk, link)), ..nothing() };
    estate.collect().await?;
    Ok(estate)
}

/// `None` where nobody listens.
fn reach(path: &Path) -> io::Result<Option<UnixStream>> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => Ok(Some(socket.into())),
        Err(nix::Error::ENOENT | nix::Error::ECONNREFUSED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `None` where it died meanwhile.
fn greet(stream: UnixStream) -> io::Result<Option<Result<Channel, String>>> {
    stream.set_read_timeout(Some(limits::TAKE_OVER_REST))?;
    let channel = Channel::new(stream);
    channel.send(&Hello::of_this(), &[])?;
    let Some((answer, _)) = channel.receive::<Answer>()? else { return Ok(None) };
    channel.socket().set_read_timeout(None)?;
    Ok(Some(match answer {
        Answer::Welcome => Ok(channel),
        Answer::Refused(why) => Err(why),
    }))
}

impl Estate {
    async fn collect(&mut self) -> Result<(), ServeError> {
        while let Some((told, descriptors)) = self.hear(limits::TAKE_OVER_TIME).await? {
            match told {
                Told::Whole => return Ok(()),
                told => self.keep(told, descriptors),
            }
        }
        Ok(())
    }

    /// What it says next; `None` when it has died. One that lives and says nothing is left to serve.
    async fn hear(&mut self, within: Duration) -> Result<Option<(Told, Vec<OwnedFd>)>, ServeError> {
        let Some((talk, _)) = &mut self.talk else { return Ok(None) };
        match timeout(within, talk.hear()).await {
            Ok(Some(heard)) => return Ok(Some(heard)),
            Ok(None) => {}
            Err(_) => return Err(ServeError::Refused("the running daemon does not answer".to_owned())),
        }
        self.talk = None;
        tell("exeat: the running daemon has ended meanwhile; what it served is taken up\n");
        Ok(None)
    }

    fn keep(&mut self, told: Told, descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        match told {
            Told::Lock => self.lock = descriptors.next().map(Lock::handed_over),
            Told::Control(place) => self.control.extend(descriptors.next().map(|listener| (place, listener))),
            Told::Sandbox { session, quarantined, tally } => {
                let sockets = Sockets::of_descriptors(&mut descriptors);
                self.served.extend(sockets.is_some().then(|| session.clone()));
                self.sandboxes.insert(session, Left { sockets, quarantined, tally: Some(tally), pins: Vec::new() });
            }
            Told::Pin { session, address, name } => {
                let left = self.sandboxes.get_mut(&session);
                if let (Some(left), Some(name)) = (left, Domain::parse(&name).ok()) {
                    left.pins.push((address, name));
                }
            }
            Told::News { session, news } => {
                if let Some(tally) = self.sandboxes.get_mut(&session).and_then(|left| left.tally.as_mut()) {
                    tally.heed(&news);
                }
            }
            // Not said at this time.
            Told::Lines(_) | Told::Whole | Told::Yours(_) | Told::Retired | Told::Done { .. } => {}
        }
    }

    /// Takes charge, for a daemon that has taken up all and takes nothing yet: when this returns, it takes flows, and
    /// changes may be made.
    ///
    /// # Errors
    /// The one before goes on serving; the daemon is to be dropped.
    pub(in crate::cli::serve) async fn take_charge(
        mut self,
        daemon: &Daemon,
        audit: &Arc<AuditLog>,
    ) -> Result<Charge, ServeError> {
        let mut heirs = daemon.heirs().await;
        if let Some((talk, _)) = &self.talk {
            talk.say.soon(Said::Ready);
        }
        while let Some((told, _)) = self.hear(limits::TAKE_OVER_REST).await? {
            match told {
                Told::Yours(yours) => {
                    yours.into_iter().for_each(|yours| heirs.take(yours));
                    break;
                }
                told => heirs.heed(daemon, told),
            }
        }
        daemon.begin().await;
        let Some((talk, link)) = self.talk else { return Ok(Charge::default()) };
        talk.say.soon(Said::Serving(daemon.judging()));
        talk.say.all().await;
        daemon.before().begin(Arc::clone(&link));
        let (retired, is_retired) = oneshot::channel();
        let not_served = self.served.into_iter().filter(|session| !heirs.0.contains_key(session)).collect();
        tokio::spawn(listen(daemon.clone(), Arc::clone(audit), heirs, talk, link, retired));
        Ok(Charge { retired: Some(is_retired), not_served })
    }
}

/// A daemon is in charge, and the one before may still have flows.
#[derive(Default)]
pub(in crate::cli::serve) struct Charge {
    retired: Option<oneshot::Receiver<()>>,
    not_served: Vec<SessionId>,
}

impl Charge {
    /// Ready when the one before has let all go but its flows, or is gone.
    pub(in crate::cli::serve) async fn undivided(self, daemon: &Daemon) {
        // What could not be taken up reaches nothing here, and so it must not there.
        for session in &self.not_served {
            daemon.before().end(session).await;
        }
        if let Some(retired) = self.retired {
            // It is told, or dropped: either way the one before is no longer in charge.
            let _ = retired.await;
        }
    }
}

/// Heeds what the one before tells, to its end.
async fn listen(
    daemon: Daemon,
    audit: Arc<AuditLog>,
    heirs: Heirs,
    mut talk: Talk<Said, Told>,
    link: Arc<Link>,
    retired: oneshot::Sender<()>,
) {
    let mut retired = Some(retired);
    while let Some((told, _)) = talk.hear().await {
        match told {
            // Nobody may be waiting for it.
            Told::Retired => drop(retired.take().map(|retired| retired.send(()))),
            Told::Done { order, in_force } => link.done(order, in_force),
            Told::Lines(lines) => {
                lines.lines().for_each(|line| daemon.pass(line));
                audit.write(lines);
            }
            told => heirs.heed(&daemon, told),
        }
    }
    daemon.before().end_of_talk();
    for (session, heir) in heirs.0 {
        daemon.heed(&session, News::Lost(heir.first_flow));
    }
}

/// Sandboxes that were taken up with what another process has left of them.
pub(in crate::cli::serve) struct Heirs(HashMap<SessionId, Heir>);

pub(in crate::cli::serve) struct Heir {
    pub(in crate::cli::serve) sandbox: Arc<Sandbox>,
    pub(in crate::cli::serve) dns: Arc<Dns>,
    /// Flows with lower numbers are the other's.
    first_flow: u64,
}

impl Heir {
    pub(in crate::cli::serve) fn new(sandbox: Arc<Sandbox>, dns: Arc<Dns>) -> Self {
        Self { sandbox, dns, first_flow: 0 }
    }
}

impl FromIterator<(SessionId, Heir)> for Heirs {
    fn from_iter<I: IntoIterator<Item = (SessionId, Heir)>>(heirs: I) -> Self {
        Self(heirs.into_iter().collect())
    }
}

impl Heirs {
    fn take(&mut self, yours: Yours) {
        let Yours { session, next_flow, stand_ins } = yours;
        let Some(heir) = self.0.get_mut(&session) else { return };
        heir.first_flow = next_flow;
        heir.sandbox.begin_flows_at(FlowId(next_flow));
        let named = stand_ins.into_iter().filter_map(|(name, number)| Some((Domain::parse(&name).ok()?, number)));
        heir.dns.take_stand_ins(named.collect());
    }

    fn heed(&self, daemon: &Daemon, told: Told) {
        match told {
            Told::Pin { session, address, name } => {
                if let (Some(heir), Ok(name)) = (self.0.get(&session), Domain::parse(&name)) {
                    heir.sandbox.pins().pin(address, &name);
                }
            }
            Told::News { session, news } => daemon.heed(&session, news),
            // Not said at this time.
            Told::Lock | Told::Control(_) | Told::Sandbox { .. } | Told::Whole | Told::Yours(_) => {}
            Told::Lines(_) | Told::Retired | Told::Done { .. } => {}
        }
    }
}
