//! The life of one HTTP connection of the sandbox: the library behind the guard, idle time, changes of policy, and
//! what follows a switch of protocols.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::attach::Reset;
use crate::flow::HttpVersion;
use crate::intercept::ledger::{Ledger, Metered, denied};
use crate::intercept::pace::Paced;
use crate::intercept::splice;
use crate::limits;
use crate::policy::verdict::{Action, Denial, DenyReason, Verdict};
use crate::sandbox::Changes;

use super::arriving::Arriving;
use super::guard::{Guard, Lent};
use super::interim::Client;
use super::live::{Waiter, Way};
use super::timer::Timer;
use super::{Conversation, Switched, streams};

/// Answers the requests of `io` until either side ends it, or the policy no longer permits the flow.
pub(in crate::intercept) async fn serve<Io>(io: Io, conversation: Conversation, mut changes: Changes)
where
    Io: AsyncRead + AsyncWrite + Reset + Send + Unpin + 'static,
{
    let conversation = Arc::new(conversation);
    let io = Paced::new(io, Arc::clone(&conversation.ctx.sandbox));
    let io = Metered::new(io, Arc::clone(&conversation.ledger));
    let served = async {
        match conversation.version {
            HttpVersion::Http1 => Box::pin(serve_http1(io, &conversation)).await,
            HttpVersion::Http2 => Box::pin(streams::serve(io, &conversation)).await,
        }
    };
    tokio::select! {
        biased;
        () = govern(&conversation, &mut changes) => {}
        () = served => {}
    }
    let relays = std::mem::take(&mut *conversation.relays.lock().unwrap_or_else(PoisonError::into_inner));
    drop(relays);
}

async fn serve_http1<Io>(io: Io, conversation: &Arc<Conversation>)
where
    Io: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stopped = Arc::clone(conversation);
    let guard =
        Guard::new(io, Arc::clone(&conversation.watch), Box::new(move |fault| stopped.stop(fault).into_bytes()));
    let lent = Lent::new(guard);
    // Idle time and slow heads are the guard's; so is every bound on a head, which these only repeat.
    let mut library = http1::Builder::new();
    library.header_read_timeout(None).max_buf_size(2 * limits::HEAD_BYTES);
    let mut timer = Timer::default();
    loop {
        lent.stirs().await;
        let answering = Arc::clone(conversation);
        let service = service_fn(move |request: Request<Incoming>| {
            let client = Client::Connection(Arc::clone(&answering.watch));
            Box::pin(Arc::clone(&answering).answer(request.map(Arriving::Message), client))
        });
        let connection = library.serve_connection(TokioIo::new(lent.again()), service).with_upgrades();
        let mut connection = pin!(connection);
        let mut rests_until = None;
        let served = poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if lent.rests() => {
                let until = *rests_until.get_or_insert_with(|| Instant::now() + REST);
                timer.poll(until, cx).map(|()| None)
            }
            Poll::Pending => {
                rests_until = None;
                lent.speak(cx);
                Poll::Pending
            }
        });
        match served.await {
            None => {}
            Some(Ok(())) => break,
            // The sandbox broke off, or a request was revoked: either way there is nobody to tell.
            Some(Err(_)) => return,
        }
    }
    let switched = conversation.switched.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(switched) = switched
        && !relay_switched(switched, &conversation.ledger).await
    {
        conversation.ledger.end_with_reset();
    }
}

/// How long the library's connection is kept after an answer: a request that follows soon finds its buffers.
const REST: Duration = Duration::from_millis(100);

/// Moves the bytes of a WebSocket, unread but for secrets that come back, until a side ends it or its request is
/// revoked; whether they ended in good order.
pub(super) async fn relay_switched(switched: Switched, ledger: &Ledger) -> bool {
    let Switched { down, up, live, scrub, lease: _held } = switched;
    let (Some(down), Some(up)) = (down.raw().await, up.raw().await) else {
        ledger.error("the connection broke while it switched protocols");
        return true;
    };
    let relayed = match scrub {
        None => Box::pin(splice::relay(down, up, live.cut(Waiter::Handler))).await,
        Some(scrub) => Box::pin(splice::relay(down, scrub.stream(up), live.cut(Waiter::Handler))).await,
    };
    matches!(relayed.end, splice::End::Closed)
}

/// Judges again at every change of policy: the flow by its facts, and each request in flight by its own. Ready when
/// the flow has to end.
async fn govern(conversation: &Conversation, changes: &mut Changes) {
    let Conversation { ctx, flow, ledger, .. } = conversation;
    loop {
        changes.changed().await;
        if conversation.refusal.is_some() {
            // The reason may no longer hold; the client finds out by asking anew.
            return;
        }
        let snapshot = ctx.sandbox.snapshot();
        let host = ctx.host.load_full();
        if let Verdict::Deny(Denial { basis, .. }) = snapshot.policy.decide(flow, &host) {
            ledger.verdict(denied(&Denial { reason: DenyReason::Revoked, basis }, &flow.seen));
            ledger.end_with_reset();
            return;
        }
        let mut ended = false;
        let known = ctx.sandbox.placeholders();
        for live in conversation.live.all() {
            let (way, basis) = match conversation.judge(&snapshot, &known, &live.asked) {
                Verdict::Allow(Action::Forward(permit)) => (Some(Way::of(&permit, None)), permit.basis().clone()),
                Verdict::Allow(Action::Divert(url, permit)) => {
                    (Some(Way::of(&permit, Some(&url))), permit.basis().clone())
                }
                Verdict::Allow(Action::Respond(_, basis)) | Verdict::Deny(Denial { basis, .. }) => (None, basis),
            };
            if way.as_ref() == Some(&live.way) {
                live.changes.settle(&snapshot);
                continue;
            }
            ledger.verdict(live.asked.judged(Err(DenyReason::Revoked), &basis));
            live.end();
            ended = true;
        }
        if ended && conversation.version == HttpVersion::Http1 {
            // Its connection is the request's.
            ledger.end_with_reset();
            return;
        }
        changes.settle(&snapshot);
    }
}
