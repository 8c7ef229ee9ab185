//! `exeat check`: every fault of every file, in one run.
//!
//! What is found goes to standard output: for people with the source line underlined and a summary at the end, as
//! JSON, or as SARIF (`sarif`). What is wrong with the command line goes to standard error.

mod sarif;

use std::collections::HashSet;
use std::path::PathBuf;

use super::files::{Disk, Document, DocumentError};
use super::operands::documents;
use super::{Coloring, Exit, FAULTS, USAGE, json, plural, print, terms};
use crate::cli::tell;
use crate::policy::diagnostic::{Code, Diagnostic, Diagnostics, Ink, Severity, Style, harmless};
use crate::policy::{Flags, Policy};

/// Options of `exeat check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Ends with 0 if nothing is wrong, 1 on faults, 2 if it was called wrongly.")]
pub struct CheckArguments {
    /// Policies; folders, whose *.yaml, *.yml and *.json are taken; preset:NAME.
    #[arg(required_unless_present = "explain", value_name = "FILE|DIR")]
    operands: Vec<PathBuf>,
    /// How findings are written; sarif is version 2.1.0.
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    format: Format,
    /// End with 1 on warnings, too.
    #[arg(long)]
    strict: bool,
    /// Say what a code, such as unknown-key, means.
    #[arg(long, value_name = "CODE", conflicts_with_all = ["operands", "format", "strict"])]
    explain: Option<String>,
    #[command(flatten)]
    coloring: Coloring,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Human,
    Json,
    Sarif,
}

/// Runs the verb.
#[must_use]
pub fn check(arguments: &CheckArguments) -> Exit {
    if let Some(code) = &arguments.explain {
        return explain(code);
    }
    let report = match documents(&arguments.operands) {
        Ok(documents) => Report::of(documents),
        Err(message) => {
            tell(&format!("exeat: {message}\n"));
            return USAGE;
        }
    };
    let text = match arguments.format {
        Format::Human => report.human(arguments.coloring.of_stdout()),
        Format::Json => json(&report.findings),
        Format::Sarif => json(&sarif::log(&report.findings, std::env::current_dir().ok().as_deref())),
    };
    let faulty = report.errors > 0 || (arguments.strict && report.warnings > 0);
    print(&text, if faulty { FAULTS } else { Exit::Success })
}

fn explain(name: &str) -> Exit {
    let Some(code) = Code::named(name) else {
        let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        tell(&format!("exeat: there is no code `{}`; there are: {}\n", harmless(name), codes.join(", ")));
        return USAGE;
    };
    let level = code.severity().as_str();
    print(&format!("{level}[{}]: {}\n", code.as_str(), code.explanation()), Exit::Success)
}

/// What was found in all files.
#[derive(Debug, Default)]
struct Report {
    /// Each once, also where several files extend the one that has it.
    findings: Vec<Diagnostic>,
    told: HashSet<Diagnostic>,
    /// Files looked at.
    files: usize,
    errors: usize,
    warnings: usize,
}

impl Report {
    fn of(documents: impl Iterator<Item = Result<Document, DocumentError>>) -> Self {
        let mut report = Self::default();
        for document in documents {
            report.files += 1;
            match document {
                Ok(document) => report.check(&document),
                Err(error) => report.take(error.diagnostics()),
            }
        }
        report
    }

    fn check(&mut self, document: &Document) {
        let disk = Disk::default();
        let source = document.source();
        match Policy::compile(Some(source), &Flags::default(), &terms(&disk)) {
            Ok(compiled) => {
                self.warnings += compiled.advice.beyond();
                self.take(compiled.advice.in_file(source.path));
            }
            Err(faults) => {
                let beyond = faults.beyond();
                self.take(faults.in_file(source.path));
                self.errors += beyond;
                if beyond > 0 {
                    let message = format!("{} of this file not shown", plural(beyond, "more fault"));
                    self.findings.extend(Diagnostics::of_file(source.path, Code::Limit, message, None));
                }
            }
        }
    }

    fn take(&mut self, found: Diagnostics) {
        for finding in found {
            if self.told.insert(finding.clone()) {
                match finding.severity() {
                    Severity::Error => self.errors += 1,
                    Severity::Warning => self.warnings += 1,
                }
                self.findings.push(finding);
            }
        }
    }

    fn human(&self, style: Style) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            text.push_str(&format!("{}\n", finding.styled(style)));
        }
        text.push_str(&format!("{}: {}\n", plural(self.files, "file"), self.summary(style)));
        text
    }

    fn summary(&self, style: Style) -> String {
        let kinds = [(self.errors, "error", Ink::Bad), (self.warnings, "warning", Ink::Doubtful)];
        let counted = kinds.into_iter().filter(|(count, ..)| *count > 0);
        let counts: Vec<String> = counted.map(|(count, kind, ink)| style.paint(ink, &plural(count, kind))).collect();
        if counts.is_empty() { style.paint(Ink::Good, "clean") } else { counts.join(", ") }
    }
}
