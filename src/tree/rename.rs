//! Moving single objects to other keys; directories: [`super::moves`].
//!
//! Difficulties:
//! 1. A rename is a conditional server-side copy and a conditional delete; on 412 it looks again, a few times.
//! 2. A lost reply of the copy: the destination is looked at; the copy of one version is the same whoever made it.
//! 3. Whether an object is the copy of a version: equal ETags say so, but copies of objects that were uploaded in parts have
//!    others, and so has every copy in an encrypted bucket. The transaction in the metadata says it then; an object of
//!    another tool, which has none, gets one by which its copy is recognised ([`transaction_of_copy`]).
//! 4. Large objects, and symlinks and special files (whose ETag is their mark), are copied as multipart uploads:
//!    [`super::part_copies`].

use super::Tree;
use super::node::Kind;
use crate::base::attributes::{Attributes, TRANSACTION};
use crate::base::checksum::Crc32c;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::{Condition, ETag, ObjectHeaders, ObjectId, ObjectInfo, Version};
use crate::base::segments::Segments;
use crate::plan::copies::is_copied_at_once;
use crate::s3::types::{CopyRequest, GetRequest, PutRequest};
use std::sync::atomic::Ordering;

const MAX_LOOKS: u32 = 5;
/// Copies and deletes that run at once in a directory rename.
pub(super) const PARALLEL_MOVES: usize = 32;

/// What became of a version that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deleted {
    Gone,
    /// It is another version that is there.
    Replaced,
}

impl Tree {
    /// Copies the object that is at `from` now to `to`, and deletes exactly the version that was copied.
    /// Returns the tag of that version, and the version at `to`, which carries `headers` if it is the expected one and they
    /// are given ([`Tree::copy_with`]).
    ///
    /// # Errors
    /// `NotFound`, `Exists` (with [`Condition::Absent`]), `Busy` when either end keeps changing.
    pub async fn move_object(
        &self,
        from: &ObjectId,
        expected: Option<Version>,
        to: &ObjectId,
        condition: Condition,
        mut headers: Option<ObjectHeaders>,
    ) -> Result<(ETag, Version)> {
        let mut expected = expected;
        let mut condition = condition;
        for _ in 0..MAX_LOOKS {
            let source = match expected.take() {
                Some(version) => version,
                None => self.client.head(from).await?.version,
            };
            let copied = match &headers {
                Some(headers) => {
                    let copied = self.copy_with(from, &source, to, condition.clone(), headers);
                    copied.await
                }
                None => self.copy_version(from, &source, to, condition.clone()).await,
            };
            // They are those of the version that was expected, of no other.
            headers = None;
            let copied = match copied {
                Ok(version) => version,
                Err(error) if error.kind() == ErrorKind::PreconditionFailed => {
                    self.destination_allows(to, &condition).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match self.delete_version(from, &source.etag).await {
                Ok(Deleted::Gone) => return Ok((source.etag, copied)),
                // Somebody replaced the source after it was copied: theirs is the file that is renamed, over our copy.
                Ok(Deleted::Replaced) => {
                    if condition == Condition::Absent {
                        condition = Condition::Matches(copied.etag);
                    }
                }
                Err(error) => {
                    // Never where the copy may be all that is left.
                    let refused = matches!(error.kind(), ErrorKind::Denied | ErrorKind::Throttled);
                    if refused && condition == Condition::Absent {
                        self.undo_copy(to, &copied).await;
                    }
                    return Err(error);
                }
            }
        }
        Err(Error::new(ErrorKind::Busy, "the object keeps changing while it is renamed").on(from))
    }

    /// Deletes one version. A lost reply is resolved by looking.
    ///
    /// # Errors
    /// `Ambiguous` when even that did not help: it may be gone. Any other: it is still there.
    pub(super) async fn delete_version(&self, id: &ObjectId, etag: &ETag) -> Result<Deleted> {
        for _ in 0..MAX_LOOKS {
            match self.client.delete(id, Some(etag)).await {
                Ok(()) => return Ok(Deleted::Gone),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Deleted::Gone),
                Err(error) if error.kind() == ErrorKind::PreconditionFailed => return Ok(Deleted::Replaced),
                Err(error) if error.kind() == ErrorKind::Ambiguous => {}
                Err(error) => return Err(error),
            }
            match self.client.head(id).await {
                Ok(info) if info.version.etag == *etag => {}
                Ok(_) => return Ok(Deleted::Replaced),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Deleted::Gone),
                Err(error) => return Err(error.as_kind(ErrorKind::Ambiguous)),
            }
        }
        Err(Error::new(
            ErrorKind::Ambiguous,
            "nobody can tell whether the object was deleted",
        )
        .on(id))
    }

