//! Something takes the name of unlinked files whose handles still need what the bucket has of them.
//!
//! 1. Their objects wait, unseen, for the last handle. What handles need of one is fetched before another object takes its
//!    place, and nobody deletes it meanwhile: an equal one has the same ETag ([`Fs::displace`]).
//! 2. Bytes that are only in parts of an upload cannot be read before that is completed, which can be done under its own name
//!    only. Most unlinked files are closed without another look, so nothing is done about it at the unlink. Only when
//!    something is about to take the name is the upload completed there, unseen, and fetched ([`Displacing::complete`]).
//! 3. So several unlinked files may need one name: they have it one after the other, each in place of the one before.
//! 4. An unlinked file puts such an object itself when its own handles need the bytes ([`Fs::way_of`]). Its identity is
//!    recorded before: a crash leaves nothing behind that nobody sees.
//! 5. Locks: `deferred_delete` of all files that are concerned, in the order of their inode numbers. Who comes because its
//!    version is copied from, so from within another one's commit, waits for none of them.

use super::contents::OpenFile;
use super::unlinked::{Deferred, Unlinked};
use super::{Fs, lock};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{ObjectId, Version};
use crate::object::file::{Later, Way};
use crate::spool::RecordId;
use crate::tree::node::Ino;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use tokio::sync::OwnedMutexGuard;

/// Unlinked files by the name that they had, as long as they have bytes that are only in an upload for it.
#[derive(Default)]
pub(super) struct Withheld(Mutex<HashMap<ObjectId, BTreeSet<Ino>>>);

impl Withheld {
    fn of(&self, id: &ObjectId) -> BTreeSet<Ino> {
        lock(&self.0).get(id).cloned().unwrap_or_default()
    }

    /// The names in a bucket that begin with `prefix`.
    pub fn below(&self, bucket: &str, prefix: &str) -> Vec<ObjectId> {
        let all = lock(&self.0);
        let is_below = |id: &&ObjectId| *id.bucket == *bucket && id.key.starts_with(prefix);
        all.keys().filter(is_below).cloned().collect()
    }

    /// The file has no name any more.
    pub fn note(&self, ino: Ino, open: &OpenFile) {
        if open.file.needs_its_name() {
            lock(&self.0).entry(open.file.id()).or_default().insert(ino);
        }
    }

    pub fn forget(&self, ino: Ino, id: &ObjectId) {
        let mut all = lock(&self.0);
        if let Some(files) = all.get_mut(id) {
            files.remove(&ino);
            if files.is_empty() {
                all.remove(id);
            }
        }
    }
}

/// An unlinked file that a name is needed for.
struct Party {
    open: Arc<OpenFile>,
    deferred: OwnedMutexGuard<Option<Deferred>>,
}

/// A write of an unlinked file under the name that it had.
struct Own {
    ino: Ino,
    transaction: String,
    record: RecordId,
    /// Whose object had the name before.
    former: Option<Ino>,
}

/// A name that is being taken. While this lives nobody deletes what has it.
pub(crate) struct Displacing {
    fs: Arc<Fs>,
    id: ObjectId,
    parties: BTreeMap<Ino, Party>,
    /// By one of the unlinked files themselves.
    own: Option<Own>,
}

impl Fs {
    /// Something is about to take a name: what handles of unlinked files need of what is there is kept here, and nobody
    /// deletes it until that is done ([`displaced`]) or given up. `None` where there is nothing of that kind.
    ///
    /// # Errors
    /// Why nobody may take the name yet; without `may_wait` `Busy` where somebody else is taking it just now.
    pub(super) async fn displace(
        self: &Arc<Self>,
        id: &ObjectId,
        by: Option<(Ino, &Arc<OpenFile>)>,
        may_wait: bool,
    ) -> Result<Option<Displacing>> {
        let mut displacing = loop {
            let files = self.unlinked_files(id, by);
            if files.is_empty() {
                return Ok(None);
            }
            let inos: Vec<Ino> = files.keys().copied().collect();
            let mut parties = BTreeMap::new();
            for (ino, open) in files {
                let slot = open.deferred_delete.clone();
                let deferred = match slot.clone().try_lock_owned() {
                    Ok(deferred) => deferred,
                    Err(_) if may_wait => slot.lock_owned().await,
                    Err(_) => {
                        let message = "something else is taking the name of an unlinked file";
                        return Err(Error::new(ErrorKind::Busy, message).on(id));
                    }
                };
                parties.insert(ino, Party { open, deferred });
            }
            // Who had it first may have changed that.
            if self.unlinked_files(id, by).keys().copied().eq(inos) {
                break Displacing {
                    fs: self.clone(),
                    id: id.clone(),
                    parties,
                    own: None,
                };
            }
        };
        displacing.keep(by).await?;
        Ok(Some(displacing))
    }

    /// All whose object has the name, or whose upload is for it; also `by`, if that is an unlinked file itself.
    fn unlinked_files(
        &self,
        id: &ObjectId,
        by: Option<(Ino, &Arc<OpenFile>)>,
    ) -> BTreeMap<Ino, Arc<OpenFile>> {
        let mut inos = self.withheld.of(id);
        inos.extend(self.tree.hidden_owner(id));
        if let Some((ino, _)) = by {
            inos.remove(&ino);
            if self.is_unlinked(ino) {
                inos.insert(ino);
            }
        }
        if inos.is_empty() {
            return BTreeMap::new();
        }
        let files = self.files();
        let open = |ino: Ino| files.get(&ino).map(|open| (ino, open.clone()));
        inos.into_iter().filter_map(open).collect()
    }

