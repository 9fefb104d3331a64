//! Appends of many writers, on this machine and others: all survive.
//!
//! 1. A file to which programs did nothing but append (`O_APPEND`) since its last commit has its new bytes behind those of
//!    the version that it started from. When another version took that one's place, the new bytes go behind that
//!    ([`State::rebase`]) and are committed again. Anything else (a write at a place, a truncation) is a conflict.
//! 2. A reply that is lost, and another's append on top of what was sent: then the object does not carry the identity of
//!    our write any more, and appending again would double it. So appending commits, and changes of attributes, hand on the
//!    identities of the appends before them ([`APPENDS`], [`hand_on`]).
//! 3. Bytes in the spool have their place by their position in the file: they are copied to a new spool file, at their new
//!    places, before they move.
//! 4. Writers that meet again and again wait for a random while, longer each time, but not for ever.

use super::commit::written;
use super::state::{Base, Sealed, Source, State};
use super::{Committed, Creation, File, read_spool, upload};
use crate::base::attributes::{APPENDS, Attributes, TRANSACTION, xattrs};
use crate::base::error::Result;
use crate::base::extents::{Backing, Extent, ExtentMap, SourceAt};
use crate::base::object::{ByteRange, ObjectHeaders, ObjectInfo};
use crate::object::reader::Reader;
use crate::rt;
use crate::spool::SpoolFile;
use std::sync::Arc;
use std::time::Duration;

/// As many are handed on.
const MAX_APPENDS: usize = 6;
const FIRST_PAUSE_MS: u64 = 20;
const LONGEST_PAUSE_MS: u64 = 2_000;
/// The spool is copied in steps of this length.
const STEP_BYTES: u64 = 1 << 20;

/// How long to wait before the append number `tried` is tried again.
pub(super) fn pause(tried: u32) -> Duration {
    let longest_ms = (FIRST_PAUSE_MS << tried.min(16)).min(LONGEST_PAUSE_MS);
    Duration::from_millis(rt::random_below(longest_ms))
}

/// True when the append with that identity is in this version, under later ones.
fn was_appended_to(info: &ObjectInfo, transaction: &str) -> bool {
    let appends = info.headers.metadata.get(APPENDS);
    appends.is_some_and(|appends| appends.split(',').any(|append| append == transaction))
}

/// What of the base version's metadata says which appends it holds, for a version that has all its bytes (`keeps_bytes`), in
/// so far as there is room. `headers` are those of the base version.
pub fn hand_on(headers: &mut ObjectHeaders, keeps_bytes: bool) {
    let former = headers.metadata.remove(APPENDS);
    let Some(last) = headers.metadata.get(TRANSACTION).filter(|_| keeps_bytes) else {
        return;
    };
    let earlier = former.as_deref().unwrap_or_default().split(',');
    let mut room_bytes = xattrs::room_bytes(&headers.metadata)
        .unwrap_or_default()
        .saturating_sub(APPENDS.len());
    let appends: Vec<&str> = std::iter::once(last.as_str())
        .chain(earlier.filter(|append| !append.is_empty()))
        .take(MAX_APPENDS)
        .take_while(|append| {
            let left = room_bytes.checked_sub(append.len() + 1);
            room_bytes = left.unwrap_or_default();
            left.is_some()
        })
        .collect();
    if !appends.is_empty() {
        headers.metadata.insert(APPENDS.to_owned(), appends.join(","));
    }
}

/// `from` says which writes a version holds: now `to` says the same.
pub(super) fn copy_identities(from: &ObjectHeaders, to: &mut ObjectHeaders) {
    for name in [TRANSACTION, APPENDS] {
        match from.metadata.get(name) {
            Some(value) => to.metadata.insert(name.to_owned(), value.clone()),
            None => to.metadata.remove(name),
        };
    }
}

impl State {
    /// True when nothing but appending was done to the content since the last commit.
    pub fn only_appended(&self) -> bool {
        !self.is_one_shot
            && self.last_rewrite <= self.settled
            && self.creation.is_none_or(|creation| creation == Creation::Plain)
    }

