//! The policy engine: an immutable [`Policy`] that judges every flow, name, request and address (POLICY §3).
//!
//! Pure: no tokio, clock, file or socket. Deciding is total and closed (HOUSE habit 4), and takes no lock.
//!
//! - `INVARIANT`: here alone [`Permit`]s and [`DialAddr`]s are made.
//! - `INVARIANT`: a permit by name never holds the sandbox's original destination, so a forged name reaches the
//!   owner of that name or nobody.
//! - `INVARIANT`: `observe` never relaxes rows 0 and 2, nor anything but the six reasons of POLICY §8.
//!
//! The rows, where they can meet (`tests::precedence` holds this table, pair by pair; `tests/oracle.rs` reads the page
//! beside it):
//!
//! | the address is | the name is | verdict |
//! |---|---|---|
//! | the block address | anything | deny, by the name's own reason (row 0) |
//! | in `subnets.deny` and anywhere else | anything | deny `denied-cidr` (row 1) |
//! | protected, not opened | anything | deny `protected-range` (row 2) |
//! | any | any, in a policy that allows nothing | deny `deny-all` (row 3) |
//! | in `subnets.allow` | denied, allowed or unknown | relay to the address (row 4) |
//! | other | in `deny` and in `allow` | deny `denied-domain` (row 5) |
//! | other | in `allow`, or the mode is allow-all | splice or terminate (row 6) |
//! | pinned to names that all have an `opaque` rule for the port | none | relay to a vetted address of the name (row 7) |
//! | other | none, with allow-all or `*` without rules, no `deny`, not strict | relay to the address (row 8) |
//! | other | other | deny `no-rule` or `no-name` (row 9) |

pub mod cases;
mod compile;
pub mod diagnostic;
pub mod diff;
pub mod explain;
mod fingerprint;
pub mod judge;
pub mod placeholder;
mod presets;
mod protected;
pub mod remedy;
mod response_form;
pub mod signing;
pub mod source;
pub mod verdict;
mod wire;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::flow::{Domain, Flow, RequestHead, Scheme, SecretName, Seen};
use crate::matcher::cidr::{CidrMap, readings, unwrap};
use crate::matcher::domain::{DomainMap, DomainPattern};
use crate::matcher::path::fully_decoded;
use crate::matcher::request::{RequestMatch, TextMatch};
use diagnostic::Diagnostics;
use placeholder::{Places, StandIn};
use signing::Signing;
use verdict::{
    Action, Basis, Denial, DenyReason, DialAddr, ForwardUrl, Injection, LocalResponse, Permit, Revision, Route, RuleId,
    Target, Verdict,
};

pub use diff::diff;
pub use placeholder::{Shape, placeholder_header};
pub use presets::{preset, presets};
pub use protected::Protected;
pub use response_form::PolicyForm;
pub use source::SourceSpec;
pub use wire::{Source, near, schema, without_tests};

/// The address that a refused name is answered with, so that an HTTP client can be told why (POLICY §5).
pub const BLOCK_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// As [`BLOCK_V4`], for AAAA.
pub const BLOCK_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// One compiled policy: immutable, cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Policy {
    revision: Revision,
    base: Base,
    allow: DomainMap<Entry>,
    deny: DomainMap<RuleId>,
    subnets_allow: CidrMap<RuleId>,
    subnets_deny: CidrMap<RuleId>,
    /// The part of `subnets_allow` that opens protected ranges.
    opened: CidrMap<RuleId>,
    strict: bool,
    denials: Denials,
    dns: Dns,
    observe: bool,
    sources: BTreeMap<SecretName, SourceSpec>,
    /// Where secrets may go, of those that something is said of.
    grants: BTreeMap<SecretName, Grant>,
    /// What the sandbox's environment holds instead of secrets.
    placeholders: BTreeMap<String, SecretName>,
    /// The same secrets, each once, and where their placeholders are replaced.
    stand_ins: Vec<Arc<StandIn>>,
}

/// What holds where no list says anything.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Base {
    /// Nothing at all, by this line, or because nothing is allowed.
    DenyAll(Option<RuleId>),
    /// What the lists allow.
    Lists,
    /// Every name, by this line.
    AllowAll(RuleId),
}

/// What a domain pattern of `allow` brings. Most bring nothing, and there are many, so they are small.
#[derive(Debug, Clone)]
struct Entry {
    id: RuleId,
    handling: Option<Box<Handling>>,
}

/// What an entry's rules do.
#[derive(Debug, Clone, Default)]
struct Handling {
    /// About requests, in declared order.
    rules: Vec<Rule>,
    /// Whether some rule looks at the path, so that its readings matter.
    reads_path: bool,
    /// Whether some rule sends a header that is not the sandbox's own. What signs never goes out, and what a signature
    /// brings along is worth nothing without it: an answer is not searched for that.
    brokers: bool,
    /// Ports on which another protocol is relayed by name, and the rule that says so.
    opaque: Vec<(u16, RuleId)>,
}

