//! Where every byte of an open file is: an ordered map of ranges without holes.
//!
//! Difficulties, and who solves each:
//! 1. A write cuts through ranges of any kind. [`ExtentMap::insert`] splits them and hands back what it replaced, so
//!    that the owner of the memory can release it.
//! 2. Bytes move (memory to spool, memory to an uploaded part) while writes go on. [`ExtentMap::remap`] changes a
//!    backing in place and keeps the generation: content is the same, only its place differs.
//! 3. A commit runs while the file is written to. Each extent carries the generation in which it was written;
//!    [`ExtentMap::settle`] turns exactly those that the commit covered into ranges of the new object version.
//! 4. Many small sequential writes must not make many extents: neighbours that continue each other are merged.

use crate::base::object::ByteRange;
use std::collections::BTreeMap;

/// Names a buffer of one file's chunk store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub u64);

/// Names an object version that bytes of one file come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u32);

impl SourceId {
    /// The version that the file is based on. All others are of objects that were copied from.
    pub const BASE: Self = Self(0);
}

/// A place in an object version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceAt {
    pub source: SourceId,
    pub offset: u64,
}

impl SourceAt {
    #[must_use]
    pub fn base(offset: u64) -> Self {
        Self {
            source: SourceId::BASE,
            offset,
        }
    }

    #[must_use]
    pub fn advanced(self, by: u64) -> Self {
        Self {
            offset: self.offset + by,
            ..self
        }
    }
}

/// Where the bytes of an extent are; offsets are those of the extent's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// In a buffer in memory.
    Memory { chunk: ChunkId, offset: u64 },
    /// In the file's spool file.
    Spool { offset: u64 },
    /// Only in a part of the running upload, where they cannot be read.
    Part { number: u32, offset: u64 },
    /// In an object version.
    Source(SourceAt),
    /// Never written: zeroes.
    Zero,
}

impl Backing {
    /// The backing of the bytes that begin `by` bytes later.
    #[must_use]
    pub fn advanced(self, by: u64) -> Self {
        match self {
            Self::Memory { chunk, offset } => Self::Memory {
                chunk,
                offset: offset + by,
            },
            Self::Spool { offset } => Self::Spool { offset: offset + by },
            Self::Part { number, offset } => Self::Part {
                number,
                offset: offset + by,
            },
            Self::Source(at) => Self::Source(at.advanced(by)),
            Self::Zero => Self::Zero,
        }
    }
}

/// One run of bytes of the file with one backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub range: ByteRange,
    pub backing: Backing,
    /// When it was written: the number of the commit interval.
    pub generation: u64,
}

