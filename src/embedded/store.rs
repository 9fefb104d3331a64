//! The store: one lock over the namespace, the log and the references to blobs.
//!
//! 1. Conditions must hold at the moment of the change: [`Store::change`] decides, logs and applies under one lock.
//! 2. An acknowledged change must survive `kill -9`: the records are written before the change is visible or
//!    answered; with `durable` they are also on the disk before the answer.
//! 3. Data must not vanish between a look and the use of what was seen: [`Store::spans`] pins blobs.
//! 4. Two servers on one directory would destroy it: a lock on the directory.

use super::blobs::{Blob, Blobs, Span};
use super::body::Buffers;
use super::counts::Counts;
use super::faults::{Faults, Quirks};
use super::log::Log;
use super::state::{Bucket, Piece, Record, State};
use crate::base::error::{Error, ErrorKind, Result};
use crate::rt;
use s3s::{S3Error, S3Result, s3_error};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::UNIX_EPOCH;

/// Where a store keeps its data, and who may use it.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// `None`: in memory, without threads or files, for tests that stop the clock.
    pub data_dir: Option<PathBuf>,
    pub access_key: String,
    pub secret_key: String,
    pub region: String,
    /// Data and records are on the disk before a request is answered. Without, they survive the death of the
    /// process, but not a power cut.
    pub durable: bool,
}

impl StoreOptions {
    pub fn in_memory() -> Self {
        Self {
            data_dir: None,
            access_key: "pailfs".to_owned(),
            secret_key: "pailfs-secret".to_owned(),
            region: "us-east-1".to_owned(),
            durable: false,
        }
    }

    pub fn in_directory(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: Some(data_dir.into()),
            ..Self::in_memory()
        }
    }
}

/// An S3 store; clones are handles on the same one.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    options: StoreOptions,
    guarded: Mutex<Guarded>,
    blobs: Blobs,
    buffers: Buffers,
    faults: Faults,
    counts: Counts,
    quirks: RwLock<Quirks>,
    /// Archived objects, by their ETags, that are being restored (false) or are restored (true).
    restores: Mutex<BTreeMap<String, bool>>,
    /// Buckets that are not in the store's own region.
    bucket_regions: RwLock<BTreeMap<String, String>>,
    /// Keeps other processes out of the directory; released with the last handle.
    _directory_lock: Option<File>,
}

struct Guarded {
    state: State,
    log: Option<Log>,
}

impl Store {
    /// Opens the store, replaying what the directory holds, or creates it.
    ///
    /// # Errors
    /// `LocalIo` for the directory; `Busy` when another store has it open; `Corrupt` when its log cannot be read.
    pub fn open(options: StoreOptions) -> Result<Self> {
        let mut state = State::default();
        let (blobs, log, directory_lock) = match &options.data_dir {
            None => (Blobs::in_memory(), None, None),
            Some(dir) => {
                let lock = lock_directory(dir)?;
                let log = Log::open(dir.join("log"), |record| {
                    state.apply(record);
                })?;
                let blobs = Blobs::open(
                    dir.join("blobs"),
                    options.durable,
                    state.referenced_blobs(),
                    state.next_blob(),
                )?;
                (blobs, Some(log), Some(lock))
            }
        };
        Ok(Self(Arc::new(Inner {
            options,
            guarded: Mutex::new(Guarded { state, log }),
            blobs,
            buffers: Buffers::default(),
            faults: Faults::default(),
            counts: Counts::default(),
            quirks: RwLock::default(),
            restores: Mutex::default(),
            bucket_regions: RwLock::default(),
            _directory_lock: directory_lock,
        })))
    }

    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Keys of multipart uploads that were neither completed nor aborted, of all buckets.
    pub fn open_uploads(&self) -> Vec<String> {
        let guarded = self.guarded();
        let buckets = guarded.state.buckets.values();
        buckets
            .flat_map(|bucket| bucket.uploads.keys())
            .map(|upload| upload.key.clone())
            .collect()
    }

