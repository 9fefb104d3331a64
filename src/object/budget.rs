//! One hard budget for all data buffers of a mount.
//!
//! Difficulties, and who solves each:
//! 1. Nobody overtakes: who waits is served in order of arrival, and [`Budget::try_acquire`] takes nothing while somebody
//!    waits. So a large claim is not starved by small ones.
//! 2. Memory that is held only because it may be useful is given back at once when it is short ([`Reclaim::reclaim`]), first
//!    what matters least to anybody ([`Need`]);
//!    memory that holds the only copy of something needs work first (an upload, a write to the spool), which is begun
//!    in the background ([`Reclaim::relieve`]). Neither is called while a lock of the budget is held.
//! 3. What cannot be freed now may be freeable a moment later without the budget being told: who waits asks again, every
//!    [`ASK_AGAIN`].
//! 4. Loading what is elsewhere (spool, source version) in order to send it holds memory while the loader waits for more
//!    of it: such claims together take at most a quarter of the budget ([`Budget::acquire_for_load`]).
//! 5. What was written and cannot be put anywhere must not take all there is: sending it may need memory for what lies around
//!    it. So writes leave some free ([`Budget::acquire_for_write`]), more than all loads may take together, which others may
//!    have, and what waits for that only does not make others wait.
//! 6. Touching fresh memory costs more than filling it: buffers of the usual size are kept for the next user, inside the
//!    budget, and are the first to go.

use super::sharing::Sharing;
use crate::base::error::{Error, ErrorKind, Result};
use crate::rt;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// How often a claim that waits looks again for what can be given back.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// The size of buffers that are kept for reuse.
pub const KEPT_BUFFER_BYTES: u64 = 1 << 20;
/// At most this many buffers are kept, and at most an eighth of the budget.
const MAX_KEPT_BUFFERS: u64 = 16;
/// Claims for loads are counted in these units.
const LOAD_UNIT_BYTES: u64 = 1 << 10;

/// Every buffer of file data is covered by a permit of this budget.
pub struct Budget {
    limit_bytes: u64,
    stall_timeout: Duration,
    state: Mutex<State>,
    reclaimers: Mutex<Vec<Weak<dyn Reclaim>>>,
    /// Whom to ask first the next time.
    turn: AtomicUsize,
    loads: Arc<Semaphore>,
    waiting_loads: AtomicUsize,
    ended_loads: AtomicUsize,
    sharing: Sharing,
}

#[derive(Default)]
struct State {
    /// Granted and not given back, kept buffers included.
    used_bytes: u64,
    waiters: VecDeque<Waiter>,
    /// Buffers of [`KEPT_BUFFER_BYTES`] that nobody uses.
    kept: Vec<Vec<u8>>,
}

struct Waiter {
    claim: Claim,
    grant: oneshot::Sender<Permit>,
}

#[derive(Clone, Copy)]
struct Claim {
    bytes: u64,
    /// This much is to be free beside them.
    leaves_bytes: u64,
}

impl Claim {
    fn of(bytes: u64) -> Self {
        Self {
            bytes,
            leaves_bytes: 0,
        }
    }
}

/// Counted while it lives, also where its claim is given up.
struct WaitingLoad<'a>(&'a AtomicUsize);

impl<'a> WaitingLoad<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for WaitingLoad<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A claim on `bytes`; given back when dropped.
pub struct Permit {
    budget: Arc<Budget>,
    bytes: u64,
}

/// A claim for bytes that are loaded in order to be sent.
pub struct LoadPermit {
    memory: Permit,
    _lane: OwnedSemaphorePermit,
}

impl Drop for LoadPermit {
    fn drop(&mut self) {
        self.memory.budget.ended_loads.fetch_add(1, Ordering::Relaxed);
    }
}

/// What memory is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Reading ahead, which can be left: what was fetched ahead for others and not read yet is worth as much.
    Ahead,
    /// Somebody waits.
    Now,
}

