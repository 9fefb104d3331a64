//! What a directory's marker says: mode, owner, times.
//!
//! Difficulties, and what solves each:
//! 1. A listing shows a directory as a prefix, without its marker. Whoever wants attributes has to look at the marker,
//!    once per time to live ([`Tree::with_attributes`]); what other requests show of it by the way is taken note of
//!    ([`Tree::saw_listed_marker`]), so that a directory without a marker, or with a known one, costs nothing more.
//! 2. Most buckets of other tools have no markers with attributes: a few directories are asked as a sample, and the others
//!    only when one has been seen ([`Tree::markers_may_matter`]).
//! 3. Some stores keep no metadata under keys that end in `/`. What is set there is kept here for the life of the mount
//!    ([`Table::keep_unsaved`](super::table::Table::keep_unsaved)), and nobody asks for what cannot be there.
//! 4. A change in a directory moves its times here, not in the bucket: until they are set, those of the last change count.
//! 5. Data under the marker's key is a file of its own, which is never taken for attributes, nor overwritten with them.

use super::Tree;
use super::lookup::is_refusal;
use super::node::{DirectoryPlace, Ino, Node, Place};
use crate::base::attributes::{Attributes, MetadataFormat};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::mount_config::AttributesMode;
use crate::base::object::{Condition, ObjectHeaders, ObjectId, ObjectInfo, Version};
use crate::plan::entries::PageObject;
use crate::rt::{self, Instant};
use crate::s3::capabilities::{Feature, Support};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many directories are asked for their markers in any case.
pub(super) const SAMPLE: u32 = 3;
/// How often a change looks again before it gives up.
const MAX_LOOKS: u32 = 5;

// unwrap: the number is not zero, which the compiler checks.
const MAX_LISTED: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();

/// Markers that listings ahead of walks have shown, or would have shown, and when those were asked for.
pub(super) struct ListedMarkers(Mutex<LruCache<DirectoryPlace, (Option<PageObject>, Instant)>>);

impl Default for ListedMarkers {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_LISTED)))
    }
}

impl ListedMarkers {
    fn lock(&self) -> MutexGuard<'_, LruCache<DirectoryPlace, (Option<PageObject>, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, place: DirectoryPlace, marker: PageObject, at: Instant) {
        self.lock().put(place, (Some(marker), at));
    }

    /// A listing from `at` on has all of the directory: without a marker, if none was noted.
    pub fn note_whole(&self, place: &DirectoryPlace, at: Instant) {
        let mut all = self.lock();
        if all.peek(place).is_none_or(|(_, noted_at)| *noted_at < at) {
            all.put(place.clone(), (None, at));
        }
    }

    pub fn forget(&self, place: &DirectoryPlace) {
        self.lock().pop(place);
    }

    pub fn forget_where(&self, condemned: impl Fn(&DirectoryPlace) -> bool) {
        let mut all = self.lock();
        let doomed: Vec<DirectoryPlace> = all
            .iter()
            .map(|(place, _)| place)
            .filter(|place| condemned(place))
            .cloned()
            .collect();
        for place in doomed {
            all.pop(&place);
        }
    }

    fn take(&self, place: &DirectoryPlace) -> Option<(Option<PageObject>, Instant)> {
        self.lock().pop(place)
    }
}

/// What was seen of a marker.
struct Seen {
    version: Version,
    attributes: Attributes,
    /// `None`: only a listing was seen.
    headers: Option<ObjectHeaders>,
}

impl Tree {
    /// A directory with the attributes that its marker carries; anything else as it is.
    ///
    /// # Errors
    /// What S3 says; a marker that is missing or refused is no error.
    pub async fn with_attributes(self: &Arc<Self>, node: Node) -> Result<Node> {
        let Place::Directory(place) = &node.place else {
            return Ok(node);
        };
        if self.knows_attributes(&node) {
            return Ok(node);
        }
        if let Some(known) = self.as_listed_ahead(&node, place).await {
            return Ok(known);
        }
        self.look_at_marker(node.ino, place).await?;
        Ok(self.table().get(node.ino).cloned().unwrap_or(node))
    }

