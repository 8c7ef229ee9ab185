//! A door of the control API: connections of one listener in, each bounded in number and time, and who may ask.
//!
//! It accepts, does the TLS handshake and looks at the token; what is asked is not its matter. What it lets in with is
//! replaced whole by [`Door::change`], and counts from the next request on.
//!
//! - `INVARIANT`: where a door wants a token or a certificate, nobody without it gets any answer but 401, whatever the
//!   path; how long that takes tells nothing of the token.
//! - `INVARIANT`: an accept that fails closes no door: it is tried again.
//! - `INVARIANT`: no token is kept, only its digest.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::limits;

/// What a token, or a file of issuers, is known by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut kept = [0; 32];
        kept.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Self(kept)
    }

    /// Whether it is of these bytes. Digests are compared, byte by byte to the end, so that time tells nothing.
    fn is_of(&self, bytes: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, &Self::of(bytes).0).is_ok()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

/// What a door lets in with. By default anybody: whoever can write to a Unix socket may.
#[derive(Debug, Clone, Default)]
pub struct Lock {
    /// TLS, where it is spoken. Certificates of clients are asked for by its own verifier.
    pub tls: Option<Arc<ServerConfig>>,
    /// Which issuers of clients' certificates count, where any do: connections under others are over.
    pub issuers: Option<Digest>,
    /// What a request must bring.
    pub token: Option<Digest>,
}

/// Tells doors when to rest.
#[derive(Debug, Clone)]
pub struct Rest(watch::Receiver<bool>);

/// Both ends: what is sent `true`, or dropped, has them rest.
#[must_use]
pub fn rest() -> (watch::Sender<bool>, Rest) {
    let (sender, receiver) = watch::channel(false);
    (sender, Rest(receiver))
}

impl Rest {
    async fn begun(&mut self) {
        // An error means that the other side was dropped.
        let _ = self.0.wait_for(|rest| *rest).await;
    }
}

/// See the module's doc.
#[derive(Default)]
pub struct Door {
    lock: ArcSwap<Lock>,
}

impl Door {
    /// A door with this lock.
    #[must_use]
    pub fn new(lock: Lock) -> Self {
        Self { lock: ArcSwap::from_pointee(lock) }
    }

    /// Changes the lock, also for connections that are open.
    pub fn change(&self, lock: Lock) {
        self.lock.store(Arc::new(lock));
    }

    /// Serves what comes to a listener until it is to rest; ready when all that was asked before is answered. Who comes
    /// later waits in the listener, if somebody else has it.
    pub async fn serve<L: Listener>(self: Arc<Self>, mut listener: L, router: Router, mut rest: Rest) {
        let slots = Arc::new(Semaphore::new(limits::CONTROL_CONNECTIONS));
        loop {
            let arrival = async {
                // Slots are never closed, so there is always one to wait for.
                let slot = Arc::clone(&slots).acquire_owned().await;
                (listener.accept().await.0, slot)
            };
            let (io, slot) = tokio::select! {
                biased;
                () = rest.begun() => break,
                arrival = arrival => arrival,
            };
            let connection = Arc::clone(&self).connection(io, router.clone(), rest.clone());
            tokio::spawn(async move {
                connection.await;
                drop(slot);
            });
        }
        drop(listener);
        // As above.
        let _ = slots.acquire_many(u32::try_from(limits::CONTROL_CONNECTIONS).unwrap_or(u32::MAX)).await;
    }

    async fn connection(
        self: Arc<Self>,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        router: Router,
        rest: Rest,
    ) {
        let Lock { tls, issuers, token: _ } = Lock::clone(&self.lock.load());
        let Some(config) = tls else { return self.converse(io, issuers, router, rest).await };
        let handshake = TlsAcceptor::from(config).accept(io);
        // A client that fails has been told by an alert.
        if let Ok(Ok(io)) = timeout(limits::CONTROL_HANDSHAKE_TIME, handshake).await {
            self.converse(io, issuers, router, rest).await;
        }
    }

