//! Where values come from: a variable of exeat's own environment, a file, or a command.
//!
//! A source is read here once; [`super::keep`] reads it again. A secret that cannot be had is the operator's fault to
//! mend, and is told where that can be done, not at the first request that needs it.
//!
//! A command is started without a shell, with exeat's own environment, nothing to read, and its messages thrown away,
//! for they may hold what is nobody's business. What it prints is the value, or one JSON object that holds it with how
//! long it is good: `{"value": "…", "expiresIn": SECONDS}` or `{"value": "…", "expiresAt": "2026-11-21T03:04:05Z"}`.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::Secret;
use crate::flow::SecretName;
use crate::limits;
use crate::policy::SourceSpec;
use crate::policy::diagnostic::discreet;

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
}

/// What a source gave.
#[derive(Debug)]
pub struct Given {
    /// The value.
    pub secret: Secret,
    /// How long it is good, if the source says so.
    pub good_for: Option<Duration>,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever misunderstood a policy may have put the value where its place is due.
        let (name, place) = (discreet(self.name.as_str()), discreet(&self.place));
        write!(f, "the secret {name} cannot be had: {place} ")?;
        match &self.fault {
            Fault::Unset => f.write_str("is not set"),
            Fault::Unreadable(_) => f.write_str("cannot be read"),
            Fault::TooLong => write!(f, "holds more than {} bytes", limits::SECRET_BYTES),
            Fault::Empty => f.write_str("is empty"),
            Fault::Unstarted(_) => f.write_str("cannot be started"),
            Fault::Failed(status) => write!(f, "failed ({status})"),
            Fault::TooSlow => write!(f, "took more than {} s", limits::SECRET_TIME.as_secs()),
            Fault::Expired => f.write_str("gave what has expired"),
        }
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            Fault::Unreadable(error) | Fault::Unstarted(error) => Some(error),
            Fault::Unset | Fault::TooLong | Fault::Empty | Fault::Failed(_) | Fault::TooSlow | Fault::Expired => None,
        }
    }
}

/// Reads a value. `environment` looks a variable up; a relative path counts from the working directory.
///
/// # Errors
/// When there is no value, or an empty one: nothing is ever sent without it.
pub async fn read(
    name: &SecretName,
    source: &SourceSpec,
    environment: impl FnOnce(&str) -> Option<OsString>,
) -> Result<Given, SourceError> {
    let whole = |bytes| Ok((bytes, None));
    let (place, printed) = match source {
        SourceSpec::Env(variable) => {
            let value = environment(variable).ok_or(Fault::Unset);
            (format!("the variable {variable}"), value.map(|value| Zeroizing::new(value.into_vec())).and_then(whole))
        }
        SourceSpec::File(path) => (format!("the file {}", path.display()), read_file(path).and_then(whole)),
        SourceSpec::Command(words) => {
            let program = words.first().map(String::as_str).unwrap_or_default();
            (format!("the command {program}"), run(words).await.and_then(|bytes| understand(bytes, SystemTime::now())))
        }
    };
    let checked = printed.and_then(|(bytes, good_for)| {
        if bytes.len() > limits::SECRET_BYTES {
            return Err(Fault::TooLong);
        }
        let secret = Secret::new(bytes);
        if secret.expose(<[u8]>::is_empty) { Err(Fault::Empty) } else { Ok(Given { secret, good_for }) }
    });
    checked.map_err(|fault| SourceError { name: name.clone(), place, fault })
}