    /// As [`Tree::with_attributes`], with all that the marker carries.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn with_marker(self: &Arc<Self>, node: Node) -> Result<Node> {
        let node = self.with_attributes(node).await?;
        let Place::Directory(place) = &node.place else {
            return Ok(node);
        };
        if node.version.is_some() && node.headers.is_none() {
            // Only a listing was seen of it.
            self.look_at_marker(node.ino, place).await?;
            return self.node(node.ino);
        }
        Ok(node)
    }

    /// The directory as a listing ahead of the walk shows it, where that and what is remembered of its marker tell enough.
    async fn as_listed_ahead(self: &Arc<Self>, node: &Node, place: &DirectoryPlace) -> Option<Node> {
        let id = Self::marker_id(place);
        if !self.attributes.load(&id).await {
            return None;
        }
        let mut listed = self.listed_markers.take(place);
        if listed.is_none() && self.attributes.remembers_marker(&id) {
            self.wait_for_listing_ahead(place, true).await;
            listed = self.listed_markers.take(place);
        }
        let is_late = |at: &Instant| node.refresh_due.is_some_and(|due| *at < due);
        let (marker, at) = listed.filter(|(_, at)| self.is_fresh(*at) && !is_late(at))?;
        self.saw_listed_marker(place, marker.as_ref(), at);
        let node = self.node(node.ino).ok()?;
        self.knows_attributes(&node).then_some(node)
    }

    /// True when nothing needs to be asked for the attributes of this inode.
    #[must_use]
    pub fn knows_attributes(&self, node: &Node) -> bool {
        let Place::Directory(place) = &node.place else {
            return !node.is_guess();
        };
        node.gone || node.marker_at.is_some_and(|at| self.is_fresh(at)) || !self.may_have_attributes(place)
    }

    /// The marker of a directory, where somebody who wants its attributes would have to look at that.
    pub(super) fn marker_to_look_at(&self, place: &DirectoryPlace) -> Option<ObjectId> {
        let node = self.table().directory(place).cloned();
        let is_known = match &node {
            Some(node) => self.knows_attributes(node),
            None => !self.may_have_attributes(place),
        };
        (!is_known).then(|| Self::marker_id(place))
    }

    /// False where no marker can be, or none needs to be asked.
    fn may_have_attributes(&self, place: &DirectoryPlace) -> bool {
        let support = self.client.capabilities().get(Feature::MarkerMetadata);
        has_marker_key(place)
            && self.settings.attributes != AttributesMode::Listing
            && !matches!(support, Support::Ignored | Support::Refused)
            && self.markers_may_matter()
    }

    /// Where listings show how objects were uploaded, some directories are a sample: while none has had a marker with
    /// attributes, and no listing has shown one, the others are not asked.
    fn markers_may_matter(&self) -> bool {
        self.settings.attributes == AttributesMode::Full
            || (self.objects_listed.load(Ordering::Relaxed) && !self.algorithms_seen.load(Ordering::Relaxed))
            || self.foreign_attributes_seen.load(Ordering::Relaxed)
            || self.markers_matter.load(Ordering::Relaxed)
            || self.markers_asked.load(Ordering::Relaxed) < SAMPLE
    }

    /// Returns the size of what is under the marker's key.
    async fn look_at_marker(self: &Arc<Self>, ino: Ino, place: &DirectoryPlace) -> Result<u64> {
        self.markers_asked.fetch_add(1, Ordering::Relaxed);
        let link = self.table().get(ino).and_then(|node| node.link.clone());
        let mut asked_at = rt::now();
        let looked = self
            .head_in_row(&Self::marker_id(place), link.as_ref(), None)
            .await;
        let info = match looked {
            Ok((info, at)) => {
                asked_at = at;
                Some(info)
            }
            Err(error) if error.kind() == ErrorKind::NotFound || is_refusal(&error) => None,
            Err(error) => return Err(error),
        };
        let size_bytes = info.as_ref().map_or(0, |info| info.version.size_bytes);
        let seen = info
            .filter(|info| info.version.size_bytes == 0)
            .map(|info| self.read_marker(place, info));
        self.settle_marker(ino, place, seen, asked_at);
        Ok(size_bytes)
    }

    fn read_marker(&self, place: &DirectoryPlace, info: ObjectInfo) -> Seen {
        Seen {
            attributes: self.remember_attributes(&Self::marker_id(place), &info),
            version: info.version,
            headers: Some(info.headers),
        }
    }

    /// A listing that began at `at` would have shown the directory's marker, and has shown this.
    pub(crate) fn saw_listed_marker(&self, place: &DirectoryPlace, marker: Option<&PageObject>, at: Instant) {
        let known = self.table().directory(place).map(|node| node.ino);
        let Some(ino) = known else { return };
        let marker = marker.filter(|marker| marker.size_bytes == 0);
        let seen = marker.map(|marker| self.seen_from_listing(&Self::marker_id(place), marker, at));
        if let Some(None) = seen {
            // It may carry some: whoever wants them looks.
            self.markers_matter.store(true, Ordering::Relaxed);
            return;
        }
        let seen = seen.flatten().map(|seen| Seen {
            version: seen.version,
            attributes: seen.attributes.unwrap_or_default(),
            headers: None,
        });
        self.settle_marker(ino, place, seen, at);
    }

    fn settle_marker(&self, ino: Ino, place: &DirectoryPlace, seen: Option<Seen>, asked_at: Instant) {
        if seen
            .as_ref()
            .is_some_and(|seen| seen.attributes != Attributes::default())
        {
            self.markers_matter.store(true, Ordering::Relaxed);
        }
        let mut table = self.table();
        let unsaved = table.unsaved(place);
        let Some(node) = table.get_mut(ino) else { return };
        if node.marker_at.is_some_and(|known_at| known_at > asked_at) {
            // What this mount set meanwhile counts.
            return;
        }
        let (version, mut attributes, headers) = seen.map_or((None, Attributes::default(), None), |seen| {
            (Some(seen.version), seen.attributes, seen.headers)
        });
        if attributes == Attributes::default() {
            attributes = unsaved.unwrap_or_default();
        }
        if node.is_touched {
            attributes.mtime = node.attributes.mtime;
            attributes.ctime = node.attributes.ctime;
        }
        node.version = version;
        node.attributes = attributes;
        node.attributes_known = true;
        node.headers = headers.map(Arc::new);
        node.marker_at = Some(asked_at);
    }

    /// Changes the attributes of a directory by `change`, on its marker where that can carry them, and what else the marker
    /// carries by `change_headers`, which answers false when it has nothing to change.
    ///
    /// # Errors
    /// `Unsupported` when the marker cannot carry what `change_headers` wants;
    /// `Busy` when the marker keeps changing, and what S3 says.
    pub async fn change_directory(
        self: &Arc<Self>,
        node: &Node,
        place: &DirectoryPlace,
        format: MetadataFormat,
        change: impl Fn(&mut Attributes),
        change_headers: impl Fn(&mut ObjectHeaders) -> bool,
    ) -> Result<()> {
        let needs_headers = change_headers(&mut ObjectHeaders::default());
        let keeps_metadata = format != MetadataFormat::None && has_marker_key(place);
        let keeps_metadata = keeps_metadata
            && self.client.support(Feature::MarkerMetadata, &place.bucket).await == Support::Honoured;
        for _ in 0..MAX_LOOKS {
            let node = self.with_attributes(self.node(node.ino)?).await?;
            let attributes = changed(&node, &change);
            if !keeps_metadata && needs_headers {
                let text = "this directory can carry no xattrs: it has no marker, or the store keeps no metadata on it";
                return Err(Error::new(ErrorKind::Unsupported, text).on(&Self::marker_id(place)));
            }
            if !keeps_metadata {
                self.assume_directory(node.ino, place, attributes);
                return Ok(());
            }
            let condition = match &node.version {
                Some(version) => Condition::Matches(version.etag.clone()),
                None => Condition::Absent,
            };
            let mut headers = match (&node.version, &node.headers) {
                (Some(_), None) => {
                    // Only a listing was seen of it: what else it carries is kept too.
                    self.look_at_marker(node.ino, place).await?;
                    let known = self.node(node.ino)?.headers;
                    known.map_or_else(Self::marker_headers, |headers| (*headers).clone())
                }
                (Some(_), Some(headers)) => (**headers).clone(),
                (None, _) => Self::marker_headers(),
            };
            change_headers(&mut headers);
            attributes.write(format, &mut headers.metadata);
            match self.put_marker_with(place, headers.clone(), condition).await {
                Ok(version) => {
                    self.marked_directory(node.ino, place, version, (attributes, format), Some(headers));
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Exists => {}
                Err(error) => return Err(error),
            }
            if self.look_at_marker(node.ino, place).await? > 0 {
                // Data is under that key: it can carry no attributes of the directory.
                self.assume_directory(node.ino, place, attributes);
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Busy, "the directory's marker keeps changing").on(&Self::marker_id(place)))
    }

    /// The attributes last as long as the mount.
    fn assume_directory(&self, ino: Ino, place: &DirectoryPlace, attributes: Attributes) {
        let mut table = self.table();
        table.keep_unsaved(place, attributes);
        if let Some(node) = table.get_mut(ino) {
            node.attributes = attributes;
            node.is_touched = false;
        }
    }

    /// The directory has this marker now, which was put with the attributes in this format.
    pub fn marked_directory(
        &self,
        ino: Ino,
        place: &DirectoryPlace,
        version: Version,
        (attributes, format): (Attributes, MetadataFormat),
        headers: Option<ObjectHeaders>,
    ) {
        self.markers_matter.store(true, Ordering::Relaxed);
        self.heads.forget(&Self::marker_id(place));
        self.listed_markers.forget(place);
        let keeps_metadata = self.client.capabilities().get(Feature::MarkerMetadata) == Support::Honoured
            && format != MetadataFormat::None;
        let mut table = self.table();
        if keeps_metadata {
            table.forget_unsaved(place);
        } else {
            table.keep_unsaved(place, attributes);
        }
        if let Some(node) = table.get_mut(ino) {
            node.version = Some(version);
            node.attributes = attributes;
            node.attributes_known = true;
            node.headers = headers.map(Arc::new);
            node.marker_at = Some(rt::now());
            node.is_touched = false;
        }
    }
}

fn changed(node: &Node, change: impl Fn(&mut Attributes)) -> Attributes {
    let mut attributes = node.attributes;
    let shown = node
        .version
        .as_ref()
        .map_or(node.first_seen, |version| version.last_modified);
    attributes.mtime = attributes.mtime.or(Some(shown));
    change(&mut attributes);
    attributes
}

/// A bucket and a piece of an over-long name have no marker.
fn has_marker_key(place: &DirectoryPlace) -> bool {
    !place.key.prefix().is_empty() && !place.key.is_partial()
}
