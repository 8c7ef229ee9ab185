//! What is kept of one flow for the record: who it is, what it moved, how it ended.
//!
//! Every event of a flow is made here, so that there is one place that knows their form. It never judges.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::attach::Reset;
use crate::audit::{Closed, Event, Judged, Kind, Protocol, Record, RouteTaken};
use crate::flow::{Domain, Flow, FlowId, HttpVersion, OriginalDst, SandboxId, Seen};
use crate::policy::verdict::{Basis, Denial, DenyReason};

/// One flow's page.
pub(super) struct Ledger {
    record: Arc<dyn Record>,
    sandbox: SandboxId,
    flow: FlowId,
    dst: OriginalDst,
    name: OnceLock<Domain>,
    error: OnceLock<Arc<str>>,
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
    scrubbed: AtomicU64,
    reset: AtomicBool,
}

impl Ledger {
    /// An empty page for `flow`.
    pub(super) fn new(flow: &Flow, record: Arc<dyn Record>) -> Self {
        Self {
            record,
            sandbox: flow.sandbox.clone(),
            flow: flow.id,
            dst: flow.dst,
            name: OnceLock::new(),
            error: OnceLock::new(),
            bytes_out: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            scrubbed: AtomicU64::new(0),
            reset: AtomicBool::new(false),
        }
    }

    /// Records a judgement.
    pub(super) fn verdict(&self, judged: Judged) {
        if let Some(name) = &judged.name {
            let _ = self.name.set(name.clone());
        }
        self.event(Kind::Verdict(judged));
    }

    /// A judgement that stands unless it is withdrawn: recorded when the value is dropped, however that comes.
    pub(super) fn due(&self, judged: Judged) -> Due<'_> {
        Due { ledger: self, judged: Some(judged) }
    }

    /// Notes the first thing that went wrong.
    pub(super) fn error(&self, sentence: impl AsRef<str>) {
        let _ = self.error.set(Arc::from(sentence.as_ref()));
    }

    /// Counts what the sandbox sent and received.
    pub(super) fn moved(&self, bytes_out: u64, bytes_in: u64) {
        self.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
    }

    /// Counts the secrets that were struck out of what the sandbox received.
    pub(super) fn scrubbed(&self, count: usize) {
        self.scrubbed.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Makes the end of the sandbox's connection a reset.
    pub(super) fn end_with_reset(&self) {
        self.reset.store(true, Ordering::Release);
    }

    /// The flow's end: recorded when the value is dropped, however that comes.
    pub(super) fn closing(self: &Arc<Self>) -> Closing {
        Closing(Arc::clone(self))
    }

    fn close(&self) {
        self.event(Kind::Close(Closed {
            name: self.name.get().cloned(),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            scrubbed: self.scrubbed.load(Ordering::Relaxed),
            error: self.error.get().cloned(),
        }));
    }

    fn event(&self, kind: Kind) {
        self.record.record(&Event {
            time: SystemTime::now(),
            sandbox: self.sandbox.clone(),
            flow: Some(self.flow),
            dst: Some(self.dst),
            kind,
        });
    }
}

/// A flow that has not ended yet.
pub(super) struct Closing(Arc<Ledger>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A judgement that is about to be recorded.
pub(super) struct Due<'a> {
    ledger: &'a Ledger,
    judged: Option<Judged>,
}

impl Due<'_> {
    /// Adds the status that we answered with.
    pub(super) fn answered(&mut self, status: StatusCode) {
        if let Some(judged) = &mut self.judged {
            judged.status = Some(status.as_u16());
        }
    }

    /// Another judgement takes its place.
    pub(super) fn withdraw(mut self) {
        self.judged = None;
    }
}

impl Drop for Due<'_> {
    fn drop(&mut self) {
        if let Some(judged) = self.judged.take() {
            self.ledger.verdict(judged);
        }
    }
}

/// An allowing judgement of a flow.
pub(super) fn allowed(route: RouteTaken, basis: &Basis, observed: Option<DenyReason>, seen: &Seen) -> Judged {
    judged(Ok(route), basis, observed, seen)
}

/// A refusing judgement of a flow.
pub(super) fn denied(denial: &Denial, seen: &Seen) -> Judged {
    judged(Err(denial.reason), &denial.basis, None, seen)
}

fn judged(outcome: Result<RouteTaken, DenyReason>, basis: &Basis, observed: Option<DenyReason>, seen: &Seen) -> Judged {
    let (protocol, name) = match seen {
        Seen::Unread | Seen::Opaque => (Protocol::Tcp, None),
        Seen::Http(HttpVersion::Http1) => (Protocol::Http, None),
        Seen::Http(HttpVersion::Http2) => (Protocol::H2, None),
        Seen::Tls(hello) => (Protocol::Tls, hello.sni.clone()),
        Seen::Unreadable(_) => (Protocol::Tls, None),
    };
    Judged {
        outcome,
        observed,
        rule: basis.rule.clone(),
        revision: basis.revision,
        protocol,
        name,
        request: None,
        injected: Vec::new(),
        status: None,
    }
}

/// A connection of the sandbox whose bytes are counted, and that ends as the ledger says.
pub(super) struct Metered<Io: Reset> {
    io: Io,
    ledger: Arc<Ledger>,
}

impl<Io: Reset> Metered<Io> {
    pub(super) fn new(io: Io, ledger: Arc<Ledger>) -> Self {
        Self { io, ledger }
    }
}

impl<Io: Reset> Drop for Metered<Io> {
    fn drop(&mut self) {
        if self.ledger.reset.load(Ordering::Acquire) {
            self.io.reset_on_drop();
        }
    }
}

impl<Io: AsyncRead + Reset + Unpin> AsyncRead for Metered<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.ledger.moved((buf.filled().len() - before) as u64, 0);
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Reset + Unpin> AsyncWrite for Metered<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.ledger.moved(0, count as u64);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        self.ledger.moved(0, count as u64);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