/// The file that a source reads, if it reads one: what must be hidden from the sandbox.
#[must_use]
pub fn file(source: &SourceSpec) -> Option<PathBuf> {
    match source {
        SourceSpec::File(path) => Some(path.clone()),
        SourceSpec::Env(_) | SourceSpec::Command(_) => None,
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Fault> {
    // Room for all from the start: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limits::SECRET_BYTES + 2));
    let limit = limits::SECRET_BYTES as u64 + 1;
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(Fault::Unreadable)?;
    Ok(bytes)
}

/// What a command prints.
async fn run(words: &[String]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let Some((program, arguments)) = words.split_first() else { return Err(Fault::Empty) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let ran = async {
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
    };
    timeout(limits::SECRET_TIME, ran).await.unwrap_or(Err(Fault::TooSlow))
}

/// What a command may print instead of the bare value.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GivenWire {
    value: String,
    expires_in: Option<u64>,
    expires_at: Option<String>,
}

/// The value in what a command printed, and how long it is good. What is not that one object is the value itself.
fn understand(printed: Zeroizing<Vec<u8>>, now: SystemTime) -> Result<(Zeroizing<Vec<u8>>, Option<Duration>), Fault> {
    let Ok(GivenWire { value, expires_in, expires_at }) = serde_json::from_slice(&printed) else {
        return Ok((printed, None));
    };
    let value = Zeroizing::new(value.into_bytes());
    let until = match expires_at.map(|text| OffsetDateTime::parse(&text, &Rfc3339)) {
        None => None,
        Some(Ok(at)) => Some(SystemTime::from(at).duration_since(now).map_err(|_| Fault::Expired)?),
        // When it ends cannot be told, so it is over.
        Some(Err(_)) => return Err(Fault::Expired),
    };
    let good_for = expires_in.map(Duration::from_secs).into_iter().chain(until).min();
    if good_for.is_some_and(|time| time.is_zero()) { Err(Fault::Expired) } else { Ok((value, good_for)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> SecretName {
        SecretName::new("KEY").unwrap()
    }

    async fn of_variable(value: Option<&str>) -> Result<Given, SourceError> {
        let source = SourceSpec::Env("TOKEN".to_owned());
        read(&name(), &source, |asked| value.filter(|_| asked == "TOKEN").map(OsString::from)).await
    }

    async fn of_command(script: &str) -> Result<(String, Option<Duration>), String> {
        let source = SourceSpec::Command(["sh", "-c", script].map(str::to_owned).into());
        let given = read(&name(), &source, |_| None).await.map_err(|error| error.to_string())?;
        Ok((given.secret.expose(|value| String::from_utf8(value.to_vec()).unwrap()), given.good_for))
    }

    #[tokio::test]
    async fn a_variable_gives_its_value_without_the_trailing_newline() {
        of_variable(Some("canary\n")).await.unwrap().secret.expose(|value| assert_eq!(value, b"canary"));
    }

    #[tokio::test]
    async fn a_command_gives_what_it_prints_with_how_long_that_is_good() {
        let minute = Some(Duration::from_secs(60));
        for (script, expected) in [
            ("echo canary", ("canary", None)),
            ("echo '{\"value\": \"canary\"}'", ("canary", None)),
            ("echo '{\"value\": \"canary\", \"expiresIn\": 60}'", ("canary", minute)),
            ("echo '{\"type\": \"service_account\"}'", ("{\"type\": \"service_account\"}", None)),
        ] {
            let (value, good_for) = of_command(script).await.unwrap();
            assert_eq!((value.as_str(), good_for), expected, "{script}");
        }
        let soon = "echo \"{\\\"value\\\": \\\"x\\\", \\\"expiresAt\\\": \\\"$(date -u -d '+1 hour' +%FT%TZ)\\\"}\"";
        let (_, good_for) = of_command(soon).await.unwrap();
        assert!((3500..=3600).contains(&good_for.unwrap().as_secs()), "{good_for:?}");
    }

    #[tokio::test]
    async fn a_command_that_gives_nothing_good_says_why_and_shows_nothing_of_it() {
        for (script, expected) in [
            ("echo canary; exit 3", "failed (exit status: 3)"),
            ("true", "is empty"),
            ("echo '{\"value\": \"canary\", \"expiresIn\": 0}'", "gave what has expired"),
            ("echo '{\"value\": \"canary\", \"expiresAt\": \"2001-01-01T00:00:00Z\"}'", "gave what has expired"),
            ("echo '{\"value\": \"canary\", \"expiresAt\": \"soon\"}'", "gave what has expired"),
            ("yes canary", "holds more than 65536 bytes"),
        ] {
            let told = of_command(script).await.unwrap_err();
            assert_eq!(told, format!("the secret KEY cannot be had: the command sh {expected}"), "{script}");
        }
        let source = SourceSpec::Command(vec!["/no/such/program".to_owned()]);
        let told = read(&name(), &source, |_| None).await.unwrap_err().to_string();
        assert_eq!(told, "the secret KEY cannot be had: the command /no/such/program cannot be started");
    }

    #[tokio::test]
    async fn a_file_is_read_where_the_policy_says() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("key"), "canary\n").unwrap();
        let source = SourceSpec::File(directory.path().join("key"));
        let given = read(&name(), &source, |_| None).await.unwrap();
        given.secret.expose(|value| assert_eq!(value, b"canary"));
        assert_eq!(file(&source), Some(directory.path().join("key")));
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_an_error_that_names_its_place_and_no_value() {
        let text = of_variable(None).await.unwrap_err().to_string();
        assert_eq!(text, "the secret KEY cannot be had: the variable TOKEN is not set");
        assert!(of_variable(Some("\n")).await.unwrap_err().to_string().ends_with("is empty"));
        let long = "x".repeat(limits::SECRET_BYTES + 1);
        let text = of_variable(Some(&long)).await.unwrap_err().to_string();
        assert!(text.contains("holds more than") && !text.contains("xx"));
        let pasted = SourceSpec::Env("ghp_Zq8sW2x7Rt5Lk9Vb3Nm6Pd1Sf4Hj0Gc".into());
        let text = read(&name(), &pasted, |_| None).await.unwrap_err().to_string();
        assert_eq!(text, "the secret KEY cannot be had: the variable … is not set");
        let missing = SourceSpec::File("/not/there".into());
        let error = read(&name(), &missing, |_| None).await.unwrap_err();
        assert_eq!(error.to_string(), "the secret KEY cannot be had: the file /not/there cannot be read");
    }
}
