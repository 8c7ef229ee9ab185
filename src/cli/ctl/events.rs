//! `exeat ctl events`: the audit record as it is written (server-sent events, HTML Standard §9.2.6).

use std::io::stdout;
use std::ops::ControlFlow;

use http::Method;
use serde_json::Value;

use super::client::Ask;
use super::view::text;
use super::{Desk, Done, Format, encoded};
use crate::cli::{Exit, tell, write_whole};
use crate::limits;
use crate::policy::diagnostic::harmless;

/// Options of `exeat ctl events`.
#[derive(Debug, clap::Args)]
pub(super) struct EventsArguments {
    /// Of this sandbox, which need not be there yet; of all where none is given.
    name: Option<String>,
    /// What was denied, and nothing else.
    #[arg(long)]
    denied: bool,
}

/// Prints each record as it comes, for as long as somebody reads it.
pub(super) fn follow(desk: &Desk, arguments: &EventsArguments) -> Done {
    let EventsArguments { name, denied } = arguments;
    let filters =
        [name.as_ref().map(|name| format!("sandbox={}", encoded(name))), denied.then(|| "verdict=deny".to_owned())];
    let filters: Vec<String> = filters.into_iter().flatten().collect();
    let path = format!("/events?{}", filters.join("&"));
    let mut stream = Stream::default();
    let ask = Ask { method: Method::GET, path: &path, replaces: None, body: Vec::new() };
    desk.client.follow(ask, |bytes| {
        let print = |text: &str| match write_whole(stdout().lock(), text) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        stream.take(bytes).into_iter().try_for_each(|Event { kind, data }| match (kind.as_str(), desk.format) {
            ("missed", _) => {
                tell(&format!("exeat: {data} records came faster than they were read, and are missing\n"));
                ControlFlow::Continue(())
            }
            (_, Format::Json) => print(&format!("{data}\n")),
            (_, Format::Human) => print(&line(&serde_json::from_str(&data).unwrap_or_default())),
        })
    })?;
    Ok((String::new(), Exit::Success))
}

/// A record in one line.
fn line(record: &Value) -> String {
    let [time, sandbox, event] = ["/time", "/sandbox", "/event"].map(|key| text(record, key));
    let name = match (text(record, "/name").as_str(), text(record, "/address").as_str()) {
        ("-", address) => address.to_owned(),
        (name, _) => name.to_owned(),
    };
    let port = record.get("port").map(|port| format!(":{port}")).unwrap_or_default();
    let what = if event == "close" {
        let error = record.get("error").and_then(Value::as_str).map(|error| format!(": {error}")).unwrap_or_default();
        format!("close  {name}{port}  {} in, {} out{error}", text(record, "/bytes_in"), text(record, "/bytes_out"))
    } else {
        let reason = match (text(record, "/reason").as_str(), text(record, "/route").as_str()) {
            ("-", route) => route.to_owned(),
            (reason, _) if record.get("observed").is_some() => format!("{reason} (observed)"),
            (reason, _) => reason.to_owned(),
        };
        let request = match (record.get("method"), record.get("path")) {
            (Some(_), Some(_)) => format!("  {} {}", text(record, "/method"), text(record, "/path")),
            _ => format!("  {}", text(record, "/protocol")),
        };
        format!("{:<5}  {reason}  {name}{port}{request}", text(record, "/verdict"))
    };
    format!("{}\n", harmless(&format!("{time}  {sandbox}  {what}")))
}

/// Bytes of a stream of events that are no event yet.
#[derive(Default)]
struct Stream(Vec<u8>);

#[derive(Debug, PartialEq, Eq)]
struct Event {
    kind: String,
    data: String,
}

impl Stream {
    /// The events that end in these bytes. Comments, which keep the connection alive, are none.
    fn take(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.0.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.0.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.0.drain(..end + 2).collect();
            let block = String::from_utf8_lossy(&block);
            let field = |name: &str| {
                let lines = block.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                lines.map(|value| value.strip_prefix(' ').unwrap_or(value)).collect::<Vec<_>>().join("\n")
            };
            let data = field("data");
            if !data.is_empty() {
                events.push(Event { kind: field("event"), data });
            }
        }
        if self.0.len() > limits::CTL_BYTES {
            // No daemon tells so much at once.
            self.0.clear();
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_told_however_their_bytes_come() {
        let text = b"data: {\"a\":1}\n\n:\n\nevent: missed\ndata: 7\n\ndata: {\"b\":2}\n\n";
        let event = |kind: &str, data: &str| Event { kind: kind.to_owned(), data: data.to_owned() };
        let expected = [event("", "{\"a\":1}"), event("missed", "7"), event("", "{\"b\":2}")];
        for length in 1..=text.len() {
            let mut stream = Stream::default();
            let found: Vec<Event> = text.chunks(length).flat_map(|bytes| stream.take(bytes)).collect();
            assert_eq!(found, expected, "{length} at once");
        }
    }

    #[test]
    fn what_never_becomes_an_event_is_not_kept() {
        let mut stream = Stream::default();
        stream.take(&vec![b'x'; limits::CTL_BYTES]);
        assert_eq!(stream.0.len(), limits::CTL_BYTES);
        stream.take(b"x");
        assert_eq!(stream.take(b"data: 1\n\n").len(), 1);
    }

    #[test]
    fn a_record_is_a_line() {
        let mut verdict = json!({ "time": "T", "sandbox": "a", "event": "verdict", "verdict": "deny",
            "reason": "no-rule", "protocol": "tls", "name": "b.test", "address": "192.0.2.1", "port": 443 });
        assert_eq!(line(&verdict), "T  a  deny   no-rule  b.test:443  tls\n");
        verdict["method"] = json!("GET");
        verdict["path"] = json!("/\u{1b}[2J");
        assert_eq!(line(&verdict), "T  a  deny   no-rule  b.test:443  GET /\u{fffd}[2J\n");
        let close = json!({ "time": "T", "sandbox": "a", "event": "close", "address": "192.0.2.1", "port": 7,
            "bytes_in": 5, "bytes_out": 6, "error": "refused" });
        assert_eq!(line(&close), "T  a  close  192.0.2.1:7  5 in, 6 out: refused\n");
    }
}
