//! What a sandbox costs before the command begins: the median of `exeat run -- true` less that of `true` alone.
//!
//! The two are started in turn, so that a drifting machine weighs on both. It ends with an error where the cost is
//! over the promise.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// The promise.
const PROMISE: Duration = Duration::from_millis(60);
/// Pairs that are measured, after some that are not.
const PAIRS: usize = 41;
const WARM_UP: usize = 3;

fn main() -> ExitCode {
    let exeat = env!("CARGO_BIN_EXE_exeat");
    let (mut bare, mut inside) = (Vec::new(), Vec::new());
    for pair in 0..WARM_UP + PAIRS {
        let times = (time("true", &[]), time(exeat, &["run", "--quiet", "--", "true"]));
        let (Some(alone), Some(confined)) = times else {
            eprintln!("startup: a command failed; `exeat doctor` may know why");
            return ExitCode::FAILURE;
        };
        if pair >= WARM_UP {
            bare.push(alone);
            inside.push(confined);
        }
    }
    let (bare, inside) = (median(bare), median(inside));
    let cost = inside.saturating_sub(bare);
    println!("bare {bare:.1?}, in a sandbox {inside:.1?}: start-up costs {cost:.1?} (median of {PAIRS})");
    if cost > PROMISE {
        eprintln!("startup: the promise is {PROMISE:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// From start to end; `None` where the command failed.
fn time(command: &str, arguments: &[&str]) -> Option<Duration> {
    let start = Instant::now();
    let status = Command::new(command).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).status().ok()?;
    status.success().then(|| start.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
