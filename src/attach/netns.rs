//! An attachment by network namespace: our listeners stand inside the sandbox's own (HOUSE §2).
//!
//! There every address is made local, all TCP brought to one listener and all DNS to one socket. [`prepare`] does it
//! where the caller is; `attach` from outside, for a namespace that has a path: on a thread of its own that enters
//! it, makes the sockets, and ends. The sockets go to whoever serves the sandbox; its outbound sockets are made
//! elsewhere, in the host's namespace.
//!
//! A virtual machine's namespace holds TAPs besides, which are declared: its packets come in by them, and the same is
//! made of these as of its processes'.
//!
//! - `INVARIANT`: no interface leads out of the namespace: one that has any but `lo`, TAPs that were declared, and the
//!   idle tunnels of some kernels is refused, and one that comes later quarantines the sandbox. When the daemon is
//!   gone, or the rules are flushed, nothing leaves, for there is no way out.
//! - `INVARIANT`: no thread of the runtime enters a namespace.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressMessage, AddressScope};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use nix::sched::{CloneFlags, setns};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Interval, MissedTickBehavior};

use super::device::Device;
use super::error::{AttachError, AttachStep, Refusal};
use super::identity::AttachmentId;
use super::netlink::{Link, LinkWatch, Netlink, News, absent, address, family, full, route_address, set_up};
use super::nft::{self, Table};
use super::rules;
use super::rules::namespace::{LOOPBACK_INDEX, TABLE, declare};
use super::sockets::Sockets;
use super::{Attached, Attachment, AttachmentEvent, Events};
use crate::limits;

/// The sandbox's own non-loopback addresses, one of each family; the first is also its name server.
pub const SANDBOX_IPV4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// See [`SANDBOX_IPV4`].
pub const SANDBOX_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd65, 0x7865, 0x6174, 0, 0, 0, 0, 1);

/// `RT_TABLE_LOCAL`.
const TABLE_LOCAL: u8 = 255;
/// Tunnels that some kernels put into every new namespace. While they are down they lead nowhere, and raising one
/// takes `CAP_NET_ADMIN` over the namespace.
const IDLE_KINDS: [&str; 9] = ["sit", "ipip", "ip6tnl", "gre", "gretap", "ip6gre", "erspan", "vti", "vti6"];
/// What the table's comment says when detaching should put `lo` down again.
const LO_WAS_DOWN: &str = "lo was down";
/// What it says otherwise.
const LO_WAS_UP: &str = "lo was up";

/// Makes the calling thread's network namespace a sandbox's: see the module's doc. Needs `CAP_NET_ADMIN` over it.
///
/// # Errors
/// What refuses it, or the step that failed. What was done before it stays until the namespace goes.
pub fn prepare() -> Result<Sockets, AttachError> {
    Ok(stand(&route()?, &[], None)?.0)
}

fn route() -> Result<Netlink, AttachError> {
    Netlink::route().map_err(AttachError::at(AttachStep::Interfaces))
}

/// Sockets that are there already are taken; others are made. Gives the TAPs with what they are in the namespace.
fn stand(
    route: &Netlink,
    taps: &[Device],
    sockets: Option<Sockets>,
) -> Result<(Sockets, Vec<(Device, Link)>), AttachError> {
    let present = route.links().map_err(AttachError::at(AttachStep::Interfaces))?;
    let taps = find(taps, &present)?;
    let is_tap = |link: &Link| taps.iter().any(|(_, tap)| tap.index == link.index);
    if let Some(link) = present.iter().find(|link| leads_out(link) && !is_tap(link)) {
        return Err(Refusal::WayOut(link.name.clone()).into());
    }
    let sockets = match sockets {
        Some(sockets) => sockets,
        None => Sockets::listen(None).map_err(AttachError::at(AttachStep::Listen))?,
    };
    let lo_is_up = present.iter().any(|link| link.index == LOOPBACK_INDEX && link.up);
    load_rules(lo_is_up, &taps).map_err(AttachError::at(AttachStep::Rules))?;
    raise_loopback(route).map_err(AttachError::at(AttachStep::Loopback))?;
    let mut each = taps.iter();
    let raised = each.try_for_each(|(tap, link)| {
        tap.settle()?;
        tap.raise(route, link.index, TABLE_LOCAL.into())
    });
    raised.map_err(AttachError::at(AttachStep::Device))?;
    Ok((sockets, taps))
}

