//! The bytes of objects, in files (or memory) that know nothing of keys.
//!
//! 1. File names must not come from keys: a blob has a number, and its file is called that.
//! 2. A blob lives as long as the namespace refers to it or somebody reads it: readers hold an [`Arc`], and the
//!    file goes with the last of them once the namespace let go ([`Blobs::release`]). What a crash left behind
//!    without a reference goes at the next start ([`Blobs::open`]).
//! 3. Bodies of 5 GiB in bounded memory, fast: data is hashed and written in batches on blocking threads while the
//!    next batch arrives ([`BlobWriter`]), and read ahead by one chunk into buffers that are used again
//!    ([`super::body`]).
//!
//! In memory the same logic runs without threads, so that tests can stop the clock.

use super::checksums::{Algorithm, Digests, Hasher};
use super::state::BlobId;
use crate::base::error::{Error, Result};
use crate::rt;
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much of a body is gathered before it goes to a blocking thread.
const BATCH_BYTES: usize = 1 << 20;
/// Below this a thread's hand-off costs more than the work.
const INLINE_BYTES: usize = 64 << 10;

/// Immutable bytes. Dropping the last handle on a blob that the namespace does not refer to removes it.
#[derive(Debug)]
pub struct Blob {
    pub id: BlobId,
    content: Content,
    is_doomed: AtomicBool,
}

#[derive(Debug)]
enum Content {
    Memory(Bytes),
    File(PathBuf),
}

impl Drop for Blob {
    fn drop(&mut self) {
        if let (Content::File(path), true) = (&self.content, self.is_doomed.load(Ordering::Acquire))
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "a blob could not be removed");
        }
    }
}

/// Where to read a blob from.
pub enum Source {
    Memory(Bytes),
    File(File),
}

impl Blob {
    pub fn open(&self) -> io::Result<Source> {
        match &self.content {
            Content::Memory(bytes) => Ok(Source::Memory(bytes.clone())),
            Content::File(path) => File::open(path).map(Source::File),
        }
    }

    /// [`open`](Self::open), or nothing if the caller has it open.
    pub fn open_unless(&self, is_open: bool) -> io::Result<Option<Source>> {
        if is_open { Ok(None) } else { self.open().map(Some) }
    }

    pub fn is_in_memory(&self) -> bool {
        matches!(self.content, Content::Memory(_))
    }
}

/// A range of a blob that cannot go away while this exists.
#[derive(Clone, Debug)]
pub struct Span {
    pub blob: Arc<Blob>,
    pub offset_bytes: u64,
    pub len_bytes: u64,
}

/// All blobs of a store.
#[derive(Debug)]
pub struct Blobs {
    /// `None` keeps them in memory.
    dir: Option<PathBuf>,
    /// Blobs are on the disk before they are committed.
    is_durable: bool,
    live: Mutex<HashMap<BlobId, Arc<Blob>>>,
    next: AtomicU64,
}

