//! Changes of what committed objects carry (attributes, xattrs, content type). They wait a moment for more of them.
//!
//! Difficulties, and what solves each:
//! 1. Every such change is a copy of the object, and programs make several in a row (chown, chmod, utimens), and then rename
//!    the file. So they wait up to a second and are merged, or ride on a rename or an upload; fsync and unmount force them.
//! 2. What waits is what stat shows, laid over what the bucket said and never mixed into it ([`Edits::overlay`]).
//! 3. A copy changes the ETag of many objects. Nobody opens, renames or deletes an object while one is on its way, and
//!    nobody starts one while that goes on: each takes the object's turn ([`Fs::edit_turn`]).
//! 4. Nobody waits for the result: a failure goes to the log, to `user.s3.error`, and to the next fsync.
//! 5. Many files at once (`chmod -R`): beyond [`MAX_WAITING`] whoever makes a change waits for it.

use super::attr::Change;
use super::contents::OpenFile;
use super::{Fs, lock};
use crate::base::attributes::Attributes;
use crate::base::attributes::xattrs::Xattrs;
use crate::base::error::{Error, Result};
use crate::base::object::ObjectHeaders;
use crate::rt;
use crate::tree::node::{Ino, Kind};
use lru::LruCache;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::OwnedMutexGuard;

/// How long a change may wait for others.
const DELAY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_mins(1);
/// So many objects have changes waiting at most.
const MAX_WAITING: usize = 1_000;
// unwrap: the number is not zero, which the compiler checks.
const MAX_FAILURES: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// A change of what an object carries beside its bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edit {
    change: Change,
    ctime: Option<SystemTime>,
    /// By name; `None`: removed.
    xattrs: BTreeMap<String, Option<Vec<u8>>>,
    content_type: Option<String>,
}

impl Edit {
    pub fn of_attributes(change: Change) -> Self {
        Self {
            change,
            ctime: Some(rt::wall_clock()),
            ..Self::default()
        }
    }

    pub fn of_xattr(name: &str, value: Option<&[u8]>) -> Self {
        Self {
            ctime: Some(rt::wall_clock()),
            xattrs: [(name.to_owned(), value.map(<[u8]>::to_vec))].into(),
            ..Self::default()
        }
    }

    pub fn of_content_type(content_type: String) -> Self {
        Self {
            ctime: Some(rt::wall_clock()),
            content_type: Some(content_type),
            ..Self::default()
        }
    }

    fn merge(&mut self, later: Self) {
        self.change = self.change.followed_by(&later.change);
        self.ctime = later.ctime.or(self.ctime);
        self.xattrs.extend(later.xattrs);
        self.content_type = later.content_type.or(self.content_type.take());
    }

    pub fn apply(&self, attributes: &mut Attributes, kind: Kind) {
        self.change.apply(attributes, kind);
        attributes.ctime = self.ctime.or(attributes.ctime);
    }

    /// As [`Edit::apply`], to a content that is being written: what was written after this change was made is younger.
    fn apply_to_written(&self, attributes: &mut Attributes, kind: Kind) {
        let (mtime, ctime) = (attributes.mtime, attributes.ctime);
        self.apply(attributes, kind);
        if ctime > self.ctime {
            (attributes.mtime, attributes.ctime) = (mtime, ctime);
        }
    }

    pub fn touches_headers(&self) -> bool {
        !self.xattrs.is_empty() || self.content_type.is_some()
    }

    pub fn apply_to_headers(&self, headers: &mut ObjectHeaders) {
        if let Some(content_type) = &self.content_type {
            headers.content_type = Some(content_type.clone());
        }
        if self.xattrs.is_empty() {
            return;
        }
        // Whoever made the change saw that it can be read.
        let Ok(mut xattrs) = Xattrs::read(&headers.metadata) else {
            return;
        };
        for (name, value) in &self.xattrs {
            match value {
                Some(value) => xattrs.set(name, value),
                None => _ = xattrs.remove(name),
            }
        }
        xattrs.write(&mut headers.metadata);
    }
}

