//! Standard input, output and error of the command inside.
//!
//! A terminal is replaced by a new pseudo-terminal in the sandbox's own devpts, and relayed: the command never holds
//! the user's. A socket is replaced by a pipe and relayed: a socket would be a way out. A file or a pipe goes in as it
//! is. A directory is refused.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use nix::sys::stat::{SFlag, fstat};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

use super::channel::Stdio;
use crate::sys;

/// Bytes moved at once.
const CHUNK: usize = 16 * 1024;

/// What exeat's own standard descriptors are, and what the command gets instead.
pub(super) struct Streams {
    /// What each becomes inside.
    pub(super) becomes: [Stdio; 3],
    /// Descriptors for those that are [`Stdio::Passed`], in order.
    pub(super) passed: Vec<OwnedFd>,
    /// Our ends of what is relayed.
    relays: Vec<Relay>,
}

/// A copy from one descriptor to another until its end.
struct Relay {
    from: File,
    to: File,
    /// Whether everything that comes through must arrive before exeat ends.
    outward: bool,
}

impl Streams {
    /// Looks at exeat's own standard descriptors.
    ///
    /// # Errors
    /// When one is neither terminal, file, pipe, device nor socket; and the kernel's.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let mut streams = Self { becomes: [Stdio::Passed; 3], passed: Vec::new(), relays: Vec::new() };
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let ours = [(stdin.as_fd(), "input"), (stdout.as_fd(), "output"), (stderr.as_fd(), "error")];
        for ((fd, name), becomes) in ours.into_iter().zip([0, 1, 2]) {
            let stdio = streams.add(fd, name, becomes > 0)?;
            if let Some(slot) = streams.becomes.get_mut(becomes) {
                *slot = stdio;
            }
        }
        Ok(streams)
    }

    fn add(&mut self, fd: BorrowedFd<'_>, name: &str, outward: bool) -> io::Result<Stdio> {
        if nix::unistd::isatty(fd).unwrap_or(false) {
            return Ok(Stdio::Terminal);
        }
        let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFREG || kind == SFlag::S_IFIFO || kind == SFlag::S_IFCHR {
            self.passed.push(fd.try_clone_to_owned()?);
        } else if kind == SFlag::S_IFSOCK {
            let socket = File::from(fd.try_clone_to_owned()?);
            let (reader, writer) = io::pipe()?;
            let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
            let (inside, relay) = if outward {
                (writer, Relay { from: reader.into(), to: socket, outward })
            } else {
                (reader, Relay { from: socket, to: writer.into(), outward })
            };
            self.passed.push(inside);
            self.relays.push(relay);
        } else {
            return Err(io::Error::other(format!(
                "standard {name} is neither a terminal, a file, a pipe nor a socket"
            )));
        }
        Ok(Stdio::Passed)
    }

    /// Forgets the descriptors that went inside, and starts to relay. `master` is there if a terminal is wanted.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn start(mut self, master: Option<OwnedFd>) -> io::Result<Relays> {
        self.passed.clear();
        let mut outward = Vec::new();
        for relay in self.relays {
            let thread = copy(relay.from, relay.to)?;
            if relay.outward {
                outward.push(thread);
            }
        }
        let Some(master) = master else { return Ok(Relays { outward, terminal: None }) };
        let [stdin, stdout, stderr] = self.becomes.map(|becomes| becomes == Stdio::Terminal);
        let screen = if stdout || !stderr {
            io::stdout().as_fd().try_clone_to_owned()?
        } else {
            io::stderr().as_fd().try_clone_to_owned()?
        };
        let terminal = if stdin { io::stdin().as_fd().try_clone_to_owned()? } else { screen.try_clone()? };
        let shown = if stdout || stderr { screen } else { terminal.try_clone()? };
        outward.push(copy(master.try_clone()?.into(), shown.into())?);
        if stdin {
            copy(terminal.try_clone()?.into(), master.try_clone()?.into())?;
        }
        let terminal = Terminal::borrow(terminal, master, stdin)?;
        Ok(Relays { outward, terminal: Some(terminal) })
    }
}

/// What is being relayed.
pub(super) struct Relays {
    outward: Vec<JoinHandle<()>>,
    terminal: Option<Terminal>,
}

impl Relays {
    /// For passing changes of the terminal's size on; `None` where there is no terminal, or no descriptor for it.
    pub(super) fn resize(&self) -> Option<Resize> {
        let terminal = self.terminal.as_ref()?;
        Some(Resize { user: terminal.user.try_clone().ok()?, master: terminal.master.try_clone().ok()? })
    }

    /// Waits until everything that the command wrote has arrived, and gives the user's terminal back. Call it when
    /// nothing inside lives any more: then each relay comes to its end.
    pub(super) fn finish(self) {
        for thread in self.outward {
            // A relay that panicked has nothing more to bring.
            let _ = thread.join();
        }
    }
}

/// The user's terminal and the command's.
pub(super) struct Resize {
    user: OwnedFd,
    master: OwnedFd,
}

impl Resize {
    /// Gives the command's terminal the size of the user's.
    pub(super) fn apply(&self) {
        // A terminal without a size has none to give.
        let _ = sys::copy_window_size(self.user.as_fd(), self.master.as_fd());
    }
}

/// The user's terminal, in raw mode while the command has one of its own.
struct Terminal {
    user: OwnedFd,
    master: OwnedFd,
    before: Option<Termios>,
}

impl Terminal {
    fn borrow(user: OwnedFd, master: OwnedFd, reads: bool) -> io::Result<Self> {
        let modes = tcgetattr(&user)?;
        tcsetattr(&master, SetArg::TCSANOW, &modes)?;
        sys::copy_window_size(user.as_fd(), master.as_fd())?;
        // In the background, changing the modes would stop us; and nothing is typed to us there.
        let foreground = tcgetpgrp(&user).is_ok_and(|group| group == getpgrp());
        let before = (reads && foreground).then(|| modes.clone());
        if before.is_some() {
            let mut raw = modes;
            cfmakeraw(&mut raw);
            tcsetattr(&user, SetArg::TCSANOW, &raw)?;
        }
        Ok(Self { user, master, before })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // If the terminal is gone, there is nothing to give back.
            let _ = tcsetattr(&self.user, SetArg::TCSADRAIN, before);
        }
    }
}

/// Copies on a thread of its own until either side ends. (A master whose slaves are all closed reads as an error.)
fn copy(mut from: File, mut to: File) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
        let mut chunk = [0_u8; CHUNK];
        loop {
            match from.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(read) => {
                    if to.write_all(chunk.get(..read).unwrap_or_default()).is_err() {
                        return;
                    }
                }
            }
        }
    })
}
