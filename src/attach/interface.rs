//! An attachment by an interface on the host: a TAP or veth whose other end is the sandbox's (HOUSE §2).
//!
//! TPROXY hands its connections and questions to listeners that are bound to it. This way in fails open by nature, so
//! what confines it are drops of its own, which stand by themselves:
//!
//! - `INVARIANT`: an interface is raised only behind its rules, and they go only after it is gone, or, when it is
//!   detached, after it is down. Neither a drop nor the end of the process takes them away.
//! - `INVARIANT`: a sandbox reaches its listener, or nothing: no service of the host, no other sandbox, no route.
//! - `INVARIANT`: what is changed on the host beside the interface is shared by all that are attached, and gone with
//!   the last.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::device::{Before, Device};
use super::error::{AttachError, AttachStep, Refusal};
use super::host::waiting;
use super::identity::AttachmentId;
use super::netlink::{Link, LinkWatch, Netlink, News, RulesWatch, absent, set_up};
use super::sockets::Sockets;
use super::{Attached, Attachment, AttachmentEvent, Events};
use super::{nft, routing, rules};

/// The interfaces of one network namespace that this process has attached.
#[derive(Debug)]
pub(super) struct Interfaces {
    own: AttachmentId,
    /// Held while something is attached or detached: each counts on what it finds.
    kernel: Mutex<Kernel>,
    /// By their numbers; `None` when changes are not told any more.
    watched: Mutex<Option<HashMap<u32, Watched>>>,
}

/// An interface that somebody is told about.
#[derive(Debug)]
struct Watched {
    device: Device,
    before: Before,
    up: bool,
    quarantined: bool,
    /// Whether it was told of since messages were lost.
    seen: bool,
    tell: mpsc::UnboundedSender<AttachmentEvent>,
}

/// The sockets to the kernel that a change takes.
#[derive(Debug)]
struct Kernel {
    route: Netlink,
    netfilter: Netlink,
}

impl Interfaces {
    /// Of the caller's network namespace, which has this identity.
    pub(super) fn open(own: AttachmentId) -> io::Result<Self> {
        let kernel = Mutex::new(Kernel { route: Netlink::route()?, netfilter: Netlink::netfilter()? });
        Ok(Self { own, kernel, watched: Mutex::new(Some(HashMap::new())) })
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches an interface; it waits for the kernel.
    ///
    /// # Errors
    /// What refuses it, or the step that failed; then it is as it was before.
    pub(super) fn attach(
        self: &Arc<Self>,
        device: &Device,
        expected: Option<&AttachmentId>,
        sockets: Option<Sockets>,
    ) -> Result<Attached, AttachError> {
        let at = AttachError::at;
        let kernel = self.kernel();
        let link = kernel.route.link(device.name()).map_err(at(AttachStep::Interfaces))?;
        let link = link.ok_or_else(|| Refusal::NoInterface(device.name().to_owned()))?;
        let id = self.own.clone().with_interface(link.index);
        if expected.is_some_and(|expected| *expected != id) {
            return Err(Refusal::Another(id).into());
        }
        device.judge(&link)?;
        let left = device.left_behind(&kernel.netfilter).map_err(at(AttachStep::Rules))?;
        let guarded = left.before.as_ref().is_some_and(|before| before.index == link.index);
        if link.up && !guarded {
            return Err(Refusal::Up(link.name).into());
        }
        let recycled = left.before.as_ref().filter(|_| !guarded).map(|before| before.index);
        let there = left.rules;
        let before = left.of(link.index).unwrap_or_else(|| device.before(&link));
        let events = self.watch(device, &link, &before)?;
        let interface = Interface { id, index: link.index, device: device.clone(), all: Arc::clone(self) };
        match stand(&kernel, device, (&before, there), sockets) {
            Ok(sockets) => {
                if let Some(recycled) = recycled {
                    forget_number(&kernel, recycled).map_err(at(AttachStep::Rules))?;
                }
                let events = Events::Interface(InterfaceEvents { events, gone: false, alone: false });
                Ok(Attached { attachment: Attachment::Interface(interface), sockets, events })
            }
            Err(error) => {
                self.forget(link.index);
                // What was left behind stays guarded as it was; what is new goes. Of two errors the first counts.
                if !guarded {
                    drop(interface.remove(&kernel));
                }
                Err(error)
            }
        }
    }

    /// Takes away the rules of interfaces that are gone and were never detached. Returns who is still there, guarded,
    /// without being attached.
    pub(super) fn sweep(&self) -> io::Result<Vec<AttachmentId>> {
        let kernel = self.kernel();
        let mut left = Vec::new();
        for (name, index) in Device::all_left_behind(&kernel.netfilter)? {
            match kernel.route.link(&name)? {
                None => remove_rules(&kernel, &name, index)?,
                Some(_) if self.is_watched(index) => {}
                Some(_) => left.push(self.own.clone().with_interface(index)),
            }
        }
        Ok(left)
    }

    fn watched(&self) -> MutexGuard<'_, Option<HashMap<u32, Watched>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_watched(&self, index: u32) -> bool {
        self.watched().as_ref().is_some_and(|watched| is_told(watched, index))
    }

