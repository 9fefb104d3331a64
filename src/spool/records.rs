//! What is recorded about unfinished work, and how a record is written down.
//!
//! 1. A record outlives the program that wrote it. Each carries a version; one of a newer version is an error that says
//!    so, and nothing of it is dropped: [`decode`]. Unknown fields are refused as well, so a field that is added without
//!    a new version is noticed instead of lost.
//! 2. The recorded types must not change because a type of the program changed: they are types of their own, and the
//!    conversions name every field.

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{Condition, ETag, Encryption, ObjectHeaders};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The newest version of a record that this program reads, and the one that it writes.
pub(super) const VERSION: u32 = 1;

/// A number that names a record; never used twice in one instance directory. Numbers of conflicts have the top bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordId(pub u64);

/// The condition that an unsent file's commit starts from, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum RecordedBase {
    Absent,
    Matches { etag: String },
}

/// A multipart upload that this mount started and has neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenUpload {
    pub bucket: String,
    pub key: String,
    pub upload_id: String,
}

/// A file that is not in the bucket as it is: its bytes are in the spool file `file_name`, each at its own position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnsentFile {
    pub bucket: String,
    pub key: String,
    pub base: RecordedBase,
    pub file_name: String,
    pub size_bytes: u64,
    pub headers: RecordedHeaders,
    /// `pailfs-txn` of the commit that was tried last, to recognise its object.
    pub transaction: String,
    /// Absent where all bytes are in the spool file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<RecordedChanges>,
}

/// Which bytes of an unsent file are in its spool file; all others are those of the version that it is based on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedChanges {
    /// (offset, length), ascending.
    pub runs: Vec<(u64, u64)>,
    pub base_bytes: u64,
    pub base_modified_unix_s: u64,
}

/// A local version that lost against a newer object in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conflict {
    pub bucket: String,
    pub key: String,
    pub found_unix_ms: u64,
    pub base_etag: Option<String>,
    pub theirs_etag: Option<String>,
    pub size_bytes: u64,
    pub form: ConflictForm,
}

/// Where the bytes of a conflict are. `file_name` is a spool file when a conflict is recorded, and a file of the
/// conflicts directory when it is read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ConflictForm {
    /// All bytes are in this file.
    Whole { file_name: String },
    /// The bytes are parts of an upload that was left open.
    OpenUpload {
        upload_id: String,
        parts: Vec<RecordedPart>,
        /// `pailfs-txn` of the object that it becomes; empty in records of versions that did not note it.
        #[serde(default)]
        transaction: String,
    },
    /// Changed ranges over a version that is gone: (offset, length) runs, stored one after the other in the file.
    Patch {
        file_name: String,
        base_etag: String,
        runs: Vec<(u64, u64)>,
    },
}

impl ConflictForm {
    /// The file that holds the bytes, where they are on this machine.
    pub fn file_name(&self) -> Option<&str> {
        match self {
            Self::Whole { file_name } | Self::Patch { file_name, .. } => Some(file_name),
            Self::OpenUpload { .. } => None,
        }
    }

    /// The same form with its bytes in another file.
    pub(super) fn in_file(mut self, name: &str) -> Self {
        match &mut self {
            Self::Whole { file_name } | Self::Patch { file_name, .. } => name.clone_into(file_name),
            Self::OpenUpload { .. } => {}
        }
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedPart {
    pub number: u32,
    pub etag: String,
    pub checksum_base64: Option<String>,
    pub len_bytes: u64,
}

/// [`ObjectHeaders`], as recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedHeaders {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_disposition: Option<String>,
    pub cache_control: Option<String>,
    pub storage_class: Option<String>,
    pub tagging: Option<String>,
    /// Absent in records of earlier versions, as the next one.
    #[serde(default)]
    pub unread_tags: u32,
    #[serde(default)]
    pub encryption: Option<Encryption>,
    pub metadata: BTreeMap<String, String>,
}

/// Work on the namespace that was begun and must be finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Intent {
    /// An unlinked object whose DELETE waits for its last handle.
    Delete {
        bucket: String,
        key: String,
        etag: String,
        /// Its Last-Modified: an object modified later is another one, even if its bytes and so its ETag are equal.
        modified_unix_s: u64,
        /// `pailfs-txn` of the object, if it had one: one that has another is another one.
        transaction: Option<String>,
        /// Its directory is there, without a marker, and is to get one when nothing else is left in it. Absent in records
        /// of earlier versions.
        #[serde(default)]
        keeps_directory: bool,
    },
    /// A new file that was unlinked while nobody could tell whether it had been put: if it appears, it goes again.
    Withdraw {
        bucket: String,
        key: String,
        /// `pailfs-txn` of the write.
        transaction: String,
        /// Until then it may appear, by this machine's clock in seconds.
        until_unix_s: u64,
    },
    /// A directory rename: all copies, then the deletes.
    RenameDirectory {
        bucket: String,
        from_prefix: String,
        to_bucket: String,
        to_prefix: String,
        /// The spool file with what was there when it began ([`super::manifest::Manifest`]): nothing else is moved.
        list_file: String,
        /// Everything was copied, and then the rename failed: whatever has its copy under the new name is to go from the
        /// old one, and nothing is copied again.
        only_deletes: bool,
    },
    /// A directory that became empty and is to get its marker if it still exists.
    Marker { bucket: String, prefix: String },
}

