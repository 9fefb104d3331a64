//! Memory for others: what an upload has is given up at once; what nobody else has goes to the spool in the background.
//!
//! 1. A place in the spool file must not be written while something else that is there is still needed. The file has
//!    banks, each as long as the largest object; bytes keep their file position in a bank. What is now in the file, what a
//!    commit is sending, and what a record names may each have other bytes for one position: so there are three banks, and
//!    [`bank_for`] takes one in which nothing else lives at that position.
//! 2. A disk that is full, or `--spool-size`, ends no write by itself: it waits for uploads. Only when none brings memory
//!    in time is it told why ([`File::memory_for_write`]).
//! 3. Writers go on meanwhile: chunks are sealed before they are written, and an extent moves only if it still is that
//!    chunk's.

use super::File;
use super::state::State;
use super::upload::Upload;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extents::{Backing, ChunkId, Extent, ExtentMap};
use crate::base::limits::UploadLimits;
use crate::base::object::ByteRange;
use crate::object::budget::{Need, Permit, Reclaim};
use crate::rt;
use crate::spool::SpoolFile;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// At most about this much is written to the spool before the state is looked at again.
const STEP_BYTES: u64 = 4 << 20;
/// How long a writer waits for the parts of its own upload before data goes to the spool instead.
const PATIENCE: Duration = Duration::from_secs(3);
/// A spool that failed (a full disk) is left alone for this long.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);
const BANK_BYTES: u64 = UploadLimits::S3.max_object_bytes;
const BANKS: [u64; 3] = [0, 1, 2];

impl Reclaim for File {
    fn reclaim(&self, wanted_bytes: u64, _need: Need) -> u64 {
        self.state().evict(wanted_bytes)
    }

    fn relieve(&self, wanted_bytes: u64) -> u64 {
        let mut state = self.state();
        let promised = state.promised_by_uploads(wanted_bytes, rt::now());
        if promised >= wanted_bytes || state.chunks.is_empty() {
            return promised;
        }
        if state.spool_fails_until.is_some_and(|until| rt::now() < until) {
            return promised;
        }
        let sending = state.upload.as_ref().map_or(0, Upload::sending_bytes);
        let spillable = state.chunks.capacity_bytes().saturating_sub(sending);
        let spillable = spillable.min(wanted_bytes - promised);
        state.relief_wanted_bytes = state.relief_wanted_bytes.max(spillable);
        if spillable > 0
            && !state.is_relieving
            && let Ok(file) = self.shared()
        {
            state.is_relieving = true;
            rt::spawn(async move { file.spill_what_is_wanted().await });
        }
        promised + spillable
    }
}

/// Bytes of one chunk on their way to the spool.
struct Spill {
    chunk: ChunkId,
    range: ByteRange,
    bytes: Bytes,
    spool_offset: u64,
}

/// The place of file position `position` in the spool file: in the first of `banks` where nothing else lives.
fn bank_for(banks: impl IntoIterator<Item = u64>, position: u64, taken: &[Option<Backing>]) -> u64 {
    let is_free = |bank: &u64| {
        let place = Backing::Spool {
            offset: bank * BANK_BYTES + position,
        };
        !taken.contains(&Some(place))
    };
    // Two others live at a position at most, in three banks.
    banks.into_iter().find(is_free).unwrap_or(0) * BANK_BYTES + position
}

/// `range` cut where `map`'s extents begin and end, with what `map` has there (`None` behind its end).
fn overlay(range: ByteRange, map: Option<&ExtentMap>) -> Vec<(ByteRange, Option<Backing>)> {
    let mut pieces = Vec::new();
    let mut end = range.start;
    for extent in map.into_iter().flat_map(|map| map.range(range)) {
        pieces.push((extent.range, Some(extent.backing)));
        end = extent.range.end;
    }
    if end < range.end {
        pieces.push((ByteRange::new(end, range.end), None));
    }
    pieces
}

