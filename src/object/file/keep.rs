//! Nothing that was written is lost: conflicts, files that cannot be sent now, new names.
//!
//! 1. A conflict is kept whole where all its bytes can be read; as an upload left open where some are only in its parts;
//!    as a patch where unchanged bytes came from a version that is gone. Where neither an upload nor a patch says it all,
//!    both are kept.
//! 2. What is kept goes to a spool file of its own: the file's own one goes on changing.
//! 3. What cannot be sent now is recorded for the next mount: [`super::persist`]. What comes from an object that is about to
//!    go is fetched before: [`super::local`].
//! 4. An object whose name changes under an upload: parts cannot be moved, so they become an object under the old name, from
//!    which the next commit copies and which it then deletes.

use super::news::Turn;
use super::state::{Base, Source, State};
use super::{Creation, File, Next, upload};
use crate::base::attributes::{Attributes, TRANSACTION};
use crate::base::checksum::Crc32c;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extents::{Backing, SourceId};
use crate::base::mount_config::OnConflict;
use crate::base::object::{ByteRange, Condition, ObjectHeaders, ObjectId, ObjectInfo, Version};
use crate::object::reader::{ReadStream, Reader};
use crate::rt;
use crate::spool::{Conflict, ConflictForm, RecordId, RecordedPart, SpoolFile};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Up to this size the loser of an exclusive creation is not kept: it is a lock file, which holds a host, a process, a
/// date; whoever made it is told that it is not theirs, and wants nothing of it.
const MAX_DROPPED_BYTES: u64 = 4096;
/// Content is copied to and from the spool in steps of this length.
const STEP_BYTES: u64 = 1 << 20;

impl State {
    pub(super) fn has_bytes_in_parts(&self) -> bool {
        self.map
            .iter()
            .any(|extent| matches!(extent.backing, Backing::Part { .. }))
    }

    /// Parts of an upload cannot be moved.
    fn is_put_before_rename(&self, to: &ObjectId) -> bool {
        self.id != *to && (self.has_bytes_in_parts() || self.sealed.is_some())
    }

    /// The runs that a patch has to have: neither in parts nor unchanged; `with_copied` those that come from other objects
    /// too.
    pub(super) fn changed_runs(&self, with_copied: bool) -> Vec<ByteRange> {
        let mut runs: Vec<ByteRange> = Vec::new();
        for extent in self.map.iter() {
            let is_elsewhere = match extent.backing {
                Backing::Part { .. } => true,
                Backing::Source(_) => !with_copied || is_of_base(&extent.backing),
                _ => false,
            };
            if is_elsewhere {
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.end == extent.range.start => last.end = extent.range.end,
                _ => runs.push(extent.range),
            }
        }
        runs
    }
}

impl File {
    /// The condition under which somebody else's object is overwritten, where the user wants that. Who is to create is never
    /// told that it did when somebody else did.
    pub(super) fn overwriting(&self, found: Option<&ObjectInfo>) -> Option<Condition> {
        let is_exclusive = self.state().creation == Some(Creation::Exclusive);
        if self.context.on_conflict != OnConflict::Overwrite || is_exclusive {
            return None;
        }
        let replaced = found.map(|info| Condition::Matches(info.version.etag.clone()));
        Some(replaced.unwrap_or(Condition::Absent))
    }

