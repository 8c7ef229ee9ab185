//! The work, the clients that ask for it, and what is measured while they do.

use std::fmt;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::proxies::{OTHERS_CORE, PROXY_CORE, Started};
use crate::stand::{BULK, NAME, ORIGIN, Place, UPLOAD, succeed};

/// Times that the large file is fetched: 1 GiB in all.
const FETCHES: u64 = 4;
/// New connections a second.
const RATE: u64 = 250;
/// New connections one after the other.
const ONE_BY_ONE: usize = 100;
/// Names that were never seen: fewer than one sandbox may have certificates made for at once.
const NAMES: usize = 100;
/// Connections that wait.
const IDLE: u64 = 1000;
/// Of the quiet sandbox: connections, and requests a second of each.
const QUIET: [u64; 2] = [8, 50];
/// How long it asks each time, and how often for each second that was asked for.
const QUIET_SECONDS: u64 = 2;
const TURNS_EACH_SECOND: u64 = 3;
/// Of its greedy neighbour: connections and requests a second of each, and new connections a second.
const GREEDY: [u64; 2] = [32, 60];
const GREEDY_NEW: u64 = 50;
/// It begins just before the quiet one, and goes on until it has ended.
const GREEDY_SECONDS: u64 = QUIET_SECONDS + 1;

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    BulkUnread,
    ConnectUnread,
    Http1,
    Http2,
    Connect,
    Bulk,
    Idle,
    NewNames,
    Neighbour,
    BulkyNeighbour,
    BothWays,
}

impl Work {
    pub(crate) const ALL: [Self; 11] = [
        Self::BothWays,
        Self::Idle,
        Self::BulkUnread,
        Self::ConnectUnread,
        Self::Http1,
        Self::Http2,
        Self::Connect,
        Self::Bulk,
        Self::NewNames,
        Self::Neighbour,
        Self::BulkyNeighbour,
    ];

    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BulkUnread => "W1",
            Self::ConnectUnread => "W2",
            Self::Http1 => "W3h1",
            Self::Http2 => "W3h2",
            Self::Connect => "W4",
            Self::Bulk => "W5",
            Self::Idle => "W6",
            Self::NewNames => "W7",
            Self::Neighbour => "W8",
            Self::BothWays => "W9",
            Self::BulkyNeighbour => "W10",
        }
    }

    /// What is counted, with its unit.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::BulkUnread | Self::Bulk => "CPU s/GiB",
            Self::ConnectUnread | Self::Connect => "CPU µs/conn",
            Self::Http1 | Self::Http2 => "CPU µs/req",
            Self::Idle => "KiB/conn",
            Self::NewNames => "CPU µs/name",
            Self::Neighbour => "p99 ratio",
            Self::BulkyNeighbour => "p99 ms",
            Self::BothWays => "MiB",
        }
    }

    /// Whether it is for proxies that intercept, or for those that do not; `None` for both.
    pub(crate) fn intercepted(self) -> Option<bool> {
        match self {
            Self::BulkUnread | Self::ConnectUnread => Some(false),
            Self::Http1
            | Self::Http2
            | Self::Connect
            | Self::Bulk
            | Self::NewNames
            | Self::Neighbour
            | Self::BulkyNeighbour
            | Self::BothWays => Some(true),
            Self::Idle => None,
        }
    }

    /// Whether it wants a proxy that does nothing else: of one that has worked, memory tells less; and a neighbour is
    /// measured on one core.
    pub(crate) fn is_by_itself(self) -> bool {
        self.is_of_a_neighbour() || matches!(self, Self::Idle | Self::BothWays)
    }

    /// Whether it is what one sandbox makes another wait.
    pub(crate) fn is_of_a_neighbour(self) -> bool {
        matches!(self, Self::Neighbour | Self::BulkyNeighbour)
    }

    pub(crate) fn read(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|work| work.name() == text).ok_or_else(|| format!("{text}: no such work"))
    }

    /// Does it once.
    pub(crate) fn run(self, proxy: &Started, seconds: u64) -> Sample {
        let meter = Meter::start();
        match self {
            Self::BulkUnread | Self::Bulk => {
                let url = format!("https://{NAME}/bulk?[1-{FETCHES}]");
                succeed(proxy.curl().args(["--max-time", "120", "--fail", "-o", "/dev/null", &url]));
                meter.sample((FETCHES * BULK) as f64 / f64::from(1 << 30))
            }
            Self::ConnectUnread | Self::Connect => {
                let count = RATE * seconds;
                let [all, rate] = [count, RATE].map(|number| number.to_string());
                let done = h2load(&["--h1", "-c", &all, "-n", &all, "-r", &rate]);
                assert!(done * 100 >= count * 99, "only {done} of {count} connections had an answer");
                let sample = meter.sample(done as f64 / 1e6);
                Sample { median_ms: Some(one_by_one(proxy)), ..sample }
            }
            Self::Http1 => meter.sample(requests(&["--h1", "-c32"], seconds)),
            Self::Http2 => meter.sample(requests(&["-c4", "-m16"], seconds)),
            Self::Idle => idle(),
            Self::NewNames => {
                let unique = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
                let url = format!("https://n{}-[1-{NAMES}].new.bench/1k", unique.as_micros());
                let told = succeed(proxy.curl().args(["--max-time", "60", "--fail", "-o", "/dev/null", &url]));
                assert_eq!(told, "");
                meter.sample(NAMES as f64 / 1e6)
            }
            Self::Neighbour => {
                let [alone, beside] = neighbour(seconds, greedy);
                Sample { figure: beside / alone, ..meter.sample(1.0) }
            }
            Self::BulkyNeighbour => {
                let [_, beside] = neighbour(seconds, bulky);
                Sample { figure: beside / 1000.0, ..meter.sample(1.0) }
            }
            Self::BothWays => Sample { figure: both_ways(proxy), ..meter.sample(1.0) },
        }
    }
}

