//! One connection of a sandbox, arrival to close: this page, every stage in order (HOUSE habit 8).
//!
//! ```text
//! arrival ─ loop? ─ port 53? ─ address judged ─ peek ─ judged ─┬─ relay, splice   bytes pass unread
//!                                                              ├─ terminate       each request judged alone
//!                                                              └─ refuse          told why, in its own protocol
//! ```
//!
//! It owns the order; what a stage does is in the module of its name. It sees `attach` only as [`Listener`], decides
//! nothing (the policy does) and opens nothing ([`upstream`] does).
//!
//! - `INVARIANT`: every flow gets exactly one verdict, and every request of a terminated flow, too; every flow gets
//!   exactly one close (POLICY §10). A client that goes away before its first byte gave nothing to judge.
//! - `INVARIANT`: a permit's generation is compared with the current one after dialling and before the first byte goes
//!   upstream (POLICY §8).
//! - `INVARIANT`: what is relayed races the next change of policy, and is reset when it is refused.
//! - `INVARIANT`: a flow's [`Changes`] outlive both its connections: who pushed a policy waits for them.

mod buffer;
pub mod dns;
pub mod hello;
pub mod http;
mod ledger;
mod pace;
pub mod peek;
pub mod postgres;
pub mod records;
pub mod splice;
pub mod tls;
pub mod udp;
pub mod upstream;
pub mod workers;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, mpsc, watch};
use tokio::task::JoinSet;

use crate::attach::{Arrival, Listener, Reset};
use crate::audit::{Protocol, Record, RouteTaken};
use crate::ca::{Authority, MintError};
use crate::dns::Dns;
use crate::flow::{Flow, Hello, HttpVersion, OriginalDst, Seen};
use crate::issuer::Tokens;
use crate::policy::verdict::{Basis, Denial, DenyReason, Permit, Route, Verdict};
use crate::policy::{Denials, Protected};
use crate::sandbox::quota::Slot;
use crate::sandbox::{Changes, Sandbox};
use http::Conversation;
use http::upstreams::Upstreams;
use ledger::Ledger;
use pace::Paced;
use peek::Prefixed;
use upstream::Upstream;
use workers::Workers;

/// Where DNS is asked; whoever is dialled there, our resolver answers (POLICY §3 row 0).
const DNS_PORT: u16 = 53;

/// All that the flows of one sandbox need.
pub struct Context {
    /// Whose flows they are.
    pub sandbox: Arc<Sandbox>,
    /// The addresses that no policy opens by itself, kept current.
    pub host: Arc<ArcSwap<Protected>>,
    /// The only way out.
    pub upstream: Upstream,
    /// Mints the leaves that terminated flows see.
    pub authority: Arc<Authority>,
    /// Answers port 53.
    pub dns: Arc<Dns>,
    /// Signs what goes along with a `forwardURL`; without it, no such request goes out.
    pub tokens: Option<Tokens>,
    /// Takes every event.
    pub record: Arc<dyn Record>,
    /// Where its flows are carried.
    pub workers: Workers,
    /// The port that the listener itself has: as an original destination it is a loop.
    pub listener_port: u16,
}

/// Says when to stop: every flow is ended and its close recorded before [`serve`] returns.
#[derive(Debug, Clone)]
pub struct Shutdown {
    wish: watch::Receiver<Wish>,
    taking: Arc<RwLock<()>>,
}

/// Begins the end. Dropping it does, too.
#[derive(Debug)]
pub struct Stop {
    wish: watch::Sender<Wish>,
    /// Read by each loop that takes arrivals, for as long as it takes them.
    taking: Arc<RwLock<()>>,
}

/// What is asked of the loops that take arrivals.
#[derive(Debug, Clone, Copy)]
struct Wish {
    phase: Phase,
    rest: bool,
}

/// How far the end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Flows are taken.
    Open,
    /// Those that are there may finish.
    Draining,
    /// They are ended.
    Ending,
}

