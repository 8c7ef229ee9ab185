//! `exeat schema`: the JSON Schema of a policy file, for editors and for tools that write policies.

use super::{Exit, json, print};
use crate::policy;

/// Runs the verb.
#[must_use]
pub fn schema() -> Exit {
    print(&json(&policy::schema()), Exit::Success)
}
