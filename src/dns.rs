//! Answers permitted names; pins name to address.
