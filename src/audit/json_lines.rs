//! The audit record: one JSON object a line (POLICY §10), written by a thread of its own.
//!
//! - `INVARIANT`: a recorded event is written or its loss is reported by [`JsonLines::close`]; none is dropped for
//!   speed. When [`limits::AUDIT_QUEUE`] events wait, recording waits.
//! - `INVARIANT`: a line holds no control, line-breaking or direction-changing character, whatever a sandbox sent.

use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::ser::Formatter;
use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

use super::{Closed, Event, Judged, Kind, Record, is_unsafe_to_show};
use crate::limits;
use crate::policy::verdict::RuleId;

/// A sink that writes the audit record.
pub struct JsonLines {
    queue: SyncSender<Message>,
    writer: Mutex<Option<JoinHandle<io::Result<()>>>>,
}

impl JsonLines {
    /// Starts writing to `out`, which gets whole lines each time.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, events) = sync_channel(limits::AUDIT_QUEUE);
        let writer = std::thread::Builder::new().name("audit".into()).spawn(move || write_all(&events, out))?;
        Ok(Self { queue, writer: Mutex::new(Some(writer)) })
    }

    /// Waits until everything recorded before is written; what is recorded after is not.
    ///
    /// # Errors
    /// The first write that failed.
    pub fn close(&self) -> io::Result<()> {
        // The queue refuses only when the writer has ended, which the join then reports.
        let _ = self.queue.send(Message::Close);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        writer.map_or(Ok(()), |writer| writer.join().unwrap_or_else(|_| Err(io::Error::other("the audit writer died"))))
    }
}

impl JsonLines {
    /// Writes whole lines that another process has made.
    pub fn write(&self, lines: String) {
        // It fails only after `close`.
        let _ = self.queue.send(Message::Lines(lines));
    }
}

impl Record for JsonLines {
    fn record(&self, event: &Event) {
        // It fails only after `close`.
        let _ = self.queue.send(Message::Event(Box::new(event.clone())));
    }
}

enum Message {
    Event(Box<Event>),
    Lines(String),
    Close,
}

/// Bytes of lines that are written at once, even if more wait.
const BATCH: usize = 64 * 1024;

/// Writes until told to close; lines are written as soon as none waits behind them. After a failed write it still takes
/// events, so that the data path goes on, and returns the first failure.
fn write_all(events: &Receiver<Message>, mut out: impl Write) -> io::Result<()> {
    let (mut lines, mut outcome) = (Vec::new(), Ok(()));
    let mut pass_on = |lines: &mut Vec<u8>| {
        if outcome.is_ok() && !lines.is_empty() {
            outcome = out.write_all(lines).and_then(|()| out.flush());
        }
        lines.clear();
    };
    loop {
        let message = match events.try_recv() {
            Ok(message) => Some(message),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => {
                pass_on(&mut lines);
                events.recv().ok()
            }
        };
        match message {
            // Memory takes everything.
            Some(Message::Event(event)) => drop(write_line(&mut lines, &event)),
            Some(Message::Lines(text)) => lines.extend_from_slice(text.as_bytes()),
            Some(Message::Close) | None => break,
        }
        if lines.len() >= BATCH {
            pass_on(&mut lines);
        }
    }
    pass_on(&mut lines);
    outcome
}

/// An event as the record has it, without its line's end.
#[must_use]
pub fn line(event: &Event) -> String {
    let mut line = Vec::new();
    // Memory takes everything.
    let _ = write_line(&mut line, event);
    line.pop();
    String::from_utf8(line).unwrap_or_default()
}

fn write_line(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, OneLine);
    Line::from(event).serialize(&mut serializer).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

/// An event in the form of POLICY §10: the order of its fields, and absent ones left out.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    sandbox: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    flow: Option<u64>,
    event: &'static str,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Verdict(VerdictFields<'a>),
    Close(CloseFields<'a>),
}

#[derive(Serialize)]
struct VerdictFields<'a> {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    observed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a RuleId>,
    revision: String,
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    injected: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
}

