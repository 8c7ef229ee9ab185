//! Counters for the operator, derived from the audit's events.
//!
//! - `INVARIANT`: every label is from a closed set: no name, address or sandbox makes another series.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::audit::{Closed, Event, Judged, Kind, Record};

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// See the module's doc.
pub struct Metrics {
    registry: Registry,
    verdicts: Family<Labels<3>, Counter>,
    closed: Family<Labels<1>, Counter>,
    bytes: Family<Labels<1>, Counter>,
    scrubbed: Counter,
    sandboxes: Gauge,
    open: Gauge,
    tasks: Gauge,
    unlocked: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("exeat");
        let (verdicts, closed, bytes) = (Family::default(), Family::default(), Family::default());
        let scrubbed = Counter::default();
        let (sandboxes, open, tasks) = (Gauge::default(), Gauge::default(), Gauge::default());
        let unlocked = Gauge::default();
        let about = "Judgements of flows, requests and refused DNS questions, by route or reason";
        registry.register("verdicts", about, Family::clone(&verdicts));
        registry.register("flows_closed", "Flows that ended, by whether something went wrong", Family::clone(&closed));
        registry.register_with_unit("flow", "Bytes of flows that ended", Unit::Bytes, Family::clone(&bytes));
        registry.register(
            "secrets_scrubbed",
            "Secrets struck out of what origins sent back",
            Counter::clone(&scrubbed),
        );
        registry.register("sandboxes", "Sandboxes that are registered", Gauge::clone(&sandboxes));
        registry.register("flows_open", "Flows that were judged and have not ended", Gauge::clone(&open));
        registry.register("tasks", "Tasks of the daemon's runtime", Gauge::clone(&tasks));
        let about = "Memory for secrets that could not be locked: it may be written to swap";
        registry.register_with_unit("secrets_unlocked", about, Unit::Bytes, Gauge::clone(&unlocked));
        Self { registry, verdicts, closed, bytes, scrubbed, sandboxes, open, tasks, unlocked }
    }
}

impl Metrics {
    /// All of it, in the text format that Prometheus reads (OpenMetrics), with what its caller counts itself.
    #[must_use]
    pub fn render(&self, sandboxes: usize, open: usize, tasks: usize, unlocked: usize) -> String {
        let counts =
            [(&self.sandboxes, sandboxes), (&self.open, open), (&self.tasks, tasks), (&self.unlocked, unlocked)];
        for (gauge, now) in counts {
            gauge.set(i64::try_from(now).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        // A string takes everything.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Record for Metrics {
    fn record(&self, event: &Event) {
        match &event.kind {
            Kind::Verdict(Judged { outcome, observed, protocol, .. }) => {
                let (verdict, by) = match (observed, outcome) {
                    (None, Ok(route)) => ("allow", route.as_str()),
                    (Some(reason), Ok(_)) => ("observed", reason.as_str()),
                    (_, Err(reason)) => ("deny", reason.as_str()),
                };
                let labels = [("verdict", verdict), ("by", by), ("protocol", protocol.as_str())];
                self.verdicts.get_or_create(&labels).inc();
            }
            Kind::Close(Closed { name: _, bytes_out, bytes_in, scrubbed, error }) => {
                let end = if error.is_some() { "error" } else { "orderly" };
                self.closed.get_or_create(&[("end", end)]).inc();
                self.bytes.get_or_create(&[("direction", "egress")]).inc_by(*bytes_out);
                self.bytes.get_or_create(&[("direction", "ingress")]).inc_by(*bytes_in);
                self.scrubbed.inc_by(*scrubbed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::flow::{FlowId, SandboxId};

    #[test]
    fn events_are_counted_and_names_are_not_shown() {
        let metrics = Metrics::default();
        let close = |name: &str| Event {
            time: SystemTime::UNIX_EPOCH,
            sandbox: SandboxId::new(name).unwrap(),
            flow: Some(FlowId(1)),
            dst: None,
            kind: Kind::Close(Closed {
                name: crate::flow::Domain::parse("canary.test").ok(),
                bytes_out: 3,
                bytes_in: 4,
                scrubbed: 1,
                error: None,
            }),
        };
        metrics.record(&close("canary-1"));
        metrics.record(&close("canary-2"));
        let text = metrics.render(2, 1, 7, 8192);
        for line in [
            "exeat_flows_closed_total{end=\"orderly\"} 2",
            "exeat_flow_bytes_total{direction=\"egress\"} 6",
            "exeat_flow_bytes_total{direction=\"ingress\"} 8",
            "exeat_secrets_scrubbed_total 2",
            "exeat_sandboxes 2",
            "exeat_flows_open 1",
            "exeat_tasks 7",
            "exeat_secrets_unlocked_bytes 8192",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("canary"));
    }
}
