//! Origins that keep every byte they were sent: plain TCP, HTTP, and HTTPS with HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// A certificate authority of the rig, its certificate in a file.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    file: PathBuf,
}

impl Ca {
    /// Makes one, and writes its certificate into `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "the rig's root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let file = folder.join("rig-root.pem");
        std::fs::write(&file, &pem).expect("a file in the rig's folder");
        Self { issuer: Issuer::new(params, key), pem, file }
    }

    /// Where its certificate stands, in PEM.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Its certificate, in PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for these names, in PEM, and its key: for servers that read files.
    pub(crate) fn pair(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("names for a certificate");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        (leaf.pem(), key.serialize_pem())
    }

    /// TLS for an origin of these names.
    pub(crate) fn tls(&self, names: &[&str]) -> TlsAcceptor {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("names for a certificate");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .expect("the key fits the certificate");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// How an origin answers.
#[derive(Clone)]
pub(crate) enum Speaks {
    /// HTTP, by this handler.
    Http(Handler),
    /// HTTP inside TLS, by this handler.
    Https(TlsAcceptor, Handler),
    /// No protocol that exeat knows: a greeting first (possibly empty), then every byte back.
    Opaque(&'static str),
}

/// Answers one request.
pub(crate) type Handler = Arc<dyn Fn(&Request) -> http::Response<Full<Bytes>> + Send + Sync>;

/// Greets whoever connects, says so if it is taken, and waits for the end of the connection.
pub(crate) async fn greet(listener: tokio::net::TcpListener) {
    while let Ok((mut io, _)) = listener.accept().await {
        tokio::spawn(async move {
            // A client that is cut off has no use for it.
            let _ = io.write_all(b"hello\n").await;
            if io.read_exact(&mut [0; 5]).await.is_ok() {
                let _ = io.write_all(b"taken\n").await;
            }
            let _ = io.read_to_end(&mut Vec::new()).await;
        });
    }
}

/// The handler that answers with what it was sent, as JSON: `method`, `uri`, `version`, `headers`, `body`.
pub(crate) fn echo() -> Handler {
    Arc::new(|request: &Request| {
        let body = serde_json::json!({
            "method": request.method,
            "uri": request.uri,
            "version": request.version,
            "headers": request.headers,
            "body": String::from_utf8_lossy(&request.body),
        });
        let response = http::Response::builder().header("content-type", "application/json");
        response.body(Full::from(body.to_string())).expect("a response")
    })
}

/// The handler that answers with a file below `files`, where the path names one, and with an [`echo`] otherwise.
pub(crate) fn files_or_echo(files: PathBuf) -> Handler {
    let echo = echo();
    Arc::new(move |request: &Request| {
        let path = request.uri.parse::<http::Uri>().expect("it was parsed before").path().to_owned();
        if let Some(path) = path.strip_prefix("/git") {
            return git(&files, path, request);
        }
        match std::fs::read(files.join(path.trim_start_matches('/'))) {
            Ok(content) => http::Response::new(Full::from(content)),
            Err(_) => echo(request),
        }
    })
}

/// The answer of git's own server to whoever brings a name and a password; others are asked for them.
fn git(files: &Path, path: &str, request: &Request) -> http::Response<Full<Bytes>> {
    let header = |name: &str| request.header(name).join(", ");
    if header("authorization").is_empty() {
        let response = http::Response::builder().status(401).header("www-authenticate", "Basic realm=\"rig\"");
        return response.body(Full::default()).expect("a response");
    }
    let mut backend = Command::new("git");
    backend.arg("http-backend").env("GIT_PROJECT_ROOT", files).env("GIT_HTTP_EXPORT_ALL", "1").env("PATH_INFO", path);
    let query = request.uri.split_once('?').map_or("", |(_, query)| query);
    backend.env("QUERY_STRING", query).env("REQUEST_METHOD", &request.method).env("REMOTE_USER", "rig");
    backend.env("CONTENT_TYPE", header("content-type")).env("HTTP_CONTENT_ENCODING", header("content-encoding"));
    backend.env("CONTENT_LENGTH", request.body.len().to_string()).env("GIT_PROTOCOL", header("git-protocol"));
    let mut backend = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("git is installed");
    backend.stdin.take().expect("a pipe").write_all(&request.body).expect("it reads");
    let answer = backend.wait_with_output().expect("it ends").stdout;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut response = http::Response::new(Full::from(answer[end + 4..].to_vec()));
    for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
        match name {
            "Status" => *response.status_mut() = value[..3].parse().expect("a status"),
            _ => {
                let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
                response.headers_mut().append(name, value.parse().expect("a value"));
            }
        }
    }
    response
}

/// A request as an origin received it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) version: String,
    /// In the order of arrival; names are lower-case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Request {
    /// Every value of one header.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// An origin at work. It stops with its runtime.
pub(crate) struct Origin {
    /// Where it listens; the first of its addresses.
    pub(crate) address: SocketAddr,
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    connections: usize,
    wire: Vec<u8>,
    inner: Vec<u8>,
    names: Vec<String>,
    resumed: Vec<bool>,
    heads: Vec<Request>,
    requests: Vec<Request>,
}

impl Origin {
    /// Serves on each of `listeners`, by tasks of `runtime`.
    pub(crate) fn serve(listeners: Vec<TcpListener>, speaks: Speaks, runtime: &tokio::runtime::Handle) -> Self {
        let address = listeners[0].local_addr().expect("a bound listener");
        let record = Arc::new(Mutex::new(Record::default()));
        for listener in listeners {
            listener.set_nonblocking(true).expect("a socket option");
            let (speaks, record) = (speaks.clone(), Arc::clone(&record));
            runtime.spawn(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a socket of this runtime");
                while let Ok((stream, _)) = listener.accept().await {
                    record.lock().expect("no panic").connections += 1;
                    tokio::spawn(converse(stream, speaks.clone(), Arc::clone(&record)));
                }
            });
        }
        Self { address, record }
    }

    /// How often it was connected to.
    pub(crate) fn connections(&self) -> usize {
        self.record.lock().expect("no panic").connections
    }

    /// Every byte that arrived, as it stood on the wire.
    pub(crate) fn wire(&self) -> Vec<u8> {
        self.record.lock().expect("no panic").wire.clone()
    }

    /// Every byte that arrived, inside TLS where it was spoken, as text.
    pub(crate) fn inner(&self) -> String {
        String::from_utf8_lossy(&self.record.lock().expect("no panic").inner).into_owned()
    }

    /// The server names that were asked for.
    pub(crate) fn names(&self) -> Vec<String> {
        self.record.lock().expect("no panic").names.clone()
    }

    /// Of each TLS connection, whether it resumed an earlier session.
    pub(crate) fn resumed(&self) -> Vec<bool> {
        self.record.lock().expect("no panic").resumed.clone()
    }

    /// The requests of which the head arrived, without their bodies.
    pub(crate) fn heads(&self) -> Vec<Request> {
        self.record.lock().expect("no panic").heads.clone()
    }

    /// The requests that arrived.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.record.lock().expect("no panic").requests.clone()
    }

    /// The pass criterion of most attacks: nobody connected, not a byte came.
    #[track_caller]
    pub(crate) fn assert_untouched(&self) {
        let wire = self.wire();
        let text = String::from_utf8_lossy(&wire);
        assert!(self.connections() == 0 && wire.is_empty(), "the origin was reached: {text:?}");
    }
}

