//! A policy's revision: a hash of what it does, not of how it is written (POLICY §1).
//!
//! SHA-256 over an encoding in which every text has its length before it, so that no two contents encode alike:
//! who hands in policies cannot make two that pass for one. Places, names, descriptions and tests are left out: a copy
//! of a file under another name has the same revision.

use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};

use super::placeholder::Places;
use super::signing::{AwsKeys, AwsSigning, HmacEncoding, HmacHash, HmacPart, HmacSigning, Signing};
use super::source::{
    AwsFrom, AwsRole, AwsSpec, CredentialSpec, GithubAppSpec, OAuth2Spec, SourceSpec, VaultAuth, VaultSpec,
};
use super::verdict::{ForwardUrl, Injection, LocalResponse, Part, Revision, Segment, Template};
use super::{Base, Denials, Dns, Entry, Grant, Handling, Policy, Rule, Then};
use crate::matcher::request::{PairMatch, RequestMatch, TextMatch};

impl Policy {
    /// The same policy with its revision filled in.
    pub(super) fn sealed(mut self) -> Self {
        let mut hash = Hash::new();
        let Self {
            revision: _,
            base,
            allow,
            deny,
            subnets_allow,
            subnets_deny,
            opened,
            strict,
            denials,
            dns,
            observe,
            sources,
            grants,
            placeholders,
            // It is what rules and the two before it come to.
            stand_ins: _,
        } = &self;
        hash.number(match base {
            Base::DenyAll(_) => 0,
            Base::Lists => 1,
            Base::AllowAll(_) => 2,
        });
        hash.number(u64::from(*strict) | u64::from(*observe) << 1);
        hash.number(match denials {
            Denials::Explain => 0,
            Denials::Terse => 1,
        });
        hash.number(match dns {
            Dns::Names => 0,
            Dns::Any => 1,
            Dns::None => 2,
        });
        hash.list(allow.iter(), |hash, (pattern, entry)| {
            hash.text(pattern.as_str());
            entry_content(hash, entry);
        });
        hash.list(deny.iter(), |hash, (pattern, _)| hash.text(pattern.as_str()));
        hash.list(subnets_allow.iter(), |hash, (range, _)| hash.text(range.to_string()));
        hash.list(subnets_deny.iter(), |hash, (range, _)| hash.text(range.to_string()));
        // Which of them open protected ranges depends on who wrote the document, too.
        hash.list(opened.iter(), |hash, (range, _)| hash.text(range.to_string()));
        hash.list(sources.iter(), |hash, (name, source)| {
            hash.text(name.as_str());
            source_content(hash, source);
        });
        hash.list(grants.iter(), |hash, (name, granted)| {
            hash.text(name.as_str());
            grant(hash, granted);
        });
        hash.list(placeholders.iter(), |hash, (variable, name)| {
            hash.text(variable);
            hash.text(name.as_str());
        });
        self.revision = hash.revision();
        self
    }
}

fn source_content(hash: &mut Hash, source: &SourceSpec) {
    match source {
        SourceSpec::Env(variable) => hash.tagged(0, variable),
        SourceSpec::File(path) => hash.tagged(1, Path::as_os_str(path).as_encoded_bytes()),
        SourceSpec::Command(words) => {
            hash.number(2);
            hash.list(words.iter(), |hash, word| hash.text(word));
        }
        SourceSpec::Vault(spec) => vault_content(hash, spec),
        SourceSpec::OAuth2(spec) => oauth2_content(hash, spec),
        SourceSpec::GithubApp(spec) => github_app_content(hash, spec),
        SourceSpec::Aws(spec) => aws_content(hash, spec),
    }
}

fn vault_content(hash: &mut Hash, spec: &VaultSpec) {
    let VaultSpec { address, namespace, mount, path, field, ca, auth } = spec;
    hash.number(3);
    hash.text(address.to_string());
    hash.list(namespace.iter(), |hash, namespace| hash.text(namespace.as_str()));
    for text in [mount.as_str(), path.as_str(), field] {
        hash.text(text);
    }
    file_content(hash, ca.as_deref());
    match auth {
        VaultAuth::Token(token) => {
            hash.number(0);
            credential_content(hash, token);
        }
        VaultAuth::AppRole { mount, role_id, secret_id } => {
            hash.tagged(1, mount.as_str());
            hash.text(role_id);
            credential_content(hash, secret_id);
        }
        VaultAuth::Kubernetes { mount, role, token } => {
            hash.tagged(2, mount.as_str());
            hash.text(role);
            file_content(hash, Some(token));
        }
    }
}

