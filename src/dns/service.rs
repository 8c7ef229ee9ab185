//! HTTPS and SVCB records (RFC 9460) without what would lead a client around us.
//!
//! A parameter that is not known here is removed: it may steer where we do not look (`dohpath` does).

use std::net::IpAddr;

use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::svcb::{Alpn, IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{HTTPS, SVCB};

/// The record without `ech`, HTTP/3, unknown parameters, and hints that `keep` refuses. `None` where it is no such
/// record, or nothing usable is left of it.
pub(super) fn without_bypasses(record: &RData, keep: impl Fn(IpAddr) -> bool + Copy) -> Option<RData> {
    match record {
        RData::HTTPS(HTTPS(service)) => Some(RData::HTTPS(HTTPS(strip(service, keep)?))),
        RData::SVCB(service) => Some(RData::SVCB(strip(service, keep)?)),
        _ => None,
    }
}

fn strip(service: &SVCB, keep: impl Fn(IpAddr) -> bool) -> Option<SVCB> {
    let mut kept = Vec::with_capacity(service.svc_params.len());
    let mut without_alpn = false;
    for (key, value) in &service.svc_params {
        let value = match value {
            SvcParamValue::Alpn(Alpn(all)) => {
                let alpn: Vec<_> = all.iter().filter(|id| !is_quic(id)).cloned().collect();
                without_alpn = alpn.is_empty();
                (!without_alpn).then_some(SvcParamValue::Alpn(Alpn(alpn)))
            }
            SvcParamValue::Ipv4Hint(IpHint(all)) => {
                let hints: Vec<_> = all.iter().filter(|hint| keep(hint.0.into())).cloned().collect();
                (!hints.is_empty()).then_some(SvcParamValue::Ipv4Hint(IpHint(hints)))
            }
            SvcParamValue::Ipv6Hint(IpHint(all)) => {
                let hints: Vec<_> = all.iter().filter(|hint| keep(hint.0.into())).cloned().collect();
                (!hints.is_empty()).then_some(SvcParamValue::Ipv6Hint(IpHint(hints)))
            }
            known @ (SvcParamValue::Mandatory(_) | SvcParamValue::NoDefaultAlpn | SvcParamValue::Port(_)) => {
                Some(known.clone())
            }
            _ => None,
        };
        kept.extend(value.map(|value| (*key, value)));
    }
    let has = |key: SvcParamKey| kept.iter().any(|(other, _)| *other == key);
    // Only HTTP/3 was offered, or a client may not do without what was removed: then the endpoint is of no use.
    let unusable = without_alpn && has(SvcParamKey::NoDefaultAlpn)
        || kept.iter().any(|(_, value)| match value {
            SvcParamValue::Mandatory(mandatory) => !mandatory.0.iter().all(|key| has(*key)),
            _ => false,
        });
    (!unusable).then(|| SVCB::new(service.svc_priority, service.target_name.clone(), kept))
}

/// `h3`, its drafts (`h3-29`), and QUIC's other names.
fn is_quic(alpn: &str) -> bool {
    let lower = alpn.to_ascii_lowercase();
    lower == "h3" || lower.starts_with("h3-") || lower.contains("quic") || lower == "doq"
}
