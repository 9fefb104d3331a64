//! The disk cache between a fetch and the store: what is on disk is not asked for, and what came from the store is kept.
//!
//! 1. The disk must not be waited for on the runtime's threads: each look, read and write is blocking work.
//! 2. What is written must not keep a reader's memory: it is copied, into memory that the cache's slots account for.
//! 3. Everything that goes wrong here costs time only: the store has the bytes.

use super::fetch::Source;
use super::piece::{Filler, Piece};
use crate::cache::blocks::{BlockCache, CachedFile, MAX_STORE_BYTES};
use crate::rt;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The cache, and the file of one version in it, opened at the first use.
pub struct Disk {
    cache: Arc<BlockCache>,
    file: OnceCell<Option<Arc<CachedFile>>>,
}

impl Disk {
    pub fn new(cache: Arc<BlockCache>) -> Self {
        Self {
            cache,
            file: OnceCell::new(),
        }
    }

    async fn file(&self, source: &Source) -> Option<Arc<CachedFile>> {
        let open = || async {
            let (cache, id, version) = (self.cache.clone(), source.id.clone(), source.version.clone());
            rt::blocking(move || {
                let file = cache.file(&id.bucket, &id.key, version.etag.as_str(), version.size_bytes);
                file.map(Arc::new)
            })
            .await
        };
        self.file.get_or_init(open).await.clone()
    }
}

/// Fills pieces from the disk, from the first on, as long as they are there; returns the others.
pub async fn serve<'a>(source: &Source, pieces: &'a [Arc<Piece>]) -> &'a [Arc<Piece>] {
    let Some(disk) = &source.disk else { return pieces };
    let Some(file) = disk.file(source).await else {
        return pieces;
    };
    for (index, piece) in pieces.iter().enumerate() {
        if piece.is_fetch_over() {
            return &[];
        }
        let (cache, file, piece) = (disk.cache.clone(), file.clone(), piece.clone());
        let is_there = rt::blocking(move || {
            let offset = piece.range.start;
            Filler::new(piece).fill_with(|buffer| cache.read(&file, offset, buffer))
        })
        .await;
        if !is_there {
            return &pieces[index..];
        }
    }
    &[]
}

/// Keeps a piece that has just come whole from the store, unless the disk is behind. Its bytes may outlive the piece, and so
/// its permit, by the time that a slot is waited for.
pub async fn keep(source: &Source, offset: u64, whole: Vec<Bytes>) {
    let Some(disk) = &source.disk else { return };
    let len: usize = whole.iter().map(Bytes::len).sum();
    if len as u64 > MAX_STORE_BYTES {
        return;
    }
    let Some(file) = disk.file(source).await else {
        return;
    };
    let Some(slot) = disk.cache.slot().await else {
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
