//! Blocks of objects on disk, kept across mounts: a directory with a sparse file for each version of an object.
//!
//! Difficulties, and who solves them:
//! 1. Never a byte of another version: each version says whose it is, and one that says something else is not used
//!    ([`file`]).
//! 2. A crash between writing a block and noting it, a disk that lost a write, a file that somebody damaged: each block
//!    has a checksum, noted after the block was written; one that does not fit counts as absent ([`file`]).
//! 3. Several mounts share the directory without talking to each other, and may be killed at any time: what they write to one
//!    file is the same, versions come and go as a whole ([`places`]), and one that is removed stays readable for those who have
//!    it open ([`evict`]).
//! 4. Reading everything once (a backup, a search) must not drive out what is used again and again: a version begins on
//!    probation and stays only when it is opened again ([`evict`]).
//! 5. Disk slower than network: reads wait for it during a small part of the time only, and a block that cannot be stored
//!    then is not stored ([`BlockCache::slot`]).
//! 6. A disk that does not answer at all: nothing is asked of it until it has answered what it was asked before
//!    ([`BlockCache::ask`]).
//! 7. Who wants all of a version here, whatever the disk is like, is told if that cannot be ([`warm`]).
//! 8. Many small files: what a version takes besides its bytes counts too, from the moment that it is made
//!    ([`BlockCache::file`]), and a version is made only when something of it is stored.
//! 9. The kernel may read a version's data without asking us, and so without checks: only a version that is all there and was
//!    found right in this mount is given to it, and stays where it is meanwhile ([`BlockCache::whole`], [`checks`]).

mod checks;
mod evict;
mod file;
mod places;
#[cfg(test)]
mod tests;
mod warm;

pub use evict::{Usage, clear, usage};
pub use file::CachedFile;
pub use warm::{Warming, evicted};

use crate::base::object::ByteRange;
use crate::rt;
use checks::{AllChecks, Pins};
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warm::Warmings;

/// What is stored and checked as a whole.
pub const BLOCK_BYTES: u64 = 64 << 10;
/// So much memory the stores under way take together, with the pieces that readers have.
pub const STORING_BYTES: u64 = STORES_AT_ONCE as u64 * MAX_STORE_BYTES;
/// The longest run of bytes that is stored at once.
pub const MAX_STORE_BYTES: u64 = 1 << 20;
const STORES_AT_ONCE: usize = 4;
/// A store waits this long for a slot at most …
const SLOT_PATIENCE: Duration = Duration::from_millis(200);
/// … and all of them together during this part of the time.
const SLOT_PATIENCE_PART: u32 = 20;
/// What the disk has not said within this time is got elsewhere.
const DISK_PATIENCE: Duration = Duration::from_secs(1);
/// An object may take up to this part of the cache.
const LARGEST_PART: u64 = 4;
/// Shorter versions are never given away whole ([`BlockCache::whole`]): the kernel keeps their pages just as well.
pub const WHOLE_FROM_BYTES: u64 = 1 << 20;
/// The directory is looked through again when this part of the limit was taken.
const RESCAN_PART: u64 = 8;
/// File systems give room out in units of this, as a rule …
const UNIT_BYTES: u64 = 4096;
/// … and so a version takes this besides its data: its directory, and a table of one page and a bit.
const VERSION_BYTES: u64 = 3 * UNIT_BYTES;

/// True when `range`, of a version of this length, has a block as a whole: others are not stored.
#[must_use]
pub fn has_a_block(range: ByteRange, size_bytes: u64) -> bool {
    let start = range.start.next_multiple_of(BLOCK_BYTES);
    start < range.end && (start + BLOCK_BYTES).min(size_bytes) <= range.end
}

/// Whose bytes a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'a> {
    pub endpoint: &'a str,
    pub bucket: &'a str,
    pub key: &'a str,
    pub etag: &'a str,
    pub size_bytes: u64,
}

/// The disk cache of one mount, in a directory that mounts of this machine may share.
pub struct BlockCache {
    directory: PathBuf,
    limit_bytes: u64,
    endpoint: String,
    /// What all files took when they were last looked through, and what was taken since.
    used_bytes: AtomicU64,
    /// The latter alone.
    taken_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    is_evicting: AtomicBool,
    slots: Arc<Semaphore>,
    patience: Mutex<Patience>,
    /// What was asked of the disk, not answered in time, and still is not.
    late_answers: AtomicU32,
    damaged_blocks: AtomicU64,
    served_bytes: AtomicU64,
    checks: AllChecks,
    pins: Pins,
    warmings: Warmings,
    evictions: AtomicU64,
}

/// How long reads may still wait for the disk to take blocks.
struct Patience {
    left: Duration,
    at: rt::Instant,
}

impl Patience {
    fn left_at(&mut self, now: rt::Instant) -> Duration {
        let regained = now.saturating_duration_since(self.at) / SLOT_PATIENCE_PART;
        self.at = now;
        self.left = (self.left + regained).min(SLOT_PATIENCE);
        self.left
    }

