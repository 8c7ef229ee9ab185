//! Reading a tree into wire types: strictly, with every fault, and with the JSON Schema of what is read.
//!
//! A wire type says once what its keys are; [`record!`] makes of that the type, its reader and its schema, so that the
//! three cannot differ.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::marker::PhantomData;

use serde_json::{Value as Json, json};

use super::tree::{Key, Node, Span, Value};
use crate::policy::diagnostic::{Code, Fault};

/// Faults as they are found; reading goes on after each.
#[derive(Debug, Default)]
pub(in crate::policy) struct Faults(pub(in crate::policy) Vec<Fault>);

/// A part of the language: how it is read from a tree, and its schema.
pub(in crate::policy) trait Wire<'n>: Sized {
    /// What it is called where no key names it, such as "a rule".
    const NOUN: &'static str;

    /// Reads it, called `what` in faults; `None` if a fault leaves no value.
    fn read(node: &'n Node, what: &str, faults: &mut Faults) -> Option<Self>;

    /// Its JSON Schema; what has a name goes into `definitions`.
    fn schema(definitions: &mut Definitions) -> Json;
}

/// Schemas that have a name.
#[derive(Debug, Default)]
pub(in crate::policy) struct Definitions(BTreeMap<&'static str, Json>);

impl Definitions {
    /// A reference to the schema of this name, which is made if it is not there yet.
    pub(in crate::policy) fn named(&mut self, name: &'static str, make: impl FnOnce(&mut Self) -> Json) -> Json {
        if !self.0.contains_key(name) {
            let schema = make(self);
            self.0.insert(name, schema);
        }
        json!({ "$ref": format!("#/$defs/{name}") })
    }

    pub(in crate::policy) fn into_json(self) -> Json {
        json!(self.0)
    }
}

/// A key of a record: where it stands, if it is written, and its value, if that can be read.
#[derive(Debug)]
pub(in crate::policy) struct Field<'n, T> {
    key: Option<&'n Key>,
    value: Option<T>,
}

impl<T> Default for Field<'_, T> {
    fn default() -> Self {
        Self { key: None, value: None }
    }
}

impl<'n, T> Field<'n, T> {
    pub(super) fn written(key: &'n Key, value: Option<T>) -> Self {
        Self { key: Some(key), value }
    }

    /// Its value.
    pub(in crate::policy) fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// Where the key stands.
    pub(in crate::policy) fn key(&self) -> Option<Span> {
        self.key.map(|key| key.span)
    }

    /// Whether the key is there, perhaps with a value that cannot be read.
    pub(in crate::policy) fn is_written(&self) -> bool {
        self.key.is_some()
    }
}

/// What a text is about: its noun, and its schema beyond being text.
pub(in crate::policy) trait Kind: 'static {
    const NOUN: &'static str;
    /// What it is, for who writes one.
    const ABOUT: &'static str;
    /// Some that are right.
    const EXAMPLES: &'static [&'static str] = &[];
}

/// Text of a kind.
pub(in crate::policy) struct Text<'n, K> {
    pub(in crate::policy) text: &'n str,
    pub(in crate::policy) span: Span,
    kind: PhantomData<fn() -> K>,
}

impl<'n, K> Text<'n, K> {
    /// A key as text.
    pub(super) fn key(key: &'n Key) -> Self {
        Self { text: &key.text, span: key.span, kind: PhantomData }
    }
}

impl<K> fmt::Debug for Text<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Text").field("span", &self.span).finish_non_exhaustive()
    }
}

impl<'n, K: Kind> Wire<'n> for Text<'n, K> {
    const NOUN: &'static str = K::NOUN;

    fn read(node: &'n Node, what: &str, faults: &mut Faults) -> Option<Self> {
        let text = node.text();
        if text.is_none() {
            faults.wrong(node, what, "text");
        }
        Some(Self { text: text?, span: node.span, kind: PhantomData })
    }

    fn schema(_: &mut Definitions) -> Json {
        let mut schema = json!({ "type": "string", "description": K::ABOUT });
        if let (false, Json::Object(map)) = (K::EXAMPLES.is_empty(), &mut schema) {
            map.insert("examples".into(), json!(K::EXAMPLES));
        }
        schema
    }
}

/// `true` or `false`.
#[derive(Debug)]
pub(in crate::policy) struct Flag {
    pub(in crate::policy) value: bool,
}

