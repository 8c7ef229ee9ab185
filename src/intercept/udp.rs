//! UDP that is no DNS: relayed where rows 1–4 or allow-all permit it, refused at once where not (POLICY §4).
//!
//! A flow is a client's address and the one it writes to. Its first datagram is judged; while it lives, those that
//! follow and those that come back pass unread. It has a socket of its own upstream, so that nobody but whom it writes
//! to is heard. Nothing waits here: what finds no room at once is lost, as UDP may.
//!
//! Flows that are there when no more are to be taken say nothing more: only what is on its way back to them is passed
//! on. A successor (see [`Stop::rest`](super::Stop::rest)) gets what their clients say next, judges it as a first
//! datagram, and writes from another port.
//!
//! - `INVARIANT`: every flow gets one verdict and one close; one that is refused again and again is recorded once.
//! - `INVARIANT`: a datagram goes upstream only under the policy in force: after a push it is lost until its flow was
//!   judged anew, and a flow that is refused then hears and says nothing more.
//! - `INVARIANT`: at most [`limits::UDP_FLOWS`] flows, which count among the sandbox's, no queue, and
//!   [`limits::UDP_REFUSALS`] refusals a second. Bytes over the sandbox's rate do not wait: their datagram is lost.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::ledger::{self, Ledger};
use super::{Context, Shutdown, chain};
use crate::attach::{Envelope, Packets, Replies};
use crate::audit::{Judged, Protocol, RouteTaken};
use crate::flow::{Flow, Seen};
use crate::limits;
use crate::policy::verdict::{Basis, Denial, DenyReason, Permit, Verdict};
use crate::sandbox::quota::{Budget, Slot};
use crate::sandbox::{Changes, Sandbox};

/// Datagrams that are passed on before others get their turn.
const AT_ONCE: usize = 32;
/// For how long refusals are counted together.
const SECOND: Duration = Duration::from_secs(1);

/// Carries datagrams until `shutdown`; returns when every flow has been closed.
pub async fn serve<P: Packets, R: Replies>(
    packets: Arc<P>,
    replies: Arc<R>,
    ctx: Arc<Context>,
    mut shutdown: Shutdown,
) {
    let mut relay = Relay::new(replies, ctx, shutdown.clone());
    let mut room = Vec::new();
    while let Some(_turn) = shutdown.turn().await {
        loop {
            let rest = relay.refusals.rest();
            tokio::select! {
                biased;
                () = shutdown.turn_is_over() => break,
                Some(ended) = relay.tasks.join_next() => relay.forget(ended),
                () = sleep_until(rest.unwrap_or_else(Instant::now)), if rest.is_some() => relay.refusals.begin(),
                (envelope, length) = packets.receive(&mut room), if rest.is_none() => {
                    relay.take(envelope, room.get(..length).unwrap_or_default()).await;
                }
            }
        }
    }
    // They are another process's by now, or nobody's.
    drop(packets);
    while let Some(ended) = relay.tasks.join_next().await {
        relay.forget(ended);
    }
}

/// One sandbox's flows.
struct Relay<R> {
    replies: Arc<R>,
    ctx: Arc<Context>,
    shutdown: Shutdown,
    flows: HashMap<Envelope, Arc<Talk>>,
    tasks: JoinSet<Envelope>,
    refusals: Refusals,
}

/// One flow, as both its directions need it.
struct Talk {
    up: UdpSocket,
    ledger: Arc<Ledger>,
    /// Of the policy that it was last judged by.
    generation: AtomicU64,
    /// When a datagram passed last, in milliseconds since `begun`.
    last: AtomicU64,
    begun: Instant,
    sandbox: Arc<Sandbox>,
    /// Its place among the sandbox's flows.
    _slot: Slot,
}

impl<R: Replies> Relay<R> {
    fn new(replies: Arc<R>, ctx: Arc<Context>, shutdown: Shutdown) -> Self {
        let (flows, tasks, refusals) = (HashMap::new(), JoinSet::new(), Refusals::new());
        Self { replies, ctx, shutdown, flows, tasks, refusals }
    }

    /// A panic has been told; what its flow was stays in the table and takes nothing.
    fn forget(&mut self, ended: Result<Envelope, JoinError>) {
        if let Ok(envelope) = ended {
            self.flows.remove(&envelope);
        }
    }

    /// Passes a datagram on, if it may.
    async fn take(&mut self, envelope: Envelope, datagram: &[u8]) {
        match self.flows.get(&envelope) {
            Some(talk) => talk.say(datagram, self.ctx.sandbox.snapshot().generation),
            None => self.begin(envelope, datagram).await,
        }
    }

