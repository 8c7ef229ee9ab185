//! The host's side of DNS, shared by `dns` and `intercept::upstream` behind one trait: rebuilt questions, one cache
//! for the host, one budget for each sandbox, and the operator's `--resolve` (POLICY §5).
//!
//! It never opens a connection for a flow and never judges: whoever asks has judged the name, and vets the answer.
//! What an alias leads to is not judged, and never asked for: it is known where a resolver's own answer tells it.
//!
//! - `INVARIANT`: what goes to the host's resolvers is built here from a [`Domain`] and a type; no byte of a
//!   sandbox's message is passed on, and no search list is applied.
//! - `INVARIANT`: a resolver with a name is asked over TLS, once its certificate was verified for that name, and never
//!   in clear.
//! - `INVARIANT`: `dns` and `upstream` read the same cache, so what was answered is what is dialled.
//! - `INVARIANT`: a question that is not in the cache is paid for by the sandbox that causes it, through DNS or
//!   through a dial alike.

mod client;
mod name_server;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, RecordType};
use rustls::RootCertStore;
use tokio::time::Instant;

use crate::flow::{Domain, DomainError};
use crate::limits;
use crate::sandbox::quota::Budget;
use client::Client;
pub use name_server::{NameServer, NameServerError};

/// Turns names that were already judged into addresses that are not yet vetted.
pub trait Resolve: Send + Sync {
    /// Where a dial to `name`:`port` should go, in order of preference: `--resolve` first, the host's resolvers
    /// otherwise. Never empty.
    fn dial_addrs<'a>(&'a self, name: &'a Domain, port: u16) -> Resolving<'a, Vec<SocketAddr>>;

    /// The records of one type that a name has, for answering the sandbox's own question.
    fn lookup<'a>(&'a self, name: &'a Domain, kind: RecordType) -> Resolving<'a, Answer>;

    /// Whether the operator gave this name its addresses (`--resolve`).
    fn overrides(&self, name: &Domain) -> bool;
}

/// What the methods of [`Resolve`] return.
pub type Resolving<'a, T> = Pin<Box<dyn Future<Output = Result<T, ResolveError>> + Send + 'a>>;

/// What is known of one name and type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What there is.
    pub found: Found,
    /// How long it stays true.
    pub ttl: Duration,
}

/// What there is of one name and type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// All records of the type, whatever alias led to them.
    Records(Arc<[RData]>),
    /// The name exists, without any; and the zone that says so, if one does.
    NoData(Option<Arc<Zone>>),
    /// The name does not exist; and the zone that says so, if one does.
    NoName(Option<Arc<Zone>>),
}

/// Whose word it is that something is not there (RFC 2308 §3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Its name: that of the end of an alias chain, where there is one.
    pub name: Name,
    /// Its start of authority.
    pub soa: SOA,
}

impl Answer {
    /// Of these records, perhaps none.
    fn of(records: Arc<[RData]>) -> Self {
        let found = if records.is_empty() { Found::NoData(None) } else { Found::Records(records) };
        Self { found, ttl: limits::DNS_TTL_FLOOR }
    }

    fn records(&self) -> &[RData] {
        match &self.found {
            Found::Records(records) => records,
            Found::NoData(_) | Found::NoName(_) => &[],
        }
    }
}

/// Why a permitted name has no address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResolveError {
    /// A name to dial has no address.
    NotFound,
    /// No resolver of the host answered usefully.
    Failed,
    /// None answered in [`limits::DNS_TIME`].
    TimedOut,
    /// The host's configuration names no resolver.
    NoResolver,
    /// The sandbox asked more than its budget lets it.
    OverBudget,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "the name does not exist, or has no address",
            Self::Failed => "the host's resolvers gave no useful answer",
            Self::TimedOut => "the host's resolvers did not answer in time",
            Self::NoResolver => "the host's /etc/resolv.conf names no usable resolver",
            Self::OverBudget => "the sandbox has asked for too many names",
        })
    }
}

impl std::error::Error for ResolveError {}

