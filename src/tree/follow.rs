//! Small facts about inodes that operations leave behind for the ones after them.

use super::node::{DirectoryPlace, Ino, Kind, Link, Node, ROOT};
use super::{Invalidation, Listed, Tree, lookup};
use crate::base::attributes::Attributes;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::KIB;
use crate::base::mount_config::{AttributesMode, Source};
use crate::base::names::{self, Named};
use crate::base::object::{ETag, ObjectHeaders, ObjectId, Version};
use crate::plan::entries::PageObject;
use crate::rt;
use crate::tree::directory::Item;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;

/// How long an open waits for the kernel to be told something, which takes microseconds.
const TELLING: Duration = Duration::from_secs(1);

/// Up to this size all bytes come at once, and are checked before they are used.
const SMALL_BYTES: u64 = 128 * KIB;

fn are_pages_current(node: &Node) -> bool {
    node.pages_of.is_some() && node.pages_of == node.version.as_ref().map(|version| version.etag.clone())
}

impl Tree {
    /// True when nothing needs to be asked at `open`: the user said that nobody else writes here.
    #[must_use]
    pub fn trusts_caches(&self, node: &Node) -> bool {
        self.metadata_ttl().is_none() && node.refresh_due.is_none()
    }

    /// True when the kernel may hold all pages of the inode's current version. Where a small file's last one is certainly
    /// missing, asking for the bytes costs no more than asking whether they are still the same.
    #[must_use]
    pub fn has_pages(&self, node: &Node) -> bool {
        let is_small = (node.version.as_ref()).is_some_and(|version| version.size_bytes <= SMALL_BYTES);
        are_pages_current(node) && (node.has_last_page || !is_small)
    }

    /// The kernel got the last bytes of the inode's content, for its pages.
    pub fn read_to_the_end(&self, ino: Ino) {
        if let Some(node) = self.table().get_mut(ino) {
            node.has_last_page = true;
        }
    }

    /// The kernel has dropped its last page: of what is written from then on it keeps whole ones only, also where it comes to the
    /// same size.
    pub fn truncated(&self, ino: Ino) {
        if let Some(node) = self.table().get_mut(ino) {
            node.has_last_page = false;
        }
    }

    /// True when the kernel's pages of the inode are right. Where they are not it drops them when it hears of the open; until
    /// then an open that kept them would see old ones.
    #[must_use]
    pub fn keeps_pages(&self, ino: Ino) -> bool {
        self.table().get(ino).is_some_and(are_pages_current)
    }

    /// The kernel holds pages of this version only, if it is the current one.
    pub fn note_pages(&self, ino: Ino, version: &ETag) {
        if let Some(node) = self.table().get_mut(ino)
            && node
                .version
                .as_ref()
                .is_some_and(|current| current.etag == *version)
        {
            node.pages_of = Some(version.clone());
            node.has_last_page = false;
        }
    }

    /// Bytes of an open file are not where programs have seen them: pages of it are of no version.
    pub fn content_moved(&self, ino: Ino) {
        if let Some(node) = self.table().get_mut(ino) {
            node.pages_of = Some(ETag::new(""));
        }
        self.invalidate(Invalidation::Content { ino });
    }

    /// For an open of the inode: the kernel's size is right when this returns, or it asks for it. Several answers may be on their
    /// way that tell it of sizes, of former versions too, and nobody knows which one it hears first.
    pub async fn settle_size(&self, ino: Ino) {
        let doubtful = |node: &Node| node.size_is_doubtful.then(|| node.version.clone());
        let Some(version) = self.table().get(ino).and_then(doubtful) else {
            return;
        };
        self.attributes_forgotten(ino).await;
        if let Some(node) = self.table().get_mut(ino)
            && node.version == version
        {
            node.size_is_doubtful = false;
        }
    }

    /// What the name of an inode leads to now: itself, while it has that name.
    ///
    /// # Errors
    /// `NotFound` when that is nothing; `Stale` when it is no file; what S3 says.
    pub async fn named_now(self: &Arc<Self>, ino: Ino) -> Result<Node> {
        let node = self.node(ino)?;
        if !node.gone {
            return Ok(node);
        }
        let gone = Error::new(ErrorKind::Stale, "what had this name is gone");
        let Some(Link { parent, name }) = node.link else {
            return Err(gone);
        };
        let found = self.lookup_in(parent, &name).await?;
        let found =
            found.ok_or_else(|| Error::new(ErrorKind::NotFound, "the name leads to nothing any more"))?;
        if found.kind == Kind::File {
            Ok(found)
        } else {
            Err(gone)
        }
    }

    /// Programs have the inode `shown` open under the number `ino`.
    pub fn shows(&self, ino: Ino, shown: Ino) {
        if let Some(node) = self.table().get_mut(ino) {
            node.shows = Some(shown);
        }
    }

