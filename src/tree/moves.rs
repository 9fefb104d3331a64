//! Moving directories to other keys.
//!
//! Difficulties:
//! 1. Any number of objects in bounded memory: what there is goes to a list on disk first ([`Manifest`]), and copies and
//!    deletes are done from there, piece by piece.
//! 2. A crash in the middle leaves every object at least once: all copies come before any delete.
//! 3. Only what was there when the rename began is moved, however late it is finished: the list names versions, and a run
//!    by a later mount looks at each object before it touches it ([`Tree::resume_move`]). What somebody else wrote during
//!    the rename is never deleted: [`super::removal`].
//! 4. A rename that fails while it copies takes its copies back ([`Tree::undo_copies`]).
//!    How far it is the log tells ([`super::progress`]).
//! 5. Stores that keep a tree of directories cannot remove a directory before what is in it: markers are deleted last,
//!    the deepest first.

use super::Tree;
use super::node::DirectoryPlace;
use super::progress::Progress;
use super::removal::{Removal, is_marker};
use super::rename::{PARALLEL_MOVES, is_copy, is_marker_trouble, loses_nothing};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{Condition, ETag, ObjectId, ObjectInfo, Version};
use crate::rt;
use crate::s3::types::{ListPage, ListRequest, ListedObject};
use crate::spool::Spool;
use crate::spool::manifest::{Manifest, ManifestEntry};
use futures_util::future;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// So many objects tell how a directory's objects are stored.
const STORAGE_SAMPLE: usize = 3;
/// S3 returns at most this many keys in a page.
const PAGE_KEYS: u32 = 1_000;

/// A directory's objects, from one prefix to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Move {
    pub from: DirectoryPlace,
    pub to: DirectoryPlace,
}

impl Move {
    pub(super) fn source(&self, key: &str) -> ObjectId {
        ObjectId::new(self.from.bucket.clone(), key)
    }

    pub(super) fn target(&self, key: &str) -> ObjectId {
        let rest = &key[self.from.key.prefix().len()..];
        ObjectId::new(self.to.bucket.clone(), format!("{}{rest}", self.to.key.prefix()))
    }

    /// The old name of what gets the name `key`.
    #[must_use]
    pub fn origin(&self, key: &str) -> ObjectId {
        let rest = &key[self.to.key.prefix().len()..];
        ObjectId::new(
            self.from.bucket.clone(),
            format!("{}{rest}", self.from.key.prefix()),
        )
    }
}

/// By the old name of an object that has an inode: the version that was copied, and the copy.
pub type Arrived = HashMap<ObjectId, (ETag, Version)>;

/// Copying ended early.
pub struct FailedCopies {
    pub error: Error,
    /// The keys of sources of which nobody knows whether they were copied.
    uncertain: Vec<String>,
}

impl From<Error> for FailedCopies {
    fn from(error: Error) -> Self {
        Self {
            error,
            uncertain: Vec::new(),
        }
    }
}

/// What a rename has copied, on disk.
pub struct Copies {
    /// The versions under the old name that were copied ([`entry_of_source`]).
    pub(super) sources: Arc<Manifest>,
    /// Their copies.
    made: Arc<Manifest>,
}

impl Copies {
    /// # Errors
    /// `LocalIo`.
    pub async fn none_yet(spool: &Arc<Spool>) -> Result<Self> {
        let spool = spool.clone();
        rt::blocking(move || {
            Ok(Self {
                sources: Arc::new(Manifest::create(&spool)?),
                made: Arc::new(Manifest::create(&spool)?),
            })
        })
        .await
    }
}

/// A copy that was made.
struct Copied {
    source: ObjectId,
    source_version: Version,
    /// The server's clock when the copy was asked for.
    asked: SystemTime,
    target: ObjectId,
    version: Version,
}

