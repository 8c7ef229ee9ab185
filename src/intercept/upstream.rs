//! The upstream side of a flow: resolve a permit's target, vet each address, dial, verify. Nothing else in this program
//! opens a connection for a flow.
//!
//! It never decides whom a sandbox may reach: a [`Permit`] says so, and [`crate::policy::Policy::vet`] turns an address
//! into the [`DialAddr`] that alone can be dialled. It keeps no connection (`http::upstreams` does); of TLS it keeps
//! sessions, to be resumed.
//!
//! - `INVARIANT`: each address is vetted right before it is dialled, and the connection's peer is that address, or the
//!   operator's proxy, asked for that address ([`proxy`]).
//! - `INVARIANT`: TLS is verified for the very name in the permit; roots beyond the host's count only for names that
//!   the operator gave an address.
//! - `INVARIANT`: one [`Upstream`] serves one sandbox, so no TLS session is shared between two; and one is resumed
//!   only under the generation of the policy and with the credentials, ours and those of rules, that it was made with.

pub mod certificates;
pub mod proxy;
mod sessions;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use futures_util::future::OptionFuture;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::flow::{Alpn, Domain};
use crate::intercept::records::{Ahead, Tls};
use crate::limits;
use crate::policy::Protected;
use crate::policy::verdict::{Denial, DialAddr, Permit, Target, Verdict};
use crate::resolve::{Resolve, ResolveError};
use crate::sandbox::Snapshot;
use certificates::{ClientCertificates, Shown};
use proxy::{Proxy, ProxyError};
use sessions::{Roots, Sessions};

/// Opens one sandbox's upstream connections.
pub struct Upstream {
    resolve: Arc<dyn Resolve>,
    sessions: Sessions,
    proxy: Option<Arc<Proxy>>,
    certificates: ClientCertificates,
}

/// A connection that was opened.
#[derive(Debug)]
pub struct Dialled<Io> {
    /// The connection.
    pub io: Io,
    /// Whom it reaches: the address that was vetted, whoever carries it there.
    pub peer: SocketAddr,
}

impl Upstream {
    /// Dials what `resolve` says; verifies against `system` roots, and against `overridden` ones where the operator
    /// gave the name its addresses ([`Resolve::overrides`]).
    #[must_use]
    pub fn new(
        resolve: Arc<dyn Resolve>,
        system: impl Into<Arc<RootCertStore>>,
        overridden: impl Into<Arc<RootCertStore>>,
    ) -> Self {
        let (sessions, certificates) = (Sessions::new(system.into(), overridden.into()), ClientCertificates::default());
        Self { resolve, sessions, proxy: None, certificates }
    }

    /// The same through the operator's proxy, if there is one.
    #[must_use]
    pub fn through(self, proxy: Option<Arc<Proxy>>) -> Self {
        Self { proxy, ..self }
    }

    /// The same with certificates that origins are shown.
    #[must_use]
    pub fn showing(self, certificates: ClientCertificates) -> Self {
        Self { certificates, ..self }
    }

    /// What the permit's target is shown over TLS; nothing where it is only observed (POLICY §8).
    ///
    /// # Errors
    /// It is to be shown a certificate that cannot be had.
    pub fn shown(&self, permit: &Permit) -> Result<Option<Shown>, DialError> {
        match permit.target() {
            Target::Name(name, _) if permit.observed().is_none() => {
                self.certificates.of(name).map_err(|certificates::Missing| DialError::NoClientCertificate)
            }
            _ => Ok(None),
        }
    }