    /// Another version is there. Keeps the local one, after which the file is not dirty any more; returns the error for
    /// the caller. If it cannot be kept, the file stays dirty, and the error says why.
    pub(super) async fn keep_conflict(self: &Arc<Self>, theirs: Option<ObjectInfo>) -> Error {
        if self.state().is_one_shot {
            return self.lost_one_shot(theirs.as_ref());
        }
        if self.state().is_unlinked {
            return self.lost_unlinked();
        }
        let (id, kind) = {
            let state = self.state();
            let is_exclusive = state.creation == Some(Creation::Exclusive) && theirs.is_some();
            (
                state.id.clone(),
                if is_exclusive {
                    ErrorKind::Exists
                } else {
                    ErrorKind::Stale
                },
            )
        };
        let theirs = theirs.map(|info| info.version);
        let message = if kind == ErrorKind::Exists && self.size_bytes() <= MAX_DROPPED_BYTES {
            tracing::info!(object = %id, "another host created the file first; what was written here is not kept");
            "another host created the file first"
        } else if self.context.on_conflict == OnConflict::Fail {
            tracing::warn!(object = %id, "somebody else changed the object; what was written here is dropped, as asked for");
            "somebody else's object is there; what was written here was dropped"
        } else {
            if self.context.on_conflict == OnConflict::Copy {
                self.copy_beside().await;
            }
            if let Err(error) = self.keep_as_conflicts(&id, theirs.as_ref()).await {
                tracing::warn!(%error, object = %id, "a conflicting local version could not be kept; it stays unsent");
                return error.on(&id);
            }
            "somebody else's object is there; the local version was kept as a conflict"
        };
        let former = {
            let mut state = self.state();
            state.given_up();
            if state.has_bytes_in_parts() && self.context.on_conflict != OnConflict::Fail {
                // The record keeps the upload from now on.
                state.upload = None;
            } else {
                self.abandon_upload(&mut state);
            }
            state.persisted.take()
        };
        for record in former.into_iter().flat_map(|former| former.records) {
            upload::forget(&self.context.spool, record).await;
        }
        Error::new(kind, message).on(&id)
    }

    /// Nobody wants an unlinked file back: what only its upload has is gone.
    fn lost_unlinked(&self) -> Error {
        let mut state = self.state();
        state.given_up();
        self.abandon_upload(&mut state);
        let message = "the file was unlinked, and somebody else's object has its name";
        Error::new(ErrorKind::Stale, message).on(&state.id)
    }

    async fn keep_as_conflicts(&self, id: &ObjectId, theirs: Option<&Version>) -> Result<()> {
        let records = self.save_as_conflicts(theirs).await?;
        let numbers: Vec<u64> = records.iter().map(|record| record.0).collect();
        let theirs = theirs.map_or("nothing".to_owned(), |version| version.etag.to_string());
        tracing::warn!(
            object = %id, theirs = %theirs, records = ?numbers,
            "somebody else changed the object; the local version was kept (see `pailfs conflicts`)"
        );
        Ok(())
    }

    /// Records the file's content as one or two conflicts, for when all of it is not in one place.
    pub(super) async fn save_as_conflicts(&self, theirs: Option<&Version>) -> Result<Vec<RecordId>> {
        if !self.state().has_bytes_in_parts() {
            return match self.whole_copy().await {
                Ok(file) => {
                    let form = ConflictForm::Whole {
                        file_name: file.file_name().to_owned(),
                    };
                    Ok(vec![self.record_conflict(theirs, form, file).await?])
                }
                Err(error) if error.kind() == ErrorKind::Stale => Ok(vec![self.save_patch(theirs).await?]),
                Err(error) => Err(error),
            };
        }
        let (link, sent, size_bytes) = {
            let state = self.state();
            let Some(upload) = &state.upload else {
                return Err(super::gone());
            };
            (upload.link.clone(), upload.all_sent(), state.map.size_bytes())
        };
        let opened = link.opened(&self.context.client, &self.context.spool).await?;
        let parts: Vec<RecordedPart> = sent
            .iter()
            .map(|part| RecordedPart {
                number: part.number,
                etag: part.etag.as_str().to_owned(),
                checksum_base64: part.checksum.map(Crc32c::to_base64),
                len_bytes: part.len_bytes,
            })
            .collect();
        let is_complete = parts.iter().map(|part| part.len_bytes).sum::<u64>() == size_bytes;
        let form = ConflictForm::OpenUpload {
            upload_id: opened.upload.0.clone(),
            parts,
            transaction: link.transaction.clone(),
        };
        let mut records = vec![self.record_conflict(theirs, form, None).await?];
        if !is_complete {
            records.push(self.save_patch(theirs).await?);
        }
        // Only now: until the conflict names the upload, its own record keeps it.
        opened.forget(&self.context.spool).await;
        Ok(records)
    }

