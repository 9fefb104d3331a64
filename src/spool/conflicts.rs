//! Conflicts: local versions that lost against a newer object, kept until somebody decides about them.
//!
//! ```text
//! STATE/conflicts/lock         held while something below changes
//!     <id>.json                the description: this is what makes it a conflict
//!     <id>.data                its bytes, where they are on this machine
//!     <id>.json.new            being kept: complete once <id>.data is there
//!     <id>.dropped             being dropped
//! ```
//!
//! 1. They belong to no instance directory: neither the end of a mount nor an adoption touches them, and they can be listed,
//!    saved and dropped while a mount is live.
//! 2. A description and its bytes are two files. Keeping and dropping go through the names above, so whoever finds them
//!    half done knows how to finish: [`recover`]. At no point are bytes under a name that says nothing about them.
//! 3. One description that cannot be read (a newer version wrote it) must not hide the others, nor be lost: it is listed as
//!    unreadable, and left alone.

mod save;

pub use save::{Saved, save};

use super::local;
use super::records::{self, Conflict, OpenUpload, RecordId};
use crate::base::error::{Error, ErrorKind, Result};
use crate::rt;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const CONFLICTS: &str = "conflicts";
const LOCK: &str = "lock";
const DESCRIPTION: &str = ".json";
const UNFINISHED: &str = ".json.new";
const BYTES: &str = ".data";
const DROPPED: &str = ".dropped";

/// Sets the numbers of conflicts apart from those of an instance's records.
const CONFLICT_BIT: u64 = 1 << 63;
/// Numbers are random, so that one that was dropped does not come again: 8 hex digits.
const IDS: u64 = 1 << 32;

/// A conflict as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptConflict {
    /// What commands call it: 8 hex digits.
    pub id: String,
    /// The source that was mounted.
    pub source: String,
    pub conflict: Conflict,
    /// The file with its bytes, for the forms that have one.
    pub bytes: Option<PathBuf>,
    /// The spool file that `bytes` was.
    pub(super) spool_file: Option<String>,
}

/// All that is in a conflicts directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// By time of finding.
    pub conflicts: Vec<KeptConflict>,
    /// One error for each description that cannot be read; each names its file.
    pub unreadable: Vec<Error>,
}

/// What is in a description.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    source: String,
    spool_file: Option<String>,
    conflict: Conflict,
}

impl KeptConflict {
    pub fn record_id(&self) -> RecordId {
        // Ids are made by `text_of` and checked by `is_id`.
        RecordId(CONFLICT_BIT | u64::from_str_radix(&self.id, 16).unwrap_or_default())
    }

    /// The upload that was left open, for the form that has its bytes there.
    pub fn open_upload(&self) -> Option<OpenUpload> {
        match &self.conflict.form {
            records::ConflictForm::OpenUpload { upload_id, .. } => Some(OpenUpload {
                bucket: self.conflict.bucket.clone(),
                key: self.conflict.key.clone(),
                upload_id: upload_id.clone(),
            }),
            _ => None,
        }
    }
}

/// What commands call the conflict that `record` names; `None` when it names something else.
pub fn id_of(record: RecordId) -> Option<String> {
    (record.0 & CONFLICT_BIT != 0).then(|| text_of(record.0 & !CONFLICT_BIT))
}

fn text_of(number: u64) -> String {
    format!("{number:08x}")
}