/// The links of the TAPs that were declared.
fn find(taps: &[Device], present: &[Link]) -> Result<Vec<(Device, Link)>, Refusal> {
    let names: BTreeSet<&str> = taps.iter().map(Device::name).collect();
    if names.len() < taps.len() || taps.len() > limits::TAPS {
        return Err(Refusal::Taps(taps.len()));
    }
    let found = taps.iter().map(|tap| {
        let link = present.iter().find(|link| link.name == tap.name());
        let link = link.ok_or_else(|| Refusal::NoInterface(tap.name().to_owned()))?;
        tap.judge(link).map(|()| (tap.clone(), link.clone()))
    });
    found.collect()
}

/// Whether packets could leave the namespace through it.
fn leads_out(link: &Link) -> bool {
    let idle = !link.up && IDLE_KINDS.contains(&link.kind.as_str());
    link.index != LOOPBACK_INDEX && !idle
}

fn load_rules(lo_is_up: bool, taps: &[(Device, Link)]) -> io::Result<()> {
    let netfilter = Netlink::netfilter()?;
    let now = if lo_is_up { LO_WAS_UP } else { LO_WAS_DOWN };
    // Where an earlier attachment was left behind, `lo` is as that one made it.
    let before = Table::inet(TABLE).comment(&netfilter)?;
    let names: Vec<&str> = taps.iter().map(|(tap, _)| tap.name()).collect();
    let mut rules = declare(before.as_deref().unwrap_or(now), before.is_some(), &names);
    for (tap, link) in taps {
        let left = tap.left_behind(&netfilter)?;
        let there = left.rules;
        rules.extend(tap.rules(&left.of(link.index).unwrap_or_else(|| tap.before(link)), there));
    }
    nft::commit(&netfilter, rules)
}

fn raise_loopback(route: &Netlink) -> io::Result<()> {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    route.ask(set_up(LOOPBACK_INDEX, true), flags)?;
    for ip in own_addresses() {
        route.ask(RouteNetlinkMessage::NewAddress(own_address(ip)), flags)?;
        route.ask(RouteNetlinkMessage::NewRoute(everything_is_local(ip)), flags)?;
    }
    Ok(())
}

/// [`SANDBOX_IPV4`], and [`SANDBOX_IPV6`] unless the namespace has IPv6 turned off on `lo`.
fn own_addresses() -> Vec<IpAddr> {
    let off = fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6").is_ok_and(|text| text.trim() == "1");
    let ipv6 = (!off).then_some(IpAddr::V6(SANDBOX_IPV6));
    std::iter::once(IpAddr::V4(SANDBOX_IPV4)).chain(ipv6).collect()
}

fn own_address(ip: IpAddr) -> AddressMessage {
    address(LOOPBACK_INDEX, ip, full(ip), AddressScope::Universe)
}

/// `ip route add local default dev lo src IP`: every address of the family is ours, and what the sandbox sends has
/// its own address as source.
fn everything_is_local(source: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(source);
    message.header.table = TABLE_LOCAL;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Host;
    message.header.kind = RouteType::Local;
    message.attributes = vec![RouteAttribute::Oif(LOOPBACK_INDEX), RouteAttribute::PrefSource(route_address(source))];
    message
}

/// What [`attach`] is asked.
#[derive(Debug)]
pub(super) struct Request {
    /// Where the namespace is found.
    pub(super) path: PathBuf,
    /// What leads to the sandbox there.
    pub(super) taps: Vec<Device>,
    /// The namespace that exeat itself is in.
    pub(super) own: AttachmentId,
    /// Whom it must be, where it was attached before.
    pub(super) expected: Option<AttachmentId>,
    /// Its sockets, where they were never closed.
    pub(super) sockets: Option<Sockets>,
}

