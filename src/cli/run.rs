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

use super::{Exit, UNLOCKED, tell};
use crate::config::ClientCertificate;
use crate::intercept::upstream::proxy::ProxyUrl;
use crate::limits;
use crate::policy::diagnostic::{Code, Diagnostic};
use crate::resolve::{NameServer, Override};
use crate::secret;

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
    /// Ask this resolver, over TLS if it has a name, in place of those of the host; may be repeated.
    #[arg(long = "resolver", value_name = "ADDRESS[#NAME]")]
    resolvers: Vec<NameServer>,
    /// Reach upstreams through this proxy: http://HOST:PORT (CONNECT) or socks5://HOST:PORT.
    #[arg(long, value_name = "URL")]
    upstream_proxy: Option<ProxyUrl>,
    /// Show the proxy the USER:PASSWORD in this file.
    #[arg(long, value_name = "FILE", requires = "upstream_proxy")]
    upstream_proxy_credentials: Option<PathBuf>,
    /// Reach these addresses without the proxy; may be repeated.
    #[arg(long, value_name = "CIDR", requires = "upstream_proxy")]
    direct: Vec<ipnet::IpNet>,
    /// Show origins of this name a certificate that lies, with its key, in these files; may be repeated.
    #[arg(long, value_name = "NAME:CERTIFICATE:KEY")]
    client_certificate: Vec<ClientCertificate>,
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
    if !quiet {
        tell(&brief(&settings));
        if secret::unlocked() > 0 {
            tell(UNLOCKED);
        }
    }
    let report = session::Report::open(audit.as_deref())?;
    let exit = session(settings, command, report.sink());
    report.close()?;
    if !quiet {
        tell(&report.summary());
    }
    exit
}

/// What is legal in a policy and surely not meant, a line each; `exeat check` says what to write instead.
fn brief(settings: &Settings) -> String {
    let Settings { advice, allow_protected, .. } = settings;
    // What is said there of a file alone does not hold for what the command line opens.
    let is_met = |advice: &&Diagnostic| advice.code != Code::ProtectedAllow || allow_protected.is_empty();
    let line = |advice: &Diagnostic| {
        let place = advice.place.as_ref().map_or_else(String::new, |place| format!("{}:{}: ", place.path, place.line));
        format!("exeat: {place}{} [{}]\n", advice.message, advice.code.as_str())
    };
    let mut lines: String = advice.iter().filter(is_met).take(limits::RUN_ADVICE).map(line).collect();
    let all = advice.iter().filter(is_met).count() + advice.beyond();
    if all > limits::RUN_ADVICE {
        let more = all - limits::RUN_ADVICE;
        lines.push_str(&format!("exeat: and {more} more: `exeat check` tells all, and what to write instead\n"));
    }
    lines
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::world::Host;
    use crate::policy::Flags;

    fn told(allow: &[&str], allow_cidr: &[&str], opened: &[&str]) -> String {
        let list = |items: &[&str]| items.iter().map(ToString::to_string).collect();
        let flags = Flags { allow: list(allow), allow_cidr: list(allow_cidr), ..Flags::default() };
        let Ok(mut settings) = Settings::of_policy(None, &flags, &Host::default()) else { panic!("no settings") };
        settings.allow_protected = opened.iter().map(|range| range.parse().unwrap()).collect();
        brief(&settings)
    }

    /// `limits::RUN_ADVICE`
    #[test]
    fn a_few_lines_say_what_is_surely_not_meant() {
        assert_eq!(told(&["a.example.com"], &[], &[]), "");
        let all = ["*.com", "*.org", "*.net", "*.dev", "*.app", "*.io", "*.ai"];
        let few = told(&all[..limits::RUN_ADVICE], &[], &[]);
        assert_eq!(few.lines().count(), limits::RUN_ADVICE);
        let line =
            "exeat: `*.com` allows every name below `com`, and anybody can have one there [top-level-wildcard]\n";
        assert!(few.starts_with(line), "{few}");
        let more = told(&all, &[], &[]);
        assert!(more.starts_with(&few), "{more}");
        assert_eq!(more.lines().last(), Some("exeat: and 2 more: `exeat check` tells all, and what to write instead"));
        let metadata = "169.254.169.254/32";
        assert!(told(&[], &[metadata], &[]).contains("[protected-allow]"));
        assert_eq!(told(&[], &[metadata], &[metadata]), "", "the operator opens it");
    }
}