fn is_id(text: &str) -> bool {
    text.len() == 8
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// All conflicts of all sources. Takes nothing from a running mount. A state directory that does not exist has none.
pub fn list(state_dir: &Path) -> Result<Listing> {
    let dir = state_dir.join(CONFLICTS);
    if dir.is_dir() {
        // Finishes what a killed process began. Not possible while another works here, or where this user may only
        // read; then the list is as complete as it can be.
        let finished = local::try_lock(&dir.join(LOCK)).and_then(|lock| match lock {
            Some(_held) => recover(&dir),
            None => Ok(()),
        });
        if let Err(error) = finished {
            tracing::debug!(%error, "unfinished conflicts stay as they are");
        }
    }
    let mut listing = Listing::default();
    for name in local::names_in(&dir)? {
        let Some(id) = name.strip_suffix(DESCRIPTION).filter(|id| is_id(id)) else {
            continue;
        };
        match read(&dir, id) {
            Ok(Some(kept)) => listing.conflicts.push(kept),
            Ok(None) => {} // Dropped meanwhile.
            Err(error) => listing.unreadable.push(error),
        }
    }
    listing
        .conflicts
        .sort_by(|a, b| (a.conflict.found_unix_ms, &a.id).cmp(&(b.conflict.found_unix_ms, &b.id)));
    Ok(listing)
}

/// The conflict with this id, or with an id that begins so if there is exactly one.
///
/// # Errors
/// `NotFound`; `Invalid`: several begin so; `Unsupported`, `Corrupt`: its description cannot be read.
pub fn open(state_dir: &Path, id: &str) -> Result<KeptConflict> {
    let dir = state_dir.join(CONFLICTS);
    let names = local::names_in(&dir)?;
    let matching: Vec<&str> = names
        .iter()
        .filter_map(|name| name.strip_suffix(DESCRIPTION))
        .filter(|full| is_id(full) && !id.is_empty() && full.starts_with(id))
        .collect();
    match matching.as_slice() {
        [full] => read(&dir, full)?.ok_or_else(|| not_found(id, state_dir)),
        [] => Err(not_found(id, state_dir)),
        several => {
            let message = format!("{id} is the beginning of {}: give more of it", several.join(", "));
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}

fn not_found(id: &str, state_dir: &Path) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("no conflict {id:?} is kept in {}", state_dir.display()),
    )
}

/// Removes the conflict and its bytes. An upload that was left open stays: abort it first ([`KeptConflict::open_upload`]).
///
/// # Errors
/// As [`open`]; `LocalIo`.
pub fn drop(state_dir: &Path, id: &str) -> Result<KeptConflict> {
    let dir = state_dir.join(CONFLICTS);
    let _lock = if dir.is_dir() {
        Some(local::lock(&dir.join(LOCK))?)
    } else {
        None
    };
    let kept = open(state_dir, id)?;
    let dropped = dir.join(format!("{}{DROPPED}", kept.id));
    local::rename(&dir.join(format!("{}{DESCRIPTION}", kept.id)), &dropped)?;
    local::sync_dir(&dir)?;
    finish_drop(&dir, &kept.id)?;
    Ok(kept)
}

fn finish_drop(dir: &Path, id: &str) -> Result<()> {
    local::remove_file(&dir.join(format!("{id}{BYTES}")))?;
    local::remove_file(&dir.join(format!("{id}{DROPPED}")))
}

/// Keeps `conflict`; the file `bytes` (which is on disk, content and name) is moved to it for the forms that have one.
/// All is on disk when this returns. After an error the file is where it was, unless the error came so late that the
/// conflict will be found complete.
pub(super) fn keep(
    state_dir: &Path,
    source: &str,
    conflict: &Conflict,
    bytes: Option<&Path>,
) -> Result<KeptConflict> {
    let dir = state_dir.join(CONFLICTS);
    local::create_private_dirs(&dir)?;
    let _lock = local::lock(&dir.join(LOCK))?;
    recover(&dir)?;
    let id = free_id(&dir)?;
    let data = format!("{id}{BYTES}");
    let spool_file = conflict.form.file_name().map(str::to_owned);
    let conflict = Conflict {
        form: conflict.form.clone().in_file(&data),
        ..conflict.clone()
    };
    let description = Description {
        source: source.to_owned(),
        spool_file,
        conflict,
    };
    let unfinished = dir.join(format!("{id}{UNFINISHED}"));
    local::write_private_file(&unfinished, &records::encode(&description)?)?;
    let moved = local::sync_dir(&dir).and_then(|()| match bytes {
        Some(from) => local::rename(from, &dir.join(&data)),
        None => Ok(()),
    });
    if let Err(error) = moved {
        // Nothing was moved: this is no conflict. A failure here leaves that to `recover`.
        let _ = local::remove_file(&unfinished);
        return Err(error);
    }
    local::rename(&unfinished, &dir.join(format!("{id}{DESCRIPTION}")))?;
    local::sync_dir(&dir)?;
    if let Some(from) = bytes.and_then(Path::parent) {
        local::sync_dir(from)?;
    }
    Ok(kept(&dir, &id, description))
}

fn free_id(dir: &Path) -> Result<String> {
    let names = local::names_in(dir)?;
    loop {
        let id = text_of(rt::random_below(IDS));
        if !names.iter().any(|name| name.starts_with(&id)) {
            return Ok(id);
        }
    }
}

fn kept(dir: &Path, id: &str, description: Description) -> KeptConflict {
    let Description {
        source,
        spool_file,
        conflict,
    } = description;
    let bytes = conflict
        .form
        .file_name()
        .map(|_| dir.join(format!("{id}{BYTES}")));
    KeptConflict {
        id: id.to_owned(),
        source,
        conflict,
        bytes,
        spool_file,
    }
}

/// `None` when it is not there.
fn read(dir: &Path, id: &str) -> Result<Option<KeptConflict>> {
    Ok(read_description(&dir.join(format!("{id}{DESCRIPTION}")))?
        .map(|description| kept(dir, id, description)))
}

fn read_description(path: &Path) -> Result<Option<Description>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(local::failed(&error, "cannot read", path)),
        Ok(bytes) => records::decode(&bytes, &path.display().to_string()).map(Some),
    }
}

/// Finishes what was cut off. The caller holds the lock.
pub(super) fn recover(dir: &Path) -> Result<()> {
    for name in local::names_in(dir)? {
        if let Some(id) = name.strip_suffix(DROPPED).filter(|id| is_id(id)) {
            finish_drop(dir, id)?;
        }
        if let Some(id) = name.strip_suffix(UNFINISHED).filter(|id| is_id(id)) {
            finish_keep(dir, id)?;
        }
    }
    Ok(())
}

/// The bytes are moved only after the description is on disk: bytes that are there make it complete, and a description
/// that cannot be read, with no bytes there, was cut off itself.
fn finish_keep(dir: &Path, id: &str) -> Result<()> {
    let unfinished = dir.join(format!("{id}{UNFINISHED}"));
    let bytes_are_here = dir.join(format!("{id}{BYTES}")).exists();
    let complete = match read_description(&unfinished) {
        Ok(Some(description)) => bytes_are_here || description.conflict.form.file_name().is_none(),
        // A newer version's: only that version knows whether it needs bytes.
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(()),
        Ok(None) | Err(_) => bytes_are_here,
    };
    if complete {
        local::rename(&unfinished, &dir.join(format!("{id}{DESCRIPTION}")))?;
        local::sync_dir(dir)
    } else {
        local::remove_file(&unfinished)
    }
}

/// Opens the directory's lock and finishes what was cut off, if there is such a directory. For the start of a mount.
pub(super) fn recover_all(state_dir: &Path) -> Result<()> {
    let dir = state_dir.join(CONFLICTS);
    if !dir.is_dir() {
        return Ok(());
    }
    let _lock = local::lock(&dir.join(LOCK))?;
    recover(&dir)
}
