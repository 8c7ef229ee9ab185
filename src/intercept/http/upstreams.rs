//! The upstream connections of one sandbox on one thread: opened under a permit, kept for a while, and used again by
//! whichever of the sandbox's connections there next has a request for the same origin.
//!
//! It owns which request may use which connection, and how long one is kept; only `intercept::upstream` dials. It never
//! judges: whether an address may still be used it asks the policy, as dialling does.
//!
//! - `INVARIANT`: a pool is one sandbox's; no connection, and no state of one, reaches another (ATTACKS G71).
//! - `INVARIANT`: a connection is used again only under the [`Key`] that it was opened under: generation, scheme and
//!   version, target and credentials (POLICY §8), which a certificate that the origin is shown is one of.
//! - `INVARIANT`: before each use its address is vetted by the policy and the protected ranges of that moment.
//! - `INVARIANT`: an HTTP/1 connection is kept only after a whole exchange: the request's last byte has gone, the
//!   answer's last byte has come, and nothing beyond it. What comes unasked ends it, so no answer is taken for another
//!   request's.
//! - `INVARIANT`: of connections that nobody uses, at most [`limits::UPSTREAM_KEPT_EACH`] are kept for a key and
//!   [`limits::UPSTREAM_KEPT`] in all, each for [`limits::UPSTREAM_IDLE`] or a little more.
//! - `INVARIANT`: when a push of a policy is settled, no unused connection of an earlier generation is left.

mod lease;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Version;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::flow::{Scheme, SecretName};
use crate::intercept::Context;
use crate::intercept::upstream::DialError;
use crate::intercept::upstream::certificates::Shown;
use crate::intercept::workers::Lane;
use crate::limits;
use crate::policy::signing::Signing;
use crate::policy::verdict::{Injection, Permit, Target, Verdict};
use crate::sandbox::{Changes, Sandbox, Snapshot};

use lease::{Exclusive, Link, Shared};
pub(super) use lease::{Returning, Sending, Sent};

/// How long a connection whose exchange is over may take to notice, before another is opened.
const TURN: Duration = Duration::from_millis(250);
/// How often unused connections are looked at.
const SWEEP: Duration = Duration::from_secs(limits::UPSTREAM_IDLE.as_secs() / 5);

/// The pool.
pub(in crate::intercept) struct Upstreams {
    /// Where its connections' tasks run, as its users' do.
    lane: Lane,
    stock: Mutex<Stock>,
    /// Told when there is something to look after.
    stocked: Notify,
}

/// What a connection is for; it is used for nothing else.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    generation: u64,
    kind: Kind,
    target: Target,
    credentials: Arc<[Injection]>,
    lent: Vec<SecretName>,
    shown: Option<Shown>,
    signing: Option<Arc<Signing>>,
}

impl Key {
    fn new(ctx: &Context, permit: &Permit, snapshot: &Snapshot, kind: Kind) -> Result<Self, DialError> {
        let (target, credentials) = (permit.target().clone(), permit.credentials());
        let shown = match kind.scheme {
            Scheme::Https => ctx.upstream.shown(permit)?,
            Scheme::Http => None,
        };
        let signing = permit.signing().cloned();
        let lent = permit.lent();
        Ok(Self { generation: snapshot.generation, kind, target, credentials, lent, signing, shown })
    }
}

/// What tells most keys apart; the rest is long, and compared.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.generation, self.kind, &self.target).hash(state);
    }
}

#[derive(Default)]
struct Stock {
    /// The latest generation that is known; nothing of an earlier one is kept.
    generation: u64,
    shelves: HashMap<Key, Shelf>,
    /// How many unused HTTP/1 connections there are on all of them.
    kept: usize,
}

