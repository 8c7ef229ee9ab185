//! C: an address in disguise, and names that lead to addresses which nobody meant.

use std::net::IpAddr;
use std::process::Command;

use super::client::{assert_answer, assert_refusals, attack};
use crate::support::world::{HOST, PRIVATE, World};
use crate::support::{eventually, skipped};

/// Nothing but protected ranges stands between this and the cloud's metadata.
const ALL: [&str; 2] = ["--mode", "allow-all"];

fn protected(addresses: &[&str]) {
    World::each(|world| {
        let script = format!("for address in {addresses:?}:\n    tcp(address, address, 80, request('allowed.rig'))");
        let outcome = attack(world, world.run().options(ALL), &script);
        for address in addresses {
            assert_answer(&outcome, address, &["refused", "HTTP/1.1 403"]);
        }
        let denied = outcome.verdicts(&[("verdict", "deny"), ("reason", "protected-range"), ("port", "80")]);
        assert_eq!(denied.len(), addresses.len(), "{outcome:#?}");
        if let Some(wide) = &world.wide {
            wide.metadata.assert_untouched();
            wide.host.assert_untouched();
            wide.private.assert_untouched();
        }
        world.allowed.assert_untouched();
    });
}

/// C24: IPv4 in IPv6, mapped (which is IPv4 on the wire) and compatible.
#[test]
fn c24_mapped_and_compatible_addresses() {
    protected(&["::ffff:169.254.169.254", "::169.254.169.254", "::ffff:0:10.0.0.1", "::a00:1"]);
}

/// C25: NAT64, 6to4, Teredo.
#[test]
fn c25_translated_and_tunnelled_addresses() {
    protected(&[
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b::a00:1",
        "2002:a9fe:a9fe::1",
        "2002:a00:1::1",
        "2001:0:4136:e378:8000:63bf:5601:5601",
    ]);
}

/// C27: an address spelled as a name: octal, hexadecimal, decimal, short.
#[test]
fn c27_addresses_spelled_as_names() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("*.rig"),
            "
spellings = ('0177.0.0.1', '0x7f.1', '2130706433', '127.1', '0x7f000001', '127.0.0.1', '[::1]', '[::ffff:7f00:1]')
for name in spellings:
    tcp(name, EVIL, 80, request(name))
    greet(name + ' sni', EVIL, 443, records(hello(name.encode())))",
        );
        assert_refusals(&outcome, 16);
        if let Some(wide) = &world.wide {
            wide.host.assert_untouched();
            assert_eq!(wide.names.asked(), [], "an address was asked of the resolver");
        }
        world.evil.assert_untouched();
    });
}

/// C28: ranges that are never anybody's server, and metadata over IPv6.
#[test]
fn c28_special_ranges() {
    protected(&[
        "169.254.169.254",
        "100.64.0.1",
        "198.18.0.1",
        "10.20.0.5",
        "172.16.0.1",
        "192.168.0.1",
        "240.0.0.1",
        "fd00:ec2::254",
        "fc00::1",
    ]);
}

/// C29: the host itself: its address, its loopback, and its listeners.
#[test]
fn c29_the_hosts_own_addresses() {
    World::each_wide(|world| {
        let script = format!(
            "
targets = {{'host': '{HOST}', 'host6': '2a0e:5ca1:ab1e::2', 'loopback': '127.0.0.1', 'any': '0.0.0.0'}}
for what, address in targets.items():
    tcp(what, address, 80, request('allowed.rig'))"
        );
        let outcome = attack(world, world.run().options(ALL), &script);
        for what in ["host", "host6"] {
            assert_answer(&outcome, what, &["refused", "HTTP/1.1 403"]);
        }
        // Loopback inside is the sandbox's own, and nothing listens there.
        for what in ["loopback", "any"] {
            assert_answer(&outcome, what, &["refused", "ECONNREFUSED"]);
        }
        outcome.assert_denied("protected-range", &[("address", HOST)]);
        world.wide.as_ref().expect("the wide world").host.assert_untouched();
    });
}

