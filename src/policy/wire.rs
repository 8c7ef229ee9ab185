//! A policy document as it is written: YAML or JSON into a tree whose every node knows its place.
//!
//! Strict (POLICY §1): one document, no anchors, aliases, tags or merge keys, keys that are text. Scalars keep their
//! spelling, and are typed by whoever reads them, so that `yes` is never a boolean and `1.10` never a number by
//! accident. The tree ends inside [`super::compile`]; nothing of it is kept in a policy.
//!
//! `INVARIANT`: a [`Fault`] of this module quotes at most one character of the document.

use std::sync::Arc;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span as ParserSpan};

use super::diagnostic::{Code, Fault};
use super::verdict::RuleId;
use crate::limits;

/// A document and where it came from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// As it is to be shown, such as `policies/coding-agent.yaml`.
    pub path: &'a str,
    /// The text.
    pub text: &'a str,
}

/// Bytes of the document, from the first to after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    fn of(span: &ParserSpan) -> Self {
        let range = span.byte_range().unwrap_or_default();
        Self { start: range.start, end: range.end }
    }
}

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) value: Value,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Value {
    /// Text, and whether it was written without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A map's key and its place.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) span: Span,
    pub(super) text: String,
}

impl Node {
    /// What it is, for a message; says nothing of its content.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar { .. } if self.is_null() => "nothing",
            Value::Scalar { .. } if self.boolean().is_some() => "a boolean",
            Value::Scalar { text, plain: true } if is_number(text) => "a number",
            Value::Scalar { .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// Its text, if it is text: quoted, or neither a number, a boolean nor nothing (YAML 1.2 core schema).
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, plain } => {
                (!plain || !(self.is_null() || self.boolean().is_some() || is_number(text))).then_some(text)
            }
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// `true` or `false`, unquoted; nothing else is a boolean.
    pub(super) fn boolean(&self) -> Option<bool> {
        match &self.value {
            Value::Scalar { text, plain: true } => match text.as_str() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// A decimal number without sign, unquoted.
    pub(super) fn number(&self) -> Option<u64> {
        match &self.value {
            Value::Scalar { text, plain: true } if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        }
    }

    fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// Whether the YAML 1.2 core schema takes an unquoted text for a number.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let spelled = digits.trim_start_matches('.').starts_with(|c: char| c.is_ascii_digit());
    let special = matches!(digits, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN");
    let radix = [("0x", 16), ("0o", 8)].iter().any(|(prefix, radix)| {
        digits.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_digit(*radix)))
    });
    special || radix || (spelled && digits.parse::<f64>().is_ok())
}

/// A parsed document, with what rendering a fault needs to know of its text.
#[derive(Debug)]
pub(super) struct Document<'a> {
    pub(super) source: Source<'a>,
    /// As in [`Source::path`], shared by every rule.
    path: Arc<str>,
    pub(super) root: Node,
    /// Every scalar in the order of the text: its place, and whether it is a key.
    pub(super) scalars: Vec<(Span, bool)>,
    /// Where each line ends, to count them fast.
    newlines: Vec<usize>,
}

impl Document<'_> {
    /// `FILE:LINE` of a node or key, as a rule is called in records.
    pub(super) fn rule_id(&self, span: Span) -> RuleId {
        RuleId::in_file(&self.path, self.newlines.partition_point(|newline| *newline < span.start) + 1)
    }
}

/// Reads a document.
///
/// # Errors
/// The first fault of form; no later one can be told from its consequences.
pub(super) fn parse(source: Source<'_>) -> Result<Document<'_>, Fault> {
    if source.text.len() > limits::POLICY_BYTES {
        let message = format!("the document is larger than {} bytes", limits::POLICY_BYTES);
        return Err(Fault::new(Code::Limit, message));
    }
    let mut tree = Tree::default();
    for event in Parser::new_from_str_with_options(source.text, options()) {
        let (event, span) = event.map_err(|fault| {
            let at = fault.marker().byte_offset().unwrap_or_default().min(source.text.len());
            Fault::new(Code::Syntax, format!("not valid YAML: {}", fault.kind())).place(Span { start: at, end: at })
        })?;
        tree.take(event, Span::of(&span))?;
    }
    let root = tree.root.ok_or_else(|| {
        Fault::new(Code::WrongType, "the document is empty").help("a policy that allows nothing is `{}`")
    })?;
    let newlines = source.text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect();
    Ok(Document { source, path: Arc::from(source.path), root, scalars: tree.scalars, newlines })
}

fn options() -> Options {
    let mut options = Options::default();
    options.disallow_directives = true;
    options.flow_nesting_limit = limits::POLICY_DEPTH;
    options.block_nesting_limit = limits::POLICY_DEPTH;
    // A key may be as long as the longest text that any key can be: a domain pattern spelled in U-labels.
    options.simple_key_max_lookahead = 2048;
    options
}

/// Builds the tree from events; the stack holds what is open.
#[derive(Debug, Default)]
struct Tree {
    root: Option<Node>,
    open: Vec<Open>,
    scalars: Vec<(Span, bool)>,
    nodes: usize,
}

#[derive(Debug)]
enum Open {
    List(Span, Vec<Node>),
    /// The key whose value is awaited, if one is.
    Map(Span, Vec<(Key, Node)>, Option<Key>),
}

impl Tree {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let refuse = |message: &'static str| Err(Fault::new(Code::Syntax, message).place(span));
        match event {
            Event::Scalar(_, _, anchor, ref tag)
            | Event::SequenceStart(_, anchor, ref tag)
            | Event::MappingStart(_, anchor, ref tag)
                if anchor != 0 || tag.is_some() =>
            {
                return refuse("anchors and tags are not part of the policy language");
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) | Event::Anchor(..) => {
                return refuse("aliases are not part of the policy language");
            }
            Event::DocumentStart(..) if self.root.is_some() => return refuse("the file holds a second document"),
            Event::Scalar(text, style, _, _) => return self.scalar(text.into_owned(), style, span),
            Event::SequenceStart(..) | Event::MappingStart(..) if self.awaits_key() => {
                return refuse("a key must be text");
            }
            Event::SequenceStart(..) => self.open.push(Open::List(span, Vec::new())),
            Event::MappingStart(..) => self.open.push(Open::Map(span, Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => return self.close(span),
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => {}
            _ => return refuse("this is not part of the policy language"),
        }
        Ok(())
    }

    fn awaits_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Map(_, _, None)))
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, span: Span) -> Result<(), Fault> {
        let key = self.awaits_key();
        self.scalars.push((span, key));
        if let Some(Open::Map(_, _, awaited @ None)) = self.open.last_mut() {
            *awaited = Some(Key { span, text });
            return Ok(());
        }
        self.put(Node { span, value: Value::Scalar { text, plain: style == ScalarStyle::Plain } })
    }

    fn close(&mut self, end: Span) -> Result<(), Fault> {
        let (start, value) = match self.open.pop() {
            Some(Open::List(start, items)) => (start, Value::List(items)),
            Some(Open::Map(start, entries, _)) => (start, Value::Map(entries)),
            None => return Ok(()),
        };
        self.put(Node { span: Span { start: start.start, end: end.end.max(start.end) }, value })
    }

    fn put(&mut self, node: Node) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes > limits::POLICY_NODES {
            let message = format!("the document has more than {} values", limits::POLICY_NODES);
            return Err(Fault::new(Code::Limit, message).place(node.span));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, key)) => {
                if let Some(key) = key.take() {
                    entries.push((key, node));
                }
            }
        }
        Ok(())
    }
}
