//! One gap of an upload in parts: from its beginning to the first part that was sent already, between two such, or behind the
//! last one.
//!
//! 1. A part that is not the last has a minimum length (5 MiB on S3), and so has a copied one: short changed runs grow
//!    over their unchanged neighbours ([`grow_short_runs`]); unchanged runs too short to copy are sent.
//! 2. Part numbers are few: [`Scale`] makes copies longer first (free), then parts longer, then those of nothing but zeroes
//!    (which take no memory), and only then sends unchanged bytes to save parts.

use crate::base::error::Result;
use crate::base::limits::UploadLimits;
use crate::base::object::ByteRange;
use crate::plan::parts::{PartContent, Run, UploadPolicy, too_large};

/// A part without its number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub range: ByteRange,
    pub content: PartContent,
}

/// How long parts are made, and how short an unchanged run may be to be worth a part of its own.
#[derive(Clone, Copy)]
#[allow(clippy::struct_field_names)] // Units belong into names.
struct Scale {
    part_bytes: u64,
    copy_part_bytes: u64,
    /// Of parts of zeroes, which take no memory; `None`: zeroes are sent with what is beside them.
    zero_part_bytes: Option<u64>,
    /// Shorter runs that could be parts of their own are sent with their neighbours.
    min_free_run_bytes: u64,
}

impl Scale {
    fn first(policy: &UploadPolicy) -> Self {
        Self {
            part_bytes: policy.part_bytes,
            copy_part_bytes: policy.copy_part_bytes.min(longest_free_bytes(&policy.limits)),
            zero_part_bytes: None,
            min_free_run_bytes: policy.limits.min_part_bytes,
        }
    }

    /// The last step at which nothing is sent but what must be.
    fn last_free(zeroes_apart: bool, policy: &UploadPolicy) -> Self {
        let longest_bytes = longest_free_bytes(&policy.limits);
        Self {
            part_bytes: policy.max_sent_part_bytes,
            copy_part_bytes: longest_bytes,
            zero_part_bytes: zeroes_apart.then_some(longest_bytes),
            min_free_run_bytes: policy.limits.min_part_bytes,
        }
    }

    /// The next step towards fewer parts; `None` when there is none.
    fn coarser(self, gap_bytes: u64, policy: &UploadPolicy) -> Option<Self> {
        let longest_bytes = longest_free_bytes(&policy.limits);
        let mut next = self;
        if self.copy_part_bytes < longest_bytes.min(gap_bytes) {
            next.copy_part_bytes = (self.copy_part_bytes * 2).min(longest_bytes);
        } else if self.part_bytes < policy.max_sent_part_bytes.min(gap_bytes) {
            next.part_bytes = (self.part_bytes * 2).min(policy.max_sent_part_bytes);
        } else if self
            .zero_part_bytes
            .is_none_or(|bytes| bytes < longest_bytes.min(gap_bytes))
        {
            let zero_part_bytes = self.zero_part_bytes.unwrap_or(self.part_bytes) * 2;
            next.zero_part_bytes = Some(zero_part_bytes.min(longest_bytes));
        } else if self.min_free_run_bytes <= gap_bytes {
            next.min_free_run_bytes = self.min_free_run_bytes * 2;
        } else {
            return None;
        }
        Some(next)
    }
}

/// Shorter than a part may be, as a copy takes a rest that is too short for a part of its own along.
pub(super) fn longest_free_bytes(limits: &UploadLimits) -> u64 {
    (limits.max_part_bytes - limits.min_part_bytes).max(limits.min_part_bytes)
}

/// Plans `gap`, of which `runs` has all bytes, in at most `numbers` parts.
///
/// # Errors
/// `TooLarge` when so few parts do not hold it.
pub(super) fn plan_gap(
    runs: &[Run],
    gap: ByteRange,
    is_last: bool,
    numbers: u32,
    policy: &UploadPolicy,
) -> Result<Vec<Piece>> {
    if gap.is_empty() {
        return Ok(Vec::new());
    }
    let runs: Vec<Run> = runs.iter().filter_map(|run| clipped(run, gap)).collect();
    let mut scale = Scale::first(policy);
    loop {
        let pieces = pieces_at(&runs, gap, is_last, &scale, policy);
        if let Some(pieces) = pieces.filter(|pieces| pieces.len() as u64 <= u64::from(numbers)) {
            return Ok(pieces);
        }
        scale = scale
            .coarser(gap.len(), policy)
            .ok_or_else(|| too_large(gap.end))?;
    }
}

/// How many parts `gap` takes at least when nothing is sent but what must be, and zeroes are parts of their own or sent with
/// what is beside them; `None` where that cannot be.
pub(super) fn fewest_parts(
    runs: &[Run],
    gap: ByteRange,
    is_last: bool,
    zeroes_apart: bool,
    policy: &UploadPolicy,
) -> Option<u64> {
    let runs: Vec<Run> = runs.iter().filter_map(|run| clipped(run, gap)).collect();
    let scale = Scale::last_free(zeroes_apart, policy);
    pieces_at(&runs, gap, is_last, &scale, policy).map(|pieces| pieces.len() as u64)
}

/// `None` where a piece would be too short for a part.
fn pieces_at(
    runs: &[Run],
    gap: ByteRange,
    is_last: bool,
    scale: &Scale,
    policy: &UploadPolicy,
) -> Option<Vec<Piece>> {
    let short_end = if is_last { gap.end } else { u64::MAX };
    let mut runs = runs.to_vec();
    for run in &mut runs {
        run.is_zero &= scale.zero_part_bytes.is_some();
    }
    let mut segments = segments_of(&runs, scale.min_free_run_bytes, short_end, &policy.limits);
    grow_short_runs(&mut segments, short_end, &policy.limits);
    let pieces = pieces_of(&segments, scale, short_end, &policy.limits);
    let is_lawful =
        |piece: &Piece| piece.range.end == short_end || piece.range.len() >= policy.limits.min_part_bytes;
    pieces.iter().all(is_lawful).then_some(pieces)
}

