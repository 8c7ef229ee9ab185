//! `dig` against `dnsmasq`, at a port that is not DNS's, and `nc`: all three as they are packaged.

use std::process::Command;

use crate::support::exeat::is_root;
use crate::support::skipped;
use crate::support::world::World;

/// What reaches the server, and nothing beside it.
const POLICY: &str = "version: 1\nsubnets: { allow: [203.0.113.20/32] }\n";

fn is_installed(program: &str) -> bool {
    Command::new(program).arg("-v").output().is_ok()
}

#[test]
fn dig_and_nc_reach_allowed_addresses_and_learn_at_once_of_others() {
    if !is_root() {
        return skipped("UDP clients: the wide world takes root");
    }
    if !["dig", "dnsmasq", "nc"].into_iter().all(is_installed) {
        return skipped("UDP clients: dig, dnsmasq or nc is not installed");
    }
    let world = World::best();
    let _server = world.serve(&[
        "dnsmasq",
        "--keep-in-foreground",
        "--user=root",
        "--pid-file=",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--port=5300",
        "--listen-address=203.0.113.20",
        "--bind-interfaces",
        "--address=/asked.test/192.0.2.77",
        "--txt-record=long.test,rig",
    ]);
    // It may not listen yet: who asks too soon is refused, and asks again.
    let script = "ask() { dig @$1 -p 5300 +short +notcp +tries=1 +time=20 $2 $3; }
        for attempt in $(seq 100); do ask 203.0.113.20 asked.test A > answer && break; sleep 0.1; done; cat answer
        ask 203.0.113.20 long.test TXT
        echo hello | nc -u -w 1 203.0.113.20 9000
        begun=$SECONDS; ask 203.0.113.66 asked.test A; echo code $? after $((SECONDS - begun)) s";
    let outcome = world.run().policy(POLICY).bash(script).succeeded();
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines[..3], ["192.0.2.77", "\"rig\"", "hello"], "{outcome:#?}");
    assert!(
        outcome.stdout.contains("connection refused") || outcome.stdout.contains("code 9 after 0 s"),
        "{outcome:#?}"
    );
    outcome.assert_allowed(&[("protocol", "udp"), ("address", "203.0.113.20"), ("port", "5300"), ("route", "relay")]);
    outcome.assert_denied("no-name", &[("protocol", "udp"), ("address", "203.0.113.66"), ("port", "5300")]);
}
