//! What becomes of settings, and of flows that name nobody.
//!
//! `INVARIANT`: of a secret, its name and where its value is kept are told, never the value.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::HeaderName;

use super::addresses;
use super::names::Named;
use super::words;
use super::{About, Change, Direction, Telling};
use crate::policy::diagnostic::discreet;
use crate::policy::source::AwsFrom;
use crate::policy::verdict::{Permit, RuleId, Verdict};
use crate::policy::{Denials, Dns, HTTPS, Policy, SourceSpec};

/// Compares all settings.
pub(super) fn compare(old: &Policy, new: &Policy, named: &Named, telling: &mut Telling) {
    unnamed(old, new, telling);
    let mut tell = |about: &'static str, direction: Direction, sentence: String| {
        telling.tell(direction, || Change::of(About::Setting(about), direction, sentence));
    };
    if old.strict != new.strict && named.strict {
        let (direction, sentence) = if new.strict {
            (Direction::Closes, "TLS to names without rules is now read, and refused if it is not HTTP (`strict`)")
        } else {
            (Direction::Opens, "TLS to names without rules now goes through unread (`strict` is gone)")
        };
        tell("strict", direction, sentence.to_owned());
    }
    if old.dns != new.dns && named.dns {
        let (direction, sentence) = resolution(old.dns, new.dns);
        tell("dns", direction, sentence.to_owned());
    }
    if old.observe != new.observe {
        let (direction, sentence) = if new.observe {
            (Direction::Opens, "what the policy does not allow is now recorded and let through (`observe`)")
        } else {
            (
                Direction::Closes,
                "what the policy does not allow is now refused, and no longer only recorded (`observe`)",
            )
        };
        tell("observe", direction, sentence.to_owned());
    }
    if old.denials != new.denials {
        let sentence = match new.denials {
            Denials::Explain => "refusals now say why (`denials: explain`)",
            Denials::Terse => "refusals no longer say why (`denials: terse`)",
        };
        tell("denials", Direction::Changes, sentence.to_owned());
    }
    sources(old, new, &mut tell);
    grants(old, new, &mut tell);
    placeholders(old, new, &mut tell);
    stand_ins(old, new, &mut tell);
}

fn resolution(old: Dns, new: Dns) -> (Direction, &'static str) {
    match (old, new) {
        (_, Dns::Any) => (Direction::Opens, "every name that is not denied can now be resolved (`dns: any`)"),
        (Dns::None, _) => (Direction::Opens, "names that are allowed can now be resolved (`dns: names`)"),
        (Dns::Names | Dns::Any, Dns::None) => (Direction::Closes, "no name can be resolved any more (`dns: none`)"),
        (Dns::Names | Dns::Any, Dns::Names) => {
            (Direction::Closes, "only names that are allowed can still be resolved (`dns: names`)")
        }
    }
}

/// Rows 8 and 9.
fn unnamed(old: &Policy, new: &Policy, telling: &mut Telling) {
    const WHAT: &str = "what names nobody (TLS without a server name, a protocol that is neither TLS nor HTTP)";
    let (before, after) = (relays(old), relays(new));
    let (direction, sentence) = match (&before, &after) {
        (None, Some(rule)) => {
            let at = words::at(Some(rule));
            (Direction::Opens, format!("{WHAT} becomes reachable at every address that is not denied or protected{at}"))
        }
        (Some(rule), None) => {
            let why = if new.row_3().is_some() || new.any_rule().is_none() {
                format!("{rule} allowed it, and nothing does now")
            } else if new.strict {
                "`strict` lets nothing through unread".to_owned()
            } else {
                "beside a denied name, only what is named is allowed".to_owned()
            };
            (Direction::Closes, format!("{WHAT} is no longer reachable: {why}"))
        }
        _ => return,
    };
    let policy = if after.is_some() { new } else { old };
    let example = SOMEWHERE.into_iter().map(IpAddr::V4).find(|address| addresses::is_left_to_names(policy, *address));
    telling.tell(direction, || Change {
        about: About::Unnamed,
        direction,
        sentence,
        example: example.map(|address| SocketAddr::new(address, 22).to_string()),
        old: before,
        new: after,
    });
}

/// TEST-NET-2, TEST-NET-3 (RFC 5737), and addresses in use.
const SOMEWHERE: [Ipv4Addr; 4] = [
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(203, 0, 113, 1),
    Ipv4Addr::new(1, 1, 1, 1),
    Ipv4Addr::new(9, 9, 9, 9),
];

/// By which line the policy relays what names nobody.
fn relays(policy: &Policy) -> Option<RuleId> {
    let somewhere = SocketAddr::new(IpAddr::V4(SOMEWHERE[0]), 22);
    match (policy.row_3(), policy.rows_8_and_9(somewhere)) {
        (None, Verdict::Allow(permit)) => Permit::basis(&permit).rule.clone(),
        _ => None,
    }
}

