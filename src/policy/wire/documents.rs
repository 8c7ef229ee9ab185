//! A document and those that it `extends`, read once each.
//!
//! `INVARIANT`: no document stands here twice, none extends itself, and their number is bounded.

use std::borrow::Cow;

pub(in crate::policy) use super::tree::Document;
use super::tree::{Key, Node, Span, Value};
use crate::limits;
use crate::policy::diagnostic::{Code, Fault};
use crate::policy::verdict::RuleId;
use crate::policy::{Files, preset};

/// A document and where it came from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// As it is to be shown, such as `policies/coding-agent.yaml`; what it `extends` is found from its folder.
    pub path: &'a str,
    /// The text.
    pub text: &'a str,
}

/// The prefix of a path that names a built-in policy.
const PRESET: &str = "preset:";

/// A document and those that it extends: itself, then each of them followed by those that it extends in turn.
#[derive(Debug, Default)]
pub(in crate::policy) struct Documents<'a> {
    list: Vec<Document<'a>>,
}

impl<'a> Documents<'a> {
    /// Reads a document, and all that it extends if there is somebody to read files.
    pub(in crate::policy) fn load(source: Source<'a>, files: Option<&dyn Files>) -> (Self, Vec<Fault>) {
        let mut documents = Self::default();
        let mut faults = Vec::new();
        documents.add(source.path, Cow::Borrowed(source.text), &mut faults);
        if let Some(files) = files {
            documents.extend(0, &mut vec![source.path.to_owned()], files, &mut faults);
        }
        (documents, faults)
    }

    pub(in crate::policy) fn iter(&self) -> impl Iterator<Item = &Document<'a>> {
        self.list.iter()
    }

    pub(in crate::policy) fn get(&self, file: usize) -> Option<&Document<'a>> {
        self.list.get(file)
    }

    /// `FILE:LINE`. Spans come from these documents, so there is one.
    pub(in crate::policy) fn rule_id(&self, span: Span) -> RuleId {
        self.get(span.file).map_or_else(|| RuleId::of_flag("the policy"), |document| document.rule_id(span))
    }

    fn add(&mut self, path: &str, text: Cow<'a, str>, faults: &mut Vec<Fault>) {
        let (document, fault) = Document::parse(self.list.len(), path, text);
        self.list.push(document);
        faults.extend(fault);
    }

    /// Adds what the document `file` extends; `line` are the documents that led here, itself last.
    fn extend(&mut self, file: usize, line: &mut Vec<String>, files: &dyn Files, faults: &mut Vec<Fault>) {
        for (named, span) in self.get(file).and_then(|document| document.root.as_ref()).map(named).unwrap_or_default() {
            let path = joined(line.last().map_or("", String::as_str), &named);
            let refuse = |code, message: String| Fault::new(code, message).place(span);
            if line.contains(&path) {
                let message = format!("`{path}` extends itself: {} → {path}", line.join(" → "));
                faults.push(refuse(Code::Conflict, message));
                continue;
            }
            if self.list.iter().any(|document| *document.path == *path) {
                continue;
            }
            if self.list.len() >= limits::POLICY_FILES {
                let message = format!("the policy extends more than {} files", limits::POLICY_FILES);
                faults.push(refuse(Code::Limit, message));
                return;
            }
            let text = match path.strip_prefix(PRESET) {
                Some(name) => {
                    preset(name).map(|source| Cow::Borrowed(source.text)).ok_or("there is no such preset".into())
                }
                None => files.read(&path).map(Cow::Owned),
            };
            match text {
                Ok(text) => {
                    let added = self.list.len();
                    self.add(&path, text, faults);
                    line.push(path);
                    self.extend(added, line, files, faults);
                    line.pop();
                }
                Err(why) => faults.push(refuse(Code::Missing, format!("`{path}` cannot be read: {why}"))),
            }
        }
    }
}

/// The paths of `extends`; what is wrong with it is found when the document is read.
fn named(root: &Node) -> Vec<(String, Span)> {
    let Value::Map(entries) = &root.value else { return Vec::new() };
    let lists = entries.iter().filter(|(Key { text, .. }, _)| text == "extends");
    let items = lists.flat_map(|(_, node)| if let Value::List(items) = &node.value { items.as_slice() } else { &[] });
    items.filter_map(|item| Some((item.text()?.to_owned(), item.span))).collect()
}

/// A path as seen from the folder of the file that names it, without `.` and without `..` where that can be told.
fn joined(from: &str, path: &str) -> String {
    if path.starts_with(PRESET) || path.starts_with('/') {
        return path.to_owned();
    }
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    let (root, folder) = match folder.strip_prefix('/') {
        Some(folder) => ("/", folder),
        None if from.starts_with('/') => ("/", ""),
        None => ("", folder),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("{root}{}", parts.join("/"))
}
