//! Requests about buckets.

use super::client::Client;
use super::convert;
use super::errors::Failure;
use super::retry::Call;
use super::types::BucketEntry;
use crate::base::error::{ErrorKind, Result};
use crate::telemetry::RequestClass;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use std::time::Duration;

/// Its buckets are created without naming the region (S3 API, CreateBucket).
const CLASSIC_REGION: &str = "us-east-1";
/// How long it is tried to reach an endpoint that never answered.
const FIRST_PATIENCE: Duration = Duration::from_secs(3);

impl Client {
    pub async fn list_buckets(&self) -> Result<Vec<BucketEntry>> {
        self.list_buckets_within(None).await
    }

    /// As [`Self::first_head_bucket`].
    pub async fn first_list_buckets(&self) -> Result<Vec<BucketEntry>> {
        self.list_buckets_within(Some(FIRST_PATIENCE)).await
    }

    async fn list_buckets_within(&self, patience: Option<Duration>) -> Result<Vec<BucketEntry>> {
        let mut buckets = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let call = Call {
                patience,
                ..Call::on_bucket("ListBuckets", RequestClass::Other, "")
            };
            let output = self
                .inner
                .run(&call, |sdk| {
                    let request = sdk.list_buckets().set_continuation_token(token.clone());
                    async move { request.send().await.map_err(Failure::from) }
                })
                .await?;
            for bucket in output.buckets() {
                if let Some(name) = bucket.name() {
                    let created = bucket
                        .creation_date()
                        .map(|time| convert::system_time(Some(time)));
                    buckets.push(BucketEntry {
                        name: name.to_owned(),
                        created,
                    });
                }
            }
            token = output.continuation_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(buckets);
            }
        }
    }

    /// NotFound: no such bucket; Denied: it may exist.
    pub async fn head_bucket(&self, bucket: &str) -> Result<()> {
        self.head_bucket_within(bucket, None).await
    }

    /// The same while somebody waits for the first answer of all: an endpoint that cannot be reached is given up after a few
    /// attempts.
    pub async fn first_head_bucket(&self, bucket: &str) -> Result<()> {
        self.head_bucket_within(bucket, Some(FIRST_PATIENCE)).await
    }

    async fn head_bucket_within(&self, bucket: &str, patience: Option<Duration>) -> Result<()> {
        let call = Call {
            patience,
            ..Call::on_bucket("HeadBucket", RequestClass::Other, bucket)
        };
        self.inner
            .run(&call, |sdk| {
                let request = sdk.head_bucket().bucket(bucket);
                async move { request.send().await.map_err(Failure::from) }
            })
            .await
            .map(|_| ())
    }

    /// Creates the bucket in the client's region.
    ///
    /// # Errors
    /// `Exists`, whoever owns it, unless an earlier attempt of this call may have created it.
    pub async fn create_bucket(&self, bucket: &str) -> Result<()> {
        let region = Some(self.region()).filter(|region| self.inner.is_aws && *region != CLASSIC_REGION);
        let configuration = region.map(|region| {
            CreateBucketConfiguration::builder()
                .location_constraint(BucketLocationConstraint::from(region))
                .build()
        });
        let call = Call::on_bucket("CreateBucket", RequestClass::Other, bucket);
        let created = self
            .inner
            .run(&call, |sdk| {
                let request = sdk
                    .create_bucket()
                    .bucket(bucket)
                    .set_create_bucket_configuration(configuration.clone());
                async move { request.send().await.map_err(Failure::from) }
            })
            .await;
        match created {
            Err(error) if error.attempts() > 1 && error.s3_code() == Some("BucketAlreadyOwnedByYou") => {
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    /// # Errors
    /// `NotEmpty`; `NotFound` unless an earlier attempt of this call may have deleted it.
    pub async fn delete_bucket(&self, bucket: &str) -> Result<()> {
        let call = Call::on_bucket("DeleteBucket", RequestClass::Other, bucket);
        let deleted = self
            .inner
            .run(&call, |sdk| {
                let request = sdk.delete_bucket().bucket(bucket);
                async move { request.send().await.map_err(Failure::from) }
            })
            .await;
        match deleted {
            Err(error) if error.attempts() > 1 && error.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map(|_| ()),
        }
    }
}