struct Waiting {
    edit: Edit,
    /// Counts merges.
    changes: u64,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// While it lives nobody else changes, opens or renames the object.
pub(crate) type Turn = OwnedMutexGuard<()>;

/// What waits, and what failed.
pub(crate) struct Edits {
    waiting: Mutex<HashMap<Ino, Waiting>>,
    failures: Mutex<LruCache<Ino, Error>>,
    /// Why changes are lost that nobody was told of yet.
    lost: Mutex<LruCache<Ino, Error>>,
}

impl Default for Edits {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            failures: Mutex::new(LruCache::new(MAX_FAILURES)),
            lost: Mutex::new(LruCache::new(MAX_FAILURES)),
        }
    }
}

impl Edits {
    /// Lays what waits over what the bucket said.
    pub fn overlay(&self, ino: Ino, kind: Kind, attributes: &mut Attributes, is_written: bool) {
        if let Some(waiting) = lock(&self.waiting).get(&ino) {
            if is_written {
                waiting.edit.apply_to_written(attributes, kind);
            } else {
                waiting.edit.apply(attributes, kind);
            }
        }
    }

    pub fn overlay_headers(&self, ino: Ino, headers: &mut ObjectHeaders) {
        if let Some(waiting) = lock(&self.waiting).get(&ino) {
            waiting.edit.apply_to_headers(headers);
        }
    }

    /// The last failure of the inode, for whoever asks.
    pub fn failure(&self, ino: Ino) -> Option<Error> {
        lock(&self.failures).peek(&ino).cloned()
    }

    pub fn note_failure(&self, ino: Ino, error: &Error) {
        lock(&self.failures).put(ino, error.clone());
    }

    pub fn forget_failure(&self, ino: Ino) {
        lock(&self.failures).pop(&ino);
    }

    /// Why a change was lost that nobody was told of: told once.
    fn take_lost(&self, ino: Ino) -> Result<()> {
        lock(&self.lost).pop(&ino).map_or(Ok(()), Err)
    }
}

impl Fs {
    /// Makes a change of a committed object, within a second.
    ///
    /// # Errors
    /// Only where so many wait that this one is made at once.
    pub(crate) async fn edit_later(self: &Arc<Self>, ino: Ino, edit: Edit) -> Result<()> {
        let (is_new, is_full) = {
            let mut waiting = lock(&self.edits.waiting);
            if let Some(waiting) = waiting.get_mut(&ino) {
                waiting.edit.merge(edit);
                waiting.changes += 1;
                (false, false)
            } else {
                let first = Waiting {
                    edit,
                    changes: 0,
                    turn: Arc::default(),
                };
                waiting.insert(ino, first);
                (true, waiting.len() > MAX_WAITING)
            }
        };
        if is_new {
            // The inode lives as long as something waits for it.
            self.tree.pin(ino);
            let fs = self.clone();
            rt::spawn(async move { fs.settle_in_time(ino).await });
        }
        if is_full {
            self.settle_edit_and_tell(ino).await
        } else {
            Ok(())
        }
    }

    async fn settle_in_time(self: Arc<Self>, ino: Ino) {
        let mut pause = DELAY;
        while lock(&self.edits.waiting).contains_key(&ino) {
            rt::sleep(pause).await;
            pause = match self.settle_edit(ino).await {
                Ok(()) => DELAY,
                Err(_) => (pause * 2).min(LONGEST_RETRY),
            };
        }
    }

    /// The object's turn, where anything waits for it.
    pub(crate) async fn edit_turn(&self, ino: Ino) -> Option<Turn> {
        let turn = lock(&self.edits.waiting)
            .get(&ino)
            .map(|waiting| waiting.turn.clone())?;
        Some(turn.lock_owned().await)
    }

    /// What waits for the object, and which of the changes that is ([`Fs::edit_made`]). To be brought to the bucket by the
    /// holder of its turn.
    pub(crate) fn waiting_edit(&self, ino: Ino) -> Option<(Edit, u64)> {
        let waiting = lock(&self.edits.waiting);
        let waiting = waiting.get(&ino)?;
        Some((waiting.edit.clone(), waiting.changes))
    }

    /// It is in the bucket, or needs to go nowhere. What came meanwhile still waits.
    pub(crate) fn edit_made(&self, ino: Ino, changes: u64) {
        let is_done = {
            let mut waiting = lock(&self.edits.waiting);
            let is_all = waiting
                .get(&ino)
                .is_some_and(|waiting| waiting.changes == changes);
            is_all && waiting.remove(&ino).is_some()
        };
        if is_done {
            self.tree.unpin(ino);
        }
    }

