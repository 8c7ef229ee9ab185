//! The form of a secret that the daemon brokers: where its value comes from, and where it may go.
//!
//! An error says the secret's name, if it is one, and which key is wrong, and nothing else of what is written: it may
//! be a value in a wrong place.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::PathBuf;

use serde::Deserialize;

use crate::config::{Brokered, absolute};
use crate::flow::SecretName;
use crate::limits;
use crate::policy::diagnostic::discreet;
use crate::policy::source::{
    AwsFrom, AwsRole, AwsSpec, CredentialSpec, Endpoint, GithubAppSpec, OAuth2Grant, OAuth2Spec, Segments, SourceSpec,
    VaultAuth, VaultSpec,
};
use crate::policy::{Grant, Shape};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SecretWire {
    env: Option<String>,
    file: Option<PathBuf>,
    command: Option<Vec<String>>,
    vault: Option<VaultWire>,
    oauth2: Option<OAuth2Wire>,
    github_app: Option<GithubAppWire>,
    aws: Option<AwsWire>,
    to: Vec<String>,
    #[serde(default)]
    ports: Vec<NonZeroU16>,
    #[serde(default)]
    methods: Vec<String>,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    headers: Vec<String>,
    shape: Option<ShapeWire>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ShapeWire {
    #[serde(default)]
    prefix: String,
    length: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CredentialWire {
    env: Option<String>,
    file: Option<PathBuf>,
}

impl CredentialWire {
    /// What stands at `key`, beneath `at`.
    pub(super) fn into_spec(self, at: &str, key: &str) -> Result<CredentialSpec, String> {
        At(at).credential(key, self)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VaultWire {
    address: String,
    namespace: Option<String>,
    mount: Option<String>,
    path: String,
    field: Option<String>,
    token: Option<CredentialWire>,
    app_role: Option<AppRoleWire>,
    kubernetes: Option<KubernetesWire>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AppRoleWire {
    role_id: String,
    secret_id: CredentialWire,
    mount: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KubernetesWire {
    role: String,
    token_file: Option<PathBuf>,
    mount: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OAuth2Wire {
    token_url: String,
    client_id: String,
    client_secret: Option<CredentialWire>,
    #[serde(default)]
    client_auth: ClientAuthWire,
    refresh_token: Option<CredentialWire>,
    #[serde(default)]
    scopes: Vec<String>,
    audience: Option<String>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ClientAuthWire {
    #[default]
    Basic,
    Body,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GithubAppWire {
    app_id: String,
    installation_id: u64,
    private_key: CredentialWire,
    #[serde(default)]
    repositories: Vec<String>,
    #[serde(default)]
    permissions: BTreeMap<String, String>,
    api: Option<String>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AwsWire {
    profile: Option<String>,
    file: Option<PathBuf>,
    web_identity: Option<WebIdentityWire>,
    assume_role: Option<AssumeRoleWire>,
    region: Option<String>,
    sts: Option<String>,
    ca: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WebIdentityWire {
    role_arn: String,
    token_file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AssumeRoleWire {
    role_arn: String,
    external_id: Option<String>,
}

/// The key beneath which a fault is told, such as `secrets.GITHUB.vault`.
#[derive(Clone, Copy)]
struct At<'a>(&'a str);

impl At<'_> {
    fn fault(self, key: &str, due: &str) -> String {
        format!("`{}.{key}`: {due}", self.0)
    }

    fn path(self, key: &str, path: PathBuf) -> Result<PathBuf, String> {
        absolute(&format!("{}.{key}", self.0), path)
    }

    fn endpoint(self, key: &str, text: &str) -> Result<Endpoint, String> {
        Endpoint::parse(text).ok_or_else(|| self.fault(key, Endpoint::FORM))
    }

    fn segments(self, key: &str, text: &str) -> Result<Segments, String> {
        Segments::parse(text).ok_or_else(|| self.fault(key, Segments::FORM))
    }

    fn name(self, key: &str, text: String) -> Result<String, String> {
        let is_one = !text.is_empty() && !text.contains(char::is_control);
        if is_one { Ok(text) } else { Err(self.fault(key, "a name or an id")) }
    }

    fn names(self, key: &str, texts: Vec<String>) -> Result<Vec<String>, String> {
        texts.into_iter().map(|text| self.name(key, text)).collect()
    }

    fn credential(self, key: &str, wire: CredentialWire) -> Result<CredentialSpec, String> {
        let CredentialWire { env, file } = wire;
        match (env, file) {
            (Some(variable), None) => Ok(CredentialSpec::Env(variable)),
            (None, Some(path)) => self.path(&format!("{key}.file"), path).map(CredentialSpec::File),
            _ => Err(self.fault(key, "exactly one of `env` and `file` says where it lies")),
        }
    }
}

impl SecretWire {
    pub(super) fn into_brokered(self, name: &str) -> Result<(SecretName, Brokered), String> {
        let Self { env, file, command, vault, oauth2, github_app, aws, to, ports, methods, paths, headers, shape } =
            self;
        let name = SecretName::new(name)
            .ok_or_else(|| "`secrets`: a secret's name is letters, digits and `_`, and no digit first".to_owned())?;
        let key = format!("secrets.{}", discreet(name.as_str()));
        let at = At(&key);
        let mut sources = Vec::new();
        sources.extend(env.map(|variable| Ok(SourceSpec::Env(variable))));
        sources.extend(file.map(|path| at.path("file", path).map(SourceSpec::File)));
        sources.extend(command.map(|words| at.command(words)));
        sources.extend(vault.map(|wire| {
            let spec = wire.into_spec(At(&format!("{key}.vault")))?;
            Ok(SourceSpec::Vault(Box::new(spec)))
        }));
        sources.extend(oauth2.map(|wire| {
            let spec = wire.into_spec(At(&format!("{key}.oauth2")))?;
            Ok(SourceSpec::OAuth2(Box::new(spec)))
        }));
        sources.extend(github_app.map(|wire| {
            let spec = wire.into_spec(At(&format!("{key}.githubApp")))?;
            Ok(SourceSpec::GithubApp(Box::new(spec)))
        }));
        sources.extend(aws.map(|wire| {
            let spec = wire.into_spec(At(&format!("{key}.aws")))?;
            Ok(SourceSpec::Aws(Box::new(spec)))
        }));
        let one = sources.pop().filter(|_| sources.is_empty()).ok_or_else(|| {
            format!(
                "`{key}`: exactly one of `env`, `file`, `command`, `vault`, `oauth2`, `githubApp` and `aws` says where \
                 its value comes from"
            )
        });
        let source = one??;
        let grant = Grant::read(&to, &ports, &methods, &paths, &headers);
        let grant = grant.map_err(|(field, due)| at.fault(field, &due))?;
        let shape = shape.map(|ShapeWire { prefix, length }| Shape::new(&prefix, length)).transpose();
        let shape = shape.map_err(|fault| format!("`{key}.shape`: {fault}"))?;
        Ok((name, Brokered { source, grant: Grant { shape, ..grant } }))
    }
}

impl At<'_> {
    fn command(self, words: Vec<String>) -> Result<SourceSpec, String> {
        let is_absolute = words.first().is_some_and(|program| program.starts_with('/'));
        if is_absolute && words.len() <= limits::SECRET_WORDS {
            return Ok(SourceSpec::Command(words));
        }
        let most = limits::SECRET_WORDS;
        let due = format!("the program's path, which begins with `/`, and its arguments; {most} words at most");
        Err(self.fault("command", &due))
    }
}

impl VaultWire {
    fn into_spec(self, at: At<'_>) -> Result<VaultSpec, String> {
        let Self { address, namespace, mount, path, field, token, app_role, kubernetes, ca } = self;
        let auth = match (token, app_role, kubernetes) {
            (Some(token), None, None) => VaultAuth::Token(at.credential("token", token)?),
            (None, Some(AppRoleWire { role_id, secret_id, mount }), None) => VaultAuth::AppRole {
                mount: at.segments("appRole.mount", mount.as_deref().unwrap_or(VaultAuth::APP_ROLE))?,
                role_id: at.name("appRole.roleId", role_id)?,
                secret_id: at.credential("appRole.secretId", secret_id)?,
            },
            (None, None, Some(KubernetesWire { role, token_file, mount })) => VaultAuth::Kubernetes {
                mount: at.segments("kubernetes.mount", mount.as_deref().unwrap_or(VaultAuth::KUBERNETES))?,
                role: at.name("kubernetes.role", role)?,
                token: token_file.map_or_else(
                    || Ok(PathBuf::from(VaultAuth::SERVICE_ACCOUNT)),
                    |path| at.path("kubernetes.tokenFile", path),
                )?,
            },
            _ => return Err(format!("`{}`: exactly one of `token`, `appRole` and `kubernetes` lets us in", at.0)),
        };
        Ok(VaultSpec {
            address: at.endpoint("address", &address)?,
            namespace: namespace.map(|namespace| at.segments("namespace", &namespace)).transpose()?,
            mount: at.segments("mount", mount.as_deref().unwrap_or(VaultAuth::KV))?,
            path: at.segments("path", &path)?,
            field: at.name("field", field.unwrap_or_else(|| "value".to_owned()))?,
            ca: ca.map(|path| at.path("ca", path)).transpose()?,
            auth,
        })
    }
}

impl OAuth2Wire {
    fn into_spec(self, at: At<'_>) -> Result<OAuth2Spec, String> {
        let Self { token_url, client_id, client_secret, client_auth, refresh_token, scopes, audience, ca } = self;
        let secret = client_secret.map(|secret| at.credential("clientSecret", secret)).transpose()?;
        let token = refresh_token.map(|token| at.credential("refreshToken", token)).transpose()?;
        let grant = match (token, secret) {
            (Some(token), secret) => OAuth2Grant::Refresh { token, secret },
            (None, Some(secret)) => OAuth2Grant::Client { secret },
            (None, None) => return Err(format!("`{}`: `clientSecret`, `refreshToken` or both are due", at.0)),
        };
        Ok(OAuth2Spec {
            token_url: at.endpoint("tokenUrl", &token_url)?,
            client_id: at.name("clientId", client_id)?,
            grant,
            by_body: client_auth == ClientAuthWire::Body,
            scopes: at.names("scopes", scopes)?,
            audience: audience.map(|audience| at.name("audience", audience)).transpose()?,
            ca: ca.map(|path| at.path("ca", path)).transpose()?,
        })
    }
}

impl GithubAppWire {
    fn into_spec(self, at: At<'_>) -> Result<GithubAppSpec, String> {
        let Self { app_id, installation_id, private_key, repositories, permissions, api, ca } = self;
        let permissions = permissions
            .into_iter()
            .map(|(name, level)| Ok((at.name("permissions", name)?, at.name("permissions", level)?)));
        Ok(GithubAppSpec {
            api: at.endpoint("api", api.as_deref().unwrap_or(GithubAppSpec::API))?,
            app_id: at.name("appId", app_id)?,
            installation_id,
            private_key: at.credential("privateKey", private_key)?,
            repositories: at.names("repositories", repositories)?,
            permissions: permissions.collect::<Result<_, String>>()?,
            ca: ca.map(|path| at.path("ca", path)).transpose()?,
        })
    }
}

impl AwsWire {
    fn into_spec(self, at: At<'_>) -> Result<AwsSpec, String> {
        let Self { profile, file, web_identity, assume_role, region, sts, ca } = self;
        if !AwsSpec::IS_BUILT {
            return Err(format!("`{}`: {}", at.0, AwsSpec::NOT_BUILT));
        }
        let from = match (profile, file, web_identity) {
            (Some(name), file, None) => AwsFrom::Profile {
                name: at.name("profile", name)?,
                file: file.map(|path| at.path("file", path)).transpose()?,
            },
            (None, None, Some(WebIdentityWire { role_arn, token_file })) => AwsFrom::WebIdentity {
                role: at.name("webIdentity.roleArn", role_arn)?,
                token: at.path("webIdentity.tokenFile", token_file)?,
            },
            (None, None, None) => AwsFrom::Environment,
            (Some(_), _, Some(_)) => return Err(format!("`{}`: `profile` or `webIdentity`, and not both", at.0)),
            (None, Some(_), _) => return Err(at.fault("file", "it needs `profile`: which one of it")),
        };
        let role = assume_role.map(|AssumeRoleWire { role_arn, external_id }| {
            Ok::<_, String>(AwsRole {
                arn: at.name("assumeRole.roleArn", role_arn)?,
                external_id: external_id.map(|id| at.name("assumeRole.externalId", id)).transpose()?,
            })
        });
        let spec = AwsSpec {
            from,
            role: role.transpose()?,
            region: region.map(|region| at.name("region", region)).transpose()?,
            sts: sts.map(|sts| at.endpoint("sts", &sts)).transpose()?,
            ca: ca.map(|path| at.path("ca", path)).transpose()?,
        };
        match spec.lacks_region() {
            true => Err(format!("`{}`: {}", at.0, AwsSpec::NO_REGION)),
            false => Ok(spec),
        }
    }
}