pub(super) fn clipped(run: &Run, within: ByteRange) -> Option<Run> {
    let start = run.range.start.max(within.start);
    let end = run.range.end.min(within.end);
    (start < end).then(|| Run {
        range: ByteRange::new(start, end),
        source: run.source.map(|at| at.advanced(start - run.range.start)),
        is_zero: run.is_zero,
    })
}

/// A stretch that takes memory ([`is_free`] is false) or not.
type Segment = Run;

/// True for what is copied, or is zeroes.
fn is_free(segment: &Segment) -> bool {
    segment.source.is_some() || segment.is_zero
}

/// Joins what is to be sent. An unchanged run is copied if it is at least `min_free_bytes` long; at the very end a shorter one
/// is too, if what stands before it needs no growing. Zeroes of that length stay by themselves.
fn segments_of(runs: &[Run], min_free_bytes: u64, short_end: u64, limits: &UploadLimits) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for run in runs {
        let before_is_long = segments
            .last()
            .is_none_or(|before| before.range.len() >= limits.min_part_bytes);
        let is_at_end = min_free_bytes == limits.min_part_bytes && run.range.end == short_end;
        let stays = is_free(run) && (run.range.len() >= min_free_bytes || (is_at_end && before_is_long));
        match segments.last_mut() {
            Some(last) if !stays && !is_free(last) => last.range.end = run.range.end,
            _ if stays => segments.push(*run),
            _ => segments.push(sent(run.range)),
        }
    }
    segments
}

fn sent(range: ByteRange) -> Segment {
    Segment {
        range,
        source: None,
        is_zero: false,
    }
}

/// Makes each sent segment as long as a part must be, at the cost of free neighbours.
fn grow_short_runs(segments: &mut Vec<Segment>, short_end: u64, limits: &UploadLimits) {
    let min = limits.min_part_bytes;
    let mut index = 0;
    while index < segments.len() {
        let segment = segments[index];
        if is_free(&segment) || segment.range.len() >= min || segment.range.end == short_end {
            index += 1;
            continue;
        }
        let missing = min - segment.range.len();
        // What a neighbour can give and stay a part of its own.
        let spare = |neighbour: Option<&Segment>| {
            neighbour.map(|n| {
                let keeps = if n.range.end == short_end { 1 } else { min };
                n.range.len().saturating_sub(keeps)
            })
        };
        let left = index.checked_sub(1).and_then(|left| spare(segments.get(left)));
        let right = spare(segments.get(index + 1));
        if left.is_some_and(|spare| spare >= missing) {
            segments[index - 1].range.end -= missing;
            segments[index].range.start -= missing;
            index += 1;
        } else if right.is_some_and(|spare| spare >= missing) {
            segments[index].range.end += missing;
            shorten_front(&mut segments[index + 1], missing);
            index += 1;
        } else {
            index = match (left, right) {
                (Some(_), None) => swallow(segments, index - 1),
                (Some(left), Some(right)) if left <= right => swallow(segments, index - 1),
                (_, Some(_)) => swallow(segments, index),
                // Alone in its gap: nothing to grow over.
                (None, None) => index + 1,
            };
        }
    }
}

fn shorten_front(segment: &mut Segment, by: u64) {
    segment.range.start += by;
    segment.source = segment.source.map(|at| at.advanced(by));
}

/// Makes the segments at `index` and `index + 1` one sent segment, joined with sent neighbours; returns its index.
fn swallow(segments: &mut Vec<Segment>, index: usize) -> usize {
    let next = segments.remove(index + 1);
    segments[index] = sent(ByteRange::new(segments[index].range.start, next.range.end));
    if segments.get(index + 1).is_some_and(|after| !is_free(after)) {
        let after = segments.remove(index + 1);
        segments[index].range.end = after.range.end;
    }
    if index > 0 && !is_free(&segments[index - 1]) {
        let joined = segments.remove(index);
        segments[index - 1].range.end = joined.range.end;
        return index - 1;
    }
    index
}

fn pieces_of(segments: &[Segment], scale: &Scale, short_end: u64, limits: &UploadLimits) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for segment in segments {
        let piece_bytes = match scale.zero_part_bytes {
            _ if segment.source.is_some() => scale.copy_part_bytes,
            Some(zero_part_bytes) if segment.is_zero => zero_part_bytes,
            _ => scale.part_bytes,
        };
        let may_end_short = segment.range.end == short_end;
        let mut start = segment.range.start;
        while start < segment.range.end {
            let left = segment.range.end - start;
            let rest = left.saturating_sub(piece_bytes);
            // A rest too short for a part of its own goes with the piece before it.
            let takes_all = rest == 0 || (rest < limits.min_part_bytes && !may_end_short);
            let end = if takes_all {
                segment.range.end
            } else {
                start + piece_bytes
            };
            let content = segment.source.map_or(PartContent::Send, |at| {
                let from = at.advanced(start - segment.range.start).offset;
                PartContent::Copy(at.source, ByteRange::new(from, from + (end - start)))
            });
            pieces.push(Piece {
                range: ByteRange::new(start, end),
                content,
            });
            start = end;
        }
    }
    pieces
}
