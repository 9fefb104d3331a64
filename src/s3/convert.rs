//! Between the SDK's words and ours: versions, headers, metadata, tags, ranges, copy sources.
//!
//! Metadata values travel as HTTP headers: what is not printable ASCII is sent as an RFC 2047 encoded word,
//! which is also how S3 returns such values (S3 User Guide, "Working with object metadata").

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{ByteRange, ETag, Encryption, ObjectHeaders, ObjectId, ObjectInfo, Version};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ServerSideEncryption, Tag};
use aws_smithy_types::DateTime;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::collections::{BTreeMap, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

/// Everything but the unreserved characters of RFC 3986.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const PATH: &AsciiSet = &VALUE.remove(b'/');

pub(super) fn system_time(time: Option<&DateTime>) -> SystemTime {
    time.and_then(|time| SystemTime::try_from(*time).ok())
        .unwrap_or(UNIX_EPOCH)
}

/// `x-amz-copy-source`: bucket and key, percent-encoded, and the version where it is not the newest.
pub(super) fn copy_source(from: &ObjectId, version_id: Option<&str>) -> String {
    let source = format!("{}/{}", from.bucket, encode_key(&from.key));
    match version_id {
        Some(version_id) => format!("{source}?versionId={}", utf8_percent_encode(version_id, VALUE)),
        None => source,
    }
}

/// A key as it stands in a URL.
pub(super) fn encode_key(key: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(key, PATH)
}

pub(super) fn range_header(range: ByteRange) -> String {
    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
}

/// Reads `bytes 0-9/100` (RFC 9110, section 14.4): the range and the whole size.
pub(super) fn parse_content_range(text: &str) -> Option<(ByteRange, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first <= last && last < size).then(|| (ByteRange::new(first, last + 1), size))
}

pub(super) fn etag(raw: Option<&str>) -> Result<ETag> {
    raw.map(ETag::new)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the answer has no ETag"))
}

/// The version id as we keep it: `null` is the name of "no versioning".
pub(super) fn version_id(raw: Option<&str>) -> Option<std::sync::Arc<str>> {
    raw.filter(|id| !id.is_empty() && *id != "null").map(Into::into)
}

pub(super) fn info_of_head(output: HeadObjectOutput) -> Result<ObjectInfo> {
    let version = Version {
        etag: etag(output.e_tag())?,
        size_bytes: size_of(output.content_length())?,
        version_id: version_id(output.version_id()),
        last_modified: system_time(output.last_modified()),
    };
    let headers = ObjectHeaders {
        storage_class: output.storage_class().map(|class| class.as_str().to_owned()),
        encryption: encryption(
            output.server_side_encryption(),
            output.ssekms_key_id(),
            output.bucket_key_enabled(),
        ),
        content_type: output.content_type,
        content_encoding: output.content_encoding,
        content_language: output.content_language,
        content_disposition: output.content_disposition,
        cache_control: output.cache_control,
        tagging: None,
        unread_tags: tag_count(output.tag_count),
        metadata: readable_metadata(output.metadata),
    };
    Ok(ObjectInfo { version, headers })
}

/// The same from the head of a GET, whose length is that of the body: `size_bytes` is the whole object's.
pub(super) fn info_of_get(output: &mut GetObjectOutput, size_bytes: u64) -> Result<ObjectInfo> {
    let version = Version {
        etag: etag(output.e_tag())?,
        size_bytes,
        version_id: version_id(output.version_id()),
        last_modified: system_time(output.last_modified()),
    };
    let headers = ObjectHeaders {
        storage_class: output.storage_class().map(|class| class.as_str().to_owned()),
        encryption: encryption(
            output.server_side_encryption(),
            output.ssekms_key_id(),
            output.bucket_key_enabled(),
        ),
        content_type: output.content_type.take(),
        content_encoding: output.content_encoding.take(),
        content_language: output.content_language.take(),
        content_disposition: output.content_disposition.take(),
        cache_control: output.cache_control.take(),
        tagging: None,
        unread_tags: tag_count(output.tag_count),
        metadata: readable_metadata(output.metadata.take()),
    };
    Ok(ObjectInfo { version, headers })
}

pub(super) fn size_of(content_length: Option<i64>) -> Result<u64> {
    content_length
        .and_then(|length| u64::try_from(length).ok())
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the answer has no length"))
}

fn encryption(
    algorithm: Option<&ServerSideEncryption>,
    kms_key_id: Option<&str>,
    bucket_key: Option<bool>,
) -> Option<Encryption> {
    Some(Encryption {
        algorithm: algorithm?.as_str().to_owned(),
        kms_key_id: kms_key_id.map(str::to_owned),
        bucket_key,
    })
}

/// Sets what a request says about encryption; the three kinds of requests share these fields but no trait.
macro_rules! encrypted_as {
    ($request:expr, $headers:expr) => {{
        let encryption = $headers.encryption.as_ref();
        $request
            .set_server_side_encryption(
                encryption.map(|one| aws_sdk_s3::types::ServerSideEncryption::from(one.algorithm.as_str())),
            )
            .set_ssekms_key_id(encryption.and_then(|one| one.kms_key_id.clone()))
            .set_bucket_key_enabled(encryption.and_then(|one| one.bucket_key))
    }};
}
pub(super) use encrypted_as;