impl State {
    /// How much memory comes free when the parts that are being sent have arrived. Nothing, once they have taken longer
    /// than a stream should wait: then the disk is faster than the network.
    fn promised_by_uploads(&mut self, wanted_bytes: u64, now: rt::Instant) -> u64 {
        if !self.may_evict() {
            return 0;
        }
        let sending = self.upload.as_ref().map_or(0, Upload::sending_bytes);
        if sending < wanted_bytes {
            return sending;
        }
        let since = *self.waits_for_parts_since.get_or_insert(now);
        if now - since < PATIENCE { sending } else { 0 }
    }

    /// What a record of this file's spool has at `position`.
    fn recorded_at(&self, position: u64) -> Option<Backing> {
        let spool = self.spool.as_ref()?;
        let recorded = self.persisted.as_ref()?.file.as_ref()?;
        Arc::ptr_eq(spool, recorded).then_some(Backing::Spool { offset: position })
    }

    /// False when a commit made `file` needless meanwhile: what was written to it then is nowhere.
    pub fn is_spool(&self, file: &Arc<SpoolFile>) -> bool {
        self.spool.as_ref().is_some_and(|spool| Arc::ptr_eq(spool, file))
    }

    /// A place in the spool for bytes of the file as it is now.
    pub fn spool_place(&self, position: u64) -> u64 {
        let sealed = self
            .sealed
            .as_ref()
            .and_then(|sealed| backing_at(&sealed.map, position));
        bank_for(BANKS, position, &[sealed, self.recorded_at(position)])
    }

    /// `range` cut so that each piece has one place in the spool (of its first byte, the rest follows).
    pub fn spool_pieces(&self, range: ByteRange) -> Vec<(ByteRange, u64)> {
        overlay(range, self.sealed.as_ref().map(|sealed| &sealed.map))
            .into_iter()
            .map(|(range, _)| (range, self.spool_place(range.start)))
            .collect()
    }

    /// Chunks to write to the spool, about `wanted_bytes` of memory.
    fn pick_spills(&mut self, wanted_bytes: u64) -> Vec<Spill> {
        let mut picked_bytes = 0;
        let mut chunks = Vec::new();
        for (id, position, len, capacity) in self.chunks.iter() {
            if picked_bytes >= wanted_bytes {
                break;
            }
            let range = ByteRange::new(position, position + len);
            // Its memory would come free with the request only.
            let is_sending = self
                .upload
                .as_ref()
                .is_some_and(|upload| upload.is_sending_within(range));
            if !is_sending {
                picked_bytes += capacity;
                chunks.push((id, range));
            }
        }
        chunks
            .into_iter()
            .flat_map(|(id, range)| self.spills_of(id, range))
            .collect()
    }

    fn spills_of(&mut self, chunk: ChunkId, range: ByteRange) -> Vec<Spill> {
        let mut places: Vec<(ByteRange, u64)> = Vec::new();
        for extent in self.map.range(range).filter(|extent| is_of(extent, chunk)) {
            places.extend(self.spool_pieces(extent.range));
        }
        if let Some(sealed) = &self.sealed {
            for extent in sealed.map.range(range).filter(|extent| is_of(extent, chunk)) {
                for (piece, now) in overlay(extent.range, Some(&self.map)) {
                    if matches!(now, Some(Backing::Memory { chunk: other, .. }) if other == chunk) {
                        // The file still has the same bytes: they are among the places already.
                        continue;
                    }
                    let taken = [now, self.recorded_at(piece.start)];
                    places.push((piece, bank_for(BANKS.into_iter().rev(), piece.start, &taken)));
                }
            }
        }
        let start = range.start;
        places
            .into_iter()
            .map(|(range, spool_offset)| Spill {
                chunk,
                range,
                bytes: self.chunks.piece(chunk, range.start - start, range.len()).bytes,
                spool_offset,
            })
            .collect()
    }