/// Attaches a namespace by its path. Needs `CAP_SYS_ADMIN` here and `CAP_NET_ADMIN` over it.
///
/// A future that is dropped may leave rules and addresses in the namespace, but no socket: nothing leaves.
///
/// # Errors
/// What refuses it, or the step that failed.
pub(super) async fn attach(request: Request) -> Result<Attached, AttachError> {
    let Request { path, taps, own, expected, sockets } = request;
    let namespace = open(&path)?;
    let found = namespace.metadata().map_err(AttachError::at(AttachStep::Enter))?;
    let watched = path.clone();
    let runtime = Handle::current();
    let (id, (sockets, taps), links, route) = inside(&namespace, move || {
        let route = route()?;
        let id = AttachmentId::of_namespace(route.as_fd()).map_err(AttachError::at(AttachStep::Identify))?;
        if id == own {
            return Err(Refusal::OwnNamespace(path).into());
        }
        if expected.is_some_and(|expected| expected != id) {
            return Err(Refusal::Another(id).into());
        }
        // First the watch, then the look: what comes in between is seen twice, and nothing never.
        let links = {
            let _inside = runtime.enter();
            LinkWatch::open().map_err(AttachError::at(AttachStep::Watch))?
        };
        let standing = stand(&route, &taps, sockets)?;
        Ok((id, standing, links, route))
    })
    .await
    .map_err(|error| match error {
        AttachError::Failed { step: AttachStep::Enter, source } if source.raw_os_error() == Some(libc::EINVAL) => {
            Refusal::NotANamespace(watched.clone()).into()
        }
        error => error,
    })?;
    let file = (found.dev(), found.ino());
    let attached: Vec<_> = taps.iter().map(|(tap, link)| (tap.clone(), link.index)).collect();
    // Without TAPs nothing is left to be asked.
    let taps = (!taps.is_empty()).then_some(Taps { each: taps, route });
    let events = NetnsEvents { links, taps, path: watched, file, check: check(), told: false };
    let attachment = Attachment::Netns(Netns { id, namespace, taps: attached });
    Ok(Attached { attachment, sockets, events: Events::Netns(events) })
}

fn open(path: &Path) -> Result<File, AttachError> {
    // What is no namespace could block.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Refusal::NoNamespace(path.to_owned()).into(),
        _ => AttachError::Failed { step: AttachStep::Enter, source: error },
    })
}

/// Runs `work` in a network namespace, on a thread that ends with it.
async fn inside<R: Send + 'static>(
    namespace: &File,
    work: impl FnOnce() -> Result<R, AttachError> + Send + 'static,
) -> Result<R, AttachError> {
    let enter = || AttachError::at(AttachStep::Enter);
    let namespace = namespace.try_clone().map_err(enter())?;
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("attach".to_owned());
    let started = thread.spawn(move || {
        let entered = setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| enter()(errno.into()));
        // Whoever asked may have gone; then so does the result.
        drop(done.send(entered.and_then(|()| work())));
    });
    started.map_err(enter())?;
    result.await.unwrap_or_else(|_| Err(enter()(io::Error::other("the thread ended without a result"))))
}

/// An attachment by network namespace.
#[derive(Debug)]
pub struct Netns {
    id: AttachmentId,
    namespace: File,
    taps: Vec<(Device, u32)>,
}

impl Netns {
    /// Who it is.
    #[must_use]
    pub fn id(&self) -> &AttachmentId {
        &self.id
    }

    /// Takes away what attaching put into the namespace.
    pub(super) async fn detach(self) -> Result<(), AttachError> {
        inside(&self.namespace, move || restore(&self.taps).map_err(AttachError::at(AttachStep::Loopback))).await
    }
}

fn restore(taps: &[(Device, u32)]) -> io::Result<()> {
    let (netfilter, route) = (Netlink::netfilter()?, Netlink::route()?);
    let table = Table::inet(TABLE);
    let before = table.comment(&netfilter)?;
    for (tap, index) in taps {
        tap.restore(&route, &netfilter, *index, TABLE_LOCAL.into())?;
        absent(nft::commit(&netfilter, vec![rules::device::remove(tap.name())]))?;
    }
    for ip in [SANDBOX_IPV4.into(), SANDBOX_IPV6.into()] {
        absent(route.ask(RouteNetlinkMessage::DelRoute(everything_is_local(ip)), 0))?;
        absent(route.ask(RouteNetlinkMessage::DelAddress(own_address(ip)), 0))?;
    }
    if before.as_deref() == Some(LO_WAS_DOWN) {
        route.ask(set_up(LOOPBACK_INDEX, false), 0)?;
        // The kernel gives it this address when it comes up, and does not take it back.
        let given = address(LOOPBACK_INDEX, Ipv4Addr::LOCALHOST.into(), 8, AddressScope::Host);
        absent(route.ask(RouteNetlinkMessage::DelAddress(given), 0))?;
    }
    if before.is_some() { nft::commit(&netfilter, vec![table.delete()]) } else { Ok(()) }
}

