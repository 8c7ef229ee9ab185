//! The reference product's own clients against the real daemon: its SDK, of three ages, and its CLI, as they are
//! published. They believe to speak to their service; `clients/socket.mjs` hands what they say to the
//! daemon's Unix socket, and everything else to nobody.
//!
//! They want root (a daemon watches the host's interfaces), Node.js 20 or later, and npm, which installs the packages
//! of `clients/package.json` beneath the target directory the first time. Without any of it the tests say so
//! and are skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use super::rig::Rig;

/// A daemon, and clients that take it for the reference product's service.
struct Reference {
    rig: Rig,
    clients: &'static Path,
}

impl Reference {
    fn new() -> Option<Self> {
        let clients = clients()?;
        Some(Self { rig: Rig::new()?, clients })
    }

    /// Node.js, whose requests to the reference product's service come to the daemon. It finds no account, no settings
    /// and no project of whoever runs the test.
    fn node(&self) -> Command {
        let mut node = Command::new("node");
        let path = std::env::var_os("PATH").unwrap_or_default();
        node.env_clear().env("PATH", path).env("HOME", self.rig.folder()).current_dir(self.rig.folder());
        node.env("EXEAT_SOCKET", self.rig.socket()).env("EXEAT_CLIENTS", self.clients);
        node.env("EXEAT_REQUESTS", self.rig.folder().join("requests"));
        node.env("VERCEL_AUTH_TOKEN", "local").env("NO_COLOR", "1");
        node.arg("--import").arg(self.clients.join("socket.mjs"));
        node
    }

    /// Runs a script to its end.
    fn script(&self, name: &str) {
        let output = self.node().arg(self.clients.join(name)).output().expect("node");
        assert!(output.status.success() && output.stdout == b"done\n", "{name}: {}", told(&output));
    }

    /// Runs the CLI, which is to succeed; what it printed.
    fn cli(&self, arguments: &[&str]) -> String {
        let output = self.cli_output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", told(&output));
        told(&output)
    }

    fn cli_output(&self, arguments: &[&str]) -> Output {
        let binary = self.clients.join("node_modules/sandbox/bin/sandbox.mjs");
        self.node().arg(binary).args(arguments).output().expect("node")
    }

    /// Requests since this was asked last.
    fn requests(&self) -> Vec<String> {
        let path = self.rig.folder().join("requests");
        let noted = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, "").expect("a note");
        noted.lines().map(str::to_owned).collect()
    }
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The folder with the clients and the scripts that drive them.
fn clients() -> Option<&'static Path> {
    static CLIENTS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match CLIENTS.get_or_init(installed) {
        Ok(folder) => Some(folder),
        Err(why) => {
            println!("skipped: the reference product's clients: {why}");
            None
        }
    }
}

fn installed() -> Result<PathBuf, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("a daemon needs root".to_owned());
    }
    let version = Command::new("node").arg("--version").output().map_err(|_| "there is no Node.js")?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < 20) {
        return Err(format!("they want Node.js 20 or later, and this is {version}"));
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reference_clients");
    let wanted = include_str!("clients/package.json");
    let is_current = fs::read_to_string(folder.join("installed.json")).is_ok_and(|installed| installed == wanted);
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/control/clients");
    for file in fs::read_dir(source).map_err(|error| error.to_string())?.flatten() {
        fs::copy(file.path(), folder.join(file.file_name())).map_err(|error| error.to_string())?;
    }
    if !is_current {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]);
        let done = npm.current_dir(&folder).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !done.is_ok_and(|status| status.success()) {
            return Err("npm cannot install them".to_owned());
        }
        fs::write(folder.join("installed.json"), wanted).map_err(|error| error.to_string())?;
    }
    Ok(folder)
}

#[test]
fn its_sdk_drives_the_daemon() {
    let Some(rig) = Reference::new() else { return };
    rig.script("sdk.mjs");
}

#[test]
fn its_older_sdks_drive_the_daemon() {
    let Some(rig) = Reference::new() else { return };
    rig.script("sdk-1.mjs");
}

#[test]
fn its_cli_drives_the_daemon() {
    let Some(rig) = Reference::new() else { return };
    // Without flags: whose it is, is asked of the daemon, too.
    let created = rig.cli(&["create", "--name", "cli", "--timeout", "10m", "--network-policy", "deny-all"]);
    assert!(created.starts_with("cli") && created.contains("region: local"), "{created}");
    let requests = rig.requests();
    for expected in ["GET /api/v2/user 200", "GET /api/v2/teams/local 200", "POST /api/v3/sandboxes 200"] {
        assert!(requests.iter().any(|request| request == expected), "{expected}: {requests:?}");
    }
    for (arguments, shown) in [
        (["--network-policy", "allow-all", "--mode", "allow-all"].as_slice(), "mode: allow-all"),
        (&["--allowed-domain", "a.test", "--allowed-domain", "*.b.test"], "mode: restricted"),
        (
            &["--allowed-domain", "a.test", "--allowed-cidr", "203.0.113.0/24", "--denied-cidr", "203.0.113.8/29"],
            "mode: restricted",
        ),
    ] {
        rig.requests();
        let told = rig.cli(&[&["config", "network-policy", "cli"], arguments].concat());
        assert!(told.contains(shown), "{arguments:?}: {told}");
        // As REFERENCE says: what is stored, then what runs.
        let requests = rig.requests();
        let changes: Vec<&str> =
            requests.iter().filter_map(|it| it.split(' ').next()).filter(|it| *it != "GET").collect();
        assert_eq!(changes, ["PATCH", "POST"], "{requests:?}");
    }
    let refused = rig.cli_output(&["config", "network-policy", "cli", "--allowed-cidr", "203.0.113.1/24"]);
    assert!(!refused.status.success() && told(&refused).contains("203.0.113.0/24"), "{}", told(&refused));
    for (field, value) in [("timeout", "20m"), ("vcpus", "2"), ("network-id", "none"), ("keep-last-snapshots", "0")] {
        rig.cli(&["config", field, "cli", value]);
    }
    rig.cli(&["config", "tags", "cli", "--tag", "kind=test"]);
    let shown = rig.cli(&["config", "list", "cli"]);
    for expected in ["20 minutes", "restricted", "kind=test"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    let forked = rig.cli(&["fork", "cli", "--name", "cli-2", "--network-policy", "deny-all"]);
    assert!(forked.starts_with("cli-2") && forked.contains("forked from cli"), "{forked}");
    let listed = rig.cli(&["list"]);
    assert!(listed.contains("cli-2") && listed.contains("running"), "{listed}");
    let page = rig.cli(&["list", "--limit", "1", "--sort-by", "name", "--sort-order", "asc"]);
    assert!(page.contains("--cursor") && !page.contains("cli-2"), "{page}");
    let stopped = rig.cli(&["stop", "cli", "cli-2"]);
    assert!(stopped.contains("Sandbox stopped") && stopped.contains("ingress: 0"), "{stopped}");
    // Stored, although no session runs.
    rig.cli(&["config", "network-policy", "cli", "--mode", "allow-all"]);
    let sessions = rig.cli(&["sessions", "list", "cli", "--all"]);
    assert!(sessions.contains("sbx_") && sessions.contains("stopped"), "{sessions}");
    let listed = rig.cli(&["list"]);
    assert!(!listed.contains("cli-2"), "{listed}");
    assert!(rig.cli(&["list", "--all"]).contains("cli-2"));
    rig.cli(&["remove", "cli", "cli-2"]);
    let missing = rig.cli_output(&["config", "list", "cli"]);
    assert!(!missing.status.success() && told(&missing).contains("404"), "{}", told(&missing));
}
