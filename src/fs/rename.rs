//! rename(2).
//!
//! Difficulties:
//! 1. A file that is not in the bucket yet is just committed under its new name; one with unsent changes, or with bytes
//!    that are only in an upload for its old name, is committed first; others are moved by a conditional server-side copy
//!    and delete.
//! 2. What the new name led to stays readable through its handles: what they need is kept here first.
//! 3. A directory is moved as a whole, with a record that lets the next mount finish what a crash cut off. A rename that
//!    failed and said so is not finished later: its copies are taken back, and the record goes. Only when everything was
//!    copied and the deletes failed does a record stay, for what is now there twice.

use super::Fs;
use super::attr::known_headers;
use super::contents::OpenFile;
use super::displacing::displaced;
use super::edits::Turn;
use crate::base::attributes::Attributes;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::names;
use crate::base::object::{Condition, ObjectHeaders, ObjectId, Version};
use crate::rt;
use crate::spool::Intent;
use crate::spool::manifest::Manifest;
use crate::tree::Tree;
use crate::tree::moves::{Arrived, Copies, Move};
use crate::tree::node::{DirectoryPlace, Ino, Kind, Link, Node, Place};
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, PoisonError};

/// Where a rename goes.
struct Target {
    parent: Ino,
    directory: DirectoryPlace,
    name: String,
    existing: Option<Node>,
}

/// What a moved object carries; if somebody's newer version was moved instead, the change still waits for that.
#[derive(Clone)]
struct Edited {
    headers: ObjectHeaders,
    attributes: Attributes,
    /// Which of the changes that wait are in it.
    changes: u64,
}

impl Target {
    fn link(&self) -> Link {
        Link {
            parent: self.directory.clone(),
            name: self.name.as_str().into(),
        }
    }
}

