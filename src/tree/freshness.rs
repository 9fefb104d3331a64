//! What was seen of an object by whoever looked at it, brought to the table, the listings and the kernel.

use super::heads::Shown;
use super::lookup::is_refusal;
use super::node::{DirectoryPlace, Ino, Node, Place, unix_s};
use super::{Invalidation, Tree};
use crate::base::attributes::Attributes;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::KIB;
use crate::base::mount_config::Source;
use crate::base::names::{self, DirectoryKey};
use crate::base::object::{ETag, ObjectHeaders, ObjectId, ObjectInfo, Version};
use crate::cache::listings::Answer;
use crate::rt;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

/// Of the kernel's page cache, mostly: where they are larger a file is looked at once more.
const PAGE_BYTES: u64 = 4 * KIB;

/// What a look at an object meant for the inode that led there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The inode's version is the newest.
    Same,
    /// The inode now stands for a newer version; the kernel must look again before it trusts the size.
    Changed,
    /// The inode has open handles on an older version; the name leads to another inode now.
    Replaced,
    /// The inode's version is newer than what the bucket said: it was asked before that one was committed.
    Outdated,
}

impl Tree {
    /// `info` is what the bucket had at the key of `ino` when it was asked.
    pub fn saw(&self, ino: Ino, info: &ObjectInfo, asked_at: rt::Instant) -> Freshness {
        let Some(node) = self.table().get(ino).cloned() else {
            return Freshness::Replaced;
        };
        let (Place::Object(id), Some(link)) = (&node.place, node.link.clone()) else {
            return Freshness::Replaced;
        };
        let same = node
            .version
            .as_ref()
            .is_some_and(|version| version.etag == info.version.etag);
        let settled = self.settle_info(id, link, info, asked_at);
        if settled
            .version
            .as_ref()
            .is_some_and(|version| version.etag != info.version.etag)
        {
            return Freshness::Outdated;
        }
        if !same {
            self.relist(&settled);
        }
        self.tell_of_change(&node, &settled);
        // What was taken for a regular file may be none: the kernel must look again, as after a change.
        let is_as_known = same && settled.kind == node.kind;
        match (is_as_known, settled.ino == ino) {
            (true, _) => Freshness::Same,
            (false, true) => Freshness::Changed,
            (false, false) => Freshness::Replaced,
        }
    }

    /// The kernel forgets what it believes of an inode that is known to be another one now, or to have changed: it may
    /// believe that for long.
    fn tell_of_change(&self, before: &Node, now: &Node) {
        let shown = |node: &Node| {
            let version = node.version.as_ref();
            let version = version.map(|version| (version.etag.clone(), unix_s(version.last_modified)));
            (version, node.attributes, node.kind)
        };
        if before.lookups == 0 || before.is_guess() && before.ino == now.ino {
            // Guesses have no time to live.
            return;
        }
        if before.ino == now.ino && before.kind == now.kind {
            if shown(before) != shown(now) {
                self.invalidate_attributes(now.ino);
            }
        } else if let Some(link) = &before.link {
            let parent = self.table().number_of_directory(&link.parent);
            self.invalidate_name(parent, &link.name);
        }
    }

    /// The bucket has another version of this inode's object than is known, or none any more: that is to be asked.
    pub fn is_outdated(&self, ino: Ino) {
        let Some(node) = self.table().get(ino).cloned() else {
            return;
        };
        if node.gone || node.local {
            // Its name leads elsewhere, or to what only this mount has.
            return;
        }
        if let Some(link) = &node.link {
            self.listings.forget_name(&link.parent, &link.name);
        }
        self.doubt([ino]);
    }

    /// Whatever is believed of these inodes, here and by the kernel, is to be asked again. What listings say of them is the
    /// caller's business.
    fn doubt(&self, inodes: impl IntoIterator<Item = Ino>) {
        let now = rt::now();
        let mut known = Vec::new();
        {
            let mut table = self.table();
            for ino in inodes {
                known.extend(table.doubt(ino, now));
                match table.get(ino).map(|node| &node.place) {
                    Some(Place::Object(id)) => self.heads.forget(id),
                    Some(Place::Directory(place)) => {
                        self.heads.forget(&Self::marker_id(place));
                        self.listed_markers.forget(place);
                    }
                    Some(Place::Buckets) | None => {}
                }
            }
        }
        for (parent, name) in known {
            self.invalidate_name(parent, &name);
        }
    }

