//! Bytes of an object that is about to go (deleted, replaced, renamed) are fetched to the local disk before.
//!
//! 1. Unsent content must not lose what it copied from there: all of it is fetched, or the object stays ([`File::keep_local`]).
//! 2. What only open handles of an unlinked or replaced file still read has a limit, which all files of a mount share
//!    ([`KeepOpen`]). What does not fit is not begun: its handles go on with what is here, and are told `Stale` where they
//!    read anything else ([`File::keep_for_handles`]).
//! 3. A version that has an id stays in the bucket, and is read there.
//! 4. What makes the object go is newer, and counts more than what handles read. So a local disk that cannot take it, and
//!    bytes that somebody else has replaced already, are no reason for the newer one to fail.
//! 5. Bytes that are only in parts of an upload cannot be read, and the upload is bound to its name: while nobody else has
//!    that it is completed there, and then fetched as any object ([`File::keep_for_handles`]).

use super::File;
use super::body::load;
use super::state::{Source, State};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extents::{Backing, Extent};
use crate::base::object::ByteRange;
use crate::rt;
use std::sync::{Arc, Mutex, PoisonError};

/// How much the files of a mount may keep for handles of what was unlinked or replaced (`--keep-open-limit`).
pub struct KeepOpen {
    limit_bytes: u64,
    kept_bytes: Mutex<u64>,
}

impl KeepOpen {
    #[must_use]
    pub fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes,
            kept_bytes: Mutex::default(),
        })
    }

    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, u64> {
        self.kept_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room_for(&self, bytes: u64) -> bool {
        self.lock().saturating_add(bytes) <= self.limit_bytes
    }

    /// `None` where the limit does not allow so much more.
    fn take(self: &Arc<Self>, bytes: u64) -> Option<Kept> {
        let mut kept_bytes = self.lock();
        let wanted = kept_bytes.saturating_add(bytes);
        if wanted > self.limit_bytes {
            return None;
        }
        *kept_bytes = wanted;
        let of = self.clone();
        Some(Kept { of, bytes })
    }
}

/// A share of the limit, as long as this lives.
pub struct Kept {
    of: Arc<KeepOpen>,
    bytes: u64,
}

impl Kept {
    fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        *self.of.lock() -= bytes;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

/// Whose bytes are fetched.
#[derive(Clone, Copy)]
enum Of {
    Every,
    /// Those that nobody can read once they are not the newest any more.
    Unversioned,
}

impl Of {
    fn includes(self, source: &Source) -> bool {
        match self {
            Self::Every => true,
            Self::Unversioned => source.reader.version().version_id.is_none(),
        }
    }
}

impl State {
    fn unchanged(&self, of: Of) -> impl Iterator<Item = (Extent, &Source)> {
        self.map.iter().filter_map(move |extent| {
            let Backing::Source(at) = extent.backing else {
                return None;
            };
            let source = self.source_of(at.source)?;
            of.includes(source).then_some((extent, source))
        })
    }

    /// The first bytes of the file that come from an object, `max_bytes` at most, with their source.
    fn next_unchanged(&self, max_bytes: u64, of: Of) -> Option<(Extent, Source)> {
        let (extent, source) = self.unchanged(of).next()?;
        let start = extent.range.start;
        let step = extent.clipped(ByteRange::new(start, start + max_bytes))?;
        Some((step, source.clone()))
    }

    fn unchanged_bytes_of(&self, of: Of) -> u64 {
        self.unchanged(of).map(|(extent, _)| extent.range.len()).sum()
    }

    /// The objects that bytes come from may go, whoever reads them: nobody copies from them any more. False when that was so
    /// already.
    fn let_sources_go(&mut self) -> bool {
        for source in self.copied.values_mut() {
            source.copied = None;
        }
        !std::mem::replace(&mut self.sources_go, true)
    }
}

impl File {
    /// Fetches what still comes from objects, so that these may go.
    ///
    /// # Errors
    /// `Stale` when one is gone already; `LocalIo`; what reading says.
    pub async fn keep_local(&self) -> Result<()> {
        let _guard = self.committing.lock().await;
        self.find_unknown_outcome_locked().await?;
        self.fetch_locked(Of::Every).await
    }

    /// True when bytes are only in an upload for the name that the file has, or had.
    pub fn needs_its_name(&self) -> bool {
        let state = self.state();
        state.upload.is_some() && state.has_bytes_in_parts()
    }

    /// True when `--keep-open-limit` leaves room for all of it.
    pub fn may_be_kept(&self) -> bool {
        self.context.keep_open.has_room_for(self.size_bytes())
    }

