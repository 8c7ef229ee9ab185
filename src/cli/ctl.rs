//! `exeat ctl`: asks a daemon over its control API, as a person or a script does.
//!
//! It is a client and no more: what it says of sandboxes is what the daemon answered, and what the daemon refuses it
//! tells in the daemon's words. With `--format json` it prints what was answered, as it was answered.

mod client;
mod events;
mod place;
mod policy;
mod secrets;
mod table;
mod view;

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use self::client::{Answer, Ask, Client, ClientError};
use self::events::EventsArguments;
use self::place::DaemonArguments;
use self::policy::PolicyVerb;
use self::secrets::SecretsArguments;
use super::dial::DialError;
use super::policy::{DENIED, DocumentError, FAULTS, USAGE, json as pretty, print};
use super::{Exit, chain, tell};
use crate::policy::near;

/// Options of `exeat ctl`.
#[derive(Debug, clap::Args)]
pub struct CtlArguments {
    #[command(flatten)]
    daemon: DaemonArguments,
    /// How the answer is written.
    #[arg(long, value_name = "FORMAT", default_value = "human", global = true)]
    format: Format,
    #[command(subcommand)]
    verb: CtlVerb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[value(alias = "text")]
    Human,
    Json,
}

#[derive(Debug, clap::Subcommand)]
enum CtlVerb {
    /// List all sandboxes, in order of creation.
    #[command(visible_alias = "ls")]
    List,
    /// Show one sandbox.
    Show(Named),
    /// Register a sandbox, and print its name. Without an attachment it reaches nothing.
    Create(CreateArguments),
    /// Say how a sandbox's packets arrive: from then on it reaches what its policy allows.
    Attach(AttachArguments),
    /// Take a sandbox's attachment away: it reaches nothing, and nothing of it is left on the host.
    Detach(Named),
    /// Say what a sandbox may use, in place of what was said before; or print it.
    Limit(LimitArguments),
    /// Set, get or explain the policy of a sandbox.
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// List the flows of a sandbox that are open.
    Flows(Named),
    /// Follow the audit record, until the daemon ends, or nobody reads it any more.
    Events(EventsArguments),
    /// List the secrets that policies may name, and how each is kept; never a value. Or set one's value.
    Secrets(SecretsArguments),
    /// End a sandbox: its flows are cut, and it is kept to be looked at.
    Stop(Named),
    /// End a sandbox, and forget it.
    Delete(Named),
    /// Print what a sandbox must trust.
    TrustBundle(TrustArguments),
    /// Ask whether the daemon is ready, and how it keeps secrets: ends with 0 if it is.
    Health,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The sandbox's name.
    name: String,
}

#[derive(Debug, clap::Args)]
struct CreateArguments {
    /// The sandbox's name; the daemon finds one where none is given.
    name: Option<String>,
    /// Its policy: a file, or preset:NAME; else it may reach nothing.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    #[command(flatten)]
    attachment: AttachmentArguments,
}

#[derive(Debug, clap::Args)]
struct AttachArguments {
    /// The sandbox's name.
    name: String,
    #[command(flatten)]
    attachment: AttachmentArguments,
}

#[derive(Debug, clap::Args)]
struct AttachmentArguments {
    /// By its network namespace: a path, or a name that `ip netns` knows.
    #[arg(long, value_name = "PATH|NAME", conflicts_with = "interface")]
    netns: Option<String>,
    /// By a device of the host, such as a TAP or one end of a veth.
    #[arg(long, value_name = "DEVICE", requires = "sandbox_addresses")]
    interface: Option<String>,
    /// An address that the sandbox behind the device uses; may be repeated.
    #[arg(long = "sandbox-address", value_name = "ADDRESS", requires = "interface")]
    sandbox_addresses: Vec<IpAddr>,
}

#[derive(Debug, clap::Args)]
struct LimitArguments {
    /// The sandbox's name.
    name: String,
    /// A bound, such as flows=500: flows, requestsPerSecond, egressBytesPerSecond, ingressBytesPerSecond or
    /// dnsPerMinute.
    #[arg(value_name = "KEY=NUMBER", value_parser = bound)]
    bounds: Vec<(String, u64)>,
    /// Take every bound of its own away.
    #[arg(long, conflicts_with = "bounds")]
    none: bool,
}

