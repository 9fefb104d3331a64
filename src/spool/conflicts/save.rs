//! Saves the bytes of a conflict as an ordinary file.
//!
//! 1. The destination appears whole or not at all, and nothing that is there is overwritten unasked: written beside it
//!    under another name, then renamed without replacing.
//! 2. Payloads may be sparse and huge: only what is data is read and written.

use super::KeptConflict;
use crate::base::error::{Error, ErrorKind, Result};
use crate::rt;
use crate::spool::local;
use crate::spool::records::ConflictForm;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The whole local version.
    Whole,
    /// The changed ranges alone, each at its offset, holes between them; `description` says in JSON which they are and
    /// what they were changes of.
    Patch { description: PathBuf },
}

/// Writes the bytes of `kept` to `destination`; with `overwrite` in place of what is there.
///
/// # Errors
/// `Exists`: something is there; `Unsupported`: the bytes are not on this machine (the message says where they are and how
/// to get at them); `NotFound`: its file is gone; `LocalIo`.
pub fn save(kept: &KeptConflict, destination: &Path, overwrite: bool) -> Result<Saved> {
    match &kept.conflict.form {
        ConflictForm::OpenUpload { upload_id, parts, .. } => Err(elsewhere(kept, upload_id, parts.len())),
        ConflictForm::Whole { .. } => {
            let from = open_bytes(kept)?;
            write_whole(destination, overwrite, |to| {
                copy_sparse(&from, to, kept.conflict.size_bytes)
            })?;
            Ok(Saved::Whole)
        }
        ConflictForm::Patch { base_etag, runs, .. } => {
            let from = open_bytes(kept)?;
            let description = beside(destination, "", ".json");
            let text = serde_json::json!({
                "bucket": kept.conflict.bucket,
                "key": kept.conflict.key,
                "base_etag": base_etag,
                "theirs_etag": kept.conflict.theirs_etag,
                "size_bytes": kept.conflict.size_bytes,
                "changed_ranges": runs
                    .iter()
                    .map(|(offset, len)| serde_json::json!({ "offset": offset, "len_bytes": len }))
                    .collect::<Vec<_>>(),
            });
            // The description first: the file alone could be taken for the whole version.
            write_whole(&description, overwrite, |mut to| {
                to.write_all(format!("{text:#}\n").as_bytes())
            })?;
            let written = write_whole(destination, overwrite, |to| {
                copy_runs(&from, to, runs, kept.conflict.size_bytes)
            });
            if let Err(error) = written {
                if !overwrite {
                    // Ours: it was not there before. The failure to report is the first.
                    let _ = local::remove_file(&description);
                }
                return Err(error);
            }
            Ok(Saved::Patch { description })
        }
    }
}

fn elsewhere(kept: &KeptConflict, upload_id: &str, parts: usize) -> Error {
    let (bucket, key) = (&kept.conflict.bucket, &kept.conflict.key);
    let quoted_key = key.replace('\'', "'\\''");
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "the bytes of conflict {id} are not on this machine but in the bucket, as {parts} parts of an upload that \
             was left open, and cannot be read before it is completed. Completing it replaces the object that is there \
             now; copy that one first if you want both. To complete it: pailfs conflicts list --json, save the \
             \"multipart_upload\" of {id} as parts.json, then\n  aws s3api complete-multipart-upload --bucket '{bucket}' \
             --key '{quoted_key}' --upload-id '{upload_id}' --multipart-upload file://parts.json\nTo give it up: pailfs \
             conflicts drop {id}",
            id = kept.id
        ),
    )
}

fn open_bytes(kept: &KeptConflict) -> Result<File> {
    let path = kept.bytes.as_deref().unwrap_or(Path::new(""));
    File::open(path).map_err(|error| {
        let failure = local::failed(&error, "cannot open the bytes of the conflict", path);
        if error.kind() == io::ErrorKind::NotFound {
            failure.as_kind(ErrorKind::NotFound)
        } else {
            failure
        }
    })
}

/// The path of `destination` with something before and after its last component.
fn beside(destination: &Path, before: &str, after: &str) -> PathBuf {
    let mut name = OsString::from(before);
    name.push(destination.file_name().unwrap_or_default());
    name.push(after);
    destination.with_file_name(name)
}

