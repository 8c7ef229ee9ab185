//! A folder with files, and `exeat` run in it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with files.
pub(crate) struct Desk(TempDir);

impl Desk {
    /// A folder with these files, by path and text.
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let desk = Self(TempDir::new().expect("a temporary folder"));
        for (path, text) in files {
            desk.write(path, text);
        }
        desk
    }

    /// Where a file of it is.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(path)
    }

    /// Writes a file, and the folders that it is in.
    pub(crate) fn write(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a path in the folder")).expect("folders");
        std::fs::write(path, bytes).expect("a file");
    }

    /// `exeat` with these arguments, in the folder, in a nearly empty environment.
    pub(crate) fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_exeat"));
        command.args(arguments).env_clear().current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Done {
        Done::of(self.command(arguments).output().expect("exeat was built"))
    }
}

/// How a run ended and what it printed.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Fails the test unless it ended with this code, and silently but for standard output.
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert!(self.code == Some(code) && self.stderr.is_empty(), "expected {code}: {self:#?}");
        self
    }

    /// Fails the test unless it refused the command line and said so, naming each of these.
    #[track_caller]
    pub(crate) fn refused(self, says: &[&str]) {
        assert!(self.code == Some(2) && self.stdout.is_empty(), "{self:#?}");
        for text in says {
            assert!(self.stderr.contains(text), "no `{text}`: {self:#?}");
        }
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}