impl Wire<'_> for Flag {
    const NOUN: &'static str = "a flag";

    fn read(node: &Node, what: &str, faults: &mut Faults) -> Option<Self> {
        let value = node.boolean();
        if value.is_none() {
            faults.wrong(node, what, "`true` or `false`");
        }
        Some(Self { value: value? })
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "boolean" })
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Debug)]
pub(in crate::policy) struct Number<const MIN: u16, const MAX: u16> {
    pub(in crate::policy) value: u16,
    pub(in crate::policy) span: Span,
}

impl<const MIN: u16, const MAX: u16> Wire<'_> for Number<MIN, MAX> {
    const NOUN: &'static str = "a number";

    fn read(node: &Node, what: &str, faults: &mut Faults) -> Option<Self> {
        if !node.is_number() {
            faults.wrong(node, what, "a number");
            return None;
        }
        let Some(number) = node.number() else {
            let fault = Fault::new(Code::BadValue, format!("{what} is a whole number, written in digits"));
            let least = format!("such as `{}`", MIN.max(1));
            faults.push(fault.place(node.span).help(least));
            return None;
        };
        let value = u16::try_from(number).ok().filter(|value| (MIN..=MAX).contains(value));
        if value.is_none() {
            let message =
                if MIN == MAX { format!("{what} can only be {MIN}") } else { format!("{what} is from {MIN} to {MAX}") };
            faults.bad(node.span, message);
        }
        Some(Self { value: value?, span: node.span })
    }

    fn schema(_: &mut Definitions) -> Json {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// One of a few words.
pub(in crate::policy) trait Words: Copy {
    const NOUN: &'static str;

    /// Each word and what it stands for.
    fn words() -> Vec<(&'static str, Self)>;
}

/// A word, and where it stands.
#[derive(Debug)]
pub(in crate::policy) struct Word<T> {
    pub(in crate::policy) value: T,
    pub(in crate::policy) span: Span,
}

impl<T: Words> Wire<'_> for Word<T> {
    const NOUN: &'static str = T::NOUN;

    fn read(node: &Node, what: &str, faults: &mut Faults) -> Option<Self> {
        let Some(text) = node.text() else {
            faults.wrong(node, what, "text");
            return None;
        };
        let found = T::words().into_iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words: Vec<&str> = T::words().iter().map(|(word, _)| *word).collect();
            let fault = if is_word(text) {
                Fault::new(Code::BadValue, format!("{what} cannot be `{text}`"))
            } else {
                Fault::new(Code::BadValue, format!("{what} cannot be this text")).hidden()
            };
            let legal = || format!("it is one of {}", quoted(&words));
            faults.push(fault.place(node.span).help(near(text, &words).unwrap_or_else(legal)));
        }
        Some(Self { value: found?.1, span: node.span })
    }

    fn schema(_: &mut Definitions) -> Json {
        let words: Vec<&str> = T::words().iter().map(|(word, _)| *word).collect();
        json!({ "enum": words })
    }
}

/// A list of `MIN` elements at least. What an empty list would mean where one is due is never guessed.
#[derive(Debug)]
pub(in crate::policy) struct List<T, const MIN: usize = 0> {
    pub(in crate::policy) items: Vec<T>,
}

impl<'n, T: Wire<'n>, const MIN: usize> Wire<'n> for List<T, MIN> {
    const NOUN: &'static str = "a list";

    fn read(node: &'n Node, what: &str, faults: &mut Faults) -> Option<Self> {
        let Value::List(nodes) = &node.value else {
            faults.wrong(node, what, "a list");
            return None;
        };
        if nodes.len() < MIN {
            let fault = Fault::new(Code::BadValue, format!("{what} cannot be empty")).place(node.span);
            faults.push(fault.help("leave it out if nothing is meant"));
        }
        Some(Self { items: nodes.iter().filter_map(|node| T::read(node, T::NOUN, faults)).collect() })
    }

    fn schema(definitions: &mut Definitions) -> Json {
        let items = T::schema(definitions);
        if MIN == 0 {
            return json!({ "type": "array", "items": items });
        }
        json!({ "type": "array", "items": items, "minItems": MIN })
    }
}

/// A map whose keys are the writer's.
#[derive(Debug)]
pub(in crate::policy) struct Table<'n, K, T> {
    pub(in crate::policy) entries: Vec<(Text<'n, K>, T)>,
}

