//! One connection, arrival to close.

pub mod dns;
pub mod hello;
pub mod peek;
pub mod splice;
pub mod upstream;
