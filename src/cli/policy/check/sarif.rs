//! Findings in SARIF 2.1.0 (OASIS standard of that name), as code hosts and CI systems read it.

use std::path::{Component, Path};

use serde_json::{Value, json};

use crate::policy::diagnostic::{Code, Diagnostic, Place};

/// The log of one run. `root` is the folder that the files' addresses are relative to, where they lie in it.
pub(super) fn log(findings: &[Diagnostic], root: Option<&Path>) -> Value {
    let results: Vec<Value> = findings.iter().map(|finding| result(finding, root)).collect();
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "exeat",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": Code::ALL.iter().map(|code| rule(*code)).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

/// A code, as a rule (§3.49).
fn rule(code: Code) -> Value {
    let text = json!({ "text": code.explanation() });
    json!({
        "id": code.as_str(),
        "shortDescription": text,
        "fullDescription": text,
        "help": text,
        "defaultConfiguration": { "level": code.severity().as_str() },
    })
}

/// A finding, as a result (§3.27).
fn result(finding: &Diagnostic, root: Option<&Path>) -> Value {
    let text = match &finding.help {
        Some(help) => format!("{}\nhelp: {help}", finding.message),
        None => finding.message.clone(),
    };
    json!({
        "ruleId": finding.code.as_str(),
        "ruleIndex": Code::ALL.iter().position(|code| *code == finding.code),
        "level": finding.severity().as_str(),
        "message": { "text": text },
        "locations": finding.place.iter().map(|place| location(place, root)).collect::<Vec<_>>(),
    })
}

fn location(place: &Place, root: Option<&Path>) -> Value {
    json!({ "physicalLocation": {
        "artifactLocation": { "uri": uri(Path::new(&place.path), root) },
        "region": { "startLine": place.line, "startColumn": place.column },
    }})
}

/// A path as a URI reference (RFC 3986 §4.1): relative, unless it is absolute and outside of `root`.
fn uri(path: &Path, root: Option<&Path>) -> String {
    let path = root.and_then(|root| path.strip_prefix(root).ok()).unwrap_or(path);
    let mut uri = String::from(if path.is_absolute() { "file://" } else { "" });
    for component in path.components() {
        let part = match component {
            Component::RootDir | Component::Prefix(_) | Component::CurDir => continue,
            Component::ParentDir => "..",
            Component::Normal(name) => name.to_str().unwrap_or_default(),
        };
        if !uri.is_empty() {
            uri.push('/');
        }
        for byte in part.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
                _ => uri.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_uri_references() {
        let root = Some(Path::new("/home/user/project"));
        for (path, root, expected) in [
            ("policies/a.yaml", root, "policies/a.yaml"),
            ("./policies/a.yaml", root, "policies/a.yaml"),
            ("../a.yaml", root, "../a.yaml"),
            ("/home/user/project/policies/a.yaml", root, "policies/a.yaml"),
            ("/home/user/projects/a.yaml", root, "file:///home/user/projects/a.yaml"),
            ("/etc/a.yaml", None, "file:///etc/a.yaml"),
            ("a b/ü#1%?.yaml", None, "a%20b/%C3%BC%231%25%3F.yaml"),
            ("preset:x", None, "preset%3Ax"),
        ] {
            assert_eq!(uri(Path::new(path), root), expected, "{path}");
        }
    }
}
