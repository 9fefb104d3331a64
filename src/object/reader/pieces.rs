//! The pieces of one version that are in memory or on their way, shared by all handles that read it.
//!
//! Difficulties, and who solves them:
//! 1. No byte is fetched twice by readers that want it at the same time: pieces never overlap, and a piece is in
//!    the map from the moment somebody decided to fetch it ([`Pieces::insert`]).
//! 2. Memory comes from a budget that may call back ([`Reclaim`]) and that other work waits for. So the lock of the
//!    map is never held while a permit is taken or dropped; only the first missing piece of a read waits for memory
//!    (in its fetch's task, holding nothing), everything else is fetched ahead only if there is memory now; and
//!    whatever nobody is about to read can be taken away, arrived or not ([`Pieces::reclaim`]). A read holds one
//!    piece at a time.
//! 3. Fetching ahead must not take away what was fetched ahead: with little memory, streams would fetch the same data
//!    again and again, each at the expense of the others ([`Need`]). What was fetched for somebody who does not read is
//!    an exception.
//! 4. What was read is kept briefly, for repeated and overtaken reads, but the kernel's page cache keeps it longer:
//!    the oldest goes when a bound is reached ([`State::trim`]), and its memory, still warm and still covered by
//!    its permit, is used for the next piece ([`State::spares`]).
//! 5. A failed piece gives its error to the reads that waited for it, and the next read fetches again: failed pieces
//!    count as missing ([`State::gaps`]).

use super::fetch::{self, Source};
use super::piece::{Fetch, Grant, Held, Piece};
use crate::base::limits::{KIB, MIB};
use crate::base::object::ByteRange;
use crate::object::budget::{Need, Reclaim};
use crate::object::sharing::Owner;
use crate::plan::readahead::{self, Limits, Plan};
use crate::rt;
use crate::s3::BodyReader;
use crate::s3::silence;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Longest piece: long enough that its bookkeeping costs nothing, short enough to be given back soon.
const MAX_PIECE_BYTES: u64 = MIB;
const MIN_PIECE_BYTES: u64 = 4 * KIB;
/// What stays of data that was read to its end: the kernel's requests overtake each other by less.
const KEEP_FINISHED_BYTES: u64 = 4 * MIB;
/// What stays of data that was read in part.
const KEEP_READ_BYTES: u64 = 32 * MIB;
/// Of either so many pieces: they are looked through after each read, and short ones are seldom read again.
const KEEP_PIECES: usize = 512;
/// So many pieces that were read in part are kept from those who fetch ahead: more than a handle has streams.
const SPARED_PIECES: usize = 8;
/// Buffers kept for the next pieces: as many as one long GET has.
const MAX_SPARES: usize = 8;

/// How it went to follow a plan, for the history it was made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// There was no memory to fetch ahead from here on.
    pub denied_at: Option<u64>,
    /// Something that had been fetched ahead was taken away before it was read.
    pub lost: bool,
}

pub struct Pieces {
    source: Arc<Source>,
    limits: Limits,
    piece_bytes: u64,
    keep_finished_bytes: u64,
    keep_read_bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By their start; they do not overlap.
    slots: BTreeMap<u64, Slot>,
    /// Memory of former pieces of the full length.
    spares: Vec<Grant>,
    /// Counts uses, to tell older from newer ones.
    uses: u64,
}

struct Slot {
    piece: Arc<Piece>,
    owner: Option<Owner>,
    used: Used,
    last_use: u64,
}

/// What readers had of a piece, in the order in which pieces are taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Used {
    ToItsEnd,
    InPart,
    NotYet,
}

