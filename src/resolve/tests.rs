//! Against a real DNS server on loopback, which keeps the questions that reached it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, TXT};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::*;
use crate::sandbox::quota::{Limits, Quota};

/// What a sandbox may ask of which nothing is said.
fn budget() -> Arc<Budget> {
    Quota::new(&Limits::default()).questions
}

/// A resolver of the host, under the test's control.
pub(crate) struct Server {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<Message>>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(answer: impl Fn(&Query, Message) -> Option<Message> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (addr, asked) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let questions = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let mut reply = Message::new(question.id, MessageType::Response, OpCode::Query);
                reply.metadata.recursion_available = true;
                reply.add_queries(question.queries.iter().cloned());
                let reply = answer(&question.queries[0], reply);
                questions.lock().unwrap().push(question);
                if let Some(reply) = reply {
                    socket.send_to(&reply.to_vec().unwrap(), client).await.unwrap();
                }
            }
        });
        Self { addr, asked, task }
    }

    /// Answers every name with the same addresses.
    pub(crate) async fn with_addrs(addrs: &'static [&'static str]) -> Self {
        Self::start(move |query, mut reply| {
            let addrs = addrs.iter().map(|addr| addr.parse::<IpAddr>().unwrap());
            let records = addrs.filter(|addr| kind_of(*addr) == query.query_type());
            reply.add_answers(records.map(|addr| Record::from_rdata(query.name().clone(), 0, RData::from(addr))));
            Some(reply)
        })
        .await
    }

    pub(crate) fn host(&self) -> Arc<HostResolver> {
        Arc::new(HostResolver::with_servers(&[self.addr.into()], no_roots(), Overrides::default(), true))
    }

    pub(crate) fn questions(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .map(|message| format!("{} {}", message.queries[0].name(), message.queries[0].query_type()))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn no_roots() -> Arc<RootCertStore> {
    Arc::new(RootCertStore::empty())
}

fn name(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn fqdn(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn overrides(specs: &[&str]) -> Overrides {
    specs.iter().map(|spec| spec.parse::<Override>().unwrap()).collect()
}

async fn addrs(resolver: &SandboxResolver, of: &str, kind: RecordType) -> Result<Vec<String>, ResolveError> {
    match resolver.lookup(&name(of), kind).await?.found {
        Found::Records(records) => Ok(records.iter().map(ToString::to_string).collect()),
        Found::NoData(_) => Ok(Vec::new()),
        Found::NoName(_) => Err(ResolveError::NotFound),
    }
}

async fn dial(resolver: &SandboxResolver, to: &str, port: u16) -> Result<Vec<String>, ResolveError> {
    let addrs = resolver.dial_addrs(&name(to), port).await?;
    Ok(addrs.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn the_question_is_rebuilt_in_lower_case_with_our_own_edns_and_no_search_list() {
    let server = Server::with_addrs(&["192.0.2.7"]).await;
    let resolver = server.host().for_sandbox(budget());
    assert_eq!(addrs(&resolver, "API.Example.COM.", RecordType::A).await.unwrap(), ["192.0.2.7"]);
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].queries[0].name().eq_case(&fqdn("api.example.com.")), "{}", asked[0].queries[0]);
    assert_eq!(usize::from(asked[0].edns.as_ref().unwrap().max_payload()), limits::DNS_EDNS_BYTES);
    assert!(asked[0].edns.as_ref().unwrap().options().options.is_empty());
    assert!(asked[0].recursion_desired);
}

#[tokio::test]
async fn what_was_answered_is_what_is_dialled_even_with_ttl_zero() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |query, mut reply| {
        if query.query_type() == RecordType::A {
            let addr = A::new(192, 0, 2, u8::try_from(turn.fetch_add(1, Ordering::Relaxed)).unwrap());
            reply.add_answer(Record::from_rdata(query.name().clone(), 0, RData::A(addr)));
        }
        Some(reply)
    })
    .await;
    let resolver = server.host().for_sandbox(budget());
    let answered = addrs(&resolver, "rebind.example", RecordType::A).await.unwrap();
    assert_eq!(answered, ["192.0.2.0"]);
    assert_eq!(dial(&resolver, "rebind.example", 443).await.unwrap(), ["192.0.2.0:443"]);
}

#[tokio::test]
async fn one_cache_serves_every_sandbox_and_what_is_asked_at_once_is_asked_once() {
    let server = Server::with_addrs(&["192.0.2.7"]).await;
    let host = server.host();
    let (one, other) = (host.for_sandbox(budget()), host.for_sandbox(budget()));
    let (a, b) = tokio::join!(addrs(&one, "a.example", RecordType::A), addrs(&other, "a.example", RecordType::A));
    assert_eq!(a, b);
    assert_eq!(server.questions(), ["a.example. A"]);
}

#[tokio::test]
async fn alias_chains_are_flattened_to_their_shortest_ttl() {
    let server = Server::start(|query, mut reply| {
        let alias = |from: &str, to: &str, ttl| Record::from_rdata(fqdn(from), ttl, RData::CNAME(CNAME(fqdn(to))));
        reply.add_answer(alias("www.example.", "cdn.example.", 300));
        reply.add_answer(alias("cdn.example.", "edge.example.", 30));
        reply.add_answer(Record::from_rdata(fqdn("edge.example."), 600, RData::A(A::new(192, 0, 2, 1))));
        reply.add_answer(Record::from_rdata(fqdn("other.example."), 600, RData::A(A::new(192, 0, 2, 66))));
        (query.query_type() == RecordType::A).then_some(reply)
    })
    .await;
    let answer = server.host().for_sandbox(budget()).lookup(&name("www.example"), RecordType::A).await.unwrap();
    assert_eq!(*answer.records(), [RData::A(A::new(192, 0, 2, 1))]);
    assert!(answer.ttl <= Duration::from_secs(30) && answer.ttl > Duration::from_secs(25), "{:?}", answer.ttl);
}

/// A mock does not recurse, and so leaves an alias alone; `unbound` does in `tests/clients`, for what it was told.
#[tokio::test]
async fn an_alias_alone_is_no_data_and_what_it_stands_for_is_not_asked() {
    let server = Server::start(|query, mut reply| {
        let target = match query.name().to_string().as_str() {
            "www.example." => Some("denied.example."),
            "dangling.example." => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                Some("gone.example.")
            }
            _ => None,
        };
        let data = target.map_or(RData::A(A::new(192, 0, 2, 66)), |target| RData::CNAME(CNAME(fqdn(target))));
        reply.add_answer(Record::from_rdata(query.name().clone(), 300, data));
        Some(reply)
    })
    .await;
    let resolver = server.host().for_sandbox(budget());
    for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::SRV, RecordType::TXT] {
        assert_eq!(addrs(&resolver, "www.example", kind).await, Ok(Vec::new()), "{kind}");
    }
    assert_eq!(addrs(&resolver, "www.example", RecordType::CNAME).await.unwrap(), ["denied.example."]);
    assert_eq!(addrs(&resolver, "dangling.example", RecordType::A).await, Err(ResolveError::NotFound));
    assert_eq!(dial(&resolver, "www.example", 443).await, Err(ResolveError::NotFound));
    let asked = server.questions();
    assert!(!asked.iter().any(|question| question.contains("denied") || question.contains("gone")), "{asked:?}");
    assert_eq!(asked.len(), 7, "each is kept: {asked:?}");
}

