//! The daemon's settings: one YAML file, everything with a default that works.
//!
//! It reads text and makes a [`Config`]; it opens nothing that the file names.
//!
//! - `INVARIANT`: an unknown or doubled key, and a value that means nothing, are errors with their line; an error
//!   quotes no line of the file.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

use crate::limits;

/// A file with every setting, its default and what it means.
pub const SAMPLE: &str = include_str!("config/sample.yaml");

/// The daemon's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where what survives a restart is kept.
    pub state: PathBuf,
    /// Where the control API listens.
    pub control: Control,
    /// Where the audit record goes.
    pub audit: Audit,
    /// Taken out of the protected ranges, for every sandbox.
    pub allow_protected: Vec<IpNet>,
    /// Protected ranges that a policy of the control plane may open with `subnets.allow`.
    pub openable: Vec<IpNet>,
    /// Resolvers; empty for those of the host's own configuration.
    pub resolvers: Vec<SocketAddr>,
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
    /// A loopback address, in clear, with a token; only under the key that says so.
    pub cleartext: Option<(SocketAddr, PathBuf)>,
}

/// Where the audit record goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audit {
    /// Nowhere.
    None,
    /// To standard output.
    Stdout,
    /// To the end of a file.
    File(PathBuf),
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

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ConfigWire {
    state: Option<PathBuf>,
    control: ControlWire,
    audit: Option<String>,
    allow_protected: Vec<IpNet>,
    openable: Vec<IpNet>,
    resolvers: Vec<String>,
    issuer: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ControlWire {
    socket: Option<PathBuf>,
    mode: Option<String>,
    owner: Option<OwnerWire>,
    insecure_loopback: Option<CleartextWire>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OwnerWire {
    user: u32,
    group: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CleartextWire {
    address: SocketAddr,
    token_file: PathBuf,
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
            control: Control { socket: runtime.join("control.sock"), mode: 0o600, owner: None, cleartext: None },
            audit: Audit::None,
            allow_protected: Vec::new(),
            openable: Vec::new(),
            resolvers: Vec::new(),
        }
    }

    /// Reads a file's text. `path` is how the file is called in an error.
    ///
    /// # Errors
    /// The first fault of the file.
    pub fn read(path: &Path, text: &str, home: &Home) -> Result<Self, ConfigError> {
        let fault = |line, message: String| ConfigError { path: path.to_owned(), line, message };
        if text.len() > limits::CONFIG_BYTES {
            return Err(fault(None, format!("the file is larger than {} bytes", limits::CONFIG_BYTES)));
        }
        let options = serde_saphyr::options! { strict_booleans: true };
        // A file of comments alone says nothing, which is fine.
        let wire: Option<ConfigWire> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            // With its lines it could show what stands beside the fault.
            let error = error.without_snippet();
            fault(error.location().map(|location| location.line()), error.to_string())
        })?;
        wire.unwrap_or_default().into_config(home).map_err(|message| fault(None, message))
    }
}

impl ConfigWire {
    fn into_config(self, home: &Home) -> Result<Config, String> {
        let Self { state, control, audit, allow_protected, openable, resolvers, issuer } = self;
        let usual = Config::of_home(home);
        if issuer.is_some() {
            return Err("`issuer`: this version of exeat signs no tokens for `forwardURL`, so leave it out".to_owned());
        }
        let audit = match audit.as_deref() {
            None | Some("none") => Audit::None,
            Some("stdout") => Audit::Stdout,
            Some(path) => Audit::File(absolute("audit", path.into())?),
        };
        Ok(Config {
            state: state.map_or(Ok(usual.state), |state| absolute("state", state))?,
            control: control.into_control(usual.control)?,
            audit,
            allow_protected,
            openable,
            resolvers: resolvers.iter().map(|text| resolver(text)).collect::<Result<_, _>>()?,
        })
    }
}

impl ControlWire {
    fn into_control(self, usual: Control) -> Result<Control, String> {
        let Self { socket, mode, owner, insecure_loopback } = self;
        let cleartext = match insecure_loopback {
            None => None,
            Some(CleartextWire { address, token_file }) if address.ip().is_loopback() => {
                Some((address, absolute("control.insecureLoopback.tokenFile", token_file)?))
            }
            Some(CleartextWire { address, .. }) => {
                return Err(format!(
                    "`control.insecureLoopback.address`: {address} is not a loopback address, and a token in clear \
                     text is for nobody else to read"
                ));
            }
        };
        Ok(Control {
            socket: socket.map_or(Ok(usual.socket), |socket| absolute("control.socket", socket))?,
            mode: mode.map_or(Ok(usual.mode), |mode| permissions(&mode))?,
            owner: owner.map(|OwnerWire { user, group }| (user, group)),
            cleartext,
        })
    }
}

