//! A byte-level guard between a sandbox's HTTP/1 bytes and the HTTP library.
//!
//! It owns framing: it follows heads and bodies byte by byte, lets a head through only when all of it has come and is
//! beyond doubt, and ends the reading at the first byte that is not. So what the library would repair or accept in
//! silence (RFC 9112 §11.2: `Content-Length` beside `Transfer-Encoding`, bare LF, folded fields, `+5`, …) never
//! reaches it, and nobody upstream can read a message otherwise than we did. It never judges where a request may go.
//!
//! - `INVARIANT`: every head that passes satisfies `head::check`, keep-alive and pipelined ones included.
//! - `INVARIANT`: after a fault no further byte passes.
//! - `INVARIANT`: of a body that its client may hold back (`Expect`) no byte passes before somebody reads it; if nobody
//!   ever does, the connection ends with the answer: what follows may be that body or another request (RFC 9110
//!   §10.1.1), and the library would read on, or not, as it happens to have come.
//! - `INVARIANT`: what is written beside the library's bytes stands between two flushes of them.
//! - `INVARIANT`: a fault between requests is answered here, after every earlier answer; a fault inside a body is
//!   answered by whoever reads the body. Never both.
//!
//! It buffers one head at most ([`limits::HEAD_BYTES`]), and nothing while the connection is idle. So that the HTTP
//! library does not either, it is `Lent` to a connection of the library's, which is dropped when all is answered.

mod chunked;
mod head;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::timer::Timer;
use crate::limits;
use chunked::Chunked;

pub(super) use chunked::may_trail;

/// Why the reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The message cannot be framed without doubt.
    Malformed,
    /// The first message is no HTTP at all.
    NotHttp,
    /// More than [`limits::HEAD_BYTES`], or more than [`limits::HEAD_FIELDS`] fields.
    TooLarge,
    /// A head took longer than [`limits::HEAD_TIME`].
    TooSlow,
}

/// What the guard and those who answer requests tell each other.
#[derive(Debug, Default)]
pub struct Watch {
    busy: AtomicUsize,
    begun: AtomicUsize,
    through: AtomicBool,
    fault: Mutex<Option<Fault>>,
    reader: Mutex<Option<Waker>>,
    /// Interim answers to the request that is being answered, to be written.
    interims: Mutex<Interims>,
    /// Whether the body of the request that is being answered does not pass yet.
    withheld: AtomicBool,
    /// Whether the library has begun to write something, and not ended it.
    speaking: AtomicBool,
}

#[derive(Debug, Default)]
struct Interims {
    waiting: VecDeque<Bytes>,
    /// How many there were.
    count: usize,
}

impl Watch {
    /// Marks that a request has begun; the guard does, when it lets a head through.
    pub(super) fn begin(&self) {
        self.busy.fetch_add(1, Ordering::AcqRel);
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that has begun is being answered until the value is dropped.
    pub(super) fn answering(self: &Arc<Self>) -> Busy {
        Busy(Arc::clone(self))
    }

    /// Whether a request has begun and is not yet answered.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    /// How many requests have begun.
    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// What ended the reading, if something did.
    pub fn fault(&self) -> Option<Fault> {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on the bytes are no HTTP any more: the protocol was switched (RFC 9110 §15.2.2).
    pub(super) fn switch_protocol(&self) {
        self.through.store(true, Ordering::Release);
        self.wake();
    }

    /// Has an interim answer written, as soon as nothing else is being written.
    pub(super) fn interim(&self, head: Bytes) {
        let mut interims = self.interims();
        if interims.count < limits::INTERIMS {
            interims.count += 1;
            interims.waiting.push_back(head);
            drop(interims);
            self.wake();
        }
    }

    /// Whether the body of the request that is being answered does not pass until [`Watch::invite`].
    pub fn withholds(&self) -> bool {
        self.withheld.load(Ordering::Acquire)
    }

    /// The body of the request that is being answered is read from now on.
    pub fn invite(&self) {
        self.withheld.store(false, Ordering::Release);
        self.wake();
    }

    /// No more interim answers come, for the answer is next; what could not be written before it is not written.
    pub(super) fn answer_comes(&self) {
        let mut interims = self.interims();
        interims.count = 0;
        if self.speaking.load(Ordering::Acquire) {
            interims.waiting = VecDeque::new();
        }
    }

    fn interims(&self) -> MutexGuard<'_, Interims> {
        self.interims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn wait(&self, cx: &Context<'_>) {
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
    }
}

/// A request is being answered.
#[derive(Debug)]
pub(super) struct Busy(Arc<Watch>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
        self.0.wake();
    }
}

/// Is told of a fault, and words the answer to it: the bytes of a whole response.
pub type OnFault = Box<dyn FnMut(Fault) -> Bytes + Send>;

/// The guard itself: reads are checked, writes pass.
pub struct Guard<Io> {
    io: Io,
    watch: Arc<Watch>,
    on_fault: OnFault,
    /// Read and not yet let through.
    held: BytesMut,
    scan: head::Scan,
    /// How much of `held` has been checked and may pass.
    cleared: usize,
    expect: Expect,
    first: bool,
    /// When the head that is waited for must have come.
    deadline: Option<Instant>,
    timer: Timer,
    last_words: Bytes,
    /// What is left of an interim answer that is being written.
    interim: Bytes,
    lingering: Option<Pin<Box<Sleep>>>,
    /// Whether the sandbox has ended its side, or has been silent for too long.
    ended: bool,
    /// Whether all that was written has gone to the kernel.
    flushed: bool,
    /// Whether our side ends, or has ended.
    closing: bool,
}

/// What the next byte belongs to.
enum Expect {
    Head,
    Body(u64),
    Chunks(Chunked),
}

/// Bytes read at once where the reader's own buffer cannot be used.
const STEP: usize = 4 * 1024;

impl<Io> Guard<Io> {
    /// Stands before `io`.
    pub fn new(io: Io, watch: Arc<Watch>, on_fault: OnFault) -> Self {
        Self {
            io,
            watch,
            on_fault,
            held: BytesMut::new(),
            scan: head::Scan::default(),
            cleared: 0,
            expect: Expect::Head,
            first: true,
            deadline: None,
            timer: Timer::default(),
            last_words: Bytes::new(),
            interim: Bytes::new(),
            lingering: None,
            ended: false,
            flushed: true,
            closing: false,
        }
    }

