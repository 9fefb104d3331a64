//! What an object is to the rest of the program: where it lives, which version it is, what it carries.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// Bucket and key of one object. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId {
    pub bucket: Arc<str>,
    pub key: Arc<str>,
}

impl ObjectId {
    pub fn new(bucket: impl Into<Arc<str>>, key: impl Into<Arc<str>>) -> Self {
        Self {
            bucket: bucket.into(),
            key: key.into(),
        }
    }

    /// The object of another key in the same bucket.
    #[must_use]
    pub fn sibling(&self, key: impl Into<Arc<str>>) -> Self {
        Self {
            bucket: self.bucket.clone(),
            key: key.into(),
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key.escape_debug())
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An entity tag without its quotes. Equal ETags of one key mean equal bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ETag(Arc<str>);

impl ETag {
    /// Takes the tag with or without quotes; a weak tag's `W/` is dropped, as S3 has strong tags only.
    #[must_use]
    pub fn new(raw: &str) -> Self {
        let raw = raw.strip_prefix("W/").unwrap_or(raw);
        Self(raw.trim_matches('"').into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form that conditions (`If-Match`) carry.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }

    /// True for the tag of a multipart upload with exactly one part: the mark of a symlink or special file.
    #[must_use]
    pub fn is_one_part(&self) -> bool {
        self.0.ends_with("-1")
    }

    /// True for the tag of a multipart upload: a plain copy of the object gets another one.
    #[must_use]
    pub fn is_of_parts(&self) -> bool {
        let parts = self.0.rsplit_once('-').map(|(_, parts)| parts);
        parts.is_some_and(|parts| !parts.is_empty() && parts.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One version of an object's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub etag: ETag,
    pub size_bytes: u64,
    /// Present only in buckets that have versioning.
    pub version_id: Option<Arc<str>>,
    /// The server's clock, whole seconds on most stores.
    pub last_modified: SystemTime,
}

/// The headers and user metadata that an object keeps beside its bytes and that an edit must preserve.
/// Metadata names are lower case, without `x-amz-meta-`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectHeaders {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_disposition: Option<String>,
    pub cache_control: Option<String>,
    pub storage_class: Option<String>,
    /// `key=value&…`, percent-encoded, as `x-amz-tagging` takes it; `None`: no tags.
    pub tagging: Option<String>,
    /// How many tags the object has that `tagging` does not say: their values need a request of their own.
    pub unread_tags: u32,
    pub encryption: Option<Encryption>,
    pub metadata: BTreeMap<String, String>,
}

/// Classes that are read only after a restore ("Restoring an archived object", S3 User Guide).
pub const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

impl ObjectHeaders {
    /// Headers for bytes that are written now: what was just written can be read, also where it replaces something archived.
    #[must_use]
    pub fn for_new_bytes(&self) -> Self {
        let is_archive = |class: &String| ARCHIVES.contains(&class.as_str());
        Self {
            storage_class: self.storage_class.clone().filter(|class| !is_archive(class)),
            ..self.clone()
        }
    }
}

/// How the store encrypts an object, where it tells. Keys of customers (SSE-C) are not among it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// As S3 spells it: `AES256`, `aws:kms`, …
    pub algorithm: String,
    pub kms_key_id: Option<String>,
    pub bucket_key: Option<bool>,
}

/// What HEAD (and the head of a GET) tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    pub version: Version,
    pub headers: ObjectHeaders,
}

/// What must hold in the bucket for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No condition: only for objects that nobody else may know (probe keys, temporary names).
    None,
    /// `If-None-Match: *`.
    Absent,
    /// `If-Match: "etag"`.
    Matches(ETag),
}

/// Half-open byte range `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    pub start: u64,
    pub end: u64,
}

impl ByteRange {
    #[must_use]
    pub fn new(start: u64, end: u64) -> Self {
        debug_assert!(start <= end);
        Self { start, end }
    }

    #[must_use]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_compare_without_their_quotes() {
        assert_eq!(ETag::new("\"abc-1\""), ETag::new("abc-1"));
        assert_eq!(ETag::new("W/\"abc\"").quoted(), "\"abc\"");
        assert!(ETag::new("\"abc-1\"").is_one_part());
        assert!(!ETag::new("\"abc-11\"").is_one_part());
        assert!(ETag::new("\"abc-11\"").is_of_parts());
        assert!(!ETag::new("abc").is_of_parts() && !ETag::new("abc-d1").is_of_parts());
    }

    #[test]
    fn an_object_is_shown_with_control_characters_escaped() {
        assert_eq!(ObjectId::new("b", "a\nb").to_string(), "s3://b/a\\nb");
    }
}
