//! What the host is: its addresses and routes, and the certificates that it trusts.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use nix::ifaddrs::getifaddrs;

use crate::policy::Protected;

/// Where systems keep the bundle of trusted certificates, in PEM.
pub(super) const BUNDLES: [&str; 7] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// The bundle that programs of this user trust: the one they are told of, or the system's.
pub(super) fn system_bundle() -> Vec<u8> {
    let told = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    told.into_iter().chain(BUNDLES.map(PathBuf::from)).find_map(|path| fs::read(path).ok()).unwrap_or_default()
}

/// Every address of the host: protected, whatever range it lies in (POLICY §3).
fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for interface in getifaddrs()? {
        let Some(address) = interface.address else { continue };
        let ipv4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        addresses.extend(ipv4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()))));
    }
    Ok(addresses)
}

/// The ranges that are protected on this host, kept true while its addresses come and go and the settings change.
pub(super) struct Guard {
    protected: Arc<ArcSwap<Protected>>,
    /// Protected as the host's own addresses are.
    kin: Vec<IpAddr>,
    /// Taken out of protection. Held while what follows from it is made, so that two changes do not cross.
    allowed: Mutex<Vec<IpNet>>,
}

impl Guard {
    /// As it is now, without what the operator allows. `kin` is protected as the host's own addresses are.
    ///
    /// # Errors
    /// The addresses of the host cannot be listed.
    pub(super) fn new(kin: Vec<IpAddr>, allowed: Vec<IpNet>) -> io::Result<Self> {
        let protected = Arc::new(ArcSwap::from_pointee(protected(&kin, &allowed)?));
        Ok(Self { protected, kin, allowed: Mutex::new(allowed) })
    }

    /// What is protected at any time.
    pub(super) fn protected(&self) -> &Arc<ArcSwap<Protected>> {
        &self.protected
    }

    /// What the operator allows from now on.
    ///
    /// # Errors
    /// The addresses of the host cannot be listed; nothing has changed.
    pub(super) fn allow(&self, allowed: &[IpNet]) -> io::Result<()> {
        let mut held = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        self.protected.store(Arc::new(protected(&self.kin, allowed)?));
        *held = allowed.to_vec();
        Ok(())
    }

    fn refresh(&self) -> io::Result<()> {
        let allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        self.protected.store(Arc::new(protected(&self.kin, &allowed)?));
        Ok(())
    }

    /// Follows the host's addresses; ends only with its task.
    pub(super) async fn watch(&self) -> io::Result<Infallible> {
        /// `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR`.
        const GROUPS: [u32; 2] = [5, 9];
        let mut changes = TokioSocket::new(NETLINK_ROUTE)?;
        for group in GROUPS {
            changes.socket_mut().add_membership(group)?;
        }
        loop {
            // What changed does not matter: all addresses are read again. A lost message is an error, and says as much.
            let _ = changes.recv_from_full().await;
            self.refresh()?;
        }
    }
}

/// The ranges that are protected on this host now, without those that the operator allowed.
fn protected(kin: &[IpAddr], allowed: &[IpNet]) -> io::Result<Protected> {
    let own = addresses()?.into_iter().chain(kin.iter().copied());
    Ok(allowed.iter().fold(Protected::new(own), |protected, cidr| protected.without(*cidr)))
}

/// Whether the host has a way to IPv6 addresses: else none is answered (POLICY §5).
pub(super) fn has_ipv6_route() -> bool {
    fs::read_to_string("/proc/net/ipv6_route").is_ok_and(|routes| routes.lines().any(is_ipv6_default))
}

/// A line of `/proc/net/ipv6_route` for `::/0` that is up, rejects nothing, and leads through a device but `lo`.
fn is_ipv6_default(line: &str) -> bool {
    const UP: u32 = 0x1;
    const REJECT: u32 = 0x200;
    let columns: Vec<_> = line.split_whitespace().collect();
    let [destination, length, .., flags, device] = columns.as_slice() else { return false };
    let flags = u32::from_str_radix(flags, 16).unwrap_or(REJECT);
    destination.bytes().all(|digit| digit == b'0')
        && *length == "00"
        && flags & UP != 0
        && flags & REJECT == 0
        && *device != "lo"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_usable_default_route_counts_as_ipv6() {
        let zeros = "0".repeat(32);
        let line = |length: &str, flags: &str, device: &str| {
            format!("{zeros} {length} {zeros} 00 {zeros} 00000400 00000001 00000000 {flags} {device}")
        };
        assert!(is_ipv6_default(&line("00", "00450003", "eth0")));
        assert!(!is_ipv6_default(&line("00", "00200200", "lo")), "the kernel's own unreachable route");
        assert!(!is_ipv6_default(&line("00", "00450203", "eth0")), "a rejecting route");
        assert!(!is_ipv6_default(&line("40", "00450003", "eth0")), "not the default");
    }
}
