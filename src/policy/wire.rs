//! A policy document as it is written: every key of POLICY §1 and §3, by name, with its place.
//!
//! The one place where the language is spelled: text becomes a [`tree`], the tree becomes the records below, strictly
//! and with every fault ([`read`]), and of the very same declarations the JSON Schema is made ([`schema`]). Wire types
//! end inside [`super::compile`]; nothing of them is kept in a policy.
//!
//! `INVARIANT`: a [`Fault`] of this module quotes of a document keys, and values only where no credential can stand.

mod documents;
mod read;
mod tree;
mod upload;

use serde_json::{Value as Json, json};

use super::diagnostic::{Code, Fault};
use super::placeholder;
use super::signing::{HmacEncoding, HmacHash};
use super::verdict::DenyReason;
use super::{Denials, Dns};
pub use documents::Source;
pub(super) use documents::{Document, Documents};
pub use read::near;
use read::{Definitions, described, is_word, record, record_schema};
pub(super) use read::{Faults, Field, Flag, Kind, List, Number, Table, Text, Wire, Word, Words};
pub(super) use tree::Span;
use tree::{Node, Value};
pub use upload::without_tests;

/// The JSON Schema (2020-12) of a policy file. It knows every key and the form of its value; what only compiling knows,
/// such as whether a text is a domain, it leaves to `exeat check`.
#[must_use]
pub fn schema() -> Json {
    let mut definitions = Definitions::default();
    let mut root = DocumentWire::schema(&mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "exeat policy",
        "description": "What a sandbox may reach on the network, and with which credentials.",
        "anyOf": root.get_mut("anyOf").map(Json::take),
        "$defs": definitions.into_json(),
    })
}

/// A whole document.
#[derive(Debug)]
pub(super) enum DocumentWire<'n> {
    /// A mode alone.
    Bare(Word<Mode>),
    /// Everything else.
    Policy(Box<PolicyWire<'n>>),
}

impl<'n> Wire<'n> for DocumentWire<'n> {
    const NOUN: &'static str = "a policy";

    fn read(node: &'n Node, what: &str, faults: &mut Faults) -> Option<Self> {
        match node.text() {
            Some(text) if is_word(text) => return Word::read(node, "`mode`", faults).map(Self::Bare),
            Some(_) => {
                let message = "a policy must be a map, and this is text";
                let fault = Fault::new(Code::WrongType, message).place(node.span).hidden();
                faults.push(fault.help("a key is followed by a colon and a space"));
                return None;
            }
            None => {}
        }
        PolicyWire::read(node, what, faults).map(|policy| Self::Policy(Box::new(policy)))
    }

    fn schema(definitions: &mut Definitions) -> Json {
        let bare = described(json!({ "enum": ["allow-all", "deny-all"] }), "The mode alone.");
        json!({ "anyOf": [PolicyWire::schema(definitions), bare] })
    }
}

