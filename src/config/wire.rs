//! The file's own form, and what it means together with the command line.

mod secrets;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use self::secrets::{CredentialWire, SecretWire};
use super::{
    Audit, Callers, Cleartext, ClientCertificate, Config, ConfigError, Control, Flags, Home, Limits, Rotation, Tcp,
    UpstreamProxy, absolute,
};
use crate::flow::Domain;
use crate::limits;
use crate::matcher::domain::DomainPattern;
use crate::resolve::NameServer;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ConfigWire {
    state: Option<PathBuf>,
    control: ControlWire,
    audit: Option<AuditWire>,
    allow_protected: Vec<IpNet>,
    openable: Vec<IpNet>,
    resolvers: Vec<String>,
    upstream_proxy: Option<ProxyWire>,
    client_certificates: Vec<CertificateWire>,
    limits: Limits,
    secrets: BTreeMap<String, SecretWire>,
    issuer: Option<String>,
    forward_hosts: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProxyWire {
    url: String,
    credentials: Option<CredentialWire>,
    #[serde(default)]
    direct: Vec<IpNet>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CertificateWire {
    to: Vec<String>,
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ControlWire {
    socket: Option<PathBuf>,
    mode: Option<String>,
    owner: Option<OwnerWire>,
    tcp: Option<TcpWire>,
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
struct TcpWire {
    address: SocketAddr,
    certificate: PathBuf,
    key: PathBuf,
    token_file: Option<PathBuf>,
    client_certificates: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CleartextWire {
    address: SocketAddr,
    token_file: PathBuf,
}

/// A word or a path; or a file with what is done with it.
#[derive(Debug)]
enum AuditWire {
    Word(String),
    File(FileWire),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileWire {
    file: PathBuf,
    rotate: Option<RotationWire>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RotationWire {
    megabytes: u32,
    keep: u32,
}

impl<'de> Deserialize<'de> for AuditWire {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// By hand, for an untagged enum says nothing of what is wrong in it.
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = AuditWire;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`none`, `stdout`, `journal`, a file's path, or a map with the key `file`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<AuditWire, E> {
                Ok(AuditWire::Word(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AuditWire, A::Error> {
                FileWire::deserialize(MapAccessDeserializer::new(map)).map(AuditWire::File)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl ConfigWire {
    /// # Errors
    /// The first fault of the file's form.
    pub(super) fn read(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let fault = |line, message: String| ConfigError { path: Some(path.to_owned()), line, message };
        if text.len() > limits::CONFIG_BYTES {
            return Err(fault(None, format!("the file is larger than {} bytes", limits::CONFIG_BYTES)));
        }
        let options = serde_saphyr::options! { strict_booleans: true };
        // A file of comments alone says nothing, which is fine.
        let wire: Option<Self> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            // With its lines it could show what stands beside the fault.
            let error = error.without_snippet();
            fault(error.location().map(|location| location.line()), error.to_string())
        })?;
        Ok(wire.unwrap_or_default())
    }

    /// # Errors
    /// What means nothing, in one sentence.
    pub(super) fn into_config(self, flags: Flags, home: &Home) -> Result<Config, String> {
        let Self {
            state,
            control,
            audit,
            mut allow_protected,
            mut openable,
            resolvers,
            upstream_proxy,
            client_certificates,
            secrets,
            limits,
            issuer,
            forward_hosts,
        } = self;
        let usual = Config::of_home(home);
        let forward_hosts = forward_hosts.map(|hosts| hosts.iter().map(|text| host(text)).collect());
        allow_protected.extend(flags.allow_protected);
        openable.extend(flags.openable);
        let named = |text: &String| text.parse().map_err(|expected| format!("`resolvers`: {expected}"));
        let named: Vec<NameServer> = resolvers.iter().map(named).collect::<Result<_, _>>()?;
        let mut config = Config {
            state: state.map_or(Ok(usual.state), |state| absolute("state", state))?,
            key: flags.key,
            control: control.into_control(usual.control, flags.credentials.as_deref())?,
            audit: audit.map_or(Ok(usual.audit), AuditWire::into_audit)?,
            allow_protected,
            openable,
            issuer: issuer.map(issuer_url).transpose()?,
            forward_hosts: forward_hosts.transpose()?,
            resolvers: if flags.resolvers.is_empty() { named } else { flags.resolvers },
            upstream_proxy: upstream_proxy.map(ProxyWire::into_proxy).transpose()?,
            client_certificates: client_certificates
                .into_iter()
                .map(|wire| wire.into_certificate(flags.credentials.as_deref()))
                .collect::<Result<_, _>>()?,
            limits,
            secrets: secrets.into_iter().map(|(name, wire)| wire.into_brokered(&name)).collect::<Result<_, _>>()?,
        };
        config.state = flags.state.unwrap_or(config.state);
        config.control.socket = flags.socket.unwrap_or(config.control.socket);
        config.audit = flags.audit.unwrap_or(config.audit);
        reachable_by_sandboxes(&config)?;
        one_certificate_each(&config)?;
        Ok(config)
    }
}

/// No sandbox reaches the control API, whatever the operator takes out of protection: so nothing is taken out that it
/// listens at.
fn reachable_by_sandboxes(config: &Config) -> Result<(), String> {
    let Config { control, allow_protected, .. } = config;
    let tcp = control.tcp.as_ref().map(|tcp| ("tcp", tcp.address));
    let clear = control.cleartext.as_ref().map(|clear| ("insecureLoopback", clear.address));
    for (key, address) in tcp.into_iter().chain(clear) {
        if let Some(range) = allow_protected.iter().find(|range| covers(range, address.ip())) {
            return Err(format!(
                "`allowProtected` holds {range}, and `control.{key}` listens at {address}: sandboxes could reach the \
                 control API. Let it listen at another address, or allow less"
            ));
        }
    }
    Ok(())
}

/// Nobody is shown two certificates.
fn one_certificate_each(config: &Config) -> Result<(), String> {
    let mut seen = HashSet::new();
    let mut names = config.client_certificates.iter().flat_map(|certificate| &certificate.to);
    match names.find(|name| !seen.insert(*name)) {
        Some(twice) => Err(format!("`clientCertificates`: {} is shown one alone", twice.as_str())),
        None => Ok(()),
    }
}

/// Whether a listener at `address` is one at an address of `range`, too.
fn covers(range: &IpNet, address: IpAddr) -> bool {
    address.is_unspecified() || range.contains(&address.to_canonical()) || range.contains(&address)
}

impl ProxyWire {
    fn into_proxy(self) -> Result<UpstreamProxy, String> {
        let Self { url, credentials, direct } = self;
        let url = url.parse().map_err(|fault| format!("`upstreamProxy.url`: {fault}"))?;
        let credentials = credentials.map(|wire| wire.into_spec("upstreamProxy", "credentials")).transpose()?;
        Ok(UpstreamProxy { url, credentials, direct })
    }
}

impl CertificateWire {
    fn into_certificate(self, credentials: Option<&Path>) -> Result<ClientCertificate, String> {
        let Self { to, certificate, key } = self;
        let name = |text: &String| Domain::parse(text).map_err(|_| "`clientCertificates.to`: names".to_owned());
        let to: Vec<_> = to.iter().map(name).collect::<Result<_, _>>()?;
        let file = |key, path| credential(key, path, credentials);
        let certificate = file("clientCertificates.certificate", certificate)?;
        Ok(ClientCertificate { to, certificate, key: file("clientCertificates.key", key)? })
    }
}

impl AuditWire {
    fn into_audit(self) -> Result<Audit, String> {
        match self {
            Self::Word(text) => Audit::parse(&text),
            Self::File(FileWire { file, rotate }) => {
                let rotate = rotate.map(RotationWire::into_rotation).transpose()?;
                Ok(Audit::File { path: absolute("audit.file", file)?, rotate })
            }
        }
    }
}

impl RotationWire {
    fn into_rotation(self) -> Result<Rotation, String> {
        let Self { megabytes, keep } = self;
        if megabytes == 0 {
            return Err("`audit.rotate.megabytes`: 1 at least; without `rotate` the file grows for ever".to_owned());
        }
        if keep > limits::AUDIT_FILES {
            return Err(format!("`audit.rotate.keep`: {} at most", limits::AUDIT_FILES));
        }
        Ok(Rotation { bytes: u64::from(megabytes) * 1_000_000, keep })
    }
}

impl ControlWire {
    fn into_control(self, usual: Control, credentials: Option<&Path>) -> Result<Control, String> {
        let Self { socket, mode, owner, tcp, insecure_loopback } = self;
        Ok(Control {
            socket: socket.map_or(Ok(usual.socket), |socket| absolute("control.socket", socket))?,
            mode: mode.map_or(Ok(usual.mode), |mode| permissions(&mode))?,
            owner: owner.map(|OwnerWire { user, group }| (user, group)),
            tcp: tcp.map(|tcp| tcp.into_tcp(credentials)).transpose()?,
            cleartext: insecure_loopback.map(|clear| clear.into_cleartext(credentials)).transpose()?,
        })
    }
}

impl TcpWire {
    fn into_tcp(self, credentials: Option<&Path>) -> Result<Tcp, String> {
        let Self { address, certificate, key, token_file, client_certificates } = self;
        let file = |key, path| credential(key, path, credentials);
        let token = token_file.map(|path| file("control.tcp.tokenFile", path)).transpose()?;
        let issuers = client_certificates.map(|path| file("control.tcp.clientCertificates", path)).transpose()?;
        let callers = match (token, issuers) {
            (Some(token), Some(issuers)) => Callers::Both { token, issuers },
            (Some(token), None) => Callers::Token(token),
            (None, Some(issuers)) => Callers::Certificate(issuers),
            (None, None) => {
                return Err("`control.tcp`: say who may ask: `tokenFile`, `clientCertificates`, or both".to_owned());
            }
        };
        let certificate = file("control.tcp.certificate", certificate)?;
        Ok(Tcp { address, certificate, key: file("control.tcp.key", key)?, callers })
    }
}

impl CleartextWire {
    fn into_cleartext(self, credentials: Option<&Path>) -> Result<Cleartext, String> {
        let Self { address, token_file } = self;
        if !address.ip().is_loopback() {
            return Err(format!(
                "`control.insecureLoopback.address`: {address} is not a loopback address, and a token in clear text is \
                 for nobody else to read: use `control.tcp`"
            ));
        }
        let token = credential("control.insecureLoopback.tokenFile", token_file, credentials)?;
        Ok(Cleartext { address, token })
    }
}

/// A file by its path, or `credential:NAME`: what the service manager has put into its folder under that name.
fn credential(key: &str, path: PathBuf, credentials: Option<&Path>) -> Result<PathBuf, String> {
    let Some(name) = path.to_str().and_then(|path| path.strip_prefix("credential:")) else {
        return absolute(key, path);
    };
    let is_name = |name: &&str| !matches!(*name, "" | "." | "..") && !name.contains('/');
    match (Some(name).filter(is_name), credentials) {
        (Some(name), Some(folder)) => Ok(folder.join(name)),
        (None, _) => Err(format!("`{key}`: write `credential:NAME`, with the name that the service manager gives it")),
        (_, None) => Err(format!(
            "`{key}`: no service manager hands over credentials here ($CREDENTIALS_DIRECTORY is not set); give a path"
        )),
    }
}

fn permissions(text: &str) -> Result<u32, String> {
    let octal = (3..=4).contains(&text.len()).then(|| u32::from_str_radix(text, 8).ok()).flatten();
    let mode = octal.filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "`control.mode`: permissions in octal, in quotes, such as \"0660\"".to_owned())
}

/// `https://HOST[:PORT][/PATH]`: what verifiers compare byte for byte, and where they look for the keys.
fn issuer_url(url: String) -> Result<String, String> {
    let rest = url.strip_prefix("https://").filter(|rest| !rest.ends_with('/') && !rest.contains(['?', '#', '@']));
    let host = rest.map(|rest| rest.split(['/', ':']).next().unwrap_or_default());
    let is_named = host.is_some_and(|host| Domain::parse(host).is_ok());
    let told = "`issuer`: an https URL with a name for its host, without user info, query, fragment or a slash at its \
                end, such as https://issuer.example";
    if is_named && url.bytes().all(|byte| byte.is_ascii_graphic()) { Ok(url) } else { Err(told.to_owned()) }
}

fn host(text: &str) -> Result<DomainPattern, String> {
    DomainPattern::parse(text).map_err(|_| {
        "`forwardHosts`: names, or patterns as in a policy, such as proxy.example or \"*.example\"".to_owned()
    })
}
