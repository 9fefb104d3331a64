//! What is known about one file, and every decision that needs no waiting. One lock covers it, never across an await.
//!
//! 1. Two maps name the file's bytes: `map` is the file as it is now, `sealed` what a commit is sending. Whatever moves
//!    bytes moves them in both ([`State::place`]); memory lives while either names it.
//! 2. Generations order writes and commits: a write carries the current one, sealing ends it, a successful commit turns
//!    what it covered into ranges of the new version ([`State::committed_as`]).
//! 3. A part that was sent from memory may lose its memory (`evict`): it is then only in the upload. Always a whole part at
//!    a time and only while nothing is sealed, so that such a part is either whole in the map or not at all.
//! 4. A write takes all its memory before it changes anything: appends of several writers do not mix ([`State::write`]).

use super::chunks::ChunkStore;
use super::copies::Copied;
use super::local::Kept;
use super::upload::Upload;
use super::{Committed, Creation, appends};
use crate::base::attributes::{Attributes, TRANSACTION};
use crate::base::error::Error;
use crate::base::extents::{Backing, ChunkId, Extent, ExtentMap, SourceId};
use crate::base::object::{ByteRange, Condition, ETag, ObjectHeaders, ObjectId, ObjectInfo, Version};
use crate::object::budget::{Buffer, KEPT_BUFFER_BYTES};
use crate::object::reader::Reader;
use crate::plan::grid::PartGrid;
use crate::plan::parts::UploadPolicy;
use crate::plan::room::Room;
use crate::rt;
use crate::spool::{RecordId, SpoolFile};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

/// The first chunk of a file; each that follows in sequence is twice as large, up to [`MAX_CHUNK_BYTES`].
const FIRST_CHUNK_BYTES: u64 = 16 << 10;
/// Chunks never cross a multiple of this, so that parts are made of whole chunks.
const MAX_CHUNK_BYTES: u64 = KEPT_BUFFER_BYTES;
const PAGE_BYTES: u64 = 4 << 10;

/// The object that the next commit replaces.
#[derive(Clone, Debug)]
pub enum Base {
    /// Whatever is there, and also nothing.
    Any,
    Absent,
    /// Known by its tag only: from the record of a former mount.
    Tag(ETag),
    Known(Version),
}

impl Base {
    pub fn condition(&self) -> Condition {
        match self {
            Self::Any => Condition::None,
            Self::Absent => Condition::Absent,
            Self::Tag(etag) => Condition::Matches(etag.clone()),
            Self::Known(version) => Condition::Matches(version.etag.clone()),
        }
    }

    pub fn etag(&self) -> Option<&ETag> {
        match self {
            Self::Any | Self::Absent => None,
            Self::Tag(etag) => Some(etag),
            Self::Known(version) => Some(&version.etag),
        }
    }
}

/// An object version that bytes come from. It may be under another key than the file.
#[derive(Clone)]
pub struct Source {
    pub id: ObjectId,
    pub reader: Arc<Reader>,
    /// Of versions that were copied from another file.
    pub copied: Option<Copied>,
}

impl Source {
    pub fn of(id: ObjectId, reader: Arc<Reader>) -> Self {
        Self {
            id,
            reader,
            copied: None,
        }
    }
}

/// What a commit is sending, or has sent without learning what came of it.
pub struct Sealed {
    pub map: ExtentMap,
    pub generation: u64,
    pub attributes: Attributes,
    pub mtime_is_explicit: bool,
    /// The identity of a write that may or may not have happened: this state is sent again before any other.
    pub unknown_outcome_of: Option<String>,
    /// The identity of the last write that was tried.
    pub last_transaction: Option<String>,
}

/// The content in recorded spool files.
pub struct Persisted {
    pub records: Vec<RecordId>,
    pub file: Option<Arc<SpoolFile>>,
    /// The state of `changes` that it holds.
    pub changes: u64,
}

