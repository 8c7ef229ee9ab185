//! `exeat explain`: what a policy says of one request or connection, question by question.
//!
//! It judges what it is given as it is given, on a host without addresses of its own. No name is resolved and no secret
//! read; the value of a header that is given takes part in matching, and is never printed.

use std::net::IpAddr;

use super::{Coloring, DENIED, Exit, USAGE, compile, json, print};
use crate::cli::tell;
use crate::policy::Protected;
use crate::policy::diagnostic::{Ink, Style, harmless};
use crate::policy::explain::{Answer, Explanation, Row, Step};
use crate::policy::judge::{Facts, Question, QuestionError};

/// Options of `exeat explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainArguments {
    /// The policy: a file, or preset:NAME.
    #[arg(long, value_name = "FILE")]
    policy: String,
    /// The method of a request; GET if nothing is said.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// A header of a request, as `name: value`; may be repeated.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// What the name resolves to: it is then judged, too.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<IpAddr>,
    /// How the answer is written.
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    format: Format,
    #[command(flatten)]
    coloring: Coloring,
    /// A request (`https://example.com/path`), another protocol by name (example.com:22), or an address
    /// (`10.1.2.3:5432`, `[2001:db8::2]:443`).
    #[arg(value_name = "URL|HOST:PORT")]
    target: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[value(alias = "text")]
    Human,
    Json,
}

/// Runs the verb.
#[must_use]
pub fn explain(arguments: &ExplainArguments) -> Exit {
    let question = match question(arguments) {
        Ok(question) => question,
        Err(message) => {
            tell(&format!("exeat: {message}\n"));
            return USAGE;
        }
    };
    let compiled = match compile(&arguments.policy, arguments.coloring) {
        Ok(compiled) => compiled,
        Err(exit) => return exit,
    };
    let explanation = compiled.policy.explain(&question, &Protected::new([]));
    let text = match arguments.format {
        Format::Human => human(&question, &explanation, arguments.coloring.of_stdout()),
        Format::Json => json(&explanation),
    };
    print(&text, if explanation.facts.reason().is_some() { DENIED } else { Exit::Success })
}

/// What the arguments ask, or why they ask nothing: never with the value of a header.
fn question(arguments: &ExplainArguments) -> Result<Question, String> {
    let ExplainArguments { method, headers, address, target, .. } = arguments;
    let refused = |what: &str, fault: QuestionError| {
        let help = fault.help().map(|help| format!(" ({help})")).unwrap_or_default();
        format!("{}: {fault}{help}", harmless(what))
    };
    let mut question = Question::target(method.as_deref(), target).map_err(|fault| match fault {
        QuestionError::Method | QuestionError::Connect => refused("--method", fault),
        _ => refused(target, fault),
    })?;
    for header in headers {
        let (name, value) = header.split_once(':').ok_or("--header: write it as `name: value`")?;
        question = question.header(name.trim(), value.trim()).map_err(|fault| refused("--header", fault))?;
    }
    match address {
        Some(address) => question.resolved_to(*address).map_err(|fault| refused("--address", fault)),
        None => Ok(question),
    }
}

fn human(question: &Question, explanation: &Explanation, style: Style) -> String {
    let Explanation { facts, steps, remedies: _ } = explanation;
    let mut text = format!("{}\n\n", style.paint(Ink::Strong, &harmless(&question.to_string())));
    let width = steps.iter().map(|step| step.row.to_string().len()).max().unwrap_or_default();
    for step in steps {
        text.push_str(&shown(step, width, style));
    }
    text.push_str(&format!("\n{}\n", verdict(facts, style)));
    let injected = (!facts.injected.is_empty()).then(|| facts.injected.join(", "));
    let skipped = |step: &Step| step.row == Row::Table(1) && step.answer == Answer::NotAsked;
    let unjudged = facts.address.is_none() && steps.iter().any(skipped);
    let status = facts.status.map(|status| status.as_u16().to_string());
    let fields = [
        ("injected", injected),
        ("status", status),
        ("address", unjudged.then(|| "not known, so not judged; --address says it".to_owned())),
        ("revision", Some(facts.basis.revision.to_string())),
        ("to allow it", explanation.hint()),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            text.push_str(&format!("  {} {}\n", style.paint(Ink::Frame, &format!("{name}:")), harmless(&value)));
        }
    }
    text
}

/// `allow: terminate, by FILE:LINE`.
fn verdict(facts: &Facts, style: Style) -> String {
    let (ink, outcome) = match (facts.outcome, facts.observed) {
        (Ok(route), None) => (Ink::Good, format!("allow: {}", route.as_str())),
        (Ok(route), Some(reason)) => (Ink::Doubtful, format!("deny: {reason}, only observed: {}", route.as_str())),
        (Err(reason), _) => (Ink::Bad, format!("deny: {reason}")),
    };
    let rule = facts.basis.rule.as_ref().map(|rule| format!(", by {rule}")).unwrap_or_default();
    format!("{}{}", style.paint(ink, &outcome), harmless(&rule))
}

/// A step in one line, and why it was answered so in another.
fn shown(step: &Step, width: usize, style: Style) -> String {
    let Step { row, question, answer, rule, note, settles } = step;
    let word = format!("{:<9}", answer.as_str());
    let answered = match (answer, settles.as_ref().map(|settles| (settles.outcome, settles.observed))) {
        (Answer::NotAsked, _) => word,
        (_, None) => style.paint(Ink::Strong, &word),
        (_, Some((Ok(_), None))) => style.paint(Ink::Good, &word),
        (_, Some((Ok(_), Some(_)))) => style.paint(Ink::Doubtful, &word),
        (_, Some((Err(_), _))) => style.paint(Ink::Bad, &word),
    };
    let mut text = format!("{:>width$}  {answered}  {}", row.to_string(), harmless(question));
    let place = rule.as_ref().map(|rule| style.paint(Ink::Frame, &harmless(&rule.to_string())));
    let why: Vec<String> = [place, note.as_deref().map(harmless)].into_iter().flatten().collect();
    match answer {
        _ if why.is_empty() => {}
        Answer::NotAsked => text.push_str(&format!(" ({})", why.join("  "))),
        Answer::Yes | Answer::No => {
            let indent = width + 13;
            text.push_str(&format!("\n{:indent$}{}", "", why.join("  ")));
        }
    }
    text.push('\n');
    text
}