    fn forget(&self, index: u32) {
        if let Some(watched) = self.watched().as_mut() {
            watched.remove(&index);
        }
    }

    /// From before its rules are made, so that nothing is missed.
    fn watch(
        &self,
        device: &Device,
        link: &Link,
        before: &Before,
    ) -> Result<mpsc::UnboundedReceiver<AttachmentEvent>, AttachError> {
        let mut watched = self.watched();
        let Some(watched) = watched.as_mut() else {
            let source = io::Error::other("the kernel has stopped telling of changes");
            return Err(AttachError::Failed { step: AttachStep::Watch, source });
        };
        if is_told(watched, link.index) {
            return Err(Refusal::Taken.into());
        }
        if let Some(ip) = device.addresses().iter().find(|ip| cannot_be_shared(ip) && has(watched, ip)) {
            return Err(Refusal::Shared(*ip).into());
        }
        let (tell, events) = mpsc::unbounded_channel();
        let (device, before) = (device.clone(), before.clone());
        let new = Watched { device, before, up: link.up, quarantined: false, seen: true, tell };
        watched.insert(link.index, new);
        Ok(events)
    }

    /// Tells those who watch, and gives an interface that comes up again its routes. Ends when the kernel tells
    /// nothing any more: then all are quarantined, and none is attached.
    pub(super) async fn follow(&self, mut links: LinkWatch, route: Netlink) {
        loop {
            let news = links.next().await;
            let mut state = self.watched();
            let Some(watched) = state.as_mut() else { return };
            match news {
                Ok(News::Link(link)) => {
                    if let Some(interface) = watched.get_mut(&link.index) {
                        interface.see(&link, &route);
                    }
                }
                Ok(News::Gone(index)) => {
                    if let Some(gone) = watched.remove(&index) {
                        gone.tell(AttachmentEvent::Gone);
                    }
                }
                Ok(News::Lost) => watched.values_mut().for_each(|interface| interface.seen = false),
                Ok(News::All) => {
                    for (_, gone) in watched.extract_if(|_, interface| !interface.seen) {
                        gone.tell(AttachmentEvent::Gone);
                    }
                }
                Ok(News::Unreadable) => {
                    let reason = "an interface of the host has changed in a way that is not understood";
                    watched.values_mut().for_each(|interface| interface.quarantine(reason.to_owned()));
                }
                Err(error) => {
                    drop(state);
                    return self.give_up(&error);
                }
            }
        }
    }

    /// Makes tables again whenever somebody takes them away (`nft flush ruleset`), and tells. Ends when
    /// the kernel tells nothing any more, as [`follow`](Self::follow) does.
    pub(super) async fn mend(self: Arc<Self>, rules: RulesWatch) {
        let port = self.kernel().netfilter.port();
        let ours = |table: &str| table == rules::host::TABLE || table.starts_with(rules::device::PREFIX);
        loop {
            let taken = rules.taken(port, ours).await;
            let all = Arc::clone(&self);
            let mended = waiting(move || {
                let kernel = all.kernel();
                all.make_again(&kernel).map_err(AttachError::at(AttachStep::Rules))
            });
            if let Err(error) = taken {
                return self.give_up(&error);
            }
            if let Err(error) = mended.await {
                self.quarantine_all(&format!("its rules were taken away, and cannot be made again: {error}"));
            }
        }
    }

