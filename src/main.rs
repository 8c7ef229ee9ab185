//! exeat
fn main() {}
