//! Answers a sandbox's DNS questions, whichever resolver they were sent to; pins name to address (POLICY §5).
//!
//! One [`Dns`] is one sandbox's only resolver. It turns a message into a message: no socket, no cache (both are
//! passed in), and it never opens a connection.
//!
//! - `INVARIANT`: a name is judged before it is looked up; a refused name reaches no resolver.
//! - `INVARIANT`: every address in an answer was vetted and is pinned, but for the block addresses, which never are.
//! - `INVARIANT`: nothing is copied from a sandbox's message to a resolver; only a judged [`Domain`] goes there.
//!
//! | name | form of the answer |
//! |---|---|
//! | permitted | its records, vetted; NXDOMAIN where it does not exist; with the SOA of the zone that says so |
//! | refused, `denials: explain` | A and AAAA: the block address; other types: no data |
//! | refused, `denials: terse` | NXDOMAIN |
//! | refused or not, and special-use, a single label, PTR, or no name at all | NXDOMAIN |
//! | refused, and begins with a whole allowed name (a search list made it) | NXDOMAIN |
//!
//! A refusal carries Extended DNS Error 15 (RFC 8914) with the reason, for clients that speak EDNS, and no SOA: a
//! policy may change, so nobody is to keep it (RFC 2308 §5).

mod message;
mod service;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};

use crate::audit::{Event, Judged, Kind, Protocol, Record};
use crate::flow::Domain;
use crate::limits;
use crate::policy::verdict::{Basis, Denial, DenyReason, Verdict};
use crate::policy::{BLOCK_V4, BLOCK_V6, Denials, Policy, Protected};
use crate::resolve::{Answer, Found, Resolve, ResolveError};
use crate::sandbox::{Sandbox, Snapshot};
use message::{ErrorCode, Question, Reply};

/// How a question came; it bounds the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP: [`limits::DNS_UDP_BYTES`], or what EDNS offers up to [`limits::DNS_EDNS_BYTES`].
    Datagram,
    /// TCP: 65,535 bytes.
    Stream,
}

/// One sandbox's resolver.
pub struct Dns {
    sandbox: Arc<Sandbox>,
    resolve: Arc<dyn Resolve>,
    host: Arc<ArcSwap<Protected>>,
    record: Arc<dyn Record>,
    stand_ins: Mutex<StandIns>,
}

/// Names by the number of what stands for them.
#[derive(Default)]
struct StandIns {
    numbers: HashMap<Domain, u8>,
    closed: bool,
}

impl Dns {
    /// A resolver for `sandbox` that asks `resolve`, vets against `host` and reports refusals to `record`.
    #[must_use]
    pub fn new(
        sandbox: Arc<Sandbox>,
        resolve: Arc<dyn Resolve>,
        host: Arc<ArcSwap<Protected>>,
        record: Arc<dyn Record>,
    ) -> Self {
        Self { sandbox, resolve, host, record, stand_ins: Mutex::default() }
    }

    /// Answers one message; `None` where silence is the answer (what is no question at all).
    pub async fn answer(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = match Question::read(message) {
            Ok(question) => question,
            Err(unreadable) => return unreadable.answer(),
        };
        let reply = self.judge(&question).await;
        question.answer(reply, transport)
    }

    async fn judge(&self, question: &Question) -> Reply {
        let Some(name) = question.name() else {
            let basis = Basis { rule: None, revision: self.sandbox.snapshot().policy.revision() };
            self.report(None, &Denial { reason: DenyReason::NoName, basis });
            return Reply::denied(ResponseCode::NXDomain, DenyReason::NoName);
        };
        if let Err(refusal) = self.permit(name, question.kind()) {
            return refusal;
        }
        if !is_served(question.kind()) {
            return Reply::no_data().explained(ErrorCode::NotSupported, "");
        }
        let found = self.resolve.lookup(name, question.kind()).await;
        // The policy may have changed while the host's resolvers were asked (POLICY §8).
        let snapshot = match self.permit(name, question.kind()) {
            Ok(snapshot) => snapshot,
            Err(refusal) => return refusal,
        };
        match found {
            Ok(answer) => self.vetted(question, name, answer, &snapshot.policy),
            Err(ResolveError::OverBudget) => {
                let basis = Basis { rule: None, revision: snapshot.policy.revision() };
                self.report(Some(name), &Denial { reason: DenyReason::Limit, basis });
                Reply::denied(ResponseCode::Refused, DenyReason::Limit)
            }
            Err(error) => {
                let code = match error {
                    ResolveError::TimedOut | ResolveError::NoResolver => ErrorCode::NoReachableAuthority,
                    _ => ErrorCode::NetworkError,
                };
                Reply::new(ResponseCode::ServFail).explained(code, &error.to_string())
            }
        }
    }

