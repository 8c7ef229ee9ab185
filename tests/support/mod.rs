//! The rig: real sandboxes against origins that keep every byte they were sent.
//!
//! A [`world::World`] is a small Internet (`allowed.rig`, `evil.rig` and their kin, each with a recording origin) and
//! an identity under which `exeat` runs. Tests are written once and run in every world that this machine allows:
//!
//! - *loopback*: origins on 127.0.0.1, reached with `--resolve`, `--upstream-ca` and `--allow-protected`. It needs no
//!   privilege.
//! - *wide*: two network namespaces joined by a veth; origins on invented public addresses, a DNS server under the
//!   test's control, the rig's root among the system's. It needs root; `exeat` then runs as root and as an ordinary
//!   user. Without root it is skipped, and says so.

#![allow(dead_code, reason = "each test binary uses its part of the rig")]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

pub(crate) mod exeat;
pub(crate) mod names;
pub(crate) mod origin;
pub(crate) mod place;
pub(crate) mod world;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long anything may take on a loaded machine before the test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Says, once for each reason, what is not tried on this machine. It is written past the test runner, which keeps what
/// a passing test prints.
pub(crate) fn skipped(why: &'static str) {
    static SAID: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    if SAID.lock().expect("no panic").insert(why) {
        writeln!(std::io::stderr(), "SKIPPED: {why}").expect("standard error is open");
    }
}

/// Whether programs that name system calls by x86-64's numbers mean anything here; where not, it says so.
pub(crate) fn numbers_hold() -> bool {
    let hold = cfg!(target_arch = "x86_64");
    if !hold {
        skipped("programs that name system calls by x86-64's numbers");
    }
    hold
}

/// Asks until the answer is yes, for what gives no event (another process's state, bytes on their way); `false` after
/// [`PATIENCE`]. The only sleep in the tests.
pub(crate) fn eventually(mut answer: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !answer() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
