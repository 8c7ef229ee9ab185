//! Where secrets come from: from what is written to a [`SourceSpec`], with every fault.

use std::path::{Path, PathBuf};

use super::{Compiler, is_variable};
use crate::limits;
use crate::policy::diagnostic::{Code, Fault};
use crate::policy::source::{
    AwsFrom, AwsRole, AwsSpec, CredentialSpec, Endpoint, GithubAppSpec, OAuth2Grant, OAuth2Spec, Segments, SourceSpec,
    VaultAuth, VaultSpec,
};
use crate::policy::wire::{
    AppRoleWire, AssumeRoleWire, AwsKeyWire, ClientAuth, CommandWord, CredentialWire, Field, GithubAppWire, Identifier,
    KubernetesWire, OAuth2Wire, SecretPath, ServiceUrl, SourceWire, Span, Text, Variable, VaultPath, VaultWire,
    WebIdentityWire,
};

/// Every key that a source stands under.
const SOURCES: &str = "`env`, `file`, `command`, `vault`, `oauth2`, `githubApp` or `aws`";

impl Compiler<'_> {
    pub(super) fn secret_source(&mut self, wire: &SourceWire<'_>) -> Option<SourceSpec> {
        let SourceWire {
            span,
            env,
            file,
            command,
            vault,
            oauth2,
            github_app,
            aws,
            to: _,
            ports: _,
            methods: _,
            paths: _,
            headers: _,
            shape: _,
        } = wire;
        let written = [
            ("env", env.is_written()),
            ("file", file.is_written()),
            ("command", command.is_written()),
            ("vault", vault.is_written()),
            ("oauth2", oauth2.is_written()),
            ("githubApp", github_app.is_written()),
            ("aws", aws.is_written()),
        ];
        let missing = format!("a secret needs {SOURCES}");
        let help = "write `env: VARIABLE`, `file: PATH` or `command: [PROGRAM, ARGUMENT]`";
        match self.one_of(*span, &written, "a secret has one source, and this has two", (&missing, help))? {
            "env" => self.variable(env.get()?).map(SourceSpec::Env),
            "file" => self.secret_path(file.get()?).map(SourceSpec::File),
            "command" => self.command(&command.get()?.items, *span),
            "vault" => self.vault(vault.get()?).map(|spec| SourceSpec::Vault(Box::new(spec))),
            "oauth2" => self.oauth2(oauth2.get()?).map(|spec| SourceSpec::OAuth2(Box::new(spec))),
            "githubApp" => self.github_app(github_app.get()?).map(|spec| SourceSpec::GithubApp(Box::new(spec))),
            _ => self.aws_key(aws.get()?).map(|spec| SourceSpec::Aws(Box::new(spec))),
        }
    }

    /// The one key that is written of those of which one must be.
    pub(super) fn one_of(
        &mut self,
        span: Span,
        written: &[(&'static str, bool)],
        doubled: &str,
        (missing, help): (&str, &str),
    ) -> Option<&'static str> {
        let mut written = written.iter().filter(|(_, written)| *written).map(|(key, _)| *key);
        match (written.next(), written.next()) {
            (Some(first), Some(second)) => {
                let fault = Fault::new(Code::Conflict, doubled.to_owned()).place(span);
                self.faults.push(fault.help(format!("keep one of `{first}` and `{second}`")));
                None
            }
            // What stands there instead has its own fault.
            (None, _) if self.faults.0.iter().any(|fault| fault.is_within(span)) => None,
            (None, _) => {
                self.faults.push(Fault::new(Code::Missing, missing.to_owned()).place(span).help(help.to_owned()));
                None
            }
            (Some(key), None) => Some(key),
        }
    }

    fn refuse<T>(&mut self, span: Span, message: &str, help: Option<&str>) -> Option<T> {
        let fault = Fault::new(Code::BadValue, message.to_owned()).place(span).hidden();
        self.faults.push(fault.perhaps(help.map(str::to_owned)));
        None
    }

    fn variable(&mut self, text: &Text<'_, Variable>) -> Option<String> {
        if !is_variable(text.text) {
            let help = "`env` names the variable that holds the value; no policy holds the value";
            return self.refuse(text.span, "this is not the name of an environment variable", Some(help));
        }
        self.advise_on_credential(text.text, text.span, None);
        Some(text.text.to_owned())
    }

    /// A path, from the folder of the file that it stands in.
    fn secret_path(&mut self, text: &Text<'_, SecretPath>) -> Option<PathBuf> {
        if text.text.is_empty() || text.text.contains('\0') {
            return self.refuse(text.span, "this is not a path", None);
        }
        let document = self.documents.get(text.span.file).map_or("", |document| &*document.path);
        let folder = Path::new(document).parent().unwrap_or(Path::new(""));
        Some(folder.join(PathBuf::from(text.text)))
    }

    /// A command that prints a secret.
    fn command(&mut self, words: &[Text<'_, CommandWord>], span: Span) -> Option<SourceSpec> {
        let program = words.first().map(|word| word.text).unwrap_or_default();
        let message = if program.is_empty() {
            "a command begins with its program"
        } else if words.len() > limits::SECRET_WORDS {
            "a command has 64 words at most"
        } else if words.iter().any(|word| word.text.contains('\0')) {
            "a command's words hold no NUL"
        } else {
            for word in words {
                self.advise_on_credential(word.text, word.span, None);
            }
            return Some(SourceSpec::Command(words.iter().map(|word| word.text.to_owned()).collect()));
        };
        self.refuse(span, message, Some("such as `command: [gh, auth, token]`; no shell reads it"))
    }

    fn vault(&mut self, wire: &VaultWire<'_>) -> Option<VaultSpec> {
        let VaultWire { span, address, namespace, mount, path, field, token, app_role, kubernetes, ca } = wire;
        let written = [
            ("token", token.is_written()),
            ("appRole", app_role.is_written()),
            ("kubernetes", kubernetes.is_written()),
        ];
        let missing = ("`vault` needs `token`, `appRole` or `kubernetes`", "such as `token: {file: PATH}`");
        let auth = match self.one_of(*span, &written, "Vault is shown one thing, and here are two", missing) {
            Some("token") => token.get().and_then(|token| self.credential(token)).map(VaultAuth::Token),
            Some("appRole") => app_role.get().and_then(|role| self.app_role(role)),
            Some(_) => kubernetes.get().and_then(|method| self.kubernetes(method)),
            None => None,
        };
        let address = self.endpoint(address.get());
        let namespace = self.optional(namespace, Self::segments);
        let mount = self.segments_or(mount, VaultAuth::KV);
        let path = path.get().and_then(|path| self.segments(path));
        let field = self.optional(field, Self::identifier);
        let ca = self.optional(ca, Self::secret_path);
        Some(VaultSpec {
            address: address?,
            namespace: namespace?,
            mount: mount?,
            path: path?,
            field: field?.unwrap_or_else(|| "value".to_owned()),
            ca: ca?,
            auth: auth?,
        })
    }

    fn app_role(&mut self, wire: &AppRoleWire<'_>) -> Option<VaultAuth> {
        let AppRoleWire { role_id, secret_id, mount } = wire;
        let mount = self.segments_or(mount, VaultAuth::APP_ROLE);
        let secret_id = secret_id.get().and_then(|secret| self.credential(secret));
        let role_id = role_id.get().and_then(|role| self.identifier(role));
        Some(VaultAuth::AppRole { mount: mount?, role_id: role_id?, secret_id: secret_id? })
    }

    fn kubernetes(&mut self, wire: &KubernetesWire<'_>) -> Option<VaultAuth> {
        let KubernetesWire { role, token_file, mount } = wire;
        let mount = self.segments_or(mount, VaultAuth::KUBERNETES);
        let token = self.optional(token_file, Self::secret_path);
        let role = role.get().and_then(|role| self.identifier(role));
        let token = token?.unwrap_or_else(|| PathBuf::from(VaultAuth::SERVICE_ACCOUNT));
        Some(VaultAuth::Kubernetes { mount: mount?, role: role?, token })
    }

    fn oauth2(&mut self, wire: &OAuth2Wire<'_>) -> Option<OAuth2Spec> {
        let OAuth2Wire { span, token_url, client_id, client_secret, client_auth, refresh_token, scopes, audience, ca } =
            wire;
        let secret = self.optional(client_secret, Self::credential);
        let token = self.optional(refresh_token, Self::credential);
        let token_url = self.endpoint(token_url.get());
        let client_id = client_id.get().and_then(|id| self.identifier(id));
        let scopes = scopes.get().map(|list| list.items.as_slice()).unwrap_or_default();
        let scopes: Option<Vec<String>> = scopes.iter().map(|scope| self.identifier(scope)).collect();
        let audience = self.optional(audience, Self::identifier);
        let ca = self.optional(ca, Self::secret_path);
        let by_body = client_auth.get().is_some_and(|word| word.value == ClientAuth::Body);
        let grant = match (token?, secret?) {
            (Some(token), secret) => OAuth2Grant::Refresh { token, secret },
            (None, Some(secret)) => OAuth2Grant::Client { secret },
            (None, None) => {
                let fault = Fault::new(Code::Missing, "`oauth2` needs `clientSecret`, `refreshToken` or both");
                self.faults.push(fault.place(*span).help("such as `clientSecret: {file: PATH}`"));
                return None;
            }
        };
        Some(OAuth2Spec {
            token_url: token_url?,
            client_id: client_id?,
            grant,
            by_body,
            scopes: scopes?,
            audience: audience?,
            ca: ca?,
        })
    }

    fn github_app(&mut self, wire: &GithubAppWire<'_>) -> Option<GithubAppSpec> {
        let GithubAppWire { app_id, installation_id, private_key, repositories, permissions, api, ca } = wire;
        let app_id = app_id.get().and_then(|id| self.identifier(id));
        let installation_id = installation_id.get().and_then(|text| match text.text.parse() {
            Ok(number) => Some(number),
            Err(_) => self.refuse(text.span, "an installation's id is a number", Some("such as `\"12345\"`")),
        });
        let private_key = private_key.get().and_then(|key| self.credential(key));
        let repositories = repositories.get().map(|list| list.items.as_slice()).unwrap_or_default();
        let repositories: Option<Vec<String>> = repositories.iter().map(|name| self.identifier(name)).collect();
        let permissions = permissions.get().map(|table| table.entries.as_slice()).unwrap_or_default();
        let permissions: Option<Vec<_>> =
            permissions.iter().map(|(name, level)| Some((self.identifier(name)?, self.identifier(level)?))).collect();
        let api = match api.is_written() {
            true => self.endpoint(api.get()),
            false => Endpoint::parse(GithubAppSpec::API),
        };
        let ca = self.optional(ca, Self::secret_path);
        Some(GithubAppSpec {
            api: api?,
            app_id: app_id?,
            installation_id: installation_id?,
            private_key: private_key?,
            repositories: repositories?,
            permissions: permissions?,
            ca: ca?,
        })
    }

    fn aws_key(&mut self, wire: &AwsKeyWire<'_>) -> Option<AwsSpec> {
        let AwsKeyWire { span, profile, file, web_identity, assume_role, region, sts, ca } = wire;
        if !AwsSpec::IS_BUILT {
            self.faults.push(Fault::new(Code::Unsupported, AwsSpec::NOT_BUILT).place(*span));
        }
        let file = self.optional(file, Self::secret_path);
        let from = match (self.optional(profile, Self::identifier)?, self.optional(web_identity, Self::web_identity)?) {
            (Some(_), Some(_)) => {
                let fault = Fault::new(Code::Conflict, "a key of AWS's is in one place, and here are two");
                self.faults.push(fault.place(*span).help("keep one of `profile` and `webIdentity`"));
                return None;
            }
            (Some(name), None) => AwsFrom::Profile { name, file: file? },
            (None, _) if file?.is_some() => {
                self.faults.push(Fault::new(Code::Missing, "`file` needs `profile`: which one of it").place(*span));
                return None;
            }
            (None, Some(web_identity)) => web_identity,
            (None, None) => AwsFrom::Environment,
        };
        let role = self.optional(assume_role, Self::assume_role);
        let region = self.optional(region, Self::identifier);
        let sts = self.optional(sts, |this, text| this.endpoint(Some(text)));
        let ca = self.optional(ca, Self::secret_path);
        let spec = AwsSpec { from, role: role?, region: region?, sts: sts?, ca: ca? };
        if spec.lacks_region() {
            self.faults.push(Fault::new(Code::Missing, AwsSpec::NO_REGION).place(*span));
            return None;
        }
        Some(spec)
    }

    fn web_identity(&mut self, wire: &WebIdentityWire<'_>) -> Option<AwsFrom> {
        let WebIdentityWire { role_arn, token_file } = wire;
        let role = role_arn.get().and_then(|role| self.identifier(role));
        let token = token_file.get().and_then(|token| self.secret_path(token));
        Some(AwsFrom::WebIdentity { role: role?, token: token? })
    }

    fn assume_role(&mut self, wire: &AssumeRoleWire<'_>) -> Option<AwsRole> {
        let AssumeRoleWire { role_arn, external_id } = wire;
        let arn = role_arn.get().and_then(|role| self.identifier(role));
        let external_id = self.optional(external_id, Self::identifier);
        Some(AwsRole { arn: arn?, external_id: external_id? })
    }

    fn credential(&mut self, wire: &CredentialWire<'_>) -> Option<CredentialSpec> {
        let CredentialWire { span, env, file } = wire;
        let written = [("env", env.is_written()), ("file", file.is_written())];
        let missing = ("a credential needs `env` or `file`", "write `env: VARIABLE` or `file: PATH`");
        match self.one_of(*span, &written, "a credential lies in one place, and here are two", missing)? {
            "env" => self.variable(env.get()?).map(CredentialSpec::Env),
            _ => self.secret_path(file.get()?).map(CredentialSpec::File),
        }
    }

    /// What is read of a key that need not be there; `None` for what has a fault.
    pub(super) fn optional<W, T>(
        &mut self,
        field: &Field<'_, W>,
        read: impl FnOnce(&mut Self, &W) -> Option<T>,
    ) -> Option<Option<T>> {
        match field.is_written() {
            true => field.get().and_then(|wire| read(self, wire)).map(Some),
            false => Some(None),
        }
    }

    fn endpoint(&mut self, text: Option<&Text<'_, ServiceUrl>>) -> Option<Endpoint> {
        let text = text?;
        let parsed = Endpoint::parse(text.text);
        parsed.or_else(|| self.refuse(text.span, "this is no URL that a secret is asked of", Some(Endpoint::FORM)))
    }

    fn segments(&mut self, text: &Text<'_, VaultPath>) -> Option<Segments> {
        let parsed = Segments::parse(text.text);
        parsed.or_else(|| self.refuse(text.span, "this is no path in Vault", Some(Segments::FORM)))
    }

    fn segments_or(&mut self, field: &Field<'_, Text<'_, VaultPath>>, usual: &str) -> Option<Segments> {
        self.optional(field, Self::segments)?.or_else(|| Segments::parse(usual))
    }

    pub(super) fn identifier(&mut self, text: &Text<'_, Identifier>) -> Option<String> {
        if text.text.is_empty() || text.text.contains(char::is_control) {
            return self.refuse(text.span, "this names nothing", None);
        }
        self.advise_on_credential(text.text, text.span, None);
        Some(text.text.to_owned())
    }
}