/// What happens to a network namespace.
#[derive(Debug)]
pub struct NetnsEvents {
    links: LinkWatch,
    taps: Option<Taps>,
    path: PathBuf,
    /// Device and inode of what was found there.
    file: (u64, u64),
    check: Interval,
    told: bool,
}

/// The TAPs of a namespace as they were last told of, and a socket that was made in it.
#[derive(Debug)]
struct Taps {
    each: Vec<(Device, Link)>,
    route: Netlink,
}

impl Taps {
    /// Whether a TAP is still what was attached; one that came up again gets its routes. `None` for what is no TAP.
    fn judge(&mut self, now: &Link) -> Option<Result<(), String>> {
        let (tap, before) = self.each.iter_mut().find(|(_, tap)| tap.index == now.index)?;
        let raised = now.up && !before.up;
        before.clone_from(now);
        Some(tap.is_still(now).and_then(|()| match raised {
            true => tap.equip_again(&self.route, now, TABLE_LOCAL.into()),
            false => Ok(()),
        }))
    }
}

fn check() -> Interval {
    let mut check = tokio::time::interval(limits::ATTACHMENT_CHECK);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    check
}

impl NetnsEvents {
    pub(super) async fn next(&mut self) -> AttachmentEvent {
        loop {
            let news = tokio::select! {
                _ = self.check.tick() => {
                    if self.is_there() { continue } else { return AttachmentEvent::Gone }
                }
                // A quarantine is told once; what is left to tell is that the namespace is gone.
                news = self.links.next(), if !self.told => news,
            };
            let reason = match news {
                Ok(News::Link(link)) => match self.judge(&link) {
                    Ok(()) => continue,
                    Err(reason) => reason,
                },
                Ok(News::Gone(index)) if self.is_tap(index) => return AttachmentEvent::Gone,
                Ok(News::Gone(_) | News::Lost | News::All) => continue,
                Ok(News::Unreadable) => "an interface is in the namespace that cannot be told".to_owned(),
                Err(error) => format!("the interfaces of the namespace cannot be watched: {error}"),
            };
            self.told = true;
            return AttachmentEvent::Quarantined(reason);
        }
    }

    /// Whether an interface may be there as it is; if not, why.
    fn judge(&mut self, link: &Link) -> Result<(), String> {
        let mut taps = self.taps.iter_mut();
        if let Some(judged) = taps.find_map(|taps| taps.judge(link)) {
            return judged;
        }
        if leads_out(link) { Err(format!("interface {} is in the namespace", link.name)) } else { Ok(()) }
    }

    fn is_tap(&self, index: u32) -> bool {
        self.taps.iter().flat_map(|taps| &taps.each).any(|(_, tap)| tap.index == index)
    }

    /// Whether the path still leads to the namespace. That one lives as long as our sockets do, so its inode is not
    /// given to another.
    fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_idle_tunnels_lead_nowhere() {
        let link = |index, name: &str, kind: &str, up| Link {
            index,
            name: name.to_owned(),
            up,
            ethernet: false,
            kind: kind.to_owned(),
            enslaved: false,
        };
        for idle in [
            link(1, "lo", "", true),
            link(1, "lo", "", false),
            link(2, "sit0", "sit", false),
            link(3, "tunl0", "ipip", false),
        ] {
            assert!(!leads_out(&idle), "{idle:?}");
        }
        for way_out in [
            link(2, "sit0", "sit", true),
            link(2, "eth0", "veth", false),
            link(2, "eth0", "", false),
            link(2, "lo", "dummy", true),
            link(2, "sit0", "veth", false),
        ] {
            assert!(leads_out(&way_out), "{way_out:?}");
        }
    }
}