    /// The snapshot that lets this question be asked, or how it is refused.
    fn permit(&self, name: &Domain, kind: RecordType) -> Result<Arc<Snapshot>, Reply> {
        let snapshot = self.sandbox.snapshot();
        let policy = &snapshot.policy;
        match policy.decide_name(name) {
            Verdict::Deny(denial) => Err(self.refuse(name, kind, &denial, policy)),
            Verdict::Allow(_) if self.is_never_served(name, kind) => {
                let basis = Basis { rule: None, revision: policy.revision() };
                Err(self.refuse(name, kind, &Denial { reason: DenyReason::NoRule, basis }, policy))
            }
            Verdict::Allow(_) => Ok(snapshot),
        }
    }

    fn refuse(&self, name: &Domain, kind: RecordType, denial: &Denial, policy: &Policy) -> Reply {
        self.report(Some(name), denial);
        let hidden = policy.denials() == Denials::Terse
            || self.is_never_served(name, kind)
            || begins_with_allowed_name(name, policy);
        if hidden {
            return Reply::denied(ResponseCode::NXDomain, denial.reason);
        }
        let block = match kind {
            RecordType::A => vec![RData::from(IpAddr::from(BLOCK_V4))],
            RecordType::AAAA => vec![RData::from(IpAddr::from(BLOCK_V6))],
            _ => Vec::new(),
        };
        Reply::denied(ResponseCode::NoError, denial.reason).with_records(block, 1)
    }

    fn is_never_served(&self, name: &Domain, kind: RecordType) -> bool {
        kind == RecordType::PTR || (name.is_special_use() && !self.resolve.overrides(name))
    }

    /// What is left of an answer once the policy has seen its addresses.
    fn vetted(&self, question: &Question, name: &Domain, answer: Answer, policy: &Policy) -> Reply {
        let ttl = u32::try_from(answer.ttl.as_secs()).unwrap_or(u32::MAX).max(1);
        let records = match answer.found {
            Found::Records(records) => records,
            Found::NoData(zone) => return Reply::no_data().with_zone(zone, ttl),
            Found::NoName(zone) => return Reply::new(ResponseCode::NXDomain).with_zone(zone, ttl),
        };
        match question.kind() {
            kind @ (RecordType::A | RecordType::AAAA) => {
                let addrs = records.iter().filter_map(RData::ip_addr);
                self.addresses(name, kind, addrs, policy).map_or_else(
                    |refusal| refusal,
                    |addrs| Reply::no_data().with_records(addrs.into_iter().map(RData::from).collect(), ttl),
                )
            }
            RecordType::HTTPS | RecordType::SVCB => {
                let host = self.host.load();
                let keep = |addr| {
                    let kept = !is_own_range(addr)
                        && !is_loopback(addr)
                        && matches!(policy.vet_answer(addr, &host), Verdict::Allow(()));
                    if kept {
                        self.sandbox.pins().pin(addr, name);
                    }
                    kept
                };
                let records = records.iter().filter_map(|record| service::without_bypasses(record, keep));
                Reply::no_data().with_records(records.collect(), ttl)
            }
            _ => Reply::no_data().with_records(records.to_vec(), ttl),
        }
    }

    /// The addresses to answer with, pinned; or, where all of them are denied, the refusal that says so.
    fn addresses(
        &self,
        name: &Domain,
        kind: RecordType,
        found: impl Iterator<Item = IpAddr>,
        policy: &Policy,
    ) -> Result<Vec<IpAddr>, Reply> {
        let host = self.host.load();
        let (mut permitted, mut loopback, mut denied) = (Vec::new(), false, None);
        for addr in found.filter(|addr| !is_own_range(*addr)) {
            match policy.vet_answer(addr, &host) {
                Verdict::Allow(()) if is_loopback(addr) => loopback = true,
                Verdict::Allow(()) => permitted.push(addr),
                Verdict::Deny(denial) => denied = denied.or(Some(denial)),
            }
        }
        if permitted.is_empty() {
            match denied {
                _ if loopback => permitted.extend(self.stand_in(name, kind)),
                Some(denial) => return Err(self.refuse(name, kind, &denial, policy)),
                None => {}
            }
        }
        permitted.iter().for_each(|addr| self.sandbox.pins().pin(*addr, name));
        Ok(permitted)
    }

