//! What `run` takes from the host it runs on into the sandbox: its resolver's place, trusted certificates, homes.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{User, getuid};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::attach::netns::SANDBOX_IPV4;
use crate::ca::{Authority, bundle, jks};
use crate::cli::host::{BUNDLES, system_bundle};

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
    fn a_link_that_leads_nowhere_is_still_followed() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("resolv.conf");
        std::os::unix::fs::symlink("../run/not-there/stub.conf", &link).unwrap();
        let parent = directory.path().parent().unwrap();
        assert_eq!(followed(link.to_str().unwrap()), parent.join("run/not-there/stub.conf"));
    }
}
