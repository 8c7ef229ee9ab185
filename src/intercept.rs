//! One connection, arrival to close.
