//! The daemon: settings read, parts wired, signals heeded.
//!
//! The life of one, in order: settings become a [`Config`]; the store is opened, which no second daemon can; what it
//! holds is taken up again; only then the service manager is told that the daemon is ready. `SIGTERM` drains,
//! and leaves every sandbox confined, so that the next daemon takes it up again.

mod audit_log;
mod credentials;
mod daemon;
mod listeners;
mod meter;
mod notify;
mod registration;
mod reload;
mod report;
mod shelf;
mod socket;

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::audit_log::{AuditLog, Sink};
pub use self::credentials::CredentialError;
pub use self::daemon::Daemon;
use self::listeners::{Listeners, Locks};
use self::notify::Manager;
use self::reload::Running;
use super::{Exit, chain, run, say, tell};
use crate::attach::AttachError;
use crate::config::{Audit, Config, ConfigError, Flags, Home, SAMPLE, resolver};
use crate::control;
use crate::limits;
use crate::state::StateError;

/// How long flows may take to finish when the daemon ends.
const DRAIN: Duration = Duration::from_secs(10);

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
    /// Ask this resolver, in place of those of the settings and of the host; may be repeated.
    #[arg(long = "resolver", value_name = "ADDRESS", value_parser = resolver)]
    resolvers: Vec<SocketAddr>,
    /// Say whether the settings can be used, and end.
    #[arg(long)]
    check_config: bool,
    /// Print a file with every setting, and end.
    #[arg(long)]
    sample_config: bool,
    /// Print the OpenAPI document of the control API, and end.
    #[arg(long)]
    openapi: bool,
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
    Ok(Flags {
        state: arguments.state.as_ref().map(here).transpose()?,
        socket: arguments.socket.as_ref().map(here).transpose()?,
        audit: audit.transpose()?,
        allow_protected: arguments.allow_protected.clone(),
        openable: arguments.openable.clone(),
        resolvers: arguments.resolvers.clone(),
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
    let served = runtime.block_on(async {
        let signals = Signals::catch().map_err(ServeError::own("catch signals"))?;
        let daemon = Daemon::open(&config, Arc::clone(&audit) as _).await?;
        // Nobody else serves this state directory by now, so what stands at the socket's path is nobody's.
        let listeners = Listeners::open(&config, locks).await?;
        let (doors, mut api) = listeners.serve(&control::router(Arc::new(daemon.clone())), &daemon);
        let running = Running { arguments, started: config, daemon, doors, audit: &audit };
        let manager = Manager::of_environment();
        manager.tell("READY=1");
        attend(&running, signals, &manager).await;
        manager.tell("STOPPING=1");
        api.abort_all();
        running.daemon.drain(DRAIN).await;
        Ok(())
    });
    runtime.shutdown_timeout(DRAIN);
    served.and(audit.close().map_err(ServeError::own("write the audit record")))
}

/// Heeds signals and the service manager until the daemon is to end.
async fn attend(running: &Running<'_>, mut signals: Signals, manager: &Manager) {
    loop {
        tokio::select! {
            _ = signals.end.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.reload.recv() => running.reload().await,
            () = manager.watchdog() => manager.tell("WATCHDOG=1"),
        }
    }
}

/// The signals that the daemon heeds.
struct Signals {
    end: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self {
            end: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
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
            Self::Own(what, _) => write!(f, "cannot {what}"),
        }
    }
}

impl Error for ServeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreadable(_, error) | Self::Unwritable(_, error) | Self::Address(_, error) => Some(error),
            Self::Config(error) => error.source(),
            Self::Credential(error) => error.source(),
            Self::Store(error) => error.source(),
            Self::Host(error) => error.source(),
            Self::Record(_, error) | Self::Own(_, error) => Some(error.as_ref()),
        }
    }
}
