//! What an attachment costs: time to attach and detach, and resident memory, of 1,000 network namespaces and of 1,000
//! interfaces, each with its sockets and its watch in a runtime; and the same of 1,000 sandboxes that a daemon is asked
//! for, each attached by a namespace, with a root and a policy of its own, stored and served.
//!
//! It ends with an error where the median is over the promise, or a sandbox costs a thread. It takes root, and says so
//! where it is skipped. All that it makes is in namespaces of its own, and gone when it ends.

mod host;

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use exeat::attach::{Attached, Attachment, Device, Events, Host, SandboxDatagrams, SandboxListener, Spec};

use exeat::control::action::Action;
use exeat::flow::SandboxId;
use host::Fault;

/// The promises.
const TIME: Duration = Duration::from_millis(20);
const KIBIBYTES: usize = 100;
/// Attachments that are measured, after some that are not.
const COUNT: usize = 1000;
const WARM_UP: usize = 20;

fn main() -> ExitCode {
    host::run("attach", || Ok(!host::is_root("attachments") || measure()?))
}

fn measure() -> Result<bool, Fault> {
    host::enter()?;
    let namespaces: Vec<File> = (0..COUNT + WARM_UP).map(|_| host::namespace()).collect::<Result<_, Fault>>()?;
    let by_path =
        |file: &File| Spec::Netns { path: format!("/proc/self/fd/{}", file.as_raw_fd()).into(), taps: Vec::new() };
    let devices = devices()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let attached = runtime.block_on(async {
        let host = Host::open()?;
        let first = attach_all(&host, "network namespaces", namespaces.iter().map(by_path)).await?;
        let second = attach_all(&host, "interfaces", devices.into_iter().map(Spec::Interface)).await?;
        Ok::<_, Fault>(first && second)
    });
    drop(runtime);
    Ok(create_all(&namespaces)? & attached?)
}

/// Ends of veths that are down, each with addresses of its own behind it.
fn devices() -> Result<Vec<Device>, Fault> {
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    let mut commands = String::from("link set lo up\n");
    let mut devices = Vec::new();
    for n in 0..u16::try_from(COUNT + WARM_UP)? {
        commands += &format!("link add exw{n} type veth peer name exwp{n}\n");
        let [high, low] = n.to_be_bytes();
        let addresses: [IpAddr; 2] =
            [Ipv4Addr::new(10, 0, high, low).into(), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, n).into()];
        devices.push(Device::new(&format!("exw{n}"), addresses).map_err(|refusal| refusal.to_string())?);
    }
    ip.stdin.take().ok_or("no pipe")?.write_all(commands.as_bytes())?;
    if ip.wait()?.success() { Ok(devices) } else { Err("ip failed".into()) }
}

/// What a daemon keeps of an attachment.
struct Kept {
    attachment: Attachment,
    _served: (SandboxListener, SandboxDatagrams),
    _events: Events,
}

async fn attach_all(host: &Host, what: &str, specs: impl Iterator<Item = Spec>) -> Result<bool, Fault> {
    let (mut kept, mut attaching, mut detaching) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = 0;
    for (n, spec) in specs.enumerate() {
        if n == WARM_UP {
            before = resident()?;
        }
        let start = Instant::now();
        let Attached { attachment, sockets, events } = host.attach(&spec).await?;
        attaching.push(start.elapsed());
        let served = (SandboxListener::new(sockets.tcp)?, SandboxDatagrams::new(sockets.udp)?);
        kept.push(Kept { attachment, _served: served, _events: events });
    }
    let each = resident()?.saturating_sub(before) / COUNT;
    for Kept { attachment, .. } in kept {
        let start = Instant::now();
        attachment.detach().await?;
        detaching.push(start.elapsed());
    }
    tell(what, attaching, each, detaching)
}

/// The same of whole sandboxes, each with a policy that no other has.
fn create_all(namespaces: &[File]) -> Result<bool, Fault> {
    let host = host::Host::open()?;
    let (mut attaching, mut detaching, mut before) = (Vec::new(), Vec::new(), (0, 0));
    for (n, inside) in namespaces.iter().enumerate() {
        if n == WARM_UP {
            before = (resident()?, threads()?);
        }
        let policy =
            format!(r#"{{"allow": {{"n{n}.example": [], "judged.example": [{{"match": {{"method": ["GET"]}}}}]}}}}"#);
        let start = Instant::now();
        host.create(&format!("bench-{n}"), &policy, inside)?;
        attaching.push(start.elapsed());
    }
    let each = resident()?.saturating_sub(before.0) / COUNT;
    let more = threads()?.saturating_sub(before.1);
    for n in 0..namespaces.len() {
        let id = SandboxId::new(&format!("bench-{n}")).ok_or("no name")?;
        let start = Instant::now();
        host.act(Action::Delete(id))?;
        detaching.push(start.elapsed());
    }
    let kept = tell("sandboxes of a daemon", attaching, each, detaching)?;
    println!("  {more} threads more, which come and go with what is written");
    // The threads that store records are a pool.
    Ok(kept && more < COUNT / 10)
}

fn tell(what: &str, mut attaching: Vec<Duration>, each: usize, detaching: Vec<Duration>) -> Result<bool, Fault> {
    let attaching = Times::of(attaching.split_off(WARM_UP));
    println!("{COUNT} {what}: attached in {attaching}, {each} KiB each, detached in {}", Times::of(detaching));
    println!("  {} threads in all", threads()?);
    let kept = attaching.median <= TIME && each <= KIBIBYTES;
    if !kept {
        eprintln!("attach: the promise is {TIME:?} and {KIBIBYTES} KiB");
    }
    Ok(kept)
}

fn threads() -> Result<usize, Fault> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Resident memory of this process, in KiB.
fn resident() -> Result<usize, Fault> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// How long something took, of many times.
struct Times {
    median: Duration,
    late: Duration,
    worst: Duration,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |share: usize| times.get(times.len() * share / 100).or(times.last()).copied().unwrap_or_default();
        Self { median: at(50), late: at(99), worst: at(100) }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1?} (median; {:.1?} of 99 %, {:.1?} at worst)", self.median, self.late, self.worst)
    }
}
