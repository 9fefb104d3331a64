//! Making and removing: directories and their markers, objects.
//!
//! Difficulties:
//! 1. Operations on a path act on what is there now, conditionally: on 412 they look again, a few times, then `Busy`.
//! 2. A lost reply is resolved by looking, never by sending again blindly.
//! 3. A directory without a marker must not vanish with its last child: it gets one when it still exists a moment
//!    later, so that `rm -rf` pays nothing for it ([`Tree::keep_directory`]).

use super::moves::Move;
use super::node::{DirectoryPlace, Ino, Node};
use super::table::Seen;
use super::{Invalidation, Tree, lookup};
use crate::base::attributes::{Attributes, MetadataFormat, TRANSACTION};
use crate::base::checksum::Crc32c;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::names::LEGACY_FOLDER_SUFFIX;
use crate::base::object::{Condition, ETag, ObjectHeaders, ObjectId, Version};
use crate::base::segments::Segments;
use crate::rt;
use crate::s3::types::{ListRequest, PutRequest};
use std::sync::atomic::Ordering;

/// How often a path operation looks again before it gives up.
const MAX_LOOKS: u32 = 5;

impl Tree {
    /// The object that marks a directory.
    #[must_use]
    pub fn marker_id(place: &DirectoryPlace) -> ObjectId {
        ObjectId::new(place.bucket.clone(), place.key.prefix())
    }

    /// Puts a directory's marker, decided by the bucket.
    ///
    /// # Errors
    /// `Exists` when somebody else's marker is there.
    pub async fn put_marker(
        &self,
        place: &DirectoryPlace,
        attributes: Attributes,
        format: MetadataFormat,
        condition: Condition,
    ) -> Result<Version> {
        let mut headers = Self::marker_headers();
        attributes.write(format, &mut headers.metadata);
        self.put_marker_with(place, headers, condition).await
    }

    pub(super) fn marker_headers() -> ObjectHeaders {
        ObjectHeaders {
            content_type: Some("application/x-directory".to_owned()),
            ..ObjectHeaders::default()
        }
    }

    /// As [`Tree::put_marker`], with headers that are complete. `Exists` when `condition` does not hold.
    pub(super) async fn put_marker_with(
        &self,
        place: &DirectoryPlace,
        mut headers: ObjectHeaders,
        condition: Condition,
    ) -> Result<Version> {
        let id = Self::marker_id(place);
        let transaction = rt::random_id();
        headers
            .metadata
            .insert(TRANSACTION.to_owned(), transaction.clone());
        let request = PutRequest {
            id: id.clone(),
            body: Segments::new(),
            checksum: Crc32c::default(),
            condition,
            headers,
        };
        for _ in 0..MAX_LOOKS {
            let error = match self.client.put(&request).await {
                Ok(version) => return Ok(version),
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::PreconditionFailed => {
                    return Err(Error::new(ErrorKind::Exists, "the directory exists already").on(&id));
                }
                ErrorKind::Ambiguous => {}
                _ => return Err(error),
            }
            match self.client.head(&id).await {
                Ok(info) if info.headers.metadata.get(TRANSACTION) == Some(&transaction) => {
                    return Ok(info.version);
                }
                Ok(_) => return Err(Error::new(ErrorKind::Exists, "the directory exists already").on(&id)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Busy, "the directory's marker could not be decided").on(&id))
    }

    /// A directory that this mount has just made is known, and known to be empty.
    ///
    /// # Errors
    /// `Stale` when it was forgotten again already.
    pub fn made_directory(
        &self,
        parent: &DirectoryPlace,
        name: &str,
        place: &DirectoryPlace,
        version: Version,
        attributes: (Attributes, MetadataFormat),
    ) -> Result<Node> {
        let now = rt::now();
        self.listings
            .insert(parent, name, super::Listed::Directory(place.key.clone()));
        self.listings.insert_empty(place, now);
        let link = super::node::Link {
            parent: parent.clone(),
            name: name.into(),
        };
        let ino = self.settle_directory(place, link, now).ino;
        self.marked_directory(ino, place, version, attributes, None);
        self.node(ino)
    }

    /// Whether the directory has nothing in it: what the bucket says, and what only this mount knows.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn is_empty(&self, place: &DirectoryPlace) -> Result<bool> {
        self.is_empty_but_for(place, None).await
    }

