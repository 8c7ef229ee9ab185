//! A host of the benchmark's own: namespaces, an origin with a resolver that knows it, and a daemon as `exeat serve`
//! wires it, in this process.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use exeat::audit::Fanout;
use exeat::cli::serve::Daemon;
use exeat::config::{Config, Home};
use exeat::control::action::{Act, Action, AttachmentSpec, Draft, PolicyPush, Which};
use exeat::flow::SandboxId;
use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::{RData, Record, RecordType};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Where the origin is, and who the host's resolver is.
pub(crate) const ORIGIN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);

/// Runs a benchmark that tells whether its promises are kept.
pub(crate) fn run(what: &str, measure: fn() -> Result<bool, Fault>) -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("{what}: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// Whether there is root; says so where there is none.
pub(crate) fn is_root(what: &str) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: {what}: it takes root");
    }
    is_root
}

/// Puts this thread, and those that it begins, on a host of their own, with as many descriptors as there may be.
pub(crate) fn enter() -> Result<(), Fault> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(())
}

/// A network namespace that nobody is in.
pub(crate) fn namespace() -> Result<File, Fault> {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        File::open("/proc/thread-self/ns/net")
    });
    Ok(made.join().map_err(|_| "the thread panicked")??)
}

/// A daemon, and the world that it serves.
pub(crate) struct Host {
    pub(crate) daemon: Daemon,
    pub(crate) runtime: Runtime,
    _state: TempDir,
}

impl Host {
    /// In the network namespace of this thread. The origin is not served yet.
    pub(crate) fn open() -> Result<Self, Fault> {
        let ip = |words: &str| Command::new("ip").args(words.split(' ')).status();
        for words in [
            "link set lo up".to_owned(),
            format!("address add {ORIGIN}/32 dev lo"),
            format!("address add {RESOLVER}/32 dev lo"),
        ] {
            if !ip(&words)?.success() {
                return Err(format!("ip {words} failed").into());
            }
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let state = tempfile::tempdir()?;
        let text = format!(
            "state: {}\nresolvers: [{RESOLVER}]\nallowProtected: [{ORIGIN}/32]\n",
            state.path().join("state").display()
        );
        let config = Config::read(std::path::Path::new("bench.yaml"), &text, &Home::System);
        let config = config.map_err(|error| error.to_string())?;
        let daemon = runtime.block_on(Daemon::open(&config, Arc::new(Fanout(Vec::new()))))?;
        Ok(Self { daemon, runtime, _state: state })
    }

    /// A sandbox that is attached to a namespace.
    pub(crate) fn create(&self, name: &str, policy: &str, inside: &File) -> Result<Which, Fault> {
        let id = SandboxId::new(name).ok_or("no name")?;
        let netns = AttachmentSpec::Netns(format!("/proc/self/fd/{}", inside.as_raw_fd()).into());
        let policy = Some(PolicyPush { text: policy.to_owned(), replaces: None });
        let draft = Draft { name: Some(id.clone()), policy, attachment: Some(netns), ..Draft::default() };
        self.act(Action::Create(draft))?;
        Ok(Which::Name(id))
    }

    pub(crate) fn act(&self, action: Action) -> Result<(), Fault> {
        self.runtime.block_on(self.daemon.act(action)).map(drop).map_err(|refusal| format!("{refusal:?}").into())
    }

    /// The root of a sandbox, in PEM.
    pub(crate) fn root(&self, which: &Which) -> Result<String, Fault> {
        Ok(self.daemon.trust(which).ok_or("no trust")?.certificate)
    }
}

/// TLS of a client that trusts this root.
pub(crate) fn client_config(root: &str) -> Result<Arc<rustls::ClientConfig>, Fault> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Every handshake is a whole one.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// An origin that answers with one byte, or with the head of an answer that does not end; and a resolver that knows it.
pub(crate) async fn serve_origin() -> Result<(), Fault> {
    for (port, answer) in [(443, &b"."[..]), (80, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")] {
        let listener = tokio::net::TcpListener::bind((ORIGIN, port)).await?;
        tokio::spawn(async move {
            while let Ok((mut io, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    // What a client sends first comes in one piece.
                    if matches!(io.read(&mut buffer).await, Ok(1..)) && io.write_all(answer).await.is_ok() {
                        while matches!(io.read(&mut buffer).await, Ok(1..)) {}
                    }
                });
            }
        });
    }
    let socket = tokio::net::UdpSocket::bind((RESOLVER, 53)).await?;
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let Ok(question) = Message::from_vec(buffer.get(..length).unwrap_or_default()) else { continue };
            let mut answer = Message::new(question.id, MessageType::Response, OpCode::Query);
            answer.add_queries(question.queries.iter().cloned());
            for query in question.queries.iter().filter(|query| query.query_type() == RecordType::A) {
                answer.add_answer(Record::from_rdata(query.name().clone(), 60, RData::from(IpAddr::from(ORIGIN))));
            }
            if let Ok(bytes) = answer.to_vec() {
                // A question that is not answered is asked again.
                let _ = socket.send_to(&bytes, client).await;
            }
        }
    });
    Ok(())
}
