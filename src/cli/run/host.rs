//! What `run` takes from the host it runs on: addresses, routes, trusted certificates, homes.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Seek, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use nix::ifaddrs::getifaddrs;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{User, getuid};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::attach::netns::SANDBOX_IPV4;
use crate::ca::{Authority, bundle, jks};
use crate::policy::Protected;

/// Where systems keep the bundle of trusted certificates, in PEM.
const BUNDLES: [&str; 7] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// Where Java keeps its own.
const JAVA_STORES: [&str; 2] = ["/etc/ssl/certs/java/cacerts", "/etc/pki/java/cacerts"];
/// Below each of these lies a JDK or a JRE.
const JAVA_HOMES: [&str; 2] = ["/usr/lib/jvm", "/usr/java"];

/// Names are files' and DNS's business alone: any other service is asked over a socket.
const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n\
    protocols: files\nservices: files\nethers: files\nrpc: files\n";

/// A file for the sandbox, with where it is seen there.
pub(super) struct Overlay {
    pub(super) name: &'static str,
    pub(super) content: OwnedFd,
    pub(super) over: Vec<PathBuf>,
}

/// The files that every sandbox gets: its resolver, its name service, its trust bundle; a Java trust store where a
/// Java is found.
pub(super) fn overlays(authority: &Authority, trusted: &str) -> io::Result<Vec<Overlay>> {
    let resolver = format!("nameserver {SANDBOX_IPV4}\noptions edns0\n");
    let mut system = system_bundle();
    system.extend(b"\n");
    system.extend(trusted.bytes());
    let mut overlays = vec![
        overlay("resolv.conf", resolver.as_bytes(), vec![followed("/etc/resolv.conf")])?,
        overlay("nsswitch.conf", NSSWITCH.as_bytes(), vec![followed("/etc/nsswitch.conf")])?,
        overlay("ca-bundle.crt", &bundle::trust_bundle(&system, authority), there(BUNDLES.map(PathBuf::from)))?,
    ];
    let stores = java_stores();
    if !stores.is_empty() {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&system).flatten().collect();
        let root = authority.certificate_der();
        let all: Vec<&[u8]> = certificates.iter().map(AsRef::as_ref).chain([&**root]).collect();
        overlays.push(overlay("cacerts", &jks::trust_store(&all), stores)?);
    }
    Ok(overlays)
}

fn overlay(name: &'static str, content: &[u8], over: Vec<PathBuf>) -> io::Result<Overlay> {
    let memory = memfd_create(name, MFdFlags::MFD_CLOEXEC)?;
    let mut file = fs::File::from(memory);
    file.write_all(content)?;
    file.rewind()?;
    Ok(Overlay { name, content: file.into(), over })
}

/// The bundle that programs of this user trust: the one they are told of, or the system's.
fn system_bundle() -> Vec<u8> {
    let told = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    told.into_iter().chain(BUNDLES.map(PathBuf::from)).find_map(|path| fs::read(path).ok()).unwrap_or_default()
}

fn java_stores() -> Vec<PathBuf> {
    let mut homes: Vec<PathBuf> = std::env::var_os("JAVA_HOME").map(PathBuf::from).into_iter().collect();
    for parent in JAVA_HOMES {
        // A directory that is not there holds no Java.
        homes.extend(fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
    let below =
        homes.iter().flat_map(|home| ["lib/security/cacerts", "jre/lib/security/cacerts"].map(|p| home.join(p)));
    there(below.chain(JAVA_STORES.map(PathBuf::from)))
}

/// The paths that lead to a file, each once, links followed.
fn there(paths: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut found: Vec<_> = paths.into_iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    found.sort();
    found.dedup();
    found
}

/// Where a path leads; also when that is not there, as a link into `/run` may not be.
fn followed(path: &str) -> PathBuf {
    let path = Path::new(path);
    if let Ok(found) = fs::canonicalize(path) {
        return found;
    }
    let Ok(link) = fs::read_link(path) else { return path.to_path_buf() };
    let joined = path.parent().unwrap_or(path).join(link);
    let mut plain = PathBuf::new();
    for component in joined.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
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

/// Keeps `protected` true while addresses of the host come and go; ends only with its task.
pub(super) async fn watch_addresses(protected: &ArcSwap<Protected>, allowed: &[IpNet]) -> io::Result<Infallible> {
    /// `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR`.
    const GROUPS: [u32; 2] = [5, 9];
    let mut changes = TokioSocket::new(NETLINK_ROUTE)?;
    for group in GROUPS {
        changes.socket_mut().add_membership(group)?;
    }
    loop {
        // What changed does not matter: all addresses are read again. A lost message is an error, and says as much.
        let _ = changes.recv_from_full().await;
        protected.store(Arc::new(self::protected(allowed)?));
    }
}

/// The ranges that are protected on this host now, without those that the operator allowed.
pub(super) fn protected(allowed: &[IpNet]) -> io::Result<Protected> {
    Ok(allowed.iter().fold(Protected::new(addresses()?), |protected, cidr| protected.without(*cidr)))
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

/// The user's home directories: as the environment and as the user database have it.
pub(super) fn homes() -> Vec<PathBuf> {
    let told = std::env::var_os("HOME").filter(|home: &OsString| !home.is_empty()).map(PathBuf::from);
    let known = User::from_uid(getuid()).ok().flatten().map(|user| user.dir);
    let mut homes: Vec<_> = told.into_iter().chain(known).collect();
    homes.sort();
    homes.dedup();
    homes
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

    #[test]
    fn a_link_that_leads_nowhere_is_still_followed() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("resolv.conf");
        std::os::unix::fs::symlink("../run/not-there/stub.conf", &link).unwrap();
        let parent = directory.path().parent().unwrap();
        assert_eq!(followed(link.to_str().unwrap()), parent.join("run/not-there/stub.conf"));
    }
}
