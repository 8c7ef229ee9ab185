//! What is wrong with a policy: every fault, each with its code, place, message and help (HOUSE habit 7).
//!
//! A report is text ([`fmt::Display`], or [`Diagnostics::styled`] for a terminal) or data ([`Diagnostic`] is one JSON
//! object of seven fields, always all of them).
//!
//! `INVARIANT`: rendering shows of a source line its keys and the text at fault, the rest as `…`: a policy may hold
//! a credential where none belongs, and a report is pasted into issues. What is at fault inside a header value or a
//! secret's source is not shown either (`Fault::hidden`); nor is what looks like a credential, wherever it stands, or
//! could steer a terminal (`discreet`).

mod code;
mod discreet;
mod style;

use std::fmt;

use serde::Serialize;
use serde::ser::SerializeStruct;

use super::wire::{Document, Documents, Source, Span};
use crate::limits;
pub use code::{Code, Severity};
pub(super) use discreet::{carries_credentials, is_opaque};
pub use discreet::{discreet, harmless, looks_like_credential};
pub use style::{Ink, Style};

/// A fault that does not know its document yet.
#[derive(Debug)]
pub(super) struct Fault {
    code: Code,
    message: String,
    help: Option<String>,
    span: Option<Span>,
    hidden: bool,
}

impl Fault {
    /// A fault of no particular place.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None, span: None, hidden: false }
    }

    /// Says where it is, if it is in the document.
    pub(super) fn place(self, span: impl Into<Option<Span>>) -> Self {
        Self { span: span.into(), ..self }
    }

    /// Says what to do.
    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Says what to do, where that is known.
    pub(super) fn perhaps(self, help: Option<impl Into<String>>) -> Self {
        Self { help: help.map(Into::into), ..self }
    }

    /// Whether its place lies in `span`.
    pub(super) fn is_within(&self, span: Span) -> bool {
        self.span.is_some_and(|at| at.file == span.file && span.start <= at.start && at.end <= span.end)
    }

    /// Keeps the text at fault out of the report.
    pub(super) fn hidden(self) -> Self {
        Self { hidden: true, ..self }
    }
}

/// One fault, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    /// Its kind.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where that is known.
    pub help: Option<String>,
    /// Where; `None` for the command line, and for what no single place is to blame for.
    pub place: Option<Place>,
}

/// A place in a document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Of the document.
    pub path: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The line, with what may not be shown left out.
    excerpt: Option<Excerpt>,
}

/// A line as it may be shown, and where to underline it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Excerpt {
    text: String,
    /// Characters before the underlined ones.
    indent: usize,
    /// Characters underlined.
    width: usize,
}

/// All faults of one policy, in the order of the document; those of the command line come last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
    /// Faults beyond [`limits::POLICY_FAULTS`].
    beyond: usize,
}

impl Diagnostics {
    /// Faults of documents, and of the command line.
    pub(super) fn new(mut faults: Vec<Fault>, documents: &Documents<'_>) -> Self {
        faults.sort_by_key(|fault| (fault.span.is_none(), fault.span));
        let beyond = faults.len().saturating_sub(limits::POLICY_FAULTS);
        faults.truncate(limits::POLICY_FAULTS);
        let show = |fault: Fault| {
            let at = fault.span.and_then(|span| Some((documents.get(span.file)?, span)));
            let place = at.map(|(document, span)| place(document, span, fault.hidden));
            let (message, help) = (discreet(&fault.message), fault.help.as_deref().map(discreet));
            Diagnostic { code: fault.code, message, help, place }
        };
        Self { list: faults.into_iter().map(show).collect(), beyond }
    }

    /// A fault of a file as a whole, such as one that cannot be read.
    #[must_use]
    pub fn of_file(path: &str, code: Code, message: impl Into<String>, help: Option<String>) -> Self {
        let (documents, _) = Documents::load(Source { path, text: "" }, None);
        let fault = Fault::new(code, message).perhaps(help).place(Span::default());
        Self::new(vec![fault], &documents)
    }

    /// The faults.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many faults there are beyond those kept ([`limits::POLICY_FAULTS`]).
    #[must_use]
    pub fn beyond(&self) -> usize {
        self.beyond
    }

    /// The same, where what no single place is to blame for stands at the beginning of this file.
    #[must_use]
    pub fn in_file(mut self, path: &str) -> Self {
        for diagnostic in &mut self.list {
            let whole = || Place { path: path.to_owned(), line: 1, column: 1, excerpt: None };
            diagnostic.place.get_or_insert_with(whole);
        }
        self
    }

    /// As it is written in this style.
    pub fn styled(&self, style: Style) -> impl fmt::Display {
        Styled(self, style)
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

/// Something in a style.
struct Styled<'a, T>(&'a T, Style);

impl fmt::Display for Styled<'_, Diagnostic> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, self.1)
    }
}

