//! `exeat schema`.

use std::path::Path;

use super::desk::Desk;

#[test]
fn the_published_schema_is_current() {
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/schema.json");
    let printed = Desk::new(&[]).run(&["schema"]).ended(0).stdout;
    let text = std::fs::read_to_string(published).unwrap_or_default();
    assert!(text == printed, "not current: `cargo run -- schema >policies/schema.json`");
}
