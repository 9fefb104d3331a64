//! The file of one version: a header that says whose it is, a table with a checksum for each block, the blocks.
//!
//! 1. Nothing is ever moved or shortened, so that several processes may work with one file; what they write is the same.
//! 2. An entry of the table is written after its block: who sees the entry sees the block, unless the machine lost power
//!    in between, which the checksum shows.
//! 3. The name is a hash of the identity; the header has it in full, so that equal hashes do no harm.

use super::{BLOCK_BYTES, Identity};
use crate::base::checksum::Crc32c;
use crate::rt;
use std::fs::{File, FileTimes, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Changes whenever the layout does: older files are then not used, and go in time.
const MAGIC: &[u8; 8] = b"pailfsB1";
/// Header and table each begin and end at a multiple of this.
const PAGE_BYTES: u64 = 4096;
/// An entry of the table: the block's checksum, and that one confused with [`CONFUSION`], which an absent entry (zeros)
/// and most damaged ones are not.
const ENTRY_BYTES: u64 = 8;
const CONFUSION: u32 = 0x5bd1_e995;

/// Where versions are that were opened once, and where those that were opened again.
pub(super) const PROBATION: &str = "probation";
pub(super) const KEPT: &str = "kept";

/// Why bytes cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Absent,
    /// The block that begins here.
    Damaged {
        at: u64,
    },
}

/// The open file of one version.
#[derive(Debug)]
pub struct CachedFile {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    table_at: u64,
    data_at: u64,
    is_evicted: AtomicBool,
}

impl CachedFile {
    /// The file of `identity`, made if it is not there. `None` when its name belongs to another identity.
    pub(super) fn open(directory: &Path, identity: &Identity<'_>) -> io::Result<Option<Self>> {
        if let Some(found) = Self::find(directory, identity)? {
            found.has_been_used_again(directory);
            return Ok(Some(found));
        }
        let path = directory.join(PROBATION).join(name(identity));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        if file.metadata()?.len() == 0 {
            // Another process may do the same, with the same bytes.
            file.write_all_at(&header(identity), 0)?;
        }
        Self::of(file, path, identity)
    }

