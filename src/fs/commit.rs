//! Bringing content into the bucket: flush, fsync, and what is tried again.

use super::contents::OpenFile;
use super::open::FileHandle;
use super::{Fs, lock};
use crate::base::error::{Error, ErrorKind, Result};
use crate::object::file::{Committed, Later, Owner, Way};
use crate::rt;
use crate::s3::silence;
use crate::tree::node::{Ino, Kind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Between two background attempts to send what a close could not send.
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(1);
pub(super) const LONGEST_RETRY: Duration = Duration::from_mins(1);

impl Fs {
    /// close(2), for each descriptor: returns when everything written so far is in the bucket.
    ///
    /// # Errors
    /// `Stale` when somebody else's newer object is there (the local version is kept), or why it could not be sent.
    pub async fn flush(self: &Arc<Self>, number: u64) -> Result<()> {
        let handle = self.file_handle(number)?;
        if !handle.writable && !handle.created {
            return Ok(());
        }
        self.commit_for(&handle).await
    }

    /// fsync(2).
    ///
    /// # Errors
    /// As [`Fs::flush`].
    pub async fn fsync(self: &Arc<Self>, number: u64) -> Result<()> {
        let handle = self.file_handle(number)?;
        self.commit_for(&handle).await?;
        self.settle_edit_and_tell(handle.ino).await
    }

    /// Commits, and tells the handle of a commit by somebody else that lost what this one wrote.
    async fn commit_for(self: &Arc<Self>, handle: &FileHandle) -> Result<()> {
        self.commit(handle.ino, &handle.open).await?;
        let lost = lock(&handle.open.lost).clone();
        match lost {
            Some(lost) if handle.created || handle.wrote.load(Ordering::Relaxed) => Err(lost),
            _ => Ok(()),
        }
    }

    /// Does something to a content that may commit it on the way, or find that the version it is of is gone.
    pub(crate) async fn watched<T>(
        &self,
        ino: Ino,
        open: &OpenFile,
        operation: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let was_dirty = open.file.is_dirty();
        let result = operation.await;
        if let Err(error) = &result
            && !open.file.is_dirty()
            && is_conflict(error)
            && !self.tree.node(ino).is_ok_and(|node| node.unlinked)
        {
            if was_dirty {
                self.note_loss(ino, open, error);
            } else {
                // The handle keeps to its version; whoever comes by the name is to find what is there.
                self.tree.is_outdated(ino);
            }
        }
        result
    }

    /// The name belongs to somebody else's version now, and the local one was kept elsewhere.
    fn note_loss(&self, ino: Ino, open: &OpenFile, error: &Error) {
        *lock(&open.lost) = Some(error.clone());
        self.tree.lost_to_another(ino);
    }

    /// The object of the inode's content is this version now.
    fn committed(&self, ino: Ino, committed: Committed) {
        if committed.rebased.is_some() {
            self.tree.content_moved(ino);
        }
        let Committed {
            version,
            attributes,
            headers,
            ..
        } = committed;
        self.edits.forget_failure(ino);
        if let Ok(node) = self.tree.node(ino) {
            match node.object().map(|id| (id, self.tree.hidden_owner(id))) {
                // It was unlinked while that was on its way.
                Some((id, None)) if node.unlinked && self.tree.inode_of(id).is_none() => {
                    self.tree.hide(id, ino);
                }
                // What was unlinked is replaced: it does not hide what has its name now.
                Some((id, Some(owner))) if !node.gone => self.tree.unhide(id, owner),
                _ => {}
            }
        }
        self.tree.committed(ino, version, attributes, headers);
    }

    /// Commits one inode's content.
    pub(crate) async fn commit(self: &Arc<Self>, ino: Ino, open: &Arc<OpenFile>) -> Result<()> {
        if !open.file.is_dirty() {
            open.file.tell();
            return Ok(());
        }
        let _change = open.change.lock().await;
        self.commit_locked(ino, open).await
    }

    /// As [`Fs::commit`], by a caller that holds the change lock. What follows a failure (a look, saving the data) does not
    /// wait through the same time-out again.
    pub(crate) async fn commit_locked(&self, ino: Ino, open: &Arc<OpenFile>) -> Result<()> {
        silence::one_operation(self.send_or_save(ino, open)).await
    }

    async fn send_or_save(&self, ino: Ino, open: &Arc<OpenFile>) -> Result<()> {
        if self.tree.node(ino).is_ok_and(|node| node.unlinked) {
            // Unlinked: there is no name to commit it under, and POSIX wants none.
            return Ok(());
        }
        self.absorb_edit(ino, Kind::File, open);
        match open.file.commit().await {
            Ok(_) => Ok(()),
            Err(error) => {
                self.edits.note_failure(ino, &error);
                if is_conflict(&error) {
                    self.note_loss(ino, open, &error);
                } else if let Err(persisting) = open.file.persist().await {
                    tracing::warn!(error = %persisting, "unsent data could not be saved locally either");
                }
                Err(error)
            }
        }
    }

    /// Tries again until it works, or the file is unlinked or conflicts.
    pub(crate) fn commit_later(self: &Arc<Self>, ino: Ino) {
        if !lock(&self.retrying).insert(ino) {
            return;
        }
        let fs = self.clone();
        rt::spawn(async move {
            fs.retry(ino).await;
            lock(&fs.retrying).remove(&ino);
            // What became dirty at the very end is begun anew.
            drop(fs.claim(ino));
        });
    }

    async fn retry(self: &Arc<Self>, ino: Ino) {
        let mut pause = FIRST_RETRY;
        loop {
            let Some(open) = self.claim(ino) else { return };
            let result = self.commit(ino, &open).await;
            let settled = match &result {
                Ok(()) => true,
                Err(error) => is_conflict(error),
            };
            if settled {
                if let Err(error) = result {
                    tracing::warn!(%error, "a file lost against a newer object after it was closed");
                }
                return;
            }
            if let Err(error) = result {
                tracing::warn!(%error, retry_in_s = pause.as_secs(), "unsent data will be tried again");
            }
            drop(open);
            rt::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RETRY);
        }
    }
}

/// What a content tells of its commits.
pub(super) struct Commits {
    /// Contents have these, and the filesystem has the contents.
    fs: Weak<Fs>,
    ino: Ino,
}

impl Commits {
    pub(super) fn of(fs: &Arc<Fs>, ino: Ino) -> Self {
        Self {
            fs: Arc::downgrade(fs),
            ino,
        }
    }
}

impl Owner for Commits {
    fn committing(&self, is_under_way: bool) {
        if let Some(fs) = self.fs.upgrade() {
            fs.tree.committing(self.ino, is_under_way);
        }
    }

    fn committed(&self, committed: Committed) {
        if let Some(fs) = self.fs.upgrade() {
            fs.committed(self.ino, committed);
        }
    }

    fn make_way(&self, may_wait: bool) -> Later<Result<Option<Box<dyn Way>>>> {
        let (fs, ino) = (self.fs.upgrade(), self.ino);
        Box::pin(async move {
            match fs {
                Some(fs) => fs.way_of(ino, may_wait).await,
                None => Ok(None),
            }
        })
    }
}

fn is_conflict(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Stale | ErrorKind::Exists)
}
