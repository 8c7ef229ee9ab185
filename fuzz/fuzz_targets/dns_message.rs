//! Whatever bytes a sandbox sends, and whatever the host's resolvers say, the sandbox's resolver answers with one
//! well-formed message or with silence, asks only for canonical names that may be asked, and hands out no address
//! and no parameter that the policy keeps back, and no authority over another name.
//!
//! Input: the length of the question (two bytes), the question, and a message whose answers and authority the host's
//! resolvers give.

#![no_main]

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use exeat::audit::Fanout;
use exeat::dns::{Dns, Transport};
use exeat::flow::{Domain, SandboxId};
use exeat::policy::{Flags, Policy, Protected, Source, Terms};
use exeat::resolve::{Answer, Found, Resolve, ResolveError, Resolving, Zone};
use exeat::sandbox::Sandbox;
use exeat::secret::Secrets;
use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::svcb::SvcParamValue;
use hickory_proto::rr::{RData, RecordType};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

/// The host's side: says what the input says.
#[derive(Default)]
struct Host(Mutex<(Vec<RData>, Option<Arc<Zone>>)>);

impl Resolve for Host {
    fn dial_addrs<'a>(&'a self, _: &'a Domain, _: u16) -> Resolving<'a, Vec<SocketAddr>> {
        Box::pin(async { Err(ResolveError::NotFound) })
    }

    fn lookup<'a>(&'a self, name: &'a Domain, kind: RecordType) -> Resolving<'a, Answer> {
        assert_eq!(Domain::parse(name.as_str()).as_ref(), Ok(name));
        assert!(!name.is_special_use() && !name.as_str().ends_with("evil.example"), "{name} may not be asked");
        Box::pin(async move {
            let (records, zone) = &*self.0.lock().unwrap();
            let records: Arc<[_]> = records.iter().filter(|record| record.record_type() == kind).cloned().collect();
            let found = if records.is_empty() { Found::NoData(zone.clone()) } else { Found::Records(records) };
            Ok(Answer { found, ttl: Duration::from_secs(60) })
        })
    }

    fn overrides(&self, _: &Domain) -> bool {
        false
    }
}

struct Rig {
    runtime: Runtime,
    host: Arc<Host>,
    dns: Dns,
}

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let text = "{mode: allow-all, deny: [evil.example, '*.evil.example'], subnets: {deny: [203.0.113.0/24]}}";
    let source = Source { path: "fuzz.yaml", text };
    let policy =
        Policy::compile(Some(source), &Flags::default(), &Terms::default()).expect("the policy compiles").policy;
    let sandbox = Sandbox::new(SandboxId::new("fuzz").expect("a legal name"), policy, Secrets::default());
    let host = Arc::new(Host::default());
    let protected = Arc::new(ArcSwap::from_pointee(Protected::new([])));
    let dns = Dns::new(Arc::new(sandbox), host.clone(), protected, Arc::new(Fanout(Vec::new())));
    Rig { runtime: Builder::new_current_thread().build().expect("a runtime"), host, dns }
});

fuzz_target!(|input: &[u8]| {
    let Some((length, rest)) = input.split_first_chunk() else { return };
    let (question, said) = rest.split_at(rest.len().min(u16::from_be_bytes(*length).into()));
    let said = Message::from_vec(said).map(|message| (message.answers, message.authorities)).unwrap_or_default();
    let zone = said.1.into_iter().find_map(|record| match record.data {
        RData::SOA(soa) => Some(Arc::new(Zone { name: record.name, soa })),
        _ => None,
    });
    *RIG.host.0.lock().unwrap() = (said.0.into_iter().map(|record| record.data).collect(), zone);
    for transport in [Transport::Datagram, Transport::Stream] {
        if let Some(answer) = RIG.runtime.block_on(RIG.dns.answer(question, transport)) {
            check(question, &answer, transport);
        }
    }
});

fn check(question: &[u8], bytes: &[u8], transport: Transport) {
    let room = if transport == Transport::Datagram { 1232 } else { 65535 };
    assert!(bytes.len() <= room, "{} bytes", bytes.len());
    let answer = Message::from_vec(bytes).expect("what we send can be read");
    assert_eq!(answer.message_type, MessageType::Response);
    assert_eq!(answer.id.to_be_bytes(), question[..2]);
    if let Ok(question) = Message::from_vec(question) {
        assert!(answer.queries.is_empty() || answer.queries == question.queries);
    }
    for record in &answer.authorities {
        assert!(record.name.zone_of(answer.queries[0].name()) && record.ttl <= 60, "{record}");
    }
    for record in &answer.answers {
        if let Some(addr) = record.data.ip_addr() {
            assert!(!addr.is_loopback() && !addr.to_string().starts_with("203.0.113."), "{addr}");
        }
        let (RData::HTTPS(hickory_proto::rr::rdata::HTTPS(service)) | RData::SVCB(service)) = &record.data else {
            continue;
        };
        for (_, value) in &service.svc_params {
            match value {
                SvcParamValue::EchConfigList(_) | SvcParamValue::Unknown(_) => panic!("{service}"),
                SvcParamValue::Alpn(alpn) => assert!(!alpn.0.iter().any(|id| id == "h3"), "{service}"),
                _ => {}
            }
        }
    }
}
