//! Where values come from: a variable of exeat's own environment, a file, a command, or a service that is asked over
//! HTTP: Vault or OpenBao, an OAuth 2.0 server, GitHub, AWS (where that is built in).
//!
//! A source is read here once; [`super::keep`] reads it again. A secret that cannot be had is the operator's fault to
//! mend, and is told where that can be done, not at the first request that needs it.
//!
//! A command is started without a shell, with exeat's own environment but for the variables that secrets come from,
//! nothing to read, and its messages thrown away, for they may hold what is nobody's business. What it prints is the
//! value, or one JSON object that holds it with how long it is good: `{"value": "…", "expiresIn": SECONDS}` or
//! `{"value": "…", "expiresAt": "2026-11-21T03:04:05Z"}`. A key of AWS's as `credential_process` has it is a value as
//! it stands, and good until its `Expiration`.
//!
//! Services are asked on the operator's own network, with the operator's own trust, whatever the policies of sandboxes
//! say; nothing of a flow has any part in it.

#[cfg(feature = "aws")]
mod aws;
mod github_app;
mod oauth2;
#[cfg(test)]
pub(super) mod tests;
mod vault;
mod web;

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value as Json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Secret;
use crate::flow::SecretName;
use crate::limits;
use crate::policy::diagnostic::discreet;
#[cfg(not(feature = "aws"))]
use crate::policy::source::AwsSpec;
use crate::policy::source::{AwsFrom, CredentialSpec, SourceSpec};

pub use self::web::{Ask, FetchError, Reply};

/// What a source needs of the world.
pub trait World: Send + Sync {
    /// A variable of exeat's own environment.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// The time.
    fn now(&self) -> SystemTime;

    /// Asks a service, follows no redirection, and reads [`limits::SECRET_ANSWER_BYTES`] of the answer at most.
    fn fetch(&self, ask: Ask) -> impl Future<Output = Result<Reply, FetchError>> + Send;
}

/// Where the value of one secret comes from, and what is remembered from one reading to the next.
pub struct Source {
    name: SecretName,
    spec: SourceSpec,
    /// Variables that a command does not get.
    withheld: Vec<String>,
    /// What lets us in at Vault.
    session: Option<vault::Session>,
    /// The refresh token that an OAuth server gave last.
    rotated: Option<Secret>,
}

/// Why a value cannot be had. It never holds one.
#[derive(Debug)]
pub struct SourceError {
    name: SecretName,
    place: String,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Unset,
    Unreadable(io::Error),
    TooLong,
    Empty,
    Unstarted(io::Error),
    Failed(ExitStatus),
    TooSlow,
    Expired,
    /// What is shown cannot be had: what it is, where it lies, and why.
    Credential(&'static str, String, Box<Fault>),
    /// This cannot be shown.
    Unfit(&'static str),
    Unreachable(FetchError),
    /// This was refused.
    Refused(&'static str, StatusCode),
    /// There is no such secret.
    Nothing,
    Sealed,
    NoField,
    /// An OAuth server gives no token, for this reason.
    Denied(&'static str),
    /// Something else than an answer.
    Answered(StatusCode),
    Garbled,
    /// This program cannot ask it.
    #[cfg(not(feature = "aws"))]
    NotBuilt,
}

impl SourceError {
    /// Whether the source says that there is no such value, or none for us: what it gave before is not to be used any
    /// more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self.fault {
            Fault::Refused(..) | Fault::Nothing | Fault::NoField | Fault::Denied(_) => true,
            Fault::Unset
            | Fault::Unreadable(_)
            | Fault::TooLong
            | Fault::Empty
            | Fault::Unstarted(_)
            | Fault::Failed(_)
            | Fault::TooSlow
            | Fault::Expired
            | Fault::Credential(..)
            | Fault::Unfit(_)
            | Fault::Unreachable(_)
            | Fault::Sealed
            | Fault::Answered(_)
            | Fault::Garbled => false,
            #[cfg(not(feature = "aws"))]
            Fault::NotBuilt => false,
        }
    }
}

/// What a source gave.
#[derive(Debug)]
pub struct Given {
    /// The value.
    pub secret: Secret,
    /// How long it is good, if the source says so.
    pub good_for: Option<Duration>,
    /// When the source wants to be asked again at the latest, for its own sake.
    pub again: Option<Duration>,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever misunderstood a policy may have put the value where its place is due.
        let (name, place) = (discreet(self.name.as_str()), discreet(&self.place));
        write!(f, "the secret {name} cannot be had: {place} ")?;
        self.fault.fmt(f)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.write_str("is not set"),
            Self::Unreadable(_) => f.write_str("cannot be read"),
            Self::TooLong => write!(f, "holds more than {} bytes", limits::SECRET_BYTES),
            Self::Empty => f.write_str("is empty"),
            Self::Unstarted(_) => f.write_str("cannot be started"),
            Self::Failed(status) => write!(f, "failed ({status})"),
            Self::TooSlow => write!(f, "took more than {} s", limits::SECRET_TIME.as_secs()),
            Self::Expired => f.write_str("gave what has expired"),
            Self::Credential(what, place, fault) => {
                write!(f, "cannot be asked without {what}: {} {fault}", discreet(place))
            }
            Self::Unfit(what) => write!(f, "cannot be asked: {what} is none that could be used"),
            Self::Unreachable(_) => f.write_str("cannot be reached"),
            Self::Refused(what, status) => write!(f, "refused {what} ({})", status.as_u16()),
            Self::Nothing => f.write_str("has no such secret (404)"),
            Self::Sealed => f.write_str("is sealed, or down for maintenance (503)"),
            Self::NoField => f.write_str("has no text in that field"),
            Self::Denied(reason) => write!(f, "gave no token ({reason})"),
            Self::Answered(status) => write!(f, "answered with the status {}", status.as_u16()),
            Self::Garbled => f.write_str("gave an answer that cannot be understood"),
            #[cfg(not(feature = "aws"))]
            Self::NotBuilt => write!(f, "cannot be asked: {}", AwsSpec::NOT_BUILT),
        }
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault.cause()
    }
}

