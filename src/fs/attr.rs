//! What stat(2) shows, and chmod, chown, utimensat, truncate.
//!
//! Difficulties:
//! 1. Attributes set while a file has unsent content travel with its upload; else they are a conditional copy of the
//!    object onto itself, which waits for more of them ([`super::edits`]).
//! 2. That copy moves Last-Modified: where the object carried no mtime, the former one becomes it.
//! 3. A directory's attributes are on its marker. Stores that keep no metadata there (keys ending in `/`) still show
//!    what was set for the life of the mount.

use super::Fs;
use super::contents::OpenFile;
use super::edits::{Edit, edit_content};
use crate::base::attributes::{Attributes, TRANSACTION};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{Condition, ETag, ObjectHeaders, ObjectId, Version};
use crate::object::file::hand_on;
use crate::rt;
use crate::tree::node::{Ino, Kind, Node, Place};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

const MAX_LOOKS: u32 = 5;

/// What stat(2) shows.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    pub ino: Ino,
    pub kind: Kind,
    pub size_bytes: u64,
    /// Type and permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    /// Of a device node, as [`Attributes::device`] has it.
    pub device: u32,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    /// How long this may be believed.
    pub ttl: Duration,
}

/// What setattr asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size_bytes: Option<u64>,
    pub atime: Option<SystemTime>,
    pub mtime: Option<SystemTime>,
    /// Set-user-id and set-group-id go, as somebody without privileges changes the content.
    pub drops_set_id: bool,
}

impl Change {
    fn touches_attributes(&self) -> bool {
        self.mode.is_some()
            || self.uid.is_some()
            || self.gid.is_some()
            || self.mtime.is_some()
            || self.atime.is_some()
    }

    fn gives_away(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }

    pub(crate) fn apply(&self, attributes: &mut Attributes, kind: Kind) {
        if let Some(mode) = self.mode {
            attributes.mode = Some(kind.type_bits() | (mode & 0o7777));
        } else if self.gives_away() && kind != Kind::Directory {
            attributes.mode = attributes.mode.map(without_set_id);
        }
        attributes.uid = self.uid.or(attributes.uid);
        attributes.gid = self.gid.or(attributes.gid);
        attributes.mtime = self.mtime.or(attributes.mtime);
        attributes.atime = self.atime.or(attributes.atime);
    }

    /// One change for this one and the one after it. Not of sizes.
    pub(crate) fn followed_by(&self, later: &Self) -> Self {
        let mode = match later.mode {
            None if later.gives_away() => self.mode.map(without_set_id),
            mode => mode.or(self.mode),
        };
        Self {
            mode,
            uid: later.uid.or(self.uid),
            gid: later.gid.or(self.gid),
            size_bytes: None,
            drops_set_id: false,
            atime: later.atime.or(self.atime),
            mtime: later.mtime.or(self.mtime),
        }
    }
}

/// What is left of a mode when somebody else may have written the file or owns it now: no set-user-id, and no set-group-id
/// where that means execution (without group execution it means mandatory locking).
pub(crate) fn without_set_id(mode: u32) -> u32 {
    let set_group_id = if mode & libc::S_IXGRP == 0 {
        0
    } else {
        libc::S_ISGID
    };
    mode & !(libc::S_ISUID | set_group_id)
}

impl Fs {
    /// getattr, from memory while it is fresh.
    ///
    /// # Errors
    /// `NotFound` when another host removed the object, and what S3 says.
    pub async fn attributes(&self, ino: Ino) -> Result<Attr> {
        let node = self.tree.current(self.tree.shown_by(ino)).await?;
        Ok(Attr {
            ino,
            ..self.attr(&node)
        })
    }

