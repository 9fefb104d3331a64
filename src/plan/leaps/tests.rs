//! Listings of large directories of many kinds: what the reader gets, and what it costs.

use super::*;
use crate::plan::testing::{mixed, object, repeatable};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::Bound;

const PAGE_KEYS: usize = 1_000;
const PREFIX: &str = "d/";

/// A directory of a bucket, and who reads it. Requests are answered when the test says so.
struct World {
    keys: BTreeSet<String>,
    page_keys: usize,
    leaps: Leaps,
    on_their_way: Vec<PageRequest>,
    seen: Vec<String>,
    is_whole: bool,
    requests: usize,
    /// How often the reader waited for what was on its way.
    rounds: usize,
    pages: usize,
    most_at_once: usize,
}

impl World {
    fn new(names: impl IntoIterator<Item = String>, page_keys: usize) -> Self {
        let keys = names.into_iter().map(|name| format!("{PREFIX}{name}"));
        Self {
            // What is beside the directory is no concern of its listing.
            keys: keys.chain(["c".to_owned(), "e/f".to_owned()]).collect(),
            page_keys,
            leaps: Leaps::new(PREFIX, page_keys, true),
            on_their_way: Vec::new(),
            seen: Vec::new(),
            is_whole: false,
            requests: 0,
            rounds: 0,
            pages: 0,
            most_at_once: 0,
        }
    }

    fn send(&mut self) {
        while let Some(request) = self.leaps.next_request() {
            let is_same = |other: &&PageRequest| other.number == request.number;
            assert_eq!(
                self.on_their_way.iter().find(is_same),
                None,
                "one after the other"
            );
            self.requests += 1;
            self.on_their_way.push(request);
        }
        self.most_at_once = self.most_at_once.max(self.on_their_way.len());
        let waiting: usize = self.leaps.stretches.iter().map(|one| one.pages.len()).sum();
        let out = waiting + self.on_their_way.len();
        assert!(out <= MOST_PAGES + 1, "{out} pages are out");
        assert!(
            out <= 1 + self.pages / 2,
            "{out} pages are out after {}",
            self.pages
        );
    }

    /// What a listing with a delimiter shows behind a key or common prefix.
    fn page(&self, request: &PageRequest) -> Page {
        let mut from = match (&request.continuation, &request.start_after) {
            (Some(last), _) if last.ends_with('/') => Bound::Included(behind_all_of(last)),
            (Some(last), _) | (None, Some(last)) => Bound::Excluded(last.clone()),
            (None, None) => Bound::Included(PREFIX.to_owned()),
        };
        let mut page = Page::default();
        let mut last = String::new();
        loop {
            let mut rest = self.keys.range::<String, _>((from.clone(), Bound::Unbounded));
            let Some(key) = rest.next().filter(|key| key.starts_with(PREFIX)) else {
                return page;
            };
            if page.objects.len() + page.prefixes.len() == self.page_keys {
                page.continuation = Some(last);
                return page;
            }
            if let Some(slash) = key[PREFIX.len()..].find('/') {
                last = key[..=PREFIX.len() + slash].to_owned();
                page.prefixes.push(last.clone());
                from = Bound::Included(behind_all_of(&last));
            } else {
                last.clone_from(key);
                page.objects.push(object(key));
                from = Bound::Excluded(key.clone());
            }
        }
    }

    fn answer(&mut self, index: usize) {
        let request = self.on_their_way.remove(index);
        let page = self.page(&request);
        self.leaps.absorb(request.number, page);
    }

    /// Reads a page; `arrive` says what comes while the reader waits. False at the end.
    fn read(&mut self, mut arrive: impl FnMut(&mut Self)) -> bool {
        while !self.is_whole {
            let next = self.leaps.next_page();
            self.pages += usize::from(next.is_some());
            self.send();
            if let Some(next) = next {
                let entries = entries(&next.objects, &next.prefixes);
                self.seen.extend(entries);
                self.is_whole = next.is_last;
                return true;
            }
            assert!(!self.on_their_way.is_empty(), "the reader waits in vain");
            self.rounds += 1;
            arrive(self);
        }
        false
    }

    /// On a link on which all that was sent arrives together.
    fn read_all(&mut self) {
        while self.read(|world| (0..world.on_their_way.len()).for_each(|_| world.answer(0))) {}
    }

    /// What one page after the other would show.
    fn plain(&self) -> Vec<String> {
        let (mut all, mut continuation) = (Vec::new(), None);
        loop {
            let request = PageRequest {
                number: 0,
                start_after: None,
                continuation,
            };
            let page = self.page(&request);
            all.extend(entries(&page.objects, &page.prefixes));
            continuation = page.continuation;
            if continuation.is_none() {
                return all;
            }
        }
    }
}

