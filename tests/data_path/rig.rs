//! One sandbox's data path on loopback: a listener whose original destinations the test claims, names from a table,
//! origins that record, and the record itself.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use exeat::attach::{Arrival, Envelope, Listener, Packets, Replies};
use exeat::audit::{Closed, Event, Judged, Kind, Record, RouteTaken};
use exeat::ca::Authority;
use exeat::dns::Dns;
use exeat::flow::{ClientAddr, Domain, OriginalDst, SandboxId, SecretName};
use exeat::intercept::upstream::Upstream;
use exeat::intercept::workers::Workers;
use exeat::intercept::{Context, Shutdown, Stop, serve, shutdown, udp};
use exeat::issuer::{Issuer, Subject, Tokens};
use exeat::policy::verdict::DenyReason;
use exeat::policy::{Flags, Policy, Protected, Source, Terms};
use exeat::resolve::{Answer, Found, Resolve, ResolveError, Resolving};
use exeat::sandbox::Sandbox;
use exeat::sandbox::quota::Slot;
use exeat::secret::placeholder::Placeholders;
use exeat::secret::{Secret, Secrets};
use hickory_proto::rr::RecordType;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use zeroize::Zeroizing;

use super::super::support::origin::{Ca, Origin, Speaks};

/// Where the sandbox dials unless a test says otherwise: nobody's address (RFC 5737).
pub(crate) const ANYWHERE: &str = "203.0.113.9:443";

pub(crate) struct Rig {
    /// Signs for origins; the only root that the upstream side trusts.
    pub(crate) ca: Ca,
    /// Where connections of the sandbox arrive.
    pub(crate) listener: SocketAddr,
    sandbox: Arc<Sandbox>,
    names: Arc<Names>,
    host: Arc<ArcSwap<Protected>>,
    log: Arc<Log>,
    root_pem: String,
    folder: tempfile::TempDir,
    claims: mpsc::UnboundedSender<SocketAddr>,
    stop: Stop,
    ctx: Arc<Context>,
    end: Shutdown,
    serving: Mutex<Option<JoinHandle<()>>>,
}

impl Rig {
    /// A sandbox under this policy, without secrets.
    pub(crate) async fn new(policy: &str) -> Self {
        Self::start(policy, Secrets::default()).await
    }

    /// A sandbox whose secret `KEY` has this value.
    pub(crate) async fn with_secret(policy: &str, value: &str) -> Self {
        let secrets = Secrets::default();
        let name = SecretName::new("KEY").expect("a name");
        secrets.insert(name, Secret::new(Zeroizing::new(value.as_bytes().to_vec())));
        Self::start(policy, secrets).await
    }

    /// A sandbox under this policy, with these secrets.
    pub(crate) async fn start(policy: &str, secrets: Secrets) -> Self {
        Self::carried_by(Workers::default(), policy, secrets).await
    }

