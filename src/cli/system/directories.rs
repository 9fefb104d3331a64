//! Private directories: made where absent, never shared with others.

use crate::cli::failure::Failure;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

/// Makes `path` and what is above it, accessible to this user only (what exists keeps its permissions).
///
/// # Errors
/// What `mkdir(2)` says, with the path.
pub fn make_private(path: &Path) -> Result<(), Failure> {
    let result = DirBuilder::new().recursive(true).mode(0o700).create(path);
    result.map_err(|error| Failure::io(&error, format_args!("directory {}", path.display())))
}

/// The same, and refuses a directory in which somebody else could put things.
///
/// # Errors
/// As `make_private`; Denied when it belongs to somebody else or others may write to it.
pub fn make_trusted(path: &Path) -> Result<(), Failure> {
    make_private(path)?;
    let seen = std::fs::symlink_metadata(path)
        .map_err(|error| Failure::io(&error, format_args!("directory {}", path.display())))?;
    // SAFETY: cannot fail, no preconditions.
    let own = unsafe { libc::geteuid() };
    if !seen.is_dir() || seen.uid() != own || seen.mode() & 0o022 != 0 {
        let message = format!(
            "directory {}: belongs to somebody else, or others may write to it",
            path.display()
        );
        return Err(Failure::new(crate::cli::failure::Exit::Denied, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_open_to_others_is_not_trusted() {
        let base = tempfile::tempdir().expect("a temporary directory");
        let path = base.path().join("a/b");
        make_trusted(&path).expect("made");
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o700);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("changed");
        assert!(make_trusted(&path).is_err());
        make_private(&path).expect("private use does not look");
        std::fs::write(base.path().join("file"), "").expect("written");
        assert!(make_private(&base.path().join("file")).is_err());
    }
}
