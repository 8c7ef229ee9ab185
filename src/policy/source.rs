//! Where values of secrets come from, as a policy or the daemon's settings say it. Never a value.
//!
//! What a source shows to be let in is named here, and is nowhere here: a [`CredentialSpec`] is a variable or a file.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use http::Uri;
use http::uri::Scheme;

/// Where the value of a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// An environment variable of exeat's own.
    Env(String),
    /// A file, read as it is; its path is joined to the folder of the policy file that names it.
    File(PathBuf),
    /// What a command prints: the program and its arguments, for no shell.
    Command(Vec<String>),
    /// A field of a secret that Vault or OpenBao keeps.
    Vault(Box<VaultSpec>),
    /// An access token of an OAuth 2.0 server.
    OAuth2(Box<OAuth2Spec>),
    /// A token of an installation of a GitHub App.
    GithubApp(Box<GithubAppSpec>),
    /// A key of AWS's.
    Aws(Box<AwsSpec>),
}

/// Where a credential lies that a source shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSpec {
    /// In an environment variable of exeat's own.
    Env(String),
    /// In a file.
    File(PathBuf),
}

/// A field of a secret of the KV store, version 2, of Vault or OpenBao.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSpec {
    /// Where it listens.
    pub address: Endpoint,
    /// Which namespace all of it is in.
    pub namespace: Option<Segments>,
    /// Where the KV store is mounted.
    pub mount: Segments,
    /// The secret's path in it.
    pub path: Segments,
    /// The field that has the value.
    pub field: String,
    /// Certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// What is shown to be let in.
    pub auth: VaultAuth,
}

/// What Vault is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VaultAuth {
    /// A token.
    Token(CredentialSpec),
    /// A role's id and its secret.
    AppRole {
        /// Where the method is mounted.
        mount: Segments,
        /// Which is no secret.
        role_id: String,
        /// Which is.
        secret_id: CredentialSpec,
    },
    /// The token of a Kubernetes service account.
    Kubernetes {
        /// Where the method is mounted.
        mount: Segments,
        /// The role at Vault.
        role: String,
        /// The token's file.
        token: PathBuf,
    },
}

impl VaultAuth {
    /// Where a KV store is mounted of which nothing is said.
    pub const KV: &'static str = "secret";
    /// Where AppRole is mounted of which nothing is said.
    pub const APP_ROLE: &'static str = "approle";
    /// Where Kubernetes is mounted of which nothing is said.
    pub const KUBERNETES: &'static str = "kubernetes";
    /// Where Kubernetes puts a service account's token.
    pub const SERVICE_ACCOUNT: &'static str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
}

/// A client of an OAuth 2.0 server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuth2Spec {
    /// Where tokens are asked for.
    pub token_url: Endpoint,
    /// Who asks.
    pub client_id: String,
    /// For what it is given one.
    pub grant: OAuth2Grant,
    /// Whether its secret goes in the body, for a server that cannot take it as the header that is usual (RFC 6749
    /// §2.3.1).
    pub by_body: bool,
    /// What the token is to be good for.
    pub scopes: Vec<String>,
    /// Whom it is for, where the server asks that.
    pub audience: Option<String>,
    /// Certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
}

/// For what a client is given a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OAuth2Grant {
    /// For its own secret (RFC 6749 §4.4).
    Client {
        /// The secret.
        secret: CredentialSpec,
    },
    /// For a refresh token (§6).
    Refresh {
        /// The first one; the server may give another with each answer.
        token: CredentialSpec,
        /// The client's secret, if it has one.
        secret: Option<CredentialSpec>,
    },
}

impl OAuth2Grant {
    /// The client's secret, if it has one.
    #[must_use]
    pub fn secret(&self) -> Option<&CredentialSpec> {
        match self {
            Self::Client { secret } => Some(secret),
            Self::Refresh { token: _, secret } => secret.as_ref(),
        }
    }

    /// The first refresh token, if it has one.
    #[must_use]
    pub fn refresh_token(&self) -> Option<&CredentialSpec> {
        match self {
            Self::Client { secret: _ } => None,
            Self::Refresh { token, secret: _ } => Some(token),
        }
    }
}

