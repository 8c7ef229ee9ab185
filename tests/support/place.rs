//! Where sockets are made and commands are started: this process's own namespaces, or others.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A set of namespaces. Fresh ones belong to one thread and vanish with the last process in them.
pub(crate) struct Place(Option<Worker>);

struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    id: i32,
}

impl Place {
    /// The namespaces that the test runs in.
    pub(crate) fn here() -> Self {
        Self(None)
    }

    /// Fresh network and mount namespaces, loopback up. Needs root.
    pub(crate) fn fresh() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root may make namespaces");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("mounts can be made private");
            ready.send(nix::unistd::gettid().as_raw()).expect("the rig waits");
            inbox.into_iter().for_each(|job| job());
        });
        let id = started.recv().expect("the thread has made its namespaces");
        let place = Self(Some(Worker { jobs: Some(jobs), thread: Some(thread), id }));
        place.ip("link set lo up");
        place
    }

    /// Runs `work` inside and waits for its result.
    pub(crate) fn enter<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> R {
        let Some(jobs) = self.0.as_ref().and_then(|worker| worker.jobs.as_ref()) else { return work() };
        let (done, result) = mpsc::channel();
        jobs.send(Box::new(move || done.send(work()).expect("the rig waits"))).expect("the place still stands");
        result.recv().expect("the work did not panic")
    }

    /// The thread that holds the namespaces, for `ip link … netns`.
    pub(crate) fn id(&self) -> i32 {
        self.0.as_ref().expect("a fresh place").id
    }

    /// Runs `ip ARGS` inside; every line of `script` is one call.
    pub(crate) fn ip(&self, script: &str) {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let line = line.to_owned();
            self.enter(move || {
                let done = Command::new("ip").args(line.split_whitespace()).output().expect("iproute2 is installed");
                assert!(done.status.success(), "ip {line}: {}", String::from_utf8_lossy(&done.stderr));
            });
        }
    }

    /// Binds `file` over `over`, which may be a symbolic link, in this place alone.
    pub(crate) fn bind(&self, file: &Path, over: &str) {
        let over: PathBuf = std::fs::canonicalize(over).expect("the file to bind over exists");
        let file = file.to_owned();
        self.enter(move || {
            mount(Some(&file), &over, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("a bind mount");
        });
    }

    /// A TCP listener on an address of this place.
    pub(crate) fn listen(&self, address: SocketAddr) -> TcpListener {
        self.enter(move || TcpListener::bind(address).unwrap_or_else(|error| panic!("listening on {address}: {error}")))
    }

    /// A UDP socket on an address of this place.
    pub(crate) fn datagrams(&self, address: SocketAddr) -> UdpSocket {
        self.enter(move || UdpSocket::bind(address).unwrap_or_else(|error| panic!("binding {address}: {error}")))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A job that panicked has already failed its test.
            let _ = thread.join();
        }
    }
}
