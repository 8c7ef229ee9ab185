//! `exeat demo`: real requests in real sandboxes, under a policy that is built in, to an origin of our own.
//!
//! Needs neither the Internet nor root: the origin listens on loopback in this very process, and the names of
//! `policies/demo.yaml` lead to it as `--resolve` would have it. All else is the code of `run`. Each request says
//! what happened and why, as the audit record has it; the demo fails where anything else happened.

mod origin;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use super::run::{self, RunError, Settings};
use super::world::Host;
use super::{Exit, say};
use crate::audit::{Event, Fanout, Judged, Kind, Record, RouteTaken};
use crate::policy;
use crate::policy::verdict::DenyReason;
use crate::resolve::Override;
use origin::Origin;

/// The policy that the requests are judged by.
const POLICY: &str = "preset:demo";
/// The variable that its secret comes from; the demo fills it with a random value.
const VARIABLE: &str = "EXEAT_DEMO_KEY";
/// Names of the policy that lead to the origin.
const NAMES: [&str; 4] = ["spliced.demo.test", "api.demo.test", "docs.demo.test", "evil.demo.test"];

/// One request and what must come of it.
struct Step {
    title: &'static str,
    curl: &'static [&'static str],
    expected: Result<RouteTaken, DenyReason>,
    why: &'static str,
}

const STEPS: [Step; 6] = [
    Step {
        title: "allowed without rules: spliced, never decrypted",
        curl: &["https://spliced.demo.test/hello"],
        expected: Ok(RouteTaken::Splice),
        why: "the origin answered with its own certificate: exeat read the name and passed the bytes through",
    },
    Step {
        title: "allowed with a credential: terminated, the header added on the way out",
        curl: &["https://api.demo.test/user"],
        expected: Ok(RouteTaken::Terminate),
        why: "curl sent no credential and holds none; the origin received one",
    },
    Step {
        title: "answered here: nobody is contacted",
        curl: &["-i", "https://docs.demo.test/"],
        expected: Ok(RouteTaken::Respond),
        why: "a rule of the policy is the whole answer",
    },
    Step {
        title: "denied by name",
        curl: &["-i", "https://evil.demo.test/"],
        expected: Err(DenyReason::DeniedDomain),
        why: "the name was never resolved, and the program that was refused is told why",
    },
    Step {
        title: "denied by address",
        curl: &["-i", "http://203.0.113.7/"],
        expected: Err(DenyReason::DeniedCidr),
        why: "denied addresses come first, whatever name is used",
    },
    Step {
        title: "a forged name: an allowed SNI towards an attacker's address",
        curl: &["--resolve", "spliced.demo.test:443:192.0.2.66", "https://spliced.demo.test/forged"],
        expected: Ok(RouteTaken::Splice),
        why: "exeat dialled its own resolution of the name: the bytes reached the name's owner, not 192.0.2.66",
    },
];

/// Runs the verb.
#[must_use]
pub(super) fn demo() -> Exit {
    match show() {
        Ok(0) => {
            say(&format!("\nall {} requests went as the policy says\n", STEPS.len()));
            Exit::Success
        }
        Ok(wrong) => {
            say(&format!("\n{wrong} of {} requests did not go as the policy says\n", STEPS.len()));
            Exit::Failed
        }
        Err(error) => error.report(),
    }
}

/// Returns how many requests went wrong.
fn show() -> Result<usize, RunError> {
    run::become_unreadable()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(RunError::own("start the runtime"))?;
    let origin = runtime.block_on(Origin::start(&NAMES)).map_err(RunError::own("start the demo's origin"))?;
    say(&format!("policy: policies/demo.yaml   origin: {} (in this process)\n", origin.address()));
    say(&format!(
        "left out of each command below: --allow-protected 127.0.0.1/32 --resolve NAME:443:127.0.0.1:{} \
         --upstream-ca CERTIFICATE\n",
        origin.address().port()
    ));
    let mut wrong = 0;
    for (number, step) in (1..).zip(STEPS) {
        say(&format!("\n── {number}. {}\n", step.title));
        say(&format!("$ exeat run --policy {POLICY} -- curl -sS {}\n", step.curl.join(" ")));
        let seen = Arc::new(Seen::default());
        let command = ["curl", "-sS", "--max-time", "20"].iter().chain(step.curl).map(OsString::from).collect();
        let exit = run::session(settings(&origin)?, command, Arc::new(Fanout(vec![seen.clone()])))?;
        let as_expected = seen.tell(&step.expected);
        if as_expected && exit == Exit::Code(0) {
            say(&format!("   {}\n", step.why));
        } else {
            say(&format!("   NOT AS EXPECTED: {:?}, and curl ended with {exit:?}\n", step.expected));
            wrong += 1;
        }
    }
    Ok(wrong)
}

/// What `exeat run --policy preset:demo --allow-protected 127.0.0.1/32 --resolve … --upstream-ca …` would have, and
/// the origin's certificate for the client that is spliced to it.
fn settings(origin: &Origin) -> Result<Settings, RunError> {
    let world = Host::with(VARIABLE, OsString::from(origin.key()));
    let mut settings = Settings::of_policy(Some(POLICY), &policy::Flags::default(), &world)?;
    settings.allow_protected.push(IpAddr::from(Ipv4Addr::LOCALHOST).into());
    let SocketAddr::V4(address) = origin.address() else { return Ok(settings) };
    let to_origin =
        |port: u16| NAMES.map(|name| format!("{name}:{port}:{}:{}", address.ip(), address.port()).parse::<Override>());
    let overrides = to_origin(443).into_iter().collect::<Result<Vec<_>, _>>();
    settings.overrides = overrides.map_err(RunError::own("name the demo's origin"))?.into_iter().collect();
    settings.upstream_ca.push(origin.certificate().der().clone());
    settings.trusted_inside = origin.certificate().pem();
    Ok(settings)
}

/// The verdicts of one request's flows.
#[derive(Default)]
struct Seen(Mutex<Vec<Judged>>);

impl Record for Seen {
    fn record(&self, event: &Event) {
        if let Kind::Verdict(judged) = &event.kind {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(judged.clone());
        }
    }
}

impl Seen {
    /// Says what was judged; whether the last judgement was the expected one.
    fn tell(&self, expected: &Result<RouteTaken, DenyReason>) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for judged in &*seen {
            let verdict = match judged.outcome {
                Ok(route) => format!("allow, {}", route.as_str()),
                Err(reason) => format!("deny, {reason}"),
            };
            let rule = judged.rule.as_ref().map(|rule| format!(" by {rule}")).unwrap_or_default();
            let name = judged.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
            let injected = if judged.injected.is_empty() {
                String::new()
            } else {
                format!(", injected {}", judged.injected.join(", "))
            };
            say(&format!("   [{}]{name}: {verdict}{rule}{injected}\n", judged.protocol.as_str()));
        }
        seen.last().is_some_and(|judged| judged.outcome == *expected)
    }
}
