//! One connection, arrival to close.

pub mod dns;
