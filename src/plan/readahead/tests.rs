mod simulated;

use super::*;
use crate::base::limits::GIB;
pub(super) use crate::plan::testing::repeatable;
use proptest::prelude::*;
use proptest::test_runner::Config;
use std::collections::BTreeSet;

const LIMITS: Limits = Limits {
    max_window_bytes: 32 * MIB,
    max_get_bytes: 8 * MIB,
    round_bytes: 64 * KIB,
    scattered_round_bytes: 16 * KIB,
};

/// Nothing is known of the link, and there is memory enough.
const NOW: Conditions = Conditions {
    at: Duration::ZERO,
    link: Link::NEW,
    share_bytes: u64::MAX,
};

fn ahead_bytes(plan: &Plan) -> u64 {
    plan.ahead.iter().map(ByteRange::len).sum()
}

/// How far a plan for a reader forward reaches.
fn end_of(plan: &Plan) -> u64 {
    plan.ahead.last().map_or(plan.demand.end, |ahead| ahead.end)
}

fn request(offset: u64, len: u64, size_bytes: u64) -> ByteRange {
    ByteRange::new(offset, (offset + len).min(size_bytes))
}

/// Reads `[from, from + total)` in steps and returns the last plan's reach beyond the reader.
fn read_on(history: &mut History, from: u64, total: u64, step: u64, size_bytes: u64) -> u64 {
    let mut reach = 0;
    let mut offset = from;
    let mut planned_until = 0;
    while offset < from + total {
        let plan = history.plan(request(offset, step, size_bytes), size_bytes, &LIMITS, &NOW);
        planned_until = planned_until.max(end_of(&plan));
        offset += step;
        reach = planned_until - offset.min(size_bytes);
    }
    reach
}

#[test]
fn a_first_request_fetches_only_itself() {
    let plan = History::default().plan(request(10 * MIB + 5, 4096, GIB), GIB, &LIMITS, &NOW);
    assert_eq!(plan.demand, ByteRange::new(10 * MIB, 10 * MIB + 64 * KIB));
    assert!(plan.ahead.is_empty());
}

#[test]
fn reading_the_same_block_again_and_again_fetches_nothing_ahead() {
    let mut history = History::default();
    for _ in 0..1_000 {
        assert!(
            history
                .plan(request(0, 4096, GIB), GIB, &LIMITS, &NOW)
                .ahead
                .is_empty()
        );
    }
}

#[test]
fn reading_backwards_fetches_ahead_from_the_fourth_request_on_the_nearest_first() {
    let mut history = History::default();
    let mut planned_from = GIB;
    let mut most_ahead = 0;
    for block in (0..4_096).rev() {
        let wanted = request(GIB / 2 + block * 128 * KIB, 128 * KIB, GIB);
        let plan = history.plan(wanted, GIB, &LIMITS, &NOW);
        let read = GIB - wanted.start;
        assert!(plan.ahead.is_empty() || read >= 4 * 128 * KIB, "after {read}");
        planned_from = planned_from.min(plan.demand.start);
        for ahead in &plan.ahead {
            assert_eq!(ahead.end, planned_from, "nothing twice, nothing left out");
            planned_from = ahead.start;
        }
        let ahead = wanted.start - planned_from;
        assert!(ahead <= 2 * read, "{ahead} ahead after {read}");
        most_ahead = most_ahead.max(ahead);
    }
    assert!(
        most_ahead >= LIMITS.max_window_bytes - LIMITS.max_get_bytes,
        "{most_ahead}"
    );
}

#[test]
fn a_file_is_read_backwards_to_its_very_beginning() {
    let size = 3 * MIB + 777;
    let mut history = History::default();
    let mut planned = Vec::new();
    for block in (0..=size / (100 * KIB)).rev() {
        let plan = history.plan(request(block * 100 * KIB, 100 * KIB, size), size, &LIMITS, &NOW);
        planned.extend(plan.ahead);
    }
    assert_eq!(planned.last().map(|last| last.start), Some(0));
}

