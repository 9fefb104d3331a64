use super::*;
use crate::base::extents::{Backing, ChunkId, ExtentMap, SourceAt, SourceId};
use crate::base::limits::{GIB, MIB, UploadLimits};
use crate::plan::parts::tests::check_lawful;
use crate::plan::parts::{PartContent, Plan, SentPart, plan_upload};
use crate::plan::testing::repeatable;
use proptest::prelude::*;
use std::collections::BTreeSet;

const OTHER: SourceId = SourceId(1);

/// A file that is changed as [`crate::object::file`] changes it: what decides is the real thing, and nothing has bytes.
struct Changing {
    policy: UploadPolicy,
    map: ExtentMap,
    base_bytes: u64,
    grid: Option<PartGrid>,
    /// Only the upload has these.
    cells: BTreeSet<u32>,
    room: Room,
    commits: u32,
}

impl Changing {
    fn new(policy: UploadPolicy, base_bytes: u64) -> Self {
        Self {
            policy,
            map: ExtentMap::of_source(base_bytes),
            base_bytes,
            grid: None,
            cells: BTreeSet::new(),
            room: Room::default(),
            commits: 0,
        }
    }

    fn runs(&self) -> Vec<Run> {
        let run = |extent: crate::base::extents::Extent| Run {
            range: extent.range,
            source: match extent.backing {
                Backing::Source(at) => Some(at),
                _ => None,
            },
            is_zero: extent.backing == Backing::Zero,
        };
        self.map.iter().map(run).collect()
    }

    fn sizes(&self) -> SourceSizes {
        SourceSizes::from([(SourceId::BASE, self.base_bytes), (OTHER, 100 * GIB)])
    }

    fn plan(&self) -> Result<Plan, TestCaseError> {
        let sent: Vec<SentPart> = self
            .cells
            .iter()
            .filter_map(|number| Some((*number, self.grid?.cell(*number)?)))
            .map(|(number, range)| SentPart { number, range })
            .collect();
        let planned = plan_upload(&self.runs(), &self.sizes(), &sent, &self.policy);
        planned.map_err(|error| {
            let (runs, cells) = (self.runs().len(), sent.len());
            TestCaseError::fail(format!("{error}: {cells} cells of {:?}, {runs} runs", self.grid))
        })
    }

    fn check(&self) -> Result<(), TestCaseError> {
        match self.plan()? {
            Plan::Multipart(parts) => check_lawful(&self.runs(), &parts, &self.policy),
            Plan::Copy(_) | Plan::Put => Ok(()),
        }
    }

    fn commit(&mut self) -> Result<(), TestCaseError> {
        self.plan()?;
        self.base_bytes = self.map.size_bytes();
        self.map = ExtentMap::of_source(self.base_bytes);
        self.grid = None;
        self.cells.clear();
        self.room.forget();
        self.commits += 1;
        Ok(())
    }

    /// What it sent stays in the upload, where it is as a cell.
    fn fail_to_commit(&mut self) -> Result<(), TestCaseError> {
        let Plan::Multipart(parts) = self.plan()? else {
            return Ok(());
        };
        let sent = parts.iter().filter(|part| part.content == PartContent::Send);
        for part in sent {
            if self.grid_in_use().and_then(|grid| grid.cell(part.number)) == Some(part.range) {
                self.sent(part.number, part.range);
            }
        }
        self.room.forget();
        Ok(())
    }

    /// The upload has this cell, and memory does not any more.
    fn sent(&mut self, number: u32, cell: ByteRange) {
        self.cells.insert(number);
        if self.is_in_memory(cell) {
            self.map.remap(cell, |extent| {
                let offset = extent.range.start - cell.start;
                Some(Backing::Part { number, offset })
            });
        }
    }

    fn is_in_memory(&self, range: ByteRange) -> bool {
        let mut extents = self.map.range(range);
        extents.all(|extent| matches!(extent.backing, Backing::Memory { .. }))
    }

    fn grid_in_use(&self) -> Option<PartGrid> {
        self.grid.filter(|grid| self.map.size_bytes() <= grid.end_bytes())
    }

    fn forget_cells(&mut self, changed: ByteRange) {
        let grid = self.grid;
        self.cells.retain(|number| {
            let cell = grid.and_then(|grid| grid.cell(*number));
            cell.is_some_and(|cell| cell.end <= changed.start || changed.end <= cell.start)
        });
    }

    /// Commits where there is no room for the change, or no cells.
    fn make_room(&mut self, range: ByteRange) -> Result<(), TestCaseError> {
        let outgrows = self.grid.is_some_and(|grid| range.end > grid.end_bytes());
        if outgrows && !self.cells.is_empty() {
            return self.commit();
        }
        let mut room = std::mem::take(&mut self.room);
        let file = Outline {
            size_bytes: self.map.size_bytes(),
            grid: self.grid.as_ref(),
            has_cells: !self.cells.is_empty(),
            policy: &self.policy,
        };
        let has_room = room.take(range, 1, &file, || (self.runs(), self.sizes()));
        self.room = room;
        if has_room || self.is_one_version() {
            return Ok(());
        }
        self.commit()
    }

