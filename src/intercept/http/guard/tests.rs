//! What passes the guard, what does not, and that it does not matter how the bytes are cut.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// Gives its bytes in pieces of `step`, then ends; takes what is written.
struct Wire {
    input: Vec<u8>,
    at: usize,
    step: usize,
    output: Vec<u8>,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.step.min(self.input.len() - self.at).min(buf.remaining());
        buf.put_slice(&self.input[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn answer() -> OnFault {
    Box::new(|fault| Bytes::from(format!("{fault:?}")))
}

/// What passed, what stopped it, and what the guard answered.
fn pass(input: &[u8], step: usize) -> (Vec<u8>, Option<Fault>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let watch = Arc::<Watch>::default();
        let wire = Wire { input: input.to_vec(), at: 0, step, output: Vec::new() };
        let mut guard = Guard::new(wire, Arc::clone(&watch), answer());
        let mut passed = Vec::new();
        let mut space = [0; 1024];
        loop {
            let read = tokio::select! {
                biased;
                read = guard.read(&mut space) => read.unwrap(),
                // A fault waits for what came before it: all of that counts as answered now.
                () = tokio::task::yield_now() => {
                    watch.invite();
                    while watch.is_busy() {
                        drop(watch.answering());
                    }
                    continue;
                }
            };
            if read == 0 {
                break;
            }
            passed.extend_from_slice(&space[..read]);
        }
        guard.shutdown().await.unwrap();
        (passed, watch.fault(), String::from_utf8(guard.io.output).unwrap())
    })
}

#[track_caller]
fn passes(input: &[u8]) {
    for step in [1, 7, 10_000] {
        let (passed, fault, answer) = pass(input, step);
        assert_eq!((fault, answer.as_str()), (None, ""), "{}", input.escape_ascii());
        assert_eq!(passed, input, "{}", input.escape_ascii());
    }
}

/// `good` passes, nothing of `bad` does, and the guard answers itself.
#[track_caller]
fn stops(good: &[u8], bad: &[u8], expected: Fault) {
    for step in [1, 7, 10_000] {
        let (passed, fault, answer) = pass(&[good, bad].concat(), step);
        assert_eq!(fault, Some(expected), "{}", bad.escape_ascii());
        assert_eq!(answer, format!("{expected:?}"), "{}", bad.escape_ascii());
        assert_eq!(passed, good, "{}", bad.escape_ascii());
    }
}

const GOOD: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[test]
fn what_is_in_order_passes_byte_for_byte() {
    for head in [
        "GET /a?b=%20 HTTP/1.1\r\nHost: a.test\r\nX: \t y \r\nEmpty:\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a.test:8080\r\n\r\n",
        "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "purge-it / HTTP/1.1\r\nhost:\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nab\0\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: Chunked\r\n\r\n\
         5\r\nab\0\r\n\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ] {
        passes(head.as_bytes());
    }
    passes("GET /\u{fc} HTTP/1.1\r\nHost: a.test\r\nX: \u{fc}\r\n\r\n".as_bytes());
}

#[test]
fn empty_lines_before_a_request_are_dropped() {
    let (passed, fault, _) = pass(&[b"\r\n\r\n", GOOD, b"\r\n", GOOD].concat(), 3);
    assert_eq!((passed, fault), ([GOOD, GOOD].concat(), None));
}

/// ATTACKS E46.
#[test]
fn a_body_that_can_be_framed_in_two_ways_is_malformed() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5,5",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -0",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding:",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: chunked\u{a0}",
    ] {
        let bad = format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n0\r\n\r\n");
        stops(GOOD, bad.as_bytes(), Fault::Malformed);
    }
    stops(GOOD, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Fault::Malformed);
}

/// ATTACKS E47.
#[test]
fn a_head_that_some_would_repair_is_malformed() {
    for bad in [
        &b"GET / HTTP/1.1\nHost: a.test\n\n"[..],
        b"GET / HTTP/1.1\r\nHost: a.test\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\n\n",
        b"GET / HTTP/1.1\rHost: a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\r\n\tb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX\t: y\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\x7fb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX\0: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\n: empty\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /a\tb HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /#x HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: a.test\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a.test\r\n\r\n",
        b"G(T / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        stops(GOOD, bad, Fault::Malformed);
    }
}

