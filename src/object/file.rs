//! The content of one file while it is open or has unsent changes.
//!
//! Difficulties, and who solves each:
//! 1. Where every byte is, and what a write, a truncation, a commit do to that: pure, in [`state`] on `base::extents`.
//! 2. Buffers, their checksums and their sealing: [`chunks`].
//! 3. Sending while the program still writes: [`stream`]; the parts of one upload: [`upload`].
//! 4. The bytes of one request, wherever they are: [`body`].
//! 5. Commits: one at a time, shared by those who wait, with lost replies resolved and conflicts kept: [`commit`], [`keep`].
//! 6. Appends of many writers, which all survive: [`appends`].
//! 7. Copies from other files, which move no data: [`copies`]; what must be fetched because its object goes: [`local`].
//! 8. Memory for others: what is in parts is given up at once, the rest goes to the spool in the background: [`relief`].
//! 9. Who has to know of commits: [`news`].
//! 10. More changes than an upload has parts for: [`room`].
//!
//! Locks: `state` is held for moments only. `committing` is held by whatever may replace the base version; `spooling` by
//! whoever writes to the spool file, so that a place in it is chosen and filled by one at a time.

mod appends;
mod body;
mod chunks;
mod commit;
mod copies;
mod keep;
mod local;
mod news;
mod one_shot;
mod persist;
mod relief;
mod rewrite;
mod room;
mod state;
#[cfg(test)]
mod state_tests;
mod stream;
mod upload;

pub use appends::hand_on;
pub use upload::abort_leftover;

use super::budget::{Budget, Buffer, Permit, Reclaim};
use super::reader::{ReadStream, Reader};
use crate::base::attributes::{Attributes, MetadataFormat, TRANSACTION};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extents::{Backing, ExtentMap};
use crate::base::mount_config::OnConflict;
use crate::base::object::{ByteRange, ETag, ObjectHeaders, ObjectId, Version};
use crate::base::read_bytes::ReadBytes;
use crate::cache::blocks::BlockCache;
use crate::plan::parts::UploadPolicy;
use crate::rt;
use crate::s3::Client;
use crate::spool::{RecordId, RecordedBase, Spool, SpoolFile, UnsentFile};
pub use copies::Hold;
pub use local::KeepOpen;
pub use news::{Later, Owner, Way};
use state::{Base, Persisted, Source, State, Written};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::Notify;

/// A write is atomic up to this length; a longer one is done in pieces.
const MAX_WRITE_BYTES: usize = 1 << 20;
/// How often one read or write may find that the bytes it needs went into parts again.
const MAX_EARLY_COMMITS: u32 = 3;

/// What all files of a mount share.
pub struct FileContext {
    pub client: Client,
    pub budget: Arc<Budget>,
    /// Of what is read, if the user wants one.
    pub disk_cache: Option<Arc<BlockCache>>,
    pub spool: Arc<Spool>,
    pub metadata_format: MetadataFormat,
    pub stall_timeout: Duration,
    pub on_conflict: OnConflict,
    /// For handles of what is not in the bucket any more.
    pub keep_open: Arc<KeepOpen>,
}

/// How a file came to be opened for creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// O_EXCL: an object that is there at the commit means `Exists`.
    Exclusive,
    /// O_CREAT with O_TRUNC: an object older than this open is replaced (conditionally); a newer one is a conflict.
    /// Stores tell times in whole seconds: an object written in the very second of the open counts as newer.
    Truncating,
    /// O_CREAT alone: any object that is there at the commit is a conflict.
    Plain,
}

/// What a commit put into the bucket.
#[derive(Clone, Debug)]
pub struct Committed {
    pub version: Version,
    /// The attributes that the object's metadata now carries (all `None` where the format writes none).
    pub attributes: Attributes,
    /// Appended bytes went behind a version that programs had not seen, with these headers: the bytes before them are not
    /// what they were, nor are they where they were.
    pub rebased: Option<Arc<ObjectHeaders>>,
    /// All that the object now carries.
    pub headers: Option<Arc<ObjectHeaders>>,
}

impl Committed {
    fn new(version: Version, attributes: Attributes) -> Self {
        Self {
            version,
            attributes,
            rebased: None,
            headers: None,
        }
    }
}