    /// Answers request after request. `issuers` are those by which the client was let in.
    async fn converse<Io>(self: Arc<Self>, io: Io, issuers: Option<Digest>, router: Router, mut rest: Rest)
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answers = TowerToHyperService::new(router);
        let asked = Arc::new(Notify::new());
        let is_asked = Arc::clone(&asked);
        let service = service_fn(move |request: Request<Incoming>| {
            is_asked.notify_one();
            self.answer(&answers, issuers, request)
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(limits::CONTROL_HEAD_TIME);
        server.max_header_size(limits::CONTROL_HEAD_BYTES);
        let mut connection = pin!(server.serve_connection(TokioIo::new(io), service));
        // It ends when the client goes away, or says what cannot be understood, which it has been told.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = rest.begun() => {}
        }
        // Who has just come is about to ask: to be closed on would be a refusal.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = asked.notified() => {}
            () = sleep(limits::LINGER) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }

    fn answer(
        &self,
        answers: &TowerToHyperService<Router>,
        issuers: Option<Digest>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
        let refused = refusal(&self.lock.load(), issuers, request.headers());
        let answer = refused.is_none().then(|| answers.call(request));
        async move {
            match (answer, refused) {
                (Some(answer), _) => answer.await,
                (None, refused) => Ok(unauthorized(refused.unwrap_or_default())),
            }
        }
    }
}

/// Why a request is not answered, if it is not.
fn refusal(lock: &Lock, issuers: Option<Digest>, headers: &HeaderMap) -> Option<&'static str> {
    if lock.issuers.is_some() && lock.issuers != issuers {
        return Some("the issuers of clients' certificates have changed: connect again");
    }
    let token = lock.token.as_ref()?;
    let bearer = |value: &HeaderValue| bearer(value.as_bytes()).is_some_and(|given| token.is_of(given));
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    match (given.next(), given.next()) {
        (Some(one), None) if bearer(one) => None,
        (None, _) => Some("send the token: `authorization: Bearer …`"),
        _ => Some("this is not the token"),
    }
}

/// The token of an `authorization` header (RFC 6750 §2.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii_start())
}

