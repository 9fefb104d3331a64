//! Local files with unsent data, and the durable record of unfinished work.
//!
//! 1. Unfinished work outlives the process, and the next mount of the same source finds it, exactly once:
//!    [`instance`] gives each mount a locked directory and adopts those whose owners are gone.
//! 2. A record is on disk before the work that it is about begins: [`store`], in the encoding of [`records`].
//! 3. A spool file lives for as long as somebody has it open or a record names it, and no longer: [`file`].
//! 4. A version that lost a conflict belongs to the user, not to a mount: [`conflicts`].
//! 5. A list of objects may be longer than memory: [`manifest`].
//! 6. The two ends of a move (records and files between instances, a file into a conflict) cannot change at one instant.
//!    Each is ordered so that whatever is found after a crash says what to do; [`Spool::open`] does it.
//!
//! Everything here blocks, but for [`uploads`]: callers are on a blocking thread (`rt::blocking`).
//!
//! What [`Spool::forget`] puts on disk: forgetting an unsent file or an intent is a durable commit, because repeating
//! finished work could undo what came after it (delete a new object with the bytes of the old one, bring back a removed
//! directory). Forgetting an upload is not, and costs nothing: aborting an upload that is completed or aborted does
//! nothing. Uploads that a conflict has taken over are the exception; their conflict is on disk first and protects them.

pub mod conflicts;
mod file;
mod instance;
mod local;
pub mod manifest;
mod records;
mod store;
#[cfg(test)]
mod tests;
mod uploads;

pub use file::SpoolFile;
pub use records::{
    Conflict, ConflictForm, Intent, Leftovers, OpenUpload, RecordId, RecordedBase, RecordedChanges,
    RecordedHeaders, RecordedPart, UnsentFile,
};

use crate::base::error::{Error, ErrorKind, Result};
use conflicts::Listing;
use file::FileTable;
use instance::{AfterStep, Instance};
use records::Record;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::{Change, Store};

/// The state directory of one mount instance, locked for its life.
pub struct Spool {
    state_dir: PathBuf,
    source: String,
    instance_dir: PathBuf,
    files: FileTable,
    /// What each record is about, as far as forgetting it needs to know.
    live: Mutex<HashMap<RecordId, Subject>>,
    /// Before the lock: whoever gets the lock finds the store closed.
    store: Store,
    /// How much spool files may hold beyond what must be kept, and what they hold now, in bytes.
    limit_bytes: AtomicU64,
    used_bytes: AtomicU64,
    _lock: local::Lock,
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Upload { upload_id: String },
    Unsent { file_name: String },
    Intent { file_name: Option<String> },
}

impl Record {
    fn subject(&self) -> Subject {
        match self {
            Self::Upload(upload) => Subject::Upload {
                upload_id: upload.upload_id.clone(),
            },
            Self::Unsent(unsent) => Subject::Unsent {
                file_name: unsent.file_name.clone(),
            },
            Self::Intent(_) => Subject::Intent {
                file_name: self.file_name().map(str::to_owned),
            },
        }
    }

    /// The spool file without which the record is worth nothing.
    fn file_name(&self) -> Option<&str> {
        match self {
            Self::Unsent(unsent) => Some(&unsent.file_name),
            Self::Intent(Intent::RenameDirectory { list_file, .. }) => Some(list_file),
            Self::Upload(_) | Self::Intent(_) => None,
        }
    }
}

impl Spool {
    /// Takes (or makes) a directory for `source` (`s3://bucket/prefix` with the endpoint) below `state_dir`, locks it,
    /// and adopts what is in directories of the same source whose owners are gone. Directories of live owners are left
    /// alone.
    ///
    /// # Errors
    /// `LocalIo`: the state directory cannot be made, read or written (the message names the path and says what to do);
    /// `Unsupported`: a newer version of this program left something there; `Corrupt`: something there is damaged;
    /// `Busy`: another process is in here and stands still. Nothing is dropped on an error.
    pub fn open(state_dir: &Path, source: &str) -> Result<(Arc<Self>, Leftovers)> {
        Self::open_in_steps(state_dir, source, &mut |_| Ok(()))
    }

