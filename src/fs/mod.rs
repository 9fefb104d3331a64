//! What POSIX means here: one async method per operation, one file per family.
//!
//! Difficulties, and who solves them:
//! 1. Open handles share one content per inode, clean or dirty ([`open`], [`contents`]).
//! 2. `close` and `fsync` tell the truth about the bucket; what could not be sent is tried again ([`commit`]).
//! 3. Unlinked and replaced files stay readable through their handles ([`names`], [`rename`]), and what is theirs goes from
//!    the bucket in the end, nothing else ([`unlinked`]), also when something else takes the name before ([`displacing`]).
//! 4. Attributes live in the object, and changing them is a conditional copy ([`attr`]), made once for several
//!    changes ([`edits`]). User xattrs too ([`xattr`]).
//! 5. The kernel reads what is on disk by itself where nobody would notice but by the speed ([`passthrough`]).
//!    All of a file is brought there for whoever asks for that ([`warm`]).
//! 6. Nothing unsent is left behind unsaid when the mount ends ([`shutdown`]).

mod again;
pub mod attr;
pub mod commit;
pub mod contents;
mod displacing;
mod edits;
mod gates;
pub mod io;
pub mod names;
pub mod open;
mod passthrough;
pub mod readdir;
pub mod rename;
pub mod shutdown;
pub mod unlinked;
mod virtual_xattrs;
pub mod warm;
pub mod xattr;

use crate::base::attributes::MetadataFormat;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::mount_config::Passthrough;
use crate::object::file::FileContext;
use crate::rt;
use crate::spool::{Intent, RecordId, Spool};
pub use crate::tree::Invalidation;
use crate::tree::Tree;
use crate::tree::moves::Move;
use crate::tree::node::DirectoryPlace;
pub use crate::tree::node::{Ino, Kind, Node};
use contents::OpenFile;
use open::FileHandle;
use readdir::DirectoryHandle;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Mount-wide attributes of what carries none.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits of files.
    pub file_mode: u32,
    /// Permission bits of directories.
    pub dir_mode: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct FsSettings {
    pub defaults: Defaults,
    pub read_only: bool,
    pub metadata_format: MetadataFormat,
    /// listxattr(2) shows `user.s3.*` too.
    pub list_virtual_xattrs: bool,
    /// Of `user.s3.presigned-url`.
    pub presigned_url_lifetime: Duration,
    pub passthrough: Passthrough,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// Its number; 0 where it is not known.
    pub thread: u32,
}

/// The filesystem of one mount.
pub struct Fs {
    pub(crate) tree: Arc<Tree>,
    pub(crate) context: Arc<FileContext>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) settings: FsSettings,
    handles: Mutex<HashMap<u64, Handle>>,
    last_handle: AtomicU64,
    /// Content of every inode that has handles or unsent changes.
    files: Mutex<HashMap<u64, Arc<OpenFile>>>,
    /// Directory renames that failed and left objects under both names: the same rename again goes on with them. The
    /// record of what the next mount is to remove, if there is one.
    unfinished_renames: Mutex<HashMap<Move, Option<RecordId>>>,
    /// Directories that wait for a marker, with the record of it.
    due_markers: Mutex<HashMap<DirectoryPlace, Option<RecordId>>>,
    /// Inodes whose commit is being tried again in the background.
    retrying: Mutex<HashSet<u64>>,
    /// Changes of attributes that wait to be brought to the bucket.
    pub(crate) edits: edits::Edits,
    pub(crate) gates: gates::Gates,
    withheld: displacing::Withheld,
    kernel_side: passthrough::KernelSide,
    sent_back: again::SentBack,
}

#[derive(Clone)]
enum Handle {
    File(Arc<FileHandle>),
    Directory(Arc<tokio::sync::Mutex<DirectoryHandle>>),
}

impl Fs {
    #[must_use]
    pub fn new(
        tree: Arc<Tree>,
        context: Arc<FileContext>,
        spool: Arc<Spool>,
        settings: FsSettings,
    ) -> Arc<Self> {
        Arc::new(Self {
            tree,
            context,
            spool,
            settings,
            handles: Mutex::new(HashMap::new()),
            last_handle: AtomicU64::new(0),
            files: Mutex::new(HashMap::new()),
            due_markers: Mutex::new(HashMap::new()),
            unfinished_renames: Mutex::new(HashMap::new()),
            retrying: Mutex::new(HashSet::new()),
            edits: edits::Edits::default(),
            gates: gates::Gates::default(),
            withheld: displacing::Withheld::default(),
            kernel_side: passthrough::KernelSide::default(),
            sent_back: again::SentBack::default(),
        })
    }

    #[must_use]
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// The kernel drops `count` references to the inode.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.tree.forget(ino, count);
    }

    pub(crate) fn files(&self) -> MutexGuard<'_, HashMap<u64, Arc<OpenFile>>> {
        lock(&self.files)
    }

    fn add_handle(&self, handle: Handle) -> u64 {
        let number = self.last_handle.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.handles).insert(number, handle);
        number
    }

    fn take_handle(&self, number: u64) -> Option<Handle> {
        lock(&self.handles).remove(&number)
    }

    pub(crate) fn file_handle(&self, number: u64) -> Result<Arc<FileHandle>> {
        let handle = match lock(&self.handles).get(&number) {
            Some(Handle::File(handle)) => handle.clone(),
            _ => return Err(Error::new(ErrorKind::BadHandle, "no such file handle")),
        };
        self.heard_of(&handle);
        Ok(handle)
    }

    /// The kernel names the handle: it has dropped what pages it was told to drop.
    fn heard_of(&self, handle: &FileHandle) {
        if let Some(version) = &handle.pages_of
            && !handle.is_heard_of.swap(true, Ordering::Relaxed)
        {
            self.tree.note_pages(handle.ino, version);
        }
    }

    pub(crate) fn directory_handle(&self, number: u64) -> Result<Arc<tokio::sync::Mutex<DirectoryHandle>>> {
        match lock(&self.handles).get(&number) {
            Some(Handle::Directory(handle)) => Ok(handle.clone()),
            _ => Err(Error::new(ErrorKind::BadHandle, "no such directory handle")),
        }
    }

    pub(crate) fn writable(&self) -> Result<()> {
        if self.settings.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "mounted read-only"));
        }
        Ok(())
    }

    /// # Errors
    /// As [`Fs::writable`]; `NotPermitted` for what stands for a version.
    pub(crate) fn changeable(&self, ino: Ino) -> Result<()> {
        self.writable()?;
        match self.tree.node(ino)?.object() {
            Some(id) => self.context.client.check_changeable(id),
            None => Ok(()),
        }
    }

    /// Puts an intent on disk before the work that it describes begins.
    pub(crate) async fn record_intent(&self, intent: Intent) -> Result<RecordId> {
        let spool = self.spool.clone();
        rt::blocking(move || spool.record_intent(&intent)).await
    }

    /// The work is done. A record that stays costs a look at the next mount, nothing more.
    pub(crate) async fn forget_record(&self, record: RecordId) {
        let spool = self.spool.clone();
        if let Err(error) = rt::blocking(move || spool.forget(record)).await {
            tracing::warn!(%error, "a finished record could not be removed");
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