    /// Brings what waits for the object to the bucket now.
    ///
    /// # Errors
    /// Why that failed. What may work later is tried again.
    pub(crate) async fn settle_edit(self: &Arc<Self>, ino: Ino) -> Result<()> {
        let Some(_turn) = self.edit_turn(ino).await else {
            return Ok(());
        };
        let Some((edit, changes)) = self.waiting_edit(ino) else {
            return Ok(());
        };
        let Err(error) = self.put_edit(ino, &edit).await else {
            self.edits.forget_failure(ino);
            self.edit_made(ino, changes);
            return Ok(());
        };
        self.edits.note_failure(ino, &error);
        if error.is_transient() {
            tracing::warn!(%error, "changed attributes could not be stored yet");
        } else {
            tracing::warn!(%error, "changed attributes could not be stored, and are lost");
            lock(&self.edits.lost).put(ino, error.clone());
            self.edit_made(ino, changes);
        }
        Err(error)
    }

    /// As [`Fs::settle_edit`], for somebody who is told what came of it, and of what was lost before.
    pub(crate) async fn settle_edit_and_tell(self: &Arc<Self>, ino: Ino) -> Result<()> {
        let settled = self.settle_edit(ino).await;
        let lost = self.edits.take_lost(ino);
        settled.and(lost)
    }

    /// What waits for the object goes with the content's next upload, unless it is on its way already.
    pub(crate) fn absorb_edit(&self, ino: Ino, kind: Kind, open: &OpenFile) {
        let waiting = {
            let mut all = lock(&self.edits.waiting);
            let Some(waiting) = all.get(&ino) else { return };
            let Ok(_turn) = waiting.turn.clone().try_lock_owned() else {
                return;
            };
            all.remove(&ino)
        };
        if let Some(waiting) = waiting {
            edit_content(open, kind, &waiting.edit);
            self.tree.unpin(ino);
        }
    }

    /// The change, and what waits for the object, goes with the content's next upload. Where another change is on its way
    /// it waits behind that, which would replace it in what the content carries.
    pub(crate) fn edit_written(&self, ino: Ino, kind: Kind, open: &OpenFile, edit: Edit) {
        // Held to the end: nobody brings a change to the bucket that is not seen here, and who does so later sees that the
        // content has something to send.
        let mut all = lock(&self.edits.waiting);
        let Some(waiting) = all.get_mut(&ino) else {
            edit_content(open, kind, &edit);
            return;
        };
        let Ok(_turn) = waiting.turn.clone().try_lock_owned() else {
            waiting.edit.merge(edit);
            waiting.changes += 1;
            return;
        };
        edit_content(open, kind, &waiting.edit);
        edit_content(open, kind, &edit);
        all.remove(&ino);
        self.tree.unpin(ino);
    }

    /// The object is gone: nothing of it needs to be changed, but who still has it open sees the change. By the holder of
    /// its turn.
    pub(crate) fn discard_edit(&self, ino: Ino) {
        lock(&self.edits.lost).pop(&ino);
        let Some(waiting) = lock(&self.edits.waiting).remove(&ino) else {
            return;
        };
        let open = self.files().get(&ino).cloned();
        if let (Some(open), Ok(node)) = (open, self.tree.node(ino))
            && node.unlinked
        {
            edit_content(&open, node.kind, &waiting.edit);
            self.tree.assume_attributes(ino, open.file.attributes());
        }
        self.tree.unpin(ino);
    }

    /// Everything that waits. Returns one line for each failure.
    pub(crate) async fn settle_all_edits(self: &Arc<Self>) -> Vec<String> {
        let all: Vec<Ino> = lock(&self.edits.waiting).keys().copied().collect();
        let settled = all.into_iter().map(|ino| self.settle_edit(ino));
        let settled = futures_util::future::join_all(settled).await;
        settled
            .into_iter()
            .filter_map(|result| result.err().map(|error| error.to_string()))
            .collect()
    }
}

/// The change goes with the content's next upload. One that was made before the last write does not move its time.
pub(crate) fn edit_content(open: &OpenFile, kind: Kind, edit: &Edit) {
    let mut attributes = open.file.attributes();
    edit.apply_to_written(&mut attributes, kind);
    open.file.set_attributes(attributes);
    if edit.touches_headers() {
        open.file.edit_headers(|headers| edit.apply_to_headers(headers));
    }
}