    fn is_one_version(&self) -> bool {
        self.map.is_source(self.base_bytes)
    }

    fn is_in_parts(&self, range: ByteRange) -> bool {
        let mut extents = self.map.range(range);
        extents.any(|extent| matches!(extent.backing, Backing::Part { .. }))
    }

    fn write(&mut self, offset: u64, len: u64) -> Result<(), TestCaseError> {
        let end = (offset + len).min(self.policy.limits.max_object_bytes);
        if offset >= end {
            return Ok(());
        }
        let range = ByteRange::new(offset, end);
        if self.is_in_parts(range) {
            self.commit()?;
        }
        self.make_room(range)?;
        let grows_from = self.map.size_bytes();
        let memory = Backing::Memory {
            chunk: ChunkId(offset / MIB),
            offset: offset % MIB,
        };
        self.map.insert(range, memory, 1);
        if self.grid.is_none() {
            let policy = &self.policy;
            self.grid = Some(PartGrid::new(
                offset.min(grows_from),
                policy.part_bytes,
                policy.max_sent_part_bytes,
                &policy.limits,
            ));
            self.room.forget();
        }
        self.forget_cells(range);
        self.send_cells(range);
        Ok(())
    }

    fn send_cells(&mut self, range: ByteRange) {
        let Some(grid) = self.grid_in_use() else { return };
        let first = grid.number_at(range.start.saturating_sub(1));
        let Some(last) = grid.number_at(range.end - 1) else {
            return;
        };
        for number in first.unwrap_or(grid.first_number()).max(grid.first_number() + 1)..=last {
            let Some(cell) = grid.cell(number) else { continue };
            if cell.end < self.map.size_bytes() && self.is_in_memory(cell) {
                self.sent(number, cell);
            }
        }
    }

    /// Zeroes, or a range of another object.
    fn place(&mut self, range: ByteRange, backing: Backing) -> Result<(), TestCaseError> {
        let end = range.end.min(self.policy.limits.max_object_bytes);
        if range.start >= end {
            return Ok(());
        }
        let range = ByteRange::new(range.start, end);
        if self.is_in_parts(range) {
            self.commit()?;
        }
        self.make_room(range)?;
        self.map.insert(range, backing, 1);
        self.forget_cells(range);
        Ok(())
    }