/// Paths mean the same wherever the daemon is started.
fn absolute(key: &str, path: PathBuf) -> Result<PathBuf, String> {
    if path.is_absolute() { Ok(path) } else { Err(format!("`{key}`: a path begins with `/`")) }
}

fn permissions(text: &str) -> Result<u32, String> {
    let octal = (3..=4).contains(&text.len()).then(|| u32::from_str_radix(text, 8).ok()).flatten();
    let mode = octal.filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "`control.mode`: permissions in octal, in quotes, such as \"0660\"".to_owned())
}

/// An address, at port 53 if it says none.
fn resolver(text: &str) -> Result<SocketAddr, String> {
    let at_53 = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    text.parse().or_else(|_| at_53()).map_err(|_| {
        "`resolvers`: an address, or an address and a port, such as 192.0.2.53 or [2001:db8::53]:53".to_owned()
    })
}

/// What is wrong with a file of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    path: PathBuf,
    line: Option<u64>,
    message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        Config::read(Path::new("serve.yaml"), text, &Home::System).map_err(|error| error.to_string())
    }

    #[test]
    fn the_sample_says_what_holds_without_it() {
        assert_eq!(read(SAMPLE), Ok(Config::of_home(&Home::System)));
        // Each of its lines that is turned off can be turned on.
        let mut all: Vec<&str> = Vec::new();
        for line in SAMPLE.lines() {
            let on = line.strip_prefix("#: ").filter(|on| !on.starts_with("issuer"));
            let key = on.and_then(|on| on.split_once(':')).map(|(key, _)| format!("{key}:"));
            // A key stands once: what is turned on takes the place of what holds by default.
            all.retain(|before| key.as_ref().is_none_or(|key| !before.starts_with(key)));
            all.push(on.unwrap_or(line));
        }
        let on = read(&all.join("\n")).unwrap();
        let usual = Config::of_home(&Home::System);
        assert_ne!((&on.audit, &on.resolvers, &on.openable), (&usual.audit, &usual.resolvers, &usual.openable));
        assert!(on.control.cleartext.is_some() && on.control.owner.is_some());
    }

    #[test]
    fn what_is_set_counts() {
        let config = read(
            "state: /srv/exeat\naudit: stdout\nresolvers: [192.0.2.53, '[2001:db8::53]:5353']\n\
             openable: [10.0.0.0/8]\nallowProtected: [127.0.0.1/32]\ncontrol: { socket: /run/x, mode: \"0660\" }\n",
        )
        .unwrap();
        assert_eq!(config.state, Path::new("/srv/exeat"));
        assert_eq!((config.control.socket.as_path(), config.control.mode), (Path::new("/run/x"), 0o660));
        assert_eq!(config.audit, Audit::Stdout);
        let resolvers = ["192.0.2.53:53", "[2001:db8::53]:5353"].map(|text| text.parse().unwrap());
        assert_eq!(config.resolvers, resolvers);
    }

    #[test]
    fn nothing_says_nothing() {
        for text in ["", "# a comment\n", "{}"] {
            assert_eq!(read(text), Ok(Config::of_home(&Home::System)), "{text:?}");
        }
    }

    #[test]
    fn a_fault_is_told_with_its_line_and_without_the_file() {
        for (text, expected) in [
            ("state: /x\nstaet: /y\n", "serve.yaml:2"),
            ("state: /x\nstate: /y\n", "serve.yaml:2"),
            ("control:\n  token: canary\n", "serve.yaml:2"),
            ("openable: [10.0.0.0/40]\n# canary\n", "serve.yaml:1"),
            ("issuer: https://canary.test\n", "`issuer`"),
            ("state: canary\n", "`state`"),
            ("control: { mode: \"canary\" }\n", "`control.mode`"),
            ("control: { mode: \"7777\" }\n", "`control.mode`"),
            ("resolvers: [canary]\n", "`resolvers`"),
            ("control: { insecureLoopback: { address: \"0.0.0.0:1\", tokenFile: /canary } }\n", "loopback address"),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains(expected) && !told.contains("canary"), "{text}: {told}");
        }
    }
}