    fn restores(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.0.restores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn restored(&self, etag: &str) -> Option<bool> {
        self.restores().get(etag).copied()
    }

    /// False when that has begun before.
    pub(super) fn begin_restore(&self, etag: &str) -> bool {
        self.restores().insert(etag.to_owned(), false).is_none()
    }

    /// All that was being restored is.
    pub fn finish_restores(&self) {
        self.restores().values_mut().for_each(|is_done| *is_done = true);
    }

    pub fn quirks(&self) -> Quirks {
        *self.0.quirks.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_quirks(&self, quirks: Quirks) {
        *self.0.quirks.write().unwrap_or_else(PoisonError::into_inner) = quirks;
    }

    /// From now on the bucket is in that region: requests that are signed for another one are redirected.
    pub fn set_bucket_region(&self, bucket: &str, region: &str) {
        let mut regions = self
            .0
            .bucket_regions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        regions.insert(bucket.to_owned(), region.to_owned());
    }

    pub(super) fn region_of(&self, bucket: &str) -> Option<String> {
        let regions = self
            .0
            .bucket_regions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        regions.get(bucket).cloned()
    }

    pub fn options(&self) -> &StoreOptions {
        &self.0.options
    }

    pub(super) fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    pub(super) fn buffers(&self) -> Buffers {
        self.0.buffers.clone()
    }

    /// Looks at a bucket.
    ///
    /// # Errors
    /// `NoSuchBucket`, or what `look` says.
    pub(super) fn read<T>(&self, bucket: &str, look: impl FnOnce(&Bucket) -> S3Result<T>) -> S3Result<T> {
        self.read_all(|state| look(bucket_of(state, bucket)?))
    }

    pub(super) fn read_all<T>(&self, look: impl FnOnce(&State) -> S3Result<T>) -> S3Result<T> {
        look(&self.guarded().state)
    }

    /// Changes the namespace, all or nothing. `decide` sees the state as it is and answers the records of the
    /// change; `blobs` are those to which the records may refer.
    ///
    /// # Errors
    /// What `decide` says; `InternalError` when the log cannot be written. Nothing changes then.
    pub(super) async fn change<T>(
        &self,
        blobs: impl IntoIterator<Item = Arc<Blob>>,
        decide: impl FnOnce(&State) -> S3Result<(Vec<Record>, T)>,
    ) -> S3Result<T> {
        // Everything that is not Send stays in a function that does not wait.
        let (answer, to_sync) = self.change_locked(blobs, decide)?;
        if let Some(file) = to_sync {
            rt::blocking(move || file.sync_data())
                .await
                .map_err(|error| internal(&error))?;
        }
        Ok(answer)
    }

    fn change_locked<T>(
        &self,
        blobs: impl IntoIterator<Item = Arc<Blob>>,
        decide: impl FnOnce(&State) -> S3Result<(Vec<Record>, T)>,
    ) -> S3Result<(T, Option<Arc<File>>)> {
        let mut guarded = self.guarded();
        let (records, answer) = decide(&guarded.state)?;
        if let Some(log) = &mut guarded.log {
            log.append(&records).map_err(|error| internal(&error))?;
        }
        let mut freed = Vec::new();
        for record in records {
            freed.extend(guarded.state.apply(record));
        }
        for blob in blobs {
            if guarded.state.is_referenced(blob.id) {
                self.0.blobs.commit(&blob);
            }
        }
        let released = self.0.blobs.release(&freed);
        let to_sync = sync_or_compact(&mut guarded, self.0.options.durable);
        drop(guarded);
        // Removing files takes time: after the lock.
        drop(released);
        Ok((answer, to_sync))
    }

    /// The bytes of `pieces`, kept from vanishing.
    pub(super) fn spans(&self, pieces: &[Piece]) -> S3Result<Vec<Span>> {
        let span = |piece: &Piece| {
            let blob = self.0.blobs.get(piece.blob);
            let blob = blob.ok_or_else(|| s3_error!(InternalError, "the data of this object is lost"))?;
            Ok(Span {
                blob,
                offset_bytes: piece.offset_bytes,
                len_bytes: piece.len_bytes,
            })
        };
        pieces.iter().map(span).collect()
    }

    fn guarded(&self) -> MutexGuard<'_, Guarded> {
        self.0.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shortens the log when it has grown; else says which file wants an fsync.
fn sync_or_compact(guarded: &mut Guarded, is_durable: bool) -> Option<Arc<File>> {
    let Guarded { state, log } = guarded;
    let log = log.as_mut()?;
    if log.has_grown() {
        match log.compact(state.snapshot()) {
            Ok(()) => return None,
            Err(error) => tracing::warn!(%error, "the log could not be compacted"),
        }
    }
    is_durable.then(|| log.file())
}

pub(super) fn bucket_of<'a>(state: &'a State, name: &str) -> S3Result<&'a Bucket> {
    state.buckets.get(name).ok_or_else(|| s3_error!(NoSuchBucket))
}

pub(super) fn internal(error: &io::Error) -> S3Error {
    s3_error!(InternalError, "the store's disk: {error}")
}

/// Whole seconds since 1970, as S3 keeps times.
pub(super) fn now_s() -> u64 {
    rt::wall_clock()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn lock_directory(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let failed = |error: &io::Error| Error::local_io(error, format_args!("locking {}", path.display()));
    std::fs::create_dir_all(dir).map_err(|error| failed(&error))?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.map_err(|error| failed(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::Busy,
            format!("another server uses {}", dir.display()),
        )),
        Err(TryLockError::Error(error)) => Err(failed(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(store: &Store, value: usize) {
        let tags = vec![("t".to_owned(), format!("{value}{}", "-".repeat(100_000)))];
        let change = store.change([], |_| {
            Ok((
                vec![Record::BucketTagged {
                    bucket: "bkt".into(),
                    tags,
                }],
                (),
            ))
        });
        futures_util::future::FutureExt::now_or_never(change)
            .expect("nothing to wait for")
            .unwrap();
    }

    #[test]
    fn a_log_that_has_grown_is_compacted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreOptions::in_directory(dir.path())).unwrap();
        let create = |_: &State| {
            Ok((
                vec![Record::BucketCreated {
                    bucket: "bkt".into(),
                    created_s: 1,
                }],
                (),
            ))
        };
        let change = store.change([], create);
        futures_util::future::FutureExt::now_or_never(change)
            .expect("nothing to wait for")
            .unwrap();
        for value in 0..200 {
            tag(&store, value);
        }
        let log_bytes = std::fs::metadata(dir.path().join("log")).unwrap().len();
        assert!(log_bytes < 12 << 20, "20 MB of records take {log_bytes} bytes");
        drop(store);
        let store = Store::open(StoreOptions::in_directory(dir.path())).unwrap();
        let value = store.read("bkt", |bucket| Ok(bucket.tags[0].1.clone())).unwrap();
        assert_eq!(value.trim_end_matches('-'), "199");
    }

    #[test]
    fn a_directory_has_one_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreOptions::in_directory(dir.path())).unwrap();
        let second = Store::open(StoreOptions::in_directory(dir.path()));
        assert_eq!(second.err().map(|error| error.kind()), Some(ErrorKind::Busy));
        drop(store);
        Store::open(StoreOptions::in_directory(dir.path())).unwrap();
    }
}