#[derive(Serialize)]
struct CloseFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    bytes_out: u64,
    bytes_in: u64,
    #[serde(skip_serializing_if = "is_none_of_them")]
    scrubbed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

fn is_none_of_them(count: &u64) -> bool {
    *count == 0
}

impl<'a> From<&'a Event> for Line<'a> {
    fn from(event: &'a Event) -> Self {
        let Event { time, sandbox, flow, dst, kind } = event;
        let (address, port) = (dst.map(|dst| dst.ip()), dst.map(|dst| dst.port()));
        let (event, what) = match kind {
            Kind::Verdict(judged) => ("verdict", What::Verdict(verdict_fields(judged, address, port))),
            Kind::Close(Closed { name, bytes_out, bytes_in, scrubbed, error }) => {
                let name = name.as_ref().map(|name| name.as_str());
                let (bytes_out, bytes_in, scrubbed) = (*bytes_out, *bytes_in, *scrubbed);
                let error = error.as_deref();
                ("close", What::Close(CloseFields { name, address, port, bytes_out, bytes_in, scrubbed, error }))
            }
        };
        Self { time: rfc3339(*time), sandbox: sandbox.as_str(), flow: flow.map(|flow| flow.0), event, what }
    }
}

fn verdict_fields(judged: &Judged, address: Option<IpAddr>, port: Option<u16>) -> VerdictFields<'_> {
    let Judged { outcome, observed, rule, revision, protocol, name, request, injected, status } = judged;
    // Under `observe` the verdict was to deny, and the route is the one that was taken all the same (POLICY §8).
    let reason = observed.or(outcome.err());
    VerdictFields {
        verdict: if reason.is_some() { "deny" } else { "allow" },
        route: outcome.ok().map(super::RouteTaken::as_str),
        reason: reason.map(|reason| reason.as_str()),
        observed: observed.is_some(),
        rule: rule.as_ref(),
        revision: revision.to_string(),
        protocol: protocol.as_str(),
        name: name.as_ref().map(|name| name.as_str()),
        address,
        port,
        method: request.as_ref().map(|request| request.method.as_str()),
        path: request.as_ref().map(|request| request.path.as_str()),
        injected,
        status: *status,
    }
}

fn rfc3339(time: SystemTime) -> String {
    const FORM: StaticFormatDescription =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    // All its parts are there in every time, so formatting cannot fail.
    OffsetDateTime::from(time).format(FORM).unwrap_or_default()
}

/// Compact JSON that also escapes what JSON would let through and a terminal would act on.
struct OneLine;

impl Formatter for OneLine {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        for piece in fragment.split_inclusive(is_unsafe_to_show) {
            let last = piece.chars().next_back().filter(|last| is_unsafe_to_show(*last));
            let plain = last.map_or(piece, |last| piece.strip_suffix(last).unwrap_or(piece));
            out.write_all(plain.as_bytes())?;
            for unit in last.iter().flat_map(|last| last.encode_utf16(&mut [0; 2]).to_vec()) {
                write!(out, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::audit::{Protocol, Request, RouteTaken};
    use crate::flow::{Domain, FlowId, OriginalDst, SandboxId};
    use crate::policy::verdict::{DenyReason, Revision};

    /// Bytes that a test can read while the writer's thread holds the other end.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Shared {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn event(kind: Kind) -> Event {
        Event {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_230_245_678),
            sandbox: SandboxId::new("run-7f3a").unwrap(),
            flow: Some(FlowId(12)),
            dst: Some(OriginalDst("140.82.112.5:443".parse().unwrap())),
            kind,
        }
    }

    fn judged() -> Judged {
        Judged {
            outcome: Ok(RouteTaken::Terminate),
            observed: None,
            rule: Some(RuleId::in_file(&"policies/coding-agent.yaml".into(), 6)),
            revision: Revision(std::array::from_fn(|index| {
                [0x9c, 0x1f, 0, 0, 0, 0, 0, 1].get(index).copied().unwrap_or_default()
            })),
            protocol: Protocol::H2,
            name: Some(Domain::parse("api.github.com").unwrap()),
            request: Some(Request { method: "GET".into(), path: "/user".into() }),
            injected: vec!["authorization".into()],
            status: None,
        }
    }