impl Fault {
    fn cause(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(error) | Self::Unstarted(error) => Some(error),
            Self::Unreachable(error) => Some(error),
            Self::Credential(_, _, fault) => fault.cause(),
            Self::Unset
            | Self::TooLong
            | Self::Empty
            | Self::Failed(_)
            | Self::TooSlow
            | Self::Expired
            | Self::Unfit(_)
            | Self::Refused(..)
            | Self::Nothing
            | Self::Sealed
            | Self::NoField
            | Self::Denied(_)
            | Self::Answered(_)
            | Self::Garbled => None,
            #[cfg(not(feature = "aws"))]
            Self::NotBuilt => None,
        }
    }
}

impl Source {
    /// A source that was not read yet.
    #[must_use]
    pub fn new(name: SecretName, spec: SourceSpec) -> Self {
        Self { name, spec, withheld: Vec::new(), session: None, rotated: None }
    }

    /// The same, whose command does not get these variables.
    #[must_use]
    pub fn withholding(self, variables: impl IntoIterator<Item = String>) -> Self {
        Self { withheld: variables.into_iter().collect(), ..self }
    }

    /// Whose value it is.
    #[must_use]
    pub fn name(&self) -> &SecretName {
        &self.name
    }

    /// What it is.
    #[must_use]
    pub fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    /// Reads the value. A relative path counts from the working directory.
    ///
    /// # Errors
    /// When there is no value, or an empty one: nothing is ever sent without it.
    pub async fn read<W: World>(&mut self, world: &W) -> Result<Given, SourceError> {
        let given = timeout(limits::SECRET_TIME, self.ask(world)).await.unwrap_or(Err(Fault::TooSlow));
        let checked = given.and_then(|given| match given.secret.expose(<[u8]>::len) {
            0 => Err(Fault::Empty),
            length if length > limits::SECRET_BYTES => Err(Fault::TooLong),
            _ if given.good_for.is_some_and(|time| time.is_zero()) => Err(Fault::Expired),
            _ => Ok(Given { good_for: given.good_for.map(|time| time.min(limits::SECRET_LIFE)), ..given }),
        });
        checked.map_err(|fault| SourceError { name: self.name.clone(), place: place(&self.spec), fault })
    }

    async fn ask<W: World>(&mut self, world: &W) -> Result<Given, Fault> {
        let whole = |bytes| Given { secret: Secret::new(bytes), good_for: None, again: None };
        match &self.spec {
            SourceSpec::Env(variable) => {
                let value = world.variable(variable).ok_or(Fault::Unset)?;
                Ok(whole(Zeroizing::new(value.into_vec())))
            }
            SourceSpec::File(path) => read_file(path).map(whole),
            SourceSpec::Command(words) => {
                let (bytes, good_for) = understand(run(words, &self.withheld).await?, world.now())?;
                Ok(Given { good_for, ..whole(bytes) })
            }
            SourceSpec::Vault(spec) => vault::read(spec, &mut self.session, world).await,
            SourceSpec::OAuth2(spec) => oauth2::read(spec, &mut self.rotated, world).await,
            SourceSpec::GithubApp(spec) => github_app::read(spec, world).await,
            #[cfg(feature = "aws")]
            SourceSpec::Aws(spec) => aws::read(spec, world).await,
            #[cfg(not(feature = "aws"))]
            SourceSpec::Aws(_) => Err(Fault::NotBuilt),
        }
    }
}

