//! Walkers of trees that a flat listing runs ahead of: what they are told, and what it costs.

use super::*;
use crate::plan::entries::{DirectoryEntries, Entry};
use crate::plan::testing::{object, repeatable};
use proptest::prelude::*;
use std::collections::BTreeSet;

const PAGE_KEYS: usize = 1_000;

/// A bucket, and who walks through it. Requests are answered when the test says so.
struct World {
    keys: BTreeSet<String>,
    page_keys: usize,
    ranges: Ranges<()>,
    on_their_way: Vec<PageRequest>,
    brought: BTreeMap<String, Vec<Entry>>,
    pages: usize,
    /// Directories that the walker had to list by itself.
    own_listings: Vec<String>,
    /// How often the walker waited for what was on its way.
    rounds: usize,
    most_at_once: usize,
    disorder: bool,
}

impl World {
    /// Somebody who has listed `root` begins to read `from`.
    fn new(keys: BTreeSet<String>, page_keys: usize, root: &str, from: &str) -> Self {
        let root = DirectoryKey::root(root);
        let mut ranges = Ranges::new(&root, ListingOrder::Bytes, from, page_keys, 10_000);
        let below: BTreeSet<&str> = keys.iter().filter_map(|key| child(root.prefix(), key)).collect();
        let below: Vec<DirectoryKey> = below.into_iter().map(DirectoryKey::root).collect();
        ranges.may_cut_at(below.iter());
        Self {
            keys,
            page_keys,
            ranges,
            on_their_way: Vec::new(),
            brought: BTreeMap::new(),
            pages: 0,
            own_listings: Vec::new(),
            rounds: 0,
            most_at_once: 0,
            disorder: false,
        }
    }

    fn send(&mut self) {
        while let Some(request) = self.ranges.next_request(|| ()) {
            let same = |other: &&PageRequest| other.range == request.range;
            assert_eq!(self.on_their_way.iter().find(same), None, "one after the other");
            self.on_their_way.push(request);
        }
        self.most_at_once = self.most_at_once.max(self.on_their_way.len());
        let read = self.ranges.read_keys;
        let page = self.page_keys as u64;
        let on_their_way = self.on_their_way.len() as u64 * page;
        // Who waits for a directory that has begun has more listed for it.
        let wanted = page * 2 * (1 + self.own_listings.len() as u64);
        let unread = self.ranges.listed_keys - read + on_their_way;
        assert!(unread <= 2 * (2 * page + read) + wanted, "{unread} after {read}");
        let ahead = self.ranges.unread_ahead_keys + on_their_way;
        assert!(ahead <= 2 * (MAX_AHEAD_KEYS + page) + wanted, "{ahead} ahead");
    }

    fn answer(&mut self, index: usize) {
        let request = self.on_their_way.remove(index);
        let position = request.continuation.or(request.start_after).unwrap_or_default();
        let root = self.ranges.root.prefix();
        let mut rest = self
            .keys
            .range::<str, _>((Bound::Excluded(&*position), Bound::Unbounded))
            .filter(|key| key.starts_with(root));
        let objects: Vec<_> = rest
            .by_ref()
            .take(self.page_keys)
            .map(|key| object(key))
            .collect();
        let last = objects.last().map(|last| last.key.clone());
        let page = Page {
            continuation: last.filter(|_| rest.next().is_some()),
            objects,
        };
        self.pages += 1;
        match self.ranges.absorb(request.range, page, |_| false) {
            Ok(brought) => self.brought.extend(brought.into_iter().filter_map(|one| {
                one.asked?;
                Some((
                    one.directory.directory.prefix().to_owned(),
                    one.directory.entries?,
                ))
            })),
            Err(Disorder) => self.disorder = true,
        }
    }

    /// `next` says which of so many requests is answered first.
    fn read(&mut self, prefix: &str, next: &mut impl FnMut(usize) -> usize) -> Vec<Entry> {
        let mut waited = Waited::default();
        while !self.brought.contains_key(prefix) && self.ranges.outlook(prefix, &mut waited) == Outlook::Wait
        {
            self.send();
            self.rounds += 1;
            assert!(!self.on_their_way.is_empty(), "{prefix} is waited for in vain");
            let index = next(self.on_their_way.len());
            self.answer(index);
        }
        let entries = self.brought.remove(prefix);
        self.ranges.has_read(prefix);
        self.send();
        entries.unwrap_or_else(|| {
            self.own_listings.push(prefix.to_owned());
            delimited(&self.keys, prefix)
        })
    }

