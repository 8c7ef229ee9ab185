//! One sandbox's resolver over a book of names that keeps what it was asked for, under real policies.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, HTTPS, MX, SOA, SVCB};
use tokio::sync::Notify;

use super::*;
use crate::flow::SandboxId;
use crate::policy::{Flags, Source, Terms};
use crate::resolve::tests::Server;
use crate::resolve::{Resolving, Zone};
use crate::secret::Secrets;

const AGENT: &str = "
allow:
  api.github.com: []
  '*.example.com': []
deny: [secret.example.com]
subnets: { deny: [203.0.113.0/24] }
";

type Known = Result<Found, ResolveError>;

/// A resolver that knows some names, and keeps what it was asked.
#[derive(Default)]
struct Book {
    known: Mutex<HashMap<(String, RecordType), Known>>,
    overridden: HashSet<Domain>,
    asked: Mutex<Vec<String>>,
    /// Where it is there, an answer waits for leave.
    gate: Option<Gate>,
}

#[derive(Default)]
struct Gate {
    begun: Notify,
    leave: Notify,
}

impl Resolve for Book {
    fn dial_addrs<'a>(&'a self, _: &'a Domain, _: u16) -> Resolving<'a, Vec<SocketAddr>> {
        Box::pin(async { Err(ResolveError::NotFound) })
    }

    fn lookup<'a>(&'a self, name: &'a Domain, kind: RecordType) -> Resolving<'a, Answer> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(format!("{name} {kind}"));
            if let Some(gate) = &self.gate {
                gate.begun.notify_one();
                gate.leave.notified().await;
            }
            let known = self.known.lock().unwrap().get(&(name.to_string(), kind)).cloned();
            let found = known.unwrap_or(Ok(Found::NoName(None)))?;
            Ok(Answer { found, ttl: Duration::from_secs(60) })
        })
    }

    fn overrides(&self, name: &Domain) -> bool {
        self.overridden.contains(name)
    }
}

#[derive(Default)]
struct Events(Mutex<Vec<Event>>);

impl Record for Events {
    fn record(&self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

struct Rig {
    sandbox: Arc<Sandbox>,
    book: Arc<Book>,
    events: Arc<Events>,
    dns: Dns,
}

/// An answer, as a test reads it.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: ResponseCode,
    records: Vec<String>,
    zone: Vec<String>,
    why: Option<(u16, String)>,
}

impl Rig {
    fn new(policy: &str) -> Self {
        Self::over(policy, Book::default())
    }

    fn over(policy: &str, book: Book) -> Self {
        Self::on_host(policy, book, protected(&[]))
    }

    fn on_host(policy: &str, book: Book, host: Protected) -> Self {
        let sandbox = Arc::new(Sandbox::new(SandboxId::new("test").unwrap(), compile(policy), Secrets::default()));
        let (book, events) = (Arc::new(book), Arc::new(Events::default()));
        let host = Arc::new(ArcSwap::from_pointee(host));
        let dns = Dns::new(Arc::clone(&sandbox), book.clone(), host, events.clone());
        Self { sandbox, book, events, dns }
    }

    fn knows(self, name: &str, addrs: &[&str]) -> Self {
        for kind in [RecordType::A, RecordType::AAAA] {
            let addrs = addrs.iter().map(|addr| RData::from(addr.parse::<IpAddr>().unwrap()));
            self.knows_records(name, kind, Ok(addrs.filter(|addr| addr.record_type() == kind).collect()));
        }
        self
    }

    fn knows_records(&self, name: &str, kind: RecordType, records: Result<Vec<RData>, ResolveError>) {
        let found = |records: Vec<_>| match records.as_slice() {
            [] => Found::NoData(None),
            _ => Found::Records(records.into()),
        };
        self.knows_that(name, kind, records.map(found));
    }

