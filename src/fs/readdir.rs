//! Reading directories through handles.
//!
//! Difficulties:
//! 1. The kernel asks by offset, usually the next one, sometimes again, rarely from the start: entries are numbered as
//!    they come, those behind the last answer are dropped, and going back means reading anew.
//! 2. With attributes (readdirplus): those that need no request come at once. Those that would need a HEAD are sent
//!    with no time to live on the first call, which the kernel makes for any `ls` or `find`; once it has shown (by asking
//!    with attributes again) that somebody looks at them, the HEADs of a batch run in parallel.

use super::Fs;
use super::attr::Attr;
use super::open::DirectoryHandle;
use crate::base::error::Result;
use crate::s3::types::BucketEntry;
use crate::tree::directory::{DirectoryReader, Item};
use crate::tree::node::{Ino, Kind};
use crate::tree::{Listed, lookup::may_be_special};
use futures_util::stream::{self, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// HEADs of one batch that run at once.
const PARALLEL_HEADS: usize = 32;

/// Where a directory handle is.
#[derive(Default)]
pub struct Position {
    /// Entries not yet known to have reached the reader; the first has number `first`.
    window: VecDeque<Item>,
    /// The number of the entry at the window's start; entry n is followed by offset n + 1.
    first: u64,
    finished: bool,
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
    /// The entries from `offset` on: at least one unless the directory ends there, at most `limit`.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn read_directory(
        self: &Arc<Self>,
        number: u64,
        offset: u64,
        limit: usize,
        with_attributes: bool,
    ) -> Result<Vec<DirectoryEntry>> {
        let handle = self.directory_handle(number)?;
        let mut handle = handle.lock().await;
        let mut entries = self.dots(&handle, offset);
        let mut from = offset.max(DOTS);
        loop {
            self.seek(&mut handle, from).await?;
            let room = limit.saturating_sub(entries.len());
            let items: Vec<Item> = handle.position.window.iter().take(room).cloned().collect();
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
            let passed = (wanted - position.first).min(position.window.len() as u64);
            position.window.drain(..passed as usize);
            position.first += passed;
            if position.finished || (position.first == wanted && !position.window.is_empty()) {
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
            .buffered(PARALLEL_HEADS)
            .collect()
            .await;
        described.into_iter().filter_map(Result::transpose).collect()
    }

    async fn describe_one(
        self: &Arc<Self>,
        handle: &DirectoryHandle,
        item: Item,
        next_offset: u64,
        with_attributes: bool,
        looks: bool,
    ) -> Result<Option<DirectoryEntry>> {
        let name = item.name().to_owned();
        let Some(place) = &handle.place else {
            let node = self.tree.settle_bucket(&name);
            let attr = with_attributes.then(|| self.attr(&node));
            return Ok(Some(DirectoryEntry {
                ino: node.ino,
                kind: Kind::Directory,
                name,
                next_offset,
                attr,
            }));
        };
        if !with_attributes && !needs_look_for_type(&item) {
            let kind = kind_of(&item);
            let ino = self.tree.entry_number(place, &item);
            return Ok(Some(DirectoryEntry {
                ino,
                kind,
                name,
                next_offset,
                attr: None,
            }));
        }
        if let Some(node) = self.tree.settle_known(place, &item) {
            let attr = Some(self.attr(&node));
            return Ok(Some(DirectoryEntry {
                ino: node.ino,
                kind: node.kind,
                name,
                next_offset,
                attr,
            }));
        }
        if looks || needs_look_for_type(&item) {
            let settled = self.tree.settle_item(place, &item).await?;
            return Ok(settled.map(|node| {
                let attr = Some(self.attr(&node));
                DirectoryEntry {
                    ino: node.ino,
                    kind: node.kind,
                    name,
                    next_offset,
                    attr,
                }
            }));
        }
        let node = self.tree.settle_guess(place, &item);
        let attr = node.map(|node| Attr {
            ttl: Duration::ZERO,
            ..self.attr(&node)
        });
        Ok(attr.map(|attr| DirectoryEntry {
            ino: attr.ino,
            kind: Kind::File,
            name,
            next_offset,
            attr: Some(attr),
        }))
    }
}

/// A small object with the ETag of a one-part upload may be a symlink: `d_type` must be right.
fn needs_look_for_type(item: &Item) -> bool {
    matches!(item, Item::Listed { listed: Listed::Object(object), .. } if may_be_special(object))
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
