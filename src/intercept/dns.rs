//! The two loops that carry DNS questions to [`Dns`] and its answers back: datagrams, and the framing of TCP.
//!
//! Nothing is judged here. Both loops are bounded: the first by questions in work, the second by idle time.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Shutdown;
use crate::attach::Datagrams;
use crate::dns::{Dns, Transport};
use crate::limits;

/// Answers datagrams until `shutdown`: what is in work when no more is to be taken is still answered. At most
/// [`limits::DNS_INFLIGHT`] are in work; more wait in the socket, which drops what does not fit, as UDP may.
pub async fn serve_datagrams<D: Datagrams>(socket: Arc<D>, dns: Arc<Dns>, mut shutdown: Shutdown) {
    let mut ended = shutdown.clone();
    let answered = async move {
        let mut at_work = JoinSet::new();
        let mut buffer = Vec::new();
        while let Some(_turn) = shutdown.turn().await {
            loop {
                let envelope = tokio::select! {
                    biased;
                    () = shutdown.turn_is_over() => break,
                    Some(_) = at_work.join_next() => continue,
                    envelope = socket.receive(&mut buffer), if at_work.len() < limits::DNS_INFLIGHT => envelope,
                };
                let (socket, dns, message) = (Arc::clone(&socket), Arc::clone(&dns), std::mem::take(&mut buffer));
                at_work.spawn(async move {
                    if let Some(answer) = dns.answer(&message, Transport::Datagram).await {
                        socket.reply(envelope, &answer).await;
                    }
                });
            }
        }
        drop(socket);
        while at_work.join_next().await.is_some() {}
    };
    tokio::select! {
        () = ended.begun() => {}
        () = answered => {}
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use arc_swap::ArcSwap;
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};
    use tokio::io::{DuplexStream, duplex};
    use tokio::sync::{Mutex, Notify, mpsc};

    use super::super::shutdown;
    use super::*;
    use crate::attach::Envelope;
    use crate::audit::Fanout;
    use crate::flow::{ClientAddr, Domain, OriginalDst, SandboxId};
    use crate::policy::{BLOCK_V4, Flags, Policy, Protected, Terms};
    use crate::resolve::{Answer, Found, Resolve, ResolveError, Resolving};
    use crate::sandbox::Sandbox;
    use crate::secret::Secrets;

    /// Counts what it is asked, and waits for leave before it answers that nothing is there.
    #[derive(Default)]
    struct Slow {
        asked: AtomicUsize,
        leave: Notify,
    }

    impl Resolve for Slow {
        fn dial_addrs<'a>(&'a self, _: &'a Domain, _: u16) -> Resolving<'a, Vec<SocketAddr>> {
            Box::pin(async { Err(ResolveError::NotFound) })
        }

        fn lookup<'a>(&'a self, _: &'a Domain, _: RecordType) -> Resolving<'a, Answer> {
            Box::pin(async {
                self.asked.fetch_add(1, Ordering::Relaxed);
                self.leave.notified().await;
                Ok(Answer { found: Found::NoName(None), ttl: limits::DNS_TTL_FLOOR })
            })
        }

        fn overrides(&self, _: &Domain) -> bool {
            false
        }
    }

    fn dns(policy: Policy, resolve: Arc<dyn Resolve>) -> Arc<Dns> {
        let sandbox = Sandbox::new(SandboxId::new("test").unwrap(), policy, Secrets::default());
        let host = Arc::new(ArcSwap::from_pointee(Protected::new([])));
        Arc::new(Dns::new(Arc::new(sandbox), resolve, host, Arc::new(Fanout(Vec::new()))))
    }

    fn denying() -> Arc<Dns> {
        dns(Policy::deny_all(), Arc::new(Slow::default()))
    }

    fn question(id: u16) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii("www.example.com.").unwrap(), RecordType::A));
        message.to_vec().unwrap()
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    async fn read_answer(io: &mut DuplexStream) -> Message {
        let mut answer = vec![0; io.read_u16().await.unwrap().into()];
        io.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }

    #[tokio::test]
    async fn questions_in_one_stream_are_answered_in_order_however_they_are_cut() {
        let (mut client, server) = duplex(64 * 1024);
        let dns = denying();
        let served = tokio::spawn(async move { serve_stream(server, &dns).await });
        let bytes = [framed(&question(1)), framed(&question(2)), framed(&question(3))].concat();
        for byte in bytes {
            client.write_all(&[byte]).await.unwrap();
        }
        for id in 1..=3 {
            let answer = read_answer(&mut client).await;
            assert_eq!((answer.id, answer.answers[0].data.ip_addr()), (id, Some(BLOCK_V4.into())));
        }
        drop(client);
        served.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_stream_is_closed() {
        let (mut client, server) = duplex(1024);
        let served = tokio::spawn(async move { serve_stream(server, &denying()).await });
        let begun = tokio::time::Instant::now();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(begun.elapsed(), limits::DNS_TCP_IDLE);
        served.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_stops_in_a_message_is_given_up() {
        let (mut client, server) = duplex(1024);
        client.write_all(&framed(&question(1))[..9]).await.unwrap();
        let error = serve_stream(server, &denying()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_deserves_silence_ends_a_stream() {
        let (mut client, server) = duplex(1024);
        client.write_all(&framed(b"short")).await.unwrap();
        serve_stream(server, &denying()).await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }

    /// Datagrams from a channel; how many were taken out of it is seen from outside.
    struct Wire {
        questions: Mutex<mpsc::Receiver<Vec<u8>>>,
        answers: mpsc::UnboundedSender<Vec<u8>>,
    }

    impl Datagrams for Wire {
        async fn receive(&self, buffer: &mut Vec<u8>) -> Envelope {
            let Some(message) = self.questions.lock().await.recv().await else { std::future::pending().await };
            buffer.extend(message);
            let addr = SocketAddr::from(([127, 0, 0, 1], 53));
            Envelope { client: ClientAddr(addr), dst: OriginalDst(addr) }
        }

        async fn reply(&self, _: Envelope, message: &[u8]) {
            self.answers.send(message.to_vec()).unwrap();
        }
    }

    fn wire(room: usize) -> (mpsc::Sender<Vec<u8>>, mpsc::UnboundedReceiver<Vec<u8>>, Arc<Wire>) {
        let (ask, questions) = mpsc::channel(room);
        let (answers, answered) = mpsc::unbounded_channel();
        (ask, answered, Arc::new(Wire { questions: Mutex::new(questions), answers }))
    }

    #[tokio::test]
    async fn datagrams_are_answered_until_shutdown() {
        let (ask, mut answered, socket) = wire(8);
        let (stop, ended) = shutdown();
        let loops = tokio::spawn(serve_datagrams(socket, denying(), ended));
        ask.send(b"no question".to_vec()).await.unwrap();
        ask.send(question(7)).await.unwrap();
        let answer = Message::from_vec(&answered.recv().await.unwrap()).unwrap();
        assert_eq!(answer.id, 7, "what deserves silence gets it, and stops nothing");
        drop(stop);
        loops.await.unwrap();
        assert!(answered.recv().await.is_none(), "nothing is at work after the end");
    }

    #[tokio::test(start_paused = true)]
    async fn datagrams_in_work_are_bounded_and_the_rest_waits() {
        let flags = Flags { mode: Some("allow-all".into()), ..Flags::default() };
        let resolve = Arc::new(Slow::default());
        let dns = dns(Policy::compile(None, &flags, &Terms::default()).unwrap().policy, resolve.clone());
        let (ask, mut answered, socket) = wire(2 * limits::DNS_INFLIGHT);
        for _ in 0..limits::DNS_INFLIGHT + 1 {
            ask.send(question(1)).await.unwrap();
        }
        let (_stop, ended) = shutdown();
        let loops = tokio::spawn(serve_datagrams(socket, dns, ended));
        // Time is paused: it passes only when nothing else can happen.
        tokio::time::sleep(limits::DNS_TIME).await;
        assert_eq!(resolve.asked.load(Ordering::Relaxed), limits::DNS_INFLIGHT);
        assert_eq!(ask.capacity(), ask.max_capacity() - 1, "one question waits in the socket");
        resolve.leave.notify_one();
        answered.recv().await.unwrap();
        tokio::time::sleep(limits::DNS_TIME).await;
        assert_eq!(resolve.asked.load(Ordering::Relaxed), limits::DNS_INFLIGHT + 1);
        loops.abort();
    }

    #[tokio::test]
    async fn at_rest_no_question_is_taken_and_what_was_taken_is_answered() {
        let flags = Flags { mode: Some("allow-all".into()), ..Flags::default() };
        let resolve = Arc::new(Slow::default());
        let dns = dns(Policy::compile(None, &flags, &Terms::default()).unwrap().policy, resolve.clone());
        let (ask, mut answered, socket) = wire(8);
        let (stop, ended) = shutdown();
        let stop = Arc::new(stop);
        let rest = Arc::clone(&stop).at_rest().unwrap();
        let loops = tokio::spawn(serve_datagrams(socket, dns, ended));
        let id = |answer: Vec<u8>| Message::from_vec(&answer).unwrap().id;
        ask.send(question(1)).await.unwrap();
        drop(rest);
        while resolve.asked.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let rest = Arc::clone(&stop).rest().await;
        ask.send(question(2)).await.unwrap();
        resolve.leave.notify_one();
        assert_eq!(id(answered.recv().await.unwrap()), 1);
        assert_eq!(ask.capacity(), ask.max_capacity() - 1, "the second waits in the socket");
        // Whoever has it now is somebody else: what is to be taken no more is never taken.
        stop.drain();
        drop(rest);
        loops.await.unwrap();
        assert_eq!(resolve.asked.load(Ordering::Relaxed), 1);
    }
}
