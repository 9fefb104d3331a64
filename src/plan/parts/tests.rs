use super::*;
use crate::base::limits::{GIB, TIB};
use crate::plan::gap::clipped;
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
        is_zero: false,
    }
}

fn clean(start: u64, end: u64) -> Run {
    Run {
        range: ByteRange::new(start, end),
        source: Some(SourceAt::base(start)),
        is_zero: false,
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
        is_zero: false,
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
                is_zero: false,
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

pub(in crate::plan) fn check_lawful(
    runs: &[Run],
    parts: &[PlannedPart],
    policy: &UploadPolicy,
) -> Result<(), TestCaseError> {
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
