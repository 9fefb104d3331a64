//! Ends a test that neither ends nor waits for a timer: a lock that is never released, a loop that never yields.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Real time; everything that is watched works in memory.
const PATIENCE: Duration = Duration::from_secs(120);

/// Stops watching when dropped.
pub struct Watched(Sender<()>);

pub fn watch(what: &str) -> Watched {
    let (done, is_done) = channel();
    let what = what.to_owned();
    std::thread::spawn(move || {
        if is_done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{what} has not ended within {PATIENCE:?} of real time");
            std::process::abort();
        }
    });
    Watched(done)
}