    /// How many bytes of the base version stand before the appended ones; `None` where bytes are only in an upload, or
    /// where something else than the base version is before them.
    fn appended_from(&self) -> Option<u64> {
        let base_bytes = match &self.base {
            Base::Absent => 0,
            Base::Known(version) => version.size_bytes,
            Base::Any | Base::Tag(_) => return None,
        };
        let fits = |map: &ExtentMap| {
            map.size_bytes() >= base_bytes
                && map.iter().all(|extent| match extent.backing {
                    Backing::Source(at) => {
                        at == SourceAt::base(extent.range.start) && extent.range.end <= base_bytes
                    }
                    Backing::Memory { .. } | Backing::Spool { .. } => extent.range.start >= base_bytes,
                    Backing::Part { .. } | Backing::Zero => false,
                })
        };
        let sealed_fits = self.sealed.as_ref().is_none_or(|sealed| fits(&sealed.map));
        (sealed_fits && fits(&self.map)).then_some(base_bytes)
    }

    /// True when `found` can be appended to instead of the version that the file started from.
    fn can_rebase(&self, found: &ObjectInfo) -> bool {
        let type_bits = Attributes::read(&found.headers.metadata)
            .mode
            .map_or(0, |mode| mode & libc::S_IFMT);
        self.only_appended()
            && self.appended_from().is_some()
            && (type_bits == 0 || type_bits == libc::S_IFREG)
    }

    /// True when what is sealed was stored, and `found` has it under appends of others.
    fn is_sealed_in(&self, found: &ObjectInfo) -> bool {
        let sealed = self.sealed.as_ref();
        let last = sealed.and_then(|sealed| sealed.last_transaction.as_deref());
        last.is_some_and(|transaction| was_appended_to(found, transaction))
    }

    /// Where the bytes begin that `found` lacks.
    fn lacking_from(&self, found: &ObjectInfo) -> Option<u64> {
        let base_bytes = self.appended_from()?;
        match &self.sealed {
            Some(sealed) if self.is_sealed_in(found) => Some(sealed.map.size_bytes()),
            _ => Some(base_bytes),
        }
    }

    /// What `found` lacks goes behind it. `spool` has the spooled bytes at their new places.
    fn rebase(&mut self, found: &ObjectInfo, reader: Arc<Reader>, spool: Option<Arc<SpoolFile>>) {
        let Some(from) = self.lacking_from(found) else {
            return;
        };
        let version = found.version.clone();
        let to = version.size_bytes;
        if self.is_sealed_in(found)
            && let Some(sealed) = self.sealed.take()
        {
            let stored: Vec<Extent> = sealed
                .map
                .iter()
                .chain(self.map.range(ByteRange::new(0, from)))
                .collect();
            self.chunks.release(&stored);
            self.settled = self.settled.max(sealed.generation);
        }
        self.map = behind(&self.map, from, to);
        if let Some(sealed) = &mut self.sealed {
            sealed.map = behind(&sealed.map, from, to);
        }
        self.chunks.shift(from, to);
        self.spool = spool;
        self.take_over(found);
        self.source = Some(Source::of(self.id.clone(), reader));
        self.base = Base::Known(version);
        self.creation = None;
        self.former_transaction = None;
        self.grid = None;
        self.room.forget();
        self.is_rebased = true;
        self.changes += 1;
    }

    /// What others said about the object stays, but for what was set here.
    fn take_over(&mut self, found: &ObjectInfo) {
        let theirs = Attributes::read(&found.headers.metadata);
        let are_ours = self.attributes_set > self.settled;
        let merged = |ours: &Attributes| {
            if are_ours {
                return *ours;
            }
            Attributes {
                mtime: ours.mtime,
                ctime: ours.ctime,
                ..theirs
            }
        };
        self.attributes = merged(&self.attributes);
        if let Some(Sealed { attributes, .. }) = &mut self.sealed {
            *attributes = merged(attributes);
        }
        if are_ours {
            copy_identities(&found.headers, &mut self.headers);
        } else {
            self.headers = found.headers.clone();
        }
    }

    /// What is in the spool from `from` on: place, file position, length.
    fn spooled_from(&self, from: u64) -> Vec<(u64, u64, u64)> {
        let spooled = |extent: Extent| match extent.backing {
            Backing::Spool { offset } => Some((offset, extent.range.start, extent.range.len())),
            _ => None,
        };
        // What is sealed has the same bytes: nothing was overwritten.
        let appended = ByteRange::new(from, self.map.size_bytes().max(from));
        self.map.range(appended).filter_map(spooled).collect()
    }
}

