//! Making and removing names: mkdir, rmdir, unlink, symlink, readlink, mknod.
//!
//! `mkdir`, `symlink` and `mknod` are decided by the bucket before they return.

use super::contents::OpenFile;
use super::displacing::displaced;
use super::{Caller, Fs, lock};
use crate::base::attributes::{Attributes, MetadataFormat};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::names;
use crate::base::object::{Condition, ObjectHeaders, ObjectId};
use crate::object::special::put_special;
use crate::rt;
use crate::spool::Intent;
use crate::tree::node::{DirectoryPlace, Ino, Kind, Node, Place};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

/// A directory that lost its last child gets its marker when it still exists after this.
const MARKER_DELAY: Duration = Duration::from_secs(2);
/// How long an unlink waits for closes that are on their way, before the object is kept for open handles.
const RELEASE_GRACE: Duration = Duration::from_millis(5);
/// Longest symlink target (`PATH_MAX` less the terminating NUL).
const MAX_TARGET_BYTES: usize = 4095;

impl Fs {
    /// lookup of one name; the kernel's reference is counted.
    ///
    /// # Errors
    /// What S3 says. Absence is `None`.
    pub async fn lookup(&self, parent: Ino, name: &str) -> Result<Option<Node>> {
        loop {
            let Some(node) = self.tree.lookup(parent, name).await? else {
                return Ok(None);
            };
            if !self.tree.count_lookup(node.ino) {
                // The kernel has forgotten the inode just now: it is found anew.
                continue;
            }
            // What a directory's marker says is looked for when somebody wants to know it: whoever walks does not.
            return Ok(Some(node));
        }
    }

    /// mkdir(2).
    ///
    /// # Errors
    /// `Exists`, `NotPermitted` for a bucket that may not be created.
    pub async fn make_directory(&self, caller: Caller, parent: Ino, name: &str, mode: u32) -> Result<Node> {
        self.writable()?;
        if let Place::Buckets = self.tree.node(parent)?.place {
            let node = self.tree.create_bucket(name).await?;
            self.tree.count_lookup(node.ino);
            return Ok(node);
        }
        let directory = self.tree.directory(parent)?;
        let resolved = match names::resolve(&directory.key, OsStr::new(name)) {
            Ok(resolved) => resolved,
            Err(names::NameError::NoSuchName) => return Err(impossible(name)),
            Err(error) => return Err(Error::new(error.on_creation(), error.to_string())),
        };
        let Some(key) = resolved.directory else {
            return Err(impossible(name));
        };
        let place = DirectoryPlace {
            bucket: directory.bucket.clone(),
            key,
        };
        if place.key.is_partial() {
            return self.make_partial_directory(&directory, name, &place).await;
        }
        let attributes = self
            .new_attributes(caller, parent, libc::S_IFDIR | (mode & 0o7777))
            .await?;
        let format = self.settings.metadata_format;
        let version = match self
            .tree
            .put_marker(&place, attributes, format, Condition::Absent)
            .await
        {
            Ok(version) => version,
            Err(error) => {
                if error.kind() == ErrorKind::Exists {
                    // Somebody else made it: what we believed about the name is wrong.
                    self.tree.listings.forget_name(&directory, name);
                }
                return Err(error);
            }
        };
        let node = self
            .tree
            .made_directory(&directory, name, &place, version, (attributes, format))?;
        self.tree.count_lookup(node.ino);
        self.touch_directory(&directory);
        Ok(node)
    }

    /// A piece of an over-long name: it has no key, and is there as long as the mount, or something in it.
    async fn make_partial_directory(
        &self,
        directory: &DirectoryPlace,
        name: &str,
        place: &DirectoryPlace,
    ) -> Result<Node> {
        if !self.tree.is_empty(place).await? {
            self.tree.listings.forget_name(directory, name);
            return Err(Error::new(ErrorKind::Exists, "the directory exists already"));
        }
        let node = self.tree.assume_emptied(directory, name, place);
        self.tree.count_lookup(node.ino);
        self.touch_directory(directory);
        Ok(node)
    }

