//! The bytes of one request: from memory without a copy, loaded from the spool or the source version, or zeroes.
//!
//! 1. What must be loaded needs memory first: the claim is made for all of it before anything is held, so that no two
//!    bodies wait for each other's halves.
//! 2. Between claim and look bytes may have moved from memory to the spool: then more is claimed.

use super::File;
use super::chunks::Piece;
use super::state::State;
use crate::base::checksum::Crc32c;
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::extents::{Backing, Extent};
use crate::base::object::ByteRange;
use crate::base::segments::Segments;
use crate::object::budget::LoadPermit;
use crate::object::reader::{ReadStream, Reader};
use crate::spool::SpoolFile;
use bytes::Bytes;
use std::sync::Arc;

/// The source version is read in steps of this length.
const READ_STEP_BYTES: u64 = 1 << 20;
const ZEROES: &[u8] = &[0; 1 << 20];

/// A request body, with the claim on the memory of what was loaded for it.
pub(super) struct Body {
    pub segments: Segments,
    pub checksum: Crc32c,
    _loaded: Option<LoadPermit>,
}

enum BodyPiece {
    Memory(Piece),
    Zero(u64),
    Spool {
        file: Arc<SpoolFile>,
        offset: u64,
        len: u64,
    },
    Source {
        reader: Arc<Reader>,
        offset: u64,
        len: u64,
    },
}

impl BodyPiece {
    fn loaded_bytes(&self) -> u64 {
        match self {
            Self::Memory(_) | Self::Zero(_) => 0,
            Self::Spool { len, .. } | Self::Source { len, .. } => *len,
        }
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
                checksum: None,
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

    fn body_pieces(&mut self, range: ByteRange) -> Result<Vec<BodyPiece>> {
        let lost = |what: &str| Error::new(ErrorKind::Stale, what.to_owned()).on(&self.id);
        let (no_spool, no_source) = (lost("the spool file is gone"), lost("the source version is gone"));
        let only_in_upload = lost("bytes are only in an upload that was left open");
        let mut pieces = Vec::new();
        for extent in self.extents_to_send(range) {
            let len = extent.range.len();
            pieces.push(match extent.backing {
                Backing::Memory { chunk, offset } => BodyPiece::Memory(self.chunks.piece(chunk, offset, len)),
                Backing::Zero => BodyPiece::Zero(len),
                Backing::Spool { offset } => {
                    let file = self.spool.clone().ok_or_else(|| no_spool.clone())?;
                    BodyPiece::Spool { file, offset, len }
                }
                Backing::Source(at) => {
                    let source = self.source_of(at.source).ok_or_else(|| no_source.clone())?;
                    BodyPiece::Source {
                        reader: source.reader.clone(),
                        offset: at.offset,
                        len,
                    }
                }
                Backing::Part { .. } => return Err(only_in_upload),
            });
        }
        Ok(pieces)
    }
}

impl File {
    /// The bytes of `range` of what is being committed.
    ///
    /// # Errors
    /// `Stale` when the source version is gone; `LocalIo` when the spool cannot be read; `TimedOut` without memory.
    pub(super) async fn body(&self, range: ByteRange) -> Result<Body> {
        let mut claimed: Option<(u64, LoadPermit)> = None;
        let (pieces, permit) = loop {
            let needed: u64 = {
                let extents = self.state().extents_to_send(range);
                let is_loaded =
                    |extent: &&Extent| matches!(extent.backing, Backing::Spool { .. } | Backing::Source(_));
                extents
                    .iter()
                    .filter(is_loaded)
                    .map(|extent| extent.range.len())
                    .sum()
            };
            if needed > claimed.as_ref().map_or(0, |(bytes, _)| *bytes) {
                // Given back before more is claimed: nobody waits while holding.
                drop(claimed.take());
                claimed = Some((needed, self.context.budget.acquire_for_load(needed).await?));
            }
            let pieces = self.state().body_pieces(range)?;
            let loads: u64 = pieces.iter().map(BodyPiece::loaded_bytes).sum();
            if loads <= claimed.as_ref().map_or(0, |(bytes, _)| *bytes) {
                break (pieces, claimed.map(|(_, permit)| permit));
            }
        };
        let mut body = Body::new(permit);
        for piece in pieces {
            match piece {
                BodyPiece::Memory(piece) => body.push(piece),
                BodyPiece::Zero(len) => body.push_zeroes(len),
                BodyPiece::Spool { file, offset, len } => {
                    let mut data = Vec::with_capacity(len as usize);
                    super::read_spool(file, offset, len, &mut data).await?;
                    body.push(Piece {
                        bytes: data.into(),
                        checksum: None,
                    });
                }
                BodyPiece::Source { reader, offset, len } => {
                    let data = load(&reader, offset, len).await?;
                    body.push(Piece {
                        bytes: data.into(),
                        checksum: None,
                    });
                }
            }
        }
        Ok(body)
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