impl Blobs {
    pub fn in_memory() -> Self {
        Self {
            dir: None,
            is_durable: false,
            live: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }

    /// Takes over the blobs in `dir` (created if need be) that `referenced` names, and removes all other files.
    ///
    /// # Errors
    /// `LocalIo`.
    pub fn open(
        dir: PathBuf,
        is_durable: bool,
        referenced: impl Iterator<Item = BlobId>,
        next: BlobId,
    ) -> Result<Self> {
        let failed = |error: io::Error| Error::local_io(&error, format_args!("opening {}", dir.display()));
        std::fs::create_dir_all(&dir).map_err(failed)?;
        let live: HashMap<BlobId, Arc<Blob>> = referenced
            .map(|id| (id, Arc::new(file_blob(&dir, id, false))))
            .collect();
        let mut found = 0;
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let id = entry
                .file_name()
                .to_str()
                .and_then(|name| BlobId::from_str_radix(name, 16).ok());
            if id.is_some_and(|id| live.contains_key(&id)) {
                found += 1;
            } else {
                std::fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        if found < live.len() {
            tracing::warn!(dir = %dir.display(), missing = live.len() - found, "blobs of objects are missing");
        }
        Ok(Self {
            dir: Some(dir),
            is_durable,
            live: Mutex::new(live),
            next: AtomicU64::new(next.max(1)),
        })
    }

    /// A blob that the namespace refers to.
    pub fn get(&self, id: BlobId) -> Option<Arc<Blob>> {
        self.live().get(&id).cloned()
    }

    /// The namespace refers to `blob` from now on.
    pub fn commit(&self, blob: &Arc<Blob>) {
        blob.is_doomed.store(false, Ordering::Release);
        self.live().insert(blob.id, Arc::clone(blob));
    }

    /// The namespace refers to these no more. Dropping the answer removes what nobody reads: outside of locks.
    #[must_use]
    pub fn release(&self, ids: &[BlobId]) -> Vec<Arc<Blob>> {
        let mut live = self.live();
        let released: Vec<Arc<Blob>> = ids.iter().filter_map(|id| live.remove(id)).collect();
        for blob in &released {
            blob.is_doomed.store(true, Ordering::Release);
        }
        released
    }

    /// Starts a blob that computes these checksums (and the MD5, if wanted) of what it is given.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(&self, algorithms: &[Algorithm], with_md5: bool) -> io::Result<BlobWriter> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let hasher = Hasher::new(algorithms, with_md5);
        let (blob, sink) = match &self.dir {
            None => (
                None,
                Sink {
                    hasher,
                    target: Target::Memory(Vec::new()),
                },
            ),
            Some(dir) => {
                let blob = file_blob(dir, id, true);
                let Content::File(path) = &blob.content else {
                    return Err(io::ErrorKind::Unsupported.into());
                };
                let file = OpenOptions::new().write(true).create_new(true).open(path)?;
                (
                    Some(blob),
                    Sink {
                        hasher,
                        target: Target::File(file),
                    },
                )
            }
        };
        Ok(BlobWriter {
            id,
            is_durable: self.is_durable,
            dir: self.dir.clone(),
            blob,
            sink: Work::Idle(Box::new(sink)),
            batch: Batch::default(),
            len_bytes: 0,
        })
    }

    fn live(&self) -> MutexGuard<'_, HashMap<BlobId, Arc<Blob>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file_blob(dir: &Path, id: BlobId, is_doomed: bool) -> Blob {
    Blob {
        id,
        content: Content::File(dir.join(format!("{id:012x}"))),
        is_doomed: AtomicBool::new(is_doomed),
    }
}

/// A new file is on the disk when its directory says so too.
fn sync(file: &File, dir: Option<&Path>) -> io::Result<()> {
    file.sync_data()?;
    dir.map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

enum Target {
    Memory(Vec<u8>),
    File(File),
}

struct Sink {
    hasher: Hasher,
    target: Target,
}

impl Sink {
    fn take_in(&mut self, batch: &[Bytes]) -> io::Result<()> {
        for piece in batch {
            self.hasher.update(piece);
            match &mut self.target {
                Target::Memory(all) => all.extend_from_slice(piece),
                Target::File(file) => file.write_all(piece)?,
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    len_bytes: usize,
}

type Running = Pin<Box<dyn Future<Output = (Box<Sink>, io::Result<()>)> + Send>>;

enum Work {
    Idle(Box<Sink>),
    Running(Running),
    /// An earlier batch failed.
    Failed,
}

/// Takes a body in, in bounded memory. Dropped before [`finish`](Self::finish), it leaves nothing.
pub struct BlobWriter {
    id: BlobId,
    is_durable: bool,
    dir: Option<PathBuf>,
    /// For a file: removes it unless committed.
    blob: Option<Blob>,
    sink: Work,
    batch: Batch,
    len_bytes: u64,
}

/// A body that arrived whole and is not yet referred to.
pub struct Written {
    /// `None` for an empty body.
    pub blob: Option<Arc<Blob>>,
    pub len_bytes: u64,
    pub digests: Digests,
}

impl BlobWriter {
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// # Errors
    /// When this or an earlier piece could not be written.
    pub async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        self.len_bytes += piece.len() as u64;
        self.batch.len_bytes += piece.len();
        self.batch.pieces.push(piece);
        if self.batch.len_bytes < BATCH_BYTES {
            return Ok(());
        }
        self.flush(true).await
    }

    /// # Errors
    /// When something could not be written.
    pub async fn finish(mut self) -> io::Result<Written> {
        let is_small = self.len_bytes <= INLINE_BYTES as u64;
        self.flush(!is_small).await?;
        let sink = self.idle_sink().await?;
        let digests = sink.hasher.finish();
        let len_bytes = self.len_bytes;
        let blob = match (sink.target, self.blob.take()) {
            // Dropping the file's blob removes it.
            _ if len_bytes == 0 => None,
            (Target::Memory(all), _) => {
                let content = Content::Memory(all.into());
                Some(Blob {
                    id: self.id,
                    content,
                    is_doomed: AtomicBool::new(true),
                })
            }
            (Target::File(file), blob) => {
                if self.is_durable {
                    let dir = self.dir.take();
                    rt::blocking(move || sync(&file, dir.as_deref())).await?;
                }
                blob
            }
        };
        Ok(Written {
            blob: blob.map(Arc::new),
            len_bytes,
            digests,
        })
    }

    /// Hands the batch on, and waits for the one before it only.
    async fn flush(&mut self, in_background: bool) -> io::Result<()> {
        let mut sink = self.idle_sink().await?;
        let batch = std::mem::take(&mut self.batch);
        if matches!(sink.target, Target::Memory(_)) || !in_background {
            sink.take_in(&batch.pieces)?;
            self.sink = Work::Idle(sink);
            return Ok(());
        }
        let mut running: Running = Box::pin(rt::blocking(move || {
            let outcome = sink.take_in(&batch.pieces);
            (sink, outcome)
        }));
        // A future does nothing until it is polled: this starts the thread.
        self.sink = match futures_util::poll!(&mut running) {
            std::task::Poll::Ready((sink, Ok(()))) => Work::Idle(sink),
            std::task::Poll::Ready((_, Err(error))) => return Err(error),
            std::task::Poll::Pending => Work::Running(running),
        };
        Ok(())
    }

    async fn idle_sink(&mut self) -> io::Result<Box<Sink>> {
        match std::mem::replace(&mut self.sink, Work::Failed) {
            Work::Idle(sink) => Ok(sink),
            Work::Running(running) => {
                let (sink, outcome) = running.await;
                outcome.map(|()| sink)
            }
            Work::Failed => Err(io::Error::other("an earlier write failed")),
        }
    }
}

/// Checksums (and the MD5, if wanted) of what `spans` hold, in bounded memory.
///
/// # Errors
/// When a blob cannot be read.
pub async fn digest(spans: &[Span], algorithms: &[Algorithm], with_md5: bool) -> io::Result<Digests> {
    let hasher = Hasher::new(algorithms, with_md5);
    if spans.iter().all(|span| span.blob.is_in_memory()) {
        return digest_blocking(spans, hasher);
    }
    let spans = spans.to_vec();
    rt::blocking(move || digest_blocking(&spans, hasher)).await
}

fn digest_blocking(spans: &[Span], mut hasher: Hasher) -> io::Result<Digests> {
    let mut buffer = Vec::new();
    for span in spans {
        let (start, end) = (span.offset_bytes, span.offset_bytes + span.len_bytes);
        match span.blob.open()? {
            Source::Memory(bytes) => hasher.update(&bytes[start as usize..end as usize]),
            Source::File(file) => {
                buffer.resize(BATCH_BYTES, 0);
                let mut at = start;
                while at < end {
                    let chunk = &mut buffer[..BATCH_BYTES.min((end - at) as usize)];
                    file.read_exact_at(chunk, at)?;
                    hasher.update(chunk);
                    at += chunk.len() as u64;
                }
            }
        }
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(blobs: &Blobs, data: &'static [u8]) -> Arc<Blob> {
        let mut writer = blobs.create(&[], true).unwrap();
        writer.write(Bytes::from_static(data)).await.unwrap();
        writer.finish().await.unwrap().blob.expect("data makes a blob")
    }

    fn files(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[tokio::test]
    async fn a_file_lives_as_long_as_somebody_wants_it() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().into(), false, std::iter::empty(), 1).unwrap();
        drop(written(&blobs, b"never committed").await);
        assert_eq!(files(dir.path()), 0);

        let blob = written(&blobs, b"data").await;
        blobs.commit(&blob);
        let id = blob.id;
        drop(blob);
        assert_eq!(files(dir.path()), 1);
        let reader = blobs.get(id).unwrap();
        drop(blobs.release(&[id]));
        assert_eq!(files(dir.path()), 1);
        assert!(matches!(reader.open().unwrap(), Source::File(_)));
        drop(reader);
        assert_eq!(files(dir.path()), 0);
    }

    #[tokio::test]
    async fn a_blob_let_go_can_be_taken_up_again_by_who_still_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().into(), false, std::iter::empty(), 1).unwrap();
        let blob = written(&blobs, b"data").await;
        blobs.commit(&blob);
        drop(blobs.release(&[blob.id]));
        blobs.commit(&blob);
        drop(blob);
        assert_eq!(files(dir.path()), 1);
    }

    #[tokio::test]
    async fn opening_removes_what_nothing_refers_to() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().into(), false, std::iter::empty(), 1).unwrap();
        let (kept, left) = (written(&blobs, b"kept").await, written(&blobs, b"left").await);
        blobs.commit(&kept);
        blobs.commit(&left);
        let id = kept.id;
        drop((kept, left, blobs));
        assert_eq!(files(dir.path()), 2);
        let blobs = Blobs::open(dir.path().into(), false, std::iter::once(id), 10).unwrap();
        assert_eq!(files(dir.path()), 1);
        assert!(blobs.get(id).is_some());
        assert_eq!(written(&blobs, b"new").await.id, 10);
    }

    #[tokio::test]
    async fn an_empty_body_takes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().into(), false, std::iter::empty(), 1).unwrap();
        let written = blobs.create(&[], true).unwrap().finish().await.unwrap();
        assert!(written.blob.is_none());
        assert_eq!(
            written.digests.etag().unwrap(),
            "d41d8cd98f00b204e9800998ecf8427e"
        );
        assert_eq!(files(dir.path()), 0);
    }
}