/// `map` with what begins at `from` behind the first `to` bytes of a version. All bytes in the spool are at their positions.
fn behind(map: &ExtentMap, from: u64, to: u64) -> ExtentMap {
    let mut moved = ExtentMap::of_source(to);
    for extent in map.range(ByteRange::new(from, map.size_bytes().max(from))) {
        let start = extent.range.start - from + to;
        let backing = match extent.backing {
            Backing::Spool { .. } => Backing::Spool { offset: start },
            other => other,
        };
        let range = ByteRange::new(start, start + extent.range.len());
        moved.insert(range, backing, extent.generation);
    }
    moved
}

impl File {
    /// Puts the appended bytes behind `found`. False where something else was done to this file than to append. By the
    /// holder of `committing`.
    ///
    /// # Errors
    /// `LocalIo` when bytes in the spool cannot be copied.
    pub(super) async fn rebase_appends(&self, found: &ObjectInfo) -> Result<bool> {
        // Before the lock: what takes the memory may be this file's, and goes to the spool under that lock.
        let mut memory = None;
        let _only_one = loop {
            let only_one = self.spooling.lock().await;
            if memory.is_some() || self.state().spool.is_none() {
                break only_one;
            }
            drop(only_one);
            memory = Some(self.context.budget.acquire_for_load(STEP_BYTES).await?);
        };
        let (from, old) = {
            let state = self.state();
            if !state.can_rebase(found) {
                return Ok(false);
            }
            (state.lacking_from(found).unwrap_or(0), state.spool.clone())
        };
        let spool = self.move_spooled(old, from, found.version.size_bytes).await?;
        drop(memory);
        let (client, budget) = (self.context.client.clone(), self.context.budget.clone());
        let mut state = self.state();
        if !state.can_rebase(found) {
            // Somebody wrote elsewhere meanwhile.
            return Ok(false);
        }
        self.abandon_upload(&mut state);
        let reader = Reader::new(client, budget, state.id.clone(), found.version.clone());
        state.rebase(found, reader, spool);
        tracing::debug!(object = %state.id, "appending behind a newer version");
        Ok(true)
    }

    /// What was sealed was stored, and others have appended to it since.
    pub(super) async fn finish_appended(&self) -> Result<()> {
        let records = {
            let mut state = self.state();
            if let Base::Known(version) = &state.base {
                state.unreported = Some(Committed::new(
                    version.clone(),
                    written(self.context.metadata_format, state.attributes),
                ));
            }
            state.persisted.take().map(|persisted| persisted.records)
        };
        self.tell();
        for record in records.into_iter().flatten() {
            upload::forget(&self.context.spool, record).await;
        }
        Ok(())
    }

    /// A spool file with what is in `old` from the file position `from` on, as far from `to` on. By who has memory for a
    /// step.
    async fn move_spooled(
        &self,
        old: Option<Arc<SpoolFile>>,
        from: u64,
        to: u64,
    ) -> Result<Option<Arc<SpoolFile>>> {
        let places = self.state().spooled_from(from);
        let Some(old) = old.filter(|_| !places.is_empty()) else {
            return Ok(None);
        };
        let spool = self.context.spool.clone();
        let file = Arc::new(rt::blocking(move || spool.create_file()).await?);
        for (place, position, len) in places {
            let mut done = 0;
            while done < len {
                let step = STEP_BYTES.min(len - done);
                let mut data = Vec::with_capacity(step as usize);
                read_spool(old.clone(), place + done, step, &mut data).await?;
                let (file, at) = (file.clone(), position - from + to + done);
                rt::blocking(move || file.write_at(at, &data)).await?;
                done += step;
            }
        }
        Ok(Some(file))
    }
}

/// The headers of an object that appended bytes went to, told once.
pub(super) fn rebased_headers(state: &mut State) -> Option<Arc<ObjectHeaders>> {
    std::mem::take(&mut state.is_rebased).then(|| Arc::new(state.headers.clone()))
}
