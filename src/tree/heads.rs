//! Looks at objects ahead of whoever looks at one after the other (`ls -l`, `rsync`, `git status`), where listings do not
//! tell what they carry.
//!
//! Difficulties, and what solves each:
//! 1. The kernel asks for one name after the other. Two that follow each other in a directory are a row, and so is the first
//!    one in a directory that was just read by somebody who may want attributes: what comes next is asked for at once
//!    ([`Row`]), so many at a time as the user allows.
//! 2. Who comes while the answer is on its way waits for that one ([`Asked`]).
//! 3. Whoever walks a tree needs to know of each small object whether it is a symlink, and meets a few of them in each
//!    directory: what lies behind the directory that is read is asked for, too ([`TypesAhead`]).
//! 4. An answer that is not of the version which the directory's listing shows is old or too new: it is not used
//!    ([`Shown`]). Nor is one from before somebody said that the bucket is to be asked again ([`Heads::forget`]).

use super::node::{DirectoryPlace, Link, unix_s};
use super::{Listed, Tree};
use crate::base::error::Result;
use crate::base::object::{ETag, ObjectId, ObjectInfo};
use crate::plan::entries::PageObject;
use crate::rt::{self, Instant};
use lru::LruCache;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::{OnceCell, Semaphore};

/// A name that comes within so many entries after the last one is of the same row.
const STEP: usize = 8;
/// How far ahead of a row that goes on, in turns of all parallel looks. At its beginning it is one.
const TURNS_AHEAD: usize = 2;
// unwrap: the numbers are not zero, which the compiler checks.
const MAX_ASKED: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
// unwrap: as above.
const MAX_ROWS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// One look, and its answer when that has come.
struct Asked {
    at: Instant,
    answer: OnceCell<Result<ObjectInfo>>,
}

/// What a listing of `at` shows of an object that is looked at.
#[derive(Clone, Copy)]
pub(super) struct Shown<'a> {
    pub etag: &'a ETag,
    pub last_modified: SystemTime,
    pub at: Instant,
}

impl Shown<'_> {
    /// Whether an answer to who asked at `asked_at` may be believed.
    fn fits(&self, info: &ObjectInfo, asked_at: Instant) -> bool {
        let is_older = || unix_s(info.version.last_modified) < unix_s(self.last_modified);
        info.version.etag == *self.etag && (asked_at >= self.at || !is_older())
    }
}

/// Where somebody is in a directory, and how far ahead of that was asked.
struct Row {
    last: String,
    ahead: usize,
}

/// Objects ahead of a walker that are to be looked at before anybody can tell what they are.
#[derive(Default)]
pub(super) struct TypesAhead {
    /// By key.
    wanted: BTreeMap<String, (ObjectId, PageObject)>,
    /// Keys of those that were asked for.
    asked: BTreeSet<String>,
}

impl TypesAhead {
    pub(super) fn add(&mut self, id: ObjectId, listed: &PageObject) {
        self.wanted.insert(id.key.to_string(), (id, listed.clone()));
    }

    /// The walker reads this directory: what to ask for now, so that no more than `most` lie ahead.
    pub(super) fn next(&mut self, prefix: &str, most: usize) -> Vec<(ObjectId, PageObject)> {
        self.asked = self.asked.split_off(prefix);
        let room = most.saturating_sub(self.asked.len());
        let ahead = self.wanted.range(prefix.to_owned()..).take(room);
        let keys: Vec<String> = ahead.map(|(key, _)| key.clone()).collect();
        let next = keys.iter().filter_map(|key| self.wanted.remove(key)).collect();
        self.asked.extend(keys);
        if self.wanted.len() > MAX_ASKED.get() {
            // Those were passed over.
            self.wanted = self.wanted.split_off(prefix);
        }
        next
    }
}

/// The looks of a mount.
pub struct Heads {
    asked: Mutex<LruCache<ObjectId, Arc<Asked>>>,
    rows: Mutex<LruCache<DirectoryPlace, Row>>,
    parallel: Arc<Semaphore>,
    parallelism: usize,
}

impl Heads {
    pub fn new(parallelism: usize) -> Self {
        Self {
            asked: Mutex::new(LruCache::new(MAX_ASKED)),
            rows: Mutex::new(LruCache::new(MAX_ROWS)),
            parallel: Arc::new(Semaphore::new(parallelism)),
            parallelism,
        }
    }

