//! Moving objects and directories to other keys.
//!
//! Difficulties:
//! 1. A rename is a conditional server-side copy and a conditional delete; on 412 it looks again, a few times.
//! 2. A lost reply of the copy: the destination is looked at; the copy of one version is the same whoever made it.
//! 3. A directory: all copies before any delete, so that a crash in the middle leaves every object at least once; each
//!    delete names the version that was copied, so that a newer object of somebody else is never deleted. The same
//!    run, repeated, finishes what a crash cut off.
//! 4. Objects over the limit of one copy, and symlinks (whose ETag is their mark), are copied as multipart uploads.

use super::Tree;
use super::node::DirectoryPlace;
use crate::base::attributes::{Attributes, TRANSACTION};
use crate::base::checksum::Crc32c;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::limits::{GIB, UploadLimits};
use crate::base::object::{ByteRange, Condition, ETag, ObjectId, ObjectInfo, Version};
use crate::base::segments::Segments;
use crate::s3::types::{
    CompleteRequest, CopyRequest, GetRequest, ListRequest, ListedObject, PutRequest, UploadId, UploadedPart,
};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::cmp::Reverse;
use std::sync::Arc;

const MAX_LOOKS: u32 = 5;
/// Copies and deletes that run at once in a directory rename.
const PARALLEL_MOVES: usize = 32;
/// A part of a copy in parts: the store moves the data, so parts are large.
const COPY_PART_BYTES: u64 = GIB;

/// What became of a version that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deleted {
    Gone,
    /// It is another version that is there.
    Replaced,
}

