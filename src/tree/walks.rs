//! Lists ahead of whoever walks a tree (`find`, `ls -R`, `du`, `rsync`, `git status`): flat, without a delimiter, so that a
//! page of a thousand keys brings many directories at once.
//!
//! Difficulties, and who solves them:
//! 1. What is a walk? Two different directories of one parent that had to be listed within [`WALK_LASTS`]
//!    ([`State::is_walk`]). The flat listing then begins at the second of them.
//! 2. Never to list much more than the walker reads: each sweep has a credit, one page, which grows by what was read of
//!    that which it brought; without credit it stands still, and ends when nobody comes ([`Progress::may_list`]).
//! 3. A walker must not wait longer than for a listing of its own: it waits for the page that is on its way, and for a
//!    directory that has begun for one page more; else it lists by itself ([`Progress::outlook`]).
//! 4. A walker that left out a part of the tree: the sweep jumps to where it is, if there is credit.
//! 5. This mount changes a directory while it is listed: `cache::listings` tells by the moment at which each page was
//!    asked for.
//! 6. A directory whose siblings are huge or deep makes sweeps fail: the parent of one that brought little gets no other
//!    for a while ([`POOR_LASTS`]).

use super::directory::{PAGE_KEYS, listed, page_object};
use super::node::DirectoryPlace;
use super::{Listed, Tree};
use crate::base::error::Result;
use crate::base::mount_config::Source;
use crate::base::names::DirectoryKey;
use crate::base::object::ObjectId;
use crate::cache::listings::Moment;
use crate::plan::entries::{ListingOrder, PageObject};
use crate::plan::flat::{CompleteDirectory, FlatListing};
use crate::rt::{self, Instant};
use crate::s3::types::{ListPage, ListRequest};
use lru::LruCache;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// Directories listed within this time may be steps of one walk.
const WALK_LASTS: Duration = Duration::from_secs(10);
/// A sweep that brought little is not tried again for so long.
const POOR_LASTS: Duration = Duration::from_mins(1);
/// A sweep that nobody reads from ends after this time.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// The client ends requests that make no progress; a walker lists by itself after this in any case.
const LAST_RESORT: Duration = Duration::from_mins(1);
/// Listings that are believed for less than this are stale before the walker comes.
const SHORTEST_TTL: Duration = Duration::from_secs(1);
/// Keys that are listed on suspicion: one page.
const FIRST_CREDIT_KEYS: u64 = PAGE_KEYS as u64;
/// The most keys that lie ahead of a walker.
const MAX_CREDIT_KEYS: u64 = 20_000;
/// Pages after which a directory that has begun is not waited for any longer.
const PAGES_OF_A_STEP: u64 = 2;
/// Walks at one time.
const MAX_SWEEPS: usize = 4;
// unwrap: the number is not zero, which the compiler checks.
const REMEMBERED_PARENTS: NonZeroUsize = NonZeroUsize::new(1_024).unwrap();

/// The walks of a mount.
pub struct Walks {
    state: Mutex<State>,
    /// How many sweeps there are, to be looked at without the lock.
    active: AtomicUsize,
}

struct State {
    parents: LruCache<DirectoryPlace, Steps>,
    sweeps: Vec<Arc<Sweep>>,
}

/// What was listed lately in one parent.
struct Steps {
    last_child: DirectoryKey,
    at: Instant,
    poor_until: Option<Instant>,
}

/// One flat listing ahead of a walker.
struct Sweep {
    root: DirectoryPlace,
    progress: Mutex<Progress>,
    /// Signalled with each page, and at the end.
    advanced: Notify,
    /// Signalled when there may be credit.
    credited: Notify,
}

struct Progress {
    listing: FlatListing,
    order: ListingOrder,
    /// The last key that was seen, or where the listing began.
    position: String,
    /// A jump to where the walker is.
    jump_to: Option<String>,
    /// Where the listing began after the last jump: what is above it was not seen from its beginning.
    began_after: String,
    /// Directories that were brought and not read, with their keys.
    unread: HashMap<DirectoryPlace, u64>,
    listed_keys: u64,
    read_keys: u64,
    /// Somebody waits for pages up to this number, whatever the credit.
    wanted_pages: u64,
    has_ended: bool,
    /// It ended because there is no more, not because nobody came.
    is_whole: bool,
}

/// What a walker can expect of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    /// It is there, or will never be.
    Settled,
    Wait,
    /// It may come, but not soon.
    TooFar,
}

impl Default for Walks {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                parents: LruCache::new(REMEMBERED_PARENTS),
                sweeps: Vec::new(),
            }),
            active: AtomicUsize::new(0),
        }
    }
}

