//! `ssh` against `sshd`, both as they are packaged, at a name with an `opaque` rule: the server speaks first, and no
//! name is in what the client says.

use std::path::Path;
use std::process::Command;

use crate::support::exeat::{Identity, is_root};
use crate::support::skipped;
use crate::support::world::{OPAQUE, Server, World};

const SERVER: &str = "/usr/sbin/sshd";
const SCRIPT: &str = "cd $(mktemp -d); umask 077; echo \"$RIG_KNOWN\" > known; echo \"$RIG_KEY\" > key
ask() { ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=known -o ConnectTimeout=20 \\
    -i key -p 2222 \"$@\"; }
for attempt in $(seq 20); do ask root@ssh.rig echo hello from inside && break; sleep 0.2; done
head -c 3000000 /dev/zero | ask root@ssh.rig wc -c
ask -o HostKeyAlias=ssh.rig root@other.rig true 2> /dev/null; echo other $?";

/// At `ssh.rig:2222`, for whoever has the client's key; and what the client needs to know.
fn serve(world: &World) -> (Server, [String; 2]) {
    let folder = world.folder().join("ssh");
    std::fs::create_dir_all(&folder).expect("a folder");
    let at = |name: &str| folder.join(name).display().to_string();
    for key in ["host", "client"] {
        world.command(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &at(key)]);
    }
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a file");
    // The folder is in a place that all may write to, which sshd does not like of a file of keys.
    let settings = format!(
        "Port 2222\nListenAddress {OPAQUE}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
         PidFile none\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n",
        at("host"),
        at("client.pub"),
    );
    std::fs::write(folder.join("settings"), settings).expect("a file");
    // Where it gives up its privileges, wherever it is told to run.
    std::fs::create_dir_all("/run/sshd").expect("a folder");
    let server = world.serve(&[SERVER, "-D", "-e", "-f", &at("settings")]);
    (server, [format!("[ssh.rig]:2222 {}", read("host.pub")), read("client")])
}

#[test]
fn ssh_reaches_a_name_with_an_opaque_rule_and_no_other() {
    if !is_root() {
        return skipped("ssh: the wide world takes root");
    }
    if !Path::new(SERVER).exists() || Command::new("ssh").arg("-V").output().is_err() {
        return skipped("ssh: ssh or sshd is not installed");
    }
    // The rig's ordinary user has no name, and ssh wants one.
    let world = World::wide(Identity::Root);
    let wide = world.wide.as_ref().expect("the wide world");
    wide.names.set("ssh.rig", &[OPAQUE.parse().expect("an address")]);
    wide.names.set("other.rig", &[world.evil.address.into()]);
    let (_server, [known, key]) = serve(&world);
    let policy = "version: 1\nallow:\n  ssh.rig: [{ opaque: { ports: [2222] } }]\n  other.rig: []\n";
    let outcome = world.run().policy(policy).env("RIG_KNOWN", &known).env("RIG_KEY", &key).bash(SCRIPT).succeeded();
    assert_eq!(outcome.stdout, "hello from inside\n3000000\nother 255\n", "{outcome:#?}");
    outcome.assert_allowed(&[("address", OPAQUE), ("port", "2222")]);
    outcome.assert_denied("no-name", &[("port", "2222")]);
    world.evil.assert_untouched();
}
