//! Copies from other files that move no data: the copy names the same object version, and the store copies it at the commit.
//!
//! 1. The version must stay until then. What unlinks it waits ([`Copied::hold`]); what replaces it, renames it or changes
//!    its attributes has the copies committed first ([`File::settle_copies`]).
//! 2. Two files that copy from each other would wait for each other. So a file that others copy from takes nothing from
//!    others before those are settled: "copies from" has no cycles ([`File::take_copy`]), and commits lock along it.
//! 3. A version that a commit is replacing just now is not shared: whoever shares holds the source's `committing`.
//! 4. What has no version to name (it is in memory, in the spool, in parts) is read and written by the caller.

use super::state::{Source, State};
use super::upload;
use super::{EarlyCommits, File, InTheWay};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extents::{Backing, SourceAt, SourceId};
use crate::base::object::ByteRange;
use crate::plan::parts::UploadPolicy;
use std::any::Any;
use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// So many runs are copied at a time: each takes part numbers, which a commit makes if there are none.
const MAX_RUNS: usize = 256;
/// How often one copy is settled that goes on copying meanwhile.
const MAX_SETTLES: u32 = 8;

/// Held while two files are connected or disconnected, for moments. Before the locks of any file.
static CONNECTING: Mutex<()> = Mutex::new(());

/// While this lives, an object that this mount unlinks stays in the bucket.
pub type Hold = Arc<dyn Any + Send + Sync>;

/// Where a version belongs that was copied from.
#[derive(Clone)]
pub struct Copied {
    origin: Weak<File>,
    _hold: Hold,
}

/// A run of bytes that another file can name too.
enum Shared {
    Source { source: Source, offset: u64, len: u64 },
    Zero { len: u64 },
}

impl Shared {
    fn len(&self) -> u64 {
        match self {
            Self::Source { len, .. } | Self::Zero { len } => *len,
        }
    }
}

impl State {
    /// What begins `range` and can be named by another file.
    fn shared(&self, range: ByteRange, origin: &Weak<File>, hold: &Hold) -> Vec<Shared> {
        let mut runs = Vec::new();
        for extent in self.map.range(range) {
            let len = extent.range.len();
            let run = match extent.backing {
                Backing::Zero => Shared::Zero { len },
                // Perhaps it was replaced already, by a commit of which nobody knows what became of it.
                Backing::Source(at) if at.source == SourceId::BASE && self.sealed.is_some() => break,
                Backing::Source(_) if self.sources_go => break,
                Backing::Source(at) => {
                    let Some(mut source) = self.source_of(at.source).cloned() else {
                        break;
                    };
                    source.copied.get_or_insert_with(|| Copied {
                        origin: origin.clone(),
                        _hold: hold.clone(),
                    });
                    Shared::Source {
                        source,
                        offset: at.offset,
                        len,
                    }
                }
                Backing::Memory { .. } | Backing::Spool { .. } | Backing::Part { .. } => break,
            };
            runs.push(run);
            if runs.len() == MAX_RUNS {
                break;
            }
        }
        runs
    }

    fn place_copy(&mut self, offset: u64, runs: Vec<Shared>) {
        let mut start = offset;
        for run in runs {
            let range = ByteRange::new(start, start + run.len());
            start = range.end;
            let backing = match run {
                Shared::Zero { .. } => Backing::Zero,
                Shared::Source { source, offset, .. } => Backing::Source(SourceAt {
                    source: self.number_of(source),
                    offset,
                }),
            };
            self.replace(range, backing);
        }
    }

    fn number_of(&mut self, source: Source) -> SourceId {
        let etag = &source.reader.version().etag;
        let known = self
            .copied
            .iter()
            .find(|(_, known)| known.id == source.id && known.reader.version().etag == *etag);
        if let Some((number, _)) = known {
            return *number;
        }
        self.last_source += 1;
        let number = SourceId(self.last_source);
        self.copied.insert(number, source);
        number
    }