/// Both ends of a shutdown.
#[must_use]
pub fn shutdown() -> (Stop, Shutdown) {
    let (sender, receiver) = watch::channel(Wish { phase: Phase::Open, rest: false });
    let taking = Arc::new(RwLock::new(()));
    (Stop { wish: sender, taking: Arc::clone(&taking) }, Shutdown { wish: receiver, taking })
}

impl Stop {
    /// Takes no more flows, and lets those that are there finish.
    pub fn drain(&self) {
        self.wish.send_modify(|wish| wish.phase = wish.phase.max(Phase::Draining));
    }

    /// Begins the end.
    pub fn stop(&self) {
        self.wish.send_modify(|wish| wish.phase = Phase::Ending);
    }

    /// Ready once the end has begun.
    pub async fn is_begun(&self) {
        // The sender is held here.
        let _ = self.wish.subscribe().wait_for(|wish| wish.phase == Phase::Ending).await;
    }

    /// Ready when nothing is being taken, which stays so while the rest is held: who comes meanwhile waits in the
    /// sockets. What was taken before goes on.
    pub async fn rest(self: Arc<Self>) -> Rest {
        self.wish.send_modify(|wish| wish.rest = true);
        let nobody = Arc::clone(&self.taking).write_owned().await;
        Rest { stop: self, _nobody: nobody }
    }

    /// The same from the beginning; `None` once something is being taken.
    #[must_use]
    pub fn at_rest(self: Arc<Self>) -> Option<Rest> {
        let nobody = Arc::clone(&self.taking).try_write_owned().ok()?;
        self.wish.send_modify(|wish| wish.rest = true);
        Some(Rest { stop: self, _nobody: nobody })
    }
}

/// While it is held, nothing is taken. One at a time.
#[derive(Debug)]
pub struct Rest {
    stop: Arc<Stop>,
    _nobody: OwnedRwLockWriteGuard<()>,
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.stop.wish.send_modify(|wish| wish.rest = false);
    }
}

impl Shutdown {
    /// Ready once the end has begun.
    pub async fn begun(&mut self) {
        // An error means that the other side was dropped.
        let _ = self.wish.wait_for(|wish| wish.phase == Phase::Ending).await;
    }

    /// Ready once nothing more is to be taken.
    async fn closing(&mut self) {
        // As above.
        let _ = self.wish.wait_for(|wish| wish.phase >= Phase::Draining).await;
    }

    /// Waits for a turn at taking arrivals; there is none any more once nothing more is to be taken.
    async fn turn(&mut self) -> Option<OwnedRwLockReadGuard<()>> {
        let taking = Arc::clone(&self.taking).read_owned();
        tokio::select! {
            biased;
            () = self.closing() => None,
            turn = taking => Some(turn),
        }
    }

    /// Ready when the turn is to end.
    async fn turn_is_over(&mut self) {
        // As above.
        let _ = self.wish.wait_for(|wish| wish.rest || wish.phase >= Phase::Draining).await;
    }
}

/// Takes every connection that arrives at `listener`, until `shutdown`; returns when the last one has ended.
pub async fn serve<L: Listener>(mut listener: L, ctx: Arc<Context>, mut shutdown: Shutdown) {
    let mut turns = JoinSet::new();
    // A connection that is kept on one thread is of no use on another.
    let pools: Vec<_> = ctx.workers.lanes(&mut turns).into_iter().map(|lane| Arc::new(Upstreams::new(lane))).collect();
    let mut tending = JoinSet::new();
    for pool in &pools {
        let (kept, sandbox) = (Arc::clone(pool), Arc::clone(&ctx.sandbox));
        tending.spawn(async move { kept.tend(&sandbox, sandbox.changes()).await });
    }
    // Nothing is sent: it is gone when every flow is.
    let (flows, mut all_flows) = mpsc::channel::<Infallible>(1);
    while let Some(_turn) = shutdown.turn().await {
        loop {
            let arrival = tokio::select! {
                biased;
                () = shutdown.turn_is_over() => break,
                arrival = listener.accept() => arrival,
            };
            let seat = ctx.workers.seat();
            let Some(pool) = pools.get(seat.number()) else { continue };
            let intercept = Intercept::new(&arrival, Arc::clone(&ctx), Arc::clone(pool), shutdown.clone());
            match ctx.sandbox.quota().flows.take() {
                Some(slot) => {
                    let (run, counted) = (intercept.run(arrival.io, slot), (seat, flows.clone()));
                    let flow = async move {
                        run.await;
                        drop(counted);
                    };
                    pool.lane().spawn(flow).detach();
                }
                None => intercept.turn_away(arrival.io),
            }
        }
    }
    // Who comes now is refused at once.
    drop(listener);
    drop(flows);
    all_flows.recv().await;
    tending.shutdown().await;
    drop(pools);
    turns.shutdown().await;
}

