//! One inode: what it stands for and what is known of it.

use crate::base::attributes::Attributes;
use crate::base::names::DirectoryKey;
use crate::base::object::{ETag, ObjectHeaders, ObjectId, Version};
use crate::rt::Instant;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The kernel's number of a file.
pub type Ino = u64;

/// FUSE's number of the root directory (`FUSE_ROOT_ID`, `linux/fuse.h`).
pub const ROOT: Ino = 1;

/// What this mount takes for the time of what it stored is off by so much at most: stores do not tell it.
const OWN_TIME_ERROR: Duration = Duration::from_secs(1);

/// A directory of one bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirectoryPlace {
    pub bucket: Arc<str>,
    pub key: DirectoryKey,
}

impl DirectoryPlace {
    /// The directory that an object's key is in.
    #[must_use]
    pub fn around(id: &ObjectId) -> Self {
        let end = id.key.rfind('/').map_or(0, |slash| slash + 1);
        Self {
            bucket: id.bucket.clone(),
            key: DirectoryKey::root(&id.key[..end]),
        }
    }
}

/// Where an inode's content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The root of a mount of all buckets.
    Buckets,
    Directory(DirectoryPlace),
    Object(ObjectId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    // Served by the kernel: nobody reads or writes these through the mount.
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl Kind {
    /// What an object with this `st_mode` is. A directory is a prefix, never an object.
    #[must_use]
    pub fn of_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            _ => Self::File,
        }
    }

    /// The type bits of `st_mode`.
    #[must_use]
    pub fn type_bits(self) -> u32 {
        match self {
            Self::File => libc::S_IFREG,
            Self::Directory => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
            Self::CharDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
        }
    }

    /// True for what is uploaded in one part, so that its ETag shows that it is no regular file.
    #[must_use]
    pub fn is_special(self) -> bool {
        !matches!(self, Self::File | Self::Directory)
    }
}

/// The name under which an inode was last found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub parent: DirectoryPlace,
    pub name: Arc<str>,
}

/// A snapshot of an inode; changes go through the table.
#[derive(Clone, Debug)]
pub struct Node {
    pub ino: Ino,
    pub place: Place,
    pub kind: Kind,
    /// `None` for the root.
    pub link: Option<Link>,
    /// Of the object, or of a directory's marker; `None` while only this mount knows the file.
    pub version: Option<Version>,
    pub attributes: Attributes,
    /// False: nobody has asked the object for its attributes yet.
    pub attributes_known: bool,
    /// The time in `version` is what this mount takes for the one that the store gave it.
    pub is_time_own: bool,
    /// Listings show this version with this time, though the object itself tells an earlier one.
    pub listed_time: Option<SystemTime>,
    /// It may carry some: those that are shown until somebody has asked are a guess ([`Node::is_guess`]).
    pub may_carry_attributes: bool,
    /// As the object carried them when they were last seen.
    pub headers: Option<Arc<ObjectHeaders>>,
    /// Of a directory: when its marker, which carries the attributes, was last looked at or put.
    pub marker_at: Option<Instant>,
    /// Of a directory: its times are those of a change in it that only this mount knows.
    pub is_touched: bool,
    /// When this mount gave it the name that it has: a change that the object does not tell.
    pub renamed_at: Option<SystemTime>,
    /// When the bucket last confirmed this.
    pub checked_at: Instant,
    /// The user said at this time that the bucket is to be asked again.
    pub refresh_due: Option<Instant>,
    /// For what has no time of its own (directories without a marker).
    pub first_seen: SystemTime,
    pub link_target: Option<Arc<[u8]>>,
    /// Open handles.
    pub pins: u32,
    /// Created here and not in the bucket yet.
    pub local: bool,
    /// No name leads here any more.
    pub gone: bool,
    /// Gone because this mount unlinked it or renamed something over it: what is unsent needs no sending. False for
    /// an inode that somebody else's version displaced: its unsent data is a conflict, never dropped.
    pub unlinked: bool,
    /// Commits under way: what the bucket has may be a version that only they know of.
    pub commits: u32,
    /// The version that the kernel may hold pages of.
    pub pages_of: Option<ETag>,
    /// The kernel may still take the size of another version for the inode's.
    pub size_is_doubtful: bool,
    /// An open of this inode, whose name leads elsewhere, was given that one: programs have it open under this number.
    pub shows: Option<Ino>,
    /// It has the last one, too, as far as is known: it does not fill it from what programs write.
    pub has_last_page: bool,
    /// The inode that had the name before, until somebody else's version took it.
    pub displaced: Option<Ino>,
    pub(super) lookups: u64,
}

impl Node {
    /// The bucket has confirmed at `at` what is known.
    pub(super) fn confirm(&mut self, at: Instant) {
        self.checked_at = self.checked_at.max(at);
        if self.refresh_due.is_some_and(|due| due <= at) {
            self.refresh_due = None;
        }
    }

    /// True when a listing that shows this time shows that the object was put again since it was looked at, under the same ETag,
    /// as a change of its attributes is. Some stores tell whole seconds in one place and parts of them in the other.
    #[must_use]
    pub fn is_put_again(&self, listed_time: SystemTime) -> bool {
        let Some(version) = &self.version else {
            return false;
        };
        let known = if self.is_time_own {
            version.last_modified + OWN_TIME_ERROR
        } else {
            version.last_modified
        };
        unix_s(listed_time) > unix_s(known) && self.listed_time != Some(listed_time)
    }

    /// True for an object whose attributes have to be asked for when somebody wants to know them.
    #[must_use]
    pub fn is_guess(&self) -> bool {
        self.may_carry_attributes && !self.attributes_known
    }

    /// The object's address.
    #[must_use]
    pub fn object(&self) -> Option<&ObjectId> {
        match &self.place {
            Place::Object(id) => Some(id),
            _ => None,
        }
    }
}

pub(super) fn unix_s(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
