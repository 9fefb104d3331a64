//! Where versions are in the cache's directory: each is a directory with its data and its table, and comes and goes as a
//! whole.
//!
//! 1. Whoever finds a version finds all of it, after any kill: it is made in [`ARRIVING`] and gets its place by one rename.
//! 2. Nobody finds a part of one that goes: it leaves its place by one rename, to [`LEAVING`], and only there is it taken
//!    apart. So a version that is made meanwhile under the same name is another directory.
//! 3. What a kill left in either is removed when the cache is looked through ([`sweep`]).

use crate::rt;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where versions are that were opened once, and where those that were opened again.
pub(super) const PROBATION: &str = "probation";
pub(super) const KEPT: &str = "kept";
const ARRIVING: &str = "arriving";
const LEAVING: &str = "leaving";
/// Making a version takes no time to speak of: what is older than this was left by a kill.
const ARRIVAL_TIME: Duration = Duration::from_mins(1);

/// The files of a version.
pub(super) const DATA: &str = "data";
pub(super) const TABLE: &str = "table";

pub(super) fn make_directories(directory: &Path) -> io::Result<()> {
    for place in [KEPT, PROBATION, ARRIVING, LEAVING] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory.join(place))?;
    }
    Ok(())
}

/// Makes a version with `fill`, which gets an empty directory, and puts it on probation. False when there is one already.
pub(super) fn arrive(
    directory: &Path,
    name: &str,
    fill: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<bool> {
    let arriving = directory.join(ARRIVING).join(rt::random_id());
    DirBuilder::new().mode(0o700).create(&arriving)?;
    let arrived =
        fill(&arriving).and_then(|()| std::fs::rename(&arriving, directory.join(PROBATION).join(name)));
    match arrived {
        Ok(()) => Ok(true),
        Err(error) => {
            // What stays is swept out.
            let _stays = std::fs::remove_dir_all(&arriving);
            match error.kind() {
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => Ok(false),
                _ => Err(error),
            }
        }
    }
}

/// Removes what is at `path`, which those who have it open go on to use. What is gone already is no error.
pub(super) fn leave(directory: &Path, path: &Path) -> io::Result<()> {
    let leaving = directory.join(LEAVING).join(rt::random_id());
    match std::fs::rename(path, &leaving) {
        Ok(()) => remove(&leaving),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes what kills left.
pub(super) fn sweep(directory: &Path) -> io::Result<()> {
    for path in below(&directory.join(LEAVING))? {
        remove(&path)?;
    }
    for path in below(&directory.join(ARRIVING))? {
        if is_left_over(&path) {
            remove(&path)?;
        }
    }
    Ok(())
}

fn is_left_over(path: &Path) -> bool {
    let made = std::fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    let age = made.map(|made| rt::wall_clock().duration_since(made).unwrap_or_default());
    age.is_ok_and(|age| age > ARRIVAL_TIME)
}

/// What a directory has; nothing if there is none.
pub(super) fn below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(directory) {
        Ok(listed) => listed.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A directory with all that is in it, or a file (of an older layout). Another process may do the same.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