pub struct State {
    pub id: ObjectId,
    pub map: ExtentMap,
    pub sealed: Option<Sealed>,
    /// That of the next write.
    pub generation: u64,
    /// The generation of the last change of content, attributes or existence.
    pub last_change: u64,
    /// Everything up to this generation is in the bucket, or was given up as a conflict.
    pub settled: u64,
    /// The generation of the last change of content that was no append.
    pub last_rewrite: u64,
    /// The generation in which somebody last set attributes.
    pub attributes_set: u64,
    /// Appended bytes went behind another version than the one that programs saw; nobody was told of it yet.
    pub is_rebased: bool,
    /// Counts changes, to know whether anything happened in between.
    pub changes: u64,
    pub chunks: ChunkStore,
    next_chunk_bytes: u64,
    pub base: Base,
    /// The base, where it is what an unlinked file left under the name: that one's to delete.
    pub base_of_unlinked: Option<ETag>,
    pub creation: Option<Creation>,
    /// By the server's clock, in whole seconds.
    pub opened_at: SystemTime,
    /// The version that unchanged bytes come from.
    pub source: Option<Source>,
    /// Other versions that bytes come from, until the next commit.
    pub copied: BTreeMap<SourceId, Source>,
    pub last_source: u32,
    /// They may go at any time: no other file copies from them any more.
    pub sources_go: bool,
    /// Of the limit of what is kept for handles.
    pub kept: Vec<Kept>,
    pub spool: Option<Arc<SpoolFile>>,
    pub persisted: Option<Persisted>,
    /// `pailfs-txn` of a former mount's last attempt: an object that carries it is ours.
    pub former_transaction: Option<String>,
    pub headers: ObjectHeaders,
    pub attributes: Attributes,
    pub mtime_is_explicit: bool,
    /// Writes change no times: the content comes from something that has its own.
    pub keeps_times: bool,
    /// See [`super::one_shot`].
    pub is_one_shot: bool,
    /// Its name is gone: nothing of it is to be put there for the sake of others, and no part of it is sent any more.
    pub is_unlinked: bool,
    pub upload: Option<Upload>,
    /// Where parts of the next upload lie; begins at the first write after a commit.
    pub grid: Option<PartGrid>,
    /// For more changes ([`super::room`]).
    pub room: Room,
    /// Parts were needed again once: from then on what is in parts also stays in memory or in the spool.
    pub keeps_parts: bool,
    /// All bytes are being copied: those that can be read must stay readable until that is done.
    pub is_being_copied: bool,
    /// Sending ahead failed: the next commit does it all.
    pub streaming_failed: bool,
    pub attempts: u64,
    pub last_failure: Option<(u64, Error)>,
    /// A commit that nobody was told of yet.
    pub unreported: Option<Committed>,
    /// See [`super::news`].
    pub is_untold: bool,
    /// Whoever opened this file knows that the object exists.
    pub is_known_to_exist: bool,
    /// An object under a former key that only this file needs; to be deleted after the next commit.
    pub left_behind: Option<(ObjectId, ETag)>,
    /// How much the spool is asked to take over, while it is being done.
    pub relief_wanted_bytes: u64,
    pub is_relieving: bool,
    /// The spool failed: it is left alone until then.
    pub spool_fails_until: Option<rt::Instant>,
    /// Why, until something could be written there again.
    pub spool_failure: Option<Error>,
    pub is_reclaimable: bool,
    /// Since when others wait for memory that parts on their way hold.
    pub waits_for_parts_since: Option<rt::Instant>,
}

/// What [`State::write`] came to.
pub enum Written {
    Done,
    /// Nothing was written: buffers of these sizes are needed.
    NeedsBuffers(Vec<u64>),
    /// Nothing was written: bytes that only an upload has are in the way.
    NeedsCommit,
}

/// One step of a write.
enum Step {
    InPlace {
        chunk: ChunkId,
        offset: u64,
        len: usize,
    },
    Append {
        chunk: ChunkId,
        len: usize,
    },
    New {
        capacity: u64,
        len: usize,
        next_chunk_bytes: u64,
    },
}

impl Step {
    fn len(&self) -> usize {
        match self {
            Self::InPlace { len, .. } | Self::Append { len, .. } | Self::New { len, .. } => *len,
        }
    }
}