    fn begin_to_speak(&mut self) {
        self.flushed = false;
        self.watch.speaking.store(true, Ordering::Release);
    }

    fn fail(&mut self, fault: Fault) {
        let between_requests = matches!(self.expect, Expect::Head);
        *self.watch.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        self.held = BytesMut::new();
        self.cleared = 0;
        self.deadline = None;
        let answer = (self.on_fault)(fault);
        if between_requests {
            self.last_words = answer;
        }
    }

    /// Hands cleared bytes to the reader.
    fn release(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.cleared.min(buf.remaining());
        buf.put_slice(self.held.get(..count).unwrap_or_default());
        self.held.advance(count);
        self.cleared -= count;
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
    }

    /// Looks at `held` for a whole head; clears it, or says what is wrong with it.
    fn take_head(&mut self) -> Result<(), Fault> {
        while self.held.starts_with(b"\r\n") {
            self.held.advance(2);
            // Half of the empty line may have been looked at as the beginning of a head.
            self.scan = head::Scan::default();
        }
        match self.scan.end(&self.held).and_then(|end| self.check_head(end)) {
            Ok(None) => Ok(()),
            Ok(Some((length, head))) => {
                self.cleared = length;
                self.watch.withheld.store(head.expects && head.body != head::Body::None, Ordering::Release);
                self.watch.begin();
                self.scan = head::Scan::default();
                self.first = false;
                self.deadline = None;
                self.expect = match head.body {
                    head::Body::None => Expect::Head,
                    head::Body::Length(length) => Expect::Body(length),
                    head::Body::Chunked => Expect::Chunks(Chunked::default()),
                };
                Ok(())
            }
            Err(head::HeadFault::TooLarge) => Err(Fault::TooLarge),
            Err(head::HeadFault::NoRequestLine) if self.first => Err(Fault::NotHttp),
            Err(head::HeadFault::NoRequestLine | head::HeadFault::Malformed) => Err(Fault::Malformed),
        }
    }

    fn check_head(&self, end: Option<usize>) -> Result<Option<(usize, head::Head)>, head::HeadFault> {
        let Some(length) = end else { return Ok(None) };
        head::check(self.held.get(..length).unwrap_or_default()).map(|head| Some((length, head)))
    }

