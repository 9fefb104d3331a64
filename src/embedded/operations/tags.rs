//! Tags of objects and buckets.

use super::super::state::{Record, Tags};
use super::super::store::{Store, bucket_of};
use super::Answer;
use super::dto::{find, shown_version_id};
use percent_encoding::percent_decode_str;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

const MAX_OBJECT_TAGS: usize = 10;
const MAX_BUCKET_TAGS: usize = 50;
const MAX_NAME_CHARS: usize = 128;
const MAX_VALUE_CHARS: usize = 256;

/// The tags in an `x-amz-tagging` header: URL query parameters.
///
/// # Errors
/// `InvalidTag`, also for what is not UTF-8.
pub fn parse_header(header: Option<&str>) -> S3Result<Tags> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode_str(&spaced)
            .decode_utf8()
            .map(std::borrow::Cow::into_owned);
        decoded.map_err(|_| s3_error!(InvalidTag))
    };
    let pairs = header
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty());
    let tags: S3Result<Tags> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect();
    checked(tags?, MAX_OBJECT_TAGS)
}

fn checked(tags: Tags, max_tags: usize) -> S3Result<Tags> {
    if tags.len() > max_tags {
        return Err(s3_error!(InvalidTag, "there cannot be more than {max_tags} tags"));
    }
    let is_wrong = |(at, (name, value)): (usize, &(String, String))| {
        name.is_empty()
            || name.chars().count() > MAX_NAME_CHARS
            || value.chars().count() > MAX_VALUE_CHARS
            || tags[..at].iter().any(|(earlier, _)| earlier == name)
    };
    if tags.iter().enumerate().any(is_wrong) {
        return Err(s3_error!(InvalidTag));
    }
    Ok(tags)
}

fn from_set(set: TagSet, max_tags: usize) -> S3Result<Tags> {
    let pairs = set
        .into_iter()
        .map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default()));
    checked(pairs.collect(), max_tags)
}

fn to_set(tags: &Tags) -> TagSet {
    let tag = |(name, value): &(String, String)| Tag {
        key: Some(name.clone()),
        value: Some(value.clone()),
    };
    tags.iter().map(tag).collect()
}

pub async fn of_object(
    store: &Store,
    request: S3Request<GetObjectTaggingInput>,
) -> Answer<GetObjectTaggingOutput> {
    let input = request.input;
    store.read(&input.bucket, |bucket| {
        let (version, object) = find(bucket, &input.key, input.version_id.as_deref())?;
        let version_id = shown_version_id(bucket, &version.id);
        Ok(S3Response::new(GetObjectTaggingOutput {
            tag_set: to_set(&object.tags),
            version_id,
        }))
    })
}

pub async fn set_of_object(
    store: &Store,
    request: S3Request<PutObjectTaggingInput>,
) -> Answer<PutObjectTaggingOutput> {
    let input = request.input;
    let tags = from_set(input.tagging.tag_set, MAX_OBJECT_TAGS)?;
    let version_id = replace(store, input.bucket, input.key, input.version_id.as_deref(), tags).await?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
}

pub async fn remove_of_object(
    store: &Store,
    request: S3Request<DeleteObjectTaggingInput>,
) -> Answer<DeleteObjectTaggingOutput> {
    let input = request.input;
    let version_id = replace(
        store,
        input.bucket,
        input.key,
        input.version_id.as_deref(),
        Tags::new(),
    )
    .await?;
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id }))
}

async fn replace(
    store: &Store,
    bucket: String,
    key: String,
    version_id: Option<&str>,
    tags: Tags,
) -> S3Result<Option<String>> {
    store
        .change([], |state| {
            let found_in = bucket_of(state, &bucket)?;
            let (version, _) = find(found_in, &key, version_id)?;
            let shown = shown_version_id(found_in, &version.id);
            let id = version.id.clone();
            Ok((
                vec![Record::VersionTagged {
                    bucket,
                    key,
                    id,
                    tags,
                }],
                shown,
            ))
        })
        .await
}

pub async fn of_bucket(
    store: &Store,
    request: S3Request<GetBucketTaggingInput>,
) -> Answer<GetBucketTaggingOutput> {
    store.read(&request.input.bucket, |bucket| {
        if bucket.tags.is_empty() {
            return Err(s3_error!(NoSuchTagSet));
        }
        Ok(S3Response::new(GetBucketTaggingOutput {
            tag_set: to_set(&bucket.tags),
        }))
    })
}

pub async fn set_of_bucket(
    store: &Store,
    request: S3Request<PutBucketTaggingInput>,
) -> Answer<PutBucketTaggingOutput> {
    let tags = from_set(request.input.tagging.tag_set, MAX_BUCKET_TAGS)?;
    replace_of_bucket(store, request.input.bucket, tags).await?;
    Ok(S3Response::new(PutBucketTaggingOutput::default()))
}

pub async fn remove_of_bucket(
    store: &Store,
    request: S3Request<DeleteBucketTaggingInput>,
) -> Answer<DeleteBucketTaggingOutput> {
    replace_of_bucket(store, request.input.bucket, Tags::new()).await?;
    Ok(S3Response::new(DeleteBucketTaggingOutput::default()))
}

async fn replace_of_bucket(store: &Store, bucket: String, tags: Tags) -> S3Result<()> {
    store
        .change([], |state| {
            bucket_of(state, &bucket)?;
            Ok((vec![Record::BucketTagged { bucket, tags }], ()))
        })
        .await
}
