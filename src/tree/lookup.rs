//! What a name stands for.
//!
//! Answered from the first of these that knows: files that only this mount has; the directory's listing; what an
//! earlier look at the same object said; the bucket. The bucket is asked for the object and for keys below it at
//! once; a directory in which several names were asked for is listed instead, so that the next ones cost nothing.
//! Where listing is not allowed, objects are still found by their names.

use super::directory::page_object;
use super::heads::Shown;
use super::node::{DirectoryPlace, Ino, Kind, Link, Node, Place};
use super::table::Seen;
use super::{Listed, Tree};
use crate::base::attributes::Attributes;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::mount_config::AttributesMode;
use crate::base::names::{self, DirectoryKey, FileCandidate, FileRule, Resolved};
use crate::base::object::{ObjectId, ObjectInfo, Version};
use crate::cache::listings::Answer;
use crate::plan::entries::{ListingOrder, PageObject};
use crate::rt::{self, Instant};
use crate::s3::VERSIONS;
use crate::s3::types::ListRequest;
use lru::LruCache;
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Upload algorithm that marks objects whose metadata may carry attributes.
pub(super) const MARK: &str = "CRC32C";
/// Symlinks are never larger than the longest path (`PATH_MAX`).
const MAX_SYMLINK_BYTES: u64 = 4096;
/// This many lookups that went to the bucket, close together, make a listing the cheaper way.
const HOT_LOOKUPS: u32 = 2;
const HEAT_LASTS: Duration = Duration::from_secs(10);
// unwrap: the number is not zero, which the compiler checks.
const HEAT_DIRECTORIES: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();

/// In which directories names were lately looked up one by one.
pub struct Heat {
    recent: Mutex<LruCache<DirectoryPlace, (u32, Instant)>>,
}

/// A directory, and its marker as the listing shows it.
struct Found {
    place: DirectoryPlace,
    marker: Option<PageObject>,
    /// False: nobody may list, so nothing is known of a marker.
    is_listed: bool,
}

impl Default for Heat {
    fn default() -> Self {
        Self {
            recent: Mutex::new(LruCache::new(HEAT_DIRECTORIES)),
        }
    }
}

impl Heat {
    /// Counts a lookup; true when the directory had better be listed.
    fn touch(&self, directory: &DirectoryPlace) -> bool {
        let now = rt::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, since) = recent.get(directory).copied().unwrap_or((0, now));
        let (count, since) = if now.duration_since(since) > HEAT_LASTS {
            (1, now)
        } else {
            (count.saturating_add(1), since)
        };
        recent.put(directory.clone(), (count, since));
        // Only once: a directory too large for one page is not listed again and again.
        count == HOT_LOOKUPS
    }
}

impl Tree {
    /// The inode that `name` stands for in `parent`, or `None` when there is nothing of that name.
    ///
    /// # Errors
    /// `NotDirectory`, name errors, and what S3 says.
    pub async fn lookup(self: &Arc<Self>, parent: Ino, name: &str) -> Result<Option<Node>> {
        if let Place::Buckets = self.node(parent)?.place {
            return self.lookup_bucket(name).await;
        }
        let directory = self.directory(parent)?;
        self.lookup_in(directory, name).await
    }

    /// As [`Tree::lookup`], in a directory of a bucket.
    ///
    /// # Errors
    /// See [`Tree::lookup`].
    pub(crate) async fn lookup_in(
        self: &Arc<Self>,
        directory: DirectoryPlace,
        name: &str,
    ) -> Result<Option<Node>> {
        let resolved = match names::resolve(&directory.key, OsStr::new(name)) {
            Ok(resolved) => resolved,
            Err(names::NameError::NoSuchName) => return Ok(None),
            Err(error) => return Err(Error::new(error.on_lookup(), error.to_string())),
        };
        if let Some(node) = self.known_locally(&directory, &resolved) {
            return Ok(Some(node));
        }
        if name == VERSIONS
            && self.client.shows_versions()
            && let Some(key) = resolved.directory.clone()
        {
            // No listing shows it.
            return self
                .settle_name(&directory, name, Listed::Directory(key), rt::now())
                .await;
        }
        match self.listings.answer(&directory, name) {
            Answer::Present(listed, at) if self.is_fresh(at) => {
                self.walks.has_read(&directory);
                return self.settle_name(&directory, name, listed, at).await;
            }
            Answer::Absent(at) if self.is_fresh(at) => {
                self.walks.has_read(&directory);
                return Ok(None);
            }
            _ => {}
        }
        if let Some(node) = self.recently_checked(&directory, &resolved) {
            return Ok(Some(node));
        }
        self.lookup_remote(&directory, name, &resolved).await
    }

