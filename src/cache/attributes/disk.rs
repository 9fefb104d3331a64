//! What is known of objects' attributes, on disk: one file for each directory, which all mounts of a machine share.
//!
//! Difficulties, and what solves each:
//! 1. Mounts share the files without talking to each other, and any of them may be killed: records are appended, each a
//!    line with its checksum, several with one write. What does not fit its checksum is not there; it covers the directory,
//!    too, so that a line which got into another file says nothing there ([`Sum`]).
//! 2. A file grows with every change: whoever loads one that is mostly history writes it anew under another name and renames it.
//!    What another mount appended to the old one meanwhile is asked for again.
//! 3. All of it has a limit: files that nobody loaded or wrote for the longest time go.
//! 4. Equal hashes: a file says whose it is, in its first line. One that says nothing is no file of ours, and goes.

use crate::base::attributes::Attributes;
use crate::base::checksum::Crc32c;
use crate::rt;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What all files together may take on the disk.
const LIMIT_BYTES: u64 = 256 << 20;
/// They are looked through again when so much was written.
const RESCAN_BYTES: u64 = LIMIT_BYTES / 16;
/// A file that is larger is of a directory that is larger than what memory keeps.
const MAX_FILE_BYTES: u64 = 32 << 20;
/// More records than this do not wait for others.
const MAX_WAITING: usize = 4_096;
/// How many records of the past a file may have beside those that count.
const MAX_HISTORY: usize = 64;
/// `st_blocks` counts these (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;
/// The first words of a file; another form gets another number.
const FORM: &str = "pailfs attributes 2";

/// What is known of one object in the version that a listing shows. There are many: names are short on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(rename = "n")]
    pub name: String,
    #[serde(rename = "e")]
    pub etag: String,
    #[serde(rename = "s")]
    pub size_bytes: u64,
    #[serde(rename = "t")]
    pub last_modified_s: u64,
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(rename = "mt", default, skip_serializing_if = "Option::is_none")]
    mtime: Option<Time>,
    #[serde(rename = "ct", default, skip_serializing_if = "Option::is_none")]
    ctime: Option<Time>,
    #[serde(rename = "at", default, skip_serializing_if = "Option::is_none")]
    atime: Option<Time>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    device: Option<u32>,
}

/// Whole seconds since 1970, rounded down, and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Time(i64, u32);

impl Time {
    fn of(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(after.as_secs() as i64, after.subsec_nanos()),
            Err(before) => {
                let before = before.duration();
                let borrow = i64::from(before.subsec_nanos() > 0);
                let nanos = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
                Self(-(before.as_secs() as i64) - borrow, nanos)
            }
        }
    }

    fn time(self) -> Option<SystemTime> {
        let whole = Duration::from_secs(self.0.unsigned_abs());
        let second = if self.0 < 0 {
            UNIX_EPOCH.checked_sub(whole)
        } else {
            UNIX_EPOCH.checked_add(whole)
        };
        second?.checked_add(Duration::from_nanos(u64::from(self.1)))
    }
}

impl Record {
    pub fn new(
        name: &str,
        etag: &str,
        size_bytes: u64,
        last_modified_s: u64,
        attributes: &Attributes,
    ) -> Self {
        Self {
            name: name.to_owned(),
            etag: etag.to_owned(),
            size_bytes,
            last_modified_s,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime.map(Time::of),
            ctime: attributes.ctime.map(Time::of),
            atime: attributes.atime.map(Time::of),
            device: attributes.device,
        }
    }

    pub fn attributes(&self) -> Attributes {
        Attributes {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime.and_then(Time::time),
            ctime: self.ctime.and_then(Time::time),
            atime: self.atime.and_then(Time::time),
            device: self.device,
        }
    }
}

/// What was found out about the objects of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Some were looked at to find out.
    pub sampled: bool,
    /// Other tools' attributes were seen.
    pub foreign_attributes: bool,
    /// Directories have attributes.
    pub markers: bool,
}

/// A directory by its bucket and the keys' common prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub bucket: Arc<str>,
    pub prefix: String,
}

/// The files of one cache directory, for one endpoint.
pub struct DiskAttributes {
    directory: PathBuf,
    endpoint: String,
    waiting: Mutex<Waiting>,
    written_bytes: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    records: HashMap<Place, Vec<Record>>,
    count: usize,
    is_flush_due: bool,
}

