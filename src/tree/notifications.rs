//! What others do in the bucket, as a queue tells it.
//!
//! Difficulties, and who solves them:
//! 1. Who relies on news believes what it knows for ever; when no news can come, it must not: everything is doubted once,
//!    and what is learned from then on is believed for [`TTL_WITHOUT_NEWS`] ([`Tree::miss_news`]). A queue that falls silent is
//!    noticed as soon as one that refuses: it has so much time since its last answer ([`ask`]).
//! 2. News come late, twice, and in any order, and most are of what this mount did itself. So nothing is taken from them but
//!    that a key is to be asked again, and not even that when what is known is what they tell ([`Tree::heard_of`]).
//! 3. A queue belongs to one mount: what has been read is deleted, also what concerns it not, and what cannot be understood,
//!    or these messages would come again for ever. Both are counted.

use super::Tree;
use super::node::DirectoryPlace;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::mount_config::Source;
use crate::base::names::DirectoryKey;
use crate::base::object::{ObjectId, Version};
use crate::plan::notifications::{self, Change};
use crate::rt;
use crate::s3::{Message, Queue};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// How long names and attributes are believed while there are no news.
const TTL_WITHOUT_NEWS: Duration = Duration::from_secs(10);
/// A queue that has not answered for so long is not relied upon: longer than it is asked to wait.
const PATIENCE: Duration = Duration::from_secs(30);
/// What it has at least for one answer.
const LEAST_PATIENCE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What the store says of one change's time differs by so much at most: it tells whole seconds in some places.
const SAME_MOMENT: Duration = Duration::from_secs(2);
/// So many messages that cannot be understood are shown in the log; the others are counted.
const SHOWN: u64 = 10;
const SHOWN_BYTES: usize = 300;

/// What is known of the news.
#[derive(Default)]
pub struct News {
    is_lost: AtomicBool,
    changes: AtomicU64,
    known: AtomicU64,
    elsewhere: AtomicU64,
    not_understood: AtomicU64,
}

/// How many messages told what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewsCounts {
    /// Of a change that was not known.
    pub changes: u64,
    /// Of what was known: mostly what this mount did itself.
    pub known: u64,
    /// Of other buckets or prefixes.
    pub elsewhere: u64,
    pub not_understood: u64,
}

/// Reads the queue until the task is ended.
pub async fn listen(tree: Arc<Tree>, queue: Queue) {
    let mut answered_at = rt::now();
    // The pause after the next failure, where there was one just now.
    let mut trouble: Option<Duration> = None;
    let mut deletes_fail = false;
    loop {
        // One that is in doubt is to answer at once.
        let wait = trouble.map_or(queue.wait(), |_| Duration::ZERO);
        let messages = match ask(&queue, wait, answered_at).await {
            Ok(messages) => messages,
            Err(error) => {
                tree.miss_news(&error, answered_at);
                let pause = trouble.unwrap_or(FIRST_PAUSE);
                trouble = Some((pause * 2).min(LONGEST_PAUSE));
                let left = PATIENCE.saturating_sub(answered_at.elapsed());
                rt::sleep(if left.is_zero() { pause } else { pause.min(left) }).await;
                continue;
            }
        };
        answered_at = rt::now();
        if trouble.take().is_some() {
            tree.find_news(&queue);
        }
        tree.hear(&messages);
        if messages.is_empty() {
            // Queues count waits in seconds: of less, nothing is waited.
            rt::sleep(FIRST_PAUSE.saturating_sub(wait)).await;
            continue;
        }
        let deleted = queue.delete(&messages).await;
        if let Err(error) = &deleted
            && !deletes_fail
        {
            let advice = Queue::advice(error);
            tracing::warn!(%error, advice, "notifications cannot be deleted from the queue, and will come again");
        }
        deletes_fail = deleted.is_err();
    }
}

/// The next messages, from a queue whose last answer came at `answered_at`.
async fn ask(queue: &Queue, wait: Duration, answered_at: rt::Instant) -> Result<Vec<Message>> {
    let patience = PATIENCE.saturating_sub(answered_at.elapsed()).max(LEAST_PATIENCE);
    let answer = rt::timeout(patience, queue.receive(wait)).await;
    answer.unwrap_or_else(|_| {
        let text = format!("no answer of {} for {patience:?}", queue.url());
        Err(Error::new(ErrorKind::TimedOut, text))
    })
}