record! {
    /// A policy: what no list allows is denied.
    PolicyWire<'n> as "a policy" {
        /// The version of the policy language.
        "version" => version: Number<1, 1>,
        /// What the policy is called.
        "name" => name: Text<'n, Prose>,
        /// What the policy is for.
        "description" => description: Text<'n, Prose>,
        /// Files whose policies this one adds to. Lists add up; of what can stand once (a mode, a setting, the entry of
        /// a domain, a secret), this file's counts, then the first of these that has one. Their `tests` are not run.
        "extends" => extends: List<Text<'n, FilePath>>,
        /// `allow-all` may stand beside the lists, `deny-all` stands alone; without it, what no list allows is denied.
        "mode" => mode: Word<Mode>,
        /// Domains that may be reached, with rules for their requests: the most specific pattern that matches a name
        /// applies, and no other.
        "allow" => allow: AllowWire<'n>,
        /// Domains that may not be reached, whatever `allow` says.
        "deny" => deny: List<Text<'n, Pattern>>,
        /// Addresses that may or may not be reached, whatever their names.
        "subnets" => subnets: SubnetsWire<'n>,
        /// End TLS of every flow that is permitted by name, and hold its requests to that name.
        "strict" => strict: Flag,
        /// Whether a refusal says why.
        "denials" => denials: Word<Denials>,
        /// Which names may be resolved: those that may be reached, any that `deny` does not match, or none.
        "dns" => dns: Word<Dns>,
        /// Record what would be denied, and let it through. The operator's alone.
        "observe" => observe: Flag,
        /// Secrets by name, and where their values come from.
        "secrets" => secrets: Table<'n, SecretKey, SourceWire<'n>>,
        /// Variables that the sandbox's environment holds, and the secrets that they stand for.
        "placeholders" => placeholders: Table<'n, Variable, Text<'n, SecretKey>>,
        /// Cases that `exeat test` runs.
        "tests" => tests: List<TestWire<'n>>,
        /// An older API's spelling of `allow`; goes with `mode: custom`.
        "allowedDomains" => allowed_domains: List<Text<'n, Pattern>>,
        /// An older API's spelling of `subnets.allow`; goes with `mode: custom`.
        "allowedCIDRs" => allowed_cidrs: List<Text<'n, Range>>,
        /// An older API's spelling of `subnets.deny`; goes with `mode: custom`.
        "deniedCIDRs" => denied_cidrs: List<Text<'n, Range>>,
        /// An older API's spelling of `transform` rules; goes with `mode: custom`.
        "injectionRules" => injection_rules: List<InjectionRuleWire<'n>>,
    }
    later {
        "forwardRules" => "a policy is read back so, and written as rules: `allow: {DOMAIN: [{forwardURL: URL}]}`",
    }
}

/// What holds where no list says anything (POLICY §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    AllowAll,
    DenyAll,
    Custom,
    /// Older spelling of allow-all.
    DefaultAllow,
    /// Older spelling of custom, or alone of deny-all.
    DefaultDeny,
}

impl Words for Mode {
    const NOUN: &'static str = "a mode";

    fn words() -> Vec<(&'static str, Self)> {
        vec![
            ("allow-all", Self::AllowAll),
            ("deny-all", Self::DenyAll),
            ("custom", Self::Custom),
            ("default-allow", Self::DefaultAllow),
            ("default-deny", Self::DefaultDeny),
        ]
    }
}

impl Words for Denials {
    const NOUN: &'static str = "how denials look";

    fn words() -> Vec<(&'static str, Self)> {
        vec![("explain", Self::Explain), ("terse", Self::Terse)]
    }
}

impl Words for Dns {
    const NOUN: &'static str = "which names are resolved";

    fn words() -> Vec<(&'static str, Self)> {
        [Self::Any, Self::Names, Self::None].map(|dns| (dns.word(), dns)).to_vec()
    }
}