fn bound(text: &str) -> Result<(String, u64), String> {
    let (key, number) = text.split_once('=').ok_or("write it as KEY=NUMBER")?;
    let number = number.parse().map_err(|_| "behind `=` is a whole number due")?;
    Ok((key.to_owned(), number))
}

#[derive(Debug, clap::Args)]
struct TrustArguments {
    /// The sandbox's name.
    name: String,
    /// What of it: all certificates that the sandbox trusts, its own root alone, or the variables that tell programs
    /// where they are.
    #[arg(long, value_name = "WHAT", default_value = "bundle")]
    print: Trust,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Trust {
    Bundle,
    Certificate,
    Variables,
}

/// What a verb has to say, and how it ends.
type Done = Result<(String, Exit), CtlError>;

/// Runs the verb.
#[must_use]
pub fn ctl(arguments: &CtlArguments) -> Exit {
    let CtlArguments { daemon, format, verb } = arguments;
    let client = daemon.daemon().and_then(|daemon| Client::new(daemon).map_err(CtlError::Client));
    match client.and_then(|client| Desk { client, format: *format }.carry_out(verb)) {
        Ok((text, exit)) => print(&text, exit),
        Err(error) => {
            match &error {
                CtlError::Faults(faults) => tell(faults),
                error => tell(&format!("exeat: {}\n", chain(error))),
            }
            error.exit()
        }
    }
}

/// Who asks, and how they want to be answered.
struct Desk {
    client: Client,
    format: Format,
}

impl Desk {
    fn carry_out(&self, verb: &CtlVerb) -> Done {
        match verb {
            CtlVerb::List => self.list(),
            CtlVerb::Show(Named { name }) => {
                let sandbox = self.sandbox(name)?;
                self.answer(&sandbox, || view::sandbox(&sandbox))
            }
            CtlVerb::Create(arguments) => self.create(arguments),
            CtlVerb::Attach(AttachArguments { name, attachment }) => {
                let spec =
                    attachment.spec().ok_or_else(|| CtlError::Usage("say how: --netns or --interface".into()))?;
                let sandbox = self.attach(name, spec)?;
                self.answer(&sandbox, || format!("{name}: {}\n", view::attachment(&sandbox)))
            }
            CtlVerb::Detach(Named { name }) => self.end(Method::POST, name, "/detach", "detached"),
            CtlVerb::Limit(arguments) => self.limit(arguments),
            CtlVerb::Policy(verb) => policy::carry_out(self, verb),
            CtlVerb::Flows(Named { name }) => {
                let answer = self.of(name, self.ask(Method::GET, &format!("{}/flows", sandbox_path(name)), ""))?;
                let flows = member(answer.body, "flows");
                self.answer(&flows, || view::flows(&flows))
            }
            CtlVerb::Events(arguments) => events::follow(self, arguments),
            CtlVerb::Secrets(arguments) => secrets::carry_out(self, arguments),
            CtlVerb::Stop(Named { name }) => self.end(Method::POST, name, "/stop", "stopped"),
            CtlVerb::Delete(Named { name }) => self.end(Method::DELETE, name, "", "deleted"),
            CtlVerb::TrustBundle(arguments) => self.trust(arguments),
            CtlVerb::Health => self.health(),
        }
    }

    /// Prints what was answered, or what it means.
    fn answer(&self, answered: &Value, human: impl FnOnce() -> String) -> Done {
        let text = if self.format == Format::Json { pretty(answered) } else { human() };
        Ok((text, Exit::Success))
    }

    fn ask(&self, method: Method, path: &str, body: impl Into<Vec<u8>>) -> Result<Answer, CtlError> {
        self.client.ask(Ask { method, path, replaces: None, body: body.into() }).map_err(CtlError::Client)
    }

    /// For an answer about a sandbox: where there is none of this name, says which one was perhaps meant.
    fn of<T>(&self, name: &str, answer: Result<T, CtlError>) -> Result<T, CtlError> {
        match answer {
            Err(CtlError::Client(ClientError::Refused { status: StatusCode::NOT_FOUND, .. })) => {
                let known = self.names().unwrap_or_default();
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                Err(CtlError::Unknown(name.to_owned(), near(name, &known)))
            }
            answer => answer,
        }
    }

