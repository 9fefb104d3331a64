//! What goes when the cache is full.
//!
//! Versions that were opened once are on probation. While those take more than a fifth of the limit, the one that was
//! used longest ago goes first; then the kept ones go, in the same order. So a scan drives out what was scanned before it.
//! Another process may do the same at the same time: a version that is gone is no error. What is in use in a way that keeps
//! its room taken stays. Files of an older layout always go: nobody can use them.

use super::places::{self, DATA, KEPT, PROBATION, TABLE};
use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Versions on probation are spared while they take no more than this part of the limit.
const PROBATION_PART: u64 = 5;
/// So much of the limit is made free at once, so that not every store has to.
const FREED_PART: u64 = 16;
/// A file or directory takes at least this: file systems that put short ones elsewhere (and say that they take nothing) have
/// room for a limited number of them, too.
const LEAST_BYTES: u64 = 4096;
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
    place: Place,
    bytes: u64,
    used_at: SystemTime,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// A file instead of a directory.
    OlderLayout,
    Probation,
    Kept,
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
    if !entries.is_empty() {
        // An older layout has not all of them.
        places::make_directories(directory)?;
    }
    for entry in &entries {
        places::leave(directory, &entry.path)?;
    }
    places::sweep(directory)?;
    Ok(sum(&entries))
}

/// What an eviction has left, and how many versions it has removed.
pub(super) struct Left {
    pub used_bytes: u64,
    pub evictions: u64,
}

/// Makes room when there is more than `limit_bytes`. `spared` are names of versions.
pub(super) fn evict(directory: &Path, limit_bytes: u64, spared: &HashSet<String>) -> io::Result<Left> {
    places::sweep(directory)?;
    let mut entries = entries(directory)?;
    let mut used = sum(&entries);
    entries.sort_by_key(|entry| (entry.place, entry.used_at));
    let (older_layout, entries): (Vec<Entry>, Vec<Entry>) = entries
        .into_iter()
        .partition(|entry| entry.place == Place::OlderLayout);
    for entry in older_layout {
        places::leave(directory, &entry.path)?;
        used.bytes -= entry.bytes;
    }
    let mut evictions = 0;
    if used.bytes <= limit_bytes {
        return Ok(Left {
            used_bytes: used.bytes,
            evictions,
        });
    }
    let (kept, probation): (Vec<Entry>, Vec<Entry>) = entries
        .into_iter()
        .filter(|entry| !is_spared(entry, spared))
        .partition(|entry| entry.place == Place::Kept);
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
        places::leave(directory, &entry.path)?;
        evictions += 1;
        used.bytes -= entry.bytes;
        if entry.place == Place::Kept {
            used.kept_bytes -= entry.bytes;
        }
    }
    Ok(Left {
        used_bytes: used.bytes,
        evictions,
    })
}

fn is_spared(entry: &Entry, spared: &HashSet<String>) -> bool {
    let name = entry.path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| spared.contains(name))
}

fn sum(entries: &[Entry]) -> Usage {
    entries.iter().fold(Usage::default(), |sum, entry| Usage {
        files: sum.files + 1,
        bytes: sum.bytes + entry.bytes,
        kept_bytes: sum.kept_bytes
            + if entry.place == Place::Kept {
                entry.bytes
            } else {
                0
            },
    })
}

fn entries(directory: &Path) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for (name, place) in [(KEPT, Place::Kept), (PROBATION, Place::Probation)] {
        for path in places::below(&directory.join(name))? {
            match entry(path, place) {
                Ok(entry) => found.push(entry),
                // Gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

fn entry(path: PathBuf, place: Place) -> io::Result<Entry> {
    let own = std::fs::symlink_metadata(&path)?;
    if !own.is_dir() {
        return Ok(Entry {
            path,
            place: Place::OlderLayout,
            bytes: on_disk_bytes(&own),
            used_at: SystemTime::UNIX_EPOCH,
        });
    }
    let (mut bytes, mut used_at) = (on_disk_bytes(&own), SystemTime::UNIX_EPOCH);
    for name in [DATA, TABLE] {
        // What lacks one of them is of no use, and goes first.
        let Ok(metadata) = std::fs::symlink_metadata(path.join(name)) else {
            continue;
        };
        bytes += on_disk_bytes(&metadata);
        if name == DATA {
            used_at = metadata.modified()?;
        }
    }
    Ok(Entry {
        path,
        place,
        bytes,
        used_at,
    })
}

fn on_disk_bytes(metadata: &Metadata) -> u64 {
    (metadata.blocks() * STAT_BLOCK_BYTES).max(LEAST_BYTES)
}
