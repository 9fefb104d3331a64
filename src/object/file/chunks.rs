//! The buffers that one file's unsent bytes are written into.
//!
//! 1. A chunk that is being sent or written to the spool must not change: it is sealed first, for ever; until then bytes
//!    are appended and overwritten in place.
//! 2. Sending copies nothing: a sealed chunk is a [`Bytes`] that owns the buffer and its permit, so memory is given back
//!    when the last user drops it.
//! 3. Checksums are computed once, on appended bytes while they are in the processor's cache; a chunk that was
//!    overwritten is summed again when it is sent.
//! 4. A chunk lives as long as an extent of the file (or of the state that a commit is sending) names a byte of it.

use crate::base::checksum::Crc32c;
use crate::base::extents::{Backing, ChunkId, Extent};
use crate::object::budget::Buffer;
use bytes::Bytes;
use std::collections::BTreeMap;

/// Appended bytes are summed in steps of at least this length.
const CHECKSUM_STEP_BYTES: usize = 64 << 10;

#[derive(Default)]
pub struct ChunkStore {
    chunks: BTreeMap<ChunkId, Chunk>,
    last: u64,
}

struct Chunk {
    /// The file position of the first byte; bytes follow each other in the chunk as they do in the file.
    position: u64,
    data: Data,
    capacity: u64,
    /// How many bytes extents name, those of both maps counted.
    live_bytes: u64,
    checksum: Crc32c,
    /// `checksum` covers this many bytes from the first.
    summed: usize,
    /// Bytes under the checksum changed: nothing is summed before the chunk is sent.
    is_overwritten: bool,
}

enum Data {
    Open(Buffer),
    Sealed(Bytes),
}

/// Bytes of a chunk to be sent; the checksum where it is known.
pub struct Piece {
    pub bytes: Bytes,
    pub checksum: Option<Crc32c>,
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Open(buffer) => buffer.bytes(),
            Data::Sealed(bytes) => bytes,
        }
    }

    fn sum_up(&mut self) {
        let Data::Open(buffer) = &self.data else { return };
        let fresh = &buffer.bytes()[self.summed..];
        self.checksum = self.checksum.then(Crc32c::of(fresh));
        self.summed += fresh.len();
    }

    fn seal(&mut self) -> Bytes {
        if !self.is_overwritten {
            self.sum_up();
        }
        // An empty `Bytes` stands in for a moment: nothing between can fail.
        let bytes = match std::mem::replace(&mut self.data, Data::Sealed(Bytes::new())) {
            Data::Open(buffer) => Bytes::from_owner(buffer),
            Data::Sealed(bytes) => bytes,
        };
        self.data = Data::Sealed(bytes.clone());
        bytes
    }
}

impl ChunkStore {
    /// Takes a buffer for bytes that begin at `position` of the file.
    pub fn add(&mut self, position: u64, buffer: Buffer) -> ChunkId {
        self.last += 1;
        let id = ChunkId(self.last);
        let chunk = Chunk {
            position,
            capacity: buffer.capacity() as u64,
            data: Data::Open(buffer),
            live_bytes: 0,
            checksum: Crc32c::default(),
            summed: 0,
            is_overwritten: false,
        };
        self.chunks.insert(id, chunk);
        id
    }

    /// Where the file position `end` can be written to by appending: the room in that open chunk.
    pub fn room_at(&self, id: ChunkId, end: u64) -> usize {
        let Some(chunk) = self.chunks.get(&id) else {
            return 0;
        };
        match &chunk.data {
            Data::Open(buffer) if chunk.position + buffer.bytes().len() as u64 == end => buffer.room(),
            _ => 0,
        }
    }

    pub fn is_open(&self, id: ChunkId) -> bool {
        matches!(self.chunks.get(&id).map(|chunk| &chunk.data), Some(Data::Open(_)))
    }

    /// Appends what there is room for and counts it as live; returns the offset in the chunk and the length.
    pub fn append(&mut self, id: ChunkId, data: &[u8]) -> (u64, usize) {
        let Some(chunk) = self.chunks.get_mut(&id) else {
            return (0, 0);
        };
        let Data::Open(buffer) = &mut chunk.data else {
            return (0, 0);
        };
        let offset = buffer.bytes().len();
        let taken = buffer.append(data);
        let is_full = buffer.room() == 0;
        chunk.live_bytes += taken as u64;
        if !chunk.is_overwritten && (is_full || offset + taken - chunk.summed >= CHECKSUM_STEP_BYTES) {
            chunk.sum_up();
        }
        (offset as u64, taken)
    }

    /// Overwrites bytes of an open chunk in place.
    pub fn overwrite(&mut self, id: ChunkId, offset: u64, data: &[u8]) {
        let Some(chunk) = self.chunks.get_mut(&id) else {
            return;
        };
        let Data::Open(buffer) = &mut chunk.data else {
            return;
        };
        let start = offset as usize;
        buffer.bytes_mut()[start..start + data.len()].copy_from_slice(data);
        if start < chunk.summed {
            chunk.is_overwritten = true;
        }
    }

