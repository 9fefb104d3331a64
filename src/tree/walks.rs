//! Lists ahead of whoever walks a tree (`find`, `ls -R`, `du`, `rsync`, `git status`): flat, without a delimiter, so that a
//! page of a thousand keys brings many directories at once.
//!
//! Difficulties, and who solves them:
//! 1. What is a walk? Two different directories of one parent that had to be listed within [`WALK_LASTS`]
//!    ([`State::is_walk`]). The flat listing then begins at the second of them.
//! 2. What to list, how far ahead, in how many ranges at once, and who is to wait for it: `plan::ranges`. A sweep that may
//!    list no further stands still, and ends when nobody comes.
//! 3. Walkers are slower than listings, which are believed for a time only: how much is read of late is measured ([`Pace`]).
//! 4. Some of what comes has to be looked at before the walker can be told what it is: [`super::heads`].
//! 5. This mount changes a directory while it is listed: `cache::listings` tells by the moment at which each page was
//!    asked for.
//! 6. A directory whose siblings are huge or deep makes sweeps fail: the parent of one that brought little gets no other
//!    for a while ([`POOR_LASTS`]).

use super::directory::{PAGE_KEYS, joined, listed, page_object};
use super::heads::TypesAhead;
use super::node::DirectoryPlace;
use super::{Listed, Tree};
use crate::base::error::Result;
use crate::base::mount_config::Source;
use crate::base::names::DirectoryKey;
use crate::base::object::ObjectId;
use crate::cache::listings::Moment;
use crate::plan::entries::{ListingOrder, PageObject};
use crate::plan::ranges::{Brought, Outlook, Page, PageRequest, Ranges, Waited};
use crate::rt::{self, Instant};
use crate::s3::types::{ListPage, ListRequest};
use futures_util::stream::{FuturesUnordered, StreamExt};
use lru::LruCache;
use std::collections::BTreeMap;
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
/// What was read within this time, or a quarter of that for which listings are believed, is as much as is listed ahead.
const PACE_LASTS: Duration = Duration::from_secs(2);
/// Directories with more entries are listed by themselves, when they are read.
const MAX_ENTRIES: usize = 50_000;
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
    ranges: Ranges<Asked>,
    types_ahead: TypesAhead,
    pace: Pace,
    has_ended: bool,
}

/// When a page was asked for.
type Asked = (Moment, Instant);

/// How many keys were read of late: in the time that runs, and in the one before.
struct Pace {
    lasts: Duration,
    since: Instant,
    /// Keys that had been read when the time began.
    from_keys: u64,
    before_keys: u64,
}

impl Pace {
    fn new(lasts: Duration) -> Self {
        Self {
            lasts,
            since: rt::now(),
            from_keys: 0,
            before_keys: 0,
        }
    }

    fn of_late(&mut self, read_keys: u64) -> u64 {
        let now = rt::now();
        let passed = now.duration_since(self.since);
        let keys = read_keys - self.from_keys;
        if passed >= self.lasts {
            self.before_keys = if passed < 2 * self.lasts { keys } else { 0 };
            self.since = now;
            self.from_keys = read_keys;
            return self.before_keys;
        }
        self.before_keys + keys
    }
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
        for sweep in sweeps.iter().filter(|sweep| sweep.is_above(place)) {
            if sweep.progress().ranges.has_read(place.key.prefix()) {
                sweep.credited.notify_one();
            }
        }
    }

    /// Objects in and behind a directory that is read now, of which nobody can tell without a look what they are. No more
    /// than `most` of them lie ahead.
    pub(super) fn types_ahead(&self, place: &DirectoryPlace, most: usize) -> Vec<(ObjectId, PageObject)> {
        if self.active.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        let sweeps = self.state().sweeps.clone();
        let above = sweeps.iter().filter(|sweep| sweep.is_above(place));
        above
            .flat_map(|sweep| sweep.progress().types_ahead.next(place.key.prefix(), most))
            .collect()
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
            .find(|sweep| {
                let fresh = &mut Waited::default();
                sweep.is_above(place) && sweep.progress().outlook(place, fresh) != Outlook::TooFar
            })
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
        let mut waited = Waited::default();
        loop {
            let advanced = self.advanced.notified();
            tokio::pin!(advanced);
            {
                let mut progress = self.progress();
                advanced.as_mut().enable();
                match progress.outlook(place, &mut waited) {
                    Outlook::Settled => return true,
                    Outlook::TooFar => return false,
                    Outlook::Wait => {}
                }
            }
            self.credited.notify_one();
            if rt::timeout(LAST_RESORT, advanced).await.is_err() {
                return false;
            }
        }
    }

    fn list_request(&self, page: PageRequest) -> ListRequest {
        ListRequest {
            bucket: self.root.bucket.clone(),
            prefix: self.root.key.prefix().to_owned(),
            by_directory: false,
            start_after: page.start_after,
            continuation: page.continuation,
            max_keys: PAGE_KEYS,
        }
    }

    fn end(&self) {
        self.progress().has_ended = true;
        self.advanced.notify_waiters();
    }
}

impl Progress {
    fn next_request(&mut self, asked: impl FnOnce() -> Asked) -> Option<PageRequest> {
        self.ranges.set_pace(self.pace.of_late(self.ranges.read_keys()));
        self.ranges.next_request(asked)
    }

    fn is_poor(&self) -> bool {
        !self.ranges.is_whole() && self.ranges.read_keys() < self.ranges.listed_keys() / 2
    }