impl fmt::Display for Styled<'_, Diagnostics> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Diagnostics { list, beyond }, style) = self;
        for (index, diagnostic) in list.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            diagnostic.write(f, *style)?;
        }
        if *beyond > 0 {
            write!(f, "\nand {beyond} more\n")?;
        }
        Ok(())
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.styled(Style::Plain).fmt(f)
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostic {
    /// How bad it is.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }

    /// As it is written in this style.
    pub fn styled(&self, style: Style) -> impl fmt::Display {
        Styled(self, style)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, style: Style) -> fmt::Result {
        let ink = match self.severity() {
            Severity::Error => Ink::Bad,
            Severity::Warning => Ink::Doubtful,
        };
        let frame = |text: &str| style.paint(Ink::Frame, text);
        let level = style.paint(ink, &format!("{}[{}]", self.severity().as_str(), self.code.as_str()));
        writeln!(f, "{level}{}", style.paint(Ink::Strong, &format!(": {}", self.message)))?;
        if let Some(place) = &self.place {
            let Place { path, line, column, excerpt } = place;
            writeln!(f, "  {} {path}:{line}:{column}", frame("-->"))?;
            if let Some(Excerpt { text, indent, width }) = excerpt {
                let number = line.to_string();
                let margin = " ".repeat(number.len());
                writeln!(f, "{} {text}", frame(&format!("{number} |")))?;
                let underline = style.paint(ink, &"^".repeat(*width));
                writeln!(f, "{} {}{underline}", frame(&format!("{margin} |")), " ".repeat(*indent))?;
            }
        }
        match &self.help {
            Some(help) => writeln!(f, "  {} {help}", frame("help:")),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, Style::Plain)
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Diagnostic", 7)?;
        fields.serialize_field("severity", self.severity().as_str())?;
        fields.serialize_field("code", self.code.as_str())?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("help", &self.help)?;
        fields.serialize_field("file", &self.place.as_ref().map(|place| &place.path))?;
        fields.serialize_field("line", &self.place.as_ref().map(|place| place.line))?;
        fields.serialize_field("column", &self.place.as_ref().map(|place| place.column))?;
        fields.end()
    }
}

/// Line and column from 1, and the line's own place without its end.
fn line_at(text: &str, at: usize) -> (usize, usize, Span) {
    let before = text.get(..at).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let rest = text.get(start..).unwrap_or_default();
    let length = rest.find('\n').unwrap_or(rest.len());
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before.get(start..).unwrap_or_default().chars().count() + 1;
    (line, column, Span { start, end: start + length, ..Span::default() })
}

fn place(document: &Document<'_>, at: Span, hidden: bool) -> Place {
    let (text, scalars, path) = (&*document.text, document.scalars.as_slice(), document.path.to_string());
    let (line, column, bounds) = line_at(text, at.start);
    if document.root.is_none() {
        // Nothing is known of what stands on the line.
        return Place { path, line, column, excerpt: None };
    }
    let mut excerpt = Excerpt::default();
    let first = scalars.partition_point(|(span, _)| span.end <= bounds.start);
    let mut cursor = bounds.start;
    // Lists and maps at fault are pointed at by their first character; their content is shown as any other.
    let leaf = scalars.iter().skip(first).any(|(span, _)| *span == at);
    for (span, key) in scalars.iter().skip(first).take_while(|(span, _)| span.start < bounds.end) {
        excerpt.structure(text, cursor, span.start, at);
        let shown = *key || (*span == at && !hidden);
        let (from, to) = (span.start.max(bounds.start), span.end.min(bounds.end));
        let text = text.get(from..to).unwrap_or_default().trim_end();
        let text = match (shown || span.start == span.end, *key) {
            (true, true) => discreet(first_word(text)),
            (true, false) => discreet(text),
            (false, _) => "…".to_owned(),
        };
        if *span == at {
            excerpt.underline(text.chars().count());
        }
        excerpt.text.push_str(&text);
        cursor = to;
    }
    excerpt.structure(text, cursor, bounds.end, at);
    if !leaf && excerpt.width == 0 {
        excerpt.underline(1);
    }
    Place { path, line, column, excerpt: Some(excerpt.narrow()) }
}

/// A key up to its first space: no key has one, but a whole header line that stands where a header's name is due.
fn first_word(key: &str) -> &str {
    key.find(char::is_whitespace).map_or(key, |end| key.get(..end).unwrap_or_default())
}

/// Characters of a line that are shown.
const SHOWN: usize = 160;

impl Excerpt {
    /// Cuts a long line down to what stands around the fault: a whole document may stand on one.
    fn narrow(self) -> Self {
        let length = self.text.chars().count();
        if length <= SHOWN {
            return self;
        }
        let skipped = self.indent.saturating_sub(SHOWN / 4);
        let shown: String = self.text.chars().skip(skipped).take(SHOWN).collect();
        let (before, after) = (if skipped > 0 { "… " } else { "" }, if skipped + SHOWN < length { " …" } else { "" });
        let indent = before.chars().count() + self.indent - skipped;
        let width = self.width.min(SHOWN + skipped - self.indent);
        Self { text: format!("{before}{shown}{after}"), indent, width }
    }

    /// What stands between scalars: brackets, colons, dashes and spaces, up to a comment.
    fn structure(&mut self, text: &str, from: usize, to: usize, at: Span) {
        for (offset, c) in text.get(from..to).unwrap_or_default().char_indices() {
            if c == '#' {
                return;
            }
            if from + offset == at.start && self.width == 0 {
                self.underline(1);
            }
            let legal = c == ' ' || "{}[],:-?|>\"'".contains(c);
            self.text.push(if legal { c } else { ' ' });
        }
    }

    fn underline(&mut self, width: usize) {
        self.indent = self.text.chars().count();
        self.width = width.max(1);
    }
}
