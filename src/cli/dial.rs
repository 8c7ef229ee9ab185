//! The operator's own connections: to a daemon, and to where secrets come from. No flow has any part in them.
//!
//! One request goes over each, and its answer comes back; no proxy is asked, and no redirection followed.
//!
//! - `INVARIANT`: what is not a Unix socket or a loopback address is reached over TLS that was verified.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::limits;

/// Whom a request goes to.
pub(super) enum Peer {
    /// Who listens at a Unix socket.
    Socket(PathBuf),
    /// A host, over TLS.
    Tls {
        /// As it was named.
        host: String,
        port: u16,
        name: ServerName<'static>,
        config: Arc<ClientConfig>,
    },
    /// A loopback address, in clear text.
    Clear(SocketAddr),
}

impl Peer {
    /// Who is at the host of a URL. `ca` is trusted instead of the system's certificates; `certificate` and its key are
    /// shown.
    pub(super) fn of(
        address: &Uri,
        ca: Option<&Path>,
        certificate: Option<(PathBuf, PathBuf)>,
    ) -> Result<Self, DialError> {
        let host = address.host().ok_or(DialError::Address("it names no host"))?;
        let bare = host.trim_matches(['[', ']']);
        match address.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => {
                let name = ServerName::try_from(bare.to_owned());
                let name = name.map_err(|_| DialError::Address("its host is none"))?;
                let config = Arc::new(tls(ca, certificate)?);
                Ok(Self::Tls { host: host.to_owned(), port: address.port_u16().unwrap_or(443), name, config })
            }
            Some(scheme) if *scheme == Scheme::HTTP => match bare.parse::<IpAddr>() {
                Ok(ip) if ip.to_canonical().is_loopback() => {
                    Ok(Self::Clear((ip, address.port_u16().unwrap_or(80)).into()))
                }
                _ => Err(DialError::Address(
                    "in clear text only a loopback address is asked, such as http://127.0.0.1:8420",
                )),
            },
            _ => Err(DialError::Address("write it as https://HOST:PORT")),
        }
    }

    /// Sends a request, with the peer as its host; the head of what is answered.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, DialError> {
        match self {
            Self::Socket(path) => {
                let io = UnixStream::connect(path).await.map_err(|error| DialError::Socket(path.clone(), error))?;
                converse(io, "localhost", request).await
            }
            Self::Clear(address) => {
                let io = TcpStream::connect(address).await;
                let io = io.map_err(|error| DialError::Unreachable(address.to_string(), error))?;
                converse(io, &address.to_string(), request).await
            }
            Self::Tls { host, port, name, config } => {
                let place = format!("{host}:{port}");
                let io = TcpStream::connect((host.trim_matches(['[', ']']), *port)).await;
                let io = io.map_err(|error| DialError::Unreachable(place.clone(), error))?;
                let io = TlsConnector::from(Arc::clone(config)).connect(name.clone(), io).await;
                let io = io.map_err(|error| DialError::Tls(place.clone(), error))?;
                converse(io, if *port == 443 { host } else { &place }, request).await
            }
        }
    }
}

async fn converse<Io>(io: Io, host: &str, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, DialError>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let host = HeaderValue::from_str(host).map_err(|_| DialError::Address("its host is none"))?;
    request.headers_mut().insert(header::HOST, host);
    let (mut send, connection) = http1::handshake(TokioIo::new(io)).await.map_err(DialError::Broken)?;
    // Its error is the request's, too.
    tokio::spawn(connection);
    send.send_request(request).await.map_err(DialError::Broken)
}

fn tls(ca: Option<&Path>, certificate: Option<(PathBuf, PathBuf)>) -> Result<ClientConfig, DialError> {
    let mut roots = RootCertStore::empty();
    let issuers = match ca {
        Some(path) => certificates(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    roots.add_parsable_certificates(issuers);
    let builder = crate::tls::client(roots);
    match certificate {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates(&certificate)?;
            let secret = PrivateKeyDer::from_pem_slice(&read(&key)?);
            let secret = secret.map_err(|_| DialError::File(key.clone(), no("no private key in PEM")))?;
            builder.with_client_auth_cert(chain, secret).map_err(DialError::OwnTls)
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, DialError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| DialError::File(path.to_owned(), no("no certificate in PEM")))
}

/// A file that may hold a credential.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, DialError> {
    let failed = |error| DialError::File(path.to_owned(), error);
    // Room for all from the start: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limits::CREDENTIAL_BYTES));
    let most = u64::try_from(limits::CREDENTIAL_BYTES).unwrap_or(u64::MAX);
    std::fs::File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn no(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("it holds {what}"))
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum DialError {
    /// The address cannot be used.
    Address(&'static str),
    /// This file cannot be used.
    File(PathBuf, io::Error),
    /// Nobody could be asked at this socket.
    Socket(PathBuf, io::Error),
    /// Nobody answers there.
    Unreachable(String, io::Error),
    /// Whoever is there cannot be trusted, or does not trust us.
    Tls(String, io::Error),
    /// Our certificate cannot be used.
    OwnTls(rustls::Error),
    /// The connection broke off.
    Broken(hyper::Error),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(why) => write!(f, "the address: {why}"),
            Self::File(path, _) => write!(f, "{} cannot be used", path.display()),
            Self::Socket(path, _) => write!(f, "nobody answers at {}", path.display()),
            Self::Unreachable(place, _) => write!(f, "nobody answers at {place}"),
            Self::Tls(place, _) => write!(f, "no trust between {place} and us"),
            Self::OwnTls(_) => f.write_str("the certificate cannot be used"),
            Self::Broken(_) => f.write_str("the connection broke off"),
        }
    }
}

impl Error for DialError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Address(_) => None,
            Self::File(_, error) | Self::Socket(_, error) | Self::Unreachable(_, error) | Self::Tls(_, error) => {
                Some(error)
            }
            Self::OwnTls(error) => Some(error),
            Self::Broken(error) => Some(error),
        }
    }
}
