//! Standard input, output and error of the command inside.
//!
//! A terminal is replaced by a new pseudo-terminal in the sandbox's own devpts, and relayed: the command never holds
//! the user's. A socket is replaced by a pipe and relayed: a socket would be a way out. A file or a pipe goes in as it
//! is. A directory is refused.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

use super::channel::Stdio;
use crate::sys;

/// Bytes moved at once.
const CHUNK: usize = 16 * 1024;
/// How often the keyboard's relay looks whether it is still in the background: milliseconds.
const BACKGROUND_REST: u8 = 200;

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
        do_not_stop()?;
        outward.push(copy(master.try_clone()?.into(), shown.into())?);
        let terminal = Terminal::borrow(terminal, master, stdin)?;
        if stdin {
            terminal.type_in()?;
        }
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

/// The user's terminal, in raw mode while the command has one of its own and we are in the foreground.
struct Terminal {
    user: OwnedFd,
    master: OwnedFd,
    /// Its modes before; `None` where nothing is typed to us.
    before: Option<Termios>,
}

impl Terminal {
    fn borrow(user: OwnedFd, master: OwnedFd, reads: bool) -> io::Result<Self> {
        let modes = tcgetattr(&user)?;
        tcsetattr(&master, SetArg::TCSANOW, &modes)?;
        sys::copy_window_size(user.as_fd(), master.as_fd())?;
        let before = reads.then_some(modes);
        if let Some(before) = before.as_ref().filter(|_| in_foreground(&user)) {
            make_raw(&user, before)?;
        }
        Ok(Self { user, master, before })
    }

    /// Relays what is typed, on a thread of its own. In the background nothing is read, as the shell's other jobs
    /// have the keyboard then; the command runs on.
    fn type_in(&self) -> io::Result<()> {
        let Some(before) = self.before.clone() else { return Ok(()) };
        let (mut keyboard, mut to) = (File::from(self.user.try_clone()?), File::from(self.master.try_clone()?));
        std::thread::Builder::new().name("keyboard".to_owned()).spawn(move || {
            let mut waited = false;
            loop {
                if !in_foreground(&keyboard) {
                    waited = true;
                    // Nobody says when the shell brings us to the front; the master says when the command has gone.
                    let mut gone = [PollFd::new(to.as_fd(), PollFlags::empty())];
                    if poll(&mut gone, BACKGROUND_REST).is_ok_and(|ready| ready > 0) {
                        return;
                    }
                } else if std::mem::take(&mut waited) {
                    // A terminal that went away meanwhile ends the relay below.
                    let _ = make_raw(&keyboard, &before);
                    let _ = sys::copy_window_size(keyboard.as_fd(), to.as_fd());
                } else if !pass_on(&mut keyboard, &mut to) && in_foreground(&keyboard) {
                    return;
                }
            }
        })?;
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // In the background its modes are the shell's own again. If it is gone, there is nothing to give back.
        if let Some(before) = self.before.as_ref().filter(|_| in_foreground(&self.user)) {
            let _ = tcsetattr(&self.user, SetArg::TCSADRAIN, before);
        }
    }
}

/// Whether we may read this terminal and set its modes: one that is not our controlling terminal does not care who
/// does.
fn in_foreground(terminal: impl AsFd) -> bool {
    tcgetpgrp(terminal).map_or_else(|error| error == Errno::ENOTTY, |group| group == getpgrp())
}

fn make_raw(terminal: impl AsFd, before: &Termios) -> io::Result<()> {
    let mut raw = before.clone();
    cfmakeraw(&mut raw);
    Ok(tcsetattr(terminal, SetArg::TCSANOW, &raw)?)
}

/// In the background, a terminal's answer to being read or set is to stop the whole process group; the relays would
/// take the sandbox down with them. For this thread and those that it starts, the answer is an error instead.
fn do_not_stop() -> io::Result<()> {
    let mut stops = SigSet::empty();
    stops.add(Signal::SIGTTIN);
    stops.add(Signal::SIGTTOU);
    Ok(stops.thread_block()?)
}

/// Copies on a thread of its own until either side ends. (A master whose slaves are all closed reads as an error.)
fn copy(mut from: File, mut to: File) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("relay".to_owned()).spawn(move || while pass_on(&mut from, &mut to) {})
}

/// Moves what there is; false when either side has ended.
fn pass_on(from: &mut File, to: &mut File) -> bool {
    let mut chunk = [0_u8; CHUNK];
    match from.read(&mut chunk) {
        Err(error) => error.kind() == io::ErrorKind::Interrupted,
        Ok(0) => false,
        Ok(read) => to.write_all(chunk.get(..read).unwrap_or_default()).is_ok(),
    }
}
