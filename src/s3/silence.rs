//! How long the store has been away, over all the requests that one operation of the kernel is made of.
//!
//! A close may send several requests one after the other, and each of them would wait for the whole stall time-out before
//! it fails: the data, then a look at what came of it, then what is needed to save the rest. Within
//! [`one_operation`] they share one time-out: it begins with the first request of a row of failed ones, and any answer
//! ends the row. Requests that succeed are never hurried by it.

use crate::rt;
use std::cell::OnceCell;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Clone, Default)]
struct Silence(Arc<Mutex<Option<rt::Instant>>>);

tokio::task_local! {
    /// Made when first needed: most operations send nothing.
    static SILENCE: OnceCell<Silence>;
}

impl Silence {
    fn current() -> Option<Self> {
        SILENCE
            .try_with(|cell| cell.get_or_init(Self::default).clone())
            .ok()
    }

    fn since(&self) -> Option<rt::Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, since: Option<rt::Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// Runs `operation`; its requests share one time-out.
pub async fn one_operation<F: Future>(operation: F) -> F::Output {
    SILENCE.scope(OnceCell::new(), operation).await
}

/// `work`, to be run by another task, as a part of the operation that this is called in.
pub fn as_part_of_it<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let cell = OnceCell::new();
    if let Some(silence) = Silence::current() {
        cell.get_or_init(|| silence);
    }
    SILENCE.scope(cell, work)
}

/// True when a request of this operation has failed because the store did not answer, and none was answered since.
#[must_use]
pub fn is_store_away() -> bool {
    Silence::current().is_some_and(|silence| silence.since().is_some())
}

/// Since when the requests of this operation have failed in a row.
pub(super) fn since() -> Option<rt::Instant> {
    Silence::current().and_then(|silence| silence.since())
}

/// True when this operation has waited for the store long enough.
pub(super) fn is_over(stall_timeout: Duration) -> bool {
    since().is_some_and(|since| since.elapsed() >= stall_timeout)
}

/// A request that began at `began` was not answered.
pub(super) fn failed(began: rt::Instant) {
    if let Some(silence) = Silence::current()
        && silence.since().is_none()
    {
        silence.set(Some(began));
    }
}

/// The store has answered.
pub(super) fn ended() {
    if let Some(silence) = Silence::current() {
        silence.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn requests_of_one_operation_share_one_time_out() {
        one_operation(async {
            let began = rt::now();
            rt::sleep(LIMIT / 2).await;
            failed(began);
            assert!(is_store_away() && !is_over(LIMIT));
            rt::sleep(LIMIT / 2).await;
            failed(rt::now());
            assert!(is_over(LIMIT));
            let elsewhere = as_part_of_it(async { is_over(LIMIT) });
            assert!(rt::spawn(elsewhere).await.expect("ends"));
            assert!(!rt::spawn(async { is_over(LIMIT) }).await.expect("ends"));
            ended();
            assert!(!is_store_away() && !is_over(LIMIT));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_task_learns_counts_for_all() {
        one_operation(async {
            let work = as_part_of_it(async { failed(rt::now()) });
            rt::spawn(work).await.expect("ends");
            assert!(is_store_away());
        })
        .await;
        failed(rt::now());
        assert!(!is_store_away(), "outside of an operation nothing is remembered");
    }
}
