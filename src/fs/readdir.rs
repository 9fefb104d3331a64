//! Reading directories through handles.
//!
//! Difficulties:
//! 1. The kernel asks by offset, usually the next one, sometimes again, rarely from the start: entries are numbered as
//!    they come, and the last ones are kept, so that going back a little (seekdir(3)) leads to the same ones, whatever has
//!    changed since. Going back further, or to the start, means reading anew.
//! 2. With attributes (readdirplus): those that need no request come at once. Those that would need a HEAD are sent
//!    with no time to live on the first call, which the kernel makes for any `ls` or `find`; once it has shown (by asking
//!    with attributes again) that somebody looks at them, the HEADs of a batch run in parallel.
//! 3. Nobody tells how much an answer holds: what the last ones held is remembered, and little more is prepared ([`Batch`]).
//!    An entry with attributes has a reference of its own from the moment it is prepared, so that its inode is there when the
//!    kernel hears of it; those of entries that were not sent are given back ([`Fs::sent_entries`]).
//! 4. What is sent now was read a while ago: it may be another object by now, or none ([`DirectoryReader::as_it_is`]). What
//!    nobody knows any more is sent with no time to live, or looked at.

use super::attr::Attr;
use super::{Fs, Handle};
use crate::base::error::{Error, ErrorKind, Result};
use crate::s3::types::BucketEntry;
use crate::tree::Listed;
use crate::tree::directory::{DirectoryReader, Entered, Item};
use crate::tree::node::{DirectoryPlace, Ino, Kind, Node, Place};
use futures_util::stream::{self, StreamExt};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// So many entries are prepared for a reader of whom nothing is known: a page of the kernel's holds about 25 with
/// attributes.
const FIRST_BATCH: usize = 32;
const LARGEST_BATCH: usize = 1_024;
/// So many entries that the reader had are kept.
const KEPT_ENTRIES: u64 = 4_096;

/// How many entries to prepare for one answer.
struct Batch(usize);

impl Default for Batch {
    fn default() -> Self {
        Self(FIRST_BATCH)
    }
}

impl Batch {
    fn learn(&mut self, prepared: usize, sent: usize) {
        if sent < prepared {
            // Names differ in length: a few more than that may fit the next time.
            self.0 = (sent + sent / 8 + 1).min(LARGEST_BATCH);
        } else if prepared >= self.0 {
            self.0 = (self.0 * 4).min(LARGEST_BATCH);
        }
    }
}

/// Where a directory handle is.
#[derive(Default)]
pub struct Position {
    /// The last entries that the reader had, and those that it did not have yet; the first has number `first`.
    window: VecDeque<Item>,
    /// The number of the entry at the window's start; entry n is followed by offset n + 1.
    first: u64,
    finished: bool,
    batch: Batch,
}

pub struct DirectoryHandle {
    pub ino: Ino,
    pub place: Option<DirectoryPlace>,
    reader: Option<DirectoryReader>,
    position: Position,
}

/// One directory entry as the kernel gets it.
#[derive(Clone, Debug)]
pub struct DirectoryEntry {
    pub ino: Ino,
    pub kind: Kind,
    pub name: String,
    /// What the kernel passes to continue after this entry.
    pub next_offset: u64,
    /// With readdirplus; its ttl is zero where the attributes are a guess.
    pub attr: Option<Attr>,
}

/// Entries 0 and 1 of every directory.
const DOTS: u64 = 2;

impl Fs {
    /// opendir(3).
    ///
    /// # Errors
    /// `NotDirectory`.
    pub fn open_directory(&self, ino: Ino) -> Result<u64> {
        let node = self.tree.node(ino)?;
        let place = match node.place {
            Place::Buckets => None,
            Place::Directory(place) => Some(place),
            Place::Object(id) => return Err(Error::new(ErrorKind::NotDirectory, "not a directory").on(&id)),
        };
        let handle = DirectoryHandle {
            ino,
            place,
            reader: None,
            position: Position::default(),
        };
        self.tree.pin(ino);
        Ok(self.add_handle(Handle::Directory(Arc::new(tokio::sync::Mutex::new(handle)))))
    }

    pub fn release_directory(&self, ino: Ino, number: u64) {
        if self.take_handle(number).is_some() {
            self.tree.unpin(ino);
        }
    }

