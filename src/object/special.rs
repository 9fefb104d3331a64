//! Symlinks and special files: one-part multipart uploads, whose ETag (it ends in `-1`) marks them in listings.

use super::file::FileContext;
use super::outcome::{self, Outcome};
use crate::base::attributes::TRANSACTION;
use crate::base::checksum::Crc32c;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{Condition, ObjectHeaders, ObjectId, Version};
use crate::base::segments::Segments;
use crate::rt;
use crate::s3::Client;
use crate::s3::types::{CompleteRequest, UploadId};
use crate::spool::OpenUpload;
use bytes::Bytes;

/// Writes `body` with `headers` (whose metadata says what kind of file it is) as a special file.
///
/// # Errors
/// `PreconditionFailed` when `condition` does not hold; `Ambiguous` when nobody can tell what came of it. An upload that
/// did not become an object is aborted, as far as the store can be reached.
pub async fn put_special(
    context: &FileContext,
    id: &ObjectId,
    body: &[u8],
    headers: &ObjectHeaders,
    condition: Condition,
) -> Result<Version> {
    let client = &context.client;
    let transaction = rt::random_id();
    let mut headers = headers.clone();
    headers
        .metadata
        .insert(TRANSACTION.to_owned(), transaction.clone());
    let upload = client.create_upload(id, &headers).await?;
    let stored = send(client, id, &upload, body, &transaction, condition).await;
    if let Err(error) = &stored {
        let left = match error.kind() {
            // It may have become the object after all: the next mount sees.
            ErrorKind::Ambiguous => true,
            _ => client.abort_upload(id, &upload).await.is_err(),
        };
        if left {
            tracing::warn!(%error, upload = %upload.0, "an upload stays open; the next mount aborts it");
            record(context, id, upload).await;
        }
    }
    stored
}

async fn record(context: &FileContext, id: &ObjectId, upload: UploadId) {
    let open = OpenUpload {
        bucket: id.bucket.to_string(),
        key: id.key.to_string(),
        upload_id: upload.0,
    };
    let spool = context.spool.clone();
    if let Err(error) = rt::blocking(move || spool.record_upload(&open)).await {
        tracing::warn!(%error, "an unfinished upload stays in the store");
    }
}

async fn send(
    client: &Client,
    id: &ObjectId,
    upload: &UploadId,
    body: &[u8],
    transaction: &str,
    condition: Condition,
) -> Result<Version> {
    let checksum = Crc32c::of(body);
    let segments = Segments::from(Bytes::copy_from_slice(body));
    let part = client.upload_part(id, upload, 1, segments, checksum).await?;
    let request = CompleteRequest {
        id: id.clone(),
        upload: upload.clone(),
        parts: vec![part],
        checksum: Some(checksum),
        size_bytes: body.len() as u64,
        condition,
    };
    let complete = || client.complete_upload(&request);
    match outcome::settle(client, id, transaction, &request.condition, complete).await? {
        Outcome::Stored(version) => Ok(version),
        Outcome::Lost(_) => {
            Err(Error::new(ErrorKind::PreconditionFailed, "another object has this name").on(id))
        }
    }
}
