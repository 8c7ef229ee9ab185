//! The first process of a sandbox: makes it from the inside, starts the command, reaps, reports its end.
//!
//! exeat executes itself for this, with an empty environment and no descriptor but the channel, so that the process
//! never held a secret. It goes through three lives:
//!
//! 1. outside the new PID namespace: leaves the host's namespaces, gets its identity, forks, ends;
//! 2. process 1 of the namespace: makes the view of the files, the network and the terminal, forks, and stays to
//!    reap and to pass signals on; ends, and with it everything inside, when the command or exeat does;
//! 3. the command: one user namespace further down, without any capability, under the filter of system calls.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Pid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, setresgid, setresuid, setsid};

use super::channel::{Channel, Fault, Identity, Order, Part, Plan, Report, Stdio};
use crate::attach::{AttachError, AttachStep, netns};
use crate::confine::{mounts, seccomp};
use crate::sys::{self, End, Fork};

/// The first argument that makes exeat this process. Not a verb for people, so not in the help.
pub const VERB: &str = "__first-process";

/// The file that the parent of a sandbox may not be mistaken about: the executable itself, whatever its path.
pub(super) const EXECUTABLE: &str = "/proc/self/exe";

/// The whole of it; standard input is the channel.
#[must_use]
pub fn main() -> ExitCode {
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    let channel = Channel::new(UnixStream::from(socket));
    match live(&channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            // If exeat is gone, nobody is there to be told.
            drop(channel.send(&Report::Failed(fault), &[]));
            ExitCode::FAILURE
        }
    }
}

type Done<T = ()> = Result<T, Fault>;

fn live(channel: &Channel) -> Done {
    let Some((Order::Make(plan), mut descriptors)) = channel.receive().map_err(talk)? else {
        return Err(misunderstood());
    };
    // A signal that the user's terminal sends to exeat's process group is not ours.
    setsid().map_err(fault(Part::Namespaces, "start a session"))?;
    leave_host(channel, &plan.identity)?;
    let (told, tell) = io::pipe().map_err(fault(Part::Talk, "make a pipe"))?;
    match sys::fork().map_err(fault(Part::Namespaces, "fork"))? {
        Fork::Parent(first) => channel.send(&Report::First(first.as_raw()), &[]).map_err(talk),
        Fork::Child => {
            // Both have the channel: nothing may be said here until the parent, which then ends, has said its word.
            drop(tell);
            io::copy(&mut { told }, &mut io::sink()).map_err(fault(Part::Talk, "read a pipe"))?;
            let stdio = descriptors.split_off(plan.overlays.len().min(descriptors.len()));
            be_first(channel, &plan, descriptors, stdio)
        }
    }
}

fn leave_host(channel: &Channel, identity: &Identity) -> Done {
    let outside_root = identity.host_uid != nix::unistd::geteuid().as_raw();
    if outside_root {
        nix::unistd::setgroups(&[]).map_err(fault(Part::Identity, "leave root's groups"))?;
    }
    let namespaces = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWPID;
    unshare(namespaces).map_err(fault(Part::Namespaces, "make new namespaces"))?;
    channel.send(&Report::Unshared, &[]).map_err(talk)?;
    let Some((Order::Mapped, _)) = channel.receive().map_err(talk)? else { return Err(misunderstood()) };
    // devpts wants a user 0 in the namespace that mounts it; the command gets its own number one namespace down.
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).map_err(fault(Part::Identity, "take the group"))?;
    setresuid(uid, uid, uid).map_err(fault(Part::Identity, "take the user"))?;
    // Changing the user made us undumpable, and our own /proc files root's.
    prctl::set_dumpable(true).map_err(fault(Part::Identity, "stay readable to ourselves"))
}

fn be_first(channel: &Channel, plan: &Plan, overlays: Vec<OwnedFd>, stdio: Vec<OwnedFd>) -> Done {
    chdir("/").map_err(fault(Part::Directory, "leave the working directory"))?;
    let view = mounts::View {
        user: plan.identity.uid,
        overlays: plan
            .overlays
            .iter()
            .zip(overlays)
            .map(|((name, over), content)| mounts::Overlay { name: name.clone(), content, over: over.clone() })
            .collect(),
        masks: plan.masks.clone(),
        kept: plan.kept.clone(),
    };
    mounts::make(&view).map_err(|error| Fault {
        part: Part::Files,
        errno: error.source.raw_os_error().unwrap_or(0),
        what: error.what,
    })?;
    drop(view);
    let sockets = netns::prepare().map_err(|error| unattached(&error))?;
    let terminal = if plan.stdio.contains(&Stdio::Terminal) { Some(open_terminal()?) } else { None };
    let filter = seccomp::programs().map_err(|what| Fault { part: Part::Seccomp, what, errno: 0 })?;
    chdir(&plan.directory).map_err(fault(Part::Directory, &format!("enter {}", plan.directory.display())))?;
    {
        let mut sent: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        sent.extend(terminal.as_ref().map(|(master, _)| master.as_fd()));
        channel.send(&Report::Ready, &sent).map_err(talk)?;
    }
    drop(sockets);
    let Some((order, _)) = channel.receive().map_err(talk)? else { return Ok(()) };
    if !matches!(order, Order::Start) || plan.argv.is_empty() {
        return Ok(());
    }
    let slave = terminal.map(|(_, slave)| slave);
    start_and_watch(channel, plan, stdio, slave, &filter)
}

