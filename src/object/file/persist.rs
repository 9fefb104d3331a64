//! What cannot be sent now, and the next mount is to send.
//!
//! 1. Whole, where that is possible without fetching much; else the changes alone, with the version that they are changes
//!    of: the next mount sends them if it is still there ([`State::changed_base`]).
//! 2. What it could not send either (bytes that are only in an upload) is recorded as conflicts ([`super::keep`]).

use super::keep::{finish_file, is_of_base};
use super::state::{Base, Persisted, State};
use super::{File, upload};
use crate::base::attributes::MetadataFormat;
use crate::base::error::{ErrorKind, Result};
use crate::base::extents::{Backing, Extent, SourceAt};
use crate::base::object::Version;
use crate::rt;
use crate::s3::silence;
use crate::spool::{RecordId, RecordedBase, RecordedChanges, RecordedHeaders, SpoolFile, UnsentFile};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// A file that cannot be sent is saved whole if that needs no more than this of its object.
const MAX_FETCHED_BYTES: u64 = 1 << 30;

impl State {
    fn unchanged_bytes(&self) -> u64 {
        let is_unchanged = |extent: &Extent| is_of_base(&extent.backing);
        self.map
            .iter()
            .filter(is_unchanged)
            .map(|extent| extent.range.len())
            .sum()
    }

    /// The version that all unchanged bytes are of, each at its own position, if that is the one that the file is based on.
    fn changed_base(&self) -> Option<Version> {
        let Base::Known(base) = &self.base else {
            return None;
        };
        let source = self.source.as_ref()?;
        let is_base = source.id == self.id && source.reader.version().etag == base.etag;
        let is_in_place = self.map.iter().all(|extent| {
            !is_of_base(&extent.backing)
                || extent.backing == Backing::Source(SourceAt::base(extent.range.start))
        });
        (is_base && is_in_place).then(|| base.clone())
    }
}

impl File {
    /// Saves all unsent content in the spool and records it for the next mount (when the store cannot be reached at
    /// unmount, and after a failed commit): whole, or only the changes where the unchanged bytes around them cannot be
    /// fetched or are many. What the next mount could not send either is recorded as conflicts, until it is sent after all:
    /// an upload left open, changes of what is not the version that the file is based on.
    ///
    /// # Errors
    /// `LocalIo`.
    pub async fn persist(&self) -> Result<()> {
        let _guard = self.committing.lock().await;
        if self.is_saved() {
            return Ok(());
        }
        // Else unchanged bytes might be looked for in a version that we replaced ourselves.
        if let Err(error) = self.find_unknown_outcome_locked().await {
            tracing::debug!(%error, "saving without knowing what came of the last commit");
        }
        if self.is_saved() {
            return Ok(());
        }
        let changes = self.state().changes;
        let _readable = self.hold_readable();
        let (records, file) = self.save().await?;
        let former = self.state().persisted.replace(Persisted {
            records,
            file,
            changes,
        });
        for record in former.into_iter().flat_map(|former| former.records) {
            upload::forget(&self.context.spool, record).await;
        }
        Ok(())
    }

    /// True when nothing is unsent, or all of it is recorded as it is.
    fn is_saved(&self) -> bool {
        let state = self.state();
        let persisted = state.persisted.as_ref();
        !state.is_dirty() || persisted.is_some_and(|persisted| persisted.changes == state.changes)
    }

    /// Whole, where that is possible; else what only this machine has.
    async fn save(&self) -> Result<(Vec<RecordId>, Option<Arc<SpoolFile>>)> {
        if self.state().has_bytes_in_parts() {
            return Ok((self.save_as_conflicts(None).await?, None));
        }
        let unchanged_bytes = self.state().unchanged_bytes();
        if unchanged_bytes > MAX_FETCHED_BYTES || (unchanged_bytes > 0 && silence::is_store_away()) {
            return self.save_what_changed().await;
        }
        match self.whole_copy().await {
            Ok(file) => Ok((vec![self.record_unsent(&file, None).await?], Some(file))),
            Err(error) if matches!(error.kind(), ErrorKind::LocalIo(_)) => Err(error),
            Err(error) => {
                tracing::info!(%error, object = %self.id(), "unchanged bytes cannot be fetched: only changes are saved");
                self.save_what_changed().await
            }
        }
    }

    async fn save_what_changed(&self) -> Result<(Vec<RecordId>, Option<Arc<SpoolFile>>)> {
        match self.save_changes_to_send().await {
            Ok(Some((record, file))) => Ok((vec![record], Some(file))),
            // A version that they are of is gone.
            Ok(None) => Ok((vec![self.save_patch(None).await?], None)),
            Err(error) if error.kind() == ErrorKind::Stale => Ok((vec![self.save_patch(None).await?], None)),
            Err(error) => Err(error),
        }
    }

    /// Records the changes, each at its own position; `None` where that would not say all.
    async fn save_changes_to_send(&self) -> Result<Option<(RecordId, Arc<SpoolFile>)>> {
        let (runs, base) = {
            let state = self.state();
            let Some(base) = state.changed_base() else {
                return Ok(None);
            };
            (state.changed_runs(true), base)
        };
        let file = self.new_spool_file().await?;
        for run in &runs {
            self.copy_to(&file, *run, run.start).await?;
        }
        finish_file(&file, self.size_bytes()).await?;
        let changes = RecordedChanges {
            runs: runs.iter().map(|run| (run.start, run.len())).collect(),
            base_bytes: base.size_bytes,
            base_modified_unix_s: base
                .last_modified
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        };
        let record = self.record_unsent(&file, Some(changes)).await?;
        Ok(Some((record, file)))
    }

    /// While this lives, no bytes go from memory to where they cannot be read.
    fn hold_readable(&self) -> HoldReadable<'_> {
        self.state().is_being_copied = true;
        HoldReadable(self)
    }

    async fn record_unsent(
        &self,
        file: &Arc<SpoolFile>,
        changes: Option<RecordedChanges>,
    ) -> Result<RecordId> {
        let unsent = {
            let state = self.state();
            let unknown = state
                .sealed
                .as_ref()
                .and_then(|sealed| sealed.unknown_outcome_of.clone());
            let transaction = unknown
                .or_else(|| state.former_transaction.clone())
                .unwrap_or_default();
            // Attributes are recorded as metadata, also where the object will not carry them.
            let format = match self.context.metadata_format {
                MetadataFormat::None => MetadataFormat::Aws,
                format => format,
            };
            let headers = super::stream::headers_in(format, &state.headers, &state.attributes, &transaction);
            UnsentFile {
                bucket: state.id.bucket.to_string(),
                key: state.id.key.to_string(),
                base: state
                    .base
                    .etag()
                    .map_or(RecordedBase::Absent, |etag| RecordedBase::Matches {
                        etag: etag.as_str().to_owned(),
                    }),
                file_name: file.file_name().to_owned(),
                size_bytes: state.map.size_bytes(),
                headers: RecordedHeaders::from(headers),
                transaction,
                changes,
            }
        };
        let spool = self.context.spool.clone();
        rt::blocking(move || spool.record_unsent(&unsent)).await
    }
}

/// By one holder of `committing` at a time.
struct HoldReadable<'a>(&'a File);

impl Drop for HoldReadable<'_> {
    fn drop(&mut self) {
        self.0.state().is_being_copied = false;
    }
}
