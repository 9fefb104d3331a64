//! What the kernel reads in the disk cache by itself, instead of asking us (FUSE passthrough).
//!
//! Difficulties, and what solves them:
//! 1. What is given away cannot be taken back: whoever has such a handle, or a mapping made through one, reads the version that
//!    it opened until it closes it. So it is given only of what nobody changes through this mount; with
//!    [`Passthrough::Always`] of other files too, which then cannot be changed meanwhile, as a running program cannot
//!    ([`Fs::changing`]).
//! 2. The kernel takes all opens of an inode by one backing file, or none (EIO otherwise; its `fs/fuse/iomode.c`): what the
//!    first of them got, the others get too, and the choice is made under one lock ([`Opens`]). The kernel leaves the mode
//!    before it sends the last RELEASE.
//! 3. The kernel may refuse (no privileges, no such feature, a cache on an overlay), and is asked when the open is answered,
//!    in `fuse`: its first answer holds for all opens that share it ([`Backing`]), and a refusal for the mount.
//! 4. Damage would not be noticed any more: `cache::blocks` gives what was found right only.
//! 5. A foreign change: such opens look at the newest version as all do, and the newer one gets an inode of its own.

use super::contents::OpenFile;
use super::open::Opened;
use super::{Fs, lock};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::mount_config::Passthrough;
use crate::base::object::ETag;
use crate::cache::blocks::{WHOLE_FROM_BYTES, Whole};
use crate::tree::node::Ino;
use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

/// The kernel closes in the background: a program's close may be behind its next open.
const RELEASE_GRACE: Duration = Duration::from_millis(200);

/// A cached version that the kernel reads by itself, shared by all opens of an inode.
pub struct Backing {
    whole: Whole,
    etag: ETag,
    /// What the kernel knows it by, once it was asked; `None` inside: it has refused.
    known_as: OnceLock<Option<Box<dyn Any + Send + Sync>>>,
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backing({})", self.etag.as_str())
    }
}

impl Backing {
    fn was_refused(&self) -> bool {
        matches!(self.known_as.get(), Some(None))
    }
}

/// How the open handles of an inode are read.
#[derive(Default)]
pub(crate) struct Opens(Mutex<State>);

#[derive(Default)]
struct State {
    /// Handles that ask us, and operations that change the content without a handle.
    ordinary: u32,
    /// What the others read; gone with the last of them.
    backing: Weak<Backing>,
}

/// The way of one handle.
pub enum Way {
    /// The kernel asks us.
    Ordinary(#[expect(dead_code, reason = "ends when it is dropped")] Ordinary),
    /// It does not.
    Past(Arc<Backing>),
}

impl Way {
    pub(super) fn backing(&self) -> Option<&Arc<Backing>> {
        match self {
            Self::Ordinary(_) => None,
            Self::Past(backing) => Some(backing),
        }
    }
}

/// While one of these lives, no open of the inode is given away.
pub struct Ordinary(Arc<OpenFile>);

impl Ordinary {
    /// For contents that nobody else has opened yet.
    pub(super) fn of(open: &Arc<OpenFile>) -> Self {
        lock(&open.opens.0).ordinary += 1;
        Self(open.clone())
    }