impl Handling {
    fn add(&mut self, rule: Rule) {
        self.reads_path |= rule.when.path.is_some();
        self.brokers |= matches!(rule.then, Then::Transform(_) | Then::Divert(_));
        self.rules.push(rule);
    }
}

/// A rule of an entry.
#[derive(Debug, Clone)]
struct Rule {
    id: RuleId,
    when: RequestMatch,
    then: Then,
}

/// A rule's action.
#[derive(Debug, Clone)]
enum Then {
    /// Let it go on unchanged.
    Pass,
    /// Set these headers.
    Transform(Arc<[Injection]>),
    /// Sign it.
    Sign(Arc<Signing>),
    /// Replace placeholders there, too.
    Replace(Places),
    /// Answer here.
    Respond(Arc<LocalResponse>),
    /// Send it elsewhere.
    Divert(Arc<ForwardUrl>),
}

/// Which names may be resolved (POLICY §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dns {
    Names,
    Any,
    None,
}

impl Dns {
    /// As a policy spells it.
    fn word(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Any => "any",
            Self::None => "none",
        }
    }
}

/// How refusals look (POLICY §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Denials {
    /// Say why, in a way that the client understands.
    #[default]
    Explain,
    /// Status or alert alone.
    Terse,
}

/// Where a secret may go, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// Names: no rule for others compiles that sends it. Empty: wherever a rule sends it.
    pub to: Vec<DomainPattern>,
    /// Ports. Empty: 443 alone.
    pub ports: Vec<u16>,
    /// Methods. Empty: all.
    pub methods: Vec<String>,
    /// Patterns of paths, of which one matches. Empty: all.
    pub paths: Vec<TextMatch>,
    /// Headers in which its placeholder is replaced. Empty: [`placeholder::HEADERS`].
    pub headers: Vec<HeaderName>,
    /// What its placeholders look like; without it, like its value.
    pub shape: Option<Shape>,
}

impl Grant {
    /// A grant as settings and control planes write it, without a shape.
    ///
    /// # Errors
    /// The key that is wrong, and what is due there; nothing of what is written.
    pub fn read(
        to: &[String],
        ports: &[NonZeroU16],
        methods: &[String],
        paths: &[String],
        headers: &[String],
    ) -> Result<Self, (&'static str, String)> {
        let to: Result<Vec<_>, _> = to.iter().map(|text| DomainPattern::parse(text)).collect();
        let to = to.ok().filter(|to| !to.is_empty());
        let to = to.ok_or_else(|| ("to", "the names that it may go to, such as [api.example.com]".to_owned()))?;
        let headers = headers.iter().map(|header| placeholder_header(header)).collect::<Option<_>>();
        let headers = headers.ok_or_else(|| ("headers", "names of headers, such as [authorization]".to_owned()))?;
        if methods.iter().any(|method| http::Method::from_bytes(method.as_bytes()).is_err()) {
            return Err(("methods", "names of methods, such as [GET, POST]".to_owned()));
        }
        let paths: Result<_, _> = paths.iter().map(|path| TextMatch::glob(path)).collect();
        let paths = paths.map_err(|fault| ("paths", fault.to_string()))?;
        let ports = ports.iter().map(|port| port.get()).collect();
        Ok(Self { to, ports, methods: methods.to_vec(), paths, headers, shape: None })
    }

    /// Whether it may go to every name that a pattern matches.
    fn covers(&self, pattern: &DomainPattern) -> bool {
        self.to.is_empty() || self.to.iter().any(|granted| granted.covers(pattern))
    }

    /// Whether it may go to a name.
    fn names(&self, name: &Domain) -> bool {
        self.to.is_empty() || self.to.iter().any(|granted| granted.matches(name))
    }

    /// Whether it may go along with every request that a rule claims.
    fn covers_requests(&self, when: &RequestMatch) -> bool {
        let methods = self.methods.is_empty()
            || (!when.methods.is_empty() && when.methods.iter().all(|method| self.methods.contains(method)));
        let covered = |path: &TextMatch| self.paths.iter().any(|granted| granted.covers(path, false));
        methods && (self.paths.is_empty() || when.path.as_ref().is_some_and(covered))
    }

    /// Whether it may go along with a request, to its port (POLICY §3 "Secrets"), by each reading of its path.
    fn permits(&self, head: &RequestHead<'_>) -> bool {
        let port = head.dst.port();
        let port = if self.ports.is_empty() { port == HTTPS } else { self.ports.contains(&port) };
        let method = self.methods.is_empty() || self.methods.iter().any(|method| method == head.method);
        let path = |path: &[u8]| self.paths.iter().any(|granted| granted.matches(path));
        let paths = || self.paths.is_empty() || (path(head.path.as_bytes()) && path(&fully_decoded(head.path)));
        port && method && paths()
    }
}

