//! Finds out what an endpoint does with a feature, by a guest's means.
//!
//! - Only random keys below the client's prefix are touched, and what was created is removed (by its version
//!   id, where there is one, so that a versioned bucket keeps no trace).
//! - A condition that cannot hold is sent: a store that honours it changes nothing. `If-None-Match: *` needs
//!   an object that exists, so one is written first.
//! - A probe that was killed leaves its object: the next one that writes removes it ([`Client::remove_old_probes`]).
//! - What cannot be decided (not allowed to write) stays `Unknown` for the life of the client; trouble that
//!   may pass is tried again at the next use.

use super::capabilities::{Feature, Support};
use super::client::Client;
use super::retry::Replay;
use super::types::{CompleteRequest, CopyRequest, ListRequest, PutRequest, UploadId};
use crate::base::checksum::Crc32c;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{Condition, ETag, ObjectHeaders, ObjectId, ObjectInfo, Version};
use crate::base::segments::Segments;
use crate::rt;
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// No object has this tag: it is no MD5 and has no part count.
const IMPOSSIBLE_ETAG: &str = "pailfs-probe";
/// A probe that is older than this was killed.
const LONGEST_PROBE: Duration = Duration::from_hours(1);
/// As many are removed at once.
const MAX_REMOVED: u32 = 100;
const MARK: (&str, &str) = ("pailfs-probe", "1");

impl Client {
    pub(super) async fn probe_and_remember(&self, feature: Feature, bucket: &str) -> Support {
        let known = &self.inner.capabilities;
        match self.probe(feature, bucket).await {
            Ok(Support::Honoured) => {
                known.set(feature, Support::Honoured);
                tracing::debug!(feature = feature.name(), "the endpoint honours it");
                Support::Honoured
            }
            Ok(support) => {
                let is_news = known.set(feature, support);
                if is_news && feature == Feature::MarkerMetadata {
                    tracing::info!(
                        endpoint = self.endpoint(),
                        "the endpoint keeps no metadata on directories: what is set on them lasts as long as the mount"
                    );
                } else if is_news {
                    tracing::warn!(
                        feature = feature.name(),
                        support = support.name(),
                        endpoint = self.endpoint(),
                        "the endpoint does not do what S3 does; the safest remaining way is used"
                    );
                }
                if support == Support::Unknown {
                    known.set_undecided(feature);
                }
                support
            }
            Err(error) => {
                tracing::debug!(feature = feature.name(), "could not be found out: {error}");
                if !error.is_transient() {
                    known.set_undecided(feature);
                }
                Support::Unknown
            }
        }
    }

    async fn probe(&self, feature: Feature, bucket: &str) -> Result<Support> {
        let id = ObjectId::new(bucket, format!("{}{}", self.probe_keys(), rt::random_id()));
        let impossible = Condition::Matches(ETag::new(IMPOSSIBLE_ETAG));
        match feature {
            Feature::PutIfMatch => self.probe_put(&id, &impossible).await,
            Feature::CompleteIfMatch => self.probe_complete(&id, &impossible).await,
            Feature::ListOrder => Ok(Support::Unknown),
            Feature::MarkerMetadata => {
                let marker = id.sibling(format!("{}/", id.key));
                let written = self.write_to_probe(&marker).await?;
                let support = self.marker_support(&marker).await;
                self.remove(&marker, &written).await;
                support
            }
            Feature::PutIfNoneMatch
            | Feature::CompleteIfNoneMatch
            | Feature::CopyIfNoneMatch
            | Feature::CopyIfMatch
            | Feature::DeleteIfMatch
            | Feature::BatchDeleteIfMatch
            | Feature::Crc32c
            | Feature::ListedAlgorithms => {
                let written = self.write_to_probe(&id).await?;
                let support = self.probe_existing(feature, &id, &written).await;
                self.remove(&id, &written).await;
                support
            }
        }
    }

    /// What the keys of all probes begin with.
    fn probe_keys(&self) -> String {
        format!("{}.pailfs-probe-", self.inner.capabilities.probe_prefix)
    }