impl Pieces {
    pub fn new(source: Arc<Source>) -> Self {
        let budget_bytes = source.budget.limit_bytes();
        let piece_bytes = (budget_bytes / 8).clamp(MIN_PIECE_BYTES, MAX_PIECE_BYTES);
        let limits = Limits::for_budget(budget_bytes);
        Self {
            source,
            // A request's rounding stays within one piece.
            piece_bytes: readahead::power_of_two_below(piece_bytes).max(limits.round_bytes),
            limits,
            keep_finished_bytes: KEEP_FINISHED_BYTES.min(budget_bytes / 8),
            keep_read_bytes: KEEP_READ_BYTES.min(budget_bytes / 8),
            state: Mutex::default(),
        }
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// No code that holds this lock can panic half-way through a change, so a poisoned lock is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts what `plan` says and is missing. The piece that covers the start of `request` is held.
    pub fn follow(&self, plan: &Plan, owner: Owner, request: ByteRange) -> (Held, Followed) {
        let at = request.start;
        let mut followed = Followed::default();
        let mut failed = Vec::new();
        let (mut held, gaps) = {
            let mut state = self.state();
            let mut gaps = state.gaps(plan.demand, &mut failed);
            followed.lost = gaps.iter().any(|gap| overlaps(*gap, plan.expected));
            state.adopt(plan.demand, owner);
            for ahead in &plan.ahead {
                for gap in state.gaps(*ahead, &mut failed) {
                    match gaps.last_mut() {
                        Some(last) if last.end == gap.start => last.end = gap.end,
                        _ => gaps.push(gap),
                    }
                }
                state.adopt(*ahead, owner);
            }
            (state.hold(at, request.end), gaps)
        };
        drop(failed);
        // Where the piece is not there, one of the gaps contains `at`: it is fetched first, in any case.
        for pieces in gaps
            .iter()
            .flat_map(|gap| readahead::divide(*gap, plan.get_bytes, self.piece_bytes))
        {
            let is_needed = held.is_none() && pieces.iter().any(|piece| contains(*piece, at));
            if is_needed {
                held = self.insert(&pieces, Some(owner), Some(request), &mut followed);
            } else if followed.denied_at.is_none() {
                self.insert(&pieces, Some(owner), None, &mut followed);
            }
        }
        let held = held.unwrap_or_else(|| self.hold_or_fetch(request));
        (held, followed)
    }

    /// Holds the piece that covers the start of `request`; fetches it (and, if there is memory, what else is missing of
    /// the request) if it is not there.
    pub fn hold_or_fetch(&self, request: ByteRange) -> Held {
        loop {
            let mut failed = Vec::new();
            let gap = {
                let mut state = self.state();
                if let Some(held) = state.hold(request.start, request.end) {
                    return held;
                }
                let gaps = state.gaps(self.rounded(request), &mut failed);
                gaps.into_iter().find(|gap| contains(*gap, request.start))
            };
            drop(failed);
            // Another read may have begun to fetch it since: then it is found in the next turn.
            let Some(gap) = gap else { continue };
            let gets = readahead::divide(gap, self.limits.max_get_bytes, self.piece_bytes);
            let Some(first) = gets.first() else { continue };
            if let Some(held) = self.insert(first, None, Some(request), &mut Followed::default()) {
                return held;
            }
        }
    }

    fn rounded(&self, range: ByteRange) -> ByteRange {
        let round = self.limits.round_bytes;
        let end = range
            .end
            .next_multiple_of(round)
            .min(self.source.version.size_bytes);
        ByteRange::new(range.start - range.start % round, end)
    }

    /// Begins one GET for `ranges` (consecutive), or for as many of them as there is memory for and as are still
    /// missing. With `needed_for`, the first is begun in any case, and the piece at that request's start is held.
    /// `None` when it was not needed, or its place was taken meanwhile by a piece that cannot serve.
    fn insert(
        &self,
        ranges: &[ByteRange],
        owner: Option<Owner>,
        needed_for: Option<ByteRange>,
        followed: &mut Followed,
    ) -> Option<Held> {
        let mut grants = self.grants(ranges, needed_for.is_some());
        if grants.len() < ranges.len() {
            followed.denied_at = followed
                .denied_at
                .or(ranges.get(grants.len()).map(|range| range.start));
        }
        let begun_without_memory = grants.is_empty() && needed_for.is_some();
        let wanted = if begun_without_memory { 1 } else { grants.len() };
        let (pieces, fetch, held) = {
            let mut state = self.state();
            let free = ranges[..wanted]
                .iter()
                .take_while(|range| state.is_free(**range))
                .count();
            let fetch = Fetch::of(free);
            let mut grants = grants.drain(..free.min(grants.len()));
            let pieces: Vec<_> = ranges[..free]
                .iter()
                .map(|range| Piece::new(*range, fetch.clone(), grants.next()))
                .collect();
            for piece in &pieces {
                state.add(piece.clone(), owner);
            }
            (
                pieces,
                fetch,
                needed_for.and_then(|request| state.hold(request.start, request.end)),
            )
        };
        if !pieces.is_empty() {
            fetch.runs_in(rt::spawn(silence::as_part_of_it(fetch::run(
                self.source.clone(),
                pieces,
            ))));
        }
        held
    }

    /// The body of a GET that is arriving, of the first bytes (or all) of the object, becomes the first pieces, as
    /// far as there is memory now: a body may keep a connection, so it never waits for memory.
    pub fn insert_body(&self, body: BodyReader, range: ByteRange) {
        let ranges = readahead::divide(range, range.len().max(1), self.piece_bytes).concat();
        let grants = self.grants(&ranges, true);
        let ranges = &ranges[..grants.len()];
        let fetch = Fetch::of(ranges.len());
        let pieces: Vec<_> = ranges
            .iter()
            .zip(grants)
            .map(|(range, grant)| Piece::new(*range, fetch.clone(), Some(grant)))
            .collect();
        let Some(last) = pieces.last() else { return };
        let is_whole = last.range.end == range.end;
        {
            let mut state = self.state();
            for piece in &pieces {
                state.add(piece.clone(), None);
            }
        }
        fetch.runs_in(rt::spawn(fetch::run_from_body(
            self.source.clone(),
            body,
            pieces,
            is_whole,
        )));
    }

    /// Memory for as many of `ranges`, from the first on, as there is now. `is_needed`: somebody waits for the first.
    fn grants(&self, ranges: &[ByteRange], is_needed: bool) -> Vec<Grant> {
        let mut grants = Vec::with_capacity(ranges.len());
        for range in ranges {
            let spare = if range.len() == self.piece_bytes {
                self.state().spares.pop()
            } else {
                None
            };
            let grant = spare.or_else(|| {
                let permit = if is_needed && grants.is_empty() {
                    self.source.budget.try_acquire(range.len())
                } else {
                    self.source.budget.try_acquire_ahead(range.len())
                };
                permit.map(Grant::new)
            });
            match grant {
                Some(grant) => grants.push(grant),
                None => break,
            }
        }
        grants
    }

    /// Ends the holding of a piece of which the bytes up to `end` were read.
    pub fn release(&self, held: Held, end: u64) {
        // Outlives the lock: it may be the last that refers to the piece's permit.
        let piece = held.piece().clone();
        let freed = {
            let mut state = self.state();
            drop(held);
            if state.note_use(&piece, end) {
                state.trim(self.keep_finished_bytes, self.keep_read_bytes, self.piece_bytes)
            } else {
                Vec::new()
            }
        };
        drop(freed);
        // While it was held it could not be taken away; now it can.
        self.source.budget.nudge();
    }

    /// A read of this piece waited in vain: the next one, and others that wait for it, shall send another request.
    pub fn give_up_stalled(&self, held: &Held) {
        let piece = held.piece();
        let removed = {
            let mut state = self.state();
            let is_in_map = state
                .slots
                .get(&piece.range.start)
                .is_some_and(|slot| Arc::ptr_eq(&slot.piece, piece));
            if is_in_map {
                state.slots.remove(&piece.range.start)
            } else {
                None
            }
        };
        if let Some(slot) = removed {
            drop(slot.piece.give_up());
        }
    }

    /// Drops what was fetched ahead for `unwanted` runs and not read.
    pub fn give_up(&self, unwanted: impl Fn(Owner) -> bool) {
        let removed = {
            let mut state = self.state();
            let is_unwanted = |slot: &Slot| {
                slot.used == Used::NotYet && slot.owner.is_some_and(&unwanted) && !slot.piece.is_held()
            };
            let starts: Vec<u64> = state
                .slots
                .iter()
                .filter(|(_, slot)| is_unwanted(slot))
                .map(|(start, _)| *start)
                .collect();
            starts
                .iter()
                .filter_map(|start| state.slots.remove(start))
                .collect::<Vec<_>>()
        };
        for slot in removed {
            drop(slot.piece.give_up());
        }
    }

    /// Nobody will read any more: everything is dropped and requests in flight are ended.
    pub fn close(&self) {
        let State { slots, spares, .. } = std::mem::take(&mut *self.state());
        drop(spares);
        for slot in slots.into_values() {
            drop(slot.piece.give_up());
        }
    }
}

impl Reclaim for Pieces {
    /// Takes, in this order: spare buffers, what was read to its end, what was read in part (each the oldest
    /// first), what was fetched ahead (the newest first: it is what will be needed last). Never what somebody is about to
    /// read.
    fn reclaim(&self, wanted_bytes: u64, need: Need) -> u64 {
        let mut freed_bytes = 0;
        let idle = match need {
            Need::Ahead => self.source.budget.sharing().idle(),
            Need::Now => HashSet::new(),
        };
        let (spares, removed) = {
            let mut state = self.state();
            let mut spares = Vec::new();
            while freed_bytes < wanted_bytes {
                let Some(spare) = state.spares.pop() else { break };
                freed_bytes += self.piece_bytes;
                spares.push(spare);
            }
            let mut removed = Vec::new();
            if freed_bytes < wanted_bytes {
                for start in state.by_uselessness(need, &idle) {
                    let Some(slot) = state.slots.remove(&start) else {
                        continue;
                    };
                    freed_bytes += slot.piece.range.len();
                    removed.push(slot);
                    if freed_bytes >= wanted_bytes {
                        break;
                    }
                }
            }
            (spares, removed)
        };
        drop(spares);
        for slot in removed {
            drop(slot.piece.give_up());
        }
        freed_bytes
    }
}

impl State {
    fn add(&mut self, piece: Arc<Piece>, owner: Option<Owner>) {
        self.uses += 1;
        let slot = Slot {
            owner,
            used: Used::NotYet,
            last_use: self.uses,
            piece,
        };
        self.slots.insert(slot.piece.range.start, slot);
    }