/// Kinds of text.
macro_rules! kinds {
    ($($(#[doc = $about:literal])+ $name:ident as $noun:literal $(such as $examples:expr)?;)+) => {
        $(
            $(#[doc = $about])+
            #[derive(Debug)]
            pub(super) struct $name;

            impl Kind for $name {
                const NOUN: &'static str = $noun;
                const ABOUT: &'static str = concat!($($about),+).trim_ascii();
                $(const EXAMPLES: &'static [&'static str] = $examples;)?
            }
        )+
    };
}

kinds! {
    /// Text for people.
    Prose as "a text";
    /// A file's path, from the folder of this file; or `preset:NAME`.
    FilePath as "a file's path" such as &["base.yaml", "preset:model-apis"];
    /// A domain; `*` is a whole label: at the left end one label or more, elsewhere exactly one, alone every name.
    Pattern as "a domain pattern" such as &["github.com", "*.github.com", "www.*.com", "*"];
    /// A CIDR: an address and a length.
    Range as "a CIDR" such as &["10.0.0.0/8", "fd00::/8"];
    /// A secret's name: letters, digits and `_`, and no digit first.
    SecretKey as "a secret's name" such as &["GITHUB"];
    /// An environment variable.
    Variable as "an environment variable" such as &["GITHUB_TOKEN"];
    /// The beginning of a key, which tells programs what it is for.
    Prefix as "the beginning of a key" such as &["ghp_", "sk-ant-"];
    /// A file's path, from the folder of this file.
    SecretPath as "a file's path" such as &["/run/secrets/github"];
    /// A program or an argument.
    CommandWord as "a word of a command" such as &["/usr/bin/gh", "auth", "token"];
    /// Where a service listens: https, or http and a loopback address; no user info, query or fragment.
    ServiceUrl as "a service's URL" such as &["https://vault.example:8200", "http://127.0.0.1:8200"];
    /// Names with slashes between them, as Vault has them.
    VaultPath as "a path in Vault" such as &["ci/github"];
    /// The name or id of something that a service knows.
    Identifier as "a name or an id" such as &["exeat"];
    /// A number in quotes.
    Digits as "a number in quotes" such as &["12345"];
    /// A header's name; case does not matter.
    HeaderKey as "a header's name" such as &["authorization"];
    /// A header's value; `${secrets.NAME}` in it stands for a secret, `${secrets.NAME | base64}` for its base64.
    HeaderTemplate as "a header's value" such as &["Bearer ${secrets.GITHUB}"];
    /// A text; in it `${method}`, `${path}`, `${query}`, `${target}`, `${host}`, `${header.NAME}`, `${body}` and
    /// `${bodySha256}` stand for parts of the request.
    HmacTemplate as "a text to sign" such as &["${method}\n${target}\n${header.x-timestamp}\n${body}"];
    /// A header's value.
    HeaderText as "a header's value";
    /// A request method; case matters.
    MethodName as "a method" such as &["GET", "HEAD", "POST"];
    /// A pattern of paths: `*` stays in one segment, `**` crosses.
    PathPattern as "a path pattern" such as &["/repos/**"];
    /// Text to compare with.
    Matched as "a text to match";
    /// A URL: https, a name, perhaps a port and a path; no user info, query or fragment.
    ForwardTo as "a URL" such as &["https://proxy.example.com/agents"];
    /// The body of an answer.
    Body as "a body";
    /// A media type.
    MediaType as "a media type" such as &["text/plain", "application/json"];
    /// A method, a space and an http or https URL.
    RequestLine as "a request" such as &["GET https://api.github.com/user"];
    /// A host, a colon and a port.
    HostPort as "a host and port" such as &["github.com:22", "10.20.30.4:5432", "[fd00::1]:443"];
    /// An IP address.
    Address as "an address" such as &["140.82.112.5"];
    /// `FILE:LINE`.
    Place as "a place" such as &["policies/coding-agent.yaml:6"];
}

/// `allow`: patterns, or patterns with rules.
#[derive(Debug)]
pub(super) enum AllowWire<'n> {
    Patterns(List<Text<'n, Pattern>>),
    /// Patterns and their rules; `None` where those cannot be read.
    Entries(Vec<(Text<'n, Pattern>, Option<List<RuleWire<'n>>>)>),
}

impl<'n> Wire<'n> for AllowWire<'n> {
    const NOUN: &'static str = "`allow`";

    fn read(node: &'n Node, what: &str, faults: &mut Faults) -> Option<Self> {
        if let Value::List(_) = &node.value {
            return List::read(node, what, faults).map(Self::Patterns);
        }
        if let Value::Scalar { .. } = &node.value {
            faults.wrong(node, what, "a map or a list");
            return None;
        }
        let mut entries = Vec::new();
        for (key, value) in faults.map(node, what)? {
            entries.push((Text::key(key), rules(key.text.as_str(), value, faults)));
        }
        Some(Self::Entries(entries))
    }

    fn schema(definitions: &mut Definitions) -> Json {
        let list = List::<Text<'_, Pattern>>::schema(definitions);
        let table = Table::<'_, Pattern, List<RuleWire<'_>>>::schema(definitions);
        json!({ "anyOf": [table, list] })
    }
}

/// The rules of an entry; what stands there instead is not shown.
fn rules<'n>(domain: &str, node: &'n Node, faults: &mut Faults) -> Option<List<RuleWire<'n>>> {
    if let Value::List(_) = &node.value {
        return List::read(node, "the rules", faults);
    }
    let message = format!("the rules of `{domain}` must be a list, and this is {}", node.kind());
    let fault = Fault::new(Code::WrongType, message).place(node.span).hidden();
    faults.push(fault.help("an entry without rules is written `[]`"));
    None
}