/// The content of one file, shared by all its handles.
///
/// All methods are to be called within the runtime's context (`Handle::enter` on other threads), also where the future is
/// polled only once: a write may begin to send in the background.
pub struct File {
    context: Arc<FileContext>,
    policy: UploadPolicy,
    me: Weak<Self>,
    state: Mutex<State>,
    committing: Arc<tokio::sync::Mutex<()>>,
    appending: tokio::sync::Mutex<()>,
    spooling: tokio::sync::Mutex<()>,
    /// Files that copy from this one's version.
    copies: Mutex<Vec<Weak<File>>>,
    owner: OnceLock<Arc<dyn Owner>>,
    /// Held while the owner is told of a commit.
    telling: Mutex<()>,
    parts_changed: Notify,
}

/// The next bytes of a read.
enum Next {
    /// Copied up to this position.
    Copied(u64),
    Spool {
        file: Arc<SpoolFile>,
        offset: u64,
        len: u64,
    },
    Source {
        reader: Arc<Reader>,
        offset: u64,
        len: u64,
    },
    /// Only in a part of the running upload.
    InPart,
    /// Only in an upload that was left open for a conflict.
    Gone,
    EndOfFile,
}

impl File {
    /// A file that does not exist in the bucket yet. Dirty from the start, also while empty.
    pub fn create(
        context: &Arc<FileContext>,
        id: ObjectId,
        creation: Creation,
        headers: ObjectHeaders,
        attributes: Attributes,
    ) -> Arc<Self> {
        let mut state = State::new(id, headers, attributes, context.client.server_time());
        state.creation = Some(creation);
        state.is_known_to_exist = false;
        state.note_change();
        Self::with_state(context, state)
    }

    /// A file whose current version is `reader`'s. Clean.
    pub fn existing(
        context: &Arc<FileContext>,
        reader: Arc<Reader>,
        headers: ObjectHeaders,
        attributes: Attributes,
    ) -> Arc<Self> {
        let id = reader.id().clone();
        let mut state = State::new(id.clone(), headers, attributes, context.client.server_time());
        state.map = ExtentMap::of_source(reader.version().size_bytes);
        state.base = Base::Known(reader.version().clone());
        state.source = Some(Source::of(id, reader));
        Self::with_state(context, state)
    }

    /// An existing file opened with O_TRUNC: empty and dirty; its commit replaces `base` (or, as [`Creation::Truncating`]
    /// has it, any version older than this open).
    pub fn truncating(
        context: &Arc<FileContext>,
        id: ObjectId,
        base: Version,
        headers: ObjectHeaders,
        attributes: Attributes,
    ) -> Arc<Self> {
        let mut state = State::new(id, headers, attributes, context.client.server_time());
        state.base = Base::Known(base);
        state.creation = Some(Creation::Truncating);
        state.note_rewrite();
        state.note_write();
        Self::with_state(context, state)
    }

    /// A file that a former mount could not send. Dirty.
    ///
    /// # Errors
    /// `LocalIo` when its spool file cannot be opened.
    pub fn restore(context: &Arc<FileContext>, record: RecordId, unsent: &UnsentFile) -> Result<Arc<Self>> {
        let file = Arc::new(context.spool.open_file(&unsent.file_name)?);
        let id = ObjectId::new(unsent.bucket.as_str(), unsent.key.as_str());
        let mut headers = ObjectHeaders::from(unsent.headers.clone());
        let attributes = Attributes::read(&headers.metadata);
        headers.metadata.remove(TRANSACTION);
        let mut state = State::new(id, headers, attributes, context.client.server_time());
        state.take_spooled(file.clone(), unsent.size_bytes);
        state.base = match (&unsent.base, &unsent.changes) {
            (RecordedBase::Absent, _) => Base::Absent,
            (RecordedBase::Matches { etag }, None) => Base::Tag(ETag::new(etag)),
            (RecordedBase::Matches { etag }, Some(changes)) => {
                let version = Version {
                    etag: ETag::new(etag),
                    size_bytes: changes.base_bytes,
                    version_id: None,
                    last_modified: UNIX_EPOCH + Duration::from_secs(changes.base_modified_unix_s),
                };
                let (client, budget) = (context.client.clone(), context.budget.clone());
                let reader = Reader::new(client, budget, state.id.clone(), version.clone());
                state.take_changes(&changes.runs, reader);
                Base::Known(version)
            }
        };
        state.creation = matches!(state.base, Base::Absent).then_some(Creation::Plain);
        state.is_known_to_exist = false;
        state.former_transaction =
            Some(unsent.transaction.clone()).filter(|transaction| !transaction.is_empty());
        state.note_rewrite();
        state.note_change();
        let changes = state.changes;
        state.persisted = Some(Persisted {
            records: vec![record],
            file: Some(file),
            changes,
        });
        Ok(Self::with_state(context, state))
    }

