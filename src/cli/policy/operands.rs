//! From `FILE|DIR…` to documents, in order.
//!
//! `INVARIANT`: a walk is bounded: no folder is entered twice, and [`limits::FOLDER_FILES`] documents are taken at
//! most. In a folder no pipe's writer is waited for.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files::{Document, DocumentError, PRESET, ReadError, shown};
use crate::limits;
use crate::policy;
use crate::policy::diagnostic::harmless;

/// The documents that `FILE|DIR…` and `preset:NAME` name, in order: a file as it is named, of a folder all `*.yaml`,
/// `*.yml` and `*.json` in it and below, sorted. Hidden ones are passed over, and so are JSON Schemas (`schema.json`,
/// `*.schema.json`).
///
/// Each is read when the iterator comes to it; one that cannot be read is an error in its place.
///
/// # Errors
/// An operand that is not there, and a folder without any document: the user meant something else.
pub(in crate::cli) fn documents(
    operands: &[PathBuf],
) -> Result<impl Iterator<Item = Result<Document, DocumentError>>, String> {
    let mut found = Vec::new();
    for operand in operands {
        let name = operand.to_str().and_then(|operand| operand.strip_prefix(PRESET));
        match (name, fs::metadata(operand)) {
            (Some(name), _) if policy::preset(name).is_none() => {
                return Err(DocumentError::NoPreset(harmless(name)).to_string());
            }
            (None, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!("{}: there is no such file or folder", shown(operand)));
            }
            (None, Ok(metadata)) if metadata.is_dir() => {
                let before = found.len();
                walk(operand, &mut found);
                if found.len() == before {
                    let shown = shown(operand);
                    return Err(format!("{shown}: no policy in this folder (no *.yaml, *.yml or *.json)"));
                }
            }
            _ => found.push(Found::Named(operand.clone())),
        }
    }
    Ok(found.into_iter().map(Found::open))
}

/// A document that was found, and not read yet.
enum Found {
    Named(PathBuf),
    InFolder(PathBuf),
    Not(PathBuf, ReadError),
}

impl Found {
    fn open(self) -> Result<Document, DocumentError> {
        match self {
            Self::Named(path) => Document::named(path),
            Self::InFolder(path) => Document::read_regular(&path),
            Self::Not(path, why) => Err(DocumentError::File(path, why)),
        }
    }
}

/// Finds the documents of a folder and of those in it, in the order of their paths.
fn walk(folder: &Path, found: &mut Vec<Found>) {
    let mut entered = HashSet::new();
    // What is still to be looked at, the next one last.
    let mut waiting = vec![folder.to_owned()];
    let most = found.len().saturating_add(limits::FOLDER_FILES);
    while let Some(path) = waiting.pop() {
        let metadata = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => metadata,
            Ok(_) if is_document(&path) => {
                if found.len() >= most {
                    found.push(Found::Not(folder.to_owned(), ReadError::TooMany));
                    return;
                }
                found.push(Found::InFolder(path));
                continue;
            }
            Err(error) if is_document(&path) || error.kind() == io::ErrorKind::PermissionDenied => {
                found.push(Found::Not(path, ReadError::Io(error)));
                continue;
            }
            Ok(_) | Err(_) => continue,
        };
        // A link that leads back up would lead here again.
        if !entered.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        match entries(&path) {
            Ok(mut entries) => {
                entries.sort_unstable_by(|a, b| b.cmp(a));
                waiting.extend(entries);
            }
            Err(error) => found.push(Found::Not(path, ReadError::Io(error))),
        }
    }
}

/// What is in a folder, but for hidden entries.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            entries.push(folder.join(name));
        }
    }
    Ok(entries)
}

fn is_document(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let schema = name == b"schema.json" || name.ends_with(b".schema.json");
    !schema && [b".yaml".as_slice(), b".yml", b".json"].iter().any(|ending| name.ends_with(ending))
}
