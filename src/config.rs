//! The daemon's settings: one YAML file, everything with a default that works.
//!
//! It reads text and makes a [`Config`]; it opens nothing that the file names.
//!
//! - `INVARIANT`: an unknown or doubled key, and a value that means nothing, are errors with their line; an error
//!   quotes no line of the file.

#[cfg(test)]
mod tests;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::IpNet;

pub use crate::audit::Rotation;
use crate::flow::{Domain, SecretName};
use crate::intercept::upstream::proxy::ProxyUrl;
use crate::policy::source::CredentialSpec;
use crate::policy::{Grant, SourceSpec};
use crate::resolve::NameServer;
pub use crate::sandbox::quota::Limits;

use self::wire::ConfigWire;
use crate::matcher::domain::DomainPattern;

/// A file with every setting, its default and what it means.
pub const SAMPLE: &str = include_str!("config/sample.yaml");

/// The daemon's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where what survives a restart is kept.
    pub state: PathBuf,
    /// The key that seals it, if the service manager hands one over; else it lies beside what it seals.
    pub key: Option<PathBuf>,
    /// Where the control API listens.
    pub control: Control,
    /// Where the audit record goes.
    pub audit: Audit,
    /// Taken out of the protected ranges, for every sandbox.
    pub allow_protected: Vec<IpNet>,
    /// Protected ranges that a policy of the control plane may open with `subnets.allow`.
    pub openable: Vec<IpNet>,
    /// Resolvers; empty for those of the host's own configuration.
    pub resolvers: Vec<NameServer>,
    /// What upstream connections go through, if not their own ways.
    pub upstream_proxy: Option<UpstreamProxy>,
    /// What origins are shown over TLS.
    pub client_certificates: Vec<ClientCertificate>,
    /// What a sandbox may use of which its control plane says nothing.
    pub limits: Limits,
    /// Secrets that policies of the control plane may use by name.
    pub secrets: BTreeMap<SecretName, Brokered>,
    /// Who signs the token that goes along with a `forwardURL`: an https URL (POLICY §6).
    pub issuer: Option<String>,
    /// Hosts that a `forwardURL` may name; `None` for any.
    pub forward_hosts: Option<Vec<DomainPattern>>,
}

/// A proxy that upstream connections go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamProxy {
    /// Where it is, and how it is asked.
    pub url: ProxyUrl,
    /// Where `USER:PASSWORD` lies that it is shown.
    pub credentials: Option<CredentialSpec>,
    /// Addresses to which connections go without it.
    pub direct: Vec<IpNet>,
}

/// A certificate that origins of these names are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Whom it is for.
    pub to: Vec<Domain>,
    /// It and those between it and its root, in PEM.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
}

impl FromStr for ClientCertificate {
    type Err = &'static str;

    /// Reads `NAME:CERTIFICATE:KEY`, with the paths of two files.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        let mut parts = text.split(':');
        let (Some(name), Some(certificate), Some(key), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("expected NAME:CERTIFICATE:KEY, with the paths of two files");
        };
        let name = Domain::parse(name).map_err(|_| "the name is no domain name")?;
        Ok(Self { to: vec![name], certificate: certificate.into(), key: key.into() })
    }
}

/// A secret that the daemon brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brokered {
    /// Where its value comes from.
    pub source: SourceSpec,
    /// Where it may go, which the operator says of each: whoever writes a policy could send it anywhere else.
    pub grant: Grant,
}

/// Where the control API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// Its owner, if not who runs the daemon.
    pub owner: Option<(u32, u32)>,
    /// A TCP address, under TLS.
    pub tcp: Option<Tcp>,
    /// A loopback address, in clear; only under the key that says so.
    pub cleartext: Option<Cleartext>,
}

/// A TCP address of the control API, under TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// Where it listens.
    pub address: SocketAddr,
    /// The daemon's certificate and those between it and its root, in PEM.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// Who may ask.
    pub callers: Callers,
}

/// Who may ask over TCP: whoever shows all that is named here, which is one thing at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callers {
    /// Whoever knows the token in this file.
    Token(PathBuf),
    /// Whoever has a certificate that one of those in this file has issued.
    Certificate(PathBuf),
    /// Whoever has both.
    Both {
        /// The token's file.
        token: PathBuf,
        /// The issuers' file.
        issuers: PathBuf,
    },
}

