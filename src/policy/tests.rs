//! The rows of POLICY §3, where they meet.
