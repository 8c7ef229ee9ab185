//! The two loops that carry DNS questions to [`Dns`] and its answers back: datagrams, and the framing of TCP.
//!
//! Nothing is judged here. Both loops are bounded: the first by questions in work, the second by idle time.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::attach::Datagrams;
use crate::dns::{Dns, Transport};
use crate::limits;

/// Answers datagrams until `shutdown`. At most [`limits::DNS_INFLIGHT`] are in work; more wait in the socket, which
/// drops what does not fit, as UDP may.
pub async fn serve_datagrams<D: Datagrams>(socket: Arc<D>, dns: Arc<Dns>, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    let mut at_work = JoinSet::new();
    let mut buffer = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return,
            Some(_) = at_work.join_next() => {}
            envelope = socket.receive(&mut buffer), if at_work.len() < limits::DNS_INFLIGHT => {
                let (socket, dns, message) = (Arc::clone(&socket), Arc::clone(&dns), std::mem::take(&mut buffer));
                at_work.spawn(async move {
                    if let Some(answer) = dns.answer(&message, Transport::Datagram).await {
                        socket.reply(envelope, &answer).await;
                    }
                });
            }
        }
    }
}

/// Answers the questions of one connection, in order, until the client ends it or is idle for
/// [`limits::DNS_TCP_IDLE`] (RFC 7766 §6.2.3). Silence is no answer over TCP: what deserves it ends the connection.
///
/// # Errors
/// When the client breaks off in the middle of a message, or takes no answer.
pub async fn serve_stream<Io: AsyncRead + AsyncWrite + Unpin>(mut io: Io, dns: &Dns) -> io::Result<()> {
    let mut message = Vec::new();
    while let Some(length) = read_length(&mut io).await? {
        message.resize(length.into(), 0);
        within(io.read_exact(&mut message)).await?;
        let Some(answer) = dns.answer(&message, Transport::Stream).await else { break };
        let Ok(length) = u16::try_from(answer.len()) else { break };
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        within(io.write_all(&framed)).await?;
        within(io.flush()).await?;
    }
    within(io.shutdown()).await
}

/// The length of the next message (RFC 1035 §4.2.2); `None` when no more comes.
async fn read_length(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<u16>> {
    match timeout(limits::DNS_TCP_IDLE, io.read_u16()).await {
        Ok(Ok(length)) => Ok(Some(length)),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(None),
    }
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limits::DNS_TCP_IDLE, step).await.unwrap_or_else(|elapsed| Err(elapsed.into()))
}
