//! A list of objects on disk, longer than memory may be: what a directory rename is about.
//!
//! 1. It is written from the beginning to the end by one writer, and read in pieces as often as needed: nothing but one
//!    piece is ever in memory ([`Manifest::read`]).
//! 2. Keys may have any character in them: each line is one JSON array.
//! 3. It outlives the process only when a record names its file ([`super::Spool::record_intent`]).

use super::{Spool, SpoolFile};
use crate::base::error::{Error, ErrorKind, Result};
use crate::base::object::ETag;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// So many entries are read at once at most: what S3 takes in one request.
pub const PIECE_ENTRIES: usize = 1_000;
/// A piece is read with this buffer. A line is shorter: a key has at most 1,024 bytes, each at most 6 in JSON.
const PIECE_BYTES: u64 = 256 * 1024;

/// One version of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestEntry {
    pub key: String,
    pub etag: ETag,
    pub size_bytes: u64,
    /// Listings and HEADs agree on whole seconds only.
    pub modified_unix_s: u64,
}

impl ManifestEntry {
    #[must_use]
    pub fn last_modified(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.modified_unix_s)
    }
}

/// See the module's notes. Everything blocks.
pub struct Manifest {
    file: SpoolFile,
    len_bytes: AtomicU64,
}

impl Manifest {
    /// # Errors
    /// `LocalIo`.
    pub fn create(spool: &Arc<Spool>) -> Result<Self> {
        Ok(Self {
            file: spool.create_file()?,
            len_bytes: AtomicU64::new(0),
        })
    }

    /// The one that a record names.
    ///
    /// # Errors
    /// `LocalIo`.
    pub fn open(spool: &Arc<Spool>, file_name: &str) -> Result<Self> {
        let file = spool.open_file(file_name)?;
        let len_bytes = AtomicU64::new(file.len_bytes()?);
        Ok(Self { file, len_bytes })
    }

    #[must_use]
    pub fn file_name(&self) -> &str {
        self.file.file_name()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len_bytes.load(Ordering::Acquire) == 0
    }

    /// Adds entries at the end. For one writer.
    ///
    /// # Errors
    /// `LocalIo`: what was added before is still there, and nothing of these.
    pub fn append(&self, entries: &[ManifestEntry]) -> Result<()> {
        let mut lines = Vec::with_capacity(entries.len() * 128);
        for entry in entries {
            let line = (
                &entry.key,
                entry.etag.as_str(),
                entry.size_bytes,
                entry.modified_unix_s,
            );
            serde_json::to_writer(&mut lines, &line).map_err(|error| {
                let text = format!("an object cannot be written down: {error}");
                Error::new(ErrorKind::Internal, text)
            })?;
            lines.push(b'\n');
        }
        let end = self.len_bytes.load(Ordering::Acquire);
        self.file.write_at(end, &lines)?;
        self.len_bytes.store(end + lines.len() as u64, Ordering::Release);
        Ok(())
    }

    /// The entries at `position` (0 at first), and the position after them; no entries at the end.
    ///
    /// # Errors
    /// `LocalIo`; `Corrupt` when the file is not what was written.
    pub fn read(&self, position: u64) -> Result<(Vec<ManifestEntry>, u64)> {
        let left = self.len_bytes.load(Ordering::Acquire).saturating_sub(position);
        let mut buffer = vec![0; left.min(PIECE_BYTES) as usize];
        self.file.read_at(position, &mut buffer)?;
        let mut entries = Vec::new();
        let mut end = position;
        // What is behind the last line end is the beginning of the next piece.
        let whole = buffer
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        for line in buffer[..whole]
            .split_inclusive(|byte| *byte == b'\n')
            .take(PIECE_ENTRIES)
        {
            let (key, etag, size_bytes, modified_unix_s): (String, String, u64, u64) =
                serde_json::from_slice(line).map_err(|error| self.corrupt(&error.to_string()))?;
            entries.push(ManifestEntry {
                key,
                etag: ETag::new(&etag),
                size_bytes,
                modified_unix_s,
            });
            end += line.len() as u64;
        }
        if entries.is_empty() && left > 0 {
            return Err(self.corrupt("it ends in the middle of a line"));
        }
        Ok((entries, end))
    }

    fn corrupt(&self, why: &str) -> Error {
        let path = self.file.path();
        Error::new(
            ErrorKind::Corrupt,
            format!(
                "the list of objects {} cannot be understood: {why}",
                path.display()
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_read_in_pieces_that_are_small() {
        let state = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(state.path(), "s3://b").unwrap();
        let manifest = Manifest::create(&spool).unwrap();
        let entry = |n: u64| ManifestEntry {
            key: format!("d/{n}\n\"\u{1}{}", "k".repeat(n as usize % 1_000)),
            etag: ETag::new("e"),
            size_bytes: n,
            modified_unix_s: n,
        };
        let all: Vec<ManifestEntry> = (0..5_000).map(entry).collect();
        for page in all.chunks(1_000) {
            manifest.append(page).unwrap();
        }
        let (mut found, mut position) = (Vec::new(), 0);
        loop {
            let (piece, next) = manifest.read(position).unwrap();
            if piece.is_empty() {
                break;
            }
            assert!(piece.len() <= PIECE_ENTRIES && next - position <= PIECE_BYTES);
            found.extend(piece);
            position = next;
        }
        assert_eq!(found, all);
        let short: Vec<ManifestEntry> = (0..5_000).map(|n| entry(n * 1_000)).collect();
        manifest.append(&short).unwrap();
        assert_eq!(manifest.read(position).unwrap().0.len(), PIECE_ENTRIES);
    }
}
