//! `exeat serve` as it is started: settings in; its service manager, its listeners and what it tells, out.

use std::io::{BufRead, BufReader, Lines};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::attachments::ground::Ground;
use crate::support::PATIENCE;

/// An address of the host that services may be at.
pub(crate) const OURS: &str = "203.0.113.9";
/// Another.
pub(crate) const OTHER: &str = "203.0.113.10";

/// A daemon of its own on a ground of its own.
pub(crate) struct Verb {
    child: Child,
    told: Lines<BufReader<ChildStderr>>,
    manager: UnixDatagram,
    pub(crate) folder: TempDir,
    pub(crate) ground: Ground,
}

impl Verb {
    /// The fixture, where there is root: the daemon is ready. `settings` get a state folder and a socket beside them,
    /// and `{}` in them is the folder that `before` has put files into; a `rig-root.pem` among them is trusted.
    pub(crate) fn start(settings: &str, before: impl FnOnce(&Path)) -> Option<Self> {
        let ground = Ground::new()?;
        for address in [OURS, OTHER] {
            ground.place.ip(&format!("address add {address}/32 dev lo"));
        }
        let folder = tempfile::tempdir().expect("a folder");
        before(folder.path());
        let at = |name: &str| folder.path().join(name);
        let manager = UnixDatagram::bind(at("notify")).expect("a socket");
        manager.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        write_settings(folder.path(), settings);
        let mut command = Command::new(env!("CARGO_BIN_EXE_exeat"));
        command.arg("serve").arg("--config").arg(at("serve.yaml")).arg("--socket").arg(at("control.sock"));
        if at("rig-root.pem").exists() {
            command.env("SSL_CERT_FILE", at("rig-root.pem"));
        }
        command.env("NOTIFY_SOCKET", at("notify")).stderr(Stdio::piped()).stdin(Stdio::null());
        let mut child = ground.place.enter(move || command.spawn().expect("exeat"));
        let told = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let verb = Self { child, told, manager, folder, ground };
        assert_eq!(verb.word(), "READY=1");
        Some(verb)
    }

    fn word(&self) -> String {
        let mut word = [0; 64];
        let length = self.manager.recv(&mut word).expect("a word in time");
        String::from_utf8_lossy(word.get(..length).unwrap_or_default()).into_owned()
    }

    /// Where a file of this daemon is.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn process(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// The next line that it tells the operator.
    #[track_caller]
    pub(crate) fn tells(&mut self) -> String {
        self.told.next().expect("a line").expect("text")
    }

    /// Has it read these settings; what it tells of them.
    #[track_caller]
    pub(crate) fn reload(&mut self, settings: &str) -> String {
        write_settings(self.folder.path(), settings);
        kill(self.process(), Signal::SIGHUP).expect("it runs");
        self.tells()
    }

    /// Ends it as its service manager does.
    pub(crate) fn end(mut self) {
        kill(self.process(), Signal::SIGTERM).expect("it runs");
        assert_eq!(self.child.wait().expect("a child").code(), Some(0));
    }

    /// Runs a command where the daemon is.
    pub(crate) fn output(&self, mut command: Command) -> Output {
        self.ground.place.enter(move || command.stdin(Stdio::null()).output().expect("the command is installed"))
    }

    /// Status, headers and body of what curl is answered; status 0 if it is not.
    pub(crate) fn curl(&self, arguments: &[&str]) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include", "--max-time", "20", "--write-out", "\n%{http_code}"]).args(arguments);
        let text = String::from_utf8(self.output(curl).stdout).expect("text");
        let (answer, status) = text.rsplit_once('\n').expect("a status");
        (status.parse().expect("a number"), answer.to_owned())
    }

    /// Asks over the Unix socket; the body of the answer.
    #[track_caller]
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let (socket, url) = (self.at("control.sock"), format!("http://localhost{path}"));
        let socket = socket.to_str().expect("text");
        let (status, answer) = self.curl(&["-X", method, "--unix-socket", socket, "--data-binary", body, &url]);
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).unwrap_or_default()
    }

    /// Makes a namespace, and a sandbox of the same name with this policy.
    pub(crate) fn sandbox(&self, name: &'static str, policy: &str) {
        self.ground.sandbox(name);
        let attachment = format!(r#"{{"netns": "/run/netns/{name}"}}"#);
        let body = format!(r#"{{"name": "{name}", "networkPolicy": {policy}, "attachment": {attachment}}}"#);
        self.ask("POST", "/v2/sandboxes", &body);
    }

    /// A service on port 7 of an address of the host, that greets with `hello` and keeps the connection.
    pub(crate) fn greet_at(&self, address: &'static str) {
        self.ground.run(async move {
            let listener = TcpListener::bind((address, 7)).await.expect("a listener");
            tokio::spawn(async move {
                while let Ok((mut io, _)) = listener.accept().await {
                    tokio::spawn(async move {
                        // A client that is cut off has no use for it.
                        let _ = io.write_all(b"hello\n").await;
                        let _ = io.read_to_end(&mut Vec::new()).await;
                    });
                }
            });
        });
    }
}

impl Drop for Verb {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_settings(folder: &Path, settings: &str) {
    let folder = folder.to_str().expect("text");
    let text = format!("state: {folder}/state\n{}", settings.replace("{}", folder));
    std::fs::write(format!("{folder}/serve.yaml"), text).expect("a file");
}

/// Writes a file that its owner alone may read.
pub(crate) fn write_private(path: &Path, content: &str) {
    std::fs::write(path, content).expect("a file");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("permissions");
}