    fn knows_that(&self, name: &str, kind: RecordType, known: Known) {
        self.book.known.lock().unwrap().insert((name.into(), kind), known);
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Said {
        self.ask_labels(Name::from_ascii(name).unwrap(), kind).await
    }

    async fn ask_labels(&self, mut name: Name, kind: RecordType) -> Said {
        name.set_fqdn(true);
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(name.clone(), kind));
        question.set_edns(Edns::new());
        let answer = self.dns.answer(&question.to_vec().unwrap(), Transport::Stream).await.unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert!(answer.answers.iter().all(|record| record.name.eq_case(&name) && record.record_type() == kind));
        let why = answer.edns.as_ref().and_then(|edns| match edns.option(EdnsCode::Unknown(15)) {
            Some(EdnsOption::Unknown(_, data)) => {
                Some((u16::from_be_bytes([data[0], data[1]]), String::from_utf8(data[2..].to_vec()).unwrap()))
            }
            _ => None,
        });
        let records = answer.answers.iter().map(|record| format!("{} {}", record.ttl, record.data)).collect();
        let zone = answer.authorities.iter().map(|record| format!("{} {} {}", record.name, record.ttl, record.data));
        Said { code: answer.response_code, records, zone: zone.collect(), why }
    }

    fn asked(&self) -> Vec<String> {
        self.book.asked.lock().unwrap().clone()
    }

    /// The refusals recorded: name, reason, rule.
    fn refused(&self) -> Vec<(String, DenyReason, Option<String>)> {
        let events = self.events.0.lock().unwrap();
        let refused = events.iter().map(|event| match &event.kind {
            Kind::Verdict(judged) => (
                judged.name.as_ref().map(ToString::to_string).unwrap_or_default(),
                judged.outcome.unwrap_err(),
                judged.rule.as_ref().map(ToString::to_string),
            ),
            Kind::Close(closed) => panic!("{closed:?} of a question"),
        });
        refused.collect()
    }

    fn pinned(&self, addr: &str) -> Vec<String> {
        self.sandbox.pins().names(addr.parse().unwrap()).iter().map(ToString::to_string).collect()
    }
}

fn found(records: &[&str]) -> Said {
    let records = records.iter().map(|record| (*record).into()).collect();
    Said { code: ResponseCode::NoError, records, zone: Vec::new(), why: None }
}

fn blocked(code: ResponseCode, records: &[&str], reason: &str) -> Said {
    Said { code, why: Some((15, reason.into())), ..found(records) }
}

#[tokio::test]
async fn a_permitted_name_is_resolved_and_each_address_pinned() {
    let rig = Rig::new(AGENT).knows("api.github.com", &["192.0.2.7", "192.0.2.8", "2001:db8:1::7"]);
    assert_eq!(rig.ask("api.github.com", RecordType::A).await, found(&["60 192.0.2.7", "60 192.0.2.8"]));
    assert_eq!(rig.ask("api.github.com", RecordType::AAAA).await, found(&["60 2001:db8:1::7"]));
    for addr in ["192.0.2.7", "192.0.2.8", "2001:db8:1::7"] {
        assert_eq!(rig.pinned(addr), ["api.github.com"]);
    }
    assert_eq!(rig.refused(), []);
}

/// ATTACKS 37.
#[tokio::test]
async fn tunnelling_under_a_denied_name_sends_nothing_to_a_resolver() {
    let rig = Rig::new(AGENT);
    for number in 0..1000 {
        let said = rig.ask(&format!("{number:x}deadbeef.evil.example"), RecordType::TXT).await;
        assert_eq!(said, blocked(ResponseCode::NoError, &[], "no-rule"));
    }
    assert_eq!(rig.asked(), [""; 0]);
    assert_eq!(rig.refused().len(), 1000);
}

#[tokio::test]
async fn a_refused_name_is_explained_by_the_block_address_which_is_never_pinned() {
    let rig = Rig::new(AGENT);
    let no_error = ResponseCode::NoError;
    assert_eq!(rig.ask("evil.example", RecordType::A).await, blocked(no_error, &["1 192.0.2.1"], "no-rule"));
    assert_eq!(rig.ask("evil.example", RecordType::AAAA).await, blocked(no_error, &["1 2001:db8::1"], "no-rule"));
    for kind in [RecordType::TXT, RecordType::MX, RecordType::HTTPS, RecordType::ANY, RecordType::AXFR] {
        assert_eq!(rig.ask("evil.example", kind).await, blocked(no_error, &[], "no-rule"), "{kind}");
    }
    assert_eq!(rig.pinned("192.0.2.1"), [""; 0]);
    assert_eq!(rig.pinned("2001:db8::1"), [""; 0]);
    assert_eq!(rig.asked(), [""; 0]);
}

#[tokio::test]
async fn a_refused_name_is_nxdomain_where_denials_are_terse() {
    let rig = Rig::new("{allow: [api.github.com], denials: terse}");
    for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT] {
        let refused = blocked(ResponseCode::NXDomain, &[], "no-rule");
        assert_eq!(rig.ask("evil.example", kind).await, refused, "{kind}");
    }
}

