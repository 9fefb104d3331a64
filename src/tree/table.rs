//! Inode numbers.
//!
//! Difficulties:
//! 1. A number starts as a hash of bucket and key, so that it is the same after a remount; a number that is taken
//!    gives way to the next free one.
//! 2. A file whose handles are open keeps its number while another version takes its name: the newcomer gets another
//!    number, so that the kernel never mixes pages or sizes of two versions.
//! 3. A renamed directory takes all that is known below it along.

use super::node::{DirectoryPlace, Ino, Kind, Link, Node, Place, ROOT};
use crate::base::attributes::Attributes;
use crate::base::object::{ETag, ObjectHeaders, ObjectId, Version};
use crate::rt::Instant;
use lru::LruCache;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::SystemTime;

// unwrap: the number is not zero, which the compiler checks.
const MAX_UNSAVED: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

/// What has just been learned of an object.
#[derive(Clone, Debug)]
pub struct Seen {
    pub version: Version,
    pub kind: Kind,
    /// `None`: only a listing was seen.
    pub attributes: Option<Attributes>,
    pub headers: Option<Arc<ObjectHeaders>>,
    pub at: Instant,
}

pub struct Table {
    nodes: HashMap<Ino, Node>,
    objects: BTreeMap<ObjectId, Ino>,
    directories: HashMap<DirectoryPlace, Ino>,
    /// Unlinked here, but their DELETE waits for handles that still read them.
    hidden: HashMap<ObjectId, Ino>,
    /// Directories that lost their last child and wait for a marker.
    emptied: HashSet<DirectoryPlace>,
    /// Attributes of directories that no marker in the bucket carries, for the life of the mount: of those set last.
    unsaved: LruCache<DirectoryPlace, Attributes>,
}

impl Table {
    #[must_use]
    pub fn new(root: Place, now: Instant, today: SystemTime) -> Self {
        let mut table = Self {
            nodes: HashMap::new(),
            objects: BTreeMap::new(),
            directories: HashMap::new(),
            hidden: HashMap::new(),
            emptied: HashSet::new(),
            unsaved: LruCache::new(MAX_UNSAVED),
        };
        if let Place::Directory(place) = &root {
            table.directories.insert(place.clone(), ROOT);
        }
        let mut node = blank(ROOT, root, Kind::Directory, None, now, today);
        node.lookups = 1;
        table.nodes.insert(ROOT, node);
        table
    }

    #[must_use]
    pub fn get(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(&ino)
    }

    pub fn get_mut(&mut self, ino: Ino) -> Option<&mut Node> {
        self.nodes.get_mut(&ino)
    }

    #[must_use]
    pub fn object(&self, id: &ObjectId) -> Option<&Node> {
        self.nodes.get(self.objects.get(id)?)
    }

    #[must_use]
    pub fn directory(&self, place: &DirectoryPlace) -> Option<&Node> {
        self.nodes.get(self.directories.get(place)?)
    }

    pub fn directory_mut(&mut self, place: &DirectoryPlace) -> Option<&mut Node> {
        self.nodes.get_mut(self.directories.get(place)?)
    }

    /// The number that a lookup of this object would answer now, without making an inode.
    #[must_use]
    pub fn number_of_object(&self, id: &ObjectId) -> Ino {
        self.objects
            .get(id)
            .copied()
            .unwrap_or_else(|| hash(&id.bucket, &id.key, b'o'))
    }

    #[must_use]
    pub fn number_of_directory(&self, place: &DirectoryPlace) -> Ino {
        self.directories
            .get(place)
            .copied()
            .unwrap_or_else(|| directory_hash(place))
    }

    /// The inode of an object that the bucket has in version `seen`.
    pub fn settle_object(&mut self, id: &ObjectId, link: Link, seen: Seen, today: SystemTime) -> &mut Node {
        let known = self.objects.get(id).copied();
        let is_outdated = known
            .and_then(|ino| self.nodes.get(&ino))
            .is_some_and(|node| node.commits > 0 || seen.at < node.checked_at && node.version.is_some());
        let ino = match known {
            // What was learned since the bucket was asked counts: a commit may have come between, or be coming.
            Some(ino) if is_outdated => ino,
            Some(ino) if self.may_become(ino, &seen) => ino,
            Some(ino) => {
                self.detach(ino);
                let successor = self.add_object(id, seen.kind, link.clone(), seen.at, today);
                if let Some(node) = self.nodes.get_mut(&successor) {
                    node.displaced = Some(ino);
                }
                successor
            }
            None => self.add_object(id, seen.kind, link.clone(), seen.at, today),
        };
        let node = self
            .nodes
            .get_mut(&ino)
            .unwrap_or_else(|| unreachable!("the number was just found or made"));
        node.link = Some(link);
        let same = node
            .version
            .as_ref()
            .is_some_and(|known| known.etag == seen.version.etag);
        if !node.local && (same || !is_outdated) {
            refresh(node, seen);
        }
        node
    }

