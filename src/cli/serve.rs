//! The daemon: settings read, parts wired, signals heeded.
//!
//! The life of one, in order: settings become a [`Config`]; the store is opened, which no second daemon can; what it
//! holds is taken up again; only then the service manager is told that the daemon is ready. `SIGTERM` drains,
//! and leaves every sandbox confined, so that the next daemon takes it up again.

mod daemon;
mod meter;
mod notify;
mod registration;
mod report;
mod shelf;
mod socket;

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::future::IntoFuture;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use self::daemon::Daemon;
use self::notify::Manager;
use super::{Exit, chain, run, say, tell};
use crate::attach::AttachError;
use crate::audit::{Event, JsonLines, Record};
use crate::config::{Audit, Config, ConfigError, Home, SAMPLE};
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
    /// Say whether the settings can be used, and end.
    #[arg(long)]
    check_config: bool,
    /// Print a file with every setting, and end.
    #[arg(long)]
    sample_config: bool,
}

/// Runs the verb.
#[must_use]
pub fn serve(arguments: &ServeArguments) -> Exit {
    if arguments.sample_config {
        say(SAMPLE);
        return Exit::Success;
    }
    let done = settings(arguments).and_then(|config| {
        if arguments.check_config {
            say("the settings can be used\n");
            return Ok(());
        }
        if config.control.cleartext.is_some() {
            return Err(ServeError::Cleartext);
        }
        run::become_unreadable().map_err(ServeError::own("keep its memory from others"))?;
        run::raise_descriptor_limit().map_err(ServeError::own("raise the limit of descriptors"))?;
        run_daemon(arguments, config)
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
    let mut config = match &arguments.config {
        None => Config::of_home(&home),
        Some(path) => {
            let text = read(path).map_err(|error| ServeError::Unreadable(path.clone(), error))?;
            Config::read(path, &text, &home).map_err(ServeError::Config)?
        }
    };
    if let Some(state) = &arguments.state {
        config.state.clone_from(state);
    }
    Ok(config)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let most = u64::try_from(limits::CONFIG_BYTES).unwrap_or(u64::MAX);
    File::open(path)?.take(most.saturating_add(1)).read_to_string(&mut text)?;
    Ok(text)
}

/// Whose daemon it is (XDG Base Directory Specification, for whoever is not root).
fn home(variable: impl Fn(&str) -> Option<PathBuf>) -> Home {
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

fn run_daemon(arguments: &ServeArguments, config: Config) -> Result<(), ServeError> {
    let audit = AuditLog::start(&config.audit).map_err(ServeError::own("write the audit record"))?;
    let audit = Arc::new(audit);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(ServeError::own("start the runtime"))?;
    let served = runtime.block_on(async {
        let signals = Signals::catch().map_err(ServeError::own("catch signals"))?;
        let daemon = Daemon::open(&config, Arc::clone(&audit) as _).await?;
        // Nobody else serves this state directory by now, so what stands at the socket's path is nobody's.
        let listener = socket::listen(&config.control).map_err(ServeError::own("listen on the control socket"))?;
        let api = tokio::spawn(axum::serve(listener, control::router(Arc::new(daemon.clone()))).into_future());
        let manager = Manager::of_environment();
        manager.tell("READY=1");
        attend(arguments, &config, signals, &manager, &audit).await;
        manager.tell("STOPPING=1");
        api.abort();
        daemon.drain(DRAIN).await;
        Ok(())
    });
    runtime.shutdown_timeout(DRAIN);
    served.and(audit.close().map_err(ServeError::own("write the audit record")))
}

/// Heeds signals and the service manager until the daemon is to end.
async fn attend(
    arguments: &ServeArguments,
    config: &Config,
    mut signals: Signals,
    manager: &Manager,
    audit: &AuditLog,
) {
    loop {
        tokio::select! {
            _ = signals.end.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.reload.recv() => reload(arguments, config, audit),
            () = manager.watchdog() => manager.tell("WATCHDOG=1"),
        }
    }
}

/// Opens the audit file anew, and looks whether the settings still can be used; what of them changed counts when the
/// daemon is started again, and is told.
fn reload(arguments: &ServeArguments, config: &Config, audit: &AuditLog) {
    if let Err(error) = audit.reopen() {
        tell(&format!("exeat: the audit file cannot be opened anew, so the old one stays: {error}\n"));
    }
    match settings(arguments) {
        Ok(now) if now == *config => {}
        Ok(_) => tell("exeat: the settings have changed; they count when the daemon is started again\n"),
        Err(error) => tell(&format!("exeat: nothing is changed: {}\n", chain(&error))),
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

/// The audit record, where the settings say.
struct AuditLog {
    lines: Option<JsonLines>,
    file: Option<(PathBuf, Arc<ArcSwap<File>>)>,
}

impl AuditLog {
    fn start(audit: &Audit) -> io::Result<Self> {
        match audit {
            Audit::None => Ok(Self { lines: None, file: None }),
            Audit::Stdout => Ok(Self { lines: Some(JsonLines::start(io::stdout())?), file: None }),
            Audit::File(path) => {
                let file = Arc::new(ArcSwap::from_pointee(append(path)?));
                let lines = JsonLines::start(Current(Arc::clone(&file)))?;
                Ok(Self { lines: Some(lines), file: Some((path.clone(), file)) })
            }
        }
    }

    /// What is recorded from now on goes to what stands at the path now.
    fn reopen(&self) -> io::Result<()> {
        let Some((path, file)) = &self.file else { return Ok(()) };
        file.store(Arc::new(append(path)?));
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.lines.as_ref().map_or(Ok(()), JsonLines::close)
    }
}

impl Record for AuditLog {
    fn record(&self, event: &Event) {
        if let Some(lines) = &self.lines {
            lines.record(event);
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// The file that is current.
struct Current(Arc<ArcSwap<File>>);

impl io::Write for Current {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // All of it, so that no line begins in one file and ends in another.
        (&**self.0.load()).write_all(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        (&**self.0.load()).flush()
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
    /// The control API is asked for on a TCP address.
    Cleartext,
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
            Self::Cleartext => f.write_str("`control.insecureLoopback`: this version serves the Unix socket alone"),
            Self::Own(what, _) => write!(f, "cannot {what}"),
        }
    }
}

impl Error for ServeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreadable(_, error) | Self::Unwritable(_, error) => Some(error),
            Self::Config(error) => error.source(),
            Self::Cleartext => None,
            Self::Store(error) => error.source(),
            Self::Host(error) => error.source(),
            Self::Record(_, error) | Self::Own(_, error) => Some(error.as_ref()),
        }
    }
}
