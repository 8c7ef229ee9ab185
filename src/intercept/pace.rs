//! Holds the bytes of a sandbox's connection to what the sandbox may move in a time: they wait, and are never lost.
//!
//! All connections of a sandbox wait in one line for each direction, in which each moves a step at a time. It counts
//! nothing (the ledger does) and refuses nothing.
//!
//! - `INVARIANT`: no byte passes before it is paid for; where no bound is set, a read or a write costs one load.
//! - `INVARIANT`: a connection holds one step of bytes at most, and none while it need not wait.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::attach::Reset;
use crate::sandbox::Sandbox;
use crate::sandbox::quota::Paying;

/// A connection of the sandbox: what is read from it goes out, what is written to it comes in.
pub(super) struct Paced<Io> {
    io: Io,
    sandbox: Arc<Sandbox>,
    out: Option<Box<Held>>,
    inward: Option<Box<Paid>>,
}

/// Bytes that were read, and may not go on yet.
struct Held {
    bytes: Vec<u8>,
    given: usize,
    paying: Option<Paying>,
}

/// So many bytes may be written, once they are paid for.
struct Paid {
    count: usize,
    paying: Option<Paying>,
}

impl<Io> Paced<Io> {
    pub(super) fn new(io: Io, sandbox: Arc<Sandbox>) -> Self {
        Self { io, sandbox, out: None, inward: None }
    }
}

impl<Io: Reset> Reset for Paced<Io> {
    fn reset_on_drop(&mut self) {
        self.io.reset_on_drop();
    }
}

