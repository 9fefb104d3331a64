//! Reading directories.
//!
//! Difficulties, and who solves them:
//! 1. Any size in the memory of a few pages, the first entries after the first page: [`DirectoryStream`] hands out batches;
//!    [`super::pages`] fetches ahead. Only a listing small enough for the cache is collected.
//! 2. An object beside a directory of the same name, pages apart: `plan::entries`.
//! 3. Files that only this mount has come first, and are not shown twice when the bucket lists them too.
//! 4. Unlinked objects whose DELETE waits are not shown.
//! 5. Entries are handed out long after they were read: what this mount, or news of others, has made of them since counts
//!    ([`DirectoryReader::as_it_is`]).

use super::node::{DirectoryPlace, Ino, Link, Node};
use super::pages::Pages;
use super::table::Table;
use super::{Listed, Tree};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::ObjectId;
use crate::cache::listings::{Listing, Since, Ticket, Watch, entry_bytes};
use crate::plan::entries::{DirectoryEntries, Entry, EntryKind, ListingOrder, PageObject};
use crate::rt::{self, Instant};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// S3 returns at most this many keys in a page, whatever is asked for.
pub(super) const PAGE_KEYS: u32 = 1_000;

/// One name of a directory that is being read.
#[derive(Clone, Debug)]
pub enum Item {
    /// A file that only this mount has.
    Local(Box<Node>),
    Listed {
        name: String,
        listed: Listed,
        at: Instant,
    },
}

/// Inodes are the same however much is known of them.
impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Local(one), Self::Local(other)) => one.ino == other.ino,
            (
                Self::Listed { name, listed, at },
                Self::Listed {
                    name: other_name,
                    listed: other_listed,
                    at: other_at,
                },
            ) => (name, listed, at) == (other_name, other_listed, other_at),
            (Self::Local(_), Self::Listed { .. }) | (Self::Listed { .. }, Self::Local(_)) => false,
        }
    }
}

impl Item {
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Local(node) => node.link.as_ref().map_or("", |link| &link.name),
            Self::Listed { name, .. } => name,
        }
    }
}

/// What an entry that was read has become.
#[derive(PartialEq)]
pub enum Entered<'a> {
    /// This is what there is, as far as is known.
    Is(Cow<'a, Item>),
    /// It has changed, and nobody has asked the bucket since.
    MayBe,
    IsGone,
}

/// A directory being read from the bucket, page after page.
pub struct DirectoryStream {
    tree: Arc<Tree>,
    place: DirectoryPlace,
    entries: DirectoryEntries,
    pages: Pages,
    is_begun: bool,
    finished: bool,
    ticket: Option<Ticket<DirectoryPlace>>,
    collected: Option<BTreeMap<String, Listed>>,
    collected_bytes: usize,
    started_at: Instant,
}

impl Drop for DirectoryStream {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.tree.listings.abandon(&ticket);
        }
    }
}

impl DirectoryStream {
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// True when the bucket has something (a marker or any key) at this directory, as far as it was read.
    #[must_use]
    pub fn directory_exists(&self) -> bool {
        self.entries.exists()
    }

    /// The next entries, hidden ones left out; `None` at the end. A batch may be empty.
    ///
    /// # Errors
    /// What S3 says; the stream may be asked again.
    pub async fn next_batch(&mut self) -> Result<Option<Vec<Item>>> {
        if self.finished {
            return Ok(None);
        }
        let page = self.pages.next(&self.tree).await?;
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        self.finished = page.is_last;
        let prefixes = self.tree.shown_prefixes(&self.place, page.prefixes).await;
        let batch = self.entries.push_page(page.objects, prefixes, self.finished);
        if is_first && self.tree.listing_order() == ListingOrder::Bytes {
            // The marker is the first of all keys.
            let marker = self.entries.marker();
            self.tree.saw_listed_marker(&self.place, marker, self.started_at);
        }
        self.collect(&batch);
        if self.finished {
            self.keep();
        }
        Ok(Some(self.visible(batch)))
    }

