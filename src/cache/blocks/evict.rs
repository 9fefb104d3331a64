//! What goes when the cache is full.
//!
//! Versions that were opened once are on probation. While those take more than a fifth of the limit, the one that was
//! used longest ago goes first; then the kept ones go, in the same order. So a scan drives out what was scanned before it.
//! Another process may do the same at the same time: a file that is gone is no error.

use super::file::{KEPT, PROBATION};
use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files on probation are spared while they take no more than this part of the limit.
const PROBATION_PART: u64 = 5;
/// So much of the limit is made free at once, so that not every store has to.
const FREED_PART: u64 = 16;
/// `st_blocks` counts these (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;

/// What the cache takes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub files: u64,
    pub bytes: u64,
    /// Of these, in versions that were opened more than once.
    pub kept_bytes: u64,
}

struct Entry {
    path: PathBuf,
    is_kept: bool,
    bytes: u64,
    used_at: SystemTime,
}

pub(super) fn make_directories(directory: &Path) -> io::Result<()> {
    for place in [KEPT, PROBATION] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory.join(place))?;
    }
    Ok(())
}

/// Looks the cache through. Blocks.
///
/// # Errors
/// When its directory cannot be read; where there is none, nothing is used.
pub fn usage(directory: &Path) -> io::Result<Usage> {
    Ok(sum(&entries(directory)?))
}

/// Removes everything; says how much that was. Blocks.
///
/// # Errors
/// When something cannot be read or removed.
pub fn clear(directory: &Path) -> io::Result<Usage> {
    let entries = entries(directory)?;
    for entry in &entries {
        remove(&entry.path)?;
    }
    Ok(sum(&entries))
}

/// Makes room when there is more than `limit_bytes`; how much is left then.
pub(super) fn evict(directory: &Path, limit_bytes: u64) -> io::Result<u64> {
    let mut entries = entries(directory)?;
    let mut used = sum(&entries);
    if used.bytes <= limit_bytes {
        return Ok(used.bytes);
    }
    entries.sort_by_key(|entry| (entry.is_kept, entry.used_at));
    let (kept, probation): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|entry| entry.is_kept);
    let (mut kept, mut probation) = (kept.into_iter(), probation.into_iter());
    let target_bytes = limit_bytes - limit_bytes / FREED_PART;
    while used.bytes > target_bytes {
        let probation_bytes = used.bytes - used.kept_bytes;
        let first = if probation_bytes > limit_bytes / PROBATION_PART {
            probation.next().or_else(|| kept.next())
        } else {
            kept.next().or_else(|| probation.next())
        };
        let Some(entry) = first else { break };
        remove(&entry.path)?;
        used.bytes -= entry.bytes;
        if entry.is_kept {
            used.kept_bytes -= entry.bytes;
        }
    }
    Ok(used.bytes)
}

fn sum(entries: &[Entry]) -> Usage {
    entries.iter().fold(Usage::default(), |sum, entry| Usage {
        files: sum.files + 1,
        bytes: sum.bytes + entry.bytes,
        kept_bytes: sum.kept_bytes + if entry.is_kept { entry.bytes } else { 0 },
    })
}

fn entries(directory: &Path) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for (place, is_kept) in [(KEPT, true), (PROBATION, false)] {
        let listed = match std::fs::read_dir(directory.join(place)) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in listed {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) => found.push(Entry {
                    path: entry.path(),
                    is_kept,
                    bytes: on_disk_bytes(&metadata),
                    used_at: metadata.modified()?,
                }),
                // Gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

fn on_disk_bytes(metadata: &Metadata) -> u64 {
    metadata.blocks() * STAT_BLOCK_BYTES
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
