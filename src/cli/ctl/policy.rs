//! `exeat ctl policy`: what a sandbox may reach.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::{Value, json};

use super::client::{Answer, Ask, ClientError};
use super::view::explained;
use super::{CtlError, DENIED, Desk, Done, Format, Named, encoded, member, pretty, sandbox_path};
use crate::cli::Exit;
use crate::cli::policy::Document;
use crate::policy::without_tests;

#[derive(Debug, clap::Subcommand)]
pub(super) enum PolicyVerb {
    /// Replace the policy of a sandbox, whole. When this returns, the new one is in force, also for what is open.
    Set(SetArguments),
    /// Print the policy of a sandbox, without any value.
    Get(Named),
    /// Say how a sandbox's policy judges a request or a connection now. Ends with 3 if it is denied.
    Explain(ExplainArguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct SetArguments {
    /// The sandbox's name.
    name: String,
    /// The policy: a file, or preset:NAME. It is sent as it is written, without its `tests`; `extends`, and sources
    /// under `secrets`, are for policies that are read from files, and are faults here.
    file: PathBuf,
    /// The revision that it replaces; if another is in force, nothing changes.
    #[arg(long, value_name = "REVISION")]
    replaces: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArguments {
    /// The sandbox's name.
    name: String,
    /// A request (`https://example.com/path`), or a connection (`example.com:22`, `10.1.2.3:5432`).
    #[arg(value_name = "URL|HOST:PORT")]
    target: String,
    /// The method of a request; GET if nothing is said.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// What the name resolves to: it is then judged, too.
    #[arg(long, value_name = "ADDRESS")]
    resolved: Option<IpAddr>,
}

pub(super) fn carry_out(desk: &Desk, verb: &PolicyVerb) -> Done {
    match verb {
        PolicyVerb::Set(arguments) => set(desk, arguments),
        PolicyVerb::Get(Named { name }) => {
            let policy = member(desk.sandbox(name)?, "networkPolicy");
            Ok((pretty(&policy), Exit::Success))
        }
        PolicyVerb::Explain(arguments) => explain(desk, arguments),
    }
}

/// A document on its way to the daemon.
pub(super) struct Upload {
    path: String,
    text: String,
}

impl Upload {
    /// What `FILE` or `preset:NAME` names.
    pub(super) fn named(path: &Path) -> Result<Self, CtlError> {
        let document = Document::named(path).map_err(CtlError::Document)?;
        let source = document.source();
        Ok(Self { path: source.path.to_owned(), text: without_tests(source.text).into_owned() })
    }
}

/// Replaces the policy of a sandbox, as it was shown.
pub(super) fn push(
    desk: &Desk,
    sandbox: &Value,
    document: &Upload,
    replaces: Option<&str>,
) -> Result<Answer, CtlError> {
    let session = sandbox.get("currentSessionId").and_then(Value::as_str).unwrap_or_default();
    let path = format!("/v2/sandboxes/sessions/{}/network-policy", encoded(session));
    let body = document.text.as_bytes().to_vec();
    desk.client.ask(Ask { method: Method::POST, path: &path, replaces, body }).map_err(|error| match error {
        ClientError::Refused { code, message, .. } if code == "invalid_policy" => {
            CtlError::Faults(in_file(&message, &document.path))
        }
        error => CtlError::Client(error),
    })
}

/// A report about what was pushed as one about the file that it was read from.
fn in_file(report: &str, path: &str) -> String {
    let mut text = report.replace("--> policy:", &format!("--> {path}:"));
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn set(desk: &Desk, arguments: &SetArguments) -> Done {
    let SetArguments { name, file, replaces } = arguments;
    let document = Upload::named(file)?;
    let sandbox = desk.sandbox(name)?;
    let Answer { body: _, revision } = push(desk, &sandbox, &document, replaces.as_deref())?;
    let revision = revision.unwrap_or_default();
    desk.answer(&json!({ "name": name, "revision": revision }), || format!("{name}: revision {revision} is in force\n"))
}

fn explain(desk: &Desk, arguments: &ExplainArguments) -> Done {
    let ExplainArguments { name, target, method, resolved } = arguments;
    let mut path = format!("{}/explain?url={}", sandbox_path(name), encoded(target));
    let address = resolved.map(|address| address.to_string());
    for (key, value) in [("method", method), ("address", &address)] {
        path.extend(value.iter().map(|value| format!("&{key}={}", encoded(value))));
    }
    let judged = desk.of(name, desk.ask(Method::GET, &path, ""))?.body;
    let asked = match method.as_deref().or(target.contains("://").then_some("GET")) {
        Some(method) => format!("{method} {target}"),
        None => target.clone(),
    };
    let text = if desk.format == Format::Json { pretty(&judged) } else { explained(&asked, &judged) };
    Ok((text, if judged.get("reason").is_some() { DENIED } else { Exit::Success }))
}