    fn truncate(&mut self, size_bytes: u64) -> Result<(), TestCaseError> {
        let size_bytes = size_bytes.min(self.policy.limits.max_object_bytes);
        if size_bytes > self.map.size_bytes() {
            self.make_room(ByteRange::new(self.map.size_bytes(), size_bytes))?;
        } else {
            let cut = size_bytes.checked_sub(1).and_then(|last| self.map.at(last));
            if cut
                .is_some_and(|cut| matches!(cut.backing, Backing::Part { .. }) && cut.range.end > size_bytes)
            {
                self.commit()?;
            }
            self.forget_cells(ByteRange::new(size_bytes, u64::MAX));
        }
        if size_bytes < self.map.size_bytes() {
            self.room.forget();
        }
        self.map.set_size(size_bytes, 1);
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Writes at places all over the file.
    Scatter {
        writes: u32,
        seed: u64,
    },
    /// Writes one after the other, from a place on.
    Stream {
        from: f64,
        megabytes: u64,
    },
    Append {
        megabytes: u64,
    },
    /// A write behind a hole.
    Beyond {
        by: f64,
    },
    Zero {
        from: f64,
        megabytes: u64,
    },
    Copy {
        from: f64,
        megabytes: u64,
    },
    Truncate {
        to: f64,
    },
    /// A commit that fails after it has sent all parts.
    Fail,
}

fn any_step() -> impl Strategy<Value = Step> {
    let place = 0.0..1.0f64;
    prop_oneof![
        2 => (1..60u32, any::<u64>()).prop_map(|(writes, seed)| Step::Scatter { writes, seed }),
        1 => (place.clone(), 1..80u64).prop_map(|(from, megabytes)| Step::Stream { from, megabytes }),
        2 => (1..120u64).prop_map(|megabytes| Step::Append { megabytes }),
        1 => (0.0..0.5f64).prop_map(|by| Step::Beyond { by }),
        1 => (place.clone(), 1..200u64).prop_map(|(from, megabytes)| Step::Zero { from, megabytes }),
        1 => (place.clone(), 1..200u64).prop_map(|(from, megabytes)| Step::Copy { from, megabytes }),
        1 => place.prop_map(|to| Step::Truncate { to }),
        1 => Just(Step::Fail),
    ]
}

/// Limits of S3's proportions, with so few parts that files of hundreds of megabytes meet them.
fn any_policy() -> impl Strategy<Value = UploadPolicy> {
    (40..90u32, 8..13u64, 24..64u64, 2..9u64).prop_map(|(max_parts, max_sent, max_part, quarter)| {
        let longest_bytes = (max_part - 5) * MIB;
        UploadPolicy {
            limits: UploadLimits {
                min_part_bytes: 5 * MIB,
                max_part_bytes: max_part * MIB,
                max_copy_bytes: max_part * MIB,
                max_parts,
                max_object_bytes: u64::from(max_parts) * longest_bytes / 4 * quarter / 8,
                min_copy_source_bytes: 5 * MIB,
            },
            part_bytes: 8 * MIB,
            max_sent_part_bytes: max_sent.min(max_part - 6) * MIB,
            copy_part_bytes: 20 * MIB,
            max_put_bytes: 16 * MIB,
        }
    })
}

fn at(part: f64, of_bytes: u64) -> u64 {
    (part * of_bytes as f64) as u64
}

fn take(file: &mut Changing, step: &Step) -> Result<(), TestCaseError> {
    let size_bytes = file.map.size_bytes();
    let place = |from, megabytes| {
        let start = at(from, size_bytes);
        ByteRange::new(start, start + megabytes * MIB)
    };
    match *step {
        Step::Scatter { writes, seed } => {
            let mut random = seed;
            for _ in 0..writes {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                file.write((random >> 16) % size_bytes.max(1), 1 + random % MIB)?;
                file.plan()?;
            }
        }
        Step::Stream { from, megabytes } => {
            for megabyte in 0..megabytes {
                file.write(place(from, 0).start + megabyte * MIB, MIB)?;
            }
        }
        Step::Append { megabytes } => {
            for _ in 0..megabytes {
                file.write(file.map.size_bytes(), MIB)?;
            }
        }
        Step::Beyond { by } => file.write(size_bytes + at(by, file.policy.limits.max_object_bytes), MIB)?,
        Step::Zero { from, megabytes } => file.place(place(from, megabytes), Backing::Zero)?,
        Step::Copy { from, megabytes } => {
            let source = SourceAt {
                source: OTHER,
                offset: GIB,
            };
            file.place(place(from, megabytes), Backing::Source(source))?;
        }
        Step::Truncate { to } => file.truncate(at(to, size_bytes * 2))?,
        Step::Fail => file.fail_to_commit()?,
    }
    file.check()
}

proptest! {
    #![proptest_config(repeatable())]

    /// Each step leaves a file that an upload holds.
    #[test]
    fn no_change_makes_a_file_that_cannot_be_committed(
        policy in any_policy(),
        base in 0.0..1.0f64,
        steps in proptest::collection::vec(any_step(), 1..12),
    ) {
        let mut file = Changing::new(policy, at(base, policy.limits.max_object_bytes));
        for step in &steps {
            take(&mut file, step)?;
        }
    }
}

/// At the usual memory, with the end of a large file streamed, and then what is before it changed all over.
fn changed_all_over(base_bytes: u64, changes: u64) -> Changing {
    let policy = UploadPolicy {
        limits: UploadLimits::S3,
        part_bytes: 8 * MIB,
        max_sent_part_bytes: 64 * MIB,
        copy_part_bytes: 256 * MIB,
        max_put_bytes: 16 * MIB,
    };
    let mut file = Changing::new(policy, base_bytes);
    for megabyte in 0..100 {
        file.write(base_bytes + megabyte * MIB, MIB).expect("a plan");
    }
    assert!(!file.cells.is_empty(), "parts that only the upload has");
    for change in 0..changes {
        file.write(base_bytes / changes * change, 1).expect("a plan");
    }
    file.plan().expect("a plan");
    file
}

#[test]
fn a_large_file_can_be_changed_at_any_number_of_places_after_its_end_was_streamed() {
    let file = changed_all_over(700 * GIB, 20_000);
    assert!((1..20).contains(&file.commits), "{} commits", file.commits);
}

/// The numbers before what is streamed hold all that is before it, however much of it changes.
#[test]
fn a_file_of_some_hundred_gigabytes_needs_no_early_commit() {
    assert_eq!(changed_all_over(290 * GIB, 20_000).commits, 0);
}

/// A log of some megabytes, for one.
#[test]
fn a_file_that_is_appended_to_needs_no_early_commit() {
    for base_bytes in [0, 10 * MIB + 1, 40 * GIB + 1] {
        let mut file = changed_all_over(base_bytes.max(1), 1);
        for _ in 0..1_000 {
            file.write(file.map.size_bytes(), 10).expect("a plan");
            file.check().expect("lawful");
        }
        assert_eq!(file.commits, 0);
    }
}

#[test]
fn a_sparse_file_of_the_largest_size_is_lawful() {
    let mut file = changed_all_over(1, 1);
    file.truncate(5 << 40).expect("a plan");
    file.check().expect("lawful");
    file.write((5 << 40) - 1, 1).expect("a plan");
    file.check().expect("lawful");
}
