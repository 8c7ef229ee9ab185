//! Texts that look like a credential, or like a reference to one.
//!
//! A warning accuses, so only what is hard to take for anything else counts: the prefixes by which services mark their
//! keys, with as much behind them as a key has; tokens and passwords in the forms of HTTP; and random text where a
//! header is made for nothing else. What is merely not shown in a report is decided more widely
//! ([`crate::policy::diagnostic::discreet`]).

use http::HeaderName;

use crate::policy::diagnostic::{carries_credentials, is_opaque};

/// A key of a service.
struct Kind {
    begins: &'static str,
    /// Characters behind that, at least: letters, digits, `-`, `_` and `.`.
    least: usize,
    /// Letters and digits behind that without anything between, at least: what words with `-` between do not have.
    run: usize,
    what: &'static str,
}

const fn kind(begins: &'static str, least: usize, run: usize, what: &'static str) -> Kind {
    Kind { begins, least, run, what }
}

/// The formats that the services publish for those who scan for leaks.
const KINDS: [Kind; 42] = [
    kind("AGE-SECRET-KEY-1", 30, 30, "an age key"),
    kind("AIza", 30, 1, "a Google API key"),
    kind("AKIA", 16, 16, "an AWS access key"),
    kind("ASIA", 16, 16, "an AWS access key"),
    kind("SG.", 20, 8, "a SendGrid key"),
    kind("dapi", 32, 32, "a Databricks token"),
    kind("dckr_pat_", 16, 1, "a Docker token"),
    kind("dop_v1_", 32, 32, "a DigitalOcean token"),
    kind("ghp_", 16, 16, "a GitHub token"),
    kind("gho_", 16, 16, "a GitHub token"),
    kind("ghr_", 16, 16, "a GitHub token"),
    kind("ghs_", 16, 16, "a GitHub token"),
    kind("ghu_", 16, 16, "a GitHub token"),
    kind("github_pat_", 20, 10, "a GitHub token"),
    kind("glpat-", 16, 1, "a GitLab token"),
    kind("gsk_", 20, 20, "a Groq key"),
    kind("hf_", 20, 20, "a Hugging Face token"),
    kind("hvb.", 20, 1, "a Vault token"),
    kind("hvs.", 20, 1, "a Vault token"),
    kind("lin_api_", 16, 16, "a Linear key"),
    kind("npm_", 20, 20, "an npm token"),
    kind("pypi-", 32, 16, "a PyPI token"),
    kind("rk_live_", 16, 16, "a Stripe key"),
    kind("rk_test_", 16, 16, "a Stripe key"),
    kind("rubygems_", 32, 32, "a RubyGems key"),
    kind("shpat_", 16, 16, "a Shopify token"),
    kind("sk-", 20, 16, "an API key"),
    kind("sk_live_", 16, 16, "a Stripe key"),
    kind("sk_test_", 16, 16, "a Stripe key"),
    kind("tfp_", 20, 20, "a Typeform token"),
    kind("vercel_blob_rw_", 16, 8, "a Vercel token"),
    kind("whsec_", 16, 16, "a webhook's key"),
    kind("xai-", 20, 20, "an xAI key"),
    kind("xapp-", 16, 8, "a Slack token"),
    kind("xoxa-", 10, 8, "a Slack token"),
    kind("xoxb-", 10, 8, "a Slack token"),
    kind("xoxe-", 10, 8, "a Slack token"),
    kind("xoxp-", 10, 8, "a Slack token"),
    kind("xoxr-", 10, 8, "a Slack token"),
    kind("xoxs-", 10, 8, "a Slack token"),
    kind("ya29.", 20, 8, "a Google access token"),
    kind("eyJ", usize::MAX, 0, "a JSON Web Token"),
];

/// Longer beginnings of keys of the kinds above, each with what tells programs more.
const LONGER: [&str; 5] = ["sk-ant-api03-", "sk-ant-oat01-", "sk-or-v1-", "sk-proj-", "sk-svcacct-"];