    /// As [`Tree::lookup`], but absence is `NotFound`.
    ///
    /// # Errors
    /// See [`Tree::lookup`].
    pub async fn find(self: &Arc<Self>, parent: Ino, name: &str) -> Result<Node> {
        self.lookup(parent, name)
            .await?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no {name:?} here")))
    }

    fn known_locally(&self, directory: &DirectoryPlace, resolved: &Resolved) -> Option<Node> {
        let table = self.table();
        let emptied = resolved.directory.as_ref().and_then(|key| {
            table.emptied_directory(&DirectoryPlace {
                bucket: directory.bucket.clone(),
                key: key.clone(),
            })
        });
        if emptied.is_some() {
            return emptied.cloned();
        }
        let id = object_id(directory, resolved.file.as_ref()?);
        table.object(&id).filter(|node| node.local && !node.gone).cloned()
    }

    fn recently_checked(&self, directory: &DirectoryPlace, resolved: &Resolved) -> Option<Node> {
        let table = self.table();
        let below = resolved.directory.as_ref().and_then(|key| {
            table.directory(&DirectoryPlace {
                bucket: directory.bucket.clone(),
                key: key.clone(),
            })
        });
        let object = resolved
            .file
            .as_ref()
            .and_then(|file| table.object(&object_id(directory, file)));
        [below, object]
            .into_iter()
            .flatten()
            .find(|node| !node.gone && self.is_node_fresh(node))
            .cloned()
    }

    async fn lookup_remote(
        self: &Arc<Self>,
        directory: &DirectoryPlace,
        name: &str,
        resolved: &Resolved,
    ) -> Result<Option<Node>> {
        if self.heat.touch(directory) {
            match self.ask_by_listing(directory, name).await? {
                Answer::Present(listed, at) => return self.settle_name(directory, name, listed, at).await,
                Answer::Absent(_) => return Ok(None),
                Answer::Unknown => {}
            }
        }
        let file = resolved
            .file
            .as_ref()
            .filter(|file| !self.table().is_hidden(&object_id(directory, file)));
        let asked_at = rt::now();
        let (object, below) = tokio::join!(
            self.look_for_object(directory, file),
            self.look_for_directory_named(directory, resolved)
        );
        let link = Link {
            parent: directory.clone(),
            name: name.into(),
        };
        let (object, below) = match (object, below) {
            (Err(refusal), Ok(None)) if is_refusal(&refusal) => {
                let Some(file) = file else { return Err(refusal) };
                let id = object_id(directory, file);
                return self.look_in_listing(&id, link, refusal).await.map(Some);
            }
            (Ok(object), Err(denied)) if denied.kind() == ErrorKind::Denied => (object, None),
            // Who may not list is not told either that an object is not there. A path can only be walked if what may be
            // a directory is taken for one.
            (Err(object), Err(denied))
                if object.kind() == ErrorKind::Denied && denied.kind() == ErrorKind::Denied =>
            {
                let key = resolved.directory.clone().filter(|key| !key.is_partial());
                let place = key.map(|key| DirectoryPlace {
                    bucket: directory.bucket.clone(),
                    key,
                });
                let found = Found {
                    place: place.ok_or(object)?,
                    marker: None,
                    is_listed: false,
                };
                (None, Some(found))
            }
            (object, below) => (object?, below?),
        };
        if let Some(below) = below {
            let node = self.settle_directory(&below.place, link, rt::now());
            if below.is_listed && self.listing_order() == ListingOrder::Bytes {
                self.saw_listed_marker(&below.place, below.marker.as_ref(), asked_at);
            }
            return Ok(Some(self.node(node.ino).unwrap_or(node)));
        }
        let Some((id, info)) = object else { return Ok(None) };
        if file.is_some_and(|file| file.rule == FileRule::BesideDirectory)
            && !self.directory_beside(&id).await?
        {
            return Ok(None);
        }
        Ok(Some(self.settle_info(&id, link, &info, asked_at)))
    }

    /// What a listing of the directory says of a name; `Unknown` where it is too large, may not be listed, or was changed
    /// meanwhile by this mount.
    async fn ask_by_listing(
        self: &Arc<Self>,
        directory: &DirectoryPlace,
        name: &str,
    ) -> Result<Answer<Listed>> {
        let began = rt::now();
        if !self.list_small(directory).await.or_else(unless_denied)? {
            return Ok(Answer::Unknown);
        }
        // Where the listing was not kept a former one may still be there.
        let is_old = |at: Instant| at < began && !self.is_fresh(at);
        Ok(match self.listings.answer(directory, name) {
            Answer::Present(_, at) | Answer::Absent(at) if is_old(at) => Answer::Unknown,
            answer => answer,
        })
    }