impl DiskAttributes {
    /// Blocks.
    ///
    /// # Errors
    /// When the directory cannot be made or looked through.
    pub fn open(directory: &Path, endpoint: &str) -> io::Result<Arc<Self>> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        evict(directory, LIMIT_BYTES)?;
        Ok(Arc::new(Self {
            directory: directory.to_owned(),
            endpoint: endpoint.to_owned(),
            waiting: Mutex::default(),
            written_bytes: AtomicU64::new(0),
        }))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a record that is to be written. True when the caller has to see to it that [`Self::flush`] is called soon.
    pub(super) fn note(&self, place: Place, record: Record) -> bool {
        let mut waiting = self.waiting();
        waiting.records.entry(place).or_default().push(record);
        waiting.count += 1;
        let is_full = waiting.count.is_multiple_of(MAX_WAITING);
        !std::mem::replace(&mut waiting.is_flush_due, true) || is_full
    }

    /// Writes what waits. What cannot be written is lost, which costs a request each. Blocks.
    pub(super) fn flush(&self) {
        let records = {
            let mut waiting = self.waiting();
            waiting.is_flush_due = false;
            waiting.count = 0;
            std::mem::take(&mut waiting.records)
        };
        for (place, records) in records {
            if let Err(error) = self.append(&place, &records) {
                tracing::debug!(%error, "attributes were not remembered on disk");
                return;
            }
        }
        if self.written_bytes.load(Ordering::Relaxed) > RESCAN_BYTES {
            self.written_bytes.store(0, Ordering::Relaxed);
            if let Err(error) = evict(&self.directory, LIMIT_BYTES) {
                tracing::debug!(%error, "remembered attributes could not be looked through");
            }
        }
    }

    fn append(&self, place: &Place, records: &[Record]) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.path(place))?;
        let len_bytes = file.metadata()?.len();
        if len_bytes > MAX_FILE_BYTES {
            return Ok(());
        }
        let header = self.header(place);
        let sum = Sum::below(&header);
        let mut text = if len_bytes == 0 { header } else { String::new() };
        text.extend(records.iter().map(|record| sum.line(record)));
        self.written_bytes.fetch_add(text.len() as u64, Ordering::Relaxed);
        // One write: lines of two mounts do not mix.
        file.write_all(text.as_bytes())
    }

    /// What is known of the objects directly in a directory. Blocks.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub(super) fn read(&self, place: &Place) -> io::Result<Vec<Record>> {
        let path = self.path(place);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() > MAX_FILE_BYTES {
            return fs::remove_file(&path).map(|()| Vec::new());
        }
        // It is in use.
        file.set_modified(rt::wall_clock())?;
        let mut text = String::new();
        if file.read_to_string(&mut text).is_err() {
            // Not a file of ours any more.
            return fs::remove_file(&path).map(|()| Vec::new());
        }
        let header = self.header(place);
        if !text.starts_with(&header) {
            let first = text
                .lines()
                .next()
                .and_then(|line| Sum::NONE.parsed::<[String; 4]>(line));
            return match first {
                Some([form, ..]) if form == FORM => Ok(Vec::new()),
                _ => fs::remove_file(&path).map(|()| Vec::new()),
            };
        }
        let sum = Sum::below(&header);
        let mut latest: HashMap<String, Record> = HashMap::new();
        let mut lines = 0;
        for record in text.lines().filter_map(|line| sum.parsed::<Record>(line)) {
            lines += 1;
            latest.insert(record.name.clone(), record);
        }
        let records: Vec<Record> = latest.into_values().collect();
        if lines > 2 * records.len() + MAX_HISTORY {
            let lines = records.iter().map(|record| sum.line(record));
            self.write_anew(&path, header + &lines.collect::<String>())?;
        }
        Ok(records)
    }

    fn write_anew(&self, path: &Path, text: String) -> io::Result<()> {
        let temporary = self.directory.join(rt::random_id());
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            fs::remove_file(&temporary)?;
        }
        written
    }

    /// What is known of a source; nothing, where that cannot be read. Blocks.
    #[must_use]
    pub fn facts(&self, source: &str) -> Facts {
        let (path, header) = self.facts_place(source);
        let text = fs::read_to_string(path).unwrap_or_default();
        let facts = text.strip_prefix(&header).and_then(|text| text.lines().next());
        facts.and_then(|line| Sum::NONE.parsed(line)).unwrap_or_default()
    }

    /// Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_facts(&self, source: &str, facts: Facts) -> io::Result<()> {
        let (path, header) = self.facts_place(source);
        self.write_anew(&path, header + &Sum::NONE.line(&facts))
    }

    fn facts_place(&self, source: &str) -> (PathBuf, String) {
        let mut hasher = DefaultHasher::new();
        (&self.endpoint, source, "facts").hash(&mut hasher);
        let words = [FORM, &self.endpoint, source];
        let header = Sum::NONE.line(&words);
        (
            self.directory.join(format!("facts-{:016x}", hasher.finish())),
            header,
        )
    }

    fn path(&self, place: &Place) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (&self.endpoint, place).hash(&mut hasher);
        self.directory.join(format!("{:016x}", hasher.finish()))
    }

    fn header(&self, place: &Place) -> String {
        let words = [FORM, &self.endpoint, &place.bucket, &place.prefix];
        Sum::NONE.line(&words)
    }
}

