//! The local file that `pailfs get` makes: whole, or not there at all.
//!
//! 1. It is written beside its place under another name, put on disk, and moved into place in one step. If anything goes
//!    wrong before that, what was there stays as it was.
//! 2. What the object says about itself becomes the file's: time of modification and permissions. Not the bits that make
//!    programs run as somebody else, and not the owner: whoever may write to a bucket does not decide that here.
//! 3. What is no regular file (`/dev/null`, a pipe) is never replaced.

use super::location::Location;
use crate::base::attributes::Attributes;
use crate::cli::failure::Failure;
use std::fs::{File, FileTimes, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tempfile::NamedTempFile;

const PERMISSIONS: u32 = 0o777;

/// Where the file will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    path: PathBuf,
    directory: PathBuf,
}

/// A file that is not in its place yet; removed when dropped.
pub struct Arriving {
    destination: Destination,
    file: NamedTempFile,
    permissions: Option<u32>,
    modified: SystemTime,
}

impl Destination {
    /// For `given`, a file or a directory; without it the current directory.
    ///
    /// # Errors
    /// Usage when the key does not say what the file is called; `NotFound` for a directory that is not there.
    pub fn find(given: Option<&Path>, from: &Location) -> Result<Self, Failure> {
        if given == Some(Path::new("-")) {
            return Err(Failure::usage(
                "`get` makes a file; to standard output: pailfs cat (a file called -: ./-)",
            ));
        }
        let given = given.unwrap_or(Path::new("."));
        let wants_directory = given.as_os_str().as_encoded_bytes().ends_with(b"/");
        let path = if wants_directory || given.is_dir() {
            given.join(file_name(from)?)
        } else {
            given.to_owned()
        };
        let failed = |error: std::io::Error| Failure::io(&error, path.display());
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => {
                return Err(Failure::usage(format!("{}: is a directory", path.display())));
            }
            Ok(found) if !found.is_file() => {
                return Err(Failure::usage(format!(
                    "{}: is not a regular file, and would be replaced; use pailfs cat and a redirection",
                    path.display()
                )));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if !directory.is_dir() {
            let missing = std::io::Error::from_raw_os_error(libc::ENOENT);
            return Err(Failure::io(
                &missing,
                format_args!("directory {}", directory.display()),
            ));
        }
        Ok(Self { path, directory })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `last_modified` is the file's time where `attributes` say none.
    ///
    /// # Errors
    /// What the directory says.
    pub fn begin(self, attributes: &Attributes, last_modified: SystemTime) -> Result<Arriving, Failure> {
        let permissions = attributes.mode.map(|mode| mode & PERMISSIONS);
        // Nobody else reads along before the permissions are right. Those that nobody stored are the umask's matter.
        let first = permissions.map_or(0o666, |_| 0o600);
        let file = tempfile::Builder::new()
            .prefix(".pailfs-")
            .permissions(Permissions::from_mode(first))
            .tempfile_in(&self.directory)
            .map_err(|error| Failure::io(&error, format_args!("directory {}", self.directory.display())))?;
        Ok(Arriving {
            destination: self,
            file,
            permissions,
            modified: attributes.mtime.unwrap_or(last_modified),
        })
    }
}

/// What the file is called in a directory.
fn file_name(from: &Location) -> Result<&str, Failure> {
    let name = from.file_name();
    if name.is_empty() || name == "." || name == ".." || name.len() > 255 || name.contains('\0') {
        return Err(Failure::usage(format!(
            "{from}: the end of this key cannot be a file's name; say which file to make"
        )));
    }
    Ok(name)
}

impl Arriving {
    /// # Errors
    /// What the file system says, such as that it is full.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(piece);
        written.map_err(|error| self.failed(&error))
    }

    /// Puts the file on disk and into its place.
    ///
    /// # Errors
    /// What the file system says; then there is no file, or the one from before.
    pub fn finish(self) -> Result<(), Failure> {
        let file = self.file.as_file();
        let prepared = self.permissions.map_or(Ok(()), |permissions| {
            file.set_permissions(Permissions::from_mode(permissions))
        });
        prepared
            .and_then(|()| file.set_times(FileTimes::new().set_modified(self.modified)))
            .and_then(|()| file.sync_all())
            .map_err(|error| self.failed(&error))?;
        let Destination { path, directory } = &self.destination;
        let failed = |error: std::io::Error| Failure::io(&error, path.display());
        self.file.persist(path).map_err(|error| failed(error.error))?;
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed)
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::io(error, self.destination.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Exit;
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, UNIX_EPOCH};

    fn location(key: &str) -> Location {
        Location {
            bucket: "bucket".into(),
            key: key.into(),
        }
    }

    #[test]
    fn directories_get_a_file_called_as_the_key_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let find = |given: &Path, key: &str| Destination::find(Some(given), &location(key));
        let inside = find(dir.path(), "a/b c").expect("a place");
        assert_eq!(inside.path(), dir.path().join("b c"));
        let file = dir.path().join("other");
        assert_eq!(find(&file, "a/b").expect("a place").path(), file);
        for key in ["a/", "a/..", ".", &"x".repeat(256)] {
            assert_eq!(find(dir.path(), key).expect_err(key).exit, Exit::Usage);
        }
        let missing = dir.path().join("missing/");
        assert_eq!(find(&missing, "k").expect_err("missing").exit, Exit::NotFound);
        let below = dir.path().join("missing/file");
        assert_eq!(find(&below, "k").expect_err("missing").exit, Exit::NotFound);
        for special in ["/dev/null", "-"] {
            let failure = find(Path::new(special), "k").expect_err(special);
            assert_eq!(failure.exit, Exit::Usage, "{failure}");
        }
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "before").expect("written");
        let mtime = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        let attributes = Attributes {
            mode: Some(0o104_751),
            mtime: Some(mtime),
            ..Attributes::default()
        };
        let begin = || {
            let destination = Destination::find(Some(&path), &location("k")).expect("a place");
            destination
                .begin(&attributes, SystemTime::UNIX_EPOCH)
                .expect("begins")
        };
        let mut dropped = begin();
        dropped.write(b"half").expect("written");
        drop(dropped);
        assert_eq!(std::fs::read(&path).expect("there"), b"before");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);

        let mut arriving = begin();
        arriving.write(b"after").expect("written");
        arriving.finish().expect("in its place");
        let found = std::fs::metadata(&path).expect("there");
        assert_eq!(std::fs::read(&path).expect("there"), b"after");
        assert_eq!(found.modified().expect("a time"), mtime);
        assert_eq!(found.mode() & 0o7777, 0o751, "without the set-user-id bit");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