record! {
    /// Addresses, whatever their names.
    SubnetsWire<'n> as "subnets" {
        /// Ranges that may be reached, whatever is spoken: no name is judged and nothing is injected.
        "allow" => allow: List<Text<'n, Range>>,
        /// Ranges that may not be reached; beats everything.
        "deny" => deny: List<Text<'n, Range>>,
    }
}

record! {
    /// A rule of an entry: the first whose `match` holds claims the request. It has one action; without any it lets the
    /// request go on unchanged.
    RuleWire<'n> as "a rule" at span {
        /// Which requests it claims; without it, all.
        "match" => when: MatchWire<'n>,
        /// Headers to set on the request.
        "transform" => transform: List<TransformWire<'n>, 1>,
        /// Sign the request.
        "sign" => sign: SignWire<'n>,
        /// Let placeholders be replaced elsewhere than in headers.
        "placeholders" => placeholders: PlaceholdersWire<'n>,
        /// Send the request to this URL instead, with a token that says whose it is.
        "forwardURL" => forward: Text<'n, ForwardTo>,
        /// Answer here and contact nobody.
        "response" => response: ResponseWire<'n>,
        /// Relay another protocol to this domain. Not about requests: no `match` stands beside it.
        "opaque" => opaque: OpaqueWire<'n>,
    }
}

record! {
    /// Which requests a rule claims: every part that is there must hold.
    MatchWire<'n> as "`match`" {
        /// One of these methods.
        "method" => method: List<Text<'n, MethodName>, 1>,
        /// The path, without its query.
        "path" => path: PathMatcherWire<'n>,
        /// Pairs of the query, each of which must be there.
        "queryString" => query: List<PairWire<'n>, 1>,
        /// Header fields, each of which must be there.
        "headers" => headers: List<PairWire<'n>, 1>,
    }
}

record! {
    /// What a path must be: exactly one of these.
    PathMatcherWire<'n> as "a matcher" at span {
        /// Equal to this.
        "exact" => exact: Text<'n, Matched>,
        /// Beginning with this.
        "startsWith" => starts_with: Text<'n, Matched>,
        /// Holding a match of this regular expression anywhere.
        "regex" => regex: Text<'n, Matched>,
        /// Matching this pattern as a whole: `*` stays in one segment, `**` crosses.
        "glob" => glob: Text<'n, Matched>,
    }
    also { "minProperties": 1, "maxProperties": 1 }
}

record! {
    /// What a text must be: exactly one of these.
    MatcherWire<'n> as "a matcher" at span {
        /// Equal to this.
        "exact" => exact: Text<'n, Matched>,
        /// Beginning with this.
        "startsWith" => starts_with: Text<'n, Matched>,
        /// Holding a match of this regular expression anywhere.
        "regex" => regex: Text<'n, Matched>,
    }
    also { "minProperties": 1, "maxProperties": 1 }
}

record! {
    /// A name and a value, of which one at least must be told.
    PairWire<'n> as "a matcher of names and values" at span {
        /// What the name must be.
        "key" => key: MatcherWire<'n>,
        /// What the value must be.
        "value" => value: MatcherWire<'n>,
    }
    also { "minProperties": 1 }
}

record! {
    /// Headers to set: all copies that the sandbox sent go, and exactly one is added.
    TransformWire<'n> as "an element of `transform`" at span {
        /// Names and values.
        "headers" => headers: Table<'n, HeaderKey, Text<'n, HeaderTemplate>>,
        /// A user's name and password: sets `authorization` to what HTTP calls Basic.
        "basic" => basic: BasicWire<'n>,
        /// What becomes of a header that the sandbox sent itself: it gives way, or it is kept and none is set.
        "existing" => existing: Word<Existing>,
    }
    also { "anyOf": [{ "required": ["headers"] }, { "required": ["basic"] }] }
}

record! {
    /// A user's name and password.
    BasicWire<'n> as "`basic`" {
        /// The name; it holds no colon.
        "user" (required) => user: Text<'n, HeaderTemplate>,
        /// The password.
        "password" (required) => password: Text<'n, HeaderTemplate>,
    }
}

/// What becomes of a header of the sandbox's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Replace,
    Keep,
}

impl Words for Existing {
    const NOUN: &'static str = "what becomes of a header that is there";

    fn words() -> Vec<(&'static str, Self)> {
        vec![("replace", Self::Replace), ("keep", Self::Keep)]
    }
}

