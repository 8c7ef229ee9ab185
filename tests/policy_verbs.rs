//! The verbs about policies as commands: what they print, in each format, and how they end.
//!
//! They need no sandbox, so the real binary runs in a plain folder with the files of the test.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod policy_verbs {
    pub(crate) mod desk;

    mod check;
    mod diff;
    mod explain;
    mod schema;
    mod test;
}
