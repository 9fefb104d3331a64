//! The records of one instance directory, in one embedded crash-safe store (redb).
//!
//! 1. A commit costs an fsync. Changes that come while one runs are put on disk together by the next one, so many files
//!    finished at once cost few: [`Store::commit`]. What need not be on disk at once rides along with the next commit
//!    and costs nothing: [`Store::remove_later`].
//! 2. A failed write (a full disk) makes redb refuse everything until it is opened anew: [`Store::write`] does that at
//!    the next change, so a disk that has space again works again without a remount.
//! 3. The file may be of a newer program: its format has a number of its own, beside the version in each record.

use super::records::{self, Record, RecordId};
use crate::base::error::{Error, ErrorKind, Result};
use crate::rt;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Record number to encoded record.
const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");
/// The store's own facts, by the names below.
const FACTS: TableDefinition<&str, &str> = TableDefinition::new("facts");
/// Identities of stores whose records are all in this one (their directories may still be there).
const ADOPTED: TableDefinition<&str, ()> = TableDefinition::new("adopted");

const FORMAT: &str = "format";
const IDENTITY: &str = "identity";
const NEXT_ID: &str = "next_id";
/// The layout of the tables.
const FORMAT_NUMBER: u64 = 1;

/// The records are few and small; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 1 << 20;
/// More removals than this do not wait for a commit of somebody else.
const MAX_WAITING_REMOVALS: usize = 256;

/// What one commit does, all or nothing.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub inserts: Vec<(RecordId, Vec<u8>)>,
    pub removes: Vec<RecordId>,
    /// The records of the store with this identity are among `inserts`.
    pub adopted: Option<String>,
    /// What was adopted is gone for good: its identities need not be known any more.
    pub forget_adopted: bool,
}

pub(super) struct Store {
    path: PathBuf,
    identity: String,
    adopted: Vec<String>,
    next_id: AtomicU64,
    queue: Mutex<Queue>,
    /// `None` after a failure, until it is opened again. Whoever holds this lock commits for all in the queue.
    database: Mutex<Option<Database>>,
}

#[derive(Default)]
struct Queue {
    changes: Vec<(Change, Arc<Outcome>)>,
    removals: Vec<RecordId>,
}

/// Set by whoever committed the change.
type Outcome = Mutex<Option<Result<()>>>;

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No invariant spans a panic here: the queue is only pushed to and taken, the database is transactional.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: redb::Error, what: &str, path: &Path) -> Error {
    match error {
        redb::Error::Io(error) => super::local::failed(&error, what, path),
        redb::Error::UpgradeRequired(found) => Error::new(
            ErrorKind::Unsupported,
            format!(
                "{} was written by another version of pailfs (file format {found}): use that version, or another \
                 directory with --state-dir; nothing was changed",
                path.display()
            ),
        ),
        redb::Error::Corrupted(reason) => Error::new(
            ErrorKind::Corrupt,
            format!(
                "{what} {}: it is damaged ({reason}); move its directory away to mount without the unfinished work that \
                 is recorded in it",
                path.display()
            ),
        ),
        error => Error::new(
            ErrorKind::LocalIo(libc::EIO),
            format!("{what} {}: {error}", path.display()),
        ),
    }
}

