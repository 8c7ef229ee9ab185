//! What `exeat run` and the first process of its sandbox say to each other, over a [`Channel`].
//!
//! It is also the lifeline: the first process ends its sandbox when the channel does, so that nothing survives a
//! `kill -9` of exeat. No secret ever goes over it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(super) use crate::cli::channel::Channel;

/// From exeat to the first process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// What to make. Brings the content of each overlay, then the passed ones of standard input, output and error.
    Make(Box<Plan>),
    /// The user namespace has its identity.
    Mapped,
    /// All is served: start the command.
    Start,
    /// Pass a signal on to the command.
    Signal(Passed),
}

/// A signal to pass on.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Passed {
    /// Its number.
    pub signal: i32,
    /// To the command's whole process group, as a terminal would send it.
    pub group: bool,
}

/// From the first process to exeat.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The namespaces are made; the identity is wanted.
    Unshared,
    /// The first process of the new PID namespace has this id outside.
    First(i32),
    /// The sandbox stands. Brings the four sockets, and the pseudo-terminal's master if one was wanted.
    Ready,
    /// Something could not be made; the sandbox is gone.
    Failed(Fault),
    /// The command could not be executed.
    NotExecuted {
        /// The kernel's answer.
        errno: i32,
    },
    /// The command ended by itself.
    Exited(i32),
    /// The command was ended by a signal.
    Killed(i32),
}

/// What could not be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::cli) struct Fault {
    /// The part of the sandbox.
    pub part: Part,
    /// What was being done.
    pub what: String,
    /// The kernel's answer; 0 where the fault is not the kernel's.
    pub errno: i32,
}

/// The parts of a sandbox, as far as remedies differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) enum Part {
    /// The user namespace and those made with it.
    Namespaces,
    /// The user id inside.
    Identity,
    /// The view of the file system.
    Files,
    /// The loopback interface and the listeners.
    Network,
    /// The nftables rules.
    Rules,
    /// The pseudo-terminal.
    Terminal,
    /// The system-call filter.
    Seccomp,
    /// The working directory.
    Directory,
    /// exeat itself: the two sides do not understand each other.
    Talk,
}

/// Everything that the first process needs to know. Bytes, where the system promises no encoding.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The ids inside and outside.
    pub identity: Identity,
    /// The command and its arguments; none for a sandbox that is made only to see whether it can be.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=VALUE`, each.
    pub env: Vec<Vec<u8>>,
    /// Where the command starts.
    pub directory: PathBuf,
    /// What standard input, output and error become.
    pub stdio: [Stdio; 3],
    /// Files of ours and where they are seen.
    pub overlays: Vec<(String, Vec<PathBuf>)>,
    /// Paths to hide.
    pub masks: Vec<PathBuf>,
    /// Paths to keep.
    pub kept: Vec<PathBuf>,
}

/// The user inside, and who that is outside.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The user id that the command sees.
    pub uid: u32,
    /// The group id that the command sees.
    pub gid: u32,
    /// The user id that it has on the host.
    pub host_uid: u32,
    /// The group id that it has on the host.
    pub host_gid: u32,
}

/// What one of the standard descriptors becomes inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stdio {
    /// The descriptor that came with the plan.
    Passed,
    /// The new pseudo-terminal.
    Terminal,
}
