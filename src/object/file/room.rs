//! A file is committed before it has so many changes that no upload holds it: [`crate::plan::room`] counts.
//!
//! 1. Only files of hundreds of gigabytes that are changed at thousands of places, or larger ones, come to that.
//! 2. Cells are sent ahead only while the file ends within their grid; a change that would end behind it waits for a commit.
//! 3. After its commit a change is made in any case: others may have made theirs meanwhile, but not thousands.

use super::state::State;
use super::upload::Upload;
use crate::base::extents::{Backing, Extent, ExtentMap};
use crate::base::object::ByteRange;
use crate::plan::grid::PartGrid;
use crate::plan::parts::{Run, UploadPolicy};
use crate::plan::room::Outline;

/// The runs of a file, as far as an upload cares.
pub(super) fn runs_of(map: &ExtentMap) -> Vec<Run> {
    let run = |extent: Extent| Run {
        range: extent.range,
        source: match extent.backing {
            Backing::Source(at) => Some(at),
            _ => None,
        },
        is_zero: extent.backing == Backing::Zero,
    };
    map.iter().map(run).collect()
}

impl State {
    /// True when the file can be uploaded after `range` got other bytes, in so many runs of one kind: then that is counted. False:
    /// it is to be committed before.
    pub fn has_room_for(&mut self, range: ByteRange, runs: usize, policy: &UploadPolicy) -> bool {
        if self.is_unlinked {
            // Nothing more of it is sent.
            return true;
        }
        if self.has_outgrown_upload(range.end) {
            return false;
        }
        if self.is_one_shot {
            return true;
        }
        let mut room = std::mem::take(&mut self.room);
        let has_room = room.take(range, runs, &self.outline(policy), || {
            (runs_of(&self.map), self.source_sizes())
        });
        self.room = room;
        has_room || self.is_one_version()
    }

    /// The grid, if it has a cell for all that is behind its beginning: else what is behind its end might be left without
    /// numbers.
    pub fn grid_in_use(&self) -> Option<&PartGrid> {
        self.grid
            .as_ref()
            .filter(|grid| self.map.size_bytes() <= grid.end_bytes())
    }

    /// True when parts have fixed numbers.
    pub fn has_cells(&self) -> bool {
        self.upload.as_ref().is_some_and(Upload::has_cells)
    }

    /// True when the grid of the parts that the upload has does not reach so far.
    pub fn has_outgrown_upload(&self, end: u64) -> bool {
        self.grid.as_ref().is_some_and(|grid| end > grid.end_bytes()) && self.has_cells()
    }

    fn outline<'a>(&'a self, policy: &'a UploadPolicy) -> Outline<'a> {
        Outline {
            size_bytes: self.map.size_bytes(),
            grid: self.grid.as_ref(),
            has_cells: self.has_cells(),
            policy,
        }
    }

    /// A file of one version needs no commit to become one.
    fn is_one_version(&self) -> bool {
        let source = self.source.as_ref();
        let version_bytes = source.map_or(0, |source| source.reader.version().size_bytes);
        self.map.is_source(version_bytes)
    }
}
