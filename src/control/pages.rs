//! Long lists, one page at a time.
//!
//! A page is what follows a place in an order; the place is told as an opaque `cursor`. What is created or deleted
//! between two pages moves nothing else to another page.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::action::{SandboxView, SessionView};
use super::answer::Refused;
use crate::flow::SandboxId;
use crate::limits;

/// Which sandboxes are listed, and how.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listing {
    /// How many at most; a page has 1000 at most.
    #[schemars(range(min = 1))]
    limit: Option<usize>,
    /// What they are sorted by; `createdAt` where nothing is said.
    sort_by: Option<SortBy>,
    /// In which direction; `desc` where nothing is said.
    sort_order: Option<SortOrder>,
    /// How their names begin.
    name_prefix: Option<String>,
    /// A tag that they have: `KEY:VALUE`.
    #[schemars(regex(pattern = "^[^:]*:"))]
    tags: Option<String>,
    /// Where the page before this one ended, as it told under `pagination.next`.
    cursor: Option<String>,
}

/// Which sessions are listed, and how.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionListing {
    /// Of the sandbox that has this name.
    pub(super) name: Option<String>,
    /// How many at most; a page has 1000 at most.
    #[schemars(range(min = 1))]
    limit: Option<usize>,
    /// By when they began; `desc` where nothing is said.
    sort_order: Option<SortOrder>,
    /// Where the page before this one ended, as it told under `pagination.next`.
    cursor: Option<String>,
}

/// Which sandboxes are listed to clients of the `v1` family: the latest first.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(super) struct Between {
    /// How many at most, but for those that began at the same time as the last; a page has 1000 at most.
    #[schemars(range(min = 1))]
    limit: Option<usize>,
    /// Begun then or later, in milliseconds since 1970.
    since: Option<u64>,
    /// Begun before then, in milliseconds since 1970.
    until: Option<u64>,
}

/// What sandboxes are sorted by.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum SortBy {
    CreatedAt,
    Name,
    StatusUpdatedAt,
}

/// In which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum SortOrder {
    Asc,
    Desc,
}

/// Where a page stands in its list.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Pagination<N> {
    /// How many are on this page.
    count: usize,
    /// What to ask for the next page with, if there is one.
    next: Option<N>,
}

/// Where a page stands in a list of the `v1` family.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct OldPagination {
    /// How many are on this page.
    count: usize,
    /// `until` for the next page, if there is one.
    next: Option<u64>,
    /// Never told: pages are read forwards.
    prev: Option<u64>,
}

/// A place in an order; no two items have the same.
type Place = (u64, String);

impl Listing {
    /// The page that is asked for.
    pub(super) fn page(self, views: Vec<SandboxView>) -> Result<(Vec<SandboxView>, Pagination<String>), Refused> {
        let Self { limit, sort_by, sort_order, name_prefix, tags, cursor } = self;
        let tag = tags.as_deref().map(|tag| tag.split_once(':').ok_or_else(|| Refused::bad("`tags` is `KEY:VALUE`")));
        let tag = tag.transpose()?;
        let wanted = |view: &SandboxView| {
            name_prefix.as_deref().is_none_or(|prefix| view.name.as_str().starts_with(prefix))
                && tag.is_none_or(|(key, value)| tag_of(view, key) == Some(value))
        };
        let place = |view: &SandboxView| {
            let number = match sort_by.unwrap_or(SortBy::CreatedAt) {
                SortBy::CreatedAt => view.created_at,
                SortBy::Name => 0,
                SortBy::StatusUpdatedAt => view.session.stopped_at.unwrap_or(view.session.started_at),
            };
            (number, view.name.as_str().to_owned())
        };
        let placed = views.into_iter().filter(wanted).map(|view| (place(&view), view)).collect();
        cut(placed, limit, sort_order, cursor.as_deref())
    }
}

impl SessionListing {
    /// The page that is asked for, of the sessions of these sandboxes.
    pub(super) fn page(self, views: Vec<SandboxView>) -> Result<(Vec<SandboxView>, Pagination<String>), Refused> {
        let Self { name: _, limit, sort_order, cursor } = self;
        let each = |view: SandboxView| {
            let all: Vec<SessionView> = view.former.iter().cloned().chain([view.session.clone()]).collect();
            all.into_iter().map(move |session| SandboxView { session, ..view.clone() })
        };
        let place = |view: &SandboxView| (view.session.started_at, view.session.id.0.clone());
        let placed = views.into_iter().flat_map(each).map(|view| (place(&view), view)).collect();
        cut(placed, limit, sort_order, cursor.as_deref())
    }
}

