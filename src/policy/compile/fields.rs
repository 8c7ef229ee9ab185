//! Reading a document's maps strictly: every key known, none twice, and a fault for each that is not.

use std::collections::HashMap;

use crate::policy::diagnostic::{Code, Fault};
use crate::policy::wire::{Key, Node, Span, Value};

/// Faults as they are found; compiling goes on after each.
#[derive(Debug, Default)]
pub(in crate::policy) struct Faults(pub(in crate::policy) Vec<Fault>);

/// Keys that the language has and this version has not, and what to say of them.
pub(in crate::policy) type Later = &'static [(&'static str, &'static str)];

/// A map whose keys were checked.
#[derive(Debug)]
pub(in crate::policy) struct Fields<'n> {
    entries: HashMap<&'static str, (&'n Key, &'n Node)>,
}

impl<'n> Fields<'n> {
    /// The value of a key.
    pub(in crate::policy) fn get(&self, key: &str) -> Option<&'n Node> {
        self.entries.get(key).map(|(_, node)| *node)
    }

    /// Where a key stands.
    pub(in crate::policy) fn key(&self, key: &str) -> Option<Span> {
        self.entries.get(key).map(|(key, _)| key.span)
    }
}

impl Faults {
    pub(in crate::policy) fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// A value that cannot be; its text is quoted by whoever says so.
    pub(in crate::policy) fn bad(&mut self, node: &Node, message: impl Into<String>) {
        self.push(Fault::new(Code::BadValue, message).place(node.span));
    }

    /// Takes a map whose keys are all in `known`; those in `later` are refused by name.
    pub(in crate::policy) fn fields<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        known: &[&'static str],
        later: Later,
    ) -> Option<Fields<'n>> {
        let entries = self.map(node, what)?;
        let mut fields = Fields { entries: HashMap::new() };
        for (key, value) in entries {
            if let Some(name) = known.iter().find(|name| **name == key.text) {
                fields.entries.insert(name, (key, value));
            } else if let Some((name, help)) = later.iter().find(|(name, _)| *name == key.text) {
                let message = format!("`{name}` is not supported by this version of exeat");
                self.push(Fault::new(Code::Unsupported, message).place(key.span).help(*help));
            } else {
                self.push(unknown(key, what, known));
            }
        }
        Some(fields)
    }

    /// Takes a map; a key that stands there twice is a fault, and its first value counts.
    pub(in crate::policy) fn map<'n>(&mut self, node: &'n Node, what: &str) -> Option<Vec<(&'n Key, &'n Node)>> {
        let Value::Map(entries) = &node.value else {
            self.wrong(node, what, "a map");
            return None;
        };
        let mut seen = HashMap::with_capacity(entries.len());
        let mut unique = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            if seen.insert(key.text.as_str(), ()).is_some() {
                let message = format!("the key `{}` stands here twice", key.text);
                self.push(Fault::new(Code::Duplicate, message).place(key.span));
            } else {
                unique.push((key, value));
            }
        }
        Some(unique)
    }

    pub(in crate::policy) fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        let Value::List(items) = &node.value else {
            self.wrong(node, what, "a list");
            return None;
        };
        Some(items)
    }

    pub(in crate::policy) fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        let text = node.text();
        if text.is_none() {
            self.wrong(node, what, "text");
        }
        text
    }

    pub(in crate::policy) fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        let boolean = node.boolean();
        if boolean.is_none() {
            self.wrong(node, what, "`true` or `false`");
        }
        boolean
    }

    pub(in crate::policy) fn number(&mut self, node: &Node, what: &str) -> Option<u64> {
        let number = node.number();
        if number.is_none() {
            self.wrong(node, what, "a number");
        }
        number
    }

    /// Takes one of a few words.
    pub(in crate::policy) fn word<T: Copy>(&mut self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, what)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let legal: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let fault = Fault::new(Code::BadValue, format!("{what} cannot be `{text}`")).place(node.span);
            self.push(fault.help(format!("it is one of {}", legal.join(", "))));
        }
        found.map(|(_, value)| *value)
    }

    /// Where text, a map or a list is due, what stands there is not shown: it may be a credential in the wrong place.
    fn wrong(&mut self, node: &Node, what: &str, expected: &str) {
        let message = format!("{what} must be {expected}, and this is {}", node.kind());
        let mut fault = Fault::new(Code::WrongType, message).place(node.span);
        if matches!(expected, "text" | "a map" | "a list") {
            fault = fault.hidden();
        }
        if expected == "text" && matches!(node.value, Value::Scalar { .. }) {
            fault = fault.help("put it in quotes if the text is meant");
        }
        self.push(fault);
    }
}

fn unknown(key: &Key, what: &str, known: &[&'static str]) -> Fault {
    let fault = Fault::new(Code::UnknownKey, format!("{what} has no key `{}`", key.text)).place(key.span);
    let near = known.iter().map(|name| (distance(&key.text, name), name)).min_by_key(|(distance, _)| *distance);
    match near {
        Some((distance, name)) if distance <= 1 + name.len() / 4 => fault.help(format!("did you mean `{name}`?")),
        _ => {
            let names: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
            fault.help(format!("its keys are {}", names.join(", ")))
        }
    }
}

/// Levenshtein's distance without regard to case and separators; long texts are far from every key.
fn distance(text: &str, name: &str) -> usize {
    let plain = |text: &str| -> Vec<char> {
        text.chars().filter(|c| *c != '_' && *c != '-').map(|c| c.to_ascii_lowercase()).collect()
    };
    let (text, name) = (plain(text), plain(name));
    if text.len() > 2 * name.len() + 2 {
        return text.len();
    }
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for (above, left) in text.iter().zip(1..) {
        let mut next = vec![left];
        for ((other, before), across) in name.iter().zip(&row).zip(row.iter().skip(1)) {
            let back = next.last().copied().unwrap_or_default();
            next.push((before + usize::from(above != other)).min(across + 1).min(back + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
