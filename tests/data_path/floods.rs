//! HTTP/2 that is made to cost more than it brings: streams reset as they open, heads without end or far larger than
//! their bytes. Frames are written by hand, for no library sends such.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::rig::{Rig, exchange, speaking};
use super::upstreams::played;
use crate::support::PATIENCE;
use crate::support::origin::{Origin, Speaks, echo};
use crate::{GET, INJECTING, SECRET, status};

const DATA_END: u8 = 1;
const HEAD_END: u8 = 4;

/// What a frame is (RFC 9113 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data = 0,
    Headers = 1,
    Reset = 3,
    Settings = 4,
    Ping = 6,
    GoAway = 7,
    Continuation = 9,
}

fn frame(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind as u8, flags], &stream.to_be_bytes(), payload].concat()
}

/// The fields of a `GET` (RFC 7541, by the static table), uncompressed where it has none.
fn asking(path: &str) -> Vec<u8> {
    let text = |index: u8, text: &str| [&[index, text.len() as u8], text.as_bytes()].concat();
    [vec![0x82, 0x87], text(4, path), text(1, "allowed.test")].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What comes: its kind and its payload.
type Heard = (u8, Vec<u8>);

async fn next_frame(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Heard> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await?;
    let [high, middle, low, kind, ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
    io.read_exact(&mut payload).await?;
    Ok((kind, payload))
}

/// What comes until the connection ends, however it does.
async fn frames(mut io: impl AsyncRead + Unpin) -> Vec<Heard> {
    let mut frames = Vec::new();
    let all = async {
        while let Ok(frame) = next_frame(&mut io).await {
            frames.push(frame);
        }
    };
    timeout(PATIENCE, all).await.expect("an end");
    frames
}

/// Has a client of the sandbox send all of these; what it hears until the connection ends.
async fn say(rig: &Rig, frames_of_it: Vec<u8>) -> Vec<Heard> {
    let (hears, mut says) = tokio::io::split(rig.tls("allowed.test", &["h2"]).await);
    let saying = async move {
        // It may break off at any time.
        let _ = says.write_all(&[PREFACE, &frame(Kind::Settings, 0, 0, &[])].concat()).await;
        let _ = says.write_all(&frames_of_it).await;
        let _ = says.flush().await;
        says
    };
    let (heard, says) = tokio::join!(frames(hears), saying);
    drop(says);
    heard
}

/// No request was answered, and the connection was ended for what it asks of us (`ENHANCE_YOUR_CALM`, RFC 9113 §7), if
/// its reason was heard: whoever goes on sending may lose it.
fn assert_ended(heard: &[Heard]) {
    let is = |kind: Kind| heard.iter().filter(move |(heard, ..)| *heard == kind as u8);
    assert_eq!((is(Kind::Headers).count(), is(Kind::Data).count()), (0, 0), "{heard:?}");
    let mut reasons = is(Kind::GoAway).map(|(_, payload)| payload.get(4..8));
    assert!(reasons.all(|reason| reason == Some(&[0, 0, 0, 11])), "{heard:?}");
}

/// The same sandbox is served as before.
async fn assert_serves(rig: &Rig) {
    let mut io = rig.tls("allowed.test", &["http/1.1"]).await;
    assert_eq!(status(&exchange(&mut io, GET).await), 200);
}

async fn injecting() -> (Rig, Origin) {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let origin = rig.origin("allowed.test", Speaks::Https(rig.ca.tls(&["allowed.test"]), echo()));
    (rig, origin)
}

#[tokio::test]
async fn i90_streams_that_are_reset_as_they_open_end_the_connection() {
    const COUNT: u32 = 10_000;
    let (rig, origin) = injecting().await;
    let open_and_reset = |number: u32| {
        let stream = 2 * number + 1;
        let open = frame(Kind::Headers, DATA_END | HEAD_END, stream, &asking("/"));
        [open, frame(Kind::Reset, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    let heard = say(&rig, (0..COUNT).flat_map(open_and_reset).collect()).await;
    assert_ended(&heard);
    assert!(origin.requests().len() < 200, "{}", origin.requests().len());
    assert!(rig.requests().len() < 2000, "{}", rig.requests().len());
    assert_serves(&rig).await;
}

/// In steps, so that every request is taken before it is reset.
#[tokio::test]
async fn i90_streams_that_are_reset_when_they_are_taken_make_room_for_no_more_than_there_is() {
    const ROUNDS: u32 = 40;
    const STREAMS: u32 = exeat::limits::STREAMS;
    let (rig, origin) = injecting().await;
    let mut io = rig.tls("allowed.test", &["h2"]).await;
    io.write_all(&[PREFACE, &frame(Kind::Settings, 0, 0, &[])].concat()).await.expect("it reads");
    let heard = async {
        for round in 0..ROUNDS {
            let streams = (0..STREAMS).map(|number| 2 * (round * STREAMS + number) + 1);
            let open = |stream| frame(Kind::Headers, DATA_END | HEAD_END, stream, &asking("/"));
            let mut said: Vec<u8> = streams.clone().flat_map(open).collect();
            said.extend(frame(Kind::Ping, 0, 0, &u64::from(round).to_be_bytes()));
            io.write_all(&said).await?;
            io.flush().await?;
            // The ping is answered, so all before it is read.
            await_pong(&mut io, u64::from(round)).await?;
            let reset = |stream| frame(Kind::Reset, 0, stream, &8_u32.to_be_bytes());
            io.write_all(&streams.flat_map(reset).collect::<Vec<u8>>()).await?;
        }
        io.flush().await
    };
    // It is served to the end, or has an end before.
    let _ = timeout(3 * PATIENCE, heard).await.expect("an end");
    drop(io);
    assert_serves(&rig).await;
    rig.stop().await;
    assert_eq!(rig.closes().len(), 2, "nothing of it is left");
    drop(origin);
}

async fn await_pong(io: &mut (impl AsyncRead + Unpin), number: u64) -> io::Result<()> {
    while next_frame(io).await? != (Kind::Ping as u8, number.to_be_bytes().to_vec()) {}
    Ok(())
}

#[tokio::test]
async fn i90_a_head_that_goes_on_for_ever_ends_the_connection() {
    let (rig, origin) = injecting().await;
    let begun = frame(Kind::Headers, DATA_END, 1, &asking("/"));
    // Nothing each time; one byte of a field each time; as much as goes into a frame each time.
    let field = [&[0x00, 0x05], &b"x-end"[..], &[0x7f, 0xff, 0xff, 0x7f]].concat();
    let forms =
        [(Vec::new(), Vec::new(), 100_000), (field.clone(), vec![b'x'], 100_000), (field, vec![b'x'; 16_000], 200)];
    for (first, more, count) in forms {
        let mut flood = [begun.clone(), frame(Kind::Continuation, 0, 1, &first)].concat();
        flood.extend(frame(Kind::Continuation, 0, 1, &more).repeat(count));
        let heard = say(&rig, flood).await;
        assert_ended(&heard);
        assert_serves(&rig).await;
    }
    assert_eq!((rig.requests().len(), origin.requests().len()), (3, 3), "of those that were served");
}

/// A field of 4 KiB that is told once, and then by a byte (RFC 7541 §2.3.2).
fn bomb(before: Vec<u8>) -> Vec<u8> {
    let field = [&[0x40, 0x06], &b"x-bomb"[..], &[0x7f, 0xa1, 0x1e], &[b'x'; 4000]].concat();
    [before, field, vec![0xbe; 1000]].concat()
}

#[tokio::test]
async fn i90_a_head_that_is_far_larger_than_its_bytes_ends_the_connection() {
    let (rig, origin) = injecting().await;
    let told = frame(Kind::Headers, DATA_END | HEAD_END, 1, &bomb(asking("/")));
    let mut again = asking("/");
    again.extend([0xbe; 1000]);
    let more = (1..50).flat_map(|number| frame(Kind::Headers, DATA_END | HEAD_END, 2 * number + 1, &again));
    let leaving = frame(Kind::GoAway, 0, 0, &[0; 8]);
    let heard = say(&rig, told.into_iter().chain(more).chain(leaving).collect()).await;
    assert_ended(&heard);
    assert!(rig.requests().is_empty());
    assert_serves(&rig).await;
    assert_eq!(origin.requests().len(), 1);
}

/// An origin's answer to the first request of its connection, which is these frames.
async fn answering(rig: &Rig, answer: Vec<u8>) -> String {
    let (listener, tls) = (played(rig).await, speaking(&rig.ca.tls(&["allowed.test"]), "h2"));
    let origin = async {
        let (io, _) = listener.accept().await.expect("a connection");
        let mut io = tls.accept(io).await.expect("a handshake");
        io.write_all(&frame(Kind::Settings, 0, 0, &[])).await.expect("it reads");
        let mut preface = vec![0; PREFACE.len()];
        io.read_exact(&mut preface).await.expect("a preface");
        while next_frame(&mut io).await.expect("a request").0 != Kind::Headers as u8 {}
        let (mut hears, mut says) = tokio::io::split(io);
        let saying = async {
            // It may break off at any time.
            let _ = says.write_all(&answer).await;
            let _ = says.flush().await;
        };
        let mut rest = Vec::new();
        let hearing = timeout(PATIENCE, hears.read_to_end(&mut rest));
        let _ = tokio::join!(saying, hearing).1.expect("an end");
    };
    let client = async {
        let mut client = rig.http2("allowed.test").await;
        let request = http::Request::get("https://allowed.test/").body(Default::default()).expect("a request");
        let answered = timeout(PATIENCE, client.send_request(request)).await.expect("an answer");
        answered.map_or_else(|error| error.to_string(), |answer| answer.status().as_str().to_owned())
    };
    tokio::join!(origin, client).1
}

#[tokio::test]
async fn i90_an_origins_head_without_end_or_far_larger_than_its_bytes_is_no_answer() {
    let rig = Rig::with_secret(INJECTING, SECRET).await;
    let field = [&[0x88, 0x00, 0x05], &b"x-end"[..], &[0x7f, 0xff, 0xff, 0x7f]].concat();
    let begun = frame(Kind::Headers, 0, 1, &field);
    let endless = [begun, frame(Kind::Continuation, 0, 1, b"x").repeat(100_000)].concat();
    assert_eq!(answering(&rig, endless).await, "502");
    let bomb = frame(Kind::Headers, DATA_END | HEAD_END, 1, &bomb(vec![0x88]));
    assert_eq!(answering(&rig, bomb).await, "502");
}

#[tokio::test]
async fn i87_a_head_that_stops_in_its_middle_holds_nobody_up() {
    let (rig, origin) = injecting().await;
    let mut stalled = Vec::new();
    for _ in 0..50 {
        let mut io = rig.tls("allowed.test", &["h2"]).await;
        let begun = frame(Kind::Headers, DATA_END, 1, &asking("/"));
        io.write_all(&[PREFACE, &frame(Kind::Settings, 0, 0, &[]), &begun].concat()).await.expect("it reads");
        io.flush().await.expect("it reads");
        let mut http1 = rig.tls("allowed.test", &["http/1.1"]).await;
        http1.write_all(b"GET / HTTP/1.1\r\nHost: allo").await.expect("it reads");
        http1.flush().await.expect("it reads");
        stalled.push((io, http1));
    }
    timeout(Duration::from_secs(10), assert_serves(&rig)).await.expect("at once");
    assert_eq!(origin.requests().len(), 1);
    drop(stalled);
}

/// The buffers of a thread go from one flow to the next, whosever they are.
#[tokio::test]
async fn i91_what_one_sandbox_moved_reaches_no_other() {
    const CANARY: &[u8] = b"what another sandbox said ";
    let spliced = "allow: { allowed.test: [] }\nsubnets: { allow: [ 203.0.113.9/32, 127.0.0.0/8 ] }";
    let (loud, quiet) = (Rig::new(spliced).await, Rig::new(spliced).await);
    for _ in 0..3 {
        let mut ends = Vec::new();
        for (rig, said) in [(&loud, CANARY.repeat(10_000)), (&quiet, b"!".to_vec())] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
            let mut io = rig.connect(&listener.local_addr().expect("it is bound").to_string()).await;
            // First from the sandbox, for nobody looks at what it is before.
            io.write_all(&[&[0], &said[..]].concat()).await.expect("it reads");
            io.shutdown().await.expect("it is open");
            let (mut origin, _) = listener.accept().await.expect("a connection");
            let (mut out, mut back) = (Vec::new(), Vec::new());
            origin.read_to_end(&mut out).await.expect("an end");
            origin.write_all(&said).await.expect("it reads");
            drop(origin);
            io.read_to_end(&mut back).await.expect("an end");
            ends.push((said, out, back));
        }
        for (said, out, back) in ends {
            assert!(out[0] == 0 && out[1..] == said && back == said, "{} {}", out.len(), back.len());
        }
    }
}