impl Store {
    /// Makes the store in a file that does not exist.
    pub(super) fn create(path: &Path) -> Result<()> {
        let cannot = |error: redb::Error| failed(error, "cannot create the record", path);
        let file = super::local::create_private_file(path)
            .map_err(|error| super::local::failed(&error, "cannot create the record", path))?;
        let backend = redb::backends::FileBackend::new(file).map_err(|error| cannot(error.into()))?;
        let database = redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(|error| cannot(error.into()))?;
        let fill = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            {
                let mut facts = transaction.open_table(FACTS)?;
                facts.insert(FORMAT, FORMAT_NUMBER.to_string().as_str())?;
                facts.insert(IDENTITY, rt::random_id().as_str())?;
                // 0 is no record's number.
                facts.insert(NEXT_ID, "1")?;
                transaction.open_table(RECORDS)?;
                transaction.open_table(ADOPTED)?;
            }
            transaction.commit()?;
            Ok(())
        };
        fill().map_err(cannot)
    }

    /// Opens the store in `path`. The caller holds the lock of its directory.
    ///
    /// # Errors
    /// `Unsupported`: a newer format; `Corrupt`: damaged; `LocalIo`: not there, or not readable.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let cannot = |error: redb::Error| failed(error, "cannot open the record", path);
        let database = open_database(path).map_err(cannot)?;
        let read = || -> Result<(Vec<Option<String>>, Vec<String>), redb::Error> {
            let transaction = database.begin_read()?;
            let facts = transaction.open_table(FACTS)?;
            let mut values = Vec::new();
            for name in [FORMAT, IDENTITY, NEXT_ID] {
                values.push(facts.get(name)?.map(|value| value.value().to_owned()));
            }
            // A newer format may have no such table, which is not to hide that it is newer.
            let adopted = match transaction.open_table(ADOPTED) {
                Ok(table) => table
                    .iter()?
                    .map(|entry| Ok(entry?.0.value().to_owned()))
                    .collect::<Result<_, redb::Error>>()?,
                Err(_) => Vec::new(),
            };
            Ok((values, adopted))
        };
        let (values, adopted) = read().map_err(cannot)?;
        let [format, identity, next_id] = values.as_slice() else {
            return Err(damaged(path));
        };
        let number = |value: &Option<String>| value.as_ref().and_then(|text| text.parse::<u64>().ok());
        let format = number(format).ok_or_else(|| damaged(path))?;
        if format > FORMAT_NUMBER {
            return Err(records::newer(&path.display().to_string(), format, FORMAT_NUMBER));
        }
        let identity = identity.clone().ok_or_else(|| damaged(path))?;
        let next_id = number(next_id).ok_or_else(|| damaged(path))?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            adopted,
            next_id: AtomicU64::new(next_id),
            queue: Mutex::default(),
            database: Mutex::new(Some(database)),
        })
    }

    /// Distinguishes this store from every other, also from one that is later made under the same path.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// Whose records were put into this store before it was opened.
    pub(super) fn adopted(&self) -> &[String] {
        &self.adopted
    }

    /// A number that no record of this store had.
    pub(super) fn next_id(&self) -> RecordId {
        RecordId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// All records, in the order of their numbers.
    ///
    /// # Errors
    /// `Unsupported`: one is of a newer version; `Corrupt`: one cannot be understood. Nothing is skipped.
    pub(super) fn records(&self) -> Result<Vec<(RecordId, Record)>> {
        let encoded = self
            .read_all()
            .map_err(|error| failed(error, "cannot read the record", &self.path))?;
        let place = self.path.display().to_string();
        encoded
            .into_iter()
            .map(|(id, bytes)| Ok((id, records::decode(&bytes, &place)?)))
            .collect()
    }

    fn read_all(&self) -> Result<Vec<(RecordId, Vec<u8>)>, redb::Error> {
        let mut guard = hold(&self.database);
        let database = self.reopened(&mut guard)?;
        let table = database.begin_read()?.open_table(RECORDS)?;
        let mut all = Vec::new();
        for entry in table.iter()? {
            let (id, bytes) = entry?;
            all.push((RecordId(id.value()), bytes.value().to_vec()));
        }
        Ok(all)
    }

    /// Does `change`, on disk when this returns. Changes of several threads share commits.
    /// After an error nothing of it was done, as far as can be known.
    pub(super) fn commit(&self, change: Change) -> Result<()> {
        let outcome = Arc::new(Outcome::default());
        hold(&self.queue).changes.push((change, outcome.clone()));
        let mut database = hold(&self.database);
        if let Some(done) = hold(&outcome).take() {
            return done;
        }
        self.commit_queue(&mut database);
        // Absent only when the thread that took it from the queue panicked in between.
        hold(&outcome)
            .take()
            .unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "a record was not written")))
    }

    /// Removes a record with one of the next commits, or when the store is closed. A crash before that leaves the record.
    pub(super) fn remove_later(&self, id: RecordId) {
        let waiting = {
            let mut queue = hold(&self.queue);
            queue.removals.push(id);
            queue.removals.len()
        };
        if waiting % MAX_WAITING_REMOVALS == 0 {
            self.commit_queue(&mut hold(&self.database));
        }
    }

    /// Commits all that waits and tells those who wait.
    fn commit_queue(&self, database: &mut Option<Database>) {
        let Queue { changes, removals } = std::mem::take(&mut *hold(&self.queue));
        if changes.is_empty() && removals.is_empty() {
            return;
        }
        let result = self.write(database, &changes, &removals);
        if let Err(error) = &result {
            // Left for the next commit: a removal that can wait is not worth a failure.
            tracing::debug!(%error, "records could not be written");
            hold(&self.queue).removals.extend(removals);
        }
        for (_, outcome) in changes {
            *hold(&outcome) = Some(result.clone());
        }
    }

    fn write(
        &self,
        database: &mut Option<Database>,
        changes: &[(Change, Arc<Outcome>)],
        removals: &[RecordId],
    ) -> Result<()> {
        let mut attempt = || -> Result<(), redb::Error> {
            let transaction = self.reopened(database)?.begin_write()?;
            {
                let mut records = transaction.open_table(RECORDS)?;
                let mut adopted = transaction.open_table(ADOPTED)?;
                let mut facts = transaction.open_table(FACTS)?;
                for (change, _) in changes {
                    for (id, bytes) in &change.inserts {
                        records.insert(id.0, bytes.as_slice())?;
                    }
                    for id in &change.removes {
                        records.remove(id.0)?;
                    }
                    if change.forget_adopted {
                        adopted.retain(|_, ()| false)?;
                    }
                    if let Some(identity) = &change.adopted {
                        adopted.insert(identity.as_str(), ())?;
                    }
                }
                for id in removals {
                    records.remove(id.0)?;
                }
                // Read after the numbers above were given out, so it is higher than each of them.
                let next_id = self.next_id.load(Ordering::Relaxed).to_string();
                facts.insert(NEXT_ID, next_id.as_str())?;
            }
            transaction.commit()?;
            Ok(())
        };
        attempt().map_err(|error| {
            *database = None;
            failed(error, "cannot write to the record", &self.path)
        })
    }

    fn reopened<'a>(&self, database: &'a mut Option<Database>) -> Result<&'a Database, redb::Error> {
        match database {
            Some(open) => Ok(open),
            closed => Ok(closed.insert(open_database(&self.path)?)),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.commit_queue(&mut hold(&self.database));
    }
}

fn open_database(path: &Path) -> Result<Database, redb::Error> {
    Ok(redb::Builder::new().set_cache_size(CACHE_BYTES).open(path)?)
}

fn damaged(path: &Path) -> Error {
    failed(
        redb::Error::Corrupted("a fact is missing".to_owned()),
        "cannot open the record",
        path,
    )
}