    /// What is there is left as it is: another process of ours may have made it just now.
    fn make_again(&self, kernel: &Kernel) -> io::Result<()> {
        let watched = self.watched();
        let shared = nft::Table::inet(rules::host::TABLE).comment(&kernel.netfilter)?;
        let stands = rules::host::is_current(shared.as_deref());
        let (mut messages, mut mended) = (Vec::new(), Vec::new());
        for (index, interface) in watched.iter().flatten() {
            let guarded = interface.device.left_behind(&kernel.netfilter)?.rules;
            if !guarded {
                messages.extend(interface.device.rules(&interface.before, false));
            }
            if !guarded || !stands {
                mended.push((*index, interface));
            }
        }
        if mended.is_empty() {
            return Ok(());
        }
        let mut members = if stands { Vec::new() } else { Device::all_left_behind(&kernel.netfilter)? };
        members.extend(mended.iter().map(|(index, one)| (one.device.name().to_owned(), *index)));
        messages.extend(rules::host::declare(shared.as_deref(), &members));
        nft::commit(&kernel.netfilter, messages)?;
        mended.iter().for_each(|(_, interface)| interface.tell(AttachmentEvent::Mended));
        Ok(())
    }

    fn quarantine_all(&self, reason: &str) {
        let mut watched = self.watched();
        watched.iter_mut().flat_map(HashMap::values_mut).for_each(|interface| interface.quarantine(reason.to_owned()));
    }

    /// Nobody can be confined whom nobody watches.
    fn give_up(&self, error: &io::Error) {
        self.quarantine_all(&format!("the host cannot be watched: {error}"));
        *self.watched() = None;
    }
}

/// Whether the kernel's return path filter looks up where an address comes from without the device.
fn cannot_be_shared(ip: &IpAddr) -> bool {
    let strict = || fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").is_ok_and(|text| text.trim() == "1");
    ip.is_ipv4() && strict()
}

/// Whether somebody listens to what happens to an interface.
fn is_told(watched: &HashMap<u32, Watched>, index: u32) -> bool {
    watched.get(&index).is_some_and(|interface| !interface.tell.is_closed())
}

fn has(watched: &HashMap<u32, Watched>, ip: &IpAddr) -> bool {
    watched.values().any(|other| other.device.addresses().contains(ip))
}

impl Watched {
    fn tell(&self, event: AttachmentEvent) {
        // Who does not listen need not be told.
        let _ = self.tell.send(event);
    }

    fn quarantine(&mut self, reason: String) {
        if !self.quarantined {
            self.quarantined = true;
            self.tell(AttachmentEvent::Quarantined(reason));
        }
    }

    fn see(&mut self, link: &Link, route: &Netlink) {
        let raised = link.up && !self.up;
        let judged = self.device.is_still(link).and_then(|()| match raised {
            true => self.device.equip_again(route, link, routing::SANDBOXES),
            false => Ok(()),
        });
        (self.up, self.seen) = (link.up, true);
        if let Err(reason) = judged {
            // Its rules may not be before what it is now: it is put down at once. Where that fails, it is gone.
            let _ = route.ask(set_up(link.index, false), 0);
            self.quarantine(reason);
        }
    }
}

/// Guards the interface, in place of the rules that are `there`, then raises it. Sockets that are there already are
/// taken; others are made.
fn stand(
    kernel: &Kernel,
    device: &Device,
    (before, there): (&Before, bool),
    sockets: Option<Sockets>,
) -> Result<Sockets, AttachError> {
    let at = AttachError::at;
    let sockets = match sockets {
        Some(sockets) => sockets,
        None => Sockets::listen(Some(device.name())).map_err(at(AttachStep::Listen))?,
    };
    guard(kernel, device, before, there).map_err(at(AttachStep::Rules))?;
    device.settle().map_err(at(AttachStep::Device))?;
    routing::declare(&kernel.route).map_err(at(AttachStep::Routing))?;
    device.raise(&kernel.route, before.index, routing::SANDBOXES).map_err(at(AttachStep::Device))?;
    // Rules and sockets go by the name: it must have been the same device all the time.
    let now = kernel.route.link(device.name()).map_err(at(AttachStep::Interfaces))?;
    match now {
        Some(link) if link.index == before.index => Ok(device.judge(&link).map(|()| sockets)?),
        _ => Err(Refusal::NoInterface(device.name().to_owned()).into()),
    }
}

