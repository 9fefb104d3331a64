//! How a tree is listed flat ahead of who walks it: in which ranges, how far, and what the walker can expect.
//!
//! Difficulties, and what solves each:
//! 1. *Never much more than the walker reads.* Keys that were listed and not read have a limit: one page, and as much as was
//!    read of what came. *Nor much sooner*, as listings are not believed for long, and take memory: what lies ahead of where
//!    the walker is has another limit, a page and what was read of late ([`Ranges::set_pace`]), up to a fixed number.
//! 2. *One page after the other is as slow as the link is long.* So the tree is cut into ranges that are listed beside each
//!    other, in the order in which they will be read ([`Ranges::next_request`], [`super::cuts`]). Later ones may
//!    list what all others leave; the first one, where the walker is, is not held up by what lies behind it.
//! 3. *What a page shows behind the end of its range comes in vain.* Where that becomes much, nothing is cut
//!    ([`Ranges::cut`]).
//! 4. *A walker must not wait longer than for a listing of its own*: it waits for the page that is on its way, and for a
//!    directory that has begun for one page more; else it lists by itself ([`Ranges::outlook`]).
//! 5. *A walker that left out a part of the tree*: the listing goes on where it is ([`Ranges::jump`]).
//! 6. *Replies in any order, and of requests that nobody wants any more*: each range has a number.
//! 7. *Where listings are in no order* there is one range, from the beginning to the end.

use super::cuts::Cuts;
use super::entries::{ListingOrder, PageObject};
use super::flat::{CompleteDirectory, Disorder, FlatListing};
use crate::base::names::DirectoryKey;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The most keys that lie ahead of a walker, and as many again where the tree is not what it was expected to be.
const MAX_AHEAD_KEYS: u64 = 20_000;
/// So many unread directories are remembered.
const MAX_UNREAD: usize = 50_000;
/// Pages after which a directory that has begun is not waited for any longer.
const PAGES_OF_A_STEP: u64 = 2;
/// Ranges that are listed beside each other.
const MAX_RANGES: usize = 8;
/// Pages that a range is made for: fewer are sooner done with, more have fewer ends.
const FEWEST_PAGES: u64 = 2;
const MOST_PAGES: u64 = 4;
/// A tree of fewer pages is not worth another one.
const LEAST_PAGES: u64 = 16;
/// So much may have come in vain, in pages, and as a share of what was listed.
const VAIN_PAGES: u64 = 2;
const VAIN_SHARE: u64 = 8;

/// A page to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    pub range: u64,
    /// Set on the first page of a range only.
    pub start_after: Option<String>,
    pub continuation: Option<String>,
}

/// A page that came.
pub struct Page {
    pub objects: Vec<PageObject>,
    pub continuation: Option<String>,
}

/// A directory that a page has completed.
#[derive(Debug)]
pub struct Brought<A> {
    pub directory: CompleteDirectory,
    /// What was noted when its first page was asked for; `None` where its beginning or end was not listed.
    pub asked: Option<A>,
}

/// What a walker can expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It is there, or will never be.
    Settled,
    Wait,
    /// It may come, but not soon.
    TooFar,
}

/// How long somebody has waited: since this page of this range.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waited {
    since: Option<(u64, u64)>,
    has_jumped: bool,
}

struct Range<A> {
    number: u64,
    listing: FlatListing,
    /// Its keys sort behind this ...
    after: String,
    /// ... and not behind this; `None`: all that there are.
    until: Option<String>,
    /// The last key that was seen, or where it begins.
    position: String,
    continuation: Option<String>,
    /// What was noted when each page was asked for.
    asked: BTreeMap<u64, A>,
    is_on_its_way: bool,
    is_done: bool,
    /// Somebody waits for pages up to this number, whatever the credit.
    wanted_pages: u64,
    unread_keys: u64,
}