/// The connections of one key.
#[derive(Default)]
struct Shelf {
    /// HTTP/1, unused; the last used last.
    kept: Vec<Kept>,
    /// HTTP/2, in use or not.
    shared: Vec<Arc<Shared>>,
    /// What the origin speaks alone: HTTP/1.1, which it chose where HTTP/2 was offered, so that each stream needs its
    /// own connection; or HTTP/2, where it refused HTTP/1.1.
    alone: Option<Version>,
    /// Held by whoever dials, where one connection may do for all.
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct Kept {
    connection: Exclusive,
    since: Instant,
}

/// What a connection is wanted for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// A request that is answered.
    Answer(Kind),
    /// One that opens a WebSocket.
    WebSocket(Kind),
}

/// What kind of connection is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    /// As the sandbox speaks: over TLS or in clear.
    pub(super) scheme: Scheme,
    /// As the sandbox speaks: HTTP/2 is offered to an origin only for an HTTP/2 client, or where HTTP/1.1 was refused.
    pub(super) version: Version,
}

impl Kind {
    fn over(self, version: Version) -> Self {
        Self { version, ..self }
    }
}

/// A connection that one request may use.
pub(super) struct Lease {
    link: Link,
    pool: Arc<Upstreams>,
    key: Key,
}

impl Upstreams {
    /// An empty pool, for whoever runs in this lane.
    pub(in crate::intercept) fn new(lane: Lane) -> Self {
        Self { lane, stock: Mutex::default(), stocked: Notify::new() }
    }

    /// Where its users run.
    pub(in crate::intercept) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// A connection to the permit's target: one that is kept, or a new one. For HTTP/1 clients and WebSockets it is
    /// over HTTP/1.1, or, where the origin refuses that, over HTTP/2, for a WebSocket if the origin takes them there.
    /// In clear nothing is refused: a WebSocket goes as its client asks, or, if that is of no use, over HTTP/1.1.
    ///
    /// # Errors
    /// As dialling.
    pub(super) async fn lease(
        self: &Arc<Self>,
        ctx: &Context,
        permit: &Permit,
        snapshot: &Snapshot,
        wanted: Wanted,
    ) -> Result<Lease, DialError> {
        let (kind, switches) = match wanted {
            Wanted::Answer(kind) => (kind, false),
            Wanted::WebSocket(kind) => (kind, true),
        };
        let [http1, http2] = [Version::HTTP_11, Version::HTTP_2].map(|version| kind.over(version));
        let over_http1 = self.lease_kind(ctx, permit, snapshot, http1);
        let over_http2 = async {
            let lease = self.lease_kind(ctx, permit, snapshot, http2).await?;
            if switches {
                lease.takes_websockets().await?;
            }
            Ok(lease)
        };
        if kind == http2 && !switches {
            return over_http2.await;
        }
        if kind == http2 && kind.scheme == Scheme::Http {
            return match over_http2.await {
                Err(DialError::NoWebSockets | DialError::Io(_)) => over_http1.await,
                leased => leased,
            };
        }
        if self.stock().refuses_http1(&Key::new(ctx, permit, snapshot, http2)?) {
            return over_http2.await;
        }
        match over_http1.await {
            Err(error) if error.is_of_alpn() => {
                let lease = over_http2.await?;
                self.stock().note_refusal(&lease.key);
                Ok(lease)
            }
            leased => leased,
        }
    }

    async fn lease_kind(
        self: &Arc<Self>,
        ctx: &Context,
        permit: &Permit,
        snapshot: &Snapshot,
        kind: Kind,
    ) -> Result<Lease, DialError> {
        let key = Key::new(ctx, permit, snapshot, kind)?;
        let link = match self.kept(&key, ctx, permit, snapshot).await {
            Some(link) => link,
            None if kind.version == Version::HTTP_2 => self.open_for_all(&key, ctx, permit, snapshot).await?,
            None => Link::open(&self.lane, ctx, permit, snapshot, kind).await?,
        };
        Ok(Lease { link, pool: Arc::clone(self), key })
    }