    fn collect(&mut self, batch: &[Entry]) {
        let Some(collected) = &mut self.collected else {
            return;
        };
        for entry in batch {
            let listed = listed(&entry.kind);
            self.collected_bytes += entry_bytes(&entry.name, &listed);
            collected.insert(entry.name.clone(), listed);
        }
        if self.collected_bytes > self.tree.listings.admission_limit_bytes() {
            self.collected = None;
        }
    }

    fn keep(&mut self) {
        if let (Some(ticket), Some(collected)) = (self.ticket.take(), self.collected.take()) {
            self.tree.listings.finish(ticket, collected, self.started_at);
        }
    }

    fn visible(&self, batch: Vec<Entry>) -> Vec<Item> {
        let table = self.tree.table();
        batch
            .into_iter()
            .filter_map(|entry| {
                visible(
                    &table,
                    &self.place,
                    &entry.name,
                    &listed(&entry.kind),
                    self.started_at,
                )
            })
            .collect()
    }
}

impl Tree {
    /// Starts to read a directory from the bucket.
    #[must_use]
    pub(crate) fn stream(self: &Arc<Self>, place: DirectoryPlace) -> DirectoryStream {
        let ticket = self.listings.begin(&place);
        DirectoryStream {
            tree: self.clone(),
            entries: DirectoryEntries::new(place.key.clone(), self.listing_order()),
            pages: Pages::new(self, &place),
            place,
            is_begun: false,
            finished: false,
            ticket: Some(ticket),
            collected: Some(BTreeMap::new()),
            collected_bytes: 0,
            started_at: rt::now(),
        }
    }
}

/// A directory as one open handle reads it: local files first, then what the bucket lists.
pub struct DirectoryReader {
    tree: Arc<Tree>,
    place: DirectoryPlace,
    local: VecDeque<Node>,
    local_names: HashSet<Arc<str>>,
    source: Source,
    watch: Watch<DirectoryPlace>,
}

impl Drop for DirectoryReader {
    fn drop(&mut self) {
        self.tree.listings.unwatch(&self.watch);
    }
}

enum Source {
    /// Nothing was read yet.
    Undecided,
    /// From the cache: as it was when it was decided so, from behind `after` on.
    Listing {
        listing: Listing<Listed>,
        after: Option<String>,
    },
    Bucket(Box<DirectoryStream>),
}

/// So many cached entries are handed out at once.
const CACHED_BATCH: usize = 1_000;

impl DirectoryReader {
    #[must_use]
    pub fn new(tree: &Arc<Tree>, place: DirectoryPlace) -> Self {
        let watch = tree.listings.watch(&place);
        let mut reader = Self {
            tree: tree.clone(),
            place,
            local: VecDeque::new(),
            local_names: HashSet::new(),
            source: Source::Undecided,
            watch,
        };
        reader.take_in_local();
        reader
    }

    /// What only this mount has, and was not taken in before, comes next.
    fn take_in_local(&mut self) {
        let table = self.tree.table();
        let nodes = table
            .local_in(&self.place)
            .into_iter()
            .chain(table.emptied_in(&self.place));
        for node in nodes {
            if let Some(link) = &node.link
                && self.local_names.insert(link.name.clone())
            {
                self.local.push_back(node);
            }
        }
    }

