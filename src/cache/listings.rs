//! Complete listings of directories, weighted by the memory that they take.
//!
//! Difficulties, and who solves them:
//! 1. A listing that is read in pages while this mount changes the directory: [`Listings::begin`] hands out a ticket,
//!    and every change of the directory makes it worthless ([`Listings::finish`] then keeps nothing).
//! 2. A few huge directories must not drive out everything else: nothing over an eighth of the capacity is admitted.
//! 3. A change made through this mount is visible at once: [`Listings::insert`] and [`Listings::remove`] follow it.
//! 4. Who lists many directories at once does not know which ones before they come, and so cannot have a ticket for each:
//!    changes are remembered for a while, with their order ([`Listings::moment`], [`Listings::finish_since`]).
//! 5. How many directories a directory has is wanted with each of its attributes (its link count): it is counted along.
//! 6. Who reads a directory for a while hands out names long after they were listed: what has become of each since is noted
//!    while there is such a reader ([`watch`]).

mod watch;

use lru::LruCache;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::rt::{self, Instant};
use watch::Watched;
pub use watch::{Since, Watch};

/// One complete listing: what each name was, and when the bucket was asked.
#[derive(Clone, Debug)]
pub struct Listing<E> {
    pub entries: Arc<BTreeMap<String, E>>,
    pub listed_at: Instant,
    directories: usize,
    bytes: usize,
}

/// What a listing needs to know of its entries.
pub trait Listable: Clone {
    fn is_directory(&self) -> bool;
    /// What it takes besides its own size.
    fn heap_bytes(&self) -> usize;
}

/// What an allocation takes besides what is in it, about.
pub const ALLOCATION_BYTES: usize = 16;
/// What a listing takes besides its entries: its place in the maps, and its directory's name.
const LISTING_BYTES: usize = 512;

/// What an entry of a listing takes, about: a map's nodes are three quarters full.
pub fn entry_bytes<E: Listable>(name: &str, entry: &E) -> usize {
    let in_map = (size_of::<String>() + size_of::<E>()) * 4 / 3;
    in_map + ALLOCATION_BYTES + name.len() + entry.heap_bytes()
}

impl<E: Listable> Listing<E> {
    fn new(entries: BTreeMap<String, E>, listed_at: Instant) -> Self {
        Self {
            directories: entries.values().filter(|entry| entry.is_directory()).count(),
            bytes: LISTING_BYTES
                + entries
                    .iter()
                    .map(|(name, entry)| entry_bytes(name, entry))
                    .sum::<usize>(),
            entries: Arc::new(entries),
            listed_at,
        }
    }

    fn answer(&self, name: &str) -> Answer<E> {
        match self.entries.get(name) {
            Some(entry) => Answer::Present(entry.clone(), self.listed_at),
            None => Answer::Absent(self.listed_at),
        }
    }

    /// `name` is what `comes` from now on, or gone.
    fn change(&mut self, name: &str, comes: Option<E>) {
        let entries = Arc::make_mut(&mut self.entries);
        let goes = match comes {
            Some(entry) => {
                self.directories += usize::from(entry.is_directory());
                self.bytes += entry_bytes(name, &entry);
                entries.insert(name.to_owned(), entry)
            }
            None => entries.remove(name),
        };
        if let Some(gone) = goes {
            self.directories -= usize::from(gone.is_directory());
            self.bytes -= entry_bytes(name, &gone);
        }
    }
}

/// The answer for one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<E> {
    Present(E, Instant),
    /// The directory was listed completely at this time and had no such name.
    Absent(Instant),
    Unknown,
}

/// Proof that no change of the directory was missed since its listing began.
#[derive(Debug)]
pub struct Ticket<K> {
    directory: K,
    serial: u64,
}

/// A point in the order of all changes of what is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// So many directories are remembered as changed lately.
// unwrap: the number is not zero, which the compiler checks.
const REMEMBERED_CHANGES: NonZeroUsize = NonZeroUsize::new(8_192).unwrap();