    /// Holds the piece that covers `at` if it can serve all that it has of the bytes up to `end`.
    fn hold(&mut self, at: u64, end: u64) -> Option<Held> {
        let (_, slot) = self.slots.range(..=at).next_back()?;
        let piece = &slot.piece;
        let can_serve = contains(piece.range, at) && piece.can_serve(end.min(piece.range.end));
        can_serve.then(|| Held::new(piece.clone()))
    }

    fn is_free(&self, range: ByteRange) -> bool {
        self.slots
            .range(..range.end)
            .next_back()
            .is_none_or(|(_, slot)| slot.piece.range.end <= range.start)
    }

    /// From now on, what is there of `range` is there for `owner`.
    fn adopt(&mut self, range: ByteRange, owner: Owner) {
        for slot in self.slots.range_mut(range.start..range.end).map(|(_, slot)| slot) {
            slot.owner = Some(owner);
        }
    }

    /// What is missing of `range`. Pieces whose fetch failed are moved to `failed`, for the caller to drop when the
    /// lock is free; reads that wait for them have their error.
    fn gaps(&mut self, range: ByteRange, failed: &mut Vec<Slot>) -> Vec<ByteRange> {
        let first = self
            .slots
            .range(..=range.start)
            .next_back()
            .map_or(range.start, |(start, _)| *start);
        let mut gaps = Vec::new();
        let mut failed_starts = Vec::new();
        let mut at = range.start;
        for (start, slot) in self.slots.range(first..range.end) {
            let piece = slot.piece.range;
            if piece.end <= at {
                continue;
            }
            if !slot.piece.can_serve(piece.end) {
                failed_starts.push(*start);
                continue;
            }
            if piece.start > at {
                gaps.push(ByteRange::new(at, piece.start));
            }
            at = piece.end;
        }
        if at < range.end {
            gaps.push(ByteRange::new(at, range.end));
        }
        failed.extend(failed_starts.iter().filter_map(|start| self.slots.remove(start)));
        gaps
    }

