//! The demo's origin: an HTTPS server on loopback that says what it received.

use std::convert::Infallible;
use std::error::Error;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::{Request, Response, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{Certificate, CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A server for as long as the runtime that it was started in.
pub(super) struct Origin {
    address: SocketAddr,
    certificate: Certificate,
    key: String,
}

impl Origin {
    /// Starts a server for some names, with a certificate and an API key made for this once.
    pub(super) async fn start(names: &[&str]) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let signer = KeyPair::generate()?;
        let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        let certificate = params.self_signed(&signer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signer.serialize_der()));
        let mut config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut random = [0_u8; 12];
        aws_lc_rs::rand::fill(&mut random)?;
        let api_key = random.iter().fold("demo-".to_owned(), |mut key, byte| {
            // Writing to a string does not fail.
            let _ = write!(key, "{byte:02x}");
            key
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let expected = Arc::<str>::from(format!("Bearer {api_key}"));
        tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), expected));
        Ok(Self { address, certificate, key: api_key })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it shows.
    pub(super) fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// What it wants to be shown.
    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, expected: Arc<str>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, tls.clone(), Arc::clone(&expected)));
    }
}

async fn converse(stream: TcpStream, tls: TlsAcceptor, expected: Arc<str>) {
    // A client that breaks off is nobody's loss.
    let Ok(stream) = tls.accept(stream).await else { return };
    let service = service_fn(move |request| {
        let answer = answer(&request, &expected);
        async move { Ok::<_, Infallible>(answer) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

/// What was received, one header a line. The credential itself is not said: whoever echoes one hands it on.
fn answer(request: &Request<Incoming>, expected: &str) -> Response<String> {
    let mut text =
        format!("the origin received: {} {} {:?}\n", request.method(), request.uri().path(), request.version());
    for (name, value) in request.headers() {
        let shown = match value.to_str() {
            Ok(value) if name == header::AUTHORIZATION && value == expected => "Bearer demo-… (the right key)",
            Ok(_) if name == header::AUTHORIZATION => "(a wrong key)",
            Ok(value) => value,
            Err(_) => "(not text)",
        };
        let _ = writeln!(text, "  {name}: {shown}");
    }
    Response::new(text)
}