/// The flat listing of all that is below one directory. `A` is noted with each request.
pub struct Ranges<A> {
    root: DirectoryKey,
    order: ListingOrder,
    max_entries: usize,
    page_keys: u64,
    /// In the order of their keys; those that are done only while one before them is not.
    ranges: Vec<Range<A>>,
    last_number: u64,
    cuts: Option<Cuts>,
    /// Directories that were brought and not read, by prefix: of which range, and their keys.
    unread: BTreeMap<String, (u64, u64)>,
    /// The directory that was read last, and the keys of all unread ones that sort behind it.
    walker: String,
    unread_ahead_keys: u64,
    listed_keys: u64,
    read_keys: u64,
    /// Came with a range that they are not of.
    vain_keys: u64,
    pace_keys: u64,
}

impl<A> Range<A> {
    fn holds(&self, prefix: &str) -> bool {
        *self.after < *prefix && self.until.as_ref().is_none_or(|until| *prefix <= **until)
    }

    /// True when it lacks keys of the directory because it begins or ends within.
    fn splits(&self, prefix: &str) -> bool {
        let is_within = |end: &str| end.starts_with(prefix);
        is_within(&self.after) || self.until.as_deref().is_some_and(is_within)
    }
}

impl<A> Ranges<A> {
    /// `from`: a directory that is read now. Pages have `page_keys` keys; directories of more than `max_entries` are passed
    /// over.
    #[must_use]
    pub fn new(
        root: &DirectoryKey,
        order: ListingOrder,
        from: &str,
        page_keys: usize,
        max_entries: usize,
    ) -> Self {
        let mut ranges = Self {
            root: root.clone(),
            order,
            max_entries,
            page_keys: page_keys as u64,
            ranges: Vec::new(),
            last_number: 0,
            cuts: None,
            unread: BTreeMap::new(),
            walker: String::new(),
            unread_ahead_keys: 0,
            listed_keys: 0,
            read_keys: 0,
            vain_keys: 0,
            pace_keys: u64::MAX,
        };
        let after = match order {
            ListingOrder::Bytes => start_before(from),
            ListingOrder::None => String::new(),
        };
        ranges.add(after);
        ranges
    }

    #[must_use]
    pub fn order(&self) -> ListingOrder {
        self.order
    }

