//! Every kind of fault and warning: one variant, one stable string, one severity, one line that explains it.
//!
//! The table below is the only place that knows them. `exeat check --explain`, the rules of a SARIF report and the
//! documentation of [`Code`] are made from it.

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Legal, and perhaps not meant.
    Warning,
    /// No policy comes of it.
    Error,
}

impl Severity {
    /// The stable string; SARIF's levels are called the same.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

macro_rules! codes {
    ($($variant:ident $text:literal $severity:ident $explanation:literal)*) => {
        /// Kinds of fault and warning: one variant, one stable string.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $explanation] $variant,)*
        }

        impl Code {
            /// Every code: errors, then warnings.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The stable string.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// Whether a policy can come of it all the same.
            #[must_use]
            pub fn severity(self) -> Severity {
                match self {
                    $(Self::$variant => Severity::$severity,)*
                }
            }

            /// What it means, in a sentence or two for whoever met it.
            #[must_use]
            pub fn explanation(self) -> &'static str {
                match self {
                    $(Self::$variant => $explanation,)*
                }
            }
        }
    };
}

codes! {
    Unreadable "unreadable" Error
        "The file cannot be read."
    Syntax "syntax" Error
        "Not YAML or JSON in UTF-8, or YAML that the policy language does not use: anchors, aliases, tags, directives."
    UnknownKey "unknown-key" Error
        "A key that nothing knows. Keys are never ignored: a misspelled `deny` would deny nothing."
    Duplicate "duplicate" Error
        "A key or an element that stands there twice, perhaps spelled in two ways that mean the same."
    WrongType "wrong-type" Error
        "A list where a map is due, and the like."
    BadValue "bad-value" Error
        "Of the right type, and not a value that can be."
    Missing "missing" Error
        "What is needed is not there."
    Conflict "conflict" Error
        "Two things that exclude each other."
    Unsupported "unsupported" Error
        "Known to the language, and not to be had here: not in this version, or not where the policy comes from."
    Limit "limit" Error
        "Over one of the bounds that keep a policy cheap to read and to judge by."
    ShadowedRule "shadowed-rule" Warning
        "A rule that never claims a request, because earlier ones of its entry claim all that it would: the first \
         rule that matches is the one. What is narrower goes first."
    NeverMatches "never-matches" Warning
        "A part of `match` that no request meets. Methods are in upper case. A path begins with `/` and has no query; \
         it is matched both as it is sent and fully decoded, and none has `%2F`, `//` or `..` in both forms."
    DeniedAllow "denied-allow" Warning
        "An entry of `allow` or `subnets.allow` that allows nothing, because `deny` or `subnets.deny` matches all \
         that it matches, and what denies wins."
    ProtectedAllow "protected-allow" Warning
        "A range of `subnets.allow` that leaves protected addresses closed: a private range opens only if it is \
         named, or a part of it; loopback, link-local (with it metadata services) and the like only if the operator \
         opens them (`--allow-protected`)."
    AllowsNothing "allows-nothing" Warning
        "A policy that denies this and that, and allows nothing: what is not allowed is denied, so all is."
    UnusedSecret "unused-secret" Warning
        "A secret that no rule uses. Its value is read all the same, and a run fails that cannot have it."
    SecretForAnyName "secret-for-any-name" Warning
        "A secret that goes to whatever name the program chooses, because its entry is `*` or a pattern as wide: \
         anybody can have a name there, and read what is sent to it."
    SecretWithoutScope "secret-without-scope" Warning
        "A secret that goes along with every request to its name, because its rule has neither method nor path: all \
         that the credential may do, the program may do."
    TopLevelWildcard "top-level-wildcard" Warning
        "A pattern below which anybody can have a name: all of a top-level domain, of a registry such as `co.uk`, \
         or of a host of many customers such as `github.io`."
    OpenSubnets "open-subnets" Warning
        "Ranges of `subnets.allow` so wide that they open the Internet by address: names are not judged there, and \
         nothing is injected."
    AdvisoryDeny "advisory-deny" Warning
        "A `deny` beneath `*` or allow-all without `strict`: it does not hold against encrypted names and fronting, \
         where the name in clear is another than the one that is asked for inside."
    BypassedByAddress "bypassed-by-address" Warning
        "What goes to a range of `subnets.allow` is judged by its address alone: no `deny` and no injection there."
    SharedHostSpliced "shared-host-spliced" Warning
        "A name on a host that serves many customers, relayed unread: inside, another customer's name, or path, can \
         be asked for. `strict`, or a rule, holds the requests to the name."
    PastedCredential "pasted-credential" Warning
        "Text that looks like a credential. A policy names secrets and never holds them: files are copied, \
         committed and sent to others."
    LiteralReference "literal-reference" Warning
        "Text of a `transform` that looks like a reference to a variable, and is sent as it stands. A secret is \
         written `${secrets.NAME}`, and nothing else is replaced."
    UnresolvableNames "unresolvable-names" Warning
        "`allow` has names, and `dns: none` lets none of them be resolved."
    SiblingConflict "sibling-conflict" Warning
        "Two files that a policy extends say different things of what can stand once, and neither extends the \
         other: the one that is named first counts, silently."
    OlderSpelling "older-spelling" Warning
        "A spelling of an older API: it is understood, and `allow`, `deny` and `subnets` say more."
}

impl Code {
    /// The code of this name.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_distinct_words_in_order_and_explained() {
        let names: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            let name = code.as_str();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
            assert!(code.explanation().ends_with('.') && code.explanation().len() > 20, "{name}");
            assert_eq!(Code::named(name), Some(*code));
        }
        assert!(Code::ALL.is_sorted_by_key(|code| std::cmp::Reverse(code.severity())), "errors come first");
        assert_eq!(Code::named("Syntax"), None);
    }
}