#[test]
fn an_alias_circle_ends() {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    for (from, to) in [("a.example.", "b.example."), ("b.example.", "a.example.")] {
        message.add_answer(Record::from_rdata(fqdn(from), 60, RData::CNAME(CNAME(fqdn(to)))));
    }
    assert!(client::flatten(&message, None, fqdn("a.example."), RecordType::A).records().is_empty());
}

#[tokio::test]
async fn a_name_without_the_type_is_not_a_name_that_does_not_exist_and_both_are_kept() {
    let server = Server::start(|query, mut reply| {
        if query.name().to_string() == "gone.example." {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        let soa = SOA::new(fqdn("ns.example."), fqdn("admin.example."), 1, 3600, 600, 86400, 300);
        reply.add_authority(Record::from_rdata(fqdn("example."), 300, RData::SOA(soa)));
        Some(reply)
    })
    .await;
    let resolver = server.host().for_sandbox(budget());
    for _ in 0..2 {
        assert_eq!(addrs(&resolver, "gone.example", RecordType::A).await, Err(ResolveError::NotFound));
        assert_eq!(addrs(&resolver, "bare.example", RecordType::A).await, Ok(Vec::new()));
    }
    assert_eq!(server.questions(), ["gone.example. A", "bare.example. A"]);
    assert_eq!(dial(&resolver, "bare.example", 80).await, Err(ResolveError::NotFound));
}

#[tokio::test]
async fn what_is_not_there_is_so_by_the_word_of_its_zone_for_as_long_as_zone_and_limits_say() {
    let server = Server::start(|query, mut reply| {
        let name = query.name().to_string();
        if name.starts_with("gone") {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        let (ttl, minimum) = if name.contains("long") { (86400, 7200) } else { (30, 20) };
        let soa = SOA::new(fqdn("ns.example."), fqdn("admin.example."), 1, 3600, 600, 86400, minimum);
        reply.add_authority(Record::from_rdata(fqdn("example."), ttl, RData::SOA(soa)));
        if name.starts_with("alias") {
            let target = RData::CNAME(CNAME(fqdn("end.example.")));
            reply.add_answer(Record::from_rdata(query.name().clone(), 15, target));
        }
        if name.starts_with("short") {
            reply.authorities.clear();
        }
        Some(reply)
    })
    .await;
    let resolver = server.host().for_sandbox(budget());
    for (of, most) in [
        ("gone.example", Duration::from_secs(20)),
        ("bare.example", Duration::from_secs(20)),
        ("alias.example", Duration::from_secs(15)),
        ("gone-long.example", limits::DNS_NEGATIVE_TTL),
        ("bare-long.example", limits::DNS_NEGATIVE_TTL),
    ] {
        let answer = resolver.lookup(&name(of), RecordType::A).await.unwrap();
        let zone = match answer.found {
            Found::NoName(zone) if of.starts_with("gone") => zone,
            Found::NoData(zone) if !of.starts_with("gone") => zone,
            other => panic!("{of}: {other:?}"),
        };
        assert_eq!(zone.map(|zone| zone.name.clone()), Some(fqdn("example.")), "{of}");
        assert!(answer.ttl <= most && answer.ttl + Duration::from_secs(3) > most, "{of}: {:?}", answer.ttl);
    }
    let answer = resolver.lookup(&name("short.example"), RecordType::A).await.unwrap();
    assert_eq!(answer.found, Found::NoData(None), "nobody's word");
    assert!(answer.ttl <= limits::DNS_TTL_FLOOR);
}

#[tokio::test]
async fn a_server_that_fails_is_told_from_one_that_is_silent() {
    let failing = Server::start(|_, mut reply| {
        reply.metadata.response_code = ResponseCode::ServFail;
        Some(reply)
    })
    .await;
    let resolver = failing.host().for_sandbox(budget());
    assert_eq!(addrs(&resolver, "a.example", RecordType::A).await, Err(ResolveError::Failed));

    let silent = Server::start(|_, _| None).await;
    let resolver = silent.host().for_sandbox(budget());
    tokio::time::pause();
    let begun = Instant::now();
    assert_eq!(addrs(&resolver, "a.example", RecordType::A).await, Err(ResolveError::TimedOut));
    assert!(begun.elapsed() <= limits::DNS_TIME + Duration::from_millis(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_host_without_resolvers_is_an_error_that_says_so() {
    let resolver =
        Arc::new(HostResolver::with_servers(&[], no_roots(), Overrides::default(), true)).for_sandbox(budget());
    let error = addrs(&resolver, "a.example", RecordType::A).await.unwrap_err();
    assert_eq!(error.to_string(), "the host's /etc/resolv.conf names no usable resolver");
    assert_eq!(dial(&resolver, "a.example", 80).await, Err(ResolveError::NoResolver));
}

#[tokio::test]
async fn a_sandbox_pays_for_cache_misses_by_question_and_by_dial_alike() {
    let server = Server::with_addrs(&["192.0.2.7"]).await;
    let host = server.host();
    let (spender, other) = (host.for_sandbox(budget()), host.for_sandbox(budget()));
    for number in 0..limits::DNS_BURST - 2 {
        addrs(&spender, &format!("n{number}.example"), RecordType::TXT).await.unwrap();
    }
    dial(&spender, "last.example", 443).await.expect("A and AAAA are the last two questions of the burst");
    assert_eq!(dial(&spender, "over.example", 443).await, Err(ResolveError::OverBudget));
    assert_eq!(addrs(&spender, "over.example", RecordType::A).await, Err(ResolveError::OverBudget));
    assert_eq!(server.questions().len(), limits::DNS_BURST as usize, "nothing over the budget leaves");
    let servers = host.servers.load_full();
    servers.cache.run_pending_tasks();
    assert_eq!(servers.cache.entry_count(), u64::from(limits::DNS_BURST), "nor does it take room in the cache");
    addrs(&spender, "n0.example", RecordType::TXT).await.expect("what is kept costs nothing");
    addrs(&other, "over.example", RecordType::A).await.expect("another sandbox has its own budget");
    addrs(&spender, "over.example", RecordType::A).await.expect("and what it asked is kept for all");
}

#[tokio::test]
async fn special_use_names_reach_no_resolver() {
    let server = Server::with_addrs(&["192.0.2.7"]).await;
    let resolver = server.host().for_sandbox(budget());
    let special = [
        "localhost",
        "app.localhost",
        "intranet",
        "printer.local",
        "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion",
        "allowed.test",
        "x.invalid",
        "router.home.arpa",
        "ipv4only.arpa",
        "_dns.resolver.arpa",
        "7.2.0.192.in-addr.arpa",
        "name.alt",
        "use-application-dns.net",
        "x.use-application-dns.net",
    ];
    for text in special {
        assert!(name(text).is_special_use(), "{text}");
        assert_eq!(addrs(&resolver, text, RecordType::A).await, Err(ResolveError::NotFound), "{text}");
        assert_eq!(dial(&resolver, text, 80).await, Err(ResolveError::NotFound), "{text}");
    }
    assert_eq!(server.questions(), [""; 0]);
    for text in ["example.com", "not-use-application-dns.net", "test.example", "local.example", "onion.example"] {
        assert!(!name(text).is_special_use(), "{text}");
    }
}

#[tokio::test]
async fn ipv6_is_withheld_from_a_host_without_a_route() {
    let server = Server::with_addrs(&["192.0.2.7", "2001:db8::7"]).await;
    let host = Arc::new(HostResolver::with_servers(
        &[server.addr.into()],
        no_roots(),
        overrides(&["six.example:443:[2001:db8::6]"]),
        false,
    ));
    let resolver = host.for_sandbox(budget());
    assert_eq!(addrs(&resolver, "a.example", RecordType::AAAA).await, Ok(Vec::new()));
    assert_eq!(dial(&resolver, "a.example", 443).await.unwrap(), ["192.0.2.7:443"]);
    assert_eq!(dial(&resolver, "six.example", 443).await.unwrap(), ["[2001:db8::6]:443"], "the operator knows better");
    assert_eq!(server.questions(), ["a.example. A"]);
}

#[tokio::test]
async fn a_dial_tries_the_families_in_turn_ipv6_first() {
    let server = Server::with_addrs(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"]).await;
    let dialled = dial(&server.host().for_sandbox(budget()), "a.example", 443).await.unwrap();
    assert_eq!(dialled, ["[2001:db8::1]:443", "192.0.2.1:443", "192.0.2.2:443", "192.0.2.3:443"]);
}

#[tokio::test]
async fn a_dial_does_not_wait_for_a_family_that_is_not_answered() {
    let server = Server::start(|query, mut reply| {
        reply.add_answer(Record::from_rdata(query.name().clone(), 60, RData::A(A::new(192, 0, 2, 1))));
        (query.query_type() == RecordType::A).then_some(reply)
    })
    .await;
    let resolver = server.host().for_sandbox(budget());
    let begun = std::time::Instant::now();
    assert_eq!(dial(&resolver, "a.example", 443).await.unwrap(), ["192.0.2.1:443"]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn overrides_answer_dial_and_question_and_win_over_special_use() {
    let server = Server::with_addrs(&["192.0.2.7"]).await;
    let specs = ["allowed.test:443:127.0.0.1:8443", "allowed.test:80:127.0.0.1:8080", "allowed.test:80:[::1]"];
    let host = Arc::new(HostResolver::with_servers(&[server.addr.into()], no_roots(), overrides(&specs), true));
    let resolver = host.for_sandbox(budget());
    assert!(resolver.overrides(&name("allowed.test")) && !resolver.overrides(&name("www.allowed.test")));
    assert_eq!(dial(&resolver, "allowed.test", 443).await.unwrap(), ["127.0.0.1:8443"]);
    assert_eq!(dial(&resolver, "allowed.test", 80).await.unwrap(), ["127.0.0.1:8080", "[::1]:80"]);
    assert_eq!(dial(&resolver, "allowed.test", 22).await.unwrap(), ["127.0.0.1:22", "[::1]:22"]);
    assert_eq!(addrs(&resolver, "allowed.test", RecordType::A).await.unwrap(), ["127.0.0.1"]);
    assert_eq!(addrs(&resolver, "allowed.test", RecordType::AAAA).await.unwrap(), ["::1"]);
    assert_eq!(addrs(&resolver, "allowed.test", RecordType::TXT).await.unwrap(), [""; 0]);
    assert_eq!(server.questions(), [""; 0], "a name that the operator named is nobody else's business");
}

#[tokio::test]
async fn other_types_are_asked_as_they_are() {
    let server = Server::start(|query, mut reply| {
        reply.add_answer(Record::from_rdata(query.name().clone(), 60, RData::TXT(TXT::new(vec!["v=spf1".into()]))));
        reply.add_answer(Record::from_rdata(query.name().clone(), 60, RData::AAAA(AAAA::from(Ipv6Addr::LOCALHOST))));
        Some(reply)
    })
    .await;
    let resolver = server.host().for_sandbox(budget());
    assert_eq!(addrs(&resolver, "a.example", RecordType::TXT).await.unwrap(), ["v=spf1"], "and of other types nothing");
    assert_eq!(server.questions(), ["a.example. TXT"]);
}

#[test]
fn overrides_are_parsed_strictly() {
    let to = |spec: &str| spec.parse::<Override>().map(|spec| spec.to.to_string());
    assert_eq!(to("a.example:443:192.0.2.1").unwrap(), "192.0.2.1:443");
    assert_eq!(to("A.Example.:443:192.0.2.1:8443").unwrap(), "192.0.2.1:8443");
    assert_eq!(to("a.example:443:[2001:db8::1]").unwrap(), "[2001:db8::1]:443");
    assert_eq!(to("a.example:443:[::1]:8443").unwrap(), "[::1]:8443");
    for (spec, error) in [
        ("", OverrideError::Shape),
        ("a.example", OverrideError::Shape),
        ("a.example:443", OverrideError::Shape),
        ("a.example:443:[::1]8443", OverrideError::Shape),
        ("a.example:0:192.0.2.1", OverrideError::Port),
        ("a.example:+443:192.0.2.1", OverrideError::Port),
        ("a.example::192.0.2.1", OverrideError::Port),
        ("a.example:65536:192.0.2.1", OverrideError::Port),
        ("a.example:443:192.0.2.1:", OverrideError::Port),
        ("a.example:443:192.0.2.1:1:2", OverrideError::Port),
        ("a.example:443:", OverrideError::Address),
        ("a.example:443:b.example", OverrideError::Address),
        ("a.example:443:::1", OverrideError::Address),
        ("a.example:443:[::1", OverrideError::Address),
        ("a.example:443:[192.0.2.1]", OverrideError::Address),
        ("a.example:443:0x7f.1", OverrideError::Address),
    ] {
        assert_eq!(to(spec), Err(error), "{spec:?}");
    }
    assert!(matches!(to("bad name:443:192.0.2.1"), Err(OverrideError::Name(_))));
}
