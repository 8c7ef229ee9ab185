//! Whatever a sandbox says where PostgreSQL is spoken: who asks for TLS goes on with a hello or is unreadable, what
//! the client is told is grants and refusals alone, and no byte that it sent is lost or made up.

#![no_main]

use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use exeat::flow::Seen;
use exeat::intercept::peek::Prefixed;
use exeat::intercept::postgres;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime"));

fuzz_target!(|input: &[u8]| {
    let (first, rest) = input.split_at(input.len().min(8));
    if !postgres::may_begin(first) {
        return;
    }
    let client = Client { sent: rest.to_vec(), told: Vec::new() };
    let answered = RUNTIME.block_on(postgres::answer(Prefixed::new(first.to_vec(), client)));
    let Ok((seen, io, granted)) = answered else { return };
    let (prefix, client) = io.into_parts();
    assert!(client.told.iter().all(|byte| b"SN".contains(byte)), "{:?}", client.told);
    let told = client.told.iter().position(|byte| *byte == b'S');
    assert!(granted || told.is_none(), "a grant is no longer known of");
    assert!(told.is_none_or(|at| at + 1 == client.told.len()), "nothing is said after a grant");
    if granted {
        assert!(matches!(seen, Seen::Tls(_) | Seen::Unreadable(_)), "where TLS alone may follow: {seen:?}");
    }
    let left = [prefix.as_slice(), &client.sent].concat();
    assert!(input.ends_with(&left), "what is passed on was not sent so");
});

/// Has said all that it says, and hears what it is told.
struct Client {
    sent: Vec<u8>,
    told: Vec<u8>,
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.sent.len().min(buf.remaining());
        buf.put_slice(&self.sent[..count]);
        self.sent.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.told.extend(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