    /// Whether the inode may stand for the version seen: always, unless handles are bound to another one.
    fn may_become(&self, ino: Ino, seen: &Seen) -> bool {
        self.nodes.get(&ino).is_some_and(|node| {
            let same = node.version.as_ref().is_some_and(|v| v.etag == seen.version.etag);
            node.local || same || (node.pins == 0 && node.kind == seen.kind)
        })
    }

    fn add_object(&mut self, id: &ObjectId, kind: Kind, link: Link, now: Instant, today: SystemTime) -> Ino {
        let ino = self.free_number(hash(&id.bucket, &id.key, b'o'));
        self.objects.insert(id.clone(), ino);
        self.nodes.insert(
            ino,
            blank(ino, Place::Object(id.clone()), kind, Some(link), now, today),
        );
        ino
    }

    /// A file that only this mount knows; an inode that had the name before is detached.
    pub fn create_object(
        &mut self,
        id: &ObjectId,
        link: Link,
        attributes: Attributes,
        now: Instant,
        today: SystemTime,
    ) -> &mut Node {
        if let Some(old) = self.objects.get(id).copied() {
            self.detach(old);
        }
        let ino = self.add_object(id, Kind::File, link, now, today);
        let node = self
            .nodes
            .get_mut(&ino)
            .unwrap_or_else(|| unreachable!("the number was just made"));
        node.local = true;
        node.attributes = attributes;
        node.attributes_known = true;
        node
    }

    pub fn settle_directory(
        &mut self,
        place: &DirectoryPlace,
        link: Option<Link>,
        seen_at: Instant,
        today: SystemTime,
    ) -> &mut Node {
        let ino = if let Some(ino) = self.directories.get(place).copied() {
            ino
        } else {
            let ino = self.free_number(directory_hash(place));
            self.directories.insert(place.clone(), ino);
            let mut node = blank(
                ino,
                Place::Directory(place.clone()),
                Kind::Directory,
                link.clone(),
                seen_at,
                today,
            );
            node.attributes = self.unsaved(place).unwrap_or_default();
            self.nodes.insert(ino, node);
            ino
        };
        let node = self
            .nodes
            .get_mut(&ino)
            .unwrap_or_else(|| unreachable!("the number was just found or made"));
        if link.is_some() {
            node.link = link;
        }
        node.confirm(seen_at);
        node
    }

    /// The directory's attributes, which the bucket does not carry, are these.
    pub fn keep_unsaved(&mut self, place: &DirectoryPlace, attributes: Attributes) {
        self.unsaved.put(place.clone(), attributes);
    }

    pub fn forget_unsaved(&mut self, place: &DirectoryPlace) {
        self.unsaved.pop(place);
    }

    #[must_use]
    pub fn unsaved(&self, place: &DirectoryPlace) -> Option<Attributes> {
        self.unsaved.peek(place).copied()
    }