    /// How many of `bytes` belong to the body and are in order; `Err` beside how many were, where one is not.
    fn scan_body(&mut self, bytes: &[u8]) -> (usize, Result<(), Fault>) {
        match &mut self.expect {
            Expect::Head => (0, Ok(())),
            Expect::Body(left) => {
                let count = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= count as u64;
                if *left == 0 {
                    self.expect = Expect::Head;
                }
                (count, Ok(()))
            }
            Expect::Chunks(chunks) => {
                let (count, state) = chunks.scan(bytes);
                if state == Ok(chunked::State::Done) {
                    self.expect = Expect::Head;
                }
                (count, state.map(|_| ()).map_err(|()| Fault::Malformed))
            }
        }
    }
}

impl<Io: AsyncRead + Unpin> Guard<Io> {
    /// Reads more of a head; `Ready(Ok(0))` at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [0; STEP];
        let mut step = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut step))?;
        self.held.extend_from_slice(step.filled());
        Poll::Ready(Ok(step.filled().len()))
    }

    /// The clock of a head: idle time before its first byte, [`limits::HEAD_TIME`] from it on.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, begun: bool) -> Poll<()> {
        let allowed = if begun { limits::HEAD_TIME } else { limits::KEEP_ALIVE };
        let due = *self.deadline.get_or_insert_with(|| Instant::now() + allowed);
        self.timer.poll(due, cx)
    }

    /// Waits for a head. Ready when there is something to release, a fault, or no more to come.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Progress>> {
        loop {
            if let Err(fault) = self.take_head() {
                self.fail(fault);
                return Poll::Ready(Ok(Progress::More));
            }
            if self.cleared > 0 {
                return Poll::Ready(Ok(Progress::More));
            }
            let begun = !self.held.is_empty();
            match self.poll_fill(cx)? {
                Poll::Ready(0) => return Poll::Ready(Ok(Progress::End)),
                Poll::Ready(_) => {
                    if !begun {
                        self.deadline = None;
                    }
                }
                Poll::Pending => {
                    ready!(self.poll_deadline(cx, begun));
                    self.deadline = None;
                    if begun {
                        self.fail(Fault::TooSlow);
                        return Poll::Ready(Ok(Progress::More));
                    }
                    if !self.watch.is_busy() {
                        return Poll::Ready(Ok(Progress::End));
                    }
                }
            }
        }
    }

    /// Holds a body back. Ready at the end of the stream, as far as that is seen.
    fn poll_withheld(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Progress>> {
        while self.held.is_empty() {
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(Progress::End));
            }
        }
        Poll::Pending
    }

    /// Reads a body straight into the reader's buffer; what comes after its end is held.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Progress>> {
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let (count, state) = self.scan_body(&held);
            self.held = held;
            self.cleared = count;
            if let Err(fault) = state {
                self.held.truncate(count);
                self.release(buf);
                self.fail(fault);
                return Poll::Ready(Ok(if count > 0 { Progress::Filled } else { Progress::More }));
            }
            return Poll::Ready(Ok(Progress::More));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        if fresh.is_empty() {
            return Poll::Ready(Ok(Progress::End));
        }
        let (count, state) = self.scan_body(fresh);
        if state.is_ok() {
            self.held.extend_from_slice(fresh.get(count..).unwrap_or_default());
        }
        buf.set_filled(before + count);
        if let Err(fault) = state {
            self.fail(fault);
        }
        Poll::Ready(Ok(if count > 0 { Progress::Filled } else { Progress::More }))
    }
}

impl<Io: AsyncRead + Unpin> Guard<Io> {
    /// Reads on for a moment, to no purpose but one: to close a connection with unread bytes resets it, and a client
    /// that is still sending would lose the answer (RFC 9112 §9.6).
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [0; STEP];
        let allowed = Instant::now() + limits::LINGER;
        let moment = self.lingering.get_or_insert_with(|| Box::pin(sleep_until(allowed)));
        while !self.ended && moment.as_mut().poll(cx).is_pending() {
            let mut step = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut step)) {
                Ok(()) => self.ended = step.filled().is_empty(),
                Err(_) => self.ended = true,
            }
        }
        Poll::Ready(())
    }
}

/// What a step of reading brought.
enum Progress {
    /// Look again: something was cleared, or a fault was found.
    More,
    /// The reader's buffer has new bytes.
    Filled,
    /// The stream is at its end.
    End,
}

