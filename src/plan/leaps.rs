//! How one large directory is listed at several places at once: where pages are asked for that come later, and how what comes
//! is put together to the listing that one page after the other would be.
//!
//! Difficulties, and what solves each:
//! 1. *Nothing tells where later pages begin.* It is guessed from how the names go on ([`super::guesses`]), once a few pages
//!    were read: a directory of a few pages is listed as ever, one page ahead. A guess is where a listing begins to be shown: what comes is
//!    what is there, whatever was guessed.
//! 2. *What comes must be the listing, in its order, each name once.* A stretch that begins at a guess is joined to what lies
//!    before only where that has gone on beyond the guess, and both show the same names between; else it is dropped, and what
//!    lies before goes on by itself ([`Leaps::join`]). So nothing depends on guesses, nor on the order of the store's
//!    listings, which is believed only as far as it is seen.
//! 3. *A gap before a stretch* is filled from before it, one page; where two do not reach it the guess was wrong
//!    ([`Leaps::judge`]).
//! 4. *Wrong guesses cost requests.* How many pages are out at once grows with each stretch that is joined and halves with
//!    each that is not; and while more than an eighth of what was read came in vain, nothing is guessed ([`Leaps::may_leap`]).
//! 5. *Nobody may want more*: pages that are out, on their way or waiting for the reader, are no more than half of those that were
//!    read, and no more than [`MOST_PAGES`], which also bounds the memory.
//! 6. *A directory that changes*: what this mount changes is for the caller to tell ([`Leaps::stop`]); what others change may be seen or not,
//!    as in any listing that takes time.
//! 7. *An error in a page that was asked for ahead* is none for the reader: its stretch is dropped ([`Leaps::fail`]).

use super::entries::PageObject;
use super::guesses::Guesses;
use crate::base::limits::MAX_KEY_BYTES;
use std::collections::VecDeque;

/// So many pages must have been read before anything is guessed.
const LEAST_PAGES: usize = 4;
/// Pages that are out at once, at most.
const MOST_PAGES: usize = 8;
const FEWEST_PAGES: usize = 2;
/// Pages whose names are remembered, to learn from.
const REMEMBERED_PAGES: usize = 8;
/// Pages that may come before a guess without reaching it.
const MOST_MISSES: usize = 2;
/// So much may have come in vain, in pages, and as a share of what was read.
const VAIN_PAGES: usize = 2;
const VAIN_SHARE: usize = 8;

/// A page to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    pub number: u64,
    /// Set on the first page of a stretch that begins at a guess.
    pub start_after: Option<String>,
    pub continuation: Option<String>,
}

/// A page that came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<PageObject>,
    /// Common prefixes.
    pub prefixes: Vec<String>,
    pub continuation: Option<String>,
}

/// The next page for the reader.
#[derive(Debug, PartialEq, Eq)]
pub struct Next {
    pub objects: Vec<PageObject>,
    pub prefixes: Vec<String>,
    pub is_last: bool,
}

/// A part of the listing without a gap.
struct Stretch {
    number: u64,
    /// It begins behind this key.
    after: String,
    /// The last key that came, or `after`.
    position: String,
    continuation: Option<String>,
    is_on_its_way: bool,
    /// The listing ends here.
    is_ended: bool,
    /// What the reader has not had yet.
    pages: VecDeque<Page>,
    /// Pages of the stretch before that came and did not reach this one.
    misses: usize,
}

impl Stretch {
    fn new(number: u64, after: String) -> Self {
        Self {
            number,
            position: after.clone(),
            after,
            continuation: None,
            is_on_its_way: false,
            is_ended: false,
            pages: VecDeque::new(),
            misses: 0,
        }
    }

    /// True when this shows what the other one begins with.
    fn reaches(&self, next: &Self) -> bool {
        self.position > next.after
    }
}

/// The listing of one directory, with the delimiter `/`.
pub struct Leaps {
    /// What all keys begin with.
    prefix: String,
    page_keys: usize,
    /// In the order of their keys; the reader is in the first one.
    stretches: VecDeque<Stretch>,
    last_number: u64,
    on_their_way: usize,
    may_ever_leap: bool,
    /// Names of the last pages that the reader had, without the prefix.
    names: VecDeque<Vec<Box<str>>>,
    guesses: Option<Guesses>,
    /// Pages that had been read when those were learned.
    learned_pages: usize,
    /// There was nothing behind this key.
    end: Option<String>,
    /// Pages that may be out at once.
    reach: usize,
    read_pages: usize,
    read_keys: usize,
    /// Came twice, or was asked for and not used.
    vain_keys: usize,
}

impl Leaps {
    /// Pages have `page_keys` keys and prefixes, all of which begin with `prefix`. Without `may_leap` they are listed one after
    /// the other.
    #[must_use]
    pub fn new(prefix: &str, page_keys: usize, may_leap: bool) -> Self {
        Self {
            prefix: prefix.to_owned(),
            page_keys,
            stretches: VecDeque::from([Stretch::new(0, String::new())]),
            last_number: 0,
            on_their_way: 0,
            may_ever_leap: may_leap,
            names: VecDeque::new(),
            guesses: None,
            learned_pages: 0,
            end: None,
            reach: FEWEST_PAGES,
            read_pages: 0,
            read_keys: 0,
            vain_keys: 0,
        }
    }

