//! The table that `run` prints at its end: what was allowed, what was denied, and what would allow it.
//!
//! It reads the same events as every other sink and keeps at most [`limits::SUMMARY_ROWS`] rows of each half; what
//! comes later is only counted.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use super::{Closed, Event, Judged, Kind, Protocol, Record, RouteTaken, is_unsafe_to_show};
use crate::flow::{Domain, FlowId, OriginalDst, SandboxId};
use crate::limits;
use crate::policy::verdict::{Basis, Denial};

/// A sink that keeps the summary.
#[derive(Default)]
pub struct Summary(Mutex<Tables>);

impl Summary {
    /// The table as plain text, ending in a newline; empty when nothing happened.
    #[must_use]
    pub fn render(&self) -> String {
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        let allowed = tables.allowed.rows.iter().map(|(key, row)| {
            let unit = if key.route.is_relayed() { "connection" } else { "request" };
            let bytes = if row.bytes == 0 { String::new() } else { size(row.bytes) };
            let injected: Vec<_> = row.injected.iter().map(String::as_str).collect();
            let injected =
                if injected.is_empty() { String::new() } else { format!("injected {}", injected.join(", ")) };
            [target(key.name.as_ref(), key.dst), key.route.as_str().into(), count(row.count, unit), bytes, injected]
        });
        section(&mut text, "allowed", &allowed.collect::<Vec<_>>(), tables.allowed.more);
        let denied = tables.denied.rows.iter().map(|(key, row)| {
            let Denied { name, dst, denial, observed } = key;
            let reason = if *observed { format!("{} (observed)", denial.reason) } else { denial.reason.to_string() };
            let times = match row.tries {
                0 => count(row.questions, "question"),
                tries => count(tries, "time"),
            };
            // No line makes DNS serve a special-use name.
            let hopeless = row.tries == 0 && name.as_ref().is_some_and(Domain::is_special_use);
            let hint = if hopeless { String::new() } else { denial.hint(name.as_ref(), row.dst.map(OriginalDst::ip)) };
            [target(name.as_ref(), *dst), reason, times, hint]
        });
        section(&mut text, "denied, and what would allow it", &denied.collect::<Vec<_>>(), tables.denied.more);
        text
    }
}

impl Record for Summary {
    fn record(&self, event: &Event) {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &event.kind {
            Kind::Verdict(judged) => tables.verdict(event, judged),
            Kind::Close(closed) => tables.close(event, closed),
        }
    }
}

#[derive(Default)]
struct Tables {
    allowed: Rows<AllowedKey, Allowed>,
    denied: Rows<Denied, Refusals>,
    /// The row that an open flow's bytes belong to.
    open: HashMap<(SandboxId, FlowId), AllowedKey>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct AllowedKey {
    name: Option<Domain>,
    dst: Option<OriginalDst>,
    route: RouteTaken,
}

#[derive(Default)]
struct Allowed {
    count: u64,
    bytes: u64,
    injected: BTreeSet<String>,
}

#[derive(Clone, PartialEq, Eq)]
struct Denied {
    name: Option<Domain>,
    dst: Option<OriginalDst>,
    denial: Denial,
    observed: bool,
}

#[derive(Default)]
struct Refusals {
    questions: u64,
    tries: u64,
    /// Where the last try was going.
    dst: Option<OriginalDst>,
}

impl Tables {
    fn verdict(&mut self, event: &Event, judged: &Judged) {
        let name = judged.name.clone();
        // A name says more than the address that it had this time.
        let dst = if name.is_some() { None } else { event.dst };
        if let Some(reason) = judged.observed.or(judged.outcome.err()) {
            let denial = Denial { reason, basis: Basis { rule: judged.rule.clone(), revision: judged.revision } };
            let key = Denied { name: name.clone(), dst, denial, observed: judged.observed.is_some() };
            if let Some(row) = self.denied.row(key) {
                *(if judged.protocol == Protocol::Dns { &mut row.questions } else { &mut row.tries }) += 1;
                row.dst = event.dst.or(row.dst);
            }
        }
        let Ok(route) = judged.outcome else { return };
        let key = AllowedKey { name, dst, route };
        if judged.request.is_none() {
            let open = event.flow.map(|flow| (event.sandbox.clone(), flow));
            self.open.extend(open.map(|flow| (flow, key.clone())));
            if !route.is_relayed() {
                // A terminated flow shows by its requests.
                return;
            }
        }
        if let Some(row) = self.allowed.row(key) {
            row.count += 1;
            row.injected.extend(judged.injected.iter().cloned());
        }
    }

