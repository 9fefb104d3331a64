//! What tests on a real mount share.
//!
//! Difficulties, and who solves each:
//! 1. A filesystem under test may hang, and whoever touches it hangs too: [`command`] runs programs under a deadline
//!    that kills them and tells where they hung, and every [`mount`] has a watchdog that kills its daemon.
//! 2. A failing test must not leave mounts or processes behind: [`mount::Mount`] and [`server`] clean up when dropped,
//!    also while panicking, and what they start dies with the thread that started it.
//! 3. One test, several stores: [`store`] hides which one it is, and [`s3`] is the other program that uses the bucket.
//! 4. Many tests at once: everything has its own directory and port; nothing is global.

pub mod command;
pub mod daemon_log;
pub mod files;
pub mod lease;
pub mod moto;
pub mod mount;
pub mod processes;
pub mod s3;
pub mod seaweed;
pub mod server;
pub mod store;

use std::time::{Duration, Instant};

/// How long a condition may take to become true on a slow, busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Asks again and again until there is an answer; the test fails when there is none within [`PATIENCE`].
#[track_caller]
pub fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    match poll(PATIENCE, ask) {
        Some(answer) => answer,
        None => panic!("waited {PATIENCE:?} in vain for: {what}"),
    }
}

/// As [`wait_for`], for a condition.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}

/// Asks until there is an answer; `None` when there was none for so long.
pub fn poll<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Bytes in which every place looks different; the same for the same seed.
pub fn pattern(len_bytes: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; len_bytes];
    fastrand::Rng::with_seed(seed).fill(&mut data);
    data
}

/// True when a test has to fail rather than be skipped for want of something.
pub fn must_not_skip() -> bool {
    std::env::var_os("CI").is_some()
}

/// True in the long, nightly run.
pub fn is_nightly() -> bool {
    std::env::var_os("PAILFS_TEST_LONG").is_some_and(|value| value == "1")
}

pub fn is_root() -> bool {
    // SAFETY: no preconditions, cannot fail (credentials(7)).
    unsafe { libc::geteuid() == 0 }
}
