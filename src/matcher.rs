//! Which rule matches, or none.