/// What is left to do for a flow that has been judged. What led there is not held meanwhile.
type Onward = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One flow on its way.
struct Intercept {
    ctx: Arc<Context>,
    upstreams: Arc<Upstreams>,
    flow: Flow,
    ledger: Arc<Ledger>,
    shutdown: Shutdown,
    /// Whether its TLS was asked for as PostgreSQL does, so that it has to be asked for upstream, too.
    postgres: bool,
}

impl Intercept {
    fn new(arrival: &Arrival, ctx: Arc<Context>, upstreams: Arc<Upstreams>, shutdown: Shutdown) -> Self {
        let flow = Flow {
            id: ctx.sandbox.next_flow(),
            sandbox: ctx.sandbox.id().clone(),
            client: arrival.client,
            dst: arrival.dst,
            seen: Seen::Unread,
            pinned: Vec::new(),
        };
        let ledger = Arc::new(Ledger::new(&flow, Arc::clone(&ctx.record)));
        Self { ctx, upstreams, flow, ledger, shutdown, postgres: false }
    }

    /// Carries the flow to its end; the slot is free only then.
    async fn run(self, io: std::net::TcpStream, slot: Slot) {
        let closing = self.ledger.closing();
        match TcpStream::from_std(io) {
            Ok(io) => {
                let onward = Box::pin(self.carry(io)).await;
                if let Some(onward) = onward {
                    onward.await;
                }
            }
            Err(error) => self.ledger.error(format!("the connection cannot be watched: {error}")),
        }
        drop(closing);
        drop(slot);
    }

    /// A flow over what the sandbox may have open: refused at once, unread.
    fn turn_away(self, io: std::net::TcpStream) {
        let _closing = self.ledger.closing();
        // What cannot be watched is closed, too.
        let _ = TcpStream::from_std(io).map(reset);
        self.ledger.verdict(ledger::denied(&self.denial(DenyReason::Limit), &self.flow.seen));
    }

    /// The stages, in order, up to where the flow has been judged.
    async fn carry<Io: Connection>(mut self, io: Io) -> Option<Onward> {
        let changes = self.ctx.sandbox.changes();
        if self.is_loop() {
            reset(io);
            self.ledger.verdict(ledger::denied(&self.denial(DenyReason::Loop), &self.flow.seen));
            return None;
        }
        if self.flow.dst.port() == DNS_PORT {
            return Some(Box::pin(self.answer_dns(io)));
        }
        // A refusal by address stands before a byte is read; what is read then can only word it.
        let refusal = match self.judge_address() {
            Some(Verdict::Allow(_)) => return self.travel(Prefixed::new(Vec::new(), io), changes).await,
            Some(Verdict::Deny(denial)) => Some(denial),
            None => None,
        };
        let mut shutdown = self.shutdown.clone();
        let peeked = tokio::select! {
            () = shutdown.begun() => {
                self.settle(refusal);
                return None;
            }
            peeked = peek::peek(io, self.flow.dst.port()) => peeked,
        };
        match peeked {
            Ok((seen, io)) => {
                if seen == Seen::Opaque {
                    self.flow.pinned = self.ctx.sandbox.pins().names(self.flow.dst.ip());
                }
                self.flow.seen = seen;
                if refusal.is_none() && self.may_ask_for_tls(io.prefix()) {
                    return self.grant_tls(io, changes).await;
                }
                self.travel(io, changes).await
            }
            Err(error) => {
                self.leave_early(refusal, &error);
                None
            }
        }
    }