/// Something that can give memory back when others wait for it: clean blocks of a reader, uploaded chunks of a writer.
pub trait Reclaim: Send + Sync {
    /// Frees at least `wanted_bytes` if it can, by dropping permits; returns what it freed. Never blocks.
    ///
    /// Is called on the thread that claims memory: so nobody claims memory while holding a lock that this takes.
    fn reclaim(&self, wanted_bytes: u64, need: Need) -> u64;

    /// Begins to free memory that needs work first; returns how much is on its way. Never blocks; by default nothing.
    fn relieve(&self, _wanted_bytes: u64) -> u64 {
        0
    }
}

/// The units that all loads have together.
fn load_units(limit_bytes: u64) -> u64 {
    (limit_bytes / 4).div_ceil(LOAD_UNIT_BYTES)
}

impl Budget {
    pub fn new(limit_bytes: u64, stall_timeout: Duration) -> Arc<Self> {
        let load_units = load_units(limit_bytes).min(Semaphore::MAX_PERMITS as u64);
        Arc::new(Self {
            limit_bytes,
            stall_timeout,
            state: Mutex::default(),
            reclaimers: Mutex::default(),
            turn: AtomicUsize::new(0),
            loads: Arc::new(Semaphore::new(load_units as usize)),
            waiting_loads: AtomicUsize::new(0),
            ended_loads: AtomicUsize::new(0),
            sharing: Sharing::new(limit_bytes),
        })
    }

    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// What is taken now, without the buffers that are kept for reuse.
    pub fn used_bytes(&self) -> u64 {
        let state = self.state();
        state.used_bytes - state.kept_bytes()
    }

    /// How the readers of this memory get on with each other.
    pub fn sharing(&self) -> &Sharing {
        &self.sharing
    }

    /// Without waiting; asks reclaimers first. `None` also while others wait.
    pub fn try_acquire(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        self.try_acquire_for(bytes, Need::Now)
    }

    /// The same, but takes nothing away from others who read ahead.
    pub fn try_acquire_ahead(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        self.try_acquire_for(bytes, Need::Ahead)
    }

    /// As [`Self::try_acquire`], for [`Self::acquire_for_write`].
    pub fn try_acquire_for_write(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        self.try_claim(self.claim_for_write(bytes), Need::Now)
    }

    fn try_acquire_for(self: &Arc<Self>, bytes: u64, need: Need) -> Option<Permit> {
        self.try_claim(Claim::of(bytes), need)
    }

    fn try_claim(self: &Arc<Self>, claim: Claim, need: Need) -> Option<Permit> {
        let short_bytes = match self.take(claim) {
            Ok(permit) => return Some(permit),
            Err(Taken::InTurn) => return None,
            Err(Taken::Short(short_bytes)) => short_bytes,
        };
        if claim.bytes > self.limit_bytes || self.reclaim(short_bytes, need) == 0 {
            return None;
        }
        self.take(claim).ok()
    }

    /// A part is at most a quarter of the budget, and reading what belongs into it needs a little more.
    fn claim_for_write(&self, bytes: u64) -> Claim {
        Claim {
            bytes,
            leaves_bytes: (self.limit_bytes / 3).min(self.limit_bytes.saturating_sub(bytes)),
        }
    }

    /// Waits in order of arrival.
    ///
    /// # Errors
    /// `TimedOut` after the stall time-out; `Internal` for more than the whole budget.
    pub async fn acquire(self: &Arc<Self>, bytes: u64) -> Result<Permit> {
        self.acquire_claim(Claim::of(bytes)).await
    }

    /// The same for bytes that stay until they are sent: a third of the budget is left for others.
    ///
    /// # Errors
    /// As [`Self::acquire`].
    pub async fn acquire_for_write(self: &Arc<Self>, bytes: u64) -> Result<Permit> {
        self.acquire_claim(self.claim_for_write(bytes)).await
    }

