//! The root of a mount of all buckets: each bucket is a directory.
//!
//! The list is asked for at most once per time to live. A bucket that the account may read but does not list is
//! reachable by its name.

use super::Tree;
use super::node::{DirectoryPlace, Node};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::names::DirectoryKey;
use crate::rt::{self, Instant};
use crate::s3::types::BucketEntry;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

type Buckets = Result<Arc<Vec<BucketEntry>>>;

#[derive(Default)]
pub struct BucketCache {
    /// Also that it may not be listed.
    listed: Mutex<Option<(Buckets, Instant)>>,
    /// Names that were asked for one by one, and whether they exist.
    asked: Mutex<BTreeMap<String, (bool, Instant)>>,
}

/// More names than this are not remembered one by one.
const MAX_ASKED: usize = 1_000;

impl Tree {
    /// The account's buckets by name.
    ///
    /// # Errors
    /// `Denied` when the credentials may not list buckets.
    pub async fn buckets(&self) -> Result<Arc<Vec<BucketEntry>>> {
        let cached = self
            .buckets
            .listed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some((buckets, at)) = cached
            && self.is_fresh(at)
        {
            return buckets;
        }
        let buckets = self.client.list_buckets().await.map(Arc::new);
        let is_answer = buckets
            .as_ref()
            .err()
            .is_none_or(|error| error.kind() == ErrorKind::Denied);
        if is_answer {
            let entry = Some((buckets.clone(), rt::now()));
            *self.buckets.listed.lock().unwrap_or_else(PoisonError::into_inner) = entry;
        }
        buckets
    }

    pub(super) async fn lookup_bucket(&self, name: &str) -> Result<Option<Node>> {
        if !is_bucket_name(name) {
            return Ok(None);
        }
        let listed = match self.buckets().await {
            Ok(buckets) => buckets.iter().any(|bucket| bucket.name == name),
            Err(error) if error.kind() == ErrorKind::Denied => false,
            Err(error) => return Err(error),
        };
        Ok((listed || self.bucket_answers(name).await?).then(|| self.settle_bucket(name)))
    }

    /// Whether a bucket that is not in the list exists all the same.
    async fn bucket_answers(&self, name: &str) -> Result<bool> {
        let known = self
            .buckets
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .copied();
        if let Some((exists, at)) = known
            && self.is_fresh(at)
        {
            return Ok(exists);
        }
        let exists = match self.client.head_bucket(name).await {
            Ok(()) => true,
            // HeadBucket answers 403 for a bucket that exists and may not be listed; its objects may still be read.
            Err(error) if error.kind() == ErrorKind::Denied => true,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => false,
            Err(error) => return Err(error),
        };
        let mut asked = self.buckets.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() >= MAX_ASKED {
            asked.clear();
        }
        asked.insert(name.to_owned(), (exists, rt::now()));
        Ok(exists)
    }

    pub(crate) fn settle_bucket(&self, name: &str) -> Node {
        let place = DirectoryPlace {
            bucket: name.into(),
            key: DirectoryKey::root(""),
        };
        let mut table = self.table();
        table
            .settle_directory(&place, None, rt::now(), rt::wall_clock())
            .clone()
    }

    /// # Errors
    /// `NotPermitted` unless the mount allows it; else what S3 says (`Exists` for a bucket that is there).
    pub async fn create_bucket(&self, name: &str) -> Result<Node> {
        self.may_change_buckets(name)?;
        self.client.create_bucket(name).await?;
        self.forget_buckets();
        Ok(self.settle_bucket(name))
    }

    /// # Errors
    /// `NotPermitted` unless the mount allows it, `NotEmpty`.
    pub async fn delete_bucket(&self, name: &str) -> Result<()> {
        self.may_change_buckets(name)?;
        let place = DirectoryPlace {
            bucket: name.into(),
            key: DirectoryKey::root(""),
        };
        // Some stores delete a bucket with all that is in it.
        if !self.is_empty(&place).await? {
            return Err(Error::new(ErrorKind::NotEmpty, "the bucket is not empty").on_bucket(name));
        }
        self.client.delete_bucket(name).await?;
        self.forget_buckets();
        let known = self.table().directory(&place).map(|node| node.ino);
        if let Some(ino) = known {
            self.table().unlink(ino);
        }
        Ok(())
    }

    fn may_change_buckets(&self, name: &str) -> Result<()> {
        if self.settings.allow_bucket_changes {
            return Ok(());
        }
        let text = "creating and deleting buckets needs --allow-bucket-changes";
        Err(Error::new(ErrorKind::NotPermitted, text).on_bucket(name))
    }

    pub(super) fn forget_buckets(&self) {
        *self.buckets.listed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.buckets
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// S3 User Guide, "Bucket naming rules" (general purpose), widened to what compatible stores take.
fn is_bucket_name(name: &str) -> bool {
    (3..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::is_bucket_name;

    #[test]
    fn names_that_cannot_be_buckets_cost_no_request() {
        assert!(is_bucket_name("my-bucket.2"));
        for name in ["ab", ".git", ".Trash-1000", "a b c", "ü-bucket"] {
            assert!(!is_bucket_name(name), "{name}");
        }
    }
}