    fn open_in_steps(state_dir: &Path, source: &str, after: AfterStep) -> Result<(Arc<Self>, Leftovers)> {
        local::create_private_dirs(state_dir)?;
        let Instance { dir, store, lock } = instance::acquire(state_dir, source, after)?;
        conflicts::recover_all(state_dir)?;
        let kept = conflicts::list(state_dir)?;
        let spool = Self {
            state_dir: state_dir.to_owned(),
            source: source.to_owned(),
            files: FileTable::new(instance::files_dir(&dir)),
            instance_dir: dir,
            live: Mutex::default(),
            store,
            limit_bytes: AtomicU64::new(u64::MAX),
            used_bytes: AtomicU64::new(0),
            _lock: lock,
        };
        let leftovers = spool.take_over(&kept)?;
        Ok((Arc::new(spool), leftovers))
    }

    /// Reads all records, and drops those whose subject has become a conflict.
    fn take_over(&self, kept: &Listing) -> Result<Leftovers> {
        let mut leftovers = Leftovers::default();
        let mut settled = Vec::new();
        for error in &kept.unreadable {
            tracing::warn!(%error, "a conflict cannot be read");
        }
        for (id, record) in self.store.records()? {
            let subject = record.subject();
            match record {
                Record::Upload(upload) => {
                    if kept
                        .conflicts
                        .iter()
                        .any(|kept| kept.open_upload().as_ref() == Some(&upload))
                    {
                        settled.push(id);
                        continue;
                    }
                    // It may belong to a conflict that cannot be read: aborting it would lose that conflict's bytes.
                    if kept.unreadable.is_empty() {
                        leftovers.uploads.push((id, upload));
                    }
                }
                Record::Unsent(unsent) => {
                    if !self.files.path(&unsent.file_name)?.exists() {
                        report_missing(&unsent, kept);
                        settled.push(id);
                        continue;
                    }
                    self.files.recorded(&unsent.file_name);
                    leftovers.unsent.push((id, *unsent));
                }
                Record::Intent(intent) => {
                    if let Subject::Intent {
                        file_name: Some(name),
                        ..
                    } = &subject
                    {
                        self.files.recorded(name);
                    }
                    leftovers.intents.push((id, intent));
                }
            }
            self.live().insert(id, subject);
        }
        if !settled.is_empty() {
            self.store.commit(Change {
                removes: settled,
                ..Change::default()
            })?;
        }
        Ok(leftovers)
    }

    /// This instance's own directory.
    pub fn instance_dir(&self) -> &Path {
        &self.instance_dir
    }

    /// Bytes that may still be written where the spool files are.
    pub fn free_bytes(&self) -> Result<u64> {
        local::free_bytes(self.files.dir())
    }

    /// What [`Spool::check_room`] allows from now on.
    pub fn set_limit_bytes(&self, limit_bytes: u64) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// For whoever can also do without the disk: may `more_bytes` more be written to spool files?
    ///
    /// # Errors
    /// `LocalIo(EDQUOT)`.
    pub fn check_room(&self, more_bytes: u64) -> Result<()> {
        let limit_bytes = self.limit_bytes.load(Ordering::Relaxed);
        let used_bytes = self.used_bytes.load(Ordering::Relaxed);
        if used_bytes.saturating_add(more_bytes) <= limit_bytes {
            return Ok(());
        }
        let message = format!(
            "unsent data on this machine takes {used_bytes} bytes, and --spool-size allows {limit_bytes}: what is written \
             has to be sent first"
        );
        Err(Error::new(ErrorKind::LocalIo(libc::EDQUOT), message))
    }

    /// A new, empty spool file.
    pub fn create_file(self: &Arc<Self>) -> Result<SpoolFile> {
        SpoolFile::create(self)
    }