    /// From now on it may be cut before these directories of the root.
    pub fn may_cut_at<'a>(&mut self, directories: impl Iterator<Item = &'a DirectoryKey>) {
        if self.order == ListingOrder::Bytes {
            self.cuts = Some(Cuts::new(self.root.prefix(), directories));
        }
    }

    /// How many keys were read of late.
    pub fn set_pace(&mut self, keys: u64) {
        self.pace_keys = keys;
    }

    /// How many keys were read of what was brought.
    #[must_use]
    pub fn read_keys(&self) -> u64 {
        self.read_keys
    }

    #[must_use]
    pub fn listed_keys(&self) -> u64 {
        self.listed_keys
    }

    /// True when there is no more.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Somebody has read a directory; true when it was brought by this listing.
    pub fn has_read(&mut self, prefix: &str) -> bool {
        let Some((number, keys)) = self.unread.remove(prefix) else {
            return false;
        };
        if *prefix > *self.walker {
            self.unread_ahead_keys -= keys;
        }
        self.move_walker(prefix);
        self.read_keys += keys;
        if let Some(range) = self.ranges.iter_mut().find(|range| range.number == number) {
            range.unread_keys -= keys;
        }
        true
    }

    fn move_walker(&mut self, to: &str) {
        let keys_between = |from: &str, to: &str| {
            let bounds = (Bound::Excluded(from), Bound::Included(to));
            let between = self.unread.range::<str, _>(bounds);
            between.map(|(_, (_, keys))| keys).sum::<u64>()
        };
        match to.cmp(&self.walker) {
            Ordering::Greater => self.unread_ahead_keys -= keys_between(&self.walker, to),
            Ordering::Less => self.unread_ahead_keys += keys_between(to, &self.walker),
            Ordering::Equal => return,
        }
        to.clone_into(&mut self.walker);
    }

    /// What to ask the bucket for next, in addition to what is on its way; `None` when there is no credit.
    pub fn next_request(&mut self, asked: impl FnOnce() -> A) -> Option<PageRequest> {
        let ready = (0..self.ranges.len()).find(|index| {
            let range = &self.ranges[*index];
            !range.is_done && !range.is_on_its_way && self.may_list(*index)
        });
        let index = ready.or_else(|| self.cut())?;
        let range = &mut self.ranges[index];
        range.is_on_its_way = true;
        range.asked.insert(range.listing.pages(), asked());
        let begins = range.continuation.is_none() && !range.position.is_empty();
        Some(PageRequest {
            range: range.number,
            start_after: begins.then(|| range.position.clone()),
            continuation: range.continuation.clone(),
        })
    }

    /// Takes in what came for a request; gives what is complete now.
    ///
    /// # Errors
    /// [`Disorder`]: nothing that came from this listing is to be believed.
    pub fn absorb(
        &mut self,
        number: u64,
        mut page: Page,
        is_hidden: impl Fn(&str) -> bool,
    ) -> Result<Vec<Brought<A>>, Disorder>
    where
        A: Clone,
    {
        let keys = page.objects.len();
        let Some(index) = self.ranges.iter().position(|range| range.number == number) else {
            self.vain_keys += keys as u64;
            return Ok(Vec::new());
        };
        let range = &mut self.ranges[index];
        range.is_on_its_way = false;
        let is_ordered = self.order == ListingOrder::Bytes;
        if is_ordered && !follows(&range.position, &page.objects) {
            return Err(Disorder);
        }
        if let Some(until) = &range.until {
            page.objects
                .truncate(page.objects.partition_point(|object| object.key <= *until));
        }
        let own_keys = page.objects.len();
        let is_last = own_keys < keys || page.continuation.is_none();
        if let Some(last) = page.objects.last() {
            if let Some(cuts) = &mut self.cuts {
                let is_first = range.listing.pages() == 0;
                cuts.note_page(&range.position, &last.key, own_keys, is_first, is_last);
            }
            range.position.clone_from(&last.key);
        }
        page.objects.retain(|object| !is_hidden(&object.key));
        let complete = range.listing.push_page(page.objects, is_last)?;
        range.continuation = page.continuation;
        range.is_done = is_last;
        range.unread_keys += own_keys as u64;
        self.listed_keys += own_keys as u64;
        self.vain_keys += (keys - own_keys) as u64;
        let brought = self.bring(index, complete);
        let done = self.ranges.iter().take_while(|range| range.is_done).count();
        self.ranges.drain(..done);
        Ok(brought)
    }

    fn bring(&mut self, index: usize, complete: Vec<CompleteDirectory>) -> Vec<Brought<A>>
    where
        A: Clone,
    {
        let range = &mut self.ranges[index];
        let mut brought = Vec::with_capacity(complete.len());
        for directory in complete {
            let prefix = directory.directory.prefix();
            let asked = range.asked.get(&directory.first_page);
            let asked = asked.filter(|_| !range.splits(prefix)).cloned();
            let keys = directory.keys as u64;
            let before = self.unread.insert(prefix.to_owned(), (range.number, keys));
            if *prefix > *self.walker {
                self.unread_ahead_keys += keys;
                self.unread_ahead_keys -= before.map_or(0, |(_, keys)| keys);
            }
            if self.unread.len() > MAX_UNREAD
                && let Some((prefix, (_, keys))) = self.unread.pop_first()
                && prefix > self.walker
            {
                self.unread_ahead_keys -= keys;
            }
            brought.push(Brought { directory, asked });
        }
        range.asked = range.asked.split_off(&range.listing.oldest_page());
        brought
    }

    /// What a walker that wants to read this directory can expect. One that is told to wait asks again with each page.
    pub fn outlook(&mut self, prefix: &str, waited: &mut Waited) -> Outlook {
        let Some(index) = self.ranges.iter().position(|range| range.holds(prefix)) else {
            return Outlook::Settled;
        };
        let is_ordered = self.order == ListingOrder::Bytes;
        let may_list = self.may_list(index);
        let range = &mut self.ranges[index];
        let is_behind = is_ordered && *prefix < *range.position && !range.position.starts_with(prefix);
        if range.is_done || is_behind || self.unread.contains_key(prefix) {
            return Outlook::Settled;
        }
        if let Some(first_page) = range.listing.begun(prefix) {
            let pages = range.listing.pages();
            if pages - first_page >= PAGES_OF_A_STEP {
                return Outlook::TooFar;
            }
            range.wanted_pages = pages + 1;
            return Outlook::Wait;
        }
        if !may_list && !range.is_on_its_way {
            return Outlook::TooFar;
        }
        let pages = range.listing.pages();
        let since = waited.since.filter(|(number, _)| *number == range.number);
        let (_, since) = *waited.since.insert(since.unwrap_or((range.number, pages)));
        if pages == since {
            return Outlook::Wait;
        }
        if !is_ordered || waited.has_jumped || pages > since + 1 {
            return Outlook::TooFar;
        }
        waited.has_jumped = true;
        waited.since = None;
        self.jump(prefix);
        Outlook::Wait
    }

    /// Goes on before this directory, and forgets where it was.
    fn jump(&mut self, prefix: &str) {
        self.ranges.clear();
        self.add(start_before(prefix));
        self.ranges[0].wanted_pages = 1;
    }

    fn add(&mut self, after: String) {
        self.last_number += 1;
        self.ranges.push(Range {
            number: self.last_number,
            listing: FlatListing::new(&self.root, self.order, self.max_entries),
            position: after.clone(),
            after,
            until: None,
            continuation: None,
            asked: BTreeMap::new(),
            is_on_its_way: false,
            is_done: false,
            wanted_pages: 0,
            unread_keys: 0,
        });
    }

    fn ahead_limit_keys(&self) -> u64 {
        let of_late = self.read_keys.min(self.pace_keys);
        (self.page_keys + of_late).min(MAX_AHEAD_KEYS)
    }

    /// True where a range may ask for a page.
    fn may_list(&self, index: usize) -> bool {
        let range = &self.ranges[index];
        // The first is not held up by what lies behind it; the others are by all there is.
        let counted = if index == 0 { 1 } else { self.ranges.len() };
        self.has_credit(counted) || range.listing.pages() < range.wanted_pages
    }

    /// For the first `count` ranges.
    fn has_credit(&self, count: usize) -> bool {
        let (counted, behind) = self.ranges.split_at(count);
        let behind: u64 = behind.iter().map(|range| range.unread_keys).sum();
        let on_their_way = counted.iter().filter(|range| range.is_on_its_way).count() as u64 * self.page_keys;
        let ahead = self.unread_ahead_keys.saturating_sub(behind) + on_their_way;
        let all = (self.listed_keys - self.read_keys).saturating_sub(behind) + on_their_way;
        ahead < self.ahead_limit_keys() && all < self.page_keys + self.read_keys
    }

    /// Cuts the last range where it should end; gives the one behind that.
    fn cut(&mut self) -> Option<usize> {
        let count = self.ranges.len();
        let is_in_vain = self.vain_keys > VAIN_PAGES * self.page_keys + self.listed_keys / VAIN_SHARE;
        if count >= MAX_RANGES || is_in_vain || !self.has_credit(count) {
            return None;
        }
        let pages = self.ahead_limit_keys() / self.page_keys / MOST_PAGES;
        let pages = pages.clamp(FEWEST_PAGES, MOST_PAGES);
        let cuts = self.cuts.as_ref()?;
        let last = self.ranges.last_mut().filter(|last| !last.is_done)?;
        if self.listed_keys + cuts.expected_keys(&last.position) < LEAST_PAGES * self.page_keys {
            return None;
        }
        let pages_left = pages.saturating_sub(last.listing.pages()).max(1);
        let cut = cuts
            .behind(&last.position, pages_left * self.page_keys)?
            .to_owned();
        last.until = Some(cut.clone());
        self.add(cut);
        Some(count)
    }
}

/// True for a page that shows, in the order of bytes, what comes behind `position`.
fn follows(position: &str, objects: &[PageObject]) -> bool {
    objects.first().is_none_or(|first| *first.key > *position)
        && objects.is_sorted_by(|one, next| one.key < next.key)
}

/// Where a listing begins (behind this key) that shows all of a directory, and little before it.
fn start_before(prefix: &str) -> String {
    prefix.strip_suffix('/').unwrap_or(prefix).to_owned()
}

#[cfg(test)]
mod tests;