impl<Io: AsyncRead + Unpin> AsyncRead for Guard<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.watch.wait(cx);
        loop {
            if buf.remaining() == 0 || this.ended {
                return Poll::Ready(Ok(()));
            }
            if this.watch.fault().is_some() {
                // Earlier requests are answered first; the end of the stream would cut them off. In a body, the
                // request that is being answered is the one at fault, and has to learn of it.
                let between_requests = matches!(this.expect, Expect::Head);
                return if between_requests && this.watch.is_busy() { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            if this.watch.through.load(Ordering::Acquire) {
                this.cleared = this.held.len();
                if this.cleared == 0 {
                    return Pin::new(&mut this.io).poll_read(cx, buf);
                }
            }
            if this.cleared > 0 {
                this.release(buf);
                return Poll::Ready(Ok(()));
            }
            let progress = match this.expect {
                Expect::Head => ready!(this.poll_head(cx))?,
                Expect::Body(_) | Expect::Chunks(_) if this.watch.withholds() => ready!(this.poll_withheld(cx))?,
                Expect::Body(_) | Expect::Chunks(_) => ready!(this.poll_body(cx, buf))?,
            };
            match progress {
                Progress::More => {}
                Progress::Filled => return Poll::Ready(Ok(())),
                Progress::End => {
                    this.ended = true;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<Io: AsyncWrite + Unpin> Guard<Io> {
    /// Writes the interim answers that wait, unless the library is in the middle of something.
    fn poll_interims(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while !self.interim.is_empty() {
                self.flushed = false;
                let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.interim))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.interim.advance(count);
            }
            if self.watch.speaking.load(Ordering::Acquire) {
                return Poll::Ready(Ok(()));
            }
            let Some(next) = self.watch.interims().waiting.pop_front() else { return Poll::Ready(Ok(())) };
            self.interim = next;
        }
    }

    /// The same, to their last byte, while the library has nothing to say. What breaks, the library finds broken.
    fn speak(&mut self, cx: &mut Context<'_>) {
        self.watch.wait(cx);
        let is_quiet = !self.watch.speaking.load(Ordering::Acquire);
        if is_quiet && matches!(self.poll_interims(cx), Poll::Ready(Ok(()))) && !self.flushed {
            self.flushed = matches!(Pin::new(&mut self.io).poll_flush(cx), Poll::Ready(Ok(())));
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_interims(cx))?;
        self.begin_to_speak();
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interims(cx))?;
        self.begin_to_speak();
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The library holds nothing back by now.
        self.watch.speaking.store(false, Ordering::Release);
        ready!(self.poll_interims(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.flushed = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.closing = true;
        while !this.last_words.is_empty() {
            let count = ready!(Pin::new(&mut this.io).poll_write(cx, &this.last_words))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.last_words.advance(count);
        }
        ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        this.poll_linger(cx).map(Ok)
    }
}

impl<Io: AsyncRead + Unpin> Guard<Io> {
    /// Ready when there is something to be read: a head, the end, or a fault.
    fn poll_stir(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.watch.wait(cx);
        if self.cleared == 0 && matches!(self.expect, Expect::Head) && self.watch.fault().is_none() && !self.ended {
            match ready!(self.poll_head(cx)) {
                Ok(Progress::More | Progress::Filled) => {}
                // What broke is at its end, too: there is nobody left to answer.
                Ok(Progress::End) | Err(_) => self.ended = true,
            }
        }
        Poll::Ready(())
    }
}

impl<Io> Guard<Io> {
    /// Whether every request is answered to its last byte, and nothing of another has come.
    fn rests(&self) -> bool {
        let between_requests = matches!(self.expect, Expect::Head) && self.held.is_empty();
        let goes_on =
            !self.ended && !self.closing && self.watch.fault().is_none() && !self.watch.through.load(Ordering::Acquire);
        between_requests && goes_on && self.flushed && !self.watch.is_busy()
    }
}

/// A guard that is lent to one connection of the HTTP library after the other; they hold buffers, even while nothing
/// comes.
pub(super) struct Lent<Io>(Arc<Mutex<Guard<Io>>>);

impl<Io> Lent<Io> {
    /// The first loan.
    pub(super) fn new(guard: Guard<Io>) -> Self {
        Self(Arc::new(Mutex::new(guard)))
    }

    /// Another; the one before is no longer used by then.
    pub(super) fn again(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// Whether the library's connection may be dropped: every request is answered to its last byte, and nothing of
    /// another has come.
    pub(super) fn rests(&self) -> bool {
        self.guard().rests()
    }

    fn guard(&self) -> MutexGuard<'_, Guard<Io>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Io: AsyncWrite + Unpin> Lent<Io> {
    /// Writes what is to be said before the answer, while the library waits for it.
    pub(super) fn speak(&self, cx: &mut Context<'_>) {
        self.guard().speak(cx);
    }
}

impl<Io: AsyncRead + Unpin> Lent<Io> {
    /// Ready when there is something for the library to read, the end included.
    pub(super) async fn stirs(&self) {
        poll_fn(|cx| self.guard().poll_stir(cx)).await;
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Lent<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.guard()).poll_read(cx, buf)
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lent<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.guard()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.guard()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.guard().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.guard()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.guard()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