    /// The bucket has nothing at the key of `ino` any more (another host's doing).
    pub fn saw_nothing(&self, ino: Ino) {
        let Some(node) = self.table().get(ino).cloned() else {
            return;
        };
        self.table().detach(ino);
        let Some(link) = node.link else { return };
        self.listings.remove(&link.parent, &link.name);
        let parent = self.table().number_of_directory(&link.parent);
        self.invalidate(Invalidation::Entry {
            parent,
            name: link.name.to_string(),
        });
    }

    /// The inode as `stat` shows it: from memory while that is fresh, else from a HEAD.
    ///
    /// # Errors
    /// `NotFound` when another host removed it, and what S3 says.
    pub async fn current(self: &Arc<Self>, ino: Ino) -> Result<Node> {
        let node = self.node(ino)?;
        let Some(id) = node.object().cloned() else {
            return self.with_attributes(node).await;
        };
        let is_guess = node.is_guess() && !node.gone;
        if node.local || node.gone || !is_guess && (node.pins > 0 || self.is_node_fresh(&node)) {
            return Ok(node);
        }
        let asked_at = rt::now();
        let looked = if is_guess {
            let shown = node.version.as_ref().map(|version| Shown {
                etag: &version.etag,
                last_modified: version.last_modified,
                at: node.checked_at,
            });
            self.head_in_row(&id, node.link.as_ref(), shown).await
        } else {
            self.client.head(&id).await.map(|info| (info, asked_at))
        };
        match looked {
            Ok((info, asked_at)) => match self.saw(ino, &info, asked_at) {
                Freshness::Replaced => Err(Error::new(ErrorKind::Stale, "the object was replaced").on(&id)),
                Freshness::Same | Freshness::Changed | Freshness::Outdated => {
                    let now = self.node(ino)?;
                    if now.kind == node.kind {
                        return Ok(now);
                    }
                    // The kernel takes no other type for the same inode, unless it looks the name up again.
                    Err(Error::new(ErrorKind::Stale, "it is of another type than it seemed to be").on(&id))
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.saw_nothing(ino);
                Err(error)
            }
            Err(error) if is_guess && is_refusal(&error) => {
                tracing::debug!(%error, "shown as the file that its listing says it is");
                if let Some(node) = self.table().get_mut(ino) {
                    node.may_carry_attributes = false;
                }
                self.node(ino)
            }
            Err(error) => Err(error),
        }
    }

    /// Forgets what is believed about a path within the mount and everything below it: whoever looks next asks the
    /// bucket, also with `--metadata-ttl forever`. What is open stays as it is, and so does what is not sent yet.
    ///
    /// # Errors
    /// `NotFound` or a name error when nothing can have this path.
    pub fn refresh(&self, path: &Path) -> Result<()> {
        let mut names = path.iter();
        let mut place = match &self.settings.source {
            Source::Bucket { bucket, prefix } => DirectoryPlace {
                bucket: bucket.as_str().into(),
                key: DirectoryKey::root(prefix),
            },
            Source::AllBuckets => match names.next().map(|name| name.to_str()) {
                None => {
                    self.refresh_all();
                    return Ok(());
                }
                Some(None) => return Err(Error::new(ErrorKind::NotFound, "no such bucket")),
                Some(Some(bucket)) => DirectoryPlace {
                    bucket: bucket.into(),
                    key: DirectoryKey::root(""),
                },
            },
        };
        let mut file = None;
        let mut last = None;
        for name in names {
            let resolved = names::resolve(&place.key, name)
                .map_err(|error| Error::new(error.on_lookup(), error.to_string()))?;
            if let Some(name) = name.to_str() {
                self.listings.forget_name(&place, name);
                last = Some((place.clone(), name));
            }
            file = resolved.file.map(|file| file.key);
            let Some(key) = resolved.directory else { break };
            place.key = key;
        }
        self.refresh_below(&place, file.as_deref());
        if let Some((parent, name)) = last {
            // That there is nothing of the name is believed, too.
            let parent = self.table().number_of_directory(&parent);
            self.invalidate_name(parent, name);
        }
        Ok(())
    }

    /// Somebody else has put something at a key, or removed it: what is believed of that object, and of the directories that
    /// come or go with it, is to be asked again. False when nothing was believed that the change touches.
    pub(super) fn forget_object(&self, id: &ObjectId, root: DirectoryPlace, is_removal: bool) -> bool {
        let is_marker = id.key.ends_with('/');
        let (names, own) = way_to(root, &id.key);
        let object = self.table().object(id).map(|node| node.ino);
        let parent = names
            .last()
            .map(|(place, name)| self.listings.answer(place, name));
        if is_removal && !is_marker && object.is_none() && matches!(parent, Some(Answer::Absent(_))) {
            return false;
        }
        let mut doubtful: Vec<Ino> = Vec::new();
        for (index, (place, name)) in names.iter().enumerate() {
            let is_file = index + 1 == names.len() && !is_marker;
            let is_there = matches!(self.listings.answer(place, name), Answer::Present(..));
            if is_removal || is_file || !is_there {
                self.listings.forget_name(place, name);
            }
            if is_removal && index > 0 {
                // It may be gone with the last object in it.
                doubtful.extend(self.table().directory(place).map(|node| node.ino));
            }
        }
        if let Some(own) = own.filter(|_| is_marker) {
            self.listings.forget(&own);
            self.listed_markers.forget(&own);
            doubtful.extend(self.table().directory(&own).map(|node| node.ino));
        }
        // Whoever made it meanwhile may have done that from the listing that was just forgotten.
        doubtful.extend(self.table().object(id).map(|node| node.ino));
        // Also where there is no inode yet.
        self.heads.forget(id);
        self.doubt(doubtful);
        true
    }

    /// What listings say of an object, and of the directories on the way to it, is to be asked again.
    pub(super) fn forget_way_to(&self, id: &ObjectId) {
        let root = match &self.settings.source {
            Source::Bucket { prefix, .. } => DirectoryKey::root(prefix),
            Source::AllBuckets => DirectoryKey::root(""),
        };
        let root = DirectoryPlace {
            bucket: id.bucket.clone(),
            key: root,
        };
        let (names, own) = way_to(root, &id.key);
        for (place, name) in names {
            self.listings.forget_name(&place, &name);
        }
        if let Some(own) = own {
            self.listings.forget(&own);
        }
    }

    fn refresh_all(&self) {
        self.forget_buckets();
        let buckets = self.table().known_buckets();
        for bucket in buckets {
            let key = DirectoryKey::root("");
            self.refresh_below(&DirectoryPlace { bucket, key }, None);
        }
    }

    /// Forgets what is known of `file` beside the directory, of the directory and of everything below it.
    pub fn refresh_below(&self, place: &DirectoryPlace, file: Option<&str>) {
        let prefix = place.key.prefix();
        self.listings
            .forget_where(|listed| listed.bucket == place.bucket && listed.key.prefix().starts_with(prefix));
        self.listed_markers
            .forget_where(|listed| listed.bucket == place.bucket && listed.key.prefix().starts_with(prefix));
        let is_meant = |key: &str| key.starts_with(prefix) || Some(key) == file;
        self.heads
            .forget_where(|id| id.bucket == place.bucket && is_meant(&id.key));
        let known = self.table().refresh(&place.bucket, prefix, file, rt::now());
        for (parent, name) in known {
            let name = name.to_string();
            self.invalidate(Invalidation::Entry { parent, name });
        }
    }

    /// True while what is known of the inode may be believed.
    pub(crate) fn is_node_fresh(&self, node: &Node) -> bool {
        node.refresh_due.is_none() && self.is_fresh(node.checked_at)
    }

    /// This mount has put `version` at the inode's key.
    pub fn committed(
        &self,
        ino: Ino,
        version: Version,
        attributes: Attributes,
        headers: Option<Arc<ObjectHeaders>>,
    ) {
        let node = {
            let mut table = self.table();
            let Some(node) = table.get_mut(ino) else { return };
            node.local = false;
            // What programs wrote through the kernel is in its pages, so they are those of the new version.
            if node.pages_of == node.version.as_ref().map(|version| version.etag.clone()) {
                node.pages_of = Some(version.etag.clone());
            }
            let size_bytes = node.version.as_ref().map(|version| version.size_bytes);
            if size_bytes != Some(version.size_bytes) {
                node.has_last_page = version.size_bytes.is_multiple_of(PAGE_BYTES);
            }
            node.version = Some(version);
            node.is_time_own = true;
            node.listed_time = None;
            node.attributes = attributes;
            node.attributes_known = true;
            if headers.is_some() {
                node.headers = headers;
            }
            node.confirm(rt::now());
            node.clone()
        };
        if let (Some(id), Some(version)) = (node.object(), &node.version) {
            let Version {
                etag,
                size_bytes,
                last_modified,
                ..
            } = version;
            self.attributes.insert(
                id,
                etag,
                *size_bytes,
                *last_modified,
                attributes,
                self.client.server_time(),
            );
        }
        if !node.gone {
            self.relist(&node);
        }
    }

    /// A commit of the inode's content begins, or is over.
    pub fn committing(&self, ino: Ino, is_under_way: bool) {
        if let Some(node) = self.table().get_mut(ino) {
            node.commits = if is_under_way {
                node.commits + 1
            } else {
                node.commits.saturating_sub(1)
            };
        }
    }

    /// Attributes that this mount holds for an inode whose object does not (or not yet) carry them.
    pub fn assume_attributes(&self, ino: Ino, attributes: Attributes) {
        if let Some(node) = self.table().get_mut(ino) {
            node.attributes = attributes;
            node.attributes_known = true;
        }
    }

    pub fn remember_link_target(&self, ino: Ino, target: Arc<[u8]>) {
        if let Some(node) = self.table().get_mut(ino) {
            node.link_target = Some(target);
        }
    }

    /// A handle was opened on the inode.
    pub fn pin(&self, ino: Ino) {
        self.table().pin(ino);
    }

    /// The inode has a content of the version `seen` (`None`: it is in this mount only), and keeps to that version. False, and
    /// nothing done, when it stands for another one by now.
    pub fn pin_version(&self, ino: Ino, seen: Option<&ETag>) -> bool {
        self.table().pin_version(ino, seen)
    }

    /// A handle was closed.
    pub fn unpin(&self, ino: Ino) {
        self.table().unpin(ino);
    }

    /// The kernel is told of the inode once more. False when there is no such inode (any more).
    pub fn count_lookup(&self, ino: Ino) -> bool {
        self.table().count_lookup(ino)
    }

    /// How many inodes are known.
    #[must_use]
    pub fn inode_count(&self) -> usize {
        self.table().inode_count()
    }

    /// Looks at the inode's object now, whatever is remembered.
    ///
    /// # Errors
    /// What S3 says; `NotFound` also makes the inode forgotten.
    pub async fn look(&self, node: &Node) -> Result<ObjectInfo> {
        let Some(id) = node.object() else {
            return Err(Error::new(ErrorKind::IsDirectory, "a directory has no object"));
        };
        let asked_at = rt::now();
        let looked = self.client.head(id).await;
        match &looked {
            Ok(info) => {
                self.saw(node.ino, info, asked_at);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => self.saw_nothing(node.ino),
            Err(_) => {}
        }
        looked
    }
}

/// The names that lead from `root` to what has this key, each with the directory that it is in; and the directory that the
/// last one is, if it is one.
fn way_to(root: DirectoryPlace, key: &str) -> (Vec<(DirectoryPlace, String)>, Option<DirectoryPlace>) {
    let path = if key.ends_with('/') {
        names::path_of_directory(&root.key, key)
    } else {
        names::path_of_file(&root.key, key, false)
    };
    let mut way = Vec::new();
    let mut place = Some(root);
    for name in path.unwrap_or_default() {
        let Some(within) = place else { break };
        let resolved = names::resolve(&within.key, OsStr::new(&name));
        let directory = resolved.ok().and_then(|resolved| resolved.directory);
        place = directory.map(|key| DirectoryPlace {
            bucket: within.bucket.clone(),
            key,
        });
        way.push((within, name));
    }
    (way, place)
}
