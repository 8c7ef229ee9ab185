//! The daemon: settings read, parts wired, signals heeded.
//!
//! The life of one, in order: settings become a [`Config`]; the store is opened, which no second daemon can; what it
//! holds is taken up again; only then the service manager is told that the daemon is ready. `SIGTERM` drains,
//! and leaves every sandbox confined, so that the next daemon takes it up again; `SIGUSR2` starts a successor, which
//! takes over without a gap (see `take_over`).

mod audit_log;
mod broker;
pub(super) mod credentials;
mod daemon;
mod issuer;
mod listeners;
mod meter;
mod notify;
mod registration;
mod reload;
mod report;
mod shelf;
mod socket;
mod take_over;
mod upgrade;
mod vault;

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::future::pending;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use self::audit_log::{AuditLog, Sink};
pub use self::credentials::CredentialError;
pub use self::daemon::Daemon;
use self::listeners::{Listeners, Locks};
use self::notify::Manager;
use self::reload::Running;
use self::take_over::handing::{HandedOver, hand_over};
use self::take_over::receiving::{self, Estate};
use self::take_over::wire::Place;
use self::upgrade::{Program, Successor};
use super::{Exit, chain, run, say, tell};
use crate::attach::AttachError;
use crate::config::{Audit, Config, ConfigError, Flags, Home, SAMPLE};
use crate::control;
use crate::limits;
use crate::resolve::NameServer;
use crate::state::StateError;

/// How long flows may take to finish when the daemon ends.
const DRAIN: Duration = Duration::from_secs(10);

/// The credential that is the key of the store.
const KEY: &str = "exeat.key";

/// A hardened unit of systemd's.
const UNIT: &str = include_str!("serve/exeat.service");

/// Options of `exeat serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArguments {
    /// Read settings from this file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep registrations and policies in this folder, whatever the settings say.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Listen at this Unix socket, whatever the settings say.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Write the audit record there, whatever the settings say: none, stdout, journal, or a file.
    #[arg(long, value_name = "WHERE")]
    audit: Option<PathBuf>,
    /// Take a range out of the protected ones, beside those of the settings; may be repeated.
    #[arg(long, value_name = "CIDR")]
    allow_protected: Vec<IpNet>,
    /// Let policies open a private range, beside those of the settings; may be repeated.
    #[arg(long, value_name = "CIDR")]
    openable: Vec<IpNet>,
    /// Ask this resolver, over TLS if it has a name, in place of those of settings and host; may be repeated.
    #[arg(long = "resolver", value_name = "ADDRESS[#NAME]")]
    resolvers: Vec<NameServer>,
    /// Take over from the daemon that has the state directory now, without a gap; it goes on until its flows are
    /// finished. Where there is none, start.
    #[arg(long)]
    take_over: bool,
    /// Say whether the settings can be used, and end.
    #[arg(long)]
    check_config: bool,
    /// Print a file with every setting, and end.
    #[arg(long)]
    sample_config: bool,
    /// Print the OpenAPI document of the control API, and end.
    #[arg(long)]
    openapi: bool,
    /// Print a unit file for systemd, and end.
    #[arg(long)]
    unit: bool,
}

/// Runs the verb.
#[must_use]
pub fn serve(arguments: &ServeArguments) -> Exit {
    if arguments.sample_config {
        say(SAMPLE);
        return Exit::Success;
    }
    if arguments.openapi {
        say(&format!("{:#}\n", control::openapi::<Daemon>()));
        return Exit::Success;
    }
    if arguments.unit {
        say(UNIT);
        return Exit::Success;
    }
    let done = settings(arguments).and_then(|config| {
        let locks = Locks::read(&config)?;
        if arguments.check_config {
            say("the settings can be used\n");
            return Ok(());
        }
        run::become_unreadable().map_err(ServeError::own("keep its memory from others"))?;
        run::raise_descriptor_limit().map_err(ServeError::own("raise the limit of descriptors"))?;
        run_daemon(arguments, config, locks)
    });
    match done {
        Ok(()) => Exit::Success,
        Err(error) => {
            tell(&format!("exeat: {}\n", chain(&error)));
            Exit::Failed
        }
    }
}

fn settings(arguments: &ServeArguments) -> Result<Config, ServeError> {
    let home = home(|variable| std::env::var_os(variable).map(PathBuf::from));
    let path = arguments.config.as_deref();
    let text = path.map(|path| read(path).map_err(|error| ServeError::Unreadable(path.to_owned(), error)));
    let text = text.transpose()?;
    Config::new(path.zip(text.as_deref()), flags(arguments)?, &home).map_err(ServeError::Config)
}

