//! The record log: what the store acknowledged, in order, in one append-only file.
//!
//! 1. A process killed in the middle of a write leaves a torn tail: each record carries its length and CRC32C, and
//!    replay stops at the first that does not hold and truncates the file there. Nothing behind it was acknowledged.
//! 2. The log must not grow for ever: [`Log::compact`] writes the state's shortest history beside it and renames.
//! 3. A write that fails half-way (disk full) must not leave a torn record before later ones: the file is cut back,
//!    and if even that fails the log refuses everything.

use super::state::Record;
use crate::base::error::{Error, ErrorKind, Result};
use crc_fast::{CrcAlgorithm, checksum};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 16] = b"pailfs store 1\r\n";
const HEADER_BYTES: usize = 8;
/// Longer than any record: an object of 10,000 parts takes about 2 MiB.
const MAX_RECORD_BYTES: usize = 64 << 20;
const MIN_GROWTH_BYTES: u64 = 8 << 20;

pub struct Log {
    path: PathBuf,
    file: Arc<File>,
    len_bytes: u64,
    /// Length after the last compaction (or at start).
    base_len_bytes: u64,
    is_broken: bool,
}

impl Log {
    /// Opens or creates the log and hands every whole record to `replay`.
    ///
    /// # Errors
    /// `LocalIo`; `Corrupt` when the file is not a log, or holds a whole record that this version cannot read.
    pub fn open(path: PathBuf, mut replay: impl FnMut(Record)) -> Result<Self> {
        let failed = |error: io::Error| Error::local_io(&error, format_args!("opening {}", path.display()));
        remove_if_there(&temporary(&path)).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let total_bytes = file.metadata().map_err(failed)?.len();
        let good_bytes = read_records(&file, &path, &mut replay)?;
        if good_bytes < total_bytes {
            tracing::warn!(path = %path.display(), bytes = total_bytes - good_bytes, "dropped a torn log tail");
            file.set_len(good_bytes).map_err(failed)?;
        }
        let mut len_bytes = good_bytes;
        if good_bytes == 0 {
            file.seek(SeekFrom::Start(0))
                .and_then(|_| file.write_all(MAGIC))
                .and_then(|()| sync_directory_of(&path))
                .map_err(failed)?;
            len_bytes = MAGIC.len() as u64;
        }
        file.seek(SeekFrom::Start(len_bytes)).map_err(failed)?;
        Ok(Self {
            path,
            file: Arc::new(file),
            len_bytes,
            base_len_bytes: len_bytes,
            is_broken: false,
        })
    }

    /// Writes the records in one go.
    ///
    /// # Errors
    /// When the file system refuses; then nothing was written.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if self.is_broken {
            return Err(io::Error::other("an earlier write to the log failed"));
        }
        let mut buffer = Vec::with_capacity(512 * records.len());
        for record in records {
            encode(record, &mut buffer)?;
        }
        if let Err(error) = (&*self.file).write_all(&buffer) {
            let restored = self
                .file
                .set_len(self.len_bytes)
                .and_then(|()| (&*self.file).seek(SeekFrom::Start(self.len_bytes)));
            self.is_broken = restored.is_err();
            return Err(error);
        }
        self.len_bytes += buffer.len() as u64;
        Ok(())
    }

    pub fn has_grown(&self) -> bool {
        self.len_bytes - self.base_len_bytes > MIN_GROWTH_BYTES.max(self.base_len_bytes)
    }

    /// Replaces the log by `records`, which lead to the same state. The old log stays in place when this fails.
    pub fn compact(&mut self, records: impl Iterator<Item = Record>) -> io::Result<()> {
        // After a failure, not again before the log has grown once more.
        self.base_len_bytes = self.len_bytes;
        self.replace(records)
    }

    fn replace(&mut self, records: impl Iterator<Item = Record>) -> io::Result<()> {
        let temporary = temporary(&self.path);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)?;
        let mut writer = BufWriter::with_capacity(1 << 20, &file);
        writer.write_all(MAGIC)?;
        let mut len_bytes = MAGIC.len() as u64;
        let mut buffer = Vec::new();
        for record in records {
            buffer.clear();
            encode(&record, &mut buffer)?;
            writer.write_all(&buffer)?;
            len_bytes += buffer.len() as u64;
        }
        writer.flush()?;
        drop(writer);
        // Else a power cut could leave the new name on a file whose bytes never reached the disk.
        file.sync_data()?;
        std::fs::rename(&temporary, &self.path)?;
        self.file = Arc::new(file);
        self.len_bytes = len_bytes;
        self.base_len_bytes = len_bytes;
        // Until the directory is on the disk, a power cut brings back the old log, without what comes now.
        self.path
            .parent()
            .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }

    /// The file, for an fsync outside the lock.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
}