    async fn acquire_claim(self: &Arc<Self>, claim: Claim) -> Result<Permit> {
        let bytes = claim.bytes;
        if bytes > self.limit_bytes {
            let message = format!("{bytes} bytes asked of a memory budget of {}", self.limit_bytes);
            return Err(Error::new(ErrorKind::Internal, message));
        }
        if let Some(permit) = self.try_claim(claim, Need::Now) {
            return Ok(permit);
        }
        let (grant, mut granted) = oneshot::channel();
        let grants = {
            let mut state = self.state();
            state.waiters.push_back(Waiter { claim, grant });
            self.due_grants(&mut state)
        };
        self.hand_out(grants);
        let deadline = rt::now() + self.stall_timeout;
        loop {
            self.nudge();
            let left = deadline.saturating_duration_since(rt::now());
            match rt::timeout(left.min(ASK_AGAIN), &mut granted).await {
                Ok(Ok(permit)) => return Ok(permit),
                Ok(Err(_)) => return Err(Error::new(ErrorKind::Internal, "a claim on memory was forgotten")),
                Err(_) if left.is_zero() => return self.give_up(granted, bytes),
                Err(_) => {}
            }
        }
    }

    /// The same for bytes that are loaded in order to be sent; all of these together take at most a quarter of the budget,
    /// unless a single one is larger.
    ///
    /// # Errors
    /// As [`Self::acquire`]; the stall time-out begins anew whenever another load has ended, as these may be many, and slow.
    pub async fn acquire_for_load(self: &Arc<Self>, bytes: u64) -> Result<LoadPermit> {
        let all = load_units(self.limit_bytes);
        let units = u32::try_from(bytes.div_ceil(LOAD_UNIT_BYTES).min(all)).unwrap_or(u32::MAX);
        let mut turn = std::pin::pin!(self.loads.clone().acquire_many_owned(units));
        let lane = loop {
            let ended = self.ended_loads.load(Ordering::Relaxed);
            match rt::timeout(self.stall_timeout, &mut turn).await {
                Ok(lane) => break lane,
                Err(_) if self.ended_loads.load(Ordering::Relaxed) != ended => {}
                Err(_) => return Err(self.stalled(bytes)),
            }
        };
        let lane = lane.map_err(|_| Error::new(ErrorKind::ShuttingDown, "the memory budget is closed"))?;
        let _waiting = WaitingLoad::new(&self.waiting_loads);
        Ok(LoadPermit {
            memory: self.acquire(bytes).await?,
            _lane: lane,
        })
    }

    /// True while something cannot be sent because there is no memory to load it into.
    pub fn has_waiting_loads(&self) -> bool {
        self.waiting_loads.load(Ordering::Relaxed) > 0
    }

    /// `reclaimer` is asked from now on whenever memory is short, until it is gone.
    pub fn add_reclaimer(&self, reclaimer: Weak<dyn Reclaim>) {
        let mut reclaimers = self.reclaimers();
        if reclaimers.len() == reclaimers.capacity() {
            reclaimers.retain(|reclaimer| reclaimer.strong_count() > 0);
        }
        reclaimers.push(reclaimer);
    }

    /// Something can be reclaimed that could not before: looks whether anybody waits for it.
    pub fn nudge(&self) {
        let short_bytes = {
            let state = self.state();
            let claims = || state.waiters.iter().map(|waiter| waiter.claim);
            let wanted: u64 = claims().map(|claim| claim.bytes).sum();
            let left: u64 = claims().map(|claim| claim.leaves_bytes).max().unwrap_or(0);
            if wanted == 0 {
                0
            } else {
                (wanted + left)
                    .min(self.limit_bytes)
                    .saturating_sub(self.free_bytes(&state))
            }
        };
        if short_bytes > 0 {
            let left = short_bytes.saturating_sub(self.reclaim(short_bytes, Need::Now));
            self.relieve(left);
        }
    }

    fn take(self: &Arc<Self>, claim: Claim) -> std::result::Result<Permit, Taken> {
        let mut state = self.state();
        let is_before =
            |waiter: &Waiter| claim.leaves_bytes > 0 || !self.waits_for_others(&state, waiter.claim);
        if state.waiters.iter().any(is_before) {
            return Err(Taken::InTurn);
        }
        let wanted_bytes = claim.bytes + claim.leaves_bytes;
        let free_bytes = self.free_bytes(&state);
        if wanted_bytes > free_bytes {
            return Err(Taken::Short(wanted_bytes - free_bytes));
        }
        self.make_room_from_kept(&mut state, claim.bytes);
        state.used_bytes += claim.bytes;
        Ok(Permit {
            budget: self.clone(),
            bytes: claim.bytes,
        })
    }

