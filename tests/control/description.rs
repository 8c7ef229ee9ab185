//! The OpenAPI document is what serves; and what serves, under requests that are made of the document, answers nothing
//! that it does not tell of.
//!
//! The requests are made by schemathesis: the program that `EXEAT_SCHEMATHESIS` names, or the one on the PATH; without
//! it that test says so and is skipped. With `EXEAT_EXAMPLES` it makes that many requests of each kind, all that lie
//! at the edges of the schemas, and sequences of requests, too.

use std::net::TcpListener;
use std::process::Command;

use serde_json::{Value, json};

use super::rig::Rig;

/// `src/control/openapi.json`, what is served, and what `exeat serve --openapi` prints are one.
#[test]
fn the_api_is_described_as_it_is() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control/openapi.json");
    let published = std::fs::read_to_string(path).expect("the document");
    let printed =
        Command::new(env!("CARGO_BIN_EXE_exeat")).args(["serve", "--openapi"]).output().expect("exeat").stdout;
    let printed = String::from_utf8(printed).expect("text");
    assert!(published == printed, "not current: `cargo run -- serve --openapi >src/control/openapi.json`");
    let document: Value = serde_json::from_str(&published).expect("JSON");
    references(&document, &document);
    let policy = &document["components"]["schemas"]["Policy"]["properties"];
    assert!(policy["allow"].is_object() && policy["observe"].is_null() && policy["extends"].is_null());
    let Some(rig) = Rig::new() else { return };
    assert_eq!(rig.get("/openapi.json"), (200, document));
}

/// Every reference leads somewhere.
fn references(document: &Value, part: &Value) {
    match part {
        Value::Object(map) => {
            for (key, value) in map {
                if let (true, Value::String(to)) = (key == "$ref", value) {
                    assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
                }
                references(document, value);
            }
        }
        Value::Array(list) => list.iter().for_each(|one| references(document, one)),
        _ => {}
    }
}

/// What schemathesis holds an answer to. That the daemon takes all that fits the schema is not among it: a schema knows
/// no domain, no range and no other sandbox.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,negative_data_rejection,\
                      unsupported_method,allow_header_conformance,use_after_free,ignored_auth";

#[test]
fn no_request_meets_a_fault_of_the_server_or_an_answer_that_is_not_told() {
    let program = std::env::var_os("EXEAT_SCHEMATHESIS").unwrap_or_else(|| "schemathesis".into());
    if !Command::new(&program).arg("--version").output().is_ok_and(|run| run.status.success()) {
        println!("skipped: there is no schemathesis");
        return;
    }
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), "schemathesis-knows-it\n").expect("a token");
    // Free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("an address");
    let lines = format!("  insecureLoopback: {{ address: \"{address}\", tokenFile: {} }}\n", token.path().display());
    let Some(rig) = Rig::with(&lines) else { return };
    let document = rig.folder().join("openapi.json");
    std::fs::write(&document, rig.get("/openapi.json").1.to_string()).expect("the document");
    let mut run = Command::new(program);
    run.current_dir(rig.folder()).arg("run").arg(&document).args(["--url", &format!("http://{address}")]);
    run.args(["--header", "Authorization: Bearer schemathesis-knows-it", "--checks", CHECKS]);
    // It waits for the end of an answer, and events have none.
    run.args(["--exclude-path", "/events", "--no-color", "--generation-deterministic"]);
    match std::env::var("EXEAT_EXAMPLES") {
        Ok(examples) => run.args(["--phases", "examples,coverage,fuzzing,stateful", "--max-examples", &examples]),
        Err(_) => run.args(["--phases", "examples,fuzzing", "--max-examples", "20"]),
    };
    let output = run.output().expect("schemathesis");
    let report = String::from_utf8_lossy(&output.stdout);
    println!("{}", report.lines().rev().take(12).collect::<Vec<_>>().join("\n"));
    assert!(output.status.success(), "{report}");
    assert_eq!(rig.get("/healthz"), (200, json!("ok\n")));
}