    /// The same, whose flows are carried by these threads.
    pub(crate) async fn carried_by(workers: Workers, policy: &str, secrets: Secrets) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = Ca::new(folder.path());
        let id = SandboxId::new("test").expect("an id");
        let authority = Authority::generate(&id, SystemTime::now).expect("a root");
        let root_pem = authority.certificate_pem();
        let sandbox = Arc::new(Sandbox::new(id, compile(policy), secrets));
        let names = Arc::<Names>::default();
        let resolve: Arc<dyn Resolve> = Arc::clone(&names) as _;
        let loopback = "127.0.0.0/8".parse().expect("a range");
        let host = Arc::new(ArcSwap::from_pointee(Protected::new([]).without(loopback)));
        let log = Arc::<Log>::default();
        let record: Arc<dyn Record> = Arc::clone(&log) as _;
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let listener = socket.local_addr().expect("a bound listener");
        let (claims, claimed) = mpsc::unbounded_channel();
        let ctx = Context {
            sandbox: Arc::clone(&sandbox),
            host: Arc::clone(&host),
            upstream: Upstream::new(Arc::clone(&resolve), RootCertStore::empty(), roots(ca.pem())),
            authority: Arc::new(authority),
            dns: Arc::new(Dns::new(Arc::clone(&sandbox), resolve, Arc::clone(&host), Arc::clone(&record))),
            tokens: Some(tokens()),
            record,
            workers,
            listener_port: listener.port(),
        };
        let (stop, end) = shutdown();
        let ctx = Arc::new(ctx);
        let serving = tokio::spawn(serve(Claimed { socket, claimed }, Arc::clone(&ctx), end.clone()));
        let serving = Mutex::new(Some(serving));
        Self { ca, listener, sandbox, names, host, log, root_pem, folder, claims, stop, ctx, end, serving }
    }

    /// An origin at loopback that owns `name`.
    pub(crate) fn origin(&self, name: &str, speaks: Speaks) -> Origin {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let origin = Origin::serve(vec![socket], speaks, &tokio::runtime::Handle::current());
        self.resolve(name, origin.address);
        origin
    }

    /// Says where `name` is.
    pub(crate) fn resolve(&self, name: &str, address: SocketAddr) {
        self.names.addresses.lock().expect("no panic").insert(name.to_owned(), address);
    }

    /// Makes loopback, where the origins are, protected as it is by default.
    pub(crate) fn protect(&self) {
        self.host.store(Arc::new(Protected::new([])));
    }

    /// Leaves no room for a flow.
    pub(crate) fn take_all_slots(&self) -> Vec<Slot> {
        std::iter::from_fn(|| self.sandbox.quota().flows.take()).collect()
    }

    /// Bounds what the sandbox may use.
    pub(crate) fn limit(&self, limits: &str) {
        self.sandbox.quota().set(&serde_json::from_str(limits).expect("limits"));
    }

    /// Holds the next resolution until the gate is opened.
    pub(crate) fn gate(&self) -> Gate {
        let gate = Gate::default();
        *self.names.gate.lock().expect("no panic") = Some(gate.clone());
        gate
    }

    /// What the sandbox holds instead of secrets.
    pub(crate) fn hold(&self, placeholders: Placeholders) {
        self.sandbox.hold(placeholders);
    }

    /// Replaces the policy.
    pub(crate) fn replace(&self, policy: &str) {
        self.sandbox.replace(compile(policy));
    }

    /// Replaces the policy, and waits until nothing lives that the new one refuses.
    pub(crate) async fn push(&self, policy: &str) {
        let generation = self.sandbox.replace(compile(policy));
        let settled = tokio::time::timeout(crate::support::PATIENCE, self.sandbox.settled(generation));
        settled.await.expect("everything that lives heeds a change");
    }

    /// The next connection to the listener was going to `dst`.
    pub(crate) fn claim(&self, dst: &str) {
        self.claims.send(dst.parse().expect("an address")).expect("the listener listens");
    }

    /// A connection of the sandbox to `dst`.
    pub(crate) async fn connect(&self, dst: &str) -> TcpStream {
        self.claim(dst);
        TcpStream::connect(self.listener).await.expect("the listener listens")
    }

    /// TLS of a client that trusts our root, to `name` at nobody's address.
    pub(crate) async fn tls(&self, name: &str, alpn: &[&str]) -> TlsStream<TcpStream> {
        self.tls_trusting(&self.root_pem, name, 443, alpn).await
    }

    /// TLS of a client that trusts one root.
    pub(crate) async fn tls_trusting(&self, root: &str, name: &str, port: u16, alpn: &[&str]) -> TlsStream<TcpStream> {
        let dst = ANYWHERE.replace("443", &port.to_string());
        self.tls_to(&dst, root, name, alpn).await.expect("a handshake")
    }

    /// TLS to `dst`, which may fail.
    pub(crate) async fn tls_to(
        &self,
        dst: &str,
        root: &str,
        name: &str,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = client_config(root);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = match name.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(name.to_owned()).expect("a name"),
        };
        let io = self.connect(dst).await;
        TlsConnector::from(Arc::new(config)).connect(name, io).await
    }

    /// What makes TLS of many connections, for a client that trusts our root and speaks this.
    pub(crate) fn connector(&self, speaks: &str) -> TlsConnector {
        let mut config = client_config(&self.root_pem);
        config.alpn_protocols = vec![speaks.as_bytes().to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    /// The first bytes of a client that trusts our root.
    pub(crate) fn hello(&self, name: &str) -> Vec<u8> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let config = Arc::new(client_config(&self.root_pem));
        let mut hello = Vec::new();
        let mut client = rustls::ClientConnection::new(config, name).expect("a client");
        client.write_tls(&mut hello).expect("memory takes it");
        hello
    }

    /// An HTTP/2 client inside TLS.
    pub(crate) async fn http2(&self, name: &str) -> http2::SendRequest<Full<Bytes>> {
        let tls = self.tls(name, &["h2"]).await;
        let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.expect("HTTP/2");
        tokio::spawn(connection);
        client
    }

    /// Our root, for clients that read a file.
    pub(crate) fn root_file(&self) -> PathBuf {
        let file = self.folder.path().join("our-root.pem");
        std::fs::write(&file, &self.root_pem).expect("a file");
        file
    }

    /// Our root.
    pub(crate) fn root_pem(&self) -> String {
        self.root_pem.clone()
    }

    /// Everything recorded so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.log.events.lock().expect("no panic").clone()
    }

    /// The routes of flows that were allowed.
    pub(crate) fn allowed(&self) -> Vec<RouteTaken> {
        self.verdicts().filter(|judged| judged.request.is_none()).filter_map(|judged| judged.outcome.ok()).collect()
    }

    /// The reasons for every denial, of flows and of requests.
    pub(crate) fn denied(&self) -> Vec<DenyReason> {
        self.verdicts().filter_map(|judged| judged.outcome.err()).collect()
    }

    /// What was recorded of requests.
    pub(crate) fn requests(&self) -> Vec<Judged> {
        self.verdicts().filter(|judged| judged.request.is_some()).collect()
    }

    /// The ends of flows.
    pub(crate) fn closes(&self) -> Vec<Closed> {
        let events = self.events().into_iter();
        events.filter_map(|event| if let Kind::Close(close) = event.kind { Some(close) } else { None }).collect()
    }

    /// Waits for the first end of a flow.
    pub(crate) async fn closed(&self) -> Closed {
        loop {
            let more = self.log.more.notified();
            if let Some(close) = self.closes().into_iter().next() {
                return close;
            }
            more.await;
        }
    }

    /// The sandbox's datagrams.
    pub(crate) fn udp(&self) -> Wire {
        let (said, inbox) = mpsc::unbounded_channel();
        let (outbox, heard) = mpsc::unbounded_channel();
        let (packets, replies) = (Arc::new(Inbox(tokio::sync::Mutex::new(inbox))), Arc::new(Outbox(outbox)));
        tokio::spawn(udp::serve(packets, replies, Arc::clone(&self.ctx), self.end.clone()));
        Wire { said, heard }
    }

    /// Takes no more flows, and lets those that are open finish.
    pub(crate) fn drain(&self) {
        self.stop.drain();
    }

    /// Waits until the last flow has ended.
    pub(crate) async fn ended(&self) {
        let serving = self.serving.lock().expect("no panic").take().expect("stopped once");
        tokio::time::timeout(crate::support::PATIENCE, serving).await.expect("in time").expect("no panic");
    }

    /// Ends everything, and waits for it.
    pub(crate) async fn stop(&self) {
        self.stop.stop();
        self.ended().await;
    }

    fn verdicts(&self) -> impl Iterator<Item = Judged> {
        let events = self.events().into_iter();
        events.filter_map(|event| if let Kind::Verdict(judged) = event.kind { Some(judged) } else { None })
    }
}

