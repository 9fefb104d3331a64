//! Instance directories: which one a mount gets, and what becomes of those whose owners are gone.
//!
//! ```text
//! STATE/instances/gate                     held by a mount while it looks for its directory
//! STATE/instances/<hash of source>-<n>/    one mount, alive while `lock` is held
//!     lock  source  records.redb  files/
//! STATE/instances/new-…, removed-…         being made, being removed
//! STATE/conflicts/                         of all sources, see `conflicts`
//! ```
//!
//! 1. Alive or dead is decided by an flock, which ends with its process, however it ends. A child that was forked without
//!    exec shares it and keeps it alive: fork before opening the spool, or exec in the child.
//! 2. A directory is never seen half made or half removed: it is filled under another name and renamed, and renamed
//!    before it is emptied. What is left under such a name belongs to nobody, because only the holder of the gate
//!    makes any.
//! 3. Adoption may be cut off anywhere and is done again by the next mount. Whoever holds the gate locks *all* dead
//!    directories of the source, so it always sees both ends of an adoption that was cut off. Files move first and
//!    keep their (random) names; a file is rubbish only if no record in any of these directories names it. Then one
//!    commit brings the records and the mark that they came; a directory whose identity is marked is only removed.

use super::local::{self, Lock};
use super::records;
use super::store::{Change, Store};
use crate::base::error::{Error, ErrorKind, Result};
use crate::rt;
use crc_fast::{CrcAlgorithm, checksum};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

const INSTANCES: &str = "instances";
const GATE: &str = "gate";
const LOCK: &str = "lock";
const SOURCE: &str = "source";
const RECORDS: &str = "records.redb";
const FILES: &str = "files";
const NEW: &str = "new-";
const REMOVED: &str = "removed-";

/// A directory whose lock we hold.
pub(super) struct Instance {
    pub dir: PathBuf,
    /// Dropped before the lock: whoever gets the lock finds the store closed.
    pub store: Store,
    pub lock: Lock,
}

/// What has just been done; tests stop adoption there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    RubbishRemoved,
    DeadLocked,
    AdoptedDropped,
    HomeMade,
    FilesSwept,
    FileMoved,
    FilesMoved,
    RecordsMoved,
    Renamed,
    Removed,
}

/// Called after each step; an error ends the work there.
pub(super) type AfterStep<'a> = &'a mut dyn FnMut(Step) -> Result<()>;

impl Instance {
    fn files_dir(&self) -> PathBuf {
        files_dir(&self.dir)
    }

    fn open(dir: PathBuf, lock: Lock) -> Result<Self> {
        let store = Store::open(&dir.join(RECORDS))?;
        Ok(Self { dir, store, lock })
    }
}

/// Where the spool files of an instance directory are.
pub(super) fn files_dir(instance_dir: &Path) -> PathBuf {
    instance_dir.join(FILES)
}

/// The directory that a mount of `source` is to use, with all that dead mounts of it have left behind moved into it.
/// Waits while another mount does the same.
pub(super) fn acquire(state_dir: &Path, source: &str, after: AfterStep) -> Result<Instance> {
    let instances = state_dir.join(INSTANCES);
    local::create_private_dirs(&instances)?;
    let _gate = local::lock(&instances.join(GATE))?;
    remove_rubbish(&instances)?;
    after(Step::RubbishRemoved)?;
    let mut dead = lock_dead(&instances, source)?;
    after(Step::DeadLocked)?;
    drop_adopted(&instances, &mut dead)?;
    after(Step::AdoptedDropped)?;
    if dead.is_empty() {
        dead.push(create(&instances, source)?);
    }
    after(Step::HomeMade)?;
    sweep_files(&dead)?;
    after(Step::FilesSwept)?;
    let home = dead.swap_remove(0);
    for other in dead {
        adopt(&instances, &home, other, after)?;
    }
    Ok(home)
}

/// The beginning of the names of this source's directories. Others may share it: [`SOURCE`] decides.
fn name_prefix(source: &str) -> String {
    format!("{:016x}-", checksum(CrcAlgorithm::Crc64Nvme, source.as_bytes()))
}

fn remove_rubbish(instances: &Path) -> Result<()> {
    for name in local::names_in(instances)? {
        if name.starts_with(NEW) || name.starts_with(REMOVED) {
            remove_dir(&instances.join(name));
        }
    }
    Ok(())
}

/// A failure only leaves rubbish, which the next mount removes.
fn remove_dir(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), %error, "a directory that is not needed any more cannot be removed");
    }
}

