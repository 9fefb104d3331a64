//! Versions of objects: listing them all, and removing one.
//!
//! The store lists keys in order, and the versions of a key from the newest on; objects and delete markers come apart, and
//! are put together here by their times, which are whole seconds on most stores.

use super::client::Client;
use super::convert;
use super::errors::Failure;
use super::list::decoded;
use super::retry::{Call, Replay};
use crate::base::error::Result;
use crate::base::object::{ETag, ObjectId};
use crate::telemetry::RequestClass;
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::types::{BucketVersioningStatus, EncodingType};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::SystemTime;

/// One version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedVersion {
    pub key: String,
    /// `null` for what was written before the bucket had versioning.
    pub version_id: String,
    pub is_latest: bool,
    /// It says that the key was deleted then, and has no bytes.
    pub is_delete_marker: bool,
    pub size_bytes: u64,
    pub etag: ETag,
    pub last_modified: SystemTime,
    pub storage_class: Option<String>,
    pub checksum_algorithm: Option<String>,
}

/// Behind which version a page begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionMarker {
    pub key: String,
    /// `None`: behind all versions of the key.
    pub version_id: Option<String>,
}

#[derive(Clone, Debug)]
pub struct VersionsRequest {
    pub bucket: Arc<str>,
    pub prefix: String,
    /// True: group keys by `/` below the prefix into common prefixes.
    pub by_directory: bool,
    pub from: Option<VersionMarker>,
    /// At most this many versions and prefixes (S3: 1,000).
    pub max_entries: u32,
}

/// One page.
#[derive(Clone, Debug, Default)]
pub struct VersionsPage {
    /// By key; those of one key from the newest on.
    pub versions: Vec<ListedVersion>,
    pub prefixes: Vec<String>,
    /// Present when there is more.
    pub next: Option<VersionMarker>,
}

impl Client {
    pub async fn list_versions(&self, request: &VersionsRequest) -> Result<VersionsPage> {
        let bucket = &*request.bucket;
        let call = Call::on_bucket("ListObjectVersions", RequestClass::List, bucket);
        self.inner
            .run(&call, |sdk| {
                let from = request.from.clone();
                let list = sdk
                    .list_object_versions()
                    .bucket(bucket)
                    .prefix(&request.prefix)
                    .encoding_type(EncodingType::Url)
                    .set_delimiter(request.by_directory.then(|| "/".to_owned()))
                    .set_version_id_marker(from.as_ref().and_then(|from| from.version_id.clone()))
                    .set_key_marker(from.map(|from| from.key))
                    .max_keys(request.max_entries as i32);
                async move { page_of(list.send().await?).map_err(|error| Failure::garbled(&error)) }
            })
            .await
    }

    /// True where a bucket has, or once had, versioning.
    pub async fn has_versions(&self, bucket: &str) -> Result<bool> {
        let call = Call::on_bucket("GetBucketVersioning", RequestClass::Other, bucket);
        let output = self
            .inner
            .run(&call, |sdk| {
                let request = sdk.get_bucket_versioning().bucket(bucket);
                async move { request.send().await.map_err(Failure::from) }
            })
            .await?;
        Ok(matches!(
            output.status(),
            Some(BucketVersioningStatus::Enabled | BucketVersioningStatus::Suspended)
        ))
    }

    /// Removes one version, or one delete marker, for good.
    pub async fn delete_version(&self, id: &ObjectId, version_id: &str) -> Result<()> {
        self.delete_as(id, None, Some(version_id), Replay::Safe).await
    }
}

/// # Errors
/// `Corrupt` for a page that cannot be what the store meant.
fn page_of(output: ListObjectVersionsOutput) -> Result<VersionsPage> {
    let is_encoded = output.encoding_type() == Some(&EncodingType::Url);
    let next = match (output.is_truncated(), output.next_key_marker()) {
        (Some(true), Some(key)) => Some(VersionMarker {
            key: decoded(Some(key.to_owned()), is_encoded)?,
            version_id: output
                .next_version_id_marker()
                .filter(|id| !id.is_empty())
                .map(str::to_owned),
        }),
        _ => None,
    };
    let mut page = VersionsPage {
        next,
        ..VersionsPage::default()
    };
    for version in output.versions.unwrap_or_default() {
        let checksum_algorithm = version.checksum_algorithm().first();
        page.versions.push(ListedVersion {
            version_id: version.version_id().unwrap_or("null").to_owned(),
            is_latest: version.is_latest().unwrap_or(false),
            is_delete_marker: false,
            size_bytes: convert::size_of(version.size())?,
            etag: ETag::new(version.e_tag().unwrap_or_default()),
            last_modified: convert::system_time(version.last_modified()),
            storage_class: version.storage_class().map(|class| class.as_str().to_owned()),
            checksum_algorithm: checksum_algorithm.map(|algorithm| algorithm.as_str().to_owned()),
            key: decoded(version.key, is_encoded)?,
        });
    }
    for marker in output.delete_markers.unwrap_or_default() {
        page.versions.push(ListedVersion {
            version_id: marker.version_id().unwrap_or("null").to_owned(),
            is_latest: marker.is_latest().unwrap_or(false),
            is_delete_marker: true,
            size_bytes: 0,
            etag: ETag::new(""),
            last_modified: convert::system_time(marker.last_modified()),
            storage_class: None,
            checksum_algorithm: None,
            key: decoded(marker.key, is_encoded)?,
        });
    }
    // What is of one second stays as the store has it, but for the latest; a deletion is taken for the later of two.
    let newest_first = |version: &ListedVersion| {
        let ListedVersion {
            is_latest,
            last_modified,
            is_delete_marker,
            ..
        } = *version;
        Reverse((is_latest, last_modified, is_delete_marker))
    };
    page.versions
        .sort_by(|a, b| (a.key.cmp(&b.key)).then_with(|| newest_first(a).cmp(&newest_first(b))));
    for common in output.common_prefixes.unwrap_or_default() {
        page.prefixes.push(decoded(common.prefix, is_encoded)?);
    }
    Ok(page)
}
