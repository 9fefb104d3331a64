//! Requests about one object: HEAD, GET, PUT, COPY, DELETE, tags.
//!
//! Difficulties:
//! 1. Conditional writes on stores that ignore or refuse the condition: the object is looked at first
//!    (`checked`). That leaves a gap between look and write in which somebody else's write is overwritten;
//!    nothing safer exists there.
//! 2. Checksums: the caller's CRC32C goes out as a header, over an unsigned payload (the checksum is signed,
//!    the bytes need not be hashed again). A store that refuses it gets Content-MD5 instead, and that is
//!    remembered.

use super::body::{BodyReader, GetReply, Source};
use super::capabilities::{Feature, Support};
use super::client::Client;
use super::convert;
use super::errors::Failure;
use super::retry::{Call, Replay};
use super::stamp::Keyed;
use super::types::{CopyRequest, GetRequest, PutRequest};
use super::upload_body;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{ByteRange, Condition, ETag, Encryption, ObjectId, ObjectInfo, Version};
use crate::base::requests::WriteEncryption;
use crate::base::segments::Segments;
use crate::rt;
use crate::telemetry::RequestClass;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, MetadataDirective, StorageClass, TaggingDirective};
use base64::Engine;
use md5::Digest;
use std::future::Future;
use std::sync::atomic::Ordering;

/// The class, and the encryption, that a copy gets where nothing else is said.
const STANDARD: &str = "STANDARD";
const S3_KEYS: &str = "AES256";

/// The condition as it is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WireCondition {
    pub if_match: Option<String>,
    pub if_none_match: Option<String>,
}

impl From<&Condition> for WireCondition {
    fn from(condition: &Condition) -> Self {
        match condition {
            Condition::None => Self::default(),
            Condition::Absent => Self {
                if_match: None,
                if_none_match: Some("*".to_owned()),
            },
            Condition::Matches(etag) => Self {
                if_match: Some(etag.quoted()),
                if_none_match: None,
            },
        }
    }
}

/// A GET whose head has come.
pub(super) struct Opened {
    pub info: ObjectInfo,
    pub range: ByteRange,
    /// The body's end says whether it is right.
    pub is_checked: bool,
    pub source: Source,
}

impl Client {
    /// # Errors
    /// `NotFound`; `Denied` also for missing keys where the caller may not list (S3 API, HeadObject).
    pub async fn head(&self, id: &ObjectId) -> Result<ObjectInfo> {
        let call = &Call::on_object("HeadObject", RequestClass::Head, id);
        let (seen, version_id) = &self.seen_as(id, None).await?;
        let send = |keyed: Keyed| {
            self.inner.run(call, move |sdk| {
                let request = sdk.head_object().bucket(&*seen.bucket).key(&*seen.key);
                let request = request.set_version_id(version_id.clone());
                let request = request
                    .customize()
                    .mutate_request(move |request| keyed.apply(request));
                async move { request.send().await.map_err(Failure::from) }
            })
        };
        let output = self.with_key_fallback(send).await?;
        let info = convert::info_of_head(output).map_err(|error| error.on(id))?;
        self.note_storage(
            info.headers.storage_class.as_deref(),
            info.headers.encryption.as_ref(),
        );
        Ok(info)
    }

    pub(super) fn note_storage(&self, class: Option<&str>, encryption: Option<&Encryption>) {
        let is_other = class.is_some_and(|class| class != STANDARD)
            || encryption.is_some_and(|encryption| encryption.algorithm != S3_KEYS);
        if is_other {
            self.inner.has_seen_other_storage.store(true, Ordering::Relaxed);
        }
    }

    /// True once an object was seen whose storage class or encryption a plain copy of it does not have: the answer to a HEAD
    /// of it has to go with the copy.
    #[must_use]
    pub fn has_seen_other_storage(&self) -> bool {
        self.inner.has_seen_other_storage.load(Ordering::Relaxed)
    }