    /// All that is on its way arrives.
    fn answer_all(&mut self) {
        for _ in 0..self.on_their_way.len() {
            self.answer(0);
        }
    }
}

/// The directory directly in `root` that the key is below.
fn child<'a>(root: &str, key: &'a str) -> Option<&'a str> {
    let slash = key.strip_prefix(root)?.find('/')?;
    Some(&key[..=root.len() + slash])
}

/// What a listing with a delimiter shows of a directory.
fn delimited(keys: &BTreeSet<String>, prefix: &str) -> Vec<Entry> {
    let (mut objects, mut prefixes) = (Vec::new(), BTreeSet::new());
    for key in keys.iter().filter(|key| key.starts_with(prefix)) {
        match child(prefix, key) {
            Some(child) => _ = prefixes.insert(child.to_owned()),
            None => objects.push(object(key)),
        }
    }
    let mut entries = DirectoryEntries::new(DirectoryKey::root(prefix), ListingOrder::Bytes);
    entries.push_page(objects, prefixes.into_iter().collect(), true)
}

fn wide(directories: usize, files: usize) -> BTreeSet<String> {
    let file = |d: usize| (0..files).map(move |f| format!("r/p{d:04}/f{f:04}"));
    (0..directories).flat_map(file).collect()
}

/// Who reads the first `count` directories, with a link on which all that was sent arrives together.
fn walk_wide(directories: usize, files: usize, count: usize) -> World {
    let mut world = World::new(wide(directories, files), PAGE_KEYS, "r/", "r/p0001/");
    for d in 1..count {
        let prefix = format!("r/p{d:04}/");
        let mut waited = Waited::default();
        while !world.brought.contains_key(&prefix) {
            if world.ranges.outlook(&prefix, &mut waited) != Outlook::Wait {
                world.own_listings.push(prefix.clone());
                break;
            }
            world.send();
            world.rounds += 1;
            world.answer_all();
        }
        world.brought.remove(&prefix);
        world.ranges.has_read(&prefix);
        world.send();
    }
    world
}

#[test]
fn a_wide_tree_is_listed_in_few_rounds_and_few_pages() {
    let world = walk_wide(1_000, 100, 1_000);
    assert_eq!(world.own_listings, [""; 0]);
    assert!(world.pages <= 106, "{} pages", world.pages);
    assert!(world.rounds <= 30, "{} rounds", world.rounds);
    assert!(world.ranges.is_whole());
}

#[test]
fn who_stops_early_has_caused_few_pages_more() {
    // A thousand keys were read, of one page.
    let world = walk_wide(1_000, 100, 11);
    assert!(
        world.pages + world.on_their_way.len() <= 4,
        "{} pages",
        world.pages
    );
    let world = walk_wide(1_000, 100, 2);
    assert_eq!(world.pages + world.on_their_way.len(), 2);
}

#[test]
fn who_reads_slowly_has_little_ahead() {
    let mut world = World::new(wide(1_000, 100), PAGE_KEYS, "r/", "r/p0001/");
    world.ranges.set_pace(200);
    for d in 1..300 {
        world.read(&format!("r/p{d:04}/"), &mut |_| 0);
        world.answer_all();
        // What was begun when there was less than a page and the pace.
        assert!(world.ranges.unread_ahead_keys <= 1_200 + 2 * 1_000, "at {d}");
    }
    assert_eq!(world.own_listings, [""; 0]);
}

#[test]
fn who_passes_over_most_is_not_held_up_by_that() {
    let mut world = World::new(wide(1_000, 100), PAGE_KEYS, "r/", "r/p0001/");
    world.ranges.set_pace(400);
    // Every other directory: half of all that is listed.
    for d in (1..1_000).step_by(2) {
        world.read(&format!("r/p{d:04}/"), &mut |_| 0);
    }
    assert!(world.own_listings.len() <= 1, "{:?}", world.own_listings);
}

/// Directories of which nobody would have expected that size: the first range must go on, and little comes twice.
#[test]
fn ranges_that_are_longer_than_expected_do_not_hold_up_the_walker() {
    let files = |d: usize| if (40..50).contains(&d) { 2_500 } else { 100 };
    let keys = (0..400usize).flat_map(|d| (0..files(d)).map(move |f| format!("r/p{d:04}/f{f:04}")));
    let mut world = World::new(keys.collect(), PAGE_KEYS, "r/", "r/p0001/");
    for d in 1..400 {
        // The last request first: what is farthest comes first.
        world.read(&format!("r/p{d:04}/"), &mut |count| count - 1);
    }
    // Those that take more than two pages, and a few while it is not clear whether there are others.
    assert!(world.own_listings.len() <= 20, "{:?}", world.own_listings);
    assert!(world.pages <= 64 * 9 / 8 + 12, "{} pages", world.pages);
}

