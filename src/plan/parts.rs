//! The cheapest correct upload of a file: which bytes are sent, which the store copies from versions it has.
//!
//! Difficulties, and who solves each:
//! 1. Parts have a shortest and a longest length, and are at most 10,000: [`super::gap`].
//! 2. Some parts were sent while the file was being written and have fixed numbers: each gap between them is planned
//!    by itself with the numbers that lie between ([`plan_upload`]).
//! 3. A file must not become one that no upload holds: its writer looks ahead ([`super::room`]).
//! 4. Small files: one PUT beats several requests; but not where a copy saves more bytes than that ([`REQUESTS_WORTH_BYTES`]).

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extents::{SourceAt, SourceId};
use crate::base::limits::{GIB, MIB, UploadLimits};
use crate::base::object::ByteRange;
use crate::plan::copies::{COPY_PART_BYTES, ranges_of_copy};
use crate::plan::gap::{Piece, plan_gap};
use std::collections::BTreeMap;

/// A multipart upload is several requests more than a PUT: it must save this much moved data to be worth it.
const REQUESTS_WORTH_BYTES: u64 = 4 * MIB;

/// A run of the file's bytes, as far as an upload cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub range: ByteRange,
    /// The object version whose bytes these are; `None` for bytes that only this machine has, and zeroes.
    pub source: Option<SourceAt>,
    /// Zeroes: to send them takes no memory.
    pub is_zero: bool,
}

/// The size in bytes of each version that bytes come from.
pub type SourceSizes = BTreeMap<SourceId, u64>;

/// A part that was sent already, and stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentPart {
    pub number: u32,
    pub range: ByteRange,
}

/// What bounds an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadPolicy {
    pub limits: UploadLimits,
    /// The usual length of a part that is sent.
    pub part_bytes: u64,
    /// The longest part that is sent: its body is in memory.
    pub max_sent_part_bytes: u64,
    /// The usual length of a copied part: short enough for the store to answer soon and for several to run at once.
    pub copy_part_bytes: u64,
    /// Files up to this size may go in one PUT: the body is in memory.
    pub max_put_bytes: u64,
}

