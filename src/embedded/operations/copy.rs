//! CopyObject and UploadPartCopy: no bytes move, blobs get another reference.
//!
//! 1. A copy of a multipart object gets the ETag of a plain one (as on S3), and any copy may get another checksum
//!    algorithm: then the bytes are read once, and still not written.
//! 2. The source may be replaced or deleted meanwhile: its blobs are pinned from the look on. The copy is then one of
//!    the object as it was at the look; only conditions on the destination hold at the moment of the change.

use super::super::blobs::{self, Span};
use super::super::checksums::{Algorithm, Kind, ObjectSum};
use super::super::conditions::{ReadConditions, WriteConditions};
use super::super::state::{Headers, Object, Part, Piece, Record, slice};
use super::super::store::{Store, bucket_of, internal, now_s};
use super::dto::{
    check_customer_key, check_headers, etag, find, headers_of, new_version, shown_version_id, timestamp,
    with_sum,
};
use super::multipart::{check_part_number, upload_of};
use super::objects::{MAX_BODY_BYTES, etag_of, kept_headers};
use super::{Answer, restore, tags};
use crate::rt;
use http::{HeaderMap, HeaderName};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};
use std::sync::Arc;

/// Ranges can only be copied from sources larger than this.
const MIN_RANGE_SOURCE_BYTES: u64 = 5 << 20;

struct CopyFrom {
    object: Arc<Object>,
    version_id: Option<String>,
    bucket: String,
    key: String,
    spans: Vec<Span>,
}

impl Store {
    fn copy_source(&self, source: &CopySource, conditions: &ReadConditions) -> S3Result<CopyFrom> {
        let CopySource::Bucket {
            bucket: name,
            key,
            version_id,
        } = source
        else {
            return Err(s3_error!(NotImplemented, "copies from access points"));
        };
        self.read(name, |bucket| {
            let (version, object) = find(bucket, key, version_id.as_deref())?;
            restore::check_readable(self, object)?;
            conditions.check_source(&object.etag, &timestamp(object.modified_s))?;
            Ok(CopyFrom {
                object: Arc::clone(object),
                version_id: shown_version_id(bucket, &version.id),
                bucket: name.to_string(),
                key: key.to_string(),
                spans: self.spans(&object.pieces)?,
            })
        })
    }
}

/// `s3s` does not parse the conditions on a copy's destination.
fn condition(headers: &HeaderMap, name: &HeaderName) -> S3Result<Option<ETagCondition>> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let parsed = ETagCondition::parse_http_header(value.as_bytes());
    parsed
        .map(Some)
        .map_err(|_| s3_error!(InvalidArgument, "invalid header: {name}"))
}

fn largest_bytes(store: &Store) -> u64 {
    store.quirks().largest_copy_bytes.unwrap_or(MAX_BODY_BYTES)
}

fn is_replace(directive: Option<&str>) -> bool {
    directive == Some("REPLACE")
}

