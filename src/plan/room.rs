//! Whether a file that is being changed can still be uploaded after more changes.
//!
//! 1. Changes at many places need many parts, and a part that is sent is bounded by memory. So a very large file could become
//!    one that no upload holds: its writer commits what there is before that, which makes all of it one version to copy from.
//! 2. Parts that were sent while the file was written may be the only copy of their bytes: their numbers stay. What is behind
//!    the grid's beginning has numbers in any case ([`super::grid`]); what is before it has those that were kept for it.
//! 3. A look at the whole file for each write would cost too much. A look says how many changes it covers, and where all can
//!    be sent, as in nearly every file, its length is all that is looked at.

use crate::base::limits::MIB;
use crate::base::object::ByteRange;
use crate::plan::gap::{fewest_parts, longest_free_bytes};
use crate::plan::grid::PartGrid;
use crate::plan::parts::{Run, SourceSizes, UploadPolicy, to_plan};

/// The longest change that is counted as one; no more than so much behind the file's end.
const MAX_CHANGE_BYTES: u64 = MIB;
/// What one change costs where only what must be is sent: a part for it, one more for what it cut in two, one where it made
/// another part too long, two where what is left of its neighbours is no multiple of the longest copy any more.
const PARTS_OF_A_CHANGE: u64 = 5;
/// The same where all is sent: the file is longer, and one part may be cut.
const PARTS_OF_A_SENT_CHANGE: u64 = 2;

/// Counts changes, until the file has to be looked at again.
#[derive(Debug, Default)]
pub struct Room {
    changes_left: u64,
}

impl Room {
    /// The file is not what was looked at, with changes.
    pub fn forget(&mut self) {
        self.changes_left = 0;
    }

    /// True when an upload holds the file also after `range` got other bytes, in so many runs of one kind; that is counted
    /// then. `runs`: all bytes of the file.
    pub fn take(
        &mut self,
        range: ByteRange,
        runs_added: usize,
        file: &Outline,
        runs: impl FnOnce() -> (Vec<Run>, SourceSizes),
    ) -> bool {
        let added_bytes = range.len().max(range.end.saturating_sub(file.size_bytes));
        if runs_added > 1 || added_bytes > MAX_CHANGE_BYTES {
            self.forget();
            // What is between the file's end and the range is a run of its own.
            return file.holds(added_bytes, runs_added as u64 + 1, range.end, runs);
        }
        if self.changes_left == 0 {
            self.changes_left = file.changes_left(runs);
        }
        let has_room = self.changes_left > 0;
        self.changes_left = self.changes_left.saturating_sub(1);
        has_room
    }
}

/// A file that is being changed, as far as part numbers are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Outline<'a> {
    pub size_bytes: u64,
    pub grid: Option<&'a PartGrid>,
    /// Cells of the grid are in the upload, or on their way. The file ends within the grid then.
    pub has_cells: bool,
    pub policy: &'a UploadPolicy,
}

/// Numbers, and what has to do with them.
#[derive(Clone, Copy)]
struct Numbers {
    count: u32,
    range: ByteRange,
    is_last: bool,
}

/// One way to upload that.
struct Way {
    /// Numbers that it does not need; negative: so many are missing.
    free: i64,
    /// What a change takes of them.
    parts_of_a_change: u64,
    /// Of zeroes, or of an object, each number holds so many.
    part_bytes: u64,
}

impl Way {
    fn changes(&self) -> u64 {
        self.free.max(0) as u64 / self.parts_of_a_change
    }

    fn holds(&self, bytes: u64, runs: u64) -> bool {
        let needed = runs
            .saturating_mul(self.parts_of_a_change)
            .saturating_add(bytes.div_ceil(self.part_bytes));
        i64::try_from(needed).is_ok_and(|needed| self.free >= needed)
    }
}

impl Outline<'_> {
    /// How many changes, of [`MAX_CHANGE_BYTES`] at most and anywhere, surely leave a file that an upload holds.
    fn changes_left(&self, runs: impl FnOnce() -> (Vec<Run>, SourceSizes)) -> u64 {
        let grid = self.grid_for(self.size_bytes + MAX_CHANGE_BYTES);
        let until_end = grid.map_or(u64::MAX, |grid| {
            grid.end_bytes().saturating_sub(self.size_bytes) / MAX_CHANGE_BYTES
        });
        let Some(numbers) = self.numbers(grid) else {
            return until_end;
        };
        let mut changes = self.ways(numbers, runs).map(|way| way.changes());
        changes.find(|changes| *changes > 0).unwrap_or(0).min(until_end)
    }

    /// Whether `bytes` bytes, in so many runs of zeroes and of objects, may take the place of others, or be added up to
    /// `end_bytes`: that takes no memory, but numbers.
    fn holds(
        &self,
        bytes: u64,
        runs_added: u64,
        end_bytes: u64,
        runs: impl FnOnce() -> (Vec<Run>, SourceSizes),
    ) -> bool {
        let grid = self.grid_for(end_bytes.max(self.size_bytes));
        let Some(numbers) = self.numbers(grid) else {
            return true;
        };
        self.ways(numbers, runs).any(|way| way.holds(bytes, runs_added))
    }

    /// The grid, if a file of this size ends within it.
    fn grid_for(&self, size_bytes: u64) -> Option<&PartGrid> {
        self.grid
            .filter(|grid| self.has_cells || size_bytes <= grid.end_bytes())
    }

    /// The numbers that may become too few; `None` where none can.
    fn numbers(&self, grid: Option<&PartGrid>) -> Option<Numbers> {
        let Some(grid) = grid else {
            return Some(Numbers {
                count: self.policy.limits.max_parts,
                range: ByteRange::new(0, self.size_bytes),
                is_last: true,
            });
        };
        let (count, origin_bytes) = (grid.first_number() - 1, grid.origin_bytes());
        let hold_all_sent = origin_bytes.div_ceil(self.policy.max_sent_part_bytes) <= u64::from(count);
        (!hold_all_sent).then(|| Numbers {
            count,
            range: ByteRange::new(0, origin_bytes.min(self.size_bytes)),
            is_last: origin_bytes >= self.size_bytes,
        })
    }

    /// The cheapest to find out about first.
    fn ways(
        &self,
        numbers: Numbers,
        runs: impl FnOnce() -> (Vec<Run>, SourceSizes),
    ) -> impl Iterator<Item = Way> {
        let policy = *self.policy;
        let count = i64::from(numbers.count);
        let sent_part_bytes = policy.max_sent_part_bytes;
        let all_sent = Way {
            free: count - numbers.range.len().div_ceil(sent_part_bytes) as i64,
            parts_of_a_change: PARTS_OF_A_SENT_CHANGE,
            part_bytes: sent_part_bytes,
        };
        let copied = std::iter::once_with(move || {
            let (runs, sizes) = runs();
            let runs = to_plan(&runs, &sizes, &policy.limits);
            [true, false].map(|zeroes_apart| {
                let needed = fewest_parts(&runs, numbers.range, numbers.is_last, zeroes_apart, &policy);
                Way {
                    free: needed.map_or(-1, |needed| count - needed as i64),
                    parts_of_a_change: PARTS_OF_A_CHANGE,
                    part_bytes: if zeroes_apart {
                        longest_free_bytes(&policy.limits)
                    } else {
                        sent_part_bytes
                    },
                }
            })
        });
        std::iter::once(all_sent).chain(copied.flatten())
    }
}

#[cfg(test)]
mod tests;
