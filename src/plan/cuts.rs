//! Where the listing of a large tree is cut, so that its ranges can be listed beside each other.
//!
//! Difficulties, and what solves each:
//! 1. *No directory may be in two ranges.* A cut is the key that the directory `a/` of the root has without its slash: all
//!    of `a/` sorts behind that, and whatever directory sorts around it is none below the root.
//! 2. *A page that reaches over a cut shows what the next range shows too.* So a cut is put where a whole number of pages
//!    is expected to end a little later: as many directories on as held so many keys lately ([`Cuts::behind`]).

use crate::base::names::DirectoryKey;
use std::collections::VecDeque;

/// Pages that say how many keys a directory holds.
const REMEMBERED_PAGES: usize = 16;
/// A range is expected to be shorter than its pages by this share: one key too many is one page more.
const MARGIN_SHARE: u64 = 64;

/// What is known of the directories that stand directly in the root of a walk.
pub struct Cuts {
    /// Where each may be cut off, in the order of bytes.
    stems: Vec<String>,
    /// Keys of the last pages, and the directories they were of, twice: a begun one counts half.
    pages: VecDeque<(u64, u64)>,
}

impl Cuts {
    /// Of the directories that a listing of `root` shows, in any order.
    #[must_use]
    pub fn new<'a>(root: &str, directories: impl Iterator<Item = &'a DirectoryKey>) -> Self {
        let stem = |directory: &'a DirectoryKey| {
            let stem = directory.prefix().strip_suffix('/')?;
            let name = stem.strip_prefix(root)?;
            (!directory.is_partial() && !name.contains('/')).then(|| stem.to_owned())
        };
        let mut stems: Vec<String> = directories.filter_map(stem).collect();
        stems.sort_unstable();
        stems.dedup();
        Self {
            stems,
            pages: VecDeque::new(),
        }
    }

    /// A page of a range showed `keys` keys behind `from`, the last of which was `to`. `is_first` and `is_last` of the range.
    pub fn note_page(&mut self, from: &str, to: &str, keys: usize, is_first: bool, is_last: bool) {
        let begun_before = self.stems.partition_point(|stem| stem.as_str() < from);
        let begun = self.stems.partition_point(|stem| stem.as_str() <= to);
        let whole = 2 * begun.saturating_sub(begun_before) as u64 + u64::from(is_last);
        self.pages
            .push_back((keys as u64, whole.saturating_sub(u64::from(is_first))));
        if self.pages.len() > REMEMBERED_PAGES {
            self.pages.pop_front();
        }
    }

    /// Where to cut so that what is behind `from` up to there is expected to be just less than `keys`; `None` where there is
    /// nothing to go by, or where no directory begins behind that.
    #[must_use]
    pub fn behind(&self, from: &str, keys: u64) -> Option<&str> {
        let (seen, halves) = self.seen();
        if seen == 0 {
            return None;
        }
        let directories = (keys - keys.div_ceil(MARGIN_SHARE)) * halves / (2 * seen);
        let rest = self.rest(from);
        // Else it is within a directory, and the next one may begin another range.
        let begins = rest.first().is_some_and(|stem| stem == from);
        let at = usize::try_from(directories).ok()?.max(usize::from(begins));
        rest.get(at).map(String::as_str)
    }

    /// How many keys are expected to be behind `from`.
    #[must_use]
    pub fn expected_keys(&self, from: &str) -> u64 {
        let (seen, halves) = self.seen();
        self.rest(from).len() as u64 * 2 * seen / halves.max(1)
    }

    /// The directories that begin behind `from`, or with it.
    fn rest(&self, from: &str) -> &[String] {
        let begins = self.stems.partition_point(|stem| stem.as_str() < from);
        &self.stems[begins..]
    }

    /// Keys, and half directories, of the last pages.
    fn seen(&self) -> (u64, u64) {
        let add = |sum: (u64, u64), page: &(u64, u64)| (sum.0 + page.0, sum.1 + page.1);
        self.pages.iter().fold((0, 0), add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: impl Iterator<Item = String>) -> Cuts {
        let keys: Vec<DirectoryKey> = names.map(|name| DirectoryKey::root(&name)).collect();
        Cuts::new("r/", keys.iter())
    }

    fn thousand() -> Cuts {
        of((0..1_000).map(|i| format!("r/p{i:03}/")))
    }

    #[test]
    fn a_range_is_expected_to_end_on_its_last_page() {
        let mut cuts = thousand();
        assert_eq!(cuts.behind("r/p001", 4_000), None, "nothing was seen");
        cuts.note_page("r/p001", "r/p010/f", 1_000, true, false);
        // Ten directories, of which the last may go on.
        assert_eq!(cuts.behind("r/p010/f", 1_000), Some("r/p020"));
        cuts.note_page("r/p010/f", "r/p020/f", 1_000, false, false);
        cuts.note_page("r/p020/f", "r/p030/f", 1_000, false, false);
        cuts.note_page("r/p030/f", "r/p039/f", 900, false, true);
        // A hundred keys in each.
        assert_eq!(cuts.behind("r/p040", 4_000), Some("r/p079"));
        assert_eq!(cuts.behind("r/p990", 4_000), None, "it goes on to the end");
        assert_eq!(cuts.expected_keys("r/p990"), 1_000);
    }

    #[test]
    fn a_large_directory_is_not_cut() {
        let mut cuts = of(["r/a/", "r/b/", "r/c/"].map(str::to_owned).into_iter());
        cuts.note_page("r/a", "r/a/x", 1_000, true, false);
        cuts.note_page("r/a/x", "r/a/y", 1_000, false, false);
        assert_eq!(cuts.behind("r/a/y", 1_000), Some("r/b"), "behind what it is in");
        assert_eq!(cuts.behind("r/b", 1_000), Some("r/c"), "one whole, at least");
    }

    #[test]
    fn only_what_stands_directly_in_the_root_is_a_place_to_cut() {
        let cuts = of(["r/a/b/", "q/", "r/c/"].map(str::to_owned).into_iter());
        assert_eq!(cuts.stems, ["r/c"]);
    }
}