/// Listings by directory. `K` names a directory, `E` is what is known of one entry.
pub struct Listings<K: Hash + Eq + Clone, E: Listable> {
    inner: Mutex<Inner<K, E>>,
    capacity_bytes: usize,
}

struct Inner<K: Hash + Eq, E: Listable> {
    by_directory: LruCache<K, Listing<E>>,
    held_bytes: usize,
    /// Serial numbers of listings that are being read now.
    in_progress: HashMap<K, Vec<u64>>,
    last_serial: u64,
    /// When each directory was changed last.
    changed: LruCache<K, Moment>,
    last_change: Moment,
    /// Up to here changes are not remembered one by one.
    forgotten_until: Moment,
    /// Directories that are being read.
    watched: HashMap<K, Watched<E>>,
}

impl<K: Hash + Eq + Clone, E: Listable> Listings<K, E> {
    #[must_use]
    pub fn new(capacity_bytes: usize) -> Self {
        let inner = Inner {
            by_directory: LruCache::unbounded(),
            held_bytes: 0,
            in_progress: HashMap::new(),
            last_serial: 0,
            changed: LruCache::new(REMEMBERED_CHANGES),
            last_change: Moment(0),
            forgotten_until: Moment(0),
            watched: HashMap::new(),
        };
        Self {
            inner: Mutex::new(inner),
            capacity_bytes,
        }
    }

    /// What one listing may take to be kept.
    #[must_use]
    pub fn admission_limit_bytes(&self) -> usize {
        self.capacity_bytes / 8
    }

    /// Announces that `directory` is about to be listed.
    pub fn begin(&self, directory: &K) -> Ticket<K> {
        let mut inner = self.lock();
        inner.last_serial += 1;
        let serial = inner.last_serial;
        inner
            .in_progress
            .entry(directory.clone())
            .or_default()
            .push(serial);
        Ticket {
            directory: directory.clone(),
            serial,
        }
    }

    /// Keeps a complete listing, unless this mount changed the directory meanwhile or it is too large.
    pub fn finish(&self, ticket: Ticket<K>, entries: BTreeMap<String, E>, listed_at: Instant) {
        let mut inner = self.lock();
        let is_good = inner.end(&ticket) && !inner.has_newer(&ticket.directory, listed_at);
        let listing = Listing::new(entries, listed_at);
        if is_good && listing.bytes <= self.admission_limit_bytes() {
            inner.put(ticket.directory, listing, self.capacity_bytes);
        }
    }

    /// To be asked before the bucket is.
    #[must_use]
    pub fn moment(&self) -> Moment {
        self.lock().last_change
    }

    /// True when this mount may have changed the directory since.
    #[must_use]
    pub fn has_changed(&self, directory: &K, since: Moment) -> bool {
        self.lock().has_changed(directory, since)
    }

    /// As [`Listings::finish`], for a listing without a ticket: the bucket was asked for its first entries at `listed_at`,
    /// after `since`.
    pub fn finish_since(
        &self,
        directory: &K,
        since: Moment,
        entries: BTreeMap<String, E>,
        listed_at: Instant,
    ) {
        let mut inner = self.lock();
        if inner.has_newer(directory, listed_at) || inner.has_changed(directory, since) {
            return;
        }
        let listing = Listing::new(entries, listed_at);
        if listing.bytes <= self.admission_limit_bytes() {
            inner.put(directory.clone(), listing, self.capacity_bytes);
        }
    }

    /// The listing was given up.
    pub fn abandon(&self, ticket: &Ticket<K>) {
        self.lock().end(ticket);
    }

    /// A directory that this mount has just made: it is known to be empty.
    pub fn insert_empty(&self, directory: &K, now: Instant) {
        let mut inner = self.lock();
        inner.note_change(directory);
        inner.note_doubt(directory);
        let listing = Listing::new(BTreeMap::new(), now);
        inner.put(directory.clone(), listing, self.capacity_bytes);
    }

