//! The namespace: buckets, keys, versions, uploads. Pure; changed by [`State::apply`] only, live and at replay.
//!
//! 1. What was acknowledged must come back after a crash: every change is a [`Record`], and applying the same
//!    records in the same order gives the same state.
//! 2. A blob may be a piece of several objects (copies share): `State` counts references and says which blobs
//!    nothing refers to any more.
//! 3. Keys are ordered by bytes, and a listing must jump over a common prefix: [`Key`] can be searched by bytes.

use super::checksums::{Algorithm, Kind, ObjectSum, Sum};
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub type BlobId = u64;
pub type Tags = Vec<(String, String)>;

/// The version id of what was written while versioning was off or suspended.
pub const NULL_VERSION: &str = "null";

/// A key, ordered and searchable by its bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key(pub String);

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A range of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub blob: BlobId,
    pub offset_bytes: u64,
    pub len_bytes: u64,
}

/// The headers that an object keeps for its readers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Headers {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// As an HTTP date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_side_encryption: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_key_id: Option<String>,
    /// Of the key that whoever reads has to give (SSE-C). Nothing is encrypted here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer_key_md5: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub website_redirect_location: Option<String>,
}

/// A part of an object that came from a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSummary {
    pub number: i32,
    pub len_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<Sum>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub pieces: Vec<Piece>,
    pub len_bytes: u64,
    pub etag: String,
    /// Whole seconds since 1970, as S3 keeps it.
    pub modified_s: u64,
    #[serde(default)]
    pub headers: Headers,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Tags,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<ObjectSum>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartSummary>,
}

/// One version of a key; without an object it is a delete marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub id: String,
    pub modified_s: u64,
    #[serde(with = "shared")]
    pub object: Option<Arc<Object>>,
}

/// serde knows `Arc` only with a feature that warns of losing the sharing; here an object has one version.
mod shared {
    use super::{Arc, Object};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    // The signature is serde's.
    #[allow(clippy::ref_option)]
    pub fn serialize<S: Serializer>(object: &Option<Arc<Object>>, serializer: S) -> Result<S::Ok, S::Error> {
        object.as_deref().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<Object>>, D::Error> {
        Ok(Option::<Object>::deserialize(deserializer)?.map(Arc::new))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub pieces: Vec<Piece>,
    pub len_bytes: u64,
    pub etag: String,
    pub sums: Vec<Sum>,
    pub modified_s: u64,
}

/// What a multipart upload was created with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadPlan {
    pub created_s: u64,
    pub headers: Headers,
    pub tags: Tags,
    /// As the client asked for; S3 computes its default otherwise.
    pub algorithm: Option<Algorithm>,
    pub kind: Kind,
}

impl UploadPlan {
    pub fn algorithm_or_default(&self) -> Algorithm {
        self.algorithm.unwrap_or(Algorithm::DEFAULT)
    }
}

#[derive(Clone, Debug)]
pub struct Upload {
    pub plan: UploadPlan,
    pub parts: BTreeMap<i32, Part>,
}

/// Uploads are listed by key, then by id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UploadName {
    pub key: String,
    pub id: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Versioning {
    #[default]
    Never,
    Enabled,
    Suspended,
}

#[derive(Debug, Default)]
pub struct Bucket {
    pub created_s: u64,
    pub versioning: Versioning,
    pub tags: Tags,
    /// Versions from oldest to newest; never empty.
    pub keys: BTreeMap<Key, Vec<Version>>,
    pub uploads: BTreeMap<UploadName, Upload>,
}

impl Bucket {
    /// The newest version, unless it is a delete marker.
    pub fn current(&self, key: &str) -> Option<&Version> {
        self.newest(key).filter(|version| version.object.is_some())
    }

    pub fn newest(&self, key: &str) -> Option<&Version> {
        self.keys.get(key.as_bytes()).and_then(|versions| versions.last())
    }

    pub fn version(&self, key: &str, id: &str) -> Option<&Version> {
        self.keys
            .get(key.as_bytes())?
            .iter()
            .find(|version| version.id == id)
    }

