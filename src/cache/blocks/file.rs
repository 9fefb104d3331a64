//! The files of one version: its data, where every byte has the place that it has in the object, and a table with a
//! checksum for each block, which begins by saying whose they are.
//!
//! 1. Nothing is ever moved or shortened, so that several processes may work with one version; what they write is the same.
//! 2. An entry of the table is written after its block: who sees the entry sees the block, unless the machine lost power
//!    in between, which the checksum shows.
//! 3. The name is a hash of the identity; the table has it in full, so that equal hashes do no harm.
//! 4. The kernel may be given the data to read by itself, and stops where the file ends: it has the object's length from the
//!    beginning, and nothing else in it.
//! 5. Two files are opened, and the version may go in between, and come again: they belong together if the table has kept
//!    its name until both were open ([`CachedFile::at`]).

use super::checks::Checks;
use super::places::{DATA, KEPT, PROBATION, TABLE, arrive, leave};
use super::{BLOCK_BYTES, Identity};
use crate::base::checksum::Crc32c;
use crate::base::object::ByteRange;
use crate::rt;
use std::fs::{File, FileTimes, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Changes whenever the layout does: older versions are then not used, and go in time.
const MAGIC: &[u8; 8] = b"pailfsB2";
/// The entries begin at a multiple of this.
const PAGE_BYTES: u64 = 4096;
/// Behind the magic: tells a version from one that had its name before it or has it after it.
const GENERATION_BYTES: usize = 32;
/// An entry of the table: the block's checksum, and that one confused with [`CONFUSION`], which an absent entry (zeros)
/// and most damaged ones are not.
const ENTRY_BYTES: u64 = 8;
const CONFUSION: u32 = 0x5bd1_e995;

/// Why bytes cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Absent,
    /// The block that begins here.
    Damaged {
        at: u64,
    },
}

/// The open files of one version.
#[derive(Debug)]
pub struct CachedFile {
    data: File,
    table: File,
    path: PathBuf,
    name: String,
    generation: [u8; GENERATION_BYTES],
    size_bytes: u64,
    table_at: u64,
    is_evicted: AtomicBool,
    /// Which blocks were found right, where somebody wants to know.
    checks: Option<Arc<Checks>>,
}

impl CachedFile {
    /// The version of `identity` if it is there, which is used once more.
    pub(super) fn open(directory: &Path, identity: &Identity<'_>) -> io::Result<Option<Self>> {
        let found = Self::find(directory, identity)?;
        if let Some(found) = &found {
            found.has_been_used_again(directory);
        }
        Ok(found)
    }

    /// Makes the version of `identity`, with nothing in it. False when there is one already: another process was faster.
    pub(super) fn make(directory: &Path, identity: &Identity<'_>) -> io::Result<bool> {
        let name = name(identity);
        let fill = |at: &Path| make(at, identity);
        if arrive(directory, &name, fill)? {
            return Ok(true);
        }
        if Self::find(directory, identity)?.is_some() {
            return Ok(false);
        }
        // What is there is the rest of a version.
        leave(directory, &directory.join(PROBATION).join(&name))?;
        arrive(directory, &name, fill)
    }