record! {
    /// How requests are signed, which is one of these. The key stays here.
    SignWire<'n> as "`sign`" at span {
        /// What a client has signed with the placeholder of an AWS key is signed again with the key (Signature Version
        /// 4): a header or a URL, and the body as it streams.
        "aws" => aws: AwsWire<'n>,
        /// A header gets an HMAC over a text that is made of the request.
        "hmac" => hmac: HmacWire<'n>,
    }
    also { "minProperties": 1, "maxProperties": 1 }
}

record! {
    /// An AWS key, which is `credentials`, or `accessKey` and `secretKey`; and what it signs.
    AwsWire<'n> as "`aws`" at span {
        /// The secret that holds all of the key, as `aws configure export-credentials` prints it: its parts change at
        /// once.
        "credentials" => credentials: Text<'n, SecretKey>,
        /// The secret that holds the key's id.
        "accessKey" => access_key: Text<'n, SecretKey>,
        /// The secret that holds the key.
        "secretKey" => secret_key: Text<'n, SecretKey>,
        /// The secret that holds the token of temporary credentials.
        "sessionToken" => session_token: Text<'n, SecretKey>,
        /// Regions that a request may be signed for; without it, all.
        "regions" => regions: List<Text<'n, Identifier>, 1>,
        /// Services that a request may be signed for, such as `s3`; without it, all.
        "services" => services: List<Text<'n, Identifier>, 1>,
        /// What becomes of a request that is not signed with the placeholder: it is refused, or goes on as it is.
        "others" => others: Word<Others>,
    }
    also { "oneOf": [{ "required": ["credentials"] }, { "required": ["accessKey", "secretKey"] }] }
}

/// What becomes of a request that is not signed with a placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    Refuse,
    Pass,
}

impl Words for Others {
    const NOUN: &'static str = "what becomes of a request that is not signed";

    fn words() -> Vec<(&'static str, Self)> {
        vec![("refuse", Self::Refuse), ("pass", Self::Pass)]
    }
}

record! {
    /// An HMAC (RFC 2104) over a text that is made of the request.
    HmacWire<'n> as "`hmac`" {
        /// The secret that is the key.
        "key" (required) => key: Text<'n, SecretKey>,
        /// The hash; without it, `sha256`.
        "hash" => hash: Word<HmacHash>,
        /// The text.
        "over" (required) => over: Text<'n, HmacTemplate>,
        /// The header that gets the code: all copies that the sandbox sent go.
        "header" (required) => header: Text<'n, HeaderKey>,
        /// What stands before the code in the header, such as `sha256=`.
        "prefix" => prefix: Text<'n, HeaderText>,
        /// How the code is written; without it, `hex`.
        "encoding" => encoding: Word<HmacEncoding>,
    }
}

impl Words for HmacHash {
    const NOUN: &'static str = "a hash";

    fn words() -> Vec<(&'static str, Self)> {
        vec![("sha256", Self::Sha256), ("sha512", Self::Sha512)]
    }
}

impl Words for HmacEncoding {
    const NOUN: &'static str = "how a code is written";

    fn words() -> Vec<(&'static str, Self)> {
        vec![("hex", Self::Hex), ("base64", Self::Base64)]
    }
}

record! {
    /// Where a request's placeholders are replaced, beside the headers of their secrets; each is one whose secret may
    /// go along with the request.
    PlaceholdersWire<'n> as "`placeholders`" {
        /// The `query`, where a value is escaped; the `body`, where it is written as its type has it.
        "in" (required) => places: List<Word<placeholder::Place>, 1>,
    }
}

impl Words for placeholder::Place {
    const NOUN: &'static str = "a place where placeholders are replaced";

    fn words() -> Vec<(&'static str, Self)> {
        [Self::Query, Self::Body].map(|place| (place.word(), place)).to_vec()
    }
}

record! {
    /// An answer that is given here.
    ResponseWire<'n> as "`response`" {
        /// The status.
        "statusCode" (required) => status: Number<200, 599>,
        /// Header fields beside the type.
        "headers" => headers: Table<'n, HeaderKey, Text<'n, HeaderText>>,
        /// The body; needs a `contentType`.
        "body" => body: Text<'n, Body>,
        /// The type of the body.
        "contentType" => content_type: Text<'n, MediaType>,
    }
}