    /// The inode whose attributes are those of this number: another one where nothing of its own is open any more, and what
    /// came after it was opened in its place.
    #[must_use]
    pub fn shown_by(&self, ino: Ino) -> Ino {
        let table = self.table();
        let node = table.get(ino).filter(|node| node.gone && node.pins == 0);
        let shown = node.and_then(|node| node.shows);
        shown.filter(|shown| table.get(*shown).is_some()).unwrap_or(ino)
    }

    /// The inode of a file that only this mount has.
    #[must_use]
    pub fn local_object(&self, id: &ObjectId) -> Option<Node> {
        self.table()
            .object(id)
            .filter(|node| node.local && !node.gone)
            .cloned()
    }

    /// The inode of an object.
    #[must_use]
    pub fn inode_of(&self, id: &ObjectId) -> Option<Node> {
        self.table().object(id).filter(|node| !node.gone).cloned()
    }

    /// True when the object has an inode.
    #[must_use]
    pub fn is_known(&self, id: &ObjectId) -> bool {
        self.table().object(id).is_some()
    }

    /// True for a file that is not in the bucket yet.
    #[must_use]
    pub fn is_local(&self, ino: Ino) -> bool {
        self.table().get(ino).is_some_and(|node| node.local)
    }

    /// The inode of an object that is known to be in the bucket, as far as that is fresh.
    #[must_use]
    pub fn known_object(&self, id: &ObjectId) -> Option<Node> {
        let table = self.table();
        table
            .object(id)
            .filter(|node| !node.gone && (node.local || self.is_node_fresh(node)))
            .cloned()
    }

    /// The name belongs to somebody else's object: it leads to that one from now on.
    pub fn lost_to_another(&self, ino: Ino) {
        let link = {
            let mut table = self.table();
            let Some(node) = table.get(ino) else { return };
            if node.gone {
                return;
            }
            let link = node.link.clone();
            // Not unlinked: what is written to it from now on is another conflict, never dropped.
            table.detach(ino);
            link
        };
        if let Some(link) = link {
            self.listings.forget_name(&link.parent, &link.name);
            let parent = self.table().number_of_directory(&link.parent);
            self.invalidate_name(parent, &link.name);
        }
    }

    /// The inode's object is at a new key in this version: a copy of the version `source`, which is usually the one that
    /// was known. If it is not, pages and attributes of the inode are not those of its object; of what is to be asked again the
    /// attributes may not be.
    pub fn follow(&self, ino: Ino, source: &ETag, version: Version) {
        let node = {
            let mut table = self.table();
            let Some(node) = table.get_mut(ino) else { return };
            let has_other_bytes = node.version.as_ref().is_none_or(|known| known.etag != *source);
            if has_other_bytes {
                node.pages_of = None;
                node.size_is_doubtful = true;
                node.attributes = Attributes::default();
                node.link_target = None;
            } else if are_pages_current(node) {
                node.pages_of = Some(version.etag.clone());
            }
            if has_other_bytes || node.refresh_due.is_some() {
                // It is a look at the object that tells.
                node.attributes_known = false;
                node.may_carry_attributes = self.settings.attributes != AttributesMode::Listing;
                node.headers = None;
            }
            node.version = Some(version);
            node.is_time_own = true;
            node.listed_time = None;
            node.confirm(rt::now());
            node.clone()
        };
        self.relist(&node);
    }

    /// This mount has rewritten the version `source` of the inode's object as `version`, with other attributes.
    pub fn rewritten(
        &self,
        ino: Ino,
        source: &ETag,
        version: Version,
        attributes: Attributes,
        headers: ObjectHeaders,
    ) {
        if let Some(node) = self.table().get_mut(ino)
            && node.version.as_ref().is_none_or(|known| known.etag != *source)
        {
            // The kernel's pages are of another version than the one that was found.
            node.pages_of = None;
            node.size_is_doubtful = true;
            node.link_target = None;
        }
        self.committed(ino, version, attributes, Some(Arc::new(headers)));
    }

    pub fn moved_object(&self, node: &Node, to: &ObjectId, link: Link) {
        if let Some(old) = &node.link {
            self.listings.remove(&old.parent, &old.name);
        }
        self.table().move_object(node.ino, to, link);
    }

    pub fn moved_directory(&self, from: &DirectoryPlace, to: &DirectoryPlace, link: &Link) {
        self.listings
            .insert(&link.parent, &link.name, Listed::Directory(to.key.clone()));
        let empty = self.listings.get(from).filter(|known| known.entries.is_empty());
        for place in [from, to] {
            self.listings.forget_where(|listed| {
                listed.bucket == place.bucket && listed.key.prefix().starts_with(place.key.prefix())
            });
        }
        if let Some(known) = empty {
            self.listings.insert_empty(to, known.listed_at);
        }
        self.table().move_directory(from, to, link);
    }