    /// What is to be committed before `range` may get other bytes, in so many runs of zeroes and of objects.
    fn in_the_way(
        &mut self,
        range: ByteRange,
        runs: usize,
        made_room: bool,
        policy: &UploadPolicy,
    ) -> Option<InTheWay> {
        if self.is_in_parts_only(range) {
            return Some(InTheWay::Parts);
        }
        let has_room = self.has_room_for(range, runs, policy);
        (!has_room && !made_room).then_some(InTheWay::Crowd)
    }

    /// Bytes of `range` are elsewhere from now on, with other content.
    pub fn replace(&mut self, range: ByteRange, backing: Backing) {
        let replaced = self.map.insert(range, backing, self.generation);
        self.chunks.release(&replaced);
        self.forget_parts_in(range);
        self.note_rewrite();
        self.note_write();
    }

    /// Versions that nothing names any more may go.
    pub fn forget_unused_sources(&mut self) {
        let sealed = self.sealed.iter().flat_map(|sealed| sealed.map.iter());
        let named: BTreeSet<SourceId> = self
            .map
            .iter()
            .chain(sealed)
            .filter_map(|extent| match extent.backing {
                Backing::Source(at) => Some(at.source),
                _ => None,
            })
            .collect();
        self.copied.retain(|number, _| named.contains(number));
    }

    fn copies_from(&self, origin: &Weak<File>) -> bool {
        let mut copied = self.copied.values().filter_map(|source| source.copied.as_ref());
        copied.any(|copied| copied.origin.ptr_eq(origin))
    }
}

impl File {
    /// Makes bytes of `from` this file's, as far as they are in objects (or zeroes) from the beginning of `range` on; returns
    /// how many. None of them are read. `hold` keeps what `from` is of in the bucket.
    ///
    /// # Errors
    /// `TooLarge`; what a commit says that is needed before.
    pub async fn take_copy(
        &self,
        offset: u64,
        from: &Arc<File>,
        range: ByteRange,
        hold: Hold,
    ) -> Result<u64> {
        self.check_end(offset, range.len() as usize)?;
        if Weak::ptr_eq(&self.me, &from.me) {
            // The version would be replaced by the very commit that copies from it.
            return Ok(0);
        }
        self.settle_copies().await?;
        let mut early_commits = EarlyCommits::default();
        loop {
            let stays = from.committing.lock().await;
            let runs = from.state().shared(range, &from.me, &hold);
            let len: u64 = runs.iter().map(Shared::len).sum();
            let target = ByteRange::new(offset, offset + len);
            if len == 0 {
                return Ok(0);
            }
            let in_the_way =
                self.state()
                    .in_the_way(target, runs.len(), early_commits.made_room, &self.policy);
            let Some(what) = in_the_way else {
                return Ok(if self.connect(offset, runs) { len } else { 0 });
            };
            drop(stays);
            self.commit_early(what, &mut early_commits).await?;
        }
    }

    /// Places `runs` at `offset`, and notes with all that they come from that this file copies from them, in one step for
    /// [`File::disconnect`]. False when others copy from this file.
    fn connect(&self, offset: u64, runs: Vec<Shared>) -> bool {
        let _alone = CONNECTING.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.copies().is_empty() {
            return false;
        }
        for run in &runs {
            if let Shared::Source { source, .. } = run
                && let Some(origin) = source.copied.as_ref().and_then(|copied| copied.origin.upgrade())
            {
                let mut copies = origin.copies();
                copies.retain(|copy| copy.strong_count() > 0);
                if !copies.iter().any(|copy| copy.ptr_eq(&self.me)) {
                    copies.push(self.me.clone());
                }
            }
        }
        self.state().place_copy(offset, runs);
        true
    }

    /// Forgets that `copy` copies from this file, unless it does (it may have done so again since it was committed).
    fn disconnect(&self, copy: &Weak<Self>) -> bool {
        let _alone = CONNECTING.lock().unwrap_or_else(PoisonError::into_inner);
        let file = copy.upgrade();
        if file.is_some_and(|file| file.state().copies_from(&self.me)) {
            return false;
        }
        self.copies().retain(|other| !other.ptr_eq(copy));
        true
    }

