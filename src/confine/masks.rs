//! What of the host's file system a sandbox does not get to see.
//!
//! exeat confines the network, not the disk; but a Unix socket walks past any IP firewall, and a credential that
//! lies in a file would leave with the first allowed request. So every socket that is bound when the sandbox starts
//! is masked, and so are the places where credentials are known to lie ([`CREDENTIALS`]).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Where credentials are known to lie, below a home directory. `--expose PATH` keeps one.
pub const CREDENTIALS: [&str; 42] = [
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".boto",
    ".s3cfg",
    ".config/gcloud",
    ".config/doctl",
    ".config/hcloud",
    ".config/rclone",
    ".kube",
    ".docker/config.json",
    ".config/containers/auth.json",
    ".netrc",
    "_netrc",
    ".authinfo",
    ".git-credentials",
    ".config/git/credentials",
    ".config/gh",
    ".config/hub",
    ".config/glab-cli",
    ".npmrc",
    ".yarnrc.yml",
    ".pypirc",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".gem/credentials",
    ".m2/settings-security.xml",
    ".m2/settings.xml",
    ".terraform.d/credentials.tfrc.json",
    ".vault-token",
    ".pgpass",
    ".my.cnf",
    ".password-store",
    ".local/share/keyrings",
    ".config/op",
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".gemini/oauth_creds.json",
    ".mozilla",
    ".config/google-chrome",
    ".config/chromium",
];

/// Directories that hold nothing but sockets: masked whole, so that one bound later is not reachable, either.
const SOCKET_DIRECTORIES: [&str; 3] = ["/tmp/.X11-unix", "/tmp/.ICE-unix", "/tmp/.font-unix"];

/// How the names begin of device nodes that reach a network, a virtual machine, or a keyboard without any socket:
/// serial lines and modems, consoles, VSOCK by vhost, InfiniBand, synthetic input. `/dev/tty` itself stays.
const DEVICES: [&str; 13] = [
    "cdc-wdm",
    "hidraw",
    "infiniband",
    "input",
    "ppp",
    "rfcomm",
    "tty",
    "uhid",
    "uinput",
    "vcs",
    "vhost-",
    "vsock",
    "wwan",
];

/// The credential places below `homes` that are there, but for those that lie at or below an exposed path.
#[must_use]
pub fn credentials(homes: &[PathBuf], exposed: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<_> = homes
        .iter()
        .flat_map(|home| CREDENTIALS.iter().map(move |below| home.join(below)))
        .filter(|path| path.symlink_metadata().is_ok())
        .filter(|path| !exposed.iter().any(|exposed| path.starts_with(exposed)))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Every path that a Unix socket is bound to, as `/proc/net/unix` tells it now for the host's network namespace and for
/// those of all processes that we may ask, and the directories of sockets; without `shared`. A path that was bound
/// relative to a working directory is looked for in those of the same processes.
///
/// # Errors
/// When `/proc` or its table of sockets cannot be read: what is not known cannot be masked.
pub fn sockets(user: u32, shared: &[PathBuf]) -> std::io::Result<Vec<PathBuf>> {
    let mut bound = bound_paths(&std::fs::read("/proc/net/unix")?);
    bound.extend(other_namespaces()?.iter().flat_map(|table| bound_paths(table)));
    let (mut paths, relative): (Vec<_>, Vec<_>) = bound.into_iter().partition(|path| path.is_absolute());
    if !relative.is_empty() {
        let directories = working_directories()?;
        paths.extend(directories.iter().flat_map(|directory| relative.iter().map(|path| directory.join(path))));
    }
    paths.retain(|path| path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket()));
    let multiplexer = PathBuf::from(format!("/tmp/tmux-{user}"));
    let directories = SOCKET_DIRECTORIES.iter().map(PathBuf::from).chain([multiplexer]);
    paths.extend(directories.filter(|path| path.is_dir()));
    paths.retain(|path| !shared.contains(path));
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// Device nodes that lead past the firewall, and that `reachable` says the sandbox's user may open; without `shared`.
///
/// # Errors
/// When `/dev` cannot be read.
pub fn devices(reachable: impl Fn(&Path) -> bool, shared: &[PathBuf]) -> std::io::Result<Vec<PathBuf>> {
    let leads_out = |name: &OsStr| {
        let name = name.as_bytes();
        name != b"tty" && DEVICES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
    };
    let entries = std::fs::read_dir("/dev")?.flatten().filter(|entry| leads_out(&entry.file_name()));
    Ok(entries.map(|entry| entry.path()).filter(|path| reachable(path) && !shared.contains(path)).collect())
}

/// The tables of sockets of the other network namespaces that processes we may ask live in, each once.
fn other_namespaces() -> std::io::Result<Vec<Vec<u8>>> {
    let own = std::fs::read_link("/proc/self/ns/net")?;
    let mut seen = BTreeSet::from([own]);
    let processes = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    // What is no process, ended meanwhile, or is another user's, has nothing to tell.
    let others = processes.filter(|process| process.join("ns/net").read_link().is_ok_and(|net| seen.insert(net)));
    Ok(others.filter_map(|process| std::fs::read(process.join("net/unix")).ok()).collect())
}

/// The working directories of the processes that we may ask for theirs.
fn working_directories() -> std::io::Result<BTreeSet<PathBuf>> {
    // What is no process, ended meanwhile, or is another user's, has none to tell.
    Ok(std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.path().join("cwd").read_link().ok()).collect())
}

/// The paths in a table of `/proc/net/unix`: the eighth column, which may hold spaces. Abstract names begin with `@`.
fn bound_paths(table: &[u8]) -> Vec<PathBuf> {
    const COLUMNS_BEFORE: usize = 7;
    let path = |line: &[u8]| -> Option<PathBuf> {
        let mut rest = line;
        for _ in 0..COLUMNS_BEFORE {
            let start = rest.iter().position(|&byte| byte != b' ')?;
            rest = rest.get(start..)?;
            let end = rest.iter().position(|&byte| byte == b' ')?;
            rest = rest.get(end..)?;
        }
        let path = rest.get(1..)?;
        (!path.is_empty() && !path.starts_with(b"@")).then(|| Path::new(OsStr::from_bytes(path)).to_path_buf())
    };
    table.split(|&byte| byte == b'\n').skip(1).filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_paths_are_all_but_the_abstract_names_spaces_included() {
        let table = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 17001 /run/docker.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 17002\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 17003 @abstract\n\
            0000000000000000: 00000002 00000000 00010000 0005 01 7 /tmp/with a space/s\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 17004 relative.sock\n";
        let expected = ["/run/docker.sock", "/tmp/with a space/s", "relative.sock"].map(PathBuf::from);
        assert_eq!(bound_paths(table), expected);
    }

    #[test]
    fn a_socket_bound_now_is_found_unless_it_is_shared() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let _bound = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(sockets(0, &[]).unwrap().contains(&path));
        assert!(!sockets(0, std::slice::from_ref(&path)).unwrap().contains(&path));
    }

    #[test]
    fn an_exposed_directory_keeps_what_is_below_it() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".config/gh")).unwrap();
        std::fs::create_dir_all(home.path().join(".ssh")).unwrap();
        let homes = [home.path().to_path_buf()];
        assert_eq!(credentials(&homes, &[]), [home.path().join(".config/gh"), home.path().join(".ssh")]);
        assert_eq!(credentials(&homes, &[home.path().join(".config")]), [home.path().join(".ssh")]);
    }
}