#[test]
fn equal_distances_are_a_pattern_and_only_its_elements_are_fetched() {
    for (first, delta) in [(10 * MIB, 5 * MIB as i64), (2 * GIB, -5 * MIB as i64)] {
        let mut history = History::default();
        let mut planned = std::collections::HashSet::new();
        for step in 0..100_i64 {
            let offset = (first as i64 + delta * step) as u64;
            let plan = history.plan(request(offset, 100 * KIB, 4 * GIB), 4 * GIB, &LIMITS, &NOW);
            assert!(step >= 3 || plan.ahead.is_empty());
            assert!(
                step <= 3 || planned.contains(&plan.demand),
                "step {step} was not fetched ahead"
            );
            for ahead in plan.ahead {
                assert!(ahead.len() <= 100 * KIB + 2 * LIMITS.round_bytes);
                assert!(planned.insert(ahead), "{ahead:?} twice");
            }
            assert!(planned.len() as i64 <= 3 * step + 3);
        }
    }
}

#[test]
fn elements_that_come_in_parts_and_are_left_out_are_of_the_pattern_too() {
    let mut history = History::default();
    let mut planned = Vec::new();
    for step in 0..64_u64 {
        // The kernel had these in its cache.
        if step > 8 && step % 5 == 0 {
            continue;
        }
        for part in 0..2 {
            let offset = step * 10 * MIB + part * 64 * KIB;
            let plan = history.plan(request(offset, 64 * KIB, GIB), GIB, &LIMITS, &NOW);
            planned.extend(plan.ahead);
        }
    }
    let of_pattern: Vec<_> = planned.iter().filter(|range| range.start > 100 * MIB).collect();
    assert!(of_pattern.len() >= 40, "{}", of_pattern.len());
    for range in of_pattern {
        assert_eq!((range.start % (10 * MIB), range.len()), (0, 128 * KIB));
    }
}

#[test]
fn streams_that_begin_at_equal_distances_are_streams() {
    let mut history = History::default();
    let mut reach = [0; 8];
    for step in 0..200 {
        for (n, reach) in reach.iter_mut().enumerate() {
            let offset = n as u64 * GIB + step * MIB;
            let plan = history.plan(request(offset, MIB, 8 * GIB), 8 * GIB, &LIMITS, &NOW);
            *reach = end_of(&plan).max(*reach);
        }
    }
    for (n, reach) in reach.iter().enumerate() {
        let position = n as u64 * GIB + 200 * MIB;
        assert!(
            reach - position >= LIMITS.max_window_bytes - LIMITS.max_get_bytes,
            "stream {n}"
        );
    }
}

#[test]
fn one_request_elsewhere_does_not_end_a_pattern_but_many_do() {
    let mut history = History::default();
    for step in 0..20 {
        history.plan(request(step * 3 * MIB, 4096, GIB), GIB, &LIMITS, &NOW);
    }
    history.plan(request(900 * MIB, 4096, GIB), GIB, &LIMITS, &NOW);
    let pattern = history.plan(request(60 * MIB, 4096, GIB), GIB, &LIMITS, &NOW).run;
    let mut retired = Vec::new();
    for n in 0..=IDLE_REQUESTS {
        // No two of the distances are equal.
        let plan = history.plan(request(500 * MIB + n * n * MIB, 4096, GIB), GIB, &LIMITS, &NOW);
        retired.extend(plan.retired);
    }
    assert_eq!(retired, [pattern]);
}

#[test]
fn the_tail_of_the_object_is_fetched_in_one_go_however_short() {
    let size = 600 * KIB;
    let mut history = History::default();
    history.plan(request(0, 128 * KIB, size), size, &LIMITS, &NOW);
    let plan = history.plan(request(128 * KIB, 128 * KIB, size), size, &LIMITS, &NOW);
    assert_eq!(plan.ahead, [ByteRange::new(256 * KIB, size)]);
    assert!(
        history
            .plan(request(256 * KIB, 128 * KIB, size), size, &LIMITS, &NOW)
            .ahead
            .is_empty()
    );
}