    /// True while something may come of guesses.
    #[must_use]
    pub fn leaps(&self) -> bool {
        self.may_ever_leap
    }

    /// From now on one page is listed after the other; what was guessed is forgotten.
    pub fn stop(&mut self) {
        self.may_ever_leap = false;
        self.drop_from(1);
        self.names.clear();
    }

    /// What to ask the bucket for next, in addition to what is on its way: what the reader waits for, or may want.
    pub fn next_request(&mut self) -> Option<PageRequest> {
        let waiting: usize = self.stretches.iter().map(|stretch| stretch.pages.len()).sum();
        let may_go_ahead = self.on_their_way + waiting < self.pages_ahead();
        let wanting = (0..self.stretches.len()).find(|at| self.wants(*at));
        let is_readers = wanting == Some(0) && self.stretches[0].pages.is_empty();
        let at = match wanting {
            Some(at) if is_readers || may_go_ahead => at,
            None if may_go_ahead => self.leap()?,
            _ => return None,
        };
        let stretch = &mut self.stretches[at];
        stretch.is_on_its_way = true;
        self.on_their_way += 1;
        let begins = stretch.continuation.is_none() && !stretch.after.is_empty();
        Some(PageRequest {
            number: stretch.number,
            start_after: begins.then(|| stretch.after.clone()),
            continuation: stretch.continuation.clone(),
        })
    }

    /// Takes in what came for a request.
    pub fn absorb(&mut self, number: u64, page: Page) {
        self.on_their_way -= 1;
        let Some(at) = self.place_of(number) else { return };
        let names = names_of(&page, "");
        let follows = names
            .first()
            .is_none_or(|first| **first > *self.stretches[at].position)
            && names.is_sorted_by(|one, next| one < next);
        let last = names.last().map(|last| (*last).to_owned());
        let stretch = &mut self.stretches[at];
        stretch.is_on_its_way = false;
        if at > 0 && last.is_none() && stretch.position == stretch.after {
            if page.continuation.is_none() {
                self.end = Some(stretch.after.clone());
            }
            self.drop_from(at);
            self.was_wrong();
            return;
        }
        if !follows {
            // The store has another order: what is not read yet may be anywhere.
            self.may_ever_leap = false;
            self.drop_from(at.max(1));
            if at > 0 {
                return;
            }
        }
        let stretch = &mut self.stretches[at];
        stretch.position = last.unwrap_or_else(|| std::mem::take(&mut stretch.position));
        stretch.is_ended = page.continuation.is_none();
        stretch.continuation.clone_from(&page.continuation);
        stretch.pages.push_back(page);
        self.judge(at);
    }

    /// A request failed; true when the reader waits for it, and is to be told. It is asked for again with the next request.
    pub fn fail(&mut self, number: u64) -> bool {
        self.on_their_way -= 1;
        let Some(at) = self.place_of(number) else {
            return false;
        };
        if at == 0 {
            self.stretches[0].is_on_its_way = false;
            return self.stretches[0].pages.is_empty();
        }
        self.stretches[at].is_on_its_way = false;
        if self.stretches[at].pages.is_empty() {
            self.drop_one(at);
        } else {
            self.drop_from(at + 1);
        }
        self.was_wrong();
        false
    }

    /// The next page for the reader, if it is there.
    pub fn next_page(&mut self) -> Option<Next> {
        loop {
            let front = self.stretches.front_mut()?;
            if let Some(page) = front.pages.pop_front() {
                let is_last = front.is_ended && front.pages.is_empty();
                self.has_read(&page);
                return Some(Next {
                    objects: page.objects,
                    prefixes: page.prefixes,
                    is_last,
                });
            }
            let next = self.stretches.get(1)?;
            if !self.stretches[0].reaches(next) || next.pages.is_empty() {
                return None;
            }
            self.join();
        }
    }

    fn place_of(&self, number: u64) -> Option<usize> {
        self.stretches.iter().position(|stretch| stretch.number == number)
    }

    /// How many pages may be out: on their way, or not read yet.
    fn pages_ahead(&self) -> usize {
        self.reach.min(self.read_pages / 2)
    }

    /// True for a stretch that has to go on until it reaches the next one, or the end.
    fn wants(&self, at: usize) -> bool {
        let stretch = &self.stretches[at];
        let next = self.stretches.get(at + 1);
        !stretch.is_on_its_way && !stretch.is_ended && next.is_none_or(|next| !stretch.reaches(next))
    }

    fn may_leap(&self) -> bool {
        self.may_ever_leap
            && self.read_pages >= LEAST_PAGES
            && self.vain_keys <= VAIN_PAGES * self.page_keys + self.read_keys / VAIN_SHARE
    }

