//! Which ranges of an object should be on their way, decided from the history of one handle's reads.
//!
//! Difficulties, and who solves them:
//! 1. The kernel's requests of one sequential reader arrive out of order (its read-ahead is asynchronous, and several
//!    loops take requests): a request that starts within a few request lengths of a run's end belongs to the run
//!    ([`Run::distance`]).
//! 2. One handle may carry several streams (threads, a database's files, interleaved `pread`s): each is a [`Run`]; the
//!    least useful run makes room for a new one ([`History::start_run`]). What is read backwards, or at equal distances,
//!    is found among the requests that continue no run ([`stride`]).
//! 3. Fetching ahead must be earned: the window is at most twice what was read in sequence, so that at any time at most two
//!    thirds of the data fetched for a run were fetched in vain; a first request earns nothing
//!    ([`Run::earned_bytes`]).
//! 4. How much of what was earned is of use depends on the reader and on the way to the store: what its pace takes during
//!    the time that a GET takes, twice ([`link`]); a slow reader, or a near store, needs little memory.
//! 5. Repeated reads must not look like progress: only the extent of a run counts, and only a request that moves the run's
//!    end forward asks for more ([`History::plan`]).
//! 6. Memory may be short: each run of a mount keeps to its share ([`shares`]), and when read-ahead was refused nevertheless,
//!    or taken away before it was read, the run's window is halved and regrows by what is read ([`History::denied`],
//!    [`History::lost`]).
//! 7. Around a request whole blocks are fetched, but little where requests are scattered ([`scatter`]).
//! 8. A run that was left must not keep its data: it is retired after [`IDLE_REQUESTS`] requests elsewhere.

pub mod link;
mod scatter;
pub mod shares;
mod stride;
#[cfg(test)]
mod tests;

use crate::base::limits::{KIB, MIB};
use crate::base::object::ByteRange;
use link::{Link, Pace};
use scatter::Scatter;
use std::time::Duration;
use stride::{Reach, Stride};

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
/// Each window is divided into this many GETs, so that several are in flight and the oldest is complete early. So many of
/// the longest are worth their memory whatever the link: fewer long GETs cost less than many short ones.
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
    /// Scattered ones to multiples of this; a power of two, and not more.
    pub scattered_round_bytes: u64,
}

impl Limits {
    /// The limits for a memory budget: at most half of it for one run, in GETs of up to 8 MiB; requests are rounded to 64 KiB,
    /// scattered ones to 16.
    #[must_use]
    pub fn for_budget(budget_bytes: u64) -> Self {
        let round_bytes = (64 * KIB).min(power_of_two_below(budget_bytes / 8));
        Self {
            max_window_bytes: budget_bytes / 2,
            max_get_bytes: (8 * MIB).min((budget_bytes / 4).max(round_bytes)),
            round_bytes,
            scattered_round_bytes: round_bytes.min(16 * KIB),
        }
    }

    /// The same, where nothing but whole blocks is of use: they are all that is kept on disk.
    #[must_use]
    pub fn of_whole_blocks(self) -> Self {
        Self {
            scattered_round_bytes: self.round_bytes,
            ..self
        }
    }

    /// How much a reader of this pace can make use of.
    fn useful_bytes(&self, bytes_per_s: u64, link: &Link) -> u64 {
        link.bytes_on_the_way(bytes_per_s, self.max_get_bytes)
            .unwrap_or(0)
            .max(GETS_PER_WINDOW * self.max_get_bytes)
            .min(self.max_window_bytes)
    }

    /// The length of GETs of a window that is limited to a share.
    fn get_bytes(&self, window_bytes: u64, share_bytes: u64) -> u64 {
        let shortest = MIN_WINDOW_BYTES.min(share_bytes / 2).max(self.round_bytes);
        (window_bytes / GETS_PER_WINDOW)
            .max(shortest)
            .min(self.max_get_bytes)
            .max(1)
    }
}