    /// A connection to the permit's target: to a vetted address of its name, or to its very address. All addresses are
    /// tried, in turn and overlapping (RFC 8305), in [`limits::DIAL_TIME`] with the resolving.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(
        &self,
        permit: &Permit,
        snapshot: &Snapshot,
        host: &Protected,
    ) -> Result<Dialled<TcpStream>, DialError> {
        let dialling = async {
            let addrs = match permit.target() {
                Target::Name(name, port) => {
                    self.resolve.dial_addrs(name, *port).await.map_err(DialError::Unresolved)?
                }
                Target::Address(addr) => vec![*addr],
            };
            let is_alone = addrs.len() == 1;
            let mut denied = None;
            let mut vetted =
                by_turns(addrs).into_iter().filter_map(|addr| match snapshot.policy.vet(addr, permit, host) {
                    Verdict::Allow(to) => Some(connect(to, self.proxy.clone())),
                    Verdict::Deny(denial) => {
                        denied.get_or_insert(denial);
                        None
                    }
                });
            // Most names have one address, and one attempt needs no task of its own.
            let outcome = match is_alone {
                true => OptionFuture::from(vetted.next()).await,
                false => race(vetted).await,
            };
            // What became of the addresses that could be dialled says more than those that could not.
            outcome
                .unwrap_or_else(|| Err(denied.map_or(DialError::Unresolved(ResolveError::NotFound), DialError::Denied)))
        };
        timeout(limits::DIAL_TIME, dialling).await.unwrap_or(Err(DialError::TimedOut))
    }

    /// As [`Self::dial`]; then TLS that offers `alpn`, with a certificate that is valid for the permit's name.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial_tls(
        &self,
        permit: &Permit,
        snapshot: &Snapshot,
        host: &Protected,
        alpn: &[Alpn],
    ) -> Result<Dialled<Tls<TcpStream>>, DialError> {
        let (name, roots) = match permit.target() {
            Target::Name(name, _) if self.resolve.overrides(name) => (server_name(name)?, Roots::Overridden),
            Target::Name(name, _) => (server_name(name)?, Roots::System),
            Target::Address(addr) => (ServerName::from(addr.ip()), Roots::System),
        };
        let shown = self.shown(permit)?;
        let Dialled { io, peer } = self.dial(permit, snapshot, host).await?;
        let config = self.sessions.config(snapshot.generation, &permit.credentials(), shown, roots, alpn);
        let handshake = TlsConnector::from(config).connect(name, Ahead::new(io));
        match timeout(limits::UPSTREAM_HANDSHAKE_TIME, handshake).await {
            Ok(done) => done.map(|io| Dialled { io: Tls::new(io), peer }).map_err(DialError::from_handshake),
            Err(_) => Err(DialError::HandshakeTimedOut),
        }
    }

    /// A socket for datagrams to and from one address.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn associate(&self, to: DialAddr) -> Result<UdpSocket, DialError> {
        match &self.proxy {
            Some(proxy) if proxy.carries(to.addr().ip()) => Err(DialError::Proxy(ProxyError::Datagrams)),
            _ => associate(to).await,
        }
    }
}

async fn associate(to: DialAddr) -> Result<UdpSocket, DialError> {
    let addr = to.addr();
    // A socket that is connected to port 0 hears every port.
    if addr.port() == 0 {
        return Err(DialError::Connect(addr, io::ErrorKind::AddrNotAvailable.into()));
    }
    let any: IpAddr = if addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let opening = async {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(addr).await.map(|()| socket)
    };
    opening.await.map_err(|error| DialError::Connect(addr, error))
}

/// Opens one connection to a vetted address: itself, or by having the proxy do so.
///
/// # Errors
/// See [`DialError`].
async fn connect(to: DialAddr, proxy: Option<Arc<Proxy>>) -> Result<Dialled<TcpStream>, DialError> {
    let peer = to.addr();
    let Some(proxy) = proxy.filter(|proxy| proxy.carries(peer.ip())) else {
        return Ok(Dialled { io: open(peer).await?, peer });
    };
    let mut failure = io::ErrorKind::AddrNotAvailable.into();
    for at in proxy.addrs() {
        match open(*at).await {
            Ok(mut io) => {
                proxy.ask(&mut io, &to).await.map_err(DialError::Proxy)?;
                return Ok(Dialled { io, peer });
            }
            Err(DialError::Connect(_, error)) => failure = error,
            Err(other) => return Err(other),
        }
    }
    Err(DialError::Proxy(ProxyError::Unreachable(failure)))
}

/// A connection to this very address, without Nagle's delay and with keep-alive, since the sandbox's own never leaves
/// this host.
async fn open(addr: SocketAddr) -> Result<TcpStream, DialError> {
    let failed = |error| DialError::Connect(addr, error);
    let stream = TcpStream::connect(addr).await.map_err(failed)?;
    if stream.peer_addr().map_err(failed)? != addr {
        return Err(DialError::OtherPeer(addr));
    }
    stream.set_nodelay(true).map_err(failed)?;
    let probes = TcpKeepalive::new().with_time(limits::UPSTREAM_PROBE).with_interval(limits::UPSTREAM_PROBE);
    SockRef::from(&stream).set_tcp_keepalive(&probes).map_err(failed)?;
    Ok(stream)
}