    /// Objects below a directory that have inodes.
    #[must_use]
    pub fn known_below(&self, place: &DirectoryPlace) -> Vec<(ObjectId, Ino)> {
        self.table().objects_below(&place.bucket, place.key.prefix())
    }

    /// An inode for a file that a former mount left unsent; `None` outside of what is mounted.
    pub fn adopt_local(&self, id: &ObjectId, attributes: Attributes) -> Option<Ino> {
        let mut parent = match &self.settings.source {
            Source::Bucket { bucket, prefix } if **bucket == *id.bucket => DirectoryPlace {
                bucket: id.bucket.clone(),
                key: names::DirectoryKey::root(prefix),
            },
            Source::AllBuckets => DirectoryPlace {
                bucket: id.bucket.clone(),
                key: names::DirectoryKey::root(""),
            },
            Source::Bucket { .. } => return None,
        };
        let rest = id.key.strip_prefix(parent.key.prefix())?;
        if let Some(slash) = rest.rfind('/') {
            let prefix = format!("{}{}", parent.key.prefix(), &rest[..=slash]);
            parent.key = names::DirectoryKey::root(&prefix);
        }
        let name = match names::name_of_file(&parent.key, &id.key, false)? {
            Named::Here(name) => name.into_owned(),
            Named::Within { .. } => return None,
        };
        Some(self.create_local(&parent, &name, id, attributes).ino)
    }

    /// The directory's last change was now.
    pub fn touch_directory(&self, place: &DirectoryPlace, now: SystemTime) {
        let mut table = self.table();
        let Some(ino) = table.directory(place).map(|node| node.ino) else {
            return;
        };
        if let Some(node) = table.get_mut(ino) {
            node.attributes.mtime = Some(now);
            node.attributes.ctime = Some(now);
            node.is_touched = true;
        }
    }

    /// This mount gave the inode another name.
    pub fn renamed(&self, ino: Ino, now: SystemTime) {
        if let Some(node) = self.table().get_mut(ino) {
            node.renamed_at = Some(now);
        }
    }

    /// The object carries other things now than are remembered.
    pub fn forget_headers(&self, ino: Ino) {
        if let Some(node) = self.table().get_mut(ino) {
            node.headers = None;
        }
    }

    /// Tells the kernel to forget what it knows of an inode.
    pub fn invalidate_attributes(&self, ino: Ino) {
        self.invalidate(Invalidation::Attributes { ino, told: None });
    }

    /// The same, and waits until it has been told, for a moment at most.
    pub async fn attributes_forgotten(&self, ino: Ino) {
        let (told, hearing) = oneshot::channel();
        let told = Some(told);
        self.invalidate(Invalidation::Attributes { ino, told });
        // The sender goes with the message, also where nobody listens. Later is what it is without waiting.
        let _ = rt::timeout(TELLING, hearing).await;
    }

    /// Returns when the kernel has been told of everything that it is to forget by now. It takes that up between requests, so
    /// this may wait for programs that wait for the bucket.
    pub async fn all_told(&self) {
        let (told, hearing) = oneshot::channel();
        self.invalidate(Invalidation::Nothing { told });
        // The sender goes with the message, also where nobody listens.
        let _ = hearing.await;
    }

    #[must_use]
    pub fn parent_of(&self, ino: Ino) -> Ino {
        let table = self.table();
        let link = table.get(ino).and_then(|node| node.link.as_ref());
        link.and_then(|link| table.directory(&link.parent))
            .map_or(ROOT, |parent| parent.ino)
    }

    /// The inode of a listed object whose attributes are not known: what the listing shows, and the mount's defaults.
    #[must_use]
    pub fn settle_guess(&self, place: &DirectoryPlace, item: &Item) -> Option<Node> {
        let Item::Listed {
            name,
            listed: Listed::Object(object),
            at,
        } = item
        else {
            return None;
        };
        let id = ObjectId::new(place.bucket.clone(), object.key.as_str());
        let link = Link {
            parent: place.clone(),
            name: name.as_str().into(),
        };
        Some(self.guess(&id, link, object, *at))
    }

    /// The same; a stat must still look.
    pub(super) fn guess(&self, id: &ObjectId, link: Link, object: &PageObject, at: rt::Instant) -> Node {
        let seen = lookup::seen_in_listing(object, None, at);
        let mut table = self.table();
        let node = table.settle_object(id, link, seen, rt::wall_clock());
        let is_of_it = |version: &Version| version.etag == object.etag;
        node.may_carry_attributes |= node.version.as_ref().is_some_and(is_of_it);
        node.clone()
    }
}
