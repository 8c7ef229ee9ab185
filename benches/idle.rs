//! What an idle connection costs in memory: `cargo bench --bench idle [-- CONNECTIONS]`.
//!
//! A process of its own runs the data path as `exeat run` wires it, on loopback; this one plays the sandbox's clients
//! and their origin. Each connection does a TLS handshake and one GET, and is then left alone. Printed is by how much
//! the data path's resident memory grew, for each connection: its task, its TLS, its heap, what the allocator keeps;
//! right after the answer, and at rest, when the upstream side of an intercepted connection has been closed for want of
//! use. The kernel's own sockets (two for each spliced connection, one for an intercepted one) are in no process's
//! resident memory, and not in the figures.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a measurement that fails says so")]

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use exeat::attach::{Arrival, Listener};
use exeat::audit::{Event, Record};
use exeat::ca::Authority;
use exeat::dns::Dns;
use exeat::flow::{ClientAddr, Domain, OriginalDst, SandboxId};
use exeat::intercept::upstream::Upstream;
use exeat::intercept::workers::Workers;
use exeat::intercept::{Context, serve, shutdown};
use exeat::limits;
use exeat::policy::{Flags, Policy, Protected, Source, Terms};
use exeat::resolve::{Answer, Resolve, ResolveError, Resolving};
use exeat::sandbox::Sandbox;
use exeat::secret::Secrets;
use hickory_proto::rr::RecordType;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mimalloc::MiMalloc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// The program's, for what it keeps counts.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Connections of each kind, unless the command line says otherwise.
const CONNECTIONS: usize = 1000;
/// How often the measured process is looked at.
const POLLED: Duration = Duration::from_millis(300);
/// How many of them are made at once.
const AT_ONCE: usize = 16;

const SPLICED: &str = "spliced.test";
const INTERCEPTED: &str = "intercepted.test";
/// One name is spliced; of the other, each request is judged.
const POLICY: &str = "version: 1\nallow:\n  spliced.test: []\n  intercepted.test:\n    - match: { method: [GET] }\n";

/// A kind of connection that is measured, and how much it may cost.
struct Kind {
    what: &'static str,
    name: &'static str,
    alpn: &'static str,
    kib: f64,
}

const KINDS: [Kind; 3] = [
    Kind { what: "spliced", name: SPLICED, alpn: "http/1.1", kib: 17.0 },
    Kind { what: "intercepted, HTTP/1.1", name: INTERCEPTED, alpn: "http/1.1", kib: 64.0 },
    Kind { what: "intercepted, HTTP/2", name: INTERCEPTED, alpn: "h2", kib: 64.0 },
];

fn main() {
    raise_limit_of_files();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => runtime.block_on(measure_all(CONNECTIONS)),
        ["data-path", origin] => runtime.block_on(data_path(origin.parse().expect("the origin's address"))),
        [count, ..] => runtime.block_on(measure_all(count.parse().expect("a number of connections"))),
    }
}

async fn measure_all(count: usize) {
    println!("KiB of resident memory for each of {count} idle connections, the kernel's sockets excluded");
    println!("{:24}{:>14}{:>10}{:>14}", "", "just answered", "at rest", "may cost");
    let id = SandboxId::new("origin").expect("an id");
    let authority = Arc::new(Authority::generate(&id, SystemTime::now).expect("a root"));
    let origin = serve_origin(Arc::clone(&authority)).await;
    for kind in &KINDS {
        let Grown { answered, resting } = measure(kind, count, origin, &authority.certificate_pem()).await;
        let [answered, resting] = [answered, resting].map(|kib| kib as f64 / count as f64);
        let verdict = if resting < kind.kib { "kept" } else { "NOT KEPT" };
        println!("{:24}{answered:14.1}{resting:10.1}{:14.0}, {verdict}", kind.what, kind.kib);
    }
}

/// By how much resident memory grew, in KiB.
struct Grown {
    answered: u64,
    resting: u64,
}

