//! The table: medians, and the promises beside them.

use std::collections::BTreeMap;
use std::fmt;

use crate::load::{Sample, Work, median};

/// Every sample.
#[derive(Default)]
pub(crate) struct Report {
    /// In the order in which they were measured first.
    proxies: Vec<String>,
    samples: BTreeMap<(Work, String), Vec<Sample>>,
}

/// How much work may cost us, in parts of what it costs another.
const PROMISES: [(Work, &str, f64); 8] = [
    (Work::BulkUnread, "nginx-sni", 1.0),
    (Work::ConnectUnread, "nginx-sni", 1.17),
    (Work::Http1, "nginx-mitm", 1.45),
    (Work::Http2, "haproxy-mitm", 1.6),
    (Work::Connect, "nginx-mitm", 1.3),
    (Work::Bulk, "nginx-mitm", 0.9),
    (Work::Idle, "nginx", 1.0),
    (Work::NewNames, "haproxy-mitm", 1.0),
];

/// What is promised whatever others do, in the work's unit.
const ABSOLUTE: [(Work, f64); 2] = [(Work::Neighbour, 2.0), (Work::BothWays, 10.0)];

impl Report {
    pub(crate) fn add(&mut self, proxy: &str, work: Work, sample: Sample) {
        if !self.proxies.iter().any(|known| known == proxy) {
            self.proxies.push(proxy.to_owned());
        }
        self.samples.entry((work, proxy.to_owned())).or_default().push(sample);
    }

    fn figure(&self, work: Work, proxy: &str) -> Option<f64> {
        let samples = self.samples.get(&(work, proxy.to_owned()))?;
        median(&mut samples.iter().map(|sample| sample.figure).collect::<Vec<_>>())
    }

    fn one_by_one(&self, work: Work, proxy: &str) -> Option<f64> {
        let samples = self.samples.get(&(work, proxy.to_owned()))?;
        median(&mut samples.iter().filter_map(|sample| sample.median_ms).collect::<Vec<_>>())
    }

    fn cell(&self, work: Work, proxy: &str) -> String {
        let Some(figure) = self.figure(work, proxy) else { return "–".to_owned() };
        let figure = if figure < 10.0 { format!("{figure:.2}") } else { format!("{figure:.0}") };
        match self.one_by_one(work, proxy) {
            Some(median) => format!("{figure}; {median:.2} ms"),
            None => figure,
        }
    }

    fn table(&self, f: &mut fmt::Formatter<'_>, intercepted: bool, works: &[Work]) -> fmt::Result {
        let heads = works.iter().map(|work| format!("{} {}", work.name(), work.unit()));
        writeln!(
            f,
            "| {} | {} |",
            if intercepted { "intercepting" } else { "unread" },
            heads.collect::<Vec<_>>().join(" | ")
        )?;
        writeln!(f, "|---|{}", "---|".repeat(works.len()))?;
        for proxy in &self.proxies {
            if proxy.ends_with("-mitm") == intercepted && proxy != "none" {
                let cells: Vec<String> = works.iter().map(|work| self.cell(*work, proxy)).collect();
                writeln!(f, "| {proxy} | {} |", cells.join(" | "))?;
            }
        }
        writeln!(f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table(f, false, &[Work::BulkUnread, Work::ConnectUnread, Work::Idle])?;
        self.table(f, true, &[Work::Http1, Work::Http2, Work::Connect, Work::Bulk, Work::Idle, Work::NewNames])?;
        self.table(f, true, &[Work::Neighbour, Work::BulkyNeighbour, Work::BothWays])?;
        let direct = [Work::ConnectUnread, Work::Connect].into_iter().find_map(|work| self.one_by_one(work, "none"));
        if let Some(direct) = direct {
            writeln!(f, "Plain routing: {direct:.2} ms for a new connection, one at a time.")?;
        }
        if let Some(ratio) = self.figure(Work::Neighbour, "none") {
            writeln!(f, "Plain routing: {ratio:.2} p99 ratio (W8).")?;
        }
        for (work, peer, most) in PROMISES {
            let kinds = if work == Work::Idle { ["-sni", "-mitm"].as_slice() } else { &[""] };
            for kind in kinds {
                let ours = match work.intercepted() {
                    Some(true) => "exeat-mitm".to_owned(),
                    Some(false) => "exeat-sni".to_owned(),
                    None => format!("exeat{kind}"),
                };
                let peer = format!("{peer}{kind}");
                if let (Some(own), Some(other)) = (self.figure(work, &ours), self.figure(work, &peer)) {
                    let (ratio, verdict) = (own / other, if own <= most * other { "kept" } else { "NOT KEPT" });
                    writeln!(f, "{}: {ratio:.2} of {peer}; may cost {most}: {verdict}", work.name())?;
                }
            }
        }
        for (work, most) in ABSOLUTE {
            if let Some(own) = self.figure(work, "exeat-mitm") {
                let verdict = if own <= most { "kept" } else { "NOT KEPT" };
                writeln!(f, "{}: {own:.2} {}; may be {most}: {verdict}", work.name(), work.unit())?;
            }
        }
        let strangers: Vec<f64> = self.samples.values().flatten().map(|sample| sample.others).collect();
        let worst = strangers.iter().copied().fold(0.0, f64::max);
        writeln!(
            f,
            "Strangers used {:.1} cores (median; {worst:.1} at worst).",
            median(&mut { strangers }).unwrap_or_default()
        )
    }
}
