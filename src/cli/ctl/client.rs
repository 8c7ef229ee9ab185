//! One request to a daemon's control API, over its Unix socket or TCP, and its answer.
//!
//! This is the operator's own connection: no flow of a sandbox has any part in it.
//!
//! - `INVARIANT`: a token goes out over TLS that was verified, or to a loopback address.
//! - `INVARIANT`: what is read of an answer is bounded; whoever answers may not be a daemon.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::cli::dial::{DialError, Peer, read};
use crate::limits;
use crate::secret::Secret;

/// Where a daemon listens, and what it is shown.
#[derive(Debug)]
pub(super) enum Daemon {
    /// A Unix socket.
    Socket(PathBuf),
    /// `https://HOST:PORT`, or `http://` and a loopback address.
    Address {
        /// As it was given.
        address: Uri,
        /// The token's file.
        token: Option<PathBuf>,
        /// Issuers to trust instead of the system's.
        ca: Option<PathBuf>,
        /// Our certificate and its key.
        certificate: Option<(PathBuf, PathBuf)>,
    },
}

/// Asks one daemon.
pub(super) struct Client {
    runtime: Runtime,
    to: Peer,
    token: Option<Secret>,
}

/// What is asked.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    /// The revision that is to be replaced.
    pub(super) replaces: Option<&'a str>,
    pub(super) body: Vec<u8>,
}

/// What is answered, if it is no refusal.
pub(super) struct Answer {
    /// JSON, or text.
    pub(super) body: Value,
    /// Of the policy in force.
    pub(super) revision: Option<String>,
}

impl Client {
    /// Reads the files that are needed; nothing is asked yet.
    ///
    /// # Errors
    /// What of them, or of the address, cannot be used.
    pub(super) fn new(daemon: Daemon) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ClientError::Own)?;
        let (to, token) = match daemon {
            Daemon::Socket(path) => (Peer::Socket(path), None),
            Daemon::Address { address, token, ca, certificate } => {
                if !matches!(address.path(), "" | "/") || address.query().is_some() {
                    return Err(DialError::Address("write it as https://HOST:PORT").into());
                }
                let to = Peer::of(&address, ca.as_deref(), certificate)?;
                (to, token.map(|path| read(&path).map(Secret::new)).transpose()?)
            }
        };
        Ok(Self { runtime, to, token })
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// There is none, or it is a refusal.
    pub(super) fn ask(&self, ask: Ask<'_>) -> Result<Answer, ClientError> {
        self.runtime.block_on(async {
            let within = timeout(limits::CTL_TIME, async {
                let response = self.send(ask).await?;
                let (parts, body) = response.into_parts();
                let body = whole(body).await?;
                let tag = parts.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
                answered(parts.status, &body)?;
                let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
                let revision = tag.map(|tag| tag.trim_matches('"').to_owned());
                Ok(Answer { body: serde_json::from_slice(&body).unwrap_or_else(|_| text()), revision })
            });
            within.await.unwrap_or(Err(ClientError::Late))
        })
    }

    /// Asks, and calls `heed` with each piece of an answer that has no end, until it has had enough.
    ///
    /// # Errors
    /// There is no answer, it is a refusal, or it has ended.
    pub(super) fn follow(
        &self,
        ask: Ask<'_>,
        mut heed: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), ClientError> {
        self.runtime.block_on(async {
            let response = timeout(limits::CTL_TIME, self.send(ask)).await.unwrap_or(Err(ClientError::Late))?;
            let (parts, mut body) = response.into_parts();
            if parts.status != StatusCode::OK {
                return answered(parts.status, &whole(body).await?);
            }
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame.map_err(DialError::Broken)?.into_data()
                    && heed(&data).is_break()
                {
                    return Ok(());
                }
            }
            Err(ClientError::Ended)
        })
    }

    async fn send(&self, ask: Ask<'_>) -> Result<http::Response<Incoming>, ClientError> {
        Ok(self.to.send(self.request(ask)?).await?)
    }

    fn request(&self, ask: Ask<'_>) -> Result<Request<Full<Bytes>>, ClientError> {
        let Ask { method, path, replaces, body } = ask;
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = &self.token {
            let value = token.expose(|token| HeaderValue::from_bytes(&Zeroizing::new([b"Bearer ", token].concat())));
            let mut value = value.map_err(|_| ClientError::Request)?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if let Some(revision) = replaces {
            request = request.header(header::IF_MATCH, format!("\"{revision}\""));
        }
        request.body(Full::new(body.into())).map_err(|_| ClientError::Request)
    }
}