/// C29: our own listener, by its port.
#[test]
fn c29_the_listeners_own_port_is_a_loop() {
    World::each(|world| {
        let script =
            "for address in (EVIL, '198.18.0.1', EVIL6):\n    tcp(address, address, 65533, request('allowed.rig'))";
        let outcome = attack(world, world.run().options(ALL), script);
        assert_refusals(&outcome, 3);
        assert!(!outcome.verdicts(&[("verdict", "deny"), ("reason", "loop")]).is_empty(), "{outcome:#?}");
        assert_eq!(outcome.verdicts(&[("verdict", "allow")]).len(), 0, "{outcome:#?}");
        world.evil.assert_untouched();
    });
}

/// C30: an allowed name whose address is private; and CIDRs: a denied one beats an allowed one.
#[test]
fn c30_an_allowed_name_resolves_to_a_private_address() {
    World::each_wide(|world| {
        let wide = world.wide.as_ref().expect("the wide world");
        wide.names.set("allowed.rig", &[address(PRIVATE)]);
        let script = format!(
            "attempt('dns', lambda: ask('allowed.rig')[1])\ntcp('by name', EVIL, 80, request('allowed.rig'))\n\
             tcp('by address', '{PRIVATE}', 80, request('allowed.rig'))"
        );
        let outcome = attack(world, world.run().allow("allowed.rig"), &script);
        assert_answer(&outcome, "dns", &["['192.0.2.1']"]);
        assert_answer(&outcome, "by name", &["HTTP/1.1 403", "HTTP/1.1 502"]);
        assert_answer(&outcome, "by address", &["HTTP/1.1 403", "refused"]);
        outcome.assert_denied("protected-range", &[("name", "allowed.rig"), ("protocol", "http")]);
        assert!(outcome.stderr.contains("open the address of allowed.rig"), "{}", outcome.stderr);
        wide.private.assert_untouched();

        let both = world.run().options(["--allow-cidr", "10.20.0.0/16", "--deny-cidr", "10.20.0.4/31"]);
        let outcome = attack(world, both, &format!("tcp('denied', '{PRIVATE}', 80, request('x.rig'))"));
        assert_answer(&outcome, "denied", &["HTTP/1.1 403", "refused"]);
        outcome.assert_denied("denied-cidr", &[("address", PRIVATE)]);
        wide.private.assert_untouched();

        let supernet = world.run().options(["--allow-cidr", "0.0.0.0/0"]);
        let outcome = attack(world, supernet, &format!("tcp('supernet', '{PRIVATE}', 80, request('x.rig'))"));
        outcome.assert_denied("protected-range", &[("address", PRIVATE)]);
        wide.private.assert_untouched();

        let opened = world.run().options(["--allow-cidr", "10.20.0.0/16"]);
        let outcome = attack(world, opened, &format!("tcp('opened', '{PRIVATE}', 80, request('x.rig'))"));
        assert_answer(&outcome, "opened", &["HTTP/1.1 200"]);
        assert_eq!(wide.private.connections(), 1, "what is opened is open");
    });
}

/// C31: an answer with a public and a private address.
#[test]
fn c31_a_mixed_answer() {
    World::each_wide(|world| {
        let wide = world.wide.as_ref().expect("the wide world");
        wide.names.set("allowed.rig", &[address("127.0.0.1"), address(PRIVATE), world.allowed.address.into()]);
        let script = "attempt('dns', lambda: ask('allowed.rig')[1])\ntcp('by name', EVIL, 80, request('allowed.rig'))";
        let outcome = attack(world, world.run().allow("allowed.rig"), script);
        assert_answer(&outcome, "dns", &[&format!("['{}']", world.allowed.address)]);
        assert_answer(&outcome, "by name", &["HTTP/1.1 200"]);
        wide.private.assert_untouched();
        wide.host.assert_untouched();
    });
}

/// C32: public when it is checked, private when it is dialled (TTL 0).
#[test]
fn c32_rebinding() {
    World::each_wide(|world| {
        let wide = world.wide.as_ref().expect("the wide world");
        let turns = [world.allowed.address.into(), address("127.0.0.1"), address("169.254.169.254"), address(HOST)];
        wide.names.rotate("turning.rig", &turns);
        let script = "for turn in range(12):\n    tcp(f'turn {turn}', ALLOWED, 80, request('turning.rig'))";
        let outcome = attack(world, world.run().allow("turning.rig"), script);
        assert_eq!(outcome.stdout.lines().count(), 12, "{outcome:#?}");
        assert_answer(&outcome, "turn 0", &["HTTP/1.1 200"]);
        wide.metadata.assert_untouched();
        wide.host.assert_untouched();
    });
}