    /// The version of `identity` if it is there. What has its name but is of something else, or not as it was made, goes.
    pub(super) fn find(directory: &Path, identity: &Identity<'_>) -> io::Result<Option<Self>> {
        let name = name(identity);
        for place in [KEPT, PROBATION] {
            let path = directory.join(place).join(&name);
            match Self::at(&path, &name, identity) {
                Ok(Some(file)) => return Ok(Some(file)),
                Ok(None) => leave(directory, &path)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // A file of an older layout.
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => leave(directory, &path)?,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// `None` when what is there is something else.
    fn at(path: &Path, name: &str, identity: &Identity<'_>) -> io::Result<Option<Self>> {
        let open = |file| OpenOptions::new().read(true).write(true).open(path.join(file));
        let (table, data) = (open(TABLE)?, open(DATA)?);
        let (opened, named) = (table.metadata()?, std::fs::metadata(path.join(TABLE))?);
        if (opened.dev(), opened.ino()) != (named.dev(), named.ino()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut found = vec![0; header(identity, &[0; GENERATION_BYTES]).len()];
        match table.read_exact_at(&mut found, 0) {
            Ok(()) => {}
            // The machine lost power.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut generation = [0; GENERATION_BYTES];
        generation.copy_from_slice(&found[MAGIC.len()..][..GENERATION_BYTES]);
        if found != header(identity, &generation) || data.metadata()?.len() != identity.size_bytes {
            return Ok(None);
        }
        Ok(Some(Self {
            data,
            table,
            path: path.to_owned(),
            name: name.to_owned(),
            generation,
            size_bytes: identity.size_bytes,
            table_at: found.len() as u64,
            is_evicted: AtomicBool::new(false),
            checks: None,
        }))
    }

    /// Off probation, and the newest. What fails here costs an earlier eviction.
    pub(super) fn has_been_used_again(&self, directory: &Path) {
        let kept = directory.join(KEPT).join(&self.name);
        if self.path != kept && self.is_anything_stored() {
            let _stays_on_probation = std::fs::rename(&self.path, &kept);
        }
        let now = FileTimes::new().set_modified(rt::wall_clock());
        let _looks_older = self.data.set_times(now);
    }

    /// From now on what is read and stored here is noted in `checks`.
    pub(super) fn note_in(&mut self, checks: Arc<Checks>) {
        self.checks = Some(checks);
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Another one if the version was removed and made again.
    pub(super) fn generation(&self) -> &[u8] {
        &self.generation
    }

    /// Where its data was when it was opened.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// True once a store found that the version has no name any more: what it has can still be read, but is nobody else's.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.is_evicted.load(Ordering::Relaxed)
    }

    fn block_range(&self, block: u64) -> (u64, u64) {
        let start = block * BLOCK_BYTES;
        (start, (start + BLOCK_BYTES).min(self.size_bytes))
    }

    pub(super) fn blocks(&self) -> u64 {
        self.size_bytes.div_ceil(BLOCK_BYTES)
    }

    /// The table's entries of these blocks; shorter where the file is.
    fn entries(&self, first: u64, count: u64) -> Vec<Option<u32>> {
        let mut bytes = vec![0; (count * ENTRY_BYTES) as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            let at = self.table_at + first * ENTRY_BYTES + filled as u64;
            match self.table.read_at(&mut bytes[filled..], at) {
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

    /// True when all of `range` was found right before, where that is noted.
    pub(super) fn was_found_right(&self, range: ByteRange) -> bool {
        let mut blocks = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        let checks = self.checks.as_ref();
        checks.is_some_and(|checks| blocks.all(|block| checks.has(block)))
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
        let mut damaged = None;
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
            let read = self.data.read_exact_at(target, start);
            if read.is_err() || Some(Crc32c::of(target).value()) != expected {
                self.forget(block);
                // The others are looked at too: nobody may come back to ask for them alone.
                damaged = damaged.or(Some(start));
                continue;
            }
            self.is_right(block);
            if is_partial {
                into.copy_from_slice(&whole[(from - start) as usize..(to - start) as usize]);
            }
        }
        damaged.map_or(Ok(()), |at| Err(Missing::Damaged { at }))
    }

    /// Stores the blocks that lie wholly in `data` and are not there, or not right; how many bytes that were. None in a version that was
    /// evicted: they would take room that nobody counts.
    pub(super) fn store(&self, offset: u64, data: &[u8]) -> io::Result<u64> {
        if self.data.metadata()?.nlink() == 0 || self.table.metadata()?.nlink() == 0 {
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
            let bytes = &data[(start - offset) as usize..(block_end - offset) as usize];
            if self.entries(block, 1) != [None] && self.has(block, bytes) {
                continue;
            }
            self.data.write_all_at(bytes, start)?;
            self.note(block, Some(Crc32c::of(bytes).value()))?;
            self.is_right(block);
            stored_bytes += bytes.len() as u64;
        }
        Ok(stored_bytes)
    }

    /// Whether a block that is noted as stored is what it must be, where somebody wants to know.
    fn has(&self, block: u64, bytes: &[u8]) -> bool {
        let Some(checks) = self.checks.as_ref().filter(|checks| !checks.has(block)) else {
            return true;
        };
        let mut found = vec![0; bytes.len()];
        let read = self.data.read_exact_at(&mut found, block * BLOCK_BYTES);
        let is_right = read.is_ok() && found == bytes;
        if is_right {
            checks.note(block);
        }
        is_right
    }

    fn note(&self, block: u64, checksum: Option<u32>) -> io::Result<()> {
        let mut bytes = [0; ENTRY_BYTES as usize];
        if let Some(checksum) = checksum {
            bytes[..4].copy_from_slice(&checksum.to_le_bytes());
            bytes[4..].copy_from_slice(&(checksum ^ CONFUSION).to_le_bytes());
        }
        self.table
            .write_all_at(&bytes, self.table_at + block * ENTRY_BYTES)
    }

    fn is_right(&self, block: u64) {
        if let Some(checks) = &self.checks {
            checks.note(block);
        }
    }

    fn forget(&self, block: u64) {
        if let Some(checks) = &self.checks {
            checks.forget(block);
        }
        // If that fails too, the block is found damaged again.
        let _found_again = self.note(block, None);
    }
}

/// The data.
impl AsFd for CachedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.data.as_fd()
    }
}

/// An empty version in the empty directory `at`.
fn make(at: &Path, identity: &Identity<'_>) -> io::Result<()> {
    let create = |name| {
        OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(at.join(name))
    };
    create(DATA)?.set_len(identity.size_bytes)?;
    let mut generation = [0; GENERATION_BYTES];
    generation.copy_from_slice(rt::random_id().as_bytes());
    create(TABLE)?.write_all_at(&header(identity, &generation), 0)
}

fn entry(bytes: &[u8]) -> Option<u32> {
    let (checksum, confused) = bytes.split_at(4);
    let checksum = u32::from_le_bytes(checksum.try_into().ok()?);
    let confused = u32::from_le_bytes(confused.try_into().ok()?);
    (checksum ^ CONFUSION == confused).then_some(checksum)
}

/// The magic, the generation, and the identity with the length of each part before it, filled up with zeros to whole pages.
fn header(identity: &Identity<'_>, generation: &[u8; GENERATION_BYTES]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(generation);
    bytes.extend_from_slice(&identity.size_bytes.to_le_bytes());
    for part in [identity.endpoint, identity.bucket, identity.key, identity.etag] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    let len = bytes.len().next_multiple_of(PAGE_BYTES as usize);
    bytes.resize(len, 0);
    bytes
}

/// 128 bits. A new release of Rust may hash otherwise: then versions are not found, and go in time.
fn name(identity: &Identity<'_>) -> String {
    let hash = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        header(identity, &[0; GENERATION_BYTES]).hash(&mut hasher);
        hasher.finish()
    };
    format!("{:016x}{:016x}", hash(0), hash(1))
}