/// What the checksum of a line covers before the line itself.
#[derive(Clone, Copy)]
struct Sum(Option<Crc32c>);

impl Sum {
    const NONE: Self = Self(None);

    fn below(header: &str) -> Self {
        Self(Some(Crc32c::of(header.as_bytes())))
    }

    fn of(self, json: &str) -> u32 {
        let line = Crc32c::of(json.as_bytes());
        self.0.map_or(line, |before| before.then(line)).value()
    }

    fn line(self, what: &impl Serialize) -> String {
        // Strings and numbers are always JSON, which has no line feeds.
        let json = serde_json::to_string(what).unwrap_or_default();
        format!("{:08x} {json}\n", self.of(&json))
    }

    fn parsed<T: for<'a> Deserialize<'a>>(self, line: &str) -> Option<T> {
        let (checksum, json) = line.split_once(' ')?;
        let is_whole = u32::from_str_radix(checksum, 16).ok()? == self.of(json);
        is_whole.then(|| serde_json::from_str(json).ok()).flatten()
    }
}

/// Removes everything. Blocks.
///
/// # Errors
/// When something cannot be removed.
pub fn clear(directory: &Path) -> io::Result<()> {
    if directory.exists() {
        evict(directory, 0)
    } else {
        Ok(())
    }
}

