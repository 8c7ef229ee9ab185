//! What judging costs, each beside its alternative in the same run: `cargo bench --bench engine`.
//!
//! Criterion measures, in the thread's CPU time, so that what else the machine does counts less. At the end stands what
//! is promised, as ratios where there is something to compare with, and what a policy weighs in the heap, by a counting
//! allocator. (That takes some 10 ns an allocation, which weighs on the times of compiling alone.)

#![allow(clippy::expect_used, reason = "a measurement that fails says so")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use exeat::flow::{ClientAddr, Domain, Flow, FlowId, Hello, OriginalDst, RequestHead, SandboxId, Scheme, Seen};
use exeat::matcher::cidr::CidrMap;
use exeat::matcher::domain::{DomainMap, DomainPattern};
use exeat::policy::{Flags, Policy, Protected, Source, Terms};
use exeat::sandbox::Sandbox;
use exeat::secret::Secrets;
use globset::{Glob, GlobSet, GlobSetBuilder};
use http::HeaderMap;
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};
use prefix_trie::joint::map::JointPrefixMap;

type Criterion = criterion::Criterion<CpuTime>;
type Bencher<'a> = criterion::Bencher<'a, CpuTime>;

/// Patterns, or ranges, of a large policy.
const MANY: usize = 100_000;
/// Names and addresses that are looked up in turn: so many that the processor's cache does not hold all that they need.
const QUESTIONS: usize = 1 << 16;
/// Sandboxes that share a policy.
const SANDBOXES: usize = 10_000;

fn main() {
    let results = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine");
    let mut criterion = criterion::Criterion::default()
        .with_measurement(CpuTime)
        .output_directory(&results)
        .sample_size(40)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    names(&mut criterion, 10);
    names(&mut criterion, MANY);
    addresses(&mut criterion);
    requests(&mut criterion);
    compiling(&mut criterion);
    criterion.final_summary();
    promises(&results);
    heap();
}

/// What this thread used of a processor.
struct CpuTime;

