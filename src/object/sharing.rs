//! What the readers of a mount share besides memory: what the way to the store is like, and who of them may read ahead how
//! far.
//!
//! Difficulties, and who solves them:
//! 1. Whoever came first would keep all the memory, as long as it reads on: each run gets at most an equal share of it, less
//!    where it wants less, and one that has more than its share reads on without asking for more ([`Sharing::wants`]).
//! 2. A handle may read ahead and then stay idle for hours: it counts no longer after [`IDLE`], and what was fetched ahead
//!    for it may be taken by others who read ahead ([`Sharing::idle`]).

use crate::plan::readahead::link::{GetSeen, Link};
use crate::plan::readahead::{Conditions, RunId, shares};
use crate::rt;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A run that asked for nothing for so long is not about to.
const IDLE: Duration = Duration::from_secs(5);
/// How often is looked for those.
const LOOK_FOR_IDLE: Duration = Duration::from_secs(1);

/// A run of one stream: on whose behalf data is fetched ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    pub stream: u64,
    pub run: RunId,
}

pub struct Sharing {
    epoch: rt::Instant,
    /// For all data that is fetched ahead; the rest of the budget is for what is being read and written.
    total_bytes: u64,
    state: Mutex<State>,
}

struct State {
    link: Link,
    runs: HashMap<Owner, Want>,
    share_bytes: u64,
    looked_for_idle: rt::Instant,
}

struct Want {
    bytes: u64,
    asked_at: rt::Instant,
    is_idle: bool,
}

impl Sharing {
    pub fn new(budget_bytes: u64) -> Self {
        let now = rt::now();
        let state = State {
            link: Link::NEW,
            runs: HashMap::new(),
            share_bytes: u64::MAX,
            looked_for_idle: now,
        };
        Self {
            epoch: now,
            total_bytes: budget_bytes / 4 * 3,
            state: Mutex::new(state),
        }
    }

    /// No code that holds this lock can panic half-way through a change, so a poisoned lock is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next plan is to be made for.
    pub fn conditions(&self) -> Conditions {
        let now = rt::now();
        let mut state = self.state();
        if now - state.looked_for_idle >= LOOK_FOR_IDLE {
            state.looked_for_idle = now;
            if state.find_idle(now) {
                state.share(self.total_bytes);
            }
        }
        Conditions {
            at: now - self.epoch,
            link: state.link,
            share_bytes: state.share_bytes,
        }
    }

    pub fn note_get(&self, get: &GetSeen) {
        let at = rt::now() - self.epoch;
        self.state().link.note(at, get);
    }

    /// How much a run would fetch ahead if it had all the memory.
    pub fn wants(&self, owner: Owner, bytes: u64) {
        let asked_at = rt::now();
        let mut state = self.state();
        let want = Want {
            bytes,
            asked_at,
            is_idle: false,
        };
        // Wants grow with each request, shares need not follow each step.
        let is_alike =
            |former: &Want| !former.is_idle && former.bytes.next_power_of_two() == bytes.next_power_of_two();
        if !state
            .runs
            .insert(owner, want)
            .is_some_and(|former| is_alike(&former))
        {
            state.share(self.total_bytes);
        }
    }

    /// These runs will ask for nothing any more.
    pub fn left(&self, has_left: impl Fn(Owner) -> bool) {
        let mut state = self.state();
        let before = state.runs.len();
        state.runs.retain(|owner, _| !has_left(*owner));
        if state.runs.len() != before {
            state.share(self.total_bytes);
        }
    }

    /// Whose data may be given to others who read ahead.
    pub fn idle(&self) -> HashSet<Owner> {
        let mut state = self.state();
        state.find_idle(rt::now());
        let idle = state.runs.iter().filter(|(_, want)| want.is_idle);
        idle.map(|(owner, _)| *owner).collect()
    }
}

impl State {
    /// True when there is one more than before.
    fn find_idle(&mut self, now: rt::Instant) -> bool {
        let mut found = false;
        for want in self.runs.values_mut() {
            if !want.is_idle && now - want.asked_at >= IDLE {
                want.is_idle = true;
                found = true;
            }
        }
        found
    }

    fn share(&mut self, total_bytes: u64) {
        let active = self.runs.values().filter(|want| !want.is_idle);
        self.share_bytes = shares::level(active.map(|want| want.bytes), total_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(stream: u64) -> Owner {
        let run = RunId::default();
        Owner { stream, run }
    }

    #[tokio::test(start_paused = true)]
    async fn shares_are_equal_between_those_who_want_them_and_are_there() {
        let sharing = Sharing::new(400);
        let share = || sharing.conditions().share_bytes;
        assert_eq!(share(), u64::MAX);
        sharing.wants(owner(1), 200);
        assert_eq!(share(), u64::MAX);
        sharing.wants(owner(2), 200);
        assert_eq!(share(), 150);
        sharing.wants(owner(3), 50);
        assert_eq!(share(), 125);
        // The second one goes, the third one reads on, the first one says nothing any more.
        sharing.left(|left| left == owner(2));
        assert_eq!(share(), u64::MAX);
        sharing.wants(owner(3), 200);
        assert_eq!(share(), 150);
        rt::sleep(IDLE / 2).await;
        sharing.wants(owner(3), 200);
        assert!(sharing.idle().is_empty());
        rt::sleep(IDLE / 2).await;
        assert_eq!(share(), u64::MAX);
        assert_eq!(sharing.idle(), HashSet::from([owner(1)]));
        // And goes on.
        sharing.wants(owner(1), 200);
        assert_eq!(share(), 150);
        assert!(sharing.idle().is_empty());
    }
}