/// An installation of a GitHub App.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GithubAppSpec {
    /// Where GitHub's API is.
    pub api: Endpoint,
    /// The app's id, or its client id.
    pub app_id: String,
    /// Which installation.
    pub installation_id: u64,
    /// The app's key, in PEM.
    pub private_key: CredentialSpec,
    /// The repositories that the token is for; all of the installation if none is named.
    pub repositories: Vec<String>,
    /// What it is for, such as (`contents`, `read`); all that the installation has if nothing is named.
    pub permissions: Vec<(String, String)>,
    /// Certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
}

impl GithubAppSpec {
    /// GitHub's own API.
    pub const API: &'static str = "https://api.github.com";
}

/// A key of AWS's, with the session token and the end of those that end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsSpec {
    /// Where one is to begin with.
    pub from: AwsFrom,
    /// The role that is taken with that one.
    pub role: Option<AwsRole>,
    /// Whose STS is asked.
    pub region: Option<String>,
    /// Where STS is, if not where AWS has that of the region.
    pub sts: Option<Endpoint>,
    /// Certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
}

/// Where a key of AWS's is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AwsFrom {
    /// In the variables that AWS's programs read.
    Environment,
    /// In the files that AWS's programs read, or in one that is named here, under this name.
    Profile {
        /// The profile's.
        name: String,
        /// Which it is.
        file: Option<PathBuf>,
    },
    /// At STS, for a token of somebody whom this role trusts.
    WebIdentity {
        /// The role's ARN.
        role: String,
        /// The token's file.
        token: PathBuf,
    },
}

/// A role of AWS's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsRole {
    /// Its ARN.
    pub arn: String,
    /// What its account has agreed on with whom takes it.
    pub external_id: Option<String>,
}

impl AwsSpec {
    /// Whether this program can ask AWS: what it takes is large, and not everybody's.
    pub const IS_BUILT: bool = cfg!(feature = "aws");
    /// What is told where it cannot.
    pub const NOT_BUILT: &'static str = "`aws` takes an exeat that was built with the cargo feature `aws`";
    /// What is told where STS is asked, and no region is said.
    pub const NO_REGION: &'static str = "`webIdentity` and `assumeRole` need `region`: whose STS is asked";
    /// The variables of AWS's programs: the key's id, the key and its session's token.
    pub const VARIABLES: [&'static str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

    /// Whether nobody can tell whose STS is to be asked.
    #[must_use]
    pub fn lacks_region(&self) -> bool {
        let asks = self.role.is_some() || matches!(self.from, AwsFrom::WebIdentity { .. });
        asks && self.region.is_none()
    }
}

impl SourceSpec {
    /// What kind of source it is: the key that it stands under.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Env(_) => "env",
            Self::File(_) => "file",
            Self::Command(_) => "command",
            Self::Vault(_) => "vault",
            Self::OAuth2(_) => "oauth2",
            Self::GithubApp(_) => "githubApp",
            Self::Aws(_) => "aws",
        }
    }

    /// The files that hold its value or its credentials: what must be hidden from the sandbox.
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        let own = match self {
            Self::File(path) => Some(path.as_path()),
            Self::Vault(spec) => match &spec.auth {
                VaultAuth::Kubernetes { token, .. } => Some(token.as_path()),
                VaultAuth::Token(_) | VaultAuth::AppRole { .. } => None,
            },
            Self::Aws(spec) => match &spec.from {
                AwsFrom::Environment => None,
                AwsFrom::Profile { file, .. } => file.as_deref(),
                AwsFrom::WebIdentity { token, .. } => Some(token.as_path()),
            },
            Self::Env(_) | Self::Command(_) | Self::OAuth2(_) | Self::GithubApp(_) => None,
        };
        let shown = self.credentials().into_iter().filter_map(|credential| match credential {
            CredentialSpec::File(path) => Some(path.as_path()),
            CredentialSpec::Env(_) => None,
        });
        own.into_iter().chain(shown).collect()
    }

    /// The variables that hold its value or its credentials.
    #[must_use]
    pub fn variables(&self) -> Vec<&str> {
        let own: &[&str] = match self {
            Self::Env(variable) => &[variable.as_str()],
            Self::Aws(spec) if spec.from == AwsFrom::Environment => &AwsSpec::VARIABLES,
            Self::File(_) | Self::Command(_) | Self::Vault(_) | Self::OAuth2(_) | Self::GithubApp(_) | Self::Aws(_) => {
                &[]
            }
        };
        let shown = self.credentials().into_iter().filter_map(|credential| match credential {
            CredentialSpec::Env(variable) => Some(variable.as_str()),
            CredentialSpec::File(_) => None,
        });
        own.iter().copied().chain(shown).collect()
    }

    fn credentials(&self) -> Vec<&CredentialSpec> {
        match self {
            Self::Env(_) | Self::File(_) | Self::Command(_) | Self::Aws(_) => Vec::new(),
            Self::Vault(spec) => match &spec.auth {
                VaultAuth::Token(token) => vec![token],
                VaultAuth::AppRole { secret_id, .. } => vec![secret_id],
                VaultAuth::Kubernetes { .. } => Vec::new(),
            },
            Self::OAuth2(spec) => spec.grant.secret().into_iter().chain(spec.grant.refresh_token()).collect(),
            Self::GithubApp(spec) => vec![&spec.private_key],
        }
    }
}

