//! Fewer requests for a bucket that asks for it: each SlowDown doubles the delay between requests, each
//! success takes a sixteenth off. Buckets that never complain are not in the table at all.

use crate::rt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const FIRST_GAP: Duration = Duration::from_millis(10);
pub(super) const LARGEST_GAP: Duration = Duration::from_secs(1);
const SMALLEST_GAP: Duration = Duration::from_millis(2);

struct Slowed {
    gap: Duration,
    /// When the next request may start.
    next: rt::Instant,
}

#[derive(Default)]
pub(super) struct Pace {
    buckets: Mutex<HashMap<Arc<str>, Slowed>>,
}

impl Pace {
    /// Waits for this request's turn; false when that does not come within `limit`. Whoever gives up leaves no gap behind.
    pub(super) async fn wait(&self, bucket: &str, limit: Duration) -> bool {
        let deadline = rt::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(rt::now());
            if let Some(delay) = self.claim(bucket, left) {
                if !delay.is_zero() {
                    rt::sleep(delay).await;
                }
                return true;
            }
            if left.is_zero() {
                return false;
            }
            // A bucket that has recovered has no queue any more.
            rt::sleep(left.min(LARGEST_GAP)).await;
        }
    }

    /// How long to wait for the next free turn, which is taken; `None` when it is later than `within`.
    fn claim(&self, bucket: &str, within: Duration) -> Option<Duration> {
        let mut buckets = self.lock();
        let Some(slowed) = buckets.get_mut(bucket) else {
            return Some(Duration::ZERO);
        };
        let now = rt::now();
        let start = slowed.next.max(now);
        let delay = start - now;
        if delay > within {
            return None;
        }
        slowed.next = start + slowed.gap;
        Some(delay)
    }

    pub(super) fn slow_down(&self, bucket: &str) {
        let mut buckets = self.lock();
        let now = rt::now();
        let slowed = buckets.entry(bucket.into()).or_insert(Slowed {
            gap: FIRST_GAP / 2,
            next: now,
        });
        slowed.gap = (slowed.gap * 2).min(LARGEST_GAP);
    }

    pub(super) fn succeeded(&self, bucket: &str) {
        let mut buckets = self.lock();
        if let Some(slowed) = buckets.get_mut(bucket) {
            slowed.gap -= slowed.gap / 16;
            if slowed.gap < SMALLEST_GAP {
                buckets.remove(bucket);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Slowed>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_are_spread_after_a_complaint_and_free_again_after_successes() {
        let pace = Pace::default();
        let claim = |bucket| pace.claim(bucket, Duration::MAX).expect("no limit");
        assert_eq!(claim("b"), Duration::ZERO);
        pace.slow_down("b");
        pace.slow_down("b");
        let delays: Vec<u128> = (0..3).map(|_| claim("b").as_millis()).collect();
        assert_eq!(delays, [0, 20, 40]);
        assert_eq!(claim("other"), Duration::ZERO);
        for _ in 0..100 {
            pace.succeeded("b");
        }
        assert!(pace.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_would_wait_for_too_long_gives_up_in_time() {
        let pace = Pace::default();
        for _ in 0..10 {
            pace.slow_down("b");
        }
        let limit = Duration::from_secs(60);
        let started = rt::now();
        let all = futures_util::future::join_all((0..200).map(|_| pace.wait("b", limit))).await;
        // One a second, the first at once.
        assert_eq!(all.iter().filter(|&&came| came).count(), 61);
        assert_eq!(started.elapsed().as_secs(), 60);
    }
}
