//! A policy's revision: a hash of what it does, not of how it is written (POLICY §1).
//!
//! FNV-1a over an encoding in which every text has its length before it, so that no two contents encode alike. The
//! hash names a policy in records; nothing is granted by it, so it need not withstand a forger. Places, names,
//! descriptions and tests are left out: a copy of a file under another name has the same revision.

use std::path::Path;

use super::verdict::{Injection, LocalResponse, Part, Revision};
use super::{Base, Denials, Dns, Entry, Policy, Rule, SourceSpec, Then};
use crate::matcher::request::{PairMatch, RequestMatch, TextMatch};

impl Policy {
    /// The same policy with its revision filled in.
    pub(super) fn sealed(mut self) -> Self {
        let mut hash = Fnv::new();
        let Self {
            revision: _,
            base,
            allow,
            deny,
            subnets_allow,
            subnets_deny,
            opened: _,
            strict,
            denials,
            dns,
            observe,
            sources,
            nothing: _,
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
            hash.text(pattern.to_string());
            entry_content(hash, entry);
        });
        hash.list(deny.iter(), |hash, (pattern, _)| hash.text(pattern.to_string()));
        hash.list(subnets_allow.iter(), |hash, (range, _)| hash.text(range.to_string()));
        hash.list(subnets_deny.iter(), |hash, (range, _)| hash.text(range.to_string()));
        hash.list(sources.iter(), |hash, (name, source)| {
            hash.text(name.as_str());
            match source {
                SourceSpec::Env(variable) => hash.tagged(0, variable),
                SourceSpec::File(path) => hash.tagged(1, Path::as_os_str(path).as_encoded_bytes()),
            }
        });
        self.revision = Revision(hash.0.to_be_bytes());
        self
    }
}

fn entry_content(hash: &mut Fnv, entry: &Entry) {
    let Entry { id: _, rules, reads_path: _ } = entry;
    hash.list(rules.iter(), |hash, Rule { id: _, when, then }| {
        let RequestMatch { methods, path, query, headers } = when;
        hash.list(methods.iter(), Fnv::text);
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
        }
    });
}

fn pair_match(hash: &mut Fnv, pair: &PairMatch) {
    let PairMatch { key, value } = pair;
    hash.list(key.iter(), text_match);
    hash.list(value.iter(), text_match);
}

fn text_match(hash: &mut Fnv, matcher: &TextMatch) {
    match matcher {
        TextMatch::Exact(text) => hash.tagged(0, text),
        TextMatch::StartsWith(text) => hash.tagged(1, text),
        TextMatch::Regex(regex) => hash.tagged(2, regex.as_str()),
    }
}

fn injection(hash: &mut Fnv, Injection { header, value }: &Injection) {
    hash.text(header.as_str());
    hash.list(value.0.iter(), |hash, part| match part {
        Part::Literal(text) => hash.tagged(0, text),
        Part::Secret(name) => hash.tagged(1, name.as_str()),
    });
}

fn response(hash: &mut Fnv, LocalResponse { status, headers, body }: &LocalResponse) {
    hash.number(u64::from(status.as_u16()));
    hash.list(headers.iter(), |hash, (name, value)| {
        hash.text(name.as_str());
        hash.text(value.as_bytes());
    });
    hash.text(body);
}

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_be_bytes());
    }

    fn text(&mut self, text: impl AsRef<[u8]>) {
        self.number(text.as_ref().len() as u64);
        self.bytes(text.as_ref());
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
}