    /// What has become of an entry that this reader has given.
    #[must_use]
    pub fn as_it_is<'a>(&self, item: &'a Item) -> Entered<'a> {
        let listed_at = match item {
            Item::Listed { at, .. } => Some(*at),
            Item::Local(node) => {
                let table = self.tree.table();
                let known = table.get(node.ino);
                let is_there = |known: &Node| !known.gone && known.link == node.link;
                if let Some(known) = known.filter(|known| is_there(known)) {
                    return Entered::Is(Cow::Owned(Item::Local(Box::new(known.clone()))));
                }
                None
            }
        };
        match self.tree.listings.since(&self.watch, item.name(), listed_at) {
            Since::AsListed if listed_at.is_some() => Entered::Is(Cow::Borrowed(item)),
            // Only this mount had it, and nobody has said where it is now.
            Since::AsListed | Since::IsUnsure => Entered::MayBe,
            // An unsent file may have taken its name.
            Since::IsGone => self.unsent(item).map_or(Entered::IsGone, |node| {
                Entered::Is(Cow::Owned(Item::Local(Box::new(node))))
            }),
            Since::Is(listed, at) => Entered::Is(Cow::Owned(Item::Listed {
                name: item.name().to_owned(),
                listed,
                at,
            })),
        }
    }

    /// The file under an entry's name that only this mount has.
    fn unsent(&self, item: &Item) -> Option<Node> {
        let id = match item {
            Item::Local(node) => node.object().cloned()?,
            Item::Listed { listed, .. } => {
                ObjectId::new(self.place.bucket.clone(), listed.object()?.key.as_str())
            }
        };
        let node = self.tree.local_object(&id)?;
        let link = node.link.as_ref()?;
        (link.parent == self.place && *link.name == *item.name()).then_some(node)
    }

    /// What this mount knows already, or what a listing ahead of a walk brings, or the bucket.
    async fn decide(&self) -> Source {
        let fresh = |tree: &Tree| {
            tree.listings
                .get(&self.place)
                .filter(|listing| tree.is_fresh(listing.listed_at))
        };
        let mut listing = fresh(&self.tree);
        if listing.is_none() && self.tree.wait_for_listing_ahead(&self.place, false).await {
            listing = fresh(&self.tree);
        }
        self.tree.walks.has_read(&self.place);
        self.tree.look_at_types_ahead(&self.place).await;
        match listing {
            Some(listing) => Source::Listing { listing, after: None },
            None => Source::Bucket(Box::new(self.tree.stream(self.place.clone()))),
        }
    }

    #[must_use]
    pub fn place(&self) -> &DirectoryPlace {
        &self.place
    }

    /// The next entries; `None` at the end.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn next_batch(&mut self) -> Result<Option<Vec<Item>>> {
        if self.local.is_empty()
            && let Source::Undecided = self.source
        {
            self.source = self.decide().await;
            // Of names that such files have taken since the last ones were handed out, what was decided for may not tell.
            self.take_in_local();
        }
        if !self.local.is_empty() {
            let local = self.local.drain(..);
            return Ok(Some(local.map(|node| Item::Local(Box::new(node))).collect()));
        }
        let batch = match &mut self.source {
            Source::Undecided => None,
            Source::Listing { listing, after } => cached_items(&self.tree, &self.place, listing, after),
            Source::Bucket(stream) => stream.next_batch().await?,
        };
        let Some(mut items) = batch else { return Ok(None) };
        items.retain(|item| !self.local_names.contains(item.name()));
        self.without_removed_directories(items).await.map(Some)
    }

    async fn without_removed_directories(&self, items: Vec<Item>) -> Result<Vec<Item>> {
        let mut kept = Vec::with_capacity(items.len());
        for item in items {
            if let Item::Listed {
                listed: Listed::Directory(key),
                ..
            } = &item
            {
                let place = DirectoryPlace {
                    bucket: self.place.bucket.clone(),
                    key: key.clone(),
                };
                if self.tree.is_only_hidden(&place).await? {
                    continue;
                }
            }
            kept.push(item);
        }
        Ok(kept)
    }
}

/// What is shown for an entry of a listing: nothing for an object that was unlinked here while it is open, but what has taken its
/// name since.
fn visible(table: &Table, place: &DirectoryPlace, name: &str, listed: &Listed, at: Instant) -> Option<Item> {
    if let Listed::Object(object) = listed {
        let id = ObjectId::new(place.bucket.clone(), object.key.as_str());
        if table.is_hidden(&id) {
            let successor = table.object(&id).filter(|node| node.local && !node.gone)?;
            return Some(Item::Local(Box::new(successor.clone())));
        }
    }
    Some(Item::Listed {
        name: name.to_owned(),
        listed: listed.clone(),
        at,
    })
}