    /// rmdir(2): whether it is empty is what the bucket says.
    ///
    /// # Errors
    /// `NotEmpty`, `NotDirectory`, `NotFound`.
    pub async fn remove_directory(self: &Arc<Self>, parent: Ino, name: &str) -> Result<()> {
        self.writable()?;
        if let Place::Buckets = self.tree.node(parent)?.place {
            return self.tree.delete_bucket(name).await;
        }
        let directory = self.tree.directory(parent)?;
        let node = self.tree.find(parent, name).await?;
        let Place::Directory(place) = &node.place else {
            return Err(Error::new(ErrorKind::NotDirectory, "not a directory"));
        };
        if !self.tree.is_empty(place).await? {
            self.tree.listings.forget(place);
            let error = Error::new(ErrorKind::NotEmpty, "the directory is not empty");
            return Err(error.on(&crate::tree::Tree::marker_id(place)));
        }
        let due = lock(&self.due_markers).remove(place);
        if let Some(Some(record)) = due {
            self.forget_record(record).await;
        }
        self.tree.remove_directory(&directory, name, place).await?;
        self.removed_around_unlinked(place).await;
        self.after_removal(&directory).await;
        Ok(())
    }

    /// unlink(2). The name is gone at once; an object that handles still read is deleted with the last of them.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `Busy`.
    pub async fn unlink(self: &Arc<Self>, parent: Ino, name: &str) -> Result<()> {
        self.writable()?;
        let directory = self.tree.directory(parent)?;
        let node = self.tree.find(parent, name).await?;
        if node.kind == Kind::Directory {
            return Err(Error::new(ErrorKind::IsDirectory, "is a directory"));
        }
        let _turn = self.edit_turn(node.ino).await;
        let _closed = self.gates.of(node.ino).write_owned().await;
        let open = self.files().get(&node.ino).cloned();
        match open {
            Some(open) => self.unlink_open(&node, &open).await?,
            None => self.unlink_closed(&node).await?,
        }
        self.discard_edit(node.ino);
        self.after_removal(&directory).await;
        Ok(())
    }

    async fn unlink_closed(&self, node: &Node) -> Result<()> {
        let Some(id) = node.object() else { return Ok(()) };
        let expected = node.version.as_ref().map(|version| version.etag.clone());
        match self.tree.delete_object(id, expected).await {
            Ok(()) => {
                self.tree.unlinked(node);
                Ok(())
            }
            Err(error) => {
                if error.kind() == ErrorKind::NotFound {
                    self.tree.saw_nothing(node.ino);
                }
                Err(error)
            }
        }
    }

    async fn unlink_open(self: &Arc<Self>, node: &Node, open: &Arc<OpenFile>) -> Result<()> {
        // The kernel closes in the background: a program's close may be behind its unlink.
        open.wait_closed(RELEASE_GRACE).await;
        let _change = open.change.lock().await;
        let nothing_is_sent = open.file.hold_commits().await;
        // The commit that was running may have changed what is known.
        open.file.tell();
        let node = self.tree.node(node.ino)?;
        let Some(id) = node.object().cloned() else {
            return Ok(());
        };
        if node.local {
            self.unlink_replaced(&id, open).await?;
            self.withdraw(open).await?;
            self.unlinked(&node, open);
            open.file.forget_saved().await;
        } else if open.is_in_use() {
            self.defer_delete(&node, &id, open).await?;
            self.withdraw(open).await?;
            self.unlinked(&node, open);
            return Ok(());
        } else {
            self.unlink_closed(&node).await?;
        }
        drop(nothing_is_sent);
        if !open.is_in_use() {
            self.forget_content(node.ino, open);
            open.file.discard().await;
        }
        Ok(())
    }

    /// No name leads to the file any more, and nothing is sent of it unless a handle needs that.
    pub(super) fn unlinked(&self, node: &Node, open: &OpenFile) {
        self.tree.unlinked(node);
        open.file.unlinked();
        self.withheld.note(node.ino, open);
    }