/// The least key behind all that begin with the prefix, which ends in a slash.
fn behind_all_of(prefix: &str) -> String {
    format!("{}0", &prefix[..prefix.len() - 1])
}

fn entries(objects: &[PageObject], prefixes: &[String]) -> Vec<String> {
    let mut all: Vec<String> = objects.iter().map(|object| object.key.clone()).collect();
    all.extend(prefixes.iter().cloned());
    all.sort_unstable();
    all
}

/// All is read, as one page after the other would show it; gives pages, requests and rounds.
fn measured(what: &str, names: impl IntoIterator<Item = String>) -> (usize, usize, usize) {
    let mut world = World::new(names, PAGE_KEYS);
    world.read_all();
    let plain = world.plain();
    assert!(world.seen == plain, "{what} is listed otherwise");
    let pages = plain.len().div_ceil(PAGE_KEYS);
    let most = (pages as f64 * 1.15) as usize + 2 + MOST_PAGES;
    assert!(
        world.requests <= most,
        "{what}: {} for {pages} pages",
        world.requests
    );
    (pages, world.requests, world.rounds)
}

/// Hexadecimal, in no order.
fn hash(n: u64) -> String {
    format!("{:016x}{:016x}", mixed(n), mixed(n ^ 0xABCD_EF01))
}

fn uuid(n: u64) -> String {
    let hash = hash(n);
    let variant = ["8", "9", "a", "b"][(n % 4) as usize];
    [
        &hash[..8],
        &hash[8..12],
        &format!("4{}", &hash[13..16]),
        &format!("{variant}{}", &hash[17..20]),
        &hash[20..],
    ]
    .join("-")
}

fn base62(mut n: u64) -> String {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut name = String::new();
    for _ in 0..10 {
        name.push(char::from(DIGITS[(n % 62) as usize]));
        n /= 62;
    }
    name
}

/// One each `step_s` seconds.
fn date(n: u64, step_s: u64) -> String {
    let (s, day) = (n * step_s % 86_400, n * step_s / 86_400);
    let (h, m, s) = (s / 3_600, s / 60 % 60, s % 60);
    format!(
        "2024-{:02}-{:02}T{h:02}:{m:02}:{s:02}Z.log",
        1 + day / 28,
        1 + day % 28
    )
}