fn write_whole(
    destination: &Path,
    overwrite: bool,
    write: impl FnOnce(&File) -> io::Result<()>,
) -> Result<()> {
    if destination.file_name().is_none() || destination.is_dir() {
        let message = format!("{} is a directory: name a file", destination.display());
        return Err(Error::new(ErrorKind::IsDirectory, message));
    }
    // Refused before anything large is copied; decided by the rename below.
    if !overwrite && destination.symlink_metadata().is_ok() {
        return Err(exists(destination));
    }
    let unfinished = beside(destination, ".", &format!(".{:08x}", rt::random_below(1 << 32)));
    let written = File::options()
        .write(true)
        .create_new(true)
        .open(&unfinished)
        .and_then(|file| write(&file).and_then(|()| file.sync_all()))
        .map_err(|error| {
            let context = format!("cannot write {}", destination.display());
            Error::local_io(&error, context)
        })
        .and_then(|()| put_in_place(&unfinished, destination, overwrite));
    if written.is_err() {
        // The failure to report is the first.
        let _ = local::remove_file(&unfinished);
    }
    written
}

fn exists(destination: &Path) -> Error {
    Error::new(
        ErrorKind::Exists,
        format!(
            "{} is there already: choose another name, or --force to overwrite it",
            destination.display()
        ),
    )
}

fn put_in_place(from: &Path, to: &Path, overwrite: bool) -> Result<()> {
    let failed = |error: io::Error| {
        if error.kind() == io::ErrorKind::AlreadyExists && !overwrite {
            return exists(to);
        }
        Error::local_io(&error, format!("cannot write {}", to.display()))
    };
    if !overwrite {
        match rename_without_replacing(from, to) {
            // The file system does not know the flag (renameat2(2)): reserve the name instead, then rename over that.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                File::options()
                    .write(true)
                    .create_new(true)
                    .open(to)
                    .map_err(failed)?;
            }
            other => return other.map_err(failed),
        }
    }
    std::fs::rename(from, to).map_err(failed)
}

fn rename_without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    let from = CString::new(from.as_os_str().as_bytes())?;
    let to = CString::new(to.as_os_str().as_bytes())?;
    // SAFETY: both are NUL-terminated and live through the call.
    let done = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Copies `[0, size_bytes)`, leaving holes holes. `InvalidData` when `from` is shorter.
fn copy_sparse(from: &File, to: &File, size_bytes: u64) -> io::Result<()> {
    if from.metadata()?.len() < size_bytes {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kept file is shorter than its description says",
        ));
    }
    let mut position = 0;
    while let Some((start, end)) = next_data(from, position, size_bytes)? {
        copy_range(from, start, to, start, end - start)?;
        position = end;
    }
    to.set_len(size_bytes)
}

/// Puts runs that are stored one after the other to their offsets.
fn copy_runs(from: &File, to: &File, runs: &[(u64, u64)], size_bytes: u64) -> io::Result<()> {
    let mut position = 0;
    for (offset, len_bytes) in runs {
        copy_range(from, position, to, *offset, *len_bytes)?;
        position += len_bytes;
    }
    to.set_len(size_bytes)
}

fn copy_range(mut from: &File, start: u64, mut to: &File, to_start: u64, len_bytes: u64) -> io::Result<()> {
    from.seek(SeekFrom::Start(start))?;
    to.seek(SeekFrom::Start(to_start))?;
    let copied = io::copy(&mut from.take(len_bytes), &mut to)?;
    if copied == len_bytes {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kept file is shorter than its description says",
        ))
    }
}

/// The next range below `limit` that is no hole, from `position` on (lseek(2), SEEK_DATA and SEEK_HOLE).
fn next_data(file: &File, position: u64, limit: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |from: u64, whence: libc::c_int| {
        let from = libc::off_t::try_from(from).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        // SAFETY: the descriptor is open; no memory is passed.
        let found = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
        u64::try_from(found).map_err(|_| io::Error::last_os_error())
    };
    if position >= limit {
        return Ok(None);
    }
    match seek(position, libc::SEEK_DATA) {
        Ok(start) if start >= limit => Ok(None),
        Ok(start) => Ok(Some((start, seek(start, libc::SEEK_HOLE)?.min(limit)))),
        // Nothing but a hole up to the end.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        // The file system does not know holes: all is data.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Some((position, limit))),
        Err(error) => Err(error),
    }
}
