//! Why `run` failed, as the user is told, and the exit code that says whose fault it was.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::wait::WaitStatus;

use super::channel::Fault;
use crate::cli::policy::DocumentError;
use crate::cli::{Exit, chain, doctor, tell};
use crate::policy::diagnostic::Diagnostics;
use crate::secret::source::SourceError;

/// Why `run` failed.
#[derive(Debug)]
pub(in crate::cli) enum RunError {
    /// A file of the operator's cannot be read.
    Unreadable(PathBuf, io::Error),
    /// The document that --policy names cannot be had.
    Document(DocumentError),
    /// The policy, or the flags that stand for one, do not compile.
    Policy(Box<Diagnostics>),
    /// A secret that the policy names has no value.
    Secret(SourceError),
    /// A file of certificates holds none.
    NoCertificate(PathBuf),
    /// The sandbox could not be made.
    Sandbox(Fault),
    /// The command does not exist, or not for this user.
    NotFound(String),
    /// The command cannot be executed.
    NotExecutable(String, Errno),
    /// A path of --share or --expose is not there.
    NotThere(&'static str, PathBuf, io::Error),
    /// The audit file cannot be written.
    Unwritable(PathBuf, io::Error),
    /// The sandbox ended without telling how the command did; how its first process ended, if that is known.
    Lost(Option<WaitStatus>),
    /// Something of exeat's own failed.
    Own(&'static str, Box<dyn Error + Send + Sync>),
}

impl RunError {
    /// For `map_err`: something of exeat's own that failed while doing `what`.
    pub(in crate::cli) fn own<E: Into<Box<dyn Error + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Own(what, error.into())
    }

    /// Tells the user, and says how exeat ends.
    pub(in crate::cli) fn report(&self) -> Exit {
        tell(&format!("exeat: {}\n", chain(self)));
        match self {
            Self::NotFound(_) => Exit::NotFound,
            Self::NotExecutable(..) => Exit::NotExecutable,
            _ => Exit::Failed,
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, _) => write!(f, "cannot read {}", path.display()),
            Self::Document(error) => write!(f, "{error}"),
            Self::Policy(faults) => {
                write!(f, "the policy does not compile; nothing was run\n{}", faults.to_string().trim_end())
            }
            Self::Secret(error) => write!(f, "{error}"),
            Self::NoCertificate(path) => write!(f, "{} holds no PEM certificate", path.display()),
            Self::Sandbox(fault) => write!(f, "no sandbox can be made: {}", doctor::explain(fault)),
            Self::NotFound(name) => write!(f, "{name}: not found inside the sandbox"),
            Self::NotExecutable(name, errno) => write!(f, "{name}: {}", io::Error::from(*errno)),
            Self::NotThere(option, path, _) => write!(f, "{option} {}", path.display()),
            Self::Unwritable(path, _) => write!(f, "cannot write {}", path.display()),
            Self::Lost(first) => {
                f.write_str("the sandbox is gone; how its command ended is not known")?;
                match first {
                    Some(WaitStatus::Exited(_, code)) => write!(f, " (its first process ended with code {code})"),
                    Some(WaitStatus::Signaled(_, signal, _)) => {
                        write!(f, " (its first process was killed by {signal})")
                    }
                    _ => Ok(()),
                }
            }
            Self::Own(what, _) => write!(f, "cannot {what}"),
        }
    }
}

impl Error for RunError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unreadable(_, error) | Self::Unwritable(_, error) | Self::NotThere(_, _, error) => Some(error),
            Self::Own(_, error) => Some(error.as_ref()),
            Self::Document(error) => error.source(),
            Self::Secret(error) => error.source(),
            Self::Policy(_)
            | Self::NoCertificate(_)
            | Self::Sandbox(_)
            | Self::Lost(_)
            | Self::NotFound(_)
            | Self::NotExecutable(..) => None,
        }
    }
}
