//! The other paths by which a file can be reached, where its file system is mounted more than once.
//!
//! A mask hides one path of one mount. Where the same tree is bound elsewhere, too (`/home` and `/var/home` of one
//! volume, a container's volume, the top of a file system beside its subvolumes), the file still stands there.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// The mounts of the caller's namespace, as they were when it was read.
#[derive(Debug)]
pub(super) struct Mounts(Vec<Mount>);

/// One line of `mountinfo` (`proc_pid_mountinfo(5)`).
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    device: Vec<u8>,
    /// Which directory of its file system is mounted.
    root: PathBuf,
    /// Where.
    point: PathBuf,
}

impl Mounts {
    /// Reads them.
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read("/proc/self/mountinfo")?))
    }

    fn parse(table: &[u8]) -> Self {
        let mount = |line: &[u8]| {
            let mut columns = line.split(|&byte| byte == b' ');
            let id = std::str::from_utf8(columns.next()?).ok()?.parse().ok()?;
            let device = columns.nth(1)?.to_vec();
            Some(Mount { id, device, root: plain(columns.next()?), point: plain(columns.next()?) })
        };
        Self(table.split(|&byte| byte == b'\n').filter_map(mount).collect())
    }

    /// The other paths that lead to what `path` leads to. What is not there has none.
    pub(super) fn aliases(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(path);
        let Ok(file) = opened else { return Ok(Vec::new()) };
        let found = file.metadata()?;
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let facts = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
        let id = facts.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        let same = |alias: &PathBuf| {
            alias.metadata().is_ok_and(|other| (other.dev(), other.ino()) == (found.dev(), found.ino()))
        };
        Ok(id.map(|id| self.candidates(id, &path)).unwrap_or_default().into_iter().filter(same).collect())
    }

    /// Where else `path`, on the mount of this id, would be seen if no mount hid another.
    fn candidates(&self, id: u64, path: &Path) -> Vec<PathBuf> {
        let Some(own) = self.0.iter().find(|mount| mount.id == id) else { return Vec::new() };
        let Ok(below) = path.strip_prefix(&own.point) else { return Vec::new() };
        let within = own.root.join(below);
        let others = self.0.iter().filter(|other| other.device == own.device && other.id != id);
        others.filter_map(|other| Some(other.point.join(within.strip_prefix(&other.root).ok()?))).collect()
    }
}

/// A path of `mountinfo`, its escapes (`\040` for a space) undone.
fn plain(escaped: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| byte == b'\\') {
            Some(code) => {
                plain.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"20 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        21 20 254:0 /home/dev /srv/with\\040a\\040space rw - ext4 /dev/vda rw\n\
        22 20 0:5 / /dev rw - devtmpfs devtmpfs rw\n\
        23 20 254:0 /other /mnt rw - ext4 /dev/vda rw\n";

    #[test]
    fn a_path_is_seen_wherever_its_tree_is_mounted() {
        let mounts = Mounts::parse(TABLE);
        assert_eq!(mounts.candidates(20, Path::new("/home/dev/.ssh")), [PathBuf::from("/srv/with a space/.ssh")]);
        assert_eq!(mounts.candidates(21, Path::new("/srv/with a space/.ssh")), [PathBuf::from("/home/dev/.ssh")]);
        assert!(mounts.candidates(20, Path::new("/home/other/.ssh")).is_empty());
        assert!(mounts.candidates(22, Path::new("/dev/null")).is_empty());
    }

    #[test]
    fn what_is_not_there_or_mounted_once_has_no_alias() {
        let mounts = Mounts::read().unwrap();
        assert!(mounts.aliases(Path::new("/not/there")).unwrap().is_empty());
        assert!(!mounts.aliases(Path::new("/proc/self/status")).unwrap().contains(&"/proc/self/status".into()));
    }
}
