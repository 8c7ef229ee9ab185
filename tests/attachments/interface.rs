//! Attachments by an interface on the host. The host forwards, tracks connections, serves on every address, and has a
//! way to the Internet: a packet that is not stopped arrives somewhere, and is counted there.

use std::net::IpAddr;
use std::process::{Command, Stdio};

use exeat::attach::{AttachmentEvent, AttachmentId, Device, Refusal, Spec};
use nix::sys::signal::{Signal, kill};

use super::ground::{Ground, Process, TAP_GUEST, refusal};
use crate::support::eventually;

/// What the host and the Internet answer, on TCP 80 and UDP 99.
const SERVICES: &str = r#"
import os, socket, threading
def tcp(s):
    while True:
        s.accept()[0].sendall(b"a service\n")
def udp(s):
    while True:
        s.sendto(b"a service", s.recvfrom(99)[1])
for family, any in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    threading.Thread(target=tcp, args=(socket.create_server((any, 80), family=family),)).start()
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((any, 99))
    threading.Thread(target=udp, args=(s,)).start()
print("ready", flush=True)
"#;

/// Counts what has come past us, after every rule of ours.
const COUNTERS: &str = "
table inet watch {
  chain tracked { type filter hook prerouting priority 0; iifname exw* ct state != untracked counter; }
  chain delivered {
    type filter hook input priority 300
    iifname exw* meta mark 0x65786561 accept
    iifname exw* icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    iifname exw* counter
  }
  chain forwarded { type filter hook forward priority 300; iifname exw* counter; oifname exw* counter; }
  chain sent {
    type filter hook postrouting priority 300
    oifname exw* ct state != untracked counter
    oifname exw* meta mark 0x65786561 accept
    oifname exw* icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    oifname exw* counter
    oifname up0 ip saddr 10.0.0.0/8 counter
    oifname up0 ip6 saddr fd00::/8 counter
    oifname up0 icmp type echo-reply counter
  }
}";

/// A host that would let everything through.
struct Open {
    ground: Ground,
    _services: [Process; 2],
}