#[tokio::test]
async fn a_refusal_is_recorded_with_its_rule_and_without_a_flow() {
    let rig = Rig::new(AGENT);
    let said = rig.ask("secret.example.com", RecordType::A).await;
    assert_eq!(said, blocked(ResponseCode::NoError, &["1 192.0.2.1"], "denied-domain"));
    let refused = rig.refused();
    assert_eq!((refused[0].0.as_str(), refused[0].1), ("secret.example.com", DenyReason::DeniedDomain));
    assert!(refused[0].2.as_ref().is_some_and(|rule| rule.ends_with(":5")), "{refused:?}");
    let events = rig.events.0.lock().unwrap();
    assert_eq!((events[0].flow, events[0].dst), (None, None));
    assert!(matches!(&events[0].kind, Kind::Verdict(Judged { protocol: Protocol::Dns, .. })));
}

#[tokio::test]
async fn deny_all_resolves_nothing() {
    let rig = Rig::new("deny-all");
    let said = rig.ask("api.github.com", RecordType::A).await;
    assert_eq!(said, blocked(ResponseCode::NoError, &["1 192.0.2.1"], "deny-all"));
    assert_eq!(rig.asked(), [""; 0]);
}

#[tokio::test]
async fn the_dns_key_says_which_names_may_be_asked() {
    for (policy, asked) in [
        ("{allow: [api.github.com], dns: names}", vec!["api.github.com A"]),
        ("{allow: [api.github.com], dns: any, deny: [evil.example]}", vec!["api.github.com A", "other.example A"]),
        ("{allow: [api.github.com], dns: none}", vec![]),
        ("{mode: allow-all, deny: [evil.example]}", vec!["api.github.com A", "other.example A"]),
    ] {
        let rig = Rig::new(policy);
        for name in ["api.github.com", "other.example", "evil.example"] {
            rig.ask(name, RecordType::A).await;
        }
        assert_eq!(rig.asked(), asked, "{policy}");
    }
}

#[tokio::test]
async fn observed_names_may_be_resolved() {
    let rig = Rig::new("{allow: [api.github.com], observe: true}").knows("evil.example", &["192.0.2.9"]);
    assert_eq!(rig.ask("evil.example", RecordType::A).await, found(&["60 192.0.2.9"]));
}

#[tokio::test]
async fn special_use_names_do_not_exist_even_under_allow_all() {
    let rig = Rig::new("allow-all");
    for name in
        ["intranet", "localhost", "printer.local", "x.onion", "a.test", "ipv4only.arpa", "use-application-dns.net"]
    {
        let refused = blocked(ResponseCode::NXDomain, &[], "no-rule");
        assert_eq!(rig.ask(name, RecordType::A).await, refused, "{name}");
    }
    for name in ["7.2.0.192.in-addr.arpa", "_http._tcp.example.com"] {
        let refused = blocked(ResponseCode::NXDomain, &[], "no-rule");
        assert_eq!(rig.ask(name, RecordType::PTR).await, refused, "{name}");
    }
    assert_eq!(rig.asked(), [""; 0]);
}