/// The beginning of a text by which programs know what kind of key it is: empty, or such as `ghp_`.
#[must_use]
pub fn key_prefix(text: &str) -> &str {
    compile::advice::key_prefix(text)
}

/// Where a secret goes whose grant says nothing else.
const HTTPS: u16 = 443;

/// On what terms a policy is taken: who wrote it, what this host cannot do for it, and how the files that it
/// `extends` are read. The default is a local file's, on a host that can do everything and reads no further file.
#[derive(Clone, Default)]
pub struct Terms<'a> {
    /// Who wrote it.
    pub author: Author,
    /// What a policy may not ask for, and why, in words for its author.
    pub lacks: Vec<(Feature, &'static str)>,
    /// Hosts that a `forwardURL` may name; `None` for any (POLICY §6).
    pub forward_hosts: Option<Vec<DomainPattern>>,
    /// Reads the files of `extends`; without it there can be none.
    pub files: Option<&'a dyn Files>,
}

/// Who wrote a policy (POLICY §1, column "where"; §3 "Protected ranges").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Author {
    /// The operator, in a local file: may observe, name sources of secrets, and open private ranges.
    #[default]
    Operator,
    /// A control plane, through the API: secrets by reference, and what the operator lists.
    ControlPlane {
        /// Ranges that `subnets.allow` may open.
        openable: Vec<IpNet>,
        /// Secrets that `${secrets.NAME}` may refer to, and where they may go.
        secrets: BTreeMap<SecretName, Grant>,
    },
}

/// What a host may be unable to do for a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Feature {
    /// `forwardURL`: sign the token that goes along.
    Forward,
}

/// Reads the files that a policy `extends`. Implemented by whoever may touch files.
pub trait Files {
    /// The text of a file; `path` is as written, joined to the folder of the file that names it.
    ///
    /// # Errors
    /// Why it cannot be had, for the policy's author.
    fn read(&self, path: &str) -> Result<String, String>;
}

/// What the command line says about a policy, as it was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--mode`: `allow-all` or `deny-all`; excludes a file and the lists below.
    pub mode: Option<String>,
    /// `--allow`: domain patterns, added to the file's.
    pub allow: Vec<String>,
    /// `--allow-cidr`: ranges, added to the file's `subnets.allow`.
    pub allow_cidr: Vec<String>,
    /// `--deny-cidr`: ranges, added to the file's `subnets.deny`.
    pub deny_cidr: Vec<String>,
    /// `--observe`: record denials, and do not enforce them.
    pub observe: bool,
}

/// What compiling gives.
#[derive(Debug)]
pub struct Compiled {
    /// What judges.
    pub policy: Policy,
    /// The document's `tests:`, for [`cases::run`].
    pub cases: Vec<cases::Case>,
    /// What is legal and perhaps not meant.
    pub advice: Diagnostics,
}

impl Policy {
    /// Compiles a document and what the command line adds to it; without either, the policy that allows nothing.
    ///
    /// # Errors
    /// Every fault of the document and of the flags.
    pub fn compile(document: Option<Source<'_>>, flags: &Flags, terms: &Terms<'_>) -> Result<Compiled, Diagnostics> {
        compile::compile(document, flags, terms)
    }

    /// The policy that allows nothing: what a sandbox has before it has a policy.
    #[must_use]
    pub fn deny_all() -> Self {
        let policy = Self {
            revision: Revision([0; 32]),
            base: Base::DenyAll(None),
            allow: DomainMap::default(),
            deny: DomainMap::default(),
            subnets_allow: CidrMap::default(),
            subnets_deny: CidrMap::default(),
            opened: CidrMap::default(),
            strict: false,
            denials: Denials::default(),
            dns: Dns::Names,
            observe: false,
            sources: BTreeMap::new(),
            grants: BTreeMap::new(),
            placeholders: BTreeMap::new(),
            stand_ins: Vec::new(),
        };
        policy.sealed()
    }

    /// Hash of the compiled content.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How refusals look.
    #[must_use]
    pub fn denials(&self) -> Denials {
        self.denials
    }

    /// Whether denials are recorded and not enforced (POLICY §8).
    #[must_use]
    pub fn observe(&self) -> bool {
        self.observe
    }

