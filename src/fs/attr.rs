//! What stat(2) shows, and chmod, chown, utimensat, truncate.
//!
//! Difficulties:
//! 1. Attributes set while a file has unsent content travel with its upload; else they are a conditional copy of the
//!    object onto itself, after a look at what is there.
//! 2. That copy moves Last-Modified: where the object carried no mtime, the former one becomes it.
//! 3. A directory's attributes are on its marker. Stores that keep no metadata there (keys ending in `/`) still show
//!    what was set for the life of the mount.

use super::Fs;
use super::open::OpenFile;
use crate::base::attributes::{Attributes, TRANSACTION};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{Condition, ETag, ObjectHeaders, ObjectId, Version};
use crate::object::special::put_special;
use crate::rt;
use crate::s3::types::CopyRequest;
use crate::tree::Tree;
use crate::tree::node::{DirectoryPlace, Ino, Kind, Node, Place};
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
}

impl Change {
    fn touches_attributes(&self) -> bool {
        self.mode.is_some()
            || self.uid.is_some()
            || self.gid.is_some()
            || self.mtime.is_some()
            || self.atime.is_some()
    }

    fn apply(&self, attributes: &mut Attributes, kind: Kind, now: SystemTime) {
        if let Some(mode) = self.mode {
            attributes.mode = Some(type_bits(kind) | (mode & 0o7777));
        }
        attributes.uid = self.uid.or(attributes.uid);
        attributes.gid = self.gid.or(attributes.gid);
        attributes.mtime = self.mtime.or(attributes.mtime);
        attributes.atime = self.atime.or(attributes.atime);
        attributes.ctime = Some(now);
    }
}

impl Fs {
    /// getattr, from memory while it is fresh.
    ///
    /// # Errors
    /// `NotFound` when another host removed the object, and what S3 says.
    pub async fn attributes(&self, ino: Ino) -> Result<Attr> {
        let node = self.tree.current(ino).await?;
        Ok(self.attr(&node))
    }

    /// What is known of an inode now.
    #[must_use]
    pub fn attr(&self, node: &Node) -> Attr {
        let open = self.files().get(&node.ino).cloned();
        let defaults = &self.settings.defaults;
        // What is open may be in the bucket already without the tree having been told.
        let attributes = match &open {
            Some(open) if open.file.is_dirty() || node.local => open.file.attributes(),
            _ => node.attributes,
        };
        let size_bytes = match &open {
            Some(open) => open.file.size_bytes(),
            None => node.version.as_ref().map_or(0, |version| version.size_bytes),
        };
        let last_modified = node
            .version
            .as_ref()
            .map_or(node.first_seen, |version| version.last_modified);
        let mtime = attributes.mtime.unwrap_or(last_modified);
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
            links: if node.kind == Kind::Directory {
                2
            } else {
                u32::from(!node.gone)
            },
            atime: attributes.atime.unwrap_or(mtime),
            mtime,
            ctime: attributes.ctime.unwrap_or(mtime.max(last_modified)),
            ttl: self.tree.ttl_left(node.checked_at),
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
        self.writable()?;
        if let Some(size_bytes) = change.size_bytes {
            self.truncate(ino, size_bytes, handle).await?;
        }
        if change.touches_attributes() {
            let node = self.tree.node(ino)?;
            match &node.place {
                Place::Object(_) => self.change_object(&node, &change).await?,
                Place::Directory(place) => self.change_directory(&node, place, &change).await?,
                Place::Buckets => {
                    return Err(Error::new(
                        ErrorKind::NotPermitted,
                        "the list of buckets has no attributes",
                    ));
                }
            }
        }
        let node = self.tree.node(ino)?;
        Ok(self.attr(&node))
    }

    async fn truncate(self: &Arc<Self>, ino: Ino, size_bytes: u64, handle: Option<u64>) -> Result<()> {
        let node = self.tree.node(ino)?;
        if node.kind != Kind::File {
            return Err(Error::new(ErrorKind::IsDirectory, "not a regular file"));
        }
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
        self.watched(ino, &open, open.file.truncate(size_bytes)).await?;
        if open.handles.load(Ordering::SeqCst) > 0 && open.file.is_dirty() && node.local {
            // Whoever is writing it commits it.
            return Ok(());
        }
        // If that fails it is tried again: a content that is dirty and unused always is.
        self.commit(ino, &open).await
    }

    async fn change_object(self: &Arc<Self>, node: &Node, change: &Change) -> Result<()> {
        let open = self.claim(node.ino);
        if let Some(open) = &open
            && (node.unlinked || open.file.is_dirty())
        {
            let mut attributes = open.file.attributes();
            change.apply(&mut attributes, node.kind, rt::wall_clock());
            open.file.set_attributes(attributes);
            self.tree.assume_attributes(node.ino, attributes);
            return self.commit_unwatched(node, open).await;
        }
        let Some(id) = node.object().cloned() else {
            return Ok(());
        };
        if node.gone {
            return Err(replaced(&id));
        }
        let Some(open) = &open else {
            let (source, version, attributes, headers) = self.rewrite(node, &id, change, None).await?;
            self.tree
                .rewritten(node.ino, &source, version, attributes, headers);
            return Ok(());
        };
        let _change = open.change.lock().await;
        // The copy may have another tag.
        open.file.settle_copies().await?;
        // A commit that was running may have changed what is known.
        let node = &self.tree.node(node.ino)?;
        let Some(base) = open.file.base_etag() else {
            return Err(replaced(&id));
        };
        let rewritten = self.rewrite(node, &id, change, Some(&base)).await;
        let (source, version, attributes, headers) = match rewritten {
            Err(error) if error.kind() == ErrorKind::Stale => {
                // The handles keep their version; who comes by the name finds the new one.
                self.tree.lost_to_another(node.ino);
                return Err(error);
            }
            other => other?,
        };
        open.file
            .rewritten(version.clone(), headers.clone(), attributes)
            .await?;
        self.tree
            .rewritten(node.ino, &source, version, attributes, headers);
        Ok(())
    }

