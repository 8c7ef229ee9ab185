//! `exeat diff`: what changes from one policy to another, in sentences.
//!
//! What opens comes first, then what closes, then what is otherwise done; each with a question that the two policies
//! answer differently, which `exeat explain` takes. Ends with 0 whether they differ or not, as `git diff` does; with
//! `--exit-code`, and if something opens, with 4.

use serde::Serialize;

use super::{Coloring, Exit, FAULTS, USAGE, compile, json, plural, print};
use crate::policy::diagnostic::{Ink, Style};
use crate::policy::diff::{About, Change, Changes, Direction};
use crate::policy::{self, Compiled};

/// Something is allowed that was not; with `--exit-code` alone.
const OPENS: Exit = Exit::Code(4);

/// Options of `exeat diff`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ends with 0 whether they differ or not, 1 on faults, 2 if it was called wrongly; with --exit-code, \
                        and if something opens, with 4."
)]
pub struct DiffArguments {
    /// The policy as it was: a file or preset:NAME.
    #[arg(value_name = "OLD")]
    old: String,
    /// The policy as it is now: a file or preset:NAME.
    #[arg(value_name = "NEW")]
    new: String,
    /// How changes are written.
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    format: Format,
    /// End with 4 if something opens: becomes reachable, or gets a secret.
    #[arg(long)]
    exit_code: bool,
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
pub fn diff(arguments: &DiffArguments) -> Exit {
    let DiffArguments { old, new, format, exit_code, coloring } = arguments;
    let (old, new) = match (compile(old, *coloring), compile(new, *coloring)) {
        (Ok(Compiled { policy: old, .. }), Ok(Compiled { policy: new, .. })) => (old, new),
        (Err(USAGE), _) | (_, Err(USAGE)) => return USAGE,
        _ => return FAULTS,
    };
    let changes = policy::diff(&old, &new);
    let text = match format {
        Format::Human => human(&changes, coloring.of_stdout()),
        Format::Json => json(&Report::of(&changes)),
    };
    let opens = *exit_code && !changes.towards(Direction::Opens).is_empty();
    print(&text, if opens { OPENS } else { Exit::Success })
}

fn human(changes: &Changes, style: Style) -> String {
    if changes.is_empty() {
        return "no difference\n".to_owned();
    }
    let mut text = String::new();
    let mut counts: Vec<String> = Vec::new();
    for direction in Direction::ALL {
        let (heading, sign, ink) = match direction {
            Direction::Opens => ("opens", "+", Ink::Doubtful),
            Direction::Closes => ("closes", "-", Ink::Good),
            Direction::Changes => ("changes", "~", Ink::Frame),
        };
        let (told, beyond) = (changes.towards(direction), changes.beyond(direction));
        if told.is_empty() {
            continue;
        }
        text.push_str(&format!("{}\n", style.paint(ink, heading)));
        for Change { sentence, example, .. } in told {
            text.push_str(&format!("  {} {sentence}\n", style.paint(ink, sign)));
            if let Some(example) = example {
                text.push_str(&format!("      {}\n", style.paint(Ink::Frame, example)));
            }
        }
        if beyond > 0 {
            text.push_str(&format!("  {} and {beyond} more\n", style.paint(ink, sign)));
        }
        counts.push(format!("{} {heading}", told.len().saturating_add(beyond)));
    }
    let all = Direction::ALL.into_iter().map(|direction| count(changes, direction)).sum();
    text.push_str(&format!("{}: {}\n", plural(all, "difference"), counts.join(", ")));
    text
}

fn count(changes: &Changes, direction: Direction) -> usize {
    changes.towards(direction).len().saturating_add(changes.beyond(direction))
}

/// What `--format json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// How many there are of each direction, those that are not listed among them.
    opens: usize,
    closes: usize,
    changes: usize,
    list: Vec<Row<'a>>,
}

/// One change. Absent fields are left out.
#[derive(Debug, Serialize)]
struct Row<'a> {
    direction: &'static str,
    /// `names`, `addresses`, `unnamed` or `setting`.
    about: &'static str,
    /// Of names; absent for names that no pattern matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<&'a str>,
    /// Of addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<String>,
    /// A key of the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    setting: Option<&'static str>,
    sentence: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    example: Option<&'a str>,
    /// `FILE:LINE` of the old policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<String>,
    /// `FILE:LINE` of the new policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<String>,
}

impl<'a> Report<'a> {
    fn of(changes: &'a Changes) -> Self {
        let list = Direction::ALL.into_iter().flat_map(|direction| changes.towards(direction)).map(Row::of).collect();
        let count = |direction| count(changes, direction);
        let (opens, closes) = (count(Direction::Opens), count(Direction::Closes));
        Self { opens, closes, changes: count(Direction::Changes), list }
    }
}

impl<'a> Row<'a> {
    fn of(change: &'a Change) -> Self {
        let Change { about, direction, sentence, example, old, new } = change;
        let (kind, pattern, ranges, setting) = match about {
            About::Names(pattern) => ("names", pattern.as_ref().map(|pattern| pattern.as_str()), Vec::new(), None),
            About::Addresses(ranges) => ("addresses", None, ranges.iter().map(ToString::to_string).collect(), None),
            About::Unnamed => ("unnamed", None, Vec::new(), None),
            About::Setting(key) => ("setting", None, Vec::new(), Some(*key)),
        };
        Self {
            direction: direction.as_str(),
            about: kind,
            pattern,
            ranges,
            setting,
            sentence,
            example: example.as_deref(),
            old: old.as_ref().map(ToString::to_string),
            new: new.as_ref().map(ToString::to_string),
        }
    }
}
