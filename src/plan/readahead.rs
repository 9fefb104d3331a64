//! Which ranges of an object should be on their way, decided from the history of one handle's reads.
//!
//! Difficulties, and who solves them:
//! 1. The kernel's requests of one sequential reader arrive out of order (its read-ahead is asynchronous, and several
//!    loops take requests): a request that starts within a few request lengths of a run's end belongs to the run
//!    ([`Run::distance`]).
//! 2. One handle may carry several streams (threads, a database's files, interleaved `pread`s): each is a [`Run`]; the
//!    least useful run makes room for a new one ([`History::start_run`]).
//! 3. Fetching ahead must be earned: the window is twice what was read in sequence, so that at any time at most two
//!    thirds of the data fetched for a run were fetched in vain; a first request earns nothing
//!    ([`Run::window_bytes`]).
//! 4. Repeated or backward reads must not look like progress: only the extent of a run counts, and only a request
//!    that moves the run's end forward asks for more ([`History::plan`]).
//! 5. Memory may be short: when read-ahead was refused, or taken away before it was read, the run's window is
//!    halved and regrows by what is read ([`History::denied`], [`History::lost`]).
//! 6. A run that was left must not keep its data: it is retired after [`IDLE_REQUESTS`] requests elsewhere.

use crate::base::limits::{KIB, MIB};
use crate::base::object::ByteRange;

/// A run accepts requests that start up to this many request lengths after its end: the kernel keeps a few in flight.
const REORDERED_REQUESTS: u64 = 4;
/// And this many before its end: one that was overtaken by that many lies behind those which came too early.
const OVERTAKEN_REQUESTS: u64 = 2 * REORDERED_REQUESTS;
/// More runs than a handle is expected to have streams, few enough to look at each.
const MAX_RUNS: usize = 8;
/// A run that none of this many requests belonged to was left; twice [`MAX_RUNS`], so that interleaved streams live.
const IDLE_REQUESTS: u64 = 16;
/// The smallest window, and the smallest GET of it: below this a request's fixed cost outweighs its data.
const MIN_WINDOW_BYTES: u64 = 256 * KIB;
/// Each window is divided into this many GETs, so that several are in flight and the oldest is complete early.
const GETS_PER_WINDOW: u64 = 4;

/// What bounds the plans, fixed for a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most that is ever fetched ahead of one run.
    pub max_window_bytes: u64,
    /// The longest GET that is planned.
    pub max_get_bytes: u64,
    /// Requests are rounded outwards to multiples of this; a power of two.
    pub round_bytes: u64,
}

impl Limits {
    /// The limits for a memory budget: windows up to 64 MiB in GETs of up to 8 MiB, and at most a quarter of the budget
    /// for one run; random reads are rounded to 64 KiB.
    #[must_use]
    pub fn for_budget(budget_bytes: u64) -> Self {
        let max_window_bytes = (budget_bytes / 4).min(64 * MIB);
        let round_bytes = (64 * KIB).min(power_of_two_below(budget_bytes / 8));
        Self {
            max_window_bytes,
            max_get_bytes: (8 * MIB).min(max_window_bytes.max(round_bytes)),
            round_bytes,
        }
    }
}

/// The largest power of two that is not above `value` (1 for 0).
#[must_use]
pub fn power_of_two_below(value: u64) -> u64 {
    1 << value.max(1).ilog2()
}

/// Names a run within its [`History`]; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(u64);

/// What should be in memory or on its way, once a request has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub run: RunId,
    /// The request, rounded outwards. Never beyond the end of the object.
    pub demand: ByteRange,
    /// What should be fetched ahead beyond what former plans of this run said; it begins at or after `demand`'s end.
    pub ahead: ByteRange,
    /// The length that GETs should have where there is enough to fetch.
    pub get_bytes: u64,
    /// What former plans of this run fetched ahead of its reader: if some of it is missing now, it was lost.
    pub expected: ByteRange,
    /// Runs whose data that was fetched ahead is no longer wanted.
    pub retired: Vec<RunId>,
}

/// The read history of one handle.
#[derive(Debug, Default)]
pub struct History {
    runs: Vec<Run>,
    requests: u64,
    runs_begun: u64,
}

/// Requests that follow each other.
#[derive(Debug)]
struct Run {
    id: RunId,
    /// The lowest offset and the highest end of its requests.
    start: u64,
    end: u64,
    longest_request_bytes: u64,
    /// Up to here plans were made.
    planned_until: u64,
    /// The window's limit, lowered while memory is short.
    cap_bytes: u64,
    /// The number of its last request in the handle's history.
    last_request: u64,
    retired: bool,
}