    /// What is known of an inode now.
    #[must_use]
    pub fn attr(&self, node: &Node) -> Attr {
        let open = self.files().get(&node.ino).cloned();
        let defaults = &self.settings.defaults;
        // What is open may be in the bucket already without the tree having been told.
        let (mut attributes, is_written) = match &open {
            Some(open) if open.file.is_dirty() || node.local => (open.file.attributes(), true),
            _ => (node.attributes, false),
        };
        self.edits
            .overlay(node.ino, node.kind, &mut attributes, is_written);
        let size_bytes = match &open {
            Some(open) => open.file.size_bytes(),
            None => node.version.as_ref().map_or(0, |version| version.size_bytes),
        };
        let last_modified = node
            .version
            .as_ref()
            .map_or(node.first_seen, |version| version.last_modified);
        let mtime = attributes.mtime.unwrap_or(last_modified);
        let ctime = attributes.ctime.unwrap_or(mtime.max(last_modified));
        Attr {
            ino: node.ino,
            kind: node.kind,
            size_bytes: if node.kind == Kind::Directory {
                0
            } else {
                size_bytes
            },
            mode: self.effective_mode(&attributes, node.kind),
            uid: attributes.uid.unwrap_or(defaults.uid),
            gid: attributes.gid.unwrap_or(defaults.gid),
            links: self.links(node),
            device: attributes.device.unwrap_or(0),
            atime: attributes.atime.unwrap_or(mtime),
            mtime,
            ctime: node.renamed_at.map_or(ctime, |renamed_at| ctime.max(renamed_at)),
            // Attributes that nobody has looked at yet are a guess, and so is what is to be asked again.
            ttl: if self.tree.knows_attributes(node) && node.refresh_due.is_none() {
                // A marker that was not found does not say that there still is a directory.
                let marked_at = node.marker_at.filter(|_| node.version.is_some());
                self.tree
                    .ttl_left(node.checked_at.max(marked_at.unwrap_or(node.checked_at)))
            } else {
                Duration::ZERO
            },
        }
    }

    /// As POSIX counts them: a directory has its name, its `.`, and the `..` of each directory in it. Where nobody knows how
    /// many those are it is 1, which tells programs not to conclude anything from it.
    fn links(&self, node: &Node) -> u32 {
        match &node.place {
            Place::Object(_) => u32::from(!node.gone),
            _ if node.gone => 0,
            Place::Directory(place) => {
                let known = self.tree.subdirectories(place);
                known.map_or(1, |count| {
                    u32::try_from(count).map_or(1, |count| count.saturating_add(2))
                })
            }
            Place::Buckets => 1,
        }
    }

    /// chmod, chown, utimensat, truncate and ftruncate (with a handle).
    ///
    /// # Errors
    /// `IsDirectory` for a size, `Busy` when the object keeps changing, and what S3 says.
    pub async fn set_attributes(
        self: &Arc<Self>,
        ino: Ino,
        change: Change,
        handle: Option<u64>,
    ) -> Result<Attr> {
        let asked = ino;
        let ino = self.tree.shown_by(asked);
        self.changeable(ino)?;
        if let Some(size_bytes) = change.size_bytes {
            self.truncate(ino, size_bytes, handle).await?;
        }
        let mut change = change;
        if change.drops_set_id && change.mode.is_none() {
            change.mode = self.set_id_dropped(&self.tree.node(ino)?);
        }
        if change.touches_attributes() {
            let node = self.tree.node(ino)?;
            match &node.place {
                Place::Object(_) => self.change_object(&node, Edit::of_attributes(change)).await?,
                Place::Directory(place) => {
                    let (format, now) = (self.settings.metadata_format, rt::wall_clock());
                    let apply = |attributes: &mut Attributes| {
                        change.apply(attributes, Kind::Directory);
                        attributes.ctime = Some(now);
                    };
                    self.tree
                        .change_directory(&node, place, format, apply, |_| false)
                        .await?;
                }
                Place::Buckets => {
                    return Err(Error::new(
                        ErrorKind::NotPermitted,
                        "the list of buckets has no attributes",
                    ));
                }
            }
        }
        let node = self.tree.node(ino)?;
        Ok(Attr {
            ino: asked,
            ..self.attr(&node)
        })
    }