    pub fn current_etag(&self, key: &str) -> Option<&str> {
        self.current(key)?
            .object
            .as_ref()
            .map(|object| object.etag.as_str())
    }
}

/// A change, as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    BucketCreated {
        bucket: String,
        created_s: u64,
    },
    BucketDeleted {
        bucket: String,
    },
    VersioningSet {
        bucket: String,
        versioning: Versioning,
    },
    BucketTagged {
        bucket: String,
        tags: Tags,
    },
    /// A new version of a key: an object or a delete marker. One called [`NULL_VERSION`] replaces its namesake.
    VersionAdded {
        bucket: String,
        key: String,
        version: Version,
    },
    VersionRemoved {
        bucket: String,
        key: String,
        id: String,
    },
    VersionTagged {
        bucket: String,
        key: String,
        id: String,
        tags: Tags,
    },
    UploadCreated {
        bucket: String,
        name: UploadName,
        plan: Box<UploadPlan>,
    },
    PartAdded {
        bucket: String,
        name: UploadName,
        number: i32,
        part: Part,
    },
    UploadAborted {
        bucket: String,
        name: UploadName,
    },
    UploadCompleted {
        bucket: String,
        name: UploadName,
        version: Version,
    },
}

impl Record {
    /// What it newly refers to.
    fn pieces(&self) -> Vec<Piece> {
        match self {
            Self::VersionAdded { version, .. } | Self::UploadCompleted { version, .. } => {
                version_pieces(version)
            }
            Self::PartAdded { part, .. } => part.pieces.clone(),
            Self::BucketCreated { .. }
            | Self::BucketDeleted { .. }
            | Self::VersioningSet { .. }
            | Self::BucketTagged { .. }
            | Self::VersionRemoved { .. }
            | Self::VersionTagged { .. }
            | Self::UploadCreated { .. }
            | Self::UploadAborted { .. } => Vec::new(),
        }
    }
}

#[derive(Debug, Default)]
pub struct State {
    pub buckets: BTreeMap<String, Bucket>,
    references: HashMap<BlobId, u32>,
    /// No blob that any record ever named had this number or a higher one.
    next_blob: BlobId,
}

impl State {
    pub fn next_blob(&self) -> BlobId {
        self.next_blob
    }

    pub fn is_referenced(&self, blob: BlobId) -> bool {
        self.references.contains_key(&blob)
    }

    pub fn referenced_blobs(&self) -> impl Iterator<Item = BlobId> + '_ {
        self.references.keys().copied()
    }

    /// Makes the change. A record that names what does not exist changes nothing: it was checked before it was
    /// written. Returns the blobs to which nothing refers any more.
    pub fn apply(&mut self, record: Record) -> Vec<BlobId> {
        // First what is new: what is replaced may share its blobs.
        self.add_references(record.pieces());
        let removed = match record {
            Record::BucketCreated { bucket, created_s } => {
                self.buckets.insert(
                    bucket,
                    Bucket {
                        created_s,
                        ..Bucket::default()
                    },
                );
                Vec::new()
            }
            Record::BucketDeleted { bucket } => self
                .buckets
                .remove(&bucket)
                .as_ref()
                .map(bucket_pieces)
                .unwrap_or_default(),
            Record::VersionAdded { bucket, key, version } => {
                self.with(&bucket, |bucket| add_version(bucket, key, version))
            }
            Record::VersionRemoved { bucket, key, id } => {
                self.with(&bucket, |bucket| remove_version(bucket, &key, &id))
            }
            Record::PartAdded {
                bucket,
                name,
                number,
                part,
            } => self.with(&bucket, |bucket| add_part(bucket, &name, number, part)),
            Record::UploadAborted { bucket, name } => {
                self.with(&bucket, |bucket| remove_upload(bucket, &name))
            }
            Record::UploadCompleted {
                bucket,
                name,
                version,
            } => self.with(&bucket, |bucket| {
                let mut removed = remove_upload(bucket, &name);
                removed.extend(add_version(bucket, name.key, version));
                removed
            }),
            Record::UploadCreated { bucket, name, plan } => self.with(&bucket, |bucket| {
                bucket.uploads.insert(
                    name,
                    Upload {
                        plan: *plan,
                        parts: BTreeMap::new(),
                    },
                );
                Vec::new()
            }),
            Record::VersionTagged {
                bucket,
                key,
                id,
                tags,
            } => self.with(&bucket, |bucket| {
                tag_version(bucket, &key, &id, tags);
                Vec::new()
            }),
            Record::VersioningSet { bucket, versioning } => self.with(&bucket, |bucket| {
                bucket.versioning = versioning;
                Vec::new()
            }),
            Record::BucketTagged { bucket, tags } => self.with(&bucket, |bucket| {
                bucket.tags = tags;
                Vec::new()
            }),
        };
        self.remove_references(removed)
    }

    /// The shortest list of records that leads to this state.
    pub fn snapshot(&self) -> impl Iterator<Item = Record> + '_ {
        self.buckets
            .iter()
            .flat_map(|(name, bucket)| bucket_snapshot(name, bucket))
    }

    /// The change answers which pieces the bucket no longer holds.
    fn with(&mut self, bucket: &str, change: impl FnOnce(&mut Bucket) -> Vec<Piece>) -> Vec<Piece> {
        self.buckets.get_mut(bucket).map(change).unwrap_or_default()
    }

    fn add_references(&mut self, pieces: impl IntoIterator<Item = Piece>) {
        for piece in pieces {
            *self.references.entry(piece.blob).or_default() += 1;
            self.next_blob = self.next_blob.max(piece.blob + 1);
        }
    }

    fn remove_references(&mut self, pieces: Vec<Piece>) -> Vec<BlobId> {
        let mut freed = Vec::new();
        for piece in pieces {
            if let Some(count) = self.references.get_mut(&piece.blob) {
                *count -= 1;
                if *count == 0 {
                    self.references.remove(&piece.blob);
                    freed.push(piece.blob);
                }
            }
        }
        freed
    }
}