/// What the command line says, with its paths as they are from here.
fn flags(arguments: &ServeArguments) -> Result<Flags, ServeError> {
    let here = |path: &PathBuf| {
        std::path::absolute(path).map_err(|error| ServeError::Own("tell what a path means here", error.into()))
    };
    let audit = arguments.audit.as_ref().map(|audit| match audit.to_str().and_then(|text| Audit::parse(text).ok()) {
        Some(audit) => Ok(audit),
        None => Ok(Audit::File { path: here(audit)?, rotate: None }),
    });
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(Flags {
        state: arguments.state.as_ref().map(here).transpose()?,
        socket: arguments.socket.as_ref().map(here).transpose()?,
        audit: audit.transpose()?,
        allow_protected: arguments.allow_protected.clone(),
        openable: arguments.openable.clone(),
        resolvers: arguments.resolvers.clone(),
        key: credentials.as_ref().map(|folder| folder.join(KEY)).filter(|key| key.exists()),
        credentials,
    })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let most = u64::try_from(limits::CONFIG_BYTES).unwrap_or(u64::MAX);
    File::open(path)?.take(most.saturating_add(1)).read_to_string(&mut text)?;
    Ok(text)
}

/// Whose daemon it is (XDG Base Directory Specification, for whoever is not root).
pub(super) fn home(variable: impl Fn(&str) -> Option<PathBuf>) -> Home {
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        return Home::System;
    }
    let set = |name| variable(name).filter(|path| path.is_absolute());
    let below_home = || set("HOME").unwrap_or_else(|| "/nonexistent".into()).join(".local/state");
    Home::User {
        state: set("XDG_STATE_HOME").unwrap_or_else(below_home),
        runtime: set("XDG_RUNTIME_DIR").unwrap_or_else(|| format!("/run/user/{uid}").into()),
    }
}

fn run_daemon(arguments: &ServeArguments, config: Config, locks: Locks) -> Result<(), ServeError> {
    let sink = Sink::open(&config.audit).map_err(ServeError::own("write the audit record"))?;
    let audit = Arc::new(AuditLog::new(sink));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(ServeError::own("start the runtime"))?;
    let served = runtime.block_on(live(arguments, config, locks, &audit));
    runtime.shutdown_timeout(DRAIN);
    served.and(audit.close().map_err(ServeError::own("write the audit record")))
}

/// From its first look at the state directory to its last flow.
async fn live(
    arguments: &ServeArguments,
    config: Config,
    locks: Locks,
    audit: &Arc<AuditLog>,
) -> Result<(), ServeError> {
    let mut signals = Signals::catch().map_err(ServeError::own("catch signals"))?;
    let program = Program::of_this_process().map_err(ServeError::own("find its own program"))?;
    let mut estate = match arguments.take_over {
        true => receiving::ask(&config.state).await?,
        false => Estate::default(),
    };
    let daemon = Daemon::open_after(&config, Arc::clone(audit) as _, &mut estate).await?;
    // Nobody else serves this state directory by now, or it has left us its listeners: what else stands at the
    // socket's path is nobody's.
    let (mut listeners, doors) = Listeners::open(&config, locks, &daemon, &mut estate.control).await?;
    let stale: Vec<_> = estate.control.drain().map(|(place, _)| place).collect();
    let charge = estate.take_charge(&daemon, audit).await?;
    listeners.serve();
    charge.undivided(&daemon).await;
    let successors = settle(&config, &stale);
    let manager = Manager::of_environment();
    manager.tell("READY=1");
    let running = Running { arguments, started: config, daemon: daemon.clone(), doors, audit };
    let handed_over = async {
        match successors {
            Some(successors) => hand_over(successors, &daemon, &mut listeners).await,
            None => pending().await,
        }
    };
    match attend(&running, &mut signals, &manager, &program, handed_over).await {
        None => {
            manager.tell("STOPPING=1");
            listeners.close();
            daemon.drain(DRAIN).await;
        }
        Some(handed_over) => {
            // Only whom it knows for the main process may say that it is ready.
            manager.tell(&format!("MAINPID={}", handed_over.successor()));
            outlive(handed_over, signals, &daemon, audit).await;
        }
    }
    Ok(())
}

/// Makes what stands in the file system this daemon's own, once it alone is in charge. Gives the socket at which a
/// successor asks; without one the daemon serves all the same.
fn settle(config: &Config, stale: &[Place]) -> Option<UnixListener> {
    let tell_of = |what: &str, error: &io::Error| tell(&format!("exeat: {what}: {error}\n"));
    if let Err(error) = socket::own(&config.control) {
        tell_of("the control socket is not as the settings say", &error);
    }
    for place in stale {
        let Place::Unix(path) = place else { continue };
        if let Err(error) = std::fs::remove_file(path) {
            tell_of("the control socket of the daemon before is left", &error);
        }
    }
    let listener = socket::listen_at(&take_over::socket(&config.state), 0o600, None);
    listener.and_then(UnixListener::from_std).inspect_err(|error| tell_of("no successor can take over", error)).ok()
}