    /// As [`Tree::is_empty`], whether `going` is there or not.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn is_empty_but_for(&self, place: &DirectoryPlace, going: Option<&ObjectId>) -> Result<bool> {
        let has_local = {
            let table = self.table();
            table.has_local_below(&place.bucket, &place.key.listing_prefix())
                || table.has_emptied_below(place)
        };
        Ok(!has_local && self.is_empty_in_bucket(place, going).await?)
    }

    async fn is_empty_in_bucket(&self, place: &DirectoryPlace, going: Option<&ObjectId>) -> Result<bool> {
        let prefix = place.key.listing_prefix();
        let hidden = self.table().hidden_below(&place.bucket, &prefix).len() + usize::from(going.is_some());
        let request = ListRequest {
            bucket: place.bucket.clone(),
            prefix: prefix.into_owned(),
            by_directory: false,
            start_after: None,
            continuation: None,
            // The marker itself, the hidden ones, and one that would count.
            max_keys: 2 + hidden as u32,
        };
        let page = self.client.list(&request).await?;
        let table = self.table();
        Ok(page.objects.iter().all(|object| {
            let is_marker = object.key == place.key.prefix() && object.size_bytes == 0;
            let id = ObjectId::new(place.bucket.clone(), object.key.as_str());
            is_marker || going == Some(&id) || table.is_hidden(&id)
        }))
    }

    /// Removes the marker of an empty directory and forgets the directory.
    ///
    /// # Errors
    /// What S3 says; a marker that is not there is no error.
    pub async fn remove_directory(
        &self,
        parent: &DirectoryPlace,
        name: &str,
        place: &DirectoryPlace,
    ) -> Result<()> {
        if place.key.is_partial() {
            // It has no key: its prefix is that of the directory that it is in.
            self.forget_directory(parent, name, place);
            return Ok(());
        }
        match self.client.delete(&Self::marker_id(place), None).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Ambiguous) => {}
            Err(error) => return Err(error),
        }
        self.remove_legacy_marker(place).await?;
        self.forget_directory(parent, name, place);
        Ok(())
    }

    /// Removes the `a_$folder$` beside a directory `a` that is no more. Nobody is asked where no listing has shown any such
    /// key: a directory that has nothing else is known from its parent's listing only.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn remove_legacy_marker(&self, place: &DirectoryPlace) -> Result<()> {
        let Some(stem) = place.key.prefix().strip_suffix('/') else {
            return Ok(());
        };
        if !self.legacy_markers_seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        let id = ObjectId::new(place.bucket.clone(), format!("{stem}{LEGACY_FOLDER_SUFFIX}"));
        let info = match self.client.head(&id).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if info.version.size_bytes > 0 {
            return Ok(());
        }
        match self.delete_object(&id, Some(info.version.etag)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub(crate) fn forget_directory(&self, parent: &DirectoryPlace, name: &str, place: &DirectoryPlace) {
        self.listings.remove(parent, name);
        self.listings.forget_where(|listed| {
            listed.bucket == place.bucket && listed.key.prefix().starts_with(place.key.prefix())
        });
        self.table().kept(place);
        let known = self.table().directory(place).map(|node| node.ino);
        if let Some(ino) = known {
            self.table().unlink(ino);
        }
    }

    /// Deletes the object that is at `id` now; `expected` is the version that the caller believes in.
    ///
    /// # Errors
    /// `NotFound` when nothing is there, `Busy` when it keeps changing.
    pub async fn delete_object(&self, id: &ObjectId, expected: Option<ETag>) -> Result<()> {
        let mut expected = expected;
        for _ in 0..MAX_LOOKS {
            let etag = match expected.take() {
                Some(etag) => etag,
                None => self.client.head(id).await?.version.etag,
            };
            match self.client.delete(id, Some(&etag)).await {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::PreconditionFailed => {}
                Err(error) if error.kind() == ErrorKind::Ambiguous => match self.client.head(id).await {
                    Err(gone) if gone.kind() == ErrorKind::NotFound => return Ok(()),
                    Ok(info) if info.version.etag == etag => {}
                    // Ours was deleted, and somebody has put a new one since.
                    Ok(_) => return Ok(()),
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Busy, "the object keeps changing").on(id))
    }

    /// The name is gone through this mount: listings follow, the inode loses its name.
    pub fn unlinked(&self, node: &Node) {
        if let Some(link) = &node.link {
            self.listings.remove(&link.parent, &link.name);
        }
        self.table().unlink(node.ino);
    }

    /// From now on nobody sees the object, though the bucket still has it for the handles of `ino`.
    pub fn hide(&self, id: &ObjectId, ino: Ino) {
        self.table().hide(id.clone(), ino);
    }

    /// The object is gone, or is not that of `owner` any more.
    pub fn unhide(&self, id: &ObjectId, owner: Ino) {
        self.table().unhide(id, owner);
    }

    /// The same for an object that was deleted: listings from before that must not show it, nor directories that only it
    /// was in.
    pub fn deleted_hidden(&self, id: &ObjectId, owner: Ino) {
        self.forget_way_to(id);
        self.unhide(id, owner);
    }

    /// The inode whose handles keep an unlinked object in the bucket.
    #[must_use]
    pub fn hidden_owner(&self, id: &ObjectId) -> Option<Ino> {
        self.table().hidden_owner(id)
    }

    /// The version of a hidden object, so that a new file of that name can replace it.
    #[must_use]
    pub fn hidden_version(&self, id: &ObjectId) -> Option<Version> {
        let table = self.table();
        table.get(table.hidden_owner(id)?)?.version.clone()
    }

    /// Unlinked objects whose keys begin with `prefix` that wait for their handles.
    #[must_use]
    pub fn hidden_below(&self, bucket: &str, prefix: &str) -> Vec<ObjectId> {
        self.table().hidden_below(bucket, prefix)
    }

    /// Unlinked objects that wait for their handles where `way` is to put something.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn hidden_in_the_way(&self, way: &Move) -> Result<Vec<ObjectId>> {
        let hidden = self.table().hidden_below(&way.to.bucket, way.to.key.prefix());
        let mut in_the_way = Vec::new();
        for target in hidden {
            if self.look_at(&way.origin(&target.key)).await?.is_some() {
                in_the_way.push(target);
            }
        }
        Ok(in_the_way)
    }

    /// Gives a directory that lost its last child a marker, if it still exists and has none.
    ///
    /// # Errors
    /// What S3 says; the caller may try again.
    pub async fn keep_directory(&self, place: &DirectoryPlace, format: MetadataFormat) -> Result<()> {
        if place.key.prefix().is_empty() || place.key.is_partial() {
            return Ok(());
        }
        let Some(node) = self.table().directory(place).cloned() else {
            return Ok(());
        };
        if node.gone || node.version.is_some() || node.ino == super::node::ROOT {
            return Ok(());
        }
        // What only this mount has may never come there.
        if !self.is_empty_in_bucket(place, None).await? {
            return Ok(());
        }
        match self
            .put_marker(place, node.attributes, format, Condition::Absent)
            .await
        {
            Ok(version) => {
                if let Some(node) = self.table().get_mut(node.ino) {
                    node.version = Some(version);
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Exists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The marker that a file is to replace whose name leads to the directory's own key: a marker is no file, and from now on
    /// it is not that of the directory. `None` where there is none, or it has data.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn marker_for_data(&self, place: &DirectoryPlace, id: &ObjectId) -> Result<Option<Version>> {
        if *id != Self::marker_id(place) {
            return Ok(None);
        }
        let found = self.look_at(id).await?.map(|info| info.version);
        if let Some(node) = self.table().directory_mut(place) {
            node.version = None;
            node.headers = None;
        }
        Ok(found.filter(|version| version.size_bytes == 0))
    }

    /// The directory lost its last child and waits for its marker: it exists, whatever the bucket says.
    pub fn emptied(&self, place: &DirectoryPlace) {
        self.table().emptied(place);
    }

    /// A directory that is there because this mount says so, without anything in the bucket.
    #[must_use]
    pub fn assume_emptied(&self, parent: &DirectoryPlace, name: &str, place: &DirectoryPlace) -> Node {
        let link = super::node::Link {
            parent: parent.clone(),
            name: name.into(),
        };
        let node = self.settle_directory(place, link, rt::now());
        self.emptied(place);
        node
    }

    /// From now on the bucket says whether the directory exists.
    pub fn kept(&self, place: &DirectoryPlace) {
        self.table().kept(place);
    }

    /// True when the directory may have become empty and has no marker that we know of. What an old listing shows may have
    /// been removed since by others, each of whom saw something left.
    #[must_use]
    pub fn may_need_marker(&self, place: &DirectoryPlace) -> bool {
        let has_children = self
            .listings
            .get(place)
            .is_some_and(|listing| !listing.entries.is_empty() && self.is_fresh(listing.listed_at));
        self.lacks_marker(place) && !has_children
    }

    /// True for a directory that is there because of what is in it, as far as we know.
    #[must_use]
    pub fn lacks_marker(&self, place: &DirectoryPlace) -> bool {
        let lacks = |node: &Node| node.version.is_none() && node.ino != super::node::ROOT && !node.gone;
        let has_key = !place.key.prefix().is_empty() && !place.key.is_partial();
        has_key && self.table().directory(place).is_some_and(lacks)
    }

    /// A file that this mount is about to create: it has an inode at once.
    pub fn create_local(
        &self,
        parent: &DirectoryPlace,
        name: &str,
        id: &ObjectId,
        attributes: Attributes,
    ) -> Node {
        let link = super::node::Link {
            parent: parent.clone(),
            name: name.into(),
        };
        self.table()
            .create_object(id, link, attributes, rt::now(), rt::wall_clock())
            .clone()
    }

    /// An object that this mount has just put (a symlink) has its inode and its place in the listing.
    pub fn created(
        &self,
        parent: &DirectoryPlace,
        name: &str,
        id: &ObjectId,
        version: Version,
        attributes: Attributes,
    ) -> Node {
        let link = super::node::Link {
            parent: parent.clone(),
            name: name.into(),
        };
        let kind = lookup::kind_of(&attributes);
        let seen = Seen {
            version,
            kind,
            attributes: Some(attributes),
            headers: None,
            at: rt::now(),
        };
        let node = self
            .table()
            .settle_object(id, link, seen, rt::wall_clock())
            .clone();
        self.relist(&node);
        node
    }

    /// Tells the kernel to forget a name.
    pub fn invalidate_name(&self, parent: Ino, name: &str) {
        self.invalidate(Invalidation::Entry {
            parent,
            name: name.to_owned(),
        });
    }
}