/// The next entries of a listing, hidden ones left out; `None` at the end. Nothing of it is copied before it is asked for.
fn cached_items(
    tree: &Tree,
    place: &DirectoryPlace,
    listing: &Listing<Listed>,
    after: &mut Option<String>,
) -> Option<Vec<Item>> {
    let table = tree.table();
    let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut last = None;
    let items: Vec<Item> = listing
        .entries
        .range::<str, _>((from, Bound::Unbounded))
        .take(CACHED_BATCH)
        .inspect(|(name, _)| last = Some(*name))
        .filter_map(|(name, listed)| visible(&table, place, name, listed, listing.listed_at))
        .collect();
    *after = Some(last?.clone());
    Some(items)
}

impl Tree {
    /// The number that the entry has or would have.
    #[must_use]
    pub fn entry_number(&self, place: &DirectoryPlace, item: &Item) -> Ino {
        match item {
            Item::Local(node) => node.ino,
            Item::Listed {
                listed: Listed::Object(object),
                ..
            } => self
                .table()
                .number_of_object(&ObjectId::new(place.bucket.clone(), object.key.as_str())),
            Item::Listed {
                listed: Listed::Directory(key),
                ..
            } => self.table().number_of_directory(&DirectoryPlace {
                bucket: place.bucket.clone(),
                key: key.clone(),
            }),
        }
    }

    /// The inode of an entry, as far as it is known without a request; `None` where a HEAD would be needed.
    #[must_use]
    pub fn settle_known(&self, place: &DirectoryPlace, item: &Item) -> Option<Node> {
        let (name, listed, at) = match item {
            Item::Local(node) => return Some((**node).clone()),
            Item::Listed { name, listed, at } => (name, listed, *at),
        };
        let link = Link {
            parent: place.clone(),
            name: name.as_str().into(),
        };
        match listed {
            Listed::Directory(key) => {
                let place = DirectoryPlace {
                    bucket: place.bucket.clone(),
                    key: key.clone(),
                };
                Some(self.settle_directory(&place, link, at))
            }
            Listed::Object(object) => {
                let id = ObjectId::new(place.bucket.clone(), object.key.as_str());
                let seen = self.seen_from_listing(&id, object, at)?;
                Some(
                    self.table()
                        .settle_object(&id, link, seen, rt::wall_clock())
                        .clone(),
                )
            }
        }
    }

    /// The inode of an entry of which nobody knows whether it is still the same, for somebody who may not care: whoever does
    /// has the bucket asked.
    #[must_use]
    pub fn settle_unsure(&self, place: &DirectoryPlace, item: &Item) -> Option<Node> {
        let known = self.settle_known(place, item);
        let settled = known.or_else(|| self.settle_guess(place, item))?;
        let mut table = self.table();
        table.doubt(settled.ino, rt::now());
        table.get(settled.ino).cloned()
    }

    /// As [`Tree::settle_known`], with a HEAD where one is needed; `None` when the object has gone meanwhile.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn settle_item(self: &Arc<Self>, place: &DirectoryPlace, item: &Item) -> Result<Option<Node>> {
        match item {
            Item::Local(node) => Ok(Some((**node).clone())),
            Item::Listed { name, listed, at } => self.settle_listed(place, name, listed.clone(), *at).await,
        }
    }
}

pub(super) fn listed(kind: &EntryKind) -> Listed {
    match kind {
        EntryKind::File(object) => Listed::Object(object.clone()),
        EntryKind::Directory(key) => Listed::Directory(key.clone()),
    }
}

pub(super) fn page_object(object: crate::s3::types::ListedObject) -> PageObject {
    PageObject {
        key: object.key,
        size_bytes: object.size_bytes,
        etag: object.etag,
        last_modified: object.last_modified,
        checksum_algorithm: object.checksum_algorithm,
        storage_class: object.storage_class,
    }
}

pub(super) fn joined<T>(result: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    result.unwrap_or_else(|error| {
        Err(Error::new(
            ErrorKind::Internal,
            format!("a background listing failed: {error}"),
        ))
    })
}