    fn names(&self) -> Result<Vec<String>, CtlError> {
        let name = |sandbox: &Value| sandbox.get("name").and_then(Value::as_str).map(str::to_owned);
        Ok(self.sandboxes()?.iter().filter_map(name).collect())
    }

    /// Every sandbox, page after page.
    fn sandboxes(&self) -> Result<Vec<Value>, CtlError> {
        const FIRST: &str = "/v2/sandboxes?sortOrder=asc&limit=1000";
        let (mut all, mut path) = (Vec::new(), FIRST.to_owned());
        loop {
            let page = self.ask(Method::GET, &path, "")?.body;
            let next = page.pointer("/pagination/next").and_then(Value::as_str).map(encoded);
            if let Value::Array(sandboxes) = member(page, "sandboxes") {
                all.extend(sandboxes);
            }
            match next {
                Some(cursor) => path = format!("{FIRST}&cursor={cursor}"),
                None => return Ok(all),
            }
        }
    }

    fn sandbox(&self, name: &str) -> Result<Value, CtlError> {
        let answer = self.of(name, self.ask(Method::GET, &sandbox_path(name), ""))?;
        Ok(member(answer.body, "sandbox"))
    }

    fn list(&self) -> Done {
        let sandboxes = self.sandboxes()?;
        let text = view::list(&sandboxes);
        self.answer(&Value::Array(sandboxes), || text)
    }

    /// In three steps, so that a policy goes as it is written. Until the last one the sandbox reaches nothing; if one
    /// fails, nothing is left of it.
    fn create(&self, arguments: &CreateArguments) -> Done {
        let CreateArguments { name, policy, attachment } = arguments;
        let document = policy.as_ref().map(|path| policy::Upload::named(path)).transpose()?;
        let said = name.as_ref().map_or_else(|| json!({}), |name| json!({ "name": name }));
        let made = member(self.ask(Method::POST, "/v2/sandboxes", said.to_string())?.body, "sandbox");
        let name = made.get("name").and_then(Value::as_str).unwrap_or_default();
        let whole = || {
            if let Some(document) = &document {
                policy::push(self, &made, document, None)?;
            }
            if let Some(spec) = attachment.spec() {
                self.attach(name, spec)?;
            }
            self.sandbox(name)
        };
        let sandbox = whole().map_err(|error| match self.ask(Method::DELETE, &sandbox_path(name), "") {
            Ok(_) => error,
            Err(again) => CtlError::Left(name.to_owned(), Box::new(error), Box::new(again)),
        })?;
        self.answer(&sandbox, || format!("{name}\n"))
    }

    fn attach(&self, name: &str, spec: Value) -> Result<Value, CtlError> {
        let answer = self.ask(Method::POST, &format!("{}/attach", sandbox_path(name)), spec.to_string());
        Ok(member(self.of(name, answer)?.body, "sandbox"))
    }

    fn limit(&self, arguments: &LimitArguments) -> Done {
        let LimitArguments { name, bounds, none } = arguments;
        let sandbox = if bounds.is_empty() && !none {
            self.sandbox(name)?
        } else {
            let limits: Map<String, Value> = bounds.iter().map(|(key, most)| (key.clone(), json!(most))).collect();
            let said = json!({ "limits": limits }).to_string();
            member(self.of(name, self.ask(Method::PATCH, &sandbox_path(name), said))?.body, "sandbox")
        };
        self.answer(&member(sandbox.clone(), "limits"), || format!("{name}: {}\n", view::limits(&sandbox)))
    }

    fn end(&self, method: Method, name: &str, step: &str, done: &str) -> Done {
        let answer = self.of(name, self.ask(method, &format!("{}{step}", sandbox_path(name)), ""))?;
        self.answer(&member(answer.body, "sandbox"), || format!("{name}: {done}\n"))
    }

    fn trust(&self, arguments: &TrustArguments) -> Done {
        let TrustArguments { name, print } = arguments;
        let path = format!("/trust-bundle?sandbox={}", encoded(name));
        let trust = self.of(name, self.ask(Method::GET, &path, ""))?.body;
        let text = |key: &str| trust.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        self.answer(&trust, || match print {
            Trust::Bundle => text("bundle"),
            Trust::Certificate => text("certificate"),
            Trust::Variables => view::variables(&trust),
        })
    }

