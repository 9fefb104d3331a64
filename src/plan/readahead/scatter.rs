//! Whether what lies around a request is of use.
//!
//! 1. It is where requests come near each other, if not in a row: the pages of a database's tables and indexes, a file's
//!    header. Then the whole block is fetched. Where requests are scattered over a large object, what was fetched around them
//!    is transferred in vain, which takes longer than anything else but the way there and back.
//! 2. What was fetched around a request stays for a while: so a request is near if it is in a block that one of the last
//!    [`REMEMBERED`] was in, or goes on where one ended.
//! 3. A few scattered requests say nothing, and neither does one near another by chance: most of the last [`WINDOW`] count.

use std::collections::VecDeque;

/// In blocks of 64 KiB about as much as a handle keeps of what was read in part.
const REMEMBERED: usize = 512;
/// Of so many requests is counted how many came near others.
const WINDOW: u32 = 32;
/// So many are enough to tell.
const TELLING: u32 = 8;
/// Requests are scattered while no more than this part of them is near others.
const NEAR_PART: u32 = 8;

/// The requests of one handle, as far as that matters here.
#[derive(Debug, Default)]
pub struct Scatter {
    /// The newest last.
    blocks: VecDeque<u64>,
    /// A bit for each of the last requests: it was near another. The newest is the lowest one.
    near: u32,
    seen: u32,
}

impl Scatter {
    /// Notes a request that begins in `block`, and says whether it is one of many scattered ones. `goes_on`: it continues what
    /// was read before.
    pub fn takes(&mut self, block: u64, goes_on: bool) -> bool {
        let is_known = if goes_on {
            self.blocks.back() == Some(&block)
        } else {
            self.blocks.contains(&block)
        };
        let is_near = goes_on || is_known;
        self.near = self.near << 1 | u32::from(is_near);
        self.seen = (self.seen + 1).min(WINDOW);
        if !is_known {
            if self.blocks.len() == REMEMBERED {
                self.blocks.pop_front();
            }
            self.blocks.push_back(block);
        }
        !is_near && self.seen >= TELLING && self.near.count_ones() * NEAR_PART <= self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::mixed;

    #[test]
    fn requests_are_scattered_once_several_were_and_while_most_are() {
        let mut scatter = Scatter::default();
        let scattered: Vec<bool> = (0..40).map(|n| scatter.takes(n * 100, false)).collect();
        assert_eq!(scattered.iter().filter(|scattered| !**scattered).count(), 7);
        // One near another is fetched as such, and changes nothing for those after it.
        assert!(!scatter.takes(300, false));
        assert!(scatter.takes(77, false));
        for n in 0..10 {
            assert!(!scatter.takes(1_000_000 + n, true));
        }
        assert!(
            !scatter.takes(5_000_000, false),
            "a third of the last ones went on"
        );
    }

    #[test]
    fn a_small_object_and_a_busy_part_of_a_large_one_are_not_scattered_over() {
        for blocks in [400, 2_000] {
            let mut scatter = Scatter::default();
            let is_scattered = |n: &u64| scatter.takes(mixed(*n) % blocks, false);
            let scattered: Vec<u64> = (1..5_000).filter(is_scattered).collect();
            // Until there were enough for the next ones to be near them, and seldom by chance.
            let late = scattered.iter().filter(|n| **n > 600).count();
            assert!(late <= 450, "{late} of {blocks} blocks");
        }
    }
}