/// Heeds signals, the service manager and successors until the daemon is to end, or has handed over.
async fn attend(
    running: &Running<'_>,
    signals: &mut Signals,
    manager: &Manager,
    program: &Program,
    handed_over: impl Future<Output = HandedOver>,
) -> Option<HandedOver> {
    let mut handed_over = pin!(handed_over);
    let mut successor: Option<Successor> = None;
    // Beside the rest, for it waits for a successor that is taking over.
    let mut reloading: Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = None;
    loop {
        tokio::select! {
            handed_over = &mut handed_over => return Some(handed_over),
            _ = signals.end.recv() => return None,
            _ = signals.interrupt.recv() => return None,
            _ = signals.reload.recv(), if reloading.is_none() => reloading = Some(Box::pin(running.reload())),
            () = done(&mut reloading) => reloading = None,
            _ = signals.succeed.recv(), if successor.is_none() => successor = start(manager, program),
            status = ended(&mut successor) => {
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                tell(&format!("exeat: the successor has ended ({status}); this daemon goes on\n"));
                manager.tell("READY=1");
                successor = None;
            }
            () = manager.watchdog() => manager.tell("WATCHDOG=1"),
        }
    }
}

fn start(manager: &Manager, program: &Program) -> Option<Successor> {
    manager.tell(&notify::reloading());
    let started = program.start();
    started
        .inspect_err(|error| {
            tell(&format!("exeat: no successor can be started: {error}\n"));
            manager.tell("READY=1");
        })
        .ok()
}

/// Ready when it is done; never, where there is nothing to do.
async fn done(work: &mut Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>>) {
    match work {
        Some(work) => work.await,
        None => pending().await,
    }
}

/// Ready when the successor has ended; never, where there is none.
async fn ended(successor: &mut Option<Successor>) -> io::Result<ExitStatus> {
    match successor {
        Some(successor) => successor.ended().await,
        None => pending().await,
    }
}

/// Lets the flows finish that a successor does not have.
async fn outlive(handed_over: HandedOver, mut signals: Signals, daemon: &Daemon, audit: &AuditLog) {
    let (hurry, hurried) = mpsc::channel(1);
    let heeded = async {
        loop {
            tokio::select! {
                _ = signals.end.recv() => drop(hurry.try_send(DRAIN)),
                _ = signals.interrupt.recv() => drop(hurry.try_send(DRAIN)),
                // The settings, and whoever comes next, are its successor's business.
                _ = signals.reload.recv() => {}
                _ = signals.succeed.recv() => {}
            }
        }
    };
    tokio::select! {
        () = handed_over.outlive(daemon, audit, hurried) => {}
        () = heeded => {}
    }
}

/// The signals that the daemon heeds.
struct Signals {
    end: Signal,
    interrupt: Signal,
    reload: Signal,
    succeed: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self {
            end: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            succeed: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Why the daemon does not serve.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The settings cannot be read.
    Unreadable(PathBuf, io::Error),
    /// A folder cannot be made.
    Unwritable(PathBuf, io::Error),
    /// The settings mean nothing.
    Config(ConfigError),
    /// The store cannot be used.
    Store(StateError),
    /// This record of the store cannot be used.
    Record(String, Box<dyn Error + Send + Sync>),
    /// A file that the settings name cannot be used.
    Credential(CredentialError),
    /// The control API cannot listen at this address.
    Address(SocketAddr, io::Error),
    /// The running daemon does not hand over, for this reason.
    Refused(String),
    /// Nothing can be attached on this host.
    Host(AttachError),
    /// Something of exeat's own failed.
    Own(&'static str, Box<dyn Error + Send + Sync>),
}

impl ServeError {
    /// For `map_err`: something of exeat's own that failed while doing `what`.
    fn own<E: Into<Box<dyn Error + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Own(what, error.into())
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, _) => write!(f, "cannot read {}", path.display()),
            Self::Unwritable(path, _) => write!(f, "cannot make {}", path.display()),
            Self::Config(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Host(error) => error.fmt(f),
            Self::Record(name, _) => write!(f, "the sandbox `{name}` cannot be taken up from the store"),
            Self::Credential(error) => error.fmt(f),
            Self::Address(address, _) => write!(f, "cannot listen at {address}"),
            Self::Refused(why) => write!(f, "nothing is taken over: {why}"),
            Self::Own(what, _) => write!(f, "cannot {what}"),
        }
    }
}

impl Error for ServeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreadable(_, error) | Self::Unwritable(_, error) | Self::Address(_, error) => Some(error),
            Self::Refused(_) => None,
            Self::Config(error) => error.source(),
            Self::Credential(error) => error.source(),
            Self::Store(error) => error.source(),
            Self::Host(error) => error.source(),
            Self::Record(_, error) | Self::Own(_, error) => Some(error.as_ref()),
        }
    }
}
