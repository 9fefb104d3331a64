//! The cheapest correct upload of a file: which bytes are sent, which the store copies from versions it has.
//!
//! Difficulties, and who solves each:
//! 1. A part that is not the last has a minimum length (5 MiB on S3), and so has a copied one: short changed runs grow
//!    over their unchanged neighbours ([`grow_short_runs`]); unchanged runs too short to copy are sent.
//! 2. Parts are at most 10,000: [`Scale`] makes copies longer first (free), then parts longer, and only then sends
//!    unchanged bytes to save parts.
//! 3. Some parts were sent while the file was being written and have fixed numbers: each gap between them is planned
//!    by itself with the numbers that lie between ([`plan_upload`]).
//! 4. Small files: one PUT beats several requests; but not where a copy saves more bytes than that ([`REQUESTS_WORTH_BYTES`]).

use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extents::{SourceAt, SourceId};
use crate::base::limits::{MIB, UploadLimits};
use crate::base::object::ByteRange;
use crate::plan::copies::ranges_of_copy;
use std::collections::BTreeMap;

/// A multipart upload is several requests more than a PUT: it must save this much moved data to be worth it.
const REQUESTS_WORTH_BYTES: u64 = 4 * MIB;

/// A run of the file's bytes, as far as an upload cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub range: ByteRange,
    /// The object version whose bytes these are; `None` for bytes that only this machine has, and zeroes.
    pub source: Option<SourceAt>,
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
            range: run.range,
            source: run.source.filter(is_copyable),
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

fn too_large(size_bytes: u64) -> Error {
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
                    && last.source.map(|at| at.advanced(last.range.len())) == run.source =>
            {
                last.range.end = run.range.end;
            }
            _ => joined.push(*run),
        }
    }
    joined
}

/// A part without its number.
#[derive(Clone, Copy, Debug)]
struct Piece {
    range: ByteRange,
    content: PartContent,
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

/// How long parts are made, and how short an unchanged run may be to be worth a part of its own.
#[derive(Clone, Copy)]
#[allow(clippy::struct_field_names)] // Units belong into names.
struct Scale {
    part_bytes: u64,
    copy_part_bytes: u64,
    min_copied_run_bytes: u64,
}

impl Scale {
    /// The next step towards fewer parts; `None` when there is none.
    fn coarser(self, gap_bytes: u64, policy: &UploadPolicy) -> Option<Self> {
        let max_copy = longest_copy_bytes(&policy.limits);
        let mut next = self;
        if self.copy_part_bytes < max_copy.min(gap_bytes) {
            next.copy_part_bytes = (self.copy_part_bytes * 2).min(max_copy);
        } else if self.part_bytes < policy.max_sent_part_bytes.min(gap_bytes) {
            next.part_bytes = (self.part_bytes * 2).min(policy.max_sent_part_bytes);
        } else if self.min_copied_run_bytes <= gap_bytes {
            next.min_copied_run_bytes = self.min_copied_run_bytes * 2;
        } else {
            return None;
        }
        Some(next)
    }
}

/// Shorter than a part may be, as a copy takes a rest that is too short for a part of its own along.
fn longest_copy_bytes(limits: &UploadLimits) -> u64 {
    (limits.max_part_bytes - limits.min_part_bytes).max(limits.min_part_bytes)
}

fn plan_gap(
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
    let mut scale = Scale {
        part_bytes: policy.part_bytes,
        copy_part_bytes: policy.copy_part_bytes.min(longest_copy_bytes(&policy.limits)),
        min_copied_run_bytes: policy.limits.min_part_bytes,
    };
    loop {
        let short_end = if is_last { gap.end } else { u64::MAX };
        let mut segments = segments_of(&runs, scale.min_copied_run_bytes, short_end, &policy.limits);
        grow_short_runs(&mut segments, short_end, &policy.limits);
        let pieces = pieces_of(&segments, &scale, short_end, &policy.limits);
        let lawful = pieces
            .iter()
            .all(|piece| piece.range.end == short_end || piece.range.len() >= policy.limits.min_part_bytes);
        if lawful && pieces.len() as u64 <= u64::from(numbers) {
            return Ok(pieces);
        }
        scale = scale
            .coarser(gap.len(), policy)
            .ok_or_else(|| too_large(gap.end))?;
    }
}

fn clipped(run: &Run, within: ByteRange) -> Option<Run> {
    let start = run.range.start.max(within.start);
    let end = run.range.end.min(within.end);
    (start < end).then(|| Run {
        range: ByteRange::new(start, end),
        source: run.source.map(|at| at.advanced(start - run.range.start)),
    })
}

/// A stretch that is sent (`source` is `None`) or copied.
type Segment = Run;

/// Joins what is to be sent. An unchanged run is copied if it is at least `min_copied_bytes` long; at the very end a shorter one is too, if what stands before it needs no growing.
fn segments_of(runs: &[Run], min_copied_bytes: u64, short_end: u64, limits: &UploadLimits) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for run in runs {
        let before_is_long = segments
            .last()
            .is_none_or(|before| before.range.len() >= limits.min_part_bytes);
        let is_at_end = min_copied_bytes == limits.min_part_bytes && run.range.end == short_end;
        let copied =
            run.source.is_some() && (run.range.len() >= min_copied_bytes || (is_at_end && before_is_long));
        match segments.last_mut() {
            Some(last) if !copied && last.source.is_none() => last.range.end = run.range.end,
            _ if copied => segments.push(*run),
            _ => segments.push(Segment {
                range: run.range,
                source: None,
            }),
        }
    }
    segments
}

