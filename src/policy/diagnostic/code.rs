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
        "A rule that never claims a request, because an earlier one of its entry claims all that it would."
    DeniedAllow "denied-allow" Warning
        "An entry of `allow` that allows nothing, because `deny` matches all that it matches, and `deny` wins."
    UnusedSecret "unused-secret" Warning
        "A secret that no rule uses."
    SecretForAnyName "secret-for-any-name" Warning
        "A secret that goes to whatever name the program chooses, because its entry is `*` or a pattern as wide."
    SecretWithoutScope "secret-without-scope" Warning
        "A secret that goes along with every request to its name, because its rule has neither method nor path."
    TopLevelWildcard "top-level-wildcard" Warning
        "A pattern that matches every name below a top-level domain: anybody can register one."
    OpenSubnets "open-subnets" Warning
        "A range of `subnets.allow` so wide that it opens the whole Internet by address: names are not judged there, \
         and nothing is injected."
    AdvisoryDeny "advisory-deny" Warning
        "A `deny` beneath `*` or allow-all without `strict`: it does not hold against encrypted names and fronting."
    BypassedByAddress "bypassed-by-address" Warning
        "What goes to a range of `subnets.allow` is judged by its address alone: no `deny` and no injection there."
    SharedHostSpliced "shared-host-spliced" Warning
        "A name on a host that serves many customers, relayed unread: inside, another customer's name can be asked \
         for. `strict` binds the two."
    PastedCredential "pasted-credential" Warning
        "Text of a `transform` that looks like a credential. A policy names secrets and never holds them."
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