    /// What stands for the host's loopback inside the sandbox, whose own loopback is its own: one address of
    /// 198.51.100.0/24 and one of 2001:db8:e::/64 for each name. `None` when [`limits::STAND_INS`] names have one, or
    /// another process gives them out.
    fn stand_in(&self, name: &Domain, kind: RecordType) -> Option<IpAddr> {
        let mut stand_ins = self.stand_ins();
        let number = match stand_ins.numbers.get(name) {
            Some(number) => *number,
            None if stand_ins.closed => return None,
            None => {
                let next = u8::try_from(stand_ins.numbers.len() + 1).ok();
                let number = next.filter(|number| *number <= limits::STAND_INS)?;
                stand_ins.numbers.insert(name.clone(), number);
                number
            }
        };
        Some(match kind {
            RecordType::AAAA => Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, number.into()).into(),
            _ => Ipv4Addr::new(198, 51, 100, number).into(),
        })
    }

    /// Which names have a stand-in, by its number. No name gets one here any more: another process gives them out.
    pub fn give_up_stand_ins(&self) -> HashMap<Domain, u8> {
        let mut stand_ins = self.stand_ins();
        stand_ins.closed = true;
        stand_ins.numbers.clone()
    }

    /// Names that had a stand-in in another process keep it; from here on, names get one.
    pub fn take_stand_ins(&self, numbers: HashMap<Domain, u8>) {
        *self.stand_ins() = StandIns { numbers, closed: false };
    }

    fn stand_ins(&self) -> MutexGuard<'_, StandIns> {
        self.stand_ins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, name: Option<&Domain>, denial: &Denial) {
        self.record.record(&Event {
            time: SystemTime::now(),
            sandbox: self.sandbox.id().clone(),
            flow: None,
            dst: None,
            kind: Kind::Verdict(Judged {
                outcome: Err(denial.reason),
                observed: None,
                rule: denial.basis.rule.clone(),
                revision: denial.basis.revision,
                protocol: Protocol::Dns,
                name: name.cloned(),
                request: None,
                injected: Vec::new(),
                status: None,
            }),
        });
    }
}

/// The types of POLICY §5.
fn is_served(kind: RecordType) -> bool {
    use RecordType::{A, AAAA, CNAME, HTTPS, MX, NS, SOA, SRV, SVCB, TXT};
    matches!(kind, A | AAAA | HTTPS | SVCB | SRV | MX | TXT | CNAME | NS | SOA)
}

/// Whether a search list made this refused name out of an allowed one (`api.github.com.corp.local`): then the client
/// must go on to the next candidate, and not stop at the block address. What only a catch-all (`*`, `dns: any`) allows
/// is no allowed name in this sense.
fn begins_with_allowed_name(name: &Domain, policy: &Policy) -> bool {
    let rule_for = |text: &str| match policy.decide_name(&Domain::parse(text).ok()?) {
        Verdict::Allow(basis) => Some(basis.rule),
        Verdict::Deny(_) => None,
    };
    let catch_all = rule_for("nothing-names-this.invalid");
    let heads = name.as_str().match_indices('.').skip(1).filter_map(|(end, _)| name.as_str().get(..end));
    heads.filter_map(rule_for).any(|rule| catch_all.as_ref() != Some(&rule))
}

/// Addresses that only we hand out: from a resolver they are somebody's attempt to stand in for us.
fn is_own_range(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr == BLOCK_V4 || matches!(addr.octets(), [198, 51, 100, _]),
        IpAddr::V6(addr) => addr == BLOCK_V6 || matches!(addr.segments(), [0x2001, 0xdb8, 0xe, 0, ..]),
    }
}

/// Addresses that mean the sandbox itself when the sandbox dials them.
fn is_loopback(addr: IpAddr) -> bool {
    let addr = addr.to_canonical();
    addr.is_loopback() || addr.is_unspecified()
}
