//! One sandbox, from nothing to nothing: make it, serve it, run the command in it, end it.
//!
//! The main thread talks to the first process and waits for the command's end; the runtime's threads serve. When the
//! command ends, so does everything inside; then what is still open outside is closed, so that the audit record is
//! complete before exeat ends.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::WaitStatus;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::channel::{Channel, Order, Passed, Plan, Report as Word};
use super::launch::{self, Launched, Launching};
use super::terminal::{Resize, Streams};
use super::{RunError, Settings, host};
use crate::audit::{Fanout, JsonLines, Record, Summary};
use crate::ca::Authority;
use crate::cli::Exit;
use crate::cli::data_path::{self, LAST_FLOWS, Outside};
use crate::cli::world::Host;
use crate::confine::{environment, masks};
use crate::flow::SandboxId;
use crate::intercept::upstream::certificates::ClientCertificates;
use crate::intercept::workers::Workers;
use crate::sandbox::Sandbox;

/// Threads that carry flows: one sandbox needs no more. One more does all else.
const WORKERS: usize = 2;

/// Signals that are passed on to the command; to its whole process group, where a terminal would send them so.
const PASSED: [(SignalKind, bool); 6] = [
    (SignalKind::interrupt(), true),
    (SignalKind::quit(), true),
    (SignalKind::hangup(), false),
    (SignalKind::terminate(), false),
    (SignalKind::user_defined1(), false),
    (SignalKind::user_defined2(), false),
];

/// Keeps this process's memory and environment from every other process of the user (`/proc`, ptrace, core dumps):
/// it holds secrets.
pub(in crate::cli) fn become_unreadable() -> Result<(), RunError> {
    prctl::set_dumpable(false).map_err(RunError::own("become undumpable"))
}

/// Where the events of one run go.
pub(in crate::cli) struct Report {
    lines: Option<Arc<JsonLines>>,
    summary: Arc<Summary>,
}

impl Report {
    /// Opens the audit record, if one is asked for: `-` is standard output.
    pub(in crate::cli) fn open(audit: Option<&Path>) -> Result<Self, RunError> {
        let lines = match audit {
            None => None,
            Some(path) if path == Path::new("-") => Some(JsonLines::start(io::stdout())),
            Some(path) => {
                let file = File::options().create(true).append(true).open(path);
                let file = file.map_err(|error| RunError::Unwritable(path.to_path_buf(), error))?;
                Some(JsonLines::start(file))
            }
        };
        let lines = lines.transpose().map_err(RunError::own("write the audit record"))?.map(Arc::new);
        Ok(Self { lines, summary: Arc::default() })
    }

    /// What the data path records to.
    pub(in crate::cli) fn sink(&self) -> Arc<dyn Record> {
        let lines = self.lines.clone().map(|lines| lines as Arc<dyn Record>);
        Arc::new(Fanout(lines.into_iter().chain([Arc::clone(&self.summary) as Arc<dyn Record>]).collect()))
    }

    /// Writes what is still to be written.
    pub(in crate::cli) fn close(&self) -> Result<(), RunError> {
        self.lines.as_ref().map_or(Ok(()), |lines| lines.close()).map_err(RunError::own("write the audit record"))
    }

    /// The table for the end.
    pub(in crate::cli) fn summary(&self) -> String {
        self.summary.render()
    }
}

