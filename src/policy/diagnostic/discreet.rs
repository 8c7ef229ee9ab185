//! What of a document's text may be shown: nothing that could steer a terminal, and nothing that looks like a
//! credential, wherever it stands.
//!
//! A policy holds no credential where its author understood it; a report is for who did not, and is pasted into
//! issues. Where a value is most likely to be one, its fault hides it altogether; this is for all other places.
//!
//! What looks like one: random letters and digits ([`is_opaque`]), what has the beginning of a well-known kind, what
//! stands before the `@` of a URL, and what follows the name of an authentication scheme.

/// Fewer characters are not taken for a credential.
const LEAST: usize = 16;

/// How credentials of well-known services begin.
const BEGINNINGS: [&str; 20] = [
    "AKIA",
    "ASIA",
    "AIza",
    "SG.",
    "dckr_pat_",
    "eyJ",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "hf_",
    "npm_",
    "pk_",
    "rk_",
    "sk-",
    "sk_",
    "whsec_",
    "xox",
];

/// Names of schemes that a credential follows (RFC 9110 §11.1), in lower case.
const SCHEMES: [&str; 2] = ["basic", "bearer"];

/// Of a longer word that many characters are shown.
const LONGEST: usize = 256;

/// The text as it may be shown, with `…` for each credential, and for the rest of a word that is very long.
#[must_use]
pub fn discreet(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut after_scheme = false;
    for word in text.split_inclusive(is_delimiter) {
        let bare = word.trim_end_matches(is_delimiter);
        let end = word.get(bare.len()..).unwrap_or_default();
        if after_scheme && bare.len() >= LEAST / 2 && !bare.starts_with("${") {
            shown.push('…');
        } else {
            let word = discreet_word(bare);
            shown.extend(word.chars().take(LONGEST));
            shown.push_str(if word.chars().nth(LONGEST).is_some() { "…" } else { "" });
        }
        if !bare.is_empty() {
            after_scheme = SCHEMES.contains(&bare.to_ascii_lowercase().as_str());
        }
        shown.push_str(end);
    }
    harmless(&shown)
}

/// The text, without what could steer a terminal.
#[must_use]
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if is_invisible(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Whether some part of the text looks like a credential.
#[must_use]
pub fn looks_like_credential(text: &str) -> bool {
    discreet(text) != harmless(text)
}

/// Whether a header of this name, in lower case, is there to carry a credential.
pub(in crate::policy) fn carries_credentials(header: &str) -> bool {
    let last = header.rsplit(['-', '_']).next().unwrap_or(header);
    matches!(last, "authorization" | "cookie" | "token" | "key" | "apikey" | "secret" | "password" | "auth")
        && !header.contains("idempotency")
}

/// Characters that would move the cursor or turn the text around in a terminal.
fn is_invisible(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_delimiter(c: char) -> bool {
    c.is_whitespace() || matches!(c, '`' | '"' | '\'' | ',' | '{' | '}' | '[' | ']' | '(' | ')')
}

/// A word between delimiters, such as a URL.
fn discreet_word(word: &str) -> String {
    if word.len() < LEAST && !word.contains('@') {
        return word.to_owned();
    }
    let (user, rest) = match word.rsplit_once('@') {
        Some((user, rest)) if !user.is_empty() => (user.split_once("//").map_or("…", |(scheme, _)| scheme), rest),
        _ => ("", word),
    };
    let before = match (user, word.len() == rest.len()) {
        (_, true) => String::new(),
        ("…", false) => "…@".to_owned(),
        (scheme, false) => format!("{scheme}//…@"),
    };
    // Base64 has slashes, and so have paths; a path has a dot or begins with a slash.
    if rest.contains('/') && rest.len() >= 40 && is_opaque(rest) && !rest.contains(['.', ':']) && !rest.starts_with('/')
    {
        return before + "…";
    }
    let mut shown = before;
    for part in rest.split_inclusive(|c: char| !is_opaque_char(c)) {
        let bare = part.trim_end_matches(|c| !is_opaque_char(c));
        let begins = BEGINNINGS.iter().any(|beginning| bare.starts_with(beginning));
        if bare.len() >= LEAST && (begins || is_opaque(bare)) {
            shown.push('…');
        } else {
            shown.push_str(bare);
        }
        shown.push_str(part.get(bare.len()..).unwrap_or_default());
    }
    shown
}

/// What base64, base64url and hexadecimal are made of, but for `/`.
fn is_opaque_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '=' | '~' | '%')
}

