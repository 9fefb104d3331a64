//! All of a version, for whoever asks for that: it waits for the disk as long as that goes on, and is told why something is not
//! there. Reads do neither.
//!
//! 1. What is read meanwhile is not stored by the reads too, which would write it twice ([`BlockCache::is_warming`]).
//! 2. A large version could be evicted for its own newer blocks: it is spared meanwhile ([`super::checks::Pins`]).
//! 3. Memory: what waits for the disk is bounded by [`WARMED_AT_ONCE`]. So are the threads that a disk keeps which does not
//!    answer any more: who is told so leaves his work behind ([`BlockCache::within`]).

use super::file::CachedFile;
use super::{BlockCache, LARGEST_PART, MAX_STORE_BYTES};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::ByteRange;
use crate::base::read_bytes::ReadBytes;
use crate::rt;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many runs of bytes are brought, and wait for the disk, at a time.
const WARMED_AT_ONCE: usize = 8;

/// The versions that are brought here as a whole, and how often each.
pub(super) struct Warmings {
    names: Mutex<HashMap<String, u32>>,
    turns: Arc<Semaphore>,
    /// Held by what is done on the disk until it is done, also where nobody waits for it any more.
    threads: Arc<Semaphore>,
}

impl Default for Warmings {
    fn default() -> Self {
        Self {
            names: Mutex::default(),
            turns: Arc::new(Semaphore::new(WARMED_AT_ONCE)),
            threads: Arc::new(Semaphore::new(WARMED_AT_ONCE)),
        }
    }
}

impl Warmings {
    fn names(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        // What this lock guards is consistent between any two statements.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A version that is brought here as a whole, as long as this lives.
pub struct Warming {
    cache: Arc<BlockCache>,
    file: Arc<CachedFile>,
    is_pinned: bool,
    /// What the disk has not done within this time is given up.
    patience: Duration,
}

impl BlockCache {
    /// Begins to bring a version here.
    ///
    /// # Errors
    /// `TooLarge` for what is never cached, `TimedOut`, and `LocalIo` where the disk does not let us.
    pub async fn warm(
        self: &Arc<Self>,
        (bucket, key): (Arc<str>, Arc<str>),
        etag: String,
        size_bytes: u64,
        patience: Duration,
    ) -> Result<Warming> {
        if !self.is_for(size_bytes) {
            let text = format!(
                "{size_bytes} bytes are more than the disk cache takes of one object, which are {} (a quarter of --cache-size)",
                self.limit_bytes / LARGEST_PART
            );
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        let cache = self.clone();
        let opening = move || {
            let file = cache.open_or_make(&cache.identity(&bucket, &key, &etag, size_bytes))?;
            Ok(file.map(|file| cache.checked(file)))
        };
        let file = match self.within(patience, opening).await? {
            Ok(Some(file)) => Arc::new(file),
            Ok(None) => return Err(evicted()),
            Err(error) => return Err(refused(&error)),
        };
        *self.warmings.names().entry(file.name().to_owned()).or_default() += 1;
        Ok(Warming {
            is_pinned: self.pins.pin(file.name(), size_bytes, self.limit_bytes),
            cache: self.clone(),
            file,
            patience,
        })
    }

    /// True while all of the version is brought here by [`Self::warm`].
    #[must_use]
    pub fn is_warming(&self, file: &CachedFile) -> bool {
        self.warmings.names().contains_key(file.name())
    }

    /// Has `work` done on the disk.
    async fn within<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let thread = rt::timeout(patience, self.warmings.threads.clone().acquire_owned()).await;
        let thread = thread.map_err(|_| too_slow(patience))?;
        let working = rt::blocking(move || {
            let done = work();
            drop(thread);
            done
        });
        let done = rt::timeout(patience, working).await;
        done.map_err(|_| too_slow(patience))
    }
}

impl Warming {
    /// Leave to bring one run of up to [`MAX_STORE_BYTES`].
    ///
    /// # Errors
    /// `ShuttingDown`.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        let turn = self.cache.warmings.turns.clone().acquire_owned().await;
        turn.map_err(|_| Error::new(ErrorKind::ShuttingDown, "the mount is ending"))
    }

    /// Whether all of `range` is there, and was found right in this mount. A damaged block is forgotten.
    ///
    /// # Errors
    /// `TimedOut`.
    pub async fn has(&self, range: ByteRange) -> Result<bool> {
        let (cache, file) = (self.cache.clone(), self.file.clone());
        self.cache
            .within(self.patience, move || cache.has(&file, range))
            .await
    }

    /// Stores the blocks that lie wholly within what begins at `offset`, as soon as the disk takes them.
    ///
    /// # Errors
    /// `TimedOut`, `LocalIo` when the disk refuses, or when the version was evicted meanwhile.
    pub async fn store(&self, offset: u64, data: ReadBytes) -> Result<()> {
        debug_assert!(data.len() as u64 <= MAX_STORE_BYTES, "what a slot is for");
        let slot = rt::timeout(self.patience, self.cache.slots.clone().acquire_owned()).await;
        let slot = slot.map_err(|_| too_slow(self.patience))?;
        let (cache, file) = (self.cache.clone(), self.file.clone());
        let storing = move || {
            let stored = file.store(offset, data.as_slice());
            drop(slot);
            let stored_bytes = stored?;
            cache.note_stored(stored_bytes);
            Ok(!file.is_evicted())
        };
        match self.cache.within(self.patience, storing).await? {
            Ok(true) => Ok(()),
            Ok(false) => Err(evicted()),
            Err(error) => Err(refused(&error)),
        }
    }
}

impl Drop for Warming {
    fn drop(&mut self) {
        if self.is_pinned {
            self.cache.pins.unpin(self.file.name());
        }
        let mut names = self.cache.warmings.names();
        if let Some(count) = names.get_mut(self.file.name()) {
            *count -= 1;
            if *count == 0 {
                names.remove(self.file.name());
            }
        }
    }
}

fn too_slow(patience: Duration) -> Error {
    let text = format!("the disk cache did not answer for {patience:?}");
    Error::new(ErrorKind::TimedOut, text)
}

fn refused(error: &io::Error) -> Error {
    Error::local_io(error, "the disk cache")
}

/// Also said of a version that was here before.
#[must_use]
pub fn evicted() -> Error {
    let text =
        "it was evicted from the disk cache again: other files took its room, or the cache was cleared";
    Error::new(ErrorKind::LocalIo(libc::ENOSPC), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn a_disk_that_does_not_answer_keeps_few_threads() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = BlockCache::open(directory.path(), 1 << 30, "http://store").expect("opened");
        let (answers, silent) = std::sync::mpsc::channel::<()>();
        let silent = Arc::new(Mutex::new(silent));
        let begun = Arc::new(AtomicUsize::new(0));
        for _ in 0..2 * WARMED_AT_ONCE {
            let (silent, begun) = (silent.clone(), begun.clone());
            let work = move || {
                begun.fetch_add(1, Ordering::Relaxed);
                // Until the disk answers, which it does when the sender goes.
                let _gone = silent.lock().unwrap_or_else(PoisonError::into_inner).recv();
            };
            let given_up = cache.within(Duration::from_millis(20), work).await;
            assert_eq!(
                given_up.err().map(|error| error.kind()),
                Some(ErrorKind::TimedOut)
            );
        }
        assert!(begun.load(Ordering::Relaxed) <= WARMED_AT_ONCE);
        drop(answers);
        let answered = cache.within(Duration::from_mins(1), || 7).await;
        assert_eq!(answered.ok(), Some(7));
    }
}