fn crc32c(payload: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, payload) as u32
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn encode(record: &Record, buffer: &mut Vec<u8>) -> io::Result<()> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; HEADER_BYTES]);
    serde_json::to_writer(&mut *buffer, record)?;
    let payload = &buffer[start + HEADER_BYTES..];
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|n| (*n as usize) < MAX_RECORD_BYTES);
    let length = length.ok_or_else(|| io::Error::other("record too long"))?;
    let crc = crc32c(payload);
    buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    buffer[start + 4..start + HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// Returns how many bytes from the start are whole.
fn read_records(file: &File, path: &Path, replay: &mut impl FnMut(Record)) -> Result<u64> {
    let failed = |error: io::Error| Error::local_io(&error, format_args!("reading {}", path.display()));
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut magic = Vec::new();
    reader
        .by_ref()
        .take(MAGIC.len() as u64)
        .read_to_end(&mut magic)
        .map_err(failed)?;
    if !MAGIC.starts_with(&magic) {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} is not a log of a store", path.display()),
        ));
    }
    if magic.len() < MAGIC.len() {
        return Ok(0);
    }
    let mut good_bytes = MAGIC.len() as u64;
    let mut payload = Vec::new();
    loop {
        let mut header = [0; HEADER_BYTES];
        if !read_whole(&mut reader, &mut header).map_err(failed)? {
            return Ok(good_bytes);
        }
        // Little endian: the length in the lower half, the checksum in the upper.
        let header = u64::from_le_bytes(header);
        let (length, crc) = (header as u32 as usize, (header >> 32) as u32);
        if length > MAX_RECORD_BYTES {
            return Ok(good_bytes);
        }
        payload.resize(length, 0);
        let is_whole = read_whole(&mut reader, &mut payload).map_err(failed)?;
        if !is_whole || crc32c(&payload) != crc {
            return Ok(good_bytes);
        }
        let record = serde_json::from_slice(&payload).map_err(|error| {
            Error::new(
                ErrorKind::Corrupt,
                format!("{} at byte {good_bytes}: {error}", path.display()),
            )
        })?;
        replay(record);
        good_bytes += (HEADER_BYTES + length) as u64;
    }
}

/// False when the file ends first.
fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(n: usize) -> Record {
        Record::BucketCreated {
            bucket: format!("bucket-{n}"),
            created_s: n as u64,
        }
    }

    fn replayed(path: &Path) -> Vec<Record> {
        let mut records = Vec::new();
        Log::open(path.to_owned(), |record| records.push(record)).unwrap();
        records
    }

    #[test]
    fn what_was_appended_is_replayed_also_after_compaction() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(path.clone(), |_| panic!("a new log has no records")).unwrap();
        log.append(&[record(1), record(2)]).unwrap();
        log.append(&[record(3)]).unwrap();
        assert_eq!(replayed(&path), [record(1), record(2), record(3)]);
        log.compact([record(7)].into_iter()).unwrap();
        log.append(&[record(8)]).unwrap();
        assert_eq!(replayed(&path), [record(7), record(8)]);
    }

    #[test]
    fn a_file_that_is_no_log_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "somebody's diary, not to be truncated").unwrap();
        assert!(Log::open(path.clone(), |_| ()).is_err());
        assert_eq!(
            std::fs::read(&path).unwrap(),
            b"somebody's diary, not to be truncated"
        );
    }

    proptest! {
        /// Cut anywhere, the log gives a prefix of what was appended, and can be appended to again.
        #[test]
        fn a_torn_tail_is_dropped(count in 1usize..6, cut in any::<prop::sample::Index>(), garbage in any::<bool>()) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let mut log = Log::open(path.clone(), |_| ()).unwrap();
            let records: Vec<Record> = (0..count).map(record).collect();
            log.append(&records).unwrap();
            drop(log);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.truncate(cut.index(bytes.len()));
            if garbage && bytes.len() > MAGIC.len() {
                bytes.extend_from_slice(&[7; 100]);
            }
            std::fs::write(&path, bytes).unwrap();
            let found = replayed(&path);
            prop_assert!(records.starts_with(&found));
            let mut log = Log::open(path.clone(), |_| ()).unwrap();
            log.append(&[record(99)]).unwrap();
            let again = replayed(&path);
            prop_assert_eq!(again.len(), found.len() + 1);
            prop_assert_eq!(again.last(), Some(&record(99)));
        }
    }
}
