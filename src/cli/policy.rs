//! The verbs about policies: files in, text out.
//!
//! `check` reports every fault of files, `test` runs the cases that they carry, `explain` says why a policy
//! allows or denies what it is asked, `diff` what changes from one to another. Here stands what the verbs share: how
//! documents are found (`operands`) and read (`files`), exit codes, colour, and writing what they have to say.
//!
//! None of them makes a sandbox, opens a connection, resolves a name or reads a secret.

mod check;
mod diff;
mod explain;
mod files;
mod operands;
mod schema;
mod test;

use std::io::{ErrorKind, IsTerminal, stderr, stdout};

pub use check::{CheckArguments, check};
pub use diff::{DiffArguments, diff};
pub use explain::{ExplainArguments, explain};
pub(in crate::cli) use files::{Disk, Document, DocumentError};
pub use schema::schema;
pub use test::{TestArguments, test};

use super::{Exit, tell, write_whole};
use crate::policy::diagnostic::Style;
use crate::policy::{Compiled, Flags, Policy, Terms};

/// A fault in a policy, or an expectation that does not hold.
pub const FAULTS: Exit = Exit::Code(1);
/// The command line is wrong: the verb was not told what to look at.
pub const USAGE: Exit = Exit::Code(super::USAGE);
/// Judged, and denied.
pub const DENIED: Exit = Exit::Code(3);

/// `--color`, of every verb about policies.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Coloring {
    /// Color the report; `auto` does on a terminal, unless NO_COLOR is set.
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: When,
}

/// When to color.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum When {
    #[default]
    Auto,
    Always,
    Never,
}

impl Coloring {
    /// The style of what goes to standard output.
    #[must_use]
    pub fn of_stdout(self) -> Style {
        self.style(stdout().is_terminal(), |variable| std::env::var_os(variable))
    }

    /// The style of what goes to standard error.
    #[must_use]
    pub fn of_stderr(self) -> Style {
        self.style(stderr().is_terminal(), |variable| std::env::var_os(variable))
    }

    fn style(self, terminal: bool, environment: impl Fn(&str) -> Option<std::ffi::OsString>) -> Style {
        // https://no-color.org: set, and not empty.
        let refused = environment("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = environment("TERM").is_some_and(|value| value == "dumb");
        match self.color {
            When::Always => Style::Colored,
            When::Auto if terminal && !refused && !dumb => Style::Colored,
            When::Auto | When::Never => Style::Plain,
        }
    }
}

/// On what terms these verbs take a policy: as a file of the operator's, on a host that can do all that it asks for.
pub(in crate::cli) fn terms(disk: &Disk) -> Terms<'_> {
    Terms { files: Some(disk), ..Terms::default() }
}

/// Reads and compiles what `FILE` or `preset:NAME` names. What is wrong has been told on standard error.
///
/// # Errors
/// How the verb ends: [`USAGE`] if there is no such document, [`FAULTS`] if it makes no policy.
pub fn compile(named: &str, coloring: Coloring) -> Result<Compiled, Exit> {
    let document = Document::named(named).map_err(|error| {
        tell(&format!("exeat: {}\n", super::chain(&error)));
        if error.is_usage() { USAGE } else { FAULTS }
    })?;
    let disk = Disk::default();
    Policy::compile(Some(document.source()), &Flags::default(), &terms(&disk)).map_err(|faults| {
        tell(&format!("{}", faults.styled(coloring.of_stderr())));
        FAULTS
    })
}

/// Writes what a verb has to say to standard output, and ends with `exit`. A reader that has gone away (`| head`) does
/// not change how the verb ends; a full disk does, for a report that is cut short is none.
pub fn print(text: &str, exit: Exit) -> Exit {
    match write_whole(stdout().lock(), text) {
        Ok(()) => exit,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit,
        Err(error) => {
            tell(&format!("exeat: cannot write to standard output: {error}\n"));
            Exit::Failed
        }
    }
}

/// Data as JSON, to be read by people, too.
pub(in crate::cli) fn json(data: &impl serde::Serialize) -> String {
    // What these verbs write has text for keys and no numbers but whole ones, so it can be written.
    let text = serde_json::to_string_pretty(data).unwrap_or_default();
    format!("{text}\n")
}

/// `1 file`, `2 files`.
pub(in crate::cli) fn plural(count: usize, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn color_is_for_terminals_that_want_it() {
        let none: &[(&str, &str)] = &[];
        for (color, terminal, environment, expected) in [
            (When::Auto, true, none, Style::Colored),
            (When::Auto, false, none, Style::Plain),
            (When::Auto, true, &[("NO_COLOR", "1")], Style::Plain),
            (When::Auto, true, &[("NO_COLOR", "")], Style::Colored),
            (When::Auto, true, &[("TERM", "dumb")], Style::Plain),
            (When::Auto, true, &[("TERM", "xterm")], Style::Colored),
            (When::Always, false, &[("NO_COLOR", "1"), ("TERM", "dumb")], Style::Colored),
            (When::Never, true, none, Style::Plain),
        ] {
            let value =
                |variable: &str| environment.iter().find(|(name, _)| *name == variable).map(|(_, value)| value.into());
            let found = Coloring { color }.style(terminal, value);
            assert_eq!(found, expected, "{color:?} {terminal} {environment:?}");
        }
    }
}