pub async fn object(store: &Store, request: S3Request<CopyObjectInput>) -> Answer<CopyObjectOutput> {
    let mut input = request.input;
    let conditions = if store.quirks().ignore_copy_conditions {
        WriteConditions::default()
    } else {
        WriteConditions {
            if_match: condition(&request.headers, &http::header::IF_MATCH)?,
            if_none_match: condition(&request.headers, &http::header::IF_NONE_MATCH)?,
        }
    };
    let from = store.copy_source(
        &input.copy_source,
        &ReadConditions {
            if_match: input.copy_source_if_match.take(),
            if_none_match: input.copy_source_if_none_match.take(),
            if_modified_since: input.copy_source_if_modified_since.take(),
            if_unmodified_since: input.copy_source_if_unmodified_since.take(),
        },
    )?;
    let (bucket, key) = (input.bucket.clone(), input.key.clone());
    store.read(&bucket, |bucket| conditions.check(bucket.current_etag(&key)))?;
    if from.object.len_bytes > largest_bytes(store) {
        return Err(s3_error!(
            InvalidRequest,
            "the copy source is larger than a copy may be"
        ));
    }
    let headers = copied_headers(&mut input, &from)?;
    let tags = if is_replace(input.tagging_directive.as_ref().map(TaggingDirective::as_str)) {
        tags::parse_header(input.tagging.as_deref())?
    } else {
        from.object.tags.clone()
    };
    let wanted = input
        .checksum_algorithm
        .as_ref()
        .map(|algorithm| Algorithm::by_name(algorithm.as_str()));
    let (new_etag, sum) = digests_of_copy(store, &from, &headers, wanted.transpose()?).await?;
    let object = Object {
        pieces: from.object.pieces.clone(),
        len_bytes: from.object.len_bytes,
        etag: new_etag,
        modified_s: now_s(),
        headers: kept_headers(store, &key, headers),
        tags,
        sum: Some(sum.clone()),
        parts: Vec::new(),
    };
    let result = CopyObjectResult {
        e_tag: Some(etag(&object.etag)),
        last_modified: Some(timestamp(object.modified_s)),
        checksum_type: Some(ChecksumType::from_static(sum.kind.name())),
        ..CopyObjectResult::default()
    };
    let blobs = from.spans.into_iter().map(|span| span.blob);
    let version_id = store
        .change(blobs, |state| {
            let target = bucket_of(state, &bucket)?;
            conditions.check(target.current_etag(&key))?;
            let version = new_version(target, object.modified_s, Some(object));
            let shown = shown_version_id(target, &version.id);
            Ok((vec![Record::VersionAdded { bucket, key, version }], shown))
        })
        .await?;
    Ok(S3Response::new(CopyObjectOutput {
        copy_object_result: Some(with_sum!(result, Some(&sum.sum))),
        copy_source_version_id: from.version_id,
        version_id,
        ..CopyObjectOutput::default()
    }))
}

/// # Errors
/// `InvalidRequest` for a wrong key, and for a copy onto itself that changes nothing; `MetadataTooLarge`.
fn copied_headers(input: &mut CopyObjectInput, from: &CopyFrom) -> S3Result<Headers> {
    check_customer_key(
        &from.object.headers,
        input.copy_source_sse_customer_key_md5.as_deref(),
    )?;
    let replaces = is_replace(input.metadata_directive.as_ref().map(MetadataDirective::as_str));
    let given = headers_of!(input);
    let changes_something = replaces
        || given.storage_class.is_some()
        || given.server_side_encryption.is_some()
        || given.customer_key_md5.is_some()
        || given.website_redirect_location.is_some();
    if !changes_something && (from.bucket.as_str(), from.key.as_str()) == (&*input.bucket, &*input.key) {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing it"
        ));
    }
    check_headers(&given)?;
    if replaces {
        return Ok(given);
    }
    // These belong to the request, whatever happens to the metadata.
    Ok(Headers {
        storage_class: given.storage_class,
        server_side_encryption: given.server_side_encryption,
        kms_key_id: given.kms_key_id,
        customer_key_md5: given.customer_key_md5,
        website_redirect_location: given.website_redirect_location,
        ..from.object.headers.clone()
    })
}

async fn digests_of_copy(
    store: &Store,
    from: &CopyFrom,
    headers: &Headers,
    wanted: Option<Algorithm>,
) -> S3Result<(String, ObjectSum)> {
    let is_plain = |headers: &Headers| {
        headers.customer_key_md5.is_none()
            && headers
                .server_side_encryption
                .as_deref()
                .is_none_or(|how| how == "AES256")
    };
    let has_md5 = !store.quirks().opaque_etags && is_plain(headers) && is_plain(&from.object.headers);
    let source_sum = from.object.sum.as_ref();
    let algorithm = wanted
        .or(source_sum.map(|sum| sum.sum.algorithm))
        .unwrap_or(Algorithm::DEFAULT);
    let reusable = source_sum.filter(|sum| sum.sum.algorithm == algorithm && sum.kind == Kind::FullObject);
    if let Some(sum) = reusable {
        if !has_md5 {
            return Ok((rt::random_id(), sum.clone()));
        }
        if from.object.parts.is_empty() {
            return Ok((from.object.etag.clone(), sum.clone()));
        }
    }
    let digests = blobs::digest(&from.spans, &[algorithm], has_md5)
        .await
        .map_err(|error| internal(&error))?;
    let sum = digests
        .sum(algorithm)
        .cloned()
        .ok_or_else(|| s3_error!(InternalError))?;
    Ok((
        etag_of(store, headers, &digests),
        ObjectSum {
            sum,
            kind: Kind::FullObject,
        },
    ))
}

