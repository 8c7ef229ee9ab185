//! Which daemon is asked: what the command line says, else the environment, else where a daemon listens by default.

use std::ffi::OsString;
use std::path::PathBuf;

use http::Uri;

use super::CtlError;
use super::client::Daemon;
use crate::cli::serve;
use crate::config::{Config, Home};

const HEADING: &str = "Which daemon";

/// Which daemon is asked, and what it is shown.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct DaemonArguments {
    /// Ask the daemon that listens at this Unix socket, instead of EXEAT_SOCKET or the default.
    #[arg(long, value_name = "PATH", global = true, help_heading = HEADING)]
    socket: Option<PathBuf>,
    /// Ask the daemon at this address, `https://HOST:PORT`, instead of EXEAT_ADDRESS.
    #[arg(long, value_name = "URL", global = true, help_heading = HEADING)]
    address: Option<String>,
    /// Send the token in this file (EXEAT_TOKEN_FILE).
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    token_file: Option<PathBuf>,
    /// Trust the certificates in this file instead of the system's (EXEAT_CA).
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    ca: Option<PathBuf>,
    /// Show this certificate (EXEAT_CERTIFICATE); goes with --key.
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    certificate: Option<PathBuf>,
    /// The certificate's key (EXEAT_KEY).
    #[arg(long, value_name = "FILE", global = true, help_heading = HEADING)]
    key: Option<PathBuf>,
}

impl DaemonArguments {
    pub(super) fn daemon(&self) -> Result<Daemon, CtlError> {
        let home = serve::home(|variable| std::env::var_os(variable).map(PathBuf::from));
        self.resolve(|variable| std::env::var_os(variable).filter(|value| !value.is_empty()), &home)
    }

    fn resolve(&self, variable: impl Fn(&str) -> Option<OsString>, home: &Home) -> Result<Daemon, CtlError> {
        let path = |name: &str| variable(name).map(PathBuf::from);
        let usage = |message: &str| CtlError::Usage(message.to_owned());
        let text = |name: &str| variable(name).map(|value| value.to_string_lossy().into_owned());
        let (socket, address) = match (self.socket.clone(), self.address.clone()) {
            (None, None) => (path("EXEAT_SOCKET"), text("EXEAT_ADDRESS")),
            said => said,
        };
        let address = match (socket, address) {
            (Some(_), Some(_)) => return Err(usage("a daemon has a socket or an address: say one of the two")),
            (Some(socket), None) => return Ok(Daemon::Socket(socket)),
            (None, None) => return Ok(Daemon::Socket(usual(home))),
            (None, Some(address)) => address,
        };
        let address: Uri = address.parse().map_err(|_| usage("--address: write it as https://HOST:PORT"))?;
        let certificate = match (
            self.certificate.clone().or_else(|| path("EXEAT_CERTIFICATE")),
            self.key.clone().or_else(|| path("EXEAT_KEY")),
        ) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(usage("a certificate goes with its key: say --certificate and --key")),
        };
        let token = self.token_file.clone().or_else(|| path("EXEAT_TOKEN_FILE"));
        Ok(Daemon::Address { address, token, ca: self.ca.clone().or_else(|| path("EXEAT_CA")), certificate })
    }
}

/// Where a daemon of this user listens, or, where there is none, the system's.
fn usual(home: &Home) -> PathBuf {
    let (own, system) = (Config::of_home(home), Config::of_home(&Home::System));
    if own.control.socket.exists() { own.control.socket } else { system.control.socket }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(arguments: DaemonArguments, variables: &[(&str, &str)]) -> Result<Daemon, CtlError> {
        let home = Home::User { state: "/nowhere".into(), runtime: "/nowhere".into() };
        let value = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        arguments.resolve(value, &home)
    }

    #[test]
    fn the_command_line_counts_more_than_the_environment() {
        let socket = |path: &str| DaemonArguments { socket: Some(path.into()), ..DaemonArguments::default() };
        let shown = |daemon: Result<Daemon, CtlError>| format!("{:?}", daemon.unwrap());
        let set = [("EXEAT_SOCKET", "/env")];
        assert_eq!(shown(resolved(socket("/flag"), &set)), "Socket(\"/flag\")");
        assert_eq!(shown(resolved(DaemonArguments::default(), &set)), "Socket(\"/env\")");
        assert_eq!(shown(resolved(DaemonArguments::default(), &[])), "Socket(\"/run/exeat/control.sock\")");
        let address = [("EXEAT_ADDRESS", "https://a:1"), ("EXEAT_CA", "/ca"), ("EXEAT_TOKEN_FILE", "/token")];
        let daemon = shown(resolved(DaemonArguments::default(), &address));
        assert!(["https://a:1", "/ca", "/token"].iter().all(|part| daemon.contains(part)), "{daemon}");
        assert_eq!(shown(resolved(socket("/flag"), &address)), "Socket(\"/flag\")");
    }

    #[test]
    fn what_goes_together_is_told() {
        let key = DaemonArguments { key: Some("/key".into()), ..DaemonArguments::default() };
        for (arguments, variables, expected) in [
            (
                DaemonArguments::default(),
                [("EXEAT_SOCKET", "/a"), ("EXEAT_ADDRESS", "https://a:1")].as_slice(),
                "one of",
            ),
            (key, &[("EXEAT_ADDRESS", "https://a:1")], "--certificate and --key"),
            (DaemonArguments::default(), &[("EXEAT_ADDRESS", "https://[")], "https://HOST:PORT"),
        ] {
            let told = resolved(arguments, variables).unwrap_err().to_string();
            assert!(told.contains(expected), "{told}");
        }
    }
}