/// Runs one command in a sandbox of its own, and returns how it ended.
pub(in crate::cli) fn run(
    settings: Settings,
    command: Vec<OsString>,
    record: Arc<dyn Record>,
) -> Result<Exit, RunError> {
    let id = name()?;
    let authority = Authority::generate(&id, SystemTime::now).map_err(RunError::own("make a root certificate"))?;
    let streams = Streams::of_this_process().map_err(RunError::own("pass the standard streams on"))?;
    let launching = launch(&settings, &authority, &streams, &command)?;
    // While the sandbox is made: what takes longest outside.
    let runtime = runtime()?;
    let mut certificates = ClientCertificates::default();
    settings.certificates.iter().for_each(|keeper| keeper.show(&mut certificates));
    let outside = data_path::Settings {
        allow_protected: settings.allow_protected,
        overrides: settings.overrides,
        upstream_ca: settings.upstream_ca,
        resolvers: settings.resolvers,
        proxy: settings.proxy,
        certificates,
        workers: Workers::start(WORKERS).map_err(RunError::own("start the threads that carry flows"))?,
    };
    let sandbox = Arc::new(Sandbox::new(id, settings.policy, settings.secrets));
    sandbox.hold(settings.placeholders);
    // What belongs to the runtime is made inside it.
    let inside = runtime.enter();
    let outside = Outside::open(outside).map_err(RunError::own("list the host's addresses"))?;
    drop(inside);
    let launched = launching.finish().map_err(RunError::Sandbox)?;
    raise_descriptor_limit().map_err(RunError::own("raise the limit of descriptors"))?;
    let Launched { channel, sockets, terminal, first } = launched;
    let signals = Signals::catch(&runtime).map_err(RunError::own("catch signals"))?;
    let relays = streams.start(terminal).map_err(RunError::own("relay the terminal"))?;
    let inside = runtime.enter();
    let serving = outside.serve(&sandbox, Arc::new(authority), record, None, sockets);
    let serving = serving.map_err(RunError::own("watch the sandbox's sockets"))?;
    let world = Arc::new(Host::default());
    for keeper in settings.keepers {
        // The terminal is the command's now; a request that is refused for it says so itself.
        tokio::spawn(keeper.keep(Arc::clone(&world), |_| {}));
    }
    for keeper in settings.certificates {
        tokio::spawn(keeper.keep(|_| {}));
    }
    drop(inside);
    let passing = channel.try_clone().map_err(RunError::own("talk to the sandbox"))?;
    channel.send(&Order::Start, &[]).map_err(RunError::own("talk to the sandbox"))?;
    runtime.spawn(signals.pass_on(passing, relays.resize()));
    let end = channel.receive::<Word>();
    let first = launch::end(&channel, first);
    relays.finish();
    runtime.block_on(serving.end(LAST_FLOWS));
    runtime.shutdown_background();
    let name = command.first().map(OsString::as_os_str).unwrap_or_default();
    how_it_ended(end.map_err(RunError::own("talk to the sandbox"))?.map(|(word, _)| word), first, name)
}

/// A flow takes two descriptors, and a login shell allows 1024. Ours are raised as far as they may be, once the first
/// process has inherited the limit that the user set for the command.
pub(in crate::cli) fn raise_descriptor_limit() -> io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

fn how_it_ended(word: Option<Word>, first: Option<WaitStatus>, name: &OsStr) -> Result<Exit, RunError> {
    let name = || name.to_string_lossy().into_owned();
    match word {
        Some(Word::Exited(code)) => Ok(Exit::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX))),
        Some(Word::Killed(signal)) => Ok(Exit::Signal(signal)),
        Some(Word::NotExecuted { errno }) => Err(match Errno::from_raw(errno) {
            Errno::ENOENT => RunError::NotFound(name()),
            errno => RunError::NotExecutable(name(), errno),
        }),
        Some(Word::Failed(fault)) => Err(RunError::Sandbox(fault)),
        Some(Word::Unshared | Word::First(_) | Word::Ready) | None => Err(RunError::Lost(first)),
    }
}

/// `run-` and 32 random bits: enough to tell the records of one host apart.
fn name() -> Result<SandboxId, RunError> {
    let mut random = [0_u8; 4];
    aws_lc_rs::rand::fill(&mut random).map_err(RunError::own("draw a random number"))?;
    let digits = random.map(|byte| format!("{byte:02x}")).concat();
    SandboxId::new(&format!("run-{digits}")).ok_or(RunError::Lost(None))
}

