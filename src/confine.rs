//! What a network namespace does not confine, and what `run` does about each (HOUSE §2).
//!
//! | way out | closed by |
//! |---|---|
//! | Unix sockets (docker.sock, D-Bus, agents) | private `/run`, [`masks`]; abstract ones by the network namespace |
//! | VSOCK, packet, crypto … sockets; io_uring; keyrings | [`seccomp`] |
//! | typing into the user's terminal | a new pseudo-terminal and session; [`seccomp`] for TIOCSTI and TIOCLINUX |
//! | other processes | a PID namespace with its own `/proc` |
//! | kernel settings | `/proc/sys`, `/sys`, sysrq read-only |
//! | credentials in files and variables | [`masks`], [`environment`] |
//!
//! It never confines the disk: what the user may read and write, the sandbox may, but for what is masked.

mod aliases;
pub mod environment;
pub mod masks;
pub mod mounts;
pub mod seccomp;

/// Where a sandbox finds what exeat puts into it: a directory of the private `/run`.
pub const DIRECTORY: &str = "/run/exeat";

/// The trust bundle inside: the system's certificates and the sandbox's root.
pub const BUNDLE: &str = "/run/exeat/ca-bundle.crt";
