//! PutObject, DeleteObject, DeleteObjects; and how a body gets into the store.

use super::super::blobs::Written;
use super::super::checksums::{Algorithm, Claims, Digests, Kind, ObjectSum};
use super::super::conditions::WriteConditions;
use super::super::state::{Bucket, Headers, Object, Piece, Record, Versioning};
use super::super::store::{Store, bucket_of, internal, now_s};
use super::dto::{
    check_headers, claims_of, etag, headers_of, new_version, shown_version_id, sums_of, with_sum,
};
use super::{Answer, tags};
use crate::rt;
use futures_util::StreamExt;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, TrailingHeaders, s3_error};

/// Of one PUT and of one part.
pub const MAX_BODY_BYTES: u64 = 5 << 30;
const MAX_KEYS_PER_DELETE: usize = 1000;

/// A request's body with what the request says about it.
pub struct IncomingBody {
    pub stream: Option<StreamingBlob>,
    pub len_bytes: Option<i64>,
    pub claims: Claims,
    pub trailers: Option<TrailingHeaders>,
}

impl IncomingBody {
    /// Takes the body in and verifies it. `also` names an algorithm to compute besides the claimed ones.
    ///
    /// # Errors
    /// `EntityTooLarge`, `IncompleteBody`, `BadDigest`, `InternalError`. Nothing stays behind then.
    pub async fn take_in(self, store: &Store, also: Algorithm) -> S3Result<Written> {
        let announced_bytes = self.len_bytes.map(|length| length as u64);
        if announced_bytes.is_some_and(|length| length > MAX_BODY_BYTES) {
            return Err(s3_error!(EntityTooLarge));
        }
        let algorithms: Vec<Algorithm> = self.claims.chosen().into_iter().chain([also]).collect();
        let with_md5 = self.claims.has_md5() || !store.quirks().opaque_etags;
        let mut writer = store
            .blobs()
            .create(&algorithms, with_md5)
            .map_err(|error| internal(&error))?;
        if let Some(mut stream) = self.stream {
            while let Some(piece) = stream.next().await {
                // A broken connection, or a body that is not what its signature says.
                let piece = piece.map_err(|error| s3_error!(IncompleteBody, "{error}"))?;
                writer.write(piece).await.map_err(|error| internal(&error))?;
                if writer.len_bytes() > MAX_BODY_BYTES {
                    return Err(s3_error!(EntityTooLarge));
                }
            }
        }
        if announced_bytes.is_some_and(|length| length != writer.len_bytes()) {
            return Err(s3_error!(IncompleteBody));
        }
        let written = writer.finish().await.map_err(|error| internal(&error))?;
        let trailers = self.trailers.and_then(|trailers| trailers.take());
        self.claims.verify(trailers.as_ref(), &written.digests)?;
        Ok(written)
    }
}

impl Written {
    pub fn pieces(&self) -> Vec<Piece> {
        let piece = |blob: &std::sync::Arc<super::super::blobs::Blob>| Piece {
            blob: blob.id,
            offset_bytes: 0,
            len_bytes: self.len_bytes,
        };
        self.blob.iter().map(piece).collect()
    }
}

/// The ETag of bytes with these digests. As on S3, it is their MD5 only where the store has the key.
pub fn etag_of(store: &Store, headers: &Headers, digests: &Digests) -> String {
    let is_opaque = store.quirks().opaque_etags
        || headers.customer_key_md5.is_some()
        || headers
            .server_side_encryption
            .as_deref()
            .is_some_and(|how| how != "AES256");
    digests
        .etag()
        .filter(|_| !is_opaque)
        .unwrap_or_else(rt::random_id)
}

/// Drops what a store with that quirk drops.
pub fn kept_headers(store: &Store, key: &str, headers: Headers) -> Headers {
    if store.quirks().forget_metadata_of_markers && key.ends_with('/') {
        Headers::default()
    } else {
        headers
    }
}

pub async fn put(store: &Store, request: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
    let mut input = request.input;
    let conditions = WriteConditions {
        if_match: input.if_match.take(),
        if_none_match: input.if_none_match.take(),
    };
    let conditions = if store.quirks().ignore_put_conditions {
        WriteConditions::default()
    } else {
        conditions
    };
    let (bucket, key) = (input.bucket.clone(), input.key.clone());
    store.read(&bucket, |bucket| conditions.check(bucket.current_etag(&key)))?;
    let claims = claims_of!(input, &request.headers)?;
    let algorithm = claims.chosen().unwrap_or(Algorithm::DEFAULT);
    let headers = headers_of!(input);
    check_headers(&headers)?;
    let headers = kept_headers(store, &key, headers);
    let tags = tags::parse_header(input.tagging.as_deref())?;
    let body = IncomingBody {
        stream: input.body.take(),
        len_bytes: input.content_length,
        claims,
        trailers: request.trailing_headers,
    };
    let written = body.take_in(store, algorithm).await?;
    let sum = written.digests.sum(algorithm).cloned();
    let object = Object {
        pieces: written.pieces(),
        len_bytes: written.len_bytes,
        etag: etag_of(store, &headers, &written.digests),
        modified_s: now_s(),
        headers,
        tags,
        sum: sum.clone().map(|sum| ObjectSum {
            sum,
            kind: Kind::FullObject,
        }),
        parts: Vec::new(),
    };
    let e_tag = Some(etag(&object.etag));
    let version_id = store
        .change(written.blob, |state| {
            let target = bucket_of(state, &bucket)?;
            conditions.check(target.current_etag(&key))?;
            let version = new_version(target, object.modified_s, Some(object));
            let shown = shown_version_id(target, &version.id);
            Ok((vec![Record::VersionAdded { bucket, key, version }], shown))
        })
        .await?;
    let checksum_type = Some(ChecksumType::from_static(Kind::FullObject.name()));
    let output = PutObjectOutput {
        e_tag,
        version_id,
        checksum_type,
        ..PutObjectOutput::default()
    };
    Ok(S3Response::new(with_sum!(output, sum.as_ref())))
}