impl State {
    pub fn new(id: ObjectId, headers: ObjectHeaders, attributes: Attributes, opened_at: SystemTime) -> Self {
        Self {
            id,
            map: ExtentMap::new(),
            sealed: None,
            generation: 1,
            last_change: 0,
            settled: 0,
            last_rewrite: 0,
            attributes_set: 0,
            is_rebased: false,
            changes: 0,
            chunks: ChunkStore::default(),
            next_chunk_bytes: FIRST_CHUNK_BYTES,
            base: Base::Absent,
            creation: None,
            opened_at,
            source: None,
            copied: BTreeMap::new(),
            last_source: 0,
            sources_go: false,
            kept: Vec::new(),
            spool: None,
            persisted: None,
            former_transaction: None,
            headers,
            attributes,
            mtime_is_explicit: false,
            keeps_times: false,
            is_one_shot: false,
            is_unlinked: false,
            upload: None,
            grid: None,
            room: Room::default(),
            keeps_parts: false,
            is_being_copied: false,
            streaming_failed: false,
            attempts: 0,
            last_failure: None,
            unreported: None,
            is_untold: false,
            is_known_to_exist: true,
            left_behind: None,
            base_of_unlinked: None,
            relief_wanted_bytes: 0,
            is_relieving: false,
            spool_fails_until: None,
            spool_failure: None,
            is_reclaimable: false,
            waits_for_parts_since: None,
        }
    }

    /// The content is that of this spool file.
    pub fn take_spooled(&mut self, file: Arc<SpoolFile>, size_bytes: u64) {
        self.map = ExtentMap::whole(size_bytes, Backing::Spool { offset: 0 }, self.generation);
        self.spool = Some(file);
        self.note_rewrite();
    }

    /// All but `runs` (offset, length) is not in the spool file, but in that version.
    pub fn take_changes(&mut self, runs: &[(u64, u64)], reader: Arc<Reader>) {
        let size_bytes = self.map.size_bytes();
        let mut map = ExtentMap::of_source(reader.version().size_bytes);
        map.set_size(size_bytes, self.generation);
        for (start, len) in runs {
            let range = ByteRange::new(*start, (start + len).min(size_bytes));
            map.insert(range, Backing::Spool { offset: *start }, self.generation);
        }
        self.map = map;
        self.source = Some(Source::of(self.id.clone(), reader));
    }

    pub fn source_of(&self, id: SourceId) -> Option<&Source> {
        if id == SourceId::BASE {
            return self.source.as_ref();
        }
        self.copied.get(&id)
    }

    /// The object whose tags the next version keeps.
    pub fn tags_of(&self) -> ObjectId {
        let source = self.source.as_ref().map(|source| &source.id);
        source.unwrap_or(&self.id).clone()
    }

    pub fn is_dirty(&self) -> bool {
        self.last_change > self.settled
    }

    pub fn note_change(&mut self) {
        self.last_change = self.generation;
        self.changes += 1;
    }

    /// Content changed, or was replaced by what is the same: its time is now.
    pub fn note_write(&mut self) {
        self.note_change();
        if self.keeps_times {
            return;
        }
        let now = Some(rt::wall_clock());
        self.attributes.mtime = now;
        self.attributes.ctime = now;
        self.mtime_is_explicit = false;
    }

    pub fn note_rewrite(&mut self) {
        self.last_rewrite = self.generation;
    }

    pub fn set_attributes(&mut self, attributes: Attributes) {
        if attributes.mtime != self.attributes.mtime {
            self.mtime_is_explicit = true;
        }
        self.attributes = attributes;
        self.attributes_set = self.generation;
        self.note_change();
    }

    pub fn edit_headers(&mut self, edit: impl FnOnce(&mut ObjectHeaders)) {
        edit(&mut self.headers);
        self.attributes_set = self.generation;
        self.note_change();
    }

    /// The object carries these now. What was written meanwhile is younger, and so is its time.
    pub fn rewritten(&mut self, headers: ObjectHeaders, mut attributes: Attributes) {
        if self.is_dirty() {
            attributes.mtime = self.attributes.mtime;
            attributes.ctime = self.attributes.ctime;
        }
        self.attributes = attributes;
        self.headers = headers;
    }

