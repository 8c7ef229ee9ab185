//! Secrets: values that go out and are never shown.
//!
//! A [`Secret`] has no `Display`, `Debug` of its value, `Clone` or `Serialize`, and its memory is zeroised. What a
//! library must copy (a header value) is marked sensitive where it is made ([`inject`]).

pub mod inject;
pub mod scrub;
pub mod source;

use std::collections::HashMap;
use std::fmt;

use zeroize::Zeroizing;

use crate::flow::SecretName;

/// A value that can be used and not printed.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes ownership of the bytes; a trailing newline is trimmed (POLICY §3).
    #[must_use]
    pub fn new(mut bytes: Zeroizing<Vec<u8>>) -> Self {
        if bytes.ends_with(b"\n") {
            bytes.pop();
            if bytes.ends_with(b"\r") {
                bytes.pop();
            }
        }
        Self(bytes)
    }

    /// Lends the bytes for as long as `f` runs.
    pub fn expose<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        f(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The values that one sandbox's rules may send out, by name.
#[derive(Debug, Default)]
pub struct Secrets {
    values: HashMap<SecretName, Secret>,
}

impl Secrets {
    /// Adds or replaces a value.
    pub fn insert(&mut self, name: SecretName, value: Secret) {
        self.values.insert(name, value);
    }

    /// The value of a name; `None` means that nothing may be sent (POLICY §7: `secret-unavailable`).
    #[must_use]
    pub fn value(&self, name: &SecretName) -> Option<&Secret> {
        self.values.get(name)
    }

    /// Every value, for looking whether a text holds one.
    pub fn iter(&self) -> impl Iterator<Item = (&SecretName, &Secret)> {
        self.values.iter()
    }
}