/// Makes each sent segment as long as a part must be, at the cost of copied neighbours.
fn grow_short_runs(segments: &mut Vec<Segment>, short_end: u64, limits: &UploadLimits) {
    let min = limits.min_part_bytes;
    let mut index = 0;
    while index < segments.len() {
        let segment = segments[index];
        if segment.source.is_some() || segment.range.len() >= min || segment.range.end == short_end {
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
    segments[index] = Segment {
        range: ByteRange::new(segments[index].range.start, next.range.end),
        source: None,
    };
    if segments
        .get(index + 1)
        .is_some_and(|after| after.source.is_none())
    {
        let after = segments.remove(index + 1);
        segments[index].range.end = after.range.end;
    }
    if index > 0 && segments[index - 1].source.is_none() {
        let joined = segments.remove(index);
        segments[index - 1].range.end = joined.range.end;
        return index - 1;
    }
    index
}

fn pieces_of(segments: &[Segment], scale: &Scale, short_end: u64, limits: &UploadLimits) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for segment in segments {
        let piece_bytes = if segment.source.is_some() {
            scale.copy_part_bytes
        } else {
            scale.part_bytes
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::{GIB, TIB};
    use proptest::prelude::*;

    const POLICY: UploadPolicy = UploadPolicy {
        limits: UploadLimits::S3,
        part_bytes: 8 * MIB,
        max_sent_part_bytes: 64 * MIB,
        copy_part_bytes: 512 * MIB,
        max_put_bytes: 16 * MIB,
    };

    fn local(start: u64, end: u64) -> Run {
        Run {
            range: ByteRange::new(start, end),
            source: None,
        }
    }

    fn clean(start: u64, end: u64) -> Run {
        Run {
            range: ByteRange::new(start, end),
            source: Some(SourceAt::base(start)),
        }
    }

    fn base_of(size_bytes: u64) -> SourceSizes {
        SourceSizes::from([(SourceId::BASE, size_bytes)])
    }

    fn parts(plan: Result<Plan>) -> Vec<PlannedPart> {
        match plan {
            Ok(Plan::Multipart(parts)) => parts,
            other => panic!("not a multipart upload: {other:?}"),
        }
    }

    fn sent_bytes(parts: &[PlannedPart]) -> u64 {
        parts
            .iter()
            .filter(|part| part.content == PartContent::Send)
            .map(|part| part.range.len())
            .sum()
    }

    #[test]
    fn small_and_empty_files_are_one_put() {
        assert_eq!(
            plan_upload(&[], &SourceSizes::new(), &[], &POLICY).ok(),
            Some(Plan::Put)
        );
        assert_eq!(
            plan_upload(&[local(0, 16 * MIB)], &SourceSizes::new(), &[], &POLICY).ok(),
            Some(Plan::Put)
        );
        assert_eq!(
            plan_upload(&[clean(0, 10)], &base_of(10), &[], &POLICY).ok(),
            Some(Plan::Copy(SourceId::BASE))
        );
        assert_eq!(
            plan_upload(&[clean(0, 10), local(10, 11)], &base_of(10), &[], &POLICY).ok(),
            Some(Plan::Put)
        );
        assert_eq!(
            plan_upload(&[clean(0, 10)], &base_of(11), &[], &POLICY).ok(),
            Some(Plan::Put)
        );
        assert_eq!(
            plan_upload(&[], &base_of(0), &[], &POLICY).ok(),
            Some(Plan::Copy(SourceId::BASE))
        );
    }

    #[test]
    fn one_changed_byte_of_100_gib_sends_five_mib() {
        let at = 50 * GIB + 12_345;
        let runs = [clean(0, at), local(at, at + 1), clean(at + 1, 100 * GIB)];
        let parts = parts(plan_upload(&runs, &base_of(100 * GIB), &[], &POLICY));
        assert_eq!(sent_bytes(&parts), 5 * MIB);
        assert!(parts.len() < 250);
    }

    #[test]
    fn an_append_sends_only_what_was_appended() {
        let runs = [clean(0, 100 * MIB), local(100 * MIB, 100 * MIB + 7)];
        let parts = parts(plan_upload(&runs, &base_of(100 * MIB), &[], &POLICY));
        assert_eq!(sent_bytes(&parts), 7);
        assert_eq!(parts.len(), 2);
    }

    #[test]
    fn a_change_near_the_end_takes_the_short_tail_with_it() {
        let end = 100 * MIB;
        let runs = [
            clean(0, end - 1000),
            local(end - 1000, end - 900),
            clean(end - 900, end),
        ];
        let parts = parts(plan_upload(&runs, &base_of(end), &[], &POLICY));
        assert_eq!(sent_bytes(&parts), 1000);
    }

    #[test]
    fn parts_are_copied_from_several_objects() {
        let of = |source, start, end, offset| Run {
            range: ByteRange::new(start, end),
            source: Some(SourceAt {
                source: SourceId(source),
                offset,
            }),
        };
        let sizes = SourceSizes::from([
            (SourceId(1), 80 * MIB),
            (SourceId(2), 30 * MIB),
            (SourceId(3), MIB),
        ]);
        // What is behind it in the same object is not what follows in the other.
        let runs = [
            of(1, 0, 20 * MIB, 0),
            of(2, 20 * MIB, 40 * MIB, 20 * MIB - 10 * MIB),
            of(1, 40 * MIB, 80 * MIB, 40 * MIB),
            of(3, 80 * MIB, 81 * MIB, 0),
        ];
        let parts = parts(plan_upload(&runs, &sizes, &[], &POLICY));
        let contents: Vec<PartContent> = parts.iter().map(|part| part.content).collect();
        let copy = |source, start: u64, end: u64| {
            PartContent::Copy(SourceId(source), ByteRange::new(start * MIB, end * MIB))
        };
        assert_eq!(
            contents,
            [
                copy(1, 0, 20),
                copy(2, 10, 30),
                copy(1, 40, 80),
                PartContent::Send
            ],
            "a range of an object as small as the last one cannot be copied"
        );
        let whole = [of(2, 0, 30 * MIB, 0)];
        assert_eq!(
            plan_upload(&whole, &sizes, &[], &POLICY).ok(),
            Some(Plan::Copy(SourceId(2)))
        );
    }

    #[test]
    fn the_largest_object_is_copied_within_the_limits() {
        let parts = plan_whole_copy(SourceId::BASE, 5 * TIB, &POLICY.limits);
        assert!(parts.len() <= 10_000);
        assert!(
            parts
                .iter()
                .all(|part| part.range.len() <= 5 * GIB && matches!(part.content, PartContent::Copy(..)))
        );
        assert_eq!(parts.iter().map(|part| part.range.len()).sum::<u64>(), 5 * TIB);
    }

    #[test]
    fn a_shortened_object_is_no_upload_of_one_part() {
        let parts = parts(plan_upload(&[clean(0, 300 * MIB)], &base_of(GIB), &[], &POLICY));
        assert_eq!(parts.len(), 2);
        assert_eq!(sent_bytes(&parts), 0);
    }

    #[test]
    fn sent_parts_keep_their_numbers() {
        let sent = [
            SentPart {
                number: 2,
                range: ByteRange::new(8 * MIB, 16 * MIB),
            },
            SentPart {
                number: 4,
                range: ByteRange::new(24 * MIB, 32 * MIB),
            },
        ];
        let parts = parts(plan_upload(
            &[local(0, 33 * MIB)],
            &SourceSizes::new(),
            &sent,
            &POLICY,
        ));
        let numbers: Vec<_> = parts
            .iter()
            .map(|part| (part.number, part.content == PartContent::Sent))
            .collect();
        assert_eq!(
            numbers,
            vec![(1, false), (2, true), (3, false), (4, true), (5, false)]
        );
    }

    #[test]
    fn what_no_upload_can_hold_is_refused() {
        let plan = plan_upload(&[local(0, 5 * TIB + 1)], &SourceSizes::new(), &[], &POLICY);
        assert_eq!(plan.map_err(|error| error.kind()), Err(ErrorKind::TooLarge));
    }

    /// Limits so small that a few hundred bytes meet all of them.
    const SMALL: UploadPolicy = UploadPolicy {
        limits: UploadLimits {
            min_part_bytes: 5,
            max_part_bytes: 60,
            max_copy_bytes: 60,
            max_parts: 40,
            max_object_bytes: 2_000,
            min_copy_source_bytes: 5,
        },
        part_bytes: 8,
        max_sent_part_bytes: 50,
        copy_part_bytes: 20,
        max_put_bytes: 16,
    };

    fn random_runs() -> impl Strategy<Value = Vec<Run>> {
        let one = (
            1..60u64,
            prop_oneof![Just(None), (0..1000u64).prop_map(Some)],
            0..4u32,
        );
        proptest::collection::vec(one, 0..30).prop_map(|drawn| {
            let mut runs = Vec::new();
            let mut start = 0;
            for (len, source, from) in drawn {
                // Of the base version, in place and not, and of two others.
                let source = source.map(|offset| SourceAt {
                    source: SourceId(from.saturating_sub(1)),
                    offset: if from == 0 { start } else { offset },
                });
                runs.push(Run {
                    range: ByteRange::new(start, start + len),
                    source,
                });
                start += len;
            }
            runs
        })
    }

    fn source_at(runs: &[Run], position: u64) -> Option<SourceAt> {
        let run = runs
            .iter()
            .find(|run| run.range.start <= position && position < run.range.end)?;
        run.source.map(|at| at.advanced(position - run.range.start))
    }

    fn check_lawful(runs: &[Run], parts: &[PlannedPart], policy: &UploadPolicy) -> Result<(), TestCaseError> {
        let size = runs.last().map_or(0, |run| run.range.end);
        let mut end = 0;
        let mut number = 0;
        for part in parts {
            prop_assert_eq!(part.range.start, end);
            prop_assert!(part.number > number && part.number <= policy.limits.max_parts);
            prop_assert!(part.range.len() <= policy.limits.max_part_bytes);
            prop_assert!(part.range.end == size || part.range.len() >= policy.limits.min_part_bytes);
            if let PartContent::Copy(source, from) = part.content {
                prop_assert_eq!(from.len(), part.range.len());
                // Runs are uniform: their edges within the part tell for all bytes between.
                let edges = runs.iter().flat_map(|run| [run.range.start, run.range.end - 1]);
                let within = edges.filter(|edge| part.range.start <= *edge && *edge < part.range.end);
                for position in within.chain([part.range.start, part.range.end - 1]) {
                    prop_assert_eq!(
                        source_at(runs, position),
                        Some(SourceAt {
                            source,
                            offset: from.start + (position - part.range.start)
                        })
                    );
                }
            }
            end = part.range.end;
            number = part.number;
        }
        prop_assert_eq!(end, size);
        Ok(())
    }

    proptest! {
        #[test]
        fn every_plan_is_lawful_and_complete(runs in random_runs(), source in 6..2_000u64) {
            let sizes = SourceSizes::from([(SourceId::BASE, source), (SourceId(1), source), (SourceId(2), 5)]);
            match plan_upload(&runs, &sizes, &[], &SMALL) {
                Ok(Plan::Multipart(parts)) => check_lawful(&runs, &parts, &SMALL)?,
                Ok(Plan::Put) => prop_assert!(runs.iter().map(|run| run.range.len()).sum::<u64>() <= 16),
                Ok(Plan::Copy(source)) => {
                    let is_in_place = |run: &Run| run.source == Some(SourceAt { source, offset: run.range.start });
                    prop_assert!(runs.iter().all(is_in_place));
                }
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::TooLarge),
            }
        }

        #[test]
        fn clean_bytes_are_sent_only_to_fill_parts(
            cuts in proptest::collection::btree_set(0..400 * MIB, 1..12),
            first_is_local in any::<bool>(),
        ) {
            let mut runs = Vec::new();
            let mut start = 0;
            let mut is_local = first_is_local;
            for end in cuts.into_iter().chain([400 * MIB + 1]) {
                runs.push(if is_local { local(start, end) } else { clean(start, end) });
                is_local = !is_local;
                start = end;
            }
            let plan = plan_upload(&runs, &base_of(GIB), &[], &POLICY);
            let Ok(Plan::Multipart(parts)) = plan else { return Ok(()) };
            check_lawful(&runs, &parts, &POLICY)?;
            let changed: u64 = runs.iter().filter(|run| run.source.is_none()).map(|run| run.range.len()).sum();
            let changed_runs = runs.iter().filter(|run| run.source.is_none()).count() as u64;
            // Growing one run costs less than a part from a long neighbour, or two neighbours shorter than two parts.
            prop_assert!(sent_bytes(&parts) <= changed + (2 * changed_runs + 1) * 10 * MIB);
        }

        #[test]
        fn gaps_between_sent_parts_are_planned_with_the_numbers_that_are_left(
            cells in proptest::collection::vec(any::<bool>(), 1..30),
            tail in 1..20u64,
            runs_seed in random_runs(),
        ) {
            // Cells of 8 bytes, as a grid makes them; those that are true were sent.
            let size = cells.len() as u64 * 8 + tail;
            let mut runs: Vec<Run> = runs_seed.iter().filter_map(|run| clipped(run, ByteRange::new(0, size))).collect();
            let covered = runs.last().map_or(0, |run| run.range.end);
            if covered < size {
                runs.push(local(covered, size));
            }
            let sent: Vec<SentPart> = cells
                .iter()
                .enumerate()
                .filter(|(_, sent)| **sent)
                .map(|(cell, _)| {
                    let start = cell as u64 * 8;
                    SentPart { number: cell as u32 + 1, range: ByteRange::new(start, start + 8) }
                })
                .collect();
            prop_assume!(!sent.is_empty());
            let parts = parts(plan_upload(&runs, &base_of(1_000), &sent, &SMALL));
            check_lawful(&runs, &parts, &SMALL)?;
            let kept: Vec<SentPart> = parts
                .iter()
                .filter(|part| part.content == PartContent::Sent)
                .map(|part| SentPart { number: part.number, range: part.range })
                .collect();
            prop_assert_eq!(kept, sent);
        }
    }
}