    /// Whether a flow begins as PostgreSQL asks for TLS, where it would not be relayed unread as it is. On 80 and 443
    /// nothing but TLS and HTTP is spoken (POLICY §4).
    fn may_ask_for_tls(&self, begun: &[u8]) -> bool {
        let relayed = || {
            let verdict = self.ctx.sandbox.snapshot().policy.decide(&self.flow, &self.ctx.host.load());
            matches!(verdict, Verdict::Allow(Route::Relay(permit)) if permit.observed().is_none())
        };
        let begins = self.flow.seen == Seen::Opaque && postgres::may_begin(begun);
        begins && !matches!(self.flow.dst.port(), 80 | 443) && !relayed()
    }

    /// Grants TLS, for only its hello names whom the client means.
    async fn grant_tls<Io: Connection>(mut self, io: Prefixed<Io>, changes: Changes) -> Option<Onward> {
        let mut shutdown = self.shutdown.clone();
        let answered = tokio::select! {
            () = shutdown.begun() => return None,
            answered = Box::pin(postgres::answer(io)) => answered,
        };
        match answered {
            Ok((seen, io, granted)) => {
                (self.flow.seen, self.postgres) = (seen, granted);
                self.travel(io, changes).await
            }
            Err(error) => {
                self.ledger.error(format!("the client broke off before its TLS: {error}"));
                None
            }
        }
    }

    /// Judges on all that is known, and takes the way that the verdict allows.
    async fn travel<Io: Connection>(self, io: Prefixed<Io>, mut changes: Changes) -> Option<Onward> {
        let mut shutdown = self.shutdown.clone();
        loop {
            // What changed until here counts in this judgement; what changes from here on is raced.
            let snapshot = changes.catch_up();
            let (route, permit) = match snapshot.policy.decide(&self.flow, &self.ctx.host.load()) {
                Verdict::Allow(Route::Relay(permit)) => (RouteTaken::Relay, permit),
                Verdict::Allow(Route::Splice(permit)) => (RouteTaken::Splice, permit),
                Verdict::Allow(Route::Terminate(basis)) if self.postgres => {
                    let denial = Denial { reason: DenyReason::NotHttp, basis };
                    return Some(Box::pin(self.refuse(io, denial, changes)));
                }
                Verdict::Allow(Route::Terminate(basis)) => return Some(self.terminate(io, basis, changes)),
                Verdict::Deny(denial) => return Some(Box::pin(self.refuse(io, denial, changes))),
            };
            let due = self.ledger.due(ledger::allowed(route, permit.basis(), permit.observed(), &self.flow.seen));
            let host = self.ctx.host.load_full();
            let dialled = tokio::select! {
                biased;
                () = shutdown.begun() => {
                    reset(io);
                    return None;
                }
                () = changes.changed() => {
                    due.withdraw();
                    continue;
                }
                dialled = Box::pin(self.ctx.upstream.dial(&permit, &snapshot, &host)) => dialled,
            };
            match dialled {
                Err(upstream::DialError::Denied(denial)) => {
                    due.withdraw();
                    return Some(Box::pin(self.refuse(io, denial, changes)));
                }
                Err(error) => {
                    self.ledger.error(chain(&error));
                    reset(io);
                    return None;
                }
                Ok(_) if changes.is_behind() => due.withdraw(),
                Ok(up) => {
                    drop(due);
                    return Some(Box::pin(self.relay(io, up.io, permit, changes)));
                }
            }
        }
    }

