//! Sockets with a path: whoever may write to the control socket commands the daemon.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::config::Control;

/// Listens at the control socket's path, in place of the socket of a daemon that is gone. Nobody can connect before its
/// owner and permissions are what the settings say.
///
/// # Errors
/// Something else stands there, or the kernel's.
pub(super) fn listen(control: &Control) -> io::Result<UnixListener> {
    let Control { socket, mode, owner, tcp: _, cleartext: _ } = control;
    listen_at(socket, *mode, *owner)
}

/// Gives the control socket that stands there already the owner and permissions that the settings say.
///
/// # Errors
/// The kernel's.
pub(super) fn own(control: &Control) -> io::Result<()> {
    let Control { socket, mode, owner, tcp: _, cleartext: _ } = control;
    permit(socket, *mode, *owner)
}

/// Listens at a path, in place of a socket that stands there.
///
/// # Errors
/// Something else stands there, or the kernel's.
pub(super) fn listen_at(socket: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<UnixListener> {
    if let Some(folder) = socket.parent().filter(|folder| !folder.exists()) {
        DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    match fs::symlink_metadata(socket) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(io::Error::new(ErrorKind::AlreadyExists, "what stands at its path is no socket")),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // A folder of our own hides it until it is ready.
    let hidden = hidden_folder(socket)?;
    let made = make(&hidden.join("socket"), mode, owner).and_then(|listener| {
        fs::rename(hidden.join("socket"), socket)?;
        Ok(listener)
    });
    fs::remove_dir(&hidden)?;
    made
}

fn hidden_folder(socket: &Path) -> io::Result<std::path::PathBuf> {
    let hidden = socket.with_extension("new");
    if hidden.exists() {
        // A daemon ended between two lines of `listen`.
        fs::remove_dir_all(&hidden)?;
    }
    DirBuilder::new().mode(0o700).create(&hidden)?;
    Ok(hidden)
}

fn make(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    permit(path, mode, owner)?;
    Ok(listener)
}

fn permit(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    if let Some((user, group)) = owner {
        chown(path, Some(user), Some(group))?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}
