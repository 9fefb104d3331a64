//! Reads one version of one object.
//!
//! Difficulties, and who solves them:
//! 1. What to fetch, and when: `plan::readahead` decides, from the history that each handle keeps in its
//!    [`ReadStream`].
//! 2. Sharing what was fetched, and bounded memory: [`pieces`].
//! 3. Serving bytes while their request still runs, in as few wake-ups and copies as possible: [`piece`].
//! 4. Never a byte of another version: [`fetch`].
//! 5. What is on disk is not asked for again: [`disk`].
//! 6. A handle is closed, or moves to another version of its file, while data is fetched ahead for it: its stream
//!    tells the reader, which drops what nobody else wants ([`ReadStream::plan`] and its `drop`).

mod disk;
mod fetch;
mod piece;
mod pieces;

use super::budget::{Budget, Reclaim};
use super::sharing::Owner;
use crate::base::error::{ErrorKind, Result};
use crate::base::object::{ByteRange, ObjectId, Version};
use crate::base::read_bytes::ReadBytes;
use crate::cache::blocks::BlockCache;
use crate::plan::readahead::{History, Plan};
use crate::s3::{Client, GetReply};
use disk::Disk;
use fetch::Source;
use piece::{Held, Waited};
use pieces::{Followed, Pieces};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

/// The client and the budget end what makes no progress, after the time that the mount was given. A read that still
/// waits after this is answered whatever they do: no call hangs for ever.
const LAST_RESORT: Duration = Duration::from_mins(10);

/// One version of one object, shared by all handles that read it. When it is dropped, its data is dropped and its
/// requests in flight are ended.
pub struct Reader {
    pieces: Arc<Pieces>,
}

/// The read history of one handle (what read-ahead is decided from). When it is dropped, what was fetched ahead for
/// it is given up.
#[derive(Default)]
pub struct ReadStream {
    state: Mutex<StreamState>,
}

#[derive(Default)]
struct StreamState {
    history: History,
    /// Tells this stream from others; 0 until its first read.
    number: u64,
    /// The reader that the history's plans were sent to.
    pieces: Weak<Pieces>,
    /// Where its runs have shares.
    budget: Weak<Budget>,
}

impl Reader {
    /// Sends nothing until the first read. To be called, as all else here, within the runtime's context.
    pub fn new(client: Client, budget: Arc<Budget>, id: ObjectId, version: Version) -> Arc<Self> {
        Self::cached(client, budget, None, id, version)
    }

    /// The same, with a cache on disk.
    pub fn cached(
        client: Client,
        budget: Arc<Budget>,
        disk: Option<Arc<BlockCache>>,
        id: ObjectId,
        version: Version,
    ) -> Arc<Self> {
        let pieces = Arc::new(Pieces::new(Arc::new(Source {
            client,
            budget,
            disk: disk.map(Disk::new),
            id,
            version,
            wrong: OnceLock::new(),
        })));
        let reclaimer: Weak<dyn Reclaim> = Arc::downgrade(&(pieces.clone() as Arc<dyn Reclaim>));
        pieces.source().budget.add_reclaimer(reclaimer);
        Arc::new(Self { pieces })
    }

    /// The reader of the version that `reply` is a part (or the whole) of; its body becomes the first data, served
    /// while it arrives, or once it is known to be right. Where there is no memory for it now, the body is dropped, and
    /// fetched again when it is read.
    pub fn from_reply(
        client: Client,
        budget: Arc<Budget>,
        disk: Option<Arc<BlockCache>>,
        id: ObjectId,
        reply: GetReply,
    ) -> Arc<Self> {
        let GetReply { info, range, body } = reply;
        let reader = Self::cached(client, budget, disk, id, info.version);
        let is_too_long = body.is_to_be_checked() && range.len() > fetch::MAX_HELD_BYTES;
        if !range.is_empty() && !is_too_long {
            reader.pieces.insert_body(body, range);
        }
        reader
    }

    #[must_use]
    pub fn id(&self) -> &ObjectId {
        &self.pieces.source().id
    }

    #[must_use]
    pub fn version(&self) -> &Version {
        &self.pieces.source().version
    }

    /// Appends the bytes of `[offset, offset + len)` to `out`, less at the end of the object. What is in memory is
    /// served at the first poll.
    ///
    /// # Errors
    /// `Stale` when the version is gone from the bucket; `TimedOut` when there was no memory, or nothing arrived, for
    /// the stall time-out; else what the request said after the client's retries. `out` is as before then, and the
    /// next read asks again.
    pub async fn read(&self, stream: &ReadStream, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        let mut read = ReadBytes::behind(std::mem::take(out));
        let result = self.read_shared(stream, offset, len, &mut read).await;
        *out = read.into_vec();
        result
    }