impl<'n, K: Kind, T: Wire<'n>> Wire<'n> for Table<'n, K, T> {
    const NOUN: &'static str = "a map";

    fn read(node: &'n Node, what: &str, faults: &mut Faults) -> Option<Self> {
        let mut entries = Vec::new();
        for (key, value) in faults.map(node, what)? {
            if let Some(value) = T::read(value, T::NOUN, faults) {
                entries.push((Text::key(key), value));
            }
        }
        Some(Self { entries })
    }

    fn schema(definitions: &mut Definitions) -> Json {
        let names = Text::<K>::schema(definitions);
        let values = T::schema(definitions);
        json!({ "type": "object", "propertyNames": names, "additionalProperties": values })
    }
}

/// Declares a record: a map whose keys are known. `at` names the field with its place; `later` are keys that the
/// language has elsewhere or not yet, and what to say of them; what stands in `also` is added to its schema.
macro_rules! record {
    (@key required $key:literal) => { $key };
    (
        $(#[doc = $about:literal])+
        $name:ident<$life:lifetime> as $noun:literal $(at $span:ident)? {
            $(
                $(#[doc = $key_about:literal])+
                $key:literal $(($required:ident))? => $field:ident: $type:ty,
            )+
        }
        $(later { $($later:literal => $help:literal,)+ })?
        $(also { $($also:tt)+ })?
    ) => {
        $(#[doc = $about])+
        #[derive(Debug)]
        pub(in crate::policy) struct $name<$life> {
            $(
                /// Where it stands.
                pub(in crate::policy) $span: Span,
            )?
            $($(#[doc = $key_about])+ pub(in crate::policy) $field: Field<$life, $type>,)+
        }

        impl<$life> Wire<$life> for $name<$life> {
            const NOUN: &'static str = $noun;

            fn read(node: &$life Node, what: &str, faults: &mut Faults) -> Option<Self> {
                let entries = faults.record(node, what, &[$($key),+])?;
                let mut record = Self { $($span: node.span,)? $($field: Field::default(),)+ };
                for (key, value) in entries {
                    match key.text.as_str() {
                        $($key => {
                            let read = <$type as Wire>::read(value, concat!("`", $key, "`"), faults);
                            record.$field = Field::written(key, read);
                        })+
                        _ => faults.unknown(key, what, &[$($key),+], &[$($(($later, $help)),+)?]),
                    }
                }
                $($(faults.$required(record.$field.is_written(), $key, node.span);)?)+
                Some(record)
            }

            fn schema(definitions: &mut Definitions) -> Json {
                definitions.named(stringify!($name).trim_end_matches("Wire"), |definitions| {
                    let mut properties = serde_json::Map::new();
                    let required: Vec<&str> = vec![$($(record!(@key $required $key),)?)+];
                    $(
                        let about = concat!($($key_about),+);
                        properties.insert($key.to_owned(), described(<$type as Wire>::schema(definitions), about));
                    )+
                    let also = json!({$($($also)+)?});
                    record_schema(concat!($($about),+), properties, &required, also)
                })
            }
        }
    };
}
pub(super) use record;

/// A schema with what its key is about, unless it says so itself.
pub(super) fn described(mut schema: Json, about: &str) -> Json {
    if let Json::Object(map) = &mut schema {
        map.insert("description".into(), json!(sentence(about)));
    }
    schema
}

/// The schema of a record.
pub(super) fn record_schema(
    about: &str,
    properties: serde_json::Map<String, Json>,
    required: &[&str],
    also: Json,
) -> Json {
    let mut schema = json!({
        "type": "object",
        "description": sentence(about),
        "properties": properties,
        "additionalProperties": false,
    });
    if let (Json::Object(map), Json::Object(also)) = (&mut schema, also) {
        if !required.is_empty() {
            map.insert("required".into(), json!(required));
        }
        map.extend(also);
    }
    schema
}

/// Lines of a doc comment as one text.
fn sentence(about: &str) -> String {
    about.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Faults {
    pub(in crate::policy) fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// A value that cannot be; its text is quoted by whoever says so.
    pub(in crate::policy) fn bad(&mut self, span: Span, message: impl Into<String>) {
        self.push(Fault::new(Code::BadValue, message).place(span));
    }

    /// A key that must be there.
    pub(super) fn required(&mut self, written: bool, key: &str, record: Span) {
        if !written {
            self.push(Fault::new(Code::Missing, format!("`{key}` is missing")).place(record));
        }
    }

    /// A key that a record does not have; those in `later` are refused by name.
    pub(super) fn unknown(&mut self, key: &Key, what: &str, known: &[&str], later: &[(&str, &str)]) {
        if let Some((name, help)) = later.iter().find(|(name, _)| *name == key.text) {
            let message = format!("`{name}` is not supported by this version of exeat");
            self.push(Fault::new(Code::Unsupported, message).place(key.span).help(*help));
        } else {
            self.push(unknown(key, what, known));
        }
    }

    /// Takes a map that should have some of these keys.
    pub(super) fn record<'n>(&mut self, node: &'n Node, what: &str, keys: &[&str]) -> Option<Vec<(&'n Key, &'n Node)>> {
        if let Value::Map(_) = &node.value {
            return self.map(node, what);
        }
        let message = format!("{what} must be a map, and this is {}", node.kind());
        let fault = Fault::new(Code::WrongType, message).place(node.span).hidden();
        self.push(fault.help(format!("its keys are {}", quoted(keys))));
        None
    }

    /// Takes a map; a key that stands there twice is a fault, and its first value counts.
    pub(super) fn map<'n>(&mut self, node: &'n Node, what: &str) -> Option<Vec<(&'n Key, &'n Node)>> {
        let Value::Map(entries) = &node.value else {
            self.wrong(node, what, "a map");
            return None;
        };
        let mut seen = HashSet::with_capacity(entries.len());
        let mut unique = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            if seen.insert(key.text.as_str()) {
                unique.push((key, value));
            } else {
                let message = format!("the key `{}` stands here twice", key.text);
                self.push(Fault::new(Code::Duplicate, message).place(key.span));
            }
        }
        Some(unique)
    }

    /// Something of another type than is due. It is shown only if it is short or a plain word: it may be a credential
    /// in the wrong place.
    pub(super) fn wrong(&mut self, node: &Node, what: &str, expected: &str) {
        let message = format!("{what} must be {expected}, and this is {}", node.kind());
        let fault = Fault::new(Code::WrongType, message).place(node.span);
        let Value::Scalar { text, .. } = &node.value else {
            self.push(fault.hidden());
            return;
        };
        let help = match (expected, text.to_ascii_lowercase().as_str()) {
            ("text", _) => Some("put it in quotes if the text is meant".to_owned()),
            ("a map or a list", _) => {
                Some("a list is written `[…]`, also of one element; without any, `[]`".to_owned())
            }
            ("a list", word) if !word.is_empty() => Some("a list is written `[…]`, also of one element".to_owned()),
            ("a number", number) if number.parse::<u64>().is_ok() => Some(format!("write `{number}`, without quotes")),
            ("`true` or `false`", "true" | "yes" | "on" | "y" | "1") => Some("write `true`".to_owned()),
            ("`true` or `false`", "false" | "no" | "off" | "n" | "0") => Some("write `false`".to_owned()),
            _ => None,
        };
        let plain = is_word(text) && !matches!(expected, "text" | "a map" | "a list" | "a map or a list");
        self.push(if plain { fault.perhaps(help) } else { fault.perhaps(help).hidden() });
    }
}

/// Whether a text may be one of the language's words, perhaps misspelled, and is no credential.
pub(super) fn is_word(text: &str) -> bool {
    text.len() <= 24 && text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-' || b == b'_')
}

/// A key that nothing knows; the nearest known one is suggested.
fn unknown(key: &Key, what: &str, known: &[&str]) -> Fault {
    let fault = Fault::new(Code::UnknownKey, format!("{what} has no key `{}`", key.text)).place(key.span);
    fault.help(near(&key.text, known).unwrap_or_else(|| format!("its keys are {}", quoted(known))))
}

/// What of the known words was perhaps meant by one that is not known, as a question.
#[must_use]
pub fn near(text: &str, known: &[&str]) -> Option<String> {
    let near = known.iter().map(|name| (distance(text, name), name)).min_by_key(|(distance, _)| *distance);
    let (_, name) = near.filter(|(distance, name)| *distance <= 1 + name.len() / 4)?;
    Some(format!("did you mean `{name}`?"))
}

/// Each in backquotes.
fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
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