/// All directories of `source` that nobody alive holds, locked and opened.
fn lock_dead(instances: &Path, source: &str) -> Result<Vec<Instance>> {
    let prefix = name_prefix(source);
    let mut dead = Vec::new();
    for name in local::names_in(instances)? {
        let dir = instances.join(&name);
        if !name.starts_with(&prefix) || read_source(&dir)? != source {
            continue;
        }
        if let Some(lock) = local::try_lock(&dir.join(LOCK))? {
            dead.push(Instance::open(dir, lock)?);
        }
    }
    Ok(dead)
}

fn read_source(dir: &Path) -> Result<String> {
    let path = dir.join(SOURCE);
    std::fs::read_to_string(&path).map_err(|error| local::failed(&error, "cannot read", &path))
}

/// Removes those whose records and files are already in another: an adoption was cut off just before that.
fn drop_adopted(instances: &Path, dead: &mut Vec<Instance>) -> Result<()> {
    let marked: HashSet<String> = dead
        .iter()
        .flat_map(|instance| instance.store.adopted().iter().cloned())
        .collect();
    if marked.is_empty() {
        return Ok(());
    }
    let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(dead)
        .into_iter()
        .partition(|instance| marked.contains(instance.store.identity()));
    for instance in done {
        remove_instance(instances, instance, &mut |_| Ok(()))?;
    }
    for instance in &rest {
        if !instance.store.adopted().is_empty() {
            instance.store.commit(Change {
                forget_adopted: true,
                ..Change::default()
            })?;
        }
    }
    *dead = rest;
    Ok(())
}

fn create(instances: &Path, source: &str) -> Result<Instance> {
    let unfinished = instances.join(format!("{NEW}{}", rt::random_id()));
    local::create_private_dir(&unfinished)?;
    local::create_private_dir(&unfinished.join(FILES))?;
    local::write_private_file(&unfinished.join(SOURCE), source.as_bytes())?;
    Store::create(&unfinished.join(RECORDS))?;
    let lock_path = unfinished.join(LOCK);
    let lock = local::try_lock(&lock_path)?.ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            format!("somebody locked {}", lock_path.display()),
        )
    })?;
    local::sync_dir(&unfinished)?;
    let taken: HashSet<String> = local::names_in(instances)?.into_iter().collect();
    let prefix = name_prefix(source);
    let mut number = 1u64;
    while taken.contains(&format!("{prefix}{number}")) {
        number += 1;
    }
    let dir = instances.join(format!("{prefix}{number}"));
    local::rename(&unfinished, &dir)?;
    local::sync_dir(instances)?;
    Instance::open(dir, lock)
}

/// Removes files that no record names: their writers were never told that they are safe.
fn sweep_files(dead: &[Instance]) -> Result<()> {
    let mut named = HashSet::new();
    for instance in dead {
        for (_, record) in instance.store.records()? {
            if let Some(name) = record.file_name() {
                named.insert(name.to_owned());
            }
        }
    }
    for instance in dead {
        let files = instance.files_dir();
        for name in local::names_in(&files)? {
            if !named.contains(&name) {
                local::remove_file(&files.join(name))?;
            }
        }
    }
    Ok(())
}

/// Moves all that `other` has into `home`.
fn adopt(instances: &Path, home: &Instance, other: Instance, after: AfterStep) -> Result<()> {
    let (from, to) = (other.files_dir(), home.files_dir());
    for name in local::names_in(&from)? {
        let target = to.join(&name);
        if target.exists() {
            // Names have 128 random bits: somebody has copied files about. Overwriting could lose one.
            return Err(Error::new(
                ErrorKind::LocalIo(libc::EEXIST),
                format!(
                    "{} and {} are both there; move one away",
                    from.join(&name).display(),
                    target.display()
                ),
            ));
        }
        local::rename(&from.join(&name), &target)?;
        after(Step::FileMoved)?;
    }
    local::sync_dir(&to)?;
    local::sync_dir(&from)?;
    after(Step::FilesMoved)?;
    let mut change = Change {
        adopted: Some(other.store.identity().to_owned()),
        ..Change::default()
    };
    for (_, record) in other.store.records()? {
        change
            .inserts
            .push((home.store.next_id(), records::encode(&record)?));
    }
    home.store.commit(change)?;
    after(Step::RecordsMoved)?;
    remove_instance(instances, other, after)
}

fn remove_instance(instances: &Path, instance: Instance, after: AfterStep) -> Result<()> {
    let removed = instances.join(format!("{REMOVED}{}", instance.store.identity()));
    local::rename(&instance.dir, &removed)?;
    local::sync_dir(instances)?;
    after(Step::Renamed)?;
    drop(instance.store);
    remove_dir(&removed);
    after(Step::Removed)
}
