//! Spool files: sparse local files of this mount, and which of them outlive it.
//!
//! 1. A file is removed as soon as neither an open [`SpoolFile`] nor a record needs it; both are counted here, under one
//!    lock, by name: [`FileTable`].
//! 2. A file that became a conflict's payload is not written any more, though it may be open: the kept version would
//!    change. `frozen` says so, and writers are refused with `Stale`.

use super::Spool;
use super::local;
use crate::base::error::{Error, ErrorKind, Result};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The unit of `st_blocks`.
const DISK_BLOCK_BYTES: u64 = 512;

/// A sparse local file that holds data of one open file. Removed when dropped, unless a record names it.
pub struct SpoolFile {
    spool: Arc<Spool>,
    file: File,
    name: String,
    frozen: Arc<AtomicBool>,
    /// What the spool has counted of this file.
    counted_bytes: AtomicU64,
}

/// Who needs which file of one directory.
pub(super) struct FileTable {
    dir: PathBuf,
    needs: Mutex<HashMap<String, Needs>>,
}

#[derive(Default)]
struct Needs {
    open: usize,
    records: usize,
    frozen: Arc<AtomicBool>,
}

impl FileTable {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            needs: Mutex::default(),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of a file of this directory. `Invalid` for what cannot be a name of ours.
    pub(super) fn path(&self, name: &str) -> Result<PathBuf> {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{name:?} is no spool file's name"),
            ));
        }
        Ok(self.dir.join(name))
    }

    fn needs(&self) -> MutexGuard<'_, HashMap<String, Needs>> {
        // Counters are changed in one step each: a panic elsewhere leaves them right.
        self.needs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, name: &str) -> Arc<AtomicBool> {
        let mut needs = self.needs();
        let entry = needs.entry(name.to_owned()).or_default();
        entry.open += 1;
        entry.frozen.clone()
    }

    fn closed(&self, name: &str) {
        self.give_up(name, |entry| entry.open = entry.open.saturating_sub(1));
    }

    /// A record names the file (or is about to).
    pub(super) fn recorded(&self, name: &str) {
        self.needs().entry(name.to_owned()).or_default().records += 1;
    }

    /// A record that named the file is gone.
    pub(super) fn unrecorded(&self, name: &str) {
        self.give_up(name, |entry| entry.records = entry.records.saturating_sub(1));
    }

    /// Refuses writes through every open handle of the file.
    pub(super) fn freeze(&self, name: &str, frozen: bool) {
        if let Some(entry) = self.needs().get(name) {
            entry.frozen.store(frozen, Ordering::Release);
        }
    }

    fn give_up(&self, name: &str, change: impl FnOnce(&mut Needs)) {
        let mut needs = self.needs();
        let Some(entry) = needs.get_mut(name) else { return };
        change(entry);
        if entry.open == 0 && entry.records == 0 {
            needs.remove(name);
            // Under the lock, so that nobody opens or records it meanwhile. What stays is removed at the next mount.
            if let Err(error) = local::remove_file(&self.dir.join(name)) {
                tracing::warn!(%error, "a spool file that is not needed any more stays");
            }
        }
    }
}

impl SpoolFile {
    pub(super) fn create(spool: &Arc<Spool>) -> Result<Self> {
        let name = crate::rt::random_id();
        let path = spool.files.path(&name)?;
        let file = local::create_private_file(&path)
            .map_err(|error| local::failed(&error, "cannot create the spool file", &path))?;
        let frozen = spool.files.opened(&name);
        Ok(Self {
            spool: spool.clone(),
            file,
            name,
            frozen,
            counted_bytes: AtomicU64::new(0),
        })
    }

    pub(super) fn open(spool: &Arc<Spool>, name: &str) -> Result<Self> {
        let path = spool.files.path(name)?;
        let frozen = spool.files.opened(name);
        match File::options().read(true).write(true).open(&path) {
            Ok(file) => {
                let opened = Self {
                    spool: spool.clone(),
                    file,
                    name: name.to_owned(),
                    frozen,
                    counted_bytes: AtomicU64::new(0),
                };
                opened.count();
                Ok(opened)
            }
            Err(error) => {
                spool.files.closed(name);
                Err(local::failed(&error, "cannot open the spool file", &path))
            }
        }
    }

    pub fn file_name(&self) -> &str {
        &self.name
    }

    /// Where the file is, until it is moved into a conflict.
    pub fn path(&self) -> PathBuf {
        self.spool.files.dir().join(&self.name)
    }

    /// Blocking `pwrite` of all of `data`.
    ///
    /// # Errors
    /// `LocalIo` (`ENOSPC` on a full disk: then a part may have been written); `Stale` once the file is a conflict's.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check_writable()?;
        let written = self.file.write_all_at(data, offset);
        self.count();
        written.map_err(|error| self.failed(&error, "cannot write to"))
    }

    /// Tells the spool how much of the disk this file takes now.
    fn count(&self) {
        // Files are sparse; what a file system does not tell is not limited.
        if let Ok(metadata) = self.file.metadata() {
            self.counted(metadata.blocks() * DISK_BLOCK_BYTES);
        }
    }

    fn counted(&self, now_bytes: u64) {
        let before_bytes = self.counted_bytes.swap(now_bytes, Ordering::AcqRel);
        // Modulo 2^64, so that it does not matter in which order threads come here.
        let more_bytes = now_bytes.wrapping_sub(before_bytes);
        self.spool.used_bytes.fetch_add(more_bytes, Ordering::AcqRel);
    }

    /// Blocking `pread` of exactly `buf`; `Corrupt` when the file is shorter.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                let message = format!("the spool file {} ends too early", self.path().display());
                return Error::new(ErrorKind::Corrupt, message);
            }
            self.failed(&error, "cannot read")
        })
    }

    /// How long the file is now.
    pub fn len_bytes(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|error| self.failed(&error, "cannot look at"))
    }

    /// Shortens the file, or lengthens it with a hole.
    pub fn set_len(&self, len_bytes: u64) -> Result<()> {
        self.check_writable()?;
        self.file
            .set_len(len_bytes)
            .map_err(|error| self.failed(&error, "cannot change the length of"))
    }

    /// Gives the disk space of `[offset, offset + len_bytes)` back; the range reads as zeros, the length stays. Does
    /// nothing where the file system cannot (then the bytes stay as they were): only for ranges that are not read again.
    pub fn punch(&self, offset: u64, len_bytes: u64) -> Result<()> {
        self.check_writable()?;
        if len_bytes == 0 {
            return Ok(());
        }
        let too_large = || Error::new(ErrorKind::TooLarge, "a range beyond the largest file offset");
        let start = libc::off_t::try_from(offset).map_err(|_| too_large())?;
        let len = libc::off_t::try_from(len_bytes).map_err(|_| too_large())?;
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: the descriptor is open for as long as `self.file` is; no memory is passed.
        if unsafe { libc::fallocate(self.file.as_raw_fd(), mode, start, len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => Ok(()),
            _ => Err(self.failed(&error, "cannot free space of")),
        }
    }

    /// Puts the content on disk (fdatasync). The name is put there by the record that needs it.
    pub fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|error| self.failed(&error, "cannot write to disk"))
    }

    fn check_writable(&self) -> Result<()> {
        if self.frozen.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::Stale,
                "this version of the file was kept as a conflict",
            ));
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error, what: &str) -> Error {
        local::failed(error, &format!("{what} the spool file"), &self.path())
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        self.counted(0);
        self.spool.files.closed(&self.name);
    }
}
