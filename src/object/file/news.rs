//! Who has to know of a file's commits, whoever caused them.
//!
//! 1. Most commits are asked for by the file's owner. Others happen on the way: bytes are needed that are only in parts, a
//!    file outgrew its upload, another file's commit replaces what this one copies from. All of them end in
//!    [`File::tell`], before anything else is done about them.
//! 2. Between the store's change and its answer somebody may see the new version before its own writer knows of it: the
//!    owner is told of commits before they begin, too.
//! 3. What a rename puts under the old name is nobody's news: it is copied from, and deleted.
//! 4. A commit may take a name under which the bucket still has what handles of unlinked files read: before it begins the
//!    owner keeps that ([`Owner::make_way`]), whoever caused the commit.

use super::state::State;
use super::{Committed, File, appends};
use crate::base::error::Result;
use crate::base::object::{ObjectId, Version};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use tokio::sync::OwnedMutexGuard;

/// What gave the file its name.
pub trait Owner: Send + Sync {
    /// A commit begins, or is over: in between the object may be a version that only that commit knows of.
    fn committing(&self, is_under_way: bool);

    /// The object is this version.
    fn committed(&self, committed: Committed);

    /// A commit is about to begin: what others still need of what is under the file's name is kept. `None` where there is
    /// nothing of that kind. With `may_wait` false it is `Busy` where somebody else does the same just now.
    fn make_way(&self, may_wait: bool) -> Later<Result<Option<Box<dyn Way>>>>;
}

pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The way of one commit to a name. As long as this lives nobody else takes the name, or deletes what has it.
pub trait Way: Send {
    /// This mount's own object that has the name, unseen: the commit replaces it.
    fn replaces(&self) -> Option<Version>;

    /// The commit is over, whatever came of it.
    fn over(self: Box<Self>) -> Later<()>;
}

/// The right to commit, and the way that was made for it.
pub(super) struct Turn {
    pub(super) guard: OwnedMutexGuard<()>,
    pub(super) way: Option<Box<dyn Way>>,
}

impl Turn {
    pub(super) async fn end(self) {
        drop(self.guard);
        if let Some(way) = self.way {
            way.over().await;
        }
    }
}

/// While this lives, the owner counts with a version that it was not told of.
pub(super) struct UnderWay(Option<Arc<dyn Owner>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(owner) = &self.0 {
            owner.committing(false);
        }
    }
}

/// While this lives, commits are nobody's news.
pub(super) struct Untold<'a>(&'a File);

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        self.0.state().is_untold = false;
        self.0.tell();
    }
}

impl State {
    /// And whether it still has it.
    fn name(&self) -> (ObjectId, bool) {
        (self.id.clone(), !self.is_unlinked)
    }

    /// What the owner has not been told of.
    fn take_news(&mut self) -> Option<Committed> {
        if self.is_untold {
            return None;
        }
        self.unreported.take()
    }
}

impl File {
    /// Waits for the turn to commit under the name that the file has then.
    ///
    /// # Errors
    /// As [`Owner::make_way`].
    pub(super) async fn turn_to_commit(&self, may_wait: bool) -> Result<Turn> {
        loop {
            let name = self.state().name();
            // Before `committing` is locked: what copies from what is kept may be this file.
            let way = self.make_way(may_wait).await?;
            let turn = Turn {
                guard: self.committing.clone().lock_owned().await,
                way,
            };
            if self.takes_way(&name, turn.way.as_deref()) {
                return Ok(turn);
            }
            turn.end().await;
        }
    }

    pub(super) async fn make_way(&self, may_wait: bool) -> Result<Option<Box<dyn Way>>> {
        match self.owner.get() {
            Some(owner) => owner.make_way(may_wait).await,
            None => Ok(None),
        }
    }

    /// False when the file has another name by now, or none. By holders of `committing`.
    fn takes_way(&self, name: &(ObjectId, bool), way: Option<&dyn Way>) -> bool {
        let mut state = self.state();
        if state.name() != *name {
            return false;
        }
        if let Some(version) = way.and_then(Way::replaces) {
            state.replaces_unlinked(version);
        }
        true
    }

    /// From now on `owner` is told of all commits. Of those before it was told by whoever had the file then.
    pub fn belongs_to(&self, owner: Arc<dyn Owner>) {
        // Who was first stays: it is the one that has the file.
        let _ = self.owner.set(owner);
    }

    /// Tells the owner of a commit that it does not know of. Afterwards it knows of all, also where somebody else was just
    /// telling it.
    pub fn tell(&self) {
        let Some(owner) = self.owner.get() else { return };
        let _one_at_a_time = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(committed) = self.take_committed() {
            owner.committed(committed);
        }
    }

    /// A commit that nobody was told of yet, for files without an owner.
    pub fn take_committed(&self) -> Option<Committed> {
        let mut state = self.state();
        let mut committed = state.take_news()?;
        state.is_known_to_exist = true;
        committed.rebased = appends::rebased_headers(&mut state);
        let mut headers = state.headers.clone();
        committed
            .attributes
            .write(self.context.metadata_format, &mut headers.metadata);
        committed.headers = Some(Arc::new(headers));
        Some(committed)
    }

    pub(super) fn note_under_way(&self) -> UnderWay {
        let owner = self.owner.get().cloned();
        if let Some(owner) = &owner {
            owner.committing(true);
        }
        UnderWay(owner)
    }

    pub(super) fn without_telling(&self) -> Untold<'_> {
        self.state().is_untold = true;
        Untold(self)
    }
}