/// What signs for this sandbox.
fn tokens() -> Tokens {
    // Its keys take a while to make.
    static ISSUER: LazyLock<Arc<Issuer>> = LazyLock::new(|| {
        let issuer = Issuer::open("https://issuer.test", None, SystemTime::now).expect("an issuer");
        issuer.adopt(issuer.due().expect("keys").expect("none yet"));
        Arc::new(issuer)
    });
    let [sandbox_id, sandbox_name, team_id, project_id] = ["sbx_1", "test", "team", "project"].map(str::to_owned);
    Tokens::new(Arc::clone(&ISSUER), Subject { sandbox_id, sandbox_name, team_id, project_id })
}

fn compile(policy: &str) -> Policy {
    let text = if policy.contains("version:") { policy.to_owned() } else { format!("version: 1\n{policy}\n") };
    let source = Source { path: "policy.yaml", text: &text };
    match Policy::compile(Some(source), &Flags::default(), &Terms::default()) {
        Ok(compiled) => compiled.policy,
        Err(faults) => panic!("{faults}"),
    }
}

fn client_config(root: &str) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS")
        .with_root_certificates(roots(root))
        .with_no_client_auth()
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("a root");
    roots
}

/// Names under the test's control.
#[derive(Default)]
struct Names {
    addresses: Mutex<HashMap<String, SocketAddr>>,
    /// Where a gate is set, an answer says that it was asked for and waits to be let through.
    gate: Mutex<Option<Gate>>,
}