/// ATTACKS A8.
#[test]
fn a_doubtful_host_is_malformed() {
    for fields in [
        "",
        "Host: a.test\r\nHost: a.test\r\n",
        "Host: a.test\r\nhost: b.test\r\n",
        "Host: a.test, b.test\r\n",
        "Host: a.test b.test\r\n",
        "Host: a.test\r\n\tb.test\r\n",
    ] {
        stops(GOOD, format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes(), Fault::Malformed);
    }
}

#[test]
fn chunks_outside_the_grammar_end_the_body() {
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "\r\n0\r\n\r\n",
        ";\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "0\r\n\n",
        "0\r\nX: a\nY: b\r\n\r\n",
        "0\r\nAuthorization: Bearer x\r\n\r\n",
        "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nHost: b.test\r\n\r\n",
        "0\r\n folded\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
    ] {
        for step in [1, 10_000] {
            let (passed, fault, answer) = pass(format!("{head}{body}").as_bytes(), step);
            assert_eq!(fault, Some(Fault::Malformed), "{}", body.escape_debug());
            assert_eq!(answer, "", "the reader of the body answers: {}", body.escape_debug());
            assert!(passed.len() < head.len() + body.len(), "{}", body.escape_debug());
        }
    }
}

#[test]
fn what_is_no_http_is_named_so_at_its_first_line() {
    stops(b"", b"SSH-2.0-OpenSSH_9.2\r\n", Fault::NotHttp);
    stops(b"", b"\x16\x03\x01\x02\0\x01", Fault::NotHttp);
    stops(b"", b"EHLO a.test\r\n", Fault::NotHttp);
    stops(b"", b"GET /\r\n", Fault::NotHttp);
    stops(GOOD, b"EHLO a.test\r\n", Fault::Malformed);
}

#[test]
fn a_head_has_limits() {
    let long = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {}\r\n\r\n", "x".repeat(limits::HEAD_BYTES));
    stops(GOOD, long.as_bytes(), Fault::TooLarge);
    stops(GOOD, format!("GET /{}", "x".repeat(limits::HEAD_BYTES)).as_bytes(), Fault::TooLarge);
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n", "x: y\r\n".repeat(count - 1));
    passes(fields(limits::HEAD_FIELDS).as_bytes());
    stops(GOOD, fields(limits::HEAD_FIELDS + 1).as_bytes(), Fault::TooLarge);
}

#[test]
fn a_head_that_stops_in_its_middle_does_not_pass() {
    for length in 1..GOOD.len() {
        assert_eq!(pass(&GOOD[..length], 5), (Vec::new(), None, String::new()));
    }
}

struct Slow {
    client: DuplexStream,
    guard: Guard<DuplexStream>,
    watch: Arc<Watch>,
}

fn slow() -> Slow {
    let (client, io) = duplex(1024);
    let watch = Arc::<Watch>::default();
    Slow { client, guard: Guard::new(io, Arc::clone(&watch), answer()), watch }
}

