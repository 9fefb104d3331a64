//! Copies of objects that are multipart uploads: of large ones, by parts beside each other; of symlinks and special files, whose
//! ETag is their mark.
//!
//! 1. A copy that fails aborts its upload, once all its parts have ended. One that a crash cuts off is recorded, and the next
//!    mount aborts it. (Of special files, which are there in a moment, only the former.)
//! 2. A lost reply to a completion is resolved by the transaction in the metadata.
//! 3. A directory rename copies many objects at a time: all parts of all of them share their turns.

use super::Tree;
use crate::base::attributes::TRANSACTION;
use crate::base::checksum::Crc32c;
use crate::base::error::{ErrorKind, Result};
use crate::base::object::{Condition, ObjectId, ObjectInfo, Version};
use crate::base::segments::Segments;
use crate::plan::copies::{PARALLEL_PART_COPIES, ranges_of_copy};
use crate::rt;
use crate::s3::types::{CompleteRequest, CopyPartsRequest, UploadId, UploadedPart};
use crate::spool::{OpenUpload, RecordId, Spool};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How often a completion is sent of which nobody knows what came.
const MAX_TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);

/// What these copies need besides the store.
pub(super) struct PartCopies {
    spool: Arc<Spool>,
    lanes: Semaphore,
}

impl PartCopies {
    pub fn new(spool: Arc<Spool>) -> Self {
        Self {
            spool,
            lanes: Semaphore::new(2 * PARALLEL_PART_COPIES),
        }
    }
}

/// An upload that is to become a copy.
struct Begun {
    to: ObjectId,
    upload: UploadId,
    record: Option<RecordId>,
}

impl Tree {
    /// Copies this version, with these headers, in parts.
    ///
    /// # Errors
    /// As [`Tree::copy_version`].
    pub(super) async fn copy_in_parts(
        &self,
        from: &ObjectId,
        info: &ObjectInfo,
        to: &ObjectId,
        condition: Condition,
    ) -> Result<Version> {
        let size_bytes = info.version.size_bytes;
        let headers = self.client.with_tags(&info.headers, from).await?;
        let upload = self.client.create_upload(to, &headers).await?;
        let begun = self.recorded(to, upload).await?;
        let request = CopyPartsRequest {
            to: to.clone(),
            upload: begun.upload.clone(),
            from: from.clone(),
            from_etag: info.version.etag.clone(),
            ranges: ranges_of_copy(size_bytes, &self.client.limits()),
        };
        tracing::info!(%from, %to, size_bytes, parts = request.ranges.len(), "the store copies a large object in parts");
        let parts = self
            .client
            .copy_parts(&request, PARALLEL_PART_COPIES, &self.part_copies.lanes)
            .await;
        self.complete_or_abort(begun, parts, info, condition).await
    }

    pub(super) async fn copy_special(
        &self,
        from: &ObjectId,
        info: &ObjectInfo,
        to: &ObjectId,
        condition: Condition,
    ) -> Result<Version> {
        let body = self.small_body(from, &info.version.etag).await?;
        let checksum = Crc32c::of(&body);
        let headers = self.client.with_tags(&info.headers, from).await?;
        let begun = Begun {
            to: to.clone(),
            upload: self.client.create_upload(to, &headers).await?,
            record: None,
        };
        let part = self
            .client
            .upload_part(to, &begun.upload, 1, Segments::from(body), checksum)
            .await;
        let parts = part.map(|part| vec![part]);
        self.complete_or_abort(begun, parts, info, condition).await
    }

    async fn recorded(&self, to: &ObjectId, upload: UploadId) -> Result<Begun> {
        let record = OpenUpload {
            bucket: to.bucket.to_string(),
            key: to.key.to_string(),
            upload_id: upload.0.clone(),
        };
        let mut begun = Begun {
            to: to.clone(),
            upload,
            record: None,
        };
        match self.part_copies.spool.note_upload(record).await {
            Ok(record) => {
                begun.record = record;
                Ok(begun)
            }
            Err(error) => {
                self.abort(begun).await;
                Err(error)
            }
        }
    }

    async fn complete_or_abort(
        &self,
        begun: Begun,
        parts: Result<Vec<UploadedPart>>,
        info: &ObjectInfo,
        condition: Condition,
    ) -> Result<Version> {
        let completed = match parts {
            Ok(parts) => {
                let request = CompleteRequest {
                    id: begun.to.clone(),
                    upload: begun.upload.clone(),
                    checksum: UploadedPart::whole_checksum(&parts),
                    parts,
                    size_bytes: info.version.size_bytes,
                    condition,
                };
                self.complete(&request, info).await
            }
            Err(error) => Err(error),
        };
        if completed.is_err() {
            self.abort(begun).await;
        } else if let Some(record) = begun.record {
            self.part_copies.spool.finished(record).await;
        }
        completed
    }

    /// Where nobody can tell what came of a completion, the object tells; where it is not there, the same is sent again.
    async fn complete(&self, request: &CompleteRequest, info: &ObjectInfo) -> Result<Version> {
        let mut completed = self.client.complete_upload(request).await;
        for _ in 1..MAX_TRIES {
            match &completed {
                Err(error) if error.kind() == ErrorKind::Ambiguous => {}
                _ => break,
            }
            let transaction = info.headers.metadata.get(TRANSACTION);
            match self.client.head(&request.id).await {
                Ok(there)
                    if transaction.is_some() && there.headers.metadata.get(TRANSACTION) == transaction =>
                {
                    return Ok(there.version);
                }
                Err(error) if error.kind() != ErrorKind::NotFound => break,
                _ => {}
            }
            rt::sleep(PAUSE).await;
            match self.client.complete_upload(request).await {
                // It was carried out, and somebody has replaced what came of it.
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                again => completed = again,
            }
        }
        completed
    }

    async fn abort(&self, begun: Begun) {
        match self.client.abort_upload(&begun.to, &begun.upload).await {
            Ok(()) => {
                if let Some(record) = begun.record {
                    self.part_copies.spool.finished(record).await;
                }
            }
            Err(error) if begun.record.is_some() => {
                tracing::warn!(%error, "the upload of a copy could not be aborted; the next mount tries again");
            }
            Err(error) => tracing::warn!(%error, "the upload of a copy could not be aborted"),
        }
    }
}