    /// True where a copy's ETag says nothing of its bytes.
    #[must_use]
    pub fn encrypts_otherwise(&self) -> bool {
        let encryption = self.inner.requests.encryption.as_ref();
        encryption.is_some_and(
            |how| !matches!(how, WriteEncryption::Store { algorithm, .. } if algorithm == S3_KEYS),
        )
    }

    /// Returns when the head of the answer is there.
    ///
    /// # Errors
    /// `PreconditionFailed` when `if_match` does not hold (also where the store ignores it), `NotFound`,
    /// `BadRange`.
    pub async fn get(&self, request: &GetRequest) -> Result<GetReply> {
        let opened = self.open(request, None).await?;
        // Resuming is pinned to the version id only where the caller asked by it.
        let (etag, version_id) = (opened.info.version.etag.clone(), request.version_id.clone());
        let (id, range) = (request.id.clone(), opened.range);
        let body = BodyReader::new(self.clone(), id, etag, version_id, range, opened.source)
            .checked(opened.is_checked);
        Ok(GetReply {
            info: opened.info,
            range,
            body,
        })
    }

    /// `since`: when the body that this request continues last got ahead.
    pub(super) async fn open(&self, request: &GetRequest, since: Option<rt::Instant>) -> Result<Opened> {
        let id = &request.id;
        if request.range.is_some_and(|range| range.is_empty()) {
            return Err(Error::new(ErrorKind::BadRange, "an empty range cannot be asked for").on(id));
        }
        let call = &Call {
            since,
            ..Call::on_object("GetObject", RequestClass::Get, id).data()
        };
        let (seen, version_id) = &self.seen_as(id, request.version_id.as_ref()).await?;
        let send = |keyed: Keyed| {
            self.inner.run_holding(call, move |sdk| {
                let get = sdk
                    .get_object()
                    .bucket(&*seen.bucket)
                    .key(&*seen.key)
                    .set_range(request.range.map(convert::range_header))
                    // Stored checksums are those of whole objects.
                    .set_checksum_mode(request.range.is_none().then_some(ChecksumMode::Enabled))
                    .set_if_match(request.if_match.as_ref().map(ETag::quoted))
                    .set_version_id(version_id.clone())
                    .customize()
                    .mutate_request(move |request| keyed.apply(request));
                async move { get.send().await.map_err(Failure::from) }
            })
        };
        let (output, permit) = self.with_key_fallback(send).await?;
        let (info, range, output) = head_of_get(request, output).map_err(|error| error.on(id))?;
        self.note_storage(
            info.headers.storage_class.as_deref(),
            info.headers.encryption.as_ref(),
        );
        Ok(Opened {
            info,
            range,
            is_checked: request.range.is_none() && has_checksum(&output),
            source: Source::new(output.body, permit),
        })
    }

    /// Sent once per certain failure; a lost reply is `Ambiguous` at once (never retried blindly here). The
    /// time in the returned version is the server's clock, as the answer tells none.
    ///
    /// # Errors
    /// `PreconditionFailed` also when the condition names a version and there is no object.
    pub async fn put(&self, request: &PutRequest) -> Result<Version> {
        self.check_changeable(&request.id)?;
        let features = (Feature::PutIfNoneMatch, Feature::PutIfMatch);
        let condition = self.checked(features, &request.id, &request.condition).await?;
        let replay = if request.condition == Condition::None {
            Replay::Safe
        } else {
            Replay::Never
        };
        self.put_as(request, &condition, replay).await
    }

    /// A PUT with `condition` instead of the request's own.
    pub(super) async fn put_as(
        &self,
        request: &PutRequest,
        condition: &Condition,
        replay: Replay,
    ) -> Result<Version> {
        let put = |checksummed| self.send_put(request, condition, replay, checksummed);
        let put = self.with_checksum_fallback(put).await;
        put.map_err(|error| condition_failed_if_missing(error, condition))
    }