#[tokio::test]
async fn special_use_names_do_not_exist_rather_than_lead_to_the_block_address() {
    let rig = Rig::new(AGENT);
    for name in ["intranet", "printer.local", "ipv4only.arpa"] {
        assert_eq!(rig.ask(name, RecordType::A).await, blocked(ResponseCode::NXDomain, &[], "no-rule"), "{name}");
    }
}

#[tokio::test]
async fn a_name_that_the_operator_resolves_is_served_though_special_and_judged_as_always() {
    let names = ["allowed.test", "evil.test"].map(|name| Domain::parse(name).unwrap());
    let book = Book { overridden: names.into(), ..Book::default() };
    let rig = Rig::over("{allow: [allowed.test]}", book).knows("allowed.test", &["192.0.2.7"]);
    assert_eq!(rig.ask("allowed.test", RecordType::A).await, found(&["60 192.0.2.7"]));
    let refused = blocked(ResponseCode::NoError, &["1 192.0.2.1"], "no-rule");
    assert_eq!(rig.ask("evil.test", RecordType::A).await, refused);
    assert_eq!(rig.asked(), ["allowed.test A"]);
}

#[tokio::test]
async fn a_name_that_a_search_list_made_does_not_exist() {
    let rig = Rig::new(AGENT);
    for name in ["api.github.com.corp.example", "api.github.com.com", "www.example.com.corp.example"] {
        assert_eq!(rig.ask(name, RecordType::A).await, blocked(ResponseCode::NXDomain, &[], "no-rule"), "{name}");
    }
    for name in ["xapi.github.com.corp.example", "github.com.corp.example", "example.com.corp.example"] {
        let explained = blocked(ResponseCode::NoError, &["1 192.0.2.1"], "no-rule");
        assert_eq!(rig.ask(name, RecordType::A).await, explained, "{name}");
    }
}

#[tokio::test]
async fn a_denied_name_beneath_a_catch_all_was_not_made_by_a_search_list() {
    for policy in ["{allow: ['*'], deny: [gist.github.com]}", "{mode: allow-all, deny: [gist.github.com]}"] {
        let explained = blocked(ResponseCode::NoError, &["1 192.0.2.1"], "denied-domain");
        assert_eq!(Rig::new(policy).ask("gist.github.com", RecordType::A).await, explained, "{policy}");
    }
}

/// ATTACKS 16, 17.
#[tokio::test]
async fn case_and_trailing_dot_change_nothing() {
    let rig = Rig::new(AGENT).knows("api.github.com", &["192.0.2.7"]);
    assert_eq!(rig.ask("SeCrEt.ExAmPlE.CoM.", RecordType::TXT).await.why.unwrap().1, "denied-domain");
    assert_eq!(rig.asked(), [""; 0]);
    assert_eq!(rig.ask("ApI.gItHuB.cOm.", RecordType::A).await, found(&["60 192.0.2.7"]));
    assert_eq!(rig.asked(), ["api.github.com A"]);
}

/// ATTACKS 20, 21.
#[tokio::test]
async fn a_name_matches_in_one_spelling_and_at_label_boundaries_only() {
    let rig = Rig::new("{allow: [münchen.example, allowed.example]}");
    rig.ask("xn--mnchen-3ya.example", RecordType::A).await;
    assert_eq!(rig.asked(), ["xn--mnchen-3ya.example A"]);
    for labels in
        [["münchen", "example"], ["ａllowed", "example"], ["allowed。example", "example"], ["allowed.example", ""]]
    {
        let labels = labels.iter().filter(|label| !label.is_empty()).map(|label| label.as_bytes());
        let said = rig.ask_labels(Name::from_labels(labels).unwrap(), RecordType::A).await;
        assert_eq!(said, blocked(ResponseCode::NXDomain, &[], "no-name"));
    }
    for name in ["evilallowed.example", "allowed.example.evil.example", "x.allowed.example"] {
        rig.ask(name, RecordType::A).await;
    }
    assert_eq!(rig.asked().len(), 1);
}