/// A service that a source asks: `https://HOST[:PORT][/PATH]`, or `http://` and a loopback address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl Endpoint {
    /// What it looks like, for whoever wrote one otherwise.
    pub const FORM: &'static str = "an https URL without user info, query or fragment, such as \
                                    https://vault.example:8200; in clear text, a loopback address alone";

    /// Reads one; `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.contains(['#', '?', '@']) {
            return None;
        }
        let uri: Uri = text.parse().ok()?;
        let host = uri.host().filter(|host| !host.is_empty())?;
        let is_loopback =
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
        let is_safe = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => is_loopback(),
            _ => false,
        };
        is_safe.then_some(Self(uri))
    }

    /// What is beneath it: `path` begins with a slash, and holds nothing that must be encoded.
    #[must_use]
    pub fn beneath(&self, path: &str) -> Option<Uri> {
        format!("{self}{path}").parse().ok()
    }

    /// It as it is.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

/// Names with slashes between them, as Vault names mounts, paths and namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments(String);

impl Segments {
    /// What they look like, for whoever wrote others.
    pub const FORM: &'static str = "names with slashes between them, such as ci/github, and none before or after";

    /// Reads them; `None` if they are none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_name = |name: &str| {
            !matches!(name, "" | "." | "..") && name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        };
        text.split('/').all(is_name).then(|| Self(text.to_owned()))
    }

    /// As they are written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As a part of a URL's path (RFC 3986 §2.1).
    #[must_use]
    pub fn encoded(&self) -> String {
        let mut encoded = String::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                    encoded.push(char::from(byte));
                }
                _ => encoded.push_str(&format!("%{byte:02X}")),
            }
        }
        encoded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_asked_over_tls_or_on_loopback() {
        for text in ["https://vault.test:8200", "https://a.test/base/", "http://127.0.0.1:8200", "http://[::1]:1"] {
            assert!(Endpoint::parse(text).is_some(), "{text}");
        }
        for text in [
            "",
            "vault.test:8200",
            "http://vault.test",
            "http://localhost",
            "http://10.0.0.1",
            "https://user@a.test",
            "https://a.test?x",
            "https://a.test#x",
            "ftp://127.0.0.1",
            "https://",
        ] {
            assert_eq!(Endpoint::parse(text), None, "{text}");
        }
        let beneath = |text: &str| Endpoint::parse(text).unwrap().beneath("/v1/x").unwrap().to_string();
        assert_eq!(beneath("https://a.test"), "https://a.test/v1/x");
        assert_eq!(beneath("https://a.test/base/"), "https://a.test/base/v1/x");
    }

    #[test]
    fn segments_lead_nowhere_else() {
        let encoded = |text: &str| Segments::parse(text).map(|segments| segments.encoded());
        assert_eq!(encoded("ci/git hub?"), Some("ci/git%20hub%3F".to_owned()));
        for text in ["", "/a", "a/", "a//b", "../a", "a/./b", "a\n", "é"] {
            assert_eq!(encoded(text), None, "{text}");
        }
    }
}
