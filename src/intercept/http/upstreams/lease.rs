//! One upstream connection, as one request uses it: opening, sending, and telling when the exchange is whole.

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as Asking, Poll, Waker};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response, Version};
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::flow::{Alpn, Scheme};
use crate::intercept::Context;
use crate::intercept::upstream::{DialError, Dialled};
use crate::intercept::workers::{Lane, Task};
use crate::limits;
use crate::policy::verdict::Permit;
use crate::sandbox::Snapshot;

use super::super::arriving::{Arriving, Broken};
use super::super::gather::{Gathered, gather};
use super::super::interim::Hearing;
use super::super::local::{Local, Spawner};
use super::super::payload::Payload;
use super::super::streams::{FRAME, SendError, ask};
use super::{Kind, Lease};

/// What an HTTP/2 upstream may send unasked on one stream, and on one connection.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;
/// How many streams the library takes an HTTP/2 upstream to allow, until the settings come that say it: none can say
/// this. It is [`limits::UPSTREAM_STREAMS`] that bounds them.
const NOT_SET: usize = usize::MAX - 1;
/// Bytes of requests' bodies that wait for the connection on one HTTP/2 stream.
const SEND_BUFFER: usize = 256 * 1024;

/// How a request reaches its upstream.
pub(super) enum Link {
    /// Over HTTP/1, which it has to itself.
    Exclusive(Exclusive),
    /// As one stream of HTTP/2.
    Stream(Arc<Stream>),
}

/// An HTTP/1 connection.
pub(super) struct Exclusive {
    sender: http1::SendRequest<Payload>,
    driver: Arc<Driver>,
}

/// An HTTP/2 connection.
pub(super) struct Shared {
    driver: Driver,
    /// Runs, in the driver, what is still being sent on its streams.
    spawner: Spawner,
    streams: Mutex<Streams>,
    /// Whether the upstream takes WebSockets on its streams, once its settings have come (RFC 8441 §3).
    websockets: watch::Receiver<Option<bool>>,
}

/// The streams of an HTTP/2 connection.
struct Streams {
    /// Opens them.
    sender: SendRequest<Bytes>,
    open: usize,
    /// When the last one ended.
    since: Instant,
    /// It takes no more.
    retired: bool,
}

/// One stream's share of an HTTP/2 connection.
pub(super) struct Stream(Arc<Shared>);

/// The task that moves a connection's bytes, and whom these reach; ends with its last user.
struct Driver {
    task: Option<Task>,
    peer: SocketAddr,
}

impl Drop for Driver {
    /// Whoever drops it may hold a lock, or be on another thread.
    fn drop(&mut self) {
        self.task.take().into_iter().for_each(Task::end);
    }
}

impl Link {
    /// Opens a connection.
    ///
    /// # Errors
    /// As dialling.
    pub(super) async fn open(
        lane: &Lane,
        ctx: &Context,
        permit: &Permit,
        snapshot: &Snapshot,
        kind: Kind,
    ) -> Result<Self, DialError> {
        let host = ctx.host.load_full();
        let multiplexed = kind.version == Version::HTTP_2;
        match kind.scheme {
            Scheme::Http => {
                let Dialled { io, peer } = ctx.upstream.dial(permit, snapshot, &host).await?;
                Self::handshake(lane, io, peer, multiplexed).await
            }
            Scheme::Https => {
                let offer: &[Alpn] = if multiplexed { &[Alpn::Http2, Alpn::Http1] } else { &[Alpn::Http1] };
                let Dialled { io, peer } = ctx.upstream.dial_tls(permit, snapshot, &host, offer).await?;
                let chosen = io.session().alpn_protocol() == Some(b"h2");
                Self::handshake(lane, io, peer, multiplexed && chosen).await
            }
        }
    }

