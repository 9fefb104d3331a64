//! Mounting's preconditions and unmounting.
//!
//! Difficulties, and who solves each:
//! 1. A daemon that was killed leaves a mount that answers ENOTCONN to everything, and a new mount on the same path
//!    fails: [`prepare_mount_point`] finds and detaches it.
//! 2. `canonicalize` may fail on such a mount: [`real_path`] then resolves the parent only.
//! 3. Only root may call umount(2); others go through the set-user-id program fusermount3: [`unmount`].
//! 4. Detaching must hit one certain mount, though paths are all that the calls take: [`detach_exactly`] compares the
//!    mount table first. (Somebody may unmount and mount between look and call; the kernel has no call that excludes it.)

use crate::cli::failure::{Exit, Failure};
use crate::cli::system::mount_table::{self, Mount};
use crate::cli::system::users_of_mount;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How to take a mount away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Fails while somebody uses it.
    Plain,
    /// Takes it out of the tree at once; who uses it goes on using it.
    Detach,
}

/// What was found at the mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// Absolute, without symlinks, as the mount table shows it.
    pub path: PathBuf,
    /// For the log: things to know that are no errors.
    pub warnings: Vec<String>,
}

/// Makes sure that something can be mounted at `path`; detaches the dead mount of a killed daemon. `is_ours` tells whether
/// a live FUSE mount is one of pailfs (its type in the mount table does not, always).
///
/// # Errors
/// NotFound, Denied; Conflict when a live mount of ours is there; Usage when it is not a directory.
pub fn prepare_mount_point(path: &Path, is_ours: &dyn Fn(&Mount) -> bool) -> Result<MountPoint, Failure> {
    let named = |error: &io::Error| Failure::io(error, format_args!("mount point {}", path.display()));
    let mut warnings = Vec::new();
    let path_now = real_path(path).map_err(|error| named(&error))?;
    // A dead mount may lie on another dead one.
    while is_dead(&path_now) {
        detach(&path_now)?;
        warnings.push(format!(
            "detached the dead mount at {}: its daemon was killed",
            path_now.display()
        ));
    }
    let table = mount_table::read().map_err(|error| Failure::io(&error, "/proc/self/mountinfo"))?;
    if mount_table::topmost_at(&table, &path_now)
        .is_some_and(|mount| mount.is_fuse() && (mount.is_pailfs() || is_ours(mount)))
    {
        let message = format!(
            "{} is mounted already; pailfs unmount {0} first",
            path_now.display()
        );
        return Err(Failure::new(Exit::Conflict, message));
    }
    let seen = std::fs::metadata(&path_now).map_err(|error| named(&error))?;
    if !seen.is_dir() {
        return Err(Failure::usage(format!(
            "mount point {} is not a directory",
            path.display()
        )));
    }
    match std::fs::read_dir(&path_now).map(|mut entries| entries.next().is_some()) {
        Ok(true) => warnings.push(format!(
            "{} is not empty: the mount hides what is in it",
            path_now.display()
        )),
        Ok(false) => {}
        Err(error) => return Err(named(&error)),
    }
    Ok(MountPoint {
        path: path_now,
        warnings,
    })
}

/// `path` without symlinks, also when it is a dead mount or another user's.
///
/// # Errors
/// When it (or, for such a mount, its parent) cannot be resolved.
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    let unreachable = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::EACCES));
    match std::fs::canonicalize(path) {
        Err(error) if unreachable(&error) => match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => {
                let parent = if parent.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    parent
                };
                Ok(std::fs::canonicalize(parent)?.join(name))
            }
            _ => Err(error),
        },
        result => result,
    }
}

