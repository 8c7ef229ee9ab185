//! Why something could not be attached: because of what it is, or because the kernel would not.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use super::identity::AttachmentId;
use super::sockets::LISTENER_PORT;
use crate::limits;

/// Why there is no attachment.
#[derive(Debug)]
pub enum AttachError {
    /// It cannot be attached as it is; whoever asked for it can change that.
    Refused(Refusal),
    /// The kernel would not.
    Failed {
        /// What was being done.
        step: AttachStep,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What is attached in steps; in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachStep {
    /// Entering the sandbox's network namespace.
    Enter,
    /// Reading who it is.
    Identify,
    /// Looking for interfaces that lead out.
    Interfaces,
    /// The listening sockets.
    Listen,
    /// Bringing `lo` up, with its addresses and the routes that make every address local.
    Loopback,
    /// The nftables batch, with its TPROXY rules.
    Rules,
    /// The settings, addresses and routes of a device.
    Device,
    /// The routing on the host that TPROXY needs.
    Routing,
    /// Watching for changes.
    Watch,
}

/// What is wrong with what should be attached.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing is at the path.
    NoNamespace(PathBuf),
    /// What is at the path is no network namespace.
    NotANamespace(PathBuf),
    /// It is the one that exeat itself is in.
    OwnNamespace(PathBuf),
    /// An interface in the namespace may lead out.
    WayOut(String),
    /// Somebody has our sockets' port there.
    Taken,
    /// No interface can have this name, or none that is attached.
    Name(String),
    /// No host has this address, or none that is attached.
    Address(IpAddr),
    /// So many addresses: there should be one at least, and [`limits::DEVICE_ADDRESSES`] at most.
    Addresses(usize),
    /// So many TAPs: there should be [`limits::TAPS`] at most, each named once.
    Taps(usize),
    /// There is no interface of this name.
    NoInterface(String),
    /// The interface is no TAP and no veth.
    NotEthernet(String),
    /// The interface belongs to a bridge or another device, which takes its packets.
    Enslaved(String),
    /// The interface is up without having been attached, so packets pass already.
    Up(String),
    /// Another interface has this address behind it, and the kernel's return path filter lets only one.
    Shared(IpAddr),
    /// It is not what was attached before, but this.
    Another(AttachmentId),
}

impl AttachError {
    /// Makes an error of the kernel's answer to a step.
    pub(super) fn at(step: AttachStep) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.raw_os_error() {
            Some(libc::EADDRINUSE) if step == AttachStep::Listen => Self::Refused(Refusal::Taken),
            _ => Self::Failed { step, source },
        }
    }
}

impl From<Refusal> for AttachError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Failed { step, .. } => f.write_str(match step {
                AttachStep::Enter => "cannot enter the network namespace",
                AttachStep::Identify => "cannot tell which network namespace this is (Linux 5.14 or later can)",
                AttachStep::Interfaces => "cannot make sure that no interface leads out of the sandbox",
                AttachStep::Listen => "cannot listen inside the sandbox",
                AttachStep::Loopback => "cannot set up the loopback interface of the sandbox",
                AttachStep::Rules => "cannot load the nftables rules (TPROXY) of the sandbox",
                AttachStep::Device => "cannot set up the interface of the sandbox",
                AttachStep::Routing => "cannot set up the routing that TPROXY needs",
                AttachStep::Watch => "cannot watch the interfaces of the sandbox",
            }),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNamespace(path) => write!(f, "there is no network namespace at {}", path.display()),
            Self::NotANamespace(path) => write!(f, "{} is no network namespace", path.display()),
            Self::OwnNamespace(path) => {
                write!(f, "{} is the network namespace of exeat itself, not a sandbox's", path.display())
            }
            Self::WayOut(name) => write!(
                f,
                "interface {name} is in the namespace, and may lead out of it: a sandbox's holds `lo` and TAPs that \
                 were declared, no other (with container engines: `--network none`)"
            ),
            Self::Taken => {
                write!(f, "port {LISTENER_PORT} is in use there: it is attached already, or a program inside has it")
            }
            Self::Name(name) => write!(f, "{name:?} is no name of an interface that can be attached"),
            Self::Address(ip) => write!(f, "{ip} is no address that a sandbox can have: it takes one of a host"),
            Self::Addresses(count) => {
                write!(f, "{count} addresses: a sandbox has 1 to {} on an interface", limits::DEVICE_ADDRESSES)
            }
            Self::Taps(count) => {
                write!(f, "{count} TAPs: a namespace has {} at most, each named once", limits::TAPS)
            }
            Self::NoInterface(name) => write!(f, "there is no interface {name}"),
            Self::NotEthernet(name) => write!(f, "interface {name} is no TAP and no veth"),
            Self::Enslaved(name) => write!(
                f,
                "interface {name} belongs to a bridge or another device, which takes its packets: `ip link set {name} \
                 nomaster`"
            ),
            Self::Up(name) => write!(
                f,
                "interface {name} is up, so packets may pass already: put it down (`ip link set {name} down`), and \
                 attaching raises it"
            ),
            Self::Shared(ip) => write!(
                f,
                "another interface has {ip} behind it, too, which net.ipv4.conf.all.rp_filter=1 does not allow: set it \
                 to 2 or 0"
            ),
            Self::Another(found) => write!(f, "this is not what was attached before, but {found}"),
        }
    }
}

impl std::error::Error for AttachError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(_) => None,
            Self::Failed { source, .. } => Some(source),
        }
    }
}
