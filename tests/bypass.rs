//! Every known way past a firewall like this one, tried from inside a sandbox.
//!
//! The modules follow the families of attack. A test's doc line is the attack; its pass criterion, unless it says
//! otherwise: the origin that is not allowed receives not one byte, and the audit holds the denial and its reason.
//! The clients are ones that nobody here wrote: `curl`, `openssl`, `node`, `bash`, and `python3` where the bytes must
//! be wrong in one particular way.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod support;

mod bypass {
    pub(crate) mod client;

    mod addresses;
    mod credentials;
    mod hellos;
    mod identity;
    mod interception;
    mod names;
    mod placeholders;
    mod protocols;
    mod resolution;
    mod signing;
}