impl Fs {
    /// rename(2) and renameat2(2) with RENAME_NOREPLACE.
    ///
    /// # Errors
    /// `Exists` with `no_replace`, `NotEmpty`, `IsDirectory`, `NotDirectory`, `CrossDevice` between buckets for
    /// directories and for buckets themselves, `Busy`.
    pub async fn rename(
        self: &Arc<Self>,
        parent: Ino,
        name: &str,
        new_parent: Ino,
        new_name: &str,
        no_replace: bool,
    ) -> Result<()> {
        self.writable()?;
        let is_root_of_buckets = |ino| {
            self.tree
                .node(ino)
                .map(|node| matches!(node.place, Place::Buckets))
        };
        if is_root_of_buckets(parent)? || is_root_of_buckets(new_parent)? {
            return Err(Error::new(ErrorKind::CrossDevice, "buckets cannot be renamed"));
        }
        let directory = self.tree.directory(new_parent)?;
        let from_directory = self.tree.directory(parent)?;
        let node = self.tree.find(parent, name).await?;
        let existing = self.tree.lookup(new_parent, new_name).await?;
        if existing.is_some() && no_replace {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("{new_name:?} exists already"),
            ));
        }
        if existing.as_ref().is_some_and(|existing| existing.ino == node.ino) {
            return Ok(());
        }
        let target = Target {
            parent: new_parent,
            directory,
            name: new_name.to_owned(),
            existing,
        };
        match &node.place {
            Place::Object(_) => {
                let existing = target.existing.as_ref().map(|existing| existing.ino);
                let turns = self.edit_turns(node.ino, existing).await;
                let gate = existing.map(|existing| self.gates.of(existing));
                let _closed = match gate {
                    Some(gate) => Some(gate.write_owned().await),
                    None => None,
                };
                Box::pin(self.rename_file(&node, new_parent, target, no_replace)).await?;
                if let Some(existing) = existing {
                    self.discard_edit(existing);
                }
                drop(turns);
            }
            Place::Directory(place) => {
                Box::pin(self.rename_directory(&node, place, &from_directory, target)).await?;
            }
            Place::Buckets => return Err(Error::new(ErrorKind::CrossDevice, "the root cannot be renamed")),
        }
        self.tree.renamed(node.ino, rt::wall_clock());
        self.touch_directory(&self.tree.directory(new_parent)?);
        self.after_removal(&from_directory).await;
        Ok(())
    }

    async fn rename_file(
        self: &Arc<Self>,
        node: &Node,
        new_parent: Ino,
        target: Target,
        no_replace: bool,
    ) -> Result<()> {
        if target
            .existing
            .as_ref()
            .is_some_and(|existing| existing.kind == Kind::Directory)
        {
            return Err(Error::new(ErrorKind::IsDirectory, "a directory has the new name"));
        }
        let (_, to) = self.place_of_new_file(new_parent, &target.name).await?;
        let open = self.files().get(&node.ino).cloned();
        let replaced = target.existing.as_ref().and_then(|existing| {
            let open = self.files().get(&existing.ino).cloned();
            open.map(|open| (existing.ino, open))
        });
        // Both contents are held still, always in the order of their inode numbers, so that two renames never wait
        // for each other.
        let mut held: Vec<(Ino, Arc<OpenFile>)> = Vec::new();
        held.extend(open.clone().map(|open| (node.ino, open)));
        held.extend(replaced.clone());
        held.sort_by_key(|(ino, _)| *ino);
        let mut guards = Vec::new();
        for (_, content) in &held {
            guards.push(content.change.lock().await);
        }
        let node = self.tree.node(node.ino)?;
        if let Some((_, replaced)) = &replaced {
            replaced.file.tell();
            if replaced.is_in_use() {
                keep_replaced(replaced).await?;
            }
        }
        let target = Target {
            // Commits that were running may have changed what is known.
            existing: target
                .existing
                .map(|existing| self.tree.node(existing.ino).unwrap_or(existing)),
            ..target
        };
        let moved = self
            .move_file(&node, open.as_ref(), &to, &target, no_replace)
            .await;
        drop(guards);
        moved
    }

    async fn move_file(
        self: &Arc<Self>,
        node: &Node,
        open: Option<&Arc<OpenFile>>,
        to: &ObjectId,
        target: &Target,
        no_replace: bool,
    ) -> Result<()> {
        let Some(from) = node.object().cloned() else {
            return Ok(());
        };
        if let Some(open) = open
            && node.local
            && self.move_unsent(node, open, to, target, no_replace).await?
        {
            return Ok(());
        }
        if let Some(open) = open
            && open.file.is_dirty()
        {
            self.commit_locked(node.ino, open).await?;
        }
        if let Some(open) = open {
            open.file.settle_copies().await?;
        }
        let expected = self.tree.node(node.ino)?.version;
        let displacing = self.displace(to, open.map(|open| (node.ino, open)), true).await?;
        let condition = self.condition_to_move(to, target, no_replace).await?;
        let edited = self.edited_for_move(node, &from, expected.as_ref()).await?;
        let expected_etag = expected.as_ref().map(|version| version.etag.clone());
        // How an object is encrypted no listing tells: what nobody has seen more of is looked at once more.
        let is_seen = edited.is_some() || self.tree.node(node.ino)?.headers.is_some();
        let expected = expected.filter(|_| is_seen);
        let headers = edited.as_ref().map(|edited| edited.headers.clone());
        let moved = self.tree.move_object(&from, expected, to, condition, headers);
        let (source, version) = moved.await?;
        displaced(displacing).await;
        let edited = edited.filter(|_| expected_etag.as_ref() == Some(&source));
        if let Some(open) = open {
            if open.file.base_etag().is_none_or(|base| base != source) {
                // Handles are bound to another version than the one that was renamed: they do not follow it.
                self.tree.lost_to_another(node.ino);
                self.replaced(target);
                self.tree.listings.forget_name(&target.directory, &target.name);
                self.tree.invalidate_name(target.parent, &target.name);
                return Ok(());
            }
            open.file.rename(to.clone(), Some(version.clone())).await?;
            if let Some(Edited {
                headers, attributes, ..
            }) = edited.clone()
            {
                open.file.rewritten(version.clone(), headers, attributes).await?;
            }
        }
        self.moved(node, target, to);
        self.tree.follow(node.ino, &source, version.clone());
        if let Some(edited) = edited {
            self.moved_edited(node.ino, version, edited);
        }
        Ok(())
    }

    /// A file that is not in the bucket yet gets another name. False, and nothing done, where it has to be put under the old one
    /// first, or has been.
    async fn move_unsent(
        self: &Arc<Self>,
        node: &Node,
        open: &Arc<OpenFile>,
        to: &ObjectId,
        target: &Target,
        no_replace: bool,
    ) -> Result<bool> {
        if open.file.needs_its_name() {
            return Ok(false);
        }
        let replaces = self.version_to_replace(to, target).await?;
        if !open.file.rename_unsent(to.clone(), replaces).await? {
            return Ok(false);
        }
        self.moved(node, target, to);
        // Nobody will close it again when nobody has it open.
        if !open.is_in_use() {
            self.commit_later(node.ino);
        } else if no_replace {
            // The bucket decides before this returns.
            self.commit_locked(node.ino, open).await?;
        }
        Ok(true)
    }

    fn moved_edited(&self, ino: Ino, version: Version, edited: Edited) {
        let headers = Some(Arc::new(edited.headers));
        self.tree.committed(ino, version, edited.attributes, headers);
        self.edit_made(ino, edited.changes);
    }

    /// The turns of both objects, in the order of their inode numbers, so that two renames never wait for each other.
    async fn edit_turns(&self, ino: Ino, existing: Option<Ino>) -> [Option<Turn>; 2] {
        let other = existing.unwrap_or(ino);
        let first = self.edit_turn(ino.min(other)).await;
        let second = if other == ino {
            None
        } else {
            self.edit_turn(ino.max(other)).await
        };
        [first, second]
    }

    /// What the object is to carry under its new name, where changes of that wait.
    async fn edited_for_move(
        &self,
        node: &Node,
        from: &ObjectId,
        expected: Option<&Version>,
    ) -> Result<Option<Edited>> {
        let (Some((edit, changes)), Some(expected)) = (self.waiting_edit(node.ino), expected) else {
            return Ok(None);
        };
        let known = known_headers(node).filter(|(version, _)| version.etag == expected.etag);
        let (version, headers) = if let Some(known) = known {
            known
        } else {
            let info = self.context.client.head(from).await?;
            (info.version, info.headers)
        };
        if version.etag != expected.etag {
            return Ok(None);
        }
        let (headers, attributes) = self.edited(node.kind, &version, headers, &edit);
        Ok(Some(Edited {
            headers,
            attributes,
            changes,
        }))
    }

    async fn condition_to_move(&self, to: &ObjectId, target: &Target, no_replace: bool) -> Result<Condition> {
        let marker = self.tree.marker_for_data(&target.directory, to).await?;
        if !no_replace {
            return Ok(Condition::None);
        }
        // Nobody sees what is hidden: it was unlinked, and only waits for its handles.
        let unseen = self.tree.hidden_version(to).or(marker);
        Ok(unseen.map_or(Condition::Absent, |unseen| Condition::Matches(unseen.etag)))
    }

    /// The version that a file which is not committed yet will replace under its new name.
    async fn version_to_replace(&self, to: &ObjectId, target: &Target) -> Result<Option<Version>> {
        if self.tree.hidden_owner(to).is_some() {
            // The commit finds out what is there then.
            return Ok(None);
        }
        let Some(existing) = &target.existing else {
            return self.tree.marker_for_data(&target.directory, to).await;
        };
        if existing.local {
            let open = self.files().get(&existing.ino).cloned();
            return Ok(open.and_then(|open| open.file.base_version()));
        }
        match &existing.version {
            Some(version) if !existing.gone => Ok(Some(version.clone())),
            _ => match self.context.client.head(to).await {
                Ok(info) => Ok(Some(info.version)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
        }
    }

    fn moved(self: &Arc<Self>, node: &Node, target: &Target, to: &ObjectId) {
        self.replaced(target);
        self.tree.moved_object(node, to, target.link());
    }

    /// What had the new name has none now.
    fn replaced(self: &Arc<Self>, target: &Target) {
        if let Some(existing) = &target.existing {
            let abandoned = self.files().get(&existing.ino).cloned();
            match &abandoned {
                Some(open) => self.unlinked(existing, open),
                None => self.tree.unlinked(existing),
            }
            if let Some(open) = abandoned.filter(|open| !open.is_in_use()) {
                self.forget_content(existing.ino, &open);
                rt::spawn(async move { open.file.discard().await });
            }
        }
    }

    async fn rename_directory(
        self: &Arc<Self>,
        node: &Node,
        from: &DirectoryPlace,
        from_directory: &DirectoryPlace,
        target: Target,
    ) -> Result<()> {
        if target
            .existing
            .as_ref()
            .is_some_and(|existing| existing.kind != Kind::Directory)
        {
            return Err(Error::new(ErrorKind::NotDirectory, "a file has the new name"));
        }
        let resolved = names::resolve(&target.directory.key, OsStr::new(&target.name))
            .map_err(|error| Error::new(error.on_creation(), error.to_string()))?;
        let key = resolved
            .directory
            .filter(|key| !key.is_partial() && !from.key.is_partial());
        let Some(key) = key else {
            return Err(Error::new(
                ErrorKind::Invalid,
                "directories with escaped names cannot be renamed",
            ));
        };
        let to = DirectoryPlace {
            bucket: target.directory.bucket.clone(),
            key,
        };
        if to.bucket == from.bucket && to.key.prefix().starts_with(from.key.prefix()) {
            return Err(Error::new(
                ErrorKind::Invalid,
                "a directory cannot be moved into itself",
            ));
        }
        // What an earlier attempt has copied already is no obstacle to the next one.
        let way = Move {
            from: from.clone(),
            to: to.clone(),
        };
        let begun = super::lock(&self.unfinished_renames).contains_key(&way);
        if !begun && !self.tree.is_empty(&to).await? {
            return Err(
                Error::new(ErrorKind::NotEmpty, "the new directory is not empty").on(&Tree::marker_id(&to))
            );
        }
        let replaced = (!begun && target.existing.is_some()).then(|| target.link());
        self.make_way(&way).await?;
        self.commit_below(from).await?;
        self.keep_directories_below(from).await;
        let arrived = self.move_tree(&way, replaced.as_ref()).await?;
        if let Err(error) = self.tree.remove_legacy_marker(from).await {
            tracing::warn!(%error, "an old tool's marker of a renamed directory stays under the old name");
        }
        if let Some(link) = &node.link {
            self.tree.listings.remove(&link.parent, &link.name);
        }
        debug_assert_eq!(node.link.as_ref().map(|link| &link.parent), Some(from_directory));
        self.tree.moved_directory(from, &to, &target.link());
        self.removed_around_unlinked(from).await;
        self.take_along(&way, arrived).await?;
        // What was committed under an old name after that was listed. A name that is taken stays with who took it.
        self.tree.move_leftovers(&way).await
    }

    /// Unlinked objects where others are to be: what their handles need is kept here, and they go now.
    async fn make_way(self: &Arc<Self>, way: &Move) -> Result<()> {
        let mut ids = self.tree.hidden_in_the_way(way).await?;
        ids.extend(self.withheld.below(&way.to.bucket, way.to.key.prefix()));
        for id in ids {
            let Some(displacing) = self.displace(&id, None, true).await? else {
                continue;
            };
            if let Some(unlinked) = displacing.unlinked() {
                self.delete_unlinked(&id, unlinked).await?;
            }
            displaced(Some(displacing)).await;
        }
        Ok(())
    }

    /// Files below with unsent content are committed first, so that the copies are of what the programs see.
    async fn commit_below(self: &Arc<Self>, directory: &DirectoryPlace) -> Result<()> {
        for (_, ino) in self.tree.known_below(directory) {
            let open = self.files().get(&ino).cloned();
            if let Some(open) = open {
                open.file.settle_copies().await?;
                if open.file.is_dirty() {
                    self.commit(ino, &open).await?;
                }
            }
            self.settle_edit(ino).await?;
        }
        Ok(())
    }

    /// An empty directory is replaced: its marker would be in the way of ours.
    async fn remove_replaced(&self, way: &Move, replaced: Option<&Link>) -> Result<()> {
        match replaced {
            Some(link) => {
                self.tree
                    .remove_directory(&link.parent, &link.name, &way.to)
                    .await
            }
            None => Ok(()),
        }
    }

    /// Moves the objects; `replaced` is the name of an empty directory that gives way, not before it is recorded what comes
    /// instead. Returns what became of those that have inodes.
    async fn move_tree(self: &Arc<Self>, way: &Move, replaced: Option<&Link>) -> Result<Arrived> {
        let list = self.tree.list_for_move(&self.spool, &way.from).await?;
        if list.is_empty() {
            // It had lost its last child a moment ago and has no marker: that of the one that it replaces stays.
            if let Some(link) = replaced {
                self.tree.forget_directory(&link.parent, &link.name, &way.to);
            }
            self.restore_marker(&way.to, self.settings.metadata_format)
                .await?;
            return Ok(Arrived::new());
        }
        let copies = Copies::none_yet(&self.spool).await?;
        let record = self.record_intent(intent_of(way, &list, false)).await?;
        // The new record covers what the former attempt's said.
        let former = super::lock(&self.unfinished_renames).remove(way).flatten();
        if let Some(former) = former {
            self.forget_record(former).await;
        }
        let arrived = Mutex::new(Arrived::new());
        let copied = match self.remove_replaced(way, replaced).await {
            Ok(()) => {
                self.copy_tree(way, &list, &copies, &arrived, replaced.is_some())
                    .await
            }
            refused => refused,
        };
        if let Err(error) = copied {
            // Reported as failed: a later mount is not to move what programs go on using.
            self.forget_record(record).await;
            return Err(error);
        }
        if let Err(error) = self.tree.delete_copied(&copies, way).await {
            let record = match self.record_intent(intent_of(way, &list, true)).await {
                Ok(narrower) => {
                    self.forget_record(record).await;
                    narrower
                }
                Err(_) => record,
            };
            super::lock(&self.unfinished_renames).insert(way.clone(), Some(record));
            tracing::warn!(
                %error, from = way.from.key.prefix(), to = way.to.key.prefix(),
                "a renamed directory is still there under its old name, in part: the next mount removes what was copied"
            );
            return Err(error);
        }
        self.forget_record(record).await;
        Ok(arrived.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Copies, or takes back what it has copied.
    async fn copy_tree(
        self: &Arc<Self>,
        way: &Move,
        list: &Arc<Manifest>,
        copies: &Copies,
        arrived: &Mutex<Arrived>,
        replaces: bool,
    ) -> Result<()> {
        let Err(failed) = self.tree.copy_listed(list, way, copies, arrived).await else {
            return Ok(());
        };
        let undone = match self.tree.undo_copies(copies, &failed, way).await {
            // The empty directory that was to be replaced.
            Ok(()) if replaces => self.restore_marker(&way.to, self.settings.metadata_format).await,
            other => other,
        };
        if let Err(undoing) = undone {
            super::lock(&self.unfinished_renames).insert(way.clone(), None);
            tracing::warn!(
                error = %undoing, to = way.to.key.prefix(),
                "copies of a directory whose rename failed could not be removed: they stay under the new name"
            );
        }
        Err(failed.error)
    }

    /// The names lead to the new keys already; the inodes follow to the copies, which may have other tags, and the contents,
    /// which may have been opened, made or written while the objects were moved, one by one.
    async fn take_along(self: &Arc<Self>, way: &Move, arrived: Arrived) -> Result<()> {
        let from = &way.from;
        for (id, ino) in self.tree.known_below(&way.to) {
            let Some(open) = self.claim(ino) else {
                if let Some((source, version)) = arrived.get(&way.origin(&id.key)) {
                    self.tree.follow(ino, source, version.clone());
                }
                continue;
            };
            let _change = open.change.lock().await;
            let old_id = open.file.id();
            if !(old_id.bucket == from.bucket && old_id.key.starts_with(from.key.prefix())) {
                continue;
            }
            open.file.tell();
            let copied_of = |base: &Version| {
                let copied = arrived.get(&old_id).filter(|(source, _)| base.etag == *source);
                copied.map(|(_, version)| version.clone())
            };
            let is_copied = open.file.base_version().as_ref().and_then(copied_of).is_some();
            let is_unsent = !is_copied && self.tree.is_local(ino);
            if is_unsent && open.file.rename_unsent(id.clone(), None).await? {
                continue;
            }
            let Some(base) = open.file.base_version() else {
                open.file.rename(id, None).await?;
                continue;
            };
            let copied = copied_of(&base);
            let moved = match copied {
                Some(version) => Some(version),
                None => self.move_late(&old_id, &base, &id, &arrived).await?,
            };
            let Some(version) = moved else {
                self.tree.lost_to_another(ino);
                continue;
            };
            let is_local = self.tree.is_local(ino);
            open.file.rename(id, Some(version.clone())).await?;
            if !is_local {
                self.tree.follow(ino, &base.etag, version);
            }
        }
        Ok(())
    }

    /// Moves an object that was committed after it was copied, or opened after it was listed. `None` where somebody else
    /// has replaced it.
    async fn move_late(
        &self,
        from: &ObjectId,
        base: &Version,
        to: &ObjectId,
        arrived: &Arrived,
    ) -> Result<Option<Version>> {
        let condition = match arrived.get(from) {
            Some((_, former)) => Condition::Matches(former.etag.clone()),
            None => Condition::Absent,
        };
        self.tree.move_version(from, base, to, condition).await
    }
}

/// What a file's handles need that is about to be replaced by a rename: while the name is still its own, an upload for it can
/// be completed.
async fn keep_replaced(replaced: &OpenFile) -> Result<()> {
    let file = &replaced.file;
    if file.needs_its_name()
        && file.may_be_kept()
        && let Err(error) = file.commit().await
    {
        match error.kind() {
            ErrorKind::Stale | ErrorKind::Exists | ErrorKind::NotFound | ErrorKind::LocalIo(_) => {
                tracing::warn!(%error, "what was uploaded of an open file that is replaced is not kept");
            }
            _ => return Err(error),
        }
    }
    replaced.keep_for_handles(None).await
}

fn intent_of(way: &Move, list: &Manifest, only_deletes: bool) -> Intent {
    Intent::RenameDirectory {
        bucket: way.from.bucket.to_string(),
        from_prefix: way.from.key.prefix().to_owned(),
        to_bucket: way.to.bucket.to_string(),
        to_prefix: way.to.key.prefix().to_owned(),
        list_file: list.file_name().to_owned(),
        only_deletes,
    }
}