fn sources(old: &Policy, new: &Policy, tell: &mut impl FnMut(&'static str, Direction, String)) {
    let names: BTreeSet<_> = old.sources.keys().chain(new.sources.keys()).collect();
    for name in names {
        let text = name.as_str();
        let sentence = match (old.sources.get(name), new.sources.get(name)) {
            (Some(before), Some(after)) if before == after => continue,
            (Some(before), Some(after)) if kept(before) == kept(after) => {
                format!("the secret {text} is asked for in another way, still from {}", kept(after))
            }
            (Some(before), Some(after)) => {
                format!("the secret {text} now comes from {}, no longer from {}", kept(after), kept(before))
            }
            (None, Some(after)) => format!("the secret {text} is now taken from {}", kept(after)),
            (Some(before), None) => format!("the secret {text} is no longer taken from {}", kept(before)),
            (None, None) => continue,
        };
        tell("secrets", Direction::Changes, sentence);
    }
}

/// Where a secret may go beyond names: to ports. Names are held against rules when a policy is compiled.
fn grants(old: &Policy, new: &Policy, tell: &mut impl FnMut(&'static str, Direction, String)) {
    let names: BTreeSet<_> = old.grants.keys().chain(new.grants.keys()).collect();
    for name in names {
        let ports = |policy: &Policy| -> BTreeSet<u16> {
            let listed = policy.grants.get(name).map(|grant| grant.ports.clone()).unwrap_or_default();
            if listed.is_empty() { [HTTPS].into() } else { listed.into_iter().collect() }
        };
        let (before, after) = (ports(old), ports(new));
        let list = |ports: Vec<&u16>| ports.into_iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        let (more, fewer) = (list(after.difference(&before).collect()), list(before.difference(&after).collect()));
        let text = name.as_str();
        let with = |policy: &Policy| {
            policy.grants.get(name).map(|grant| (grant.methods.clone(), grant.paths.clone())).unwrap_or_default()
        };
        if with(old) != with(new) {
            let sentence = format!("the methods and paths of requests that the secret {text} may go along with change");
            tell("secrets", Direction::Changes, sentence);
        }
        if !more.is_empty() {
            tell("secrets", Direction::Opens, format!("the secret {text} may now go to port {more}"));
        }
        if !fewer.is_empty() {
            tell("secrets", Direction::Closes, format!("the secret {text} may no longer go to port {fewer}"));
        }
    }
}

fn kept(source: &SourceSpec) -> String {
    match source {
        SourceSpec::Env(variable) => format!("the variable `{}`", discreet(variable)),
        SourceSpec::File(path) => format!("the file `{}`", discreet(&path.to_string_lossy())),
        SourceSpec::Command(words) => format!("the command `{}`", discreet(&words.join(" "))),
        SourceSpec::Vault(spec) => {
            let place = format!("{}/{}", spec.mount.as_str(), spec.path.as_str());
            format!("the field `{}` of `{}` in Vault at `{}`", discreet(&spec.field), discreet(&place), spec.address)
        }
        SourceSpec::OAuth2(spec) => format!("the OAuth server at `{}`", spec.token_url),
        SourceSpec::GithubApp(spec) => {
            format!("the installation {} of a GitHub App at `{}`", spec.installation_id, spec.api)
        }
        SourceSpec::Aws(spec) => {
            let from = match &spec.from {
                AwsFrom::Environment => "AWS's key of the environment".to_owned(),
                AwsFrom::Profile { name, .. } => format!("AWS's profile `{}`", discreet(name)),
                AwsFrom::WebIdentity { role, .. } => format!("AWS's role `{}`", discreet(role)),
            };
            let role = spec.role.as_ref().map(|role| format!(", and with it the role `{}`", discreet(&role.arn)));
            from + &role.unwrap_or_default()
        }
    }
}

/// Where placeholders are replaced.
fn stand_ins(old: &Policy, new: &Policy, tell: &mut impl FnMut(&'static str, Direction, String)) {
    let places = |policy: &Policy| -> BTreeSet<(String, String, String)> {
        let mut places = BTreeSet::new();
        for stand_in in policy.stand_ins() {
            for name in &stand_in.grant().to {
                let place = |header: &HeaderName| {
                    (stand_in.secret().as_str().to_owned(), name.as_str().to_owned(), header.to_string())
                };
                places.extend(stand_in.headers().iter().map(place));
            }
        }
        places
    };
    let (before, after) = (places(old), places(new));
    for (secret, name, header) in after.difference(&before) {
        let sentence = format!("the placeholder of the secret {secret} is now replaced in `{header}` to `{name}`");
        tell("placeholders", Direction::Opens, sentence);
    }
    for (secret, name, header) in before.difference(&after) {
        let sentence =
            format!("the placeholder of the secret {secret} is no longer replaced in `{header}` to `{name}`");
        tell("placeholders", Direction::Closes, sentence);
    }
}

fn placeholders(old: &Policy, new: &Policy, tell: &mut impl FnMut(&'static str, Direction, String)) {
    let variables: BTreeSet<_> = old.placeholders.keys().chain(new.placeholders.keys()).collect();
    for variable in variables {
        let sentence = match (old.placeholders.get(variable), new.placeholders.get(variable)) {
            (before, after) if before == after => continue,
            (_, Some(after)) => {
                format!("the sandbox's variable `{variable}` now holds a placeholder of the secret {}", after.as_str())
            }
            (Some(before), None) => {
                format!(
                    "the sandbox's variable `{variable}` no longer holds a placeholder of the secret {}",
                    before.as_str()
                )
            }
            (None, None) => continue,
        };
        tell("placeholders", Direction::Changes, sentence);
    }
}