    /// Somebody without privileges has written: POSIX wants set-user-id and set-group-id to go.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn drop_set_id(&self, number: u64) -> Result<()> {
        let handle = self.file_handle(number)?;
        if let Some(mode) = self.set_id_dropped(&self.tree.node(handle.ino)?) {
            let edit = Edit::of_attributes(Change {
                mode: Some(mode),
                ..Change::default()
            });
            self.edit_written(handle.ino, Kind::File, &handle.open, edit);
            // The kernel does not expect a write to change the mode.
            self.tree.invalidate_attributes(handle.ino);
        }
        Ok(())
    }

    /// The mode without those bits, where it has any.
    fn set_id_dropped(&self, node: &Node) -> Option<u32> {
        let mode = self.attr(node).mode;
        let without = without_set_id(mode);
        (node.kind == Kind::File && without != mode).then_some(without)
    }

    async fn truncate(self: &Arc<Self>, ino: Ino, size_bytes: u64, handle: Option<u64>) -> Result<()> {
        let node = self.tree.node(ino)?;
        if node.kind != Kind::File {
            return Err(Error::new(ErrorKind::IsDirectory, "not a regular file"));
        }
        self.tree.truncated(ino);
        if let Some(number) = handle {
            let handle = self.file_handle(number)?;
            if !handle.writable {
                return Err(Error::new(ErrorKind::Invalid, "not open for writing"));
            }
            handle.wrote.store(true, Ordering::Relaxed);
            let truncating = handle.open.file.truncate(size_bytes);
            return self.watched(ino, &handle.open, truncating).await;
        }
        let open = self.content_of(&node).await?;
        let _changing = self.changing(&open).await?;
        self.watched(ino, &open, open.file.truncate(size_bytes)).await?;
        if open.handles.load(Ordering::SeqCst) > 0 && open.file.is_dirty() && node.local {
            // Whoever is writing it commits it.
            return Ok(());
        }
        // If that fails it is tried again: a content that is dirty and unused always is.
        self.commit(ino, &open).await
    }

    /// Changes what an object carries: with the content's upload where there will be one, else soon.
    pub(crate) async fn change_object(self: &Arc<Self>, node: &Node, edit: Edit) -> Result<()> {
        if let Some(displaced) = node.displaced {
            // What was changed under this name before comes first. If that fails, it is told by what changed it.
            let _ = self.settle_edit(displaced).await;
        }
        self.change_object_now(node, edit).await
    }

    async fn change_object_now(self: &Arc<Self>, node: &Node, edit: Edit) -> Result<()> {
        let open = self.claim(node.ino);
        if open.is_some() {
            // A former change that is on its way: what it brings is what this one changes.
            drop(self.edit_turn(node.ino).await);
        }
        if let Some(open) = &open
            && (node.unlinked || open.file.is_dirty())
        {
            self.edit_written(node.ino, node.kind, open, edit);
            self.tree.assume_attributes(node.ino, open.file.attributes());
            return self.commit_unwatched(node, open).await;
        }
        let Some(id) = node.object() else {
            return Ok(());
        };
        if node.gone {
            return Err(replaced(id));
        }
        self.edit_later(node.ino, edit).await
    }

    /// Brings a change to the bucket. By the holder of the object's turn.
    ///
    /// # Errors
    /// `Stale` when handles are bound to another version than the one that is there; `Busy`; what S3 says.
    pub(crate) async fn put_edit(self: &Arc<Self>, ino: Ino, edit: &Edit) -> Result<()> {
        let Ok(node) = self.tree.node(ino) else {
            return Ok(());
        };
        let Some(id) = node.object().filter(|_| !node.unlinked).cloned() else {
            return Ok(());
        };
        if node.gone {
            return self.put_edit_of_successor(&node, &id, edit).await;
        }
        let Some(open) = self.claim(ino) else {
            let rewritten = self.rewrite(&node, &id, edit, None).await?;
            self.rewritten(ino, rewritten);
            return Ok(());
        };
        let change_lock = open.change.lock().await;
        // The copy may have another tag.
        open.file.settle_copies().await?;
        if open.file.is_dirty() {
            edit_content(&open, node.kind, edit);
            drop(change_lock);
            return self.commit_unwatched(&node, &open).await;
        }
        // A commit that was running may have changed what is known.
        let node = &self.tree.node(ino)?;
        let Some(base) = open.file.base_etag() else {
            return Err(replaced(&id));
        };
        let rewritten = match self.rewrite(node, &id, edit, Some(&base)).await {
            Err(error) if error.kind() == ErrorKind::Stale => {
                // The handles keep their version; who comes by the name finds the new one.
                self.tree.lost_to_another(ino);
                return Err(error);
            }
            other => other?,
        };
        let (version, headers) = (rewritten.version.clone(), rewritten.headers.clone());
        open.file
            .rewritten(version, headers, rewritten.attributes)
            .await?;
        self.rewritten(ino, rewritten);
        Ok(())
    }

    /// Another version took the name while a change of it waited: that is what is changed, as it would have been later.
    fn put_edit_of_successor<'a>(
        self: &'a Arc<Self>,
        node: &'a Node,
        id: &'a ObjectId,
        edit: &'a Edit,
    ) -> BoxFuture<'a, Result<()>> {
        // In a box, as the change of the successor is a change like this one.
        Box::pin(async move {
            if let Some(successor) = self.tree.inode_of(id) {
                self.change_object_now(&successor, edit.clone()).await?;
                return self.settle_edit(successor.ino).await;
            }
            match self.rewrite(node, id, edit, None).await {
                Ok(rewritten) => {
                    self.rewritten(node.ino, rewritten);
                    if let Some(link) = &node.link {
                        self.tree.listings.forget_name(&link.parent, &link.name);
                    }
                    Ok(())
                }
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    fn rewritten(&self, ino: Ino, new: Rewritten) {
        self.tree
            .rewritten(ino, &new.source, new.version, new.attributes, new.headers);
    }

    /// A file that is dirty although nobody has it open has nobody else to commit it.
    async fn commit_unwatched(self: &Arc<Self>, node: &Node, open: &Arc<OpenFile>) -> Result<()> {
        if open.handles.load(Ordering::SeqCst) > 0 || node.unlinked {
            return Ok(());
        }
        self.commit(node.ino, open).await
    }

    /// Puts changed attributes on the object that is there now, or on the version `only`.
    ///
    /// # Errors
    /// `Stale` when another version than `only` is there.
    async fn rewrite(
        &self,
        node: &Node,
        id: &ObjectId,
        edit: &Edit,
        only: Option<&ETag>,
    ) -> Result<Rewritten> {
        let mut known = known_headers(node);
        for _ in 0..MAX_LOOKS {
            let (version, headers) = if let Some(known) = known.take() {
                known
            } else {
                let info = self.context.client.head(id).await?;
                (info.version, info.headers)
            };
            if only.is_some_and(|only| version.etag != *only) {
                return Err(replaced(id));
            }
            let (headers, attributes) = self.edited(node.kind, &version, headers, edit);
            // The source's condition is the destination's: they are one object.
            let copied = self
                .tree
                .copy_with(
                    id,
                    &version,
                    id,
                    Condition::Matches(version.etag.clone()),
                    &headers,
                )
                .await;
            match copied {
                Ok(copied) => {
                    return Ok(Rewritten {
                        source: version.etag,
                        version: copied,
                        attributes,
                        headers,
                    });
                }
                Err(error) if error.kind() == ErrorKind::PreconditionFailed => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Busy, "the object keeps changing").on(id))
    }

    /// What the object will carry.
    pub(crate) fn edited(
        &self,
        kind: Kind,
        version: &Version,
        mut headers: ObjectHeaders,
        edit: &Edit,
    ) -> (ObjectHeaders, Attributes) {
        let mut attributes = Attributes::read(&headers.metadata);
        attributes.mtime = attributes.mtime.or(Some(version.last_modified));
        edit.apply(&mut attributes, kind);
        edit.apply_to_headers(&mut headers);
        attributes.write(self.settings.metadata_format, &mut headers.metadata);
        hand_on(&mut headers, true);
        headers.metadata.insert(TRANSACTION.to_owned(), rt::random_id());
        (headers, attributes)
    }
}

/// The version of an inode with everything that it carries, where nothing needs to be asked for that.
pub(crate) fn known_headers(node: &Node) -> Option<(Version, ObjectHeaders)> {
    let headers = node.headers.as_deref()?;
    Some((node.version.clone()?, headers.clone()))
}

/// A version that was rewritten, and what it has become.
struct Rewritten {
    source: ETag,
    version: Version,
    attributes: Attributes,
    headers: ObjectHeaders,
}

fn replaced(id: &ObjectId) -> Error {
    Error::new(ErrorKind::Stale, "the object was replaced").on(id)
}