    fn with_state(context: &Arc<FileContext>, state: State) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            policy: UploadPolicy::for_budget(context.budget.limit_bytes(), context.client.limits()),
            context: context.clone(),
            me: me.clone(),
            state: Mutex::new(state),
            committing: Arc::default(),
            appending: tokio::sync::Mutex::default(),
            spooling: tokio::sync::Mutex::default(),
            copies: Mutex::default(),
            owner: OnceLock::new(),
            telling: Mutex::default(),
            parts_changed: Notify::new(),
        })
    }

    /// No code that holds this lock can panic half-way through a change, so a poisoned lock is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For background work. Whoever calls a method holds an `Arc`, so this is never gone then.
    fn shared(&self) -> Result<Arc<Self>> {
        self.me
            .upgrade()
            .ok_or_else(|| Error::new(ErrorKind::ShuttingDown, "the file is being dropped"))
    }

    pub fn id(&self) -> ObjectId {
        self.state().id.clone()
    }

    pub fn size_bytes(&self) -> u64 {
        self.state().map.size_bytes()
    }

    /// The version that the next commit replaces; `None` until the first commit.
    pub fn base_version(&self) -> Option<Version> {
        match &self.state().base {
            Base::Known(version) => Some(version.clone()),
            Base::Any | Base::Absent | Base::Tag(_) => None,
        }
    }

    /// The tag of that version, which is also known of a file that a former mount left.
    pub fn base_etag(&self) -> Option<ETag> {
        self.state().base.etag().cloned()
    }

    /// True while something (content, or existence, or attributes set through `set_attributes`) is not in the bucket.
    pub fn is_dirty(&self) -> bool {
        self.state().is_dirty()
    }

    /// Attributes as the next commit will write them: mtime is that of the last write unless it was set after it.
    pub fn attributes(&self) -> Attributes {
        self.state().attributes
    }

    /// Replaces the attributes; they travel with the next commit (and make the file dirty).
    pub fn set_attributes(&self, attributes: Attributes) {
        self.state().set_attributes(attributes);
    }

    /// Headers and user metadata as the next commit will write them, but for attributes.
    pub fn carried(&self) -> ObjectHeaders {
        self.state().headers.clone()
    }

    /// Changes them; they travel with the next commit (and make the file dirty).
    pub fn edit_headers(&self, edit: impl FnOnce(&mut ObjectHeaders)) {
        self.state().edit_headers(edit);
    }

    /// Gives `[offset, offset + len)` to `out`, less at the end of the file. What is in memory is served at the first
    /// poll.
    ///
    /// # Errors
    /// `Stale` when unchanged bytes come from a version that is gone; what a commit says that is needed because the bytes
    /// are only in parts of an upload. `out` is as before then.
    pub async fn read(
        &self,
        stream: &ReadStream,
        offset: u64,
        len: usize,
        out: &mut ReadBytes,
    ) -> Result<()> {
        let length_before = out.len();
        let range = ByteRange::new(offset, offset.saturating_add(len as u64));
        let result = self.read_all(stream, range, out).await;
        if result.is_err() {
            out.truncate(length_before);
        }
        result
    }

    async fn read_all(&self, stream: &ReadStream, range: ByteRange, out: &mut ReadBytes) -> Result<()> {
        let mut position = range.start;
        let mut early_commits = EarlyCommits::default();
        while position < range.end {
            match self.next(ByteRange::new(position, range.end), out.copied()) {
                Next::Copied(end) => position = end,
                Next::EndOfFile => break,
                Next::Spool { file, offset, len } => {
                    read_spool(file, offset, len, out.copied()).await?;
                    position += len;
                }
                Next::Source { reader, offset, len } => {
                    let length_before = out.len();
                    let result = reader.read_shared(stream, offset, len as usize, out).await;
                    if let Err(error) = result {
                        early_commits.of_parts += 1;
                        let may_be_ours =
                            error.kind() == ErrorKind::Stale && early_commits.of_parts <= MAX_EARLY_COMMITS;
                        if !(may_be_ours && self.has_replaced(&reader, position).await?) {
                            return Err(error);
                        }
                        continue;
                    }
                    position += len;
                    if (out.len() - length_before) as u64 != len {
                        let message = "the object is shorter than its version says";
                        return Err(Error::new(ErrorKind::Corrupt, message).on(reader.id()));
                    }
                }
                Next::InPart => self.commit_early(InTheWay::Parts, &mut early_commits).await?,
                Next::Gone => return Err(gone().on(&self.id())),
            }
        }
        Ok(())
    }

    /// Copies what is in memory from the start of `range` on, or says where it is.
    fn next(&self, range: ByteRange, out: &mut Vec<u8>) -> Next {
        let state = self.state();
        let mut position = range.start;
        for extent in state.map.range(range) {
            let len = extent.range.len();
            let other = match extent.backing {
                Backing::Memory { chunk, offset } => {
                    out.extend_from_slice(
                        &state.chunks.bytes(chunk)[offset as usize..(offset + len) as usize],
                    );
                    None
                }
                Backing::Zero => {
                    out.resize(out.len() + len as usize, 0);
                    None
                }
                Backing::Spool { offset } => Some(match state.spool.clone() {
                    Some(file) => Next::Spool { file, offset, len },
                    None => Next::Gone,
                }),
                Backing::Source(at) => Some(match state.source_of(at.source) {
                    Some(source) => Next::Source {
                        reader: source.reader.clone(),
                        offset: at.offset,
                        len,
                    },
                    None => Next::Gone,
                }),
                Backing::Part { .. } if state.upload.is_none() => Some(Next::Gone),
                Backing::Part { .. } => Some(Next::InPart),
            };
            match other {
                Some(other) if position == range.start => return other,
                Some(_) => return Next::Copied(position),
                None => position = extent.range.end,
            }
        }
        if position == range.start {
            Next::EndOfFile
        } else {
            Next::Copied(position)
        }
    }

    /// Writes all of `data`; waits only for the memory budget (and, rarely, for a commit of bytes that are only in parts
    /// of an upload). Completes at the first poll when there is memory.
    ///
    /// # Errors
    /// `TooLarge` beyond the largest object; `TimedOut` when no memory came free.
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check_end(offset, data.len())?;
        for (piece, start) in data
            .chunks(MAX_WRITE_BYTES)
            .zip((offset..).step_by(MAX_WRITE_BYTES))
        {
            self.write_piece(Some(start), piece).await?;
        }
        Ok(())
    }

    /// O_APPEND: writes at the end, atomically with other appends; returns the offset.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn append(&self, data: &[u8]) -> Result<u64> {
        let _in_turn = match self.appending.try_lock() {
            Ok(guard) => guard,
            Err(_) => self.appending.lock().await,
        };
        let mut first = None;
        for piece in data.chunks(MAX_WRITE_BYTES) {
            let offset = self.write_piece(None, piece).await?;
            first.get_or_insert(offset);
        }
        Ok(first.unwrap_or_else(|| self.size_bytes()))
    }

    fn check_end(&self, offset: u64, len: usize) -> Result<()> {
        self.check_end_in(&self.state(), offset, len).map(drop)
    }

    /// Where `len` bytes at `offset` end, if an object can be so long.
    fn check_end_in(&self, state: &State, offset: u64, len: usize) -> Result<u64> {
        let max_bytes = self.policy.limits.max_object_bytes;
        let end = offset.checked_add(len as u64).filter(|end| *end <= max_bytes);
        end.ok_or_else(|| {
            let message = format!("an object has at most {max_bytes} bytes");
            Error::new(ErrorKind::TooLarge, message).on(&state.id)
        })
    }

    /// What [`Self::write`] and [`Self::append`] (no `offset`) do, where nothing has to be waited for. Returns where the bytes
    /// went; `None` when something is in the way, which the other two wait for or report: nothing was written then.
    pub fn write_at_once(&self, offset: Option<u64>, data: &[u8]) -> Option<u64> {
        if data.len() > MAX_WRITE_BYTES {
            return None;
        }
        let _in_turn = match offset {
            Some(_) => None,
            None => Some(self.appending.try_lock().ok()?),
        };
        let mut spare = Vec::new();
        loop {
            match self.try_write(offset, data, &mut spare, false).ok()? {
                Tried::Done(start) => return Some(start),
                Tried::NeedsBuffers(sizes) => {
                    spare.clear();
                    let permit = self.context.budget.try_acquire_for_write(sizes.iter().sum())?;
                    spare = buffers(permit, sizes);
                }
                Tried::NeedsCommit(_) => return None,
            }
        }
    }

    /// Writes one piece at `offset`, or at the end. Returns where.
    async fn write_piece(&self, offset: Option<u64>, data: &[u8]) -> Result<u64> {
        let mut spare: Vec<Buffer> = Vec::new();
        let mut early_commits = EarlyCommits::default();
        loop {
            match self.try_write(offset, data, &mut spare, early_commits.made_room)? {
                Tried::Done(start) => return Ok(start),
                Tried::NeedsBuffers(sizes) => {
                    spare.clear();
                    let permit = self.memory_for_write(sizes.iter().sum()).await?;
                    spare = buffers(permit, sizes);
                }
                Tried::NeedsCommit(what) => {
                    spare.clear();
                    self.commit_early(what, &mut early_commits).await?;
                }
            }
        }
    }

    /// One attempt, with buffers from `spare`. `made_room`: a commit was made for it already.
    fn try_write(
        &self,
        offset: Option<u64>,
        data: &[u8],
        spare: &mut Vec<Buffer>,
        made_room: bool,
    ) -> Result<Tried> {
        let (start, is_first) = {
            let mut state = self.state();
            let start = offset.unwrap_or(state.map.size_bytes());
            let end = self.check_end_in(&state, start, data.len())?;
            if !state.has_room_for(ByteRange::new(start, end), 1, &self.policy) && !made_room {
                return Ok(Tried::NeedsCommit(InTheWay::Crowd));
            }
            match state.write(start, data, spare, &self.policy) {
                Written::Done => {}
                Written::NeedsBuffers(sizes) => return Ok(Tried::NeedsBuffers(sizes)),
                Written::NeedsCommit => return Ok(Tried::NeedsCommit(InTheWay::Parts)),
            }
            if offset.is_some() {
                state.note_rewrite();
            }
            let is_first = !state.chunks.is_empty() && !std::mem::replace(&mut state.is_reclaimable, true);
            (start, is_first)
        };
        if is_first {
            self.context
                .budget
                .add_reclaimer(self.me.clone() as Weak<dyn Reclaim>);
        }
        self.send_ahead(ByteRange::new(start, start + data.len() as u64));
        Ok(Tried::Done(start))
    }

    /// Cuts the file off, or extends it by zeroes.
    ///
    /// # Errors
    /// `TooLarge`; what a commit says that is needed because a part that is only in an upload would be cut in two.
    pub async fn truncate(&self, size_bytes: u64) -> Result<()> {
        self.check_end(size_bytes, 0)?;
        let mut early_commits = EarlyCommits::default();
        while let Some(what) = self.try_truncate(size_bytes, early_commits.made_room) {
            self.commit_early(what, &mut early_commits).await?;
        }
        Ok(())
    }

    fn try_truncate(&self, size_bytes: u64, made_room: bool) -> Option<InTheWay> {
        let mut state = self.state();
        let added = ByteRange::new(state.map.size_bytes().min(size_bytes), size_bytes);
        if !added.is_empty() && !state.has_room_for(added, 1, &self.policy) && !made_room {
            return Some(InTheWay::Crowd);
        }
        (!state.truncate(size_bytes)).then_some(InTheWay::Parts)
    }

    /// As O_TRUNC: cuts everything off. Unlike [`Self::truncate`] this is a change also where there is nothing to cut off.
    ///
    /// # Errors
    /// As [`Self::truncate`].
    pub async fn empty(&self) -> Result<()> {
        self.truncate(0).await?;
        let mut state = self.state();
        state.note_rewrite();
        state.note_write();
        Ok(())
    }

    /// Puts everything that was written before this call into the bucket; `None` when there was nothing to do, and where
    /// the file's owner was told.
    ///
    /// # Errors
    /// `Stale`: somebody else's newer object is there; the local version was kept as a conflict record.
    /// `Exists`: the same for [`Creation::Exclusive`]. Other errors: the file stays dirty and readable.
    pub async fn commit(self: &Arc<Self>) -> Result<Option<Committed>> {
        self.commit_everything().await?;
        Ok(self.take_committed())
    }

    /// `pailfs-txn` of a write of which nobody knows what came of it: of this mount's, or of the former one's that left this
    /// file unsent.
    pub fn unknown_transaction(&self) -> Option<String> {
        let state = self.state();
        let sealed = state.sealed.as_ref();
        let unknown = sealed.and_then(|sealed| sealed.unknown_outcome_of.clone());
        let known_by_name = unknown.or_else(|| state.former_transaction.clone());
        known_by_name.filter(|transaction| !transaction.is_empty())
    }

    /// `pailfs-txn` of the object that the upload becomes when it is completed.
    pub fn upload_transaction(&self) -> Option<String> {
        let state = self.state();
        state
            .upload
            .as_ref()
            .map(|upload| upload.link.transaction.clone())
    }

    /// True when the version that the file is based on was put by the write with this identity.
    pub fn is_committed_as(&self, transaction: &str) -> bool {
        let state = self.state();
        let last = state.headers.metadata.get(TRANSACTION);
        last.is_some_and(|last| last == transaction)
    }

    /// The object that has its name is this version, which an unlinked file left there; the next commit replaces it.
    pub fn replaces(&self, version: Version) {
        self.state().replaces_unlinked(version);
    }

    /// Commits what is in the way of a change, or of a read.
    async fn commit_early(&self, what: InTheWay, before: &mut EarlyCommits) -> Result<()> {
        match what {
            InTheWay::Parts => {
                before.of_parts += 1;
                if before.of_parts > MAX_EARLY_COMMITS {
                    let message = "the bytes keep moving into an upload";
                    return Err(Error::new(ErrorKind::Busy, message).on(&self.id()));
                }
                tracing::info!(object = %self.id(), "committing early: bytes are needed that are only in an unfinished upload");
                // From now on it keeps its bytes.
                self.state().keeps_parts = true;
            }
            InTheWay::Crowd if self.state().is_one_shot => return Err(self.outgrown()),
            InTheWay::Crowd => {
                // The next upload copies what is there in few parts and has numbers left.
                tracing::info!(object = %self.id(), "committing early: no upload would have parts for more changes");
                before.made_room = true;
            }
        }
        self.shared()?.commit_everything().await
    }
}

