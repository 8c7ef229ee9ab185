//! A TAP or veth that a sandbox's packets come in by, wherever it stands: on the host, or in a network namespace.
//!
//! Behind it lies one sandbox with addresses of its own. Whatever gateway it was given is found: over ARP every
//! address is, over IPv6 `fe80::1` and whatever address the device was given besides.
//!
//! - `INVARIANT`: its rules stand before it is raised by us, and go only after it is gone or when it is detached.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressScope;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};

use super::error::Refusal;
use super::netlink::{Link, Netlink, absent, address, family, full, present, route_address, set_up};
use super::nft::{self, Message, Table};
use super::rules::device;
use crate::limits;

/// The address that every device with IPv6 has: link-local, so the same everywhere.
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The address that every device with IPv4 has: nobody's (RFC 7600 §4.8). The kernel asks for neighbours with it, and
/// wants one to look return paths up by the device.
const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// The kernel's settings of a device that are changed: family, name, value. Routers do not configure us; and the
/// return path of a sandbox's packets is looked up as theirs is.
const SETTINGS: [(&str, &str, &str); 3] =
    [("ipv6", "accept_ra", "0"), ("ipv4", "rp_filter", "0"), ("ipv4", "src_valid_mark", "1")];

/// A device by name, with the addresses that the sandbox behind it may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    name: String,
    addresses: Vec<IpAddr>,
}

