//! What the proxy costs, beside other proxies: `cargo bench --bench peers [-- OPTIONS]`, as root.
//!
//! Two sandboxes, a gateway and an origin stand in network namespaces of this machine. In the gateway runs one of:
//! nothing (plain routing), a bare relay, HAProxy, nginx, exeat; every one of them transparent. The clients are curl
//! and h2load, the origin is nginx; nothing here measures with a client of its own. Each round starts every proxy anew
//! (for W6 and W9 once more, for a used heap tells less, and for W8 and W10, where it has a core to itself) and gives
//! it the same work, so that all meet the same noise.
//!
//! The figure to compare is the proxy's own CPU time for a unit of work: it moves little with noise. Rates are none of
//! this: client, proxy and origin share the cores. Every count and every time is bounded.
//!
//! | | work |
//! |---|---|
//! | W1, W5 | 1 GiB over one TLS connection, unread (W1) or intercepted (W5) |
//! | W2, W4 | new connections with one request of 1 KiB each, none resumed, at a fixed rate; and one at a time |
//! | W3 | requests of 1 KiB in kept connections, intercepted: HTTP/1.1, 32 of them; HTTP/2, 4 with 16 streams each |
//! | W6 | 1,000 connections that have had one answer, and wait |
//! | W7 | new connections, each to a name that was never seen, so that a certificate has to be made |
//! | W8 | 400 requests a second of one sandbox beside a greedy one, and alone: ratio of what 99 of 100 take at most |
//! | W9 | 2 GiB up and 2 GiB down at once: by how much the proxy's memory grows at most |
//! | W10 | the same beside one that fetches the large file over 32 connections as fast as it can: what 99 of 100 take |
//!
//! Debian: `apt-get install --no-install-recommends nginx-light libnginx-mod-stream haproxy dnsmasq-base nftables
//! iproute2 curl nghttp2-client openssl`. With `--soak` it is another program: see `soak.rs`.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a measurement that fails says so")]
#![allow(clippy::zombie_processes, reason = "the stand ends whatever runs in its places when it goes")]

mod load;
mod proxies;
mod relay;
mod report;
mod soak;
mod stand;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use load::Work;
use proxies::{Cores, Proxy};
use report::Report;
use stand::Stand;

/// What is found on `PATH`.
const TOOLS: [&str; 8] = ["curl", "dnsmasq", "h2load", "haproxy", "ip", "nft", "nginx", "openssl"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [relay, port] = &arguments[..]
        && relay == "relay"
    {
        relay::serve(port.parse().expect("a port"));
    }
    let options = match Options::read(&arguments) {
        Ok(options) => options,
        Err(fault) => {
            eprintln!("peers: {fault}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: peers: network namespaces and transparent proxies take root");
        return ExitCode::SUCCESS;
    }
    let missing: Vec<&str> = TOOLS.into_iter().filter(|tool| !is_there(tool)).collect();
    if !missing.is_empty() {
        eprintln!("SKIPPED: peers: not installed: {}", missing.join(", "));
        return ExitCode::SUCCESS;
    }
    if let Some(minutes) = options.soak {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = stand::Keys::make(folder.path());
        let stand = Stand::up(folder.path(), &keys);
        let proxy = options.proxies.iter().find(|proxy| proxy.name == "exeat-mitm").expect("--proxies leaves it");
        return if soak::run(&stand, proxy, minutes) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    println!("{}", measure(&options));
    ExitCode::SUCCESS
}

const USAGE: &str = "options: --rounds N (default 3), --seconds N of each load (default 4), --work W1,W3h1,…, \
                     --proxies exeat-mitm,nginx-mitm,…, --before FILE (another exeat, beside this one), \
                     --soak MINUTES (of exeat alone, instead)";

/// What the command line says.
struct Options {
    rounds: usize,
    seconds: u64,
    works: Vec<Work>,
    proxies: Vec<Proxy>,
    /// Minutes.
    soak: Option<u64>,
}

impl Options {
    fn read(arguments: &[String]) -> Result<Self, String> {
        let (mut rounds, mut seconds, mut works) = (3, 4, Work::ALL.to_vec());
        let (mut named, mut before, mut soak) = (None, None, None);
        let mut arguments = arguments.iter();
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{option}: a value is missing"))?;
            let number = || value.parse::<u64>().map_err(|error| format!("{option}: {error}"));
            match option.as_str() {
                "--rounds" => rounds = number()?.clamp(1, 20) as usize,
                "--seconds" => seconds = number()?.clamp(1, 60),
                "--work" => works = value.split(',').map(Work::read).collect::<Result<_, _>>()?,
                "--proxies" => named = Some(value.split(',').map(str::to_owned).collect::<Vec<_>>()),
                "--soak" => soak = Some(number()?.clamp(1, 240)),
                "--before" => before = Some(PathBuf::from(value)),
                _ => return Err(format!("{option}: no such option")),
            }
        }
        let mut proxies = Proxy::all(before);
        if let Some(named) = named {
            let unknown = named.iter().find(|name| proxies.iter().all(|proxy| proxy.name != **name));
            if let Some(unknown) = unknown {
                return Err(format!("{unknown}: no such proxy"));
            }
            proxies.retain(|proxy| named.contains(&proxy.name));
        }
        Ok(Self { rounds, seconds, works, proxies, soak })
    }
}

fn is_there(tool: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

fn measure(options: &Options) -> Report {
    let mut report = Report::default();
    let folder = tempfile::tempdir().expect("a folder");
    let keys = stand::Keys::make(folder.path());
    for round in 1..=options.rounds {
        for proxy in &options.proxies {
            let works: Vec<Work> = options.works.iter().copied().filter(|work| proxy.does(*work)).collect();
            let (by_themselves, others): (Vec<_>, Vec<_>) = works.into_iter().partition(|work| work.is_by_itself());
            let starts = by_themselves.into_iter().map(|work| vec![work]).chain([others]);
            for works in starts.filter(|works| !works.is_empty()) {
                let stand = Stand::up(folder.path(), &keys);
                let cores = if works.iter().any(|work| work.is_of_a_neighbour()) { Cores::One } else { Cores::All };
                let started = proxy.start(&stand, cores);
                started.check();
                for work in works {
                    let sample = work.run(&started, options.seconds);
                    eprintln!("round {round}: {:14} {sample}", proxy.name);
                    report.add(&proxy.name, work, sample);
                }
            }
        }
    }
    report
}
