//! Verbs, shared options, exit codes.

pub mod run;
