//! What the service manager is told: systemd's notification protocol (sd_notify(3), "Standalone Implementations"), one
//! datagram a word. Without a manager it tells nobody.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Whoever started the daemon, if they listen.
pub(super) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that the environment names.
    pub(super) fn of_environment() -> Self {
        Self::new(|variable| std::env::var_os(variable))
    }

    fn new(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let socket = variable("NOTIFY_SOCKET").and_then(|path| {
            let path = path.as_bytes();
            let address = match path.strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        });
        let number = |name: &str| variable(name).and_then(|text| text.to_str()?.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0);
        // Twice within the time that it waits (sd_watchdog_enabled(3)).
        Self { socket, watchdog: watchdog.map(|micros| Duration::from_micros(micros / 2)) }
    }

    pub(super) fn tell(&self, word: &str) {
        if let Some((socket, address)) = &self.socket {
            // Whoever does not listen is not told.
            let _ = socket.send_to_addr(word.as_bytes(), address);
        }
    }

    /// Ready when the manager wants a sign of life; never, if it wants none.
    pub(super) async fn watchdog(&self) {
        match self.watchdog {
            Some(rest) => tokio::time::sleep(rest).await,
            None => std::future::pending().await,
        }
    }
}

/// What a manager is told that the daemon is about to be another.
pub(super) fn reloading() -> String {
    // The manager wants to know which of several it was that a later word answers (sd_notify(3)).
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(variables: &[(&str, String)]) -> Manager {
        let found = |name: &str| variables.iter().find(|(other, _)| *other == name);
        Manager::new(|name| found(name).map(|(_, value)| OsString::from(value)))
    }

    #[test]
    fn a_manager_is_told_wherever_its_socket_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("exeat-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}")),
        ] {
            manager(&[("NOTIFY_SOCKET", address)]).tell("READY=1");
            let mut told = [0; 32];
            let length = socket.recv(&mut told).unwrap();
            assert_eq!(&told[..length], b"READY=1");
        }
        manager(&[]).tell("READY=1");
    }

    #[test]
    fn signs_of_life_come_twice_as_often_as_they_must_and_only_where_they_are_wanted() {
        let rest = |variables: &[(&str, String)]| manager(variables).watchdog;
        let usec = ("WATCHDOG_USEC", "30000000".to_owned());
        let pid = |pid: u32| ("WATCHDOG_PID", pid.to_string());
        assert_eq!(rest(std::slice::from_ref(&usec)), Some(Duration::from_secs(15)));
        assert_eq!(rest(&[usec.clone(), pid(std::process::id())]), Some(Duration::from_secs(15)));
        assert_eq!(rest(&[usec, pid(1)]), None);
        assert_eq!(rest(&[]), None);
    }
}
