//! A command inside a fresh sandbox.
