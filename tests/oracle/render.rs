//! A model as the text of a policy, and which line is which.

use super::model::{By, Dns, Mode, Model, Pair, Rule, Text, Then, When};
use super::ranges::Range;

/// A document, and the lines that rules are known by.
pub(crate) struct Document {
    pub(crate) text: String,
    lines: Vec<(By, usize)>,
}

impl Document {
    /// The line of a rule, from 1.
    pub(crate) fn line(&self, by: By) -> usize {
        let found = self.lines.iter().find(|(other, _)| *other == by);
        found.expect("a rule of the document").1
    }

    fn put(&mut self, by: Option<By>, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
        let number = self.text.lines().count();
        self.lines.extend(by.map(|by| (by, number)));
    }

    fn list(&mut self, key: &str, indent: &str, by: fn(usize) -> By, items: impl Iterator<Item = String>) {
        for (place, item) in items.enumerate() {
            if place == 0 {
                self.put(None, &format!("{indent}{key}:"));
            }
            self.put(Some(by(place)), &format!("{indent}  - {}", quoted(&item)));
        }
    }
}

/// As people write it.
pub(crate) fn yaml(model: &Model) -> Document {
    let mut document = Document { text: "version: 1\n".to_owned(), lines: Vec::new() };
    for (key, value) in words(model) {
        document.put((key == "mode").then_some(By::Mode), &format!("{key}: {value}"));
    }
    if model.allow.iter().all(|entry| entry.rules.is_empty()) {
        document.list("allow", "", By::Entry, model.allow.iter().map(|entry| entry.pattern.spelled.clone()));
    } else {
        document.put(None, "allow:");
        for (place, entry) in model.allow.iter().enumerate() {
            let none = if entry.rules.is_empty() { " []" } else { "" };
            document.put(Some(By::Entry(place)), &format!("  {}:{none}", quoted(&entry.pattern.spelled)));
            for (at, rule) in entry.rules.iter().enumerate() {
                document.put(Some(By::Rule(place, at)), &format!("    - {}", rule_text(rule)));
            }
        }
    }
    document.list("deny", "", By::Deny, model.deny.iter().map(|pattern| pattern.spelled.clone()));
    if !model.opened.is_empty() || !model.closed.is_empty() {
        document.put(None, "subnets:");
    }
    document.list("allow", "  ", By::Opened, model.opened.iter().map(Range::to_string));
    document.list("deny", "  ", By::Closed, model.closed.iter().map(Range::to_string));
    if model.api.is_none() {
        document.put(None, "secrets: {KEY: {env: KEY}, OTHER: {file: /run/other}}");
    }
    document
}

/// The keys whose value is one word.
fn words(model: &Model) -> Vec<(&'static str, &'static str)> {
    let mut words = Vec::new();
    match model.mode {
        Mode::Lists => {}
        Mode::AllowAll => words.push(("mode", "allow-all")),
        Mode::DenyAll => words.push(("mode", "deny-all")),
    }
    if model.strict {
        words.push(("strict", "true"));
    }
    if model.observe {
        words.push(("observe", "true"));
    }
    match model.dns {
        None => {}
        Some(Dns::Any) => words.push(("dns", "any")),
        Some(Dns::Names) => words.push(("dns", "names")),
        Some(Dns::None) => words.push(("dns", "none")),
    }
    words
}

/// As JSON on one line, which is YAML, too.
fn rule_text(rule: &Rule) -> String {
    let mut parts: Vec<String> = rule.when.iter().map(|when| format!("\"match\": {}", when_text(when))).collect();
    match &rule.then {
        Then::Pass => {}
        Then::Transform(elements) => {
            let pair = |(header, value): &(String, String)| format!("{}: {}", quoted(header), quoted(value));
            let element = |headers: &Vec<(String, String)>| format!("{{\"headers\": {{{}}}}}", join(headers, pair));
            parts.push(format!("\"transform\": [{}]", join(elements, element)));
        }
        Then::Forward(url) => parts.push(format!("\"forwardURL\": {}", quoted(url))),
        Then::Respond(status) => parts.push(format!("\"response\": {{\"statusCode\": {status}}}")),
        Then::Opaque(ports) => parts.push(format!("\"opaque\": {{\"ports\": [{}]}}", join(ports, u16::to_string))),
    }
    format!("{{{}}}", parts.join(", "))
}

fn when_text(when: &When) -> String {
    let mut parts = Vec::new();
    if !when.methods.is_empty() {
        parts.push(format!("\"method\": [{}]", join(&when.methods, |method| quoted(method))));
    }
    parts.extend(when.path.iter().map(|path| format!("\"path\": {}", matcher_text(path))));
    for (key, pairs) in [("queryString", &when.query), ("headers", &when.headers)] {
        if !pairs.is_empty() {
            parts.push(format!("\"{key}\": [{}]", join(pairs, pair_text)));
        }
    }
    format!("{{{}}}", parts.join(", "))
}

fn pair_text(pair: &Pair) -> String {
    let sides = [("key", &pair.key), ("value", &pair.value)];
    let present = sides.into_iter().filter_map(|(name, side)| Some((name, side.as_ref()?)));
    let parts: Vec<String> = present.map(|(name, side)| format!("\"{name}\": {}", matcher_text(side))).collect();
    format!("{{{}}}", parts.join(", "))
}

fn matcher_text(matcher: &Text) -> String {
    let (kind, text) = match matcher {
        Text::Exact(text) => ("exact", text),
        Text::StartsWith(text) => ("startsWith", text),
        Text::Regex(text) => ("regex", text),
        Text::Glob(text) => ("glob", text),
    };
    format!("{{\"{kind}\": {}}}", quoted(text))
}

fn join<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<String>>().join(", ")
}

/// As JSON writes text.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
