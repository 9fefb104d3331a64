//! Private directories, files and locks on the local disk, with errors that name the path and what to do.

use crate::base::error::{Error, ErrorKind, Result};
use crate::rt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// How long a lock that is only ever held for a moment is waited for: 600 times 50 ms.
const LOCK_TRIES: u32 = 600;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The failure of `what` ("cannot create") on `path`, with advice where there is some. The errno stays what it was.
pub(super) fn failed(error: &io::Error, what: &str, path: &Path) -> Error {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let advice = match errno {
        libc::ENOSPC | libc::EDQUOT => {
            "; free some space there, or put the state directory on another disk with --state-dir"
        }
        libc::EACCES | libc::EPERM | libc::EROFS => {
            "; choose a state directory that you may write to with --state-dir"
        }
        libc::ENOTDIR | libc::EEXIST => "; choose another state directory with --state-dir",
        _ => "",
    };
    Error::new(
        ErrorKind::LocalIo(errno),
        format!("{what} {}: {error}{advice}", path.display()),
    )
}

/// A flock that ends with this value, and at the latest with this process.
pub(super) struct Lock {
    file: File,
    owner_pid: u32,
}

impl Drop for Lock {
    /// Unlocks by name: a child that was just forked elsewhere in this process, and has yet to exec, has the file open as well.
    /// The copy in such a child must not: the lock is its parent's (flock(2)).
    fn drop(&mut self) {
        if self.owner_pid == std::process::id() {
            // If it fails, closing the file unlocks.
            let _ = self.file.unlock();
        }
    }
}

/// Makes `path` and what is missing above it, for this user only. What is there already stays as it is.
pub(super) fn create_private_dirs(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| failed(&error, "cannot create the directory", path))
}

/// Makes the one directory `path`, which must not exist.
pub(super) fn create_private_dir(path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(|error| failed(&error, "cannot create the directory", path))
}

/// A new file for this user only; fails with `EEXIST` when there is one.
pub(super) fn create_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// A new file with this content, on disk when this returns (its name is not: [`sync_dir`]). No half of it is left behind
/// by a failure.
pub(super) fn write_private_file(path: &Path, content: &[u8]) -> Result<()> {
    let written = create_private_file(path).and_then(|mut file| {
        file.write_all(content)
            .and_then(|()| file.sync_all())
            .inspect_err(|_| {
                // Whatever this says, the first failure is the one to report.
                let _ = std::fs::remove_file(path);
            })
    });
    written.map_err(|error| failed(&error, "cannot write", path))
}

/// Puts the names in `path` on disk.
pub(super) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| failed(&error, "cannot write to disk the directory", path))
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to)
        .map_err(|error| failed(&error, &format!("cannot move {} to", from.display()), to))
}

/// Removes a file; it is no failure when it is gone already.
pub(super) fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&error, "cannot remove", path)),
        _ => Ok(()),
    }
}

/// The names in a directory, sorted; none when it does not exist. Names that are not UTF-8 are none of ours.
pub(super) fn names_in(path: &Path) -> Result<Vec<String>> {
    let cannot = |error: io::Error| failed(&error, "cannot list", path);
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(cannot)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(cannot)?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Opens the lock file `path` (made when absent) and takes its flock; `None` when somebody alive has it.
pub(super) fn try_lock(path: &Path) -> Result<Option<Lock>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| failed(&error, "cannot open the lock", path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock {
            file,
            owner_pid: std::process::id(),
        })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(&error, "cannot lock", path)),
    }
}

/// Like [`try_lock`], and waits. `Busy` when somebody holds the lock for half a minute.
pub(super) fn lock(path: &Path) -> Result<Lock> {
    for _ in 0..LOCK_TRIES {
        if let Some(file) = try_lock(path)? {
            return Ok(file);
        }
        rt::sleep_blocking(LOCK_PAUSE);
    }
    Err(Error::new(
        ErrorKind::Busy,
        format!(
            "another pailfs process holds {} and does not go on: look for a stopped one",
            path.display()
        ),
    ))
}

/// Bytes that this user may still write on the file system of `path` (statvfs(3): `f_bavail * f_frsize`).
pub(super) fn free_bytes(path: &Path) -> Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let cannot = |error: io::Error| failed(&error, "cannot ask for free space at", path);
    let c_path = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|error| cannot(error.into()))?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path is NUL-terminated and `stat` is valid for writes of its type.
    if unsafe { libc::statvfs(c_path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(cannot(io::Error::last_os_error()));
    }
    // SAFETY: zeroed is a valid value of this plain C struct, and the call has filled it in.
    let stat = unsafe { stat.assume_init() };
    #[allow(clippy::useless_conversion)] // The width of these fields depends on the C library.
    Ok(u64::from(stat.f_bavail).saturating_mul(u64::from(stat.f_frsize)))
}