impl Walks {
    /// Somebody has read what is known of the directory.
    pub(super) fn has_read(&self, place: &DirectoryPlace) {
        if self.active.load(Ordering::Relaxed) == 0 {
            return;
        }
        let sweeps = self.state().sweeps.clone();
        for sweep in sweeps {
            let mut progress = sweep.progress();
            if let Some(keys) = progress.unread.remove(place) {
                progress.read_keys += keys;
                drop(progress);
                sweep.credited.notify_one();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sweep that may bring `place`, a new one where that makes a walk. `begin` starts its work.
    fn sweep_for(
        &self,
        place: &DirectoryPlace,
        parent: DirectoryPlace,
        is_sure: bool,
        new: impl FnOnce(DirectoryPlace) -> Arc<Sweep>,
        begin: impl FnOnce(Arc<Sweep>),
    ) -> Option<Arc<Sweep>> {
        let mut state = self.state();
        state.drop_ended();
        let found = state
            .sweeps
            .iter()
            .find(|sweep| sweep.is_above(place) && sweep.progress().outlook(place, 0) != Outlook::TooFar)
            .cloned();
        let is_walk =
            found.is_none() && (state.is_walk(&parent, &place.key) || (is_sure && state.may_begin(&parent)));
        if is_walk && state.sweeps.len() < MAX_SWEEPS {
            let sweep = new(parent);
            state.sweeps.push(sweep.clone());
            self.active.store(state.sweeps.len(), Ordering::Relaxed);
            drop(state);
            begin(sweep.clone());
            return Some(sweep);
        }
        self.active.store(state.sweeps.len(), Ordering::Relaxed);
        found
    }
}

impl State {
    /// Notes that `child` of `parent` has to be listed; true when another one was just before.
    fn is_walk(&mut self, parent: &DirectoryPlace, child: &DirectoryKey) -> bool {
        let now = rt::now();
        let may_begin = self.may_begin(parent);
        let before = self.parents.get(parent);
        let poor_until = before.and_then(|steps| steps.poor_until);
        let follows = before
            .is_some_and(|steps| steps.last_child != *child && now.duration_since(steps.at) < WALK_LASTS);
        let steps = Steps {
            last_child: child.clone(),
            at: now,
            poor_until,
        };
        self.parents.put(parent.clone(), steps);
        follows && may_begin
    }

    fn may_begin(&self, parent: &DirectoryPlace) -> bool {
        let poor_until = self.parents.peek(parent).and_then(|steps| steps.poor_until);
        poor_until.is_none_or(|until| until <= rt::now())
            && self.sweeps.iter().all(|sweep| sweep.root != *parent)
    }

    fn drop_ended(&mut self) {
        let now = rt::now();
        let (ended, sweeps) = std::mem::take(&mut self.sweeps)
            .into_iter()
            .partition(|sweep| sweep.progress().has_ended);
        self.sweeps = sweeps;
        for sweep in ended {
            let is_poor = sweep.progress().is_poor();
            if let Some(steps) = self.parents.get_mut(&sweep.root) {
                steps.poor_until = is_poor.then(|| now + POOR_LASTS);
            }
        }
    }
}

impl Sweep {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Every change of the progress is complete before anything that can panic.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when the place lies below this sweep's root.
    fn is_above(&self, place: &DirectoryPlace) -> bool {
        let (root, below) = (self.root.key.prefix(), place.key.prefix());
        self.root.bucket == place.bucket && below.len() > root.len() && below.starts_with(root)
    }

    /// Waits while `place` is about to be listed; true when it may be in the cache now.
    async fn wait_for(&self, place: &DirectoryPlace) -> bool {
        let mut pages_waited = 0;
        loop {
            let advanced = self.advanced.notified();
            tokio::pin!(advanced);
            {
                let mut progress = self.progress();
                advanced.as_mut().enable();
                match progress.outlook(place, pages_waited) {
                    Outlook::Settled => return true,
                    Outlook::TooFar => return false,
                    Outlook::Wait => {
                        if progress.listing.begun(place.key.prefix()).is_some() {
                            progress.wanted_pages = progress.listing.pages() + 1;
                        }
                    }
                }
            }
            self.credited.notify_one();
            if rt::timeout(LAST_RESORT, advanced).await.is_err() {
                return false;
            }
            pages_waited += 1;
        }
    }

    /// What to ask the bucket for next; `None` when there is no credit.
    fn next_request(&self, continuation: &mut Option<String>) -> Option<ListRequest> {
        let mut progress = self.progress();
        if let Some(start) = progress.jump_to.take() {
            *continuation = None;
            progress.wanted_pages = 0;
            progress.listing =
                FlatListing::new(&self.root.key, progress.order, progress.listing.max_entries());
            progress.began_after.clone_from(&start);
            progress.position = start;
        } else if !progress.may_list() {
            return None;
        }
        let begins = continuation.is_none() && !progress.position.is_empty();
        Some(ListRequest {
            bucket: self.root.bucket.clone(),
            prefix: self.root.key.prefix().to_owned(),
            by_directory: false,
            start_after: begins.then(|| progress.position.clone()),
            continuation: continuation.clone(),
            max_keys: PAGE_KEYS,
        })
    }

    fn end(&self) {
        self.progress().has_ended = true;
        self.advanced.notify_waiters();
    }
}

impl Progress {
    fn may_list(&self) -> bool {
        let ahead_keys = self.listed_keys.saturating_sub(self.read_keys);
        ahead_keys < (FIRST_CREDIT_KEYS + self.read_keys).min(MAX_CREDIT_KEYS)
            || self.listing.pages() < self.wanted_pages
    }

    fn is_poor(&self) -> bool {
        !self.is_whole && self.read_keys < self.listed_keys / 2
    }

    /// What a walker that has waited for so many pages can expect.
    fn outlook(&mut self, place: &DirectoryPlace, pages_waited: u64) -> Outlook {
        let prefix = place.key.prefix();
        let is_ordered = self.order == ListingOrder::Bytes;
        let is_behind = is_ordered
            && self.jump_to.is_none()
            && *prefix < *self.position
            && !self.position.starts_with(prefix);
        if self.has_ended || is_behind || self.unread.contains_key(place) {
            return Outlook::Settled;
        }
        if let Some(first_page) = self.listing.begun(prefix) {
            let pages = self.listing.pages() - first_page;
            return if pages < PAGES_OF_A_STEP {
                Outlook::Wait
            } else {
                Outlook::TooFar
            };
        }
        if !self.may_list() {
            return Outlook::TooFar;
        }
        match pages_waited {
            0 => Outlook::Wait,
            1 if is_ordered && self.jump_to.is_none() => {
                self.jump_to = Some(start_before(prefix));
                Outlook::Wait
            }
            _ => Outlook::TooFar,
        }
    }
}

/// Where a listing begins (behind this key) that shows all of a directory, and little before it.
fn start_before(prefix: &str) -> String {
    prefix.strip_suffix('/').unwrap_or(prefix).to_owned()
}

impl Tree {
    /// Waits for the directory's listing if it is about to come by itself; true when it may be in the cache now. `is_sure`:
    /// this is a step of a walk, or so cheap that it may be one.
    pub(crate) async fn wait_for_listing_ahead(
        self: &Arc<Self>,
        place: &DirectoryPlace,
        is_sure: bool,
    ) -> bool {
        let Some(parent) = self.parent_for_walks(place) else {
            return false;
        };
        let order = self.listing_order();
        let new = |root: DirectoryPlace| {
            Arc::new(Sweep {
                progress: Mutex::new(Progress {
                    listing: FlatListing::new(&root.key, order, self.listings.admission_limit()),
                    order,
                    position: match order {
                        ListingOrder::Bytes => start_before(place.key.prefix()),
                        ListingOrder::None => String::new(),
                    },
                    jump_to: None,
                    began_after: String::new(),
                    unread: HashMap::new(),
                    listed_keys: 0,
                    read_keys: 0,
                    wanted_pages: 0,
                    has_ended: false,
                    is_whole: false,
                }),
                root,
                advanced: Notify::new(),
                credited: Notify::new(),
            })
        };
        let begin = |sweep| {
            let tree = Arc::downgrade(self);
            drop(rt::spawn(run(tree, sweep)));
        };
        match self.walks.sweep_for(place, parent, is_sure, new, begin) {
            Some(sweep) => sweep.wait_for(place).await,
            None => false,
        }
    }

    /// The parent of a directory, within what is mounted.
    fn parent_for_walks(&self, place: &DirectoryPlace) -> Option<DirectoryPlace> {
        if place.key.is_partial() || self.metadata_ttl().is_some_and(|ttl| ttl < SHORTEST_TTL) {
            return None;
        }
        let rest = place.key.prefix().strip_suffix('/')?;
        let parent = DirectoryKey::root(rest.rfind('/').map_or("", |slash| &rest[..=slash]));
        let mounted = match &self.settings.source {
            Source::Bucket { prefix, .. } => DirectoryKey::root(prefix),
            Source::AllBuckets => DirectoryKey::root(""),
        };
        parent
            .prefix()
            .starts_with(mounted.prefix())
            .then(|| DirectoryPlace {
                bucket: place.bucket.clone(),
                key: parent,
            })
    }

    /// Keeps what is complete. By the holder of the progress's lock, so that a walker that sees how far the sweep is
    /// finds what it brought.
    fn keep_listed_ahead(
        &self,
        progress: &mut Progress,
        bucket: &Arc<str>,
        complete: Vec<CompleteDirectory>,
        asked: &Asked,
    ) {
        for directory in complete {
            let place = DirectoryPlace {
                bucket: bucket.clone(),
                key: directory.directory,
            };
            let is_whole =
                progress.began_after.is_empty() || !progress.began_after.starts_with(place.key.prefix());
            if is_whole
                && let (Some(entries), Some((since, at))) =
                    (directory.entries, asked.get(&directory.first_page))
            {
                let entries: BTreeMap<String, Listed> = entries
                    .into_iter()
                    .map(|entry| (entry.name, listed(&entry.kind)))
                    .collect();
                self.listings.finish_since(&place, *since, entries, *at);
                if progress.order == ListingOrder::Bytes {
                    self.listed_markers.note_whole(&place, *at);
                }
            }
            progress.unread.insert(place, directory.keys as u64);
        }
    }

    fn note_markers(&self, bucket: &Arc<str>, objects: &[PageObject], at: Instant) {
        let markers = objects.iter().filter(|object| object.key.ends_with('/'));
        for marker in markers {
            let place = DirectoryPlace {
                bucket: bucket.clone(),
                key: DirectoryKey::root(&marker.key),
            };
            self.listed_markers.note(place, marker.clone(), at);
        }
    }

    /// Forgets all listings below a directory.
    fn forget_listings_below(&self, root: &DirectoryPlace) {
        self.listings.forget_where(|directory| {
            directory.bucket == root.bucket && directory.key.prefix().starts_with(root.key.prefix())
        });
    }
}

/// When each page was asked for, by its number.
type Asked = BTreeMap<u64, (Moment, Instant)>;

/// The work of one sweep, until its root has ended or nobody comes any more.
async fn run(tree: Weak<Tree>, sweep: Arc<Sweep>) {
    let mut continuation = None;
    let mut asked = Asked::new();
    loop {
        let Some(request) = sweep.next_request(&mut continuation) else {
            if rt::timeout(IDLE_LIMIT, sweep.credited.notified()).await.is_err() {
                break;
            }
            continue;
        };
        let Some(tree) = tree.upgrade() else { break };
        if request.continuation.is_none() {
            asked.clear();
        }
        let page_number = sweep.progress().listing.pages();
        asked.insert(page_number, (tree.listings.moment(), rt::now()));
        match absorb(&tree, &sweep, tree.client.list(&request).await, &asked) {
            Some(next) => continuation = Some(next),
            None => break,
        }
        let oldest = sweep.progress().listing.oldest_page();
        asked = asked.split_off(&oldest);
    }
    sweep.end();
}

/// Takes a page in; where the next one is, if there is one.
fn absorb(tree: &Tree, sweep: &Sweep, page: Result<ListPage>, asked: &Asked) -> Option<String> {
    let page = match page {
        Ok(page) => page,
        Err(error) => {
            // Walkers ask by themselves and are told then.
            tracing::debug!(%error, "listing ahead of a walk ended");
            return None;
        }
    };
    tree.note_page(&page.objects);
    let is_last = page.continuation.is_none();
    let mut objects: Vec<_> = page.objects.into_iter().map(page_object).collect();
    let (keys, last) = (objects.len(), objects.last().map(|last| last.key.clone()));
    {
        // A directory in which only these are was removed.
        let table = tree.table();
        let bucket = &sweep.root.bucket;
        objects.retain(|object| !table.is_hidden(&ObjectId::new(bucket.clone(), object.key.as_str())));
    }
    let mut progress = sweep.progress();
    if let Some((_, at)) = asked.get(&progress.listing.pages()) {
        tree.note_markers(&sweep.root.bucket, &objects, *at);
    }
    progress.listed_keys += keys as u64;
    if let Some(last) = last {
        progress.position = last;
    }
    let complete = progress.listing.push_page(objects, is_last);
    // This page may have been the first to show that the store's order is another one.
    let is_as_assumed = progress.order == tree.listing_order();
    let (Ok(complete), true) = (complete, is_as_assumed) else {
        drop(progress);
        // What was brought before may lack keys that came elsewhere.
        tree.forget_listings_below(&sweep.root);
        return None;
    };
    tree.keep_listed_ahead(&mut progress, &sweep.root.bucket, complete, asked);
    progress.is_whole = is_last;
    drop(progress);
    sweep.advanced.notify_waiters();
    page.continuation
}
