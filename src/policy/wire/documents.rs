//! A document and those that it `extends`, read once each.
//!
//! `INVARIANT`: no path is read twice, no document extends itself, and the number of paths is bounded. (A file may have
//! several paths, by links; going round in circles through one, the bound is met.)

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

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

/// A document and those that it extends.
#[derive(Debug, Default)]
pub(in crate::policy) struct Documents<'a> {
    /// As they were read; the document itself is the first.
    list: Vec<Document<'a>>,
    /// What each of them extends.
    extends: Vec<Vec<usize>>,
    /// How they count: each before those that it extends, and these in the order in which it names them.
    order: Vec<usize>,
    /// Whether some could not be read.
    partial: bool,
}

impl<'a> Documents<'a> {
    /// Reads a document, and all that it extends if there is somebody to read files.
    pub(in crate::policy) fn load(source: Source<'a>, files: Option<&dyn Files>) -> (Self, Vec<Fault>) {
        let mut loading = Loading::default();
        let root = loading.add(source.path, Cow::Borrowed(source.text));
        if let Some(files) = files {
            loading.known.insert(joined("", source.path), Ok(root));
            loading.extend(root, &mut vec![root], files);
        }
        let Loading { mut documents, known: _, faults } = loading;
        documents.arrange(root, &mut HashSet::new());
        documents.order.reverse();
        (documents, faults)
    }

    /// As they count.
    pub(in crate::policy) fn iter(&self) -> impl Iterator<Item = &Document<'a>> {
        self.order.iter().filter_map(|file| self.list.get(*file))
    }

    pub(in crate::policy) fn get(&self, file: usize) -> Option<&Document<'a>> {
        self.list.get(file)
    }

    /// `FILE:LINE`. Spans come from these documents, so there is one.
    pub(in crate::policy) fn rule_id(&self, span: Span) -> RuleId {
        self.get(span.file).map_or_else(|| RuleId::of_flag("the policy"), |document| document.rule_id(span))
    }

    /// Whether a rule stands in this document.
    pub(in crate::policy) fn stands_in(&self, rule: &RuleId, file: usize) -> bool {
        self.get(file).is_some_and(|document| *document.path == *rule.source())
    }

    /// Whether the document that a rule stands in extends another, perhaps by way of others.
    pub(in crate::policy) fn extends(&self, rule: &RuleId, other: usize) -> bool {
        let mut open: Vec<usize> = (0..self.list.len()).filter(|file| self.stands_in(rule, *file)).collect();
        let mut seen = HashSet::new();
        while let Some(file) = open.pop() {
            if file == other {
                return true;
            }
            if seen.insert(file) {
                open.extend(self.extends.get(file).into_iter().flatten());
            }
        }
        false
    }

    /// Whether all of them could be read, and understood as YAML.
    pub(in crate::policy) fn are_whole(&self) -> bool {
        !self.partial && self.list.iter().all(|document| document.root.is_some())
    }

    /// Puts a document, after all that it extends, at the end of the order, which is reversed when all are there.
    fn arrange(&mut self, file: usize, seen: &mut HashSet<usize>) {
        if seen.insert(file) {
            for extended in self.extends.get(file).cloned().unwrap_or_default().into_iter().rev() {
                self.arrange(extended, seen);
            }
            self.order.push(file);
        }
    }
}

/// Documents while they are read.
#[derive(Default)]
struct Loading<'a> {
    documents: Documents<'a>,
    /// By its path, each that was asked for: which one it is, or why it cannot be had.
    known: HashMap<String, Result<usize, String>>,
    faults: Vec<Fault>,
}

impl<'a> Loading<'a> {
    fn add(&mut self, path: &str, text: Cow<'a, str>) -> usize {
        let file = self.documents.list.len();
        let (document, fault) = Document::parse(file, path, text);
        self.documents.list.push(document);
        self.documents.extends.push(Vec::new());
        self.faults.extend(fault);
        file
    }

    /// Reads what the document `file` extends; `line` are the documents that led here, itself last.
    fn extend(&mut self, file: usize, line: &mut Vec<usize>, files: &dyn Files) {
        let Some(document) = self.documents.get(file) else { return };
        let folder = document.path.to_string();
        for (written, span) in document.root.as_ref().map(named).unwrap_or_default() {
            // A path that only comes to look like a preset's is none.
            let preset = written.strip_prefix(PRESET);
            let path = if preset.is_some() { written.clone() } else { joined(&folder, &written) };
            let refuse = |code, message: String| Fault::new(code, message).place(span);
            if !self.known.contains_key(&path) && self.known.len() >= limits::POLICY_FILES {
                let message = format!("the policy extends more than {} files", limits::POLICY_FILES - 1);
                self.faults.push(refuse(Code::Limit, message).help("write what some of them bring into one"));
                self.documents.partial = true;
                return;
            }
            match self.known.get(&path).cloned() {
                Some(Ok(other)) if line.contains(&other) => {
                    let way: Vec<&str> =
                        line.iter().filter_map(|file| Some(&*self.documents.get(*file)?.path)).collect();
                    let message = format!("`{path}` extends itself: {} → {path}", way.join(" → "));
                    self.faults.push(refuse(Code::Conflict, message).help("take it out in one of them"));
                }
                Some(Ok(other)) => self.note(file, other),
                Some(Err(why)) => self.faults.push(unreadable(&path, &why).place(span)),
                None => match read(preset, &path, files) {
                    Ok(text) => {
                        let other = self.add(&path, text);
                        self.known.insert(path, Ok(other));
                        self.note(file, other);
                        line.push(other);
                        self.extend(other, line, files);
                        line.pop();
                    }
                    Err(why) => {
                        self.faults.push(unreadable(&path, &why).place(span));
                        self.documents.partial = true;
                        self.known.insert(path, Err(why));
                    }
                },
            }
        }
    }

    fn note(&mut self, file: usize, extended: usize) {
        if let Some(list) = self.documents.extends.get_mut(file) {
            list.push(extended);
        }
    }
}

/// The text of a preset, or of a file.
fn read<'a>(named: Option<&str>, path: &str, files: &dyn Files) -> Result<Cow<'a, str>, String> {
    match named {
        Some(name) => preset(name).map(|source| source.text.into()).ok_or_else(|| "there is no such preset".into()),
        None => files.read(path).map(Cow::Owned),
    }
}

fn unreadable(path: &str, why: &str) -> Fault {
    let help = "a path is found from the folder of the file that names it; a built-in policy is `preset:NAME`";
    Fault::new(Code::Missing, format!("`{path}` cannot be read: {why}")).help(help)
}

/// The paths of `extends`; what is wrong with it is found when the document is read.
fn named(root: &Node) -> Vec<(String, Span)> {
    let Value::Map(entries) = &root.value else { return Vec::new() };
    let lists = entries.iter().filter(|(Key { text, .. }, _)| text == "extends");
    let items = lists.flat_map(|(_, node)| if let Value::List(items) = &node.value { items.as_slice() } else { &[] });
    items.filter_map(|item| Some((item.text()?.to_owned(), item.span))).collect()
}

/// A path as seen from the folder of the file that names it, without `.`, and without `..` as far as that can be told
/// from the paths alone: links are not followed for it.
fn joined(from: &str, path: &str) -> String {
    let folder = if path.starts_with('/') { "" } else { from.rsplit_once('/').map_or("", |(folder, _)| folder) };
    let root = if path.starts_with('/') || from.starts_with('/') { "/" } else { "" };
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            // Above the root is the root.
            ".." if root == "/" => {}
            part => parts.push(part),
        }
    }
    format!("{root}{}", parts.join("/"))
}
