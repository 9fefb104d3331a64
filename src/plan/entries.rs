//! The entries of one directory, from the pages of its listing, in the memory of one page.
//!
//! Difficulties, and what solves each:
//! 1. *An object `a` and a directory `a/` may come pages apart*, with `a!`, `a-b` and the like between them, and only
//!    with both known has the object its name. So an object is held back while its directory may still come. All keys
//!    between begin with the object's key: what is held is a chain of prefixes of the current key, at most one for each
//!    of its bytes ([`DirectoryEntries::close_before`]).
//! 2. *`a_$folder$`*, an old tool's marker of directory `a/`, comes behind both `a` and `a/`, and counts only if neither
//!    came: so the chain stays open up to there.
//! 3. *The directory's own marker* is no entry unless it has data.
//! 4. *Over-long components* show up as one directory for many keys, whose keys need not be consecutive: the names already
//!    given out are remembered while more of their keys may come. In a partial directory the listing also shows keys that
//!    are not in it, which `base::names` sorts out.
//! 5. *Listings in no order* ([`ListingOrder::None`]): each page is sorted by itself, so 1 and 2 hold within a page. Across
//!    pages an object that stands beside a directory may be given under its plain name, and a directory that has only a
//!    legacy marker may come twice. `resolve` decides what a name is; nothing gets another's bytes by this.

use crate::base::names::{
    DirectoryKey, LEGACY_FOLDER_SUFFIX, Named, legacy_folder_marker, name_of_directory, name_of_file,
};
use crate::base::object::ETag;
use std::collections::HashSet;
use std::time::SystemTime;

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageObject {
    pub key: String,
    pub size_bytes: u64,
    pub etag: ETag,
    pub last_modified: SystemTime,
    /// As S3 spells it (`CRC32C`); `None` where the listing shows none.
    pub checksum_algorithm: Option<String>,
    pub storage_class: Option<String>,
}

/// What a name in the directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File(PageObject),
    Directory(DirectoryKey),
}

/// One entry; no two entries of a directory have the same name (see difficulty 5 for listings in no order).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub kind: EntryKind,
}

/// The order of an endpoint's listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListingOrder {
    /// By the bytes of keys and common prefixes, within a page and across pages (AWS: general purpose buckets).
    Bytes,
    None,
}

/// A component that has been seen and may show up once more.
struct OpenComponent {
    object: Option<PageObject>,
    /// The common prefix, whose entry has been given out.
    directory: Option<String>,
}

impl OpenComponent {
    /// The key of the object, or what it would be.
    fn stem(&self) -> &str {
        match (&self.object, &self.directory) {
            (Some(object), _) => &object.key,
            (None, Some(prefix)) => prefix.strip_suffix('/').unwrap_or(prefix),
            (None, None) => "",
        }
    }
}

/// Turns the pages of one directory's listing (its [`DirectoryKey::listing_prefix`], delimiter `/`) into entries.
pub struct DirectoryEntries {
    directory: DirectoryKey,
    order: ListingOrder,
    /// Shortest first.
    open: Vec<OpenComponent>,
    /// Partial directories given out of which more keys may come.
    partials: HashSet<DirectoryKey>,
    exists: bool,
    marker: Option<PageObject>,
}

impl DirectoryEntries {
    #[must_use]
    pub fn new(directory: DirectoryKey, order: ListingOrder) -> Self {
        Self {
            directory,
            order,
            open: Vec::new(),
            partials: HashSet::new(),
            exists: false,
            marker: None,
        }
    }