/// What a source is called where it fails.
fn place(spec: &SourceSpec) -> String {
    match spec {
        SourceSpec::Env(variable) => format!("the variable {variable}"),
        SourceSpec::File(path) => format!("the file {}", path.display()),
        SourceSpec::Command(words) => {
            format!("the command {}", words.first().map(String::as_str).unwrap_or_default())
        }
        SourceSpec::Vault(spec) => format!("Vault at {}", spec.address),
        SourceSpec::OAuth2(spec) => format!("the OAuth server at {}", spec.token_url),
        SourceSpec::GithubApp(spec) => format!("GitHub at {}", spec.api),
        SourceSpec::Aws(spec) => match &spec.from {
            AwsFrom::Environment => "AWS with the key of the environment".to_owned(),
            AwsFrom::Profile { name, .. } => format!("AWS with the profile {name}"),
            AwsFrom::WebIdentity { role, .. } => format!("AWS with a token for the role {role}"),
        },
    }
}

/// A credential from where it lies; `what` it is, in an error.
fn lies<W: World>(what: &'static str, spec: &CredentialSpec, world: &W) -> Result<Secret, Fault> {
    let (place, bytes) = match spec {
        CredentialSpec::Env(variable) => {
            let value = world.variable(variable).ok_or(Fault::Unset);
            (format!("the variable {variable}"), value.map(|value| Zeroizing::new(value.into_vec())))
        }
        CredentialSpec::File(path) => (format!("the file {}", path.display()), read_file(path)),
    };
    let checked = bytes.map(Secret::new).and_then(|secret| match secret.expose(<[u8]>::len) {
        0 => Err(Fault::Empty),
        length if length > limits::SECRET_BYTES => Err(Fault::TooLong),
        _ => Ok(secret),
    });
    checked.map_err(|fault| Fault::Credential(what, place, Box::new(fault)))
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Fault> {
    // Room for all from the start: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limits::SECRET_BYTES + 2));
    let limit = limits::SECRET_BYTES as u64 + 1;
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(Fault::Unreadable)?;
    Ok(bytes)
}

/// What a command prints.
async fn run(words: &[String], withheld: &[String]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let Some((program, arguments)) = words.split_first() else { return Err(Fault::Empty) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    for variable in withheld {
        command.env_remove(variable);
    }
    let mut child = command.spawn().map_err(Fault::Unstarted)?;
    // As for a file.
    let mut printed = Zeroizing::new(Vec::with_capacity(limits::SECRET_BYTES + 2));
    if let Some(output) = child.stdout.take() {
        output.take(limits::SECRET_BYTES as u64 + 1).read_to_end(&mut printed).await.map_err(Fault::Unreadable)?;
    }
    if printed.len() > limits::SECRET_BYTES {
        return Err(Fault::TooLong);
    }
    let status = child.wait().await.map_err(Fault::Unreadable)?;
    if status.success() { Ok(printed) } else { Err(Fault::Failed(status)) }
}

/// What a command may print instead of the bare value.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GivenWire {
    value: String,
    expires_in: Option<u64>,
    expires_at: Option<String>,
}

/// A key of AWS's as `credential_process` has it. Whole, it is a value; here it is asked when it ends.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AwsKeyWire {
    #[serde(rename = "AccessKeyId")]
    _id: IgnoredAny,
    #[serde(rename = "SecretAccessKey")]
    _key: IgnoredAny,
    /// Text; of any other kind it says nothing that could be relied on.
    expiration: Option<Json>,
}

/// The value in what a command printed, and how long it is good. What is not that one object is the value itself, and
/// is good as long as it says of itself if it is a key of AWS's.
fn understand(printed: Zeroizing<Vec<u8>>, now: SystemTime) -> Result<(Zeroizing<Vec<u8>>, Option<Duration>), Fault> {
    if let Ok(GivenWire { value, expires_in, expires_at }) = serde_json::from_slice(&printed) {
        let value = Zeroizing::new(value.into_bytes());
        let until = expires_at.map(|text| left(&text, now)).transpose()?;
        return Ok((value, expires_in.map(Duration::from_secs).into_iter().chain(until).min()));
    }
    let key = serde_json::from_slice::<AwsKeyWire>(&printed).ok();
    let end = key.and_then(|key| key.expiration).map(|end| left(end.as_str().unwrap_or_default(), now));
    Ok((printed, end.transpose()?))
}

/// How long it is until then. When it ends that cannot be told, so it is over.
fn left(text: &str, now: SystemTime) -> Result<Duration, Fault> {
    let end = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| Fault::Expired)?;
    SystemTime::from(end).duration_since(now).map_err(|_| Fault::Expired)
}
