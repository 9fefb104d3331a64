//! Removing under the old name what a directory rename has copied, and nothing else.
//!
//! Difficulties:
//! 1. Between its copy and its delete, minutes later, an object may be written again, also with the same bytes: its ETag
//!    is the same then, and a condition does not tell. So only what was copied is deleted ([`Copies`] names it), and it is
//!    listed once more right before: where Last-Modified is another one, or would not tell, source and copy are looked at,
//!    and what the copy does not have stays ([`Tree::unless_written_since`]).
//! 2. That costs a request for a thousand objects, in bounded memory: listing and copies are read side by side
//!    ([`Present`]). Stores list in different orders; what is not found in a page nearby is looked at by itself.
//! 3. Stores that keep a tree of directories cannot remove a directory before what is in it: markers are deleted last,
//!    the deepest first ([`Removal`]), each after a look at it: without bytes, all that it has is its metadata.

use super::Tree;
use super::moves::{Copies, Move, read, unix_s};
use super::progress::Progress;
use super::rename::{PARALLEL_MOVES, is_copy, says_the_same};
use crate::base::error::{ErrorKind, Result};
use crate::base::object::{ETag, ObjectId};
use crate::s3::capabilities::{Feature, Support};
use crate::spool::manifest::{Manifest, ManifestEntry};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Pages that are kept, of a thousand objects each.
const MAX_PAGES: usize = 4;

impl Tree {
    /// Deletes under the old name the versions that were copied. What was written since stays.
    ///
    /// # Errors
    /// The first error; the rest is still there under both names.
    pub async fn delete_copied(&self, copies: &Copies, way: &Move) -> Result<()> {
        let mut present = Present::new(way);
        let support = self.client.capabilities().get(Feature::MarkerMetadata);
        let markers_speak = !matches!(support, Support::Ignored | Support::Refused);
        let mut removal = Removal::of(&copies.sources);
        let mut progress = Progress::of("deletes", way);
        while let Some(entries) = removal.next().await? {
            if markers_speak || !entries.iter().all(is_marker) {
                present.go_to(self, &entries).await?;
            }
            let (unchanged, doubtful) = {
                let table = self.table();
                let shown = entries
                    .into_iter()
                    .filter(|entry| !table.is_hidden(&way.source(&entry.key)));
                let says_nothing = |entry: &ManifestEntry| is_marker(entry) && !markers_speak;
                shown.partition::<Vec<_>, _>(|entry| says_nothing(entry) || present.has(entry))
            };
            let looked_at = stream::iter(doubtful)
                .map(|entry| self.unless_written_since(entry, way))
                .buffer_unordered(PARALLEL_MOVES)
                .try_collect::<Vec<_>>()
                .await?;
            let unchanged = unchanged.into_iter().map(|entry| (entry.key, entry.etag));
            let versions: Vec<_> = unchanged.chain(looked_at.into_iter().flatten()).collect();
            for (key, error) in self.client.delete_versions(&way.from.bucket, &versions).await? {
                if error.kind() != ErrorKind::PreconditionFailed {
                    return Err(error);
                }
                stays(&way.source(&key));
            }
            progress.advance(versions.len() as u64, 0);
        }
        progress.finish();
        Ok(())
    }

    /// The key, and the version to be deleted: all that it has is under the new name.
    async fn unless_written_since(&self, entry: ManifestEntry, way: &Move) -> Result<Option<(String, ETag)>> {
        let (source, target) = (way.source(&entry.key), way.target(&entry.key));
        let Some(now) = self.look_at(&source).await? else {
            return Ok(None);
        };
        if now.version.etag == entry.etag && unix_s(now.version.last_modified) == entry.modified_unix_s {
            return Ok(Some((entry.key, entry.etag)));
        }
        let copy = self.look_at(&target).await?;
        let is_copied = copy.is_some_and(|copy| {
            // The copy of these bytes, whatever its tag is.
            let was_copied =
                now.version.etag == entry.etag && now.version.size_bytes == copy.version.size_bytes;
            (was_copied || is_copy(&now, &copy)) && says_the_same(&now, &copy)
        });
        if !is_copied {
            stays(&source);
            return Ok(None);
        }
        Ok(Some((entry.key, now.version.etag)))
    }
}

