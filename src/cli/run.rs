//! A command inside a fresh sandbox.

mod channel;
pub mod init;
mod launch;
mod terminal;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

pub(super) use channel::{Fault, Part};
use channel::{Order, Plan, Report, Stdio};
use launch::Launching;
use terminal::Streams;

use super::{Exit, doctor};

/// Options of `exeat run`.
#[derive(Debug, clap::Args)]
pub struct RunArguments {
    /// The command, and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs the verb.
#[must_use]
pub fn run(arguments: RunArguments) -> Exit {
    match try_run(arguments) {
        Ok(exit) => exit,
        Err(text) => {
            eprintln!("exeat: {text}");
            Exit::Failed
        }
    }
}

fn try_run(arguments: RunArguments) -> Result<Exit, String> {
    let streams = Streams::of_this_process().map_err(|e| e.to_string())?;
    let plan = Plan {
        identity: launch::identity(),
        argv: arguments.command.into_iter().map(OsString::into_vec).collect(),
        env: std::env::vars_os().map(|(k, v)| [k.into_vec(), b"=".to_vec(), v.into_vec()].concat()).collect(),
        directory: std::env::current_dir().map_err(|e| e.to_string())?,
        stdio: streams.becomes,
        overlays: vec![],
        masks: crate::confine::masks::sockets(0, &[]).map_err(|e| e.to_string())?,
        kept: vec![],
    };
    let launching = Launching::start(plan, &[], &streams.passed).map_err(|f| doctor::explain(&f))?;
    let launched = launching.finish().map_err(|f| doctor::explain(&f))?;
    let relays = streams.start(launched.terminal).map_err(|e| e.to_string())?;
    launched.channel.send(&Order::Start, &[]).map_err(|e| e.to_string())?;
    let report = launched.channel.receive::<Report>();
    relays.finish();
    eprintln!("{report:?}");
    Ok(Exit::Success)
}

/// Makes a sandbox and ends it again.
pub(super) fn probe() -> Result<(), Fault> {
    let plan = Plan {
        identity: launch::identity(),
        argv: Vec::new(),
        env: Vec::new(),
        directory: "/".into(),
        stdio: [Stdio::Terminal; 3],
        overlays: Vec::new(),
        masks: Vec::new(),
        kept: Vec::new(),
    };
    Launching::start(plan, &[], &[])?.finish().map(drop)
}