#[tokio::test(start_paused = true)]
async fn a_head_may_not_take_for_ever() {
    let Slow { mut client, mut guard, watch } = slow();
    let start = Instant::now();
    let drip = async {
        loop {
            client.write_all(b"G").await.unwrap();
            tokio::time::sleep(std::time::Duration::from_secs(7)).await;
        }
    };
    let read = tokio::select! { read = guard.read_u8() => read, () = drip => panic!("the drip goes on") };
    assert!(read.is_err());
    assert_eq!(watch.fault(), Some(Fault::TooSlow));
    assert_eq!(start.elapsed(), limits::HEAD_TIME);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_but_not_while_a_request_is_answered() {
    let Slow { client, mut guard, watch } = slow();
    let start = Instant::now();
    watch.begin();
    let busy = watch.answering();
    let answering = async {
        tokio::time::sleep(3 * limits::KEEP_ALIVE / 2).await;
        drop(busy);
    };
    let (read, ()) = tokio::join!(guard.read_u8(), answering);
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!((watch.fault(), start.elapsed()), (None, 2 * limits::KEEP_ALIVE));
    drop(client);
}

#[tokio::test]
async fn a_fault_waits_for_the_answers_before_it() {
    let Slow { mut client, mut guard, watch } = slow();
    watch.begin();
    let busy = watch.answering();
    client.write_all(b"nonsense\r\n").await.unwrap();
    let mut byte = [0];
    let mut reading = tokio_test_task(guard.read(&mut byte));
    assert!(reading.poll_once().is_pending());
    drop(busy);
    assert_eq!(reading.finish().await.unwrap(), 0);
    assert_eq!(watch.fault(), Some(Fault::NotHttp));
}

const EXPECTS: &str = "POST / HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";

#[tokio::test]
async fn a_body_that_its_client_may_hold_back_passes_when_it_is_read() {
    let Slow { mut client, mut guard, watch } = slow();
    client.write_all(format!("{EXPECTS}bodyGET ").as_bytes()).await.unwrap();
    let mut head = vec![0; EXPECTS.len()];
    guard.read_exact(&mut head).await.unwrap();
    assert_eq!(head, EXPECTS.as_bytes());
    let mut body = [0; 16];
    let mut reading = tokio_test_task(guard.read(&mut body));
    for _ in 0..3 {
        assert!(reading.poll_once().is_pending());
    }
    watch.invite();
    assert_eq!(reading.finish().await.unwrap(), 4);
    assert!(body.starts_with(b"body"));
}

#[tokio::test]
async fn a_client_that_holds_its_body_back_and_leaves_is_seen_to() {
    let Slow { mut client, mut guard, .. } = slow();
    client.write_all(EXPECTS.as_bytes()).await.unwrap();
    guard.read_exact(&mut vec![0; EXPECTS.len()]).await.unwrap();
    drop(client);
    assert_eq!(guard.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_request_without_a_body_has_none_that_is_held_back() {
    let Slow { mut client, mut guard, watch } = slow();
    let request = EXPECTS.replace("content-length: 4", "content-length: 0");
    client.write_all(request.repeat(2).as_bytes()).await.unwrap();
    guard.read_exact(&mut vec![0; 2 * request.len()]).await.unwrap();
    assert!(!watch.withholds());
}

#[tokio::test]
async fn after_a_switch_of_protocols_everything_passes() {
    let Slow { mut client, mut guard, watch } = slow();
    client.write_all(b"\x81\x05he").await.unwrap();
    watch.switch_protocol();
    let mut frame = [0; 4];
    guard.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x81\x05he");
}

#[tokio::test]
async fn after_a_fault_a_switch_of_protocols_opens_nothing() {
    let Slow { mut client, mut guard, watch } = slow();
    watch.begin();
    let busy = watch.answering();
    client.write_all(b"\x81\x05too early").await.unwrap();
    let mut bytes = [0; 16];
    assert!(tokio_test_task(guard.read(&mut bytes)).poll_once().is_pending());
    watch.switch_protocol();
    drop(busy);
    client.write_all(b"later").await.unwrap();
    assert_eq!(guard.read(&mut bytes).await.unwrap(), 0);
}

/// A future that is polled by hand first.
struct ByHand<F>(Pin<Box<F>>);

fn tokio_test_task<F: Future>(future: F) -> ByHand<F> {
    ByHand(Box::pin(future))
}

impl<F: Future> ByHand<F> {
    fn poll_once(&mut self) -> Poll<F::Output> {
        self.0.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    async fn finish(self) -> F::Output {
        self.0.await
    }
}

/// Where an empty line before a head comes in two pieces, the head is looked at from its first byte.
#[test]
fn an_empty_line_in_two_pieces_hides_nothing() {
    for head in [&b"\0"[..], b"\x16\x03\x01", b"\n", b"\tGET / HTTP/1.1\r\n"] {
        let input = [b"\r\n", head].concat();
        let whole = pass(&input, input.len());
        assert!(whole.1.is_some(), "{head:?}");
        assert_eq!(pass(&input, 1), whole, "{head:?}");
    }
}

proptest! {
    /// Whatever comes in, however it is cut: the same passes, and only whole heads do.
    #[test]
    fn the_cut_does_not_matter(
        pieces in prop::collection::vec(prop_oneof![
            Just(GOOD.to_vec()),
            Just(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc".to_vec()),
            Just(b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..20),
        ], 0..5),
        step in 1usize..40,
    ) {
        let input = pieces.concat();
        let (whole, cut) = (pass(&input, input.len().max(1)), pass(&input, step));
        prop_assert_eq!(whole.1, cut.1);
        prop_assert_eq!(whole.0, cut.0);
    }
}