    /// Moves bytes unread, until the flow ends or is no longer permitted.
    async fn relay<Io: Connection>(self, io: Prefixed<Io>, mut up: TcpStream, permit: Permit, mut changes: Changes) {
        let mut shutdown = self.shutdown.clone();
        let mut cut = Box::pin(async {
            tokio::select! {
                () = shutdown.begun() => {}
                basis = self.revoked(&permit, &mut changes) => {
                    let denial = Denial { reason: DenyReason::Revoked, basis };
                    self.ledger.verdict(ledger::denied(&denial, &self.flow.seen));
                }
            }
        });
        if self.postgres {
            let joined = tokio::select! {
                biased;
                () = &mut cut => return reset(io),
                joined = postgres::join(&mut up) => joined,
            };
            if let Err(error) = joined {
                self.ledger.error(chain(&error));
                return reset(io);
            }
        }
        let io = Paced::new(io, Arc::clone(&self.ctx.sandbox));
        let relayed = splice::relay(io, up, cut).await;
        self.ledger.moved(relayed.bytes_out, relayed.bytes_in);
        if let splice::End::UpstreamBroke(error) = relayed.end {
            self.ledger.error(format!("the connection to the upstream broke: {error}"));
        }
    }

    /// Ready when a change of policy no longer permits what `permit` did, with what decided.
    async fn revoked(&self, permit: &Permit, changes: &mut Changes) -> Basis {
        loop {
            changes.changed().await;
            let snapshot = self.ctx.sandbox.snapshot();
            match snapshot.policy.decide(&self.flow, &self.ctx.host.load()) {
                Verdict::Allow(Route::Relay(now) | Route::Splice(now)) if now.target() == permit.target() => {
                    changes.settle(&snapshot);
                }
                Verdict::Allow(Route::Relay(now) | Route::Splice(now)) => return now.basis().clone(),
                Verdict::Allow(Route::Terminate(basis)) | Verdict::Deny(Denial { basis, .. }) => return basis,
            }
        }
    }

    /// Ends the sandbox's TLS here, or reads its cleartext HTTP; every request is judged.
    fn terminate<Io: Connection>(self, io: Prefixed<Io>, basis: Basis, changes: Changes) -> Onward {
        if self.leaf().is_some_and(|leaf| leaf.is_err()) {
            let denial = Denial { reason: DenyReason::MintBudget, basis };
            return Box::pin(self.refuse(io, denial, changes));
        }
        self.ledger.verdict(ledger::allowed(RouteTaken::Terminate, &basis, None, &self.flow.seen));
        Box::pin(self.converse(io, None, changes))
    }

    /// Tells the client why, where it can be told (POLICY §7). Nobody upstream is contacted.
    async fn refuse<Io: Connection>(self, io: Prefixed<Io>, denial: Denial, changes: Changes) {
        self.ledger.verdict(ledger::denied(&denial, &self.flow.seen));
        let explain = self.ctx.sandbox.snapshot().policy.denials() == Denials::Explain;
        match &self.flow.seen {
            Seen::Tls(_) if self.postgres || !explain => {
                drop(changes);
                tls::refuse(io).await;
            }
            _ => Box::pin(self.converse(io, Some(denial), changes)).await,
        }
    }

    /// HTTP with the client, after a handshake where it speaks TLS.
    async fn converse<Io: Connection>(self, io: Prefixed<Io>, refusal: Option<Denial>, mut changes: Changes) {
        let mut shutdown = self.shutdown.clone();
        let this = &self;
        let conversation = async move {
            match &this.flow.seen {
                Seen::Http(version) => {
                    Box::pin(http::serve(io, this.conversation(*version, refusal), changes)).await;
                }
                Seen::Tls(Hello { sni: Some(name), .. }) => {
                    let Ok(config) = this.ctx.authority.server_config(name) else {
                        drop(changes);
                        return tls::refuse(io).await;
                    };
                    let shaken = tokio::select! {
                        biased;
                        () = this.withdrawn(refusal.is_some(), &mut changes) => return,
                        shaken = Box::pin(tls::terminate(io, config, name)) => shaken,
                    };
                    match shaken {
                        Ok(tls) => {
                            let version = tls::version(&tls);
                            Box::pin(http::serve(tls, this.conversation(version, refusal), changes)).await;
                        }
                        Err(error) => this.ledger.error(chain(&error)),
                    }
                }
                Seen::Tls(_) | Seen::Unreadable(_) => {
                    drop(changes);
                    tls::refuse(io).await;
                }
                Seen::Unread | Seen::Opaque => reset(io),
            }
        };
        tokio::select! {
            () = shutdown.begun() => {}
            () = conversation => {}
        }
    }