impl Open {
    fn new() -> Option<Self> {
        let ground = Ground::new()?;
        ground.place.ip("netns add exw-net
             link add up0 type veth peer name down0 netns exw-net
             address add 203.0.113.2/24 dev up0
             -6 address add 2001:db8:1::2/64 dev up0 nodad
             link set up0 up
             -n exw-net link set lo up
             -n exw-net address add 203.0.113.1/24 dev down0
             -n exw-net -6 address add 2001:db8:1::1/64 dev down0 nodad
             -n exw-net link set down0 up
             route add default via 203.0.113.1
             -6 route add default via 2001:db8:1::1");
        ground.shell("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        // An address that is being tried out changes by itself.
        assert!(eventually(|| !ground.shell("ip -6 address").contains("tentative")));
        let python = |command: &mut Command| {
            let mut process = ground.start(command.arg(SERVICES));
            assert_eq!(process.line(), "ready");
            process
        };
        let services = [
            python(Command::new("/usr/bin/python3").arg("-c")),
            python(Command::new("ip").args(["netns", "exec", "exw-net", "/usr/bin/python3", "-c"])),
        ];
        let open = Self { ground, _services: services };
        open.count();
        Some(open)
    }

    /// Counts what passes from here on.
    fn count(&self) {
        self.ground.shell(&format!("nft -f - <<< '{COUNTERS}'"));
    }

    /// A sandbox behind a veth of the host, which is down; its first address ends in `.2` and `::2` unless said.
    fn guest(&self, sandbox: &str, device: &str, addresses: [&str; 2]) -> Spec {
        self.ground.place.ip(&format!("netns add {sandbox}"));
        self.wire(sandbox, device, addresses)
    }

    /// Makes the veth of a sandbox, again where the last one is gone.
    fn wire(&self, sandbox: &str, device: &str, addresses: [&str; 2]) -> Spec {
        let [ipv4, ipv6] = addresses;
        self.ground.place.ip(&format!(
            "link add {device} type veth peer name eth0 netns {sandbox}
             -n {sandbox} link set lo up
             -n {sandbox} address add {ipv4}/24 dev eth0
             -n {sandbox} -6 address add {ipv6}/64 dev eth0 nodad
             -n {sandbox} link set eth0 up
             -n {sandbox} route add default via 10.0.0.77
             -n {sandbox} -6 route add default via fe80::1 dev eth0"
        ));
        spec(device, addresses)
    }

    #[track_caller]
    fn assert_nothing_passed(&self) {
        let table = self.ground.shell("nft list table inet watch");
        let passed: Vec<_> = table.lines().filter(|line| line.contains("counter")).collect();
        assert_eq!(passed.len(), COUNTERS.matches("counter").count(), "{table}");
        assert!(passed.iter().all(|line| line.contains("packets 0 ")), "{table}");
    }
}

fn spec(device: &str, addresses: [&str; 2]) -> Spec {
    let addresses = addresses.map(|text| text.parse::<IpAddr>().expect("an address"));
    Spec::Interface(Device::new(device, addresses).expect("a device"))
}

const TWO: [&str; 2] = ["10.0.0.2", "fd00::2"];
const THREE: [&str; 2] = ["10.0.0.3", "fd01::3"];

/// Whatever would lead past us, if nobody stopped it: the host, the Internet, the other sandbox.
const WAYS_OUT: &str = "
    tcp 203.0.113.2 80 for 0.2
    tcp 203.0.113.1 80 for 0.2
    tcp 10.0.0.3 80 for 0.2
    tcp 2001:db8:1::2 80 for 0.2
    tcp 2001:db8:1::1 80 for 0.2
    tcp fd01::3 80 for 0.2
    udp 203.0.113.2 53 hello for 0.2
    udp 2001:db8:1::1 53 hello for 0.2
    echo 203.0.113.2 for 0.2
    echo 203.0.113.1 for 0.2
    echo 2001:db8:1::1 for 0.2";

#[test]
fn whatever_a_guest_dials_arrives_here_or_nowhere() {
    let Some(open) = Open::new() else { return };
    let (a, b) = (open.guest("exw-a", "exwa", TWO), open.guest("exw-b", "exwb", THREE));
    let (one, two) = (open.ground.serve("one", &a), open.ground.serve("two", &b));
    let answers = open.ground.client(
        "exw-a",
        "tcp 1.2.3.4 443
         tcp 2001:4860::1 8443
         tcp 203.0.113.2 80
         tcp 203.0.113.1 80
         tcp 10.0.0.3 80
         tcp 10.0.0.77 80
         tcp 2001:db8:1::2 80
         tcp fe80::1%eth0 80
         tcp fd01::3 80
         udp 9.9.9.9 53 question
         udp 203.0.113.2 53 question
         udp 2001:4860::2 53 question
         udp 203.0.113.2 99 hello
         udp 203.0.113.1 99 hello
         udp 2001:db8:1::2 99 hello
         udp 203.0.113.2 99 relay
         udp 2001:4860::2 5000 relay
         udp 10.0.0.3 99 hello
         echo 203.0.113.2 for 0.2
         echo 2001:db8:1::2 for 0.2
         echo 10.0.0.3 for 0.2",
    );
    assert_eq!(
        answers,
        [
            "one 1.2.3.4:443",
            "one [2001:4860::1]:8443",
            "one 203.0.113.2:80",
            "one 203.0.113.1:80",
            "one 10.0.0.3:80",
            "one 10.0.0.77:80",
            "one [2001:db8:1::2]:80",
            "one [fe80::1]:80",
            "one [fd01::3]:80",
            "one 9.9.9.9:53 question",
            "one 203.0.113.2:53 question",
            "one [2001:4860::2]:53 question",
            "ECONNREFUSED",
            "ECONNREFUSED",
            "ECONNREFUSED",
            "one 203.0.113.2:99 relayed",
            "one [2001:4860::2]:5000 relayed",
            "ECONNREFUSED",
            "silence",
            "silence",
            "silence",
        ]
    );
    assert_eq!(open.ground.client("exw-b", "tcp 10.0.0.2 80"), ["two 10.0.0.2:80"]);
    open.assert_nothing_passed();
    open.ground.detach(one);
    open.ground.detach(two);
}

#[test]
fn the_host_would_let_it_through() {
    // What the other tests say nothing passed: without us, it does.
    let Some(open) = Open::new() else { return };
    open.guest("exw-a", "exwa", TWO);
    open.ground.place.ip("address add 10.0.0.77/24 dev exwa\nlink set exwa up");
    let answers = open.ground.client("exw-a", "tcp 203.0.113.2 80\nudp 10.0.0.77 99 hello");
    assert_eq!(answers, ["a service", "a service"]);
}

#[test]
fn two_guests_may_use_the_same_addresses_and_ports() {
    let Some(open) = Open::new() else { return };
    let (a, b) = (open.guest("exw-a", "exwa", TWO), open.guest("exw-b", "exwb", TWO));
    let (one, two) = (open.ground.serve("one", &a), open.ground.serve("two", &b));
    let script = "tcp 1.2.3.4 443 from 40000\ntcp 2001:4860::1 443 from 40000\nudp 9.9.9.9 53 question from 40000";
    let (first, kept) = open.ground.keeping_client("exw-a", script);
    let (second, kept_too) = open.ground.keeping_client("exw-b", script);
    assert_eq!(first, ["one 1.2.3.4:443", "one [2001:4860::1]:443", "one 9.9.9.9:53 question"]);
    assert_eq!(second, ["two 1.2.3.4:443", "two [2001:4860::1]:443", "two 9.9.9.9:53 question"]);
    open.assert_nothing_passed();
    kept.end();
    kept_too.end();
    open.ground.detach(one);
    open.ground.detach(two);
}

/// Sends what no socket would: each line is `ipv4 PROTOCOL SOURCE DESTINATION FRAGMENT PAYLOAD`, `ipv6 NEXT SOURCE
/// DESTINATION PAYLOAD` or `frame TYPE PAYLOAD`, payloads in hexadecimal. It knows the gateway's hardware address.
const RAW: &str = r#"
import socket, struct, subprocess, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
own = s.getsockname()[4]
gateway = bytes.fromhex(sys.argv[1].replace(":", ""))
def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
for line in sys.stdin.read().splitlines():
    kind, *words = line.split()
    to, payload = gateway, bytes.fromhex(words[-1])
    if kind == "frame":
        s.send(to + own + bytes.fromhex(words[0]) + payload)
    elif kind == "ipv4":
        source, destination = map(socket.inet_aton, words[1:3])
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, int(words[3], 16), 64, int(words[0]), 0,
            source, destination)
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        s.send(to + own + b"\x08\x00" + head + payload)
    else:
        source, destination = (socket.inet_pton(socket.AF_INET6, word) for word in words[1:3])
        # The checksum of ICMPv6, or of UDP, also behind another header.
        kind, skip, at = (58, 0, 2) if int(words[0]) == 58 else (17, 0 if int(words[0]) == 17 else 8, 6)
        if int(words[0]) in (0, 17, 44, 58):
            rest = payload[skip:]
            whole = source + destination + struct.pack("!IHBB", len(rest), 0, 0, kind) + rest
            payload = payload[:skip + at] + struct.pack("!H", checksum(whole)) + rest[at + 2:]
        if destination[0] == 0xff:
            to = b"\x33\x33" + destination[12:]
        head = struct.pack("!IHBB16s16s", 0x60000000, len(payload), int(words[0]), 255, source, destination)
        s.send(to + own + b"\x86\xdd" + head + payload)
"#;

impl Open {
    /// Sends packets from a sandbox as they are; see [`RAW`].
    fn raw(&self, sandbox: &str, device: &str, packets: &str) {
        let gateway = self.ground.shell(&format!("ip -o link show {device} | grep -o 'ether [^ ]*'"));
        let gateway = gateway.trim_start_matches("ether ");
        let packets: String = packets.lines().map(|line| format!("{}\n", line.trim())).collect();
        self.ground.shell(&format!(
            "exec ip netns exec {sandbox} /usr/bin/python3 -c '{}' {} <<< '{}'",
            RAW.replace('\'', "\"\"\""),
            gateway.trim(),
            packets.trim()
        ));
    }
}

#[test]
fn other_protocols_spoofed_sources_and_odd_packets_are_dropped() {
    let Some(open) = Open::new() else { return };
    let a = open.guest("exw-a", "exwa", TWO);
    let one = open.ground.serve("one", &a);
    assert_eq!(open.ground.client("exw-a", "tcp 1.2.3.4 443"), ["one 1.2.3.4:443"]);
    let syn = "9c400050000000010000000050021000ffff0000";
    let (udp, question) = ("9c4000630010000068656c6c6f212121", "9c4000350010000068656c6c6f212121");
    open.raw(
        "exw-a",
        "exwa",
        &format!(
            "ipv4 47 10.0.0.2 203.0.113.1 0 00000800
             ipv4 132 10.0.0.2 203.0.113.2 0 9c40005000000000
             ipv4 50 10.0.0.2 203.0.113.1 0 0000000000000000
             ipv4 1 10.0.0.2 203.0.113.1 0 0303fcfc00000000
             ipv4 6 10.0.0.9 203.0.113.2 0 {syn}
             ipv4 6 10.0.0.77 203.0.113.1 0 {syn}
             ipv4 17 10.0.0.9 203.0.113.2 0 {udp}
             ipv4 17 10.0.0.9 203.0.113.2 0 {question}
             ipv4 17 10.0.0.2 203.0.113.2 2000 9c40003500100000
             ipv4 17 10.0.0.2 203.0.113.2 1 68656c6c6f212121
             ipv4 17 10.0.0.2 203.0.113.2 2000 {udp}
             ipv4 17 10.0.0.77 203.0.113.2 0 {udp}
             ipv4 17 10.0.0.2 224.0.0.251 0 {udp}
             ipv4 17 10.0.0.2 203.0.113.2 0 {udp}
             ipv4 17 10.0.0.2 224.0.0.251 0 {question}
             ipv4 17 10.0.0.2 255.255.255.255 0 {question}
             ipv4 17 10.0.0.2 9.9.9.9 0 {question}
             ipv6 47 fd00::2 2001:db8:1::1 00000800
             ipv6 58 fd00::2 2001:db8:1::2 8000000000000000
             ipv6 6 fd00::9 2001:db8:1::2 {syn}
             ipv6 6 fe80::2 2001:db8:1::2 {syn}
             ipv6 17 fd00::9 2001:db8:1::2 {question}
             ipv6 17 fe80::2 2001:db8:1::2 {question}
             ipv6 17 fd00::9 2001:db8:1::2 {udp}
             ipv6 44 fd00::2 2001:db8:1::2 1100000100000001{udp}
             ipv6 17 fd00::2 ff02::1 {question}
             ipv6 0 fd00::2 2001:db8:1::2 1100000000000000{question}
             ipv6 44 fd00::2 2001:db8:1::2 1100000100000001{question}
             frame 8100 00050800450000
             frame 88cc 0207
             ipv6 17 fd00::2 2001:4860::9 {question}"
        ),
    );
    // What came after them has been heard, so they have.
    assert_eq!(open.ground.client("exw-a", "udp 9.9.9.9 53 question"), ["one 9.9.9.9:53 question"]);
    let asked = || one.asked.lock().expect("no panic").clone();
    // Each family has its socket, and none is read before the other.
    assert!(eventually(|| asked().iter().any(|(who, _)| who.is_ipv6())));
    let asked: Vec<_> = asked().iter().map(|(who, whom)| format!("{who} {whom}")).collect();
    let (relayed, mut asked): (Vec<_>, Vec<_>) = asked.into_iter().partition(|line| line.ends_with(":99"));
    asked.sort();
    assert_eq!(asked, ["10.0.0.2 9.9.9.9:53", "10.0.0.2 9.9.9.9:53", "fd00::2 [2001:4860::9]:53"]);
    assert_eq!(relayed, ["10.0.0.2 203.0.113.2:99"], "what is whole and its own");
    open.assert_nothing_passed();
    open.ground.detach(one);
}

#[test]
fn a_guest_claims_no_neighbour_but_itself() {
    let Some(open) = Open::new() else { return };
    let a = open.guest("exw-a", "exwa", TWO);
    let one = open.ground.serve("one", &a);
    let arp = |operation, sender, target| {
        format!("frame 0806 0001080006040{operation}020000000009{sender}000000000000{target}\n")
    };
    let mut packets = String::new();
    // 10.0.0.9 asks for the host, tells who it is, and 203.0.113.1 is claimed.
    for (sender, target) in [("0a000009", "cb007102"), ("0a000009", "0a000009"), ("cb007101", "cb007102")] {
        packets += &arp("001", sender, target);
        packets += &arp("002", sender, target);
    }
    // Solicitations from 200 addresses, and advertisements of what is not the guest's.
    for n in 0..200 {
        packets += &format!(
            "ipv6 58 fe80::abcd:{n:x} fe80::1 8700000000000000fe80000000000000000000000000000101010200000000{n:02x}\n"
        );
        packets += &format!("ipv6 58 fd00::{:x} fe80::1 8700000000000000fe800000000000000000000000000001\n", n + 16);
    }
    open.raw("exw-a", "exwa", &packets);
    assert_eq!(open.ground.client("exw-a", "tcp 1.2.3.4 443\ntcp 2001:4860::1 443")[0], "one 1.2.3.4:443");
    let neighbours = open.ground.shell("ip neighbour show dev exwa");
    let link_local = neighbours.lines().filter(|line| line.starts_with("fe80::")).count();
    assert!((1..=8).contains(&link_local), "{neighbours}");
    for stranger in ["10.0.0.9 ", "203.0.113.1 ", "fd00::10 ", "fd00::d7 "] {
        assert!(!neighbours.contains(stranger), "{neighbours}");
    }
    open.ground.detach(one);
}

#[test]
fn router_advertisements_do_no_harm() {
    let Some(open) = Open::new() else { return };
    let a = open.guest("exw-a", "exwa", TWO);
    // A host that forwards heeds a router only if told so.
    open.ground.shell("sysctl -qw net.ipv6.conf.exwa.accept_ra=2");
    let one = open.ground.serve("one", &a);
    // A router for half an hour, with a prefix for addresses and routes, from a link-local address.
    let prefix = "030440c0000007080000070800000000fdaa0000000000000000000000000000";
    open.raw("exw-a", "exwa", &format!("ipv6 58 fe80::2 ff02::1 8600000040000708000000000000000{}{prefix}", "0"));
    assert_eq!(open.ground.client("exw-a", "tcp 2001:4860::1 443"), ["one [2001:4860::1]:443"]);
    let found = open.ground.shell("ip -6 route show table all; ip -6 address");
    assert!(!found.contains("fdaa:") && !found.contains("via fe80::2"), "{found}");
    assert_eq!(open.ground.shell("cat /proc/sys/net/ipv6/conf/exwa/accept_ra"), "0\n");
    open.ground.detach(one);
}

/// How a daemon can be missing.
#[derive(Debug, Clone, Copy)]
enum Missing {
    Stopped,
    Killed,
}

#[test]
fn with_nobody_to_serve_nothing_passes() {
    let Some(open) = Open::new() else { return };
    let a = open.guest("exw-a", "exwa", TWO);
    let one = open.ground.serve("one", &a);
    assert_eq!(open.ground.client("exw-a", "tcp 203.0.113.2 80"), ["one 203.0.113.2:80"]);
    let id = one.abandon(&open.ground);
    let answers = open.ground.client("exw-a", WAYS_OUT);
    assert!(answers.iter().all(|answer| answer == "silence"), "{answers:?}");
    open.assert_nothing_passed();
    let again = open.ground.take_up(&a, &id, None).expect("it is the same");
    let again = open.ground.serve_attached("two", again);
    assert_eq!(open.ground.client("exw-a", "tcp 203.0.113.2 80"), ["two 203.0.113.2:80"]);
    open.ground.detach(again);
}

#[test]
fn with_the_daemon_stopped_or_killed_nothing_passes() {
    let Some(open) = Open::new() else { return };
    for missing in [Missing::Stopped, Missing::Killed] {
        let a = open.guest("exw-a", "exwa", TWO);
        let (daemon, id) = daemon(&open, "exwa 10.0.0.2 fd00::2");
        assert_eq!(open.ground.client("exw-a", "tcp 203.0.113.2 80"), ["helper 203.0.113.2:80"]);
        let signal = match missing {
            Missing::Stopped => Signal::SIGSTOP,
            Missing::Killed => Signal::SIGKILL,
        };
        kill(daemon.id(), signal).expect("our child");
        let state = format!("/proc/{}/stat", daemon.id());
        let state = || std::fs::read_to_string(&state).unwrap_or_default();
        assert!(eventually(|| state().contains(") T ") || state().contains(") Z ") || state().is_empty()));
        let answers = open.ground.client("exw-a", WAYS_OUT);
        assert!(answers.iter().all(|answer| answer == "silence"), "{missing:?}: {answers:?}");
        open.assert_nothing_passed();
        daemon.end();
        // Nobody sees it renamed, and it stays closed.
        open.ground.place.ip("link set exwa name exwz");
        let answers = open.ground.client("exw-a", WAYS_OUT);
        assert!(answers.iter().all(|answer| answer == "silence"), "{missing:?}: {answers:?}");
        open.assert_nothing_passed();
        open.ground.place.ip("link set exwz name exwa");
        // Another process takes it up while the sandbox keeps knocking at the host's own door.
        let knocking = open.ground.start(Command::new("ip").args(["netns", "exec", "exw-a", "bash", "-c", KNOCK]));
        let again = open.ground.take_up(&a, &id, None).expect("it is the same");
        let again = open.ground.serve_attached("two", again);
        let served = || open.ground.client("exw-a", "tcp 203.0.113.2 80") == ["two 203.0.113.2:80"];
        assert!(eventually(served), "the sandbox finds its gateway again");
        open.assert_nothing_passed();
        knocking.end();
        open.ground.detach(again);
        open.assert_nothing_passed();
        open.ground.place.ip("netns del exw-a");
        assert!(eventually(|| !open.ground.shell("ip link").contains("exwa")));
    }
}

/// Datagrams to the host and beyond, until it is ended.
const KNOCK: &str = "while true; do echo hello > /dev/udp/203.0.113.2/99; echo hello > /dev/udp/203.0.113.1/99; done";

/// This program, once more, as a daemon that attaches one interface.
fn daemon(open: &Open, interface: &str) -> (Process, AttachmentId) {
    let this = std::env::current_exe().expect("this program");
    let mut command = Command::new(this);
    let test = "attachments::interface::a_daemon_of_another_process";
    let mut process = open.ground.start(command.args(["--exact", test, "--nocapture"]).env(AS_DAEMON, interface));
    let id = std::iter::repeat_with(|| process.line()).find_map(|line| line.rsplit("attached ").next()?.parse().ok());
    (process, id.expect("it never stops reading"))
}

/// The interface that a daemon is to attach, with its addresses.
const AS_DAEMON: &str = "EXW_DAEMON";

#[test]
fn a_daemon_of_another_process() {
    // By itself this tests nothing: other tests start it, in a process that they stop and kill.
    let Ok(wanted) = std::env::var(AS_DAEMON) else { return };
    let words: Vec<&str> = wanted.split(' ').collect();
    let [device, ipv4, ipv6] = words[..] else { panic!("{wanted}") };
    let ground = Ground::in_place();
    let served = ground.serve("helper", &spec(device, [ipv4, ipv6]));
    println!("attached {}", served.id());
    loop {
        std::thread::park();
    }
}

#[test]
fn what_cannot_be_confined_is_refused() {
    let Some(open) = Open::new() else { return };
    let a = open.guest("exw-a", "exwa", TWO);
    open.ground.place.ip("link add hostbr type bridge
         tuntap add exwtun mode tun
         link add exwslave type veth peer name exwpeer
         link set exwslave master hostbr");
    let before = open.ground.traces("");
    let named = |name: &str| refusal(open.ground.attach(&spec(name, THREE)));
    assert_eq!(named("exwnone"), Refusal::NoInterface("exwnone".to_owned()));
    assert_eq!(named("exwtun"), Refusal::NotEthernet("exwtun".to_owned()));
    assert_eq!(named("exwslave"), Refusal::Enslaved("exwslave".to_owned()));
    open.ground.traces("").assert_same(&before);
    open.ground.place.ip("link set exwa up");
    assert_eq!(refusal(open.ground.attach(&a)), Refusal::Up("exwa".to_owned()));
    open.ground.place.ip("link set exwa down");
    open.ground.traces("").assert_same(&before);
    let one = open.ground.serve("one", &a);
    assert_eq!(refusal(open.ground.attach(&a)), Refusal::Taken);
    assert_eq!(open.ground.client("exw-a", "tcp 1.2.3.4 443"), ["one 1.2.3.4:443"], "the first is as it was");
    open.ground.detach(one);
}

#[test]
fn a_port_that_somebody_has_leaves_the_interface_as_it_was() {
    let Some(open) = Open::new() else { return };
    let a = open.guest("exw-a", "exwa", TWO);
    let before = open.ground.traces("");
    let taken =
        "import signal, socket; s = socket.create_server((\"0.0.0.0\", 65533)); print(1, flush=True); signal.pause()";
    let mut other = open.ground.start(Command::new("/usr/bin/python3").args(["-c", taken]));
    other.line();
    assert_eq!(refusal(open.ground.attach(&a)), Refusal::Taken);
    open.ground.traces("").assert_same(&before);
    other.end();
    let one = open.ground.serve("one", &a);
    open.ground.detach(one);
}

#[test]
fn an_interface_that_becomes_another_is_quarantined_and_put_down() {
    let Some(open) = Open::new() else { return };
    open.ground.place.ip("link add hostbr type bridge\naddress add 10.0.0.77/24 dev hostbr\nlink set hostbr up");
    for (change, told) in [
        ("link set exwa name exwz", "interface exwa is now called exwz"),
        ("link set exwa master hostbr", "interface exwa belongs to a bridge or another device now"),
    ] {
        let a = open.guest("exw-a", "exwa", TWO);
        let one = open.ground.serve("one", &a);
        open.ground.place.ip(change);
        let (event, one) = open.ground.event(one);
        assert_eq!(event, AttachmentEvent::Quarantined(told.to_owned()));
        let answers = open.ground.client("exw-a", WAYS_OUT);
        assert!(answers.iter().all(|answer| answer == "silence"), "{answers:?}");
        open.assert_nothing_passed();
        open.ground.detach(one);
        open.ground.place.ip("netns del exw-a");
        assert!(eventually(|| !["exwa", "exwz"].iter().any(|name| open.ground.shell("ip link").contains(name))));
    }
}

#[test]
fn an_interface_that_is_put_down_and_up_is_served_again() {
    let Some(open) = Open::new() else { return };
    let a = open.guest("exw-a", "exwa", TWO);
    let one = open.ground.serve("one", &a);
    open.ground.place.ip("link set exwa down\nlink set exwa up");
    let served = || open.ground.client("exw-a", "tcp 1.2.3.4 443\ntcp 2001:4860::1 443");
    assert!(eventually(|| served() == ["one 1.2.3.4:443", "one [2001:4860::1]:443"]));
    open.ground.detach(one);
}

#[test]
fn an_interface_that_goes_is_gone_and_its_name_is_nobodys() {
    let Some(open) = Open::new() else { return };
    let before = open.ground.traces("");
    let a = open.guest("exw-a", "exwa", TWO);
    let first = open.ground.serve("one", &a);
    let id = first.id();
    open.ground.place.ip("link del exwa");
    let (event, first) = open.ground.event(first);
    assert_eq!(event, AttachmentEvent::Gone);
    // The same name, address and sandbox: another attachment all the same, and not harmed by the end of the first.
    open.wire("exw-a", "exwa", TWO);
    let second = open.ground.serve("two", &a);
    assert_ne!(second.id(), id);
    open.ground.detach(first);
    assert_eq!(open.ground.client("exw-a", "tcp 1.2.3.4 443"), ["two 1.2.3.4:443"]);
    let found = second.abandon(&open.ground);
    assert_eq!(refusal(open.ground.take_up(&a, &id, None)), Refusal::Another(found.clone()));
    let third = open.ground.take_up(&a, &found, None).expect("it is the same");
    let third = open.ground.serve_attached("three", third);
    open.ground.detach(third);
    open.ground.place.ip("link del exwa");
    open.ground.traces("").assert_same(&before);
}

#[test]
fn a_name_that_comes_back_while_nobody_runs_stays_closed() {
    let Some(open) = Open::new() else { return };
    let before = open.ground.traces("");
    let (a, b) = (open.guest("exw-a", "exwa", TWO), open.guest("exw-b", "exwb", THREE));
    let id = open.ground.serve("one", &a).abandon(&open.ground);
    let other = open.ground.serve("two", &b).abandon(&open.ground);
    open.ground.place.ip("link del exwa\nlink del exwb");
    open.wire("exw-a", "exwa", TWO);
    open.ground.place.ip("link set exwa up");
    let answers = open.ground.client("exw-a", WAYS_OUT);
    assert!(answers.iter().all(|answer| answer == "silence"), "{answers:?}");
    open.assert_nothing_passed();
    // Whoever starts again takes away what is left of those that are gone, and hears of those that are not.
    assert_eq!(open.ground.sweep(), std::slice::from_ref(&id));
    assert!(!open.ground.traces("").has("exwb"), "{other} is gone for good");
    let answers = open.ground.client("exw-a", "tcp 203.0.113.2 80 for 0.2");
    assert_eq!(answers, ["silence"]);
    assert_eq!(refusal(open.ground.attach(&a)), Refusal::Up("exwa".to_owned()));
    open.ground.place.ip("link set exwa down");
    let again = open.ground.serve("three", &a);
    assert_ne!(again.id(), id);
    assert_eq!(open.ground.client("exw-a", "tcp 203.0.113.2 80"), ["three 203.0.113.2:80"]);
    open.assert_nothing_passed();
    open.ground.detach(again);
    open.ground.place.ip("link del exwa");
    open.ground.traces("").assert_same(&before);
}

#[test]
fn detaching_leaves_the_host_as_it_was() {
    let Some(open) = Open::new() else { return };
    let (a, b) = (open.guest("exw-a", "exwa", TWO), open.guest("exw-b", "exwb", TWO));
    open.ground.shell(
        "sysctl -qw net.ipv6.conf.exwa.accept_ra=2 net.ipv4.conf.exwa.rp_filter=2 net.ipv4.conf.exwb.src_valid_mark=1
        nft add table inet its-own
        ip rule add priority 50 fwmark 7 lookup 7; ip route add 10.7.0.0/16 dev up0 table 7",
    );
    let before = open.ground.traces("");
    let (one, two) = (open.ground.serve("one", &a), open.ground.serve("two", &b));
    let both = open.ground.traces("");
    assert!(both.has("iif lo lookup 25977") && both.has("table netdev exeat-exwa"));
    open.ground.detach(one);
    assert!(!open.ground.traces("").has("exeat-exwa"));
    assert_eq!(
        open.ground.client("exw-b", "tcp 1.2.3.4 443\ntcp 2001:4860::1 443\nudp 9.9.9.9 53 question"),
        ["two 1.2.3.4:443", "two [2001:4860::1]:443", "two 9.9.9.9:53 question"],
        "the other does not need the first"
    );
    open.ground.detach(two);
    open.ground.traces("").assert_same(&before);
    // What was found before a crash is what is restored after it.
    let id = open.ground.serve("one", &a).abandon(&open.ground);
    let again = open.ground.take_up(&a, &id, None).expect("it is the same");
    let again = open.ground.serve_attached("two", again);
    open.ground.detach(again);
    open.ground.traces("").assert_same(&before);
}

#[test]
fn a_strict_return_path_filter_is_obeyed() {
    let Some(open) = Open::new() else { return };
    for (filter, shared) in [(1, false), (2, true)] {
        open.ground.shell(&format!("sysctl -qw net.ipv4.conf.all.rp_filter={filter}"));
        let (a, b) = (open.guest("exw-a", "exwa", TWO), open.guest("exw-b", "exwb", TWO));
        let one = open.ground.serve("one", &a);
        assert_eq!(open.ground.client("exw-a", "tcp 1.2.3.4 443"), ["one 1.2.3.4:443"]);
        if shared {
            let two = open.ground.serve("two", &b);
            assert_eq!(open.ground.client("exw-b", "tcp 1.2.3.4 443"), ["two 1.2.3.4:443"]);
            open.ground.detach(two);
        } else {
            let refused = refusal(open.ground.attach(&b));
            assert_eq!(refused, Refusal::Shared("10.0.0.2".parse().expect("an address")));
        }
        open.ground.detach(one);
        open.ground.place.ip("netns del exw-a\nnetns del exw-b");
        assert!(eventually(|| !["exwa", "exwb"].iter().any(|name| open.ground.shell("ip link").contains(name))));
    }
}

#[test]
fn sockets_of_an_interface_are_handed_over() {
    let Some(open) = Open::new() else { return };
    let a = open.guest("exw-a", "exwa", TWO);
    let exeat::attach::Attached { attachment, sockets, events } = open.ground.attach(&a).expect("an attachment");
    let id = attachment.id().clone();
    drop((attachment, events));
    let again = open.ground.take_up(&a, &id, Some(sockets)).expect("it is the same");
    let again = open.ground.serve_attached("two", again);
    assert_eq!(open.ground.client("exw-a", "tcp 1.2.3.4 443"), ["two 1.2.3.4:443"]);
    open.ground.detach(again);
}

#[test]
fn a_guest_behind_a_tap_is_served() {
    let Some(open) = Open::new() else { return };
    let mut guest = open.ground.start(Command::new("/usr/bin/python3").args(["-c", TAP_GUEST]).stdin(Stdio::piped()));
    assert_eq!(guest.line(), "ready");
    let tap = spec("exwt", TWO);
    let one = open.ground.serve("one", &tap);
    guest.say("go");
    assert_eq!(guest.line(), "one 9.9.9.9:53 question 9.9.9.9 53 40000");
    open.assert_nothing_passed();
    guest.end();
    let (event, one) = open.ground.event(one);
    assert_eq!(event, AttachmentEvent::Gone, "the TAP went with its program");
    open.ground.detach(one);
}

#[test]
fn rules_that_somebody_takes_away_stand_again() {
    let Some(open) = Open::new() else { return };
    let (a, b) = (open.guest("exw-a", "exwa", TWO), open.guest("exw-b", "exwb", THREE));
    let before = open.ground.traces("");
    let (mut one, two) = (open.ground.serve("one", &a), open.ground.serve("two", &b));
    for deed in ["flush ruleset", "delete table inet exeat", "delete table netdev exeat-exwa"] {
        open.ground.shell(&format!("nft '{deed}'"));
        let (event, still) = open.ground.event(one);
        assert_eq!(event, AttachmentEvent::Mended, "{deed}");
        one = still;
        if deed == "flush ruleset" {
            open.count();
        }
        let served =
            open.ground.client("exw-a", "tcp 203.0.113.2 80\nudp 203.0.113.2 99 hello\necho 203.0.113.2 for 0.2");
        assert_eq!(served, ["one 203.0.113.2:80", "ECONNREFUSED", "silence"], "{deed}");
        assert_eq!(open.ground.client("exw-b", "tcp 203.0.113.2 80"), ["two 203.0.113.2:80"], "{deed}");
        open.assert_nothing_passed();
    }
    open.ground.detach(one);
    open.ground.detach(two);
    open.ground.traces("").assert_same(&before);
}