    /// The entries from `offset` on: at least one unless the directory ends there, about as many as the reader took the last
    /// time. The caller says by [`Fs::sent_entries`] what became of them.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn read_directory(
        self: &Arc<Self>,
        number: u64,
        offset: u64,
        with_attributes: bool,
    ) -> Result<Vec<DirectoryEntry>> {
        let handle = self.directory_handle(number)?;
        let mut handle = handle.lock().await;
        let mut entries = self.dots(&handle, offset);
        let mut from = offset.max(DOTS);
        if offset == 0 {
            // As it is now, also for who has read it before.
            handle.reader = None;
            handle.position.first = 0;
        }
        loop {
            self.seek(&mut handle, from).await?;
            let room = handle.position.batch.0.saturating_sub(entries.len()).max(1);
            let had = (from - handle.position.first) as usize;
            let items: Vec<Item> = handle
                .position
                .window
                .iter()
                .skip(had)
                .take(room)
                .cloned()
                .collect();
            let taken = items.len() as u64;
            let looks = with_attributes && offset > 0;
            entries.extend(
                self.describe(&handle, items, from, with_attributes, looks)
                    .await?,
            );
            // An empty answer means the end: objects that went since they were listed are no reason for one.
            if taken == 0 || !entries.is_empty() {
                return Ok(entries);
            }
            from += taken;
        }
    }

    /// The first `sent` of these entries are the kernel's now.
    pub fn sent_entries(&self, number: u64, entries: &[DirectoryEntry], sent: usize) {
        self.give_back(entries.get(sent..).unwrap_or_default());
        if let Ok(handle) = self.directory_handle(number)
            // Somebody reads the same handle at the same time: there is nothing to learn from that.
            && let Ok(mut handle) = handle.try_lock()
        {
            handle.position.batch.learn(entries.len(), sent);
        }
    }

    fn give_back(&self, entries: &[DirectoryEntry]) {
        for entry in entries.iter().filter(|entry| entry.attr.is_some()) {
            self.tree.forget(entry.ino, 1);
        }
    }

    fn dots(&self, handle: &DirectoryHandle, offset: u64) -> Vec<DirectoryEntry> {
        let parent = self.tree.parent_of(handle.ino);
        [(".", handle.ino), ("..", parent)]
            .into_iter()
            .zip(1..)
            .filter(|(_, next)| *next > offset)
            .map(|((name, ino), next)| DirectoryEntry {
                ino,
                kind: Kind::Directory,
                name: name.to_owned(),
                next_offset: next,
                attr: None,
            })
            .collect()
    }

    /// Makes the window begin at entry `wanted`, with something in it unless the directory ends before.
    async fn seek(self: &Arc<Self>, handle: &mut DirectoryHandle, wanted: u64) -> Result<()> {
        let fresh = handle.reader.is_none() && handle.position.first == 0;
        if fresh || wanted < handle.position.first {
            handle.position = Position {
                first: DOTS,
                batch: std::mem::take(&mut handle.position.batch),
                ..Position::default()
            };
            handle.reader = handle
                .place
                .clone()
                .map(|place| DirectoryReader::new(&self.tree, place));
            if handle.place.is_none() {
                handle.position.window = self.tree.buckets().await?.iter().map(bucket_item).collect();
                handle.position.finished = true;
            }
        }
        loop {
            let position = &mut handle.position;
            let passed = (wanted - position.first).saturating_sub(KEPT_ENTRIES);
            let passed = passed.min(position.window.len() as u64);
            position.window.drain(..passed as usize);
            position.first += passed;
            if position.finished || wanted < position.first + position.window.len() as u64 {
                return Ok(());
            }
            let Some(reader) = &mut handle.reader else {
                return Ok(());
            };
            match reader.next_batch().await? {
                Some(batch) => handle.position.window.extend(batch),
                None => handle.position.finished = true,
            }
        }
    }

    async fn describe(
        self: &Arc<Self>,
        handle: &DirectoryHandle,
        items: Vec<Item>,
        from: u64,
        with_attributes: bool,
        looks: bool,
    ) -> Result<Vec<DirectoryEntry>> {
        let described: Vec<Result<Option<DirectoryEntry>>> = stream::iter(items.into_iter().zip(from + 1..))
            .map(|(item, next_offset)| self.describe_one(handle, item, next_offset, with_attributes, looks))
            .buffered(self.tree.settings.head_parallelism)
            .collect()
            .await;
        let (mut entries, mut first_error) = (Vec::with_capacity(described.len()), None);
        for entry in described {
            match entry {
                Ok(entry) => entries.extend(entry),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match first_error {
            Some(error) => {
                self.give_back(&entries);
                Err(error)
            }
            None => Ok(entries),
        }
    }

    async fn describe_one(
        self: &Arc<Self>,
        handle: &DirectoryHandle,
        read: Item,
        next_offset: u64,
        with_attributes: bool,
        looks: bool,
    ) -> Result<Option<DirectoryEntry>> {
        let name = read.name().to_owned();
        loop {
            let moment = self.tree.listings.moment();
            let now = handle.as_it_is(&read);
            let (item, is_sure) = match &now {
                Entered::Is(item) => (&**item, true),
                Entered::MayBe => (&read, false),
                Entered::IsGone => return Ok(None),
            };
            if let Some(place) = &handle.place
                && !with_attributes
                && !self.needs_look_for_type(item)
            {
                return Ok(Some(DirectoryEntry {
                    ino: self.tree.entry_number(place, item),
                    kind: kind_of(item),
                    name,
                    next_offset,
                    attr: None,
                }));
            }
            let Some((node, is_guess)) = self.settle(handle, item, is_sure, looks).await? else {
                return Ok(None);
            };
            if !self.tree.count_lookup(node.ino) {
                // Forgotten by the kernel just now.
                continue;
            }
            if self.tree.listings.moment() != moment && handle.as_it_is(&read) != now {
                // It has changed meanwhile.
                self.tree.forget(node.ino, 1);
                continue;
            }
            if !with_attributes {
                self.tree.forget(node.ino, 1);
            }
            let attr = self.attr(&node);
            return Ok(Some(DirectoryEntry {
                ino: node.ino,
                kind: node.kind,
                name,
                next_offset,
                attr: with_attributes.then_some(Attr {
                    ttl: if is_guess { Duration::ZERO } else { attr.ttl },
                    ..attr
                }),
            }));
        }
    }

    /// A small object may be a symlink: `d_type` must be right.
    fn needs_look_for_type(&self, item: &Item) -> bool {
        matches!(item, Item::Listed { listed: Listed::Object(object), .. } if self.tree.may_be_special(object))
    }

    /// The inode of an entry, and whether its attributes are a guess; `None` when it is gone.
    async fn settle(
        self: &Arc<Self>,
        handle: &DirectoryHandle,
        item: &Item,
        is_sure: bool,
        looks: bool,
    ) -> Result<Option<(Node, bool)>> {
        let Some(place) = &handle.place else {
            return Ok(Some((self.tree.settle_bucket(item.name()), false)));
        };
        if !is_sure {
            return self.settle_unsure(place, item, looks).await;
        }
        if let Some(mut node) = self.tree.settle_known(place, item) {
            if looks {
                node = self.tree.with_attributes(node).await?;
            }
            return Ok(Some((node, false)));
        }
        if looks || self.needs_look_for_type(item) {
            let settled = self.tree.settle_item(place, item).await?;
            return Ok(settled.map(|node| (node, false)));
        }
        self.tree.heads.announce(place);
        Ok(self.tree.settle_guess(place, item).map(|node| (node, true)))
    }

    /// The same, of an entry that may have become anything.
    async fn settle_unsure(
        self: &Arc<Self>,
        place: &DirectoryPlace,
        item: &Item,
        looks: bool,
    ) -> Result<Option<(Node, bool)>> {
        if !looks && !self.needs_look_for_type(item) && matches!(item, Item::Listed { .. }) {
            return Ok(self.tree.settle_unsure(place, item).map(|node| (node, true)));
        }
        let Some(mut node) = self.tree.lookup_in(place.clone(), item.name()).await? else {
            return Ok(None);
        };
        if looks {
            node = self.tree.with_attributes(node).await?;
        }
        let is_guess = node.is_guess();
        Ok(Some((node, is_guess)))
    }
}

impl DirectoryHandle {
    fn as_it_is<'a>(&self, item: &'a Item) -> Entered<'a> {
        match &self.reader {
            Some(reader) => reader.as_it_is(item),
            None => Entered::Is(Cow::Borrowed(item)),
        }
    }
}

fn kind_of(item: &Item) -> Kind {
    match item {
        Item::Local(node) => node.kind,
        Item::Listed {
            listed: Listed::Object(_),
            ..
        } => Kind::File,
        Item::Listed {
            listed: Listed::Directory(_),
            ..
        } => Kind::Directory,
    }
}

fn bucket_item(bucket: &BucketEntry) -> Item {
    Item::Listed {
        name: bucket.name.clone(),
        listed: Listed::Directory(crate::base::names::DirectoryKey::root("")),
        at: crate::rt::now(),
    }
}
