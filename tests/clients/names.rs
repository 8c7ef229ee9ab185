//! `dig` inside, and `unbound` as the resolver of the host, in clear and over TLS: both as they are packaged.

use std::process::Command;

use crate::support::exeat::{Run, is_root};
use crate::support::world::{RESOLVER, Server, World};
use crate::support::{eventually, skipped};

/// Its zone. The SOA says how long it is known that a name is not there.
const ZONE: [&str; 14] = [
    "rig. 3600 IN SOA ns.rig. admin.rig. 1 3600 600 86400 17",
    "rig. 3600 IN NS ns.rig.",
    "ns.rig. 3600 IN A 203.0.113.53",
    "allowed.rig. 40 IN A 203.0.113.10",
    "allowed.rig. 40 IN AAAA 2a0e:5ca1:ab1e::10",
    "www.rig. 300 IN CNAME edge.rig.",
    "edge.rig. 30 IN CNAME allowed.rig.",
    "allowed.rig. 40 IN MX 10 mail.rig.",
    "_srv._tcp.allowed.rig. 40 IN SRV 1 2 443 www.rig.",
    "allowed.rig. 40 IN HTTPS 1 . alpn=h3,h2 ipv4hint=203.0.113.10,10.0.0.1 ech=AEX+DQ==",
    "mixed.rig. 40 IN A 10.0.0.1",
    "mixed.rig. 40 IN A 203.0.113.10",
    "evil.rig. 40 IN A 203.0.113.66",
    "private.rig. 40 IN A 10.0.0.1",
];

/// An alias that it does not follow: so it is with what it was told of single names.
const LONE: &str = "lone.rig.";

struct Unbound {
    log: std::path::PathBuf,
    _server: Server,
}

impl Unbound {
    /// One that answers on 5353 in clear and on 853 over TLS, with a certificate for `dns.rig`.
    fn start(world: &World) -> Self {
        let folder = world.folder().join("unbound");
        std::fs::create_dir_all(&folder).expect("a folder");
        let file = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).expect("a file");
            folder.join(name).display().to_string()
        };
        let (certificate, key) = world.ca().pair(&["dns.rig"]);
        let (certificate, key) = (file("certificate.pem", &certificate), file("key.pem", &key));
        let log = folder.join("log");
        let long = format!("long.rig. 40 IN TXT \"{0}\" \"{0}\" \"{0}\" \"{0}\" \"{0}\" \"{0}\"", "x".repeat(250));
        let zone =
            file("zone", &ZONE.into_iter().chain([&*long]).map(|record| format!("{record}\n")).collect::<String>());
        let settings = format!(
            "server:\n    username: ''\n    chroot: ''\n    pidfile: ''\n    use-syslog: no\n    logfile: '{}'\n    \
             log-queries: yes\n    verbosity: 1\n    do-daemonize: no\n    module-config: 'iterator'\n    \
             interface: {RESOLVER}@5353\n    interface: {RESOLVER}@853\n    tls-port: 853\n    \
             tls-service-pem: '{certificate}'\n    tls-service-key: '{key}'\n    access-control: 0.0.0.0/0 allow\n    \
             local-zone: '{LONE}' static\n    local-data: '{LONE} 300 IN CNAME allowed.rig.'\n\
             auth-zone:\n    name: 'rig.'\n    zonefile: '{zone}'\n    for-downstream: no\n\
             remote-control:\n    control-enable: no\n",
            log.display()
        );
        let server = world.serve(&["unbound", "-d", "-c", &file("unbound.conf", &settings)]);
        let unbound = Self { log, _server: server };
        assert!(eventually(|| unbound.said().contains("start of service")), "{}", unbound.said());
        unbound
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `NAME. TYPE` of each question so far.
    fn asked(&self) -> Vec<String> {
        let said = self.said();
        let question = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [.., name, kind, "IN"] = words.as_slice() else { return None };
            Some(format!("{name} {kind}"))
        };
        said.lines().filter(|line| line.contains(" info: 203.0.113.")).filter_map(question).collect()
    }
}

fn world() -> Option<World> {
    let is_there = |program: &&str| Command::new(program).arg("-v").output().is_ok();
    if !is_root() {
        skipped("names: the wide world takes root");
        return None;
    }
    if !["dig", "unbound"].iter().all(is_there) {
        skipped("names: dig or unbound is not installed");
        return None;
    }
    Some(World::best())
}

fn run<'w>(world: &'w World, resolver: &str) -> Run<'w> {
    let policy = "version: 1\nallow: [\"*.rig\"]\ndeny: [evil.rig]\ndenials: terse\n";
    world.run().policy(policy).options(["--resolver", &format!("{RESOLVER}{resolver}")])
}

