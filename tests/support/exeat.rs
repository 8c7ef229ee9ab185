//! `exeat` as its users start it: arguments, environment and a policy in; status, output and audit out.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::place::Place;
use super::{PATIENCE, eventually};

/// The ordinary user of the rig: no account, no group, nothing.
const USER: u32 = 61_234;

/// Who starts `exeat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Whoever runs the tests, and they are not root.
    Current,
    /// Root, who runs the tests.
    Root,
    /// An ordinary user, where root runs the tests.
    User,
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

impl Identity {
    /// Every identity that this machine allows.
    pub(crate) fn all() -> Vec<Self> {
        if is_root() { vec![Self::User, Self::Root] } else { vec![Self::Current] }
    }

    /// The user id that `exeat` has.
    pub(crate) fn uid(self) -> u32 {
        if self == Self::User { USER } else { nix::unistd::geteuid().as_raw() }
    }
}

/// One `exeat` to be started, with a folder of its own as working directory.
pub(crate) struct Run<'p> {
    /// Readable by all, owned by the identity; gone after the run.
    folder: TempDir,
    place: &'p Place,
    identity: Identity,
    wrapper: Vec<OsString>,
    verb: &'static str,
    options: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    stdin: Stdin,
}

enum Stdin {
    Bytes(Vec<u8>),
    Is(Stdio),
}

impl<'p> Run<'p> {
    /// `exeat run`, audited, in `place`, as `identity`.
    pub(crate) fn new(place: &'p Place, identity: Identity) -> Self {
        let folder = tempfile::Builder::new().prefix("exeat-rig-").tempdir().expect("a temporary folder");
        let mut run = Self {
            folder,
            place,
            identity,
            wrapper: Vec::new(),
            verb: "run",
            options: Vec::new(),
            environment: Vec::new(),
            stdin: Stdin::Bytes(Vec::new()),
        };
        std::fs::create_dir(run.folder().join("home")).expect("a folder");
        for path in [run.folder().to_owned(), run.folder().join("home")] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("permissions");
            run.give(&path);
        }
        let audit = run.folder().join("audit.jsonl");
        run.options = vec!["--audit".into(), audit.into()];
        run.environment = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LANG", "C.UTF-8"),
            ("TERM", "dumb"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .to_vec();
        run.environment.push(("HOME".into(), run.folder().join("home").into()));
        run
    }

    /// The working directory.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Another verb, without the options of `run`.
    pub(crate) fn verb(self, verb: &'static str) -> Self {
        Self { verb, ..self.unaudited() }
    }

    /// Takes back every option, the rig's own `--audit` among them.
    pub(crate) fn unaudited(self) -> Self {
        Self { options: Vec::new(), ..self }
    }

    /// Starts this command instead, with `exeat` and its arguments after it.
    pub(crate) fn under<S: AsRef<OsStr>>(mut self, wrapper: impl IntoIterator<Item = S>) -> Self {
        self.wrapper = wrapper.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// More options before the `--`.
    pub(crate) fn options<S: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.options.extend(options.into_iter().map(|option| option.as_ref().to_owned()));
        self
    }

    /// `--allow NAME`.
    pub(crate) fn allow(self, name: &str) -> Self {
        self.options(["--allow", name])
    }

    /// Puts a file into the folder, readable by its owner alone.
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.folder().join(name);
        std::fs::write(&path, content).expect("a file in the run's folder");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("permissions");
        self.give(&path);
        self
    }

    /// `--policy` with this text.
    pub(crate) fn policy(self, text: &str) -> Self {
        let run = self.file("policy.yaml", text);
        let path = run.folder().join("policy.yaml");
        run.options([OsStr::new("--policy"), path.as_os_str()])
    }

    /// A variable of `exeat`'s environment, which is otherwise nearly empty.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// What the command reads; nothing, unless said.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// What stands as standard input.
    pub(crate) fn stdin_is(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = Stdin::Is(stdin.into());
        self
    }

    /// Runs a `bash` script inside.
    pub(crate) fn bash(self, script: &str) -> Outcome {
        self.command(["bash", "-c", script])
    }

    /// Runs a `python3` program inside.
    pub(crate) fn python(self, program: &str) -> Outcome {
        self.command(["/usr/bin/python3", "-c", program])
    }

    /// Runs `curl`, quiet but for errors, with these arguments.
    pub(crate) fn curl<S: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = S>) -> Outcome {
        let mut command: Vec<OsString> =
            ["curl", "--silent", "--show-error", "--max-time", "30"].map(Into::into).into();
        command.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self.command(command)
    }

    /// Runs a command inside and waits for it.
    pub(crate) fn command<S: AsRef<OsStr>>(self, command: impl IntoIterator<Item = S>) -> Outcome {
        self.start(command).wait()
    }

    /// Starts a command inside.
    pub(crate) fn start<S: AsRef<OsStr>>(self, command: impl IntoIterator<Item = S>) -> Running {
        let command: Vec<OsString> = command.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let mut arguments = self.wrapper;
        arguments.extend([binary().into(), self.verb.into()]);
        arguments.extend(self.options);
        if !command.is_empty() {
            arguments.push("--".into());
            arguments.extend(command);
        }
        let mut started = Command::new(&arguments[0]);
        started.args(&arguments[1..]).env_clear().envs(self.environment).current_dir(self.folder.path());
        started.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        if self.identity == Identity::User {
            started.uid(USER).gid(USER);
        }
        let bytes = match self.stdin {
            Stdin::Bytes(bytes) => {
                started.stdin(Stdio::piped());
                bytes
            }
            Stdin::Is(stdin) => {
                started.stdin(stdin);
                Vec::new()
            }
        };
        let mut child = self.place.enter(move || started.spawn().expect("exeat was built"));
        if let Some(mut stdin) = child.stdin.take() {
            // The command need not read.
            std::thread::spawn(move || stdin.write_all(&bytes));
        }
        Running::new(child, self.folder)
    }

    fn give(&self, path: &Path) {
        if self.identity == Identity::User {
            chown(path, Some(USER), Some(USER)).expect("root may give files away");
        }
    }
}