record! {
    /// Another protocol, by name.
    OpaqueWire<'n> as "`opaque`" {
        /// The ports on which it is relayed; 80 and 443 are not among them.
        "ports" (required) => ports: List<PortWire, 1>,
    }
}

/// A port.
pub(super) type PortWire = Number<1, 65535>;

record! {
    /// Where a secret's value comes from, which is exactly one of `env`, `file`, `command`, `vault`, `oauth2`,
    /// `githubApp` and `aws`, and where it may go.
    SourceWire<'n> as "a secret's source" at span {
        /// An environment variable of exeat's own.
        "env" => env: Text<'n, Variable>,
        /// A file.
        "file" => file: Text<'n, SecretPath>,
        /// A command, without a shell, that prints the value, or `{"value": …, "expiresIn": SECONDS}`; of a key as
        /// AWS's `credential_process` prints it, `Expiration` counts.
        "command" => command: List<Text<'n, CommandWord>, 1>,
        /// A field of a secret in the KV store, version 2, of Vault or OpenBao.
        "vault" => vault: VaultWire<'n>,
        /// An access token of an OAuth 2.0 server.
        "oauth2" => oauth2: OAuth2Wire<'n>,
        /// A token of an installation of a GitHub App.
        "githubApp" => github_app: GithubAppWire<'n>,
        /// A key of AWS's, as `sign` takes one.
        "aws" => aws: AwsKeyWire<'n>,
        /// The names that it may go to; without it, those that rules send it to.
        "to" => to: List<Text<'n, Pattern>, 1>,
        /// The ports that it may go to; without it, 443 alone.
        "ports" => ports: List<PortWire, 1>,
        /// The methods of requests that it may go along with; without it, all.
        "methods" => methods: List<Text<'n, MethodName>, 1>,
        /// The paths of requests that it may go along with, as patterns; without it, all.
        "paths" => paths: List<Text<'n, PathPattern>, 1>,
        /// The headers in which its placeholder is replaced; without it, `authorization` and `x-api-key`.
        "headers" => headers: List<Text<'n, HeaderKey>, 1>,
        /// What its placeholders look like; without it, like its value: as long, of the same kinds of characters, and
        /// with the same beginning if that marks a known kind of key.
        "shape" => shape: ShapeWire<'n>,
    }
    later {
        "literal" => "a policy never holds a secret's value; `env: VARIABLE` or `file: PATH` says where it is",
        "value" => "a policy never holds a secret's value; `env: VARIABLE` or `file: PATH` says where it is",
    }
    also {
        "oneOf": [
            { "required": ["env"] }, { "required": ["file"] }, { "required": ["command"] }, { "required": ["vault"] },
            { "required": ["oauth2"] }, { "required": ["githubApp"] }, { "required": ["aws"] },
        ]
    }
}

record! {
    /// Where a credential lies that is shown to get a secret: one of these.
    CredentialWire<'n> as "a credential" at span {
        /// An environment variable of exeat's own.
        "env" => env: Text<'n, Variable>,
        /// A file.
        "file" => file: Text<'n, SecretPath>,
    }
    later {
        "value" => "a policy holds no credential; `env: VARIABLE` or `file: PATH` says where it is",
    }
    also { "minProperties": 1, "maxProperties": 1 }
}

record! {
    /// A field of a secret in the KV store, version 2, of Vault or OpenBao, and one of `token`, `appRole` and
    /// `kubernetes`, which is shown to be let in.
    VaultWire<'n> as "`vault`" at span {
        /// Where it listens.
        "address" (required) => address: Text<'n, ServiceUrl>,
        /// The namespace that all of it is in.
        "namespace" => namespace: Text<'n, VaultPath>,
        /// Where the store is mounted; without it, `secret`.
        "mount" => mount: Text<'n, VaultPath>,
        /// The secret's path in the store.
        "path" (required) => path: Text<'n, VaultPath>,
        /// The field that has the value; without it, `value`.
        "field" => field: Text<'n, Identifier>,
        /// A token.
        "token" => token: CredentialWire<'n>,
        /// A role and its secret.
        "appRole" => app_role: AppRoleWire<'n>,
        /// The token of a Kubernetes service account.
        "kubernetes" => kubernetes: KubernetesWire<'n>,
        /// A file of certificates, in PEM, to trust instead of the system's.
        "ca" => ca: Text<'n, SecretPath>,
    }
    also { "oneOf": [{ "required": ["token"] }, { "required": ["appRole"] }, { "required": ["kubernetes"] }] }
}

