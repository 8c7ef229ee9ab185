//! Every system call that no safe wrapper offers, and what not every processor can; the only `unsafe` of the code base.
//!
//! Each function states in SAFETY what the kernel or the C library asks of its caller, and in JUSTIFICATION why no
//! safe wrapper does. Nothing here decides anything.
#![expect(unsafe_code, reason = "the one module that may: see above")]

pub mod locked;
pub mod sift;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::{ForkResult, Pid};

/// Which side of [`fork`] we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The caller; the child's process id, as the caller's namespace counts.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Forks a process that has one thread.
///
/// # Errors
/// The kernel's; and `EDEADLK` where the process has more than one thread, for then the child could find a lock
/// held for ever.
pub fn fork() -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: with a single thread, the child is a whole copy: no lock can be held by a thread that is not there.
    // JUSTIFICATION: a safe fork cannot exist; `Command` cannot run code of ours after unshare in the new pid space.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By the signal of this number: any, real-time ones included.
    Killed(i32),
}

/// Reaps one child that has ended; `None` when none has, or there is none.
///
/// # Errors
/// The kernel's.
pub fn reap() -> io::Result<Option<(Pid, End)>> {
    let mut status = 0;
    // SAFETY: the kernel writes one integer, which outlives the call.
    // JUSTIFICATION: nix has no name for a real-time signal, and fails after it has reaped whom one has killed.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        0 => Ok(None),
        -1 => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
            error => Err(error),
        },
        pid if libc::WIFSIGNALED(status) => Ok(Some((Pid::from_raw(pid), End::Killed(libc::WTERMSIG(status))))),
        pid => Ok(Some((Pid::from_raw(pid), End::Exited(libc::WEXITSTATUS(status))))),
    }
}

/// Takes ownership of descriptors that a control message brought.
#[must_use]
pub fn adopt(received: &[RawFd]) -> Vec<OwnedFd> {
    // SAFETY: `recvmsg` made these numbers for this process just now, and nobody else knows them.
    // JUSTIFICATION: nix hands SCM_RIGHTS over as bare numbers.
    received.iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

/// Has every descriptor above standard error closed by the next exec.
///
/// # Errors
/// The kernel's (before Linux 5.11: `EINVAL`, before 5.9: `ENOSYS`).
pub fn close_above_stderr_on_exec() -> io::Result<()> {
    // SAFETY: the call changes a flag of descriptors, and closes none now.
    // JUSTIFICATION: no wrapper in nix or std.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

/// Gives up every capability for good: bounding, ambient, permitted, effective and inheritable sets.
///
/// # Errors
/// The kernel's. The bounding set needs `CAP_SETPCAP` in the caller's user namespace.
pub fn drop_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`: two words for each set.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    for capability in 0..64 {
        // SAFETY: prctl with integer arguments only. JUSTIFICATION: nix has no capability calls.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if dropped != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINVAL) {
                break; // past the last capability of this kernel
            }
            return Err(error);
        }
    }
    // SAFETY: as above.
    check(i64::from(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }))?;
    let header = Header { version: VERSION_3, pid: 0 };
    let none = [0_u32; 6];
    // SAFETY: version 3 reads a header and two triples of u32, which both outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) })
}

/// Makes a mount and all mounts below it read-only.
///
/// # Errors
/// The kernel's (before Linux 5.12: `ENOSYS`).
pub fn make_read_only(path: &CStr) -> io::Result<()> {
    /// `struct mount_attr` of `mount_setattr(2)`.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const RDONLY: u64 = 1;
    const RECURSIVE: libc::c_int = 0x8000;
    let attributes = Attributes { set: RDONLY, clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: the path is NUL-terminated and the structure has the size that is passed with it.
    // JUSTIFICATION: no wrapper in nix.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            RECURSIVE,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    })
}

/// Makes a terminal the controlling terminal of the calling session leader.
///
/// # Errors
/// The kernel's.
pub fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call; the argument is an integer.
    // JUSTIFICATION: nix offers ioctls only through macros that generate unsafe functions.
    check(i64::from(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }))
}

/// Copies the window size of one terminal to another.
///
/// # Errors
/// The kernel's: one of them is no terminal.
pub fn copy_window_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes and TIOCSWINSZ reads one `winsize`, which outlives both calls.
    // JUSTIFICATION: as for TIOCSCTTY.
    check(i64::from(unsafe { libc::ioctl(from.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }))?;
    // SAFETY: as above.
    check(i64::from(unsafe { libc::ioctl(to.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }))
}

/// Puts every signal back to its default action, and unblocks all.
///
/// # Errors
/// The kernel's.
pub fn reset_signals() -> io::Result<()> {
    for signal in Signal::iterator() {
        if matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            continue;
        }
        // SAFETY: the default action runs no code of ours. JUSTIFICATION: nix marks every `signal` unsafe.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
    }
    nix::sys::signal::SigSet::all().thread_unblock()?;
    Ok(())
}

/// Ends this process the way its child ended: by the same signal, so that whoever waits for us sees the same.
/// Returns only where the signal does not end a process.
pub fn die_by(signal: Signal) {
    // SAFETY: as in `reset_signals`.
    if unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.is_ok() {
        let mut only = nix::sys::signal::SigSet::empty();
        only.add(signal);
        if only.thread_unblock().is_ok() && nix::sys::signal::raise(signal).is_err() {
            // The caller goes on and exits with 128 + n, as a shell would have said it.
        }
    }
}

/// Another process: this very one, and never another that is given its number later.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// The process that has this number now.
    ///
    /// # Errors
    /// The kernel's; `ESRCH` where there is none.
    pub fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: integer arguments only. JUSTIFICATION: no wrapper in nix or std.
        let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        match RawFd::try_from(opened) {
            // SAFETY: the kernel made this number just now, closed by exec, and nobody else knows it.
            Ok(fd) if fd >= 0 => Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) })),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// The kernel's; `ESRCH` where it has ended.
    pub fn kill(&self) -> io::Result<()> {
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open for the length of the call; no information goes along, and none is read.
        // JUSTIFICATION: no wrapper in nix or std.
        check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), libc::SIGKILL, info, 0) })
    }
}

/// The cookie of the network namespace that a socket is in: no other namespace of this boot has it, before or after.
///
/// # Errors
/// The kernel's (before Linux 5.14: `ENOPROTOOPT`).
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or_default();
    // SAFETY: the kernel writes at most `length` bytes to the cookie, and its length back; both outlive the call.
    // JUSTIFICATION: neither nix nor socket2 has this option.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    check(i64::from(done)).map(|()| cookie)
}

fn check(returned: i64) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