    fn close(&mut self, event: &Event, closed: &Closed) {
        let Some(flow) = event.flow else { return };
        let Some(key) = self.open.remove(&(event.sandbox.clone(), flow)) else { return };
        if let Some((_, row)) = self.allowed.rows.iter_mut().find(|(other, _)| *other == key) {
            row.bytes += closed.bytes_out + closed.bytes_in;
        }
    }
}

/// Rows in the order in which they came first.
struct Rows<K, V> {
    rows: Vec<(K, V)>,
    more: u64,
}

impl<K, V> Default for Rows<K, V> {
    fn default() -> Self {
        Self { rows: Vec::new(), more: 0 }
    }
}

impl<K: Eq, V: Default> Rows<K, V> {
    fn row(&mut self, key: K) -> Option<&mut V> {
        let at = self.rows.iter().position(|(other, _)| *other == key).unwrap_or(self.rows.len());
        if at == limits::SUMMARY_ROWS {
            self.more += 1;
            return None;
        }
        if at == self.rows.len() {
            self.rows.push((key, V::default()));
        }
        self.rows.get_mut(at).map(|(_, row)| row)
    }
}

impl RouteTaken {
    fn is_relayed(self) -> bool {
        matches!(self, Self::Splice | Self::Relay)
    }
}

fn target(name: Option<&Domain>, dst: Option<OriginalDst>) -> String {
    match (name, dst) {
        (Some(name), _) => shortened(name.as_str()),
        (None, Some(dst)) => dst.0.to_string(),
        (None, None) => "(no name)".into(),
    }
}

/// The end of a long name, which says whose it is: one row must not widen the table for all.
fn shortened(name: &str) -> String {
    const SHOWN: usize = 60;
    match name.len().checked_sub(SHOWN).and_then(|from| name.get(from..)) {
        Some(end) if name.len() > SHOWN => format!("…{end}"),
        _ => name.to_owned(),
    }
}

fn count(count: u64, unit: &str) -> String {
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

fn size(bytes: u64) -> String {
    let mut rest = bytes;
    for unit in ["B", "KiB", "MiB"] {
        if rest < 10 * 1024 {
            return format!("{rest} {unit}");
        }
        rest /= 1024;
    }
    format!("{rest} GiB")
}

/// A heading and rows in aligned columns; nothing where there are no rows.
fn section<const COLUMNS: usize>(text: &mut String, heading: &str, rows: &[[String; COLUMNS]], more: u64) {
    if rows.is_empty() {
        return;
    }
    let rows: Vec<_> = rows.iter().map(|row| row.each_ref().map(|cell| shown(cell))).collect();
    let widths: [usize; COLUMNS] = std::array::from_fn(|at| {
        rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    });
    // Writing to a string cannot fail.
    let _ = writeln!(text, "exeat: {heading}");
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths).filter(|(_, width)| *width > 0) {
            let _ = write!(line, "  {cell:width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    if more > 0 {
        let _ = writeln!(text, "  … and {more} more");
    }
}

/// What a terminal may be shown.
fn shown(cell: &str) -> String {
    cell.chars().flat_map(|c| if is_unsafe_to_show(c) { c.escape_unicode().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::audit::Request;
    use crate::policy::verdict::{DenyReason, Revision, RuleId};

    #[derive(Default)]
    struct Run(Summary);

    impl Run {
        fn record(&self, flow: Option<u64>, dst: Option<&str>, kind: Kind) -> &Self {
            self.0.record(&Event {
                time: SystemTime::UNIX_EPOCH,
                sandbox: SandboxId::new("run-1").unwrap(),
                flow: flow.map(FlowId),
                dst: dst.map(|dst| OriginalDst(dst.parse().unwrap())),
                kind,
            });
            self
        }

        fn verdict(&self, flow: u64, name: &str, outcome: Result<RouteTaken, DenyReason>) -> &Self {
            self.record(Some(flow), Some("192.0.2.9:443"), Kind::Verdict(judged(name, outcome)))
        }

        fn request(&self, flow: u64, name: &str, outcome: Result<RouteTaken, DenyReason>, injected: &[&str]) -> &Self {
            let request = Some(Request { method: "GET".into(), path: "/".into() });
            let injected = injected.iter().map(|header| (*header).into()).collect();
            let judged = Judged { request, injected, ..judged(name, outcome) };
            self.record(Some(flow), Some("192.0.2.9:443"), Kind::Verdict(judged))
        }

        fn close(&self, flow: u64, bytes_out: u64, bytes_in: u64) -> &Self {
            self.record(
                Some(flow),
                None,
                Kind::Close(Closed { name: None, bytes_out, bytes_in, scrubbed: 0, error: None }),
            )
        }

        fn text(&self) -> String {
            self.0.render()
        }
    }

    fn judged(name: &str, outcome: Result<RouteTaken, DenyReason>) -> Judged {
        Judged {
            outcome,
            observed: None,
            rule: None,
            revision: Revision([0; 32]),
            protocol: Protocol::Tls,
            name: (!name.is_empty()).then(|| Domain::parse(name).unwrap()),
            request: None,
            injected: Vec::new(),
            status: None,
        }
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        assert_eq!(Run::default().text(), "");
    }

    #[test]
    fn allowed_rows_show_route_requests_bytes_and_injected_names() {
        let run = Run::default();
        run.verdict(1, "api.github.com", Ok(RouteTaken::Terminate));
        run.request(1, "api.github.com", Ok(RouteTaken::Terminate), &["authorization"]);
        run.request(1, "api.github.com", Ok(RouteTaken::Terminate), &["authorization", "x-team"]);
        run.request(1, "api.github.com", Ok(RouteTaken::Respond), &[]);
        run.close(1, 400, 20_000);
        run.verdict(2, "example.com", Ok(RouteTaken::Splice)).close(2, 5, 6);
        run.record(Some(3), Some("10.20.0.1:5432"), Kind::Verdict(judged("", Ok(RouteTaken::Relay))));
        assert_eq!(
            run.text(),
            "exeat: allowed\n\
             \x20 api.github.com  terminate  2 requests    19 KiB  injected authorization, x-team\n\
             \x20 api.github.com  respond    1 request\n\
             \x20 example.com     splice     1 connection  11 B\n\
             \x20 10.20.0.1:5432  relay      1 connection\n"
        );
    }

    #[test]
    fn denied_rows_show_the_reason_and_the_line_that_would_allow_it() {
        let run = Run::default();
        let question = Judged { protocol: Protocol::Dns, ..judged("evil.example", Err(DenyReason::NoRule)) };
        run.record(None, None, Kind::Verdict(question.clone()));
        run.record(None, None, Kind::Verdict(question));
        let rule = Some(RuleId::in_file(&"agent.yaml".into(), 7));
        let denied = Judged { rule, ..judged("gist.github.com", Err(DenyReason::DeniedDomain)) };
        run.record(Some(1), Some("192.0.2.9:443"), Kind::Verdict(denied));
        run.record(Some(2), Some("10.0.0.1:22"), Kind::Verdict(judged("", Err(DenyReason::ProtectedRange))));
        run.record(
            None,
            None,
            Kind::Verdict(Judged { protocol: Protocol::Dns, ..judged("intranet", Err(DenyReason::NoRule)) }),
        );
        assert_eq!(
            run.text(),
            "exeat: denied, and what would allow it\n\
             \x20 evil.example     no-rule          2 questions  --allow evil.example\n\
             \x20 gist.github.com  denied-domain    1 time       take agent.yaml:7 out of `deny`\n\
             \x20 10.0.0.1:22      protected-range  1 time       --allow-cidr 10.0.0.1/32\n\
             \x20 intranet         no-rule          1 question\n"
        );
    }

    #[test]
    fn a_name_refused_to_dns_and_again_to_a_flow_is_one_row() {
        let run = Run::default();
        let question = Judged { protocol: Protocol::Dns, ..judged("evil.example", Err(DenyReason::NoRule)) };
        run.record(None, None, Kind::Verdict(question));
        run.verdict(1, "evil.example", Err(DenyReason::NoRule));
        assert_eq!(run.text().lines().count(), 2, "{}", run.text());
        assert!(run.text().contains(" 1 time "), "{}", run.text());
    }

    #[test]
    fn observed_denials_stand_in_both_halves() {
        let run = Run::default();
        let observed = Judged { observed: Some(DenyReason::NoRule), ..judged("example.com", Ok(RouteTaken::Splice)) };
        run.record(Some(1), None, Kind::Verdict(observed));
        let text = run.text();
        assert!(text.contains("example.com  splice  1 connection"), "{text}");
        assert!(text.contains("example.com  no-rule (observed)  1 time"), "{text}");
    }

    #[test]
    fn rows_are_bounded_and_the_rest_is_counted() {
        let run = Run::default();
        for number in 0..limits::SUMMARY_ROWS as u64 + 3 {
            run.verdict(number, &format!("n{number}.example"), Err(DenyReason::NoRule));
        }
        let text = run.text();
        assert_eq!(text.lines().count(), limits::SUMMARY_ROWS + 2, "{text}");
        assert!(text.ends_with("  … and 3 more\n"), "{text}");
    }

    #[test]
    fn a_long_name_shows_its_end() {
        let long = format!("{}.evil.example", ["a".repeat(60), "b".repeat(60)].join("."));
        assert_eq!(shortened(&long).chars().count(), 61);
        assert!(shortened(&long).starts_with('…') && shortened(&long).ends_with(".evil.example"));
        assert_eq!(shortened("api.github.com"), "api.github.com");
    }

    #[test]
    fn a_cell_cannot_move_a_cursor() {
        let run = Run::default();
        let injected = vec!["\u{1b}[2Jx\r\u{202e}".into()];
        run.record(None, None, Kind::Verdict(Judged { injected, ..judged("example.com", Ok(RouteTaken::Splice)) }));
        assert!(run.text().contains(r"injected \u{1b}[2Jx\u{d}\u{202e}"), "{}", run.text());
    }
}
