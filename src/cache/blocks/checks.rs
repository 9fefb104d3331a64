//! What this mount has found right of the versions in the cache, and which of them eviction is to leave alone.
//!
//! 1. A version that somebody else reads for us (the kernel) is not checked as it is read: each of its blocks must have been
//!    found right before, by this mount, or stored by it ([`Checks`]).
//! 2. A version may be evicted and stored again by another mount: what is known is known of one generation of it
//!    ([`AllChecks::of`]).
//! 3. Memory stays bounded: of the versions used longest ago nothing is known any more ([`MOST_BYTES`]).
//! 4. What must stay could fill the cache: it takes half of the limit at most ([`Pins::pin`]).

use super::file::CachedFile;
use lru::LruCache;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known of all versions takes this much.
const MOST_BYTES: u64 = 8 << 20;
/// Of which each version takes this besides a bit for each block: its name, its place in the maps, what allocations cost.
const VERSION_BYTES: u64 = 320;
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

    fn taken_bytes(&self) -> u64 {
        VERSION_BYTES + size_of_val(&*self.words) as u64
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
    taken_bytes: u64,
    most_bytes: u64,
}

impl AllChecks {
    pub fn new() -> Self {
        Self(Mutex::new(Known::of_at_most(MOST_BYTES)))
    }

    /// What is known of a version's generation, from now on if it is not yet.
    pub fn of(&self, file: &CachedFile) -> Arc<Checks> {
        lock(&self.0).of(file.name(), file.generation(), file.blocks())
    }
}

impl Known {
    fn of_at_most(most_bytes: u64) -> Self {
        Self {
            versions: LruCache::unbounded(),
            taken_bytes: 0,
            most_bytes,
        }
    }

    fn of(&mut self, name: &str, generation: &[u8], blocks: u64) -> Arc<Checks> {
        if let Some((known, checks)) = self.versions.get(name)
            && known == generation
        {
            return checks.clone();
        }
        let checks = Arc::new(Checks::new(blocks));
        self.taken_bytes += checks.taken_bytes();
        let entry = (generation.to_vec(), checks.clone());
        if let Some((_, former)) = self.versions.put(name.to_owned(), entry) {
            self.taken_bytes -= former.taken_bytes();
        }
        while self.taken_bytes > self.most_bytes
            && let Some((_, (_, oldest))) = self.versions.pop_lru()
        {
            self.taken_bytes -= oldest.taken_bytes();
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
    fn many_versions_are_forgotten_before_they_take_much_memory() {
        const VERSIONS: u64 = 10;
        let mut known = Known::of_at_most(VERSIONS * (VERSION_BYTES + 8));
        let kept = known.of("kept", b"1", 1);
        for number in 0..1_000 {
            known.of(&number.to_string(), b"1", 1).note(0);
            assert!(Arc::ptr_eq(&kept, &known.of("kept", b"1", 1)), "{number}");
        }
        assert_eq!(known.versions.len() as u64, VERSIONS);
        assert!(known.of("999", b"1", 1).has(0) && !known.of("0", b"1", 1).has(0));
        assert!(!known.of("999", b"2", 1).has(0), "another generation");
        known.of("large", b"1", VERSIONS * 8 * VERSION_BYTES);
        assert!(known.taken_bytes <= known.most_bytes);
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
