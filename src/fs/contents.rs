//! The content of each inode that has handles or unsent changes, and who keeps it.
//!
//! 1. All handles of an inode, and operations on it without one, share one content: it is found under the lock on all of them,
//!    and stays while somebody claims it ([`Claim`]).
//!    It is bytes of one version: whoever brings one says of which, and that is compared in the same moment in which the inode is
//!    pinned ([`Fs::share`]).
//! 2. Other files that copy from a content keep it too, and give it up while locks of files are held ([`HeldClaim`]).
//! 3. With the last handle it goes, but for what is unsent, which is committed first, and what is unlinked, whose object goes
//!    too ([`Fs::last_close`]).

use super::Fs;
use super::passthrough::Opens;
use super::unlinked::Deferred;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::ETag;
use crate::object::file::{File, Hold};
use crate::rt;
use crate::tree::node::Ino;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// The content of one inode, shared by its handles.
pub struct OpenFile {
    pub file: Arc<File>,
    pub handles: AtomicU32,
    pub(crate) opens: Opens,
    /// Operations that work with it without a handle ([`Claim`]).
    users: AtomicU32,
    /// Signalled when the last handle is closed.
    pub closed: tokio::sync::Notify,
    /// Held by whatever changes the object: commits, renames, unlinks, attribute changes.
    pub change: tokio::sync::Mutex<()>,
    /// The object was unlinked while handles have it open; it is deleted with the last of them. Locked while that is
    /// done and while something else takes the name: equal bytes have equal ETags, so a condition cannot tell which came
    /// first. Of several: [`super::displacing`].
    pub deferred_delete: Arc<tokio::sync::Mutex<Option<Deferred>>>,
    /// What was written here lost against somebody else's version: every writer is told.
    pub lost: Mutex<Option<Error>>,
}

impl OpenFile {
    /// Waits until no handle is open, at most `limit`.
    pub(crate) async fn wait_closed(&self, limit: Duration) {
        let closed = self.closed.notified();
        tokio::pin!(closed);
        closed.as_mut().enable();
        if self.handles.load(Ordering::Acquire) > 0 {
            // Still open after all: the caller looks at the count.
            let _ = rt::timeout(limit, closed).await;
        }
    }

    pub(crate) fn new(file: Arc<File>) -> Arc<Self> {
        Arc::new(Self {
            file,
            handles: AtomicU32::new(0),
            opens: Opens::default(),
            closed: tokio::sync::Notify::new(),
            change: tokio::sync::Mutex::new(()),
            users: AtomicU32::new(0),
            deferred_delete: Arc::default(),
            lost: Mutex::new(None),
        })
    }

    /// True while a handle or an operation needs it.
    pub(crate) fn is_in_use(&self) -> bool {
        self.handles.load(Ordering::SeqCst) > 0 || self.users.load(Ordering::SeqCst) > 0
    }
}

/// While one of these lives the content stays the inode's content, so that whoever opens the inode shares it.
pub(crate) struct Claim {
    fs: Arc<Fs>,
    ino: Ino,
    open: Arc<OpenFile>,
}

impl std::ops::Deref for Claim {
    type Target = Arc<OpenFile>;

    fn deref(&self) -> &Arc<OpenFile> {
        &self.open
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.open.users.fetch_sub(1, Ordering::SeqCst);
        // Without a runtime the mount is over.
        if !self.open.is_in_use() && rt::Handle::try_current().is_ok() {
            self.fs.unused_content(self.ino, &self.open);
        }
    }
}

/// A claim that may be given up while locks of files are held. Contents have these, and the filesystem has the contents:
/// it would own itself, and never go.
struct HeldClaim {
    fs: Weak<Fs>,
    ino: Ino,
    /// Counted among its users.
    open: Option<Arc<OpenFile>>,
}

impl Drop for HeldClaim {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else { return };
        // Without a runtime the mount is over.
        if rt::Handle::try_current().is_ok() {
            let (fs, ino) = (self.fs.clone(), self.ino);
            rt::spawn(async move { drop(fs.upgrade().map(|fs| Claim { fs, ino, open })) });
        }
    }
}

impl Fs {
    /// Registers a content of the version `of` (`None`: of a file that only this mount has), unless another open was faster:
    /// then that one's is returned. The inode lives as long as it has a content.
    ///
    /// # Errors
    /// `Stale` when the inode stands for another version by now.
    pub(crate) fn share(self: &Arc<Self>, ino: Ino, of: Option<&ETag>, file: Arc<File>) -> Result<Claim> {
        let mut files = self.files();
        if !self.tree.pin_version(ino, of) {
            let error = Error::new(ErrorKind::Stale, "the object was replaced while it was opened");
            return Err(error.on(&file.id()));
        }
        if let Some(open) = files.get(&ino) {
            self.tree.unpin(ino);
            return Ok(self.claim_of(ino, open));
        }
        file.belongs_to(Arc::new(super::commit::Commits::of(self, ino)));
        let open = files.entry(ino).or_insert(OpenFile::new(file));
        Ok(self.claim_of(ino, open))
    }

    /// The content of an inode that has one.
    pub(crate) fn claim(self: &Arc<Self>, ino: Ino) -> Option<Claim> {
        let files = self.files();
        files.get(&ino).map(|open| self.claim_of(ino, open))
    }

    /// Keeps the content of an inode, and the object that it is of, until nobody copies from it any more.
    pub(crate) fn hold(self: &Arc<Self>, ino: Ino) -> Hold {
        let files = self.files();
        let open = files.get(&ino).cloned();
        if let Some(open) = &open {
            open.users.fetch_add(1, Ordering::SeqCst);
        }
        Arc::new(HeldClaim {
            fs: Arc::downgrade(self),
            ino,
            open,
        })
    }

    /// By holders of the lock on all contents.
    fn claim_of(self: &Arc<Self>, ino: Ino, open: &Arc<OpenFile>) -> Claim {
        open.users.fetch_add(1, Ordering::SeqCst);
        Claim {
            fs: self.clone(),
            ino,
            open: open.clone(),
        }
    }

    /// Nobody has the content open, and no operation works with it.
    fn unused_content(self: &Arc<Self>, ino: Ino, open: &Arc<OpenFile>) {
        if self.tree.node(ino).is_ok_and(|node| node.unlinked) {
            let (fs, open) = (self.clone(), open.clone());
            rt::spawn(async move { fs.last_close(ino, &open).await });
        } else if open.file.is_dirty() {
            self.commit_later(ino);
        } else {
            self.forget_content(ino, open);
        }
    }

    pub(super) async fn last_close(self: &Arc<Self>, ino: Ino, open: &Arc<OpenFile>) {
        let unlinked = self.tree.node(ino).is_ok_and(|node| node.unlinked);
        if unlinked {
            self.close_unlinked(ino, open).await;
        } else if open.file.is_dirty() {
            self.commit_later(ino);
        } else {
            self.forget_content(ino, open);
        }
    }

    /// Drops the content if nobody came back to it meanwhile.
    pub(crate) fn forget_content(&self, ino: Ino, open: &Arc<OpenFile>) {
        let unlinked = self.tree.node(ino).is_ok_and(|node| node.unlinked);
        let mut files = self.files();
        let same = files.get(&ino).is_some_and(|current| Arc::ptr_eq(current, open));
        if same && !open.is_in_use() && (unlinked || !open.file.is_dirty()) {
            files.remove(&ino);
            self.tree.unpin(ino);
        }
    }
}