    /// The file of `identity` if it is there.
    pub(super) fn find(directory: &Path, identity: &Identity<'_>) -> io::Result<Option<Self>> {
        for place in [KEPT, PROBATION] {
            let path = directory.join(place).join(name(identity));
            match OpenOptions::new().read(true).write(true).open(&path) {
                Ok(file) => return Self::of(file, path, identity),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn of(file: File, path: PathBuf, identity: &Identity<'_>) -> io::Result<Option<Self>> {
        let expected = header(identity);
        let mut found = vec![0; expected.len()];
        match file.read_exact_at(&mut found, 0) {
            Ok(()) if found == expected => {}
            // Shorter: its maker was killed, or is writing this very moment.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Ok(()) => return Ok(None),
            Err(error) => return Err(error),
        }
        let table_at = expected.len() as u64;
        let blocks = identity.size_bytes.div_ceil(BLOCK_BYTES);
        Ok(Some(Self {
            file,
            path,
            size_bytes: identity.size_bytes,
            table_at,
            data_at: table_at + (blocks * ENTRY_BYTES).next_multiple_of(PAGE_BYTES),
            is_evicted: AtomicBool::new(false),
        }))
    }

    /// Off probation, and the newest. What fails here costs an earlier eviction.
    fn has_been_used_again(&self, directory: &Path) {
        let kept = directory
            .join(KEPT)
            .join(self.path.file_name().unwrap_or_default());
        if self.path != kept && self.is_anything_stored() {
            let _stays_on_probation = std::fs::rename(&self.path, &kept);
        }
        let now = FileTimes::new().set_modified(rt::wall_clock());
        let _looks_older = self.file.set_times(now);
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True once a store found that the file has no name any more: what it has can still be read, but is nobody else's.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.is_evicted.load(Ordering::Relaxed)
    }

    fn block_range(&self, block: u64) -> (u64, u64) {
        let start = block * BLOCK_BYTES;
        (start, (start + BLOCK_BYTES).min(self.size_bytes))
    }

    fn blocks(&self) -> u64 {
        self.size_bytes.div_ceil(BLOCK_BYTES)
    }

    /// The table's entries of these blocks; shorter where the file is.
    fn entries(&self, first: u64, count: u64) -> Vec<Option<u32>> {
        let mut bytes = vec![0; (count * ENTRY_BYTES) as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            let at = self.table_at + first * ENTRY_BYTES + filled as u64;
            match self.file.read_at(&mut bytes[filled..], at) {
                Ok(read) if read > 0 => filled += read,
                // What cannot be read is absent.
                Ok(_) | Err(_) => break,
            }
        }
        bytes.chunks_exact(ENTRY_BYTES as usize).map(entry).collect()
    }

    fn is_anything_stored(&self) -> bool {
        self.entries(0, self.blocks()).iter().any(Option::is_some)
    }

    /// True when every block is noted as stored; whether it is still right is seen when it is read.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.entries(0, self.blocks()).iter().all(Option::is_some)
    }

    /// Fills `buffer` with the bytes from `offset` on.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Missing> {
        let end = offset + buffer.len() as u64;
        if end > self.size_bytes {
            return Err(Missing::Absent);
        }
        let first = offset / BLOCK_BYTES;
        let entries = self.entries(first, end.div_ceil(BLOCK_BYTES) - first);
        if entries.iter().any(Option::is_none) {
            return Err(Missing::Absent);
        }
        let mut whole = Vec::new();
        for (block, expected) in (first..).zip(entries) {
            let (start, block_end) = self.block_range(block);
            let (from, to) = (start.max(offset), block_end.min(end));
            let into = &mut buffer[(from - offset) as usize..(to - offset) as usize];
            // A block of which only a part is wanted is read and checked whole.
            let is_partial = (from, to) != (start, block_end);
            whole.resize(
                if is_partial {
                    (block_end - start) as usize
                } else {
                    0
                },
                0,
            );
            let target = if is_partial { &mut whole[..] } else { &mut *into };
            let read = self.file.read_exact_at(target, self.data_at + start);
            if read.is_err() || Some(Crc32c::of(target).value()) != expected {
                self.forget(block);
                return Err(Missing::Damaged { at: start });
            }
            if is_partial {
                into.copy_from_slice(&whole[(from - start) as usize..(to - start) as usize]);
            }
        }
        Ok(())
    }

    /// Stores the blocks that lie wholly in `data` and are not there; how many bytes that were. None in a file that was
    /// evicted: they would take room that nobody counts.
    pub(super) fn store(&self, offset: u64, data: &[u8]) -> io::Result<u64> {
        if self.file.metadata()?.nlink() == 0 {
            self.is_evicted.store(true, Ordering::Relaxed);
            return Ok(0);
        }
        let end = offset + data.len() as u64;
        let first = offset.div_ceil(BLOCK_BYTES);
        let mut stored_bytes = 0;
        for block in first..self.blocks() {
            let (start, block_end) = self.block_range(block);
            if block_end > end {
                break;
            }
            if self.entries(block, 1) != [None] {
                continue;
            }
            let bytes = &data[(start - offset) as usize..(block_end - offset) as usize];
            self.file.write_all_at(bytes, self.data_at + start)?;
            self.note(block, Some(Crc32c::of(bytes).value()))?;
            stored_bytes += bytes.len() as u64;
        }
        Ok(stored_bytes)
    }

    fn note(&self, block: u64, checksum: Option<u32>) -> io::Result<()> {
        let mut bytes = [0; ENTRY_BYTES as usize];
        if let Some(checksum) = checksum {
            bytes[..4].copy_from_slice(&checksum.to_le_bytes());
            bytes[4..].copy_from_slice(&(checksum ^ CONFUSION).to_le_bytes());
        }
        self.file
            .write_all_at(&bytes, self.table_at + block * ENTRY_BYTES)
    }

    fn forget(&self, block: u64) {
        // If that fails too, the block is found damaged again.
        let _found_again = self.note(block, None);
    }
}

fn entry(bytes: &[u8]) -> Option<u32> {
    let (checksum, confused) = bytes.split_at(4);
    let checksum = u32::from_le_bytes(checksum.try_into().ok()?);
    let confused = u32::from_le_bytes(confused.try_into().ok()?);
    (checksum ^ CONFUSION == confused).then_some(checksum)
}

/// The magic, and the identity with the length of each part before it, filled up with zeros to whole pages.
fn header(identity: &Identity<'_>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&identity.size_bytes.to_le_bytes());
    for part in [identity.endpoint, identity.bucket, identity.key, identity.etag] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    let len = bytes.len().next_multiple_of(PAGE_BYTES as usize);
    bytes.resize(len, 0);
    bytes
}

/// 128 bits. A new release of Rust may hash otherwise: then files are not found, and go in time.
fn name(identity: &Identity<'_>) -> String {
    let hash = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        header(identity).hash(&mut hasher);
        hasher.finish()
    };
    format!("{:016x}{:016x}", hash(0), hash(1))
}
