//! What the flows of one sandbox are doing, read off its audit events on their way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::audit::{Event, Kind, Record};
use crate::control::action::{Bytes, FlowView};
use crate::flow::Domain;

/// Passes every event on, and counts.
pub(super) struct Meter {
    onward: Arc<dyn Record>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    open: BTreeMap<u64, FlowView>,
    bytes: Bytes,
}

impl Meter {
    /// A meter that begins with these bytes.
    pub(super) fn new(onward: Arc<dyn Record>, bytes: Bytes) -> Self {
        Self { onward, counts: Mutex::new(Counts { open: BTreeMap::new(), bytes }) }
    }

    /// Bytes of all flows that have ended.
    pub(super) fn bytes(&self) -> Bytes {
        self.counts().bytes
    }

    /// Flows that were judged and have not ended.
    pub(super) fn open(&self) -> Vec<FlowView> {
        self.counts().open.values().cloned().collect()
    }

    /// How many.
    pub(super) fn open_count(&self) -> usize {
        self.counts().open.len()
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since 1970.
pub(super) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Record for Meter {
    fn record(&self, event: &Event) {
        if let (Some(flow), Some(dst)) = (event.flow, event.dst) {
            let mut counts = self.counts();
            match &event.kind {
                Kind::Verdict(judged) => {
                    let view = counts.open.entry(flow.0).or_insert_with(|| FlowView {
                        flow: flow.0,
                        address: dst.ip(),
                        port: dst.port(),
                        name: None,
                        since: milliseconds(event.time),
                    });
                    view.name = view.name.take().or_else(|| judged.name.as_ref().map(Domain::to_string));
                }
                Kind::Close(closed) => {
                    counts.open.remove(&flow.0);
                    counts.bytes.egress = counts.bytes.egress.saturating_add(closed.bytes_out);
                    counts.bytes.ingress = counts.bytes.ingress.saturating_add(closed.bytes_in);
                }
            }
        }
        self.onward.record(event);
    }
}
