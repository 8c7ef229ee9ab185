//! The JSON Schema against the reader: what compiles is valid by it, and what is wrong in form is not.

use std::sync::LazyLock;

use super::*;
use crate::policy::{Flags, Policy, Terms, preset, presets};

/// Checks a document by the schema.
///
/// # Errors
/// Why it is not valid.
pub(in crate::policy) fn fits_schema(text: &str) -> Result<(), String> {
    static VALIDATOR: LazyLock<jsonschema::Validator> =
        LazyLock::new(|| jsonschema::draft202012::new(&schema()).expect("a schema"));
    let (documents, _) = Documents::load(Source { path: "p.yaml", text }, None);
    let root = documents.iter().next().and_then(|document| document.root.as_ref()).ok_or("not YAML")?;
    let document = json_of(root);
    let errors: Vec<String> =
        VALIDATOR.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
}

/// A node as an editor's YAML library has it.
fn json_of(node: &Node) -> Json {
    match &node.value {
        Value::List(items) => items.iter().map(json_of).collect(),
        Value::Map(entries) => entries.iter().map(|(key, value)| (key.text.clone(), json_of(value))).collect(),
        Value::Scalar { .. } => match (node.text(), node.boolean(), node.number()) {
            (Some(text), ..) => json!(text),
            (None, Some(boolean), _) => json!(boolean),
            (None, None, Some(number)) => json!(number),
            (None, None, None) => Json::Null,
        },
    }
}

#[test]
fn every_preset_fits_the_schema() {
    for name in presets() {
        assert_eq!(fits_schema(preset(name).unwrap().text), Ok(()), "{name}");
    }
}

#[test]
fn every_key_of_the_language_is_in_the_schema_with_words_for_it() {
    fn undescribed(path: &str, schema: &Json, found: &mut Vec<String>) {
        for (key, value) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
            let described = value.get("description").and_then(Json::as_str).is_some_and(|text| text.ends_with('.'));
            found.extend((!described).then(|| format!("{path}.{key}")));
        }
    }
    let schema = schema();
    let mut found = Vec::new();
    let definitions = schema["$defs"].as_object().unwrap();
    for (name, definition) in definitions {
        assert_eq!(definition["additionalProperties"], json!(false), "{name} takes any key");
        undescribed(name, definition, &mut found);
    }
    assert!(definitions.len() > 8 && found.is_empty(), "{found:?}");
}

#[test]
fn what_is_wrong_in_form_fits_neither_the_schema_nor_the_reader() {
    for text in [
        "alow: []",
        "version: 2",
        "version: '1'",
        "name: 5",
        "open",
        "mode: open",
        "5",
        "[a.test]",
        "null",
        "allow: null",
        "allow: {a.test: null}",
        "allow: {a.test: {}}",
        "allow: [5]",
        "allow: [{a.test: []}]",
        "deny: {a.test: []}",
        "deny: a.test",
        "subnets: {alow: []}",
        "subnets: {allow: 10.0.0.0/8}",
        "strict: yes",
        "dns: all",
        "denials: loud",
        "extends: base.yaml",
        "secrets: {A: {}}",
        "secrets: {A: X}",
        "secrets: {A: {env: X, file: Y}}",
        "secrets: {A: {value: X}}",
        "placeholders: {A: [B]}",
        "allow: {a.test: [{transforms: []}]}",
        "allow: {a.test: [{transform: []}]}",
        "allow: {a.test: [{transform: [{}]}]}",
        "allow: {a.test: [{transform: [{headers: {a: 1}}]}]}",
        "allow: {a.test: [{forwardURL: 5}]}",
        "allow: {a.test: [{response: {}}]}",
        "allow: {a.test: [{response: {statusCode: 199}}]}",
        "allow: {a.test: [{response: {statusCode: 600}}]}",
        "allow: {a.test: [{opaque: {}}]}",
        "allow: {a.test: [{opaque: {ports: []}}]}",
        "allow: {a.test: [{opaque: {ports: [0]}}]}",
        "allow: {a.test: [{opaque: {ports: [65536]}}]}",
        "allow: {a.test: [{match: {method: GET}}]}",
        "allow: {a.test: [{match: {method: []}}]}",
        "allow: {a.test: [{match: {path: /x}}]}",
        "allow: {a.test: [{match: {path: {}}}]}",
        "allow: {a.test: [{match: {path: {exact: /a, startsWith: /b}}}]}",
        "allow: {a.test: [{match: {queryString: [{}]}}]}",
        "allow: {a.test: [{match: {headers: [{key: {glob: x}}]}}]}",
        "mode: custom\nallowedDomains: a.test",
        "mode: custom\ninjectionRules: [{domain: a.test}]",
        "tests: [{request: GET https://a.test/}]",
        "tests: [{request: GET https://a.test/, verdict: perhaps}]",
        "tests: [{request: GET https://a.test/, reason: because}]",
        "tests: [{request: GET https://a.test/, status: 1000}]",
    ] {
        assert!(fits_schema(text).is_err(), "fits the schema: {text}");
        let compiled = Policy::compile(Some(Source { path: "p.yaml", text }), &Flags::default(), &Terms::default());
        assert!(compiled.is_err(), "compiles: {text}");
    }
}