pub async fn part(store: &Store, request: S3Request<UploadPartCopyInput>) -> Answer<UploadPartCopyOutput> {
    let input = request.input;
    check_part_number(input.part_number)?;
    let from = store.copy_source(
        &input.copy_source,
        &ReadConditions {
            if_match: input.copy_source_if_match,
            if_none_match: input.copy_source_if_none_match,
            if_modified_since: input.copy_source_if_modified_since,
            if_unmodified_since: input.copy_source_if_unmodified_since,
        },
    )?;
    let plan = store.read(&input.bucket, |bucket| {
        Ok(upload_of(bucket, &input.key, &input.upload_id)?.1.plan.clone())
    })?;
    check_customer_key(
        &from.object.headers,
        input.copy_source_sse_customer_key_md5.as_deref(),
    )?;
    check_customer_key(&plan.headers, input.sse_customer_key_md5.as_deref())?;
    let algorithm = plan.algorithm_or_default();
    let pieces = pieces_of_range(&from.object, input.copy_source_range.as_deref())?;
    let len_bytes: u64 = pieces.iter().map(|piece| piece.len_bytes).sum();
    if len_bytes > MAX_BODY_BYTES {
        return Err(s3_error!(
            InvalidRequest,
            "the range is larger than a part may be"
        ));
    }
    let spans = store_spans(&from.spans, &pieces);
    let digests = blobs::digest(&spans, &[algorithm], !store.quirks().opaque_etags)
        .await
        .map_err(|error| internal(&error))?;
    let part = Part {
        pieces,
        len_bytes,
        etag: etag_of(store, &plan.headers, &digests),
        sums: digests.sums.clone(),
        modified_s: now_s(),
    };
    let result = CopyPartResult {
        e_tag: Some(etag(&part.etag)),
        last_modified: Some(timestamp(part.modified_s)),
        ..CopyPartResult::default()
    };
    store
        .change(spans.into_iter().map(|span| span.blob), |state| {
            let (name, _) = upload_of(bucket_of(state, &input.bucket)?, &input.key, &input.upload_id)?;
            let (bucket, number) = (input.bucket, input.part_number);
            Ok((
                vec![Record::PartAdded {
                    bucket,
                    name,
                    number,
                    part,
                }],
                (),
            ))
        })
        .await?;
    Ok(S3Response::new(UploadPartCopyOutput {
        copy_part_result: Some(with_sum!(result, digests.sum(algorithm))),
        copy_source_version_id: from.version_id,
        ..UploadPartCopyOutput::default()
    }))
}

/// # Errors
/// `InvalidArgument` for what is not `bytes=FIRST-LAST`; `InvalidRange` for what the source has not; `InvalidRequest`
/// for a source too small to copy ranges from.
fn pieces_of_range(object: &Object, range: Option<&str>) -> S3Result<Vec<Piece>> {
    let Some(range) = range else {
        return Ok(object.pieces.clone());
    };
    let numbers = range
        .strip_prefix("bytes=")
        .and_then(|numbers| numbers.split_once('-'));
    let parsed =
        numbers.and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
    let (first, last) = parsed
        .filter(|(first, last)| first <= last)
        .ok_or_else(|| s3_error!(InvalidArgument, "the range must have the form bytes=first-last"))?;
    if last >= object.len_bytes {
        return Err(s3_error!(InvalidRange));
    }
    if object.len_bytes <= MIN_RANGE_SOURCE_BYTES {
        return Err(s3_error!(
            InvalidRequest,
            "The specified copy source is not supported as a byte-range copy source"
        ));
    }
    Ok(slice(&object.pieces, first, last - first + 1))
}

/// The pinned blobs of an object, cut to `pieces` of it.
fn store_spans(pinned: &[Span], pieces: &[Piece]) -> Vec<Span> {
    let span = |piece: &Piece| {
        let blob = pinned.iter().find(|span| span.blob.id == piece.blob)?;
        Some(Span {
            blob: Arc::clone(&blob.blob),
            offset_bytes: piece.offset_bytes,
            len_bytes: piece.len_bytes,
        })
    };
    pieces.iter().filter_map(span).collect()
}
