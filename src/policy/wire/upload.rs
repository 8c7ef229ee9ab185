//! A file's document as a control plane takes it: `tests` are for whoever has the file, and stay there.

use std::borrow::Cow;

use super::{Document, Value};

/// The text without its `tests`, every other line where it was, so that a fault is told with the file's own places.
/// What cannot be parsed is left as it is, for whoever tells why.
#[must_use]
pub fn without_tests(text: &str) -> Cow<'_, str> {
    let (document, _) = Document::parse(0, "", Cow::Borrowed(text));
    let Some(Value::Map(entries)) = document.root.map(|root| root.value) else { return Cow::Borrowed(text) };
    let mut left = Cow::Borrowed(text);
    for (key, value) in entries.iter().filter(|(key, _)| key.text == "tests") {
        let end = value.span.end.max(key.span.end);
        let (Some(before), Some(cut), Some(after)) =
            (left.get(..key.span.start), left.get(key.span.start..end), left.get(end..))
        else {
            return Cow::Borrowed(text);
        };
        left = Cow::Owned(format!("{before}{}{}", blank(cut), without_comma(after)));
    }
    left
}

/// As many bytes, and as many lines.
fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// In JSON, a comma that would stand before nothing.
fn without_comma(text: &str) -> String {
    let at = text.find(|c: char| !c.is_whitespace());
    match at.and_then(|at| Some((text.get(..at)?, text.get(at..)?.strip_prefix(',')?))) {
        Some((space, rest)) => format!("{space} {rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Author, Flags, Policy, Source, Terms, preset, presets};

    fn revision(text: &str, author: Author) -> String {
        let terms = Terms { author, ..Terms::default() };
        let compiled = Policy::compile(Some(Source { path: "policy", text }), &Flags::default(), &terms);
        compiled.unwrap_or_else(|faults| panic!("{faults}\n{text}")).policy.revision().in_full()
    }

    #[test]
    fn tests_stay_with_the_file_and_nothing_else_moves() {
        let cases = "[{ request: \"GET https://a.test/\", verdict: allow }]";
        for text in [
            format!("allow: [a.test]\ntests: {cases}\ndeny: [b.test]\n"),
            "tests:\n  - { request: GET https://a.test/ }\nallow: [a.test]\n# end\ndeny: [b.test]\n".to_owned(),
            "allow: [a.test]\ndeny: [b.test]\ntests: # all\n  - connect: a.test:22\n    verdict: deny\n\n# end\n"
                .to_owned(),
            format!("{{ allow: [a.test], deny: [b.test], tests: {cases} }}"),
            format!("{{ tests: {cases}, allow: [a.test], deny: [b.test] }}"),
            format!("{{\"allow\": [\"a.test\"], \"tests\": {cases}, \"deny\": [\"b.test\"]}}"),
            "allow: [a.test]\ndeny: [b.test]\n".to_owned(),
        ] {
            let sent = without_tests(&text);
            assert_eq!(sent.len(), text.len(), "{sent}");
            let ends = |text: &str| text.match_indices('\n').map(|(at, _)| at).collect::<Vec<_>>();
            assert_eq!(ends(&sent), ends(&text));
            let expected = revision("allow: [a.test]\ndeny: [b.test]\n", Author::default());
            assert_eq!(
                revision(&sent, Author::ControlPlane { openable: Vec::new(), secrets: Default::default() }),
                expected
            );
        }
        for text in ["allow-all", "[", "tests", "\"é\u{2028}", "{allow: {a.test: [{tests: 1}]}}"] {
            assert_eq!(without_tests(text), text);
        }
    }

    #[test]
    fn every_preset_is_as_it_was_but_for_its_tests() {
        for text in presets().filter_map(preset).map(|source| source.text) {
            let Some((before, _)) = text.split_once("\ntests:") else { continue };
            assert_eq!(revision(&without_tests(text), Author::default()), revision(before, Author::default()));
        }
    }
}
