//! Which part number holds which bytes while a file of unknown length is uploaded as it is written.
//!
//! 1. Part numbers are few (10,000) and files may grow to terabytes: cells double in size every [`STEP`] numbers.
//! 2. A part is sent from memory, so a cell never exceeds the cap that the memory budget sets; beyond the last number
//!    the grid simply ends, and the writer commits what there is and begins anew behind it.
//! 3. A changed file has unchanged bytes before the place where writing began. They become copied parts, planned at
//!    the commit; the numbers before the first cell are kept for them: as many as they need if all of them change too,
//!    unless that is more than half of all. Before such a file has too many changes for its numbers it is committed
//!    ([`super::room`]).
//! 4. A file that ends within the grid always has numbers for what is behind the grid's beginning, whichever cells are
//!    sent: for each stretch between them as many as it has cells. So of a longer file none is sent ahead.

use crate::base::limits::{GIB, MIB, UploadLimits};
use crate::base::object::ByteRange;

/// Cells double in size after this many numbers.
const STEP: u32 = 1_000;
/// The longest unchanged beginning that keeps one number for each cell it would have had.
const UNIFORM_PREFIX_BYTES: u64 = 32 * GIB;

/// A fixed mapping of part numbers to ranges of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartGrid {
    origin_bytes: u64,
    first_number: u32,
    cell_bytes: u64,
    max_cell_bytes: u64,
    max_parts: u32,
}

impl PartGrid {
    /// A grid for a file that is written from `start_bytes` on (0 for a new file). `cell_bytes` is the size of the first
    /// cells, `max_cell_bytes` the limit that the memory budget sets.
    #[must_use]
    pub fn new(start_bytes: u64, cell_bytes: u64, max_cell_bytes: u64, limits: &UploadLimits) -> Self {
        let origin_bytes = if start_bytes < cell_bytes {
            0
        } else {
            start_bytes.next_multiple_of(MIB)
        };
        let reserved = origin_bytes.min(UNIFORM_PREFIX_BYTES).div_ceil(cell_bytes);
        let reserved = reserved.max(origin_bytes.div_ceil(max_cell_bytes.max(cell_bytes)));
        // Half of all numbers at most: the other half is for what is written.
        let reserved = reserved.min(u64::from(limits.max_parts / 2)) as u32;
        Self {
            origin_bytes,
            first_number: reserved + 1,
            cell_bytes,
            max_cell_bytes: max_cell_bytes.max(cell_bytes),
            max_parts: limits.max_parts,
        }
    }

    /// The bytes that part `number` holds; `None` when the grid has no such cell.
    #[must_use]
    pub fn cell(&self, number: u32) -> Option<ByteRange> {
        if number < self.first_number || number > self.max_parts {
            return None;
        }
        let mut start = self.origin_bytes;
        let mut left = number - self.first_number;
        let mut size = self.cell_bytes;
        while left >= STEP {
            start += u64::from(STEP) * size;
            left -= STEP;
            size = (size * 2).min(self.max_cell_bytes);
        }
        start += u64::from(left) * size;
        Some(ByteRange::new(start, start + size))
    }

    /// The number of the cell that holds the byte at `position`; `None` before the first cell and behind the last.
    #[must_use]
    pub fn number_at(&self, position: u64) -> Option<u32> {
        let mut rest = position.checked_sub(self.origin_bytes)?;
        let mut number = self.first_number;
        let mut size = self.cell_bytes;
        while rest >= u64::from(STEP) * size {
            rest -= u64::from(STEP) * size;
            number = number.checked_add(STEP)?;
            size = (size * 2).min(self.max_cell_bytes);
        }
        let number = u64::from(number) + rest / size;
        (number <= u64::from(self.max_parts)).then_some(number as u32)
    }

    /// Where the first cell begins.
    #[must_use]
    pub fn origin_bytes(&self) -> u64 {
        self.origin_bytes
    }

    /// The first cell's number.
    #[must_use]
    pub fn first_number(&self) -> u32 {
        self.first_number
    }

    /// Where the last cell ends: a longer file needs another upload.
    #[must_use]
    pub fn end_bytes(&self) -> u64 {
        self.cell(self.max_parts)
            .map_or(self.origin_bytes, |cell| cell.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::TIB;
    use proptest::prelude::*;

    #[test]
    fn ten_thousand_parts_reach_the_largest_object_when_memory_allows() {
        let grid = PartGrid::new(0, 8 * MIB, 2 * GIB, &UploadLimits::S3);
        assert!(grid.end_bytes() >= 5 * TIB);
        assert_eq!(grid.cell(1), Some(ByteRange::new(0, 8 * MIB)));
        assert_eq!(grid.cell(10_001), None);
    }

    proptest! {
        #[test]
        fn cells_touch_each_other_and_are_found_by_their_bytes(
            start in prop_oneof![Just(0u64), 0..(200 * GIB)],
            number in 1..10_000u32,
            inside in 0..(8 * MIB),
            cap in 3..10u32,
        ) {
            let grid = PartGrid::new(start, 8 * MIB, MIB << cap, &UploadLimits::S3);
            let number = number.max(grid.first_number());
            let cell = grid.cell(number).expect("within the grid");
            prop_assert_eq!(grid.number_at(cell.start + inside), Some(number));
            prop_assert_eq!(grid.number_at(cell.end - 1), Some(number));
            prop_assert!(cell.len() <= MIB << cap);
            if let Some(next) = grid.cell(number + 1) {
                prop_assert_eq!(next.start, cell.end);
            }
            // The bytes before the first cell are a lawful part or there are none, and numbers are kept for them.
            let origin = grid.origin_bytes();
            prop_assert!(origin == 0 || (origin >= UploadLimits::S3.min_part_bytes && grid.first_number() > 1));
            // And as many as they need when all of them are sent.
            let kept = u64::from(grid.first_number() - 1);
            prop_assert!(kept * 8 * MIB >= origin.min(UNIFORM_PREFIX_BYTES));
            prop_assert!(kept == 5_000 || kept * (8 * MIB).max(MIB << cap) >= origin);
        }
    }
}