/// C34: a proxy in exeat's own environment does not dial for it.
#[test]
fn c34_an_ambient_proxy_is_ignored() {
    World::each(|world| {
        let proxy = match world.wide {
            Some(_) => format!("http://{}:80", world.evil.address),
            None => format!("http://{}", world.evil.http.address),
        };
        let run = ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
            .iter()
            .fold(world.run().allow("allowed.rig"), |run, name| run.env(name, &proxy));
        run.curl(["http://allowed.rig/c34"]).succeeded();
        assert_eq!(world.allowed.http.requests().len(), 1);
        world.evil.assert_untouched();
    });
}

/// C34: with a proxy of the operator's between, which would connect us to anybody: addresses are vetted as without it,
/// it is asked for no other, and no flow reaches the proxy itself.
#[test]
fn c34_an_upstream_proxy_opens_no_protected_address() {
    World::each_wide(|world| {
        if Command::new("microsocks").arg("-h").output().is_err() {
            return skipped("C34 with a proxy: microsocks is not installed");
        }
        let wide = world.wide.as_ref().expect("the wide world");
        let _proxy = world.serve(&["microsocks", "-i", "203.0.113.1", "-p", "1080"]);
        let listens = ["bash", "-c", ": < /dev/tcp/203.0.113.1/1080 && echo yes || true"];
        assert!(eventually(|| world.command(&listens) == "yes\n"), "the proxy listens");
        wide.names.set("metadata.rig", &[address("169.254.169.254")]);
        wide.names.set("private.rig", &[address(PRIVATE)]);
        wide.names.set("proxy.rig", &[address("203.0.113.1")]);
        let run = world.run().options(ALL).options(["--upstream-proxy", "socks5://203.0.113.1:1080"]);
        let outcome = attack(
            world,
            run,
            "tcp('allowed', ALLOWED, 80, request('allowed.rig'))
for name in ('metadata.rig', 'private.rig', 'proxy.rig'):
    tcp(name, EVIL, 80, request(name))
tcp('metadata', '169.254.169.254', 80, request('169.254.169.254'))
tcp('private', '10.20.0.5', 80, request('10.20.0.5'))
tcp('proxy', '203.0.113.1', 1080, bytes([5, 1, 0]))
tcp('proxy in http', '203.0.113.1', 1080, request('203.0.113.1:1080'))",
        );
        assert_answer(&outcome, "allowed", &["HTTP/1.1 200"]);
        for what in ["metadata.rig", "private.rig", "proxy.rig", "metadata", "private", "proxy", "proxy in http"] {
            assert_answer(&outcome, what, &["HTTP/1.1 403", "refused"]);
        }
        outcome.assert_denied("protected-range", &[("name", "proxy.rig")]);
        outcome.assert_denied("protected-range", &[("address", "203.0.113.1"), ("port", "1080")]);
        wide.metadata.assert_untouched();
        wide.private.assert_untouched();
    });
}

/// C36: IPv6 is judged as IPv4 is.
#[test]
fn c36_the_same_over_ipv6() {
    World::each(|world| {
        let outcome = attack(
            world,
            world.run().allow("allowed.rig"),
            "tcp('evil', EVIL6, 80, request('evil.rig'))
greet('tls', EVIL6, 443, records(hello(b'evil.rig')))
tcp('raw', EVIL6, 5432, b'\\x00opaque')
tcp('allowed', ALLOWED6, 80, request('allowed.rig'))",
        );
        assert_answer(&outcome, "evil", &["HTTP/1.1 403"]);
        assert_answer(&outcome, "tls", &["refused", "handshake"]);
        assert_answer(&outcome, "raw", &["refused"]);
        assert_answer(&outcome, "allowed", &["HTTP/1.1 200"]);
        outcome.assert_denied("no-rule", &[("port", "80"), ("name", "evil.rig")]);
        outcome.assert_denied("no-name", &[("port", "5432")]);
        world.evil.assert_untouched();
    });
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