    /// Ready when a change of policy ends a flow before its first request. One that was refused ends with any change:
    /// the client finds out by asking anew.
    async fn withdrawn(&self, refused: bool, changes: &mut Changes) {
        loop {
            changes.changed().await;
            if refused {
                return;
            }
            let snapshot = self.ctx.sandbox.snapshot();
            if let Verdict::Deny(Denial { basis, .. }) = snapshot.policy.decide(&self.flow, &self.ctx.host.load()) {
                let denial = Denial { reason: DenyReason::Revoked, basis };
                return self.ledger.verdict(ledger::denied(&denial, &self.flow.seen));
            }
            changes.settle(&snapshot);
        }
    }

    /// TLS ready to be terminated for the name in the hello; `None` where there is none.
    fn leaf(&self) -> Option<Result<Arc<ServerConfig>, MintError>> {
        match &self.flow.seen {
            Seen::Tls(Hello { sni: Some(name), .. }) => Some(self.ctx.authority.server_config(name)),
            _ => None,
        }
    }

    fn conversation(&self, version: HttpVersion, refusal: Option<Denial>) -> Conversation {
        let (ctx, upstreams, ledger) = (Arc::clone(&self.ctx), Arc::clone(&self.upstreams), Arc::clone(&self.ledger));
        Conversation::new(ctx, upstreams, self.flow.clone(), ledger, version, refusal)
    }

    /// Our resolver answers, whichever was dialled (POLICY §5).
    async fn answer_dns<Io: Connection>(mut self, io: Io) {
        let basis = self.denial(DenyReason::NoName).basis;
        let mut judged = ledger::allowed(RouteTaken::Respond, &basis, None, &self.flow.seen);
        judged.protocol = Protocol::Dns;
        self.ledger.verdict(judged);
        tokio::select! {
            () = self.shutdown.begun() => {}
            served = dns::serve_stream(io, &self.ctx.dns) => {
                if let Err(error) = served {
                    self.ledger.error(format!("the client broke off: {error}"));
                }
            }
        }
    }

    /// The client went away, or said too little. A refusal that stood before still counts.
    fn leave_early(&self, refusal: Option<Denial>, error: &peek::PeekError) {
        self.settle(refusal);
        self.ledger.error(chain(error));
    }

    /// Records the refusal of a flow that ends before it could be told why.
    fn settle(&self, refusal: Option<Denial>) {
        if let Some(denial) = refusal {
            self.ledger.verdict(ledger::denied(&denial, &self.flow.seen));
        }
    }

    fn judge_address(&self) -> Option<Verdict<Route>> {
        self.ctx.sandbox.snapshot().policy.decide_address(&self.flow, &self.ctx.host.load())
    }

    fn is_loop(&self) -> bool {
        let OriginalDst(dst) = self.flow.dst;
        dst.port() == self.ctx.listener_port
    }

    /// A denial by no rule of the policy.
    fn denial(&self, reason: DenyReason) -> Denial {
        Denial { reason, basis: Basis { rule: None, revision: self.ctx.sandbox.snapshot().policy.revision() } }
    }
}

/// What a flow's bytes are, whichever listener they came from.
trait Connection: AsyncRead + AsyncWrite + Reset + Send + Unpin + 'static {}

impl<Io: AsyncRead + AsyncWrite + Reset + Send + Unpin + 'static> Connection for Io {}

fn reset(mut io: impl Reset) {
    io.reset_on_drop();
}

/// An error and what is behind it, as one sentence for the record.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
