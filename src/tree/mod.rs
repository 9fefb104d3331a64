//! The namespace: which inode stands for which key, what directories hold, and what of it is known without asking.
//!
//! Difficulties, and who solves them:
//! 1. An inode is a file, not a name, and never two versions of bytes ([`table`]).
//! 2. A name may stand for an object, a directory, both, or neither; the answer must be cheap ([`lookup`]).
//! 3. Directories of any size are read in pages, with what is local mixed in ([`directory`]); of large ones several are on their
//!    way at once ([`pages`]).
//! 4. What is seen of the bucket by accident keeps everything else honest ([`freshness`]).
//! 5. A directory's attributes are on an object that its listing does not show ([`marker`]).
//! 6. Changes of the namespace are conditional on what is there ([`change`], [`rename`]); large objects are copied in parts
//!    ([`part_copies`]).
//!    Whole directories are moved without holding their names in memory ([`moves`]).
//!    What listings do not tell is asked for ahead ([`heads`]), and remembered from mount to mount ([`facts`]).
//! 7. Whoever walks a tree has its listings before they are asked for ([`walks`]).
//! 8. What others change is heard of, where a queue tells ([`notifications`]).
//! 9. Buckets are directories of a virtual root ([`buckets`]).

pub mod buckets;
pub mod change;
pub mod directory;
pub mod facts;
pub mod follow;
pub mod freshness;
pub mod heads;
pub mod lookup;
pub mod marker;
pub mod moves;
pub mod node;
pub mod notifications;
mod pages;
mod part_copies;
mod progress;
mod removal;
pub mod rename;
pub mod table;
pub mod walks;

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::mount_config::{AttributesMode, Source};
use crate::base::names::DirectoryKey;
use crate::base::object::ObjectId;
use crate::cache::attributes::AttributeCache;
use crate::cache::attributes::disk::DiskAttributes;
use crate::cache::listings::{ALLOCATION_BYTES, Listable, Listings};
use crate::plan::entries::{ListingOrder, PageObject};
use crate::rt::{self, Instant};
use crate::s3::Client;
use crate::s3::capabilities::{Feature, Support};
use crate::spool::Spool;
use node::{DirectoryPlace, Ino, Node, Place};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use table::Table;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// What a directory's listing says of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    Object(PageObject),
    Directory(DirectoryKey),
}

impl Listed {
    pub(crate) fn object(&self) -> Option<&PageObject> {
        match self {
            Self::Object(object) => Some(object),
            Self::Directory(_) => None,
        }
    }

    pub(crate) fn directory(&self) -> Option<&DirectoryKey> {
        match self {
            Self::Object(_) => None,
            Self::Directory(key) => Some(key),
        }
    }
}

impl Listable for Listed {
    fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }

    fn heap_bytes(&self) -> usize {
        let allocated = |bytes: usize| bytes + ALLOCATION_BYTES;
        match self {
            Self::Object(object) => {
                let texts = [&object.checksum_algorithm, &object.storage_class];
                let texts = texts.into_iter().flatten().map(|text| allocated(text.len()));
                allocated(object.key.len()) + allocated(object.etag.as_str().len()) + texts.sum::<usize>()
            }
            Self::Directory(key) => allocated(key.prefix().len()),
        }
    }
}

#[derive(Clone)]
pub struct TreeSettings {
    pub source: Source,
    /// `None`: for ever.
    pub metadata_ttl: Option<Duration>,
    pub attributes: AttributesMode,
    pub read_only: bool,
    /// `mkdir` and `rmdir` at the root of all buckets create and delete buckets.
    pub allow_bucket_changes: bool,
    /// True where listings are known to show checksum algorithms (AWS).
    pub listings_show_algorithms: bool,
    /// So many looks at objects run ahead of a walk at a time.
    pub head_parallelism: usize,
    /// What all cached listings may take together.
    pub listing_capacity_bytes: usize,
    /// What mounts of this machine know of attributes.
    pub attributes_on_disk: Option<Arc<DiskAttributes>>,
}

/// Something that the kernel should forget, told from a thread of its own.
#[derive(Debug)]
pub enum Invalidation {
    /// The name in this directory.
    Entry { parent: Ino, name: String },
    /// Attributes of this inode. `told` goes when the kernel has been told.
    Attributes {
        ino: Ino,
        told: Option<oneshot::Sender<()>>,
    },
    /// Attributes and pages of this inode.
    Content { ino: Ino },
    /// Nothing. `told` goes when the kernel has been told of all that came before.
    Nothing { told: oneshot::Sender<()> },
}

/// For [`TreeSettings::listing_capacity_bytes`], where nothing else is known: 400,000 entries, where names are as usual.
pub const LISTING_CAPACITY_BYTES: usize = 160 << 20;
// unwrap: the number is not zero, which the compiler checks.
const ATTRIBUTE_CAPACITY: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