    #[must_use]
    pub fn get(&self, directory: &K) -> Option<Listing<E>> {
        self.lock().by_directory.get(directory).cloned()
    }

    /// How many directories the directory has, and when it was listed.
    #[must_use]
    pub fn directories(&self, directory: &K) -> Option<(usize, Instant)> {
        let inner = self.lock();
        let listing = inner.by_directory.peek(directory)?;
        Some((listing.directories, listing.listed_at))
    }

    #[must_use]
    pub fn answer(&self, directory: &K, name: &str) -> Answer<E> {
        let mut inner = self.lock();
        let listing = inner.by_directory.get(directory);
        listing.map_or(Answer::Unknown, |listing| listing.answer(name))
    }

    /// `name` is there now, as `entry`.
    pub fn insert(&self, directory: &K, name: &str, entry: E) {
        self.change(directory, name, Some(entry));
    }

    /// `name` is gone.
    pub fn remove(&self, directory: &K, name: &str) {
        self.change(directory, name, None);
    }

    /// Forgets one directory's listing: nothing is known any more of what is in it.
    pub fn forget(&self, directory: &K) {
        let mut inner = self.lock();
        inner.note_change(directory);
        inner.note_doubt(directory);
        inner.take(directory);
    }

    /// Forgets one directory's listing, as nobody knows what `name` is now. All else in it is as it was.
    pub fn forget_name(&self, directory: &K, name: &str) {
        let mut inner = self.lock();
        inner.note_change(directory);
        inner.note_name(directory, name, || Since::IsUnsure);
        inner.take(directory);
    }

    /// Forgets the listings of all directories that `condemned` says.
    pub fn forget_where(&self, condemned: impl Fn(&K) -> bool) {
        let mut inner = self.lock();
        inner.in_progress.retain(|directory, _| !condemned(directory));
        inner.last_change.0 += 1;
        inner.forgotten_until = inner.last_change;
        let now = inner.last_change;
        for (_, watched) in inner.watched.iter_mut().filter(|(watched, _)| condemned(watched)) {
            watched.doubt(now);
        }
        let doomed: Vec<K> = inner
            .by_directory
            .iter()
            .map(|(directory, _)| directory)
            .filter(|d| condemned(d))
            .cloned()
            .collect();
        for directory in doomed {
            inner.take(&directory);
        }
    }

    /// Forgets everything older than `ttl`.
    pub fn expire(&self, now: Instant, ttl: Duration) {
        let mut inner = self.lock();
        let doomed: Vec<K> = inner
            .by_directory
            .iter()
            .filter(|(_, listing)| now.duration_since(listing.listed_at) > ttl)
            .map(|(directory, _)| directory.clone())
            .collect();
        for directory in doomed {
            inner.take(&directory);
        }
    }