    async fn send_put(
        &self,
        request: &PutRequest,
        condition: &Condition,
        replay: Replay,
        checksummed: bool,
    ) -> Result<Version> {
        let (id, headers) = (&request.id, &request.headers);
        let wire = WireCondition::from(condition);
        let md5 = if checksummed {
            None
        } else {
            Some(content_md5(&request.body).await)
        };
        let call = Call::on_object("PutObject", RequestClass::Put, id)
            .data()
            .replay(replay);
        let output = self
            .inner
            .run(&call, |sdk| {
                let put = convert::encrypted_as!(sdk.put_object(), headers)
                    .bucket(&*id.bucket)
                    .key(&*id.key)
                    .body(upload_body::from_segments(&request.body))
                    .content_length(request.body.len_bytes() as i64)
                    .set_checksum_crc32_c(checksummed.then(|| request.checksum.to_base64()))
                    .set_content_md5(md5.clone())
                    .set_if_match(wire.if_match.clone())
                    .set_if_none_match(wire.if_none_match.clone())
                    .set_content_type(headers.content_type.clone())
                    .set_content_encoding(headers.content_encoding.clone())
                    .set_content_language(headers.content_language.clone())
                    .set_content_disposition(headers.content_disposition.clone())
                    .set_cache_control(headers.cache_control.clone())
                    .set_storage_class(headers.storage_class.as_deref().map(StorageClass::from))
                    .set_tagging(headers.tagging.clone())
                    .set_metadata(convert::sendable_metadata(&headers.metadata))
                    .customize()
                    .disable_payload_signing();
                async move { put.send().await.map_err(Failure::from) }
            })
            .await?;
        Ok(Version {
            etag: written_etag(output.e_tag(), id)?,
            size_bytes: request.body.len_bytes(),
            version_id: convert::version_id(output.version_id()),
            last_modified: self.server_time(),
        })
    }

    /// Server-side copy of exactly `from_etag`.
    ///
    /// # Errors
    /// `PreconditionFailed`: the source is another version now, or the destination is not what `condition`
    /// wants. `NotFound`: the source is gone (or the destination, on a condition that names its version).
    /// `Ambiguous`: as for [`Self::put`].
    pub async fn copy(&self, request: &CopyRequest) -> Result<Version> {
        self.check_changeable(&request.to)?;
        let features = (Feature::CopyIfNoneMatch, Feature::CopyIfMatch);
        let condition = self.checked(features, &request.to, &request.condition).await?;
        let repeatable = request.condition == Condition::None && request.from != request.to;
        let replay = if repeatable { Replay::Safe } else { Replay::Never };
        self.copy_as(request, &condition, replay).await
    }

    pub(super) async fn copy_as(
        &self,
        request: &CopyRequest,
        condition: &Condition,
        replay: Replay,
    ) -> Result<Version> {
        self.with_key_fallback(|keyed| {
            self.with_checksum_fallback(move |checksummed| {
                self.send_copy(request, condition, replay, checksummed, keyed)
            })
        })
        .await
    }