/// Requests for some seconds, in millions.
fn requests(how: &[&str], seconds: u64) -> f64 {
    let seconds = seconds.to_string();
    h2load(&[how, &["-D", &seconds]].concat()) as f64 / 1e6
}

/// h2load in the sandbox; how many requests had a good answer.
fn h2load(options: &[&str]) -> u64 {
    let told = succeed(&mut h2load_command(Place::Sandbox, options));
    let line = told.lines().find(|line| line.starts_with("requests: ")).unwrap_or_else(|| panic!("{told}"));
    let succeeded = line.split(", ").find_map(|part| part.strip_suffix(" succeeded")).expect("a count");
    succeeded.parse().expect("a number")
}

fn h2load_command(place: Place, options: &[&str]) -> Command {
    h2load_of(place, options, "1k")
}

/// The same, of that file.
fn h2load_of(place: Place, options: &[&str], file: &str) -> Command {
    let mut command = place.command("timeout");
    let to = format!("--connect-to={ORIGIN}:443");
    command.args(["90", "h2load", "-t1", &to]).args(options).arg(format!("https://{NAME}/{file}"));
    command
}

/// New connections one after the other: the median time from beginning to last byte, in milliseconds.
fn one_by_one(proxy: &Started) -> f64 {
    let url = format!("https://{NAME}/1k?[1-{ONE_BY_ONE}]");
    let mut curl = proxy.curl();
    curl.args(["--max-time", "60", "--fail", "--no-sessionid", "-H", "connection: close", "-o", "/dev/null"]);
    let told = succeed(curl.args(["-w", "%{time_total}\n", &url]));
    let mut times: Vec<f64> = told.lines().map(|time| time.parse::<f64>().expect("a time") * 1000.0).collect();
    median(&mut times).expect("a time")
}

