//! Listings and batch deletes: many keys in one request.
//!
//! - Keys come percent-encoded (`encoding-type=url`), because XML cannot carry every character. S3 encodes
//!   like an HTML form: a blank is `+`, a plus sign `%2B`.
//! - Whether an endpoint lists in byte order is noticed in passing.
//! - A condition for each key of a batch is not everywhere: where it is not, versions are deleted one by one.
//! - DeleteObjects has its keys in XML, so keys with characters that XML cannot carry are deleted one by one.

use super::capabilities::{Feature, Support};
use super::client::Client;
use super::convert;
use super::errors::Failure;
use super::retry::{Call, Replay};
use super::types::{ListPage, ListRequest, ListedObject};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{ETag, ObjectId};
use crate::telemetry::RequestClass;
use aws_sdk_s3::error::BuildError;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{Delete, EncodingType, ObjectIdentifier};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use base64::Engine;
use futures_util::stream::{self, StreamExt};
use md5::Digest;
use percent_encoding::percent_decode_str;

/// S3's limit of one DeleteObjects request.
const MAX_BATCH: usize = 1000;
/// Fewer versions are deleted one by one: that is as fast, and needs no probe.
const LEAST_BATCH: usize = 32;
/// Deletes of single objects that run at once.
const PARALLEL_DELETES: usize = 32;
/// How often the outcome of one delete is looked for.
const MAX_LOOKS: u32 = 5;