    /// Writes the local version beside the object. What fails here is no loss: it is kept on this machine too.
    fn copy_beside(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let id = self.id();
            let key = beside(&id.key, rt::wall_clock(), &rt::random_id());
            match self.put_copy(id.sibling(key)).await {
                Ok(copy) => {
                    tracing::warn!(object = %id, %copy, "the local version was also written beside the object")
                }
                Err(error) => {
                    tracing::warn!(%error, object = %id, "the local version could not be written beside the object");
                }
            }
        })
    }

    async fn put_copy(&self, id: ObjectId) -> Result<ObjectId> {
        if self.state().has_bytes_in_parts() {
            let message = "some bytes are only in an unfinished upload";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let file = self.whole_copy().await?;
        let copy = {
            let state = self.state();
            let now = self.context.client.server_time();
            let mut copy = State::new(id.clone(), state.headers.clone(), state.attributes, now);
            copy.headers.metadata.remove(TRANSACTION);
            copy.take_spooled(file, state.map.size_bytes());
            copy.creation = Some(Creation::Exclusive);
            copy.note_change();
            copy
        };
        let copy = Self::with_state(&self.context, copy);
        copy.commit_everything().await?;
        Ok(id)
    }

    pub(super) async fn save_patch(&self, theirs: Option<&Version>) -> Result<RecordId> {
        match self.save_changes(theirs, true).await {
            Err(error) if error.kind() == ErrorKind::Stale => {
                tracing::warn!(%error, object = %self.id(), "what was copied from other objects is not saved: they are gone");
                self.save_changes(theirs, false).await
            }
            other => other,
        }
    }

    async fn save_changes(&self, theirs: Option<&Version>, with_copied: bool) -> Result<RecordId> {
        let (runs, base_etag) = {
            let state = self.state();
            let source = state
                .source
                .as_ref()
                .map(|source| source.reader.version().etag.to_string());
            (state.changed_runs(with_copied), source.unwrap_or_default())
        };
        let file = self.new_spool_file().await?;
        let mut end = 0;
        for run in &runs {
            self.copy_to(&file, *run, end).await?;
            end += run.len();
        }
        finish_file(&file, end).await?;
        let form = ConflictForm::Patch {
            file_name: file.file_name().to_owned(),
            base_etag,
            runs: runs.iter().map(|run| (run.start, run.len())).collect(),
        };
        self.record_conflict(theirs, form, file).await
    }

    /// `_file` is the one that `form` names: it lives until the record does.
    async fn record_conflict(
        &self,
        theirs: Option<&Version>,
        form: ConflictForm,
        _file: impl Into<Option<Arc<SpoolFile>>>,
    ) -> Result<RecordId> {
        let found_unix_ms = rt::wall_clock()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        let conflict = {
            let state = self.state();
            Conflict {
                bucket: state.id.bucket.to_string(),
                key: state.id.key.to_string(),
                found_unix_ms,
                base_etag: state.base.etag().map(ToString::to_string),
                theirs_etag: theirs.map(|version| version.etag.to_string()),
                size_bytes: state.map.size_bytes(),
                form,
            }
        };
        let spool = self.context.spool.clone();
        rt::blocking(move || spool.record_conflict(&conflict)).await
    }

    pub(super) async fn new_spool_file(&self) -> Result<Arc<SpoolFile>> {
        let spool = self.context.spool.clone();
        rt::blocking(move || spool.create_file()).await.map(Arc::new)
    }

    /// A spool file with the whole content, on disk.
    ///
    /// # Errors
    /// `Stale` when some bytes cannot be read any more.
    pub(super) async fn whole_copy(&self) -> Result<Arc<SpoolFile>> {
        let file = self.new_spool_file().await?;
        let size_bytes = self.size_bytes();
        self.copy_to(&file, ByteRange::new(0, size_bytes), 0).await?;
        finish_file(&file, size_bytes).await?;
        Ok(file)
    }

    /// Copies `range` of the file's content to `to_offset` of `file`. Zeroes are left out: the file has them.
    pub(super) async fn copy_to(
        &self,
        file: &Arc<SpoolFile>,
        range: ByteRange,
        to_offset: u64,
    ) -> Result<()> {
        let _memory = self
            .context
            .budget
            .acquire_for_load(STEP_BYTES.min(range.len()))
            .await?;
        let stream = ReadStream::default();
        let mut position = range.start;
        let mut data = Vec::new();
        while position < range.end {
            let zeroes = self.zeroes_at(position);
            if zeroes > 0 {
                position += zeroes;
                continue;
            }
            data.clear();
            let step = ByteRange::new(position, range.end.min(position + STEP_BYTES));
            let end = match self.next(step, &mut data) {
                Next::Copied(end) => end,
                Next::EndOfFile => break,
                Next::Spool { file, offset, len } => {
                    super::read_spool(file, offset, len, &mut data).await?;
                    position + len
                }
                Next::Source { reader, offset, len } => {
                    reader.read(&stream, offset, len as usize, &mut data).await?;
                    position + data.len() as u64
                }
                Next::Gone => return Err(super::gone()),
                Next::InPart => {
                    return Err(Error::new(
                        ErrorKind::Stale,
                        "bytes are only in an unfinished upload",
                    ));
                }
            };
            if end == position {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "the object is shorter than its version says",
                ));
            }
            let (to, place) = (file.clone(), to_offset + (position - range.start));
            data = rt::blocking(move || to.write_at(place, &data).map(|()| data)).await?;
            position = end;
        }
        Ok(())
    }

    /// How many zeroes that were never written follow from `position` on.
    fn zeroes_at(&self, position: u64) -> u64 {
        let extent = self.state().map.at(position);
        let zeroes = extent.filter(|extent| extent.backing == Backing::Zero);
        zeroes.map_or(0, |extent| extent.range.end - position)
    }

    /// The file was renamed while it was not in the bucket yet: `replaces` is the version under the new name that it replaces.
    /// False, and nothing done, where a commit has put it there meanwhile: there is an object to move now.
    ///
    /// # Errors
    /// As [`File::rename`].
    pub async fn rename_unsent(&self, id: ObjectId, replaces: Option<Version>) -> Result<bool> {
        self.rename_if(id, replaces, |state| !state.is_known_to_exist)
            .await
    }

    /// Its object was moved (or copied onto itself): `base` is the version that is at `id` now, with the same bytes. An upload
    /// that runs under another key is abandoned.
    ///
    /// # Errors
    /// What a commit says that is needed because some bytes are only in parts of the upload.
    pub async fn rename(&self, id: ObjectId, base: Option<Version>) -> Result<()> {
        self.rename_if(id, base, |_| true).await.map(drop)
    }

    /// The turn to rename the file, with a way to its old name where something of it is to be put there first. (Where it
    /// has an object under that name nothing else of this mount is there.)
    async fn turn_to_rename(&self, to: &ObjectId) -> Result<Turn> {
        {
            let guard = self.committing.clone().lock_owned().await;
            let state = self.state();
            if state.is_known_to_exist || !state.is_put_before_rename(to) {
                return Ok(Turn { guard, way: None });
            }
        }
        self.turn_to_commit(true).await
    }

    async fn rename_if(
        &self,
        id: ObjectId,
        base: Option<Version>,
        may_be_renamed: impl FnOnce(&State) -> bool,
    ) -> Result<bool> {
        let turn = self.turn_to_rename(&id).await?;
        let renamed = self.rename_in_turn(id, base, may_be_renamed).await;
        let was_persisted = {
            let state = self.state();
            state.is_dirty() && state.persisted.is_some()
        };
        turn.end().await;
        // The record still has the old name.
        let is_renamed = renamed?;
        if is_renamed && was_persisted {
            self.persist().await?;
        }
        Ok(is_renamed)
    }

    async fn rename_in_turn(
        &self,
        id: ObjectId,
        base: Option<Version>,
        may_be_renamed: impl FnOnce(&State) -> bool,
    ) -> Result<bool> {
        let _untold = self.without_telling();
        let mut is_left_behind = false;
        let pending = {
            let mut state = self.state();
            if !may_be_renamed(&state) {
                return Ok(false);
            }
            let is_moved = state.is_known_to_exist && base.is_some();
            let needs_commit = state.is_put_before_rename(&id);
            if needs_commit && is_moved && state.sealed.is_none() {
                // Its object is not under the old name any more: what is committed there is a new one.
                state.base = Base::Absent;
                is_left_behind = true;
            }
            needs_commit.then_some(state.last_change)
        };
        if let Some(wanted) = pending {
            self.shared()?.commit_up_to(wanted).await?;
        }
        self.take_name(&mut self.state(), id, base, is_left_behind);
        Ok(true)
    }

    /// The object was copied onto itself with other attributes: `version` has the same bytes and these headers.
    ///
    /// # Errors
    /// As [`File::rename`].
    pub async fn rewritten(
        &self,
        version: Version,
        headers: ObjectHeaders,
        attributes: Attributes,
    ) -> Result<()> {
        self.rename(self.id(), Some(version)).await?;
        self.state().rewritten(headers, attributes);
        Ok(())
    }

    fn take_name(&self, state: &mut State, id: ObjectId, base: Option<Version>, is_left_behind: bool) {
        let old_id = std::mem::replace(&mut state.id, id.clone());
        if old_id != id {
            self.abandon_upload(state);
            state.unreported = None;
        }
        let was_early = !state.is_known_to_exist && old_id != id;
        let of_unlinked = state.base_of_unlinked.take();
        if let Base::Known(early) = &state.base
            && (is_left_behind || was_early)
            && of_unlinked.as_ref() != Some(&early.etag)
        {
            state.left_behind = Some((old_id, early.etag.clone()));
            state.note_change();
        } else if state.is_known_to_exist
            && let Some(version) = &base
            && state
                .source
                .as_ref()
                .is_some_and(|source| source.reader.version().size_bytes == version.size_bytes)
        {
            let (client, budget) = (self.context.client.clone(), self.context.budget.clone());
            let reader = Reader::new(client, budget, id.clone(), version.clone());
            state.source = Some(Source::of(id, reader));
        }
        if base.is_none() {
            state.creation = Some(Creation::Plain);
        }
        state.base = base.map_or(Base::Absent, Base::Known);
        state.changes += 1;
    }

    /// As long as this lives nothing is committed.
    pub async fn hold_commits(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.committing.clone().lock_owned().await
    }

    /// The name is gone, whoever has it now. Open handles go on.
    pub fn unlinked(&self) {
        self.state().is_unlinked = true;
    }

    /// What was saved for the next mount is not to be sent any more: the name is gone. Open handles go on.
    pub async fn forget_saved(&self) {
        let former = self.state().persisted.take();
        for record in former.into_iter().flat_map(|former| former.records) {
            upload::forget(&self.context.spool, record).await;
        }
    }

    /// The file was unlinked and its last handle is closed: uploads are aborted, data and records dropped.
    pub async fn discard(&self) {
        let _guard = self.committing.lock().await;
        let (upload, persisted, left_behind) = {
            let mut state = self.state();
            state.clear();
            (
                state.upload.take(),
                state.persisted.take(),
                state.left_behind.take(),
            )
        };
        self.parts_changed.notify_waiters();
        let context = &self.context;
        if let Some(upload) = upload {
            upload.link.abort(&context.client, &context.spool).await;
        }
        for record in persisted.into_iter().flat_map(|persisted| persisted.records) {
            upload::forget(&context.spool, record).await;
        }
        if let Some((id, etag)) = left_behind
            && let Err(error) = context.client.delete(&id, Some(&etag)).await
        {
            tracing::warn!(%error, "an object under a former name could not be deleted");
        }
    }
}

