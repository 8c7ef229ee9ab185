//! A host under load: a real daemon of many sandboxes, with flows over real sockets, while policies are pushed; and the
//! same, killed in the middle and started again. What every push promised holds, and nothing is left behind.
//!
//! `cargo test` runs it small. At full size it takes minutes:
//! `cargo test --release --test load -- --ignored --nocapture`. It takes root, and says so where it is skipped.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod support;

mod attachments {
    #[allow(dead_code, reason = "made for the tests of attachments, which use all of it")]
    pub(crate) mod ground;
}

mod busy {
    pub(crate) mod host;
    pub(crate) mod inside;
}

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use attachments::ground::Ground;
use busy::host::{Api, Daemon, Figures};
use busy::inside::{Divers, Flow, serve};
use support::PATIENCE;

/// Where the service is: always permitted, permitted by every other policy, never.
const ALWAYS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const SOMETIMES: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const NEVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const SERVICE: [Ipv4Addr; 3] = [ALWAYS, SOMETIMES, NEVER];

/// How much of everything.
#[derive(Clone, Copy)]
struct Size {
    sandboxes: usize,
    /// In each sandbox: flows that stay, and flows that every other policy ends.
    flows: [usize; 2],
    pushes_a_second: u32,
    lasts: Duration,
    kills: usize,
    /// How long a flow may outlive its permission, as its client sees it.
    outlives: Duration,
}

const SMALL: Size = Size {
    sandboxes: 8,
    flows: [3, 2],
    pushes_a_second: 25,
    lasts: Duration::from_secs(2),
    kills: 2,
    outlives: PATIENCE,
};

const FULL: Size = Size {
    sandboxes: 200,
    flows: [10, 2],
    pushes_a_second: 50,
    lasts: Duration::from_secs(60),
    kills: 10,
    outlives: Duration::from_secs(1),
};

/// Into how many stretches the time of a load is cut. What is made once, however late, grows memory in one of them;
/// what every push leaves behind does so in all.
const STRETCHES: u32 = 4;
/// How much memory the best of the stretches may leave behind, in KiB: at full size, under three for each push.
const LEAVES: usize = 2 * 1024;
/// How many push at once.
const PUSHERS: usize = 16;

#[test]
fn pushes_under_load_lose_nothing_and_leave_nothing_behind() {
    pushes(SMALL);
}

#[test]
#[ignore = "it takes minutes"]
fn at_full_size_pushes_under_load_lose_nothing_and_leave_nothing_behind() {
    pushes(FULL);
}

#[test]
fn what_was_acknowledged_survives_a_crash_and_nothing_is_reachable_meanwhile() {
    crashes(SMALL);
}

#[test]
#[ignore = "it takes minutes"]
fn at_full_size_what_was_acknowledged_survives_a_crash_and_nothing_is_reachable_meanwhile() {
    crashes(FULL);
}

fn pushes(size: Size) {
    let Some((mut rig, runtime)) = Rig::new(size) else { return };
    rig.daemon.start(&rig.ground);
    runtime.block_on(async {
        let empty = rig.settled(0).await;
        let sandboxes = rig.load.create().await;
        // Some times through everything, so that most of what is made only once is there.
        let (sandboxes, _) = rig.load.push(sandboxes, Until::Each(6)).await;
        let staying = size.sandboxes * size.flows[0];
        let mut before = rig.settled(staying).await;
        println!("empty   {empty:?}\nbefore  {before:?}");
        let (mut sandboxes, mut times, mut took, mut left) = (sandboxes, Vec::new(), Duration::ZERO, Vec::new());
        for _ in 0..STRETCHES {
            let begun = Instant::now();
            let (pushed, more) = rig.load.push(sandboxes, Until::Time(begun + size.lasts / STRETCHES)).await;
            (sandboxes, took) = (pushed, took + begun.elapsed());
            times.extend(more);
            let after = rig.settled(staying).await;
            println!("after   {after:?}");
            assert_eq!(before.counted(), after.counted());
            left.push(after.resident.saturating_sub(before.resident));
            before = after;
        }
        rig.load.check(&sandboxes).await;
        tell(&times, took);
        assert!(left.iter().any(|left| *left <= LEAVES), "every stretch left memory behind, in KiB: {left:?}");
        rig.load.delete(sandboxes).await;
        let gone = rig.settled(0).await;
        println!("deleted {gone:?}");
        assert_eq!(empty.counted(), gone.counted());
    });
}