    /// An object to find something out by; what a killed probe left of its own goes first.
    async fn write_to_probe(&self, id: &ObjectId) -> Result<Version> {
        if !self.inner.old_probes_are_gone.swap(true, Ordering::Relaxed)
            && let Err(error) = self.remove_old_probes(&id.bucket).await
        {
            tracing::debug!("probes of killed processes may be left: {error}");
        }
        self.write_probe(id, &Condition::None).await
    }

    /// Removes what a killed probe left: ours by name and mark, and too old to be in use.
    async fn remove_old_probes(&self, bucket: &str) -> Result<()> {
        let request = ListRequest {
            bucket: bucket.into(),
            prefix: self.probe_keys(),
            by_directory: false,
            start_after: None,
            continuation: None,
            max_keys: MAX_REMOVED,
        };
        for object in self.list(&request).await?.objects {
            let age = self.server_time().duration_since(object.last_modified);
            if age.is_ok_and(|age| age > LONGEST_PROBE) && object.size_bytes <= 1 {
                let id = ObjectId::new(bucket, object.key);
                let info = self.head(&id).await?;
                if info.version.etag == object.etag && is_marked(&info) {
                    self.remove(&id, &info.version).await;
                }
            }
        }
        Ok(())
    }

    /// Probes that need an object: `id`, of version `written`.
    async fn probe_existing(&self, feature: Feature, id: &ObjectId, written: &Version) -> Result<Support> {
        match feature {
            Feature::PutIfNoneMatch => self.probe_put(id, &Condition::Absent).await,
            Feature::CompleteIfNoneMatch => self.probe_complete(id, &Condition::Absent).await,
            Feature::CopyIfNoneMatch => self.probe_copy(id, written, id, &Condition::Absent).await,
            Feature::CopyIfMatch => {
                let to = id.sibling(format!("{}-copy", id.key));
                self.probe_copy(id, written, &to, &Condition::Matches(ETag::new(IMPOSSIBLE_ETAG)))
                    .await
            }
            Feature::DeleteIfMatch => {
                let impossible = ETag::new(IMPOSSIBLE_ETAG);
                judge(
                    self.delete_as(id, Some(&impossible), None, Replay::Safe)
                        .await
                        .map(|()| None),
                )
                .map(|(support, _)| support)
            }
            Feature::BatchDeleteIfMatch => {
                let impossible = ETag::new(IMPOSSIBLE_ETAG);
                let key = (&*id.key, Some(&impossible));
                let failures = self.delete_batch(&id.bucket, &[key]).await;
                let refused = failures.map(|failures| failures.into_iter().next());
                judge(refused.and_then(|refused| refused.map_or(Ok(None), |(_, error)| Err(error))))
                    .map(|(support, _)| support)
            }
            Feature::ListedAlgorithms => self.listing_support(id).await,
            // Writing the object has settled it.
            _ => Ok(self.inner.capabilities.get(feature)),
        }
    }

    async fn write_probe(&self, id: &ObjectId, condition: &Condition) -> Result<Version> {
        let body = Segments::from(Bytes::from_static(b"x"));
        let metadata = [(MARK.0.to_owned(), MARK.1.to_owned())].into();
        let request = PutRequest {
            id: id.clone(),
            checksum: Crc32c::of_segments(&body),
            body,
            condition: condition.clone(),
            headers: ObjectHeaders {
                metadata,
                ..ObjectHeaders::default()
            },
        };
        self.put_as(&request, condition, Replay::Safe).await
    }

    async fn probe_put(&self, id: &ObjectId, condition: &Condition) -> Result<Support> {
        let (support, created) = judge(self.write_probe(id, condition).await.map(Some))?;
        self.remove_created(id, created).await;
        Ok(support)
    }

    async fn probe_copy(
        &self,
        from: &ObjectId,
        version: &Version,
        to: &ObjectId,
        condition: &Condition,
    ) -> Result<Support> {
        let request = CopyRequest {
            from: from.clone(),
            from_etag: version.etag.clone(),
            size_bytes: version.size_bytes,
            to: to.clone(),
            condition: condition.clone(),
            // A copy onto itself must change something.
            headers: Some(ObjectHeaders::default()),
        };
        let (support, created) = judge(self.copy_as(&request, condition, Replay::Safe).await.map(Some))?;
        self.remove_created(to, created).await;
        Ok(support)
    }

