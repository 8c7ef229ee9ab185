//! How documents are read: `FILE`, `preset:NAME`, and what they `extends`.
//!
//! `INVARIANT`: what is read is bounded ([`limits::POLICY_BYTES`]); a pipe's writer is waited for only where the user
//! named the pipe.

use std::borrow::Cow;
use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use crate::limits;
use crate::policy::diagnostic::{Code, Diagnostics, harmless};
use crate::policy::{self, Files, Source};

/// The prefix that names a built-in policy.
pub(super) const PRESET: &str = "preset:";

/// A document, read whole.
#[derive(Debug)]
pub(in crate::cli) struct Document {
    /// As it is shown.
    path: Cow<'static, str>,
    text: Cow<'static, str>,
    file: Option<PathBuf>,
}

impl Document {
    /// What `FILE`, which may be a pipe, or `preset:NAME` names.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(in crate::cli) fn named(named: impl AsRef<Path>) -> Result<Self, DocumentError> {
        let named = named.as_ref();
        match named.to_str().and_then(|named| named.strip_prefix(PRESET)) {
            Some(name) => {
                let Source { path, text } =
                    policy::preset(name).ok_or_else(|| DocumentError::NoPreset(harmless(name)))?;
                Ok(Self { path: path.into(), text: text.into(), file: None })
            }
            None => Self::of(named, read(named)),
        }
    }

    /// A file that is no pipe or device.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(super) fn read_regular(path: &Path) -> Result<Self, DocumentError> {
        Self::of(path, read_regular(path))
    }

    fn of(path: &Path, text: Result<String, ReadError>) -> Result<Self, DocumentError> {
        let text = text.map_err(|why| DocumentError::File(path.to_owned(), why))?;
        Ok(Self { path: shown(path).into(), text: text.into(), file: Some(path.to_owned()) })
    }

    /// Its text, and what it is called.
    pub(in crate::cli) fn source(&self) -> Source<'_> {
        Source { path: &self.path, text: &self.text }
    }

    /// Where it was read, if not built in.
    pub(in crate::cli) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

/// Why a document cannot be had.
#[derive(Debug)]
pub(in crate::cli) enum DocumentError {
    /// There is no preset of this name.
    NoPreset(String),
    /// This file cannot be read.
    File(PathBuf, ReadError),
}

/// Why a file cannot be read.
#[derive(Debug)]
pub(in crate::cli) enum ReadError {
    Io(io::Error),
    TooLarge,
    NotText,
    NotAFile,
    TooMany,
}

impl DocumentError {
    /// Whether there is no such document, rather than one that cannot be used.
    pub(in crate::cli) fn is_usage(&self) -> bool {
        match self {
            Self::NoPreset(_) => true,
            Self::File(_, ReadError::Io(error)) => error.kind() == io::ErrorKind::NotFound,
            Self::File(..) => false,
        }
    }

    /// What cannot be had, as it is shown.
    pub(super) fn path(&self) -> String {
        match self {
            Self::NoPreset(name) => format!("{PRESET}{name}"),
            Self::File(path, _) => shown(path),
        }
    }

    /// As a finding of `check` or `test`.
    pub(in crate::cli) fn diagnostics(&self) -> Diagnostics {
        let (code, message, help) = match self {
            Self::NoPreset(_) => (Code::Unreadable, self.to_string(), None),
            Self::File(_, why @ (ReadError::TooLarge | ReadError::TooMany)) => (Code::Limit, why.to_string(), None),
            Self::File(_, why @ ReadError::NotText) => (Code::Syntax, why.to_string(), Some("save it in UTF-8".into())),
            Self::File(_, why) => (Code::Unreadable, format!("this cannot be read: {why}"), None),
        };
        Diagnostics::of_file(&self.path(), code, message, help)
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPreset(name) => {
                let names = policy::presets().collect::<Vec<_>>().join(", ");
                write!(f, "there is no preset `{name}`; there are: {names}")
            }
            Self::File(..) => write!(f, "cannot read {}", self.path()),
        }
    }
}

impl Error for DocumentError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NoPreset(_) => None,
            Self::File(_, why) => Some(why),
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::TooLarge => write!(f, "the file is larger than {} bytes", limits::POLICY_BYTES),
            Self::NotText => f.write_str("this is not text in UTF-8"),
            Self::NotAFile => f.write_str("this is not a regular file"),
            Self::TooMany => write!(f, "this folder holds more than {} documents", limits::FOLDER_FILES),
        }
    }
}

impl Error for ReadError {}

/// The disk, for what a policy `extends`; it remembers what it read.
#[derive(Debug, Default)]
pub(in crate::cli) struct Disk {
    read: RefCell<Vec<PathBuf>>,
}

impl Disk {
    /// The files that were read.
    pub(in crate::cli) fn into_read(self) -> Vec<PathBuf> {
        self.read.into_inner()
    }
}

impl Files for Disk {
    fn read(&self, path: &str) -> Result<String, String> {
        let path = Path::new(path);
        let text = read_regular(path).map_err(|why| why.to_string())?;
        self.read.borrow_mut().push(path.to_owned());
        Ok(text)
    }
}

/// Reads a file that is no pipe or device: a policy's author names it, and must not make us wait.
fn read_regular(path: &Path) -> Result<String, ReadError> {
    let found = fs::metadata(path).map_err(ReadError::Io)?;
    if found.is_file() { read(path) } else { Err(ReadError::NotAFile) }
}

fn read(path: &Path) -> Result<String, ReadError> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limits::POLICY_BYTES).unwrap_or(u64::MAX);
    let file = File::open(path).map_err(ReadError::Io)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() > limits::POLICY_BYTES {
        return Err(ReadError::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| ReadError::NotText)
}

/// A path as it is shown: in a report, in a rule's name. It cannot steer a terminal, and `./a.yaml` is `a.yaml`, as
/// those call it that `extends` it.
pub(super) fn shown(path: &Path) -> String {
    let plain: PathBuf = path.components().filter(|component| *component != Component::CurDir).collect();
    harmless(&(if plain.as_os_str().is_empty() { path } else { &plain }).to_string_lossy())
}