record! {
    /// Vault's AppRole.
    AppRoleWire<'n> as "`appRole`" {
        /// The role's id.
        "roleId" (required) => role_id: Text<'n, Identifier>,
        /// The role's secret.
        "secretId" (required) => secret_id: CredentialWire<'n>,
        /// Where the method is mounted; without it, `approle`.
        "mount" => mount: Text<'n, VaultPath>,
    }
}

record! {
    /// Vault's Kubernetes method.
    KubernetesWire<'n> as "`kubernetes`" {
        /// The role at Vault.
        "role" (required) => role: Text<'n, Identifier>,
        /// The token's file; without it, where Kubernetes puts it.
        "tokenFile" => token_file: Text<'n, SecretPath>,
        /// Where the method is mounted; without it, `kubernetes`.
        "mount" => mount: Text<'n, VaultPath>,
    }
}

record! {
    /// A client of an OAuth 2.0 server: with a `refreshToken` it refreshes, without one it shows its secret alone.
    OAuth2Wire<'n> as "`oauth2`" at span {
        /// Where tokens are asked for.
        "tokenUrl" (required) => token_url: Text<'n, ServiceUrl>,
        /// The client's id.
        "clientId" (required) => client_id: Text<'n, Identifier>,
        /// The client's secret; one that refreshes may have none.
        "clientSecret" => client_secret: CredentialWire<'n>,
        /// How the secret is shown: as the header that is usual, or in the body.
        "clientAuth" => client_auth: Word<ClientAuth>,
        /// The first refresh token. Those that the server gives in its place are kept in memory alone.
        "refreshToken" => refresh_token: CredentialWire<'n>,
        /// What the token is to be good for.
        "scopes" => scopes: List<Text<'n, Identifier>>,
        /// Whom the token is for, where the server asks that.
        "audience" => audience: Text<'n, Identifier>,
        /// A file of certificates, in PEM, to trust instead of the system's.
        "ca" => ca: Text<'n, SecretPath>,
    }
    also { "anyOf": [{ "required": ["clientSecret"] }, { "required": ["refreshToken"] }] }
}

/// How a client shows its secret (RFC 6749 §2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientAuth {
    Basic,
    Body,
}

impl Words for ClientAuth {
    const NOUN: &'static str = "how a client shows its secret";

    fn words() -> Vec<(&'static str, Self)> {
        vec![("basic", Self::Basic), ("body", Self::Body)]
    }
}

record! {
    /// An installation of a GitHub App.
    GithubAppWire<'n> as "`githubApp`" {
        /// The app's id in quotes, or its client id.
        "appId" (required) => app_id: Text<'n, Identifier>,
        /// The installation's id.
        "installationId" (required) => installation_id: Text<'n, Digits>,
        /// The app's private key, in PEM.
        "privateKey" (required) => private_key: CredentialWire<'n>,
        /// Names of the repositories that the token is for; without it, all of the installation.
        "repositories" => repositories: List<Text<'n, Identifier>, 1>,
        /// What the token is for, such as `contents: read`; without it, all that the installation has.
        "permissions" => permissions: Table<'n, Identifier, Text<'n, Identifier>>,
        /// Where GitHub's API is, if it is a server of one's own.
        "api" => api: Text<'n, ServiceUrl>,
        /// A file of certificates, in PEM, to trust instead of the system's.
        "ca" => ca: Text<'n, SecretPath>,
    }
}

