//! Programs whose open was sent back: the kernel walks their path once more, and gives up if that open fails too.
//!
//! Which request is such a second one nothing says but its thread, which waits in open(2) meanwhile.

use super::lock;
use lru::LruCache;
use std::num::NonZeroUsize;
use std::sync::Mutex;

/// Threads that are remembered: so many opens may be on their way back at a time.
// unwrap: the number is not zero, which the compiler checks.
const MAX_THREADS: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();

pub(crate) struct SentBack(Mutex<LruCache<u32, ()>>);

impl Default for SentBack {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_THREADS)))
    }
}

impl SentBack {
    /// An open of this thread is sent back.
    pub fn note(&self, thread: u32) {
        lock(&self.0).put(thread, ());
    }

    /// Whether the last open of this thread was sent back. Threads of which this mount cannot know (number 0: they are outside of
    /// its PID namespace) are taken for such.
    pub fn comes_again(&self, thread: u32) -> bool {
        thread == 0 || lock(&self.0).pop(&thread).is_some()
    }
}