    /// Names of all secrets that some rule sends or signs with, or that a placeholder stands for.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        let signing =
            self.rules().filter_map(|rule| if let Then::Sign(signing) = &rule.then { Some(signing) } else { None });
        let keys = signing.flat_map(|signing| signing.secrets());
        self.injections().flat_map(Injection::secrets).chain(keys).chain(self.stand_ins().map(StandIn::secret))
    }

    /// The declared secrets and where their values come from.
    pub fn sources(&self) -> impl Iterator<Item = (&SecretName, &SourceSpec)> {
        self.sources.iter()
    }

    /// What rules send that stands in the document itself and is a credential, by its look or by its header.
    pub fn credentials(&self) -> impl Iterator<Item = &str> {
        self.injections().flat_map(Injection::credentials)
    }

    fn injections(&self) -> impl Iterator<Item = &Injection> {
        self.rules().flat_map(|rule| if let Then::Transform(injections) = &rule.then { &**injections } else { &[] })
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.allow.iter().flat_map(|(_, entry)| entry.rules())
    }

    /// Variables of the sandbox's environment, and the secrets whose placeholders they hold.
    pub fn placeholders(&self) -> impl Iterator<Item = (&str, &SecretName)> {
        self.placeholders.iter().map(|(variable, name)| (variable.as_str(), name))
    }

    /// The secrets that have placeholders, and where these are replaced.
    pub fn stand_ins(&self) -> impl Iterator<Item = &StandIn> {
        self.stand_ins.iter().map(|stand_in| &**stand_in)
    }

    /// May this name be asked of a resolver (POLICY §5)? Matched before it is resolved.
    pub fn decide_name(&self, name: &Domain) -> Verdict<Basis> {
        match self.row_dns(name) {
            Verdict::Deny(Denial { reason, basis }) if self.relaxes(reason) => Verdict::Allow(basis),
            verdict => verdict,
        }
    }

    /// Rows 0–4 of POLICY §3, by address alone, before a byte is read: `Some` where they settle the verdict.
    ///
    /// The block address never settles here: its name words the refusal ([`Self::decide`] and
    /// [`Self::decide_request`] always refuse it).
    #[must_use]
    pub fn decide_address(&self, flow: &Flow, host: &Protected) -> Option<Verdict<Route>> {
        let address = flow.dst.ip();
        if is_block(address) {
            return None;
        }
        match self.rows_1_to_3(address, host) {
            Err(denial) => Some(Verdict::Deny(denial)),
            // `decide` lets it through and says so, once it knows by what name.
            Ok(Some(_)) => None,
            Ok(None) => Some(Verdict::Allow(Route::Relay(self.row_4(flow.dst.0)?))),
        }
    }

    /// All rows of POLICY §3, on everything that is known.
    pub fn decide(&self, flow: &Flow, host: &Protected) -> Verdict<Route> {
        if is_block(flow.dst.ip()) {
            return self.refuse_block(self.decide_seen(flow), flow);
        }
        let relaxed = match self.rows_1_to_3(flow.dst.ip(), host) {
            Err(denial) => return Verdict::Deny(denial),
            Ok(relaxed) => relaxed,
        };
        if let (None, Some(permit)) = (&relaxed, self.row_4(flow.dst.0)) {
            return Verdict::Allow(Route::Relay(permit));
        }
        self.relax_flow(relaxed, self.decide_seen(flow), flow)
    }

    /// A UDP flow (POLICY §4): rows 1–4, and allow-all as in row 8. No name is asked about.
    pub fn decide_datagram(&self, flow: &Flow, host: &Protected) -> Verdict<Permit> {
        let (dst, address) = (flow.dst.0, flow.dst.ip());
        if is_block(address) {
            return self.deny(DenyReason::NoName, None);
        }
        let relaxed = match self.rows_1_to_3(address, host) {
            Err(denial) => return Verdict::Deny(denial),
            Ok(relaxed) => relaxed,
        };
        let verdict = match (self.row_4(dst), &self.base) {
            (Some(permit), _) => Verdict::Allow(permit),
            (None, Base::AllowAll(_)) => self.rows_8_and_9(dst),
            (None, Base::Lists | Base::DenyAll(_)) => self.deny(DenyReason::NoName, None),
        };
        match (relaxed, verdict) {
            (_, Verdict::Deny(denial)) if !self.relaxes(denial.reason) => Verdict::Deny(denial),
            (Some(denial), _) | (None, Verdict::Deny(denial)) => {
                Verdict::Allow(self.observed(Target::Address(dst), denial))
            }
            (None, verdict) => verdict,
        }
    }

    /// One request of a terminated or cleartext flow.
    ///
    /// Row 4 counts for cleartext only, and then only if it came with a later policy: earlier, the flow would have been
    /// relayed unread. What was terminated stays judged by name.
    pub fn decide_request(&self, head: &RequestHead<'_>, host: &Protected) -> Verdict<Action> {
        let address = head.dst.ip();
        if is_block(address) {
            let reason = match self.decide_head(head) {
                Verdict::Deny(denial) => return Verdict::Deny(denial),
                Verdict::Allow(_) if head.authority.is_some() => DenyReason::NoRule,
                Verdict::Allow(_) => DenyReason::NoName,
            };
            return self.deny(reason, None);
        }
        let relaxed = match self.rows_1_to_3(address, host) {
            Err(denial) => return Verdict::Deny(denial),
            Ok(relaxed) => relaxed,
        };
        self.relax_request(relaxed, self.decide_head(head), head)
    }

    /// May this address be dialled under this permit? Rows 1–2 at the moment of dialling. The port of a name's address
    /// is as resolved: the operator's `--resolve` may give another than the permit's.
    pub fn vet(&self, answer: SocketAddr, permit: &Permit, host: &Protected) -> Verdict<DialAddr> {
        let is_target = match &permit.target {
            Target::Name(..) => true,
            Target::Address(only) => unwrap(only.ip()) == unwrap(answer.ip()) && only.port() == answer.port(),
        };
        if !is_target {
            return Verdict::Deny(Denial { reason: DenyReason::NoRule, basis: permit.basis.clone() });
        }
        self.vet_answer(answer.ip(), host).map(|()| DialAddr { addr: answer })
    }

    /// May this address stand in a DNS answer? As [`Self::vet`], without a dial in view.
    pub fn vet_answer(&self, answer: IpAddr, host: &Protected) -> Verdict<()> {
        if is_block(answer) {
            return self.deny(DenyReason::ProtectedRange, None);
        }
        let first = self.row_1(answer).filter(|_| !self.observe);
        match first.or_else(|| self.row_2(answer, host)) {
            Some(denial) => Verdict::Deny(denial),
            None => Verdict::Allow(()),
        }
    }
}

