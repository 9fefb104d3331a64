//! What goes from the bucket after its name went: unlinked objects that handles still read, and new files of which nobody
//! knows whether they were put.
//!
//! 1. Equal bytes have equal ETags, so a condition does not tell the unlinked object from one that somebody else puts under
//!    its name meanwhile. It is looked at before it is deleted: Last-Modified and the transaction tell ([`Unlinked`]).
//! 2. A PUT whose reply was lost may be carried out after the unlink. It is looked for, for a while, by its transaction,
//!    also by the next mount ([`Fs::withdraw`]).
//! 3. A directory without a marker goes with the last object in it, which may be an unlinked one. It gets a marker then, also
//!    from the next mount, unless it was removed meanwhile: that is recorded with the delete ([`Deferred::keeps_directory`]).
//! 4. What takes the place of an object that handles read must leave them what they need ([`OpenFile::keep_for_handles`],
//!    [`super::displacing`]).

use super::Fs;
use super::commit::{FIRST_RETRY, LONGEST_RETRY};
use super::contents::OpenFile;
use crate::base::attributes::TRANSACTION;
use crate::base::error::{ErrorKind, Result};
use crate::base::object::{ETag, ObjectId, ObjectInfo};
use crate::object::outcome;
use crate::rt;
use crate::spool::{Intent, RecordId};
use crate::tree::node::{DirectoryPlace, Ino, Node};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

/// Between two looks for an object that may still appear. No store holds a request back for longer than all of them.
const PAUSES: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(15),
    Duration::from_secs(40),
    Duration::from_mins(4),
    Duration::from_mins(10),
];

/// The object that was unlinked: an equal one that was put since is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlinked {
    pub etag: ETag,
    /// `None`: its transaction is enough.
    pub modified_unix_s: Option<u64>,
    /// Of objects that this program wrote.
    pub transaction: Option<String>,
}

impl Unlinked {
    fn of(info: &ObjectInfo) -> Self {
        Self {
            etag: info.version.etag.clone(),
            modified_unix_s: Some(modified_unix_s(info)),
            transaction: info.headers.metadata.get(TRANSACTION).cloned(),
        }
    }

    fn is(&self, info: &ObjectInfo) -> bool {
        let found = Self::of(info);
        (&self.etag, &self.transaction) == (&found.etag, &found.transaction)
            && (self.modified_unix_s.is_none() || self.modified_unix_s == found.modified_unix_s)
    }
}

/// The DELETE that waits for the last handle.
pub struct Deferred {
    pub record: RecordId,
    pub object: Unlinked,
    /// As recorded: its directory may need a marker then.
    pub keeps_directory: bool,
}

fn intent_of(id: &ObjectId, object: &Unlinked, keeps_directory: bool) -> Intent {
    Intent::Delete {
        bucket: id.bucket.to_string(),
        key: id.key.to_string(),
        etag: object.etag.as_str().to_owned(),
        modified_unix_s: object.modified_unix_s.unwrap_or_default(),
        transaction: object.transaction.clone(),
        keeps_directory,
    }
}

impl OpenFile {
    /// The object is about to go: files that copy from it are committed, and what handles need is kept here. If `taker`
    /// takes the name and copies from it, its own commit does.
    ///
    /// # Errors
    /// Why nobody may take its place yet.
    pub(super) async fn keep_for_handles(&self, taker: Option<&OpenFile>) -> Result<()> {
        let taker = taker.map(|taker| &*taker.file);
        self.file.settle_copies_but(taker).await?;
        let is_copied = taker.is_some_and(|taker| self.file.is_copied_by(taker));
        let is_needed = if is_copied {
            self.handles.load(Ordering::SeqCst) > 0
        } else {
            self.is_in_use()
        };
        if !is_needed {
            // Only the copies needed it.
            return Ok(());
        }
        self.file.keep_for_handles().await?;
        // What began to copy from it meanwhile: from here on nothing does.
        self.file.settle_copies_but(taker).await
    }
}

