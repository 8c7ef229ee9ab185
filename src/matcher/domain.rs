//! Domain patterns (POLICY §2), and the map that finds the most specific one for a name ([`DomainMap`]).
//!
//! `INVARIANT`: a label matches a literal by byte equality, or a `*` that is a whole label; there is no partial
//! match, so `evilgithub.com` never meets `*.github.com`.

mod map;

use std::cmp::Reverse;
use std::fmt;

use crate::flow::{Domain, DomainError};

pub use map::{DomainMap, Refusal};

/// A pattern of POLICY §2: `github.com`, `*.github.com`, `www.*.com` or `*`.
///
/// A `*` at the left end stands for one label or more, elsewhere for exactly one. No label of a name holds a `*`, so
/// the text says everything. It is owned, or borrowed from a [`DomainMap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DomainPattern<S = Box<str>> {
    /// Canonical labels and `*`, with dots between them.
    text: S,
}

impl DomainPattern {
    /// Parses a pattern and makes its literal labels canonical, as [`Domain::parse`] does.
    ///
    /// # Errors
    /// Says what is wrong, and its `Display` what to write instead where that is known.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self { text: text.into() });
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
        let name = Domain::parse(&text.replace('*', "x")).map_err(|fault| match fault {
            DomainError::IpLiteral => PatternError::Address,
            other => PatternError::Domain(other),
        })?;
        // IDNA may turn one label into several (an ideographic full stop); stars must not shift against them.
        if name.labels().count() != text.split('.').count() {
            return Err(PatternError::Domain(DomainError::BadCharacter));
        }
        if !text.contains('*') {
            return Ok(Self { text: name.as_str().into() });
        }
        let mut starred = String::with_capacity(name.as_str().len());
        for (label, written) in name.labels().zip(text.split('.')) {
            starred.push_str(if starred.is_empty() { "" } else { "." });
            starred.push_str(if written == "*" { written } else { label });
        }
        Ok(Self { text: starred.into() })
    }
}

impl<'a> DomainPattern<&'a str> {
    /// The canonical text, for as long as the map lives.
    #[must_use]
    pub fn text(self) -> &'a str {
        self.text
    }
}

impl<S: AsRef<str>> DomainPattern<S> {
    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.as_ref()
    }

    /// Whether it is `*`, which also stands for a flow without a name (POLICY §2).
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.as_str() == "*"
    }

    /// Whether it holds no `*`, so matches one name only.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.as_str().contains('*')
    }

    /// Whether it matches `name`.
    #[must_use]
    pub fn matches(&self, name: &Domain) -> bool {
        holds(self.as_str(), name.as_str())
    }

    /// Whether it matches every name that `other` matches.
    #[must_use]
    pub fn covers<O: AsRef<str>>(&self, other: &DomainPattern<O>) -> bool {
        holds(self.as_str(), other.as_str())
    }

    /// Whether some name may match both. Where both have a `*` it may say so of two that no name matches; never the
    /// other way round.
    #[must_use]
    pub fn meets<O: AsRef<str>>(&self, other: &DomainPattern<O>) -> bool {
        let (ours, theirs) = (self.as_str(), other.as_str());
        if self.is_exact() || other.is_exact() {
            return holds(ours, theirs) || holds(theirs, ours);
        }
        let mut labels = ours.rsplit('.').zip(theirs.rsplit('.'));
        labels.all(|(one, other)| one == other || one == "*" || other == "*")
    }

    /// Which of two patterns for one name wins: the smaller.
    #[must_use]
    pub fn specificity(&self) -> Specificity {
        let literals = self.as_str().split('.').filter(|label| *label != "*").count();
        Specificity { inexact: !self.is_exact(), literals: Reverse(literals), leading: self.as_str().starts_with('*') }
    }
}

/// Whether the pattern `ours` matches every name that `theirs`, the text of a name or a pattern, stands for.
///
/// Label by label from the right. A literal never holds a `*`, which is always more than one label's worth of names.
/// Where `ours` has a middle `*`, a leading one of `theirs` may stand: either `ours` has a leading one of its own
/// further left and finds nothing there, or it has a literal and finds nothing there.
fn holds(ours: &str, theirs: &str) -> bool {
    let mut theirs = theirs.rsplit('.');
    let mut ours = ours.rsplit('.').peekable();
    while let Some(label) = ours.next() {
        match (label, theirs.next()) {
            (_, None) => return false,
            ("*", Some(_)) if ours.peek().is_none() => return true,
            ("*", Some(_)) => {}
            (literal, Some(other)) if literal != other => return false,
            (_, Some(_)) => {}
        }
    }
    theirs.next().is_none()
}

impl<S: AsRef<str>> fmt::Display for DomainPattern<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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
    /// What to write instead of `text`, which is no pattern for this reason.
    #[must_use]
    pub fn help(self, text: &str) -> Option<String> {
        let host = |pattern: &str| match DomainPattern::parse(pattern) {
            Ok(_) => format!("write `{pattern}`"),
            Err(_) => "write the host name alone".to_owned(),
        };
        match self {
            Self::PartialStar => Some(match text.strip_prefix('*').map(|rest| format!("*.{rest}")) {
                Some(below) if DomainPattern::parse(&below).is_ok() => {
                    format!("`*` is a whole label; for every name below it write `{below}`")
                }
                _ => "`*` is a whole label: `*.example.com`, `www.*.com`, or `*` alone".to_owned(),
            }),
            Self::OnlyStars => Some("write `*` for every name".to_owned()),
            Self::Url => {
                let authority = text.split_once("//").map_or(text, |(_, rest)| rest);
                let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
                let server = authority.rsplit_once('@').map_or(authority, |(_, server)| server);
                let name = server.split_once(':').map_or(server, |(name, _)| name);
                Some(format!("{}; methods and paths go into a rule's `match`", host(name)))
            }
            Self::Port => {
                let name = text.rsplit_once(':').map_or(text, |(name, _)| name);
                Some(format!("{}; it is allowed on every port", host(name)))
            }
            Self::Address => {
                Some("addresses and CIDRs go into `subnets`, or `--allow-cidr` on the command line".into())
            }
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

#[cfg(test)]
mod tests;
