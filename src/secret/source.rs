//! Where values come from: a variable of exeat's own environment, or a file.
//!
//! Read once, before the sandbox is made: a secret that cannot be had is the operator's fault to mend, and is told
//! then, not at the first request that needs it.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

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
        }
    }
}

impl std::error::Error for SourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            Fault::Unreadable(error) => Some(error),
            Fault::Unset | Fault::TooLong | Fault::Empty => None,
        }
    }
}

/// Reads a value. `environment` looks a variable up; a relative path counts from the working directory.
///
/// # Errors
/// When there is no value, or an empty one: nothing is ever sent without it.
pub fn read(
    name: &SecretName,
    source: &SourceSpec,
    environment: impl FnOnce(&str) -> Option<OsString>,
) -> Result<Secret, SourceError> {
    let (place, bytes) = match source {
        SourceSpec::Env(variable) => {
            let value = environment(variable).ok_or(Fault::Unset);
            (format!("the variable {variable}"), value.map(|value| Zeroizing::new(value.into_vec())))
        }
        SourceSpec::File(path) => (format!("the file {}", path.display()), read_file(path)),
    };
    let checked = bytes.and_then(|bytes| {
        if bytes.len() > limits::SECRET_BYTES {
            return Err(Fault::TooLong);
        }
        let secret = Secret::new(bytes);
        if secret.expose(<[u8]>::is_empty) { Err(Fault::Empty) } else { Ok(secret) }
    });
    checked.map_err(|fault| SourceError { name: name.clone(), place, fault })
}

/// The file that a source reads, if it reads one: what must be hidden from the sandbox.
#[must_use]
pub fn file(source: &SourceSpec) -> Option<PathBuf> {
    match source {
        SourceSpec::File(path) => Some(path.clone()),
        SourceSpec::Env(_) => None,
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Fault> {
    // Room for all from the start: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limits::SECRET_BYTES + 2));
    let limit = limits::SECRET_BYTES as u64 + 1;
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(Fault::Unreadable)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> SecretName {
        SecretName::new("KEY").unwrap()
    }

    fn of_variable(value: Option<&str>) -> Result<Secret, SourceError> {
        let source = SourceSpec::Env("TOKEN".to_owned());
        read(&name(), &source, |asked| value.filter(|_| asked == "TOKEN").map(OsString::from))
    }

    #[test]
    fn a_variable_gives_its_value_without_the_trailing_newline() {
        of_variable(Some("canary\n")).unwrap().expose(|value| assert_eq!(value, b"canary"));
    }

    #[test]
    fn a_file_is_read_where_the_policy_says() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("key"), "canary\n").unwrap();
        let source = SourceSpec::File(directory.path().join("key"));
        let secret = read(&name(), &source, |_| None).unwrap();
        secret.expose(|value| assert_eq!(value, b"canary"));
        assert_eq!(file(&source), Some(directory.path().join("key")));
    }

    #[test]
    fn what_cannot_be_had_is_an_error_that_names_its_place_and_no_value() {
        let text = of_variable(None).unwrap_err().to_string();
        assert_eq!(text, "the secret KEY cannot be had: the variable TOKEN is not set");
        assert!(of_variable(Some("\n")).unwrap_err().to_string().ends_with("is empty"));
        let long = "x".repeat(limits::SECRET_BYTES + 1);
        let text = of_variable(Some(&long)).unwrap_err().to_string();
        assert!(text.contains("holds more than") && !text.contains("xx"));
        let pasted = SourceSpec::Env("ghp_Zq8sW2x7Rt5Lk9Vb3Nm6Pd1Sf4Hj0Gc".into());
        let text = read(&name(), &pasted, |_| None).unwrap_err().to_string();
        assert_eq!(text, "the secret KEY cannot be had: the variable … is not set");
        let missing = SourceSpec::File("/not/there".into());
        let error = read(&name(), &missing, |_| None).unwrap_err();
        assert_eq!(error.to_string(), "the secret KEY cannot be had: the file /not/there cannot be read");
    }
}