/// What plans depend on besides the reads.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// Now, measured from any moment, always the same.
    pub at: Duration,
    pub link: Link,
    /// So much of the memory that is for reading ahead may one run have.
    pub share_bytes: u64,
}

/// The largest power of two that is not above `value` (1 for 0).
#[must_use]
pub fn power_of_two_below(value: u64) -> u64 {
    1 << value.max(1).ilog2()
}

/// Names a run within its [`History`]; never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(u64);

/// What should be in memory or on its way, once a request has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub run: RunId,
    /// The request, rounded outwards. Never beyond the end of the object.
    pub demand: ByteRange,
    /// What should be fetched ahead beyond what former plans of this run said, in the order in which it will be needed.
    pub ahead: Vec<ByteRange>,
    /// The length that GETs should have where there is enough to fetch.
    pub get_bytes: u64,
    /// What the run would fetch ahead if it had all the memory.
    pub wanted_bytes: u64,
    /// What former plans of this run fetched ahead of its reader: if some of it is missing now, it was lost.
    pub expected: ByteRange,
    /// Runs whose data that was fetched ahead is no longer wanted.
    pub retired: Vec<RunId>,
}

/// The read history of one handle.
#[derive(Debug, Default)]
pub struct History {
    runs: Vec<Run>,
    /// The pattern that requests follow which continue no run, and what may become another one.
    pattern: Option<Stride>,
    candidate: Option<Stride>,
    scatter: Scatter,
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
    /// The window of the last plan that asked for more, and its limit, lowered while memory is short.
    window_bytes: u64,
    cap_bytes: u64,
    pace: Pace,
    /// The number of its last request in the handle's history.
    last_request: u64,
    retired: bool,
}

impl History {
    /// Notes a request (not empty, not beyond `size_bytes`) and says what should be in flight.
    pub fn plan(&mut self, request: ByteRange, size_bytes: u64, limits: &Limits, now: &Conditions) -> Plan {
        debug_assert!(!request.is_empty() && request.end <= size_bytes);
        self.requests += 1;
        let mut retired = Vec::new();
        let known = self.run_of(request);
        let is_scattered = self
            .scatter
            .takes(request.start / limits.round_bytes, known.is_some());
        let is_next = known.is_some_and(|index| self.runs[index].is_continued_by(request));
        let goes_back = known.is_none_or(|index| request.start < self.runs[index].start);
        if !is_next && self.is_of_pattern(request, goes_back, now.at, &mut retired) {
            self.retire_idle(&mut retired);
            if let Some(pattern) = &mut self.pattern {
                return pattern_plan(pattern, request, size_bytes, limits, now, retired);
            }
        }
        let index = known.unwrap_or_else(|| self.start_run(request, limits, &mut retired));
        self.retire_idle(&mut retired);

        let run = &mut self.runs[index];
        let expected = ByteRange::new(run.end, run.planned_until.max(run.end));
        let advances = run.extend(request, self.requests, limits, now.at);
        let round_bytes = if is_scattered {
            limits.scattered_round_bytes
        } else {
            limits.round_bytes
        };
        let demand = round_outwards(request, round_bytes, size_bytes);
        let wanted_bytes = run.wanted_bytes(limits, &now.link);
        let window_bytes = if advances {
            wanted_bytes.min(run.cap_bytes).min(now.share_bytes)
        } else {
            0
        };
        if advances {
            run.window_bytes = window_bytes;
        }
        let get_bytes = limits.get_bytes(window_bytes, now.share_bytes);
        let ahead = run.ahead(demand, window_bytes, get_bytes, size_bytes);
        run.planned_until = run.planned_until.max(ahead.end).max(demand.end);
        Plan {
            run: run.id,
            demand,
            ahead: if ahead.is_empty() { Vec::new() } else { vec![ahead] },
            get_bytes,
            wanted_bytes,
            expected,
            retired,
        }
    }

