//! The disk cache between a fetch and the store: what is on disk is not asked for, and what came from the store is kept.
//!
//! 1. The disk must not be waited for on the runtime's threads: each look, read and write is blocking work.
//! 2. What is written must not keep a reader's memory: it is copied, into memory that the cache's slots account for.
//! 3. Everything that goes wrong here costs time only, and little of it: the store has the bytes. A disk that does not
//!    answer is not asked again before it has ([`BlockCache::ask`]).
//! 4. A file that was evicted while it is open takes no more blocks; another one is opened in its place ([`Disk::file`]).
//! 5. Most files are small and read once: nothing is made on the disk before there is something to store ([`Absent`]).

use super::fetch::Source;
use super::piece::{Filler, Piece};
use crate::base::object::ByteRange;
use crate::cache::blocks::{self, BlockCache, CachedFile, MAX_STORE_BYTES};
use crate::rt;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Mutex;

/// The cache, and the file of one version in it, once it was found or made.
pub struct Disk {
    cache: Arc<BlockCache>,
    file: Mutex<Opened>,
}

enum Opened {
    NotYet,
    /// The disk does not let us.
    Never,
    Here(Arc<CachedFile>),
}

/// What becomes of a version that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    IsMade,
    StaysAbsent,
}

impl Disk {
    pub fn new(cache: Arc<BlockCache>) -> Self {
        Self {
            cache,
            file: Mutex::new(Opened::NotYet),
        }
    }

    async fn file(&self, source: &Source, absent: Absent) -> Option<Arc<CachedFile>> {
        if !self.cache.is_for(source.version.size_bytes) {
            return None;
        }
        let mut opened = self.file.lock().await;
        match &*opened {
            Opened::Here(file) if !file.is_evicted() => return Some(file.clone()),
            Opened::Never => return None,
            Opened::Here(_) | Opened::NotYet => {}
        }
        let (cache, id, version) = (self.cache.clone(), source.id.clone(), source.version.clone());
        let open = move || {
            let (etag, size_bytes) = (version.etag.as_str(), version.size_bytes);
            match absent {
                Absent::IsMade => cache.file(&id.bucket, &id.key, etag, size_bytes),
                Absent::StaysAbsent => cache.find(&id.bucket, &id.key, etag, size_bytes),
            }
        };
        // A disk that does not answer now may do so for the next piece.
        let file = self.cache.ask(open).await?.map(Arc::new);
        *opened = match &file {
            Some(file) => Opened::Here(file.clone()),
            None if absent == Absent::IsMade => Opened::Never,
            None => Opened::NotYet,
        };
        file
    }
}

/// Fills pieces from the disk, from the first on, as long as they are there; returns the others.
pub async fn serve<'a>(source: &Source, pieces: &'a [Arc<Piece>]) -> &'a [Arc<Piece>] {
    let Some(disk) = &source.disk else { return pieces };
    let Some(file) = disk.file(source, Absent::StaysAbsent).await else {
        return pieces;
    };
    for (index, piece) in pieces.iter().enumerate() {
        if piece.is_fetch_over() {
            return &[];
        }
        let (cache, file, offset) = (disk.cache.clone(), file.clone(), piece.range.start);
        let mut filler = Filler::new(piece.clone());
        let mut buffer = filler.take_buffer();
        // The piece is filled here and not there: a read that comes too late must find nothing that it could fill.
        let read = move || (cache.read(&file, offset, &mut buffer), buffer);
        match disk.cache.ask(read).await {
            Some((true, buffer)) => filler.fill_with(buffer),
            Some((false, buffer)) => {
                filler.give_back(buffer);
                return &pieces[index..];
            }
            None => return &pieces[index..],
        }
    }
    &[]
}

/// Keeps a piece that has just come whole from the store, unless the disk is behind. Its bytes may outlive the piece, and so
/// its permit, by the time that a slot is waited for.
pub async fn keep(source: &Source, offset: u64, whole: Vec<Bytes>) {
    let Some(disk) = &source.disk else { return };
    let len: usize = whole.iter().map(Bytes::len).sum();
    let range = ByteRange::new(offset, offset + len as u64);
    if len as u64 > MAX_STORE_BYTES || !blocks::has_a_block(range, source.version.size_bytes) {
        return;
    }
    if let Opened::Here(file) = &*disk.file.lock().await
        && disk.cache.is_warming(file)
    {
        // Whoever brings all of it here stores what it reads.
        return;
    }
    let Some(slot) = disk.cache.slot().await else {
        return;
    };
    let Some(file) = disk.file(source, Absent::IsMade).await else {
        return;
    };
    let bytes = whole.concat();
    drop(whole);
    let cache = disk.cache.clone();
    drop(rt::spawn(async move {
        rt::blocking(move || cache.store(&file, offset, &bytes)).await;
        drop(slot);
    }));
}