    async fn send_copy(
        &self,
        request: &CopyRequest,
        condition: &Condition,
        replay: Replay,
        checksummed: bool,
        keyed: Keyed,
    ) -> Result<Version> {
        let id = &request.to;
        let (source, version_id) = self.seen_as(&request.from, None).await?;
        let source = &convert::copy_source(&source, version_id.as_deref());
        let wire = WireCondition::from(condition);
        let call = Call::on_object("CopyObject", RequestClass::Copy, id)
            .data()
            .replay(replay);
        let output = self
            .inner
            .run(&call, |sdk| {
                let mut copy = sdk
                    .copy_object()
                    .bucket(&*id.bucket)
                    .key(&*id.key)
                    .copy_source(source)
                    .copy_source_if_match(request.from_etag.quoted())
                    .set_checksum_algorithm(checksummed.then_some(ChecksumAlgorithm::Crc32C))
                    .set_if_match(wire.if_match.clone())
                    .set_if_none_match(wire.if_none_match.clone());
                if let Some(headers) = &request.headers {
                    copy = convert::encrypted_as!(copy, headers)
                        .metadata_directive(MetadataDirective::Replace)
                        .set_content_type(headers.content_type.clone())
                        .set_content_encoding(headers.content_encoding.clone())
                        .set_content_language(headers.content_language.clone())
                        .set_content_disposition(headers.content_disposition.clone())
                        .set_cache_control(headers.cache_control.clone())
                        .set_storage_class(headers.storage_class.as_deref().map(StorageClass::from))
                        .set_metadata(convert::sendable_metadata(&headers.metadata));
                    if let Some(tagging) = &headers.tagging {
                        copy = copy.tagging_directive(TaggingDirective::Replace).tagging(tagging);
                    }
                }
                let copy = copy
                    .customize()
                    .mutate_request(move |request| keyed.apply(request));
                async move { copy.send().await.map_err(Failure::from) }
            })
            .await?;
        let result = output.copy_object_result();
        Ok(Version {
            etag: written_etag(result.and_then(|result| result.e_tag()), id)?,
            size_bytes: request.size_bytes,
            version_id: convert::version_id(output.version_id()),
            last_modified: match result.and_then(|result| result.last_modified()) {
                Some(time) => convert::system_time(Some(time)),
                None => self.server_time(),
            },
        })
    }

    /// With `if_match`, PreconditionFailed when another version is there. A missing key is Ok without a
    /// condition and NotFound with one, where the endpoint tells.
    pub async fn delete(&self, id: &ObjectId, if_match: Option<&ETag>) -> Result<()> {
        self.check_changeable(id)?;
        let Some(etag) = if_match else {
            return self.delete_as(id, None, None, Replay::Safe).await;
        };
        let wanted = Condition::Matches(etag.clone());
        let support = self.support(Feature::DeleteIfMatch, &id.bucket).await;
        if support != Support::Honoured {
            self.compare(id, &wanted).await?;
        }
        let sent = (support != Support::Refused).then_some(etag);
        self.delete_as(id, sent, None, Replay::Never).await
    }

    pub(super) async fn delete_as(
        &self,
        id: &ObjectId,
        if_match: Option<&ETag>,
        version_id: Option<&str>,
        replay: Replay,
    ) -> Result<()> {
        let call = Call::on_object("DeleteObject", RequestClass::Delete, id).replay(replay);
        let deleted = self
            .inner
            .run(&call, |sdk| {
                let delete = sdk
                    .delete_object()
                    .bucket(&*id.bucket)
                    .key(&*id.key)
                    .set_if_match(if_match.map(ETag::quoted))
                    .set_version_id(version_id.map(str::to_owned));
                async move { delete.send().await.map_err(Failure::from) }
            })
            .await;
        match deleted {
            // S3 answers 204 for a key that is not there; some stores say so instead.
            Err(error) if if_match.is_none() && error.s3_code() == Some("NoSuchKey") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// The condition to send for `condition`, after looking at the object where the store's word is not
    /// enough. `features`: those of `Absent` and of `Matches`.
    ///
    /// # Errors
    /// `PreconditionFailed` when the look shows that the condition does not hold.
    pub(super) async fn checked(
        &self,
        features: (Feature, Feature),
        id: &ObjectId,
        condition: &Condition,
    ) -> Result<Condition> {
        let feature = match condition {
            Condition::None => return Ok(Condition::None),
            Condition::Absent => features.0,
            Condition::Matches(_) => features.1,
        };
        let support = self.support(feature, &id.bucket).await;
        if support != Support::Honoured {
            self.compare(id, condition).await?;
        }
        Ok(if support == Support::Refused {
            Condition::None
        } else {
            condition.clone()
        })
    }

    /// Looks whether `condition` holds now.
    async fn compare(&self, id: &ObjectId, condition: &Condition) -> Result<()> {
        let holds = match self.head(id).await {
            Ok(info) => match condition {
                Condition::None => true,
                Condition::Absent => false,
                Condition::Matches(etag) => info.version.etag == *etag,
            },
            Err(error) if error.kind() == ErrorKind::NotFound => !matches!(condition, Condition::Matches(_)),
            Err(error) => return Err(error),
        };
        if holds {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::PreconditionFailed,
            "the object is not what the condition wants",
        )
        .on(id))
    }

    /// Runs `send(true)`, and `send(false)` (no CRC32C) once the endpoint is known to refuse these checksums:
    /// which it is when the second way works after the first was refused.
    pub(super) async fn with_checksum_fallback<T, F, Fut>(&self, send: F) -> Result<T>
    where
        F: Fn(bool) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let known = &self.inner.capabilities;
        let support = known.get(Feature::Crc32c);
        if support == Support::Refused {
            return send(false).await;
        }
        let refusal = match send(true).await {
            Ok(answer) => {
                if support == Support::Unknown {
                    known.set(Feature::Crc32c, Support::Honoured);
                }
                return Ok(answer);
            }
            Err(error) if support == Support::Unknown && may_mean_no_checksums(&error) => error,
            Err(error) => return Err(error),
        };
        match send(false).await {
            Ok(answer) => {
                if known.set(Feature::Crc32c, Support::Refused) {
                    tracing::warn!(
                        endpoint = self.endpoint(),
                        "CRC32C is refused, Content-MD5 is used: {refusal}"
                    );
                }
                Ok(answer)
            }
            Err(_) => Err(refusal),
        }
    }
}