/// The host's resolvers and what they answered, shared by every sandbox.
pub struct HostResolver {
    servers: ArcSwap<Servers>,
    roots: Arc<RootCertStore>,
    overrides: Overrides,
    ipv6: bool,
}

/// Resolvers, and what these very ones answered.
struct Servers {
    client: Option<Client>,
    cache: moka::sync::Cache<Key, Arc<Slot>>,
}

impl HostResolver {
    /// The host's own configuration: `/etc/resolv.conf` and `/etc/hosts`, read once. Where it names no resolver,
    /// `overrides` still resolve and all else is [`ResolveError::NoResolver`]. `ipv6`: whether the host has a route
    /// for IPv6; without one no IPv6 address is handed out, but those of `overrides`. `roots`: whose certificates
    /// count for resolvers that are asked over TLS.
    #[must_use]
    pub fn system(roots: Arc<RootCertStore>, overrides: Overrides, ipv6: bool) -> Self {
        Self { servers: ArcSwap::from_pointee(Servers::of_system(&roots)), roots, overrides, ipv6 }
    }

    /// These resolvers and no others; otherwise as [`Self::system`].
    #[must_use]
    pub fn with_servers(servers: &[NameServer], roots: Arc<RootCertStore>, overrides: Overrides, ipv6: bool) -> Self {
        Self { servers: ArcSwap::from_pointee(Servers::named(servers, &roots)), roots, overrides, ipv6 }
    }

    /// From now on asks these resolvers, or, where none is named, those of the host's own configuration as it is now.
    /// What others answered is forgotten.
    pub fn change(&self, servers: &[NameServer]) {
        let roots = &self.roots;
        let servers = if servers.is_empty() { Servers::of_system(roots) } else { Servers::named(servers, roots) };
        self.servers.store(Arc::new(servers));
    }

    /// This resolver as one sandbox may use it, with its budget.
    #[must_use]
    pub fn for_sandbox(self: &Arc<Self>, budget: Arc<Budget>) -> SandboxResolver {
        SandboxResolver { host: Arc::clone(self), budget }
    }
}

impl Servers {
    fn of_system(roots: &Arc<RootCertStore>) -> Self {
        Self::new(Client::of_system(roots))
    }

    fn named(servers: &[NameServer], roots: &Arc<RootCertStore>) -> Self {
        Self::new(Client::named(servers, roots))
    }

    fn new(client: Option<Client>) -> Self {
        Self { client, cache: moka::sync::Cache::new(limits::DNS_CACHE) }
    }

    /// Asks the host's resolvers; the outcome is as it may be kept.
    async fn query(&self, name: &Domain, kind: RecordType) -> Result<Kept, ResolveError> {
        let client = self.client.as_ref().ok_or(ResolveError::NoResolver)?;
        client.ask(name, kind).await.map(Kept::new)
    }
}

/// The host's resolvers, as one sandbox may use them.
pub struct SandboxResolver {
    host: Arc<HostResolver>,
    budget: Arc<Budget>,
}

impl SandboxResolver {
    async fn ask(&self, name: &Domain, kind: RecordType) -> Result<Answer, ResolveError> {
        if let Some(addrs) = self.host.overrides.addrs(name) {
            return Ok(Answer::of(addrs.filter(|addr| kind == kind_of(*addr)).map(RData::from).collect()));
        }
        if name.is_special_use() {
            return Ok(Answer { found: Found::NoName(None), ttl: limits::DNS_TTL_FLOOR });
        }
        if kind == RecordType::AAAA && !self.host.ipv6 {
            return Ok(Answer::of(Arc::default()));
        }
        let within = tokio::time::timeout(limits::DNS_TIME, self.ask_cache(name, kind));
        within.await.unwrap_or(Err(ResolveError::TimedOut))
    }