/// The key of a copy beside `key`, with the same extension.
fn beside(key: &str, now: SystemTime, random: &str) -> String {
    let time = humantime::format_rfc3339_seconds(now).to_string();
    let time: String = time.chars().filter(char::is_ascii_alphanumeric).collect();
    let name_start = key.rfind('/').map_or(0, |slash| slash + 1);
    let dot = key[name_start..].rfind('.').filter(|dot| *dot > 0);
    let (stem, extension) = key.split_at(dot.map_or(key.len(), |dot| name_start + dot));
    let random: String = random.chars().take(6).collect();
    format!("{stem}.conflict-{time}-{random}{extension}")
}

/// True for bytes of the version that the file is based on.
pub(super) fn is_of_base(backing: &Backing) -> bool {
    matches!(backing, Backing::Source(at) if at.source == SourceId::BASE)
}

pub(super) async fn finish_file(file: &Arc<SpoolFile>, size_bytes: u64) -> Result<()> {
    let file = file.clone();
    rt::blocking(move || file.set_len(size_bytes).and_then(|()| file.sync())).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_copy_beside_keeps_directory_and_extension() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (key, expected) in [
            (
                "a.d/report.txt",
                "a.d/report.conflict-20231114T221320Z-abcdef.txt",
            ),
            ("a.d/report", "a.d/report.conflict-20231114T221320Z-abcdef"),
            ("d/.profile", "d/.profile.conflict-20231114T221320Z-abcdef"),
            ("x.tar.gz", "x.tar.conflict-20231114T221320Z-abcdef.gz"),
        ] {
            assert_eq!(beside(key, now, "abcdef0123"), expected);
        }
    }
}