async fn converse(stream: TcpStream, speaks: Speaks, record: Arc<Mutex<Record>>) {
    let wire = Tap { io: stream, record: Arc::clone(&record), part: |record| &mut record.wire };
    match speaks {
        Speaks::Opaque(greeting) => chat(inside(wire, &record), greeting).await,
        Speaks::Http(handler) => answer(inside(wire, &record), false, handler, record).await,
        Speaks::Https(tls, handler) => {
            let Ok(stream) = tls.accept(wire).await else { return };
            let (_, session) = stream.get_ref();
            let h2 = session.alpn_protocol() == Some(b"h2");
            let name = session.server_name().unwrap_or_default().to_owned();
            let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            {
                let mut record = record.lock().expect("no panic");
                record.names.push(name);
                record.resumed.push(resumed);
            }
            answer(inside(stream, &record), h2, handler, record).await;
        }
    }
}

async fn chat(mut io: impl AsyncRead + AsyncWrite + Unpin, greeting: &str) {
    let mut buffer = vec![0; 4096];
    if io.write_all(greeting.as_bytes()).await.is_err() {
        return;
    }
    while let Ok(length @ 1..) = io.read(&mut buffer).await {
        if io.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn answer<Io>(io: Io, h2: bool, handler: Handler, record: Arc<Mutex<Record>>)
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        let (handler, record) = (Arc::clone(&handler), Arc::clone(&record));
        async move {
            let (head, body) = request.into_parts();
            let mut request = received(&head);
            record.lock().expect("no panic").heads.push(request.clone());
            request.body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            record.lock().expect("no panic").requests.push(request.clone());
            Ok::<_, Infallible>(handler(&request))
        }
    });
    // How a connection ends is the client's affair; what was received is in the record.
    if h2 {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
    }
}

fn received(head: &http::request::Parts) -> Request {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Request {
        method: head.method.to_string(),
        uri: head.uri.to_string(),
        version: format!("{:?}", head.version),
        headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: Bytes::new(),
    }
}

fn inside<Io>(io: Io, record: &Arc<Mutex<Record>>) -> Tap<Io> {
    Tap { io, record: Arc::clone(record), part: |record| &mut record.inner }
}

/// Copies what is read into one part of the record.
struct Tap<Io> {
    io: Io,
    record: Arc<Mutex<Record>>,
    part: fn(&mut Record) -> &mut Vec<u8>,
}

impl<Io: AsyncRead + Unpin> AsyncRead for Tap<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        let mut record = self.record.lock().expect("no panic");
        (self.part)(&mut record).extend_from_slice(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Tap<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    // An alert of TLS is written once, with all that comes before it, or not at all.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
