//! Fewer requests for a bucket that asks for it: each SlowDown doubles the delay between requests, each
//! success takes a sixteenth off. Buckets that never complain are not in the table at all.

use crate::rt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const FIRST_GAP: Duration = Duration::from_millis(10);
const LARGEST_GAP: Duration = Duration::from_secs(1);
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
    /// Waits for this request's turn.
    pub(super) async fn wait(&self, bucket: &str) {
        let delay = self.claim(bucket);
        if !delay.is_zero() {
            rt::sleep(delay).await;
        }
    }

    fn claim(&self, bucket: &str) -> Duration {
        let mut buckets = self.lock();
        let Some(slowed) = buckets.get_mut(bucket) else {
            return Duration::ZERO;
        };
        let now = rt::now();
        let start = slowed.next.max(now);
        slowed.next = start + slowed.gap;
        start - now
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
        assert_eq!(pace.claim("b"), Duration::ZERO);
        pace.slow_down("b");
        pace.slow_down("b");
        let delays: Vec<u128> = (0..3).map(|_| pace.claim("b").as_millis()).collect();
        assert_eq!(delays, [0, 20, 40]);
        assert_eq!(pace.claim("other"), Duration::ZERO);
        for _ in 0..100 {
            pace.succeeded("b");
        }
        assert!(pace.lock().is_empty());
    }
}
