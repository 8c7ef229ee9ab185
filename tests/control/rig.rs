//! A daemon with a folder of its own, and ways to ask it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::eventually;

/// A daemon with a folder of its own.
pub(crate) struct Rig {
    daemon: Child,
    folder: TempDir,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Rig {
    pub(crate) fn new() -> Option<Self> {
        Self::with("")
    }

    /// With more lines beneath `control`.
    pub(crate) fn with(control: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: a daemon needs root");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("serve.yaml");
        let (state, socket) = (folder.path().join("state"), folder.path().join("run/control.sock"));
        let text = format!("state: {}\ncontrol:\n  socket: {}\n{control}", state.display(), socket.display());
        std::fs::write(&config, text).expect("settings");
        let mut command = Command::new(env!("CARGO_BIN_EXE_exeat"));
        let daemon = command.arg("serve").arg("--config").arg(config).spawn().expect("the daemon");
        let rig = Self { daemon, folder };
        assert!(eventually(|| rig.socket().exists()), "the daemon listens");
        Some(rig)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/control.sock")
    }

    /// Status, headers and body of one request.
    pub(crate) fn whole(&self, options: &[&str], path: &str) -> (u16, String, Value) {
        let (status, text) = self.curl(&[&["--include"], options].concat(), path);
        let (head, body) = text.rsplit_once("\r\n\r\n").expect("a head");
        (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or_default())
    }

    /// Names of the sandboxes on a page, and where the next begins.
    pub(crate) fn page(&self, query: &str) -> (Vec<String>, Value) {
        let (status, listed) = self.get(&format!("/v2/sandboxes?{query}"));
        assert_eq!(status, 200, "{query}: {listed}");
        let list = listed.get("sandboxes").and_then(Value::as_array).expect("a list");
        let names = list.iter().map(|one| text(one.get("name").expect("a name")));
        (names.collect(), listed.pointer("/pagination/next").expect("a place").clone())
    }

    /// Status and body of one request.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, body) = self.curl(&["-X", method, "--data-binary", body], path);
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.curl(&[], path);
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    pub(crate) fn curl(&self, options: &[&str], path: &str) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "20", "--write-out", "\n%{http_code}", "--unix-socket"]);
        let run = curl.arg(self.socket()).args(options).arg(format!("http://localhost{path}")).output();
        let text = String::from_utf8(run.expect("curl").stdout).expect("text");
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (status.parse().expect("a number"), body.to_owned())
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}
