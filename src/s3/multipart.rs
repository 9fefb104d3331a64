//! Multipart uploads: parts of data, parts that are copied on the server, completion with a condition.
//!
//! - Checksums are full-object CRC32C: the parts' own travel with them, the whole object's with the
//!   completion.
//! - A completion is never sent twice: the second would answer NoSuchUpload for our own success.
//! - S3 may answer 200 and put the error into the body; the SDK makes an error of it, `errors` knows that
//!   nobody knows.

use super::capabilities::Feature;
use super::client::Client;
use super::convert;
use super::errors::Failure;
use super::objects::{WireCondition, condition_failed_if_missing, content_md5, written_etag};
use super::retry::{Call, Replay};
use super::stamp::Keyed;
use super::types::{CompleteRequest, CopyPartsRequest, UploadId, UploadedPart};
use super::upload_body;
use crate::base::checksum::Crc32c;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{ByteRange, Condition, ETag, ObjectHeaders, ObjectId, Version};
use crate::base::segments::Segments;
use crate::telemetry::RequestClass;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, StorageClass,
};
use futures_util::stream::{self, StreamExt};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;

impl Client {
    /// # Errors
    /// A reply that is lost may leave an empty upload behind: it is begun again.
    pub async fn create_upload(&self, id: &ObjectId, headers: &ObjectHeaders) -> Result<UploadId> {
        self.check_changeable(id)?;
        self.with_checksum_fallback(|checksummed| self.send_create(id, headers, checksummed))
            .await
    }