    async fn begin(&mut self, envelope: Envelope, datagram: &[u8]) {
        let changes = self.ctx.sandbox.changes();
        let snapshot = changes.catch_up();
        if self.refusals.knows(&envelope, snapshot.generation) {
            return self.replies.refuse(envelope);
        }
        let flow = self.flow(envelope);
        let ledger = Arc::new(Ledger::new(&flow, Arc::clone(&self.ctx.record)));
        let host = self.ctx.host.load_full();
        // Answers from this port would leave as DNS.
        let judged = match flow.dst.port() == self.ctx.listener_port {
            true => Verdict::Deny(self.denial(DenyReason::Loop)),
            false => snapshot.policy.decide_datagram(&flow, &host),
        };
        let permit = match judged {
            Verdict::Allow(permit) => permit,
            Verdict::Deny(denial) => return self.refuse(envelope, &ledger, &denial, snapshot.generation),
        };
        let to = match snapshot.policy.vet(flow.dst.0, &permit, &host) {
            Verdict::Allow(to) => to,
            Verdict::Deny(denial) => return self.refuse(envelope, &ledger, &denial, snapshot.generation),
        };
        let room = self.flows.len() < limits::UDP_FLOWS;
        let Some(slot) = self.ctx.sandbox.quota().flows.take().filter(|_| room) else {
            return self.refuse(envelope, &ledger, &self.denial(DenyReason::Limit), snapshot.generation);
        };
        ledger.verdict(allowed(&permit));
        let closing = ledger.closing();
        match self.ctx.upstream.associate(to).await {
            Ok(up) => {
                // A new socket has room, which only the runtime has yet to learn. An error is met again.
                let _ = up.writable().await;
                let (generation, begun) = (AtomicU64::new(snapshot.generation), Instant::now());
                let (last, sandbox) = (AtomicU64::new(0), Arc::clone(&self.ctx.sandbox));
                let talk = Arc::new(Talk { up, ledger, generation, last, begun, sandbox, _slot: slot });
                talk.say(datagram, self.ctx.sandbox.snapshot().generation);
                self.flows.insert(envelope, Arc::clone(&talk));
                let (replies, ctx, shutdown) =
                    (Arc::clone(&self.replies), Arc::clone(&self.ctx), self.shutdown.clone());
                self.tasks.spawn(async move {
                    talk.hear(envelope, &*replies, &flow, &ctx, changes, shutdown).await;
                    drop(closing);
                    envelope
                });
            }
            Err(error) => {
                ledger.error(chain(&error));
                self.replies.refuse(envelope);
            }
        }
    }

    fn refuse(&mut self, envelope: Envelope, ledger: &Arc<Ledger>, denial: &Denial, generation: u64) {
        self.replies.refuse(envelope);
        let closing = ledger.closing();
        ledger.verdict(denied(denial));
        drop(closing);
        // A limit may be met no longer when the next one comes.
        if denial.reason != DenyReason::Limit {
            self.refusals.note(envelope, generation);
        }
    }

    fn flow(&self, envelope: Envelope) -> Flow {
        Flow {
            id: self.ctx.sandbox.next_flow(),
            sandbox: self.ctx.sandbox.id().clone(),
            client: envelope.client,
            dst: envelope.dst,
            seen: Seen::Unread,
            pinned: Vec::new(),
        }
    }

    fn denial(&self, reason: DenyReason) -> Denial {
        Denial { reason, basis: Basis { rule: None, revision: self.ctx.sandbox.snapshot().policy.revision() } }
    }
}

impl Talk {
    /// Sends one datagram, if the flow was judged by the policy in force.
    fn say(&self, datagram: &[u8], generation: u64) {
        if self.generation.load(Ordering::Acquire) != generation || !may_move(&self.sandbox.quota().egress, datagram) {
            return;
        }
        // What finds no room is lost; what the other side refuses, hearing tells.
        if self.up.try_send(datagram).is_ok() {
            self.ledger.moved(datagram.len() as u64, 0);
            self.touch();
        }
    }