    /// Opens the file that an `UnsentFile` names. `LocalIo(ENOENT)`: it is not there (any more).
    pub fn open_file(self: &Arc<Self>, file_name: &str) -> Result<SpoolFile> {
        SpoolFile::open(self, file_name)
    }

    /// On disk when this returns, as is what each other `record_*` records.
    pub fn record_upload(&self, upload: &OpenUpload) -> Result<RecordId> {
        self.record(&Record::Upload(upload.clone()))
    }

    /// From then on the spool file that it names survives this process. Its content is put on disk first.
    ///
    /// # Errors
    /// `LocalIo`; `Internal` when the file's length is not `size_bytes`: what a file does not end with must be set by
    /// [`SpoolFile::set_len`], so that nothing missing is taken for zeros.
    pub fn record_unsent(&self, file: &UnsentFile) -> Result<RecordId> {
        let record = Record::Unsent(Box::new(file.clone()));
        self.record_with_file(&record, &file.file_name, Some(file.size_bytes))
    }

    fn record_with_file(&self, record: &Record, name: &str, expected_bytes: Option<u64>) -> Result<RecordId> {
        let path = self.files.path(name)?;
        // Counted first: from here on a handle that is dropped leaves the file alone.
        self.files.recorded(name);
        let recorded = sync_file(&path, expected_bytes)
            .and_then(|()| local::sync_dir(self.files.dir()))
            .and_then(|()| self.record(record));
        if recorded.is_err() {
            self.files.unrecorded(name);
        }
        recorded
    }

    /// The file that the intent names, if it names one, survives this process from then on. Its content is put on disk
    /// first.
    pub fn record_intent(&self, intent: &Intent) -> Result<RecordId> {
        let record = Record::Intent(intent.clone());
        match record.file_name() {
            Some(name) => self.record_with_file(&record, name, None),
            None => self.record(&record),
        }
    }

    /// All of them with one commit; the ids are in the same order.
    pub fn record_intents(&self, intents: &[Intent]) -> Result<Vec<RecordId>> {
        let records: Vec<Record> = intents.iter().cloned().map(Record::Intent).collect();
        self.record_all(&records)
    }

    /// Keeps `conflict`: moves the spool file of a `Whole` or `Patch` form to the conflicts directory, from when on it
    /// cannot be written through handles that are still open. Unsent records of that file and the record of an upload
    /// that is kept open are forgotten with it.
    ///
    /// # Errors
    /// `LocalIo`: the file stays a spool file, and all records stay.
    pub fn record_conflict(&self, conflict: &Conflict) -> Result<RecordId> {
        let name = conflict.form.file_name();
        let path = name.map(|name| self.files.path(name)).transpose()?;
        if let Some(path) = &path {
            sync_file(path, None)?;
        }
        name.inspect(|name| self.files.freeze(name, true));
        let kept = conflicts::keep(&self.state_dir, &self.source, conflict, path.as_deref());
        let kept = kept.inspect_err(|_| {
            name.inspect(|name| self.files.freeze(name, false));
        })?;
        let settled: Vec<RecordId> = self
            .live()
            .iter()
            .filter(|(_, subject)| match (&conflict.form, subject) {
                (ConflictForm::OpenUpload { upload_id: kept, .. }, Subject::Upload { upload_id }) => {
                    kept == upload_id
                }
                (_, Subject::Unsent { file_name }) => Some(file_name.as_str()) == name,
                _ => false,
            })
            .map(|(id, _)| *id)
            .collect();
        if let Err(error) = self.forget_durably(&settled) {
            // The conflict is on disk, and the next mount drops these records because of it.
            tracing::debug!(%error, "records of a conflict stay until the next mount");
        }
        Ok(kept.record_id())
    }

    /// The work is finished (or the upload completed or aborted). Idempotent. On disk when this returns, except for an
    /// upload (see the module's notes). A conflict is dropped, with its bytes.
    pub fn forget(&self, record: RecordId) -> Result<()> {
        self.forget_all(&[record])
    }