#[test]
fn a_run_that_was_left_is_retired_and_starts_small_when_it_goes_on() {
    let mut history = History::default();
    read_on(&mut history, 0, 64 * MIB, MIB, GIB);
    let run = history.runs.first().map(|run| run.id);
    let mut retired = Vec::new();
    for n in 0..=IDLE_REQUESTS {
        retired.extend(
            history
                .plan(request(500 * MIB + n * n * MIB, 4096, GIB), GIB, &LIMITS, &NOW)
                .retired,
        );
    }
    assert_eq!(retired, run.into_iter().collect::<Vec<_>>());
    assert!(
        history
            .plan(request(64 * MIB, MIB, GIB), GIB, &LIMITS, &NOW)
            .ahead
            .is_empty()
    );
    assert!(ahead_bytes(&history.plan(request(65 * MIB, MIB, GIB), GIB, &LIMITS, &NOW)) <= 4 * MIB);
}

#[test]
fn refused_memory_shrinks_the_window_and_reading_regrows_it() {
    let mut history = History::default();
    read_on(&mut history, 0, 128 * MIB, MIB, GIB);
    let run = history.runs.first().expect("a run was begun").id;
    history.denied(run, 0);
    let plan = history.plan(request(128 * MIB, MIB, GIB), GIB, &LIMITS, &NOW);
    assert!(end_of(&plan) <= 129 * MIB + 17 * MIB, "{plan:?}");
    assert!(
        plan.ahead[0].start == 129 * MIB,
        "what was refused is asked for again: {plan:?}"
    );
    let reach = read_on(&mut history, 129 * MIB, 128 * MIB, MIB, GIB);
    assert!(reach >= 32 * MIB - LIMITS.max_get_bytes, "{reach}");
}

#[test]
fn tiny_budgets_have_usable_limits() {
    for budget_bytes in [0, 1, 4096, 100_000, MIB, GIB] {
        let limits = Limits::for_budget(budget_bytes);
        assert!(limits.round_bytes.is_power_of_two());
        assert!(limits.max_get_bytes >= 1);
        History::default().plan(ByteRange::new(0, 1), 1, &limits, &NOW);
    }
}