/// Whether some reading of it is the block address.
fn is_block(address: IpAddr) -> bool {
    readings(address).any(|reading| reading == BLOCK_V4 || reading == BLOCK_V6)
}

/// Why a name is permitted (row 6).
enum Permitted<'a> {
    /// An entry of `allow`.
    Entry(&'a Entry),
    /// The mode.
    Mode(&'a RuleId),
}

impl Permitted<'_> {
    fn rule(&self) -> &RuleId {
        match self {
            Self::Entry(entry) => &entry.id,
            Self::Mode(rule) => rule,
        }
    }
}

/// The rows of POLICY §3.
impl Policy {
    /// What POLICY §5 asks of a name, whoever observes.
    fn row_dns(&self, name: &Domain) -> Verdict<Basis> {
        match (self.dns, self.row_3()) {
            (_, Some(denial)) => Verdict::Deny(denial),
            (Dns::None, None) => self.deny(DenyReason::NoRule, None),
            (Dns::Any, None) => match self.deny.get(name) {
                Some(rule) => self.deny(DenyReason::DeniedDomain, Some(rule)),
                None => Verdict::Allow(self.basis(None)),
            },
            (Dns::Names, None) => self.rows_5_and_6(name).map(|permitted| self.basis(Some(permitted.rule()))),
        }
    }

    fn row_1(&self, address: IpAddr) -> Option<Denial> {
        let rule = self.subnets_deny.get_any_reading(address)?;
        Some(self.denial(DenyReason::DeniedCidr, Some(rule)))
    }

    fn row_2(&self, address: IpAddr, host: &Protected) -> Option<Denial> {
        host.covers(address, &self.opened).then(|| self.denial(DenyReason::ProtectedRange, None))
    }

    fn row_3(&self) -> Option<Denial> {
        match &self.base {
            Base::DenyAll(rule) => Some(self.denial(DenyReason::DenyAll, rule.as_ref())),
            Base::Lists | Base::AllowAll(_) => None,
        }
    }

    /// Rows 1–3. `Err` stands; `Ok` with a denial is one that `observe` lets through, once the rest has been asked.
    fn rows_1_to_3(&self, address: IpAddr, host: &Protected) -> Result<Option<Denial>, Denial> {
        let first = self.row_1(address);
        if !self.observe
            && let Some(denial) = first
        {
            return Err(denial);
        }
        if let Some(denial) = self.row_2(address, host) {
            return Err(denial);
        }
        match first.or_else(|| self.row_3()) {
            Some(denial) if !self.observe => Err(denial),
            relaxed => Ok(relaxed),
        }
    }

    fn row_4(&self, address: SocketAddr) -> Option<Permit> {
        let rule = self.subnets_allow.get_unwrapped(address.ip())?;
        Some(self.permit(Target::Address(address), Some(rule)))
    }

