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

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::svcb::{EchConfigList, Mandatory, Unknown};
    use hickory_proto::rr::rdata::{A, AAAA};

    use super::*;

    fn record(params: Vec<(SvcParamKey, SvcParamValue)>) -> RData {
        RData::HTTPS(HTTPS(SVCB::new(1, Name::root(), params)))
    }

    fn alpn(ids: &[&str]) -> (SvcParamKey, SvcParamValue) {
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(ids.iter().map(|id| (*id).into()).collect())))
    }

    fn ech() -> (SvcParamKey, SvcParamValue) {
        (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![0, 4, 0xfe, 0x0d, 0, 0])))
    }

    fn mandatory(keys: &[SvcParamKey]) -> (SvcParamKey, SvcParamValue) {
        (SvcParamKey::Mandatory, SvcParamValue::Mandatory(Mandatory(keys.to_vec())))
    }

    fn port() -> (SvcParamKey, SvcParamValue) {
        (SvcParamKey::Port, SvcParamValue::Port(8443))
    }

    fn left(params: Vec<(SvcParamKey, SvcParamValue)>) -> Option<RData> {
        without_bypasses(&record(params), |addr| addr.to_string().starts_with("192.0.2."))
    }

    #[test]
    fn ech_http3_and_unknown_parameters_are_removed() {
        let dohpath = (SvcParamKey::Unknown(7), SvcParamValue::Unknown(Unknown(b"/dns-query{?dns}".to_vec())));
        let kept = left(vec![alpn(&["h3", "h2", "h3-29", "H3"]), port(), ech(), dohpath]);
        assert_eq!(kept, Some(record(vec![alpn(&["h2"]), port()])));
    }

    #[test]
    fn an_endpoint_for_http3_keeps_its_default_protocol() {
        assert_eq!(left(vec![alpn(&["h3"])]), Some(record(Vec::new())));
    }

    #[test]
    fn an_endpoint_that_speaks_only_http3_is_removed() {
        assert_eq!(left(vec![alpn(&["h3"]), (SvcParamKey::NoDefaultAlpn, SvcParamValue::NoDefaultAlpn)]), None);
    }

    #[test]
    fn an_endpoint_that_demands_what_was_removed_is_removed() {
        assert_eq!(left(vec![mandatory(&[SvcParamKey::EchConfigList]), ech()]), None);
        let demands_what_stays = vec![mandatory(&[SvcParamKey::Port]), port()];
        assert_eq!(left(demands_what_stays.clone()), Some(record(demands_what_stays)));
    }

    #[test]
    fn hints_are_vetted_like_answers() {
        let v4 = |addrs: Vec<A>| (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(addrs)));
        let v6 = (SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(vec![AAAA::new(0, 0, 0, 0, 0, 0, 0, 1)])));
        let kept = left(vec![v4(vec![A::new(127, 0, 0, 1), A::new(192, 0, 2, 1)]), v6.clone()]);
        assert_eq!(kept, Some(record(vec![v4(vec![A::new(192, 0, 2, 1)])])));
        assert_eq!(left(vec![v4(vec![A::new(127, 0, 0, 1)]), v6]), Some(record(Vec::new())));
    }

    #[test]
    fn what_is_no_service_record_is_removed() {
        assert_eq!(without_bypasses(&RData::A(A::new(192, 0, 2, 1)), |_| true), None);
    }
}