    /// The same, where it is the first choice and takes no waiting.
    pub(super) fn lease_now(
        self: &Arc<Self>,
        ctx: &Context,
        permit: &Permit,
        snapshot: &Snapshot,
        wanted: Wanted,
    ) -> Option<Lease> {
        let kind = match wanted {
            Wanted::Answer(kind) => kind,
            Wanted::WebSocket(kind) => kind.over(Version::HTTP_11),
        };
        let key = Key::new(ctx, permit, snapshot, kind).ok()?;
        let host = ctx.host.load();
        let vetted = |peer| matches!(snapshot.policy.vet(peer, permit, &host), Verdict::Allow(_));
        let mut stock = self.stock();
        let link = stock.share(&key, vetted).or_else(|| stock.take_ready(&key, vetted).map(Link::Exclusive))?;
        drop(stock);
        Some(Lease { link, pool: Arc::clone(self), key })
    }

    /// A connection that is there, may still be used, and is free, or soon will be.
    async fn kept(&self, key: &Key, ctx: &Context, permit: &Permit, snapshot: &Snapshot) -> Option<Link> {
        let host = ctx.host.load_full();
        let vetted = |peer| matches!(snapshot.policy.vet(peer, permit, &host), Verdict::Allow(_));
        if let Some(stream) = self.stock().share(key, vetted) {
            return Some(stream);
        }
        if let Some(connection) = self.stock().take_ready(key, vetted) {
            return Some(Link::Exclusive(connection));
        }
        loop {
            let mut connection = self.stock().take(key)?;
            if vetted(connection.peer()) && timeout(TURN, connection.ready()).await.is_ok_and(|ready| ready) {
                return Some(Link::Exclusive(connection));
            }
        }
    }

    /// Opens a connection for HTTP/2 streams. Those that arrive together wait for the first dial: it may bring one for
    /// them all.
    async fn open_for_all(
        &self,
        key: &Key,
        ctx: &Context,
        permit: &Permit,
        snapshot: &Snapshot,
    ) -> Result<Link, DialError> {
        let Some(turn) = self.stock().turn(key) else {
            return Link::open(&self.lane, ctx, permit, snapshot, key.kind).await;
        };
        // Its shelf is swept, even if nothing ever comes of it.
        self.stocked.notify_one();
        let turn = turn.lock_owned().await;
        if let Some(link) = self.kept(key, ctx, permit, snapshot).await {
            return Ok(link);
        }
        let link = Link::open(&self.lane, ctx, permit, snapshot, key.kind).await?;
        self.stock().note(key, &link);
        drop(turn);
        Ok(link)
    }

    /// Takes an HTTP/1 connection back, after a whole exchange.
    fn keep(&self, key: Key, connection: Exclusive) {
        if self.stock().keep(key, connection) {
            self.stocked.notify_one();
        }
    }

