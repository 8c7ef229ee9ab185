//! A command inside a fresh sandbox.

mod channel;
pub mod init;