#[derive(Clone, Default)]
pub(crate) struct Gate {
    pub(crate) asked: Arc<Notify>,
    pub(crate) open: Arc<Notify>,
}

impl Resolve for Names {
    fn dial_addrs<'a>(&'a self, name: &'a Domain, _: u16) -> Resolving<'a, Vec<SocketAddr>> {
        let found = self.addresses.lock().expect("no panic").get(name.as_str()).copied();
        let gate = self.gate.lock().expect("no panic").take();
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.asked.notify_one();
                gate.open.notified().await;
            }
            found.map(|address| vec![address]).ok_or(ResolveError::NotFound)
        })
    }

    fn lookup<'a>(&'a self, _: &'a Domain, _: RecordType) -> Resolving<'a, Answer> {
        Box::pin(async { Ok(Answer { found: Found::NoName(None), ttl: Duration::ZERO }) })
    }

    fn overrides(&self, _: &Domain) -> bool {
        true
    }
}

/// The sandbox's side of its datagrams: what it says, and what it hears.
pub(crate) struct Wire {
    said: mpsc::UnboundedSender<(Envelope, Vec<u8>)>,
    heard: mpsc::UnboundedReceiver<(Envelope, Heard)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Datagram(Vec<u8>),
    Refusal,
}

impl Wire {
    /// Sends from a port of the sandbox to an address.
    pub(crate) fn say(&self, from: u16, to: SocketAddr, datagram: &[u8]) {
        let client = SocketAddr::from(([198, 18, 0, 1], from));
        let envelope = Envelope { client: ClientAddr(client), dst: OriginalDst(to) };
        self.said.send((envelope, datagram.to_vec())).expect("it is served");
    }

    /// What the sandbox hears next, at which port.
    pub(crate) async fn hear(&mut self) -> (u16, Heard) {
        let (envelope, heard) = self.heard.recv().await.expect("it is served");
        (envelope.client.0.port(), heard)
    }
}

struct Inbox(tokio::sync::Mutex<mpsc::UnboundedReceiver<(Envelope, Vec<u8>)>>);

struct Outbox(mpsc::UnboundedSender<(Envelope, Heard)>);

impl Packets for Inbox {
    async fn receive(&self, room: &mut Vec<u8>) -> (Envelope, usize) {
        match self.0.lock().await.recv().await {
            Some((envelope, datagram)) => {
                let length = datagram.len();
                *room = datagram;
                (envelope, length)
            }
            None => std::future::pending().await,
        }
    }
}

impl Replies for Outbox {
    fn reply(&self, to: Envelope, payload: &[u8]) {
        // The test may be over.
        let _ = self.0.send((to, Heard::Datagram(payload.to_vec())));
    }

    fn refuse(&self, to: Envelope) {
        let _ = self.0.send((to, Heard::Refusal));
    }
}

/// Keeps every event.
#[derive(Default)]
struct Log {
    events: Mutex<Vec<Event>>,
    more: Notify,
}

