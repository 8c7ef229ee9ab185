//! The upstream connections of one connection of the sandbox: opened under a permit, used again while it is the same
//! origin under the same generation of the policy.
//!
//! Nothing is shared between two connections of a sandbox, let alone between two sandboxes (ATTACKS G71); only
//! `intercept::upstream` dials. It never judges.
//!
//! - `INVARIANT`: a connection is used again only for the target and the generation that it was opened for.
//! - `INVARIANT`: dropping the last user of a connection closes it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::flow::{Alpn, Scheme};
use crate::intercept::Context;
use crate::intercept::upstream::DialError;
use crate::limits;
use crate::policy::verdict::{Permit, Target};
use crate::sandbox::Snapshot;

use super::payload::Payload;

/// How long the connection of the last exchange may take to be free again before another is opened.
const TURN: Duration = Duration::from_millis(250);
/// What an HTTP/2 upstream may send unasked on one stream, and on one connection.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// The connections that are open.
#[derive(Default)]
pub(super) struct Upstreams {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    key: Option<Key>,
    /// Whether the origin chose HTTP/1.1 where HTTP/2 was offered: then each stream needs its own connection.
    single: bool,
    shared: Option<Lease>,
    idle: Vec<Lease>,
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    target: Target,
    generation: u64,
}

/// A connection that a request may use.
pub(super) struct Lease {
    sender: Sender,
    driver: Arc<Driver>,
}

enum Sender {
    Http1(http1::SendRequest<Payload>),
    Http2(http2::SendRequest<Payload>),
}

/// The task that moves a connection's bytes; ends with its last user.
pub(super) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What kind of connection is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// As the sandbox speaks: over TLS or in clear.
    pub(super) scheme: Scheme,
    /// As the sandbox speaks: HTTP/2 is offered to an origin only for an HTTP/2 client.
    pub(super) version: Version,
}

/// Why a request was not answered by its origin.
pub(super) enum SendError {
    /// The connection was gone before the request was on it; the request comes back.
    Unsent(Box<Request<Payload>>),
    /// It broke.
    Broken(hyper::Error),
}

impl Upstreams {
    /// A connection to the permit's target: one that is free, or a new one.
    ///
    /// # Errors
    /// As dialling.
    pub(super) async fn lease(
        &self,
        ctx: &Context,
        permit: &Permit,
        snapshot: &Snapshot,
        wanted: Wanted,
    ) -> Result<Lease, DialError> {
        let key = Key { target: permit.target().clone(), generation: snapshot.generation };
        let mut open = self.open.lock().await;
        if open.key.as_ref() != Some(&key) {
            *open = Open { key: Some(key.clone()), ..Open::default() };
        }
        if let Some(lease) = open.take(wanted.version == Version::HTTP_2).await {
            return Ok(lease);
        }
        // Streams that arrive together wait for the first dial: it may bring a connection for them all.
        let turn: Option<MutexGuard<'_, Open>> = if open.single { None } else { Some(open) };
        let lease = Lease::open(ctx, permit, snapshot, wanted).await?;
        if let Some(mut open) = turn {
            match &lease.sender {
                Sender::Http1(_) => open.single = true,
                Sender::Http2(_) => open.shared = lease.share(),
            }
        }
        Ok(lease)
    }

    /// Closes every connection that no request is using.
    pub(super) async fn close(&self) {
        *self.open.lock().await = Open::default();
    }

    /// Uses a shared connection no more: it takes no new streams.
    pub(super) async fn forget_shared(&self) {
        self.open.lock().await.shared = None;
    }

    /// Gives a connection back for the next request, which may use it once its exchange is complete. One that is shared
    /// was never taken away.
    pub(super) async fn give_back(&self, lease: Lease, permit: &Permit, generation: u64) {
        if lease.version() == Version::HTTP_2 {
            return;
        }
        let mut open = self.open.lock().await;
        if open.key.as_ref().is_some_and(|key| key.target == *permit.target() && key.generation == generation) {
            open.idle.push(lease);
        }
    }
}

impl Open {
    async fn take(&mut self, multiplexed: bool) -> Option<Lease> {
        if let Some(lease) = self.shared.as_ref().and_then(Lease::share) {
            return Some(lease);
        }
        self.shared = None;
        self.idle.retain(|lease| !lease.is_closed());
        if let Some(at) = self.idle.iter().position(Lease::is_ready) {
            return Some(self.idle.swap_remove(at));
        }
        if multiplexed {
            return None;
        }
        // An HTTP/1 client waits for one answer before its next request counts: the exchange is over, and only the
        // connection's task has yet to notice.
        let mut lease = self.idle.pop()?;
        timeout(TURN, lease.ready()).await.is_ok_and(|ready| ready).then_some(lease)
    }
}

impl Lease {
    async fn open(ctx: &Context, permit: &Permit, snapshot: &Snapshot, wanted: Wanted) -> Result<Self, DialError> {
        let host = ctx.host.load_full();
        let multiplexed = wanted.version == Version::HTTP_2;
        match wanted.scheme {
            Scheme::Http => {
                let io = ctx.upstream.dial(permit, snapshot, &host).await?;
                Self::handshake(io, multiplexed).await
            }
            Scheme::Https => {
                let offer: &[Alpn] = if multiplexed { &[Alpn::Http2, Alpn::Http1] } else { &[Alpn::Http1] };
                let io = Box::new(ctx.upstream.dial_tls(permit, snapshot, &host, offer).await?);
                let chosen = io.get_ref().1.alpn_protocol() == Some(b"h2");
                Self::handshake(io, multiplexed && chosen).await
            }
        }
    }

    async fn handshake<Io>(io: Io, http2: bool) -> Result<Self, DialError>
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(io);
        let broken = |error: hyper::Error| DialError::Io(io::Error::other(error));
        if http2 {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(limits::HEAD_BYTES as u32)
                .handshake(io)
                .await
                .map_err(broken)?;
            let driver = tokio::spawn(async { drop(connection.await) });
            return Ok(Self { sender: Sender::Http2(sender), driver: Arc::new(Driver(driver)) });
        }
        let (sender, connection) = http1::Builder::new()
            .max_headers(limits::HEAD_FIELDS)
            .max_buf_size(2 * limits::HEAD_BYTES)
            .handshake(io)
            .await
            .map_err(broken)?;
        let connection = connection.with_upgrades();
        let driver = tokio::spawn(async { drop(connection.await) });
        Ok(Self { sender: Sender::Http1(sender), driver: Arc::new(Driver(driver)) })
    }

    /// What this connection speaks.
    pub(super) fn version(&self) -> Version {
        match self.sender {
            Sender::Http1(_) => Version::HTTP_11,
            Sender::Http2(_) => Version::HTTP_2,
        }
    }

    /// Keeps the connection alive for as long as it is held.
    pub(super) fn driver(&self) -> Arc<Driver> {
        Arc::clone(&self.driver)
    }

    /// Sends one request.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(super) async fn send(&mut self, request: Request<Payload>) -> Result<Response<Incoming>, SendError> {
        let sent = match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error: TrySendError<_>| match error.take_message() {
            Some(request) => SendError::Unsent(Box::new(request)),
            None => SendError::Broken(error.into_error()),
        })
    }

    /// Another user of an HTTP/2 connection.
    fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http2(sender) if !sender.is_closed() => {
                Some(Self { sender: Sender::Http2(sender.clone()), driver: Arc::clone(&self.driver) })
            }
            _ => None,
        }
    }

    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    fn is_ready(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_ready(),
            Sender::Http2(sender) => sender.is_ready(),
        }
    }

    async fn ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }
}
