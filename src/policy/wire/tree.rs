//! A document's text as a tree: YAML or JSON, every node with its place.
//!
//! Strict (POLICY §1): one document, no anchors, aliases, tags or merge keys, keys that are text. Scalars keep their
//! spelling, and are typed by whoever reads them, so that `yes` is never a boolean and `1.10` never a number by
//! accident.
//!
//! `INVARIANT`: a [`Fault`] of this module quotes at most one character of the document.

use std::borrow::Cow;
use std::sync::Arc;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span as ParserSpan};

use crate::limits;
use crate::policy::diagnostic::{Code, Fault};
use crate::policy::verdict::RuleId;

/// Bytes of a document, from the first to after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub(in crate::policy) struct Span {
    /// Which of [`super::Documents`].
    pub(in crate::policy) file: usize,
    pub(in crate::policy) start: usize,
    pub(in crate::policy) end: usize,
}

impl Span {
    fn of(file: usize, span: &ParserSpan) -> Self {
        let range = span.byte_range().unwrap_or_default();
        Self { file, start: range.start, end: range.end }
    }
}

/// A value and its place.
#[derive(Debug)]
pub(in crate::policy) struct Node {
    pub(in crate::policy) span: Span,
    pub(in crate::policy) value: Value,
}

/// What a node is.
#[derive(Debug)]
pub(in crate::policy) enum Value {
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
pub(in crate::policy) struct Key {
    pub(in crate::policy) span: Span,
    pub(in crate::policy) text: String,
}

impl Node {
    /// What it is, for a message; says nothing of its content.
    pub(in crate::policy) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar { .. } if self.is_null() => "nothing",
            Value::Scalar { .. } if self.boolean().is_some() => "a boolean",
            Value::Scalar { .. } if self.is_number() => "a number",
            Value::Scalar { .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// Its text, if it is text: quoted, or neither a number, a boolean nor nothing (YAML 1.2 core schema).
    pub(in crate::policy) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, plain } => {
                (!plain || !(self.is_null() || self.boolean().is_some() || is_number(text))).then_some(text)
            }
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// `true` or `false`, unquoted; nothing else is a boolean.
    pub(in crate::policy) fn boolean(&self) -> Option<bool> {
        match &self.value {
            Value::Scalar { text, plain: true } => match text.as_str() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether it is a number of any form, unquoted.
    pub(in crate::policy) fn is_number(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if is_number(text))
    }

    /// A decimal number without sign, unquoted; one that is too large is the largest.
    pub(in crate::policy) fn number(&self) -> Option<u64> {
        match &self.value {
            Value::Scalar { text, plain: true } if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() => {
                Some(text.parse().unwrap_or(u64::MAX))
            }
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

/// One document, with what rendering a fault needs to know of its text.
#[derive(Debug)]
pub(in crate::policy) struct Document<'a> {
    /// As in [`super::Source::path`], shared by every rule.
    pub(in crate::policy) path: Arc<str>,
    pub(in crate::policy) text: Cow<'a, str>,
    /// `None` if it could not be parsed.
    pub(in crate::policy) root: Option<Node>,
    /// Every scalar in the order of the text: its place, and whether it is a key.
    pub(in crate::policy) scalars: Vec<(Span, bool)>,
    /// Where each line ends, to count them fast.
    newlines: Vec<usize>,
}

impl<'a> Document<'a> {
    /// Reads a document; the fault is the first one of form, as no later one can be told from its consequences.
    pub(in crate::policy) fn parse(file: usize, path: &str, text: Cow<'a, str>) -> (Self, Option<Fault>) {
        let newlines = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect();
        let document = |text, root, scalars| Self { path: Arc::from(path), text, root, scalars, newlines };
        match parse(file, &text) {
            Ok((root, scalars)) => (document(text, Some(root), scalars), None),
            Err(fault) => (document(text, None, Vec::new()), Some(fault)),
        }
    }

    /// `FILE:LINE` of a node or key, as a rule is called in records.
    pub(in crate::policy) fn rule_id(&self, span: Span) -> RuleId {
        RuleId::in_file(&self.path, self.newlines.partition_point(|newline| *newline < span.start) + 1)
    }
}

type Parsed = (Node, Vec<(Span, bool)>);

fn parse(file: usize, text: &str) -> Result<Parsed, Fault> {
    let whole = Span { file, ..Span::default() };
    if text.len() > limits::POLICY_BYTES {
        let message = format!("the document is larger than {} bytes", limits::POLICY_BYTES);
        return Err(Fault::new(Code::Limit, message).place(whole));
    }
    let mut tree = Tree::default();
    for event in Parser::new_from_str_with_options(text, options()) {
        let (event, span) = event.map_err(|fault| {
            let at = fault.marker().byte_offset().unwrap_or_default().min(text.len());
            let place = Span { file, start: at, end: at };
            let message = format!("not valid YAML: {}", fault.kind());
            Fault::new(Code::Syntax, message).place(place).perhaps(help(text, at))
        })?;
        tree.take(event, Span::of(file, &span))?;
    }
    let root = tree.root.ok_or_else(|| {
        let fault = Fault::new(Code::WrongType, "the document is empty").place(whole);
        fault.help("a policy that allows nothing is `{}`")
    })?;
    Ok((root, tree.scalars))
}

/// What to do about text that is no YAML, by what stands there.
fn help(text: &str, at: usize) -> Option<&'static str> {
    let (before, after) = text.split_at_checked(at)?;
    let line = before.get(before.rfind('\n').map_or(0, |newline| newline + 1)..)?;
    match after.chars().next() {
        _ if line.contains('\t') && line.trim_start_matches([' ', '\t', '-']).is_empty() => Some("indent with spaces"),
        Some('*') => Some("a pattern that begins with `*` stands in quotes, such as `\"*.example.com\"`"),
        Some('@' | '`' | '%' | '&' | '!' | '|' | '>') => Some("text that begins with this character stands in quotes"),
        Some('-') => Some("a list is written `[…]`, or each of its elements on a line of its own"),
        Some(':') => Some("text that holds a colon and a space stands in quotes"),
        _ if line.trim_start_matches(' ').is_empty() => {
            Some("see how far this line is indented, and whether a quote is not closed above it")
        }
        _ => None,
    }
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
        let unquoted = |message: &'static str| {
            let fault = Fault::new(Code::Syntax, message).place(span);
            Err(fault.help("text that begins with `&`, `!` or `*` stands in quotes"))
        };
        match event {
            Event::Scalar(_, _, anchor, ref tag)
            | Event::SequenceStart(_, anchor, ref tag)
            | Event::MappingStart(_, anchor, ref tag)
                if anchor != 0 || tag.is_some() =>
            {
                return unquoted("anchors and tags are not part of the policy language");
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) | Event::Anchor(..) => {
                return unquoted("aliases are not part of the policy language");
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
        self.put(Node { span: Span { end: end.end.max(start.end), ..start }, value })
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
