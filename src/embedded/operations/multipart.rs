//! Multipart uploads. Completing one joins the parts' pieces: no byte is copied.

use super::super::checksums::{self, Algorithm, Kind, ObjectSum, Sum};
use super::super::conditions::WriteConditions;
use super::super::state::{Bucket, Object, Part, PartSummary, Record, Upload, UploadName, UploadPlan, join};
use super::super::store::{Store, bucket_of, now_s};
use super::dto::{
    check_customer_key, check_headers, claims_of, etag, headers_of, new_version, shown_version_id, sums_of,
    with_sum,
};
use super::objects::{IncomingBody, etag_of, kept_headers};
use super::{Answer, tags};
use crate::rt;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

const MAX_PART_NUMBER: i32 = 10_000;
/// Of every part but the last.
const MIN_PART_BYTES: u64 = 5 << 20;

pub fn check_part_number(number: i32) -> S3Result<()> {
    if (1..=MAX_PART_NUMBER).contains(&number) {
        return Ok(());
    }
    Err(s3_error!(
        InvalidArgument,
        "Part number must be an integer between 1 and 10000, inclusive"
    ))
}

pub fn upload_of<'a>(bucket: &'a Bucket, key: &str, id: &str) -> S3Result<(UploadName, &'a Upload)> {
    let name = UploadName {
        key: key.to_owned(),
        id: id.to_owned(),
    };
    let upload = bucket.uploads.get(&name).ok_or_else(|| s3_error!(NoSuchUpload))?;
    Ok((name, upload))
}

pub async fn create(
    store: &Store,
    request: S3Request<CreateMultipartUploadInput>,
) -> Answer<CreateMultipartUploadOutput> {
    let mut input = request.input;
    let algorithm = input
        .checksum_algorithm
        .as_ref()
        .map(|name| Algorithm::by_name(name.as_str()))
        .transpose()?;
    let kind = match input.checksum_type.as_ref().map(ChecksumType::as_str) {
        None => algorithm.map_or(Kind::FullObject, Algorithm::default_kind),
        Some(ChecksumType::FULL_OBJECT) => Kind::FullObject,
        Some(ChecksumType::COMPOSITE) => Kind::Composite,
        Some(_) => return Err(s3_error!(InvalidRequest, "unknown checksum type")),
    };
    let is_allowed = match algorithm {
        Some(algorithm) => algorithm.allows(kind),
        None => input.checksum_type.is_none(),
    };
    if !is_allowed {
        return Err(s3_error!(
            InvalidRequest,
            "this checksum type is not possible with this algorithm"
        ));
    }
    let headers = headers_of!(input);
    check_headers(&headers)?;
    let plan = Box::new(UploadPlan {
        created_s: now_s(),
        headers: kept_headers(store, &input.key, headers),
        tags: tags::parse_header(input.tagging.as_deref())?,
        algorithm,
        kind,
    });
    let name = UploadName {
        key: input.key.clone(),
        id: rt::random_id(),
    };
    let upload_id = name.id.clone();
    let bucket = input.bucket.clone();
    store
        .change([], |state| {
            bucket_of(state, &bucket)?;
            Ok((vec![Record::UploadCreated { bucket, name, plan }], ()))
        })
        .await?;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(upload_id),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type: algorithm.map(|_| ChecksumType::from_static(kind.name())),
        ..CreateMultipartUploadOutput::default()
    }))
}