    /// Takes the next page and gives the entries that are certain now. With the last page all are.
    /// Keys and prefixes that are not in this directory are passed over.
    pub fn push_page(
        &mut self,
        mut objects: Vec<PageObject>,
        mut prefixes: Vec<String>,
        is_last: bool,
    ) -> Vec<Entry> {
        if self.order == ListingOrder::None {
            objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            prefixes.sort_unstable();
        }
        let mut entries = Vec::with_capacity(objects.len() + prefixes.len() + self.open.len());
        let mut objects = objects.into_iter().peekable();
        let mut prefixes = prefixes.into_iter().peekable();
        loop {
            let prefix_is_next = match (objects.peek(), prefixes.peek()) {
                (Some(object), Some(prefix)) => *prefix < object.key,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if prefix_is_next {
                if let Some(prefix) = prefixes.next() {
                    self.take_directory(prefix, &mut entries);
                }
            } else if let Some(object) = objects.next() {
                self.take_object(object, &mut entries);
            } else {
                break;
            }
        }
        if is_last || self.order == ListingOrder::None {
            for component in std::mem::take(&mut self.open) {
                self.close(component, &mut entries);
            }
        }
        entries
    }

    /// Whether anything seen so far proves that the directory exists: its marker, a key, a prefix; of a partial directory:
    /// an entry. Final after the last page. (A directory that has only an `a_$folder$` is known from its parent.)
    #[must_use]
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// The directory's own marker, if it has been seen. Its data, if it has any, are an entry of their own.
    #[must_use]
    pub fn marker(&self) -> Option<&PageObject> {
        self.marker.as_ref()
    }

    fn take_object(&mut self, object: PageObject, entries: &mut Vec<Entry>) {
        if !object.key.starts_with(self.directory.prefix()) {
            return;
        }
        self.close_before(&object.key, entries);
        self.exists |= !self.directory.is_partial();
        if self.directory.marker_key() == Some(&object.key) {
            if object.size_bytes > 0 {
                self.give_file(object.clone(), false, entries);
            }
            self.marker = Some(object);
        } else if let Some(prefix) = legacy_folder_marker(&object.key).filter(|_| object.size_bytes == 0) {
            if self.open_component(&prefix[..prefix.len() - 1]).is_none() {
                self.give_directory(&prefix, entries);
            }
        } else {
            match self.open_component(&object.key) {
                Some(open) => open.object = Some(object),
                None => self.open.push(OpenComponent {
                    object: Some(object),
                    directory: None,
                }),
            }
        }
    }

    fn take_directory(&mut self, prefix: String, entries: &mut Vec<Entry>) {
        let Some(stem) = prefix
            .strip_prefix(self.directory.prefix())
            .and_then(|_| prefix.strip_suffix('/'))
        else {
            return;
        };
        if stem.len() < self.directory.prefix().len() {
            return;
        }
        self.close_before(&prefix, entries);
        self.exists |= !self.directory.is_partial();
        match self.open_component(stem) {
            Some(OpenComponent {
                directory: Some(_), ..
            }) => {}
            Some(open) => {
                open.directory = Some(prefix.clone());
                self.give_directory(&prefix, entries);
            }
            None => {
                self.give_directory(&prefix, entries);
                self.open.push(OpenComponent {
                    object: None,
                    directory: Some(prefix),
                });
            }
        }
    }

    fn open_component(&mut self, stem: &str) -> Option<&mut OpenComponent> {
        self.open.iter_mut().rev().find(|open| open.stem() == stem)
    }

    /// Closes all components of which nothing more can come now that the listing has arrived at `key`.
    fn close_before(&mut self, key: &str, entries: &mut Vec<Entry>) {
        let mut at = 0;
        while let Some(open) = self.open.get(at) {
            let rest = key.strip_prefix(open.stem());
            if rest.is_some_and(|rest| rest.as_bytes() <= LEGACY_FOLDER_SUFFIX.as_bytes()) {
                at += 1;
            } else {
                let component = self.open.remove(at);
                self.close(component, entries);
            }
        }
        // Only now: what was just closed may belong to one of them.
        if !self.partials.is_empty() && self.order == ListingOrder::Bytes {
            self.partials
                .retain(|partial| key.starts_with(&*partial.listing_prefix()));
        }
    }

    fn close(&mut self, component: OpenComponent, entries: &mut Vec<Entry>) {
        if let Some(object) = component.object {
            self.give_file(object, component.directory.is_some(), entries);
        }
    }

    fn give_file(&mut self, object: PageObject, beside_directory: bool, entries: &mut Vec<Entry>) {
        match name_of_file(&self.directory, &object.key, beside_directory) {
            Some(Named::Here(name)) => {
                let name = name.into_owned();
                self.give(
                    Entry {
                        name,
                        kind: EntryKind::File(object),
                    },
                    entries,
                );
            }
            Some(Named::Within { name, directory }) => self.give_partial(name, directory, entries),
            None => {}
        }
    }

    fn give_directory(&mut self, prefix: &str, entries: &mut Vec<Entry>) {
        match name_of_directory(&self.directory, prefix) {
            Some(Named::Here(name)) => {
                let kind = EntryKind::Directory(DirectoryKey::root(prefix));
                self.give(
                    Entry {
                        name: name.into_owned(),
                        kind,
                    },
                    entries,
                );
            }
            Some(Named::Within { name, directory }) => self.give_partial(name, directory, entries),
            None => {}
        }
    }

    fn give_partial(&mut self, name: String, directory: DirectoryKey, entries: &mut Vec<Entry>) {
        if self.partials.insert(directory.clone()) {
            self.give(
                Entry {
                    name,
                    kind: EntryKind::Directory(directory),
                },
                entries,
            );
        }
    }

    fn give(&mut self, entry: Entry, entries: &mut Vec<Entry>) {
        self.exists = true;
        entries.push(entry);
    }
}

#[cfg(test)]
mod tests;
