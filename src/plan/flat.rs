//! The listings of all directories below one, from the pages of a listing without a delimiter.
//!
//! Difficulties, and what solves each:
//! 1. *When is a directory complete?* In a flat listing its keys stand together: it is complete when the first key comes
//!    that is not below it, and so are, at the end, all that are still open ([`FlatListing::push_page`]).
//! 2. *The same entries as its own listing would show* (`~%` names, markers, legacy markers): what is collected of a
//!    directory are the objects and common prefixes that its own listing has, and `plan::entries` makes entries of them.
//! 3. *Listings in no order* keep the keys of a directory together too where the store is a tree. Where they do not, a
//!    directory comes a second time, and everything is void ([`Disorder`]).
//! 4. *Bounded memory*: a directory with more entries than would be kept is not collected. One is open for each
//!    component of the current key at most.

use crate::base::names::DirectoryKey;
use crate::plan::entries::{DirectoryEntries, Entry, ListingOrder, PageObject};
use std::collections::HashSet;

/// Directories remembered as complete where a store's order has to be checked.
const MAX_CHECKED_DIRECTORIES: usize = 100_000;

/// Keys of one directory did not stand together (or there are too many directories to be sure).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disorder;

/// A directory of which every key has been seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompleteDirectory {
    pub directory: DirectoryKey,
    /// `None` when there are more than are kept.
    pub entries: Option<Vec<Entry>>,
    /// The number of the page that its first key was on.
    pub first_page: u64,
    /// Keys that stand directly in it.
    pub keys: usize,
}

struct OpenDirectory {
    prefix: String,
    objects: Vec<PageObject>,
    prefixes: Vec<String>,
    first_page: u64,
    keys: usize,
    is_too_large: bool,
}

/// Collects what the pages of a flat listing of `root` show. Keys directly in `root` are passed over.
pub struct FlatListing {
    root: String,
    order: ListingOrder,
    max_entries: usize,
    open: Vec<OpenDirectory>,
    complete: HashSet<String>,
    pages: u64,
}

impl FlatListing {
    #[must_use]
    pub fn new(root: &DirectoryKey, order: ListingOrder, max_entries: usize) -> Self {
        Self {
            root: root.prefix().to_owned(),
            order,
            max_entries,
            open: Vec::new(),
            complete: HashSet::new(),
            pages: 0,
        }
    }

    /// How many pages came.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The number of the oldest page that an incomplete directory has keys on; that of the next page where there is none.
    #[must_use]
    pub fn oldest_page(&self) -> u64 {
        self.open.first().map_or(self.pages, |open| open.first_page)
    }

    /// The page on which the first key of a directory was that is not complete yet.
    #[must_use]
    pub fn begun(&self, prefix: &str) -> Option<u64> {
        let open = self.open.iter().find(|open| open.prefix == prefix)?;
        Some(open.first_page)
    }

    /// Takes the next page's objects; gives what is complete now.
    ///
    /// # Errors
    /// [`Disorder`]: nothing that came from this listing is to be believed.
    pub fn push_page(
        &mut self,
        objects: Vec<PageObject>,
        is_last: bool,
    ) -> Result<Vec<CompleteDirectory>, Disorder> {
        let mut complete = Vec::new();
        for object in objects {
            if object.key.starts_with(&self.root) {
                self.close_all_but_those_of(&object.key, &mut complete)?;
                self.take(object)?;
            }
        }
        self.pages += 1;
        if is_last {
            while let Some(open) = self.open.pop() {
                complete.push(self.close(open)?);
            }
        }
        Ok(complete)
    }

    fn close_all_but_those_of(
        &mut self,
        key: &str,
        complete: &mut Vec<CompleteDirectory>,
    ) -> Result<(), Disorder> {
        while let Some(open) = self.open.pop_if(|open| !key.starts_with(&open.prefix)) {
            complete.push(self.close(open)?);
        }
        Ok(())
    }

    fn take(&mut self, object: PageObject) -> Result<(), Disorder> {
        let mut at = self.open.last().map_or(self.root.len(), |open| open.prefix.len());
        while let Some(slash) = object.key[at..].find('/') {
            at += slash + 1;
            let prefix = &object.key[..at];
            if self.complete.contains(prefix) {
                return Err(Disorder);
            }
            if let Some(parent) = self.open.last_mut() {
                parent.keep(self.max_entries, |parent| parent.prefixes.push(prefix.to_owned()));
            }
            self.open.push(OpenDirectory {
                prefix: prefix.to_owned(),
                objects: Vec::new(),
                prefixes: Vec::new(),
                first_page: self.pages,
                keys: 0,
                is_too_large: false,
            });
        }
        if let Some(directory) = self.open.last_mut() {
            directory.keys += 1;
            directory.keep(self.max_entries, |directory| directory.objects.push(object));
        }
        Ok(())
    }

