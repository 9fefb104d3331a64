//! Blocks of objects on disk, kept across mounts: one sparse file for each version of an object.
//!
//! Difficulties, and who solves them:
//! 1. Never a byte of another version: each file says whose it is, and a file that says something else is not used
//!    ([`file`]).
//! 2. A crash between writing a block and noting it, a disk that lost a write, a file that somebody damaged: each block
//!    has a checksum, noted after the block was written; one that does not fit counts as absent ([`file`]).
//! 3. Several mounts share the directory without talking to each other: what they write to one file is the same, and a
//!    file that one removes stays readable for those who have it open ([`evict`]).
//! 4. Reading everything once (a backup, a search) must not drive out what is used again and again: a version begins on
//!    probation and stays only when it is opened again ([`evict`]).
//! 5. Disk slower than network: reads wait for it during a small part of the time only, and a block that cannot be stored
//!    then is not stored ([`BlockCache::slot`]).
//! 6. A disk that does not answer at all: nothing is asked of it until it has answered what it was asked before
//!    ([`BlockCache::ask`]).

mod evict;
mod file;

pub use evict::{Usage, clear, usage};
pub use file::CachedFile;

use crate::rt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
/// The directory is looked through again when this part of the limit was written.
const RESCAN_PART: u64 = 8;

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
    /// What all files took when they were last looked through, and what was written since.
    used_bytes: AtomicU64,
    written_bytes: AtomicU64,
    is_evicting: AtomicBool,
    slots: Arc<Semaphore>,
    patience: Mutex<Patience>,
    /// What was asked of the disk, not answered in time, and still is not.
    late_answers: AtomicU32,
    damaged_blocks: AtomicU64,
    served_bytes: AtomicU64,
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
        evict::make_directories(directory)?;
        let used_bytes = evict::evict(directory, limit_bytes)?;
        Ok(Arc::new(Self {
            directory: directory.to_owned(),
            limit_bytes,
            endpoint: endpoint.to_owned(),
            used_bytes: AtomicU64::new(used_bytes),
            written_bytes: AtomicU64::new(0),
            is_evicting: AtomicBool::new(false),
            slots: Arc::new(Semaphore::new(STORES_AT_ONCE)),
            patience: Mutex::new(Patience {
                left: SLOT_PATIENCE,
                at: rt::now(),
            }),
            late_answers: AtomicU32::new(0),
            damaged_blocks: AtomicU64::new(0),
            served_bytes: AtomicU64::new(0),
        }))
    }

    /// The file of a version; `None` for one that is not to be cached, or where the disk does not let us. Blocks.
    #[must_use]
    pub fn file(
        self: &Arc<Self>,
        bucket: &str,
        key: &str,
        etag: &str,
        size_bytes: u64,
    ) -> Option<CachedFile> {
        if !self.is_for(size_bytes) {
            return None;
        }
        let identity = self.identity(bucket, key, etag, size_bytes);
        match CachedFile::open(&self.directory, &identity) {
            Ok(file) => file,
            Err(error) => {
                tracing::debug!(%error, key, "the disk cache has no file for this object");
                None
            }
        }
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

    fn is_for(&self, size_bytes: u64) -> bool {
        size_bytes > 0 && size_bytes <= self.limit_bytes / LARGEST_PART
    }

    /// Reads what is stored of `[offset, offset + buffer.len())`; false when some of it is not, or is damaged. Blocks.
    pub fn read(&self, file: &CachedFile, offset: u64, buffer: &mut [u8]) -> bool {
        match file.read(offset, buffer) {
            Ok(()) => {
                self.served_bytes
                    .fetch_add(buffer.len() as u64, Ordering::Relaxed);
                true
            }
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
            Ok(stored_bytes) => self.note_written(stored_bytes),
            // A full disk: nothing is lost but the next read's time.
            Err(error) => tracing::debug!(%error, file = %file.path().display(), "a block was not cached"),
        }
    }

    fn note_written(&self, bytes: u64) {
        let written = self.written_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let since_scan = self.used_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let is_due = since_scan > self.limit_bytes
            || written / (self.limit_bytes / RESCAN_PART).max(1)
                != (written - bytes) / (self.limit_bytes / RESCAN_PART).max(1);
        if is_due && !self.is_evicting.swap(true, Ordering::AcqRel) {
            match evict::evict(&self.directory, self.limit_bytes) {
                Ok(used_bytes) => self.used_bytes.store(used_bytes, Ordering::Relaxed),
                Err(error) => tracing::warn!(%error, "the disk cache could not be looked through"),
            }
            self.is_evicting.store(false, Ordering::Release);
        }
    }

    #[must_use]
    pub fn counts(&self) -> BlockCounts {
        BlockCounts {
            served_bytes: self.served_bytes.load(Ordering::Relaxed),
            stored_bytes: self.written_bytes.load(Ordering::Relaxed),
            damaged_blocks: self.damaged_blocks.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const ENDPOINT: &str = "http://store";

    fn open(directory: &Path, limit_bytes: u64) -> Arc<BlockCache> {
        BlockCache::open(directory, limit_bytes, ENDPOINT).expect("opened")
    }

    fn data(seed: usize, len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 + at / 251 + seed) as u8).collect()
    }

    fn read(cache: &BlockCache, file: &CachedFile, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; len];
        cache.read(file, offset, &mut buffer).then_some(buffer)
    }

    #[test]
    fn what_was_stored_is_there_for_the_next_mount_and_for_others_at_the_same_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let len = 3 * BLOCK_BYTES as usize + 100;
        let content = data(1, len);
        let cache = open(directory.path(), 1 << 30);
        let file = cache.file("b", "k", "e", len as u64).expect("a file");
        assert_eq!(read(&cache, &file, 0, 10), None);
        // Only whole blocks are kept, and the last one, which is short.
        cache.store(&file, 10, &content[10..]);
        assert_eq!(read(&cache, &file, 0, 20), None);
        let from = BLOCK_BYTES as usize;
        assert_eq!(
            read(&cache, &file, BLOCK_BYTES, len - from).as_deref(),
            Some(&content[from..])
        );
        assert!(!cache.has_all("b", "k", "e", len as u64));

        let other = open(directory.path(), 1 << 30);
        let same = other.file("b", "k", "e", len as u64).expect("a file");
        other.store(&same, 0, &content[..from]);
        assert_eq!(read(&cache, &file, 5, len - 5).as_deref(), Some(&content[5..]));
        assert!(cache.has_all("b", "k", "e", len as u64));
        assert_eq!(cache.counts().damaged_blocks, 0);
    }

    #[test]
    fn every_part_of_the_identity_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = open(directory.path(), 1 << 30);
        let file = cache.file("b", "k", "e", 5).expect("a file");
        cache.store(&file, 0, b"hello");
        assert!(cache.has_all("b", "k", "e", 5));
        for (bucket, key, etag, size) in [
            ("b2", "k", "e", 5),
            ("b", "k2", "e", 5),
            ("b", "k", "e2", 5),
            ("b", "k", "e", 6),
        ] {
            assert!(!cache.has_all(bucket, key, etag, size));
        }
        let elsewhere = BlockCache::open(directory.path(), 1 << 30, "http://other").expect("opened");
        assert!(!elsewhere.has_all("b", "k", "e", 5));
    }

    #[test]
    fn a_file_that_is_not_what_its_name_says_is_not_used() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = open(directory.path(), 1 << 30);
        let one = cache.file("b", "one", "e", 5).expect("a file");
        cache.store(&one, 0, b"hello");
        let two = cache.file("b", "two", "e", 5).expect("a file");
        cache.store(&two, 0, b"HELLO");
        std::fs::copy(one.path(), two.path()).expect("copied");
        drop(two);
        assert!(!cache.has_all("b", "two", "e", 5));
        let two = cache.file("b", "two", "e", 5);
        assert!(two.is_none_or(|two| read(&cache, &two, 0, 5).is_none()));
    }

    #[test]
    fn a_damaged_block_is_counted_and_can_be_stored_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = open(directory.path(), 1 << 30);
        let len = 2 * BLOCK_BYTES as usize;
        let content = data(7, len);
        let file = cache.file("b", "k", "e", len as u64).expect("a file");
        cache.store(&file, 0, &content);
        let on_disk = std::fs::File::options()
            .write(true)
            .open(file.path())
            .expect("opened");
        let end = on_disk.metadata().expect("there").len();
        on_disk.write_at(b"x", end - 10).expect("damaged");
        assert_eq!(read(&cache, &file, 0, 100).as_deref(), Some(&content[..100]));
        assert_eq!(read(&cache, &file, 0, len), None);
        assert_eq!(cache.counts().damaged_blocks, 1);
        assert!(!file.is_whole());
        // Now it is absent.
        assert_eq!(read(&cache, &file, 0, len), None);
        assert_eq!(cache.counts().damaged_blocks, 1);
        cache.store(&file, 0, &content);
        assert_eq!(read(&cache, &file, 0, len), Some(content));
    }

    #[test]
    fn a_scan_does_not_drive_out_what_is_used_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let limit_bytes = 64 * BLOCK_BYTES;
        let cache = open(directory.path(), limit_bytes);
        let len = 4 * BLOCK_BYTES;
        let fill = |key: &str| {
            let file = cache.file("b", key, "e", len).expect("a file");
            cache.store(&file, 0, &data(3, len as usize));
        };
        for used in 0..4 {
            fill(&format!("used{used}"));
            // Opened again, it is off probation.
            assert!(cache.file("b", &format!("used{used}"), "e", len).is_some());
        }
        for scanned in 0..100 {
            fill(&format!("scanned{scanned}"));
            let usage = usage(directory.path()).expect("usage");
            assert!(
                usage.bytes <= limit_bytes + limit_bytes / RESCAN_PART + len,
                "{usage:?}"
            );
        }
        for used in 0..4 {
            assert!(cache.has_all("b", &format!("used{used}"), "e", len), "used{used}");
        }
        assert!(usage(directory.path()).expect("usage").files > 8);
        assert!(clear(directory.path()).expect("cleared").files > 8);
        assert_eq!(usage(directory.path()).expect("usage").files, 0);
    }

    #[test]
    fn what_is_too_large_for_the_cache_is_not_cached() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = open(directory.path(), 1 << 20);
        assert!(cache.file("b", "k", "e", (1 << 18) + 1).is_none());
        assert!(cache.file("b", "k", "e", 0).is_none());
    }
}