/// Why there is no upstream connection. Only [`Self::Denied`] is a refusal of ours; all else is the upstream's, its
/// name's or the network's (POLICY §7: 502 and 504).
#[derive(Debug)]
#[non_exhaustive]
pub enum DialError {
    /// The target has addresses, and none may be dialled.
    Denied(Denial),
    /// The name has no address.
    Unresolved(ResolveError),
    /// This address, the last that was tried, refused, could not be reached, or was too slow for the kernel.
    Connect(SocketAddr, io::Error),
    /// The connection's peer is another than the address that was vetted.
    OtherPeer(SocketAddr),
    /// The operator's proxy did not connect us.
    Proxy(ProxyError),
    /// No address answered in [`limits::DIAL_TIME`].
    TimedOut,
    /// The certificate that the upstream is to be shown cannot be had.
    NoClientCertificate,
    /// The name can stand in no certificate.
    NoServerName(Domain),
    /// The upstream's certificate is not valid for the name, or nobody trusted issued it.
    Certificate(rustls::CertificateError),
    /// The upstream does not speak TLS as we do.
    Tls(rustls::Error),
    /// The TLS handshake took longer than [`limits::UPSTREAM_HANDSHAKE_TIME`].
    HandshakeTimedOut,
    /// It speaks HTTP/2, and no WebSocket may be asked for on a stream of it.
    NoWebSockets,
    /// The connection broke.
    Io(io::Error),
}

impl DialError {
    /// Whether it is a 504 and not a 502.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::TimedOut | Self::HandshakeTimedOut | Self::Unresolved(ResolveError::TimedOut) => true,
            Self::Connect(_, error) | Self::Io(error) => error.kind() == io::ErrorKind::TimedOut,
            _ => false,
        }
    }

    /// Whether the upstream speaks nothing of what it was offered (RFC 7301 §3.2).
    #[must_use]
    pub fn is_of_alpn(&self) -> bool {
        matches!(self, Self::Tls(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)))
    }

    fn from_handshake(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => Self::Certificate(why.clone()),
            Some(why) => Self::Tls(why.clone()),
            None => Self::Io(error),
        }
    }
}

/// Whole sentences, causes included: a client and a record are told one line.
impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(denial) => {
                write!(f, "none of the upstream's addresses may be dialled: {}", denial.reason.as_str())
            }
            Self::Unresolved(why) => write!(f, "the upstream's name has no address: {why}"),
            Self::Connect(addr, why) => write!(f, "the upstream at {addr} could not be reached: {}", why.kind()),
            Self::OtherPeer(addr) => write!(f, "the connection to {addr} reached another address"),
            Self::Proxy(why) => why.fmt(f),
            Self::TimedOut => f.write_str("the upstream did not answer in time"),
            Self::NoClientCertificate => f.write_str("the certificate that the upstream is shown cannot be had"),
            Self::NoServerName(name) => write!(f, "no certificate can be for the name {name}"),
            Self::Certificate(why) => write!(f, "the upstream's certificate was refused: {why}"),
            Self::Tls(why) => write!(f, "the TLS handshake with the upstream failed: {why}"),
            Self::HandshakeTimedOut => f.write_str("the upstream did not finish its TLS handshake in time"),
            Self::NoWebSockets => f.write_str("the upstream speaks HTTP/2 alone, and takes no WebSocket over it"),
            Self::Io(why) => write!(f, "the connection to the upstream broke: {}", why.kind()),
        }
    }
}

impl std::error::Error for DialError {}

fn server_name(name: &Domain) -> Result<ServerName<'static>, DialError> {
    ServerName::try_from(name.as_str().to_owned()).map_err(|_| DialError::NoServerName(name.clone()))
}

/// Families in turn, beginning with the family of the first (RFC 8305 §4), otherwise in the order given.
fn by_turns(addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addrs.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for addr in addrs {
        if addr.is_ipv6() == first_is_v6 { first.push(addr) } else { second.push(addr) }
    }
    let turns = first.len().max(second.len());
    (0..turns).flat_map(|turn| [first.get(turn).copied(), second.get(turn).copied()]).flatten().collect()
}

/// Starts the attempts one after the other, each [`limits::DIAL_STAGGER`] after the one before or as soon as one has
/// failed (RFC 8305 §5); the first success ends all others. The last failure, if none succeeds; `None`, if there is no
/// attempt.
async fn race<T, E, F>(mut attempts: impl Iterator<Item = F>) -> Option<Result<T, E>>
where
    T: Send + 'static,
    E: Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut failure = None;
    loop {
        let next = attempts.next();
        let is_last = next.is_none();
        if let Some(attempt) = next {
            running.spawn(attempt);
        }
        tokio::select! {
            joined = running.join_next() => match joined {
                Some(Ok(Ok(won))) => return Some(Ok(won)),
                Some(Ok(Err(error))) => failure = Some(Err(error)),
                Some(Err(_)) => {}
                None => return failure,
            },
            () = sleep(limits::DIAL_STAGGER), if !is_last => {}
        }
    }
}