fn stays(source: &ObjectId) {
    tracing::warn!(%source, "somebody wrote this object during the rename: it stays where it was");
}

/// What is under the old name, page by page beside the list of what was copied.
struct Present<'a> {
    way: &'a Move,
    /// ETag and Last-Modified (Unix seconds) by key; oldest first.
    pages: VecDeque<HashMap<String, (ETag, u64)>>,
    last_key: String,
    next: Option<String>,
    is_at_end: bool,
}

impl<'a> Present<'a> {
    fn new(way: &'a Move) -> Self {
        Self {
            way,
            pages: VecDeque::new(),
            last_key: String::new(),
            next: None,
            is_at_end: false,
        }
    }

    /// Reads on until what is there of `entries` should be among the pages that are kept.
    async fn go_to(&mut self, tree: &Tree, entries: &[ManifestEntry]) -> Result<()> {
        let last_key = entries.iter().map(|entry| entry.key.as_str()).max();
        for _ in 0..MAX_PAGES {
            if self.is_at_end || last_key.is_none_or(|last| *last <= *self.last_key) {
                break;
            }
            let page = tree.page_below(&self.way.from, self.next.take()).await?;
            self.next = page.continuation;
            self.is_at_end = self.next.is_none();
            if let Some(last) = page.objects.last() {
                self.last_key.clone_from(&last.key);
            }
            let objects = page.objects.into_iter();
            self.pages.push_back(
                objects
                    .map(|object| (object.key, (object.etag, unix_s(object.last_modified))))
                    .collect(),
            );
            while self.pages.len() > MAX_PAGES {
                self.pages.pop_front();
            }
        }
        Ok(())
    }

    /// True for what is there as it was copied.
    fn has(&self, entry: &ManifestEntry) -> bool {
        let listed = self.pages.iter().find_map(|page| page.get(&entry.key));
        listed.is_some_and(|(etag, modified_unix_s)| {
            *etag == entry.etag && *modified_unix_s == entry.modified_unix_s
        })
    }
}

/// Reads a list in the order in which its objects may be deleted: for each depth of markers once more.
pub(super) struct Removal {
    list: Arc<Manifest>,
    position: u64,
    /// The depths at which there are markers still to be read.
    depths: BTreeSet<usize>,
    /// `None` while objects are read.
    of_depth: Option<usize>,
}

impl Removal {
    pub(super) fn of(list: &Arc<Manifest>) -> Self {
        Self {
            list: list.clone(),
            position: 0,
            depths: BTreeSet::new(),
            of_depth: None,
        }
    }

    /// The next entries, at least one; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<ManifestEntry>>> {
        loop {
            let (mut entries, next) = read(&self.list, self.position).await?;
            if entries.is_empty() {
                self.of_depth = self.depths.pop_last();
                if self.of_depth.is_none() {
                    return Ok(None);
                }
                self.position = 0;
                continue;
            }
            self.position = next;
            if self.of_depth.is_none() {
                let markers = entries.iter().filter(|entry| is_marker(entry));
                self.depths.extend(markers.map(|marker| depth(&marker.key)));
            }
            let wanted = self.of_depth;
            entries.retain(|entry| is_marker(entry).then(|| depth(&entry.key)) == wanted);
            if !entries.is_empty() {
                return Ok(Some(entries));
            }
        }
    }
}

/// A directory and nothing else: `dir/` with data is a file.
pub(super) fn is_marker(entry: &ManifestEntry) -> bool {
    entry.key.ends_with('/') && entry.size_bytes == 0
}

fn depth(key: &str) -> usize {
    key.bytes().filter(|byte| *byte == b'/').count()
}