fn unattached(error: &AttachError) -> Fault {
    match error {
        AttachError::Refused(refusal) => Fault { part: Part::Network, what: refusal.to_string(), errno: 0 },
        AttachError::Failed { step, source } => {
            let part = if *step == AttachStep::Rules { Part::Rules } else { Part::Network };
            let errno = source.raw_os_error().unwrap_or(0);
            let what = if errno == 0 { format!("{error}: {source}") } else { error.to_string() };
            Fault { part, what, errno }
        }
    }
}

/// A pseudo-terminal of the sandbox's own devpts: master and slave.
fn open_terminal() -> Done<(PtyMaster, OwnedFd)> {
    let failed = || fault::<Errno>(Part::Terminal, "open a pseudo-terminal");
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).map_err(failed())?;
    grantpt(&master).map_err(failed())?;
    unlockpt(&master).map_err(failed())?;
    let name = ptsname_r(&master).map_err(failed())?;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let slave = nix::fcntl::open(Path::new(&name), flags, Mode::empty()).map_err(failed())?;
    Ok((master, slave))
}

fn start_and_watch(
    channel: &Channel,
    plan: &Plan,
    stdio: Vec<OwnedFd>,
    slave: Option<OwnedFd>,
    filter: &[seccompiler::BpfProgram],
) -> Done {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&children), None).map_err(fault(Part::Talk, "block SIGCHLD"))?;
    let deaths = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC).map_err(fault(Part::Talk, "watch SIGCHLD"))?;
    let (mut verdict, tell) = io::pipe().map_err(fault(Part::Talk, "make a pipe"))?;
    let command = match sys::fork().map_err(fault(Part::Namespaces, "fork"))? {
        Fork::Child => {
            drop(verdict);
            let failure = become_command(plan, stdio, slave.as_ref(), filter);
            // The pipe is read by process 1; if that is gone, so are we.
            drop((&tell).write_all(&serde_json::to_vec(&failure).unwrap_or_default()));
            std::process::exit(1);
        }
        Fork::Parent(command) => command,
    };
    // The terminal's slave side stays open here: while nobody has it open, its master reads as ended, and whatever is
    // written to `/dev/tty` later would be lost.
    drop((tell, stdio));
    let mut failure = Vec::new();
    verdict.read_to_end(&mut failure).map_err(fault(Part::Talk, "read a pipe"))?;
    if !failure.is_empty() {
        let report: Report = serde_json::from_slice(&failure).map_err(|_| misunderstood())?;
        return channel.send(&report, &[]).map_err(talk);
    }
    // What is left to do takes no rights.
    sys::drop_capabilities().map_err(fault(Part::Identity, "drop capabilities"))?;
    prctl::set_dumpable(false).map_err(fault(Part::Identity, "become undumpable"))?;
    watch(channel, command, &deaths)
}