impl CpuTime {
    fn now() -> Duration {
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock").into()
    }
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        Self::now()
    }

    fn end(&self, start: Duration) -> Duration {
        Self::now().saturating_sub(start)
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, time: &Duration) -> f64 {
        WallTime.to_f64(time)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// SplitMix64: the same questions in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Half exact, half everything below a name.
fn patterns(count: usize) -> Vec<String> {
    (0..count)
        .map(|n| match n % 2 {
            0 => format!("host{n}.region{}.example.com", n % 97),
            _ => format!("*.tenant{n}.example.net"),
        })
        .collect()
}

/// Names of which two thirds meet a pattern, as many exact ones as others.
fn questions(count: usize) -> Vec<Domain> {
    let mut random = Random(count as u64);
    (0..QUESTIONS)
        .map(|_| {
            let (exact, inexact) = (random.below(count) & !1, random.below(count) | 1);
            let text = match random.below(3) {
                0 => format!("host{exact}.region{}.example.com", exact % 97),
                1 => format!("a{}.tenant{inexact}.example.net", random.below(1000)),
                _ => format!("host{inexact}.tenant{exact}.example.org"),
            };
            Domain::parse(&text).expect("a name")
        })
        .collect()
}

fn document(patterns: &[String]) -> String {
    patterns.iter().fold("allow:\n".to_owned(), |mut text, pattern| {
        writeln!(text, "  - \"{pattern}\"").expect("a string takes everything");
        text
    })
}

fn compile(text: &str) -> Policy {
    let source = Source { path: "policies/engine.yaml", text };
    Policy::compile(Some(source), &Flags::default(), &Terms::default()).expect("a policy").policy
}

fn map(patterns: &[String]) -> DomainMap<usize> {
    let mut map = DomainMap::default();
    for (n, text) in patterns.iter().enumerate() {
        map.insert(DomainPattern::parse(text).expect("a pattern"), n).expect("room");
    }
    map
}

fn globs(patterns: &[String]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for text in patterns {
        set.add(Glob::new(text).expect("a glob"));
    }
    set.build().expect("a set")
}

/// Asks one question after the other, round and round.
fn ask<Q, A>(bencher: &mut Bencher<'_>, questions: &[Q], answer: impl Fn(&Q) -> A) {
    let mut questions = questions.iter().cycle();
    bencher.iter(|| questions.next().map(|question| answer(black_box(question))));
}

fn names(criterion: &mut Criterion, count: usize) {
    let patterns = patterns(count);
    let questions = questions(count);
    let mut group = criterion.benchmark_group(format!("name, {count} patterns"));
    let policy = compile(&document(&patterns));
    group.bench_function("decide_name", |bencher| ask(bencher, &questions, |name| policy.decide_name(name)));
    let host = Protected::new([]);
    let flows: Vec<Flow> = questions.iter().map(|name| flow(Some(name), [198, 51, 100, 1].into())).collect();
    group.bench_function("decide", |bencher| ask(bencher, &flows, |flow| policy.decide(flow, &host)));
    drop((policy, flows));
    let map = map(&patterns);
    group.bench_function("DomainMap", |bencher| ask(bencher, &questions, |name| map.get(name)));
    drop(map);
    let globs = globs(&patterns);
    group.bench_function("GlobSet", |bencher| ask(bencher, &questions, |name| globs.is_match(name.as_str())));
    group.finish();
}

fn flow(name: Option<&Domain>, address: IpAddr) -> Flow {
    Flow {
        id: FlowId(1),
        sandbox: SandboxId::new("engine").expect("an id"),
        client: ClientAddr(SocketAddr::from(([127, 0, 0, 1], 1))),
        dst: OriginalDst(SocketAddr::new(address, 443)),
        seen: Seen::Tls(Hello { sni: name.cloned(), alpn: Vec::new(), ech: false }),
        pinned: Vec::new(),
    }
}

/// Public ranges of many lengths, half of each family, some within others.
fn ranges() -> Vec<IpNet> {
    let mut random = Random(1);
    let mut ranges = std::collections::BTreeSet::new();
    while ranges.len() < MANY {
        let range = match ranges.len() % 2 {
            0 => IpNet::new(four(&mut random), 12 + random.below(21) as u8),
            _ => IpNet::new(six(&mut random), 24 + random.below(41) as u8),
        };
        ranges.insert(range.expect("a length within bounds").trunc());
    }
    ranges.into_iter().collect()
}

/// An address from 32.0.0.0 to 127.255.255.255.
fn four(random: &mut Random) -> IpAddr {
    Ipv4Addr::from(0x2000_0000 + random.below(0x6000_0000) as u32).into()
}

/// An address of 2a00::/12.
fn six(random: &mut Random) -> IpAddr {
    let bits = u128::from(random.next()) << 64 | u128::from(random.next());
    Ipv6Addr::from(0x2a0 << 116 | bits >> 12).into()
}

fn addresses(criterion: &mut Criterion) {
    let ranges = ranges();
    let mut random = Random(2);
    let questions: Vec<IpAddr> = (0..QUESTIONS)
        .map(|n| match (n % 3, ranges.get(random.below(MANY)).expect("one of them")) {
            (0, IpNet::V4(_)) => four(&mut random),
            (0, IpNet::V6(_)) => six(&mut random),
            (_, IpNet::V4(range)) => {
                let inside = random.next() as u32 & u32::from(range.hostmask());
                Ipv4Addr::from(u32::from(range.network()) | inside).into()
            }
            (_, IpNet::V6(range)) => {
                let inside = u128::from(random.next()) & u128::from(range.hostmask());
                Ipv6Addr::from(u128::from(range.network()) | inside).into()
            }
        })
        .collect();
    let mut group = criterion.benchmark_group("address, 100000 ranges");
    let mut bare = JointPrefixMap::<IpNet, usize>::new();
    let mut own = CidrMap::default();
    let mut other = iptrie::IpRTrieMap::<usize>::new();
    for (n, range) in ranges.iter().enumerate() {
        bare.insert(*range, n);
        own.insert(*range, n).expect("ranges are distinct");
        other.insert(*range, n);
    }
    let other = other.compress();
    group.bench_function("prefix-trie", |bencher| {
        ask(bencher, &questions, |address| bare.get_lpm(&IpNet::from(*address)).map(|(_, value)| value))
    });
    group.bench_function("CidrMap", |bencher| ask(bencher, &questions, |address| own.get(*address)));
    group.bench_function("CidrMap, unwrapped", |bencher| {
        ask(bencher, &questions, |address| own.get_unwrapped(*address))
    });
    group.bench_function("CidrMap, any reading", |bencher| {
        ask(bencher, &questions, |address| own.get_any_reading(*address))
    });
    group.bench_function("iptrie, compressed", |bencher| {
        ask(bencher, &questions, |address| *other.lookup(&IpNet::from(*address)).1)
    });
    group.bench_function("linear scan", |bencher| {
        ask(bencher, &questions, |address| {
            ranges.iter().filter(|range| range.contains(address)).max_by_key(|range| range.prefix_len())
        })
    });
    let list = ranges.iter().fold("subnets:\n  allow:\n".to_owned(), |mut text, range| {
        writeln!(text, "    - \"{range}\"").expect("a string takes everything");
        text
    });
    let (policy, host) = (compile(&list), Protected::new([]));
    let flows: Vec<Flow> = questions.iter().map(|address| flow(None, *address)).collect();
    group.bench_function("decide_address", |bencher| ask(bencher, &flows, |flow| policy.decide_address(flow, &host)));
    group.finish();
}

/// Twenty rules, of which the last claims the request.
fn requests(criterion: &mut Criterion) {
    let mut text = "allow:\n  api.example.com:\n".to_owned();
    for n in 0..20 {
        let path = if n % 2 == 0 { format!("exact: /v1/item{n}") } else { format!("startsWith: /v1/list{n}/") };
        writeln!(text, "    - match: {{ method: [GET, HEAD], path: {{ {path} }} }}")
            .expect("a string takes everything");
    }
    let (policy, host) = (compile(&text), Protected::new([]));
    let name = Domain::parse("api.example.com").expect("a name");
    let headers = HeaderMap::new();
    let head = |path| RequestHead {
        scheme: Scheme::Https,
        authority: Some(&name),
        dst: OriginalDst(SocketAddr::from(([198, 51, 100, 1], 443))),
        method: "GET",
        path,
        query: Some("page=2"),
        headers: &headers,
    };
    let mut group = criterion.benchmark_group("request, 20 rules");
    for (what, path) in [("last rule", "/v1/list19/of/things"), ("no rule", "/v1/other/of/things")] {
        group.bench_function(what, |bencher| ask(bencher, &[head(path)], |head| policy.decide_request(head, &host)));
    }
    group.finish();
}

fn compiling(criterion: &mut Criterion) {
    let patterns = patterns(MANY);
    let text = document(&patterns);
    let flags = Flags { allow: patterns.clone(), ..Flags::default() };
    let mut group = criterion.benchmark_group("compile, 100000 patterns");
    group.sample_size(10);
    // Flags are parsed already, as a document is when its tree has been read.
    group.bench_function("once parsed", |bencher| {
        bencher.iter_with_large_drop(|| Policy::compile(None, &flags, &Terms::default()).expect("a policy"));
    });
    group.bench_function("with the document", |bencher| bencher.iter_with_large_drop(|| compile(&text)));
    group.bench_function("DomainMap", |bencher| bencher.iter_with_large_drop(|| map(&patterns)));
    group.bench_function("GlobSet", |bencher| {
        bencher.iter_with_large_drop(|| globs(&patterns));
    });
    group.finish();
}

/// What is promised, from what Criterion left in its folder. What this run did not measure is from an earlier one.
fn promises(results: &Path) {
    let median = |group: &str, function: &str| -> Option<f64> {
        let folder = |name: &str| name.replace(['?', '"', '/', '\\', '*', '<', '>', ':', '|', '^'], "_");
        let file = results.join(folder(group)).join(folder(function)).join("new/estimates.json");
        let estimates: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
        estimates.pointer("/median/point_estimate")?.as_f64()
    };
    println!("{:64}{:>12}{:>12}", "what is promised", "measured", "at most");
    let row = |what: &str, measured: Option<f64>, most: f64, unit: &str| {
        let Some(measured) = measured else { return };
        let verdict = if measured <= most { "kept" } else { "NOT KEPT" };
        println!("{what:64}{measured:9.2} {unit:2}{most:9.1} {unit:2}, {verdict}");
    };
    let ratio = |group: &str, one: &str, other: &str| Some(median(group, one)? / median(group, other)?);
    let (few, many) = ("name, 10 patterns", "name, 100000 patterns");
    let (ranges, compile) = ("address, 100000 ranges", "compile, 100000 patterns");
    row("decide_name, 10 patterns", median(few, "decide_name"), 60.0, "ns");
    row("decide, 10 patterns", median(few, "decide"), 60.0, "ns");
    row("decide_name, 100,000 patterns", median(many, "decide_name"), 210.0, "ns");
    row("decide, 100,000 patterns", median(many, "decide"), 210.0, "ns");
    row("decide_name : GlobSet of the same", ratio(many, "decide_name", "GlobSet"), 1.0 / 2.5, "");
    row("DomainMap : GlobSet of the same", ratio(many, "DomainMap", "GlobSet"), 1.0 / 2.5, "");
    row("CidrMap : prefix-trie alone", ratio(ranges, "CidrMap", "prefix-trie"), 1.1, "");
    row("the same, unwrapped", ratio(ranges, "CidrMap, unwrapped", "prefix-trie"), 1.1, "");
    row("the same, any reading", ratio(ranges, "CidrMap, any reading", "prefix-trie"), 1.1, "");
    row("decide_request, 20 rules", median("request, 20 rules", "last rule"), 500.0, "ns");
    row("decide_request, 20 rules, none of them", median("request, 20 rules", "no rule"), 500.0, "ns");
    let milliseconds = |function| median(compile, function).map(|time| time / 1e6);
    row("compile 100,000 patterns, once parsed", milliseconds("once parsed"), 100.0, "ms");
    row("parse and compile 100,000 patterns", milliseconds("with the document"), 1000.0, "ms");
}

/// Bytes that live on in what `make` made.
fn weigh<T>(make: impl FnOnce() -> T) -> (T, f64) {
    let mut made = None;
    let counted = allocation_counter::measure(|| made = Some(make()));
    (made.expect("it was made"), counted.bytes_current as f64)
}

fn heap() {
    println!("{:64}{:>12}{:>12}", "bytes of heap", "measured", "at most");
    let row = |what: &str, measured: f64, most: f64| {
        let verdict = if measured <= most { "kept" } else { "NOT KEPT" };
        println!("{what:64}{measured:12.1}{most:12.1}, {verdict}");
    };
    let patterns = patterns(MANY);
    let text = document(&patterns);
    let letters = patterns.iter().map(String::len).sum::<usize>() as f64 / MANY as f64;
    let (policy, bytes) = weigh(|| compile(&text));
    row(&format!("a pattern of 100,000, of {letters:.1} letters"), bytes / MANY as f64, 120.0);
    let (policy, _) = weigh(|| Arc::new(policy));
    let sandbox = |n| {
        let id = SandboxId::new(&format!("sandbox-{n}")).expect("an id");
        Sandbox::new(id, Arc::clone(&policy), Secrets::default())
    };
    let (sandboxes, bytes) = weigh(|| (0..SANDBOXES).map(sandbox).collect::<Vec<_>>());
    row(&format!("a sandbox of {SANDBOXES}, all with that one policy"), bytes / SANDBOXES as f64, 1024.0);
    let holders = Arc::strong_count(&policy);
    println!("{:64}{holders:12}", "holders of the one policy");
    drop(sandboxes);
}