    /// A file that is dirty although nobody has it open has nobody else to commit it.
    async fn commit_unwatched(self: &Arc<Self>, node: &Node, open: &Arc<OpenFile>) -> Result<()> {
        if open.handles.load(Ordering::SeqCst) > 0 || node.unlinked {
            return Ok(());
        }
        self.commit(node.ino, open).await
    }

    /// Puts changed attributes on the object that is there now, or on the version `only`. Returns which version that was,
    /// and what it has become.
    ///
    /// # Errors
    /// `Stale` when another version than `only` is there.
    async fn rewrite(
        &self,
        node: &Node,
        id: &ObjectId,
        change: &Change,
        only: Option<&ETag>,
    ) -> Result<(ETag, Version, Attributes, ObjectHeaders)> {
        let mut known = match (&node.version, &node.headers) {
            (Some(version), Some(headers)) => Some((version.clone(), (**headers).clone())),
            _ => None,
        };
        for _ in 0..MAX_LOOKS {
            let (version, mut headers) = if let Some(known) = known.take() {
                known
            } else {
                let info = self.context.client.head(id).await?;
                (info.version, info.headers)
            };
            if only.is_some_and(|only| version.etag != *only) {
                return Err(replaced(id));
            }
            let mut attributes = Attributes::read(&headers.metadata);
            attributes.mtime = attributes.mtime.or(Some(version.last_modified));
            change.apply(&mut attributes, node.kind, rt::wall_clock());
            attributes.write(self.settings.metadata_format, &mut headers.metadata);
            headers.metadata.insert(TRANSACTION.to_owned(), rt::random_id());
            match self.rewrite_once(node, id, &version, &headers).await {
                Ok(rewritten) => return Ok((version.etag, rewritten, attributes, headers)),
                Err(error) if error.kind() == ErrorKind::PreconditionFailed => {}
                Err(error) if error.kind() == ErrorKind::Ambiguous => {
                    let info = self.context.client.head(id).await?;
                    if info.headers.metadata.get(TRANSACTION) == headers.metadata.get(TRANSACTION) {
                        return Ok((version.etag, info.version, attributes, headers));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Busy, "the object keeps changing").on(id))
    }

    async fn rewrite_once(
        &self,
        node: &Node,
        id: &ObjectId,
        version: &Version,
        headers: &ObjectHeaders,
    ) -> Result<Version> {
        if node.kind == Kind::Symlink {
            let body = self.tree.small_body(id, &version.etag).await?;
            let condition = Condition::Matches(version.etag.clone());
            return put_special(&self.context, id, &body, headers, condition).await;
        }
        let request = CopyRequest {
            from: id.clone(),
            from_etag: version.etag.clone(),
            size_bytes: version.size_bytes,
            to: id.clone(),
            // The source's condition is the destination's: they are one object.
            condition: Condition::None,
            headers: Some(headers.clone()),
        };
        self.context.client.copy(&request).await
    }

    async fn change_directory(&self, node: &Node, place: &DirectoryPlace, change: &Change) -> Result<()> {
        let mut attributes = node.attributes;
        change.apply(&mut attributes, Kind::Directory, rt::wall_clock());
        self.tree.assume_attributes(node.ino, attributes);
        if place.key.prefix().is_empty() || place.key.is_partial() {
            // A bucket has no marker: what is set lasts as long as the mount.
            return Ok(());
        }
        let marker = Tree::marker_id(place);
        match self.context.client.head(&marker).await {
            // Data under the marker's key is a file of its own; it must not be overwritten.
            Ok(info) if info.version.size_bytes > 0 => Ok(()),
            Ok(_) => self.put_directory_attributes(node, place, attributes).await,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.put_directory_attributes(node, place, attributes).await
            }
            Err(error) => Err(error),
        }
    }

    async fn put_directory_attributes(
        &self,
        node: &Node,
        place: &DirectoryPlace,
        attributes: Attributes,
    ) -> Result<()> {
        let format = self.settings.metadata_format;
        let version = self
            .tree
            .put_marker(place, attributes, format, Condition::None)
            .await?;
        self.tree.marked_directory(node.ino, version);
        Ok(())
    }
}

fn replaced(id: &ObjectId) -> Error {
    Error::new(ErrorKind::Stale, "the object was replaced").on(id)
}

fn type_bits(kind: Kind) -> u32 {
    match kind {
        Kind::File => libc::S_IFREG,
        Kind::Directory => libc::S_IFDIR,
        Kind::Symlink => libc::S_IFLNK,
    }
}