/// The answer to whoever may not ask (POLICY §9). Nothing more is read of them.
fn unauthorized(message: &str) -> Response<Body> {
    let body = axum::Json(json!({ "error": { "code": "unauthorized", "message": message } }));
    let headers = [(header::WWW_AUTHENTICATE, "Bearer"), (header::CONNECTION, "close")];
    (StatusCode::UNAUTHORIZED, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::mpsc;

    use super::*;

    /// Hands out what it is sent.
    struct Doorstep(mpsc::UnboundedReceiver<DuplexStream>);

    impl Listener for Doorstep {
        type Io = DuplexStream;
        type Addr = ();

        async fn accept(&mut self) -> (DuplexStream, ()) {
            match self.0.recv().await {
                Some(io) => (io, ()),
                None => std::future::pending().await,
            }
        }

        fn local_addr(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Street {
        connect: mpsc::UnboundedSender<DuplexStream>,
        /// Dropped, it has the door rest.
        _open: watch::Sender<bool>,
    }

    impl Street {
        fn of(door: &Arc<Door>) -> Self {
            let (send, receive) = mpsc::unbounded_channel();
            let router = Router::new().route("/", axum::routing::get(|| async { "answered" }));
            let (stop, rest) = super::rest();
            tokio::spawn(Arc::clone(door).serve(Doorstep(receive), router, rest));
            Self { connect: send, _open: stop }
        }

        fn connect(&self) -> DuplexStream {
            let (ours, theirs) = duplex(64 * 1024);
            self.connect.send(theirs).unwrap();
            ours
        }
    }

    async fn ask(io: &mut DuplexStream, headers: &str) -> String {
        io.write_all(format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n").as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = io.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    fn locked(token: &str) -> Lock {
        Lock { token: Some(Digest::of(token.as_bytes())), ..Lock::default() }
    }

    #[tokio::test]
    async fn without_the_token_there_is_no_answer() {
        let street = Street::of(&Arc::new(Door::new(locked("a-token-of-ours-1"))));
        for refused in [
            "",
            "authorization: Bearer a-token-of-ours-2\r\n",
            "authorization: Bearer a-token-of-ours-\r\n",
            "authorization: Bearer \r\n",
            "authorization: Basic a-token-of-ours-1\r\n",
            "authorization: Bearer a-token-of-ours-1\r\nauthorization: Bearer a-token-of-ours-1\r\n",
        ] {
            let answer = ask(&mut street.connect(), refused).await;
            assert!(answer.starts_with("HTTP/1.1 401 "), "{refused}: {answer}");
            assert!(answer.contains("\"code\":\"unauthorized\"") && answer.contains("www-authenticate: Bearer"));
        }
        for let_in in ["authorization: Bearer a-token-of-ours-1\r\n", "Authorization: bearer  a-token-of-ours-1\r\n"] {
            let answer = ask(&mut street.connect(), let_in).await;
            assert!(answer.ends_with("answered"), "{let_in}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_lock_that_changes_counts_for_what_is_open() {
        let door = Arc::new(Door::new(locked("a-token-of-ours-1")));
        let street = Street::of(&door);
        let mut open = street.connect();
        assert!(ask(&mut open, "authorization: Bearer a-token-of-ours-1\r\n").await.ends_with("answered"));
        door.change(locked("a-token-of-ours-2"));
        assert!(ask(&mut open, "authorization: Bearer a-token-of-ours-1\r\n").await.contains(" 401 "));
        let mut open = street.connect();
        assert!(ask(&mut open, "authorization: Bearer a-token-of-ours-2\r\n").await.ends_with("answered"));
        // Whoever was let in by the certificate of an issuer that counts no more.
        door.change(Lock { issuers: Some(Digest::of(b"others")), ..locked("a-token-of-ours-2") });
        let answer = ask(&mut open, "authorization: Bearer a-token-of-ours-2\r\n").await;
        assert!(answer.contains(" 401 ") && answer.contains("connect again"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_bounded_in_number_and_silence() {
        let street = Street::of(&Arc::new(Door::default()));
        let silent: Vec<_> = (0..limits::CONTROL_CONNECTIONS).map(|_| street.connect()).collect();
        let mut late = street.connect();
        let begun = tokio::time::Instant::now();
        assert!(ask(&mut late, "").await.ends_with("answered"));
        assert_eq!(begun.elapsed(), limits::CONTROL_HEAD_TIME, "it waited for the silent ones");
        drop(silent);
    }

    #[tokio::test]
    async fn a_head_is_bounded() {
        let street = Street::of(&Arc::new(Door::default()));
        let header = format!("x: {}\r\n", "y".repeat(limits::CONTROL_HEAD_BYTES));
        assert!(ask(&mut street.connect(), &header).await.starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_is_bounded() {
        let config = crate::tls::server()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        let lock = Lock { tls: Some(Arc::new(config)), ..Lock::default() };
        let street = Street::of(&Arc::new(Door::new(lock)));
        let mut open = street.connect();
        let begun = tokio::time::Instant::now();
        assert_eq!(open.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(begun.elapsed(), limits::CONTROL_HANDSHAKE_TIME);
    }

    #[tokio::test]
    async fn at_rest_what_was_asked_is_answered_and_nobody_is_let_in() {
        let (send, receive) = mpsc::unbounded_channel();
        let (asked, answer) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let (is_asked, may_answer) = (Arc::clone(&asked), Arc::clone(&answer));
        let slow = axum::routing::get(|| async move {
            is_asked.notify_one();
            may_answer.notified().await;
            "answered"
        });
        let (stop, rest) = super::rest();
        let door =
            tokio::spawn(Arc::new(Door::default()).serve(Doorstep(receive), Router::new().route("/", slow), rest));
        let connect = || {
            let (ours, theirs) = duplex(64 * 1024);
            // It fails once nobody takes it any more.
            let _ = send.send(theirs);
            ours
        };
        let (mut open, mut late, mut idle) = (connect(), connect(), connect());
        let request = tokio::spawn(async move { ask(&mut open, "").await });
        asked.notified().await;
        stop.send_replace(true);
        let late = tokio::spawn(async move { ask(&mut late, "").await });
        asked.notified().await;
        assert_eq!(idle.read(&mut [0; 9]).await.unwrap(), 0, "a connection that asks nothing is closed");
        answer.notify_one();
        assert!(request.await.unwrap().ends_with("answered"));
        answer.notify_one();
        assert!(late.await.unwrap().ends_with("answered"), "who has just come may ask");
        door.await.unwrap();
        assert_eq!(connect().read(&mut [0; 9]).await.unwrap(), 0);
    }
}
