//! SIGHUP: the settings and the files that they name are read again, and what of them can change while the daemon runs
//! counts from then on.
//!
//! `INVARIANT`: all that can fail is tried before anything changes; after a fault all is as before, but for an audit
//! file that was opened anew.

use std::sync::Arc;

use super::audit_log::AuditLog;
use super::listeners::{Doors, Locks};
use super::{Daemon, ServeArguments, ServeError, settings};
use crate::cli::{chain, tell};
use crate::config::{Config, Control};

/// What runs.
pub(super) struct Running<'a> {
    pub(super) arguments: &'a ServeArguments,
    /// As they were at the start.
    pub(super) started: Config,
    pub(super) daemon: Daemon,
    pub(super) doors: Doors,
    pub(super) audit: &'a Arc<AuditLog>,
}

impl Running<'_> {
    /// Reads everything again, and tells the operator what came of it.
    pub(super) async fn reload(&self) {
        // Somebody may have put the file aside, whatever the settings say.
        if let Err(error) = self.audit.reopen() {
            tell(&format!("exeat: the audit file cannot be opened anew, so the old one stays: {error}\n"));
        }
        match self.change().await {
            Ok(later) if later.is_empty() => tell("exeat: the settings were read again\n"),
            Ok(later) => {
                let keys = later.join(", ");
                tell(&format!("exeat: the settings were read again; {keys}: when the daemon is started again\n"));
            }
            Err(error) => tell(&format!("exeat: nothing is changed: {}\n", chain(&error))),
        }
    }

    /// Which settings changed and do not count yet.
    async fn change(&self) -> Result<Vec<&'static str>, ServeError> {
        let config = settings(self.arguments)?;
        let locks = Locks::read(&config)?;
        let sink = self.audit.prepare(&config.audit).map_err(ServeError::own("write the audit record"))?;
        self.daemon.change(&config).await?;
        self.doors.change(locks);
        let written = sink.map_or(Ok(()), |sink| self.audit.change(sink));
        if let Err(error) = written {
            tell(&format!("exeat: not all of the audit record is where it was: {error}\n"));
        }
        Ok(later(&self.started, &config))
    }
}

/// Keys of settings that differ and count only at a start.
fn later(started: &Config, now: &Config) -> Vec<&'static str> {
    let address = |control: &Control| {
        let Control { socket: _, mode: _, owner: _, tcp, cleartext } = control;
        (tcp.as_ref().map(|tcp| tcp.address), cleartext.as_ref().map(|at| at.address))
    };
    let ((tcp, clear), (tcp_now, clear_now)) = (address(&started.control), address(&now.control));
    let keys = [
        ("state", started.state != now.state),
        ("secrets", started.secrets != now.secrets),
        ("clientCertificates", started.client_certificates != now.client_certificates),
        ("upstreamProxy", started.upstream_proxy != now.upstream_proxy),
        ("control.socket", started.control.socket != now.control.socket),
        ("control.mode", started.control.mode != now.control.mode),
        ("control.owner", started.control.owner != now.control.owner),
        ("control.tcp.address", tcp != tcp_now),
        ("control.insecureLoopback.address", clear != clear_now),
        ("issuer", started.issuer != now.issuer),
        ("forwardHosts", started.forward_hosts != now.forward_hosts),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