impl History {
    /// Notes a request (not empty, not beyond `size_bytes`) and says what should be in flight.
    pub fn plan(&mut self, request: ByteRange, size_bytes: u64, limits: &Limits) -> Plan {
        debug_assert!(!request.is_empty() && request.end <= size_bytes);
        self.requests += 1;
        let mut retired = Vec::new();
        let index = match self.run_of(request) {
            Some(index) => index,
            None => self.start_run(request, limits, &mut retired),
        };
        self.retire_idle(&mut retired);

        let run = &mut self.runs[index];
        let expected = ByteRange::new(run.end, run.planned_until.max(run.end));
        let advances = run.extend(request, self.requests, limits);
        let demand = round_outwards(request, limits.round_bytes, size_bytes);
        let window_bytes = if advances { run.window_bytes() } else { 0 };
        let get_bytes = (window_bytes / GETS_PER_WINDOW)
            .max(MIN_WINDOW_BYTES)
            .min(limits.max_get_bytes)
            .max(1);
        let ahead = run.ahead(demand, window_bytes, get_bytes, size_bytes);
        run.planned_until = run.planned_until.max(ahead.end).max(demand.end);
        Plan {
            run: run.id,
            demand,
            ahead,
            get_bytes,
            expected,
            retired,
        }
    }

    /// There was no memory to fetch ahead from `offset` on: later plans will ask for it again, with a smaller window.
    pub fn denied(&mut self, run: RunId, offset: u64) {
        if let Some(run) = self.runs.iter_mut().find(|candidate| candidate.id == run) {
            run.planned_until = run.planned_until.min(offset.max(run.end));
            run.shrink();
        }
    }

    /// Data that had been fetched ahead was given up for lack of memory before it was read.
    pub fn lost(&mut self, run: RunId) {
        if let Some(run) = self.runs.iter_mut().find(|candidate| candidate.id == run) {
            run.shrink();
        }
    }

    /// The data that was fetched ahead belongs to another version: nothing is in flight any more.
    pub fn forget_plans(&mut self) {
        for run in &mut self.runs {
            run.planned_until = run.end;
        }
    }

    /// All runs, for giving up what they had fetched ahead.
    pub fn runs(&self) -> impl Iterator<Item = RunId> + '_ {
        self.runs.iter().map(|run| run.id)
    }

    fn run_of(&self, request: ByteRange) -> Option<usize> {
        let distances = self.runs.iter().enumerate();
        distances
            .filter_map(|(index, run)| Some((run.distance(request)?, index)))
            .min()
            .map(|(_, index)| index)
    }

    fn start_run(&mut self, request: ByteRange, limits: &Limits, retired: &mut Vec<RunId>) -> usize {
        if self.runs.len() >= MAX_RUNS {
            // Runs that never fetched ahead go first, then the one that was not used for longest.
            let usefulness = |run: &Run| (run.is_sequential() && !run.retired, run.last_request);
            if let Some(victim) = (0..self.runs.len()).min_by_key(|&index| usefulness(&self.runs[index])) {
                let run = self.runs.swap_remove(victim);
                if run.is_sequential() && !run.retired {
                    retired.push(run.id);
                }
            }
        }
        self.runs_begun += 1;
        self.runs.push(Run {
            id: RunId(self.runs_begun),
            start: request.start,
            end: request.start,
            longest_request_bytes: 0,
            planned_until: request.start,
            cap_bytes: limits.max_window_bytes,
            last_request: self.requests,
            retired: false,
        });
        self.runs.len() - 1
    }

    fn retire_idle(&mut self, retired: &mut Vec<RunId>) {
        for run in &mut self.runs {
            if run.is_sequential() && !run.retired && self.requests - run.last_request > IDLE_REQUESTS {
                run.retire();
                retired.push(run.id);
            }
        }
    }
}

impl Run {
    /// How far `request` is from where this run would go on; `None` when it does not belong to the run.
    fn distance(&self, request: ByteRange) -> Option<u64> {
        let distance = self.end.abs_diff(request.start);
        let tolerated = if request.start < self.end {
            OVERTAKEN_REQUESTS
        } else {
            REORDERED_REQUESTS
        };
        let longest = self.longest_request_bytes.max(request.len());
        (distance <= longest.saturating_mul(tolerated)).then_some(distance)
    }

    /// Adds a request to the run; true when the run's end moved forward.
    fn extend(&mut self, request: ByteRange, number: u64, limits: &Limits) -> bool {
        let advances = request.end > self.end;
        if self.retired {
            self.retired = false;
            self.start = request.start;
        }
        self.start = self.start.min(request.start);
        self.end = self.end.max(request.end);
        self.longest_request_bytes = self.longest_request_bytes.max(request.len());
        self.cap_bytes = self
            .cap_bytes
            .saturating_add(request.len())
            .min(limits.max_window_bytes);
        self.last_request = number;
        advances
    }

    fn extent_bytes(&self) -> u64 {
        self.end - self.start
    }

