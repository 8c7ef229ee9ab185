//! What the flows of one sandbox are doing, read off its audit events on their way.
//!
//! A session's flows may be of two processes, one of which serves it no more (see `take_over`): what the earlier one
//! counts from then on is heeded here, too, and each flow counts once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::audit::{Event, Kind, Record};
use crate::control::action::{Bytes, FlowView};
use crate::flow::Domain;

/// Passes every event on, and counts.
pub(super) struct Meter {
    onward: Arc<dyn Record>,
    counts: Mutex<Counts>,
}

struct Counts {
    tally: Tally,
    follower: Option<Box<dyn Fn(News) + Send>>,
}

/// What has come together.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Of flows that have ended.
    pub(super) bytes: Bytes,
    /// Flows that were judged and have not ended, by number.
    pub(super) open: BTreeMap<u64, FlowView>,
}

/// What becomes of a tally.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum News {
    /// A flow was judged, or its name has become known.
    Open(FlowView),
    /// A flow has ended, with these bytes.
    Closed(u64, Bytes),
    /// All flows with lower numbers are gone, and nobody knows their bytes.
    Lost(u64),
}

impl Tally {
    pub(super) fn heed(&mut self, news: &News) {
        match news {
            News::Open(view) => drop(self.open.insert(view.flow, view.clone())),
            News::Closed(flow, Bytes { ingress, egress }) => {
                self.open.remove(flow);
                self.bytes.ingress = self.bytes.ingress.saturating_add(*ingress);
                self.bytes.egress = self.bytes.egress.saturating_add(*egress);
            }
            News::Lost(before) => self.open = self.open.split_off(before),
        }
    }

    /// What an event changes.
    fn news(&self, event: &Event) -> Option<News> {
        let (flow, dst) = (event.flow?.0, event.dst?);
        match &event.kind {
            Kind::Close(closed) => {
                Some(News::Closed(flow, Bytes { ingress: closed.bytes_in, egress: closed.bytes_out }))
            }
            Kind::Verdict(judged) => {
                let before = self.open.get(&flow);
                // Most judgements are of requests of a flow that is known, by its name.
                if before.is_some_and(|view| view.name.is_some() || judged.name.is_none()) {
                    return None;
                }
                let name = judged.name.as_ref().map(Domain::to_string);
                let since = before.map_or_else(|| milliseconds(event.time), |view| view.since);
                Some(News::Open(FlowView { flow, address: dst.ip(), port: dst.port(), name, since }))
            }
        }
    }
}

impl Meter {
    /// A meter that begins with these bytes.
    pub(super) fn new(onward: Arc<dyn Record>, bytes: Bytes) -> Self {
        let tally = Tally { bytes, open: BTreeMap::new() };
        Self { onward, counts: Mutex::new(Counts { tally, follower: None }) }
    }

    /// Bytes of all flows that have ended.
    pub(super) fn bytes(&self) -> Bytes {
        self.counts().tally.bytes
    }

    /// Flows that were judged and have not ended.
    pub(super) fn open(&self) -> Vec<FlowView> {
        self.counts().tally.open.values().cloned().collect()
    }

    /// How many.
    pub(super) fn open_count(&self) -> usize {
        self.counts().tally.open.len()
    }

    /// Goes on with another process's tally.
    pub(super) fn take(&self, tally: Tally) {
        self.counts().tally = tally;
    }

    /// Heeds what another process tells of its flows.
    pub(super) fn heed(&self, news: News) {
        self.counts().change(news);
    }

    /// Tells what has come together, and then each change, in place of whoever was told before. What is called must
    /// not wait.
    pub(super) fn follow(&self, begin: impl FnOnce(Tally), tell: impl Fn(News) + Send + 'static) {
        let mut counts = self.counts();
        begin(counts.tally.clone());
        counts.follower = Some(Box::new(tell));
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn change(&mut self, news: News) {
        self.tally.heed(&news);
        if let Some(follower) = &self.follower {
            follower(news);
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Record for Meter {
    fn record(&self, event: &Event) {
        let mut counts = self.counts();
        if let Some(news) = counts.tally.news(event) {
            counts.change(news);
        }
        drop(counts);
        self.onward.record(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Fanout;

    fn view(flow: u64) -> FlowView {
        FlowView { flow, address: [192, 0, 2, 1].into(), port: 443, name: None, since: 0 }
    }

    #[test]
    fn each_flow_counts_once_whichever_process_has_it() {
        let bytes = |ingress| Bytes { ingress, egress: 1 };
        let [old, new] = [(); 2].map(|()| Meter::new(Arc::new(Fanout(Vec::new())), Bytes::default()));
        old.heed(News::Open(view(1)));
        old.heed(News::Closed(1, bytes(10)));
        old.heed(News::Open(view(2)));
        old.heed(News::Open(view(3)));
        let (tell, told) = std::sync::mpsc::channel();
        old.follow(|tally| new.take(tally), move |news| drop(tell.send(news)));
        new.heed(News::Open(view(4)));
        old.heed(News::Closed(2, bytes(100)));
        assert_eq!((old.bytes(), new.bytes()), (Bytes { ingress: 110, egress: 2 }, bytes(10)));
        told.try_iter().for_each(|news| new.heed(news));
        assert_eq!(new.bytes(), old.bytes());
        let open = |meter: &Meter| meter.open().iter().map(|view| view.flow).collect::<Vec<_>>();
        assert_eq!((open(&old), open(&new)), (vec![3], vec![3, 4]));
        new.heed(News::Lost(4));
        assert_eq!(open(&new), [4], "the other process is gone, and its flows with it");
    }
}