/// What one deletion does, and what it answers.
struct Deletion {
    record: Option<Record>,
    is_marker: bool,
    version_id: Option<String>,
}

fn plan_deletion(bucket: &Bucket, name: &str, key: &str, version_id: Option<&str>) -> Deletion {
    if let Some(id) = version_id {
        let version = bucket.version(key, id);
        let removed = |_| Record::VersionRemoved {
            bucket: name.to_owned(),
            key: key.to_owned(),
            id: id.to_owned(),
        };
        return Deletion {
            record: version.map(removed),
            is_marker: version.is_some_and(|version| version.object.is_none()),
            version_id: Some(id.to_owned()),
        };
    }
    if bucket.versioning == Versioning::Never {
        let removed = bucket.newest(key).map(|version| Record::VersionRemoved {
            bucket: name.to_owned(),
            key: key.to_owned(),
            id: version.id.clone(),
        });
        return Deletion {
            record: removed,
            is_marker: false,
            version_id: None,
        };
    }
    let version = new_version(bucket, now_s(), None);
    let version_id = Some(version.id.clone());
    let record = Record::VersionAdded {
        bucket: name.to_owned(),
        key: key.to_owned(),
        version,
    };
    Deletion {
        record: Some(record),
        is_marker: true,
        version_id,
    }
}

pub async fn delete(store: &Store, request: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
    let input = request.input;
    let if_match = input
        .if_match
        .filter(|_| !store.quirks().ignore_delete_conditions);
    let conditions = WriteConditions {
        if_match,
        if_none_match: None,
    };
    let deletion = store
        .change([], |state| {
            let bucket = bucket_of(state, &input.bucket)?;
            conditions.check(bucket.current_etag(&input.key))?;
            let mut deletion = plan_deletion(bucket, &input.bucket, &input.key, input.version_id.as_deref());
            Ok((deletion.record.take().into_iter().collect(), deletion))
        })
        .await?;
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: deletion.is_marker.then_some(true),
        version_id: deletion.version_id,
        ..DeleteObjectOutput::default()
    }))
}

pub async fn delete_many(
    store: &Store,
    request: S3Request<DeleteObjectsInput>,
) -> Answer<DeleteObjectsOutput> {
    let input = request.input;
    if input.delete.objects.is_empty() || input.delete.objects.len() > MAX_KEYS_PER_DELETE {
        return Err(s3_error!(MalformedXML));
    }
    let ignores_conditions = store.quirks().ignore_delete_conditions;
    let (deleted, errors) = store
        .change([], |state| {
            let bucket = bucket_of(state, &input.bucket)?;
            let (mut records, mut deleted, mut errors) = (Vec::new(), Vec::new(), Vec::new());
            for object in input.delete.objects {
                let if_match = object
                    .e_tag
                    .filter(|_| !ignores_conditions)
                    .map(ETagCondition::ETag);
                let conditions = WriteConditions {
                    if_match,
                    if_none_match: None,
                };
                if let Err(error) = conditions.check(bucket.current_etag(&object.key)) {
                    errors.push(Error {
                        code: Some(error.code().as_str().to_owned()),
                        key: Some(object.key),
                        message: error.message().map(str::to_owned),
                        version_id: object.version_id,
                    });
                    continue;
                }
                let deletion =
                    plan_deletion(bucket, &input.bucket, &object.key, object.version_id.as_deref());
                records.extend(deletion.record);
                deleted.push(DeletedObject {
                    key: Some(object.key),
                    delete_marker: deletion.is_marker.then_some(true),
                    delete_marker_version_id: deletion.version_id.filter(|_| deletion.is_marker),
                    version_id: object.version_id,
                });
            }
            Ok((records, (deleted, errors)))
        })
        .await?;
    let is_quiet = input.delete.quiet == Some(true);
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: Some(deleted).filter(|_| !is_quiet),
        errors: Some(errors),
        ..DeleteObjectsOutput::default()
    }))
}