    fn outlook(&mut self, place: &DirectoryPlace, waited: &mut Waited) -> Outlook {
        if self.has_ended {
            return Outlook::Settled;
        }
        self.ranges.outlook(place.key.prefix(), waited)
    }
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
        let new = |root: DirectoryPlace| Arc::new(self.sweep(root, place.key.prefix()));
        let begin = |sweep| {
            let tree = Arc::downgrade(self);
            drop(rt::spawn(run(tree, sweep)));
        };
        match self.walks.sweep_for(place, parent, is_sure, new, begin) {
            Some(sweep) => sweep.wait_for(place).await,
            None => false,
        }
    }

    /// A sweep of what is below `root`, from one directory on.
    fn sweep(&self, root: DirectoryPlace, from: &str) -> Sweep {
        let order = self.listing_order();
        let mut ranges = Ranges::new(&root.key, order, from, PAGE_KEYS as usize, MAX_ENTRIES);
        if let Some(listing) = self.listings.get(&root) {
            // However old: it says where there are directories, and no more is needed.
            ranges.may_cut_at(listing.entries.values().filter_map(Listed::directory));
        }
        let quarter = self.metadata_ttl().map_or(PACE_LASTS, |ttl| ttl / 4);
        Sweep {
            root,
            progress: Mutex::new(Progress {
                ranges,
                types_ahead: TypesAhead::default(),
                pace: Pace::new(quarter.min(PACE_LASTS)),
                has_ended: false,
            }),
            advanced: Notify::new(),
            credited: Notify::new(),
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
    fn keep_listed_ahead(&self, progress: &mut Progress, bucket: &Arc<str>, brought: Vec<Brought<Asked>>) {
        let order = progress.ranges.order();
        for Brought { directory, asked } in brought {
            let (Some(entries), Some((since, at))) = (directory.entries, asked) else {
                continue;
            };
            let place = DirectoryPlace {
                bucket: bucket.clone(),
                key: directory.directory,
            };
            let entries: BTreeMap<String, Listed> = entries
                .into_iter()
                .map(|entry| (entry.name, listed(&entry.kind)))
                .collect();
            for object in entries.values().filter_map(Listed::object) {
                let id = ObjectId::new(bucket.clone(), object.key.as_str());
                if self.may_be_special(object) && self.seen_from_listing(&id, object, at).is_none() {
                    progress.types_ahead.add(id, object);
                }
            }
            self.listings.finish_since(&place, since, entries, at);
            if order == ListingOrder::Bytes {
                self.listed_markers.note_whole(&place, at);
            }
        }
    }

    fn note_markers(&self, bucket: &Arc<str>, objects: &[PageObject], at: Instant) {
        let table = self.table();
        let markers = objects.iter().filter(|object| {
            object.key.ends_with('/') && !table.is_hidden(&ObjectId::new(bucket.clone(), object.key.as_str()))
        });
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

/// The work of one sweep, until its root has ended or nobody comes any more.
async fn run(tree: Weak<Tree>, sweep: Arc<Sweep>) {
    let mut pages = FuturesUnordered::new();
    loop {
        {
            let Some(tree) = tree.upgrade() else { break };
            let asked = || (tree.listings.moment(), rt::now());
            while let Some(page) = { sweep.progress().next_request(asked) } {
                pages.push(ask(&tree, &sweep, page));
            }
        }
        if pages.is_empty() {
            if rt::timeout(IDLE_LIMIT, sweep.credited.notified()).await.is_err() {
                break;
            }
            continue;
        }
        let came = tokio::select! {
            page = pages.next() => page,
            () = sweep.credited.notified() => continue,
        };
        let (Some(tree), Some((range, at, page))) = (tree.upgrade(), came) else {
            break;
        };
        if !absorb(&tree, &sweep, range, at, page) {
            break;
        }
    }
    sweep.end();
}

/// Asks for a page, in a task of its own: reading a page takes time. Gives it with the number of its range, and when it was
/// asked for.
fn ask(
    tree: &Tree,
    sweep: &Sweep,
    page: PageRequest,
) -> impl Future<Output = (u64, Instant, Result<ListPage>)> + use<> {
    let (range, at) = (page.range, rt::now());
    let (client, request) = (tree.client.clone(), sweep.list_request(page));
    let page = rt::spawn(async move { client.list(&request).await });
    async move { (range, at, joined(page.await)) }
}

/// Takes a page in; false where the sweep is at its end.
fn absorb(tree: &Tree, sweep: &Sweep, range: u64, asked_at: Instant, page: Result<ListPage>) -> bool {
    let page = match page {
        Ok(page) => page,
        Err(error) => {
            // Walkers ask by themselves and are told then.
            tracing::debug!(%error, "listing ahead of a walk ended");
            return false;
        }
    };
    tree.note_page(&page.objects);
    let objects: Vec<_> = page.objects.into_iter().map(page_object).collect();
    let bucket = &sweep.root.bucket;
    let mut progress = sweep.progress();
    tree.note_markers(bucket, &objects, asked_at);
    let page = Page {
        objects,
        continuation: page.continuation,
    };
    let brought = {
        // A directory in which only these are was removed.
        let table = tree.table();
        progress.ranges.absorb(range, page, |key| {
            table.is_hidden(&ObjectId::new(bucket.clone(), key))
        })
    };
    // This page may have been the first to show that the store's order is another one.
    let is_as_assumed = progress.ranges.order() == tree.listing_order();
    let (Ok(brought), true) = (brought, is_as_assumed) else {
        drop(progress);
        // What was brought before may lack keys that came elsewhere.
        tree.forget_listings_below(&sweep.root);
        return false;
    };
    tree.keep_listed_ahead(&mut progress, bucket, brought);
    let is_whole = progress.ranges.is_whole();
    drop(progress);
    sweep.advanced.notify_waiters();
    !is_whole
}