/// The FUSE mount that a path (absolute) is in, and the path within it. The kernel is not asked for it: what is there may not be
/// found, or only by asking the bucket.
///
/// # Errors
/// NotFound when it is in none.
pub fn of_path<'a>(table: &'a [Mount], path: &Path) -> Result<(&'a Mount, PathBuf), Failure> {
    let found = innermost(table, path).or_else(|| innermost(table, &real_path(path).ok()?));
    found.ok_or_else(|| {
        let message = format!("{} is not in a mount of pailfs", path.display());
        Failure::new(Exit::NotFound, message)
    })
}

fn innermost<'a>(table: &'a [Mount], path: &Path) -> Option<(&'a Mount, PathBuf)> {
    let mount = path
        .ancestors()
        .find_map(|ancestor| mount_table::topmost_at(table, ancestor))?;
    let below = path.strip_prefix(&mount.mount_point).ok()?;
    mount.is_fuse().then(|| (mount, below.to_owned()))
}

/// True for a FUSE mount whose daemon is gone.
#[must_use]
pub fn is_dead(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}

/// Detaches what is on top at `path`.
///
/// # Errors
/// As `unmount`.
pub fn detach(path: &Path) -> Result<(), Failure> {
    unmount(path, Way::Detach)
}

/// Detaches the mount `wanted` if it is still there and on top of its mount point; returns whether it did.
///
/// # Errors
/// As `unmount`; when /proc cannot be read.
pub fn detach_exactly(wanted: &Mount) -> Result<bool, Failure> {
    let table = mount_table::read().map_err(|error| Failure::io(&error, "/proc/self/mountinfo"))?;
    let same = |mount: &Mount| {
        (mount.mount_id, mount.major, mount.minor) == (wanted.mount_id, wanted.major, wanted.minor)
    };
    match mount_table::topmost_at(&table, &wanted.mount_point) {
        Some(mount) if same(mount) => detach(&wanted.mount_point).map(|()| true),
        _ => Ok(false),
    }
}

/// Unmounts what is on top at `path`: as root by umount2(2), else by fusermount3(1).
///
/// # Errors
/// Conflict while it is in use (only `Way::Plain`; the text names users); NotFound when nothing is mounted there;
/// Denied when it is somebody else's.
pub fn unmount(path: &Path, way: Way) -> Result<(), Failure> {
    // SAFETY: cannot fail, no preconditions.
    let result = if unsafe { libc::geteuid() } == 0 {
        unmount_as_root(path, way)
    } else {
        unmount_as_user(path, way)
    };
    result.map_err(|error| {
        let who = if error.raw_os_error() == Some(libc::EBUSY) {
            users_of_mount::describe(path)
        } else {
            String::new()
        };
        let mut failure = Failure::io(&error, format_args!("unmount {}", path.display()));
        if error.raw_os_error() == Some(libc::EINVAL) {
            failure = Failure::new(Exit::NotFound, format!("{} is not mounted", path.display()));
        }
        failure.message.push_str(&who);
        failure
    })
}

