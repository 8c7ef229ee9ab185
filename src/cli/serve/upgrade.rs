//! A daemon that starts its own successor: from the program that stands at its path now, with its own arguments.
//!
//! The successor takes over (see `take_over`) as any other does; one that cannot ends, and says why itself.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};

/// What a successor is started from.
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// What the kernel puts behind the path of a program that was replaced.
const REPLACED: &[u8] = b" (deleted)";

impl Program {
    /// Of this process.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let path = std::env::current_exe()?.into_os_string().into_vec();
        let path = path.strip_suffix(REPLACED).unwrap_or(&path).to_vec();
        let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
        if !arguments.iter().any(|argument| argument.as_bytes() == b"--take-over") {
            arguments.push("--take-over".into());
        }
        Ok(Self { path: OsString::from_vec(path).into(), arguments })
    }

    /// Starts it.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn start(&self) -> io::Result<Successor> {
        let mut command = Command::new(&self.path);
        // The signs of life that the service manager wants are its own by then, and not this process's.
        command.args(&self.arguments).env_remove("WATCHDOG_PID").stdin(Stdio::null());
        Ok(Successor(command.spawn()?))
    }
}

/// A successor that has not taken over yet.
pub(super) struct Successor(Child);

impl Successor {
    /// Ready when it has ended.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }
}