pub struct Tree {
    pub(crate) client: Client,
    pub(crate) settings: TreeSettings,
    table: Mutex<Table>,
    pub(crate) listings: Listings<DirectoryPlace, Listed>,
    pub(crate) attributes: AttributeCache,
    buckets: buckets::BucketCache,
    heat: lookup::Heat,
    pub(crate) heads: heads::Heads,
    walks: walks::Walks,
    part_copies: part_copies::PartCopies,
    /// A listing has shown a checksum algorithm, so an object without the mark was not written by a tool of ours.
    algorithms_seen: AtomicBool,
    /// Copies do not have the ETags of what they are copies of.
    copies_change_tags: AtomicBool,
    /// A listing has shown a key that ends in `_$folder$`.
    legacy_markers_seen: AtomicBool,
    /// Another tool's attributes were seen on an unmarked object: marks prove nothing here.
    foreign_attributes_seen: AtomicBool,
    /// A listing has shown objects.
    objects_listed: AtomicBool,
    /// A directory's marker carried attributes, or this mount has put one: they matter in this bucket.
    markers_matter: AtomicBool,
    /// How many markers were looked for.
    markers_asked: AtomicU32,
    /// Some objects were looked at to find out what there is.
    sampled: AtomicBool,
    listed_markers: marker::ListedMarkers,
    news: notifications::News,
    invalidations: UnboundedSender<Invalidation>,
}

impl Tree {
    #[must_use]
    pub fn new(
        client: Client,
        spool: Arc<Spool>,
        settings: TreeSettings,
        invalidations: UnboundedSender<Invalidation>,
    ) -> Arc<Self> {
        let root = match &settings.source {
            Source::Bucket { bucket, prefix } => Place::Directory(DirectoryPlace {
                bucket: bucket.as_str().into(),
                key: DirectoryKey::root(prefix),
            }),
            Source::AllBuckets => Place::Buckets,
        };
        let copies_change_tags = client.encrypts_otherwise();
        Arc::new(Self {
            client,
            algorithms_seen: AtomicBool::new(settings.listings_show_algorithms),
            copies_change_tags: AtomicBool::new(copies_change_tags),
            legacy_markers_seen: AtomicBool::new(false),
            foreign_attributes_seen: AtomicBool::new(false),
            markers_matter: AtomicBool::new(false),
            objects_listed: AtomicBool::new(false),
            markers_asked: AtomicU32::new(0),
            sampled: AtomicBool::new(false),
            listed_markers: marker::ListedMarkers::default(),
            news: notifications::News::default(),
            table: Mutex::new(Table::new(root, rt::now(), rt::wall_clock())),
            listings: Listings::new(settings.listing_capacity_bytes),
            attributes: AttributeCache::new(ATTRIBUTE_CAPACITY, settings.attributes_on_disk.clone()),
            buckets: buckets::BucketCache::default(),
            heat: lookup::Heat::default(),
            heads: heads::Heads::new(settings.head_parallelism),
            walks: walks::Walks::default(),
            part_copies: part_copies::PartCopies::new(spool),
            settings,
            invalidations,
        })
    }

    pub(crate) fn listing_order(&self) -> ListingOrder {
        match self.client.capabilities().get(Feature::ListOrder) {
            Support::Ignored | Support::Refused => ListingOrder::None,
            Support::Honoured | Support::Unknown => ListingOrder::Bytes,
        }
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        // Every change of the table is complete before anything that can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// `Stale` for a number that the kernel was told to forget.
    pub fn node(&self, ino: Ino) -> Result<Node> {
        self.table()
            .get(ino)
            .cloned()
            .ok_or_else(|| Error::new(ErrorKind::Stale, "the inode is not known any more"))
    }

    /// # Errors
    /// `NotDirectory`, or `Stale` when the inode is forgotten.
    pub fn directory(&self, ino: Ino) -> Result<DirectoryPlace> {
        match self.node(ino)?.place {
            Place::Directory(place) => Ok(place),
            Place::Buckets => Err(Error::new(ErrorKind::NotPermitted, "this is the list of buckets")),
            Place::Object(id) => Err(Error::new(ErrorKind::NotDirectory, "not a directory").on(&id)),
        }
    }

    /// The kernel drops `count` references.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.table().forget(ino, count);
    }

    /// True while something learned at `at` may still be believed.
    pub(crate) fn is_fresh(&self, at: Instant) -> bool {
        self.metadata_ttl()
            .is_none_or(|ttl| rt::now().duration_since(at) < ttl)
    }

    /// How many directories a directory has, where it was listed lately.
    #[must_use]
    pub fn subdirectories(&self, place: &DirectoryPlace) -> Option<usize> {
        let (count, listed_at) = self.listings.directories(place)?;
        self.is_fresh(listed_at).then_some(count)
    }

    /// How long the kernel may believe what was learned at `at`.
    #[must_use]
    pub fn ttl_left(&self, at: Instant) -> Duration {
        match self.metadata_ttl() {
            None => Duration::from_hours(8760),
            Some(ttl) => ttl.saturating_sub(rt::now().duration_since(at)),
        }
    }

    pub(crate) fn invalidate(&self, what: Invalidation) {
        // Nobody listens when there is no kernel (tests) or no longer one.
        let _ = self.invalidations.send(what);
    }

    /// The object changed through this mount: listings follow, and what was asked of it before is not believed.
    pub(crate) fn relist(&self, node: &Node) {
        let Some(link) = &node.link else { return };
        let (Place::Object(id), Some(version)) = (&node.place, &node.version) else {
            return;
        };
        self.heads.forget(id);
        self.listings
            .insert(&link.parent, &link.name, Listed::Object(listed(id, version)));
    }
}

fn listed(id: &ObjectId, version: &crate::base::object::Version) -> PageObject {
    PageObject {
        key: id.key.to_string(),
        size_bytes: version.size_bytes,
        etag: version.etag.clone(),
        last_modified: version.last_modified,
        // What this mount uploads carries the mark.
        checksum_algorithm: Some("CRC32C".to_owned()),
        storage_class: None,
    }
}