/// The beginning of a text by which programs know what kind of key it is.
pub(in crate::policy) fn prefix(text: &str) -> &str {
    let kinds = KINDS.iter().map(|kind| kind.begins).filter(|begins| *begins != "eyJ").chain(LONGER);
    let longest = kinds.filter(|begins| text.starts_with(begins)).map(str::len).max();
    text.get(..longest.unwrap_or_default()).unwrap_or_default()
}

/// Parts of texts that stand for a credential, in lower case.
const STAND_INS: [&str; 9] =
    ["xxxx", "example", "your", "placeholder", "redacted", "changeme", "change-me", "dummy", "replace"];

/// What a text looks like, if it looks like a credential; `header` has it for its whole value.
pub(super) fn recognised(text: &str, header: Option<&HeaderName>) -> Option<&'static str> {
    if text.contains("PRIVATE KEY-----") {
        return Some("a private key");
    }
    let mut words = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')));
    words.find_map(key).or_else(|| authorization(text)).or_else(|| {
        let made_for_it = header.is_some_and(|header| carries_credentials(header.as_str()));
        (made_for_it && is_random(text.trim())).then_some("a credential")
    })
}

/// A key of a known kind.
fn key(word: &str) -> Option<&'static str> {
    if is_stand_in(word) {
        return None;
    }
    let found = KINDS.iter().find(|kind| {
        let behind = word.strip_prefix(kind.begins);
        behind.is_some_and(|behind| behind.len() >= kind.least && longest_run(behind) >= kind.run)
    });
    found.map(|kind| kind.what).or_else(|| is_json_web_token(word).then_some("a JSON Web Token"))
}

/// Three parts in base64url, of which two are JSON objects (RFC 7519 §3).
fn is_json_web_token(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    let [head, claims, signature] = parts.as_slice() else { return false };
    [head, claims].iter().all(|part| part.starts_with("eyJ") && part.len() > 8) && signature.len() >= 16
}

/// What follows the name of a scheme (RFC 7617, RFC 6750, and those that are like the latter).
fn authorization(text: &str) -> Option<&'static str> {
    let (scheme, rest) = text.trim().split_once(' ')?;
    let rest = rest.trim();
    match scheme.to_ascii_lowercase().as_str() {
        "basic" => holds_password(rest).then_some("a user's name and password"),
        "bearer" | "token" | "apikey" | "api-key" | "key" => is_random(rest).then_some("a token"),
        _ => None,
    }
}

/// Whether it is the base64 of `NAME:PASSWORD`.
fn holds_password(text: &str) -> bool {
    let mut bits = 0_u32;
    let mut decoded = Vec::new();
    for (at, c) in text.trim_end_matches('=').bytes().enumerate() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return false,
        };
        bits = bits << 6 | u32::from(value);
        if at % 4 > 0 {
            decoded.push((bits >> (6 - 2 * (at % 4))) as u8);
        }
    }
    let Ok(decoded) = String::from_utf8(decoded) else { return false };
    let pair = decoded.split_once(':');
    pair.is_some_and(|(_, password)| !password.is_empty()) && !decoded.chars().any(char::is_control)
}

/// One word of random letters and digits, as long as keys are.
fn is_random(text: &str) -> bool {
    let one =
        text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'{' | b'}' | b'$' | b'%'));
    let distinct = text.bytes().collect::<std::collections::HashSet<u8>>().len();
    text.len() >= 20 && one && distinct >= 10 && !is_stand_in(text) && !text.contains("://") && is_opaque(text)
}

fn is_stand_in(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    STAND_INS.iter().any(|stand_in| lower.contains(stand_in))
}

/// The longest part of letters and digits alone.
fn longest_run(text: &str) -> usize {
    text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::len).max().unwrap_or_default()
}

/// Whether it holds `$VARIABLE`, `{{ … }}`, `%VARIABLE%` or `secrets.NAME`: what others replace, and exeat does not.
pub(super) fn is_reference(text: &str) -> bool {
    let mut dollars = text.match_indices('$').filter_map(|(at, _)| after_name(text.get(at + 1..)?));
    let mut percents = text.match_indices('%').filter_map(|(at, _)| after_name(text.get(at + 1..)?));
    dollars.any(|rest| !rest.starts_with(|c: char| c.is_ascii_lowercase()))
        || percents.any(|rest| rest.starts_with('%'))
        || text.split_once("{{").is_some_and(|(_, rest)| rest.contains("}}"))
        || text.split_once("secrets.").is_some_and(|(_, rest)| after_name(rest).is_some())
}