pub async fn part(store: &Store, request: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
    let mut input = request.input;
    check_part_number(input.part_number)?;
    let plan = store.read(&input.bucket, |bucket| {
        Ok(upload_of(bucket, &input.key, &input.upload_id)?.1.plan.clone())
    })?;
    check_customer_key(&plan.headers, input.sse_customer_key_md5.as_deref())?;
    let claims = claims_of!(input, &request.headers)?;
    let chosen = claims.chosen();
    if let (Some(chosen), Some(planned)) = (chosen, plan.algorithm)
        && chosen != planned
    {
        let (planned, chosen) = (planned.name(), chosen.name());
        return Err(s3_error!(
            InvalidRequest,
            "Checksum Type mismatch occurred, expected checksum Type: {planned}, actual checksum Type: {chosen}"
        ));
    }
    let body = IncomingBody {
        stream: input.body.take(),
        len_bytes: input.content_length,
        claims,
        trailers: request.trailing_headers,
    };
    let written = body.take_in(store, plan.algorithm_or_default()).await?;
    let part = Part {
        pieces: written.pieces(),
        len_bytes: written.len_bytes,
        etag: etag_of(store, &plan.headers, &written.digests),
        sums: written.digests.sums.clone(),
        modified_s: now_s(),
    };
    let e_tag = Some(etag(&part.etag));
    store
        .change(written.blob, |state| {
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
    let shown = chosen
        .or(plan.algorithm)
        .and_then(|algorithm| written.digests.sum(algorithm));
    Ok(S3Response::new(with_sum!(
        UploadPartOutput {
            e_tag,
            ..UploadPartOutput::default()
        },
        shown
    )))
}

pub async fn abort(
    store: &Store,
    request: S3Request<AbortMultipartUploadInput>,
) -> Answer<AbortMultipartUploadOutput> {
    let input = request.input;
    store
        .change([], |state| {
            let (name, _) = upload_of(bucket_of(state, &input.bucket)?, &input.key, &input.upload_id)?;
            Ok((
                vec![Record::UploadAborted {
                    bucket: input.bucket,
                    name,
                }],
                (),
            ))
        })
        .await?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

pub async fn complete(
    store: &Store,
    request: S3Request<CompleteMultipartUploadInput>,
) -> Answer<CompleteMultipartUploadOutput> {
    let mut input = request.input;
    let conditions = WriteConditions {
        if_match: input.if_match.take(),
        if_none_match: input.if_none_match.take(),
    };
    let conditions = if store.quirks().ignore_complete_conditions {
        WriteConditions::default()
    } else {
        conditions
    };
    let claim = Claim {
        parts: input
            .multipart_upload
            .take()
            .and_then(|list| list.parts)
            .unwrap_or_default(),
        sums: sums_of!(input),
        kind: input.checksum_type.as_ref().map(|kind| kind.as_str().to_owned()),
        len_bytes: input.mpu_object_size.map(|length| length as u64),
    };
    let (bucket, key) = (input.bucket.clone(), input.key.clone());
    let (e_tag, sum, version_id) = store
        .change([], |state| {
            let target = bucket_of(state, &bucket)?;
            let (name, upload) = upload_of(target, &key, &input.upload_id)?;
            // S3 wants the key again where it has to make a checksum of the parts.
            if upload.plan.headers.customer_key_md5.is_some() && upload.plan.algorithm.is_some() {
                check_customer_key(&upload.plan.headers, input.sse_customer_key_md5.as_deref())?;
            }
            conditions.check(target.current_etag(&key))?;
            let object = claim.object(upload)?;
            let (e_tag, sum) = (Some(etag(&object.etag)), object.sum.clone());
            let version = new_version(target, object.modified_s, Some(object));
            let shown = shown_version_id(target, &version.id);
            Ok((
                vec![Record::UploadCompleted {
                    bucket,
                    name,
                    version,
                }],
                (e_tag, sum, shown),
            ))
        })
        .await?;
    let output = CompleteMultipartUploadOutput {
        location: Some(format!("/{}/{}", input.bucket, input.key)),
        bucket: Some(input.bucket),
        key: Some(input.key),
        e_tag,
        version_id,
        checksum_type: sum.as_ref().map(|sum| ChecksumType::from_static(sum.kind.name())),
        ..CompleteMultipartUploadOutput::default()
    };
    Ok(S3Response::new(with_sum!(
        output,
        sum.as_ref().map(|sum| &sum.sum)
    )))
}

/// What the client says its upload consists of.
struct Claim {
    parts: Vec<CompletedPart>,
    sums: Vec<Sum>,
    kind: Option<String>,
    len_bytes: Option<u64>,
}

impl Claim {
    /// The object, if everything in the claim holds.
    ///
    /// # Errors
    /// `MalformedXML` (no parts), `InvalidPartOrder`, `InvalidPart` (not there, or another ETag or checksum),
    /// `EntityTooSmall`, `InvalidRequest` (length, checksum type), `BadDigest`.
    fn object(mut self, upload: &Upload) -> S3Result<Object> {
        if self.parts.is_empty() {
            return Err(s3_error!(MalformedXML));
        }
        let mut parts: Vec<(i32, &Part)> = Vec::with_capacity(self.parts.len());
        for claimed in std::mem::take(&mut self.parts) {
            let part = claimed_part(claimed, upload)?;
            if parts.last().is_some_and(|(number, _)| *number >= part.0) {
                return Err(s3_error!(InvalidPartOrder));
            }
            parts.push(part);
        }
        if parts[..parts.len() - 1]
            .iter()
            .any(|(_, part)| part.len_bytes < MIN_PART_BYTES)
        {
            return Err(s3_error!(EntityTooSmall));
        }
        let len_bytes = parts.iter().map(|(_, part)| part.len_bytes).sum();
        if self.len_bytes.is_some_and(|claimed| claimed != len_bytes) {
            return Err(s3_error!(
                InvalidRequest,
                "x-amz-mp-object-size does not match the parts"
            ));
        }
        let sum = self.sum(upload, &parts)?;
        let plan = &upload.plan;
        let algorithm = plan.algorithm_or_default();
        Ok(Object {
            pieces: join(parts.iter().flat_map(|(_, part)| part.pieces.iter().copied())),
            len_bytes,
            etag: checksums::etag_of_parts(parts.iter().map(|(_, part)| part.etag.as_str())),
            // S3 dates a multipart object by the start of its upload.
            modified_s: plan.created_s,
            headers: plan.headers.clone(),
            tags: plan.tags.clone(),
            sum: Some(sum),
            parts: parts
                .iter()
                .map(|(number, part)| PartSummary {
                    number: *number,
                    len_bytes: part.len_bytes,
                    sum: sum_of_part(part, algorithm)
                        .filter(|_| plan.kind == Kind::Composite)
                        .cloned(),
                })
                .collect(),
        })
    }

    fn sum(&self, upload: &Upload, parts: &[(i32, &Part)]) -> S3Result<ObjectSum> {
        let (algorithm, kind) = (upload.plan.algorithm_or_default(), upload.plan.kind);
        if self.kind.as_ref().is_some_and(|claimed| claimed != kind.name()) {
            return Err(s3_error!(
                InvalidRequest,
                "the upload was created with another checksum type"
            ));
        }
        let sums = parts
            .iter()
            .map(|(_, part)| (sum_of_part(part, algorithm), part.len_bytes));
        let sum = checksums::of_parts(algorithm, kind, sums).ok_or_else(|| s3_error!(InternalError))?;
        for claimed in &self.sums {
            if claimed.algorithm != algorithm {
                return Err(s3_error!(
                    InvalidRequest,
                    "the upload was created with another checksum algorithm"
                ));
            }
            // Without the number of parts, which clients need not send.
            let found = sum.sum.value.split('-').next();
            if found != claimed.value.split('-').next() {
                return Err(s3_error!(
                    BadDigest,
                    "the checksum of the whole object did not match"
                ));
            }
        }
        Ok(sum)
    }
}

fn sum_of_part(part: &Part, algorithm: Algorithm) -> Option<&Sum> {
    part.sums.iter().find(|sum| sum.algorithm == algorithm)
}

fn claimed_part(mut claimed: CompletedPart, upload: &Upload) -> S3Result<(i32, &Part)> {
    let invalid = || s3_error!(InvalidPart);
    let number = claimed.part_number.ok_or_else(|| s3_error!(MalformedXML))?;
    let part = upload.parts.get(&number).ok_or_else(invalid)?;
    let claimed_etag = claimed.e_tag.take().ok_or_else(|| s3_error!(MalformedXML))?;
    let sums = sums_of!(claimed);
    let needs_sum = upload.plan.kind == Kind::Composite && upload.plan.algorithm.is_some();
    if needs_sum && sums.is_empty() {
        return Err(s3_error!(
            InvalidRequest,
            "The complete request must include the checksum for each part"
        ));
    }
    let is_wrong = |sum: &Sum| sum_of_part(part, sum.algorithm) != Some(sum);
    if claimed_etag.value() != part.etag || sums.iter().any(is_wrong) {
        return Err(invalid());
    }
    Ok((number, part))
}