    /// More than one request, and not the same one again.
    fn is_sequential(&self) -> bool {
        self.extent_bytes() > self.longest_request_bytes
    }

    fn window_bytes(&self) -> u64 {
        if self.is_sequential() {
            self.extent_bytes()
                .saturating_mul(2)
                .max(MIN_WINDOW_BYTES)
                .min(self.cap_bytes)
        } else {
            0
        }
    }

    /// The part of the window that is not planned yet, in whole GETs except at the end of the object; empty while it is
    /// less than one GET.
    fn ahead(&self, demand: ByteRange, window_bytes: u64, get_bytes: u64, size_bytes: u64) -> ByteRange {
        let from = self.planned_until.max(demand.end);
        let window_end = self.end.saturating_add(window_bytes).min(size_bytes);
        let missing_bytes = window_end.saturating_sub(from);
        if window_end == size_bytes {
            return ByteRange::new(from, from + missing_bytes);
        }
        ByteRange::new(from, from + missing_bytes / get_bytes * get_bytes)
    }

    fn shrink(&mut self) {
        self.cap_bytes = (self.window_bytes() / 2).max(MIN_WINDOW_BYTES.min(self.cap_bytes));
    }

    /// Where it was is remembered; that it was sequential has to be shown again.
    fn retire(&mut self) {
        self.retired = true;
        self.start = self.end;
        self.planned_until = self.end;
    }
}

/// Divides `range` into GETs of about `get_bytes` (half as much more at most, but for a shorter whole), each of pieces
/// that end at multiples of `piece_bytes`.
#[must_use]
pub fn divide(range: ByteRange, get_bytes: u64, piece_bytes: u64) -> Vec<Vec<ByteRange>> {
    let gets = ((range.len() + get_bytes / 2) / get_bytes).max(1);
    let bytes_per_get = range
        .len()
        .div_ceil(gets)
        .next_multiple_of(piece_bytes.min(get_bytes).max(1));
    let mut divided: Vec<Vec<ByteRange>> = Vec::with_capacity(gets as usize);
    let mut start = range.start;
    let mut get_end = start;
    while start < range.end {
        let end = (start + 1).next_multiple_of(piece_bytes).min(range.end);
        let piece = ByteRange::new(start, end);
        match divided.last_mut() {
            Some(get) if start < get_end => get.push(piece),
            _ => {
                divided.push(vec![piece]);
                get_end = start + bytes_per_get;
            }
        }
        start = end;
    }
    divided
}

