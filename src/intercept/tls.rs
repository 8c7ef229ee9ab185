//! Ends the sandbox's TLS here, with a leaf for the name in its hello.
//!
//! It never decides that a flow is terminated, and it never speaks to an origin.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::flow::{Domain, HttpVersion};
use crate::intercept::records::{Ahead, Tls};
use crate::limits;

/// Does the handshake for `name`, whose hello is the next that `io` reads.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn terminate<Io>(io: Io, config: Arc<ServerConfig>, name: &Domain) -> Result<Tls<Io>, HandshakeError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(config).accept(Ahead::new(io));
    let tls = timeout(limits::HANDSHAKE_TIME, handshake).await.map_err(|_| HandshakeError::TimedOut)??;
    // The name was judged on our reading of the hello; the library's reading has to be the same.
    let same = tls.get_ref().1.server_name().is_some_and(|text| Domain::parse(text).as_ref() == Ok(name));
    if same { Ok(Tls::new(tls)) } else { Err(HandshakeError::OtherName) }
}

/// What was agreed on: HTTP/2 only if the client chose it.
#[must_use]
pub fn version<Io>(tls: &Tls<Io>) -> HttpVersion {
    match tls.session().alpn_protocol() {
        Some(b"h2") => HttpVersion::Http2,
        _ => HttpVersion::Http1,
    }
}

/// Refuses TLS before any handshake: the alert `access_denied` (RFC 8446 §6.2), then the end.
pub async fn refuse<Io: AsyncRead + AsyncWrite + Unpin>(mut io: Io) {
    const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];
    // A client that no longer listens has nothing to be told.
    if let Ok(Ok(())) = timeout(limits::HANDSHAKE_TIME, io.write_all(&ACCESS_DENIED)).await {
        let _ = io.shutdown().await;
    }
}

/// Why the sandbox's handshake failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The client broke off, or does not accept our leaf.
    Io(io::Error),
    /// It took longer than [`limits::HANDSHAKE_TIME`].
    TimedOut,
    /// The TLS library reads another name in the hello than we did.
    OtherName,
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io(_) => "the client ended the TLS handshake (does it trust our root?)",
            Self::TimedOut => "the client's TLS handshake took too long",
            Self::OtherName => "the client's hello can be read in two ways",
        })
    }
}

impl std::error::Error for HandshakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::TimedOut | Self::OtherName => None,
        }
    }
}