fn may_mean_no_checksums(error: &Error) -> bool {
    error.kind() == ErrorKind::Unsupported
        || matches!(
            error.s3_code(),
            Some("InvalidRequest" | "InvalidArgument" | "NotImplemented")
        )
}

/// `If-Match` on a key that is not there answers 404 on S3: the condition did not hold.
pub(super) fn condition_failed_if_missing(error: Error, condition: &Condition) -> Error {
    let missing =
        error.kind() == ErrorKind::NotFound && matches!(error.s3_code(), Some("NoSuchKey" | "NotFound"));
    match condition {
        Condition::Matches(_) if missing => error.as_kind(ErrorKind::PreconditionFailed),
        _ => error,
    }
}

/// The ETag of something that was just written: without it nobody knows what was.
pub(super) fn written_etag(raw: Option<&str>, id: &ObjectId) -> Result<ETag> {
    convert::etag(raw).map_err(|error| error.as_kind(ErrorKind::Ambiguous).on(id))
}

/// `Content-MD5` (RFC 1864) of a body.
pub(super) async fn content_md5(body: &Segments) -> String {
    let body = body.clone();
    rt::blocking(move || {
        let mut md5 = md5::Md5::new();
        body.pieces().iter().for_each(|piece| md5.update(piece));
        base64::engine::general_purpose::STANDARD.encode(md5.finalize())
    })
    .await
}

/// What the head of a GET says: the object, the range that its body covers.
/// Whether the answer has a checksum of all of its body: those of uploads in parts may be of the parts' checksums, which the
/// number of parts behind them shows.
fn has_checksum(output: &GetObjectOutput) -> bool {
    [
        output.checksum_crc32_c(),
        output.checksum_crc64_nvme(),
        output.checksum_crc32(),
        output.checksum_sha256(),
        output.checksum_sha1(),
    ]
    .into_iter()
    .flatten()
    .any(|checksum| !checksum.contains('-'))
}