    fn rows_5_and_6(&self, name: &Domain) -> Verdict<Permitted<'_>> {
        if let Some(rule) = self.deny.get(name) {
            return self.deny(DenyReason::DeniedDomain, Some(rule));
        }
        match (self.allow.get(name), &self.base) {
            (Some(entry), _) => Verdict::Allow(Permitted::Entry(entry)),
            (None, Base::AllowAll(rule)) => Verdict::Allow(Permitted::Mode(rule)),
            (None, Base::Lists | Base::DenyAll(_)) => self.deny(DenyReason::NoRule, None),
        }
    }

    /// Whether TLS for a permitted name ends here, and each request is judged.
    fn terminates(&self, permitted: &Permitted<'_>, name: &Domain) -> bool {
        let has_rules = match permitted {
            Permitted::Entry(entry) => !entry.rules().is_empty(),
            Permitted::Mode(_) => false,
        };
        has_rules || self.strict || self.stand_ins.iter().any(|stand_in| stand_in.is_for(name))
    }

    /// Row 7: all names that the address is pinned to have an `opaque` rule for this port. It is relayed to the name
    /// that was answered last.
    fn row_7(&self, pinned: &[Domain], port: u16) -> Option<Permit> {
        let rule = |name: &Domain| match self.rows_5_and_6(name) {
            Verdict::Allow(Permitted::Entry(entry)) => entry.opaque(port),
            Verdict::Allow(Permitted::Mode(_)) | Verdict::Deny(_) => None,
        };
        let rules = pinned.iter().map(|name| Some((name, rule(name)?))).collect::<Option<Vec<_>>>()?;
        let (name, rule) = rules.last()?;
        Some(self.permit(Target::Name((*name).clone(), port), Some(rule)))
    }

    /// Rows 8 and 9, for what names nobody.
    fn rows_8_and_9(&self, address: SocketAddr) -> Verdict<Permit> {
        match self.any_rule() {
            Some(rule) if self.deny.is_empty() && !self.strict => {
                Verdict::Allow(self.permit(Target::Address(address), Some(rule)))
            }
            _ => self.deny(DenyReason::NoName, None),
        }
    }

    /// The line that allows every name, whatever is spoken.
    fn any_rule(&self) -> Option<&RuleId> {
        match &self.base {
            Base::AllowAll(rule) => Some(rule),
            // An `opaque` rule, too, says something narrower than "anything, anywhere".
            Base::Lists => self.allow.any().filter(|entry| entry.handling.is_none()).map(|entry| &entry.id),
            Base::DenyAll(_) => None,
        }
    }

    /// Rows 5–9 for a flow; cleartext HTTP goes on to be judged request by request.
    fn decide_seen(&self, flow: &Flow) -> Verdict<Route> {
        let port = flow.dst.port();
        match &flow.seen {
            Seen::Tls(hello) => match &hello.sni {
                Some(name) => self.rows_5_and_6(name).map(|permitted| {
                    if self.terminates(&permitted, name) {
                        return Route::Terminate(self.basis(Some(permitted.rule())));
                    }
                    Route::Splice(self.permit(Target::Name(name.clone(), port), Some(permitted.rule())))
                }),
                None => self.rows_8_and_9(flow.dst.0).map(Route::Relay),
            },
            Seen::Http(_) => Verdict::Allow(Route::Terminate(self.basis(None))),
            Seen::Opaque if port == 80 || port == 443 => self.deny(DenyReason::NotHttp, None),
            Seen::Opaque => match self.row_7(&flow.pinned, port) {
                Some(permit) => Verdict::Allow(Route::Relay(permit)),
                None => self.rows_8_and_9(flow.dst.0).map(Route::Relay),
            },
            Seen::Unreadable(_) => self.deny(DenyReason::UnreadableHello, None),
            Seen::Unread => self.deny(DenyReason::NoName, None),
        }
    }

    /// Row 0: the block address is refused by the reason that the name has, or for want of one. Cleartext HTTP goes
    /// on, as each request names its own ([`Self::decide_request`] refuses it).
    fn refuse_block(&self, verdict: Verdict<Route>, flow: &Flow) -> Verdict<Route> {
        match (self.row_3(), verdict, &flow.seen) {
            (_, Verdict::Allow(route @ Route::Terminate(_)), Seen::Http(_)) => Verdict::Allow(route),
            (Some(denial), _, _) | (None, Verdict::Deny(denial), _) => Verdict::Deny(denial),
            (None, Verdict::Allow(_), Seen::Tls(hello)) if hello.sni.is_some() => self.deny(DenyReason::NoRule, None),
            (None, Verdict::Allow(_), _) => self.deny(DenyReason::NoName, None),
        }
    }

    /// Rows 3–9 for a request.
    fn decide_head(&self, head: &RequestHead<'_>) -> Verdict<Action> {
        if let Some(denial) = self.row_3() {
            return Verdict::Deny(denial);
        }
        if let (Scheme::Http, Some(permit)) = (head.scheme, self.row_4(head.dst.0)) {
            return Verdict::Allow(Action::Forward(permit));
        }
        self.decide_origin(head)
    }

    /// Rows 5–9 for a request, by the origin that it names.
    fn decide_origin(&self, head: &RequestHead<'_>) -> Verdict<Action> {
        let Some(name) = head.authority else {
            return match head.scheme {
                Scheme::Http => self.rows_8_and_9(head.dst.0).map(Action::Forward),
                Scheme::Https => self.deny(DenyReason::NoName, None),
            };
        };
        let permit = |brokers: bool, rule: &RuleId| {
            let permit = self.permit(Target::Name(name.clone(), head.dst.port()), Some(rule));
            // What one request was sent, the answer to another may hold.
            let is_brokered = brokers || self.stand_ins.iter().any(|stand_in| stand_in.is_for(name));
            let joining = self.stand_ins.iter().filter(|stand_in| stand_in.may_join(name, head));
            Permit { is_brokered, stand_ins: joining.cloned().collect(), ..permit }
        };
        match self.rows_5_and_6(name) {
            Verdict::Deny(denial) => Verdict::Deny(denial),
            Verdict::Allow(Permitted::Mode(rule)) => Verdict::Allow(Action::Forward(permit(false, rule))),
            Verdict::Allow(Permitted::Entry(entry)) => {
                let permit = |rule| permit(entry.brokers(), rule);
                match entry.claim(head) {
                    Claim::Ambiguous => self.deny(DenyReason::AmbiguousPath, Some(&entry.id)),
                    Claim::Nobody => Verdict::Allow(Action::Forward(permit(&entry.id))),
                    Claim::Rule(rule) => self.act(rule, head, permit(&rule.id)),
                }
            }
        }
    }

    /// What the rule that claimed a request does with it.
    fn act(&self, rule: &Rule, head: &RequestHead<'_>, permit: Permit) -> Verdict<Action> {
        match &rule.then {
            Then::Pass => Verdict::Allow(Action::Forward(permit)),
            Then::Respond(response) => Verdict::Allow(Action::Respond(Arc::clone(response), permit.basis)),
            Then::Transform(_) | Then::Sign(_) | Then::Divert(_) if head.scheme == Scheme::Http => {
                self.deny(DenyReason::PlaintextInjection, Some(&rule.id))
            }
            Then::Divert(url) if url.is_left_by(head.path) => self.deny(DenyReason::AmbiguousPath, Some(&rule.id)),
            Then::Divert(url) => {
                if let Some(rule) = self.deny.get(&url.host) {
                    return self.deny(DenyReason::DeniedDomain, Some(rule));
                }
                let target = Target::Name(url.host.clone(), url.port);
                // What may go to the one may not go to the other.
                let permit = Permit { target, stand_ins: Vec::new(), ..permit };
                Verdict::Allow(Action::Divert(Arc::clone(url), permit))
            }
            Then::Transform(injections) if !self.may_go(injections.iter().flat_map(Injection::secrets), head) => {
                self.deny(DenyReason::SecretUnavailable, Some(&rule.id))
            }
            Then::Transform(injections) => {
                let injections = Some(left_to_set(injections, head.headers));
                Verdict::Allow(Action::Forward(Permit { injections, ..permit }))
            }
            // In clear no secret goes along: whatever placeholder it has is refused.
            Then::Replace(places) => Verdict::Allow(Action::Forward(Permit { places: *places, ..permit })),
            Then::Sign(signing) if !self.may_go(signing.secrets(), head) => {
                self.deny(DenyReason::SecretUnavailable, Some(&rule.id))
            }
            Then::Sign(signing) => {
                Verdict::Allow(Action::Forward(Permit { signing: Some(Arc::clone(signing)), ..permit }))
            }
        }
    }

    /// Whether every one of these secrets may go along with this request, or sign it (POLICY §3 "Secrets").
    fn may_go<'a>(&self, mut secrets: impl Iterator<Item = &'a SecretName>, head: &RequestHead<'_>) -> bool {
        let usual = Grant::default();
        secrets.all(|name| self.grants.get(name).unwrap_or(&usual).permits(head))
    }

    /// A flow's verdict where `observe` may relax it, or has relaxed what was asked before (POLICY §8).
    fn relax_flow(&self, relaxed: Option<Denial>, verdict: Verdict<Route>, flow: &Flow) -> Verdict<Route> {
        let denial = match (relaxed, verdict) {
            (_, Verdict::Deny(denial)) if !self.relaxes(denial.reason) => return Verdict::Deny(denial),
            (Some(denial), _) | (None, Verdict::Deny(denial)) => denial,
            (None, verdict) => return verdict,
        };
        let route = match &flow.seen {
            Seen::Http(_) => Route::Terminate(denial.basis),
            Seen::Tls(hello) => match &hello.sni {
                Some(name) => Route::Splice(self.observed(Target::Name(name.clone(), flow.dst.port()), denial)),
                None => Route::Relay(self.observed(Target::Address(flow.dst.0), denial)),
            },
            Seen::Unread | Seen::Opaque | Seen::Unreadable(_) => {
                Route::Relay(self.observed(Target::Address(flow.dst.0), denial))
            }
        };
        Verdict::Allow(route)
    }

    /// As [`Self::relax_flow`], for a request.
    fn relax_request(
        &self,
        relaxed: Option<Denial>,
        verdict: Verdict<Action>,
        head: &RequestHead<'_>,
    ) -> Verdict<Action> {
        let denial = match (relaxed, verdict) {
            (_, Verdict::Deny(denial)) if !self.relaxes(denial.reason) => return Verdict::Deny(denial),
            (Some(denial), _) | (None, Verdict::Deny(denial)) => denial,
            // Under `observe` the answer is withheld and the request let through; of the closed reasons, "no rule lets
            // it go out" is the one that holds.
            (None, Verdict::Allow(Action::Respond(_, basis))) if self.observe => {
                Denial { reason: DenyReason::NoRule, basis }
            }
            (None, verdict) => return verdict,
        };
        let target = match head.authority {
            Some(name) => Target::Name(name.clone(), head.dst.port()),
            None => Target::Address(head.dst.0),
        };
        Verdict::Allow(Action::Forward(self.observed(target, denial)))
    }

    /// Whether `observe` lets through what would be denied for this reason (POLICY §8).
    fn relaxes(&self, reason: DenyReason) -> bool {
        use DenyReason::{DeniedCidr, DeniedDomain, DenyAll, NoName, NoRule};
        self.observe && matches!(reason, DeniedCidr | DenyAll | DeniedDomain | NoRule | NoName)
    }

    fn basis(&self, rule: Option<&RuleId>) -> Basis {
        Basis { rule: rule.cloned(), revision: self.revision }
    }

    fn denial(&self, reason: DenyReason, rule: Option<&RuleId>) -> Denial {
        Denial { reason, basis: self.basis(rule) }
    }

    fn deny<T>(&self, reason: DenyReason, rule: Option<&RuleId>) -> Verdict<T> {
        Verdict::Deny(self.denial(reason, rule))
    }

    fn permit(&self, target: Target, rule: Option<&RuleId>) -> Permit {
        let basis = self.basis(rule);
        Permit {
            target,
            basis,
            injections: None,
            observed: None,
            is_brokered: false,
            stand_ins: Vec::new(),
            places: Places::default(),
            query: None,
            signing: None,
        }
    }

    /// The permit of what `observe` lets through: nothing is injected.
    fn observed(&self, target: Target, denial: Denial) -> Permit {
        let Denial { reason, basis } = denial;
        Permit { observed: Some(reason), basis, ..self.permit(target, None) }
    }
}