impl Device {
    /// Takes the name of an interface, and addresses of hosts, at least one and at most
    /// [`limits::DEVICE_ADDRESSES`]; one that is given twice counts once. A link-local IPv6 address is not among them:
    /// the sandbox uses what it likes, to find its gateway.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Result<Self, Refusal> {
        const NAME_BYTES: usize = 15;
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        // These are directories of settings that are no device's.
        let taken = matches!(name, "." | ".." | "all" | "default" | "lo");
        if name.is_empty() || name.len() > NAME_BYTES || !name.bytes().all(legal) || taken {
            return Err(Refusal::Name(name.to_owned()));
        }
        let mut addresses: Vec<IpAddr> = addresses.into_iter().collect();
        addresses.sort();
        addresses.dedup();
        if let Some(&address) = addresses.iter().find(|address| !is_of_a_host(**address)) {
            return Err(Refusal::Address(address));
        }
        if addresses.is_empty() || addresses.len() > limits::DEVICE_ADDRESSES {
            return Err(Refusal::Addresses(addresses.len()));
        }
        Ok(Self { name: name.to_owned(), addresses })
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sandbox's addresses, in order, each once.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The addresses that the device itself has while it is attached, with the lengths of their prefixes.
    fn own_addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        let [ipv4, ipv6] = [IpAddr::is_ipv4, IpAddr::is_ipv6].map(|family| self.addresses.iter().any(family));
        let ipv4 = ipv4.then_some((NOBODY.into(), 32));
        ipv4.into_iter().chain(ipv6.then_some((GATEWAY.into(), 64)))
    }

    fn table(&self) -> String {
        device::table_name(&self.name)
    }

    /// Whether a link is one that can be attached.
    pub(super) fn judge(&self, link: &Link) -> Result<(), Refusal> {
        if !link.ethernet {
            return Err(Refusal::NotEthernet(self.name.clone()));
        }
        if link.enslaved { Err(Refusal::Enslaved(self.name.clone())) } else { Ok(()) }
    }

    /// Whether a link is still what was attached; if not, what it is now.
    pub(super) fn is_still(&self, link: &Link) -> Result<(), String> {
        if link.name != self.name {
            Err(format!("interface {} is now called {}", self.name, link.name))
        } else if link.enslaved {
            Err(format!("interface {} belongs to a bridge or another device now", self.name))
        } else {
            Ok(())
        }
    }

    /// What an earlier attachment under this name left.
    pub(super) fn left_behind(&self, netfilter: &Netlink) -> io::Result<Left> {
        let comment = Table::netdev(&self.table()).comment(netfilter)?;
        Ok(Left { rules: comment.is_some(), before: comment.and_then(|comment| Before::read(&comment)) })
    }

    /// Every device that has rules: its name, and its number when it was attached.
    pub(super) fn all_left_behind(netfilter: &Netlink) -> io::Result<Vec<(String, u32)>> {
        let tables = nft::netdev_tables(netfilter)?.into_iter();
        let ours = tables.filter_map(|(table, comment)| {
            let name = table.strip_prefix(device::PREFIX)?.to_owned();
            Some((name, Before::read(&comment)?.index))
        });
        Ok(ours.collect())
    }

    /// How it is before it is attached.
    pub(super) fn before(&self, link: &Link) -> Before {
        let settings = SETTINGS.map(|(family, name, _)| {
            let value = fs::read_to_string(self.setting(family, name)).unwrap_or_default();
            value.trim().to_owned()
        });
        Before { index: link.index, up: link.up, settings }
    }

    /// The rules at the device, in place of those that are `there`.
    pub(super) fn rules(&self, before: &Before, there: bool) -> Vec<Message> {
        device::declare(&self.name, &self.addresses, &before.to_string(), there)
    }

    /// Changes its settings, while it is down or guarded.
    pub(super) fn settle(&self) -> io::Result<()> {
        SETTINGS.iter().try_for_each(|(family, name, value)| self.set(family, name, value))
    }

    /// Brings it up, with the routes to the sandbox.
    pub(super) fn raise(&self, route: &Netlink, index: u32, table: u32) -> io::Result<()> {
        route.ask(set_up(index, true), 0)?;
        self.equip(route, index, table)
    }

    /// Makes the device's own addresses and the routes to the sandbox: the kernel drops them whenever the device is put
    /// down.
    pub(super) fn equip(&self, route: &Netlink, index: u32, table: u32) -> io::Result<()> {
        for (ip, prefix) in self.own_addresses() {
            let own = RouteNetlinkMessage::NewAddress(address(index, ip, prefix, AddressScope::Link));
            present(route.ask(own, NLM_F_CREATE | NLM_F_EXCL))?;
        }
        for &ip in &self.addresses {
            let way = RouteNetlinkMessage::NewRoute(way_to(ip, index, table));
            present(route.ask(way, NLM_F_CREATE | NLM_F_EXCL))?;
        }
        Ok(())
    }

    /// The same for a device that has come up again. One that has gone down, or away, since it was told of waits for
    /// what is told next.
    pub(super) fn equip_again(&self, route: &Netlink, link: &Link, table: u32) -> Result<(), String> {
        match self.equip(route, link.index, table) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENETDOWN)) => {
                Err(format!("interface {} came up, and cannot be given its routes: {error}", self.name))
            }
            _ => Ok(()),
        }
    }

    /// Puts it down if it was, and makes it as it was but for its rules, which go after it is down.
    pub(super) fn restore(&self, route: &Netlink, netfilter: &Netlink, index: u32, table: u32) -> io::Result<()> {
        let here = route.link(&self.name)?.is_some_and(|link| link.index == index);
        let before = self.left_behind(netfilter)?.of(index);
        if here {
            if before.as_ref().is_none_or(|before| !before.up) {
                absent(route.ask(set_up(index, false), 0))?;
            }
            for (ip, prefix) in self.own_addresses() {
                let own = RouteNetlinkMessage::DelAddress(address(index, ip, prefix, AddressScope::Link));
                absent(route.ask(own, 0))?;
            }
        }
        for &ip in &self.addresses {
            absent(route.ask(RouteNetlinkMessage::DelRoute(way_to(ip, index, table)), 0))?;
        }
        before.filter(|_| here).map_or(Ok(()), |before| {
            let mut settings = SETTINGS.iter().zip(&before.settings);
            settings.try_for_each(|((family, name, _), value)| self.set(family, name, value))
        })
    }

    fn setting(&self, family: &str, name: &str) -> PathBuf {
        ["/proc/sys/net", family, "conf", &self.name, name].iter().collect()
    }

    /// A setting that is not there, because the kernel has no such family, needs no value.
    fn set(&self, family: &str, name: &str, value: &str) -> io::Result<()> {
        let path = self.setting(family, name);
        if value.is_empty() || !path.exists() {
            return Ok(());
        }
        fs::write(&path, value)
            .map_err(|error| io::Error::new(error.kind(), format!("writing {}: {error}", path.display())))
    }
}