    /// Writes `data` at `offset`, all or nothing, with buffers from `spare` where new ones are needed.
    pub fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        spare: &mut Vec<Buffer>,
        policy: &UploadPolicy,
    ) -> Written {
        let range = ByteRange::new(offset, offset + data.len() as u64);
        if self.is_in_parts_only(range) {
            return Written::NeedsCommit;
        }
        let steps = self.steps_of(range);
        let needed: Vec<u64> = steps
            .iter()
            .filter_map(|step| match step {
                Step::New { capacity, .. } => Some(*capacity),
                _ => None,
            })
            .collect();
        if !needed
            .iter()
            .copied()
            .eq(spare.iter().map(|buffer| buffer.capacity() as u64))
        {
            return Written::NeedsBuffers(needed);
        }
        let grows_from = self.map.size_bytes();
        let mut buffers = spare.drain(..);
        let mut done = 0;
        for step in steps {
            let bytes = &data[done..done + step.len()];
            self.apply(&step, offset + done as u64, bytes, &mut buffers);
            done += step.len();
        }
        drop(buffers);
        if self.grid.is_none() {
            let start = offset.min(grows_from);
            self.grid = Some(PartGrid::new(
                start,
                policy.part_bytes,
                policy.max_sent_part_bytes,
                &policy.limits,
            ));
            // It keeps numbers for what is before it.
            self.room.forget();
        }
        self.forget_parts_in(range);
        self.note_write();
        Written::Done
    }

    fn apply(&mut self, step: &Step, position: u64, data: &[u8], buffers: &mut impl Iterator<Item = Buffer>) {
        let chunk = match *step {
            Step::InPlace { chunk, offset, .. } => {
                self.chunks.overwrite(chunk, offset, data);
                return;
            }
            Step::Append { chunk, .. } => chunk,
            Step::New { next_chunk_bytes, .. } => {
                self.next_chunk_bytes = next_chunk_bytes;
                // As many buffers as new chunks: the caller compared them.
                let Some(buffer) = buffers.next() else { return };
                self.chunks.add(position, buffer)
            }
        };
        let (offset, len) = self.chunks.append(chunk, data);
        let range = ByteRange::new(position, position + len as u64);
        let replaced = self
            .map
            .insert(range, Backing::Memory { chunk, offset }, self.generation);
        self.chunks.release(&replaced);
    }

    /// How a write of `range` is done: in place, behind the last bytes of an open chunk, in new chunks.
    fn steps_of(&self, range: ByteRange) -> SmallVec<[Step; 2]> {
        let mut steps = SmallVec::new();
        let mut position = range.start;
        let mut next_chunk_bytes = self.next_chunk_bytes;
        while position < range.end {
            let left = range.end - position;
            let step = self
                .step_in_place(position, left)
                .or_else(|| self.step_behind(position, left));
            let step = step.unwrap_or_else(|| {
                let to_boundary = MAX_CHUNK_BYTES - position % MAX_CHUNK_BYTES;
                let is_sequential = position > 0 && self.is_in_memory(position - 1)
                    || position == self.map.size_bytes()
                    || position > range.start;
                let wanted = if is_sequential {
                    next_chunk_bytes.max(left.min(MAX_CHUNK_BYTES).next_power_of_two())
                } else {
                    left.next_multiple_of(PAGE_BYTES)
                };
                if is_sequential {
                    next_chunk_bytes = (wanted * 2).min(MAX_CHUNK_BYTES);
                }
                let capacity = wanted.min(to_boundary).min(MAX_CHUNK_BYTES);
                Step::New {
                    capacity,
                    len: left.min(capacity) as usize,
                    next_chunk_bytes,
                }
            });
            position += step.len() as u64;
            steps.push(step);
        }
        steps
    }

    fn step_in_place(&self, position: u64, left: u64) -> Option<Step> {
        let extent = self.map.at(position)?;
        let Backing::Memory { chunk, offset } = extent.backing else {
            return None;
        };
        let len = left.min(extent.range.end - position) as usize;
        let offset = offset + (position - extent.range.start);
        self.chunks
            .is_open(chunk)
            .then_some(Step::InPlace { chunk, offset, len })
    }

    fn step_behind(&self, position: u64, left: u64) -> Option<Step> {
        let before = self.map.at(position.checked_sub(1)?)?;
        let Backing::Memory { chunk, .. } = before.backing else {
            return None;
        };
        let room = self.chunks.room_at(chunk, position) as u64;
        (room > 0).then_some(Step::Append {
            chunk,
            len: left.min(room) as usize,
        })
    }

    fn is_in_memory(&self, position: u64) -> bool {
        self.map
            .at(position)
            .is_some_and(|extent| matches!(extent.backing, Backing::Memory { .. }))
    }

    /// True when a byte of `range` is nowhere but in a part of the upload.
    pub fn is_in_parts_only(&self, range: ByteRange) -> bool {
        self.upload.as_ref().is_some_and(Upload::has_evicted)
            && self
                .map
                .range(range)
                .any(|extent| matches!(extent.backing, Backing::Part { .. }))
    }

    /// Cuts off or extends; `false` (and nothing done) when a part that is only in the upload would be cut in two.
    pub fn truncate(&mut self, size_bytes: u64) -> bool {
        let old_size_bytes = self.map.size_bytes();
        if size_bytes == old_size_bytes {
            return true;
        }
        let cut = size_bytes.checked_sub(1).and_then(|last| self.map.at(last));
        if cut.is_some_and(|cut| matches!(cut.backing, Backing::Part { .. }) && cut.range.end > size_bytes) {
            // A cut between two such parts is none: their extents are not joined, as their numbers differ.
            return false;
        }
        let removed = self.map.set_size(size_bytes, self.generation);
        self.chunks.release(&removed);
        self.room.forget();
        if size_bytes < old_size_bytes {
            self.forget_parts_in(ByteRange::new(size_bytes, u64::MAX));
        }
        self.note_rewrite();
        self.note_write();
        true
    }

    /// Content changed: parts that hold it have to be sent again. While something is sealed, the parts are its own.
    pub fn forget_parts_in(&mut self, range: ByteRange) {
        if self.sealed.is_none()
            && let Some(upload) = &mut self.upload
        {
            upload.forget(range);
        }
    }

    /// Ends the current generation: what it wrote does not change any more, whatever is written from now on.
    pub fn seal(&mut self) {
        self.chunks.seal_all();
        let map = self.map.clone();
        let extents: Vec<Extent> = map.iter().collect();
        self.chunks.retain(&extents);
        self.sealed = Some(Sealed {
            map,
            generation: self.generation,
            attributes: self.attributes,
            mtime_is_explicit: self.mtime_is_explicit,
            unknown_outcome_of: None,
            last_transaction: None,
        });
        self.generation += 1;
    }

    /// The next commit replaces what an unlinked file left under the name.
    pub fn replaces_unlinked(&mut self, version: Version) {
        self.base_of_unlinked = Some(version.etag.clone());
        self.base = Base::Known(version);
    }

    /// The commit failed, and certainly wrote nothing. Parts that still hold what the file has are kept.
    pub fn unseal(&mut self) {
        self.room.forget();
        let Some(sealed) = self.sealed.take() else { return };
        let extents: Vec<Extent> = sealed.map.iter().collect();
        self.chunks.release(&extents);
        let map = &self.map;
        if let Some(upload) = &mut self.upload {
            upload.keep_only(|part| {
                part.end <= map.size_bytes()
                    && map
                        .range(part)
                        .all(|extent| extent.generation <= sealed.generation)
            });
        }
    }

    /// What was sealed is the object now.
    pub fn committed_as(&mut self, version: Version, reader: Arc<Reader>) {
        let Some(sealed) = self.sealed.take() else { return };
        let extents: Vec<Extent> = sealed.map.iter().collect();
        self.chunks.release(&extents);
        let settled = self.map.settle(sealed.generation);
        self.chunks.release(&settled);
        let only_appended = self.only_appended();
        appends::hand_on(&mut self.headers, only_appended);
        if let Some(transaction) = sealed.last_transaction {
            self.headers.metadata.insert(TRANSACTION.to_owned(), transaction);
        }
        self.settled = self.settled.max(sealed.generation);
        self.source = Some(Source::of(self.id.clone(), reader));
        self.sources_go = false;
        self.forget_unused_sources();
        self.base = Base::Known(version);
        self.base_of_unlinked = None;
        self.creation = None;
        self.former_transaction = None;
        self.grid = None;
        self.room.forget();
        self.streaming_failed = false;
        self.next_chunk_bytes = FIRST_CHUNK_BYTES;
        if !self
            .map
            .iter()
            .any(|extent| matches!(extent.backing, Backing::Spool { .. }))
        {
            self.spool = None;
        }
    }

    /// What was sealed lost against another version and was kept elsewhere.
    pub fn given_up(&mut self) {
        if let Some(sealed) = &self.sealed {
            self.settled = self.settled.max(sealed.generation);
        }
        self.unseal();
        self.grid = None;
    }

    /// Bytes of `extent` are elsewhere now, with the same content: in both maps, wherever they are still that extent's.
    /// Returns how much memory nobody names any more.
    pub fn place(&mut self, range: ByteRange, from: impl Fn(&Extent) -> Option<Backing>) -> u64 {
        let mut moved = self.map.remap(range, &from);
        if let Some(sealed) = &mut self.sealed {
            moved.extend(sealed.map.remap(range, &from));
        }
        self.chunks.release(&moved)
    }

    /// May parts lose their memory?
    pub fn may_evict(&self) -> bool {
        self.sealed.is_none() && !self.keeps_parts && !self.is_being_copied && !self.is_unlinked
    }

    /// Gives up the memory of parts that the upload has. Returns how much that freed.
    pub fn evict(&mut self, wanted_bytes: u64) -> u64 {
        if !self.may_evict() {
            return 0;
        }
        let Some(upload) = &mut self.upload else { return 0 };
        let mut freed_bytes = 0;
        for (number, part) in upload.evictable() {
            if freed_bytes >= wanted_bytes {
                break;
            }
            let is_whole_in_memory = self
                .map
                .range(part)
                .all(|extent| matches!(extent.backing, Backing::Memory { .. }));
            if !is_whole_in_memory {
                continue;
            }
            upload.note_evicted(number);
            let moved = self.map.remap(part, |extent| {
                Some(Backing::Part {
                    number,
                    offset: extent.range.start - part.start,
                })
            });
            freed_bytes += self.chunks.release(&moved);
            self.waits_for_parts_since = None;
        }
        freed_bytes
    }

    /// Cells between `range`'s neighbourhood and its end that are complete, in memory, not sent, and neither the first nor
    /// the last.
    pub fn cells_to_send(&self, range: ByteRange) -> Vec<(u32, ByteRange)> {
        let may_send = self.sealed.is_none() && !self.streaming_failed && !self.is_unlinked;
        let Some(grid) = self.grid_in_use().filter(|_| may_send) else {
            return Vec::new();
        };
        let from = grid
            .number_at(range.start.saturating_sub(1))
            .unwrap_or(grid.first_number());
        let Some(to) = grid.number_at(range.end.saturating_sub(1)) else {
            return Vec::new();
        };
        (from.max(grid.first_number() + 1)..=to)
            .filter_map(|number| grid.cell(number).map(|cell| (number, cell)))
            .filter(|(number, cell)| self.is_to_send(*number, *cell))
            .collect()
    }

    pub fn is_to_send(&self, number: u32, cell: ByteRange) -> bool {
        self.sealed.is_none()
            && cell.end < self.map.size_bytes()
            && self.upload.as_ref().is_none_or(|upload| !upload.has(number))
            && self
                .map
                .range(cell)
                .all(|extent| matches!(extent.backing, Backing::Memory { .. }))
    }

    /// May an upload that was to create, or to replace a truncated file, take the place of `found`?
    ///
    /// Last-Modified has whole seconds: an object of the very second of the open may be newer than it and is not replaced.
    pub fn replaceable(&self, found: Option<&ObjectInfo>) -> Option<Condition> {
        let truncates = self.creation == Some(Creation::Truncating);
        let Some(info) = found else {
            // What was to be replaced is gone: nobody's bytes are lost by creating it anew.
            return self.creation.is_some().then_some(Condition::Absent);
        };
        let is_older = info.version.last_modified < self.opened_at;
        (truncates && is_older).then(|| Condition::Matches(info.version.etag.clone()))
    }

    /// Forgets all content and everything that was to be done about it.
    pub fn clear(&mut self) {
        self.unseal();
        self.map = ExtentMap::new();
        self.chunks.clear();
        self.grid = None;
        self.spool = None;
        self.source = None;
        self.copied.clear();
        self.kept.clear();
        self.settled = self.last_change;
    }
}
