//! Requests at equal distances: columns of a table, a file that is read from its end to its beginning.
//!
//! Difficulties, and who solves them:
//! 1. Chance makes equal distances too: it takes [`TELLING_STEPS`] of them, and a pattern that nothing follows for a while is
//!    dropped by the history.
//! 2. One request in between (a table's index) is not the end of a pattern: what may become another one is followed beside
//!    the one that holds ([`Stride::takes`] says which requests are whose).
//! 3. Elements that touch each other once they are rounded are worth one GET, those far apart are not
//!    ([`Stride::ahead`]); a file read backwards is the case where they always touch.
//! 4. Who reads backwards needs the end of what is ahead first: what is cut is cut in the order of need.

use super::link::Pace;
use super::{Limits, RunId, round_outwards};
use crate::base::object::ByteRange;
use std::time::Duration;

/// So many equal distances in a row are a pattern.
const TELLING_STEPS: u64 = 3;
/// A request may leave out this many elements less one: the kernel had those in its cache.
const LONGEST_SKIP: u64 = 4;
/// An element comes in this many parts at most.
const LONGEST_ELEMENT: u64 = 4;
/// At most so many elements that do not touch are fetched ahead, a GET each.
const MAX_ELEMENTS_AHEAD: u64 = 32;

/// Requests at equal distances, or what may become that.
#[derive(Debug)]
pub struct Stride {
    pub id: RunId,
    pub last_request: u64,
    /// The newest element.
    last: ByteRange,
    /// From one element's start to the next one's; 0 while there is only one.
    delta: i64,
    /// How many equal distances there were in a row.
    steps: u64,
    /// So many elements after `last` were planned.
    planned: u64,
    /// Of the last plan.
    window_bytes: u64,
    pace: Pace,
}

/// How the part ahead of a pattern is to be fetched.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    pub window_bytes: u64,
    pub get_bytes: u64,
    pub size_bytes: u64,
}

impl Stride {
    pub fn begin(id: RunId, request: ByteRange, number: u64) -> Self {
        Self {
            id,
            last_request: number,
            last: request,
            delta: 0,
            steps: 0,
            planned: 0,
            window_bytes: 0,
            pace: Pace::default(),
        }
    }

    pub fn is_pattern(&self) -> bool {
        self.steps >= TELLING_STEPS
    }

    /// How many elements further than the newest one `request` is; `None` when it is not one of this pattern.
    fn steps_to(&self, request: ByteRange) -> Option<u64> {
        if self.delta == 0 {
            return None;
        }
        let distance = distance(self.last, request)?;
        let steps = distance.checked_div(self.delta).filter(|steps| *steps > 0)? as u64;
        // Nothing is left out before the pattern is one.
        let longest = if self.is_pattern() { LONGEST_SKIP } else { 1 };
        (distance % self.delta == 0 && steps <= longest).then_some(steps)
    }

    /// Notes the rest of the newest element, which the kernel may ask for in parts; false for anything else. What goes on for
    /// longer is a stream that began where an element would be.
    pub fn grows(&mut self, request: ByteRange) -> bool {
        let is_before_next = self.delta < 0 || request.end <= self.last.start + self.delta.unsigned_abs();
        let is_short = request.end.saturating_sub(self.last.start) <= LONGEST_ELEMENT * request.len();
        let is_rest = request.start > self.last.start && request.start <= self.last.end;
        let grows = is_rest && is_short && is_before_next;
        if grows {
            self.last.end = self.last.end.max(request.end);
        }
        grows
    }

    /// Notes the next element of this pattern; false for anything else.
    pub fn takes(&mut self, request: ByteRange, number: u64, at: Duration) -> bool {
        let Some(steps) = self.steps_to(request) else {
            return false;
        };
        self.steps += steps;
        self.planned = self.planned.saturating_sub(steps);
        let taken_bytes = self.bytes_per_step().saturating_mul(steps);
        self.pace.note(at, taken_bytes, self.window_bytes);
        // Elements are as long as the longest one: it may have come in parts.
        let len = self.last.len().max(request.len());
        self.last = ByteRange::new(request.start, request.start + len);
        self.last_request = number;
        true
    }

