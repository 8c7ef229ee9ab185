//! `exeat test`: the cases that policies carry in `tests:`, run.
//!
//! A case is judged as `cases` judges it: nothing is resolved, nobody contacted, and the host is one without addresses
//! of its own. A file that makes no policy has failed; one without cases has not, and is said to have none.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files::{Disk, Document, DocumentError};
use super::operands::documents;
use super::{Coloring, Exit, FAULTS, USAGE, json, print, terms};
use crate::cli::tell;
use crate::policy::cases::{self, Failure, Outcome};
use crate::policy::diagnostic::{Diagnostic, Diagnostics, Ink, Style, discreet};
use crate::policy::{Flags, Policy, Protected};

/// Where policies are looked for if nothing is said.
const FOLDER: &str = "policies";

/// Options of `exeat test`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The last line is `N passed, N failed`; a file that does not compile has failed. \
                        Ends with 0 if nothing has, 1 if something has, 2 if it was called wrongly.")]
pub struct TestArguments {
    /// Policies; folders, whose *.yaml, *.yml and *.json are taken; preset:NAME. Without any, the folder `policies` if
    /// there is one here, else this folder.
    #[arg(value_name = "FILE|DIR")]
    operands: Vec<PathBuf>,
    /// How outcomes are written.
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    format: Format,
    #[command(flatten)]
    coloring: Coloring,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Human,
    Json,
}

/// Runs the verb.
#[must_use]
pub fn test(arguments: &TestArguments) -> Exit {
    let here = if Path::new(FOLDER).is_dir() { FOLDER } else { "." };
    let default = [PathBuf::from(here)];
    let operands = if arguments.operands.is_empty() { default.as_slice() } else { &arguments.operands };
    let report = match documents(operands) {
        Ok(documents) => Report::of(documents),
        Err(message) => {
            tell(&format!("exeat: {message}\n"));
            return USAGE;
        }
    };
    let text = match arguments.format {
        Format::Human => report.human(arguments.coloring.of_stdout()),
        Format::Json => json(&report),
    };
    print(&text, if report.failed > 0 { FAULTS } else { Exit::Success })
}

/// What came of all files.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Cases that hold.
    passed: usize,
    /// Cases that do not, and files that make no policy.
    failed: usize,
    files: Vec<Tested>,
}

/// What came of one file.
#[derive(Debug, Serialize)]
struct Tested {
    file: String,
    /// Why it makes no policy; empty if it does.
    faults: Vec<Diagnostic>,
    cases: Vec<Outcome>,
}

impl Report {
    fn of(documents: impl Iterator<Item = Result<Document, DocumentError>>) -> Self {
        let mut report = Self::default();
        for document in documents {
            let tested = match document {
                Ok(document) => Tested::of(&document),
                Err(error) => Tested::faulty(&error.path(), error.diagnostics()),
            };
            report.passed += tested.passed();
            report.failed += tested.failed();
            report.files.push(tested);
        }
        report
    }

    fn human(&self, style: Style) -> String {
        let mut text = String::new();
        for tested in &self.files {
            text.push_str(&tested.human(style));
        }
        // Plain, for whoever reads it by machine.
        text.push_str(&format!("{} passed, {} failed\n", self.passed, self.failed));
        text
    }
}

impl Tested {
    fn of(document: &Document) -> Self {
        let disk = Disk::default();
        let source = document.source();
        let compiled = match Policy::compile(Some(source), &Flags::default(), &terms(&disk)) {
            Ok(compiled) => compiled,
            Err(faults) => return Self::faulty(source.path, faults),
        };
        let cases = cases::run(&compiled.policy, &compiled.cases, &Protected::new([]));
        Self { file: source.path.to_owned(), faults: Vec::new(), cases: cases.into_iter().map(shown).collect() }
    }

    fn faulty(file: &str, faults: Diagnostics) -> Self {
        Self { file: file.to_owned(), faults: faults.in_file(file).into_iter().collect(), cases: Vec::new() }
    }

    fn passed(&self) -> usize {
        self.cases.iter().filter(|case| case.passed()).count()
    }

    fn failed(&self) -> usize {
        self.cases.len() - self.passed() + usize::from(!self.faults.is_empty())
    }

    fn human(&self, style: Style) -> String {
        let (passed, failed) = (self.passed(), self.failed());
        let bad = |text: &str| style.paint(Ink::Bad, text);
        let outcome = match (passed, failed) {
            _ if !self.faults.is_empty() => bad("does not compile"),
            (0, 0) => "no tests".to_owned(),
            (_, 0) => format!("{passed} passed"),
            _ => format!("{passed} passed, {}", bad(&format!("{failed} failed"))),
        };
        let mut text = format!("{}: {outcome}\n", self.file);
        for fault in &self.faults {
            text.push_str(&format!("{}\n", fault.styled(style)));
        }
        for case in self.cases.iter().filter(|case| !case.passed()) {
            let Outcome { place, input, failures } = case;
            text.push_str(&format!("{} {} ({place})\n", bad("FAILED"), input));
            for Failure { field, expected, got } in failures {
                let got = if got.is_empty() { "nothing" } else { got };
                text.push_str(&format!("  {field}: expected {expected}, got {got}\n"));
            }
        }
        text
    }
}

/// An outcome as it may be shown: a request may hold a credential.
fn shown(Outcome { place, input, failures }: Outcome) -> Outcome {
    let failure =
        |Failure { field, expected, got }| Failure { field, expected: discreet(&expected), got: discreet(&got) };
    Outcome { place, input: discreet(&input), failures: failures.into_iter().map(failure).collect() }
}