    /// The object is about to go, and only open handles want its bytes. What of them is neither here nor in a version that
    /// stays is fetched, if the limit allows; of an unlinked file also what is only in parts, for which its upload becomes the
    /// object under its name.
    ///
    /// # Errors
    /// What the store says, unless the bytes are gone already.
    pub async fn keep_for_handles(&self) -> Result<()> {
        let _guard = self.committing.lock().await;
        self.find_unknown_outcome_locked().await?;
        let is_unlinked = {
            let mut state = self.state();
            state.keeps_parts = true;
            state.is_unlinked
        };
        if is_unlinked && self.needs_its_name() {
            self.complete_locked().await?;
        }
        self.fetch_for_handles_locked().await
    }

    /// Makes the upload an object, or gives up what is only in its parts. By holders of `committing`.
    async fn complete_locked(&self) -> Result<()> {
        let (id, wanted) = {
            let state = self.state();
            (state.id.clone(), state.last_change)
        };
        let completed = if self.may_be_kept() {
            self.shared()?.commit_up_to(wanted).await
        } else {
            Err(Error::new(
                ErrorKind::LocalIo(libc::EDQUOT),
                "--keep-open-limit does not allow it",
            ))
        };
        let Err(error) = completed else { return Ok(()) };
        match error.kind() {
            ErrorKind::Stale | ErrorKind::Exists | ErrorKind::NotFound | ErrorKind::LocalIo(_) => {
                tracing::warn!(
                    %error, object = %id,
                    "what was uploaded of an open file that was unlinked is not kept: programs that still read it get ESTALE"
                );
                self.abandon_upload(&mut self.state());
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// As [`Self::keep_for_handles`], but for what is only in parts.
    pub(super) async fn fetch_for_handles(&self) -> Result<()> {
        let _guard = self.committing.lock().await;
        self.find_unknown_outcome_locked().await?;
        self.fetch_for_handles_locked().await
    }

    async fn fetch_for_handles_locked(&self) -> Result<()> {
        let needed_bytes = self.state().unchanged_bytes_of(Of::Unversioned);
        let Some(mut share) = self.context.keep_open.take(needed_bytes) else {
            let kept_bytes = self.context.keep_open.kept_bytes();
            if self.state().let_sources_go() {
                tracing::warn!(
                    object = %self.id(), needed_bytes, kept_bytes, limit_bytes = self.context.keep_open.limit_bytes,
                    "an open file that was unlinked or replaced is not kept, as --keep-open-limit does not allow it: programs \
                     that still read it get ESTALE"
                );
            }
            return Ok(());
        };
        let fetched = self.fetch_locked(Of::Unversioned).await;
        let mut state = self.state();
        share.give_back(state.unchanged_bytes_of(Of::Unversioned));
        state.kept.push(share);
        match fetched {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Stale => {
                tracing::info!(%error, object = %state.id, "somebody else has replaced what open handles read");
            }
            Err(error) if matches!(error.kind(), ErrorKind::LocalIo(_)) => {
                tracing::warn!(
                    %error, object = %state.id,
                    "an open file that was unlinked or replaced could not be kept: programs that still read it get ESTALE"
                );
            }
            Err(error) => return Err(error),
        }
        // What is left of them, if anything, is in versions.
        state.let_sources_go();
        Ok(())
    }

    /// By holders of `committing`.
    async fn fetch_locked(&self, of: Of) -> Result<()> {
        let step_bytes = self.policy.part_bytes;
        let _memory = self.context.budget.acquire_for_load(step_bytes).await?;
        loop {
            // In a statement of its own: the lock is not held while this waits.
            let next = self.state().next_unchanged(step_bytes, of);
            let Some((extent, source)) = next else {
                self.state().forget_unused_sources();
                return Ok(());
            };
            let Backing::Source(at) = extent.backing else {
                return Ok(());
            };
            let data = load(&source.reader, at.offset, extent.range.len()).await?;
            self.place_unchanged(extent, data).await?;
        }
    }

    async fn place_unchanged(&self, extent: Extent, data: Vec<u8>) -> Result<()> {
        let _only_one = self.spooling.lock().await;
        let file = self.spool_file().await?;
        let pieces = self.state().spool_pieces(extent.range);
        let (to, start) = (file.clone(), extent.range.start);
        let pieces = rt::blocking(move || {
            for (range, place) in &pieces {
                let from = (range.start - start) as usize;
                to.write_at(*place, &data[from..from + range.len() as usize])?;
            }
            Ok::<_, Error>(pieces)
        })
        .await?;
        let mut state = self.state();
        if !state.is_spool(&file) {
            return Ok(());
        }
        state.room.forget();
        for (range, place) in pieces {
            let expected = extent.backing.advanced(range.start - extent.range.start);
            state.place(range, |now| {
                let by = now.range.start - range.start;
                (now.backing == expected.advanced(by)).then_some(Backing::Spool { offset: place + by })
            });
        }
        Ok(())
    }
}
