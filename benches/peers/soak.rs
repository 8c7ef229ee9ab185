//! `cargo bench --bench peers -- --soak MINUTES`: exeat alone, under mixed load, with clients that break off, stall and
//! say half of a hello, while the policies of both sandboxes change three times a second. Then all of them stop, and
//! what the daemon still holds is compared with what it held after the first tenth.
//!
//! It fails where the daemon died or panicked, where more than one push of a hundred is not heeded in time, where a
//! flow stays open, where descriptors or tasks stay behind, or where memory has grown by more than [`GROWTH`].

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::load::{memory, resident};
use crate::proxies::{Cores, Proxy, Started, ask, asked, policy};
use crate::stand::{BOXES, NAME, ORIGIN, Place, Stand, wait_until};

/// What resident memory may grow by after the first tenth, in parts of what it was then.
const GROWTH: f64 = 0.2;

/// What clients do over and over: `$O` is where the origin is, `$N` its name, `$F` where the stand's files are.
const LOADS: [&str; 12] = [
    "h2load -t1 --h1 -c16 --rps 10 -D 20 --connect-to=$O:443 https://$N/1k",
    "h2load -t1 -c4 -m8 --rps 40 -D 20 --connect-to=$O:443 https://$N/1k",
    "h2load -t1 --h1 -n400 -c400 -r20 --connect-to=$O:443 https://$N/1k",
    "$CURL --limit-rate 20M --max-time 20 -o /dev/null https://$N/bulk",
    "$CURL --http2 --limit-rate 20M --max-time 5 -T $F/upload https://$N/sink",
    // Broken off: the kernel resets what was not read.
    "timeout -s KILL 0.4 $CURL -o /dev/null https://$N/bulk; sleep 0.2",
    "timeout -s KILL 0.7 $CURL --http2 -Z -o /dev/null https://$N/bulk -o /dev/null https://$N/bulk; sleep 0.2",
    "timeout -s KILL 1.3 h2load -t1 -c8 -m32 -D 9 --connect-to=$O:443 https://$N/1k; sleep 0.5",
    // Stalled: a slow reader, half a hello, a request that never ends.
    "$CURL --limit-rate 1k --max-time 15 -o /dev/null https://$N/bulk",
    "timeout 5 bash -c 'exec 3<>/dev/tcp/$O/443; printf \"\\026\\003\\001\" >&3; sleep 4'",
    "timeout 8 bash -c '(printf \"POST /1k HTTP/1.1\\r\\nHost: $N\\r\\nContent-Length: 99\\r\\n\\r\\n\"; sleep 6) \
     | openssl s_client -quiet -connect $O:443 -servername $N'",
    // What some policies refuse, and what all do.
    "$CURL --max-time 5 -o /dev/null https://some.new.bench/1k; $CURL --max-time 5 https://never.bench/; sleep 0.1",
];

/// Runs for some minutes; whether all went well.
pub(crate) fn run(stand: &Stand<'_>, proxy: &Proxy, minutes: u64) -> bool {
    let started = proxy.start(stand, Cores::All);
    started.check();
    let socket = started.control.clone().expect("exeat's");
    let pid = daemon(&socket);
    let (over, end) = (AtomicBool::new(false), Instant::now() + Duration::from_secs(60 * minutes));
    let first = Held::now(pid, &socket);
    let mut samples = Vec::new();
    let (pushes, late) = std::thread::scope(|scope| {
        let pushing = scope.spawn(|| push(&socket, &over));
        // Also where this fails: or it would be waited for without end.
        let ends = Ends(&over);
        let mut clients: Vec<_> = [Place::Sandbox, Place::Neighbour]
            .iter()
            .flat_map(|place| LOADS.map(|load| client(*place, load, &started, 60 * minutes)))
            .collect();
        println!(
            "{:>8} {:>9} {:>11} {:>7} {:>7} {:>9}",
            "minute", "RSS MiB", "descriptors", "tasks", "flows", "verdicts"
        );
        while Instant::now() < end {
            std::thread::sleep(Duration::from_secs(10).min(end.saturating_duration_since(Instant::now())));
            let sample = Held::now(pid, &socket);
            if samples.len() % 6 == 5 {
                println!("{:>8} {sample}", samples.len() / 6 + 1);
            }
            samples.push(sample);
        }
        for client in &mut clients {
            client.wait().expect("its end");
        }
        drop(ends);
        pushing.join().expect("no panic")
    });
    settle(&socket);
    let last = Held::now(pid, &socket);
    println!("{:>8} {last}\n{pushes} pushes; {late} were not heeded in time", "after");
    let log = fs::read_to_string(stand.folder.join("log")).expect("the stand's log");
    let told = judge(first, &samples, last, daemon(&socket) == pid && !log.contains("panicked"));
    told && late * 100 <= pushes
}