    fn apply_spills(&mut self, file: &Arc<SpoolFile>, spills: &[Spill]) -> u64 {
        if !self.is_spool(file) {
            return 0;
        }
        let mut freed_bytes = 0;
        for spill in spills {
            freed_bytes += self.place(spill.range, |extent| {
                let offset = spill.spool_offset + (extent.range.start - spill.range.start);
                is_of(extent, spill.chunk).then_some(Backing::Spool { offset })
            });
        }
        freed_bytes
    }
}

fn backing_at(map: &ExtentMap, position: u64) -> Option<Backing> {
    let extent = map.at(position)?;
    Some(extent.backing.advanced(position - extent.range.start))
}

fn is_of(extent: &Extent, chunk: ChunkId) -> bool {
    matches!(extent.backing, Backing::Memory { chunk: other, .. } if other == chunk)
}

impl File {
    /// Memory for what is about to be written.
    ///
    /// # Errors
    /// Why the spool could not take what is in memory, or else `TimedOut`; nothing that was written before is lost.
    pub(super) async fn memory_for_write(&self, bytes: u64) -> Result<Permit> {
        let error = match self.context.budget.acquire_for_write(bytes).await {
            Err(error) if error.kind() == ErrorKind::TimedOut => error,
            other => return other,
        };
        let failure = self.state().spool_failure.clone();
        Err(failure.unwrap_or(error).on(&self.id()))
    }

    async fn spill_what_is_wanted(self: Arc<Self>) {
        loop {
            let wanted_bytes = self.state().relief_wanted_bytes;
            let result = if wanted_bytes == 0 {
                Ok(0)
            } else {
                self.spill(wanted_bytes.min(STEP_BYTES)).await
            };
            let mut state = self.state();
            match result {
                Ok(freed_bytes) if freed_bytes > 0 => {
                    state.spool_failure = None;
                    state.relief_wanted_bytes = state.relief_wanted_bytes.saturating_sub(freed_bytes);
                    continue;
                }
                Ok(_) => {}
                Err(error) => {
                    if state.spool_failure.is_none() {
                        tracing::warn!(
                            %error, object = %state.id,
                            "unsent data could not be moved from memory to the local disk: writers wait until it is sent"
                        );
                    }
                    state.spool_failure = Some(error);
                    state.spool_fails_until = Some(rt::now() + PAUSE_AFTER_FAILURE);
                }
            }
            state.relief_wanted_bytes = 0;
            state.is_relieving = false;
            return;
        }
    }

    /// Moves about `wanted_bytes` of memory to the spool; returns how much memory that freed.
    async fn spill(&self, wanted_bytes: u64) -> Result<u64> {
        let _only_one = self.spooling.lock().await;
        let file = self.spool_file().await?;
        let spills = self.state().pick_spills(wanted_bytes);
        if spills.is_empty() {
            return Ok(0);
        }
        let spilled: u64 = spills.iter().map(|spill| spill.range.len()).sum();
        // Without memory for what is in the spool already nothing of it could ever be sent.
        if !self.context.budget.has_waiting_loads() {
            self.context.spool.check_room(spilled)?;
        }
        let (file, spills) = rt::blocking(move || {
            for spill in &spills {
                file.write_at(spill.spool_offset, &spill.bytes)?;
            }
            Ok::<_, Error>((file, spills))
        })
        .await?;
        Ok(self.state().apply_spills(&file, &spills))
    }

    /// The spool file of this file, made at the first call. By holders of `spooling`.
    pub(super) async fn spool_file(&self) -> Result<Arc<SpoolFile>> {
        if let Some(file) = &self.state().spool {
            return Ok(file.clone());
        }
        let spool = self.context.spool.clone();
        let file = Arc::new(rt::blocking(move || spool.create_file()).await?);
        self.state().spool = Some(file.clone());
        Ok(file)
    }
}