/// Connections that had one answer and wait: by how much the proxy's memory grew.
fn idle() -> Sample {
    let before = memory();
    let all = IDLE.to_string();
    // One request of each connection at once, and the next after this is over.
    let client: Child = h2load_command(Place::Sandbox, &["--h1", "-c", &all, "--rps", "0.05", "-D", "16"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("h2load");
    std::thread::sleep(Duration::from_secs(12));
    let grown = memory().saturating_sub(before);
    let done = client.wait_with_output().expect("h2load");
    let told = String::from_utf8_lossy(&done.stdout);
    let line = told.lines().find(|line| line.starts_with("requests: ")).unwrap_or_else(|| panic!("{told}"));
    assert!(line.contains(&format!(" {IDLE} succeeded")), "not one answer for each: {line}");
    Sample { figure: grown as f64 / IDLE as f64, median_ms: None, others: 0.0 }
}

/// How long 99 of 100 requests of the quiet sandbox take at most, in microseconds: alone, and beside a neighbour.
///
/// What is asked is what the *proxy* makes one wait for the other. So it has a core to itself, and on the other the
/// greedy clients give way to the origin and the quiet client.
///
/// A machine that shares its cores with others stands still now and then, which makes single requests slow, and never
/// one fast. So both are measured by turns, many times, and of each the lower quartile counts.
fn neighbour<const N: usize>(seconds: u64, begin: fn() -> [Child; N]) -> [f64; 2] {
    let awake = Awake::begin();
    for pid in Place::Wan.processes().iter().map(u32::to_string) {
        succeed(Command::new("taskset").args(["--cpu-list", "--pid", OTHERS_CORE, &pid]));
    }
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..TURNS_EACH_SECOND * seconds {
        alone.push(quiet());
        let busy = begin();
        beside.push(quiet());
        for mut command in busy {
            command.wait().expect("its end");
        }
    }
    drop(awake);
    let both = [alone, beside].map(|mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        *all.get(all.len() / 4).expect("turns")
    });
    let [alone, beside] = both.map(|time| time / 1000.0);
    eprintln!("99 of 100 take {alone:.2} ms alone, {beside:.2} ms beside it");
    both
}

/// The greedy neighbour's clients; they end by themselves soon after the quiet one's.
fn greedy() -> [Child; 2] {
    let [lasts, count] = [GREEDY_SECONDS, GREEDY_SECONDS * GREEDY_NEW].map(|number| number.to_string());
    let period = format!("--rate-period={}ms", 1000 / GREEDY_NEW);
    let [connections, rate] = GREEDY.map(|number| number.to_string());
    let requests = ["--h1", "-c", &connections, "--rps", &rate, "-D", &lasts];
    let connects = ["--h1", "-c", &count, "-n", &count, "-r", "1", &period];
    [requests.as_slice(), &connects].map(|options| giving_way(&h2load_command(Place::Neighbour, options)))
}

/// Clients of a neighbour that fetches the large file as fast as it can, over as many connections.
fn bulky() -> [Child; 1] {
    let [connections, lasts] = [GREEDY[0], GREEDY_SECONDS].map(|number| number.to_string());
    let bulk = ["--h1", "-c", &connections, "-D", &lasts];
    [giving_way(&h2load_of(Place::Neighbour, &bulk, "bulk"))]
}

/// Runs a client of the neighbour, which gives way to everybody.
fn giving_way(command: &Command) -> Child {
    let mut command = on_others_core(&["chrt", "--idle", "0"], command);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("load")
}

/// Keeps both cores awake while it is there. One that sleeps takes its time to wake, on a virtual machine many times
/// what a request takes, and more often where there is less to do: the quiet sandbox would be slowest alone.
struct Awake(Vec<Child>);

impl Awake {
    fn begin() -> Self {
        // They give way to everybody, and end by themselves if nobody ends them.
        let spin = |core: &str| {
            let mut command = Command::new("taskset");
            command.args(["--cpu-list", core, "chrt", "--idle", "0", "timeout", "1200", "sh", "-c"]);
            command.arg("while :; do :; done").stdin(Stdio::null()).spawn().expect("taskset")
        };
        Self([OTHERS_CORE, PROXY_CORE].map(spin).into())
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for spinning in &mut self.0 {
            // `timeout` passes the signal on.
            let _ = Command::new("kill").arg(spinning.id().to_string()).status();
            let _ = spinning.wait();
        }
    }
}

/// The same command on the core that the proxy is not on, started by `by`.
fn on_others_core(by: &[&str], command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["--cpu-list", OTHERS_CORE]).args(by);
    pinned.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    pinned
}

/// Requests of the quiet sandbox at a fixed rate: what 99 of 100 take at most, in microseconds.
fn quiet() -> f64 {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let [connections, rate] = QUIET.map(|number| number.to_string());
    let (lasts, to) = (QUIET_SECONDS.to_string(), format!("--log-file={}", log.path().display()));
    let client = h2load_command(Place::Sandbox, &["--h1", "-c", &connections, "--rps", &rate, "-D", &lasts, &to]);
    succeed(&mut on_others_core(&[], &client));
    let told = fs::read_to_string(log.path()).expect("its log");
    // When it began, its status, and how long it took: all in microseconds, and connecting counts for the first of each
    // connection, which are left out.
    let mut all: Vec<(u64, f64)> = told
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.parse().ok()?, fields.nth(1)?.parse().ok()?))
        })
        .collect();
    all.sort_by_key(|(began, _)| *began);
    let first = all.first().map_or(0, |(began, _)| *began);
    let mut times: Vec<f64> = all.iter().filter(|(began, _)| began - first > 500_000).map(|(_, took)| *took).collect();
    assert!(!times.is_empty(), "no answer at all: {told}");
    // What had no answer in time, or was not even asked, is as if it had taken all of it.
    let expected = QUIET.iter().product::<u64>() * QUIET_SECONDS;
    let missing = (expected * 19 / 20).saturating_sub(all.len() as u64);
    times.extend((0..missing).map(|_| QUIET_SECONDS as f64 * 1e6));
    times.sort_by(f64::total_cmp);
    *times.get(times.len() * 99 / 100).expect("many times")
}