    /// `name` is what `comes` from now on, or gone.
    fn change(&self, directory: &K, name: &str, comes: Option<E>) {
        let mut inner = self.lock();
        inner.note_change(directory);
        inner.note_name(directory, name, || {
            let entry = comes.clone();
            entry.map_or(Since::IsGone, |entry| Since::Is(entry, rt::now()))
        });
        let Some(mut listing) = inner.take(directory) else {
            return;
        };
        listing.change(name, comes);
        inner.put(directory.clone(), listing, self.capacity_bytes);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, E>> {
        // A panic while the lock was held leaves a cache that is still a valid cache.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone, E: Listable> Inner<K, E> {
    /// Whatever is being listed of the directory is worthless from now on.
    fn note_change(&mut self, directory: &K) {
        self.in_progress.remove(directory);
        self.last_change.0 += 1;
        if let Some((dropped, at)) = self.changed.push(directory.clone(), self.last_change)
            && dropped != *directory
        {
            self.forgotten_until = self.forgotten_until.max(at);
        }
    }

    fn has_newer(&self, directory: &K, listed_at: Instant) -> bool {
        let known = self.by_directory.peek(directory);
        known.is_some_and(|known| known.listed_at > listed_at)
    }

    fn has_changed(&self, directory: &K, since: Moment) -> bool {
        self.forgotten_until > since || self.changed.peek(directory).is_some_and(|at| *at > since)
    }

    /// True when the ticket is still good.
    fn end(&mut self, ticket: &Ticket<K>) -> bool {
        let Some(serials) = self.in_progress.get_mut(&ticket.directory) else {
            return false;
        };
        let before = serials.len();
        serials.retain(|serial| *serial != ticket.serial);
        let good = serials.len() < before;
        if serials.is_empty() {
            self.in_progress.remove(&ticket.directory);
        }
        good
    }

    fn put(&mut self, directory: K, listing: Listing<E>, capacity_bytes: usize) {
        self.take(&directory);
        // Whoever reads it has older entries.
        self.last_change.0 += 1;
        self.held_bytes += listing.bytes;
        self.by_directory.put(directory, listing);
        while self.held_bytes > capacity_bytes {
            match self.by_directory.pop_lru() {
                Some((_, dropped)) => self.held_bytes -= dropped.bytes,
                None => break,
            }
        }
    }

    fn take(&mut self, directory: &K) -> Option<Listing<E>> {
        let listing = self.by_directory.pop(directory)?;
        self.held_bytes -= listing.bytes;
        Some(listing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    impl Listable for u32 {
        fn is_directory(&self) -> bool {
            *self == 2
        }

        fn heap_bytes(&self) -> usize {
            0
        }
    }

    /// Room for so many listings of one short name each.
    fn room_for(listings: usize) -> usize {
        listings * (LISTING_BYTES + entry_bytes("a", &1))
    }

    fn entries(names: &[&str]) -> BTreeMap<String, u32> {
        names.iter().map(|name| ((*name).to_owned(), 1)).collect()
    }

    #[test]
    fn a_change_during_a_listing_makes_it_worthless() {
        let cache: Listings<&str, u32> = Listings::new(1 << 20);
        let ticket = cache.begin(&"d");
        cache.insert(&"d", "new", 2);
        cache.finish(ticket, entries(&["a"]), rt::now());
        assert_eq!(cache.answer(&"d", "a"), Answer::Unknown);

        let ticket = cache.begin(&"d");
        cache.finish(ticket, entries(&["a"]), rt::now());
        cache.insert(&"d", "new", 2);
        cache.remove(&"d", "a");
        assert!(matches!(cache.answer(&"d", "new"), Answer::Present(2, _)));
        assert!(matches!(cache.answer(&"d", "a"), Answer::Absent(_)));
    }

    #[test]
    fn of_two_listings_the_one_that_began_later_counts() {
        let cache: Listings<&str, u32> = Listings::new(1 << 20);
        let earlier = rt::now();
        let later = earlier + Duration::from_secs(1);
        let (slow, quick) = (cache.begin(&"d"), cache.begin(&"d"));
        cache.finish(quick, entries(&["new"]), later);
        cache.finish(slow, entries(&["old"]), earlier);
        assert_eq!(cache.answer(&"d", "new"), Answer::Present(1, later));
        assert_eq!(cache.answer(&"d", "old"), Answer::Absent(later));
    }

    #[test]
    fn a_listing_without_a_ticket_is_worthless_after_a_change_since_it_began() {
        let cache: Listings<&str, u32> = Listings::new(1 << 20);
        cache.insert(&"changed before", "x", 1);
        let (since, asked_at) = (cache.moment(), rt::now());
        cache.insert(&"changed", "new", 2);
        for directory in ["changed before", "changed", "unchanged"] {
            cache.finish_since(&directory, since, entries(&["a"]), asked_at);
        }
        assert!(matches!(
            cache.answer(&"changed before", "a"),
            Answer::Present(1, _)
        ));
        assert_eq!(cache.answer(&"changed", "a"), Answer::Unknown);
        assert!(matches!(cache.answer(&"unchanged", "a"), Answer::Present(1, _)));

        let since = cache.moment();
        cache.forget_where(|directory| *directory == "unchanged");
        cache.finish_since(&"unchanged", since, entries(&["a"]), asked_at);
        assert_eq!(cache.answer(&"unchanged", "a"), Answer::Unknown);
    }

    #[test]
    fn more_changes_than_are_remembered_count_for_all_directories() {
        let cache: Listings<usize, u32> = Listings::new(1 << 20);
        let (since, asked_at) = (cache.moment(), rt::now());
        for directory in 0..=REMEMBERED_CHANGES.get() {
            cache.remove(&directory, "x");
        }
        cache.finish_since(&usize::MAX, since, entries(&["a"]), asked_at);
        assert_eq!(cache.answer(&usize::MAX, "a"), Answer::Unknown);
        let since = cache.moment();
        cache.finish_since(&usize::MAX, since, entries(&["a"]), asked_at);
        assert!(matches!(cache.answer(&usize::MAX, "a"), Answer::Present(1, _)));
    }

    #[test]
    fn the_oldest_go_when_there_is_too_much_and_giants_never_enter() {
        let capacity_bytes = room_for(16);
        let cache: Listings<u32, u32> = Listings::new(capacity_bytes);
        for directory in 0..20 {
            let ticket = cache.begin(&directory);
            cache.finish(ticket, entries(&["a"]), rt::now());
        }
        assert_eq!(cache.answer(&0, "a"), Answer::Unknown);
        assert!(matches!(cache.answer(&19, "a"), Answer::Present(1, _)));
        assert_eq!(cache.lock().by_directory.len(), 16);
        let long = "a".repeat(2 * LISTING_BYTES);
        let ticket = cache.begin(&99);
        cache.finish(ticket, entries(&["a", &long]), rt::now());
        assert_eq!(cache.answer(&99, "a"), Answer::Unknown);
        // One that grows takes the room of others.
        for number in 0..4 {
            cache.insert(&19, &format!("{number}{long}"), 1);
        }
        assert!(cache.lock().held_bytes <= capacity_bytes);
        assert!(cache.lock().by_directory.len() < 9);
        for number in 0..4 {
            cache.remove(&19, &format!("{number}{long}"));
        }
        let inner = cache.lock();
        assert_eq!(inner.held_bytes, room_for(inner.by_directory.len()));
    }

    #[test]
    fn directories_are_counted_along() {
        let cache: Listings<&str, u32> = Listings::new(1 << 20);
        let count = |cache: &Listings<&str, u32>| cache.directories(&"d").map(|(count, _)| count);
        assert_eq!(count(&cache), None);
        let ticket = cache.begin(&"d");
        let listed = [("a", 2), ("b", 1), ("c", 2)].map(|(name, kind)| (name.to_owned(), kind));
        cache.finish(ticket, listed.into(), rt::now());
        assert_eq!(count(&cache), Some(2));
        cache.insert(&"d", "new", 2);
        cache.insert(&"d", "new", 2);
        cache.insert(&"d", "a", 1);
        cache.remove(&"d", "b");
        cache.remove(&"d", "c");
        assert_eq!(count(&cache), Some(1));
    }

    #[test]
    fn a_new_directory_is_known_to_be_empty() {
        let cache: Listings<&str, u32> = Listings::new(1 << 20);
        cache.insert_empty(&"d", rt::now());
        assert!(matches!(cache.answer(&"d", "x"), Answer::Absent(_)));
        cache.forget_where(|directory| directory.starts_with('d'));
        assert_eq!(cache.answer(&"d", "x"), Answer::Unknown);
    }
}
