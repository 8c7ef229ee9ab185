//! What a change of policy costs: how long a push takes that ends 10,000 live flows, and whether judging on another
//! thread is disturbed while policies are swapped (POLICY §8).
//!
//! The flows are real sockets in a network namespace of a sandbox, through a daemon as `exeat serve` wires it, in this
//! process: 8,500 spliced, 1,000 whose TLS ended here, 500 with a request in flight. Clients and origin are processes
//! of their own, for a process has only so many descriptors: the daemon takes 19,000 of them here. It ends with an
//! error where a promise is not kept. It takes root, and says so where it is skipped.

mod host;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use exeat::control::action::{Act, Action, PolicyPush};
use exeat::flow::{ClientAddr, Domain, Flow, FlowId, Hello, OriginalDst, SandboxId, Seen};
use exeat::policy::verdict::Verdict;
use exeat::policy::{self, Flags, Policy, Protected, Terms};
use exeat::sandbox::Sandbox;
use exeat::secret::Secrets;
use nix::sched::{CloneFlags, setns};
use nix::time::{ClockId, clock_gettime};
use rustls::pki_types::ServerName;

use host::{Fault, Host, ORIGIN};

/// The promises.
const PUSH: Duration = Duration::from_secs(1);
const DISTURBED: f64 = 0.9;

const SPLICED: usize = 8_500;
const TERMINATED: usize = 1_000;
const REQUESTS: usize = 500;
/// Threads that open them.
const DIALLING: usize = 8;

const POLICY: &str = r#"{"allow": {"spliced.example": [], "judged.example": [{"match": {"method": ["GET"]}}]}}"#;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["origin"] => host::run("change", || origin().map(|()| true)),
        ["clients", inside, root] => match clients(inside, root) {
            Ok(()) => ExitCode::SUCCESS,
            Err(fault) => {
                eprintln!("change: {fault}");
                ExitCode::FAILURE
            }
        },
        _ => host::run("change", || Ok(judge_while_swapping()? & (!host::is_root("the end of live flows") || cut()?))),
    }
}

// ---- judging while policies are swapped

