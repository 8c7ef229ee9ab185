//! `exeat completion`: what makes a shell complete the command line.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{Arguments, Exit, policy};

/// Options of `exeat completion`.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionArguments {
    /// For which shell: `source <(exeat completion bash)` in its profile, or a file in its folder of completions.
    shell: Shell,
}

/// Runs the verb.
#[must_use]
pub(super) fn completion(arguments: &CompletionArguments) -> Exit {
    let mut script = Vec::new();
    generate(arguments.shell, &mut Arguments::command(), "exeat", &mut script);
    policy::print(&String::from_utf8_lossy(&script), Exit::Success)
}