fn tag_count(count: Option<i32>) -> u32 {
    count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
}

fn readable_metadata(metadata: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
    let pairs = metadata.unwrap_or_default().into_iter();
    pairs
        .map(|(name, value)| (name.to_ascii_lowercase(), decode_words(&value)))
        .collect()
}

/// The metadata in the form that headers can carry.
pub(super) fn sendable_metadata(metadata: &BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    if metadata.is_empty() {
        return None;
    }
    Some(
        metadata
            .iter()
            .map(|(name, value)| (name.clone(), encode_word(value)))
            .collect(),
    )
}

fn encode_word(value: &str) -> String {
    let printable = value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && value.trim() == value;
    if printable && decode_words(value) == value {
        value.to_owned()
    } else {
        format!("=?UTF-8?B?{}?=", STANDARD.encode(value))
    }
}

/// Decodes RFC 2047 encoded words; whatever is not one stays as it is. Blanks between two of them are
/// dropped.
fn decode_words(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    let mut after_word = false;
    while let Some(start) = rest.find("=?") {
        let (before, word) = rest.split_at(start);
        let Some((text, after)) = decode_one(word) else {
            let (plain, after) = rest.split_at(start + 2);
            out.push_str(plain);
            rest = after;
            after_word = false;
            continue;
        };
        if !(after_word && before.trim().is_empty()) {
            out.push_str(before);
        }
        out.push_str(&text);
        rest = after;
        after_word = true;
    }
    out.push_str(rest);
    out
}

/// Decodes the encoded word that `text` begins with; returns its text and what follows it.
fn decode_one(text: &str) -> Option<(String, &str)> {
    let (charset, rest) = text.strip_prefix("=?")?.split_once('?')?;
    let (encoding, rest) = rest.split_once('?')?;
    let (payload, after) = rest.split_once("?=")?;
    let bytes = match encoding {
        "B" | "b" => STANDARD.decode(payload).ok()?,
        "Q" | "q" => {
            let percent = payload.replace('%', "%25").replace('_', "%20").replace('=', "%");
            percent_decode_str(&percent).collect()
        }
        _ => return None,
    };
    let text = match charset.to_ascii_lowercase().as_str() {
        "utf-8" | "us-ascii" => String::from_utf8(bytes).ok()?,
        "iso-8859-1" => bytes.into_iter().map(char::from).collect(),
        _ => return None,
    };
    Some((text, after))
}

/// Tags as `x-amz-tagging` takes them; `None` when there are none.
pub(super) fn tagging(tags: &[Tag]) -> Option<String> {
    if tags.is_empty() {
        return None;
    }
    let encode = |text: &str| utf8_percent_encode(text, VALUE).to_string();
    let pairs: Vec<String> = tags
        .iter()
        .map(|tag| format!("{}={}", encode(tag.key()), encode(tag.value())))
        .collect();
    Some(pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(
            parse_content_range("bytes 0-9/100"),
            Some((ByteRange::new(0, 10), 100))
        );
        for wrong in [
            "bytes 0-9/*",
            "bytes 9-0/100",
            "bytes 0-100/100",
            "0-9/100",
            "bytes */100",
            "",
        ] {
            assert_eq!(parse_content_range(wrong), None, "{wrong}");
        }
        assert_eq!(range_header(ByteRange::new(5, 6)), "bytes=5-5");
    }

    #[test]
    fn encoded_words_of_others_are_understood() {
        assert_eq!(decode_words("=?UTF-8?B?Y2Fmw6k=?="), "café");
        assert_eq!(decode_words("=?utf-8?Q?caf=C3=A9_100%?="), "café 100%");
        assert_eq!(decode_words("=?ISO-8859-1?Q?caf=E9?="), "café");
        assert_eq!(decode_words("a =?UTF-8?B?Yg==?= =?UTF-8?B?Yw==?= d"), "a bc d");
        for left_alone in ["=?", "=?x?B?Yg==?=", "=?UTF-8?B?!!?=", "a=?b", "plain"] {
            assert_eq!(decode_words(left_alone), left_alone);
        }
    }

    #[test]
    fn copy_sources_and_tags_are_percent_encoded() {
        let from = ObjectId::new("b", "a/b c+d?é");
        assert_eq!(copy_source(&from, None), "b/a/b%20c%2Bd%3F%C3%A9");
        assert_eq!(
            copy_source(&from, Some("x=")),
            "b/a/b%20c%2Bd%3F%C3%A9?versionId=x%3D"
        );
        let tag = Tag::builder()
            .key("a b")
            .value("c=&")
            .build()
            .expect("key and value");
        assert_eq!(
            tagging(&[tag.clone(), tag]).as_deref(),
            Some("a%20b=c%3D%26&a%20b=c%3D%26")
        );
        assert_eq!(tagging(&[]), None);
    }

    proptest! {
        #[test]
        fn any_metadata_value_survives_its_header(value in "(?s).*") {
            let sent = encode_word(&value);
            prop_assert!(sent.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{sent:?}");
            prop_assert_eq!(sent.trim(), sent.as_str());
            prop_assert_eq!(decode_words(&sent), value);
        }
    }
}