impl Fs {
    /// Hides the object and records that it is to be deleted, if the handles read what is there now; else deletes it.
    pub(super) async fn defer_delete(&self, node: &Node, id: &ObjectId, open: &OpenFile) -> Result<()> {
        let info = match self.context.client.head(id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.tree.saw_nothing(node.ino);
                return Err(error);
            }
            other => other?,
        };
        if open
            .file
            .base_etag()
            .is_some_and(|base| base != info.version.etag)
        {
            // Somebody else's, which no handle here has.
            return self.tree.delete_object(id, Some(info.version.etag)).await;
        }
        let object = Unlinked::of(&info);
        let keeps_directory = self.tree.lacks_marker(&DirectoryPlace::around(id));
        let record = self
            .record_intent(intent_of(id, &object, keeps_directory))
            .await?;
        *open.deferred_delete.lock().await = Some(Deferred {
            record,
            object,
            keeps_directory,
        });
        self.tree.hide(id, node.ino);
        Ok(())
    }

    /// Deletes the object of an unlinked file that nobody needs any more. False when it could not: it stays hidden.
    pub(crate) async fn finish_deferred_delete(self: &Arc<Self>, ino: Ino, open: &OpenFile) -> bool {
        let mut slot = open.deferred_delete.lock().await;
        let id = open.file.id();
        open.file.tell();
        let is_hidden = self.tree.hidden_owner(&id) == Some(ino);
        let object = match &*slot {
            Some(deferred) => Some(deferred.object.clone()),
            None if is_hidden && open.file.unknown_transaction().is_some() => None,
            None if is_hidden => put_unlinked(open),
            None => return true,
        };
        let deleted = match object {
            Some(object) => self.delete_unlinked(&id, &object).await,
            // Nobody knows whether it came to that.
            None => self.withdraw(open).await,
        };
        if let Err(error) = deleted {
            tracing::warn!(%error, "an unlinked object could not be deleted; it is tried again, also by the next mount");
            return false;
        }
        self.tree.deleted_hidden(&id, ino);
        let deferred = slot.take();
        drop(slot);
        // Others saw it, and that the directory was not empty, when they removed the rest.
        self.may_be_empty(&DirectoryPlace::around(&id)).await;
        // Not before it is recorded that the directory stays.
        if let Some(deferred) = deferred {
            self.forget_record(deferred.record).await;
        }
        true
    }

    /// A directory has gone, with what is below it: unlinked objects that wait there do not bring it back.
    pub(super) async fn removed_around_unlinked(&self, directory: &DirectoryPlace) {
        for id in self.tree.hidden_below(&directory.bucket, directory.key.prefix()) {
            let owner = self.tree.hidden_owner(&id);
            let open = owner.and_then(|ino| self.files().get(&ino).cloned());
            let Some(open) = open else { continue };
            let mut slot = open.deferred_delete.lock().await;
            let Some(deferred) = slot.as_mut().filter(|deferred| deferred.keeps_directory) else {
                continue;
            };
            match self.record_intent(intent_of(&id, &deferred.object, false)).await {
                Ok(record) => {
                    deferred.keeps_directory = false;
                    let former = std::mem::replace(&mut deferred.record, record);
                    self.forget_record(former).await;
                }
                Err(error) => tracing::warn!(%error, "a removed directory could not be recorded"),
            }
        }
    }

    /// The last handle of an unlinked file is closed. If its object cannot be deleted now it is tried again: until then
    /// nobody is to see it.
    pub(super) async fn close_unlinked(self: &Arc<Self>, ino: Ino, open: &Arc<OpenFile>) {
        if !self.finish_deferred_delete(ino, open).await {
            if super::lock(&self.retrying).insert(ino) {
                let (fs, open) = (self.clone(), open.clone());
                rt::spawn(async move { fs.keep_deleting(ino, &open).await });
            }
            return;
        }
        self.drop_unlinked(ino, open).await;
    }

    async fn keep_deleting(self: &Arc<Self>, ino: Ino, open: &Arc<OpenFile>) {
        let mut pause = FIRST_RETRY;
        loop {
            rt::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RETRY);
            // Whoever came back to it closes it again.
            if open.is_in_use() || self.finish_deferred_delete(ino, open).await {
                break;
            }
        }
        super::lock(&self.retrying).remove(&ino);
        self.drop_unlinked(ino, open).await;
    }

    async fn drop_unlinked(&self, ino: Ino, open: &Arc<OpenFile>) {
        self.forget_content(ino, open);
        if !open.is_in_use() {
            self.withheld.forget(ino, &open.file.id());
            open.file.discard().await;
        }
    }

    /// Deletes the object, unless it is another one by now.
    pub(super) async fn delete_unlinked(&self, id: &ObjectId, object: &Unlinked) -> Result<()> {
        let client = &self.context.client;
        match outcome::look(client, id).await? {
            Some(info) if object.is(&info) => gone_or_replaced(client.delete(id, Some(&object.etag)).await),
            _ => Ok(()),
        }
    }

    /// The directory of an unlinked object that is still there gets its marker, if nothing else is in it.
    pub(super) async fn keep_directory_around(&self, id: &ObjectId, object: &Unlinked) -> Result<()> {
        let found = outcome::look(&self.context.client, id).await?;
        if !found.is_some_and(|info| object.is(&info)) {
            // Who has removed it may have removed the directory, too.
            return Ok(());
        }
        let directory = DirectoryPlace::around(id);
        if self.tree.is_empty_but_for(&directory, Some(id)).await? {
            self.restore_marker(&directory, self.settings.metadata_format)
                .await?;
        }
        Ok(())
    }

    /// As [`Fs::finish_deferred_delete`], at the end of the mount: nobody will look later whether the directory needs a marker.
    pub(super) async fn finish_last_delete(self: &Arc<Self>, ino: Ino, open: &OpenFile) {
        let slot = open.deferred_delete.lock().await;
        let kept = slot.as_ref().filter(|deferred| deferred.keeps_directory);
        let kept = kept.map(|deferred| deferred.object.clone());
        drop(slot);
        if let Some(object) = kept
            && let Err(error) = self.keep_directory_around(&open.file.id(), &object).await
        {
            tracing::warn!(%error, "a directory got no marker before the last of it is deleted: the next mount does both");
            return;
        }
        self.finish_deferred_delete(ino, open).await;
    }

    /// The file is being unlinked while nobody can tell what came of a write of it: what that has made, or makes later, is
    /// removed.
    ///
    /// # Errors
    /// `LocalIo`: it could not be recorded.
    pub(super) async fn withdraw(self: &Arc<Self>, open: &OpenFile) -> Result<()> {
        let Some(transaction) = open.file.unknown_transaction() else {
            return Ok(());
        };
        let id = open.file.id();
        if self
            .withdraw_now(&id, &transaction)
            .await
            .is_ok_and(|found| found)
        {
            return Ok(());
        }
        let record = self.record_withdrawal(&id, &transaction).await?;
        let fs = self.clone();
        rt::spawn(async move { fs.keep_withdrawing(record, &id, &transaction, &PAUSES).await });
        Ok(())
    }

    /// If this process ends, the next mount removes what a write with that identity makes or has made.
    pub(super) async fn record_withdrawal(&self, id: &ObjectId, transaction: &str) -> Result<RecordId> {
        let until = rt::wall_clock() + PAUSES.iter().sum::<Duration>();
        let since = until.duration_since(UNIX_EPOCH);
        self.record_intent(Intent::Withdraw {
            bucket: id.bucket.to_string(),
            key: id.key.to_string(),
            transaction: transaction.to_owned(),
            until_unix_s: since.map_or(0, |since| since.as_secs()),
        })
        .await
    }

    /// Goes on with what a former mount recorded.
    pub(super) fn withdraw_again(
        self: &Arc<Self>,
        record: RecordId,
        id: ObjectId,
        transaction: String,
        until_unix_s: u64,
    ) {
        let now = rt::wall_clock().duration_since(UNIX_EPOCH);
        let is_over = now.is_ok_and(|now| now.as_secs() > until_unix_s);
        let fs = self.clone();
        rt::spawn(async move {
            let pauses = if is_over { &PAUSES[..0] } else { &PAUSES };
            fs.keep_withdrawing(record, &id, &transaction, pauses).await;
        });
    }

    async fn keep_withdrawing(
        &self,
        record: RecordId,
        id: &ObjectId,
        transaction: &str,
        pauses: &[Duration],
    ) {
        let mut pauses = pauses.iter();
        loop {
            let found = self.withdraw_now(id, transaction).await;
            match (found, pauses.next()) {
                (Ok(false), Some(pause)) => rt::sleep(*pause).await,
                (Err(error), Some(pause)) => {
                    tracing::debug!(%error, "an unlinked file is still looked for");
                    rt::sleep(*pause).await;
                }
                (Ok(_), _) => break,
                (Err(error), None) => {
                    tracing::warn!(%error, "a file that was unlinked may be in the bucket; the next mount looks again");
                    return;
                }
            }
        }
        self.forget_record(record).await;
    }

    /// Removes what the write made; false when it has made nothing (yet).
    async fn withdraw_now(&self, id: &ObjectId, transaction: &str) -> Result<bool> {
        let client = &self.context.client;
        match outcome::look(client, id).await? {
            Some(info) if outcome::carries(&info, transaction) => {
                gone_or_replaced(client.delete(id, Some(&info.version.etag)).await).map(|()| true)
            }
            _ => Ok(false),
        }
    }
}

fn modified_unix_s(info: &ObjectInfo) -> u64 {
    let since = info.version.last_modified.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What a commit has made of an unlinked file that was on its way at the unlink.
fn put_unlinked(open: &OpenFile) -> Option<Unlinked> {
    Some(Unlinked {
        etag: open.file.base_etag()?,
        modified_unix_s: None,
        transaction: open.file.carried().metadata.get(TRANSACTION).cloned(),
    })
}

/// There is nothing left of the version that was to be deleted.
fn gone_or_replaced(deleted: Result<()>) -> Result<()> {
    match deleted {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PreconditionFailed) => Ok(()),
        other => other,
    }
}
