//! The daemon under load: a real `exeat serve`, its API over its socket, and what it holds of the machine.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::attachments::ground::Ground;
use crate::support::PATIENCE;

/// A daemon that can be killed and started again, over a folder that stays.
pub(crate) struct Daemon {
    process: Option<Child>,
    folder: TempDir,
}

impl Daemon {
    /// Its settings, without a process yet. These addresses of the host may be opened by policies.
    pub(crate) fn new(openable: &[Ipv4Addr]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let list: Vec<String> = openable.iter().map(|address| format!("{address}/32")).collect();
        let text = format!(
            "state: {}\ncontrol: {{ socket: {} }}\nallowProtected: [{}]\n",
            at("state"),
            at("run/control.sock"),
            list.join(", ")
        );
        std::fs::write(folder.path().join("serve.yaml"), text).expect("settings");
        Self { process: None, folder }
    }

    /// Starts it, where the ground is. It may not serve yet.
    pub(crate) fn start(&mut self, ground: &Ground) {
        let config = self.folder.path().join("serve.yaml");
        let child = ground.place.enter(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_exeat"));
            command.arg("serve").arg("--config").arg(config).stdin(Stdio::null()).spawn()
        });
        self.process = Some(child.expect("the daemon"));
    }

    /// Ends it as a crash does, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let mut child = self.process.take().expect("it runs");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).expect("it runs");
        child.wait().expect("a child");
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/control.sock")
    }

    /// What it holds now.
    pub(crate) async fn figures(&self, ground: &Ground) -> Figures {
        let process = PathBuf::from(format!("/proc/{}", self.process.as_ref().expect("it runs").id()));
        let count = |folder: &str| std::fs::read_dir(process.join(folder)).expect("a process").count();
        let read = |file: &str| std::fs::read_to_string(process.join(file)).expect("a process");
        let lines = |command: &str| ground.shell(command).lines().count();
        // It stays until all is counted: whether the daemon has closed its end of one that is gone is a race.
        let mut asking = Api::ready(&self.socket()).await;
        let metrics = asking.text("/metrics").await;
        let gauge = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {metrics}"))
        };
        let figures = Figures {
            descriptors: count("fd"),
            threads: count("task"),
            tasks: gauge("exeat_tasks"),
            flows: gauge("exeat_flows_open"),
            tables: lines("nft list tables"),
            rules: lines("ip rule; ip -6 rule"),
            routes: lines("ip route show table all; ip -6 route show table all"),
            inside: 0,
            resident: kibibytes(&read("smaps_rollup"), "Rss:"),
            private: kibibytes(&read("smaps_rollup"), "Private_Dirty:"),
        };
        drop(asking);
        figures
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            // It may have ended by itself, which the test has told.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn kibibytes(text: &str, key: &str) -> usize {
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("a line of the kernel's");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What the daemon holds of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) tasks: usize,
    pub(crate) flows: usize,
    pub(crate) tables: usize,
    pub(crate) rules: usize,
    pub(crate) routes: usize,
    /// Tables, rules and routes of all sandboxes, once they are [counted](Figures::with_inside).
    pub(crate) inside: usize,
    /// In KiB, as `private`.
    pub(crate) resident: usize,
    pub(crate) private: usize,
}

impl Figures {
    /// The same, with what there is in the sandboxes; that takes a process for each.
    pub(crate) fn with_inside(self, ground: &Ground) -> Self {
        let lists = "nft list tables; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all";
        // The names of the namespaces are lines, too: as many each time.
        Self { inside: ground.shell(&format!("ip -all netns exec bash -c '{lists}'")).lines().count(), ..self }
    }

    /// Everything that is counted; memory is not, and threads for files come and go.
    pub(crate) fn counted(&self) -> [usize; 7] {
        let Self { descriptors, tasks, flows, tables, rules, routes, inside, threads: _, resident: _, private: _ } =
            *self;
        [descriptors, tasks, flows, tables, rules, routes, inside]
    }
}

/// One connection to the control API.
pub(crate) struct Api(SendRequest<Full<Bytes>>);

impl Api {
    /// Connects, if somebody listens.
    pub(crate) async fn connect(socket: &Path) -> Option<Self> {
        let stream = UnixStream::connect(socket).await.ok()?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(Self(sender))
    }

    /// Connects as soon as the daemon serves.
    pub(crate) async fn ready(socket: &Path) -> Self {
        let within = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(api) = Self::connect(socket).await {
                    return api;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        within.await.expect("the daemon serves")
    }

    /// One request; `None` where the connection broke before its answer.
    pub(crate) async fn ask(&mut self, method: Method, path: &str, body: &Value) -> Option<(StatusCode, Value)> {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.header("content-type", "application/json").body(Full::new(body)).expect("a request");
        self.0.ready().await.ok()?;
        let (head, body) = self.0.send_request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some((head.status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// One request that must succeed.
    pub(crate) async fn must(&mut self, method: Method, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(method, path, body).await.expect("the daemon answers");
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    async fn text(&mut self, path: &str) -> String {
        let request = Request::get(path).header("host", "localhost").body(Full::default()).expect("a request");
        let body = self.0.send_request(request).await.expect("an answer").into_body();
        String::from_utf8(body.collect().await.expect("a body").to_bytes().to_vec()).expect("text")
    }
}