fn round_outwards(range: ByteRange, round_bytes: u64, size_bytes: u64) -> ByteRange {
    let start = range.start - range.start % round_bytes;
    let end = range
        .end
        .checked_next_multiple_of(round_bytes)
        .unwrap_or(size_bytes)
        .min(size_bytes);
    ByteRange::new(start, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::GIB;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        max_window_bytes: 64 * MIB,
        max_get_bytes: 8 * MIB,
        round_bytes: 64 * KIB,
    };

    fn request(offset: u64, len: u64, size_bytes: u64) -> ByteRange {
        ByteRange::new(offset, (offset + len).min(size_bytes))
    }

    /// Reads `[from, from + total)` in steps and returns the last plan's reach beyond the reader.
    fn read_on(history: &mut History, from: u64, total: u64, step: u64, size_bytes: u64) -> u64 {
        let mut reach = 0;
        let mut offset = from;
        let mut planned_until = 0;
        while offset < from + total {
            let plan = history.plan(request(offset, step, size_bytes), size_bytes, &LIMITS);
            planned_until = planned_until.max(plan.ahead.end).max(plan.demand.end);
            offset += step;
            reach = planned_until - offset.min(size_bytes);
        }
        reach
    }

    #[test]
    fn a_first_request_fetches_only_itself() {
        let plan = History::default().plan(request(10 * MIB + 5, 4096, GIB), GIB, &LIMITS);
        assert_eq!(plan.demand, ByteRange::new(10 * MIB, 10 * MIB + 64 * KIB));
        assert!(plan.ahead.is_empty());
    }

    #[test]
    fn reading_the_same_block_again_and_again_fetches_nothing_ahead() {
        let mut history = History::default();
        for _ in 0..1_000 {
            assert!(history.plan(request(0, 4096, GIB), GIB, &LIMITS).ahead.is_empty());
        }
    }

    #[test]
    fn reading_backwards_fetches_nothing_ahead() {
        let mut history = History::default();
        for block in (0..1_000).rev() {
            let plan = history.plan(request(block * 128 * KIB, 128 * KIB, GIB), GIB, &LIMITS);
            assert!(plan.ahead.is_empty(), "at block {block}: {plan:?}");
        }
    }

    #[test]
    fn the_tail_of_the_object_is_fetched_in_one_go_however_short() {
        let size = 600 * KIB;
        let mut history = History::default();
        history.plan(request(0, 128 * KIB, size), size, &LIMITS);
        let plan = history.plan(request(128 * KIB, 128 * KIB, size), size, &LIMITS);
        assert_eq!(plan.ahead, ByteRange::new(256 * KIB, size));
        assert!(
            history
                .plan(request(256 * KIB, 128 * KIB, size), size, &LIMITS)
                .ahead
                .is_empty()
        );
    }

    #[test]
    fn a_run_that_was_left_is_retired_and_starts_small_when_it_goes_on() {
        let mut history = History::default();
        read_on(&mut history, 0, 64 * MIB, MIB, GIB);
        let run = history.runs().next();
        let mut retired = Vec::new();
        for n in 0..=IDLE_REQUESTS {
            retired.extend(
                history
                    .plan(request(500 * MIB + n * 9 * MIB, 4096, GIB), GIB, &LIMITS)
                    .retired,
            );
        }
        assert_eq!(retired, run.into_iter().collect::<Vec<_>>());
        assert!(
            history
                .plan(request(64 * MIB, MIB, GIB), GIB, &LIMITS)
                .ahead
                .is_empty()
        );
        assert!(
            history
                .plan(request(65 * MIB, MIB, GIB), GIB, &LIMITS)
                .ahead
                .len()
                <= 4 * MIB
        );
    }

    #[test]
    fn refused_memory_shrinks_the_window_and_reading_regrows_it() {
        let mut history = History::default();
        read_on(&mut history, 0, 128 * MIB, MIB, GIB);
        let run = history.runs().next().expect("a run was begun");
        history.denied(run, 0);
        let plan = history.plan(request(128 * MIB, MIB, GIB), GIB, &LIMITS);
        assert!(plan.ahead.end <= 129 * MIB + 33 * MIB, "{plan:?}");
        assert!(
            plan.ahead.start == 129 * MIB,
            "what was refused is asked for again: {plan:?}"
        );
        let reach = read_on(&mut history, 129 * MIB, 128 * MIB, MIB, GIB);
        assert!(reach >= 64 * MIB - LIMITS.max_get_bytes, "{reach}");
    }

    #[test]
    fn tiny_budgets_have_usable_limits() {
        for budget_bytes in [0, 1, 4096, 100_000, MIB, GIB] {
            let limits = Limits::for_budget(budget_bytes);
            assert!(limits.round_bytes.is_power_of_two());
            assert!(limits.max_get_bytes >= 1);
            History::default().plan(ByteRange::new(0, 1), 1, &limits);
        }
    }

    proptest! {
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
                    let plan = history.plan(request, size_bytes, &limits);
                    prop_assert!(plan.demand.start <= request.start && request.end <= plan.demand.end);
                    prop_assert!(plan.demand.len() <= request.len() + 2 * limits.round_bytes);
                    prop_assert!(plan.demand.end <= plan.ahead.start);
                    prop_assert!(plan.ahead.is_empty() || plan.ahead.end <= size_bytes);
                    prop_assert!(plan.ahead.is_empty() || plan.ahead.end <= request.end + limits.max_window_bytes);
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
            for place in places {
                let plan = history.plan(request(place * MIB + 777, 100 * KIB, 4 * GIB), 4 * GIB, &LIMITS);
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
                reach = reach.max(history.plan(request(block * len, len, GIB), GIB, &LIMITS).ahead.end);
            }
            prop_assert_eq!(history.runs().count(), 1, "{:?}", order);
            let read = 200 * len;
            prop_assert!(reach >= read + (2 * read).min(LIMITS.max_window_bytes) / 2, "{}", reach);
        }

        #[test]
        fn interleaved_streams_each_get_their_window(
            streams in 2..=MAX_RUNS as u64,
            turns in prop::collection::vec(any::<u64>(), 3_000),
        ) {
            let mut history = History::default();
            let mut positions: Vec<u64> = (0..streams).map(|n| n * 4 * GIB).collect();
            let mut reach = vec![0; positions.len()];
            let size_bytes = 64 * GIB;
            for (turn, draw) in turns.iter().enumerate() {
                // Every other request takes its turn, so that no stream is idle for long.
                let stream = (if turn % 2 == 0 { turn as u64 / 2 } else { *draw } % streams) as usize;
                let plan = history.plan(request(positions[stream], MIB, size_bytes), size_bytes, &LIMITS);
                positions[stream] += MIB;
                reach[stream] = plan.ahead.end.max(reach[stream]);
                prop_assert!(plan.retired.is_empty());
            }
            for (position, reach) in positions.iter().zip(&reach) {
                prop_assert!(reach - position >= LIMITS.max_window_bytes - LIMITS.max_get_bytes - MIB);
            }
        }
    }
}
