//! Between the types of `s3s` and ours. The request and answer types share fields but no trait: hence macros.

use super::super::checksums::Sum;
use super::super::state::{Bucket, Headers, NULL_VERSION, Object, Version, Versioning};
use crate::rt;
use s3s::dto::{ETag, Timestamp, TimestampFormat};
use s3s::{S3Error, S3Result, s3_error};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// The checksums in a request's fields (or a completed part's), taken out.
macro_rules! sums_of {
    ($input:expr) => {{
        use $crate::embedded::checksums::{Algorithm, Sum};
        [
            (Algorithm::Crc32, $input.checksum_crc32.take()),
            (Algorithm::Crc32c, $input.checksum_crc32c.take()),
            (Algorithm::Crc64nvme, $input.checksum_crc64nvme.take()),
            (Algorithm::Sha1, $input.checksum_sha1.take()),
            (Algorithm::Sha256, $input.checksum_sha256.take()),
        ]
        .into_iter()
        .filter_map(|(algorithm, value)| {
            Some(Sum {
                algorithm,
                value: value?,
            })
        })
        .collect::<Vec<_>>()
    }};
}

/// An answer with its checksum fields set.
macro_rules! with_sum {
    ($output:expr, $sum:expr) => {{
        use $crate::embedded::checksums::{Algorithm, Sum};
        let mut output = $output;
        let sum: Option<&Sum> = $sum;
        let value = |algorithm| {
            sum.filter(|sum| sum.algorithm == algorithm)
                .map(|sum| sum.value.clone())
        };
        output.checksum_crc32 = value(Algorithm::Crc32);
        output.checksum_crc32c = value(Algorithm::Crc32c);
        output.checksum_crc64nvme = value(Algorithm::Crc64nvme);
        output.checksum_sha1 = value(Algorithm::Sha1);
        output.checksum_sha256 = value(Algorithm::Sha256);
        output
    }};
}

/// What a request says about the body it carries.
macro_rules! claims_of {
    ($input:expr, $headers:expr) => {
        $crate::embedded::checksums::Claims::new(
            sums_of!($input),
            $input
                .checksum_algorithm
                .as_ref()
                .map(|algorithm| algorithm.as_str()),
            $input.content_md5.as_deref(),
            $headers,
        )
    };
}

/// The headers a request wants its object to keep, taken out.
macro_rules! headers_of {
    ($input:expr) => {
        $crate::embedded::state::Headers {
            metadata: $input.metadata.take().unwrap_or_default().into_iter().collect(),
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: super::dto::without_transport($input.content_encoding.as_deref()),
            content_language: $input.content_language.take(),
            content_type: $input.content_type.take(),
            expires: super::dto::http_date($input.expires.as_ref()),
            storage_class: $input.storage_class.take().map(|class| class.as_str().to_owned()),
            server_side_encryption: $input
                .server_side_encryption
                .take()
                .map(|encryption| encryption.as_str().to_owned()),
            kms_key_id: $input.ssekms_key_id.take(),
            customer_key_md5: $input.sse_customer_key_md5.take(),
            website_redirect_location: $input.website_redirect_location.take(),
        }
    };
}

/// An answer with the headers its object keeps.
macro_rules! with_headers {
    ($output:expr, $headers:expr) => {{
        let mut output = $output;
        let headers: &$crate::embedded::state::Headers = $headers;
        let metadata = headers
            .metadata
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()));
        output.metadata = Some(metadata.collect());
        output.cache_control = headers.cache_control.clone();
        output.content_disposition = headers.content_disposition.clone();
        output.content_encoding = headers.content_encoding.clone();
        output.content_language = headers.content_language.clone();
        output.content_type = Some(
            headers
                .content_type
                .clone()
                .unwrap_or_else(|| super::dto::DEFAULT_CONTENT_TYPE.to_owned()),
        );
        output.expires = super::dto::parse_http_date(headers.expires.as_deref());
        // S3 does not mention the class that nearly all objects have.
        output.storage_class = headers
            .storage_class
            .clone()
            .filter(|class| class != "STANDARD")
            .map(StorageClass::from);
        output.server_side_encryption = headers
            .server_side_encryption
            .clone()
            .map(ServerSideEncryption::from);
        output.ssekms_key_id = headers.kms_key_id.clone();
        output.sse_customer_algorithm = headers.customer_key_md5.as_ref().map(|_| "AES256".to_owned());
        output.sse_customer_key_md5 = headers.customer_key_md5.clone();
        output.website_redirect_location = headers.website_redirect_location.clone();
        output
    }};
}