/// Compares judgements for each second of CPU time, with and without another thread that swaps policies all the time.
fn judge_while_swapping() -> Result<bool, Fault> {
    const ROUNDS: usize = 9;
    let policies: Vec<Arc<Policy>> = (0..2).map(large_policy).collect::<Result<_, _>>()?;
    let first = policies.first().ok_or("no policy")?;
    let id = SandboxId::new("bench").ok_or("no id")?;
    let sandbox = Arc::new(Sandbox::new(id.clone(), Arc::clone(first), Secrets::default()));
    let flow = a_flow(id)?;
    let mut ratios = Vec::new();
    let (mut still, mut swaps) = (0.0, 0);
    for _ in 0..ROUNDS {
        let (alone, _) = judgements(&sandbox, &flow, None)?;
        let (disturbed, swapped) = judgements(&sandbox, &flow, Some(&policies))?;
        ratios.push(disturbed / alone);
        (still, swaps) = (alone, swaps + swapped);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios.get(ROUNDS / 2).copied().unwrap_or_default();
    println!(
        "judgements: {:.2} million a second of CPU time; {:.2} of that while 10,000 names are swapped ({swaps} times)",
        still / 1e6,
        ratio
    );
    if ratio < DISTURBED {
        eprintln!("change: the promise is {DISTURBED}");
    }
    Ok(ratio >= DISTURBED)
}

/// Judgements for each second of CPU time, and swaps meanwhile.
fn judgements(sandbox: &Arc<Sandbox>, flow: &Flow, swapped: Option<&[Arc<Policy>]>) -> Result<(f64, usize), Fault> {
    const LASTS: Duration = Duration::from_millis(300);
    let over = AtomicBool::new(false);
    let swaps = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        if let Some(policies) = swapped {
            scope.spawn(|| {
                for policy in policies.iter().cycle() {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    sandbox.replace(Arc::clone(policy));
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let host = Protected::new([]);
        let begun = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let mut judged = 0_u32;
        let used = loop {
            for _ in 0..1000 {
                let Verdict::Allow(_) = std::hint::black_box(sandbox.snapshot().policy.decide(flow, &host)) else {
                    return Err("it was denied".into());
                };
            }
            judged += 1000;
            let used = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)? - begun);
            if used >= LASTS {
                break used;
            }
        };
        over.store(true, Ordering::Relaxed);
        Ok((f64::from(judged) / used.as_secs_f64(), swaps.load(Ordering::Relaxed)))
    })
}

fn large_policy(kind: usize) -> Result<Arc<Policy>, Fault> {
    let names: String = (0..10_000).map(|n| format!("  n{n}-{kind}.example: []\n")).collect();
    let text = format!("version: 1\nallow:\n  spliced.example: []\n{names}");
    let source = policy::Source { path: "bench.yaml", text: &text };
    let compiled = Policy::compile(Some(source), &Flags::default(), &Terms::default());
    Ok(Arc::new(compiled.map_err(|faults| faults.to_string())?.policy))
}

fn a_flow(sandbox: SandboxId) -> Result<Flow, Fault> {
    let sni = Some(Domain::parse("spliced.example").map_err(|error| error.to_string())?);
    let address = |text: &str| text.parse::<SocketAddr>();
    Ok(Flow {
        id: FlowId(1),
        sandbox,
        client: ClientAddr(address("198.18.0.1:40000")?),
        dst: OriginalDst(address("203.0.113.10:443")?),
        seen: Seen::Tls(Hello { sni, alpn: Vec::new(), ech: false }),
        pinned: Vec::new(),
    })
}

// ---- the end of live flows

fn cut() -> Result<bool, Fault> {
    host::enter()?;
    let inside = host::namespace()?;
    let host = Host::open()?;
    let which = host.create("bench", POLICY, &inside)?;
    let root = host.root(&which)?;
    let namespace = format!("/proc/{}/fd/{}", std::process::id(), inside.as_raw_fd());
    let mut origin = Role::start(&["origin"])?;
    origin.said("ready")?;
    let mut clients = Role::start(&["clients", &namespace, &root])?;
    clients.said("open")?;
    let open = host.daemon.flows(&which).ok_or("no flows")?.len();
    if open != SPLICED + TERMINATED + REQUESTS {
        return Err(format!("{open} flows are open").into());
    }
    let begun = Instant::now();
    let pushed = host.act(Action::Replace(which, PolicyPush { text: "deny-all".to_owned(), replaces: None }));
    let took = begun.elapsed();
    pushed.map_err(|fault| format!("after {took:.1?}: {fault}"))?;
    let left: usize = clients.asked("left")?.parse()?;
    println!("a push that ends {open} live flows, {SPLICED} of them spliced: {took:.1?}; {left} left when it returned");
    if took > PUSH || left > 0 {
        eprintln!("change: the promise is {PUSH:?}, and none");
    }
    Ok(took <= PUSH && left == 0)
}

/// A process of this benchmark's, on the same host.
struct Role(Child, BufReader<ChildStdout>);

impl Role {
    fn start(arguments: &[&str]) -> Result<Self, Fault> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Self(child, lines))
    }

    fn line(&mut self) -> Result<String, Fault> {
        let mut line = String::new();
        self.1.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn said(&mut self, word: &str) -> Result<(), Fault> {
        if self.line()? == word { Ok(()) } else { Err(format!("it did not say `{word}`").into()) }
    }

    fn asked(&mut self, word: &str) -> Result<String, Fault> {
        writeln!(self.0.stdin.as_mut().ok_or("no pipe")?, "{word}")?;
        self.line()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves until it is killed, or nobody is there to kill it.
fn origin() -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(host::serve_origin())?;
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// Opens every flow, and tells, when asked, how many of them are left.
fn clients(inside: &str, root: &str) -> Result<(), Fault> {
    let (inside, config) = (File::open(inside)?, host::client_config(root)?);
    let clients = std::thread::scope(|scope| {
        let dial = |first| {
            let (inside, config) = (&inside, &config);
            scope.spawn(move || open_some(inside, config, first))
        };
        // All at once, so that no thread waits for another's flows.
        let threads: Vec<_> = (0..DIALLING).map(dial).collect();
        let opened = threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?);
        opened.collect::<Result<Vec<_>, Fault>>()
    })?;
    println!("open");
    io::stdin().read_line(&mut String::new())?;
    println!("{}", clients.iter().flatten().filter(|client| !has_ended(client)).count());
    Ok(())
}

/// Every [`DIALLING`]th flow, from inside the sandbox, each with an answer that came.
fn open_some(inside: &File, config: &Arc<rustls::ClientConfig>, first: usize) -> Result<Vec<TcpStream>, Fault> {
    setns(inside, CloneFlags::CLONE_NEWNET)?;
    let client =
        |name| rustls::ClientConnection::new(Arc::clone(config), ServerName::try_from(name)?).map_err(Fault::from);
    let mut hello = Vec::new();
    client("spliced.example")?.write_tls(&mut hello)?;
    let mut open = Vec::new();
    for number in (first..SPLICED + TERMINATED + REQUESTS).step_by(DIALLING) {
        let port = if number < SPLICED + TERMINATED { 443 } else { 80 };
        let mut io = TcpStream::connect((ORIGIN, port))?;
        if number < SPLICED {
            io.write_all(&hello)?;
            io.read_exact(&mut [0])?;
        } else if number < SPLICED + TERMINATED {
            let mut tls = client("judged.example")?;
            while tls.is_handshaking() {
                tls.complete_io(&mut io)?;
            }
        } else {
            io.write_all(b"GET / HTTP/1.1\r\nHost: judged.example\r\n\r\n")?;
            // The head of an answer that never ends.
            io.read_exact(&mut [0; 15])?;
        }
        open.push(io);
    }
    Ok(open)
}

/// Whether the other side has ended it, as far as the kernel knows; bytes that came before do not count.
fn has_ended(mut client: &TcpStream) -> bool {
    if client.set_nonblocking(true).is_err() {
        return true;
    }
    loop {
        match client.read(&mut [0; 4096]) {
            Ok(1..) => {}
            Ok(0) => return true,
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}