    /// As [`Table::detach`], by this mount's own doing.
    pub fn unlink(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.unlinked = true;
            if let Place::Directory(place) = &node.place {
                self.unsaved.pop(place);
            }
        }
        self.detach(ino);
    }

    /// No name leads to this inode any more; it lives on while the kernel or a handle refers to it.
    pub fn detach(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        node.gone = true;
        match node.place.clone() {
            Place::Object(id) => {
                if self.objects.get(&id) == Some(&ino) {
                    self.objects.remove(&id);
                }
            }
            Place::Directory(place) => {
                if self.directories.get(&place) == Some(&ino) {
                    self.directories.remove(&place);
                }
            }
            Place::Buckets => {}
        }
        self.reap(ino);
    }

    /// False when the inode is gone.
    pub fn count_lookup(&mut self, ino: Ino) -> bool {
        let node = self.nodes.get_mut(&ino);
        node.map(|node| node.lookups += 1).is_some()
    }

    /// How many inodes there are.
    #[must_use]
    pub fn inode_count(&self) -> usize {
        self.nodes.len()
    }

    pub fn forget(&mut self, ino: Ino, count: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_sub(count);
            self.reap(ino);
        }
    }

    pub fn pin(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.pins += 1;
        }
    }

    /// As [`Table::pin`], of what was seen in the version `seen`: false, and nothing done, when the inode stands for another one
    /// by now, or its name leads elsewhere.
    pub fn pin_version(&mut self, ino: Ino, seen: Option<&ETag>) -> bool {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return false;
        };
        let stands_for = node.version.as_ref().map(|version| &version.etag);
        let is_right = !node.gone && stands_for == seen;
        node.pins += u32::from(is_right);
        is_right
    }

    pub fn unpin(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.pins = node.pins.saturating_sub(1);
            self.reap(ino);
        }
    }

    /// Drops an inode that nobody refers to. One that is not in the bucket yet stays.
    fn reap(&mut self, ino: Ino) {
        let Some(node) = self.nodes.get(&ino) else { return };
        if ino == ROOT || node.lookups > 0 || node.pins > 0 || (node.local && !node.gone) {
            return;
        }
        if let Place::Directory(place) = &node.place
            && !node.gone
            && self.emptied.contains(place)
        {
            return;
        }
        match node.place.clone() {
            Place::Object(id) if self.objects.get(&id) == Some(&ino) => {
                self.objects.remove(&id);
            }
            Place::Directory(place) if self.directories.get(&place) == Some(&ino) => {
                self.directories.remove(&place);
            }
            _ => {}
        }
        self.nodes.remove(&ino);
    }

    /// The directory exists without anything in the bucket, until [`Table::kept`].
    pub fn emptied(&mut self, place: &DirectoryPlace) {
        self.emptied.insert(place.clone());
    }

    /// The bucket says again whether the directory exists.
    pub fn kept(&mut self, place: &DirectoryPlace) {
        if self.emptied.remove(place)
            && let Some(ino) = self.directories.get(place).copied()
        {
            self.reap(ino);
        }
    }

    /// The inode of a directory that waits for its marker.
    #[must_use]
    pub fn emptied_directory(&self, place: &DirectoryPlace) -> Option<&Node> {
        self.emptied
            .contains(place)
            .then(|| self.directory(place))
            .flatten()
            .filter(|node| !node.gone)
    }

    /// True when a directory below this one waits for its marker.
    #[must_use]
    pub fn has_emptied_below(&self, place: &DirectoryPlace) -> bool {
        self.emptied.iter().any(|emptied| {
            emptied != place
                && emptied.bucket == place.bucket
                && emptied
                    .key
                    .listing_prefix()
                    .starts_with(&*place.key.listing_prefix())
        })
    }

    /// Directories in `parent` that wait for their markers.
    #[must_use]
    pub fn emptied_in(&self, parent: &DirectoryPlace) -> Vec<Node> {
        let nodes = self.emptied.iter().filter_map(|place| self.directory(place));
        let here = |node: &&Node| !node.gone && node.link.as_ref().is_some_and(|link| link.parent == *parent);
        nodes.filter(here).cloned().collect()
    }

    pub fn hide(&mut self, id: ObjectId, ino: Ino) {
        self.hidden.insert(id, ino);
    }

    /// `owner` does not need the object any more. One that another inode hides under the same name stays hidden.
    pub fn unhide(&mut self, id: &ObjectId, owner: Ino) {
        if self.hidden.get(id) == Some(&owner) {
            self.hidden.remove(id);
        }
    }

    #[must_use]
    pub fn is_hidden(&self, id: &ObjectId) -> bool {
        self.hidden.contains_key(id)
    }

    /// The inode whose handles keep a hidden object from being deleted.
    #[must_use]
    pub fn hidden_owner(&self, id: &ObjectId) -> Option<Ino> {
        self.hidden.get(id).copied()
    }

    #[must_use]
    pub fn hidden_below(&self, bucket: &str, prefix: &str) -> Vec<ObjectId> {
        self.hidden
            .keys()
            .filter(|id| &*id.bucket == bucket && id.key.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// Objects at or below a prefix that have inodes, in key order.
    #[must_use]
    pub fn objects_below(&self, bucket: &Arc<str>, prefix: &str) -> Vec<(ObjectId, Ino)> {
        let from = ObjectId::new(bucket.clone(), prefix);
        self.objects
            .range(from..)
            .take_while(|(id, _)| id.bucket == *bucket && id.key.starts_with(prefix))
            .map(|(id, ino)| (id.clone(), *ino))
            .collect()
    }

    /// Buckets of which any directory is known.
    #[must_use]
    pub fn known_buckets(&self) -> HashSet<Arc<str>> {
        self.directories
            .keys()
            .map(|place| place.bucket.clone())
            .collect()
    }

    /// What is believed of the object `file`, and of everything at and below `prefix`, is to be asked again. Returns the
    /// names that the kernel knows of these.
    pub fn refresh(
        &mut self,
        bucket: &str,
        prefix: &str,
        file: Option<&str>,
        now: Instant,
    ) -> Vec<(Ino, Arc<str>)> {
        let is_meant = |place: &Place| match place {
            Place::Buckets => false,
            Place::Directory(place) => *place.bucket == *bucket && place.key.prefix().starts_with(prefix),
            Place::Object(id) => {
                *id.bucket == *bucket && (id.key.starts_with(prefix) || Some(&*id.key) == file)
            }
        };
        let mut links = Vec::new();
        for node in self.nodes.values_mut().filter(|node| is_meant(&node.place)) {
            node.refresh_due = Some(now);
            node.marker_at = None;
            if node.lookups > 0 {
                links.extend(node.link.clone());
            }
        }
        let number = |link: Link| (self.number_of_directory(&link.parent), link.name);
        links.into_iter().map(number).collect()
    }

    /// What is believed of one inode is to be asked again. Returns the name that the kernel knows of it.
    pub fn doubt(&mut self, ino: Ino, now: Instant) -> Option<(Ino, Arc<str>)> {
        let node = self.nodes.get_mut(&ino)?;
        node.refresh_due = Some(now);
        node.marker_at = None;
        let link = node.link.clone().filter(|_| node.lookups > 0)?;
        Some((self.number_of_directory(&link.parent), link.name))
    }

    /// Listings show the inode's version with this time.
    pub fn note_listed_time(&mut self, ino: Ino, etag: &ETag, listed_time: SystemTime) {
        if let Some(node) = self.nodes.get_mut(&ino)
            && node.version.as_ref().is_some_and(|version| version.etag == *etag)
            && node.is_put_again(listed_time)
        {
            node.listed_time = Some(listed_time);
        }
    }

    /// Files of one directory that only this mount knows.
    #[must_use]
    pub fn local_in(&self, parent: &DirectoryPlace) -> Vec<Node> {
        self.objects_below(&parent.bucket, parent.key.prefix())
            .into_iter()
            .filter_map(|(_, ino)| self.nodes.get(&ino))
            .filter(|node| node.local && !node.gone)
            .filter(|node| node.link.as_ref().is_some_and(|link| link.parent == *parent))
            .cloned()
            .collect()
    }

    /// True when something below the prefix is known to this mount only.
    #[must_use]
    pub fn has_local_below(&self, bucket: &Arc<str>, prefix: &str) -> bool {
        self.objects_below(bucket, prefix)
            .iter()
            .any(|(_, ino)| self.nodes.get(ino).is_some_and(|node| node.local && !node.gone))
    }

    /// The object's inode follows it to another key. What had that key before is detached.
    pub fn move_object(&mut self, ino: Ino, to: &ObjectId, link: Link) {
        if let Some(old) = self.objects.get(to).copied().filter(|old| *old != ino) {
            self.unlink(old);
        }
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        if let Place::Object(from) = &node.place
            && self.objects.get(from) == Some(&ino)
        {
            self.objects.remove(from);
        }
        node.place = Place::Object(to.clone());
        node.link = Some(link);
        self.objects.insert(to.clone(), ino);
    }

    /// All inodes below a renamed directory follow it, the directory's own included.
    pub fn move_directory(&mut self, from: &DirectoryPlace, to: &DirectoryPlace, link: &Link) {
        if let Some(old) = self.directories.get(to).copied() {
            self.detach(old);
        }
        self.move_objects_below(from, to);
        self.move_unsaved_below(from, to);
        let moved: Vec<(DirectoryPlace, Ino)> = self
            .directories
            .iter()
            .filter(|(place, _)| {
                place.bucket == from.bucket && place.key.prefix().starts_with(from.key.prefix())
            })
            .map(|(place, ino)| (place.clone(), *ino))
            .collect();
        for (place, ino) in moved {
            self.directories.remove(&place);
            let new_place = rebase(&place, from, to);
            let Some(node) = self.nodes.get_mut(&ino) else {
                continue;
            };
            node.place = Place::Directory(new_place.clone());
            if place == *from {
                node.link = Some(link.clone());
            } else if let Some(old) = &mut node.link {
                old.parent = rebase(&old.parent, from, to);
            }
            self.directories.insert(new_place, ino);
        }
    }

    fn move_unsaved_below(&mut self, from: &DirectoryPlace, to: &DirectoryPlace) {
        let is_below = |place: &&DirectoryPlace| {
            place.bucket == from.bucket && place.key.prefix().starts_with(from.key.prefix())
        };
        self.unsaved.pop(to);
        let moved = self.unsaved.iter().map(|(place, _)| place).filter(is_below);
        let moved: Vec<DirectoryPlace> = moved.cloned().collect();
        // The oldest stays the oldest.
        for place in moved.iter().rev() {
            if let Some(attributes) = self.unsaved.pop(place) {
                self.unsaved.put(rebase(place, from, to), attributes);
            }
        }
    }

    fn move_objects_below(&mut self, from: &DirectoryPlace, to: &DirectoryPlace) {
        for (id, ino) in self.objects_below(&from.bucket, from.key.prefix()) {
            self.objects.remove(&id);
            let rest = &id.key[from.key.prefix().len()..];
            let new_id = ObjectId::new(to.bucket.clone(), format!("{}{rest}", to.key.prefix()));
            if let Some(node) = self.nodes.get_mut(&ino) {
                node.place = Place::Object(new_id.clone());
                if let Some(link) = &mut node.link {
                    link.parent = rebase(&link.parent, from, to);
                }
            }
            self.objects.insert(new_id, ino);
        }
    }

    fn free_number(&self, wanted: Ino) -> Ino {
        let mut ino = wanted.max(ROOT + 1);
        while self.nodes.contains_key(&ino) {
            ino = ino.wrapping_add(1).max(ROOT + 1);
        }
        ino
    }
}

fn rebase(place: &DirectoryPlace, from: &DirectoryPlace, to: &DirectoryPlace) -> DirectoryPlace {
    DirectoryPlace {
        bucket: to.bucket.clone(),
        key: place.key.rebased(&from.key, &to.key),
    }
}

fn refresh(node: &mut Node, seen: Seen) {
    let same_version = node.version.as_ref().is_some_and(|v| v.etag == seen.version.etag);
    let has_other_size = |known: &Version| known.size_bytes != seen.version.size_bytes;
    let is_known_otherwise = node
        .version
        .as_ref()
        .is_some_and(|known| !same_version || has_other_size(known));
    node.size_is_doubtful |= is_known_otherwise && node.lookups > 0;
    let mut seen = seen;
    if !same_version {
        node.attributes = Attributes::default();
        node.attributes_known = false;
        node.may_carry_attributes = false;
        node.headers = None;
        node.link_target = None;
        node.listed_time = None;
    } else if seen.headers.is_none() && node.is_put_again(seen.version.last_modified) {
        // With other attributes, as far as anybody knows.
        node.attributes_known = seen.attributes.is_some();
        node.headers = None;
    } else if seen.headers.is_none() && seen.version.version_id.is_none() {
        // Listings do not tell it.
        let known = node.version.as_ref();
        seen.version.version_id = known.and_then(|known| known.version_id.clone());
    }
    node.kind = seen.kind;
    if let Some(attributes) = seen.attributes {
        node.attributes = attributes;
        node.attributes_known = true;
    }
    if seen.headers.is_some() {
        node.headers = seen.headers;
    }
    if !same_version || seen.at >= node.checked_at {
        node.version = Some(seen.version);
        node.is_time_own = false;
    }
    node.confirm(seen.at);
}

fn blank(ino: Ino, place: Place, kind: Kind, link: Option<Link>, now: Instant, today: SystemTime) -> Node {
    Node {
        ino,
        place,
        kind,
        link,
        version: None,
        attributes: Attributes::default(),
        attributes_known: false,
        is_time_own: false,
        listed_time: None,
        may_carry_attributes: false,
        headers: None,
        marker_at: None,
        is_touched: false,
        renamed_at: None,
        checked_at: now,
        refresh_due: None,
        first_seen: today,
        link_target: None,
        pins: 0,
        local: false,
        gone: false,
        unlinked: false,
        commits: 0,
        pages_of: None,
        size_is_doubtful: false,
        shows: None,
        has_last_page: false,
        displaced: None,
        lookups: 0,
    }
}

#[cfg(test)]
mod tests;

fn directory_hash(place: &DirectoryPlace) -> Ino {
    hash(&place.bucket, &format!("{:?}", place.key), b'd')
}

/// Equal for equal places, also in another process: CRC-64 is enough, as a taken number gives way.
fn hash(bucket: &str, key: &str, kind: u8) -> Ino {
    let mut text = Vec::with_capacity(bucket.len() + key.len() + 2);
    text.extend_from_slice(bucket.as_bytes());
    text.push(b'/');
    text.extend_from_slice(key.as_bytes());
    text.push(kind);
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &text)
}
