//! A command inside a fresh sandbox.
//!
//! The life of one, in order: the arguments become `settings` (everything that can be wrong with them is
//! told before anything is made); `session` makes the sandbox, serves it, starts the command, and ends it all;
//! `launch` and [`init`] are the two sides of making it.

mod channel;
mod error;
mod host;
pub mod init;
mod launch;
mod session;
mod settings;
mod terminal;

use std::ffi::OsString;
use std::path::PathBuf;

pub(super) use channel::{Fault, Part};
use channel::{Plan, Stdio};
pub(super) use error::RunError;
pub(super) use session::{become_unreadable, raise_descriptor_limit, run as session};
pub(super) use settings::Settings;

use super::{Exit, tell};
use crate::resolve::Override;

/// Options of `exeat run`.
#[derive(Debug, clap::Args)]
pub struct RunArguments {
    /// Judge by this policy; `preset:NAME` names one that is built in.
    #[arg(long, value_name = "FILE")]
    policy: Option<String>,
    /// Allow all or nothing, instead of a policy or any of the lists.
    #[arg(long, value_name = "MODE", value_parser = ["allow-all", "deny-all"])]
    mode: Option<String>,
    /// Allow a domain, such as api.github.com or *.example.com.
    #[arg(long, value_name = "DOMAIN")]
    allow: Vec<String>,
    /// Allow addresses, whatever name is used; a private range only like this.
    #[arg(long, value_name = "CIDR")]
    allow_cidr: Vec<String>,
    /// Deny addresses, whatever else is allowed.
    #[arg(long, value_name = "CIDR")]
    deny_cidr: Vec<String>,
    /// Dial ADDR (and the other PORT, if given) for NAME at PORT; answer NAME with ADDR.
    #[arg(long, value_name = "NAME:PORT:ADDR[:PORT]")]
    resolve: Vec<Override>,
    /// Trust these certificates, too, for upstreams named by --resolve.
    #[arg(long, value_name = "FILE")]
    upstream_ca: Vec<PathBuf>,
    /// Take addresses out of the protected ranges: loopback, link-local, the host's own.
    #[arg(long, value_name = "CIDR")]
    allow_protected: Vec<ipnet::IpNet>,
    /// Keep a Unix socket, or a directory of /run, reachable inside.
    #[arg(long, value_name = "PATH")]
    share: Vec<PathBuf>,
    /// Keep a well-known credential file or directory readable inside (`exeat doctor` lists them).
    #[arg(long, value_name = "PATH")]
    expose: Vec<PathBuf>,
    /// Record what would be denied by name or CIDR, and let it through.
    #[arg(long)]
    observe: bool,
    /// Write the audit record, one JSON object a line, to FILE; `-` is standard output, where the command writes, too.
    #[arg(long, value_name = "FILE|-")]
    audit: Option<PathBuf>,
    /// No summary at the end.
    #[arg(long)]
    quiet: bool,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs the verb.
#[must_use]
pub fn run(mut arguments: RunArguments) -> Exit {
    let command = std::mem::take(&mut arguments.command);
    match try_run(arguments, command) {
        Ok(exit) => exit,
        Err(error) => error.report(),
    }
}

fn try_run(arguments: RunArguments, command: Vec<OsString>) -> Result<Exit, RunError> {
    become_unreadable()?;
    let quiet = arguments.quiet;
    let audit = arguments.audit.clone();
    let settings = Settings::from_arguments(arguments)?;
    if !quiet && !settings.advice.is_empty() {
        tell(&format!("{}\n", settings.advice.to_string().trim_end()));
    }
    let report = session::Report::open(audit.as_deref())?;
    let exit = session(settings, command, report.sink());
    report.close()?;
    if !quiet {
        tell(&report.summary());
    }
    exit
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
    launch::Launching::start(plan, &[], &[])?.finish().map(launch::Launched::end)
}