    /// Begins a stretch where the page behind all that is on its way is expected to begin.
    fn leap(&mut self) -> Option<usize> {
        if !self.may_leap() {
            return None;
        }
        let last = self.stretches.back().filter(|last| last.is_on_its_way)?;
        if self.read_pages > self.learned_pages {
            self.guesses = Guesses::learn(self.names.iter().map(Vec::as_slice));
            self.learned_pages = self.read_pages;
        }
        let from = last.position.strip_prefix(&self.prefix)?;
        let name = self.guesses.as_ref()?.behind(from, self.page_keys)?;
        let after = format!("{}{name}", self.prefix);
        if after.len() > MAX_KEY_BYTES || self.end.as_ref().is_some_and(|end| after >= *end) {
            return None;
        }
        self.last_number += 1;
        self.stretches.push_back(Stretch::new(self.last_number, after));
        Some(self.stretches.len() - 1)
    }

    /// A page came; what did it say of the guesses around it?
    fn judge(&mut self, at: usize) {
        if self.stretches[at].is_ended {
            self.drop_from(at + 1);
            return;
        }
        let Some(next) = self.stretches.get(at + 1) else {
            return;
        };
        if self.stretches[at].reaches(next) {
            // What was guessed behind that one adds nothing to it.
            let is_passed = |after: &Stretch| self.stretches[at].reaches(after);
            if self.stretches.get(at + 2).is_some_and(is_passed) {
                self.drop_one(at + 1);
                self.was_wrong();
            }
            return;
        }
        self.stretches[at + 1].misses += 1;
        if self.stretches[at + 1].misses >= MOST_MISSES {
            self.drop_from(at + 1);
            self.was_wrong();
        }
    }

    /// The first stretch has been read and reaches the second one, which goes on from here: if it shows the same names as far
    /// as both go.
    fn join(&mut self) {
        let (Some(mut page), Some(front)) = (self.stretches[1].pages.pop_front(), self.stretches.front())
        else {
            return;
        };
        let (after, until) = (&self.stretches[1].after, &front.position);
        let prefix_len = self.prefix.len();
        let seen = self
            .names
            .iter()
            .flatten()
            .map(|name| &**name)
            .skip_while(|name| *name <= &after[prefix_len..]);
        let again = names_of(&page, &self.prefix);
        let again: Vec<&str> = again
            .into_iter()
            .take_while(|name| *name <= until.get(prefix_len..).unwrap_or_default())
            .collect();
        let is_same = seen.eq(again.iter().copied());
        let (keys, all) = (again.len(), page.objects.len() + page.prefixes.len());
        if !is_same || keys == all {
            self.stretches[1].pages.push_front(page);
            self.drop_one(1);
            self.was_wrong();
            return;
        }
        page.objects
            .drain(..page.objects.partition_point(|object| object.key <= *until));
        page.prefixes
            .drain(..page.prefixes.partition_point(|prefix| *prefix <= *until));
        self.vain_keys += keys;
        self.reach = (self.reach + 1).min(MOST_PAGES);
        self.stretches[1].pages.push_front(page);
        self.stretches.pop_front();
    }

    fn was_wrong(&mut self) {
        self.reach = (self.reach / 2).max(FEWEST_PAGES);
    }

    fn drop_from(&mut self, at: usize) {
        while self.stretches.len() > at.max(1) {
            self.drop_one(self.stretches.len() - 1);
        }
    }

    fn drop_one(&mut self, at: usize) {
        if let Some(stretch) = self.stretches.remove(at) {
            let pages = stretch.pages.len() + usize::from(stretch.is_on_its_way);
            // One that failed was asked for too.
            self.vain_keys += pages.max(1) * self.page_keys;
        }
    }

    fn has_read(&mut self, page: &Page) {
        self.read_pages += 1;
        self.read_keys += page.objects.len() + page.prefixes.len();
        if self.may_ever_leap && page.continuation.is_some() {
            let names = names_of(page, &self.prefix);
            self.names.push_back(names.into_iter().map(Into::into).collect());
            if self.names.len() > REMEMBERED_PAGES {
                self.names.pop_front();
            }
        }
    }
}

/// The keys and prefixes of a page, without `prefix`, in the order of their bytes if the page has it.
fn names_of<'a>(page: &'a Page, prefix: &str) -> Vec<&'a str> {
    let mut names = Vec::with_capacity(page.objects.len() + page.prefixes.len());
    let mut objects = page.objects.iter().map(|object| object.key.as_str()).peekable();
    let mut prefixes = page.prefixes.iter().map(String::as_str).peekable();
    loop {
        let prefix_is_next = match (objects.peek(), prefixes.peek()) {
            (Some(object), Some(prefix)) => prefix < object,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let next = if prefix_is_next {
            prefixes.next()
        } else {
            objects.next()
        };
        let Some(next) = next else { return names };
        names.push(next.strip_prefix(prefix).unwrap_or(next));
    }
}

#[cfg(test)]
mod tests;