    /// Takes any request: if it is not of this pattern, it is the second one of a new pattern.
    pub fn take(&mut self, request: ByteRange, number: u64, at: Duration) {
        if self.takes(request, number, at) {
            return;
        }
        self.delta = distance(self.last, request).unwrap_or(0);
        self.steps = u64::from(self.delta != 0);
        self.planned = 0;
        self.pace = Pace::default();
        self.last = request;
        self.last_request = number;
    }

    pub fn bytes_per_s(&self) -> u64 {
        self.pace.bytes_per_s()
    }

    /// As much again as what the pattern has shown, as a number of bytes.
    pub fn earned_bytes(&self) -> u64 {
        self.steps.saturating_mul(2).saturating_mul(self.bytes_per_step())
    }

    /// Nothing that was planned is there, or will be: it is planned again.
    pub fn forget_plans(&mut self) {
        self.planned = 0;
    }

    fn bytes_per_step(&self) -> u64 {
        self.last.len().min(self.delta.unsigned_abs())
    }

    /// The elements that are not planned yet and within reach, in the order of need. Planned in lots of half of what is
    /// within reach, so that those which touch come in long GETs.
    pub fn ahead(&mut self, reach: Reach, limits: &Limits) -> Vec<ByteRange> {
        self.window_bytes = reach.window_bytes;
        let until_edge = if self.delta < 0 {
            self.last.start.div_ceil(self.delta.unsigned_abs())
        } else {
            (reach.size_bytes - 1 - self.last.start) / self.delta.unsigned_abs().max(1)
        };
        let touches = self.delta.unsigned_abs() <= self.last.len() + limits.round_bytes;
        let bytes_per_step = if touches {
            self.delta.unsigned_abs()
        } else {
            round_outwards(self.last, limits.round_bytes, reach.size_bytes).len()
        };
        let mut within = reach.window_bytes / bytes_per_step.max(1);
        if !touches {
            within = within.min(MAX_ELEMENTS_AHEAD);
        }
        let within = within.min(until_edge);
        if within < self.planned.saturating_mul(2) && within < until_edge || within <= self.planned {
            return Vec::new();
        }
        let elements = self.planned + 1..=within;
        self.planned = within;
        if touches {
            self.cut(*elements.start(), *elements.end(), reach, limits)
        } else {
            elements
                .map(|step| {
                    round_outwards(
                        self.element(step, reach.size_bytes),
                        limits.round_bytes,
                        reach.size_bytes,
                    )
                })
                .collect()
        }
    }

    /// The element that comes `step` steps after the newest one, as far as it is in the object.
    fn element(&self, step: u64, size_bytes: u64) -> ByteRange {
        let moved = i128::from(self.last.start) + i128::from(self.delta) * i128::from(step);
        let end = moved + i128::from(self.last.len());
        let clamp = |offset: i128| offset.clamp(0, i128::from(size_bytes)) as u64;
        ByteRange::new(clamp(moved), clamp(end))
    }

    /// All from the element `first` to the element `last`, cut into GETs.
    fn cut(&self, first: u64, last: u64, reach: Reach, limits: &Limits) -> Vec<ByteRange> {
        let (one, other) = (
            self.element(first, reach.size_bytes),
            self.element(last, reach.size_bytes),
        );
        let all = ByteRange::new(one.start.min(other.start), one.end.max(other.end));
        let all = round_outwards(all, limits.round_bytes, reach.size_bytes);
        let get_bytes = reach.get_bytes.next_multiple_of(limits.round_bytes);
        let mut gets = Vec::new();
        let mut rest = all;
        while !rest.is_empty() {
            let len = if rest.len() < get_bytes + get_bytes / 2 {
                rest.len()
            } else {
                get_bytes
            };
            let get = if self.delta < 0 {
                ByteRange::new(rest.end - len, rest.end)
            } else {
                ByteRange::new(rest.start, rest.start + len)
            };
            rest = if self.delta < 0 {
                ByteRange::new(rest.start, get.start)
            } else {
                ByteRange::new(get.end, rest.end)
            };
            gets.push(get);
        }
        gets
    }
}

/// From one start to another; `None` where that is more than numbers reach.
fn distance(from: ByteRange, to: ByteRange) -> Option<i64> {
    i64::try_from(i128::from(to.start) - i128::from(from.start)).ok()
}