/// Whether letters and digits follow one another as they do in random text and not in words: every fourth character,
/// or more, is of another kind (lower case, upper case, digit) than the one before.
#[must_use]
pub(in crate::policy) fn is_opaque(text: &str) -> bool {
    let kinds: Vec<u8> = text
        .bytes()
        .filter_map(|b| match b {
            b'a'..=b'z' => Some(0),
            b'A'..=b'Z' => Some(1),
            b'0'..=b'9' => Some(2),
            _ => None,
        })
        .collect();
    let changes = kinds.iter().zip(kinds.iter().skip(1)).filter(|(one, other)| one != other).count();
    changes * 4 >= kinds.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_credential_is_not_shown() {
        for (text, expected) in [
            ("ghp_Zq8sW2x7Rt5Lk9Vb3Nm6Pd1Sf4Hj0Gc", "…"),
            ("`ghp_Zq8sW2x7Rt5Lk9Vb3Nm6Pd1Sf4Hj0Gc` is not", "`…` is not"),
            ("sk-proj-abcdefghijklmnopqrst", "…"),
            ("9b3f1c7e5a2d4f6081c3e5a7b9d1f3e5", "…"),
            ("123e4567-e89b-12d3-a456-426614174000", "…"),
            ("AKIAIOSFODNN7EXAMPLE", "…"),
            ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "…"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P", "….….…"),
            ("https://user:hunter2@a.test/x", "https://…@a.test/x"),
            ("hunter2@a.test", "…@a.test"),
            ("https://a.test/?token=Zq8sW2x7Rt5Lk9Vb3Nm6Pd1Sf4Hj0Gc", "https://a.test/?…"),
            ("authorization: Bearer correct-horse", "authorization: Bearer …"),
            ("Basic dXNlcjpodW50ZXI=", "Basic …"),
            ("[Zq8sW2x7Rt5Lk9Vb3, Zq8sW2x7Rt5Lk9Vb4]", "[…, …]"),
            ("correct-horse-battery@a.test", "…@a.test"),
        ] {
            assert_eq!(discreet(text), expected, "{text}");
            assert!(looks_like_credential(text), "{text}");
        }
    }

    #[test]
    fn what_a_policy_is_made_of_is_shown() {
        for text in [
            "generativelanguage.googleapis.com",
            "d111111abcdef8.cloudfront.net",
            "ec2-203-0-113-25.us-east-1.compute.amazonaws.com",
            "my-bucket-2024-prod.s3.eu-central-1.amazonaws.com",
            "https://github.com/OWNER/REPOSITORY",
            "/v1beta/models/gemini-2.5-pro:streamGenerateContent",
            "^/v1(beta)?/models/[^/]+:((streamG|g)enerateContent|countTokens)$",
            "2001:db8:85a3:8d3:1319:8a2e:370:7348/128",
            "Bearer ${secrets.GITHUB}",
            "unexpected character: `@'",
            "${secrets.ANTHROPIC_API_KEY}",
            "policies/agents/v2/coding-agent.yaml:6",
            "/home/user1/Projects/policies2/a.yaml",
            "`mode: deny-all` stands alone, and `allow` stands beside it",
        ] {
            assert_eq!(discreet(text), text);
            assert!(!looks_like_credential(text), "{text}");
        }
    }

    #[test]
    fn a_very_long_word_is_cut() {
        assert_eq!(discreet(&"a".repeat(10_000)), "a".repeat(256) + "…");
    }

    #[test]
    fn what_steers_a_terminal_is_not_shown() {
        assert_eq!(discreet("a\u{1b}[2Jb\u{202e}c\r"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
    }
}
