//! Making a sandbox from the outside: the first process, its identity, its sockets.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio as Standard};

use nix::sys::prctl;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{AccessFlags, Pid, access, getegid, geteuid};

use super::channel::{Channel, Fault, Identity, Order, Part, Plan, Report};
use super::init;
use crate::attach::Sockets;

/// The unprivileged user that root's sandboxes are on the host ("nobody").
const UNPRIVILEGED: u32 = 65_534;

/// A sandbox that stands, its command not yet started. Everything inside ends when this is dropped.
pub(super) struct Launched {
    pub(super) channel: Channel,
    pub(super) sockets: Sockets,
    pub(super) terminal: Option<OwnedFd>,
    /// Process 1, as we see it; our child, for its parent has ended.
    pub(super) first: Pid,
}

/// A sandbox being made: the first process has its plan.
pub(super) struct Launching {
    channel: Channel,
    stage: Child,
}

/// Who the user is inside and on the host: the same, but for root, who becomes nobody (unless this is the root of a
/// user namespace that has nobody else).
pub(super) fn identity() -> Identity {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let maps = |file: &str| std::fs::read_to_string(file).is_ok_and(|map| holds(&map, UNPRIVILEGED));
    if uid == 0 && maps("/proc/self/uid_map") && maps("/proc/self/gid_map") {
        Identity { uid, gid, host_uid: UNPRIVILEGED, host_gid: UNPRIVILEGED }
    } else {
        Identity { uid, gid, host_uid: uid, host_gid: gid }
    }
}

/// Whether the sandbox's user may open a file: what its mode gives everybody counts for the user that root becomes.
pub(super) fn may_open(identity: &Identity, path: &Path) -> bool {
    const OTHERS_READ_OR_WRITE: u32 = 0o006;
    if identity.host_uid == identity.uid {
        return [AccessFlags::R_OK, AccessFlags::W_OK].into_iter().any(|mode| access(path, mode).is_ok());
    }
    path.metadata().is_ok_and(|found| found.mode() & OTHERS_READ_OR_WRITE != 0)
}

/// Whether an id stands in a map of `user_namespaces(7)`: lines of first id inside, first outside, count.
fn holds(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) = (numbers.next(), numbers.next(), numbers.next()) else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

impl Launching {
    /// Starts the first process and gives it its plan.
    ///
    /// # Errors
    /// What could not be made.
    pub(super) fn start(plan: Plan, overlays: &[OwnedFd], passed: &[OwnedFd]) -> Result<Self, Fault> {
        let failed = |what| fault(Part::Namespaces, what);
        // Process 1 becomes our child when its parent, the first stage, ends.
        prctl::set_child_subreaper(true).map_err(|error| failed("become its parent")(error.into()))?;
        let (ours, theirs) = UnixStream::pair().map_err(failed("make a socket pair"))?;
        let stage = Command::new(init::EXECUTABLE)
            .arg0("exeat")
            .arg(init::VERB)
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Standard::null())
            .stderr(Standard::null())
            .spawn()
            .map_err(failed("start its first process"))?;
        let channel = Channel::new(ours);
        let descriptors: Vec<_> = overlays.iter().chain(passed).map(AsFd::as_fd).collect();
        let identity = plan.identity;
        channel.send(&Order::Make(Box::new(plan)), &descriptors).map_err(talk)?;
        let launching = Self { channel, stage };
        launching.map_user(identity)?;
        Ok(launching)
    }

    fn map_user(&self, identity: Identity) -> Result<(), Fault> {
        match self.hear()? {
            (Report::Unshared, _) => {}
            (other, _) => return Err(unexpected(other)),
        }
        let process = format!("/proc/{}", self.stage.id());
        let write = |file: &str, text: String| {
            let path = format!("{process}/{file}");
            std::fs::write(path, text).map_err(fault(Part::Identity, &format!("write its {file}")))
        };
        write("setgroups", "deny".to_owned())?;
        write("uid_map", format!("0 {} 1", identity.host_uid))?;
        write("gid_map", format!("0 {} 1", identity.host_gid))?;
        self.channel.send(&Order::Mapped, &[]).map_err(talk)
    }

    /// Waits until the sandbox stands.
    ///
    /// # Errors
    /// What could not be made inside.
    pub(super) fn finish(mut self) -> Result<Launched, Fault> {
        let first = match self.hear()? {
            (Report::First(pid), _) => Pid::from_raw(pid),
            (other, _) => return Err(unexpected(other)),
        };
        self.stage.wait().map_err(fault(Part::Talk, "wait for its first process"))?;
        let descriptors = match self.hear()? {
            (Report::Ready, descriptors) => descriptors,
            (other, _) => return Err(unexpected(other)),
        };
        let mut descriptors = descriptors.into_iter();
        let Some(sockets) = Sockets::of_descriptors(&mut descriptors) else {
            return Err(Fault { part: Part::Talk, what: "the sandbox gave no sockets".to_owned(), errno: 0 });
        };
        Ok(Launched { channel: self.channel, sockets, terminal: descriptors.next(), first })
    }

    fn hear(&self) -> Result<(Report, Vec<OwnedFd>), Fault> {
        self.channel.receive().map_err(talk)?.ok_or_else(|| Fault {
            part: Part::Talk,
            what: "the first process ended without a word".to_owned(),
            errno: 0,
        })
    }
}

/// Hangs up, and waits until process 1, and so everything inside, has ended; how it did, if that can be known.
pub(super) fn end(channel: &Channel, first: Pid) -> Option<WaitStatus> {
    // Other handles of the channel may live on: hang up for all. If it is hung up already, so much the better.
    let _ = channel.socket().shutdown(Shutdown::Both);
    // It is our child; if somebody else has reaped it, it has ended all the same.
    waitpid(first, None).ok()
}

impl Launched {
    /// Ends a sandbox whose command was never started.
    pub(super) fn end(self) {
        let _ = end(&self.channel, self.first);
    }
}

fn fault(part: Part, what: &str) -> impl FnOnce(io::Error) -> Fault + use<> {
    let what = format!("cannot {what}");
    move |error| Fault { part, what, errno: error.raw_os_error().unwrap_or(0) }
}

fn talk(error: io::Error) -> Fault {
    fault(Part::Talk, "talk to the sandbox's first process")(error)
}

fn unexpected(report: Report) -> Fault {
    match report {
        Report::Failed(fault) => fault,
        _ => Fault { part: Part::Talk, what: "the first process said something unexpected".to_owned(), errno: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_looked_for_among_the_inner_ones() {
        assert!(holds("         0          0 4294967295\n", UNPRIVILEGED));
        assert!(!holds("0 1000 1\n", UNPRIVILEGED));
        assert!(holds("0 1000 1\n1 100000 65536\n", UNPRIVILEGED));
        assert!(!holds("nonsense\n", UNPRIVILEGED));
    }
}
