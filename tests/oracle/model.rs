//! A policy, and what is asked of it, as plain data. Nothing here judges, and nothing here knows the engine.

use std::net::{IpAddr, SocketAddr};

use super::ranges::Range;

/// A policy (POLICY §1) and the host that it is judged on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) mode: Mode,
    pub(crate) allow: Vec<Entry>,
    pub(crate) deny: Vec<Pattern>,
    /// `subnets.allow`
    pub(crate) opened: Vec<Range>,
    /// `subnets.deny`
    pub(crate) closed: Vec<Range>,
    pub(crate) strict: bool,
    pub(crate) observe: bool,
    pub(crate) dns: Option<Dns>,
    /// What the operator lists as openable for policies from the API; `None` for one from a local file.
    pub(crate) api: Option<Vec<Range>>,
    pub(crate) host: Host,
}

/// What holds where no list says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mode {
    /// No `mode` is written.
    #[default]
    Lists,
    AllowAll,
    DenyAll,
}

/// `dns:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dns {
    Any,
    Names,
    None,
}

/// What is protected here (POLICY §3 "Protected ranges").
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    /// Its own addresses.
    pub(crate) own: Vec<IpAddr>,
    /// `--allow-protected`
    pub(crate) unprotected: Vec<Range>,
}

/// A domain pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    /// As the document writes it.
    pub(crate) spelled: String,
    /// What that comes to: canonical labels and `*`, from the left.
    pub(crate) labels: Vec<String>,
}

/// A pattern of `allow` and its rules.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) pattern: Pattern,
    pub(crate) rules: Vec<Rule>,
}

/// A rule of an entry.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) when: Option<When>,
    pub(crate) then: Then,
}

/// `match:`
#[derive(Debug, Clone, Default)]
pub(crate) struct When {
    pub(crate) methods: Vec<String>,
    pub(crate) path: Option<Text>,
    pub(crate) query: Vec<Pair>,
    pub(crate) headers: Vec<Pair>,
}

/// A matcher of one text.
#[derive(Debug, Clone)]
pub(crate) enum Text {
    Exact(String),
    StartsWith(String),
    Regex(String),
    /// Of paths alone.
    Glob(String),
}

/// A matcher of a pair.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pair {
    pub(crate) key: Option<Text>,
    pub(crate) value: Option<Text>,
}

/// What a rule does.
#[derive(Debug, Clone)]
pub(crate) enum Then {
    Pass,
    /// Headers and values of each element, `${secrets.NAME}` as written.
    Transform(Vec<Vec<(String, String)>>),
    Forward(String),
    /// The status.
    Respond(u16),
    Opaque(Vec<u16>),
}

/// A question to the engine.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Flow(Facts),
    Request(Request),
    /// May this name be resolved?
    Name(String),
    /// May this address stand in an answer?
    Answer(IpAddr),
}

/// What is known of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) dst: SocketAddr,
    pub(crate) seen: Seen,
    /// The names that the address was answered for, oldest first.
    pub(crate) pinned: Vec<String>,
    /// What is to be dialled under the permit, if one is given.
    pub(crate) dial: SocketAddr,
}

/// What a connection's first bytes said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Unread,
    Http,
    Opaque,
    /// The server name, if there is one.
    Tls(Option<String>),
    Unreadable,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Inside TLS that was ended here; else in clear.
    pub(crate) secure: bool,
    pub(crate) authority: Option<String>,
    pub(crate) dst: SocketAddr,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    /// As in [`Facts`].
    pub(crate) dial: SocketAddr,
}

/// The line of a policy that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum By {
    #[default]
    Mode,
    /// Of `allow`, by place.
    Entry(usize),
    /// Of an entry's rules.
    Rule(usize, usize),
    Deny(usize),
    Opened(usize),
    Closed(usize),
}

/// A judgement, in words. What does not apply is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Said<R> {
    /// `allow` or `deny`
    pub(crate) verdict: &'static str,
    /// `splice`, `terminate`, `relay`, `respond` or `forward`
    pub(crate) route: &'static str,
    /// Why it is denied, or would be if it were not observed.
    pub(crate) reason: String,
    /// What decided.
    pub(crate) rule: Option<R>,
    /// `NAME:PORT` or `ADDRESS:PORT` that a permit lets us contact.
    pub(crate) target: String,
    /// The URL that a request is sent to instead.
    pub(crate) url: String,
    /// Headers and values, in order of name.
    pub(crate) injected: Vec<(String, String)>,
    /// Of an answer given here.
    pub(crate) status: Option<u16>,
    /// What vetting says of the address to be dialled: the address, or the reason and the rule.
    pub(crate) dial: Option<Result<SocketAddr, (String, Option<R>)>>,
}
