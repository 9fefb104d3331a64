//! Bytes in several pieces, so that what is in several buffers becomes one request body without a copy.

use bytes::Bytes;

/// A sequence of buffers that is one run of bytes. Cloning copies no data.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    pieces: Vec<Bytes>,
    len_bytes: u64,
}

impl Segments {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len_bytes += piece.len() as u64;
            self.pieces.push(piece);
        }
    }

    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len_bytes == 0
    }

    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    #[must_use]
    pub fn into_pieces(self) -> Vec<Bytes> {
        self.pieces
    }
}

impl From<Bytes> for Segments {
    fn from(bytes: Bytes) -> Self {
        let mut segments = Self::new();
        segments.push(bytes);
        segments
    }
}

impl FromIterator<Bytes> for Segments {
    fn from_iter<I: IntoIterator<Item = Bytes>>(iter: I) -> Self {
        let mut segments = Self::new();
        iter.into_iter().for_each(|piece| segments.push(piece));
        segments
    }
}
