//! The bytes of one request: from memory without a copy, loaded from the spool or the source version, or zeroes.
//!
//! 1. What must be loaded needs memory first: the claim is made for all of it before anything is held, so that no two
//!    bodies wait for each other's halves.
//! 2. Reading a version needs memory of its own meanwhile. So the file's own memory is taken last, when all else is
//!    there: until then it may go to the spool and make room. What did so must be loaded too, under a larger claim.

use super::File;
use super::chunks::Piece;
use super::state::State;
use crate::base::checksum::Crc32c;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extents::{Backing, ChunkId, Extent};
use crate::base::object::ByteRange;
use crate::base::segments::Segments;
use crate::object::budget::LoadPermit;
use crate::object::reader::{ReadStream, Reader};
use crate::spool::SpoolFile;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// The source version is read in steps of this length.
const READ_STEP_BYTES: u64 = 1 << 20;
const ZEROES: &[u8] = &[0; 1 << 20];
static CHECKSUM_OF_ZEROES: LazyLock<Crc32c> = LazyLock::new(|| Crc32c::of(ZEROES));

/// A request body, with the claim on the memory of what was loaded for it.
pub(super) struct Body {
    pub segments: Segments,
    pub checksum: Crc32c,
    _loaded: Option<LoadPermit>,
}

enum BodyPiece {
    Bytes(Piece),
    Zero(u64),
}

/// The next run of bytes of a body.
enum Run {
    Memory { chunk: ChunkId, offset: u64, len: u64 },
    Zero { len: u64 },
    Loaded(Bytes),
    ToLoad(Load),
}

/// Bytes that are elsewhere, from `position` of the file on.
struct Load {
    position: u64,
    len: u64,
    from: From,
}

enum From {
    Spool { file: Arc<SpoolFile>, offset: u64 },
    Source { reader: Arc<Reader>, offset: u64 },
}

impl Load {
    async fn bytes(self) -> Result<Bytes> {
        match self.from {
            From::Spool { file, offset } => {
                let mut data = Vec::with_capacity(self.len as usize);
                super::read_spool(file, offset, self.len, &mut data).await?;
                Ok(data.into())
            }
            From::Source { reader, offset } => Ok(load(&reader, offset, self.len).await?.into()),
        }
    }
}

/// What was loaded for a body, by file position, and the claim that covers it.
#[derive(Default)]
struct Loaded {
    runs: BTreeMap<u64, Bytes>,
    claimed_bytes: u64,
    permit: Option<LoadPermit>,
}

impl Loaded {
    fn bytes(&self) -> u64 {
        self.runs.values().map(|bytes| bytes.len() as u64).sum()
    }

    /// What is there from `position` on.
    fn at(&self, position: u64) -> Option<Bytes> {
        let (start, bytes) = self.runs.range(..=position).next_back()?;
        let skipped = (position - start) as usize;
        (skipped < bytes.len()).then(|| bytes.slice(skipped..))
    }

    /// Where the next of it begins.
    fn next_after(&self, position: u64) -> Option<u64> {
        self.runs.range(position + 1..).next().map(|(start, _)| *start)
    }
}

impl Body {
    fn new(loaded: Option<LoadPermit>) -> Self {
        Self {
            segments: Segments::new(),
            checksum: Crc32c::default(),
            _loaded: loaded,
        }
    }

    pub fn of_memory(pieces: Vec<Piece>) -> Self {
        let mut body = Self::new(None);
        for piece in pieces {
            body.push(piece);
        }
        body
    }

    fn push(&mut self, piece: Piece) {
        let checksum = piece.checksum.unwrap_or_else(|| Crc32c::of(&piece.bytes));
        self.checksum = self.checksum.then(checksum);
        self.segments.push(piece.bytes);
    }

    fn push_zeroes(&mut self, mut len: u64) {
        while len > 0 {
            let step = len.min(ZEROES.len() as u64);
            self.push(Piece {
                bytes: Bytes::from_static(&ZEROES[..step as usize]),
                checksum: (step == ZEROES.len() as u64).then(|| *CHECKSUM_OF_ZEROES),
            });
            len -= step;
        }
    }
}

impl State {
    /// The extents of `range` in what is being committed, or in the file as it is.
    fn extents_to_send(&self, range: ByteRange) -> Vec<Extent> {
        let map = self.sealed.as_ref().map_or(&self.map, |sealed| &sealed.map);
        map.range(range).collect()
    }

    /// The bytes of `range`, sealed, if all are in memory.
    pub fn memory_of(&mut self, range: ByteRange) -> Option<Vec<Piece>> {
        let extents = self.extents_to_send(range);
        let covered: u64 = extents.iter().map(|extent| extent.range.len()).sum();
        if covered != range.len() {
            return None;
        }
        extents
            .into_iter()
            .map(|extent| match extent.backing {
                Backing::Memory { chunk, offset } => {
                    Some(self.chunks.piece(chunk, offset, extent.range.len()))
                }
                _ => None,
            })
            .collect()
    }