/// Why a commit comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InTheWay {
    /// Bytes that are only in parts of the upload.
    Parts,
    /// An upload might have no numbers for one more change.
    Crowd,
}

/// Those that one read, or one change, has made.
#[derive(Default)]
struct EarlyCommits {
    of_parts: u32,
    made_room: bool,
}

/// What came of an attempt to write.
enum Tried {
    /// The bytes are at this offset.
    Done(u64),
    NeedsBuffers(Vec<u64>),
    NeedsCommit(InTheWay),
}

fn buffers(mut permit: Permit, sizes: Vec<u64>) -> Vec<Buffer> {
    sizes
        .into_iter()
        .map(|bytes| permit.split(bytes).into_buffer())
        .collect()
}

fn gone() -> Error {
    Error::new(
        ErrorKind::Stale,
        "the bytes are only in an upload that was left open for a conflict",
    )
}

async fn read_spool(file: Arc<SpoolFile>, offset: u64, len: u64, out: &mut Vec<u8>) -> Result<()> {
    let mut buffer = std::mem::take(out);
    let (buffer, result) = rt::blocking(move || {
        let start = buffer.len();
        buffer.resize(start + len as usize, 0);
        let result = file.read_at(offset, &mut buffer[start..]);
        (buffer, result)
    })
    .await;
    *out = buffer;
    result
}