    fn written(events: &[Event]) -> String {
        let out = Shared::default();
        let sink = JsonLines::start(out.clone()).unwrap();
        events.iter().for_each(|event| sink.record(event));
        sink.close().unwrap();
        out.text()
    }

    #[test]
    fn a_verdict_is_the_line_of_the_policy_page() {
        assert_eq!(
            written(&[event(Kind::Verdict(judged()))]),
            concat!(
                r#"{"time":"2026-11-21T03:04:05.678Z","sandbox":"run-7f3a","flow":12,"event":"verdict","#,
                r#""verdict":"allow","route":"terminate","rule":"policies/coding-agent.yaml:6","#,
                r#""revision":"9c1f000000000001","protocol":"h2","name":"api.github.com","address":"140.82.112.5","#,
                r#""port":443,"method":"GET","path":"/user","injected":["authorization"]}"#,
                "\n"
            )
        );
    }

    #[test]
    fn absent_fields_are_left_out() {
        let kind = Kind::Verdict(Judged {
            outcome: Err(DenyReason::NoName),
            rule: None,
            name: None,
            request: None,
            injected: Vec::new(),
            protocol: Protocol::Dns,
            ..judged()
        });
        let line = written(&[Event { flow: None, dst: None, ..event(kind) }]);
        assert_eq!(
            line,
            concat!(
                r#"{"time":"2026-11-21T03:04:05.678Z","sandbox":"run-7f3a","event":"verdict","verdict":"deny","#,
                r#""reason":"no-name","revision":"9c1f000000000001","protocol":"dns"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn an_observed_denial_is_a_denial_with_the_route_that_was_taken() {
        let line = written(&[event(Kind::Verdict(Judged { observed: Some(DenyReason::NoRule), ..judged() }))]);
        assert!(line.contains(r#""verdict":"deny","route":"terminate","reason":"no-rule","observed":true,"#), "{line}");
    }

    #[test]
    fn a_close_counts_bytes_and_says_what_went_wrong() {
        let close =
            Closed { name: None, bytes_out: 7, bytes_in: 9, scrubbed: 0, error: Some("connection refused".into()) };
        let scrubbed = Closed { scrubbed: 2, ..close.clone() };
        assert!(written(&[event(Kind::Close(scrubbed))]).contains(r#""bytes_in":9,"scrubbed":2,"error""#));
        let line = written(&[event(Kind::Close(close))]);
        let tail = concat!(
            r#""event":"close","address":"140.82.112.5","port":443,"bytes_out":7,"bytes_in":9,"#,
            r#""error":"connection refused"}"#,
            "\n"
        );
        assert!(line.ends_with(tail), "{line}");
    }

    #[test]
    fn text_from_the_sandbox_stays_in_its_line_and_cannot_move_a_cursor() {
        let path = "/a\n{}\u{1b}[2J\u{7f}\u{9b}31m\u{202e}\u{2028}\u{e0041}é";
        let request = Some(Request { method: "G\rT".into(), path: path.into() });
        let line = written(&[event(Kind::Verdict(Judged { request, ..judged() }))]);
        assert!(!line.trim_end_matches('\n').contains(is_unsafe_to_show), "{line}");
        assert!(line.contains(r"/a\n{}\u001b[2J\u007f\u009b31m\u202e\u2028\udb40\udc41é"), "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["path"], path, "escaping must lose nothing");
    }

    #[test]
    fn close_waits_for_every_event_of_a_full_queue() {
        let events = vec![event(Kind::Verdict(judged())); limits::AUDIT_QUEUE * 3];
        assert_eq!(written(&events).lines().count(), events.len());
    }

    #[test]
    fn a_failed_write_is_reported_and_does_not_stop_the_data_path() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = JsonLines::start(Full).unwrap();
        for _ in 0..limits::AUDIT_QUEUE * 3 {
            sink.record(&event(Kind::Verdict(judged())));
        }
        assert_eq!(sink.close().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