impl UploadPolicy {
    /// Sizes of uploads that fit into a memory budget: a part is at most a quarter of it.
    #[must_use]
    pub fn for_budget(budget_bytes: u64, limits: UploadLimits) -> Self {
        let quarter = budget_bytes / 4 / MIB * MIB;
        let part_bytes = (8 * MIB).min(quarter).max(limits.min_part_bytes);
        Self {
            limits,
            part_bytes,
            max_sent_part_bytes: quarter.clamp(part_bytes, 4 * GIB),
            copy_part_bytes: COPY_PART_BYTES,
            max_put_bytes: (16 * MIB).min(quarter).max(limits.min_part_bytes),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartContent {
    /// Sent from here.
    Send,
    /// Copied by the store from this range of an object version.
    Copy(SourceId, ByteRange),
    /// In the upload already.
    Sent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedPart {
    pub number: u32,
    pub range: ByteRange,
    pub content: PartContent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The content is that of this version.
    Copy(SourceId),
    /// One PUT of everything.
    Put,
    Multipart(Vec<PlannedPart>),
}

/// Plans the upload of a file of which `runs` are all bytes, in order and without holes.
///
/// `sizes` has the size in bytes of each version that a run names, and of the base version if there is one. `sent` are parts
/// to keep, in order; each is at least as long as the shortest part allowed.
///
/// # Errors
/// `TooLarge` when no upload within the limits holds the file, or not with the parts in `sent` kept.
pub fn plan_upload(
    runs: &[Run],
    sizes: &SourceSizes,
    sent: &[SentPart],
    policy: &UploadPolicy,
) -> Result<Plan> {
    let runs = joined(runs);
    let size_bytes = runs.last().map_or(0, |run| run.range.end);
    if size_bytes > policy.limits.max_object_bytes {
        return Err(too_large(size_bytes));
    }
    if let Some(source) = whole_source(&runs, sizes).filter(|_| sent.is_empty()) {
        return Ok(Plan::Copy(source));
    }
    if size_bytes == 0 {
        return Ok(Plan::Put);
    }
    let all = runs;
    let runs = as_copyable(&all, sizes, &policy.limits);
    let copies = runs.iter().any(|run| run.source.is_some());
    if sent.is_empty() && size_bytes <= policy.max_put_bytes && !copies {
        return Ok(Plan::Put);
    }
    let mut parts = Vec::new();
    let mut planned_to = 0;
    let mut last_number = 0;
    for part in sent {
        let numbers = (part.number.saturating_sub(1)).saturating_sub(last_number);
        let gap = ByteRange::new(planned_to, part.range.start);
        number_parts(
            plan_gap(&runs, gap, false, numbers, policy)?,
            last_number,
            &mut parts,
        );
        parts.push(PlannedPart {
            number: part.number,
            range: part.range,
            content: PartContent::Sent,
        });
        planned_to = part.range.end;
        last_number = part.number;
    }
    let numbers = policy.limits.max_parts - last_number;
    let gap = ByteRange::new(planned_to, size_bytes.max(planned_to));
    number_parts(
        plan_gap(&runs, gap, true, numbers, policy)?,
        last_number,
        &mut parts,
    );
    if sent.is_empty() && size_bytes <= policy.max_put_bytes && put_is_cheaper(&all, &parts) {
        return Ok(Plan::Put);
    }
    Ok(Plan::Multipart(in_two_parts_at_least(parts, &policy.limits)))
}

/// `runs` as gaps are planned with them.
pub(super) fn to_plan(runs: &[Run], sizes: &SourceSizes, limits: &UploadLimits) -> Vec<Run> {
    as_copyable(&joined(runs), sizes, limits)
}

/// The version whose content these runs are, from its beginning to its end.
fn whole_source(runs: &[Run], sizes: &SourceSizes) -> Option<SourceId> {
    let (at, size_bytes) = match runs {
        [] => (SourceAt::base(0), 0),
        [only] => (only.source?, only.range.end),
        _ => return None,
    };
    (at.offset == 0 && sizes.get(&at.source) == Some(&size_bytes)).then_some(at.source)
}

/// The runs with a source only where a range of it can be copied.
fn as_copyable(runs: &[Run], sizes: &SourceSizes, limits: &UploadLimits) -> Vec<Run> {
    let is_copyable = |at: &SourceAt| {
        sizes
            .get(&at.source)
            .is_some_and(|bytes| *bytes > limits.min_copy_source_bytes)
    };
    runs.iter()
        .map(|run| Run {
            source: run.source.filter(is_copyable),
            ..*run
        })
        .collect()
}

/// The parts that copy a whole version of `size_bytes`: for what is not copied at once.
#[must_use]
pub fn plan_whole_copy(source: SourceId, size_bytes: u64, limits: &UploadLimits) -> Vec<PlannedPart> {
    (1..)
        .zip(ranges_of_copy(size_bytes, limits))
        .map(|(number, range)| PlannedPart {
            number,
            range,
            content: PartContent::Copy(source, range),
        })
        .collect()
}

pub(super) fn too_large(size_bytes: u64) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!("no upload within the limits holds {size_bytes} bytes"),
    )
}

/// Runs that continue each other, joined; empty ones dropped.
fn joined(runs: &[Run]) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs.iter().filter(|run| !run.range.is_empty()) {
        match joined.last_mut() {
            Some(last)
                if last.range.end == run.range.start
                    && last.is_zero == run.is_zero
                    && last.source.map(|at| at.advanced(last.range.len())) == run.source =>
            {
                last.range.end = run.range.end;
            }
            _ => joined.push(*run),
        }
    }
    joined
}

fn number_parts(pieces: Vec<Piece>, last_number: u32, parts: &mut Vec<PlannedPart>) {
    for (number, piece) in (last_number + 1..).zip(pieces) {
        parts.push(PlannedPart {
            number,
            range: piece.range,
            content: piece.content,
        });
    }
}

/// Regular files do not become uploads of one part: their ETag would be the mark of a special file.
fn in_two_parts_at_least(mut parts: Vec<PlannedPart>, limits: &UploadLimits) -> Vec<PlannedPart> {
    if let [only] = parts[..]
        && only.range.len() >= 2 * limits.min_part_bytes
    {
        let middle = only.range.start + only.range.len() / 2;
        let (mut first, mut second) = (
            only,
            PlannedPart {
                number: only.number + 1,
                ..only
            },
        );
        first.range.end = middle;
        second.range.start = middle;
        if let PartContent::Copy(source, from) = only.content {
            let cut = from.start + first.range.len();
            first.content = PartContent::Copy(source, ByteRange::new(from.start, cut));
            second.content = PartContent::Copy(source, ByteRange::new(cut, from.end));
        }
        parts = vec![first, second];
    }
    parts
}

/// Compares the bytes that cross the network: unchanged bytes that are sent are fetched before.
fn put_is_cheaper(runs: &[Run], parts: &[PlannedPart]) -> bool {
    let put: u64 = runs.iter().map(|run| moved_bytes(run, run.range)).sum();
    let multipart: u64 = parts
        .iter()
        .filter(|part| part.content == PartContent::Send)
        .map(|part| runs.iter().map(|run| moved_bytes(run, part.range)).sum::<u64>())
        .sum();
    put <= multipart + REQUESTS_WORTH_BYTES
}

fn moved_bytes(run: &Run, within: ByteRange) -> u64 {
    let len = run
        .range
        .end
        .min(within.end)
        .saturating_sub(run.range.start.max(within.start));
    if run.source.is_some() { 2 * len } else { len }
}

#[cfg(test)]
pub(in crate::plan) mod tests;