    async fn probe_complete(&self, id: &ObjectId, condition: &Condition) -> Result<Support> {
        let upload = self.create_upload(id, &ObjectHeaders::default()).await?;
        let tried = self.try_complete(id, &upload, condition).await;
        let completed = matches!(tried, Ok((Support::Ignored, _)));
        if !completed && let Err(error) = self.abort_upload(id, &upload).await {
            tracing::debug!("a probe's upload is left behind: {error}");
        }
        let (support, created) = tried?;
        self.remove_created(id, created).await;
        Ok(support)
    }

    async fn try_complete(
        &self,
        id: &ObjectId,
        upload: &UploadId,
        condition: &Condition,
    ) -> Result<(Support, Option<Version>)> {
        let body = Segments::from(Bytes::from_static(b"x"));
        let checksum = Crc32c::of_segments(&body);
        let part = self.upload_part(id, upload, 1, body, checksum).await?;
        let request = CompleteRequest {
            id: id.clone(),
            upload: upload.clone(),
            parts: vec![part],
            checksum: Some(checksum),
            size_bytes: checksum.len_bytes(),
            condition: condition.clone(),
        };
        judge(self.complete_as(&request, condition).await.map(Some))
    }

    async fn marker_support(&self, marker: &ObjectId) -> Result<Support> {
        match self.head(marker).await {
            Ok(info) if is_marked(&info) => Ok(Support::Honoured),
            Ok(_) => Ok(Support::Ignored),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Support::Ignored),
            Err(error) => Err(error),
        }
    }

    async fn listing_support(&self, id: &ObjectId) -> Result<Support> {
        let request = ListRequest {
            bucket: id.bucket.clone(),
            prefix: id.key.to_string(),
            by_directory: false,
            start_after: None,
            continuation: None,
            max_keys: 1,
        };
        let page = self.list(&request).await?;
        let shown = page
            .objects
            .iter()
            .any(|object| object.checksum_algorithm.is_some());
        Ok(if shown {
            Support::Honoured
        } else {
            Support::Ignored
        })
    }

    async fn remove_created(&self, id: &ObjectId, created: Option<Version>) {
        if let Some(version) = created {
            self.remove(id, &version).await;
        }
    }

    async fn remove(&self, id: &ObjectId, version: &Version) {
        let mut removed = self
            .delete_as(id, None, version.version_id.as_deref(), Replay::Safe)
            .await;
        if version.version_id.is_some() && removed.is_err() {
            removed = self.delete_as(id, None, None, Replay::Safe).await;
        }
        if let Err(error) = removed {
            tracing::debug!("a probe's object is left behind: {error}");
        }
    }
}

fn is_marked(info: &ObjectInfo) -> bool {
    let mark = info.headers.metadata.get(MARK.0);
    mark.is_some_and(|value| value == MARK.1)
}

/// What the outcome of a request whose condition cannot hold tells, and what it created against the
/// condition.
fn judge(outcome: Result<Option<Version>>) -> Result<(Support, Option<Version>)> {
    match outcome {
        Ok(created) => Ok((Support::Ignored, created)),
        Err(error) => judge_refusal(error).map(|support| (support, None)),
    }
}

fn judge_refusal(error: Error) -> Result<Support> {
    match error.kind() {
        ErrorKind::PreconditionFailed => Ok(Support::Honoured),
        ErrorKind::NotFound if error.s3_code() != Some("NoSuchBucket") => Ok(Support::Honoured),
        ErrorKind::Unsupported | ErrorKind::Invalid => Ok(Support::Refused),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_of_the_condition_itself_counts() {
        let of = |kind| judge_refusal(Error::new(kind, "x")).map_err(|error| error.kind());
        assert_eq!(of(ErrorKind::PreconditionFailed), Ok(Support::Honoured));
        assert_eq!(of(ErrorKind::Unsupported), Ok(Support::Refused));
        assert_eq!(of(ErrorKind::Denied), Err(ErrorKind::Denied));
        let no_bucket =
            Error::new(ErrorKind::NotFound, "x").with_s3(Some("NoSuchBucket".into()), Some(404), None);
        assert!(judge_refusal(no_bucket).is_err());
    }
}