fn oauth2_content(hash: &mut Hash, spec: &OAuth2Spec) {
    let OAuth2Spec { token_url, client_id, grant, by_body, scopes, audience, ca } = spec;
    hash.number(4);
    hash.text(token_url.to_string());
    hash.text(client_id);
    hash.list(grant.secret().into_iter(), credential_content);
    hash.list(grant.refresh_token().into_iter(), credential_content);
    hash.number(u64::from(*by_body));
    hash.list(scopes.iter(), |hash, scope| hash.text(scope));
    hash.list(audience.iter(), |hash, audience| hash.text(audience));
    file_content(hash, ca.as_deref());
}

fn github_app_content(hash: &mut Hash, spec: &GithubAppSpec) {
    let GithubAppSpec { api, app_id, installation_id, private_key, repositories, permissions, ca } = spec;
    hash.number(5);
    hash.text(api.to_string());
    hash.text(app_id);
    hash.number(*installation_id);
    credential_content(hash, private_key);
    hash.list(repositories.iter(), |hash, repository| hash.text(repository));
    hash.list(permissions.iter(), |hash, (permission, level)| {
        hash.text(permission);
        hash.text(level);
    });
    file_content(hash, ca.as_deref());
}

fn aws_content(hash: &mut Hash, spec: &AwsSpec) {
    let AwsSpec { from, role, region, sts, ca } = spec;
    hash.number(6);
    match from {
        AwsFrom::Environment => hash.number(0),
        AwsFrom::Profile { name, file } => {
            hash.tagged(1, name);
            file_content(hash, file.as_deref());
        }
        AwsFrom::WebIdentity { role, token } => {
            hash.tagged(2, role);
            file_content(hash, Some(token));
        }
    }
    hash.list(role.iter(), |hash, AwsRole { arn, external_id }| {
        hash.text(arn);
        hash.list(external_id.iter(), |hash, id| hash.text(id));
    });
    hash.list(region.iter(), |hash, region| hash.text(region));
    hash.list(sts.iter(), |hash, sts| hash.text(sts.to_string()));
    file_content(hash, ca.as_deref());
}

fn credential_content(hash: &mut Hash, credential: &CredentialSpec) {
    match credential {
        CredentialSpec::Env(variable) => hash.tagged(0, variable),
        CredentialSpec::File(path) => {
            hash.number(1);
            file_content(hash, Some(path));
        }
    }
}

fn file_content(hash: &mut Hash, path: Option<&Path>) {
    hash.list(path.into_iter(), |hash, path| hash.text(path.as_os_str().as_encoded_bytes()));
}

impl Entry {
    /// Whether it does the same as another.
    pub(super) fn does_as(&self, other: &Self) -> bool {
        let content = |entry| {
            let mut hash = Hash::new();
            entry_content(&mut hash, entry);
            hash.revision()
        };
        content(self) == content(other)
    }
}

fn entry_content(hash: &mut Hash, entry: &Entry) {
    let Entry { id: _, handling } = entry;
    let Some(Handling { rules, reads_path: _, brokers: _, opaque }) = handling.as_deref() else {
        return hash.number(0);
    };
    hash.number(1);
    hash.list(opaque.iter(), |hash, (port, _)| hash.number(u64::from(*port)));
    hash.list(rules.iter(), |hash, Rule { id: _, when, then }| {
        let RequestMatch { methods, path, query, headers } = when;
        hash.list(methods.iter(), Hash::text);
        hash.list(path.iter(), text_match);
        hash.list(query.iter(), pair_match);
        hash.list(headers.iter(), pair_match);
        match then {
            Then::Pass => hash.number(0),
            Then::Transform(injections) => {
                hash.number(1);
                hash.list(injections.iter(), injection);
            }
            Then::Respond(answer) => {
                hash.number(2);
                response(hash, answer);
            }
            Then::Divert(url) => {
                let ForwardUrl { text, host: _, port: _, prefix: _ } = &**url;
                hash.tagged(3, text);
            }
            Then::Sign(signing) => {
                hash.number(4);
                sign(hash, signing);
            }
            Then::Replace(Places { query, body }) => {
                hash.number(5);
                hash.number(u64::from(*query) | u64::from(*body) << 1);
            }
        }
    });
}

fn pair_match(hash: &mut Hash, pair: &PairMatch) {
    let PairMatch { key, value } = pair;
    hash.list(key.iter(), text_match);
    hash.list(value.iter(), text_match);
}

fn text_match(hash: &mut Hash, matcher: &TextMatch) {
    match matcher {
        TextMatch::Exact(text) => hash.tagged(0, text),
        TextMatch::StartsWith(text) => hash.tagged(1, text),
        TextMatch::Regex(regex) => hash.tagged(2, regex.as_str()),
        TextMatch::Glob { text, regex: _ } => hash.tagged(3, text),
    }
}