impl Between {
    /// The page that is asked for.
    pub(super) fn page(self, mut views: Vec<SandboxView>) -> Result<(Vec<SandboxView>, OldPagination), Refused> {
        let Self { limit, since, until } = self;
        let began = |view: &SandboxView| view.session.started_at;
        views.retain(|view| {
            since.is_none_or(|since| began(view) >= since) && until.is_none_or(|until| began(view) < until)
        });
        views.sort_by_key(|view| std::cmp::Reverse((began(view), view.name.as_str().to_owned())));
        // The next page begins at another time, so all of one time stand on one page.
        let last = views.get(page_size(limit)? - 1).map(began);
        let before = views.len();
        views.retain(|view| last.is_none_or(|last| began(view) >= last));
        let next = last.filter(|_| views.len() < before);
        let pagination = OldPagination { count: views.len(), next, prev: None };
        Ok((views, pagination))
    }
}

/// How many a page has at most.
fn page_size(limit: Option<usize>) -> Result<usize, Refused> {
    match limit {
        Some(0) => Err(Refused::bad("`limit` is a number from 1")),
        Some(limit) => Ok(limit.min(limits::PAGE)),
        None => Ok(limits::PAGE),
    }
}

fn cut<T>(
    mut placed: Vec<(Place, T)>,
    limit: Option<usize>,
    order: Option<SortOrder>,
    cursor: Option<&str>,
) -> Result<(Vec<T>, Pagination<String>), Refused> {
    let size = page_size(limit)?;
    let after = cursor.map(|cursor| place(cursor).ok_or_else(|| Refused::bad("`cursor` is none of ours")));
    let after = after.transpose()?;
    let backwards = order != Some(SortOrder::Asc);
    placed
        .retain(|(place, _)| after.as_ref().is_none_or(|after| if backwards { place < after } else { place > after }));
    placed.sort_by(|(a, _), (b, _)| if backwards { b.cmp(a) } else { a.cmp(b) });
    let is_last = placed.len() <= size;
    placed.truncate(size);
    let next = placed.last().filter(|_| !is_last).map(|((number, name), _)| format!("{number}.{name}"));
    let items: Vec<T> = placed.into_iter().map(|(_, item)| item).collect();
    let pagination = Pagination { count: items.len(), next };
    Ok((items, pagination))
}

fn tag_of<'v>(view: &'v SandboxView, key: &str) -> Option<&'v str> {
    view.details.get("tags")?.get(key)?.as_str()
}

fn place(cursor: &str) -> Option<Place> {
    let (number, name) = cursor.split_once('.')?;
    let name = SandboxId::new(name)?;
    Some((number.parse().ok()?, name.as_str().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(count: u64) -> Vec<(Place, u64)> {
        // Two of each time.
        (0..count).map(|number| ((number / 2, format!("n{}", number % 2)), number)).collect()
    }

    #[test]
    fn pages_hold_everything_once_in_either_direction() {
        for (order, expected) in
            [(SortOrder::Asc, (0..7).collect::<Vec<u64>>()), (SortOrder::Desc, (0..7).rev().collect())]
        {
            for size in 1..=8 {
                let (mut all, mut cursor) = (Vec::new(), None);
                loop {
                    let (page, at) = cut(items(7), Some(size), Some(order), cursor.as_deref()).unwrap();
                    assert!(page.len() <= size && at.count == page.len());
                    all.extend(page);
                    cursor = at.next;
                    if cursor.is_none() {
                        break;
                    }
                }
                assert_eq!(all, expected, "{size}");
            }
        }
    }

    #[test]
    fn a_page_has_an_end_and_a_cursor_a_form() {
        let more = u64::try_from(limits::PAGE).unwrap() + 1;
        for limit in [None, Some(limits::PAGE + 1)] {
            let (page, at) = cut(items(more), limit, None, None).unwrap();
            assert_eq!((page.len(), at.next.is_some()), (limits::PAGE, true));
        }
        assert!(cut(items(1), Some(0), None, None).is_err());
        for cursor in ["", "1", ".a", "1.", "x.a", "1.a b", "-1.a"] {
            assert!(cut(items(1), None, None, Some(cursor)).is_err(), "{cursor}");
        }
    }
}