    fn is_unlinked(&self, ino: Ino) -> bool {
        self.tree.node(ino).is_ok_and(|node| node.unlinked)
    }

    /// The way of a commit of this inode's content ([`crate::object::file::Owner::make_way`]).
    pub(super) async fn way_of(self: Arc<Self>, ino: Ino, may_wait: bool) -> Result<Option<Box<dyn Way>>> {
        let open = self.files().get(&ino).cloned();
        let Some(open) = open else { return Ok(None) };
        let displacing = self
            .displace(&open.file.id(), Some((ino, &open)), may_wait)
            .await?;
        let Some(mut displacing) = displacing else {
            return Ok(None);
        };
        if displacing.parties.contains_key(&ino) {
            displacing.own = displacing.begin(ino).await?;
        }
        Ok(Some(Box::new(displacing)))
    }
}

impl Displacing {
    /// The object that has the name now.
    fn current(&self) -> Option<Ino> {
        self.fs.tree.hidden_owner(&self.id)
    }

    pub(super) fn unlinked(&self) -> Option<&Unlinked> {
        let party = self.parties.get(&self.current()?)?;
        party.deferred.as_ref().map(|deferred| &deferred.object)
    }

    async fn keep(&mut self, by: Option<(Ino, &Arc<OpenFile>)>) -> Result<()> {
        let current = self.current();
        let mut inos: Vec<Ino> = self.parties.keys().copied().collect();
        // What is there first, as the others take its place.
        inos.sort_by_key(|ino| Some(*ino) != current);
        for ino in inos.into_iter().filter(|ino| by.is_none_or(|(by, _)| by != *ino)) {
            let party = &self.parties[&ino];
            if party.open.file.needs_its_name() {
                self.complete(ino, by).await?;
            } else if party.deferred.is_some() || Some(ino) == current {
                party.open.keep_for_handles(by.map(|(_, by)| &**by)).await?;
            }
            self.fs.withheld.forget(ino, &self.id);
        }
        Ok(())
    }

    /// Makes the upload of an unlinked file the object that has the name, and fetches what its handles need.
    async fn complete(&mut self, ino: Ino, by: Option<(Ino, &Arc<OpenFile>)>) -> Result<()> {
        let Some(own) = self.begin(ino).await? else {
            return Ok(());
        };
        let open = self.parties[&ino].open.clone();
        if own.former.is_some_and(|former| former != ino)
            && let Some(version) = self.replaces()
        {
            open.file.replaces(version);
        }
        let kept = open.keep_for_handles(by.map(|(_, by)| &**by)).await;
        self.end(own).await;
        kept
    }

    /// An unlinked file is about to be put under the name that it had: that is recorded, and nobody is to see it.
    async fn begin(&mut self, ino: Ino) -> Result<Option<Own>> {
        let file = &self.parties[&ino].open.file;
        let Some(transaction) = file.upload_transaction() else {
            return Ok(None);
        };
        let record = self.fs.record_withdrawal(&self.id, &transaction).await?;
        let former = self.current();
        if former.is_none() {
            self.fs.tree.hide(&self.id, ino);
        }
        Ok(Some(Own {
            ino,
            transaction,
            record,
            former,
        }))
    }

    /// What became of that.
    async fn end(&mut self, own: Own) {
        let (fs, id) = (self.fs.clone(), self.id.clone());
        let Some(party) = self.parties.get_mut(&own.ino) else {
            return;
        };
        let file = &party.open.file;
        file.tell();
        let etag = file
            .base_etag()
            .filter(|_| file.is_committed_as(&own.transaction));
        let Some(etag) = etag else {
            // Else it may still come, and the next mount looks for it, too.
            if file.unknown_transaction().is_none() {
                if own.former.is_none() {
                    fs.tree.unhide(&id, own.ino);
                }
                fs.forget_record(own.record).await;
            }
            return;
        };
        let object = Unlinked {
            etag,
            modified_unix_s: None,
            transaction: Some(own.transaction),
        };
        let record = own.record;
        let mut former = vec![party.deferred.replace(Deferred {
            record,
            object,
            keeps_directory: false,
        })];
        if let Some(replaced) = own.former.filter(|former| *former != own.ino) {
            former.extend(self.parties.get_mut(&replaced).map(|party| party.deferred.take()));
        }
        fs.tree.hide(&id, own.ino);
        fs.withheld.forget(own.ino, &id);
        for deferred in former.into_iter().flatten() {
            fs.forget_record(deferred.record).await;
        }
    }

    async fn forget_displaced(&mut self) {
        let current = self.current();
        for (ino, party) in &mut self.parties {
            if Some(*ino) != current
                && let Some(deferred) = party.deferred.take()
            {
                self.fs.forget_record(deferred.record).await;
            }
        }
    }
}

/// Something else has the name now: there is nothing left of them to delete.
pub(super) async fn displaced(displacing: Option<Displacing>) {
    let Some(mut displacing) = displacing else { return };
    if let Some(current) = displacing.current() {
        displacing.fs.tree.unhide(&displacing.id, current);
    }
    displacing.forget_displaced().await;
}

impl Way for Displacing {
    fn replaces(&self) -> Option<Version> {
        self.fs.tree.hidden_version(&self.id)
    }

    fn over(mut self: Box<Self>) -> Later<()> {
        Box::pin(async move {
            match self.own.take() {
                Some(own) => self.end(own).await,
                // Nothing is sent where another commit has sent it all: then the object that is there stays hidden.
                None => self.forget_displaced().await,
            }
        })
    }
}
