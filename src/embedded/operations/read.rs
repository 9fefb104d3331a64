//! GetObject, HeadObject, GetObjectAttributes.

use super::super::blobs::Span;
use super::super::body::SpanBody;
use super::super::conditions::ReadConditions;
use super::super::state::{Object, slice};
use super::super::store::Store;
use super::dto::{
    check_customer_key, etag, find, shown_sum, shown_version_id, timestamp, with_headers, with_sum,
};
use super::{Answer, restore};
use http::{HeaderMap, HeaderValue};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use std::ops::Range as ByteRange;
use std::sync::Arc;

const DEFAULT_MAX_PARTS: i32 = 1000;

/// What a reader asked for, found.
struct Found {
    object: Arc<Object>,
    version_id: Option<String>,
    range: ByteRange<u64>,
    is_partial: bool,
    /// Of the range, if the body is wanted.
    spans: Vec<Span>,
}

/// The part of a GET or HEAD that both share.
struct Wanted<'a> {
    bucket: &'a str,
    key: &'a str,
    version_id: Option<&'a str>,
    range: Option<Range>,
    part_number: Option<i32>,
    conditions: ReadConditions,
    with_body: bool,
    /// The client has to give the key that the object is encrypted with, and gives this one.
    needs_key: bool,
    customer_key_md5: Option<&'a str>,
}

impl Store {
    fn look_up(&self, wanted: &Wanted<'_>) -> S3Result<Found> {
        self.read(wanted.bucket, |bucket| {
            let (version, object) = find(bucket, wanted.key, wanted.version_id)?;
            if wanted.needs_key {
                check_customer_key(&object.headers, wanted.customer_key_md5)?;
            }
            if wanted.with_body {
                restore::check_readable(self, object)?;
            }
            let modified = timestamp(object.modified_s);
            wanted
                .conditions
                .check(&object.etag, &modified)
                .map_err(|error| with_validators(error, object))?;
            let range = match (wanted.range, wanted.part_number) {
                (Some(_), Some(_)) => {
                    return Err(s3_error!(
                        InvalidRequest,
                        "Range and partNumber cannot be combined"
                    ));
                }
                (Some(range), None) => Some(range.check(object.len_bytes)?),
                (None, Some(number)) => Some(part_range(object, number)?),
                (None, None) => None,
            };
            let is_partial = range.is_some();
            let range = range.unwrap_or(0..object.len_bytes);
            let pieces = slice(&object.pieces, range.start, range.end - range.start);
            let spans = if wanted.with_body {
                self.spans(&pieces)?
            } else {
                Vec::new()
            };
            let version_id = shown_version_id(bucket, &version.id);
            Ok(Found {
                object: Arc::clone(object),
                version_id,
                range,
                is_partial,
                spans,
            })
        })
    }
}

impl Found {
    fn content_range(&self) -> Option<String> {
        let ByteRange { start, end } = self.range;
        // A part of an empty object has no first byte to name.
        (self.is_partial && end > start)
            .then(|| format!("bytes {start}-{}/{}", end - 1, self.object.len_bytes))
    }

    fn parts_count(&self, part_number: Option<i32>) -> Option<i32> {
        let count = self.object.parts.len() as i32;
        part_number.map(|_| count).filter(|count| *count > 0)
    }

    fn tag_count(&self) -> Option<i32> {
        Some(self.object.tags.len() as i32).filter(|count| *count > 0)
    }
}

/// A 304 carries what a 200 would say about the version (RFC 9110 section 15.4.5).
fn with_validators(mut error: S3Error, object: &Object) -> S3Error {
    if error.code() == &S3ErrorCode::NotModified
        && let Ok(value) = HeaderValue::try_from(format!("\"{}\"", object.etag))
    {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::ETAG, value);
        error.set_headers(headers);
    }
    error
}

/// An object that was put whole has one part, number 1.
fn part_range(object: &Object, number: i32) -> S3Result<ByteRange<u64>> {
    if object.parts.is_empty() && number == 1 {
        return Ok(0..object.len_bytes);
    }
    let position = usize::try_from(number)
        .ok()
        .and_then(|number| number.checked_sub(1));
    let position = position.filter(|position| *position < object.parts.len());
    let position = position.ok_or_else(|| s3_error!(InvalidRange, "the object has no such part"))?;
    let start = object.parts[..position].iter().map(|part| part.len_bytes).sum();
    Ok(start..start + object.parts[position].len_bytes)
}

pub async fn get(store: &Store, request: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
    let input = request.input;
    let found = store.look_up(&Wanted {
        bucket: &input.bucket,
        key: &input.key,
        version_id: input.version_id.as_deref(),
        range: input.range,
        part_number: input.part_number,
        conditions: ReadConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        },
        with_body: true,
        needs_key: true,
        customer_key_md5: input.sse_customer_key_md5.as_deref(),
    })?;
    let object = &found.object;
    let sum_is_wanted = input.checksum_mode.is_some() && !found.is_partial;
    let output = GetObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_length: Some((found.range.end - found.range.start) as i64),
        content_range: found.content_range(),
        e_tag: Some(etag(&object.etag)),
        last_modified: Some(timestamp(object.modified_s)),
        parts_count: found.parts_count(input.part_number),
        tag_count: found.tag_count(),
        version_id: found.version_id.clone(),
        checksum_type: object
            .sum
            .as_ref()
            .filter(|_| sum_is_wanted)
            .map(|sum| ChecksumType::from_static(sum.kind.name())),
        ..GetObjectOutput::default()
    };
    let mut output = with_sum!(
        with_headers!(output, &object.headers),
        shown_sum(object, sum_is_wanted)
    );
    let body = SpanBody::new(found.spans, store.buffers());
    output.body = Some(s3s::Body::http_body_unsync(body).into());
    Ok(S3Response::new(output))
}