impl Tree {
    /// Copies the object that is at `from` now to `to`, and deletes exactly the version that was copied.
    /// Returns the tag of that version, and the version at `to`.
    ///
    /// # Errors
    /// `NotFound`, `Exists` (with [`Condition::Absent`]), `Busy` when either end keeps changing.
    pub async fn move_object(
        &self,
        from: &ObjectId,
        expected: Option<Version>,
        to: &ObjectId,
        condition: Condition,
    ) -> Result<(ETag, Version)> {
        let mut expected = expected;
        let mut condition = condition;
        for _ in 0..MAX_LOOKS {
            let source = match expected.take() {
                Some(version) => version,
                None => self.client.head(from).await?.version,
            };
            let copied = match self.copy_version(from, &source, to, condition.clone()).await {
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
    async fn delete_version(&self, id: &ObjectId, etag: &ETag) -> Result<Deleted> {
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
        if *condition != Condition::Absent {
            return Ok(());
        }
        match self.client.head(to).await {
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
        let too_large = source.size_bytes > UploadLimits::S3.max_part_bytes;
        if source.etag.is_one_part() || too_large {
            let info = self.client.head(from).await?;
            if info.version.etag != source.etag {
                return Err(Error::new(ErrorKind::PreconditionFailed, "the source was replaced").on(from));
            }
            if too_large || is_symlink(&info) {
                let copied = if too_large {
                    self.copy_in_parts(from, &info, to, condition).await
                } else {
                    self.copy_symlink(from, &info, to, condition).await
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
            headers: None,
        };
        match self.client.copy(&request).await {
            Ok(version) => Ok(version),
            Err(error) if error.kind() == ErrorKind::Ambiguous => self.settle_copy(&request).await,
            Err(error) => Err(error),
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

    async fn copy_symlink(
        &self,
        from: &ObjectId,
        info: &ObjectInfo,
        to: &ObjectId,
        condition: Condition,
    ) -> Result<Version> {
        let body = self.small_body(from, &info.version.etag).await?;
        let checksum = Crc32c::of(&body);
        let upload = self.client.create_upload(to, &info.headers).await?;
        let part = self
            .client
            .upload_part(to, &upload, 1, Segments::from(body), checksum)
            .await;
        self.complete_or_abort(
            to,
            upload,
            part.map(|part| vec![part]),
            Some(checksum),
            info.version.size_bytes,
            condition,
        )
        .await
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

    async fn copy_in_parts(
        &self,
        from: &ObjectId,
        info: &ObjectInfo,
        to: &ObjectId,
        condition: Condition,
    ) -> Result<Version> {
        let size_bytes = info.version.size_bytes;
        let upload = self.client.create_upload(to, &info.headers).await?;
        let ranges = (0..size_bytes.div_ceil(COPY_PART_BYTES)).map(|n| {
            let start = n * COPY_PART_BYTES;
            (
                n as u32 + 1,
                ByteRange::new(start, (start + COPY_PART_BYTES).min(size_bytes)),
            )
        });
        let parts = stream::iter(ranges)
            .map(|(number, range)| {
                self.client
                    .upload_part_copy(to, &upload, number, from, &info.version.etag, range)
            })
            .buffered(PARALLEL_MOVES)
            .try_collect::<Vec<UploadedPart>>()
            .await;
        self.complete_or_abort(to, upload.clone(), parts, None, size_bytes, condition)
            .await
    }

    async fn complete_or_abort(
        &self,
        to: &ObjectId,
        upload: UploadId,
        parts: Result<Vec<UploadedPart>>,
        checksum: Option<Crc32c>,
        size_bytes: u64,
        condition: Condition,
    ) -> Result<Version> {
        let completed = match parts {
            Ok(parts) => {
                let request = CompleteRequest {
                    id: to.clone(),
                    upload: upload.clone(),
                    parts,
                    checksum,
                    size_bytes,
                    condition,
                };
                self.client.complete_upload(&request).await
            }
            Err(error) => Err(error),
        };
        if completed.is_err()
            && let Err(error) = self.client.abort_upload(to, &upload).await
        {
            tracing::warn!(%error, "an upload could not be aborted");
        }
        completed
    }

    /// Moves everything at and below `from` to `to`: all copies, then the deletes. Calls `moved` for each object that
    /// has arrived (source, tag of what was copied, copy, its version), and answers how many there were. Running it again finishes an interrupted run.
    ///
    /// Unlinked objects that wait for their last handle stay: nobody is to see them again, under any name.
    ///
    /// # Errors
    /// The first error; what was copied stays copied, nothing was deleted unless everything was copied.
    pub async fn move_prefix(
        &self,
        from: &DirectoryPlace,
        to: &DirectoryPlace,
        moved: impl Fn(&ObjectId, &ETag, &ObjectId, &Version),
    ) -> Result<usize> {
        let mut objects = self.all_below(from).await?;
        {
            let table = self.table();
            objects
                .retain(|object| !table.is_hidden(&ObjectId::new(from.bucket.clone(), object.key.as_str())));
        }
        let count = objects.len();
        let moved = &moved;
        let copies: Vec<(ObjectId, ETag)> = stream::iter(objects)
            .map(|object| async move {
                let source = ObjectId::new(from.bucket.clone(), object.key.as_str());
                let rest = &object.key[from.key.prefix().len()..];
                let target = ObjectId::new(to.bucket.clone(), format!("{}{rest}", to.key.prefix()));
                let listed = Version {
                    etag: object.etag,
                    size_bytes: object.size_bytes,
                    version_id: None,
                    last_modified: object.last_modified,
                };
                let is_marker = source.key.ends_with('/') && listed.size_bytes == 0;
                let copied = match self.copy_current(&source, listed, &target).await {
                    Err(error) if is_marker && is_marker_trouble(&error) => {
                        self.make_marker_anew(&source, &target).await
                    }
                    result => result,
                };
                let (etag, version) = copied?;
                moved(&source, &etag, &target, &version);
                Ok::<_, Error>((source, etag))
            })
            .buffer_unordered(PARALLEL_MOVES)
            .try_collect()
            .await?;
        // Directories after what is in them, deepest first: stores that keep a tree cannot remove them before.
        let (mut markers, files): (Vec<_>, Vec<_>) = copies
            .into_iter()
            .partition(|(source, _)| source.key.ends_with('/'));
        self.delete_moved(files).await?;
        markers.sort_by_key(|(source, _)| Reverse(depth(source)));
        for of_one_depth in markers.chunk_by(|(one, _), (next, _)| depth(one) == depth(next)) {
            self.delete_moved(of_one_depth.to_vec()).await?;
        }
        Ok(count)
    }

    async fn delete_moved(&self, copied: Vec<(ObjectId, ETag)>) -> Result<()> {
        stream::iter(copied)
            .map(|(source, etag)| async move {
                if self.delete_version(&source, &etag).await? == Deleted::Replaced {
                    tracing::warn!(%source, "somebody wrote this object during the rename: it stays where it was");
                }
                Ok::<_, Error>(())
            })
            .buffer_unordered(PARALLEL_MOVES)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
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

    /// After a directory was moved: moves what appeared under its old name meanwhile, where the new name is free.
    ///
    /// # Errors
    /// What S3 says.
    pub async fn move_leftovers(&self, from: &DirectoryPlace, to: &DirectoryPlace) -> Result<()> {
        for object in self.all_below(from).await? {
            let source = ObjectId::new(from.bucket.clone(), object.key.as_str());
            if self.table().is_hidden(&source) {
                continue;
            }
            let rest = &object.key[from.key.prefix().len()..];
            let target = ObjectId::new(to.bucket.clone(), format!("{}{rest}", to.key.prefix()));
            let version = Version {
                etag: object.etag,
                size_bytes: object.size_bytes,
                version_id: None,
                last_modified: object.last_modified,
            };
            if self
                .move_version(&source, &version, &target, Condition::Absent)
                .await?
                .is_none()
            {
                tracing::warn!(%source, "somebody wrote this object during the rename: it stays where it was");
            }
        }
        Ok(())
    }

    /// Copies whatever version is at `source` now; returns which it was and the copy's version. What a former run
    /// has copied already is left as it is; anything else at the target is somebody else's and stays.
    async fn copy_current(
        &self,
        source: &ObjectId,
        listed: Version,
        target: &ObjectId,
    ) -> Result<(ETag, Version)> {
        let mut current = listed;
        for _ in 0..MAX_LOOKS {
            match self
                .copy_version(source, &current, target, Condition::Absent)
                .await
            {
                Ok(version) => return Ok((current.etag, version)),
                Err(error) if error.kind() == ErrorKind::PreconditionFailed => {
                    let now = self.client.head(source).await?;
                    match self.client.head(target).await {
                        Ok(copy) if is_copy(&now, &copy) => return Ok((now.version.etag, copy.version)),
                        Ok(_) => {
                            let text = "another host put an object at the new name of the directory";
                            return Err(Error::new(ErrorKind::NotEmpty, text).on(target));
                        }
                        Err(error) if error.kind() == ErrorKind::NotFound => current = now.version,
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
    async fn make_marker_anew(&self, source: &ObjectId, target: &ObjectId) -> Result<(ETag, Version)> {
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
        Ok((info.version.etag, version))
    }

    async fn all_below(&self, place: &DirectoryPlace) -> Result<Vec<ListedObject>> {
        let mut objects = Vec::new();
        let mut request = ListRequest {
            bucket: Arc::clone(&place.bucket),
            prefix: place.key.prefix().to_owned(),
            by_directory: false,
            start_after: None,
            continuation: None,
            max_keys: 1_000,
        };
        loop {
            let page = self.client.list(&request).await?;
            objects.extend(page.objects);
            match page.continuation {
                Some(next) => request.continuation = Some(next),
                None => return Ok(objects),
            }
        }
    }
}

/// Same size and same metadata, the transaction of the upload that wrote it included.
fn depth(id: &ObjectId) -> usize {
    id.key.bytes().filter(|byte| *byte == b'/').count()
}

/// What a store without real markers says to the copy of one.
fn is_marker_trouble(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotEmpty)
}

fn is_copy(source: &ObjectInfo, copy: &ObjectInfo) -> bool {
    copy.version.size_bytes == source.version.size_bytes
        && copy.headers == source.headers
        && source.headers.metadata.contains_key(TRANSACTION)
        || copy.version.etag == source.version.etag
}

fn is_symlink(info: &ObjectInfo) -> bool {
    Attributes::read(&info.headers.metadata)
        .mode
        .is_some_and(|mode| mode & libc::S_IFMT == libc::S_IFLNK)
}