#[test]
fn an_order_that_is_not_the_assumed_one_voids_everything() {
    for keys in [["r/b/1", "r/a/1"], ["r/a/1", "r/a/0"]] {
        let mut ranges: Ranges<()> =
            Ranges::new(&DirectoryKey::root("r/"), ListingOrder::Bytes, "r/a/", 2, 10);
        let request = ranges.next_request(|| ()).expect("the first page");
        let page = Page {
            objects: keys.map(object).to_vec(),
            continuation: None,
        };
        let absorbed = ranges.absorb(request.range, page, |_| false);
        assert_eq!(absorbed.expect_err("not in order"), Disorder);
    }
    // Across pages.
    let mut ranges: Ranges<()> = Ranges::new(&DirectoryKey::root("r/"), ListingOrder::Bytes, "r/b/", 2, 10);
    let request = ranges.next_request(|| ()).expect("the first page");
    let page = Page {
        objects: vec![object("r/a/1")],
        continuation: None,
    };
    let absorbed = ranges.absorb(request.range, page, |_| false);
    assert_eq!(absorbed.expect_err("before its beginning"), Disorder);
}

#[test]
fn where_there_is_no_order_nothing_is_cut() {
    let mut ranges: Ranges<()> = Ranges::new(&DirectoryKey::root("r/"), ListingOrder::None, "r/m/", 2, 10);
    let children = ["r/a/", "r/m/", "r/n/", "r/o/"].map(DirectoryKey::root);
    ranges.may_cut_at(children.iter());
    let request = ranges.next_request(|| ()).expect("the first page");
    assert_eq!(request.start_after, None);
    let page = Page {
        objects: ["r/n/1", "r/m/1"].map(object).to_vec(),
        continuation: Some("more".to_owned()),
    };
    ranges.absorb(request.range, page, |_| false).expect("any order");
    ranges.has_read("r/n/");
    ranges.next_request(|| ()).expect("the next page");
    assert_eq!(ranges.next_request(|| ()), None);
}

fn trees() -> impl Strategy<Value = BTreeSet<String>> {
    // Few and many in each, and names around the slash.
    let directory = ("[a-d][!-0a]?(/[ab]{1,2}){0,2}", 1..40usize);
    proptest::collection::vec(directory, 1..60).prop_map(|directories| {
        let files = |(name, count): (String, usize)| (0..count).map(move |f| format!("r/{name}/f{f}"));
        directories.into_iter().flat_map(files).collect()
    })
}

proptest! {
    #![proptest_config(repeatable())]
    /// Whatever tree, in whatever order replies come, and whichever directories the walker leaves out.
    #[test]
    fn a_walker_reads_what_is_there_and_little_is_listed_in_vain(
        keys in trees(),
        page_keys in 2..30usize,
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 64),
        leaves_out in prop_oneof![Just(0u8), Just(3), Just(7)],
        seen in prop_oneof![Just(u64::MAX), 0..100u64],
    ) {
        let directories: BTreeSet<String> = keys
            .iter()
            .flat_map(|key| key.match_indices('/').map(|(at, _)| key[..=at].to_owned()))
            .filter(|prefix| prefix.len() > "r/".len())
            .collect();
        let first = directories.first().expect("some").clone();
        let mut world = World::new(keys.clone(), page_keys, "r/", &first);
        world.ranges.set_pace(seen);
        let mut turn = 0;
        let mut next = |count: usize| {
            turn += 1;
            picks[turn % picks.len()].index(count)
        };
        let mut left_out = 0;
        for (number, directory) in directories.iter().enumerate() {
            if leaves_out > 0 && number % 8 < usize::from(leaves_out) {
                left_out += 1;
                continue;
            }
            let entries = world.read(directory, &mut next);
            prop_assert_eq!(entries, delimited(&keys, directory), "{}", directory);
        }
        prop_assert!(!world.disorder);
        let needed = keys.len().div_ceil(page_keys);
        // A jump leaves behind what was on its way.
        let most = needed * 9 / 8 + 4 + MAX_RANGES + left_out * MAX_RANGES;
        prop_assert!(world.pages <= most, "{} pages for {}", world.pages, needed);
    }
}
