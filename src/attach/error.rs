//! Why something could not be attached: because of what it is, or because the kernel would not.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::identity::AttachmentId;
use super::sockets::LISTENER_PORT;

/// Why there is no attachment.
#[derive(Debug)]
pub enum AttachError {
    /// It cannot be attached as it is; whoever asked for it can change that.
    Refused(Refusal),
    /// The kernel would not.
    Failed {
        /// What was being done.
        step: AttachStep,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What is attached in steps; in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachStep {
    /// Entering the sandbox's network namespace.
    Enter,
    /// Reading who it is.
    Identify,
    /// Looking for interfaces that lead out.
    Interfaces,
    /// The listening sockets.
    Listen,
    /// Bringing `lo` up, with its addresses and the routes that make every address local.
    Loopback,
    /// The nftables batch, with its TPROXY rules.
    Rules,
    /// Watching for changes.
    Watch,
}

/// What is wrong with what should be attached.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing is at the path.
    NoNamespace(PathBuf),
    /// What is at the path is no network namespace.
    NotANamespace(PathBuf),
    /// It is the one that exeat itself is in.
    OwnNamespace(PathBuf),
    /// An interface in the namespace may lead out.
    WayOut(String),
    /// Somebody has our sockets' port there.
    Taken,
    /// It is not what was attached before, but this.
    Another(AttachmentId),
}

impl AttachError {
    /// Makes an error of the kernel's answer to a step.
    pub(super) fn at(step: AttachStep) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.raw_os_error() {
            Some(libc::EADDRINUSE) if step == AttachStep::Listen => Self::Refused(Refusal::Taken),
            _ => Self::Failed { step, source },
        }
    }
}

impl From<Refusal> for AttachError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Failed { step, .. } => f.write_str(match step {
                AttachStep::Enter => "cannot enter the network namespace",
                AttachStep::Identify => "cannot tell which network namespace this is (Linux 5.14 or later can)",
                AttachStep::Interfaces => "cannot make sure that no interface leads out of the sandbox",
                AttachStep::Listen => "cannot listen inside the sandbox",
                AttachStep::Loopback => "cannot set up the loopback interface of the sandbox",
                AttachStep::Rules => "cannot load the nftables rules (TPROXY) of the sandbox",
                AttachStep::Watch => "cannot watch the interfaces of the sandbox",
            }),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNamespace(path) => write!(f, "there is no network namespace at {}", path.display()),
            Self::NotANamespace(path) => write!(f, "{} is no network namespace", path.display()),
            Self::OwnNamespace(path) => {
                write!(f, "{} is the network namespace of exeat itself, not a sandbox's", path.display())
            }
            Self::WayOut(name) => write!(
                f,
                "interface {name} is in the namespace, and may lead out of it: a sandbox's holds `lo` and TAPs that \
                 were declared, no other (with container engines: `--network none`)"
            ),
            Self::Taken => {
                write!(f, "port {LISTENER_PORT} is in use there: it is attached already, or a program inside has it")
            }
            Self::Another(found) => write!(f, "this is not what was attached before, but {found}"),
        }
    }
}

impl std::error::Error for AttachError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(_) => None,
            Self::Failed { source, .. } => Some(source),
        }
    }
}