/// The pieces of a range that lies within `pieces`.
pub fn slice(pieces: &[Piece], start_bytes: u64, len_bytes: u64) -> Vec<Piece> {
    let end_bytes = start_bytes + len_bytes;
    let mut at_bytes = 0;
    let mut sliced = Vec::new();
    for piece in pieces {
        let from = start_bytes.max(at_bytes);
        let to = end_bytes.min(at_bytes + piece.len_bytes);
        if from < to {
            let offset_bytes = piece.offset_bytes + (from - at_bytes);
            sliced.push(Piece {
                blob: piece.blob,
                offset_bytes,
                len_bytes: to - from,
            });
        }
        at_bytes += piece.len_bytes;
    }
    sliced
}

/// One after the other; neighbours within a blob become one piece.
pub fn join(pieces: impl IntoIterator<Item = Piece>) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match joined.last_mut() {
            Some(last)
                if last.blob == piece.blob && last.offset_bytes + last.len_bytes == piece.offset_bytes =>
            {
                last.len_bytes += piece.len_bytes;
            }
            _ => joined.push(piece),
        }
    }
    joined
}

fn version_pieces(version: &Version) -> Vec<Piece> {
    version
        .object
        .as_ref()
        .map(|object| object.pieces.clone())
        .unwrap_or_default()
}

fn upload_pieces(upload: &Upload) -> Vec<Piece> {
    upload
        .parts
        .values()
        .flat_map(|part| part.pieces.iter().copied())
        .collect()
}

fn bucket_pieces(bucket: &Bucket) -> Vec<Piece> {
    let versions = bucket.keys.values().flatten().flat_map(version_pieces);
    versions
        .chain(bucket.uploads.values().flat_map(upload_pieces))
        .collect()
}

fn remove_upload(bucket: &mut Bucket, name: &UploadName) -> Vec<Piece> {
    bucket
        .uploads
        .remove(name)
        .as_ref()
        .map(upload_pieces)
        .unwrap_or_default()
}

/// What it replaces; itself, where there is no such upload.
fn add_part(bucket: &mut Bucket, name: &UploadName, number: i32, part: Part) -> Vec<Piece> {
    let replaced = match bucket.uploads.get_mut(name) {
        Some(upload) => upload.parts.insert(number, part),
        None => Some(part),
    };
    replaced.map(|part| part.pieces).unwrap_or_default()
}

fn tag_version(bucket: &mut Bucket, key: &str, id: &str, tags: Tags) {
    let version = bucket
        .keys
        .get_mut(key.as_bytes())
        .and_then(|all| all.iter_mut().find(|v| v.id == id));
    if let Some(object) = version.and_then(|version| version.object.as_mut()) {
        Arc::make_mut(object).tags = tags;
    }
}