/// Starts a data path for one kind, so that no kind uses what another left in the heap.
async fn measure(kind: &Kind, count: usize, origin: SocketAddr, origin_root: &str) -> Grown {
    let path = DataPath::start(origin, origin_root);
    let is_spliced = kind.name == SPLICED;
    let client = Client::new(kind, path.listener, if is_spliced { origin_root } else { &path.root });
    // What the first connection alone needs (tables, pages of code) is no cost of an idle one.
    let first = client.connect().await;
    let (before, sockets) = (path.settled().await, path.sockets());
    let mut open = vec![first];
    let mut opening = JoinSet::new();
    for started in 0..count + AT_ONCE {
        if started >= AT_ONCE {
            open.push(opening.join_next().await.expect("one is on its way").expect("no panic"));
        }
        if started < count {
            let client = client.clone();
            opening.spawn(async move { client.connect().await });
        }
    }
    let answered = path.settled().await;
    // Those that are intercepted share what they have upstream.
    let least = if is_spliced { 2 * count } else { count };
    assert!(path.sockets() >= sockets + least, "not every connection is still open");
    // The first one's upstream side is closed, too.
    let at_rest = if is_spliced { sockets + 2 * count } else { sockets + count - 1 };
    let settling = tokio::time::timeout(8 * limits::UPSTREAM_IDLE, async {
        while path.sockets() > at_rest {
            tokio::time::sleep(POLLED).await;
        }
        path.settled().await
    });
    let resting = settling.await.expect("unused upstream connections are closed");
    assert_eq!(path.sockets(), at_rest, "not every connection of the sandbox is still open");
    drop(open);
    path.end();
    Grown { answered: answered.saturating_sub(before), resting: resting.saturating_sub(before) }
}

/// The process that is measured.
struct DataPath {
    child: Child,
    listener: SocketAddr,
    root: String,
    /// The process lives until this is closed, however this one ends.
    stdin: ChildStdin,
}

impl DataPath {
    fn start(origin: SocketAddr, origin_root: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["data-path", &origin.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(origin_root.as_bytes()).expect("a child that reads");
        let mut told = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut listener = String::new();
        told.read_line(&mut listener).expect("the address of the listener");
        let listener = listener.trim().parse().expect("an address");
        Self { child, listener, root: read_certificate(told), stdin }
    }

    fn end(mut self) {
        drop(self.stdin);
        self.child.wait().expect("our own child");
    }

    /// Its resident memory once that no longer changes, in KiB.
    async fn settled(&self) -> u64 {
        let mut last = (0, 0);
        loop {
            tokio::time::sleep(POLLED).await;
            let now = self.resident();
            if last == (now, now) {
                return now;
            }
            last = (last.1, now);
        }
    }

    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a live child");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    fn sockets(&self) -> usize {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("a live child");
        let links = folder.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    }
}

/// A client of the sandbox.
#[derive(Clone)]
struct Client {
    tls: TlsConnector,
    listener: SocketAddr,
    name: &'static str,
}

/// A connection that is open and idle. Ends when it is dropped.
#[expect(dead_code, reason = "what they hold open is what they are for")]
enum Idle {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Client {
    fn new(kind: &Kind, listener: SocketAddr, root: &str) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS")
            .with_root_certificates(roots(root))
            .with_no_client_auth();
        config.alpn_protocols = vec![kind.alpn.as_bytes().to_vec()];
        Self { tls: TlsConnector::from(Arc::new(config)), listener, name: kind.name }
    }

    async fn connect(&self) -> Idle {
        let io = TcpStream::connect(self.listener).await.expect("a listener");
        let name = ServerName::try_from(self.name).expect("a name");
        let tls = self.tls.connect(name, io).await.expect("a handshake");
        let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let uri = if h2 { format!("https://{}/", self.name) } else { "/".to_owned() };
        let request = http::Request::get(uri).header("host", self.name).body(Empty::new()).expect("a request");
        if h2 {
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.expect("HTTP/2");
            tokio::spawn(connection);
            Self::read(sender.send_request(request).await).await;
            Idle::Http2(sender)
        } else {
            let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            Self::read(sender.send_request(request).await).await;
            Idle::Http1(sender)
        }
    }

    async fn read(answer: hyper::Result<http::Response<hyper::body::Incoming>>) {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), http::StatusCode::OK);
        answer.into_body().collect().await.expect("a whole answer");
    }
}

