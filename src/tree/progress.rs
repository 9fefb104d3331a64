//! What a long directory rename tells the log: how far it is, every so often, and what it came to.

use super::moves::Move;
use crate::rt::{self, Instant};
use std::time::Duration;

const TOLD_EVERY: Duration = Duration::from_secs(10);
/// What is smaller is over in moments, and not told.
const TOLD_FROM_OBJECTS: u64 = 1_000;

/// One of the two steps of a rename.
pub(super) struct Progress<'a> {
    step: &'static str,
    way: &'a Move,
    objects: u64,
    bytes: u64,
    told_at: Instant,
}

impl<'a> Progress<'a> {
    pub fn of(step: &'static str, way: &'a Move) -> Self {
        Self {
            step,
            way,
            objects: 0,
            bytes: 0,
            told_at: rt::now(),
        }
    }

    /// So many more are done.
    pub fn advance(&mut self, objects: u64, bytes: u64) {
        self.objects += objects;
        self.bytes += bytes;
        if rt::now() - self.told_at >= TOLD_EVERY {
            self.told_at = rt::now();
            self.tell("a directory is being renamed");
        }
    }

    pub fn finish(self) {
        if self.objects >= TOLD_FROM_OBJECTS {
            self.tell("a step of a directory's rename is done");
        }
    }

    fn tell(&self, what: &str) {
        let (from, to) = (self.way.from.key.prefix(), self.way.to.key.prefix());
        let (step, objects, bytes) = (self.step, self.objects, self.bytes);
        tracing::info!(from, to, step, objects, bytes, "{what}");
    }
}