fn add_version(bucket: &mut Bucket, key: String, version: Version) -> Vec<Piece> {
    let versions = bucket.keys.entry(Key(key)).or_default();
    let mut replaced = Vec::new();
    if version.id == NULL_VERSION {
        versions.retain(|old| {
            let stays = old.id != NULL_VERSION;
            if !stays {
                replaced.extend(version_pieces(old));
            }
            stays
        });
    }
    versions.push(version);
    replaced
}

fn remove_version(bucket: &mut Bucket, key: &str, id: &str) -> Vec<Piece> {
    let Some(versions) = bucket.keys.get_mut(key.as_bytes()) else {
        return Vec::new();
    };
    let mut removed = Vec::new();
    if let Some(position) = versions.iter().position(|version| version.id == id) {
        removed = version_pieces(&versions.remove(position));
    }
    if versions.is_empty() {
        bucket.keys.remove(key.as_bytes());
    }
    removed
}

fn bucket_snapshot<'a>(name: &'a str, bucket: &'a Bucket) -> impl Iterator<Item = Record> + 'a {
    let head = [
        Record::BucketCreated {
            bucket: name.to_owned(),
            created_s: bucket.created_s,
        },
        Record::VersioningSet {
            bucket: name.to_owned(),
            versioning: bucket.versioning,
        },
        Record::BucketTagged {
            bucket: name.to_owned(),
            tags: bucket.tags.clone(),
        },
    ];
    let versions = bucket.keys.iter().flat_map(move |(key, versions)| {
        versions.iter().map(move |version| Record::VersionAdded {
            bucket: name.to_owned(),
            key: key.0.clone(),
            version: version.clone(),
        })
    });
    let uploads = bucket.uploads.iter().flat_map(move |(upload_name, upload)| {
        let created = Record::UploadCreated {
            bucket: name.to_owned(),
            name: upload_name.clone(),
            plan: Box::new(upload.plan.clone()),
        };
        let parts = upload.parts.iter().map(move |(number, part)| Record::PartAdded {
            bucket: name.to_owned(),
            name: upload_name.clone(),
            number: *number,
            part: part.clone(),
        });
        std::iter::once(created).chain(parts)
    });
    head.into_iter().chain(versions).chain(uploads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(blob: BlobId, offset_bytes: u64, len_bytes: u64) -> Piece {
        Piece {
            blob,
            offset_bytes,
            len_bytes,
        }
    }

    fn version(id: &str, blob: Option<BlobId>) -> Version {
        let object = blob.map(|blob| Object {
            pieces: vec![piece(blob, 0, 1)],
            len_bytes: 1,
            etag: format!("etag-{blob}"),
            modified_s: 7,
            headers: Headers::default(),
            tags: Tags::new(),
            sum: None,
            parts: Vec::new(),
        });
        Version {
            id: id.to_owned(),
            modified_s: 7,
            object: object.map(Arc::new),
        }
    }

    #[test]
    fn pieces_are_cut_and_joined() {
        let pieces = [piece(1, 10, 5), piece(2, 0, 5)];
        assert_eq!(slice(&pieces, 0, 10), pieces);
        assert_eq!(slice(&pieces, 3, 4), [piece(1, 13, 2), piece(2, 0, 2)]);
        assert_eq!(slice(&pieces, 5, 5), [piece(2, 0, 5)]);
        assert_eq!(slice(&pieces, 4, 0), []);
        assert_eq!(
            join(slice(&pieces, 0, 2).into_iter().chain(slice(&pieces, 2, 8))),
            pieces
        );
    }

    #[test]
    fn a_blob_is_freed_with_its_last_reference() {
        let mut state = State::default();
        state.apply(Record::BucketCreated {
            bucket: "b".into(),
            created_s: 0,
        });
        let add = |key: &str| Record::VersionAdded {
            bucket: "b".into(),
            key: key.into(),
            version: version(NULL_VERSION, Some(5)),
        };
        let remove = |key: &str| Record::VersionRemoved {
            bucket: "b".into(),
            key: key.into(),
            id: NULL_VERSION.into(),
        };
        assert!(state.apply(add("original")).is_empty());
        assert!(state.apply(add("copy")).is_empty());
        // Onto itself: the reference never goes through zero.
        assert!(state.apply(add("copy")).is_empty());
        assert!(state.apply(remove("original")).is_empty());
        assert_eq!(state.apply(remove("copy")), [5]);
        assert_eq!(state.next_blob(), 6);
    }

    fn record() -> impl Strategy<Value = Record> {
        let bucket = prop_oneof![Just("b".to_owned()), Just("c".to_owned())];
        let key = "[xy]";
        let id = prop_oneof![Just(NULL_VERSION.to_owned()), "[12]"];
        let blob = proptest::option::of(1u64..6);
        (0..10, bucket, key, id, blob, 1..3i32).prop_map(|(kind, bucket, key, id, blob, number)| {
            let name = UploadName {
                key: key.clone(),
                id: "u".to_owned(),
            };
            let part = Part {
                pieces: vec![piece(blob.unwrap_or(9), 0, 1)],
                len_bytes: 1,
                etag: String::new(),
                sums: Vec::new(),
                modified_s: 1,
            };
            let plan = UploadPlan {
                created_s: 1,
                headers: Headers::default(),
                tags: Tags::new(),
                algorithm: None,
                kind: Kind::FullObject,
            };
            match kind {
                0 => Record::BucketCreated { bucket, created_s: 1 },
                1 => Record::BucketDeleted { bucket },
                2 => Record::VersionRemoved { bucket, key, id },
                3 => Record::VersionTagged {
                    bucket,
                    key,
                    id,
                    tags: vec![("t".into(), "v".into())],
                },
                4 => Record::UploadCreated {
                    bucket,
                    name,
                    plan: Box::new(plan),
                },
                5 => Record::PartAdded {
                    bucket,
                    name,
                    number,
                    part,
                },
                6 => Record::UploadAborted { bucket, name },
                7 => Record::UploadCompleted {
                    bucket,
                    name,
                    version: version(&id, blob),
                },
                _ => Record::VersionAdded {
                    bucket,
                    key,
                    version: version(&id, blob),
                },
            }
        })
    }

    /// What the operations would have refused does not get into a log.
    fn is_possible(state: &State, record: &Record) -> bool {
        let has = |bucket: &str| state.buckets.contains_key(bucket);
        let has_upload = |bucket: &str, name| {
            state
                .buckets
                .get(bucket)
                .is_some_and(|b| b.uploads.contains_key(name))
        };
        match record {
            Record::BucketCreated { bucket, .. } => !has(bucket),
            Record::VersionAdded { bucket, version, key } => state
                .buckets
                .get(bucket)
                .is_some_and(|b| version.id == NULL_VERSION || b.version(key, &version.id).is_none()),
            Record::UploadCreated { bucket, name, .. } => has(bucket) && !has_upload(bucket, name),
            Record::PartAdded { bucket, name, .. } => has_upload(bucket, name),
            Record::UploadCompleted {
                bucket,
                name,
                version,
            } => has_upload(bucket, name) && state.buckets[bucket].version(&name.key, &version.id).is_none(),
            _ => true,
        }
    }

    proptest! {
        /// A snapshot leads to the same state, references count what the namespace holds, and freed blobs are
        /// exactly those that lost their last reference.
        #[test]
        fn snapshots_and_references_agree(records in proptest::collection::vec(record(), 0..60)) {
            let mut state = State::default();
            for record in records {
                if !is_possible(&state, &record) {
                    continue;
                }
                let before: Vec<BlobId> = state.referenced_blobs().collect();
                let mut freed = state.apply(record);
                freed.sort_unstable();
                let mut lost: Vec<BlobId> = before.into_iter().filter(|blob| !state.is_referenced(*blob)).collect();
                lost.sort_unstable();
                prop_assert_eq!(freed, lost);
            }
            let mut counted: HashMap<BlobId, u32> = HashMap::new();
            for bucket in state.buckets.values() {
                let versions = bucket.keys.values().flatten().flat_map(version_pieces);
                for piece in versions.chain(bucket.uploads.values().flat_map(upload_pieces)) {
                    *counted.entry(piece.blob).or_default() += 1;
                }
                prop_assert!(bucket.keys.values().all(|versions| !versions.is_empty()));
            }
            prop_assert_eq!(&state.references, &counted);
            let mut replayed = State::default();
            for record in state.snapshot() {
                let text = serde_json::to_string(&record).unwrap();
                prop_assert!(replayed.apply(serde_json::from_str(&text).unwrap()).is_empty());
            }
            prop_assert_eq!(format!("{:?}", replayed.buckets), format!("{:?}", state.buckets));
            prop_assert_eq!(replayed.references, state.references);
        }
    }
}