/// An origin of both names that answers every request, and keeps its connections.
async fn serve_origin(authority: Arc<Authority>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("a bound listener");
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let authority = Arc::clone(&authority);
            tokio::spawn(async move {
                let start = tokio_rustls::LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io);
                let start = start.await.expect("a hello");
                let name = Domain::parse(start.client_hello().server_name().expect("a name")).expect("a name");
                let config = authority.server_config(&name).expect("a leaf");
                let tls = start.into_stream(config).await.expect("a handshake");
                let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                let service = hyper::service::service_fn(async |_| {
                    Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from_static(b"ok"))))
                });
                // How a connection ends is the client's affair.
                let io = TokioIo::new(tls);
                if h2 {
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(io, service)
                        .await;
                } else {
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                }
            });
        }
    });
    address
}

/// What the measured process does: serves one sandbox, whatever it dials is at `origin`.
async fn data_path(origin: SocketAddr) {
    let trusted = roots(&read_certificate(std::io::stdin().lock()));
    let id = SandboxId::new("idle").expect("an id");
    let authority = Authority::generate(&id, SystemTime::now).expect("a root");
    let source = Source { path: "idle.yaml", text: POLICY };
    let policy = Policy::compile(Some(source), &Flags::default(), &Terms::default()).expect("a policy").policy;
    let sandbox = Arc::new(Sandbox::new(id, policy, Secrets::default()));
    let resolve: Arc<dyn Resolve> = Arc::new(Always(origin));
    let range = "127.0.0.0/8".parse().expect("a range");
    let host = Arc::new(ArcSwap::from_pointee(Protected::new([]).without(range)));
    let record: Arc<dyn Record> = Arc::new(Nowhere);
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let listener = socket.local_addr().expect("a bound listener");
    let told = format!("{listener}\n{}", authority.certificate_pem());
    let dns = Dns::new(Arc::clone(&sandbox), Arc::clone(&resolve), Arc::clone(&host), Arc::clone(&record));
    let ctx = Context {
        sandbox,
        host,
        upstream: Upstream::new(resolve, trusted, RootCertStore::empty()),
        authority: Arc::new(authority),
        dns: Arc::new(dns),
        tokens: None,
        record,
        workers: Workers::default(),
        listener_port: listener.port(),
    };
    let (stop, end) = shutdown();
    print!("{told}");
    std::thread::spawn(move || {
        // It ends when the other process does.
        let _ = std::io::stdin().lock().read(&mut [0]);
        stop.stop();
    });
    serve(Everywhere(socket), Arc::new(ctx), end).await;
}

/// A listener whose connections were all going to nobody's address (RFC 5737).
struct Everywhere(TcpListener);

impl Listener for Everywhere {
    async fn accept(&mut self) -> Arrival {
        let (io, client) = self.0.accept().await.expect("a connection");
        let io = io.into_std().expect("a socket");
        let dst = SocketAddr::from(([203, 0, 113, 9], 443));
        Arrival { io, client: ClientAddr(client), dst: OriginalDst(dst) }
    }
}

/// Every name is at one address.
struct Always(SocketAddr);

impl Resolve for Always {
    fn dial_addrs<'a>(&'a self, _: &'a Domain, _: u16) -> Resolving<'a, Vec<SocketAddr>> {
        Box::pin(async { Ok(vec![self.0]) })
    }

    fn lookup<'a>(&'a self, _: &'a Domain, _: RecordType) -> Resolving<'a, Answer> {
        Box::pin(async { Err(ResolveError::NotFound) })
    }

    fn overrides(&self, _: &Domain) -> bool {
        false
    }
}

/// Keeps no event: what a record costs is not measured here.
struct Nowhere;

impl Record for Nowhere {
    fn record(&self, _: &Event) {}
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("a root");
    roots
}

/// The PEM of one certificate, to its last line.
fn read_certificate(from: impl BufRead) -> String {
    let mut pem = String::new();
    for line in from.lines() {
        pem.push_str(&line.expect("a line"));
        pem.push('\n');
        if pem.ends_with("-----END CERTIFICATE-----\n") {
            break;
        }
    }
    pem
}

/// A thousand connections are some thousands of files.
fn raise_limit_of_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("a limit within the limit");
}