impl Tree {
    /// Writes down what is at and below `from` now, on disk. Unlinked objects that wait for their last handle are left
    /// out: nobody is to see them again, under any name.
    ///
    /// # Errors
    /// What S3 says; `LocalIo`.
    pub async fn list_for_move(&self, spool: &Arc<Spool>, from: &DirectoryPlace) -> Result<Arc<Manifest>> {
        let spool = spool.clone();
        let list = Arc::new(rt::blocking(move || Manifest::create(&spool)).await?);
        let mut next = None;
        loop {
            let page = self.page_below(from, next).await?;
            let entries = {
                let table = self.table();
                let objects = page.objects.into_iter().map(entry_of_listed);
                objects
                    .filter(|entry| !table.is_hidden(&ObjectId::new(from.bucket.clone(), entry.key.as_str())))
                    .collect::<Vec<_>>()
            };
            append(&list, entries).await?;
            next = page.continuation;
            if next.is_none() {
                return Ok(list);
            }
        }
    }

    pub(super) async fn page_below(
        &self,
        place: &DirectoryPlace,
        continuation: Option<String>,
    ) -> Result<ListPage> {
        let request = ListRequest {
            bucket: Arc::clone(&place.bucket),
            prefix: place.key.prefix().to_owned(),
            by_directory: false,
            start_after: None,
            continuation,
            max_keys: PAGE_KEYS,
        };
        self.client.list(&request).await
    }

    /// Copies everything that `list` names, in whatever version it is now; what is gone by now is passed over.
    /// Writes all copies down in `copies`, also those before an error, and those of objects that have inodes in `arrived`.
    ///
    /// # Errors
    /// The first error, and which copies may have been made all the same; nothing was deleted.
    pub async fn copy_listed(
        &self,
        list: &Arc<Manifest>,
        way: &Move,
        copies: &Copies,
        arrived: &Mutex<Arrived>,
    ) -> Result<(), FailedCopies> {
        let mut position = 0;
        let mut progress = Progress::of("copies", way);
        loop {
            let (entries, next) = read(list, position).await?;
            if entries.is_empty() {
                progress.finish();
                return Ok(());
            }
            if position == 0 {
                self.sample_storage(&entries, way).await;
            }
            position = next;
            let has_failed = AtomicBool::new(false);
            let mut results = stream::iter(entries)
                // Those on their way are waited for, so that their copies are known.
                .take_while(|_| future::ready(!has_failed.load(Ordering::Relaxed)))
                .map(|entry| async move {
                    let key = entry.key.clone();
                    self.copy_one(entry, way).await.map_err(|error| (error, key))
                })
                .buffer_unordered(PARALLEL_MOVES);
            let (mut sources, mut made) = (Vec::new(), Vec::new());
            let (mut first_error, mut uncertain) = (None, Vec::new());
            while let Some(result) = results.next().await {
                match result {
                    Ok(Some(copy)) => {
                        progress.advance(1, copy.version.size_bytes);
                        sources.push(entry_of_source(&copy));
                        made.push(entry_of(copy.target.key.to_string(), &copy.version));
                        if self.is_known(&copy.source) {
                            let what = (copy.source_version.etag, copy.version);
                            lock(arrived).insert(copy.source, what);
                        }
                    }
                    Ok(None) => {}
                    Err((error, key)) => {
                        has_failed.store(true, Ordering::Relaxed);
                        first_error.get_or_insert(error);
                        uncertain.push(key);
                    }
                }
            }
            append(&copies.made, made).await?;
            append(&copies.sources, sources).await?;
            if let Some(error) = first_error {
                return Err(FailedCopies { error, uncertain });
            }
        }
    }

    /// Looks at a few objects: if one is stored otherwise than its copy would be, which no listing tells of its encryption,
    /// each is looked at before it is copied.
    async fn sample_storage(&self, entries: &[ManifestEntry], way: &Move) {
        if self.client.has_seen_other_storage() {
            return;
        }
        let objects: Vec<_> = entries.iter().filter(|entry| !is_marker(entry)).collect();
        let step = objects.len().div_ceil(STORAGE_SAMPLE).max(1);
        let sample = objects.into_iter().step_by(step);
        let looks = sample.map(|entry| {
            let source = way.source(&entry.key);
            async move { self.client.head(&source).await }
        });
        // What fails here is met by its copy.
        future::join_all(looks).await;
    }

