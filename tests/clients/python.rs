//! Clients and services in Python: what they need beside Python itself is installed once, from the package index.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::eventually;
use crate::support::exeat::{Outcome, Run};
use crate::support::world::{Server, World};

/// What is installed, and where: another list has another folder.
const PACKAGES: [&str; 2] = ["grpcio==1.85.3", "websockets==17.4"];
const FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/python-1");
/// AWS's clients, and a server that verifies what they sign. They are large, so they have a folder of their own.
const AWS_PACKAGES: [&str; 5] =
    ["boto3==1.44.8", "awscli==1.46.3", "moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"];
const AWS_FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/python-aws-1");
/// The SDKs of models' makers.
const MODEL_PACKAGES: [&str; 2] = ["anthropic==2.14.0", "openai==3.57.0"];
const MODEL_FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/python-models-1");

/// A Python that has them; `None` where they cannot be installed.
pub(super) fn with_packages() -> Option<&'static str> {
    static INSTALLED: OnceLock<Option<String>> = OnceLock::new();
    INSTALLED.get_or_init(|| install(FOLDER, &PACKAGES)).as_deref()
}

/// A Python that has AWS's; `None` where they cannot be installed.
pub(super) fn with_aws() -> Option<&'static str> {
    static INSTALLED: OnceLock<Option<String>> = OnceLock::new();
    INSTALLED.get_or_init(|| install(AWS_FOLDER, &AWS_PACKAGES)).as_deref()
}

/// A Python that has those of models' makers; `None` where they cannot be installed.
pub(super) fn with_models() -> Option<&'static str> {
    static INSTALLED: OnceLock<Option<String>> = OnceLock::new();
    INSTALLED.get_or_init(|| install(MODEL_FOLDER, &MODEL_PACKAGES)).as_deref()
}

fn install(place: &str, packages: &[&str]) -> Option<String> {
    let python = format!("{place}/bin/python");
    if Path::new(&python).exists() {
        return Some(python);
    }
    // Whole or not at all: somebody else may be looking.
    let folder = tempfile::Builder::new().prefix("python-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).ok()?;
    let done = |command: &mut Command| command.status().ok().filter(|status| status.success());
    done(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(folder.path()))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"];
    done(Command::new(folder.path().join("bin/python")).args(pip).args(packages))?;
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).ok()?;
    let folder = folder.keep();
    if std::fs::rename(&folder, place).is_err() {
        // Another was faster.
        std::fs::remove_dir_all(&folder).ok()?;
    }
    Path::new(&python).exists().then_some(python)
}

/// A program beside this file, by its name; Python's has no ending.
fn program(name: &str) -> String {
    let ending = if name.contains('.') { "" } else { ".py" };
    format!("{}/tests/clients/programs/{name}{ending}", env!("CARGO_MANIFEST_DIR"))
}

/// A service at an address of the Internet that nobody has port 443 of.
pub(super) struct Service {
    _server: Server,
    log: PathBuf,
}

impl Service {
    /// Where it is.
    pub(super) const ADDRESS: &str = "203.0.113.20";

    /// Starts a program under these names, and waits until it serves.
    pub(super) fn start(world: &World, by: &str, names: &[&'static str], script: &str) -> Self {
        let wide = world.wide.as_ref().expect("the wide world");
        names.iter().for_each(|name| wide.names.set(name, &[Self::ADDRESS.parse().expect("an address")]));
        let (certificate, key) = world.ca().pair(&[names, &[Self::ADDRESS]].concat());
        let at = |file: &str| world.folder().join(file);
        for (file, text) in [("certificate.pem", certificate), ("key.pem", key)] {
            std::fs::write(at(file), text).expect("a file");
        }
        let log = at("log");
        let script = program(script);
        let files = ["certificate.pem", "key.pem"].map(at);
        let [certificate, key] = files.each_ref().map(|file| file.to_str().expect("UTF-8"));
        let arguments = [by, &script, certificate, key, Self::ADDRESS, log.to_str().expect("UTF-8")];
        let service = Self { _server: world.serve(&arguments), log };
        assert!(eventually(|| service.log.exists()), "it serves");
        service
    }

    /// What it has told.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("it serves")
    }

    /// Leaves it something beside that, whole at once.
    pub(super) fn tell(&self, kind: &str, text: &str) {
        let at = format!("{}.{kind}", self.log.display());
        std::fs::write(format!("{at}.next"), text).expect("a file");
        std::fs::rename(format!("{at}.next"), at).expect("a file");
    }

    /// What it has told beside that.
    pub(super) fn aside(&self, kind: &str) -> Option<String> {
        std::fs::read_to_string(format!("{}.{kind}", self.log.display())).ok()
    }
}

/// Runs a program inside.
pub(super) fn inside(run: Run<'_>, python: &str, script: &str) -> Outcome {
    let text = std::fs::read_to_string(program(script)).expect("a program");
    run.command([python, "-c", text.as_str()])
}
