//! The journal of the service manager: each line one entry, over its native protocol
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

/// Where it listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// Takes whole lines.
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// The journal that listens at a path.
    ///
    /// # Errors
    /// Nobody does, or no socket is to be had.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !fs::metadata(path)?.file_type().is_socket() {
            return Err(io::Error::new(ErrorKind::NotFound, format!("no journal listens at {}", path.display())));
        }
        Ok(Self { socket: UnixDatagram::unbound()?, path: path.to_owned() })
    }

    fn send(&self, line: &[u8]) -> io::Result<()> {
        // A line holds no line's end, so the short form of a field will do.
        let entry = [b"SYSLOG_IDENTIFIER=exeat\nPRIORITY=6\nMESSAGE=".as_slice(), line, b"\n"].concat();
        match self.socket.send_to(&entry, &self.path) {
            Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => self.send_apart(&entry),
            sent => sent.map(drop),
        }
    }

    /// An entry that no datagram holds goes as a file in memory that nobody can change any more.
    fn send_apart(&self, entry: &[u8]) -> io::Result<()> {
        let memory = memfd_create(c"entry", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC)?;
        let mut file = File::from(memory);
        file.write_all(entry)?;
        let all = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(all))?;
        let address = UnixAddr::new(&self.path)?;
        let descriptors = [file.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let nothing: [IoSlice<'_>; 0] = [];
        sendmsg(self.socket.as_raw_fd(), &nothing, &rights, MsgFlags::empty(), Some(&address))?;
        Ok(())
    }
}

impl Write for Journal {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).try_for_each(|line| self.send(line))?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Read, Seek};

    use nix::sys::socket::{ControlMessageOwned, recvmsg};

    use super::*;

    /// The file that came along with an empty datagram.
    fn received(server: &UnixDatagram) -> File {
        let (mut space, mut nothing) = (nix::cmsg_space!([std::os::fd::RawFd; 1]), [0; 1]);
        let mut nothing = [IoSliceMut::new(&mut nothing)];
        let message = recvmsg::<()>(server.as_raw_fd(), &mut nothing, Some(&mut space), MsgFlags::empty()).unwrap();
        assert_eq!(message.bytes, 0);
        let descriptors = message.cmsgs().unwrap().find_map(|message| match message {
            ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        File::from(crate::sys::adopt(&descriptors.unwrap()).pop().unwrap())
    }

    #[test]
    fn a_line_is_an_entry_however_long_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        assert!(Journal::open(&path).is_err());
        let server = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        journal.write_all(b"{\"a\":1}\n{\"b\":2}\n").unwrap();
        let mut entry = [0; 256];
        for line in ["{\"a\":1}", "{\"b\":2}"] {
            let length = server.recv(&mut entry).unwrap();
            let expected = format!("SYSLOG_IDENTIFIER=exeat\nPRIORITY=6\nMESSAGE={line}\n");
            assert_eq!(std::str::from_utf8(&entry[..length]), Ok(expected.as_str()));
        }
        let long = "x".repeat(4 << 20);
        journal.write_all(format!("{long}\n").as_bytes()).unwrap();
        let mut file = received(&server);
        assert!(file.write_all(b"y").is_err(), "it is sealed");
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert!(text.ends_with(&format!("MESSAGE={long}\n")));
    }
}