/// ATTACKS 30, 31.
#[tokio::test]
async fn denied_addresses_are_removed_from_an_answer() {
    let addrs =
        ["10.0.0.1", "192.0.2.7", "203.0.113.9", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "2001:db8:1::7"];
    let rig = Rig::new(AGENT).knows("www.example.com", &addrs);
    assert_eq!(rig.ask("www.example.com", RecordType::A).await, found(&["60 192.0.2.7"]));
    assert_eq!(rig.ask("www.example.com", RecordType::AAAA).await, found(&["60 2001:db8:1::7"]));
    for addr in ["10.0.0.1", "203.0.113.9", "127.0.0.1"] {
        assert_eq!(rig.pinned(addr), [""; 0], "{addr}");
    }
    assert_eq!(rig.refused(), []);
}

#[tokio::test]
async fn a_name_with_denied_addresses_alone_is_refused_for_their_reason() {
    let rig = Rig::new(AGENT).knows("a.example.com", &["10.0.0.1"]).knows("b.example.com", &["203.0.113.9"]);
    for (name, reason) in [("a.example.com", "protected-range"), ("b.example.com", "denied-cidr")] {
        let refused = blocked(ResponseCode::NoError, &["1 192.0.2.1"], reason);
        assert_eq!(rig.ask(name, RecordType::A).await, refused);
        assert_eq!(rig.ask(name, RecordType::AAAA).await, found(&[]), "and has none of the other family");
    }
    let reasons: Vec<_> = rig.refused().into_iter().map(|(_, reason, _)| reason).collect();
    assert_eq!(reasons, [DenyReason::ProtectedRange, DenyReason::DeniedCidr]);
}

#[tokio::test]
async fn nobody_else_answers_with_our_own_addresses() {
    let rig = Rig::new(AGENT).knows("a.example.com", &["192.0.2.1", "198.51.100.1", "2001:db8::1", "2001:db8:e::1"]);
    assert_eq!(rig.ask("a.example.com", RecordType::A).await, found(&[]));
    assert_eq!(rig.ask("a.example.com", RecordType::AAAA).await, found(&[]));
    assert_eq!(rig.pinned("198.51.100.1"), [""; 0]);
}

#[tokio::test]
async fn a_name_on_the_hosts_loopback_is_answered_with_a_stand_in() {
    let host = protected(&["127.0.0.0/8", "::1/128"]);
    let rig = Rig::on_host(AGENT, Book::default(), host)
        .knows("a.example.com", &["127.0.0.1", "::1"])
        .knows("b.example.com", &["127.0.0.2"])
        .knows("c.example.com", &["127.0.0.1", "192.0.2.7"]);
    for _ in 0..2 {
        assert_eq!(rig.ask("a.example.com", RecordType::A).await, found(&["60 198.51.100.1"]));
        assert_eq!(rig.ask("b.example.com", RecordType::A).await, found(&["60 198.51.100.2"]));
    }
    assert_eq!(rig.ask("a.example.com", RecordType::AAAA).await, found(&["60 2001:db8:e::1"]));
    assert_eq!(rig.ask("b.example.com", RecordType::AAAA).await, found(&[]));
    assert_eq!(rig.ask("c.example.com", RecordType::A).await, found(&["60 192.0.2.7"]));
    assert_eq!(rig.pinned("198.51.100.1"), ["a.example.com"]);
    assert_eq!(rig.pinned("2001:db8:e::1"), ["a.example.com"]);
    assert_eq!(rig.pinned("198.51.100.2"), ["b.example.com"]);
    assert_eq!(rig.pinned("127.0.0.1"), [""; 0]);
}

#[tokio::test]
async fn stand_ins_end_with_their_range() {
    let rig = Rig::new(AGENT);
    let name = |number: u16| Domain::parse(&format!("n{number}.example.com")).unwrap();
    let last = u16::from(limits::STAND_INS);
    for number in 1..=last {
        assert!(rig.dns.stand_in(&name(number), RecordType::A).is_some());
    }
    assert_eq!(rig.dns.stand_in(&name(last), RecordType::A), Some([198, 51, 100, 254].into()));
    assert_eq!(rig.dns.stand_in(&name(last + 1), RecordType::A), None);
}