    async fn look_for_directory_named(
        &self,
        directory: &DirectoryPlace,
        resolved: &Resolved,
    ) -> Result<Option<Found>> {
        let Some(key) = &resolved.directory else {
            return Ok(None);
        };
        let place = DirectoryPlace {
            bucket: directory.bucket.clone(),
            key: key.clone(),
        };
        self.look_for_directory(&place).await
    }

    async fn look_for_object(
        &self,
        directory: &DirectoryPlace,
        file: Option<&FileCandidate>,
    ) -> Result<Option<(ObjectId, ObjectInfo)>> {
        let Some(file) = file else { return Ok(None) };
        let id = object_id(directory, file);
        match self.client.head(&id).await {
            Ok(info) => Ok(Some((id, info))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The directory, when any key (its marker included) is at or below its prefix.
    async fn look_for_directory(&self, place: &DirectoryPlace) -> Result<Option<Found>> {
        let prefix = place.key.listing_prefix();
        let request = ListRequest {
            bucket: place.bucket.clone(),
            prefix: prefix.clone().into_owned(),
            by_directory: false,
            start_after: None,
            continuation: None,
            // One more than the hidden ones, so that something visible is seen if there is anything.
            max_keys: 1 + self.table().hidden_below(&place.bucket, &prefix).len() as u32,
        };
        let page = self.client.list(&request).await?;
        let table = self.table();
        let visible = page
            .objects
            .iter()
            .any(|object| !table.is_hidden(&ObjectId::new(place.bucket.clone(), object.key.as_str())));
        let local = table.has_local_below(&place.bucket, &prefix);
        let mut objects = page.objects.into_iter();
        let marker = objects.find(|object| object.key == place.key.prefix());
        Ok((visible || local).then(|| Found {
            place: place.clone(),
            marker: marker.map(page_object),
            is_listed: true,
        }))
    }

    /// True for a directory that was removed, and that listings show only because unlinked objects below it wait for
    /// their last handle.
    pub(crate) async fn is_only_hidden(&self, place: &DirectoryPlace) -> Result<bool> {
        {
            let table = self.table();
            let is_known = table.directory(place).is_some_and(|node| !node.gone);
            let prefix = place.key.listing_prefix();
            if is_known || table.hidden_below(&place.bucket, &prefix).is_empty() {
                return Ok(false);
            }
        }
        Ok(self.look_for_directory(place).await?.is_none())
    }

    /// The prefixes without those of removed directories: an object beside one of these has its plain name. Where that
    /// cannot be found out a prefix stays.
    pub(crate) async fn shown_prefixes(&self, place: &DirectoryPlace, prefixes: Vec<String>) -> Vec<String> {
        if self
            .table()
            .hidden_below(&place.bucket, &place.key.listing_prefix())
            .is_empty()
        {
            return prefixes;
        }
        let mut shown = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            let below = DirectoryPlace {
                bucket: place.bucket.clone(),
                key: DirectoryKey::root(&prefix),
            };
            if !self.is_only_hidden(&below).await.unwrap_or(false) {
                shown.push(prefix);
            }
        }
        shown
    }

    /// An escaped name such as `~%a` stands for the object `a` only while the directory `a` takes the plain name.
    pub(crate) async fn directory_beside(&self, id: &ObjectId) -> Result<bool> {
        let place = DirectoryPlace {
            bucket: id.bucket.clone(),
            key: DirectoryKey::root(&format!("{}/", id.key)),
        };
        Ok(self.look_for_directory(&place).await?.is_some())
    }

    /// Lists a directory if one page holds it; false when it is larger.
    async fn list_small(self: &Arc<Self>, directory: &DirectoryPlace) -> Result<bool> {
        if self.wait_for_listing_ahead(directory, false).await && self.listings.get(directory).is_some() {
            self.walks.has_read(directory);
            return Ok(true);
        }
        let mut stream = self.stream(directory.clone());
        stream.next_batch().await?;
        Ok(stream.is_finished())
    }

    /// The inode of a name that a listing showed. Where an object may carry attributes, and is a regular file in any case,
    /// nobody asks for them yet: who opens it gets them with its first bytes, and who wants to know them asks
    /// ([`Tree::current`]).
    async fn settle_name(
        self: &Arc<Self>,
        directory: &DirectoryPlace,
        name: &str,
        listed: Listed,
        at: Instant,
    ) -> Result<Option<Node>> {
        self.settle_entry(directory, name, listed, at, true).await
    }

    /// The inode of what a listing showed; a HEAD where its attributes are needed and unknown.
    pub(crate) async fn settle_listed(
        self: &Arc<Self>,
        directory: &DirectoryPlace,
        name: &str,
        listed: Listed,
        at: Instant,
    ) -> Result<Option<Node>> {
        self.settle_entry(directory, name, listed, at, false).await
    }

    async fn settle_entry(
        self: &Arc<Self>,
        directory: &DirectoryPlace,
        name: &str,
        listed: Listed,
        at: Instant,
        may_guess: bool,
    ) -> Result<Option<Node>> {
        let link = Link {
            parent: directory.clone(),
            name: name.into(),
        };
        let object = match listed {
            Listed::Directory(key) => {
                let place = DirectoryPlace {
                    bucket: directory.bucket.clone(),
                    key,
                };
                if self.is_only_hidden(&place).await? {
                    return Ok(None);
                }
                return Ok(Some(self.settle_directory(&place, link, at)));
            }
            Listed::Object(object) => object,
        };
        let id = ObjectId::new(directory.bucket.clone(), object.key.as_str());
        if self.table().is_hidden(&id) {
            return Ok(None);
        }
        let mut seen = self.seen_from_listing(&id, &object, at);
        if seen.is_none() && self.attributes.load(&id).await {
            seen = self.seen_from_listing(&id, &object, at);
        }
        if let Some(seen) = seen {
            return Ok(Some(self.settle_seen(&id, link, seen)));
        }
        if may_guess && self.is_regular(&object) {
            return Ok(Some(self.guess(&id, link, &object, at)));
        }
        let shown = Shown {
            etag: &object.etag,
            last_modified: object.last_modified,
            at,
        };
        match self.head_in_row(&id, Some(&link), Some(shown)).await {
            Ok((info, asked_at)) => {
                let node = self.settle_info(&id, link, &info, asked_at);
                // It was asked after it was listed: if its time is an earlier one all the same, that is how the store tells it.
                self.table()
                    .note_listed_time(node.ino, &object.etag, object.last_modified);
                Ok(Some(node))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.listings.remove(directory, name);
                Ok(None)
            }
            Err(error) if is_refusal(&error) => {
                tracing::debug!(%error, "shown as the file that its listing says it is");
                Ok(Some(self.settle_seen(
                    &id,
                    link,
                    seen_in_listing(&object, None, at),
                )))
            }
            Err(error) => Err(error),
        }
    }

    /// The object of a file that may not be looked at, as a listing shows it.
    async fn look_in_listing(&self, id: &ObjectId, link: Link, refusal: Error) -> Result<Node> {
        let at = rt::now();
        let request = ListRequest {
            bucket: id.bucket.clone(),
            prefix: id.key.to_string(),
            by_directory: false,
            start_after: None,
            continuation: None,
            max_keys: 1,
        };
        // What sorts first of all that begins with the key.
        let found = self.client.list(&request).await?.objects.into_iter().next();
        match found.filter(|object| *object.key == *id.key) {
            Some(object) => {
                let seen = seen_in_listing(&page_object(object), None, at);
                Ok(self.settle_seen(id, link, seen))
            }
            None => Err(refusal),
        }
    }

    /// What is known of a listed object without a request; `None` when its attributes are needed and unknown.
    pub(crate) fn seen_from_listing(&self, id: &ObjectId, object: &PageObject, at: Instant) -> Option<Seen> {
        let known = self.known_attributes(id, object);
        if known.is_none() && self.needs_head(object) {
            return None;
        }
        Some(seen_in_listing(object, known, at))
    }

    fn known_attributes(&self, id: &ObjectId, object: &PageObject) -> Option<Attributes> {
        let of_inode = self.table().object(id).and_then(|node| {
            let version = node.version.as_ref()?;
            let same = version.etag == object.etag
                && version.size_bytes == object.size_bytes
                && !node.is_put_again(object.last_modified);
            (same && node.attributes_known).then_some(node.attributes)
        });
        of_inode.or_else(|| {
            self.attributes
                .get(id, &object.etag, object.size_bytes, object.last_modified)
        })
    }

    fn needs_head(&self, object: &PageObject) -> bool {
        match self.settings.attributes {
            AttributesMode::Listing => false,
            AttributesMode::Full => true,
            AttributesMode::Auto => {
                may_be_special(object)
                    || object.checksum_algorithm.as_deref() == Some(MARK)
                    || !self.algorithms_seen.load(Ordering::Relaxed)
                    || self.foreign_attributes_seen.load(Ordering::Relaxed)
            }
        }
    }

    /// True for an object that may be a symlink or a special file: by its ETag if this program has made it; where other
    /// tools' attributes were seen, any small one.
    pub(crate) fn may_be_special(&self, object: &PageObject) -> bool {
        let is_small = (1..=MAX_SYMLINK_BYTES).contains(&object.size_bytes);
        let is_of_others = is_small
            && self.settings.attributes != AttributesMode::Listing
            && self.foreign_attributes_seen.load(Ordering::Relaxed);
        may_be_special(object) || is_of_others
    }

    /// True for an object that is a regular file, whatever attributes it carries: too large for anything else, or uploaded
    /// in a way that programs upload files in.
    fn is_regular(&self, object: &PageObject) -> bool {
        let is_marked = object.checksum_algorithm.as_deref() == Some(MARK);
        object.size_bytes > MAX_SYMLINK_BYTES || is_marked && !self.may_be_special(object)
    }

    /// Takes note of what listings of this endpoint show.
    pub(crate) fn note_page(&self, objects: &[crate::s3::types::ListedObject]) {
        if !objects.is_empty() {
            self.objects_listed.store(true, Ordering::Relaxed);
        }
        if objects.iter().any(|object| object.checksum_algorithm.is_some()) {
            self.algorithms_seen.store(true, Ordering::Relaxed);
        }
        if objects
            .iter()
            .any(|object| names::legacy_folder_marker(&object.key).is_some())
        {
            self.legacy_markers_seen.store(true, Ordering::Relaxed);
        }
    }

    /// The inode of an object that HEAD or GET has just described.
    pub(crate) fn settle_info(
        &self,
        id: &ObjectId,
        link: Link,
        info: &ObjectInfo,
        asked_at: Instant,
    ) -> Node {
        let attributes = self.remember_attributes(id, info);
        let seen = Seen {
            version: info.version.clone(),
            kind: kind_of(&attributes),
            attributes: Some(attributes),
            headers: Some(Arc::new(info.headers.clone())),
            at: asked_at,
        };
        self.settle_seen(id, link, seen)
    }

    pub(crate) fn remember_attributes(&self, id: &ObjectId, info: &ObjectInfo) -> Attributes {
        let attributes = Attributes::read(&info.headers.metadata);
        let ours = info
            .headers
            .metadata
            .contains_key(crate::base::attributes::TRANSACTION);
        if !ours && attributes != Attributes::default() {
            self.foreign_attributes_seen.store(true, Ordering::Relaxed);
        }
        let Version {
            etag,
            size_bytes,
            last_modified,
            ..
        } = &info.version;
        self.attributes.insert(
            id,
            etag,
            *size_bytes,
            *last_modified,
            attributes,
            self.client.server_time(),
        );
        attributes
    }

    fn settle_seen(&self, id: &ObjectId, link: Link, seen: Seen) -> Node {
        self.table()
            .settle_object(id, link, seen, rt::wall_clock())
            .clone()
    }

    pub(crate) fn settle_directory(&self, place: &DirectoryPlace, link: Link, seen_at: Instant) -> Node {
        self.table()
            .settle_directory(place, Some(link), seen_at, rt::wall_clock())
            .clone()
    }
}

/// A listing that may not be had is no reason not to look at a name.
fn unless_denied(error: Error) -> Result<bool> {
    match error.kind() {
        ErrorKind::Denied => Ok(false),
        _ => Err(error),
    }
}

/// The store answers, and will not tell of this object: it may not be read, or only with a key of somebody else's.
pub(super) fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Denied | ErrorKind::Invalid)
}

/// Small objects whose ETag ends in `-1` may be symlinks: nothing but a look at them tells.
pub(crate) fn may_be_special(object: &PageObject) -> bool {
    object.etag.is_one_part() && object.size_bytes <= MAX_SYMLINK_BYTES
}

pub(crate) fn seen_in_listing(object: &PageObject, attributes: Option<Attributes>, at: Instant) -> Seen {
    let version = Version {
        etag: object.etag.clone(),
        size_bytes: object.size_bytes,
        version_id: None,
        last_modified: object.last_modified,
    };
    let kind = attributes.as_ref().map_or(Kind::File, kind_of);
    Seen {
        version,
        kind,
        attributes,
        headers: None,
        at,
    }
}

pub(crate) fn kind_of(attributes: &Attributes) -> Kind {
    attributes.mode.map_or(Kind::File, Kind::of_mode)
}

pub(crate) fn object_id(directory: &DirectoryPlace, file: &FileCandidate) -> ObjectId {
    ObjectId::new(directory.bucket.clone(), file.key.as_str())
}