/// The rules at the interface, and its part of those that all share. Where these have to be made, so have the parts of
/// those that are attached already.
fn guard(kernel: &Kernel, device: &Device, before: &Before, there: bool) -> io::Result<()> {
    let shared = nft::Table::inet(rules::host::TABLE).comment(&kernel.netfilter)?;
    let mut guarded = match rules::host::is_current(shared.as_deref()) {
        true => Vec::new(),
        false => Device::all_left_behind(&kernel.netfilter)?,
    };
    guarded.push((device.name().to_owned(), before.index));
    let mut messages = device.rules(before, there);
    messages.extend(rules::host::declare(shared.as_deref(), &guarded));
    nft::commit(&kernel.netfilter, messages)
}

/// The name has come to another interface: the number of the one that had it is nobody's.
fn forget_number(kernel: &Kernel, index: u32) -> io::Result<()> {
    let mut messages = rules::host::remove(None, index, false).into_iter();
    messages.try_for_each(|message| absent(nft::commit(&kernel.netfilter, vec![message])))
}

/// Takes away the rules of an interface that is gone, or down; and what all share, with the last.
fn remove_rules(kernel: &Kernel, name: &str, index: u32) -> io::Result<()> {
    let mut others = Device::all_left_behind(&kernel.netfilter)?;
    let recycled = others.iter().any(|(other, number)| other == name && *number != index);
    others.retain(|(_, number)| *number != index);
    let name = (!recycled).then_some(name);
    for message in rules::host::remove(name, index, others.is_empty()) {
        absent(nft::commit(&kernel.netfilter, vec![message]))?;
    }
    if let Some(name) = name {
        absent(nft::commit(&kernel.netfilter, vec![rules::device::remove(name)]))?;
    }
    if others.is_empty() { routing::remove(&kernel.route) } else { Ok(()) }
}

/// An attachment by an interface on the host.
#[derive(Debug)]
pub struct Interface {
    id: AttachmentId,
    index: u32,
    device: Device,
    all: Arc<Interfaces>,
}

impl Interface {
    /// Who it is.
    #[must_use]
    pub fn id(&self) -> &AttachmentId {
        &self.id
    }

    /// Nobody here is told of it any more, and its rules are not made again.
    pub(super) fn leave(&self) {
        self.all.forget(self.index);
    }

    /// Puts the interface down, if it is there, and takes away what attaching made; it waits for the kernel.
    pub(super) fn detach(&self) -> Result<(), AttachError> {
        let kernel = self.all.kernel();
        self.all.forget(self.index);
        self.remove(&kernel).map_err(AttachError::at(AttachStep::Device))
    }

    fn remove(&self, kernel: &Kernel) -> io::Result<()> {
        self.device.restore(&kernel.route, &kernel.netfilter, self.index, routing::SANDBOXES)?;
        remove_rules(kernel, self.device.name(), self.index)
    }
}

/// What happens to an interface.
#[derive(Debug)]
pub struct InterfaceEvents {
    events: mpsc::UnboundedReceiver<AttachmentEvent>,
    gone: bool,
    /// Whether it was told that nobody watches it.
    alone: bool,
}

impl InterfaceEvents {
    pub(super) async fn next(&mut self) -> AttachmentEvent {
        if self.gone {
            return AttachmentEvent::Gone;
        }
        match self.events.recv().await {
            Some(event) => {
                self.gone = event == AttachmentEvent::Gone;
                event
            }
            None if self.alone => std::future::pending().await,
            None => {
                self.alone = true;
                AttachmentEvent::Quarantined("nobody watches it any more".to_owned())
            }
        }
    }
}