impl<Io: AsyncRead + Unpin> Paced<Io> {
    /// Reads one step at most; what is not paid for is held.
    fn poll_step(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, step: usize) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let step = step.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(step));
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        buf.advance(count);
        if let Some(paying) = self.sandbox.quota().egress.pay(count as u64) {
            let bytes = buf.filled().get(before..).unwrap_or_default().to_vec();
            buf.set_filled(before);
            self.out = Some(Box::new(Held { bytes, given: 0, paying: Some(paying) }));
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Paced<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.out.is_none() {
            let Some(step) = this.sandbox.quota().egress.step() else {
                return Pin::new(&mut this.io).poll_read(cx, buf);
            };
            ready!(this.poll_step(cx, buf, as_size(step)))?;
        }
        if let Some(held) = &mut this.out {
            ready!(poll_paying(&mut held.paying, cx));
            let left = held.bytes.get(held.given..).unwrap_or_default();
            let (now, later) = left.split_at(left.len().min(buf.remaining()));
            buf.put_slice(now);
            held.given += now.len();
            if later.is_empty() {
                this.out = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: Unpin> Paced<Io> {
    /// Ready when so many bytes, of `wanted`, may be written; `None` where no bound is set.
    fn poll_paid(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Option<usize>> {
        if self.inward.is_none() {
            let budget = &self.sandbox.quota().ingress;
            let Some(step) = budget.step() else { return Poll::Ready(None) };
            let count = wanted.min(as_size(step));
            self.inward = Some(Box::new(Paid { count, paying: budget.pay(count as u64) }));
        }
        if let Some(paid) = &mut self.inward {
            ready!(poll_paying(&mut paid.paying, cx));
            return Poll::Ready(Some(paid.count.min(wanted)));
        }
        Poll::Ready(None)
    }

    /// Of what was paid for, so much was written.
    fn spend(&mut self, written: usize) {
        self.inward.take_if(|paid| {
            paid.count = paid.count.saturating_sub(written);
            paid.count == 0
        });
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Paced<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let bytes = match ready!(this.poll_paid(cx, bytes.len())) {
            Some(count) => bytes.get(..count).unwrap_or(bytes),
            None => bytes,
        };
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        this.spend(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.inward.is_none() && !self.sandbox.quota().ingress.is_bounded() {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(cx, first.map_or(&[], |slice| slice))
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

/// Ready when nothing is left to be paid for.
fn poll_paying(paying: &mut Option<Paying>, cx: &mut Context<'_>) -> Poll<()> {
    if let Some(waiting) = paying {
        ready!(waiting.as_mut().poll(cx));
        *paying = None;
    }
    Poll::Ready(())
}

/// Steps are far smaller than what memory can hold.
fn as_size(step: u64) -> usize {
    usize::try_from(step).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::flow::SandboxId;
    use crate::policy::Policy;
    use crate::secret::Secrets;

    /// Bytes that the kernel would take at once.
    const ROOM: usize = 1 << 20;

    fn sandbox(limits: &str) -> Arc<Sandbox> {
        let sandbox = Sandbox::new(SandboxId::new("test").unwrap(), Policy::deny_all(), Secrets::default());
        sandbox.quota().set(&serde_json::from_str(limits).unwrap());
        Arc::new(sandbox)
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|n| (n % 251) as u8).collect()
    }

    /// How long it takes to bring `count` bytes out, and in; what comes is what was sent.
    async fn moved(sandbox: &Arc<Sandbox>, count: usize) -> [Duration; 2] {
        let (mut inside, ours) = duplex(ROOM);
        let mut ours = Paced::new(ours, Arc::clone(sandbox));
        inside.write_all(&bytes(count)).await.unwrap();
        let begun = Instant::now();
        let mut came = vec![0; count];
        ours.read_exact(&mut came).await.unwrap();
        let out = begun.elapsed();
        assert!(came == bytes(count));
        ours.write_all(&bytes(count)).await.unwrap();
        let inward = begun.elapsed() - out;
        inside.read_exact(&mut came).await.unwrap();
        assert!(came == bytes(count));
        [out, inward]
    }

    #[tokio::test(start_paused = true)]
    async fn each_way_has_a_rate_of_its_own_and_nothing_is_lost() {
        let [out, inward] = moved(&sandbox("{}"), ROOM).await;
        assert_eq!(out + inward, Duration::ZERO);
        let [out, inward] = moved(&sandbox(r#"{"egressBytesPerSecond": 65536}"#), ROOM).await;
        // A burst is a sixteenth of a second's.
        assert_eq!((out.as_millis(), inward.as_millis()), (15_938, 0));
        let [out, inward] = moved(&sandbox(r#"{"ingressBytesPerSecond": 131072}"#), ROOM).await;
        assert_eq!((out.as_millis(), inward.as_millis()), (0, 7_938));
    }

    #[tokio::test(start_paused = true)]
    async fn flows_of_one_sandbox_share_a_rate_and_take_turns() {
        let sandbox = sandbox(r#"{"egressBytesPerSecond": 65536}"#);
        let begun = Instant::now();
        let flow = |count| {
            let sandbox = Arc::clone(&sandbox);
            async move {
                moved(&sandbox, count).await;
                begun.elapsed().as_secs()
            }
        };
        let (large, small) = tokio::join!(flow(8 * 65_536), flow(65_536));
        assert_eq!((large, small), (8, 2), "half of the rate is its, as long as it wants it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bound_that_is_lifted_frees_what_waits() {
        let sandbox = sandbox(r#"{"egressBytesPerSecond": 1024, "ingressBytesPerSecond": 1024}"#);
        let lifting = Arc::clone(&sandbox);
        let lift = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            lifting.quota().set(&serde_json::from_str("{}").unwrap());
        });
        let times = moved(&sandbox, ROOM).await;
        assert_eq!(times.iter().sum::<Duration>().as_secs(), 3);
        lift.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn slices_are_paid_for_too_and_an_end_is_told() {
        let sandbox = sandbox(r#"{"ingressBytesPerSecond": 16384}"#);
        let (mut inside, ours) = duplex(ROOM);
        let mut ours = Paced::new(ours, sandbox);
        let begun = Instant::now();
        let parts = [0, 20_000, 5].map(bytes);
        let slices = parts.each_ref().map(|bytes| io::IoSlice::new(bytes));
        let mut written = 0;
        while written < 16_384 {
            written += ours.write_vectored(&slices).await.unwrap();
        }
        assert_eq!(begun.elapsed().as_millis(), 938);
        ours.shutdown().await.unwrap();
        let mut came = Vec::new();
        inside.read_to_end(&mut came).await.unwrap();
        assert_eq!(came.len(), 16_384);
        drop(inside);
        assert_eq!(ours.read(&mut [0; 9]).await.unwrap(), 0);
    }
}