    async fn send_create(
        &self,
        id: &ObjectId,
        headers: &ObjectHeaders,
        checksummed: bool,
    ) -> Result<UploadId> {
        let call = Call::on_object("CreateMultipartUpload", RequestClass::Multipart, id);
        let output = self
            .inner
            .run(&call, |sdk| {
                let create = convert::encrypted_as!(sdk.create_multipart_upload(), headers)
                    .bucket(&*id.bucket)
                    .key(&*id.key)
                    .set_checksum_algorithm(checksummed.then_some(ChecksumAlgorithm::Crc32C))
                    .set_checksum_type(checksummed.then_some(ChecksumType::FullObject))
                    .set_content_type(headers.content_type.clone())
                    .set_content_encoding(headers.content_encoding.clone())
                    .set_content_language(headers.content_language.clone())
                    .set_content_disposition(headers.content_disposition.clone())
                    .set_cache_control(headers.cache_control.clone())
                    .set_storage_class(headers.storage_class.as_deref().map(StorageClass::from))
                    .set_tagging(headers.tagging.clone())
                    .set_metadata(convert::sendable_metadata(&headers.metadata));
                async move { create.send().await.map_err(Failure::from) }
            })
            .await?;
        let upload = output.upload_id.filter(|upload| !upload.is_empty());
        upload
            .map(UploadId)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "no upload id in the answer").on(id))
    }

    pub async fn upload_part(
        &self,
        id: &ObjectId,
        upload: &UploadId,
        number: u32,
        body: Segments,
        checksum: Crc32c,
    ) -> Result<UploadedPart> {
        let body = &body;
        self.with_checksum_fallback(|checksummed| {
            self.send_part(id, upload, number, body, checksum, checksummed)
        })
        .await
    }

    async fn send_part(
        &self,
        id: &ObjectId,
        upload: &UploadId,
        number: u32,
        body: &Segments,
        checksum: Crc32c,
        checksummed: bool,
    ) -> Result<UploadedPart> {
        let md5 = if checksummed {
            None
        } else {
            Some(content_md5(body).await)
        };
        let call = Call::on_object("UploadPart", RequestClass::UploadPart, id).data();
        let output = self
            .inner
            .run(&call, |sdk| {
                let part = sdk
                    .upload_part()
                    .bucket(&*id.bucket)
                    .key(&*id.key)
                    .upload_id(&upload.0)
                    .part_number(number as i32)
                    .body(upload_body::from_segments(body))
                    .content_length(body.len_bytes() as i64)
                    .set_checksum_crc32_c(checksummed.then(|| checksum.to_base64()))
                    .set_content_md5(md5.clone())
                    .customize()
                    .disable_payload_signing();
                async move { part.send().await.map_err(Failure::from) }
            })
            .await?;
        Ok(UploadedPart {
            number,
            etag: convert::etag(output.e_tag()).map_err(|error| error.on(id))?,
            checksum: Some(checksum),
            len_bytes: body.len_bytes(),
        })
    }

    /// `from_etag` is the condition; PreconditionFailed when the source was replaced.
    pub async fn upload_part_copy(
        &self,
        id: &ObjectId,
        upload: &UploadId,
        number: u32,
        from: &ObjectId,
        from_etag: &ETag,
        range: ByteRange,
    ) -> Result<UploadedPart> {
        let (source, version_id) = self.seen_as(from, None).await?;
        let source = &convert::copy_source(&source, version_id.as_deref());
        let call = &Call::on_object("UploadPartCopy", RequestClass::UploadPartCopy, id).data();
        let send = |keyed: Keyed| {
            self.inner.run(call, move |sdk| {
                let copy = sdk
                    .upload_part_copy()
                    .bucket(&*id.bucket)
                    .key(&*id.key)
                    .upload_id(&upload.0)
                    .part_number(number as i32)
                    .copy_source(source)
                    .copy_source_if_match(from_etag.quoted())
                    .copy_source_range(convert::range_header(range))
                    .customize()
                    .mutate_request(move |request| keyed.apply(request));
                async move { copy.send().await.map_err(Failure::from) }
            })
        };
        let output = self.with_key_fallback(send).await?;
        let result = output.copy_part_result();
        let checksum = result.and_then(|result| result.checksum_crc32_c());
        Ok(UploadedPart {
            number,
            etag: convert::etag(result.and_then(|result| result.e_tag())).map_err(|error| error.on(id))?,
            checksum: checksum.and_then(|text| Crc32c::from_base64(text, range.len())),
            len_bytes: range.len(),
        })
    }

    /// Copies parts, as many at a time as `lanes` has turns and `at_once` says. After a failure none is begun any more, and
    /// all have ended when this returns: what arrives after an upload was aborted would stay in the store.
    ///
    /// # Errors
    /// The first failure; `PreconditionFailed` when the source was replaced.
    pub async fn copy_parts(
        &self,
        request: &CopyPartsRequest,
        at_once: usize,
        lanes: &Semaphore,
    ) -> Result<Vec<UploadedPart>> {
        let failed = &AtomicBool::new(false);
        let copies =
            (1..)
                .zip(request.ranges.iter().copied())
                .map(|(number, range): (u32, ByteRange)| async move {
                    // `Err` only from a semaphore that is closed, and nobody closes one that is lent out.
                    let _lane = lanes.acquire().await;
                    if failed.load(Ordering::Relaxed) {
                        return None;
                    }
                    let (to, upload) = (&request.to, &request.upload);
                    let copied = self
                        .upload_part_copy(to, upload, number, &request.from, &request.from_etag, range)
                        .await;
                    failed.fetch_or(copied.is_err(), Ordering::Relaxed);
                    Some(copied)
                });
        let copied: Vec<Option<Result<UploadedPart>>> =
            stream::iter(copies).buffered(at_once).collect().await;
        copied.into_iter().flatten().collect()
    }

    /// The time in the returned version is the server's clock, as the answer tells none.
    ///
    /// # Errors
    /// `PreconditionFailed` also when the condition names a version and there is no object. `NotFound`: no
    /// such upload. `Ambiguous` whenever the reply is lost.
    pub async fn complete_upload(&self, request: &CompleteRequest) -> Result<Version> {
        let features = (Feature::CompleteIfNoneMatch, Feature::CompleteIfMatch);
        let condition = self.checked(features, &request.id, &request.condition).await?;
        self.complete_as(request, &condition).await
    }

    /// A completion with `condition` instead of the request's own.
    pub(super) async fn complete_as(
        &self,
        request: &CompleteRequest,
        condition: &Condition,
    ) -> Result<Version> {
        let completed =
            self.with_checksum_fallback(|checksummed| self.send_complete(request, condition, checksummed));
        completed
            .await
            .map_err(|error| condition_failed_if_missing(error, condition))
    }

    async fn send_complete(
        &self,
        request: &CompleteRequest,
        condition: &Condition,
        checksummed: bool,
    ) -> Result<Version> {
        let id = &request.id;
        let wire = WireCondition::from(condition);
        let whole = request.checksum.filter(|_| checksummed).map(Crc32c::to_base64);
        let parts = request.parts.iter().map(|part| {
            CompletedPart::builder()
                .part_number(part.number as i32)
                .e_tag(part.etag.quoted())
                .set_checksum_crc32_c(part.checksum.filter(|_| checksummed).map(Crc32c::to_base64))
                .build()
        });
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts.collect()))
            .build();
        let call = Call::on_object("CompleteMultipartUpload", RequestClass::Multipart, id).data();
        let output = self
            .inner
            .run(&call.replay(Replay::Never), |sdk| {
                let complete = sdk
                    .complete_multipart_upload()
                    .bucket(&*id.bucket)
                    .key(&*id.key)
                    .upload_id(&request.upload.0)
                    .multipart_upload(parts.clone())
                    .set_checksum_type(whole.as_ref().map(|_| ChecksumType::FullObject))
                    .set_checksum_crc32_c(whole.clone())
                    .set_mpu_object_size(checksummed.then_some(request.size_bytes as i64))
                    .set_if_match(wire.if_match.clone())
                    .set_if_none_match(wire.if_none_match.clone());
                async move { complete.send().await.map_err(Failure::from) }
            })
            .await?;
        Ok(Version {
            etag: written_etag(output.e_tag(), id)?,
            size_bytes: request.size_bytes,
            version_id: convert::version_id(output.version_id()),
            last_modified: self.server_time(),
        })
    }

    /// Ok also when the upload is gone already.
    pub async fn abort_upload(&self, id: &ObjectId, upload: &UploadId) -> Result<()> {
        let call = Call::on_object("AbortMultipartUpload", RequestClass::Multipart, id);
        let aborted = self
            .inner
            .run(&call, |sdk| {
                let abort = sdk
                    .abort_multipart_upload()
                    .bucket(&*id.bucket)
                    .key(&*id.key)
                    .upload_id(&upload.0);
                async move { abort.send().await.map_err(Failure::from) }
            })
            .await;
        match aborted {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map(|_| ()),
        }
    }
}