/// What former mounts of the same source left behind, in the order in which it was recorded.
#[derive(Debug, Default)]
pub struct Leftovers {
    pub uploads: Vec<(RecordId, OpenUpload)>,
    pub unsent: Vec<(RecordId, UnsentFile)>,
    pub intents: Vec<(RecordId, Intent)>,
}

/// One entry of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) enum Record {
    Upload(OpenUpload),
    Unsent(Box<UnsentFile>),
    Intent(Intent),
}

#[derive(Serialize)]
struct VersionedRef<'a, T> {
    version: u32,
    record: &'a T,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Versioned<T> {
    #[serde(rename = "version")]
    _version: u32,
    record: T,
}

/// What every version of every record begins with.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// The bytes of `record`, with the version in front.
pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(&VersionedRef {
        version: VERSION,
        record,
    })
    .map_err(|error| {
        Error::new(
            ErrorKind::Internal,
            format!("a record cannot be written down: {error}"),
        )
    })
}

/// The record in `bytes`; `place` says in messages where it was found.
///
/// # Errors
/// `Unsupported`: a newer version of this program wrote it; `Corrupt`: it cannot be understood.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8], place: &str) -> Result<T> {
    let corrupt = |error: serde_json::Error| {
        Error::new(
            ErrorKind::Corrupt,
            format!("a record in {place} cannot be understood ({error}); it was left as it is"),
        )
    };
    let found = serde_json::from_slice::<VersionOnly>(bytes)
        .map_err(corrupt)?
        .version;
    if found > VERSION {
        return Err(newer(place, u64::from(found), u64::from(VERSION)));
    }
    Ok(serde_json::from_slice::<Versioned<T>>(bytes)
        .map_err(corrupt)?
        .record)
}

/// The refusal of something that a later pailfs wrote.
pub(super) fn newer(place: &str, found: u64, known: u64) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "{place} was written by a newer pailfs (format {found}, this one knows {known}): use that version, or \
             another directory with --state-dir; nothing was changed"
        ),
    )
}

impl From<&RecordedBase> for Condition {
    fn from(base: &RecordedBase) -> Self {
        match base {
            RecordedBase::Absent => Self::Absent,
            RecordedBase::Matches { etag } => Self::Matches(ETag::new(etag)),
        }
    }
}

/// `Internal` for [`Condition::None`]: an unsent file always starts from something.
impl TryFrom<&Condition> for RecordedBase {
    type Error = Error;

    fn try_from(condition: &Condition) -> Result<Self> {
        match condition {
            Condition::Absent => Ok(Self::Absent),
            Condition::Matches(etag) => Ok(Self::Matches {
                etag: etag.as_str().to_owned(),
            }),
            Condition::None => Err(Error::new(
                ErrorKind::Internal,
                "an unsent file without a condition cannot be recorded",
            )),
        }
    }
}

impl From<ObjectHeaders> for RecordedHeaders {
    fn from(headers: ObjectHeaders) -> Self {
        let ObjectHeaders {
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            cache_control,
            storage_class,
            tagging,
            unread_tags,
            encryption,
            metadata,
        } = headers;
        Self {
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            cache_control,
            storage_class,
            tagging,
            unread_tags,
            encryption,
            metadata,
        }
    }
}

impl From<&ObjectHeaders> for RecordedHeaders {
    fn from(headers: &ObjectHeaders) -> Self {
        headers.clone().into()
    }
}

impl From<RecordedHeaders> for ObjectHeaders {
    fn from(headers: RecordedHeaders) -> Self {
        let RecordedHeaders {
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            cache_control,
            storage_class,
            tagging,
            unread_tags,
            encryption,
            metadata,
        } = headers;
        Self {
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            cache_control,
            storage_class,
            tagging,
            unread_tags,
            encryption,
            metadata,
        }
    }
}

impl From<&RecordedHeaders> for ObjectHeaders {
    fn from(headers: &RecordedHeaders) -> Self {
        headers.clone().into()
    }
}