fn crashes(size: Size) {
    let Some((mut rig, runtime)) = Rig::new(size) else { return };
    rig.daemon.start(&rig.ground);
    runtime.block_on(async {
        let sandboxes = rig.load.create().await;
        let (mut sandboxes, _) = rig.load.push(sandboxes, Until::Each(2)).await;
        let before = rig.settled(size.sandboxes * size.flows[0]).await;
        let mut unknown = 0;
        for _ in 0..size.kills {
            let moment = Duration::from_millis(RandomState::new().hash_one(0) % 1500);
            let (life, until) = watch::channel(Life::Lives);
            let (load, pushed) = (Arc::clone(&rig.load), Until::Killed(until));
            let pushing = tokio::spawn(async move { load.push(sandboxes, pushed).await });
            tokio::time::sleep(moment).await;
            life.send_replace(Life::Dies);
            rig.daemon.kill();
            life.send_replace(Life::Dead);
            sandboxes = pushing.await.expect("no panic").0;
            unknown += sandboxes.iter().filter(|sandbox| sandbox.asked.is_some()).count();
            rig.load.assert_all_reach(&sandboxes, |_| [Some(false); 3]).await;
            rig.daemon.start(&rig.ground);
            // What is known to be refused is refused from the first packet on.
            let refused = |sandbox: &Sandbox| (!sandbox.both && sandbox.asked.is_none()).then_some(false);
            while Api::connect(&rig.load.socket).await.is_none() {
                rig.load.assert_all_reach(&sandboxes, |sandbox| [None, refused(sandbox), Some(false)]).await;
            }
            rig.load.learn(&mut sandboxes).await;
            rig.load.check(&sandboxes).await;
        }
        println!("{} crashes, at which {unknown} pushes were not acknowledged yet", size.kills);
        let (sandboxes, _) = rig.load.push(sandboxes, Until::Each(2)).await;
        let after = rig.settled(size.sandboxes * size.flows[0]).await;
        println!("before  {before:?}\nafter   {after:?}");
        assert_eq!(before.counted(), after.counted());
        drop(sandboxes);
    });
}

/// How many pushes there were, how long they took, and how long afterwards the last flow had ended.
fn tell(times: &[Times], took: Duration) {
    let sorted = |time: fn(&Times) -> Duration| {
        let mut all: Vec<_> = times.iter().map(time).collect();
        all.sort();
        all
    };
    let (answers, ends) = (sorted(|times| times.answered), sorted(|times| times.ended));
    let at =
        |all: &[Duration], share: usize| all.get(all.len() * share / 100).or(all.last()).copied().unwrap_or_default();
    println!(
        "{} pushes in {took:.1?}: answered in {:.1?} (half), {:.1?} (99 %), {:.1?} (all); flows ended {:.1?} later",
        times.len(),
        at(&answers, 50),
        at(&answers, 99),
        at(&answers, 100),
        at(&ends, 100),
    );
}

/// A ground with a service, and a daemon that is not started yet.
struct Rig {
    daemon: Daemon,
    load: Arc<Load>,
    ground: Ground,
}