    /// `None` when the source is gone.
    async fn copy_one(&self, entry: ManifestEntry, way: &Move) -> Result<Option<Copied>> {
        let (source, target) = (way.source(&entry.key), way.target(&entry.key));
        if self.table().is_hidden(&source) {
            return Ok(None);
        }
        let is_marker = is_marker(&entry);
        let asked = self.client.server_time();
        let result = match self.copy_current(&source, version_of(&entry), &target).await {
            Err(error) if is_marker && is_marker_trouble(&error) => {
                self.make_marker_anew(&source, &target).await
            }
            result => result,
        };
        match result {
            Ok((source_version, version)) => Ok(Some(Copied {
                source,
                source_version,
                asked,
                target,
                version,
            })),
            Err(error) if error.kind() == ErrorKind::NotFound && self.look_at(&source).await?.is_none() => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Finishes what a former mount was cut off in. What was written since under the old name stays there; with
    /// `only_deletes` so does what the new name does not have.
    ///
    /// # Errors
    /// What S3 says: it can be done again.
    pub async fn resume_move(&self, list: &Arc<Manifest>, way: &Move, only_deletes: bool) -> Result<()> {
        if !only_deletes {
            self.resume_copies(list, way).await?;
        }
        let mut removal = Removal::of(list);
        while let Some(entries) = removal.next().await? {
            stream::iter(entries)
                .map(|entry| self.delete_if_unchanged(entry, way))
                .buffer_unordered(PARALLEL_MOVES)
                .try_collect::<Vec<()>>()
                .await?;
        }
        Ok(())
    }

    async fn resume_copies(&self, list: &Arc<Manifest>, way: &Move) -> Result<()> {
        let mut position = 0;
        loop {
            let (entries, next) = read(list, position).await?;
            if entries.is_empty() {
                return Ok(());
            }
            position = next;
            stream::iter(entries)
                .map(|entry| self.copy_if_unchanged(entry, way))
                .buffer_unordered(PARALLEL_MOVES)
                .try_collect::<Vec<()>>()
                .await?;
        }
    }

    /// The object, if it is what was listed.
    async fn unchanged(&self, entry: &ManifestEntry, source: &ObjectId) -> Result<Option<ObjectInfo>> {
        let found = self.look_at(source).await?;
        Ok(found.filter(|info| {
            let modified = info.version.last_modified.duration_since(UNIX_EPOCH);
            // Equal bytes have equal tags: the time tells whether somebody wrote them anew.
            info.version.etag == entry.etag
                && modified.is_ok_and(|since| since.as_secs() == entry.modified_unix_s)
        }))
    }

    async fn copy_if_unchanged(&self, entry: ManifestEntry, way: &Move) -> Result<()> {
        let (source, target) = (way.source(&entry.key), way.target(&entry.key));
        let Some(info) = self.unchanged(&entry, &source).await? else {
            return Ok(());
        };
        let is_marker = is_marker(&entry);
        match self
            .copy_version(&source, &info.version, &target, Condition::Absent)
            .await
        {
            // What is there decides whether the source may go.
            Err(error) if error.kind() == ErrorKind::PreconditionFailed => Ok(()),
            Err(error) if is_marker && is_marker_trouble(&error) => {
                self.make_marker_anew(&source, &target).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    async fn delete_if_unchanged(&self, entry: ManifestEntry, way: &Move) -> Result<()> {
        let (source, target) = (way.source(&entry.key), way.target(&entry.key));
        let Some(info) = self.unchanged(&entry, &source).await? else {
            return Ok(());
        };
        let copy = self.look_at(&target).await?;
        if copy.is_some_and(|copy| loses_nothing(&source, &info, &copy)) {
            self.delete_version(&source, &info.version.etag).await?;
        } else {
            tracing::warn!(%source, %target, "the new name has no copy of this object: it stays where it was");
        }
        Ok(())
    }

    /// Takes back the copies of a rename that failed, as far as they are still the copies that were made.
    ///
    /// # Errors
    /// The first error: the rest of them is still there.
    pub async fn undo_copies(&self, copies: &Copies, failed: &FailedCopies, way: &Move) -> Result<()> {
        for key in &failed.uncertain {
            let (source, target) = (way.source(key), way.target(key));
            let Some(copy) = self.look_at(&target).await? else {
                continue;
            };
            let of = self.look_at(&source).await?;
            if of.is_some_and(|of| is_copy(&of, &copy)) {
                self.delete_version(&target, &copy.version.etag).await?;
            }
        }
        let mut removal = Removal::of(&copies.made);
        while let Some(entries) = removal.next().await? {
            let versions: Vec<_> = entries.into_iter().map(|entry| (entry.key, entry.etag)).collect();
            let failures = self.client.delete_versions(&way.to.bucket, &versions).await?;
            let mut failures = failures.into_iter().map(|(_, error)| error);
            if let Some(error) = failures.find(|error| error.kind() != ErrorKind::PreconditionFailed) {
                return Err(error);
            }
        }
        Ok(())
    }

    /// After a directory was moved: moves what appeared under its old name meanwhile, where the new name is free.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn move_leftovers(&self, way: &Move) -> Result<()> {
        let mut next = None;
        loop {
            let page = self.page_below(&way.from, next).await?;
            for object in page.objects {
                let entry = entry_of_listed(object);
                let (source, target) = (way.source(&entry.key), way.target(&entry.key));
                if self.table().is_hidden(&source) {
                    continue;
                }
                let moved = self
                    .move_version(&source, &version_of(&entry), &target, Condition::Absent)
                    .await?;
                if moved.is_none() {
                    tracing::warn!(%source, "somebody wrote this object during the rename: it stays where it was");
                }
            }
            next = page.continuation;
            if next.is_none() {
                return Ok(());
            }
        }
    }

    pub(super) async fn look_at(&self, id: &ObjectId) -> Result<Option<ObjectInfo>> {
        match self.client.head(id).await {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn lock(arrived: &Mutex<Arrived>) -> MutexGuard<'_, Arrived> {
    // Entries are put in whole.
    arrived.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn append(list: &Arc<Manifest>, entries: Vec<ManifestEntry>) -> Result<()> {
    let list = list.clone();
    rt::blocking(move || list.append(&entries)).await
}

pub(super) async fn read(list: &Arc<Manifest>, position: u64) -> Result<(Vec<ManifestEntry>, u64)> {
    let list = list.clone();
    rt::blocking(move || list.read(position)).await
}

fn entry_of_listed(object: ListedObject) -> ManifestEntry {
    ManifestEntry {
        key: object.key,
        etag: object.etag,
        size_bytes: object.size_bytes,
        modified_unix_s: unix_s(object.last_modified),
    }
}

fn entry_of(key: String, version: &Version) -> ManifestEntry {
    ManifestEntry {
        key,
        etag: version.etag.clone(),
        size_bytes: version.size_bytes,
        modified_unix_s: unix_s(version.last_modified),
    }
}

/// Without a time where that would not tell whether the object was written again after it was copied: times are whole
/// seconds, and the server's clock is known to about one.
fn entry_of_source(copy: &Copied) -> ManifestEntry {
    let mut entry = entry_of(copy.source.key.to_string(), &copy.source_version);
    if entry.modified_unix_s + 1 >= unix_s(copy.asked) {
        entry.modified_unix_s = 0;
    }
    entry
}

fn version_of(entry: &ManifestEntry) -> Version {
    Version {
        etag: entry.etag.clone(),
        size_bytes: entry.size_bytes,
        version_id: None,
        last_modified: entry.last_modified(),
    }
}

pub(super) fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