    fn close(&mut self, open: OpenDirectory) -> Result<CompleteDirectory, Disorder> {
        if self.order == ListingOrder::None {
            if self.complete.len() >= MAX_CHECKED_DIRECTORIES {
                return Err(Disorder);
            }
            self.complete.insert(open.prefix.clone());
        }
        let directory = DirectoryKey::root(&open.prefix);
        let entries = (!open.is_too_large).then(|| {
            let mut entries = DirectoryEntries::new(directory.clone(), self.order);
            entries.push_page(open.objects, open.prefixes, true)
        });
        Ok(CompleteDirectory {
            directory,
            entries,
            first_page: open.first_page,
            keys: open.keys,
        })
    }
}

impl OpenDirectory {
    fn keep(&mut self, max_entries: usize, keep: impl FnOnce(&mut Self)) {
        if self.is_too_large {
            return;
        }
        keep(self);
        if self.objects.len() + self.prefixes.len() > max_entries {
            self.is_too_large = true;
            self.objects = Vec::new();
            self.prefixes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::object;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn run(
        root: &str,
        order: ListingOrder,
        max_entries: usize,
        pages: &[Vec<&str>],
    ) -> Result<Vec<CompleteDirectory>, Disorder> {
        let mut listing = FlatListing::new(&DirectoryKey::root(root), order, max_entries);
        let mut complete = Vec::new();
        for (number, page) in pages.iter().enumerate() {
            let objects = page.iter().map(|key| object(key)).collect();
            complete.extend(listing.push_page(objects, number + 1 == pages.len())?);
        }
        Ok(complete)
    }

    /// What a listing with a delimiter shows of a directory.
    fn delimited(keys: &BTreeSet<String>, directory: &DirectoryKey) -> Vec<Entry> {
        let mut objects = Vec::new();
        let mut prefixes = BTreeSet::new();
        for key in keys {
            let Some(rest) = key.strip_prefix(directory.prefix()) else {
                continue;
            };
            match rest.find('/') {
                Some(slash) => {
                    prefixes.insert(key[..=directory.prefix().len() + slash].to_owned());
                }
                None => objects.push(object(key)),
            }
        }
        let mut entries = DirectoryEntries::new(directory.clone(), ListingOrder::Bytes);
        entries.push_page(objects, prefixes.into_iter().collect(), true)
    }

    #[test]
    fn a_directory_is_complete_with_the_first_key_behind_it() {
        let mut listing = FlatListing::new(&DirectoryKey::root("r/"), ListingOrder::Bytes, 10);
        let complete = listing.push_page(["r/a/1", "r/a/2"].map(object).to_vec(), false);
        assert_eq!(complete, Ok(Vec::new()));
        assert_eq!(listing.begun("r/a/"), Some(0));
        let complete = listing
            .push_page(vec![object("r/a/b/3"), object("r/c")], false)
            .expect("in order");
        let seen: Vec<_> = complete
            .iter()
            .map(|one| (one.directory.prefix(), one.first_page, one.keys))
            .collect();
        assert_eq!(seen, [("r/a/b/", 1, 1), ("r/a/", 0, 2)]);
    }

    #[test]
    fn a_directory_with_too_many_entries_is_not_collected() {
        let pages = [vec!["a/1", "a/2", "a/3", "b/1"]];
        let complete = run("", ListingOrder::Bytes, 2, &pages).expect("in order");
        assert_eq!(complete[0].entries, None);
        assert_eq!(complete[0].keys, 3);
        assert_eq!(complete[1].entries.as_ref().map(Vec::len), Some(1));
    }

    #[test]
    fn keys_that_do_not_stand_together_void_everything() {
        let pages = [vec!["b/1", "a/1"], vec!["b/2"]];
        assert_eq!(run("", ListingOrder::None, 10, &pages), Err(Disorder));
    }

    proptest! {
        #[test]
        fn every_directory_has_the_entries_of_its_own_listing(
            keys in proptest::collection::btree_set("(r|r/a|r/a!|r/b)(/[ab!]|/|/a_\\$folder\\$|/~%){0,4}", 0..40),
            page_len in 1..9usize,
        ) {
            let wanted: Vec<&str> = keys.iter().filter(|key| key.starts_with("r/")).map(String::as_str).collect();
            let pages: Vec<Vec<&str>> = wanted.chunks(page_len).map(<[&str]>::to_vec).collect();
            let complete = run("r/", ListingOrder::Bytes, 1_000, &pages).expect("in order");
            let found: BTreeMap<&str, &CompleteDirectory> =
                complete.iter().map(|one| (one.directory.prefix(), one)).collect();
            prop_assert_eq!(found.len(), complete.len());
            let directories: BTreeSet<&str> = wanted
                .iter()
                .flat_map(|key| key.match_indices('/').map(|(at, _)| &key[..=at]))
                .filter(|prefix| prefix.len() > "r/".len())
                .collect();
            prop_assert_eq!(found.keys().copied().collect::<BTreeSet<_>>(), directories);
            for one in complete {
                prop_assert_eq!(one.entries.expect("few"), delimited(&keys, &one.directory));
            }
        }
    }
}