proptest! {
    #![proptest_config(repeatable())]

    #[test]
    fn dividing_loses_nothing_and_keeps_to_the_lengths(
        start in 0..GIB,
        len in 1..100 * MIB,
        get_exponent in 18..24u32,
        piece_exponent in 12..21u32,
    ) {
        let range = ByteRange::new(start, start + len);
        let (get_bytes, piece_bytes) = (1u64 << get_exponent, 1u64 << piece_exponent);
        let gets = divide(range, get_bytes, piece_bytes);
        let mut next = start;
        for get in &gets {
            prop_assert!(!get.is_empty());
            let get_len: u64 = get.iter().map(ByteRange::len).sum();
            prop_assert!(get_len <= get_bytes + get_bytes / 2 + 2 * piece_bytes);
            for piece in get {
                prop_assert!(piece.start == next && piece.len() <= piece_bytes && !piece.is_empty());
                prop_assert!(piece.end % piece_bytes == 0 || piece.end == range.end);
                next = piece.end;
            }
        }
        prop_assert_eq!(next, range.end);
    }

    #[test]
    fn plans_stay_inside_the_object_and_the_cap(
        size_bytes in 1..4 * GIB,
        budget_bytes in 64 * KIB..GIB,
        reads in prop::collection::vec((any::<u64>(), 1..MIB, 0..20u64), 1..60),
    ) {
        let limits = Limits::for_budget(budget_bytes);
        let mut history = History::default();
        for (place, len, repeats) in reads {
            let mut offset = place % size_bytes;
            for _ in 0..=repeats {
                let request = request(offset, len, size_bytes);
                let plan = history.plan(request, size_bytes, &limits, &NOW);
                prop_assert!(plan.demand.start <= request.start && request.end <= plan.demand.end);
                prop_assert!(plan.demand.len() <= request.len() + 2 * limits.round_bytes);
                for ahead in &plan.ahead {
                    prop_assert!(!ahead.is_empty() && ahead.end <= size_bytes);
                }
                prop_assert!(ahead_bytes(&plan) <= limits.max_window_bytes + 2 * limits.round_bytes);
                prop_assert!(ahead_bytes(&plan) <= plan.wanted_bytes + 2 * limits.round_bytes);
                prop_assert!(plan.get_bytes <= limits.max_get_bytes);
                if request.end == size_bytes { break }
                offset = request.end;
            }
        }
    }

    #[test]
    fn sequential_reads_reach_the_largest_window(step in 4 * KIB..2 * MIB, from in 0..GIB) {
        let mut history = History::default();
        let size_bytes = 4 * GIB;
        let reach = read_on(&mut history, from, 96 * MIB, step, size_bytes);
        prop_assert!(reach + LIMITS.max_get_bytes + LIMITS.round_bytes >= LIMITS.max_window_bytes, "{reach}");
    }

    #[test]
    fn random_reads_fetch_what_was_asked_for(
        places in prop::collection::btree_set(0..2_000u64, 2..100),
        seed in any::<u64>(),
    ) {
        // Distinct places further apart than what counts as reordering, in a random order.
        let mut places: Vec<u64> = places.into_iter().collect();
        places.sort_by_key(|place| place.wrapping_add(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut history = History::default();
        let mut last = None;
        let mut distances = BTreeSet::new();
        for place in places {
            // What comes at equal distances is a pattern, by chance or not.
            if last.is_some_and(|last: u64| !distances.insert(place.wrapping_sub(last))) {
                continue;
            }
            last = Some(place);
            let plan = history.plan(request(place * MIB + 777, 100 * KIB, 4 * GIB), 4 * GIB, &LIMITS, &NOW);
            prop_assert!(plan.ahead.is_empty());
            prop_assert!(plan.demand.len() <= 100 * KIB + 2 * LIMITS.round_bytes);
        }
    }

    #[test]
    fn reordered_requests_are_still_one_run(
        len in prop::sample::select(vec![128 * KIB, 256 * KIB, MIB]),
        swaps in prop::collection::vec(0..3usize, 200),
    ) {
        let mut order: Vec<u64> = (0..200).collect();
        for (index, swap) in swaps.iter().enumerate() {
            let other = (index + swap).min(order.len() - 1);
            // At most three places from where it belongs.
            if order[index].abs_diff(other as u64) <= 3 && order[other].abs_diff(index as u64) <= 3 {
                order.swap(index, other);
            }
        }
        let mut history = History::default();
        let mut reach = 0;
        for block in &order {
            reach = reach.max(end_of(&history.plan(request(block * len, len, GIB), GIB, &LIMITS, &NOW)));
        }
        prop_assert_eq!(history.runs.len(), 1, "{:?}", order);
        let read = 200 * len;
        prop_assert!(reach >= read + (2 * read).min(LIMITS.max_window_bytes) / 2, "{}", reach);
    }

    #[test]
    fn interleaved_streams_each_get_their_window(
        streams in 2..=MAX_RUNS as u64,
        turns in prop::collection::vec(any::<u64>(), 3_000),
    ) {
        let mut history = History::default();
        let mut positions: Vec<u64> = (0..streams).map(|n| n * 4 * GIB + n * n * MIB).collect();
        let mut reach = vec![0; positions.len()];
        let size_bytes = 64 * GIB;
        for (turn, draw) in turns.iter().enumerate() {
            // Every other request takes its turn, so that no stream is idle for long.
            let stream = (if turn % 2 == 0 { turn as u64 / 2 } else { *draw } % streams) as usize;
            let plan = history.plan(request(positions[stream], MIB, size_bytes), size_bytes, &LIMITS, &NOW);
            positions[stream] += MIB;
            reach[stream] = end_of(&plan).max(reach[stream]);
            prop_assert!(plan.retired.is_empty());
        }
        for (position, reach) in positions.iter().zip(&reach) {
            prop_assert!(reach - position >= LIMITS.max_window_bytes - LIMITS.max_get_bytes - MIB);
        }
    }
}