impl Record for Log {
    fn record(&self, event: &Event) {
        self.events.lock().expect("no panic").push(event.clone());
        self.more.notify_waiters();
    }
}

/// A listener whose connections go where the test claims, in order.
struct Claimed {
    socket: TcpListener,
    claimed: mpsc::UnboundedReceiver<SocketAddr>,
}

impl Listener for Claimed {
    async fn accept(&mut self) -> Arrival {
        let (io, client) = self.socket.accept().await.expect("a connection");
        let io = io.into_std().expect("a socket");
        let dst = self.claimed.try_recv().expect("every connection is claimed before it is made");
        Arrival { io, client: ClientAddr(client), dst: OriginalDst(dst) }
    }
}

/// An origin inside TLS that answers the first head with fixed bytes, and every byte after it with itself.
pub(crate) struct Scripted {
    received: Arc<Mutex<Vec<u8>>>,
    hang_up: Arc<Notify>,
    /// Told when a connection has ended.
    pub(crate) gone: Arc<Notify>,
    serving: JoinHandle<()>,
}

impl Scripted {
    pub(crate) async fn serve(rig: &Rig, name: &str, answer: &str) -> Self {
        let (acceptor, answer) = (http1_only(&rig.ca.tls(&[name])), answer.to_owned());
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        rig.resolve(name, socket.local_addr().expect("a bound listener"));
        let received = Arc::<Mutex<Vec<u8>>>::default();
        let (hang_up, gone) = (Arc::<Notify>::default(), Arc::<Notify>::default());
        let (record, ends, left) = (Arc::clone(&received), Arc::clone(&hang_up), Arc::clone(&gone));
        let serving = tokio::spawn(async move {
            while let Ok((io, _)) = socket.accept().await {
                let Ok(mut tls) = acceptor.accept(io).await else { continue };
                let (answer, record) = (answer.clone(), Arc::clone(&record));
                let (hang_up, gone) = (Arc::clone(&ends), Arc::clone(&left));
                tokio::spawn(async move {
                    let head = read_head(&mut tls).await;
                    record.lock().expect("no panic").extend_from_slice(head.as_bytes());
                    tls.write_all(answer.as_bytes()).await.expect("a client that listens");
                    let (mut from, mut to) = tokio::io::split(tls);
                    tokio::select! {
                        _ = tokio::io::copy(&mut from, &mut to) => {}
                        () = hang_up.notified() => {}
                    }
                    gone.notify_one();
                });
            }
        });
        Self { received, hang_up, gone, serving }
    }

    /// Closes the connections that are open.
    pub(crate) fn hang_up(&self) {
        self.hang_up.notify_waiters();
    }

    /// The heads that arrived.
    pub(crate) fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().expect("no panic")).into_owned()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The same TLS, for an origin that knows no HTTP/2.
pub(crate) fn http1_only(tls: &TlsAcceptor) -> TlsAcceptor {
    speaking(tls, "http/1.1")
}

/// The same TLS, for an origin that knows one protocol.
pub(crate) fn speaking(tls: &TlsAcceptor, protocol: &str) -> TlsAcceptor {
    let mut config = rustls::ServerConfig::clone(tls.config());
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// An address where nobody listens.
pub(crate) async fn nobody_listens() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    socket.local_addr().expect("a bound listener")
}

/// Sends, and reads until the other side ends.
pub(crate) async fn exchange(io: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &str) -> String {
    io.write_all(request.as_bytes()).await.expect("a listener that reads");
    let mut answer = Vec::new();
    // A peer that closes without close_notify has still said what it said.
    let _ = io.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads one HTTP/1 head.
pub(crate) async fn read_head(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap_or_else(|error| panic!("{error} after {}", head.escape_ascii())));
    }
    String::from_utf8(head).expect("a head in ASCII")
}

/// Reads one HTTP/1 answer with a length.
pub(crate) async fn read_answer(io: &mut (impl AsyncRead + Unpin)) -> String {
    let head = read_head(io).await;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    io.read_exact(&mut body).await.expect("the body");
    head + &String::from_utf8_lossy(&body)
}