pub async fn head(store: &Store, request: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
    let input = request.input;
    let found = store.look_up(&Wanted {
        bucket: &input.bucket,
        key: &input.key,
        version_id: input.version_id.as_deref(),
        range: input.range,
        part_number: input.part_number,
        conditions: ReadConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        },
        with_body: false,
        needs_key: true,
        customer_key_md5: input.sse_customer_key_md5.as_deref(),
    })?;
    let object = &found.object;
    let sum_is_wanted = input.checksum_mode.is_some() && !found.is_partial;
    let output = HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_length: Some((found.range.end - found.range.start) as i64),
        content_range: found.content_range(),
        e_tag: Some(etag(&object.etag)),
        last_modified: Some(timestamp(object.modified_s)),
        parts_count: found.parts_count(input.part_number),
        restore: restore::shown(store, object),
        version_id: found.version_id.clone(),
        checksum_type: object
            .sum
            .as_ref()
            .filter(|_| sum_is_wanted)
            .map(|sum| ChecksumType::from_static(sum.kind.name())),
        ..HeadObjectOutput::default()
    };
    let output = with_sum!(
        with_headers!(output, &object.headers),
        shown_sum(object, sum_is_wanted)
    );
    let mut headers = HeaderMap::new();
    if let Some(count) = found.tag_count() {
        headers.insert("x-amz-tagging-count", count.into());
    }
    Ok(S3Response::with_headers(output, headers))
}

pub async fn attributes(
    store: &Store,
    request: S3Request<GetObjectAttributesInput>,
) -> Answer<GetObjectAttributesOutput> {
    let input = request.input;
    let found = store.look_up(&Wanted {
        bucket: &input.bucket,
        key: &input.key,
        version_id: input.version_id.as_deref(),
        range: None,
        part_number: None,
        conditions: ReadConditions::default(),
        with_body: false,
        needs_key: false,
        customer_key_md5: None,
    })?;
    let object = &found.object;
    let wants = |name: &str| {
        input
            .object_attributes
            .iter()
            .any(|attribute| attribute.as_str() == name)
    };
    let checksum = object
        .sum
        .as_ref()
        .filter(|_| wants(ObjectAttributes::CHECKSUM))
        .map(|sum| {
            let checksum_type = Some(ChecksumType::from_static(sum.kind.name()));
            with_sum!(
                Checksum {
                    checksum_type,
                    ..Checksum::default()
                },
                Some(&sum.sum)
            )
        });
    let storage_class = object
        .headers
        .storage_class
        .clone()
        .unwrap_or_else(|| "STANDARD".to_owned());
    Ok(S3Response::new(GetObjectAttributesOutput {
        checksum,
        e_tag: wants(ObjectAttributes::ETAG).then(|| etag(&object.etag)),
        last_modified: Some(timestamp(object.modified_s)),
        object_parts: wants(ObjectAttributes::OBJECT_PARTS)
            .then(|| parts_of(object, input.max_parts, input.part_number_marker))
            .flatten(),
        object_size: wants(ObjectAttributes::OBJECT_SIZE).then_some(object.len_bytes as i64),
        storage_class: wants(ObjectAttributes::STORAGE_CLASS).then(|| StorageClass::from(storage_class)),
        version_id: found.version_id.clone(),
        ..GetObjectAttributesOutput::default()
    }))
}

fn parts_of(object: &Object, max: Option<i32>, marker: Option<i32>) -> Option<GetObjectAttributesParts> {
    if object.parts.is_empty() {
        return None;
    }
    let max = max.unwrap_or(DEFAULT_MAX_PARTS).clamp(0, DEFAULT_MAX_PARTS);
    let mut rest = object
        .parts
        .iter()
        .filter(|part| part.number > marker.unwrap_or(0));
    let page: Vec<ObjectPart> = rest
        .by_ref()
        .take(max as usize)
        .map(|part| {
            let listed = ObjectPart {
                part_number: Some(part.number),
                size: Some(part.len_bytes as i64),
                ..ObjectPart::default()
            };
            with_sum!(listed, part.sum.as_ref())
        })
        .collect();
    let is_truncated = rest.next().is_some();
    Some(GetObjectAttributesParts {
        is_truncated: Some(is_truncated),
        max_parts: Some(max),
        next_part_number_marker: page.last().and_then(|part| part.part_number),
        part_number_marker: marker,
        parts: Some(page),
        total_parts_count: Some(object.parts.len() as i32),
    })
}
