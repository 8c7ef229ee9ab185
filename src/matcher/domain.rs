//! Domain patterns (POLICY §2), and the map that finds the most specific one for a name.
//!
//! - `INVARIANT`: a label matches a literal by byte equality, or a `*` that is a whole label; there is no partial
//!   match, so `evilgithub.com` never meets `*.github.com`.
//! - `INVARIANT`: [`DomainMap::get`] answers exactly what a scan over all patterns in order of [`Specificity`]
//!   would (tested against one).

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;

use crate::flow::{Domain, DomainError};

/// A pattern of POLICY §2: `github.com`, `*.github.com`, `www.*.com` or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DomainPattern {
    /// From left to right; never empty.
    labels: Vec<Label>,
}

/// One label of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Label {
    /// Exactly this one.
    Literal(Box<str>),
    /// `*`: at the left end one label or more, elsewhere exactly one.
    Any,
}

impl DomainPattern {
    /// Parses a pattern and makes its literal labels canonical, as [`Domain::parse`] does.
    ///
    /// # Errors
    /// Says what is wrong, and its `Display` what to write instead where that is known.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self { labels: vec![Label::Any] });
        }
        refuse_lookalikes(text)?;
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.split('.').any(|label| label != "*" && label.contains('*')) {
            return Err(PatternError::PartialStar);
        }
        if text.split('.').all(|label| label == "*") {
            return Err(PatternError::OnlyStars);
        }
        // A stand-in label lets the literal ones be parsed, and the length judged, as the name's.
        let spelled: Vec<&str> = text.split('.').map(|label| if label == "*" { "x" } else { label }).collect();
        let name = Domain::parse(&spelled.join(".")).map_err(|fault| match fault {
            DomainError::IpLiteral => PatternError::Address,
            other => PatternError::Domain(other),
        })?;
        // IDNA may turn one label into several (an ideographic full stop); stars must not shift against them.
        if name.labels().count() != spelled.len() {
            return Err(PatternError::Domain(DomainError::BadCharacter));
        }
        let stars = text.split('.').map(|label| label == "*");
        let labels =
            name.labels().zip(stars).map(|(label, star)| if star { Label::Any } else { Label::Literal(label.into()) });
        Ok(Self { labels: labels.collect() })
    }

    /// Whether it is `*`, which also stands for a flow without a name (POLICY §2).
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.labels == [Label::Any]
    }

    /// Whether it holds no `*`, so matches one name only.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.labels.contains(&Label::Any)
    }

    /// Whether it is every name below one top-level label, such as `*.com`.
    #[must_use]
    pub fn is_top_level(&self) -> bool {
        matches!(self.labels.as_slice(), [Label::Any, Label::Literal(_)])
    }

    /// Whether it matches `name`.
    #[must_use]
    pub fn matches(&self, name: &Domain) -> bool {
        let mut theirs = name.labels().rev();
        for (index, label) in self.labels.iter().enumerate().rev() {
            let Some(other) = theirs.next() else { return false };
            match label {
                Label::Literal(literal) if **literal != *other => return false,
                Label::Literal(_) => {}
                Label::Any if index == 0 => return true,
                Label::Any => {}
            }
        }
        theirs.next().is_none()
    }

    /// Which of two patterns for one name wins: the smaller.
    #[must_use]
    pub fn specificity(&self) -> Specificity {
        let literals = self.labels.iter().filter(|label| **label != Label::Any).count();
        let leading = self.labels.first() == Some(&Label::Any);
        Specificity { inexact: !self.is_exact(), literals: Reverse(literals), leading }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, label) in self.labels.iter().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            match label {
                Label::Literal(literal) => write!(f, "{dot}{literal}")?,
                Label::Any => write!(f, "{dot}*")?,
            }
        }
        Ok(())
    }
}

/// The order of POLICY §2, most specific first: exact; then more literal labels; then a middle `*` before a leading
/// one. `*` alone has no literal label, so it comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    inexact: bool,
    literals: Reverse<usize>,
    leading: bool,
}

/// What people write instead of a pattern, told apart so that the hint fits.
fn refuse_lookalikes(text: &str) -> Result<(), PatternError> {
    if text.contains("://") {
        return Err(PatternError::Url);
    }
    if text.contains('/') {
        let cidr = text.parse::<ipnet::IpNet>().is_ok();
        return Err(if cidr { PatternError::Address } else { PatternError::Url });
    }
    if text.starts_with('[') || text.parse::<std::net::IpAddr>().is_ok() {
        return Err(PatternError::Address);
    }
    if text.contains(':') {
        return Err(PatternError::Port);
    }
    Ok(())
}

/// Why a text is no [`DomainPattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PatternError {
    /// A `*` beside other characters of a label.
    PartialStar,
    /// Several labels, each of them `*`.
    OnlyStars,
    /// A scheme or a path.
    Url,
    /// A port.
    Port,
    /// An address or a CIDR.
    Address,
    /// Its literal labels make no name.
    Domain(DomainError),
}

