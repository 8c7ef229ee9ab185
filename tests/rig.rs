//! The rig itself: what it claims to observe, it observes, without any `exeat`.

mod support;

use std::process::Command;

use support::exeat::is_root;
use support::world::World;

#[test]
fn origins_record_what_arrives() {
    let world = World::loopback(support::exeat::Identity::all()[0]);
    world.allowed.assert_untouched();
    let port = world.allowed.https.address.port();
    let done = Command::new("curl")
        .args(["--silent", "--show-error", "--data", "a body", "--resolve"])
        .arg(format!("allowed.rig:{port}:127.0.0.1"))
        .arg("--cacert")
        .arg(world.ca().file())
        .arg(format!("https://allowed.rig:{port}/a/path?query"))
        .output()
        .expect("curl is installed");
    assert!(done.status.success(), "{done:?}");
    let requests = world.allowed.https.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!((requests[0].method.as_str(), &requests[0].body[..]), ("POST", &b"a body"[..]));
    assert_eq!(requests[0].version, "HTTP/2.0");
    assert_eq!(world.allowed.https.names(), ["allowed.rig"]);
    assert_eq!(world.allowed.https.connections(), 1);
    assert!(world.allowed.https.wire().starts_with(&[0x16, 0x03]), "a TLS record");
    world.evil.assert_untouched();
}

#[test]
fn the_wide_world_has_names_and_addresses() {
    if !is_root() {
        support::skipped("the wide world: it takes root");
        return;
    }
    let world = World::wide(support::exeat::Identity::Root);
    let wide = world.wide.as_ref().expect("the wide world");
    for (version, url) in [("-4", "https://allowed.rig/four"), ("-6", "https://allowed.rig/six")] {
        world.command(&["curl", "--silent", "--show-error", version, url]);
    }
    world.command(&["curl", "--silent", "--show-error", "http://169.254.169.254/metadata", "http://10.20.0.5/"]);
    world.command(&["bash", "-c", "read -r hello < /dev/tcp/203.0.113.20/5432 && test $hello = hello"]);
    let paths: Vec<String> = world.allowed.https.requests().into_iter().map(|request| request.uri).collect();
    assert_eq!(paths, ["https://allowed.rig/four", "https://allowed.rig/six"]);
    assert_eq!(wide.metadata.requests()[0].uri, "/metadata");
    assert_eq!(wide.private.connections(), 1);
    assert_eq!(wide.opaque.connections(), 1);
    assert!(wide.names.asked().iter().any(|(name, _)| name == "allowed.rig"));
    world.evil.assert_untouched();
}