/// A loopback address of the control API, in clear, for whoever knows the token in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleartext {
    /// Where it listens.
    pub address: SocketAddr,
    /// The token's file.
    pub token: PathBuf,
}

/// Where the audit record goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audit {
    /// Nowhere.
    None,
    /// To standard output.
    Stdout,
    /// To the journal of the service manager.
    Journal,
    /// To the end of a file.
    File {
        /// Its path.
        path: PathBuf,
        /// When another is begun; never, if nothing is said.
        rotate: Option<Rotation>,
    },
}

impl Audit {
    /// Reads `none`, `stdout`, `journal`, or a file's path.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "stdout" => Ok(Self::Stdout),
            "journal" => Ok(Self::Journal),
            path => {
                let path = absolute("audit", path.into());
                let path = path.map_err(|fault| format!("{fault}; or write `none`, `stdout` or `journal`"))?;
                Ok(Self::File { path, rotate: None })
            }
        }
    }
}

/// What the command line says, which counts more than the file; lists add to the file's.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// In place of `state`.
    pub state: Option<PathBuf>,
    /// In place of `control.socket`.
    pub socket: Option<PathBuf>,
    /// In place of `audit`.
    pub audit: Option<Audit>,
    /// Added to `allowProtected`.
    pub allow_protected: Vec<IpNet>,
    /// Added to `openable`.
    pub openable: Vec<IpNet>,
    /// In place of `resolvers`, unless empty.
    pub resolvers: Vec<NameServer>,
    /// Where the service manager has put credentials (`$CREDENTIALS_DIRECTORY`), which files can be named by.
    pub credentials: Option<PathBuf>,
    /// The key that seals the store, if it is one of them.
    pub key: Option<PathBuf>,
}

/// Who runs the daemon: where its files are by default depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Home {
    /// Root.
    System,
    /// Somebody else, by their folders for state (`$XDG_STATE_HOME`) and sockets (`$XDG_RUNTIME_DIR`).
    User {
        /// For state.
        state: PathBuf,
        /// For sockets.
        runtime: PathBuf,
    },
}

impl Config {
    /// What holds where no file says anything.
    #[must_use]
    pub fn of_home(home: &Home) -> Self {
        let (state, runtime) = match home {
            Home::System => (PathBuf::from("/var/lib/exeat"), PathBuf::from("/run/exeat")),
            Home::User { state, runtime } => (state.join("exeat"), runtime.join("exeat")),
        };
        Self {
            state,
            key: None,
            control: Control {
                socket: runtime.join("control.sock"),
                mode: 0o600,
                owner: None,
                tcp: None,
                cleartext: None,
            },
            audit: Audit::None,
            allow_protected: Vec::new(),
            openable: Vec::new(),
            resolvers: Vec::new(),
            upstream_proxy: None,
            client_certificates: Vec::new(),
            limits: Limits::default(),
            secrets: BTreeMap::new(),
            issuer: None,
            forward_hosts: None,
        }
    }

    /// Reads a file's text. `path` is how the file is called in an error.
    ///
    /// # Errors
    /// The first fault of the file.
    pub fn read(path: &Path, text: &str, home: &Home) -> Result<Self, ConfigError> {
        Self::new(Some((path, text)), Flags::default(), home)
    }

    /// What a file, if there is one, and the command line say together.
    ///
    /// # Errors
    /// The first fault of the file, or what of the two cannot be together.
    pub fn new(file: Option<(&Path, &str)>, flags: Flags, home: &Home) -> Result<Self, ConfigError> {
        let wire = file.map_or_else(|| Ok(ConfigWire::default()), |(path, text)| ConfigWire::read(path, text))?;
        let path = file.map(|(path, _)| path.to_owned());
        wire.into_config(flags, home).map_err(|message| ConfigError { path, line: None, message })
    }
}

/// Paths mean the same wherever the daemon is started.
fn absolute(key: &str, path: PathBuf) -> Result<PathBuf, String> {
    if path.is_absolute() { Ok(path) } else { Err(format!("`{key}`: a path begins with `/`")) }
}

/// What is wrong with a file of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// `None` for what the command line alone says.
    path: Option<PathBuf>,
    line: Option<u64>,
    message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}", path.display())?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}