    /// What is not out; what is kept for reuse is not.
    fn free_bytes(&self, state: &State) -> u64 {
        self.limit_bytes - (state.used_bytes - state.kept_bytes())
    }

    /// True when there is memory for it, but then too little would be left.
    fn waits_for_others(&self, state: &State, claim: Claim) -> bool {
        let free_bytes = self.free_bytes(state);
        claim.bytes <= free_bytes && claim.bytes + claim.leaves_bytes > free_bytes
    }

    fn make_room_from_kept(&self, state: &mut State, bytes: u64) {
        while bytes > self.limit_bytes - state.used_bytes && state.kept.pop().is_some() {
            state.used_bytes -= KEPT_BUFFER_BYTES;
        }
    }

    fn give_up(&self, mut granted: oneshot::Receiver<Permit>, bytes: u64) -> Result<Permit> {
        granted.close();
        if let Ok(permit) = granted.try_recv() {
            return Ok(permit);
        }
        self.state().waiters.retain(|waiter| !waiter.grant.is_closed());
        Err(self.stalled(bytes))
    }

    fn stalled(&self, bytes: u64) -> Error {
        let message = format!(
            "no memory for {bytes} bytes within {:?}: the budget of {} bytes is taken",
            self.stall_timeout, self.limit_bytes
        );
        Error::new(ErrorKind::TimedOut, message)
    }

    /// The claims at the head of the queue that fit now; they are counted as taken. Those that would leave too little stay
    /// where they are, and what leaves nothing passes them.
    fn due_grants(&self, state: &mut State) -> Vec<Waiter> {
        let mut due = Vec::new();
        let mut passed = 0;
        while let Some(next) = state.waiters.get(passed) {
            let claim = next.claim;
            if next.grant.is_closed() {
                state.waiters.remove(passed);
                continue;
            }
            if claim.leaves_bytes > 0 && (passed > 0 || self.waits_for_others(state, claim)) {
                passed += 1;
                continue;
            }
            if claim.bytes > self.free_bytes(state) {
                break;
            }
            self.make_room_from_kept(state, claim.bytes);
            state.used_bytes += claim.bytes;
            due.extend(state.waiters.remove(passed));
        }
        due
    }

    /// Without the lock: a waiter that is gone lets its permit drop, which takes the lock.
    fn hand_out(self: &Arc<Self>, due: Vec<Waiter>) {
        for waiter in due {
            drop(waiter.grant.send(Permit {
                budget: self.clone(),
                bytes: waiter.claim.bytes,
            }));
        }
    }

    fn give_back(self: &Arc<Self>, bytes: u64) {
        let due = {
            let mut state = self.state();
            state.used_bytes -= bytes;
            self.due_grants(&mut state)
        };
        self.hand_out(due);
    }

    fn reclaim(&self, wanted_bytes: u64, need: Need) -> u64 {
        let ask =
            |wanted_bytes, need| self.ask(wanted_bytes, |reclaimer, bytes| reclaimer.reclaim(bytes, need));
        let freed_bytes = ask(wanted_bytes, Need::Ahead);
        match need {
            Need::Ahead => freed_bytes,
            Need::Now => freed_bytes + ask(wanted_bytes.saturating_sub(freed_bytes), Need::Now),
        }
    }

    fn relieve(&self, wanted_bytes: u64) {
        self.ask(wanted_bytes, |reclaimer, bytes| reclaimer.relieve(bytes));
    }

    fn ask(&self, wanted_bytes: u64, give: impl Fn(&dyn Reclaim, u64) -> u64) -> u64 {
        if wanted_bytes == 0 {
            return 0;
        }
        let mut reclaimers: Vec<_> = self.reclaimers().iter().filter_map(Weak::upgrade).collect();
        // Not always the same one loses what it has.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let first = turn.checked_rem(reclaimers.len()).unwrap_or(0);
        reclaimers.rotate_left(first);
        let mut given_bytes = 0;
        for reclaimer in reclaimers {
            if given_bytes >= wanted_bytes {
                break;
            }
            given_bytes += give(&*reclaimer, wanted_bytes - given_bytes);
        }
        given_bytes
    }