/// ATTACKS 40, 41.
#[tokio::test]
async fn service_records_lead_to_neither_ech_nor_quic_nor_a_denied_address() {
    let params = vec![
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h3".into(), "h2".into()]))),
        (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A::new(10, 0, 0, 1), A::new(192, 0, 2, 7)]))),
        (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![0, 4, 0xfe, 0x0d, 0, 0]))),
    ];
    let rig = Rig::new(AGENT);
    let service = SVCB::new(1, Name::root(), params);
    rig.knows_records("api.github.com", RecordType::HTTPS, Ok(vec![RData::HTTPS(HTTPS(service.clone()))]));
    rig.knows_records("api.github.com", RecordType::SVCB, Ok(vec![RData::SVCB(service)]));
    for kind in [RecordType::HTTPS, RecordType::SVCB] {
        let said = rig.ask("api.github.com", kind).await;
        assert_eq!(said.records.len(), 1);
        assert!(said.records[0].contains("alpn=h2") && said.records[0].contains("ipv4hint=192.0.2.7"), "{said:?}");
        for gone in ["h3", "ech", "10.0.0.1"] {
            assert!(!said.records[0].contains(gone), "{said:?}");
        }
    }
    assert_eq!(rig.pinned("192.0.2.7"), ["api.github.com"]);
    assert_eq!(rig.pinned("10.0.0.1"), [""; 0]);
}

#[tokio::test]
async fn other_types_of_a_permitted_name_pass_or_are_not_supported() {
    let rig = Rig::new(AGENT);
    let mail = RData::MX(MX::new(10, Name::from_ascii("mail.example.").unwrap()));
    rig.knows_records("api.github.com", RecordType::MX, Ok(vec![mail]));
    assert_eq!(rig.ask("api.github.com", RecordType::MX).await, found(&["60 10 mail.example."]));
    for kind in [RecordType::ANY, RecordType::AXFR, RecordType::NULL, RecordType::CAA, RecordType::Unknown(65280)] {
        let unsupported = Said { why: Some((21, String::new())), ..found(&[]) };
        assert_eq!(rig.ask("api.github.com", kind).await, unsupported, "{kind}");
    }
    assert_eq!(rig.asked(), ["api.github.com MX"]);
}

#[tokio::test]
async fn what_the_hosts_resolvers_cannot_say_is_told_apart() {
    let rig = Rig::new(AGENT);
    for (error, code, why) in [
        (ResolveError::Failed, ResponseCode::ServFail, 23),
        (ResolveError::TimedOut, ResponseCode::ServFail, 22),
        (ResolveError::NoResolver, ResponseCode::ServFail, 22),
    ] {
        rig.knows_records("api.github.com", RecordType::A, Err(error.clone()));
        let why = Some((why, error.to_string()));
        assert_eq!(rig.ask("api.github.com", RecordType::A).await, Said { code, why, ..found(&[]) });
    }
    assert_eq!(rig.refused(), [], "what fails is not denied");
}