    /// Whoever finds a slot empty holds its lock while asking, so that one question is on its way at most, and those
    /// who wait for the answer do not pay for it.
    async fn ask_cache(&self, name: &Domain, kind: RecordType) -> Result<Answer, ResolveError> {
        let key = (name.clone(), kind);
        let servers = self.host.servers.load_full();
        let slot = match servers.cache.get(&key) {
            Some(slot) => slot,
            // Who may not ask may not fill the cache with empty slots, either.
            None if self.budget.is_spent() => return Err(ResolveError::OverBudget),
            None => servers.cache.get_with(key, Arc::default),
        };
        let mut kept = slot.lock().await;
        if let Some(fresh) = kept.as_ref().filter(|kept| kept.until > Instant::now()) {
            return Ok(fresh.answer());
        }
        if self.budget.take().is_err() {
            return Err(ResolveError::OverBudget);
        }
        let fresh = servers.query(name, kind).await?;
        let answer = fresh.answer();
        *kept = Some(fresh);
        Ok(answer)
    }

    /// IPv6 first, families in turn (RFC 8305 §4); a slow AAAA answer is waited for only so long (§3).
    async fn ask_addrs(&self, name: &Domain) -> Result<Vec<IpAddr>, ResolveError> {
        let (mut v6, mut v4) =
            (std::pin::pin!(self.ask(name, RecordType::AAAA)), std::pin::pin!(self.ask(name, RecordType::A)));
        let (v6, v4) = tokio::select! {
            v6 = &mut v6 => (v6, v4.await),
            v4 = &mut v4 => match &v4 {
                Ok(answer) if !answer.records().is_empty() => {
                    let late = tokio::time::timeout(limits::DNS_FAMILY_DELAY, v6).await;
                    (late.unwrap_or(Err(ResolveError::TimedOut)), v4)
                }
                _ => (v6.await, v4),
            },
        };
        let addrs = |answer: &Result<Answer, ResolveError>| -> Vec<IpAddr> {
            answer.iter().flat_map(Answer::records).filter_map(RData::ip_addr).collect()
        };
        let (first, second) = (addrs(&v6), addrs(&v4));
        let mut both = Vec::with_capacity(first.len() + second.len());
        for turn in 0..first.len().max(second.len()) {
            both.extend(first.get(turn));
            both.extend(second.get(turn));
        }
        if both.is_empty() { Err(v4.and(v6).err().unwrap_or(ResolveError::NotFound)) } else { Ok(both) }
    }
}

impl Resolve for SandboxResolver {
    fn dial_addrs<'a>(&'a self, name: &'a Domain, port: u16) -> Resolving<'a, Vec<SocketAddr>> {
        Box::pin(async move {
            if let Some(given) = self.host.overrides.dial(name, port) {
                return Ok(given);
            }
            let addrs = self.ask_addrs(name).await?;
            Ok(addrs.into_iter().map(|addr| SocketAddr::new(addr, port)).collect())
        })
    }

    fn lookup<'a>(&'a self, name: &'a Domain, kind: RecordType) -> Resolving<'a, Answer> {
        Box::pin(self.ask(name, kind))
    }

    fn overrides(&self, name: &Domain) -> bool {
        self.host.overrides.contains(name)
    }
}

/// One `--resolve NAME:PORT:ADDR[:PORT]`: a dial to the name at the first port goes to the address instead, at the
/// second port if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    name: Domain,
    port: u16,
    to: SocketAddr,
}

impl FromStr for Override {
    type Err = OverrideError;

    fn from_str(text: &str) -> Result<Self, OverrideError> {
        let (name, rest) = text.split_once(':').ok_or(OverrideError::Shape)?;
        let (port, addr) = rest.split_once(':').ok_or(OverrideError::Shape)?;
        let name = Domain::parse(name).map_err(OverrideError::Name)?;
        let port = parse_port(port)?;
        let (addr, other) = match addr.strip_prefix('[') {
            Some(addr) => {
                let (addr, after) = addr.split_once(']').ok_or(OverrideError::Address)?;
                let addr: Ipv6Addr = addr.parse().map_err(|_| OverrideError::Address)?;
                let other =
                    if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(OverrideError::Shape)?) };
                (IpAddr::V6(addr), other)
            }
            None => {
                let (addr, other) = addr.split_once(':').map_or((addr, None), |(addr, other)| (addr, Some(other)));
                let addr: Ipv4Addr = addr.parse().map_err(|_| OverrideError::Address)?;
                (IpAddr::V4(addr), other)
            }
        };
        let to = SocketAddr::new(addr, other.map_or(Ok(port), parse_port)?);
        Ok(Self { name, port, to })
    }
}

