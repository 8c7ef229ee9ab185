//! Finding the rule that applies: by name ([`domain`]), by address ([`cidr`]), by request ([`request`], [`path`]).
//!
//! A matcher answers with the one rule that applies, or none; whether that allows or denies is for
//! [`crate::policy`] to say. Nothing here allocates while it matches what is already canonical, and nothing here
//! takes more than linear time in what a sandbox sent.

pub mod cidr;
pub mod domain;
pub mod path;
pub mod request;