    /// Closes what nobody has used for long, and at every push what is of an earlier generation; `changes` are of the
    /// pool's sandbox, whose pushes wait for it. Never ready.
    pub(in crate::intercept) async fn tend(&self, sandbox: &Sandbox, mut changes: Changes) {
        self.stock().retire(changes.catch_up().generation);
        loop {
            let rest = async {
                if self.stock().shelves.is_empty() {
                    self.stocked.notified().await;
                }
                sleep(SWEEP).await;
            };
            tokio::select! {
                () = changes.changed() => {
                    let snapshot = sandbox.snapshot();
                    self.stock().retire(snapshot.generation);
                    changes.settle(&snapshot);
                }
                () = rest => self.stock().sweep(Instant::now()),
            }
        }
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stock {
    /// A stream of an HTTP/2 connection that takes one more.
    fn share(&mut self, key: &Key, vetted: impl Fn(SocketAddr) -> bool) -> Option<Link> {
        let shelf = self.shelves.get_mut(key)?;
        shelf.shared.retain(|shared| !shared.is_closed() && vetted(shared.peer()));
        shelf.shared.iter().find_map(Shared::stream).map(Link::Stream)
    }

    /// The HTTP/1 connection that was used last, of those that are free.
    fn take_ready(&mut self, key: &Key, vetted: impl Fn(SocketAddr) -> bool) -> Option<Exclusive> {
        let shelf = self.shelves.get_mut(key)?;
        loop {
            let at = shelf.kept.iter().rposition(|kept| kept.connection.is_ready())?;
            let connection = shelf.kept.remove(at).connection;
            self.kept -= 1;
            if vetted(connection.peer()) {
                return Some(connection);
            }
        }
    }

    /// The HTTP/1 connection that was used last, free or not yet.
    fn take(&mut self, key: &Key) -> Option<Exclusive> {
        let taken = self.shelves.get_mut(key)?.kept.pop()?;
        self.kept -= 1;
        Some(taken.connection)
    }

    /// Whose turn it is to dial; `None` where everybody may.
    fn turn(&mut self, key: &Key) -> Option<Arc<tokio::sync::Mutex<()>>> {
        let shelf = self.shelves.entry(key.clone()).or_default();
        (shelf.alone != Some(Version::HTTP_11)).then(|| Arc::clone(&shelf.turn))
    }

    /// Whether the origin is known to refuse HTTP/1.1.
    fn refuses_http1(&self, key: &Key) -> bool {
        self.shelves.get(key).is_some_and(|shelf| shelf.alone == Some(Version::HTTP_2))
    }

    /// Notes that it does, for as long as there is a connection.
    fn note_refusal(&mut self, key: &Key) {
        if let Some(shelf) = self.shelves.get_mut(key) {
            shelf.alone = Some(Version::HTTP_2);
        }
    }

    /// Notes what an origin chose that was offered HTTP/2.
    fn note(&mut self, key: &Key, link: &Link) {
        if key.generation < self.generation {
            return;
        }
        let shelf = self.shelves.entry(key.clone()).or_default();
        match link {
            Link::Exclusive(_) => shelf.alone = Some(Version::HTTP_11),
            Link::Stream(stream) => shelf.shared.push(stream.connection()),
        }
    }

    /// Whether it is kept.
    fn keep(&mut self, key: Key, connection: Exclusive) -> bool {
        if key.generation < self.generation || connection.is_closed() {
            return false;
        }
        if self.kept >= limits::UPSTREAM_KEPT {
            self.drop_oldest();
        }
        let shelf = self.shelves.entry(key).or_default();
        if shelf.kept.len() >= limits::UPSTREAM_KEPT_EACH {
            shelf.kept.remove(0);
            self.kept -= 1;
        }
        shelf.kept.push(Kept { connection, since: Instant::now() });
        self.kept += 1;
        true
    }

    fn drop_oldest(&mut self) {
        let oldest = self.shelves.values_mut().filter(|shelf| !shelf.kept.is_empty());
        if let Some(shelf) = oldest.min_by_key(|shelf| shelf.kept.first().map(|kept| kept.since)) {
            shelf.kept.remove(0);
            self.kept -= 1;
        }
    }

    /// Closes what is of an earlier generation and not in use.
    fn retire(&mut self, generation: u64) {
        self.generation = generation;
        self.shelves.retain(|key, _| key.generation >= generation);
        self.count();
    }

    /// Closes what has not been used for [`limits::UPSTREAM_IDLE`], and forgets origins of which nothing is left.
    fn sweep(&mut self, now: Instant) {
        let is_old = |since: Instant| now.duration_since(since) >= limits::UPSTREAM_IDLE;
        for shelf in self.shelves.values_mut() {
            shelf.kept.retain(|kept| !is_old(kept.since) && !kept.connection.is_closed());
            shelf.shared.retain(|shared| !shared.is_closed() && !shared.unused_since().is_some_and(is_old));
        }
        // A turn that somebody else holds is a dial on its way.
        self.shelves.retain(|_, shelf| {
            !shelf.kept.is_empty() || !shelf.shared.is_empty() || Arc::strong_count(&shelf.turn) > 1
        });
        self.count();
    }

    fn count(&mut self) {
        self.kept = self.shelves.values().map(|shelf| shelf.kept.len()).sum();
    }
}

impl Lease {
    /// Gives the connection back, after a whole exchange. A stream's is shared, and was never taken away.
    fn give_back(self) {
        if let Link::Exclusive(connection) = self.link {
            self.pool.keep(self.key, connection);
        }
    }
}