#[tokio::test]
async fn what_is_not_there_comes_with_the_zone_that_says_so_and_a_refusal_without_one() {
    let rig = Rig::new(AGENT);
    let fqdn = |text| Name::from_ascii(text).unwrap();
    let zone = |text| {
        let soa = SOA::new(fqdn("ns.example."), fqdn("admin.example."), 1, 2, 3, 4, 30);
        Some(Arc::new(Zone { name: fqdn(text), soa }))
    };
    let says = |owner: &str| vec![format!("{owner} 60 ns.example. admin.example. 1 2 3 4 30")];
    let absent = |code, zone| Said { code, zone, ..found(&[]) };
    rig.knows_that("api.github.com", RecordType::AAAA, Ok(Found::NoData(zone("GitHub.com."))));
    rig.knows_that("x.example.com", RecordType::A, Ok(Found::NoName(zone("example.com."))));
    assert_eq!(rig.ask("api.github.com", RecordType::AAAA).await, absent(ResponseCode::NoError, says("GitHub.com.")));
    assert_eq!(rig.ask("x.example.com", RecordType::A).await, absent(ResponseCode::NXDomain, says("example.com.")));
    // At the end of an alias chain, or of a resolver that means ill.
    for other in ["cdn.example.", "x.github.com.", "api.github.com.evil.example."] {
        rig.knows_that("api.github.com", RecordType::A, Ok(Found::NoData(zone(other))));
        let own = absent(ResponseCode::NoError, says("api.github.com."));
        assert_eq!(rig.ask("api.github.com", RecordType::A).await, own, "{other}");
    }
    rig.knows_that("y.example.com", RecordType::A, Ok(Found::NoName(None)));
    assert_eq!(rig.ask("y.example.com", RecordType::A).await, absent(ResponseCode::NXDomain, Vec::new()));
    assert_eq!(rig.ask("evil.example", RecordType::TXT).await, blocked(ResponseCode::NoError, &[], "no-rule"));
}

#[tokio::test]
async fn a_question_over_the_budget_is_refused_and_recorded() {
    let rig = Rig::new(AGENT);
    rig.knows_records("x.example.com", RecordType::A, Err(ResolveError::OverBudget));
    let said = rig.ask("x.example.com", RecordType::A).await;
    assert_eq!(said, blocked(ResponseCode::Refused, &[], "limit"));
    assert_eq!(rig.refused(), [("x.example.com".into(), DenyReason::Limit, None)]);
}

/// ATTACKS 39: under an allowed wildcard the budget bounds it; it does not end it (POLICY §5).
#[tokio::test]
async fn tunnelling_under_an_allowed_wildcard_is_bounded() {
    let server = Server::with_addrs(&["192.0.2.7"]).await;
    let sandbox = Sandbox::new(SandboxId::new("test").unwrap(), compile(AGENT), Secrets::default());
    let host = Arc::new(ArcSwap::from_pointee(protected(&[])));
    let resolve = Arc::new(server.host().for_sandbox(Arc::clone(&sandbox.quota().questions)));
    let dns = Dns::new(Arc::new(sandbox), resolve, host, Arc::new(Events::default()));
    for number in 0..300 {
        let mut question = Message::new(number, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii(format!("{number:x}deadbeef.example.com.")).unwrap();
        question.add_query(Query::query(name, RecordType::A));
        dns.answer(&question.to_vec().unwrap(), Transport::Datagram).await.unwrap();
    }
    assert_eq!(server.questions().len(), limits::DNS_BURST as usize);
}

#[tokio::test]
async fn a_policy_that_changes_while_a_name_is_looked_up_judges_the_answer() {
    let book = Book { gate: Some(Gate::default()), ..Book::default() };
    let rig = Rig::over(AGENT, book).knows("api.github.com", &["192.0.2.7"]);
    let change = async {
        let gate = rig.book.gate.as_ref().unwrap();
        gate.begun.notified().await;
        rig.sandbox.replace(compile("deny-all"));
        gate.leave.notify_one();
    };
    let (said, ()) = tokio::join!(rig.ask("api.github.com", RecordType::A), change);
    assert_eq!(said, blocked(ResponseCode::NoError, &["1 192.0.2.1"], "deny-all"));
    assert_eq!(rig.pinned("192.0.2.7"), [""; 0]);
}

fn compile(text: &str) -> Policy {
    let source = Source { path: "agent.yaml", text };
    Policy::compile(Some(source), &Flags::default(), &Terms::default())
        .unwrap_or_else(|faults| panic!("{faults}"))
        .policy
}

/// The protected ranges of a host without addresses, but for what its operator opened.
fn protected(opened: &[&str]) -> Protected {
    opened.iter().fold(Protected::new([]), |host, range| host.without(range.parse().unwrap()))
}
