//! What goes into a request and what comes out of it, in our own words.

use crate::base::checksum::Crc32c;
use crate::base::object::{ByteRange, Condition, ETag, ObjectHeaders, ObjectId};
use crate::base::segments::Segments;
use std::sync::Arc;
use std::time::SystemTime;

/// One bucket of the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketEntry {
    pub name: String,
    pub created: Option<SystemTime>,
}

/// A LIST request (ListObjectsV2, always with `encoding-type=url`).
#[derive(Clone, Debug)]
pub struct ListRequest {
    pub bucket: Arc<str>,
    pub prefix: String,
    /// True: group keys by `/` below the prefix into common prefixes.
    pub by_directory: bool,
    /// List only keys after this one. Ignored once `continuation` is given.
    pub start_after: Option<String>,
    pub continuation: Option<String>,
    /// At most this many keys and prefixes in the page (S3: 1,000).
    pub max_keys: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    pub key: String,
    pub size_bytes: u64,
    pub etag: ETag,
    pub last_modified: SystemTime,
    pub storage_class: Option<String>,
    /// The first checksum algorithm that the listing shows, as S3 spells it (`CRC32C`, `CRC64NVME`, …).
    pub checksum_algorithm: Option<String>,
}

/// One page; objects and prefixes are each in the endpoint's order (byte order on S3).
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    pub objects: Vec<ListedObject>,
    /// Common prefixes, each ending in `/`.
    pub prefixes: Vec<String>,
    /// Present when there is more.
    pub continuation: Option<String>,
}

#[derive(Clone, Debug)]
pub struct GetRequest {
    pub id: ObjectId,
    /// `None`: the whole object (the only way that also works for an empty one).
    pub range: Option<ByteRange>,
    pub if_match: Option<ETag>,
    pub version_id: Option<Arc<str>>,
}

/// A PUT of a whole object. `headers.metadata` should carry `pailfs-txn`, so that a lost reply can be
/// resolved.
#[derive(Clone, Debug)]
pub struct PutRequest {
    pub id: ObjectId,
    pub body: Segments,
    pub checksum: Crc32c,
    pub condition: Condition,
    pub headers: ObjectHeaders,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct UploadId(pub String);

/// A part that the store has acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadedPart {
    /// From 1.
    pub number: u32,
    pub etag: ETag,
    /// Absent where the store does not tell it (some do not for copied parts).
    pub checksum: Option<Crc32c>,
    pub len_bytes: u64,
}

impl UploadedPart {
    /// The checksum of all bytes of `parts`, where each part's is known.
    #[must_use]
    pub fn whole_checksum(parts: &[Self]) -> Option<Crc32c> {
        parts.iter().try_fold(Crc32c::default(), |whole, part| {
            part.checksum.map(|next| whole.then(next))
        })
    }
}

/// Ranges of one object version that become parts 1, 2, … of an upload.
#[derive(Clone, Debug)]
pub struct CopyPartsRequest {
    pub to: ObjectId,
    pub upload: UploadId,
    pub from: ObjectId,
    pub from_etag: ETag,
    pub ranges: Vec<ByteRange>,
}

#[derive(Clone, Debug)]
pub struct CompleteRequest {
    pub id: ObjectId,
    pub upload: UploadId,
    /// In order of their numbers; numbers need not be consecutive.
    pub parts: Vec<UploadedPart>,
    /// The checksum of the whole object where it is known.
    pub checksum: Option<Crc32c>,
    pub size_bytes: u64,
    pub condition: Condition,
}

#[derive(Clone, Debug)]
pub struct CopyRequest {
    pub from: ObjectId,
    /// `x-amz-copy-source-if-match`: copy exactly this version.
    pub from_etag: ETag,
    /// The length of that version: the answer to a copy does not tell it.
    pub size_bytes: u64,
    pub to: ObjectId,
    /// What must hold at the destination.
    pub condition: Condition,
    /// `Some`: replace headers and metadata by these (tags only where `tagging` is given: else they are
    /// carried over); `None`: carry all over.
    pub headers: Option<ObjectHeaders>,
}
