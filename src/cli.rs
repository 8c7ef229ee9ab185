//! Verbs, shared options, exit codes.

mod certificates;
mod channel;
mod completion;
pub mod ctl;
mod data_path;
mod demo;
mod dial;
mod doctor;
mod host;
pub mod policy;
mod proxy;
pub mod run;
pub mod serve;
mod world;

use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;

use crate::sys;

/// exeat's own failure (as `env`, `timeout` and container engines have it): not the command's.
const FAILED: u8 = 125;
/// The command was found and could not be executed.
const NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
const NOT_FOUND: u8 = 127;
/// The command line itself is wrong, for verbs whose code is not a command's.
const USAGE: u8 = 2;

/// An egress firewall and credential broker for untrusted programs.
#[derive(Debug, Parser)]
#[command(name = "exeat", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a command that reaches what the policy allows, and nothing else.
    Run(Box<run::RunArguments>),
    /// Keep many sandboxes, as a control plane says.
    Serve(serve::ServeArguments),
    /// Ask a daemon, and tell it what to do: sandboxes, their policies, their flows. Ends with 0, or 1 if the daemon
    /// refuses, 2 on wrong usage, 3 if `policy explain` says that it is denied, 125 if no daemon could be asked.
    Ctl(Box<ctl::CtlArguments>),
    /// See it work: six requests in real sandboxes, with no Internet and without root.
    Demo,
    /// See whether sandboxes can be made here, and what would mend it.
    Doctor,
    /// Find everything that is wrong with policies.
    Check(policy::CheckArguments),
    /// Run the tests that policies carry.
    Test(policy::TestArguments),
    /// Say why a policy allows or denies a request or a connection, question by question. Ends with 0 if it is
    /// allowed, 3 if denied, 1 on a fault of the policy, 2 on wrong usage.
    Explain(policy::ExplainArguments),
    /// Print the JSON Schema of a policy file.
    Schema,
    /// Print what makes a shell complete exeat's verbs and options.
    Completion(completion::CompletionArguments),
    /// Say what becomes reachable from one policy to another, and what no longer is.
    Diff(policy::DiffArguments),
}

/// How a verb ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// As it should.
    Success,
    /// exeat failed, and has said why.
    Failed,
    /// The command could not be executed, and exeat has said why.
    NotExecutable,
    /// The command was not found.
    NotFound,
    /// The command ended with this code.
    Code(u8),
    /// The command was ended by this signal.
    Signal(i32),
}

/// What is told, once, where memory for secrets could not be locked.
const UNLOCKED: &str = "exeat: memory that secrets are in cannot be locked, so it may be written to swap; \
                        raise the limit of locked memory (LimitMEMLOCK= in a unit, `ulimit -l` in a shell)\n";

/// How long a stream may be full before what is told there is given up, in milliseconds.
const FULL: u16 = 2_000;

/// Tells the user something on standard error. What cannot be told is not worth a failure.
fn tell(text: &str) {
    let _ = write_whole(io::stderr().lock(), text);
}

/// Tells the user something on standard output. What cannot be told is not worth a failure.
fn say(text: &str) {
    let _ = write_whole(io::stdout().lock(), text);
}

/// An error and its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Writes to a stream that a command may share, and may have filled, closed or made non-blocking.
fn write_whole(mut stream: impl Write + AsFd, text: &str) -> io::Result<()> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(written) if written > 0 => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut room = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
                if !poll(&mut room, FULL).is_ok_and(|ready| ready > 0) {
                    return Err(error);
                }
            }
            Ok(_) => return Err(ErrorKind::WriteZero.into()),
            Err(error) => return Err(error),
        }
    }
    // A line that does not reach its end stands in the buffer until now.
    stream.flush()
}

/// Parses the command line and runs its verb.
#[must_use]
pub fn main() -> ExitCode {
    let exit = match Arguments::try_parse() {
        Ok(arguments) => match arguments.verb {
            Verb::Run(arguments) => run::run(*arguments),
            Verb::Serve(arguments) => serve::serve(&arguments),
            Verb::Ctl(arguments) => ctl::ctl(&arguments),
            Verb::Demo => demo::demo(),
            Verb::Doctor => doctor::doctor(),
            Verb::Check(arguments) => policy::check(&arguments),
            Verb::Test(arguments) => policy::test(&arguments),
            Verb::Explain(arguments) => policy::explain(&arguments),
            Verb::Schema => policy::schema(),
            Verb::Completion(arguments) => completion::completion(&arguments),
            Verb::Diff(arguments) => policy::diff(&arguments),
        },
        Err(error) => {
            let failed = error.use_stderr();
            // If standard error is gone, the exit code still says it.
            let _ = error.print();
            let runs = std::env::args_os().nth(1).is_some_and(|verb| verb == "run");
            return ExitCode::from(match (failed, runs) {
                (false, _) => 0,
                (true, true) => FAILED,
                (true, false) => USAGE,
            });
        }
    };
    ExitCode::from(match exit {
        Exit::Success => 0,
        Exit::Failed => FAILED,
        Exit::NotExecutable => NOT_EXECUTABLE,
        Exit::NotFound => NOT_FOUND,
        Exit::Code(code) => code,
        Exit::Signal(number) => {
            if let Ok(signal) = Signal::try_from(number) {
                sys::die_by(signal);
            }
            u8::try_from(128 + number).unwrap_or(FAILED)
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        // An option of `ctl` holds for all its verbs, so none of these has another of that name.
        let mut command = Arguments::command();
        command.build();
        let mut open: Vec<&clap::Command> = command.get_subcommands().collect();
        while let Some(verb) = open.pop() {
            let names: Vec<_> = verb.get_arguments().filter_map(clap::Arg::get_long).collect();
            let once: std::collections::BTreeSet<_> = names.iter().collect();
            assert_eq!(once.len(), names.len(), "{}: {names:?}", verb.get_name());
            open.extend(verb.get_subcommands());
        }
    }
}