    /// No code that holds this lock can panic half-way through a change, so a poisoned lock is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reclaimers(&self) -> MutexGuard<'_, Vec<Weak<dyn Reclaim>>> {
        self.reclaimers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Taken {
    /// Others wait: no overtaking.
    InTurn,
    /// This much is missing.
    Short(u64),
}

impl State {
    fn kept_bytes(&self) -> u64 {
        self.kept.len() as u64 * KEPT_BUFFER_BYTES
    }
}

impl Permit {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `bytes` (at most all) out of this permit into one of their own.
    #[must_use]
    pub fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            budget: self.budget.clone(),
            bytes,
        }
    }

    /// An empty buffer of this permit's size, perhaps one that was used before.
    #[must_use]
    pub fn into_buffer(self) -> Buffer {
        let mut data = None;
        if self.bytes == KEPT_BUFFER_BYTES {
            data = self.budget.state().kept.pop();
            if data.is_some() {
                // Its memory is covered by this permit from now on.
                self.budget.give_back(KEPT_BUFFER_BYTES);
            }
        }
        let data = data.unwrap_or_else(|| Vec::with_capacity(self.bytes as usize));
        Buffer { data, permit: self }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.give_back(self.bytes);
        }
    }
}

/// Memory with the permit that covers it; never grows beyond it.
pub struct Buffer {
    data: Vec<u8>,
    permit: Permit,
}

impl Buffer {
    pub fn capacity(&self) -> usize {
        self.permit.bytes as usize
    }

    pub fn room(&self) -> usize {
        self.capacity() - self.data.len()
    }

