//! The only place that spawns, sleeps, reads a clock or draws randomness, so that tests can hold all of it.

use std::future::Future;
use std::time::{Duration, SystemTime};

pub use tokio::runtime::Handle;
pub use tokio::task::JoinHandle;
pub use tokio::time::{Instant, error::Elapsed};

/// The runtime of a mount: a few worker threads for requests, more for blocking file work as it comes.
///
/// # Errors
/// When the system refuses threads.
pub fn build() -> std::io::Result<tokio::runtime::Runtime> {
    let workers = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 8);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("pailfs-worker")
        .enable_all()
        .build()
}

/// Runs `future` in the background of the current runtime.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

/// Runs blocking file work on a thread of its own.
///
/// # Panics
/// When `work` panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Stops this thread, not a task: only inside of [`blocking`] work and before there is a runtime.
pub fn sleep_blocking(duration: Duration) {
    std::thread::sleep(duration);
}

/// # Errors
/// [`Elapsed`] when `duration` passed first; `future` is dropped then.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout(duration, future).await
}

/// The monotonic clock; stands still in tests that pause it.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// The clock on the wall.
#[must_use]
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// A random number below `bound` (which is not zero).
#[must_use]
pub fn random_below(bound: u64) -> u64 {
    fastrand::u64(..bound)
}

/// A random identifier of 128 bits in lower-case hex.
#[must_use]
pub fn random_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

/// Runs `work` on a thread of its own, which ends by itself.
///
/// # Errors
/// When the system refuses a thread.
pub fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
}
