//! One event per verdict, one per close (POLICY §10); sinks that keep them.
//!
//! An [`Event`] is made where the verdict is, once; every sink (a file of JSON lines, the summary at the end of
//! `run`, metrics later) reads the same one. Nothing secret is in it: header values never, header names only.

mod enduring;
mod file;
pub mod journal;
mod json_lines;
mod summary;

use std::sync::Arc;
use std::time::SystemTime;

pub use enduring::Enduring;
pub use file::{AuditFile, Rotation};
pub use json_lines::{JsonLines, line};
pub use summary::Summary;

pub use crate::policy::verdict::RouteTaken;

use crate::flow::{Domain, FlowId, OriginalDst, SandboxId};
use crate::policy::verdict::{DenyReason, Revision, RuleId};

/// Takes events. Must not block for long: the data path calls it.
pub trait Record: Send + Sync {
    /// Keeps one event.
    fn record(&self, event: &Event);
}

/// What happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub time: SystemTime,
    /// In which sandbox.
    pub sandbox: SandboxId,
    /// In which flow; `None` for a DNS question over UDP.
    pub flow: Option<FlowId>,
    /// Where the flow was going, if it was a flow.
    pub dst: Option<OriginalDst>,
    /// What.
    pub kind: Kind,
}

/// The two events of POLICY §10.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A judgement.
    Verdict(Judged),
    /// A flow's end.
    Close(Closed),
}

/// A judgement, as it is recorded.
#[derive(Debug, Clone)]
pub struct Judged {
    /// `Ok`: the route of an allowed flow or request; `Err`: why it was denied.
    pub outcome: Result<RouteTaken, DenyReason>,
    /// Under `observe`: the reason for which this would have been denied.
    pub observed: Option<DenyReason>,
    /// The rule that decided.
    pub rule: Option<RuleId>,
    /// Of which policy.
    pub revision: Revision,
    /// What was spoken.
    pub protocol: Protocol,
    /// The name judged, if one was known.
    pub name: Option<Domain>,
    /// Of a request.
    pub request: Option<Request>,
    /// Lower-case names of headers injected.
    pub injected: Vec<String>,
    /// The status that we answered with, where we answered.
    pub status: Option<u16>,
}

/// `protocol` of POLICY §10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Not known: nothing was read.
    Tcp,
    /// A datagram, and those that follow it.
    Udp,
    /// Spliced or refused TLS.
    Tls,
    /// HTTP/1, in clear or terminated.
    Http,
    /// HTTP/2, in clear or terminated.
    H2,
    /// A DNS question.
    Dns,
}

impl Protocol {
    /// The stable string.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::H2 => "h2",
            Self::Dns => "dns",
        }
    }
}

/// A request, as it is recorded: never a query, never a header value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// As sent.
    pub method: String,
    /// As sent, without its query.
    pub path: String,
}

/// A flow's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The name the flow was judged by, if one was known.
    pub name: Option<Domain>,
    /// Bytes that the sandbox sent, as relayed.
    pub bytes_out: u64,
    /// Bytes that the sandbox received, as relayed.
    pub bytes_in: u64,
    /// How many secrets were struck out of what the sandbox received.
    pub scrubbed: u64,
    /// What went wrong, in one clear sentence, if something did (an upstream that refused, a time-out).
    pub error: Option<Arc<str>>,
}

/// Several sinks as one.
pub struct Fanout(pub Vec<Arc<dyn Record>>);

impl Record for Fanout {
    fn record(&self, event: &Event) {
        for sink in &self.0 {
            sink.record(event);
        }
    }
}

/// Characters that a record or a terminal must not be given as they are: controls, line and paragraph separators, and
/// what changes the direction of text or is not seen.
fn is_unsafe_to_show(c: char) -> bool {
    let hidden = matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let moves = matches!(c, '\u{2028}'..='\u{202e}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    c.is_control() || hidden || moves
}