/// Removes what was used longest ago while there is more than `limit_bytes`.
fn evict(directory: &Path, limit_bytes: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // One that is gone is another mount's doing.
        if let Ok(metadata) = entry.metadata() {
            files.push((
                metadata.modified()?,
                metadata.blocks() * STAT_BLOCK_BYTES,
                entry.path(),
            ));
        }
    }
    let mut used_bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    files.sort_unstable();
    for (_, bytes, path) in files {
        if used_bytes <= limit_bytes {
            break;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => used_bytes -= bytes,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(prefix: &str) -> Place {
        Place {
            bucket: "b".into(),
            prefix: prefix.to_owned(),
        }
    }

    fn record(name: &str, uid: u32) -> Record {
        let attributes = Attributes {
            uid: Some(uid),
            ..Attributes::default()
        };
        Record::new(name, "e", 1, 2, &attributes)
    }

    fn names(records: Vec<Record>) -> Vec<(String, Option<u32>)> {
        let mut names: Vec<_> = records
            .into_iter()
            .map(|record| (record.name, record.uid))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn two_mounts_share_what_they_know_and_the_last_word_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = || DiskAttributes::open(directory.path(), "endpoint").expect("opened");
        let (one, two) = (open(), open());
        one.note(place("d/"), record("a", 1));
        two.note(place("d/"), record("b", 2));
        two.note(place("other/"), record("c", 3));
        one.flush();
        two.flush();
        two.note(place("d/"), record("a", 4));
        two.flush();
        let expected = [("a".to_owned(), Some(4)), ("b".to_owned(), Some(2))];
        assert_eq!(names(one.read(&place("d/")).expect("read")), expected);
        let elsewhere = DiskAttributes::open(directory.path(), "another endpoint").expect("opened");
        assert_eq!(elsewhere.read(&place("d/")).expect("read"), []);
    }

    #[test]
    fn damaged_lines_are_not_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = DiskAttributes::open(directory.path(), "endpoint").expect("opened");
        for (name, uid) in [("a", 1), ("b", 2), ("c", 3)] {
            cache.note(place(""), record(name, uid));
        }
        cache.flush();
        let path = cache.path(&place(""));
        let text = fs::read_to_string(&path).expect("read");
        // Cut off in the last line, as by a power failure, and a changed number.
        fs::write(&path, text[..text.len() - 5].replace(r#""u":2"#, r#""u":9"#)).expect("written");
        let known = names(cache.read(&place("")).expect("read"));
        assert_eq!(known, [("a".to_owned(), Some(1))]);
        cache.note(place(""), record("d", 4));
        cache.note(place(""), record("e", 5));
        cache.flush();
        let known = names(cache.read(&place("")).expect("read"));
        assert_eq!(known.last(), Some(&("e".to_owned(), Some(5))));
        fs::write(&path, [0xff; 100]).expect("written");
        assert_eq!(cache.read(&place("")).expect("read"), []);
    }

    #[test]
    fn a_line_of_another_directory_says_nothing_and_a_file_that_says_nothing_is_begun_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = DiskAttributes::open(directory.path(), "endpoint").expect("opened");
        for (prefix, uid) in [("d/", 1), ("e/", 2)] {
            cache.note(place(prefix), record("a", uid));
        }
        cache.flush();
        let (path, other) = (cache.path(&place("d/")), cache.path(&place("e/")));
        let mut text = fs::read_to_string(&path).expect("read");
        let foreign = fs::read_to_string(&other).expect("read");
        text += foreign.lines().last().expect("a line");
        fs::write(&path, &text).expect("written");
        let read = || names(cache.read(&place("d/")).expect("read"));
        assert_eq!(read(), [("a".to_owned(), Some(1))]);
        // Another directory's, as with equal hashes: it stays.
        fs::write(&path, &foreign).expect("written");
        assert_eq!(read(), []);
        assert_eq!(fs::read_to_string(&path).expect("there"), foreign);
        fs::write(&path, &text[1..]).expect("written");
        assert_eq!(read(), []);
        cache.note(place("d/"), record("b", 3));
        cache.flush();
        assert_eq!(read(), [("b".to_owned(), Some(3))]);
    }

    #[test]
    fn history_does_not_pile_up_and_the_least_used_goes() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = DiskAttributes::open(directory.path(), "endpoint").expect("opened");
        for uid in 0..500 {
            cache.note(place("old/"), record("a", uid));
        }
        cache.flush();
        let len_bytes = || fs::metadata(cache.path(&place("old/"))).expect("there").len();
        let before = len_bytes();
        assert_eq!(names(cache.read(&place("old/")).expect("read"))[0].1, Some(499));
        assert!(len_bytes() < before / 100, "{} of {before}", len_bytes());
        cache.note(place("new/"), record("a", 1));
        cache.flush();
        let long_ago = UNIX_EPOCH + Duration::from_secs(1_000);
        let old = File::open(cache.path(&place("old/"))).expect("there");
        old.set_modified(long_ago).expect("set");
        evict(directory.path(), 4_096).expect("looked through");
        assert_eq!(cache.read(&place("old/")).expect("read"), []);
        assert_eq!(cache.read(&place("new/")).expect("read").len(), 1);
    }

    #[test]
    fn facts_are_of_one_source() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = DiskAttributes::open(directory.path(), "endpoint").expect("opened");
        let facts = Facts {
            sampled: true,
            ..Facts::default()
        };
        cache.keep_facts("s3://a", facts).expect("written");
        assert_eq!(cache.facts("s3://a"), facts);
        assert_eq!(cache.facts("s3://b"), Facts::default());
        clear(directory.path()).expect("cleared");
        assert_eq!(cache.facts("s3://a"), Facts::default());
    }

    proptest! {
        #[test]
        fn every_time_comes_back(seconds in -100_000_000_000i64..100_000_000_000, nanos in 0u32..1_000_000_000) {
            let time = Time(seconds, nanos).time().expect("a time");
            prop_assert_eq!(Time::of(time), Time(seconds, nanos));
        }
    }
}