/// Reaps until the command has ended, and passes signals on meanwhile.
fn watch(channel: &Channel, command: Pid, deaths: &SignalFd) -> Done {
    loop {
        let mut ready =
            [PollFd::new(deaths.as_fd(), PollFlags::POLLIN), PollFd::new(channel.socket().as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            polled => polled.map_err(fault(Part::Talk, "poll"))?,
        };
        let [died, spoke] = ready.map(|fd| fd.any().unwrap_or(true));
        if died {
            deaths.read_signal().map_err(fault(Part::Talk, "read SIGCHLD"))?;
            if let Some(end) = reap(command)? {
                return channel.send(&end, &[]).map_err(talk);
            }
        }
        if spoke {
            match channel.receive().map_err(talk)? {
                Some((Order::Signal(passed), _)) => {
                    let Ok(signal) = Signal::try_from(passed.signal) else { continue };
                    // It may have ended this moment: then its end is what counts.
                    let _ = if passed.group { killpg(command, signal) } else { kill(command, signal) };
                }
                Some(_) => return Err(misunderstood()),
                None => return Ok(()),
            }
        }
    }
}

/// Reaps all that have ended; the command's end, if it is among them.
fn reap(command: Pid) -> Done<Option<Report>> {
    let mut end = None;
    while let Some((pid, how)) = sys::reap().map_err(fault(Part::Talk, "wait"))? {
        if pid == command {
            end = Some(match how {
                End::Exited(code) => Report::Exited(code),
                End::Killed(signal) => Report::Killed(signal),
            });
        }
    }
    Ok(end)
}

/// Becomes the command. Returns only what kept it from it.
fn become_command(
    plan: &Plan,
    stdio: Vec<OwnedFd>,
    slave: Option<&OwnedFd>,
    filter: &[seccompiler::BpfProgram],
) -> Report {
    match give_up_everything(plan, stdio, slave, filter) {
        Ok(()) => Report::NotExecuted { errno: execute(plan) as i32 },
        Err(fault) => Report::Failed(fault),
    }
}

fn give_up_everything(
    plan: &Plan,
    stdio: Vec<OwnedFd>,
    slave: Option<&OwnedFd>,
    filter: &[seccompiler::BpfProgram],
) -> Done {
    let identity = |what| fault::<Errno>(Part::Identity, what);
    setsid().map_err(fault(Part::Terminal, "start a session"))?;
    if let Some(slave) = slave {
        sys::set_controlling_terminal(slave.as_fd()).map_err(fault(Part::Terminal, "take the terminal"))?;
    }
    take_stdio(plan, stdio, slave)?;
    unshare(CloneFlags::CLONE_NEWUSER).map_err(identity("make a user namespace below the sandbox's"))?;
    let Identity { uid, gid, .. } = plan.identity;
    let write =
        |path: &str, text: String| fs::write(path, text).map_err(fault(Part::Identity, &format!("write {path}")));
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{uid} 0 1"))?;
    write("/proc/self/gid_map", format!("{gid} 0 1"))?;
    sys::drop_capabilities().map_err(fault(Part::Identity, "drop capabilities"))?;
    prctl::set_no_new_privs().map_err(identity("set no_new_privs"))?;
    sys::close_above_stderr_on_exec().map_err(fault(Part::Identity, "close descriptors"))?;
    sys::reset_signals().map_err(fault(Part::Identity, "reset signals"))?;
    seccomp::install(filter).map_err(|what| Fault { part: Part::Seccomp, what, errno: 0 })
}

fn take_stdio(plan: &Plan, stdio: Vec<OwnedFd>, slave: Option<&OwnedFd>) -> Done {
    let failed = || fault::<Errno>(Part::Terminal, "take standard input and output");
    let mut passed = stdio.into_iter();
    let mut next = |becomes: Stdio| match becomes {
        Stdio::Passed => passed.next(),
        Stdio::Terminal => slave.and_then(|slave| slave.try_clone().ok()),
    };
    let [stdin, stdout, stderr] = plan.stdio.map(&mut next);
    let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else { return Err(misunderstood()) };
    dup2_stdin(stdin).map_err(failed())?;
    dup2_stdout(stdout).map_err(failed())?;
    dup2_stderr(stderr).map_err(failed())
}

/// Executes the command as `execvp` does, but with the `PATH` of the environment inside. Returns why it could not.
fn execute(plan: &Plan) -> Errno {
    let strings = |list: &[Vec<u8>]| list.iter().map(|text| CString::new(text.clone())).collect::<Result<Vec<_>, _>>();
    let (Ok(argv), Ok(env)) = (strings(&plan.argv), strings(&plan.env)) else { return Errno::EINVAL };
    let Some(name) = plan.argv.first() else { return Errno::EINVAL };
    if name.is_empty() {
        return Errno::ENOENT;
    }
    if name.contains(&b'/') {
        return try_execute(Path::new(OsStr::from_bytes(name)), &argv, &env);
    }
    let path = plan.env.iter().find_map(|pair| pair.strip_prefix(b"PATH="));
    let path = path.unwrap_or(b"/usr/local/bin:/usr/bin:/bin");
    let mut found = Errno::ENOENT;
    for directory in path.split(|&byte| byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let file = Path::new(OsStr::from_bytes(directory)).join(OsStr::from_bytes(name));
        // A directory that this user may not search holds no command for it.
        if file.metadata().is_ok() {
            match try_execute(&file, &argv, &env) {
                Errno::ENOENT | Errno::ENOTDIR => {}
                error => found = error,
            }
        }
    }
    found
}

/// A file that the kernel does not know is a script for `sh`, as for `execvp`.
fn try_execute(file: &Path, argv: &[CString], env: &[CString]) -> Errno {
    let Ok(name) = CString::new(file.as_os_str().as_bytes()) else { return Errno::EINVAL };
    let Err(error) = execve(&name, argv, env);
    if error != Errno::ENOEXEC {
        return error;
    }
    let mut script = vec![c"sh".to_owned(), name];
    script.extend(argv.iter().skip(1).cloned());
    let Err(_) = execve(c"/bin/sh", &script, env);
    error
}

fn fault<E: Into<io::Error>>(part: Part, what: &str) -> impl FnOnce(E) -> Fault + use<E> {
    let what = what.to_owned();
    move |error| Fault { part, what: format!("cannot {what}"), errno: error.into().raw_os_error().unwrap_or(0) }
}

fn talk(error: io::Error) -> Fault {
    fault(Part::Talk, "talk to exeat")(error)
}

fn misunderstood() -> Fault {
    Fault { part: Part::Talk, what: "exeat said something that was not expected".to_owned(), errno: 0 }
}