    fn spend(&mut self, waited: Duration) {
        self.left = self.left.saturating_sub(waited);
    }
}

/// What the cache did, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCounts {
    pub served_bytes: u64,
    pub stored_bytes: u64,
    pub damaged_blocks: u64,
}

impl BlockCache {
    /// Opens (or makes) the cache in `directory`; what is there beyond the limit is removed. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(directory: &Path, limit_bytes: u64, endpoint: &str) -> io::Result<Arc<Self>> {
        places::make_directories(directory)?;
        let used_bytes = evict::evict(directory, limit_bytes, &HashSet::new())?.used_bytes;
        Ok(Arc::new(Self {
            directory: directory.to_owned(),
            limit_bytes,
            endpoint: endpoint.to_owned(),
            used_bytes: AtomicU64::new(used_bytes),
            taken_bytes: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
            is_evicting: AtomicBool::new(false),
            slots: Arc::new(Semaphore::new(STORES_AT_ONCE)),
            patience: Mutex::new(Patience {
                left: SLOT_PATIENCE,
                at: rt::now(),
            }),
            late_answers: AtomicU32::new(0),
            damaged_blocks: AtomicU64::new(0),
            served_bytes: AtomicU64::new(0),
            checks: AllChecks::new(),
            pins: Pins::default(),
            warmings: Warmings::default(),
            evictions: AtomicU64::new(0),
        }))
    }

    /// The files of a version, made if they are not there; `None` for one that is not to be cached, or where the disk does not
    /// let us. Blocks.
    #[must_use]
    pub fn file(&self, bucket: &str, key: &str, etag: &str, size_bytes: u64) -> Option<CachedFile> {
        self.opened(&self.identity(bucket, key, etag, size_bytes), Self::open_or_make)
    }

    /// The same, `None` also for one that is not there. Blocks.
    #[must_use]
    pub fn find(&self, bucket: &str, key: &str, etag: &str, size_bytes: u64) -> Option<CachedFile> {
        self.opened(&self.identity(bucket, key, etag, size_bytes), Self::open_if_there)
    }

    fn opened(
        &self,
        identity: &Identity<'_>,
        open: fn(&Self, &Identity<'_>) -> io::Result<Option<CachedFile>>,
    ) -> Option<CachedFile> {
        if !self.is_for(identity.size_bytes) {
            return None;
        }
        match open(self, identity) {
            Ok(file) => file.map(|file| self.checked(file)),
            Err(error) => {
                tracing::debug!(%error, key = identity.key, "the disk cache has no file for this object");
                None
            }
        }
    }

    fn open_if_there(&self, identity: &Identity<'_>) -> io::Result<Option<CachedFile>> {
        CachedFile::open(&self.directory, identity)
    }

    fn open_or_make(&self, identity: &Identity<'_>) -> io::Result<Option<CachedFile>> {
        if let Some(found) = self.open_if_there(identity)? {
            return Ok(Some(found));
        }
        if CachedFile::make(&self.directory, identity)? {
            // Room for it is made when something is stored in it, which may take a while.
            self.take(VERSION_BYTES);
        }
        CachedFile::find(&self.directory, identity)
    }

    fn checked(&self, mut file: CachedFile) -> CachedFile {
        if file.size_bytes() >= WHOLE_FROM_BYTES {
            file.note_in(self.checks.of(&file));
        }
        file
    }

    /// The data of a version that is all there and was found right, block by block, in this mount: to be read by somebody who
    /// does not check it. Eviction by this mount spares it meanwhile. `None` also for short versions, and where too much is
    /// given away already. Blocks.
    #[must_use]
    pub fn whole(self: &Arc<Self>, bucket: &str, key: &str, etag: &str, size_bytes: u64) -> Option<Whole> {
        if size_bytes < WHOLE_FROM_BYTES || !self.is_for(size_bytes) {
            return None;
        }
        let identity = self.identity(bucket, key, etag, size_bytes);
        let found = CachedFile::find(&self.directory, &identity).ok().flatten()?;
        if !self.checks.of(&found).are_all_right() || !found.is_whole() {
            return None;
        }
        if !self.pins.pin(found.name(), size_bytes, self.limit_bytes) {
            return None;
        }
        found.has_been_used_again(&self.directory);
        Some(Whole {
            file: found,
            cache: self.clone(),
        })
    }

    /// True when every byte of the version is there. Blocks.
    #[must_use]
    pub fn has_all(&self, bucket: &str, key: &str, etag: &str, size_bytes: u64) -> bool {
        let identity = self.identity(bucket, key, etag, size_bytes);
        self.is_for(size_bytes)
            && CachedFile::find(&self.directory, &identity)
                .is_ok_and(|file| file.is_some_and(|file| file.is_whole()))
    }

    fn identity<'a>(&'a self, bucket: &'a str, key: &'a str, etag: &'a str, size_bytes: u64) -> Identity<'a> {
        Identity {
            endpoint: &self.endpoint,
            bucket,
            key,
            etag,
            size_bytes,
        }
    }

    /// False for versions that are never cached.
    #[must_use]
    pub fn is_for(&self, size_bytes: u64) -> bool {
        size_bytes > 0 && size_bytes <= self.limit_bytes / LARGEST_PART
    }

    /// Reads what is stored of `[offset, offset + buffer.len())`; false when some of it is not, or is damaged. Blocks.
    pub fn read(&self, file: &CachedFile, offset: u64, buffer: &mut [u8]) -> bool {
        let is_there = self.read_checked(file, offset, buffer);
        if is_there {
            self.served_bytes
                .fetch_add(buffer.len() as u64, Ordering::Relaxed);
        }
        is_there
    }

    fn read_checked(&self, file: &CachedFile, offset: u64, buffer: &mut [u8]) -> bool {
        match file.read(offset, buffer) {
            Ok(()) => true,
            Err(file::Missing::Absent) => false,
            Err(file::Missing::Damaged { at }) => {
                self.damaged_blocks.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    file = %file.path().display(),
                    at,
                    "a block of the disk cache is damaged; it is fetched again"
                );
                false
            }
        }
    }

    /// Whether all of `range` is stored and right. Blocks.
    fn has(&self, file: &CachedFile, range: ByteRange) -> bool {
        if file.was_found_right(range) {
            return true;
        }
        let mut buffer = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = (at + MAX_STORE_BYTES).min(range.end);
            buffer.resize((end - at) as usize, 0);
            if !self.read_checked(file, at, &mut buffer) {
                return false;
            }
            at = end;
        }
        true
    }

    /// How many versions this mount has removed to make room for others.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// The right to store up to [`MAX_STORE_BYTES`]; `None` when the disk is behind.
    pub async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            return Some(slot);
        }
        let begun = rt::now();
        let patience = self.patience().left_at(begun);
        let slot = rt::timeout(patience, self.slots.clone().acquire_owned()).await;
        self.patience().spend(begun.elapsed());
        slot.ok()?.ok()
    }

    fn patience(&self) -> std::sync::MutexGuard<'_, Patience> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `work` done on the disk; `None` when that takes too long, or something before it did and still does.
    pub async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.late_answers.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let mut answer = Box::pin(rt::blocking(work));
        if let Ok(answer) = rt::timeout(DISK_PATIENCE, &mut answer).await {
            return Some(answer);
        }
        if self.late_answers.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                directory = %self.directory.display(),
                "the disk cache does not answer; it is left out until it does"
            );
        }
        let cache = self.clone();
        drop(rt::spawn(async move {
            answer.await;
            cache.late_answers.fetch_sub(1, Ordering::Relaxed);
        }));
        None
    }

    /// Stores the blocks that lie wholly within `[offset, offset + data.len())`. Blocks.
    pub fn store(&self, file: &CachedFile, offset: u64, data: &[u8]) {
        match file.store(offset, data) {
            Ok(stored_bytes) => self.note_stored(stored_bytes),
            // A full disk: nothing is lost but the next read's time.
            Err(error) => tracing::debug!(%error, file = %file.path().display(), "a block was not cached"),
        }
    }

    fn note_stored(&self, bytes: u64) {
        self.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.take(bytes.next_multiple_of(UNIT_BYTES));
        self.make_room();
    }

    fn take(&self, bytes: u64) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.taken_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn make_room(&self) {
        let used_bytes = self.used_bytes.load(Ordering::Relaxed);
        let is_due = used_bytes > self.limit_bytes
            || self.taken_bytes.load(Ordering::Relaxed) > self.limit_bytes / RESCAN_PART;
        if !is_due || self.is_evicting.swap(true, Ordering::AcqRel) {
            return;
        }
        let used_bytes = self.used_bytes.load(Ordering::Relaxed);
        self.taken_bytes.store(0, Ordering::Relaxed);
        match evict::evict(&self.directory, self.limit_bytes, &self.pins.names()) {
            Ok(left) => {
                // What was taken meanwhile may have been seen or not: it counts.
                self.used_bytes.fetch_add(left.used_bytes, Ordering::Relaxed);
                self.used_bytes.fetch_sub(used_bytes, Ordering::Relaxed);
                self.evictions.fetch_add(left.evictions, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(%error, "the disk cache could not be looked through"),
        }
        self.is_evicting.store(false, Ordering::Release);
    }

    #[must_use]
    pub fn counts(&self) -> BlockCounts {
        BlockCounts {
            served_bytes: self.served_bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
            damaged_blocks: self.damaged_blocks.load(Ordering::Relaxed),
        }
    }
}

/// A version that may be read without checks. While it lives, eviction by this mount leaves the version alone; whoever else
/// removes it takes its name only.
pub struct Whole {
    file: CachedFile,
    cache: Arc<BlockCache>,
}

/// The object's bytes, and no others.
impl AsFd for Whole {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.cache.pins.unpin(self.file.name());
    }
}