    /// For one more that changes the content; `None` while the kernel reads it by itself.
    fn changing(open: &Arc<OpenFile>) -> Option<Self> {
        let mut state = lock(&open.opens.0);
        let backing = state.backing.upgrade();
        if backing.is_some_and(|backing| !backing.was_refused()) {
            return None;
        }
        state.ordinary += 1;
        Some(Self(open.clone()))
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        lock(&self.0.opens.0).ordinary -= 1;
    }
}

impl OpenFile {
    /// For one more handle that only reads: as the others, else `candidate` if there are no others and it is still right.
    pub(super) fn way_to_read(self: &Arc<Self>, candidate: Option<Arc<Backing>>) -> Way {
        let mut state = lock(&self.opens.0);
        if let Some(backing) = state.backing.upgrade() {
            return Way::Past(backing);
        }
        let is_right = |candidate: &Arc<Backing>| {
            !self.file.is_dirty() && self.file.base_etag().as_ref() == Some(&candidate.etag)
        };
        if let Some(candidate) = candidate.filter(|candidate| state.ordinary == 0 && is_right(candidate)) {
            state.backing = Arc::downgrade(&candidate);
            return Way::Past(candidate);
        }
        state.ordinary += 1;
        Way::Ordinary(Ordinary(self.clone()))
    }
}

/// What is known of the kernel.
#[derive(Default)]
pub(crate) struct KernelSide {
    offers: AtomicBool,
    has_refused: AtomicBool,
}

impl Fs {
    /// Whether the kernel is to be asked for it at all.
    #[must_use]
    pub fn wants_passthrough(&self) -> bool {
        self.settings.passthrough != Passthrough::Never && self.context.disk_cache.is_some()
    }

    /// The kernel has it.
    pub fn can_pass_through(&self) {
        self.kernel_side.offers.store(true, Ordering::Relaxed);
    }

    /// What an open for reading that shares `open` may be answered with, if it is the first.
    pub(super) async fn backing_for(&self, ino: Ino, open: &OpenFile) -> Option<Arc<Backing>> {
        if let Some(backing) = lock(&open.opens.0).backing.upgrade() {
            return Some(backing);
        }
        let is_possible = self.kernel_side.offers.load(Ordering::Relaxed)
            && !self.kernel_side.has_refused.load(Ordering::Relaxed);
        if !is_possible || !self.may_be_given_away(ino) || open.file.is_dirty() {
            return None;
        }
        let cache = self.context.disk_cache.clone()?;
        let (id, version) = (open.file.id(), open.file.base_version()?);
        if version.size_bytes < WHOLE_FROM_BYTES {
            return None;
        }
        let etag = version.etag.clone();
        let asked = cache.clone();
        let find = move || asked.whole(&id.bucket, &id.key, version.etag.as_str(), version.size_bytes);
        let whole = cache.ask(find).await??;
        Some(Arc::new(Backing {
            whole,
            etag,
            known_as: OnceLock::new(),
        }))
    }

    fn may_be_given_away(&self, ino: Ino) -> bool {
        match self.settings.passthrough {
            Passthrough::Never => false,
            Passthrough::Auto => self.changeable(ino).is_err(),
            Passthrough::Always => true,
        }
    }

    /// What the kernel is to be told about an open: what it knows the backing file by. `ask` gets it from the kernel; it is
    /// called for the first of the opens that share the file.
    pub fn kernel_backing<'a, T: Send + Sync + 'static>(
        &self,
        opened: &'a Opened,
        ask: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Option<&'a T> {
        let backing = opened.backing.as_ref()?;
        let known_as = backing.known_as.get_or_init(|| match ask(backing.whole.as_fd()) {
            Ok(known_as) => Some(Box::new(known_as)),
            Err(error) => {
                if !self.kernel_side.has_refused.swap(true, Ordering::Relaxed) {
                    tracing::info!(%error, "cached files are read by way of this process: the kernel does not do it alone");
                }
                None
            }
        });
        let known_as = known_as.as_ref()?.downcast_ref()?;
        let metrics = self.context.client.metrics();
        metrics.passthrough_opens.fetch_add(1, Ordering::Relaxed);
        Some(known_as)
    }

    /// For whoever is about to change a content, until that is done or its handle is closed.
    ///
    /// # Errors
    /// `InUse` while the kernel reads the file by itself: it would not see the change.
    pub(super) async fn changing(&self, open: &Arc<OpenFile>) -> Result<Ordinary> {
        if let Some(changing) = Ordinary::changing(open) {
            return Ok(changing);
        }
        open.wait_closed(RELEASE_GRACE).await;
        Ordinary::changing(open).ok_or_else(|| {
            let text = "programs read the file past this process (--passthrough always): until they close it, it can be \
                        replaced but not changed";
            Error::new(ErrorKind::InUse, text).on(&open.file.id())
        })
    }
}
