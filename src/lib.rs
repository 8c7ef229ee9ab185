//! *exeat*: an egress firewall and credential-brokering proxy for sandboxes.
//!
//! # Layers
//! A module uses only modules of lower layers; `tests/tidy.rs` checks it.
//!
//! 1. [`flow`], [`limits`], [`sys`]: vocabulary, bounds, system calls (`sys` for `attach`, `confine`,
//!    `secret`, `intercept::splice` and `cli` only)
//! 2. [`matcher`]
//! 3. [`policy`], [`jws`], [`tls`] — up to here everything but `sys` is pure: no tokio, clock, file or socket
//! 4. [`secret`], [`ca`], [`issuer`]
//! 5. [`sandbox`], [`audit`], [`metrics`]
//! 6. [`attach`], [`confine`], [`resolve`], [`dns`]
//! 7. [`intercept`]
//! 8. [`control`], [`state`], [`config`]
//! 9. [`cli`], which wires all of it

pub mod attach;
pub mod audit;
pub mod ca;
pub mod cli;
pub mod config;
pub mod confine;
pub mod control;
pub mod dns;
pub mod flow;
pub mod intercept;
pub mod issuer;
pub mod jws;
pub mod limits;
pub mod manual;
pub mod matcher;
pub mod metrics;
pub mod policy;
pub mod resolve;
pub mod sandbox;
pub mod secret;
pub mod state;
pub mod sys;
pub mod tls;