    /// Notes that `piece` was read up to `end`. True when that may be a reason to trim.
    fn note_use(&mut self, piece: &Piece, end: u64) -> bool {
        self.uses += 1;
        let Some(slot) = self.slots.get_mut(&piece.range.start) else {
            return false;
        };
        let before = slot.used;
        slot.used = before.min(if end >= piece.range.end {
            Used::ToItsEnd
        } else {
            Used::InPart
        });
        slot.last_use = self.uses;
        slot.used != before
    }

    /// Removes the oldest of what was read while it is more than what is kept. Returns what the caller has to drop when
    /// the lock is free.
    fn trim(&mut self, keep_finished_bytes: u64, keep_read_bytes: u64, piece_bytes: u64) -> Vec<Grant> {
        let mut freed = Vec::new();
        for (used, keep_bytes) in [
            (Used::ToItsEnd, keep_finished_bytes),
            (Used::InPart, keep_read_bytes),
        ] {
            let of_kind = || self.slots.iter().filter(|(_, slot)| slot.used == used);
            let mut total_bytes: u64 = of_kind().map(|(_, slot)| slot.piece.range.len()).sum();
            let mut pieces = of_kind().count();
            if total_bytes <= keep_bytes && pieces <= KEEP_PIECES {
                continue;
            }
            let mut by_age: Vec<(u64, u64)> = of_kind()
                .filter(|(_, slot)| !slot.piece.is_held() && !slot.piece.is_filling())
                .map(|(start, slot)| (slot.last_use, *start))
                .collect();
            by_age.sort_unstable();
            for (_, start) in by_age {
                if total_bytes <= keep_bytes && pieces <= KEEP_PIECES {
                    break;
                }
                let Some(slot) = self.slots.remove(&start) else {
                    continue;
                };
                total_bytes -= slot.piece.range.len();
                pieces -= 1;
                let Some(grant) = slot.piece.give_up() else {
                    continue;
                };
                if slot.piece.range.len() == piece_bytes && self.spares.len() < MAX_SPARES {
                    self.spares.push(grant);
                } else {
                    freed.push(grant);
                }
            }
        }
        freed
    }

