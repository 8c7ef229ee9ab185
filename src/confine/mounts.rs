//! The sandbox's view of the file system, made inside its own mount namespace.
//!
//! Nothing is written on the host: what is put in lies on a tmpfs that goes with the namespace, and is bound over the
//! paths where programs look. Whatever cannot be done ends the sandbox before it began.

use std::ffi::CString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};

use super::DIRECTORY;
use super::aliases::Mounts;
use crate::sys;

/// What to make.
#[derive(Debug)]
pub struct View {
    /// The user's id, for the runtime directory.
    pub user: u32,
    /// Files of ours.
    pub overlays: Vec<Overlay>,
    /// Paths to hide: a directory looks empty, anything else is an empty file.
    pub masks: Vec<PathBuf>,
    /// Paths to keep although they lie below something that is hidden.
    pub kept: Vec<PathBuf>,
}

/// A file of ours, and where it is seen.
#[derive(Debug)]
pub struct Overlay {
    /// Its name below [`DIRECTORY`].
    pub name: String,
    /// Its content, from the start.
    pub content: OwnedFd,
    /// The paths it is bound over; those that are not there are passed over.
    pub over: Vec<PathBuf>,
}

/// What could not be made.
#[derive(Debug)]
pub struct MountError {
    /// What was being done, with the path.
    pub what: String,
    /// The kernel's answer.
    pub source: io::Error,
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.what)
    }
}

impl std::error::Error for MountError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

type Made<T = ()> = Result<T, MountError>;

/// Directories of `/run` that hold programs and drivers on some systems, and no socket.
const RUN_KEPT: [&str; 3] = ["/run/current-system", "/run/booted-system", "/run/opengl-driver"];

/// Directories that get a file system of the sandbox's own.
const REPLACED: [&str; 3] = ["/run", "/var/run", "/dev/shm"];

/// What stays writable to nobody below the sandbox's own `/proc`.
const PROC_READ_ONLY: [&str; 6] =
    ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi"];

/// Makes the view. The caller has a mount namespace of its own, and rights over it; its working directory must be
/// looked up again afterwards, for the old one still leads to what is hidden.
///
/// # Errors
/// The first thing that could not be made.
pub fn make(view: &View) -> Made {
    // Nothing that is mounted later on the host appears inside, and nothing of ours appears there.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(failed("make the mounts private"))?;
    let hidden = everywhere(&view.masks)?;
    let kept = hold(&view.kept)?;
    let programs = hold(&RUN_KEPT.map(PathBuf::from))?;
    private_run(view.user)?;
    private_devices()?;
    private_proc()?;
    read_only(Path::new("/sys"))?;
    view.overlays.iter().try_for_each(put_over)?;
    let masked = hide(&hidden)?;
    kept.iter().chain(&programs).try_for_each(bring_back)?;
    masked.iter().try_for_each(|path| read_only(path))?;
    bind(Path::new(DIRECTORY), Path::new(DIRECTORY))?;
    read_only(Path::new(DIRECTORY))
}

/// A path held open from before it was hidden.
struct Held {
    path: PathBuf,
    directory: bool,
    handle: File,
}

fn hold(paths: &[PathBuf]) -> Made<Vec<Held>> {
    let mut held = Vec::new();
    for path in paths {
        match OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(path) {
            Ok(handle) => {
                let directory = handle.metadata().map_err(failed_at("look at", path))?.is_dir();
                held.push(Held { path: path.clone(), directory, handle });
            }
            Err(error) if unreachable(&error) => {}
            Err(error) => return Err(failed_at("open", path)(error)),
        }
    }
    Ok(held)
}

fn bring_back(held: &Held) -> Made {
    mount_point(&held.path, held.directory)?;
    bind(Path::new(&format!("/proc/self/fd/{}", held.handle.as_raw_fd())), &held.path)
}

fn private_run(user: u32) -> Made {
    tmpfs("/run", "mode=0755,size=64m")?;
    let var_run = Path::new("/var/run");
    if var_run.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        bind(Path::new("/run"), var_run)?;
    }
    directory("/run/lock", 0o1777)?;
    directory("/run/user", 0o755)?;
    directory(&format!("/run/user/{user}"), 0o700)?;
    directory(DIRECTORY, 0o755)
}

fn private_devices() -> Made {
    tmpfs("/dev/shm", "mode=1777")?;
    let harmless = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), "/dev/pts", Some("devpts"), harmless, Some("newinstance,ptmxmode=0666,mode=0620"))
        .map_err(failed("mount /dev/pts"))?;
    let multiplexer = Path::new("/dev/ptmx");
    if multiplexer.symlink_metadata().is_ok_and(|found| found.file_type().is_char_device()) {
        bind(Path::new("/dev/pts/ptmx"), multiplexer)?;
    }
    if Path::new("/dev/mqueue").is_dir() {
        mount(Some("mqueue"), "/dev/mqueue", Some("mqueue"), harmless | MsFlags::MS_NODEV, None::<&str>)
            .map_err(failed("mount /dev/mqueue"))?;
    }
    Ok(())
}