fn injection(hash: &mut Hash, Injection { header: _, spelled, value, yields }: &Injection) {
    hash.text(spelled.as_bytes());
    hash.number(u64::from(*yields));
    template(hash, value);
}

fn sign(hash: &mut Hash, signing: &Signing) {
    match signing {
        Signing::Aws(AwsSigning { keys, regions, services, passes_others }) => {
            hash.number(0);
            match keys {
                AwsKeys::Whole(name) => hash.tagged(0, name.as_str()),
                AwsKeys::Parts { access_key, secret_key, session_token } => {
                    hash.tagged(1, access_key.as_str());
                    hash.text(secret_key.as_str());
                    hash.list(session_token.iter(), |hash, name| hash.text(name.as_str()));
                }
            }
            hash.list(regions.iter(), Hash::text);
            hash.list(services.iter(), Hash::text);
            hash.number(u64::from(*passes_others));
        }
        Signing::Hmac(HmacSigning { key, hash: kind, over, header, prefix, encoding }) => {
            hash.tagged(1, key.as_str());
            hash.number(match kind {
                HmacHash::Sha256 => 0,
                HmacHash::Sha512 => 1,
            });
            hash.list(over.iter(), hmac_part);
            hash.text(header.as_str());
            hash.text(prefix);
            hash.number(match encoding {
                HmacEncoding::Hex => 0,
                HmacEncoding::Base64 => 1,
            });
        }
    }
}

fn hmac_part(hash: &mut Hash, part: &HmacPart) {
    match part {
        HmacPart::Literal(text) => hash.tagged(0, text),
        HmacPart::Method => hash.number(1),
        HmacPart::Path => hash.number(2),
        HmacPart::Query => hash.number(3),
        HmacPart::Target => hash.number(4),
        HmacPart::Host => hash.number(5),
        HmacPart::Header(name) => hash.tagged(6, name.as_str()),
        HmacPart::Body => hash.number(7),
        HmacPart::BodySha256 => hash.number(8),
    }
}

fn grant(hash: &mut Hash, Grant { to, ports, methods, paths, headers, shape }: &Grant) {
    hash.list(to.iter(), |hash, pattern| hash.text(pattern.as_str()));
    hash.list(ports.iter(), |hash, port| hash.number(u64::from(*port)));
    hash.list(methods.iter(), Hash::text);
    hash.list(paths.iter(), text_match);
    hash.list(headers.iter(), |hash, header| hash.text(header.as_str()));
    hash.list(shape.iter(), |hash, shape| {
        hash.text(shape.prefix());
        hash.number(shape.length() as u64);
    });
}

fn template(hash: &mut Hash, Template(segments): &Template) {
    hash.list(segments.iter(), |hash, segment| match segment {
        Segment::Plain(plain) => part(hash, plain),
        Segment::Base64(parts) => {
            hash.number(2);
            hash.list(parts.iter(), part);
        }
    });
}

fn part(hash: &mut Hash, part: &Part) {
    match part {
        Part::Literal(text) => hash.tagged(0, text),
        Part::Secret(name) => hash.tagged(1, name.as_str()),
    }
}

fn response(hash: &mut Hash, LocalResponse { status, headers, body }: &LocalResponse) {
    hash.number(u64::from(status.as_u16()));
    hash.list(headers.iter(), |hash, (name, value)| {
        hash.text(name.as_str());
        hash.text(value.as_bytes());
    });
    hash.text(body);
}

/// SHA-256 over what is encoded.
struct Hash(Context);

impl Hash {
    fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    fn number(&mut self, number: u64) {
        self.0.update(&number.to_be_bytes());
    }

    fn text(&mut self, text: impl AsRef<[u8]>) {
        self.number(text.as_ref().len() as u64);
        self.0.update(text.as_ref());
    }

    fn tagged(&mut self, tag: u64, text: impl AsRef<[u8]>) {
        self.number(tag);
        self.text(text);
    }

    /// Elements and, after them, how many there were.
    fn list<T>(&mut self, items: impl Iterator<Item = T>, mut each: impl FnMut(&mut Self, T)) {
        let mut count = 0;
        for item in items {
            self.number(1);
            each(self, item);
            count += 1;
        }
        self.number(0);
        self.number(count);
    }

    fn revision(self) -> Revision {
        let mut bytes = [0; 32];
        for (byte, digest) in bytes.iter_mut().zip(self.0.finish().as_ref()) {
            *byte = *digest;
        }
        Revision(bytes)
    }
}