    /// The rename fails after its copy, whose source is certainly still there: the copy goes again, if the store lets it.
    async fn undo_copy(&self, to: &ObjectId, copied: &Version) {
        if let Err(error) = self.delete_version(to, &copied.etag).await {
            tracing::warn!(%error, "the copy of a rename that failed could not be removed: both names are there");
        }
    }

    /// After a 412: was it the destination's condition that failed?
    async fn destination_allows(&self, to: &ObjectId, condition: &Condition) -> Result<()> {
        if *condition == Condition::None {
            return Ok(());
        }
        match self.client.head(to).await {
            Ok(info) if *condition == Condition::Matches(info.version.etag.clone()) => Ok(()),
            Ok(_) => Err(Error::new(ErrorKind::Exists, "the new name exists already").on(to)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Copies one version, server-side. An ambiguous reply is resolved by looking at the destination.
    ///
    /// # Errors
    /// `PreconditionFailed` when the source is another version or the destination's condition does not hold.
    pub async fn copy_version(
        &self,
        from: &ObjectId,
        source: &Version,
        to: &ObjectId,
        condition: Condition,
    ) -> Result<Version> {
        let too_large = !is_copied_at_once(source.size_bytes, &self.client.limits());
        let mut headers = None;
        let keeps_storage = !self.client.has_seen_other_storage();
        let keeps_tag = !source.etag.is_of_parts() && !self.copies_change_tags.load(Ordering::Relaxed);
        if !keeps_storage || !keeps_tag || too_large {
            let mut info = self.client.head(from).await?;
            if info.version.etag != source.etag {
                return Err(Error::new(ErrorKind::PreconditionFailed, "the source was replaced").on(from));
            }
            if !info.headers.metadata.contains_key(TRANSACTION) {
                let transaction = transaction_of_copy(&source.etag);
                info.headers.metadata.insert(TRANSACTION.to_owned(), transaction);
                headers = Some(info.headers.clone());
            }
            if !keeps_storage {
                headers = Some(info.headers.clone());
            }
            if too_large || is_special(&info) {
                let copied = if too_large {
                    self.copy_in_parts(from, &info, to, condition).await
                } else {
                    self.copy_special(from, &info, to, condition).await
                };
                return match copied {
                    Err(error) if error.kind() == ErrorKind::Ambiguous => match self.client.head(to).await {
                        Ok(copy) if is_copy(&info, &copy) => Ok(copy.version),
                        _ => Err(error),
                    },
                    decided => decided,
                };
            }
        }
        let request = CopyRequest {
            from: from.clone(),
            from_etag: source.etag.clone(),
            size_bytes: source.size_bytes,
            to: to.clone(),
            condition: condition.clone(),
            headers,
        };
        match self.client.copy(&request).await {
            Ok(version) => {
                if version.etag != source.etag && !source.etag.is_of_parts() {
                    self.copies_change_tags.store(true, Ordering::Relaxed);
                }
                Ok(version)
            }
            Err(error) if error.kind() == ErrorKind::Ambiguous => self.settle_copy(&request).await,
            Err(error) => Err(error),
        }
    }

    /// As [`Tree::copy_version`], with other headers: all of them, with an identity of this copy ([`TRANSACTION`]) in the
    /// metadata. The object may be copied onto itself.
    ///
    /// # Errors
    /// As [`Tree::copy_version`]; `Ambiguous` when looking did not help either.
    pub async fn copy_with(
        &self,
        from: &ObjectId,
        source: &Version,
        to: &ObjectId,
        condition: Condition,
        headers: &ObjectHeaders,
    ) -> Result<Version> {
        let info = ObjectInfo {
            version: source.clone(),
            headers: headers.clone(),
        };
        let copied = if !is_copied_at_once(source.size_bytes, &self.client.limits()) {
            self.copy_in_parts(from, &info, to, condition).await
        } else if is_special(&info) {
            self.copy_special(from, &info, to, condition).await
        } else {
            let request = CopyRequest {
                from: from.clone(),
                from_etag: source.etag.clone(),
                size_bytes: source.size_bytes,
                to: to.clone(),
                condition,
                headers: Some(headers.clone()),
            };
            self.client.copy(&request).await
        };
        match copied {
            Err(error) if error.kind() == ErrorKind::Ambiguous => {
                let there = self.client.head(to).await?;
                if there.headers.metadata.get(TRANSACTION) == headers.metadata.get(TRANSACTION) {
                    return Ok(there.version);
                }
                // It did not happen, and whatever is there now decides anew.
                Err(error.as_kind(ErrorKind::PreconditionFailed))
            }
            decided => decided,
        }
    }

    /// The reply of a copy was lost.
    async fn settle_copy(&self, request: &CopyRequest) -> Result<Version> {
        let (from, to) = (&request.from, &request.to);
        for _ in 0..MAX_LOOKS {
            let source = self.client.head(from).await?;
            match self.client.head(to).await {
                Ok(copied) if is_copy(&source, &copied) => return Ok(copied.version),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                // Not there, or something else: the copy did not happen, and the conditions decide anew.
                _ => {}
            }
            match self.client.copy(request).await {
                Err(error) if error.kind() == ErrorKind::Ambiguous => {}
                decided => return decided,
            }
        }
        Err(Error::new(ErrorKind::Busy, "the object could not be copied").on(to))
    }

    /// The bytes of an object that is known to be small.
    ///
    /// # Errors
    /// What S3 says; `PreconditionFailed` when it is another version.
    pub async fn small_body(&self, id: &ObjectId, etag: &ETag) -> Result<bytes::Bytes> {
        let request = GetRequest {
            id: id.clone(),
            range: None,
            if_match: Some(etag.clone()),
            version_id: None,
        };
        let mut reply = self.client.get(&request).await?;
        let mut body = bytes::BytesMut::new();
        while let Some(piece) = reply.body.next().await? {
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }

    /// As [`Tree::move_object`], but of `source` only: `None`, and nothing done, when another version is there.
    ///
    /// # Errors
    /// `Exists` when somebody else has the new name; what S3 says.
    pub async fn move_version(
        &self,
        from: &ObjectId,
        source: &Version,
        to: &ObjectId,
        condition: Condition,
    ) -> Result<Option<Version>> {
        match self.client.head(from).await {
            Ok(info) if info.version.etag == source.etag => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        match self.copy_version(from, source, to, condition).await {
            Ok(version) => {
                // `Replaced`: somebody wrote it just now; theirs stays where it was.
                self.delete_version(from, &source.etag).await?;
                Ok(Some(version))
            }
            Err(error) if error.kind() == ErrorKind::PreconditionFailed => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Copies whatever version is at `source` now; returns that and the copy's version. What a former run
    /// has copied already is left as it is; anything else at the target is somebody else's and stays.
    pub(super) async fn copy_current(
        &self,
        source: &ObjectId,
        listed: Version,
        target: &ObjectId,
    ) -> Result<(Version, Version)> {
        let mut current = listed;
        let mut condition = Condition::Absent;
        for _ in 0..MAX_LOOKS {
            match self
                .copy_version(source, &current, target, condition.clone())
                .await
            {
                Ok(version) => return Ok((current, version)),
                Err(error) if error.kind() == ErrorKind::PreconditionFailed => {
                    let now = self.client.head(source).await?;
                    match self.client.head(target).await {
                        Ok(copy) if loses_nothing(source, &now, &copy) => {
                            return Ok((now.version, copy.version));
                        }
                        // The source got other metadata since.
                        Ok(copy) if is_copy(&now, &copy) => {
                            current = now.version;
                            condition = Condition::Matches(copy.version.etag);
                        }
                        Ok(_) => {
                            let text = "another host put an object at the new name of the directory";
                            return Err(Error::new(ErrorKind::NotEmpty, text).on(target));
                        }
                        Err(error) if error.kind() == ErrorKind::NotFound => {
                            current = now.version;
                            condition = Condition::Absent;
                        }
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(
            ErrorKind::Busy,
            "the object keeps changing while its directory is renamed",
        )
        .on(source))
    }

    /// Puts at `target` a marker like the one at `source`; one that is there already is as good. For stores that keep
    /// a tree of directories (SeaweedFS): they do not copy markers, and have one wherever there are keys below.
    pub(super) async fn make_marker_anew(
        &self,
        source: &ObjectId,
        target: &ObjectId,
    ) -> Result<(Version, Version)> {
        let info = self.client.head(source).await?;
        let request = PutRequest {
            id: target.clone(),
            body: Segments::new(),
            checksum: Crc32c::default(),
            condition: Condition::Absent,
            headers: info.headers,
        };
        let version = match self.client.put(&request).await {
            Err(error) if error.kind() == ErrorKind::PreconditionFailed => {
                let there = self.client.head(target).await?;
                if there.version.size_bytes > 0 {
                    return Err(
                        Error::new(ErrorKind::NotEmpty, "there is data in the place of a marker").on(target),
                    );
                }
                there.version
            }
            result => result?,
        };
        Ok((info.version, version))
    }
}

/// What a store without real markers says to the copy of one.
pub(super) fn is_marker_trouble(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotEmpty)
}

/// True when `copy` was made of exactly this version.
pub(super) fn is_copy(source: &ObjectInfo, copy: &ObjectInfo) -> bool {
    let transaction = copy.headers.metadata.get(TRANSACTION);
    let is_carried_over = copy.headers == source.headers && transaction.is_some();
    let was_given = transaction.is_some_and(|given| *given == transaction_of_copy(&source.version.etag));
    copy.version.etag == source.version.etag
        || copy.version.size_bytes == source.version.size_bytes && (is_carried_over || was_given)
}

/// True when `copy` has all that would go with `source`: bytes, headers, metadata. A directory's marker has nothing that
/// must not go; some stores do not copy what it says.
pub(super) fn loses_nothing(id: &ObjectId, source: &ObjectInfo, copy: &ObjectInfo) -> bool {
    let is_marker = id.key.ends_with('/') && source.version.size_bytes == 0;
    is_copy(source, copy) && (is_marker || says_the_same(source, copy))
}

/// Encryption and storage class may be the bucket's own, and others there.
pub(super) fn says_the_same(source: &ObjectInfo, copy: &ObjectInfo) -> bool {
    let mut metadata = copy.headers.metadata.clone();
    if !source.headers.metadata.contains_key(TRANSACTION)
        && metadata.get(TRANSACTION) == Some(&transaction_of_copy(&source.version.etag))
    {
        metadata.remove(TRANSACTION);
    }
    let content = |headers: &ObjectHeaders| {
        [
            &headers.content_type,
            &headers.content_encoding,
            &headers.content_language,
            &headers.content_disposition,
            &headers.cache_control,
        ]
        .map(Clone::clone)
    };
    metadata == source.headers.metadata && content(&source.headers) == content(&copy.headers)
}

/// What the copy of an object without a transaction carries as its own.
fn transaction_of_copy(source: &ETag) -> String {
    format!("copy-of-{source}")
}

fn is_special(info: &ObjectInfo) -> bool {
    Attributes::read(&info.headers.metadata)
        .mode
        .is_some_and(|mode| Kind::of_mode(mode).is_special())
}
