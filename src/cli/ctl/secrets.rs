//! `exeat ctl secrets`: what the daemon keeps, and values that are set over its API.
//!
//! `INVARIANT`: a value comes from standard input or from a file, never from an argument, which others can read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{CtlError, Desk, Done, member, view};
use crate::limits;

/// Options of `exeat ctl secrets`.
#[derive(Debug, clap::Args)]
pub(super) struct SecretsArguments {
    #[command(subcommand)]
    verb: Option<SecretsVerb>,
}

#[derive(Debug, clap::Subcommand)]
enum SecretsVerb {
    /// Set a secret's value, which is read from standard input, and where it may go.
    Set(SetArguments),
    /// Forget a secret whose value was set so; no policy may use it.
    Delete {
        /// The secret's name.
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct SetArguments {
    /// The secret's name.
    name: String,
    /// A name that it may go to, or a pattern of names; may be repeated.
    #[arg(long, value_name = "DOMAIN", required = true)]
    to: Vec<String>,
    /// A port that it may go to, if not 443 alone; may be repeated.
    #[arg(long = "port", value_name = "PORT")]
    ports: Vec<u16>,
    /// A method of requests that it may go along with, if not all; may be repeated.
    #[arg(long = "method", value_name = "METHOD")]
    methods: Vec<String>,
    /// A pattern of paths of requests that it may go along with, if not all; may be repeated.
    #[arg(long = "path", value_name = "PATTERN")]
    paths: Vec<String>,
    /// A header in which its placeholder is replaced, if not the usual ones; may be repeated.
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// For so many seconds it is good; for ever if nothing is said.
    #[arg(long, value_name = "SECONDS")]
    expires_in: Option<u64>,
    /// Read the value from this file instead.
    #[arg(long, value_name = "FILE")]
    value_file: Option<PathBuf>,
}

/// Carries it out.
pub(super) fn carry_out(desk: &Desk, arguments: &SecretsArguments) -> Done {
    match &arguments.verb {
        None => {
            let secrets = member(desk.ask(Method::GET, "/secrets", "")?.body, "secrets");
            desk.answer(&secrets, || view::secrets(&secrets))
        }
        Some(SecretsVerb::Set(arguments)) => set(desk, arguments),
        Some(SecretsVerb::Delete { name }) => {
            let told = desk.ask(Method::DELETE, &path(name), "")?.body;
            desk.answer(&told, || format!("{name}: deleted\n"))
        }
    }
}

fn set(desk: &Desk, arguments: &SetArguments) -> Done {
    let SetArguments { name, to, ports, methods, paths, headers, expires_in, value_file } = arguments;
    let value = read(value_file.as_deref())?;
    let mut said = json!({
        "value": &**value, "to": to, "ports": ports, "methods": methods, "paths": paths, "headers": headers,
    });
    if let (Some(seconds), Some(said)) = (expires_in, said.as_object_mut()) {
        said.insert("expiresIn".to_owned(), Value::from(*seconds));
    }
    let told = desk.ask(Method::PUT, &path(name), said.to_string())?.body;
    desk.answer(&told, || format!("{name}: set\n"))
}

fn path(name: &str) -> String {
    format!("/secrets/{}", super::encoded(name))
}

/// The value, with a trailing newline, if it has one, which the daemon passes over.
fn read(file: Option<&Path>) -> Result<Zeroizing<String>, CtlError> {
    // Room for all from the start: a vector that grows leaves copies behind.
    let mut value = Zeroizing::new(String::with_capacity(limits::SECRET_BYTES + 2));
    let most = u64::try_from(limits::SECRET_BYTES + 1).unwrap_or(u64::MAX);
    let done = match file {
        Some(path) => File::open(path).and_then(|file| file.take(most).read_to_string(&mut value)),
        None => io::stdin().lock().take(most).read_to_string(&mut value),
    };
    let from = || file.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
    match done {
        Ok(_) => Ok(value),
        Err(_) => Err(CtlError::Usage(format!("the value cannot be read from {}", from()))),
    }
}
