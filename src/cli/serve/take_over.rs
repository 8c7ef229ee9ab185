//! A daemon hands over to its successor, without a moment in which nobody serves, or two do.
//!
//! The successor (`exeat serve --take-over`) connects to a socket in the state directory. Over it go the descriptors
//! of all that a daemon listens on, and what only memory holds; then the one before takes no more, and stays until
//! the flows that it has are finished. What each says, in order:
//!
//! | the successor | | the one before |
//! |---|---|---|
//! | `Hello`: its protocol | → | `Refused`, with a sentence, and goes on as before; or `Welcome` |
//! | | ← | *answers no more control requests: who connects waits in the socket; ends the changes under way; closes the store* |
//! | collects | ← | `Lock`, `Control`, `Sandbox` …, `Whole`: descriptors, tallies, pins |
//! | *opens the store; takes up each attachment, with the sockets that it was given, at rest* | | judges flows as before, and tells of each pin and tally that changes |
//! | `Ready` | → | *takes no more flows and questions: who comes waits in the sockets* |
//! | | ← | `Yours`: the numbers of the next flows, the stand-ins |
//! | *takes flows and questions* | | |
//! | `Serving` | → | **has handed over**; finishes its flows |
//! | *answers control requests* | ← | `Retired` |
//! | `Order`: a policy, an end … | → | `Done`: it is in force for all that it still has |
//!
//! Each socket is one open file from beginning to end, so no connection is refused; and there is no change of policy
//! between `Whole` and `Serving`, so the two judge by the same policies wherever a connection is accepted. Afterwards
//! every change of the successor's is ordered before its own caller is answered (POLICY §8).
//!
//! # When one of them dies
//! - `INVARIANT`: a daemon serves a state directory only while its process holds the directory's lock, which is one
//!   open file and passes from hand to hand: a third daemon cannot begin in between. Whoever has handed over lets it
//!   go.
//! - `INVARIANT`: the successor changes nothing that lasts (the store, a policy, an attachment's identity) before its
//!   `Serving` has been sent. Sent is heard: what was written to a Unix socket is read before its end is, even if
//!   the writer is killed.
//! - `INVARIANT`: the one before closes the talk only by ending, or with the successor dead: one that does not say what
//!   it should in time is killed first, by a handle that is no other process's.
//!
//! So each knows where the other stands from the talk's end alone, with no time-out to tell them:
//!
//! | the talk ends | it means | what happens |
//! |---|---|---|
//! | before `Serving` was heard | the successor is dead, and has changed nothing | the one before takes, answers and stores again |
//! | before `Serving` was sent | the one before is dead | the successor goes on with what it has, as after any crash; sockets that it was given never closed |
//! | after `Serving`, at the one before | the successor is dead | it cuts its flows, for nobody tells it of changes, and ends; whoever is started next takes up what is stored |
//! | after `Serving`, at the successor | the one before is finished or dead, and its flows with it | nothing: there is nobody to wait for |
//!
//! # What may differ between the two
//! `Hello`, `Refused` and `Welcome` have this form in every version; the rest is of one [`wire::PROTOCOL`]. The rules
//! of an attachment name the port and the mark of its sockets, so a version that changes these has another protocol.
//! Settings by which flows are judged may differ: then the one before judges what it has by the successor's.
//!
//! `INVARIANT`: only a process of the same user is talked to, on either side; the socket is its owner's alone.

pub(super) mod before;
pub(super) mod handing;
pub(super) mod receiving;
mod talk;
pub(super) mod wire;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Pid, geteuid};

pub(super) use self::talk::Say;
use crate::sys;

/// Where a daemon is asked to hand over.
pub(super) fn socket(state: &Path) -> PathBuf {
    state.join("take-over.sock")
}

/// The process at the other end, and its number, if it is this user's.
fn peer(stream: &UnixStream) -> io::Result<(sys::Process, Pid)> {
    let peer = getsockopt(&stream.as_fd(), sockopt::PeerCredentials)?;
    if peer.uid() != geteuid().as_raw() {
        let message = format!("the other process is of user {}, and not of this one", peer.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let pid = Pid::from_raw(peer.pid());
    Ok((sys::Process::open(pid)?, pid))
}
