//! What this mount has found right of the versions in the cache, and which of them eviction is to leave alone.
//!
//! 1. A version that somebody else reads for us (the kernel) is not checked as it is read: each of its blocks must have been
//!    found right before, by this mount, or stored by it ([`Checks`]).
//! 2. A version may be evicted and stored again by another mount: what is known is known of one generation of it
//!    ([`AllChecks::of`]).
//! 3. Memory stays bounded: of the versions used longest ago nothing is known any more ([`MOST_BLOCKS`]).
//! 4. What must stay could fill the cache: it takes half of the limit at most ([`Pins::pin`]).

use super::file::CachedFile;
use lru::LruCache;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A bit each, so a MiB in all.
const MOST_BLOCKS: u64 = 8 << 20;
/// What has to stay may take this part of the limit.
const PINNED_PART: u64 = 2;

/// A bit for each block of a version that was found right in this mount.
#[derive(Debug)]
pub(super) struct Checks {
    words: Box<[AtomicU64]>,
    blocks: u64,
}

impl Checks {
    fn new(blocks: u64) -> Self {
        let words = blocks.div_ceil(u64::from(u64::BITS));
        Self {
            words: (0..words).map(|_| AtomicU64::new(0)).collect(),
            blocks,
        }
    }

    fn place(&self, block: u64) -> Option<(&AtomicU64, u64)> {
        let bits = u64::from(u64::BITS);
        let word = self.words.get((block / bits) as usize)?;
        Some((word, 1 << (block % bits)))
    }

    pub fn note(&self, block: u64) {
        if let Some((word, bit)) = self.place(block) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub fn has(&self, block: u64) -> bool {
        self.place(block)
            .is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    pub fn forget(&self, block: u64) {
        if let Some((word, bit)) = self.place(block) {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    pub fn are_all_right(&self) -> bool {
        let right: u32 = self
            .words
            .iter()
            .map(|word| word.load(Ordering::Relaxed).count_ones())
            .sum();
        u64::from(right) == self.blocks
    }
}

/// Of all versions.
pub(super) struct AllChecks(Mutex<Known>);

struct Known {
    versions: LruCache<String, (Vec<u8>, Arc<Checks>)>,
    blocks: u64,
}

impl AllChecks {
    pub fn new() -> Self {
        Self(Mutex::new(Known {
            versions: LruCache::unbounded(),
            blocks: 0,
        }))
    }

    /// What is known of a version's generation, from now on if it is not yet.
    pub fn of(&self, file: &CachedFile) -> Arc<Checks> {
        let mut known = lock(&self.0);
        if let Some((generation, checks)) = known.versions.get(file.name())
            && generation == file.generation()
        {
            return checks.clone();
        }
        let checks = Arc::new(Checks::new(file.blocks()));
        let entry = (file.generation().to_vec(), checks.clone());
        known.blocks += checks.blocks;
        if let Some((_, former)) = known.versions.put(file.name().to_owned(), entry) {
            known.blocks -= former.blocks;
        }
        while known.blocks > MOST_BLOCKS
            && let Some((_, (_, oldest))) = known.versions.pop_lru()
        {
            known.blocks -= oldest.blocks;
        }
        checks
    }
}

/// Versions that eviction leaves alone: how often each is pinned, and how long it is.
#[derive(Default)]
pub(super) struct Pins(Mutex<HashMap<String, (u32, u64)>>);

impl Pins {
    /// False when there is no room for one more.
    pub fn pin(&self, name: &str, size_bytes: u64, limit_bytes: u64) -> bool {
        let mut pinned = lock(&self.0);
        if let Some((count, _)) = pinned.get_mut(name) {
            *count += 1;
            return true;
        }
        let pinned_bytes: u64 = pinned.values().map(|(_, size_bytes)| size_bytes).sum();
        let has_room = pinned_bytes + size_bytes <= limit_bytes / PINNED_PART;
        if has_room {
            pinned.insert(name.to_owned(), (1, size_bytes));
        }
        has_room
    }

    pub fn unpin(&self, name: &str) {
        let mut pinned = lock(&self.0);
        if let Some((count, _)) = pinned.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                pinned.remove(name);
            }
        }
    }

    pub fn names(&self) -> HashSet<String> {
        lock(&self.0).keys().cloned().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_right_once_every_block_was_and_none_was_forgotten() {
        for blocks in [1, 63, 64, 65, 130] {
            let checks = Checks::new(blocks);
            for block in (0..blocks).rev() {
                assert!(!checks.are_all_right(), "{blocks}");
                checks.note(block);
                checks.note(block);
            }
            assert!(checks.are_all_right(), "{blocks}");
            checks.forget(blocks - 1);
            assert!(!checks.are_all_right(), "{blocks}");
        }
    }

    #[test]
    fn what_is_pinned_takes_half_of_the_limit_at_most() {
        let pins = Pins::default();
        assert!(pins.pin("a", 30, 100));
        assert!(pins.pin("b", 20, 100));
        assert!(!pins.pin("c", 1, 100));
        assert!(pins.pin("a", 30, 100), "it is there already");
        pins.unpin("a");
        assert!(!pins.pin("c", 1, 100), "still pinned once");
        pins.unpin("a");
        assert!(pins.pin("c", 30, 100));
        assert_eq!(pins.names(), HashSet::from(["b".to_owned(), "c".to_owned()]));
    }
}