    /// Passes on what comes back, until the flow is idle, refused, or over.
    async fn hear(
        &self,
        envelope: Envelope,
        replies: &impl Replies,
        flow: &Flow,
        ctx: &Context,
        mut changes: Changes,
        mut shutdown: Shutdown,
    ) {
        let (mut closing, mut says_no_more) = (shutdown.clone(), false);
        let mut patience = limits::UDP_UNANSWERED;
        loop {
            if says_no_more {
                patience = limits::UDP_LAST;
            }
            let end = self.last() + patience;
            tokio::select! {
                biased;
                () = shutdown.begun() => return,
                () = closing.closing(), if !says_no_more => says_no_more = true,
                basis = self.revoked(flow, ctx, &mut changes) => {
                    return self.ledger.verdict(denied(&Denial { reason: DenyReason::Revoked, basis }));
                }
                ready = self.news() => match ready.and_then(|()| self.pass_on(envelope, replies)) {
                    Ok(()) => patience = limits::UDP_IDLE,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => replies.refuse(envelope),
                    Err(error) => return self.ledger.error(format!("the upstream cannot be reached: {error}")),
                },
                () = sleep_until(end) => {
                    if self.last() + patience <= Instant::now() {
                        return;
                    }
                }
            }
        }
    }

    /// Ready when there is something to receive.
    ///
    /// # Errors
    /// What became of something that was sent, such as that nobody listens there.
    async fn news(&self) -> io::Result<()> {
        let ready = self.up.ready(Interest::READABLE | Interest::ERROR).await?;
        if !ready.is_error() {
            return Ok(());
        }
        let error = || self.up.take_error()?.map_or_else(|| Err(io::ErrorKind::WouldBlock.into()), Err);
        self.up.try_io(Interest::ERROR, error)
    }

    /// Takes what there is and sends it to the client. The buffer lives only meanwhile.
    fn pass_on(&self, envelope: Envelope, replies: &impl Replies) -> io::Result<()> {
        let mut datagram = Vec::with_capacity(limits::UDP_BYTES);
        self.up.try_recv_buf(&mut datagram)?;
        for _ in 0..AT_ONCE {
            if may_move(&self.sandbox.quota().ingress, &datagram) {
                replies.reply(envelope, &datagram);
                self.ledger.moved(0, datagram.len() as u64);
            }
            self.touch();
            datagram.clear();
            if self.up.try_recv_buf(&mut datagram).is_err() {
                // Whatever it is, it is met again.
                break;
            }
        }
        Ok(())
    }

    /// Ready when a change of policy no longer permits the flow, with what decided.
    async fn revoked(&self, flow: &Flow, ctx: &Context, changes: &mut Changes) -> Basis {
        loop {
            changes.changed().await;
            let snapshot = ctx.sandbox.snapshot();
            match snapshot.policy.decide_datagram(flow, &ctx.host.load()) {
                Verdict::Allow(_) => {
                    changes.settle(&snapshot);
                    self.generation.store(snapshot.generation, Ordering::Release);
                }
                Verdict::Deny(denial) => return denial.basis,
            }
        }
    }

    fn touch(&self) {
        let passed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(passed, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

/// What was refused lately, and how often.
struct Refusals {
    known: HashSet<Envelope>,
    generation: u64,
    count: u32,
    since: Instant,
}

impl Refusals {
    fn new() -> Self {
        Self { known: HashSet::new(), generation: 0, count: 0, since: Instant::now() }
    }

    /// Until when nothing more is taken, for too much was refused.
    fn rest(&self) -> Option<Instant> {
        (self.count >= limits::UDP_REFUSALS).then_some(self.since + SECOND)
    }

    fn begin(&mut self) {
        (self.count, self.since) = (0, Instant::now());
    }

    /// Whether this one was refused by the policy in force, and recorded; it counts as one more.
    fn knows(&mut self, envelope: &Envelope, generation: u64) -> bool {
        let known = self.generation == generation && self.known.contains(envelope);
        if known {
            self.count();
        }
        known
    }

    fn note(&mut self, envelope: Envelope, generation: u64) {
        if self.generation != generation || self.known.len() >= limits::UDP_REFUSED {
            self.known.clear();
            self.generation = generation;
        }
        self.known.insert(envelope);
        self.count();
    }

    fn count(&mut self) {
        if self.since.elapsed() >= SECOND {
            self.begin();
        }
        self.count += 1;
    }
}

/// Whether a datagram may pass, which it then has paid for; one that would have to wait is lost.
fn may_move(budget: &Arc<Budget>, datagram: &[u8]) -> bool {
    if budget.is_spent() {
        return false;
    }
    // What it costs beyond what there was, those that follow wait out.
    drop(budget.pay(datagram.len() as u64));
    true
}

fn allowed(permit: &Permit) -> Judged {
    let judged = ledger::allowed(RouteTaken::Relay, permit.basis(), permit.observed(), &Seen::Unread);
    Judged { protocol: Protocol::Udp, ..judged }
}

fn denied(denial: &Denial) -> Judged {
    Judged { protocol: Protocol::Udp, ..ledger::denied(denial, &Seen::Unread) }
}