    /// A file that is not committed yet may have taken the name of an object by a rename: that one must not come back.
    async fn unlink_replaced(&self, id: &ObjectId, open: &OpenFile) -> Result<()> {
        let Some(replaced) = open.file.base_etag() else {
            return Ok(());
        };
        if self.tree.hidden_owner(id).is_some() {
            // Deleted with its last handle.
            return Ok(());
        }
        match self.tree.delete_object(id, Some(replaced)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// symlink(2).
    ///
    /// # Errors
    /// `Exists`, `NameTooLong`.
    pub async fn symlink(
        self: &Arc<Self>,
        caller: Caller,
        parent: Ino,
        name: &str,
        target: &[u8],
    ) -> Result<Node> {
        if target.len() > MAX_TARGET_BYTES {
            return Err(Error::new(
                ErrorKind::NameTooLong,
                "the target of a symlink is at most 4,095 bytes",
            ));
        }
        let node = self
            .put_new(
                self.new_attributes(caller, parent, libc::S_IFLNK | 0o777).await?,
                parent,
                name,
                target,
            )
            .await?;
        self.tree.remember_link_target(node.ino, target.into());
        self.tree.node(node.ino)
    }

    /// mknod(2): a regular file, fifo, socket or device node (`device` is its number). It exists in the bucket when this
    /// returns.
    ///
    /// # Errors
    /// `Exists`, `NameTooLong`; `NotPermitted` for anything but a regular file where no attributes are written, as nothing
    /// would say what it is.
    pub async fn make_node(
        self: &Arc<Self>,
        caller: Caller,
        parent: Ino,
        name: &str,
        mode: u32,
        device: u32,
    ) -> Result<Node> {
        let kind = Kind::of_mode(mode);
        if kind != Kind::File {
            let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
            let attributes = Attributes {
                device: is_device.then_some(device),
                ..self.new_attributes(caller, parent, mode).await?
            };
            return self.put_new(attributes, parent, name, b"").await;
        }
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
        let (node, opened) = self.create(caller, parent, name, mode, flags).await?;
        let flushed = self.flush(opened.handle).await;
        self.release(opened.handle).await;
        flushed?;
        self.tree.node(node.ino)
    }

    async fn put_new(
        self: &Arc<Self>,
        attributes: Attributes,
        parent: Ino,
        name: &str,
        body: &[u8],
    ) -> Result<Node> {
        self.writable()?;
        if self.settings.metadata_format == MetadataFormat::None {
            let text =
                "without metadata nothing would say that it is no regular file (--metadata-format none)";
            return Err(Error::new(ErrorKind::NotPermitted, text));
        }
        let (directory, id) = self.place_of_new_file(parent, name).await?;
        let mut headers = ObjectHeaders {
            content_type: Some(super::open::content_type(&id.key)),
            ..Default::default()
        };
        attributes.write(self.settings.metadata_format, &mut headers.metadata);
        if self.tree.local_object(&id).is_some() {
            return Err(Error::new(ErrorKind::Exists, "the file exists already").on(&id));
        }
        let displacing = self.displace(&id, None, true).await?;
        // Only now: it may have been deleted while this waited.
        let replaced = match self.tree.hidden_version(&id) {
            Some(hidden) => Some(hidden),
            None => self.tree.marker_for_data(&directory, &id).await?,
        };
        let condition = match replaced {
            Some(replaced) => Condition::Matches(replaced.etag),
            None => Condition::Absent,
        };
        let put = put_special(&self.context, &id, body, &headers, condition).await;
        let version = match put {
            Ok(version) => version,
            Err(error) => {
                let taken = matches!(error.kind(), ErrorKind::PreconditionFailed | ErrorKind::Exists);
                if taken {
                    self.tree.listings.forget_name(&directory, name);
                    return Err(error.as_kind(ErrorKind::Exists));
                }
                return Err(error);
            }
        };
        displaced(displacing).await;
        let node = self.tree.created(&directory, name, &id, version, attributes);
        self.tree.count_lookup(node.ino);
        self.touch_directory(&directory);
        Ok(node)
    }

    /// readlink(2).
    ///
    /// # Errors
    /// `Invalid` for what is not a symlink.
    pub async fn read_link(&self, ino: Ino) -> Result<Arc<[u8]>> {
        let node = self.tree.node(ino)?;
        if let Some(target) = node.link_target {
            return Ok(target);
        }
        let (Some(id), Some(version), Kind::Symlink) = (node.object(), &node.version, node.kind) else {
            return Err(Error::new(ErrorKind::Invalid, "not a symlink"));
        };
        let body = match self.tree.small_body(id, &version.etag).await {
            Ok(body) => body,
            Err(error) if error.kind() == ErrorKind::PreconditionFailed => {
                self.tree.look(&node).await?;
                return Err(error.as_kind(ErrorKind::Stale));
            }
            Err(error) => return Err(error),
        };
        let target: Arc<[u8]> = body.as_ref().into();
        self.tree.remember_link_target(ino, target.clone());
        Ok(target)
    }

    /// A name went from `directory`: its times change, and it may need a marker to go on existing.
    pub(crate) async fn after_removal(self: &Arc<Self>, directory: &DirectoryPlace) {
        self.touch_directory(directory);
        self.may_be_empty(directory).await;
    }

    /// Something went from the bucket that was in `directory`, which may need a marker to go on existing.
    pub(crate) async fn may_be_empty(self: &Arc<Self>, directory: &DirectoryPlace) {
        if directory.key.is_partial() {
            // As other directories: until it is removed.
            self.tree.emptied(directory);
            return;
        }
        if !self.tree.may_need_marker(directory) || lock(&self.due_markers).contains_key(directory) {
            return;
        }
        lock(&self.due_markers).insert(directory.clone(), None);
        self.tree.emptied(directory);
        let intent = Intent::Marker {
            bucket: directory.bucket.to_string(),
            prefix: directory.key.prefix().to_owned(),
        };
        match self.record_intent(intent).await {
            Ok(record) => {
                if let Some(due) = lock(&self.due_markers).get_mut(directory) {
                    *due = Some(record);
                }
            }
            Err(error) => tracing::warn!(%error, "an emptied directory could not be recorded"),
        }
        self.marker_due(directory.clone());
    }

    /// Writes the markers that are due at or below a directory now.
    pub(crate) async fn keep_directories_below(&self, directory: &DirectoryPlace) {
        let is_below = |due: &&DirectoryPlace| {
            due.bucket == directory.bucket && due.key.prefix().starts_with(directory.key.prefix())
        };
        let due: Vec<DirectoryPlace> = lock(&self.due_markers).keys().filter(is_below).cloned().collect();
        for place in due {
            self.keep_directory(&place).await;
        }
    }

    fn marker_due(self: &Arc<Self>, directory: DirectoryPlace) {
        let fs = self.clone();
        rt::spawn(async move {
            rt::sleep(MARKER_DELAY).await;
            fs.keep_directory(&directory).await;
        });
    }

    /// Writes the marker of an emptied directory if it still exists.
    pub(crate) async fn keep_directory(&self, directory: &DirectoryPlace) {
        let due = lock(&self.due_markers).remove(directory);
        let Some(record) = due else { return };
        match self
            .tree
            .keep_directory(directory, self.settings.metadata_format)
            .await
        {
            Ok(()) => {
                self.tree.kept(directory);
                if let Some(record) = record {
                    self.forget_record(record).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "an emptied directory got no marker; the next mount tries again");
            }
        }
    }

    /// The directory's mtime and ctime are those of its last change.
    pub(crate) fn touch_directory(&self, directory: &DirectoryPlace) {
        self.tree.touch_directory(directory, rt::wall_clock());
    }

    /// Attributes for an object that carries none.
    #[must_use]
    pub fn effective_mode(&self, attributes: &Attributes, kind: Kind) -> u32 {
        let defaults = &self.settings.defaults;
        let default_mode = match kind {
            Kind::Directory => defaults.dir_mode,
            Kind::Symlink => 0o777,
            _ => defaults.file_mode,
        };
        kind.type_bits() | attributes.mode.map_or(default_mode, |mode| mode & 0o7777)
    }
}

fn impossible(name: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("no directory can be made with the name {name:?}: it is an escape"),
    )
}
