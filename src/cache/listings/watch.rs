//! What becomes of names while somebody reads their directory.
//!
//! 1. A reader has names that were listed a while ago: it asks for each, before it hands it out, what has become of it since
//!    it began ([`Listings::since`]).
//! 2. Nobody knows how many changes there will be: when there are too many all names are unsure ([`Watched::doubt`]), and
//!    nothing is noted where nobody reads.
//! 3. Readers come and go at any time: the notes are shared, and each change has its place in the order of all.

use super::{Answer, Inner, Listable, Listings, Moment};
use crate::rt::Instant;
use std::collections::HashMap;
use std::hash::Hash;

/// Changes of one directory that are noted by name.
const MAX_NAMES: usize = 16_384;

/// What is known of a name that was listed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since<E> {
    /// Nothing that the listing did not say.
    AsListed,
    IsGone,
    /// It is this one, as was learned then.
    Is(E, Instant),
    /// Something has happened to it: what it is now only the bucket knows.
    IsUnsure,
}

/// A reader of a directory, to be given back by [`Listings::unwatch`].
#[derive(Debug)]
pub struct Watch<K> {
    directory: K,
    from: Moment,
}

/// What has happened in a directory since the first of its readers began.
pub(super) struct Watched<E> {
    readers: usize,
    names: HashMap<String, (Moment, Since<E>)>,
    /// What was listed before this may be anything.
    unsure_until: Moment,
}

impl<E> Watched<E> {
    fn note(&mut self, name: &str, now: Moment, since: Since<E>) {
        if self.names.len() >= MAX_NAMES && !self.names.contains_key(name) {
            self.doubt(now);
        }
        self.names.insert(name.to_owned(), (now, since));
    }

    pub fn doubt(&mut self, now: Moment) {
        self.names.clear();
        self.unsure_until = now;
    }
}

impl<K: Hash + Eq + Clone, E: Listable> Inner<K, E> {
    pub(super) fn note_name(&mut self, directory: &K, name: &str, since: impl FnOnce() -> Since<E>) {
        if let Some(watched) = self.watched.get_mut(directory) {
            watched.note(name, self.last_change, since());
        }
    }

    pub(super) fn note_doubt(&mut self, directory: &K) {
        if let Some(watched) = self.watched.get_mut(directory) {
            watched.doubt(self.last_change);
        }
    }
}

impl<K: Hash + Eq + Clone, E: Listable> Listings<K, E> {
    /// Somebody begins to read the directory.
    pub fn watch(&self, directory: &K) -> Watch<K> {
        let mut inner = self.lock();
        let from = inner.last_change;
        let watched = inner.watched.entry(directory.clone()).or_insert_with(|| Watched {
            readers: 0,
            names: HashMap::new(),
            unsure_until: Moment(0),
        });
        watched.readers += 1;
        Watch {
            directory: directory.clone(),
            from,
        }
    }

    /// The reader is done.
    pub fn unwatch(&self, watch: &Watch<K>) {
        let mut inner = self.lock();
        if let Some(watched) = inner.watched.get_mut(&watch.directory) {
            watched.readers -= 1;
            if watched.readers == 0 {
                inner.watched.remove(&watch.directory);
            }
        }
    }

    /// What has become, since the reader began, of a name that it has from a listing of `listed_at`; of one that it has from
    /// elsewhere where that is `None`.
    #[must_use]
    pub fn since(&self, watch: &Watch<K>, name: &str, listed_at: Option<Instant>) -> Since<E> {
        let inner = self.lock();
        if inner.last_change == watch.from {
            // Nothing anywhere.
            return Since::AsListed;
        }
        if let Some(watched) = inner.watched.get(&watch.directory) {
            match watched.names.get(name) {
                Some((at, since)) if *at > watch.from => return since.clone(),
                _ if watched.unsure_until > watch.from => return Since::IsUnsure,
                _ => {}
            }
        }
        let newer = listed_at.and_then(|listed_at| {
            let listing = inner.by_directory.peek(&watch.directory)?;
            (listing.listed_at > listed_at).then_some(listing)
        });
        match newer.map(|listing| listing.answer(name)) {
            Some(Answer::Present(entry, at)) => Since::Is(entry, at),
            Some(Answer::Absent(_)) => Since::IsGone,
            Some(Answer::Unknown) | None => Since::AsListed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn since(cache: &Listings<&'static str, u32>, watch: &Watch<&'static str>, name: &str) -> Since<u32> {
        cache.since(watch, name, None)
    }

    #[test]
    fn a_reader_learns_what_became_of_each_name_since_it_began() {
        let cache: Listings<&str, u32> = Listings::new(1 << 20);
        cache.remove(&"d", "before");
        let early = cache.watch(&"d");
        cache.remove(&"d", "gone");
        let late = cache.watch(&"d");
        cache.insert(&"d", "new", 2);
        cache.forget_name(&"d", "told");
        cache.remove(&"other", "as it was");
        assert_eq!(since(&cache, &early, "gone"), Since::IsGone);
        assert_eq!(since(&cache, &late, "gone"), Since::AsListed);
        for watch in [&early, &late] {
            assert_eq!(since(&cache, watch, "before"), Since::AsListed);
            assert!(matches!(since(&cache, watch, "new"), Since::Is(2, _)));
            assert_eq!(since(&cache, watch, "told"), Since::IsUnsure);
            assert_eq!(since(&cache, watch, "as it was"), Since::AsListed);
        }
        cache.forget_where(|directory| *directory == "d");
        assert_eq!(since(&cache, &late, "gone"), Since::IsUnsure);
        // What is known again is.
        cache.remove(&"d", "gone");
        assert_eq!(since(&cache, &late, "gone"), Since::IsGone);
        cache.unwatch(&early);
        assert_eq!(since(&cache, &late, "gone"), Since::IsGone);
        cache.unwatch(&late);
        assert!(cache.lock().watched.is_empty());
    }

    #[test]
    fn more_changes_than_are_noted_make_all_names_unsure() {
        let cache: Listings<&str, u32> = Listings::new(1 << 20);
        let watch = cache.watch(&"d");
        for number in 0..MAX_NAMES {
            cache.remove(&"d", &number.to_string());
        }
        assert_eq!(since(&cache, &watch, "0"), Since::IsGone);
        assert_eq!(since(&cache, &watch, "x"), Since::AsListed);
        cache.remove(&"d", "one more");
        for (name, expected) in [
            ("one more", Since::IsGone),
            ("0", Since::IsUnsure),
            ("x", Since::IsUnsure),
        ] {
            assert_eq!(since(&cache, &watch, name), expected, "{name}");
        }
    }

    #[test]
    fn a_newer_listing_counts() {
        let cache: Listings<&str, u32> = Listings::new(1 << 20);
        let now = rt::now();
        let watch = cache.watch(&"d");
        let ticket = cache.begin(&"d");
        let listed_at = now + Duration::from_secs(1);
        cache.finish(ticket, BTreeMap::from([("a".to_owned(), 1)]), listed_at);
        for (name, expected) in [("a", Since::Is(1, listed_at)), ("b", Since::IsGone)] {
            assert_eq!(cache.since(&watch, name, Some(now)), expected);
            assert_eq!(cache.since(&watch, name, Some(listed_at)), Since::AsListed);
            assert_eq!(cache.since(&watch, name, None), Since::AsListed);
        }
    }
}