    /// True when `request` is the next element of the pattern, or has just made one. `goes_back`: it continues no run.
    fn is_of_pattern(
        &mut self,
        request: ByteRange,
        goes_back: bool,
        at: Duration,
        retired: &mut Vec<RunId>,
    ) -> bool {
        if let Some(pattern) = &mut self.pattern {
            if pattern.takes(request, self.requests, at) {
                return true;
            }
            if pattern.grows(request) {
                return false;
            }
        }
        if !goes_back {
            return false;
        }
        let Some(candidate) = &mut self.candidate else {
            self.runs_begun += 1;
            self.candidate = Some(Stride::begin(RunId(self.runs_begun), request, self.requests));
            return false;
        };
        candidate.take(request, self.requests, at);
        if !candidate.is_pattern() {
            return false;
        }
        let former = std::mem::replace(&mut self.pattern, self.candidate.take());
        retired.extend(former.map(|former| former.id));
        true
    }

    /// There was no memory to fetch ahead from `offset` on: later plans will ask for it again, with a smaller window. Of a
    /// pattern it is fetched when it is asked for.
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
        if let Some(pattern) = &mut self.pattern {
            pattern.forget_plans();
        }
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
            window_bytes: 0,
            cap_bytes: limits.max_window_bytes,
            pace: Pace::default(),
            last_request: self.requests,
            retired: false,
        });
        self.runs.len() - 1
    }

    fn retire_idle(&mut self, retired: &mut Vec<RunId>) {
        let is_idle = |last_request: u64| self.requests - last_request > IDLE_REQUESTS;
        for run in &mut self.runs {
            if run.is_sequential() && !run.retired && is_idle(run.last_request) {
                run.retire();
                retired.push(run.id);
            }
        }
        if let Some(left) = self.pattern.take_if(|pattern| is_idle(pattern.last_request)) {
            retired.push(left.id);
        }
    }
}

/// The plan for a request that is the newest element of `pattern`.
fn pattern_plan(
    pattern: &mut Stride,
    request: ByteRange,
    size_bytes: u64,
    limits: &Limits,
    now: &Conditions,
    retired: Vec<RunId>,
) -> Plan {
    let useful_bytes = limits.useful_bytes(pattern.bytes_per_s(), &now.link);
    let wanted_bytes = pattern.earned_bytes().max(MIN_WINDOW_BYTES).min(useful_bytes);
    let window_bytes = wanted_bytes.min(now.share_bytes);
    let get_bytes = limits.get_bytes(window_bytes, now.share_bytes);
    let reach = Reach {
        window_bytes,
        get_bytes,
        size_bytes,
    };
    Plan {
        run: pattern.id,
        demand: round_outwards(request, limits.round_bytes, size_bytes),
        ahead: pattern.ahead(reach, limits),
        get_bytes,
        wanted_bytes,
        expected: ByteRange::new(request.end, request.end),
        retired,
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

    /// True for the very next request of a run of several.
    fn is_continued_by(&self, request: ByteRange) -> bool {
        self.is_sequential() && request.start == self.end
    }

    /// Adds a request to the run; true when the run's end moved forward.
    fn extend(&mut self, request: ByteRange, number: u64, limits: &Limits, at: Duration) -> bool {
        let advances = request.end > self.end;
        if self.retired {
            self.retired = false;
            self.start = request.start;
        }
        self.pace
            .note(at, request.end.saturating_sub(self.end), self.window_bytes);
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

    fn earned_bytes(&self) -> u64 {
        if self.is_sequential() {
            self.extent_bytes().saturating_mul(2).max(MIN_WINDOW_BYTES)
        } else {
            0
        }
    }

    fn wanted_bytes(&self, limits: &Limits, link: &Link) -> u64 {
        self.earned_bytes()
            .min(limits.useful_bytes(self.pace.bytes_per_s(), link))
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
        self.cap_bytes = (self.window_bytes / 2).max(MIN_WINDOW_BYTES.min(self.cap_bytes));
    }

    /// Where it was is remembered; that it was sequential has to be shown again.
    fn retire(&mut self) {
        self.retired = true;
        self.start = self.end;
        self.planned_until = self.end;
        self.pace = Pace::default();
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