/// 2 GiB each way at once: by how much the memory of a proxy that has done such work before, and rests, grows at most,
/// in MiB.
fn both_ways(proxy: &Started) -> f64 {
    // The first time a proxy does anything its code is read in, which is no memory that flows take.
    send_and_fetch(proxy, "bulk", BULK);
    let before = memory();
    for pid in Place::Gateway.processes() {
        // From here on the kernel notes the most that is resident (proc(5): clear_refs).
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("clear_refs");
    }
    send_and_fetch(proxy, "upload", UPLOAD);
    let most = Place::Gateway.processes().iter().filter_map(|pid| resident(*pid, "status", "VmHWM:")).sum::<u64>();
    most.saturating_sub(before) as f64 / 1024.0
}

/// Sends a file of so many bytes and fetches as many, at once.
fn send_and_fetch(proxy: &Started, file: &str, length: u64) {
    let arrived = proxy.folder.join("up").join(file);
    let mut up = proxy.curl();
    up.args(["--max-time", "300", "--fail", "-o", "/dev/null", "-T"]);
    up.arg(proxy.folder.join(file)).arg(format!("https://{NAME}/up/{file}"));
    let mut down = proxy.curl();
    let url = format!("https://{NAME}/bulk?[1-{}]", length / BULK);
    down.args(["--max-time", "300", "--fail", "-o", "/dev/null", &url]);
    for mut command in [up, down].map(|mut command| command.spawn().expect("curl")) {
        assert!(command.wait().expect("its end").success(), "{length} bytes each way");
    }
    assert_eq!(fs::metadata(&arrived).expect("what came").len(), length, "what came");
    fs::remove_file(arrived).expect("what came");
}

/// What one run gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// In the work's unit.
    pub(crate) figure: f64,
    /// Of connections one after the other.
    pub(crate) median_ms: Option<f64>,
    /// How many cores strangers used meanwhile.
    pub(crate) others: f64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:10.2}", self.figure)?;
        if let Some(median) = self.median_ms {
            write!(f, ", {median:.2} ms one at a time")?;
        }
        write!(f, " (strangers: {:.2} cores)", self.others)
    }
}

pub(crate) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Measures CPU time.
struct Meter {
    start: Instant,
    proxy: f64,
    stand: f64,
    machine: f64,
}

impl Meter {
    fn start() -> Self {
        Self { start: Instant::now(), proxy: cpu(Place::Gateway), stand: children() + cpu(Place::Wan), machine: busy() }
    }

    /// The proxy's CPU time since the start, for each of so many units.
    fn sample(&self, units: f64) -> Sample {
        let proxy = cpu(Place::Gateway) - self.proxy;
        let ours = proxy + children() + cpu(Place::Wan) - self.stand;
        let others = (busy() - self.machine - ours).max(0.0) / self.start.elapsed().as_secs_f64();
        Sample { figure: proxy / units, median_ms: None, others }
    }
}

/// Clock ticks a second, as the kernel counts CPU time for everybody.
const TICKS: f64 = 100.0;

/// Fields of a process's `stat`, summed, in seconds.
fn ticks(path: &str, fields: std::ops::Range<usize>) -> f64 {
    let stat = fs::read_to_string(path).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // The field after the name is the third.
    let fields = after_name.split_whitespace().skip(fields.start - 3).take(fields.len());
    fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS
}

/// CPU time of whoever runs there now, with the children that they have waited for.
fn cpu(place: Place) -> f64 {
    place.processes().iter().map(|pid| ticks(&format!("/proc/{pid}/stat"), 14..18)).sum()
}

/// CPU time of the children that this process has waited for.
fn children() -> f64 {
    ticks("/proc/self/stat", 16..18)
}

/// CPU time of the whole machine that was not idle.
fn busy() -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("proc");
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    [0, 1, 2, 5, 6].iter().filter_map(|at| fields.get(*at)).sum::<f64>() / TICKS
}

/// Resident memory in the gateway, in KiB.
pub(crate) fn memory() -> u64 {
    Place::Gateway.processes().iter().filter_map(|pid| resident(*pid, "smaps_rollup", "Rss:")).sum::<u64>()
}

/// A figure of one process, in KiB.
pub(crate) fn resident(pid: u32, file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