impl Client {
    pub async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        if let Some(page) = self.list_in_view(request).await? {
            self.notice(&page);
            return Ok(page);
        }
        let bucket = &*request.bucket;
        let call = Call::on_bucket("ListObjectsV2", RequestClass::List, bucket);
        let page = self
            .inner
            .run(&call, |sdk| {
                let list = sdk
                    .list_objects_v2()
                    .bucket(bucket)
                    .prefix(&request.prefix)
                    .encoding_type(EncodingType::Url)
                    .set_delimiter(request.by_directory.then(|| "/".to_owned()))
                    .set_start_after(
                        request
                            .start_after
                            .clone()
                            .filter(|_| request.continuation.is_none()),
                    )
                    .set_continuation_token(request.continuation.clone())
                    .max_keys(request.max_keys as i32);
                async move { page_of(list.send().await?).map_err(|error| Failure::garbled(&error)) }
            })
            .await?;
        self.notice(&page);
        for object in &page.objects {
            self.note_storage(object.storage_class.as_deref(), None);
        }
        Ok(page)
    }

    /// Learns from a page what the endpoint's listings are like.
    fn notice(&self, page: &ListPage) {
        let known = &self.inner.capabilities;
        if !is_in_byte_order(page) && known.set(Feature::ListOrder, Support::Ignored) {
            tracing::debug!(endpoint = self.endpoint(), "listings are not in byte order");
        }
        let shown = page
            .objects
            .iter()
            .any(|object| object.checksum_algorithm.is_some());
        if shown && known.get(Feature::ListedAlgorithms) == Support::Unknown {
            known.set(Feature::ListedAlgorithms, Support::Honoured);
        }
    }

    /// Unconditional batch delete; returns the failures.
    ///
    /// # Errors
    /// When a whole request failed: then nothing is known of its keys.
    pub async fn delete_many(&self, bucket: &str, keys: &[String]) -> Result<Vec<(String, Error)>> {
        let mut failures = Vec::new();
        let (plain, odd): (Vec<&String>, Vec<&String>) = keys.iter().partition(|key| fits_into_xml(key));
        for batch in plain.chunks(MAX_BATCH) {
            let batch: Vec<_> = batch.iter().map(|key| (key.as_str(), None)).collect();
            failures.extend(self.delete_batch(bucket, &batch).await?);
        }
        for key in odd {
            let deleted = self
                .delete_as(&ObjectId::new(bucket, key.as_str()), None, None, Replay::Safe)
                .await;
            failures.extend(deleted.err().map(|error| (key.clone(), error)));
        }
        Ok(failures)
    }

    /// Deletes exactly these versions, in batches where the endpoint honours a condition for each key. Returns those that
    /// were not deleted: `PreconditionFailed` where another version is there. What is not there is as good as deleted.
    ///
    /// # Errors
    /// When a whole request failed: then nothing is known of its keys.
    pub async fn delete_versions(
        &self,
        bucket: &str,
        versions: &[(String, ETag)],
    ) -> Result<Vec<(String, Error)>> {
        let is_few = versions.len() < LEAST_BATCH;
        let batches = !is_few && self.support(Feature::BatchDeleteIfMatch, bucket).await == Support::Honoured;
        let versions = versions.iter().cloned();
        let (batched, single): (Vec<_>, Vec<_>) =
            versions.partition(|(key, _)| batches && fits_into_xml(key));
        let mut failures = Vec::new();
        for batch in batched.chunks(MAX_BATCH) {
            let keys: Vec<_> = batch
                .iter()
                .map(|(key, etag)| (key.as_str(), Some(etag)))
                .collect();
            failures.extend(self.delete_batch(bucket, &keys).await?);
        }
        let mut deletes = stream::iter(single)
            .map(|(key, etag)| self.delete_one(ObjectId::new(bucket, key.as_str()), etag))
            .buffer_unordered(PARALLEL_DELETES);
        while let Some(deleted) = deletes.next().await {
            let (id, result) = deleted;
            match result {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    failures.push((id.key.to_string(), error))
                }
                _ => {}
            }
        }
        Ok(failures)
    }

    /// A lost reply is resolved by looking.
    async fn delete_one(&self, id: ObjectId, etag: ETag) -> (ObjectId, Result<()>) {
        let mut result = self.delete(&id, Some(&etag)).await;
        for _ in 0..MAX_LOOKS {
            if !result
                .as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::Ambiguous)
            {
                break;
            }
            match self.head(&id).await {
                Ok(info) if info.version.etag == etag => result = self.delete(&id, Some(&etag)).await,
                // It was deleted, and somebody has put another one since.
                Ok(_) => result = Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound => result = Ok(()),
                Err(_) => break,
            }
        }
        (id, result)
    }

    /// With a condition for each key that has a tag. Returns the failures.
    pub(super) async fn delete_batch(
        &self,
        bucket: &str,
        keys: &[(&str, Option<&ETag>)],
    ) -> Result<Vec<(String, Error)>> {
        let identifiers = keys.iter().map(|(key, etag)| {
            ObjectIdentifier::builder()
                .key(*key)
                .set_e_tag(etag.map(ETag::quoted))
                .build()
        });
        self.send_batch(bucket, identifiers.collect()).await
    }

    /// Deletes versions of objects for good, in batches. Returns the failures, by key.
    ///
    /// # Errors
    /// When a whole request failed: then nothing is known of its versions.
    pub async fn remove_versions(
        &self,
        bucket: &str,
        versions: &[(String, String)],
    ) -> Result<Vec<(String, Error)>> {
        let (plain, mut single): (Vec<_>, Vec<_>) = versions.iter().partition(|(key, _)| fits_into_xml(key));
        let mut failures = Vec::new();
        for batch in plain.chunks(MAX_BATCH) {
            let identifiers = batch
                .iter()
                .map(|(key, id)| ObjectIdentifier::builder().key(key).version_id(id).build());
            match self.send_batch(bucket, identifiers.collect()).await {
                Ok(failed) => failures.extend(failed),
                Err(error) if error.kind() == ErrorKind::Unsupported => single.extend(batch),
                Err(error) => return Err(error),
            }
        }
        for (key, version_id) in single {
            let removed = self
                .delete_version(&ObjectId::new(bucket, key.as_str()), version_id)
                .await;
            failures.extend(removed.err().map(|error| (key.clone(), error)));
        }
        Ok(failures)
    }

    async fn send_batch(
        &self,
        bucket: &str,
        identifiers: std::result::Result<Vec<ObjectIdentifier>, BuildError>,
    ) -> Result<Vec<(String, Error)>> {
        let delete = identifiers.and_then(|all| Delete::builder().set_objects(Some(all)).quiet(true).build());
        let delete =
            delete.map_err(|error| Error::new(ErrorKind::Internal, error.to_string()).on_bucket(bucket))?;
        let call = Call::on_bucket("DeleteObjects", RequestClass::Delete, bucket);
        let output = self
            .inner
            .run(&call, |sdk| {
                let request = sdk.delete_objects().bucket(bucket).delete(delete.clone());
                let request = request.customize().mutate_request(add_content_md5);
                async move { request.send().await.map_err(Failure::from) }
            })
            .await?;
        let mut failures = Vec::new();
        for error in output.errors() {
            let key = error.key().unwrap_or_default();
            let failure = Failure::of_code(error.code(), error.message());
            let error = failure.into_final_error("DeleteObjects", &ObjectId::new(bucket, key));
            if error.kind() != ErrorKind::NotFound {
                failures.push((key.to_owned(), error));
            }
        }
        Ok(failures)
    }
}

/// Older stores want `Content-MD5` where S3 is content with its newer checksums.
fn add_content_md5(request: &mut HttpRequest) {
    if let Some(body) = request.body().bytes() {
        let digest = base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(body));
        request.headers_mut().insert("content-md5", digest);
    }
}

/// A key as a listing has it.
///
/// # Errors
/// `Corrupt`.
pub(super) fn decoded(text: Option<String>, is_encoded: bool) -> Result<String> {
    let text = text
        .filter(|text| !text.is_empty())
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "a listed key is missing"))?;
    if is_encoded { decode_key(&text) } else { Ok(text) }
}