/// Directories whose names go on evenly: the reader waits a fraction as often as there are pages.
#[test]
fn names_that_go_on_evenly_are_listed_at_many_places_at_once() {
    type Kind = (&'static str, fn(u64) -> String);
    let kinds: [Kind; 9] = [
        ("counters", |n| format!("f{n:07}")),
        ("counters without zeros", |n| format!("f{n}")),
        ("counters without zeros, with an ending", |n| format!("f{n}.jpg")),
        ("hashes with an ending", |n| format!("{}.json", hash(n))),
        ("UUIDs", uuid),
        ("base 62", |n| base62(mixed(n))),
        ("times", |n| date(n, 7)),
        ("directories", |n| format!("{n:07}/x")),
        ("counters with holes", |n| {
            format!("part-{:09}", n * 10 + mixed(n) % 10)
        }),
    ];
    for (what, name) in kinds {
        let (pages, requests, rounds) = measured(what, (0..60_000).map(name));
        assert!(
            rounds * 5 <= pages * 2,
            "{what}: {rounds} rounds, {requests} requests for {pages} pages"
        );
    }
}

/// Directories whose names cannot be told: nothing is lost, and little is asked for in vain.
#[test]
fn names_that_go_on_in_no_way_cost_little() {
    let word = |n: u64| -> String {
        let letters = b"etaoinshrdlu";
        let letter = |at: u64| char::from(letters[((mixed(n * 16 + at) % 144) as f64).sqrt() as usize]);
        (0..3 + mixed(n) % 6).map(letter).collect()
    };
    measured("words", (0..40_000).map(word));
    measured(
        "groups",
        (0..40_000).map(|n| format!("g{:03}-{n:06}", mixed(n / 700) % 1_000)),
    );
    let uneven = |n: u64| format!("{:09}", n + (n / 1_500) * (mixed(n / 1_500) % 100_000));
    measured("counters with great holes", (0..40_000).map(uneven));
    let lengths = |n: u64| "x".repeat((mixed(n) % 900) as usize) + &n.to_string();
    measured("names of any length", (0..20_000).map(lengths));
    measured(
        "other letters",
        (0..30_000).map(|n| format!("файл-{}", mixed(n) % 1_000_000)),
    );
    measured(
        "other letters in the end",
        (0..30_000).map(|n| format!("{n:06}é")),
    );
    let kinds = |n: u64| match n % 4 {
        0 => format!("a-{n:06}"),
        1 => hash(n),
        2 => format!("{}/x", hash(n)),
        _ => date(n, 7),
    };
    measured("many kinds", (0..40_000).map(kinds));
}

#[test]
fn a_directory_of_a_few_pages_is_listed_one_page_ahead() {
    for pages in 1..=5 {
        let mut world = World::new((0..pages * PAGE_KEYS).map(|n| format!("{n:05}")), PAGE_KEYS);
        world.read_all();
        assert!(world.seen == world.plain());
        let in_vain = usize::from(pages > LEAST_PAGES);
        assert!(
            world.requests <= pages + in_vain,
            "{} for {pages}",
            world.requests
        );
    }
}

#[test]
fn who_stops_reading_has_cost_half_as_much_again_at_most() {
    for read in [1, 2, 3, 4, 5, 6, 8, 13, 21, 34] {
        let mut world = World::new((0..50_000).map(|n| format!("{n:06}")), PAGE_KEYS);
        for _ in 0..read {
            world.read(|world| (0..world.on_their_way.len()).for_each(|_| world.answer(0)));
        }
        let ahead = (read / 2).clamp(1, MOST_PAGES);
        // And what came twice.
        let most = read + ahead + 2;
        assert!(world.requests <= most, "{} after {read}", world.requests);
        if read < LEAST_PAGES {
            assert_eq!(world.requests, read + 1);
        }
    }
}

/// An answer to a guess that does not show what is known to be there, or shows what was asked to be left out, is not used.
#[test]
fn a_store_that_does_not_list_from_a_key_on_is_listed_one_page_after_the_other() {
    let mut world = World::new((0..50_000).map(|n| format!("{n:06}")), PAGE_KEYS);
    let ignores = |world: &mut World| {
        for _ in 0..world.on_their_way.len() {
            let mut request = world.on_their_way.remove(0);
            request.start_after = None;
            let page = world.page(&request);
            world.leaps.absorb(request.number, page);
        }
    };
    while world.read(ignores) {}
    assert!(world.seen == world.plain());
    assert!(world.requests <= 50 + 2, "{}", world.requests);
}

/// What comes for a guess counts only if it shows what is known to be there.
#[test]
fn a_store_that_begins_too_far_behind_a_key_loses_nothing() {
    let mut world = World::new((0..50_000).map(|n| format!("{n:06}")), PAGE_KEYS);
    let too_far = |world: &mut World| {
        for _ in 0..world.on_their_way.len() {
            let mut request = world.on_their_way.remove(0);
            if let Some(after) = &request.start_after {
                let mut behind = world.keys.range::<String, _>(after.clone()..);
                request.start_after = behind.nth(20).cloned();
            }
            let page = world.page(&request);
            world.leaps.absorb(request.number, page);
        }
    };
    while world.read(too_far) {}
    assert!(world.leaps.last_number > 0, "nothing was guessed");
    assert!(world.seen == world.plain(), "{} of 50,000", world.seen.len());
    assert!(
        world.requests <= 50 + 50 / VAIN_SHARE + VAIN_PAGES + 1,
        "{}",
        world.requests
    );
}

/// As a store that is a tree of directories lists them: `a/` where the name `a` belongs. Whether the pages one after the other
/// show that depends on where they end.
#[test]
fn a_store_with_another_order_loses_nothing() {
    for page_keys in [PAGE_KEYS, PAGE_KEYS - 1] {
        let kinds = |n: usize| [format!("{n:05}/x"), format!("{n:05}-1"), format!("{n:05}-2")];
        let mut world = World::new((0..20_000).flat_map(kinds), page_keys);
        let mut all = world.plain();
        all.sort_by(|one, other| one.trim_end_matches('/').cmp(other.trim_end_matches('/')));
        let by_tree = |world: &mut World| {
            for _ in 0..world.on_their_way.len() {
                let request = world.on_their_way.remove(0);
                let position = request.continuation.as_ref().or(request.start_after.as_ref());
                let position = position.map_or("", |position| position.trim_end_matches('/'));
                let from = all.partition_point(|key| key.trim_end_matches('/') <= position);
                let until = (from + page_keys).min(all.len());
                let shown = all[from..until].iter().cloned();
                let (prefixes, objects): (Vec<_>, Vec<_>) = shown.partition(|key| key.ends_with('/'));
                let page = Page {
                    objects: objects.iter().map(|key| object(key)).collect(),
                    prefixes,
                    continuation: (until < all.len()).then(|| all[until - 1].clone()),
                };
                world.leaps.absorb(request.number, page);
            }
        };
        while world.read(by_tree) {}
        let mut seen = std::mem::take(&mut world.seen);
        seen.sort_unstable();
        assert!(seen == world.plain(), "{} of {}", seen.len(), all.len());
    }
}

#[test]
fn what_was_guessed_is_forgotten_when_the_directory_changes() {
    let mut world = World::new((0..50_000).map(|n| format!("{n:06}")), PAGE_KEYS);
    let all = |world: &mut World| (0..world.on_their_way.len()).for_each(|_| world.answer(0));
    for _ in 0..20 {
        world.read(all);
    }
    assert!(world.most_at_once > 4, "{}", world.most_at_once);
    world.leaps.stop();
    let before = world.requests;
    while world.read(all) {
        assert!(world.leaps.stretches.len() == 1);
    }
    assert!(world.seen == world.plain());
    assert!(world.requests <= before + 31, "{} after {before}", world.requests);
}

/// What a proptest draws a directory from.
fn names() -> impl Strategy<Value = Vec<String>> {
    let count = 0..400u64;
    let of = |name: fn(u64) -> String| move |count: u64| (0..count).map(name).collect::<Vec<_>>();
    prop_oneof![
        count.clone().prop_map(of(|n| format!("f{n:07}"))),
        count.clone().prop_map(of(|n| format!("{n}"))),
        count.clone().prop_map(of(|n| format!("{n}.é"))),
        count.clone().prop_map(of(hash)),
        count.clone().prop_map(of(uuid)),
        count.clone().prop_map(of(|n| date(n, 61))),
        count.clone().prop_map(of(|n| format!("{n:04}/{}", n % 3))),
        count
            .clone()
            .prop_map(of(|n| format!("{:04}{}", n / 2, ["", "/x"][(n % 2) as usize]))),
        count.prop_map(of(|n| format!("{:x}", mixed(n) % 512))),
        proptest::collection::vec("[ab0-2é/!]{1,5}", 0..300),
        proptest::collection::vec("(a|b|ü)[0-9]{2,3}(/x)?", 0..300),
    ]
}

proptest! {
    #![proptest_config(repeatable())]

    /// Whatever is there, in whatever order it comes, whatever fails: the reader gets each name once, in order.
    #[test]
    fn the_reader_gets_the_listing(
        kinds in proptest::collection::vec(names(), 1..3),
        page_keys in 2..20usize,
        order in any::<u64>(),
        failures in 0..3u64,
    ) {
        let mut world = World::new(kinds.concat(), page_keys);
        let mut step = order;
        let mut errors = 0;
        while world.read(|world| {
            step = mixed(step);
            let index = step as usize % world.on_their_way.len();
            if (step >> 32) % 8 < failures {
                let request = world.on_their_way.remove(index);
                errors += usize::from(world.leaps.fail(request.number));
            } else {
                world.answer(index);
            }
        }) {}
        prop_assert_eq!(&world.seen, &world.plain());
        prop_assert!(failures > 0 || errors == 0);
        let pages = world.seen.len().div_ceil(page_keys);
        prop_assert!(
            failures > 0 || world.requests <= pages + pages / VAIN_SHARE + VAIN_PAGES + 2 * MOST_PAGES,
            "{} for {pages} pages", world.requests
        );
    }

    /// What others make and delete meanwhile may be shown or not; all else is shown once.
    #[test]
    fn what_stays_is_shown_in_a_directory_that_changes(
        count in 50..400u64,
        page_keys in 5..20usize,
        order in any::<u64>(),
    ) {
        let mut world = World::new((0..count).map(|n| format!("{:05}", n * 2)), page_keys);
        let mut step = order;
        let mut changed = BTreeSet::new();
        while world.read(|world| {
            step = mixed(step);
            let name = format!("{PREFIX}{:05}", (step >> 20) % (2 * count));
            if step.is_multiple_of(3) {
                if !world.keys.remove(&name) {
                    world.keys.insert(name.clone());
                }
                changed.insert(name);
            }
            world.answer(step as usize % world.on_their_way.len());
        }) {}
        prop_assert!(world.seen.is_sorted_by(|one, next| one < next));
        let seen: BTreeSet<&String> = world.seen.iter().collect();
        for key in world.plain().iter().filter(|key| !changed.contains(*key)) {
            prop_assert!(seen.contains(key), "{} is missing", key);
        }
        for key in seen {
            prop_assert!(world.keys.contains(key) || changed.contains(key));
        }
    }
}