    /// The starts of all pieces whose memory can be taken away, the most useless first.
    /// Reading ahead takes only what was read, except the newest pieces that were read in part (streams are in the middle of
    /// them), and what was fetched for the `idle`.
    fn by_uselessness(&self, need: Need, idle: &HashSet<Owner>) -> Vec<u64> {
        let is_idle = |slot: &Slot| slot.owner.is_some_and(|owner| idle.contains(&owner));
        let can_go = |slot: &Slot| {
            let is_spared = need == Need::Ahead && slot.used == Used::NotYet && !is_idle(slot);
            !is_spared && !slot.piece.is_held() && slot.piece.is_granted()
        };
        let mut candidates: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| can_go(slot))
            .map(|(start, slot)| {
                let age = if slot.used == Used::NotYet {
                    u64::MAX - slot.last_use
                } else {
                    slot.last_use
                };
                ((slot.used, age), *start)
            })
            .collect();
        candidates.sort_unstable();
        if need == Need::Ahead {
            let is_in_part = |((used, _), _): &((Used, u64), u64)| *used == Used::InPart;
            let in_part = candidates
                .iter()
                .filter(|candidate| is_in_part(candidate))
                .count();
            let mut left = in_part.saturating_sub(SPARED_PIECES);
            candidates.retain(|candidate| {
                let goes = !is_in_part(candidate) || left > 0;
                left = left.saturating_sub(usize::from(is_in_part(candidate)));
                goes
            });
        }
        candidates.into_iter().map(|(_, start)| start).collect()
    }
}

fn contains(range: ByteRange, at: u64) -> bool {
    range.start <= at && at < range.end
}

fn overlaps(one: ByteRange, other: ByteRange) -> bool {
    one.start < other.end && other.start < one.end
}