fn head_of_get(
    request: &GetRequest,
    mut output: GetObjectOutput,
) -> Result<(ObjectInfo, ByteRange, GetObjectOutput)> {
    let corrupt = |what: String| Error::new(ErrorKind::Corrupt, what);
    let length = convert::size_of(output.content_length())?;
    let (range, size_bytes) = match (output.content_range(), request.range) {
        (Some(text), _) => convert::parse_content_range(text)
            .filter(|(range, _)| range.len() == length)
            .ok_or_else(|| corrupt(format!("Content-Range {text:?} with {length} bytes")))?,
        (None, None) => (ByteRange::new(0, length), length),
        // The whole object instead of the range: its beginning is all that can be used of it.
        (None, Some(asked)) if asked.start == 0 => (ByteRange::new(0, asked.end.min(length)), length),
        (None, Some(_)) => return Err(Error::new(ErrorKind::Unsupported, "the endpoint ignores Range")),
    };
    if request
        .range
        .is_some_and(|asked| range.start != asked.start || range.end > asked.end)
    {
        return Err(corrupt(format!("asked for {:?}, got {range:?}", request.range)));
    }
    let info = convert::info_of_get(&mut output, size_bytes)?;
    if request
        .if_match
        .as_ref()
        .is_some_and(|etag| *etag != info.version.etag)
    {
        let message = format!("another version is there: {}", info.version.etag);
        return Err(Error::new(ErrorKind::PreconditionFailed, message));
    }
    Ok((info, range, output))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(range: Option<ByteRange>, if_match: Option<&str>) -> GetRequest {
        GetRequest {
            id: ObjectId::new("b", "k"),
            range,
            if_match: if_match.map(ETag::new),
            version_id: None,
        }
    }

    fn reply(length: i64, content_range: Option<&str>) -> GetObjectOutput {
        let reply = GetObjectOutput::builder().e_tag("\"e\"").content_length(length);
        reply.set_content_range(content_range.map(str::to_owned)).build()
    }

    fn kind_of(request: &GetRequest, output: GetObjectOutput) -> Result<(ByteRange, u64), ErrorKind> {
        let read = head_of_get(request, output).map_err(|error| error.kind());
        read.map(|(info, range, _)| (range, info.version.size_bytes))
    }

    #[test]
    fn the_head_of_a_get_is_believed_only_when_it_fits() {
        let part = get(Some(ByteRange::new(10, 20)), None);
        assert_eq!(
            kind_of(&part, reply(10, Some("bytes 10-19/100"))),
            Ok((ByteRange::new(10, 20), 100))
        );
        assert_eq!(
            kind_of(&part, reply(5, Some("bytes 10-14/15"))),
            Ok((ByteRange::new(10, 15), 15))
        );
        assert_eq!(
            kind_of(&part, reply(9, Some("bytes 10-19/100"))),
            Err(ErrorKind::Corrupt)
        );
        assert_eq!(
            kind_of(&part, reply(10, Some("bytes 0-9/100"))),
            Err(ErrorKind::Corrupt)
        );
        assert_eq!(kind_of(&part, reply(100, None)), Err(ErrorKind::Unsupported));
        let beginning = get(Some(ByteRange::new(0, 20)), None);
        assert_eq!(
            kind_of(&beginning, reply(100, None)),
            Ok((ByteRange::new(0, 20), 100))
        );
        assert_eq!(
            kind_of(&get(None, None), reply(0, None)),
            Ok((ByteRange::new(0, 0), 0))
        );
    }

    #[test]
    fn another_version_is_never_taken_for_the_one_asked_for() {
        assert!(kind_of(&get(None, Some("e")), reply(1, None)).is_ok());
        assert_eq!(
            kind_of(&get(None, Some("f")), reply(1, None)),
            Err(ErrorKind::PreconditionFailed)
        );
    }

    #[tokio::test]
    async fn content_md5_is_that_of_all_pieces() {
        let segments: Segments = ["ab", "c"]
            .map(|piece| bytes::Bytes::from_static(piece.as_bytes()))
            .into_iter()
            .collect();
        assert_eq!(content_md5(&segments).await, "kAFQmDzST7DWlj99KOF/cg==");
    }
}