/// Why a text is no [`Override`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverrideError {
    /// Not `NAME:PORT:ADDR[:PORT]`.
    Shape,
    /// Its name is none.
    Name(DomainError),
    /// A port that is no number from 1 to 65535.
    Port,
    /// An address that is neither IPv4 nor IPv6 in brackets.
    Address,
}

impl fmt::Display for OverrideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shape => "expected NAME:PORT:ADDR or NAME:PORT:ADDR:PORT",
            Self::Name(_) => "the name is no domain name",
            Self::Port => "a port is a number from 1 to 65535",
            Self::Address => "the address is neither IPv4 nor IPv6 in brackets, such as [::1]",
        })
    }
}

impl std::error::Error for OverrideError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Name(error) => Some(error),
            Self::Shape | Self::Port | Self::Address => None,
        }
    }
}

/// All the operator's [`Override`]s. A name in it is never asked of the host's resolvers, at whatever port.
#[derive(Debug, Clone, Default)]
pub struct Overrides(HashMap<Domain, Vec<(u16, SocketAddr)>>);

impl Overrides {
    /// Whether the name is in it.
    #[must_use]
    pub fn contains(&self, name: &Domain) -> bool {
        self.0.contains_key(name)
    }

    /// What DNS answers for the name: every address given to it, once.
    fn addrs(&self, name: &Domain) -> Option<impl Iterator<Item = IpAddr>> {
        let mut addrs: Vec<_> = self.0.get(name)?.iter().map(|(_, to)| to.ip()).collect();
        let mut seen = std::collections::HashSet::new();
        addrs.retain(|addr| seen.insert(*addr));
        Some(addrs.into_iter())
    }

    /// Where a dial goes: to what the port was given; at a port that was given nothing, to the name's addresses.
    fn dial(&self, name: &Domain, port: u16) -> Option<Vec<SocketAddr>> {
        let given = self.0.get(name)?.iter().filter(|(at, _)| *at == port).map(|(_, to)| *to).collect::<Vec<_>>();
        if given.is_empty() {
            return Some(self.addrs(name)?.map(|addr| SocketAddr::new(addr, port)).collect());
        }
        Some(given)
    }
}

impl FromIterator<Override> for Overrides {
    fn from_iter<I: IntoIterator<Item = Override>>(all: I) -> Self {
        let mut map: HashMap<Domain, Vec<(u16, SocketAddr)>> = HashMap::new();
        for Override { name, port, to } in all {
            map.entry(name).or_default().push((port, to));
        }
        Self(map)
    }
}

type Key = (Domain, RecordType);
type Slot = tokio::sync::Mutex<Option<Kept>>;

/// An answer in the cache.
struct Kept {
    found: Found,
    until: Instant,
}

impl Kept {
    fn new(Answer { found, ttl }: Answer) -> Self {
        // The floor keeps what was answered and what is dialled a moment later the same, whatever the TTL says.
        let ttl = ttl.clamp(limits::DNS_TTL_FLOOR, limits::DNS_TTL_CEILING);
        Self { found, until: Instant::now() + ttl }
    }

    fn answer(&self) -> Answer {
        Answer { found: self.found.clone(), ttl: self.until.saturating_duration_since(Instant::now()) }
    }
}

fn kind_of(addr: IpAddr) -> RecordType {
    if addr.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

fn parse_port(text: &str) -> Result<u16, OverrideError> {
    // `u16::from_str` takes a leading `+`.
    let port = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    port.filter(|port| *port != 0).ok_or(OverrideError::Port)
}
