//! A file of the audit record: opened anew where somebody else puts it aside, or put aside by itself when it is full.
//!
//! It takes whole lines, so that none begins in one file and ends in another, and its size counts bytes of lines.
//!
//! - `INVARIANT`: no record is given up for the bound on a file's size: a file that cannot be put aside grows.
//! - `INVARIANT`: after a write that failed the file ends with a whole line.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// When a file is put aside and another begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes that it may have.
    pub bytes: u64,
    /// Files that are kept beside the one that is written; the oldest goes.
    pub keep: u32,
}

/// See the module's doc. Clones are the same file.
#[derive(Clone)]
pub struct AuditFile(Arc<Mutex<Open>>);

struct Open {
    path: PathBuf,
    rotate: Option<Rotation>,
    /// Tells the operator what does not stop the record.
    tell: fn(&str),
    file: File,
    size: u64,
    /// It is full, could not be put aside, and that was told.
    is_overdue: bool,
}

impl AuditFile {
    /// The end of the file at a path, made where there is none; whoever is not its owner or of its group may not read
    /// it. What does not stop the record is told with `tell`.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, rotate: Option<Rotation>, tell: fn(&str)) -> io::Result<Self> {
        let (file, size) = append(path)?;
        let path = path.to_owned();
        Ok(Self(Arc::new(Mutex::new(Open { path, rotate, tell, file, size, is_overdue: false }))))
    }

    /// What is recorded from now on goes to what stands at the path now.
    ///
    /// # Errors
    /// It cannot be opened; the old one stays.
    pub fn reopen(&self) -> io::Result<()> {
        let mut open = self.lock();
        (open.file, open.size) = append(&open.path)?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for AuditFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.lock().write(lines).map(|()| lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().file.flush()
    }
}

impl Open {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(Rotation { bytes, keep }) = self.rotate else { return self.append(lines) };
        let mut rest = lines;
        while !rest.is_empty() {
            let mut now = fitting(rest, bytes.saturating_sub(self.size));
            if now == 0 {
                if self.size > 0 && self.put_aside(keep) {
                    continue;
                }
                // A line that fits into no file has one of its own.
                now = line(rest);
            }
            let (head, tail) = rest.split_at(now);
            self.append(head)?;
            rest = tail;
        }
        Ok(())
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(lines);
        match &written {
            Ok(()) => self.size = self.size.saturating_add(u64::try_from(lines.len()).unwrap_or(u64::MAX)),
            // Half a line is taken back, if the disk lets us.
            Err(_) => drop(self.file.set_len(self.size)),
        }
        written
    }

    /// Whether there is an empty file now.
    fn put_aside(&mut self, keep: u32) -> bool {
        let made = shift(&self.path, keep).and_then(|()| append(&self.path));
        match made {
            Ok((file, size)) => {
                (self.file, self.size, self.is_overdue) = (file, size, false);
                size == 0
            }
            Err(error) => {
                if !self.is_overdue {
                    let path = self.path.display();
                    (self.tell)(&format!(
                        "the audit file {path} is full, and cannot be put aside, so it grows: {error}"
                    ));
                    self.is_overdue = true;
                }
                false
            }
        }
    }
}

/// `FILE` becomes `FILE.1`, `FILE.1` becomes `FILE.2`, and so on; of these, `keep` are left.
fn shift(path: &Path, keep: u32) -> io::Result<()> {
    if keep == 0 {
        return fs::remove_file(path);
    }
    for number in (1..keep).rev() {
        match fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, numbered(path, 1))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = File::options().create(true).append(true).mode(0o640).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// Bytes of the lines at the beginning that have room together.
fn fitting(lines: &[u8], room: u64) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(lines.len());
    let (head, _) = lines.split_at(room);
    head.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

/// Bytes of the first line.
fn line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(_: &str) {}

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let mut file = AuditFile::open(&path, Some(Rotation { bytes: 8, keep: 2 }), silent).unwrap();
        // Lines of four bytes, many at once and one by one; one that is longer than a file.
        file.write_all(b"a01\na02\na03\n").unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        assert_eq!((read("audit"), read("audit.1")), ("a03\n".into(), "a01\na02\n".into()));
        for line in ["a04\n", "a05\n", "longer than a file\n", "a06\n"] {
            file.write_all(line.as_bytes()).unwrap();
        }
        let found = ["audit", "audit.1", "audit.2", "audit.3"].map(read);
        assert_eq!(found, ["a06\n", "longer than a file\n", "a05\n", ""]);
        // What was there before counts.
        let mut again = AuditFile::open(&path, Some(Rotation { bytes: 8, keep: 0 }), silent).unwrap();
        again.write_all(b"a07\na08\n").unwrap();
        assert_eq!([read("audit"), read("audit.1")], ["a08\n", "longer than a file\n"]);
    }

    #[test]
    fn a_file_that_was_put_aside_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("audit"), folder.path().join("aside"));
        let mut file = AuditFile::open(&path, None, silent).unwrap();
        file.write_all(b"one\n").unwrap();
        fs::rename(&path, &aside).unwrap();
        file.write_all(b"two\n").unwrap();
        file.reopen().unwrap();
        file.write_all(b"three\n").unwrap();
        assert_eq!(fs::read_to_string(&aside).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn what_cannot_be_put_aside_grows_and_that_is_told_once() {
        static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        fn tell(text: &str) {
            TOLD.lock().unwrap().push(text.to_owned());
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        // A folder stands where the file is to go.
        fs::create_dir_all(folder.path().join("audit.1/full")).unwrap();
        let mut file = AuditFile::open(&path, Some(Rotation { bytes: 4, keep: 1 }), tell).unwrap();
        file.write_all(b"a01\na02\na03\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a01\na02\na03\n");
        let told = TOLD.lock().unwrap();
        assert!(told.len() == 1 && told[0].contains("cannot be put aside"), "{told:?}");
    }
}