/// What follows a variable's name, if one begins the text.
fn after_name(text: &str) -> Option<&str> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let (name, rest) = text.split_at(text.find(|c| !is_name(c)).unwrap_or(text.len()));
    (name.len() >= 3 && name.starts_with(|c: char| !c.is_ascii_digit())).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Put together here, so that nothing that looks like a credential stands in this file.
    fn made(begins: &str, behind: &str) -> String {
        format!("{begins}{behind}")
    }

    const RANDOM: &str = "Zq8sW2x7Rt5Lk9Vb3Nm6Pd1Sf4Hj0GcY7u2";

    #[test]
    fn every_kind_is_recognised_wherever_it_stands() {
        for kind in KINDS.iter().filter(|kind| kind.least < 100) {
            let key = made(kind.begins, RANDOM);
            for text in
                [key.clone(), format!("Bearer {key}"), format!("x={key}; y"), format!("{{\"token\":\"{key}\"}}")]
            {
                assert_eq!(recognised(&text, None), Some(kind.what), "{text}");
            }
            let short = made(kind.begins, &RANDOM[..6]);
            assert_eq!(recognised(&short, None), None, "{short}");
        }
    }

    #[test]
    fn forms_of_http_are_recognised() {
        for (text, what) in [
            (made("Bearer ", RANDOM), "a token"),
            (made("token ", "9b3f1c7e5a2d4f6081c3e5a7b9d1f3e5"), "a token"),
            (made("Basic ", "dXNlcjpodW50ZXI="), "a user's name and password"),
            (made("Basic ", "OmtleQ=="), "a user's name and password"),
            (made("eyJhbGciOiJIUzI1NiJ9.", "eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"), "a JSON Web Token"),
            (made("-----BEGIN RSA ", "PRIVATE KEY-----\nMII"), "a private key"),
        ] {
            assert_eq!(recognised(&text, None), Some(what), "{text}");
        }
        for (header, recognises) in
            [("x-api-key", true), ("authorization", true), ("private-token", true), ("x-trace", false), ("etag", false)]
        {
            let header = HeaderName::from_static(header);
            assert_eq!(recognised(RANDOM, Some(&header)).is_some(), recognises, "{header}");
        }
    }

    #[test]
    fn what_only_reminds_of_a_credential_is_not_taken_for_one() {
        for text in [
            "",
            "Bearer ",
            "Bearer token",
            "Bearer YOUR_TOKEN_HERE_0123456789abcdef",
            "Bearer xxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "Bearer my-service-account-token-v2-2024",
            "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "ghp_",
            "sk-learn-model-registry-service-v2",
            "npm_config_registry_https",
            "AKIAIOSFODNN7EXAMPLE",
            "Basic auth is required here",
            "Basic Zm9v",
            "application/json; charset=utf-8",
            "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            "max-age=31536000; includeSubDomains",
            "this sandbox may call models and nothing else\n",
            "https://docs.example.com/agents/2024-11-05/policies#tokens",
            "2023-06-01",
            "eyJ",
        ] {
            for header in [None, Some(&HeaderName::from_static("x-api-key"))] {
                assert_eq!(recognised(text, header), None, "{text}");
            }
        }
        assert_eq!(recognised(RANDOM, None), None, "random text may be anything");
    }

    #[test]
    fn a_reference_is_known_by_its_form() {
        for (text, is) in [
            ("Bearer $GITHUB_TOKEN", true),
            ("$API_KEY", true),
            ("Bearer {{ secrets.GITHUB }}", true),
            ("%API_KEY%", true),
            ("Bearer secrets.GITHUB", true),
            ("Bearer ", false),
            ("$5.00", false),
            ("US$100", false),
            ("a%20b", false),
            ("100% of $x", false),
            ("$Id: x $", false),
            ("the secrets. All", false),
            ("{\"a\": {}}", false),
        ] {
            assert_eq!(is_reference(text), is, "{text}");
        }
    }
}