    fn health(&self) -> Done {
        match self.ask(Method::GET, "/readyz", "") {
            Ok(Answer { body, .. }) => {
                self.answer(&json!({ "ready": true }), || body.as_str().unwrap_or("ready\n").to_owned())
            }
            Err(CtlError::Client(ClientError::Refused {
                status: StatusCode::SERVICE_UNAVAILABLE, message, ..
            })) => {
                let (text, _) =
                    self.answer(&json!({ "ready": false, "reason": message }), || format!("{message}\n"))?;
                Ok((text, FAULTS))
            }
            Err(error) => Err(error),
        }
    }
}

impl AttachmentArguments {
    /// As the API has it, if anything is said.
    fn spec(&self) -> Option<Value> {
        let Self { netns, interface, sandbox_addresses } = self;
        if let Some(device) = interface {
            return Some(json!({ "interface": { "name": device, "addresses": sandbox_addresses } }));
        }
        let netns = netns.as_ref()?;
        let path = if netns.contains('/') { PathBuf::from(netns) } else { Path::new("/run/netns").join(netns) };
        Some(json!({ "netns": path }))
    }
}

fn sandbox_path(name: &str) -> String {
    format!("/v2/sandboxes/{}", encoded(name))
}

/// A member of an object, or nothing.
fn member(mut object: Value, key: &str) -> Value {
    object.get_mut(key).map(Value::take).unwrap_or_default()
}

/// As a part of a path or a query (RFC 3986 §2.1).
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Why a verb did not do what it is for.
#[derive(Debug)]
enum CtlError {
    /// The command line is wrong.
    Usage(String),
    /// A policy cannot be read.
    Document(DocumentError),
    /// A policy has faults: the report.
    Faults(String),
    /// There is no sandbox of this name; one that was perhaps meant.
    Unknown(String, Option<String>),
    /// A sandbox was made, could not be made whole, and could not be taken back.
    Left(String, Box<CtlError>, Box<CtlError>),
    /// The daemon refused, or could not be asked.
    Client(ClientError),
}

impl CtlError {
    fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => USAGE,
            Self::Document(error) if error.is_usage() => USAGE,
            Self::Client(ClientError::Refused { status, .. }) if *status != StatusCode::UNAUTHORIZED => FAULTS,
            Self::Document(_) | Self::Faults(_) | Self::Unknown(..) => FAULTS,
            Self::Left(_, error, _) => error.exit(),
            Self::Client(ClientError::Dial(DialError::Address(_))) => USAGE,
            Self::Client(_) => Exit::Failed,
        }
    }
}

impl fmt::Display for CtlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Faults(message) => f.write_str(message),
            Self::Document(error) => error.fmt(f),
            Self::Unknown(name, near) => {
                write!(f, "there is no sandbox `{name}`")?;
                near.as_ref().map_or(Ok(()), |near| write!(f, "; {near}"))
            }
            Self::Left(name, error, again) => {
                write!(f, "{error}; and the sandbox `{name}`, which was made, could not be deleted: {again}")
            }
            Self::Client(error) => error.fmt(f),
        }
    }
}

impl Error for CtlError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Document(error) => error.source(),
            Self::Client(error) => error.source(),
            Self::Usage(_) | Self::Faults(_) | Self::Unknown(..) | Self::Left(..) => None,
        }
    }
}

impl From<ClientError> for CtlError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_a_path_or_a_query_means_itself() {
        assert_eq!(encoded("a-b_1"), "a-b_1");
        assert_eq!(encoded("https://a.test/?x=é&y#z"), "https%3A%2F%2Fa.test%2F%3Fx%3D%C3%A9%26y%23z");
    }

    #[test]
    fn a_name_is_one_that_ip_netns_knows() {
        let spec = |netns: &str| {
            let netns = Some(netns.to_owned());
            AttachmentArguments { netns, interface: None, sandbox_addresses: Vec::new() }.spec()
        };
        assert_eq!(spec("a"), Some(json!({ "netns": "/run/netns/a" })));
        assert_eq!(spec("/proc/7/ns/net"), Some(json!({ "netns": "/proc/7/ns/net" })));
    }
}
