//! The environment of the command inside: what is taken away, and what names the trust bundle.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::secret::Secrets;

/// Variables that lead past the firewall, or to a proxy that is not there inside: removed by exact name, in either
/// case.
const REMOVED: [&str; 12] = [
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "GPG_AGENT_INFO",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "RSYNC_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "WS_PROXY",
    "WSS_PROXY",
    "SOCKS_PROXY",
];

/// Removed by prefix.
const REMOVED_PREFIX: &str = "DBUS_";

/// Variables by which programs find a bundle of trusted certificates: each is set to [`super::BUNDLE`].
const BUNDLE_VARIABLES: [&str; 11] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "NPM_CONFIG_CAFILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "DENO_CERT",
];

/// A secret shorter than this takes a variable away only when it is the variable's whole value: `1` stands in too
/// many to mean anything.
const SHORT_SECRET_BYTES: usize = 4;

/// The environment for the command: `ours` without what leads out, without `sources` (the variables that secrets
/// come from), without any whose value holds a secret, and with the variables of the trust bundle.
pub fn inside(
    ours: impl IntoIterator<Item = (OsString, OsString)>,
    sources: &[&str],
    secrets: &Secrets,
) -> Vec<(OsString, OsString)> {
    let mut inside: Vec<_> = ours
        .into_iter()
        .filter(|(name, _)| !leads_out(name) && !sources.iter().any(|source| name == source))
        .filter(|(_, value)| !holds_secret(value, secrets))
        .filter(|(name, _)| !BUNDLE_VARIABLES.iter().any(|bundle| name == bundle) && name != "NODE_USE_SYSTEM_CA")
        .collect();
    inside.extend(trust().map(|(name, value)| (name.into(), value.into())));
    inside
}

/// The variables that make programs trust the bundle at [`super::BUNDLE`], and their values.
pub fn trust() -> impl Iterator<Item = (&'static str, &'static str)> {
    BUNDLE_VARIABLES.into_iter().map(|name| (name, super::BUNDLE)).chain([("NODE_USE_SYSTEM_CA", "1")])
}

fn leads_out(name: &OsStr) -> bool {
    let upper = name.as_bytes().to_ascii_uppercase();
    REMOVED.iter().any(|removed| upper == removed.as_bytes()) || upper.starts_with(REMOVED_PREFIX.as_bytes())
}

fn holds_secret(value: &OsStr, secrets: &Secrets) -> bool {
    let value = value.as_bytes();
    secrets.all().any(|secret| {
        secret.expose(|secret| match secret.len() {
            0 => false,
            1..SHORT_SECRET_BYTES => value == secret,
            length => value.windows(length).any(|window| window == secret),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::SecretName;
    use crate::secret::Secret;
    use zeroize::Zeroizing;

    fn names(pairs: &[(&str, &str)], sources: &[&str], secret: &str) -> Vec<String> {
        let secrets = Secrets::default();
        secrets.insert(SecretName::new("KEY").unwrap(), Secret::new(Zeroizing::new(secret.as_bytes().to_vec())));
        let ours = pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let inside = inside(ours, sources, &secrets);
        inside.into_iter().map(|(name, _)| name.into_string().unwrap()).collect()
    }

    #[test]
    fn the_page_about_certificates_names_every_variable() {
        let page = include_str!("../../certs/README.md");
        let missing: Vec<_> = trust().map(|(name, _)| name).filter(|name| !page.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn a_variable_that_holds_a_secret_anywhere_in_its_value_is_removed() {
        let kept =
            names(&[("A", "canary-1234"), ("B", "https://u:canary-1234@host"), ("C", "canary")], &[], "canary-1234");
        assert!(!kept.contains(&"A".to_owned()) && !kept.contains(&"B".to_owned()));
        assert!(kept.contains(&"C".to_owned()));
    }

    #[test]
    fn a_short_secret_does_not_empty_the_environment() {
        let kept = names(&[("PATH", "/usr/bin:1"), ("PIN", "1")], &[], "1");
        assert!(kept.contains(&"PATH".to_owned()) && !kept.contains(&"PIN".to_owned()));
    }

    #[test]
    fn sources_agents_buses_and_proxies_are_removed_in_either_case() {
        let pairs = ["TOKEN", "SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "https_proxy", "ALL_PROXY", "HOME"];
        let kept = names(&pairs.map(|name| (name, "x")), &["TOKEN"], "unrelated");
        let of_ours: Vec<_> = pairs.iter().filter(|name| kept.contains(&(**name).to_owned())).collect();
        assert_eq!(of_ours, [&"HOME"]);
    }

    #[test]
    fn trust_variables_stand_once_and_name_our_bundle() {
        let ours = [(OsString::from("SSL_CERT_FILE"), OsString::from("/elsewhere"))];
        let inside = inside(ours, &[], &Secrets::default());
        let values: Vec<_> =
            inside.iter().filter(|(name, _)| name == "SSL_CERT_FILE").map(|(_, value)| value).collect();
        assert_eq!(values, [super::super::BUNDLE]);
    }
}