    pub(super) async fn handshake<Io>(lane: &Lane, io: Io, peer: SocketAddr, http2: bool) -> Result<Self, DialError>
    where
        Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let broken = |error: Box<dyn Error + Send + Sync>| DialError::Io(io::Error::other(error));
        if http2 {
            let (io, gate) = gather(io);
            let handshake = settings().handshake(io).await;
            let (sender, connection) = handshake.map_err(|error| broken(error.into()))?;
            let (told, websockets) = watch::channel(None);
            let spawner = Spawner::default();
            let driving = drive(Local::new(connection, gate, spawner.clone()), sender.clone(), told);
            let streams = Mutex::new(Streams { sender, open: 1, since: Instant::now(), retired: false });
            let shared =
                Shared { driver: Driver { task: Some(lane.spawn(driving)), peer }, spawner, streams, websockets };
            return Ok(Self::Stream(Arc::new(Stream(Arc::new(shared)))));
        }
        let handshake = http1::Builder::new().max_buf_size(2 * limits::HEAD_BYTES).handshake(TokioIo::new(io)).await;
        let (sender, connection) = handshake.map_err(|error| broken(error.into()))?;
        let connection = connection.with_upgrades();
        let driver = Arc::new(Driver { task: Some(lane.spawn(async { drop(connection.await) })), peer });
        Ok(Self::Exclusive(Exclusive { sender, driver }))
    }
}

/// What we tell an HTTP/2 upstream, and what we take from it.
fn settings() -> h2::client::Builder {
    let mut settings = h2::client::Builder::new();
    settings
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(limits::HEAD_BYTES as u32)
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(NOT_SET);
    settings
}

/// Moves the bytes of an HTTP/2 connection until it ends, and tells what its upstream's settings say, once they have
/// come.
async fn drive<Io: AsyncRead + AsyncWrite + Unpin>(
    mut local: Local<h2::client::Connection<Gathered<Io>, Bytes>, Io>,
    sender: SendRequest<Bytes>,
    told: watch::Sender<Option<bool>>,
) {
    let mut untold = Some((sender, told));
    poll_fn(|cx| {
        let polled = Pin::new(&mut local).poll(cx);
        let have_come = |(sender, _): &mut (SendRequest<Bytes>, _)| sender.current_max_send_streams() != NOT_SET;
        if let Some((sender, told)) = untold.take_if(have_come) {
            told.send_replace(Some(sender.is_extended_connect_protocol_enabled()));
        }
        polled.map(drop)
    })
    .await;
}

impl Lease {
    /// Waits until it is known that a WebSocket may be asked for on this connection.
    ///
    /// # Errors
    /// It may not, or nothing is said of it.
    pub(super) async fn takes_websockets(&self) -> Result<(), DialError> {
        let Link::Stream(stream) = &self.link else { return Ok(()) };
        let mut websockets = stream.0.websockets.clone();
        let told = timeout(limits::UPSTREAM_HANDSHAKE_TIME, websockets.wait_for(Option::is_some)).await;
        match told.map(|told| told.map(|takes| *takes)) {
            Ok(Ok(Some(true))) => Ok(()),
            Ok(Ok(_)) => Err(DialError::NoWebSockets),
            Ok(Err(_)) => Err(DialError::Io(io::ErrorKind::ConnectionAborted.into())),
            Err(_) => Err(DialError::Io(io::ErrorKind::TimedOut.into())),
        }
    }

    /// What this connection speaks.
    pub(in crate::intercept::http) fn version(&self) -> Version {
        match self.link {
            Link::Exclusive(_) => Version::HTTP_11,
            Link::Stream(_) => Version::HTTP_2,
        }
    }

