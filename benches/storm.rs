//! Whether a storm of names in one sandbox is felt in another: handshakes of a quiet sandbox, with and without another
//! one that asks for a leaf of a new name with every connection, as fast as it can, under a wildcard whose requests are
//! judged (ATTACKS 88).
//!
//! Both are sandboxes of a daemon as `exeat serve` wires it, over real sockets. Times with and without the storm are
//! taken in turn, in slices, so that what else the machine does falls on both. It takes root, and says so where it is
//! skipped.

mod host;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use host::{Fault, Host, ORIGIN};

/// The promise: how much longer 99 of 100 handshakes of the quiet sandbox may take.
const FELT: f64 = 2.0;
const NAMES: usize = 10_000;
const SLICES: usize = 10;
const HANDSHAKES: usize = 200;

const POLICY: &str = r#"{"allow": {"*.judged.example": [{"match": {"method": ["GET"]}}]}}"#;

fn main() -> ExitCode {
    host::run("storm", || Ok(!host::is_root("a storm of names") || measure()?))
}

fn measure() -> Result<bool, Fault> {
    host::enter()?;
    let (quiet, stormy) = (host::namespace()?, host::namespace()?);
    let host = Host::open()?;
    host.runtime.block_on(host::serve_origin())?;
    let which = host.create("quiet", POLICY, &quiet)?;
    let root = host.root(&which)?;
    let config = host::client_config(&root)?;
    host.create("stormy", POLICY, &stormy)?;
    let (blows, over, asked) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
    let (still, shaken) = std::thread::scope(|scope| -> Result<_, Fault> {
        let storm = scope.spawn(|| storm(&stormy, &root, &blows, &over, &asked));
        let taken = scope.spawn(|| -> Result<_, Fault> {
            setns(&quiet, CloneFlags::CLONE_NEWNET)?;
            let (mut still, mut shaken) = (Vec::new(), Vec::new());
            handshakes(&config, &mut Vec::new())?;
            while shaken.len() < SLICES * HANDSHAKES || asked.load(Ordering::Relaxed) < NAMES {
                handshakes(&config, &mut still)?;
                blows.store(true, Ordering::SeqCst);
                handshakes(&config, &mut shaken)?;
                blows.store(false, Ordering::SeqCst);
            }
            Ok((still, shaken))
        });
        let taken = taken.join().map_err(|_| "a thread panicked")?;
        over.store(true, Ordering::SeqCst);
        storm.join().map_err(|_| "a thread panicked")??;
        taken
    })?;
    let (still, shaken) = (Times::of(still), Times::of(shaken));
    let felt = shaken.late.as_secs_f64() / still.late.as_secs_f64();
    println!("handshakes of a sandbox alone: {still}");
    println!("while another asks for {} names: {shaken}: {felt:.2} times", asked.into_inner());
    if felt > FELT {
        eprintln!("storm: the promise is {FELT}");
    }
    Ok(felt <= FELT)
}

/// Asks for a new name with every connection, while it blows.
fn storm(inside: &File, root: &str, blows: &AtomicBool, over: &AtomicBool, asked: &AtomicUsize) -> Result<(), Fault> {
    const DIGITS: usize = 8;
    setns(inside, CloneFlags::CLONE_NEWNET)?;
    let config = host::client_config(root)?;
    // One hello, whose name is changed in its place: making hellos would cost more than answering them.
    let (mark, mut hello) = ("x".repeat(DIGITS), Vec::new());
    ClientConnection::new(config, ServerName::try_from(format!("{mark}.judged.example"))?)?.write_tls(&mut hello)?;
    let at = hello.windows(DIGITS).position(|window| window == mark.as_bytes()).ok_or("no name in the hello")?;
    while !over.load(Ordering::Relaxed) {
        if !blows.load(Ordering::SeqCst) {
            std::thread::yield_now();
            continue;
        }
        let number = asked.fetch_add(1, Ordering::Relaxed);
        let name = hello.get_mut(at..at + DIGITS).ok_or("no name in the hello")?;
        name.copy_from_slice(format!("{number:0DIGITS$}").as_bytes());
        let mut io = TcpStream::connect((ORIGIN, 443))?;
        io.write_all(&hello)?;
        // A server's hello, or an alert.
        let _ = io.read(&mut [0; 4096])?;
    }
    Ok(())
}

/// Does so many handshakes for one name, one by one.
fn handshakes(config: &Arc<ClientConfig>, times: &mut Vec<Duration>) -> Result<(), Fault> {
    for _ in 0..HANDSHAKES {
        let mut tls = ClientConnection::new(Arc::clone(config), ServerName::try_from("one.judged.example")?)?;
        let begun = Instant::now();
        let mut io = TcpStream::connect((ORIGIN, 443))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut io)?;
        }
        times.push(begun.elapsed());
    }
    Ok(())
}

/// How long something took, of many times.
struct Times {
    median: Duration,
    late: Duration,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
        Self { median: at(50), late: at(99) }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2?} (median), {:.2?} (99 %)", self.median, self.late)
    }
}