impl PatternError {
    /// What to write instead.
    #[must_use]
    pub fn help(self) -> Option<&'static str> {
        match self {
            Self::PartialStar => Some("`*` is a whole label: `*.example.com`, `www.*.com`, or `*` alone"),
            Self::OnlyStars => Some("write `*` for every name"),
            Self::Url => Some("write the host name alone; methods and paths go into a rule's `match`"),
            Self::Port => Some("write the host name alone; it is allowed on every port"),
            Self::Address => Some("addresses and CIDRs go into `subnets`, or `--allow-cidr` on the command line"),
            Self::Domain(_) => None,
        }
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PartialStar => f.write_str("a `*` stands beside other characters of its label"),
            Self::OnlyStars => f.write_str("the pattern has no label but `*`"),
            Self::Url => f.write_str("this is a URL or a path, not a domain"),
            Self::Port => f.write_str("a domain has no port"),
            Self::Address => f.write_str("this is an address, not a domain"),
            Self::Domain(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for PatternError {}

/// Values by pattern; look-up finds the most specific pattern for a name.
///
/// A trie over labels from right to left. Besides its literal children a node has one child for a middle `*` and one
/// value for a leading one, so that a look-up visits at most the nodes that spell a part of the name.
#[derive(Debug)]
pub struct DomainMap<T> {
    nodes: Vec<Node>,
    entries: Vec<Entry<T>>,
}

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, usize>,
    any: Option<usize>,
    /// Entry of the pattern that ends here.
    ends: Option<usize>,
    /// Entry of the pattern that continues here with a leading `*`.
    leads: Option<usize>,
}

#[derive(Debug)]
struct Entry<T> {
    pattern: DomainPattern,
    /// Specificity, then declaration order: the smallest wins.
    rank: (Specificity, usize),
    value: T,
}

impl<T> Default for DomainMap<T> {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], entries: Vec::new() }
    }
}

impl<T> DomainMap<T> {
    /// Adds a pattern after all others.
    ///
    /// # Errors
    /// The value that the very same pattern has already; it stays.
    pub fn insert(&mut self, pattern: DomainPattern, value: T) -> Result<(), &T> {
        let index = self.entries.len();
        let mut at = 0;
        for (position, label) in pattern.labels.iter().enumerate().rev() {
            if position == 0 && *label == Label::Any {
                return self.settle(at, pattern, value, |node| &mut node.leads, index);
            }
            at = self.child(at, label);
        }
        self.settle(at, pattern, value, |node| &mut node.ends, index)
    }

    /// The value of the most specific pattern that matches `name`.
    #[must_use]
    pub fn get(&self, name: &Domain) -> Option<&T> {
        let mut best = None;
        self.search(0, name.as_str(), &mut best);
        best.map(|entry| &entry.value)
    }

    /// The value of the pattern `*`, which stands for a flow without a name.
    #[must_use]
    pub fn any(&self) -> Option<&T> {
        let entry = self.nodes.first()?.leads?;
        self.entries.get(entry).map(|entry| &entry.value)
    }

    /// Whether it holds no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Patterns and values in declaration order.
    pub fn iter(&self) -> impl Iterator<Item = (&DomainPattern, &T)> {
        self.entries.iter().map(|entry| (&entry.pattern, &entry.value))
    }

    fn child(&mut self, at: usize, label: &Label) -> usize {
        let next = self.nodes.len();
        let Some(node) = self.nodes.get_mut(at) else { return at };
        let child = match label {
            Label::Literal(literal) => *node.literal.entry(literal.clone()).or_insert(next),
            Label::Any => *node.any.get_or_insert(next),
        };
        if child == next {
            self.nodes.push(Node::default());
        }
        child
    }

    fn settle(
        &mut self,
        at: usize,
        pattern: DomainPattern,
        value: T,
        slot: fn(&mut Node) -> &mut Option<usize>,
        index: usize,
    ) -> Result<(), &T> {
        let Some(node) = self.nodes.get_mut(at) else { return Ok(()) };
        match *slot(node) {
            Some(first) => self.entries.get(first).map_or(Ok(()), |entry| Err(&entry.value)),
            None => {
                *slot(node) = Some(index);
                self.entries.push(Entry { rank: (pattern.specificity(), index), pattern, value });
                Ok(())
            }
        }
    }

    /// Walks `rest`, the labels not yet read, from the right. Depth is bounded by the longest pattern.
    fn search<'a>(&'a self, at: usize, rest: &str, best: &mut Option<&'a Entry<T>>) {
        let Some(node) = self.nodes.get(at) else { return };
        self.offer(node.leads, best);
        let (rest, label) = match rest.rsplit_once('.') {
            Some((rest, label)) => (Some(rest), label),
            None => (None, rest),
        };
        for child in [node.literal.get(label).copied(), node.any].into_iter().flatten() {
            match rest {
                Some(rest) => self.search(child, rest, best),
                None => self.offer(self.nodes.get(child).and_then(|node| node.ends), best),
            }
        }
    }

    fn offer<'a>(&'a self, index: Option<usize>, best: &mut Option<&'a Entry<T>>) {
        let Some(entry) = index.and_then(|index| self.entries.get(index)) else { return };
        if best.is_none_or(|other| entry.rank < other.rank) {
            *best = Some(entry);
        }
    }
}

#[cfg(test)]
mod tests;