fn unmount_as_root(path: &Path, way: Way) -> io::Result<()> {
    let flags = libc::UMOUNT_NOFOLLOW | if way == Way::Detach { libc::MNT_DETACH } else { 0 };
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `path` is a NUL-terminated string that lives through the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn unmount_as_user(path: &Path, way: Way) -> io::Result<()> {
    let mut last = io::Error::new(
        io::ErrorKind::NotFound,
        "fusermount3 is not installed (package fuse3)",
    );
    for program in ["fusermount3", "fusermount"] {
        let mut command = Command::new(program);
        command
            .arg("-u")
            .args((way == Way::Detach).then_some("-z"))
            .arg("--")
            .arg(path)
            .env("LC_ALL", "C");
        match command.stdin(Stdio::null()).stdout(Stdio::null()).output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => return Err(fusermount_error(&String::from_utf8_lossy(&output.stderr))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// fusermount3 tells in words what happened.
fn fusermount_error(message: &str) -> io::Error {
    let message = message.trim();
    if message.contains("Device or resource busy") {
        io::Error::from_raw_os_error(libc::EBUSY)
    } else if message.contains("not found in") || message.contains("Invalid argument") {
        io::Error::from_raw_os_error(libc::EINVAL)
    } else if message.contains("Operation not permitted") || message.contains("Permission denied") {
        io::Error::new(io::ErrorKind::PermissionDenied, message)
    } else {
        io::Error::other(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_belongs_to_the_innermost_mount() {
        let mount = |mount_point: &str, fs_type: &str| Mount {
            mount_id: 1,
            major: 0,
            minor: 1,
            mount_point: mount_point.into(),
            fs_type: fs_type.into(),
            source: "s3://b".into(),
            user_id: None,
        };
        let table = [
            mount("/", "ext4"),
            mount("/m", "fuse.pailfs"),
            mount("/m/x", "tmpfs"),
        ];
        let below = |path: &str| of_path(&table, Path::new(path)).map(|(_, below)| below);
        assert_eq!(below("/m/a/b").ok(), Some("a/b".into()));
        assert_eq!(below("/m").ok(), Some("".into()));
        for path in ["/m/x/y", "/other"] {
            let failure = below(path).expect_err("in none");
            assert_eq!(failure.exit, Exit::NotFound);
            assert!(failure.message.contains(path), "{failure}");
        }
    }

    #[test]
    fn a_good_mount_point_is_resolved() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let real = base.path().canonicalize().expect("a path").join("real");
        std::fs::create_dir(&real).expect("made");
        std::os::unix::fs::symlink(&real, base.path().join("link")).expect("made");
        let found = prepare_mount_point(&base.path().join("link"), &|_| false).expect("usable");
        assert_eq!((found.path.as_path(), found.warnings.len()), (real.as_path(), 0));
        std::fs::write(real.join("file"), "").expect("written");
        let found = prepare_mount_point(&real, &|_| false).expect("usable");
        assert!(found.warnings[0].contains("not empty"), "{found:?}");
    }

    #[test]
    fn bad_mount_points_are_told_apart() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let missing = prepare_mount_point(&base.path().join("missing"), &|_| false).expect_err("is missing");
        assert_eq!(missing.exit, Exit::NotFound);
        assert!(missing.message.contains("missing: No such file"), "{missing}");
        std::fs::write(base.path().join("file"), "").expect("written");
        let file = prepare_mount_point(&base.path().join("file"), &|_| false).expect_err("is a file");
        assert_eq!(
            (file.exit, file.message.contains("not a directory")),
            (Exit::Usage, true)
        );
    }

    #[test]
    fn only_the_very_mount_is_detached() {
        let table = mount_table::read().expect("readable");
        let root = table
            .iter()
            .find(|mount| mount.mount_point == Path::new("/"))
            .expect("there is one");
        let another = Mount {
            mount_id: root.mount_id + 1_000_000,
            ..root.clone()
        };
        assert_eq!(detach_exactly(&another), Ok(false));
        let elsewhere = Mount {
            mount_point: "/no/such/place".into(),
            ..root.clone()
        };
        assert_eq!(detach_exactly(&elsewhere), Ok(false));
    }

    #[test]
    fn unmounting_what_is_not_mounted_says_so() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let failure = unmount(base.path(), Way::Plain).expect_err("nothing is mounted");
        assert!(
            matches!(failure.exit, Exit::NotFound | Exit::Denied),
            "{failure:?}"
        );
    }

    #[test]
    fn words_of_fusermount_become_errors() {
        let busy = fusermount_error("fusermount3: failed to unmount /m: Device or resource busy\n");
        assert_eq!(busy.raw_os_error(), Some(libc::EBUSY));
        let none = fusermount_error("fusermount3: entry for /m not found in /etc/mtab");
        assert_eq!(none.raw_os_error(), Some(libc::EINVAL));
        let denied = fusermount_error("fusermount3: failed to unmount /m: Operation not permitted");
        assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
    }
}
