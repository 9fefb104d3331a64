//! Makes a great many objects at once, for tests of large buckets: each shares the bytes of one that is there.

use super::state::{Record, Version};
use super::store::{Store, bucket_of};
use crate::base::error::{Error, ErrorKind, Result};
use s3s::s3_error;

/// So many at a time, so that other requests are answered in between.
const RECORDS_AT_ONCE: usize = 10_000;

impl Store {
    /// For each of `keys`, an object equal to the one at `model`, without a request.
    ///
    /// # Errors
    /// `NotFound` when there is no such bucket or object, `Invalid` when the log cannot be written.
    pub async fn multiply(
        &self,
        bucket: &str,
        model: &str,
        keys: impl IntoIterator<Item = String>,
    ) -> Result<()> {
        let found = self.read(bucket, |bucket| {
            bucket.current(model).cloned().ok_or_else(|| s3_error!(NoSuchKey))
        });
        let version = found.map_err(|error| Error::new(ErrorKind::NotFound, error.to_string()))?;
        let mut keys = keys.into_iter().peekable();
        while keys.peek().is_some() {
            let some: Vec<String> = keys.by_ref().take(RECORDS_AT_ONCE).collect();
            self.add_versions(bucket, &version, some).await?;
        }
        Ok(())
    }

    async fn add_versions(&self, bucket: &str, version: &Version, keys: Vec<String>) -> Result<()> {
        let record = |key| Record::VersionAdded {
            bucket: bucket.to_owned(),
            key,
            version: version.clone(),
        };
        self.change([], |state| {
            bucket_of(state, bucket)?;
            Ok((keys.into_iter().map(record).collect(), ()))
        })
        .await
        .map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))
    }
}