fn launch(
    settings: &Settings,
    authority: &Authority,
    streams: &Streams,
    command: &[OsString],
) -> Result<Launching, RunError> {
    let overlays =
        host::overlays(authority, &settings.trusted_inside).map_err(RunError::own("gather the trust bundle"))?;
    let identity = launch::identity();
    let sockets = masks::sockets(identity.uid, &settings.shared).map_err(RunError::own("read /proc/net/unix"))?;
    let hidden = settings.hidden.iter().filter_map(|path| path.canonicalize().ok());
    let mut masked = masks::credentials(&host::homes(), &settings.exposed);
    let reachable = |path: &Path| launch::may_open(&identity, path);
    let devices = masks::devices(reachable, &settings.shared).map_err(RunError::own("read /dev"))?;
    masked.extend(sockets.into_iter().chain(devices).chain(hidden));
    let variables: Vec<_> = settings.variables.iter().map(String::as_str).collect();
    let mut env = environment::inside(std::env::vars_os(), &variables, &settings.secrets);
    for (variable, placeholder) in settings.placeholders.variables(&settings.policy) {
        env.retain(|(name, _)| name != variable);
        env.push((variable.into(), placeholder.into()));
    }
    if identity.host_uid != identity.uid {
        // Root's home is not for the user that root becomes; programs need one that they may write to.
        env.retain(|(name, _)| name != "HOME");
        env.push(("HOME".into(), format!("/run/user/{}", identity.uid).into()));
    }
    let plan = Plan {
        identity,
        argv: command.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        env: env.into_iter().map(|(name, value)| pair(name, value)).collect(),
        directory: std::env::current_dir().map_err(RunError::own("find the working directory"))?,
        stdio: streams.becomes,
        overlays: overlays.iter().map(|overlay| (overlay.name.to_owned(), overlay.over.clone())).collect(),
        masks: masked,
        kept: settings.shared.iter().chain(&settings.exposed).cloned().collect::<Vec<PathBuf>>(),
    };
    let contents: Vec<_> = overlays.into_iter().map(|overlay| overlay.content).collect();
    Launching::start(plan, &contents, &streams.passed).map_err(RunError::Sandbox)
}

fn pair(name: OsString, value: OsString) -> Vec<u8> {
    let mut pair = name.into_vec();
    pair.push(b'=');
    pair.extend(value.into_vec());
    pair
}

fn runtime() -> Result<Runtime, RunError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(RunError::own("start the runtime"))
}

/// The signals that exeat passes on, caught from before the terminal is borrowed: none ends it without giving that
/// back.
struct Signals {
    passed: Vec<(Signal, SignalKind, bool)>,
    resized: Signal,
}

impl Signals {
    fn catch(runtime: &Runtime) -> io::Result<Self> {
        let _inside = runtime.enter();
        let ignored = ignored_signals();
        // What whoever started us wanted ignored (`nohup`, a job in the background) stays ignored.
        let wanted = PASSED.into_iter().filter(|(kind, _)| ignored & (1 << (kind.as_raw_value() - 1)) == 0);
        let passed = wanted.map(|(kind, group)| Ok((signal(kind)?, kind, group))).collect::<io::Result<_>>()?;
        Ok(Self { passed, resized: signal(SignalKind::window_change())? })
    }

    /// Passes signals on to the command, and the size of the user's terminal to its own.
    async fn pass_on(self, channel: Channel, resize: Option<Resize>) {
        let mut tasks = tokio::task::JoinSet::new();
        // One at a time: two messages must not mix.
        let channel = Arc::new(Mutex::new(channel));
        for (mut signals, kind, group) in self.passed {
            let channel = Arc::clone(&channel);
            tasks.spawn(async move {
                while signals.recv().await.is_some() {
                    let passed = Passed { signal: kind.as_raw_value(), group };
                    // When the first process is gone, so is the command.
                    let channel = channel.lock().unwrap_or_else(PoisonError::into_inner);
                    let _ = channel.send(&Order::Signal(passed), &[]);
                }
            });
        }
        let mut resized = self.resized;
        tasks.spawn(async move {
            while resized.recv().await.is_some() {
                if let Some(resize) = &resize {
                    resize.apply();
                }
            }
        });
        while tasks.join_next().await.is_some() {}
    }
}

/// The signals that this process ignores, as `/proc` tells it: bit 0 is signal 1. If it does not, none is.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