impl Extent {
    /// The part of this extent that lies in `range`, if any.
    #[must_use]
    pub fn clipped(&self, range: ByteRange) -> Option<Self> {
        let start = self.range.start.max(range.start);
        let end = self.range.end.min(range.end);
        (start < end).then(|| Self {
            range: ByteRange::new(start, end),
            backing: self.backing.advanced(start - self.range.start),
            generation: self.generation,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    end: u64,
    backing: Backing,
    generation: u64,
}

/// Covers `[0, size)` without holes or overlaps.
#[derive(Clone, Debug, Default)]
pub struct ExtentMap {
    /// By start.
    entries: BTreeMap<u64, Entry>,
    size_bytes: u64,
}

impl ExtentMap {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The map of an unchanged object version of this size.
    #[must_use]
    pub fn of_source(size_bytes: u64) -> Self {
        Self::whole(size_bytes, Backing::Source(SourceAt::base(0)), 0)
    }

    /// One extent from the beginning to `size_bytes`.
    #[must_use]
    pub fn whole(size_bytes: u64, backing: Backing, generation: u64) -> Self {
        let mut map = Self {
            entries: BTreeMap::new(),
            size_bytes,
        };
        if size_bytes > 0 {
            map.entries.insert(
                0,
                Entry {
                    end: size_bytes,
                    backing,
                    generation,
                },
            );
        }
        map
    }

    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The extent that holds the byte at `position`.
    #[must_use]
    pub fn at(&self, position: u64) -> Option<Extent> {
        let (&start, entry) = self.entries.range(..=position).next_back()?;
        (position < entry.end).then(|| extent(start, entry))
    }

    /// The extents within `range`, clipped to it, in order.
    pub fn range(&self, range: ByteRange) -> impl Iterator<Item = Extent> + '_ {
        let first = self
            .entries
            .range(..=range.start)
            .next_back()
            .map_or(range.start, |(&start, _)| start);
        self.entries
            .range(first..range.end.max(first))
            .filter_map(move |(&start, entry)| extent(start, entry).clipped(range))
    }

    /// All extents in order.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.entries.iter().map(|(&start, entry)| extent(start, entry))
    }

    /// Puts `backing` under `range` and returns what was there. A gap between the end of the file and `range` becomes
    /// zeroes; the file grows to hold `range`.
    pub fn insert(&mut self, range: ByteRange, backing: Backing, generation: u64) -> Vec<Extent> {
        if range.is_empty() {
            return Vec::new();
        }
        if range.start > self.size_bytes {
            self.set_size(range.start, generation);
        }
        let replaced = self.cut_out(range);
        self.size_bytes = self.size_bytes.max(range.end);
        self.entries.insert(
            range.start,
            Entry {
                end: range.end,
                backing,
                generation,
            },
        );
        self.merge_around(range);
        replaced
    }

    /// Cuts the file off at `size_bytes`, or fills it up to there with zeroes. Returns what was cut off.
    pub fn set_size(&mut self, size_bytes: u64, generation: u64) -> Vec<Extent> {
        let old_size_bytes = self.size_bytes;
        if size_bytes < old_size_bytes {
            let removed = self.cut_out(ByteRange::new(size_bytes, old_size_bytes));
            self.size_bytes = size_bytes;
            return removed;
        }
        if size_bytes > old_size_bytes {
            self.size_bytes = size_bytes;
            let added = ByteRange::new(old_size_bytes, size_bytes);
            self.entries.insert(
                added.start,
                Entry {
                    end: added.end,
                    backing: Backing::Zero,
                    generation,
                },
            );
            self.merge_around(added);
        }
        Vec::new()
    }

    /// Gives the extents within `range` the backing that `place` returns for them (clipped to `range`); `None` leaves
    /// one as it is. Generations stay. Returns the extents that changed, as they were.
    pub fn remap(
        &mut self,
        range: ByteRange,
        mut place: impl FnMut(&Extent) -> Option<Backing>,
    ) -> Vec<Extent> {
        let moves: Vec<(Extent, Backing)> = self
            .range(range)
            .filter_map(|old| place(&old).map(|new| (old, new)))
            .collect();
        for (old, backing) in &moves {
            self.cut_out(old.range);
            let entry = Entry {
                end: old.range.end,
                backing: *backing,
                generation: old.generation,
            };
            self.entries.insert(old.range.start, entry);
            self.merge_around(old.range);
        }
        moves.into_iter().map(|(old, _)| old).collect()
    }

    /// A commit of everything up to `generation` succeeded: those extents now are ranges of the new version, at their
    /// own positions. Returns them as they were.
    pub fn settle(&mut self, generation: u64) -> Vec<Extent> {
        let settled: Vec<Extent> = self
            .iter()
            .filter(|extent| extent.generation <= generation)
            .collect();
        let later: Vec<Extent> = self
            .iter()
            .filter(|extent| extent.generation > generation)
            .collect();
        let mut fresh = Self::of_source(self.size_bytes);
        for extent in later {
            fresh.insert(extent.range, extent.backing, extent.generation);
        }
        *self = fresh;
        settled
    }

    /// The runs of bytes that are not those of the source version at the same position, joined where they touch.
    #[must_use]
    pub fn dirty_ranges(&self) -> Vec<ByteRange> {
        let mut runs: Vec<ByteRange> = Vec::new();
        for extent in self.iter() {
            if extent.backing == Backing::Source(SourceAt::base(extent.range.start)) {
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.end == extent.range.start => last.end = extent.range.end,
                _ => runs.push(extent.range),
            }
        }
        runs
    }

    /// True when this is the source version of `source_bytes` bytes and nothing else.
    #[must_use]
    pub fn is_source(&self, source_bytes: u64) -> bool {
        self.size_bytes == source_bytes && self.dirty_ranges().is_empty()
    }

    /// Removes `range` from the map, splitting at its ends, and returns what was there.
    fn cut_out(&mut self, range: ByteRange) -> Vec<Extent> {
        let inside: Vec<Extent> = self.range(range).collect();
        for part in &inside {
            let Some((&start, &entry)) = self.entries.range(..=part.range.start).next_back() else {
                continue;
            };
            self.entries.remove(&start);
            let whole = extent(start, &entry);
            for rest in [
                whole.clipped(ByteRange::new(start, part.range.start)),
                whole.clipped(ByteRange::new(part.range.end, entry.end.max(part.range.end))),
            ]
            .into_iter()
            .flatten()
            {
                let entry = Entry {
                    end: rest.range.end,
                    backing: rest.backing,
                    generation: rest.generation,
                };
                self.entries.insert(rest.range.start, entry);
            }
        }
        inside
    }

    /// Joins the entry at `range` with the neighbours that it continues or that continue it.
    fn merge_around(&mut self, range: ByteRange) {
        let Some((&start, &entry)) = self.entries.range(..=range.start).next_back() else {
            return;
        };
        let mut start = start;
        let mut entry = entry;
        if let Some((&before_start, &before)) = self.entries.range(..start).next_back()
            && continues(before_start, &before, start, &entry)
        {
            self.entries.remove(&start);
            self.entries.insert(
                before_start,
                Entry {
                    end: entry.end,
                    ..before
                },
            );
            start = before_start;
            entry = Entry {
                end: entry.end,
                ..before
            };
        }
        if let Some(&after) = self.entries.get(&entry.end)
            && continues(start, &entry, entry.end, &after)
        {
            self.entries.remove(&entry.end);
            self.entries.insert(
                start,
                Entry {
                    end: after.end,
                    ..entry
                },
            );
        }
    }
}

fn extent(start: u64, entry: &Entry) -> Extent {
    Extent {
        range: ByteRange::new(start, entry.end),
        backing: entry.backing,
        generation: entry.generation,
    }
}

fn continues(start: u64, entry: &Entry, next_start: u64, next: &Entry) -> bool {
    entry.end == next_start
        && entry.generation == next.generation
        && entry.backing.advanced(next_start - start) == next.backing
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end)
    }

    fn memory(chunk: u64, offset: u64) -> Backing {
        Backing::Memory {
            chunk: ChunkId(chunk),
            offset,
        }
    }

    #[test]
    fn sequential_writes_into_one_chunk_are_one_extent() {
        let mut map = ExtentMap::new();
        for step in 0..10 {
            assert!(
                map.insert(bytes(step * 4, step * 4 + 4), memory(1, step * 4), 1)
                    .is_empty()
            );
        }
        assert_eq!(map.iter().count(), 1);
        assert_eq!(map.size_bytes(), 40);
    }

    #[test]
    fn only_what_the_commit_covered_becomes_source() {
        let mut map = ExtentMap::new();
        map.insert(bytes(0, 100), memory(1, 0), 1);
        map.insert(bytes(40, 60), memory(2, 0), 2);
        map.set_size(120, 2);
        let settled = map.settle(1);
        assert_eq!(settled.iter().map(|extent| extent.range.len()).sum::<u64>(), 80);
        assert_eq!(map.dirty_ranges(), vec![bytes(40, 60), bytes(100, 120)]);
        assert_eq!(
            map.at(70).map(|extent| extent.backing),
            Some(Backing::Source(SourceAt::base(60)))
        );
    }

    #[test]
    fn a_moved_extent_keeps_its_generation() {
        let mut map = ExtentMap::new();
        map.insert(bytes(0, 10), memory(1, 0), 1);
        map.insert(bytes(3, 5), memory(2, 0), 1);
        let moved = map.remap(bytes(0, 8), |extent| match extent.backing {
            Backing::Memory {
                chunk: ChunkId(1),
                offset,
            } => Some(Backing::Spool { offset }),
            _ => None,
        });
        assert_eq!(moved.len(), 2);
        assert_eq!(map.at(4).map(|extent| extent.backing), Some(memory(2, 0)));
        assert_eq!(
            map.at(7).map(|extent| (extent.backing, extent.generation)),
            Some((Backing::Spool { offset: 5 }, 1))
        );
        assert_eq!(map.at(9).map(|extent| extent.backing), Some(memory(1, 8)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert { start: u64, len: u64 },
        SetSize(u64),
        Spill { start: u64, len: u64 },
        Seal,
        Settle,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let one = prop_oneof![
            4 => (0..80u64, 0..30u64).prop_map(|(start, len)| Step::Insert { start, len }),
            1 => (0..120u64).prop_map(Step::SetSize),
            1 => (0..80u64, 1..40u64).prop_map(|(start, len)| Step::Spill { start, len }),
            1 => Just(Step::Seal),
            1 => Just(Step::Settle),
        ];
        proptest::collection::vec(one, 1..60)
    }

    /// One byte of the oracle: its backing and generation.
    type Cell = (Backing, u64);

    proptest! {
        #[test]
        fn it_equals_a_map_that_names_every_byte(script in steps(), source in 0..50u64) {
            let mut map = ExtentMap::of_source(source);
            let mut oracle: Vec<Cell> = (0..source).map(|offset| (Backing::Source(SourceAt::base(offset)), 0)).collect();
            let mut generation = 1;
            for (number, step) in script.into_iter().enumerate() {
                match step {
                    Step::Insert { start, len } => {
                        let chunk = number as u64;
                        let replaced = map.insert(bytes(start, start + len), memory(chunk, 0), generation);
                        let old_len = oracle.len() as u64;
                        if len > 0 {
                            oracle.resize(old_len.max(start + len) as usize, (Backing::Zero, generation));
                        }
                        let expected = old_len.min(start + len).saturating_sub(start.min(old_len));
                        prop_assert_eq!(replaced.iter().map(|extent| extent.range.len()).sum::<u64>(),
                            if len == 0 { 0 } else { expected });
                        for offset in 0..len {
                            oracle[(start + offset) as usize] = (memory(chunk, offset), generation);
                        }
                    }
                    Step::SetSize(size) => {
                        map.set_size(size, generation);
                        oracle.resize(size as usize, (Backing::Zero, generation));
                    }
                    Step::Spill { start, len } => {
                        map.remap(bytes(start, start + len), |extent| match extent.backing {
                            Backing::Memory { .. } => Some(Backing::Spool { offset: extent.range.start }),
                            _ => None,
                        });
                        for position in start..(start + len).min(oracle.len() as u64) {
                            let cell = &mut oracle[position as usize];
                            if matches!(cell.0, Backing::Memory { .. }) {
                                cell.0 = Backing::Spool { offset: position };
                            }
                        }
                    }
                    Step::Seal => generation += 1,
                    Step::Settle => {
                        map.settle(generation - 1);
                        for (position, cell) in oracle.iter_mut().enumerate() {
                            if cell.1 < generation {
                                *cell = (Backing::Source(SourceAt::base(position as u64)), 0);
                            }
                        }
                    }
                }
                prop_assert_eq!(map.size_bytes(), oracle.len() as u64);
                let mut end = 0;
                let mut former: Option<Extent> = None;
                for extent in map.iter() {
                    prop_assert_eq!(extent.range.start, end);
                    prop_assert!(!extent.range.is_empty());
                    end = extent.range.end;
                    for position in extent.range.start..end {
                        let here = extent.backing.advanced(position - extent.range.start);
                        prop_assert_eq!((here, extent.generation), oracle[position as usize]);
                    }
                    if let Some(former) = former {
                        let joined = former.generation == extent.generation
                            && former.backing.advanced(former.range.len()) == extent.backing;
                        prop_assert!(!joined, "neighbours that continue each other are merged");
                    }
                    former = Some(extent);
                }
                prop_assert_eq!(end, map.size_bytes());
            }
        }
    }
}