pub(super) use {claims_of, headers_of, sums_of, with_headers, with_sum};

/// What S3 answers for objects that were put without a type.
pub const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

const MAX_METADATA_BYTES: usize = 2048;

pub fn timestamp(seconds: u64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_secs(seconds))
}

pub fn etag(value: &str) -> ETag {
    ETag::Strong(value.to_owned())
}

/// `aws-chunked` describes how the body travelled, not the object.
pub fn without_transport(encoding: Option<&str>) -> Option<String> {
    let kept: Vec<&str> = encoding?
        .split(',')
        .map(str::trim)
        .filter(|word| *word != "aws-chunked")
        .collect();
    Some(kept.join(",")).filter(|text| !text.is_empty())
}

pub fn http_date(time: Option<&Timestamp>) -> Option<String> {
    let mut text = Vec::new();
    time?.format(TimestampFormat::HttpDate, &mut text).ok()?;
    String::from_utf8(text).ok()
}

pub fn parse_http_date(text: Option<&str>) -> Option<Timestamp> {
    Timestamp::parse(TimestampFormat::HttpDate, text?).ok()
}

/// # Errors
/// `InvalidRequest` unless an object's own key is given, and none for an object without one.
pub fn check_customer_key(headers: &Headers, given_md5: Option<&str>) -> S3Result<()> {
    match (headers.customer_key_md5.as_deref(), given_md5) {
        (wanted, given) if wanted == given => Ok(()),
        (Some(_), None) => Err(s3_error!(
            InvalidRequest,
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object."
        )),
        (Some(_), Some(_)) => Err(s3_error!(AccessDenied, "the key is another one")),
        (None, _) => Err(s3_error!(
            InvalidRequest,
            "The encryption parameters are not applicable to this object."
        )),
    }
}

/// # Errors
/// `MetadataTooLarge` above S3's 2 KiB of user metadata.
pub fn check_headers(headers: &Headers) -> S3Result<()> {
    let total: usize = headers
        .metadata
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if total > MAX_METADATA_BYTES {
        return Err(s3_error!(MetadataTooLarge));
    }
    Ok(())
}

/// The version id that an answer shows: none where versioning was never on.
pub fn shown_version_id(bucket: &Bucket, id: &str) -> Option<String> {
    (bucket.versioning != Versioning::Never).then(|| id.to_owned())
}

/// A new version as the bucket's versioning wants it; without an object, a delete marker.
pub fn new_version(bucket: &Bucket, modified_s: u64, object: Option<Object>) -> Version {
    let id = match bucket.versioning {
        Versioning::Enabled => rt::random_id(),
        Versioning::Never | Versioning::Suspended => NULL_VERSION.to_owned(),
    };
    Version {
        id,
        modified_s,
        object: object.map(Arc::new),
    }
}

/// The object at a key, or one of its versions.
///
/// # Errors
/// `NoSuchKey`; `NoSuchVersion`; `MethodNotAllowed` for a delete marker that is asked for by its id.
pub fn find<'a>(
    bucket: &'a Bucket,
    key: &str,
    version_id: Option<&str>,
) -> S3Result<(&'a Version, &'a Arc<Object>)> {
    let version = match version_id {
        None => bucket.newest(key).ok_or_else(|| s3_error!(NoSuchKey))?,
        Some(id) => bucket.version(key, id).ok_or_else(|| s3_error!(NoSuchVersion))?,
    };
    match &version.object {
        Some(object) => Ok((version, object)),
        None if version_id.is_some() => Err(on_delete_marker(s3_error!(MethodNotAllowed))),
        None => Err(on_delete_marker(s3_error!(NoSuchKey))),
    }
}

fn on_delete_marker(mut error: S3Error) -> S3Error {
    let mut headers = http::HeaderMap::new();
    headers.insert("x-amz-delete-marker", http::HeaderValue::from_static("true"));
    error.set_headers(headers);
    error
}

/// The checksum a client asked to see, if it asked.
pub fn shown_sum(object: &Object, is_wanted: bool) -> Option<&Sum> {
    object.sum.as_ref().filter(|_| is_wanted).map(|sum| &sum.sum)
}
