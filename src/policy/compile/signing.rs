//! Rules that sign: from what is written to a [`Signing`], with every fault.

use http::HeaderName;
use http::header::HOST;

use super::Compiler;
use super::rules::Use;
use crate::flow::SecretName;
use crate::policy::diagnostic::{Code, Fault};
use crate::policy::signing::{AwsKeys, AwsSigning, HmacEncoding, HmacHash, HmacPart, HmacSigning, Signing};
use crate::policy::wire::{
    AwsWire, Field, HeaderText, HmacTemplate, HmacWire, Identifier, List, Others, SecretKey, SignWire, Text,
};

impl Compiler<'_> {
    pub(super) fn signing(&mut self, wire: &SignWire<'_>) -> Option<Signing> {
        let SignWire { span, aws, hmac } = wire;
        let written = [("aws", aws.is_written()), ("hmac", hmac.is_written())];
        let missing = ("`sign` needs `aws` or `hmac`", "such as `aws: {credentials: NAME}`");
        match self.one_of(*span, &written, "a rule signs in one way, and here are two", missing)? {
            "aws" => self.aws(aws.get()?).map(Signing::Aws),
            _ => self.hmac(hmac.get()?).map(Signing::Hmac),
        }
    }

    fn aws(&mut self, wire: &AwsWire<'_>) -> Option<AwsSigning> {
        let AwsWire { span, credentials, access_key, secret_key, session_token, regions, services, others } = wire;
        let parts = [access_key, secret_key, session_token];
        let written =
            [("credentials", credentials.is_written()), ("accessKey", parts.iter().any(|part| part.is_written()))];
        let missing = ("`aws` needs `credentials`, or `accessKey` and `secretKey`", "each names a secret");
        let keys = match self.one_of(*span, &written, "a key is one secret, or one for each part", missing)? {
            "credentials" => AwsKeys::Whole(self.key(credentials.get()?, true)?),
            _ => {
                if !access_key.is_written() || !secret_key.is_written() {
                    let fault = Fault::new(Code::Missing, "an AWS key is `accessKey` and `secretKey`").place(*span);
                    self.faults.push(fault.help("or one secret, as `credentials`"));
                    return None;
                }
                let [access_key, secret_key] = [access_key, secret_key].map(|part| self.key(part.get()?, true));
                let session_token = self.optional(session_token, |compiler, text| compiler.key(text, true))?;
                AwsKeys::Parts { access_key: access_key?, secret_key: secret_key?, session_token }
            }
        };
        Some(AwsSigning {
            keys,
            regions: self.scope(regions)?,
            services: self.scope(services)?,
            passes_others: others.get().is_some_and(|word| word.value == Others::Pass),
        })
    }

    /// A secret that signs; `by_clients` if they sign with its placeholder.
    fn key(&mut self, text: &Text<'_, SecretKey>, by_clients: bool) -> Option<SecretName> {
        let name = self.secret_name(text)?;
        self.refer_to_secret(&name, text.span);
        // It goes along with the request in effect: its grant holds as for what is sent.
        self.sent.push((name.clone(), text.span));
        self.keys.push((name.clone(), text.span, by_clients));
        Some(name)
    }

    fn scope(&mut self, field: &Field<'_, List<Text<'_, Identifier>, 1>>) -> Option<Vec<String>> {
        let items = field.get().map(|list| list.items.as_slice()).unwrap_or_default();
        items.iter().map(|item| self.identifier(item)).collect()
    }

    fn hmac(&mut self, wire: &HmacWire<'_>) -> Option<HmacSigning> {
        let HmacWire { key, hash, over, header, prefix, encoding } = wire;
        let key = key.get().and_then(|key| self.key(key, false));
        let header = header.get().and_then(|header| self.header_name(header, Use::Placeholder));
        let over = over.get().and_then(|over| self.hmac_template(over));
        let prefix = self.optional(prefix, Self::hmac_prefix)?;
        Some(HmacSigning {
            key: key?,
            hash: hash.get().map_or(HmacHash::Sha256, |word| word.value),
            over: over?,
            header: header?,
            prefix: prefix.unwrap_or_default(),
            encoding: encoding.get().map_or(HmacEncoding::Hex, |word| word.value),
        })
    }

    fn hmac_prefix(&mut self, text: &Text<'_, HeaderText>) -> Option<String> {
        self.plain_value(text, "`prefix`")?.to_str().ok().map(str::to_owned)
    }

    fn hmac_template(&mut self, text: &Text<'_, HmacTemplate>) -> Option<Vec<HmacPart>> {
        let mut parts = Vec::new();
        let mut rest = text.text;
        while let Some((literal, after)) = rest.split_once("${") {
            let part = after.split_once('}').and_then(|(inside, after)| {
                rest = after;
                hmac_part(inside)
            });
            let Some(part) = part else {
                let fault = Fault::new(Code::BadValue, "`${` must begin a part of the request").place(text.span);
                self.faults.push(fault.help(
                    "it is one of `${method}`, `${path}`, `${query}`, `${target}`, `${host}`, `${header.NAME}`, \
                     `${body}` and `${bodySha256}`",
                ));
                return None;
            };
            parts.extend((!literal.is_empty()).then(|| HmacPart::Literal(literal.to_owned())));
            parts.push(part);
        }
        parts.extend((!rest.is_empty()).then(|| HmacPart::Literal(rest.to_owned())));
        if parts.iter().all(|part| matches!(part, HmacPart::Literal(_))) {
            let fault = Fault::new(Code::BadValue, "a signature is over something of the request").place(text.span);
            self.faults.push(fault.help("such as `${method} ${target}`"));
            return None;
        }
        Some(parts)
    }

    /// What clients sign with has a placeholder, or none of them could sign.
    pub(super) fn check_keys(&mut self) {
        for (name, span, by_clients) in &self.keys {
            let has_one = self.placeholders.values().any(|said| said.value == *name);
            if *by_clients && !has_one && self.knows_secret(name) && self.documents.are_whole() {
                let message =
                    format!("the secret `{}` signs again what clients sign, and has no placeholder", name.as_str());
                let help = format!("name a variable of theirs: `placeholders: {{VARIABLE: {}}}`", name.as_str());
                self.faults.push(Fault::new(Code::Missing, message).place(*span).help(help));
            }
        }
    }
}

/// What stands between `${` and `}`.
fn hmac_part(text: &str) -> Option<HmacPart> {
    Some(match text.trim() {
        "method" => HmacPart::Method,
        "path" => HmacPart::Path,
        "query" => HmacPart::Query,
        "target" => HmacPart::Target,
        "host" => HmacPart::Host,
        "body" => HmacPart::Body,
        "bodySha256" => HmacPart::BodySha256,
        other => {
            let name = HeaderName::from_bytes(other.strip_prefix("header.")?.as_bytes()).ok()?;
            if name == HOST { HmacPart::Host } else { HmacPart::Header(name) }
        }
    })
}
