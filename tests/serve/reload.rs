//! SIGHUP: what of the settings changes while the daemon runs, and that a fault changes nothing.

use std::fs::{self, read_to_string};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use serde_json::json;
use tokio::runtime::Handle;

use crate::serve::verb::{OTHER, OURS, Verb};
use crate::support::names::Names;
use crate::support::{PATIENCE, eventually};

/// Asks for a name; the address in the answer.
const ASKER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
name = b"".join(bytes([len(l)]) + l.encode() for l in sys.argv[1].split("."))
s.sendto(b"\0\7\1\0\0\1\0\0\0\0\0\0" + name + b"\0\0\1\0\1", ("9.9.9.9", 53))
print(socket.inet_ntoa(s.recv(999)[-4:]))
"#;

const SETTINGS: &str = "audit: {}/audit\nallowProtected: [203.0.113.9/32, 203.0.113.10/32]\nresolvers: [203.0.113.9]\n";
const POLICY: &str =
    r#"{"allow": ["a.rig"], "subnets": {"allow": ["203.0.113.9/32", "203.0.113.10/32", "10.9.0.1/32"]}}"#;

#[test]
fn what_can_change_changes_also_for_what_is_open() {
    let Some(mut verb) = Verb::start(SETTINGS, |_| ()) else { return };
    let runtime = verb.ground.run(async { Handle::current() });
    for (resolver, answer) in [(OURS, [9, 9, 9, 1]), (OTHER, [9, 9, 9, 2])] {
        let address = SocketAddr::new(resolver.parse().expect("an address"), 53);
        Names::serve(&verb.ground.place, address, &runtime).set("a.rig", &[IpAddr::from(answer)]);
    }
    verb.greet_at(OURS);
    verb.greet_at(OTHER);
    verb.sandbox("exd-a", POLICY);
    let asks = |verb: &Verb| {
        let mut ip = Command::new("ip");
        ip.args(["netns", "exec", "exd-a", "/usr/bin/python3", "-c", ASKER, "a.rig"]);
        String::from_utf8(verb.output(ip).stdout).expect("text").trim().to_owned()
    };
    let verdict = |verb: &Verb| verb.ask("GET", "/v2/sandboxes/exd-a/explain?url=10.9.0.1:80", "")["verdict"].clone();
    let flows = |verb: &Verb| verb.ask("GET", "/v2/sandboxes/exd-a/flows", "")["flows"].as_array().map(Vec::len);
    assert_eq!((asks(&verb), verdict(&verb)), ("9.9.9.1".to_owned(), json!("deny")));
    let script = format!("tcp {OURS} 7\ntcp {OTHER} 7");
    let (greeted, client) = verb.ground.keeping_client("exd-a", &script);
    assert_eq!((greeted, flows(&verb)), (vec!["hello".to_owned(); 2], Some(2)));

    let told = verb.reload(
        "audit: { file: {}/second, rotate: { megabytes: 1, keep: 1 } }\nallowProtected: [203.0.113.9/32]\n\
         openable: [10.0.0.0/8]\nresolvers: [203.0.113.10]\n",
    );
    assert!(told.ends_with("the settings were read again"), "{told}");
    assert_eq!((asks(&verb), verdict(&verb)), ("9.9.9.2".to_owned(), json!("allow")));
    // One of the two flows has no permission any more, and no other begins.
    assert!(eventually(|| flows(&verb) == Some(1)), "{:?}", flows(&verb));
    assert_eq!(verb.ground.client("exd-a", &script), ["hello", "ECONNRESET"]);
    let record = |name: &str| read_to_string(verb.at(name)).expect("a file");
    assert!(eventually(|| record("second").contains("protected-range")), "{}", record("second"));
    assert!(record("audit").contains(OTHER) && !record("audit").contains("protected-range"), "{}", record("audit"));

    let told = verb.reload(&format!("{SETTINGS}control: {{ mode: '0666' }}\n"));
    assert!(told.ends_with("control.mode: when the daemon is started again"), "{told}");
    assert_eq!((asks(&verb), verdict(&verb)), ("9.9.9.1".to_owned(), json!("deny")));
    drop(client);
    verb.end();
}

#[test]
fn a_fault_changes_nothing() {
    let Some(mut verb) = Verb::start(SETTINGS, |_| ()) else { return };
    verb.greet_at(OTHER);
    verb.sandbox("exd-a", POLICY);
    for (settings, why) in [
        ("allowProtected: []\naudit: {}/second\nresolvres: [203.0.113.10]\n", "serve.yaml:4"),
        ("allowProtected: []\naudit: {}/second\nresolvers: [nowhere]\n", "`resolvers`"),
        ("allowProtected: []\naudit: {}/none/audit\n", "cannot write the audit record: No such file"),
        (
            "allowProtected: []\naudit: {}/second\ncontrol: { insecureLoopback: { address: '127.0.0.1:1', \
             tokenFile: {}/token } }\n",
            "token cannot be read: No such file",
        ),
    ] {
        let told = verb.reload(settings);
        assert!(told.starts_with("exeat: nothing is changed: ") && told.contains(why), "{why}: {told}");
        assert_eq!(verb.ground.client("exd-a", &format!("tcp {OTHER} 7")), ["hello"], "{settings}");
        assert!(!verb.at("second").exists(), "{settings}");
    }
    fs::remove_file(verb.at("serve.yaml")).expect("a file");
    nix::sys::signal::kill(verb.process(), nix::sys::signal::Signal::SIGHUP).expect("it runs");
    let told = verb.tells();
    assert!(told.contains("nothing is changed") && told.contains("serve.yaml"), "{told}");
}

#[test]
fn the_record_goes_to_the_journal() {
    let Some(mut verb) = Verb::start("", |_| ()) else { return };
    verb.sandbox("exd-a", "\"deny-all\"");
    verb.ground.place.enter(|| {
        // Without a journal there is none to write to; this machine's own is not seen from here on.
        fs::create_dir_all("/run/systemd/journal").expect("root may make it");
        mount(Some("none"), "/run/systemd", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a file system");
    });
    let told = verb.reload("audit: journal\n");
    assert!(told.contains("nothing is changed: cannot write the audit record: No such file"), "{told}");
    let journal = verb.ground.place.enter(|| {
        fs::create_dir_all("/run/systemd/journal").expect("a folder");
        UnixDatagram::bind("/run/systemd/journal/socket").expect("a socket")
    });
    journal.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    assert!(verb.reload("audit: journal\n").ends_with("the settings were read again"));
    assert_eq!(verb.ground.client("exd-a", &format!("tcp {OURS} 7")), ["ECONNRESET"]);
    let mut entry = [0; 4096];
    let length = journal.recv(&mut entry).expect("an entry");
    let entry = String::from_utf8_lossy(entry.get(..length).unwrap_or_default()).into_owned();
    let record = "\nMESSAGE={\"time\":";
    assert!(
        entry.starts_with("SYSLOG_IDENTIFIER=exeat\n") && entry.contains(record) && entry.contains("protected-range"),
        "{entry}"
    );
}