    /// Sends one request; `hearing` gets what comes before its answer.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(in crate::intercept::http) async fn send(
        &mut self,
        mut request: Request<Payload>,
        hearing: Option<&Hearing>,
    ) -> Result<Response<Arriving>, SendError> {
        match &mut self.link {
            Link::Exclusive(connection) => {
                hearing.inspect(|hearing| hearing.listen(&mut request));
                let sent = connection.sender.try_send_request(request).await;
                sent.map(|response| response.map(Arriving::Message)).map_err(|mut error: TrySendError<_>| {
                    match error.take_message() {
                        Some(request) => SendError::Unsent(Box::new(request)),
                        None => SendError::Broken(Broken::Message(error.into_error())),
                    }
                })
            }
            Link::Stream(stream) => {
                let sender = stream.0.streams().sender.clone();
                ask(sender, request, &stream.0.spawner, hearing).await
            }
        }
    }

    /// No further request uses this connection.
    pub(in crate::intercept::http) fn retire(&self) {
        if let Link::Stream(stream) = &self.link {
            stream.0.streams().retired = true;
        }
    }

    /// What the request's body holds, so that its connection lives until all of it has been sent.
    pub(in crate::intercept::http) fn sending(&self) -> (Sending, Sent) {
        let user = match &self.link {
            Link::Exclusive(connection) => User::Exclusive(Arc::clone(&connection.driver)),
            Link::Stream(stream) => User::Stream(Arc::clone(stream)),
        };
        let sent = Sent::default();
        (Sending { sent: sent.clone(), _user: user }, sent)
    }

    /// What the answer's body holds; with its last byte the connection goes back to the pool.
    pub(in crate::intercept::http) fn returning(self, sent: Sent) -> Returning {
        Returning { lease: Some(self), sent }
    }
}

/// Whether a request has gone to its last byte.
#[derive(Clone, Default)]
pub(in crate::intercept::http) struct Sent(Arc<AtomicBool>);

/// Held by a request's body.
pub(in crate::intercept::http) struct Sending {
    sent: Sent,
    _user: User,
}

/// Keeps a connection open.
#[expect(dead_code, reason = "what they keep open is what they are for")]
enum User {
    Exclusive(Arc<Driver>),
    Stream(Arc<Stream>),
}

impl Sending {
    /// No more of the request is read; `whole` if all of it was.
    pub(in crate::intercept::http) fn ended(&self, whole: bool) {
        self.sent.0.store(whole, Ordering::Release);
    }
}

/// Held by an answer's body.
pub(in crate::intercept::http) struct Returning {
    lease: Option<Lease>,
    sent: Sent,
}

impl Returning {
    /// No more of the answer is read; `whole` if all of it was.
    pub(in crate::intercept::http) fn ended(&mut self, whole: bool) {
        if let Some(lease) = self.lease.take()
            && whole
            && self.sent.0.load(Ordering::Acquire)
        {
            lease.give_back();
        }
    }
}

impl Exclusive {
    pub(super) fn peer(&self) -> SocketAddr {
        self.driver.peer
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Ready when the last exchange is over, also for the connection's task; `false` if that ended it.
    pub(super) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }
}

impl Shared {
    pub(super) fn peer(&self) -> SocketAddr {
        self.driver.peer
    }

    /// Whether it takes no further stream.
    pub(super) fn is_closed(&self) -> bool {
        let mut streams = self.streams();
        streams.retired
            || matches!(streams.sender.poll_ready(&mut Asking::from_waker(Waker::noop())), Poll::Ready(Err(_)))
    }

    /// Since when no stream is open.
    pub(super) fn unused_since(&self) -> Option<Instant> {
        let streams = self.streams();
        (streams.open == 0).then_some(streams.since)
    }

    /// One more stream, if it takes one.
    pub(super) fn stream(self: &Arc<Self>) -> Option<Arc<Stream>> {
        let mut streams = self.streams();
        let takes = streams.open < limits::UPSTREAM_STREAMS && !streams.retired;
        takes.then(|| {
            streams.open += 1;
            Arc::new(Stream(Arc::clone(self)))
        })
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    pub(super) fn connection(&self) -> Arc<Shared> {
        Arc::clone(&self.0)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut streams = self.0.streams();
        streams.open -= 1;
        streams.since = Instant::now();
    }
}