    /// `range` in runs, with what was loaded of it already.
    ///
    /// # Errors
    /// `Stale` where bytes cannot be read any more.
    fn runs_to_send(&self, range: ByteRange, loaded: &Loaded) -> Result<Vec<Run>> {
        let lost = |what: &str| Error::new(ErrorKind::Stale, what.to_owned()).on(&self.id);
        let map = self.sealed.as_ref().map_or(&self.map, |sealed| &sealed.map);
        let mut runs = Vec::new();
        let mut position = range.start;
        while position < range.end {
            if let Some(mut bytes) = loaded.at(position) {
                bytes.truncate((range.end - position) as usize);
                position += bytes.len() as u64;
                runs.push(Run::Loaded(bytes));
                continue;
            }
            let Some(extent) = map.at(position) else { break };
            let end = loaded.next_after(position).unwrap_or(range.end);
            let len = extent.range.end.min(range.end).min(end) - position;
            let backing = extent.backing.advanced(position - extent.range.start);
            let from = match backing {
                Backing::Memory { chunk, offset } => {
                    runs.push(Run::Memory { chunk, offset, len });
                    None
                }
                Backing::Zero => {
                    runs.push(Run::Zero { len });
                    None
                }
                Backing::Spool { offset } => {
                    let file = self.spool.clone();
                    let file = file.ok_or_else(|| lost("the spool file is gone"))?;
                    Some(From::Spool { file, offset })
                }
                Backing::Source(at) => {
                    let source = self.source_of(at.source);
                    let source = source.ok_or_else(|| lost("the source version is gone"))?;
                    let (reader, offset) = (source.reader.clone(), at.offset);
                    Some(From::Source { reader, offset })
                }
                Backing::Part { .. } => return Err(lost("bytes are only in an upload that was left open")),
            };
            runs.extend(from.map(|from| Run::ToLoad(Load { position, len, from })));
            position += len;
        }
        Ok(runs)
    }
}

impl File {
    /// The bytes of `range` of what is sealed; `part`: the part that they are to be, whose bytes are in use from now on.
    ///
    /// # Errors
    /// `Stale` when the source version is gone; `LocalIo` when the spool cannot be read; `TimedOut` without memory.
    pub(super) async fn body(&self, range: ByteRange, part: Option<u32>) -> Result<Body> {
        let mut loaded = Loaded::default();
        loop {
            let missing = match self.take_body(range, part, &mut loaded)? {
                Ok(body) => return Ok(body),
                Err(missing) => missing,
            };
            let needed_bytes = loaded.bytes() + missing.iter().map(|load| load.len).sum::<u64>();
            if needed_bytes > loaded.claimed_bytes {
                // The second time, all that may still move is claimed.
                let claimed_bytes = if loaded.permit.is_none() {
                    needed_bytes
                } else {
                    range.len()
                };
                // Given back before more is claimed: nobody waits while holding.
                drop(std::mem::take(&mut loaded));
                loaded.permit = Some(self.context.budget.acquire_for_load(claimed_bytes).await?);
                loaded.claimed_bytes = claimed_bytes;
                continue;
            }
            for load in missing {
                let position = load.position;
                loaded.runs.insert(position, load.bytes().await?);
            }
        }
    }

    /// The body, when all of it is in memory; else what is to be loaded first.
    fn take_body(
        &self,
        range: ByteRange,
        part: Option<u32>,
        loaded: &mut Loaded,
    ) -> Result<std::result::Result<Body, Vec<Load>>> {
        let mut state = self.state();
        let runs = state.runs_to_send(range, loaded)?;
        let is_missing = runs.iter().any(|run| matches!(run, Run::ToLoad(_)));
        let (mut pieces, mut missing) = (Vec::new(), Vec::new());
        for run in runs {
            match run {
                Run::ToLoad(load) => missing.push(load),
                // Not to be taken yet.
                _ if is_missing => {}
                Run::Memory { chunk, offset, len } => {
                    pieces.push(BodyPiece::Bytes(state.chunks.piece(chunk, offset, len)));
                }
                Run::Zero { len } => pieces.push(BodyPiece::Zero(len)),
                Run::Loaded(bytes) => pieces.push(BodyPiece::Bytes(Piece {
                    bytes,
                    checksum: None,
                })),
            }
        }
        if is_missing {
            return Ok(Err(missing));
        }
        if let (Some(part), Some(upload)) = (part, &mut state.upload) {
            upload.start(part);
        }
        drop(state);
        // Summed without the lock.
        let mut body = Body::new(loaded.permit.take());
        for piece in pieces {
            match piece {
                BodyPiece::Bytes(piece) => body.push(piece),
                BodyPiece::Zero(len) => body.push_zeroes(len),
            }
        }
        Ok(Ok(body))
    }
}

/// Reads exactly `len` bytes of a version.
pub(super) async fn load(reader: &Reader, offset: u64, len: u64) -> Result<Vec<u8>> {
    let stream = ReadStream::default();
    let mut data = Vec::with_capacity(len as usize);
    while (data.len() as u64) < len {
        let done = data.len() as u64;
        let step = READ_STEP_BYTES.min(len - done);
        reader
            .read(&stream, offset + done, step as usize, &mut data)
            .await?;
        if data.len() as u64 == done {
            let message = "the object is shorter than its version says";
            return Err(Error::new(ErrorKind::Corrupt, message).on(reader.id()));
        }
    }
    Ok(data)
}
