//! One question to the host's resolvers, and what they say: several of them, over UDP and TCP or over TLS, with the
//! options of `/etc/resolv.conf` and the names of `/etc/hosts`.
//!
//! - `INVARIANT`: one question asks for one name. A resolver that recurses has followed an alias to its end; where one
//!   answers with an alias alone, there is no data, as there is none for a C library, since nobody has judged what the
//!   alias stands for.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{DnsRequestOptions, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordRef, RecordType};
use hickory_resolver::config::{NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer, RetryDnsHandle};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::{Hosts, NameServerPool, PoolContext, TlsConfig, system_conf};
use rustls::RootCertStore;

use super::{Answer, Found, NameServer, ResolveError, Zone};
use crate::flow::Domain;
use crate::{limits, tls};

/// Some resolvers, and how they are asked.
pub(super) struct Client {
    servers: RetryDnsHandle<NameServerPool<TokioRuntimeProvider>>,
    options: DnsRequestOptions,
    hosts: Hosts,
}

impl Client {
    /// The resolvers and the names of the host's own configuration; `None` where it has no resolver.
    pub(super) fn of_system(roots: &Arc<RootCertStore>) -> Option<Self> {
        let (config, options) = system_conf::read_system_conf().ok()?;
        Some(Self::new(config.name_servers, options, roots, Hosts::from_system().unwrap_or_default()))
    }

    /// These resolvers; `None` where there is none.
    pub(super) fn named(servers: &[NameServer], roots: &Arc<RootCertStore>) -> Option<Self> {
        let servers: Vec<_> = servers.iter().map(NameServer::config).collect();
        (!servers.is_empty()).then(|| Self::new(servers, ResolverOpts::default(), roots, Hosts::default()))
    }

    fn new(
        servers: Vec<NameServerConfig>,
        mut options: ResolverOpts,
        roots: &Arc<RootCertStore>,
        hosts: Hosts,
    ) -> Self {
        options.max_active_requests = limits::DNS_INFLIGHT;
        // A lost datagram is sent again while there is still time to hear the answer.
        options.timeout = options.timeout.min(limits::DNS_TIME / 2);
        options.case_randomization = false;
        let attempts = options.attempts.max(2);
        let mut request = DnsRequestOptions::default();
        request.recursion_desired = options.recursion_desired;
        request.use_edns = true;
        request.edns_payload_len = u16::try_from(limits::DNS_EDNS_BYTES).unwrap_or(u16::MAX);
        let config = tls::client(Arc::clone(roots)).with_no_client_auth();
        let context = Arc::new(PoolContext::new(options, TlsConfig { config }));
        let pool = NameServerPool::from_config(servers, context, TokioRuntimeProvider::default());
        Self { servers: RetryDnsHandle::new(pool, attempts), options: request, hosts }
    }

    /// Asks once, and again only where nobody answered. How long the answer is true is as the resolver says.
    pub(super) async fn ask(&self, name: &Domain, kind: RecordType) -> Result<Answer, ResolveError> {
        let mut absolute = Name::from_ascii(name.as_str()).map_err(|_| ResolveError::Failed)?;
        absolute.set_fqdn(true);
        let query = Query::query(absolute.clone(), kind);
        if let Some(known) = self.hosts.lookup_static_host(&query) {
            return Ok(flatten(known.message(), None, absolute, kind));
        }
        match self.servers.lookup(query, self.options).first_answer().await {
            Ok(response) => {
                let soa = response.soa().as_ref().map(RecordRef::to_owned);
                match response.response_code {
                    ResponseCode::NoError => Ok(flatten(&response, soa, absolute, kind)),
                    // The code is about the end of the alias chain (RFC 6604 §3).
                    ResponseCode::NXDomain => Ok(absent(Found::NoName, soa, u32::MAX)),
                    _ => Err(ResolveError::Failed),
                }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let soa = none.soa.map(|soa| *soa);
                match none.response_code {
                    ResponseCode::NXDomain => Ok(absent(Found::NoName, soa, u32::MAX)),
                    ResponseCode::NoError => Ok(absent(Found::NoData, soa, u32::MAX)),
                    _ => Err(ResolveError::Failed),
                }
            }
            Err(NetError::Timeout) => Err(ResolveError::TimedOut),
            Err(_) => Err(ResolveError::Failed),
        }
    }
}

/// What is not there is not there for as long as the zone says, and as `most` lets it; where no zone says it, it is not
/// to be kept (RFC 2308 §5).
fn absent(found: impl Fn(Option<Arc<Zone>>) -> Found, soa: Option<Record<SOA>>, most: u32) -> Answer {
    let ttl = soa.as_ref().map_or(0, |soa| soa.ttl.min(soa.data.minimum).min(most));
    let zone = soa.map(|soa| Arc::new(Zone { name: soa.name, soa: soa.data }));
    Answer { found: found(zone), ttl: Duration::from_secs(ttl.into()).min(limits::DNS_NEGATIVE_TTL) }
}

/// The records of `kind` at the end of the alias chain from `name`, with the shortest TTL on the way.
pub(super) fn flatten(message: &Message, soa: Option<Record<SOA>>, name: Name, kind: RecordType) -> Answer {
    let mut owner = name;
    let mut ttl = u32::MAX;
    // Each alias is followed once at most: as many steps as records, so a circle ends.
    for _ in 0..message.answers.len() {
        let alias = message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == owner && kind != RecordType::CNAME => Some((target, record.ttl)),
            _ => None,
        });
        let Some((target, alias_ttl)) = alias else { break };
        owner = target.0.clone();
        ttl = ttl.min(alias_ttl);
    }
    let found = message.answers.iter().filter(|record| record.name == owner && record.record_type() == kind);
    let records: Arc<[_]> =
        found.inspect(|record| ttl = ttl.min(record.ttl)).map(|record| record.data.clone()).collect();
    if records.is_empty() {
        return absent(Found::NoData, soa, ttl);
    }
    Answer { found: Found::Records(records), ttl: Duration::from_secs(ttl.into()) }
}