    pub fn bytes(&self, id: ChunkId) -> &[u8] {
        self.chunks.get(&id).map_or(&[], Chunk::bytes)
    }

    /// Seals the chunk and takes `len` bytes from `offset` on.
    pub fn piece(&mut self, id: ChunkId, offset: u64, len: u64) -> Piece {
        let Some(chunk) = self.chunks.get_mut(&id) else {
            return Piece {
                bytes: Bytes::new(),
                checksum: None,
            };
        };
        let all = chunk.seal();
        let is_whole = offset == 0 && len == all.len() as u64;
        Piece {
            checksum: (is_whole && !chunk.is_overwritten).then_some(chunk.checksum),
            bytes: all.slice(offset as usize..(offset + len) as usize),
        }
    }

    /// From now on nothing that is here changes.
    pub fn seal_all(&mut self) {
        for chunk in self.chunks.values_mut() {
            if matches!(chunk.data, Data::Open(_)) {
                chunk.seal();
            }
        }
    }

    /// Another map names these extents too.
    pub fn retain<'a>(&mut self, extents: impl IntoIterator<Item = &'a Extent>) {
        for extent in extents {
            if let Backing::Memory { chunk, .. } = extent.backing
                && let Some(chunk) = self.chunks.get_mut(&chunk)
            {
                chunk.live_bytes += extent.range.len();
            }
        }
    }

    /// A map does not name these extents any more. Returns how much memory nobody names now.
    pub fn release<'a>(&mut self, extents: impl IntoIterator<Item = &'a Extent>) -> u64 {
        let mut freed_bytes = 0;
        for extent in extents {
            let Backing::Memory { chunk: id, .. } = extent.backing else {
                continue;
            };
            let Some(chunk) = self.chunks.get_mut(&id) else {
                continue;
            };
            chunk.live_bytes = chunk.live_bytes.saturating_sub(extent.range.len());
            if chunk.live_bytes == 0 {
                freed_bytes += chunk.capacity;
                self.chunks.remove(&id);
            }
        }
        freed_bytes
    }

    /// All chunks: id, file position, length, memory taken.
    pub fn iter(&self) -> impl Iterator<Item = (ChunkId, u64, u64, u64)> + '_ {
        self.chunks
            .iter()
            .map(|(id, chunk)| (*id, chunk.position, chunk.bytes().len() as u64, chunk.capacity))
    }

    /// Moves all bytes of the file that are here from behind `from` to behind `to`.
    pub fn shift(&mut self, from: u64, to: u64) {
        for chunk in self.chunks.values_mut() {
            chunk.position = chunk.position - from + to;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub fn capacity_bytes(&self) -> u64 {
        self.chunks.values().map(|chunk| chunk.capacity).sum()
    }

    pub fn clear(&mut self) {
        self.chunks.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::object::ByteRange;
    use crate::object::budget::Budget;
    use std::sync::Arc;
    use std::time::Duration;

    fn budget() -> Arc<Budget> {
        Budget::new(1 << 20, Duration::from_secs(1))
    }

    fn buffer(budget: &Arc<Budget>, bytes: u64) -> Buffer {
        budget
            .try_acquire(bytes)
            .expect("the budget is free")
            .into_buffer()
    }

    fn named(chunk: ChunkId, start: u64, end: u64) -> Extent {
        Extent {
            range: ByteRange::new(start, end),
            backing: Backing::Memory { chunk, offset: start },
            generation: 1,
        }
    }

    #[test]
    fn the_checksum_of_appended_bytes_is_ready_when_they_are_sent() {
        let budget = budget();
        let mut store = ChunkStore::default();
        let id = store.add(0, buffer(&budget, 300_000));
        let data: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        for step in data.chunks(7_000) {
            store.append(id, step);
        }
        let piece = store.piece(id, 0, data.len() as u64);
        assert_eq!(piece.checksum, Some(Crc32c::of(&data)));
        assert!(store.piece(id, 1, 10).checksum.is_none());
    }

    #[test]
    fn an_overwritten_chunk_is_summed_again() {
        let budget = budget();
        let mut store = ChunkStore::default();
        let id = store.add(0, buffer(&budget, 8));
        store.append(id, b"abcdefgh");
        store.overwrite(id, 2, b"XY");
        let piece = store.piece(id, 0, 8);
        assert_eq!(&piece.bytes[..], b"abXYefgh");
        assert_eq!(piece.checksum, None);
    }

    #[test]
    fn memory_is_given_back_when_nothing_names_it_and_nobody_sends_it() {
        let budget = budget();
        let mut store = ChunkStore::default();
        let id = store.add(0, buffer(&budget, 100));
        store.append(id, &[1; 60]);
        let piece = store.piece(id, 0, 60);
        assert_eq!(store.room_at(id, 60), 0, "a sealed chunk takes nothing more");
        assert_eq!(store.release([&named(id, 0, 20)]), 0);
        assert_eq!(store.release([&named(id, 20, 60)]), 100);
        assert_eq!(budget.used_bytes(), 100);
        drop(piece);
        assert_eq!(budget.used_bytes(), 0);
    }
}