/// When this goes, it is over.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Says what went wrong; whether nothing did.
fn judge(first: Held, samples: &[Held], last: Held, alive: bool) -> bool {
    let tenth = samples.len().div_ceil(10);
    let median = |of: &mut dyn Iterator<Item = &Held>| {
        let mut all: Vec<f64> = of.take(tenth).map(|held| held.resident as f64).collect();
        crate::load::median(&mut all).expect("samples")
    };
    let (early, late) = (median(&mut samples.iter()), median(&mut samples.iter().rev()));
    println!(
        "resident memory under load: {:.1} MiB in the first tenth, {:.1} in the last",
        early / 1024.0,
        late / 1024.0
    );
    let faults = [
        (!alive, "the daemon died or panicked"),
        (last.flows != 0, "flows are still open"),
        (last.descriptors > first.descriptors, "descriptors were left behind"),
        (last.tasks > first.tasks, "tasks were left behind"),
        (late > early * (1.0 + GROWTH), "memory has grown"),
    ];
    let told = faults.iter().filter(|(is_so, _)| *is_so).inspect(|(_, fault)| println!("NOT KEPT: {fault}"));
    told.count() == 0
}

/// Waits until no flow is open, for as long as the longest of its times allows, and upstream connections have gone.
fn settle(socket: &Path) {
    wait_until("the end of every flow", || figure(socket, "exeat_flows_open") == 0);
    // Those that wait for another request are closed after 15 seconds (`limits::UPSTREAM_IDLE`).
    std::thread::sleep(Duration::from_secs(17));
}

/// What the daemon holds.
#[derive(Clone, Copy)]
struct Held {
    /// KiB.
    resident: u64,
    descriptors: usize,
    tasks: u64,
    flows: u64,
    verdicts: u64,
}

impl Held {
    fn now(pid: u32, socket: &Path) -> Self {
        Self {
            resident: resident(pid, "smaps_rollup", "Rss:").unwrap_or_else(memory),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
            tasks: figure(socket, "exeat_tasks"),
            flows: figure(socket, "exeat_flows_open"),
            verdicts: figure(socket, "exeat_verdicts_total"),
        }
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { resident, descriptors, tasks, flows, verdicts } = self;
        write!(f, "{:>9.1} {descriptors:>11} {tasks:>7} {flows:>7} {verdicts:>9}", *resident as f64 / 1024.0)
    }
}

/// A metric, over all its labels.
fn figure(socket: &Path, name: &str) -> u64 {
    let metrics = ask(socket, "GET", "/metrics", None);
    let of_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    metrics.lines().filter(of_it).filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// Whose socket that is.
fn daemon(socket: &Path) -> u32 {
    use std::os::unix::net::UnixStream;
    let peer = UnixStream::connect(socket).expect("the daemon");
    let whose = nix::sys::socket::getsockopt(&peer, nix::sys::socket::sockopt::PeerCredentials).expect("a process");
    whose.pid().try_into().expect("a process")
}

/// Changes the policies until it is `over`; how often, and how often it was not heeded in time.
fn push(socket: &Path, over: &AtomicBool) -> (u64, u64) {
    let (mut pushes, mut late) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        for (_, _, _, device) in BOXES {
            let names: &[&str] = if pushes % 4 < 2 { &[NAME, "*.new.bench"] } else { &[NAME] };
            let patch = format!(r#"{{"networkPolicy": {}}}"#, policy(names, pushes % 6 < 4));
            // Whoever pushes is told where an open flow was late to heed it, and pushes again.
            late +=
                u64::from(!asked(socket, "PATCH", &format!("/v2/sandboxes/{device}"), Some(&patch)).status.success());
            pushes += 1;
            std::thread::sleep(Duration::from_millis(150));
        }
    }
    (pushes, late)
}

/// One client, over and over.
fn client(place: Place, load: &str, started: &Started, seconds: u64) -> std::process::Child {
    let mut command = place.command("timeout");
    let script = format!("while :; do {load}; done").replace("$CURL", "curl -sS --insecure --resolve '*:443:'$O");
    command.args(["-k", "1", &seconds.to_string(), "bash", "-c", &script]);
    command.env("O", ORIGIN).env("N", NAME).env("F", &started.folder);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a client")
}