    fn copies(&self) -> std::sync::MutexGuard<'_, Vec<Weak<File>>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version of this file is about to be replaced or to get another name: files that copy from it are committed; one
    /// that cannot be fetches what it needs.
    ///
    /// # Errors
    /// Why one could neither be committed nor fetch it; `Busy` when they keep copying more.
    pub async fn settle_copies(&self) -> Result<()> {
        self.settle_copies_but(None).await
    }

    /// As [`Self::settle_copies`], but for `taker`: it takes the name, and its own commit copies from the version before
    /// replacing it.
    ///
    /// # Errors
    /// As [`Self::settle_copies`].
    pub async fn settle_copies_but(&self, taker: Option<&File>) -> Result<()> {
        let is_meant = |copy: &&Weak<File>| taker.is_none_or(|taker| !copy.ptr_eq(&taker.me));
        let mut settled = 0;
        loop {
            let copy = self.copies().iter().rev().find(is_meant).cloned();
            let Some(copy) = copy else { return Ok(()) };
            if self.disconnect(&copy) {
                settled = 0;
                continue;
            }
            settled += 1;
            if settled > MAX_SETTLES {
                let message = "other files keep copying from this one";
                return Err(Error::new(ErrorKind::Busy, message).on(&self.id()));
            }
            if let Some(file) = copy.upgrade() {
                file.settle_own(settled > 1).await?;
            }
        }
    }

    #[must_use]
    pub fn is_copied_by(&self, other: &File) -> bool {
        other.state().copies_from(&self.me)
    }

    /// A box, as this is part of a commit that waits for another.
    fn settle_own(self: Arc<Self>, again: bool) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> {
        Box::pin(async move {
            if self.state().is_unlinked {
                return self.fetch_for_handles().await;
            }
            // Who makes way for another commit has this done, and nobody waits for anybody in a circle.
            let error = match self.commit_all(false).await {
                // A conflict was kept, whole; but what was written since may name the version still.
                Err(error) if again || !matches!(error.kind(), ErrorKind::Stale | ErrorKind::Exists) => error,
                _ => return Ok(()),
            };
            tracing::info!(%error, object = %self.id(), "a copy is fetched, as its source is about to change");
            self.keep_local().await
        })
    }

    /// Makes a range zeroes. `keep_size`: only what is within the file.
    ///
    /// # Errors
    /// As [`File::truncate`].
    pub async fn zero(&self, range: ByteRange, keep_size: bool) -> Result<()> {
        self.check_end(range.end, 0)?;
        let mut early_commits = EarlyCommits::default();
        loop {
            let what = {
                let mut state = self.state();
                let size_bytes = state.map.size_bytes();
                let end = if keep_size {
                    range.end.min(size_bytes)
                } else {
                    range.end
                };
                if range.start >= end {
                    return Ok(());
                }
                let range = ByteRange::new(range.start, end);
                let Some(what) = state.in_the_way(range, 1, early_commits.made_room, &self.policy) else {
                    state.replace(range, Backing::Zero);
                    return Ok(());
                };
                what
            };
            self.commit_early(what, &mut early_commits).await?;
        }
    }

    /// lseek(2): the first byte from `offset` on that was written (`data`), or that never was; the end of the file counts
    /// as never written. `None` behind the end, and where no data follow.
    pub fn seek(&self, offset: u64, data: bool) -> Option<u64> {
        let state = self.state();
        let size_bytes = state.map.size_bytes();
        if offset >= size_bytes {
            return None;
        }
        let mut extents = state.map.range(ByteRange::new(offset, size_bytes));
        let found = extents.find(|extent| (extent.backing == Backing::Zero) != data);
        let end = (!data).then_some(size_bytes);
        found.map(|extent| extent.range.start).or(end)
    }
}

/// For what names a version that is not in the bucket any more.
pub(super) fn gone() -> Error {
    Error::new(ErrorKind::Stale, "the version that bytes come from is gone")
}

/// A copy was refused because its source is not there any more.
pub(super) fn source_is_gone(error: Error) -> Error {
    match error.kind() {
        ErrorKind::PreconditionFailed => error.as_kind(ErrorKind::Stale),
        ErrorKind::NotFound if !upload::is_no_such_upload(&error) => error.as_kind(ErrorKind::Stale),
        _ => error,
    }
}