fn is_of_a_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => {
            let [first, ..] = ip.octets();
            (1..=223).contains(&first) && !ip.is_loopback() && ip != Ipv4Addr::UNSPECIFIED
        }
        IpAddr::V6(ip) => {
            let mapped = ip.to_ipv4_mapped().is_some();
            let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local();
            !mapped && !special
        }
    }
}

/// `ip route add IP dev INDEX table TABLE metric INDEX`: with a metric of its own, for other devices may have the
/// same addresses behind them.
fn way_to(ip: IpAddr, index: u32, table: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ip);
    message.header.destination_prefix_length = full(ip);
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Link;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Destination(route_address(ip)),
        RouteAttribute::Oif(index),
        RouteAttribute::Priority(index),
        RouteAttribute::Table(table),
    ];
    message
}

/// What is left under the name of a device.
#[derive(Debug, Clone)]
pub(super) struct Left {
    /// Whether there are rules.
    pub(super) rules: bool,
    /// What they are for detaching to restore: of this device, or of one that had its name.
    pub(super) before: Option<Before>,
}

impl Left {
    /// What is to be restored of the device that has this number.
    pub(super) fn of(self, index: u32) -> Option<Before> {
        self.before.filter(|before| before.index == index)
    }
}

/// How a device was before it was attached. It is kept as the comment of its table, so that it is known after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Before {
    /// Its number.
    pub(super) index: u32,
    up: bool,
    /// In the order of [`SETTINGS`]; nothing where there is no such setting.
    settings: [String; SETTINGS.len()],
}

impl fmt::Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interface {} was {}", self.index, if self.up { "up" } else { "down" })?;
        SETTINGS.iter().zip(&self.settings).try_for_each(|((_, name, _), value)| write!(f, " {name}={value}"))
    }
}

impl Before {
    fn read(comment: &str) -> Option<Self> {
        let mut words = comment.strip_prefix("interface ")?.split(' ');
        let index = words.next()?.parse().ok()?;
        let up = match (words.next()?, words.next()?) {
            ("was", "up") => true,
            ("was", "down") => false,
            _ => return None,
        };
        let mut settings = SETTINGS.map(|_| String::new());
        for ((_, name, _), value) in SETTINGS.iter().zip(&mut settings) {
            let read = words.next()?.strip_prefix(name)?.strip_prefix('=')?;
            if !read.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
                return None;
            }
            read.clone_into(value);
        }
        words.next().is_none().then_some(Self { index, up, settings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_before_is_read_as_it_was_written() {
        let before = Before { index: 7, up: false, settings: ["1", "", "-1"].map(str::to_owned) };
        let comment = before.to_string();
        assert_eq!(comment, "interface 7 was down accept_ra=1 rp_filter= src_valid_mark=-1");
        assert_eq!(Before::read(&comment), Some(before));
        for broken in ["", "lo was up", "interface 7", "interface 7 was down accept_ra=1 rp_filter=x src_valid_mark=0"]
        {
            assert_eq!(Before::read(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_device_has_a_name_and_addresses_of_hosts() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let device = Device::new("tap0", ["10.0.0.2", "fd00::2", "10.0.0.2", "169.254.3.4"].map(address)).unwrap();
        assert_eq!(device.addresses(), ["10.0.0.2", "169.254.3.4", "fd00::2"].map(address));
        for name in ["", "a/b", "a b", "..", "all", "default", "lo", "sixteen-bytes-ab", "a:1", "é"] {
            assert_eq!(Device::new(name, [address("10.0.0.2")]), Err(Refusal::Name(name.to_owned())));
        }
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.2",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "ff02::1",
            "fe80::2",
            "::ffff:10.0.0.2",
        ] {
            assert_eq!(Device::new("tap0", [address(ip)]), Err(Refusal::Address(address(ip))));
        }
        assert_eq!(Device::new("tap0", []), Err(Refusal::Addresses(0)));
        let many = (0..=limits::DEVICE_ADDRESSES).map(|n| IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]));
        assert_eq!(Device::new("tap0", many), Err(Refusal::Addresses(limits::DEVICE_ADDRESSES + 1)));
    }
}