    /// Appends as much of `data` as there is room for; returns how much.
    pub fn append(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.room());
        self.data.extend_from_slice(&data[..taken]);
        taken
    }

    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.permit.bytes != KEPT_BUFFER_BYTES || self.data.capacity() as u64 != KEPT_BUFFER_BYTES {
            return;
        }
        let budget = self.permit.budget.clone();
        let mut state = budget.state();
        let max_kept = MAX_KEPT_BUFFERS.min(budget.limit_bytes / 8 / KEPT_BUFFER_BYTES);
        if state.waiters.is_empty() && (state.kept.len() as u64) < max_kept {
            let mut data = std::mem::take(&mut self.data);
            data.clear();
            state.kept.push(data);
            // The budget itself holds the claim now.
            self.permit.bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const LONG: Duration = Duration::from_hours(1);

    /// Holds permits that it gives back when asked.
    struct Holder(Mutex<Vec<Permit>>);

    impl Reclaim for Holder {
        fn reclaim(&self, wanted_bytes: u64, _need: Need) -> u64 {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let mut freed = 0;
            while freed < wanted_bytes {
                let Some(permit) = held.pop() else { break };
                freed += permit.bytes();
            }
            freed
        }
    }

    #[test]
    fn it_never_grants_more_than_its_limit() {
        let budget = Budget::new(100, LONG);
        let first = budget.try_acquire(60);
        assert!(first.is_some());
        assert!(budget.try_acquire(41).is_none());
        let second = budget.try_acquire(40);
        assert!(second.is_some());
        drop(first);
        assert_eq!(budget.used_bytes(), 40);
        assert!(budget.try_acquire(60).is_some());
    }

    #[test]
    fn what_others_can_spare_is_taken_back() {
        let budget = Budget::new(100, LONG);
        let held = (0..10).filter_map(|_| budget.try_acquire(10)).collect();
        let holder = Arc::new(Holder(Mutex::new(held)));
        let reclaimer: Weak<dyn Reclaim> = Arc::downgrade(&(holder.clone() as Arc<dyn Reclaim>));
        budget.add_reclaimer(reclaimer);
        let permit = budget.try_acquire(25);
        assert!(permit.is_some());
        assert_eq!(holder.0.lock().map(|held| held.len()).ok(), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_cannot_be_met_ends_after_the_stall_timeout() {
        let budget = Budget::new(100, Duration::from_mins(1));
        let _all = budget.try_acquire(100);
        let start = rt::now();
        let error = budget.acquire(1).await.err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::TimedOut));
        assert_eq!(rt::now() - start, Duration::from_mins(1));
        assert_eq!(
            budget.acquire(101).await.err().map(|error| error.kind()),
            Some(ErrorKind::Internal)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn small_claims_do_not_overtake_a_large_one() {
        let budget = Budget::new(100, LONG);
        let half = budget.try_acquire(50);
        let order = Arc::new(AtomicU64::new(0));
        let claim = |bytes: u64| {
            let (budget, order) = (budget.clone(), order.clone());
            rt::spawn(async move {
                let _permit = budget.acquire(bytes).await?;
                Ok::<_, Error>(order.fetch_add(1, Ordering::Relaxed))
            })
        };
        let large = claim(100);
        tokio::task::yield_now().await;
        let small = claim(1);
        tokio::task::yield_now().await;
        assert!(budget.try_acquire(1).is_none());
        drop(half);
        assert_eq!(large.await.expect("no panic").ok(), Some(0));
        assert_eq!(small.await.expect("no panic").ok(), Some(1));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_given_up_while_waiting_takes_nothing() {
        let budget = Budget::new(100, LONG);
        let all = budget.try_acquire(100);
        let gone = rt::timeout(Duration::from_secs(1), budget.acquire(50)).await;
        assert!(gone.is_err());
        drop(all);
        assert!(budget.try_acquire(100).is_some());
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_becomes_reclaimable_while_a_claim_waits_is_found() {
        let budget = Budget::new(100, LONG);
        let holder = Arc::new(Holder(Mutex::new(Vec::new())));
        let reclaimer: Weak<dyn Reclaim> = Arc::downgrade(&(holder.clone() as Arc<dyn Reclaim>));
        budget.add_reclaimer(reclaimer);
        let all = budget.try_acquire(100).expect("all is free");
        let later = async {
            rt::sleep(Duration::from_secs(5)).await;
            holder.0.lock().unwrap_or_else(PoisonError::into_inner).push(all);
        };
        let (permit, ()) = tokio::join!(budget.acquire(10), later);
        assert_eq!(permit.map(|permit| permit.bytes()).ok(), Some(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_waits_for_its_turn_as_long_as_others_come_to_an_end() {
        let budget = Budget::new(100 * LOAD_UNIT_BYTES, Duration::from_secs(10));
        let load = |takes_s: u64| {
            let budget = budget.clone();
            async move {
                let permit = budget.acquire_for_load(25 * LOAD_UNIT_BYTES).await?;
                rt::sleep(Duration::from_secs(takes_s)).await;
                drop(permit);
                Ok(())
            }
        };
        let kind = |result: Result<()>| result.map_err(|error| error.kind());
        let loads = [8, 8, 8, 30, 1].map(load);
        let ended = futures_util::future::join_all(loads).await;
        let ended: Vec<_> = ended.into_iter().map(kind).collect();
        let no_end = Err(ErrorKind::TimedOut);
        assert_eq!(ended, [Ok(()), Ok(()), Ok(()), Ok(()), no_end]);
    }

    #[test]
    fn kept_buffers_are_reused_and_given_up_when_memory_is_short() {
        let budget = Budget::new(8 * KEPT_BUFFER_BYTES, LONG);
        let mut buffer = budget.try_acquire(KEPT_BUFFER_BYTES).expect("free").into_buffer();
        assert_eq!(buffer.append(b"abc"), 3);
        let place = buffer.bytes().as_ptr();
        drop(buffer);
        assert_eq!(budget.used_bytes(), 0);
        let again = budget.try_acquire(KEPT_BUFFER_BYTES).expect("free").into_buffer();
        assert_eq!(again.bytes().as_ptr(), place);
        assert!(again.bytes().is_empty());
        drop(again);
        assert!(budget.try_acquire(8 * KEPT_BUFFER_BYTES).is_some());
    }
}