record! {
    /// A key of AWS's: that of a profile, or that which STS gives for a token, or else that of the environment
    /// (`AWS_ACCESS_KEY_ID` and so on); or what STS gives a role that is taken with that key. It takes an exeat that
    /// was built with the cargo feature `aws`.
    AwsKeyWire<'n> as "`aws`" at span {
        /// The profile, in the files that AWS's programs read. One that takes roles needs `region`.
        "profile" => profile: Text<'n, Identifier>,
        /// The file that the profile is in, in the form of `~/.aws/config`.
        "file" => file: Text<'n, SecretPath>,
        /// The token of somebody whom a role trusts.
        "webIdentity" => web_identity: WebIdentityWire<'n>,
        /// A role that is taken with the key.
        "assumeRole" => assume_role: AssumeRoleWire<'n>,
        /// Whose STS is asked.
        "region" => region: Text<'n, Identifier>,
        /// Where STS is, if not where AWS has it.
        "sts" => sts: Text<'n, ServiceUrl>,
        /// A file of certificates, in PEM, to trust instead of the system's.
        "ca" => ca: Text<'n, SecretPath>,
    }
}

record! {
    /// A token, and the role that is taken with it.
    WebIdentityWire<'n> as "`webIdentity`" {
        /// The role's ARN.
        "roleArn" (required) => role_arn: Text<'n, Identifier>,
        /// The token's file.
        "tokenFile" (required) => token_file: Text<'n, SecretPath>,
    }
}

record! {
    /// A role.
    AssumeRoleWire<'n> as "`assumeRole`" {
        /// Its ARN.
        "roleArn" (required) => role_arn: Text<'n, Identifier>,
        /// What its account has agreed on with whom takes it.
        "externalId" => external_id: Text<'n, Identifier>,
    }
}

record! {
    /// What a placeholder looks like: this beginning, and random letters and digits.
    ShapeWire<'n> as "a shape" at span {
        /// What it begins with.
        "prefix" => prefix: Text<'n, Prefix>,
        /// How many characters it has in all.
        "length" => length: Number<16, 1024>,
    }
    also { "minProperties": 1 }
}

record! {
    /// An older API's rule that sets headers.
    InjectionRuleWire<'n> as "an injection rule" at span {
        /// The domain, which `allowedDomains` must allow.
        "domain" (required) => domain: Text<'n, Pattern>,
        /// Header names and values.
        "headers" (required) => headers: Table<'n, HeaderKey, Text<'n, HeaderTemplate>>,
        /// Which requests it claims; without it, all.
        "match" => when: MatchWire<'n>,
    }
}

record! {
    /// A case: a request or a connection, and what must come of it.
    TestWire<'n> as "a test" at span {
        /// A request.
        "request" => request: Text<'n, RequestLine>,
        /// A connection on which neither HTTP nor TLS is spoken.
        "connect" => connect: Text<'n, HostPort>,
        /// Header fields of the request.
        "headers" => headers: Table<'n, HeaderKey, Text<'n, HeaderText>>,
        /// What the name resolves to.
        "address" => address: Text<'n, Address>,
        /// Whether it is allowed.
        "verdict" => verdict: Word<Outcome>,
        /// Which way it takes.
        "route" => route: Word<RouteWord>,
        /// Why it is denied.
        "reason" => reason: Word<DenyReason>,
        /// The line that decides.
        "rule" => rule: Text<'n, Place>,
        /// The headers that are set on the request.
        "injected" => injected: List<Text<'n, HeaderKey>>,
        /// The status of the answer that is given here, or of the refusal.
        "status" => status: Number<100, 599>,
    }
    also { "minProperties": 2 }
}

/// `verdict` of a case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome(pub(super) &'static str);

impl Words for Outcome {
    const NOUN: &'static str = "a verdict";

    fn words() -> Vec<(&'static str, Self)> {
        ["allow", "deny"].map(|word| (word, Self(word))).to_vec()
    }
}

/// `route` of a case.
#[derive(Debug, Clone, Copy)]
pub(super) struct RouteWord(pub(super) &'static str);

impl Words for RouteWord {
    const NOUN: &'static str = "a route";

    fn words() -> Vec<(&'static str, Self)> {
        ["splice", "terminate", "relay", "respond", "forward"].map(|word| (word, Self(word))).to_vec()
    }
}

impl Words for DenyReason {
    const NOUN: &'static str = "a reason";

    fn words() -> Vec<(&'static str, Self)> {
        Self::ALL.iter().map(|reason| (reason.as_str(), *reason)).collect()
    }
}

#[cfg(test)]
pub(super) mod tests;