/// An `exeat` at work. It is killed if the test drops it.
pub(crate) struct Running {
    pid: Pid,
    folder: TempDir,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    ended: mpsc::Receiver<ExitStatus>,
    waited: bool,
}

impl Running {
    fn new(mut child: Child, folder: TempDir) -> Self {
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let (done, ended) = mpsc::channel();
        let (stdout, out) = collect(child.stdout.take().expect("a pipe"));
        let (stderr, err) = collect(child.stderr.take().expect("a pipe"));
        std::thread::spawn(move || {
            let status = child.wait().expect("a child to wait for");
            for reader in [out, err] {
                reader.join().expect("reading does not panic");
            }
            // The test may have given up.
            let _ = done.send(status);
        });
        Self { pid, folder, stdout, stderr, ended, waited: false }
    }

    /// Waits until the command has written `text`.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        let said = || self.stdout().contains(text);
        assert!(eventually(said), "no `{text}` in {:?}, errors {:?}", self.stdout(), text_of(&self.stderr));
    }

    /// What the command has written so far.
    pub(crate) fn stdout(&self) -> String {
        text_of(&self.stdout)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Its working directory.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("exeat runs");
    }

    /// Waits for its end: exeat's own, and that of whoever holds its output.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Outcome {
        self.waited = true;
        let status = self.ended.recv_timeout(PATIENCE);
        if status.is_err() {
            // It may end in this very moment.
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
        let (stdout, stderr) = (text_of(&self.stdout), text_of(&self.stderr));
        let Ok(status) = status else { panic!("no end in {PATIENCE:?}: stdout {stdout:?}, stderr {stderr:?}") };
        let audit = std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap_or_default();
        Outcome { status, stdout, stderr, audit }
    }
}

fn text_of(bytes: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.lock().expect("no panic")).into_owned()
}

/// Reads a pipe to its end in a thread of its own.
fn collect(mut pipe: impl Read + Send + 'static) -> (Arc<Mutex<Vec<u8>>>, JoinHandle<()>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let bytes = Arc::clone(&kept);
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            bytes.lock().expect("no panic").extend_from_slice(&buffer[..length]);
        }
    });
    (kept, reader)
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.waited {
            // It may have ended by itself.
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
    }
}

/// How a run ended and what it left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// The audit file as it stands.
    pub(crate) audit: String,
}

impl Outcome {
    /// The exit code; a signal is shown as a shell shows it, 128 and more.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).expect("it ended")
    }

    /// Fails the test unless the command ended well.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code(), 0, "{self:#?}");
        self
    }

    /// Fails the test unless the command ended with this code.
    #[track_caller]
    pub(crate) fn exited(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "{self:#?}");
        self
    }

    /// The audit's records; every line must be one.
    #[track_caller]
    pub(crate) fn records(&self) -> Vec<serde_json::Value> {
        let record = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.audit.lines().map(record).collect()
    }

    /// The verdicts among the records for which every one of these fields holds.
    #[track_caller]
    pub(crate) fn verdicts(&self, fields: &[(&str, &str)]) -> Vec<serde_json::Value> {
        let holds = |record: &serde_json::Value, (key, value): &(&str, &str)| match record.get(*key) {
            Some(serde_json::Value::String(text)) => text == value,
            Some(other) => serde_json::from_str(value).is_ok_and(|value: serde_json::Value| value == *other),
            None => false,
        };
        let wanted =
            |record: &serde_json::Value| record["event"] == "verdict" && fields.iter().all(|f| holds(record, f));
        self.records().into_iter().filter(wanted).collect()
    }

    /// Fails the test unless a denial for `reason`, with these fields, was recorded.
    #[track_caller]
    pub(crate) fn assert_denied(&self, reason: &str, fields: &[(&str, &str)]) {
        let fields = [&[("verdict", "deny"), ("reason", reason)], fields].concat();
        assert!(!self.verdicts(&fields).is_empty(), "no record with {fields:?} in {self:#?}");
    }

    /// Fails the test unless an allowed flow or request with these fields was recorded.
    #[track_caller]
    pub(crate) fn assert_allowed(&self, fields: &[(&str, &str)]) {
        let fields = [&[("verdict", "allow")], fields].concat();
        assert!(!self.verdicts(&fields).is_empty(), "no record with {fields:?} in {self:#?}");
    }
}

/// The binary under test, where the rig's ordinary user may execute it.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_exeat"));
        let open = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
        if !is_root() || built.ancestors().all(open) {
            return built.to_owned();
        }
        copy(built)
    })
}

/// Copies the binary to a folder that all may enter: one for each build, and the last build's is removed.
fn copy(built: &Path) -> PathBuf {
    let found = std::fs::metadata(built).expect("exeat was built");
    let home = std::env::temp_dir().join(format!("exeat-rig-binary-{}", found.ino()));
    let target = home.join(format!("exeat-{}-{}", found.mtime(), found.mtime_nsec()));
    if !target.exists() {
        // What is absent needs no removing; another test binary may be doing the same.
        let _ = std::fs::remove_dir_all(&home);
        std::fs::create_dir_all(&home).expect("a temporary folder");
        std::fs::set_permissions(&home, PermissionsExt::from_mode(0o755)).expect("permissions");
        let draft = home.join(format!("draft-{}", std::process::id()));
        std::fs::copy(built, &draft).expect("room for a copy");
        std::fs::rename(&draft, &target).expect("the folder is ours");
    }
    target
}