/// # Errors
/// `Corrupt` for a page that cannot be what the store meant: the SDK reads XML leniently.
fn page_of(output: ListObjectsV2Output) -> Result<ListPage> {
    let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, what);
    let encoded = output.encoding_type() == Some(&EncodingType::Url);
    let decode = |text: Option<String>| decoded(text, encoded);
    let truncated = output.is_truncated == Some(true);
    let mut page = ListPage {
        continuation: output.next_continuation_token.filter(|_| truncated),
        ..ListPage::default()
    };
    for object in output.contents.unwrap_or_default() {
        let etag = ETag::new(object.e_tag().unwrap_or_default());
        let last_modified = convert::system_time(object.last_modified());
        let checksum_algorithm = object
            .checksum_algorithm()
            .first()
            .map(|algorithm| algorithm.as_str().to_owned());
        page.objects.push(ListedObject {
            size_bytes: convert::size_of(object.size())?,
            storage_class: object.storage_class().map(|class| class.as_str().to_owned()),
            key: decode(object.key)?,
            etag,
            last_modified,
            checksum_algorithm,
        });
    }
    for common in output.common_prefixes.unwrap_or_default() {
        page.prefixes.push(decode(common.prefix)?);
    }
    let entries = page.objects.len() + page.prefixes.len();
    if output
        .key_count
        .is_some_and(|count| i64::from(count) > entries as i64)
    {
        return Err(corrupt("a listing has fewer entries than it says"));
    }
    if truncated && page.continuation.is_none() {
        return Err(corrupt("a listing that goes on does not say where"));
    }
    Ok(page)
}

fn decode_key(text: &str) -> Result<String> {
    let blanks = text.replace('+', " ");
    let decoded = percent_decode_str(&blanks).decode_utf8();
    decoded
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Error::new(ErrorKind::Corrupt, format!("a listed key is not UTF-8: {text:?}")))
}

fn is_in_byte_order(page: &ListPage) -> bool {
    page.objects.is_sorted_by(|a, b| a.key < b.key) && page.prefixes.is_sorted()
}

/// XML 1.0 has no way to write most control characters, U+FFFE and U+FFFF; line ends would be changed by its
/// readers.
fn fits_into_xml(key: &str) -> bool {
    key.chars()
        .all(|c| (c >= ' ' || c == '\t') && c != '\u{fffe}' && c != '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_s3::types::{CommonPrefix, Object};

    fn object(key: &str) -> Object {
        Object::builder().key(key).e_tag("\"e\"").size(3).build()
    }

    #[test]
    fn keys_are_decoded_as_s3_encodes_them() {
        let output = ListObjectsV2Output::builder()
            .encoding_type(EncodingType::Url)
            .contents(object("a+b%2Bc/%01%C3%A9"))
            .common_prefixes(CommonPrefix::builder().prefix("x+y/").build())
            .build();
        let page = page_of(output).expect("a page");
        assert_eq!(page.objects[0].key, "a b+c/\u{1}é");
        assert_eq!(page.prefixes, ["x y/"]);
        let raw = ListObjectsV2Output::builder().contents(object("a+b%2B")).build();
        assert_eq!(
            page_of(raw).expect("a page").objects[0].key,
            "a+b%2B",
            "not encoded, so not decoded"
        );
    }

    #[test]
    fn a_page_that_goes_on_without_saying_where_is_refused() {
        let output = ListObjectsV2Output::builder().is_truncated(true).build();
        assert_eq!(page_of(output).expect_err("no token").kind(), ErrorKind::Corrupt);
        let last = ListObjectsV2Output::builder()
            .is_truncated(false)
            .next_continuation_token("t")
            .build();
        assert_eq!(page_of(last).expect("a page").continuation, None);
    }

    #[test]
    fn a_page_that_lost_something_is_refused() {
        let nameless = ListObjectsV2Output::builder().contents(Object::builder().size(1).build());
        assert_eq!(
            page_of(nameless.build()).expect_err("no key").kind(),
            ErrorKind::Corrupt
        );
        let short = ListObjectsV2Output::builder().contents(object("a")).key_count(2);
        assert_eq!(
            page_of(short.build()).expect_err("one is missing").kind(),
            ErrorKind::Corrupt
        );
        let whole = ListObjectsV2Output::builder().contents(object("a")).key_count(1);
        assert_eq!(page_of(whole.build()).expect("a page").objects.len(), 1);
    }

    #[test]
    fn order_is_that_of_bytes() {
        let page = |keys: &[&str]| {
            let output = ListObjectsV2Output::builder()
                .set_contents(Some(keys.iter().map(|key| object(key)).collect()));
            page_of(output.build()).expect("a page")
        };
        assert!(is_in_byte_order(&page(&["a", "a-", "a/b", "b", "é"])));
        assert!(!is_in_byte_order(&page(&["a", "a/b", "a-"])));
    }

    #[test]
    fn only_keys_that_xml_can_carry_go_into_a_batch() {
        assert!(fits_into_xml("a b&<>\"é\t"));
        for odd in ["\u{1}", "a\nb", "a\r", "\u{ffff}"] {
            assert!(!fits_into_xml(odd), "{odd:?}");
        }
    }
}