    /// Forgets all of them with one commit.
    pub fn forget_all(&self, records: &[RecordId]) -> Result<()> {
        let mut durable = Vec::new();
        for id in records {
            if let Some(conflict) = conflicts::id_of(*id) {
                match conflicts::drop(&self.state_dir, &conflict) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => continue,
                }
            }
            let subject = self.live().get(id).cloned();
            match subject {
                None => {}
                Some(Subject::Upload { .. }) => {
                    self.live().remove(id);
                    self.store.remove_later(*id);
                }
                Some(Subject::Unsent { .. } | Subject::Intent { .. }) => durable.push(*id),
            }
        }
        self.forget_durably(&durable)
    }

    /// The conflicts of this source. Those that cannot be read are left out: [`conflicts::list`] tells of them.
    pub fn conflicts(&self) -> Result<Vec<(RecordId, Conflict)>> {
        let kept = conflicts::list(&self.state_dir)?.conflicts;
        let ours = kept.into_iter().filter(|kept| kept.source == self.source);
        Ok(ours.map(|kept| (kept.record_id(), kept.conflict)).collect())
    }

    fn live(&self) -> MutexGuard<'_, HashMap<RecordId, Subject>> {
        // Entries are put in and taken out whole: a panic elsewhere leaves the map right.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, record: &Record) -> Result<RecordId> {
        let ids = self.record_all(std::slice::from_ref(record))?;
        ids.first()
            .copied()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "a record got no number"))
    }

    fn record_all(&self, records: &[Record]) -> Result<Vec<RecordId>> {
        let mut inserts = Vec::with_capacity(records.len());
        for record in records {
            inserts.push((self.store.next_id(), records::encode(record)?));
        }
        let ids: Vec<RecordId> = inserts.iter().map(|(id, _)| *id).collect();
        self.store.commit(Change {
            inserts,
            ..Change::default()
        })?;
        self.live()
            .extend(ids.iter().copied().zip(records.iter().map(Record::subject)));
        Ok(ids)
    }

    /// Records first, then the files that only they named: a crash in between leaves files without a record, which the
    /// next mount removes.
    fn forget_durably(&self, records: &[RecordId]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.store.commit(Change {
            removes: records.to_vec(),
            ..Change::default()
        })?;
        for id in records {
            // Taken out by whoever comes first, so that a file is given up once for each record.
            let forgotten = self.live().remove(id);
            if let Some(
                Subject::Unsent { file_name }
                | Subject::Intent {
                    file_name: Some(file_name),
                },
            ) = forgotten
            {
                self.files.unrecorded(&file_name);
            }
        }
        Ok(())
    }
}

/// Puts the content of a spool file on disk, after a look at its length.
fn sync_file(path: &Path, expected_bytes: Option<u64>) -> Result<()> {
    let failed = |error: std::io::Error| local::failed(&error, "cannot write to disk the spool file", path);
    let file = File::open(path).map_err(failed)?;
    let found_bytes = file.metadata().map_err(failed)?.len();
    if expected_bytes.is_some_and(|expected| expected != found_bytes) {
        let message = format!(
            "{} has {found_bytes} bytes, not those that are to be recorded",
            path.display()
        );
        return Err(Error::new(ErrorKind::Internal, message));
    }
    file.sync_all().map_err(failed)
}

/// An unsent file whose bytes are not there: they have become a conflict just before a crash, or somebody removed them.
fn report_missing(unsent: &UnsentFile, kept: &Listing) {
    if kept
        .conflicts
        .iter()
        .any(|kept| kept.spool_file.as_deref() == Some(&unsent.file_name))
    {
        return;
    }
    tracing::error!(
        bucket = unsent.bucket,
        key = unsent.key,
        file = unsent.file_name,
        "a file that was not sent to the bucket is missing from the state directory: its bytes are lost"
    );
}