/// Those that do not give way to a header of the request's own.
fn left_to_set(injections: &Arc<[Injection]>, headers: &HeaderMap) -> Arc<[Injection]> {
    let gives_way = |set: &Injection| set.yields && headers.keys().any(|name| set.replaces(name));
    if !injections.iter().any(gives_way) {
        return Arc::clone(injections);
    }
    injections.iter().filter(|set| !gives_way(set)).cloned().collect()
}

/// Who claims a request.
enum Claim<'a> {
    Rule(&'a Rule),
    Nobody,
    /// Different rules, by different readings of the path.
    Ambiguous,
}

impl Entry {
    fn new(id: RuleId, handling: Handling) -> Self {
        let Handling { rules, reads_path: _, brokers: _, opaque } = &handling;
        let handling = (!rules.is_empty() || !opaque.is_empty()).then(|| Box::new(handling));
        Self { id, handling }
    }

    /// The rules about requests.
    fn rules(&self) -> &[Rule] {
        self.handling.as_ref().map(|handling| handling.rules.as_slice()).unwrap_or_default()
    }

    fn brokers(&self) -> bool {
        self.handling.as_ref().is_some_and(|handling| handling.brokers)
    }

    /// The rule that relays another protocol on this port.
    fn opaque(&self, port: u16) -> Option<&RuleId> {
        let ports = self.handling.as_ref().map(|handling| handling.opaque.as_slice()).unwrap_or_default();
        ports.iter().find(|(other, _)| *other == port).map(|(_, rule)| rule)
    }

    /// The first rule whose match holds, if both readings of the path agree on it.
    fn claim(&self, head: &RequestHead<'_>) -> Claim<'_> {
        let Some(handling) = &self.handling else { return Claim::Nobody };
        let Handling { rules, reads_path, brokers: _, opaque: _ } = &**handling;
        let first =
            |path: &[u8]| rules.iter().position(|rule| rule.when.matches(head.method, path, head.query, head.headers));
        let claimed = first(head.path.as_bytes());
        if *reads_path {
            let decoded = fully_decoded(head.path);
            // Some origins end a path at a NUL: no reading of it can be relied on.
            if decoded.contains(&0) || first(&decoded) != claimed {
                return Claim::Ambiguous;
            }
        }
        claimed.and_then(|index| rules.get(index)).map_or(Claim::Nobody, Claim::Rule)
    }
}

#[cfg(test)]
mod tests;