impl Rig {
    /// With the runtime of its clients.
    fn new(size: Size) -> Option<(Self, Runtime)> {
        let ground = Ground::new()?;
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("a limit");
        for address in SERVICE {
            ground.place.ip(&format!("address add {address}/32 dev lo"));
        }
        serve(&ground, &SERVICE);
        let names: String = (0..size.sandboxes).map(|n| format!("netns add {}\n", name(n))).collect();
        ground.place.enter(move || {
            let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("iproute2");
            ip.stdin.take().expect("a pipe").write_all(names.as_bytes()).expect("it reads");
            assert!(ip.wait().expect("a child").success());
        });
        let daemon = Daemon::new(&[ALWAYS, SOMETIMES]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let load = runtime.block_on(async { Load::new(size, &ground, &daemon) });
        Some((Self { daemon, load: Arc::new(load), ground }, runtime))
    }

    /// What the daemon holds, once that no longer changes and so many flows are open.
    async fn settled(&self, flows: usize) -> Figures {
        let settling = async {
            let mut before: Option<Figures> = None;
            loop {
                let now = self.daemon.figures(&self.ground).await;
                if now.flows == flows && before.is_some_and(|before| before.counted() == now.counted()) {
                    return now.with_inside(&self.ground);
                }
                before = Some(now);
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        timeout(PATIENCE, settling).await.unwrap_or_else(|_| panic!("{flows} flows are not all that is open"))
    }
}

fn name(number: usize) -> String {
    format!("exl-{number}")
}

/// What drives the daemon.
struct Load {
    size: Size,
    socket: std::path::PathBuf,
    divers: Divers,
    pace: Mutex<Interval>,
}

/// One sandbox, as its control plane knows it.
struct Sandbox {
    name: String,
    /// Of the policy that was acknowledged last.
    generation: u64,
    /// Whether that one permits both addresses.
    both: bool,
    /// The same of one that was pushed, and not yet acknowledged.
    asked: Option<bool>,
    stay: Vec<Flow>,
    come_and_go: Vec<Flow>,
}

/// When pushing ends.
#[derive(Clone)]
enum Until {
    /// When each sandbox has had so many.
    Each(usize),
    Time(Instant),
    Killed(watch::Receiver<Life>),
}

/// Whether there is a daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Life {
    Lives,
    Dies,
    Dead,
}

/// Of one push: until it was acknowledged, and from then until what it refuses had ended.
struct Times {
    answered: Duration,
    ended: Duration,
}

impl Load {
    fn new(size: Size, ground: &Ground, daemon: &Daemon) -> Self {
        let mut pace = interval(Duration::from_secs(1) / size.pushes_a_second);
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        Self { size, socket: daemon.socket(), divers: Divers::new(ground, 4), pace: Mutex::new(pace) }
    }

    /// Every sandbox, attached, with the flows that stay.
    async fn create(self: &Arc<Self>) -> Vec<Sandbox> {
        let numbers: Vec<usize> = (0..self.size.sandboxes).collect();
        let created = self.spread(numbers, |load, mut api, numbers| async move {
            let mut created = Vec::new();
            for name in numbers.into_iter().map(name) {
                let body = json!({
                    "name": name,
                    "attachment": { "netns": format!("/run/netns/{name}") },
                    "networkPolicy": policy(false, 1),
                });
                api.must(Method::POST, "/v2/sandboxes", &body).await;
                let flows = |count, to| (0..count).map(|_| Flow::keep(&load.divers, &name, to)).collect::<Vec<_>>();
                let [stay, come_and_go] = load.size.flows;
                let (stay, come_and_go) = (flows(stay, ALWAYS), flows(come_and_go, SOMETIMES));
                open(&stay).await.expect("what its policy permits");
                created.push(Sandbox { name, generation: 1, both: false, asked: None, stay, come_and_go });
            }
            created
        });
        created.await.into_iter().flatten().collect()
    }

    async fn delete(self: &Arc<Self>, sandboxes: Vec<Sandbox>) {
        let deleted = self.spread(sandboxes, |_, mut api, sandboxes| async move {
            for sandbox in sandboxes {
                sandbox.stay.iter().for_each(|flow| flow.want(false));
                api.must(Method::DELETE, &sandbox.path(), &Value::Null).await;
            }
        });
        deleted.await;
    }

    /// Pushes policies to all, one that permits more after one that permits less.
    async fn push(self: &Arc<Self>, sandboxes: Vec<Sandbox>, until: Until) -> (Vec<Sandbox>, Vec<Times>) {
        let pushed = self.spread(sandboxes, |load, mut api, mut sandboxes| {
            let until = until.clone();
            async move {
                let mut times = Vec::new();
                let mut dead = until.clone();
                tokio::select! {
                    () = load.push_in_turn(&mut api, &mut sandboxes, &until, &mut times) => {}
                    () = dead.killed() => {}
                }
                (sandboxes, times)
            }
        });
        let (mut sandboxes, mut times) = (Vec::new(), Vec::new());
        for (some, more) in pushed.await {
            sandboxes.extend(some);
            times.extend(more);
        }
        (sandboxes, times)
    }

    async fn push_in_turn(&self, api: &mut Api, sandboxes: &mut [Sandbox], until: &Until, times: &mut Vec<Times>) {
        let mut round = 0;
        while !until.is_over(round) {
            for sandbox in &mut *sandboxes {
                match self.push_one(api, sandbox).await {
                    Ok(taken) => times.push(taken),
                    Err(why) if until.is_lively() => panic!("{}: {why}", sandbox.name),
                    Err(_) => return std::future::pending().await,
                }
            }
            round += 1;
        }
        for sandbox in sandboxes.iter_mut().filter(|sandbox| sandbox.both) {
            times.push(self.push_one(api, sandbox).await.unwrap_or_else(|why| panic!("{}: {why}", sandbox.name)));
        }
    }

    /// Pushes one policy: when it is acknowledged, it is in force.
    async fn push_one(&self, api: &mut Api, sandbox: &mut Sandbox) -> Result<Times, &'static str> {
        let both = !sandbox.both;
        if !both {
            sandbox.come_and_go.iter().for_each(|flow| flow.want(false));
        }
        self.pace.lock().await.tick().await;
        sandbox.asked = Some(both);
        let body = json!({ "networkPolicy": policy(both, sandbox.generation + 1) });
        let begun = Instant::now();
        let answer = api.ask(Method::PATCH, &sandbox.path(), &body).await;
        let (answered, acknowledged) = (begun.elapsed(), Instant::now());
        let (status, answer) = answer.ok_or("the connection broke")?;
        assert!(status.is_success(), "{answer}");
        (sandbox.generation, sandbox.both, sandbox.asked) = (sandbox.generation + 1, both, None);
        if answer["sandbox"]["generation"] != sandbox.generation {
            return Err("an update was lost");
        }
        if both {
            open(&sandbox.come_and_go).await?;
        } else {
            for flow in &sandbox.come_and_go {
                let left = self.size.outlives.saturating_sub(acknowledged.elapsed());
                timeout(left, flow.is(false)).await.map_err(|_| "a flow outlived its permission")?;
            }
        }
        let ended = acknowledged.elapsed();
        let reached = self.divers.greeted(&sandbox.name, SOMETIMES).await.is_ok();
        if reached == both { Ok(Times { answered, ended }) } else { Err("the policy is not in force") }
    }

    /// Reads which of the two policies is in force that may be.
    async fn learn(self: &Arc<Self>, sandboxes: &mut Vec<Sandbox>) {
        let learned = self.spread(std::mem::take(sandboxes), |_, mut api, mut sandboxes| async move {
            for sandbox in &mut sandboxes {
                let answer = api.must(Method::GET, &sandbox.path(), &Value::Null).await;
                let found = answer["sandbox"]["generation"].as_u64().expect("a number");
                let state = &answer["sandbox"]["attachment"]["state"];
                assert_eq!(state, "attached", "{}: {answer}", sandbox.name);
                match sandbox.asked.take() {
                    Some(both) if found == sandbox.generation + 1 => {
                        (sandbox.generation, sandbox.both) = (found, both);
                    }
                    _ => assert_eq!(found, sandbox.generation, "{}: a push was lost", sandbox.name),
                }
                sandbox.stay.iter().for_each(|flow| flow.want(true));
                open(&sandbox.stay).await.unwrap_or_else(|why| panic!("{}: {why}", sandbox.name));
            }
            sandboxes
        });
        *sandboxes = learned.await.into_iter().flatten().collect();
    }

    /// Every sandbox reaches what its last policy permits, and nothing else.
    async fn check(self: &Arc<Self>, sandboxes: &[Sandbox]) {
        self.assert_all_reach(sandboxes, |sandbox| [Some(true), Some(sandbox.both), Some(false)]).await;
    }

    /// What every sandbox reaches of the service, where that is known.
    async fn assert_all_reach(&self, sandboxes: &[Sandbox], known: impl Fn(&Sandbox) -> [Option<bool>; 3]) {
        let mut probes = JoinSet::new();
        for sandbox in sandboxes {
            for (to, known) in SERVICE.into_iter().zip(known(sandbox)) {
                let Some(known) = known else { continue };
                let (divers, name) = (self.divers.clone(), sandbox.name.clone());
                probes.spawn(async move {
                    assert_eq!(divers.greeted(&name, to).await.is_ok(), known, "{name} reaches {to}");
                });
            }
        }
        while let Some(probed) = probes.join_next().await {
            probed.expect("as expected");
        }
    }

    /// Does something with all, many at once, each with a connection to the API.
    async fn spread<T: Send + 'static, R: Send + 'static, F>(
        self: &Arc<Self>,
        mut all: Vec<T>,
        work: impl Fn(Arc<Self>, Api, Vec<T>) -> F,
    ) -> Vec<R>
    where
        F: Future<Output = R> + Send + 'static,
    {
        let share = all.len().div_ceil(PUSHERS).max(1);
        let mut working = JoinSet::new();
        while !all.is_empty() {
            let some = all.split_off(all.len().saturating_sub(share));
            working.spawn(work(Arc::clone(self), Api::ready(&self.socket).await, some));
        }
        working.join_all().await
    }
}

impl Sandbox {
    fn path(&self) -> String {
        format!("/v2/sandboxes/{}", self.name)
    }
}

impl Until {
    fn is_over(&self, rounds: usize) -> bool {
        match self {
            Self::Each(most) => rounds >= *most,
            Self::Time(end) => Instant::now() >= *end,
            Self::Killed(_) => false,
        }
    }

    /// Whether nothing has an excuse to fail.
    fn is_lively(&self) -> bool {
        !matches!(self, Self::Killed(life) if *life.borrow() != Life::Lives)
    }

    /// Ready when the daemon is dead.
    async fn killed(&mut self) {
        match self {
            // Who could kill it sees to it that it is told.
            Self::Killed(life) => drop(life.wait_for(|life| *life == Life::Dead).await),
            Self::Each(_) | Self::Time(_) => std::future::pending().await,
        }
    }
}

/// Asks for flows, and waits for them.
async fn open(flows: &[Flow]) -> Result<(), &'static str> {
    flows.iter().for_each(|flow| flow.want(true));
    for flow in flows {
        timeout(PATIENCE, flow.is(true)).await.map_err(|_| "a flow that is permitted does not open")?;
    }
    Ok(())
}

/// A policy that permits one address or two; each push is another document.
fn policy(both: bool, number: u64) -> Value {
    let allowed = if both { vec![ALWAYS, SOMETIMES] } else { vec![ALWAYS] };
    let allowed: Vec<String> = allowed.iter().map(|address| format!("{address}/32")).collect();
    json!({ "allow": [format!("n{number}.test")], "subnets": { "allow": allowed } })
}