#[test]
fn every_type_is_answered_within_policy_and_for_as_long_as_its_records_say() {
    let Some(world) = world() else { return };
    let unbound = Unbound::start(&world);
    let script = "
echo chain; dig +noall +answer +nottlid +noclass www.rig A | xargs
echo alone; for kind in A AAAA HTTPS; do dig lone.rig $kind | grep -o 'NOERROR\\|ANSWER: .' | xargs; done
dig +short lone.rig CNAME
echo mixed; dig +short mixed.rig A
echo mail; dig +short allowed.rig MX
echo service; dig +short _srv._tcp.allowed.rig SRV
echo https; dig +short allowed.rig HTTPS
echo over udp; dig +notcp +ignore +noall +comments long.rig TXT | grep -ow 'tc'
echo over tcp; dig long.rig TXT | grep -o 'ANSWER: .\\|TCP'
echo absent; for n in 1 2; do
    dig absent.rig A | grep -o NXDOMAIN; dig allowed.rig SRV | grep -o 'ANSWER: .'
done
for question in 'absent.rig A' 'www.rig SRV'; do
    dig +noall +authority $question | tr '\\t' ' ' | tr -s ' ' | tee -a zones | cut -d ' ' -f 1,4-
done
dig +noall +authority evil.rig A
echo refused; dig evil.rig A | grep -o 'NXDOMAIN\\|EDE:.*'
echo private; dig private.rig A | grep -o 'NXDOMAIN\\|EDE:.*'
echo kind; dig allowed.rig CAA | grep -o 'NOERROR\\|EDE:.*'
echo times; for name in www.rig allowed.rig allowed.rig; do
    dig +noall +answer +ttlid $name A | tr '\\t' ' ' | tr -s ' ' | cut -d ' ' -f 2
done; cut -d ' ' -f 2 zones";
    let outcome = run(&world, ":5353").bash(script).succeeded();
    let expected = [
        "chain\nwww.rig. A 203.0.113.10\nalone\n",
        "NOERROR ANSWER: 0\nNOERROR ANSWER: 0\nNOERROR ANSWER: 0\nallowed.rig.\n",
        "mixed\n203.0.113.10\nmail\n10 mail.rig.\nservice\n1 2 443 www.rig.\n",
        "https\n1 . alpn=\"h2\" ipv4hint=203.0.113.10\nover udp\ntc\nover tcp\nTCP\nANSWER: 1\nTCP\n",
        "absent\nNXDOMAIN\nANSWER: 0\nNXDOMAIN\nANSWER: 0\n",
        "rig. SOA ns.rig. admin.rig. 1 3600 600 86400 17\nrig. SOA ns.rig. admin.rig. 1 3600 600 86400 17\n",
        "refused\nNXDOMAIN\nEDE: 15 (Blocked): (denied-domain)\n",
        "private\nNXDOMAIN\nEDE: 15 (Blocked): (protected-range)\nkind\nNOERROR\nEDE: 21 (Not Supported)\ntimes\n",
    ];
    let (told, times) = outcome.stdout.split_at(outcome.stdout.find("times\n").expect("all of it") + 6);
    assert_eq!(told, expected.concat(), "{outcome:#?}");
    let times: Vec<u32> = times.split_whitespace().map(|time| time.parse().expect("a TTL")).collect();
    // The shortest of the chain; and what is kept for the second who asks, a moment later.
    let [20..=30, first @ 20..=40, later, 5..=17, 5..=17] = times[..] else { panic!("{times:?}") };
    assert!(later <= first, "{times:?}");
    let asked = unbound.asked();
    let times_asked = |question: &str| asked.iter().filter(|asked| *asked == question).count();
    assert_eq!([times_asked("absent.rig. A"), times_asked("allowed.rig. SRV")], [1, 1], "what is not there is kept");
    assert_eq!(times_asked("long.rig. TXT"), 2, "over UDP, and whole over TCP: {asked:?}");
    assert_eq!(times_asked("allowed.rig. AAAA"), 0, "what an alias stands for is not asked: {asked:?}");
    assert!(!asked.iter().any(|question| question.contains("evil") || question.contains("CAA")), "{asked:?}");
}

#[test]
fn a_resolver_with_a_name_is_asked_over_tls_or_not_at_all() {
    let Some(world) = world() else { return };
    let unbound = Unbound::start(&world);
    let script = "dig +short allowed.rig A; dig +short allowed.rig AAAA; curl -s -o /dev/null -w '%{http_code}\\n' \
                  http://allowed.rig/";
    let outcome = run(&world, "#dns.rig").bash(script).succeeded();
    assert_eq!(outcome.stdout, "203.0.113.10\n2a0e:5ca1:ab1e::10\n200\n", "{outcome:#?}");
    assert_eq!(unbound.asked(), ["allowed.rig. A", "allowed.rig. AAAA"]);
    for other in ["#other.rig", ":5353#dns.rig"] {
        let outcome = run(&world, other).bash("dig allowed.rig A | grep -o 'SERVFAIL\\|EDE:.*'").succeeded();
        assert!(outcome.stdout.starts_with("SERVFAIL\nEDE: 2"), "{outcome:#?}");
    }
    assert_eq!(unbound.asked().len(), 2, "nothing is asked of whom we do not know, nor in clear");
}