impl Tree {
    /// How long names and attributes are believed; `None`: for ever.
    pub(crate) fn metadata_ttl(&self) -> Option<Duration> {
        let ttl = self.settings.metadata_ttl;
        if self.news.is_lost.load(Ordering::Relaxed) {
            return Some(ttl.map_or(TTL_WITHOUT_NEWS, |ttl| ttl.min(TTL_WITHOUT_NEWS)));
        }
        ttl
    }

    #[must_use]
    pub fn news_counts(&self) -> NewsCounts {
        let news = &self.news;
        NewsCounts {
            changes: news.changes.load(Ordering::Relaxed),
            known: news.known.load(Ordering::Relaxed),
            elsewhere: news.elsewhere.load(Ordering::Relaxed),
            not_understood: news.not_understood.load(Ordering::Relaxed),
        }
    }

    /// Takes note of what messages tell.
    pub fn hear(&self, messages: &[Message]) {
        for message in messages {
            self.hear_one(&message.body);
        }
    }

    fn hear_one(&self, body: &str) {
        let changes = match notifications::parse(body) {
            Ok(changes) => changes,
            Err(reason) => {
                if self.news.not_understood.fetch_add(1, Ordering::Relaxed) < SHOWN {
                    let shown = &body[..body.floor_char_boundary(SHOWN_BYTES)];
                    tracing::warn!(reason, shown, "a notification that is not understood");
                }
                return;
            }
        };
        for change in changes {
            let counter = match self.heard_of(&change) {
                Heard::News => &self.news.changes,
                Heard::Known => &self.news.known,
                Heard::Elsewhere => &self.news.elsewhere,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Somebody changed an object, or this mount did.
    pub fn heard_of(&self, change: &Change) -> Heard {
        let root = match &self.settings.source {
            Source::AllBuckets => DirectoryKey::root(""),
            Source::Bucket { bucket, prefix }
                if *bucket == change.bucket && change.key.starts_with(prefix.as_str()) =>
            {
                DirectoryKey::root(prefix)
            }
            Source::Bucket { .. } => return Heard::Elsewhere,
        };
        let id = ObjectId::new(change.bucket.as_str(), change.key.as_str());
        let is_known = !change.is_removal
            && self.table().object(&id).is_some_and(|node| {
                let known = node.version.as_ref().filter(|_| node.refresh_due.is_none());
                known.is_some_and(|known| is_of(known, change))
            });
        let root = DirectoryPlace {
            bucket: id.bucket.clone(),
            key: root,
        };
        if is_known || !self.forget_object(&id, root, change.is_removal) {
            Heard::Known
        } else {
            Heard::News
        }
    }

    fn miss_news(&self, error: &Error, answered_at: rt::Instant) {
        // What waiting does not mend.
        let is_final = matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::Invalid
        );
        if !is_final && answered_at.elapsed() < PATIENCE {
            tracing::debug!(%error, "no notifications");
            return;
        }
        if !self.news.is_lost.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %error,
                advice = Queue::advice(error),
                "notifications do not come: what others change is seen after {TTL_WITHOUT_NEWS:?} until they do"
            );
            self.doubt_everything();
        }
    }

    fn find_news(&self, queue: &Queue) {
        if self.news.is_lost.swap(false, Ordering::Relaxed) {
            tracing::info!(queue = queue.url(), "notifications come again");
            // A queue keeps messages for a limited time: some may never come.
            self.doubt_everything();
        }
    }

    fn doubt_everything(&self) {
        if let Err(error) = self.refresh(Path::new("")) {
            tracing::warn!(%error, "what is known could not be forgotten");
        }
    }
}

/// Whether this version is what `change` tells of. Attributes change under the same ETag: the time shows it, unless that is
/// of an upload in parts, which counts from its start. Then somebody asks once more than needed.
fn is_of(version: &Version, change: &Change) -> bool {
    let is_later = |at: SystemTime| at > version.last_modified + SAME_MOMENT;
    change.etag.as_ref() == Some(&version.etag) && !change.at.is_some_and(is_later)
}

/// What a notification was to this mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    News,
    Known,
    Elsewhere,
}