    /// The directory was read from its beginning by somebody who may want to know what is in it.
    pub fn announce(&self, directory: &DirectoryPlace) {
        let row = Row {
            last: String::new(),
            ahead: self.parallelism,
        };
        lock(&self.rows).get_or_insert(directory.clone(), || row);
    }

    /// What was asked of an object ahead is not believed any more.
    pub fn forget(&self, id: &ObjectId) {
        lock(&self.asked).pop(id);
    }

    /// The same, of all objects that `condemned` says.
    pub fn forget_where(&self, condemned: impl Fn(&ObjectId) -> bool) {
        let mut asked = lock(&self.asked);
        let doomed: Vec<ObjectId> = asked
            .iter()
            .map(|(id, _)| id)
            .filter(|id| condemned(id))
            .cloned()
            .collect();
        for id in doomed {
            asked.pop(&id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tree {
    /// Looks at an object, and ahead where it is one of a row. Says when the bucket was asked.
    ///
    /// # Errors
    /// What S3 says.
    pub(super) async fn head_in_row(
        self: &Arc<Self>,
        id: &ObjectId,
        link: Option<&Link>,
        listed: Option<Shown<'_>>,
    ) -> Result<(ObjectInfo, Instant)> {
        if let Some(link) = link {
            self.look_ahead(&link.parent, &link.name);
        }
        let known = lock(&self.heads.asked)
            .pop(id)
            .filter(|asked| self.is_fresh(asked.at));
        if let Some(asked) = known {
            let answer = asked.answer.get_or_init(|| self.client.head(id)).await.clone();
            if let Ok(info) = answer
                && listed.is_none_or(|listed| listed.fits(&info, asked.at))
            {
                return Ok((info, asked.at));
            }
        }
        let at = rt::now();
        Ok((self.client.head(id).await?, at))
    }

    /// Asks for what comes after `name`, where that is one of a row.
    fn look_ahead(self: &Arc<Self>, directory: &DirectoryPlace, name: &str) {
        let Some(listing) = self.listings.get(directory) else {
            return;
        };
        let after = |last: &str| {
            let range = (Bound::Excluded(last.to_owned()), Bound::Unbounded);
            listing.entries.range(range)
        };
        let far = {
            let mut rows = lock(&self.heads.rows);
            let before = rows.get(directory);
            let is_next = before.is_some_and(|row| {
                row.last == name || after(&row.last).take(STEP).any(|(next, _)| next == name)
            });
            let far = before.filter(|_| is_next).map_or(0, |row| row.ahead);
            let turns = if is_next { TURNS_AHEAD } else { 1 };
            let row = Row {
                last: name.to_owned(),
                ahead: self.heads.parallelism * turns,
            };
            rows.put(directory.clone(), row);
            far
        };
        for (_, listed) in after(name).take(far) {
            let id = match listed {
                Listed::Object(object) => {
                    let id = ObjectId::new(directory.bucket.clone(), object.key.as_str());
                    let is_known = self.seen_from_listing(&id, object, rt::now()).is_some();
                    (!is_known).then_some(id)
                }
                Listed::Directory(key) => self.marker_to_look_at(&DirectoryPlace {
                    bucket: directory.bucket.clone(),
                    key: key.clone(),
                }),
            };
            if let Some(id) = id {
                self.ask_ahead(id);
            }
        }
    }

    /// Somebody reads a directory with the types of what is in it, and may be walking.
    pub(super) async fn look_at_types_ahead(self: &Arc<Self>, directory: &DirectoryPlace) {
        for (id, object) in self.walks.types_ahead(directory, self.heads.parallelism) {
            // What is on disk may tell.
            self.attributes.load(&id).await;
            if self.seen_from_listing(&id, &object, rt::now()).is_none() {
                self.ask_ahead(id);
            }
        }
    }

    fn ask_ahead(self: &Arc<Self>, id: ObjectId) {
        let asked = {
            let mut all = lock(&self.heads.asked);
            if all.peek(&id).is_some_and(|asked| self.is_fresh(asked.at)) {
                return;
            }
            let asked = Arc::new(Asked {
                at: rt::now(),
                answer: OnceCell::new(),
            });
            all.put(id.clone(), asked.clone());
            asked
        };
        let (client, parallel) = (self.client.clone(), self.heads.parallel.clone());
        rt::spawn(async move {
            let Ok(_permit) = parallel.acquire().await else {
                return;
            };
            asked.answer.get_or_init(|| client.head(&id)).await;
        });
    }
}
