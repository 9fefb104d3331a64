//! Buckets: create, delete, look, list; versioning.

use super::super::state::{Record, Versioning};
use super::super::store::{Store, bucket_of, now_s};
use super::Answer;
use super::dto::timestamp;
use s3s::dto::*;
use s3s::{S3Request, S3Response, s3_error};

const DEFAULT_REGION: &str = "us-east-1";
const MAX_BUCKETS_PER_PAGE: i32 = 10_000;

pub async fn list(store: &Store, request: S3Request<ListBucketsInput>) -> Answer<ListBucketsOutput> {
    let input = request.input;
    let prefix = input.prefix.clone().unwrap_or_default();
    let after = input.continuation_token.unwrap_or_default();
    let max = input
        .max_buckets
        .unwrap_or(MAX_BUCKETS_PER_PAGE)
        .clamp(1, MAX_BUCKETS_PER_PAGE) as usize;
    let region = &store.options().region;
    let (mut buckets, is_truncated) = store.read_all(|state| {
        let mut wanted = state
            .buckets
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix) && **name > after);
        let page: Vec<Bucket> = wanted
            .by_ref()
            .take(max)
            .map(|(name, bucket)| Bucket {
                name: Some(name.clone()),
                creation_date: Some(timestamp(bucket.created_s)),
                bucket_region: Some(region.clone()),
            })
            .collect();
        Ok((page, wanted.next().is_some()))
    })?;
    let next = if is_truncated {
        buckets.last_mut().and_then(|bucket| bucket.name.clone())
    } else {
        None
    };
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets),
        continuation_token: next,
        owner: Some(Owner {
            id: Some("pailfs".to_owned()),
            ..Owner::default()
        }),
        prefix: input.prefix,
    }))
}

pub async fn create(store: &Store, request: S3Request<CreateBucketInput>) -> Answer<CreateBucketOutput> {
    let bucket = request.input.bucket;
    let location = format!("/{bucket}");
    store
        .change([], |state| {
            if state.buckets.contains_key(&bucket) {
                return Err(s3_error!(BucketAlreadyOwnedByYou));
            }
            Ok((
                vec![Record::BucketCreated {
                    bucket,
                    created_s: now_s(),
                }],
                (),
            ))
        })
        .await?;
    Ok(S3Response::new(CreateBucketOutput {
        location: Some(location),
    }))
}

/// Uploads that were never completed do not keep a bucket from being deleted.
pub async fn delete(store: &Store, request: S3Request<DeleteBucketInput>) -> Answer<DeleteBucketOutput> {
    let bucket = request.input.bucket;
    store
        .change([], |state| {
            if !bucket_of(state, &bucket)?.keys.is_empty() {
                return Err(s3_error!(BucketNotEmpty));
            }
            Ok((vec![Record::BucketDeleted { bucket }], ()))
        })
        .await?;
    Ok(S3Response::new(DeleteBucketOutput {}))
}

pub async fn head(store: &Store, request: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
    store.read(&request.input.bucket, |_| Ok(()))?;
    let bucket_region = Some(store.options().region.clone());
    Ok(S3Response::new(HeadBucketOutput {
        bucket_region,
        ..HeadBucketOutput::default()
    }))
}

pub async fn location(
    store: &Store,
    request: S3Request<GetBucketLocationInput>,
) -> Answer<GetBucketLocationOutput> {
    store.read(&request.input.bucket, |_| Ok(()))?;
    // The oldest region answers an empty constraint.
    let region = Some(store.options().region.clone()).filter(|region| region != DEFAULT_REGION);
    let location_constraint = region.map(BucketLocationConstraint::from);
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
}

pub async fn versioning(
    store: &Store,
    request: S3Request<GetBucketVersioningInput>,
) -> Answer<GetBucketVersioningOutput> {
    let versioning = store.read(&request.input.bucket, |bucket| Ok(bucket.versioning))?;
    let status = match versioning {
        Versioning::Never => None,
        Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
        Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
    };
    Ok(S3Response::new(GetBucketVersioningOutput {
        status: status.map(BucketVersioningStatus::from_static),
        mfa_delete: None,
    }))
}

pub async fn set_versioning(
    store: &Store,
    request: S3Request<PutBucketVersioningInput>,
) -> Answer<PutBucketVersioningOutput> {
    let bucket = request.input.bucket;
    let status = request.input.versioning_configuration.status;
    let versioning = match status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
        Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
        _ => return Err(s3_error!(IllegalVersioningConfigurationException)),
    };
    store
        .change([], |state| {
            bucket_of(state, &bucket)?;
            Ok((vec![Record::VersioningSet { bucket, versioning }], ()))
        })
        .await?;
    Ok(S3Response::new(PutBucketVersioningOutput::default()))
}