async fn whole(body: Incoming) -> Result<Bytes, ClientError> {
    Ok(Limited::new(body, limits::CTL_BYTES).collect().await.map_err(ClientError::Body)?.to_bytes())
}

/// Whether it is no refusal (POLICY §9).
fn answered(status: StatusCode, body: &[u8]) -> Result<(), ClientError> {
    if status.is_success() {
        return Ok(());
    }
    let body = String::from_utf8_lossy(body);
    let told: Value = serde_json::from_str(&body).unwrap_or_default();
    let word =
        |key: &str| told.get("error").and_then(|error| error.get(key)).and_then(Value::as_str).map(str::to_owned);
    let message = word("message").unwrap_or_else(|| body.trim().to_owned());
    Err(ClientError::Refused { status, code: word("code").unwrap_or_default(), message })
}

/// Why there is no answer, or what was answered instead of one.
#[derive(Debug)]
pub(super) enum ClientError {
    /// The daemon could not be asked.
    Dial(DialError),
    /// The daemon refused.
    Refused {
        /// As POLICY §9 has it.
        status: StatusCode,
        /// What kind of refusal it is.
        code: String,
        /// Why.
        message: String,
    },
    /// What is asked cannot be put into a request.
    Request,
    /// The answer broke off, or is too long.
    Body(Box<dyn Error + Send + Sync>),
    /// There was no answer in time.
    Late,
    /// An answer without an end has ended.
    Ended,
    /// No runtime is to be had.
    Own(io::Error),
}

impl From<DialError> for ClientError {
    fn from(error: DialError) -> Self {
        Self::Dial(error)
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(DialError::Address(why)) => write!(f, "the daemon's address: {why}"),
            Self::Dial(DialError::Socket(path, error)) => socket(f, path, error),
            Self::Dial(DialError::Unreachable(place, _)) => write!(f, "no daemon answers at {place}"),
            Self::Dial(DialError::Tls(place, _)) => {
                write!(f, "no trust between the daemon at {place} and us (`--ca`, `--certificate`)")
            }
            Self::Dial(DialError::Broken(_)) => f.write_str("the connection to the daemon broke off"),
            Self::Dial(error @ (DialError::File(..) | DialError::OwnTls(_))) => error.fmt(f),
            Self::Refused { status: StatusCode::UNAUTHORIZED, message, .. } => {
                write!(f, "the daemon does not let us in (`--token-file`): {message}")
            }
            Self::Refused { message, .. } => f.write_str(message),
            Self::Request => f.write_str("this cannot be asked: a name, a revision or the token holds odd characters"),
            Self::Body(_) => f.write_str("the daemon's answer cannot be read"),
            Self::Late => write!(f, "the daemon did not answer in {} s", limits::CTL_TIME.as_secs()),
            Self::Ended => f.write_str("the daemon has ended"),
            Self::Own(_) => f.write_str("no connection can be made here"),
        }
    }
}

/// Why nobody could be asked at a socket, and what to do about it.
fn socket(f: &mut fmt::Formatter<'_>, path: &Path, error: &io::Error) -> fmt::Result {
    let shown = path.display();
    match error.kind() {
        ErrorKind::NotFound => write!(
            f,
            "no daemon listens at {shown}: start `exeat serve`, or name its socket with `--socket` or EXEAT_SOCKET"
        ),
        ErrorKind::ConnectionRefused => {
            write!(f, "the daemon that listened at {shown} is not running: start `exeat serve` again")
        }
        ErrorKind::PermissionDenied => {
            write!(f, "you may not ask the daemon at {shown}")?;
            match std::fs::metadata(path) {
                Ok(found) => write!(f, ": that is for user {} and group {}", found.uid(), found.gid()),
                Err(_) => Ok(()),
            }
        }
        _ => write!(f, "the daemon at {shown} cannot be asked"),
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // What these say, it has said in words that help.
            Self::Dial(DialError::Socket(_, error)) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => None,
                _ => Some(error),
            },
            Self::Dial(error) => error.source(),
            Self::Own(error) => Some(error),
            Self::Body(error) => Some(error.as_ref()),
            Self::Refused { .. } | Self::Request | Self::Late | Self::Ended => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_not_waited_for_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("silent");
        let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
        // Time that nobody uses is skipped.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let client = Client { runtime, to: Peer::Socket(path), token: None };
        let begun = client.runtime.block_on(async { tokio::time::Instant::now() });
        let answer = client.ask(Ask { method: Method::GET, path: "/", replaces: None, body: Vec::new() });
        assert!(matches!(answer, Err(ClientError::Late)));
        assert_eq!(client.runtime.block_on(async { begun.elapsed() }), limits::CTL_TIME);
    }
}