    /// The same; what lies in one piece of memory is not copied.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_shared(
        &self,
        stream: &ReadStream,
        offset: u64,
        len: usize,
        out: &mut ReadBytes,
    ) -> Result<()> {
        let end = offset.saturating_add(len as u64).min(self.version().size_bytes);
        if offset >= end {
            return Ok(());
        }
        let length_before = out.len();
        let result = self.read_all(stream, ByteRange::new(offset, end), out).await;
        if result.is_err() {
            out.truncate(length_before);
        }
        result.map_err(|error| error.on(&self.pieces.source().id))
    }

    async fn read_all(&self, stream: &ReadStream, request: ByteRange, out: &mut ReadBytes) -> Result<()> {
        let (plan, owner) = stream.plan(&self.pieces, request);
        let (held, followed) = self.pieces.follow(&plan, owner, request);
        stream.note(&plan, followed);
        let mut at = self.serve(held, request, out).await?;
        while at < request.end {
            let rest = ByteRange::new(at, request.end);
            let held = self.pieces.hold_or_fetch(rest);
            at = self.serve(held, rest, out).await?;
        }
        Ok(())
    }

    /// Gives what `held` has of `range`, from its start on, once it is all there. Returns up to where.
    async fn serve(&self, held: Held, range: ByteRange, out: &mut ReadBytes) -> Result<u64> {
        let end = range.end.min(held.piece().range.end);
        match held.piece().wait(end, LAST_RESORT).await {
            Ok(Waited::Arrived) => {
                let copied = held.piece().read(ByteRange::new(range.start, end), out);
                self.pieces.release(held, end);
                Ok(if copied { end } else { range.start })
            }
            Ok(Waited::Gone) => Ok(range.start),
            Err(error) => {
                if error.kind() == ErrorKind::TimedOut {
                    self.pieces.give_up_stalled(&held);
                }
                Err(error)
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.pieces.close();
    }
}

impl ReadStream {
    /// No code that holds this lock can panic half-way through a change, so a poisoned lock is as good as any.
    fn state(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the request and plans for it. What is no longer wanted, here or in the reader of an older version, is
    /// given up.
    fn plan(&self, pieces: &Arc<Pieces>, request: ByteRange) -> (Plan, Owner) {
        let mut state = self.state();
        let mut former = None;
        if !std::ptr::eq(state.pieces.as_ptr(), Arc::as_ptr(pieces)) {
            former = state.pieces.upgrade();
            state.pieces = Arc::downgrade(pieces);
            state.budget = Arc::downgrade(&pieces.source().budget);
            state.history.forget_plans();
        }
        if state.number == 0 {
            state.number = next_stream_number();
        }
        let number = state.number;
        let (source, limits) = (pieces.source(), *pieces.limits());
        let limits = if source.disk.is_some() {
            limits.of_whole_blocks()
        } else {
            limits
        };
        let sharing = source.budget.sharing();
        let now = sharing.conditions();
        let plan = state
            .history
            .plan(request, source.version.size_bytes, &limits, &now);
        drop(state);
        if let Some(former) = former {
            former.give_up(|owner| owner.stream == number);
        }
        if !plan.retired.is_empty() {
            let has_left = |owner: Owner| owner.stream == number && plan.retired.contains(&owner.run);
            pieces.give_up(has_left);
            sharing.left(has_left);
        }
        let owner = Owner {
            stream: number,
            run: plan.run,
        };
        if plan.wanted_bytes > 0 {
            sharing.wants(owner, plan.wanted_bytes);
        }
        (plan, owner)
    }

    fn note(&self, plan: &Plan, followed: Followed) {
        if followed == Followed::default() {
            return;
        }
        let mut state = self.state();
        if followed.lost {
            state.history.lost(plan.run);
        }
        if let Some(offset) = followed.denied_at {
            state.history.denied(plan.run, offset);
        }
    }
}

impl Drop for ReadStream {
    fn drop(&mut self) {
        let state = self.state();
        let is_ours = {
            let number = state.number;
            move |owner: Owner| owner.stream == number
        };
        let (pieces, budget) = (state.pieces.upgrade(), state.budget.upgrade());
        drop(state);
        if let Some(pieces) = pieces {
            pieces.give_up(is_ours);
        }
        if let Some(budget) = budget {
            budget.sharing().left(is_ours);
        }
    }
}

fn next_stream_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
