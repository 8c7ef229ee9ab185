//! What changes from one policy to another, in sentences: what becomes reachable, what no longer is, and what is
//! treated otherwise.
//!
//! Not texts are compared, but what the policies do: equal policies in different spellings do not differ, and what has
//! no effect (an entry of `allow` that `deny` swallows, a pattern within a wider one with the same rules) is not told.
//! The policies are asked, by the functions that judge, about one of each kind of question that they can tell apart:
//! names (`names`), addresses (`addresses`), requests (`requests`, with `witness`), and flows without a name
//! (`settings`). Both are judged as enforced, `observe` aside, on a host with no addresses of its own.
//!
//! - `INVARIANT`: if the policies judge something differently, some change is about it; whatever could not be compared
//!   is told as opening. That a name is refused by another reason than before is no difference.
//! - `INVARIANT`: what opens from one to the other closes from the other to the one, but for what could not be
//!   compared.
//! - `INVARIANT`: no sentence and no example holds a header's value, a query's, or a body.
//! - `INVARIANT`: it takes time linear in the patterns and ranges, but for what [`limits::DIFF_STEPS`] bounds.

mod addresses;
mod names;
mod requests;
mod settings;
mod witness;
mod words;

use std::fmt;

use ipnet::IpNet;

use super::Policy;
use super::verdict::RuleId;
use crate::limits;
use crate::matcher::domain::DomainPattern;

/// Whether more can be reached, or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Something is allowed that was not, or a secret is sent that was not.
    Opens,
    /// Something is no longer allowed, or a secret is no longer sent.
    Closes,
    /// Something else is done with what is allowed.
    Changes,
}

impl Direction {
    /// Every direction, in the order in which they are told.
    pub const ALL: [Self; 3] = [Self::Opens, Self::Closes, Self::Changes];

    /// The stable string.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opens => "opens",
            Self::Closes => "closes",
            Self::Changes => "changes",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a change is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// Names that a pattern matches, or the requests to them; `None` for names that no pattern of either policy
    /// matches.
    Names(Option<DomainPattern>),
    /// Addresses in these ranges, and those that carry one of them.
    Addresses(Vec<IpNet>),
    /// Flows that name nobody.
    Unnamed,
    /// A key of the document.
    Setting(&'static str),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it is about.
    pub about: About,
    /// Whether more can be reached.
    pub direction: Direction,
    /// What changes, in one line, without a full stop at its end.
    pub sentence: String,
    /// A question that the two policies answer differently: `METHOD URL`, or `ADDRESS:PORT`.
    pub example: Option<String>,
    /// The line of the old policy that it comes from.
    pub old: Option<RuleId>,
    /// The line of the new one.
    pub new: Option<RuleId>,
}

impl Change {
    fn of(about: About, direction: Direction, sentence: String) -> Self {
        Self { about, direction, sentence, example: None, old: None, new: None }
    }
}

/// All changes from one policy to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In order of direction.
    kept: [Vec<Change>; 3],
    /// How many there are beyond [`limits::DIFF_CHANGES`].
    beyond: [usize; 3],
}

impl Changes {
    /// Those of one direction, [`limits::DIFF_CHANGES`] at most.
    #[must_use]
    pub fn towards(&self, direction: Direction) -> &[Change] {
        self.kept.get(direction as usize).map(Vec::as_slice).unwrap_or_default()
    }

    /// How many there are of one direction beyond those that are kept.
    #[must_use]
    pub fn beyond(&self, direction: Direction) -> usize {
        self.beyond.get(direction as usize).copied().unwrap_or_default()
    }

    /// Whether the policies do the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.iter().all(Vec::is_empty)
    }
}

/// Everything that `new` judges differently from `old`.
#[must_use]
pub fn diff(old: &Policy, new: &Policy) -> Changes {
    within(limits::DIFF_STEPS, old, new)
}

/// As [`diff`], with so many steps for pairs of patterns, and as many for rules.
fn within(steps: usize, old: &Policy, new: &Policy) -> Changes {
    let mut telling = Telling::default();
    if old.revision() == new.revision() {
        return telling.0;
    }
    let named = names::compare(old, new, steps, &mut telling);
    addresses::compare(old, new, &named, &mut telling);
    settings::compare(old, new, &named, &mut telling);
    telling.0
}

/// Changes, as they are found.
#[derive(Debug, Default)]
struct Telling(Changes);

impl Telling {
    /// Keeps a change, if there is room.
    fn tell(&mut self, direction: Direction, change: impl FnOnce() -> Change) {
        let Changes { kept, beyond } = &mut self.0;
        let (Some(kept), Some(beyond)) = (kept.get_mut(direction as usize), beyond.get_mut(direction as usize)) else {
            return;
        };
        if kept.len() < limits::DIFF_CHANGES {
            kept.push(change());
        } else {
            *beyond += 1;
        }
    }
}

#[cfg(test)]
mod tests;