fn private_proc() -> Made {
    let harmless = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), harmless, None::<&str>).map_err(failed("mount /proc"))?;
    for path in PROC_READ_ONLY.map(Path::new) {
        if path.exists() {
            bind(path, path)?;
            read_only(path)?;
        }
    }
    Ok(())
}

fn put_over(overlay: &Overlay) -> Made {
    let path = Path::new(DIRECTORY).join(&overlay.name);
    let mut content = File::from(overlay.content.try_clone().map_err(failed_at("read", &path))?);
    let mut file = File::create(&path).map_err(failed_at("create", &path))?;
    io::copy(&mut content, &mut file).map_err(failed_at("write", &path))?;
    for over in &overlay.over {
        if over.starts_with("/run") {
            mount_point(over, false)?;
        }
        match over.metadata() {
            Ok(_) => bind(&path, over).and_then(|()| read_only(over))?,
            Err(error) if unreachable(&error) => {}
            Err(error) => return Err(failed_at("look at", over)(error)),
        }
    }
    Ok(())
}

/// The paths to hide, and the other paths by which they or what we replace ([`REPLACED`]) can be reached.
fn everywhere(masks: &[PathBuf]) -> Made<Vec<PathBuf>> {
    let mounts = Mounts::read().map_err(failed("read /proc/self/mountinfo"))?;
    let mut all = masks.to_vec();
    for path in masks.iter().map(PathBuf::as_path).chain(REPLACED.map(Path::new)) {
        all.extend(mounts.aliases(path).map_err(failed_at("look at", path))?);
    }
    all.retain(|path| !REPLACED.iter().any(|replaced| path == Path::new(replaced)));
    all.sort();
    all.dedup();
    Ok(all)
}

/// Hides paths; returns those that were there, still writable, so that what is kept below them can be brought back.
fn hide(paths: &[PathBuf]) -> Made<Vec<PathBuf>> {
    let nothing = Path::new(DIRECTORY).join("nothing");
    File::create(&nothing).map_err(failed_at("create", &nothing))?;
    let mut hidden = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        let found = match path.metadata() {
            Ok(found) => found,
            // The sandbox's user cannot get there, either.
            Err(error) if unreachable(&error) => continue,
            Err(error) => return Err(failed_at("look at", path)(error)),
        };
        if found.is_dir() {
            let empty = Path::new(DIRECTORY).join(format!("empty-{number}"));
            fs::create_dir(&empty).map_err(failed_at("create", &empty))?;
            bind(&empty, path)?;
        } else {
            bind(&nothing, path)?;
        }
        hidden.push(path.clone());
    }
    Ok(hidden)
}

/// Makes sure that there is something to mount on, where the path lies in what we made.
fn mount_point(path: &Path, as_directory: bool) -> Made {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let parent = if as_directory { Some(path) } else { path.parent() };
    if let Some(parent) = parent {
        fs::create_dir_all(parent).map_err(failed_at("create", parent))?;
    }
    if !as_directory {
        File::create(path).map_err(failed_at("create", path))?;
    }
    Ok(())
}

fn directory(path: &str, mode: u32) -> Made {
    let path = Path::new(path);
    fs::DirBuilder::new().mode(mode).create(path).map_err(failed_at("create", path))?;
    // The mode as asked for, whatever the caller's umask is.
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode);
    fs::set_permissions(path, mode).map_err(failed_at("set the mode of", path))
}

fn tmpfs(path: &str, options: &str) -> Made {
    let harmless = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), harmless, Some(options))
        .map_err(failed_at("mount a tmpfs on", Path::new(path)))
}

fn bind(from: &Path, over: &Path) -> Made {
    mount(Some(from), over, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(failed_at("mount over", over))
}

fn read_only(path: &Path) -> Made {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed_at("name", path)(error))?;
    sys::make_read_only(&name).map_err(failed_at("make read-only", path))
}

/// Whether a path is not there, or not for this user to reach: then it need not be hidden.
fn unreachable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory)
}

fn failed<E: Into<io::Error>>(what: &str) -> impl FnOnce(E) -> MountError + use<E> {
    let what = what.to_owned();
    move |error| MountError { what, source: error.into() }
}

fn failed_at<E: Into<io::Error>>(what: &str, path: &Path) -> impl FnOnce(E) -> MountError + use<E> {
    failed(&format!("{what} {}", path.display()))
}
