//! Attachments against the real kernel: what arrives, what is refused, what passes when nobody is there to serve, and
//! what is left when all is over. They need root, and say so where they are skipped.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

mod attachments {
    pub(crate) mod ground;
    mod interface;
    mod netns;
}
