//! Documents and the faults that they have.
